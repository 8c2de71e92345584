/* The functions of clustermem.native that ask the master for something. Each returns the request's id, which
 * the reply hook will get with the results, or nil, message, code when it could not be issued. */
#ifndef CM_BIND_REQUESTS_H
#define CM_BIND_REQUESTS_H

#include <lua.h>

/* Pushes nil, message, code; returns 3. */
int cm_requests_push_failure(lua_State *L, int err);

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_requests_open(lua_State *L);

#endif
