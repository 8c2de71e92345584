#include "bind/keys.h"

#include "bind/calls.h"

/* While a clear goes on, what is written after its beginning is remembered: it shall stay. Not what is only
 * tried, so it comes after the write. It collects no garbage: no finalizer runs between the two. */
static void note_write(lua_State *L, struct cm_vm *vm, int key_index) {
    if (!vm->clears)
        return;
    vm->writes++;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->spared);
    lua_pushvalue(L, key_index);
    lua_pushinteger(L, vm->writes);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* As above, for a write that the master may still refuse: under its id stands the key, and under -id the
 * write's number, unless the key was to stay before. */
static void note_issued(lua_State *L, struct cm_vm *vm, int key_index, lua_Integer id) {
    if (!vm->clears)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->spared);
    lua_pushvalue(L, key_index);
    bool first = lua_rawget(L, -2) == LUA_TNIL;
    lua_pop(L, 1);
    note_write(L, vm, key_index);
    if (first) {
        lua_pushvalue(L, key_index);
        lua_rawseti(L, -2, id);
        lua_pushinteger(L, vm->writes);
        lua_rawseti(L, -2, -id);
    }
    lua_pop(L, 1);
}

void cm_keys_settle(struct cm_vm *vm, uint32_t id, bool refused) {
    if (!vm->clears)
        return;
    lua_State *L = vm->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->spared);
    int spared = top + 1, key = top + 2;
    if (lua_rawgeti(L, spared, id) == LUA_TSTRING) {
        lua_rawgeti(L, spared, -(lua_Integer)id);
        lua_pushvalue(L, key);
        lua_rawget(L, spared);
        /* Another number is a later write's. */
        if (refused && lua_rawequal(L, -1, -2)) {
            lua_pushvalue(L, key);
            lua_pushnil(L);
            lua_rawset(L, spared);
        }
        lua_pushnil(L);
        lua_rawseti(L, spared, id);
        lua_pushnil(L);
        lua_rawseti(L, spared, -(lua_Integer)id);
    }
    lua_settop(L, top);
}

/* As forward, of a write under the key at that index. */
static int forward_under(lua_State *L, struct cm_vm *vm, const struct cm_writer *writer, int key_index) {
    int pushed = forward(L, vm, writer);
    if (lua_isinteger(L, -pushed))
        note_issued(L, vm, key_index, lua_tointeger(L, -pushed));
    return pushed;
}

/* Encodes what is no number, to the scratch buffer. 0 or a negative code. A value that cannot be shared
 * raises, at the line that called the public function that called this one. */
static int to_value(lua_State *L, struct cm_vm *vm, int index, struct cm_value *value) {
    value->is_number = lua_type(L, index) == LUA_TNUMBER;
    if (value->is_number) {
        value->number = to_number(L, index);
        value->bytes = (struct cm_bytes){0};
        return 0;
    }
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    int err = cm_requests_encode(L, vm, index, NULL);
    value->bytes = cm_buf_view(&vm->scratch);
    return err;
}

static void write_value(struct cm_writer *writer, const struct cm_value *value) {
    uint8_t space[CM_NUMBER_BYTES];
    cm_write_bytes(writer, value->is_number ? cm_number_encode(value->number, space) : value->bytes);
}

static uint64_t expiry_in(const struct cm_vm *vm, uint64_t ttl_ms) {
    return ttl_ms ? vm->store.clock_ms() + ttl_ms : 0;
}

/* The fence at the index, if there is one: 0; CM_E_NOTOWNER at once; CM_LOCK_ASK where the lock is the
 * master's to look at. */
static int to_fence(lua_State *L, const struct cm_vm *vm, int index, struct cm_lock_id *fence) {
    *fence = (struct cm_lock_id){0};
    if (lua_isnoneornil(L, index))
        return 0;
    *fence = cm_lock_id_parse(to_bytes(L, index));
    return cm_lock_check_fence(&vm->participant, *fence);
}

