/* The functions of clustermem.native for listeners. See lua/clustermem/listeners.lua for what they mean. */
#ifndef CM_BIND_LISTENS_H
#define CM_BIND_LISTENS_H

#include <lua.h>

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_listens_open(lua_State *L);

#endif
