/* The store against an array of what it should hold, with a clock that the test turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/store.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { KEYS = 150, VALUE_BYTES = 80, KEY_BYTES = 16, MOST_PAIRS = 6 };

struct expected {
    bool there; /* also when it has expired, until the store has met or swept it */
    uint8_t value[VALUE_BYTES];
    size_t len;
    uint64_t version;
    uint64_t expires_ms;
};

struct world {
    struct cm_store *store;
    struct expected expected[KEYS];
    uint64_t limit_bytes;
    uint64_t entry_bytes; /* of an entry beside its key and value */
    uint64_t now_ms;
    uint64_t last_version;
    uint64_t random;
};

/* --- the array */

static struct cm_bytes key_of(size_t n, char space[KEY_BYTES]) {
    static const char *const starts[] = {"a", "ab", "b", ""};
    snprintf(space, KEY_BYTES, "%s%zu", starts[n % 4], n);
    return cm_bytes_of(space);
}

static bool has_prefix(size_t n, struct cm_bytes prefix) {
    char space[KEY_BYTES];
    struct cm_bytes key = key_of(n, space);
    return key.len >= prefix.len && memcmp(key.data, prefix.data, prefix.len) == 0;
}

static bool expired(const struct world *world, size_t n) {
    uint64_t expires_ms = world->expected[n].expires_ms;
    return expires_ms && expires_ms <= world->now_ms;
}

static bool lives(const struct world *world, size_t n) {
    return world->expected[n].there && !expired(world, n);
}

/* The store drops an expired entry when it meets it. */
static void met(struct world *world, size_t n) {
    world->expected[n].there = lives(world, n);
}

static uint64_t footprint(const struct world *world, size_t n, size_t value_len) {
    char space[KEY_BYTES];
    return world->entry_bytes + key_of(n, space).len + value_len;
}

static uint64_t used_bytes(const struct world *world) {
    uint64_t used = 0;
    for (size_t n = 0; n < KEYS; n++)
        if (world->expected[n].there)
            used += footprint(world, n, world->expected[n].len);
    return used;
}

static bool fits(const struct world *world, size_t n, size_t value_len) {
    const struct expected *old = &world->expected[n];
    uint64_t freed = old->there ? footprint(world, n, old->len) : 0;
    return used_bytes(world) - freed + footprint(world, n, value_len) <= world->limit_bytes;
}

static void take_version(struct world *world, uint64_t version) {
    assert_true(version > world->last_version);
    world->last_version = version;
}

/* --- checks */

static void check_key(struct world *world, size_t n) {
    char space[KEY_BYTES];
    struct cm_bytes value;
    uint64_t version = 99, expires_ms;
    int err = cm_store_get(world->store, key_of(n, space), world->now_ms, &value, &version, &expires_ms);
    met(world, n);
    const struct expected *expected = &world->expected[n];
    if (!expected->there) {
        assert_int_equal(err, CM_E_NOTFOUND);
        assert_int_equal(version, 0);
        return;
    }
    assert_int_equal(err, 0);
    assert_int_equal(version, expected->version);
    assert_int_equal(expires_ms, expected->expires_ms);
    assert_int_equal(value.len, expected->len);
    if (value.len)
        assert_memory_equal(value.data, expected->value, value.len);
}

static void check_stats(const struct world *world) {
    uint64_t there = 0;
    for (size_t n = 0; n < KEYS; n++)
        there += world->expected[n].there;
    struct cm_store_stats stats;
    cm_store_stats(world->store, &stats);
    assert_int_equal(stats.entries, there);
    assert_int_equal(stats.used_bytes, used_bytes(world));
    assert_int_equal(stats.limit_bytes, world->limit_bytes);
    assert_true(stats.used_bytes <= stats.limit_bytes);
}

static void check_all(struct world *world) {
    check_stats(world);
    for (size_t n = 0; n < KEYS; n++)
        check_key(world, n);
    check_stats(world);
}

/* --- operations: each returns 0, or CM_E_NOMEMORY where an allocation or the limit did not allow it */

