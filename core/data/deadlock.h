/* Who would wait for whom for ever: the cycles of tasks that wait for locks that one of them has. Part of
 * core/data/lockq. */
#ifndef CM_DATA_DEADLOCK_H
#define CM_DATA_DEADLOCK_H

#include "data/lockq.h"

enum { CM_DEADLOCK_TEXT_BYTES = 1024 };

/* What waiters are indexed by. */
uint64_t cm_deadlock_hash(uint32_t seat, uint64_t task);

/* Whether the request, if it waited for this lock, would close a cycle; then the text names it. Only tasks
 * are part of cycles: a request of none waits without anybody's waiting for it. */
bool cm_deadlock_closes(struct cm_lockq *queue, struct cm_lock_entry *entry,
                        const struct cm_lock_request *request, char text[CM_DEADLOCK_TEXT_BYTES]);

#endif
