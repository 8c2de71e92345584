#include "bind/locks.h"

#include "bind/calls.h"

/* Each function but the short forms gives the id of a request, or false (or true: see bind/short) and the
 * results. Keys are checked by the callers. */

void cm_locks_push_id(lua_State *L, struct cm_lock_id id) {
    char text[CM_LOCK_ID_BYTES];
    lua_pushlstring(L, text, cm_lock_id_format(id, text));
}

static void write_id(struct cm_writer *writer, struct cm_lock_id id) {
    cm_write_u64(writer, id.token);
    cm_write_u32(writer, id.slot);
}

static int push_ok(lua_State *L, struct cm_vm *vm) {
    cm_short_push_done(L, vm);
    lua_pushliteral(L, "OK");
    return 2;
}

/* lockId [, "abandoned"] */
static int push_grant(lua_State *L, const struct cm_grant *grant) {
    cm_locks_push_id(L, grant->id);
    if (!grant->abandoned)
        return 1;
    lua_pushliteral(L, "abandoned");
    return 2;
}

/* lock(key, task, timeout, lease, fair) -> false, lockId [, "abandoned"] | false, nil, message, code | id
 * A task of 0 is none, a lease of 0 too; a timeout of 0 is not at all, and a negative one for ever. */
static int native_lock(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint64_t task = (uint64_t)luaL_checkinteger(L, 2);
    lua_Integer timeout_ms = luaL_checkinteger(L, 3);
    uint64_t lease_ms = (uint64_t)luaL_checkinteger(L, 4);
    bool fair = lua_toboolean(L, 5);
    if (vm->detached)
        return cm_requests_refuse(L, CM_E_CLOSED);
    uint64_t deadline_ms = lease_ms ? vm->locker.clock_ms() + lease_ms : 0;
    struct cm_grant grant;
    int err = cm_lock_take(&vm->locker, key, task, deadline_ms, timeout_ms != 0, &grant);
    if (!err) {
        cm_short_push_done(L, vm);
        return 1 + push_grant(L, &grant);
    }
    /* Unless a release of this process is on its way to the master: then that is asked, behind it. */
    if (err == CM_E_BUSY && timeout_ms == 0 && !vm->forwarded)
        return cm_requests_refuse(L, err);
    struct cm_writer *writer = begin(vm, CM_OP_LOCK, key);
    if (writer) {
        cm_write_u64(writer, task);
        cm_write_u8(writer, fair ? CM_LOCK_FAIR : 0);
        cm_write_u64(writer, timeout_ms < 0 ? CM_LOCK_NO_TIMEOUT : (uint64_t)timeout_ms);
        cm_write_u64(writer, lease_ms);
    }
    return cm_requests_issue(L, vm, writer);
}

/* In the order of this process's writes: while one of them is with the master, this is the master's too. */
static int release(struct cm_vm *vm, struct cm_bytes key, struct cm_lock_id id) {
    if (vm->forwarded)
        return CM_LOCK_ASK;
    int err = cm_lock_release(&vm->locker, key, id);
    if (vm->locker.owes_ring)
        cm_outbox_post(&vm->session.outbox, &vm->rings);
    return err;
}

static struct cm_writer *begin_unlock(struct cm_vm *vm, struct cm_bytes key, struct cm_lock_id id) {
    struct cm_writer *writer = begin(vm, CM_OP_UNLOCK, key);
    if (writer)
        write_id(writer, id);
    return writer;
}

/* unlock(key, lockId) -> false, "OK" | false, nil, message, code | id */
static int native_unlock(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_lock_id id = cm_lock_id_parse(to_bytes(L, 2));
    if (vm->detached)
        return cm_requests_refuse(L, CM_E_CLOSED);
    int err = release(vm, key, id);
    if (!err)
        return push_ok(L, vm);
    return err == CM_LOCK_ASK ? cm_requests_issue(L, vm, begin_unlock(vm, key, id))
                              : cm_requests_refuse(L, err);
}

/* renew(key, lockId, lease) -> as above */
static int native_renew(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_lock_id id = cm_lock_id_parse(to_bytes(L, 2));
    uint64_t lease_ms = (uint64_t)luaL_checkinteger(L, 3);
    if (vm->detached)
        return cm_requests_refuse(L, CM_E_CLOSED);
    uint64_t deadline_ms = lease_ms ? vm->locker.clock_ms() + lease_ms : 0;
    int err = vm->forwarded ? CM_LOCK_ASK : cm_lock_renew(&vm->locker, key, id, deadline_ms);
    if (!err)
        return push_ok(L, vm);
    if (err != CM_LOCK_ASK)
        return cm_requests_refuse(L, err);
    struct cm_writer *writer = begin(vm, CM_OP_RENEW, key);
    if (writer) {
        write_id(writer, id);
        cm_write_u64(writer, lease_ms);
    }
    return cm_requests_issue(L, vm, writer);
}

/* lockInfo(key) -> id */
static int native_lock_info(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    return cm_requests_issue(L, vm, begin(vm, CM_OP_LOCK_INFO, to_bytes(L, 1)));
}

/* --- short forms: see bind/short --- */

static bool is_short_of(lua_State *L, struct cm_vm *vm, struct cm_bytes *key, struct cm_standing *standing) {
    return is_key(L, 1, key) && cm_short_may(L, vm, standing);
}

