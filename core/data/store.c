#include "data/store.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "data/entries.h"
#include "memory/append.h"
#include "memory/chunk.h"

void cm_store_init(struct cm_store *store, struct cm_participant *participant) {
    *store = (struct cm_store){.participant = participant, .clock_ms = cm_clock_ms};
}

void cm_store_deinit(struct cm_store *store) {
    cm_buf_deinit(&store->listing);
}

void cm_store_tell(const struct cm_store *store, struct cm_bytes key, uint64_t version, enum cm_cause cause,
                   const struct cm_value *value) {
    if (store->on_change)
        store->on_change(store->change_data, &(struct cm_changed){key, version, cause, value});
}

struct cm_key cm_store_key(const struct cm_store *store, struct cm_bytes key) {
    return cm_table_key_in(store->participant->segment, store->space, key);
}

/* The clock is read only where there is an expiry to compare with. */
bool cm_store_is_over(const struct cm_store *store, uint64_t expires_ms) {
    return expires_ms && store->space == CM_SPACE_KEYS && expires_ms <= store->clock_ms();
}

/* --- changes --- */

/* In a section, so that it still is so when the change is published. */
static int check_fence(const struct cm_store *store, const struct cm_change *change) {
    return !change->fence.token || cm_lock_holds(store->participant->segment, change->fence) ? 0
                                                                                             : CM_E_NOTOWNER;
}

static int check_version(const struct cm_change *change, const struct cm_place *place, bool alive) {
    uint64_t version = alive ? cm_record_version(place->record) : 0;
    return !change->if_version || change->version == version ? 0 : CM_E_CONFLICT;
}

static int check_conditions(const struct cm_store *store, const struct cm_change *change,
                            const struct cm_place *place, bool alive) {
    int err = check_fence(store, change);
    if (err)
        return err;
    if (change->if_absent && alive)
        return CM_E_EXISTS;
    if (change->if_present && !alive)
        return CM_E_NOTFOUND;
    return check_version(change, place, alive);
}

static uint64_t new_expiry(const struct cm_change *change, const struct cm_place *place, bool alive) {
    return change->keep_expiry && alive ? cm_record_expiry(place->record) : change->expires_ms;
}

/* A number takes the place of one of its kind without an entry of its own. As cm_store_set; *done: whether
 * there is an end with that. */
static int set_in_place(struct cm_store *store, const struct cm_key *key, struct cm_number number,
                        const struct cm_change *change, uint64_t *version, bool *done) {
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(store->participant, key->hash, &section);
    bool alive = find(store, &section, key, &place);
    int err = is_watched(store, key) ? CM_STORE_ASK : check_conditions(store, change, &place, alive);
    if (!err && place.record && place.shape.kind == kind_of(number)) {
        *version = cm_table_store_number(store->participant, &section, &place, bits_of(number),
                                         new_expiry(change, &place, alive));
        *done = true;
        return 0;
    }
    cm_section_leave(&section);
    *done = err != 0;
    return err;
}

/* 0, or what is wrong with the pair in itself. */
static int check_pair(const struct cm_pair *pair) {
    if (bad_key(pair->key))
        return CM_E_BADVALUE;
    return !pair->value.is_number && pair->value.bytes.len > UINT32_MAX - 8 ? CM_E_TOOLARGE : 0;
}

int cm_store_set(struct cm_store *store, struct cm_bytes key_bytes, const struct cm_value *value,
                 const struct cm_change *change, uint64_t *version) {
    struct cm_pair pair = {key_bytes, *value};
    int err = check_pair(&pair);
    if (err)
        return err;
    struct cm_participant *participant = store->participant;
    struct cm_key key = cm_store_key(store, key_bytes);
    if (value->is_number && is_slot(store, key_bytes)) {
        bool done;
        err = set_in_place(store, &key, value->number, change, version, &done);
        if (done && !err)
            cm_store_tell(store, key_bytes, *version, CM_CAUSE_SET, value);
        if (done)
            return err;
    }
    if (is_watched(store, &key))
        return CM_STORE_ASK; /* before the value is copied in vain; what counts is the look in the section */
    uint64_t offset;
    err = cm_store_append(store, &pair, 1, change->expires_ms, &offset);
    if (err)
        return err;
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, key.hash, &section);
    bool alive = find(store, &section, &key, &place);
    err = is_watched(store, &key) ? CM_STORE_ASK : check_conditions(store, change, &place, alive);
    if (err) {
        cm_section_leave(&section);
        cm_append_rewind(participant);
        return err;
    }
    if (change->keep_expiry && alive)
        cm_record_set_expiry(cm_record_at(participant->segment, offset), cm_record_expiry(place.record));
    *version = cm_table_link(participant, &section, &place, offset);
    cm_append_commit(participant);
    cm_store_tell(store, key_bytes, *version, CM_CAUSE_SET, value);
    return 0;
}

