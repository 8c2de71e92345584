/* Expiry: for readers to the millisecond, for memory by a sweep in slices, whatever becomes of the chunks. */
#include <pthread.h>

#include "spec/core/stores.h"

enum { MANY = 100000, SLICE = 500 };

static struct stores stores;

static struct cm_store *worker(void) {
    return &stores.seats[1].store;
}

static struct cm_participant *master(void) {
    return &stores.seats[0].participant;
}

static struct cm_bytes key_of(uint64_t n, char space[24]) {
    snprintf(space, 24, "%lu", (unsigned long)n);
    return cm_bytes_of(space);
}

static void put_by(uint32_t seat, uint64_t n, size_t len, uint64_t expires_ms) {
    static const uint8_t zeroes[300000];
    char space[24];
    uint64_t version;
    struct cm_value value = {.bytes = {zeroes, len}};
    assert_int_equal(stores_set(&stores, seat, key_of(n, space), &value,
                                &(struct cm_change){.expires_ms = expires_ms}, &version),
                     0);
}

static void put(uint64_t n, size_t len, uint64_t expires_ms) {
    put_by(1, n, len, expires_ms);
}

static bool is_there(uint64_t n) {
    char space[24];
    int err = cm_store_get(worker(), key_of(n, space), NULL, NULL, NULL, NULL);
    assert_true(!err || err == CM_E_NOTFOUND);
    return !err;
}

static uint64_t entries(void) {
    struct cm_store_stats stats;
    cm_store_stats(stores_master(&stores), &stats);
    return stats.entries;
}

static uint64_t used_bytes(void) {
    struct cm_store_stats stats;
    cm_store_stats(stores_master(&stores), &stats);
    return stats.used_bytes;
}

/* From wherever it stands to the end of a whole round. */
static void sweep(void) {
    for (int round = 0; round < 2; round++) {
        while (cm_expiry_sweep(&stores.sweep, master(), stores_clock(), SLICE)) {
        }
    }
}

static void begin(uint64_t total_bytes) {
    assert_int_equal(stores_open(&stores, total_bytes, 4, 3), 0);
}

static void entries_expire_to_the_millisecond(void **state) {
    (void)state;
    begin(4 << 20);
    for (uint64_t n = 0; n < 100; n++)
        put(n, 10, 2000 + n);
    for (uint64_t now = 1995; now < 2110; now++) {
        stores_turn(now);
        for (uint64_t n = 0; n < 100; n++)
            assert_int_equal(is_there(n), 2000 + n > now);
        if (now % 7 == 0)
            sweep();
        if (now % 7 == 0)
            assert_int_equal(entries(), now < 2000 ? 100 : now < 2100 ? 2099 - now : 0);
    }
    stores_close(&stores);
}

static void many_that_expire_together_come_back_in_slices(void **state) {
    (void)state;
    begin(64 << 20);
    for (uint64_t n = 0; n < MANY; n++) {
        put(n, 100, 5000);
        if (n % 1000 == 0)
            cm_table_grow(master(), 10000);
    }
    put(MANY, 100, 5001);
    put(MANY + 1, 100, 0);
    stores_turn(4999);
    sweep();
    assert_int_equal(entries(), MANY + 2);
    stores_turn(5000);
    uint64_t before = entries(), slices = 0;
    double slowest_s = 0;
    for (bool more = true; more; slices++) {
        double from = stores_seconds();
        more = cm_expiry_sweep(&stores.sweep, master(), 5000, SLICE);
        double took_s = stores_seconds() - from;
        slowest_s = took_s > slowest_s ? took_s : slowest_s;
        uint64_t after = entries();
        assert_true(before - after <= SLICE);
        before = after;
    }
    assert_int_equal(entries(), 2);
    assert_true(slices >= MANY / SLICE);
    printf("    slowest slice of %d records: %.2f ms\n", SLICE, slowest_s * 1e3);
    stores_check_counts(&stores.segment, true);
    assert_true(is_there(MANY) && is_there(MANY + 1));
    /* Nothing is due: nothing is looked at. */
    assert_false(cm_expiry_sweep(&stores.sweep, master(), 5000, 1));
    stores_close(&stores);
}

