/* Records: what chunks are full of. An entry, or a fragment of a value that is too long to lie in one piece.
 *
 *     entry     shape next hash version expires, then its payload:
 *                   a number: the number in 8 bytes, then the key
 *                   bytes: the key, then the value
 *                   long: a link to the first fragment; key and value lie in the fragments
 *     fragment  shape next hash list before, then a part of key and value
 *
 * Keys and values each begin at a multiple of 8 bytes, and the bytes between are zero. All of it is read and
 * written in words of 8 bytes with relaxed atomics: a reader may be looking at a record whose chunk is being
 * filled anew, which its group's sequence tells it afterwards. So nothing here trusts what it reads: offsets
 * and lengths are checked against the segment before they are used. */
#ifndef CM_MEMORY_RECORD_H
#define CM_MEMORY_RECORD_H

#include "base/buf.h"
#include "memory/segment.h"

enum cm_kind { CM_KIND_NONE, CM_KIND_BYTES, CM_KIND_INTEGER, CM_KIND_FLOAT, CM_KIND_LONG, CM_KIND_FRAGMENT };

struct cm_record {
    _Atomic uint64_t shape; /* {value bytes 32, key bytes 16, kind 16}; a fragment's: its bytes, 0, kind */
    _Atomic uint64_t next;
    _Atomic uint64_t hash;
    union {
        _Atomic uint64_t version; /* a cached one's tag */
        _Atomic uint64_t list;    /* a fragment's: the number of the list that it was written for */
    };
    union {
        _Atomic uint64_t expires_ms;
        _Atomic uint64_t before; /* a fragment's: the record that leads here, while the list is linked */
    };
    _Atomic uint64_t payload[];
};

enum { CM_ENTRY_BYTES = 40, CM_FRAGMENT_BYTES = 40, CM_HEAD_BYTES = CM_ENTRY_BYTES + 8 };

struct cm_shape {
    enum cm_kind kind;
    uint32_t key_len;
    uint32_t value_len; /* a long value's true length; a fragment's own bytes */
};

static inline uint64_t cm_shape_pack(struct cm_shape shape) {
    return (uint64_t)shape.value_len << 32 | (uint64_t)shape.key_len << 16 | (uint64_t)shape.kind;
}
static inline struct cm_shape cm_shape_unpack(uint64_t word) {
    return (struct cm_shape){(enum cm_kind)(word & 0xffff), (uint32_t)(word >> 16 & 0xffff),
                             (uint32_t)(word >> 32)};
}
static inline struct cm_shape cm_record_shape(const struct cm_record *record) {
    return cm_shape_unpack(atomic_load_explicit(&record->shape, memory_order_relaxed));
}

static inline bool cm_kind_is_number(enum cm_kind kind) {
    return kind == CM_KIND_INTEGER || kind == CM_KIND_FLOAT;
}

static inline uint64_t cm_words(uint64_t bytes) {
    return (bytes + 7) & ~UINT64_C(7);
}

/* The link to the first fragment, or from one to the next. */
static inline _Atomic uint64_t *cm_record_rest(struct cm_record *record) {
    return cm_record_shape(record).kind == CM_KIND_LONG ? record->payload : &record->next;
}

/* What the whole record takes in its chunk; 0 for a shape that is none. */
uint64_t cm_shape_bytes(struct cm_shape shape);

/* The record at the offset, or NULL where the offset is not one of the chunks' or an entry's head would not
 * fit: no record begins in the last CM_HEAD_BYTES of a chunk, so that a head can be read before its kind is
 * known. */
static inline struct cm_record *cm_record_at(const struct cm_segment *segment, uint64_t offset) {
    uint64_t at = offset - segment->layout.chunks_at;
    if (at > segment->chunks_bytes - CM_HEAD_BYTES || offset & 7)
        return NULL;
    return (struct cm_record *)(void *)(segment->base + offset);
}

/* --- writing: by whoever appends the record, before anybody can reach it --- */

void cm_record_write(struct cm_record *record, struct cm_shape shape, uint64_t hash, uint64_t expires_ms,
                     struct cm_bytes key, struct cm_bytes value);
void cm_record_write_fragment(struct cm_record *record, uint64_t hash, uint64_t list, uint64_t before,
                              const uint8_t *bytes, uint32_t len);
/* Copies a whole record's words. */
void cm_record_copy(struct cm_record *to, const struct cm_record *from, uint64_t len_bytes);

/* What is known only in the section, before the entry is linked. */
static inline void cm_record_set_expiry(struct cm_record *record, uint64_t expires_ms) {
    atomic_store_explicit(&record->expires_ms, expires_ms, memory_order_relaxed);
}
static inline void cm_record_set_tag(struct cm_record *record, uint64_t tag) {
    atomic_store_explicit(&record->version, tag, memory_order_relaxed);
}
static inline void cm_record_set_number(struct cm_record *record, enum cm_kind kind, uint64_t bits) {
    struct cm_shape shape = cm_record_shape(record);
    shape.kind = kind;
    atomic_store_explicit(&record->shape, cm_shape_pack(shape), memory_order_relaxed);
    atomic_store_explicit(record->payload, bits, memory_order_relaxed);
}

/* --- reading --- */

static inline uint64_t cm_record_expiry(const struct cm_record *record) {
    return atomic_load_explicit((_Atomic uint64_t *)&record->expires_ms, memory_order_relaxed);
}
static inline uint64_t cm_record_version(const struct cm_record *record) {
    return atomic_load_explicit((_Atomic uint64_t *)&record->version, memory_order_relaxed);
}
static inline uint64_t cm_record_number(const struct cm_record *record) {
    return atomic_load_explicit((_Atomic uint64_t *)record->payload, memory_order_relaxed);
}

/* A sequential reader over the payload of an entry of bytes or a long one: its key and value as one run. */
struct cm_payload {
    const struct cm_segment *segment;
    const struct cm_record *fragment; /* NULL: in the entry itself */
    const _Atomic uint64_t *words;
    uint64_t left; /* bytes in this piece */
    uint64_t at;   /* the piece's offset */
};
/* False where it does not lie in the segment. */
bool cm_payload_open(struct cm_payload *payload, const struct cm_segment *segment, uint64_t offset);
/* Copies the next bytes out; a length that is no multiple of 8 takes the filling bytes behind it too, for
 * which there must be room. `to` NULL skips. False where they are not there. */
bool cm_payload_read(struct cm_payload *payload, uint8_t *to, uint64_t len);

/* Goes on to the next piece, where this one has been read. False where there is none. */
bool cm_payload_more(struct cm_payload *payload);

/* Begins at a fragment. */
bool cm_payload_open_fragment(struct cm_payload *payload, const struct cm_segment *segment, uint64_t offset);

/* Whether the entry there, which is of that shape, has that key. */
bool cm_record_has_key(const struct cm_segment *segment, uint64_t offset, struct cm_shape shape,
                       struct cm_bytes key);

/* Copies the entry's key to the room of cm_words(shape.key_len) bytes. False where it is not there. */
bool cm_record_read_key(const struct cm_segment *segment, uint64_t offset, struct cm_shape shape,
                        uint8_t *to);
/* Copies the value (of an entry that is no number) to the room of cm_words(shape.value_len) bytes. */
bool cm_record_read_value(const struct cm_segment *segment, uint64_t offset, struct cm_shape shape,
                          uint8_t *to);

#endif
