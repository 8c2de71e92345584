#include "bind/hub.h"

#include "base/clock.h"
#include "bind/calls.h"
#include "bind/replies.h"
#include "data/mailbox.h"
#include "wire/mail.h"

/* Values come one after the other, each with its length; nil, which is no data, is one of no bytes. */

static bool write_value(lua_State *L, struct cm_vm *vm, int index, struct cm_writer *writer,
                        char refusal[CM_VALUE_PATH_BYTES]) {
    size_t at = writer->buf->len;
    cm_write_u32(writer, 0);
    if (!writer->error && !lua_isnoneornil(L, index))
        writer->error = cm_value_encode(L, index, vm->session.init.max_value_bytes, writer->buf, refusal);
    cm_rewrite_u32(writer, at, (uint32_t)(writer->buf->len - at - 4));
    return !writer->error;
}

/* --- what goes --- */

/* hubPack(hub, type, data) -> the mail | nil, message, code. Data that cannot be shared raises. */
static int native_pack(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_writer writer;
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    cm_writer_init(&writer, &vm->scratch);
    cm_write_bytes(&writer, to_bytes(L, 1));
    cm_write_bytes(&writer, to_bytes(L, 2));
    char refusal[CM_VALUE_PATH_BYTES];
    write_value(L, vm, 3, &writer, refusal);
    if (writer.error == CM_E_BADVALUE) {
        lua_pushstring(L, refusal);
        cm_requests_blame(L);
    }
    if (writer.error)
        return cm_requests_push_failure(L, writer.error);
    lua_pushlstring(L, (const char *)vm->scratch.data, vm->scratch.len);
    return 1;
}

/* hubPost(asks, to, process, timeout, mail) -> id | false, nil, message, code */
static int native_post(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    uint8_t op = lua_toboolean(L, 1) ? CM_OP_HUB_ASK : CM_OP_HUB_SEND;
    struct cm_bytes mail = to_bytes(L, 5);
    struct cm_writer *writer = vm->detached ? NULL : cm_session_begin(&vm->session, op);
    if (writer) {
        cm_write_u8(writer, (uint8_t)luaL_checkinteger(L, 2));
        cm_write_u32(writer, (uint32_t)luaL_checkinteger(L, 3));
        cm_write_u64(writer, (uint64_t)luaL_checkinteger(L, 4));
        if (!writer->error)
            writer->error = cm_buf_append(writer->buf, mail.data, mail.len);
    }
    return cm_requests_issue(L, vm, writer);
}

/* hubWorkers() -> as above: the ids of all workers but this one */
static int native_workers(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    return cm_requests_issue(L, vm, vm->detached ? NULL : cm_session_begin(&vm->session, CM_OP_HUB_WORKERS));
}

static struct cm_writer begin_answer(struct cm_vm *vm, lua_Integer ticket, uint8_t outcome) {
    struct cm_writer writer;
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    cm_writer_init(&writer, &vm->scratch);
    cm_write_u64(&writer, (uint64_t)ticket);
    cm_write_u8(&writer, outcome);
    return writer;
}

/* Without memory the asker waits until its time is up. */
static void send_answer(struct cm_vm *vm, const struct cm_writer *writer) {
    if (!writer->error && !vm->detached)
        cm_session_notify(&vm->session, CM_OP_HUB_ANSWER, cm_buf_view(&vm->scratch));
}

static void fail(struct cm_vm *vm, lua_Integer ticket, struct cm_bytes text) {
    struct cm_writer writer = begin_answer(vm, ticket, CM_HUB_FAILED);
    size_t most = vm->session.init.max_value_bytes;
    cm_write_bytes(&writer, (struct cm_bytes){text.data, text.len < most ? text.len : most});
    send_answer(vm, &writer);
}

/* hubAnswer(ticket, results...). Results that cannot be shared, or are too many, are a failure, which says
 * why. */
static int native_answer(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    lua_Integer ticket = luaL_checkinteger(L, 1);
    int last = lua_gettop(L);
    if (last - 1 > CM_HUB_MOST_RESULTS) {
        lua_pushfstring(L, "the handler has given more than %d results", CM_HUB_MOST_RESULTS);
        fail(vm, ticket, to_bytes(L, -1));
        return 0;
    }
    struct cm_writer writer = begin_answer(vm, ticket, CM_HUB_ANSWERED);
    cm_write_u32(&writer, (uint32_t)(last - 1));
    char refusal[CM_VALUE_PATH_BYTES];
    int index = 2;
    while (index <= last && write_value(L, vm, index, &writer, refusal))
        index++;
    if (!writer.error && vm->scratch.len > cm_request_most_bytes(vm->session.init.max_value_bytes))
        writer.error = CM_E_TOOLARGE;
    if (writer.error)
        fail(vm, ticket, cm_bytes_of(writer.error == CM_E_BADVALUE ? refusal : cm_error_text(writer.error)));
    else
        send_answer(vm, &writer);
    return 0;
}

/* hubFail(ticket, text) */
static int native_fail(lua_State *L) {
    fail(cm_vm_of(L), luaL_checkinteger(L, 1), to_bytes(L, 2));
    return 0;
}

