/* Sockets whose last words are on their way: a socket that is closed with unread input resets its connection,
 * and its peer may lose the answer that says why. So what still comes is read and thrown away for a while.
 *
 * The server has one of these. The loop thread's alone. */
#ifndef CM_CLUSTER_LINGER_H
#define CM_CLUSTER_LINGER_H

#include <uv.h>

#include "base/list.h"

struct cm_lingers {
    uv_loop_t *loop;
    struct cm_list items;
    size_t count; /* including those that are being closed */
    /* One is gone. */
    void (*on_gone)(struct cm_lingers *lingers);
};

void cm_lingers_init(struct cm_lingers *lingers, uv_loop_t *loop,
                     void (*on_gone)(struct cm_lingers *lingers));

/* Keeps a socket that somebody else is about to close until its peer has closed too, has sent too much, or
 * two seconds are over. Whether it does: not without memory, and not for more than a few. */
bool cm_lingers_add(struct cm_lingers *lingers, int fd);

/* Closes them all; on_gone follows for each, in later turns. */
void cm_lingers_end(struct cm_lingers *lingers);

#endif
