/* Numbers as values: each width as it is written by hand, every cut, round trips, and sums. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/number.h"
#include "spec/core/test.h"

/* Decodes from a copy of just that size, so that a sanitizer sees a read behind it. */
static int decode(const uint8_t *bytes, size_t len, struct cm_number *number) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, bytes, len);
    int err = cm_number_decode((struct cm_bytes){copy, len}, number);
    free(copy);
    return err;
}

struct written {
    size_t len;
    uint8_t bytes[9];
    int64_t integer;
};

static const struct written written[] = {
    {1, {0x00}, 0},
    {1, {0x01}, 1},
    {1, {0x7f}, 127},
    {1, {0xff}, -1},
    {1, {0xe0}, -32},
    {2, {0xcc, 0x00}, 0},
    {2, {0xcc, 0x80}, 128},
    {2, {0xcc, 0xff}, 255},
    {3, {0xcd, 0x01, 0x00}, 256},
    {3, {0xcd, 0xff, 0xff}, 65535},
    {5, {0xce, 0x00, 0x01, 0x00, 0x00}, 65536},
    {5, {0xce, 0xff, 0xff, 0xff, 0xff}, UINT32_MAX},
    {9, {0xcf, 0, 0, 0, 1, 0, 0, 0, 0}, INT64_C(1) << 32},
    {9, {0xcf, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08}, INT64_C(0x0102030405060708)},
    {9, {0xcf, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, INT64_MAX},
    {2, {0xd0, 0x05}, 5},
    {2, {0xd0, 0x7f}, INT8_MAX},
    {2, {0xd0, 0xdf}, -33},
    {2, {0xd0, 0x80}, INT8_MIN},
    {3, {0xd1, 0xff, 0x7f}, -129},
    {3, {0xd1, 0x7f, 0xff}, INT16_MAX},
    {3, {0xd1, 0x80, 0x00}, INT16_MIN},
    {5, {0xd2, 0xff, 0xff, 0x7f, 0xff}, INT16_MIN - 1},
    {5, {0xd2, 0x7f, 0xff, 0xff, 0xff}, INT32_MAX},
    {5, {0xd2, 0x80, 0x00, 0x00, 0x00}, INT32_MIN},
    {9, {0xd3, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff}, INT64_C(-2147483649)},
    {9, {0xd3, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, INT64_MAX},
    {9, {0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0}, INT64_MIN},
};

static void integers_of_every_width_are_read(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++) {
        struct cm_number number = {.is_float = true};
        assert_int_equal(decode(written[i].bytes, written[i].len, &number), 0);
        assert_false(number.is_float);
        assert_int_equal(number.integer, written[i].integer);
    }
    for (int i = -32; i <= 127; i++) {
        uint8_t byte = (uint8_t)i;
        struct cm_number number;
        assert_int_equal(decode(&byte, 1, &number), 0);
        assert_int_equal(number.integer, i);
    }
}

static void floats_are_read(void **state) {
    (void)state;
    const uint8_t bytes[] = {0xcb, 0x40, 0x09, 0x21, 0xfb, 0x54, 0x44, 0x2d, 0x18};
    struct cm_number number;
    assert_int_equal(decode(bytes, sizeof bytes, &number), 0);
    assert_true(number.is_float);
    assert_true(number.real == 0x1.921fb54442d18p+1);
}

/* What the first byte asks for, and not one more. */
static void every_cut_and_every_extra_byte_is_refused(void **state) {
    (void)state;
    struct cm_number number;
    for (unsigned head = 0; head < 256; head++) {
        uint8_t bytes[12] = {(uint8_t)head};
        size_t right = 0; /* no number begins like this */
        if (head <= 0x7f || head >= 0xe0)
            right = 1;
        else if (head == 0xcb)
            right = 9;
        else if (head >= 0xcc && head <= 0xcf)
            right = 1 + ((size_t)1 << (head - 0xcc));
        else if (head >= 0xd0 && head <= 0xd3)
            right = 1 + ((size_t)1 << (head - 0xd0));
        for (size_t len = 0; len <= sizeof bytes; len++)
            assert_int_equal(decode(bytes, len, &number), right && len == right ? 0 : CM_E_BADVALUE);
    }
}

/* Lua has no such integers, so nobody has written them. */
static void unsigned_ones_beyond_an_integer_are_refused(void **state) {
    (void)state;
    struct cm_number number;
    assert_int_equal(decode((const uint8_t[]){0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0}, 9, &number), CM_E_BADVALUE);
    const uint8_t most[] = {0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    assert_int_equal(decode(most, 9, &number), CM_E_BADVALUE);
}

static void check_round_trip(struct cm_number number) {
    uint8_t space[CM_NUMBER_BYTES];
    struct cm_bytes bytes = cm_number_encode(number, space);
    assert_true(bytes.len <= CM_NUMBER_BYTES);
    struct cm_number again;
    assert_int_equal(decode(bytes.data, bytes.len, &again), 0);
    assert_int_equal(again.is_float, number.is_float);
    /* A float by its bits: the sign of a zero counts, and so does what kind of NaN it is. */
    assert_int_equal(again.integer, number.integer);
}

static void check_integer(int64_t integer) {
    check_round_trip((struct cm_number){.integer = integer});
}

static void check_real(double real) {
    check_round_trip((struct cm_number){.is_float = true, .real = real});
}

static void what_is_written_is_read_back(void **state) {
    (void)state;
    for (unsigned shift = 0; shift < 64; shift++)
        for (int i = -1; i <= 1; i++) {
            check_integer((int64_t)((UINT64_C(1) << shift) + (uint64_t)i));
            check_integer((int64_t)(0 - (UINT64_C(1) << shift) + (uint64_t)i));
        }
    const double reals[] = {0.0, -0.0, 1.0, -1.5, 0x1p-1074, 1e308, INFINITY, -INFINITY, (double)NAN};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        check_real(reals[i]);
    uint64_t random = 1;
    for (int i = 0; i < 10000; i++) {
        int64_t bits = (int64_t)random_next(&random) >> random_below(&random, 64);
        check_round_trip((struct cm_number){.is_float = i % 2, .integer = bits});
    }
}

static int add_integers(int64_t a, int64_t b, struct cm_number *sum) {
    struct cm_number first = {.integer = a};
    struct cm_number second = {.integer = b};
    return cm_number_add(first, second, sum);
}

static void check_sum(int64_t a, int64_t b, int64_t expected) {
    struct cm_number sum = {.is_float = true};
    assert_int_equal(add_integers(a, b, &sum), 0);
    assert_false(sum.is_float);
    assert_int_equal(sum.integer, expected);
}

static void check_overflow(int64_t a, int64_t b) {
    struct cm_number sum;
    assert_int_equal(add_integers(a, b, &sum), CM_E_BADVALUE);
    assert_int_equal(add_integers(b, a, &sum), CM_E_BADVALUE);
}

static void integers_add_up_or_overflow(void **state) {
    (void)state;
    check_sum(0, 0, 0);
    check_sum(2, -5, -3);
    check_sum(INT64_MAX, 0, INT64_MAX);
    check_sum(INT64_MAX - 1, 1, INT64_MAX);
    check_sum(INT64_MIN, 0, INT64_MIN);
    check_sum(INT64_MIN + 1, -1, INT64_MIN);
    check_sum(INT64_MAX, INT64_MIN, -1);
    check_sum(INT64_C(1) << 53, 1, (INT64_C(1) << 53) + 1);
    check_overflow(INT64_MAX, 1);
    check_overflow(INT64_MAX, INT64_MAX);
    check_overflow(INT64_MIN, -1);
    check_overflow(INT64_MIN, INT64_MIN);
}

static void check_real_sum(struct cm_number a, struct cm_number b, double expected) {
    struct cm_number sum = {0};
    assert_int_equal(cm_number_add(a, b, &sum), 0);
    assert_true(sum.is_float);
    assert_true(sum.real == expected);
}

static void with_a_float_the_sum_is_one(void **state) {
    (void)state;
    struct cm_number half = {.is_float = true, .real = 0.5}, two = {.is_float = true, .real = 2.0};
    struct cm_number three = {.integer = 3}, most = {.integer = INT64_MAX};
    check_real_sum(half, two, 2.5);
    check_real_sum(half, three, 3.5);
    check_real_sum(three, half, 3.5);
    check_real_sum(three, two, 5.0);
    check_real_sum(most, half, 0x1p63); /* no overflow: a float is not exact there */
    struct cm_number huge = {.is_float = true, .real = 1.7e308};
    check_real_sum(huge, huge, INFINITY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_of_every_width_are_read),
        cmocka_unit_test(floats_are_read),
        cmocka_unit_test(every_cut_and_every_extra_byte_is_refused),
        cmocka_unit_test(unsigned_ones_beyond_an_integer_are_refused),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(integers_add_up_or_overflow),
        cmocka_unit_test(with_a_float_the_sum_is_one),
    };
    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
