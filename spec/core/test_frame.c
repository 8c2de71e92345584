/* Frames: what is written is read back, also a byte at a time; what is no frame is refused. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "wire/frame.h"
#include "wire/ops.h"

enum { MAX_PAYLOAD = 4096 };

/* Decodes a copy of exactly these bytes, so that a sanitizer sees each read beyond them. The frame's payload
 * is not to be looked at afterwards. */
static int64_t decode(const uint8_t *bytes, size_t len, struct cm_frame *frame, size_t *need) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, bytes, len);
    int64_t took = cm_frame_decode((struct cm_bytes){copy, len}, MAX_PAYLOAD, frame, need);
    if (took > 0)
        assert_ptr_equal(frame->payload.data, copy + CM_FRAME_HEADER_BYTES);
    free(copy);
    return took;
}

static int append_frame(struct cm_buf *buf, uint8_t op, uint8_t flags, uint32_t id, const void *payload,
                        size_t len) {
    size_t start;
    int err = cm_frame_begin(buf, op, flags, id, &start);
    if (!err)
        err = cm_buf_append(buf, payload, len);
    return err ? err : cm_frame_end(buf, start);
}

static void the_layout_is_as_written_down(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    assert_int_equal(append_frame(&buf, CM_OP_EXPIRE, CM_FRAME_REPLY | CM_FRAME_ERROR, 0x04030201, "abc", 3),
                     0);
    const uint8_t expected[] = {3, 0, 0, 0, CM_OP_EXPIRE, 3, 0, 0, 1, 2, 3, 4, 'a', 'b', 'c'};
    assert_int_equal(buf.len, sizeof expected);
    assert_memory_equal(buf.data, expected, sizeof expected);
    cm_buf_deinit(&buf);
}

static void a_stream_of_frames_is_read_back(void **state) {
    (void)state;
    enum { FRAMES = 200 };
    static const uint8_t flags[] = {0, CM_FRAME_REPLY, CM_FRAME_REPLY | CM_FRAME_ERROR};
    struct cm_frame sent[FRAMES];
    size_t starts[FRAMES];
    uint8_t payload[600];
    struct cm_buf buf = {0};
    uint64_t random = 4;
    for (size_t i = 0; i < FRAMES; i++) {
        size_t len =
            random_below(&random, 4) ? random_below(&random, 30) : random_below(&random, sizeof payload);
        memset(payload, (int)(i + 1), len);
        sent[i] = (struct cm_frame){CM_OP_SET, flags[i % 3], (uint32_t)random_next(&random), {NULL, len}};
        starts[i] = buf.len;
        assert_int_equal(append_frame(&buf, sent[i].op, sent[i].flags, sent[i].id, payload, len), 0);
    }
    size_t at = 0;
    for (size_t i = 0; i < FRAMES; i++) {
        assert_int_equal(at, starts[i]);
        struct cm_frame frame;
        size_t need, whole = CM_FRAME_HEADER_BYTES + sent[i].payload.len;
        for (size_t len = 0; len < whole; len++) {
            assert_int_equal(decode(buf.data + at, len, &frame, &need), 0);
            assert_int_equal(need, len < CM_FRAME_HEADER_BYTES ? CM_FRAME_HEADER_BYTES : whole);
        }
        assert_int_equal(decode(buf.data + at, whole, &frame, &need), whole);
        assert_int_equal(
            cm_frame_decode((struct cm_bytes){buf.data + at, buf.len - at}, MAX_PAYLOAD, &frame, &need),
            whole);
        assert_int_equal(need, whole);
        assert_int_equal(frame.op, sent[i].op);
        assert_int_equal(frame.flags, sent[i].flags);
        assert_int_equal(frame.id, sent[i].id);
        assert_int_equal(frame.payload.len, sent[i].payload.len);
        for (size_t j = 0; j < frame.payload.len; j++)
            assert_int_equal(frame.payload.data[j], (uint8_t)(i + 1));
        at += whole;
    }
    assert_int_equal(at, buf.len);
    cm_buf_deinit(&buf);
}

