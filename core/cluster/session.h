/* A process's end of its channel to the master: it learns what it is, issues requests, gets replies and
 * notices. One for each process, embedded by the process's owner; the loop thread's alone. */
#ifndef CM_CLUSTER_SESSION_H
#define CM_CLUSTER_SESSION_H

#include <uv.h>

#include "cluster/channel.h"
#include "memory/participant.h"
#include "wire/control.h"
#include "wire/message.h"

struct cm_session;

struct cm_session_events {
    /* The reply to the request of this id has come: the frame's payload is valid until something else is
     * called on the session. 0, or CM_E_BADFRAME when the payload is not what it should be. */
    int (*on_reply)(struct cm_session *session, const struct cm_frame *frame);
    /* A notice of the master, as on_reply. */
    int (*on_notice)(struct cm_session *session, const struct cm_frame *frame);
    /* Whether a request of this id is unanswered still: asked once ids have come round, for one that waits as
     * long as that (a lock, perhaps) keeps its own. */
    bool (*is_pending)(struct cm_session *session, uint32_t id);
    /* The master is gone, or said something malformed: nothing can go on. */
    void (*on_end)(struct cm_session *session, int code);
};

struct cm_session {
    struct cm_channel channel;
    struct cm_outbox outbox;
    struct cm_init init;
    const struct cm_session_events *events;
    uint32_t last_id;
    bool came_round;         /* ids begin again */
    struct cm_writer writer; /* of the frame being written */
};

/* Waits on the inherited descriptor for what the master says this process is, at most 10 s, and fills
 * session->init. 0, CM_E_TIMEOUT, CM_E_CLOSED, CM_E_BADFRAME, CM_E_NOMEMORY or an errno. */
int cm_session_greet(struct cm_session *session, int fd);

/* Joins the loop, of a session that has been greeted on this descriptor, for the seat named there. Keeps no
 * loop alive until told to (cm_session_hold). 0 or a negative code. */
int cm_session_open(struct cm_session *session, uv_loop_t *loop, int fd, struct cm_segment *segment,
                    const struct cm_session_events *events);

/* In a child of the process, which has neither the session nor the segment: nothing is sent or handled any
 * more. The loop is that of the parent, and left alone. */
void cm_session_detach(struct cm_session *session);

/* Whether the loop shall stay alive for this session. */
void cm_session_hold(struct cm_session *session, bool hold);

/* Starts a request; the payload is written with the writer returned. NULL without memory or on a dead
 * session. */
struct cm_writer *cm_session_begin(struct cm_session *session, uint8_t op);
/* Completes the request begun; `id` is what its reply will carry. 0, CM_E_TOOLARGE for more than the master
 * takes, or CM_E_NOMEMORY, with nothing issued. It leaves with everything else of this loop turn in one
 * write. */
int cm_session_commit(struct cm_session *session, uint32_t *id);

/* Sends a notice with the payload; on a dead session, or without memory, nothing. */
void cm_session_notify(struct cm_session *session, uint8_t op, struct cm_bytes payload);

/* Slows a caller that does not wait for replies: while more than the mark is unsent, waits (the whole process
 * does) for the master to read. The master never waits for anybody, so this is short; it ends after a minute
 * anyway. */
void cm_session_throttle(struct cm_session *session);

/* Sends what was issued, waiting for it; for the way out. */
void cm_session_flush(struct cm_session *session);

#endif
