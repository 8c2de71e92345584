#include "data/store.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "data/watch.h"
#include "memory/append.h"
#include "memory/chunk.h"

enum {
    ROOM_TRIES = 100, /* of the master to get what it made room for: others take chunks meanwhile */
    CONFLICT_TRIES = 1000,
};

void cm_store_init(struct cm_store *store, struct cm_participant *participant) {
    *store = (struct cm_store){.participant = participant, .clock_ms = cm_clock_ms};
}

void cm_store_deinit(struct cm_store *store) {
    cm_buf_deinit(&store->listing);
}

/* In a section of the key's group: whether the change must be the master's, for it has listeners to tell. */
static bool is_watched(const struct cm_store *store, const struct cm_key *key) {
    return !store->make_room && store->space == CM_SPACE_KEYS &&
           cm_watch_sees(store->participant->segment, key);
}

void cm_store_tell(const struct cm_store *store, struct cm_bytes key, uint64_t version, enum cm_cause cause,
                   const struct cm_value *value) {
    if (store->on_change)
        store->on_change(store->change_data, &(struct cm_changed){key, version, cause, value});
}

struct cm_key cm_store_key(const struct cm_store *store, struct cm_bytes key) {
    return cm_table_key_in(store->participant->segment, store->space, key);
}

static bool bad_key(struct cm_bytes key) {
    return key.len == 0 || key.len > CM_KEY_MAX_BYTES;
}

/* The clock is read only where there is an expiry to compare with. */
bool cm_store_is_over(const struct cm_store *store, uint64_t expires_ms) {
    return expires_ms && store->space == CM_SPACE_KEYS && expires_ms <= store->clock_ms();
}

/* --- numbers, and what they are in an entry --- */

static enum cm_kind kind_of(struct cm_number number) {
    return number.is_float ? CM_KIND_FLOAT : CM_KIND_INTEGER;
}

static uint64_t bits_of(struct cm_number number) {
    uint64_t bits;
    memcpy(&bits, &number.integer, sizeof bits); /* the float has the same bytes */
    return bits;
}

static struct cm_number number_of(enum cm_kind kind, uint64_t bits) {
    struct cm_number number = {.is_float = kind == CM_KIND_FLOAT};
    memcpy(&number.integer, &bits, sizeof bits);
    return number;
}

/* Whether a number under this key is kept as one; under a very long key it is kept as bytes. */
static bool is_slot(const struct cm_store *store, struct cm_bytes key) {
    return cm_append_fits(store->participant->segment,
                          (struct cm_shape){CM_KIND_INTEGER, (uint32_t)key.len, 0});
}

/* --- changes --- */

/* In a section: the key's place, and whether a living entry is there. */
static bool find(const struct cm_store *store, const struct cm_section *section, const struct cm_key *key,
                 struct cm_place *place) {
    return cm_table_find(store->participant, section, key, place) &&
           !cm_store_is_over(store, cm_record_expiry(place->record));
}

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

/* What the entry under the key takes now; 0 where there is none. */
static uint64_t bytes_under(const struct cm_store *store, struct cm_key key) {
    struct cm_found found;
    if (cm_table_get(store->participant, &key, NULL, &found))
        return 0;
    uint64_t value_len = cm_kind_is_number(found.kind) ? 8 : found.value_len;
    return cm_append_bytes(store->participant->segment, key.bytes.len, value_len);
}

static uint64_t bytes_of(const struct cm_segment *segment, const struct cm_pair *pairs, size_t count) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t value_len = pairs[i].value.is_number ? 8 : pairs[i].value.bytes.len;
        bytes += cm_append_bytes(segment, pairs[i].key.len, value_len);
    }
    return bytes;
}

/* Has the master make room for the pairs, in the place of what is under their keys. */
static int make_room(struct cm_store *store, const struct cm_pair *pairs, size_t count) {
    const struct cm_segment *segment = store->participant->segment;
    uint64_t freed_bytes = 0;
    for (size_t i = 0; i < count; i++)
        freed_bytes += bytes_under(store, cm_store_key(store, pairs[i].key));
    return store->make_room(store->data, bytes_of(segment, pairs, count), freed_bytes);
}

