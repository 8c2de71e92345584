/* The stores of several seats on one segment against one array of what they should hold, on a clock that the
 * test turns. */
#include <math.h>
#include <pthread.h>

#include "spec/core/alloc_failure.h"
#include "spec/core/stores.h"

enum { KEYS = 150, MOST_BYTES = 100000, SPACE_BYTES = 4000, MOST_PAIRS = 6 };

/* --- keys and values --- */

/* With prefixes, and some so long that numbers under them are bytes. */
static struct cm_bytes key_of(size_t n, uint8_t space[SPACE_BYTES]) {
    static const char *const starts[] = {"a", "ab", "b", ""};
    int len = snprintf((char *)space, SPACE_BYTES, "%s%zu", starts[n % 4], n);
    size_t most = n % 10 == 9 ? SPACE_BYTES - n : n % 10 == 8 ? 200 + n : (size_t)len;
    memset(space + len, 'x', most - (size_t)len);
    return (struct cm_bytes){space, most};
}

static bool has_prefix(size_t n, struct cm_bytes prefix) {
    uint8_t space[SPACE_BYTES];
    struct cm_bytes key = key_of(n, space);
    return key.len >= prefix.len && (prefix.len == 0 || memcmp(key.data, prefix.data, prefix.len) == 0);
}

static bool same_number(struct cm_number a, struct cm_number b) {
    return a.is_float == b.is_float && a.integer == b.integer;
}

struct expected {
    bool there; /* also when it has expired */
    bool is_number;
    bool is_encoded;
    uint8_t first; /* of the bytes, each is one more than the last; or those of an encoded number */
    struct cm_number number;
    size_t len;
    uint64_t version; /* also the last one of an entry that is gone */
    uint64_t expires_ms;
};

static void bytes_of(const struct expected *expected, uint8_t *bytes) {
    if (expected->is_encoded) {
        cm_number_encode(expected->number, bytes);
        return;
    }
    for (size_t i = 0; i < expected->len; i++)
        bytes[i] = (uint8_t)(expected->first + i);
}

struct world {
    struct stores stores;
    struct expected expected[KEYS];
    struct cm_spot spots[KEYS]; /* where each was when it was last looked for */
    uint64_t added;             /* to numbers that stood */
    uint64_t random;
    size_t most_len;
    uint32_t refused;
    bool fails;            /* allocations may */
    uint64_t wanted_bytes; /* by the operation, at most */
};
static struct world world;

static bool lives(size_t n) {
    const struct expected *entry = &world.expected[n];
    return entry->there && !(entry->expires_ms && entry->expires_ms <= stores_clock());
}

static struct cm_store *some_store(void) {
    return &world.stores.seats[random_below(&world.random, world.stores.count)].store;
}

/* --- checks --- */

/* An entry that stands is what its key has, for ever, and is known again whatever has moved meanwhile. */
static void check_spot(size_t n, struct cm_spot *spot) {
    static struct cm_buf buf;
    uint8_t space[SPACE_BYTES];
    struct cm_store *store = some_store();
    const struct expected *expected = &world.expected[n];
    struct cm_value value;
    uint64_t version;
    if (cm_table_stands(&world.stores.segment, spot)) {
        assert_true(expected->there && !expected->expires_ms);
        assert_int_equal(spot->is_number, expected->is_number);
        if (spot->is_number) {
            assert_true(cm_store_number_at(store, spot, &value.number, &version));
            assert_true(same_number(value.number, expected->number));
            assert_int_equal(version, expected->version);
        } else {
            assert_int_equal(spot->version, expected->version);
        }
    }
    struct cm_key key = cm_store_key(store, key_of(n, space));
    uint64_t known = spot->is_number ? 0 : spot->version;
    int err = cm_store_get_unless(store, &key, known, &buf, &value, &version, spot);
    assert_int_equal(cm_table_stands(&world.stores.segment, spot), !err && !expected->expires_ms);
    if (!err && !spot->is_number)
        assert_int_equal(spot->version, expected->version);
    if (!err && known && known == expected->version)
        assert_int_equal(buf.len, 0);
    cm_buf_deinit(&buf);
}

static void check_key(size_t n) {
    static struct cm_buf buf;
    static uint8_t bytes[MOST_BYTES];
    uint8_t space[SPACE_BYTES];
    struct cm_value value;
    uint64_t version = 99, expires_ms;
    check_spot(n, &world.spots[n]);
    int err = cm_store_get(some_store(), key_of(n, space), &buf, &value, &version, &expires_ms);
    const struct expected *expected = &world.expected[n];
    if (err)
        cm_buf_deinit(&buf);
    if (err == CM_E_NOMEMORY && world.fails)
        return;
    assert_int_equal(err, lives(n) ? 0 : CM_E_NOTFOUND);
    if (err) {
        assert_int_equal(version, 0);
        return;
    }
    assert_int_equal(version, expected->version);
    assert_int_equal(expires_ms, expected->expires_ms);
    assert_int_equal(value.is_number, expected->is_number);
    if (value.is_number) {
        assert_true(same_number(value.number, expected->number));
    } else {
        bytes_of(expected, bytes);
        assert_int_equal(value.bytes.len, expected->len);
        assert_true(expected->len == 0 || memcmp(value.bytes.data, bytes, expected->len) == 0);
    }
    cm_buf_deinit(&buf);
}

static void check_all(void) {
    stores_check_counts(&world.stores.segment, true);
    uint64_t living = 0, there = 0;
    for (size_t n = 0; n < KEYS; n++) {
        check_key(n);
        living += lives(n);
        there += world.expected[n].there;
    }
    struct cm_store_stats stats;
    cm_store_stats(some_store(), &stats);
    assert_in_range(stats.entries, living, there);
}

static void take_version(size_t n, uint64_t version) {
    assert_true(version > world.expected[n].version);
    world.expected[n].version = version;
}

/* --- operations --- */

