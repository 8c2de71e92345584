/* The input is what a peer sends; its first byte says in which pieces it arrives. Frames are the same in
 * whatever pieces, and what is taken for one is written the same way. */
#include "base/error.h"
#include "spec/fuzz/fuzz.h"
#include "wire/frame.h"
#include "wire/ops.h"

enum { MAX_PAYLOAD = 1000 };

static void check_frame(struct cm_bytes bytes, const struct cm_frame *frame, int64_t took) {
    MUST(cm_op_name(frame->op));
    MUST(frame->payload.data == bytes.data + CM_FRAME_HEADER_BYTES);
    MUST(frame->payload.len <= MAX_PAYLOAD && (int64_t)frame->payload.len + CM_FRAME_HEADER_BYTES == took);
    struct cm_buf buf = {0};
    size_t start;
    MUST(cm_frame_begin(&buf, frame->op, frame->flags, frame->id, &start) == 0);
    MUST(cm_buf_append(&buf, frame->payload.data, frame->payload.len) == 0);
    MUST(cm_frame_end(&buf, start) == 0);
    MUST((int64_t)buf.len == took && memcmp(buf.data, bytes.data, buf.len) == 0);
    cm_buf_deinit(&buf);
}

/* Takes the frames at the front of the bytes; what is left is `used`. Returns 0 or CM_E_BADFRAME. */
static int take_frames(struct cm_bytes bytes, size_t *used, size_t *frames) {
    *used = 0;
    for (;;) {
        struct cm_frame frame;
        struct cm_bytes rest = {bytes.data + *used, bytes.len - *used};
        size_t need = 0;
        int64_t took = cm_frame_decode(rest, MAX_PAYLOAD, &frame, &need);
        if (took < 0) {
            MUST(took == CM_E_BADFRAME && rest.len >= CM_FRAME_HEADER_BYTES);
            return CM_E_BADFRAME;
        }
        if (took == 0) {
            MUST(need > rest.len && need <= CM_FRAME_HEADER_BYTES + MAX_PAYLOAD);
            return 0;
        }
        MUST((size_t)took <= rest.len && need == (size_t)took);
        check_frame(rest, &frame, took);
        *used += (size_t)took;
        ++*frames;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    size_t piece = data[0] + 1U;
    uint8_t *whole = exact_copy(data + 1, size - 1);
    struct cm_bytes bytes = {whole, size - 1};
    size_t used, at_once = 0, in_pieces = 0;
    int err = take_frames(bytes, &used, &at_once);

    struct cm_buf arrived = {0};
    int pieces_err = 0;
    for (size_t i = 0; !pieces_err && i < bytes.len; i += piece) {
        MUST(cm_buf_append(&arrived, bytes.data + i, bytes.len - i < piece ? bytes.len - i : piece) == 0);
        uint8_t *copy = exact_copy(arrived.data, arrived.len);
        pieces_err = take_frames((struct cm_bytes){copy, arrived.len}, &used, &in_pieces);
        free(copy);
        cm_buf_consume(&arrived, used);
    }
    MUST(err == pieces_err && at_once == in_pieces);
    cm_buf_deinit(&arrived);
    free(whole);
    return 0;
}
