/* The master's queue, with participants in this process, a clock that the test turns, and the answers kept:
 * each rule by itself, for locks in the segment and for locks that the master keeps because their bucket is
 * full; then random operations against a model that is searched from end to end. */
#include <stdlib.h>

#include "data/lockname.h"
#include "data/lockq.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"
#include "spec/core/stores.h"

enum {
    SEATS = 12,
    CREW = 8,          /* 1 .. CREW - 1 are processes; the first of them is process 0 */
    BUSY = CREW - 1,   /* the one that stands in a section */
    FILLER = CREW - 2, /* the one that has all of a bucket */
    NAMES = 64,        /* of one bucket; the last ones are the filler's */
    FILLED = NAMES - CM_LOCKS_IN_BUCKET,
    KEY_BYTES = 16,
    BUCKET = 3,
    REQUESTS = 1 << 17,
    TEXT_BYTES = 1024,
    BUSY_GROUP = 5,
};

struct answered {
    unsigned count;
    uint32_t seat;
    int code;
    bool granted;
    struct cm_grant grant;
};

static struct cm_segment segment;
static struct cm_participant crew[CREW]; /* the first is the master */
static struct cm_locker lockers[CREW];
static struct cm_lockq queue;
static char names[NAMES][KEY_BYTES];
static struct answered answers[REQUESTS];
static uint64_t asked, answer_count;
static char text[TEXT_BYTES]; /* of the last answer that had one */
static bool crowded;          /* the bucket is full: the locks are in the master's memory */
static struct cm_lock_id filled[CM_LOCKS_IN_BUCKET];
static struct cm_section busy_section;
static bool busy;

/* Tries to get past those that wait, in the midst of a release's answer. */
static struct {
    int who; /* 0: nobody */
    size_t n;
    int result;
} intruder;

static struct cm_bytes name(size_t n) {
    return cm_bytes_of(names[n]);
}

static uint32_t seat(int who) {
    return crew[who].id;
}

static void answer(void *data, struct cm_lock_asker asker, int code, const struct cm_grant *grant,
                   const char *words) {
    (void)data;
    struct answered *answered = &answers[asker.request];
    answered->count++;
    answered->seat = asker.seat;
    answered->code = code;
    answered->granted = grant != NULL;
    if (grant)
        answered->grant = *grant;
    if (words)
        snprintf(text, sizeof text, "%s", words);
    answer_count++;
    if (intruder.who && !grant && !code) {
        struct cm_grant other;
        intruder.result = cm_lock_take(&lockers[intruder.who], name(intruder.n), 0, 0, false, &other);
        intruder.who = 0;
    }
}

/* Workers are known by other numbers than their seats. */
static uint32_t worker_of(void *data, uint32_t at) {
    (void)data;
    return (at - seat(1)) * 100;
}

static int start(void) {
    open_segment(&segment, UINT64_C(1) << 20, SEATS);
    stores_turn(100000);
    for (size_t n = 0, i = 0; n < NAMES; i++) {
        snprintf(names[n], KEY_BYTES, "lock %zu", i);
        n += cm_lock_bucket_number(&segment, cm_lock_name(&segment, name(n))) == BUCKET;
    }
    cm_participant_init(&crew[0], &segment, CM_MASTER_SEAT);
    for (int i = 1; i < CREW; i++) {
        join(&crew[i], &segment);
        cm_locker_init(&lockers[i], &crew[i]);
        lockers[i].clock_ms = stores_clock;
    }
    memset(answers, 0, (asked + 1) * sizeof *answers);
    asked = answer_count = 0;
    busy = false;
    intruder.who = 0;
    text[0] = 0;
    int err = cm_lockq_init(&queue, &crew[0]);
    queue.answer = answer;
    queue.worker_of = worker_of;
    queue.clock_ms = stores_clock;
    return err;
}

static void end(void) {
    cm_lockq_deinit(&queue);
    for (int i = 1; i < CREW; i++)
        part(&crew[i]);
    cm_segment_close(&segment);
}

static void fill_bucket(void) {
    for (size_t i = 0; i < CM_LOCKS_IN_BUCKET; i++) {
        struct cm_grant grant;
        assert_int_equal(cm_lock_take(&lockers[FILLER], name(FILLED + i), 0, 0, false, &grant), 0);
        filled[i] = grant.id;
    }
}

static void empty_bucket(void) {
    for (size_t i = 0; i < CM_LOCKS_IN_BUCKET; i++)
        assert_int_equal(cm_lock_release(&lockers[FILLER], name(FILLED + i), filled[i]), 0);
}

static int open_plain(void **state) {
    (void)state;
    crowded = false;
    return start();
}

static int open_crowded(void **state) {
    (void)state;
    if (start())
        return -1;
    crowded = true;
    fill_bucket();
    return 0;
}

static int close_all(void **state) {
    (void)state;
    end();
    return 0;
}

static int nothing_is_left(void **state) {
    (void)state;
    return alloc_failure_alive() != 0;
}

/* --- what the tests do */

struct wish {
    uint64_t task;
    uint64_t timeout_ms; /* 0: it waits for ever */
    uint64_t lease_ms;
    bool fair;
    bool now; /* or never */
};

static int ask_for(int who, struct cm_bytes key, struct wish wish, uint64_t *number) {
    *number = ++asked;
    assert_true(asked < REQUESTS);
    return cm_lockq_request(&queue,
                            &(struct cm_lock_request){.asker = {seat(who), asked},
                                                      .task = wish.task,
                                                      .key = key,
                                                      .timeout_ms = wish.now          ? 0
                                                                    : wish.timeout_ms ? wish.timeout_ms
                                                                                      : CM_LOCK_NO_TIMEOUT,
                                                      .lease_ms = wish.lease_ms,
                                                      .fair = wish.fair});
}

static uint64_t ask_wish(int who, size_t n, struct wish wish) {
    uint64_t number;
    assert_int_equal(ask_for(who, name(n), wish, &number), 0);
    return number;
}

static uint64_t ask(int who, size_t n) {
    return ask_wish(who, n, (struct wish){0});
}

static uint64_t ask_as(int who, uint64_t task, size_t n) {
    return ask_wish(who, n, (struct wish){.task = task});
}

static void assert_waits(uint64_t number) {
    assert_int_equal(answers[number].count, 0);
}

static void assert_code(uint64_t number, int code) {
    assert_int_equal(answers[number].count, 1);
    assert_int_equal(answers[number].code, code);
    assert_int_equal(answers[number].granted, false);
}

static struct cm_lock_id granted(uint64_t number, bool abandoned) {
    const struct answered *answered = &answers[number];
    assert_int_equal(answered->count, 1);
    assert_int_equal(answered->code, 0);
    assert_true(answered->granted);
    assert_int_equal(answered->grant.abandoned, abandoned);
    assert_true(answered->grant.id.token != 0);
    return answered->grant.id;
}

/* As a process does it: itself, and where it cannot, by way of the master. */
static int try_take(int who, size_t n, struct wish wish, struct cm_grant *grant) {
    uint64_t deadline_ms = wish.lease_ms ? stores_clock() + wish.lease_ms : 0;
    return cm_lock_take(&lockers[who], name(n), wish.task, deadline_ms, false, grant);
}

static struct cm_grant get(int who, size_t n, struct wish wish) {
    struct cm_grant grant;
    int err = try_take(who, n, wish, &grant);
    if (err == CM_LOCK_ASK) {
        const struct answered *answered = &answers[ask_wish(who, n, wish)];
        assert_int_equal(answered->count, 1);
        err = answered->code;
        grant = answered->grant;
    }
    assert_int_equal(err, 0);
    return grant;
}

static struct cm_lock_id taken(int who, size_t n) {
    struct cm_grant grant = get(who, n, (struct wish){0});
    assert_false(grant.abandoned);
    return grant.id;
}

static uint64_t release_by_master(int who, size_t n, struct cm_lock_id id) {
    uint64_t number = ++asked;
    struct cm_lock_asker asker = {seat(who), number};
    assert_int_equal(cm_lockq_release(&queue, asker, name(n), id), 0);
    return number;
}

static int release(int who, size_t n, struct cm_lock_id id) {
    int err = cm_lock_release(&lockers[who], name(n), id);
    if (err != CM_LOCK_ASK)
        return err;
    const struct answered *answered = &answers[release_by_master(who, n, id)];
    assert_int_equal(answered->count, 1);
    return answered->code;
}

static int renew(int who, size_t n, struct cm_lock_id id, uint64_t lease_ms) {
    uint64_t deadline_ms = lease_ms ? stores_clock() + lease_ms : 0;
    int err = cm_lock_renew(&lockers[who], name(n), id, deadline_ms);
    return err == CM_LOCK_ASK ? cm_lockq_renew(&queue, seat(who), name(n), id, lease_ms) : err;
}

static void give_back(int who, size_t n, struct cm_lock_id id) {
    assert_int_equal(release(who, n, id), 0);
    cm_lockq_look(&queue); /* the bell */
}

static void die(int who) {
    cm_lockq_drop_waits(&queue, seat(who));
    cm_lockq_drop_owner(&queue, seat(who));
}

static void turn(uint64_t by_ms) {
    stores_turn(stores_clock() + by_ms);
}

static void enter_section(void) {
    cm_section_enter(&crew[BUSY], BUSY_GROUP, &busy_section);
    busy = true;
}

static void leave_section(void) {
    cm_section_leave(&busy_section);
    busy = false;
}

static struct cm_lock_info info_of(size_t n) {
    struct cm_lock_info info = {0};
    int err = cm_lockq_info(&queue, name(n), &info);
    assert_true(err == 0 || err == CM_E_NOTFOUND);
    assert_int_equal(err == 0, info.seat != 0);
    return info;
}

static uint64_t state_of(struct cm_lock_id id) {
    const struct cm_lock *lock = cm_lock_at(&segment, id.slot);
    assert_non_null(lock);
    return atomic_load(&((struct cm_lock *)lock)->state);
}

/* Each has as much of the master's memory as the locks take that it has there. */
static void check_kept_bytes(void) {
    for (int who = 1; who < CREW; who++) {
        size_t bytes = 0;
        CM_LIST_EACH(link, &queue.kept) {
            const struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, kept_link);
            if (cm_lock_token(cm_word_load(&entry->own.state)) &&
                cm_word_load(&entry->own.owner) == seat(who))
                bytes += sizeof *entry;
            assert_true(entry->waiting || entry->key.cap == 0);
        }
        assert_int_equal(queue.seats[seat(who)].kept_bytes, bytes);
    }
}

