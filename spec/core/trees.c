#include "spec/core/trees.h"

#include <stdlib.h>
#include <string.h>

#include "data/item.h"
#include "spec/core/test.h"

struct tree *tree_scalar(int64_t scalar) {
    struct tree *tree = calloc(1, sizeof *tree);
    assert_non_null(tree);
    tree->scalar = scalar;
    return tree;
}

struct tree *tree_table(void) {
    struct tree *tree = tree_scalar(0);
    tree->is_table = true;
    return tree;
}

void tree_free(struct tree *tree) {
    for (unsigned i = 0; tree && i < TREE_KEYS; i++)
        tree_free(tree->children[i]);
    free(tree);
}

struct tree *tree_random(uint64_t *random, unsigned depth, bool marked, uint64_t from_ms) {
    if (!depth || random_below(random, 3) == 0)
        return tree_scalar((int64_t)random_next(random) >> random_below(random, 64));
    struct tree *tree = tree_table();
    size_t array = random_below(random, 2) ? random_below(random, TREE_INDEXES + 1) : 0;
    for (unsigned i = 0; i < TREE_KEYS; i++) {
        if (i >= array && (array || random_below(random, 4)))
            continue;
        tree->children[i] = tree_random(random, depth - 1, marked, from_ms);
        if (marked && random_below(random, 3) == 0)
            tree->children[i]->expires_ms = from_ms + random_below(random, 300);
    }
    return tree;
}

struct tree *tree_expire(struct tree *tree, uint64_t now_ms) {
    if (tree && tree->expires_ms && tree->expires_ms <= now_ms) {
        tree_free(tree);
        return NULL;
    }
    for (unsigned i = 0; tree && i < TREE_KEYS; i++)
        tree->children[i] = tree_expire(tree->children[i], now_ms);
    return tree;
}

bool tree_equal(const struct tree *one, const struct tree *other) {
    if (!one || !other)
        return one == other;
    if (one->is_table != other->is_table || one->expires_ms != other->expires_ms)
        return false;
    if (!one->is_table)
        return one->scalar == other->scalar;
    for (unsigned i = 0; i < TREE_KEYS; i++)
        if (!tree_equal(one->children[i], other->children[i]))
            return false;
    return true;
}

uint64_t tree_earliest(const struct tree *tree) {
    uint64_t least_ms = tree ? tree->expires_ms : 0;
    for (unsigned i = 0; tree && i < TREE_KEYS; i++) {
        uint64_t inner_ms = tree_earliest(tree->children[i]);
        if (inner_ms && (!least_ms || inner_ms < least_ms))
            least_ms = inner_ms;
    }
    return least_ms;
}

unsigned tree_depth(const struct tree *tree) {
    unsigned deepest = 0;
    if (!tree || !tree->is_table)
        return 0;
    for (unsigned i = 0; i < TREE_KEYS; i++) {
        unsigned depth = tree_depth(tree->children[i]);
        deepest = depth > deepest ? depth : deepest;
    }
    return 1 + deepest;
}

/* --- bytes --- */

static const char *const names[] = {"a", "b", "", "1"};
static const int64_t integers[] = {0, -7, INT64_C(1) << 40};

void tree_write_key(unsigned key, struct cm_buf *out) {
    int err;
    if (key < TREE_INDEXES)
        err = cm_item_write_integer(out, key + 1);
    else if (key < TREE_INDEXES + 4)
        err = cm_item_write_string(out, cm_bytes_of(names[key - TREE_INDEXES]));
    else if (key < TREE_INDEXES + 7)
        err = cm_item_write_integer(out, integers[key - TREE_INDEXES - 4]);
    else
        err = cm_item_write_float(out, 1.5);
    assert_int_equal(err, 0);
}