/* Compares the code with the one expected; the allocator may have failed instead. */
static int outcome(struct world *world, int err, int expected) {
    if (err == CM_E_NOMEMORY && expected != CM_E_NOMEMORY) {
        /* It may have met an expired entry before, or not. */
        cm_store_sweep(world->store, SIZE_MAX, world->now_ms);
        for (size_t n = 0; n < KEYS; n++)
            met(world, n);
        return err;
    }
    assert_int_equal(err, expected);
    return err == CM_E_NOMEMORY ? err : 0;
}

static uint64_t random_time(struct world *world) {
    /* 0: gone at once */
    return random_below(&world->random, 2) ? world->now_ms + random_below(&world->random, 50) : 0;
}

static struct cm_number random_number(struct world *world) {
    struct cm_number number = {.is_float = random_below(&world->random, 8) == 0};
    if (number.is_float)
        number.real = (double)random_below(&world->random, 1000) / 8;
    else
        number.integer = (int64_t)random_next(&world->random) >> random_below(&world->random, 64);
    return number;
}

static void random_value(struct world *world, struct expected *next) {
    if (random_below(&world->random, 3) == 0) {
        struct cm_bytes number = cm_number_encode(random_number(world), next->value);
        next->len = number.len;
        return;
    }
    next->len = random_below(&world->random, VALUE_BYTES + 1);
    for (size_t i = 0; i < next->len; i++)
        next->value[i] = (uint8_t)random_next(&world->random);
}

static struct cm_change random_change(struct world *world, size_t n) {
    struct cm_change change = {.expires_ms = random_time(world),
                               .keep_expiry = random_below(&world->random, 3) == 0};
    const uint64_t version = world->expected[n].version; /* of an entry that is gone, too */
    const uint64_t versions[] = {0, 1, version, version, version, version + 1, UINT64_MAX};
    switch (random_below(&world->random, 8)) {
    case 0:
        change.if_absent = true;
        break;
    case 1:
        change.if_present = true;
        break;
    case 2:
        change.if_absent = change.if_present = true;
        break;
    case 3:
        change.if_present = random_below(&world->random, 2);
        change.if_absent = random_below(&world->random, 2);
        /* fallthrough */
    case 4:
        change.if_version = true;
        change.version = versions[random_below(&world->random, sizeof versions / sizeof versions[0])];
        break;
    default:
        change.version = 12345; /* does not count */
        break;
    }
    return change;
}

static int failed_condition(const struct world *world, size_t n, const struct cm_change *change) {
    bool there = world->expected[n].there;
    if (change->if_absent && there)
        return CM_E_EXISTS;
    if (change->if_present && !there)
        return CM_E_NOTFOUND;
    if (change->if_version && change->version != (there ? world->expected[n].version : 0))
        return CM_E_CONFLICT;
    return 0;
}

static int set(struct world *world, size_t n) {
    char space[KEY_BYTES];
    struct expected next = {.there = true};
    random_value(world, &next);
    struct cm_change change = random_change(world, n);
    int err = cm_store_set(world->store, key_of(n, space), (struct cm_bytes){next.value, next.len}, &change,
                           world->now_ms, &next.version);
    met(world, n);
    int expected = failed_condition(world, n, &change);
    if (!expected && !fits(world, n, next.len))
        expected = CM_E_NOMEMORY;
    if (outcome(world, err, expected) || err)
        return err == CM_E_NOMEMORY ? err : 0;
    take_version(world, next.version);
    bool keeps = change.keep_expiry && world->expected[n].there;
    next.expires_ms = keeps ? world->expected[n].expires_ms : change.expires_ms;
    world->expected[n] = next;
    return 0;
}

static void drop(struct world *world, size_t n, const struct cm_change *change) {
    char space[KEY_BYTES];
    uint64_t version = 99;
    int err = cm_store_remove(world->store, key_of(n, space), change, world->now_ms, &version);
    met(world, n);
    struct cm_change condition = {.if_version = change->if_version, .version = change->version};
    assert_int_equal(err, failed_condition(world, n, &condition));
    if (err)
        return;
    if (world->expected[n].there)
        take_version(world, version);
    else
        assert_int_equal(version, 0);
    world->expected[n].there = false;
}

