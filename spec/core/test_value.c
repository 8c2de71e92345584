/* Lua values to bytes and back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "base/error.h"
#include "bind/value.h"
#include "data/document.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/lua_values.h"
#include "spec/core/test.h"

enum { NO_LIMIT = 1 << 30 };

/* Lua's memory: the nth allocation from now on fails, and those after it; 0: none. */
static struct {
    size_t countdown;
    size_t failures;
    size_t bytes;
    size_t peak;
} lua_memory;

/* Behind each block: what is written beyond it, as on a stack without room, is noticed when Lua gives it
 * back. */
static const char guard[] = "guard: mind it.";

static void *lua_allocate(void *data, void *memory, size_t old_size, size_t size) {
    (void)data;
    if (!memory)
        old_size = 0;
    else if (memcmp((char *)memory + old_size, guard, sizeof guard) != 0)
        abort();
    if (size > old_size && lua_memory.countdown && --lua_memory.countdown == 0) {
        lua_memory.countdown = 1;
        lua_memory.failures++;
        return NULL;
    }
    lua_memory.bytes += size - old_size;
    if (lua_memory.bytes > lua_memory.peak)
        lua_memory.peak = lua_memory.bytes;
    if (size == 0) {
        free(memory);
        return NULL;
    }
    memory = realloc(memory, size + sizeof guard);
    if (memory)
        memcpy((char *)memory + size, guard, sizeof guard);
    return memory;
}

static int open_lua(void **state) {
    lua_State *L = lua_newstate(lua_allocate, NULL);
    if (!L)
        return -1;
    luaL_openlibs(L);
    lua_pushlightuserdata(L, NULL);
    lua_setglobal(L, "null");
    lua_pushlightuserdata(L, &lua_memory);
    lua_setglobal(L, "light");
    *state = L;
    return 0;
}

static int close_lua(void **state) {
    lua_close(*state);
    return lua_memory.bytes == 0 ? 0 : -1;
}

/* Pushes what the chunk returns. */
static void push(lua_State *L, const char *chunk) {
    if (luaL_dostring(L, chunk) != LUA_OK)
        fail_msg("%s: %s", chunk, lua_tostring(L, -1));
}

/* Encodes the value on the top, without taking it off; `refusal` may be NULL. */
static int encode(lua_State *L, size_t max_bytes, struct cm_buf *buf, char *refusal) {
    char text[CM_VALUE_PATH_BYTES] = "untouched";
    int top = lua_gettop(L);
    size_t len = buf->len;
    int err = cm_value_encode(L, -1, max_bytes, buf, text);
    assert_int_equal(lua_gettop(L), top);
    if (err)
        assert_int_equal(buf->len, len);
    if (err != CM_E_BADVALUE)
        assert_string_equal(text, "untouched");
    if (refusal)
        memcpy(refusal, text, sizeof text);
    return err;
}

/* Decodes a copy of exactly these bytes, so that a sanitizer sees each read beyond them. */
static int decode(lua_State *L, const void *bytes, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, bytes, len);
    int top = lua_gettop(L);
    int err = cm_value_decode(L, (struct cm_bytes){copy, len});
    free(copy);
    assert_int_equal(lua_gettop(L), err ? top : top + 1);
    if (err)
        assert_int_equal(err, CM_E_BADVALUE);
    return err;
}

/* The value on the top comes back as it was; leaves what came back above it. */
static void check_round_trip(lua_State *L) {
    struct cm_buf buf = {0};
    assert_int_equal(encode(L, NO_LIMIT, &buf, NULL), 0);
    assert_int_equal(decode(L, buf.data, buf.len), 0);
    assert_true(lua_values_equal(L, lua_gettop(L) - 1, lua_gettop(L)));
    cm_buf_deinit(&buf);
}

static void random_values_come_back(void **state) {
    lua_State *L = *state;
    uint64_t random = 10;
    for (int i = 0; i < 3000; i++) {
        lua_values_random(L, &random, i % 7);
        check_round_trip(L);
        lua_settop(L, 0);
    }
}

/* Each cut and each extension of an encoding is refused: so no encoding is the start of another. */
static void incomplete_and_overlong_bytes_are_refused(void **state) {
    lua_State *L = *state;
    uint64_t random = 11;
    for (int i = 0; i < 1500; i++) {
        lua_values_random(L, &random, i % 4);
        struct cm_buf buf = {0};
        assert_int_equal(encode(L, NO_LIMIT, &buf, NULL), 0);
        size_t step = buf.len > 300 ? buf.len / 100 : 1;
        for (size_t len = 0; len < buf.len; len += step)
            assert_int_equal(decode(L, buf.data, len), CM_E_BADVALUE);
        assert_int_equal(cm_buf_append(&buf, "\x01", 1), 0);
        assert_int_equal(decode(L, buf.data, buf.len), CM_E_BADVALUE);
        cm_buf_deinit(&buf);
        lua_settop(L, 0);
    }
}

