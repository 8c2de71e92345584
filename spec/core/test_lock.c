/* Locks in the segment, as several participants take them and give them back; what the master would do to
 * them meanwhile is done by hand, and at the end by its queue, with threads. */
#include <stdlib.h>
#include <sys/eventfd.h>

#include "data/lock.h"
#include "data/lockq.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"
#include "spec/core/stores.h"

enum {
    SEATS = 8,
    LOCKERS = 4,
    NAMES = 24,
    KEY_BYTES = 16,
    BUCKET = 3,   /* whose names are used */
    WATCH_S = 60, /* for what must not hang */
};

struct locker {
    struct cm_participant participant;
    struct cm_locker locker;
};

static struct stores stores; /* its first seat is the master's */
static struct cm_segment *segment = &stores.segment;
static struct locker lockers[LOCKERS];
static char names[NAMES][KEY_BYTES]; /* all of one bucket */
static struct cm_bytes some;         /* the first of them */

static struct cm_bytes name(size_t i) {
    return cm_bytes_of(names[i]);
}

static int open_all(void **state) {
    (void)state;
    assert_int_equal(stores_open(&stores, UINT64_C(1) << 20, SEATS, 1), 0);
    segment->header->layout.hash_seed = segment->layout.hash_seed = 1;
    for (size_t i = 0, n = 0; i < NAMES; n++) {
        snprintf(names[i], KEY_BYTES, "lock %zu", n);
        i += cm_lock_bucket_number(segment, cm_lock_name(segment, name(i))) == BUCKET;
    }
    some = name(0);
    for (int i = 0; i < LOCKERS; i++) {
        join(&lockers[i].participant, segment);
        cm_locker_init(&lockers[i].locker, &lockers[i].participant);
        lockers[i].locker.clock_ms = stores_clock;
    }
    return 0;
}

static int close_all(void **state) {
    (void)state;
    for (int i = 0; i < LOCKERS; i++)
        part(&lockers[i].participant);
    stores_close(&stores);
    return 0;
}

static int nothing_is_left(void **state) {
    (void)state;
    return alloc_failure_alive() != 0;
}

static int take(int who, struct cm_bytes key, struct cm_grant *grant) {
    return cm_lock_take(&lockers[who].locker, key, 0, 0, false, grant);
}

static struct cm_grant taken(int who, struct cm_bytes key) {
    struct cm_grant grant;
    assert_int_equal(take(who, key, &grant), 0);
    assert_true(grant.id.token != 0);
    return grant;
}

static void assert_take(int who, struct cm_bytes key, int expected) {
    struct cm_grant grant;
    assert_int_equal(take(who, key, &grant), expected);
}

static int release(int who, struct cm_bytes key, struct cm_lock_id id) {
    return cm_lock_release(&lockers[who].locker, key, id);
}

static int renew(int who, struct cm_bytes key, struct cm_lock_id id, uint64_t deadline_ms) {
    return cm_lock_renew(&lockers[who].locker, key, id, deadline_ms);
}

static int check_fence(int who, struct cm_lock_id id) {
    return cm_lock_check_fence(&lockers[who].participant, id);
}

static uint64_t state_of(struct cm_lock_id id) {
    return atomic_load(&cm_lock_at(segment, id.slot)->state);
}

static void set_state(struct cm_lock_id id, uint64_t state) {
    atomic_store(&cm_lock_at(segment, id.slot)->state, state);
}

static struct cm_lock_bucket *bucket(void) {
    return cm_lock_bucket(segment, BUCKET);
}

/* --- lockIds */

static void assert_reads_back(struct cm_lock_id id, const char *expected) {
    char text[CM_LOCK_ID_BYTES];
    size_t len = cm_lock_id_format(id, text);
    assert_true(len <= CM_LOCK_ID_BYTES);
    if (expected) {
        assert_int_equal(len, strlen(expected));
        assert_memory_equal(text, expected, len);
    }
    struct cm_lock_id back = cm_lock_id_parse((struct cm_bytes){(const uint8_t *)text, len});
    assert_int_equal(back.token, id.token);
    assert_int_equal(back.slot, id.slot);
}

static void lock_ids_read_back(void **state) {
    (void)state;
    assert_reads_back((struct cm_lock_id){1, 0}, "65536");
    assert_reads_back((struct cm_lock_id){1, 7}, "65543");
    assert_reads_back((struct cm_lock_id){(UINT64_C(1) << 48) - 1, 65535}, "18446744073709551615");
    assert_reads_back((struct cm_lock_id){UINT64_C(1) << 48, 0}, "18446744073709551616");
    assert_reads_back((struct cm_lock_id){(UINT64_C(1) << 60) - 1, 65535}, "75557863725914323419135");
    uint64_t random = 1;
    for (int i = 0; i < 100000; i++) {
        uint64_t token = random_next(&random) >> (4 + random_below(&random, 60));
        struct cm_lock_id id = {token, (uint32_t)random_below(&random, 65536)};
        char text[CM_LOCK_ID_BYTES];
        bool fits = token && token < UINT64_C(1) << 48;
        snprintf(text, sizeof text, "%llu", (unsigned long long)(token << 16 | id.slot));
        if (token)
            assert_reads_back(id, fits ? text : NULL);
    }
}

