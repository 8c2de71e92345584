#include "bind/short.h"

#include <lauxlib.h>

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

/* What scheduler.context says of the coroutine. */
static struct cm_standing look_up(lua_State *L, const struct cm_vm *vm) {
    struct cm_standing standing = {.known = true};
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->context);
    lua_pushthread(L);
    lua_gettable(L, -2); /* which makes it a task if it is to become one: see scheduler.begin */
    standing.may_wait = lua_toboolean(L, -1);
    if (standing.may_wait) {
        lua_getfield(L, -1, "id");
        standing.task = (uint64_t)lua_tointeger(L, -1);
        lua_getfield(L, -2, "co");
        standing.own = lua_tothread(L, -1) == L;
        lua_pop(L, 2);
    }
    lua_pop(L, 2);
    return standing;
}

bool cm_short_may(lua_State *L, struct cm_vm *vm, struct cm_standing *standing) {
    struct cm_stack *stack = atomic_load_explicit(&vm->stacks.top, memory_order_relaxed);
    bool is_top = stack->L == L; /* else a C library has resumed it */
    const struct cm_standing *at = &stack->standing;
    /* Who only asks whether it may wait need not become a task for that. */
    if (is_top && (!at->known || (standing && at->may_wait && !at->task)))
        stack->standing = look_up(L, vm);
    struct cm_standing found = is_top ? stack->standing : look_up(L, vm);
    if (standing)
        *standing = found;
    return found.may_wait && !vm->detached && lua_isyieldable(L);
}

void cm_short_push_done(lua_State *L, struct cm_vm *vm) {
    lua_pushboolean(L, ++vm->done % CM_SHORT_DONE_PER_TURN == 0);
}

int cm_short_finish(lua_State *L, struct cm_vm *vm, int arguments) {
    if (++vm->done % CM_SHORT_DONE_PER_TURN == 0) {
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
