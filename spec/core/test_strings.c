/* The list of C strings. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/strings.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { WORDS = 30 };

static void word_of(size_t i, char word[16]) {
    snprintf(word, 16, "%.*sword %zu", (int)(i % 2), "-", i);
}

static void check(const struct cm_strings *strings, size_t count) {
    assert_int_equal(strings->count, count);
    for (size_t i = 0; i < count; i++) {
        char word[16];
        word_of(i, word);
        assert_string_equal(strings->items[i], word);
    }
    assert_null(strings->items[count]);
}

static void copies_are_kept_in_order(void **state) {
    (void)state;
    struct cm_strings strings;
    assert_int_equal(cm_strings_init(&strings), 0);
    for (size_t i = 0; i < WORDS; i++) {
        char word[16];
        word_of(i, word);
        assert_int_equal(cm_strings_append(&strings, cm_bytes_of(word)), 0);
        memset(word, 'x', sizeof word);
        check(&strings, i + 1);
    }
    struct cm_strings more;
    assert_int_equal(cm_strings_init(&more), 0);
    check(&more, 0);
    assert_int_equal(cm_strings_extend(&more, strings.items, strings.count), 0);
    cm_strings_deinit(&strings);
    check(&more, WORDS);
    cm_strings_deinit(&more);
    assert_int_equal(alloc_failure_alive(), 0);
}

static void bytes_with_a_nul_are_refused(void **state) {
    (void)state;
    struct cm_strings strings;
    assert_int_equal(cm_strings_init(&strings), 0);
    assert_int_equal(cm_strings_append(&strings, (struct cm_bytes){(const uint8_t *)"a\0b", 3}),
                     CM_E_BADVALUE);
    assert_int_equal(cm_strings_append(&strings, (struct cm_bytes){(const uint8_t *)"", 1}), CM_E_BADVALUE);
    check(&strings, 0);
    assert_int_equal(cm_strings_append(&strings, (struct cm_bytes){NULL, 0}), 0);
    assert_string_equal(strings.items[0], "");
    cm_strings_deinit(&strings);
}

static int fill(void *data) {
    (void)data;
    struct cm_strings strings;
    int err = cm_strings_init(&strings);
    size_t count = 0;
    while (!err && count < WORDS) {
        char word[16];
        word_of(count, word);
        err = cm_strings_append(&strings, cm_bytes_of(word));
        count += !err;
    }
    if (strings.items)
        check(&strings, count);
    cm_strings_deinit(&strings);
    return err;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    alloc_failure_each(fill, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_kept_in_order),
        cmocka_unit_test(bytes_with_a_nul_are_refused),
        cmocka_unit_test(failed_allocations_change_nothing),
    };
    return cmocka_run_group_tests_name("strings", tests, NULL, NULL);
}
