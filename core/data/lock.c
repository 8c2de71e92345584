#include "data/lock.h"

#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"

_Static_assert(sizeof(struct cm_lock) == CM_CACHE_LINE, "a lock is a cache line");
_Static_assert(sizeof(struct cm_lock_bucket) == CM_LOCK_BUCKET_BYTES, "as the layout counts them");

enum {
    SPINS_MOST = 400, /* about as long as a short critical section, twice */
    SPINS_LEAST = 25,
    RING_NS = 200000, /* between two rings for locks that the releaser may take again */
    SPARED_MOST = 64, /* takings after which it is tried again whether spinning helps */
};

/* Under one section a record's fields have one writer; who reads them without it looks at the state before
 * and after. */
static uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_relaxed);
}

static void store(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* --- lockIds --- */

typedef unsigned __int128 cm_u128;

size_t cm_lock_id_format(struct cm_lock_id id, char text[CM_LOCK_ID_BYTES]) {
    cm_u128 value = (cm_u128)id.token << CM_LOCK_SLOT_BITS | id.slot;
    char digits[CM_LOCK_ID_BYTES] = {0};
    size_t len = 0;
    for (; value > UINT64_MAX; value /= 10)
        digits[len++] = (char)('0' + (int)(value % 10));
    uint64_t rest = (uint64_t)value;
    do
        digits[len++] = (char)('0' + rest % 10);
    while (rest /= 10);
    for (size_t i = 0; i < len; i++)
        text[i] = digits[len - 1 - i];
    return len;
}

struct cm_lock_id cm_lock_id_parse(struct cm_bytes text) {
    enum { MOST_DIGITS = 23 }; /* of 2^76 */
    cm_u128 value = 0;
    if (text.len == 0 || text.len > MOST_DIGITS || text.data[0] == '0')
        return (struct cm_lock_id){0};
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return (struct cm_lock_id){0};
        value = value * 10 + (unsigned)(text.data[i] - '0');
    }
    if (value >> CM_LOCK_SLOT_BITS > UINT64_MAX >> 4)
        return (struct cm_lock_id){0};
    return (struct cm_lock_id){(uint64_t)(value >> CM_LOCK_SLOT_BITS),
                               (uint32_t)value & ((UINT32_C(1) << CM_LOCK_SLOT_BITS) - 1)};
}

/* --- places --- */

struct cm_hash128 cm_lock_name(const struct cm_segment *segment, struct cm_bytes key) {
    return cm_hash128(key, segment->layout.hash_seed);
}

uint32_t cm_lock_bucket_number(const struct cm_segment *segment, struct cm_hash128 name) {
    return (uint32_t)name.low & (segment->layout.lock_buckets - 1);
}

struct cm_lock_bucket *cm_lock_bucket(const struct cm_segment *segment, uint32_t number) {
    uint64_t at = segment->layout.locks_at + (uint64_t)number * CM_LOCK_BUCKET_BYTES;
    return (struct cm_lock_bucket *)(void *)(segment->base + at);
}

uint32_t cm_lock_slot(uint32_t bucket, const struct cm_lock_bucket *at, const struct cm_lock *lock) {
    return bucket << CM_LOCK_BUCKET_BITS | (lock ? (uint32_t)(lock - at->locks) : CM_LOCKS_IN_BUCKET);
}

struct cm_lock *cm_lock_at(const struct cm_segment *segment, uint32_t slot) {
    uint32_t place = slot & ((1 << CM_LOCK_BUCKET_BITS) - 1);
    uint32_t bucket = slot >> CM_LOCK_BUCKET_BITS;
    if (place >= CM_LOCKS_IN_BUCKET || bucket >= segment->layout.lock_buckets)
        return NULL;
    return &cm_lock_bucket(segment, bucket)->locks[place];
}

void cm_lock_enter(struct cm_participant *participant, uint32_t bucket, struct cm_section *section) {
    cm_section_enter(participant, participant->segment->layout.groups_most + bucket, section);
}

static bool is_named(const struct cm_lock *lock, struct cm_hash128 name) {
    return load(&lock->name[0]) == name.low && load(&lock->name[1]) == name.high;
}

/* A record whose state is 0 is nobody's: its name, if it is this one, is from the last time. */
struct cm_lock *cm_lock_find(struct cm_lock_bucket *bucket, struct cm_hash128 name, bool anew) {
    struct cm_lock *unused = NULL;
    for (int i = 0; i < CM_LOCKS_IN_BUCKET; i++) {
        struct cm_lock *lock = &bucket->locks[i];
        bool bound = load(&lock->state) != 0;
        bool named = is_named(lock, name);
        if (bound && named)
            return lock;
        if (!bound && (named || !unused))
            unused = lock;
    }
    if (!unused || !anew)
        return NULL;
    store(&unused->name[0], name.low);
    store(&unused->name[1], name.high);
    CM_FAULT("lock-named");
    return unused;
}

