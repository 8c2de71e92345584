/* Locks whose owners and waiters die and stand still at every step of the protocol. The queue goes on within
 * 20 ms where a release was the last thing that anybody did; one has a lock at a time, in the order of the
 * tokens; and nothing is published under the fence of a lock that has passed on. */
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "data/lockq.h"
#include "spec/core/hunt.h"

enum {
    KEYS = 3,
    CREW = 5,
    LEASES_MS = 20,
    GRANT_MS = 20000, /* nobody waits longer, whatever the machine does besides */
    FREE_MOST_US = 20000,
    LATE_MOST_US = 2000, /* of a turn of the master that counts; beyond, it did not run */
    LEASE_MS = 60,
    ROUNDS = 20,
    STEPS = 3,        /* writes under one lock */
    ARM_ROUNDS = 400, /* after which another fault is laid */
};

enum box_state { IDLE, ASKED, DONE };
enum box_op { LOCK, UNLOCK, RENEW };

/* What a worker asks the master for. */
struct box {
    _Atomic uint32_t state;
    enum box_op op;
    unsigned key;
    struct cm_lock_id id;
    uint64_t task;
    uint64_t timeout_ms;
    uint64_t lease_ms;
    bool fair;
    int code;
    struct cm_grant grant;
};

static struct shared {
    struct box boxes[HUNT_WORKERS_MOST];
    _Atomic uint64_t holders[KEYS]; /* {token, whether its owner still has the lock} of the latest known */
    _Atomic uint64_t grants[HUNT_WORKERS_MOST];
    _Atomic uint64_t refused; /* fenced writes that came too late */
    _Atomic uint64_t lost;    /* locks that were taken away */
    _Atomic int32_t result;   /* of the one write that a test is about */
    /* The orders of the victim. */
    const char *point;
    unsigned nth;
    enum cm_fault_kind kind;
} * shared;

static struct hunt hunt;
static const char *at_point = "no point"; /* for what goes wrong */
static struct cm_lockq queue;
static int bell;
static uint64_t due_ms; /* when the queue wants to look again */
static uint64_t leases_ms, turned_us;
static struct {
    uint64_t state;
    uint64_t for_us;
} frees[KEYS];
static uint64_t free_most_us;

static struct cm_bytes key_of(unsigned key) {
    static const char *const keys[KEYS] = {"lock a", "lock b", "lock c"};
    return cm_bytes_of(keys[key]);
}

/* --- the master --- */

static bool asked[HUNT_WORKERS_MOST]; /* and not answered yet */

static void answer(void *data, struct cm_lock_asker asker, int code, const struct cm_grant *grant,
                   const char *text) {
    (void)data, (void)text;
    struct box *box = &shared->boxes[asker.request];
    HUNT_CHECK(hunt.workers[asker.request].seat == asker.seat, "an answer for one that is gone");
    HUNT_CHECK(atomic_load(&box->state) == ASKED, "a second answer");
    box->code = code;
    if (grant)
        box->grant = *grant;
    asked[asker.request] = false;
    atomic_store_explicit(&box->state, DONE, memory_order_release);
}

static void serve(unsigned i) {
    struct box *box = &shared->boxes[i];
    if (asked[i] || atomic_load_explicit(&box->state, memory_order_acquire) != ASKED)
        return;
    asked[i] = true;
    struct cm_lock_asker asker = {hunt.workers[i].seat, i};
    struct cm_lock_request request = {.asker = asker,
                                      .key = key_of(box->key),
                                      .task = box->task,
                                      .timeout_ms = box->timeout_ms,
                                      .lease_ms = box->lease_ms,
                                      .fair = box->fair};
    int err = 0;
    if (box->op == LOCK)
        err = cm_lockq_request(&queue, &request);
    else if (box->op == UNLOCK)
        err = cm_lockq_release(&queue, asker, request.key, box->id);
    else
        answer(NULL, asker, cm_lockq_renew(&queue, asker.seat, request.key, box->id, box->lease_ms), NULL,
               NULL);
    HUNT_CHECK(err == 0, "a request: %s", cm_error_name(err));
}

/* How long the locks have been free with a queue, in time in which the master ran; and nobody owns the
 * bucket, who would be waited for. */
