/* Processes that stand still: those in a section are killed after a second, nobody else is, and who waits
 * goes on; and masters that wait for the dead. */
#include <unistd.h>

#include "spec/core/hunt.h"

static struct hunt hunt;

static void stand_in_section(struct hunt_self *self) {
    struct hunt_key key;
    uint64_t version;
    struct cm_value value = {.bytes = {(const uint8_t *)"short", 5}};
    cm_fault_arm("group-taken", 1, CM_FAULT_STOP);
    cm_store_set(&self->store, hunt_key(&key, "room 1"), &value, &(struct cm_change){0}, &version);
}

/* Half of what fits is set again and again, in other groups than the one that somebody stands in: there is
 * room for all of it, after cleaning. */
static void test_room_beside_an_owner(void **state) {
    (void)state;
    struct hunt_key key;
    uint8_t bytes[1000];
    uint64_t version, keys = cm_chunk_limit_bytes(&hunt.segment) / 2 / (sizeof bytes + 64);
    for (uint64_t i = 0; i < keys; i++) {
        struct cm_value value = {.bytes = {bytes, sizeof bytes}};
        hunt_fill(bytes, sizeof bytes, i, 1);
        assert_int_equal(cm_store_set(&hunt.store, hunt_key(&key, "room %lu", (unsigned long)i), &value,
                                      &(struct cm_change){0}, &version),
                         0);
        if (i % 64 == 0)
            hunt_turn(&hunt);
    }
    uint32_t group = hunt_group(&hunt, hunt_key(&key, "room 1"));
    hunt_start(&hunt, 0, stand_in_section, NULL);
    while (!hunt_is(&hunt, 0, WSTOPPED))
        hunt_pause();
    uint64_t random = 1, wrong = 0, served = 0, start_us = hunt_now_us();
    struct cm_store_stats stats = {0};
    int first = 0;
    while (hunt_now_us() - start_us < 500000) {
        uint64_t i = random_below(&random, keys);
        if (hunt_group(&hunt, hunt_key(&key, "room %lu", (unsigned long)i)) == group)
            continue;
        struct cm_value value = {.bytes = {bytes, sizeof bytes}};
        hunt_fill(bytes, sizeof bytes, i, 2);
        int err = cm_store_set(&hunt.store, key.bytes, &value, &(struct cm_change){0}, &version);
        served++;
        if (err && !wrong++) {
            first = err;
            cm_store_stats(&hunt.store, &stats);
        }
    }
    kill(hunt.workers[0].pid, SIGKILL);
    hunt_until(&hunt, 0, WEXITED);
    hunt_take(&hunt, 0);
    hunt_bury(&hunt, 0);
    HUNT_CHECK(wrong == 0, "%lu of %lu sets beside a stopped owner: %s, with %lu of %lu bytes used",
               (unsigned long)wrong, (unsigned long)served, cm_error_name(first),
               (unsigned long)stats.used_bytes, (unsigned long)stats.limit_bytes);
}

/* --- three stand in sections, and everybody else goes on --- */

enum {
    STOPPED = 3, /* workers 0 .. 2; for each a waiter, and a reader behind */
    WAITERS = STOPPED,
    READERS = WAITERS + STOPPED,
    IDLE = READERS + STOPPED, /* stopped outside any section */
    BUSY,                     /* in one group all the time, and stopped in it now and then */
    CREW,
    LOOK_MS = 250,
    STILL_MS = 1000,
    LATE_MS = 4000, /* what the machine's other work may take */
    BUSY_STOP_MS = 600,
    BUSY_STOPS = 3,     /* together longer than anybody may stand */
    LEAST_READS = 1000, /* while somebody stands there */
    WAITS_MOST = 400,   /* of the master, for the dead: it looks when it has spun for a while, not later */
    SHUT = 1,
};

static const char *const stop_points[STOPPED] = {"group-taken", "number-shut", "after-publish"};

