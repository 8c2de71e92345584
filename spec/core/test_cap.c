/* The memory at its cap: how much of it can be used, and that everything goes on there. */
#include "spec/core/stores.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAS_THREAD_SANITIZER
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define HAS_THREAD_SANITIZER
#endif

#if defined(HAS_THREAD_SANITIZER)
/* It takes twenty times as long, and there is one thread to look at. */
enum { MOST_BYTES = 64 << 20, HOLES_BYTES = 16 << 20, LESS = 4 };
#elif defined(__SANITIZE_ADDRESS__)
enum { MOST_BYTES = 64 << 20, HOLES_BYTES = 64 << 20, LESS = 1 }; /* it takes ten times as long */
#else
enum { MOST_BYTES = 256 << 20, HOLES_BYTES = 64 << 20, LESS = 1 };
#endif
enum { KEY_BYTES = 32, SLOW_S = 1, STUCK_S = 10, SETS_WATCHED = 64 };

static struct stores stores;
static uint8_t bytes[MOST_BYTES];
static uint64_t chance;
static double slowest_s;
static uint64_t written_bytes;
static uint64_t sets;

/* --- entries: the first bytes of a value say whose it is --- */

static struct cm_bytes key_of(uint64_t n, char space[KEY_BYTES]) {
    snprintf(space, KEY_BYTES, "key:%012lu", (unsigned long)n);
    return (struct cm_bytes){(const uint8_t *)space, 16};
}

static uint32_t some_worker(void) {
    return 1 + (uint32_t)random_below(&chance, stores.count - 1);
}

static int put(uint64_t n, size_t len, uint64_t stamp) {
    char space[KEY_BYTES];
    uint64_t head[2] = {n, stamp}, version;
    memcpy(bytes, head, len < sizeof head ? len : sizeof head);
    struct cm_value value = {.bytes = {bytes, len}};
    double begin = stores_seconds();
    if (sets++ % SETS_WATCHED == 0)
        stores_watch(STUCK_S);
    int err = stores_set(&stores, some_worker(), key_of(n, space), &value, &(struct cm_change){0}, &version);
    double took_s = stores_seconds() - begin;
    if (took_s > slowest_s)
        slowest_s = took_s;
    if (!err)
        written_bytes += CM_ENTRY_BYTES + 16 + len;
    if (err)
        assert_int_equal(err, CM_E_NOMEMORY);
    return err;
}

static void check(uint64_t n, size_t len, uint64_t stamp) {
    static struct cm_buf buf;
    char space[KEY_BYTES];
    uint64_t head[2] = {n, stamp};
    struct cm_value value;
    int err = cm_store_get(&stores.seats[1].store, key_of(n, space), &buf, &value, NULL, NULL);
    assert_int_equal(err, 0);
    assert_int_equal(value.bytes.len, len);
    assert_memory_equal(value.bytes.data, head, len < sizeof head ? len : sizeof head);
}

static void drop(uint64_t n) {
    char space[KEY_BYTES];
    uint64_t version;
    assert_int_equal(cm_store_remove(&stores.seats[some_worker()].store, key_of(n, space),
                                     &(struct cm_change){0}, &version),
                     0);
    assert_true(version != 0);
}

static uint64_t used_bytes(void) {
    struct cm_store_stats stats;
    cm_store_stats(stores_master(&stores), &stats);
    return stats.used_bytes;
}

static double used_percent(void) {
    return (double)used_bytes() * 100 / (double)stores.segment.layout.total_bytes;
}

static void begin(uint64_t total_bytes, uint32_t seats) {
    assert_int_equal(stores_open(&stores, total_bytes, seats, seats), 0);
    chance = 1;
    slowest_s = 0;
    written_bytes = 0;
    /* Each worker keeps a chunk open for next to nothing. */
    for (uint32_t i = 1; i < seats; i++) {
        uint64_t version;
        struct cm_bytes key = {(const uint8_t *)&i, sizeof i};
        assert_int_equal(cm_store_set(&stores.seats[i].store, key, &(struct cm_value){0},
                                      &(struct cm_change){0}, &version),
                         0);
    }
}

