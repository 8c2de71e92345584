/* Which Lua stacks of a process are at work: that of the coroutine that runs, below it that of whoever has
 * resumed it, and so on down to the main state's. Kept up by the one function that resumes coroutines, at the
 * price of two stores, because a hook reaches no other stack than the one that it is set on. One thread; a
 * signal's handler and Lua's allocator may look at any moment. */
#ifndef CM_BIND_STACKS_H
#define CM_BIND_STACKS_H

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which task runs on a stack, once somebody has asked: it stays so until the stack is resumed anew. */
struct cm_standing {
    bool known;
    bool may_wait; /* it has a task, which can be suspended from here; unless Lua itself cannot yield */
    bool own;      /* this is the task's own coroutine, and none of the script's */
    uint64_t task; /* its number; 0: it has none yet, and gets one when somebody asks (scheduler.begin) */
};

struct cm_stack {
    lua_State *L;
    struct cm_stack *below;
    struct cm_standing standing;
};

struct cm_stacks {
    struct cm_stack main;
    _Atomic(struct cm_stack *) top;
};

/* A traceback is cut to this, its end included. */
enum { CM_TRACE_BYTES = 4096 };

void cm_stacks_init(struct cm_stacks *stacks, lua_State *L);

/* Adds to the table on the stack: resume(co, ...), which is coroutine.resume; begin(co, ...), which is the
 * same for a coroutine that becomes a task as soon as somebody asks for it; and reuse(co, fn): has a
 * coroutine that has ended well, and that no Lua code knows, run fn when it is resumed, and gives true; false
 * where somebody else could tell it from a new one: it has a hook, or a script has loaded a C library, which
 * may know any coroutine that has called it. */
void cm_stacks_open(lua_State *L);

/* Has the hook called at the next thing that Lua does on each of them; with `polite` not on those that have a
 * hook already. Whether it was set anywhere. Async-signal-safe, as far as lua_sethook is. */
bool cm_stacks_hook(const struct cm_stacks *stacks, lua_Hook hook, bool polite);

/* Writes where they are, as luaL_traceback does, innermost first. Allocates nothing. */
void cm_stacks_trace(const struct cm_stacks *stacks, char text[CM_TRACE_BYTES]);

#endif
