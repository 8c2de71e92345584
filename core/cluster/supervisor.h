/* Minds the processes of a cluster: starts them, restarts what failed, reloads, stops, and decides when the
 * run is over and how it went. The master's loop thread only.
 *
 * A slot is a worker's place; its worker may die and be replaced, under a new id. Slots 1..N are the command
 * line's, later ones are forked by process 0. */
#ifndef CM_CLUSTER_SUPERVISOR_H
#define CM_CLUSTER_SUPERVISOR_H

#include <uv.h>

#include "base/list.h"
#include "cluster/memory.h"
#include "cluster/options.h"
#include "cluster/process.h"
#include "cluster/reload.h"
#include "cluster/slot.h"

/* What the cluster has come to. */
enum cm_stage {
    CM_STAGE_READY, /* a worker has been online in each slot of the command line; process 0's main task has
                       ended */
    CM_STAGE_RELOADING,
    CM_STAGE_RELOADED, /* or the reload has failed */
    CM_STAGE_STOPPING,
};

struct cm_supervisor_events {
    int (*on_frame)(struct cm_process *process, const struct cm_frame *frame);
    /* Its channel has room for more that nobody has asked for. */
    void (*on_drained)(struct cm_process *process);
    /* It has ended: before what it had sent is handled, and after. Then its seat is free again. */
    void (*on_death)(struct cm_process *process);
    void (*on_gone)(struct cm_process *process);
    /* The process table has changed. */
    void (*on_change)(void *owner, const struct cm_process_event *event);
    /* The first and the last of these come once. */
    void (*on_stage)(void *owner, enum cm_stage stage);
    /* The last process has ended; what the run's exit code is. Called once. */
    void (*on_over)(void *owner, int exit_code);
};

struct cm_supervisor {
    uv_loop_t *loop;
    struct cm_outbox outbox; /* of the processes' channels */
    const struct cm_options *options;
    struct cm_memory *memory;
    const struct cm_supervisor_events *events;
    void *owner;
    struct cm_list slots;      /* struct cm_slot: those where a worker runs or is going to */
    struct cm_list processes;  /* struct cm_process: the living workers, in the order of their ids */
    struct cm_process *zero;   /* process 0 while it lives */
    struct cm_process **seats; /* who sits there; NULL: nobody */
    uint32_t last_id;
    uint32_t last_slot;
    bool started; /* the workers of the command line have been started */
    bool ready;
    bool stopping; /* no worker is started any more */
    struct cm_reload reload;
    bool slot_failed; /* the last worker of a slot that is no more had failed */
    bool over;
    int exit_code;
};

/* 0 or CM_E_NOMEMORY. */
int cm_supervisor_init(struct cm_supervisor *supervisor, uv_loop_t *loop, const struct cm_options *options,
                       struct cm_memory *memory, const struct cm_supervisor_events *events, void *owner);

/* Starts process 0, and the workers once its main task has ended; or the workers. 0, or a negative code when
 * process 0 cannot be started: then nothing runs, and on_over is not called. */
int cm_supervisor_start(struct cm_supervisor *supervisor);

/* Who sits there; NULL: nobody. */
struct cm_process *cm_supervisor_at_seat(const struct cm_supervisor *supervisor, uint32_t seat);

/* CM_OP_ONLINE has come from this process. */
void cm_supervisor_online(struct cm_supervisor *supervisor, struct cm_process *process);

/* Starts a worker in a slot of its own. The script is copied. 0, or a negative code (CM_E_CLOSED: the cluster
 * is stopping). */
int cm_supervisor_fork(struct cm_supervisor *supervisor, const struct cm_script *script,
                       struct cm_process **process);

/* Replaces the workers: see core/cluster/reload. */
void cm_supervisor_reload(struct cm_supervisor *supervisor);

/* Asks the workers to stop, then process 0. Ends in on_over. */
void cm_supervisor_stop(struct cm_supervisor *supervisor);

/* Kills everything, now. Ends in on_over with exit code 1. */
void cm_supervisor_kill(struct cm_supervisor *supervisor);

/* Frees the slots and closes the outbox. No process may be left. */
void cm_supervisor_deinit(struct cm_supervisor *supervisor);

#endif
