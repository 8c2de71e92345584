#include "data/recency.h"

#include "base/error.h"
#include "base/fault.h"

enum {
    PAGE_SLOTS = 128,
    PAGES_BACKED = 8, /* get their memory together */
    BRANCHES = 4,     /* of the heap: their stamps are half a cache line */
};

/* The heap's item i is {seen, slot} at i; positions tell where a slot is in it, or which free one follows. */
struct page {
    _Atomic uint64_t words[PAGE_SLOTS];
    uint64_t hashes[PAGE_SLOTS];
    uint64_t seen[PAGE_SLOTS];
    uint32_t slots[PAGE_SLOTS];
    uint32_t positions[PAGE_SLOTS];
};
_Static_assert(sizeof(struct page) == 4096, "no page of 4 KiB");

static struct page *page_of(const struct cm_segment *segment, uint32_t index) {
    struct page *pages = (struct page *)(void *)(segment->base + segment->layout.recency_at);
    return pages + index / PAGE_SLOTS;
}

static _Atomic uint64_t *word_of(const struct cm_segment *segment, uint32_t slot) {
    return &page_of(segment, slot)->words[slot % PAGE_SLOTS];
}

static uint32_t *position_of(const struct cm_segment *segment, uint32_t slot) {
    return &page_of(segment, slot)->positions[slot % PAGE_SLOTS];
}

uint32_t cm_recency_capacity(const struct cm_segment *segment) {
    uint64_t bytes = segment->layout.groups_at - segment->layout.recency_at;
    uint64_t slots = bytes / sizeof(struct page) * PAGE_SLOTS;
    return slots < CM_RECENCY_MOST_SLOTS ? (uint32_t)slots : CM_RECENCY_MOST_SLOTS;
}

uint64_t cm_recency_memory_for(uint64_t slots) {
    return (slots + PAGE_SLOTS - 1) / PAGE_SLOTS * sizeof(struct page) * CM_RECENCY_PART;
}

/* --- the words --- */

/* Relaxed, as in what follows: a stamp publishes nothing but itself, and an entry's arrival and departure are
 * its group's business. */
uint64_t cm_recency_word(const struct cm_segment *segment, uint32_t slot) {
    return atomic_load_explicit(word_of(segment, slot), memory_order_relaxed);
}

/* A hit whose swap succeeds comes before the retirement of that generation in the order of the word's own
 * changes, which is all that the evictor's swap relies on. */
bool cm_recency_touch(const struct cm_segment *segment, uint32_t slot, uint8_t generation, uint64_t stamp) {
    _Atomic uint64_t *at = word_of(segment, slot);
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
    _Atomic uint64_t *at = word_of(segment, slot);
    uint64_t word = atomic_load_explicit(at, memory_order_relaxed);
    return cm_recency_stamp(word) == stamp &&
           atomic_compare_exchange_strong_explicit(at, &word, retired(word), memory_order_acq_rel,
                                                   memory_order_relaxed);
}

void cm_recency_retire(const struct cm_segment *segment, uint32_t slot) {
    while (!cm_recency_retire_if(segment, slot, cm_recency_stamp(cm_recency_word(segment, slot)))) {
    }
}

/* --- the heap: a parent was last seen no later than its children --- */

static uint64_t seen_at(const struct cm_segment *segment, uint32_t at) {
    return page_of(segment, at)->seen[at % PAGE_SLOTS];
}

static uint32_t slot_at(const struct cm_segment *segment, uint32_t at) {
    return page_of(segment, at)->slots[at % PAGE_SLOTS];
}

static void put(const struct cm_segment *segment, uint32_t at, uint64_t seen, uint32_t slot) {
    struct page *page = page_of(segment, at);
    page->seen[at % PAGE_SLOTS] = seen;
    page->slots[at % PAGE_SLOTS] = slot;
    *position_of(segment, slot) = at;
}

/* Puts the item at the place or below it, where it belongs. */
static void sink(const struct cm_segment *segment, uint32_t at, uint64_t seen, uint32_t slot) {
    uint32_t count = segment->header->cache.heaped;
    for (;;) {
        uint64_t first = (uint64_t)at * BRANCHES + 1;
        uint32_t least = at;
        uint64_t least_seen = seen;
        for (uint64_t i = first; i < first + BRANCHES && i < count; i++) {
            uint64_t other = seen_at(segment, (uint32_t)i);
            if (other < least_seen) {
                least = (uint32_t)i;
                least_seen = other;
            }
        }
        if (least == at)
            break;
        put(segment, at, least_seen, slot_at(segment, least));
        at = least;
    }
    put(segment, at, seen, slot);
}

