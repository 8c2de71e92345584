/* The end of each turn of a loop: what has been posted in it is sent, in the order in which it was posted. So
 * who listens for a key is told of a change before who has made it is answered. One for each loop, of its
 * thread.
 */
#ifndef CM_CLUSTER_OUTBOX_H
#define CM_CLUSTER_OUTBOX_H

#include <uv.h>

#include "base/list.h"

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
};

/* Works on the loop, which it does not keep alive, until it is closed; by then nothing is posted any more. */
void cm_outbox_open(struct cm_outbox *outbox, uv_loop_t *loop);
void cm_outbox_close(struct cm_outbox *outbox);

/* `send` is called once before the loop waits next, unless the post is withdrawn first. */
void cm_outbox_post(struct cm_outbox *outbox, struct cm_posted *posted);
void cm_outbox_withdraw(struct cm_posted *posted);

#endif
