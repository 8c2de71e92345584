/* Payloads: a random sequence of items is read back; of a payload that is cut anywhere nothing beyond is
 * read. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "wire/message.h"

enum kind { U8, U32, U64, BYTES, KINDS };

struct item {
    enum kind kind;
    uint64_t number;
    uint8_t bytes[64];
    size_t len;
};

enum { MOST_ITEMS = 20 };

static size_t random_items(struct item *items, uint64_t *random) {
    size_t count = random_below(random, MOST_ITEMS + 1);
    for (size_t i = 0; i < count; i++) {
        struct item *item = &items[i];
        item->kind = (enum kind)random_below(random, KINDS);
        item->number = random_next(random) >> random_below(random, 64);
        item->len = random_below(random, sizeof item->bytes + 1);
        for (size_t j = 0; j < item->len; j++)
            item->bytes[j] = (uint8_t)random_next(random);
    }
    return count;
}

static void write_item(struct cm_writer *writer, const struct item *item) {
    switch (item->kind) {
    case U8:
        cm_write_u8(writer, (uint8_t)item->number);
        break;
    case U32:
        cm_write_u32(writer, (uint32_t)item->number);
        break;
    case U64:
        cm_write_u64(writer, item->number);
        break;
    default:
        cm_write_bytes(writer, (struct cm_bytes){item->bytes, item->len});
        break;
    }
}

/* Reads such an item; whether it is this one. */
static bool read_item(struct cm_reader *reader, const struct item *item) {
    struct cm_bytes bytes;
    switch (item->kind) {
    case U8:
        return cm_read_u8(reader) == (uint8_t)item->number;
    case U32:
        return cm_read_u32(reader) == (uint32_t)item->number;
    case U64:
        return cm_read_u64(reader) == item->number;
    default:
        bytes = cm_read_bytes(reader);
        return bytes.len == item->len && memcmp(bytes.data, item->bytes, item->len) == 0;
    }
}

static bool read_nothing(struct cm_reader *reader, const struct item *item) {
    struct cm_bytes bytes;
    switch (item->kind) {
    case U8:
        return cm_read_u8(reader) == 0;
    case U32:
        return cm_read_u32(reader) == 0;
    case U64:
        return cm_read_u64(reader) == 0;
    default:
        bytes = cm_read_bytes(reader);
        return bytes.len == 0 && bytes.data;
    }
}

/* Of the first `len` bytes, in a copy of exactly that size. */
static void check_cut(const struct item *items, size_t count, struct cm_bytes whole, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, whole.data, len);
    struct cm_reader reader;
    cm_reader_init(&reader, (struct cm_bytes){copy, len});
    bool failed = false;
    for (size_t i = 0; i < count; i++) {
        if (failed) {
            assert_true(read_nothing(&reader, &items[i]));
            assert_int_equal(reader.error, CM_E_BADFRAME);
            continue;
        }
        bool right = read_item(&reader, &items[i]);
        assert_true(right || reader.error);
        assert_true(reader.next <= reader.end);
        failed = reader.error;
    }
    assert_int_equal(failed, len < whole.len);
    assert_int_equal(cm_reader_end(&reader), len < whole.len ? CM_E_BADFRAME : 0);
    free(copy);
}

static void items_are_read_back_and_cut_ones_refused(void **state) {
    (void)state;
    struct item items[MOST_ITEMS];
    uint64_t random = 5;
    for (int round = 0; round < 300; round++) {
        size_t count = random_items(items, &random);
        struct cm_buf buf = {0};
        struct cm_writer writer;
        cm_writer_init(&writer, &buf);
        for (size_t i = 0; i < count; i++)
            write_item(&writer, &items[i]);
        assert_int_equal(writer.error, 0);
        for (size_t len = 0; buf.len && len <= buf.len; len++)
            check_cut(items, count, cm_buf_view(&buf), len);
        cm_buf_deinit(&buf);
    }
}

