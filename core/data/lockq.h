/* The master's queues: who waits for which lock, what becomes of a lock whose owner died or whose lease is
 * over, and the locks that the table in the segment has no room for. The master's alone; no input or output,
 * and it waits for nobody but who owns a bucket (core/memory/participant).
 *
 * Requests are granted in their order. A newcomer may take a lock that is free at that moment past a waiter;
 * once one has been the first of the waiters for a millisecond, or one of them is fair, a release hands it
 * over instead (normal and starvation mode of Go's sync.Mutex). The first, not the one that has waited
 * longest: else, where everybody comes back at once, each would have to give the lock up to an impatient
 * successor after one turn, but those whom chance has put before a patient one. A request that would close a
 * cycle of tasks that wait for each other's locks is refused (Holt, "Some Deadlock Properties of Computer
 * Systems", 1972). */
#ifndef CM_DATA_LOCKQ_H
#define CM_DATA_LOCKQ_H

#include "base/heap.h"
#include "base/index.h"
#include "base/list.h"
#include "data/lock.h"

/* Who asks. */
struct cm_lock_asker {
    uint32_t seat;
    uint64_t request; /* the caller's number for it */
};

struct cm_lock_request {
    struct cm_lock_asker asker;
    uint64_t task; /* 0: none; such a request is part of no cycle */
    struct cm_bytes key;
    uint64_t timeout_ms; /* 0: now or never */
    uint64_t lease_ms;   /* from its granting on; 0: none */
    bool fair;
};

/* What the master knows of a name: who waits for the lock, or the lock itself. */
struct cm_lock_entry {
    struct cm_index_node named;
    struct cm_hash128 name;
    uint32_t bucket;
    struct cm_buf key; /* for messages about who waits; empty where nobody does */
    struct cm_list active;
    struct cm_list waiters; /* in the order of their requests */
    uint32_t waiting;
    uint32_t fair;          /* of them */
    uint64_t head_since_ms; /* as in its lock */
    bool revoking;
    struct cm_barrier barrier;     /* of the revocation, once it is begun */
    struct cm_lock_asker releaser; /* is answered when that is over; seat 0: nobody */
    bool kept;                     /* the bucket was full: the lock is this one */
    struct cm_lock own;
    struct cm_list kept_link;
};

struct cm_lock_waiter {
    struct cm_lock_entry *entry;
    struct cm_list link;
    struct cm_list seat_link;
    struct cm_index_node by_task;
    struct cm_heap_node timeout;
    struct cm_lock_asker asker;
    uint64_t task;
    uint64_t lease_ms;
    bool fair;
};

/* What a participant has of the master's memory. */
struct cm_lock_seat {
    struct cm_list waiters;
    size_t bytes;      /* that they take */
    size_t kept_bytes; /* that the locks take that it has, and that the table has no room for */
};
/* For one participant. */
enum { CM_LOCK_WAITS_MOST_BYTES = 32 << 20, CM_LOCK_KEPT_MOST_BYTES = 32 << 20 };

struct cm_lockq {
    struct cm_participant *master;
    uint64_t (*clock_ms)(void); /* cm_clock_ms but in tests */
    /* A request, or a release, is answered: 0 with a grant (NULL for a release), or a code, with a text for
     * people or NULL. It must not call back into the queue. */
    void (*answer)(void *data, struct cm_lock_asker asker, int code, const struct cm_grant *grant,
                   const char *text);
    /* Who sits there, for people: the id that workers are known by. */
    uint32_t (*worker_of)(void *data, uint32_t seat);
    void *data;
    struct cm_index names;   /* entries by name */
    struct cm_index tasks;   /* waiters by seat and task */
    struct cm_heap timeouts; /* of waiters */
    struct cm_list active;   /* entries that somebody waits for, or whose revocation is not over */
    struct cm_list kept;     /* entries that are locks themselves */
    struct cm_lock_seat *seats;
    size_t kept_most_bytes;     /* CM_LOCK_KEPT_MOST_BYTES but in tests */
    struct cm_lock_mark *marks; /* the abandoned, the oldest first; some have been told meanwhile */
    uint32_t marks_most;
    uint32_t marks_count;
    uint32_t marks_room;
    uint64_t marks_last;
};

/* 0 or CM_E_NOMEMORY. */
int cm_lockq_init(struct cm_lockq *queue, struct cm_participant *master);
void cm_lockq_deinit(struct cm_lockq *queue);

/* Answers at once, or later. 0, or CM_E_NOMEMORY without an answer: also where the participant waits for too
 * much already, or has too many locks in the master's memory. Who comes to have too many while it waits is
 * answered CM_E_NOMEMORY when it would be its turn. */
int cm_lockq_request(struct cm_lockq *queue, const struct cm_lock_request *request);

/* Releases for whoever has the id. As above; `notowner` is an answer. */
int cm_lockq_release(struct cm_lockq *queue, struct cm_lock_asker asker, struct cm_bytes key,
                     struct cm_lock_id id);

/* 0, or CM_E_NOTOWNER also for who has not taken it. The lease counts from now; 0: none. */
int cm_lockq_renew(struct cm_lockq *queue, uint32_t seat, struct cm_bytes key, struct cm_lock_id id,
                   uint64_t lease_ms);

struct cm_lock_info {
    uint32_t seat;
    uint64_t task;     /* 0: none */
    uint64_t lease_ms; /* that are left; 0: it has none */
    uint32_t waiting;
};
/* 0, or CM_E_NOTFOUND: nobody has it. */
int cm_lockq_info(struct cm_lockq *queue, struct cm_bytes key, struct cm_lock_info *info);

/* Keeps the lock of a fence from passing to somebody else until the end of it, even if it is released. True:
 * it is held under that id. */
bool cm_lockq_fence_begin(struct cm_lockq *queue, struct cm_lock_id id);
void cm_lockq_fence_end(struct cm_lockq *queue, struct cm_lock_id id);

/* Looks after all that somebody waits for: locks that have become free, time-outs, leases. When the bell has
 * been rung, and when cm_lockq_next_ms says. */
void cm_lockq_look(struct cm_lockq *queue);
/* In how many ms to look again, though nothing happens; UINT64_MAX: not at all. */
uint64_t cm_lockq_next_ms(const struct cm_lockq *queue);
/* Takes away all locks whose lease is over. Every quarter of a second. */
void cm_lockq_end_leases(struct cm_lockq *queue);

/* A participant is dead. First of all its waits go; then, when all that it sent has been handled, what it
 * held.
 */
void cm_lockq_drop_waits(struct cm_lockq *queue, uint32_t seat);
void cm_lockq_drop_owner(struct cm_lockq *queue, uint32_t seat);

/* --- for its other files --- */

/* Does what the lock's state and its queue call for. */
void cm_lockq_settle(struct cm_lockq *queue, struct cm_lock_entry *entry);

#endif
