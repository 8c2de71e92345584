#include "bind/storages.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "bind/calls.h"
#include "data/json.h"
#include "data/path.h"

/* --- paths: errors are worded as in clustermem.check --- */

static _Noreturn void refuse_path(lua_State *L, const char *what, const char *why) {
    lua_pushfstring(L, "%s: %s", what, why);
    cm_requests_blame(L);
}

static int parse_path(lua_State *L, int index, const char *what, struct cm_buf *path) {
    struct cm_bytes text = to_bytes(L, index);
    struct cm_path_fault fault;
    int err = cm_path_parse(text, path, &fault);
    if (err == CM_E_BADVALUE) {
        lua_pushfstring(L, "%s: the path '%s' is wrong at character %I: %s", what, (const char *)text.data,
                        (LUAI_UACINT)fault.at, fault.why);
        cm_requests_blame(L);
    }
    return err;
}

static int add_step(lua_State *L, const char *what, lua_Integer place, struct cm_buf *path) {
    if (lua_type(L, -1) == LUA_TSTRING)
        return cm_path_add_string(path, to_bytes(L, -1));
    if (lua_isinteger(L, -1))
        return cm_path_add_integer(path, lua_tointeger(L, -1));
    if (lua_type(L, -1) == LUA_TNUMBER)
        return cm_path_add_float(path, lua_tonumber(L, -1));
    lua_pushfstring(L, "%s: the path's step %I must be a string or a number, not a %s", what,
                    (LUAI_UACINT)place, luaL_typename(L, -1));
    cm_requests_blame(L);
}

static int collect_path(lua_State *L, int index, const char *what, struct cm_buf *path) {
    lua_Unsigned count = lua_rawlen(L, index);
    int err = 0;
    if (count > CM_PATH_MAX_STEPS)
        err = CM_E_BADVALUE;
    for (lua_Unsigned i = 1; !err && i <= count; i++) {
        lua_rawgeti(L, index, (lua_Integer)i);
        err = add_step(L, what, (lua_Integer)i, path);
        lua_pop(L, 1);
    }
    if (!err)
        err = cm_path_check(cm_buf_view(path));
    if (err == CM_E_BADVALUE)
        refuse_path(L, what,
                    "a path of steps begins with a document's name, a string of 1 to 65531 bytes, and has at "
                    "most 128 steps");
    return err;
}

/* Makes steps of the path at the index, a text or an array, in vm->path. 0 or CM_E_NOMEMORY; a bad one is
 * raised. */
static int to_path(lua_State *L, struct cm_vm *vm, int index, const char *what) {
    cm_buf_reset(&vm->path, KEEP_BYTES);
    if (lua_type(L, index) == LUA_TSTRING)
        return parse_path(L, index, what, &vm->path);
    if (lua_istable(L, index))
        return collect_path(L, index, what, &vm->path);
    lua_pushfstring(L, "the path must be a string or an array of steps, not %s%s",
                    lua_isnoneornil(L, index) ? "" : "a ", luaL_typename(L, index));
    refuse_path(L, what, lua_tostring(L, -1));
}

/* --- reading --- */

static bool is_open(struct cm_vm *vm, uint32_t id) {
    if (vm->detached)
        return false;
    if (vm->storage.id != id) {
        vm->storage.id = id;
        vm->storage.closed = 0;
    }
    return cm_documents_is_open(&vm->documents, id, &vm->storage.closed);
}

static uint32_t check_open(lua_State *L, struct cm_vm *vm, const char *what) {
    uint32_t id = (uint32_t)luaL_checkinteger(L, 1);
    if (!is_open(vm, id))
        refuse_path(L, what, "the storage is closed");
    return id;
}

/* storageIsOpen(id) -> boolean */
static int native_is_open(lua_State *L) {
    lua_pushboolean(L, is_open(cm_vm_of(L), (uint32_t)luaL_checkinteger(L, 1)));
    return 1;
}

/* What is under the path at index 2, in vm->value; without `value` only whether there is anything. */
static int find(lua_State *L, const char *what, struct cm_bytes *value, uint64_t *version) {
    struct cm_vm *vm = cm_vm_of(L);
    uint32_t id = check_open(L, vm, what);
    int err = to_path(L, vm, 2, what);
    if (version)
        *version = 0;
    return err ? err
               : cm_documents_get(&vm->documents, id, cm_buf_view(&vm->path), &vm->value, value, version);
}

static int push_part(lua_State *L, int err, struct cm_bytes value) {
    struct cm_vm *vm = cm_vm_of(L);
    if (err && err != CM_E_NOTFOUND)
        return cm_requests_push_failure(L, err);
    if (err)
        lua_pushnil(L);
    else
        push_encoded(L, vm, (struct encoded){value, true, vm->documents.store.clock_ms()});
    if (vm->value.cap > KEEP_BYTES)
        cm_buf_reset(&vm->value, KEEP_BYTES);
    return 1;
}

/* storageGet(id, path) -> value | nil */
static int native_get(lua_State *L) {
    struct cm_bytes value;
    int err = find(L, "store:get", &value, NULL);
    return push_part(L, err, value);
}

/* storageRead(id, path) -> value | nil, the document's version | nil, message, code */
static int native_read(lua_State *L) {
    struct cm_bytes value;
    uint64_t version;
    int err = find(L, "store:update", &value, &version);
    int pushed = push_part(L, err, value);
    if (pushed > 1)
        return pushed;
    lua_pushinteger(L, (lua_Integer)version);
    return 2;
}

