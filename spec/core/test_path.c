/* Paths: what their text means, what is wrong with others and where, steps one by one, and steps that came
 * from elsewhere. */
#include "data/path.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

/* A copy of just that size, so that a sanitizer sees a read behind it. */
static uint8_t *copy_of(struct cm_bytes bytes) {
    uint8_t *copy = malloc(bytes.len ? bytes.len : 1);
    assert_non_null(copy);
    if (bytes.len)
        memcpy(copy, bytes.data, bytes.len);
    return copy;
}

static int parse(struct cm_bytes text, struct cm_buf *steps, struct cm_path_fault *fault) {
    uint8_t *copy = copy_of(text);
    size_t len = steps->len;
    int err = cm_path_parse((struct cm_bytes){copy, text.len}, steps, fault);
    free(copy);
    if (err)
        assert_int_equal(steps->len, len);
    else
        assert_int_equal(cm_path_check((struct cm_bytes){steps->data + len, steps->len - len}), 0);
    return err;
}

static int check(struct cm_bytes steps) {
    uint8_t *copy = copy_of(steps);
    int err = cm_path_check((struct cm_bytes){copy, steps.len});
    free(copy);
    return err;
}

/* The text gives these bytes, behind what the buffer has. */
static void means(const char *text, size_t text_len, const char *bytes, size_t len) {
    struct cm_buf steps = {0};
    struct cm_path_fault fault = {0};
    assert_int_equal(cm_buf_append(&steps, "before", 6), 0);
    if (parse((struct cm_bytes){(const uint8_t *)text, text_len}, &steps, &fault))
        fail_msg("%s: %s at %zu", text, fault.why, fault.at);
    assert_int_equal(steps.len, 6 + len);
    assert_memory_equal(steps.data, "before", 6);
    assert_memory_equal(steps.data + 6, bytes, len);
    cm_buf_deinit(&steps);
}

#define MEANS(text, bytes) means(text, sizeof(text) - 1, bytes, sizeof(bytes) - 1)

static void names_indexes_and_strings_are_steps(void **state) {
    (void)state;
    MEANS("a", "\xa1"
               "a");
    MEANS("user.tags[2].x", "\xa4user\xa4tags\x02\xa1x");
    MEANS("a[1][2]", "\xa1"
                     "a\x01\x02");
    MEANS("a[\"x.y\"]", "\xa1"
                        "a\xa3x.y");
    MEANS("[\"x.y\"]", "\xa3x.y");
    MEANS("[\"a\"].b[\"c\"][3]", "\xa1"
                                 "a\xa1"
                                 "b\xa1"
                                 "c\x03");
    MEANS("a[\"\"]", "\xa1"
                     "a\xa0");
    MEANS("a[127]", "\xa1"
                    "a\x7f");
    MEANS("a[128]", "\xa1"
                    "a\xcc\x80");
    MEANS("a[65536]", "\xa1"
                      "a\xce\x00\x01\x00\x00");
    MEANS("a[9223372036854775807]", "\xa1"
                                    "a\xcf\x7f\xff\xff\xff\xff\xff\xff\xff");
}

static void any_other_bytes_are_names(void **state) {
    (void)state;
    MEANS("a.1", "\xa1"
                 "a\xa1"
                 "1"); /* a string */
    MEANS("1", "\xa1"
               "1");
    MEANS("-1. x\n", "\xa2-1\xa3 x\n");
    MEANS("a\0b.\xff\xfe", "\xa3"
                           "a\0b\xa2\xff\xfe");
    MEANS("a'b\\n", "\xa5"
                    "a'b\\n");
}

static void only_quotes_and_backslashes_are_escaped(void **state) {
    (void)state;
    MEANS("[\"\\\"\"]", "\xa1\"");
    MEANS("a[\"\\\\\"]", "\xa1"
                         "a\xa1\\");
    MEANS("a[\"x\\\"y\\\\\"].b", "\xa1"
                                 "a\xa4x\"y\\\xa1"
                                 "b");
    MEANS("a[\"]['\\\"\n\0.\"]", "\xa1"
                                 "a\xa7]['\"\n\0.");
}