/* As numbers: the longer, and of two as long the greater text. */
static void a_later_lock_id_is_the_greater_number(void **state) {
    (void)state;
    uint64_t random = 2;
    for (int i = 0; i < 10000; i++) {
        uint64_t token = (random_next(&random) >> (5 + random_below(&random, 59))) + 1;
        struct cm_lock_id earlier = {token, (uint32_t)random_below(&random, 65536)};
        struct cm_lock_id later = {token + 1, (uint32_t)random_below(&random, 65536)};
        char one[CM_LOCK_ID_BYTES], other[CM_LOCK_ID_BYTES];
        size_t len = cm_lock_id_format(earlier, one), other_len = cm_lock_id_format(later, other);
        assert_true(len < other_len || (len == other_len && memcmp(one, other, len) < 0));
    }
}

static void other_texts_are_no_lock_ids(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        "0",
                                        "00065536",
                                        "065536",
                                        "-65536",
                                        "+65536",
                                        " 65536",
                                        "65536 ",
                                        "65536.0",
                                        "6.5536e4",
                                        "0x10000",
                                        "65536x",
                                        "x",
                                        "65,536",
                                        "75557863725914323419136",
                                        "99999999999999999999999",
                                        "100000000000000000000000",
                                        "340282366920938463463374607431768276992",
                                        "340282366920938463463374607431768211456000065536",
                                        "1",
                                        "65535"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(cm_lock_id_parse(cm_bytes_of(texts[i])).token, 0);
    assert_int_equal(cm_lock_id_parse((struct cm_bytes){(const uint8_t *)"65536\0", 6}).token, 0);
    assert_int_equal(cm_lock_id_parse((struct cm_bytes){(const uint8_t *)"65\0"
                                                                         "36",
                                                        5})
                         .token,
                     0);
    /* What is one is written in one way only. */
    uint64_t random = 3;
    static const char characters[] = "0123456789012345678901234567890123456789 -x";
    for (int i = 0; i < 200000; i++) {
        char text[CM_LOCK_ID_BYTES], again[CM_LOCK_ID_BYTES];
        size_t len = random_below(&random, 26);
        for (size_t j = 0; j < len; j++)
            text[j] = characters[random_below(&random, sizeof characters - 1)];
        struct cm_lock_id id = cm_lock_id_parse((struct cm_bytes){(const uint8_t *)text, len});
        if (!id.token)
            continue;
        assert_int_equal(cm_lock_id_format(id, again), len);
        assert_memory_equal(again, text, len);
    }
}

/* --- one lock */

static void a_free_lock_is_taken_and_given_back(void **state) {
    (void)state;
    struct cm_grant grant;
    uint64_t last = 0;
    for (int i = 0; i < 100; i++) {
        int who = i % LOCKERS;
        assert_int_equal(cm_lock_take(&lockers[who].locker, some, 77, 0, false, &grant), 0);
        assert_true(grant.id.token > last);
        assert_false(grant.abandoned);
        last = grant.id.token;
        const struct cm_lock *lock = cm_lock_at(segment, grant.id.slot);
        assert_int_equal(atomic_load(&lock->owner), lockers[who].participant.id);
        assert_int_equal(atomic_load(&lock->task), 77);
        for (int other = 0; other < LOCKERS; other++)
            assert_take(other, some, CM_E_BUSY); /* its own one, too */
        assert_int_equal(release(who, some, grant.id), 0);
        assert_int_equal(state_of(grant.id), 0);
        assert_int_equal(release(who, some, grant.id), CM_E_NOTOWNER);
        assert_int_equal(renew(who, some, grant.id, 0), CM_E_NOTOWNER);
    }
}

static void another_id_or_key_is_not_its_owners(void **state) {
    (void)state;
    struct cm_grant one = taken(0, some), other = taken(0, name(1));
    struct cm_lock_id none = {0, one.id.slot}, old = {one.id.token - 1, one.id.slot},
                      later = {one.id.token + 100, one.id.slot}, elsewhere = {one.id.token, other.id.slot};
    struct cm_lock_id wrong[] = {none, old, later, elsewhere};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(release(0, some, wrong[i]), CM_E_NOTOWNER);
        assert_int_equal(renew(0, some, wrong[i], 5), CM_E_NOTOWNER);
        assert_int_equal(check_fence(0, wrong[i]), CM_E_NOTOWNER);
        assert_false(cm_lock_holds(segment, wrong[i]) && wrong[i].token);
    }
    assert_int_equal(release(0, some, other.id), CM_E_NOTOWNER);
    assert_int_equal(renew(0, some, other.id, 5), CM_E_NOTOWNER);
    assert_int_equal(release(0, name(2), one.id), CM_E_NOTOWNER);
    assert_int_equal(release(0, cm_bytes_of(""), one.id), CM_E_NOTOWNER);
    assert_int_equal(check_fence(0, one.id), 0);
    assert_int_equal(check_fence(0, other.id), 0);
    assert_int_equal(release(0, some, one.id), 0);
    assert_int_equal(release(0, name(1), other.id), 0);
}

static void who_has_not_taken_it_asks_the_master(void **state) {
    (void)state;
    struct cm_grant grant = taken(0, some);
    assert_int_equal(release(1, some, grant.id), CM_LOCK_ASK);
    assert_int_equal(renew(1, some, grant.id, 5), CM_LOCK_ASK);
    assert_int_equal(check_fence(1, grant.id), CM_LOCK_ASK);
    assert_true(cm_lock_holds(segment, grant.id));
    assert_int_equal(atomic_load(&cm_lock_at(segment, grant.id.slot)->deadline_ms), 0);
    assert_int_equal(release(0, some, grant.id), 0);
    assert_int_equal(release(1, some, grant.id), CM_E_NOTOWNER);
    assert_int_equal(check_fence(1, grant.id), CM_E_NOTOWNER);
    /* What is in the master's memory, or nowhere. */
    struct cm_lock_id kept = {grant.id.token, BUCKET << CM_LOCK_BUCKET_BITS | CM_LOCKS_IN_BUCKET};
    struct cm_lock_id nowhere = {grant.id.token, segment->layout.lock_buckets << CM_LOCK_BUCKET_BITS};
    assert_int_equal(release(0, some, kept), CM_LOCK_ASK);
    assert_int_equal(check_fence(0, kept), CM_LOCK_ASK);
    assert_int_equal(release(0, some, nowhere), CM_LOCK_ASK);
    assert_false(cm_lock_holds(segment, kept));
    assert_false(cm_lock_holds(segment, nowhere));
    kept.token = 0;
    assert_int_equal(check_fence(0, kept), CM_E_NOTOWNER);
}