/* The first `most` keys, or as many as there is room for. */
static uint64_t fill(uint64_t from, uint64_t most, size_t len) {
    uint64_t n = from;
    for (; n < from + most && put(n, len, 0) == 0; n++) {
        if (n % 1000 == 0)
            cm_table_grow(&stores.seats[0].participant, 1000);
    }
    return n - from;
}

static void amplification(const char *what) {
    printf("    %-44s %5.1f%% used, amplification %.2f, slowest set %.1f ms\n", what, used_percent(),
           written_bytes ? (double)stores.cleaner.copied_bytes / (double)written_bytes : 0, slowest_s * 1e3);
}

/* --- values of one size --- */

struct size {
    uint64_t total_bytes;
    uint32_t seats;
    size_t len;
};

/* How many must be removed before one of their size can be set again: one. */
static int remove_and_set_again(uint64_t *count, size_t len) {
    for (int i = 0; i < 20; i++) {
        uint64_t n = random_below(&chance, *count - 1);
        drop(n);
        int removed = 1;
        while (put(n, len, 0)) {
            drop(--*count);
            removed++;
        }
        if (removed > 1)
            return removed;
    }
    return 1;
}

/* What cannot be stored leaves what was there. */
static void fail_to_set(uint64_t count) {
    for (int i = 0; i < 3; i++) {
        char space[KEY_BYTES];
        uint64_t n = random_below(&chance, count), before, after, version;
        struct cm_store *store = stores_master(&stores);
        struct cm_value value = {.bytes = {bytes, (size_t)stores.segment.layout.total_bytes / (i + 2)}};
        assert_int_equal(cm_store_get(store, key_of(n, space), NULL, NULL, &before, NULL), 0);
        assert_int_equal(stores_set(&stores, 1, key_of(n, space), &value, &(struct cm_change){0}, &version),
                         CM_E_NOMEMORY);
        assert_int_equal(cm_store_get(store, key_of(n, space), NULL, NULL, &after, NULL), 0);
        assert_int_equal(after, before);
    }
}

/* What expires leaves its room. */
static int expire_one(uint64_t *count, size_t len) {
    char space[KEY_BYTES];
    uint64_t n = *count - 1;
    assert_int_equal(cm_store_expire(&stores.seats[1].store, key_of(n, space), 2000), 0);
    stores_turn(2000);
    assert_int_equal(cm_store_get(&stores.seats[1].store, key_of(n, space), NULL, NULL, NULL, NULL),
                     CM_E_NOTFOUND);
    while (cm_expiry_sweep(&stores.sweep, &stores.seats[0].participant, 2000, 1000)) {
    }
    int err = put(n, len, 0);
    *count -= err != 0;
    return err;
}

/* So many bytes of new values for random keys. */
static void overwrite(uint64_t *stamps, uint64_t count, size_t len, uint64_t most_bytes) {
    uint64_t until = written_bytes + most_bytes, tended = written_bytes;
    for (uint64_t stamp = 1; written_bytes < until; stamp++) {
        uint64_t n = random_below(&chance, count);
        if (put(n, len, stamp))
            fail_msg("no memory at %.1f%% after %lu sets", used_percent(), (unsigned long)stamp);
        stamps[n] = stamp;
        if (written_bytes - tended > UINT64_C(4) * stores.segment.layout.chunk_bytes) {
            tended = written_bytes;
            stores_tend(&stores, true);
        }
    }
}