static void watch_free(uint64_t us) {
    for (unsigned i = 0; i < KEYS; i++) {
        struct cm_hash128 name = cm_lock_name(&hunt.segment, key_of(i));
        struct cm_lock_bucket *bucket =
            cm_lock_bucket(&hunt.segment, cm_lock_bucket_number(&hunt.segment, name));
        uint64_t state = 0;
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++) {
            const struct cm_lock *lock = &bucket->locks[j];
            if (atomic_load((_Atomic uint64_t *)&lock->name[0]) == name.low && !state)
                state = atomic_load((_Atomic uint64_t *)&lock->state);
        }
        bool stands = state & CM_LOCK_WAITED && !(state & CM_LOCK_REVOKED) && !cm_lock_token(state) &&
                      !cm_word_owner(atomic_load(&bucket->word)) && state == frees[i].state;
        frees[i].state = state;
        frees[i].for_us = stands ? frees[i].for_us + us : 0;
        if (frees[i].for_us > free_most_us)
            free_most_us = frees[i].for_us;
        HUNT_CHECK(frees[i].for_us < FREE_MOST_US, "a free lock with a queue lasts %lu us",
                   (unsigned long)frees[i].for_us);
    }
}

static void bury(unsigned i) {
    int signal = hunt_take(&hunt, i);
    HUNT_CHECK(signal == 0 || signal == SIGKILL, "worker %u was killed by signal %d", i, signal);
    uint32_t seat = hunt.workers[i].seat;
    cm_reaper_repair(&hunt.reaper, seat);
    cm_lockq_drop_waits(&queue, seat);
    cm_lockq_drop_owner(&queue, seat);
    cm_reaper_bury(&hunt.reaper, seat);
    hunt_check_unnamed(&hunt, seat);
    atomic_store(&shared->boxes[i].state, IDLE);
    asked[i] = false;
}

static void turn(void) {
    bool busy = hunt_turn(&hunt);
    uint64_t count, now_us = hunt_now_us(), late_us = now_us - turned_us;
    turned_us = now_us;
    watch_free(late_us < LATE_MOST_US ? late_us : LATE_MOST_US);
    bool rung = read(bell, &count, sizeof count) > 0;
    if (rung)
        atomic_exchange(&hunt.segment.header->rung, 0);
    for (unsigned i = 0; i < HUNT_WORKERS_MOST; i++) {
        if (hunt.workers[i].pid)
            serve(i);
    }
    uint64_t now_ms = cm_clock_ms();
    if (rung || now_ms >= due_ms) {
        due_ms = UINT64_MAX;
        cm_lockq_look(&queue);
    }
    uint64_t next_ms = cm_lockq_next_ms(&queue);
    if (next_ms == UINT64_MAX)
        due_ms = UINT64_MAX;
    else if (now_ms + next_ms < due_ms)
        due_ms = now_ms + next_ms;
    if (now_ms - leases_ms >= LEASES_MS) {
        leases_ms = now_ms;
        cm_lockq_end_leases(&queue);
    }
    if (busy || rung)
        sched_yield();
    else
        hunt_pause();
}

static void turn_until(unsigned number, int options) {
    for (uint64_t deadline_ms = cm_clock_ms() + GRANT_MS; !hunt_is(&hunt, number, options); turn())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "worker %u does not come to its end at %s", number, at_point);
}

static void turn_for(uint64_t ms) {
    for (uint64_t start_ms = cm_clock_ms(); cm_clock_ms() - start_ms < ms;)
        turn();
}

static void finish(void) {
    atomic_store(&hunt.shared->stop, 1);
    for (unsigned i = 0; i < HUNT_WORKERS_MOST; i++) {
        if (!hunt.workers[i].pid)
            continue;
        kill(hunt.workers[i].pid, SIGCONT);
        turn_until(i, WEXITED);
        bury(i);
    }
    atomic_store(&hunt.shared->stop, 0);
    cm_lockq_look(&queue);
    HUNT_CHECK(cm_list_empty(&queue.active) && queue.tasks.count == 0, "somebody waits, and nobody is left");
    for (uint32_t i = 0; i < hunt.segment.layout.lock_buckets; i++) {
        struct cm_lock_bucket *bucket = cm_lock_bucket(&hunt.segment, i);
        HUNT_CHECK(cm_word_owner(atomic_load(&bucket->word)) == 0, "a bucket is owned by nobody");
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++) {
            uint64_t state = atomic_load(&bucket->locks[j].state);
            HUNT_CHECK(state == 0 || state == CM_LOCK_ABANDONED, "a lock's state %#lx", (unsigned long)state);
        }
    }
    struct hunt_audit audit;
    hunt_audit(&hunt, false, &audit);
}