static void write_change(struct cm_writer *writer, uint8_t flags, uint64_t version, uint64_t ttl_ms,
                         struct cm_lock_id fence) {
    cm_write_u8(writer, flags);
    cm_write_u64(writer, version);
    cm_write_u64(writer, ttl_ms);
    cm_write_u64(writer, fence.token);
    cm_write_u32(writer, fence.slot);
}

/* In what follows, false stands for false or true: see cm_short_push_done. */

/* set(key, value [, flags, version, ttl, fence]) -> false, "OK", version | false, nil, message, code | id */
static int native_set(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint8_t flags = (uint8_t)luaL_optinteger(L, 3, 0);
    uint64_t ttl_ms = to_u64(L, 5);
    uint64_t version = to_u64(L, 4);
    struct cm_value value;
    int err = to_value(L, vm, 2, &value);
    if (err || vm->detached)
        return push_done(L, err ? err : CM_E_CLOSED);
    struct cm_lock_id fence;
    int foreign = to_fence(L, vm, 6, &fence);
    if (foreign < 0)
        return push_done(L, foreign);
    if (!must_forward(vm) && !foreign) {
        struct cm_change change = {.fence = fence,
                                   .if_absent = flags & CM_CHANGE_IF_ABSENT,
                                   .if_present = flags & CM_CHANGE_IF_PRESENT,
                                   .if_version = flags & CM_CHANGE_IF_VERSION,
                                   .keep_expiry = flags & CM_CHANGE_KEEP_TTL,
                                   .version = version,
                                   .expires_ms = expiry_in(vm, ttl_ms)};
        uint64_t new_version;
        err = cm_store_set(&vm->store, key, &value, &change, &new_version);
        if (!is_for_master(err)) {
            if (err)
                return push_done(L, err);
            note_write(L, vm, 1);
            int pushed = push_done(L, 0);
            lua_pushinteger(L, (lua_Integer)new_version);
            return pushed + 1;
        }
    }
    struct cm_writer *writer = begin(vm, CM_OP_SET, key);
    if (writer) {
        write_value(writer, &value);
        write_change(writer, flags, version, ttl_ms, fence);
    }
    return forward_under(L, vm, writer, 1);
}

/* remove(key [, flags, version, fence]) -> false, "OK" | false, nil, message, code | id */
static int native_remove(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint8_t flags = (uint8_t)luaL_optinteger(L, 2, 0);
    uint64_t version = to_u64(L, 3);
    struct cm_lock_id fence;
    int foreign = vm->detached ? CM_E_CLOSED : to_fence(L, vm, 4, &fence);
    if (foreign < 0)
        return push_done(L, foreign);
    if (!must_forward(vm) && !foreign) {
        struct cm_change change = {
            .fence = fence, .if_version = flags & CM_CHANGE_IF_VERSION, .version = version};
        uint64_t removed;
        int err = cm_store_remove(&vm->store, key, &change, &removed);
        if (!err)
            note_write(L, vm, 1);
        if (!is_for_master(err))
            return push_done(L, err);
    }
    struct cm_writer *writer = begin(vm, CM_OP_REMOVE, key);
    if (writer)
        write_change(writer, flags, version, 0, fence);
    return forward_under(L, vm, writer, 1);
}

/* increment(key, delta [, initial, ttl]) -> false, sum | false, nil, message, code | id: the two are numbers
 */
static int native_increment(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    struct cm_number delta = to_number(L, 2);
    struct cm_number initial = to_number(L, 3);
    uint64_t ttl_ms = to_u64(L, 4);
    if (vm->detached)
        return push_done(L, CM_E_CLOSED);
    if (!must_forward(vm)) {
        struct cm_number sum;
        uint64_t version;
        int err = cm_store_increment(&vm->store, key, delta, initial, expiry_in(vm, ttl_ms), &sum, &version);
        if (!err) {
            note_write(L, vm, 1);
            cm_short_push_done(L, vm);
            push_number(L, sum);
            return 2;
        }
        if (!is_for_master(err))
            return push_done(L, err);
    }
    struct cm_writer *writer = begin(vm, CM_OP_INCREMENT, key);
    if (writer) {
        write_value(writer, &(struct cm_value){.is_number = true, .number = delta});
        write_value(writer, &(struct cm_value){.is_number = true, .number = initial});
        cm_write_u64(writer, ttl_ms);
    }
    return forward_under(L, vm, writer, 1);
}