/* Whether it took place; it may have been refused for want of memory instead. */
static bool outcome(int err, int expected) {
    if (err == CM_E_NOMEMORY) {
        struct cm_store_stats stats;
        cm_store_stats(stores_master(&world.stores), &stats);
        if (!world.fails && stats.used_bytes + world.wanted_bytes < stats.limit_bytes * 9 / 10)
            fail_msg("no memory with %lu of %lu used", (unsigned long)stats.used_bytes,
                     (unsigned long)world.stores.segment.layout.total_bytes);
        world.refused++;
        return false;
    }
    assert_int_equal(err, expected);
    return !err;
}

static uint64_t some_time(void) {
    /* 0 ms from now: gone at once */
    return random_below(&world.random, 2) ? stores_clock() + random_below(&world.random, 50) : 0;
}

static struct cm_number some_number(void) {
    static const double reals[] = {-0.0, INFINITY, 1e300, 0.125};
    struct cm_number number = {.is_float = random_below(&world.random, 5) == 0};
    if (number.is_float)
        number.real = reals[random_below(&world.random, 4)];
    else
        number.integer = (int64_t)random_next(&world.random) >> random_below(&world.random, 64);
    return number;
}

static bool is_long(size_t n) {
    uint8_t space[SPACE_BYTES];
    return !cm_append_fits(&world.stores.segment,
                           (struct cm_shape){CM_KIND_INTEGER, (uint32_t)key_of(n, space).len, 0});
}

static void set_expected_number(struct expected *next, size_t n, struct cm_number number) {
    next->number = number;
    next->is_number = !is_long(n);
    next->is_encoded = is_long(n);
    next->len = next->is_encoded ? CM_NUMBER_BYTES : 0;
}

/* What is given to the store, and what should be found there. */
static struct cm_value some_value(size_t n, struct expected *next, uint8_t *bytes) {
    *next = (struct expected){.there = true, .version = world.expected[n].version};
    if (random_below(&world.random, 3) == 0) {
        struct cm_value value = {.is_number = true, .number = some_number()};
        set_expected_number(next, n, value.number);
        return value;
    }
    size_t most = random_below(&world.random, world.most_len > 50000 ? 2 : 10) ? 300 : world.most_len;
    next->len = random_below(&world.random, most + 1);
    next->first = (uint8_t)random_next(&world.random);
    bytes_of(next, bytes);
    return (struct cm_value){.bytes = {bytes, next->len}};
}

static struct cm_change some_change(size_t n) {
    struct cm_change change = {.expires_ms = some_time(), .keep_expiry = random_below(&world.random, 3) == 0};
    const uint64_t version = world.expected[n].version; /* of an entry that is gone, too */
    const uint64_t versions[] = {0, 1, version, version, version, version + 2, UINT64_MAX};
    change.version = 12345; /* does not count */
    change.if_absent = random_below(&world.random, 6) == 0;
    change.if_present = random_below(&world.random, 6) == 0;
    change.if_version = random_below(&world.random, 4) == 0;
    if (change.if_version)
        change.version = versions[random_below(&world.random, sizeof versions / sizeof versions[0])];
    return change;
}

static int failed_condition(size_t n, const struct cm_change *change) {
    if (change->if_absent && lives(n))
        return CM_E_EXISTS;
    if (change->if_present && !lives(n))
        return CM_E_NOTFOUND;
    if (change->if_version && change->version != (lives(n) ? world.expected[n].version : 0))
        return CM_E_CONFLICT;
    return 0;
}

static uint32_t some_seat(void) {
    return (uint32_t)random_below(&world.random, world.stores.count);
}

static void set(size_t n) {
    static uint8_t bytes[MOST_BYTES];
    uint8_t space[SPACE_BYTES];
    struct expected next;
    struct cm_value value = some_value(n, &next, bytes);
    struct cm_change change = some_change(n);
    int expected = failed_condition(n, &change);
    uint64_t version;
    if (!outcome(stores_set(&world.stores, some_seat(), key_of(n, space), &value, &change, &version),
                 expected))
        return;
    next.expires_ms = change.keep_expiry && lives(n) ? world.expected[n].expires_ms : change.expires_ms;
    world.expected[n] = next;
    take_version(n, version);
}

static void drop(size_t n, const struct cm_change *change) {
    uint8_t space[SPACE_BYTES];
    uint64_t version = 99;
    struct cm_change condition = {.if_version = change->if_version, .version = change->version};
    int expected = failed_condition(n, &condition);
    assert_int_equal(cm_store_remove(some_store(), key_of(n, space), change, &version), expected);
    if (expected || !lives(n)) {
        assert_int_equal(version, 0);
        return;
    }
    take_version(n, version);
    world.expected[n].there = false;
}

static void increment(size_t n) {
    uint8_t space[SPACE_BYTES];
    struct cm_number delta = some_number(), initial = some_number(), sum = {0}, expected_sum = {0};
    struct expected next = {.there = true, .expires_ms = some_time(), .version = world.expected[n].version};
    const struct expected *old = &world.expected[n];
    struct cm_number base = initial;
    int expected = 0;
    if (lives(n) && (old->is_number || old->is_encoded))
        base = old->number;
    else if (lives(n)) {
        uint8_t bytes[CM_NUMBER_BYTES] = {0};
        expected = CM_E_BADVALUE;
        if (is_long(n) && old->len <= sizeof bytes) {
            bytes_of(old, bytes);
            expected = cm_number_decode((struct cm_bytes){bytes, old->len}, &base);
        }
    }
    if (!expected)
        expected = cm_number_add(base, delta, &expected_sum);
    uint64_t version;
    uint32_t seat = some_seat();
    struct cm_spot *spot = &world.spots[n];
    if (seat && spot->is_number && cm_store_add_at(&world.stores.seats[seat].store, spot, delta, &sum)) {
        assert_true(lives(n) && old->is_number && old->number.is_float == sum.is_float && !expected);
        assert_true(same_number(sum, expected_sum) || (isnan(sum.real) && isnan(expected_sum.real)));
        world.expected[n].number = sum;
        take_version(n, cm_word_sequence(spot->word));
        world.added++;
        return;
    }
    int err = cm_store_increment(&world.stores.seats[seat].store, key_of(n, space), delta, initial,
                                 next.expires_ms, &sum, &version);
    if (err == CM_E_NOMEMORY && seat)
        err = cm_store_increment(stores_master(&world.stores), key_of(n, space), delta, initial,
                                 next.expires_ms, &sum, &version);
    if (!outcome(err, expected))
        return;
    assert_true(same_number(sum, expected_sum) || (isnan(sum.real) && isnan(expected_sum.real)));
    set_expected_number(&next, n, sum);
    if (lives(n))
        next.expires_ms = old->expires_ms;
    world.expected[n] = next;
    take_version(n, version);
}