/* --- workers --- */

static void begin(struct hunt_self *self, struct cm_locker *locker) {
    self->participant.bell = bell;
    cm_locker_init(locker, &self->participant);
}

static int ask(struct hunt_self *self) {
    struct box *box = &shared->boxes[self->number];
    uint64_t deadline_ms = cm_clock_ms() + GRANT_MS;
    atomic_store_explicit(&box->state, ASKED, memory_order_release);
    while (atomic_load_explicit(&box->state, memory_order_acquire) != DONE) {
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "a request is forgotten");
        hunt_pause();
    }
    return box->code;
}

/* The token, and whether whoever had it before has gone without giving it back, agree with what is seen. Only
 * an owner with a lease may find that others have had the lock by the time it comes to note that it has it.
 */
static void note_grant(struct hunt_self *self, unsigned key, const struct cm_grant *grant,
                       uint64_t lease_ms) {
    _Atomic uint64_t *at = &shared->holders[key];
    uint64_t token = grant->id.token, holder = atomic_load(at);
    do {
        if (holder >> 1 > token) {
            HUNT_CHECK(lease_ms && !cm_lock_holds(&hunt.segment, grant->id), "token %lu was taken behind %lu",
                       (unsigned long)token, (unsigned long)holder >> 1);
            return;
        }
        HUNT_CHECK(holder >> 1 != token, "token %lu was given twice", (unsigned long)token);
        HUNT_CHECK(!(holder & 1) || grant->abandoned, "%lu has the lock that %lu takes",
                   (unsigned long)holder >> 1, (unsigned long)token);
    } while (!atomic_compare_exchange_weak(at, &holder, token << 1 | 1));
    atomic_fetch_add(&shared->grants[self->number], 1);
}

static struct cm_lock_id lock(struct hunt_self *self, struct cm_locker *locker, unsigned key,
                              uint64_t lease_ms) {
    struct cm_grant grant;
    uint64_t deadline_ms = lease_ms ? cm_clock_ms() + lease_ms : 0;
    int err = cm_lock_take(locker, key_of(key), 0, deadline_ms, true, &grant);
    if (err) {
        struct box *box = &shared->boxes[self->number];
        box->op = LOCK;
        box->key = key;
        box->task = random_below(&self->random, 3) ? 1 + self->number : 0;
        box->timeout_ms = CM_LOCK_NO_TIMEOUT;
        box->lease_ms = lease_ms;
        box->fair = random_below(&self->random, 8) == 0;
        err = ask(self);
        grant = box->grant;
    }
    HUNT_CHECK(err == 0, "a lock: %s", cm_error_name(err));
    note_grant(self, key, &grant, lease_ms);
    return grant.id;
}

/* NOTOWNER is right only for who had a lease. */
static void check_lost(int err, uint64_t lease_ms) {
    HUNT_CHECK(err == 0 || (err == CM_E_NOTOWNER && lease_ms), "its own lock: %s", cm_error_name(err));
    if (err)
        atomic_fetch_add(&shared->lost, 1);
}

static void unlock(struct hunt_self *self, struct cm_locker *locker, unsigned key, struct cm_lock_id id,
                   uint64_t lease_ms) {
    uint64_t holder = id.token << 1 | 1;
    bool mine = atomic_compare_exchange_strong(&shared->holders[key], &holder, id.token << 1);
    HUNT_CHECK(mine || lease_ms, "%lu took the lock that %lu has", (unsigned long)holder >> 1,
               (unsigned long)id.token);
    int err = cm_lock_release(locker, key_of(key), id);
    if (err == CM_LOCK_ASK) {
        struct box *box = &shared->boxes[self->number];
        box->op = UNLOCK;
        box->key = key;
        box->id = id;
        err = ask(self);
    }
    HUNT_CHECK(mine || err == CM_E_NOTOWNER, "a lock that has passed on: %s", cm_error_name(err));
    check_lost(err, lease_ms);
}

