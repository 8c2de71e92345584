#include "bind/value.h"

#include <ctype.h>
#include <lauxlib.h>
#include <msgpack/pack.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/item.h"

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

/* Each item takes a byte at least, so the items that are announced and still to come (`owed`) never outnumber
 * the bytes that are left: what a container allocates for them, nested ones together, is bounded by the
 * input. */
struct decoder {
    lua_State *L;
    const uint8_t *next;
    const uint8_t *end;
    size_t owed;
    bool marks; /* a document's: values may have marks, and be expired at now_ms */
    uint64_t now_ms;
};

/* Deeper than any value: where nothing but a scalar may come, and that without a mark. */
enum { KEY_DEPTH = CM_VALUE_MAX_DEPTH + 1 };

_Static_assert((int)CM_VALUE_MAX_DEPTH == (int)CM_ITEM_MAX_DEPTH, "values and documents nest differently");

/* The bytes that are not needed for items already announced. */
static size_t spare(const struct decoder *decoder) {
    return (size_t)(decoder->end - decoder->next) - decoder->owed;
}

/* Reads a big-endian number of `len` bytes. */
static bool take_number(struct decoder *decoder, size_t len, uint64_t *number) {
    if (len > spare(decoder))
        return false;
    *number = 0;
    for (size_t i = 0; i < len; i++)
        *number = *number << 8 | *decoder->next++;
    return true;
}

static bool push_string(struct decoder *decoder, uint64_t len) {
    if (len > spare(decoder))
        return false;
    lua_pushlstring(decoder->L, (const char *)decoder->next, len);
    decoder->next += len;
    return true;
}

static bool push_unsigned(struct decoder *decoder, size_t len) {
    uint64_t number;
    bool ok = take_number(decoder, len, &number) && number <= LUA_MAXINTEGER;
    if (ok)
        lua_pushinteger(decoder->L, (lua_Integer)number);
    return ok;
}

static bool push_signed(struct decoder *decoder, size_t len) {
    uint64_t number, sign = UINT64_C(1) << (8 * len - 1);
    bool ok = take_number(decoder, len, &number);
    if (ok)
        lua_pushinteger(decoder->L, (lua_Integer)((number ^ sign) - sign));
    return ok;
}

static bool push_float(struct decoder *decoder) {
    uint64_t bits;
    lua_Number number;
    bool ok = take_number(decoder, sizeof bits, &bits);
    if (ok) {
        memcpy(&number, &bits, sizeof number);
        lua_pushnumber(decoder->L, number);
    }
    return ok;
}

static bool push_value(struct decoder *decoder, int depth);

static bool push_item(struct decoder *decoder, int depth) {
    decoder->owed--;
    return push_value(decoder, depth);
}

static bool push_array(struct decoder *decoder, uint64_t count, int depth) {
    if (count > spare(decoder) || depth >= CM_VALUE_MAX_DEPTH)
        return false;
    lua_State *L = decoder->L;
    decoder->owed += count;
    luaL_checkstack(L, 2, "a value with many tables inside tables");
    lua_createtable(L, count <= INT32_MAX ? (int)count : 0, 0);
    for (uint64_t i = 1; i <= count; i++) {
        if (!push_item(decoder, depth + 1))
            return false;
        lua_rawseti(L, -2, (lua_Integer)i);
    }
    return true;
}

static bool is_key(lua_State *L, int index) {
    int type = lua_type(L, index);
    /* NaN is the one number that does not equal itself. */
    return type == LUA_TSTRING || (type == LUA_TNUMBER && lua_rawequal(L, index, index));
}

static bool push_map(struct decoder *decoder, uint64_t count, int depth) {
    if (count > spare(decoder) / 2 || depth >= CM_VALUE_MAX_DEPTH)
        return false;
    lua_State *L = decoder->L;
    decoder->owed += 2 * count;
    luaL_checkstack(L, 3, "a value with many tables inside tables");
    lua_createtable(L, 0, count <= INT32_MAX ? (int)count : 0);
    for (; count; count--) {
        if (!push_item(decoder, KEY_DEPTH) || !is_key(L, -1) || !push_item(decoder, depth + 1))
            return false;
        lua_rawset(L, -3);
    }
    return true;
}

