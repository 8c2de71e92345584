/* A binary min-heap of nodes that live inside the items: who is next comes in constant time, and an item
 * leaves from wherever it is in logarithmic time. It owns nothing but its array of pointers. */
#ifndef CM_BASE_HEAP_H
#define CM_BASE_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct cm_heap_node {
    uint64_t key;
    size_t at; /* where it is, from 1 on; 0: in no heap */
};

/* Zeroed is a valid empty heap. */
struct cm_heap {
    struct cm_heap_node **nodes;
    size_t count;
    size_t room;
};

void cm_heap_deinit(struct cm_heap *heap);

/* Adds the node, whose key stays until it has left. 0 or CM_E_NOMEMORY. */
int cm_heap_add(struct cm_heap *heap, struct cm_heap_node *node);

/* Does nothing to a node that is in no heap. */
void cm_heap_remove(struct cm_heap *heap, struct cm_heap_node *node);

/* The node with the least key; NULL: there is none. */
static inline struct cm_heap_node *cm_heap_first(const struct cm_heap *heap) {
    return heap->count ? heap->nodes[0] : NULL;
}

#endif
