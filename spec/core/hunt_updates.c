/* Updates that must not be lost: increments of one key and of many, and compare-and-set, by four processes at
 * once, while the cleaner moves everything and the table grows. All counts end exact. */
#include <sched.h>

#include "spec/core/hunt.h"

enum {
    WORKERS = 4,
    COUNTERS = 3000,
    SWAPPED = 8,   /* keys under compare-and-set */
    FEW_PART = 10, /* so many times fewer compare-and-sets than increments */
};

static struct hunt hunt;
static unsigned updates; /* of each worker */

struct outcome {
    uint64_t added[COUNTERS];
    uint64_t swapped[SWAPPED];
    uint64_t conflicts;
    uint64_t stood; /* of the increments */
};
static struct outcome *outcomes;

static _Atomic uint32_t *arrived;

/* All begin together, or the first would be done before the last has started. */
static void wait_for_all(void) {
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < WORKERS)
        hunt_pause();
}

/* Where it stands, and else anew. */
static void increment(struct hunt_self *self, struct cm_bytes key_bytes, struct cm_spot *spot,
                      uint64_t *last_version) {
    struct cm_number one = {.integer = 1}, sum;
    uint64_t version;
    if (cm_store_add_at(&self->store, spot, one, &sum)) {
        version = cm_word_sequence(spot->word);
        outcomes[self->number].stood++;
    } else {
        int err = hunt_increment(self, key_bytes, one, &version);
        HUNT_CHECK(err == 0, "increment: %s", cm_error_name(err));
        struct cm_key key = cm_store_key(&self->store, key_bytes);
        struct cm_value value;
        uint64_t now;
        err = cm_store_get_unless(&self->store, &key, 0, NULL, &value, &now, spot);
        HUNT_CHECK(err == 0 && now >= version, "get: %s, version %lu after %lu", cm_error_name(err),
                   (unsigned long)now, (unsigned long)version);
    }
    HUNT_CHECK(version > *last_version, "version %lu after %lu", (unsigned long)version,
               (unsigned long)*last_version);
    *last_version = version;
}

static void increment_one(struct hunt_self *self) {
    struct hunt_key key;
    uint64_t last_version = 0;
    struct cm_spot spot = {.word = CM_SPOT_NEVER};
    hunt_key(&key, "one");
    wait_for_all();
    for (unsigned i = 0; i < updates; i++) {
        increment(self, key.bytes, &spot, &last_version);
        if (i == 0)
            cm_append_close(&self->participant); /* so that the cleaner may move it */
    }
}

static void increment_many(struct hunt_self *self) {
    static uint64_t last_versions[COUNTERS];
    static struct cm_spot spots[COUNTERS];
    struct hunt_key key;
    for (size_t i = 0; i < COUNTERS; i++)
        spots[i].word = CM_SPOT_NEVER;
    wait_for_all();
    for (unsigned i = 0; i < updates; i++) {
        size_t number = random_below(&self->random, COUNTERS);
        increment(self, hunt_key(&key, "counter %zu", number), &spots[number], &last_versions[number]);
        outcomes[self->number].added[number]++;
    }
}

/* The count is the seed that the value is filled from; the length is another each time. */
static void swap(struct hunt_self *self) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct hunt_key key;
    wait_for_all();
    for (unsigned done = 0; done < updates / FEW_PART;) {
        size_t number = random_below(&self->random, SWAPPED);
        struct cm_value value;
        struct cm_change change = {.if_version = true};
        uint64_t version;
        uint32_t count = 0;
        hunt_key(&key, "swapped %zu", number);
        int err = cm_store_get(&self->store, key.bytes, &self->buf, &value, &change.version, NULL);
        const char *wrong = err ? NULL : hunt_check_value(value.bytes, number, &count);
        HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
        HUNT_CHECK(!wrong, "torn: %s, of %zu bytes", wrong, value.bytes.len);
        size_t len = random_below(&self->random, 50) ? 8 + random_below(&self->random, 200)
                                                     : 4000 + random_below(&self->random, 40000);
        hunt_fill(bytes, len, number, count + 1);
        value = (struct cm_value){.bytes = {bytes, len}};
        err = hunt_set(self, key.bytes, &value, &change, &version);
        HUNT_CHECK(err == 0 || err == CM_E_CONFLICT, "set: %s", cm_error_name(err));
        done += err == 0;
        outcomes[self->number].swapped[number] += err == 0;
        outcomes[self->number].conflicts += err != 0;
    }
}

