/* Encoded values as JSON: each rule by its text, then random values read back by a small reader. */
#include "data/json.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/item.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "spec/core/trees.h"

#define MARK(ms) "\xd7\x01\0\0\0\0\0\0\0" ms
#define BYTES(literal) ((struct cm_bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

enum { NOW_MS = 0x20 }; /* what has the mark "\x20" is expired, what has "\x21" lives */

/* Writes an exact copy, behind what the buffer has. */
static int write_json(struct cm_bytes value, bool lenient, struct cm_buf *out) {
    uint8_t *copy = malloc(value.len ? value.len : 1);
    assert_non_null(copy);
    if (value.len)
        memcpy(copy, value.data, value.len);
    size_t len = out->len;
    int err = cm_json_write((struct cm_bytes){copy, value.len}, NOW_MS, lenient, out);
    free(copy);
    if (err)
        assert_int_equal(out->len, len);
    return err;
}

static void same_text(const struct cm_buf *out, const char *expected) {
    assert_memory_equal(out->data, "before", 6);
    if (out->len != 6 + strlen(expected) || memcmp(out->data + 6, expected, out->len - 6) != 0)
        fail_msg("%.*s is not %s", (int)(out->len - 6), (const char *)out->data + 6, expected);
}

static void begin(struct cm_buf *out) {
    out->len = 0;
    assert_int_equal(cm_buf_append(out, "before", 6), 0);
}

static void writes(struct cm_bytes value, const char *expected) {
    struct cm_buf out = {0};
    for (int lenient = 0; lenient <= 1; lenient++) {
        begin(&out);
        assert_int_equal(write_json(value, lenient, &out), 0);
        same_text(&out, expected);
    }
    cm_buf_deinit(&out);
}

static void scalars_have_their_names(void **state) {
    (void)state;
    writes(BYTES("\xc0"), "null");
    writes(BYTES("\xc2"), "false");
    writes(BYTES("\xc3"), "true");
}

static void integers_are_written_whole(void **state) {
    (void)state;
    writes(BYTES("\x00"), "0");
    writes(BYTES("\xff"), "-1");
    writes(BYTES("\xcd\x01\x00"), "256");
    writes(BYTES("\xcf\x00\x20\x00\x00\x00\x00\x00\x01"), "9007199254740993");
    writes(BYTES("\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"), "9223372036854775807");
    writes(BYTES("\xd3\x80\x00\x00\x00\x00\x00\x00\x00"), "-9223372036854775808");
}

/* --- floats --- */

static void write_float(double real, bool lenient, struct cm_buf *out, int expected) {
    struct cm_buf value = {0};
    begin(out);
    assert_int_equal(cm_item_write_float(&value, real), 0);
    assert_int_equal(write_json(cm_buf_view(&value), lenient, out), expected);
    cm_buf_deinit(&value);
}

static void writes_float(double real, const char *expected) {
    struct cm_buf out = {0};
    write_float(real, false, &out, 0);
    same_text(&out, expected);
    cm_buf_deinit(&out);
}

static void floats_are_written_as_short_as_they_read_back(void **state) {
    (void)state;
    writes_float(0.1, "0.1");
    writes_float(1.5, "1.5");
    writes_float(-2.25, "-2.25");
    writes_float(0.1 + 0.2, "0.30000000000000004");
    writes_float(1.0 / 3, "0.3333333333333333");
    writes_float(123456789.125, "123456789.125");
    writes_float(5e-324, "4.94065645841247e-324");
    writes_float(1.7976931348623157e308, "1.7976931348623157e+308");
    writes_float(1e-7, "1e-07");
}

static void floats_do_not_look_like_integers(void **state) {
    (void)state;
    writes_float(0.0, "0.0");
    writes_float(-0.0, "-0.0");
    writes_float(10.0, "10.0");
    writes_float(-3.0, "-3.0");
    writes_float(123456789012345.0, "123456789012345.0");
    writes_float(9007199254740993.0, "9007199254740992.0");
    writes_float(1e15, "1e+15");
    writes_float(1e20, "1e+20");
    writes_float(1e300, "1e+300");
}

/* What a JSON number is made of. */
static bool is_number(const char *text) {
    text += *text == '-';
    size_t digits = strspn(text, "0123456789");
    if (!digits || (digits > 1 && *text == '0'))
        return false;
    text += digits;
    if (*text == '.') {
        digits = strspn(++text, "0123456789");
        text += digits;
        if (!digits)
            return false;
    }
    if (*text == 'e') {
        text++;
        text += *text == '+' || *text == '-';
        digits = strspn(text, "0123456789");
        text += digits;
    }
    return digits && !*text;
}

