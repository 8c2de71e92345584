/* Keys that are used again and again: that the right thing is known of each, how many are kept, and for how
 * long. */
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bind/known.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { BOUND_BYTES = 100000, KEY_BYTES = 5 };

struct world {
    lua_State *L;
    struct cm_known known;
};

static int open_world(struct world *world, size_t most_bytes) {
    cm_known_init(&world->known, most_bytes);
    world->L = lua_newstate(alloc_failure_lua, NULL);
    return world->L ? 0 : CM_E_NOMEMORY;
}

static void close_world(struct world *world) {
    lua_close(world->L);
    cm_known_deinit(&world->known);
}

/* What the nth key holds at that version. */
static const char *content(lua_State *L, uint64_t n, uint64_t version, size_t len) {
    char head[48];
    snprintf(head, sizeof head, "%lu at %lu ", (unsigned long)n, (unsigned long)version);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    luaL_addstring(&buffer, head);
    for (size_t i = strlen(head); i < len; i++)
        luaL_addchar(&buffer, 'x');
    luaL_pushresult(&buffer);
    return lua_tostring(L, -1);
}

/* As core/bind/keys reads, with a version for what stands. Whether it was known. */
static bool read_key(struct world *world, uint64_t n, uint64_t version, size_t len) {
    lua_State *L = world->L;
    int top = lua_gettop(L);
    lua_gc(L, LUA_GCSTOP); /* garbage is collected where the note allocates */
    lua_pushfstring(L, "key %d", (int)n);
    const char *expected = content(L, n, version, len);
    lua_gc(L, LUA_GCRESTART);
    const struct cm_known_slot *slot = cm_known_find(L, &world->known, top + 1);
    bool known = slot && !slot->spot.is_number && slot->spot.version == version;
    if (known) {
        cm_known_push(L, &world->known, slot);
        assert_string_equal(lua_tostring(L, -1), expected);
    } else {
        cm_known_note(L, &world->known, top + 1, &(struct cm_spot){.version = version});
    }
    lua_settop(L, top);
    assert_true(world->known.bytes <= world->known.most_bytes);
    return known;
}

/* As it increments, with the number itself for its place. Whether it was known. */
static bool add_one(struct world *world, uint64_t n, uint64_t number) {
    lua_State *L = world->L;
    int top = lua_gettop(L);
    lua_gc(L, LUA_GCSTOP);
    lua_pushfstring(L, "key %d", (int)n);
    lua_gc(L, LUA_GCRESTART);
    struct cm_known_slot *slot = cm_known_find(L, &world->known, top + 1);
    bool known = slot && slot->spot.is_number;
    lua_pushinteger(L, (lua_Integer)number);
    if (known)
        assert_int_equal(slot->spot.offset++, number);
    else
        cm_known_note(L, &world->known, top + 1, &(struct cm_spot){.offset = number + 1, .is_number = true});
    lua_settop(L, top);
    return known;
}

static void a_string_is_kept_from_its_second_reading_on(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    assert_false(read_key(&world, 1, 2, 100));
    assert_false(read_key(&world, 1, 2, 100));
    assert_int_equal(world.known.bytes, 100 + KEY_BYTES);
    for (int i = 0; i < 3; i++)
        assert_true(read_key(&world, 1, 2, 100));
    assert_false(read_key(&world, 1, 4, 200)); /* another version: the old one is gone */
    assert_int_equal(world.known.bytes, 200 + KEY_BYTES);
    assert_true(read_key(&world, 1, 4, 200));
    close_world(&world);
}

static void a_number_is_kept_from_its_second_use_on_and_changes_places_with_strings(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(add_one(&world, 1, i), i > 1);
    assert_int_equal(world.known.bytes, KEY_BYTES);
    assert_false(read_key(&world, 1, 2, 100));
    assert_true(read_key(&world, 1, 2, 100));
    assert_int_equal(world.known.bytes, 100 + KEY_BYTES);
    for (uint64_t i = 7; i < 10; i++)
        assert_int_equal(add_one(&world, 1, i), i > 7);
    assert_int_equal(world.known.bytes, KEY_BYTES);
    close_world(&world);
}

/* A key is its string, which is another one when the first one is garbage: what is kept is not, and what is
 * not kept is taken for another one's at most once. */
static void a_kept_key_is_no_garbage(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    read_key(&world, 1, 2, 100);
    read_key(&world, 1, 2, 100);
    for (uint64_t n = 2; n < 200; n++) {
        lua_gc(world.L, LUA_GCCOLLECT);
        assert_false(read_key(&world, n, 2, 100));
        assert_true(read_key(&world, 1, 2, 100));
    }
    lua_pushnil(world.L);
    assert_null(cm_known_find(world.L, &world.known, -1));
    lua_newtable(world.L);
    assert_null(cm_known_find(world.L, &world.known, -1));
    close_world(&world);
}

static void what_is_too_long_is_not_kept(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    for (int i = 0; i < 4; i++)
        assert_false(read_key(&world, 1, 2, BOUND_BYTES / 4 - KEY_BYTES + 1));
    for (int i = 0; i < 4; i++)
        assert_int_equal(read_key(&world, 2, 2, BOUND_BYTES / 4 - KEY_BYTES), i > 1);
    assert_false(read_key(&world, 2, 4, BOUND_BYTES / 4 - KEY_BYTES + 1));
    assert_int_equal(world.known.bytes, 0);
    close_world(&world);
}

