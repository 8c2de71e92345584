#include "bind/serving.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bind/calls.h"
#include "cluster/server.h"

/* --- what the server calls --- */

/* The reply without results to this id. */
static void wake(struct cm_vm *vm, lua_Integer id) {
    lua_pushinteger(vm->L, id);
    cm_vm_call(vm, CM_VM_HOOK_REPLY, 1, NULL);
}

struct place {
    struct cm_vm *vm;
    lua_Integer closed; /* the id of the reply that says so */
};

static struct place *place_of(const struct cm_exchange *exchange) {
    return cm_server_of(exchange)->owner;
}

static void on_request(struct cm_exchange *exchange) {
    struct cm_vm *vm = place_of(exchange)->vm;
    lua_pushlightuserdata(vm->L, cm_server_of(exchange));
    lua_pushlightuserdata(vm->L, exchange);
    cm_vm_call(vm, CM_VM_HOOK_SERVE, 2, NULL);
}

static bool is_read_ready(const struct cm_exchange *exchange) {
    return exchange->complete || exchange->discards || !exchange->connection ||
           cm_exchange_unread(exchange).len > 0;
}

static void on_progress(struct cm_exchange *exchange) {
    struct cm_vm *vm = place_of(exchange)->vm;
    lua_Integer reader = exchange->reader, writer = exchange->writer;
    if (reader && is_read_ready(exchange)) {
        exchange->reader = 0;
        wake(vm, reader);
    }
    if (writer && !cm_exchange_is_full(exchange)) {
        exchange->writer = 0;
        wake(vm, writer);
    }
}

static void on_closed(struct cm_server *server) {
    struct place *place = server->owner;
    wake(place->vm, place->closed);
    free(place);
}

static const struct cm_server_events server_events = {
    .exchange = {on_request, on_progress},
    .on_closed = on_closed,
};

/* --- servers --- */

static uint64_t number_field(lua_State *L, const char *name) {
    lua_getfield(L, 2, name);
    lua_Integer value = lua_tointeger(L, -1);
    lua_pop(L, 1);
    return value < 0 ? 0 : (uint64_t)value;
}

/* The string stays in the table. */
static const char *text_field(lua_State *L, const char *name) {
    lua_getfield(L, 2, name);
    const char *text = lua_tostring(L, -1);
    lua_pop(L, 1);
    return text;
}

static int push_port(lua_State *L, int fd) {
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &len);
    if (address.ss_family == AF_INET)
        lua_pushinteger(L, ntohs(((const struct sockaddr_in *)&address)->sin_port));
    else if (address.ss_family == AF_INET6)
        lua_pushinteger(L, ntohs(((const struct sockaddr_in6 *)&address)->sin6_port));
    else
        lua_pushnil(L);
    return 1;
}

/* httpServe(fd, options) -> server, the id of the reply that says that it is closed, port | nil, message,
 * code. The descriptor is taken over. Options are checked by the caller. */
