/* Lua values for the tests of the codec: made at random, and compared to the last bit. */
#ifndef CM_SPEC_CORE_LUA_VALUES_H
#define CM_SPEC_CORE_LUA_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

/* Whether two values are the same data: integers and floats apart, floats by their bits, tables by what is in
 * them, raw. Needs stack for two keys and values per level of nesting. */
bool lua_values_equal(lua_State *L, int one, int other);

/* Pushes a value made at random, with at most `depth` tables inside tables. */
void lua_values_random(lua_State *L, uint64_t *random, int depth);

#endif
