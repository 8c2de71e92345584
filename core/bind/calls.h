/* What the functions for shared data have in common: arguments, results, how a write is issued. Theirs alone:
 * core/bind/keys, core/bind/reads, core/bind/caches, core/bind/locks and core/bind/storages. */
#ifndef CM_BIND_CALLS_H
#define CM_BIND_CALLS_H

#include <lauxlib.h>

#include "base/error.h"
#include "bind/requests.h"
#include "bind/short.h"
#include "bind/value.h"
#include "bind/vm.h"
#include "wire/ops.h"

enum {
    KEEP_BYTES = 1 << 20, /* of a buffer, between two calls */
};

/* --- arguments --- */

static inline bool is_key(lua_State *L, int index, struct cm_bytes *key) {
    if (lua_type(L, index) != LUA_TSTRING)
        return false;
    key->data = (const uint8_t *)lua_tolstring(L, index, &key->len);
    return key->len && key->len <= CM_KEY_MAX_BYTES;
}

/* The key, or an error worded as in clustermem.check. */
static inline struct cm_bytes check_key(lua_State *L, int index, const char *what) {
    struct cm_bytes key = {0};
    if (is_key(L, index, &key))
        return key;
    const char *given =
        lua_isnoneornil(L, index) ? "nil" : lua_pushfstring(L, "a %s", luaL_typename(L, index));
    if (lua_type(L, index) == LUA_TSTRING)
        given = lua_pushfstring(L, "a string of %I bytes", (LUAI_UACINT)key.len);
    lua_pushfstring(L, "%s: the key must be a string of 1 to %d bytes, not %s", what, CM_KEY_MAX_BYTES,
                    given);
    cm_requests_blame(L);
}

static inline struct cm_bytes to_bytes(lua_State *L, int index) {
    struct cm_bytes bytes;
    bytes.data = (const uint8_t *)luaL_checklstring(L, index, &bytes.len);
    return bytes;
}

static inline uint64_t to_u64(lua_State *L, int index) {
    return (uint64_t)luaL_optinteger(L, index, 0);
}

/* Nothing is 0. */
static inline struct cm_number to_number(lua_State *L, int index) {
    if (lua_isinteger(L, index) || lua_isnoneornil(L, index))
        return (struct cm_number){.integer = lua_tointeger(L, index)};
    return (struct cm_number){.is_float = true, .real = lua_tonumber(L, index)};
}

/* --- results --- */

static inline int push_done(lua_State *L, int err) {
    cm_short_push_done(L, cm_vm_of(L));
    if (err)
        return 1 + cm_requests_push_failure(L, err);
    lua_pushliteral(L, "OK");
    return 2;
}

static inline void push_number(lua_State *L, struct cm_number number) {
    if (number.is_float)
        lua_pushnumber(L, number.real);
    else
        lua_pushinteger(L, number.integer);
}

/* What is to be decoded; of a document, in which something may have expired by then. */
struct encoded {
    struct cm_bytes bytes;
    bool is_document;
    uint64_t now_ms;
};

static inline int decode_encoded(lua_State *L, const struct encoded *encoded) {
    int err = encoded->is_document ? cm_value_decode_document(L, encoded->bytes, encoded->now_ms)
                                   : cm_value_decode(L, encoded->bytes);
    return err ? luaL_error(L, "the shared memory holds bytes that are no value") : 1;
}

static inline int decode_protected(lua_State *L) {
    return decode_encoded(L, lua_touserdata(L, 1));
}

/* Pushes the value whose bytes are in vm->value. A table's decoding may collect garbage, and a finalizer may
 * read another value: so the buffer is out of the way meanwhile, and back also if memory runs out. */
static inline void push_encoded(lua_State *L, struct cm_vm *vm, struct encoded encoded) {
    if (cm_value_is_scalar(encoded.bytes)) {
        decode_encoded(L, &encoded);
        return;
    }
    struct cm_buf taken = vm->value;
    vm->value = (struct cm_buf){0};
    lua_pushcfunction(L, decode_protected);
    lua_pushlightuserdata(L, &encoded);
    int status = lua_pcall(L, 1, 1, 0);
    cm_buf_deinit(&vm->value);
    vm->value = taken;
    if (status != LUA_OK)
        lua_error(L);
}

/* Pushes the value, or nil for none; on failure nil, message, code. Gives how many. */
static inline int push_found(lua_State *L, struct cm_vm *vm, int err, const struct cm_value *value) {
    if (err && err != CM_E_NOTFOUND)
        return cm_requests_push_failure(L, err);
    if (err)
        lua_pushnil(L);
    else if (value->is_number)
        push_number(L, value->number);
    else
        push_encoded(L, vm, (struct encoded){.bytes = value->bytes});
    if (vm->value.cap > KEEP_BYTES)
        cm_buf_reset(&vm->value, KEEP_BYTES);
    return 1;
}

/* --- writes --- */

/* Whether the write is the master's: one of this process's is there still, and they apply in the order in
 * which they were issued. */
static inline bool must_forward(const struct cm_vm *vm) {
    return vm->forwarded > 0;
}

/* Whether what the store said means: let the master do it. */
static inline bool is_for_master(int err) {
    return err == CM_E_NOMEMORY || err == CM_STORE_ASK;
}

static inline struct cm_writer *begin(struct cm_vm *vm, uint8_t op, struct cm_bytes key) {
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, op);
    if (writer)
        cm_write_bytes(writer, key);
    return writer;
}

/* Issues the write begun; gives its id, or false and the failure. */
static inline int forward(lua_State *L, struct cm_vm *vm, const struct cm_writer *writer) {
    uint32_t id;
    int err = vm->detached ? CM_E_CLOSED : !writer ? CM_E_NOMEMORY : cm_session_commit(&vm->session, &id);
    if (err)
        return push_done(L, err);
    vm->forwarded++;
    lua_pushinteger(L, id);
    return 1;
}

/* Whether a short form (bind/short) may write here and now. */
static inline bool may_write(lua_State *L, struct cm_vm *vm) {
    return !must_forward(vm) && !vm->clears && cm_short_may(L, vm, NULL);
}
static inline bool is_short(lua_State *L, struct cm_vm *vm, struct cm_bytes *key) {
    return is_key(L, 1, key) && may_write(L, vm);
}

#endif
