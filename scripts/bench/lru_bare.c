/* The bare limit of scripts/bench/lru: what the loop over the look-ups takes with Lua 5.4 and any cache at
 * all. A hash table and a list in the order of use, in the private memory of one process: an entry that goes
 * makes room for the next at its own place, nothing is shared, locked, aged, or whole after a death. lru.lua
 * runs over it as it is. Usage: lru_bare FOLDER SECONDS, the folder being the one of this file. Prints the
 * line that lru_harness.lua prints. */
#include <lua5.4/lauxlib.h>
#include <lua5.4/lualib.h>
#include <stdio.h>
#include <string.h>

#include "crew.h"

enum { CAPACITY = 10000, BUCKETS = 1 << 14, KEY_BYTES = 16, VALUE_BYTES = 100 };

struct entry {
    char key[KEY_BYTES];
    uint32_t next; /* in its bucket; 0: none, as in what follows */
    uint32_t before;
    uint32_t after;
    char value[VALUE_BYTES];
};

/* The list begins and ends in entry 0, with the newest and the oldest. */
static struct entry entries[CAPACITY + 1];
static uint32_t buckets[BUCKETS];
static uint32_t count;

static uint32_t *bucket_of(const char *key) {
    uint64_t words[2];
    memcpy(words, key, KEY_BYTES);
    return &buckets[(words[0] * UINT64_C(0x9e3779b97f4a7c15) ^ words[1] * UINT64_C(0xff51afd7ed558ccd)) >>
                    50];
}

static const char *check_string(lua_State *L, int index, size_t want) {
    size_t len;
    const char *string = luaL_checklstring(L, index, &len);
    luaL_argcheck(L, len == want, index, "another length");
    return string;
}

static uint32_t find(const char *key) {
    uint32_t at = *bucket_of(key);
    while (at && memcmp(entries[at].key, key, KEY_BYTES) != 0)
        at = entries[at].next;
    return at;
}

static void detach(uint32_t at) {
    entries[entries[at].before].after = entries[at].after;
    entries[entries[at].after].before = entries[at].before;
}

static void put_first(uint32_t at) {
    entries[at].before = 0;
    entries[at].after = entries[0].after;
    entries[entries[0].after].before = at;
    entries[0].after = at;
}

static int get(lua_State *L) {
    uint32_t at = find(check_string(L, 1, KEY_BYTES));
    if (!at)
        return 0;
    detach(at);
    put_first(at);
    lua_pushlstring(L, entries[at].value, VALUE_BYTES);
    return 1;
}

static uint32_t take_oldest(void) {
    uint32_t at = entries[0].before;
    uint32_t *link = bucket_of(entries[at].key);
    while (*link != at)
        link = &entries[*link].next;
    *link = entries[at].next;
    detach(at);
    return at;
}

static int set(lua_State *L) {
    const char *key = check_string(L, 1, KEY_BYTES), *value = check_string(L, 2, VALUE_BYTES);
    uint32_t at = find(key);
    if (at) {
        detach(at);
    } else {
        at = count < CAPACITY ? ++count : take_oldest();
        uint32_t *bucket = bucket_of(key);
        memcpy(entries[at].key, key, KEY_BYTES);
        entries[at].next = *bucket;
        *bucket = at;
    }
    memcpy(entries[at].value, value, VALUE_BYTES);
    put_first(at);
    lua_pushboolean(L, 1);
    return 1;
}

static int say_count(lua_State *L) {
    lua_pushinteger(L, count);
    return 1;
}

static int say_now(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)now_ns());
    return 1;
}

/* The modules of lru.lua, and the one worker that it is in. */
static const char stage[] = "local get, set, count, now, folder, seconds = ...\n"
                            "local sums = {}\n"
                            "local modules = {\n"
                            "  clustermem = {\n"
                            "    getLRU = get, setLRU = set,\n"
                            "    getLRUStats = function() return { entries = count() } end,\n"
                            "    increment = function(key, delta)\n"
                            "      sums[key] = (sums[key] or 0) + delta\n"
                            "      return sums[key]\n"
                            "    end,\n"
                            "  },\n"
                            "  ['clustermem.cluster'] = { worker = { slot = 1 } },\n"
                            "  ['clustermem.task'] = { sleep = function() end },\n"
                            "  luv = { hrtime = now },\n"
                            "}\n"
                            "for name, module in pairs(modules) do package.loaded[name] = module end\n"
                            "assert(loadfile(folder .. '/lru.lua'))(folder, 'lookup', '1', seconds)\n";

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: lru_bare FOLDER SECONDS\n");
        return 2;
    }
    static const lua_CFunction functions[] = {get, set, say_count, say_now};
    lua_State *L = luaL_newstate();
    if (!L)
        fail("Lua", "no memory");
    luaL_openlibs(L);
    int err = luaL_loadstring(L, stage);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        lua_pushcfunction(L, functions[i]);
    lua_pushstring(L, argv[1]);
    lua_pushstring(L, argv[2]);
    if (err != LUA_OK || lua_pcall(L, lua_gettop(L) - 1, 0, 0) != LUA_OK)
        fail("Lua", lua_tostring(L, -1));
    lua_close(L);
    return 0;
}
