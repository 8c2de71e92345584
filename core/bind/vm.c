#include "bind/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <luv/luv.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "bind/bindings.h"
#include "bind/modules.h"
#include "bind/replies.h"
#include "cluster/process.h"
#include "wire/ops.h"

/* lua-cjson's header names the function for C++ too, and only so. */
int luaopen_cjson(lua_State *L);

enum {
    FAILED_BYTES = 1024,          /* of an error, for the master's log */
    CHECKED_FILE_BYTES = 4 << 20, /* the master checks scripts in its loop: a longer one would hold it up */
    KNOWN_PART = 16,              /* of --worker-memory, for strings that are kept */
};

struct cm_vm *cm_vm_of(lua_State *L) {
    /* Lua copies the main state's extra space to each coroutine. */
    return *(struct cm_vm **)lua_getextraspace(L);
}

/* --- leaving --- */

_Noreturn void cm_vm_exit(struct cm_vm *vm, int code) {
    cm_session_flush(&vm->session);
    fflush(NULL);
    /* Not exit(): libuv's destructor would wait for whatever its threads are at. */
    _exit(code);
}

_Noreturn void cm_vm_fail(struct cm_vm *vm, struct cm_bytes text) {
    fflush(stdout);
    fwrite(text.data, 1, text.len, stderr);
    fputc('\n', stderr);
    const uint8_t *end = memchr(text.data, '\n', text.len);
    struct cm_bytes line = {text.data, end ? (size_t)(end - text.data) : text.len};
    if (line.len > FAILED_BYTES)
        line.len = FAILED_BYTES;
    cm_session_notify(&vm->session, CM_OP_FAILED, line);
    cm_vm_exit(vm, 1);
}

_Noreturn void cm_vm_fail_at(struct cm_vm *vm, const char *what, const char *trace) {
    static char text[CM_TRACE_BYTES + 256];
    uint32_t id = vm->session.init.id;
    char name[32] = "process 0";
    if (id)
        snprintf(name, sizeof name, "worker %u", id);
    snprintf(text, sizeof text, "%s: %s\n%s", name, what, trace);
    cm_vm_fail(vm, cm_bytes_of(text));
}

/* --- calling Lua --- */

static _Noreturn void fail_with_error(struct cm_vm *vm, lua_State *L, int status) {
    struct cm_bytes text = {0};
    text.data = (const uint8_t *)lua_tolstring(L, -1, &text.len);
    char why[CM_QUOTA_WHY_BYTES];
    if (status == LUA_ERRMEM && cm_quota_explain(&vm->quota, why))
        cm_vm_fail_at(vm, why, vm->quota.trace);
    cm_vm_fail(vm, text.data ? text : cm_bytes_of("an error that is no text"));
}

static int traceback(lua_State *L) {
    const char *message = luaL_tolstring(L, 1, NULL);
    luaL_traceback(L, L, message, 1);
    return 1;
}

/* Calls the function below the nargs values; what it raises ends the process. */
static void call_or_fail(struct cm_vm *vm, int nargs, int nresults) {
    lua_State *L = vm->L;
    int handler = lua_gettop(L) - nargs;
    lua_pushcfunction(L, traceback);
    lua_insert(L, handler);
    int status = lua_pcall(L, nargs, nresults, handler);
    if (status != LUA_OK)
        fail_with_error(vm, L, status);
    lua_remove(L, handler);
}

void cm_vm_call(struct cm_vm *vm, enum cm_vm_hook hook, int nargs, bool *result) {
    lua_State *L = vm->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->hooks[hook]);
    lua_insert(L, -1 - nargs);
    call_or_fail(vm, nargs, result ? 1 : 0);
    if (result) {
        *result = lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
}

lua_Integer cm_vm_own_id(struct cm_vm *vm) {
    return -++vm->last_own;
}

/* How luv calls its callbacks: luv_CFpcall. */
static int call_from_luv(lua_State *L, int nargs, int nresults, int flags) {
    (void)flags;
    struct cm_vm *vm = cm_vm_of(L);
    int base = lua_gettop(L) - nargs - 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->hooks[CM_VM_HOOK_GUARD]);
    lua_insert(L, base + 1);
    int status = lua_pcall(L, nargs + 1, nresults, 0);
    if (status == LUA_OK)
        return lua_gettop(L) - base;
    /* The guard has seen to what the callback raised; this is the guard's own, or memory. */
    fail_with_error(vm, L, status);
}

/* --- the loop's events --- */

