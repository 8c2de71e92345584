#include "bind/known.h"

#include <lauxlib.h>
#include <stdlib.h>

enum {
    SET = 8, /* slots that a hash can have: two cache lines */
    FIRST_SLOTS = 256,
    LONGEST_PART = 4, /* of the bound: a longer string is not kept */
    STAYS = 16,       /* what is kept is asked to go that often before it does */
    KEPT = 1,
};
#define NONE UINT32_MAX

void cm_known_init(struct cm_known *known, size_t most_bytes) {
    *known = (struct cm_known){.strings = LUA_NOREF, .most_bytes = most_bytes};
}

void cm_known_deinit(struct cm_known *known) {
    free(known->slots);
    *known = (struct cm_known){.strings = LUA_NOREF};
}

/* The first slot of the hash's set. Groups and chains go by the lowest and the highest bits: these are
 * others. */
static uint32_t set_of(const struct cm_known *known, uint64_t hash) {
    return (uint32_t)(hash >> 20) & (known->count - 1) & ~(uint32_t)(SET - 1);
}

uint64_t cm_known_find(const struct cm_known *known, uint64_t hash, uint32_t *slot) {
    if (!known->slots)
        return 0;
    uint32_t first = set_of(known, hash), which = 0;
    /* Without a branch for each: which of them it is cannot be foretold. */
    for (uint32_t i = 1; i < SET; i++)
        which |= known->slots[first + i].hash == hash ? i : 0;
    *slot = first + which;
    const struct cm_known_slot *there = &known->slots[*slot];
    return there->hash == hash && there->version & KEPT ? there->version - KEPT : 0;
}

void cm_known_push(lua_State *L, const struct cm_known *known, uint32_t slot) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, known->strings);
    lua_rawgeti(L, -1, (lua_Integer)slot + 1);
}

/* Begins anew with so many slots. Without memory it stays without any. The table comes first: making it may
 * run finalizers, which may read and come here too. */
static void begin(lua_State *L, struct cm_known *known, uint32_t count) {
    lua_createtable(L, (int)count, 0);
    free(known->slots);
    luaL_unref(L, LUA_REGISTRYINDEX, known->strings);
    cm_known_init(known, known->most_bytes);
    known->strings = luaL_ref(L, LUA_REGISTRYINDEX);
    known->slots = calloc(count, sizeof *known->slots);
    known->count = known->slots ? count : 0;
}

static void forget(lua_State *L, struct cm_known *known, uint32_t slot) {
    if (known->slots[slot].version & KEPT) {
        cm_known_push(L, known, slot);
        known->bytes -= lua_rawlen(L, -1);
        lua_pushnil(L);
        lua_rawseti(L, -3, (lua_Integer)slot + 1);
        lua_pop(L, 2);
    }
    known->slots[slot] = (struct cm_known_slot){0};
}

/* The slot that the hash has, or is to have; NONE where it has to do without: one that is not kept goes
 * first, and what is kept goes now and then only, or reading one key after the other would drive out all. */
static uint32_t choose(struct cm_known *known, uint64_t hash) {
    uint32_t first = set_of(known, hash), unkept = NONE;
    for (uint32_t i = first; i < first + SET; i++) {
        if (known->slots[i].hash == hash && known->slots[i].version)
            return i;
        if (!(known->slots[i].version & KEPT) && (unkept == NONE || !known->slots[i].version))
            unkept = i;
    }
    known->crowded += unkept == NONE || known->slots[unkept].version;
    if (unkept == NONE && known->crowded % STAYS == 0)
        return first + known->crowded / STAYS % SET;
    return unkept;
}

static void keep(lua_State *L, struct cm_known *known, uint32_t slot) {
    size_t len = lua_rawlen(L, -1);
    if (len > known->most_bytes / LONGEST_PART)
        return;
    if (len > known->most_bytes - known->bytes) {
        begin(L, known, known->count); /* what is read often is back soon */
        return;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, known->strings);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (lua_Integer)slot + 1);
    lua_pop(L, 1);
    known->bytes += len;
    known->slots[slot].version |= KEPT;
}

void cm_known_note(lua_State *L, struct cm_known *known, uint64_t hash, uint64_t version) {
    luaL_checkstack(L, 3, "a value that is kept");
    if (!known->slots)
        begin(L, known, FIRST_SLOTS);
    else if (known->crowded > known->count && known->count < CM_KNOWN_MOST_SLOTS)
        begin(L, known, known->count * 2);
    if (!known->slots)
        return;
    uint32_t slot = choose(known, hash);
    if (slot == NONE)
        return;
    struct cm_known_slot *there = &known->slots[slot];
    if (there->hash == hash && there->version == version) {
        keep(L, known, slot);
        return;
    }
    forget(L, known, slot);
    *there = (struct cm_known_slot){hash, version};
}
