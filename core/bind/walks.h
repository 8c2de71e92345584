/* The functions of clustermem.native that go over many keys in the shared memory, a slice for each call. See
 * lua/clustermem/keys.lua for what they are for. */
#ifndef CM_BIND_WALKS_H
#define CM_BIND_WALKS_H

#include <lua.h>

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_walks_open(lua_State *L);

#endif
