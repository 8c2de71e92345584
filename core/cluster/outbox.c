#include "cluster/outbox.h"

#include <poll.h>
#include <sched.h>

/* While an idle handle is active the loop does not wait, whoever posts: also another prepare handle that is
 * called after ours. */
static void on_awake(uv_idle_t *awake) {
    (void)awake;
}

/* Sending may make others post, whose turn comes at once too. */
static void send_all(struct cm_outbox *outbox) {
    while (!cm_list_empty(&outbox->posted)) {
        struct cm_posted *posted = CM_LIST_ITEM(outbox->posted.next, struct cm_posted, link);
        cm_list_remove(&posted->link);
        posted->send(posted);
    }
    uv_idle_stop(&outbox->awake);
}

static void end_wait(struct cm_outbox *outbox) {
    if (!outbox->waits_ns)
        return;
    uint64_t waited_ns = outbox->heard_ns ? outbox->heard_ns - outbox->waits_ns : UINT64_MAX;
    cm_patience_note(&outbox->patience, waited_ns, outbox->looked_ns);
    outbox->waits_ns = outbox->heard_ns = outbox->looked_ns = 0;
}

/* Until the loop has something to do. Others on this core go first: who is waited for may be among them. With
 * poll, which takes no event away: one that libuv has asked to be told of once would be lost to it. */
static void look(struct cm_outbox *outbox) {
    struct pollfd backend = {.fd = uv_backend_fd(outbox->loop), .events = POLLIN};
    while (outbox->looked_ns < outbox->patience.most_ns && poll(&backend, 1, 0) == 0) {
        sched_yield();
        outbox->looked_ns = uv_hrtime() - outbox->waits_ns;
    }
}

static void on_before_wait(uv_prepare_t *before_wait) {
    struct cm_outbox *outbox = CM_LIST_ITEM(before_wait, struct cm_outbox, before_wait);
    send_all(outbox);
    end_wait(outbox);
    if (!outbox->patience.most_ns || uv_backend_timeout(outbox->loop) == 0)
        return;
    outbox->waits_ns = uv_hrtime();
    if (cm_patience_has(&outbox->patience))
        look(outbox);
}

void cm_outbox_open(struct cm_outbox *outbox, uv_loop_t *loop, uint64_t look_ns) {
    *outbox = (struct cm_outbox){.loop = loop, .patience = {.most_ns = look_ns}};
    cm_list_init(&outbox->posted);
    uv_prepare_init(loop, &outbox->before_wait);
    uv_idle_init(loop, &outbox->awake);
    /* What waits to be sent keeps no loop alive by itself: who leaves drains. */
    uv_unref((uv_handle_t *)&outbox->before_wait);
    uv_unref((uv_handle_t *)&outbox->awake);
    /* Handles that are not luv's are known by data that is not luv's. */
    outbox->before_wait.data = outbox->awake.data = NULL;
    uv_prepare_start(&outbox->before_wait, on_before_wait);
}

void cm_outbox_close(struct cm_outbox *outbox) {
    uv_close((uv_handle_t *)&outbox->before_wait, NULL);
    uv_close((uv_handle_t *)&outbox->awake, NULL);
}

void cm_outbox_post(struct cm_outbox *outbox, struct cm_posted *posted) {
    if (!cm_list_empty(&posted->link))
        return;
    cm_list_append(&outbox->posted, &posted->link);
    uv_idle_start(&outbox->awake, on_awake);
}

void cm_outbox_withdraw(struct cm_posted *posted) {
    cm_list_remove(&posted->link);
}

void cm_outbox_hear(struct cm_outbox *outbox) {
    if (outbox->waits_ns && !outbox->heard_ns)
        outbox->heard_ns = uv_hrtime();
}