static void what_is_no_frame_is_refused_by_its_header(void **state) {
    (void)state;
    const uint8_t good[CM_FRAME_HEADER_BYTES] = {0, 0, 0, 0, CM_OP_EXPIRE, CM_FRAME_REPLY, 0, 0, 1, 0, 0, 0};
    struct cm_frame frame;
    size_t need;
    assert_int_equal(decode(good, sizeof good, &frame, &need), sizeof good);
    for (size_t at = 4; at <= 7; at++)
        for (unsigned value = 0; value < 256; value++) {
            uint8_t header[sizeof good];
            memcpy(header, good, sizeof good);
            header[at] = (uint8_t)value;
            bool fine = at == 4   ? cm_op_name(value) != NULL
                        : at == 5 ? value == 0 || value == CM_FRAME_REPLY ||
                                        value == (CM_FRAME_REPLY | CM_FRAME_ERROR)
                                  : value == 0;
            assert_int_equal(decode(header, sizeof header, &frame, &need),
                             fine ? CM_FRAME_HEADER_BYTES : CM_E_BADFRAME);
        }
}

static void a_payload_over_the_limit_is_refused(void **state) {
    (void)state;
    uint8_t header[CM_FRAME_HEADER_BYTES] = {[4] = CM_OP_EXPIRE};
    struct cm_frame frame;
    size_t need;
    header[0] = MAX_PAYLOAD & 0xff, header[1] = MAX_PAYLOAD >> 8;
    assert_int_equal(decode(header, sizeof header, &frame, &need), 0);
    assert_int_equal(need, MAX_PAYLOAD + CM_FRAME_HEADER_BYTES);
    header[0]++;
    assert_int_equal(decode(header, sizeof header, &frame, &need), CM_E_BADFRAME);
    memset(header, 0xff, 4);
    assert_int_equal(decode(header, sizeof header, &frame, &need), CM_E_BADFRAME);
    assert_int_equal(cm_frame_decode((struct cm_bytes){header, sizeof header}, SIZE_MAX, &frame, &need), 0);
    assert_int_equal(need, (size_t)UINT32_MAX + CM_FRAME_HEADER_BYTES);
}

static void numbers_of_no_operation_have_no_name(void **state) {
    (void)state;
    assert_string_equal(cm_op_name(CM_OP_SET), "set");
    assert_null(cm_op_name(0));
    assert_null(cm_op_name(255));
    assert_null(cm_op_name(256 + CM_OP_SET));
}

static void a_frame_too_long_for_its_length_is_taken_back(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    size_t start;
    assert_int_equal(cm_buf_append(&buf, "before", 6), 0);
    assert_int_equal(cm_frame_begin(&buf, CM_OP_SET, 0, 1, &start), 0);
    assert_int_equal(start, 6);
    size_t len = buf.len, cap = buf.cap;
    buf.len += UINT32_MAX; /* as if so much had been appended */
    buf.cap = buf.len;
    assert_int_equal(cm_frame_end(&buf, start), 0);
    buf.len = len + (size_t)UINT32_MAX + 1;
    buf.cap = buf.len;
    assert_int_equal(cm_frame_end(&buf, start), CM_E_TOOLARGE);
    assert_int_equal(buf.len, 6);
    buf.cap = cap;
    cm_buf_deinit(&buf);
}

static int append_frames(void *data) {
    (void)data;
    struct cm_buf buf = {0};
    int err = 0;
    int frames = 0;
    for (; !err && frames < 100; frames++) {
        size_t before = buf.len;
        err = append_frame(&buf, CM_OP_SET, 0, 1, "payload", 7);
        if (err)
            buf.len = before; /* the caller's part */
    }
    assert_int_equal(buf.len, (size_t)(frames - !!err) * (CM_FRAME_HEADER_BYTES + 7));
    cm_buf_deinit(&buf);
    return err;
}

static void failed_allocations_are_told(void **state) {
    (void)state;
    alloc_failure_each(append_frames, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_layout_is_as_written_down),
        cmocka_unit_test(a_stream_of_frames_is_read_back),
        cmocka_unit_test(what_is_no_frame_is_refused_by_its_header),
        cmocka_unit_test(a_payload_over_the_limit_is_refused),
        cmocka_unit_test(numbers_of_no_operation_have_no_name),
        cmocka_unit_test(a_frame_too_long_for_its_length_is_taken_back),
        cmocka_unit_test(failed_allocations_are_told),
    };
    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
