#include "data/watch.h"

#include "base/hash.h"

/* A bucket is a cache line: hashes, and how many more it would have. */
enum { HASHES = 7 };

struct bucket {
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t hashes[HASHES]; /* 0: none */
    _Atomic uint64_t more;
};

static struct bucket *bucket_of(const struct cm_segment *segment, uint64_t hash) {
    uint64_t number = hash >> 16 & (segment->layout.watch_buckets - 1);
    return (struct bucket *)(void *)(segment->base + segment->layout.watches_at) + number;
}

uint64_t cm_watch_hash(const struct cm_segment *segment, struct cm_bytes name, bool prefix) {
    uint64_t hash = prefix ? cm_hash(name, ~segment->layout.hash_seed) : cm_table_key(segment, name).hash;
    return hash ? hash : 1;
}

/* Everything here is loaded relaxed: what counts is that the loads come behind the swap that began the
 * writer's section (a full fence: CM_FENCE_AFTER_SWAP), and the stores before the fence that begins the
 * barrier. One of the two sees the other. */
static uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_relaxed);
}

static bool holds(const struct cm_segment *segment, uint64_t hash) {
    const struct bucket *bucket = bucket_of(segment, hash);
    bool found = load(&bucket->more) != 0;
    for (int i = 0; i < HASHES; i++)
        found |= load(&bucket->hashes[i]) == hash;
    return found;
}

bool cm_watch_looks(const struct cm_segment *segment, const struct cm_key *key) {
    struct cm_header *header = segment->header;
    if (atomic_load_explicit(&header->watched_all, memory_order_relaxed) ||
        holds(segment, key->hash ? key->hash : 1))
        return true;
    for (int i = 0; i < CM_WATCHED_LENGTHS; i++) {
        uint16_t len = atomic_load_explicit(&header->watched_lengths[i], memory_order_relaxed);
        if (len && len <= key->bytes.len &&
            holds(segment, cm_watch_hash(segment, (struct cm_bytes){key->bytes.data, len}, true)))
            return true;
    }
    return false;
}

/* --- the master's --- */

void cm_watch_init(struct cm_watch_set *set, const struct cm_segment *segment) {
    *set = (struct cm_watch_set){.segment = segment};
}

/* Only the master writes. */
static void change(_Atomic uint32_t *count, int by) {
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + (uint32_t)by,
                          memory_order_relaxed);
}

uint16_t cm_watch_length(const struct cm_watch_set *set, int place) {
    return atomic_load_explicit(&set->segment->header->watched_lengths[place], memory_order_relaxed);
}

/* The place in the header of that length; -1: it has none. */
static int place_of(const struct cm_watch_set *set, uint16_t len) {
    for (int i = 0; i < CM_WATCHED_LENGTHS; i++) {
        if (cm_watch_length(set, i) == len)
            return i;
    }
    return -1;
}

static void store_length(const struct cm_watch_set *set, int place, uint16_t len) {
    atomic_store_explicit(&set->segment->header->watched_lengths[place], len, memory_order_relaxed);
}

static void add_hash(struct cm_watch_set *set, uint64_t hash) {
    struct bucket *bucket = bucket_of(set->segment, hash);
    for (int i = 0; i < HASHES; i++) {
        if (!load(&bucket->hashes[i])) {
            atomic_store_explicit(&bucket->hashes[i], hash, memory_order_relaxed);
            return;
        }
    }
    atomic_store_explicit(&bucket->more, load(&bucket->more) + 1, memory_order_relaxed);
}

static void remove_hash(struct cm_watch_set *set, uint64_t hash) {
    struct bucket *bucket = bucket_of(set->segment, hash);
    for (int i = 0; i < HASHES; i++) {
        if (load(&bucket->hashes[i]) == hash) {
            atomic_store_explicit(&bucket->hashes[i], 0, memory_order_relaxed);
            return;
        }
    }
    atomic_store_explicit(&bucket->more, load(&bucket->more) - 1, memory_order_relaxed);
}

/* False: there is no place for one more length, or for prefixes of all keys. */
static bool add_length(struct cm_watch_set *set, size_t len) {
    int place = len ? place_of(set, (uint16_t)len) : -1;
    if (len && place < 0)
        place = place_of(set, 0);
    if (place < 0)
        return false;
    if (set->lengths[place]++ == 0)
        store_length(set, place, (uint16_t)len);
    return true;
}

bool cm_watch_add(struct cm_watch_set *set, struct cm_bytes name, bool prefix) {
    bool all = prefix && !add_length(set, name.len);
    if (all)
        change(&set->segment->header->watched_all, 1);
    else
        add_hash(set, cm_watch_hash(set->segment, name, prefix));
    change(&set->segment->header->watches, 1);
    return all;
}

void cm_watch_remove(struct cm_watch_set *set, struct cm_bytes name, bool prefix, bool all) {
    change(&set->segment->header->watches, -1);
    if (all) {
        change(&set->segment->header->watched_all, -1);
        return;
    }
    remove_hash(set, cm_watch_hash(set->segment, name, prefix));
    int place = prefix ? place_of(set, (uint16_t)name.len) : -1;
    if (place >= 0 && --set->lengths[place] == 0)
        store_length(set, place, 0);
}