struct crew {
    struct hunt_key stopped[STOPPED]; /* what is written when the worker stops itself */
    struct hunt_key beside[STOPPED];  /* another key of that group */
    struct hunt_key idle;
    struct hunt_key busy;
    _Atomic uint64_t reads[STOPPED];
    _Atomic uint64_t slowest_us[STOPPED];
    _Atomic uint64_t waited[STOPPED]; /* waiters that are through */
    _Atomic uint64_t busy_stops;
};
static struct crew *crew;

static void write_number(struct hunt_self *self, struct cm_bytes key) {
    uint64_t version;
    struct cm_value value = {.is_number = true, .number.integer = 2};
    int err = cm_store_set(&self->store, key, &value, &(struct cm_change){0}, &version);
    HUNT_CHECK(err == 0, "set: %s", cm_error_name(err));
}

static void stop_writing(struct hunt_self *self) {
    unsigned i = self->number;
    cm_fault_arm(stop_points[i], 1, CM_FAULT_STOP);
    if (i == SHUT) {
        write_number(self, crew->stopped[i].bytes);
    } else {
        uint64_t version;
        struct cm_value value = {.bytes = {(const uint8_t *)"short", 5}};
        cm_store_set(&self->store, crew->stopped[i].bytes, &value, &(struct cm_change){0}, &version);
    }
    HUNT_CHECK(0, "went on after it stood in a section for a second");
}

static void wait_behind(struct hunt_self *self) {
    write_number(self, crew->beside[self->number - WAITERS].bytes);
    atomic_store(&crew->waited[self->number - WAITERS], 1);
    while (!hunt_told_to_stop(self))
        hunt_pause();
}

static void read_beside(struct hunt_self *self) {
    unsigned i = self->number - READERS;
    while (!hunt_told_to_stop(self)) {
        struct cm_value value;
        uint64_t version, start_us = hunt_now_us();
        int err = cm_store_get(&self->store, crew->beside[i].bytes, &self->buf, &value, &version, NULL);
        HUNT_CHECK(err == 0 && value.is_number, "get: %s", cm_error_name(err));
        uint64_t us = hunt_now_us() - start_us;
        if (us > atomic_load(&crew->slowest_us[i]))
            atomic_store(&crew->slowest_us[i], us);
        if (atomic_fetch_add(&crew->reads[i], 1) % 64 == 0)
            hunt_pause();
    }
}

static void stop_outside(struct hunt_self *self) {
    write_number(self, crew->idle.bytes);
    raise(SIGSTOP);
}

static void keep_busy(struct hunt_self *self) {
    for (uint64_t i = 0; !hunt_told_to_stop(self); i++) {
        if (i % 20000 == 10000)
            cm_fault_arm("number-stored", 1, CM_FAULT_STOP);
        write_number(self, crew->busy.bytes);
    }
}

static struct {
    int32_t pid;
    uint64_t at_ms;
} stands[HUNT_WORKERS_MOST];
static unsigned stand_count;

static void note_stand(void *data, int32_t pid) {
    (void)data;
    for (unsigned i = 0; i < stand_count; i++)
        HUNT_CHECK(stands[i].pid != pid, "%d is killed twice", (int)pid);
    stands[stand_count].pid = pid;
    stands[stand_count++].at_ms = cm_clock_ms();
}

static void await_stop(unsigned number) {
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !hunt_is(&hunt, number, WSTOPPED); hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "worker %u does not stop", number);
}

static void put_number(struct cm_bytes key) {
    uint64_t version;
    struct cm_value value = {.is_number = true, .number.integer = 1};
    assert_int_equal(cm_store_set(&hunt.store, key, &value, &(struct cm_change){0}, &version), 0);
}

