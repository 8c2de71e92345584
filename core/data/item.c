#include "data/item.h"

#include <string.h>

#include "base/error.h"
#include "data/number.h"

/* The first bytes, from the MessagePack specification; those of numbers are core/data/number's. */
enum {
    POSITIVE_FIXINT_MOST = 0x7f,
    FIXMAP = 0x80,
    FIXMAP_MOST = 0x8f,
    FIXARRAY = 0x90,
    FIXARRAY_MOST = 0x9f,
    FIXSTR = 0xa0,
    FIXSTR_MOST = 0xbf,
    NIL = 0xc0,
    FALSE = 0xc2,
    TRUE = 0xc3,
    FLOAT64 = 0xcb,
    UINT8 = 0xcc,
    UINT64 = 0xcf,
    INT8 = 0xd0,
    INT64 = 0xd3,
    STR8 = 0xd9,
    STR16 = 0xda,
    STR32 = 0xdb,
    ARRAY16 = 0xdc,
    ARRAY32 = 0xdd,
    MAP16 = 0xde,
    MAP32 = 0xdf,
    NEGATIVE_FIXINT_LEAST = 0xe0,
};
enum { MARK_TYPE = 0x01 };

/* --- reading --- */

/* The first bytes of what is to be read, at least CM_ITEM_HEAD_BYTES or all that are left. */
struct front {
    const uint8_t *at;
    uint64_t left;
};

/* A big-endian number behind the first byte. */
static int read_number(struct front front, size_t len, uint64_t *number) {
    if (front.left <= len)
        return CM_E_BADVALUE;
    *number = 0;
    for (size_t i = 1; i <= len; i++)
        *number = *number << 8 | front.at[i];
    return 0;
}

static int read_scalar(struct front front, struct cm_item *item, uint64_t *size, enum cm_item_kind kind,
                       size_t more) {
    if (front.left <= more)
        return CM_E_BADVALUE;
    *item = (struct cm_item){.kind = kind, .bytes = {front.at, 1 + more}};
    *size = 1 + more;
    return 0;
}

static int read_string(struct front front, struct cm_item *item, uint64_t *size, size_t width, uint64_t len) {
    if (len > front.left - 1 - width)
        return CM_E_BADVALUE;
    *item = (struct cm_item){.kind = CM_ITEM_STRING, .bytes = {front.at + 1 + width, len}};
    *size = 1 + width + len;
    return 0;
}

static int read_table(struct front front, struct cm_item *item, uint64_t *size, enum cm_item_kind kind,
                      size_t width, uint64_t count) {
    uint64_t items = kind == CM_ITEM_MAP ? 2 * count : count; /* a count has 32 bits at most */
    if (items > front.left - 1 - width)
        return CM_E_BADVALUE;
    *item = (struct cm_item){.kind = kind, .count = count};
    *size = 1 + width;
    return 0;
}

static int read_mark(struct front front, struct cm_item *item, uint64_t *size) {
    uint64_t expires_ms;
    if (front.left < CM_ITEM_MARK_BYTES || front.at[1] != MARK_TYPE)
        return CM_E_BADVALUE;
    int err = read_number((struct front){front.at + 1, front.left - 1}, 8, &expires_ms);
    if (err || !expires_ms)
        return CM_E_BADVALUE;
    *item = (struct cm_item){.kind = CM_ITEM_MARK, .count = expires_ms};
    *size = CM_ITEM_MARK_BYTES;
    return 0;
}

