/* Putting into the cache, of core/data/lru.h. */
#include "base/error.h"
#include "base/fault.h"
#include "data/cached.h"
#include "data/room.h"

/* Whether something has to go for so many bytes, which are no more than the cache may have at all. */
static bool is_full(const struct cm_cache *cache, uint64_t bytes) {
    return load(&cache->entries) >= load(&cache->most_entries) ||
           load(&cache->bytes) > load(&cache->most_bytes) - bytes;
}

/* Makes room in the cache for an entry of that many bytes under the key: under the lock, where nobody else
 * puts anything in or takes it out, so that a look without the group is exact. CM_E_BUSY as cm_cache_evict;
 * CM_E_TOOLARGE; CM_E_NOMEMORY. */
static int make_room(struct cm_lru *lru, struct cm_key key, uint64_t bytes) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_cache *cache = cache_of(lru);
    if (bytes > load(&cache->most_bytes))
        return CM_E_TOOLARGE;
    unsigned tries = CM_CACHE_TRIES;
    struct cm_found found;
    bool there = true;
    while (is_full(cache, bytes)) {
        uint64_t replaced_bytes = 0;
        /* Again only if it was there, and may have gone meanwhile. */
        if (there)
            there = cm_table_get(participant, &key, NULL, &found) == 0;
        if (there) {
            replaced_bytes = cm_append_bytes(participant->segment, key.bytes.len, found.value_len);
            if (load(&cache->bytes) - replaced_bytes <= load(&cache->most_bytes) - bytes)
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
    return cm_recency_reserve(participant->segment);
}

/* Under the lock, now that nobody else puts anything in: so the stamps of what is put in are in the order of
 * that. */
static void note_moment(struct cm_lru *lru, struct cm_lru_arrival *arrival) {
    arrival->now_ns = lru->clock_ns();
    next_stamp(lru, arrival->now_ns);
}

/* Links the entry at the offset, of that many bytes, for which there is room. Leaves. */
static void link_entry(struct cm_lru *lru, const struct cm_lru_arrival *arrival, uint64_t bytes,
                       struct cm_section *section, const struct cm_place *place, uint64_t offset) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_segment *segment = participant->segment;
    struct cm_cache *cache = cache_of(lru);
    uint64_t max_age_ms = arrival->max_age_ms;
    if (max_age_ms == CM_LRU_DEFAULT_AGE)
        max_age_ms = atomic_load_explicit(&cache->max_age_ms, memory_order_relaxed);
    uint32_t slot;
    if (place->record) {
        /* The slot is kept: a hit that is on its way counts for the new value too. */
        slot = slot_of(cm_record_version(place->record));
        add(&cache->bytes, bytes - entry_bytes(lru, place->shape));
        cm_recency_touch(segment, slot, cm_recency_generation(cm_recency_word(segment, slot)), lru->stamp);
    } else {
        slot = cm_recency_take(segment, arrival->key.hash, lru->stamp);
        add(&cache->bytes, bytes);
        add(&cache->entries, 1);
    }
    uint8_t generation = cm_recency_generation(cm_recency_word(segment, slot));
    struct cm_record *record = cm_record_at(segment, offset);
    cm_record_set_expiry(record, max_age_ms ? arrival->now_ns / MS_NS + max_age_ms : 0);
    cm_record_set_tag(record, tag_of(max_age_ms, generation, slot));
    CM_FAULT("cache-linking");
    cm_table_link(participant, section, place, offset);
    CM_FAULT("cache-linked");
    if (!place->record)
        cm_recency_push(segment, slot);
}

/* --- in the place of the one that goes --- */

/* If something has to go for a new entry of the key, which takes so many bytes: takes the lock, and the
 * oldest entry out, if its place is of that size. Where it is not known yet (0), the next is taken to be as
 * large as the last, and nothing goes but where it has to for any. */
static void vacate(struct cm_lru *lru, struct cm_lru_arrival *arrival, uint64_t bytes) {
    struct cm_participant *participant = lru->store->participant;
    const struct cm_cache *cache = cache_of(lru);
    /* A glance, before the lock is taken: what is decided is decided under it. */
    if (!is_full(cache, bytes))
        return;
    cm_cache_lock(lru);
    note_moment(lru, arrival);
    unsigned tries = CM_CACHE_TRIES;
    struct cm_found found;
    int err = cm_table_get(participant, &arrival->key, NULL, &found) == CM_E_NOTFOUND ? 0 : CM_E_EXISTS;
    while (!err && !arrival->vacancy.offset && is_full(cache, bytes))
        err = cm_cache_vacate(lru, &tries, bytes ? bytes : lru->last_bytes, &arrival->vacancy);
    if (!arrival->vacancy.offset)
        cm_cache_unlock(lru);
}