static void renew(struct hunt_self *self, struct cm_locker *locker, unsigned key, struct cm_lock_id id,
                  uint64_t lease_ms) {
    int err = cm_lock_renew(locker, key_of(key), id, lease_ms ? cm_clock_ms() + lease_ms : 0);
    if (err == CM_LOCK_ASK) {
        struct box *box = &shared->boxes[self->number];
        box->op = RENEW;
        box->key = key;
        box->id = id;
        box->lease_ms = lease_ms;
        err = ask(self);
    }
    check_lost(err, lease_ms);
}

/* --- each point --- */

static const struct {
    const char *name;
    bool inside; /* its bucket, so that who stands there is killed in the end */
} points[] = {{"lock-before-free", false}, {"lock-freed", false},   {"lock-named", true},
              {"lock-before-hold", true},  {"lock-held", true},     {"lock-renewed", true},
              {"group-taken", true},       {"before-release", true}};
enum { POINTS = sizeof points / sizeof *points, NTHS = 3, STILL_POINTS_SHORT = 4 };

/* Until it does not go on; what it has is taken away in the end. */
static void be_victim(struct hunt_self *self) {
    struct cm_locker locker;
    begin(self, &locker);
    uint64_t lease_ms = shared->kind == CM_FAULT_STOP ? LEASE_MS : 0;
    cm_fault_arm(shared->point, shared->nth, shared->kind);
    while (!hunt_told_to_stop(self)) {
        struct cm_lock_id id = lock(self, &locker, 0, lease_ms);
        /* One that nobody else wants, too: its record is new each time. */
        struct cm_lock_id own = lock(self, &locker, 2, lease_ms);
        renew(self, &locker, 0, id, lease_ms);
        unlock(self, &locker, 2, own, lease_ms);
        unlock(self, &locker, 0, id, lease_ms);
    }
}

static void lock_all_the_time(struct hunt_self *self) {
    struct cm_locker locker;
    begin(self, &locker);
    while (!hunt_told_to_stop(self)) {
        struct cm_lock_id id = lock(self, &locker, 0, 0);
        if (random_below(&self->random, 4) == 0)
            sched_yield();
        unlock(self, &locker, 0, id, 0);
    }
}

static void await_grants(const char *point) {
    uint64_t before[HUNT_WORKERS_MOST], deadline_ms = cm_clock_ms() + GRANT_MS;
    for (unsigned i = 1; i < CREW; i++)
        before[i] = atomic_load(&shared->grants[i]);
    for (unsigned i = 1; i < CREW; i++) {
        while (atomic_load(&shared->grants[i]) < before[i] + ROUNDS) {
            HUNT_CHECK(cm_clock_ms() < deadline_ms, "behind one at %s the others do not go on", point);
            turn();
        }
    }
}

static void test_points(void **state) {
    (void)state;
    for (unsigned i = 1; i < CREW; i++)
        hunt_start(&hunt, i, lock_all_the_time, NULL);
    for (unsigned nth = 1; nth <= NTHS; nth++) {
        for (unsigned kind = 0; kind < 2; kind++) {
            for (unsigned i = 0; i < POINTS; i++) {
                shared->point = at_point = points[i].name;
                shared->nth = nth;
                shared->kind = kind ? CM_FAULT_STOP : CM_FAULT_KILL;
                /* Who stands inside stands for a second. */
                if (kind && points[i].inside && !hunt_is_long && (nth > 1 || i >= STILL_POINTS_SHORT))
                    continue;
                hunt_start(&hunt, 0, be_victim, NULL);
                bool stands = kind && !points[i].inside;
                turn_until(0, stands ? WSTOPPED : WEXITED);
                if (stands) {
                    await_grants(points[i].name);
                    /* It goes on, and finds what it had gone. */
                    kill(hunt.workers[0].pid, SIGCONT);
                    turn_for(2);
                    kill(hunt.workers[0].pid, SIGKILL);
                    turn_until(0, WEXITED);
                }
                bury(0);
                await_grants(points[i].name);
            }
        }
    }
    finish();
    printf("locks: a free lock with a queue lasted %lu us at most; %lu locks were lost\n",
           (unsigned long)free_most_us, (unsigned long)atomic_load(&shared->lost));
}

