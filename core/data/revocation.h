/* How a lock is taken from its owner: by somebody else's release, by the end of its lease, by death. Part of
 * core/data/lockq, which says more. */
#ifndef CM_DATA_REVOCATION_H
#define CM_DATA_REVOCATION_H

#include "data/lockq.h"

/* Takes the lock away from who has it under that token (0: whoever has it with a lease that is over), with
 * `mark` among its flags. False: it is not so any more. What the owner publishes under a fence in the section
 * in which it is right now comes before the end of this. */
bool cm_revocation_begin(struct cm_lockq *queue, struct cm_lock_entry *entry, uint64_t token, uint64_t mark);
/* False: somebody may still be in the midst of what the lock allowed. */
bool cm_revocation_end(struct cm_lockq *queue, struct cm_lock_entry *entry);

/* Takes the lock of that name away if its lease is over. False: without memory. */
bool cm_revocation_end_lease(struct cm_lockq *queue, struct cm_hash128 name);

#endif
