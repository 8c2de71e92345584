#include "data/document.h"

#include <string.h>

#include "base/error.h"
#include "data/path.h"

/* --- checks --- */

static int check(struct cm_bytes bytes, bool with_marks, unsigned *depth) {
    struct cm_item_walk walk;
    cm_item_walk_init(&walk, bytes);
    while (!walk.done) {
        struct cm_item item;
        int err = cm_item_walk_next(&walk, &item);
        if (!err && item.kind == CM_ITEM_MARK && !with_marks)
            err = CM_E_BADVALUE;
        if (err)
            return err;
    }
    *depth = walk.deepest;
    return 0;
}

int cm_document_check(struct cm_bytes value, unsigned *depth) {
    return check(value, false, depth);
}

int cm_document_check_body(struct cm_bytes body) {
    unsigned depth;
    return check(body, true, &depth);
}

/* --- the way along the steps: places are offsets in the body --- */

/* A table on the way. */
struct table {
    bool is_there;
    size_t head;
    size_t items; /* where what is behind its head begins */
    struct cm_item item;
};

enum ending {
    REACHED, /* a living value, and no steps are left */
    EXPIRED, /* a value that is absent, whatever steps are left */
    SCALAR,  /* a living value that has no entries, and steps are left */
    MISSING, /* the table `in` has no entry for the next step */
};

struct spot {
    enum ending ending;
    struct cm_bytes steps; /* those that are left */
    struct table in;       /* the table that the value is in; if it is MISSING: should be in */
    int64_t index;         /* in that, if it is an array */
    size_t entry;          /* where the entry begins: a map's with its key */
    size_t marked;         /* the value with its mark */
    size_t value;          /* the value without */
    uint64_t expires_ms;   /* of the mark; 0: there is none */
    uint64_t body_len;
};

static size_t place_of(const struct spot *spot, const struct cm_stream *body) {
    return (size_t)(spot->body_len - body->left);
}

/* Passes over a string, whose head has been taken. */
static int compare_string(struct cm_stream *body, uint64_t len, const struct cm_item *step, bool *same) {
    struct cm_bytes other = step->bytes;
    *same = step->kind == CM_ITEM_STRING && other.len == len;
    while (*same && other.len) {
        size_t piece = other.len < CM_STREAM_LOOK_BYTES ? other.len : CM_STREAM_LOOK_BYTES;
        int err = cm_stream_look(body, piece);
        if (err)
            return err;
        *same = memcmp(body->ready.data, other.data, piece) == 0;
        err = cm_stream_skip(body, piece);
        if (err)
            return err;
        other.data += piece;
        other.len -= piece;
        len -= piece;
    }
    return cm_stream_skip(body, len);
}

/* Passes over a map's key. */
static int compare_key(struct cm_stream *body, const struct cm_item *step, bool *same) {
    struct cm_item key;
    uint64_t size;
    int err = cm_item_peek(body, &key, &size);
    if (err)
        return err;
    if (key.kind == CM_ITEM_STRING) {
        err = cm_stream_skip(body, size - key.bytes.len);
        return err ? err : compare_string(body, key.bytes.len, step, same);
    }
    if (key.kind != CM_ITEM_NUMBER)
        return CM_E_BADVALUE;
    *same = cm_item_same_key(&key, step);
    return cm_stream_skip(body, size);
}

/* Goes on to the value of that key; if there is none, *found is false. */
static int enter_map(struct spot *spot, const struct cm_item *step, struct cm_stream *body, bool *found) {
    *found = false;
    for (uint64_t left = spot->in.item.count; left; left--) {
        spot->entry = place_of(spot, body);
        int err = compare_key(body, step, found);
        if (err || *found)
            return err;
        err = cm_item_pass(body);
        if (err)
            return err;
    }
    return 0;
}

static int enter_array(struct spot *spot, const struct cm_item *step, struct cm_stream *body, bool *found) {
    int err = 0;
    *found = cm_item_integer(step, &spot->index) && spot->index >= 1 &&
             (uint64_t)spot->index <= spot->in.item.count;
    for (int64_t i = 1; *found && !err && i < spot->index; i++)
        err = cm_item_pass(body);
    spot->entry = place_of(spot, body);
    return err;
}

/* Behind the table's head. */
static int enter(struct spot *spot, const struct cm_item *table, struct cm_stream *body, bool *found) {
    struct cm_bytes behind = spot->steps;
    struct cm_item step;
    int err = cm_path_next(&behind, &step);
    if (err)
        return err;
    spot->in = (struct table){true, spot->value, place_of(spot, body), *table};
    err = table->kind == CM_ITEM_MAP ? enter_map(spot, &step, body, found)
                                     : enter_array(spot, &step, body, found);
    if (!err && *found)
        spot->steps = behind;
    return err;
}