/* expire(key, ttl) -> false, "OK" | false, nil, message, code | id */
static int native_expire(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key = to_bytes(L, 1);
    uint64_t ttl_ms = to_u64(L, 2);
    if (vm->detached)
        return push_done(L, CM_E_CLOSED);
    if (!must_forward(vm))
        return push_done(L, cm_store_expire(&vm->store, key, expiry_in(vm, ttl_ms)));
    struct cm_writer *writer = begin(vm, CM_OP_EXPIRE, key);
    if (writer)
        cm_write_u64(writer, ttl_ms);
    return forward(L, vm, writer);
}

/* setMany(pairs) -> false, nil, message, code | id: a table with strings as keys. The master does it. */
static int native_set_many(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    struct cm_buf *scratch = &vm->scratch;
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
            payload.error = cm_requests_encode(L, vm, lua_gettop(L), (const char *)key.data);
        cm_rewrite_u32(&payload, at, (uint32_t)(scratch->len - at - 4));
    }
    if (payload.error)
        return push_done(L, payload.error);
    cm_rewrite_u32(&payload, 0, count);
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, CM_OP_SET_MANY);
    if (writer)
        writer->error = cm_buf_append(writer->buf, scratch->data, scratch->len);
    int pushed = forward(L, vm, writer);
    if (vm->clears && lua_isinteger(L, -pushed)) {
        for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1))
            note_write(L, vm, lua_gettop(L) - 1);
    }
    return pushed;
}

/* --- short forms: see bind/short --- */

/* set(key, value) */
static int short_set(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    struct cm_value value;
    uint64_t version;
    if (lua_gettop(L) != 2 || lua_isnil(L, 2) || !is_short(L, vm, &key) || to_value(L, vm, 2, &value) ||
        cm_store_set(&vm->store, key, &value, &(struct cm_change){0}, &version))
        return cm_short_long(L);
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_OK));
    lua_pushinteger(L, (lua_Integer)version);
    return cm_short_finish_with(L, vm, 2, 2);
}

/* remove(key) */
static int short_remove(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    uint64_t version;
    if (lua_gettop(L) != 1 || !is_short(L, vm, &key) ||
        cm_store_remove(&vm->store, key, &(struct cm_change){0}, &version))
        return cm_short_long(L);
    lua_pushvalue(L, lua_upvalueindex(CM_SHORT_OK));
    return cm_short_finish_with(L, vm, 1, 1);
}

/* increment(key [, delta]) */
static int short_increment(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_bytes key;
    int arguments = lua_gettop(L);
    struct cm_number delta = {.integer = 1};
    struct cm_number sum;
    if (arguments == 2 && lua_type(L, 2) == LUA_TNUMBER)
        delta = to_number(L, 2);
    else if (arguments != 1)
        return cm_short_long(L);
    struct cm_known_slot *slot = cm_known_find(L, &vm->known, 1);
    if (slot && slot->spot.is_number && may_write(L, vm) &&
        cm_store_add_at(&vm->store, &slot->spot, delta, &sum)) {
        push_number(L, sum);
        return cm_short_finish_with(L, vm, arguments, 1);
    }
    struct cm_spot spot;
    if (!is_short(L, vm, &key) || cm_store_add(&vm->store, key, delta, &spot, &sum))
        return cm_short_long(L);
    push_number(L, sum);
    cm_known_note(L, &vm->known, 1, &spot);
    return cm_short_finish_with(L, vm, arguments, 1);
}

void cm_keys_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"set", native_set},           {"remove", native_remove},           {"increment", native_increment},
        {"expire", native_expire},     {"setMany", native_set_many},        {"shortSet", short_set},
        {"shortRemove", short_remove}, {"shortIncrement", short_increment}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
