/* The functions of clustermem.native for the cache: as core/bind/keys for keys. See lua/clustermem/lru.lua
 * for what they mean. */
#ifndef CM_BIND_CACHES_H
#define CM_BIND_CACHES_H

#include <lua.h>

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_caches_open(lua_State *L);

#endif