static void the_next_owner_is_told_once_that_it_was_abandoned(void **state) {
    (void)state;
    struct cm_grant grant = taken(0, some);
    for (int i = 0; i < 3; i++) {
        set_state(grant.id, CM_LOCK_ABANDONED); /* as the master after a death */
        grant = taken(1, some);
        assert_true(grant.abandoned);
        assert_int_equal(state_of(grant.id), grant.id.token << 4);
        assert_int_equal(release(1, some, grant.id), 0);
        grant = taken(2, some);
        assert_false(grant.abandoned);
        assert_int_equal(release(2, some, grant.id), 0);
    }
}

static void a_lock_that_is_revoked_or_handed_over_is_not_taken(void **state) {
    (void)state;
    struct cm_grant grant = taken(0, some);
    for (uint64_t flags = 0; flags <= CM_LOCK_FLAGS; flags++) {
        bool handed = flags & CM_LOCK_WAITED && flags & CM_LOCK_HANDED;
        bool may = !(flags & CM_LOCK_REVOKED) && !handed;
        set_state(grant.id, flags);
        if (!may) {
            assert_take(1, some, CM_E_BUSY);
            assert_int_equal(state_of(grant.id), flags);
            continue;
        }
        struct cm_grant next = taken(1, some);
        assert_int_equal(next.abandoned, (flags & CM_LOCK_ABANDONED) != 0);
        /* Whoever waits goes on doing so. */
        assert_int_equal(state_of(next.id), next.id.token << 4 | (flags & CM_LOCK_WAITED));
        grant = next;
    }
}

static uint64_t rings(int bell) {
    uint64_t count = 0;
    if (read(bell, &count, sizeof count) < 0)
        count = 0;
    atomic_store(&segment->header->rung, 0);
    return count;
}

static uint64_t now_ns = 1;

static uint64_t clock_ns(void) {
    return now_ns;
}

static void a_release_rings_for_who_waits(void **state) {
    (void)state;
    lockers[0].locker.clock_ns = clock_ns;
    int bell = lockers[0].participant.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(bell >= 0);
    struct cm_grant grant = taken(0, some);
    assert_int_equal(release(0, some, grant.id), 0);
    assert_int_equal(rings(bell), 0); /* nobody waits */
    for (uint64_t waited_ms = 0; waited_ms < 4; waited_ms++) {
        grant = taken(0, some);
        set_state(grant.id, grant.id.token << 4 | CM_LOCK_WAITED);
        atomic_store(&cm_lock_at(segment, grant.id.slot)->head_since_ms, stores_clock() - waited_ms);
        now_ns += 1000000;
        assert_int_equal(release(0, some, grant.id), 0);
        /* In the first millisecond a newcomer may take it past the waiter. */
        uint64_t handed = waited_ms > CM_LOCK_PATIENCE_MS ? CM_LOCK_HANDED : 0;
        assert_int_equal(state_of(grant.id), CM_LOCK_WAITED | handed);
        assert_int_equal(rings(bell), 1);
        set_state(grant.id, 0);
    }
    /* A waiter that is fair, however short it has waited. */
    grant = taken(0, some);
    set_state(grant.id, grant.id.token << 4 | CM_LOCK_WAITED | CM_LOCK_HANDED);
    atomic_store(&cm_lock_at(segment, grant.id.slot)->head_since_ms, stores_clock());
    assert_int_equal(release(0, some, grant.id), 0);
    assert_int_equal(state_of(grant.id), CM_LOCK_WAITED | CM_LOCK_HANDED);
    assert_int_equal(rings(bell), 1);
    close(bell);
    lockers[0].participant.bell = -1;
    lockers[0].locker.clock_ns = cm_clock_ns;
}

/* Releases the lock, and gives how often that rang. */
static uint64_t rings_of_release(int bell, uint64_t flags) {
    struct cm_grant grant = taken(0, some);
    set_state(grant.id, grant.id.token << 4 | flags);
    atomic_store(&cm_lock_at(segment, grant.id.slot)->head_since_ms, stores_clock());
    assert_int_equal(release(0, some, grant.id), 0);
    set_state(grant.id, 0);
    return rings(bell);
}

/* What comes again and again is told now and then, and at the latest before the process waits. */
static void who_takes_a_lock_again_and_again_does_not_ring_each_time(void **state) {
    (void)state;
    int bell = lockers[0].participant.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(bell >= 0);
    struct cm_locker *locker = &lockers[0].locker;
    locker->clock_ns = clock_ns;
    now_ns += 1000000;
    assert_int_equal(rings_of_release(bell, CM_LOCK_WAITED), 1);
    uint64_t rung = 0;
    for (int i = 0; i < 100; i++) {
        now_ns += 10000;
        rung += rings_of_release(bell, CM_LOCK_WAITED);
    }
    assert_in_range(rung, 4, 6);
    now_ns += 10000;
    assert_int_equal(rings_of_release(bell, CM_LOCK_WAITED | CM_LOCK_HANDED), 1);
    assert_int_equal(rings_of_release(bell, CM_LOCK_WAITED), 0);
    cm_lock_settle_rings(locker);
    assert_int_equal(rings(bell), 1);
    cm_lock_settle_rings(locker);
    assert_int_equal(rings(bell), 0);
    assert_int_equal(rings_of_release(bell, 0), 0);
    close(bell);
    lockers[0].participant.bell = -1;
    locker->clock_ns = cm_clock_ns;
}