/* Prints what it finds, and goes on. */
static bool use(const struct size *size) {
    begin(size->total_bytes, size->seats);
    uint64_t count = fill(0, UINT64_MAX / 2, size->len);
    double full_percent = used_percent();
    fail_to_set(count);
    int removed = remove_and_set_again(&count, size->len);
    int expired = expire_one(&count, size->len);
    double slowest_full_s = slowest_s;
    stores_watch(0);
    while (used_percent() > 85) {
        for (uint64_t dropped = 0; dropped < 1 + count / 1000; dropped++)
            drop(--count);
    }
    uint64_t *stamps = calloc(count, sizeof *stamps);
    assert_non_null(stamps);
    stores.cleaner.copied_bytes = written_bytes = 0;
    slowest_s = 0;
    overwrite(stamps, count, size->len,
              size->total_bytes / (size->len < 1000 && !getenv("CM_LONG") ? 16 : 2) / LESS);
    stores_check_counts(&stores.segment, true);
    for (uint64_t n = 0; n < count; n += 1 + count / 1000)
        check(n, size->len, stamps[n]);
    free(stamps);
    printf(
        "    %3lu MiB, %2u seats, %7zu B: %.1f%% usable, slowest set there %.1f ms; overwriting at %.1f%%: "
        "amplification %.2f, slowest %.1f ms\n",
        (unsigned long)(size->total_bytes >> 20), size->seats, size->len, full_percent, slowest_full_s * 1e3,
        used_percent(), (double)stores.cleaner.copied_bytes / (double)written_bytes, slowest_s * 1e3);
    /* A new chunk loses its rest too, which is nearly a record where they fill chunks badly. */
    int most_removed = size->len > 1000 && size->len < 2000 ? 3 : 1;
    if (removed > most_removed)
        printf("        FAULT: %d had to be removed before one could be set again\n", removed);
    if (expired)
        printf("        FAULT: none could be set after one had expired\n");
    stores_watch(0);
    stores_close(&stores);
    /* Where a value is a good part of the memory, one more than a whole number of them cannot be had. */
    double one_percent =
        size->len > size->total_bytes / 32 ? 100.0 * (double)size->len / (double)size->total_bytes : 0;
    return removed <= most_removed && !expired && full_percent + one_percent >= 85 &&
           slowest_full_s < SLOW_S && slowest_s < SLOW_S;
}

static void use_all(uint64_t total_bytes, uint32_t seats, const size_t *lens, size_t count) {
    static size_t faults, i;
    faults = 0;
    for (i = 0; i < count; i++) {
        if (sigsetjmp(stores_stuck, 1)) {
            printf("        FAULT: a set of %zu B did not come back: %.1f%% used\n", lens[i], used_percent());
            faults++;
        } else {
            faults += !use(&(struct size){total_bytes, seats, lens[i]});
        }
    }
    assert_int_equal(faults, 0);
}

static const size_t usual[] = {100, 205000, 300000, 4 << 20};

static void with_64_seats_most_is_usable_at_any_size(void **state) {
    (void)state;
    use_all(MOST_BYTES, 64, usual, sizeof usual / sizeof usual[0]);
}

static void with_24_seats_most_is_usable_at_any_size(void **state) {
    (void)state;
    use_all(64 << 20, 24, usual, sizeof usual / sizeof usual[0]);
}

/* Sizes of which a whole number leaves as much of a chunk unused as there can be: cleaning wins nothing. */
static void records_that_fill_chunks_badly_leave_most_usable(void **state) {
    (void)state;
    /* The next record after so many of them would not fit in by a few bytes. */
    const size_t chunk_bytes = 32768; /* of 64 MiB with 24 seats */
    const size_t lens[] = {chunk_bytes / 17 + 8 - 56, chunk_bytes / 19 + 8 - 56, 30900};
    use_all(64 << 20, 24, lens, sizeof lens / sizeof lens[0]);
}

/* --- many sizes --- */

