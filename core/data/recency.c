#include "data/recency.h"

#include "base/error.h"
#include "base/fault.h"
#include "memory/table.h"

enum {
    SLOTS_BACKED = 1024, /* get their memory together */
    BRANCHES = 4,        /* of the heap: as much as a cache line */
    PAGE_MOST_BYTES = 4096,
    MEMORY_STEP_BYTES = 1 << 20,
};
/* No slot has these numbers. */
#define NONE UINT32_MAX
#define HEAPED (UINT32_MAX - 1)

/* In the queue: the stamp with which it came, and its neighbours. In the heap: `before` says so, and `after`
 * where. Free: `after` is the next free one. */
struct slot {
    _Atomic uint64_t word;
    uint64_t hash;
    uint64_t seen;
    uint32_t before;
    uint32_t after;
};

struct item {
    uint64_t seen;
    uint32_t slot;
};

enum { SLOT_BYTES = sizeof(struct slot) + sizeof(struct item) };
_Static_assert(SLOT_BYTES == 48, "other than half a line and a quarter");

/* The slots lie from the beginning of their part of the segment on, the heap's items from its end backwards.
 * The numbers are read from the segment, and may be any: one that is too large is the first's. */
static struct slot *slot_at(const struct cm_segment *segment, uint32_t index) {
    uint64_t at = segment->layout.recency_at + (uint64_t)index * sizeof(struct slot);
    if (__builtin_expect(at >= segment->layout.groups_at, 0))
        at = segment->layout.recency_at;
    return (struct slot *)(void *)(segment->base + at);
}

static struct item *item_at(const struct cm_segment *segment, uint32_t place) {
    uint64_t below = ((uint64_t)place + 1) * sizeof(struct item);
    if (__builtin_expect(below > segment->layout.groups_at - segment->layout.recency_at, 0))
        below = sizeof(struct item);
    return (struct item *)(void *)(segment->base + segment->layout.groups_at - below);
}

uint32_t cm_recency_capacity(const struct cm_segment *segment) {
    uint64_t slots = (segment->layout.groups_at - segment->layout.recency_at) / SLOT_BYTES;
    return slots < CM_RECENCY_MOST_SLOTS ? (uint32_t)slots : CM_RECENCY_MOST_SLOTS;
}

uint64_t cm_recency_memory_for(uint64_t slots) {
    uint64_t bytes = (slots * SLOT_BYTES + PAGE_MOST_BYTES) * CM_RECENCY_PART;
    return (bytes + MEMORY_STEP_BYTES - 1) / MEMORY_STEP_BYTES * MEMORY_STEP_BYTES;
}

/* --- the words --- */

/* Relaxed, as in what follows: a stamp publishes nothing but itself, and an entry's arrival and departure are
 * its group's business. */
uint64_t cm_recency_word(const struct cm_segment *segment, uint32_t slot) {
    return atomic_load_explicit(&slot_at(segment, slot)->word, memory_order_relaxed);
}

/* A hit whose swap succeeds comes before the retirement of that generation in the order of the word's own
 * changes, which is all that the evictor's swap relies on. */
