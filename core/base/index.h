/* A hash index over items that hold its nodes: chains that grow in number with the items. It owns nothing but
 * its array, and looks at nothing but the hashes: several items may have the same. */
#ifndef CM_BASE_INDEX_H
#define CM_BASE_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct cm_index_node {
    struct cm_index_node *next;
    uint64_t hash;
};

struct cm_index {
    struct cm_index_node **chains;
    size_t room; /* a power of 2 */
    size_t count;
};

/* 0 or CM_E_NOMEMORY. */
int cm_index_init(struct cm_index *index);
void cm_index_deinit(struct cm_index *index);

/* Adds the node with its hash, which is to be a good one. Where there is no memory to grow the chains become
 * longer. */
void cm_index_add(struct cm_index *index, struct cm_index_node *node, uint64_t hash);
/* Takes out a node that is in it. */
void cm_index_remove(struct cm_index *index, struct cm_index_node *node);

/* The first node of that hash, and the next one of the same; NULL: there is none. */
struct cm_index_node *cm_index_first(const struct cm_index *index, uint64_t hash);
struct cm_index_node *cm_index_next(const struct cm_index_node *node);

#endif
