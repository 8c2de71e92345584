/* The master's side of locks: requests of processes to core/data/lockq, its answers to processes, and the
 * timer that looks where a bell may have been lost. */
#ifndef CM_CLUSTER_LOCKS_H
#define CM_CLUSTER_LOCKS_H

#include <uv.h>

#include "cluster/process.h"
#include "cluster/supervisor.h"
#include "data/lockq.h"

struct cm_locks {
    struct cm_lockq queue;
    struct cm_supervisor *supervisor;
    uv_timer_t look;
    struct cm_buf reply;
};

/* 0 or CM_E_NOMEMORY. */
int cm_locks_init(struct cm_locks *locks, struct cm_participant *master, struct cm_supervisor *supervisor);
void cm_locks_deinit(struct cm_locks *locks);

/* Works on the loop until stop, which closes its handles. */
void cm_locks_start(struct cm_locks *locks, uv_loop_t *loop);
void cm_locks_stop(struct cm_locks *locks);

/* Whether the operation is one of these. */
bool cm_locks_does(uint8_t op);
/* Does what a process asks for; it is answered, now or later. 0; CM_E_BADFRAME or CM_E_NOMEMORY, which end
 * the sender's session. A dead process asks for nothing any more, but what it gives back counts. */
int cm_locks_do(struct cm_locks *locks, struct cm_process *process, const struct cm_frame *frame);

/* The bell has been rung for locks. */
void cm_locks_look(struct cm_locks *locks);
/* Every quarter of a second: leases that are over and that nobody has asked about. */
void cm_locks_round(struct cm_locks *locks);

/* A process has died: before the frames that it had sent are handled, and after. */
void cm_locks_on_death(struct cm_locks *locks, uint32_t seat);
void cm_locks_on_exit(struct cm_locks *locks, uint32_t seat);

#endif
