/* A stream that has ready no byte more than was asked for, in memory of just that size, so that a sanitizer
 * sees who reads what it did not ask for. */
#ifndef CM_SPEC_CORE_TRICKLE_H
#define CM_SPEC_CORE_TRICKLE_H

#include <stdlib.h>
#include <string.h>

#include "base/stream.h"

struct trickle {
    struct cm_stream stream;
    struct cm_bytes all;
    uint8_t *ready;
};

static inline int trickle_fetch(struct cm_stream *stream, uint64_t skip, size_t want) {
    struct trickle *trickle = (struct trickle *)stream;
    if (skip > stream->left || want > CM_STREAM_LOOK_BYTES || (skip && skip <= stream->ready.len))
        abort();
    stream->left -= skip;
    size_t len = want < stream->left ? want : stream->left;
    uint8_t *ready = malloc(len ? len : 1);
    if (!ready)
        abort();
    if (len)
        memcpy(ready, trickle->all.data + (trickle->all.len - stream->left), len);
    free(trickle->ready);
    trickle->ready = ready;
    stream->ready = (struct cm_bytes){ready, len};
    return 0;
}

static inline void trickle_init(struct trickle *trickle, struct cm_bytes bytes) {
    *trickle = (struct trickle){.stream = {.left = bytes.len, .fetch = trickle_fetch}, .all = bytes};
}

static inline void trickle_deinit(struct trickle *trickle) {
    free(trickle->ready);
}

#endif
