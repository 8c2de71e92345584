/* One child of the master: process 0 or a worker, from its start until nothing of it is left. It lives in the
 * master's loop thread and belongs to the supervisor, which is told what happens through the events. */
#ifndef CM_CLUSTER_PROCESS_H
#define CM_CLUSTER_PROCESS_H

#include <stdbool.h>
#include <uv.h>

#include "base/list.h"
#include "cluster/channel.h"
#include "wire/control.h"

/* The descriptors on which a process finds its end of the channel, the segment, the master's bell, and its
 * end of the pipe for descriptors (core/cluster/descriptor). */
enum { CM_PROCESS_FD = 3, CM_SEGMENT_FD, CM_BELL_FD, CM_DESCRIPTORS_FD };

struct cm_process;

struct cm_process_events {
    /* A frame has come; as cm_channel_events.on_frame. */
    int (*on_frame)(struct cm_process *process, const struct cm_frame *frame);
    /* Its channel has room for more that nobody has asked for. */
    void (*on_drained)(struct cm_process *process);
    /* It has ended and has been waited for; what it had sent has not been handled yet. */
    void (*on_death)(struct cm_process *process);
    /* It has ended, and what it had sent has been handled; exit_code, signal and last_error are final. Frees
     * itself afterwards, in a later turn. */
    void (*on_exit)(struct cm_process *process);
};

struct cm_process {
    struct cm_list link; /* the supervisor's list of living processes */
    void *owner;         /* the supervisor's word */
    const struct cm_process_events *events;
    uv_process_t child;
    uv_timer_t limit; /* until it is overdue: to come online, then to stop */
    struct cm_channel channel;
    int descriptors; /* the master's end of its pipe for them */
    int open_parts;
    uint32_t id;
    uint32_t slot;
    uint32_t seat; /* in the shared memory */
    uint64_t started_ms;
    uint64_t grace_ms;
    uint64_t online_ms;     /* the time it has to come online; 0: any */
    const char *online_how; /* what it has not done if it does not; static */
    bool online;            /* see CM_OP_ONLINE */
    bool killed;            /* has been sent SIGKILL */
    bool dead;              /* it has ended; what it had sent may not have been handled yet */
    bool stopping;          /* has been asked to stop */
    bool overdue;           /* did not stop in time and was killed for it */
    bool hung;              /* did not answer, and has been asked to end with a traceback */
    int exit_code;          /* after the end: its exit code, or -1 */
    int signal;             /* after the end: the signal that ended it, or 0 */
    char *last_error;       /* the uncaught error it reported, or what it was killed for; or NULL */
};

/* "worker 3 (slot 2, pid 4711)" or "process 0 (pid 4710)", for the log. The string is static, valid until the
 * next call. */
const char *cm_process_name(const struct cm_process *process);

/* How it ended, once it has: "exited with code 1", "was killed by SIGSEGV". As above. */
const char *cm_process_ending(const struct cm_process *process);

/* Whether it ended otherwise than with exit code 0, once it has. */
bool cm_process_failed(const struct cm_process *process);

/* Why it ended, once it has: its last error, or else how. As above. */
const char *cm_process_reason(const struct cm_process *process);

/* What every process inherits. */
struct cm_inherited {
    int segment_fd;
    int bell_fd;
};

/* Starts a process of this binary, in the master's environment with the script's lines in it, and tells it
 * `init`, whose id, slot and seat become its own. It is the caller's to link. 0, or an errno or CM_E_NOMEMORY
 * with nothing started. */
int cm_process_spawn(struct cm_outbox *outbox, const struct cm_init *init,
                     const struct cm_inherited *inherited, uint64_t grace_ms,
                     const struct cm_process_events *events, void *owner, struct cm_process **result);

/* Gives it that time to come online; SIGKILL follows when it has not, with what it "has not done" in the log.
 */
void cm_process_await_online(struct cm_process *process, uint64_t limit_ms, const char *how);

/* It is online. */
void cm_process_note_online(struct cm_process *process);

/* Asks it to leave; SIGKILL follows when it has not within the grace time. Once is enough. */
void cm_process_stop(struct cm_process *process);

/* SIGKILL. Its end comes through on_exit. */
void cm_process_kill(struct cm_process *process);

/* Sends a notice with the payload. Without memory for it the process, which would go on without knowing, is
 * killed. */
void cm_process_notify(struct cm_process *process, uint8_t op, struct cm_bytes payload);

/* Answers the request of that operation and id with the payload; or with an error, and a text for people
 * (NULL: the code's own). 0, or the code that ends its session: it waits for this. Not while another frame to
 * it is begun. */
int cm_process_reply(struct cm_process *process, uint8_t op, uint32_t id, struct cm_bytes payload);
int cm_process_refuse(struct cm_process *process, uint8_t op, uint32_t id, int err, const char *text);

/* Remembers the uncaught error that it reports, cut to what a log line holds. */
void cm_process_note_error(struct cm_process *process, struct cm_bytes text);

#endif