static int increment(struct world *world, size_t n) {
    char space[KEY_BYTES];
    struct expected next = {.there = true, .expires_ms = random_time(world)};
    struct cm_number delta = random_number(world), initial = random_number(world);
    struct cm_number sum, expected_sum = {0};
    int err = cm_store_increment(world->store, key_of(n, space), delta, initial, next.expires_ms,
                                 world->now_ms, &sum, &next.version);
    met(world, n);
    const struct expected *old = &world->expected[n];
    struct cm_number base = initial;
    int expected = old->there ? cm_number_decode((struct cm_bytes){old->value, old->len}, &base) : 0;
    if (!expected)
        expected = cm_number_add(base, delta, &expected_sum);
    if (!expected) {
        next.len = cm_number_encode(expected_sum, next.value).len;
        if (!fits(world, n, next.len))
            expected = CM_E_NOMEMORY;
    }
    if (outcome(world, err, expected) || err)
        return err == CM_E_NOMEMORY ? err : 0;
    take_version(world, next.version);
    assert_int_equal(sum.is_float, expected_sum.is_float);
    assert_int_equal(sum.integer, expected_sum.integer);
    if (old->there)
        next.expires_ms = old->expires_ms;
    world->expected[n] = next;
    return 0;
}

static int expire(struct world *world, size_t n) {
    char space[KEY_BYTES];
    uint64_t expires_ms = random_time(world);
    int err = cm_store_expire(world->store, key_of(n, space), expires_ms, world->now_ms);
    met(world, n);
    int failed = outcome(world, err, world->expected[n].there ? 0 : CM_E_NOTFOUND);
    if (!err)
        world->expected[n].expires_ms = expires_ms;
    return failed;
}

/* Some pairs of those keys that are `others`, keys that come twice and now and then a bad one among them. */
static int set_many(struct world *world, bool (*others)(size_t n)) {
    static struct world after;
    after = *world;
    struct expected nexts[MOST_PAIRS];
    char keys[MOST_PAIRS][KEY_BYTES];
    struct cm_pair pairs[MOST_PAIRS] = {0};
    size_t numbers[MOST_PAIRS];
    size_t count = random_below(&world->random, MOST_PAIRS + 1);
    int expected = 0;
    for (size_t i = 0; i < count; i++) {
        do
            numbers[i] = random_below(&world->random, KEYS);
        while (others && !others(numbers[i]));
        if (i && random_below(&world->random, 3) == 0)
            numbers[i] = numbers[i - 1];
        nexts[i] = (struct expected){.there = true};
        random_value(world, &nexts[i]);
        pairs[i] = (struct cm_pair){key_of(numbers[i], keys[i]), {nexts[i].value, nexts[i].len}};
        after.expected[numbers[i]] = nexts[i];
        if (random_below(&world->random, 40) == 0) {
            pairs[i].key.len = random_below(&world->random, 2) ? 0 : CM_KEY_MAX_BYTES + 1;
            expected = CM_E_BADVALUE;
        }
    }
    int err = cm_store_set_many(world->store, pairs, count, world->now_ms);
    for (size_t i = 0; !expected && i < count; i++)
        met(world, numbers[i]);
    if (!expected && count && used_bytes(&after) > world->limit_bytes)
        expected = CM_E_NOMEMORY;
    if (outcome(world, err, expected) || err)
        return err == CM_E_NOMEMORY ? err : 0;
    uint64_t last = world->last_version;
    for (size_t i = 0; i < count; i++) {
        uint64_t version;
        assert_int_equal(cm_store_get(world->store, pairs[i].key, world->now_ms, NULL, &version, NULL), 0);
        assert_true(version > last);
        world->last_version = version > world->last_version ? version : world->last_version;
        world->expected[numbers[i]] = after.expected[numbers[i]];
        world->expected[numbers[i]].version = version;
    }
    return 0;
}

static void sweep(struct world *world) {
    size_t dead = 0;
    for (size_t n = 0; n < KEYS; n++)
        dead += world->expected[n].there && expired(world, n);
    size_t most = random_below(&world->random, 10);
    size_t swept = cm_store_sweep(world->store, most, world->now_ms);
    assert_int_equal(swept, most < dead ? most : dead);
    assert_int_equal(cm_store_sweep(world->store, SIZE_MAX, world->now_ms), dead - swept);
    for (size_t n = 0; n < KEYS; n++)
        met(world, n);
}

