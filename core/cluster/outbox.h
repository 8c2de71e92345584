/* The end of each turn of a loop: what has been posted in it is sent, and if what comes next is likely to
 * come soon, the loop looks for it a few times before it waits.
 *
 * What is posted leaves in the order in which it was posted, so who listens for a key is told of a change
 * before who has made it is answered. Between two looks others that are ready to run on this core go first.
 * What comes from where something came of late is handled on the spot, and answered, without a turn of the
 * loop in between, unless the loop has anything else to do.
 *
 * Whose core is whose matters twice. Nobody looks for the answer of one that ran last on the same core, and
 * could not run meanwhile: a scheduler that is fair may give a core back at once to who has had less of it,
 * however often that one yields. And before it wakes one that sleeps it lets those go first who want this
 * core for a moment: Linux puts who is woken by a message where the waker is if nothing else is to run there,
 * and else on a core that sleeps if there is one, which may take longer to wake up than all the rest.
 *
 * One for each loop, of its thread. */
#ifndef CM_CLUSTER_OUTBOX_H
#define CM_CLUSTER_OUTBOX_H

#include <stdatomic.h>
#include <uv.h>

#include "base/list.h"
#include "base/patience.h"

struct cm_source;

/* Embedded by who posts. */
struct cm_posted {
    struct cm_list link;
    void (*send)(struct cm_posted *posted);
    const struct cm_source *to; /* where answers would come from; NULL: nowhere */
};

/* Embedded by who hears: where something may come from again soon. */
struct cm_source {
    struct cm_list link;
    /* Takes what has come, and handles it, without waiting. False: nothing has. */
    bool (*take)(struct cm_source *source);
    /* The core on which who sends from there ran last, + 1, and whether it has gone to sleep or would when
     * its turn is over (CM_CORE_SLEEPS); 0: not known; NULL: nobody says. A hint: it may have been woken
     * since. */
    const _Atomic uint32_t *core;
};

#define CM_CORE_SLEEPS (UINT32_C(1) << 31)

enum {
    /* To look: more than an answer takes by way of a master and a process that look too. */
    CM_OUTBOX_LOOK_NS = 50000,
};

struct cm_outbox {
    uv_loop_t *loop;
    uv_prepare_t before_wait;
    uv_idle_t awake; /* while anything is posted */
    struct cm_list posted;
    struct cm_list recent; /* sources, the one that was heard last in front */
    unsigned recents;
    const struct cm_source *heard; /* the last one in this turn; NULL: nobody */
    const struct cm_source *asked; /* who something was sent to last; NULL: nobody */
    _Atomic uint32_t *core;        /* where it says of itself what a source says; or NULL */
    bool woke;                     /* somebody, in this turn */
    unsigned conceded;             /* in it */
    struct cm_patience courtesy;   /* to let others go first */
    struct cm_patience patience;
    uint64_t waits_ns;  /* when the wait began that is not over; 0: there is none */
    uint64_t looked_ns; /* in it */
    uint64_t heard_ns;  /* when it was over, or 0 */
};

/* Works on the loop, which it does not keep alive, until it is closed; by then nothing is posted any more.
 * Looks for at most look_ns; 0: never. `core` as above. */
void cm_outbox_open(struct cm_outbox *outbox, uv_loop_t *loop, uint64_t look_ns, _Atomic uint32_t *core);
void cm_outbox_close(struct cm_outbox *outbox);

/* Neither looks nor says any more where it runs. */
void cm_outbox_stop_looking(struct cm_outbox *outbox);

/* `send` is called once before the loop waits next, unless the post is withdrawn first. */
void cm_outbox_post(struct cm_outbox *outbox, struct cm_posted *posted);
void cm_outbox_withdraw(struct cm_posted *posted);

/* Something has come from there, of the kind that is worth looking for. */
void cm_outbox_hear(struct cm_outbox *outbox, struct cm_source *source);
/* It is of no interest any more. */
void cm_outbox_forget(struct cm_outbox *outbox, struct cm_source *source);

#endif