static void scalars_stay_exactly_what_they_were(void **state) {
    lua_State *L = *state;
    const char *chunks[] = {
        "return 10",
        "return 10.0",
        "return 2^53 | 0",
        "return (1 << 53) + 1",
        "return math.mininteger",
        "return math.maxinteger",
        "return 0",
        "return -0.0",
        "return 0/0",
        "return -(0/0)",
        "return math.huge",
        "return -math.huge",
        "return 5e-324",
        "return 0.1",
        "return true",
        "return false",
        "return null",
        "return ''",
        "return '\\0'",
        "return 'a\\0b'",
        "return '\\xff\\xfe'",
        "return ('x'):rep(100000)",
        "return {}",
        "return {null}",
        "return {[0.5] = 1, [2^53] = 2, [-1] = 3, ['1'] = 4, [1] = 5}",
        "return {1, nil, 3}",
        "return {[2] = 2}",
        "return {[0] = 0, 1}",
        "return {[math.maxinteger] = 1}",
        "return {[math.mininteger] = 1}",
        "return {[math.huge] = 1, [-math.huge] = 2}",
        "return {n = 0, [1] = 1}",
        "return {{}, {{}}}",
    };
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        push(L, chunks[i]);
        check_round_trip(L);
        lua_settop(L, 0);
    }
}

static void containers_of_each_head_come_back(void **state) {
    lua_State *L = *state;
    static const int counts[] = {0, 1, 15, 16, 17, 255, 256, 65535, 65536, 70000};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (int kind = 0; kind < 3; kind++) {
            lua_newtable(L);
            for (int key = 1; key <= counts[i]; key++) {
                if (kind == 0)
                    lua_pushinteger(L, key);
                else if (kind == 1)
                    lua_pushfstring(L, "k%d", key);
                else
                    lua_pushinteger(L, 2 * (lua_Integer)key);
                lua_pushinteger(L, key);
                lua_rawset(L, -3);
            }
            check_round_trip(L);
            lua_settop(L, 0);
        }
    }
}