bool cm_recency_touch(const struct cm_segment *segment, uint32_t slot, uint8_t generation, uint64_t stamp) {
    _Atomic uint64_t *at = &slot_at(segment, slot)->word;
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    do {
        if (cm_recency_generation(word) != generation)
            return false;
        if (cm_recency_stamp(word) >= stamp)
            return true;
    } while (!atomic_compare_exchange_weak_explicit(at, &word, stamp << 8 | generation, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static uint64_t retired(uint64_t word) {
    return cm_recency_stamp(word) << 8 | (uint8_t)(cm_recency_generation(word) + 1);
}

/* Acquire and release: the unlinking that follows is not seen before it. */
bool cm_recency_retire_if(const struct cm_segment *segment, uint32_t slot, uint64_t stamp) {
    _Atomic uint64_t *at = &slot_at(segment, slot)->word;
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    return cm_recency_stamp(word) == stamp &&
           atomic_compare_exchange_strong_explicit(at, &word, retired(word), memory_order_acq_rel,
                                                   memory_order_relaxed);
}

void cm_recency_retire(const struct cm_segment *segment, uint32_t slot) {
    while (!cm_recency_retire_if(segment, slot, cm_recency_stamp(cm_recency_word(segment, slot)))) {
    }
}

/* --- the queue: each was seen no later than the one after it --- */

static void append(struct cm_segment *segment, uint32_t index, uint64_t seen) {
    struct cm_cache *cache = &segment->header->cache;
    struct slot *slot = slot_at(segment, index);
    slot->seen = seen;
    slot->before = cache->newest;
    slot->after = NONE;
    if (cache->queued++)
        slot_at(segment, cache->newest)->after = index;
    else
        cache->oldest = index;
    cache->newest = index;
}

static void detach(struct cm_segment *segment, uint32_t index) {
    struct cm_cache *cache = &segment->header->cache;
    const struct slot *slot = slot_at(segment, index);
    cache->queued--;
    if (index == cache->oldest)
        cache->oldest = slot->after;
    else
        slot_at(segment, slot->before)->after = slot->after;
    if (index == cache->newest)
        cache->newest = slot->before;
    else
        slot_at(segment, slot->after)->before = slot->before;
}

/* --- the heap: a parent was seen no later than its children --- */

static void put(const struct cm_segment *segment, uint32_t place, struct item item) {
    *item_at(segment, place) = item;
    struct slot *slot = slot_at(segment, item.slot);
    slot->before = HEAPED;
    slot->after = place;
}

/* Puts the item at the place or below it, where it belongs. */
static void sink(const struct cm_segment *segment, uint32_t place, struct item item) {
    uint32_t count = segment->header->cache.heaped;
    for (;;) {
        uint64_t first = (uint64_t)place * BRANCHES + 1;
        struct item least = item;
        uint32_t least_at = place;
        for (uint64_t i = first; i < first + BRANCHES && i < count; i++) {
            struct item other = *item_at(segment, (uint32_t)i);
            if (other.seen < least.seen) {
                least = other;
                least_at = (uint32_t)i;
            }
        }
        put(segment, place, least);
        if (least_at == place)
            return;
        place = least_at;
    }
}

/* Likewise, or above it. */
static void rise(const struct cm_segment *segment, uint32_t place, struct item item) {
    for (; place; place = (place - 1) / BRANCHES) {
        struct item parent = *item_at(segment, (place - 1) / BRANCHES);
        if (parent.seen <= item.seen)
            break;
        put(segment, place, parent);
    }
    put(segment, place, item);
}

static void heap(struct cm_segment *segment, struct item item) {
    rise(segment, segment->header->cache.heaped++, item);
}

static void unheap(struct cm_segment *segment, uint32_t place) {
    uint32_t last = --segment->header->cache.heaped;
    if (place == last)
        return;
    struct item item = *item_at(segment, last);
    if (place && item.seen < item_at(segment, (place - 1) / BRANCHES)->seen)
        rise(segment, place, item);
    else
        sink(segment, place, item);
}

/* --- both --- */

/* What is put in has the latest stamp, but where the clock stands still, or after a death. */
void cm_recency_push(struct cm_segment *segment, uint32_t slot) {
    const struct cm_cache *cache = &segment->header->cache;
    uint64_t stamp = cm_recency_stamp(cm_recency_word(segment, slot));
    if (!cache->queued || slot_at(segment, cache->newest)->seen <= stamp)
        append(segment, slot, stamp);
    else
        heap(segment, (struct item){stamp, slot});
}

/* The one that was seen first. False: there is none. */
static bool find_first(const struct cm_segment *segment, struct item *first, bool *queued) {
    const struct cm_cache *cache = &segment->header->cache;
    *queued = cache->queued;
    if (*queued)
        *first = (struct item){slot_at(segment, cache->oldest)->seen, cache->oldest};
    if (cache->heaped && (!*queued || item_at(segment, 0)->seen < first->seen)) {
        *queued = false;
        *first = *item_at(segment, 0);
    }
    return cache->queued || cache->heaped;
}

int cm_recency_oldest(struct cm_segment *segment, unsigned *tries, uint32_t *slot, uint64_t *stamp) {
    struct item first;
    bool queued;
    while (find_first(segment, &first, &queued)) {
        *slot = first.slot;
        *stamp = cm_recency_stamp(cm_recency_word(segment, first.slot));
        if (*stamp == first.seen)
            return 0;
        if (*tries == 0)
            return CM_E_BUSY;
        --*tries;
        first.seen = *stamp;
        if (queued) {
            detach(segment, first.slot);
            CM_FAULT("cache-left-queue");
            heap(segment, first);
        } else {
            sink(segment, 0, first);
        }
        CM_FAULT("cache-pushed-again");
    }
    return CM_E_NOTFOUND;
}

/* With each one that goes, the queue's next come one step nearer: the slot, its group, the first entry of the
 * chain, the one behind that. So none of these steps waits for what the one before has asked for. */
void cm_recency_prefetch(const struct cm_segment *segment) {
    const struct cm_cache *cache = &segment->header->cache;
    if (cache->heaped)
        cm_table_prefetch(segment, slot_at(segment, item_at(segment, 0)->slot)->hash, CM_PREFETCH_FIRST);
    uint32_t index = cache->oldest, left = cache->queued;
    for (unsigned what = CM_PREFETCH_SECOND; what && left; what--, left--) {
        const struct slot *slot = slot_at(segment, index);
        cm_table_prefetch(segment, slot->hash, what);
        index = slot->after;
    }
    if (left)
        __builtin_prefetch(slot_at(segment, index));
}

bool cm_recency_last(const struct cm_segment *segment, uint32_t *slot) {
    const struct cm_cache *cache = &segment->header->cache;
    if (cache->heaped)
        *slot = item_at(segment, cache->heaped - 1)->slot;
    else if (cache->queued)
        *slot = cache->newest;
    return cache->heaped || cache->queued;
}

uint64_t cm_recency_hash(const struct cm_segment *segment, uint32_t slot) {
    return slot_at(segment, slot)->hash;
}

/* --- slots --- */

int cm_recency_reserve(struct cm_segment *segment) {
    struct cm_cache *cache = &segment->header->cache;
    if (cache->free_slot || cache->slots_used < cache->slots_backed)
        return 0;
    uint32_t backed = cache->slots_backed, slots = cm_recency_capacity(segment) - backed;
    if (slots > SLOTS_BACKED)
        slots = SLOTS_BACKED;
    int err = cm_segment_back(segment, segment->layout.recency_at + (uint64_t)backed * sizeof(struct slot),
                              slots * sizeof(struct slot));
    if (!err)
        err = cm_segment_back(segment,
                              segment->layout.groups_at - ((uint64_t)backed + slots) * sizeof(struct item),
                              slots * sizeof(struct item));
    if (!err)
        cache->slots_backed += slots;
    return err;
}

uint32_t cm_recency_take(struct cm_segment *segment, uint64_t hash, uint64_t stamp) {
    struct cm_cache *cache = &segment->header->cache;
    uint32_t index;
    if (cache->free_slot) {
        index = cache->free_slot - 1;
        cache->free_slot = slot_at(segment, index)->after;
    } else {
        index = cache->slots_used++;
    }
    CM_FAULT("cache-slot-taken");
    struct slot *slot = slot_at(segment, index);
    slot->hash = hash;
    /* No swap: hits of the last generation change nothing any more, and this one's have not begun. */
    uint64_t generation = cm_recency_generation(cm_recency_word(segment, index));
    atomic_store_explicit(&slot->word, stamp << 8 | generation, memory_order_relaxed);
    return index;
}

void cm_recency_give_back(struct cm_segment *segment, uint32_t slot) {
    struct cm_cache *cache = &segment->header->cache;
    slot_at(segment, slot)->after = cache->free_slot;
    cache->free_slot = slot + 1;
}

void cm_recency_free(struct cm_segment *segment, uint32_t slot) {
    if (slot_at(segment, slot)->before == HEAPED)
        unheap(segment, slot_at(segment, slot)->after);
    else
        detach(segment, slot);
    CM_FAULT("cache-item-removed");
    cm_recency_give_back(segment, slot);
}

void cm_recency_forget(struct cm_segment *segment) {
    struct cm_cache *cache = &segment->header->cache;
    cache->queued = 0;
    cache->heaped = 0;
    cache->free_slot = 0;
}
