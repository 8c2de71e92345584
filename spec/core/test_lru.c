/* The caches of several seats on one segment against one list of what they should hold, in which order, on a
 * clock that the test turns. */
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "spec/core/alloc_failure.h"
#include "spec/core/caches.h"
#include "spec/core/stores.h"

enum { KEYS = 400, SEATS = 4, MOST_BYTES = 60000, SPACE_BYTES = 3000 };

static _Atomic uint64_t now_ns;

static uint64_t clock_ns(void) {
    return atomic_load(&now_ns);
}

static void turn(uint64_t ns) {
    atomic_store(&now_ns, ns);
    stores_turn(ns / 1000000);
}

struct expected {
    bool there;    /* also when it has expired */
    uint64_t used; /* the order of uses */
    uint64_t used_ms;
    uint64_t age_ms; /* 0: for ever */
    uint64_t expires_ms;
    size_t len;
    uint8_t first; /* each byte is one more than the last */
};

static struct world {
    struct stores stores;
    struct cm_lru lrus[SEATS];
    struct cm_lru_options options;
    struct expected expected[KEYS];
    struct cm_lru_stats stats; /* as they should be */
    uint64_t uses;
    uint64_t random;
    bool fails; /* allocations may */
} world;

static struct cm_bytes key_of(size_t n, uint8_t space[SPACE_BYTES]) {
    int len = snprintf((char *)space, SPACE_BYTES, "key %zu", n);
    size_t all = n % 20 == 7 ? SPACE_BYTES - n : (size_t)len;
    memset(space + len, 'x', all - (size_t)len);
    return (struct cm_bytes){space, all};
}

static int try_open_world(uint64_t bytes, const struct cm_lru_options *options) {
    world = (struct world){.random = 42, .options = *options};
    int err = stores_open(&world.stores, bytes, SEATS, SEATS);
    if (err)
        return err;
    turn(UINT64_C(1000000000));
    for (int i = 0; i < SEATS; i++) {
        cm_lru_init(&world.lrus[i], &world.stores.seats[i].store);
        world.lrus[i].clock_ns = clock_ns;
    }
    world.stores.sweep.lru = &world.lrus[0];
    return cm_lru_start(&world.lrus[0], options);
}

static void open_world(uint64_t bytes, const struct cm_lru_options *options) {
    assert_int_equal(try_open_world(bytes, options), 0);
}

static void close_world(void) {
    stores_close(&world.stores);
}

static struct cm_lru *some_lru(void) {
    return &world.lrus[random_below(&world.random, SEATS)];
}

/* --- the list --- */

static uint64_t bytes_of(size_t n) {
    uint8_t space[SPACE_BYTES];
    return cm_append_bytes(&world.stores.segment, key_of(n, space).len, world.expected[n].len);
}

static uint64_t most_entries(void) {
    return world.options.most_entries ? world.options.most_entries
                                      : cm_recency_capacity(&world.stores.segment);
}

static void forget(size_t n) {
    world.stats.entries--;
    world.stats.bytes -= bytes_of(n);
    world.expected[n].there = false;
}

static bool is_past(size_t n) {
    const struct expected *entry = &world.expected[n];
    uint64_t expires_ms = entry->expires_ms;
    if (expires_ms && world.options.update_age)
        expires_ms = entry->used_ms + entry->age_ms;
    return expires_ms && expires_ms <= stores_clock();
}

static size_t oldest_but(size_t but) {
    size_t oldest = KEYS;
    for (size_t n = 0; n < KEYS; n++) {
        if (n != but && world.expected[n].there &&
            (oldest == KEYS || world.expected[n].used < world.expected[oldest].used))
            oldest = n;
    }
    return oldest;
}

static void use(size_t n) {
    world.expected[n].used = ++world.uses;
    world.expected[n].used_ms = stores_clock();
}

static void expect_set(size_t n, size_t len, uint8_t first, uint64_t age_ms) {
    struct expected *entry = &world.expected[n];
    if (entry->there)
        forget(n);
    entry->len = len;
    uint64_t bytes = bytes_of(n);
    while (world.stats.entries >= most_entries() ||
           (world.options.most_bytes && world.stats.bytes + bytes > world.options.most_bytes)) {
        forget(oldest_but(n));
        world.stats.evictions++;
    }
    *entry = (struct expected){.there = true,
                               .len = len,
                               .first = first,
                               .age_ms = age_ms,
                               .expires_ms = age_ms ? stores_clock() + age_ms : 0};
    world.stats.entries++;
    world.stats.bytes += bytes;
    use(n);
}