static void an_expiry_that_was_set_later_counts(void **state) {
    (void)state;
    begin(4 << 20);
    char space[24];
    for (uint64_t n = 0; n < 1000; n++)
        put(n, 10, n % 2 ? 9000 : 0);
    for (uint64_t n = 0; n < 1000; n += 4)
        assert_int_equal(cm_store_expire(worker(), key_of(n, space), 3000), 0);
    for (uint64_t n = 1; n < 1000; n += 4)
        assert_int_equal(cm_store_expire(worker(), key_of(n, space), 0), 0);
    for (uint64_t n = 3; n < 1000; n += 4)
        assert_int_equal(cm_store_expire(worker(), key_of(n, space), 4000), 0);
    const uint64_t times[] = {2999, 3000, 3999, 4000, 9000, UINT64_MAX - 1};
    const uint64_t left[] = {1000, 750, 750, 500, 500, 500};
    for (int i = 0; i < 6; i++) {
        stores_turn(times[i]);
        sweep();
        assert_int_equal(entries(), left[i]);
    }
    /* Numbers get theirs in place. */
    struct cm_value number = {.is_number = true};
    uint64_t version;
    stores_turn(10000);
    for (uint64_t expires_ms = 11000; expires_ms; expires_ms = expires_ms == 11000 ? 10500 : 0)
        assert_int_equal(cm_store_set(worker(), cm_bytes_of("number"), &number,
                                      &(struct cm_change){.expires_ms = expires_ms}, &version),
                         0);
    stores_turn(10499);
    sweep();
    assert_int_equal(entries(), 501);
    stores_turn(10500);
    sweep();
    assert_int_equal(entries(), 500);
    /* And where the old one's is kept, or an increment makes a new entry of another kind. */
    struct cm_number half = {.is_float = true, .real = 0.5}, sum;
    struct cm_number zero = {0};
    assert_int_equal(cm_store_increment(worker(), cm_bytes_of("a"), zero, zero, 20000, &sum, &version), 0);
    assert_int_equal(cm_store_increment(worker(), cm_bytes_of("a"), half, zero, 0, &sum, &version), 0);
    put(5000, 10, 20000);
    assert_int_equal(cm_store_set(worker(), key_of(5000, space), &number,
                                  &(struct cm_change){.keep_expiry = true, .expires_ms = 40000}, &version),
                     0);
    stores_turn(20000);
    sweep();
    assert_int_equal(entries(), 500);
    stores_check_counts(&stores.segment, true);
    stores_close(&stores);
}

static void what_the_cleaner_moved_keeps_its_time(void **state) {
    (void)state;
    begin(4 << 20);
    uint64_t random = 1;
    for (uint64_t n = 0; n < 3000; n++)
        put(n, random_below(&random, n % 30 ? 200 : 8000), 2000 + n);
    for (uint64_t now = 2000; now <= 5000; now += 300) {
        stores_turn(now);
        cm_append_close(&stores.seats[1].participant);
        for (uint32_t i = 0; i < stores.segment.layout.chunks; i++)
            cm_cleaner_mark(&stores.cleaner, i);
        /* The sweep stands within a chunk that is being cleaned. */
        cm_expiry_sweep(&stores.sweep, master(), now, 7);
        stores_tend(&stores, true);
        sweep();
        uint64_t left = now < 5000 ? 4999 - now : 0;
        assert_int_equal(entries(), left);
        for (uint64_t n = 0; n < 3000; n += 17)
            assert_int_equal(is_there(n), 2000 + n > now);
        stores_check_counts(&stores.segment, true);
    }
    assert_true(stores.cleaner.copied_bytes > 100000);
    assert_int_equal(used_bytes(), 0);
    stores_close(&stores);
}