static void a_revoked_lock_is_not_given_back_twice(void **state) {
    (void)state;
    struct cm_grant grant = taken(0, some);
    set_state(grant.id, CM_LOCK_REVOKED | CM_LOCK_ABANDONED | CM_LOCK_WAITED);
    assert_int_equal(release(0, some, grant.id), CM_E_NOTOWNER);
    assert_int_equal(renew(0, some, grant.id, 9), CM_E_NOTOWNER);
    assert_int_equal(check_fence(0, grant.id), CM_E_NOTOWNER);
    assert_false(cm_lock_holds(segment, grant.id));
    assert_int_equal(state_of(grant.id), CM_LOCK_REVOKED | CM_LOCK_ABANDONED | CM_LOCK_WAITED);
}

/* Revoked, and taken by another, between two steps of what its owner does. */
static struct cm_lock_id passing_on;
static uint64_t new_state;

static uint64_t pass_on(void) {
    set_state(passing_on, new_state);
    return stores_clock();
}

static void a_lock_that_passes_on_in_the_midst_is_not_given_back(void **state) {
    (void)state;
    uint64_t states[] = {CM_LOCK_REVOKED | CM_LOCK_WAITED, 0, CM_LOCK_ABANDONED, UINT64_C(1) << 40};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        struct cm_grant grant = taken(0, some);
        set_state(grant.id, grant.id.token << 4 | CM_LOCK_WAITED);
        passing_on = grant.id;
        new_state = states[i];
        lockers[0].locker.clock_ms = pass_on; /* asked for how long the first one waits */
        assert_int_equal(release(0, some, grant.id), CM_E_NOTOWNER);
        assert_int_equal(state_of(grant.id), states[i]);
        lockers[0].locker.clock_ms = stores_clock;
        set_state(grant.id, 0);
    }
    /* What only gets a waiter meanwhile is given back, with the waiter. */
    struct cm_grant grant = taken(0, some);
    set_state(grant.id, grant.id.token << 4 | CM_LOCK_WAITED);
    passing_on = grant.id;
    new_state = grant.id.token << 4 | CM_LOCK_WAITED | CM_LOCK_HANDED;
    lockers[0].locker.clock_ms = pass_on;
    assert_int_equal(release(0, some, grant.id), 0);
    assert_int_equal(state_of(grant.id), CM_LOCK_WAITED | CM_LOCK_HANDED);
    lockers[0].locker.clock_ms = stores_clock;
}

struct renewing {
    struct cm_lock_id id;
    int result;
};

static const char *renew_late(void *data) {
    struct renewing *renewing = data;
    renewing->result = renew(0, some, renewing->id, 77);
    return NULL;
}

static void a_renewal_is_decided_as_the_buckets_owner(void **state) {
    (void)state;
    struct cm_grant grant = taken(0, some);
    struct renewing renewing = {.id = grant.id};
    struct running running;
    struct cm_section section;
    cm_lock_enter(&stores.seats[0].participant, BUCKET, &section);
    start_thread(&running, renew_late, &renewing);
    bool waits = waits_for_line(lockers[0].participant.seat, section.line);
    set_state(grant.id, CM_LOCK_REVOKED | CM_LOCK_ABANDONED);
    cm_section_leave(&section);
    end_thread(&running);
    assert_true(waits);
    assert_int_equal(renewing.result, CM_E_NOTOWNER);
    assert_int_equal(atomic_load(&cm_lock_at(segment, grant.id.slot)->deadline_ms), 0);
    assert_true(atomic_load(&segment->header->earliest_lease_ms) == CM_NEVER);
}

/* --- leases */

static uint64_t earliest(void) {
    return atomic_load(&segment->header->earliest_lease_ms);
}

static void a_lease_that_is_over_is_the_masters_to_end(void **state) {
    (void)state;
    struct cm_grant grant;
    uint64_t now_ms = stores_clock();
    assert_true(earliest() == CM_NEVER);
    assert_int_equal(cm_lock_take(&lockers[0].locker, some, 0, now_ms + 100, false, &grant), 0);
    assert_int_equal(earliest(), now_ms + 100);
    stores_turn(now_ms + 99);
    assert_take(1, some, CM_E_BUSY);
    stores_turn(now_ms + 100);
    assert_take(1, some, CM_LOCK_ASK);
    assert_take(0, some, CM_LOCK_ASK);
    /* Nobody has ended it: its owner may still do with it what it likes. */
    assert_int_equal(check_fence(0, grant.id), 0);
    assert_int_equal(renew(0, some, grant.id, now_ms + 200), 0);
    assert_take(1, some, CM_E_BUSY);
    stores_turn(now_ms + 200);
    assert_take(1, some, CM_LOCK_ASK);
    assert_int_equal(renew(0, some, grant.id, 0), 0);
    assert_take(1, some, CM_E_BUSY);
    assert_int_equal(release(0, some, grant.id), 0);
    /* The next owner has none. */
    grant = taken(1, some);
    assert_take(0, some, CM_E_BUSY);
    assert_int_equal(release(1, some, grant.id), 0);
}