/* --- checks --- */

static void check_stats(void) {
    struct cm_lru_stats stats;
    cm_lru_stats(&world.stores.segment, &stats);
    assert_int_equal(stats.entries, world.stats.entries);
    assert_int_equal(stats.bytes, world.stats.bytes);
    assert_int_equal(stats.hits, world.stats.hits);
    assert_int_equal(stats.misses, world.stats.misses);
    assert_int_equal(stats.evictions, world.stats.evictions);
    assert_int_equal(stats.expirations, world.stats.expirations);
}

static void check_world(void) {
    struct cache_audit audit;
    const char *wrong = cache_check(&world.stores.segment, &audit);
    if (wrong)
        fail_msg("%s", wrong);
    stores_check_counts(&world.stores.segment, true);
    check_stats();
    for (size_t n = 0; n < KEYS; n++) {
        uint8_t space[SPACE_BYTES];
        struct cm_found found;
        struct cm_key key = cm_table_key_in(&world.stores.segment, CM_SPACE_CACHE, key_of(n, space));
        int err = cm_table_get(&world.stores.seats[0].participant, &key, NULL, &found);
        assert_int_equal(err, world.expected[n].there ? 0 : CM_E_NOTFOUND);
    }
}

/* --- operations --- */

/* At once or in two steps, which is the same but for what cannot be put in. */
static int put_in(struct cm_lru *lru, struct cm_bytes key, struct cm_bytes value, uint64_t age_ms) {
    uint64_t bytes = cm_append_bytes(&world.stores.segment, key.len, value.len);
    bool refused = world.options.most_bytes && bytes > world.options.most_bytes;
    if (world.fails || refused || random_below(&world.random, 2))
        return cm_lru_set(lru, key, value, age_ms);
    struct cm_lru_arrival arrival;
    int err = cm_lru_begin(lru, key, age_ms, &arrival);
    return err ? err : cm_lru_finish(lru, &arrival, value);
}

static int do_set(size_t n, size_t len, uint64_t age_ms) {
    static uint8_t bytes[MOST_BYTES];
    uint8_t space[SPACE_BYTES];
    uint8_t first = (uint8_t)random_next(&world.random);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(first + i);
    uint64_t age = age_ms == CM_LRU_DEFAULT_AGE ? world.options.max_age_ms : age_ms;
    uint64_t all = cm_append_bytes(&world.stores.segment, key_of(n, space).len, len);
    int err = put_in(some_lru(), key_of(n, space), (struct cm_bytes){bytes, len}, age_ms);
    if (world.options.most_bytes && all > world.options.most_bytes) {
        assert_true(err == CM_E_TOOLARGE || (world.fails && err == CM_E_NOMEMORY));
    } else if (err) {
        assert_int_equal(err, CM_E_NOMEMORY);
        assert_true(world.fails);
        return err;
    } else {
        expect_set(n, len, first, age);
    }
    return 0;
}

static int do_get(size_t n) {
    static uint8_t bytes[MOST_BYTES];
    struct cm_buf buf = {0};
    struct cm_bytes value;
    uint8_t space[SPACE_BYTES];
    struct expected *entry = &world.expected[n];
    int err = cm_lru_get(some_lru(), key_of(n, space), &buf, &value);
    if (err == CM_E_NOMEMORY && world.fails) {
        cm_buf_deinit(&buf);
        return err;
    }
    bool past = entry->there && is_past(n);
    bool hit = entry->there && (!past || world.options.stale);
    assert_int_equal(err, hit ? 0 : CM_E_NOTFOUND);
    if (!hit) {
        world.stats.misses++;
        cm_buf_deinit(&buf);
        return 0;
    }
    world.stats.hits++;
    for (size_t i = 0; i < entry->len; i++)
        bytes[i] = (uint8_t)(entry->first + i);
    assert_int_equal(value.len, entry->len);
    assert_true(value.len == 0 || memcmp(value.data, bytes, value.len) == 0);
    cm_buf_deinit(&buf);
    if (past) {
        forget(n);
        world.stats.expirations++;
    } else {
        use(n);
    }
    return 0;
}

