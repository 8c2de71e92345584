#include "memory/pieces.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/chains.h"

int cm_pieces_grow(struct cm_participant *participant) {
    size_t room = participant->pieces_room ? participant->pieces_room * 2 : 64;
    struct cm_piece *pieces = realloc(participant->pieces, room * sizeof *pieces);
    if (!pieces)
        return CM_E_NOMEMORY;
    participant->pieces = pieces;
    participant->pieces_room = room;
    return 0;
}

static bool open_piece(const struct cm_pieces *pieces, size_t number, struct cm_payload *payload) {
    const struct cm_segment *segment = pieces->participant->segment;
    uint64_t offset = pieces->participant->pieces[number].offset;
    return pieces->shape.kind == CM_KIND_LONG ? cm_payload_open_fragment(payload, segment, offset)
                                              : cm_payload_open(payload, segment, offset);
}

/* Where the piece that was not named yet lies, and how many bytes come before it. */
static bool follow(const struct cm_pieces *pieces, struct cm_piece *piece) {
    const struct cm_segment *segment = pieces->participant->segment;
    if (!pieces->count) {
        const struct cm_record *record = cm_record_at(segment, pieces->offset);
        *piece = (struct cm_piece){.offset = pieces->offset};
        if (record && pieces->shape.kind == CM_KIND_LONG)
            piece->offset = load(record->payload);
    } else {
        struct cm_payload last;
        if (!open_piece(pieces, pieces->count - 1, &last) || !last.fragment)
            return false;
        piece->offset = load(&last.fragment->next);
        piece->begins = pieces->participant->pieces[pieces->count - 1].begins + cm_words(last.left);
    }
    return cm_record_at(segment, piece->offset) != NULL;
}

/* Links change when the cleaner moves a fragment, to chunks that are not named; where it was it stays whole.
 * So the list has the offsets, and a link is followed once. */
static int name_next(struct cm_pieces *pieces) {
    struct cm_participant *participant = pieces->participant;
    struct cm_piece piece;
    if (!follow(pieces, &piece))
        return CM_E_CONFLICT;
    if (pieces->count == participant->pieces_room && (!pieces->group || cm_pieces_grow(participant)))
        return CM_E_NOMEMORY;
    cm_hazard_set(participant, (uint32_t)cm_segment_chunk_of(participant->segment, piece.offset));
    participant->pieces[pieces->count++] = piece;
    /* The reader's half of what core/memory/chunk's swap does. Without a group: of its owner, whose hazards
     * are seen before the group is free again, so before the value can be retired. */
    atomic_thread_fence(memory_order_seq_cst);
    return pieces->group && !is_unchanged(pieces->group, pieces->sequence) ? CM_E_CONFLICT : 0;
}

void cm_pieces_init(struct cm_pieces *pieces, struct cm_participant *participant, uint64_t offset,
                    struct cm_shape shape, const struct cm_group *group, uint64_t sequence) {
    pieces->participant = participant;
    pieces->group = group;
    pieces->sequence = sequence;
    pieces->offset = offset;
    pieces->shape = shape;
    pieces->count = pieces->opened = 0;
    cm_hazard_set(participant, (uint32_t)cm_segment_chunk_of(participant->segment, offset));
}

int cm_pieces_name(struct cm_pieces *pieces) {
    uint64_t total = cm_words(pieces->shape.key_len) + cm_words(pieces->shape.value_len);
    for (uint64_t ends = 0; ends < total;) {
        struct cm_payload payload;
        int err = name_next(pieces);
        if (err)
            return err;
        if (!open_piece(pieces, pieces->count - 1, &payload))
            return CM_E_CONFLICT;
        ends = pieces->participant->pieces[pieces->count - 1].begins + cm_words(payload.left);
    }
    return 0;
}

/* --- the stream --- */

static int open_next(struct cm_pieces *pieces) {
    int err = pieces->opened < pieces->count ? 0 : name_next(pieces);
    if (!err && !open_piece(pieces, pieces->opened++, &pieces->payload))
        err = CM_E_CONFLICT;
    return err;
}