static void over_the_bound_it_begins_anew(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    for (uint64_t n = 0; n < 10; n++)
        for (int i = 0; i < 2; i++)
            read_key(&world, n, 2, 12000);
    assert_true(world.known.bytes <= BOUND_BYTES && world.known.bytes > 0);
    read_key(&world, 9, 2, 12000);
    assert_true(read_key(&world, 9, 2, 12000) || read_key(&world, 9, 2, 12000));
    close_world(&world);
}

/* All of many keys are known in the end, and reading others once does not drive them out. */
static void it_grows_and_holds_what_is_read_often(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, CM_KNOWN_MOST_BYTES), 0);
    enum { OFTEN = 2000, ONCE = 200000 };
    unsigned known = 0;
    for (int round = 0; round < 12; round++)
        for (uint64_t n = known = 0; n < OFTEN; n++)
            known += read_key(&world, n, 2, 50);
    assert_true(known > OFTEN * 9 / 10);
    for (uint64_t n = OFTEN; n < ONCE; n++) {
        read_key(&world, n, 2, 50);
        read_key(&world, n % OFTEN, 2, 50);
    }
    for (uint64_t n = known = 0; n < OFTEN; n++)
        known += read_key(&world, n, 2, 50);
    assert_true(known > OFTEN * 9 / 10);
    assert_true(world.known.count <= CM_KNOWN_MOST_SLOTS);
    close_world(&world);
}

/* read_key looks at what it gets. */
static void it_is_never_another_string(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    enum { KEYS = 3000 };
    static uint64_t versions[KEYS];
    static size_t lens[KEYS];
    uint64_t random = 1, known = 0;
    for (int i = 0; i < 300000; i++) {
        /* Some are read more often than others. */
        size_t n = random_below(&random, random_below(&random, 4) ? KEYS / 50 : KEYS);
        if (!versions[n] || random_below(&random, 20) == 0) {
            versions[n] += 2 + 2 * random_below(&random, 3);
            lens[n] = random_below(&random, 100) ? random_below(&random, 500) : random_below(&random, 40000);
        }
        known += read_key(&world, n, versions[n], lens[n]);
    }
    assert_true(known > 10000);
    close_world(&world);
}

static int read_and_come_again(lua_State *L) {
    struct world *world = lua_touserdata(L, lua_upvalueindex(1));
    for (uint64_t n = 0; n < 4; n++)
        for (int i = 0; i < 2; i++)
            read_key(world, n, 2, 12000);
    lua_newuserdatauv(L, 0, 0);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_setmetatable(L, -2);
    return 0;
}

/* What runs while the garbage of a new beginning is collected reads, too. */
static void a_finalizer_that_reads_leaves_nothing_behind(void **state) {
    (void)state;
    struct world world;
    size_t alive = alloc_failure_alive();
    assert_int_equal(open_world(&world, BOUND_BYTES), 0);
    lua_gc(world.L, LUA_GCGEN, 1, 1);
    lua_newtable(world.L);
    lua_pushlightuserdata(world.L, &world);
    lua_pushvalue(world.L, -2);
    lua_pushcclosure(world.L, read_and_come_again, 2);
    lua_pushvalue(world.L, -1);
    lua_setfield(world.L, -3, "__gc");
    lua_call(world.L, 0, 0);
    for (uint64_t n = 0; n < 2000; n++)
        for (int i = 0; i < 2; i++)
            read_key(&world, n, 2, 12000);
    close_world(&world);
    assert_int_equal(alloc_failure_alive(), alive);
}

static int read_some(lua_State *L) {
    struct world *world = lua_touserdata(L, 1);
    lua_settop(L, 0);
    for (uint64_t n = 0; n < 1000; n++)
        for (int i = 0; i < 3; i++)
            read_key(world, n % 300, 2 + 2 * (n / 300), 50);
    return 0;
}

static int run_short_of_memory(void *data) {
    (void)data;
    struct world world;
    int err = open_world(&world, BOUND_BYTES);
    if (err)
        return err;
    lua_pushcfunction(world.L, read_some);
    lua_pushlightuserdata(world.L, &world);
    int status = lua_pcall(world.L, 1, 0, 0);
    assert_true(status == LUA_OK || status == LUA_ERRMEM);
    close_world(&world);
    return status ? CM_E_NOMEMORY : 0;
}

static void it_is_whole_when_memory_is_short(void **state) {
    (void)state;
    alloc_failure_each(run_short_of_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_string_is_kept_from_its_second_reading_on),
        cmocka_unit_test(a_number_is_kept_from_its_second_use_on_and_changes_places_with_strings),
        cmocka_unit_test(a_kept_key_is_no_garbage),
        cmocka_unit_test(what_is_too_long_is_not_kept),
        cmocka_unit_test(over_the_bound_it_begins_anew),
        cmocka_unit_test(it_grows_and_holds_what_is_read_often),
        cmocka_unit_test(it_is_never_another_string),
        cmocka_unit_test(a_finalizer_that_reads_leaves_nothing_behind),
        cmocka_unit_test(it_is_whole_when_memory_is_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
