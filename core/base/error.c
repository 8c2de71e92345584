#include "base/error.h"

#include <string.h>

const char *cm_error_name(int code) {
    switch (code) {
#define XX(name, word, text) \
    case CM_E_##name:        \
        return word;
        CM_ERRORS(XX)
#undef XX
    default:
        break;
    }
    const char *name = code < 0 && code > CM_ERROR_BASE ? strerrorname_np(-code) : NULL;
    return name ? name : "UNKNOWN";
}

const char *cm_error_text(int code) {
    switch (code) {
#define XX(name, word, text) \
    case CM_E_##name:        \
        return text;
        CM_ERRORS(XX)
#undef XX
    default:
        break;
    }
    const char *text = code < 0 && code > CM_ERROR_BASE ? strerrordesc_np(-code) : NULL;
    return text ? text : "unknown error";
}