static int act_on(struct world *world, size_t n, bool (*others)(size_t n)) {
    switch (random_below(&world->random, 12)) {
    case 0:
    case 1:
    case 2:
        return set(world, n);
    case 3:
        drop(world, n, &(struct cm_change){0});
        return 0;
    case 4: {
        struct cm_change change = random_change(world, n);
        drop(world, n, &change);
        return 0;
    }
    case 5:
    case 6:
        return increment(world, n);
    case 7:
        return expire(world, n);
    case 8:
        return set_many(world, others);
    default:
        check_key(world, n);
        return 0;
    }
}

/* --- walks */

static const char *const prefixes[] = {"", "a", "ab", "ab1", "b", "1", "zebra", "ab1 and more than any key"};

static struct cm_bytes random_prefix(struct world *world) {
    return cm_bytes_of(prefixes[random_below(&world->random, sizeof prefixes / sizeof prefixes[0])]);
}

struct listing {
    struct world *world;
    struct cm_bytes prefix;
    int listed[KEYS];
};

static int list(void *data, struct cm_bytes key) {
    struct listing *listing = data;
    char space[KEY_BYTES], text[KEY_BYTES] = {0};
    assert_true(key.len < KEY_BYTES);
    memcpy(text, key.data, key.len);
    size_t n = strtoul(text + strspn(text, "ab"), NULL, 10);
    assert_true(n < KEYS);
    assert_string_equal(text, (const char *)key_of(n, space).data);
    assert_true(has_prefix(n, listing->prefix));
    assert_true(lives(listing->world, n));
    listing->listed[n]++;
    return random_below(&listing->world->random, 10) == 0;
}

/* Slices of a list, with anything between them. */
static int keys(struct world *world) {
    struct listing listing = {.world = world, .prefix = random_prefix(world)};
    bool stays[KEYS], comes[KEYS];
    for (size_t n = 0; n < KEYS; n++)
        stays[n] = comes[n] = lives(world, n);
    bool quiet = random_below(&world->random, 2);
    uint64_t cursor = 0;
    int failed = 0;
    bool more = true;
    while (more) {
        more = cm_store_keys(world->store, listing.prefix, &cursor,
                             1 + (unsigned)random_below(&world->random, 20), world->now_ms, list, &listing);
        assert_int_equal(more, cursor != 0);
        if (!quiet) {
            int err = act_on(world, random_below(&world->random, KEYS), NULL);
            failed = err ? err : failed;
            world->now_ms += random_below(&world->random, 2);
        }
        for (size_t n = 0; n < KEYS; n++) {
            stays[n] = stays[n] && lives(world, n);
            comes[n] = comes[n] || lives(world, n);
        }
    }
    for (size_t n = 0; n < KEYS; n++) {
        bool mine = has_prefix(n, listing.prefix);
        /* The last act came when the list was complete. */
        assert_in_range(listing.listed[n], mine && stays[n], mine && comes[n]);
    }
    return failed;
}

static bool has_no_a(size_t n) {
    return !has_prefix(n, cm_bytes_of("a"));
}

/* Slices of a clear, with changes of others between them, also of what is being cleared. */
static int clear(struct world *world) {
    struct cm_bytes prefix = random_prefix(world);
    bool disturbed = prefix.len == 0 || prefix.data[0] != 'a';
    uint64_t living = 0, removed = 0, slice, cursor = 0, until = 0;
    uint64_t newest = world->last_version;
    for (size_t n = 0; n < KEYS; n++)
        living += has_prefix(n, prefix) && lives(world, n);
    int failed = 0;
    bool more = true;
    while (more) {
        uint64_t cursor_before = cursor, until_before = until;
        more = cm_store_clear(world->store, prefix, &cursor, &until,
                              1 + (unsigned)random_below(&world->random, 20), world->now_ms, &slice);
        assert_int_equal(more, cursor != 0);
        /* A set_many that was undone has used versions up. */
        assert_true(cursor_before ? until == until_before : until >= newest);
        removed += slice;
        world->last_version += slice; /* each removal takes one */
        for (size_t n = 0; n < KEYS; n++) {
            char space[KEY_BYTES];
            struct expected *expected = &world->expected[n];
            /* At time 0 nothing has expired. */
            if (!expected->there || !has_prefix(n, prefix) ||
                !cm_store_get(world->store, key_of(n, space), 0, NULL, NULL, NULL))
                continue;
            assert_true(expected->version <= until || !lives(world, n));
            expected->there = false;
        }
        size_t n = random_below(&world->random, KEYS);
        int err = disturbed ? act_on(world, n, has_no_a) : 0;
        failed = err ? err : failed;
    }
    assert_true(disturbed ? removed <= living : removed == living);
    for (size_t n = 0; n < KEYS; n++)
        if (has_prefix(n, prefix) && world->expected[n].there)
            assert_true(world->expected[n].version > until);
    check_stats(world);
    return failed;
}