static void the_layout_is_little_endian(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    cm_write_u8(&writer, 1);
    cm_write_u32(&writer, 0x05040302);
    cm_write_u64(&writer, 0x0d0c0b0a09080706);
    cm_write_bytes(&writer, cm_bytes_of("ab"));
    const uint8_t expected[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 2, 0, 0, 0, 'a', 'b'};
    assert_int_equal(buf.len, sizeof expected);
    assert_memory_equal(buf.data, expected, sizeof expected);
    cm_buf_deinit(&buf);
}

static void what_is_left_over_is_an_error(void **state) {
    (void)state;
    struct cm_reader reader;
    cm_reader_init(&reader, (struct cm_bytes){(const uint8_t *)"ab", 2});
    cm_read_u8(&reader);
    assert_int_equal(reader.error, 0);
    assert_int_equal(cm_reader_end(&reader), CM_E_BADFRAME);
    cm_read_u8(&reader);
    assert_int_equal(cm_reader_end(&reader), 0);
}

static void an_empty_payload_is_read_as_nothing(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    struct cm_reader reader;
    cm_reader_init(&reader, cm_buf_view(&buf));
    assert_int_equal(cm_reader_end(&reader), 0);
    assert_int_equal(cm_read_bytes(&reader).len, 0);
    assert_int_equal(cm_reader_end(&reader), CM_E_BADFRAME);
}

static void a_length_beyond_the_payload_is_refused(void **state) {
    (void)state;
    const uint32_t lengths[] = {4, UINT32_MAX, UINT32_MAX - 3, 0x80000000};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct cm_buf buf = {0};
        struct cm_writer writer;
        cm_writer_init(&writer, &buf);
        cm_write_u32(&writer, lengths[i]);
        assert_int_equal(cm_buf_append(&buf, "abc", 3), 0);
        struct cm_reader reader;
        cm_reader_init(&reader, cm_buf_view(&buf));
        assert_int_equal(cm_read_bytes(&reader).len, 0);
        assert_int_equal(cm_reader_end(&reader), CM_E_BADFRAME);
        cm_buf_deinit(&buf);
    }
}

static void a_count_is_what_the_rest_can_hold(void **state) {
    (void)state;
    for (uint32_t count = 0; count < 12; count++)
        for (size_t item_bytes = 1; item_bytes <= 5; item_bytes++) {
            struct cm_buf buf = {0};
            struct cm_writer writer;
            cm_writer_init(&writer, &buf);
            cm_write_u32(&writer, count);
            cm_write_u64(&writer, 0);
            struct cm_reader reader;
            cm_reader_init(&reader, cm_buf_view(&buf));
            bool fits = count * item_bytes <= 8;
            assert_int_equal(cm_read_count(&reader, item_bytes), fits ? count : 0);
            assert_int_equal(reader.error, fits ? 0 : CM_E_BADFRAME);
            cm_buf_deinit(&buf);
        }
}

static void bytes_too_many_for_a_length_are_refused(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    cm_write_bytes(&writer, (struct cm_bytes){(const uint8_t *)"", (size_t)UINT32_MAX + 1});
    assert_int_equal(writer.error, CM_E_TOOLARGE);
    cm_write_u8(&writer, 1);
    assert_int_equal(writer.error, CM_E_TOOLARGE);
    assert_int_equal(buf.len, 0);
}

static void a_number_can_be_written_over(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    cm_write_u8(&writer, 1);
    cm_write_u32(&writer, 0);
    cm_write_u8(&writer, 6);
    cm_rewrite_u32(&writer, 1, 0x05040302);
    const uint8_t expected[] = {1, 2, 3, 4, 5, 6};
    assert_int_equal(buf.len, sizeof expected);
    assert_memory_equal(buf.data, expected, sizeof expected);
    /* Not after a failure: what should be there may be missing. */
    cm_write_bytes(&writer, (struct cm_bytes){(const uint8_t *)"", (size_t)UINT32_MAX + 1});
    cm_rewrite_u32(&writer, 1, 0);
    cm_rewrite_u32(&writer, 1000, 0);
    assert_memory_equal(buf.data, expected, sizeof expected);
    assert_int_equal(writer.error, CM_E_TOOLARGE);
    cm_buf_deinit(&buf);
}