static void small_holes_are_put_together(void **state) {
    (void)state;
    if (sigsetjmp(stores_stuck, 1))
        fail_msg("a set did not come back");
    begin(HOLES_BYTES, 24);
    uint64_t count = fill(0, UINT64_MAX / 2, 100);
    for (uint64_t n = 0; n < count; n += 2)
        drop(n);
    stores.cleaner.copied_bytes = written_bytes = 0;
    uint64_t more = 0;
    while (used_percent() < 85) {
        uint64_t got = fill(count + more, 1000, 150);
        more += got;
        if (got < 1000)
            fail_msg("no memory at %.1f%%", used_percent());
    }
    stores_check_counts(&stores.segment, true);
    for (uint64_t n = 1; n < count; n += 2)
        check(n, 100, 0);
    for (uint64_t n = count; n < count + more; n++)
        check(n, 150, 0);
    amplification("150 B into the holes of 100 B");
    assert_true(slowest_s < SLOW_S);
    stores_watch(0);
    stores_close(&stores);
}

struct range {
    size_t least, most;
    bool logarithmic; /* each doubling as likely as the next */
};

static size_t some_len(const struct range *range) {
    if (!range->logarithmic)
        return range->least + random_below(&chance, range->most - range->least + 1);
    size_t doublings = 0;
    while (range->least << (doublings + 1) <= range->most)
        doublings++;
    size_t least = range->least << random_below(&chance, doublings + 1);
    size_t len = least + random_below(&chance, least);
    return len < range->most ? len : range->most;
}

/* Random values over each other and removals, so that it stays so full. */
static void churn(const struct range *range, double percent, uint64_t operations, const char *what) {
    begin(64 << 20, 24);
    double mean = 0;
    for (int i = 0; i < 1000; i++)
        mean += (double)some_len(range) / 1000;
    uint64_t most = (uint64_t)((double)stores.segment.layout.total_bytes / (mean + 56) * 1.2) + 10;
    size_t *lens = calloc(most, sizeof *lens); /* + 1 */
    uint64_t *stamps = calloc(most, sizeof *stamps);
    assert_non_null(lens);
    assert_non_null(stamps);
    uint64_t full = (uint64_t)((double)stores.segment.layout.total_bytes * percent / 100),
             estimate = used_bytes();
    bool was_full = false;
    uint32_t least_reserve = CM_CHUNK_RESERVE;
    for (uint64_t i = 1, done = 0; done < operations; i++) {
        uint64_t n = random_below(&chance, most);
        size_t len = some_len(range);
        if (i % 64 == 0)
            estimate = used_bytes();
        if (!was_full && estimate >= full) {
            was_full = true;
            stores.cleaner.copied_bytes = written_bytes = 0;
        }
        done += was_full;
        if (lens[n] && estimate + len > full) {
            drop(n);
            lens[n] = 0;
        } else if (estimate + len <= full) {
            if (put(n, len, i))
                fail_msg("%s: no memory at %.1f%% after %lu operations, %u in reserve", what, used_percent(),
                         (unsigned long)i, stores.cleaner.reserve_count);
            lens[n] = len + 1;
            stamps[n] = i;
            estimate += len + 56;
        }
        if (i % 256 == 0)
            stores_tend(&stores, true);
        if (stores.cleaner.reserve_count < least_reserve)
            least_reserve = stores.cleaner.reserve_count;
    }
    stores_check_counts(&stores.segment, true);
    for (uint64_t n = 0; n < most; n++) {
        if (lens[n])
            check(n, lens[n] - 1, stamps[n]);
    }
    amplification(what);
    printf("    %44s   at least %u chunks in reserve\n", "", least_reserve);
    assert_true(slowest_s < SLOW_S);
    free(lens);
    free(stamps);
    stores_watch(0);
    stores_close(&stores);
}

static void random_sizes_never_run_out_at_80_percent(void **state) {
    (void)state;
    if (sigsetjmp(stores_stuck, 1))
        fail_msg("a set did not come back");
    bool takes_long = getenv("CM_LONG") != NULL;
    churn(&(struct range){1, 100000, false}, 80, takes_long ? 1000000 : 5000 / LESS, "1 B .. 100 kB");
    churn(&(struct range){1, 100000, true}, 80, takes_long ? 1000000 : 20000 / LESS,
          "1 B .. 100 kB, by logarithm");
}

