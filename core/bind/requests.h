/* The functions of clustermem.native that ask the master for something. Each returns the request's id, which
 * the reply hook will get with the results, or false and the results behind it: nil, message, code when it
 * could not be issued. */
#ifndef CM_BIND_REQUESTS_H
#define CM_BIND_REQUESTS_H

#include <lua.h>

#include "bind/vm.h"

/* Pushes nil, message, code; returns 3. */
int cm_requests_push_failure(lua_State *L, int err);

/* A request's payload is being written (NULL: no memory for it): issues it, and pushes its id, or false and
 * the failure. Returns how many. */
int cm_requests_issue(lua_State *L, struct cm_vm *vm, const struct cm_writer *writer);

/* Pushes false, nil, message, code; returns 4. */
int cm_requests_refuse(lua_State *L, int err);

/* Raises the message on top of the stack, at the line that called into this library. */
_Noreturn void cm_requests_blame(lua_State *L);

/* Appends the value at the index to the scratch buffer. 0 or a negative code. A value that cannot be shared
 * raises, as above; `key` (or NULL) says which of several it is. */
int cm_requests_encode(lua_State *L, struct cm_vm *vm, int index, const char *key);

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_requests_open(lua_State *L);

#endif
