/* Bytes to be read from the front to the end, of which only the next few need to be at hand: who reads them
 * asks for those that it is about to look at, and passes over what it need not see. All of them lie in the
 * reader's memory, or `fetch` gets them from elsewhere (core/memory/pieces). One thread's. */
#ifndef CM_BASE_STREAM_H
#define CM_BASE_STREAM_H

#include "base/buf.h"

enum { CM_STREAM_LOOK_BYTES = 256 }; /* can be asked for at once */

struct cm_stream {
    struct cm_bytes ready; /* the next ones, at hand */
    uint64_t left;         /* all that are to come, these included */
    /* Passes over `skip` bytes, which are more than are ready, or 0; then has `want` ready, or all that are
     * left. 0, or a code with which the reading is over. NULL: all are ready. */
    int (*fetch)(struct cm_stream *stream, uint64_t skip, size_t want);
};

static inline struct cm_stream cm_stream_of(struct cm_bytes bytes) {
    return (struct cm_stream){.ready = bytes, .left = bytes.len};
}

/* Has `want` bytes ready, at most CM_STREAM_LOOK_BYTES, or all that are left. 0, or what fetch says. */
static inline int cm_stream_look(struct cm_stream *stream, size_t want) {
    if (stream->ready.len >= want || stream->ready.len == stream->left)
        return 0;
    return stream->fetch(stream, 0, want);
}

/* Passes over bytes, at most those that are left. 0, or what fetch says. */
static inline int cm_stream_skip(struct cm_stream *stream, uint64_t len) {
    if (len > stream->ready.len)
        return stream->fetch(stream, len, 0); // NOLINT: not NULL where less is ready than left
    stream->ready.data += len;
    stream->ready.len -= len;
    stream->left -= len;
    return 0;
}

#endif
