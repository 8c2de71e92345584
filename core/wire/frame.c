#include "wire/frame.h"

#include "base/error.h"
#include "wire/message.h"
#include "wire/ops.h"

int64_t cm_frame_decode(struct cm_bytes bytes, size_t max_payload, struct cm_frame *frame, size_t *need) {
    *need = CM_FRAME_HEADER_BYTES;
    if (bytes.len < CM_FRAME_HEADER_BYTES)
        return 0;
    struct cm_reader header;
    cm_reader_init(&header, (struct cm_bytes){bytes.data, CM_FRAME_HEADER_BYTES});
    uint32_t len = cm_read_u32(&header);
    uint8_t op = cm_read_u8(&header);
    uint8_t flags = cm_read_u8(&header);
    uint32_t zero = cm_read_u8(&header);
    zero |= cm_read_u8(&header);
    uint32_t id = cm_read_u32(&header);
    if (!cm_op_name(op) || flags & ~(CM_FRAME_REPLY | CM_FRAME_ERROR) || flags == CM_FRAME_ERROR || zero ||
        len > max_payload)
        return CM_E_BADFRAME;
    *need = (size_t)CM_FRAME_HEADER_BYTES + len;
    if (bytes.len < *need)
        return 0;
    *frame = (struct cm_frame){op, flags, id, {bytes.data + CM_FRAME_HEADER_BYTES, len}};
    return (int64_t)*need;
}

int cm_frame_begin(struct cm_buf *buf, uint8_t op, uint8_t flags, uint32_t id, size_t *start) {
    const uint8_t header[CM_FRAME_HEADER_BYTES] = {[4] = op,
                                                   [5] = flags,
                                                   [8] = (uint8_t)id,
                                                   [9] = (uint8_t)(id >> 8),
                                                   [10] = (uint8_t)(id >> 16),
                                                   [11] = (uint8_t)(id >> 24)};
    *start = buf->len;
    return cm_buf_append(buf, header, sizeof header);
}

int cm_frame_end(struct cm_buf *buf, size_t start) {
    size_t len = buf->len - start - CM_FRAME_HEADER_BYTES;
    if (len > UINT32_MAX) {
        buf->len = start;
        return CM_E_TOOLARGE;
    }
    for (int i = 0; i < 4; i++)
        buf->data[start + (size_t)i] = (uint8_t)(len >> (8 * i));
    return 0;
}