static void check_float(double real) {
    struct cm_buf out = {0};
    write_float(real, false, &out, 0);
    assert_int_equal(cm_buf_append(&out, "", 1), 0);
    const char *text = (const char *)out.data + 6;
    if (!is_number(text) || !strpbrk(text, ".e"))
        fail_msg("%s is no float", text);
    double again = strtod(text, NULL);
    assert_memory_equal(&again, &real, sizeof real);
    cm_buf_deinit(&out);
}

static void random_floats_read_back_the_same(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = random_next(&random);
        double real;
        memcpy(&real, &bits, sizeof real);
        if (isfinite(real))
            check_float(real);
        check_float((double)(int64_t)(bits >> random_below(&random, 60)));
        check_float((double)random_below(&random, 100000) / 100);
    }
}

/* Where a locale with another decimal point is installed. */
static void a_locale_changes_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ps_AF.UTF-8", "de_DE", "fr_FR"};
    size_t tried = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!setlocale(LC_NUMERIC, names[i]))
            continue;
        tried++;
        writes_float(1.5, "1.5");
        writes_float(1.25e+100, "1.25e+100");
        writes_float(0.1 + 0.2, "0.30000000000000004");
        writes_float(10.0, "10.0");
    }
    assert_non_null(setlocale(LC_NUMERIC, "C"));
    if (!tried)
        skip();
}

static void what_is_no_finite_number_is_refused_or_null(void **state) {
    (void)state;
    static const double reals[] = {(double)NAN, -(double)NAN, INFINITY, -INFINITY};
    struct cm_buf out = {0};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        write_float(reals[i], false, &out, CM_E_BADVALUE);
        write_float(reals[i], true, &out, 0);
        same_text(&out, "null");
    }
    struct cm_bytes key = BYTES("\x82\x01\x01\xcb\xff\xf0\0\0\0\0\0\0\x02");
    begin(&out);
    assert_int_equal(write_json(key, false, &out), CM_E_BADVALUE);
    assert_int_equal(write_json(key, true, &out), 0);
    same_text(&out, "{\"1\":1,\"-inf\":2}");
    struct cm_bytes inside = BYTES("\x92\x01\xcb\x7f\xf0\0\0\0\0\0\0");
    begin(&out);
    assert_int_equal(write_json(inside, false, &out), CM_E_BADVALUE);
    assert_int_equal(write_json(inside, true, &out), 0);
    same_text(&out, "[1,null]");
    cm_buf_deinit(&out);
}

/* --- strings --- */

static void writes_string(const char *string, size_t len, const char *expected) {
    struct cm_buf out = {0}, value = {0};
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    if (len)
        memcpy(copy, string, len);
    begin(&out);
    assert_int_equal(cm_json_string((struct cm_bytes){copy, len}, &out), 0);
    same_text(&out, expected);
    assert_int_equal(cm_item_write_string(&value, (struct cm_bytes){copy, len}), 0);
    writes(cm_buf_view(&value), expected);
    cm_buf_deinit(&value);
    cm_buf_deinit(&out);
    free(copy);
}

#define WRITES_STRING(string, expected) writes_string(string, sizeof(string) - 1, "\"" expected "\"")

static void strings_are_escaped_where_they_must(void **state) {
    (void)state;
    WRITES_STRING("", "");
    WRITES_STRING("abc", "abc");
    WRITES_STRING("\"", "\\\"");
    WRITES_STRING("a\\b", "a\\\\b");
    WRITES_STRING("\b\f\n\r\t", "\\b\\f\\n\\r\\t");
    WRITES_STRING("x\0y", "x\\u0000y");
    WRITES_STRING("\x01\x1f\x7f/", "\\u0001\\u001f\x7f/");
}

static void utf8_stays(void **state) {
    (void)state;
    WRITES_STRING("\xc2\x80\xdf\xbf", "\xc2\x80\xdf\xbf");
    WRITES_STRING("\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf",
                  "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf");
    WRITES_STRING("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    WRITES_STRING("Gr\xc3\xbc\xc3\x9f\xe2\x82\xac\xf0\x9f\x98\x80!",
                  "Gr\xc3\xbc\xc3\x9f\xe2\x82\xac\xf0\x9f\x98\x80!");
}

#define FFFD "\xef\xbf\xbd"