static void prepare_crew(void) {
    crew = hunt_share(sizeof *crew);
    uint32_t groups[STOPPED + 2];
    struct hunt_key *keys[STOPPED + 2] = {&crew->stopped[0], &crew->stopped[1], &crew->stopped[2],
                                          &crew->idle, &crew->busy};
    /* Each in a group of its own. */
    for (unsigned i = 0, n = 0; i < STOPPED + 2; n++) {
        groups[i] = hunt_group(&hunt, hunt_key(keys[i], "key %u", n));
        bool is_new = true;
        for (unsigned j = 0; j < i; j++)
            is_new &= groups[j] != groups[i];
        if (!is_new)
            continue;
        if (i < STOPPED) {
            hunt_key_in(&hunt, groups[i], "beside", &crew->beside[i]);
            put_number(crew->beside[i].bytes);
        }
        put_number(keys[i]->bytes);
        i++;
    }
    stand_count = 0;
    hunt.reaper.on_stand_still = note_stand;
}

/* Seen waiting, and then stopped while it does: who only waits is not killed. */
static void await_waiting(unsigned i) {
    struct cm_seat *seat = cm_segment_seat(&hunt.segment, hunt.workers[WAITERS + i].seat);
    uint64_t group = hunt_group(&hunt, crew->stopped[i].bytes);
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; atomic_load(&seat->waiting_on) != group + 1;
         hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "waiter %u does not say what it waits for", i);
}

/* Continues the busy one, when it has stood for a while. */
static void mind_busy(uint64_t *since_ms) {
    if (*since_ms == 0 && hunt_is(&hunt, BUSY, WSTOPPED)) {
        *since_ms = cm_clock_ms();
    } else if (*since_ms && cm_clock_ms() - *since_ms >= BUSY_STOP_MS) {
        /* Taken, so that the next stop is seen as one. */
        siginfo_t info;
        waitid(P_PID, (id_t)hunt.workers[BUSY].pid, &info, WSTOPPED | WNOHANG);
        kill(hunt.workers[BUSY].pid, SIGCONT);
        atomic_fetch_add(&crew->busy_stops, 1);
        *since_ms = 0;
    }
}

static void test_stand_still(void **state) {
    (void)state;
    prepare_crew();
    hunt_start(&hunt, IDLE, stop_outside, NULL);
    await_stop(IDLE);
    uint64_t stopped_ms[STOPPED], start_ms = cm_clock_ms(), looked_ms = 0, busy_since_ms = 0,
                                  reads[STOPPED] = {0};
    cm_reaper_look(&hunt.reaper, start_ms);
    for (unsigned i = 0; i < STOPPED; i++) {
        hunt_start(&hunt, i, stop_writing, NULL);
        await_stop(i);
        stopped_ms[i] = cm_clock_ms();
        hunt_start(&hunt, WAITERS + i, wait_behind, NULL);
        hunt_start(&hunt, READERS + i, read_beside, NULL);
    }
    for (unsigned i = 0; i < STOPPED; i++)
        await_waiting(i);
    kill(hunt.workers[WAITERS].pid, SIGSTOP);
    await_stop(WAITERS);
    hunt_start(&hunt, BUSY, keep_busy, NULL);
    unsigned dead = 0;
    uint64_t slowest_us[STOPPED];
    for (uint64_t deadline_ms = start_ms + 10000;
         dead < STOPPED || atomic_load(&crew->busy_stops) < BUSY_STOPS; hunt_pause()) {
        uint64_t now_ms = cm_clock_ms();
        HUNT_CHECK(now_ms < deadline_ms, "%u of %u are killed", dead, STOPPED);
        if (now_ms - looked_ms >= LOOK_MS) {
            looked_ms = now_ms;
            cm_reaper_look(&hunt.reaper, now_ms);
        }
        mind_busy(&busy_since_ms);
        for (unsigned i = 0; i < STOPPED; i++) {
            if (!hunt.workers[i].pid || !hunt_is(&hunt, i, WEXITED))
                continue;
            reads[i] = atomic_load(&crew->reads[i]);
            slowest_us[i] = atomic_load(&crew->slowest_us[i]);
            HUNT_CHECK(!atomic_load(&crew->waited[i]), "somebody entered the group of one that stands in it");
            assert_int_equal(hunt_take(&hunt, i), SIGKILL);
            hunt_bury(&hunt, i);
            hunt_check_unnamed(&hunt, hunt.workers[i].seat);
            dead++;
        }
    }
    uint64_t repaired_ms = cm_clock_ms();
    kill(hunt.workers[WAITERS].pid, SIGCONT);
    for (unsigned i = 0; i < STOPPED; i++) {
        while (!atomic_load(&crew->waited[i]) || atomic_load(&crew->reads[i]) <= reads[i]) {
            HUNT_CHECK(cm_clock_ms() - repaired_ms < 1000, "who waited behind %s does not go on",
                       stop_points[i]);
            hunt_pause();
        }
        uint64_t after_ms = stands[i].at_ms - stopped_ms[i];
        HUNT_CHECK(after_ms >= STILL_MS && after_ms < LATE_MS, "killed after %lu ms",
                   (unsigned long)after_ms);
        HUNT_CHECK(i == SHUT ? reads[i] == 0 : reads[i] >= LEAST_READS && slowest_us[i] < 500000,
                   "%lu reads beside %s, the slowest in %lu us", (unsigned long)reads[i], stop_points[i],
                   (unsigned long)slowest_us[i]);
        printf("stops: at %s killed after %lu ms; %lu reads beside it meanwhile, the slowest in %lu us\n",
               stop_points[i], (unsigned long)after_ms, (unsigned long)reads[i],
               (unsigned long)slowest_us[i]);
    }
    assert_int_equal(stand_count, STOPPED);
    kill(hunt.workers[IDLE].pid, SIGCONT);
    atomic_store(&hunt.shared->stop, 1);
    kill(hunt.workers[BUSY].pid, SIGCONT);
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !hunt_is(&hunt, BUSY, WEXITED); hunt_pause()) {
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "the busy one does not end");
        kill(hunt.workers[BUSY].pid, SIGCONT);
    }
    hunt_finish(&hunt); /* fails if any other was killed */
    struct hunt_audit audit;
    assert_true(hunt_clean(&hunt));
    hunt_audit(&hunt, true, &audit);
}