/* Nobody has a lock or waits for one: there is nothing, but marks of the abandoned. */
static void assert_empty(bool marks) {
    if (crowded)
        empty_bucket();
    crowded = false;
    cm_lockq_look(&queue);
    assert_true(cm_list_empty(&queue.active));
    assert_int_equal(queue.tasks.count, 0);
    assert_int_equal(queue.timeouts.count, 0);
    if (!marks) {
        assert_int_equal(queue.names.count, 0);
        assert_true(cm_list_empty(&queue.kept));
    }
    check_kept_bytes();
    for (uint32_t i = 0; i < segment.layout.lock_buckets; i++) {
        struct cm_lock_bucket *bucket = cm_lock_bucket(&segment, i);
        assert_true(marks || atomic_load(&bucket->overflow) == 0);
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++) {
            uint64_t state = atomic_load(&bucket->locks[j].state);
            assert_true(state == 0 || (marks && state == CM_LOCK_ABANDONED));
        }
    }
    assert_true(cm_lockq_next_ms(&queue) == UINT64_MAX);
}

/* --- the queue */

static void waiters_are_granted_in_their_order(void **state) {
    (void)state;
    enum { WAITERS = 20 };
    uint64_t numbers[WAITERS];
    struct cm_lock_id id = taken(1, 0);
    for (int i = 0; i < WAITERS; i++)
        numbers[i] = ask(1 + i % 4, 0); /* its owner's, too */
    assert_int_equal(info_of(0).waiting, WAITERS);
    for (int i = 0; i < WAITERS; i++) {
        for (int j = i; j < WAITERS; j++)
            assert_waits(numbers[j]);
        uint64_t last = id.token;
        give_back(i ? 1 + (i - 1) % 4 : 1, 0, id);
        id = granted(numbers[i], false);
        assert_true(id.token > last);
        assert_int_equal(answers[numbers[i]].seat, seat(1 + i % 4));
        assert_int_equal(info_of(0).seat, seat(1 + i % 4));
        turn(1);
    }
    give_back(1 + (WAITERS - 1) % 4, 0, id);
    assert_empty(false);
}

static void a_free_lock_is_granted_at_once(void **state) {
    (void)state;
    for (int i = 0; i < 10; i++) {
        struct cm_lock_id id = granted(ask_wish(1, 0, (struct wish){.task = 9, .now = i % 2}), false);
        assert_int_equal(info_of(0).task, 9);
        assert_code(ask_wish(2, 0, (struct wish){.now = true}), CM_E_BUSY);
        assert_code(ask_wish(1, 0, (struct wish){.task = 9, .now = true}), CM_E_BUSY);
        give_back(1, 0, id);
        assert_int_equal(info_of(0).seat, 0);
    }
    assert_empty(false);
}

/* Of those that wait, and of nobody else. */
static void locks_have_queues_of_their_own(void **state) {
    (void)state;
    struct cm_lock_id ids[10];
    uint64_t numbers[10];
    for (size_t n = 0; n < 10; n++) {
        ids[n] = taken(1, n);
        numbers[n] = ask(2, n);
    }
    for (size_t n = 0; n < 10; n++)
        assert_waits(numbers[n]);
    for (size_t n = 10; n-- > 0;) {
        give_back(1, n, ids[n]);
        ids[n] = granted(numbers[n], false);
        for (size_t m = 0; m < n; m++)
            assert_waits(numbers[m]);
    }
    for (size_t n = 0; n < 10; n++)
        give_back(2, n, ids[n]);
    assert_empty(false);
}

static void a_newcomer_may_pass_a_waiter_for_a_millisecond(void **state) {
    (void)state;
    struct cm_grant grant = {.id = taken(1, 0)};
    uint64_t waiter = ask(2, 0);
    for (int i = 0; i <= CM_LOCK_PATIENCE_MS; i++) {
        assert_int_equal(cm_lock_release(&lockers[1], name(0), grant.id), 0);
        assert_int_equal(try_take(3, 0, (struct wish){0}, &grant), 0);
        cm_lockq_look(&queue);
        assert_int_equal(state_of(grant.id) & CM_LOCK_FLAGS, CM_LOCK_WAITED);
        assert_int_equal(cm_lock_release(&lockers[3], name(0), grant.id), 0);
        assert_int_equal(try_take(1, 0, (struct wish){0}, &grant), 0);
        turn(1);
    }
    assert_waits(waiter);
    assert_int_equal(cm_lock_release(&lockers[1], name(0), grant.id), 0);
    struct cm_grant other;
    assert_int_equal(try_take(3, 0, (struct wish){0}, &other), CM_E_BUSY);
    assert_int_equal(try_take(1, 0, (struct wish){0}, &other), CM_E_BUSY);
    cm_lockq_look(&queue);
    give_back(2, 0, granted(waiter, false));
    assert_empty(false);
}

/* Also when the lock is not released for long: the look marks it, and nobody else takes it then. */
static void a_look_hands_an_impatient_waiters_lock_over(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t first = ask(2, 0), second = ask(3, 0);
    turn(CM_LOCK_PATIENCE_MS + 1);
    cm_lockq_look(&queue);
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, CM_LOCK_WAITED | CM_LOCK_HANDED);
    give_back(1, 0, id);
    /* The second has waited as long, but has not been the first until now. */
    id = granted(first, false);
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, CM_LOCK_WAITED);
    turn(CM_LOCK_PATIENCE_MS + 1);
    cm_lockq_look(&queue);
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, CM_LOCK_WAITED | CM_LOCK_HANDED);
    give_back(2, 0, id);
    id = granted(second, false);
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, 0);
    give_back(3, 0, id);
    assert_empty(false);
}

/* The master's memory is not for one process to fill. */
static void who_waits_for_too_much_is_refused(void **state) {
    (void)state;
    enum { LEN = 60000, MOST = CM_LOCK_WAITS_MOST_BYTES / LEN };
    static uint8_t long_name[LEN];
    memset(long_name, 'n', sizeof long_name);
    struct cm_bytes key = {long_name, sizeof long_name};
    uint64_t owner, number, first = 0;
    assert_int_equal(ask_for(1, key, (struct wish){0}, &owner), 0);
    assert_int_equal(answers[owner].code, 0);
    int count = 0;
    while (ask_for(2, key, (struct wish){0}, &number) == 0) {
        first = first ? first : number;
        count++;
    }
    assert_in_range(count, MOST - 20, MOST);
    assert_waits(first);
    /* Another one may wait still, and this one again when it waits for less. */
    assert_int_equal(ask_for(3, key, (struct wish){0}, &number), 0);
    cm_lockq_drop_waits(&queue, seat(2));
    assert_int_equal(ask_for(2, key, (struct wish){0}, &number), 0);
    cm_lockq_drop_waits(&queue, seat(2));
    cm_lockq_drop_waits(&queue, seat(3));
    assert_int_equal(cm_lock_release(&lockers[1], key, answers[owner].grant.id), 0);
}

static void nobody_passes_while_a_fair_one_waits(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t first = ask(2, 0);
    uint64_t fair = ask_wish(3, 0, (struct wish){.fair = true, .timeout_ms = 50});
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, CM_LOCK_WAITED | CM_LOCK_HANDED);
    for (int i = 0; i < 2; i++) {
        struct cm_grant grant;
        assert_int_equal(cm_lock_release(&lockers[i ? 2 : 1], name(0), id), 0);
        assert_int_equal(try_take(4, 0, (struct wish){0}, &grant), CM_E_BUSY);
        cm_lockq_look(&queue);
        id = granted(i ? fair : first, false);
    }
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, 0);
    /* When it is gone the others are as patient as before. */
    fair = ask_wish(2, 0, (struct wish){.fair = true, .timeout_ms = 50});
    turn(50);
    uint64_t other = ask(1, 0);
    cm_lockq_look(&queue);
    assert_code(fair, CM_E_TIMEOUT);
    assert_int_equal(state_of(id) & CM_LOCK_FLAGS, CM_LOCK_WAITED);
    give_back(3, 0, id);
    give_back(1, 0, granted(other, false));
    assert_empty(false);
}

/* --- timeouts */

static void a_waiter_leaves_when_its_time_is_up(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t begun_ms = stores_clock();
    uint64_t numbers[4];
    static const uint64_t timeouts_ms[4] = {30, 0, 5, 17};
    for (int i = 0; i < 4; i++)
        numbers[i] = ask_wish(2 + i % 2, 0, (struct wish){.timeout_ms = timeouts_ms[i]});
    for (uint64_t ms = 0; ms <= 40; ms++) {
        stores_turn(begun_ms + ms);
        cm_lockq_look(&queue);
        uint32_t waiting = 0;
        for (int i = 0; i < 4; i++) {
            bool over = timeouts_ms[i] && ms >= timeouts_ms[i];
            waiting += !over;
            if (over)
                assert_code(numbers[i], CM_E_TIMEOUT);
            else
                assert_waits(numbers[i]);
        }
        assert_int_equal(info_of(0).waiting, waiting);
    }
    give_back(1, 0, id);
    give_back(3, 0, granted(numbers[1], false));
    assert_int_equal(answer_count - crowded, 4 + crowded * 2);
    assert_empty(false);
}

static void the_last_waiters_leaving_leaves_nothing(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t number = ask_wish(2, 0, (struct wish){.timeout_ms = 3});
    turn(3);
    cm_lockq_look(&queue);
    assert_code(number, CM_E_TIMEOUT);
    if (!crowded)
        assert_int_equal(state_of(id), id.token << 4);
    assert_true(cm_lockq_next_ms(&queue) == UINT64_MAX);
    give_back(1, 0, id);
    assert_empty(false);
}

/* The lock is free, the master has not looked yet, and then the time is up. */
static void a_lock_that_is_free_in_time_is_granted(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t first = ask_wish(2, 0, (struct wish){.timeout_ms = 10});
    uint64_t second = ask_wish(3, 0, (struct wish){.timeout_ms = 10});
    turn(10);
    assert_int_equal(release(1, 0, id), 0);
    cm_lockq_look(&queue);
    id = granted(first, false);
    assert_code(second, CM_E_TIMEOUT);
    give_back(2, 0, id);
    assert_empty(false);
}

