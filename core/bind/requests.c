#include "bind/requests.h"

#include <lauxlib.h>

#include "base/error.h"
#include "bind/value.h"
#include "bind/vm.h"
#include "wire/ops.h"

enum { SCRATCH_KEEP_BYTES = 1 << 20 };

int cm_requests_push_failure(lua_State *L, int err) {
    lua_pushnil(L);
    lua_pushstring(L, cm_error_text(err));
    lua_pushstring(L, cm_error_name(err));
    return 3;
}

static int commit(lua_State *L, struct cm_vm *vm) {
    uint32_t id;
    int err = cm_session_commit(&vm->session, &id);
    if (err)
        return cm_requests_push_failure(L, err);
    lua_pushinteger(L, id);
    return 1;
}

static struct cm_bytes to_bytes(lua_State *L, int index) {
    size_t len;
    const char *data = luaL_checklstring(L, index, &len);
    return (struct cm_bytes){(const uint8_t *)data, len};
}

static uint64_t to_u64(lua_State *L, int index) {
    return (uint64_t)luaL_optinteger(L, index, 0);
}

/* An empty scratch buffer. */
static struct cm_buf *clean_scratch(struct cm_vm *vm) {
    cm_buf_reset(&vm->scratch, SCRATCH_KEEP_BYTES);
    return &vm->scratch;
}

/* Appends the value at the index to the scratch buffer. 0 or a negative code. A value that cannot be shared
 * raises, at the line that called the public function that called this one; `key` (or NULL) says which of
 * several it is. */
static int encode(lua_State *L, struct cm_vm *vm, int index, const char *key) {
    char refusal[CM_VALUE_PATH_BYTES];
    int err = cm_value_encode(L, index, vm->session.init.max_value_bytes, &vm->scratch, refusal);
    if (err == CM_E_BADVALUE) {
        luaL_where(L, 2);
        lua_pushfstring(L, key ? "key '%s': " : "", key);
        lua_pushstring(L, refusal);
        lua_concat(L, 3);
        lua_error(L);
    }
    return err;
}

/* All that can raise is done before a request is begun, so that none is left half written. */

/* set(key, value [, flags, version, ttl]) */
static int native_set(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint8_t flags = (uint8_t)luaL_optinteger(L, 3, 0);
    uint64_t version = to_u64(L, 4);
    uint64_t ttl_ms = to_u64(L, 5);
    clean_scratch(vm);
    int err = encode(L, vm, 2, NULL);
    struct cm_writer *writer = err ? NULL : cm_session_begin(&vm->session, CM_OP_SET);
    if (!writer)
        return cm_requests_push_failure(L, err ? err : CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    cm_write_bytes(writer, cm_buf_view(&vm->scratch));
    cm_write_u8(writer, flags);
    cm_write_u64(writer, version);
    cm_write_u64(writer, ttl_ms);
    return commit(L, vm);
}

/* remove(key [, flags, version]) */
static int native_remove(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint8_t flags = (uint8_t)luaL_optinteger(L, 2, 0);
    uint64_t version = to_u64(L, 3);
    struct cm_writer *writer = cm_session_begin(&vm->session, CM_OP_REMOVE);
    if (!writer)
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    cm_write_u8(writer, flags);
    cm_write_u64(writer, version);
    cm_write_u64(writer, 0);
    return commit(L, vm);
}

/* increment(key, delta, initial, ttl): the two are numbers. */
static int native_increment(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    luaL_checktype(L, 2, LUA_TNUMBER);
    luaL_checktype(L, 3, LUA_TNUMBER);
    uint64_t ttl_ms = to_u64(L, 4);
    struct cm_buf *scratch = clean_scratch(vm);
    int err = encode(L, vm, 2, NULL);
    size_t delta_len = scratch->len;
    if (!err)
        err = encode(L, vm, 3, NULL);
    struct cm_writer *writer = err ? NULL : cm_session_begin(&vm->session, CM_OP_INCREMENT);
    if (!writer)
        return cm_requests_push_failure(L, err ? err : CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    cm_write_bytes(writer, (struct cm_bytes){scratch->data, delta_len});
    cm_write_bytes(writer, (struct cm_bytes){scratch->data + delta_len, scratch->len - delta_len});
    cm_write_u64(writer, ttl_ms);
    return commit(L, vm);
}

/* setMany(pairs): a table with strings as keys. */
static int native_set_many(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    struct cm_buf *scratch = clean_scratch(vm);
    struct cm_writer payload;
    cm_writer_init(&payload, scratch);
    cm_write_u32(&payload, 0); /* the count, and each value's length, are known later */
    uint32_t count = 0;
    for (lua_pushnil(L); !payload.error && lua_next(L, 1); lua_pop(L, 1), count++) {
        struct cm_bytes key = to_bytes(L, -2);
        cm_write_bytes(&payload, key);
        size_t at = scratch->len;
        cm_write_u32(&payload, 0);
        if (!payload.error)
            payload.error = encode(L, vm, lua_gettop(L), (const char *)key.data);
        cm_rewrite_u32(&payload, at, (uint32_t)(scratch->len - at - 4));
    }
    cm_rewrite_u32(&payload, 0, count);
    struct cm_writer *writer = payload.error ? NULL : cm_session_begin(&vm->session, CM_OP_SET_MANY);
    if (!writer)
        return cm_requests_push_failure(L, payload.error ? payload.error : CM_E_NOMEMORY);
    writer->error = cm_buf_append(writer->buf, scratch->data, scratch->len);
    return commit(L, vm);
}

static int request_key(lua_State *L, uint8_t op) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_writer *writer = cm_session_begin(&vm->session, op);
    if (!writer)
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    return commit(L, vm);
}

/* get(key) */
static int native_get(lua_State *L) {
    return request_key(L, CM_OP_GET);
}

/* ttl(key) */
static int native_ttl(lua_State *L) {
    return request_key(L, CM_OP_TTL);
}

/* A key or prefix and `count` integers behind it. */
static int request_key_integers(lua_State *L, uint8_t op, int count) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint64_t integers[2] = {to_u64(L, 2), to_u64(L, 3)};
    struct cm_writer *writer = cm_session_begin(&vm->session, op);
    if (!writer)
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    cm_write_bytes(writer, key);
    for (int i = 0; i < count; i++)
        cm_write_u64(writer, integers[i]);
    return commit(L, vm);
}

