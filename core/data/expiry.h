/* Which entries expire, soonest first: a binary heap of pointers. It owns its array, not the entries; an
 * entry knows its place in it. The store's thread only. */
#ifndef CM_DATA_EXPIRY_H
#define CM_DATA_EXPIRY_H

#include <stddef.h>

#include "memory/table.h"

/* Zeroed is valid and empty. */
struct cm_expiry {
    struct cm_entry **heap;
    size_t count;
    size_t room;
};

void cm_expiry_deinit(struct cm_expiry *expiry);

/* Makes room for `more` entries, so that as many calls of add cannot fail. 0 or CM_E_NOMEMORY. */
int cm_expiry_reserve(struct cm_expiry *expiry, size_t more);

/* Adds an entry whose expires_ms is not 0; there must be room. */
void cm_expiry_add(struct cm_expiry *expiry, struct cm_entry *entry);

/* Takes an entry out that is in. Its expires_ms must not have changed since. */
void cm_expiry_remove(struct cm_expiry *expiry, struct cm_entry *entry);

/* The entry that expires first, or NULL. */
struct cm_entry *cm_expiry_first(const struct cm_expiry *expiry);

#endif