static void run(hunt_work_fn work) {
    for (unsigned i = 0; i < WORKERS; i++)
        hunt_start(&hunt, i, work, NULL);
    for (unsigned i = 0; i < WORKERS; i++)
        hunt_until(&hunt, i, WEXITED);
    hunt_finish(&hunt);
}

static uint64_t counter(struct cm_bytes key) {
    struct cm_value value = {0};
    struct cm_buf buf = {0};
    int err = cm_store_get(&hunt.store, key, &buf, &value, NULL, NULL);
    HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
    HUNT_CHECK(err || (value.is_number && !value.number.is_float), "no number any more");
    cm_buf_deinit(&buf);
    return err ? 0 : (uint64_t)value.number.integer;
}

static uint64_t stood(void) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < WORKERS; i++)
        sum += outcomes[i].stood;
    return sum;
}

static void print_end(const char *what, uint64_t start_us) {
    struct hunt_audit audit;
    assert_true(hunt_clean(&hunt));
    hunt_audit(&hunt, true, &audit);
    printf("updates, %s: %.2f s, %lu without a search, %lu cleaned, %u groups, %lu served\n", what,
           (double)(hunt_now_us() - start_us) / 1e6, (unsigned long)stood(),
           (unsigned long)hunt.cleaner.cleaned_chunks, atomic_load(&hunt.segment.header->groups),
           (unsigned long)hunt.served);
}

static void test_one_key(void **state) {
    (void)state;
    uint64_t start_us = hunt_now_us();
    struct hunt_key key;
    run(increment_one);
    uint64_t sum = counter(hunt_key(&key, "one"));
    HUNT_CHECK(sum == (uint64_t)WORKERS * updates, "%lu of %lu increments", (unsigned long)sum,
               (unsigned long)WORKERS * updates);
    print_end("one key", start_us);
}

static void test_many_keys(void **state) {
    (void)state;
    uint64_t start_us = hunt_now_us();
    struct hunt_key key;
    run(increment_many);
    for (size_t i = 0; i < COUNTERS; i++) {
        uint64_t expected = 0;
        for (unsigned j = 0; j < WORKERS; j++)
            expected += outcomes[j].added[i];
        uint64_t sum = counter(hunt_key(&key, "counter %zu", i));
        HUNT_CHECK(sum == expected, "counter %zu: %lu of %lu increments", i, (unsigned long)sum,
                   (unsigned long)expected);
    }
    assert_true(atomic_load(&hunt.segment.header->groups) > 200);
    print_end("many keys", start_us);
}

static void test_compare_and_set(void **state) {
    (void)state;
    uint64_t start_us = hunt_now_us(), conflicts = 0;
    run(swap);
    struct cm_buf buf = {0};
    for (size_t i = 0; i < SWAPPED; i++) {
        uint64_t expected = 0;
        for (unsigned j = 0; j < WORKERS; j++)
            expected += outcomes[j].swapped[i];
        struct hunt_key key;
        struct cm_value value;
        uint32_t count;
        assert_int_equal(
            cm_store_get(&hunt.store, hunt_key(&key, "swapped %zu", i), &buf, &value, NULL, NULL), 0);
        assert_null(hunt_check_value(value.bytes, i, &count));
        HUNT_CHECK(count == expected, "key %zu: %u of %lu updates", i, count, (unsigned long)expected);
    }
    cm_buf_deinit(&buf);
    for (unsigned j = 0; j < WORKERS; j++)
        conflicts += outcomes[j].conflicts;
    print_end("compare-and-set", start_us);
    printf("updates: %lu conflicts\n", (unsigned long)conflicts);
}

/* --- a split between the look where a key is and the taking of that group --- */

static void set_moved(struct hunt_self *self) {
    uint64_t version;
    uint8_t bytes[20];
    hunt_fill(bytes, sizeof bytes, 1, 2);
    struct cm_value value = {.bytes = {bytes, sizeof bytes}};
    int err = hunt_set(self, *(struct cm_bytes *)self->data, &value, &(struct cm_change){0}, &version);
    HUNT_CHECK(err == 0, "set: %s", cm_error_name(err));
}

static void await(const char *what, bool (*is_so)(uint64_t), uint64_t data) {
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !is_so(data); hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "%s: not so", what);
}
static bool is_waiting(uint64_t group) {
    return atomic_load(&cm_segment_seat(&hunt.segment, hunt.workers[0].seat)->waiting_on) == group + 1;
}
static bool is_stopped(uint64_t worker) {
    return hunt_is(&hunt, (unsigned)worker, WSTOPPED);
}

