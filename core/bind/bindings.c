#include "bind/bindings.h"

#include <lauxlib.h>
#include <luv/lhandle.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/list.h"
#include "bind/replies.h"
#include "bind/value.h"
#include "bind/vm.h"
#include "wire/ops.h"

enum { SCRATCH_KEEP_BYTES = 1 << 20 };

/* --- requests: each returns its id, which the reply hook will get, or nil, message, code
 * ----------------------- */

static int push_failure(lua_State *L, int err) {
    lua_pushnil(L);
    lua_pushstring(L, cm_error_text(err));
    lua_pushstring(L, cm_error_name(err));
    return 3;
}

static int commit(lua_State *L, struct cm_vm *vm) {
    uint32_t id;
    int err = cm_session_commit(&vm->session, &id);
    if (err)
        return push_failure(L, err);
    lua_pushinteger(L, id);
    return 1;
}

static struct cm_bytes to_bytes(lua_State *L, int index) {
    size_t len;
    const char *data = luaL_checklstring(L, index, &len);
    return (struct cm_bytes){(const uint8_t *)data, len};
}

/* set(key, value). A value that cannot be shared raises, at the line that called the function that called
 * this. */
static int native_set(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    char refusal[CM_VALUE_PATH_BYTES];
    cm_buf_reset(&vm->scratch, SCRATCH_KEEP_BYTES);
    int err = cm_value_encode(L, 2, vm->session.init.max_value_bytes, &vm->scratch, refusal);
    if (err == CM_E_BADVALUE) {
        luaL_where(L, 2);
        lua_pushstring(L, refusal);
        lua_concat(L, 2);
        return lua_error(L);
    }
    struct cm_writer *writer = err ? NULL : cm_session_begin(&vm->session, CM_OP_SET);
    if (!writer)
        return push_failure(L, err ? err : CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    cm_write_bytes(writer, cm_buf_view(&vm->scratch));
    return commit(L, vm);
}

static int request_key(lua_State *L, uint8_t op) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_writer *writer = cm_session_begin(&vm->session, op);
    if (!writer)
        return push_failure(L, CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    return commit(L, vm);
}

/* get(key) */
static int native_get(lua_State *L) {
    return request_key(L, CM_OP_GET);
}

/* remove(key) */
static int native_remove(lua_State *L) {
    return request_key(L, CM_OP_REMOVE);
}

static void write_strings(lua_State *L, int index, struct cm_writer *writer) {
    lua_Unsigned count = lua_rawlen(L, index);
    cm_write_u32(writer, (uint32_t)count);
    for (lua_Unsigned i = 1; i <= count; i++) {
        lua_rawgeti(L, index, (lua_Integer)i);
        size_t len = 0;
        const char *data = lua_tolstring(L, -1, &len);
        cm_write_bytes(writer, (struct cm_bytes){(const uint8_t *)data, data ? len : 0});
        lua_pop(L, 1);
    }
}

/* fork(args, env): arrays of strings without NUL, checked by the caller. */
static int native_fork(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TTABLE);
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_writer *writer = cm_session_begin(&vm->session, CM_OP_FORK);
    if (!writer)
        return push_failure(L, CM_E_NOMEMORY);
    write_strings(L, 1, writer);
    write_strings(L, 2, writer);
    return commit(L, vm);
}

/* shutdown() */
static int native_shutdown(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (!cm_session_begin(&vm->session, CM_OP_SHUTDOWN))
        return push_failure(L, CM_E_NOMEMORY);
    return commit(L, vm);
}

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

/* --- the loop
 * -------------------------------------------------------------------------------------------------- */

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

/* sleep(ms): a reply without results comes then. Its id is negative, so that it is no request's. */
static int native_sleep(lua_State *L) {
    lua_Integer delay_ms = luaL_checkinteger(L, 1);
    struct cm_vm *vm = cm_vm_of(L);
    struct timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return push_failure(L, CM_E_NOMEMORY);
    if (++vm->last_timer == 0)
        vm->last_timer = 1;
    timer->vm = vm;
    timer->id = -(lua_Integer)vm->last_timer;
    /* The loop's time is that of its last turn; a task that computed since would sleep too short. */
    uv_update_time(&vm->loop);
    uv_timer_init(&vm->loop, &timer->timer);
    uv_timer_start(&timer->timer, on_timer, (uint64_t)delay_ms, 0);
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

/* --- the process
 * ------------------------------------------------------------------------------------------------ */

/* exit(code): does not return. */
static int native_exit(lua_State *L) {
    cm_vm_exit(cm_vm_of(L), (int)luaL_checkinteger(L, 1));
}

/* fail(text): does not return. */
static int native_fail(lua_State *L) {
    cm_vm_fail(cm_vm_of(L), luaL_checkstring(L, 1));
}

/* hooks(table): the functions that C calls, by the words of CM_VM_HOOKS. */
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
    return 0;
}

/* What this process is: { id, slot, pid, test, hasWorkers, args = { script, ... }, workers = { ... } }. */
static void push_info(lua_State *L) {
    const struct cm_init *init = &cm_vm_of(L)->session.init;
    lua_createtable(L, 0, 7);
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
        {"set", native_set},       {"get", native_get},     {"remove", native_remove},
        {"fork", native_fork},     {"sleep", native_sleep}, {"shutdown", native_shutdown},
        {"online", native_online}, {"wake", native_wake},   {"throttle", native_throttle},
        {"hold", native_hold},     {"exit", native_exit},   {"handles", native_handles},
        {"fail", native_fail},     {"hooks", native_hooks}, {NULL, NULL},
    };
    luaL_newlib(L, functions);
    push_info(L);
    lua_setfield(L, -2, "info");
    return 1;
}