/* --- waiters --- */

static void wait_and_go(struct hunt_self *self) {
    struct cm_locker locker;
    begin(self, &locker);
    lock(self, &locker, 0, 0);
    HUNT_CHECK(0, "it was granted a lock, and should be dead");
}

static void hold(struct hunt_self *self) {
    struct cm_locker locker;
    begin(self, &locker);
    struct cm_lock_id id = lock(self, &locker, 0, 0);
    while (!hunt_told_to_stop(self))
        hunt_pause();
    unlock(self, &locker, 0, id, 0);
}

static uint32_t waiting(void) {
    struct cm_lock_info info = {0};
    cm_lockq_info(&queue, key_of(0), &info);
    return info.waiting;
}

static void await_waiting(uint32_t count) {
    for (uint64_t deadline_ms = cm_clock_ms() + GRANT_MS; waiting() != count; turn())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "%u wait, and not %u", waiting(), count);
}

/* Those in the middle of the queue and at its head die; the others come to their turn. */
static void test_dead_waiters(void **state) {
    (void)state;
    enum { WAITERS = 6 };
    hunt_start(&hunt, 0, hold, NULL);
    for (uint64_t deadline_ms = cm_clock_ms() + GRANT_MS; !atomic_load(&shared->grants[0]); turn())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "a free lock is not taken");
    for (unsigned i = 1; i <= WAITERS; i++) {
        hunt_start(&hunt, i, i % 2 ? wait_and_go : hold, NULL);
        await_waiting(i);
    }
    for (unsigned i = 1; i <= WAITERS; i += 2) {
        kill(hunt.workers[i].pid, SIGKILL);
        turn_until(i, WEXITED);
        bury(i);
    }
    await_waiting(WAITERS / 2);
    finish();
    for (unsigned i = 1; i <= WAITERS; i++)
        assert_int_equal(atomic_load(&shared->grants[i]), i % 2 == 0);
}

/* --- fences --- */

enum { VALUE_BYTES = 16 };

static struct cm_bytes value_key(bool is_number) {
    return cm_bytes_of(is_number ? "number" : "bytes");
}

static uint64_t read_token(struct hunt_self *self, bool is_number, uint64_t *version) {
    struct cm_value value = {0};
    uint64_t token = 0;
    int err = cm_store_get(&self->store, value_key(is_number), &self->buf, &value, version, NULL);
    HUNT_CHECK(err == 0 && value.is_number == is_number, "get: %s", cm_error_name(err));
    if (is_number)
        return (uint64_t)value.number.integer;
    HUNT_CHECK(value.bytes.len == VALUE_BYTES, "a value of %zu bytes", value.bytes.len);
    memcpy(&token, value.bytes.data, sizeof token);
    return token;
}

/* Under the lock what it guards changes by this owner's hand alone. 0 or NOTOWNER. */
static int write_token(struct hunt_self *self, bool is_number, struct cm_lock_id id, uint64_t *version) {
    uint8_t bytes[VALUE_BYTES] = {0};
    memcpy(bytes, &id.token, sizeof id.token);
    struct cm_value number = {.is_number = true, .number.integer = (int64_t)id.token};
    struct cm_value value = {.bytes = {bytes, sizeof bytes}};
    struct cm_change change = {.fence = id, .if_version = true, .version = *version};
    int err =
        cm_store_set(&self->store, value_key(is_number), is_number ? &number : &value, &change, version);
    HUNT_CHECK(err != CM_E_CONFLICT, "somebody publishes under the lock of token %lu",
               (unsigned long)id.token);
    HUNT_CHECK(err == 0 || err == CM_E_NOTOWNER, "set: %s", cm_error_name(err));
    if (err)
        atomic_fetch_add(&shared->refused, 1);
    return err;
}

