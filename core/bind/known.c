#include "bind/known.h"

#include <lauxlib.h>
#include <stdlib.h>

enum {
    SET = 4, /* slots that a key can have: two cache lines */
    FIRST_SLOTS = 256,
    SLOT_BYTES = 64,  /* with its part of the table, about */
    LONGEST_PART = 4, /* of the bound: longer strings are not kept */
    STAYS = 16,       /* what is kept is asked to go that often before it does */
    UNKEPT = 1,
};

void cm_known_init(struct cm_known *known, size_t most_bytes) {
    *known = (struct cm_known){.strings = LUA_NOREF, .most_bytes = most_bytes};
}

void cm_known_deinit(struct cm_known *known) {
    free(known->slots);
    *known = (struct cm_known){.strings = LUA_NOREF};
}

/* The first slot of the key's set. */
static struct cm_known_slot *set_of(const struct cm_known *known, uintptr_t key) {
    uint64_t mixed = (uint64_t)key * UINT64_C(0x9e3779b97f4a7c15); /* 2^64 by the golden ratio */
    return &known->slots[(uint32_t)(mixed >> 32) & (known->count - 1) & ~(uint32_t)(SET - 1)];
}

/* 0: it is no string. */
static uintptr_t address_of(lua_State *L, int index) {
    return lua_type(L, index) == LUA_TSTRING ? (uintptr_t)lua_topointer(L, index) : 0;
}

/* Nothing else has a string's address, but a light userdata that a C library had made of it. */
struct cm_known_slot *cm_known_find(lua_State *L, const struct cm_known *known, int index) {
    uintptr_t key = (uintptr_t)lua_topointer(L, index);
    if (!known->slots || !key || key & UNKEPT)
        return NULL;
    struct cm_known_slot *first = set_of(known, key);
    unsigned which = 0;
    /* Without a branch for each: which of them it is cannot be foretold. */
    for (unsigned i = 1; i < SET; i++)
        which |= first[i].key == key ? i : 0;
    return first[which].key == key ? &first[which] : NULL;
}

static bool is_kept(const struct cm_known_slot *slot) {
    return slot->key && !(slot->key & UNKEPT);
}

static lua_Integer value_at(const struct cm_known *known, const struct cm_known_slot *slot) {
    return slot - known->slots + 1;
}

static lua_Integer key_at(const struct cm_known *known, const struct cm_known_slot *slot) {
    return value_at(known, slot) + known->count;
}

void cm_known_push(lua_State *L, const struct cm_known *known, const struct cm_known_slot *slot) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, known->strings);
    lua_rawgeti(L, -1, value_at(known, slot));
}

/* make(integer) -> reference: of a table for so many. */
static int make(lua_State *L) {
    lua_createtable(L, (int)lua_tointeger(L, 1), 0);
    lua_pushinteger(L, luaL_ref(L, LUA_REGISTRYINDEX));
    return 1;
}

/* Begins anew with so many slots, or without any where there is no memory. The table comes first: making it
 * may run finalizers, which may read and come here too. */
static void begin(lua_State *L, struct cm_known *known, uint32_t count) {
    lua_pushcfunction(L, make);
    lua_pushinteger(L, (lua_Integer)count * 2);
    bool made = lua_pcall(L, 1, 1, 0) == LUA_OK;
    int strings = made ? (int)lua_tointeger(L, -1) : LUA_NOREF;
    lua_pop(L, 1);
    free(known->slots);
    luaL_unref(L, LUA_REGISTRYINDEX, known->strings);
    cm_known_init(known, known->most_bytes);
    known->strings = strings;
    known->slots = made ? calloc(count, sizeof *known->slots) : NULL;
    known->count = known->slots ? count : 0;
}

/* Has the value on top of the stack, or nil, in the place of what the table has there. */
static void exchange(lua_State *L, struct cm_known *known, lua_Integer at) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, known->strings);
    lua_rawgeti(L, -1, at);
    known->bytes -= lua_rawlen(L, -1);
    known->bytes += lua_rawlen(L, -3);
    lua_pushvalue(L, -3);
    lua_rawseti(L, -3, at);
    lua_pop(L, 3);
}

static void forget(lua_State *L, struct cm_known *known, struct cm_known_slot *slot) {
    if (is_kept(slot)) {
        lua_pushnil(L);
        exchange(L, known, value_at(known, slot));
        lua_pushnil(L);
        exchange(L, known, key_at(known, slot));
    }
    *slot = (struct cm_known_slot){0};
}

/* The slot that the key has, or is to have; NULL where it has to do without: one that is not kept goes
 * first, and what is kept goes now and then only, or reading one key after the other would drive out all. */
static struct cm_known_slot *choose(struct cm_known *known, uintptr_t key) {
    struct cm_known_slot *first = set_of(known, key), *unkept = NULL;
    for (struct cm_known_slot *slot = first; slot < first + SET; slot++) {
        if ((slot->key & ~(uintptr_t)UNKEPT) == key)
            return slot;
        if (!is_kept(slot) && (!unkept || !slot->key))
            unkept = slot;
    }
    known->crowded += !unkept || unkept->key;
    if (!unkept && known->crowded % STAYS == 0)
        return first + known->crowded / STAYS % SET;
    return unkept;
}

static bool grows(const struct cm_known *known) {
    return known->crowded > known->count && known->count < CM_KNOWN_MOST_SLOTS &&
           (size_t)known->count * 2 * SLOT_BYTES <= known->most_bytes;
}

/* Keeps what is on top of the stack, and the key at that index if that is not kept yet. */
static void keep(lua_State *L, struct cm_known *known, struct cm_known_slot *slot, int index,
                 const struct cm_spot *spot) {
    size_t len = lua_rawlen(L, index) + (spot->is_number ? 0 : lua_rawlen(L, -1));
    if (len > known->most_bytes / LONGEST_PART) {
        forget(L, known, slot);
        return;
    }
    if (len > known->most_bytes - known->bytes) {
        begin(L, known, known->count); /* what is used often is back soon */
        return;
    }
    if (spot->is_number)
        lua_pushnil(L);
    else
        lua_pushvalue(L, -1);
    exchange(L, known, value_at(known, slot));
    if (!is_kept(slot)) {
        lua_pushvalue(L, index);
        exchange(L, known, key_at(known, slot));
    }
    *slot = (struct cm_known_slot){address_of(L, index), *spot};
}

void cm_known_note(lua_State *L, struct cm_known *known, int index, const struct cm_spot *spot) {
    if (!lua_checkstack(L, 5))
        return;
    if (!known->slots)
        begin(L, known, FIRST_SLOTS);
    else if (grows(known))
        begin(L, known, known->count * 2);
    uintptr_t key = address_of(L, index);
    struct cm_known_slot *slot = known->slots && key ? choose(known, key) : NULL;
    if (!slot)
        return;
    bool is_again = slot->key == key;
    if (is_again && slot->spot.is_number && spot->is_number) {
        slot->spot = *spot;
        return;
    }
    if (slot->key == (key | UNKEPT))
        is_again = spot->is_number || slot->spot.version == spot->version;
    if (is_again) {
        keep(L, known, slot, index, spot);
        return;
    }
    forget(L, known, slot);
    *slot = (struct cm_known_slot){key | UNKEPT, *spot};
}
