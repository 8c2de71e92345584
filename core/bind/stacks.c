#include "bind/stacks.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "bind/vm.h"

enum { LEVELS = 24 }; /* of one stack, in a traceback */

void cm_stacks_init(struct cm_stacks *stacks, lua_State *L) {
    stacks->main = (struct cm_stack){.L = L};
    atomic_store(&stacks->top, &stacks->main);
}

static int refuse(lua_State *L, const char *message) {
    lua_pushboolean(L, 0);
    lua_pushstring(L, message);
    return 2;
}

/* As luaB_coresume. */
static int resume(lua_State *L, struct cm_standing standing) {
    luaL_checktype(L, 1, LUA_TTHREAD);
    lua_State *co = lua_tothread(L, 1);
    int count = lua_gettop(L) - 1;
    if (!lua_checkstack(co, count))
        return refuse(L, "too many arguments to resume");
    lua_xmove(L, co, count);
    struct cm_stacks *stacks = &cm_vm_of(L)->stacks;
    struct cm_stack stack = {
        .L = co, .below = atomic_load_explicit(&stacks->top, memory_order_relaxed), .standing = standing};
    /* Release: a handler that comes now sees what is in it. It is on this function's own stack, and
     * lua_resume lets no error pass. */
    atomic_store_explicit(&stacks->top, &stack, memory_order_release);
    int status = lua_resume(co, L, count, &count);
    atomic_store_explicit(&stacks->top, stack.below, memory_order_release);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    if (!lua_checkstack(L, count + 1)) {
        lua_pop(co, count);
        return refuse(L, "too many results to resume");
    }
    lua_xmove(co, L, count);
    lua_pushboolean(L, 1);
    lua_insert(L, -1 - count);
    return count + 1;
}

/* resume(co, ...) */
static int native_resume(lua_State *L) {
    return resume(L, (struct cm_standing){0});
}

/* begin(co, ...) */
static int native_begin(lua_State *L) {
    return resume(L, (struct cm_standing){.known = true, .may_wait = true, .own = true});
}

/* reuse(co, fn) -> boolean. Its upvalue is Lua's own list of the C libraries that have been loaded. */
static int native_reuse(lua_State *L) {
    lua_State *co = lua_tothread(L, 1);
    int libraries = lua_upvalueindex(1);
    bool is_unknown = lua_istable(L, libraries) && lua_rawlen(L, libraries) == 0 && !lua_gethook(co);
    if (is_unknown) {
        lua_pushvalue(L, 2);
        lua_xmove(L, co, 1);
    }
    lua_pushboolean(L, is_unknown);
    return 1;
}

void cm_stacks_open(lua_State *L) {
    lua_pushcfunction(L, native_resume);
    lua_setfield(L, -2, "resume");
    lua_pushcfunction(L, native_begin);
    lua_setfield(L, -2, "begin");
    lua_getfield(L, LUA_REGISTRYINDEX, "_CLIBS");
    lua_pushcclosure(L, native_reuse, 1);
    lua_setfield(L, -2, "reuse");
}

bool cm_stacks_hook(const struct cm_stacks *stacks, lua_Hook hook, bool polite) {
    bool set = false;
    for (const struct cm_stack *at = atomic_load_explicit(&stacks->top, memory_order_acquire); at;
         at = at->below) {
        if (polite && lua_gethook(at->L))
            continue;
        lua_sethook(at->L, hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
        set = true;
    }
    return set;
}

static size_t describe(const lua_Debug *about, char *line, size_t bytes) {
    char place[32] = "";
    if (about->currentline > 0)
        snprintf(place, sizeof place, "%d:", about->currentline);
    int len;
    if (*about->namewhat)
        len = snprintf(line, bytes, "\n\t%s:%s in %s '%s'", about->short_src, place, about->namewhat,
                       about->name);
    else if (*about->what == 'm')
        len = snprintf(line, bytes, "\n\t%s:%s in main chunk", about->short_src, place);
    else if (*about->what == 'C')
        len = snprintf(line, bytes, "\n\t%s: in ?", about->short_src);
    else
        len = snprintf(line, bytes, "\n\t%s:%s in function <%s:%d>", about->short_src, place,
                       about->short_src, about->linedefined);
    return len < 0 ? 0 : (size_t)len;
}

/* Whole lines, as many as there is room for. */
static bool append(char text[CM_TRACE_BYTES], const char *line, size_t len) {
    size_t end = strlen(text);
    if (len >= CM_TRACE_BYTES - end)
        return false;
    memcpy(text + end, line, len + 1);
    return true;
}

void cm_stacks_trace(const struct cm_stacks *stacks, char text[CM_TRACE_BYTES]) {
    static const char cut[] = "\n\t...", tail[] = "\n\t(...tail calls...)";
    snprintf(text, CM_TRACE_BYTES, "stack traceback:");
    for (const struct cm_stack *at = atomic_load(&stacks->top); at; at = at->below) {
        lua_Debug about;
        for (int level = 0; lua_getstack(at->L, level, &about); level++) {
            char line[512];
            if (level == LEVELS) {
                append(text, cut, sizeof cut - 1);
                break;
            }
            lua_getinfo(at->L, "Slnt", &about);
            size_t len = describe(&about, line, sizeof line);
            if (len >= sizeof line || !append(text, line, len))
                return;
            if (about.istailcall && !append(text, tail, sizeof tail - 1))
                return;
        }
    }
}
