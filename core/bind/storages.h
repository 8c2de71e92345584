/* The functions of clustermem.native for storages. See lua/clustermem/storage.lua for what they mean. */
#ifndef CM_BIND_STORAGES_H
#define CM_BIND_STORAGES_H

#include <lua.h>

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_storages_open(lua_State *L);

#endif
