/* Reading the table: get and walk, of core/memory/table.h. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/chains.h"

enum {
    TRIES = 8,           /* of a reader, before it takes the group */
    STEPS = 256,         /* along a chain, before a reader doubts that it has an end */
    COPIED_BYTES = 4096, /* a longer value is copied under hazards instead of being checked afterwards */
};

/* Whether the sequence is what it was. The fence: what has been copied (relaxed) was loaded before this load;
 * and if any of it came from a writer behind a later sequence, that sequence is seen here. */
static bool unchanged(const struct cm_group *group, uint64_t sequence) {
    atomic_thread_fence(memory_order_acquire);
    return cm_word_sequence(load(&group->word)) == sequence;
}

static void note_found(const struct cm_place *place, const struct cm_group *group, uint64_t sequence,
                       struct cm_found *found) {
    enum cm_kind kind = place->shape.kind;
    *found = (struct cm_found){.kind = kind == CM_KIND_LONG ? CM_KIND_BYTES : kind,
                               .version = load(&place->record->version),
                               .expires_ms = load(&place->record->expires_ms),
                               .value_len = place->shape.value_len,
                               .group = group,
                               .sequence = sequence,
                               .offset = place->offset};
    if (cm_kind_is_number(kind))
        found->number = load(place->record->payload);
}

bool cm_table_unchanged(const struct cm_found *found) {
    return unchanged(found->group, found->sequence);
}

struct cm_spot cm_table_spot(const struct cm_segment *segment, const struct cm_found *found) {
    bool is_number = cm_kind_is_number(found->kind);
    return (struct cm_spot){.word = cm_word(found->sequence, 0),
                            .offset = is_number ? found->offset : found->version,
                            .line = (uint32_t)(found->group - segment->groups),
                            .is_number = is_number};
}

bool cm_table_number_at(const struct cm_segment *segment, const struct cm_spot *spot,
                        struct cm_found *found) {
    const struct cm_record *record = cm_record_at(segment, spot->offset);
    if (!record || !cm_table_stands(segment, spot))
        return false;
    *found = (struct cm_found){.kind = cm_record_shape(record).kind,
                               .number = cm_record_number(record),
                               .version = cm_record_version(record)};
    return unchanged(&segment->groups[spot->line], cm_word_sequence(spot->word)) &&
           cm_kind_is_number(found->kind);
}

/* --- long values: copied at leisure, while hazards name their chunks --- */

/* Room for the fragments' offsets: at least one more. */
static int grow_pieces(struct cm_participant *participant) {
    size_t room = participant->pieces_room ? participant->pieces_room * 2 : 64;
    uint64_t *pieces = realloc(participant->pieces, room * sizeof *pieces);
    if (!pieces)
        return CM_E_NOMEMORY;
    participant->pieces = pieces;
    participant->pieces_room = room;
    return 0;
}

/* Names every chunk that the value lies in, and lists its fragments: their links change when the cleaner
 * moves one, to chunks that are not named; where they were they stay whole. CM_E_CONFLICT where the links
 * lead nowhere; CM_E_NOMEMORY where the list is full and may not grow. */
static int name_pieces(struct cm_participant *participant, const struct cm_place *place,
                       const struct cm_group *group, uint64_t sequence, size_t *count) {
    const struct cm_segment *segment = participant->segment;
    cm_hazard_set(participant, (uint32_t)cm_segment_chunk_of(segment, place->offset));
    *count = 0;
    struct cm_payload payload;
    if (place->shape.kind != CM_KIND_LONG)
        return 0;
    if (!cm_payload_open(&payload, segment, place->offset))
        return CM_E_CONFLICT;
    for (uint64_t left = cm_words(place->shape.key_len) + cm_words(place->shape.value_len);;) {
        cm_hazard_set(participant, (uint32_t)cm_segment_chunk_of(segment, payload.at));
        /* A look at the sequence, since stale links may lead in a circle. */
        if (*count == participant->pieces_room && group && !unchanged(group, sequence))
            return CM_E_CONFLICT;
        if (*count == participant->pieces_room && (!group || grow_pieces(participant)))
            return CM_E_NOMEMORY;
        participant->pieces[(*count)++] = payload.at;
        uint64_t piece = cm_words(payload.left);
        if (piece >= left)
            return 0;
        left -= piece;
        if (!cm_payload_read(&payload, NULL, piece) || !cm_payload_more(&payload))
            return CM_E_CONFLICT;
    }
}

