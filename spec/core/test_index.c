/* The index against an array of what is in it. */
#include "base/index.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/list.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { ITEMS = 1000, HASHES = 300, OPERATIONS = 20000 };

struct item {
    uint64_t number;
    struct cm_index_node node; /* not the first, so that its offset counts */
    bool is_in;
    unsigned seen;
};

struct world {
    struct cm_index index;
    struct item items[ITEMS];
    size_t count;
};
static struct world world;

/* Some differ in the bits that a small index does not look at. */
static uint64_t hash_of(uint64_t number) {
    return number % 3 ? number * UINT64_C(0x9e3779b97f4a7c15) : number << 32 | 5;
}

/* What is found under a hash are all items of that hash, each once. */
static void check_hash(uint64_t hash) {
    for (size_t i = 0; i < ITEMS; i++)
        world.items[i].seen = 0;
    for (struct cm_index_node *node = cm_index_first(&world.index, hash); node; node = cm_index_next(node)) {
        struct item *item = CM_LIST_ITEM(node, struct item, node);
        assert_int_equal(node->hash, hash);
        assert_int_equal(item->seen++, 0);
    }
    for (size_t i = 0; i < ITEMS; i++) {
        struct item *item = &world.items[i];
        assert_int_equal(item->seen, item->is_in && item->node.hash == hash);
    }
}

static void add(size_t i, uint64_t hash) {
    struct item *item = &world.items[i];
    cm_index_add(&world.index, &item->node, hash);
    item->is_in = true;
    world.count++;
    assert_int_equal(world.index.count, world.count);
}

static void drop(size_t i) {
    struct item *item = &world.items[i];
    cm_index_remove(&world.index, &item->node);
    item->is_in = false;
    world.count--;
    assert_int_equal(world.index.count, world.count);
}

static int start(void) {
    world = (struct world){0};
    for (size_t i = 0; i < ITEMS; i++)
        world.items[i].number = i;
    return cm_index_init(&world.index);
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    uint64_t random = 1;
    assert_int_equal(start(), 0);
    for (int i = 0; i < OPERATIONS; i++) {
        size_t number = random_below(&random, ITEMS);
        uint64_t hash = hash_of(random_below(&random, HASHES));
        if (world.items[number].is_in)
            hash = world.items[number].node.hash, drop(number);
        else
            add(number, hash);
        if (i % 4 == 0)
            check_hash(hash);
    }
    for (uint64_t i = 0; i < HASHES; i++)
        check_hash(hash_of(i));
    cm_index_deinit(&world.index);
}

/* Its array grows with the items, or finding would become slow. */
static void chains_stay_short(void **state) {
    (void)state;
    assert_int_equal(start(), 0);
    for (size_t i = 0; i < ITEMS; i++)
        add(i, i * UINT64_C(0x9e3779b97f4a7c15));
    assert_true(world.index.room >= ITEMS);
    for (size_t i = 0; i < ITEMS; i++)
        drop(i);
    for (size_t i = 0; i < world.index.room; i++)
        assert_null(world.index.chains[i]);
    cm_index_deinit(&world.index);
}

/* Only the first array is needed; one that does not grow holds all the same. */
static int fill(void *data) {
    (void)data;
    int err = start();
    if (err)
        return err;
    for (size_t i = 0; i < ITEMS; i++)
        add(i, hash_of(i % HASHES));
    for (uint64_t i = 0; i < HASHES; i += 20)
        check_hash(hash_of(i));
    for (size_t i = 0; i < ITEMS; i += 2)
        drop(i);
    for (uint64_t i = 0; i < HASHES; i += 20)
        check_hash(hash_of(i));
    cm_index_deinit(&world.index);
    return 0;
}

static void what_cannot_grow_holds_all_the_same(void **state) {
    (void)state;
    alloc_failure_each(fill, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(chains_stay_short),
        cmocka_unit_test(what_cannot_grow_holds_all_the_same),
    };
    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