/* Records of up to the most a chunk takes in one piece: their copies do not fit in behind each other. */
static void random_large_records_never_run_out_at_85_percent(void **state) {
    (void)state;
    if (sigsetjmp(stores_stuck, 1))
        fail_msg("a set did not come back");
    bool takes_long = getenv("CM_LONG") != NULL;
    churn(&(struct range){1000, 1950, false}, 85, takes_long ? 3000000 : 50000 / LESS, "1 .. 1.9 kB");
    churn(&(struct range){1700, 1950, false}, 85, takes_long ? 3000000 : 50000 / LESS, "1.7 .. 1.9 kB");
}

/* To the cap and a little back, again and again, with nobody cleaning in between: all of it is done by those
 * who need room. Removing the last few percent must always give room for new ones. */
static void refill(const struct range *range, unsigned rounds, const char *what) {
    begin(64 << 20, 24);
    uint64_t most = stores.segment.layout.total_bytes / (range->least + 56);
    uint64_t *keys = calloc(most, sizeof *keys);
    assert_non_null(keys);
    uint64_t count = 0, next = 0;
    uint32_t least_reserve = CM_CHUNK_RESERVE;
    double least_percent = 100;
    for (unsigned i = 0; i < rounds; i++) {
        while (put(next, some_len(range), 0) == 0) {
            keys[count++] = next++;
            if (next % 1000 == 0)
                cm_table_grow(&stores.seats[0].participant, 1000);
            if (stores.cleaner.reserve_count < least_reserve)
                least_reserve = stores.cleaner.reserve_count;
        }
        if (used_percent() < least_percent)
            least_percent = used_percent();
        if (used_percent() < 85)
            fail_msg("%s: no memory at %.1f%% in round %u, %u in reserve", what, used_percent(), i,
                     stores.cleaner.reserve_count);
        while (used_percent() > 84) {
            for (int n = 0; n < 10; n++) {
                uint64_t at = random_below(&chance, count);
                drop(keys[at]);
                keys[at] = keys[--count];
            }
        }
    }
    stores_check_counts(&stores.segment, true);
    amplification(what);
    printf("    %44s   at least %.1f%%, and %u chunks in reserve\n", "", least_percent, least_reserve);
    free(keys);
    stores_watch(0);
    stores_close(&stores);
}

static void the_cap_is_reached_again_and_again(void **state) {
    (void)state;
    if (sigsetjmp(stores_stuck, 1))
        fail_msg("a set did not come back at %.1f%%", used_percent());
    unsigned rounds = getenv("CM_LONG") ? 1000 : LESS > 1 ? 2 : 4;
    refill(&(struct range){100, 100, false}, rounds, "100 B, to the cap and back");
    refill(&(struct range){1, 100000, true}, rounds, "1 B .. 100 kB, to the cap and back");
    refill(&(struct range){100, 1900, false}, rounds, "0.1 .. 1.9 kB, to the cap and back");
    refill(&(struct range){1000, 1900, false}, rounds, "1 .. 1.9 kB, to the cap and back");
    refill(&(struct range){1600, 1990, false}, rounds, "1.6 .. 2.0 kB, to the cap and back");
    refill(&(struct range){1800, 1990, false}, rounds, "1.8 .. 2.0 kB, to the cap and back");
    refill(&(struct range){1900, 1990, false}, rounds, "1.9 .. 2.0 kB, to the cap and back");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_64_seats_most_is_usable_at_any_size),
        cmocka_unit_test(with_24_seats_most_is_usable_at_any_size),
        cmocka_unit_test(records_that_fill_chunks_badly_leave_most_usable),
        cmocka_unit_test(small_holes_are_put_together),
        cmocka_unit_test(random_sizes_never_run_out_at_80_percent),
        cmocka_unit_test(random_large_records_never_run_out_at_85_percent),
        cmocka_unit_test(the_cap_is_reached_again_and_again),
    };
    return cmocka_run_group_tests_name("cap", tests, NULL, NULL);
}
