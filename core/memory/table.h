/* A hash table of entries by key, in the memory of one process, grown by linear hashing: one chain is split
 * for each insert that finds the table full, so no insert waits for all the others to move. It links entries
 * and owns none of them. After W. Litwin, "Linear hashing: a new tool for file and table addressing", VLDB
 * 1980. */
#ifndef CM_MEMORY_TABLE_H
#define CM_MEMORY_TABLE_H

#include <stdbool.h>

#include "base/buf.h"

struct cm_entry {
    struct cm_entry *next; /* the chain's, the table's business alone */
    uint64_t hash;
    uint64_t version;
    uint64_t expires_ms; /* of cm_clock_ms; 0: never */
    size_t expiry_place; /* core/data/expiry's business alone */
    uint32_t key_len;
    uint32_t value_len;
    uint8_t bytes[]; /* the key, then the value */
};

struct cm_table {
    struct cm_entry **chains;
    size_t chain_count;
    size_t chain_room;
    size_t mask; /* the smallest 2^n - 1 that is not below chain_count - 1 */
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

/* What a visit does with the walk. */
enum cm_visit { CM_VISIT_KEEP, CM_VISIT_REMOVE };

/* Looks at an entry. What it wants removed is the visitor's from then on; the walk unlinks it without looking
 * at it again. */
typedef enum cm_visit (*cm_table_visit_fn)(void *data, struct cm_entry *entry);

/* Takes one step of a walk over all entries: visits one chain. The cursor is 0 at the beginning, and again at
 * the end, where it returns false; in between anything may change. Chains come in the order of their hashes'
 * reversed bits, in which a split only halves an interval: so an entry that is there from the beginning to
 * the end is visited exactly once. Any number is a cursor. */
bool cm_table_walk(struct cm_table *table, uint64_t *cursor, cm_table_visit_fn visit, void *data);

#endif
