/* The bound of a Lua heap: that it counts what Lua counts, when it refuses and when it only collects. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bind/quota.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { BOUND_BYTES = 1 << 20 };

struct world {
    lua_State *L;
    struct cm_stacks stacks;
    struct cm_quota quota;
};

static int open_libs(lua_State *L) {
    luaL_openlibs(L);
    return 0;
}

static int start(struct world *world, size_t bound_bytes) {
    world->L = lua_newstate(alloc_failure_lua, NULL);
    if (!world->L)
        return CM_E_NOMEMORY;
    lua_pushcfunction(world->L, open_libs);
    if (lua_pcall(world->L, 0, 0, 0)) {
        lua_close(world->L);
        return CM_E_NOMEMORY;
    }
    cm_stacks_init(&world->stacks, world->L);
    cm_quota_init(&world->quota, world->L, &world->stacks, bound_bytes);
    return 0;
}

/* What the quota has counted is what Lua has, once no string is left half-built: those are not in Lua's
 * count. */
static void check_count(const struct world *world) {
    lua_gc(world->L, LUA_GCCOLLECT, 0);
    size_t used = (size_t)lua_gc(world->L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(world->L, LUA_GCCOUNTB, 0);
    assert_int_equal(world->quota.used_bytes, used);
    assert_true(used <= world->quota.most_bytes + world->quota.spare_bytes);
}

/* The state's status after the chunk; what is raised stays on the stack. */
static int run(struct world *world, const char *chunk) {
    lua_settop(world->L, 0);
    int status = luaL_loadbufferx(world->L, chunk, strlen(chunk), "=chunk", "t");
    if (!status)
        status = lua_pcall(world->L, 0, 0, 0);
    check_count(world);
    return status;
}

static void a_full_heap_is_an_error_that_says_where(void **state) {
    (void)state;
    struct world world = {0};
    char why[CM_QUOTA_WHY_BYTES];
    assert_int_equal(start(&world, BOUND_BYTES), 0);
    assert_false(cm_quota_explain(&world.quota, why));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run(&world,
                             "local t = {}\nlocal function fill()\nwhile true do t[#t + 1] = {} end\nend\n"
                             "fill()\nprint 'never'"),
                         LUA_ERRMEM);
        assert_string_equal(lua_tostring(world.L, -1), "not enough memory");
        assert_true(cm_quota_explain(&world.quota, why));
        assert_string_equal(why, "not enough memory: the Lua heap has reached --worker-memory (1M)");
        assert_string_equal(world.quota.trace,
                            "stack traceback:\n\tchunk:3: in local 'fill'\n\tchunk:5: in main chunk");
        lua_gc(world.L, LUA_GCCOLLECT, 0);
        assert_int_equal(run(&world, "local s = ('x'):rep(100000)"), LUA_OK);
        assert_false(world.quota.reached); /* it has its spare again */
    }
    lua_close(world.L);
}

static void one_string_too_long_is_refused_and_forgotten(void **state) {
    (void)state;
    struct world world = {0};
    assert_int_equal(start(&world, BOUND_BYTES), 0);
    assert_int_equal(run(&world, "return ('x'):rep(1 << 21)"), LUA_ERRMEM);
    assert_string_equal(lua_tostring(world.L, -1), "not enough memory");
    assert_non_null(strstr(world.quota.trace, "[C]: in method 'rep'\n\tchunk:1: in main chunk"));
    assert_int_equal(run(&world, "return ('x'):rep(1 << 30)"), LUA_ERRMEM);
    assert_int_equal(run(&world, "return ('x'):rep(100000)"), LUA_OK);
    lua_close(world.L);
}