static void do_remove(size_t n) {
    uint8_t space[SPACE_BYTES];
    cm_lru_remove(some_lru(), key_of(n, space));
    if (world.expected[n].there)
        forget(n);
}

static void do_sweep(void) {
    while (cm_expiry_sweep(&world.stores.sweep, &world.stores.seats[0].participant, stores_clock(), 1000)) {
    }
    for (size_t n = 0; n < KEYS && !world.options.stale; n++) {
        if (world.expected[n].there && is_past(n)) {
            forget(n);
            world.stats.expirations++;
        }
    }
}

static void expect_nothing(void) {
    for (size_t n = 0; n < KEYS; n++) {
        if (world.expected[n].there)
            forget(n);
    }
}

static void do_start(const struct cm_lru_options *options) {
    assert_int_equal(cm_lru_start(some_lru(), options), 0);
    world.options = *options;
    expect_nothing();
    world.stats = (struct cm_lru_stats){0};
}

static size_t some_key(void) {
    /* some more often than others */
    size_t n = random_below(&world.random, KEYS);
    return random_below(&world.random, 2) ? n : n % 37;
}

static size_t some_len(void) {
    switch (random_below(&world.random, 20)) {
    case 0:
        return random_below(&world.random, MOST_BYTES);
    case 1:
        return 0;
    default:
        return random_below(&world.random, 300);
    }
}

static void operate(void) {
    turn(atomic_load(&now_ns) + 1 + random_below(&world.random, 2000000));
    size_t n = some_key();
    switch (random_below(&world.random, 40)) {
    case 0:
        do_remove(n);
        break;
    case 1:
        do_sweep();
        break;
    case 2:
        stores_tend(&world.stores, true);
        break;
    case 3:
        for (size_t i = 0; i < KEYS; i++) {
            turn(atomic_load(&now_ns) + 8);
            do_get(i);
        } /* more than are pushed again in one hold */
        break;
    case 4:
        /* all that is moved keeps its place */
        for (uint32_t i = 0; i < world.stores.segment.layout.chunks; i++)
            cm_cleaner_mark(&world.stores.cleaner, i);
        stores_tend(&world.stores, false);
        break;
    default:
        if (random_below(&world.random, 2)) {
            do_get(n);
        } else {
            static const uint64_t ages[] = {0, 1, 40, 400};
            size_t kind = random_below(&world.random, 6);
            do_set(n, some_len(), kind < 4 ? ages[kind] : CM_LRU_DEFAULT_AGE);
        }
    }
}

static void follow(const struct cm_lru_options *options, unsigned operations) {
    open_world(UINT64_C(16) << 20, options);
    for (unsigned i = 0; i < operations; i++) {
        operate();
        if (i % 200 == 0)
            check_world();
        else
            check_stats();
    }
    check_world();
    /* Given up one by one, they go in their order. */
    while (world.stats.entries) {
        size_t n = oldest_but(KEYS);
        assert_true(cm_lru_shrink(&world.lrus[0], 1));
        forget(n);
        world.stats.evictions++;
        check_stats();
        uint8_t space[SPACE_BYTES];
        struct cm_found found;
        struct cm_key key = cm_table_key_in(&world.stores.segment, CM_SPACE_CACHE, key_of(n, space));
        assert_int_equal(cm_table_get(&world.stores.seats[0].participant, &key, NULL, &found), CM_E_NOTFOUND);
    }
    assert_false(cm_lru_shrink(&world.lrus[0], 1));
    check_world();
    close_world();
}

static void follows_the_list_with_a_bound_of_entries(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){.most_entries = 150, .max_age_ms = 100}, 6000);
}

static void follows_the_list_with_a_bound_of_bytes(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){.most_bytes = 50000, .max_age_ms = 0}, 6000);
}

static void follows_the_list_with_both(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){.most_entries = 90, .most_bytes = 30000, .max_age_ms = 77}, 6000);
}

static void follows_the_list_where_hits_begin_the_age_anew(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){.most_entries = 150, .max_age_ms = 100, .update_age = true}, 6000);
}