/* Takes the mark that may be there, and looks at the value behind it. */
static int look_at_value(struct spot *spot, struct cm_stream *body, uint64_t now_ms, struct cm_item *item,
                         uint64_t *size) {
    spot->marked = spot->value = place_of(spot, body);
    spot->expires_ms = 0;
    int err = cm_item_peek(body, item, size);
    if (err || item->kind != CM_ITEM_MARK)
        return err;
    spot->expires_ms = item->count;
    if (spot->expires_ms <= now_ms)
        return 0;
    err = cm_stream_skip(body, *size);
    spot->value = place_of(spot, body);
    if (!err)
        err = cm_item_peek(body, item, size);
    return !err && item->kind == CM_ITEM_MARK ? CM_E_BADVALUE : err;
}

/* Goes as far as the steps lead; where a value is REACHED, it is what comes next. */
static int walk_steps(struct cm_stream *body, struct cm_bytes steps, uint64_t now_ms, struct spot *spot) {
    *spot = (struct spot){.steps = steps, .body_len = body->left};
    for (bool found = true; found;) {
        struct cm_item item;
        uint64_t size;
        int err = look_at_value(spot, body, now_ms, &item, &size);
        if (err)
            return err;
        bool is_table = item.kind == CM_ITEM_MAP || item.kind == CM_ITEM_ARRAY;
        spot->ending = item.kind == CM_ITEM_MARK ? EXPIRED
                       : !spot->steps.len        ? REACHED
                       : is_table                ? MISSING
                                                 : SCALAR;
        if (spot->ending != MISSING)
            return 0;
        err = cm_stream_skip(body, size);
        if (!err)
            err = enter(spot, &item, body, &found);
        if (err)
            return err;
    }
    return 0;
}

static int walk_body(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct spot *spot) {
    struct cm_stream stream = cm_stream_of(body);
    return walk_steps(&stream, steps, now_ms, spot);
}

int cm_document_seek(struct cm_stream *body, struct cm_bytes steps, uint64_t now_ms, uint64_t *at,
                     uint64_t *len) {
    if (!body->left)
        return CM_E_NOTFOUND;
    struct spot spot;
    int err = walk_steps(body, steps, now_ms, &spot);
    if (err || spot.ending != REACHED)
        return err ? err : CM_E_NOTFOUND;
    *at = spot.value;
    if (!len)
        return 0;
    err = cm_item_pass(body);
    if (!err)
        *len = place_of(&spot, body) - spot.value;
    return err;
}

int cm_document_find(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct cm_bytes *value) {
    struct cm_stream stream = cm_stream_of(body);
    uint64_t at, len;
    int err = cm_document_seek(&stream, steps, now_ms, &at, &len);
    if (!err)
        *value = (struct cm_bytes){body.data + at, len};
    return err;
}

int cm_document_expiry(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, uint64_t *expires_ms) {
    struct spot spot;
    *expires_ms = 0;
    int err = body.len ? walk_body(body, steps, now_ms, &spot) : 0;
    if (!err && body.len && spot.ending == REACHED)
        *expires_ms = spot.expires_ms;
    return err;
}

/* --- splices --- */

/* What a body gets: a value, in new tables for the steps that lead to it. */
struct addition {
    struct cm_bytes steps;
    struct cm_bytes value;
    uint64_t expires_ms;
};

/* From there to the end of the body. */
static struct cm_bytes tail(struct cm_bytes body, size_t from) {
    return (struct cm_bytes){body.data + from, body.len - from};
}

static int append_run(struct cm_buf *out, const uint8_t *from, const uint8_t *to) {
    return cm_buf_append(out, from, (size_t)(to - from));
}

static int skip_items(struct cm_bytes *rest, uint64_t count) {
    int err = 0;
    for (; !err && count; count--)
        err = cm_item_skip(rest);
    return err;
}

static bool is_one(const struct cm_item *step) {
    int64_t integer;
    return cm_item_integer(step, &integer) && integer == 1;
}

static int append_addition(struct cm_buf *out, const struct addition *addition) {
    struct cm_bytes steps = addition->steps;
    while (steps.len) {
        struct cm_item step;
        int err = cm_path_next(&steps, &step);
        if (!err && is_one(&step))
            err = cm_item_write_table(out, CM_ITEM_ARRAY, 1);
        else if (!err) {
            err = cm_item_write_table(out, CM_ITEM_MAP, 1);
            err = err ? err : cm_item_write_key(out, &step);
        }
        if (err)
            return err;
    }
    int err = addition->expires_ms ? cm_item_write_mark(out, addition->expires_ms) : 0;
    return err ? err : cm_buf_append(out, addition->value.data, addition->value.len);
}

/* The bytes from `from` on that are a value and its mark make room for the addition. */
static int replace(struct cm_bytes body, size_t from, const struct addition *addition, struct cm_buf *out) {
    struct cm_bytes rest = tail(body, from);
    int err = cm_item_skip(&rest);
    if (!err)
        err = cm_buf_append(out, body.data, from);
    if (!err)
        err = append_addition(out, addition);
    return err ? err : cm_buf_append(out, rest.data, rest.len);
}