/* storageDocument(path) -> the name of the document that it leads into */
static int native_document(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    int err = to_path(L, vm, 1, "store:update");
    struct cm_bytes path = cm_buf_view(&vm->path), name;
    if (!err)
        err = cm_path_split(&path, &name);
    if (err)
        return luaL_error(L, "%s", cm_error_text(err));
    lua_pushlstring(L, (const char *)name.data, name.len);
    return 1;
}

/* storageHas(id, path) -> boolean | nil, message, code */
static int native_has(lua_State *L) {
    int err = find(L, "store:has", NULL, NULL);
    cm_buf_reset(&cm_vm_of(L)->value, KEEP_BYTES);
    if (err && err != CM_E_NOTFOUND)
        return cm_requests_push_failure(L, err);
    lua_pushboolean(L, !err);
    return 1;
}

/* storageJson(id, name) -> '"name": value' | nil where there is none any more | nil, message, code */
static int native_json(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    uint32_t id = check_open(L, vm, "store:export");
    struct cm_bytes name = to_bytes(L, 2), value = {0};
    cm_buf_reset(&vm->path, KEEP_BYTES);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    int err = cm_path_add_string(&vm->path, name);
    if (!err)
        err = cm_documents_get(&vm->documents, id, cm_buf_view(&vm->path), &vm->value, &value, NULL);
    if (!err)
        err = cm_json_string(name, &vm->scratch);
    if (!err)
        err = cm_buf_append(&vm->scratch, ": ", 2);
    if (!err)
        err = cm_json_write(value, vm->documents.store.clock_ms(), true, &vm->scratch);
    cm_buf_reset(&vm->value, KEEP_BYTES);
    if (err && err != CM_E_NOTFOUND)
        return cm_requests_push_failure(L, err);
    if (err)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (const char *)vm->scratch.data, vm->scratch.len);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    return 1;
}

/* --- what the master does --- */

static struct cm_writer *begin_for(struct cm_vm *vm, uint8_t op, uint32_t id) {
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, op);
    if (writer)
        cm_write_u32(writer, id);
    return writer;
}

/* folder(path) -> the absolute path of the folder | nil, message, code */
static int native_folder(lua_State *L) {
    char folder[PATH_MAX];
    if (!realpath(luaL_checkstring(L, 1), folder))
        return cm_requests_push_failure(L, -errno);
    lua_pushstring(L, folder);
    return 1;
}

/* storageOpen(name, folder, gc) -> id | false, nil, message, code */
static int native_open(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_writer *writer = begin(vm, CM_OP_STORAGE_OPEN, to_bytes(L, 1));
    if (writer) {
        cm_write_bytes(writer, to_bytes(L, 2));
        cm_write_u64(writer, to_u64(L, 3));
    }
    return cm_requests_issue(L, vm, writer);
}

/* storageSet(id, path, value, ttl, flags, version) -> likewise */
static int native_set(lua_State *L) {
    static const char what[] = "store:set";
    struct cm_vm *vm = cm_vm_of(L);
    uint32_t id = check_open(L, vm, what);
    int err = to_path(L, vm, 2, what);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    if (!err)
        err = cm_requests_encode(L, vm, 3, NULL);
    if (err)
        return cm_requests_refuse(L, err);
    struct cm_writer *writer = begin_for(vm, CM_OP_STORAGE_SET, id);
    if (writer) {
        cm_write_bytes(writer, cm_buf_view(&vm->path));
        cm_write_bytes(writer, cm_buf_view(&vm->scratch));
        cm_write_u64(writer, to_u64(L, 4));
        cm_write_u8(writer, (uint8_t)to_u64(L, 5));
        cm_write_u64(writer, to_u64(L, 6));
    }
    return cm_requests_issue(L, vm, writer);
}

/* storageDelete(id, path, flags, version) -> likewise */
static int native_delete(lua_State *L) {
    static const char what[] = "store:delete";
    struct cm_vm *vm = cm_vm_of(L);
    uint32_t id = check_open(L, vm, what);
    int err = to_path(L, vm, 2, what);
    if (err)
        return cm_requests_refuse(L, err);
    struct cm_writer *writer = begin_for(vm, CM_OP_STORAGE_DELETE, id);
    if (writer) {
        cm_write_bytes(writer, cm_buf_view(&vm->path));
        cm_write_u8(writer, (uint8_t)to_u64(L, 3));
        cm_write_u64(writer, to_u64(L, 4));
    }
    return cm_requests_issue(L, vm, writer);
}

static int request_for(lua_State *L, uint8_t op, const char *what) {
    struct cm_vm *vm = cm_vm_of(L);
    return cm_requests_issue(L, vm, begin_for(vm, op, check_open(L, vm, what)));
}

/* storageSync(id), storageClose(id), storageDestroy(id) -> likewise */
static int native_sync(lua_State *L) {
    return request_for(L, CM_OP_STORAGE_SYNC, "store:sync");
}
static int native_close(lua_State *L) {
    return request_for(L, CM_OP_STORAGE_CLOSE, "store:close");
}
static int native_destroy(lua_State *L) {
    return request_for(L, CM_OP_STORAGE_DESTROY, "store:destroy");
}

void cm_storages_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"folder", native_folder},          {"storageOpen", native_open},
        {"storageIsOpen", native_is_open},  {"storageGet", native_get},
        {"storageRead", native_read},       {"storageDocument", native_document},
        {"storageHas", native_has},         {"storageJson", native_json},
        {"storageSet", native_set},         {"storageDelete", native_delete},
        {"storageSync", native_sync},       {"storageClose", native_close},
        {"storageDestroy", native_destroy}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
