/* The growing buffer against a plain array. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { MOST = 1 << 16 };

struct oracle {
    uint8_t bytes[MOST];
    size_t len;
};

static void check(const struct cm_buf *buf, const struct oracle *oracle) {
    assert_int_equal(buf->len, oracle->len);
    assert_true(buf->cap >= buf->len);
    assert_true(!buf->cap == !buf->data);
    if (oracle->len)
        assert_memory_equal(buf->data, oracle->bytes, oracle->len);
    assert_ptr_equal(cm_buf_view(buf).data, buf->data);
    assert_int_equal(cm_buf_view(buf).len, buf->len);
}

static void append(struct cm_buf *buf, struct oracle *oracle, uint64_t *random) {
    uint8_t bytes[600];
    size_t len = random_below(random, 8) ? random_below(random, 40) : random_below(random, sizeof bytes);
    if (len > MOST - oracle->len)
        len = MOST - oracle->len;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)random_next(random);
    assert_int_equal(cm_buf_append(buf, bytes, len), 0);
    memcpy(oracle->bytes + oracle->len, bytes, len);
    oracle->len += len;
}

static void consume(struct cm_buf *buf, struct oracle *oracle, uint64_t *random) {
    size_t len = random_below(random, oracle->len + 1);
    cm_buf_consume(buf, len);
    memmove(oracle->bytes, oracle->bytes + len, oracle->len - len);
    oracle->len -= len;
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    static struct oracle oracle;
    struct cm_buf buf = {0};
    uint64_t random = 1;
    for (int i = 0; i < 20000; i++) {
        size_t dice = random_below(&random, 100);
        if (dice < 80) {
            append(&buf, &oracle, &random);
        } else if (dice < 90) {
            consume(&buf, &oracle, &random);
        } else if (dice < 97) {
            size_t more = random_below(&random, 5000);
            assert_int_equal(cm_buf_reserve(&buf, more), 0);
            assert_true(buf.cap - buf.len >= more);
        } else if (dice < 99) {
            size_t keep = random_below(&random, 3000), cap = buf.cap;
            cm_buf_reset(&buf, keep);
            oracle.len = 0;
            assert_int_equal(buf.cap, cap > keep ? 0 : cap);
        } else {
            cm_buf_deinit(&buf);
            oracle.len = 0;
            assert_int_equal(buf.cap, 0);
        }
        check(&buf, &oracle);
    }
    cm_buf_deinit(&buf);
    assert_int_equal(alloc_failure_alive(), 0);
}

static void appending_allocates_rarely(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    size_t moves = 0, cap = 0;
    for (int i = 0; i < 1 << 20; i++) {
        assert_int_equal(cm_buf_append(&buf, "x", 1), 0);
        moves += buf.cap != cap;
        cap = buf.cap;
    }
    assert_true(moves <= 20);
    cm_buf_deinit(&buf);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    assert_int_equal(cm_buf_append(&buf, "abc", 3), 0);
    struct cm_buf before = buf;
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 3, SIZE_MAX / 2, SIZE_MAX / 2 - 2};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(cm_buf_reserve(&buf, sizes[i]), CM_E_NOMEMORY);
        assert_memory_equal(&buf, &before, sizeof buf);
    }
    cm_buf_deinit(&buf);
}

static void nothing_is_nothing(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    assert_int_equal(cm_buf_append(&buf, NULL, 0), 0);
    assert_int_equal(cm_buf_reserve(&buf, 0), 0);
    cm_buf_consume(&buf, 0);
    cm_buf_reset(&buf, 0);
    assert_null(buf.data);
    cm_buf_deinit(&buf);
    assert_int_equal(cm_bytes_of("").len, 0);
    assert_int_equal(cm_bytes_of("four").len, 4);
    assert_memory_equal(cm_bytes_of("four").data, "four", 4);
}

static void a_reset_keeps_what_is_small(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    assert_int_equal(cm_buf_reserve(&buf, 1000), 0);
    size_t cap = buf.cap;
    cm_buf_reset(&buf, cap);
    assert_int_equal(buf.cap, cap);
    cm_buf_reset(&buf, cap - 1);
    assert_int_equal(buf.cap, 0);
    assert_null(buf.data);
}

static int append_until_failure(void *data) {
    (void)data;
    static const char word[] = "0123456789abcdef";
    struct cm_buf buf = {0};
    int err = 0;
    size_t words = 0;
    while (!err && words < 1000) {
        struct cm_buf before = buf;
        err = cm_buf_append(&buf, word, 16);
        words += !err;
        if (err)
            assert_memory_equal(&buf, &before, sizeof buf);
    }
    assert_int_equal(buf.len, words * 16);
    for (size_t i = 0; i < words; i++)
        assert_memory_equal(buf.data + 16 * i, word, 16);
    cm_buf_deinit(&buf);
    return err;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    alloc_failure_each(append_until_failure, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(appending_allocates_rarely),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(nothing_is_nothing),
        cmocka_unit_test(a_reset_keeps_what_is_small),
        cmocka_unit_test(failed_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