static void bytes_are_messagepack(void **state) {
    lua_State *L = *state;
    static const struct {
        const char *chunk;
        const char *bytes;
        size_t len;
    } cases[] = {
        {"return null", "\xc0", 1},
        {"return false", "\xc2", 1},
        {"return true", "\xc3", 1},
        {"return 0", "\x00", 1},
        {"return 127", "\x7f", 1},
        {"return 128", "\xcc\x80", 2},
        {"return 256", "\xcd\x01\x00", 3},
        {"return 65536", "\xce\x00\x01\x00\x00", 5},
        {"return 1 << 32", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00", 9},
        {"return -1", "\xff", 1},
        {"return -32", "\xe0", 1},
        {"return -33", "\xd0\xdf", 2},
        {"return -129", "\xd1\xff\x7f", 3},
        {"return -32769", "\xd2\xff\xff\x7f\xff", 5},
        {"return math.mininteger", "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9},
        {"return 1.0", "\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", 9},
        {"return 'abc'",
         "\xa3"
         "abc",
         4},
        {"return ('x'):rep(32)", "\xd9\x20xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 34},
        {"return {}", "\x80", 1},
        {"return {1, 'a'}",
         "\x92\x01\xa1"
         "a",
         4},
        {"return {[2] = 1}", "\x81\x02\x01", 3},
        {"return {a = {b = 1}}",
         "\x81\xa1"
         "a\x81\xa1"
         "b\x01",
         7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cm_buf buf = {0};
        push(L, cases[i].chunk);
        assert_int_equal(cm_buf_append(&buf, "before", 6), 0);
        assert_int_equal(encode(L, NO_LIMIT, &buf, NULL), 0);
        assert_int_equal(buf.len, 6 + cases[i].len);
        assert_memory_equal(buf.data, "before", 6);
        assert_memory_equal(buf.data + 6, cases[i].bytes, cases[i].len);
        cm_buf_deinit(&buf);
        lua_settop(L, 0);
    }
}

static void other_widths_are_read_as_well(void **state) {
    lua_State *L = *state;
    static const struct {
        const char *chunk;
        const char *bytes;
        size_t len;
    } cases[] = {
        {"return 1", "\xcc\x01", 2},
        {"return 1", "\xcd\x00\x01", 3},
        {"return 1", "\xce\x00\x00\x00\x01", 5},
        {"return 1", "\xcf\x00\x00\x00\x00\x00\x00\x00\x01", 9},
        {"return math.maxinteger", "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 9},
        {"return 1", "\xd0\x01", 2},
        {"return -1", "\xd0\xff", 2},
        {"return -1", "\xd1\xff\xff", 3},
        {"return -1", "\xd2\xff\xff\xff\xff", 5},
        {"return -1", "\xd3\xff\xff\xff\xff\xff\xff\xff\xff", 9},
        {"return 'a'",
         "\xd9\x01"
         "a",
         3},
        {"return 'a'",
         "\xda\x00\x01"
         "a",
         4},
        {"return 'a'",
         "\xdb\x00\x00\x00\x01"
         "a",
         6},
        {"return {}", "\x90", 1},
        {"return {}", "\xdc\x00\x00", 3},
        {"return {7}", "\xdd\x00\x00\x00\x01\x07", 6},
        {"return {[7] = 8}", "\xde\x00\x01\x07\x08", 5},
        {"return {[7] = 8}", "\xdf\x00\x00\x00\x01\x07\x08", 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        push(L, cases[i].chunk);
        assert_int_equal(decode(L, cases[i].bytes, cases[i].len), 0);
        assert_true(lua_values_equal(L, 1, 2));
        lua_settop(L, 0);
    }
}

static void malformed_bytes_are_refused(void **state) {
    lua_State *L = *state;
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"", 0},
        {"\xc1", 1}, /* a type that is none */
        {"\xc4\x01"
         "a",
         3}, /* bin */
        {"\xc5\x00\x01"
         "a",
         4},
        {"\xc6\x00\x00\x00\x01"
         "a",
         6},
        {"\xc7\x01\x05"
         "a",
         4}, /* ext */
        {"\xc8\x00\x01\x05"
         "a",
         5},
        {"\xc9\x00\x00\x00\x01\x05"
         "a",
         7},
        {"\xd4\x05"
         "a",
         3},
        {"\xd5\x05"
         "ab",
         4},
        {"\xd6\xff"
         "abcd",
         6},
        {"\xd7\xff"
         "abcdefgh",
         10},
        {"\xd8\x05"
         "abcdefghabcdefgh",
         18},
        {"\xca\x00\x00\x00\x00\x00\x00\x00\x00", 9},
        {"\xca\x00\x00\x00\x00", 5},                 /* a float of 32 bits */
        {"\xcf\x80\x00\x00\x00\x00\x00\x00\x00", 9}, /* an integer that Lua has not */
        {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9},
        {"\xa4"
         "abc",
         4}, /* lengths beyond the end */
        {"\xd9\x04"
         "abc",
         5},
        {"\xda\xff\xff"
         "abc",
         6},
        {"\xdb\xff\xff\xff\xff"
         "abc",
         8},
        {"\x92\x01", 2}, /* counts beyond the end */
        {"\x9f\x01\x01", 3},
        {"\xdc\xff\xff\x01", 4},
        {"\xdd\xff\xff\xff\xff\x01", 6},
        {"\x82\x01\x01", 3},
        {"\x81\x01", 2},
        {"\xde\xff\xff\x01\x01", 5},
        {"\xdf\xff\xff\xff\xff\x01\x01", 7},
        {"\xdf\x80\x00\x00\x00\x01\x01", 7},
        {"\x92\x92\x01\x01", 4}, /* an inner array without the outer's second item */
        {"\x92\xa2"
         "ab",
         4}, /* a string that would eat the second item */
        {"\x81\xa1"
         "a",
         3},
        {"\x81\xc0\x01", 3}, /* keys that are none */
        {"\x81\xc2\x01", 3},
        {"\x81\x90\x01", 3},
        {"\x81\x80\x01", 3},
        {"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01", 11},
        {"\x81\xcb\xff\xf8\x00\x00\x00\x00\x00\x01\x01", 11},
        {"\x01\x01", 2}, /* more than one value */
        {"\x90\xc0", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (decode(L, cases[i].bytes, cases[i].len) != CM_E_BADVALUE)
            fail_msg("case %zu was taken", i);
    assert_int_equal(cm_value_decode(L, (struct cm_bytes){NULL, 0}), CM_E_BADVALUE);
}

static void what_is_not_data_is_refused_by_name(void **state) {
    lua_State *L = *state;
    static const struct {
        const char *chunk;
        const char *refusal;
    } cases[] = {
        {"return nil", "value: nil"},
        {"return print", "value: function"},
        {"return function() end", "value: function"},
        {"return coroutine.create(print)", "value: thread"},
        {"return io.stdout", "value: userdata"},
        {"return light", "value: light userdata"},
        {"return {handlers = {1, print}}", "value.handlers[2]: function"},
        {"return {1, 2, {a = {b = io.stdout}}}", "value[3].a.b: userdata"},
        {"return {_x9 = print}", "value._x9: function"},
        {"return {['x y'] = print}", "value[\"x y\"]: function"},
        {"return {['9x'] = print}", "value[\"9x\"]: function"},
        {"return {[''] = print}", "value[\"\"]: function"},
        {"return {['2'] = print}", "value[\"2\"]: function"},
        {"return {['a\\0b'] = print}", "value[\"a\\x00b\"]: function"},
        {"return {['\"\\\\\\n\\xC3\\xA4'] = print}", "value[\"\\\"\\\\\\x0A\\xC3\\xA4\"]: function"},
        {"return {[1.5] = print}", "value[1.5]: function"},
        {"return {[-7] = print}", "value[-7]: function"},
        {"return {[math.mininteger] = print}", "value[-9223372036854775808]: function"},
        {"return {[2^53] = print}", "value[9007199254740992]: function"},
        {"return {[1e300] = print}", "value[1e+300]: function"},
        {"return {[('k'):rep(40)] = print}", "value.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk: function"},
        {"return {[('k'):rep(41)] = print}",
         "value[\"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...\"]: function"},
        {"return {[('\\1'):rep(1000)] = print}",
         "value[\"\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01\\x01...\"]: function"},
        {"return {[true] = 1}", "value: a table with a boolean key"},
        {"return {a = {[false] = 1}}", "value.a: a table with a boolean key"},
        {"return {{[{}] = 1}}", "value[1]: a table with a table key"},
        {"return {a = {[print] = 1}}", "value.a: a table with a function key"},
        {"return {a = {[null] = 1}}", "value.a: a table with a light userdata key"},
        {"return {a = {[io.stdout] = 1}}", "value.a: a table with a userdata key"},
        {"return {a = {[coroutine.create(print)] = 1}}", "value.a: a table with a thread key"},
        {"return {a = {1, 2, 3, [true] = 1}}", "value.a: a table with a boolean key"},
        {"local t = {} t.a = t return t", "value.a: a table that contains itself"},
        {"local t = {} t[1] = {b = {t}} return {x = t}", "value.x[1].b[1]: a table that contains itself"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cm_buf buf = {0};
        char refusal[CM_VALUE_PATH_BYTES], expected[CM_VALUE_PATH_BYTES];
        snprintf(expected, sizeof expected, "cannot share %s", cases[i].refusal);
        assert_int_equal(cm_buf_append(&buf, "before", 6), 0);
        push(L, cases[i].chunk);
        assert_int_equal(encode(L, NO_LIMIT, &buf, refusal), CM_E_BADVALUE);
        assert_string_equal(refusal, expected);
        cm_buf_deinit(&buf);
        lua_settop(L, 0);
    }
    struct cm_buf buf = {0};
    char refusal[CM_VALUE_PATH_BYTES];
    assert_int_equal(cm_value_encode(L, 1, NO_LIMIT, &buf, refusal), CM_E_BADVALUE); /* no such index */
    assert_string_equal(refusal, "cannot share value: nil");
    cm_buf_deinit(&buf);
}

static void a_long_path_loses_its_middle_and_keeps_its_reason(void **state) {
    lua_State *L = *state;
    static const char starting[] = "cannot share ", ending[] = ": a table with a boolean key";
    int cuts = 0;
    for (int depth = 1; depth<CM_VALUE_MAX_DEPTH; depth += depth> 30 ? 8 : 0, depth++) {
        for (int name = 1; name <= 12; name++) {
            struct cm_buf buf = {0};
            char refusal[CM_VALUE_PATH_BYTES], path[16 * CM_VALUE_MAX_DEPTH];
            lua_pushinteger(L, depth);
            lua_setglobal(L, "depth");
            lua_pushinteger(L, name);
            lua_setglobal(L, "name");
            push(L, "local t = {[true] = 1} for i = 1, depth - 1 do t = {['step ' .. i] = t} end "
                    "return {[('n'):rep(name)] = t}");
            assert_int_equal(encode(L, NO_LIMIT, &buf, refusal), CM_E_BADVALUE);
            sprintf(path, "value.%.*s", name, "nnnnnnnnnnnn");
            for (int i = depth - 1; i; i--)
                sprintf(path + strlen(path), "[\"step %d\"]", i);

            size_t len = strlen(refusal), path_len = len - strlen(starting) - strlen(ending);
            assert_true(len < sizeof refusal);
            assert_memory_equal(refusal, starting, strlen(starting));
            assert_string_equal(refusal + len - strlen(ending), ending);
            const char *shown = refusal + strlen(starting), *gap = strstr(shown, "...");
            if (gap) {
                size_t head = (size_t)(gap - shown), tail = path_len - head - 3;
                assert_int_equal(len, sizeof refusal - 1);
                assert_true(path_len < strlen(path));
                assert_true(head >= tail && head - tail <= 1);
                assert_memory_equal(shown, path, head);
                assert_memory_equal(gap + 3, path + strlen(path) - tail, tail);
                cuts++;
            } else {
                assert_int_equal(path_len, strlen(path));
                assert_memory_equal(shown, path, path_len);
            }
            cm_buf_deinit(&buf);
            lua_settop(L, 0);
        }
    }
    assert_true(cuts > 100);
}

static void the_same_table_twice_is_two_copies(void **state) {
    lua_State *L = *state;
    push(L, "local t = {1} return {t, t, {a = t, b = t}}");
    check_round_trip(L);
    lua_rawgeti(L, 2, 1);
    lua_rawgeti(L, 2, 2);
    assert_false(lua_rawequal(L, -1, -2));
    lua_settop(L, 0);
}

static void metatables_are_ignored_and_no_lua_code_runs(void **state) {
    lua_State *L = *state;
    push(L, "local function no() error('Lua code ran') end "
            "local m = {__index = no, __newindex = no, __len = no, __pairs = no, __eq = no, __lt = no, "
            "__tostring = no, "
            "__name = 'no', __call = no, __concat = no, __metatable = 'no', __mode = 'kv'} "
            "return setmetatable({1, 2, a = setmetatable({setmetatable({}, m)}, m)}, m)");
    check_round_trip(L);
    assert_false(lua_getmetatable(L, 2));
    lua_settop(L, 0);
    push(L, "return setmetatable({1, 2}, {__len = function() return 1 end, __index = {3, 4, 5}})");
    check_round_trip(L);
    lua_settop(L, 0);
}

static void nesting_has_a_bound(void **state) {
    lua_State *L = *state;
    static const char *const chunks[] = {
        "local t = {} for i = 2, depth do t = {t} end return t",
        "local t = {} for i = 2, depth do t = {a = t} end return t",
    };
    for (size_t i = 0; i < 2; i++) {
        struct cm_buf buf = {0};
        char refusal[CM_VALUE_PATH_BYTES];
        lua_pushinteger(L, CM_VALUE_MAX_DEPTH);
        lua_setglobal(L, "depth");
        push(L, chunks[i]);
        check_round_trip(L);
        lua_settop(L, 0);
        lua_pushinteger(L, CM_VALUE_MAX_DEPTH + 1);
        lua_setglobal(L, "depth");
        push(L, chunks[i]);
        assert_int_equal(encode(L, NO_LIMIT, &buf, refusal), CM_E_BADVALUE);
        assert_non_null(strstr(refusal, ": nested deeper than 128 tables"));
        lua_settop(L, 0);
        cm_buf_deinit(&buf);
    }
    /* And what others may write; on a stack that is still small. */
    L = lua_newthread(L);
    uint8_t arrays[300];
    memset(arrays, 0x91, sizeof arrays);
    arrays[CM_VALUE_MAX_DEPTH] = 0x01;
    assert_int_equal(decode(L, arrays, CM_VALUE_MAX_DEPTH + 1), 0);
    lua_settop(L, 0);
    arrays[CM_VALUE_MAX_DEPTH] = 0x91;
    arrays[CM_VALUE_MAX_DEPTH + 1] = 0x01;
    assert_int_equal(decode(L, arrays, CM_VALUE_MAX_DEPTH + 2), CM_E_BADVALUE);
    arrays[CM_VALUE_MAX_DEPTH] = 0x90;
    assert_int_equal(decode(L, arrays, CM_VALUE_MAX_DEPTH + 1), CM_E_BADVALUE);
    uint8_t maps[2 * CM_VALUE_MAX_DEPTH + 1];
    const size_t last = sizeof maps - 1;
    for (size_t i = 0; i < last; i += 2) {
        maps[i] = 0x81;
        maps[i + 1] = 0x01;
    }
    maps[last] = 0x01;
    assert_int_equal(decode(L, maps, last + 1), 0);
    lua_settop(L, 0);
    maps[last] = 0x80;
    assert_int_equal(decode(L, maps, last + 1), CM_E_BADVALUE);
}

static void counts_allocate_in_proportion_to_the_bytes(void **state) {
    lua_State *L = *state;
    enum { BYTES = 1 << 20 };
    uint8_t *bytes = calloc(1, BYTES);
    assert_non_null(bytes);
    static const uint8_t heads[] = {0xdd, 0xdf};
    for (size_t head = 0; head < 2; head++) {
        /* Tables inside tables, each of which claims all of the bytes. */
        for (size_t i = 0; i < CM_VALUE_MAX_DEPTH; i++) {
            uint8_t *at = bytes + (head ? 6 : 5) * i;
            uint32_t count = (uint32_t)(BYTES - 6 * CM_VALUE_MAX_DEPTH) / (head ? 2 : 1);
            at[0] = heads[head];
            for (int j = 0; j < 4; j++)
                at[1 + j] = (uint8_t)(count >> (24 - 8 * j));
        }
        lua_gc(L, LUA_GCCOLLECT);
        size_t before = lua_memory.bytes;
        lua_memory.peak = before;
        assert_int_equal(decode(L, bytes, BYTES), CM_E_BADVALUE);
        assert_true(lua_memory.peak - before < (size_t)64 * BYTES);
    }
    free(bytes);
}

static void too_large_is_noticed_on_the_way(void **state) {
    lua_State *L = *state;
    uint64_t random = 12;
    for (int i = 0; i < 300; i++) {
        struct cm_buf whole = {0};
        lua_values_random(L, &random, 3);
        assert_int_equal(encode(L, NO_LIMIT, &whole, NULL), 0);
        size_t step = whole.len > 200 ? whole.len / 50 : 1;
        for (size_t max = 0; max < whole.len; max += step) {
            struct cm_buf buf = {0};
            assert_int_equal(encode(L, max, &buf, NULL), CM_E_TOOLARGE);
            assert_true(buf.cap <= 2 * max + 512);
            assert_int_equal(cm_buf_append(&buf, "before", 6), 0);
            assert_int_equal(encode(L, max, &buf, NULL), CM_E_TOOLARGE);
            assert_memory_equal(buf.data, "before", 6);
            cm_buf_deinit(&buf);
        }
        struct cm_buf buf = {0};
        assert_int_equal(encode(L, whole.len - 1, &buf, NULL), CM_E_TOOLARGE);
        assert_int_equal(encode(L, whole.len, &buf, NULL), 0);
        assert_int_equal(encode(L, SIZE_MAX, &buf, NULL), 0);
        assert_int_equal(buf.len, 2 * whole.len);
        assert_memory_equal(buf.data, whole.data, whole.len);
        assert_memory_equal(buf.data + whole.len, whole.data, whole.len);
        cm_buf_deinit(&buf);
        cm_buf_deinit(&whole);
        lua_settop(L, 0);
    }
}

static void the_index_may_be_any(void **state) {
    lua_State *L = *state;
    struct cm_buf buf = {0};
    push(L, "return {a = {1, 2}}");
    push(L, "return 2");
    char refusal[CM_VALUE_PATH_BYTES];
    assert_int_equal(cm_value_encode(L, -2, NO_LIMIT, &buf, refusal), 0);
    assert_int_equal(cm_value_encode(L, 1, NO_LIMIT, &buf, refusal), 0);
    assert_int_equal(cm_value_encode(L, 2, NO_LIMIT, &buf, refusal), 0);
    static const char bytes[] = "\x81\xa1"
                                "a\x92\x01\x02"
                                "\x81\xa1"
                                "a\x92\x01\x02"
                                "\x02";
    assert_int_equal(buf.len, sizeof bytes - 1);
    assert_memory_equal(buf.data, bytes, buf.len);
    cm_buf_deinit(&buf);
    lua_settop(L, 0);
}

/* The value on the top, with each allocation of the buffer failing in turn. */
static void fail_buffer(lua_State *L) {
    for (int all = 0; all <= 1; all++) {
        size_t failed = 1;
        for (size_t nth = 1; failed; nth++) {
            struct cm_buf buf = {0};
            char refusal[CM_VALUE_PATH_BYTES];
            alloc_failure_arm(nth, all);
            int err = cm_value_encode(L, -1, NO_LIMIT, &buf, refusal);
            failed = alloc_failure_arm(0, 0);
            assert_int_equal(err, failed ? CM_E_NOMEMORY : 0);
            assert_int_equal(lua_gettop(L), 1);
            if (err)
                assert_int_equal(buf.len, 0);
            cm_buf_deinit(&buf);
            assert_true(nth > 1 || failed);
        }
    }
}

static void a_buffer_that_cannot_grow_is_told(void **state) {
    lua_State *L = *state;
    push(L, "local t = {} for i = 1, 40 do t['key ' .. i] = {i, tostring(i), {}} end return t");
    fail_buffer(L);
    check_round_trip(L);
    lua_settop(L, 0);
    /* Some of these fill the buffer before the map's head grows. */
    for (int len = 200; len < 260; len++) {
        lua_pushinteger(L, len);
        lua_setglobal(L, "len");
        push(L, "local t = {a = ('x'):rep(len)} for i = 2, 17 do t[i] = i end return t");
        fail_buffer(L);
        check_round_trip(L);
        lua_settop(L, 0);
    }
}

/* Encoding asks Lua for stack only, and never raises: this is no protected call. */
static void a_stack_that_cannot_grow_is_told(void **state) {
    lua_State *L = *state;
    push(L, "local t = {} for i = 1, 120 do t = {a = t} end return t");
    size_t failed = 1, refused = 0;
    for (size_t nth = 1; failed; nth++) {
        struct cm_buf buf = {0};
        lua_State *fresh = lua_newthread(L);
        lua_pushvalue(L, 1);
        lua_xmove(L, fresh, 1);
        lua_memory.failures = 0;
        lua_memory.countdown = nth;
        int err = encode(fresh, NO_LIMIT, &buf, NULL);
        lua_memory.countdown = 0;
        failed = lua_memory.failures;
        assert_int_equal(err, failed ? CM_E_NOMEMORY : 0);
        refused += err != 0;
        cm_buf_deinit(&buf);
        lua_settop(L, 1);
    }
    assert_true(refused > 0);
    lua_settop(L, 0);
}

/* --- documents --- */

#define MARK(ms) "\xd7\x01\0\0\0\0\0\0\0" ms

enum { NOW_MS = 0x20 }; /* what has the mark "\x20" is expired, what has "\x21" lives */

/* As decode, and with marks allowed. */
static int decode_document(lua_State *L, const void *bytes, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, bytes, len);
    int top = lua_gettop(L);
    int err = cm_value_decode_document(L, (struct cm_bytes){copy, len}, NOW_MS);
    free(copy);
    assert_int_equal(lua_gettop(L), err ? top : top + 1);
    if (err)
        assert_int_equal(err, CM_E_BADVALUE);
    return err;
}

struct document {
    const char *chunk; /* what it is, or NULL: refused */
    const char *bytes;
    size_t len;
};

#define DOCUMENT(chunk, bytes) \
    { chunk, bytes, sizeof(bytes) - 1 }

static void what_is_expired_in_a_document_is_absent(void **state) {
    lua_State *L = *state;
    static const struct document cases[] = {
        DOCUMENT("return 5", "\x05"),
        DOCUMENT("return {a = {1, null}}", "\x81\xa1"
                                           "a\x92\x01\xc0"),
        DOCUMENT("return 5", MARK("\x21") "\x05"),
        DOCUMENT("return nil", MARK("\x20") "\x05"),
        DOCUMENT("return nil", MARK("\x01") "\x92\x01\x81\x01" MARK("\x01") "\xa1x"),
        DOCUMENT("return {1, 2}", MARK("\x21") "\x92" MARK("\x22") "\x01\x02"),
        DOCUMENT("return {1, nil, 3}", "\x93\x01" MARK("\x1f") "\x92\x01\x02\x03"),
        DOCUMENT("return {1}", "\x92\x01" MARK("\x1f") "\x02"),
        DOCUMENT("return {}", "\x91" MARK("\x1f") "\x02"),
        DOCUMENT("return {a = 1, [2] = {}}", "\x83\xa1"
                                             "a" MARK("\x21") "\x01\xa1"
                                                              "b" MARK("\x20") "\x81\x01\x02\x02\x81\xa1"
                                                                               "c" MARK("\x01") "\x05"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        push(L, cases[i].chunk);
        assert_int_equal(decode_document(L, cases[i].bytes, cases[i].len), 0);
        if (!lua_values_equal(L, 1, 2))
            fail_msg("case %zu", i);
        lua_settop(L, 0);
        for (size_t len = 0; len < cases[i].len; len++)
            assert_int_equal(decode_document(L, cases[i].bytes, len), CM_E_BADVALUE);
        if (i >= 2) /* a value by itself has no marks */
            assert_int_equal(decode(L, cases[i].bytes, cases[i].len), CM_E_BADVALUE);
    }
}

static void misplaced_marks_are_refused(void **state) {
    lua_State *L = *state;
    static const struct document cases[] = {
        DOCUMENT(NULL, MARK("\x21")),
        DOCUMENT(NULL, MARK("\0") "\x01"),
        DOCUMENT(NULL, "\xd7\x02\0\0\0\0\0\0\0\x21\x01"),
        DOCUMENT(NULL, MARK("\x21") MARK("\x21") "\x01"),
        DOCUMENT(NULL, MARK("\x20") MARK("\x21") "\x01"),
        DOCUMENT(NULL, MARK("\x21") "\x01\x01"),
        DOCUMENT(NULL, MARK("\x20") "\x01\x01"),
        DOCUMENT(NULL, "\x81" MARK("\x21") "\x01\x01"),
        DOCUMENT(NULL, "\x81" MARK("\x20") "\x01\x01"),
        DOCUMENT(NULL, "\x92" MARK("\x20") "\x91\x01"), /* what is gone would eat the second element */
        DOCUMENT(NULL, "\x92" MARK("\x20") "\xa1x"),
        DOCUMENT(NULL, "\x91" MARK("\x20") "\xc1"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (decode_document(L, cases[i].bytes, cases[i].len) != CM_E_BADVALUE)
            fail_msg("case %zu was taken", i);
}

/* Pieces of documents in any order: what is well-formed decodes, and else at most what is expired is not. */
static void random_documents_decode_if_they_are_well_formed(void **state) {
    lua_State *L = *state;
    static const struct document pieces[] = {
        DOCUMENT(NULL, "\x01"), DOCUMENT(NULL, "\xa1x"),      DOCUMENT(NULL, "\x80"),
        DOCUMENT(NULL, "\x81"), DOCUMENT(NULL, "\x91"),       DOCUMENT(NULL, "\x92"),
        DOCUMENT(NULL, "\xc0"), DOCUMENT(NULL, MARK("\x21")), DOCUMENT(NULL, MARK("\x20")),
    };
    enum { PIECES = sizeof pieces / sizeof pieces[0] };
    uint64_t random = 13;
    int whole = 0, broken = 0;
    for (int i = 0; i < 200000; i++) {
        struct cm_buf buf = {0};
        size_t kinds = i % 2 ? PIECES : PIECES - 1;
        for (size_t count = 1 + random_below(&random, 9); count; count--) {
            const struct document *piece = &pieces[random_below(&random, kinds)];
            assert_int_equal(cm_buf_append(&buf, piece->bytes, piece->len), 0);
        }
        int expected = cm_document_check_body(cm_buf_view(&buf));
        int err = decode_document(L, buf.data, buf.len);
        if (expected == 0 || kinds == PIECES - 1)
            assert_int_equal(err, expected);
        whole += expected == 0;
        broken += expected != 0;
        cm_buf_deinit(&buf);
        lua_settop(L, 0);
    }
    assert_true(whole > 1000 && broken > 1000);
}

/* Without marks they are the same, to the deepest. */
static void documents_without_marks_are_values(void **state) {
    lua_State *L = *state;
    uint64_t random = 12;
    for (int i = 0; i < 1000; i++) {
        struct cm_buf buf = {0};
        lua_values_random(L, &random, i % 6);
        assert_int_equal(encode(L, NO_LIMIT, &buf, NULL), 0);
        assert_int_equal(decode_document(L, buf.data, buf.len), 0);
        assert_true(lua_values_equal(L, 1, 2));
        cm_buf_deinit(&buf);
        lua_settop(L, 0);
    }
    struct cm_buf deep = {0};
    for (int i = 0; i < CM_VALUE_MAX_DEPTH; i++)
        assert_int_equal(cm_buf_append(&deep, "\x91" MARK("\x21"), 11), 0);
    assert_int_equal(cm_buf_append(&deep, "\x05", 1), 0);
    assert_int_equal(decode_document(L, deep.data, deep.len), 0);
    deep.data[deep.len - 1] = 0x80;
    assert_int_equal(decode_document(L, deep.data, deep.len), CM_E_BADVALUE);
    cm_buf_deinit(&deep);
    lua_settop(L, 0);
}

static int decode_protected(lua_State *L) {
    const struct cm_buf *buf = lua_touserdata(L, 1);
    lua_settop(L, 0);
    if (cm_value_decode(L, cm_buf_view(buf)))
        lua_pushnil(L);
    return 1;
}

static void a_decoder_without_memory_raises(void **state) {
    lua_State *L = *state;
    struct cm_buf buf = {0};
    push(L, "local t = {} for i = 1, 30 do t['key ' .. i] = {i, 'a string of its own ' .. i, {i / 2}} end "
            "return t");
    assert_int_equal(encode(L, NO_LIMIT, &buf, NULL), 0);
    size_t failed = 1, raised = 0;
    for (size_t nth = 1; failed; nth++) {
        lua_pushcfunction(L, decode_protected);
        lua_pushlightuserdata(L, &buf);
        lua_memory.failures = 0;
        lua_memory.countdown = nth;
        int status = lua_pcall(L, 1, 1, 0);
        lua_memory.countdown = 0;
        failed = lua_memory.failures;
        if (status == LUA_OK)
            assert_true(lua_values_equal(L, 1, 2));
        else
            assert_int_equal(status, LUA_ERRMEM);
        raised += status != LUA_OK;
        lua_settop(L, 1);
    }
    assert_true(raised > 10);
    cm_buf_deinit(&buf);
    lua_settop(L, 0);
}

int main(void) {
#define lua_test(f) cmocka_unit_test_setup_teardown(f, open_lua, close_lua)
    const struct CMUnitTest tests[] = {
        lua_test(random_values_come_back),
        lua_test(incomplete_and_overlong_bytes_are_refused),
        lua_test(scalars_stay_exactly_what_they_were),
        lua_test(containers_of_each_head_come_back),
        lua_test(bytes_are_messagepack),
        lua_test(other_widths_are_read_as_well),
        lua_test(malformed_bytes_are_refused),
        lua_test(what_is_not_data_is_refused_by_name),
        lua_test(a_long_path_loses_its_middle_and_keeps_its_reason),
        lua_test(the_same_table_twice_is_two_copies),
        lua_test(metatables_are_ignored_and_no_lua_code_runs),
        lua_test(nesting_has_a_bound),
        lua_test(counts_allocate_in_proportion_to_the_bytes),
        lua_test(too_large_is_noticed_on_the_way),
        lua_test(the_index_may_be_any),
        lua_test(what_is_expired_in_a_document_is_absent),
        lua_test(misplaced_marks_are_refused),
        lua_test(random_documents_decode_if_they_are_well_formed),
        lua_test(documents_without_marks_are_values),
        lua_test(a_buffer_that_cannot_grow_is_told),
        lua_test(a_stack_that_cannot_grow_is_told),
        lua_test(a_decoder_without_memory_raises),
    };
    return cmocka_run_group_tests_name("value", tests, NULL, NULL);
}
