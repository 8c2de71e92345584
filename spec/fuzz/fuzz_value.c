/* The input is an encoded value. What decodes is encoded and decoded again, and must be the same value. */
#include <lauxlib.h>
#include <lua.h>

#include "base/error.h"
#include "bind/value.h"
#include "spec/core/lua_values.h"
#include "spec/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static lua_State *L;
    if (!L)
        L = luaL_newstate();
    MUST(L);
    uint8_t *bytes = exact_copy(data, size);
    int err = cm_value_decode(L, (struct cm_bytes){bytes, size});
    free(bytes);
    MUST(err == 0 || err == CM_E_BADVALUE);
    MUST(lua_gettop(L) == !err);
    if (err)
        return 0;

    struct cm_buf buf = {0};
    char refusal[CM_VALUE_PATH_BYTES];
    MUST(cm_value_encode(L, 1, SIZE_MAX, &buf, refusal) == 0);
    bytes = exact_copy(buf.data, buf.len);
    MUST(cm_value_decode(L, (struct cm_bytes){bytes, buf.len}) == 0);
    free(bytes);
    MUST(lua_gettop(L) == 2 && lua_values_equal(L, 1, 2));

    /* Of exactly that many bytes, and of no fewer. */
    size_t len = buf.len;
    buf.len = 0;
    MUST(cm_value_encode(L, 2, len - 1, &buf, refusal) == CM_E_TOOLARGE && buf.len == 0);
    MUST(cm_value_encode(L, 2, len, &buf, refusal) == 0 && buf.len == len);
    cm_buf_deinit(&buf);
    lua_settop(L, 0);
    return 0;
}
