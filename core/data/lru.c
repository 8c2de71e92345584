#include "data/lru.h"

#include "base/clock.h"
#include "base/error.h"
#include "data/cached.h"

void cm_lru_init(struct cm_lru *lru, struct cm_store *store) {
    *lru = (struct cm_lru){.store = store, .clock_ns = cm_clock_ns};
}

void cm_lru_clear(struct cm_lru *lru) {
    cm_cache_lock(lru);
    cm_cache_empty(lru);
    cm_cache_unlock(lru);
}

void cm_lru_remove(struct cm_lru *lru, struct cm_bytes key_bytes) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_key key = cm_table_key_in(participant->segment, CM_SPACE_CACHE, key_bytes);
    struct cm_found found;
    /* A look without the lock: often there is nothing. */
    if (cm_table_get(participant, &key, NULL, &found) == CM_E_NOTFOUND)
        return;
    struct cm_section section;
    struct cm_place place;
    cm_cache_lock(lru);
    cm_table_enter(participant, key.hash, &section);
    if (cm_table_find(participant, &section, &key, &place))
        cm_cache_take_out(lru, &section, &place);
    else
        cm_section_leave(&section);
    cm_cache_unlock(lru);
}

/* Takes the key's entry out, if it is this one and has expired. False: somebody else has been faster. */
static bool take_stale(struct cm_lru *lru, struct cm_key key, uint64_t tag, uint64_t now_ms) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_section section;
    struct cm_place place;
    cm_cache_lock(lru);
    cm_table_enter(participant, key.hash, &section);
    bool done = cm_table_find(participant, &section, &key, &place) &&
                cm_record_version(place.record) == tag && is_past(place_expiry(lru, &place), now_ms);
    if (done) {
        cm_cache_take_out(lru, &section, &place);
        add(&cache_of(lru)->expirations, 1);
    } else {
        cm_section_leave(&section);
    }
    cm_cache_unlock(lru);
    return done;
}

/* --- reading --- */

static void count(struct cm_lru *lru, bool hit) {
    struct cm_seat *seat = lru->store->participant->seat;
    add(hit ? &seat->cache_hits : &seat->cache_misses, 1); /* only this participant writes it */
}

static int miss(struct cm_lru *lru) {
    count(lru, false);
    return CM_E_NOTFOUND;
}

int cm_lru_get(struct cm_lru *lru, struct cm_bytes key_bytes, struct cm_buf *buf, struct cm_bytes *value) {
    struct cm_participant *participant = lru->store->participant;
    const struct cm_segment *segment = participant->segment;
    struct cm_key key = cm_table_key_in(segment, CM_SPACE_CACHE, key_bytes);
    uint32_t flags = load_flags(cache_of(lru));
    struct cm_found found;
    uint64_t now_ns = 0, stamp = 0, left_tag = 0;
    for (bool left = false;;) {
        int err = cm_table_get(participant, &key, buf, &found);
        if (err)
            return err == CM_E_NOTFOUND ? miss(lru) : err;
        uint64_t tag = found.version;
        uint32_t slot = slot_of(tag);
        /* It has left, though it is linked still; an evictor that has been stopped there delays nobody. */
        if ((left && tag == left_tag) || slot >= cm_recency_capacity(segment))
            return miss(lru);
        /* The entry must be there when the clock is read, or after: should its slot have been given away
         * since, and the generation have come round to the same number, this stamp is too old to count there.
         * A miss needs no clock. */
        if (!now_ns) {
            now_ns = lru->clock_ns();
            stamp = next_stamp(lru, now_ns);
            if (!cm_table_unchanged(&found))
                continue;
        }
        uint64_t word = cm_recency_word(segment, slot);
        bool here = cm_recency_generation(word) == generation_of(tag);
        if (here && is_past(expiry_of(flags, found.expires_ms, tag, word), now_ns / MS_NS)) {
            if (!(flags & FLAG_STALE) || !take_stale(lru, key, tag, now_ns / MS_NS))
                return miss(lru);
            break;
        }
        if (here && cm_recency_touch(segment, slot, generation_of(tag), stamp))
            break;
        left = true;
        left_tag = tag;
    }
    *value = cm_buf_view(buf);
    count(lru, true);
    return 0;
}

/* --- starting, and counts --- */

static void sum_reads(const struct cm_segment *segment, uint64_t *hits, uint64_t *misses) {
    *hits = *misses = 0;
    for (uint32_t id = CM_MASTER_SEAT; id <= segment->layout.seats; id++) {
        *hits += load(&cm_segment_seat(segment, id)->cache_hits);
        *misses += load(&cm_segment_seat(segment, id)->cache_misses);
    }
}

int cm_lru_start(struct cm_lru *lru, const struct cm_lru_options *options) {
    const struct cm_segment *segment = lru->store->participant->segment;
    struct cm_cache *cache = cache_of(lru);
    uint64_t capacity = cm_recency_capacity(segment);
    if (options->most_entries > capacity)
        return CM_E_BADVALUE;
    cm_cache_lock(lru);
    cm_cache_empty(lru);
    store(&cache->most_entries, options->most_entries ? options->most_entries : capacity);
    store(&cache->most_bytes, options->most_bytes ? options->most_bytes : UINT64_MAX);
    atomic_store_explicit(&cache->max_age_ms, options->max_age_ms, memory_order_relaxed);
    uint32_t flags = (options->update_age ? FLAG_UPDATE_AGE : 0) | (options->stale ? FLAG_STALE : 0);
    atomic_store_explicit(&cache->flags, flags, memory_order_relaxed);
    store(&cache->evictions, 0);
    store(&cache->expirations, 0);
    uint64_t hits, misses;
    sum_reads(segment, &hits, &misses);
    store(&cache->hits_before, hits);
    store(&cache->misses_before, misses);
    cm_cache_unlock(lru);
    return 0;
}

void cm_lru_stats(const struct cm_segment *segment, struct cm_lru_stats *stats) {
    const struct cm_cache *cache = &segment->header->cache;
    sum_reads(segment, &stats->hits, &stats->misses);
    stats->hits -= load(&cache->hits_before);
    stats->misses -= load(&cache->misses_before);
    stats->entries = load(&cache->entries);
    stats->bytes = load(&cache->bytes);
    stats->evictions = load(&cache->evictions);
    stats->expirations = load(&cache->expirations);
}