/* --- everything at random */

static int act(struct world *world) {
    switch (random_below(&world->random, 20)) {
    case 0:
    case 1:
    case 2:
        world->now_ms += random_below(&world->random, 10);
        return 0;
    case 3:
        sweep(world);
        return 0;
    case 4:
        return keys(world);
    case 5:
        return random_below(&world->random, 5) == 0 ? clear(world) : 0;
    default:
        return act_on(world, random_below(&world->random, KEYS), NULL);
    }
}

static uint64_t measure_entry(void) {
    struct cm_store *store;
    struct cm_store_stats stats;
    uint64_t version;
    assert_int_equal(cm_store_new(UINT64_MAX, &store), 0);
    cm_store_stats(store, &stats);
    assert_int_equal(stats.used_bytes, 0);
    assert_int_equal(
        cm_store_set(store, cm_bytes_of("a"), cm_bytes_of("12345678"), &(struct cm_change){0}, 0, &version),
        0);
    cm_store_stats(store, &stats);
    assert_int_equal(stats.entries, 1);
    assert_true(stats.used_bytes > 9 + sizeof(struct cm_entry));
    cm_store_free(store);
    return stats.used_bytes - 9;
}

static struct world *new_world(uint64_t limit_bytes, uint64_t seed) {
    static struct world world;
    world = (struct world){.now_ms = 1000, .random = seed, .limit_bytes = limit_bytes};
    world.entry_bytes = measure_entry();
    assert_int_equal(cm_store_new(limit_bytes, &world.store), 0);
    return &world;
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    struct world *world = new_world(1 << 20, 7);
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(act(world), 0);
        if (i % 500 == 0)
            check_all(world);
    }
    for (size_t n = 0; n < KEYS; n++)
        drop(world, n, &(struct cm_change){0});
    check_all(world);
    cm_store_free(world->store);
    assert_int_equal(alloc_failure_alive(), 0);
}

static void the_limit_holds(void **state) {
    (void)state;
    struct world *world = new_world(4000, 8);
    int refused = 0;
    for (int i = 0; i < 100000; i++) {
        refused += act(world) != 0;
        check_stats(world);
        if (i % 500 == 0)
            check_all(world);
    }
    assert_in_range(refused, 1000, 99000);
    cm_store_free(world->store);
}

/* --- what chance may miss */

/* A store with plain calls, at a time that is given. */
static int put(struct cm_store *store, const char *key, const char *value, uint64_t expires_ms,
               uint64_t now_ms) {
    uint64_t version;
    return cm_store_set(store, cm_bytes_of(key), cm_bytes_of(value),
                        &(struct cm_change){.expires_ms = expires_ms}, now_ms, &version);
}

static void assert_value(struct cm_store *store, const char *key, uint64_t now_ms, const char *expected) {
    struct cm_bytes value;
    int err = cm_store_get(store, cm_bytes_of(key), now_ms, &value, NULL, NULL);
    assert_int_equal(err, expected ? 0 : CM_E_NOTFOUND);
    if (!expected)
        return;
    assert_int_equal(value.len, strlen(expected));
    assert_memory_equal(value.data, expected, value.len);
}

static uint64_t used(const struct cm_store *store) {
    struct cm_store_stats stats;
    cm_store_stats(store, &stats);
    return stats.used_bytes;
}

static void what_fits_exactly_fits(void **state) {
    (void)state;
    uint64_t one = measure_entry() + 9;
    struct cm_store *store;
    assert_int_equal(cm_store_new(2 * one, &store), 0);
    assert_int_equal(put(store, "a", "12345678", 5, 0), 0);
    assert_int_equal(put(store, "b", "123456789", 0, 0), CM_E_NOMEMORY);
    assert_int_equal(put(store, "b", "12345678", 0, 0), 0);
    assert_int_equal(put(store, "c", "", 0, 0), CM_E_NOMEMORY);
    /* A new value takes the old one's place; one that is too large leaves it. */
    assert_int_equal(put(store, "b", "abcdefgh", 0, 0), 0);
    assert_int_equal(put(store, "b", "abcdefghi", 0, 0), CM_E_NOMEMORY);
    assert_value(store, "b", 0, "abcdefgh");
    assert_int_equal(used(store), 2 * one);
    /* An expired entry gives its place back when it is met. */
    assert_value(store, "a", 5, NULL);
    assert_int_equal(put(store, "c", "12345678", 0, 5), 0);
    cm_store_free(store);
}

