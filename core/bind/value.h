/* Lua values as bytes and back: MessagePack, lossless for everything that is data. A table with the keys 1..n
 * (n >= 1) becomes an array, any other a map; cjson.null (the light userdata NULL) becomes nil. */
#ifndef CM_BIND_VALUE_H
#define CM_BIND_VALUE_H

#include <lua.h>
#include <stdbool.h>

#include "base/buf.h"

enum {
    CM_VALUE_MAX_DEPTH = 128,  /* tables inside tables, the outermost counted */
    CM_VALUE_PATH_BYTES = 256, /* room for a refusal's text, NUL included */
};

/* Appends the value at `index` to the buffer.
 *
 * 0; or, with the buffer holding what it held: CM_E_TOOLARGE when it would take more than max_bytes (or than
 * 4 GiB), CM_E_NOMEMORY, or CM_E_BADVALUE when it is not data, with `refusal` saying what sits where: "cannot
 * share value.handlers[2]: function" (a long path loses its middle, the reason stays whole); with any other
 * result `refusal` is untouched. Metatables are ignored, no Lua code runs and nothing is raised; the stack is
 * as it was. */
int cm_value_encode(lua_State *L, int index, size_t max_bytes, struct cm_buf *buf,
                    char refusal[CM_VALUE_PATH_BYTES]);

/* Whether the bytes are of a value that is no table: its decoding allocates once at most, and at its end. */
bool cm_value_is_scalar(struct cm_bytes bytes);

/* Pushes the value that fills `bytes` exactly. 0; or, with nothing pushed, CM_E_BADVALUE when the bytes are
 * not one whole value of the kinds cm_value_encode writes. Takes memory in proportion to the bytes, whatever
 * they say. May raise a Lua memory error. Lua may collect garbage meanwhile and so run finalizers: nothing
 * that they can reach may move or free the bytes. */
int cm_value_decode(lua_State *L, struct cm_bytes bytes);

/* The same of a document's body, or of a part of it (core/data/document): what is expired at now_ms is
 * absent, an array has a hole there, and the whole is nil. */
int cm_value_decode_document(lua_State *L, struct cm_bytes bytes, uint64_t now_ms);

#endif
