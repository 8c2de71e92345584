/* Adding to numbers, of core/data/store.h. */
#include "base/error.h"
#include "data/entries.h"

enum { CONFLICT_TRIES = 1000 };

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
        err = cm_store_append(store, &pair, 1, 0, &increment.offset);
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
    uint64_t version = 0;
    return increment_at(store, key, delta, (struct cm_number){0}, 0, sum, &version, spot);
}

/* In one piece: the calls would take as long as what is done. */
__attribute__((flatten)) bool cm_store_add_at(struct cm_store *store, struct cm_spot *spot,
                                              struct cm_number delta, struct cm_number *sum) {
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
    cm_table_change_number(&section, &place, bits_of(*sum));
    spot->word = cm_word(section.sequence, 0);
    return true;
}