/* --- by a clock of the test's: not a millisecond early, and not by a master that was away --- */

static bool look_kills(uint64_t now_ms) {
    unsigned before = stand_count;
    cm_reaper_look(&hunt.reaper, now_ms);
    return stand_count > before;
}

static void test_clock(void **state) {
    (void)state;
    prepare_crew();
    uint64_t now_ms = 1000000;
    assert_false(look_kills(now_ms));
    hunt_start(&hunt, 0, stop_writing, NULL);
    await_stop(0);
    assert_false(look_kills(now_ms += 250)); /* seen there for the first time */
    for (int i = 0; i < 3; i++)
        assert_false(look_kills(now_ms += 250));
    assert_false(look_kills(now_ms += 249));
    /* The master was away: it begins anew. */
    assert_false(look_kills(now_ms += 5000));
    assert_false(look_kills(now_ms += 5000));
    for (int i = 0; i < 3; i++)
        assert_false(look_kills(now_ms += 250));
    assert_false(look_kills(now_ms += 249));
    assert_false(hunt_is(&hunt, 0, WEXITED));
    assert_true(look_kills(now_ms += 1));
    hunt_until(&hunt, 0, WEXITED);
    assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    hunt_bury(&hunt, 0);
}

/* --- what has been done by then --- */

static void stop_retiring(struct hunt_self *self) {
    cm_fault_arm(self->data, 1, CM_FAULT_STOP);
    write_number(self, crew->stopped[0].bytes);
    uint64_t version;
    struct cm_value value = {.bytes = {(const uint8_t *)"short", 5}};
    cm_store_set(&self->store, crew->stopped[0].bytes, &value, &(struct cm_change){0}, &version);
}

/* The sequence has moved on before any bytes leave their chunk's count: readers that are in the old value
 * must see that before its chunk can be used anew. */
