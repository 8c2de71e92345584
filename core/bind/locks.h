/* The functions of clustermem.native for locks: those of the segment, done here and now, and what is asked of
 * the master. */
#ifndef CM_BIND_LOCKS_H
#define CM_BIND_LOCKS_H

#include <lua.h>

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_locks_open(lua_State *L);

/* Pushes the lockId, as the decimal string that scripts see. */
struct cm_lock_id;
void cm_locks_push_id(lua_State *L, struct cm_lock_id id);

#endif
