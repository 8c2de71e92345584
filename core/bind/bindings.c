#include "bind/bindings.h"

#include <lauxlib.h>
#include <luv/lhandle.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/list.h"
#include "bind/caches.h"
#include "bind/hub.h"
#include "bind/keys.h"
#include "bind/listens.h"
#include "bind/locks.h"
#include "bind/reads.h"
#include "bind/replies.h"
#include "bind/requests.h"
#include "bind/serving.h"
#include "bind/short.h"
#include "bind/stacks.h"
#include "bind/storages.h"
#include "bind/vm.h"
#include "bind/walks.h"
#include "wire/ops.h"

/* online(): a notice. */
static int native_online(lua_State *L) {
    cm_session_notify(&cm_vm_of(L)->session, CM_OP_ONLINE, (struct cm_bytes){0});
    return 0;
}

/* throttle(): see cm_session_throttle. It reads, which would move the bytes that are being decoded. */
static int native_throttle(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (!vm->decoding)
        cm_session_throttle(&vm->session);
    return 0;
}

/* --- the loop --- */

struct timer {
    uv_timer_t timer;
    struct cm_vm *vm;
    lua_Integer id;
};

static void on_timer_closed(uv_handle_t *handle) {
    free(CM_LIST_ITEM(handle, struct timer, timer));
}

static void on_timer(uv_timer_t *handle) {
    struct timer *timer = CM_LIST_ITEM(handle, struct timer, timer);
    struct cm_vm *vm = timer->vm;
    lua_pushinteger(vm->L, timer->id);
    uv_close((uv_handle_t *)handle, on_timer_closed);
    cm_vm_call(vm, CM_VM_HOOK_REPLY, 1, NULL);
}

/* sleep(ms [, idle]): a reply without results comes then. Its id is negative, so that it is no request's. An
 * idle one does not keep the process. */
static int native_sleep(lua_State *L) {
    lua_Integer delay_ms = luaL_checkinteger(L, 1);
    struct cm_vm *vm = cm_vm_of(L);
    struct timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return cm_requests_refuse(L, CM_E_NOMEMORY);
    timer->vm = vm;
    timer->id = cm_vm_own_id(vm);
    /* The loop's time is that of its last turn; a task that computed since would sleep too short. */
    uv_update_time(&vm->loop);
    uv_timer_init(&vm->loop, &timer->timer);
    uv_timer_start(&timer->timer, on_timer, (uint64_t)delay_ms, 0);
    if (lua_toboolean(L, 2))
        uv_unref((uv_handle_t *)&timer->timer);
    lua_pushinteger(L, timer->id);
    return 1;
}

static void on_ready(uv_idle_t *ready) {
    struct cm_vm *vm = CM_LIST_ITEM(ready, struct cm_vm, ready);
    bool more;
    cm_vm_call(vm, CM_VM_HOOK_RUN, 0, &more);
    if (!more)
        uv_idle_stop(ready);
}

/* wake(): the run hook is called in the next turn, and again while it returns true. */
static int native_wake(lua_State *L) {
    uv_idle_start(&cm_vm_of(L)->ready, on_ready);
    return 0;
}

/* hold(boolean): whether the process stays although nothing of luv's keeps it. */
static int native_hold(lua_State *L) {
    cm_session_hold(&cm_vm_of(L)->session, lua_toboolean(L, 1));
    return 0;
}

static void count_handle(uv_handle_t *handle, void *count) {
    *(int *)count += handle->data != NULL;
}

static void collect_handle(uv_handle_t *handle, void *state) {
    lua_State *L = state;
    const luv_handle_t *data = handle->data;
    if (!data)
        return; /* one of ours */
    lua_rawgeti(L, LUA_REGISTRYINDEX, data->ref);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
}

/* handles() -> an array of the handles that luv made. */
static int native_handles(lua_State *L) {
    uv_loop_t *loop = &cm_vm_of(L)->loop;
    int count = 0;
    uv_walk(loop, count_handle, &count);
    /* Nothing may raise inside the second walk, so the room is made before. */
    luaL_checkstack(L, 4, NULL);
    lua_createtable(L, count, 0);
    uv_walk(loop, collect_handle, L);
    return 1;
}