static void faults(const char *text, size_t len, size_t at, const char *why) {
    struct cm_buf steps = {0};
    struct cm_path_fault fault = {0};
    assert_int_equal(cm_buf_append(&steps, "before", 6), 0);
    if (parse((struct cm_bytes){(const uint8_t *)text, len}, &steps, &fault) != CM_E_BADVALUE)
        fail_msg("%s was taken", text);
    if (fault.at != at || strcmp(fault.why, why) != 0)
        fail_msg("%s: %s at %zu", text, fault.why, fault.at);
    cm_buf_deinit(&steps);
}

#define FAULTS(text, at, why) faults(text, sizeof(text) - 1, at, why)

static void a_fault_says_what_and_where(void **state) {
    (void)state;
    static const char begin[] = "a path must begin with a document's name";
    FAULTS("", 1, begin);
    FAULTS(".a", 1, begin);
    FAULTS("]", 1, begin);
    FAULTS("\"a\"", 1, begin);
    static const char dot[] = "a name must come after a dot";
    FAULTS("a.", 3, dot);
    FAULTS("a..b", 3, dot);
    FAULTS("a.[1]", 3, dot);
    FAULTS("a.]", 3, dot);
    FAULTS("a.\"b\"", 3, dot);
    FAULTS("a[1].", 6, dot);
    FAULTS("a]", 2, "there is no bracket to close");
    FAULTS("a[1]]", 5, "there is no bracket to close");
    FAULTS("a\"b", 2, "a quote must come after a bracket");
    static const char bracket[] = "an index or a string in double quotes must come in brackets";
    FAULTS("a[", 3, bracket);
    FAULTS("a[]", 3, bracket);
    FAULTS("a[x]", 3, bracket);
    FAULTS("a['x']", 3, bracket);
    FAULTS("a[ 1]", 3, bracket);
    FAULTS("a[+1]", 3, bracket);
    FAULTS("a[[1]]", 3, bracket);
    FAULTS("a[.5]", 3, bracket);
    FAULTS("a[0]", 3, "an index counts from 1");
    FAULTS("a[00]", 3, "an index counts from 1");
    FAULTS("a[-1]", 3, "an index counts from 1");
    FAULTS("a[01]", 3, "an index has no leading zeros");
    FAULTS("a[9223372036854775808]", 3, "an index is 9223372036854775807 at most");
    FAULTS("a[99999999999999999999999999]", 3, "an index is 9223372036854775807 at most");
    static const char index_open[] = "a bracket must close after the index";
    FAULTS("a[1", 4, index_open);
    FAULTS("a[1.5]", 4, index_open);
    FAULTS("a[1 ]", 4, index_open);
    FAULTS("a[0x1]", 3, "an index counts from 1");
    FAULTS("a[1e3]", 4, index_open);
    FAULTS("a[1\0]", 4, index_open);
    FAULTS("a[\"x\"", 6, "a bracket must close after the string");
    FAULTS("a[\"x\"y]", 6, "a bracket must close after the string");
    FAULTS("a[\"x", 5, "a quote is not closed");
    FAULTS("a[\"x\\", 6, "a quote is not closed");
    FAULTS("a[\"x\\\"", 7, "a quote is not closed");
    FAULTS("a[\"\\n\"]", 5, "\" or \\ must come after a backslash");
    FAULTS("a[1]b", 5, "a dot, a bracket or the end must come after a bracket");
    FAULTS("a[1]\"b\"", 5, "a dot, a bracket or the end must come after a bracket");
    FAULTS("a[\"x\"]\0", 7, "a dot, a bracket or the end must come after a bracket");
    FAULTS("[1]", 2, "the first step must be a document's name");
    FAULTS("[\"\"]", 3, "a document's name must not be empty");
    FAULTS("[x]", 2, bracket);
}

static void repeat(struct cm_buf *text, const char *piece, size_t times) {
    for (size_t i = 0; i < times; i++)
        assert_int_equal(cm_buf_append(text, piece, strlen(piece)), 0);
}

static void check_long(const struct cm_buf *text, size_t at, const char *why) {
    struct cm_buf steps = {0};
    struct cm_path_fault fault = {0};
    assert_int_equal(parse(cm_buf_view(text), &steps, &fault), why ? CM_E_BADVALUE : 0);
    assert_int_equal(fault.at, at);
    if (why)
        assert_string_equal(fault.why, why);
    cm_buf_deinit(&steps);
}

