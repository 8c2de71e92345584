/* Locks by name, in the segment: what every process does with one that is free, or its own, without a word to
 * anybody. What needs a referee - a lock that is taken, or that the table has no room for - is the master's:
 * core/data/lockq.
 *
 * The table is one of buckets, owned like the groups of keys. A lock has a record only while it is held,
 * waited for, or marked as abandoned. Its state is one word; all else in a record is written by who owns the
 * bucket, and every change of a held state is a compare-and-swap, because its owner releases it without
 * owning the bucket. */
#ifndef CM_DATA_LOCK_H
#define CM_DATA_LOCK_H

#include "base/hash.h"
#include "memory/participant.h"

enum {
    CM_LOCKS_IN_BUCKET = 7,
    CM_LOCK_BUCKET_BITS = 3, /* of a slot: the place in the bucket; the last is the master's memory */
    CM_LOCK_SLOT_BITS = 16,  /* of a lockId */
    CM_LOCK_ID_BYTES = 32,   /* enough for one as text */
    CM_LOCK_PATIENCE_MS = 1, /* of who is first in the queue; then the lock is handed over to it */
};

/* What a state is made of: {token 60, flags 4}. Token 0: free. */
#define CM_LOCK_ABANDONED UINT64_C(1) /* its last owner went without releasing it; the next one is told */
#define CM_LOCK_WAITED UINT64_C(2)    /* somebody waits in the master */
#define CM_LOCK_HANDED UINT64_C(4)    /* when free, it is for the master to give away */
#define CM_LOCK_REVOKED UINT64_C(8)   /* free, but what its last owner may do under it still is not over */
#define CM_LOCK_FLAGS UINT64_C(15)
static inline uint64_t cm_lock_token(uint64_t state) {
    return state >> 4;
}

struct cm_lock {
    _Atomic uint64_t state;
    _Atomic uint64_t name[2];     /* its hash; that of a free lock without flags does not count */
    _Atomic uint64_t owner;       /* a seat */
    _Atomic uint64_t task;        /* of the owner that took it; 0: none */
    _Atomic uint64_t deadline_ms; /* of a held one: its lease's end, 0: none; of an abandoned one its mark */
    _Atomic uint64_t head_since_ms; /* since when who is first in the queue has been that */
    uint64_t spare;
};

struct cm_lock_bucket {
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t word;
    _Atomic uint64_t overflow; /* how many locks of this bucket the master has in its own memory */
    _Alignas(CM_CACHE_LINE) struct cm_lock locks[CM_LOCKS_IN_BUCKET];
};

/* A lock as its owner knows it: the fencing token, and where it is. As text one decimal number, which grows
 * from each owner of a lock to the next. Token 0: none. */
struct cm_lock_id {
    uint64_t token;
    uint32_t slot;
};
/* Writes it as text and gives the length. */
size_t cm_lock_id_format(struct cm_lock_id id, char text[CM_LOCK_ID_BYTES]);
/* One with token 0 for a text that cannot be a lockId. */
struct cm_lock_id cm_lock_id_parse(struct cm_bytes text);

struct cm_grant {
    struct cm_lock_id id;
    bool abandoned;
};

/* A process's access to the table. */
struct cm_locker {
    struct cm_participant *participant;
    uint64_t (*clock_ms)(void); /* cm_clock_ms but in tests */
    unsigned spins;             /* for a lock that is taken; follows its success */
    unsigned spared;            /* takings since it did not spin at all */
    uint64_t (*clock_ns)(void); /* cm_clock_ns but in tests */
    uint64_t rung_ns;           /* when it last rang */
    bool owes_ring;             /* it has spared the master one since */
};
void cm_locker_init(struct cm_locker *locker, struct cm_participant *participant);

#define CM_LOCK_NO_TIMEOUT UINT64_MAX /* of a request */

/* What only the master can do, or decide. */
enum { CM_LOCK_ASK = 1 };

/* Takes the lock if it is free, for the task (0: none) and until the deadline (0: no lease). 0; CM_E_BUSY;
 * CM_LOCK_ASK. `spin` is for who would wait for it: looks a little longer. */
int cm_lock_take(struct cm_locker *locker, struct cm_bytes key, uint64_t task, uint64_t deadline_ms,
                 bool spin, struct cm_grant *grant);

/* Releases the lock of that key and id. 0; CM_E_NOTOWNER: it is not, or no longer, its owner's;
 * CM_LOCK_ASK where another process took it. Rings the master's bell if somebody waits; but who takes and
 * releases it again and again, a few times a millisecond: then it owes a ring. */
int cm_lock_release(struct cm_locker *locker, struct cm_bytes key, struct cm_lock_id id);
/* Rings if it owes that; to be called before the process waits for anything. */
void cm_lock_settle_rings(struct cm_locker *locker);

/* Gives the lease a new end (0: none). As above; never the master's to do for anybody but the owner. */
int cm_lock_renew(struct cm_locker *locker, struct cm_bytes key, struct cm_lock_id id, uint64_t deadline_ms);

/* Whose fence it would be: 0 where this participant took the lock and has it still, CM_E_NOTOWNER where
 * nobody has it under that id any more, else CM_LOCK_ASK. */
int cm_lock_check_fence(const struct cm_participant *participant, struct cm_lock_id id);

/* In a section: whether the lock is held under that id. Who finds it so, and publishes in the same section,
 * has published before whoever gets the lock next. */
bool cm_lock_holds(const struct cm_segment *segment, struct cm_lock_id id);

/* --- for the master's queue --- */

struct cm_hash128 cm_lock_name(const struct cm_segment *segment, struct cm_bytes key);
uint32_t cm_lock_bucket_number(const struct cm_segment *segment, struct cm_hash128 name);
struct cm_lock_bucket *cm_lock_bucket(const struct cm_segment *segment, uint32_t number);
/* The record at that slot; NULL: none is there, or it is in the master's memory. */
struct cm_lock *cm_lock_at(const struct cm_segment *segment, uint32_t slot);
void cm_lock_enter(struct cm_participant *participant, uint32_t bucket, struct cm_section *section);

/* In the section of its bucket: the name's record, or, with `anew`, one that it may have and has the name of
 * now; NULL: none. */
struct cm_lock *cm_lock_find(struct cm_lock_bucket *bucket, struct cm_hash128 name, bool anew);
/* In the same section, of a lock that is free: gives it to the seat. `keep` are the flags it shall have. */
void cm_lock_hold(const struct cm_segment *segment, struct cm_lock *lock, uint32_t seat, uint64_t task,
                  uint64_t deadline_ms, uint64_t keep, uint64_t *token);
/* Makes the master look for it when the lease is over; behind the deadline and the state. */
void cm_lock_note_lease(const struct cm_segment *segment, uint64_t deadline_ms);
/* The slot in the ids of the bucket's lock; NULL: of one in the master's memory. */
uint32_t cm_lock_slot(uint32_t bucket, const struct cm_lock_bucket *at, const struct cm_lock *lock);

#endif