/* Appends an array's elements as a map's pairs, without the element `but` (0: all), and takes them off
 * `rest`. */
static int append_pairs(struct cm_bytes *rest, uint64_t count, int64_t but, struct cm_buf *out) {
    int err = 0;
    for (int64_t i = 1; !err && (uint64_t)i <= count; i++) {
        const uint8_t *from = rest->data;
        err = cm_item_skip(rest);
        if (!err && i != but) {
            err = cm_item_write_integer(out, i);
            err = err ? err : append_run(out, from, rest->data);
        }
    }
    return err;
}

/* Appends the table with an addition at its end, whose first step is the new key. */
static int append_grown(struct cm_bytes body, struct table in, struct addition addition, struct cm_buf *out,
                        struct cm_bytes *rest) {
    struct cm_item key;
    int err = cm_path_next(&addition.steps, &key);
    if (err)
        return err;
    uint64_t count = in.item.count;
    if (count >= UINT32_MAX)
        return CM_E_TOOLARGE;
    int64_t index;
    bool was_array = in.item.kind == CM_ITEM_ARRAY || !count;
    bool is_array = was_array && cm_item_integer(&key, &index) && (uint64_t)index == count + 1;
    *rest = tail(body, in.items);
    err = cm_item_write_table(out, is_array ? CM_ITEM_ARRAY : CM_ITEM_MAP, count + 1);
    if (!err && was_array && !is_array)
        err = append_pairs(rest, count, 0, out);
    else if (!err) {
        err = skip_items(rest, was_array ? count : 2 * count);
        err = err ? err : append_run(out, body.data + in.items, rest->data);
    }
    if (!err && !is_array)
        err = cm_item_write_key(out, &key);
    return err ? err : append_addition(out, &addition);
}

static int insert(struct cm_bytes body, const struct spot *spot, struct addition addition,
                  struct cm_buf *out) {
    struct cm_bytes rest;
    addition.steps = spot->steps;
    int err = cm_buf_append(out, body.data, spot->in.head);
    if (!err)
        err = append_grown(body, spot->in, addition, out, &rest);
    return err ? err : cm_buf_append(out, rest.data, rest.len);
}

static int add(struct cm_bytes body, struct addition addition, uint64_t now_ms, struct cm_buf *out) {
    if (!body.len)
        return append_addition(out, &addition);
    struct spot spot;
    int err = walk_body(body, addition.steps, now_ms, &spot);
    if (err)
        return err;
    if (spot.ending == MISSING)
        return insert(body, &spot, addition, out);
    addition.steps = spot.steps;
    return replace(body, spot.ending == SCALAR ? spot.value : spot.marked, &addition, out);
}

static int count_steps(struct cm_bytes steps, unsigned *count) {
    int err = 0;
    for (*count = 0; !err && steps.len; ++*count) {
        struct cm_item step;
        err = cm_path_next(&steps, &step);
    }
    return err;
}

int cm_document_set(struct cm_bytes body, struct cm_bytes steps, struct cm_bytes value, uint64_t expires_ms,
                    uint64_t now_ms, struct cm_buf *out) {
    unsigned depth, count;
    int err = cm_document_check(value, &depth);
    if (!err)
        err = count_steps(steps, &count);
    if (err)
        return err;
    if (count > CM_ITEM_MAX_DEPTH - depth)
        return CM_E_TOOLARGE;
    size_t start = out->len;
    err = add(body, (struct addition){steps, value, expires_ms}, now_ms, out);
    if (err)
        out->len = start;
    return err;
}

/* --- deleting --- */

static int append_without(struct cm_bytes body, const struct spot *spot, struct cm_buf *out) {
    const struct table *in = &spot->in;
    uint64_t count = in->item.count;
    bool is_map = in->item.kind == CM_ITEM_MAP;
    bool is_last = !is_map && (uint64_t)spot->index == count;
    struct cm_bytes rest = tail(body, spot->marked);
    int err = cm_buf_append(out, body.data, in->head);
    if (!err)
        err = cm_item_write_table(out, is_last ? CM_ITEM_ARRAY : CM_ITEM_MAP, count - 1);
    if (!err && !is_map && !is_last) {
        rest = tail(body, in->items);
        err = append_pairs(&rest, count, spot->index, out);
    } else if (!err) {
        err = cm_buf_append(out, body.data + in->items, spot->entry - in->items);
        err = err ? err : cm_item_skip(&rest);
    }
    return err ? err : cm_buf_append(out, rest.data, rest.len);
}

int cm_document_delete(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct cm_buf *out) {
    if (!body.len)
        return CM_E_NOTFOUND;
    struct spot spot;
    int err = walk_body(body, steps, now_ms, &spot);
    if (err || spot.ending != REACHED)
        return err ? err : CM_E_NOTFOUND;
    if (!spot.in.is_there)
        return 0;
    size_t start = out->len;
    err = append_without(body, &spot, out);
    if (err)
        out->len = start;
    return err;
}