static int reserve_value(const struct cm_place *place, struct cm_buf *value) {
    value->len = 0;
    int err = cm_buf_reserve(value, cm_words(place->shape.value_len));
    if (!err)
        value->len = place->shape.value_len;
    return err;
}

/* CM_E_CONFLICT where it is not there, or not whole. */
static int copy_value(const struct cm_segment *segment, const struct cm_place *place, struct cm_buf *value) {
    int err = reserve_value(place, value);
    if (!err && !cm_record_read_value(segment, place->offset, place->shape, value->data))
        err = CM_E_CONFLICT;
    return err;
}

/* Copies what name_pieces has named. */
static int copy_named(struct cm_participant *participant, const struct cm_place *place, size_t count,
                      struct cm_buf *value) {
    if (place->shape.kind != CM_KIND_LONG)
        return copy_value(participant->segment, place, value);
    int err = reserve_value(place, value);
    uint8_t *to = value->data;
    uint64_t skip = cm_words(place->shape.key_len);
    uint64_t left = cm_words(place->shape.value_len);
    for (size_t i = 0; !err && i < count; i++) {
        struct cm_payload payload;
        if (!cm_payload_open_fragment(&payload, participant->segment, participant->pieces[i]))
            return CM_E_CONFLICT;
        uint64_t piece = cm_words(payload.left);
        uint64_t skipped = piece < skip ? piece : skip;
        uint64_t copied = piece - skipped < left ? piece - skipped : left;
        cm_payload_read(&payload, NULL, skipped);
        cm_payload_read(&payload, to, copied);
        skip -= skipped;
        left -= copied;
        to += copied;
    }
    return err;
}

/* Copies a long value after what is `read` of the group under this sequence. The fence and the second look at
 * the sequence are the reader's half of what core/memory/chunk's swap does. */
static int copy_long(struct cm_participant *participant, const struct cm_group *group, uint64_t sequence,
                     const struct cm_place *place, struct cm_buf *value) {
    size_t count;
    int err = name_pieces(participant, place, group, sequence, &count);
    atomic_thread_fence(memory_order_seq_cst);
    if (!unchanged(group, sequence))
        err = CM_E_CONFLICT;
    if (!err)
        err = copy_named(participant, place, count, value);
    cm_hazard_clear(participant);
    return err;
}

static bool is_copied(const struct cm_found *found, uint64_t known, const struct cm_buf *value) {
    return value && !cm_kind_is_number(found->kind) && (!known || found->version != known);
}

/* One try: 0, CM_E_NOTFOUND, CM_E_NOMEMORY, or CM_E_CONFLICT to try again. */
static int try_get(struct cm_participant *participant, const struct cm_key *key, uint64_t known,
                   struct cm_buf *value, struct cm_found *found) {
    const struct cm_segment *segment = participant->segment;
    if (value)
        value->len = 0;
    uint32_t groups = load_groups(segment);
    struct cm_group *group = &segment->groups[index_in(groups, key->hash)];
    /* Acquire: what is behind this sequence is seen by all loads that follow. */
    uint64_t sequence = cm_word_sequence(atomic_load_explicit(&group->word, memory_order_acquire));
    if (sequence & 1 || load_groups(segment) != groups)
        return CM_E_CONFLICT;
    struct cm_place place;
    enum look result = cm_chain_look(segment, group, key, STEPS, &place);
    if (result == LOOK_LOST)
        return CM_E_CONFLICT;
    if (result == LOOK_ABSENT)
        return unchanged(group, sequence) ? CM_E_NOTFOUND : CM_E_CONFLICT;
    note_found(&place, group, sequence, found);
    if (is_copied(found, known, value)) {
        if (place.shape.value_len > COPIED_BYTES)
            return copy_long(participant, group, sequence, &place, value);
        int err = copy_value(segment, &place, value);
        if (err)
            return err;
    }
    return unchanged(group, sequence) ? 0 : CM_E_CONFLICT;
}