static void follows_the_list_where_what_is_stale_is_given_out_once(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){.most_entries = 150, .max_age_ms = 100, .stale = true}, 4000);
    follow(&(struct cm_lru_options){.most_entries = 60, .max_age_ms = 50, .stale = true, .update_age = true},
           4000);
}

static void follows_the_list_of_one(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){.most_entries = 1}, 3000);
}

static void follows_the_list_without_bounds(void **state) {
    (void)state;
    follow(&(struct cm_lru_options){0}, 3000);
}

/* --- one by one --- */

static struct cm_bytes text(const char *word) {
    return cm_bytes_of(word);
}

static int count_key(void *data, struct cm_bytes key) {
    (void)key;
    ++*(uint64_t *)data;
    return 0;
}

static void is_another_name_space(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 10});
    struct cm_store *store = stores_master(&world.stores);
    struct cm_value value = {.bytes = text("plain")};
    uint64_t version;
    assert_int_equal(cm_store_set(store, text("k"), &value, &(struct cm_change){0}, &version), 0);
    assert_int_equal(cm_lru_set(&world.lrus[1], text("k"), text("cached"), 0), 0);
    assert_int_equal(cm_lru_set(&world.lrus[1], text("only"), text("cached"), 0), 0);
    struct cm_buf buf = {0};
    assert_int_equal(cm_store_get(store, text("k"), &buf, &value, NULL, NULL), 0);
    assert_memory_equal(value.bytes.data, "plain", 5);
    assert_int_equal(cm_store_get(store, text("only"), &buf, &value, NULL, NULL), CM_E_NOTFOUND);
    struct cm_bytes cached;
    assert_int_equal(cm_lru_get(&world.lrus[2], text("k"), &buf, &cached), 0);
    assert_memory_equal(cached.data, "cached", 6);
    cm_buf_deinit(&buf);
    /* A walk does not meet it, so it is neither listed nor cleared. */
    uint64_t cursor = 0, removed = 0, met = 0;
    do
        assert_int_equal(cm_store_keys(store, (struct cm_bytes){0}, &cursor, 100, count_key, &met), 0);
    while (cursor);
    assert_int_equal(met, 1);
    do
        assert_int_equal(cm_store_clear(store, (struct cm_bytes){0}, &cursor, 100,
                                        &(struct cm_store_clearing){0}, &removed),
                         0);
    while (cursor);
    assert_int_equal(removed, 1);
    struct cm_store_stats stats;
    cm_store_stats(store, &stats);
    assert_int_equal(stats.entries, 0);
    assert_true(stats.used_bytes >= UINT64_C(96));
    cm_lru_clear(&world.lrus[3]);
    cm_store_stats(store, &stats);
    assert_int_equal(stats.used_bytes, 0);
    close_world();
}

static void refuses_what_can_not_be(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_bytes = 100});
    static uint8_t long_key[CM_KEY_MAX_BYTES + 1];
    struct cm_lru *lru = &world.lrus[1];
    assert_int_equal(cm_lru_set(lru, text(""), text("v"), 0), CM_E_BADVALUE);
    assert_int_equal(cm_lru_set(lru, (struct cm_bytes){long_key, sizeof long_key}, text("v"), 0),
                     CM_E_BADVALUE);
    assert_int_equal(cm_lru_set(lru, text("k"), text("v"), 0), 0);
    assert_int_equal(cm_lru_set(lru, text("k"), (struct cm_bytes){long_key, 60}, 0), CM_E_TOOLARGE);
    struct cm_lru_options options = {.most_entries =
                                         cm_recency_capacity(&world.stores.segment) + UINT64_C(1)};
    assert_int_equal(cm_lru_start(&world.lrus[0], &options), CM_E_BADVALUE);
    struct cm_buf buf = {0};
    struct cm_bytes value;
    assert_int_equal(cm_lru_get(lru, text("k"), &buf, &value), 0); /* all of these changed nothing */
    assert_int_equal(cm_lru_get(lru, text(""), &buf, &value), CM_E_NOTFOUND);
    cm_buf_deinit(&buf);
    cm_lru_remove(lru, text(""));
    close_world();
}

