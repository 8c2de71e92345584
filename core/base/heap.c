#include "base/heap.h"

#include <stdlib.h>

#include "base/error.h"

enum { FIRST_ROOM = 16 };

void cm_heap_deinit(struct cm_heap *heap) {
    free(heap->nodes);
    *heap = (struct cm_heap){0};
}

static void place(struct cm_heap *heap, struct cm_heap_node *node, size_t at) {
    heap->nodes[at] = node;
    node->at = at + 1;
}

static void rise(struct cm_heap *heap, struct cm_heap_node *node, size_t at) {
    while (at && heap->nodes[(at - 1) / 2]->key > node->key) {
        place(heap, heap->nodes[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    place(heap, node, at);
}

static void sink(struct cm_heap *heap, struct cm_heap_node *node, size_t at) {
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < heap->count && heap->nodes[child + 1]->key < heap->nodes[child]->key)
            child++;
        if (child >= heap->count || heap->nodes[child]->key >= node->key)
            break;
        place(heap, heap->nodes[child], at);
        at = child;
    }
    place(heap, node, at);
}

int cm_heap_add(struct cm_heap *heap, struct cm_heap_node *node) {
    if (heap->count == heap->room) {
        size_t room = heap->room ? 2 * heap->room : FIRST_ROOM;
        struct cm_heap_node **nodes = realloc(heap->nodes, room * sizeof(struct cm_heap_node *));
        if (!nodes)
            return CM_E_NOMEMORY;
        heap->nodes = nodes;
        heap->room = room;
    }
    rise(heap, node, heap->count++);
    return 0;
}

void cm_heap_remove(struct cm_heap *heap, struct cm_heap_node *node) {
    if (!node->at)
        return;
    size_t at = node->at - 1;
    node->at = 0;
    struct cm_heap_node *last = heap->nodes[--heap->count];
    if (last == node)
        return;
    rise(heap, last, at);
    sink(heap, last, last->at - 1);
}
