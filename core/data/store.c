#include "data/store.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/table.h"

struct cm_store {
    struct cm_table table;
    uint64_t memory_bytes;
    uint64_t used_bytes;
    uint64_t version;
};

int cm_store_new(uint64_t memory_bytes, struct cm_store **store) {
    struct cm_store *made = calloc(1, sizeof *made);
    if (!made)
        return CM_E_NOMEMORY;
    int err = cm_table_init(&made->table);
    if (err) {
        free(made);
        return err;
    }
    made->memory_bytes = memory_bytes;
    *store = made;
    return 0;
}

void cm_store_free(struct cm_store *store) {
    if (!store)
        return;
    cm_table_deinit(&store->table);
    free(store);
}

/* What an entry counts against the limit: itself, its place in the table and the allocator's word. */
static uint64_t footprint(size_t key_len, size_t value_len) {
    return sizeof(struct cm_entry) + key_len + value_len + 2 * sizeof(void *);
}

static void drop(struct cm_store *store, struct cm_entry **link) {
    struct cm_entry *entry = cm_table_unlink(&store->table, link);
    store->used_bytes -= footprint(entry->key_len, entry->value_len);
    free(entry);
}

/* The link of the living entry, or NULL: an expired one is dropped when it is met. */
static struct cm_entry **find(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, uint64_t *hash) {
    struct cm_entry **link = cm_table_find(&store->table, key, hash);
    if (link && (*link)->expires_ms && (*link)->expires_ms <= now_ms) {
        drop(store, link);
        return NULL;
    }
    return link;
}

int cm_store_set(struct cm_store *store, struct cm_bytes key, struct cm_bytes value, uint64_t expires_ms,
                 uint64_t now_ms, uint64_t *version) {
    if (key.len == 0 || key.len > CM_KEY_MAX_BYTES)
        return CM_E_BADVALUE;
    if (value.len > UINT32_MAX)
        return CM_E_TOOLARGE;
    uint64_t hash;
    struct cm_entry **old = find(store, key, now_ms, &hash);
    uint64_t freed = old ? footprint((*old)->key_len, (*old)->value_len) : 0;
    uint64_t needed = footprint(key.len, value.len);
    if (store->used_bytes - freed + needed > store->memory_bytes)
        return CM_E_NOMEMORY;
    struct cm_entry *entry = malloc(sizeof *entry + key.len + value.len);
    if (!entry)
        return CM_E_NOMEMORY;
    *entry = (struct cm_entry){.hash = hash,
                               .version = ++store->version,
                               .expires_ms = expires_ms,
                               .key_len = (uint32_t)key.len,
                               .value_len = (uint32_t)value.len};
    memcpy(entry->bytes, key.data, key.len);
    if (value.len)
        memcpy(entry->bytes + key.len, value.data, value.len);
    if (old)
        drop(store, old);
    cm_table_insert(&store->table, entry);
    store->used_bytes += needed;
    *version = entry->version;
    return 0;
}

int cm_store_get(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, struct cm_bytes *value,
                 uint64_t *version) {
    uint64_t hash;
    struct cm_entry **link = find(store, key, now_ms, &hash);
    *version = link ? (*link)->version : 0;
    if (!link)
        return CM_E_NOTFOUND;
    *value = (struct cm_bytes){(*link)->bytes + (*link)->key_len, (*link)->value_len};
    return 0;
}

int cm_store_remove(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, uint64_t *version) {
    uint64_t hash;
    struct cm_entry **link = find(store, key, now_ms, &hash);
    *version = link ? ++store->version : 0;
    if (link)
        drop(store, link);
    return 0;
}

void cm_store_usage(const struct cm_store *store, uint64_t *entries, uint64_t *bytes) {
    *entries = store->table.entries;
    *bytes = store->used_bytes;
}
