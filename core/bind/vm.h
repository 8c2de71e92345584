/* A process: one Lua state and one uv loop around one session with the master. */
#ifndef CM_BIND_VM_H
#define CM_BIND_VM_H

#include <lua.h>
#include <stdbool.h>
#include <uv.h>

#include "base/buf.h"
#include "bind/heart.h"
#include "bind/known.h"
#include "bind/quota.h"
#include "bind/stacks.h"
#include "cluster/session.h"
#include "data/documents.h"
#include "data/lru.h"
#include "data/store.h"

/* What C calls in Lua; set once, by the Lua side. See lua/clustermem/start.lua. */
#define CM_VM_HOOKS(XX)                                                                                   \
    XX(REPLY, "reply")     /* reply(id, results...) */                                                    \
    XX(CHANGED, "changed") /* changed(key, version, cause [, bytes]): of what this process listens for */ \
    XX(MESSAGE, "message") /* message(ticket, sender, charge, hub, type, data): sent to this process */   \
    XX(OVER, "over")       /* over(ticket): nobody waits for the answer any more */                       \
    XX(PROCESS, "process") /* process(change, row, more [, code, signal]): the process table changed */   \
    XX(RUN, "run")         /* run() -> whether tasks are still ready */                                   \
    XX(STOP, "stop")       /* stop(): leave gracefully */                                                 \
    XX(GUARD, "guard")     /* guard(fn, ...): calls a luv callback */                                     \
    XX(SERVE, "serve")     /* serve(server, exchange): an HTTP request has come */

enum { CM_VM_GUARDS = 64 }; /* kept for use again */

enum cm_vm_hook {
#define XX(name, word) CM_VM_HOOK_##name,
    CM_VM_HOOKS(XX)
#undef XX
        CM_VM_HOOK_COUNT
};

struct cm_vm {
    uv_loop_t loop;
    struct cm_session session;
    lua_State *L;
    struct cm_stacks stacks;
    struct cm_heart heart;
    struct cm_quota quota;
    uv_signal_t term;            /* SIGTERM: stop */
    uv_idle_t ready;             /* runs while tasks are ready */
    struct cm_posted rings;      /* of released locks, that the master is owed */
    int hooks[CM_VM_HOOK_COUNT]; /* registry references */
    struct cm_segment segment;
    struct cm_participant participant;
    struct cm_store store;
    struct cm_locker locker;
    struct cm_lru lru;
    struct cm_documents documents;
    struct cm_known known;
    struct { /* the storage that was last seen open; see cm_documents_is_open */
        uint32_t id;
        uint64_t closed;
    } storage;
    bool detached;      /* a child that a script has forked: it is no process of the cluster */
    uint32_t forwarded; /* writes that the master has not answered yet: later ones go the same way */
    uint32_t done;      /* writes that took no turn of the loop */
    int context;        /* registry reference: coroutine -> its task, see clustermem.scheduler */
    int pending;        /* registry reference: id of an unanswered request -> who waits, clustermem.request */
    unsigned clears;    /* going on */
    int spared; /* registry reference: key -> number of the last write since the first of these began */
    int guards; /* registry reference: the guards of mutexes that are free to be used again */
    int guards_free;
    lua_Integer writes;    /* while there were such */
    struct cm_buf scratch; /* a value on its way out */
    struct cm_buf value;   /* a value on its way in */
    struct cm_buf path;    /* of a document, on its way out */
    lua_Integer last_own;  /* see cm_vm_own_id; it does not come round */
    bool decoding;         /* a reply's bytes are being read; a finalizer may run in the midst of it */
};

/* Ignores the signals that are the master's to act on, and keeps SIGTERM back until cm_vm_run has a handler
 * for it. To be called first of all. */
void cm_vm_shield(void);

/* Runs what the master says, to the end, on the descriptors that it has passed (core/cluster/process).
 * Returns the exit code, or leaves the process itself with it. */
int cm_vm_run(void);

/* The process that this state belongs to. */
struct cm_vm *cm_vm_of(lua_State *L);

/* Calls a hook with the nargs values on top of the main state's stack. An error that gets here is one in our
 * own Lua code, or of memory: it ends the process. With `result`, its first result as a boolean. */
void cm_vm_call(struct cm_vm *vm, enum cm_vm_hook hook, int nargs, bool *result);

/* An id for the reply hook that is no request's: it is negative. */
lua_Integer cm_vm_own_id(struct cm_vm *vm);

/* Leaves the process: issued frames go out first, then what C streams have buffered. The state is not closed.
 */
_Noreturn void cm_vm_exit(struct cm_vm *vm, int code);

/* Leaves with code 1: the text goes to standard error, its first line to the master. */
_Noreturn void cm_vm_fail(struct cm_vm *vm, struct cm_bytes text);

/* As above, with what has become of this process, and its traceback: "worker 3: <what>", and so on. */
_Noreturn void cm_vm_fail_at(struct cm_vm *vm, const char *what, const char *trace);

/* Looks whether a script can be run, without running any of it. 0, or a negative code and one line for
 * people: "app.lua:3: unexpected symbol near '='". Needs no vm. */
int cm_vm_check_script(const char *path, char *line, size_t line_bytes);

#endif