/* Passes over a value whose mark has been taken. */
static bool push_absent(struct decoder *decoder) {
    struct cm_bytes rest = {decoder->next, spare(decoder)};
    if (cm_item_skip(&rest))
        return false;
    decoder->next = rest.data;
    lua_pushnil(decoder->L);
    return true;
}

/* Behind a mark's first byte. */
static __attribute__((cold)) bool push_marked(struct decoder *decoder, int depth) {
    struct cm_bytes mark = {decoder->next - 1, spare(decoder) + 1};
    struct cm_item item;
    if (!decoder->marks || depth == KEY_DEPTH || cm_item_take(&mark, &item))
        return false;
    decoder->next = mark.data;
    if (mark.len && mark.data[0] == CM_ITEM_MARK_BYTE)
        return false;
    return item.count <= decoder->now_ms ? push_absent(decoder) : push_value(decoder, depth);
}

/* Pushes the next value; on failure leaves the stack to the caller. */
static bool push_value(struct decoder *decoder, int depth) {
    uint64_t tag, count;
    if (!take_number(decoder, 1, &tag))
        return false;
    if (tag <= 0x7f || tag >= 0xe0) {
        lua_pushinteger(decoder->L, (int8_t)tag);
        return true;
    }
    if (tag <= 0x8f)
        return push_map(decoder, tag & 0x0f, depth);
    if (tag <= 0x9f)
        return push_array(decoder, tag & 0x0f, depth);
    if (tag <= 0xbf)
        return push_string(decoder, tag & 0x1f);
    switch (tag) {
    case 0xc0:
        lua_pushlightuserdata(decoder->L, NULL);
        return true;
    case 0xc2:
    case 0xc3:
        lua_pushboolean(decoder->L, tag == 0xc3);
        return true;
    case 0xcb:
        return push_float(decoder);
    case 0xcc: /* unsigned, of 1, 2, 4, 8 bytes */
    case 0xcd:
    case 0xce:
    case 0xcf:
        return push_unsigned(decoder, (size_t)1 << (tag - 0xcc));
    case 0xd0: /* signed, likewise */
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return push_signed(decoder, (size_t)1 << (tag - 0xd0));
    case 0xd9: /* strings, their length in 1, 2, 4 bytes */
    case 0xda:
    case 0xdb:
        return take_number(decoder, (size_t)1 << (tag - 0xd9), &count) && push_string(decoder, count);
    case 0xdc: /* arrays, their count in 2, 4 bytes */
    case 0xdd:
        return take_number(decoder, (size_t)2 << (tag - 0xdc), &count) && push_array(decoder, count, depth);
    case 0xde: /* maps, likewise */
    case 0xdf:
        return take_number(decoder, (size_t)2 << (tag - 0xde), &count) && push_map(decoder, count, depth);
    default:
        return tag == CM_ITEM_MARK_BYTE && push_marked(decoder, depth);
    }
}

bool cm_value_is_scalar(struct cm_bytes bytes) {
    uint8_t byte = bytes.len ? bytes.data[0] : 0;
    /* fixmap and fixarray, array 16 to map 32 */
    return !(byte >= 0x80 && byte <= 0x9f) && !(byte >= 0xdc && byte <= 0xdf);
}

static int decode(struct decoder *decoder, struct cm_bytes bytes) {
    lua_State *L = decoder->L;
    if (!bytes.len)
        return CM_E_BADVALUE;
    int top = lua_gettop(L);
    luaL_checkstack(L, 1, "a value");
    decoder->next = bytes.data;
    decoder->end = bytes.data + bytes.len;
    if (push_value(decoder, 0) && decoder->next == decoder->end)
        return 0;
    lua_settop(L, top);
    return CM_E_BADVALUE;
}

int cm_value_decode(lua_State *L, struct cm_bytes bytes) {
    struct decoder decoder = {.L = L};
    return decode(&decoder, bytes);
}

int cm_value_decode_document(lua_State *L, struct cm_bytes bytes, uint64_t now_ms) {
    struct decoder decoder = {.L = L, .marks = true, .now_ms = now_ms};
    return decode(&decoder, bytes);
}
