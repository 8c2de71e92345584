/* The items of an encoded value, as core/bind/value writes them (MessagePack), with the marks of documents
 * (core/data/document): what path, document and json read and write with. Nothing that is read is trusted
 * further than its bytes reach. */
#ifndef CM_DATA_ITEM_H
#define CM_DATA_ITEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/stream.h"

enum {
    CM_ITEM_MAX_DEPTH = 128, /* tables inside tables, the outermost counted */
    CM_ITEM_MARK_BYTES = 10,
    CM_ITEM_HEAD_BYTES = CM_ITEM_MARK_BYTES, /* the most that tell what an item is */
    CM_ITEM_MARK_BYTE = 0xd7,                /* the first of a mark, and of nothing else */
};

enum cm_item_kind {
    CM_ITEM_NULL,
    CM_ITEM_FALSE,
    CM_ITEM_TRUE,
    CM_ITEM_NUMBER,
    CM_ITEM_STRING,
    CM_ITEM_ARRAY,
    CM_ITEM_MAP,
    CM_ITEM_MARK,
};

struct cm_item {
    enum cm_item_kind kind;
    uint64_t count;        /* an array's elements, a map's pairs; a mark's time of expiry in ms, never 0 */
    struct cm_bytes bytes; /* a string's own; of a number all, for cm_number_decode */
};

/* --- reading --- */

/* Takes one item off the front: a table without what is in it, a mark without its value. 0, or CM_E_BADVALUE
 * with `rest` as it was when there is none, or when a table announces more than the bytes can hold. */
int cm_item_take(struct cm_bytes *rest, struct cm_item *item);

/* Takes a value with all that is in it, and its mark. Looks at lengths only: what it passes over need not be
 * well-formed. 0 or CM_E_BADVALUE. */
int cm_item_skip(struct cm_bytes *rest);

/* The item that comes next in the stream, which stays there, and how many bytes it takes. As cm_item_take, or
 * what the stream says. Of a string only the length is known: its bytes are the last ones. */
int cm_item_peek(struct cm_stream *stream, struct cm_item *item, uint64_t *size);

/* As cm_item_skip, or what the stream says. */
int cm_item_pass(struct cm_stream *stream);

/* Whether it can be a map's key: a string, or a number that is not NaN. */
bool cm_item_is_key(const struct cm_item *item);

/* Whether it is a number that equals an integer: 1.0 is 1, as Lua has it. */
bool cm_item_integer(const struct cm_item *item, int64_t *integer);

/* Whether two keys are the same one. */
bool cm_item_same_key(const struct cm_item *one, const struct cm_item *other);

/* --- a walk over all items of a value, in their order, that accepts only what is well-formed --- */

struct cm_item_walk {
    struct cm_bytes rest;
    unsigned depth;   /* tables that the next item sits in */
    unsigned deepest; /* tables inside tables seen so far */
    bool is_key;      /* the next item is to be a map's key */
    bool marked;      /* the item before was the next one's mark */
    bool done;        /* the value is whole */
    struct cm_item_level {
        uint64_t left; /* items to come, of a map keys and values */
        bool is_map;
    } levels[CM_ITEM_MAX_DEPTH];
};

void cm_item_walk_init(struct cm_item_walk *walk, struct cm_bytes bytes);
/* Not when done. 0 or CM_E_BADVALUE: no value of the kinds there are, nested too deep, a key that can be
 * none, a mark where no value comes, or bytes behind the whole. */
int cm_item_walk_next(struct cm_item_walk *walk, struct cm_item *item);
/* Instead of next, where a value is to come or has been marked: passes over it, as cm_item_skip does. */
int cm_item_walk_skip(struct cm_item_walk *walk);

/* --- writing: each appends, in the shortest form; 0 or CM_E_NOMEMORY --- */

int cm_item_write_string(struct cm_buf *out, struct cm_bytes string); /* of less than 4 GiB */
int cm_item_write_integer(struct cm_buf *out, int64_t integer);
int cm_item_write_float(struct cm_buf *out, double real);
/* A key that was read; one that equals an integer as that. */
int cm_item_write_key(struct cm_buf *out, const struct cm_item *key);
/* A table's head, `count` up to UINT32_MAX; without entries always a map's, as an empty Lua table is. */
int cm_item_write_table(struct cm_buf *out, enum cm_item_kind kind, uint64_t count);
int cm_item_write_mark(struct cm_buf *out, uint64_t expires_ms);
/* The same over a mark that is there. */
void cm_item_place_mark(uint8_t at[CM_ITEM_MARK_BYTES], uint64_t expires_ms);

#endif