static void it_is_known_when_to_look_again(void **state) {
    (void)state;
    assert_true(cm_lockq_next_ms(&queue) == UINT64_MAX);
    struct cm_lock_id id = taken(1, 0);
    assert_true(cm_lockq_next_ms(&queue) == UINT64_MAX);
    uint64_t one = ask_wish(2, 0, (struct wish){.timeout_ms = 14}), other = ask(3, 0);
    /* A bell may be lost. */
    assert_int_equal(cm_lockq_next_ms(&queue), 10);
    turn(6);
    assert_int_equal(cm_lockq_next_ms(&queue), 8);
    turn(7);
    assert_int_equal(cm_lockq_next_ms(&queue), 1);
    turn(20);
    assert_int_equal(cm_lockq_next_ms(&queue), 0);
    cm_lockq_look(&queue);
    assert_code(one, CM_E_TIMEOUT);
    assert_int_equal(cm_lockq_next_ms(&queue), 10);
    give_back(1, 0, id);
    assert_true(cm_lockq_next_ms(&queue) == UINT64_MAX);
    enter_section();
    release_by_master(1, 0, granted(other, false));
    assert_int_equal(cm_lockq_next_ms(&queue), 10); /* its revocation is not over */
    leave_section();
    cm_lockq_look(&queue);
    assert_empty(false);
}

/* --- between two steps of the master, which asks for the time there */

static struct {
    struct cm_lock_id id;
    int left; /* so many times to be asked for the time, and then its owner does something */
    uint64_t lease_ms;
    int result;
} meanwhile;

static uint64_t clock_of_owner(void) {
    if (meanwhile.left && --meanwhile.left == 0)
        meanwhile.result = meanwhile.lease_ms ? renew(1, 0, meanwhile.id, meanwhile.lease_ms)
                                              : cm_lock_release(&lockers[1], name(0), meanwhile.id);
    return stores_clock();
}

static void a_release_in_the_midst_of_a_look_is_seen(void **state) {
    (void)state;
    for (int lease = 0; lease < 2; lease++) {
        for (int when = 1; when <= 4; when++) {
            struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = lease ? 5 : 0});
            uint64_t waiter = ask(2, 0), second = ask(3, 0);
            turn(5);
            meanwhile.id = grant.id;
            meanwhile.left = when;
            meanwhile.lease_ms = 0;
            meanwhile.result = CM_E_BUSY;
            queue.clock_ms = clock_of_owner;
            cm_lockq_look(&queue);
            queue.clock_ms = stores_clock;
            if (meanwhile.left) {
                meanwhile.left = 1; /* not asked as often as that */
                clock_of_owner();
            }
            cm_lockq_look(&queue);
            /* It comes before the lease is ended, or too late. */
            assert_true(meanwhile.result == 0 || (lease && meanwhile.result == CM_E_NOTOWNER));
            if (!answers[waiter].count)
                fail_msg("the waiter is forgotten after a release at %d", when);
            struct cm_lock_id id = granted(waiter, meanwhile.result != 0);
            assert_waits(second);
            give_back(2, 0, id);
            give_back(3, 0, granted(second, false));
        }
    }
    assert_empty(false);
}

static void a_lease_renewed_at_the_last_moment_stands(void **state) {
    (void)state;
    struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = 5});
    turn(5);
    meanwhile.id = grant.id;
    meanwhile.left = 1;
    meanwhile.lease_ms = 50;
    queue.clock_ms = clock_of_owner;
    uint64_t waiter = ask(2, 0);
    queue.clock_ms = stores_clock;
    assert_int_equal(meanwhile.left, 0);
    assert_int_equal(meanwhile.result, 0);
    assert_waits(waiter);
    assert_true(cm_lock_holds(&segment, grant.id));
    give_back(1, 0, grant.id);
    give_back(2, 0, granted(waiter, false));
    assert_empty(false);
}

/* --- leases */

static void a_lease_that_is_over_is_taken_for_who_waits(void **state) {
    (void)state;
    struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = 20});
    uint64_t first = ask_wish(2, 0, (struct wish){.lease_ms = 30}), second = ask(3, 0);
    turn(19);
    cm_lockq_look(&queue);
    assert_waits(first);
    assert_int_equal(info_of(0).lease_ms, 1);
    turn(1);
    cm_lockq_look(&queue);
    struct cm_lock_id id = granted(first, true);
    assert_true(id.token > grant.id.token);
    assert_int_equal(release(1, 0, grant.id), CM_E_NOTOWNER);
    assert_int_equal(renew(1, 0, grant.id, 100), CM_E_NOTOWNER);
    assert_false(cm_lock_holds(&segment, grant.id));
    /* The next one's counts from its granting on. */
    assert_int_equal(info_of(0).lease_ms, 30);
    turn(29);
    cm_lockq_look(&queue);
    assert_waits(second);
    turn(1);
    cm_lockq_look(&queue);
    id = granted(second, true);
    assert_int_equal(info_of(0).lease_ms, 0);
    turn(100000);
    cm_lockq_look(&queue);
    cm_lockq_end_leases(&queue);
    give_back(3, 0, id);
    assert_empty(false);
}

static void a_lease_that_nobody_waits_for_ends_too(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = 20});
        assert_int_equal(grant.abandoned, i != 0);
        turn(19);
        cm_lockq_end_leases(&queue);
        assert_int_equal(info_of(0).seat, seat(1));
        turn(1);
        cm_lockq_end_leases(&queue);
        assert_int_equal(info_of(0).seat, 0);
        assert_int_equal(release(1, 0, grant.id), CM_E_NOTOWNER);
    }
    struct cm_grant grant = get(2, 0, (struct wish){0});
    assert_true(grant.abandoned);
    give_back(2, 0, grant.id);
    give_back(2, 0, taken(2, 0));
    assert_empty(false);
}

/* Nobody has looked since: the request itself ends it. */
static void a_request_ends_a_lease_that_is_over(void **state) {
    (void)state;
    for (int now = 0; now < 2; now++) {
        struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = 20});
        turn(20);
        struct cm_lock_id id = granted(ask_wish(2, 0, (struct wish){.now = now}), true);
        assert_int_equal(release(1, 0, grant.id), CM_E_NOTOWNER);
        give_back(2, 0, id);
    }
    assert_empty(false);
}

static void a_lease_can_be_renewed_until_it_is_ended(void **state) {
    (void)state;
    struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = 20});
    uint64_t waiter = ask(2, 0);
    for (int i = 0; i < 5; i++) {
        turn(15);
        assert_int_equal(renew(1, 0, grant.id, 20), 0);
        cm_lockq_look(&queue);
        cm_lockq_end_leases(&queue);
        assert_waits(waiter);
        assert_int_equal(info_of(0).lease_ms, 20);
    }
    turn(25); /* over, but nobody has seen it */
    assert_int_equal(renew(1, 0, grant.id, 20), 0);
    cm_lockq_look(&queue);
    assert_waits(waiter);
    assert_int_equal(renew(1, 0, grant.id, 0), 0);
    turn(100000);
    cm_lockq_end_leases(&queue);
    cm_lockq_look(&queue);
    assert_waits(waiter);
    assert_int_equal(renew(1, 0, grant.id, 20), 0);
    turn(20);
    cm_lockq_look(&queue);
    assert_int_equal(renew(1, 0, grant.id, 20), CM_E_NOTOWNER);
    give_back(2, 0, granted(waiter, true));
    assert_empty(false);
}

/* Whatever the order in which they end, and whether they were noted when they were taken or renewed. */
static void every_lease_is_ended_in_time(void **state) {
    (void)state;
    enum { LEASES = 20 };
    uint64_t random = 1, deadlines_ms[LEASES];
    for (int round = 0; round < 20; round++) {
        for (size_t n = 0; n < LEASES; n++) {
            uint64_t lease_ms = 1 + random_below(&random, 1000);
            struct cm_grant grant =
                get(1, n, (struct wish){.lease_ms = random_below(&random, 2) ? lease_ms : 0});
            lease_ms = 1 + random_below(&random, 1000);
            assert_int_equal(renew(1, n, grant.id, lease_ms), 0);
            deadlines_ms[n] = stores_clock() + lease_ms;
        }
        for (int i = 0; i < 12; i++) {
            turn(100);
            cm_lockq_end_leases(&queue);
            for (size_t n = 0; n < LEASES; n++) {
                bool held = cm_lockq_info(&queue, name(n), &(struct cm_lock_info){0}) == 0;
                assert_int_equal(held, deadlines_ms[n] > stores_clock());
                struct cm_grant grant;
                if (!held && try_take(2, n, (struct wish){0}, &grant) == 0) {
                    assert_int_equal(grant.abandoned, deadlines_ms[n] + 100 > stores_clock());
                    give_back(2, n, grant.id);
                }
            }
        }
    }
    assert_empty(true);
}

/* --- releases by others, and what they wait for */

static void who_has_the_id_may_release(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t waiter = ask(3, 0);
    struct cm_lock_id none = {0, id.slot}, other = {id.token + 1, id.slot};
    assert_code(release_by_master(2, 0, none), CM_E_NOTOWNER);
    assert_code(release_by_master(2, 0, other), CM_E_NOTOWNER);
    assert_code(release_by_master(2, 1, id), CM_E_NOTOWNER);
    assert_waits(waiter);
    assert_int_equal(release(2, 0, id), 0);
    struct cm_lock_id next = granted(waiter, false); /* it was given back, not abandoned */
    assert_int_equal(release(1, 0, id), CM_E_NOTOWNER);
    assert_int_equal(release(2, 0, id), CM_E_NOTOWNER);
    assert_int_equal(renew(2, 0, next, 5), CM_E_NOTOWNER); /* that only its owner may */
    assert_int_equal(renew(3, 0, none, 5), CM_E_NOTOWNER);
    assert_int_equal(renew(3, 0, next, 5), 0);
    assert_int_equal(info_of(0).lease_ms, 5);
    assert_int_equal(cm_lockq_renew(&queue, seat(3), name(0), next, 0), 0);
    assert_int_equal(cm_lockq_renew(&queue, seat(2), name(0), next, 7), CM_E_NOTOWNER);
    assert_int_equal(cm_lockq_renew(&queue, seat(3), name(0), none, 7), CM_E_NOTOWNER);
    assert_int_equal(info_of(0).lease_ms, 0);
    give_back(3, 0, next);
    assert_empty(false);
}