/* Puts the entry where there is a place for it. False: it cannot be there. */
static bool fill(struct cm_lru *lru, const struct cm_lru_arrival *arrival, struct cm_bytes value,
                 uint64_t bytes) {
    struct cm_participant *participant = lru->store->participant;
    const struct cm_vacancy *vacancy = &arrival->vacancy;
    if (bytes > load(&cache_of(lru)->most_bytes) || is_full(cache_of(lru), bytes) ||
        !cm_vacancy_write(participant, vacancy, arrival->key.hash, arrival->key.bytes, value))
        return false;
    struct cm_section section;
    cm_table_enter(participant, arrival->key.hash, &section);
    if (!cm_vacancy_stands(participant, vacancy)) {
        cm_section_leave(&section);
        return false;
    }
    /* Nobody else can have put it in since it was looked for: the lock is held. */
    struct cm_place place;
    cm_table_place_new(participant, &section, arrival->key.hash, &place);
    link_entry(lru, arrival, bytes, &section, &place, vacancy->offset);
    return true;
}

/* Gives the lock back, with the place filled or not. */
static bool try_fill(struct cm_lru *lru, struct cm_lru_arrival *arrival, struct cm_bytes value,
                     uint64_t bytes) {
    if (!arrival->vacancy.offset)
        return false;
    bool filled = fill(lru, arrival, value, bytes);
    if (filled) {
        cm_vacancy_end(lru->store->participant);
        cm_cache_unlock(lru);
    } else {
        cm_lru_cancel(lru, arrival);
    }
    return filled;
}

static int append_and_link(struct cm_lru *lru, struct cm_lru_arrival *arrival, struct cm_bytes value,
                           uint64_t bytes) {
    struct cm_participant *participant = lru->store->participant;
    struct cm_store cached = *lru->store;
    cached.space = CM_SPACE_CACHE;
    struct cm_pair pair = {arrival->key.bytes, {.bytes = value}};
    uint64_t offset;
    int err = cm_store_append(&cached, &pair, 1, 0, &offset);
    if (err)
        return err;
    do {
        cm_cache_lock(lru);
        note_moment(lru, arrival);
        err = make_room(lru, arrival->key, bytes);
        if (err)
            cm_cache_unlock(lru);
    } while (err == CM_E_BUSY);
    if (err) {
        cm_append_rewind(participant);
        return err;
    }
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, arrival->key.hash, &section);
    cm_table_find(participant, &section, &arrival->key, &place);
    link_entry(lru, arrival, bytes, &section, &place, offset);
    cm_cache_unlock(lru);
    cm_append_commit(participant);
    cm_append_prefetch(participant, bytes);
    return 0;
}

static int begin(struct cm_lru *lru, struct cm_bytes key, uint64_t max_age_ms,
                 struct cm_lru_arrival *arrival) {
    if (key.len == 0 || key.len > CM_KEY_MAX_BYTES)
        return CM_E_BADVALUE;
    *arrival =
        (struct cm_lru_arrival){.key = cm_table_key_in(lru->store->participant->segment, CM_SPACE_CACHE, key),
                                .max_age_ms = max_age_ms};
    return 0;
}

int cm_lru_begin(struct cm_lru *lru, struct cm_bytes key, uint64_t max_age_ms,
                 struct cm_lru_arrival *arrival) {
    int err = begin(lru, key, max_age_ms, arrival);
    if (!err)
        vacate(lru, arrival, 0);
    return err;
}

void cm_lru_cancel(struct cm_lru *lru, struct cm_lru_arrival *arrival) {
    if (!arrival->vacancy.offset)
        return;
    cm_vacancy_give_up(lru->store->participant, &arrival->vacancy);
    cm_cache_unlock(lru);
    arrival->vacancy.offset = 0;
}

int cm_lru_finish(struct cm_lru *lru, struct cm_lru_arrival *arrival, struct cm_bytes value) {
    if (value.len > UINT32_MAX - 8) {
        cm_lru_cancel(lru, arrival);
        return CM_E_TOOLARGE;
    }
    uint64_t bytes = cm_append_bytes(lru->store->participant->segment, arrival->key.bytes.len, value.len);
    lru->last_bytes = bytes;
    return try_fill(lru, arrival, value, bytes) ? 0 : append_and_link(lru, arrival, value, bytes);
}

int cm_lru_set(struct cm_lru *lru, struct cm_bytes key, struct cm_bytes value, uint64_t max_age_ms) {
    struct cm_lru_arrival arrival;
    int err = begin(lru, key, max_age_ms, &arrival);
    if (err)
        return err;
    uint64_t bytes = cm_append_bytes(lru->store->participant->segment, key.len, value.len);
    if (bytes <= load(&cache_of(lru)->most_bytes))
        vacate(lru, &arrival, bytes);
    return cm_lru_finish(lru, &arrival, value);
}