static void names_steps_and_paths_have_a_most(void **state) {
    (void)state;
    struct cm_buf text = {0};
    repeat(&text, "x", 65531);
    check_long(&text, 0, NULL);
    repeat(&text, "x", 1);
    check_long(&text, 1, "a document's name has 65531 bytes at most");

    text.len = 0;
    repeat(&text, "[\"", 1);
    repeat(&text, "\\\"", 65531);
    repeat(&text, "\"]", 1);
    check_long(&text, 0, NULL);
    repeat(&text, "[1]", 127);
    check_long(&text, 0, NULL);
    repeat(&text, "[1]", 1);
    check_long(&text, text.len - 1, "a path has 128 steps at most");

    text.len = 0;
    repeat(&text, "a.", 1);
    repeat(&text, "x", CM_PATH_MAX_BYTES - 2 - 5);
    check_long(&text, 0, NULL);
    repeat(&text, "x", 1);
    check_long(&text, 3, "a path's steps have 128 KiB at most");
    repeat(&text, "x", CM_PATH_MAX_BYTES);
    check_long(&text, 3, "a path's steps have 128 KiB at most");
    cm_buf_deinit(&text);
}

/* --- steps --- */

static void steps_are_made_one_by_one(void **state) {
    (void)state;
    struct cm_buf steps = {0};
    assert_int_equal(cm_path_add_string(&steps, cm_bytes_of("a")), 0);
    assert_int_equal(cm_path_add_string(&steps, cm_bytes_of("")), 0);
    assert_int_equal(cm_path_add_integer(&steps, -33), 0);
    assert_int_equal(cm_path_add_float(&steps, 3.0), 0);
    assert_int_equal(cm_path_add_float(&steps, -0.0), 0);
    assert_int_equal(cm_path_add_float(&steps, 1.5), 0);
    assert_int_equal(cm_path_add_float(&steps, -0x1p63), 0);
    assert_int_equal(cm_path_add_float(&steps, 0x1p63), 0);
    assert_int_equal(cm_path_add_float(&steps, INFINITY), 0);
    static const char expected[] = "\xa1"
                                   "a\xa0\xd0\xdf\x03\x00"
                                   "\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"
                                   "\xd3\x80\x00\x00\x00\x00\x00\x00\x00"
                                   "\xcb\x43\xe0\x00\x00\x00\x00\x00\x00"
                                   "\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00";
    assert_int_equal(steps.len, sizeof expected - 1);
    assert_memory_equal(steps.data, expected, sizeof expected - 1);
    assert_int_equal(check(cm_buf_view(&steps)), 0);
    size_t len = steps.len;
    assert_int_equal(cm_path_add_float(&steps, (double)NAN), CM_E_BADVALUE);
    struct cm_bytes too_long = {steps.data, CM_PATH_MAX_BYTES + 1};
    assert_int_equal(cm_path_add_string(&steps, too_long), CM_E_BADVALUE);
    assert_int_equal(steps.len, len);
    cm_buf_deinit(&steps);
}

