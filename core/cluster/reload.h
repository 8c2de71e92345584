/* A reload: the workers are replaced, one slot at a time, each by a successor that is online before its
 * predecessor is asked to stop. Belongs to the supervisor, which starts the processes and tells what becomes
 * of them; the master's loop thread only. */
#ifndef CM_CLUSTER_RELOAD_H
#define CM_CLUSTER_RELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "cluster/process.h"
#include "cluster/slot.h"

struct cm_reload_events {
    /* It begins, or has ended, well or not; but for the end of a cluster that stops. */
    void (*on_active)(void *owner, bool active);
    /* A slot's successor is to be started, to be its `next`, and to be killed if it is not online in time. 0
     * or a negative code. */
    int (*on_start)(void *owner, struct cm_slot *slot);
    /* That has failed, and nothing runs in the slot. */
    void (*on_empty)(void *owner, struct cm_slot *slot);
};

struct cm_reload {
    struct cm_list *slots;
    int (*check_script)(const char *path, char *line, size_t line_bytes); /* as cm_options' */
    const uint32_t *last_id;                                              /* of the workers started so far */
    const struct cm_reload_events *events;
    void *owner;
    bool active;
    bool again;        /* another one was asked for during this one */
    bool closed;       /* none begins any more */
    uint32_t after_id; /* newer workers are this reload's */
};

/* Begins; or, while there is one, begins another when it is through. A script that cannot be run is found
 * before anything is started. */
void cm_reload_begin(struct cm_reload *reload);

/* Goes on if there is a reload and the slot at hand is done: to be called after any worker's end. */
void cm_reload_step(struct cm_reload *reload);

/* The worker of this slot is online. */
void cm_reload_note_online(struct cm_reload *reload, struct cm_slot *slot, struct cm_process *process);

/* The worker of this slot has ended. Whether the slot counted on it, and has no other. */
bool cm_reload_note_exit(struct cm_reload *reload, struct cm_slot *slot, const struct cm_process *process);

/* Ends it for good; what it has started is the owner's to stop. */
void cm_reload_close(struct cm_reload *reload);

#endif