static void on_term(uv_signal_t *term, int number) {
    (void)number;
    cm_vm_call(CM_LIST_ITEM(term, struct cm_vm, term), CM_VM_HOOK_STOP, 0, NULL);
}

static int on_reply(struct cm_session *session, const struct cm_frame *frame) {
    return cm_replies_deliver(CM_LIST_ITEM(session, struct cm_vm, session), frame);
}

static int on_notice(struct cm_session *session, const struct cm_frame *frame) {
    return cm_replies_notice(CM_LIST_ITEM(session, struct cm_vm, session), frame);
}

static void on_end(struct cm_session *session, int code) {
    (void)session;
    if (code != CM_E_CLOSED)
        cm_log(CM_LOG_ERROR, "the master cannot be understood: %s", cm_error_text(code));
    /* Without a master there is no cluster to belong to. */
    _exit(1);
}

/* Also while a coroutine runs: the main state's stack has room, and nothing here allocates. */
static bool is_pending(struct cm_session *session, uint32_t id) {
    struct cm_vm *vm = CM_LIST_ITEM(session, struct cm_vm, session);
    if (!lua_checkstack(vm->L, 2))
        return false;
    lua_rawgeti(vm->L, LUA_REGISTRYINDEX, vm->pending);
    bool pending = lua_rawgeti(vm->L, -1, (lua_Integer)id) != LUA_TNIL;
    lua_pop(vm->L, 2);
    return pending;
}

static const struct cm_session_events session_events = {
    .on_reply = on_reply, .on_notice = on_notice, .is_pending = is_pending, .on_end = on_end};

/* --- opening --- */

static int open_module(lua_State *L) {
    const struct cm_module *module = lua_touserdata(L, lua_upvalueindex(1));
    if (luaL_loadbufferx(L, (const char *)module->source, module->source_len, module->chunk, "t") != LUA_OK)
        return lua_error(L);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

/* The state's libraries, and the script's start; called protected. */
static int open_state(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    luaL_openlibs(L);
    luv_set_loop(L, &vm->loop);
    luv_set_callback(L, call_from_luv);

    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (size_t i = 0; i < cm_module_count; i++) {
        lua_pushlightuserdata(L, (void *)&cm_modules[i]);
        lua_pushcclosure(L, open_module, 1);
        lua_setfield(L, -2, cm_modules[i].name);
    }
    lua_pushcfunction(L, cm_bindings_open);
    lua_setfield(L, -2, "clustermem.native");
    lua_pushcfunction(L, luaopen_luv);
    lua_setfield(L, -2, "luv");
    lua_pushcfunction(L, luaopen_cjson);
    lua_setfield(L, -2, "cjson");
    lua_pop(L, 1);

    lua_getglobal(L, "require");
    lua_pushliteral(L, "clustermem.start");
    lua_call(L, 1, 1);
    lua_call(L, 0, 0);
    return 0;
}

static void settle_rings(struct cm_posted *rings) {
    struct cm_vm *vm = CM_LIST_ITEM(rings, struct cm_vm, rings);
    if (!vm->detached)
        cm_lock_settle_rings(&vm->locker);
}

static int open_loop(struct cm_vm *vm, int fd) {
    int err = uv_loop_init(&vm->loop);
    if (err)
        return err;
    uv_signal_init(&vm->loop, &vm->term);
    uv_unref((uv_handle_t *)&vm->term);
    uv_signal_start(&vm->term, on_term, SIGTERM);
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &term, NULL); /* see cm_vm_shield */
    uv_idle_init(&vm->loop, &vm->ready);
    vm->rings.send = settle_rings;
    cm_list_init(&vm->rings.link);
    return cm_session_open(&vm->session, &vm->loop, fd, &vm->segment, &session_events);
}

/* A script may fork by other means than this API; the child must not act in its parent's name. */
static struct cm_vm *forking;

static void on_forked(void) {
    forking->detached = true;
    cm_session_detach(&forking->session);
}

static int open_memory(struct cm_vm *vm) {
    int err = cm_segment_attach(CM_SEGMENT_FD, false, &vm->segment);
    if (err)
        return err;
    if (vm->session.init.seat <= CM_MASTER_SEAT || vm->session.init.seat > vm->segment.layout.seats)
        return CM_E_BADFRAME;
    madvise(vm->segment.base, (size_t)vm->segment.layout.total_bytes, MADV_DONTFORK);
    fcntl(CM_BELL_FD, F_SETFD, FD_CLOEXEC);
    fcntl(CM_DESCRIPTORS_FD, F_SETFD, FD_CLOEXEC);
    cm_participant_init(&vm->participant, &vm->segment, vm->session.init.seat);
    vm->participant.bell = CM_BELL_FD;
    cm_store_init(&vm->store, &vm->participant);
    cm_locker_init(&vm->locker, &vm->participant);
    cm_lru_init(&vm->lru, &vm->store);
    cm_documents_init(&vm->documents, &vm->participant, NULL, NULL);
    forking = vm;
    return -pthread_atfork(NULL, NULL, on_forked);
}

