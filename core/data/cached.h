/* What the cache's files share: tags, counts, the lock, and how an entry is taken out. Theirs alone. */
#ifndef CM_DATA_CACHED_H
#define CM_DATA_CACHED_H

#include "data/lru.h"
#include "memory/append.h"
#include "memory/vacancy.h"

static inline struct cm_cache *cache_of(const struct cm_lru *lru) {
    return &lru->store->participant->segment->header->cache;
}

/* An entry's tag: {age in ms 32, generation 8, slot 24}. */
#define TAG_PLACE UINT64_C(0xffffffff) /* the last two */
#define TAG_SLOT UINT64_C(0xffffff)

static inline uint64_t tag_of(uint64_t age_ms, uint8_t generation, uint32_t slot) {
    return age_ms << 32 | (uint64_t)generation << 24 | slot;
}
static inline uint32_t slot_of(uint64_t tag) {
    return (uint32_t)(tag & TAG_SLOT);
}
static inline uint8_t generation_of(uint64_t tag) {
    return (uint8_t)(tag >> 24);
}

/* Eight nanoseconds a unit: 56 bits of them last for eighteen years of the machine's being up, no operation
 * is shorter, and they tell milliseconds exactly. */
enum { STAMP_NS_SHIFT = 3, MS_NS = 1000000 };

/* The stamp of what begins now: this process's own grow with each. */
static inline uint64_t next_stamp(struct cm_lru *lru, uint64_t now_ns) {
    uint64_t stamp = now_ns >> STAMP_NS_SHIFT;
    lru->stamp = stamp > lru->stamp ? stamp : lru->stamp + 1;
    return lru->stamp;
}

enum { FLAG_UPDATE_AGE = 1, FLAG_STALE = 2 };

/* Counts and bounds: relaxed, changed by the lock's owner alone. */

static inline uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_relaxed);
}

static inline void store(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void add(_Atomic uint64_t *word, uint64_t change) {
    store(word, load(word) + change);
}

/* Relaxed: who reads beside a new start may take the old options still. */
static inline uint32_t load_flags(const struct cm_cache *cache) {
    return atomic_load_explicit((_Atomic uint32_t *)&cache->flags, memory_order_relaxed);
}

static inline uint64_t entry_bytes(const struct cm_lru *lru, struct cm_shape shape) {
    return cm_append_bytes(lru->store->participant->segment, shape.key_len, shape.value_len);
}

/* When the entry expires, the word being its slot's; 0: never. Where hits begin an age anew, their stamp says
 * when that was. */
static inline uint64_t expiry_of(uint32_t flags, uint64_t expires_ms, uint64_t tag, uint64_t word) {
    if (!expires_ms || !(flags & FLAG_UPDATE_AGE))
        return expires_ms;
    return (cm_recency_stamp(word) << STAMP_NS_SHIFT) / MS_NS + (tag >> 32);
}

static inline bool is_past(uint64_t expires_ms, uint64_t now_ms) {
    return expires_ms && expires_ms <= now_ms;
}

/* When what the place holds expires; 0: never. */
static inline uint64_t place_expiry(const struct cm_lru *lru, const struct cm_place *place) {
    uint64_t tag = cm_record_version(place->record);
    uint64_t word = cm_recency_word(lru->store->participant->segment, slot_of(tag));
    return expiry_of(load_flags(cache_of(lru)), cm_record_expiry(place->record), tag, word);
}

/* --- the lock --- */

/* Waits for the present owner: briefly by spinning, then by yielding. The master repairs the cache of a dead
 * one. */
void cm_cache_lock(struct cm_lru *lru);
bool cm_cache_try_lock(struct cm_lru *lru, uint64_t *word);
void cm_cache_unlock(struct cm_lru *lru);

/* --- taking out: under the lock --- */

enum { CM_CACHE_TRIES = 64 }; /* slots pushed again in one hold of the lock */

/* Takes the least recently used entry out, and adds its bytes to *freed_bytes. 0, also when it turned out to
 * be in use; CM_E_NOTFOUND: there is none; CM_E_BUSY: after that many tries the lock is to be given to
 * others. */
int cm_cache_evict(struct cm_lru *lru, unsigned *tries, uint64_t *freed_bytes);
/* As above, but only if it takes so many bytes and another entry can have its place, which is the caller's
 * then. CM_E_CONFLICT: it is not so, and nothing has been done. */
int cm_cache_vacate(struct cm_lru *lru, unsigned *tries, uint64_t bytes, struct cm_vacancy *vacancy);
/* Takes out what the place holds. Leaves. */
void cm_cache_take_out(struct cm_lru *lru, struct cm_section *section, const struct cm_place *place);
void cm_cache_empty(struct cm_lru *lru);

#endif