static void an_age_is_over_to_the_millisecond(void **state) {
    (void)state;
    for (int updates = 0; updates < 2; updates++) {
        open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.max_age_ms = 50, .update_age = updates});
        turn(UINT64_C(5000999999));
        assert_int_equal(do_set(0, 3, CM_LRU_DEFAULT_AGE), 0);
        assert_int_equal(do_set(1, 3, CM_LRU_AGE_MOST_MS), 0);
        turn(UINT64_C(5049999999));
        do_get(0);
        assert_int_equal(world.stats.hits, 1);
        turn(UINT64_C(5050000000));
        do_get(0);
        assert_int_equal(world.stats.misses, !updates);
        turn(UINT64_C(5098999999));
        do_sweep();
        assert_int_equal(world.stats.entries, 1 + updates);
        turn(UINT64_C(5099999999));
        do_get(0);
        turn(UINT64_C(5148999999));
        do_get(0);
        turn(UINT64_C(5197999999));
        do_sweep();
        assert_int_equal(world.stats.entries, 1 + updates);
        turn(UINT64_C(5198000000));
        do_sweep();
        assert_int_equal(world.stats.entries, 1);
        check_world();
        turn(UINT64_C(5000000000) + CM_LRU_AGE_MOST_MS * UINT64_C(1000000) - 1);
        do_get(1);
        turn(UINT64_C(5000000000) + UINT64_C(2) * CM_LRU_AGE_MOST_MS * UINT64_C(1000000));
        do_get(1);
        check_stats();
        close_world();
    }
}

/* Uses in one process are told apart also where the clock stands still. */
static void a_clock_that_stands_still_keeps_the_order_of_one_process(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 3});
    struct cm_lru *lru = &world.lrus[1];
    struct cm_buf buf = {0};
    struct cm_bytes value;
    assert_int_equal(cm_lru_set(lru, text("a"), text("1"), 0), 0);
    assert_int_equal(cm_lru_set(lru, text("b"), text("1"), 0), 0);
    assert_int_equal(cm_lru_set(lru, text("c"), text("1"), 0), 0);
    assert_int_equal(cm_lru_get(lru, text("a"), &buf, &value), 0);
    assert_int_equal(cm_lru_set(lru, text("b"), text("2"), 0), 0);
    assert_int_equal(cm_lru_set(lru, text("d"), text("1"), 0), 0);
    assert_int_equal(cm_lru_get(lru, text("c"), &buf, &value), CM_E_NOTFOUND);
    assert_int_equal(cm_lru_set(lru, text("e"), text("1"), 0), 0);
    assert_int_equal(cm_lru_get(lru, text("a"), &buf, &value), CM_E_NOTFOUND);
    assert_int_equal(cm_lru_get(lru, text("b"), &buf, &value), 0);
    cm_buf_deinit(&buf);
    close_world();
}

static bool is_cached(const char *key) {
    struct cm_found found;
    struct cm_key cached = cm_table_key_in(&world.stores.segment, CM_SPACE_CACHE, text(key));
    return cm_table_get(&world.stores.seats[0].participant, &cached, NULL, &found) == 0;
}

/* Where the clock stands still a process's stamps run ahead of it, and another one's later ones are less. */
static void what_comes_with_an_earlier_stamp_goes_earlier(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 5});
    for (int i = 0; i < 5; i++)
        assert_int_equal(
            cm_lru_set(&world.lrus[i < 3 ? 1 : 2], text((char[]){(char)('a' + i), 0}), text("v"), 0), 0);
    turn(atomic_load(&now_ns) + 1000);
    assert_int_equal(cm_lru_set(&world.lrus[3], text("f"), text("v"), 0), 0);
    assert_int_equal(cm_lru_set(&world.lrus[3], text("g"), text("v"), 0), 0);
    assert_false(is_cached("a") || is_cached("d")); /* both of the first stamp */
    assert_true(is_cached("b") && is_cached("c") && is_cached("e"));
    assert_int_equal(cm_lru_set(&world.lrus[3], text("h"), text("v"), 0), 0);
    assert_int_equal(cm_lru_set(&world.lrus[3], text("i"), text("v"), 0), 0);
    assert_false(is_cached("b") || is_cached("e"));
    assert_true(is_cached("c") && is_cached("f"));
    close_world();
}

