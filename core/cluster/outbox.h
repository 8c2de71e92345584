/* The end of each turn of a loop: what has been posted in it is sent, and if what comes next is likely to
 * come soon, the loop looks for it a few times before it waits.
 *
 * What is posted leaves in the order in which it was posted, so who listens for a key is told of a change
 * before who has made it is answered. Between two looks others that are ready to run on this core go first.
 * One for each loop, of its thread. */
#ifndef CM_CLUSTER_OUTBOX_H
#define CM_CLUSTER_OUTBOX_H

#include <uv.h>

#include "base/list.h"
#include "base/patience.h"

/* Embedded by who posts. */
struct cm_posted {
    struct cm_list link;
    void (*send)(struct cm_posted *posted);
};

struct cm_outbox {
    uv_loop_t *loop;
    uv_prepare_t before_wait;
    uv_idle_t awake; /* while anything is posted */
    struct cm_list posted;
    struct cm_patience patience;
    uint64_t waits_ns;  /* when the wait began that is not over; 0: there is none */
    uint64_t looked_ns; /* in it */
    uint64_t heard_ns;  /* when it was over, or 0 */
};

/* Works on the loop, which it does not keep alive, until it is closed; by then nothing is posted any more.
 * Looks for at most look_ns; 0: never. */
void cm_outbox_open(struct cm_outbox *outbox, uv_loop_t *loop, uint64_t look_ns);
void cm_outbox_close(struct cm_outbox *outbox);

/* `send` is called once before the loop waits next, unless the post is withdrawn first. */
void cm_outbox_post(struct cm_outbox *outbox, struct cm_posted *posted);
void cm_outbox_withdraw(struct cm_posted *posted);

/* Something has come of the kind that is worth looking for. */
void cm_outbox_hear(struct cm_outbox *outbox);

#endif