/* An item whose first byte says neither its value nor its count. */
static int read_long(struct front front, struct cm_item *item, uint64_t *size) {
    uint8_t first = front.at[0];
    uint64_t number;
    size_t width;
    switch (first) {
    case NIL:
        return read_scalar(front, item, size, CM_ITEM_NULL, 0);
    case FALSE:
        return read_scalar(front, item, size, CM_ITEM_FALSE, 0);
    case TRUE:
        return read_scalar(front, item, size, CM_ITEM_TRUE, 0);
    case FLOAT64:
        return read_scalar(front, item, size, CM_ITEM_NUMBER, 8);
    case UINT64: /* Lua has no integers beyond INT64_MAX */
        return front.left > 1 && front.at[1] > 0x7f ? CM_E_BADVALUE
                                                    : read_scalar(front, item, size, CM_ITEM_NUMBER, 8);
    case UINT8:
    case UINT8 + 1:
    case UINT8 + 2:
        return read_scalar(front, item, size, CM_ITEM_NUMBER, (size_t)1 << (first - UINT8));
    case INT8:
    case INT8 + 1:
    case INT8 + 2:
    case INT64:
        return read_scalar(front, item, size, CM_ITEM_NUMBER, (size_t)1 << (first - INT8));
    case CM_ITEM_MARK_BYTE:
        return read_mark(front, item, size);
    case STR8:
    case STR16:
    case STR32:
        width = (size_t)1 << (first - STR8);
        return read_number(front, width, &number) ? CM_E_BADVALUE
                                                  : read_string(front, item, size, width, number);
    case ARRAY16:
    case ARRAY32:
        width = (size_t)2 << (first - ARRAY16);
        return read_number(front, width, &number)
                   ? CM_E_BADVALUE
                   : read_table(front, item, size, CM_ITEM_ARRAY, width, number);
    case MAP16:
    case MAP32:
        width = (size_t)2 << (first - MAP16);
        return read_number(front, width, &number) ? CM_E_BADVALUE
                                                  : read_table(front, item, size, CM_ITEM_MAP, width, number);
    default:
        return CM_E_BADVALUE;
    }
}

static inline int read_item(struct front front, struct cm_item *item, uint64_t *size) {
    if (!front.left)
        return CM_E_BADVALUE;
    uint8_t first = front.at[0];
    if (first <= POSITIVE_FIXINT_MOST || first >= NEGATIVE_FIXINT_LEAST)
        return read_scalar(front, item, size, CM_ITEM_NUMBER, 0);
    if (first <= FIXMAP_MOST)
        return read_table(front, item, size, CM_ITEM_MAP, 0, first - FIXMAP);
    if (first <= FIXARRAY_MOST)
        return read_table(front, item, size, CM_ITEM_ARRAY, 0, first - FIXARRAY);
    if (first <= FIXSTR_MOST)
        return read_string(front, item, size, 0, first - FIXSTR);
    return read_long(front, item, size);
}

int cm_item_take(struct cm_bytes *rest, struct cm_item *item) {
    uint64_t size;
    int err = read_item((struct front){rest->data, rest->len}, item, &size);
    if (err)
        return err;
    rest->data += size;
    rest->len -= size;
    return 0;
}

int cm_item_peek(struct cm_stream *stream, struct cm_item *item, uint64_t *size) {
    int err = cm_stream_look(stream, CM_ITEM_HEAD_BYTES);
    return err ? err : read_item((struct front){stream->ready.data, stream->left}, item, size);
}

/* Each item takes a byte at least: so what is owed is bounded by the bytes that are left, however deep it
 * nests. The stream is kept in registers between two fetches, which takes a quarter off. */
int cm_item_pass(struct cm_stream *stream) {
    struct cm_stream ahead = *stream;
    for (uint64_t owed = 1; owed; owed--) {
        struct cm_item item;
        uint64_t size;
        if (owed > ahead.left)
            return CM_E_BADVALUE;
        if (ahead.ready.len < CM_ITEM_HEAD_BYTES && ahead.ready.len < ahead.left) {
            *stream = ahead;
            int err = cm_stream_look(stream, CM_ITEM_HEAD_BYTES);
            if (err)
                return err;
            ahead = *stream;
        }
        if (read_item((struct front){ahead.ready.data, ahead.left}, &item, &size))
            return CM_E_BADVALUE;
        if (size > ahead.ready.len) {
            *stream = ahead;
            int err = cm_stream_skip(stream, size);
            if (err)
                return err;
            ahead = *stream;
        } else {
            ahead.ready.data += size;
            ahead.ready.len -= size;
            ahead.left -= size;
        }
        if (item.kind == CM_ITEM_ARRAY)
            owed += item.count;
        else if (item.kind == CM_ITEM_MAP)
            owed += 2 * item.count;
        else if (item.kind == CM_ITEM_MARK)
            owed++;
    }
    *stream = ahead;
    return 0;
}

