#include "memory/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"

enum { FIRST_CHAINS = 64 };

int cm_table_init(struct cm_table *table) {
    *table = (struct cm_table){.chain_count = FIRST_CHAINS, .seed = cm_hash_seed()};
    table->chains = calloc(FIRST_CHAINS, sizeof *table->chains);
    return table->chains ? 0 : CM_E_NOMEMORY;
}

void cm_table_deinit(struct cm_table *table) {
    for (size_t i = 0; table->chains && i < table->chain_count; i++)
        while (table->chains[i])
            free(cm_table_unlink(table, &table->chains[i]));
    free(table->chains);
    *table = (struct cm_table){0};
}

static struct cm_entry **chain_of(struct cm_table *table, uint64_t hash) {
    return &table->chains[hash & (table->chain_count - 1)];
}

struct cm_entry **cm_table_find(struct cm_table *table, struct cm_bytes key, uint64_t *hash) {
    *hash = cm_hash(key, table->seed);
    for (struct cm_entry **link = chain_of(table, *hash); *link; link = &(*link)->next)
        if ((*link)->hash == *hash && (*link)->key_len == key.len &&
            memcmp((*link)->bytes, key.data, key.len) == 0)
            return link;
    return NULL;
}

static void grow(struct cm_table *table) {
    size_t count = table->chain_count;
    if (count > SIZE_MAX / 2 / sizeof *table->chains)
        return;
    struct cm_entry **old = table->chains;
    struct cm_entry **chains = calloc(count * 2, sizeof *chains);
    if (!chains)
        return;
    table->chains = chains;
    table->chain_count = count * 2;
    for (size_t i = 0; i < count; i++)
        while (old[i]) {
            struct cm_entry *entry = old[i];
            old[i] = entry->next;
            struct cm_entry **chain = chain_of(table, entry->hash);
            entry->next = *chain;
            *chain = entry;
        }
    free(old);
}

void cm_table_insert(struct cm_table *table, struct cm_entry *entry) {
    if (table->entries >= table->chain_count)
        grow(table);
    struct cm_entry **chain = chain_of(table, entry->hash);
    entry->next = *chain;
    *chain = entry;
    table->entries++;
}

struct cm_entry *cm_table_unlink(struct cm_table *table, struct cm_entry **link) {
    struct cm_entry *entry = *link;
    *link = entry->next;
    table->entries--;
    return entry;
}
