/* The master's side of listening: subscriptions of processes, and what they are told.
 *
 * A process that does not read is told no more than the mark of its channel has room for. What is changed
 * beyond that is remembered by key, each once, and told as a gap when it reads again: it looks itself at what
 * is there by then. If even the keys become too many, it is told that anything may have changed. */
#ifndef CM_CLUSTER_CHANGES_H
#define CM_CLUSTER_CHANGES_H

#include <uv.h>

#include "cluster/supervisor.h"
#include "data/listeners.h"

struct cm_changes {
    struct cm_listeners listeners;
    struct cm_supervisor *supervisor;
    struct cm_missed *missed; /* of each seat */
    uv_timer_t poll;          /* while a barrier has not passed */
};

/* 0 or CM_E_NOMEMORY. */
int cm_changes_init(struct cm_changes *changes, struct cm_store *store, struct cm_supervisor *supervisor);
void cm_changes_deinit(struct cm_changes *changes);

/* Works on the loop until stop, which closes its handles. */
void cm_changes_start(struct cm_changes *changes, uv_loop_t *loop);
void cm_changes_stop(struct cm_changes *changes);

/* A process listens; it is answered, now or later. 0, CM_E_BADFRAME or CM_E_NOMEMORY, which end its session.
 * A dead process listens no more. */
int cm_changes_listen(struct cm_changes *changes, struct cm_process *process, const struct cm_frame *frame);
/* It does not any more. 0 or CM_E_BADFRAME. */
int cm_changes_unlisten(struct cm_changes *changes, struct cm_process *process, const struct cm_frame *frame);

/* Its channel has room again. */
void cm_changes_on_drained(struct cm_changes *changes, struct cm_process *process);
/* It is gone. */
void cm_changes_on_gone(struct cm_changes *changes, uint32_t seat);

#endif