/* A slot that has been given to another entry meanwhile. */
static void a_late_hit_stamps_nobody_else(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 1});
    const struct cm_segment *segment = &world.stores.segment;
    assert_int_equal(do_set(1, 10, 0), 0);
    uint64_t word = cm_recency_word(segment, 0);
    assert_true(cm_recency_touch(segment, 0, cm_recency_generation(word), cm_recency_stamp(word) - 1));
    assert_int_equal(cm_recency_word(segment, 0), word);
    turn(atomic_load(&now_ns) + 1000);
    assert_int_equal(do_set(2, 10, 0), 0);
    uint64_t later = cm_recency_word(segment, 0);
    assert_true(cm_recency_generation(later) != cm_recency_generation(word));
    assert_false(cm_recency_touch(segment, 0, cm_recency_generation(word), cm_recency_stamp(later) + 9));
    assert_int_equal(cm_recency_word(segment, 0), later);
    close_world();
}

/* Gives the slot to as many other entries as there are generations, just before a hit reads the clock. */
static struct cm_lru *meddler;

static uint64_t meddling_clock(void) {
    struct cm_lru *lru = meddler;
    meddler = NULL;
    for (int i = 0; lru && i < 256; i++) {
        turn(atomic_load(&now_ns) + 8);
        assert_int_equal(cm_lru_set(lru, text(i % 2 ? "b" : "c"), text("v"), 0), 0);
    }
    turn(atomic_load(&now_ns) + 8);
    return clock_ns();
}

static void a_hit_is_none_when_its_generation_has_come_round(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 1});
    assert_int_equal(cm_lru_set(&world.lrus[1], text("a"), text("v"), 0), 0);
    uint8_t generation = cm_recency_generation(cm_recency_word(&world.stores.segment, 0));
    meddler = &world.lrus[2];
    world.lrus[1].clock_ns = meddling_clock;
    struct cm_buf buf = {0};
    struct cm_bytes value;
    assert_int_equal(cm_lru_get(&world.lrus[1], text("a"), &buf, &value), CM_E_NOTFOUND);
    uint64_t word = cm_recency_word(&world.stores.segment, 0);
    assert_int_equal(cm_recency_generation(word), generation);
    assert_int_equal(cm_recency_stamp(word), world.lrus[2].stamp);
    cm_buf_deinit(&buf);
    close_world();
}

/* Waking the master costs as much as dozens of inserts. */
static void a_full_cache_does_not_ring(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 10});
    struct cm_participant *participant = world.lrus[1].store->participant;
    participant->bell = eventfd(0, EFD_CLOEXEC);
    assert_true(participant->bell >= 0);
    for (int i = 0; i < 1000; i++) {
        turn(atomic_load(&now_ns) + 8);
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(cm_lru_set(&world.lrus[1], text(key), text("v"), 0), 0);
    }
    assert_int_equal(atomic_load(&world.stores.segment.header->rung), 0);
    close(participant->bell);
    close_world();
}

/* What is put in where something has to go is put in its place. */
static void a_full_cache_appends_nothing(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 10, .most_bytes = 2000});
    struct cm_lru *lru = &world.lrus[1];
    const struct cm_appender *appender = &lru->store->participant->appender;
    uint32_t at = 0;
    for (int i = 0; i < 1000; i++) {
        turn(atomic_load(&now_ns) + 8);
        char name[16];
        snprintf(name, sizeof name, "key%04d", i);
        if (i == 10)
            at = appender->at;
        struct cm_lru_arrival arrival;
        if (i % 3) {
            assert_int_equal(cm_lru_set(lru, text(name), text("12345678"), 0), 0);
        } else {
            assert_int_equal(cm_lru_begin(lru, text(name), 0, &arrival), 0);
            assert_true((arrival.vacancy.offset != 0) == (i >= 10));
            assert_int_equal(cm_lru_finish(lru, &arrival, text("abcdefgh")), 0);
        }
    }
    assert_int_equal(appender->at, at);
    struct cm_lru_stats stats;
    cm_lru_stats(&world.stores.segment, &stats);
    assert_int_equal(stats.entries, 10);
    assert_int_equal(stats.evictions, 990);
    stores_check_counts(&world.stores.segment, false);
    close_world();
}