/* Whether the pairs would reach into what is the master's alone to give out. */
static bool is_short(const struct cm_store *store, const struct cm_pair *pairs, size_t count) {
    const struct cm_segment *segment = store->participant->segment;
    uint32_t spare = cm_chunk_spare(segment);
    /* Others find out while they append. */
    return spare == 0 ||
           (store->make_room && bytes_of(segment, pairs, count) / segment->layout.chunk_bytes >= spare);
}

/* Appends the pairs' entries, whose offsets are what is to be linked. */
static int append_all(const struct cm_store *store, const struct cm_pair *pairs, size_t count,
                      uint64_t expires_ms, uint64_t *offsets) {
    struct cm_participant *participant = store->participant;
    cm_append_begin(participant);
    for (size_t i = 0; i < count; i++) {
        struct cm_key key = cm_store_key(store, pairs[i].key);
        const struct cm_value *value = &pairs[i].value;
        uint8_t space[CM_NUMBER_BYTES];
        bool slot = value->is_number && is_slot(store, key.bytes);
        struct cm_bytes bytes = value->bytes;
        if (value->is_number)
            bytes = cm_number_encode(value->number, space);
        if (slot)
            bytes.len = 0;
        enum cm_kind kind = slot ? kind_of(value->number) : CM_KIND_BYTES;
        int err = cm_append_entry(participant, kind, key.hash, key.bytes, bytes, expires_ms, &offsets[i]);
        if (err) {
            cm_append_rewind(participant);
            return err;
        }
        if (slot)
            cm_record_set_number(cm_record_at(participant->segment, offsets[i]), kind,
                                 bits_of(value->number));
    }
    return 0;
}

/* As above. Where there is little left, only the master appends, which knows how much may be reachable; it
 * makes room before, and again where others have taken it meanwhile. */
static int append(struct cm_store *store, const struct cm_pair *pairs, size_t count, uint64_t expires_ms,
                  uint64_t *offsets) {
    int err = 0;
    if (is_short(store, pairs, count))
        err = store->make_room ? make_room(store, pairs, count) : CM_E_NOMEMORY;
    if (!err)
        err = append_all(store, pairs, count, expires_ms, offsets);
    else if (!store->make_room)
        cm_participant_ring(store->participant, CM_RING_MEMORY);
    for (int i = 0; err == CM_E_NOMEMORY && store->make_room && i < ROOM_TRIES; i++) {
        if (make_room(store, pairs, count))
            break;
        err = append_all(store, pairs, count, expires_ms, offsets);
    }
    return err;
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
    err = append(store, &pair, 1, change->expires_ms, &offset);
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
    err = append(store, pairs, count, 0, offsets);
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
    *spot = err ? (struct cm_spot){0} : cm_table_spot(store->participant->segment, &found);
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

/* Under a key so long that the number lies in fragments: read, add, and set if nobody got in between. */
static int increment_bytes(struct cm_store *store, struct cm_bytes key, struct cm_number delta,
                           struct cm_number initial, uint64_t expires_ms, struct cm_number *sum,
                           uint64_t *version) {
    struct cm_buf buf = {0};
    int err = CM_E_CONFLICT;
    for (int i = 0; err == CM_E_CONFLICT && i < CONFLICT_TRIES; i++) {
        struct cm_value value;
        struct cm_change change = {.if_version = true, .keep_expiry = true, .expires_ms = expires_ms};
        err = cm_store_get(store, key, &buf, &value, &change.version, NULL);
        struct cm_number base = initial;
        if (!err)
            err = cm_number_decode(value.bytes, &base);
        else if (err == CM_E_NOTFOUND)
            err = 0;
        if (!err)
            err = cm_number_add(base, delta, sum);
        if (!err)
            err = cm_store_set(store, key, &(struct cm_value){.is_number = true, .number = *sum}, &change,
                               version);
    }
    cm_buf_deinit(&buf);
    return err;
}

/* What an entry's number, or else `initial`, is with the delta. */
static int add_to(const struct cm_place *place, bool alive, struct cm_number initial, struct cm_number delta,
                  struct cm_number *sum) {
    if (!alive)
        return cm_number_add(initial, delta, sum);
    if (!cm_kind_is_number(place->shape.kind))
        return CM_E_BADVALUE;
    return cm_number_add(number_of(place->shape.kind, cm_record_number(place->record)), delta, sum);
}

/* What an increment comes to in one section. */
struct increment {
    struct cm_number delta;
    struct cm_number initial;
    uint64_t expires_ms; /* of a new entry */
    uint64_t offset;     /* of an entry appended for it; 0: none */
    bool linked;         /* that one counts */
    bool wants_entry;    /* one is needed: nothing has been changed */
    struct cm_spot spot; /* where the number is, if it has been changed in its place */
};

static int increment_once(struct cm_store *store, const struct cm_key *key, struct increment *increment,
                          struct cm_number *sum, uint64_t *version) {
    struct cm_participant *participant = store->participant;
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, key->hash, &section);
    bool alive = find(store, &section, key, &place);
    int err = is_watched(store, key) ? CM_STORE_ASK
                                     : add_to(&place, alive, increment->initial, increment->delta, sum);
    bool in_place = !err && alive && place.shape.kind == kind_of(*sum);
    increment->linked = !err && !in_place && increment->offset;
    increment->wants_entry = !err && !in_place && !increment->offset;
    if (in_place) {
        uint64_t expiry = cm_record_expiry(place.record);
        *version = cm_table_store_number(participant, &section, &place, bits_of(*sum), expiry);
        if (!expiry)
            increment->spot = (struct cm_spot){.word = cm_word(section.sequence, 0),
                                               .offset = place.offset,
                                               .line = section.line,
                                               .is_number = true};
    } else if (increment->linked) {
        struct cm_record *record = cm_record_at(participant->segment, increment->offset);
        cm_record_set_number(record, kind_of(*sum), bits_of(*sum));
        cm_record_set_expiry(record, alive ? cm_record_expiry(place.record) : increment->expires_ms);
        *version = cm_table_link(participant, &section, &place, increment->offset);
    } else {
        cm_section_leave(&section);
    }
    return err;
}

