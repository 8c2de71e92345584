#include "data/store.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/expiry.h"

struct cm_store {
    struct cm_table table;
    struct cm_expiry expiry;
    uint64_t limit_bytes;
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
    made->limit_bytes = memory_bytes;
    *store = made;
    return 0;
}

void cm_store_free(struct cm_store *store) {
    if (!store)
        return;
    cm_table_deinit(&store->table);
    cm_expiry_deinit(&store->expiry);
    free(store);
}

/* --- entries --- */

/* What an entry counts against the limit: itself, its places in the table and the heap, the allocator's word.
 */
static uint64_t footprint(const struct cm_entry *entry) {
    return sizeof *entry + entry->key_len + entry->value_len + 3 * sizeof(void *);
}

static struct cm_bytes key_of(const struct cm_entry *entry) {
    return (struct cm_bytes){entry->bytes, entry->key_len};
}

static struct cm_bytes value_of(const struct cm_entry *entry) {
    return (struct cm_bytes){entry->bytes + entry->key_len, entry->value_len};
}

static bool expired(const struct cm_entry *entry, uint64_t now_ms) {
    return entry->expires_ms && entry->expires_ms <= now_ms;
}

static struct cm_entry *new_entry(struct cm_bytes key, struct cm_bytes value) {
    struct cm_entry *entry = malloc(sizeof *entry + key.len + value.len);
    if (!entry)
        return NULL;
    *entry = (struct cm_entry){.key_len = (uint32_t)key.len, .value_len = (uint32_t)value.len};
    memcpy(entry->bytes, key.data, key.len);
    if (value.len)
        memcpy(entry->bytes + key.len, value.data, value.len);
    return entry;
}

/* The accounts of an entry that comes into the table or leaves it. */
static void account_in(struct cm_store *store, struct cm_entry *entry) {
    store->used_bytes += footprint(entry);
    if (entry->expires_ms)
        cm_expiry_add(&store->expiry, entry);
}

static void account_out(struct cm_store *store, struct cm_entry *entry) {
    store->used_bytes -= footprint(entry);
    if (entry->expires_ms)
        cm_expiry_remove(&store->expiry, entry);
}

static void link_entry(struct cm_store *store, struct cm_entry *entry) {
    account_in(store, entry);
    cm_table_insert(&store->table, entry);
}

static struct cm_entry *unlink_entry(struct cm_store *store, struct cm_entry **link) {
    account_out(store, *link);
    return cm_table_unlink(&store->table, link);
}

static bool bad_key(struct cm_bytes key) {
    return key.len == 0 || key.len > CM_KEY_MAX_BYTES;
}

/* The link of the living entry, or NULL: an expired one is dropped when it is met. */
static struct cm_entry **find(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, uint64_t *hash) {
    struct cm_entry **link = cm_table_find(&store->table, key, hash);
    if (link && expired(*link, now_ms)) {
        free(unlink_entry(store, link));
        return NULL;
    }
    return link;
}

/* --- changes --- */

static int check_conditions(const struct cm_change *change, const struct cm_entry *old) {
    if (change->if_absent && old)
        return CM_E_EXISTS;
    if (change->if_present && !old)
        return CM_E_NOTFOUND;
    if (change->if_version && change->version != (old ? old->version : 0))
        return CM_E_CONFLICT;
    return 0;
}

/* Puts a new entry in the place of the old one, if any. Frees it where it fails. */
static int replace(struct cm_store *store, struct cm_entry **old, struct cm_entry *entry, uint64_t hash,
                   uint64_t *version) {
    uint64_t freed = old ? footprint(*old) : 0;
    int err = store->used_bytes - freed + footprint(entry) > store->limit_bytes ? CM_E_NOMEMORY : 0;
    if (!err && entry->expires_ms)
        err = cm_expiry_reserve(&store->expiry, 1);
    if (err) {
        free(entry);
        return err;
    }
    if (old)
        free(unlink_entry(store, old));
    entry->hash = hash;
    entry->version = *version = ++store->version;
    link_entry(store, entry);
    return 0;
}

