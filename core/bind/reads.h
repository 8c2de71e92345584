/* The functions of clustermem.native that read keys: done here and now in the shared memory, and never issued
 * as a request. See lua/clustermem/keys.lua for what they mean. */
#ifndef CM_BIND_READS_H
#define CM_BIND_READS_H

#include <lua.h>

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_reads_open(lua_State *L);

#endif