static void expire(size_t n) {
    uint8_t space[SPACE_BYTES];
    uint64_t expires_ms = some_time();
    int expected = lives(n) ? 0 : CM_E_NOTFOUND;
    assert_int_equal(cm_store_expire(some_store(), key_of(n, space), expires_ms), expected);
    if (!expected)
        world.expected[n].expires_ms = expires_ms;
}

/* Keys that come twice, and now and then a bad one, among them. */
static void set_many(void) {
    world.wanted_bytes = MOST_PAIRS * world.most_len * 5 / 4;
    static uint8_t bytes[MOST_PAIRS][MOST_BYTES], spaces[MOST_PAIRS][SPACE_BYTES];
    struct expected nexts[MOST_PAIRS];
    struct cm_pair pairs[MOST_PAIRS] = {0};
    size_t numbers[MOST_PAIRS], count = random_below(&world.random, MOST_PAIRS + 1);
    int expected = 0;
    for (size_t i = 0; i < count; i++) {
        numbers[i] = random_below(&world.random, KEYS);
        if (i && random_below(&world.random, 3) == 0)
            numbers[i] = numbers[i - 1];
        pairs[i].value = some_value(numbers[i], &nexts[i], bytes[i]);
        pairs[i].key = key_of(numbers[i], spaces[i]);
        if (random_below(&world.random, 40) == 0) {
            pairs[i].key.len = random_below(&world.random, 2) ? 0 : CM_KEY_MAX_BYTES + 1;
            expected = CM_E_BADVALUE;
        }
    }
    if (!outcome(cm_store_set_many(stores_master(&world.stores), pairs, count), expected))
        return;
    for (size_t i = 0; i < count; i++) {
        nexts[i].version = world.expected[numbers[i]].version;
        world.expected[numbers[i]] = nexts[i];
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t version;
        assert_int_equal(cm_store_get(some_store(), pairs[i].key, NULL, NULL, &version, NULL), 0);
        if (version != world.expected[numbers[i]].version)
            take_version(numbers[i], version);
    }
}

struct listing {
    uint8_t met[KEYS];
};

static int note_key(void *data, struct cm_bytes key) {
    struct listing *listing = data;
    for (size_t n = 0; n < KEYS; n++) {
        uint8_t space[SPACE_BYTES];
        struct cm_bytes other = key_of(n, space);
        if (other.len == key.len && memcmp(other.data, key.data, key.len) == 0) {
            listing->met[n]++;
            return 0;
        }
    }
    fail_msg("a key that is none");
    return 0;
}

static struct cm_bytes some_prefix(void) {
    static const char *const prefixes[] = {"", "a", "ab", "b", "1", "none"};
    return cm_bytes_of(prefixes[random_below(&world.random, 6)]);
}

/* Each that is there from the beginning to the end once, though the table grows meanwhile. */
static void list(void) {
    struct listing listing = {0};
    struct cm_bytes prefix = some_prefix();
    uint64_t cursor = 0;
    int err;
    do {
        err = cm_store_keys(some_store(), prefix, &cursor, 1 + (unsigned)random_below(&world.random, 30),
                            note_key, &listing);
        if (random_below(&world.random, 4) == 0)
            cm_table_grow(&world.stores.seats[0].participant, 3);
        if (err)
            assert_true(err == CM_E_NOMEMORY && world.fails);
    } while (cursor && !err);
    for (size_t n = 0; n < KEYS && !err; n++)
        assert_int_equal(listing.met[n], lives(n) && has_prefix(n, prefix));
}

static bool spare_even(void *data, struct cm_bytes key) {
    struct listing listing = {0};
    (void)data;
    note_key(&listing, key);
    for (size_t n = 0; n < KEYS; n += 2) {
        if (listing.met[n])
            return true;
    }
    return false;
}

static void clear(void) {
    struct cm_bytes prefix = some_prefix();
    bool spares = random_below(&world.random, 2);
    struct cm_store_clearing how = {.spare = spares ? spare_even : NULL};
    uint64_t cursor = 0, removed = 0, expected = 0;
    int err;
    do
        err = cm_store_clear(some_store(), prefix, &cursor, 1 + (unsigned)random_below(&world.random, 40),
                             &how, &removed);
    while (cursor && !err);
    for (size_t n = 0; n < KEYS; n++) {
        if (!lives(n) || !has_prefix(n, prefix) || (spares && n % 2 == 0))
            continue;
        uint8_t space[SPACE_BYTES];
        expected++;
        if (err && cm_store_get(some_store(), key_of(n, space), NULL, NULL, NULL, NULL) == 0) {
            expected--; /* not come to */
            continue;
        }
        world.expected[n].there = false;
        world.expected[n].version++; /* at least */
    }
    assert_int_equal(removed, expected);
    if (err)
        assert_true(err == CM_E_NOMEMORY && world.fails);
}

static void tend(void) {
    struct stores *stores = &world.stores;
    switch (random_below(&world.random, 6)) {
    case 0:
        cm_table_grow(&stores->seats[0].participant, 1 + (unsigned)random_below(&world.random, 9));
        break;
    case 1:
        cm_cleaner_stock(&stores->segment, random_below(&world.random, 2));
        break;
    case 2:
        /* Also chunks that cleaning wins nothing of. */
        cm_cleaner_mark(&stores->cleaner,
                        (uint32_t)random_below(&world.random, stores->segment.layout.chunks));
        break;
    case 3:
        cm_append_close(&stores->seats[some_seat()].participant);
        break;
    case 4:
        cm_expiry_sweep(&stores->sweep, &stores->seats[0].participant, stores_clock(),
                        (unsigned)random_below(&world.random, 50));
        break;
    default:
        cm_cleaner_run(&stores->cleaner);
    }
}

