#include "memory/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"

enum { FIRST_CHAINS = 64 };

int cm_table_init(struct cm_table *table) {
    *table = (struct cm_table){.chain_count = FIRST_CHAINS,
                               .chain_room = FIRST_CHAINS,
                               .mask = FIRST_CHAINS - 1,
                               .seed = cm_hash_seed()};
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
    size_t index = hash & table->mask;
    /* That chain has not been split off its parent yet. */
    if (index >= table->chain_count)
        index &= table->mask >> 1;
    return &table->chains[index];
}

struct cm_entry **cm_table_find(struct cm_table *table, struct cm_bytes key, uint64_t *hash) {
    *hash = cm_hash(key, table->seed);
    for (struct cm_entry **link = chain_of(table, *hash); *link; link = &(*link)->next)
        if ((*link)->hash == *hash && (*link)->key_len == key.len &&
            memcmp((*link)->bytes, key.data, key.len) == 0)
            return link;
    return NULL;
}

/* Makes room for one chain more. Whether there is. */
static bool make_room(struct cm_table *table) {
    if (table->chain_count < table->chain_room)
        return true;
    if (table->chain_room > SIZE_MAX / 2 / sizeof *table->chains)
        return false;
    struct cm_entry **chains = realloc(table->chains, table->chain_room * 2 * sizeof *chains);
    if (!chains)
        return false;
    table->chains = chains;
    table->chain_room *= 2;
    return true;
}

/* Splits the next chain in turn: what hashes to the new last chain moves there. */
static void grow(struct cm_table *table) {
    if (!make_room(table))
        return;
    size_t child = table->chain_count++;
    if (child > table->mask)
        table->mask = table->mask * 2 + 1;
    table->chains[child] = NULL;
    for (struct cm_entry **link = &table->chains[child & table->mask >> 1]; *link;) {
        struct cm_entry *entry = *link;
        if ((entry->hash & table->mask) != child) {
            link = &entry->next;
            continue;
        }
        *link = entry->next;
        entry->next = table->chains[child];
        table->chains[child] = entry;
    }
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

/* Visits a chain. */
static void visit_chain(struct cm_table *table, struct cm_entry **link, cm_table_visit_fn visit, void *data) {
    while (*link) {
        struct cm_entry *entry = *link;
        struct cm_entry *next = entry->next;
        if (visit(data, entry) == CM_VISIT_KEEP) {
            link = &entry->next;
        } else {
            *link = next;
            table->entries--;
        }
    }
}

static uint64_t reverse_bits(uint64_t value) {
    value = __builtin_bswap64(value);
    value = (value >> 4 & UINT64_C(0x0f0f0f0f0f0f0f0f)) | (value & UINT64_C(0x0f0f0f0f0f0f0f0f)) << 4;
    value = (value >> 2 & UINT64_C(0x3333333333333333)) | (value & UINT64_C(0x3333333333333333)) << 2;
    return (value >> 1 & UINT64_C(0x5555555555555555)) | (value & UINT64_C(0x5555555555555555)) << 1;
}

bool cm_table_walk(struct cm_table *table, uint64_t *cursor, cm_table_visit_fn visit, void *data) {
    struct cm_entry **chain = chain_of(table, reverse_bits(*cursor));
    /* How many bits of the hash the chain goes by: one less as long as it has not been split. */
    size_t half = (table->mask >> 1) + 1;
    size_t index = (size_t)(chain - table->chains);
    size_t chains_alike = index < half && index + half >= table->chain_count ? half : 2 * half;
    visit_chain(table, chain, visit, data);
    uint64_t width = UINT64_MAX / chains_alike + 1;
    *cursor = (*cursor & ~(width - 1)) + width;
    return *cursor != 0;
}
