/* A slot: a worker's place, which outlives the workers that follow each other in it, and what their lives say
 * about when to start the next. Belongs to the supervisor; the master's loop thread only. */
#ifndef CM_CLUSTER_SLOT_H
#define CM_CLUSTER_SLOT_H

#include <stdbool.h>
#include <uv.h>

#include "base/list.h"
#include "cluster/process.h"
#include "wire/control.h"

struct cm_slot {
    struct cm_list link;
    void *owner; /* the supervisor's word */
    uint32_t number;
    struct cm_script script; /* its own copy */
    struct cm_process *current;
    struct cm_process *next; /* in a reload: the successor that is not online yet */
    struct cm_process *old;  /* in a reload: the predecessor that has been asked to stop */
    uv_timer_t timer;        /* until the next start */
    bool waiting;            /* it runs */
    bool due;                /* a reload has still to come here */
    bool came;               /* a worker has been online here */
    bool failed;             /* the last worker ended otherwise than with exit code 0 */
    bool proven;             /* a worker has had a life here: it did not end within a second */
    unsigned failures;       /* in a row without a life */
    uint64_t delay_ms;       /* before the next start */
};

/* A slot without a worker, at the end of the list. 0 or CM_E_NOMEMORY. */
int cm_slot_add(struct cm_list *slots, uv_loop_t *loop, uint32_t number, const struct cm_script *script,
                void *owner, struct cm_slot **slot);

/* Takes it out of its list; it frees itself in a later turn. No worker may be left in it. */
void cm_slot_remove(struct cm_slot *slot);

struct cm_slot *cm_slot_at(struct cm_list *link);

/* The slot of that number, or NULL. */
struct cm_slot *cm_slot_find(struct cm_list *slots, uint32_t number);

/* Whether a worker runs here or is going to. */
bool cm_slot_used(const struct cm_slot *slot);

/* A worker has ended after that time. */
void cm_slot_note_life(struct cm_slot *slot, uint64_t lived_ms);

/* A worker has failed after that time, or could not be started (0). Whether this makes a crash loop: five in
 * a row that did not live a second, in a slot where none ever has. */
bool cm_slot_note_failure(struct cm_slot *slot, uint64_t lived_ms);

/* How long to wait before the next start: 100 ms, doubled each time up to 10 s, and 100 ms again after a life
 * of 10 s. */
uint64_t cm_slot_take_delay(struct cm_slot *slot);

#endif
