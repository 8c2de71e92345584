/* Reading the table: get and walk, of core/memory/table.h. */
#include <string.h>

#include "base/error.h"
#include "memory/chains.h"
#include "memory/pieces.h"

enum {
    TRIES = 8,   /* of a reader, before it takes the group */
    STEPS = 256, /* along a chain, before a reader doubts that it has an end */
};

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
    return is_unchanged(found->group, found->sequence);
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
    return is_unchanged(&segment->groups[spot->line], cm_word_sequence(spot->word)) &&
           cm_kind_is_number(found->kind);
}

/* --- getting --- */

/* What is wanted of an entry. */
struct wish {
    uint64_t known;        /* nothing, if this is its version */
    struct cm_buf *value;  /* where its value goes, or the part; NULL: nothing is wanted */
    cm_table_find_fn find; /* the part; NULL: the whole value */
    void *data;
    struct cm_bytes *part;
};

static bool is_wanted(const struct cm_found *found, const struct wish *wish) {
    return wish->value && !cm_kind_is_number(found->kind) && (!wish->known || found->version != wish->known);
}

/* CM_E_CONFLICT where the value is not there, or not whole. */
static int copy_value(const struct cm_segment *segment, const struct cm_place *place, struct cm_buf *value) {
    int err = cm_buf_reserve(value, cm_words(place->shape.value_len));
    if (err)
        return err;
    value->len = place->shape.value_len;
    return cm_record_read_value(segment, place->offset, place->shape, value->data) ? 0 : CM_E_CONFLICT;
}

/* In what has been copied, and is what it should be. */
static int find_in_copy(const struct wish *wish) {
    struct cm_stream stream = cm_stream_of(cm_buf_view(wish->value));
    uint64_t at = 0, len = 0;
    int err = wish->find(wish->data, &stream, &at, &len);
    *wish->part = len ? (struct cm_bytes){wish->value->data + at, len} : (struct cm_bytes){0};
    return err;
}

/* Copies what is wanted of a value whose chunks are named, or get named on the way. */
static int copy_pieces(struct cm_pieces *pieces, const struct wish *wish) {
    struct cm_bytes copy;
    if (!wish->find)
        return cm_pieces_copy(pieces, 0, pieces->shape.value_len, wish->value, &copy);
    uint64_t at = 0, len = 0;
    int err = cm_pieces_begin(pieces);
    if (!err)
        err = wish->find(wish->data, &pieces->stream, &at, &len);
    return err ? err : cm_pieces_copy(pieces, at, len, wish->value, wish->part);
}

/* Gets a long value after what is `read` of the group under this sequence. To name all of it takes a moment,
 * and to find a part of it can take long: beside writers of the group the former succeeds, in the quiet the
 * part alone is less. */
static int get_long(struct cm_participant *participant, const struct cm_group *group, uint64_t sequence,
                    const struct cm_place *place, const struct wish *wish) {
    struct cm_pieces pieces;
    cm_pieces_init(&pieces, participant, place->offset, place->shape, group, sequence);
    int err = wish->find && participant->tries == 1 ? 0 : cm_pieces_name(&pieces);
    if (!err)
        err = copy_pieces(&pieces, wish);
    cm_hazard_clear(participant);
    return err;
}

/* One try: 0, CM_E_NOTFOUND, CM_E_NOMEMORY, or CM_E_CONFLICT to try again. */
static int try_get(struct cm_participant *participant, const struct cm_key *key, const struct wish *wish,
                   struct cm_found *found) {
    const struct cm_segment *segment = participant->segment;
    if (wish->value)
        wish->value->len = 0;
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
        return is_unchanged(group, sequence) ? CM_E_NOTFOUND : CM_E_CONFLICT;
    note_found(&place, group, sequence, found);
    if (is_wanted(found, wish)) {
        if (place.shape.value_len > CM_COPIED_MOST_BYTES)
            return get_long(participant, group, sequence, &place, wish);
        int err = copy_value(segment, &place, wish->value);
        if (err)
            return err;
    }
    if (!is_unchanged(group, sequence))
        return CM_E_CONFLICT;
    return wish->find && wish->value ? find_in_copy(wish) : 0;
}

/* Reads as the group's owner; of long values the pieces are named, and copied after it has been left.
 * `again`: there was no room to list them, and there is more now. */
static int get_as_owner(struct cm_participant *participant, const struct cm_key *key, const struct wish *wish,
                        struct cm_found *found, bool *again) {
    *again = false;
    if (wish->value)
        wish->value->len = 0;
    int err = wish->value ? cm_buf_reserve(wish->value, CM_COPIED_MOST_BYTES) : 0;
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
    bool wanted = is_wanted(found, wish);
    if (!wanted || place.shape.value_len <= CM_COPIED_MOST_BYTES) {
        if (wanted)
            err = copy_value(participant->segment, &place, wish->value);
        cm_section_leave(&section);
        return !err && wish->find && wish->value ? find_in_copy(wish) : err;
    }
    struct cm_pieces pieces;
    cm_pieces_init(&pieces, participant, place.offset, place.shape, NULL, 0);
    err = cm_pieces_name(&pieces);
    cm_section_leave(&section);
    if (err == CM_E_NOMEMORY) {
        err = cm_pieces_grow(participant);
        *again = !err;
    } else if (!err) {
        err = copy_pieces(&pieces, wish);
    }
    cm_hazard_clear(participant);
    return err;
}

static int get(struct cm_participant *participant, const struct cm_key *key, const struct wish *wish,
               struct cm_found *found) {
    for (participant->tries = 1; participant->tries <= TRIES; participant->tries++) {
        int err = try_get(participant, key, wish, found);
        if (err != CM_E_CONFLICT)
            return err;
        cm_pause();
    }
    int err;
    bool again;
    do
        err = get_as_owner(participant, key, wish, found, &again);
    while (again);
    return err;
}

int cm_table_get_unless(struct cm_participant *participant, const struct cm_key *key, uint64_t known,
                        struct cm_buf *value, struct cm_found *found) {
    struct wish wish = {.known = known, .value = value};
    return get(participant, key, &wish, found);
}

int cm_table_get_part(struct cm_participant *participant, const struct cm_key *key, cm_table_find_fn find,
                      void *data, struct cm_buf *buf, struct cm_bytes *part, struct cm_found *found) {
    struct wish wish = {.value = buf, .find = find, .data = data, .part = part};
    return get(participant, key, &wish, found);
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
    return is_unchanged(group, sequence) ? 0 : CM_E_CONFLICT;
}

static int walk_as_owner(struct cm_participant *participant, const struct walk *walk, uint64_t hash,
                         uint32_t *groups, struct cm_buf *out) {
    size_t before = out->len;
    for (size_t room = CM_COPIED_MOST_BYTES;; room *= 2) {
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
