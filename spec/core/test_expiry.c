/* The heap of what expires against an array that is searched. */
#include <stdlib.h>

#include "base/error.h"
#include "data/expiry.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { ENTRIES = 300 };

struct world {
    struct cm_expiry expiry;
    struct cm_entry entries[ENTRIES]; /* in the heap where expires_ms is not 0 */
    uint64_t random;
};

/* Each entry that is in is where it says, behind none that expires later, nothing else is, and the first is
 * the least. */
static void check(struct world *world) {
    size_t count = 0;
    uint64_t least = UINT64_MAX;
    for (size_t n = 0; n < ENTRIES; n++) {
        struct cm_entry *entry = &world->entries[n];
        if (!entry->expires_ms)
            continue;
        count++;
        least = entry->expires_ms < least ? entry->expires_ms : least;
        assert_true(entry->expiry_place < world->expiry.count);
        assert_ptr_equal(world->expiry.heap[entry->expiry_place], entry);
        if (entry->expiry_place)
            assert_true(world->expiry.heap[(entry->expiry_place - 1) / 2]->expires_ms <= entry->expires_ms);
    }
    assert_int_equal(world->expiry.count, count);
    struct cm_entry *first = cm_expiry_first(&world->expiry);
    assert_int_equal(first != NULL, count > 0);
    if (first)
        assert_int_equal(first->expires_ms, least);
}

static int add(struct world *world, size_t n, uint64_t expires_ms) {
    int err = cm_expiry_reserve(&world->expiry, 1);
    if (err)
        return err;
    world->entries[n].expires_ms = expires_ms;
    cm_expiry_add(&world->expiry, &world->entries[n]);
    return 0;
}

static void drop(struct world *world, struct cm_entry *entry) {
    cm_expiry_remove(&world->expiry, entry);
    entry->expires_ms = 0;
}

/* Of `times` different ones, so that there are equal ones, too. */
static int change(struct world *world, size_t times) {
    size_t n = random_below(&world->random, ENTRIES);
    if (!world->entries[n].expires_ms)
        return add(world, n, 1 + random_below(&world->random, times));
    drop(world, &world->entries[n]);
    return 0;
}

static void random_changes_match_an_array(void **state) {
    (void)state;
    const size_t times[] = {1, 5, 100, 1 << 30};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        static struct world world;
        world = (struct world){.random = i + 1};
        check(&world);
        for (int round = 0; round < 20000; round++) {
            assert_int_equal(change(&world, times[i]), 0);
            if (round % 10 == 0)
                check(&world);
        }
        cm_expiry_deinit(&world.expiry);
    }
}

static void what_is_taken_first_comes_in_order(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        static struct world world;
        world = (struct world){.random = seed};
        for (size_t n = 0; n < ENTRIES; n++) {
            uint64_t expires_ms = 1 + random_below(&world.random, 200);
            if (seed == 1)
                expires_ms = n + 1;
            if (seed == 2)
                expires_ms = ENTRIES - n;
            assert_int_equal(add(&world, n, expires_ms), 0);
        }
        uint64_t last = 0;
        for (size_t n = 0; n < ENTRIES; n++) {
            struct cm_entry *first = cm_expiry_first(&world.expiry);
            assert_true(first->expires_ms >= last);
            last = first->expires_ms;
            drop(&world, first);
            check(&world);
        }
        cm_expiry_deinit(&world.expiry);
    }
}

/* One taken out anywhere lets the last come to its place, which may have to go up from there, or down. */
static void each_can_be_taken_out(void **state) {
    (void)state;
    for (size_t n = 0; n < ENTRIES; n++) {
        static struct world world;
        world = (struct world){.random = n};
        for (size_t i = 0; i < ENTRIES; i++)
            assert_int_equal(add(&world, i, 1 + random_below(&world.random, 1000)), 0);
        drop(&world, &world.entries[n]);
        uint64_t last = 0;
        while (world.expiry.count) {
            check(&world);
            struct cm_entry *first = cm_expiry_first(&world.expiry);
            assert_true(first->expires_ms >= last);
            last = first->expires_ms;
            drop(&world, first);
        }
        cm_expiry_deinit(&world.expiry);
    }
}

/* So many adds as have been reserved take no memory; what has been taken out leaves its room. */
static void reserved_room_is_there(void **state) {
    (void)state;
    static struct world world;
    world = (struct world){0};
    assert_int_equal(cm_expiry_reserve(&world.expiry, 0), 0);
    assert_null(cm_expiry_first(&world.expiry));
    assert_int_equal(add(&world, 0, 5), 0);
    assert_int_equal(cm_expiry_reserve(&world.expiry, ENTRIES - 1), 0);
    assert_true(world.expiry.room >= ENTRIES);
    alloc_failure_arm(1, 1);
    for (size_t n = 1; n < ENTRIES; n++) {
        world.entries[n].expires_ms = n;
        cm_expiry_add(&world.expiry, &world.entries[n]);
    }
    check(&world);
    for (size_t n = 0; n < ENTRIES; n += 2)
        drop(&world, &world.entries[n]);
    for (size_t n = 0; n < ENTRIES; n += 2)
        assert_int_equal(add(&world, n, n + 7), 0);
    check(&world);
    /* More than there can be fails and leaves what is there. */
    assert_int_equal(cm_expiry_reserve(&world.expiry, SIZE_MAX / 16), CM_E_NOMEMORY);
    assert_int_equal(cm_expiry_reserve(&world.expiry, SIZE_MAX / 2), CM_E_NOMEMORY);
    assert_int_equal(alloc_failure_arm(0, 0), 1);
    check(&world);
    cm_expiry_deinit(&world.expiry);
    check(&(struct world){0});
    assert_int_equal(alloc_failure_alive(), 0);
}

static int change_without_memory(void *data) {
    (void)data;
    static struct world world;
    world = (struct world){.random = 4};
    int failed = 0;
    for (int round = 0; round < 1000; round++) {
        int err = change(&world, 50);
        failed = err ? err : failed;
        check(&world);
    }
    cm_expiry_deinit(&world.expiry);
    return failed;
}

static void failed_allocations_lose_nothing(void **state) {
    (void)state;
    alloc_failure_each(change_without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes_match_an_array),
        cmocka_unit_test(what_is_taken_first_comes_in_order),
        cmocka_unit_test(each_can_be_taken_out),
        cmocka_unit_test(reserved_room_is_there),
        cmocka_unit_test(failed_allocations_lose_nothing),
    };
    return cmocka_run_group_tests_name("expiry", tests, NULL, NULL);
}
