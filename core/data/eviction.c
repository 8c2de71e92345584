/* Taking out of the cache, of core/data/lru.h: its lock, eviction, and what the master does. */
#include <sched.h>
#include <time.h>

#include "base/error.h"
#include "base/fault.h"
#include "data/cached.h"

enum {
    SPINS = 200,      /* for the lock, before the first yield: longer than it is held mostly */
    YIELDS = 2000,    /* before the first sleep */
    SLEEP_NS = 50000, /* an owner that has kept it this long does not run */
};

/* --- the lock --- */

/* Acquires what the last owner released. */
bool cm_cache_try_lock(struct cm_lru *lru, uint64_t *word) {
    struct cm_cache *cache = cache_of(lru);
    *word = load(&cache->lock);
    if (cm_word_owner(*word) ||
        !atomic_compare_exchange_strong_explicit(
            &cache->lock, word, cm_word(cm_word_sequence(*word) + 1, lru->store->participant->id),
            memory_order_acquire, memory_order_relaxed))
        return false;
    CM_FAULT("cache-locked");
    return true;
}

void cm_cache_lock(struct cm_lru *lru) {
    uint64_t word;
    for (unsigned waits = 1; !cm_cache_try_lock(lru, &word); waits++) {
        if (waits < SPINS) {
            cm_pause();
            continue;
        }
        if (lru->is_dead && cm_word_owner(word) && lru->is_dead(lru->data, cm_word_owner(word)))
            cm_lru_repair(lru, cm_word_owner(word));
        else if (waits < YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    }
}

/* Release: the next owner sees all that this one did. */
void cm_cache_unlock(struct cm_lru *lru) {
    struct cm_cache *cache = cache_of(lru);
    CM_FAULT("cache-unlocking");
    atomic_store_explicit(&cache->lock, cm_word(cm_word_sequence(load(&cache->lock)), 0),
                          memory_order_release);
}

/* --- taking out: under the lock --- */

/* Takes the entry out, whose slot has been retired in this section. Leaves. With a `vacancy` the place is
 * kept. */
static void unlink_entry(struct cm_lru *lru, struct cm_section *section, const struct cm_place *place,
                         uint32_t slot, struct cm_vacancy *vacancy) {
    struct cm_cache *cache = cache_of(lru);
    CM_FAULT("cache-retired");
    if (vacancy)
        cm_vacancy_make(lru->store->participant, section, place, vacancy);
    else
        cm_table_unlink(lru->store->participant, section, place);
    CM_FAULT("cache-unlinked");
    add(&cache->entries, (uint64_t)-1);
    add(&cache->bytes, -entry_bytes(lru, place->shape));
    cm_recency_free(lru->store->participant->segment, slot);
}

/* Enters the group of the slot's entry. False, having left, where it is not there. */
static bool enter_slot(struct cm_lru *lru, uint32_t slot, struct cm_section *section,
                       struct cm_place *place) {
    struct cm_participant *participant = lru->store->participant;
    uint64_t hash = cm_recency_hash(participant->segment, slot);
    uint8_t generation = cm_recency_generation(cm_recency_word(participant->segment, slot));
    cm_table_enter(participant, hash, section);
    if (cm_table_find_tag(participant, section, hash, tag_of(0, generation, slot), TAG_PLACE, place))
        return true;
    cm_section_leave(section);
    return false;
}

/* Takes the oldest out; with a vacancy only if it takes so many bytes. */
static int evict(struct cm_lru *lru, unsigned *tries, uint64_t *bytes, struct cm_vacancy *vacancy) {
    struct cm_segment *segment = lru->store->participant->segment;
    uint32_t slot;
    uint64_t stamp;
    int err = cm_recency_oldest(segment, tries, &slot, &stamp);
    if (err)
        return err;
    struct cm_section section;
    struct cm_place place;
    if (!enter_slot(lru, slot, &section, &place)) {
        cm_recency_free(segment, slot); /* only where the segment has been tampered with */
        return 0;
    }
    uint64_t freed_bytes = entry_bytes(lru, place.shape);
    bool is_other = vacancy && (freed_bytes != *bytes || !cm_vacancy_suits(segment, place.shape));
    if (is_other || !cm_recency_retire_if(segment, slot, stamp)) {
        cm_section_leave(&section);
        return is_other ? CM_E_CONFLICT : 0;
    }
    unlink_entry(lru, &section, &place, slot, vacancy);
    add(&cache_of(lru)->evictions, 1);
    cm_recency_prefetch(segment);
    *bytes = freed_bytes;
    return 0;
}

int cm_cache_evict(struct cm_lru *lru, unsigned *tries, uint64_t *freed_bytes) {
    uint64_t bytes = 0;
    int err = evict(lru, tries, &bytes, NULL);
    *freed_bytes += bytes;
    return err;
}

int cm_cache_vacate(struct cm_lru *lru, unsigned *tries, uint64_t bytes, struct cm_vacancy *vacancy) {
    return evict(lru, tries, &bytes, vacancy);
}

void cm_cache_take_out(struct cm_lru *lru, struct cm_section *section, const struct cm_place *place) {
    uint32_t slot = slot_of(cm_record_version(place->record));
    cm_recency_retire(lru->store->participant->segment, slot);
    unlink_entry(lru, section, place, slot, NULL);
}

void cm_cache_empty(struct cm_lru *lru) {
    struct cm_segment *segment = lru->store->participant->segment;
    struct cm_section section;
    struct cm_place place;
    for (uint32_t slot; cm_recency_last(segment, &slot);) {
        if (enter_slot(lru, slot, &section, &place)) {
            cm_recency_retire(segment, slot);
            unlink_entry(lru, &section, &place, slot, NULL);
        } else {
            cm_recency_free(segment, slot);
        }
    }
}

/* --- the master's --- */

bool cm_lru_shrink(struct cm_lru *lru, uint64_t bytes) {
    uint64_t freed_bytes = 0;
    int err = 0;
    while (err != CM_E_NOTFOUND && freed_bytes < bytes) {
        unsigned tries = CM_CACHE_TRIES;
        cm_cache_lock(lru);
        err = 0;
        for (unsigned i = 0; !err && i < CM_CACHE_TRIES && freed_bytes < bytes; i++)
            err = cm_cache_evict(lru, &tries, &freed_bytes);
        cm_cache_unlock(lru);
    }
    return freed_bytes > 0;
}

bool cm_lru_sweep(struct cm_lru *lru, uint64_t hash, uint64_t tag, uint64_t now_ms) {
    struct cm_participant *master = lru->store->participant;
    uint64_t word;
    if (load_flags(cache_of(lru)) & FLAG_STALE)
        return true; /* somebody may want it still; it goes as the others go */
    if (!cm_cache_try_lock(lru, &word))
        return false;
    struct cm_section section;
    struct cm_place place;
    bool entered = cm_table_try(master, hash, &section);
    if (entered && cm_table_find_tag(master, &section, hash, tag, UINT64_MAX, &place)) {
        uint64_t expires_ms = place_expiry(lru, &place);
        if (is_past(expires_ms, now_ms)) {
            cm_cache_take_out(lru, &section, &place);
            add(&cache_of(lru)->expirations, 1);
        } else if (expires_ms != cm_record_expiry(place.record)) {
            cm_table_store_expiry(master, &section, &place, expires_ms);
        } else {
            cm_section_leave(&section);
        }
    } else if (entered) {
        cm_section_leave(&section);
    }
    cm_cache_unlock(lru);
    return entered;
}

/* --- after a death --- */

/* Each entry's slot knows its hash from before it is linked until after it is unlinked: so what is reachable
 * is found without a walk over the table. An entry whose slot has been retired has been evicted, but for its
 * unlinking. */
static void rebuild(struct cm_lru *lru) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_segment *segment = participant->segment;
    struct cm_cache *cache = cache_of(lru);
    cm_recency_forget(segment);
    store(&cache->entries, 0);
    store(&cache->bytes, 0);
    for (uint32_t slot = 0; slot < cache->slots_used; slot++) {
        uint64_t hash = cm_recency_hash(segment, slot);
        uint8_t generation = cm_recency_generation(cm_recency_word(segment, slot));
        struct cm_section section;
        struct cm_place place;
        cm_table_enter(participant, hash, &section);
        bool found = cm_table_find_tag(participant, &section, hash, slot, TAG_SLOT, &place);
        if (found && generation_of(cm_record_version(place.record)) != generation) {
            cm_table_unlink(participant, &section, &place);
            add(&cache->evictions, 1);
            found = false;
        } else {
            cm_section_leave(&section);
        }
        if (found) {
            add(&cache->entries, 1);
            add(&cache->bytes, entry_bytes(lru, place.shape));
            cm_recency_push(segment, slot);
        } else {
            cm_recency_give_back(segment, slot);
        }
    }
}

void cm_lru_repair(struct cm_lru *lru, uint32_t seat) {
    struct cm_cache *cache = cache_of(lru);
    uint64_t word = load(&cache->lock);
    /* Acquire, as in try_lock; waitpid has returned the owner, so all it stored is there. */
    if (cm_word_owner(word) != seat ||
        !atomic_compare_exchange_strong_explicit(
            &cache->lock, &word, cm_word(cm_word_sequence(word) + 1, lru->store->participant->id),
            memory_order_acquire, memory_order_relaxed))
        return;
    rebuild(lru);
    cm_cache_unlock(lru);
}
