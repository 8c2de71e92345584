#include "data/room.h"

#include "base/error.h"
#include "data/entries.h"
#include "memory/chunk.h"

enum { ROOM_TRIES = 100 }; /* of the master to get what it made room for: others take chunks meanwhile */

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

int cm_store_append(struct cm_store *store, const struct cm_pair *pairs, size_t count, uint64_t expires_ms,
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