static void act(void) {
    size_t n = random_below(&world.random, KEYS);
    world.wanted_bytes = 2 * world.most_len;
    switch (random_below(&world.random, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
        set(n);
        break;
    case 4:
    case 5:
    case 6:
        increment(n);
        break;
    case 7: {
        struct cm_change change = some_change(n);
        drop(n, &change);
        break;
    }
    case 8:
        expire(n);
        break;
    case 9:
        set_many();
        break;
    case 10:
        if (random_below(&world.random, 30) == 0)
            clear();
        else if (random_below(&world.random, 30) == 0)
            list();
        break;
    case 11:
        if (random_below(&world.random, 2))
            stores_turn(stores_clock() + random_below(&world.random, 5));
        break;
    default:
        tend();
    }
    check_key(n);
}

static int begin(uint64_t total_bytes, size_t most_len, uint64_t seed) {
    world = (struct world){.random = seed, .most_len = most_len};
    for (size_t n = 0; n < KEYS; n++)
        world.spots[n].word = CM_SPOT_NEVER;
    return stores_open(&world.stores, total_bytes, 4, 3);
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        assert_int_equal(begin(seed % 2 ? 4 << 20 : 64 << 20, 40000, seed), 0);
        for (int i = 0; i < 15000; i++) {
            act();
            if (i % 200 == 0)
                check_all();
        }
        check_all();
        assert_int_equal(world.refused, 0);
        assert_true(world.added > 20);
        for (size_t n = 0; n < KEYS; n++)
            drop(n, &(struct cm_change){0});
        stores_turn(UINT64_MAX);
        while (cm_expiry_sweep(&world.stores.sweep, &world.stores.seats[0].participant, UINT64_MAX, 1000)) {
        }
        stores_tend(&world.stores, false);
        while (cm_expiry_sweep(&world.stores.sweep, &world.stores.seats[0].participant, UINT64_MAX, 1000)) {
        }
        struct cm_store_stats stats;
        cm_store_stats(some_store(), &stats);
        assert_int_equal(stats.entries, 0);
        assert_int_equal(stats.used_bytes, 0);
        stores_close(&world.stores);
    }
}

static void where_memory_is_short_all_is_kept(void **state) {
    (void)state;
    if (sigsetjmp(stores_stuck, 1))
        fail_msg("an operation did not come back");
    assert_int_equal(begin(1 << 20, 90000, 5), 0);
    for (int i = 0; i < 20000; i++) {
        stores_watch(5);
        act();
        stores_watch(0);
        if (i % 200 == 0)
            check_all();
    }
    assert_in_range(world.refused, 100, 15000);
    stores_close(&world.stores);
}

static int random_operations_without_memory(void *data) {
    (void)data;
    int err = begin(4 << 20, 40000, 9);
    if (err)
        return err;
    world.fails = true;
    for (int i = 0; i < 250; i++) {
        act();
        if (i % 50 == 0)
            check_all();
    }
    check_all();
    stores_close(&world.stores);
    return world.refused ? CM_E_NOMEMORY : 0;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    alloc_failure_each(random_operations_without_memory, NULL);
}

/* --- what chance may miss --- */

static struct stores plain;

static struct cm_store *open_plain(uint64_t total_bytes) {
    assert_int_equal(stores_open(&plain, total_bytes, 4, 2), 0);
    return &plain.seats[1].store;
}

static int put(struct cm_store *store, const char *key, const char *text, uint64_t expires_ms,
               uint64_t *version) {
    struct cm_value value = {.bytes = cm_bytes_of(text)};
    return cm_store_set(store, cm_bytes_of(key), &value, &(struct cm_change){.expires_ms = expires_ms},
                        version);
}

static void assert_bytes(struct cm_store *store, struct cm_bytes key, struct cm_bytes expected) {
    struct cm_buf buf = {0};
    struct cm_value value;
    assert_int_equal(cm_store_get(store, key, &buf, &value, NULL, NULL), 0);
    assert_false(value.is_number);
    assert_int_equal(value.bytes.len, expected.len);
    assert_true(expected.len == 0 || memcmp(value.bytes.data, expected.data, expected.len) == 0);
    cm_buf_deinit(&buf);
}

static void every_combination_of_conditions(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    enum { ABSENT, EXPIRED, ALIVE, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        for (unsigned bits = 0; bits < 1 << 9; bits++) {
            struct cm_bytes key = cm_bytes_of("key");
            uint64_t old, version;
            bool is_number = bits & 64, was_number = bits & 128, is_real = bits & 256;
            struct cm_value value = {
                .is_number = was_number, .number.integer = 7, .bytes = cm_bytes_of("old")};
            stores_turn(1000);
            assert_int_equal(cm_store_set(store, key, &value,
                                          &(struct cm_change){.expires_ms = kind == EXPIRED ? 1001 : 5000},
                                          &old),
                             0);
            if (kind == ABSENT)
                assert_int_equal(cm_store_remove(store, key, &(struct cm_change){0}, &old), 0);
            stores_turn(1001);
            struct cm_change change = {.if_absent = bits & 1,
                                       .if_present = bits & 2,
                                       .if_version = bits & 4,
                                       .version = bits & 8 ? old : 0,
                                       .keep_expiry = bits & 16,
                                       .expires_ms = bits & 32 ? 3000 : 0};
            bool alive = kind == ALIVE;
            int expected = change.if_absent && alive                                  ? CM_E_EXISTS
                           : change.if_present && !alive                              ? CM_E_NOTFOUND
                           : change.if_version && change.version != (alive ? old : 0) ? CM_E_CONFLICT
                                                                                      : 0;
            value = (struct cm_value){.is_number = is_number, .bytes = cm_bytes_of("new")};
            value.number.is_float = is_real;
            value.number.integer = 8;
            assert_int_equal(cm_store_set(store, key, &value, &change, &version), expected);
            struct cm_buf buf = {0};
            uint64_t found = 0, expires_ms;
            struct cm_value after;
            int err = cm_store_get(store, key, &buf, &after, &found, &expires_ms);
            assert_int_equal(err, expected && !alive ? CM_E_NOTFOUND : 0);
            if (!expected) {
                assert_true(version > old);
                assert_int_equal(found, version);
                assert_int_equal(expires_ms, change.keep_expiry && alive ? 5000 : change.expires_ms);
                assert_int_equal(after.is_number, is_number);
                assert_true(!is_number || same_number(after.number, value.number));
                assert_true(is_number || memcmp(after.bytes.data, "new", 3) == 0);
            } else if (alive) {
                assert_int_equal(found, old);
                assert_int_equal(expires_ms, 5000);
                assert_int_equal(after.is_number, was_number);
            }
            cm_buf_deinit(&buf);
            cm_store_remove(store, key, &(struct cm_change){0}, &version);
            stores_check_counts(&plain.segment, true);
        }
    }
    stores_close(&plain);
}

