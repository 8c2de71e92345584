/* Lua values as bytes and back: MessagePack, lossless for everything that is data. */
#ifndef CM_BIND_VALUE_H
#define CM_BIND_VALUE_H

#include <lua.h>

#include "base/buf.h"

enum {
    CM_VALUE_MAX_DEPTH = 128,    /* tables inside tables, the outermost counted */
    CM_VALUE_PATH_BYTES = 256,   /* room for a refusal's text, NUL included */
};

/* Appends the value at `index` to the buffer.
 *
 * 0; or, with the buffer as it was: CM_E_TOOLARGE when it would take more than max_bytes, CM_E_NOMEMORY, or
 * CM_E_BADVALUE when it is not data, with `refusal` saying what sits where: "cannot share value.handlers[2]:
 * function". Metatables are ignored and no Lua code runs; the stack is as it was. May raise a Lua memory error
 * when the stack cannot grow (the buffer then stays the caller's). */
int cm_value_encode(lua_State *L, int index, size_t max_bytes, struct cm_buf *buf,
                    char refusal[CM_VALUE_PATH_BYTES]);

/* Pushes the value that fills `bytes` exactly. 0; or, with nothing pushed, CM_E_BADVALUE when the bytes are not
 * one whole value as cm_value_encode writes them. May raise a Lua memory error. */
int cm_value_decode(lua_State *L, struct cm_bytes bytes);

#endif
