#include "bind/short.h"

#include <lauxlib.h>

enum { OPERATIONS_PER_TURN = 8192 };

int cm_short_give(lua_State *L, int status, lua_KContext kept) {
    (void)status;
    return lua_gettop(L) - (int)kept;
}

int cm_short_long(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_LONG));
    lua_insert(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, cm_short_give);
    return cm_short_give(L, LUA_OK, 0);
}

bool cm_short_may(lua_State *L, struct cm_vm *vm, uint64_t *task, bool *own) {
    if (vm->detached || !lua_isyieldable(L))
        return false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->context);
    lua_pushthread(L);
    lua_rawget(L, -2);
    bool may = lua_toboolean(L, -1);
    if (may && task) {
        lua_getfield(L, -1, "id");
        *task = (uint64_t)lua_tointeger(L, -1);
        lua_pop(L, 1);
    }
    if (may && own) {
        lua_getfield(L, -1, "co");
        *own = lua_tothread(L, -1) == L;
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
    return may;
}

void cm_short_push_done(lua_State *L, struct cm_vm *vm) {
    lua_pushboolean(L, ++vm->done % OPERATIONS_PER_TURN == 0);
}

int cm_short_finish(lua_State *L, struct cm_vm *vm, int arguments) {
    if (++vm->done % OPERATIONS_PER_TURN == 0) {
        lua_pushvalue(L, lua_upvalueindex(CM_SHORT_REST));
        lua_callk(L, 0, 0, arguments, cm_short_give);
    }
    return lua_gettop(L) - arguments;
}

static int native_short(lua_State *L) {
    lua_CFunction form = lua_tocfunction(L, 1);
    luaL_argcheck(L, form, 1, "a form is needed");
    lua_settop(L, 3);
    lua_pushliteral(L, "OK");
    lua_pushcclosure(L, form, 3);
    return 1;
}

void cm_short_open(lua_State *L) {
    lua_pushcfunction(L, native_short);
    lua_setfield(L, -2, "short");
}
