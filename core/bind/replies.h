/* What the master says, on its way into Lua: replies to requests, and notices. */
#ifndef CM_BIND_REPLIES_H
#define CM_BIND_REPLIES_H

#include "bind/vm.h"
#include "wire/frame.h"

/* Decodes the reply and calls the hook with its results. 0, or CM_E_BADFRAME for a reply that makes no sense.
 */
int cm_replies_deliver(struct cm_vm *vm, const struct cm_frame *frame);

/* Acts on the notice. As above. */
int cm_replies_notice(struct cm_vm *vm, const struct cm_frame *frame);

/* Calls push, protected, with the data as a light userdata; it gives so many results. False, with nothing
 * pushed: there is no memory for them. The frame that is being handled stays where it is meanwhile, whatever
 * finalizers do. */
bool cm_replies_try_push(struct cm_vm *vm, lua_CFunction push, void *data, int results);

/* Pushes { id =, slot =, pid =, online = }. */
void cm_replies_push_worker(lua_State *L, const struct cm_worker_row *row);

#endif