static void the_earliest_lease_is_noted(void **state) {
    (void)state;
    uint64_t random = 4, least = CM_NEVER;
    for (int i = 0; i < 2000; i++) {
        struct cm_grant grant;
        uint64_t deadline_ms = random_below(&random, 3) ? 5000 + random_below(&random, 100000) : 0;
        assert_int_equal(cm_lock_take(&lockers[0].locker, some, 0, deadline_ms, false, &grant), 0);
        least = deadline_ms && deadline_ms < least ? deadline_ms : least;
        assert_true(earliest() == least);
        deadline_ms = 4000 + random_below(&random, 100000);
        assert_int_equal(renew(0, some, grant.id, deadline_ms), 0);
        least = deadline_ms < least ? deadline_ms : least;
        assert_true(earliest() == least);
        assert_int_equal(release(0, some, grant.id), 0);
        if (i % 10 == 0)
            atomic_store(&segment->header->earliest_lease_ms, least = CM_NEVER);
    }
}

/* --- buckets */

static void a_full_bucket_asks_the_master(void **state) {
    (void)state;
    struct cm_grant grants[CM_LOCKS_IN_BUCKET];
    for (size_t i = 0; i < CM_LOCKS_IN_BUCKET; i++)
        grants[i] = taken(0, name(i));
    for (size_t i = 0; i < NAMES; i++)
        assert_take(1, name(i), i < CM_LOCKS_IN_BUCKET ? CM_E_BUSY : CM_LOCK_ASK);
    /* Any flag keeps a free lock's record, for its name alone. */
    for (uint64_t flag = 1; flag < CM_LOCK_FLAGS; flag <<= 1) {
        set_state(grants[2].id, flag);
        assert_take(1, name(9), CM_LOCK_ASK);
    }
    assert_int_equal(release(0, name(3), grants[3].id), 0);
    struct cm_grant grant = taken(1, name(9));
    assert_int_equal(grant.id.slot, grants[3].id.slot);
    assert_int_equal(release(0, name(3), grants[3].id), CM_E_NOTOWNER);
    assert_take(1, name(3), CM_LOCK_ASK);
}

static void a_name_that_may_be_with_the_master_is_not_made(void **state) {
    (void)state;
    struct cm_grant grant = taken(0, some);
    atomic_store(&bucket()->overflow, 1);
    assert_take(1, some, CM_E_BUSY);
    assert_take(1, name(1), CM_LOCK_ASK);
    set_state(grant.id, CM_LOCK_WAITED); /* it is here */
    grant = taken(1, some);
    assert_int_equal(release(1, some, grant.id), 0);
    set_state(grant.id, 0); /* forgotten: it may be there by now */
    assert_take(1, some, CM_LOCK_ASK);
    atomic_store(&bucket()->overflow, 0);
    grant = taken(1, some);
    assert_int_equal(release(1, some, grant.id), 0);
}

/* What each name should be. */
struct expected {
    int owner; /* -1: nobody */
    struct cm_lock_id id;
    uint64_t flags; /* while it is free */
};
static struct expected expected[NAMES];
static uint32_t overflow;

static unsigned count_bound(void) {
    unsigned bound = 0;
    for (size_t i = 0; i < NAMES; i++)
        bound += expected[i].owner >= 0 || expected[i].flags;
    return bound;
}

static int expected_result(size_t i) {
    const struct expected *entry = &expected[i];
    if (entry->owner >= 0)
        return CM_E_BUSY;
    if (!entry->flags)
        return overflow || count_bound() == CM_LOCKS_IN_BUCKET ? CM_LOCK_ASK : 0;
    uint64_t handed = CM_LOCK_WAITED | CM_LOCK_HANDED;
    return entry->flags & CM_LOCK_REVOKED || (entry->flags & handed) == handed ? CM_E_BUSY : 0;
}

/* Each name that counts has one record, and there is no other one. */
static void check_records(void) {
    unsigned bound = 0;
    for (int i = 0; i < CM_LOCKS_IN_BUCKET; i++)
        bound += atomic_load(&bucket()->locks[i].state) != 0;
    assert_int_equal(bound, count_bound());
    for (size_t i = 0; i < NAMES; i++) {
        struct cm_hash128 hash = cm_lock_name(segment, name(i));
        unsigned records = 0;
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++) {
            struct cm_lock *lock = &bucket()->locks[j];
            if (!atomic_load(&lock->state) || atomic_load(&lock->name[0]) != hash.low ||
                atomic_load(&lock->name[1]) != hash.high)
                continue;
            records++;
            uint64_t token = expected[i].owner >= 0 ? expected[i].id.token : 0;
            assert_int_equal(cm_lock_token(atomic_load(&lock->state)), token);
        }
        assert_int_equal(records, expected[i].owner >= 0 || expected[i].flags);
    }
}

