/* The key-value store: bytes in, bytes out, a version for each change, and the time as an argument. This is
 * the narrow interface through which the master's handlers act for a process.
 *
 * The store belongs to the master's thread. Its memory is bounded by the limit it is made with: what would go
 * beyond fails with CM_E_NOMEMORY and changes nothing. Versions come from one counter, so a key's versions
 * grow for ever, across removal and re-creation. An expired entry is absent for every function, at once; the
 * sweep gives its memory back. What would store under a key of no or too many bytes fails with
 * CM_E_BADVALUE; such a key is absent. */
#ifndef CM_DATA_STORE_H
#define CM_DATA_STORE_H

#include <stdbool.h>

#include "base/buf.h"
#include "data/number.h"
#include "memory/table.h"

enum { CM_KEY_MAX_BYTES = 65535 };

struct cm_store;

/* The conditions of a change, and what becomes of the expiry. Zeroed: none, and never. */
struct cm_change {
    bool if_absent;      /* else CM_E_EXISTS */
    bool if_present;     /* else CM_E_NOTFOUND */
    bool if_version;     /* else CM_E_CONFLICT */
    uint64_t version;    /* that it must have; 0: it must be absent */
    bool keep_expiry;    /* an entry that is there keeps its own */
    uint64_t expires_ms; /* of cm_clock_ms; 0: never */
};

/* An empty store for at most memory_bytes of entries. 0 or CM_E_NOMEMORY. */
int cm_store_new(uint64_t memory_bytes, struct cm_store **store);
void cm_store_free(struct cm_store *store);

/* Stores a copy of the value under a copy of the key, and gives the new version. 0; a failed condition's
 * code; CM_E_TOOLARGE for a value over 4 GiB; CM_E_NOMEMORY. The old value is kept then. */
int cm_store_set(struct cm_store *store, struct cm_bytes key, struct cm_bytes value,
                 const struct cm_change *change, uint64_t now_ms, uint64_t *version);

/* Stores all of the pairs, or none. A key that comes twice has its last value. 0, or as cm_store_set. */
struct cm_pair {
    struct cm_bytes key;
    struct cm_bytes value;
};
int cm_store_set_many(struct cm_store *store, const struct cm_pair *pairs, size_t count, uint64_t now_ms);

/* Gives a view of the value, valid until the store's next change, its version and its expiry; each
 * out-parameter may be NULL. 0, or CM_E_NOTFOUND with version 0. */
int cm_store_get(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, struct cm_bytes *value,
                 uint64_t *version, uint64_t *expires_ms);

/* Removes the entry and gives the version of that change, or 0 where there was none. 0, or CM_E_CONFLICT; of
 * the conditions only the version counts. */
int cm_store_remove(struct cm_store *store, struct cm_bytes key, const struct cm_change *change,
                    uint64_t now_ms, uint64_t *version);

/* Adds to a number and gives the sum. Where there is nothing, `initial` is what is added to, and the expiry
 * is expires_ms; an entry that is there keeps its own. 0; CM_E_BADVALUE for a value that is no number, or a
 * sum of integers that is none; CM_E_NOMEMORY. */
int cm_store_increment(struct cm_store *store, struct cm_bytes key, struct cm_number delta,
                       struct cm_number initial, uint64_t expires_ms, uint64_t now_ms, struct cm_number *sum,
                       uint64_t *version);

/* Changes the expiry, which takes no version. 0, CM_E_NOTFOUND or CM_E_NOMEMORY. */
int cm_store_expire(struct cm_store *store, struct cm_bytes key, uint64_t expires_ms, uint64_t now_ms);

/* A walk over all entries whose keys start with the prefix, in slices: at most `steps` of it, a few entries
 * each. The cursor is 0 at the beginning; an entry that is there from the beginning to the end is met exactly
 * once. Each returns whether there is more to come. */
typedef int (*cm_store_key_fn)(void *data, struct cm_bytes key); /* 0: go on after this step */
bool cm_store_keys(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, unsigned steps,
                   uint64_t now_ms, cm_store_key_fn visit, void *data);
/* Removes what is not newer than the version `until`, so that what is set after a walk began survives it. 0
 * stands for the newest version there is, and is replaced by it. */
bool cm_store_clear(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, uint64_t *until,
                    unsigned steps, uint64_t now_ms, uint64_t *removed);

/* Removes at most `most` expired entries; how many were. */
size_t cm_store_sweep(struct cm_store *store, size_t most, uint64_t now_ms);

struct cm_store_stats {
    uint64_t entries; /* expired ones that were not swept yet included */
    uint64_t used_bytes;
    uint64_t limit_bytes;
};
void cm_store_stats(const struct cm_store *store, struct cm_store_stats *stats);

#endif