int cm_store_set_many(struct cm_store *store, const struct cm_pair *pairs, size_t count) {
    int err = 0;
    for (size_t i = 0; !err && i < count; i++)
        err = check_pair(&pairs[i]);
    if (err)
        return err;
    uint64_t *offsets = calloc(count ? count : 1, sizeof *offsets);
    if (!offsets)
        return CM_E_NOMEMORY;
    err = cm_store_append(store, pairs, count, 0, offsets);
    for (size_t i = 0; !err && i < count; i++) {
        struct cm_key key = cm_store_key(store, pairs[i].key);
        struct cm_section section;
        struct cm_place place;
        cm_table_enter(store->participant, key.hash, &section);
        cm_table_find(store->participant, &section, &key, &place);
        uint64_t version = cm_table_link(store->participant, &section, &place, offsets[i]);
        cm_store_tell(store, key.bytes, version, CM_CAUSE_SET, &pairs[i].value);
    }
    if (!err)
        cm_append_commit(store->participant);
    free(offsets);
    return err;
}

static int get(struct cm_store *store, const struct cm_key *key, uint64_t known, struct cm_buf *buf,
               struct cm_value *value, struct cm_found *found) {
    int err = bad_key(key->bytes)
                  ? CM_E_NOTFOUND
                  : cm_table_get_unless(store->participant, key, known, value ? buf : NULL, found);
    if (!err && cm_store_is_over(store, found->expires_ms))
        err = CM_E_NOTFOUND;
    if (!err && value && cm_kind_is_number(found->kind))
        *value = (struct cm_value){.is_number = true, .number = number_of(found->kind, found->number)};
    else if (!err && value)
        *value = (struct cm_value){.bytes = cm_buf_view(buf)};
    return err;
}

int cm_store_get(struct cm_store *store, struct cm_bytes key_bytes, struct cm_buf *buf,
                 struct cm_value *value, uint64_t *version, uint64_t *expires_ms) {
    struct cm_key key = cm_store_key(store, key_bytes);
    struct cm_found found;
    int err = get(store, &key, 0, buf, value, &found);
    if (version)
        *version = err ? 0 : found.version;
    if (!err && expires_ms)
        *expires_ms = found.expires_ms;
    return err;
}

int cm_store_get_unless(struct cm_store *store, const struct cm_key *key, uint64_t known, struct cm_buf *buf,
                        struct cm_value *value, uint64_t *version, struct cm_spot *spot) {
    struct cm_found found;
    int err = get(store, key, known, buf, value, &found);
    *version = err ? 0 : found.version;
    *spot = (struct cm_spot){0};
    if (!err)
        *spot = cm_table_spot(store->participant->segment, &found);
    if (err || found.expires_ms)
        spot->word = CM_SPOT_NEVER;
    return err;
}

bool cm_store_number_at(const struct cm_store *store, const struct cm_spot *spot, struct cm_number *number,
                        uint64_t *version) {
    struct cm_found found;
    if (!cm_table_number_at(store->participant->segment, spot, &found))
        return false;
    *number = number_of(found.kind, found.number);
    *version = found.version;
    return true;
}

int cm_store_get_part(struct cm_store *store, struct cm_bytes key_bytes, cm_table_find_fn search, void *data,
                      struct cm_buf *buf, struct cm_bytes *part, uint64_t *version) {
    struct cm_key key = cm_store_key(store, key_bytes);
    struct cm_found found;
    int err = bad_key(key_bytes)
                  ? CM_E_NOTFOUND
                  : cm_table_get_part(store->participant, &key, search, data, buf, part, &found);
    if (!err && cm_store_is_over(store, found.expires_ms))
        err = CM_E_NOTFOUND;
    *version = err ? 0 : found.version;
    return err;
}

int cm_store_remove(struct cm_store *store, struct cm_bytes key_bytes, const struct cm_change *change,
                    uint64_t *version) {
    *version = 0;
    struct cm_key key = cm_store_key(store, key_bytes);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(store->participant, key.hash, &section);
    bool alive = find(store, &section, &key, &place);
    int err = check_fence(store, change);
    if (!err)
        err = check_version(change, &place, alive);
    if (!err && alive && is_watched(store, &key))
        err = CM_STORE_ASK;
    if (err || !alive) {
        cm_section_leave(&section);
        return err;
    }
    *version = cm_table_unlink(store->participant, &section, &place);
    cm_store_tell(store, key_bytes, *version, change->cleared ? CM_CAUSE_CLEAR : CM_CAUSE_REMOVE, NULL);
    return 0;
}

int cm_store_expire(struct cm_store *store, struct cm_bytes key_bytes, uint64_t expires_ms) {
    struct cm_key key = cm_store_key(store, key_bytes);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(store->participant, key.hash, &section);
    if (!find(store, &section, &key, &place)) {
        cm_section_leave(&section);
        return CM_E_NOTFOUND;
    }
    cm_table_store_expiry(store->participant, &section, &place, expires_ms);
    return 0;
}

void cm_store_stats(const struct cm_store *store, struct cm_store_stats *stats) {
    struct cm_segment *segment = store->participant->segment;
    /* First the entries: the bytes of one that is not counted any more are given up already. */
    uint64_t others = atomic_load_explicit(&segment->header->cache.entries, memory_order_relaxed) +
                      atomic_load_explicit(&segment->header->documents, memory_order_relaxed);
    uint64_t entries = cm_table_entries(segment);
    stats->entries = entries > others ? entries - others : 0;
    struct cm_chunk_census census;
    cm_chunk_count(segment, &census);
    stats->used_bytes = census.live_bytes;
    stats->limit_bytes = cm_chunk_limit_bytes(segment);
}
