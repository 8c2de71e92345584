/* Frames: u32 payload length, u8 operation, u8 flags, u16 zero, u32 request id, payload; little-endian. Both
 * ends are the same binary, so there is no version. Decoding is incremental and trusts nothing. */
#ifndef CM_WIRE_FRAME_H
#define CM_WIRE_FRAME_H

#include "base/buf.h"

enum {
    CM_FRAME_HEADER_BYTES = 12,
    CM_FRAME_REPLY = 1, /* flag: answers the request of this id */
    CM_FRAME_ERROR = 2, /* flag, with REPLY: the payload is an error (cm_write_error) */
};

struct cm_frame {
    uint8_t op;
    uint8_t flags;
    uint32_t id;
    struct cm_bytes payload; /* a view into the decoded bytes */
};

/* A request's operation and id as one number, and back. */
static inline uint64_t cm_frame_number(const struct cm_frame *frame) {
    return (uint64_t)frame->op << 32 | frame->id;
}
static inline uint8_t cm_frame_number_op(uint64_t number) {
    return (uint8_t)(number >> 32);
}
static inline uint32_t cm_frame_number_id(uint64_t number) {
    return (uint32_t)number;
}

/* Takes the first frame off `bytes`. Returns its whole length and fills `frame` when it is complete; 0 when
 * more bytes are needed, with the bytes needed in all so far in `need` (the header first); CM_E_BADFRAME when
 * no continuation could make it a frame: unknown operation or flags, a zero that is not zero, a payload of
 * more than max_payload bytes. */
int64_t cm_frame_decode(struct cm_bytes bytes, size_t max_payload, struct cm_frame *frame, size_t *need);

/* Starts a frame at the end of the buffer and returns where in `start`; the payload is appended by the
 * caller. 0 or CM_E_NOMEMORY. */
int cm_frame_begin(struct cm_buf *buf, uint8_t op, uint8_t flags, uint32_t id, size_t *start);

/* Completes the frame that starts there, now that its payload is in. 0, or CM_E_TOOLARGE, with the frame
 * taken back, when the payload's length does not fit its field. */
int cm_frame_end(struct cm_buf *buf, size_t start);

#endif