static void test_split_while_waiting(void **state) {
    (void)state;
    struct hunt_key key, filler;
    uint32_t groups = atomic_load(&hunt.segment.header->groups);
    /* The next to be split is group 0; a key that moves to its child. */
    struct cm_key hashed;
    unsigned i = 0;
    do
        hashed = cm_table_key(&hunt.segment, hunt_key(&key, "moved %u", i++));
    while ((hashed.hash & (2 * (uint64_t)groups - 1)) != groups);
    uint64_t version, last_version = 0;
    for (unsigned j = 0; j < 50; j++)
        last_version = hunt_put(&hunt, key.bytes, 1, 30, 1);
    assert_int_equal(hunt_group(&hunt, key.bytes), 0);
    for (i = 0; i < groups * CM_GROUP_CHAINS + 1; i++)
        hunt_put(&hunt, hunt_key(&filler, "filler %u", i), i, 20, 1);
    struct cm_section section;
    cm_section_enter(&hunt.participant, 0, &section);
    hunt_start(&hunt, 0, set_moved, &key.bytes);
    await("waiting", is_waiting, 0);
    kill(hunt.workers[0].pid, SIGSTOP);
    await("stopped", is_stopped, 0);
    cm_section_leave(&section);
    cm_table_grow(&hunt.participant, 1);
    assert_int_equal(hunt_group(&hunt, key.bytes), groups);
    kill(hunt.workers[0].pid, SIGCONT);
    hunt_until(&hunt, 0, WEXITED);
    hunt_finish(&hunt);
    struct cm_buf buf = {0};
    struct cm_value value;
    uint32_t seed = 0;
    assert_int_equal(cm_store_get(&hunt.store, key.bytes, &buf, &value, &version, NULL), 0);
    assert_null(hunt_check_value(value.bytes, 1, &seed));
    HUNT_CHECK(version > last_version, "version %lu after %lu", (unsigned long)version,
               (unsigned long)last_version);
    assert_int_equal(seed, 2);
    cm_buf_deinit(&buf);
    struct hunt_audit audit;
    hunt_clean(&hunt);
    hunt_audit(&hunt, true, &audit);
}

/* --- readers beside growth --- */

enum { GROWTH_KEYS = 20000, GROWTH_READERS = 3 };

static void read_all(struct hunt_self *self) {
    struct hunt_key key;
    while (!hunt_told_to_stop(self)) {
        size_t number = random_below(&self->random, GROWTH_KEYS);
        int err = cm_store_get(&self->store, hunt_key(&key, "stays %zu", number), NULL, NULL, NULL, NULL);
        HUNT_CHECK(err == 0, "%s: %s while the table grows", key.text, cm_error_name(err));
    }
}

/* Every key is readable at every step of a split. */
static void test_growth(void **state) {
    (void)state;
    struct hunt_key key;
    for (unsigned i = 0; i < GROWTH_KEYS; i++)
        hunt_put(&hunt, hunt_key(&key, "stays %u", i), i, 20, 1);
    for (unsigned i = 0; i < GROWTH_READERS; i++)
        hunt_start(&hunt, i, read_all, NULL);
    uint32_t before = atomic_load(&hunt.segment.header->groups);
    for (unsigned i = 0; i < GROWTH_READERS; hunt_pause())
        i += atomic_load(&hunt.shared->workers[i].operations) > 0;
    uint64_t start_us = hunt_now_us();
    while (hunt_now_us() - start_us < 5000000 &&
           !cm_table_is_roomy(atomic_load(&hunt.segment.header->groups), cm_table_entries(&hunt.segment))) {
        cm_table_grow(&hunt.participant, 4);
        sched_yield();
    }
    uint32_t groups = atomic_load(&hunt.segment.header->groups);
    hunt_finish(&hunt);
    uint64_t reads = 0;
    for (unsigned i = 0; i < GROWTH_READERS; i++)
        reads += atomic_load(&hunt.shared->workers[i].operations);
    assert_true(groups > before * 10);
    printf("updates: %lu reads while %u groups became %u\n", (unsigned long)reads, before, groups);
}

static int open_hunt(void **state) {
    (void)state;
    updates = hunt_is_long ? 1000000 : 50000;
    hunt_open(&hunt, UINT64_C(16) << 20, WORKERS + 1);
    hunt.always_cleaning = true;
    arrived = hunt_share(sizeof *arrived);
    outcomes = hunt_share(WORKERS * sizeof *outcomes);
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
        cmocka_unit_test_setup_teardown(test_one_key, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_many_keys, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_growth, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_split_while_waiting, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_compare_and_set, open_hunt, close_hunt),
    };
    return cmocka_run_group_tests_name("updates", tests, NULL, NULL);
}