static int native_serve(lua_State *L) {
    struct cm_vm *vm = cm_vm_of(L);
    int fd = (int)luaL_checkinteger(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_getfield(L, 2, "stream");
    struct cm_server_options options = {
        .max_header_bytes = number_field(L, "maxHeader"),
        .max_body_bytes = number_field(L, "maxBody"),
        .max_connections = (unsigned)number_field(L, "maxConnections"),
        .idle_ms = number_field(L, "idleTimeout"),
        .header_ms = number_field(L, "headerTimeout"),
        .streamed = lua_toboolean(L, -1),
        .cert = text_field(L, "cert"),
        .key = text_field(L, "key"),
    };
    push_port(L, fd);
    struct place *place = calloc(1, sizeof *place);
    if (!place) {
        close(fd);
        return cm_requests_push_failure(L, CM_E_NOMEMORY);
    }
    *place = (struct place){vm, cm_vm_own_id(vm)};
    char reason[CM_SERVER_REASON_BYTES];
    struct cm_server *server;
    int err = cm_server_new(&vm->loop, fd, &options, &server_events, place, reason, &server);
    if (err) {
        free(place);
        lua_pushnil(L);
        lua_pushstring(L, reason);
        lua_pushstring(L, cm_error_name(err));
        return 3;
    }
    lua_pushlightuserdata(L, server);
    lua_pushinteger(L, place->closed);
    lua_pushvalue(L, -3);
    return 3;
}

/* httpStop(server) */
static int native_stop(lua_State *L) {
    cm_server_stop(lua_touserdata(L, 1));
    return 0;
}

/* --- what a request says: each takes the exchange first --- */

static int push_bytes(lua_State *L, struct cm_bytes bytes) {
    lua_pushlstring(L, (const char *)bytes.data, bytes.len);
    return 1;
}

/* httpMethod(exchange) -> string */
static int native_method(lua_State *L) {
    return push_bytes(L, cm_exchange_method(lua_touserdata(L, 1)));
}

/* httpTarget(exchange) -> string */
static int native_target(lua_State *L) {
    const struct cm_exchange *exchange = lua_touserdata(L, 1);
    return push_bytes(L, cm_buf_view(&exchange->target));
}

/* httpRemote(exchange) -> string | nil */
static int native_remote(lua_State *L) {
    char address[CM_EXCHANGE_ADDRESS_BYTES];
    cm_exchange_remote(lua_touserdata(L, 1), address);
    if (address[0])
        lua_pushstring(L, address);
    else
        lua_pushnil(L);
    return 1;
}

static void push_lower(lua_State *L, struct cm_bytes name) {
    luaL_Buffer buffer;
    char *room = luaL_buffinitsize(L, &buffer, name.len);
    for (size_t i = 0; i < name.len; i++)
        room[i] = (char)tolower(name.data[i]);
    luaL_pushresultsize(&buffer, name.len);
}

/* Adds to the table on top of the stack. */
static void set_field(void *context, struct cm_bytes name, struct cm_bytes value) {
    lua_State *L = context;
    push_lower(L, name);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TSTRING) {
        lua_pushstring(L, cm_head_is_word(name, "cookie") ? "; " : ", ");
        push_bytes(L, value);
        lua_concat(L, 3);
    } else {
        lua_pop(L, 1);
        push_bytes(L, value);
    }
    lua_rawset(L, -3);
}

/* httpHeaders(exchange) -> { [lower-case name] = value } */
static int native_headers(lua_State *L) {
    lua_newtable(L);
    cm_exchange_each(lua_touserdata(L, 1), set_field, L);
    return 1;
}

/* httpStreamed(exchange) -> whether its body is to be read piece by piece */
static int native_streamed(lua_State *L) {
    const struct cm_exchange *exchange = lua_touserdata(L, 1);
    lua_pushboolean(L, exchange->all->streamed);
    return 1;
}

/* httpBody(exchange) -> all of it */
static int native_body(lua_State *L) {
    struct cm_exchange *exchange = lua_touserdata(L, 1);
    push_bytes(L, cm_exchange_unread(exchange));
    cm_exchange_take(exchange);
    return 1;
}

/* httpRead(exchange) -> chunk | the id of a reply behind which to try again | nil: that was all | nil,
 * message, code */
static int native_read(lua_State *L) {
    struct cm_exchange *exchange = lua_touserdata(L, 1);
    if (cm_exchange_unread(exchange).len)
        return native_body(L);
    if (exchange->discards || (!exchange->complete && !exchange->connection))
        return cm_requests_push_failure(L, CM_E_CLOSED);
    if (exchange->complete) {
        lua_pushnil(L);
        return 1;
    }
    if (!exchange->reader)
        exchange->reader = cm_vm_own_id(cm_vm_of(L));
    lua_pushinteger(L, exchange->reader);
    return 1;
}

void cm_serving_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"httpServe", native_serve},       {"httpStop", native_stop},
        {"httpMethod", native_method},     {"httpTarget", native_target},
        {"httpRemote", native_remote},     {"httpHeaders", native_headers},
        {"httpBody", native_body},         {"httpRead", native_read},
        {"httpStreamed", native_streamed}, {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
