#include "bind/replies.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "bind/hub.h"
#include "bind/keys.h"
#include "bind/locks.h"
#include "bind/requests.h"
#include "bind/value.h"
#include "cluster/descriptor.h"
#include "cluster/process.h"
#include "memory/append.h"
#include "wire/ops.h"

/* Decoding may raise for want of memory, so it runs protected; this is what it works on. */
struct delivery {
    const struct cm_frame *frame;
    int results; /* pushed */
    int err;
};

static int push_error(lua_State *L, struct delivery *delivery) {
    int code;
    struct cm_bytes text;
    int err = cm_read_error(delivery->frame->payload, &code, &text);
    if (err)
        return err;
    lua_pushnil(L);
    lua_pushlstring(L, (const char *)text.data, text.len);
    lua_pushstring(L, cm_error_name(code));
    delivery->results = 3;
    return 0;
}

static int push_ok(lua_State *L) {
    lua_pushliteral(L, "OK");
    return 1;
}

static int push_integers(lua_State *L, struct cm_reader *reader, int count) {
    for (int i = 0; i < count; i++)
        lua_pushinteger(L, (lua_Integer)cm_read_u64(reader));
    return count;
}

/* value, version */
static int push_value(lua_State *L, struct cm_reader *reader) {
    if (cm_value_decode(L, cm_read_bytes(reader))) {
        reader->error = CM_E_BADFRAME;
        return 0;
    }
    return 1 + push_integers(L, reader, 1);
}

/* lockId [, "abandoned"] */
static int push_lock(lua_State *L, struct cm_reader *reader) {
    CM_FAULT("lock-granted");
    struct cm_lock_id id = {.token = cm_read_u64(reader)};
    id.slot = cm_read_u32(reader);
    cm_locks_push_id(L, id);
    if (!cm_read_u8(reader))
        return 1;
    lua_pushliteral(L, "abandoned");
    return 2;
}

/* { worker, task, lease, waiting } | nil */
static int push_lock_info(lua_State *L, struct cm_reader *reader) {
    bool held = cm_read_u8(reader) != 0;
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, cm_read_u32(reader));
    lua_setfield(L, -2, "worker");
    static const char *const optional[] = {"task", "lease"};
    for (int i = 0; i < 2; i++) {
        uint64_t number = cm_read_u64(reader);
        if (number) {
            lua_pushinteger(L, (lua_Integer)number);
            lua_setfield(L, -2, optional[i]);
        }
    }
    lua_pushinteger(L, cm_read_u32(reader));
    lua_setfield(L, -2, "waiting");
    if (!held) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
    return 1;
}

/* id, filename, folder, gcInterval */
static int push_storage(lua_State *L, struct cm_reader *reader) {
    lua_pushinteger(L, cm_read_u32(reader));
    for (int i = 0; i < 2; i++) {
        struct cm_bytes text = cm_read_bytes(reader);
        lua_pushlstring(L, (const char *)text.data, text.len);
    }
    return 3 + push_integers(L, reader, 1);
}

/* fd, id | nil, message, code */
static int push_descriptor(lua_State *L, struct cm_reader *reader) {
    uint32_t id = cm_read_u32(reader);
    int fd = cm_descriptor_take(CM_DESCRIPTORS_FD);
    if (fd < 0)
        return cm_requests_push_failure(L, fd);
    lua_pushinteger(L, fd);
    lua_pushinteger(L, id);
    return 2;
}

static int push_forked(lua_State *L, struct cm_reader *reader) {
    struct cm_worker_row row = {.id = cm_read_u32(reader)};
    row.slot = cm_read_u32(reader);
    row.pid = cm_read_u32(reader);
    cm_replies_push_worker(L, &row);
    return 1;
}

/* Pushes what the operation gives in Lua, and returns how many values that is; the reader tells whether it
 * was read. */
