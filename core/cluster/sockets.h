/* Sockets that processes listen on: bound once, by the master, and passed to whoever asks for the same
 * address. The master keeps its own descriptor across restarts and reloads, so that who connects meanwhile is
 * not refused; it never listens or accepts itself.
 *
 * A socket is closed when the last process that has it says that it does not need it any more, or when
 * nobody has had it for longer than it takes to start a failed worker again. */
#ifndef CM_CLUSTER_SOCKETS_H
#define CM_CLUSTER_SOCKETS_H

#include <uv.h>

#include "cluster/supervisor.h"

struct cm_sockets {
    struct cm_list bound; /* struct bound_socket */
    uint32_t count, most;
    uint32_t last_id;
    uv_timer_t idle; /* looks for what nobody has */
};

/* For at most so many sockets at a time: more are refused with EMFILE. */
void cm_sockets_init(struct cm_sockets *sockets, uint32_t most);

/* Works on the loop until stop, which closes its handle and all sockets, and removes the paths of those that
 * have one. */
void cm_sockets_start(struct cm_sockets *sockets, uv_loop_t *loop);
void cm_sockets_stop(struct cm_sockets *sockets);

/* A process wants a socket; it is answered, and the descriptor goes down its own pipe before. 0;
 * CM_E_BADFRAME or CM_E_NOMEMORY, which end its session. */
int cm_sockets_bind(struct cm_sockets *sockets, struct cm_process *process, const struct cm_frame *frame);
/* It does not need it any more: once for each answer. 0 or CM_E_BADFRAME. */
int cm_sockets_unbind(struct cm_sockets *sockets, struct cm_process *process, const struct cm_frame *frame);

/* A process is gone. */
void cm_sockets_on_gone(struct cm_sockets *sockets, uint32_t seat);

#endif
