/* The master's side of hubs: it finds out who is to get what a process sends, hands it to core/data/mailbox,
 * and tells receivers and senders what comes of it. It looks at lengths and never at what is inside. */
#ifndef CM_CLUSTER_HUB_H
#define CM_CLUSTER_HUB_H

#include <uv.h>

#include "cluster/supervisor.h"
#include "data/mailbox.h"

struct cm_hub {
    struct cm_mailboxes mailboxes;
    struct cm_supervisor *supervisor;
    uint32_t *receivers; /* room for everybody's seat */
    struct cm_buf reply;
    uint64_t random; /* the state behind the choice of a random worker */
    uv_timer_t look; /* the next time-out */
};

/* 0 or CM_E_NOMEMORY. */
int cm_hub_init(struct cm_hub *hub, struct cm_supervisor *supervisor);
void cm_hub_deinit(struct cm_hub *hub);

/* Works on the loop until stop, which closes its handles. */
void cm_hub_start(struct cm_hub *hub, uv_loop_t *loop);
void cm_hub_stop(struct cm_hub *hub);

/* A process sends a message or asks for something (HUB_SEND, HUB_ASK); it is answered, now or later. 0,
 * CM_E_BADFRAME or CM_E_NOMEMORY, which end its session. What a dead process has sent counts, what it has
 * asked for does not. */
int cm_hub_post(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame);
/* It asks which workers there are. As above. */
int cm_hub_workers(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame);
/* It answers a request; it is done with a part of its window. 0 or CM_E_BADFRAME. */
int cm_hub_answer(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame);
int cm_hub_done(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame);

/* It is gone, and all that it had sent has been handled: an answer in it still counts. */
void cm_hub_on_gone(struct cm_hub *hub, uint32_t seat);

#endif