/* --- leases --- */

/* The master looks for leases that are over when the earliest may be. Behind the state, with a full fence:
 * either the master's look, which comes behind its reset of the time, finds this lease, or the reset is seen
 * here. */
void cm_lock_note_lease(const struct cm_segment *segment, uint64_t deadline_ms) {
    _Atomic uint64_t *earliest = &segment->header->earliest_lease_ms;
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t noted = load(earliest);
    while (deadline_ms < noted && !atomic_compare_exchange_weak(earliest, &noted, deadline_ms)) {
    }
}

/* --- taking --- */

void cm_lock_hold(const struct cm_segment *segment, struct cm_lock *lock, uint32_t seat, uint64_t task,
                  uint64_t deadline_ms, uint64_t keep, uint64_t *token) {
    store(&lock->owner, seat);
    store(&lock->task, task);
    store(&lock->deadline_ms, deadline_ms);
    /* One counter for all locks: so tokens grow in the order in which a lock is taken, whoever takes it. */
    *token = atomic_fetch_add_explicit(&segment->header->lock_token, 1, memory_order_relaxed) + 1;
    CM_FAULT("lock-before-hold");
    /* Last, and release: who sees the token sees whose it is. */
    atomic_store_explicit(&lock->state, *token << 4 | keep, memory_order_release);
    CM_FAULT("lock-held");
    if (deadline_ms)
        cm_lock_note_lease(segment, deadline_ms);
}

void cm_locker_init(struct cm_locker *locker, struct cm_participant *participant) {
    *locker =
        (struct cm_locker){.participant = participant, .clock_ms = cm_clock_ms, .clock_ns = cm_clock_ns};
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
        locker->spins = SPINS_MOST;
}

/* Looks at a lock that is held until it is not; true if so. Not where somebody waits already, who would only
 * be made to wait longer. Where that did not help it is given up sooner the next time, and then hardly tried:
 * its owner does not run while this process keeps its core. */
static bool spin(struct cm_locker *locker, const struct cm_lock *lock) {
    if (!locker->spins) {
        if (++locker->spared < SPARED_MOST)
            return false;
        locker->spared = 0;
    }
    unsigned most = locker->spins > SPINS_LEAST ? locker->spins : SPINS_LEAST;
    for (unsigned i = 0; i < most; i++) {
        uint64_t state = load(&lock->state);
        if (state & CM_LOCK_WAITED)
            return false;
        if (!cm_lock_token(state)) {
            locker->spins = SPINS_MOST;
            return true;
        }
        cm_pause();
    }
    locker->spins = locker->spins / 2 < SPINS_LEAST ? 0 : locker->spins / 2;
    return false;
}

/* One look. 0, CM_E_BUSY or CM_LOCK_ASK; `held` is the lock, if it is held for sure. */
static int take(struct cm_locker *locker, struct cm_hash128 name, uint64_t task, uint64_t deadline_ms,
                struct cm_grant *grant, const struct cm_lock **held) {
    struct cm_participant *participant = locker->participant;
    const struct cm_segment *segment = participant->segment;
    uint32_t number = cm_lock_bucket_number(segment, name);
    struct cm_lock_bucket *bucket = cm_lock_bucket(segment, number);
    struct cm_section section;
    *held = NULL;
    cm_lock_enter(participant, number, &section);
    /* Where the master keeps some locks of the bucket, one that is not here may be there. */
    struct cm_lock *lock = cm_lock_find(bucket, name, load(&bucket->overflow) == 0);
    if (!lock) {
        cm_section_leave(&section);
        return CM_LOCK_ASK;
    }
    /* Acquire: what its last owner did is seen by the next one. */
    uint64_t state = atomic_load_explicit(&lock->state, memory_order_acquire);
    uint64_t handed = CM_LOCK_WAITED | CM_LOCK_HANDED;
    if (cm_lock_token(state) || state & CM_LOCK_REVOKED || (state & handed) == handed) {
        uint64_t lease_ms = cm_lock_token(state) ? load(&lock->deadline_ms) : 0;
        cm_section_leave(&section);
        *held = cm_lock_token(state) ? lock : NULL;
        /* A lease that is over has not been ended yet. */
        return lease_ms && lease_ms <= locker->clock_ms() ? CM_LOCK_ASK : CM_E_BUSY;
    }
    grant->abandoned = state & CM_LOCK_ABANDONED;
    cm_lock_hold(segment, lock, participant->id, task, deadline_ms, state & CM_LOCK_WAITED, &grant->id.token);
    grant->id.slot = cm_lock_slot(number, bucket, lock);
    cm_section_leave(&section);
    return 0;
}