/* --- the process --- */

/* exit(code): does not return. */
static int native_exit(lua_State *L) {
    cm_vm_exit(cm_vm_of(L), (int)luaL_checkinteger(L, 1));
}

/* fail(text): does not return. */
static int native_fail(lua_State *L) {
    struct cm_bytes text;
    text.data = (const uint8_t *)luaL_checklstring(L, 1, &text.len);
    cm_vm_fail(cm_vm_of(L), text);
}

/* full() -> of an error "not enough memory" that was raised for --worker-memory, why, and the traceback. */
static int native_full(lua_State *L) {
    const struct cm_quota *quota = &cm_vm_of(L)->quota;
    char why[CM_QUOTA_WHY_BYTES];
    if (!cm_quota_explain(quota, why))
        return 0;
    lua_pushstring(L, why);
    lua_pushstring(L, quota->trace);
    return 2;
}

/* hooks(table): the functions that C calls, by the words of CM_VM_HOOKS, scheduler.context and
 * request.pending. */
static int native_hooks(lua_State *L) {
    static const char *const words[] = {
#define XX(name, word) word,
        CM_VM_HOOKS(XX)
#undef XX
    };
    luaL_checktype(L, 1, LUA_TTABLE);
    for (int i = 0; i < CM_VM_HOOK_COUNT; i++) {
        if (lua_getfield(L, 1, words[i]) != LUA_TFUNCTION)
            return luaL_error(L, "hook '%s' is missing", words[i]);
        cm_vm_of(L)->hooks[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    if (lua_getfield(L, 1, "context") != LUA_TTABLE)
        return luaL_error(L, "the tasks' contexts are missing");
    cm_vm_of(L)->context = luaL_ref(L, LUA_REGISTRYINDEX);
    if (lua_getfield(L, 1, "pending") != LUA_TTABLE)
        return luaL_error(L, "the pending requests are missing");
    cm_vm_of(L)->pending = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* What this process is: { id, slot, pid, test, hasWorkers, saysReady, args = { script, ... },
 * workers = { ... } }. */
static void push_info(lua_State *L) {
    const struct cm_init *init = &cm_vm_of(L)->session.init;
    lua_createtable(L, 0, 8);
    lua_pushinteger(L, init->id);
    lua_setfield(L, -2, "id");
    lua_pushinteger(L, init->slot);
    lua_setfield(L, -2, "slot");
    lua_pushinteger(L, getpid());
    lua_setfield(L, -2, "pid");
    lua_pushboolean(L, init->test);
    lua_setfield(L, -2, "test");
    lua_pushboolean(L, init->has_workers);
    lua_setfield(L, -2, "hasWorkers");
    lua_pushboolean(L, init->says_ready);
    lua_setfield(L, -2, "saysReady");
    lua_createtable(L, (int)init->script.args.count, 0);
    for (size_t i = 0; i < init->script.args.count; i++) {
        lua_pushstring(L, init->script.args.items[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "args");
    lua_createtable(L, (int)init->row_count, 0);
    for (size_t i = 0; i < init->row_count; i++) {
        cm_replies_push_worker(L, &init->rows[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "workers");
}

int cm_bindings_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"online", native_online},
        {"throttle", native_throttle},
        {"sleep", native_sleep},
        {"wake", native_wake},
        {"hold", native_hold},
        {"handles", native_handles},
        {"exit", native_exit},
        {"fail", native_fail},
        {"full", native_full},
        {"hooks", native_hooks},
        {NULL, NULL},
    };
    luaL_newlib(L, functions);
    cm_stacks_open(L);
    cm_requests_open(L);
    cm_short_open(L);
    cm_keys_open(L);
    cm_reads_open(L);
    cm_caches_open(L);
    cm_walks_open(L);
    cm_locks_open(L);
    cm_listens_open(L);
    cm_storages_open(L);
    cm_hub_open(L);
    cm_serving_open(L);
    cm_answers_open(L);
    push_info(L);
    lua_setfield(L, -2, "info");
    return 1;
}