static void steps_from_elsewhere_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        int result;
    } cases[] = {
        {"\xa1"
         "a",
         2, 0},
        {"\xd9\x01"
         "a\xd3\x00\x00\x00\x00\x00\x00\x00\x01",
         12, 0}, /* longer than need be */
        {"\xa1"
         "a\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00",
         11, 0},
        {"\xa1"
         "a\xa0",
         3, 0},
        {"", 0, CM_E_BADVALUE},
        {"\xa0", 1, CM_E_BADVALUE},
        {"\xa0\xa1"
         "a",
         3, CM_E_BADVALUE},
        {"\x01", 1, CM_E_BADVALUE},
        {"\xa2"
         "a",
         2, CM_E_BADVALUE},
        {"\xa1"
         "a\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",
         11, CM_E_BADVALUE}, /* 1.0 */
        {"\xa1"
         "a\xcb\x80\x00\x00\x00\x00\x00\x00\x00",
         11, CM_E_BADVALUE}, /* -0.0 */
        {"\xa1"
         "a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
         11, CM_E_BADVALUE}, /* NaN */
        {"\xa1"
         "a\xcf\x80\x00\x00\x00\x00\x00\x00\x00",
         11, CM_E_BADVALUE},
        {"\xa1"
         "a\xc0",
         3, CM_E_BADVALUE},
        {"\xa1"
         "a\xc3",
         3, CM_E_BADVALUE},
        {"\xa1"
         "a\x90",
         3, CM_E_BADVALUE},
        {"\xa1"
         "a\x80",
         3, CM_E_BADVALUE},
        {"\xa1"
         "a\xd7\x01\x00\x00\x00\x00\x00\x00\x00\x01\x01",
         13, CM_E_BADVALUE},
        {"\xd7\x01\x00\x00\x00\x00\x00\x00\x00\x01\xa1"
         "a",
         12, CM_E_BADVALUE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cm_bytes steps = {(const uint8_t *)cases[i].bytes, cases[i].len};
        if (check(steps) != cases[i].result)
            fail_msg("case %zu", i);
    }
}

static void check_most(struct cm_buf *steps, size_t name_len, size_t more, int result) {
    struct cm_buf name = {0};
    steps->len = 0;
    repeat(&name, "x", name_len);
    assert_int_equal(cm_path_add_string(steps, cm_buf_view(&name)), 0);
    for (size_t i = 0; i < more; i++)
        assert_int_equal(cm_path_add_integer(steps, 1), 0);
    assert_int_equal(check(cm_buf_view(steps)), result);
    cm_buf_deinit(&name);
}

static void steps_from_elsewhere_have_a_most(void **state) {
    (void)state;
    struct cm_buf steps = {0};
    check_most(&steps, 65531, 127, 0);
    check_most(&steps, 65531, 128, CM_E_BADVALUE);
    check_most(&steps, 65532, 0, CM_E_BADVALUE);
    struct cm_buf wide = {0};
    repeat(&wide, "x", CM_PATH_MAX_BYTES - 2 - 5);
    check_most(&steps, 1, 0, 0);
    assert_int_equal(cm_path_add_string(&steps, cm_buf_view(&wide)), 0);
    assert_int_equal(check(cm_buf_view(&steps)), 0);
    assert_int_equal(cm_path_add_integer(&steps, 1), 0);
    assert_int_equal(check(cm_buf_view(&steps)), CM_E_BADVALUE);
    cm_buf_deinit(&wide);
    cm_buf_deinit(&steps);
}

static void the_name_is_split_off(void **state) {
    (void)state;
    struct cm_buf steps = {0};
    struct cm_path_fault fault;
    struct cm_bytes name;
    struct cm_item step;
    int64_t integer;
    assert_int_equal(parse(cm_bytes_of("user.tags[2]"), &steps, &fault), 0);
    struct cm_bytes rest = cm_buf_view(&steps);
    assert_int_equal(cm_path_split(&rest, &name), 0);
    assert_int_equal(name.len, 4);
    assert_memory_equal(name.data, "user", 4);
    assert_int_equal(cm_path_next(&rest, &step), 0);
    assert_int_equal(step.kind, CM_ITEM_STRING);
    assert_memory_equal(step.bytes.data, "tags", 4);
    assert_int_equal(cm_path_next(&rest, &step), 0);
    assert_true(cm_item_integer(&step, &integer) && integer == 2);
    assert_int_equal(rest.len, 0);
    assert_int_equal(cm_path_next(&rest, &step), CM_E_BADVALUE);
    assert_int_equal(cm_path_split(&rest, &name), CM_E_BADVALUE);
    cm_buf_deinit(&steps);
}

/* --- at random --- */

/* A name of any bytes: bare where it may be. */
static void write_step(struct cm_buf *text, struct cm_bytes name, bool first) {
    bool bare = name.len > 0;
    for (size_t i = 0; i < name.len; i++)
        bare = bare && !strchr(".[]\"", name.data[i] ? name.data[i] : 'x');
    if (bare && !first)
        repeat(text, ".", 1);
    if (!bare)
        repeat(text, "[\"", 1);
    for (size_t i = 0; i < name.len; i++) {
        if (!bare && (name.data[i] == '"' || name.data[i] == '\\'))
            repeat(text, "\\", 1);
        assert_int_equal(cm_buf_append(text, &name.data[i], 1), 0);
    }
    if (!bare)
        repeat(text, "\"]", 1);
}

