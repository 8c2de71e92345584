#include "bind/caches.h"

#include "bind/calls.h"
#include "data/lru.h"

/* getLRU(key) -> value | nil */
static int native_get(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = check_key(L, 1, "getLRU");
    struct cm_value value = {0};
    int err = vm->detached ? CM_E_CLOSED : cm_lru_get(&vm->lru, key, &vm->value, &value.bytes);
    return push_found(L, vm, err, &value);
}

/* Encodes the value, a number too. */
static int encode(lua_State *L, struct cm_vm *vm, int index, struct cm_bytes *value) {
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    int err = cm_requests_encode(L, vm, index, NULL);
    *value = cm_buf_view(&vm->scratch);
    return err;
}

/* In what follows, false stands for false or true: see cm_short_push_done. */

/* setLRU(key, value [, maxAge]) -> false, "OK" | false, nil, message, code | id */
static int native_set(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint64_t max_age_ms = lua_isnoneornil(L, 3) ? CM_LRU_DEFAULT_AGE : to_u64(L, 3);
    struct cm_bytes value;
    int err = encode(L, vm, 2, &value);
    if (err || vm->detached)
        return push_done(L, err ? err : CM_E_CLOSED);
    if (!must_forward(vm)) {
        err = cm_lru_set(&vm->lru, key, value, max_age_ms);
        if (!is_for_master(err))
            return push_done(L, err);
    }
    struct cm_writer *writer = begin(vm, CM_OP_LRU_SET, key);
    if (writer) {
        cm_write_bytes(writer, value);
        cm_write_u64(writer, max_age_ms);
    }
    return forward(L, vm, writer);
}

/* removeLRU(key) -> false, "OK" | false, nil, message, code | id */
static int native_remove(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    if (must_forward(vm))
        return forward(L, vm, begin(vm, CM_OP_LRU_REMOVE, key));
    if (!vm->detached)
        cm_lru_remove(&vm->lru, key);
    return push_done(L, vm->detached ? CM_E_CLOSED : 0);
}

/* clearLRU() -> likewise */
static int native_clear(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (must_forward(vm))
        return forward(L, vm, vm->detached ? NULL : cm_session_begin(&vm->session, CM_OP_LRU_CLEAR));
    if (!vm->detached)
        cm_lru_clear(&vm->lru);
    return push_done(L, vm->detached ? CM_E_CLOSED : 0);
}

/* setLRUOptions(max, maxAge, maxBytes, updateAgeOnGet, stale) -> likewise */
static int native_set_options(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_lru_options options = {.most_entries = to_u64(L, 1),
                                     .max_age_ms = (uint32_t)to_u64(L, 2),
                                     .most_bytes = to_u64(L, 3),
                                     .update_age = lua_toboolean(L, 4),
                                     .stale = lua_toboolean(L, 5)};
    if (!must_forward(vm))
        return push_done(L, vm->detached ? CM_E_CLOSED : cm_lru_start(&vm->lru, &options));
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, CM_OP_LRU_OPTIONS);
    if (writer) {
        cm_write_u64(writer, options.most_entries);
        cm_write_u64(writer, options.most_bytes);
        cm_write_u32(writer, options.max_age_ms);
        cm_write_u8(writer, options.update_age);
        cm_write_u8(writer, options.stale);
    }
    return forward(L, vm, writer);
}

/* getLRUStats() -> { entries, bytes, hits, misses, evictions, expirations } */
static int native_stats(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (vm->detached)
        return cm_requests_push_failure(L, CM_E_CLOSED);
    struct cm_lru_stats stats;
    cm_lru_stats(&vm->segment, &stats);
    const struct {
        const char *name;
        uint64_t count;
    } fields[] = {{"entries", stats.entries},     {"bytes", stats.bytes},
                  {"hits", stats.hits},           {"misses", stats.misses},
                  {"evictions", stats.evictions}, {"expirations", stats.expirations}};
    enum { FIELDS = sizeof fields / sizeof *fields };
    lua_createtable(L, 0, FIELDS);
    for (int i = 0; i < FIELDS; i++) {
        lua_pushinteger(L, (lua_Integer)fields[i].count);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
}

/* capacityLRU() -> how many entries the cache can have at the most */
static int native_capacity(lua_State *L) {
    lua_pushinteger(L, cm_recency_capacity(&cm_vm_of(L)->segment));
    return 1;
}

/* --- short forms: see bind/short --- */

static int set_other(lua_State *L, struct cm_vm *vm, struct cm_bytes key) {
    struct cm_bytes value;
    int err = encode(L, vm, 2, &value);
    return err ? err : cm_lru_set(&vm->lru, key, value, CM_LRU_DEFAULT_AGE);
}

/* A string, which is far where nobody has looked at it for a while: it is sent for before anything else is
 * done. To encode it raises nothing. */
static int set_string(lua_State *L, struct cm_vm *vm, struct cm_bytes key) {
    enum { LINES = 3 };
    const char *string = lua_topointer(L, 2);
    for (size_t i = 0; i < LINES; i++)
        __builtin_prefetch(string + i * CM_CACHE_LINE);
    struct cm_lru_arrival arrival;
    int err = cm_lru_begin(&vm->lru, key, CM_LRU_DEFAULT_AGE, &arrival);
    if (err)
        return err;
    if (lua_rawlen(L, 2) > CM_COPIED_MOST_BYTES) { /* it takes a while, and has no place here */
        cm_lru_cancel(&vm->lru, &arrival);
        return set_other(L, vm, key);
    }
    struct cm_bytes value;
    err = encode(L, vm, 2, &value);
    if (err)
        cm_lru_cancel(&vm->lru, &arrival);
    return err ? err : cm_lru_finish(&vm->lru, &arrival, value);
}

static int short_set(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    int type = lua_type(L, 2);
    if (lua_gettop(L) != 2 || type == LUA_TNIL || !is_short(L, vm, &key) ||
        (type == LUA_TSTRING ? set_string(L, vm, key) : set_other(L, vm, key)))
        return cm_short_long(L);
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_OK));
    return cm_short_finish_with(L, vm, 2, 1);
}

static int short_remove(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    if (lua_gettop(L) != 1 || !is_short(L, vm, &key))
        return cm_short_long(L);
    cm_lru_remove(&vm->lru, key);
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_OK));
    return cm_short_finish_with(L, vm, 1, 1);
}

void cm_caches_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"getLRU", native_get},
        {"setLRU", native_set},
        {"removeLRU", native_remove},
        {"clearLRU", native_clear},
        {"setLRUOptions", native_set_options},
        {"getLRUStats", native_stats},
        {"capacityLRU", native_capacity},
        {"shortSetLRU", short_set},
        {"shortRemoveLRU", short_remove},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
