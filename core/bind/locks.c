#include "bind/locks.h"

#include <lauxlib.h>

#include "base/error.h"
#include "bind/requests.h"
#include "bind/vm.h"
#include "wire/ops.h"

/* Each function gives the id of a request, or false and the results. Keys are checked by the callers. */

static struct cm_bytes to_bytes(lua_State *L, int index) {
    struct cm_bytes bytes;
    bytes.data = (const uint8_t *)luaL_checklstring(L, index, &bytes.len);
    return bytes;
}

void cm_locks_push_id(lua_State *L, struct cm_lock_id id) {
    char text[CM_LOCK_ID_BYTES];
    lua_pushlstring(L, text, cm_lock_id_format(id, text));
}

static struct cm_writer *begin(struct cm_vm *vm, uint8_t op, struct cm_bytes key) {
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, op);
    if (writer)
        cm_write_bytes(writer, key);
    return writer;
}

static void write_id(struct cm_writer *writer, struct cm_lock_id id) {
    cm_write_u64(writer, id.token);
    cm_write_u32(writer, id.slot);
}

static int push_failure(lua_State *L, int err) {
    return cm_requests_refuse(L, err);
}

static int push_ok(lua_State *L) {
    lua_pushboolean(L, false);
    lua_pushliteral(L, "OK");
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
        return push_failure(L, CM_E_CLOSED);
    uint64_t deadline_ms = lease_ms ? vm->locker.clock_ms() + lease_ms : 0;
    struct cm_grant grant;
    int err = cm_lock_take(&vm->locker, key, task, deadline_ms, timeout_ms != 0, &grant);
    if (!err) {
        lua_pushboolean(L, false);
        cm_locks_push_id(L, grant.id);
        if (!grant.abandoned)
            return 2;
        lua_pushliteral(L, "abandoned");
        return 3;
    }
    if (err == CM_E_BUSY && timeout_ms == 0)
        return push_failure(L, err);
    struct cm_writer *writer = begin(vm, CM_OP_LOCK, key);
    if (writer) {
        cm_write_u64(writer, task);
        cm_write_u8(writer, fair ? CM_LOCK_FAIR : 0);
        cm_write_u64(writer, timeout_ms < 0 ? CM_LOCK_NO_TIMEOUT : (uint64_t)timeout_ms);
        cm_write_u64(writer, lease_ms);
    }
    return cm_requests_issue(L, vm, writer);
}

/* unlock(key, lockId) -> false, "OK" | false, nil, message, code | id. In the order of this process's writes:
 * while one of them is with the master, this goes there too. */
static int native_unlock(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_lock_id id = cm_lock_id_parse(to_bytes(L, 2));
    if (vm->detached)
        return push_failure(L, CM_E_CLOSED);
    int err = vm->forwarded ? CM_LOCK_ASK : cm_lock_release(&vm->locker, key, id);
    if (!err)
        return push_ok(L);
    if (err != CM_LOCK_ASK)
        return push_failure(L, err);
    struct cm_writer *writer = begin(vm, CM_OP_UNLOCK, key);
    if (writer)
        write_id(writer, id);
    return cm_requests_issue(L, vm, writer);
}

/* renew(key, lockId, lease) -> as above */
static int native_renew(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_lock_id id = cm_lock_id_parse(to_bytes(L, 2));
    uint64_t lease_ms = (uint64_t)luaL_checkinteger(L, 3);
    if (vm->detached)
        return push_failure(L, CM_E_CLOSED);
    uint64_t deadline_ms = lease_ms ? vm->locker.clock_ms() + lease_ms : 0;
    int err = vm->forwarded ? CM_LOCK_ASK : cm_lock_renew(&vm->locker, key, id, deadline_ms);
    if (!err)
        return push_ok(L);
    if (err != CM_LOCK_ASK)
        return push_failure(L, err);
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

void cm_locks_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"lock", native_lock},
        {"unlock", native_unlock},
        {"renew", native_renew},
        {"lockInfo", native_lock_info},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
