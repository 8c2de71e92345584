/* Bytes to Lua values: cm_value_decode and its kin, of bind/value.h. */
#include <lauxlib.h>
#include <string.h>

#include "base/error.h"
#include "bind/value.h"
#include "data/item.h"

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
