/* The connections of an HTTP server, and how long each may be what it is: one whose request's head does not
 * come, or comes a byte at a time, is ended by a shutdown of its socket, and one without a request when the
 * server stops.
 *
 * The server embeds the struct and tells what happens; the sockets are not its own. The loop thread's alone.
 */
#ifndef CM_CLUSTER_CLIENTS_H
#define CM_CLUSTER_CLIENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

enum cm_client_phase {
    CM_CLIENT_HEADING, /* a request's head is awaited: the first one's, or its line has come */
    CM_CLIENT_RESTING, /* behind an answer; the next request may come, or not */
    CM_CLIENT_IDLE,    /* likewise, after CM_CLIENTS_CHECK_MS of it */
    CM_CLIENT_BUSY,    /* with a request whose head is there */
    CM_CLIENT_ENDING,  /* its socket was shut down */
    CM_CLIENT_PHASES,
};

/* libmicrohttpd overlooks a peer's end that comes together with its request, because it waits for edges and
 * takes a short read for all there is. So those who rest are looked at once, when it costs nothing any more.
 */
enum { CM_CLIENTS_CHECK_MS = 50 };

struct cm_client {
    struct cm_list link; /* in the list of its phase, which is in the order of since_ms */
    uint64_t since_ms;
    enum cm_client_phase phase;
    int fd;
    void *owner; /* the owner's words: these two */
    bool lingers;
};

struct cm_clients {
    struct cm_list phases[CM_CLIENT_PHASES];
    uint64_t limits_ms[CM_CLIENT_PHASES]; /* 0: none */
    size_t count;
};

/* header_ms: for a request's head; rest_ms: between two requests, until the line of the second has come; 0:
 * no limit. */
void cm_clients_init(struct cm_clients *clients, uint64_t header_ms, uint64_t rest_ms);

/* A connection has come; its head is awaited. 0 or CM_E_NOMEMORY. */
int cm_client_new(struct cm_clients *clients, int fd, uint64_t now_ms, struct cm_client **client);
void cm_client_free(struct cm_clients *clients, struct cm_client *client);

/* Whether the peer has sent what nobody has read. */
bool cm_client_has_unread(const struct cm_client *client);

/* The client is heading, resting or busy from now on; one whose socket was shut down stays that. */
void cm_client_enter(struct cm_clients *clients, struct cm_client *client, enum cm_client_phase phase,
                     uint64_t now_ms);

/* When the first time-out is due; UINT64_MAX: there is none. */
uint64_t cm_clients_due_ms(const struct cm_clients *clients);

/* Shuts down the sockets whose time is up, and of those whose peer has ended. */
void cm_clients_expire(struct cm_clients *clients, uint64_t now_ms);

/* Shuts down those who have had no request for quiet_ms, and have sent nothing that is unread. */
void cm_clients_dismiss(struct cm_clients *clients, uint64_t quiet_ms, uint64_t now_ms);

#endif
