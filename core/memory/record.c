#include "memory/record.h"

#include <string.h>

uint64_t cm_shape_bytes(struct cm_shape shape) {
    switch (shape.kind) {
    case CM_KIND_BYTES:
        return CM_ENTRY_BYTES + cm_words(shape.key_len) + cm_words(shape.value_len);
    case CM_KIND_INTEGER:
    case CM_KIND_FLOAT:
        return CM_ENTRY_BYTES + 8 + cm_words(shape.key_len);
    case CM_KIND_LONG:
        return CM_ENTRY_BYTES + 8;
    case CM_KIND_FRAGMENT:
        return CM_FRAGMENT_BYTES + cm_words(shape.value_len);
    case CM_KIND_NONE:
        break;
    }
    return 0;
}

/* --- words: relaxed each; who may read them when is the sequence's business, see core/memory/table --- */

static void store_word(_Atomic uint64_t *at, uint64_t word) {
    atomic_store_explicit(at, word, memory_order_relaxed);
}

static uint64_t load_word(const _Atomic uint64_t *at) {
    return atomic_load_explicit((_Atomic uint64_t *)at, memory_order_relaxed);
}

static uint64_t word_of(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    return word;
}

/* The 1 to 7 bytes behind the last whole word, filled up with zeroes. Most keys end with some, and a call of
 * memcpy for them would cost as much as the rest. */