/* Whoever is in a section then may publish under the lock's fence still. */
static void a_revocation_waits_for_every_section(void **state) {
    (void)state;
    for (int by_lease = 0; by_lease < 2; by_lease++) {
        for (int waits = 0; waits < 2; waits++) {
            struct cm_grant grant = get(1, 0, (struct wish){.lease_ms = by_lease ? 10 : 0}), other;
            uint64_t waiter = waits ? ask(3, 0) : 0, releaser = 0;
            enter_section();
            if (by_lease) {
                turn(10);
                cm_lockq_end_leases(&queue);
            } else {
                releaser = release_by_master(2, 0, grant.id);
            }
            assert_false(cm_lock_holds(&segment, grant.id));
            for (int i = 0; i < 5; i++) {
                turn(10);
                cm_lockq_look(&queue);
                cm_lockq_end_leases(&queue);
                assert_waits(releaser);
                assert_waits(waiter);
                assert_int_not_equal(try_take(4, 0, (struct wish){0}, &other), 0);
                assert_code(ask_wish(4, 0, (struct wish){.now = true}), CM_E_BUSY);
                assert_int_equal(release(1, 0, grant.id), CM_E_NOTOWNER);
                assert_int_equal(renew(1, 0, grant.id, 10), CM_E_NOTOWNER);
                assert_code(release_by_master(2, 0, grant.id), CM_E_NOTOWNER);
                assert_int_equal(info_of(0).seat, 0);
            }
            uint64_t late = ask(4, 0);
            assert_waits(late);
            leave_section();
            enter_section(); /* another one, which knows already */
            cm_lockq_look(&queue);
            if (releaser)
                assert_code(releaser, 0);
            struct cm_lock_id id = granted(waits ? waiter : late, by_lease);
            leave_section();
            give_back(waits ? 3 : 4, 0, id);
            if (waits)
                give_back(4, 0, granted(late, false));
        }
    }
    assert_empty(false);
}

/* A request in time is the last to end a revocation: it finds the lock free. */
static void a_request_ends_a_revocation_that_is_over(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    enter_section();
    uint64_t releaser = release_by_master(2, 0, id);
    leave_section();
    assert_waits(releaser);
    id = granted(ask_wish(3, 0, (struct wish){.now = true}), false);
    assert_code(releaser, 0);
    give_back(3, 0, id);
    assert_empty(false);
}

static void a_waiter_may_leave_during_a_revocation(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t waiter = ask_wish(3, 0, (struct wish){.timeout_ms = 5});
    enter_section();
    uint64_t releaser = release_by_master(2, 0, id);
    turn(5);
    cm_lockq_look(&queue);
    assert_code(waiter, CM_E_TIMEOUT);
    assert_waits(releaser);
    leave_section();
    cm_lockq_look(&queue);
    assert_code(releaser, 0);
    assert_empty(false);
}

/* The moment between a revocation's end and the queue's turn. */
static void nobody_passes_a_fair_one_at_a_revocations_end(void **state) {
    (void)state;
    for (int early = 0; early < 2; early++) {
        struct cm_lock_id id = taken(1, 0);
        uint64_t waiter = early ? ask_wish(3, 0, (struct wish){.fair = true}) : 0;
        enter_section();
        uint64_t releaser = release_by_master(2, 0, id);
        waiter = early ? waiter : ask_wish(3, 0, (struct wish){.fair = true});
        leave_section();
        intruder.who = 4;
        intruder.n = 0;
        cm_lockq_look(&queue);
        assert_code(releaser, 0);
        assert_int_equal(intruder.who, 0);
        assert_int_not_equal(intruder.result, 0);
        give_back(3, 0, granted(waiter, false));
    }
    assert_empty(false);
}

/* --- fences by way of the master */

static void a_fence_keeps_its_lock_from_passing_on(void **state) {
    (void)state;
    struct cm_grant other;
    for (int waits = 0; waits < 2; waits++) {
        struct cm_lock_id id = taken(1, 0);
        uint64_t waiter = waits ? ask(2, 0) : 0;
        assert_true(cm_lockq_fence_begin(&queue, id));
        if (!crowded) {
            /* Its owner does not know, and gives it back. */
            assert_int_equal(release(1, 0, id), 0);
            assert_int_equal(try_take(3, 0, (struct wish){0}, &other), CM_E_BUSY);
            assert_int_equal(try_take(1, 0, (struct wish){0}, &other), CM_E_BUSY);
            cm_lockq_fence_end(&queue, id);
        } else {
            cm_lockq_fence_end(&queue, id);
            assert_int_equal(release(1, 0, id), 0);
        }
        assert_false(cm_lockq_fence_begin(&queue, id));
        cm_lockq_fence_end(&queue, id);
        if (waits)
            give_back(2, 0, granted(waiter, false));
        give_back(3, 0, taken(3, 0));
    }
    assert_empty(false);
}

static void a_fence_that_was_not_needed_leaves_no_trace(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    struct cm_lock_id none = {0, id.slot}, old = {id.token - 1, id.slot}, later = {id.token + 1, id.slot},
                      nowhere = {id.token, UINT32_C(0xfff8)};
    struct cm_lock_id wrong[] = {none, old, later, nowhere};
    /* In the master's memory a lock is found by its token alone. */
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong - crowded; i++) {
        assert_false(cm_lockq_fence_begin(&queue, wrong[i]));
        cm_lockq_fence_end(&queue, wrong[i]);
    }
    assert_true(cm_lockq_fence_begin(&queue, id));
    cm_lockq_fence_end(&queue, id);
    if (!crowded)
        assert_int_equal(state_of(id), id.token << 4);
    give_back(1, 0, id);
    assert_empty(false);
}

/* --- deadlocks */

static void assert_text(const char *expected) {
    assert_string_equal(text, expected);
}

static void a_task_does_not_wait_for_itself(void **state) {
    (void)state;
    struct cm_grant grant = get(2, 0, (struct wish){.task = 7});
    assert_code(ask_as(2, 7, 0), CM_E_DEADLOCK);
    char expected[TEXT_BYTES];
    snprintf(expected, sizeof expected,
             "task 7 of worker 100 would wait for '%s', held by task 7 of worker 100", names[0]);
    assert_text(expected);
    assert_code(ask_wish(2, 0, (struct wish){.task = 7, .timeout_ms = 5, .lease_ms = 5}), CM_E_DEADLOCK);
    assert_code(ask_wish(2, 0, (struct wish){.task = 7, .now = true}), CM_E_BUSY);
    assert_int_equal(info_of(0).waiting, 0);
    /* Another task of it, that task's number in another process, and no task at all. */
    uint64_t numbers[] = {ask_as(2, 8, 0), ask_as(3, 7, 0), ask_as(2, 0, 0)};
    give_back(2, 0, grant.id);
    give_back(2, 0, granted(numbers[0], false));
    give_back(3, 0, granted(numbers[1], false));
    /* Who has it as no task waits for nobody. */
    uint64_t again = ask_as(2, 0, 0);
    assert_waits(again);
    give_back(2, 0, granted(numbers[2], false));
    give_back(2, 0, granted(again, false));
    assert_empty(false);
}

static void two_tasks_do_not_wait_for_each_other(void **state) {
    (void)state;
    for (int first = 0; first < 2; first++) {
        struct cm_grant one = get(1, 0, (struct wish){.task = 5}),
                        other = get(3, 1, (struct wish){.task = 5});
        uint64_t waiter = first ? ask_as(1, 5, 1) : ask_as(3, 5, 0);
        assert_waits(waiter);
        assert_code(first ? ask_as(3, 5, 0) : ask_as(1, 5, 1), CM_E_DEADLOCK);
        char expected[TEXT_BYTES];
        snprintf(expected, sizeof expected,
                 first ? "task 5 of worker 200 would wait for '%.15s', held by task 5 of process 0, which "
                         "waits for '%.15s', held by task 5 of worker 200"
                       : "task 5 of process 0 would wait for '%.15s', held by task 5 of worker 200, which "
                         "waits for '%.15s', held by task 5 of process 0",
                 names[first ? 0 : 1], names[first ? 1 : 0]);
        assert_text(expected);
        /* The one that waits goes on waiting, and the refused one gives back what it has. */
        assert_waits(waiter);
        if (first)
            give_back(3, 1, other.id);
        else
            give_back(1, 0, one.id);
        struct cm_lock_id id = granted(waiter, false);
        give_back(first ? 1 : 3, first ? 1 : 0, id);
        give_back(first ? 1 : 3, first ? 0 : 1, first ? one.id : other.id);
    }
    assert_empty(false);
}

/* Each has one lock and waits for the next one's; whichever of them comes last. */
static void a_cycle_of_many_tasks_is_refused(void **state) {
    (void)state;
    static const size_t sizes[] = {3, 4, 30};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i], last = size / 2;
        struct cm_lock_id ids[30];
        uint64_t waiters[30] = {0};
        for (size_t n = 0; n < size; n++)
            ids[n] = get(1 + (int)(n % 4), n, (struct wish){.task = n + 1}).id;
        for (size_t n = 0; n < size; n++) {
            if (n != last)
                waiters[n] = ask_as(1 + (int)(n % 4), n + 1, (n + 1) % size);
        }
        for (size_t n = 0; n < size; n++)
            assert_waits(waiters[n]);
        /* Only who closes the cycle is refused: with no task, or another one, it is none. */
        int who = 1 + (int)(last % 4);
        uint64_t others[] = {ask_as(who, 0, (last + 1) % size), ask_as(who, 99, (last + 1) % size)};
        assert_waits(others[0]);
        assert_waits(others[1]);
        assert_code(ask_as(who, last + 1, (last + 1) % size), CM_E_DEADLOCK);
        assert_true(strlen(text) < TEXT_BYTES);
        if (size < 5) {
            for (size_t n = 0; n < size; n++)
                assert_non_null(strstr(text, names[n]));
        }
        for (int dead = 1; dead <= 4; dead++)
            die(dead);
        for (size_t n = 0; n < size; n++) {
            struct cm_grant grant = get(5, n, (struct wish){0});
            assert_true(grant.id.token > ids[n].token);
            give_back(5, n, grant.id);
        }
    }
    assert_empty(false);
}