static int write_both(struct hunt_self *self, struct cm_lock_id id, bool first) {
    int err = 0;
    for (int is_number = 0; !err && is_number < 2; is_number++) {
        bool which = is_number != first;
        uint64_t version, token = read_token(self, which, &version);
        if (token >= id.token) {
            /* Only if this one has lost the lock meanwhile. */
            HUNT_CHECK(token > id.token && !cm_lock_holds(&hunt.segment, id),
                       "under token %lu there is one of %lu", (unsigned long)id.token, (unsigned long)token);
            return CM_E_NOTOWNER;
        }
        for (int i = 0; !err && i < STEPS; i++)
            err = write_token(self, which, id, &version);
    }
    return err;
}

/* Whatever is published, is by the present owner or a later one than the last. */
static void read_all_the_time(struct hunt_self *self) {
    uint64_t last[2] = {0};
    for (unsigned i = 0; !hunt_told_to_stop(self); i++) {
        uint64_t version, token = read_token(self, i % 2, &version);
        HUNT_CHECK(token >= last[i % 2], "token %lu behind %lu", (unsigned long)token,
                   (unsigned long)last[i % 2]);
        last[i % 2] = token;
        if (i % 16 == 0)
            hunt_pause();
    }
}

static struct fenced_case {
    const char *point;
    bool is_number;
    bool inside;
    bool publishes; /* it has seen that the lock is its own */
} cases[] = {
    {"entry-appended", false, false, false}, {"group-taken", false, true, false},
    {"before-publish", false, true, true},   {"group-taken", true, true, false},
    {"number-shut", true, true, true},
};

static void write_and_stop(struct hunt_self *self) {
    const struct fenced_case *its = self->data;
    struct cm_locker locker;
    begin(self, &locker);
    struct cm_lock_id id = lock(self, &locker, 1, LEASE_MS);
    uint64_t version;
    read_token(self, its->is_number, &version);
    cm_fault_arm(its->point, 1, CM_FAULT_STOP);
    atomic_store(&shared->result, write_token(self, its->is_number, id, &version));
    cm_fault_arm(NULL, 0, CM_FAULT_STOP);
    unlock(self, &locker, 1, id, LEASE_MS);
}

static void write_once(struct hunt_self *self) {
    const struct fenced_case *its = self->data;
    struct cm_locker locker;
    begin(self, &locker);
    struct cm_lock_id id = lock(self, &locker, 1, 0);
    HUNT_CHECK(write_both(self, id, its->is_number) == 0, "its own lock is not its own");
    unlock(self, &locker, 1, id, 0);
}

static void put_tokens(void) {
    uint64_t version;
    uint8_t bytes[VALUE_BYTES] = {0};
    struct cm_value number = {.is_number = true}, value = {.bytes = {bytes, sizeof bytes}};
    assert_int_equal(cm_store_set(&hunt.store, value_key(true), &number, &(struct cm_change){0}, &version),
                     0);
    assert_int_equal(cm_store_set(&hunt.store, value_key(false), &value, &(struct cm_change){0}, &version),
                     0);
}

/* An owner that stands still in the midst of a fenced write, longer than its lease: the lock passes on when
 * it cannot publish any more, and not before. */
static void test_fences(void **state) {
    (void)state;
    put_tokens();
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fenced_case *its = &cases[i];
        uint64_t granted = atomic_load(&shared->grants[1]);
        atomic_store(&shared->result, 99);
        hunt_start(&hunt, 0, write_and_stop, its);
        turn_until(0, WSTOPPED);
        hunt_start(&hunt, 1, write_once, its);
        /* Long enough for the lease, and shorter than anybody may stand in a section. */
        if (its->inside)
            turn_for(4 * (uint64_t)LEASE_MS);
        else
            turn_until(1, WEXITED);
        HUNT_CHECK((atomic_load(&shared->grants[1]) == granted) == its->inside,
                   "at %s: the lock passes on at the wrong time", its->point);
        kill(hunt.workers[0].pid, SIGCONT);
        turn_until(0, WEXITED);
        turn_until(1, WEXITED);
        bury(0);
        bury(1);
        HUNT_CHECK(atomic_load(&shared->result) == (its->publishes ? 0 : CM_E_NOTOWNER),
                   "at %s the late write: %s", its->point, cm_error_name(atomic_load(&shared->result)));
    }
    finish();
}