static void what_is_left_is_counted(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    struct cm_writer writer;
    struct cm_reader reader;
    cm_reader_init(&reader, cm_buf_view(&buf));
    assert_int_equal(cm_reader_left(&reader), 0);
    cm_writer_init(&writer, &buf);
    cm_write_u8(&writer, 1);
    cm_write_bytes(&writer, cm_bytes_of("abc"));
    cm_write_u64(&writer, 2);
    cm_reader_init(&reader, cm_buf_view(&buf));
    assert_int_equal(cm_reader_left(&reader), 16);
    cm_read_u8(&reader);
    assert_int_equal(cm_reader_left(&reader), 15);
    cm_read_bytes(&reader);
    assert_int_equal(cm_reader_left(&reader), 8);
    cm_read_u64(&reader);
    assert_int_equal(cm_reader_left(&reader), 0);
    cm_buf_deinit(&buf);
}

static void check_error(int code, const char *text, int expected_code, const char *expected_text) {
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    cm_write_error(&writer, code, text);
    int read_code;
    struct cm_bytes read_text;
    assert_int_equal(cm_read_error(cm_buf_view(&buf), &read_code, &read_text), 0);
    assert_int_equal(read_code, expected_code);
    assert_int_equal(read_text.len, strlen(expected_text));
    assert_memory_equal(read_text.data, expected_text, read_text.len);
    for (size_t len = 0; len < buf.len; len++)
        assert_int_equal(cm_read_error((struct cm_bytes){buf.data, len}, &read_code, &read_text),
                         CM_E_BADFRAME);
    cm_buf_deinit(&buf);
}

static void errors_are_read_back(void **state) {
    (void)state;
    check_error(CM_E_TIMEOUT, "too late", CM_E_TIMEOUT, "too late");
    check_error(CM_E_NOTFOUND, NULL, CM_E_NOTFOUND, cm_error_text(CM_E_NOTFOUND));
    check_error(-2, "", -2, "");
    check_error(0, "no error at all", CM_E_REMOTE, "no error at all");
    check_error(7, "none of ours", CM_E_REMOTE, "none of ours");
    check_error(INT32_MIN + 1, "least", INT32_MIN + 1, "least");
    check_error(INT32_MIN, "less", CM_E_REMOTE, "less");
}

static int write_until_failure(void *data) {
    (void)data;
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    size_t good = 0;
    for (uint64_t i = 0; i < 500; i++) {
        cm_write_u64(&writer, i);
        good += !writer.error;
    }
    /* Nothing is written after a failure, also where there would be memory again. */
    assert_int_equal(buf.len, 8 * good);
    struct cm_reader reader;
    cm_reader_init(&reader, cm_buf_view(&buf));
    for (uint64_t i = 0; i < good; i++)
        assert_int_equal(cm_read_u64(&reader), i);
    assert_int_equal(cm_reader_end(&reader), 0);
    cm_buf_deinit(&buf);
    return writer.error;
}

static void a_failed_allocation_is_remembered(void **state) {
    (void)state;
    alloc_failure_each(write_until_failure, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_are_read_back_and_cut_ones_refused),
        cmocka_unit_test(the_layout_is_little_endian),
        cmocka_unit_test(what_is_left_over_is_an_error),
        cmocka_unit_test(an_empty_payload_is_read_as_nothing),
        cmocka_unit_test(a_length_beyond_the_payload_is_refused),
        cmocka_unit_test(a_count_is_what_the_rest_can_hold),
        cmocka_unit_test(bytes_too_many_for_a_length_are_refused),
        cmocka_unit_test(a_number_can_be_written_over),
        cmocka_unit_test(what_is_left_is_counted),
        cmocka_unit_test(errors_are_read_back),
        cmocka_unit_test(a_failed_allocation_is_remembered),
    };
    return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
