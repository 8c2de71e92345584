/* The heap against an array that is searched. */
#include <stdlib.h>

#include "base/error.h"
#include "base/heap.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { NODES = 200, OPERATIONS = 20000 };

struct world {
    struct cm_heap heap;
    struct cm_heap_node nodes[NODES];
    bool is_in[NODES];
    size_t count;
    uint64_t random;
};

/* Each node knows where it is, none is less than the one above it, and the first is the least of all. */
static void check(const struct world *world) {
    const struct cm_heap *heap = &world->heap;
    assert_int_equal(heap->count, world->count);
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < NODES; i++) {
        const struct cm_heap_node *node = &world->nodes[i];
        assert_int_equal(node->at != 0, world->is_in[i]);
        if (!world->is_in[i])
            continue;
        assert_true(node->at <= heap->count);
        assert_ptr_equal(heap->nodes[node->at - 1], node);
        if (node->at > 1)
            assert_true(heap->nodes[node->at / 2 - 1]->key <= node->key);
        least = node->key < least ? node->key : least;
    }
    const struct cm_heap_node *first = cm_heap_first(heap);
    assert_int_equal(first != NULL, world->count != 0);
    if (first)
        assert_int_equal(first->key, least);
}

static int add(struct world *world, size_t i, uint64_t key) {
    world->nodes[i].key = key;
    int err = cm_heap_add(&world->heap, &world->nodes[i]);
    if (err)
        return err;
    world->is_in[i] = true;
    world->count++;
    return 0;
}

static void drop(struct world *world, size_t i) {
    cm_heap_remove(&world->heap, &world->nodes[i]);
    world->count -= world->is_in[i];
    world->is_in[i] = false;
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    struct world world = {.random = 1};
    for (int i = 0; i < OPERATIONS; i++) {
        /* It fills and empties again; the keys are few, so that many are the same. */
        size_t number = random_below(&world.random, NODES);
        bool adds = random_below(&world.random, 100) < (i / 2000 % 2 ? 30u : 70u);
        if (!adds)
            drop(&world, number); /* also one that is not in it */
        else if (!world.is_in[number])
            assert_int_equal(add(&world, number, random_below(&world.random, 500)), 0);
        check(&world);
    }
    cm_heap_deinit(&world.heap);
    assert_null(cm_heap_first(&world.heap));
}

static void nodes_leave_in_the_order_of_their_keys(void **state) {
    (void)state;
    struct world world = {.random = 2};
    for (size_t i = 0; i < NODES; i++)
        assert_int_equal(add(&world, i, random_next(&world.random)), 0);
    uint64_t last = 0;
    for (struct cm_heap_node *first; (first = cm_heap_first(&world.heap));) {
        assert_true(first->key >= last);
        last = first->key;
        drop(&world, (size_t)(first - world.nodes));
        check(&world);
    }
    cm_heap_deinit(&world.heap);
}

/* The least and the greatest, and a child that moves up when it takes the place of one in another branch. */
static void a_node_leaves_from_anywhere(void **state) {
    (void)state;
    for (size_t gone = 0; gone < 31; gone++) {
        struct world world = {0};
        /* The left branch is full of large keys, the right one of small ones. */
        for (size_t i = 0; i < 31; i++) {
            bool left = i % 2;
            assert_int_equal(add(&world, i, i ? i + (left ? 1000 : 0) : 0), 0);
        }
        drop(&world, gone);
        check(&world);
        drop(&world, gone); /* once more: nothing */
        check(&world);
        assert_int_equal(add(&world, gone, 500), 0);
        check(&world);
        cm_heap_deinit(&world.heap);
    }
}

/* A node that found no memory is in no heap, and the others stay. */
static int fill(void *data) {
    (void)data;
    struct world world = {.random = 3};
    int err = 0;
    for (size_t i = 0; i < NODES; i++) {
        int failed = add(&world, i, random_below(&world.random, 50));
        err = failed ? failed : err;
        check(&world);
    }
    for (size_t i = 0; i < NODES; i++) {
        drop(&world, i);
        check(&world);
    }
    cm_heap_deinit(&world.heap);
    return err;
}

static void a_node_without_memory_is_in_no_heap(void **state) {
    (void)state;
    alloc_failure_each(fill, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(nodes_leave_in_the_order_of_their_keys),
        cmocka_unit_test(a_node_leaves_from_anywhere),
        cmocka_unit_test(a_node_without_memory_is_in_no_heap),
    };
    return cmocka_run_group_tests_name("heap", tests, NULL, NULL);
}
