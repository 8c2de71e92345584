/* What the master does for a process: from an operation's payload to a call of core/data and its result.
 * Knows no pipe and no process. */
#ifndef CM_CLUSTER_HANDLERS_H
#define CM_CLUSTER_HANDLERS_H

#include "base/buf.h"
#include "data/lockq.h"
#include "data/lru.h"

struct cm_handlers {
    struct cm_lru *lru;     /* with its store */
    struct cm_lockq *locks; /* where fences are checked */
    uint32_t max_value_bytes;
};

/* Does the operation on the cache, or on its store, and appends the reply's payload. 0; CM_E_BADFRAME for a
 * payload that is not the operation's, or an operation that is not for them: its sender is not to be trusted
 * any further; any other negative code is the operation's result, and what has been appended then does not
 * count. Waits only as core/data/store does. */
int cm_handlers_do(const struct cm_handlers *handlers, uint8_t op, struct cm_bytes payload,
                   struct cm_buf *reply);

#endif
