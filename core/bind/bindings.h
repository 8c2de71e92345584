/* The C half of the Lua API: the module clustermem.native, known to the Lua modules of this project alone. */
#ifndef CM_BIND_BINDINGS_H
#define CM_BIND_BINDINGS_H

#include <lua.h>

/* Pushes the module. For a state of a vm. */
int cm_bindings_open(lua_State *L);

#endif