static void other_bytes_become_the_replacement_character(void **state) {
    (void)state;
    WRITES_STRING("\x80", FFFD);
    WRITES_STRING("a\xff"
                  "b",
                  "a" FFFD "b");
    WRITES_STRING("\xc3", FFFD);
    WRITES_STRING("\xc3(", FFFD "(");
    WRITES_STRING("\xe2\x82", FFFD FFFD);
    WRITES_STRING("\xf0\x9f\x98", FFFD FFFD FFFD);
    WRITES_STRING("\xf0\x9f\x98\"", FFFD FFFD FFFD "\\\"");
    WRITES_STRING("\xc0\x80", FFFD FFFD); /* overlong */
    WRITES_STRING("\xc1\xbf", FFFD FFFD);
    WRITES_STRING("\xe0\x9f\xbf", FFFD FFFD FFFD);
    WRITES_STRING("\xf0\x8f\xbf\xbf", FFFD FFFD FFFD FFFD);
    WRITES_STRING("\xed\xa0\x80", FFFD FFFD FFFD); /* surrogates */
    WRITES_STRING("\xed\xbf\xbf", FFFD FFFD FFFD);
    WRITES_STRING("\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD); /* beyond U+10FFFF */
    WRITES_STRING("\xf5\x80\x80\x80", FFFD FFFD FFFD FFFD);
    WRITES_STRING("\xf8\x88\x80\x80\x80", FFFD FFFD FFFD FFFD FFFD);
}

/* Which code points there are, and no other sequences of these lengths. */
static void every_sequence_of_three_bytes_is_judged(void **state) {
    (void)state;
    struct cm_buf out = {0};
    for (uint32_t code = 0x800; code < 0x10000; code++) {
        uint8_t bytes[] = {(uint8_t)(0xe0 | code >> 12), (uint8_t)(0x80 | (code >> 6 & 0x3f)),
                           (uint8_t)(0x80 | (code & 0x3f))};
        out.len = 0;
        assert_int_equal(cm_json_string((struct cm_bytes){bytes, 3}, &out), 0);
        bool surrogate = code >= 0xd800 && code <= 0xdfff;
        assert_int_equal(out.len, surrogate ? 11 : 5);
        assert_memory_equal(out.data + 1, surrogate ? FFFD FFFD FFFD : (const char *)bytes,
                            surrogate ? 9 : 3);
    }
    cm_buf_deinit(&out);
}

/* --- tables --- */

static void keys_from_1_on_are_an_array(void **state) {
    (void)state;
    writes(BYTES("\x93\x01\xa1x\xc0"), "[1,\"x\",null]");
    writes(BYTES("\x81\x01\x05"), "[5]");
    writes(BYTES("\x83\x03\xa1"
                 "c\x01\xa1"
                 "a\x02\xa1"
                 "b"),
           "[\"a\",\"b\",\"c\"]");
    writes(BYTES("\x82\xcb\x40\0\0\0\0\0\0\0\x06\xcb\x3f\xf0\0\0\0\0\0\0\x05"), "[5,6]");
    writes(BYTES("\x82\x02\x92\x01\x82\x02\x01\x01\x02\x01\x80"), "[{},[1,[2,1]]]");
}

static void all_else_is_an_object(void **state) {
    (void)state;
    writes(BYTES("\x80"), "{}");
    writes(BYTES("\x90"), "{}");
    writes(BYTES("\x81\xa1"
                 "a\x01"),
           "{\"a\":1}");
    writes(BYTES("\x81\xa1"
                 "1\x01"),
           "{\"1\":1}");
    writes(BYTES("\x81\x02\x01"), "{\"2\":1}");
    writes(BYTES("\x81\x00\x01"), "{\"0\":1}");
    writes(BYTES("\x82\x01\x01\x03\x02"), "{\"1\":1,\"3\":2}");
    writes(BYTES("\x82\x01\x01\xff\x02"), "{\"1\":1,\"-1\":2}");
    writes(BYTES("\x82\x01\x01\xcb\x3f\xf8\0\0\0\0\0\0\x02"), "{\"1\":1,\"1.5\":2}");
    writes(BYTES("\x83\x01\x01\x01\x02\x03\x03"), "{\"1\":1,\"1\":2,\"3\":3}"); /* no value of ours */
    writes(BYTES("\x82\xa2\"\n\x91\x80\xa0\x81\xa1\xff\xc0"), "{\"\\\"\\n\":[{}],\"\":{\"" FFFD "\":null}}");
}

static void the_expired_is_absent(void **state) {
    (void)state;
    writes(BYTES(MARK("\x21") "\x05"), "5");
    writes(BYTES("\x82\xa1"
                 "a" MARK("\x20") "\x91\x01\xa1"
                                  "b" MARK("\x21") "\x91\x02"),
           "{\"b\":[2]}");
    writes(BYTES("\x81\xa1"
                 "a" MARK("\x20") "\x01"),
           "{}");
    writes(BYTES("\x93\x01" MARK("\x21") "\x02" MARK("\x20") "\x03"), "[1,2]");
    writes(BYTES("\x93\x01" MARK("\x20") "\x02" MARK("\x20") "\x03"), "[1]");
    writes(BYTES("\x91" MARK("\x20") "\x02"), "{}");
    writes(BYTES("\x93\x01" MARK("\x20") "\x02\x03"), "{\"1\":1,\"3\":3}");
    writes(BYTES("\x92" MARK("\x20") "\x01" MARK("\x21") "\x02"), "{\"2\":2}");
    writes(BYTES("\x83\x02" MARK("\x21") "\x02\xa1"
                                         "a" MARK("\x20") "\x80\x01\x01"),
           "[1,2]");
    writes(BYTES("\x92\x93\x01" MARK("\x20") "\x93\x01\x02\x03" MARK("\x01") "\xa1x\x05"), "[[1],5]");
    struct cm_buf out = {0};
    assert_int_equal(write_json(BYTES(MARK("\x20") "\x05"), false, &out), CM_E_NOTFOUND);
    cm_buf_deinit(&out);
}

static void what_is_no_value_is_refused(void **state) {
    (void)state;
    static const struct cm_bytes cases[] = {
        {(const uint8_t *)"", 0},
        {(const uint8_t *)"\xc1", 1},
        {(const uint8_t *)"\x01\x01", 2},
        {(const uint8_t *)"\x92\x01", 2},
        {(const uint8_t *)"\x81\xc0\x01", 3},
        {(const uint8_t *)MARK("\x21") MARK("\x21") "\x01", 21},
        {(const uint8_t *)"\x81" MARK("\x21") "\x01\x01", 13},
    };
    struct cm_buf out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(write_json(cases[i], true, &out), CM_E_BADVALUE);
    cm_buf_deinit(&out);
}

static void nesting_has_a_bound(void **state) {
    (void)state;
    struct cm_buf value = {0}, out = {0};
    for (int i = 0; i < 128; i++)
        assert_int_equal(cm_buf_append(&value, i % 2 ? "\x91" : "\x81\x01", i % 2 ? 1 : 2), 0);
    assert_int_equal(cm_buf_append(&value, "\x07", 1), 0);
    assert_int_equal(write_json(cm_buf_view(&value), false, &out), 0);
    assert_int_equal(out.len, 2 * 128 + 1);
    value.data[value.len - 1] = 0x80;
    assert_int_equal(write_json(cm_buf_view(&value), false, &out), CM_E_BADVALUE);
    cm_buf_deinit(&value);
    cm_buf_deinit(&out);
}

/* --- random values, read back --- */

static void expect(const char **text, char byte) {
    if (**text != byte)
        fail_msg("%c expected at %.20s", byte, *text);
    ++*text;
}

/* The text of each key of trees; the string "1" would be the integer's. */
static const char *const key_texts[TREE_KEYS] = {
    "1", "2", "3", "4", "5", "6", "a", "b", "", NULL, "0", "-7", "1099511627776", "1.5"};

static unsigned read_key(const char **text) {
    expect(text, '"');
    size_t len = strcspn(*text, "\"");
    for (unsigned key = 0; key < TREE_KEYS; key++)
        if (key_texts[key] && strlen(key_texts[key]) == len && memcmp(key_texts[key], *text, len) == 0) {
            *text += len;
            expect(text, '"');
            expect(text, ':');
            return key;
        }
    fail_msg("another key at %.20s", *text);
    return 0;
}

static struct tree *read_value(const char **text) {
    bool is_array = **text == '[';
    if (!is_array && **text != '{') {
        char *end;
        struct tree *scalar = tree_scalar(strtoll(*text, &end, 10));
        assert_true(end > *text);
        *text = end;
        return scalar;
    }
    char close = is_array ? ']' : '}';
    struct tree *tree = tree_table();
    unsigned count = 0, last = 0;
    for (++*text; **text != close; count++) {
        if (count)
            expect(text, ',');
        unsigned key = is_array ? count : read_key(text);
        assert_true(key < TREE_KEYS && !tree->children[key]);
        tree->children[key] = read_value(text);
        last = key + 1 > last ? key + 1 : last;
    }
    ++*text;
    assert_int_equal(is_array, count && last == count);
    return tree;
}

static void drop_marks_and_ambiguous_keys(struct tree *tree, bool marks) {
    if (marks)
        tree->expires_ms = 0;
    for (unsigned i = 0; i < TREE_KEYS; i++) {
        if (tree->children[i] && !key_texts[i]) {
            tree_free(tree->children[i]);
            tree->children[i] = NULL;
        }
        if (tree->children[i])
            drop_marks_and_ambiguous_keys(tree->children[i], marks);
    }
}

static void random_values_read_back_the_same(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int i = 0; i < 5000; i++) {
        struct cm_buf value = {0}, out = {0};
        struct tree *tree = tree_random(&random, 4, i % 2, NOW_MS - 20);
        drop_marks_and_ambiguous_keys(tree, false);
        tree_encode(tree, i % 3 == 0, &random, &value);
        assert_int_equal(write_json(cm_buf_view(&value), false, &out), 0);
        assert_int_equal(cm_buf_append(&out, "", 1), 0);
        const char *text = (const char *)out.data;
        struct tree *again = read_value(&text);
        assert_int_equal(*text, 0);
        tree = tree_expire(tree, NOW_MS);
        drop_marks_and_ambiguous_keys(tree, true);
        assert_true(tree_equal(again, tree));
        tree_free(again);
        tree_free(tree);
        cm_buf_deinit(&value);
        cm_buf_deinit(&out);
    }
}