static void a_name_never_has_two_records(void **state) {
    (void)state;
    uint64_t random = 5, last = 0, results[3] = {0};
    for (size_t i = 0; i < NAMES; i++)
        expected[i] = (struct expected){.owner = -1};
    overflow = 0;
    for (int i = 0; i < 100000; i++) {
        size_t n = random_below(&random, NAMES / 2);
        struct expected *entry = &expected[n];
        int who = (int)random_below(&random, LOCKERS);
        size_t what = random_below(&random, 100);
        if (what < 50) {
            int result = expected_result(n);
            struct cm_grant grant;
            assert_int_equal(take(who, name(n), &grant), result);
            results[result ? 1 + (result == CM_LOCK_ASK) : 0]++;
            if (!result) {
                assert_true(grant.id.token > last);
                last = grant.id.token;
                assert_int_equal(grant.abandoned, (entry->flags & CM_LOCK_ABANDONED) != 0);
                *entry = (struct expected){who, grant.id, entry->flags & CM_LOCK_WAITED};
            }
        } else if (what < 85) {
            int result = entry->owner < 0 ? CM_E_NOTOWNER : entry->owner == who ? 0 : CM_LOCK_ASK;
            assert_int_equal(release(who, name(n), entry->id), result);
            if (!result)
                entry->owner = -1;
        } else if (what < 95) {
            /* The master's doing. */
            if (entry->owner < 0 && entry->flags) {
                entry->flags = random_below(&random, 2) ? 0 : random_below(&random, 16);
                set_state(entry->id, entry->flags);
            } else if (entry->owner >= 0) {
                entry->flags = random_below(&random, 2) ? 0 : CM_LOCK_WAITED;
                set_state(entry->id, entry->id.token << 4 | entry->flags);
                atomic_store(&cm_lock_at(segment, entry->id.slot)->head_since_ms, stores_clock());
            }
        } else {
            overflow = random_below(&random, 3) == 0;
            atomic_store(&bucket()->overflow, overflow);
        }
        check_records();
    }
    for (int i = 0; i < 3; i++)
        assert_true(results[i] > 1000);
}

/* --- fences */

static int set_number(int64_t number, struct cm_lock_id fence) {
    uint64_t version;
    struct cm_value value = {.is_number = true, .number.integer = number};
    return cm_store_set(stores_master(&stores), cm_bytes_of("number"), &value,
                        &(struct cm_change){.fence = fence}, &version);
}

static int64_t get_number(void) {
    struct cm_value value = {0};
    struct cm_buf buf = {0};
    assert_int_equal(cm_store_get(stores_master(&stores), cm_bytes_of("number"), &buf, &value, NULL, NULL),
                     0);
    assert_true(value.is_number);
    return value.number.integer;
}

static int change_bytes(const char *text, struct cm_change change) {
    uint64_t version;
    struct cm_value value = {.bytes = cm_bytes_of(text)};
    return cm_store_set(stores_master(&stores), cm_bytes_of("bytes"), &value, &change, &version);
}

static void assert_bytes(const char *text) {
    struct cm_value value = {0};
    struct cm_buf buf = {0};
    int err = cm_store_get(stores_master(&stores), cm_bytes_of("bytes"), &buf, &value, NULL, NULL);
    assert_int_equal(err, text ? 0 : CM_E_NOTFOUND);
    if (text) {
        assert_int_equal(value.bytes.len, strlen(text));
        assert_memory_equal(value.bytes.data, text, value.bytes.len);
    }
    cm_buf_deinit(&buf);
}

static void a_fence_lets_through_while_its_lock_is_held(void **state) {
    (void)state;
    uint64_t version;
    struct cm_change none = {0};
    struct cm_grant grant = taken(0, some);
    struct cm_change fenced = {.fence = grant.id};
    assert_int_equal(set_number(1, none.fence), 0);
    assert_int_equal(set_number(2, grant.id), 0);
    assert_int_equal(get_number(), 2);
    assert_int_equal(change_bytes("a", fenced), 0);
    assert_bytes("a");
    /* The other conditions count as well, and the fence comes first. */
    assert_int_equal(change_bytes("b", (struct cm_change){.fence = grant.id, .if_absent = true}),
                     CM_E_EXISTS);
    assert_int_equal(change_bytes("b", (struct cm_change){.fence = grant.id, .if_version = true}),
                     CM_E_CONFLICT);
    assert_int_equal(release(0, some, grant.id), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(set_number(3, fenced.fence), CM_E_NOTOWNER);
        assert_int_equal(get_number(), 2);
        assert_int_equal(change_bytes("b", fenced), CM_E_NOTOWNER);
        assert_int_equal(change_bytes("b", (struct cm_change){.fence = fenced.fence, .if_absent = true}),
                         CM_E_NOTOWNER);
        assert_int_equal(cm_store_remove(stores_master(&stores), cm_bytes_of("bytes"), &fenced, &version),
                         CM_E_NOTOWNER);
        assert_int_equal(version, 0);
        assert_bytes("a");
        if (i == 0)
            grant = taken(1, some); /* the second time the lock is somebody else's */
    }
    fenced.fence = grant.id;
    assert_int_equal(cm_store_remove(stores_master(&stores), cm_bytes_of("bytes"), &fenced, &version), 0);
    assert_bytes(NULL);
}

/* It is checked in the section in which the write is published: who waits for that section while its lock is
 * revoked comes too late. */
enum fenced_write { IN_PLACE, APPENDED, REMOVED, WRITES };

struct fenced {
    struct cm_store store;
    struct cm_lock_id fence;
    enum fenced_write write;
    int result;
};

static const char *write_fenced(void *data) {
    struct fenced *fenced = data;
    uint64_t version;
    struct cm_change change = {.fence = fenced->fence};
    struct cm_value number = {.is_number = true, .number.integer = 2};
    struct cm_value bytes = {.bytes = cm_bytes_of("late")};
    struct cm_bytes key = cm_bytes_of("number");
    if (fenced->write == REMOVED)
        fenced->result = cm_store_remove(&fenced->store, key, &change, &version);
    else
        fenced->result = cm_store_set(&fenced->store, key, fenced->write == IN_PLACE ? &number : &bytes,
                                      &change, &version);
    return NULL;
}

