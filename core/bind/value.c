#include "bind/value.h"

#include <ctype.h>
#include <lauxlib.h>
#include <msgpack/pack.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* A table that is being encoded, and the key it is at: what a refusal needs to say where it stands. */
struct level {
    const struct level *up;
    const void *table;
    int depth;
    int key;           /* where on the stack the key is, or 0: see index */
    lua_Integer index; /* the array's index */
};

struct encoder {
    lua_State *L;
    msgpack_packer packer; /* its calls return what write_bytes does: 0 or an error code */
    struct cm_buf *buf;
    size_t limit; /* buf->len may not pass it */
    char *refusal;
};

static int write_bytes(void *data, const char *bytes, size_t len) {
    struct encoder *encoder = data;
    if (len > encoder->limit - encoder->buf->len)
        return CM_E_TOOLARGE;
    return cm_buf_append(encoder->buf, bytes, len);
}

/* What one key adds to a path at most: brackets, quotes, KEY_SHOWN characters and what ends a long one. */
enum { KEY_SHOWN = 40, KEY_BYTES = 64 };

static bool is_identifier(const char *name, size_t len) {
    static const char letters[] = "_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return len && len <= KEY_SHOWN && !isdigit((unsigned char)name[0]) && strspn(name, letters) == len;
}

static size_t write_string_key(char *out, const char *name, size_t len) {
    if (is_identifier(name, len))
        return (size_t)sprintf(out, ".%.*s", (int)len, name);
    size_t used = (size_t)sprintf(out, "[\"");
    size_t i = 0;
    for (; i < len && used < KEY_SHOWN; i++) {
        unsigned char byte = (unsigned char)name[i];
        if (byte == '"' || byte == '\\')
            used += (size_t)sprintf(out + used, "\\%c", byte);
        else if (byte < ' ' || byte > '~')
            used += (size_t)sprintf(out + used, "\\x%02X", byte);
        else
            out[used++] = (char)byte;
    }
    return used + (size_t)sprintf(out + used, "%s\"]", i < len ? "..." : "");
}

static size_t write_key(lua_State *L, const struct level *level, char *out) {
    if (!level->key)
        return (size_t)sprintf(out, "[" LUA_INTEGER_FMT "]", level->index);
    if (lua_isinteger(L, level->key))
        return (size_t)sprintf(out, "[" LUA_INTEGER_FMT "]", lua_tointeger(L, level->key));
    if (lua_type(L, level->key) == LUA_TNUMBER)
        return (size_t)sprintf(out, "[" LUA_NUMBER_FMT "]", lua_tonumber(L, level->key));
    size_t len;
    const char *name = lua_tolstring(L, level->key, &len);
    return write_string_key(out, name, len);
}

/* Writes why the value at this level's key cannot be shared. */
__attribute__((format(printf, 3, 4), cold)) static int
refuse(const struct encoder *encoder, const struct level *level, const char *format, ...) {
    char reason[64];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);

    const struct level *outward[CM_VALUE_MAX_DEPTH];
    int count = 0;
    for (; level; level = level->up)
        outward[count++] = level;
    char path[16 + CM_VALUE_MAX_DEPTH * KEY_BYTES];
    size_t len = (size_t)sprintf(path, "value");
    while (count)
        len += write_key(encoder->L, outward[--count], path + len);

    static const char gap[] = "...";
    size_t room = CM_VALUE_PATH_BYTES - sizeof "cannot share : " - strlen(reason);
    size_t head = len, tail = 0;
    if (len > room) {
        tail = (room - strlen(gap)) / 2;
        head = room - strlen(gap) - tail;
    }
    snprintf(encoder->refusal, CM_VALUE_PATH_BYTES, "cannot share %.*s%s%.*s: %s", (int)head, path,
             tail ? gap : "", (int)tail, path + len - tail, reason);
    return CM_E_BADVALUE;
}

static const char *kind_of(lua_State *L, int index) {
    int type = lua_type(L, index);
    return type == LUA_TNONE ? "nil" : type == LUA_TLIGHTUSERDATA ? "light userdata" : lua_typename(L, type);
}

/* The n of a table whose keys are exactly 1..n, or 0. As no two keys are equal, it is enough that none is
 * less than 1 and the highest is their number. */
static size_t array_length(lua_State *L, int table) {
    size_t count = 0;
    lua_Integer highest = 0;
    lua_pushnil(L);
    for (; lua_next(L, table); lua_pop(L, 1)) {
        lua_Integer key = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;
        if (key < 1) {
            lua_pop(L, 2);
            return 0;
        }
        if (key > highest)
            highest = key;
        count++;
    }
    return (size_t)highest == count ? count : 0;
}

static int encode_number(struct encoder *encoder, int index) {
    lua_State *L = encoder->L;
    return lua_isinteger(L, index) ? msgpack_pack_int64(&encoder->packer, lua_tointeger(L, index))
                                   : msgpack_pack_double(&encoder->packer, lua_tonumber(L, index));
}