static int push_by_op(lua_State *L, uint8_t op, struct cm_reader *reader) {
    switch (op) {
    case CM_OP_SET:
        push_ok(L);
        return 1 + push_integers(L, reader, 1);
    case CM_OP_REMOVE:
        cm_read_u64(reader);
        return push_ok(L);
    case CM_OP_INCREMENT:
        return push_value(L, reader);
    case CM_OP_SET_MANY:
    case CM_OP_EXPIRE:
    case CM_OP_UNLOCK:
    case CM_OP_RENEW:
    case CM_OP_LISTEN:
    case CM_OP_STORAGE_SYNC:
    case CM_OP_STORAGE_CLOSE:
    case CM_OP_STORAGE_DESTROY:
    case CM_OP_LRU_SET:
    case CM_OP_LRU_REMOVE:
    case CM_OP_LRU_CLEAR:
    case CM_OP_LRU_OPTIONS:
    case CM_OP_SHUTDOWN:
    case CM_OP_HUB_SEND:
        return push_ok(L);
    case CM_OP_BIND:
        return push_descriptor(L, reader);
    case CM_OP_STORAGE_OPEN:
        return push_storage(L, reader);
    case CM_OP_STORAGE_SET:
    case CM_OP_STORAGE_DELETE:
        cm_read_u64(reader);
        return push_ok(L);
    case CM_OP_HUB_ASK:
        return cm_hub_push_outcome(L, reader);
    case CM_OP_HUB_WORKERS:
        return cm_hub_push_workers(L, reader);
    case CM_OP_LOCK:
        return push_lock(L, reader);
    case CM_OP_LOCK_INFO:
        return push_lock_info(L, reader);
    case CM_OP_FORK:
        return push_forked(L, reader);
    default:
        reader->error = CM_E_BADFRAME;
        return 0;
    }
}

static int push_results(lua_State *L, struct delivery *delivery) {
    struct cm_reader reader;
    cm_reader_init(&reader, delivery->frame->payload);
    delivery->results = push_by_op(L, delivery->frame->op, &reader);
    return cm_reader_end(&reader);
}

static int push_reply(lua_State *L) {
    struct delivery *delivery = lua_touserdata(L, 1);
    delivery->err =
        delivery->frame->flags & CM_FRAME_ERROR ? push_error(L, delivery) : push_results(L, delivery);
    return delivery->err ? 0 : delivery->results;
}

/* Whether it is one of the writes that must be applied in the order in which they were issued. */
static bool is_write(uint8_t op) {
    return op == CM_OP_SET || op == CM_OP_REMOVE || op == CM_OP_INCREMENT || op == CM_OP_SET_MANY ||
           op == CM_OP_EXPIRE || op == CM_OP_LRU_SET || op == CM_OP_LRU_REMOVE || op == CM_OP_LRU_CLEAR ||
           op == CM_OP_LRU_OPTIONS;
}

int cm_replies_deliver(struct cm_vm *vm, const struct cm_frame *frame) {
    lua_State *L = vm->L;
    struct delivery delivery = {.frame = frame};
    if (is_write(frame->op)) {
        vm->forwarded -= vm->forwarded > 0;
        cm_keys_settle(vm, frame->id, frame->flags & CM_FRAME_ERROR);
    }
    lua_pushinteger(L, frame->id);
    lua_pushcfunction(L, push_reply);
    lua_pushlightuserdata(L, &delivery);
    vm->decoding = true;
    int status = lua_pcall(L, 1, LUA_MULTRET, 0);
    vm->decoding = false;
    if (status != LUA_OK) {
        /* No memory for the value: its reader is told so. */
        lua_pop(L, 1);
        lua_pushnil(L);
        lua_pushstring(L, cm_error_text(CM_E_NOMEMORY));
        lua_pushstring(L, cm_error_name(CM_E_NOMEMORY));
        delivery.results = 3;
    } else if (delivery.err) {
        lua_pop(L, 1);
        return CM_E_BADFRAME;
    }
    lua_checkstack(L, LUA_MINSTACK); /* lua_pcall makes room for the results only */
    cm_vm_call(vm, CM_VM_HOOK_REPLY, 1 + delivery.results, NULL);
    return 0;
}

bool cm_replies_try_push(struct cm_vm *vm, lua_CFunction push, void *data, int results) {
    lua_State *L = vm->L;
    lua_pushcfunction(L, push);
    lua_pushlightuserdata(L, data);
    vm->decoding = true;
    int status = lua_pcall(L, 1, results, 0);
    vm->decoding = false;
    if (status != LUA_OK)
        lua_pop(L, 1);
    return status == LUA_OK;
}