/* getLock(key) */
static int short_get_lock(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    struct cm_grant grant;
    struct cm_standing standing;
    if (lua_gettop(L) != 1 || !is_short_of(L, vm, &key, &standing) ||
        cm_lock_take(&vm->locker, key, standing.task, 0, true, &grant))
        return cm_short_long(L);
    return cm_short_finish_with(L, vm, 1, push_grant(L, &grant));
}

/* releaseLock(key, lockId) */
static int short_release_lock(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    if (lua_gettop(L) != 2 || lua_type(L, 2) != LUA_TSTRING || !is_short_of(L, vm, &key, NULL) ||
        release(vm, key, cm_lock_id_parse(to_bytes(L, 2))))
        return cm_short_long(L);
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_OK));
    return cm_short_finish_with(L, vm, 2, 1);
}

/* What a running mutex has; closed when it ends, however it ends. Used again afterwards. */
struct guard {
    struct cm_bytes key; /* the string is on the mutex's stack */
    struct cm_lock_id id;
};
static const char guard_name[] = "clustermem.guard";

/* Pushes a guard of nothing yet. */
static struct guard *push_guard(lua_State *L, struct cm_vm *vm) {
    if (vm->guards_free) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->guards);
        lua_rawgeti(L, -1, vm->guards_free--);
        lua_remove(L, -2);
        return lua_touserdata(L, -1);
    }
    struct guard *guard = lua_newuserdatauv(L, sizeof *guard, 0);
    guard->id = (struct cm_lock_id){0};
    luaL_setmetatable(L, guard_name);
    return guard;
}

/* The end of a mutex, also in the midst of an error: then nobody waits for the answer, if it is the master's.
 */
static int guard_close(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct guard *guard = lua_touserdata(L, 1);
    struct cm_lock_id id = guard->id;
    guard->id = (struct cm_lock_id){0};
    if (id.token && !vm->detached && release(vm, guard->key, id) == CM_LOCK_ASK) {
        uint32_t request;
        if (begin_unlock(vm, guard->key, id))
            cm_session_commit(&vm->session, &request);
    }
    if (vm->guards_free < CM_VM_GUARDS) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->guards);
        lua_pushvalue(L, 1);
        lua_rawseti(L, -2, ++vm->guards_free);
    }
    return 0;
}

enum { GUARD = 3 }; /* its place on the stack of short_mutex */

/* The function has returned; what it did is above the guard. */
static int after_mutex(lua_State *L, int status, lua_KContext context) {
    (void)status;
    (void)context;
    struct cm_vm *vm = cm_vm_of(L);
    struct guard *guard = lua_touserdata(L, GUARD);
    struct cm_lock_id id = guard->id;
    int err = vm->detached ? CM_E_CLOSED : release(vm, guard->key, id);
    guard->id = (struct cm_lock_id){0};
    if (!err)
        return cm_short_finish(L, vm, GUARD);
    /* The long way of ending: it waits for the master, or has the words for what has happened. */
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_LONG + 3));
    lua_insert(L, GUARD + 1);
    lua_pushvalue(L, 1);
    lua_insert(L, GUARD + 2);
    cm_locks_push_id(L, id);
    lua_insert(L, GUARD + 3);
    lua_callk(L, lua_gettop(L) - GUARD - 1, LUA_MULTRET, GUARD, cm_short_give);
    return cm_short_give(L, LUA_OK, GUARD);
}

/* Whether the function would look at what it is called with. */
static bool takes_arguments(lua_State *L, int index) {
    lua_Debug about;
    lua_pushvalue(L, index);
    lua_getinfo(L, ">u", &about);
    return about.nparams || about.isvararg;
}

/* mutex(key, fn) */
static int short_mutex(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    struct cm_standing standing;
    /* When one of the script's own coroutines raises, Lua does not close what is open there. */
    if (lua_gettop(L) != 2 || lua_type(L, 2) != LUA_TFUNCTION || !is_key(L, 1, &key) ||
        !cm_short_may(L, vm, &standing) || !standing.own)
        return cm_short_long(L);
    struct guard *guard = push_guard(L, vm);
    lua_toclose(L, GUARD);
    struct cm_grant grant;
    if (cm_lock_take(&vm->locker, key, standing.task, 0, true, &grant)) {
        lua_closeslot(L, GUARD);
        lua_settop(L, 2);
        return cm_short_long(L);
    }
    *guard = (struct guard){key, grant.id};
    lua_pushvalue(L, 2);
    int arguments = grant.abandoned || takes_arguments(L, 2) ? push_grant(L, &grant) : 0;
    lua_callk(L, arguments, LUA_MULTRET, 0, after_mutex);
    return after_mutex(L, LUA_OK, 0);
}

/* mutex(fn, rest, settle) -> the short form of fn; settle(key, lockId, ...) ends it the long way. */
static int native_mutex(lua_State *L) {
    lua_settop(L, 3);
    lua_pushliteral(L, "OK");
    lua_rotate(L, 3, 1);
    lua_pushcclosure(L, short_mutex, 4);
    return 1;
}

void cm_locks_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"lock", native_lock},
        {"unlock", native_unlock},
        {"renew", native_renew},
        {"lockInfo", native_lock_info},
        {"shortGetLock", short_get_lock},
        {"shortReleaseLock", short_release_lock},
        {"mutex", native_mutex},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
    luaL_newmetatable(L, guard_name);
    lua_pushcfunction(L, guard_close);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    lua_createtable(L, CM_VM_GUARDS, 0);
    cm_vm_of(L)->guards = luaL_ref(L, LUA_REGISTRYINDEX);
}