static void an_entry_lives_until_its_time(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    struct cm_bytes key = cm_bytes_of("key");
    uint64_t version, last;
    stores_turn(10);
    assert_int_equal(put(store, "key", "x", 100, &last), 0);
    stores_turn(99);
    assert_int_equal(cm_store_get(store, key, NULL, NULL, &version, NULL), 0);
    assert_int_equal(version, last);
    stores_turn(100);
    assert_int_equal(cm_store_get(store, key, NULL, NULL, &version, NULL), CM_E_NOTFOUND);
    assert_int_equal(version, 0);
    assert_int_equal(put(store, "key", "y", 200, &version), 0);
    assert_true(version > last);
    last = version;
    stores_turn(200);
    assert_int_equal(cm_store_remove(store, key, &(struct cm_change){0}, &version), 0);
    assert_int_equal(version, 0);
    assert_int_equal(cm_store_expire(store, key, 300), CM_E_NOTFOUND);
    assert_int_equal(cm_store_expire(store, key, 0), CM_E_NOTFOUND);
    struct cm_number two = {.integer = 2}, sum;
    assert_int_equal(cm_store_increment(store, key, two, two, 300, &sum, &version), 0);
    assert_int_equal(sum.integer, 4);
    assert_true(version > last);
    stores_turn(300);
    assert_int_equal(cm_store_increment(store, key, two, two, 0, &sum, &version), 0);
    assert_int_equal(sum.integer, 4);
    /* Without a time it stays for ever, also where it had one before. */
    stores_turn(UINT64_MAX);
    assert_int_equal(cm_store_get(store, key, NULL, NULL, NULL, NULL), 0);
    stores_close(&plain);
}

static void a_new_expiry_is_no_new_version(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    struct cm_bytes key = cm_bytes_of("key");
    uint64_t version, after, expires_ms;
    stores_turn(1);
    assert_int_equal(put(store, "key", "v", 0, &version), 0);
    const uint64_t times[] = {50, 20, 90, 0, 0, 30};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        assert_int_equal(cm_store_expire(store, key, times[i]), 0);
        assert_int_equal(cm_store_get(store, key, NULL, NULL, &after, &expires_ms), 0);
        assert_int_equal(after, version);
        assert_int_equal(expires_ms, times[i]);
    }
    stores_close(&plain);
}

/* Across everything that can become of a key: also its removal, its expiry, growth and cleaning. */
static void versions_grow_for_ever(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    struct cm_bytes key = cm_bytes_of("key");
    const struct cm_number one = {.integer = 1}, half = {.is_float = true, .real = 0.5};
    uint64_t last = 0, version = 0, random = 3;
    struct cm_number sum;
    for (int i = 0; i < 2000; i++) {
        struct cm_value number = {.is_number = true, .number = i % 3 ? one : half};
        switch (random_below(&random, 8)) {
        case 0:
            assert_int_equal(put(store, "key", "v", 0, &version), 0);
            break;
        case 1:
            assert_int_equal(cm_store_set(store, key, &number, &(struct cm_change){0}, &version), 0);
            break;
        case 2:
            assert_int_equal(cm_store_remove(store, key, &(struct cm_change){0}, &version), 0);
            break;
        case 3:
            if (cm_store_increment(store, key, one, one, 0, &sum, &version))
                version = 0;
            break;
        case 4:
            assert_int_equal(put(store, "key", "v", stores_clock() + 1, &version), 0);
            assert_true(version > last);
            last = version;
            stores_turn(stores_clock() + 1);
            if (i % 2)
                cm_expiry_sweep(&plain.sweep, &plain.seats[0].participant, stores_clock(), 1000);
            version = 0;
            break;
        case 5: {
            char other[16];
            snprintf(other, sizeof other, "%d", i);
            assert_int_equal(put(store, other, "v", 0, &version), 0);
            cm_table_grow(&plain.seats[0].participant, 5);
            version = 0;
            break;
        }
        case 6: {
            uint64_t before = 0, after = 0;
            cm_store_get(store, key, NULL, NULL, &before, NULL);
            cm_append_close(&plain.seats[1].participant);
            for (uint32_t chunk = 0; chunk < plain.segment.layout.chunks; chunk++)
                cm_cleaner_mark(&plain.cleaner, chunk);
            stores_tend(&plain, false);
            cm_store_get(store, key, NULL, NULL, &after, NULL);
            assert_int_equal(before, after);
            version = 0;
            break;
        }
        default: {
            struct cm_pair pair = {key, number};
            assert_int_equal(cm_store_set_many(stores_master(&plain), &pair, 1), 0);
            assert_int_equal(cm_store_get(store, key, NULL, NULL, &version, NULL), 0);
        }
        }
        if (version) {
            assert_true(version > last);
            last = version;
        }
    }
    stores_close(&plain);
}

