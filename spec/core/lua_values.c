#include "spec/core/lua_values.h"

#include <lauxlib.h>
#include <math.h>
#include <string.h>

#include "spec/core/test.h"

/* By their bits 0.0 and -0.0 differ, and a NaN equals itself. */
static uint64_t bits_of(lua_Number number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static bool tables_equal(lua_State *L, int one, int other) {
    luaL_checkstack(L, 4, NULL);
    size_t keys = 0;
    for (lua_pushnil(L); lua_next(L, one); lua_pop(L, 1)) {
        keys++;
        lua_pushvalue(L, -2);
        lua_rawget(L, other);
        if (!lua_values_equal(L, lua_gettop(L) - 1, lua_gettop(L)))
            return false;
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); lua_next(L, other); lua_pop(L, 1))
        keys--;
    return keys == 0;
}

bool lua_values_equal(lua_State *L, int one, int other) {
    int type = lua_type(L, one);
    if (type != lua_type(L, other))
        return false;
    if (type == LUA_TTABLE) {
        int top = lua_gettop(L);
        bool equal = tables_equal(L, one, other);
        lua_settop(L, top);
        return equal;
    }
    if (type != LUA_TNUMBER || lua_isinteger(L, one))
        return lua_isinteger(L, one) == lua_isinteger(L, other) && lua_rawequal(L, one, other);
    return !lua_isinteger(L, other) && bits_of(lua_tonumber(L, one)) == bits_of(lua_tonumber(L, other));
}

static void push_integer(lua_State *L, uint64_t *random) {
    /* Around each power of two, where the encodings change. */
    uint64_t number = UINT64_C(1) << random_below(random, 64);
    number += random_below(random, 5) - 2;
    lua_pushinteger(L, (lua_Integer)(random_below(random, 2) ? number : 0 - number));
}

static void push_float(lua_State *L, uint64_t *random) {
    static const lua_Number special[] = {0.0, -0.0, 1.0, 10.0, 0.1, 9007199254740993.0, 1e308, 5e-324};
    switch (random_below(random, 5)) {
    case 0:
        lua_pushnumber(L, (lua_Number)INFINITY);
        break;
    case 1:
        lua_pushnumber(L, -(lua_Number)NAN);
        break;
    case 2:
        lua_pushnumber(L, special[random_below(random, sizeof special / sizeof special[0])]);
        break;
    default: {
        uint64_t bits = random_next(random);
        lua_Number number;
        memcpy(&number, &bits, sizeof number);
        lua_pushnumber(L, number);
    }
    }
}

static void push_string(lua_State *L, uint64_t *random) {
    static const size_t lengths[] = {0, 1, 31, 32, 255, 256, 65535, 65536};
    size_t len = random_below(random, 50) ? random_below(random, 40)
                                          : lengths[random_below(random, sizeof lengths / sizeof lengths[0])];
    luaL_Buffer buffer;
    char *bytes = luaL_buffinitsize(L, &buffer, len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)random_next(random);
    luaL_pushresultsize(&buffer, len);
}

static void push_key(lua_State *L, uint64_t *random) {
    switch (random_below(random, 4)) {
    case 0:
        lua_pushinteger(L, (lua_Integer)random_below(random, 20));
        break;
    case 1:
        push_integer(L, random);
        break;
    case 2:
        lua_pushnumber(L, (lua_Number)random_below(random, 100) + 0.5);
        break;
    default:
        push_string(L, random);
        break;
    }
}

static void push_table(lua_State *L, uint64_t *random, int depth) {
    luaL_checkstack(L, 4, NULL);
    lua_newtable(L);
    size_t count = random_below(random, 20) ? random_below(random, 6) : random_below(random, 40);
    bool array = random_below(random, 2);
    for (size_t i = 1; i <= count; i++) {
        if (array)
            lua_pushinteger(L, (lua_Integer)i);
        else
            push_key(L, random);
        lua_values_random(L, random, depth - 1);
        lua_rawset(L, -3);
    }
}

void lua_values_random(lua_State *L, uint64_t *random, int depth) {
    switch (random_below(random, depth > 0 ? 9 : 6)) {
    case 0:
        lua_pushboolean(L, (int)random_below(random, 2));
        break;
    case 1:
    case 2:
        push_integer(L, random);
        break;
    case 3:
        push_float(L, random);
        break;
    case 4:
        lua_pushlightuserdata(L, NULL);
        break;
    case 5:
        push_string(L, random);
        break;
    default:
        push_table(L, random, depth);
        break;
    }
}
