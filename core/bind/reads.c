#include "bind/reads.h"

#include "bind/calls.h"

/* Pushes what a key holds that is known, if it stands. */
static bool push_known(lua_State *L, struct cm_vm *vm, const struct cm_known_slot *slot, uint64_t *version) {
    struct cm_number number;
    if (slot->spot.is_number && cm_store_number_at(&vm->store, &slot->spot, &number, version)) {
        push_number(L, number);
        return true;
    }
    if (slot->spot.is_number || !cm_table_stands(&vm->segment, &slot->spot))
        return false;
    *version = slot->spot.version;
    cm_known_push(L, &vm->known, slot);
    return true;
}

/* Pushes the value of the key at that index, or nil for none; on failure nil, message, code. Gives how many;
 * there may be something else below them. */
static int push_read(lua_State *L, struct cm_vm *vm, int index, const char *what, uint64_t *version) {
    *version = 0;
    struct cm_known_slot *slot = vm->detached ? NULL : cm_known_find(L, &vm->known, index);
    if (slot && push_known(L, vm, slot, version))
        return 1;
    struct cm_bytes key_bytes = check_key(L, index, what);
    if (vm->detached)
        return push_found(L, vm, CM_E_CLOSED, NULL);
    struct cm_key key = cm_store_key(&vm->store, key_bytes);
    uint64_t known = slot && !slot->spot.is_number ? slot->spot.version : 0;
    struct cm_value value;
    struct cm_spot spot;
    int err = cm_store_get_unless(&vm->store, &key, known, &vm->value, &value, version, &spot);
    if (!err && known && *version == known) {
        slot->spot = spot;
        cm_known_push(L, &vm->known, slot);
        return 1;
    }
    int pushed = push_found(L, vm, err, &value);
    if (!err && (lua_type(L, -1) == LUA_TSTRING || lua_type(L, -1) == LUA_TNUMBER))
        cm_known_note(L, &vm->known, index, &spot);
    return pushed;
}

/* get(key) -> value | nil */
static int native_get(lua_State *L) {
    uint64_t version;
    return push_read(L, cm_vm_of(L), 1, "get", &version);
}

/* getVersioned(key) -> value, version | nil, 0 */
static int native_get_versioned(lua_State *L) {
    uint64_t version;
    int pushed = push_read(L, cm_vm_of(L), 1, "getVersioned", &version);
    if (pushed > 1)
        return pushed;
    lua_pushinteger(L, (lua_Integer)version);
    return 2;
}

/* getMany(keys) -> { key = value } */
static int native_get_many(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (lua_type(L, 1) != LUA_TTABLE) {
        const char *given = lua_isnoneornil(L, 1) ? "nil" : lua_pushfstring(L, "a %s", luaL_typename(L, 1));
        lua_pushfstring(L, "getMany: its first argument must be a table, not %s", given);
        cm_requests_blame(L);
    }
    lua_Unsigned count = lua_rawlen(L, 1);
    lua_createtable(L, 0, count < 1024 ? (int)count : 1024);
    int result = lua_gettop(L);
    for (lua_Unsigned i = 1; i <= count; i++) {
        lua_rawgeti(L, 1, (lua_Integer)i);
        uint64_t version;
        int pushed = push_read(L, vm, result + 1, "getMany", &version);
        if (pushed > 1)
            return pushed;
        if (lua_gettop(L) > result + 2)
            lua_remove(L, result + 2);
        lua_rawset(L, result);
    }
    return 1;
}

static int find(struct cm_vm *vm, struct cm_bytes key, uint64_t *expires_ms) {
    return vm->detached ? CM_E_CLOSED : cm_store_get(&vm->store, key, NULL, NULL, NULL, expires_ms);
}

/* has(key) -> boolean */
static int native_has(lua_State *L) {
    int err = find(cm_vm_of(L), check_key(L, 1, "has"), NULL);
    if (err && err != CM_E_NOTFOUND)
        return cm_requests_push_failure(L, err);
    lua_pushboolean(L, err == 0);
    return 1;
}

/* ttl(key) -> ms | nil */
static int native_ttl(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    uint64_t expires_ms = 0;
    int err = find(vm, check_key(L, 1, "ttl"), &expires_ms);
    if (err && err != CM_E_NOTFOUND)
        return cm_requests_push_failure(L, err);
    uint64_t now_ms = err || !expires_ms ? 0 : vm->store.clock_ms();
    if (err || expires_ms <= now_ms)
        lua_pushnil(L);
    else
        lua_pushinteger(L, (lua_Integer)(expires_ms - now_ms));
    return 1;
}

/* stats() -> { entries, used, free } */
static int native_stats(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    if (vm->detached)
        return cm_requests_push_failure(L, CM_E_CLOSED);
    struct cm_store_stats stats;
    cm_store_stats(&vm->store, &stats);
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, (lua_Integer)stats.entries);
    lua_setfield(L, -2, "entries");
    lua_pushinteger(L, (lua_Integer)stats.used_bytes);
    lua_setfield(L, -2, "used");
    uint64_t left = stats.limit_bytes > stats.used_bytes ? stats.limit_bytes - stats.used_bytes : 0;
    lua_pushinteger(L, (lua_Integer)left);
    lua_setfield(L, -2, "free");
    return 1;
}

void cm_reads_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"get", native_get},
        {"getVersioned", native_get_versioned},
        {"getMany", native_get_many},
        {"has", native_has},
        {"ttl", native_ttl},
        {"stats", native_stats},
        {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