int cm_item_skip(struct cm_bytes *rest) {
    struct cm_stream stream = cm_stream_of(*rest);
    int err = cm_item_pass(&stream);
    if (!err)
        *rest = stream.ready;
    return err;
}

/* --- keys --- */

bool cm_item_is_key(const struct cm_item *item) {
    struct cm_number number;
    if (item->kind == CM_ITEM_STRING)
        return true;
    if (item->kind != CM_ITEM_NUMBER || cm_number_decode(item->bytes, &number))
        return false;
    return !number.is_float || number.real == number.real;
}

bool cm_item_integer(const struct cm_item *item, int64_t *integer) {
    struct cm_number number;
    if (item->kind != CM_ITEM_NUMBER || cm_number_decode(item->bytes, &number))
        return false;
    if (!number.is_float) {
        *integer = number.integer;
        return true;
    }
    static const double beyond = 9223372036854775808.0; /* 2^63 */
    if (!(number.real >= -beyond) || !(number.real < beyond) || (double)(int64_t)number.real != number.real)
        return false;
    *integer = (int64_t)number.real;
    return true;
}

bool cm_item_same_key(const struct cm_item *one, const struct cm_item *other) {
    if (one->kind != other->kind)
        return false;
    struct cm_bytes a = one->bytes, b = other->bytes;
    if (one->kind == CM_ITEM_STRING)
        return a.len == b.len && (!a.len || memcmp(a.data, b.data, a.len) == 0);
    int64_t first, second;
    bool whole = cm_item_integer(one, &first);
    if (whole != cm_item_integer(other, &second))
        return false;
    struct cm_number x, y;
    return whole ? first == second : !cm_number_decode(a, &x) && !cm_number_decode(b, &y) && x.real == y.real;
}

/* --- the walk --- */

void cm_item_walk_init(struct cm_item_walk *walk, struct cm_bytes bytes) {
    walk->rest = bytes;
    walk->depth = walk->deepest = 0;
    walk->is_key = walk->marked = walk->done = false;
}

/* Behind an item that is no mark: ends the tables that it was the last one of. */
static int pass(struct cm_item_walk *walk) {
    walk->marked = false;
    while (walk->depth && !walk->levels[walk->depth - 1].left)
        walk->depth--;
    const struct cm_item_level *level = walk->depth ? &walk->levels[walk->depth - 1] : NULL;
    walk->is_key = level && level->is_map && level->left % 2 == 0;
    walk->done = !level;
    return walk->done && walk->rest.len ? CM_E_BADVALUE : 0;
}

static int enter(struct cm_item_walk *walk, const struct cm_item *table) {
    if (walk->depth == CM_ITEM_MAX_DEPTH)
        return CM_E_BADVALUE;
    bool is_map = table->kind == CM_ITEM_MAP;
    walk->levels[walk->depth++] = (struct cm_item_level){is_map ? 2 * table->count : table->count, is_map};
    if (walk->depth > walk->deepest)
        walk->deepest = walk->depth;
    return 0;
}

int cm_item_walk_next(struct cm_item_walk *walk, struct cm_item *item) {
    int err = cm_item_take(&walk->rest, item);
    if (err)
        return err;
    if (item->kind == CM_ITEM_MARK) {
        bool misplaced = walk->is_key || walk->marked;
        walk->marked = true;
        return misplaced ? CM_E_BADVALUE : 0;
    }
    if (walk->is_key && !cm_item_is_key(item))
        return CM_E_BADVALUE;
    if (walk->depth)
        walk->levels[walk->depth - 1].left--;
    if (item->kind == CM_ITEM_ARRAY || item->kind == CM_ITEM_MAP)
        err = enter(walk, item);
    return err ? err : pass(walk);
}

