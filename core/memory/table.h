/* A hash table of entries by key, in the memory of one process. It links entries and owns none of them. */
#ifndef CM_MEMORY_TABLE_H
#define CM_MEMORY_TABLE_H

#include "base/buf.h"

struct cm_entry {
    struct cm_entry *next; /* the chain's, the table's business alone */
    uint64_t hash;
    uint64_t version;
    uint64_t expires_ms; /* of cm_clock_ms; 0: never */
    uint32_t key_len;
    uint32_t value_len;
    uint8_t bytes[]; /* the key, then the value */
};

struct cm_table {
    struct cm_entry **chains;
    size_t chain_count; /* a power of two */
    size_t entries;
    uint64_t seed;
};

/* 0 or CM_E_NOMEMORY. */
int cm_table_init(struct cm_table *table);
/* Frees the table and, with free(), each entry still linked. */
void cm_table_deinit(struct cm_table *table);

/* The entry's link, for reading (*link) and for unlinking, valid until the next insert; or NULL. `hash` gets
 * what insert wants to know. */
struct cm_entry **cm_table_find(struct cm_table *table, struct cm_bytes key, uint64_t *hash);

/* Links an entry whose key is not in the table; entry->hash is set. Grows the table when it is full; if there
 * is no memory for that the chains get longer instead. */
void cm_table_insert(struct cm_table *table, struct cm_entry *entry);

/* Takes the entry behind the link out and returns it to the caller. */
struct cm_entry *cm_table_unlink(struct cm_table *table, struct cm_entry **link);

#endif
