/* The answers of HTTP requests, and how their handlers are run: the other half of bind/serving.h. */
#include "bind/calls.h"
#include "bind/serving.h"
#include "cluster/head.h"
#include "cluster/server.h"
#include "data/json.h"

enum { OK = 200, INTERNAL_ERROR = 500 };

/* --- the answer: methods of a response, whose first element is the exchange until its handler returns --- */

static _Noreturn void refuse(lua_State *L, const char *what, const char *text) {
    lua_pushfstring(L, "response:%s: %s", what, text);
    cm_requests_blame(L);
}

/* NULL: the handler has returned. */
static struct cm_exchange *exchange_of(lua_State *L) {
    lua_rawgeti(L, 1, 1);
    struct cm_exchange *exchange = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return exchange;
}

/* The exchange, whose answer can go on. */
static struct cm_exchange *answer_of(lua_State *L, const char *what) {
    bool is_response = lua_istable(L, 1);
    struct cm_exchange *exchange = NULL;
    if (is_response) {
        lua_rawgeti(L, 1, 1);
        is_response = lua_islightuserdata(L, -1) || lua_isboolean(L, -1);
        exchange = lua_touserdata(L, -1);
        lua_pop(L, 1);
    }
    if (!is_response)
        refuse(L, what, "call it as a method of the response, with a colon");
    if (!exchange || exchange->finished || exchange->broken)
        refuse(L, what, "the answer is finished");
    return exchange;
}

static void check_unbegun(lua_State *L, const struct cm_exchange *exchange, const char *what) {
    if (exchange->begun)
        refuse(L, what, "the answer has begun");
}

static int push_response(lua_State *L) {
    lua_settop(L, 1);
    return 1;
}

/* httpStatus(response, status) -> response */
static int native_status(lua_State *L) {
    static const char what[] = "status";
    struct cm_exchange *exchange = answer_of(L, what);
    int is_integer;
    lua_Integer status = lua_tointegerx(L, 2, &is_integer);
    if (!is_integer || lua_type(L, 2) != LUA_TNUMBER || status < OK || status > 599)
        refuse(L, what, "the status must be an integer from 200 to 599");
    check_unbegun(L, exchange, what);
    exchange->status = (unsigned)status;
    return push_response(L);
}

static bool is_ours(struct cm_bytes name, struct cm_bytes value) {
    return cm_head_is_word(name, "content-length") || cm_head_is_word(name, "transfer-encoding") ||
           (cm_head_is_word(name, "connection") && !cm_head_is_word(value, "close"));
}

/* httpField(response, name, value) -> response */
static int native_field(lua_State *L) {
    static const char what[] = "header";
    struct cm_exchange *exchange = answer_of(L, what);
    if (lua_type(L, 2) != LUA_TSTRING || !cm_head_is_token(to_bytes(L, 2)))
        refuse(L, what, "the name must be a token of HTTP, like Content-Type");
    if ((lua_type(L, 3) != LUA_TSTRING && lua_type(L, 3) != LUA_TNUMBER) || !cm_head_is_value(to_bytes(L, 3)))
        refuse(L, what,
               "the value must be a string without control characters (CR, LF, NUL, ...), and not empty");
    struct cm_bytes name = to_bytes(L, 2), value = to_bytes(L, 3);
    check_unbegun(L, exchange, what);
    if (is_ours(name, value))
        refuse(L, what, lua_pushfstring(L, "%s is the server's to say", (const char *)name.data));
    int err = cm_exchange_field(exchange, name, value);
    if (err == CM_E_TOOLARGE)
        refuse(L, what, "the fields of an answer must be less than 12 KiB");
    if (err)
        return luaL_error(L, "not enough memory");
    return push_response(L);
}

static struct cm_bytes chunk_of(lua_State *L, const char *what) {
    int type = lua_type(L, 2);
    if (type != LUA_TSTRING && type != LUA_TNUMBER) {
        const char *given = type <= LUA_TNIL ? "nil" : lua_pushfstring(L, "a %s", lua_typename(L, type));
        refuse(L, what, lua_pushfstring(L, "the chunk must be a string, not %s", given));
    }
    return to_bytes(L, 2);
}

/* httpMayWrite(response, chunk): raises what httpWrite would. */
static int native_may_write(lua_State *L) {
    static const char what[] = "write";
    answer_of(L, what);
    chunk_of(L, what);
    return 0;
}

/* httpWrite(response [, chunk]) -> response | the id of a reply behind which to call it again, without the
 * chunk | nil, message, code */
static int native_write(lua_State *L) {
    static const char what[] = "write";
    struct cm_bytes chunk = {0};
    if (!lua_isnone(L, 2)) {
        answer_of(L, what);
        chunk = chunk_of(L, what);
    }
    struct cm_exchange *exchange = exchange_of(L);
    if (!exchange)
        return push_response(L); /* whose handler has not waited for it */
    int err = cm_exchange_write(exchange, chunk);
    if (err)
        return cm_requests_push_failure(L, err);
    if (!cm_exchange_is_full(exchange))
        return push_response(L);
    if (!exchange->writer)
        exchange->writer = cm_vm_own_id(cm_vm_of(L));
    lua_pushinteger(L, exchange->writer);
    return 1;
}