/* expire(key, ttl) */
static int native_expire(lua_State *L) {
    return request_key_integers(L, CM_OP_EXPIRE, 1);
}

/* count(prefix, cursor) */
static int native_count(lua_State *L) {
    return request_key_integers(L, CM_OP_COUNT, 1);
}

/* clear(prefix, cursor, until) */
static int native_clear(lua_State *L) {
    return request_key_integers(L, CM_OP_CLEAR, 2);
}

/* keys(prefix, cursor, limit) */
static int native_keys(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes prefix = to_bytes(L, 1);
    uint64_t cursor = to_u64(L, 2);
    uint32_t limit = (uint32_t)luaL_checkinteger(L, 3);
    struct cm_writer *writer = cm_session_begin(&vm->session, CM_OP_KEYS);
    if (!writer)
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    cm_write_bytes(writer, prefix);
    cm_write_u64(writer, cursor);
    cm_write_u32(writer, limit);
    return commit(L, vm);
}

static int request_nothing(lua_State *L, uint8_t op) {
    struct cm_vm *vm = cm_vm_of(L);
    if (!cm_session_begin(&vm->session, op))
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    return commit(L, vm);
}

/* stats() */
static int native_stats(lua_State *L) {
    return request_nothing(L, CM_OP_STATS);
}

/* shutdown() */
static int native_shutdown(lua_State *L) {
    return request_nothing(L, CM_OP_SHUTDOWN);
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
        lua_pushnil(L);
        lua_pushstring(L, line);
        lua_pushstring(L, cm_error_name(err));
        return 3;
    }
    struct cm_writer *writer = cm_session_begin(&vm->session, CM_OP_FORK);
    if (!writer)
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    write_strings(L, 1, writer);
    write_strings(L, 2, writer);
    return commit(L, vm);
}

void cm_requests_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"set", native_set},           {"get", native_get},
        {"remove", native_remove},     {"increment", native_increment},
        {"setMany", native_set_many},  {"ttl", native_ttl},
        {"expire", native_expire},     {"keys", native_keys},
        {"count", native_count},       {"clear", native_clear},
        {"stats", native_stats},       {"fork", native_fork},
        {"shutdown", native_shutdown}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