int cm_store_set(struct cm_store *store, struct cm_bytes key, struct cm_bytes value,
                 const struct cm_change *change, uint64_t now_ms, uint64_t *version) {
    if (bad_key(key))
        return CM_E_BADVALUE;
    if (value.len > UINT32_MAX)
        return CM_E_TOOLARGE;
    /* Before the table is looked at: the value may be a view of an entry that has expired. */
    struct cm_entry *entry = new_entry(key, value);
    if (!entry)
        return CM_E_NOMEMORY;
    uint64_t hash;
    struct cm_entry **old = find(store, key, now_ms, &hash);
    int err = check_conditions(change, old ? *old : NULL);
    if (err) {
        free(entry);
        return err;
    }
    entry->expires_ms = change->keep_expiry && old ? (*old)->expires_ms : change->expires_ms;
    return replace(store, old, entry, hash, version);
}

/* Undoes and frees: takes the new entry out, puts the old one, if any, back. */
static void undo(struct cm_store *store, struct cm_entry *entry, struct cm_entry *old) {
    uint64_t hash;
    free(unlink_entry(store, cm_table_find(&store->table, key_of(entry), &hash)));
    if (old)
        link_entry(store, old);
}

int cm_store_set_many(struct cm_store *store, const struct cm_pair *pairs, size_t count, uint64_t now_ms) {
    if (count == 0)
        return 0;
    struct cm_entry **entries = calloc(count, 2 * sizeof *entries);
    if (!entries)
        return CM_E_NOMEMORY;
    struct cm_entry **olds = entries + count;
    int err = 0;
    for (size_t i = 0; !err && i < count; i++) {
        if (bad_key(pairs[i].key))
            err = CM_E_BADVALUE;
        else if (pairs[i].value.len > UINT32_MAX)
            err = CM_E_TOOLARGE;
        else if (!(entries[i] = new_entry(pairs[i].key, pairs[i].value)))
            err = CM_E_NOMEMORY;
    }
    for (size_t i = 0; err && i < count; i++)
        free(entries[i]);
    /* From here on nothing can fail but the limit, and that is undone. */
    for (size_t i = 0; !err && i < count; i++) {
        struct cm_entry **link = find(store, pairs[i].key, now_ms, &entries[i]->hash);
        olds[i] = link ? unlink_entry(store, link) : NULL;
        entries[i]->version = ++store->version;
        link_entry(store, entries[i]);
    }
    bool over = !err && store->used_bytes > store->limit_bytes;
    for (size_t i = count; !err && i-- > 0;) {
        if (over)
            undo(store, entries[i], olds[i]);
        else
            free(olds[i]);
    }
    free(entries);
    return over ? CM_E_NOMEMORY : err;
}

int cm_store_get(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, struct cm_bytes *value,
                 uint64_t *version, uint64_t *expires_ms) {
    uint64_t hash;
    struct cm_entry **link = find(store, key, now_ms, &hash);
    if (version)
        *version = link ? (*link)->version : 0;
    if (!link)
        return CM_E_NOTFOUND;
    if (value)
        *value = value_of(*link);
    if (expires_ms)
        *expires_ms = (*link)->expires_ms;
    return 0;
}

int cm_store_remove(struct cm_store *store, struct cm_bytes key, const struct cm_change *change,
                    uint64_t now_ms, uint64_t *version) {
    uint64_t hash;
    struct cm_entry **link = find(store, key, now_ms, &hash);
    if (change->if_version && change->version != (link ? (*link)->version : 0))
        return CM_E_CONFLICT;
    *version = link ? ++store->version : 0;
    if (link)
        free(unlink_entry(store, link));
    return 0;
}

