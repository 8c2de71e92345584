/* Gives the memory of expired entries back: chunk by chunk, of those in which something is due. Readers and
 * writers take an expired entry for absent at once; this is only about its bytes. The master's. */
#ifndef CM_DATA_EXPIRY_H
#define CM_DATA_EXPIRY_H

#include "data/store.h"

struct cm_lru;

/* Zeroed: at the beginning. */
struct cm_sweep {
    struct cm_lru *lru;           /* has the entries of the cache removed; NULL: they are passed over */
    const struct cm_store *store; /* whose listeners are told; NULL: nobody is */
    /* Something in a document is over: told once when it falls due, and until it is purged perhaps again,
     * when something near it does. NULL: nobody wants to know. */
    void (*on_document)(void *data, struct cm_bytes key);
    void *data;
    uint8_t key[(CM_KEY_MAX_BYTES + 8) & ~7]; /* of the entry at hand: there is no allocating in a section */
    uint32_t chunk;
    uint32_t at;         /* in the chunk */
    uint32_t generation; /* that the chunk had when it was begun */
    bool within;         /* a chunk is begun */
};

/* Goes on through the chunks, looking at about `records` of those that are due at most. True when there is
 * more to do at once; false at the end of a round. */
bool cm_expiry_sweep(struct cm_sweep *sweep, struct cm_participant *master, uint64_t now_ms,
                     unsigned records);

#endif
