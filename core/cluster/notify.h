/* What a service manager is told about the cluster (systemd, Type=notify; sd_notify(3) describes the
 * protocol): datagrams to the socket that NOTIFY_SOCKET names. Nothing without that variable. The master's
 * loop thread only. */
#ifndef CM_CLUSTER_NOTIFY_H
#define CM_CLUSTER_NOTIFY_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <uv.h>

struct cm_notify {
    int fd; /* -1: nobody is to be told */
    struct sockaddr_un address;
    socklen_t address_bytes;
    uint64_t alive_ms; /* WATCHDOG=1 is due so often; 0: never */
    uv_timer_t alive;
    uv_timer_t again;
    int agains;     /* that the last state has been tried again */
    char state[96]; /* the last one, until it has been taken */
};

/* Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that no child speaks in the
 * master's name. What is wrong with them is logged, and nobody told. */
void cm_notify_init(struct cm_notify *notify);

/* Works on the loop until stop, which closes everything. It keeps no loop alive. */
void cm_notify_start(struct cm_notify *notify, uv_loop_t *loop);
void cm_notify_stop(struct cm_notify *notify);

/* What the cluster has come to: it runs, with so many workers, for the first time or after a reload; a reload
 * has begun; the end has. Never waits; where the manager takes nothing just now, the last of these is tried
 * again. */
void cm_notify_ready(struct cm_notify *notify, unsigned workers);
void cm_notify_reloading(struct cm_notify *notify);
void cm_notify_stopping(struct cm_notify *notify);

#endif
