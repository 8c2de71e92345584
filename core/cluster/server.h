/* An HTTP server of one process: libmicrohttpd on the process's own loop, without a thread. The loop watches
 * libmicrohttpd's epoll descriptor and minds its time-outs.
 *
 * It listens on a socket that is its own from the start on, keeps no loop alive, and is the loop thread's
 * alone. What to do with a request is its owner's business: see cluster/exchange. */
#ifndef CM_CLUSTER_SERVER_H
#define CM_CLUSTER_SERVER_H

#include <uv.h>

#include "cluster/clients.h"
#include "cluster/exchange.h"
#include "cluster/linger.h"

enum { CM_SERVER_REASON_BYTES = 256 };

struct cm_server;

struct cm_server_events {
    struct cm_exchange_events exchange;
    /* The server is gone, all its connections with it; the struct's memory is not valid afterwards. */
    void (*on_closed)(struct cm_server *server);
};

struct cm_server_options {
    size_t max_header_bytes; /* of a request's line and header fields */
    size_t max_body_bytes;
    unsigned max_connections;
    uint64_t idle_ms; /* without a byte, between two requests or within one; 0: no limit. In whole seconds */
    uint64_t header_ms; /* until a request's head is there; 0: no limit */
    bool streamed;      /* bodies are read piece by piece */
    const char *cert;   /* PEM texts, or both NULL: no TLS */
    const char *key;
};

struct cm_server {
    struct MHD_Daemon *daemon;
    uv_loop_t *loop;
    uv_poll_t poll;   /* of libmicrohttpd's epoll descriptor */
    uv_timer_t timer; /* for the next time-out */
    uv_idle_t again;  /* runs while libmicrohttpd has something to do at once */
    uint64_t due_ms;  /* of the timer; UINT64_MAX: it does not run */
    const struct cm_server_events *events;
    void *owner; /* the owner's word */
    struct cm_clients clients;
    struct cm_exchanges exchanges;
    struct cm_lingers lingers;
    bool stopping;
    bool quiet;       /* it does not accept any more */
    char *reason;     /* while it starts: where libmicrohttpd's last words go */
    bool freed;       /* a connection has ended in this run */
    unsigned turns;   /* one after the other in which libmicrohttpd wanted to run again at once */
    int open_handles; /* and lingers */
};

/* Starts serving on a socket that is bound and does not block; it is the server's in any case. 0, or a
 * negative code and one line for people: CM_E_BADVALUE (of a certificate or a key), CM_E_NOMEMORY, or an
 * errno. */
int cm_server_new(uv_loop_t *loop, int fd, const struct cm_server_options *options,
                  const struct cm_server_events *events, void *owner, char reason[CM_SERVER_REASON_BYTES],
                  struct cm_server **server);

/* Accepts no connection any more, finishes the requests that it has, closes the connections that have none,
 * and is gone with the last of them. Works anywhere, also in a callback. */
void cm_server_stop(struct cm_server *server);

/* The server of an exchange. */
struct cm_server *cm_server_of(const struct cm_exchange *exchange);

#endif