static unsigned read_key(struct cm_bytes *rest) {
    const uint8_t *from = rest->data;
    struct cm_item item;
    assert_int_equal(cm_item_take(rest, &item), 0);
    size_t len = (size_t)(rest->data - from);
    for (unsigned key = 0; key < TREE_KEYS; key++) {
        struct cm_buf buf = {0};
        tree_write_key(key, &buf);
        bool same = buf.len == len && memcmp(buf.data, from, len) == 0;
        cm_buf_deinit(&buf);
        if (same)
            return key;
    }
    fail_msg("a key that nobody has set");
    return 0;
}

static unsigned count_children(const struct tree *tree, bool *is_array) {
    unsigned count = 0, last = 0;
    for (unsigned i = 0; i < TREE_KEYS; i++)
        if (tree->children[i]) {
            count++;
            last = i + 1;
        }
    *is_array = count && last == count;
    return count;
}

static void encode_table(const struct tree *tree, bool as_maps, uint64_t *random, struct cm_buf *out) {
    bool is_array;
    unsigned count = count_children(tree, &is_array);
    is_array = is_array && !as_maps;
    assert_int_equal(cm_item_write_table(out, is_array ? CM_ITEM_ARRAY : CM_ITEM_MAP, count), 0);
    unsigned first = is_array ? 0 : (unsigned)random_below(random, TREE_KEYS);
    for (unsigned i = 0; i < TREE_KEYS; i++) {
        unsigned key = (first + i) % TREE_KEYS;
        if (!tree->children[key])
            continue;
        if (!is_array)
            tree_write_key(key, out);
        tree_encode(tree->children[key], as_maps, random, out);
    }
}

void tree_encode(const struct tree *tree, bool as_maps, uint64_t *random, struct cm_buf *out) {
    if (tree->expires_ms)
        assert_int_equal(cm_item_write_mark(out, tree->expires_ms), 0);
    if (tree->is_table)
        encode_table(tree, as_maps, random, out);
    else
        assert_int_equal(cm_item_write_integer(out, tree->scalar), 0);
}

static struct tree *decode(struct cm_bytes *rest) {
    struct cm_item item;
    uint64_t expires_ms = 0;
    assert_int_equal(cm_item_take(rest, &item), 0);
    if (item.kind == CM_ITEM_MARK) {
        expires_ms = item.count;
        assert_int_equal(cm_item_take(rest, &item), 0);
    }
    int64_t scalar = 0;
    bool is_table = !cm_item_integer(&item, &scalar);
    struct tree *tree = is_table ? tree_table() : tree_scalar(scalar);
    tree->expires_ms = expires_ms;
    if (is_table)
        assert_true(item.kind == CM_ITEM_ARRAY || item.kind == CM_ITEM_MAP);
    for (unsigned i = 0; i < item.count; i++) {
        unsigned key = item.kind == CM_ITEM_MAP ? read_key(rest) : i;
        assert_true(key < TREE_KEYS && !tree->children[key]);
        tree->children[key] = decode(rest);
    }
    return tree;
}

struct tree *tree_decode(struct cm_bytes body) {
    struct tree *tree = body.len ? decode(&body) : NULL;
    assert_int_equal(body.len, 0);
    return tree;
}

/* --- operations --- */

const struct tree *tree_find(const struct tree *tree, const unsigned *keys, unsigned count) {
    for (unsigned i = 0; tree && i < count; i++)
        tree = tree->children[keys[i]];
    return tree;
}

struct tree *tree_set(struct tree *tree, const unsigned *keys, unsigned count, struct tree *value) {
    if (!count) {
        tree_free(tree);
        return value;
    }
    if (!tree)
        tree = tree_table();
    tree->is_table = true;
    tree->children[*keys] = tree_set(tree->children[*keys], keys + 1, count - 1, value);
    return tree;
}

struct tree *tree_delete(struct tree *tree, const unsigned *keys, unsigned count) {
    if (!count) {
        tree_free(tree);
        return NULL;
    }
    tree->children[*keys] = tree_delete(tree->children[*keys], keys + 1, count - 1);
    return tree;
}
