/* Appending entries for a store, and the room for them. For the store's files, and the cache's. */
#ifndef CM_DATA_ROOM_H
#define CM_DATA_ROOM_H

#include "data/store.h"

/* Appends the pairs' entries, under keys of the store's name space; their offsets are what is to be linked:
 * cm_append_commit or cm_append_rewind is next. Where there is little left, only the master appends, which
 * knows how much may be reachable; it makes room before, and again where others have taken it meanwhile. 0 or
 * CM_E_NOMEMORY.
 */
int cm_store_append(struct cm_store *store, const struct cm_pair *pairs, size_t count, uint64_t expires_ms,
                    uint64_t *offsets);

#endif