static void numbers_change_in_place_where_their_kind_stays(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    struct cm_bytes key = cm_bytes_of("key");
    const struct cm_value values[] = {{.is_number = true, .number = {.integer = 5}},
                                      {.is_number = true, .number = {.is_float = true, .real = 2.5}},
                                      {.bytes = cm_bytes_of("bytes")}};
    uint64_t version;
    for (size_t from = 0; from < 3; from++) {
        for (size_t to = 0; to < 3; to++) {
            assert_int_equal(cm_store_set(store, key, &values[from], &(struct cm_change){0}, &version), 0);
            struct cm_appender before = plain.seats[1].participant.appender;
            assert_int_equal(
                cm_store_set(store, key, &values[to], &(struct cm_change){.expires_ms = 9000}, &version), 0);
            bool in_place = from == to && values[to].is_number;
            assert_int_equal(before.at == plain.seats[1].participant.appender.at, in_place);
            struct cm_buf buf = {0};
            struct cm_value value;
            uint64_t expires_ms;
            assert_int_equal(cm_store_get(store, key, &buf, &value, NULL, &expires_ms), 0);
            assert_int_equal(value.is_number, values[to].is_number);
            assert_true(!value.is_number || same_number(value.number, values[to].number));
            assert_int_equal(expires_ms, 9000);
            cm_buf_deinit(&buf);
            stores_check_counts(&plain.segment, true);
        }
    }
    stores_close(&plain);
}

static void increments_keep_to_lua(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    uint8_t space[CM_KEY_MAX_BYTES] = {1};
    const size_t lens[] = {3, CM_KEY_MAX_BYTES}; /* as a number, and as bytes */
    for (size_t i = 0; i < 2; i++) {
        struct cm_bytes key = {space, lens[i]};
        const struct cm_number one = {.integer = 1}, half = {.is_float = true, .real = 0.5},
                               ten = {.integer = 10};
        struct cm_number sum = {0};
        uint64_t last, version = 0, expires_ms;
        assert_int_equal(cm_store_increment(store, key, one, ten, 5000, &sum, &last), 0);
        assert_true(!sum.is_float && sum.integer == 11);
        assert_int_equal(cm_store_increment(store, key, half, ten, 7000, &sum, &version), 0);
        assert_true(sum.is_float && sum.real == 11.5 && version > last);
        last = version;
        assert_int_equal(cm_store_increment(store, key, one, ten, 0, &sum, &version), 0);
        assert_true(sum.is_float && sum.real == 12.5 && version > last);
        assert_int_equal(cm_store_get(store, key, NULL, NULL, NULL, &expires_ms), 0);
        assert_int_equal(expires_ms, 5000);
        /* Bytes are no number. */
        struct cm_value text = {.bytes = cm_bytes_of("no number")};
        assert_int_equal(cm_store_set(store, key, &text, &(struct cm_change){0}, &last), 0);
        assert_int_equal(cm_store_increment(store, key, one, ten, 0, &sum, &version), CM_E_BADVALUE);
        assert_bytes(store, key, text.bytes);
        /* What would be too large is refused, and all stays, the version too. */
        struct cm_value most = {.is_number = true, .number.integer = INT64_MAX};
        assert_int_equal(cm_store_set(store, key, &most, &(struct cm_change){.expires_ms = 6000}, &last), 0);
        assert_int_equal(cm_store_increment(store, key, one, ten, 0, &sum, &version), CM_E_BADVALUE);
        assert_int_equal(cm_store_get(store, key, NULL, NULL, &version, &expires_ms), 0);
        assert_int_equal(version, last);
        assert_int_equal(expires_ms, 6000);
        uint64_t gone;
        assert_int_equal(cm_store_remove(store, key, &(struct cm_change){0}, &gone), 0);
        assert_int_equal(cm_store_increment(store, key, one, most.number, 0, &sum, &version), CM_E_BADVALUE);
        assert_int_equal(cm_store_get(store, key, NULL, NULL, NULL, NULL), CM_E_NOTFOUND);
        stores_check_counts(&plain.segment, true);
    }
    stores_close(&plain);
}

static void floats_keep_all_their_bits(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    const uint64_t bits[] = {UINT64_C(1) << 63, UINT64_C(0x7ff8000000000001), UINT64_C(0xfff0000000000000),
                             UINT64_C(0x7ff0000000000001), 1};
    struct cm_bytes key = cm_bytes_of("key");
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        struct cm_value value = {.is_number = true, .number.is_float = true}, found;
        memcpy(&value.number.real, &bits[i], 8);
        uint64_t version;
        struct cm_buf buf = {0};
        assert_int_equal(cm_store_set(store, key, &value, &(struct cm_change){0}, &version), 0);
        assert_int_equal(cm_store_get(store, key, &buf, &found, NULL, NULL), 0);
        assert_true(found.is_number && found.number.is_float);
        assert_memory_equal(&found.number.real, &bits[i], 8);
    }
    /* -0.0 + 0.0 is 0.0, what is not a number stays that. */
    struct cm_value nan_value = {.is_number = true, .number = {.is_float = true, .real = NAN}};
    struct cm_number sum;
    uint64_t version;
    assert_int_equal(cm_store_set(store, key, &nan_value, &(struct cm_change){0}, &version), 0);
    assert_int_equal(cm_store_increment(store, key, (struct cm_number){.integer = 1},
                                        sum = (struct cm_number){0}, 0, &sum, &version),
                     0);
    assert_true(sum.is_float && isnan(sum.real));
    stores_close(&plain);
}