static void many_are_stored_together_or_not_at_all(void **state) {
    (void)state;
    uint64_t one = measure_entry() + 9;
    struct cm_store *store;
    assert_int_equal(cm_store_new(3 * one, &store), 0);
    assert_int_equal(put(store, "a", "old of a", 9, 0), 0);
    assert_int_equal(put(store, "b", "old of b", 0, 0), 0);
    struct cm_pair pairs[] = {
        {cm_bytes_of("a"), cm_bytes_of("new of a")},
        {cm_bytes_of("c"), cm_bytes_of("new of c")},
        {cm_bytes_of("a"), cm_bytes_of("and once more, longer than it fits")},
        {cm_bytes_of("b"), cm_bytes_of("new of b")},
    };
    uint64_t version, expires_ms;
    assert_int_equal(cm_store_get(store, cm_bytes_of("a"), 0, NULL, &version, NULL), 0);
    assert_int_equal(cm_store_set_many(store, pairs, 4, 0), CM_E_NOMEMORY);
    /* As it was, with version and expiry. */
    uint64_t version_after;
    assert_int_equal(cm_store_get(store, cm_bytes_of("a"), 0, NULL, &version_after, &expires_ms), 0);
    assert_int_equal(version_after, version);
    assert_int_equal(expires_ms, 9);
    assert_value(store, "a", 0, "old of a");
    assert_value(store, "b", 0, "old of b");
    assert_value(store, "c", 0, NULL);
    assert_int_equal(used(store), 2 * one);
    /* What does not count in the end may be too long. */
    pairs[0].value = pairs[2].value;
    pairs[2].value = cm_bytes_of("the last");
    assert_int_equal(cm_store_set_many(store, pairs, 4, 0), 0);
    assert_value(store, "a", 100, "the last"); /* and no ttl */
    assert_value(store, "b", 0, "new of b");
    assert_value(store, "c", 0, "new of c");
    assert_int_equal(used(store), 3 * one);

    struct cm_bytes bad[] = {cm_bytes_of(""), {pairs[0].key.data, CM_KEY_MAX_BYTES + 1}};
    for (size_t i = 0; i < 2; i++) {
        pairs[3].key = bad[i];
        assert_int_equal(cm_store_set_many(store, pairs, 4, 0), CM_E_BADVALUE);
    }
    pairs[3] = (struct cm_pair){cm_bytes_of("d"), {pairs[0].key.data, (size_t)UINT32_MAX + 1}};
    assert_int_equal(cm_store_set_many(store, pairs, 4, 0), CM_E_TOOLARGE);
    assert_value(store, "a", 0, "the last");
    assert_int_equal(cm_store_set_many(store, NULL, 0, 0), 0);
    assert_int_equal(used(store), 3 * one);
    cm_store_free(store);
}

static void an_entry_lives_until_its_time(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes key = cm_bytes_of("key");
    const struct cm_change plain = {0};
    uint64_t version, last;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    assert_int_equal(put(store, "key", "x", 100, 10), 0);
    assert_int_equal(cm_store_get(store, key, 99, NULL, &last, NULL), 0);
    assert_int_equal(cm_store_get(store, key, 100, NULL, &version, NULL), CM_E_NOTFOUND);
    assert_int_equal(version, 0);
    assert_int_equal(
        cm_store_set(store, key, cm_bytes_of("y"), &(struct cm_change){.expires_ms = 200}, 100, &version), 0);
    assert_true(version > last);
    last = version;
    assert_int_equal(cm_store_remove(store, key, &plain, 200, &version), 0);
    assert_int_equal(version, 0);
    /* Without a time it stays for ever, also where it had one before. */
    assert_int_equal(put(store, "key", "z", 300, 200), 0);
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("z"), &plain, 200, &version), 0);
    assert_true(version > last);
    assert_value(store, "key", UINT64_MAX, "z");
    cm_store_free(store);
}