/* A chain that ends is none, nor is one that has been cut. */
static void what_is_no_cycle_waits(void **state) {
    (void)state;
    struct cm_grant a = get(1, 0, (struct wish){.task = 1}), b = get(2, 1, (struct wish){.task = 1}),
                    c = get(3, 2, (struct wish){.task = 1}), d = get(4, 3, (struct wish){0});
    uint64_t one = ask_wish(1, 1, (struct wish){.task = 1, .timeout_ms = 20}), two = ask_as(2, 1, 2),
             three = ask_as(3, 1, 3), four = ask_as(4, 0, 0);
    for (uint64_t number = one; number <= four; number++)
        assert_waits(number);
    turn(20);
    cm_lockq_look(&queue);
    assert_code(one, CM_E_TIMEOUT);
    /* Task 1 of the first does not wait any more: what closed a cycle does not now. */
    give_back(4, 3, d.id);
    d.id = granted(three, false);
    uint64_t five = ask_as(3, 1, 0);
    assert_waits(five);
    assert_code(ask_as(1, 1, 3), CM_E_DEADLOCK);
    give_back(1, 0, a.id);
    a.id = granted(four, false);
    give_back(4, 0, a.id);
    a.id = granted(five, false);
    give_back(3, 0, a.id);
    give_back(3, 3, d.id);
    give_back(3, 2, c.id);
    c.id = granted(two, false);
    give_back(2, 2, c.id);
    give_back(2, 1, b.id);
    assert_empty(false);
}

static void the_text_shows_any_key(void **state) {
    (void)state;
    static uint8_t bytes[] = {'a', 0, 0x1f, '\'', 0x7f, 0x80, 0xff, ' ', '~', '%', 's'};
    static uint8_t is_long[60000];
    memset(is_long, 'k', sizeof is_long);
    struct cm_bytes keys[] = {{bytes, sizeof bytes}, {is_long, sizeof is_long}, {is_long, 40}, {is_long, 41}};
    static const char *const shown[] = {
        "'a\\x00\\x1f'\\x7f\\x80\\xff ~%s'", "'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...'",
        "'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk'", "'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...'"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint64_t one, other;
        assert_int_equal(ask_for(1, keys[i], (struct wish){.task = 3}, &one), 0);
        struct cm_lock_id id = granted(one, false);
        assert_int_equal(ask_for(1, keys[i], (struct wish){.task = 3}, &other), 0);
        assert_code(other, CM_E_DEADLOCK);
        char expected[TEXT_BYTES];
        snprintf(expected, sizeof expected,
                 "task 3 of process 0 would wait for %s, held by task 3 of process 0", shown[i]);
        assert_text(expected);
        uint64_t number = ++asked;
        assert_int_equal(cm_lockq_release(&queue, (struct cm_lock_asker){seat(1), number}, keys[i], id), 0);
        assert_code(number, 0);
    }
    assert_empty(false);
}

/* --- the dead */

static void the_dead_are_granted_nothing(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t dead[] = {ask(2, 0), ask(2, 0)}, alive = ask(3, 0), also_dead = ask(2, 0);
    cm_lockq_drop_waits(&queue, seat(2));
    assert_int_equal(info_of(0).waiting, 1);
    give_back(1, 0, id);
    give_back(3, 0, granted(alive, false));
    cm_lockq_drop_owner(&queue, seat(2));
    assert_waits(dead[0]);
    assert_waits(dead[1]);
    assert_waits(also_dead);
    assert_empty(false);
}

static void a_dead_owners_locks_go_to_who_waits(void **state) {
    (void)state;
    struct cm_lock_id ids[5];
    for (size_t n = 0; n < 5; n++)
        ids[n] = get(2, n, (struct wish){.lease_ms = n % 2 ? 1000 : 0, .task = n}).id;
    uint64_t own = ask_as(2, 99, 0), first = ask(1, 0), second = ask(3, 0), other = ask(1, 3);
    struct cm_lock_id elsewhere = taken(1, 7);
    uint64_t waits = ask(2, 7);
    die(2);
    assert_waits(own);
    assert_waits(waits);
    give_back(1, 0, granted(first, true));
    give_back(3, 0, granted(second, false)); /* told once */
    give_back(1, 3, granted(other, true));
    for (size_t n = 0; n < 5; n++) {
        assert_int_equal(release(2, n, ids[n]), CM_E_NOTOWNER); /* the seat's next process */
        struct cm_grant grant = get(3, n, (struct wish){0});
        assert_int_equal(grant.abandoned, n != 0 && n != 3);
        give_back(3, n, grant.id);
    }
    give_back(1, 7, elsewhere);
    assert_empty(false);
}

/* Two die at once: what the one had must not be given to the other. */
static void what_a_dead_one_had_is_not_given_to_another_dead_one(void **state) {
    (void)state;
    taken(2, 0);
    uint64_t dead = ask(3, 0), alive = ask(4, 0);
    cm_lockq_drop_waits(&queue, seat(2));
    cm_lockq_drop_waits(&queue, seat(3));
    cm_lockq_drop_owner(&queue, seat(2));
    cm_lockq_drop_owner(&queue, seat(3));
    assert_waits(dead);
    give_back(4, 0, granted(alive, true));
    assert_empty(false);
}

/* Dead between the release and the bell: nobody has been told. */
static void a_lock_freed_by_one_that_died_then_goes_on(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t waiter = ask(2, 0);
    assert_int_equal(release(1, 0, id), 0); /* without a bell */
    die(1);
    give_back(2, 0, granted(waiter, false));
    assert_empty(false);
}

static void a_dead_releaser_is_not_answered(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    uint64_t waiter = ask(3, 0);
    enter_section();
    uint64_t releaser = release_by_master(2, 0, id);
    die(2);
    die(1); /* and its owner of then */
    cm_lockq_look(&queue);
    assert_waits(waiter);
    leave_section();
    cm_lockq_look(&queue);
    assert_waits(releaser);
    give_back(3, 0, granted(waiter, false));
    assert_empty(false);
}

static void a_queue_that_is_thrown_away_leaves_nothing(void **state) {
    (void)state;
    struct cm_lock_id id = taken(1, 0);
    taken(1, 1);
    for (int i = 0; i < 20; i++)
        ask_wish(2 + i % 3, 0, (struct wish){.timeout_ms = i % 2 ? 10 : 0, .task = (uint64_t)i});
    enter_section();
    release_by_master(2, 0, id); /* its barrier stands */
    leave_section();
}

/* --- marks of the abandoned */

enum { ABANDONED = 300 };

static struct cm_bytes numbered(char key[KEY_BYTES], unsigned i) {
    snprintf(key, KEY_BYTES, "mark %u", i);
    return cm_bytes_of(key);
}

static int get_numbered(int who, unsigned i, uint64_t lease_ms, struct cm_grant *grant) {
    char key[KEY_BYTES];
    uint64_t number, deadline_ms = lease_ms ? stores_clock() + lease_ms : 0;
    int err = cm_lock_take(&lockers[who], numbered(key, i), 0, deadline_ms, false, grant);
    if (err != CM_LOCK_ASK)
        return err;
    struct wish wish = {.lease_ms = lease_ms};
    assert_int_equal(ask_for(who, numbered(key, i), wish, &number), 0);
    *grant = answers[number].grant;
    return answers[number].code;
}

static unsigned count_marks(void) {
    unsigned marks = 0;
    for (uint32_t i = 0; i < segment.layout.lock_buckets; i++) {
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++)
            marks += atomic_load(&cm_lock_bucket(&segment, i)->locks[j].state) == CM_LOCK_ABANDONED;
    }
    CM_LIST_EACH(link, &queue.kept) {
        uint64_t state = atomic_load(&CM_LIST_ITEM(link, struct cm_lock_entry, kept_link)->own.state);
        assert_true(state != 0); /* or it would not be kept */
        marks += state == CM_LOCK_ABANDONED;
    }
    return marks;
}

/* However the locks came to be abandoned, there are never many marks, and the oldest go first. */
static void check_marks(bool by_lease) {
    unsigned most = 2 * queue.marks_most + 1;
    struct cm_grant grant;
    for (unsigned i = 0; i < ABANDONED; i++) {
        assert_int_equal(get_numbered(2, i, by_lease ? 5 : 0, &grant), 0);
        turn(5);
        if (by_lease)
            cm_lockq_end_leases(&queue);
        else
            die(2);
        if (count_marks() > most || queue.marks_count > most)
            fail_msg("%u marks, %u noted, after %u", count_marks(), queue.marks_count, i + 1);
    }
    /* Those that are left are the last ones, and each is told once. */
    bool told = false;
    unsigned left = count_marks(), seen = 0;
    assert_true(left >= queue.marks_most);
    for (unsigned i = 0; i < ABANDONED; i++) {
        assert_int_equal(get_numbered(3, i, 0, &grant), 0);
        assert_true(grant.abandoned || !told);
        told = grant.abandoned;
        seen += told;
        char key[KEY_BYTES];
        int err = cm_lock_release(&lockers[3], numbered(key, i), grant.id);
        if (err == CM_LOCK_ASK)
            err = cm_lockq_release(&queue, (struct cm_lock_asker){seat(3), ++asked}, numbered(key, i),
                                   grant.id);
        assert_int_equal(err, 0);
    }
    assert_int_equal(seen, left);
    assert_int_equal(count_marks(), 0);
    assert_empty(false);
}

static void marks_of_the_dead_are_bounded(void **state) {
    (void)state;
    check_marks(false);
}

static void marks_of_leases_are_bounded(void **state) {
    (void)state;
    check_marks(true);
}

/* One that has been told is no mark any more, and does not push out another. */
static void marks_that_are_told_make_room(void **state) {
    (void)state;
    struct cm_grant grant;
    assert_int_equal(get_numbered(2, 0, 0, &grant), 0);
    die(2);
    for (unsigned i = 0; i < 20 * queue.marks_most; i++) {
        assert_int_equal(get_numbered(2, 1 + i % 3, 0, &grant), 0);
        assert_int_equal(grant.abandoned, i > 2);
        die(2);
        cm_lockq_look(&queue);
    }
    assert_int_equal(get_numbered(3, 0, 0, &grant), 0);
    assert_true(grant.abandoned);
    assert_int_equal(count_marks(), 3);
    die(3);
    assert_int_equal(count_marks(), 4);
}