/* Likewise, or above it. */
static void rise(const struct cm_segment *segment, uint32_t at, uint64_t seen, uint32_t slot) {
    for (; at; at = (at - 1) / BRANCHES) {
        uint32_t parent = (at - 1) / BRANCHES;
        if (seen_at(segment, parent) <= seen)
            break;
        put(segment, at, seen_at(segment, parent), slot_at(segment, parent));
    }
    put(segment, at, seen, slot);
}

void cm_recency_push(struct cm_segment *segment, uint32_t slot) {
    rise(segment, segment->header->cache.heaped++, cm_recency_stamp(cm_recency_word(segment, slot)), slot);
}

int cm_recency_oldest(struct cm_segment *segment, unsigned *tries, uint32_t *slot, uint64_t *stamp) {
    if (!segment->header->cache.heaped)
        return CM_E_NOTFOUND;
    for (;;) {
        *slot = slot_at(segment, 0);
        *stamp = cm_recency_stamp(cm_recency_word(segment, *slot));
        if (*stamp == seen_at(segment, 0))
            return 0;
        if (*tries == 0)
            return CM_E_BUSY;
        --*tries;
        sink(segment, 0, *stamp, *slot);
        CM_FAULT("cache-pushed-again");
    }
}

bool cm_recency_first(const struct cm_segment *segment, uint32_t *slot) {
    bool any = segment->header->cache.heaped;
    if (any)
        *slot = slot_at(segment, 0);
    return any;
}

bool cm_recency_last(const struct cm_segment *segment, uint32_t *slot) {
    uint32_t heaped = segment->header->cache.heaped;
    if (heaped)
        *slot = slot_at(segment, heaped - 1);
    return heaped;
}

uint64_t cm_recency_hash(const struct cm_segment *segment, uint32_t slot) {
    return page_of(segment, slot)->hashes[slot % PAGE_SLOTS];
}

/* --- slots --- */

int cm_recency_reserve(struct cm_segment *segment) {
    struct cm_cache *cache = &segment->header->cache;
    if (cache->free_slot || cache->slots_used < cache->slots_backed)
        return 0;
    uint64_t at = segment->layout.recency_at + cache->slots_backed / PAGE_SLOTS * sizeof(struct page);
    uint32_t slots = cm_recency_capacity(segment) - cache->slots_backed;
    if (slots > PAGES_BACKED * PAGE_SLOTS)
        slots = PAGES_BACKED * PAGE_SLOTS;
    int err = cm_segment_back(segment, at, slots / PAGE_SLOTS * sizeof(struct page));
    if (!err)
        cache->slots_backed += slots;
    return err;
}

uint32_t cm_recency_take(struct cm_segment *segment, uint64_t hash, uint64_t stamp) {
    struct cm_cache *cache = &segment->header->cache;
    uint32_t slot;
    if (cache->free_slot) {
        slot = cache->free_slot - 1;
        cache->free_slot = *position_of(segment, slot);
    } else {
        slot = cache->slots_used++;
    }
    CM_FAULT("cache-slot-taken");
    page_of(segment, slot)->hashes[slot % PAGE_SLOTS] = hash;
    /* No swap: hits of the last generation change nothing any more, and this one's have not begun. */
    uint64_t generation = cm_recency_generation(cm_recency_word(segment, slot));
    atomic_store_explicit(word_of(segment, slot), stamp << 8 | generation, memory_order_relaxed);
    return slot;
}

void cm_recency_give_back(struct cm_segment *segment, uint32_t slot) {
    struct cm_cache *cache = &segment->header->cache;
    *position_of(segment, slot) = cache->free_slot;
    cache->free_slot = slot + 1;
}

void cm_recency_free(struct cm_segment *segment, uint32_t slot) {
    uint32_t at = *position_of(segment, slot);
    uint32_t last = --segment->header->cache.heaped;
    if (at != last) {
        uint64_t seen = seen_at(segment, last);
        if (at && seen < seen_at(segment, (at - 1) / BRANCHES))
            rise(segment, at, seen, slot_at(segment, last));
        else
            sink(segment, at, seen, slot_at(segment, last));
    }
    CM_FAULT("cache-item-removed");
    cm_recency_give_back(segment, slot);
}

void cm_recency_forget(struct cm_segment *segment) {
    segment->header->cache.heaped = 0;
    segment->header->cache.free_slot = 0;
}
