#include "bind/listens.h"

#include "bind/calls.h"

static void write_name(lua_State *L, struct cm_writer *writer) {
    cm_write_u8(writer, lua_toboolean(L, 2) ? CM_LISTEN_PREFIX : 0);
    cm_write_bytes(writer, to_bytes(L, 1));
}

/* listen(name, prefix) -> id | false, nil, message, code */
static int native_listen(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    luaL_checkstring(L, 1);
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, CM_OP_LISTEN);
    if (writer)
        write_name(L, writer);
    return cm_requests_issue(L, vm, writer);
}

/* unlisten(name, prefix): a notice. */
static int native_unlisten(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    luaL_checkstring(L, 1);
    if (vm->detached)
        return 0;
    struct cm_writer writer;
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    cm_writer_init(&writer, &vm->scratch);
    write_name(L, &writer);
    /* Without memory the master goes on telling, which harms nobody. */
    if (!writer.error)
        cm_session_notify(&vm->session, CM_OP_UNLISTEN, cm_buf_view(&vm->scratch));
    return 0;
}

/* version(key) -> the version of what is there; 0: nothing */
static int native_version(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    uint64_t version = 0;
    if (!vm->detached)
        cm_store_get(&vm->store, to_bytes(L, 1), NULL, NULL, &version, NULL);
    lua_pushinteger(L, (lua_Integer)version);
    return 1;
}

/* decode(bytes) -> the value that a change has come with */
static int native_decode(lua_State *L) {
    struct cm_bytes bytes = to_bytes(L, 1);
    if (cm_value_decode(L, bytes))
        return luaL_error(L, "the shared memory holds bytes that are no value");
    return 1;
}

void cm_listens_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"listen", native_listen},
        {"unlisten", native_unlisten},
        {"version", native_version},
        {"decode", native_decode},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