/* --- full buckets, and no trace */

static void a_full_buckets_locks_are_the_masters(void **state) {
    (void)state;
    struct cm_lock_bucket *bucket = cm_lock_bucket(&segment, BUCKET);
    struct cm_lock_id ids[10];
    struct cm_grant other;
    for (size_t n = 0; n < 10; n++) {
        ids[n] = granted(ask(1, n), false);
        assert_null(cm_lock_at(&segment, ids[n].slot));
        assert_int_equal(atomic_load(&bucket->overflow), n + 1);
        assert_int_equal(try_take(2, n, (struct wish){0}, &other), CM_LOCK_ASK);
        assert_int_equal(cm_lock_check_fence(&crew[1], ids[n]), CM_LOCK_ASK);
    }
    /* A place becomes free: only the master may give it to another name. */
    assert_int_equal(cm_lock_release(&lockers[FILLER], name(FILLED), filled[0]), 0);
    assert_int_equal(try_take(2, FILLED, (struct wish){0}, &other), CM_LOCK_ASK);
    struct cm_lock_id in_table = granted(ask(2, FILLED), false);
    assert_int_equal(in_table.slot, filled[0].slot);
    filled[0] = in_table;
    assert_code(ask_wish(2, 3, (struct wish){.now = true}), CM_E_BUSY); /* it stays where it is */
    for (size_t n = 0; n < 10; n++) {
        give_back(1, n, ids[n]);
        assert_int_equal(atomic_load(&bucket->overflow), 9 - n);
        assert_int_equal(release(1, n, ids[n]), CM_E_NOTOWNER);
    }
    assert_int_equal(try_take(2, 0, (struct wish){0}, &other), CM_LOCK_ASK);
    assert_int_equal(cm_lock_release(&lockers[2], name(FILLED), in_table), 0);
    assert_int_equal(try_take(2, 0, (struct wish){0}, &other), 0);
    give_back(2, 0, other.id);
    assert_int_equal(try_take(FILLER, FILLED, (struct wish){0}, &other), 0);
    filled[0] = other.id;
    assert_empty(false);
}

/* The master's memory is not for one process to fill with locks either. */
static void who_keeps_too_many_is_refused(void **state) {
    (void)state;
    enum { MOST = 5 };
    queue.kept_most_bytes = MOST * sizeof(struct cm_lock_entry) + 1;
    struct cm_lock_id ids[MOST], id;
    uint64_t number, waits;
    for (size_t n = 0; n < MOST; n++)
        ids[n] = granted(ask(1, n), false);
    check_kept_bytes();
    size_t names_before = queue.names.count;
    assert_int_equal(ask_for(1, name(MOST), (struct wish){0}, &number), CM_E_NOMEMORY);
    assert_int_equal(ask_for(1, name(MOST), (struct wish){.now = true}, &number), CM_E_NOMEMORY);
    assert_int_equal(queue.names.count, names_before);
    assert_int_equal(atomic_load(&cm_lock_bucket(&segment, BUCKET)->overflow), MOST);
    /* What it has is none the less its own; others have room, and so has the table. */
    assert_int_equal(renew(1, 0, ids[0], 5), 0);
    id = granted(ask(2, MOST), false);
    assert_int_equal(cm_lock_release(&lockers[FILLER], name(FILLED), filled[0]), 0);
    filled[0] = granted(ask(1, FILLED), false);
    assert_non_null(cm_lock_at(&segment, filled[0].slot));
    assert_int_equal(release(1, FILLED, filled[0]), 0);
    filled[0] = taken(FILLER, FILLED);
    /* It may wait; at its turn it is refused, and the lock is the next one's. */
    waits = ask(1, MOST);
    uint64_t after = ask(3, MOST);
    assert_waits(waits);
    assert_int_equal(release(2, MOST, id), 0);
    assert_code(waits, CM_E_NOMEMORY);
    give_back(3, MOST, granted(after, false));
    /* Likewise where nobody comes next. */
    granted(ask(2, MOST), false);
    waits = ask_wish(1, MOST, (struct wish){.timeout_ms = 50});
    die(2);
    assert_code(waits, CM_E_NOMEMORY);
    id = granted(ask(2, MOST), true);
    /* A release, the end of a lease and a death make room; a lock that is handed over takes it. */
    waits = ask(1, MOST);
    give_back(1, 1, ids[1]);
    assert_int_equal(release(2, MOST, id), 0);
    ids[1] = granted(waits, false);
    assert_int_equal(ask_for(1, name(1), (struct wish){0}, &number), CM_E_NOMEMORY);
    turn(5);
    cm_lockq_end_leases(&queue);
    assert_int_equal(ask_for(1, name(1), (struct wish){0}, &number), 0);
    granted(number, false);
    assert_int_equal(ask_for(1, name(MOST + 1), (struct wish){0}, &number), CM_E_NOMEMORY);
    check_kept_bytes();
    die(1);
    check_kept_bytes();
    for (size_t n = 0; n < MOST; n++)
        give_back(1, n, granted(ask(1, n), true));
    give_back(1, MOST, granted(ask(1, MOST), true));
    queue.kept_most_bytes = CM_LOCK_KEPT_MOST_BYTES;
    assert_empty(false);
}

static void a_million_keys_leave_nothing(void **state) {
    (void)state;
    enum { KEYS = 1000000, QUEUED = 20 };
    size_t alive = alloc_failure_alive();
    for (unsigned i = 0; i < KEYS; i++) {
        char key[KEY_BYTES];
        struct cm_grant grant;
        struct cm_bytes bytes = numbered(key, i);
        assert_int_equal(cm_lock_take(&lockers[1], bytes, 0, 0, false, &grant), 0);
        if (i % QUEUED == 0) {
            uint64_t waiter, late;
            assert_int_equal(ask_for(2, bytes, (struct wish){.task = 1}, &waiter), 0);
            assert_int_equal(ask_for(3, bytes, (struct wish){.timeout_ms = 1}, &late), 0);
            turn(1);
            cm_lockq_look(&queue);
            assert_int_equal(cm_lock_release(&lockers[1], bytes, grant.id), 0);
            cm_lockq_look(&queue);
            assert_code(late, CM_E_TIMEOUT);
            assert_int_equal(cm_lock_release(&lockers[2], bytes, granted(waiter, false)), 0);
        } else {
            assert_int_equal(cm_lock_release(&lockers[1], bytes, grant.id), 0);
        }
    }
    assert_empty(false);
    /* The arrays of the index and the heap have their first size. */
    assert_true(alloc_failure_alive() <= alive + 1);
    assert_int_equal(queue.names.room, 64);
    assert_true(queue.timeouts.room <= 16);
}

/* --- random operations against a model */

enum { MODEL_NAMES = 12, MODEL_CREW = 5, QUEUE_MOST = 10, TASKS = 3, OPERATIONS = 60000 };

/* What is known of a request that waits. */
struct waiting {
    uint64_t task;
    uint64_t lease_ms;
    uint64_t timeout_at_ms; /* 0: never */
    int who;
    bool fair;
};
static struct waiting waits[REQUESTS];

struct model {
    int owner; /* 0: nobody */
    uint64_t head_since_ms;
    uint64_t task;
    struct cm_lock_id id; /* the last one */
    uint64_t deadline_ms;
    bool abandoned;
    bool handed; /* while it is free and waited for */
    bool revoking;
    uint64_t behind; /* the section that the revocation waits for; 0: none */
    uint64_t releaser;
    uint64_t queue[QUEUE_MOST];
    unsigned waiting;
};

static struct world {
    struct model locks[MODEL_NAMES];
    uint64_t random;
    size_t names;      /* that are used: all of them need more than a bucket */
    uint64_t sections; /* of the busy one */
    uint64_t expected; /* answers so far */
    uint64_t taken, passed, masters, deadlocks, timeouts, abandoned, revoked, kept;
} world;

static void owned(struct model *lock, int who, uint64_t task, uint64_t lease_ms,
                  const struct cm_grant *grant) {
    assert_int_equal(grant->abandoned, lock->abandoned);
    assert_true(grant->id.token > lock->id.token);
    world.abandoned += lock->abandoned;
    world.kept += cm_lock_at(&segment, grant->id.slot) == NULL;
    lock->abandoned = false;
    lock->owner = who;
    lock->task = task;
    lock->id = grant->id;
    lock->deadline_ms = lease_ms ? stores_clock() + lease_ms : 0;
}

static void model_grant(struct model *lock, uint64_t number) {
    const struct waiting *its = &waits[number];
    granted(number, lock->abandoned);
    assert_int_equal(answers[number].seat, seat(its->who));
    owned(lock, its->who, its->task, its->lease_ms, &answers[number].grant);
    world.expected++;
}

static void model_refuse(uint64_t number, int code) {
    assert_code(number, code);
    world.expected++;
}

/* False: it is not over. */
static bool model_end_revocation(struct model *lock) {
    if (lock->revoking && lock->behind && busy && lock->behind == world.sections)
        return false;
    if (lock->revoking && lock->releaser)
        model_refuse(lock->releaser, 0);
    lock->revoking = false;
    lock->releaser = 0;
    return true;
}

static void model_revoke(struct model *lock, bool abandoned, uint64_t releaser) {
    lock->owner = 0;
    lock->deadline_ms = 0;
    lock->abandoned = abandoned;
    lock->revoking = true;
    lock->behind = busy ? world.sections : 0;
    lock->releaser = releaser;
    world.revoked++;
}

static bool model_is_over(const struct model *lock) {
    return lock->owner && lock->deadline_ms && lock->deadline_ms <= stores_clock();
}

static void model_leave(struct model *lock, unsigned at) {
    if (at == 0)
        lock->head_since_ms = stores_clock();
    lock->waiting--;
    memmove(&lock->queue[at], &lock->queue[at + 1], (lock->waiting - at) * sizeof lock->queue[0]);
}

/* As cm_lockq_settle. */
static void model_settle(struct model *lock) {
    for (;;) {
        if (!model_end_revocation(lock))
            return;
        if (!lock->owner && lock->waiting) {
            uint64_t head = lock->queue[0];
            model_leave(lock, 0);
            model_grant(lock, head);
            return;
        }
        if (!lock->waiting || !model_is_over(lock))
            return;
        model_revoke(lock, true, 0);
    }
}