static void a_fence_is_checked_where_the_write_is_published(void **state) {
    (void)state;
    for (enum fenced_write write = IN_PLACE; write < WRITES; write++) {
        struct cm_grant grant = taken(0, some);
        assert_int_equal(set_number(1, grant.id), 0);
        struct fenced fenced = {.fence = grant.id, .write = write};
        cm_store_init(&fenced.store, &lockers[0].participant);
        struct cm_section section;
        struct cm_key key = cm_table_key(segment, cm_bytes_of("number"));
        cm_table_enter(&lockers[1].participant, key.hash, &section);
        struct running running;
        start_thread(&running, write_fenced, &fenced);
        bool waits = waits_for_line(lockers[0].participant.seat, section.line);
        set_state(grant.id, CM_LOCK_REVOKED);
        cm_section_leave(&section);
        end_thread(&running);
        assert_true(waits);
        assert_int_equal(fenced.result, CM_E_NOTOWNER);
        assert_int_equal(get_number(), 1);
        set_state(grant.id, 0);
        cm_store_deinit(&fenced.store);
    }
}

/* --- spinning */

static void spinning_comes_to_an_end(void **state) {
    (void)state;
    struct cm_locker *locker = &lockers[1].locker;
    struct cm_grant grant = taken(0, some), other;
    locker->spins = 400;
    if (sigsetjmp(stores_stuck, 1))
        fail_msg("it spins on");
    stores_watch(WATCH_S);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(cm_lock_take(locker, some, 0, 0, true, &other), CM_E_BUSY);
    /* It has given up by now, but for a try now and then. */
    assert_int_equal(locker->spins, 0);
    /* Nobody gets past one who waits by it, and one whose lease is over does not give it back. */
    locker->spins = UINT32_MAX;
    set_state(grant.id, grant.id.token << 4 | CM_LOCK_WAITED);
    assert_int_equal(cm_lock_take(locker, some, 0, 0, true, &other), CM_E_BUSY);
    set_state(grant.id, CM_LOCK_REVOKED);
    assert_int_equal(cm_lock_take(locker, some, 0, 0, true, &other), CM_E_BUSY);
    set_state(grant.id, 0);
    assert_int_equal(cm_lock_take(locker, some, 0, stores_clock(), true, &other), 0);
    assert_int_equal(cm_lock_take(locker, some, 0, 0, true, &other), CM_LOCK_ASK);
    alarm(0);
}

struct spinning {
    _Atomic uint64_t begun;
    int result;
};

static const char *spin_for_it(void *data) {
    struct spinning *spinning = data;
    struct cm_grant grant;
    lockers[1].locker.spins = UINT32_MAX;
    atomic_store(&spinning->begun, 1);
    spinning->result = cm_lock_take(&lockers[1].locker, some, 0, 0, true, &grant);
    return spinning->result || release(1, some, grant.id) == 0 ? NULL : "its own lock is not its own";
}

static void who_spins_gets_what_is_given_back(void **state) {
    (void)state;
    struct spinning spinning = {0};
    struct running running;
    struct cm_grant grant = taken(0, some);
    start_thread(&running, spin_for_it, &spinning);
    bool begun = becomes(&spinning.begun, 1);
    /* It looks at the lock for the first time before or after this; both ends well. */
    int released = release(0, some, grant.id);
    end_thread(&running);
    assert_true(begun);
    assert_int_equal(released, 0);
    assert_int_equal(spinning.result, 0);
    assert_int_equal(lockers[1].locker.spins > 0, 1);
}

/* --- all of them at once, with the master's queue */

enum { FEW = 3, ROUNDS = 3000, IDLE = 0, ASKED, DONE };

/* What a locker asks the master thread for, and its answer. */
struct mailbox {
    _Atomic uint64_t state;
    size_t lock;
    struct cm_lock_id id;
    struct cm_grant grant;
    int code;
    bool releases;
    bool fair;
};

/* What the locks guard. */
static struct guarded {
    _Atomic uint64_t inside; /* relaxed: it orders nothing */
    uint64_t count;          /* plain: the lock alone keeps the threads apart */
    uint64_t last_token;     /* likewise */
} guarded[FEW];

static struct mailbox mailboxes[LOCKERS];
static _Atomic uint64_t running_lockers;
static _Atomic uint64_t asked_count;
static int master_bell;

static void answer(void *data, struct cm_lock_asker asker, int code, const struct cm_grant *grant,
                   const char *text) {
    (void)data, (void)text;
    struct mailbox *mailbox = &mailboxes[asker.request];
    mailbox->code = code;
    if (grant)
        mailbox->grant = *grant;
    atomic_store_explicit(&mailbox->state, DONE, memory_order_release);
}

static int ask(int who) {
    struct mailbox *mailbox = &mailboxes[who];
    atomic_fetch_add(&asked_count, 1);
    atomic_store_explicit(&mailbox->state, ASKED, memory_order_release);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (atomic_load_explicit(&mailbox->state, memory_order_acquire) != DONE) {
        if (cm_clock_ms() > deadline_ms)
            return CM_E_TIMEOUT;
        sched_yield();
    }
    return mailbox->code;
}

