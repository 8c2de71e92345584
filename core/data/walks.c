#include "base/error.h"
#include "data/store.h"

/* The store's walks: what goes over all entries, in slices. */

enum { LISTING_KEEP_BYTES = 1 << 20 };

/* Takes one step and gives the living entries' keys to `visit`. 0, CM_E_NOMEMORY, or what visit returned. */
static int walk_step(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, cm_store_key_fn visit,
                     void *data) {
    /* Taken out meanwhile: a visitor may walk too. */
    struct cm_buf listing = store->listing;
    store->listing = (struct cm_buf){0};
    cm_buf_reset(&listing, LISTING_KEEP_BYTES);
    int err = cm_table_walk(store->participant, store->space, prefix, cursor, &listing);
    int stop = 0;
    for (size_t at = 0; !err && at < listing.len;) {
        const struct cm_listed *listed = (const struct cm_listed *)(const void *)(listing.data + at);
        at += sizeof *listed + cm_words(listed->key_len);
        if (!cm_store_is_over(store, listed->expires_ms))
            stop |= visit(data, (struct cm_bytes){listed->key, listed->key_len});
    }
    cm_buf_deinit(&store->listing);
    store->listing = listing;
    return err ? err : stop;
}

int cm_store_keys(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, unsigned steps,
                  cm_store_key_fn visit, void *data) {
    for (unsigned i = 0; i < steps; i++) {
        int result = walk_step(store, prefix, cursor, visit, data);
        if (result || *cursor == 0)
            return result < 0 ? result : 0;
    }
    return 0;
}

struct clearing {
    struct cm_store *store;
    const struct cm_store_clearing *how;
    uint64_t removed;
};

static int clear_key(void *data, struct cm_bytes key) {
    struct clearing *clearing = data;
    if (clearing->how->spare && clearing->how->spare(clearing->how->data, key))
        return 0;
    uint64_t version;
    if (cm_store_remove(clearing->store, key, &(struct cm_change){.cleared = true}, &version) == CM_STORE_ASK)
        return clearing->how->ask(clearing->how->data, key);
    clearing->removed += version != 0;
    return 0;
}

int cm_store_clear(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, unsigned steps,
                   const struct cm_store_clearing *how, uint64_t *removed) {
    struct clearing clearing = {store, how, 0};
    int err = cm_store_keys(store, prefix, cursor, steps, clear_key, &clearing);
    *removed += clearing.removed;
    return err;
}
