/* The key-value store: bytes in, bytes out, a version for each change, and the time as an argument. This is
 * the narrow interface through which the master's handlers act for a process.
 *
 * The store belongs to the master's thread. Its memory is bounded by the limit it is made with: what would go
 * beyond fails with CM_E_NOMEMORY and changes nothing. Versions come from one counter, so a key's versions
 * grow for ever, across removal and re-creation. */
#ifndef CM_DATA_STORE_H
#define CM_DATA_STORE_H

#include "base/buf.h"

enum { CM_KEY_MAX_BYTES = 65535 };

struct cm_store;

/* An empty store for at most memory_bytes of entries. 0 or CM_E_NOMEMORY. */
int cm_store_new(uint64_t memory_bytes, struct cm_store **store);
void cm_store_free(struct cm_store *store);

/* Stores a copy of the value under a copy of the key, until expires_ms of cm_clock_ms (0: for ever), and
 * gives the new version. 0; CM_E_BADVALUE for a key of no or too many bytes; CM_E_NOMEMORY with the old value
 * kept. */
int cm_store_set(struct cm_store *store, struct cm_bytes key, struct cm_bytes value, uint64_t expires_ms,
                 uint64_t now_ms, uint64_t *version);

/* Gives a view of the value, valid until the store's next change, and its version. 0, or CM_E_NOTFOUND with
 * version 0. */
int cm_store_get(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, struct cm_bytes *value,
                 uint64_t *version);

/* Removes the entry and gives the version of that change, or 0 where there was none. Always 0. */
int cm_store_remove(struct cm_store *store, struct cm_bytes key, uint64_t now_ms, uint64_t *version);

/* How many entries there are, expired ones that nobody met included, and the bytes they take. */
void cm_store_usage(const struct cm_store *store, uint64_t *entries, uint64_t *bytes);

#endif