static void cut_and_corrupted_bytes_are_refused_or_written(void **state) {
    (void)state;
    uint64_t random = 2;
    for (int i = 0; i < 300; i++) {
        struct cm_buf value = {0}, out = {0};
        struct tree *tree = tree_random(&random, 3, true, 1);
        tree_encode(tree, i % 2, &random, &value);
        tree_free(tree);
        for (size_t len = 0; len < value.len; len++) {
            assert_int_equal(write_json((struct cm_bytes){value.data, len}, true, &out), CM_E_BADVALUE);
            uint8_t was = value.data[len];
            value.data[len] = (uint8_t)random_next(&random);
            out.len = 0;
            int err = write_json(cm_buf_view(&value), true, &out);
            assert_true(err == 0 || err == CM_E_BADVALUE || err == CM_E_NOTFOUND);
            assert_int_equal(err == 0, out.len > 0);
            out.len = 0;
            value.data[len] = was;
        }
        cm_buf_deinit(&value);
        cm_buf_deinit(&out);
    }
}

/* --- without memory --- */

static int write_all(void *data) {
    struct cm_buf out = {0};
    int err = cm_json_write(cm_buf_view(data), NOW_MS, false, &out);
    size_t len = out.len;
    if (!err)
        err = cm_json_string(
            BYTES("quotes \" and bytes \xff, and as many others as make the buffer grow once more"), &out);
    if (err)
        assert_int_equal(out.len, len);
    cm_buf_deinit(&out);
    return err;
}