int cm_store_increment(struct cm_store *store, struct cm_bytes key, struct cm_number delta,
                       struct cm_number initial, uint64_t expires_ms, uint64_t now_ms, struct cm_number *sum,
                       uint64_t *version) {
    if (bad_key(key))
        return CM_E_BADVALUE;
    uint64_t hash;
    struct cm_entry **old = find(store, key, now_ms, &hash);
    struct cm_number base = initial;
    int err = old ? cm_number_decode(value_of(*old), &base) : 0;
    if (!err)
        err = cm_number_add(base, delta, sum);
    if (err)
        return err;
    uint8_t space[CM_NUMBER_BYTES];
    struct cm_entry *entry = new_entry(key, cm_number_encode(*sum, space));
    if (!entry)
        return CM_E_NOMEMORY;
    entry->expires_ms = old ? (*old)->expires_ms : expires_ms;
    return replace(store, old, entry, hash, version);
}

int cm_store_expire(struct cm_store *store, struct cm_bytes key, uint64_t expires_ms, uint64_t now_ms) {
    uint64_t hash;
    struct cm_entry **link = find(store, key, now_ms, &hash);
    if (!link)
        return CM_E_NOTFOUND;
    int err = expires_ms ? cm_expiry_reserve(&store->expiry, 1) : 0;
    if (err)
        return err;
    struct cm_entry *entry = *link;
    account_out(store, entry);
    entry->expires_ms = expires_ms;
    account_in(store, entry);
    return 0;
}

/* --- walks --- */

struct walk {
    struct cm_store *store;
    struct cm_bytes prefix;
    uint64_t now_ms;
    cm_store_key_fn visit; /* NULL: remove */
    void *data;
    int stop;
    uint64_t until;
    uint64_t removed;
};

static enum cm_visit visit_entry(void *data, struct cm_entry *entry) {
    struct walk *walk = data;
    if (entry->key_len < walk->prefix.len ||
        (walk->prefix.len && memcmp(entry->bytes, walk->prefix.data, walk->prefix.len) != 0))
        return CM_VISIT_KEEP;
    bool dead = expired(entry, walk->now_ms);
    if (walk->visit) {
        if (!dead)
            walk->stop |= walk->visit(walk->data, key_of(entry));
        return CM_VISIT_KEEP;
    }
    if (!dead && entry->version > walk->until)
        return CM_VISIT_KEEP;
    if (!dead) {
        walk->removed++;
        walk->store->version++;
    }
    account_out(walk->store, entry);
    free(entry);
    return CM_VISIT_REMOVE;
}

bool cm_store_keys(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, unsigned steps,
                   uint64_t now_ms, cm_store_key_fn visit, void *data) {
    struct walk walk = {.store = store, .prefix = prefix, .now_ms = now_ms, .visit = visit, .data = data};
    bool more = true;
    for (unsigned i = 0; more && !walk.stop && i < steps; i++)
        more = cm_table_walk(&store->table, cursor, visit_entry, &walk);
    return more;
}

bool cm_store_clear(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, uint64_t *until,
                    unsigned steps, uint64_t now_ms, uint64_t *removed) {
    if (*until == 0)
        *until = store->version;
    struct walk walk = {.store = store, .prefix = prefix, .now_ms = now_ms, .until = *until};
    bool more = true;
    for (unsigned i = 0; more && i < steps; i++)
        more = cm_table_walk(&store->table, cursor, visit_entry, &walk);
    *removed = walk.removed;
    return more;
}

size_t cm_store_sweep(struct cm_store *store, size_t most, uint64_t now_ms) {
    size_t swept = 0;
    for (; swept < most; swept++) {
        struct cm_entry *entry = cm_expiry_first(&store->expiry);
        if (!entry || !expired(entry, now_ms))
            break;
        uint64_t hash;
        free(unlink_entry(store, cm_table_find(&store->table, key_of(entry), &hash)));
    }
    return swept;
}

void cm_store_stats(const struct cm_store *store, struct cm_store_stats *stats) {
    *stats = (struct cm_store_stats){store->table.entries, store->used_bytes, store->limit_bytes};
}