static void what_lies_in_open_chunks_is_swept_too(void **state) {
    (void)state;
    begin(4 << 20);
    put_by(0, 1, 10, 2000);
    put_by(1, 2, 10, 2000);
    put_by(2, 3, 10, 2000);
    put_by(2, 4, 10, 0);
    struct cm_chunk_census census;
    cm_chunk_count(&stores.segment, &census);
    assert_int_equal(census.open, 3 + CM_CHUNK_RESERVE);
    stores_turn(2000);
    sweep();
    assert_int_equal(entries(), 1);
    stores_check_counts(&stores.segment, true);
    /* They go on being appended to. */
    put_by(2, 5, 10, 3000);
    stores_turn(3000);
    sweep();
    assert_int_equal(entries(), 1);
    assert_true(is_there(4));
    stores_close(&stores);
}

/* A sweep that stands in an open chunk whose rest is taken back and written again meanwhile. */
static void a_rewind_under_the_sweep_loses_nothing(void **state) {
    (void)state;
    begin(4 << 20);
    uint64_t random = 1, left = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        char space[24];
        uint8_t bytes[300];
        uint64_t version;
        for (size_t at = 0; at < sizeof bytes; at += 4)
            memcpy(bytes + at, &(uint32_t){(uint32_t)random_below(&random, 6)}, 4);
        struct cm_value value = {.bytes = {bytes, random_below(&random, 300)}};
        struct cm_change change = {.if_present = i % 3 != 0,
                                   .expires_ms = stores_clock() + random_below(&random, 5)};
        int err = cm_store_set(worker(), key_of(i, space), &value, &change, &version);
        assert_int_equal(err, change.if_present ? CM_E_NOTFOUND : 0);
        if (i % 50 == 0) {
            put(1000000 + i, 20, 0);
            left++;
        }
        cm_expiry_sweep(&stores.sweep, master(), stores_clock(), (unsigned)random_below(&random, 10));
        if (i % 5 == 0)
            stores_turn(stores_clock() + 1);
    }
    stores_turn(stores_clock() + 10);
    sweep();
    assert_int_equal(entries(), left);
    stores_check_counts(&stores.segment, true);
    stores_close(&stores);
}

static void what_somebody_holds_is_swept_in_the_next_round(void **state) {
    (void)state;
    begin(4 << 20);
    char space[24];
    put(1, 10, 2000);
    stores_turn(2000);
    struct cm_section section;
    uint64_t hash = cm_table_key(&stores.segment, key_of(1, space)).hash;
    cm_table_enter(&stores.seats[2].participant, hash, &section);
    assert_false(cm_expiry_sweep(&stores.sweep, master(), 2000, SLICE));
    assert_false(cm_expiry_sweep(&stores.sweep, master(), 2000, SLICE));
    assert_int_equal(entries(), 1);
    cm_section_leave(&section);
    assert_false(cm_expiry_sweep(&stores.sweep, master(), 2000, SLICE));
    assert_int_equal(entries(), 0);
    stores_close(&stores);
}

/* The same chunks, again and again, and the sweep in the midst of one of them each time. */
static void chunks_that_are_used_again_are_swept_anew(void **state) {
    (void)state;
    begin(1 << 20);
    uint64_t random = 1;
    for (uint64_t round = 0; round < 60; round++) {
        uint64_t now = stores_clock();
        for (uint64_t n = 0; n < 2000; n++)
            put(n, random_below(&random, 100), n % 10 ? now + 1 + n % 2 : 0);
        stores_turn(now + 1);
        cm_expiry_sweep(&stores.sweep, master(), now + 1, (unsigned)random_below(&random, 1500));
        uint64_t cursor = 0, removed = 0;
        if (round % 3 == 0)
            assert_int_equal(cm_store_clear(worker(), (struct cm_bytes){0}, &cursor, UINT32_MAX,
                                            &(struct cm_store_clearing){0}, &removed),
                             0);
        cm_cleaner_stock(&stores.segment, round % 2);
        for (uint64_t n = 0; n < 300; n++)
            put(n, random_below(&random, 300), now + 3);
        stores_turn(now + 2);
        sweep();
        for (uint64_t n = 0; n < 2000; n++)
            assert_int_equal(is_there(n), n < 300 || (n % 10 == 0 && round % 3));
        stores_turn(now + 3);
        sweep();
        assert_int_equal(entries(), round % 3 ? 200 - 30 : 0);
        stores_check_counts(&stores.segment, true);
    }
    stores_close(&stores);
}

