/* Documents as trees, for the tests of core/data/document and json: what operations on encoded bytes are
 * compared with. Keys are those of a short list, so a table is an array of children. */
#ifndef CM_SPEC_CORE_TREES_H
#define CM_SPEC_CORE_TREES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* 1 .. 6, then keys that are no array's. */
enum { TREE_INDEXES = 6, TREE_KEYS = 14 };

/* NULL is absence. */
struct tree {
    bool is_table;
    int64_t scalar;
    uint64_t expires_ms; /* 0: never */
    struct tree *children[TREE_KEYS];
};

struct tree *tree_scalar(int64_t scalar);
struct tree *tree_table(void);
void tree_free(struct tree *tree);

/* With at most `depth` tables inside tables; if marked, with times of expiry from from_ms on inside. */
struct tree *tree_random(uint64_t *random, unsigned depth, bool marked, uint64_t from_ms);

/* Frees all that is expired; gives what is left. */
struct tree *tree_expire(struct tree *tree, uint64_t now_ms);

/* Whether they are the same, with the same times of expiry. */
bool tree_equal(const struct tree *one, const struct tree *other);

/* The least time of expiry in it, or 0. */
uint64_t tree_earliest(const struct tree *tree);

unsigned tree_depth(const struct tree *tree);

/* The key as a step of a path. */
void tree_write_key(unsigned key, struct cm_buf *out);

/* Keys 1..n as an array or, with `as_maps`, in any order as a map. */
void tree_encode(const struct tree *tree, bool as_maps, uint64_t *random, struct cm_buf *out);

/* The tree of a well-formed body, expired parts included; no bytes are NULL. */
struct tree *tree_decode(struct cm_bytes body);

/* Finds, sets and deletes as documents do, at the keys given. Set takes the value; both give the new whole.
 */
const struct tree *tree_find(const struct tree *tree, const unsigned *keys, unsigned count);
struct tree *tree_set(struct tree *tree, const unsigned *keys, unsigned count, struct tree *value);
struct tree *tree_delete(struct tree *tree, const unsigned *keys, unsigned count);

#endif