static void ignore(int number) {
    (void)number;
}

/* The terminal sends these to the whole group, and they are the master's to act on. A handler that does
 * nothing, not SIG_IGN, which the programs that a script starts would inherit. */
void cm_vm_shield(void) {
    struct sigaction action = {.sa_handler = ignore, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGPIPE, &action, NULL);
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);
}

/* How much of the Lua heap may be strings that are kept. */
static size_t known_bytes(const struct cm_vm *vm) {
    uint64_t part = vm->session.init.heap_bytes / KNOWN_PART;
    return part && part < CM_KNOWN_MOST_BYTES ? (size_t)part : CM_KNOWN_MOST_BYTES;
}

int cm_vm_run(void) {
    static struct cm_vm only; /* it lives as long as the process */
    struct cm_vm *vm = &only;
    fcntl(CM_PROCESS_FD, F_SETFD, FD_CLOEXEC);
    int err = cm_session_greet(&vm->session, CM_PROCESS_FD);
    if (err) {
        cm_log(CM_LOG_ERROR, "a process is started by the master only, and there is none: %s",
               cm_error_text(err));
        return 2;
    }
    cm_log_set_level(vm->session.init.log_level);
    /* Each printed line leaves whole, so that the lines of several processes do not mix. */
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    err = open_memory(vm);
    if (!err)
        err = open_loop(vm, CM_PROCESS_FD);
    vm->L = luaL_newstate();
    if (err || !vm->L) {
        cm_log(CM_LOG_ERROR, "the process cannot start: %s", cm_error_text(err ? err : CM_E_NOMEMORY));
        return 1;
    }
    *(struct cm_vm **)lua_getextraspace(vm->L) = vm;
    cm_stacks_init(&vm->stacks, vm->L);
    if (vm->session.init.heap_bytes)
        cm_quota_init(&vm->quota, vm->L, &vm->stacks, (size_t)vm->session.init.heap_bytes);
    cm_known_init(&vm->known, known_bytes(vm));
    if (vm->session.init.watchdog_ms)
        cm_heart_start(vm);
    lua_pushcfunction(vm->L, open_state);
    call_or_fail(vm, 0, 0);
    /* uv.stop() of a script ends a turn, not the process. */
    while (uv_run(&vm->loop, UV_RUN_DEFAULT)) {
    }
    /* Finalizers run, and may issue something still. The loop does not run any more, and the session stays
     * open until the process is gone: its end would tell the master to kill what has not exited yet. */
    lua_close(vm->L);
    cm_known_deinit(&vm->known);
    cm_session_flush(&vm->session);
    return 0;
}

/* --- checking --- */

/* A compiled chunk has no syntax to check, and a malformed one could crash who loads it. */
static bool is_precompiled(const char *path) {
    FILE *file = fopen(path, "rb");
    bool precompiled = file && getc(file) == LUA_SIGNATURE[0];
    if (file)
        fclose(file);
    return precompiled;
}

int cm_vm_check_script(const char *path, char *line, size_t line_bytes) {
    struct stat file;
    int err = stat(path, &file) < 0 ? -errno : 0;
    if (!err && S_ISDIR(file.st_mode))
        err = -EISDIR;
    if (!err && access(path, R_OK) < 0)
        err = -errno;
    if (err) {
        snprintf(line, line_bytes, "cannot run %s: %s", path, cm_error_text(err));
        return err;
    }
    if (!S_ISREG(file.st_mode) || file.st_size > CHECKED_FILE_BYTES)
        return 0; /* a pipe can be read only once, by who runs it */
    lua_State *L = luaL_newstate();
    if (!L) {
        snprintf(line, line_bytes, "cannot check %s: %s", path, cm_error_text(CM_E_NOMEMORY));
        return CM_E_NOMEMORY;
    }
    if (!is_precompiled(path) && luaL_loadfilex(L, path, "t") != LUA_OK) {
        snprintf(line, line_bytes, "%s", lua_tostring(L, -1));
        err = CM_E_BADVALUE;
    }
    lua_close(L);
    return err;
}