/* As cm_store_increment. *spot: where the number is, or CM_SPOT_NEVER. */
static int increment_at(struct cm_store *store, struct cm_bytes key_bytes, struct cm_number delta,
                        struct cm_number initial, uint64_t expires_ms, struct cm_number *sum,
                        uint64_t *version, struct cm_spot *spot) {
    *spot = (struct cm_spot){.word = CM_SPOT_NEVER, .is_number = true};
    if (bad_key(key_bytes))
        return CM_E_BADVALUE;
    if (!is_slot(store, key_bytes))
        return increment_bytes(store, key_bytes, delta, initial, expires_ms, sum, version);
    struct cm_key key = cm_store_key(store, key_bytes);
    struct increment increment = {
        .delta = delta, .initial = initial, .expires_ms = expires_ms, .spot = *spot};
    int err = increment_once(store, &key, &increment, sum, version);
    if (increment.wants_entry) {
        struct cm_pair pair = {key_bytes, {.is_number = true, .number = *sum}};
        err = append(store, &pair, 1, 0, &increment.offset);
        if (err)
            return err;
        /* Decided again: somebody may have got in between. */
        err = increment_once(store, &key, &increment, sum, version);
        if (increment.linked)
            cm_append_commit(store->participant);
        else
            cm_append_rewind(store->participant);
    }
    *spot = increment.spot;
    if (!err)
        cm_store_tell(store, key_bytes, *version, CM_CAUSE_SET,
                      &(struct cm_value){.is_number = true, .number = *sum});
    return err;
}

int cm_store_increment(struct cm_store *store, struct cm_bytes key, struct cm_number delta,
                       struct cm_number initial, uint64_t expires_ms, struct cm_number *sum,
                       uint64_t *version) {
    struct cm_spot spot;
    return increment_at(store, key, delta, initial, expires_ms, sum, version, &spot);
}

int cm_store_add(struct cm_store *store, struct cm_bytes key, struct cm_number delta, struct cm_spot *spot,
                 struct cm_number *sum) {
    uint64_t version;
    return increment_at(store, key, delta, (struct cm_number){0}, 0, sum, &version, spot);
}

bool cm_store_add_at(struct cm_store *store, struct cm_spot *spot, struct cm_number delta,
                     struct cm_number *sum) {
    struct cm_participant *participant = store->participant;
    struct cm_section section;
    struct cm_place place;
    if (!cm_table_reenter(participant, spot, &section, &place))
        return false;
    if (cm_watch_any(participant->segment) || add_to(&place, true, delta, delta, sum) ||
        place.shape.kind != kind_of(*sum)) {
        cm_section_leave(&section);
        return false;
    }
    cm_table_store_number(participant, &section, &place, bits_of(*sum), 0);
    spot->word = cm_word(section.sequence, 0);
    return true;
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