/* --- all of it at random --- */

static const char *const random_points[] = {
    "lock-before-free", "lock-freed",  "lock-named",     "lock-before-hold", "lock-held",
    "group-taken",      "number-shut", "entry-appended", "before-publish",   "before-release",
};
enum { RANDOM_POINTS = sizeof random_points / sizeof *random_points };

static void arm_at_random(struct hunt_self *self) {
    size_t kind = random_below(&self->random, 3);
    if (kind == 0)
        return;
    cm_fault_arm(random_points[random_below(&self->random, RANDOM_POINTS)],
                 1 + (unsigned)random_below(&self->random, ARM_ROUNDS),
                 kind == 1 ? CM_FAULT_KILL : CM_FAULT_STOP);
}

static void work_at_random(struct hunt_self *self) {
    struct cm_locker locker;
    begin(self, &locker);
    for (unsigned i = 0; !hunt_told_to_stop(self); i++) {
        if (i % ARM_ROUNDS == 0)
            arm_at_random(self);
        struct cm_lock_id id = lock(self, &locker, 1, LEASE_MS);
        write_both(self, id, random_below(&self->random, 2));
        unlock(self, &locker, 1, id, LEASE_MS);
    }
}

/* Those that stand go on after a while, the dead have successors. */
static void test_at_random(void **state) {
    (void)state;
    put_tokens();
    uint64_t random = hunt_now_us(), stopped_ms[CREW] = {0}, deaths = 0, stops = 0;
    uint64_t until_ms = cm_clock_ms() + (hunt_is_long ? 300000 : 3000);
    hunt_start(&hunt, CREW, read_all_the_time, NULL);
    /* On a machine that does much else, longer. */
    while (cm_clock_ms() < until_ms || (!(deaths && stops) && cm_clock_ms() < until_ms + GRANT_MS)) {
        for (unsigned i = 0; i < CREW; i++) {
            if (!hunt.workers[i].pid) {
                hunt_start(&hunt, i, work_at_random, NULL);
                stopped_ms[i] = 0;
            } else if (hunt_is(&hunt, i, WEXITED)) {
                bury(i);
                deaths++;
            } else if (!stopped_ms[i] && hunt_is(&hunt, i, WSTOPPED)) {
                siginfo_t info;
                waitid(P_PID, (id_t)hunt.workers[i].pid, &info, WSTOPPED | WNOHANG);
                stopped_ms[i] = cm_clock_ms() + random_below(&random, (size_t)4 * LEASE_MS);
                stops++;
            } else if (stopped_ms[i] && cm_clock_ms() >= stopped_ms[i]) {
                kill(hunt.workers[i].pid, SIGCONT);
                stopped_ms[i] = 0;
            }
        }
        turn();
    }
    finish();
    uint64_t grants = 0;
    for (unsigned i = 0; i < CREW; i++)
        grants += atomic_load(&shared->grants[i]);
    printf("locks: %lu grants, %lu deaths, %lu stops, %lu locks lost, %lu late writes refused; a free lock "
           "with a queue lasted %lu us at most\n",
           (unsigned long)grants, (unsigned long)deaths, (unsigned long)stops,
           (unsigned long)atomic_load(&shared->lost), (unsigned long)atomic_load(&shared->refused),
           (unsigned long)free_most_us);
    HUNT_CHECK(grants > 100 && deaths && stops, "nothing happened");
}

static int open_hunt(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(16) << 20, HUNT_WORKERS_MOST);
    shared = hunt_share(sizeof *shared);
    bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bell < 0 || cm_lockq_init(&queue, &hunt.participant))
        return -1;
    queue.answer = answer;
    memset(frees, 0, sizeof frees);
    memset(asked, 0, sizeof asked);
    free_most_us = 0;
    due_ms = UINT64_MAX;
    turned_us = hunt_now_us();
    return 0;
}

static int close_hunt(void **state) {
    (void)state;
    cm_lockq_deinit(&queue);
    close(bell);
    hunt_close(&hunt);
    return 0;
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_points, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_dead_waiters, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_fences, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_at_random, open_hunt, close_hunt),
    };
    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