static void without_memory_nothing_is_appended(void **state) {
    (void)state;
    struct cm_buf value = {0};
    assert_int_equal(cm_item_write_table(&value, CM_ITEM_ARRAY, 100), 0);
    struct cm_bytes entry = BYTES("\x82\x02\xa4text\x01\x81\xa1"
                                  "a\x92\x80\xc3");
    for (int i = 0; i < 100; i++)
        assert_int_equal(cm_buf_append(&value, entry.data, entry.len), 0);
    alloc_failure_each(write_all, &value);
    cm_buf_deinit(&value);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_have_their_names),
        cmocka_unit_test(integers_are_written_whole),
        cmocka_unit_test(floats_are_written_as_short_as_they_read_back),
        cmocka_unit_test(floats_do_not_look_like_integers),
        cmocka_unit_test(random_floats_read_back_the_same),
        cmocka_unit_test(a_locale_changes_nothing),
        cmocka_unit_test(what_is_no_finite_number_is_refused_or_null),
        cmocka_unit_test(strings_are_escaped_where_they_must),
        cmocka_unit_test(utf8_stays),
        cmocka_unit_test(other_bytes_become_the_replacement_character),
        cmocka_unit_test(every_sequence_of_three_bytes_is_judged),
        cmocka_unit_test(keys_from_1_on_are_an_array),
        cmocka_unit_test(all_else_is_an_object),
        cmocka_unit_test(the_expired_is_absent),
        cmocka_unit_test(what_is_no_value_is_refused),
        cmocka_unit_test(nesting_has_a_bound),
        cmocka_unit_test(random_values_read_back_the_same),
        cmocka_unit_test(cut_and_corrupted_bytes_are_refused_or_written),
        cmocka_unit_test(without_memory_nothing_is_appended),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