/* Passes over whole words, fragment by fragment. */
static int pass(struct cm_pieces *pieces, uint64_t len) {
    while (len) {
        int err = pieces->payload.left ? 0 : open_next(pieces);
        if (err)
            return err;
        uint64_t piece = cm_words(pieces->payload.left);
        if (piece > len)
            piece = len;
        cm_payload_read(&pieces->payload, NULL, piece);
        len -= piece;
    }
    return 0;
}

/* Gets more into the window, behind what is ready: no more than a fragment has, unless that is not enough. */
static int fill(struct cm_pieces *pieces, size_t want) {
    struct cm_stream *stream = &pieces->stream;
    memmove(pieces->window, stream->ready.data, stream->ready.len);
    stream->ready.data = pieces->window;
    while (stream->ready.len < want && stream->ready.len < stream->left) {
        int err = pieces->payload.left ? 0 : open_next(pieces);
        if (err)
            return err;
        uint64_t piece = cm_words(pieces->payload.left);
        uint64_t room = (sizeof pieces->window - stream->ready.len) & ~UINT64_C(7);
        uint64_t left = cm_words(stream->left - stream->ready.len);
        piece = piece < room ? piece : room;
        piece = piece < left ? piece : left;
        cm_payload_read(&pieces->payload, pieces->window + stream->ready.len, piece);
        stream->ready.len += piece;
    }
    if (stream->ready.len > stream->left)
        stream->ready.len = stream->left; /* the last word's filling */
    return 0;
}

static int fetch(struct cm_stream *stream, uint64_t skip, size_t want) {
    struct cm_pieces *pieces = (struct cm_pieces *)stream;
    if (!skip)
        return fill(pieces, want);
    uint64_t unread = skip - stream->ready.len;
    stream->left -= stream->ready.len;
    stream->ready.len = 0;
    int err = pass(pieces, unread & ~UINT64_C(7));
    if (err)
        return err;
    stream->left -= unread & ~UINT64_C(7);
    unread &= 7;
    err = fill(pieces, unread + want);
    if (err)
        return err;
    stream->ready.data += unread;
    stream->ready.len -= unread;
    stream->left -= unread;
    return 0;
}

int cm_pieces_begin(struct cm_pieces *pieces) {
    pieces->stream =
        (struct cm_stream){.ready = {pieces->window, 0}, .left = pieces->shape.value_len, .fetch = fetch};
    pieces->payload.left = 0;
    return pass(pieces, cm_words(pieces->shape.key_len));
}

int cm_pieces_copy(const struct cm_pieces *pieces, uint64_t at, uint64_t len, struct cm_buf *to,
                   struct cm_bytes *copy) {
    uint64_t from = cm_words(pieces->shape.key_len) + (at & ~UINT64_C(7));
    uint64_t left = cm_words((at & 7) + len);
    *copy = (struct cm_bytes){0};
    to->len = 0;
    int err = cm_buf_reserve(to, left);
    if (err || !len)
        return err;
    uint8_t *out = to->data;
    size_t i = pieces->count;
    while (i && (i == pieces->count || pieces->participant->pieces[i].begins > from))
        i--;
    for (; left; i++) {
        struct cm_payload payload;
        if (i >= pieces->count || !open_piece(pieces, i, &payload))
            return CM_E_CONFLICT;
        uint64_t begins = pieces->participant->pieces[i].begins;
        uint64_t skipped = from > begins ? from - begins : 0;
        uint64_t piece = cm_words(payload.left);
        if (skipped >= piece)
            return CM_E_CONFLICT;
        piece = piece - skipped < left ? piece - skipped : left;
        cm_payload_read(&payload, NULL, skipped);
        cm_payload_read(&payload, out, piece);
        out += piece;
        left -= piece;
    }
    to->len = (at & 7) + len;
    *copy = (struct cm_bytes){to->data + (at & 7), len};
    return 0;
}
