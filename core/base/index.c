#include "base/index.h"

#include <stdlib.h>

#include "base/error.h"

enum { FIRST_ROOM = 64 };

int cm_index_init(struct cm_index *index) {
    *index = (struct cm_index){.room = FIRST_ROOM};
    index->chains = calloc(FIRST_ROOM, sizeof(struct cm_index_node *));
    return index->chains ? 0 : CM_E_NOMEMORY;
}

void cm_index_deinit(struct cm_index *index) {
    free(index->chains);
    *index = (struct cm_index){0};
}

static struct cm_index_node **chain_of(const struct cm_index *index, uint64_t hash) {
    return &index->chains[hash & (index->room - 1)];
}

static void grow(struct cm_index *index) {
    struct cm_index wider = {.room = 2 * index->room};
    wider.chains = calloc(wider.room, sizeof(struct cm_index_node *));
    if (!wider.chains)
        return;
    for (size_t i = 0; i < index->room; i++) {
        for (struct cm_index_node *node = index->chains[i], *next; node; node = next) {
            next = node->next;
            cm_index_add(&wider, node, node->hash);
        }
    }
    free(index->chains);
    *index = wider;
}

void cm_index_add(struct cm_index *index, struct cm_index_node *node, uint64_t hash) {
    if (index->count >= index->room)
        grow(index);
    struct cm_index_node **chain = chain_of(index, hash);
    *node = (struct cm_index_node){*chain, hash};
    *chain = node;
    index->count++;
}

void cm_index_remove(struct cm_index *index, struct cm_index_node *node) {
    struct cm_index_node **link = chain_of(index, node->hash);
    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    index->count--;
}

static struct cm_index_node *find(struct cm_index_node *node, uint64_t hash) {
    while (node && node->hash != hash)
        node = node->next;
    return node;
}

struct cm_index_node *cm_index_first(const struct cm_index *index, uint64_t hash) {
    return find(*chain_of(index, hash), hash);
}

struct cm_index_node *cm_index_next(const struct cm_index_node *node) {
    return find(node->next, node->hash);
}