/* hubIgnore(ticket): there is no handler. */
static int native_ignore(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_writer writer = begin_answer(vm, luaL_checkinteger(L, 1), CM_HUB_NO_HANDLER);
    send_answer(vm, &writer);
    return 0;
}

/* hubDone(bytes) */
static int native_done(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    struct cm_writer writer;
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    cm_writer_init(&writer, &vm->scratch);
    cm_write_u64(&writer, (uint64_t)luaL_checkinteger(L, 1));
    if (!writer.error && !vm->detached)
        cm_session_notify(&vm->session, CM_OP_HUB_DONE, cm_buf_view(&vm->scratch));
    return 0;
}

/* now() -> milliseconds since some time */
static int native_now(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)cm_clock_ms());
    return 1;
}

void cm_hub_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"hubPack", native_pack}, {"hubPost", native_post},       {"hubAnswer", native_answer},
        {"hubFail", native_fail}, {"hubDone", native_done},       {"hubIgnore", native_ignore},
        {"now", native_now},      {"hubWorkers", native_workers}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
    lua_pushinteger(L, CM_MAIL_REPORT_BYTES);
    lua_setfield(L, -2, "hubReportBytes");
    lua_pushinteger(L, CM_MAIL_WINDOW_BYTES);
    lua_setfield(L, -2, "hubWindowBytes");
    lua_pushinteger(L, CM_MAIL_CHARGE_BYTES);
    lua_setfield(L, -2, "hubChargeBytes");
    lua_pushinteger(L, CM_HUB_MOST_RESULTS);
    lua_setfield(L, -2, "hubMostResults");
}

/* --- what comes --- */

static int push_failure(lua_State *L, int code, struct cm_bytes text) {
    lua_pushnil(L);
    lua_pushlstring(L, (const char *)text.data, text.len);
    lua_pushstring(L, cm_error_name(code));
    return 3;
}

/* The master has not looked at the values: if one is none, who has sent it is to blame. */
static int push_results(lua_State *L, struct cm_reader *reader) {
    int count = (int)cm_read_count(reader, 4);
    luaL_checkstack(L, count + LUA_MINSTACK, "the answer has too many results");
    bool is_good = true;
    for (int i = 0; i < count; i++) {
        struct cm_bytes bytes = cm_read_bytes(reader);
        if (bytes.len == 0)
            lua_pushnil(L);
        else
            is_good = is_good && cm_value_decode(L, bytes) == 0;
    }
    return is_good ? count
                   : push_failure(L, CM_E_REMOTE, cm_bytes_of("the answer holds bytes that are no value"));
}

int cm_hub_push_outcome(lua_State *L, struct cm_reader *reader) {
    switch (cm_read_u8(reader)) {
    case CM_HUB_ANSWERED:
        return push_results(L, reader);
    case CM_HUB_FAILED:
        return push_failure(L, CM_E_REMOTE, cm_read_bytes(reader));
    case CM_HUB_NO_HANDLER:
        return push_failure(L, CM_E_NOHANDLER, cm_bytes_of(cm_error_text(CM_E_NOHANDLER)));
    default:
        reader->error = CM_E_BADFRAME;
        return 0;
    }
}

int cm_hub_push_workers(lua_State *L, struct cm_reader *reader) {
    uint32_t count = cm_read_count(reader, 4);
    lua_createtable(L, (int)count, 0);
    for (uint32_t i = 1; i <= count; i++) {
        lua_pushinteger(L, cm_read_u32(reader));
        lua_rawseti(L, -2, i);
    }
    return 1;
}

/* A message on its way to the hook. */
struct message {
    uint64_t ticket;
    uint32_t sender;
    size_t charge;
    struct cm_bytes parts[CM_MAIL_PARTS];
};

static int push_message(lua_State *L) {
    const struct message *message = lua_touserdata(L, 1);
    lua_pushinteger(L, (lua_Integer)message->ticket);
    lua_pushinteger(L, message->sender);
    lua_pushinteger(L, (lua_Integer)message->charge);
    for (int i = 0; i < CM_MAIL_PARTS; i++)
        lua_pushlstring(L, (const char *)message->parts[i].data, message->parts[i].len);
    return 6;
}

int cm_hub_message(struct cm_vm *vm, struct cm_bytes payload) {
    struct message message;
    struct cm_bytes mail;
    if (cm_delivery_read(payload, &message.ticket, &message.sender, &mail) ||
        cm_mail_split(mail, message.parts))
        return CM_E_BADFRAME;
    message.charge = mail.len + CM_MAIL_CHARGE_BYTES;
    if (!cm_replies_try_push(vm, push_message, &message, 6))
        cm_vm_fail(vm, cm_bytes_of("not enough memory for a message that has come"));
    cm_vm_call(vm, CM_VM_HOOK_MESSAGE, 6, NULL);
    return 0;
}

int cm_hub_over(struct cm_vm *vm, struct cm_bytes payload) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    uint64_t ticket = cm_read_u64(&reader);
    if (cm_reader_end(&reader))
        return CM_E_BADFRAME;
    lua_pushinteger(vm->L, (lua_Integer)ticket);
    cm_vm_call(vm, CM_VM_HOOK_OVER, 1, NULL);
    return 0;
}