static struct model *model_waits_for(int who, uint64_t task) {
    for (size_t n = 0; n < MODEL_NAMES; n++) {
        for (unsigned i = 0; i < world.locks[n].waiting; i++) {
            const struct waiting *its = &waits[world.locks[n].queue[i]];
            if (its->who == who && its->task == task)
                return &world.locks[n];
        }
    }
    return NULL;
}

static bool model_closes_cycle(const struct model *lock, int who, uint64_t task) {
    while (task && lock && lock->owner && lock->task) {
        if (lock->owner == who && lock->task == task)
            return true;
        lock = model_waits_for(lock->owner, lock->task);
    }
    return false;
}

static void model_request(struct model *lock, uint64_t number, bool now) {
    const struct waiting *its = &waits[number];
    while (!lock->waiting && model_end_revocation(lock)) {
        if (!lock->owner) {
            model_grant(lock, number);
            return;
        }
        if (!model_is_over(lock))
            break;
        model_revoke(lock, true, 0);
    }
    if (now) {
        model_refuse(number, CM_E_BUSY);
    } else if (model_closes_cycle(lock, its->who, its->task)) {
        model_refuse(number, CM_E_DEADLOCK);
        world.deadlocks++;
    } else {
        if (!lock->waiting)
            lock->head_since_ms = stores_clock();
        lock->queue[lock->waiting++] = number;
        model_settle(lock);
    }
}

static uint64_t *model_next_timeout(struct model **lock, unsigned *at) {
    uint64_t least = UINT64_MAX;
    for (size_t n = 0; n < MODEL_NAMES; n++) {
        for (unsigned i = 0; i < world.locks[n].waiting; i++) {
            uint64_t timeout_ms = waits[world.locks[n].queue[i]].timeout_at_ms;
            if (!timeout_ms || timeout_ms >= least)
                continue;
            least = timeout_ms;
            *lock = &world.locks[n];
            *at = i;
        }
    }
    return least <= stores_clock() ? &(*lock)->queue[*at] : NULL;
}

static void model_look(void) {
    struct model *lock = NULL;
    unsigned at = 0;
    for (uint64_t *number; (number = model_next_timeout(&lock, &at));) {
        unsigned before = lock->waiting;
        uint64_t its = *number;
        if (at == 0)
            model_settle(lock);
        if (lock->waiting < before)
            continue;
        model_leave(lock, at);
        model_refuse(its, CM_E_TIMEOUT);
        world.timeouts++;
        model_settle(lock);
    }
    for (size_t n = 0; n < MODEL_NAMES; n++)
        model_settle(&world.locks[n]);
}

static void model_die(int who) {
    for (size_t n = 0; n < MODEL_NAMES; n++) {
        struct model *lock = &world.locks[n];
        for (unsigned i = lock->waiting; i-- > 0;) {
            if (waits[lock->queue[i]].who == who)
                model_leave(lock, i);
        }
        if (lock->releaser && waits[lock->releaser].who == who)
            lock->releaser = 0;
    }
    model_look();
    for (size_t n = 0; n < MODEL_NAMES; n++) {
        struct model *lock = &world.locks[n];
        if (lock->owner != who)
            continue;
        lock->owner = 0;
        lock->deadline_ms = 0;
        lock->abandoned = true;
        model_settle(lock);
    }
}

/* Two at the same moment could be told in any order. */
static uint64_t some_timeout(void) {
    uint64_t timeout_ms = random_below(&world.random, 2) ? 1 + random_below(&world.random, 30) : 0;
    for (bool again = timeout_ms != 0; again;) {
        again = false;
        for (size_t n = 0; n < MODEL_NAMES; n++) {
            for (unsigned i = 0; i < world.locks[n].waiting; i++)
                again |= waits[world.locks[n].queue[i]].timeout_at_ms == stores_clock() + timeout_ms;
        }
        timeout_ms += again;
    }
    return timeout_ms;
}

static void random_request(int who, size_t n) {
    struct model *lock = &world.locks[n];
    struct wish wish = {.task = random_below(&world.random, TASKS + 1),
                        .timeout_ms = some_timeout(),
                        .lease_ms = random_below(&world.random, 3) ? 0 : 1 + random_below(&world.random, 20),
                        .fair = random_below(&world.random, 8) == 0,
                        .now = random_below(&world.random, 6) == 0};
    if (wish.task && model_waits_for(who, wish.task))
        return; /* it waits, so it asks for nothing */
    struct cm_grant grant;
    int result = try_take(who, n, wish, &grant);
    if (!result) {
        /* It was free; past a waiter only for a moment after a release. */
        assert_int_equal(lock->owner, 0);
        assert_false(lock->revoking);
        assert_false(lock->waiting && lock->handed);
        world.passed += lock->waiting != 0;
        world.taken++;
        owned(lock, who, wish.task, wish.lease_ms, &grant);
        return;
    }
    if (result == CM_E_BUSY)
        assert_true(lock->owner || lock->revoking || (lock->waiting && lock->handed));
    else
        assert_int_equal(result, CM_LOCK_ASK);
    if (lock->waiting == QUEUE_MOST)
        return;
    uint64_t number = ask_wish(who, n, wish);
    waits[number] = (struct waiting){.task = wish.task,
                                     .lease_ms = wish.lease_ms,
                                     .timeout_at_ms = wish.timeout_ms ? stores_clock() + wish.timeout_ms : 0,
                                     .who = who,
                                     .fair = wish.fair};
    world.masters++;
    model_request(lock, number, wish.now);
}

static void random_release(int who, size_t n, struct cm_lock_id id) {
    struct model *lock = &world.locks[n];
    bool right = lock->owner && lock->id.token == id.token;
    int result = id.token ? cm_lock_release(&lockers[who], name(n), id) : CM_LOCK_ASK;
    if (!result) {
        assert_true(right);
        assert_int_equal(lock->owner, who);
        lock->owner = 0;
        lock->deadline_ms = 0;
        uint64_t flags = atomic_load(&cm_lock_at(&segment, id.slot)->state);
        lock->handed = flags & CM_LOCK_HANDED;
        bool must = false;
        for (unsigned i = 0; i < lock->waiting; i++)
            must |= waits[lock->queue[i]].fair;
        must |= lock->waiting && stores_clock() > lock->head_since_ms + CM_LOCK_PATIENCE_MS;
        assert_true(lock->handed || !must);
        assert_int_equal((flags & CM_LOCK_WAITED) != 0, lock->waiting != 0);
        return;
    }
    assert_true(result == CM_LOCK_ASK || (result == CM_E_NOTOWNER && !right));
    uint64_t number = release_by_master(who, n, id);
    waits[number] = (struct waiting){.who = who};
    if (!right) {
        model_refuse(number, CM_E_NOTOWNER);
        return;
    }
    model_revoke(lock, false, number);
    model_settle(lock);
}

static void random_renewal(int who, size_t n) {
    struct model *lock = &world.locks[n];
    uint64_t lease_ms = random_below(&world.random, 20);
    bool right = lock->owner == who;
    assert_int_equal(renew(who, n, lock->id, lease_ms), right ? 0 : CM_E_NOTOWNER);
    if (right)
        lock->deadline_ms = lease_ms ? stores_clock() + lease_ms : 0;
}

static void check_model(void) {
    assert_int_equal(answer_count, world.expected);
    check_kept_bytes();
    for (size_t n = 0; n < MODEL_NAMES; n++) {
        struct model *lock = &world.locks[n];
        struct cm_lock_info info = info_of(n);
        /* Who asks after a lease that is over ends it. */
        if (lock->owner && model_is_over(lock)) {
            model_revoke(lock, true, 0);
            model_settle(lock);
        }
        bool held = lock->owner && !model_is_over(lock);
        assert_int_equal(info.seat, held ? seat(lock->owner) : 0);
        if (!held)
            continue;
        assert_int_equal(info.waiting, lock->waiting);
        assert_int_equal(info.task, lock->task);
        assert_int_equal(info.lease_ms, lock->deadline_ms ? lock->deadline_ms - stores_clock() : 0);
    }
}

static void random_operation(void) {
    size_t n = random_below(&world.random, world.names), what = random_below(&world.random, 1000);
    struct model *lock = &world.locks[n];
    int who = 1 + (int)random_below(&world.random, MODEL_CREW);
    if (what < 420) {
        random_request(who, n);
    } else if (what < 700) {
        random_release(lock->owner && what < 640 ? lock->owner : who, n, lock->id);
    } else if (what < 780) {
        random_renewal(lock->owner && what < 750 ? lock->owner : who, n);
    } else if (what < 860) {
        cm_lockq_look(&queue);
        model_look();
    } else if (what < 890) {
        cm_lockq_end_leases(&queue);
        for (size_t i = 0; i < MODEL_NAMES; i++) {
            if (!model_is_over(&world.locks[i]))
                continue;
            model_revoke(&world.locks[i], true, 0);
            model_settle(&world.locks[i]);
        }
    } else if (what < 960) {
        turn(random_below(&world.random, 4));
    } else if (what < 985) {
        if (busy) {
            leave_section();
        } else {
            enter_section();
            world.sections++;
        }
    } else if (what < 988) {
        die(who);
        model_die(who);
    } else if (lock->owner && cm_lockq_fence_begin(&queue, lock->id)) {
        cm_lockq_fence_end(&queue, lock->id);
        if (cm_lock_at(&segment, lock->id.slot))
            model_settle(lock);
    }
}

/* Everybody gives back what they have until nobody waits. */
static void drain(void) {
    if (busy)
        leave_section();
    for (bool again = true; again;) {
        cm_lockq_look(&queue);
        model_look();
        check_model();
        again = false;
        for (size_t n = 0; n < MODEL_NAMES; n++) {
            again |= world.locks[n].owner || world.locks[n].waiting;
            if (world.locks[n].owner)
                random_release(world.locks[n].owner, n, world.locks[n].id);
        }
    }
    for (size_t n = 0; n < MODEL_NAMES; n++) {
        struct cm_grant grant = get(1, n, (struct wish){0});
        assert_int_equal(grant.abandoned, world.locks[n].abandoned);
        give_back(1, n, grant.id);
    }
    assert_empty(false);
}

