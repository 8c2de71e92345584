#include "bind/walks.h"

#include <lauxlib.h>
#include <limits.h>
#include <string.h>

#include "base/error.h"
#include "bind/requests.h"
#include "bind/vm.h"

enum {
    KEEP_BYTES = 1 << 20, /* of the buffer, between two calls */
    SLICE_STEPS = 2000,   /* between two turns of the loop */
    /* After which a slice ends: more at once, and those who listen would fall behind. */
    ASKED_MOST = 256,
    ASKED_MOST_BYTES = 256 << 10,
};

static struct cm_bytes to_prefix(lua_State *L) {
    struct cm_bytes prefix;
    prefix.data = (const uint8_t *)luaL_checklstring(L, 1, &prefix.len);
    return prefix;
}

struct listing {
    struct cm_buf *keys; /* one behind the other, each with its length before it */
    uint64_t count;
    uint64_t limit; /* 0: count only */
    int err;
};

static int list_key(void *data, struct cm_bytes key) {
    struct listing *listing = data;
    listing->count++;
    if (!listing->limit)
        return 0;
    uint32_t len = (uint32_t)key.len;
    listing->err = cm_buf_append(listing->keys, &len, sizeof len);
    if (!listing->err)
        listing->err = cm_buf_append(listing->keys, key.data, key.len);
    return listing->err || listing->count >= listing->limit;
}

/* Pushes an array of the keys listed. The buffer is out of the way meanwhile: making the strings may collect
 * garbage, and a finalizer may use it. */
static void push_keys(lua_State *L, const struct listing *listing) {
    lua_Integer count = 0;
    struct cm_buf keys = *listing->keys;
    *listing->keys = (struct cm_buf){0};
    lua_createtable(L, (int)(listing->count < INT_MAX ? listing->count : INT_MAX), 0);
    for (size_t at = 0; at < keys.len;) {
        uint32_t len;
        memcpy(&len, keys.data + at, sizeof len);
        lua_pushlstring(L, (const char *)keys.data + at + sizeof len, len);
        lua_rawseti(L, -2, ++count);
        at += sizeof len + len;
    }
    cm_buf_deinit(listing->keys);
    *listing->keys = keys;
}

/* keys(prefix, cursor, limit) -> { key, ... }, cursor */
static int native_keys(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes prefix = to_prefix(L);
    uint64_t cursor = (uint64_t)luaL_checkinteger(L, 2);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    struct listing listing = {.keys = &vm->scratch, .limit = (uint64_t)luaL_checkinteger(L, 3)};
    int err = vm->detached ? CM_E_CLOSED
                           : cm_store_keys(&vm->store, prefix, &cursor, SLICE_STEPS, list_key, &listing);
    if (err || listing.err)
        return cm_requests_push_failure(L, err ? err : listing.err);
    push_keys(L, &listing);
    lua_pushinteger(L, (lua_Integer)cursor);
    return 2;
}

/* documents(storage, cursor) -> { name, ... }, cursor */
static int native_documents(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    uint32_t storage = (uint32_t)luaL_checkinteger(L, 1);
    uint64_t cursor = (uint64_t)luaL_checkinteger(L, 2);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    struct listing listing = {.keys = &vm->scratch, .limit = UINT64_MAX};
    int err = vm->detached
                  ? CM_E_CLOSED
                  : cm_documents_walk(&vm->documents, storage, &cursor, SLICE_STEPS, list_key, &listing);
    if (err || listing.err)
        return cm_requests_push_failure(L, err ? err : listing.err);
    push_keys(L, &listing);
    lua_pushinteger(L, (lua_Integer)cursor);
    return 2;
}

/* count(prefix, cursor) -> count, cursor */
static int native_count(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes prefix = to_prefix(L);
    uint64_t cursor = (uint64_t)luaL_checkinteger(L, 2);
    struct listing listing = {0};
    int err = vm->detached ? CM_E_CLOSED
                           : cm_store_keys(&vm->store, prefix, &cursor, SLICE_STEPS, list_key, &listing);
    if (err)
        return cm_requests_push_failure(L, err);
    lua_pushinteger(L, (lua_Integer)listing.count);
    lua_pushinteger(L, (lua_Integer)cursor);
    return 2;
}

/* beginClear() -> mark: what is written from here on is spared. endClear() is due. */
static int native_begin_clear(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (vm->clears == 0) {
        lua_newtable(L);
        vm->spared = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    vm->clears++;
    lua_pushinteger(L, vm->writes);
    return 1;
}

static int native_end_clear(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (vm->clears && --vm->clears == 0)
        luaL_unref(L, LUA_REGISTRYINDEX, vm->spared);
    return 0;
}

struct clearing {
    lua_State *L;
    int spared; /* where the table is on the stack */
    lua_Integer mark;
    struct listing asked; /* keys that are the master's to remove */
};

static int ask_key(void *data, struct cm_bytes key) {
    struct clearing *clearing = data;
    return list_key(&clearing->asked, key) || clearing->asked.keys->len >= ASKED_MOST_BYTES;
}

static bool spare_key(void *data, struct cm_bytes key) {
    struct clearing *clearing = data;
    lua_State *L = clearing->L;
    lua_pushlstring(L, (const char *)key.data, key.len);
    bool spared = lua_rawget(L, clearing->spared) == LUA_TNUMBER && lua_tointeger(L, -1) > clearing->mark;
    lua_pop(L, 1);
    return spared;
}

/* clear(prefix, cursor, mark) -> count, cursor, { key, ... }: those are the master's to remove */
static int native_clear(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes prefix = to_prefix(L);
    uint64_t cursor = (uint64_t)luaL_checkinteger(L, 2);
    /* Not the scratch buffer: looking up what is spared may run finalizers, which may use that. */
    struct cm_buf asked = {0};
    struct clearing clearing = {
        .L = L, .mark = luaL_checkinteger(L, 3), .asked = {.keys = &asked, .limit = ASKED_MOST}};
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->spared);
    clearing.spared = lua_gettop(L);
    /* Nothing was written since: nothing to look up. */
    bool any = vm->writes > clearing.mark;
    struct cm_store_clearing how = {.spare = any ? spare_key : NULL, .ask = ask_key, .data = &clearing};
    uint64_t removed = 0;
    int err =
        vm->detached ? CM_E_CLOSED : cm_store_clear(&vm->store, prefix, &cursor, SLICE_STEPS, &how, &removed);
    if (!err)
        err = clearing.asked.err;
    lua_pushinteger(L, (lua_Integer)removed);
    lua_pushinteger(L, (lua_Integer)cursor);
    push_keys(L, &clearing.asked);
    cm_buf_deinit(&asked);
    return err ? cm_requests_push_failure(L, err) : 3;
}

void cm_walks_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"keys", native_keys},
        {"count", native_count},
        {"beginClear", native_begin_clear},
        {"endClear", native_end_clear},
        {"clear", native_clear},
        {"documents", native_documents},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
