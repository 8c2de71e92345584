/* The store against an array of what it should hold, with a clock that the test turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/store.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { KEYS = 60, VALUE_BYTES = 80 };

struct expected {
    bool there;
    uint8_t value[VALUE_BYTES];
    size_t len;
    uint64_t version;
    uint64_t expires_ms;
};

struct world {
    struct cm_store *store;
    struct expected expected[KEYS];
    uint64_t now_ms;
    uint64_t last_version;
    uint64_t random;
};

static struct cm_bytes key_of(size_t n, char space[16]) {
    snprintf(space, 16, "key %zu", n);
    return cm_bytes_of(space);
}

static bool lives(const struct world *world, size_t n) {
    const struct expected *expected = &world->expected[n];
    return expected->there && !(expected->expires_ms && expected->expires_ms <= world->now_ms);
}

static void check_key(struct world *world, size_t n) {
    char space[16];
    struct cm_bytes value;
    uint64_t version = 99;
    int err = cm_store_get(world->store, key_of(n, space), world->now_ms, &value, &version);
    if (!lives(world, n)) {
        assert_int_equal(err, CM_E_NOTFOUND);
        assert_int_equal(version, 0);
        return;
    }
    const struct expected *expected = &world->expected[n];
    assert_int_equal(err, 0);
    assert_int_equal(version, expected->version);
    assert_int_equal(value.len, expected->len);
    if (value.len)
        assert_memory_equal(value.data, expected->value, value.len);
}

static void check_all(struct world *world) {
    size_t living = 0;
    for (size_t n = 0; n < KEYS; n++) {
        check_key(world, n);
        living += lives(world, n);
    }
    /* Each expired entry has been met now. */
    uint64_t entries, bytes;
    cm_store_usage(world->store, &entries, &bytes);
    assert_int_equal(entries, living);
    assert_int_equal(bytes > 0, living > 0);
}

static int set(struct world *world, size_t n) {
    char space[16];
    struct expected next = {.there = true, .len = random_below(&world->random, VALUE_BYTES + 1)};
    for (size_t i = 0; i < next.len; i++)
        next.value[i] = (uint8_t)random_next(&world->random);
    if (random_below(&world->random, 2))
        next.expires_ms = world->now_ms + random_below(&world->random, 50); /* 0: gone at once */
    int err = cm_store_set(world->store, key_of(n, space), (struct cm_bytes){next.value, next.len},
                           next.expires_ms, world->now_ms, &next.version);
    if (err)
        return err;
    assert_true(next.version > world->last_version);
    world->last_version = next.version;
    world->expected[n] = next;
    return 0;
}

static void drop(struct world *world, size_t n) {
    char space[16];
    uint64_t version = 99;
    bool lived = lives(world, n);
    assert_int_equal(cm_store_remove(world->store, key_of(n, space), world->now_ms, &version), 0);
    if (lived) {
        assert_true(version > world->last_version);
        world->last_version = version;
    } else {
        assert_int_equal(version, 0);
    }
    world->expected[n].there = false;
}

/* `err` as the store may answer set for want of memory. */
static int act(struct world *world) {
    size_t n = random_below(&world->random, KEYS);
    switch (random_below(&world->random, 8)) {
    case 0:
    case 1:
    case 2:
        return set(world, n);
    case 3:
        drop(world, n);
        return 0;
    case 4:
        world->now_ms += random_below(&world->random, 10);
        return 0;
    default:
        check_key(world, n);
        return 0;
    }
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    static struct world world;
    world = (struct world){.now_ms = 1000, .random = 7};
    assert_int_equal(cm_store_new(1 << 20, &world.store), 0);
    for (int i = 0; i < 50000; i++) {
        assert_int_equal(act(&world), 0);
        if (i % 500 == 0)
            check_all(&world);
    }
    for (size_t n = 0; n < KEYS; n++)
        drop(&world, n);
    check_all(&world);
    cm_store_free(world.store);
    assert_int_equal(alloc_failure_alive(), 0);
}

static void the_limit_holds(void **state) {
    (void)state;
    enum { LIMIT = 4000 };
    static struct world world;
    world = (struct world){.now_ms = 1000, .random = 8};
    assert_int_equal(cm_store_new(LIMIT, &world.store), 0);
    int refused = 0;
    for (int i = 0; i < 50000; i++) {
        int err = act(&world);
        assert_true(err == 0 || err == CM_E_NOMEMORY);
        refused += err != 0;
        uint64_t entries, bytes;
        cm_store_usage(world.store, &entries, &bytes);
        assert_true(bytes <= LIMIT);
        if (i % 500 == 0)
            check_all(&world);
    }
    assert_in_range(refused, 100, 49000);
    cm_store_free(world.store);
}

