/* Documents of storages in the shared memory: a name and a value, addressed by a path into it, in a name
 * space of their own. Every process reads them where they lie; the master alone writes.
 *
 * A storage has a number that is never used again, and is open while there is a mark for it: who has its
 * number may ask at any time whether it still is. The paths are core/data/path's steps, the first of which is
 * the document's name; values may bear times of expiry inside, on the store's clock (core/data/document). */
#ifndef CM_DATA_DOCUMENTS_H
#define CM_DATA_DOCUMENTS_H

#include "data/store.h"

/* A key is the storage's number and the name. */
enum { CM_DOCUMENT_NAME_MAX_BYTES = CM_KEY_MAX_BYTES - (int)sizeof(uint32_t) };

struct cm_document_change;

struct cm_documents {
    struct cm_store store; /* of the documents' name space */
    /* The master's: a document is going to be changed so, but for the version. 0, or a code with which it is
     * not changed. It may turn out that it cannot be; a fresh one is said to be gone then. */
    int (*before_change)(void *data, uint32_t storage, const struct cm_document_change *change);
    void *data;
    struct cm_buf key;
    struct cm_buf old;  /* the master's: a document as it was */
    struct cm_buf next; /* and as it is to be */
};

/* `make_room` and its data as in struct cm_store: the master's. */
void cm_documents_init(struct cm_documents *documents, struct cm_participant *participant,
                       int (*make_room)(void *data, uint64_t bytes, uint64_t freed_bytes), void *data);
void cm_documents_deinit(struct cm_documents *documents);

/* Gives back what large documents have taken of the caller's own memory; views into it are over. */
void cm_documents_rest(struct cm_documents *documents);

/* --- reading: anybody's. Nothing here waits, but as core/data/store says --- */

/* Whether the storage is open. `closed` is the caller's memory of how many had been closed when it was last
 * seen open, 0 at first: as long as that has not changed, this is one load. */
bool cm_documents_is_open(struct cm_documents *documents, uint32_t storage, uint64_t *closed);

/* Gives what is under the path, a view into the buffer, with what has expired in it still marked; and the
 * version of the whole document, 0 where there is none. Either may be NULL. Of a document above 4 KiB only
 * that is copied; what comes before it is passed over, and the strings in that are not touched. 0,
 * CM_E_NOTFOUND, CM_E_NOMEMORY where the buffer cannot grow. */
int cm_documents_get(struct cm_documents *documents, uint32_t storage, struct cm_bytes path,
                     struct cm_buf *buf, struct cm_bytes *value, uint64_t *version);

/* Documents of a storage, as cm_store_keys lists keys. */
int cm_documents_walk(struct cm_documents *documents, uint32_t storage, uint64_t *cursor, unsigned steps,
                      cm_store_key_fn visit, void *data);

/* --- writing: the master's --- */

/* What a change has made of a document. */
struct cm_document_change {
    struct cm_bytes name; /* a view into what was given */
    uint64_t number;      /* its own in the storage */
    uint64_t version;
    bool fresh; /* it was not there before */
    bool gone;  /* it is not there any more */
};

/* Puts a value under the path, and gives the time at which it is over (of the store's clock; 0: never; keep:
 * as what is there). A new document gets the number. `version` NULL: whatever is there; else what the
 * document's version must be, 0: absent. 0; CM_E_CONFLICT; CM_E_TOOLARGE where the document would be larger
 * than `max_bytes` or too deep; CM_E_NOMEMORY; CM_E_BADVALUE for a path or value that is none. The old
 * document is kept then. */
struct cm_document_put {
    struct cm_bytes path;
    struct cm_bytes value;
    uint64_t expires_ms;
    bool keep_expiry;
    const uint64_t *version;
    uint64_t number;
    size_t max_bytes;
};
int cm_documents_set(struct cm_documents *documents, uint32_t storage, const struct cm_document_put *put,
                     struct cm_document_change *change);

/* Removes what is under the path; `version` as above. 0, also where there is nothing, with version 0 in the
 * change then; else as above. */
int cm_documents_delete(struct cm_documents *documents, uint32_t storage, struct cm_bytes path,
                        const uint64_t *version, struct cm_document_change *change);

/* Removes what has expired from the document of that name; as above. */
int cm_documents_purge(struct cm_documents *documents, uint32_t storage, struct cm_bytes name,
                       struct cm_document_change *change);
/* Whether there is such a thing in it. */
bool cm_documents_is_due(struct cm_documents *documents, uint32_t storage, struct cm_bytes name);

/* The whole document of that name and number, to be kept elsewhere (a view, until the next call), and back.
 * The times in it are of the store's clock; `replaced` is the number of one that was there under that name,
 * or 0. 0; CM_E_NOTFOUND; CM_E_BADVALUE where the body is none; CM_E_NOMEMORY. */
int cm_documents_take(struct cm_documents *documents, uint32_t storage, struct cm_bytes name, uint64_t number,
                      struct cm_bytes *body);
int cm_documents_put(struct cm_documents *documents, uint32_t storage, struct cm_bytes name, uint64_t number,
                     struct cm_bytes body, uint64_t *replaced);

/* Marks the storage as open. 0 or CM_E_NOMEMORY. */
int cm_documents_begin(struct cm_documents *documents, uint32_t storage);
/* From now on it is not. */
void cm_documents_end(struct cm_documents *documents, uint32_t storage);
/* Removes its documents, in slices as cm_store_clear. */
int cm_documents_clear(struct cm_documents *documents, uint32_t storage, uint64_t *cursor, unsigned steps);

/* Of a key that the sweep has met: the storage's number, and the name. */
uint32_t cm_documents_storage_of(struct cm_bytes key, struct cm_bytes *name);

#endif