/* --- threads: most take each other's places, the main thread is the master that moves all of it --- */

enum { THREADS = 3, THREAD_KEYS = 200 };

struct user {
    struct cm_lru *lru;
    uint64_t random;
    uint64_t hits;
    uint64_t faults;
};

static _Atomic bool over;

/* A value is its key's number, as often as it is long. */
static void *use_cache(void *data) {
    struct user *user = data;
    struct cm_buf buf = {0};
    while (!atomic_load(&over)) {
        uint32_t words[50], n = (uint32_t)random_below(&user->random, THREAD_KEYS);
        char name[16];
        snprintf(name, sizeof name, "key %03u", n);
        struct cm_bytes value;
        int err = cm_lru_get(user->lru, text(name), &buf, &value);
        user->hits += !err;
        user->faults += err && err != CM_E_NOTFOUND;
        for (size_t i = 0; !err && i < value.len / sizeof n; i++)
            user->faults += memcmp(value.data + i * sizeof n, &n, sizeof n) != 0;
        size_t len = random_below(&user->random, 8) ? 20 : random_below(&user->random, 50);
        for (size_t i = 0; i < len; i++)
            words[i] = n;
        struct cm_lru_arrival arrival;
        if (!err && random_below(&user->random, 30) == 0) {
            cm_lru_remove(user->lru, text(name));
        } else if (err && cm_lru_begin(user->lru, text(name), CM_LRU_DEFAULT_AGE, &arrival) == 0) {
            err = cm_lru_finish(user->lru, &arrival,
                                (struct cm_bytes){(const uint8_t *)words, len * sizeof *words});
            user->faults += err && err != CM_E_NOMEMORY;
        }
    }
    cm_buf_deinit(&buf);
    return NULL;
}

static void several_at_once_take_each_others_places(void **state) {
    (void)state;
    static struct user users[THREADS];
    pthread_t threads[THREADS];
    open_world(UINT64_C(4) << 20, &(struct cm_lru_options){.most_entries = 60, .max_age_ms = 20});
    atomic_store(&over, false);
    for (uint32_t i = 0; i < THREADS; i++) {
        users[i] = (struct user){.lru = &world.lrus[i + 1], .random = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, use_cache, &users[i]), 0);
    }
    struct cm_participant *master = &world.stores.seats[0].participant;
    double until = stores_seconds() + 1;
    for (uint64_t i = 0; stores_seconds() < until; i++) {
        cm_table_grow(master, 2);
        cm_cleaner_mark(&world.stores.cleaner, (uint32_t)(i * 7 % cm_chunk_reached(&world.stores.segment)));
        cm_cleaner_run(&world.stores.cleaner);
        cm_expiry_sweep(&world.stores.sweep, master, stores_clock(), 100);
        turn(atomic_load(&now_ns) + 100000);
    }
    atomic_store(&over, true);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(users[i].faults, 0);
        assert_true(users[i].hits > 100);
    }
    struct cache_audit audit;
    assert_null(cache_check(&world.stores.segment, &audit));
    stores_check_counts(&world.stores.segment, true);
    close_world();
}

/* It may have cost the oldest, and nothing else. */
static void what_is_cancelled_is_not_there(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 2});
    struct cm_lru *lru = &world.lrus[1];
    assert_int_equal(cm_lru_set(lru, text("a"), text("1"), 0), 0);
    turn(atomic_load(&now_ns) + 8);
    assert_int_equal(cm_lru_set(lru, text("b"), text("2"), 0), 0);
    struct cm_lru_arrival arrival;
    struct cm_buf buf = {0};
    struct cm_bytes value;
    assert_int_equal(cm_lru_begin(lru, text("c"), 0, &arrival), 0);
    cm_lru_cancel(lru, &arrival);
    assert_int_equal(cm_lru_get(lru, text("c"), &buf, &value), CM_E_NOTFOUND);
    assert_int_equal(cm_lru_get(lru, text("b"), &buf, &value), 0);
    struct cache_audit audit;
    assert_null(cache_check(&world.stores.segment, &audit));
    assert_int_equal(audit.entries, 1);
    /* A bad key is refused before anything is done. */
    assert_int_equal(cm_lru_begin(lru, (struct cm_bytes){0}, 0, &arrival), CM_E_BADVALUE);
    cm_buf_deinit(&buf);
    close_world();
}

