/* Items of encoded values: what is written is the shortest form and is read again, and each form that there
 * is is read by hand. */
#include "data/item.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/number.h"
#include "spec/core/test.h"

/* The item at the front of a copy of just these bytes, which is gone afterwards. *used is 0 when there is
 * none.
 */
static int take(const void *bytes, size_t len, struct cm_item *item, size_t *used) {
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, bytes, len);
    struct cm_bytes rest = {copy, len};
    int err = cm_item_take(&rest, item);
    *used = len - rest.len;
    assert_ptr_equal(rest.data, copy + *used);
    if (err)
        assert_int_equal(*used, 0);
    free(copy);
    return err;
}

struct form {
    size_t head; /* the bytes taken */
    size_t more; /* that it needs behind */
    enum cm_item_kind kind;
    uint64_t count;
    const char *bytes;
};

static const struct form forms[] = {
    {1, 0, CM_ITEM_NULL, 0, "\xc0"},
    {1, 0, CM_ITEM_FALSE, 0, "\xc2"},
    {1, 0, CM_ITEM_TRUE, 0, "\xc3"},
    {1, 0, CM_ITEM_NUMBER, 0, "\x00"},
    {1, 0, CM_ITEM_NUMBER, 0, "\x7f"},
    {1, 0, CM_ITEM_NUMBER, 0, "\xe0"},
    {1, 0, CM_ITEM_NUMBER, 0, "\xff"},
    {2, 0, CM_ITEM_NUMBER, 0, "\xcc\xff"},
    {3, 0, CM_ITEM_NUMBER, 0, "\xcd\xff\xff"},
    {5, 0, CM_ITEM_NUMBER, 0, "\xce\xff\xff\xff\xff"},
    {9, 0, CM_ITEM_NUMBER, 0, "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"},
    {2, 0, CM_ITEM_NUMBER, 0, "\xd0\xff"},
    {3, 0, CM_ITEM_NUMBER, 0, "\xd1\xff\xff"},
    {5, 0, CM_ITEM_NUMBER, 0, "\xd2\xff\xff\xff\xff"},
    {9, 0, CM_ITEM_NUMBER, 0, "\xd3\xff\xff\xff\xff\xff\xff\xff\xff"},
    {9, 0, CM_ITEM_NUMBER, 0, "\xcb\xff\xff\xff\xff\xff\xff\xff\xff"},
    {1, 0, CM_ITEM_STRING, 0, "\xa0"},
    {3, 0, CM_ITEM_STRING, 0, "\xa2xy"},
    {4, 0, CM_ITEM_STRING, 0, "\xd9\x02xy"},
    {5, 0, CM_ITEM_STRING, 0, "\xda\x00\x02xy"},
    {7, 0, CM_ITEM_STRING, 0, "\xdb\x00\x00\x00\x02xy"},
    {1, 0, CM_ITEM_ARRAY, 0, "\x90"},
    {1, 2, CM_ITEM_ARRAY, 2, "\x92\x01\x01"},
    {3, 2, CM_ITEM_ARRAY, 2, "\xdc\x00\x02\x01\x01"},
    {5, 2, CM_ITEM_ARRAY, 2, "\xdd\x00\x00\x00\x02\x01\x01"},
    {1, 0, CM_ITEM_MAP, 0, "\x80"},
    {1, 4, CM_ITEM_MAP, 2, "\x82\x01\x01\x02\x01"},
    {3, 4, CM_ITEM_MAP, 2, "\xde\x00\x02\x01\x01\x02\x01"},
    {5, 4, CM_ITEM_MAP, 2, "\xdf\x00\x00\x00\x02\x01\x01\x02\x01"},
    {10, 0, CM_ITEM_MARK, 0x0102030405060708, "\xd7\x01\x01\x02\x03\x04\x05\x06\x07\x08"},
};

static void items_of_every_form_are_taken_and_each_cut_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        const struct form *form = &forms[i];
        struct cm_item item;
        size_t used;
        for (size_t len = 0; len < form->head + form->more; len++)
            assert_int_equal(take(form->bytes, len, &item, &used), CM_E_BADVALUE);
        assert_int_equal(take(form->bytes, form->head + form->more, &item, &used), 0);
        assert_int_equal(used, form->head);
        assert_int_equal(item.kind, form->kind);
        assert_int_equal(item.count, form->count);
        if (form->kind == CM_ITEM_STRING)
            assert_int_equal(item.bytes.len, form->head > 1 ? 2 : 0);
        if (form->kind == CM_ITEM_NUMBER)
            assert_int_equal(item.bytes.len, form->head);
    }
}

static void other_first_bytes_begin_nothing(void **state) {
    (void)state;
    static const uint8_t none[] = {0xc1, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd4, 0xd5, 0xd6, 0xd8};
    for (size_t i = 0; i < sizeof none; i++) {
        uint8_t bytes[32] = {none[i]};
        struct cm_item item;
        size_t used;
        assert_int_equal(take(bytes, sizeof bytes, &item, &used), CM_E_BADVALUE);
    }
    struct cm_item item;
    size_t used;
    assert_int_equal(take("\xcf\x80\0\0\0\0\0\0\0", 9, &item, &used), CM_E_BADVALUE);
    assert_int_equal(take("\xd7\x01\0\0\0\0\0\0\0\0", 10, &item, &used), CM_E_BADVALUE);
    assert_int_equal(take("\xd7\x02\0\0\0\0\0\0\0\1", 10, &item, &used), CM_E_BADVALUE);
    assert_int_equal(take("\xdf\xff\xff\xff\xff\1\1", 7, &item, &used), CM_E_BADVALUE);
    assert_int_equal(take("\xdf\x80\0\0\0\1\1", 7, &item, &used), CM_E_BADVALUE);
    assert_int_equal(take("\xdb\xff\xff\xff\xff\1\1", 7, &item, &used), CM_E_BADVALUE);
}