static void keys_have_bounds(void **state) {
    (void)state;
    struct cm_store *store = open_plain(4 << 20);
    const struct cm_change none = {0};
    const struct cm_number one = {.integer = 1};
    struct cm_value value = {.bytes = cm_bytes_of("x")};
    struct cm_number sum;
    uint64_t version;
    uint8_t *bytes = calloc(1, CM_KEY_MAX_BYTES + 1);
    assert_non_null(bytes);
    const size_t bad[] = {0, CM_KEY_MAX_BYTES + 1};
    for (size_t i = 0; i < 2; i++) {
        struct cm_bytes key = {bytes, bad[i]};
        assert_int_equal(cm_store_set(store, key, &value, &none, &version), CM_E_BADVALUE);
        assert_int_equal(cm_store_set_many(stores_master(&plain), &(struct cm_pair){key, value}, 1),
                         CM_E_BADVALUE);
        assert_int_equal(cm_store_increment(store, key, one, one, 0, &sum, &version), CM_E_BADVALUE);
        assert_int_equal(cm_store_get(store, key, NULL, NULL, NULL, NULL), CM_E_NOTFOUND);
        assert_int_equal(cm_store_expire(store, key, 5000), CM_E_NOTFOUND);
        assert_int_equal(cm_store_remove(store, key, &none, &version), 0);
        assert_int_equal(version, 0);
    }
    struct cm_value huge = {.bytes = {bytes, (size_t)UINT32_MAX + 1}};
    assert_int_equal(cm_store_set(store, cm_bytes_of("k"), &huge, &none, &version), CM_E_TOOLARGE);
    assert_int_equal(cm_store_set_many(stores_master(&plain), &(struct cm_pair){cm_bytes_of("k"), huge}, 1),
                     CM_E_TOOLARGE);
    assert_int_equal(cm_store_set_many(stores_master(&plain), NULL, 0), 0);
    /* All lengths around the words' and the pieces' bounds, all there together. */
    size_t lens[600], count = 0;
    for (size_t len = 1; len <= 300; len++)
        lens[count++] = len;
    for (size_t len = 512; len <= CM_KEY_MAX_BYTES + 1; len *= 2) {
        for (size_t more = 0; more < 20; more++)
            lens[count++] = len - 1 - more;
    }
    for (size_t i = 0; i < count; i++) {
        struct cm_bytes key = {bytes, lens[i]};
        value.bytes = (struct cm_bytes){bytes, lens[i] % 20};
        assert_int_equal(stores_set(&plain, 1, key, &value, &none, &version), 0);
    }
    for (size_t i = 0; i < count; i++)
        assert_bytes(store, (struct cm_bytes){bytes, lens[i]}, (struct cm_bytes){bytes, lens[i] % 20});
    stores_check_counts(&plain.segment, true);
    free(bytes);
    stores_close(&plain);
}

static void values_of_any_length(void **state) {
    (void)state;
    struct cm_store *store = open_plain(64 << 20);
    size_t most = 9 << 20;
    uint8_t *bytes = malloc(most);
    assert_non_null(bytes);
    uint64_t random = 1, version;
    for (size_t i = 0; i < most; i++)
        bytes[i] = (uint8_t)random_next(&random);
    for (size_t len = 0; len < most; len += len < 300 ? 1 : len < 100000 ? 1 + len / 7 : len / 2) {
        /* The two that are most different lie there in turn. */
        struct cm_value value = {.bytes = {bytes + (len % 8), len}};
        struct cm_bytes key = {bytes, 1 + len % 40};
        assert_int_equal(stores_set(&plain, 1, key, &value, &(struct cm_change){0}, &version), 0);
        assert_bytes(store, key, value.bytes);
    }
    stores_check_counts(&plain.segment, true);
    free(bytes);
    stores_close(&plain);
}

/* Where memory runs out in the midst of them, and with keys that come twice. */
static void many_are_stored_together_or_not_at_all(void **state) {
    (void)state;
    struct cm_store *store = open_plain(1 << 20);
    static uint8_t bytes[180000];
    uint64_t version, after, expires_ms, kept = 0;
    assert_int_equal(put(store, "a", "old of a", 9000, &version), 0);
    struct cm_pair pairs[] = {
        {cm_bytes_of("a"), {.bytes = cm_bytes_of("new of a")}},
        {cm_bytes_of("c"), {.bytes = {bytes, sizeof bytes}}},
        {cm_bytes_of("a"), {.bytes = {bytes, sizeof bytes}}},
        {cm_bytes_of("d"), {.bytes = {bytes, sizeof bytes}}},
        {cm_bytes_of("e"), {.bytes = {bytes, sizeof bytes}}},
        {cm_bytes_of("f"), {.bytes = {bytes, sizeof bytes}}},
        {cm_bytes_of("a"), {.is_number = true, .number.integer = 3}},
    };
    struct cm_store_stats before, stats;
    cm_store_stats(store, &before);
    assert_int_equal(cm_store_set_many(stores_master(&plain), pairs, 7), CM_E_NOMEMORY);
    assert_int_equal(cm_store_get(store, cm_bytes_of("a"), NULL, NULL, &after, &expires_ms), 0);
    assert_int_equal(after, version);
    assert_int_equal(expires_ms, 9000);
    assert_int_equal(cm_store_get(store, cm_bytes_of("c"), NULL, NULL, &kept, NULL), CM_E_NOTFOUND);
    cm_store_stats(store, &stats);
    assert_int_equal(stats.used_bytes, before.used_bytes);
    assert_int_equal(stats.entries, 1);
    stores_check_counts(&plain.segment, true);
    assert_int_equal(cm_store_set_many(stores_master(&plain), pairs, 3), 0);
    assert_bytes(store, pairs[2].key, pairs[2].value.bytes);
    assert_int_equal(cm_store_set_many(stores_master(&plain), pairs + 4, 1), 0);
    pairs[4] = pairs[6];
    assert_int_equal(cm_store_set_many(stores_master(&plain), pairs + 3, 2), 0);
    struct cm_buf buf = {0};
    struct cm_value value;
    assert_int_equal(cm_store_get(store, cm_bytes_of("a"), &buf, &value, NULL, &expires_ms), 0);
    assert_true(value.is_number && value.number.integer == 3);
    assert_int_equal(expires_ms, 0);
    cm_buf_deinit(&buf);
    cm_store_stats(store, &stats);
    assert_int_equal(stats.entries, 4);
    stores_check_counts(&plain.segment, true);
    stores_close(&plain);
}

/* --- several at once --- */

enum { THREADS = 3, OWN_KEYS = 100, SHARED_KEYS = 4 };

struct worker {
    uint32_t seat;
    uint32_t faults;
    uint64_t increments[SHARED_KEYS];
    uint8_t first[OWN_KEYS];
    size_t len[OWN_KEYS]; /* + 1; 0: none */
    uint64_t version[OWN_KEYS];
    int64_t number;
};

static _Atomic bool over;

static struct cm_bytes own_key(const struct worker *worker, size_t n, char space[32]) {
    snprintf(space, 32, "own %u %zu", worker->seat, n);
    return cm_bytes_of(space);
}