static uint64_t pages_bytes(const struct cm_segment *segment) {
    struct stat file;
    assert_int_equal(fstat(segment->fd, &file), 0);
    return (uint64_t)file.st_blocks * 512;
}

static void slots_have_pages_before_they_are_used(void **state) {
    (void)state;
    open_world(UINT64_C(16) << 20, &(struct cm_lru_options){0});
    struct cm_segment *segment = &world.stores.segment;
    const struct cm_cache *cache = &segment->header->cache;
    uint64_t before = pages_bytes(segment);
    assert_int_equal(cm_recency_reserve(segment), 0);
    assert_true(cache->slots_backed > 0);
    assert_int_equal(pages_bytes(segment) - before, (uint64_t)cache->slots_backed * 48);
    uint32_t backed = cache->slots_backed;
    for (uint32_t i = 0; i < backed; i++) {
        assert_int_equal(cm_recency_reserve(segment), 0);
        assert_int_equal(cache->slots_backed, backed);
        cm_recency_take(segment, i, i);
    }
    assert_int_equal(cm_recency_reserve(segment), 0);
    assert_true(cache->slots_backed > backed);
    close_world();
}

static void slots_run_out_and_come_back(void **state) {
    (void)state;
    open_world(UINT64_C(1) << 20, &(struct cm_lru_options){0});
    uint32_t capacity = cm_recency_capacity(&world.stores.segment);
    assert_in_range(capacity, 50, KEYS - 100);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t n = 0; n < KEYS; n++) {
            turn(atomic_load(&now_ns) + 100);
            assert_int_equal(do_set(n, 10, 0), 0);
        }
        assert_int_equal(world.stats.entries, capacity);
        check_world();
        do_start(&(struct cm_lru_options){0});
        check_world();
    }
    close_world();
}

static int run_operations(void *data) {
    (void)data;
    int err =
        try_open_world(UINT64_C(16) << 20, &(struct cm_lru_options){.most_entries = 20, .max_age_ms = 50});
    if (err)
        return err;
    world.fails = true;
    for (size_t i = 0; i < 30; i++) {
        turn(atomic_load(&now_ns) + 1000000);
        int now = do_set(i % 25, i % 3 ? 20 : 50000, CM_LRU_DEFAULT_AGE);
        err = now ? now : err;
        turn(atomic_load(&now_ns) + 8);
        now = do_get(i / 2);
        err = now ? now : err;
        check_stats();
    }
    check_world();
    close_world();
    return err;
}

static void failing_allocations_change_nothing(void **state) {
    (void)state;
    alloc_failure_each(run_operations, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_list_with_a_bound_of_entries),
        cmocka_unit_test(follows_the_list_with_a_bound_of_bytes),
        cmocka_unit_test(follows_the_list_with_both),
        cmocka_unit_test(follows_the_list_where_hits_begin_the_age_anew),
        cmocka_unit_test(follows_the_list_where_what_is_stale_is_given_out_once),
        cmocka_unit_test(follows_the_list_of_one),
        cmocka_unit_test(follows_the_list_without_bounds),
        cmocka_unit_test(is_another_name_space),
        cmocka_unit_test(refuses_what_can_not_be),
        cmocka_unit_test(an_age_is_over_to_the_millisecond),
        cmocka_unit_test(a_clock_that_stands_still_keeps_the_order_of_one_process),
        cmocka_unit_test(what_comes_with_an_earlier_stamp_goes_earlier),
        cmocka_unit_test(a_late_hit_stamps_nobody_else),
        cmocka_unit_test(a_hit_is_none_when_its_generation_has_come_round),
        cmocka_unit_test(a_full_cache_does_not_ring),
        cmocka_unit_test(a_full_cache_appends_nothing),
        cmocka_unit_test(what_is_cancelled_is_not_there),
        cmocka_unit_test(several_at_once_take_each_others_places),
        cmocka_unit_test(slots_have_pages_before_they_are_used),
        cmocka_unit_test(slots_run_out_and_come_back),
        cmocka_unit_test(failing_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("lru", tests, NULL, NULL);
}