static void garbage_is_collected_before_anything_is_refused(void **state) {
    (void)state;
    struct world world = {0};
    assert_int_equal(start(&world, BOUND_BYTES), 0);
    assert_int_equal(run(&world, "collectgarbage 'stop'\n"
                                 "kept = ('k'):rep(300000)\n"
                                 "for i = 1, 300 do local s = ('x'):rep(100000) .. i end\n"
                                 "for i = 1, 100000 do local t = { i } end\n"),
                     LUA_OK);
    assert_false(world.quota.refused);
    lua_close(world.L);
}

static int hook_calls;

static void count_call(lua_State *L, lua_Debug *about) {
    (void)L;
    (void)about;
    hook_calls++;
}

static void a_hook_of_somebody_elses_stays(void **state) {
    (void)state;
    struct world world = {0};
    assert_int_equal(start(&world, BOUND_BYTES), 0);
    lua_sethook(world.L, count_call, LUA_MASKLINE, 0);
    hook_calls = 0;
    assert_int_equal(
        run(&world, "collectgarbage 'stop'\nfor i = 1, 300 do\nlocal t = { ('x'):rep(1000, i) }\nend"),
        LUA_OK);
    assert_true(lua_gethook(world.L) == count_call);
    assert_true(hook_calls > 600);
    lua_close(world.L);
}

static void the_bound_is_named_in_its_unit(void **state) {
    (void)state;
    static const struct {
        size_t bytes;
        const char *text;
    } cases[] = {{1 << 20, "(1M)"}, {3 << 20, "(3M)"}, {(1 << 20) + 1, "(1048577)"}, {1536 << 10, "(1536K)"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cm_quota quota = {.most_bytes = cases[i].bytes, .refused = true};
        char why[CM_QUOTA_WHY_BYTES];
        assert_true(cm_quota_explain(&quota, why));
        assert_non_null(strstr(why, cases[i].text));
    }
}

/* Keeps, drops and joins strings and tables, with a caught error now and then. */
static void random_chunks_are_counted_as_lua_counts(void **state) {
    (void)state;
    struct world world = {0};
    uint64_t seed = 7;
    assert_int_equal(start(&world, BOUND_BYTES), 0);
    assert_int_equal(run(&world, "kept = {}"), LUA_OK);
    int full = 0;
    for (int i = 0; i < 3000; i++) {
        char chunk[160];
        int key = (int)random_below(&seed, 20), size = (int)random_below(&seed, 100000);
        static const char *const forms[] = {
            "kept[%d] = ('x'):rep(%d)",
            "local t = {} kept[%d] = t for i = 1, %d // 100 do t[i] = {} end",
            "kept[%d] = nil local n = %d",
            "local t, key = {}, %d for i = 1, 50 do t[i] = ('z'):rep(%d // 50) end kept[key] = "
            "table.concat(t)",
        };
        snprintf(chunk, sizeof chunk, forms[random_below(&seed, 4)], key, size);
        int status = run(&world, chunk);
        full += status != LUA_OK;
        assert_true(status == LUA_OK || status == LUA_ERRMEM);
    }
    assert_true(full > 0 && full < 3000);
    lua_close(world.L);
}

static int without_memory(void *data) {
    (void)data;
    struct world world = {0};
    int err = start(&world, 1 << 20);
    if (err)
        return err;
    int status = run(&world, "local t = {} for i = 1, 20 do t[i] = { ('x'):rep(2000, i) } end");
    assert_false(world.quota.refused); /* the system refused, and not the bound */
    lua_close(world.L);
    return status ? CM_E_NOMEMORY : 0;
}

static void failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    alloc_failure_each(without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_heap_is_an_error_that_says_where),
        cmocka_unit_test(one_string_too_long_is_refused_and_forgotten),
        cmocka_unit_test(garbage_is_collected_before_anything_is_refused),
        cmocka_unit_test(a_hook_of_somebody_elses_stays),
        cmocka_unit_test(the_bound_is_named_in_its_unit),
        cmocka_unit_test(random_chunks_are_counted_as_lua_counts),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests_name("quota", tests, NULL, NULL);
}
