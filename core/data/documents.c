#include "data/documents.h"

#include <string.h>

#include "base/error.h"
#include "data/document.h"
#include "data/path.h"

/* In the table a document is its number in the storage, and the encoded value. The entry's expiry is the
 * earliest one in it. */
enum { HEAD_BYTES = sizeof(uint64_t), KEEP_BYTES = 1 << 20 };

void cm_documents_init(struct cm_documents *documents, struct cm_participant *participant,
                       int (*make_room)(void *data, uint64_t bytes, uint64_t freed_bytes), void *data) {
    *documents = (struct cm_documents){0};
    cm_store_init(&documents->store, participant);
    documents->store.space = CM_SPACE_DOCUMENTS;
    documents->store.make_room = make_room;
    documents->store.data = data;
}

void cm_documents_deinit(struct cm_documents *documents) {
    cm_store_deinit(&documents->store);
    cm_buf_deinit(&documents->key);
    cm_buf_deinit(&documents->old);
    cm_buf_deinit(&documents->next);
}

void cm_documents_rest(struct cm_documents *documents) {
    cm_buf_reset(&documents->old, KEEP_BYTES);
    cm_buf_reset(&documents->next, KEEP_BYTES);
}

/* --- keys --- */

static int make_key(struct cm_documents *documents, uint32_t storage, struct cm_bytes name,
                    struct cm_bytes *key) {
    documents->key.len = 0;
    int err = cm_buf_append(&documents->key, &storage, sizeof storage);
    if (!err)
        err = cm_buf_append(&documents->key, name.data, name.len);
    *key = cm_buf_view(&documents->key);
    return err;
}

uint32_t cm_documents_storage_of(struct cm_bytes key, struct cm_bytes *name) {
    uint32_t storage = 0;
    if (key.len >= sizeof storage)
        memcpy(&storage, key.data, sizeof storage);
    *name = key.len >= sizeof storage ? (struct cm_bytes){key.data + sizeof storage, key.len - sizeof storage}
                                      : (struct cm_bytes){0};
    return storage;
}

/* --- reading --- */

static struct cm_header *header_of(const struct cm_documents *documents) {
    return documents->store.participant->segment->header;
}

/* The mark of an open storage is an entry without a name. Whoever reads a count here (acquire) that was
 * raised when a storage was closed (release) finds no mark of that one any more; and with a mark that was
 * there after the count was read, the storage is open as long as the count stays. */
bool cm_documents_is_open(struct cm_documents *documents, uint32_t storage, uint64_t *closed) {
    uint64_t count = atomic_load_explicit(&header_of(documents)->storages_closed, memory_order_acquire);
    if (*closed == count + 1)
        return true;
    struct cm_bytes key = {(const uint8_t *)&storage, sizeof storage};
    uint64_t version;
    if (cm_store_get(&documents->store, key, NULL, NULL, &version, NULL))
        return false;
    *closed = count + 1; /* 0 means: never seen */
    return true;
}

/* Splits a whole entry. */
static int read_head(struct cm_bytes entry, uint64_t *number, struct cm_bytes *body) {
    if (entry.len <= HEAD_BYTES)
        return CM_E_BADVALUE;
    if (number)
        memcpy(number, entry.data, sizeof *number);
    *body = (struct cm_bytes){entry.data + HEAD_BYTES, entry.len - HEAD_BYTES};
    return 0;
}

/* The document of that name. CM_E_NOTFOUND with version 0. */
static int read_document(struct cm_documents *documents, uint32_t storage, struct cm_bytes name,
                         struct cm_buf *buf, uint64_t *number, struct cm_bytes *body, uint64_t *version) {
    struct cm_bytes key;
    struct cm_value value;
    *version = 0;
    int err = make_key(documents, storage, name, &key);
    if (!err)
        err = cm_store_get(&documents->store, key, buf, &value, version, NULL);
    return err ? err : read_head(value.bytes, number, body);
}

/* What is looked for in an entry, and what came of it. */
struct search {
    struct cm_bytes steps;
    uint64_t now_ms;
    bool copies;
    int err;
};

static int find_part(void *data, struct cm_stream *entry, uint64_t *at, uint64_t *len) {
    struct search *search = data;
    int err = entry->left > HEAD_BYTES ? cm_stream_skip(entry, HEAD_BYTES) : CM_E_BADVALUE;
    if (!err)
        err = cm_document_seek(entry, search->steps, search->now_ms, at, search->copies ? len : NULL);
    *at += HEAD_BYTES;
    bool is_mine = err == CM_E_NOTFOUND || err == CM_E_BADVALUE; /* and not the stream's */
    search->err = is_mine ? err : 0;
    return is_mine ? 0 : err;
}