/* An expired entry is absent for every condition, whoever meets it first. */
static void an_expired_entry_is_absent(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes key = cm_bytes_of("key"), value = cm_bytes_of("v");
    uint64_t version, old;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    const struct {
        struct cm_change change;
        int err;
    } cases[] = {
        {{.if_absent = true}, 0},
        {{.if_present = true}, CM_E_NOTFOUND},
        {{.if_version = true}, 0},
        {{.if_version = true, .version = 1}, CM_E_CONFLICT}, /* the version it had, put in below */
        {{.keep_expiry = true}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cm_change change = cases[i].change;
        for (int removes = 0; removes < 2; removes++) {
            assert_int_equal(put(store, "key", "old", 10, 0), 0);
            assert_int_equal(cm_store_get(store, key, 9, NULL, &old, NULL), 0);
            change.version = change.version ? old : 0;
            int err = removes ? cm_store_remove(store, key, &change, 10, &version)
                              : cm_store_set(store, key, value, &change, 10, &version);
            bool counts = !removes || change.if_version;
            assert_int_equal(err, counts ? cases[i].err : 0);
            assert_value(store, "key", UINT64_MAX, removes || err ? NULL : "v");
        }
    }
    struct cm_number two = {.integer = 2}, sum;
    assert_int_equal(put(store, "key", "no number", 10, 0), 0);
    assert_int_equal(cm_store_increment(store, key, two, two, 20, 10, &sum, &version), 0);
    assert_int_equal(sum.integer, 4);
    assert_int_equal(cm_store_expire(store, key, 30, 20), CM_E_NOTFOUND);
    assert_int_equal(cm_store_expire(store, key, 0, 10), CM_E_NOTFOUND);
    cm_store_free(store);
}

static void a_new_expiry_is_no_new_version(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes key = cm_bytes_of("key");
    uint64_t version, after, expires_ms;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    assert_int_equal(put(store, "key", "v", 0, 0), 0);
    assert_int_equal(cm_store_get(store, key, 0, NULL, &version, NULL), 0);
    const uint64_t times[] = {50, 20, 90, 0, 0, 30};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        assert_int_equal(cm_store_expire(store, key, times[i], 0), 0);
        assert_int_equal(cm_store_get(store, key, 0, NULL, &after, &expires_ms), 0);
        assert_int_equal(after, version);
        assert_int_equal(expires_ms, times[i]);
        assert_int_equal(cm_store_sweep(store, 10, times[i] ? times[i] - 1 : UINT64_MAX), 0);
    }
    assert_int_equal(cm_store_sweep(store, 10, 30), 1);
    assert_int_equal(used(store), 0);
    cm_store_free(store);
}

static void the_sweep_takes_the_oldest_first(void **state) {
    (void)state;
    struct cm_store *store;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    char space[KEY_BYTES];
    for (size_t n = 0; n < KEYS; n++)
        assert_int_equal(put(store, (const char *)key_of(n, space).data, "v", 1000 - n, 0), 0);
    assert_int_equal(put(store, "for ever", "v", 0, 0), 0);
    assert_int_equal(cm_store_sweep(store, 0, UINT64_MAX), 0);
    assert_int_equal(cm_store_sweep(store, 10, UINT64_MAX), 10);
    for (size_t n = 0; n < KEYS; n++)
        assert_value(store, (const char *)key_of(n, space).data, 0, n < KEYS - 10 ? "v" : NULL);
    assert_int_equal(cm_store_sweep(store, SIZE_MAX, 1000 - KEYS + 30), 20);
    assert_int_equal(cm_store_sweep(store, SIZE_MAX, UINT64_MAX), KEYS - 30);
    assert_value(store, "for ever", UINT64_MAX, "v");
    cm_store_free(store);
}