/* Reads as the group's owner; long values are copied after it has been left, under their hazards. `again`:
 * there was no room to list a value's fragments, and there is more now. */
static int get_as_owner(struct cm_participant *participant, const struct cm_key *key, uint64_t known,
                        struct cm_buf *value, struct cm_found *found, bool *again) {
    *again = false;
    if (value)
        value->len = 0;
    int err = value ? cm_buf_reserve(value, COPIED_BYTES) : 0;
    if (err)
        return err;
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, key->hash, &section);
    if (!cm_table_find(participant, &section, key, &place)) {
        cm_section_leave(&section);
        return CM_E_NOTFOUND;
    }
    note_found(&place, group_in(participant->segment, &section), section.sequence, found);
    bool copies = is_copied(found, known, value);
    if (!copies || place.shape.value_len <= COPIED_BYTES) {
        if (copies)
            err = copy_value(participant->segment, &place, value);
        cm_section_leave(&section);
        return err;
    }
    size_t count;
    err = name_pieces(participant, &place, NULL, 0, &count);
    /* The hazards are seen before the group is free again, so before the value can be retired. */
    atomic_thread_fence(memory_order_seq_cst);
    cm_section_leave(&section);
    if (err == CM_E_NOMEMORY) {
        err = grow_pieces(participant);
        *again = !err;
    } else if (!err) {
        err = copy_named(participant, &place, count, value);
    }
    cm_hazard_clear(participant);
    return err;
}

int cm_table_get_unless(struct cm_participant *participant, const struct cm_key *key, uint64_t known,
                        struct cm_buf *value, struct cm_found *found) {
    for (participant->tries = 1; participant->tries <= TRIES; participant->tries++) {
        int err = try_get(participant, key, known, value, found);
        if (err != CM_E_CONFLICT)
            return err;
        cm_pause();
    }
    int err;
    bool again;
    do
        err = get_as_owner(participant, key, known, value, found, &again);
    while (again);
    return err;
}

/* --- walking --- */

static bool starts_with(const uint8_t *bytes, size_t len, struct cm_bytes prefix) {
    return len >= prefix.len && (prefix.len == 0 || memcmp(bytes, prefix.data, prefix.len) == 0);
}

/* What is walked over. */
struct walk {
    uint64_t space;
    struct cm_bytes prefix;
};

/* Appends what stands in one chain. `may_grow`: whether memory may be asked for. CM_E_CONFLICT where it leads
 * nowhere; CM_E_NOMEMORY where there is no room. */
static int list_chain(const struct cm_segment *segment, const _Atomic uint64_t *link, unsigned steps,
                      const struct walk *walk, bool may_grow, struct cm_buf *out) {
    for (; steps; steps--) {
        uint64_t offset = atomic_load_explicit((_Atomic uint64_t *)link, memory_order_acquire);
        if (!offset)
            return 0;
        struct cm_record *record = cm_record_at(segment, offset);
        if (!record)
            return CM_E_CONFLICT;
        link = &record->next;
        if ((load(&record->hash) & CM_SPACES) != walk->space)
            continue;
        struct cm_shape shape = cm_record_shape(record);
        size_t len = sizeof(struct cm_listed) + cm_words(shape.key_len);
        if (out->cap - out->len < len && (!may_grow || cm_buf_reserve(out, len)))
            return CM_E_NOMEMORY;
        struct cm_listed *listed = (struct cm_listed *)(void *)(out->data + out->len);
        *listed = (struct cm_listed){load(&record->expires_ms), shape.key_len};
        if (!cm_record_read_key(segment, offset, shape, listed->key))
            return CM_E_CONFLICT;
        if (starts_with(listed->key, shape.key_len, walk->prefix))
            out->len += len;
    }
    return CM_E_CONFLICT;
}