static void what_fits_exactly_fits(void **state) {
    (void)state;
    struct cm_store *store;
    uint64_t version, entries, one;
    assert_int_equal(cm_store_new(UINT64_MAX, &store), 0);
    assert_int_equal(cm_store_set(store, cm_bytes_of("a"), cm_bytes_of("12345678"), 0, 0, &version), 0);
    cm_store_usage(store, &entries, &one);
    assert_int_equal(entries, 1);
    assert_true(one > 9);
    cm_store_free(store);

    assert_int_equal(cm_store_new(2 * one, &store), 0);
    assert_int_equal(cm_store_set(store, cm_bytes_of("a"), cm_bytes_of("12345678"), 5, 0, &version), 0);
    assert_int_equal(cm_store_set(store, cm_bytes_of("b"), cm_bytes_of("123456789"), 0, 0, &version),
                     CM_E_NOMEMORY);
    assert_int_equal(cm_store_set(store, cm_bytes_of("b"), cm_bytes_of("12345678"), 0, 0, &version), 0);
    assert_int_equal(cm_store_set(store, cm_bytes_of("c"), cm_bytes_of(""), 0, 0, &version), CM_E_NOMEMORY);
    /* A new value takes the old one's place; one that is too large leaves it. */
    assert_int_equal(cm_store_set(store, cm_bytes_of("b"), cm_bytes_of("abcdefgh"), 0, 0, &version), 0);
    assert_int_equal(cm_store_set(store, cm_bytes_of("b"), cm_bytes_of("abcdefghi"), 0, 0, &version),
                     CM_E_NOMEMORY);
    struct cm_bytes value;
    assert_int_equal(cm_store_get(store, cm_bytes_of("b"), 0, &value, &version), 0);
    assert_int_equal(value.len, 8);
    assert_memory_equal(value.data, "abcdefgh", 8);
    uint64_t bytes;
    cm_store_usage(store, &entries, &bytes);
    assert_int_equal(bytes, 2 * one);
    /* An expired entry gives its place back when it is met. */
    assert_int_equal(cm_store_get(store, cm_bytes_of("a"), 5, &value, &version), CM_E_NOTFOUND);
    assert_int_equal(cm_store_set(store, cm_bytes_of("c"), cm_bytes_of("12345678"), 0, 5, &version), 0);
    cm_store_free(store);
}

static void an_entry_lives_until_its_time(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes value, key = cm_bytes_of("key");
    uint64_t version, last;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("x"), 100, 10, &version), 0);
    assert_int_equal(cm_store_get(store, key, 99, &value, &version), 0);
    last = version;
    assert_int_equal(cm_store_get(store, key, 100, &value, &version), CM_E_NOTFOUND);
    assert_int_equal(version, 0);
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("y"), 200, 100, &version), 0);
    assert_true(version > last);
    last = version;
    assert_int_equal(cm_store_remove(store, key, 200, &version), 0);
    assert_int_equal(version, 0);
    /* Without a time it stays for ever, also where it had one before. */
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("z"), 300, 200, &version), 0);
    assert_true(version > last);
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("z"), 0, 200, &version), 0);
    assert_int_equal(cm_store_get(store, key, UINT64_MAX, &value, &version), 0);
    cm_store_free(store);
}

static void keys_have_bounds(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes value;
    uint64_t version;
    uint8_t *bytes = calloc(1, CM_KEY_MAX_BYTES + 1);
    assert_non_null(bytes);
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    struct cm_bytes key = {bytes, 0};
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("x"), 0, 0, &version), CM_E_BADVALUE);
    assert_int_equal(cm_store_get(store, key, 0, &value, &version), CM_E_NOTFOUND);
    key.len = CM_KEY_MAX_BYTES + 1;
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("x"), 0, 0, &version), CM_E_BADVALUE);
    key.len = CM_KEY_MAX_BYTES;
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("x"), 0, 0, &version), 0);
    assert_int_equal(cm_store_get(store, key, 0, &value, &version), 0);
    key.len--;
    assert_int_equal(cm_store_get(store, key, 0, &value, &version), CM_E_NOTFOUND);
    struct cm_bytes huge = {bytes, (size_t)UINT32_MAX + 1};
    assert_int_equal(cm_store_set(store, key, huge, 0, 0, &version), CM_E_TOOLARGE);
    cm_store_free(store);
    free(bytes);
}

static void a_value_may_be_stored_again(void **state) {
    (void)state;
    struct cm_store *store;
    struct cm_bytes value, key = cm_bytes_of("key");
    uint64_t version;
    assert_int_equal(cm_store_new(1 << 20, &store), 0);
    assert_int_equal(cm_store_set(store, key, cm_bytes_of("itself"), 0, 0, &version), 0);
    assert_int_equal(cm_store_get(store, key, 0, &value, &version), 0);
    assert_int_equal(cm_store_set(store, key, value, 0, 0, &version), 0);
    assert_int_equal(cm_store_get(store, key, 0, &value, &version), 0);
    assert_int_equal(value.len, 6);
    assert_memory_equal(value.data, "itself", 6);
    cm_store_free(store);
    cm_store_free(NULL);
}

static int fail_in_between(void *data) {
    (void)data;
    static struct world world;
    world = (struct world){.now_ms = 1000, .random = 9};
    int err = cm_store_new(1 << 20, &world.store);
    if (err)
        return err;
    int failed = 0;
    for (int i = 0; i < 400; i++) {
        err = act(&world);
        failed = err ? err : failed;
        if (err)
            check_all(&world);
    }
    check_all(&world);
    cm_store_free(world.store);
    return failed;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    alloc_failure_each(fail_in_between, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(the_limit_holds),
        cmocka_unit_test(what_fits_exactly_fits),
        cmocka_unit_test(an_entry_lives_until_its_time),
        cmocka_unit_test(keys_have_bounds),
        cmocka_unit_test(a_value_may_be_stored_again),
        cmocka_unit_test(failed_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