int cm_documents_get(struct cm_documents *documents, uint32_t storage, struct cm_bytes path,
                     struct cm_buf *buf, struct cm_bytes *value, uint64_t *version) {
    struct cm_bytes name, key = {0}, part = {0};
    uint64_t now = 0;
    struct search search = {.now_ms = documents->store.clock_ms(), .copies = value};
    int err = cm_path_split(&path, &name);
    if (!err)
        err = make_key(documents, storage, name, &key);
    search.steps = path;
    if (!err)
        err = cm_store_get_part(&documents->store, key, find_part, &search, buf, &part, &now);
    if (version)
        *version = now;
    if (!err)
        err = search.err;
    if (!err && value)
        *value = part;
    return err;
}

struct listing {
    cm_store_key_fn visit;
    void *data;
};

static int visit_name(void *data, struct cm_bytes key) {
    const struct listing *listing = data;
    struct cm_bytes name;
    cm_documents_storage_of(key, &name);
    return name.len ? listing->visit(listing->data, name) : 0;
}

int cm_documents_walk(struct cm_documents *documents, uint32_t storage, uint64_t *cursor, unsigned steps,
                      cm_store_key_fn visit, void *data) {
    struct listing listing = {visit, data};
    struct cm_bytes prefix = {(const uint8_t *)&storage, sizeof storage};
    return cm_store_keys(&documents->store, prefix, cursor, steps, visit_name, &listing);
}

/* --- writing --- */

static void count(struct cm_documents *documents, int by) {
    _Atomic uint64_t *entries = &header_of(documents)->documents;
    /* Relaxed, and no more than a number: the master alone writes it, and it is for people. */
    atomic_store_explicit(entries, atomic_load_explicit(entries, memory_order_relaxed) + (uint64_t)by,
                          memory_order_relaxed);
}

static int store(struct cm_documents *documents, struct cm_bytes key, struct cm_bytes bytes,
                 uint64_t expires_ms, bool fresh, uint64_t *version) {
    struct cm_change change = {.expires_ms = expires_ms};
    int err = cm_store_set(&documents->store, key, &(struct cm_value){.bytes = bytes}, &change, version);
    if (!err && fresh)
        count(documents, 1);
    return err;
}

static void drop(struct cm_documents *documents, struct cm_bytes key, uint64_t *version) {
    cm_store_remove(&documents->store, key, &(struct cm_change){0}, version);
    if (*version)
        count(documents, -1);
}

/* Begins a change of the document that the path leads into: what it is now, to `old`; its number, to `next`.
 * Goes on to the path's rest. */
static int begin(struct cm_documents *documents, uint32_t storage, struct cm_bytes *path,
                 const uint64_t *version, uint64_t number, struct cm_bytes *body,
                 struct cm_document_change *change) {
    *change = (struct cm_document_change){0};
    *body = (struct cm_bytes){0};
    cm_documents_rest(documents);
    int err = cm_path_check(*path);
    if (!err)
        err = cm_path_split(path, &change->name);
    if (err)
        return err;
    uint64_t present;
    err = read_document(documents, storage, change->name, &documents->old, &change->number, body, &present);
    change->fresh = err == CM_E_NOTFOUND;
    if (change->fresh)
        change->number = number;
    if (err && !change->fresh)
        return err;
    if (version && *version != present)
        return CM_E_CONFLICT;
    return cm_buf_append(&documents->next, &change->number, sizeof change->number);
}

/* A new document could not be stored: who was told of its number need not remember it. */
static void take_back(struct cm_documents *documents, uint32_t storage,
                      const struct cm_document_change *change) {
    struct cm_document_change gone = {.name = change->name, .number = change->number, .gone = true};
    if (change->fresh && documents->before_change)
        documents->before_change(documents->data, storage, &gone);
}

/* Ends it: what is in `next` becomes the document. */
static int end(struct cm_documents *documents, uint32_t storage, struct cm_document_change *change) {
    struct cm_bytes key, body, entry = cm_buf_view(&documents->next);
    change->gone = entry.len == HEAD_BYTES;
    int err = make_key(documents, storage, change->name, &key);
    if (!err && documents->before_change)
        err = documents->before_change(documents->data, storage, change);
    if (err)
        return err;
    if (change->gone) {
        drop(documents, key, &change->version);
        return 0;
    }
    uint64_t expires_ms;
    err = read_head(entry, NULL, &body);
    if (!err)
        err = cm_document_earliest(body, &expires_ms);
    if (!err)
        err = store(documents, key, entry, expires_ms, change->fresh, &change->version);
    if (err)
        take_back(documents, storage, change);
    return err;
}

