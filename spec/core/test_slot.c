/* What workers' lives say about the next start: the rules that take too long to wait for in a real cluster.
 */
#include <string.h>

#include "base/error.h"
#include "cluster/slot.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

struct world {
    uv_loop_t loop;
    struct cm_list slots;
    struct cm_script script;
};

static int start(struct world *world) {
    assert_int_equal(uv_loop_init(&world->loop), 0);
    cm_list_init(&world->slots);
    int err = cm_script_init(&world->script);
    if (!err)
        err = cm_strings_append(&world->script.args, cm_bytes_of("app.lua"));
    return err ? err : cm_strings_append(&world->script.env, cm_bytes_of("A=1"));
}

static void end(struct world *world) {
    CM_LIST_EACH(link, &world->slots) {
        cm_slot_remove(cm_slot_at(link));
    }
    uv_run(&world->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&world->loop), 0);
    cm_script_deinit(&world->script);
}

static struct cm_slot *add(struct world *world, uint32_t number) {
    struct cm_slot *slot = NULL;
    assert_int_equal(cm_slot_add(&world->slots, &world->loop, number, &world->script, world, &slot), 0);
    return slot;
}

static void delays_double_until_a_long_life(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world), 0);
    struct cm_slot *slot = add(&world, 1);
    static const uint64_t delays[] = {100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000};
    for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
        cm_slot_note_life(slot, 9999);
        assert_int_equal(cm_slot_take_delay(slot), delays[i]);
    }
    cm_slot_note_life(slot, 10000);
    assert_int_equal(cm_slot_take_delay(slot), 100);
    assert_int_equal(cm_slot_take_delay(slot), 200);
    end(&world);
}

/* A life, and then what its end counts as. */
static bool fail_after(struct cm_slot *slot, uint64_t lived_ms) {
    cm_slot_note_life(slot, lived_ms);
    return cm_slot_note_failure(slot, lived_ms);
}

static void five_failures_without_a_life_are_a_crash_loop(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world), 0);
    struct cm_slot *slot = add(&world, 1);
    for (int i = 1; i <= 6; i++)
        assert_int_equal(fail_after(slot, 999), i >= 5);

    slot = add(&world, 2);
    for (int i = 1; i <= 4; i++)
        assert_false(fail_after(slot, 0));
    assert_false(fail_after(slot, 1000));
    for (int i = 1; i <= 20; i++)
        assert_false(fail_after(slot, 0)); /* it has worked once */
    end(&world);
}

static void a_slot_is_found_by_its_number_and_has_its_own_script(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world), 0);
    struct cm_slot *first = add(&world, 7);
    struct cm_slot *second = add(&world, 9);
    assert_ptr_equal(cm_slot_find(&world.slots, 7), first);
    assert_ptr_equal(cm_slot_find(&world.slots, 9), second);
    assert_null(cm_slot_find(&world.slots, 8));
    assert_string_equal(second->script.args.items[0], "app.lua");
    assert_string_equal(second->script.env.items[0], "A=1");
    assert_ptr_not_equal(second->script.args.items[0], world.script.args.items[0]);
    assert_false(cm_slot_used(first));
    first->waiting = true;
    assert_true(cm_slot_used(first));
    cm_slot_remove(first);
    assert_null(cm_slot_find(&world.slots, 7));
    end(&world);
}

static int without_memory(void *data) {
    (void)data;
    struct world world;
    int err = start(&world);
    struct cm_slot *slot;
    if (!err)
        err = cm_slot_add(&world.slots, &world.loop, 1, &world.script, &world, &slot);
    assert_int_equal(cm_slot_find(&world.slots, 1) != NULL, err == 0);
    end(&world);
    return err;
}

static void failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    alloc_failure_each(without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays_double_until_a_long_life),
        cmocka_unit_test(five_failures_without_a_life_are_a_crash_loop),
        cmocka_unit_test(a_slot_is_found_by_its_number_and_has_its_own_script),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