static void random_operations_match_a_model(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        world = (struct world){.random = seed, .names = seed % 2 ? MODEL_NAMES / 2 : MODEL_NAMES};
        for (int i = 0; i < OPERATIONS; i++) {
            random_operation();
            check_model();
        }
        drain();
        assert_true(world.taken > 100 && world.passed > 30 && world.masters > 1000);
        assert_true(world.deadlocks > 100 && world.timeouts > 500 && world.abandoned > 100);
        assert_true(world.revoked > 1000 && (world.kept > 1000 || world.names < MODEL_NAMES));
        end();
        assert_int_equal(start(), 0);
    }
}

/* --- without memory: what is refused has left no trace, what is not is answered once --- */

enum { LEAN_OPERATIONS = 250, LEAN_NAMES = 9, LEAN_CREW = 3 };

struct lean_lock {
    int owner;
    struct cm_lock_id id;
    uint64_t deadline_ms;
    bool lost; /* given back by somebody else, though nobody has been told */
};

/* What is granted was nobody's: given back, or its owner dead, or its lease over. */
static void lean_own(struct lean_lock *lock, int who, const struct cm_grant *grant, uint64_t lease_ms) {
    bool over = lock->deadline_ms && lock->deadline_ms <= stores_clock();
    assert_true(!lock->owner || lock->lost || over);
    assert_true(grant->id.token > lock->id.token);
    *lock = (struct lean_lock){who, grant->id, lease_ms ? stores_clock() + lease_ms : 0, false};
}

static struct lean {
    struct lean_lock locks[LEAN_NAMES];
    struct {
        int who; /* 0: it has been refused, or is dead */
        size_t n;
        uint64_t lease_ms;
        bool releases, done;
    } requests[LEAN_OPERATIONS * 2 + 100];
    uint64_t seen;
} lean;

static void lean_note(uint64_t number, int who, size_t n, uint64_t lease_ms, bool releases) {
    lean.requests[number].who = who;
    lean.requests[number].n = n;
    lean.requests[number].lease_ms = lease_ms;
    lean.requests[number].releases = releases;
}

/* Takes note of new answers, in the order of their tokens. */
static void lean_take_answers(void) {
    for (;;) {
        uint64_t next = 0;
        for (uint64_t i = 1; i <= asked; i++) {
            assert_true(answers[i].count <= 1);
            assert_true(!answers[i].count || lean.requests[i].who);
            if (!answers[i].count || lean.requests[i].done)
                continue;
            if (!answers[i].granted)
                lean.requests[i].done = true;
            else if (!next || answers[i].grant.id.token < answers[next].grant.id.token)
                next = i;
        }
        if (!next)
            return;
        lean.requests[next].done = true;
        lean_own(&lean.locks[lean.requests[next].n], lean.requests[next].who, &answers[next].grant,
                 lean.requests[next].lease_ms);
    }
}

static void lean_request(uint64_t *random, int who, size_t n) {
    struct wish wish = {.task = random_below(random, 4),
                        .timeout_ms = random_below(random, 20),
                        .lease_ms = random_below(random, 2) ? 1 + random_below(random, 10) : 0};
    struct cm_grant grant;
    int result = try_take(who, n, wish, &grant);
    if (!result) {
        lean_own(&lean.locks[n], who, &grant, wish.lease_ms);
        return;
    }
    uint64_t number;
    lean_note(asked + 1, who, n, wish.lease_ms, false);
    int err = ask_for(who, name(n), wish, &number);
    if (!err)
        return;
    assert_int_equal(err, CM_E_NOMEMORY);
    assert_int_equal(answers[number].count, 0);
    lean.requests[number].who = 0;
}

static void lean_release(int who, size_t n) {
    struct lean_lock *lock = &lean.locks[n];
    int result = cm_lock_release(&lockers[who], name(n), lock->id);
    if (!result) {
        assert_int_equal(lock->owner, who);
        lock->owner = 0;
        lock->deadline_ms = 0;
        return;
    }
    if (result != CM_LOCK_ASK)
        return;
    struct lean_lock before = *lock;
    lean_note(asked + 1, who, n, 0, true);
    lock->lost = true;
    int err = cm_lockq_release(&queue, (struct cm_lock_asker){seat(who), ++asked}, name(n), lock->id);
    if (err || (answers[asked].count && answers[asked].code)) {
        *lock = before;
        lean.requests[asked].who = err ? 0 : who;
    }
}

/* A failure in it must not turn up in what comes behind it. */
static void run_lean(size_t nth, int all, bool *failed) {
    uint64_t random = 7;
    *failed = false;
    memset(&lean, 0, sizeof lean);
    alloc_failure_arm(nth, all);
    if (start()) {
        *failed = alloc_failure_arm(0, 0) != 0;
        end();
        return;
    }
    for (int i = 0; i < LEAN_OPERATIONS; i++) {
        int who = 1 + (int)random_below(&random, LEAN_CREW);
        size_t n = random_below(&random, LEAN_NAMES), what = random_below(&random, 100);
        if (what < 45) {
            lean_request(&random, who, n);
        } else if (what < 75) {
            lean_release(what < 70 && lean.locks[n].owner ? lean.locks[n].owner : who, n);
        } else if (what < 85) {
            turn(random_below(&random, 4));
            cm_lockq_look(&queue);
            cm_lockq_end_leases(&queue);
        } else if (what < 92) {
            if (busy)
                leave_section();
            else
                enter_section();
        } else if (what < 97) {
            if (renew(who, n, lean.locks[n].id, 30) == 0)
                lean.locks[n].deadline_ms = stores_clock() + 30;
        } else {
            lean_take_answers();
            for (size_t j = 0; j < LEAN_NAMES; j++)
                lean.locks[j].lost |= lean.locks[j].owner == who;
            uint64_t before = asked;
            for (uint64_t j = 1; j <= before; j++) {
                if (!answers[j].count && lean.requests[j].who == who)
                    lean.requests[j].who = 0;
            }
            die(who);
        }
        lean_take_answers();
    }
    *failed = alloc_failure_arm(0, 0) != 0;
    /* With memory again everybody comes to their turn. */
    if (busy)
        leave_section();
    for (int round = 0; round < 1000; round++) {
        turn(1);
        cm_lockq_look(&queue);
        cm_lockq_end_leases(&queue);
        lean_take_answers();
        for (size_t n = 0; n < LEAN_NAMES; n++) {
            if (!lean.locks[n].owner)
                continue;
            lean_release(lean.locks[n].owner, n);
            lean.locks[n].owner = 0;
        }
    }
    for (uint64_t i = 1; i <= asked && i < sizeof lean.requests / sizeof *lean.requests; i++)
        assert_int_equal(answers[i].count, lean.requests[i].who != 0);
    for (size_t n = 0; n < LEAN_NAMES; n++)
        give_back(1, n, get(1, n, (struct wish){0}).id);
    assert_empty(false);
    end();
}

static void without_memory_a_request_is_refused_and_nothing_lost(void **state) {
    (void)state;
    size_t before = alloc_failure_alive();
    for (int all = 0; all <= 1; all++) {
        bool failed = true;
        for (size_t nth = 1; failed; nth++) {
            run_lean(nth, all, &failed);
            assert_int_equal(alloc_failure_alive(), before);
            assert_true(failed || nth > 50);
        }
    }
}

int main(void) {
#define PLAIN(name) cmocka_unit_test_setup_teardown(name, open_plain, close_all)
#define CROWDED(name) \
    { #name " (in the master's memory)", name, open_crowded, close_all, NULL }
#define BOTH(name) PLAIN(name), CROWDED(name)
    const struct CMUnitTest tests[] = {
        BOTH(waiters_are_granted_in_their_order),
        BOTH(a_free_lock_is_granted_at_once),
        BOTH(locks_have_queues_of_their_own),
        PLAIN(a_newcomer_may_pass_a_waiter_for_a_millisecond),
        PLAIN(a_look_hands_an_impatient_waiters_lock_over),
        PLAIN(who_waits_for_too_much_is_refused),
        PLAIN(nobody_passes_while_a_fair_one_waits),
        BOTH(a_waiter_leaves_when_its_time_is_up),
        BOTH(the_last_waiters_leaving_leaves_nothing),
        PLAIN(a_lock_that_is_free_in_time_is_granted),
        BOTH(it_is_known_when_to_look_again),
        PLAIN(a_release_in_the_midst_of_a_look_is_seen),
        PLAIN(a_lease_renewed_at_the_last_moment_stands),
        BOTH(a_lease_that_is_over_is_taken_for_who_waits),
        BOTH(a_lease_that_nobody_waits_for_ends_too),
        BOTH(a_request_ends_a_lease_that_is_over),
        BOTH(a_lease_can_be_renewed_until_it_is_ended),
        BOTH(every_lease_is_ended_in_time),
        BOTH(who_has_the_id_may_release),
        BOTH(a_revocation_waits_for_every_section),
        BOTH(a_request_ends_a_revocation_that_is_over),
        BOTH(a_waiter_may_leave_during_a_revocation),
        BOTH(nobody_passes_a_fair_one_at_a_revocations_end),
        BOTH(a_fence_keeps_its_lock_from_passing_on),
        BOTH(a_fence_that_was_not_needed_leaves_no_trace),
        BOTH(a_task_does_not_wait_for_itself),
        BOTH(two_tasks_do_not_wait_for_each_other),
        BOTH(a_cycle_of_many_tasks_is_refused),
        BOTH(what_is_no_cycle_waits),
        BOTH(the_text_shows_any_key),
        BOTH(the_dead_are_granted_nothing),
        BOTH(a_dead_owners_locks_go_to_who_waits),
        BOTH(what_a_dead_one_had_is_not_given_to_another_dead_one),
        BOTH(a_lock_freed_by_one_that_died_then_goes_on),
        BOTH(a_dead_releaser_is_not_answered),
        BOTH(a_queue_that_is_thrown_away_leaves_nothing),
        BOTH(marks_of_the_dead_are_bounded),
        BOTH(marks_of_leases_are_bounded),
        BOTH(marks_that_are_told_make_room),
        CROWDED(a_full_buckets_locks_are_the_masters),
        CROWDED(who_keeps_too_many_is_refused),
        PLAIN(a_million_keys_leave_nothing),
        PLAIN(random_operations_match_a_model),
        cmocka_unit_test(without_memory_a_request_is_refused_and_nothing_lost),
    };
    return cmocka_run_group_tests_name("lockq", tests, NULL, nothing_is_left);
}