/* 0, or why it was not all taken. */
static int finish(struct cm_exchange *exchange, struct cm_bytes rest) {
    int err = cm_exchange_write(exchange, rest);
    if (err && err != CM_E_CLOSED)
        cm_exchange_break(exchange);
    else
        cm_exchange_finish(exchange);
    return err;
}

/* httpFinish(response, chunk) -> response | nil, message, code */
static int native_finish(lua_State *L) {
    static const char what[] = "finish";
    struct cm_exchange *exchange = answer_of(L, what);
    struct cm_bytes rest = {0};
    if (!lua_isnoneornil(L, 2))
        rest = chunk_of(L, what);
    int err = finish(exchange, rest);
    return err ? cm_requests_push_failure(L, err) : push_response(L);
}

/* httpJson(response, value) -> likewise */
static int native_json(lua_State *L) {
    static const char what[] = "json";
    struct cm_exchange *exchange = answer_of(L, what);
    struct cm_vm *vm = cm_vm_of(L);
    if (lua_isnoneornil(L, 2))
        refuse(L, what, "the value must not be nil; null is cjson.null");
    check_unbegun(L, exchange, what);
    cm_buf_reset(&vm->scratch, KEEP_BYTES);
    cm_buf_reset(&vm->value, KEEP_BYTES);
    int err = cm_requests_encode(L, vm, 2, NULL);
    if (!err)
        err = cm_json_write(cm_buf_view(&vm->scratch), 0, false, &vm->value);
    if (err == CM_E_BADVALUE)
        refuse(L, what, "NaN and the infinities are no JSON");
    if (!err)
        err = cm_exchange_field(exchange, cm_bytes_of("Content-Type"), cm_bytes_of("application/json"));
    if (!err)
        err = finish(exchange, cm_buf_view(&vm->value));
    return err ? cm_requests_push_failure(L, err) : push_response(L);
}

/* --- handlers --- */

/* The upvalues of what httpHandler gives. */
enum { REQUEST_CLASS = 1, RESPONSE_CLASS, TRACE, REPORT };
/* Its stack. */
enum { EXCHANGE = 1, HANDLER, TRACER, REQUEST, RESPONSE };

enum { REQUEST_FIELDS = 4 }; /* that most handlers look at, at most */

static void push_object(lua_State *L, int class, int fields) {
    lua_createtable(L, 1, fields);
    lua_pushvalue(L, EXCHANGE);
    lua_rawseti(L, -2, 1);
    lua_pushvalue(L, lua_upvalueindex(class));
    lua_setmetatable(L, -2);
}

/* The request is over: an object says so from now on. */
static void end_object(lua_State *L, int index) {
    lua_pushboolean(L, false);
    lua_rawseti(L, index, 1);
}

static void answer_failure(struct cm_exchange *exchange) {
    static const char text[] = "internal server error\n";
    if (exchange->finished)
        return;
    if (exchange->begun) {
        cm_exchange_break(exchange);
        return;
    }
    cm_exchange_reset(exchange);
    exchange->status = INTERNAL_ERROR;
    if (cm_exchange_field(exchange, cm_bytes_of("Content-Type"), cm_bytes_of("text/plain")))
        cm_exchange_break(exchange);
    finish(exchange, cm_bytes_of(text));
}

/* The handler has ended; an answer that it has not finished is finished. */
static int end_handler(lua_State *L, int status, lua_KContext context) {
    (void)context;
    struct cm_exchange *exchange = lua_touserdata(L, EXCHANGE);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushvalue(L, lua_upvalueindex(REPORT));
        lua_insert(L, -2);
        if (lua_pcall(L, 1, 0, 0) != LUA_OK) /* a script may have closed or replaced what it writes to */
            lua_pop(L, 1);
        answer_failure(exchange);
    }
    end_object(L, REQUEST);
    end_object(L, RESPONSE);
    if (!exchange->finished && !exchange->broken)
        cm_exchange_finish(exchange);
    cm_exchange_drop(exchange);
    return 0;
}

/* The body of a coroutine: (exchange, handler) */
static int handle(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(TRACE));
    push_object(L, REQUEST_CLASS, REQUEST_FIELDS);
    push_object(L, RESPONSE_CLASS, 0);
    lua_pushvalue(L, HANDLER);
    lua_pushvalue(L, REQUEST);
    lua_pushvalue(L, RESPONSE);
    return end_handler(L, lua_pcallk(L, 2, 0, TRACER, 0, end_handler), 0);
}

/* httpHandler(request's metatable, response's metatable, trace, report) -> fn(exchange, handler), which calls
 * the handler with a request and a response and raises nothing that it raises: the message handler `trace` is
 * called with that, and report with what trace gives. */
static int native_handler(lua_State *L) {
    lua_settop(L, REPORT);
    lua_pushcclosure(L, handle, REPORT);
    return 1;
}

void cm_answers_open(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"httpStatus", native_status},      {"httpField", native_field},
        {"httpMayWrite", native_may_write}, {"httpWrite", native_write},
        {"httpFinish", native_finish},      {"httpJson", native_json},
        {"httpHandler", native_handler},    {NULL, NULL},
    };
    luaL_setfuncs(L, functions, 0);
}