static void long_values_are_swept_whole(void **state) {
    (void)state;
    begin(4 << 20);
    for (uint64_t n = 0; n < 8; n++)
        put(n, 200000, 2000 + n);
    for (uint64_t n = 0; n < 8; n++) {
        uint64_t before = used_bytes();
        stores_turn(2000 + n);
        sweep();
        assert_true(before - used_bytes() > 200000);
        assert_int_equal(entries(), 7 - n);
        stores_check_counts(&stores.segment, true);
    }
    assert_int_equal(used_bytes(), 0);
    stores_close(&stores);
}

/* --- beside others --- */

static _Atomic bool over;
static _Atomic uint64_t written;

/* Gives entries an expiry one by one, each in one of several ways, while others in the same chunk are due. */
static void *expire_on(void *data) {
    uint32_t seat = *(const uint32_t *)data;
    struct cm_store *store = &stores.seats[seat].store;
    struct cm_value value = {.bytes = cm_bytes_of("value")}, number = {.is_number = true};
    for (uint64_t n = 0; !atomic_load(&over); n++) {
        char space[40];
        uint64_t version;
        snprintf(space, sizeof space, "%u due %lu", seat, (unsigned long)(n % 8));
        if (cm_store_set(store, cm_bytes_of(space), &value, &(struct cm_change){.expires_ms = 1}, &version))
            continue; /* no room until the sweep has been here */
        snprintf(space, sizeof space, "%u later %lu", seat, (unsigned long)n);
        struct cm_bytes key = cm_bytes_of(space);
        bool is_number = n % 3 == 0;
        if (cm_store_set(store, key, is_number ? &number : &value, &(struct cm_change){0}, &version))
            continue;
        if (is_number)
            cm_store_set(store, key, &number, &(struct cm_change){.expires_ms = 5000}, &version);
        else
            cm_store_expire(store, key, 5000);
        atomic_fetch_add(&written, 1);
    }
    return NULL;
}

static void no_expiry_is_missed_beside_a_sweep(void **state) {
    (void)state;
    begin(64 << 20);
    atomic_store(&over, false);
    atomic_store(&written, 0);
    pthread_t threads[2];
    uint32_t ids[] = {1, 2};
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, expire_on, &ids[i]), 0);
    double until = stores_seconds() + (getenv("CM_LONG") ? 60 : 1);
    while (stores_seconds() < until && atomic_load(&written) < 350000) {
        cm_expiry_sweep(&stores.sweep, master(), 2000, SLICE);
        cm_table_grow(master(), 20);
    }
    atomic_store(&over, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    stores_check_counts(&stores.segment, true);
    stores_turn(5000);
    sweep();
    uint64_t left = entries();
    if (left)
        fail_msg("%lu of %lu are never swept", (unsigned long)left, (unsigned long)atomic_load(&written));
    stores_close(&stores);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_expire_to_the_millisecond),
        cmocka_unit_test(many_that_expire_together_come_back_in_slices),
        cmocka_unit_test(an_expiry_that_was_set_later_counts),
        cmocka_unit_test(what_the_cleaner_moved_keeps_its_time),
        cmocka_unit_test(what_lies_in_open_chunks_is_swept_too),
        cmocka_unit_test(a_rewind_under_the_sweep_loses_nothing),
        cmocka_unit_test(what_somebody_holds_is_swept_in_the_next_round),
        cmocka_unit_test(chunks_that_are_used_again_are_swept_anew),
        cmocka_unit_test(long_values_are_swept_whole),
        cmocka_unit_test(no_expiry_is_missed_beside_a_sweep),
    };
    return cmocka_run_group_tests_name("expiry", tests, NULL, NULL);
}