int cm_documents_set(struct cm_documents *documents, uint32_t storage, const struct cm_document_put *put,
                     struct cm_document_change *change) {
    struct cm_bytes path = put->path, body;
    int err = begin(documents, storage, &path, put->version, put->number, &body, change);
    if (err)
        return err;
    uint64_t now_ms = documents->store.clock_ms(), expires_ms = put->expires_ms;
    if (put->keep_expiry)
        err = cm_document_expiry(body, path, now_ms, &expires_ms);
    if (!err)
        err = cm_document_set(body, path, put->value, expires_ms, now_ms, &documents->next);
    if (!err && documents->next.len - HEAD_BYTES > put->max_bytes)
        err = CM_E_TOOLARGE;
    return err ? err : end(documents, storage, change);
}

int cm_documents_delete(struct cm_documents *documents, uint32_t storage, struct cm_bytes path,
                        const uint64_t *version, struct cm_document_change *change) {
    struct cm_bytes body;
    int err = begin(documents, storage, &path, version, 0, &body, change);
    if (!err)
        err = cm_document_delete(body, path, documents->store.clock_ms(), &documents->next);
    if (err == CM_E_NOTFOUND)
        return 0;
    return err ? err : end(documents, storage, change);
}

int cm_documents_purge(struct cm_documents *documents, uint32_t storage, struct cm_bytes name,
                       struct cm_document_change *change) {
    struct cm_bytes body;
    uint64_t present;
    *change = (struct cm_document_change){.name = name};
    cm_documents_rest(documents);
    int err = read_document(documents, storage, name, &documents->old, &change->number, &body, &present);
    if (!err)
        err = cm_buf_append(&documents->next, &change->number, sizeof change->number);
    if (!err)
        err = cm_document_purge(body, documents->store.clock_ms(), &documents->next);
    return err ? err : end(documents, storage, change);
}

bool cm_documents_is_due(struct cm_documents *documents, uint32_t storage, struct cm_bytes name) {
    struct cm_bytes key;
    uint64_t expires_ms = 0;
    return !make_key(documents, storage, name, &key) &&
           !cm_store_get(&documents->store, key, NULL, NULL, NULL, &expires_ms) && expires_ms &&
           expires_ms <= documents->store.clock_ms();
}

int cm_documents_take(struct cm_documents *documents, uint32_t storage, struct cm_bytes name, uint64_t number,
                      struct cm_bytes *body) {
    uint64_t present, version;
    cm_buf_reset(&documents->old, KEEP_BYTES);
    int err = read_document(documents, storage, name, &documents->old, &present, body, &version);
    return !err && present != number ? CM_E_NOTFOUND : err;
}

int cm_documents_put(struct cm_documents *documents, uint32_t storage, struct cm_bytes name, uint64_t number,
                     struct cm_bytes body, uint64_t *replaced) {
    struct cm_bytes key, was;
    uint64_t expires_ms, version;
    *replaced = 0;
    int found = read_document(documents, storage, name, &documents->old, replaced, &was, &version);
    if (found && found != CM_E_NOTFOUND)
        return found;
    int err = cm_document_earliest(body, &expires_ms);
    if (!err)
        err = make_key(documents, storage, name, &key);
    cm_buf_reset(&documents->next, KEEP_BYTES);
    if (!err)
        err = cm_buf_append(&documents->next, &number, sizeof number);
    if (!err)
        err = cm_buf_append(&documents->next, body.data, body.len);
    return err ? err : store(documents, key, cm_buf_view(&documents->next), expires_ms, found != 0, &version);
}

/* --- beginning and end of a storage --- */

int cm_documents_begin(struct cm_documents *documents, uint32_t storage) {
    struct cm_bytes key = {(const uint8_t *)&storage, sizeof storage};
    uint64_t version;
    return store(documents, key, key, 0, true, &version);
}

void cm_documents_end(struct cm_documents *documents, uint32_t storage) {
    struct cm_bytes key = {(const uint8_t *)&storage, sizeof storage};
    uint64_t version;
    drop(documents, key, &version);
    /* Release: behind the mark's end, see cm_documents_is_open. */
    atomic_fetch_add_explicit(&header_of(documents)->storages_closed, 1, memory_order_release);
}

int cm_documents_clear(struct cm_documents *documents, uint32_t storage, uint64_t *cursor, unsigned steps) {
    struct cm_bytes prefix = {(const uint8_t *)&storage, sizeof storage};
    uint64_t removed = 0;
    int err =
        cm_store_clear(&documents->store, prefix, cursor, steps, &(struct cm_store_clearing){0}, &removed);
    count(documents, -(int)removed);
    return err;
}
