/* Short forms: C functions in the place of Lua functions, for calls without options or callback, in a task,
 * that can be done here and now. All else is the Lua function's, the long form. */
#ifndef CM_BIND_SHORT_H
#define CM_BIND_SHORT_H

#include <lua.h>

#include "bind/vm.h"

/* What a short form's closure holds: the function in Lua, what lets the loop turn, and "OK". */
enum { CM_SHORT_LONG = 1, CM_SHORT_REST, CM_SHORT_OK };

enum { CM_SHORT_DONE_PER_TURN = 8192 }; /* operations between two turns of the loop */

/* For lua_callk: gives what lies above the first `kept` values. */
int cm_short_give(lua_State *L, int status, lua_KContext kept);

/* Calls the long form with the same arguments, and gives its results: to be returned. */
int cm_short_long(lua_State *L);

/* Whether the caller may wait (scheduler.mayWait) in a process of the cluster. Only then an operation may be
 * done here: it must not depend on the moment whether a call is right. `standing` (or NULL) is the caller's.
 */
bool cm_short_may(lua_State *L, struct cm_vm *vm, struct cm_standing *standing);

/* Gives what has been pushed behind the `arguments`; now and then after a turn of the loop. */
int cm_short_finish(lua_State *L, struct cm_vm *vm, int arguments);
/* As above, of so many `results`. */
static inline int cm_short_finish_with(lua_State *L, struct cm_vm *vm, int arguments, int results) {
    if ((vm->done + 1) % CM_SHORT_DONE_PER_TURN == 0)
        return cm_short_finish(L, vm, arguments);
    vm->done++;
    return results;
}

/* For what a long form calls, before its results: false, or true now and then, so that a script that only
 * writes lets its loop turn. */
void cm_short_push_done(lua_State *L, struct cm_vm *vm);

/* Adds `short(form, fn, rest)` to the table on top of the stack: the closure, of a form that the table has.
 */
void cm_short_open(lua_State *L);

#endif