static const char *lock_all_the_time(void *data) {
    struct mailbox *mailbox = data;
    int who = (int)(mailbox - mailboxes);
    const char *wrong = NULL;
    uint64_t random = (uint64_t)who + 10;
    for (int i = 0; !wrong && i < ROUNDS; i++) {
        size_t n = random_below(&random, FEW);
        struct cm_grant grant;
        int err = cm_lock_take(&lockers[who].locker, name(n), 0, 0, i % 2, &grant);
        if (err) {
            mailbox->releases = false;
            mailbox->lock = n;
            mailbox->fair = i % 16 == 0;
            err = ask(who);
            grant = mailbox->grant;
        }
        if (err) {
            wrong = "a request is not granted";
            break;
        }
        struct guarded *its = &guarded[n];
        if (atomic_fetch_add_explicit(&its->inside, 1, memory_order_relaxed))
            wrong = "two have a lock";
        if (grant.abandoned)
            wrong = "a lock that nobody has abandoned";
        if (its->last_token >= grant.id.token)
            wrong = "a token that is not greater than the last owner's";
        its->last_token = grant.id.token;
        its->count++;
        if (i % 8 == 0)
            sched_yield();
        atomic_fetch_sub_explicit(&its->inside, 1, memory_order_relaxed);
        /* Now and then by way of the master, as somebody else would. */
        if (i % 32 == 0) {
            mailbox->releases = true;
            mailbox->id = grant.id;
            mailbox->lock = n;
            err = ask(who);
        } else {
            err = release(who, name(n), grant.id);
        }
        if (err)
            wrong = "a lock is not given back";
    }
    atomic_fetch_sub(&running_lockers, 1);
    return wrong;
}

static const char *be_master(void *data) {
    struct cm_lockq *queue = data;
    uint64_t looked_ms = 0;
    while (atomic_load(&running_lockers)) {
        uint64_t count;
        if (read(master_bell, &count, sizeof count) > 0 || cm_clock_ms() > looked_ms + 10) {
            atomic_exchange(&segment->header->rung, 0);
            looked_ms = cm_clock_ms();
            cm_lockq_look(queue);
        }
        for (uint64_t i = 0; i < LOCKERS; i++) {
            struct mailbox *mailbox = &mailboxes[i];
            if (atomic_load_explicit(&mailbox->state, memory_order_acquire) != ASKED)
                continue;
            atomic_store_explicit(&mailbox->state, IDLE, memory_order_relaxed);
            struct cm_lock_asker asker = {lockers[i].participant.id, i};
            struct cm_lock_request request = {.asker = asker,
                                              .key = name(mailbox->lock),
                                              .timeout_ms = CM_LOCK_NO_TIMEOUT,
                                              .fair = mailbox->fair};
            if (mailbox->releases ? cm_lockq_release(queue, asker, name(mailbox->lock), mailbox->id)
                                  : cm_lockq_request(queue, &request))
                return "the queue is without memory";
        }
        sched_yield();
    }
    return NULL;
}

static void one_has_a_lock_at_a_time(void **state) {
    (void)state;
    struct cm_lockq queue;
    struct running master, running[LOCKERS];
    assert_int_equal(cm_lockq_init(&queue, &stores.seats[0].participant), 0);
    queue.answer = answer;
    master_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(master_bell >= 0);
    memset(mailboxes, 0, sizeof mailboxes);
    memset(guarded, 0, sizeof guarded);
    atomic_store(&running_lockers, LOCKERS);
    atomic_store(&asked_count, 0);
    for (int i = 0; i < LOCKERS; i++) {
        lockers[i].participant.bell = master_bell;
        lockers[i].locker.clock_ms = cm_clock_ms;
    }
    start_thread(&master, be_master, &queue);
    for (int i = 0; i < LOCKERS; i++)
        start_thread(&running[i], lock_all_the_time, &mailboxes[i]);
    for (int i = 0; i < LOCKERS; i++)
        end_thread(&running[i]);
    end_thread(&master);
    uint64_t count = 0;
    for (size_t i = 0; i < FEW; i++)
        count += guarded[i].count;
    assert_int_equal(count, LOCKERS * ROUNDS);
    assert_true(atomic_load(&asked_count) >= LOCKERS * ROUNDS / 32);
    cm_lockq_look(&queue);
    assert_int_equal(queue.names.count, 0);
    for (int i = 0; i < CM_LOCKS_IN_BUCKET; i++)
        assert_int_equal(atomic_load(&bucket()->locks[i].state), 0);
    cm_lockq_deinit(&queue);
    close(master_bell);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_all, close_all)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lock_ids_read_back),
        cmocka_unit_test(a_later_lock_id_is_the_greater_number),
        cmocka_unit_test(other_texts_are_no_lock_ids),
        TEST(a_free_lock_is_taken_and_given_back),
        TEST(another_id_or_key_is_not_its_owners),
        TEST(who_has_not_taken_it_asks_the_master),
        TEST(the_next_owner_is_told_once_that_it_was_abandoned),
        TEST(a_lock_that_is_revoked_or_handed_over_is_not_taken),
        TEST(a_release_rings_for_who_waits),
        TEST(who_takes_a_lock_again_and_again_does_not_ring_each_time),
        TEST(a_revoked_lock_is_not_given_back_twice),
        TEST(a_lock_that_passes_on_in_the_midst_is_not_given_back),
        TEST(a_renewal_is_decided_as_the_buckets_owner),
        TEST(a_lease_that_is_over_is_the_masters_to_end),
        TEST(the_earliest_lease_is_noted),
        TEST(a_full_bucket_asks_the_master),
        TEST(a_name_that_may_be_with_the_master_is_not_made),
        TEST(a_name_never_has_two_records),
        TEST(a_fence_lets_through_while_its_lock_is_held),
        TEST(a_fence_is_checked_where_the_write_is_published),
        TEST(spinning_comes_to_an_end),
        TEST(who_spins_gets_what_is_given_back),
        TEST(one_has_a_lock_at_a_time),
    };
#undef TEST
    return cmocka_run_group_tests_name("lock", tests, NULL, nothing_is_left);
}
