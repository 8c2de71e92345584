/* A view of bytes somebody else owns, and a growing buffer that owns its own. Any process may use them; a
 * buffer belongs to one thread. */
#ifndef CM_BASE_BUF_H
#define CM_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

/* A view: valid for as long as its owner says. */
struct cm_bytes {
    const uint8_t *data;
    size_t len;
};

/* Zeroed is a valid empty buffer. data has room for cap bytes, of which the first len are used. */
struct cm_buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

/* A view of a NUL-terminated string, without the NUL. */
struct cm_bytes cm_bytes_of(const char *text);

/* A view of what the buffer holds, valid until the buffer changes. */
struct cm_bytes cm_buf_view(const struct cm_buf *buf);

/* Gives the memory back; the buffer is empty and usable afterwards. */
void cm_buf_deinit(struct cm_buf *buf);

/* Makes room for `more` bytes behind len, growing to at least twice the size. 0, or CM_E_NOMEMORY with the
 * buffer as it was. */
int cm_buf_reserve(struct cm_buf *buf, size_t more);

/* Appends a copy of the bytes. 0, or CM_E_NOMEMORY with the buffer as it was. */
int cm_buf_append(struct cm_buf *buf, const void *bytes, size_t len);

/* Drops the first `len` bytes (len <= buf->len) and moves the rest to the front. */
void cm_buf_consume(struct cm_buf *buf, size_t len);

/* Empties the buffer, and gives its memory back if it has grown beyond `keep_bytes`. */
void cm_buf_reset(struct cm_buf *buf, size_t keep_bytes);

#endif