static void keys_have_bounds(void **state) {
    (void)state;
    struct cm_store *store;
    const struct cm_change plain = {0};
    const struct cm_number one = {.integer = 1};
    struct cm_number sum;
    uint64_t version;
    uint8_t *bytes = calloc(1, CM_KEY_MAX_BYTES + 1);
    assert_non_null(bytes);
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    const size_t bad[] = {0, CM_KEY_MAX_BYTES + 1};
    for (size_t i = 0; i < 2; i++) {
        struct cm_bytes key = {bytes, bad[i]};
        assert_int_equal(cm_store_set(store, key, cm_bytes_of("x"), &plain, 0, &version), CM_E_BADVALUE);
        assert_int_equal(cm_store_increment(store, key, one, one, 0, 0, &sum, &version), CM_E_BADVALUE);
        assert_int_equal(cm_store_get(store, key, 0, NULL, NULL, NULL), CM_E_NOTFOUND);
        assert_int_equal(cm_store_expire(store, key, 5, 0), CM_E_NOTFOUND);
        assert_int_equal(cm_store_remove(store, key, &plain, 0, &version), 0);
        assert_int_equal(version, 0);
    }
    struct cm_bytes key = {bytes, CM_KEY_MAX_BYTES};
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("x"), &plain, 0, &version), 0);
    assert_int_equal(cm_store_get(store, key, 0, NULL, NULL, NULL), 0);
    key.len--;
    assert_int_equal(cm_store_get(store, key, 0, NULL, NULL, NULL), CM_E_NOTFOUND);
    struct cm_bytes huge = {bytes, (size_t)UINT32_MAX + 1};
    assert_int_equal(cm_store_set(store, key, huge, &plain, 0, &version), CM_E_TOOLARGE);
    cm_store_free(store);
    free(bytes);
}

static void a_value_may_be_a_view_into_the_store(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes value, key = cm_bytes_of("key"), other = cm_bytes_of("other");
    const struct cm_change plain = {0};
    uint64_t version;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    assert_int_equal(put(store, "key", "itself", 0, 0), 0);
    assert_int_equal(cm_store_get(store, key, 0, &value, NULL, NULL), 0);
    assert_int_equal(cm_store_set(store, key, value, &plain, 0, &version), 0);
    assert_value(store, "key", 0, "itself");
    assert_int_equal(cm_store_get(store, key, 0, &value, NULL, NULL), 0);
    assert_int_equal(cm_store_set(store, other, value, &plain, 0, &version), 0);
    assert_value(store, "other", 0, "itself");
    /* Of an entry that is dropped on the way, because it has expired. */
    assert_int_equal(put(store, "key", "as it was", 10, 0), 0);
    assert_int_equal(cm_store_get(store, key, 0, &value, NULL, NULL), 0);
    assert_int_equal(cm_store_set(store, key, value, &plain, 10, &version), 0);
    assert_value(store, "key", 10, "as it was");
    assert_int_equal(put(store, "key", "as it was", 10, 0), 0);
    assert_int_equal(cm_store_get(store, key, 0, &value, NULL, NULL), 0);
    struct cm_pair pairs[] = {{key, cm_bytes_of("x")}, {other, value}};
    assert_int_equal(cm_store_set_many(store, pairs, 2, 10), 0);
    assert_value(store, "key", 10, "x");
    assert_value(store, "other", 10, "as it was");
    cm_store_free(store);
    cm_store_free(NULL);
}

/* --- no memory */

static int fail_in_between(void *data) {
    struct world *world = data;
    int err = cm_store_new(world->limit_bytes, &world->store);
    if (err)
        return err;
    world->random = 9;
    world->now_ms = 1000;
    world->last_version = 0;
    memset(world->expected, 0, sizeof world->expected);
    int failed = 0;
    for (int i = 0; i < 300; i++) {
        err = act(world);
        failed = err ? err : failed;
        check_stats(world);
        if (err)
            check_all(world);
    }
    check_all(world);
    cm_store_free(world->store);
    return failed;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    struct world *world = new_world(1 << 20, 9);
    cm_store_free(world->store);
    alloc_failure_each(fail_in_between, world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(the_limit_holds),
        cmocka_unit_test(what_fits_exactly_fits),
        cmocka_unit_test(many_are_stored_together_or_not_at_all),
        cmocka_unit_test(an_entry_lives_until_its_time),
        cmocka_unit_test(an_expired_entry_is_absent),
        cmocka_unit_test(a_new_expiry_is_no_new_version),
        cmocka_unit_test(the_sweep_takes_the_oldest_first),
        cmocka_unit_test(keys_have_bounds),
        cmocka_unit_test(a_value_may_be_a_view_into_the_store),
        cmocka_unit_test(failed_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