int cm_lock_take(struct cm_locker *locker, struct cm_bytes key, uint64_t task, uint64_t deadline_ms,
                 bool may_spin, struct cm_grant *grant) {
    struct cm_hash128 name = cm_lock_name(locker->participant->segment, key);
    for (;;) {
        const struct cm_lock *held;
        int result = take(locker, name, task, deadline_ms, grant, &held);
        if (result != CM_E_BUSY || !may_spin || !held || !spin(locker, held))
            return result;
    }
}

/* --- what its owner does --- */

/* The lock of that key and id, if it is held so: 0, CM_E_NOTOWNER, or CM_LOCK_ASK where it is not this
 * participant's. While the token stands, so does its owner. */
static int find_own(const struct cm_participant *participant, struct cm_bytes key, struct cm_lock_id id,
                    struct cm_lock **lock) {
    const struct cm_segment *segment = participant->segment;
    int err = cm_lock_check_fence(participant, id);
    if (err)
        return err;
    *lock = cm_lock_at(segment, id.slot);
    return is_named(*lock, cm_lock_name(segment, key)) ? 0 : CM_E_NOTOWNER;
}

/* Where nobody else may take the lock the master must hear of it. Else the releaser may be about to take it
 * again, and a master that came for each release would keep a core from those who wait. */
static void ring(struct cm_locker *locker, bool at_once) {
    uint64_t now_ns = locker->clock_ns();
    locker->owes_ring = !at_once && now_ns - locker->rung_ns < RING_NS;
    if (locker->owes_ring) {
        CM_FAULT("lock-ring-owed");
        return;
    }
    locker->rung_ns = now_ns;
    cm_participant_ring(locker->participant, CM_RING_LOCKS);
    CM_FAULT("lock-rung");
}

int cm_lock_release(struct cm_locker *locker, struct cm_bytes key, struct cm_lock_id id) {
    struct cm_lock *lock;
    int err = find_own(locker->participant, key, id, &lock);
    if (err)
        return err;
    uint64_t state = load(&lock->state);
    uint64_t flags;
    do {
        if (cm_lock_token(state) != id.token)
            return CM_E_NOTOWNER;
        flags = state & CM_LOCK_FLAGS;
        if (flags & CM_LOCK_WAITED && locker->clock_ms() > load(&lock->head_since_ms) + CM_LOCK_PATIENCE_MS)
            flags |= CM_LOCK_HANDED;
        CM_FAULT("lock-before-free");
        /* Release: what was done under the lock comes before. */
    } while (!atomic_compare_exchange_weak_explicit(&lock->state, &state, flags, memory_order_release,
                                                    memory_order_relaxed));
    CM_FAULT("lock-freed");
    if (flags & CM_LOCK_WAITED)
        ring(locker, flags & CM_LOCK_HANDED);
    return 0;
}

void cm_lock_settle_rings(struct cm_locker *locker) {
    if (locker->owes_ring)
        ring(locker, true);
}

int cm_lock_renew(struct cm_locker *locker, struct cm_bytes key, struct cm_lock_id id, uint64_t deadline_ms) {
    struct cm_lock *lock;
    int err = find_own(locker->participant, key, id, &lock);
    if (err)
        return err;
    struct cm_section section;
    cm_lock_enter(locker->participant, id.slot >> CM_LOCK_BUCKET_BITS, &section);
    bool holds = cm_lock_token(load(&lock->state)) == id.token;
    if (holds)
        store(&lock->deadline_ms, deadline_ms);
    CM_FAULT("lock-renewed");
    cm_section_leave(&section);
    if (holds && deadline_ms)
        cm_lock_note_lease(locker->participant->segment, deadline_ms);
    return holds ? 0 : CM_E_NOTOWNER;
}

/* --- fences --- */

int cm_lock_check_fence(const struct cm_participant *participant, struct cm_lock_id id) {
    const struct cm_lock *lock = cm_lock_at(participant->segment, id.slot);
    if (!id.token)
        return CM_E_NOTOWNER;
    if (!lock)
        return CM_LOCK_ASK;
    /* Acquire: who sees the token sees whose it is. */
    uint64_t state = atomic_load_explicit((_Atomic uint64_t *)&lock->state, memory_order_acquire);
    if (cm_lock_token(state) != id.token)
        return CM_E_NOTOWNER;
    return load(&lock->owner) == participant->id ? 0 : CM_LOCK_ASK;
}

/* Behind the fence of the section's swap: either the section sees that the lock has been revoked, or the
 * barrier behind the revocation sees the section, and waits for it. */
bool cm_lock_holds(const struct cm_segment *segment, struct cm_lock_id id) {
    const struct cm_lock *lock = cm_lock_at(segment, id.slot);
    return lock && cm_lock_token(load(&lock->state)) == id.token;
}
