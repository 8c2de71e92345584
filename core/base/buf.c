#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { SMALLEST_BYTES = 256 };

struct cm_bytes cm_bytes_of(const char *text) {
    return (struct cm_bytes){(const uint8_t *)text, strlen(text)};
}

struct cm_bytes cm_buf_view(const struct cm_buf *buf) {
    return (struct cm_bytes){buf->data, buf->len};
}

void cm_buf_deinit(struct cm_buf *buf) {
    free(buf->data);
    *buf = (struct cm_buf){0};
}

int cm_buf_reserve(struct cm_buf *buf, size_t more) {
    if (more <= buf->cap - buf->len)
        return 0;
    if (more > SIZE_MAX / 2 - buf->len)
        return CM_E_NOMEMORY;
    size_t cap = buf->cap < SMALLEST_BYTES / 2 ? SMALLEST_BYTES : buf->cap * 2;
    if (cap < buf->len + more)
        cap = buf->len + more;
    uint8_t *data = realloc(buf->data, cap);
    if (!data)
        return CM_E_NOMEMORY;
    buf->data = data;
    buf->cap = cap;
    return 0;
}

int cm_buf_append(struct cm_buf *buf, const void *bytes, size_t len) {
    if (len == 0)
        return 0; /* memcpy wants valid pointers even for nothing */
    int err = cm_buf_reserve(buf, len);
    if (err)
        return err;
    memcpy(buf->data + buf->len, bytes, len);
    buf->len += len;
    return 0;
}

void cm_buf_consume(struct cm_buf *buf, size_t len) {
    buf->len -= len;
    if (buf->len && len)
        memmove(buf->data, buf->data + len, buf->len);
}

void cm_buf_reset(struct cm_buf *buf, size_t keep_bytes) {
    buf->len = 0;
    if (buf->cap > keep_bytes)
        cm_buf_deinit(buf);
}