static int list_group(const struct cm_segment *segment, const struct cm_group *group, unsigned steps,
                      const struct walk *walk, bool may_grow, struct cm_buf *out) {
    int err = 0;
    for (int i = 0; !err && i < CM_GROUP_CHAINS; i++)
        err = list_chain(segment, &group->chains[i], steps, walk, may_grow, out);
    return err;
}

/* Lists the group of that hash, and says how many groups there were. */
static int try_walk(struct cm_participant *participant, const struct walk *walk, uint64_t hash,
                    uint32_t *groups, struct cm_buf *out) {
    const struct cm_segment *segment = participant->segment;
    uint32_t index = index_of(segment, hash);
    const struct cm_group *group = &segment->groups[index];
    uint64_t sequence = cm_word_sequence(atomic_load_explicit(&group->word, memory_order_acquire));
    *groups = load_groups(segment);
    if (sequence & 1 || index_in(*groups, hash) != index)
        return CM_E_CONFLICT;
    int err = list_group(segment, group, STEPS, walk, true, out);
    if (err)
        return err;
    return unchanged(group, sequence) ? 0 : CM_E_CONFLICT;
}

static int walk_as_owner(struct cm_participant *participant, const struct walk *walk, uint64_t hash,
                         uint32_t *groups, struct cm_buf *out) {
    size_t before = out->len;
    for (size_t room = COPIED_BYTES;; room *= 2) {
        int err = cm_buf_reserve(out, room);
        if (err)
            return err;
        struct cm_section section;
        cm_table_enter(participant, hash, &section);
        *groups = load_groups(participant->segment);
        err = list_group(participant->segment, group_in(participant->segment, &section), UINT32_MAX, walk,
                         false, out);
        cm_section_leave(&section);
        if (err != CM_E_NOMEMORY)
            return err;
        out->len = before;
    }
}

static uint64_t reverse_bits(uint64_t value) {
    value = __builtin_bswap64(value);
    value = (value >> 4 & UINT64_C(0x0f0f0f0f0f0f0f0f)) | (value & UINT64_C(0x0f0f0f0f0f0f0f0f)) << 4;
    value = (value >> 2 & UINT64_C(0x3333333333333333)) | (value & UINT64_C(0x3333333333333333)) << 2;
    return (value >> 1 & UINT64_C(0x5555555555555555)) | (value & UINT64_C(0x5555555555555555)) << 1;
}

int cm_table_walk(struct cm_participant *participant, uint64_t space, struct cm_bytes prefix,
                  uint64_t *cursor, struct cm_buf *out) {
    struct walk walk = {space, prefix};
    uint64_t hash = reverse_bits(*cursor);
    uint32_t groups;
    size_t before = out->len;
    int err = CM_E_CONFLICT;
    for (int i = 0; err == CM_E_CONFLICT && i < TRIES; i++) {
        err = try_walk(participant, &walk, hash, &groups, out);
        if (err)
            out->len = before;
    }
    if (err == CM_E_CONFLICT)
        err = walk_as_owner(participant, &walk, hash, &groups, out);
    if (err)
        return err;
    /* How many bits of the hash the group goes by: one less as long as it has not been split. */
    uint64_t half = (uint64_t)(mask_of(groups) >> 1) + 1;
    uint64_t index = index_in(groups, hash);
    uint64_t groups_alike = index < half && index + half >= groups ? half : 2 * half;
    uint64_t width = UINT64_MAX / groups_alike + 1;
    *cursor = (*cursor & ~(width - 1)) + width;
    return 0;
}