int cm_item_walk_skip(struct cm_item_walk *walk) {
    int err = cm_item_skip(&walk->rest);
    if (err)
        return err;
    if (walk->depth)
        walk->levels[walk->depth - 1].left--;
    return pass(walk);
}

/* --- writing --- */

static int write_head(struct cm_buf *out, uint8_t first, uint64_t number, size_t len) {
    uint8_t bytes[9] = {first};
    for (size_t i = 0; i < len; i++)
        bytes[1 + i] = (uint8_t)(number >> 8 * (len - 1 - i));
    return cm_buf_append(out, bytes, 1 + len);
}

int cm_item_write_string(struct cm_buf *out, struct cm_bytes string) {
    size_t start = out->len;
    int err;
    if (string.len <= FIXSTR_MOST - FIXSTR)
        err = write_head(out, (uint8_t)(FIXSTR + string.len), 0, 0);
    else if (string.len <= UINT8_MAX)
        err = write_head(out, STR8, string.len, 1);
    else if (string.len <= UINT16_MAX)
        err = write_head(out, STR16, string.len, 2);
    else
        err = write_head(out, STR32, string.len, 4);
    if (!err)
        err = cm_buf_append(out, string.data, string.len);
    if (err)
        out->len = start;
    return err;
}

/* The width of the shortest form is 2^exponent bytes. */
static unsigned exponent_of(uint64_t number, unsigned spare_bits) {
    unsigned exponent = 0;
    while (exponent < 3 && number >> ((8U << exponent) - spare_bits))
        exponent++;
    return exponent;
}

int cm_item_write_integer(struct cm_buf *out, int64_t integer) {
    if (integer >= NEGATIVE_FIXINT_LEAST - 256 && integer <= POSITIVE_FIXINT_MOST)
        return write_head(out, (uint8_t)integer, 0, 0);
    unsigned exponent = integer > 0 ? exponent_of((uint64_t)integer, 0) : exponent_of(~(uint64_t)integer, 1);
    return write_head(out, (uint8_t)((integer > 0 ? UINT8 : INT8) + exponent), (uint64_t)integer,
                      (size_t)1 << exponent);
}

int cm_item_write_float(struct cm_buf *out, double real) {
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    return write_head(out, FLOAT64, bits, sizeof bits);
}

int cm_item_write_key(struct cm_buf *out, const struct cm_item *key) {
    int64_t integer;
    if (key->kind == CM_ITEM_STRING)
        return cm_item_write_string(out, key->bytes);
    if (cm_item_integer(key, &integer))
        return cm_item_write_integer(out, integer);
    return cm_buf_append(out, key->bytes.data, key->bytes.len);
}

int cm_item_write_table(struct cm_buf *out, enum cm_item_kind kind, uint64_t count) {
    bool is_map = kind == CM_ITEM_MAP || !count;
    if (count <= FIXMAP_MOST - FIXMAP)
        return write_head(out, (uint8_t)((is_map ? FIXMAP : FIXARRAY) + count), 0, 0);
    if (count <= UINT16_MAX)
        return write_head(out, is_map ? MAP16 : ARRAY16, count, 2);
    return write_head(out, is_map ? MAP32 : ARRAY32, count, 4);
}

void cm_item_place_mark(uint8_t at[CM_ITEM_MARK_BYTES], uint64_t expires_ms) {
    at[0] = CM_ITEM_MARK_BYTE;
    at[1] = MARK_TYPE;
    for (size_t i = 0; i < 8; i++)
        at[2 + i] = (uint8_t)(expires_ms >> (56 - 8 * i));
}

int cm_item_write_mark(struct cm_buf *out, uint64_t expires_ms) {
    uint8_t bytes[CM_ITEM_MARK_BYTES];
    cm_item_place_mark(bytes, expires_ms);
    return cm_buf_append(out, bytes, sizeof bytes);
}
