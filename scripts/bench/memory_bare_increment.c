/* The bare limit of "increment" in scripts/bench/memory: what Lua 5.4 and one locked instruction take by
 * themselves. A C function called from a loop in Lua, as ours is, that knows its key by the string's address,
 * takes a word that stands for the key's group with one compare-and-swap, adds to a number in private memory,
 * and gives the word back: no search, nobody who listens, no expiry, nothing that would be left whole by a
 * death. Usage: memory_bare_increment SECONDS. Prints the line that memory_harness.lua prints. */
#include <lua5.4/lauxlib.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "crew.h"

static _Alignas(64) _Atomic uint64_t word; /* {sequence 48, owner 16} */
static _Alignas(64) lua_Integer number;
static const void *known;

static int increment(lua_State *L) {
    if (lua_topointer(L, 1) != known)
        known = lua_topointer(L, 1);
    uint64_t before = atomic_load_explicit(&word, memory_order_relaxed);
    if (!atomic_compare_exchange_strong_explicit(&word, &before, before | 1, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return 0;
    number++;
    atomic_store_explicit(&word, before + (2 << 16), memory_order_release);
    lua_pushinteger(L, number);
    return 1;
}

/* As loops.increment in memory.lua. */
static const char loop[] = "local increment, counter = ...\n"
                           "return function(first, last)\n"
                           "  for _ = first, last do\n"
                           "    if not increment(counter) then error('increment failed') end\n"
                           "  end\n"
                           "end\n";

enum { BATCH = 500 };

int main(int argc, char **argv) {
    double seconds = argc == 2 ? strtod(argv[1], NULL) : 0;
    if (!(seconds > 0)) {
        fprintf(stderr, "usage: memory_bare_increment SECONDS\n");
        return 2;
    }
    lua_State *L = luaL_newstate();
    if (!L || luaL_loadstring(L, loop) != LUA_OK)
        fail("Lua", "no memory");
    lua_pushcfunction(L, increment);
    lua_pushliteral(L, "counter:00000000");
    lua_call(L, 2, 1);
    uint64_t ops = 0, start_ns = now_ns(), end_ns;
    do {
        lua_pushvalue(L, 1);
        lua_pushinteger(L, 1);
        lua_pushinteger(L, BATCH);
        lua_call(L, 2, 0);
        ops += BATCH;
        end_ns = now_ns();
    } while ((double)(end_ns - start_ns) < seconds * 1e9);
    printf("ops=%lu start_ns=%lu end_ns=%lu\n", (unsigned long)ops, (unsigned long)start_ns,
           (unsigned long)end_ns);
    lua_close(L);
    return 0;
}
