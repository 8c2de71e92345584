#include "bind/requests.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "bind/value.h"
#include "bind/vm.h"
#include "wire/ops.h"

int cm_requests_push_failure(lua_State *L, int err) {
    lua_pushnil(L);
    lua_pushstring(L, cm_error_text(err));
    lua_pushstring(L, cm_error_name(err));
    return 3;
}

int cm_requests_refuse(lua_State *L, int err) {
    lua_pushboolean(L, false);
    return 1 + cm_requests_push_failure(L, err);
}

int cm_requests_issue(lua_State *L, struct cm_vm *vm, const struct cm_writer *writer) {
    uint32_t id;
    int err = vm->detached ? CM_E_CLOSED : !writer ? CM_E_NOMEMORY : cm_session_commit(&vm->session, &id);
    if (err)
        return cm_requests_refuse(L, err);
    lua_pushinteger(L, id);
    return 1;
}

/* The first line up the stack that is neither C's nor of one of our modules. */
_Noreturn void cm_requests_blame(lua_State *L) {
    static const char ours[] = "=clustermem/";
    lua_Debug frame;
    for (int level = 1; lua_getstack(L, level, &frame); level++) {
        lua_getinfo(L, "Sl", &frame);
        if (frame.currentline <= 0 || strncmp(frame.source, ours, sizeof ours - 1) == 0)
            continue;
        lua_pushfstring(L, "%s:%d: ", frame.short_src, frame.currentline);
        lua_insert(L, -2);
        lua_concat(L, 2);
        break;
    }
    lua_error(L);
    abort(); /* lua_error does not return, but does not say so */
}

int cm_requests_encode(lua_State *L, struct cm_vm *vm, int index, const char *key) {
    char refusal[CM_VALUE_PATH_BYTES];
    int err = cm_value_encode(L, index, vm->session.init.max_value_bytes, &vm->scratch, refusal);
    if (err == CM_E_BADVALUE) {
        lua_pushfstring(L, key ? "key '%s': " : "", key);
        lua_pushstring(L, refusal);
        lua_concat(L, 2);
        cm_requests_blame(L);
    }
    return err;
}

/* refuse(message): raises it. */
static int native_refuse(lua_State *L) {
    luaL_checkstring(L, 1);
    lua_settop(L, 1);
    cm_requests_blame(L);
}

static int request_nothing(lua_State *L, uint8_t op) {
    struct cm_vm *vm = cm_vm_of(L);
    return cm_requests_issue(L, vm, cm_session_begin(&vm->session, op));
}

/* shutdown() */
static int native_shutdown(lua_State *L) {
    return request_nothing(L, CM_OP_SHUTDOWN);
}

/* bind(host, port): an address in figures; or a path, and no port. */
static int native_bind(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes host;
    host.data = (const uint8_t *)luaL_checklstring(L, 1, &host.len);
    uint32_t port = lua_isnoneornil(L, 2) ? CM_BIND_UNIX : (uint32_t)luaL_checkinteger(L, 2);
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, CM_OP_BIND);
    if (writer) {
        cm_write_bytes(writer, host);
        cm_write_u32(writer, port);
    }
    return cm_requests_issue(L, vm, writer);
}

/* unbind(id): a notice. */
static int native_unbind(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    uint32_t id = (uint32_t)luaL_checkinteger(L, 1);
    uint8_t payload[sizeof id];
    for (unsigned i = 0; i < sizeof id; i++)
        payload[i] = (uint8_t)(id >> 8 * i);
    if (!vm->detached)
        cm_session_notify(&vm->session, CM_OP_UNBIND, (struct cm_bytes){payload, sizeof payload});
    return 0;
}

/* closeDescriptor(fd) */
static int native_close_descriptor(lua_State *L) {
    close((int)luaL_checkinteger(L, 1));
    return 0;
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

/* fork(args, env): arrays of strings without NUL, checked by the caller. The script is looked at here, so
 * that the master need not. */
static int native_fork(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TTABLE);
    struct cm_vm *vm = cm_vm_of(L);
    char line[512];
    lua_rawgeti(L, 1, 1);
    int err = cm_vm_check_script(luaL_checkstring(L, -1), line, sizeof line);
    if (err) {
        lua_pushboolean(L, false);
        lua_pushnil(L);
        lua_pushstring(L, line);
        lua_pushstring(L, cm_error_name(err));
        return 4;
    }
    struct cm_writer *writer = cm_session_begin(&vm->session, CM_OP_FORK);
    if (writer) {
        write_strings(L, 1, writer);
        write_strings(L, 2, writer);
    }
    return cm_requests_issue(L, vm, writer);
}

void cm_requests_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"fork", native_fork},
        {"shutdown", native_shutdown},
        {"bind", native_bind},
        {"unbind", native_unbind},
        {"closeDescriptor", native_close_descriptor},
        {"refuse", native_refuse},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