static void random_steps_come_back_from_their_text(void **state) {
    (void)state;
    static const char letters[] = "ab.[]\"\\1\0\xff";
    uint64_t random = 1;
    for (int i = 0; i < 3000; i++) {
        struct cm_buf text = {0}, steps = {0}, again = {0};
        struct cm_path_fault fault = {0};
        size_t count = 1 + random_below(&random, 8);
        for (size_t n = 0; n < count; n++) {
            uint8_t name[64];
            struct cm_bytes bytes = {name, !n + random_below(&random, sizeof name - 1)};
            for (size_t k = 0; k < bytes.len; k++)
                name[k] = (uint8_t)letters[random_below(&random, sizeof letters - 1)];
            if (n && random_below(&random, 2)) {
                char index[32];
                int64_t integer = (int64_t)(random_next(&random) >> (1 + random_below(&random, 63)));
                integer += integer == 0;
                snprintf(index, sizeof index, "[%lld]", (long long)integer);
                repeat(&text, index, 1);
                assert_int_equal(cm_path_add_integer(&steps, integer), 0);
            } else {
                write_step(&text, bytes, !n);
                assert_int_equal(cm_path_add_string(&steps, bytes), 0);
            }
        }
        assert_int_equal(parse(cm_buf_view(&text), &again, &fault), 0);
        assert_int_equal(again.len, steps.len);
        assert_memory_equal(again.data, steps.data, steps.len);
        cm_buf_deinit(&text);
        cm_buf_deinit(&steps);
        cm_buf_deinit(&again);
    }
}

static void random_texts_have_steps_or_a_fault_within(void **state) {
    (void)state;
    static const char letters[] = "ab..[[]]\"\"\\0129";
    uint64_t random = 2;
    int taken = 0;
    for (int i = 0; i < 100000; i++) {
        char text[12];
        struct cm_buf steps = {0};
        struct cm_path_fault fault = {0};
        size_t len = random_below(&random, sizeof text + 1);
        for (size_t k = 0; k < len; k++)
            text[k] = letters[random_below(&random, sizeof letters - 1)];
        int err = parse((struct cm_bytes){(const uint8_t *)text, len}, &steps, &fault);
        if (err) {
            assert_int_equal(err, CM_E_BADVALUE);
            assert_in_range(fault.at, 1, len + 1);
            assert_non_null(fault.why);
        }
        taken += !err;
        cm_buf_deinit(&steps);
    }
    assert_in_range(taken, 1000, 99000);
}

static int parse_many(void *data) {
    struct cm_buf steps = {0};
    struct cm_path_fault fault;
    int err = cm_path_parse(cm_buf_view(data), &steps, &fault);
    if (err)
        assert_int_equal(steps.len, 0);
    cm_buf_deinit(&steps);
    return err;
}

static void without_memory_nothing_is_appended(void **state) {
    (void)state;
    struct cm_buf text = {0};
    repeat(&text, "name", 1);
    repeat(&text, ".abcdefghijklmnopqrstuvwxyz[\"abcdefghij\\\"klmnopqrstuvwxyz\"][1000000]", 30);
    alloc_failure_each(parse_many, &text);
    cm_buf_deinit(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_indexes_and_strings_are_steps),
        cmocka_unit_test(any_other_bytes_are_names),
        cmocka_unit_test(only_quotes_and_backslashes_are_escaped),
        cmocka_unit_test(a_fault_says_what_and_where),
        cmocka_unit_test(names_steps_and_paths_have_a_most),
        cmocka_unit_test(steps_are_made_one_by_one),
        cmocka_unit_test(steps_from_elsewhere_are_checked),
        cmocka_unit_test(steps_from_elsewhere_have_a_most),
        cmocka_unit_test(the_name_is_split_off),
        cmocka_unit_test(random_steps_come_back_from_their_text),
        cmocka_unit_test(random_texts_have_steps_or_a_fault_within),
        cmocka_unit_test(without_memory_nothing_is_appended),
    };
    return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