/* The main thread is the master, and makes room; here there is none to ask. */
static int set_own(struct worker *worker, size_t n, size_t len, uint8_t first) {
    static _Thread_local uint8_t bytes[30000];
    char space[32];
    memset(bytes, first, len);
    struct cm_value value = {.bytes = {bytes, len}};
    uint64_t version;
    int err = cm_store_set(&plain.seats[worker->seat].store, own_key(worker, n, space), &value,
                           &(struct cm_change){0}, &version);
    if (err)
        return err;
    worker->faults += version <= worker->version[n];
    worker->version[n] = version;
    worker->len[n] = len + 1;
    worker->first[n] = first;
    return 0;
}

static void check_own(struct worker *worker, size_t n, struct cm_buf *buf) {
    char space[32];
    struct cm_value value;
    uint64_t version;
    int err = cm_store_get(&plain.seats[worker->seat].store, own_key(worker, n, space), buf, &value, &version,
                           NULL);
    bool right = worker->len[n]
                     ? !err && value.bytes.len == worker->len[n] - 1 && version == worker->version[n]
                     : err == CM_E_NOTFOUND;
    for (size_t i = 0; right && !err && i < value.bytes.len; i++)
        right = value.bytes.data[i] == worker->first[n];
    worker->faults += !right;
}

static void *work_on(void *data) {
    struct worker *worker = data;
    struct cm_store *store = &plain.seats[worker->seat].store;
    uint64_t random = worker->seat, version;
    struct cm_buf buf = {0};
    const struct cm_number one = {.integer = 1};
    struct cm_number sum, now;
    struct cm_spot spots[SHARED_KEYS];
    char space[32];
    for (size_t i = 0; i < SHARED_KEYS; i++)
        spots[i] = (struct cm_spot){.word = CM_SPOT_NEVER};
    while (!atomic_load(&over)) {
        size_t n = random_below(&random, OWN_KEYS), shared = random_below(&random, SHARED_KEYS);
        switch (random_below(&random, 6)) {
        case 0:
        case 1: {
            int err = set_own(worker, n, random_below(&random, random_below(&random, 10) ? 200 : 30000),
                              (uint8_t)random);
            worker->faults += err && err != CM_E_NOMEMORY;
            break;
        }
        case 2:
            if (cm_store_remove(store, own_key(worker, n, space), &(struct cm_change){0}, &version))
                worker->faults++;
            worker->faults +=
                (version != 0) != (worker->len[n] != 0) || (version && version <= worker->version[n]);
            worker->version[n] = version ? version : worker->version[n];
            worker->len[n] = 0;
            break;
        case 3: {
            struct cm_bytes key = {(const uint8_t *)"shared" + shared, 6 - shared};
            bool stood = cm_store_add_at(store, &spots[shared], one, &sum);
            if (stood || cm_store_add(store, key, one, &spots[shared], &sum) == 0)
                worker->increments[shared]++;
            /* Others may have added to it meanwhile, or moved it; nobody takes anything away. */
            worker->faults +=
                cm_store_number_at(store, &spots[shared], &now, &version) && now.integer < sum.integer;
            break;
        }
        case 4: {
            /* What nobody looks for expires, and is swept. */
            struct cm_value value = {.bytes = {(const uint8_t *)space, 20}};
            snprintf(space, sizeof space, "gone %zu", random_below(&random, 1000));
            cm_store_set(store, cm_bytes_of(space), &value,
                         &(struct cm_change){.expires_ms = stores_clock() + random_below(&random, 20)},
                         &version);
            break;
        }
        default:
            check_own(worker, n, &buf);
        }
    }
    for (size_t n = 0; n < OWN_KEYS; n++)
        check_own(worker, n, &buf);
    cm_buf_deinit(&buf);
    return NULL;
}

static void several_at_once_each_keep_their_own(void **state) {
    (void)state;
    static struct worker workers[THREADS];
    pthread_t threads[THREADS];
    assert_int_equal(stores_open(&plain, 16 << 20, THREADS + 2, THREADS + 1), 0);
    atomic_store(&over, false);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.seat = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, work_on, &workers[i]), 0);
    }
    struct cm_participant *master = &plain.seats[0].participant;
    double until = stores_seconds() + 1;
    for (uint64_t i = 0; stores_seconds() < until; i++) {
        cm_table_grow(master, 2);
        if (i % 20 == 0)
            cm_cleaner_mark(&plain.cleaner, (uint32_t)(i * 7 % plain.segment.layout.chunks));
        cm_cleaner_run(&plain.cleaner);
        cm_expiry_sweep(&plain.sweep, master, stores_clock(), 100);
        cm_cleaner_stock(&plain.segment, i % 4 != 0);
        if (i % 10 == 0)
            stores_turn(stores_clock() + 1);
    }
    atomic_store(&over, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (size_t shared = 0; shared < SHARED_KEYS; shared++) {
        uint64_t sum = 0;
        for (int i = 0; i < THREADS; i++)
            sum += workers[i].increments[shared];
        struct cm_buf buf = {0};
        struct cm_value value;
        assert_int_equal(cm_store_get(stores_master(&plain),
                                      (struct cm_bytes){(const uint8_t *)"shared" + shared, 6 - shared}, &buf,
                                      &value, NULL, NULL),
                         0);
        assert_true(value.is_number);
        assert_int_equal(value.number.integer, sum);
        assert_true(sum > 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(workers[i].faults, 0);
    stores_check_counts(&plain.segment, true);
    stores_close(&plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination_of_conditions),
        cmocka_unit_test(an_entry_lives_until_its_time),
        cmocka_unit_test(a_new_expiry_is_no_new_version),
        cmocka_unit_test(versions_grow_for_ever),
        cmocka_unit_test(numbers_change_in_place_where_their_kind_stays),
        cmocka_unit_test(increments_keep_to_lua),
        cmocka_unit_test(floats_keep_all_their_bits),
        cmocka_unit_test(keys_have_bounds),
        cmocka_unit_test(values_of_any_length),
        cmocka_unit_test(many_are_stored_together_or_not_at_all),
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(where_memory_is_short_all_is_kept),
        cmocka_unit_test(failed_allocations_change_nothing),
        cmocka_unit_test(several_at_once_each_keep_their_own),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