static void test_published_before_retired(void **state) {
    (void)state;
    static char points[][20] = {"before-retiring", "retired"};
    prepare_crew();
    for (unsigned i = 0; i < 2; i++) {
        put_number(crew->stopped[0].bytes);
        uint32_t index = hunt_group(&hunt, crew->stopped[0].bytes);
        uint64_t before = cm_word_sequence(atomic_load(&hunt.segment.groups[index].word));
        hunt_start(&hunt, 0, stop_retiring, points[i]);
        await_stop(0);
        uint64_t word = atomic_load(&hunt.segment.groups[index].word);
        /* The number has taken one step, and what replaces it another. */
        HUNT_CHECK(cm_word_sequence(word) == before + 4, "at %s the sequence went from %lu to %lu", points[i],
                   (unsigned long)before, (unsigned long)cm_word_sequence(word));
        assert_int_equal(cm_word_owner(word), hunt.workers[0].seat);
        kill(hunt.workers[0].pid, SIGKILL);
        hunt_until(&hunt, 0, WEXITED);
        assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
        hunt_bury(&hunt, 0);
    }
}

/* --- a master that waits --- */

static void die_owning(struct hunt_self *self) {
    cm_fault_arm("after-publish", 1, CM_FAULT_KILL);
    uint64_t version;
    struct cm_value value = {.bytes = {(const uint8_t *)"short", 5}};
    cm_store_set(&self->store, crew->stopped[0].bytes, &value, &(struct cm_change){0}, &version);
}

static void await_end(unsigned number) {
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !hunt_is(&hunt, number, WEXITED); hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "worker %u does not end", number);
}

static uint64_t ms_of_a_set(void) {
    uint64_t start_us = hunt_now_us();
    put_number(crew->beside[0].bytes);
    return (hunt_now_us() - start_us) / 1000;
}

/* How often it looks is counted, since a look may take long on a busy machine. */
static void check_dead_owner(bool taken) {
    prepare_crew();
    hunt_start(&hunt, 0, die_owning, NULL);
    await_end(0);
    if (taken)
        assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    uint64_t ms = ms_of_a_set();
    unsigned waits = hunt.participant.waits;
    HUNT_CHECK(waits <= WAITS_MOST && ms < 1000, "the master waited %u times, %lu ms, for a dead owner",
               waits, (unsigned long)ms);
    if (!taken)
        assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    hunt_bury(&hunt, 0);
    hunt_check_unnamed(&hunt, hunt.workers[0].seat);
    assert_int_equal(stand_count, 0);
    struct hunt_audit audit;
    assert_true(hunt_clean(&hunt));
    hunt_audit(&hunt, true, &audit);
    printf("stops: a master waited %u times, %lu ms, for one that was dead%s\n", waits, (unsigned long)ms,
           taken ? " and gone" : "");
}

static void test_master_waits_for_zombie(void **state) {
    (void)state;
    check_dead_owner(false);
}

static void test_master_waits_for_nobody(void **state) {
    (void)state;
    check_dead_owner(true);
}

static void test_master_waits_for_stopped(void **state) {
    (void)state;
    prepare_crew();
    hunt_start(&hunt, 0, stop_writing, NULL);
    await_stop(0);
    uint64_t ms = ms_of_a_set();
    HUNT_CHECK(ms >= STILL_MS && ms < LATE_MS, "the master waited %lu ms", (unsigned long)ms);
    assert_int_equal(stand_count, 1);
    await_end(0);
    assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    hunt_bury(&hunt, 0);
    printf("stops: a master waited %lu ms for one that stood still\n", (unsigned long)ms);
}

static int open_hunt(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(32) << 20, CREW + 1);
    return 0;
}

static int close_hunt(void **state) {
    (void)state;
    hunt_close(&hunt);
    return 0;
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_room_beside_an_owner, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_stand_still, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_clock, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_published_before_retired, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_master_waits_for_zombie, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_master_waits_for_nobody, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_master_waits_for_stopped, open_hunt, close_hunt),
    };
    return cmocka_run_group_tests_name("stops", tests, NULL, NULL);
}
