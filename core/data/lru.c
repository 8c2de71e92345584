#include "data/lru.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "data/cached.h"
#include "memory/chunk.h"

enum { ROOM_TRIES = 100 }; /* of the master to get what it made room for: others take chunks meanwhile */

void cm_lru_init(struct cm_lru *lru, struct cm_store *store) {
    *lru = (struct cm_lru){.store = store, .clock_ns = cm_clock_ns};
}

/* --- time --- */

/* Eight nanoseconds a unit: 56 bits of them last for eighteen years of the machine's being up, no operation
 * is shorter, and they tell milliseconds exactly. */
static uint64_t new_stamp(struct cm_lru *lru, uint64_t now_ns) {
    uint64_t stamp = now_ns >> STAMP_NS_SHIFT;
    lru->stamp = stamp > lru->stamp ? stamp : lru->stamp + 1;
    return lru->stamp;
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
            stamp = new_stamp(lru, now_ns);
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

/* --- putting in --- */

static int append_once(struct cm_lru *lru, struct cm_key key, struct cm_bytes value, uint64_t *offset) {
    struct cm_participant *participant = lru->store->participant;
    cm_append_begin(participant);
    int err = cm_append_entry(participant, CM_KIND_BYTES, key.hash, key.bytes, value, 0, offset);
    if (err)
        cm_append_rewind(participant);
    return err;
}

/* As in core/data/store: where there is little left, only the master appends, having made room. */
static int append(struct cm_lru *lru, struct cm_key key, struct cm_bytes value, uint64_t *offset) {
    struct cm_store *room = lru->store;
    struct cm_participant *participant = room->participant;
    int err = cm_chunk_few_free(participant->segment) ? CM_E_NOMEMORY : append_once(lru, key, value, offset);
    if (err == CM_E_NOMEMORY && !room->make_room)
        cm_participant_ring(participant, CM_RING_MEMORY);
    for (int i = 0; err == CM_E_NOMEMORY && room->make_room && i < ROOM_TRIES; i++) {
        struct cm_found found;
        uint64_t freed_bytes = 0;
        if (!cm_table_get(participant, &key, NULL, &found))
            freed_bytes = cm_append_bytes(participant->segment, key.bytes.len, found.value_len);
        uint64_t bytes = cm_append_bytes(participant->segment, key.bytes.len, value.len);
        if (room->make_room(room->data, bytes, freed_bytes))
            break;
        err = append_once(lru, key, value, offset);
    }
    return err;
}

/* Makes room in the cache for an entry of that many bytes under the key: under the lock, where nobody else
 * puts anything in or takes it out, so that a look without the group is exact. CM_E_BUSY as cm_cache_evict;
 * CM_E_TOOLARGE; CM_E_NOMEMORY. */
static int make_room(struct cm_lru *lru, struct cm_key key, uint64_t bytes) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_cache *cache = cache_of(lru);
    uint64_t most_bytes = load(&cache->most_bytes);
    if (bytes > most_bytes)
        return CM_E_TOOLARGE;
    unsigned tries = CM_CACHE_TRIES;
    struct cm_found found;
    bool there = true;
    for (;;) {
        bool full = load(&cache->entries) >= load(&cache->most_entries);
        if (!full && load(&cache->bytes) <= most_bytes - bytes)
            return cm_recency_reserve(participant->segment);
        uint64_t replaced_bytes = 0;
        /* Again only if it was there, and may have gone meanwhile. */
        if (there)
            there = cm_table_get(participant, &key, NULL, &found) == 0;
        if (there) {
            replaced_bytes = cm_append_bytes(participant->segment, key.bytes.len, found.value_len);
            if (load(&cache->bytes) - replaced_bytes <= most_bytes - bytes)
                return 0;
            /* It is not the one to give way. */
            cm_recency_touch(participant->segment, slot_of(found.version), generation_of(found.version),
                             lru->stamp);
        }
        uint64_t freed_bytes = 0;
        int err = cm_cache_evict(lru, &tries, &freed_bytes);
        if (err)
            return err;
    }
}

/* Links the entry at the offset, for which there is room. */
static void link_entry(struct cm_lru *lru, struct cm_key key, uint64_t bytes, uint64_t max_age_ms,
                       uint64_t now_ns, uint64_t offset) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_segment *segment = participant->segment;
    struct cm_cache *cache = cache_of(lru);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, key.hash, &section);
    cm_table_find(participant, &section, &key, &place);
    if (max_age_ms == CM_LRU_DEFAULT_AGE)
        max_age_ms = atomic_load_explicit(&cache->max_age_ms, memory_order_relaxed);
    uint32_t slot;
    if (place.record) {
        /* The slot is kept: a hit that is on its way counts for the new value too. */
        slot = slot_of(cm_record_version(place.record));
        add(&cache->bytes, bytes - entry_bytes(lru, place.shape));
        cm_recency_touch(segment, slot, cm_recency_generation(cm_recency_word(segment, slot)), lru->stamp);
    } else {
        slot = cm_recency_take(segment, key.hash, lru->stamp);
        add(&cache->bytes, bytes);
        add(&cache->entries, 1);
    }
    uint8_t generation = cm_recency_generation(cm_recency_word(segment, slot));
    struct cm_record *record = cm_record_at(segment, offset);
    cm_record_set_expiry(record, max_age_ms ? now_ns / MS_NS + max_age_ms : 0);
    cm_record_set_tag(record, tag_of(max_age_ms, generation, slot));
    CM_FAULT("cache-linking");
    cm_table_link(participant, &section, &place, offset);
    CM_FAULT("cache-linked");
    if (!place.record)
        cm_recency_push(segment, slot);
}

int cm_lru_set(struct cm_lru *lru, struct cm_bytes key_bytes, struct cm_bytes value, uint64_t max_age_ms) {
    if (key_bytes.len == 0 || key_bytes.len > CM_KEY_MAX_BYTES)
        return CM_E_BADVALUE;
    if (value.len > UINT32_MAX - 8)
        return CM_E_TOOLARGE;
    struct cm_participant *participant = lru->store->participant;
    struct cm_key key = cm_table_key_in(participant->segment, CM_SPACE_CACHE, key_bytes);
    uint64_t bytes = cm_append_bytes(participant->segment, key_bytes.len, value.len);
    uint64_t offset;
    int err = append(lru, key, value, &offset);
    if (err)
        return err;
    uint64_t now_ns;
    do {
        cm_cache_lock(lru);
        /* Now that nobody else puts anything in, so the stamps of what is put in are in the order of that. */
        now_ns = lru->clock_ns();
        new_stamp(lru, now_ns);
        err = make_room(lru, key, bytes);
        if (err)
            cm_cache_unlock(lru);
    } while (err == CM_E_BUSY);
    if (err) {
        cm_append_rewind(participant);
        return err;
    }
    link_entry(lru, key, bytes, max_age_ms, now_ns, offset);
    cm_cache_unlock(lru);
    cm_append_commit(participant);
    cm_append_prefetch(participant, bytes);
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