static uint64_t last_word(const uint8_t *bytes, size_t len) {
    uint64_t word = 0;
    size_t left = len & 7;
    if (len > 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
        return word_of(bytes + len - 8) >> (64 - 8 * left);
    for (size_t i = 0; i < left; i++)
        ((uint8_t *)&word)[i] = bytes[len - left + i];
    return word;
}

/* Returns where the next piece goes. */
static _Atomic uint64_t *store_bytes(_Atomic uint64_t *at, const uint8_t *bytes, uint64_t len) {
    uint64_t words = len / 8;
#pragma GCC unroll 4
    for (uint64_t i = 0; i < words; i++)
        store_word(at + i, word_of(bytes + i * 8));
    at += words;
    if (len & 7)
        store_word(at++, last_word(bytes, len));
    return at;
}

/* --- writing --- */

void cm_record_write(struct cm_record *record, struct cm_shape shape, uint64_t hash, uint64_t expires_ms,
                     struct cm_bytes key, struct cm_bytes value) {
    store_word(&record->shape, cm_shape_pack(shape));
    store_word(&record->next, 0);
    store_word(&record->hash, hash);
    store_word(&record->version, 0);
    store_word(&record->expires_ms, expires_ms);
    _Atomic uint64_t *at = record->payload;
    if (shape.kind == CM_KIND_LONG) {
        store_word(at, 0);
    } else if (cm_kind_is_number(shape.kind)) {
        store_word(at, 0);
        store_bytes(at + 1, key.data, key.len);
    } else {
        at = store_bytes(at, key.data, key.len);
        store_bytes(at, value.data, value.len);
    }
}

void cm_record_write_fragment(struct cm_record *record, uint64_t hash, uint64_t list, uint64_t before,
                              const uint8_t *bytes, uint32_t len) {
    store_word(&record->shape, cm_shape_pack((struct cm_shape){CM_KIND_FRAGMENT, 0, len}));
    store_word(&record->next, 0);
    store_word(&record->hash, hash);
    store_word(&record->list, list);
    store_word(&record->before, before);
    store_bytes(record->payload, bytes, len);
}

void cm_record_copy(struct cm_record *to, const struct cm_record *from, uint64_t len_bytes) {
    _Atomic uint64_t *out = &to->shape;
    const _Atomic uint64_t *in = &from->shape;
    for (uint64_t i = 0; i < len_bytes / 8; i++)
        store_word(out + i, load_word(in + i));
}

/* --- reading --- */

static void load_words(const _Atomic uint64_t *words, uint8_t *to, uint64_t len) {
#pragma GCC unroll 4
    for (uint64_t i = 0; i < len / 8; i++) {
        uint64_t word = load_word(words + i);
        memcpy(to + i * 8, &word, 8);
    }
}

/* Whether the record of that size, whose head is in the segment, lies within the chunks. */
static bool fits(const struct cm_segment *segment, uint64_t offset, uint64_t len_bytes) {
    return len_bytes <= segment->layout.chunk_bytes &&
           len_bytes <= segment->chunks_bytes - (offset - segment->layout.chunks_at);
}

static bool open_fragment(struct cm_payload *payload, uint64_t offset) {
    const struct cm_record *fragment = cm_record_at(payload->segment, offset);
    if (!fragment)
        return false;
    struct cm_shape shape = cm_record_shape(fragment);
    if (shape.kind != CM_KIND_FRAGMENT || shape.value_len == 0 ||
        !fits(payload->segment, offset, cm_shape_bytes(shape)))
        return false;
    payload->fragment = fragment;
    payload->words = fragment->payload;
    payload->left = shape.value_len;
    payload->at = offset;
    return true;
}

bool cm_payload_open(struct cm_payload *payload, const struct cm_segment *segment, uint64_t offset) {
    *payload = (struct cm_payload){.segment = segment, .at = offset};
    const struct cm_record *record = cm_record_at(segment, offset);
    if (!record)
        return false;
    struct cm_shape shape = cm_record_shape(record);
    if (shape.kind == CM_KIND_LONG)
        return open_fragment(payload, load_word(record->payload));
    uint64_t len_bytes = cm_shape_bytes(shape);
    if (len_bytes < CM_ENTRY_BYTES || shape.kind == CM_KIND_FRAGMENT || !fits(segment, offset, len_bytes))
        return false;
    payload->words = record->payload;
    payload->left = len_bytes - CM_ENTRY_BYTES;
    return true;
}

bool cm_payload_open_fragment(struct cm_payload *payload, const struct cm_segment *segment, uint64_t offset) {
    *payload = (struct cm_payload){.segment = segment};
    return open_fragment(payload, offset);
}

bool cm_payload_more(struct cm_payload *payload) {
    return payload->left ||
           (payload->fragment && open_fragment(payload, load_word(&payload->fragment->next)));
}

bool cm_payload_read(struct cm_payload *payload, uint8_t *to, uint64_t len) {
    uint64_t left = cm_words(len);
    while (left) {
        if (!cm_payload_more(payload))
            return false;
        /* Each piece but the last is a whole number of words. */
        uint64_t piece = cm_words(payload->left);
        if (piece > left)
            piece = left;
        if (to) {
            load_words(payload->words, to, piece);
            to += piece;
        }
        payload->words += piece / 8;
        payload->left = payload->left > piece ? payload->left - piece : 0;
        left -= piece;
    }
    return true;
}

/* The words are compared as they lie there, the filling zeroes with them. */
static bool words_equal(const _Atomic uint64_t *words, struct cm_bytes bytes) {
    for (size_t i = 0; i < bytes.len / 8; i++)
        if (load_word(words + i) != word_of(bytes.data + i * 8))
            return false;
    return !(bytes.len & 7) || load_word(words + bytes.len / 8) == last_word(bytes.data, bytes.len);
}

static bool long_has_key(const struct cm_segment *segment, uint64_t offset, struct cm_bytes key) {
    struct cm_payload payload;
    if (!cm_payload_open(&payload, segment, offset))
        return false;
    for (size_t at = 0; at < key.len;) {
        uint8_t piece[512];
        size_t len = key.len - at < sizeof piece ? key.len - at : sizeof piece;
        if (!cm_payload_read(&payload, piece, len) || memcmp(piece, key.data + at, len) != 0)
            return false;
        at += len;
    }
    return true;
}

bool cm_record_has_key(const struct cm_segment *segment, uint64_t offset, struct cm_shape shape,
                       struct cm_bytes key) {
    const struct cm_record *record = cm_record_at(segment, offset);
    if (!record || shape.key_len != key.len)
        return false;
    if (shape.kind == CM_KIND_LONG)
        return long_has_key(segment, offset, key);
    bool is_number = cm_kind_is_number(shape.kind);
    if (!is_number && shape.kind != CM_KIND_BYTES)
        return false;
    return fits(segment, offset, CM_ENTRY_BYTES + 8 * is_number + cm_words(key.len)) &&
           words_equal(record->payload + is_number, key);
}

bool cm_record_read_key(const struct cm_segment *segment, uint64_t offset, struct cm_shape shape,
                        uint8_t *to) {
    struct cm_payload payload;
    return cm_payload_open(&payload, segment, offset) &&
           (!cm_kind_is_number(shape.kind) || cm_payload_read(&payload, NULL, 8)) &&
           cm_payload_read(&payload, to, shape.key_len);
}

bool cm_record_read_value(const struct cm_segment *segment, uint64_t offset, struct cm_shape shape,
                          uint8_t *to) {
    if (shape.kind == CM_KIND_BYTES) { /* nearly all there is, and all that is short */
        const struct cm_record *record = cm_record_at(segment, offset);
        uint64_t key_bytes = cm_words(shape.key_len), value_bytes = cm_words(shape.value_len);
        if (!record || !fits(segment, offset, CM_ENTRY_BYTES + key_bytes + value_bytes))
            return false;
        load_words(record->payload + key_bytes / 8, to, value_bytes);
        return true;
    }
    struct cm_payload payload;
    return cm_payload_open(&payload, segment, offset) && cm_payload_read(&payload, NULL, shape.key_len) &&
           cm_payload_read(&payload, to, shape.value_len);
}
