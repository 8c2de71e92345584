/* A process's side of hubs: what is sent and answered on its way to the master, and what comes from there. */
#ifndef CM_BIND_HUB_H
#define CM_BIND_HUB_H

#include "bind/vm.h"
#include "wire/message.h"

/* Adds the functions to the table on top of the stack. For a state of a vm. */
void cm_hub_open(lua_State *L);

/* Pushes what a request has come to: the results, or nil, message, code. Returns how many. May raise a memory
 * error. */
int cm_hub_push_outcome(lua_State *L, struct cm_reader *reader);

/* Pushes the ids of the workers that there are, as an array; gives 1. */
int cm_hub_push_workers(lua_State *L, struct cm_reader *reader);

/* Acts on HUB_MESSAGE and HUB_OVER. 0 or CM_E_BADFRAME. */
int cm_hub_message(struct cm_vm *vm, struct cm_bytes payload);
int cm_hub_over(struct cm_vm *vm, struct cm_bytes payload);

#endif