static int encode_string(struct encoder *encoder, int index) {
    size_t len;
    const char *string = lua_tolstring(encoder->L, index, &len);
    if (len > encoder->limit - encoder->buf->len)
        return CM_E_TOOLARGE; /* before msgpack-c cuts the length to 32 bits */
    int err = msgpack_pack_str(&encoder->packer, len);
    return err ? err : msgpack_pack_str_body(&encoder->packer, string, len);
}

static int encode_table(struct encoder *encoder, int index, const struct level *up);

/* Encodes the value at an absolute index; `up` is the table it sits in, or NULL. */
static int encode_value(struct encoder *encoder, int index, const struct level *up) {
    lua_State *L = encoder->L;
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        return encode_string(encoder, index);
    case LUA_TNUMBER:
        return encode_number(encoder, index);
    case LUA_TTABLE:
        return encode_table(encoder, index, up);
    case LUA_TBOOLEAN:
        return lua_toboolean(L, index) ? msgpack_pack_true(&encoder->packer)
                                       : msgpack_pack_false(&encoder->packer);
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, index))
            return msgpack_pack_nil(&encoder->packer);
        break;
    default:
        break;
    }
    return refuse(encoder, up, "%s", kind_of(L, index));
}

static int encode_array(struct encoder *encoder, int table, struct level *level, size_t count) {
    lua_State *L = encoder->L;
    int value = lua_gettop(L) + 1;
    int err = msgpack_pack_array(&encoder->packer, count);
    for (level->index = 1; !err && (size_t)level->index <= count; level->index++) {
        lua_rawgeti(L, table, level->index);
        err = encode_value(encoder, value, level);
        lua_settop(L, value - 1);
    }
    return err;
}

/* A map's count is known when its items are written: then they make room for a head of more than one byte.
 * Most maps are small, and need none. */
static int close_map(struct encoder *encoder, size_t start, size_t count) {
    struct cm_buf *buf = encoder->buf;
    size_t more = count < 16 ? 0 : count < 65536 ? 2 : 4;
    if (more > encoder->limit - buf->len)
        return CM_E_TOOLARGE;
    int err = cm_buf_reserve(buf, more);
    if (err)
        return err;
    size_t len = buf->len;
    if (more)
        memmove(buf->data + start + 1 + more, buf->data + start + 1, len - start - 1);
    buf->len = start;
    err = msgpack_pack_map(&encoder->packer, count);
    buf->len = len + more;
    return err;
}

static int encode_map(struct encoder *encoder, int table, struct level *level) {
    lua_State *L = encoder->L;
    int key = level->key = lua_gettop(L) + 1;
    size_t start = encoder->buf->len;
    size_t count = 0;
    int err = msgpack_pack_map(&encoder->packer, 0);
    lua_pushnil(L);
    for (; !err && lua_next(L, table); count++) {
        switch (lua_type(L, key)) {
        case LUA_TSTRING:
            err = encode_string(encoder, key);
            break;
        case LUA_TNUMBER:
            err = encode_number(encoder, key);
            break;
        default:
            err = refuse(encoder, level->up, "a table with a %s key", kind_of(L, key));
        }
        if (!err)
            err = encode_value(encoder, key + 1, level);
        lua_settop(L, key);
    }
    return err ? err : close_map(encoder, start, count);
}

static int encode_table(struct encoder *encoder, int index, const struct level *up) {
    struct level level = {
        .up = up, .table = lua_topointer(encoder->L, index), .depth = up ? up->depth + 1 : 1};
    for (const struct level *outer = up; outer; outer = outer->up)
        if (outer->table == level.table)
            return refuse(encoder, up, "a table that contains itself");
    if (level.depth > CM_VALUE_MAX_DEPTH)
        return refuse(encoder, up, "nested deeper than %d tables", CM_VALUE_MAX_DEPTH);
    if (!lua_checkstack(encoder->L, 4))
        return CM_E_NOMEMORY;
    size_t count = array_length(encoder->L, index);
    return count ? encode_array(encoder, index, &level, count) : encode_map(encoder, index, &level);
}

int cm_value_encode(lua_State *L, int index, size_t max_bytes, struct cm_buf *buf,
                    char refusal[CM_VALUE_PATH_BYTES]) {
    size_t start = buf->len;
    int top = lua_gettop(L);
    if (max_bytes > UINT32_MAX)
        max_bytes = UINT32_MAX;
    struct encoder encoder = {.L = L, .buf = buf, .limit = start + max_bytes};
    encoder.refusal = refusal;
    msgpack_packer_init(&encoder.packer, &encoder, write_bytes);
    int err = encode_value(&encoder, lua_absindex(L, index), NULL);
    if (err) {
        lua_settop(L, top);
        buf->len = start;
    }
    return err;
}
