/* The functions of clustermem.native behind clustermem.http: servers, requests, answers. Servers and
 * exchanges are light userdata; that they are alive is for that module to know, and no script sees them. */
#ifndef CM_BIND_SERVING_H
#define CM_BIND_SERVING_H

#include <lua.h>

/* Add the functions to the table on top of the stack. For a state of a vm. */
void cm_serving_open(lua_State *L); /* servers and requests */
void cm_answers_open(lua_State *L);

#endif