/* --- writing --- */

static size_t shortest(int64_t integer) {
    if (integer >= -32 && integer <= 127)
        return 1;
    if (integer >= INT8_MIN && integer <= UINT8_MAX)
        return 2;
    if (integer >= INT16_MIN && integer <= UINT16_MAX)
        return 3;
    return integer >= INT32_MIN && integer <= UINT32_MAX ? 5 : 9;
}

static void check_integer(int64_t integer) {
    struct cm_buf buf = {0};
    struct cm_item item;
    int64_t again;
    assert_int_equal(cm_item_write_integer(&buf, integer), 0);
    assert_int_equal(buf.len, shortest(integer));
    struct cm_bytes rest = cm_buf_view(&buf);
    assert_int_equal(cm_item_take(&rest, &item), 0);
    assert_int_equal(rest.len, 0);
    assert_true(cm_item_integer(&item, &again));
    assert_int_equal(again, integer);
    /* As msgpack-c does it. */
    if (buf.len > 1)
        assert_int_equal(buf.data[0]<0xd0, integer> 0);
    cm_buf_deinit(&buf);
}

static void integers_take_the_shortest_form(void **state) {
    (void)state;
    for (unsigned shift = 0; shift < 64; shift++)
        for (uint64_t i = 0; i < 5; i++) {
            check_integer((int64_t)((UINT64_C(1) << shift) + i - 2));
            check_integer((int64_t)(0 - (UINT64_C(1) << shift) + i - 2));
        }
    uint64_t random = 1;
    for (int i = 0; i < 10000; i++)
        check_integer((int64_t)random_next(&random) >> random_below(&random, 64));
}

static void strings_and_tables_take_the_shortest_head(void **state) {
    (void)state;
    static const struct {
        size_t len, string, table;
    } heads[] = {
        {0, 1, 1},  {1, 1, 1},   {15, 1, 1},  {16, 1, 3},    {31, 1, 3},
        {32, 2, 3}, {255, 2, 3}, {256, 3, 3}, {65535, 3, 3}, {65536, 5, 5},
    };
    static const uint8_t zeros[65536];
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        struct cm_buf buf = {0};
        struct cm_item item;
        size_t used, len = heads[i].len;
        assert_int_equal(cm_item_write_string(&buf, (struct cm_bytes){zeros, len}), 0);
        assert_int_equal(buf.len, heads[i].string + len);
        assert_int_equal(take(buf.data, buf.len, &item, &used), 0);
        assert_int_equal(item.bytes.len, len);
        for (int is_map = 0; is_map <= 1; is_map++) {
            enum cm_item_kind kind = is_map ? CM_ITEM_MAP : CM_ITEM_ARRAY;
            buf.len = 0;
            assert_int_equal(cm_item_write_table(&buf, kind, len), 0);
            assert_int_equal(buf.len, heads[i].table);
            assert_int_equal(cm_buf_append(&buf, zeros, len), 0);
            assert_int_equal(cm_buf_append(&buf, zeros, is_map ? len : 0), 0);
            assert_int_equal(take(buf.data, buf.len, &item, &used), 0);
            assert_int_equal(used, heads[i].table);
            assert_int_equal(item.count, len);
            assert_int_equal(item.kind, len ? kind : CM_ITEM_MAP);
        }
        cm_buf_deinit(&buf);
    }
}

/* --- keys --- */

static struct cm_item number(double real, bool is_float, uint8_t space[CM_NUMBER_BYTES]) {
    struct cm_number value = {.is_float = is_float};
    if (is_float)
        value.real = real;
    else
        value.integer = (int64_t)real;
    return (struct cm_item){.kind = CM_ITEM_NUMBER, .bytes = cm_number_encode(value, space)};
}

static bool same(double one, bool is_float, double other, bool other_is_float) {
    uint8_t a[CM_NUMBER_BYTES], b[CM_NUMBER_BYTES];
    struct cm_item first = number(one, is_float, a), second = number(other, other_is_float, b);
    assert_int_equal(cm_item_same_key(&first, &second), cm_item_same_key(&second, &first));
    return cm_item_same_key(&first, &second);
}

static void keys_are_the_same_as_lua_has_it(void **state) {
    (void)state;
    assert_true(same(1, false, 1, false));
    assert_true(same(1, false, 1, true));
    assert_true(same(0, false, -0.0, true));
    assert_true(same(1.5, true, 1.5, true));
    assert_true(same(0x1p63, true, 0x1p63, true));
    assert_true(same(-0x1p63, true, -0x1p63, false));
    assert_false(same(1, false, 2, false));
    assert_false(same(1, false, 1.5, true));
    assert_false(same(1.5, true, 2.5, true));
    assert_false(same(0x1p62, false, 0x1p63, true));
    assert_false(same((double)NAN, true, (double)NAN, true));
    struct cm_item a = {.kind = CM_ITEM_STRING, .bytes = {(const uint8_t *)"1", 1}}, b = a;
    assert_true(cm_item_same_key(&a, &b));
    b.bytes.len = 0;
    assert_false(cm_item_same_key(&a, &b));
    uint8_t space[CM_NUMBER_BYTES];
    b = number(1, false, space);
    assert_false(cm_item_same_key(&a, &b));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_of_every_form_are_taken_and_each_cut_refused),
        cmocka_unit_test(other_first_bytes_begin_nothing),
        cmocka_unit_test(integers_take_the_shortest_form),
        cmocka_unit_test(strings_and_tables_take_the_shortest_head),
        cmocka_unit_test(keys_are_the_same_as_lua_has_it),
    };
    return cmocka_run_group_tests_name("item", tests, NULL, NULL);
}