void cm_replies_push_worker(lua_State *L, const struct cm_worker_row *row) {
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, row->id);
    lua_setfield(L, -2, "id");
    lua_pushinteger(L, row->slot);
    lua_setfield(L, -2, "slot");
    lua_pushinteger(L, row->pid);
    lua_setfield(L, -2, "pid");
    lua_pushboolean(L, row->online);
    lua_setfield(L, -2, "online");
}

static int deliver_process(struct cm_vm *vm, struct cm_bytes payload) {
    static const char *const changes[] = {"fork", "online", "exit"};
    struct cm_process_event event;
    int err = cm_process_event_read(payload, &event);
    if (err)
        return err;
    lua_State *L = vm->L;
    lua_pushstring(L, changes[event.change]);
    cm_replies_push_worker(
        L, &(struct cm_worker_row){event.id, event.slot, event.pid, event.change == CM_PROCESS_ONLINE});
    lua_pushboolean(L, event.more);
    if (event.signal)
        lua_pushnil(L);
    else
        lua_pushinteger(L, event.code);
    const char *name = event.signal ? sigabbrev_np(event.signal) : NULL;
    if (name)
        lua_pushfstring(L, "SIG%s", name);
    else if (event.signal)
        lua_pushfstring(L, "signal %d", event.signal);
    else
        lua_pushnil(L);
    cm_vm_call(vm, CM_VM_HOOK_PROCESS, 5, NULL);
    return 0;
}

/* A change on its way to the hook. */
struct changed {
    struct cm_bytes key;
    uint64_t version;
    uint8_t cause;
    bool has_value;
    struct cm_bytes value;
};

static int push_changed(lua_State *L) {
    static const char *const causes[] = {"set", "remove", "expire", "clear", "gap"};
    const struct changed *changed = lua_touserdata(L, 1);
    lua_pushlstring(L, (const char *)changed->key.data, changed->key.len);
    lua_pushinteger(L, (lua_Integer)changed->version);
    lua_pushstring(L, causes[changed->cause]);
    if (changed->has_value)
        lua_pushlstring(L, (const char *)changed->value.data, changed->value.len);
    else
        lua_pushnil(L);
    return 4;
}

static int deliver_changed(struct cm_vm *vm, struct cm_bytes payload) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    struct changed changed = {.cause = cm_read_u8(&reader)};
    changed.version = cm_read_u64(&reader);
    changed.key = cm_read_bytes(&reader);
    changed.has_value = cm_read_u8(&reader) != 0;
    if (changed.has_value)
        changed.value = cm_read_bytes(&reader);
    if (cm_reader_end(&reader) || changed.cause > CM_CAUSE_GAP)
        return CM_E_BADFRAME;
    if (!cm_replies_try_push(vm, push_changed, &changed, 4)) {
        /* No memory for the value: its listeners may have more when they come to look for it. */
        changed = (struct changed){.key = changed.key, .cause = CM_CAUSE_GAP};
        if (!cm_replies_try_push(vm, push_changed, &changed, 4))
            cm_vm_fail(vm, cm_bytes_of("not enough memory for a change that is listened for"));
    }
    cm_vm_call(vm, CM_VM_HOOK_CHANGED, 4, NULL);
    return 0;
}

int cm_replies_notice(struct cm_vm *vm, const struct cm_frame *frame) {
    switch (frame->op) {
    case CM_OP_STOP:
        cm_vm_call(vm, CM_VM_HOOK_STOP, 0, NULL);
        return 0;
    case CM_OP_CHANGED:
        return deliver_changed(vm, frame->payload);
    case CM_OP_PROCESS:
        return deliver_process(vm, frame->payload);
    case CM_OP_HUB_MESSAGE:
        return cm_hub_message(vm, frame->payload);
    case CM_OP_HUB_OVER:
        return cm_hub_over(vm, frame->payload);
    case CM_OP_SHORT:
        cm_append_close(&vm->participant); /* between two operations, as notices come from the loop */
        return 0;
    default:
        return CM_E_BADFRAME;
    }
}
