/* Documents: each rule by its bytes, then random operations against trees, with parts that expire, and bodies
 * cut and corrupted at every byte. */
#include "data/document.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/path.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "spec/core/trees.h"
#include "spec/core/trickle.h"

/* Bodies written by hand: a mark of an expiry below 256 ms. */
#define MARK(ms) "\xd7\x01\0\0\0\0\0\0\0" ms
#define BYTES(literal) ((struct cm_bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

enum { NOW_MS = 0x20 }; /* what has the mark "\x20" is expired, what has "\x21" lives */

/* A copy of just that size, so that a sanitizer sees a read behind it. */
static struct cm_bytes copy_of(struct cm_bytes bytes) {
    uint8_t *copy = malloc(bytes.len ? bytes.len : 1);
    assert_non_null(copy);
    if (bytes.len)
        memcpy(copy, bytes.data, bytes.len);
    return (struct cm_bytes){copy, bytes.len};
}

static void drop(struct cm_bytes copy) {
    free((void *)copy.data);
}

/* The steps behind the name of "d" and what follows. */
static struct cm_bytes steps_of(const char *path, struct cm_buf *buf) {
    struct cm_path_fault fault;
    struct cm_bytes name;
    struct cm_buf text = {0};
    assert_int_equal(cm_buf_append(&text, "d", 1), 0);
    assert_int_equal(cm_buf_append(&text, path, strlen(path)), 0);
    if (cm_path_parse(cm_buf_view(&text), buf, &fault))
        fail_msg("%s: %s", path, fault.why);
    cm_buf_deinit(&text);
    struct cm_bytes steps = cm_buf_view(buf);
    assert_int_equal(cm_path_split(&steps, &name), 0);
    return steps;
}

static void same_bytes(struct cm_bytes bytes, struct cm_bytes expected, const char *what) {
    if (bytes.len != expected.len || (bytes.len && memcmp(bytes.data, expected.data, bytes.len) != 0)) {
        for (size_t i = 0; i < bytes.len; i++)
            print_error("%02x ", bytes.data[i]);
        fail_msg("%s: other bytes", what);
    }
}

/* --- operations on exact copies, whose results are checked --- */

static void check_result(struct cm_bytes body, const struct cm_buf *out, int err) {
    if (err) {
        assert_int_equal(out->len, 6);
    } else if (out->len > 6 && (!body.len || cm_document_check_body(body) == 0)) {
        struct cm_bytes result = {out->data + 6, out->len - 6};
        assert_int_equal(cm_document_check_body(result), 0);
    }
    assert_memory_equal(out->data, "before", 6);
}

static void begin(struct cm_buf *out) {
    out->len = 0;
    assert_int_equal(cm_buf_append(out, "before", 6), 0);
}

static struct cm_bytes result_of(const struct cm_buf *out) {
    return (struct cm_bytes){out->data + 6, out->len - 6};
}

static int set(struct cm_bytes body, struct cm_bytes steps, struct cm_bytes value, uint64_t expires_ms,
               uint64_t now_ms, struct cm_buf *out) {
    struct cm_bytes body_copy = copy_of(body), steps_copy = copy_of(steps), value_copy = copy_of(value);
    begin(out);
    int err = cm_document_set(body_copy, steps_copy, value_copy, expires_ms, now_ms, out);
    check_result(body_copy, out, err);
    drop(body_copy);
    drop(steps_copy);
    drop(value_copy);
    return err;
}

static int delete (struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct cm_buf *out) {
    struct cm_bytes body_copy = copy_of(body), steps_copy = copy_of(steps);
    begin(out);
    int err = cm_document_delete(body_copy, steps_copy, now_ms, out);
    check_result(body_copy, out, err);
    drop(body_copy);
    drop(steps_copy);
    return err;
}

static int purge(struct cm_bytes body, uint64_t now_ms, struct cm_buf *out) {
    struct cm_bytes copy = copy_of(body);
    begin(out);
    int err = cm_document_purge(copy, now_ms, out);
    check_result(copy, out, err);
    drop(copy);
    return err;
}

/* *value is in `body`. */
static int find(struct cm_bytes body, struct cm_bytes steps, uint64_t now_ms, struct cm_bytes *value) {
    struct cm_bytes copy = copy_of(body), steps_copy = copy_of(steps);
    int err = cm_document_find(copy, steps_copy, now_ms, value);
    struct trickle trickle;
    uint64_t at = 0, len = 0;
    trickle_init(&trickle, copy);
    assert_int_equal(cm_document_seek(&trickle.stream, steps_copy, now_ms, &at, &len), err);
    trickle_deinit(&trickle);
    if (!err) {
        assert_int_equal(at, value->data - copy.data);
        assert_int_equal(len, value->len);
        assert_true(value->data >= copy.data && value->len <= copy.len - (size_t)(value->data - copy.data));
        value->data = body.data + (value->data - copy.data);
    }
    drop(copy);
    drop(steps_copy);
    return err;
}

/* --- checking --- */

static int check(struct cm_bytes bytes, unsigned *depth) {
    struct cm_bytes copy = copy_of(bytes);
    int err = cm_document_check(copy, depth);
    int body_err = cm_document_check_body(copy);
    drop(copy);
    if (!err)
        assert_int_equal(body_err, 0);
    return err;
}

static void checks_depth(struct cm_bytes bytes, unsigned expected) {
    unsigned depth = 1000;
    assert_int_equal(check(bytes, &depth), 0);
    assert_int_equal(depth, expected);
}

static void a_value_is_checked_and_its_depth_told(void **state) {
    (void)state;
    checks_depth(BYTES("\x01"), 0);
    checks_depth(BYTES("\xc0"), 0);
    checks_depth(BYTES("\xa0"), 0);
    checks_depth(BYTES("\x80"), 1);
    checks_depth(BYTES("\x90"), 1);
    checks_depth(BYTES("\x92\x80\x01"), 2);
    checks_depth(BYTES("\x93\x01\x91\x91\x01\x80"), 3);
    checks_depth(BYTES("\x83\xa1"
                       "a\x81\x01\x02\x05\xc3\xcb\x3f\xf8\0\0\0\0\0\0\x01"),
                 2);
}

static void malformed_values_are_refused(void **state) {
    (void)state;
    static const struct cm_bytes cases[] = {
        {NULL, 0},
        {(const uint8_t *)"\x01\x01", 2},
        {(const uint8_t *)"\x91", 1},
        {(const uint8_t *)"\x92\x91\x01", 3},
        {(const uint8_t *)"\x92\x01\x01\x01", 4},
        {(const uint8_t *)"\x81\x01", 2},
        {(const uint8_t *)"\x81\xc0\x01", 3},
        {(const uint8_t *)"\x81\xc3\x01", 3},
        {(const uint8_t *)"\x81\x80\x01", 3},
        {(const uint8_t *)"\x81\x90\x01", 3},
        {(const uint8_t *)"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01", 11},
        {(const uint8_t *)"\xc1", 1},
        {(const uint8_t *)"\xc4\x01x", 3},
        {(const uint8_t *)"\xd7\x02\0\0\0\0\0\0\0\x01", 10},
    };
    unsigned depth;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(check(cases[i], &depth), CM_E_BADVALUE);
        assert_int_equal(cm_document_check_body(cases[i]), CM_E_BADVALUE);
    }
}

static void marks_stand_before_values_of_a_body_alone(void **state) {
    (void)state;
    static const struct {
        struct cm_bytes body;
        int result;
    } cases[] = {
        {{(const uint8_t *)MARK("\x01") "\x01", 11}, 0},
        {{(const uint8_t *)"\x91" MARK("\x01") "\x01", 12}, 0},
        {{(const uint8_t *)"\x81\x01" MARK("\x01") "\x80", 13}, 0},
        {{(const uint8_t *)MARK("\x01"), 10}, CM_E_BADVALUE},
        {{(const uint8_t *)MARK("\x00") "\x01", 11}, CM_E_BADVALUE},
        {{(const uint8_t *)MARK("\x01") MARK("\x01") "\x01", 21}, CM_E_BADVALUE},
        {{(const uint8_t *)"\x81" MARK("\x01") "\x01\x01", 13}, CM_E_BADVALUE},
        {{(const uint8_t *)"\x91\x01" MARK("\x01"), 12}, CM_E_BADVALUE},
        {{(const uint8_t *)"\x91" MARK("\x01") MARK("\x01") "\x01", 22}, CM_E_BADVALUE},
    };
    unsigned depth;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(check(cases[i].body, &depth), CM_E_BADVALUE);
        struct cm_bytes copy = copy_of(cases[i].body);
        if (cm_document_check_body(copy) != cases[i].result)
            fail_msg("case %zu", i);
        drop(copy);
    }
}

/* `levels` arrays inside arrays, and a 1 or an empty map in the innermost. */
static void nest(struct cm_buf *buf, size_t levels, bool empty) {
    for (size_t i = 0; i < levels; i++)
        assert_int_equal(cm_buf_append(buf, "\x91", 1), 0);
    assert_int_equal(cm_buf_append(buf, empty ? "\x80" : "\x01", 1), 0);
}

static void nesting_has_a_bound(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    unsigned depth;
    nest(&buf, 128, false);
    checks_depth(cm_buf_view(&buf), 128);
    buf.len = 0;
    nest(&buf, 127, true);
    checks_depth(cm_buf_view(&buf), 128);
    buf.len = 0;
    nest(&buf, 128, true);
    assert_int_equal(check(cm_buf_view(&buf), &depth), CM_E_BADVALUE);
    buf.len = 0;
    nest(&buf, 100000, false);
    assert_int_equal(check(cm_buf_view(&buf), &depth), CM_E_BADVALUE);
    cm_buf_deinit(&buf);
}

/* --- finding --- */

static void finds(struct cm_bytes body, const char *path, struct cm_bytes expected) {
    struct cm_buf buf = {0};
    struct cm_bytes value;
    if (find(body, steps_of(path, &buf), NOW_MS, &value))
        fail_msg("%s: not found", path);
    same_bytes(value, expected, path);
    cm_buf_deinit(&buf);
}

static void finds_none(struct cm_bytes body, const char *path) {
    struct cm_buf buf = {0}, out = {0};
    struct cm_bytes value;
    struct cm_bytes steps = steps_of(path, &buf);
    if (find(body, steps, NOW_MS, &value) != CM_E_NOTFOUND)
        fail_msg("%s: found", path);
    assert_int_equal(delete (body, steps, NOW_MS, &out), CM_E_NOTFOUND);
    cm_buf_deinit(&buf);
    cm_buf_deinit(&out);
}

static void what_is_there_is_found(void **state) {
    (void)state;
    finds(BYTES("\x05"), "", BYTES("\x05"));
    struct cm_bytes body = BYTES("\x84\xa1"
                                 "a\x93\x01\xa1x\x81\xa1"
                                 "b\xc0\xa0\x02\x02\xc3\xcb\x3f\xf8\0\0\0\0\0\0\x04");
    finds(body, "", body);
    finds(body, ".a",
          BYTES("\x93\x01\xa1x\x81\xa1"
                "b\xc0"));
    finds(body, ".a[1]", BYTES("\x01"));
    finds(body, ".a[2]", BYTES("\xa1x"));
    finds(body, ".a[3].b", BYTES("\xc0"));
    finds(body, "[\"\"]", BYTES("\x02"));
    finds(body, "[2]", BYTES("\xc3"));
}

static void what_is_not_there_is_not_found(void **state) {
    (void)state;
    finds_none(BYTES(""), "");
    finds_none(BYTES(""), ".a");
    finds_none(BYTES("\x05"), ".a");
    finds_none(BYTES("\xc0"), "[1]");
    finds_none(BYTES("\x80"), "[1]");
    finds_none(BYTES("\x90"), "[1]");
    struct cm_bytes body = BYTES("\x82\xa1"
                                 "a\x91\x01\x02\xa1x");
    finds_none(body, ".b");
    finds_none(body, "[1]");
    finds_none(body, ".a[2]");
    finds_none(body, ".a[9223372036854775807]");
    finds_none(body, ".a.a");
    finds_none(body, "[2].x");
    finds_none(body, "[\"2\"]"); /* a string is no integer */
    finds_none(body, ".a[\"1\"]");
    finds_none(body, ".a[1].x");
}

static void number_keys_are_compared_by_value(void **state) {
    (void)state;
    struct cm_bytes value;
    struct cm_bytes wide = BYTES("\x81\xd3\0\0\0\0\0\0\0\x02\x07"),
                    real = BYTES("\x81\xcb\x40\0\0\0\0\0\0\0\x07");
    finds(wide, "[2]", BYTES("\x07"));
    finds(real, "[2]", BYTES("\x07"));
    assert_int_equal(find(BYTES("\x81\x02\x07"), BYTES("\xcc\x02"), 0, &value), 0);
    assert_int_equal(find(BYTES("\x91\x07"), BYTES("\xd2\0\0\0\x01"), 0, &value), 0);
    assert_int_equal(find(BYTES("\x91\x07"), BYTES("\0"), 0, &value), CM_E_NOTFOUND);
    assert_int_equal(find(BYTES("\x91\x07"), BYTES("\xff"), 0, &value), CM_E_NOTFOUND);
    assert_int_equal(find(BYTES("\x91\x07"), BYTES("\xcb\x3f\xf8\0\0\0\0\0\0"), 0, &value), CM_E_NOTFOUND);
    assert_int_equal(
        find(BYTES("\x81\xcb\x3f\xf8\0\0\0\0\0\0\x07"), BYTES("\xcb\x3f\xf8\0\0\0\0\0\0"), 0, &value), 0);
    assert_int_equal(find(BYTES("\x91\x07"), BYTES("\xcb\x3f\xf0\0\0\0\0\0\0"), 0, &value), CM_E_BADVALUE);
    assert_int_equal(find(BYTES("\x91\x07"), BYTES("\xc0"), 0, &value), CM_E_BADVALUE);
}

/* What can be no key ends the search; behind what was looked for it is not met. */
static void a_search_ends_at_what_is_no_key(void **state) {
    (void)state;
    static const struct cm_bytes bodies[] = {
        {(const uint8_t *)"\x82\x01\x07\xc0\x07", 5},
        {(const uint8_t *)"\x82\x01\x07\x90\x07", 5},
        {(const uint8_t *)"\x82\x01\x07" MARK("\x21") "\x02\x07", 15},
    };
    struct cm_bytes value;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct cm_buf out = {0};
        assert_int_equal(find(bodies[i], BYTES("\x01"), NOW_MS, &value), 0);
        assert_int_equal(find(bodies[i], BYTES("\x02"), NOW_MS, &value), CM_E_BADVALUE);
        assert_int_equal(delete (bodies[i], BYTES("\x02"), NOW_MS, &out), CM_E_BADVALUE);
        assert_int_equal(set(bodies[i], BYTES("\x02"), BYTES("\x07"), 0, NOW_MS, &out), CM_E_BADVALUE);
        cm_buf_deinit(&out);
    }
}

static void the_expired_is_absent_with_all_under_it(void **state) {
    (void)state;
    finds(BYTES(MARK("\x21") "\x05"), "", BYTES("\x05"));
    finds_none(BYTES(MARK("\x20") "\x05"), "");
    finds_none(BYTES(MARK("\x01") "\x81\xa1"
                                  "a\x01"),
               ".a");
    struct cm_bytes body =
        BYTES("\x82\xa1"
              "a" MARK("\x20") "\x81\xa1"
                               "b\x01\xa1"
                               "c" MARK("\x21") "\x92" MARK("\x1f") "\x01" MARK("\x22") "\x02");
    finds(body, "", body);
    finds_none(body, ".a");
    finds_none(body, ".a.b");
    finds(body, ".c", BYTES("\x92" MARK("\x1f") "\x01" MARK("\x22") "\x02"));
    finds_none(body, ".c[1]");
    finds(body, ".c[2]", BYTES("\x02"));
}

/* --- setting --- */

static void sets_until(struct cm_bytes body, const char *path, struct cm_bytes value, uint64_t expires_ms,
                       struct cm_bytes expected) {
    struct cm_buf buf = {0}, out = {0};
    assert_int_equal(set(body, steps_of(path, &buf), value, expires_ms, NOW_MS, &out), 0);
    same_bytes(result_of(&out), expected, path);
    cm_buf_deinit(&buf);
    cm_buf_deinit(&out);
}

static void sets(struct cm_bytes body, const char *path, struct cm_bytes expected) {
    sets_until(body, path, BYTES("\x07"), 0, expected);
}

static void a_value_replaces_value_and_mark(void **state) {
    (void)state;
    sets(BYTES(""), "", BYTES("\x07"));
    sets(BYTES("\x05"), "", BYTES("\x07"));
    sets(BYTES(MARK("\x21") "\x93\x01\x02\x03"), "", BYTES("\x07"));
    sets_until(BYTES(""), "", BYTES("\x07"), 0x30, BYTES(MARK("\x30") "\x07"));
    sets(BYTES("\x82\xa1"
               "a" MARK("\x21") "\xa1x\xa1"
                                "b\x02"),
         ".a",
         BYTES("\x82\xa1"
               "a\x07\xa1"
               "b\x02"));
    sets(BYTES("\x82\xa1"
               "a" MARK("\x20") "\xa1x\xa1"
                                "b\x02"),
         ".a",
         BYTES("\x82\xa1"
               "a\x07\xa1"
               "b\x02"));
    sets_until(BYTES("\x93\x01\x02\x03"), "[2]", BYTES("\x91\xc3"), 0x30,
               BYTES("\x93\x01" MARK("\x30") "\x91\xc3\x03"));
    sets_until(BYTES("\x81\xa1"
                     "a" MARK("\x22") "\x01"),
               ".a", BYTES("\x02"), 0x30,
               BYTES("\x81\xa1"
                     "a" MARK("\x30") "\x02"));
}

static void tables_are_made_on_the_way(void **state) {
    (void)state;
    sets(BYTES(""), ".a",
         BYTES("\x81\xa1"
               "a\x07"));
    sets(BYTES(""), "[1]", BYTES("\x91\x07"));
    sets(BYTES(""), "[2]", BYTES("\x81\x02\x07"));
    sets(BYTES(""), ".a[1].b[300]",
         BYTES("\x81\xa1"
               "a\x91\x81\xa1"
               "b\x81\xcd\x01\x2c\x07"));
    sets_until(BYTES(""), ".a[1]", BYTES("\x80"), 0x30,
               BYTES("\x81\xa1"
                     "a\x91" MARK("\x30") "\x80"));
    sets(BYTES("\x81\xa1"
               "a\x01"),
         ".b.c",
         BYTES("\x82\xa1"
               "a\x01\xa1"
               "b\x81\xa1"
               "c\x07"));
}

static void scalars_on_the_way_become_tables(void **state) {
    (void)state;
    sets(BYTES("\x05"), ".a",
         BYTES("\x81\xa1"
               "a\x07"));
    sets(BYTES("\xc0"), "[1]", BYTES("\x91\x07"));
    sets(BYTES("\x82\xa1"
               "a\xa3xyz\xa1"
               "b\x01"),
         ".a[1].c",
         BYTES("\x82\xa1"
               "a\x91\x81\xa1"
               "c\x07\xa1"
               "b\x01"));
}

static void a_living_scalars_mark_stays_and_an_expired_one_goes(void **state) {
    (void)state;
    sets(BYTES(MARK("\x21") "\x05"), ".a",
         BYTES(MARK("\x21") "\x81\xa1"
                            "a\x07"));
    sets(BYTES("\x91" MARK("\x21") "\x05"), "[1].a",
         BYTES("\x91" MARK("\x21") "\x81\xa1"
                                   "a\x07"));
    sets(BYTES(MARK("\x20") "\x05"), ".a",
         BYTES("\x81\xa1"
               "a\x07"));
    sets(BYTES("\x91" MARK("\x20") "\x05"), "[1].a",
         BYTES("\x91\x81\xa1"
               "a\x07"));
}

static void a_living_tables_mark_stays_and_an_expired_table_is_made_anew(void **state) {
    (void)state;
    sets(BYTES(MARK("\x21") "\x81\xa1"
                            "a\x01"),
         ".b",
         BYTES(MARK("\x21") "\x82\xa1"
                            "a\x01\xa1"
                            "b\x07"));
    sets(BYTES(MARK("\x20") "\x81\xa1"
                            "a\x01"),
         ".b",
         BYTES("\x81\xa1"
               "b\x07"));
    sets(BYTES("\x81\xa1"
               "a" MARK("\x10") "\x81\xa1"
                                "b\x92\x01\x02"),
         ".a.b[3]",
         BYTES("\x81\xa1"
               "a\x81\xa1"
               "b\x81\x03\x07"));
}

static void arrays_get_their_next_element_or_become_maps(void **state) {
    (void)state;
    sets(BYTES("\x92\x01\x02"), "[3]", BYTES("\x93\x01\x02\x07"));
    sets(BYTES("\x92\x01\x02"), "[2]", BYTES("\x92\x01\x07"));
    sets(BYTES("\x92\x01\xa1x"), "[4]", BYTES("\x83\x01\x01\x02\xa1x\x04\x07"));
    sets(BYTES("\x92\x01" MARK("\x21") "\x02"), ".a",
         BYTES("\x83\x01\x01\x02" MARK("\x21") "\x02\xa1"
                                               "a\x07"));
    sets(BYTES("\x92\x92\x01\x02\x05"), "[1].a",
         BYTES("\x92\x83\x01\x01\x02\x02\xa1"
               "a\x07\x05"));
    sets(BYTES("\x92\x92\x01\x02\x05"), "[1][3][1]", BYTES("\x92\x93\x01\x02\x91\x07\x05"));
}

static void maps_get_pairs(void **state) {
    (void)state;
    sets(BYTES("\x81\x01\x01"), "[2]", BYTES("\x82\x01\x01\x02\x07"));
    sets(BYTES("\x82\x01\x01\xa1"
               "a\x02"),
         ".b.c",
         BYTES("\x83\x01\x01\xa1"
               "a\x02\xa1"
               "b\x81\xa1"
               "c\x07"));
    sets(BYTES("\x92\x81\xa1"
               "a\x01\x05"),
         "[1].b",
         BYTES("\x92\x82\xa1"
               "a\x01\xa1"
               "b\x07\x05"));
}

static void tables_without_entries_take_the_form_of_their_first(void **state) {
    (void)state;
    sets(BYTES("\x80"), "[1]", BYTES("\x91\x07"));
    sets(BYTES("\x80"), "[2]", BYTES("\x81\x02\x07"));
    sets(BYTES("\x80"), ".a",
         BYTES("\x81\xa1"
               "a\x07"));
    sets(BYTES("\x90"), "[1]", BYTES("\x91\x07"));
    sets(BYTES("\x90"), ".a",
         BYTES("\x81\xa1"
               "a\x07"));
    sets(BYTES("\x82\xa1"
               "a\x80\xa1"
               "b\x01"),
         ".a[1]",
         BYTES("\x82\xa1"
               "a\x91\x07\xa1"
               "b\x01"));
}

/* Tables of each count around those where heads change: built by sets and taken down by deletes. */
static void heads_grow_and_shrink_with_the_counts(void **state) {
    (void)state;
    static const unsigned counts[] = {14, 15, 16, 65534, 65535, 65536};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (int is_map = 0; is_map <= 1; is_map++) {
            enum cm_item_kind kind = is_map ? CM_ITEM_MAP : CM_ITEM_ARRAY;
            struct cm_buf body = {0}, more = {0}, step = {0}, out = {0};
            unsigned key = counts[i] + 1;
            assert_int_equal(cm_item_write_table(&body, kind, counts[i]), 0);
            assert_int_equal(cm_item_write_table(&more, kind, key), 0);
            for (unsigned n = 1; n <= key; n++)
                for (int copy = n == key; copy <= 1; copy++) {
                    struct cm_buf *to = copy ? &more : &body;
                    if (is_map)
                        assert_int_equal(cm_item_write_integer(to, n), 0);
                    assert_int_equal(cm_item_write_integer(to, 7), 0);
                }
            assert_int_equal(cm_item_write_integer(&step, key), 0);
            assert_int_equal(set(cm_buf_view(&body), cm_buf_view(&step), BYTES("\x07"), 0, 0, &out), 0);
            same_bytes(result_of(&out), cm_buf_view(&more), "more");
            assert_int_equal(delete (cm_buf_view(&more), cm_buf_view(&step), 0, &out), 0);
            same_bytes(result_of(&out), cm_buf_view(&body), "less");
            cm_buf_deinit(&body);
            cm_buf_deinit(&more);
            cm_buf_deinit(&step);
            cm_buf_deinit(&out);
        }
}

static int set_nested(unsigned steps_count, unsigned levels) {
    struct cm_buf steps = {0}, value = {0}, out = {0};
    for (unsigned i = 0; i < steps_count; i++)
        assert_int_equal(cm_path_add_integer(&steps, 1), 0);
    nest(&value, levels, false);
    int err = set(BYTES(""), cm_buf_view(&steps), cm_buf_view(&value), 0, 0, &out);
    assert_int_equal(set(BYTES("\x80"), cm_buf_view(&steps), cm_buf_view(&value), 0, 0, &out), err);
    cm_buf_deinit(&steps);
    cm_buf_deinit(&value);
    cm_buf_deinit(&out);
    return err;
}

static void results_nest_no_deeper_than_values(void **state) {
    (void)state;
    assert_int_equal(set_nested(0, 128), 0);
    assert_int_equal(set_nested(127, 1), 0);
    assert_int_equal(set_nested(128, 0), 0);
    assert_int_equal(set_nested(127, 2), CM_E_TOOLARGE);
    assert_int_equal(set_nested(1, 128), CM_E_TOOLARGE);
    assert_int_equal(set_nested(129, 0), CM_E_TOOLARGE);
    assert_int_equal(set_nested(0, 129), CM_E_BADVALUE);
}

static void only_values_without_marks_are_set(void **state) {
    (void)state;
    struct cm_buf out = {0};
    assert_int_equal(set(BYTES(""), BYTES(""), BYTES(""), 0, 0, &out), CM_E_BADVALUE);
    assert_int_equal(set(BYTES(""), BYTES(""), BYTES("\x01\x01"), 0, 0, &out), CM_E_BADVALUE);
    assert_int_equal(set(BYTES(""), BYTES(""), BYTES("\x91" MARK("\x01") "\x01"), 0, 0, &out), CM_E_BADVALUE);
    assert_int_equal(set(BYTES(""), BYTES("\xc0"), BYTES("\x01"), 0, 0, &out), CM_E_BADVALUE);
    cm_buf_deinit(&out);
}

/* --- deleting --- */

static void deletes(struct cm_bytes body, const char *path, struct cm_bytes expected) {
    struct cm_buf buf = {0}, out = {0};
    assert_int_equal(delete (body, steps_of(path, &buf), NOW_MS, &out), 0);
    same_bytes(result_of(&out), expected, path);
    cm_buf_deinit(&buf);
    cm_buf_deinit(&out);
}

static void what_is_deleted_leaves_its_table(void **state) {
    (void)state;
    deletes(BYTES("\x05"), "", BYTES(""));
    deletes(BYTES(MARK("\x21") "\x05"), "", BYTES(""));
    deletes(BYTES("\x82\xa1"
                  "a\x01\xa1"
                  "b\x02"),
            ".a",
            BYTES("\x81\xa1"
                  "b\x02"));
    deletes(BYTES("\x82\xa1"
                  "a\x01\xa1"
                  "b" MARK("\x21") "\x92\x01\x02"),
            ".b",
            BYTES("\x81\xa1"
                  "a\x01"));
    deletes(BYTES("\x81\xa1"
                  "a\x01"),
            ".a", BYTES("\x80"));
    deletes(BYTES("\x92\x81\xa1"
                  "a\x01\x05"),
            "[1].a", BYTES("\x92\x80\x05"));
    deletes(BYTES(MARK("\x21") "\x81\xa1"
                               "a\x01"),
            ".a", BYTES(MARK("\x21") "\x80"));
}

static void arrays_get_shorter_or_become_maps(void **state) {
    (void)state;
    deletes(BYTES("\x93\x01\x02\x03"), "[3]", BYTES("\x92\x01\x02"));
    deletes(BYTES("\x93\x01\x02" MARK("\x21") "\x03"), "[3]", BYTES("\x92\x01\x02"));
    deletes(BYTES("\x91\x01"), "[1]", BYTES("\x80"));
    deletes(BYTES("\x93\x01" MARK("\x21") "\x02\xa1x"), "[2]", BYTES("\x82\x01\x01\x03\xa1x"));
    deletes(BYTES("\x93\x01\x02" MARK("\x21") "\x03"), "[1]", BYTES("\x82\x02\x02\x03" MARK("\x21") "\x03"));
    deletes(BYTES("\x92\x91\x01\x05"), "[1][1]", BYTES("\x92\x80\x05"));
    deletes(BYTES("\x92\x92\x01\x02\x05"), "[1][1]", BYTES("\x92\x81\x02\x02\x05"));
}

/* --- marks --- */

static void purges(struct cm_bytes body, struct cm_bytes expected) {
    struct cm_buf out = {0};
    assert_int_equal(purge(body, NOW_MS, &out), 0);
    same_bytes(result_of(&out), expected, "purge");
    cm_buf_deinit(&out);
}

#define GONE MARK("\x20") "\x92\x01" MARK("\x21") "\xa1x"
#define LIVE MARK("\x21") "\xa1y"

static void what_is_expired_is_purged_as_if_deleted(void **state) {
    (void)state;
    purges(BYTES(""), BYTES(""));
    purges(BYTES("\x05"), BYTES("\x05"));
    purges(BYTES(GONE), BYTES(""));
    purges(BYTES(LIVE), BYTES(LIVE));
    purges(BYTES("\x93" LIVE "\x02" LIVE), BYTES("\x93" LIVE "\x02" LIVE));
    purges(BYTES("\x91" GONE), BYTES("\x80"));
    purges(BYTES("\x92" GONE GONE), BYTES("\x80"));
    purges(BYTES("\x81\xa1"
                 "a" GONE),
           BYTES("\x80"));
    purges(BYTES("\x93\x01" LIVE GONE), BYTES("\x92\x01" LIVE));
    purges(BYTES("\x93" GONE "\x02" LIVE), BYTES("\x82\x02\x02\x03" LIVE));
    purges(BYTES("\x94\x01" GONE LIVE GONE), BYTES("\x82\x01\x01\x03" LIVE));
    purges(BYTES("\x83\xa1"
                 "a" GONE "\xa1"
                 "b" LIVE "\x03" GONE),
           BYTES("\x81\xa1"
                 "b" LIVE));
    purges(BYTES(LIVE), BYTES(LIVE));
    /* Inner tables before, in and behind what is gone. */
    purges(BYTES("\x94\x92" GONE "\x01" GONE "\x81\x01" LIVE "\x92\x01" GONE),
           BYTES("\x83\x01\x81\x02\x01\x03\x81\x01" LIVE "\x04\x91\x01"));
    purges(BYTES("\x82\xa1"
                 "a" MARK("\x21") "\x91" GONE "\xa1"
                                  "b\x92\x92" GONE LIVE GONE),
           BYTES("\x82\xa1"
                 "a" MARK("\x21") "\x80\xa1"
                                  "b\x91\x81\x02" LIVE));
}

static void purging_shortens_heads(void **state) {
    (void)state;
    struct cm_buf body = {0}, rest = {0};
    assert_int_equal(cm_item_write_table(&body, CM_ITEM_ARRAY, 70000), 0);
    assert_int_equal(cm_item_write_table(&rest, CM_ITEM_ARRAY, 15), 0);
    for (int i = 0; i < 70000; i++) {
        if (i >= 15)
            assert_int_equal(cm_item_write_mark(&body, NOW_MS), 0);
        assert_int_equal(cm_item_write_integer(&body, i), 0);
        if (i < 15)
            assert_int_equal(cm_item_write_integer(&rest, i), 0);
    }
    purges(cm_buf_view(&body), cm_buf_view(&rest));
    cm_buf_deinit(&body);
    cm_buf_deinit(&rest);
}

static void the_earliest_expiry_is_that_of_any_mark(void **state) {
    (void)state;
    uint64_t expires_ms = 99;
    assert_int_equal(cm_document_earliest(BYTES(""), &expires_ms), 0);
    assert_int_equal(expires_ms, 0);
    assert_int_equal(cm_document_earliest(BYTES("\x91\x01"), &expires_ms), 0);
    assert_int_equal(expires_ms, 0);
    assert_int_equal(cm_document_earliest(BYTES(MARK("\x09") "\x01"), &expires_ms), 0);
    assert_int_equal(expires_ms, 9);
    assert_int_equal(cm_document_earliest(BYTES(MARK("\x09") "\x92" MARK("\x07") "\x81\x01" MARK(
                                              "\x05") "\x01" MARK("\x06") "\x01"),
                                          &expires_ms),
                     0);
    assert_int_equal(expires_ms, 5);
    assert_int_equal(cm_document_earliest(BYTES("\x91"), &expires_ms), CM_E_BADVALUE);
}

static uint64_t shifted(uint64_t expires_ms, int64_t by_ms) {
    struct cm_buf body = {0};
    struct cm_bytes rest;
    struct cm_item item;
    assert_int_equal(cm_buf_append(&body, "\x82\x01", 2), 0);
    assert_int_equal(cm_item_write_mark(&body, expires_ms), 0);
    assert_int_equal(cm_buf_append(&body, "\xa1x\x02\xc3", 4), 0);
    assert_int_equal(cm_document_shift(body.data, body.len, by_ms), 0);
    same_bytes((struct cm_bytes){body.data, 2}, BYTES("\x82\x01"), "before");
    same_bytes((struct cm_bytes){body.data + 12, 4}, BYTES("\xa1x\x02\xc3"), "behind");
    rest = (struct cm_bytes){body.data + 2, 10};
    assert_int_equal(cm_item_take(&rest, &item), 0);
    cm_buf_deinit(&body);
    return item.count;
}

static void marks_move_and_stop_at_the_ends(void **state) {
    (void)state;
    assert_int_equal(shifted(1000, 0), 1000);
    assert_int_equal(shifted(1000, 5), 1005);
    assert_int_equal(shifted(1000, -5), 995);
    assert_int_equal(shifted(1000, -999), 1);
    assert_int_equal(shifted(1000, -1000), 1);
    assert_int_equal(shifted(1000, INT64_MIN), 1);
    assert_int_equal(shifted(UINT64_MAX, INT64_MIN), INT64_MAX);
    assert_int_equal(shifted(UINT64_MAX - 5, 5), UINT64_MAX);
    assert_int_equal(shifted(UINT64_MAX - 5, 6), UINT64_MAX);
    assert_int_equal(shifted(UINT64_MAX, INT64_MAX), UINT64_MAX);
    assert_int_equal(cm_document_shift(NULL, 0, 5), 0);
    uint8_t cut[] = {0x91};
    assert_int_equal(cm_document_shift(cut, 1, 5), CM_E_BADVALUE);
}

/* --- random operations --- */

enum { OPERATIONS = 60000, MOST_STEPS = 4 };

struct world {
    uint64_t random;
    uint64_t now_ms;
    struct cm_buf body;
    struct tree *tree; /* what must be in it */
    struct cm_buf out;
    unsigned keys[MOST_STEPS];
    unsigned count;
    struct cm_buf steps;
};

static void pick_path(struct world *world) {
    world->count = (unsigned)random_below(&world->random, random_below(&world->random, 4) ? MOST_STEPS : 2);
    world->count += world->count == 0 && random_below(&world->random, 20);
    world->steps.len = 0;
    for (unsigned i = 0; i < world->count; i++) {
        world->keys[i] =
            (unsigned)random_below(&world->random, random_below(&world->random, 2) ? 3 : TREE_KEYS);
        tree_write_key(world->keys[i], &world->steps);
    }
}

static uint64_t shift_tree(struct tree *tree, uint64_t by_ms) {
    if (tree && tree->expires_ms)
        tree->expires_ms += by_ms;
    for (unsigned i = 0; tree && i < TREE_KEYS; i++)
        shift_tree(tree->children[i], by_ms);
    return by_ms;
}

/* The body becomes what an operation gave. */
static void take_result(struct world *world) {
    world->body.len = 0;
    struct cm_bytes result = result_of(&world->out);
    assert_int_equal(cm_buf_append(&world->body, result.data, result.len), 0);
}

static void set_at_random(struct world *world) {
    struct cm_buf value = {0};
    struct tree *tree = tree_random(&world->random, (unsigned)random_below(&world->random, 4), false, 0);
    tree_encode(tree, random_below(&world->random, 3) == 0, &world->random, &value);
    if (random_below(&world->random, 2))
        tree->expires_ms = world->now_ms + random_below(&world->random, 200);
    assert_int_equal(set(cm_buf_view(&world->body), cm_buf_view(&world->steps), cm_buf_view(&value),
                         tree->expires_ms, world->now_ms, &world->out),
                     0);
    world->tree = tree_set(world->tree, world->keys, world->count, tree);
    world->tree = tree_expire(world->tree, world->now_ms); /* it may be expired from the beginning */
    take_result(world);
    cm_buf_deinit(&value);
}

static void delete_at_random(struct world *world) {
    bool is_there = tree_find(world->tree, world->keys, world->count);
    int err = delete (cm_buf_view(&world->body), cm_buf_view(&world->steps), world->now_ms, &world->out);
    assert_int_equal(err, is_there ? 0 : CM_E_NOTFOUND);
    if (err)
        return;
    world->tree = tree_delete(world->tree, world->keys, world->count);
    take_result(world);
}

static void find_at_random(struct world *world) {
    struct cm_bytes value;
    const struct tree *expected = tree_find(world->tree, world->keys, world->count);
    int err = find(cm_buf_view(&world->body), cm_buf_view(&world->steps), world->now_ms, &value);
    assert_int_equal(err, expected ? 0 : CM_E_NOTFOUND);
    if (err)
        return;
    struct tree *found = tree_expire(tree_decode(value), world->now_ms);
    found->expires_ms = expected->expires_ms; /* a view is without its mark */
    assert_true(tree_equal(found, expected));
    tree_free(found);
}

static void purge_and_compare(struct world *world) {
    assert_int_equal(purge(cm_buf_view(&world->body), world->now_ms, &world->out), 0);
    take_result(world);
    uint64_t earliest_ms;
    assert_int_equal(cm_document_earliest(cm_buf_view(&world->body), &earliest_ms), 0);
    assert_int_equal(earliest_ms, tree_earliest(world->tree));
    assert_true(earliest_ms == 0 || earliest_ms > world->now_ms);
    struct tree *decoded = tree_decode(cm_buf_view(&world->body));
    assert_true(tree_equal(decoded, world->tree)); /* nothing expired is left in it */
    tree_free(decoded);
}

static void shift_at_random(struct world *world) {
    uint64_t by_ms = random_below(&world->random, 1000);
    assert_int_equal(cm_document_shift(world->body.data, world->body.len, (int64_t)by_ms), 0);
    world->now_ms += shift_tree(world->tree, by_ms);
}

static void compare(const struct world *world) {
    struct tree *decoded = tree_expire(tree_decode(cm_buf_view(&world->body)), world->now_ms);
    assert_true(tree_equal(decoded, world->tree));
    tree_free(decoded);
}

static void random_operations_match_a_tree(void **state) {
    (void)state;
    struct world world = {.random = 1, .now_ms = 1000};
    size_t longest = 0;
    for (int i = 0; i < OPERATIONS; i++) {
        world.now_ms += random_below(&world.random, 3) ? 0 : random_below(&world.random, 30);
        world.tree = tree_expire(world.tree, world.now_ms);
        pick_path(&world);
        switch (random_below(&world.random, 20)) {
        case 0:
            purge_and_compare(&world);
            break;
        case 1:
            shift_at_random(&world);
            break;
        case 2:
        case 3:
        case 4:
        case 5:
            find_at_random(&world);
            break;
        case 6:
        case 7:
        case 8:
        case 9:
        case 10:
        case 11:
            delete_at_random(&world);
            break;
        default:
            set_at_random(&world);
            break;
        }
        compare(&world);
        longest = world.body.len > longest ? world.body.len : longest;
    }
    assert_true(longest > 1000);
    tree_free(world.tree);
    cm_buf_deinit(&world.body);
    cm_buf_deinit(&world.out);
    cm_buf_deinit(&world.steps);
}

/* Many marks in one body, which expire one after the other. */
static void random_bodies_are_purged_at_any_time(void **state) {
    (void)state;
    uint64_t random = 2;
    for (int i = 0; i < 3000; i++) {
        struct world world = {.random = random_next(&random), .now_ms = random_below(&random, 300)};
        world.tree = tree_random(&random, 4, true, 1);
        tree_encode(world.tree, random_below(&random, 4) == 0, &random, &world.body);
        world.tree = tree_expire(world.tree, world.now_ms);
        purge_and_compare(&world);
        tree_free(world.tree);
        cm_buf_deinit(&world.body);
        cm_buf_deinit(&world.out);
    }
}

/* --- bodies that are none --- */

static void try_all(struct cm_bytes body, uint64_t *random) {
    struct world world = {.random = random_next(random), .now_ms = 100};
    struct cm_buf out = {0};
    struct cm_bytes value;
    uint64_t earliest_ms;
    unsigned depth;
    pick_path(&world);
    struct cm_bytes steps = cm_buf_view(&world.steps);
    int whole = cm_document_check_body(body);
    int err = purge(body, world.now_ms, &out);
    assert_true(err == whole || err == 0); /* within what is gone nothing is looked at */
    assert_int_equal(cm_document_earliest(body, &earliest_ms), body.len ? whole : 0);
    err = cm_document_check(body, &depth);
    assert_true(err == 0 || err == CM_E_BADVALUE);
    err = find(body, steps, world.now_ms, &value);
    assert_true(err == 0 || err == CM_E_NOTFOUND || (err == CM_E_BADVALUE && whole));
    err = delete (body, steps, world.now_ms, &out);
    assert_true(err == 0 || err == CM_E_NOTFOUND || (err == CM_E_BADVALUE && whole));
    err = set(body, steps, BYTES("\x91\x01"), 0, world.now_ms, &out);
    assert_true(err == 0 || (err == CM_E_BADVALUE && whole));
    struct cm_bytes copy = copy_of(body);
    err = cm_document_shift((uint8_t *)copy.data, copy.len, -50);
    assert_int_equal(err, body.len ? whole : 0);
    drop(copy);
    cm_buf_deinit(&out);
    cm_buf_deinit(&world.steps);
}

static void cut_and_corrupted_bodies_are_refused_or_passed_over(void **state) {
    (void)state;
    uint64_t random = 3;
    for (int i = 0; i < 150; i++) {
        struct cm_buf body = {0};
        struct tree *tree = tree_random(&random, 3, true, 1);
        tree_encode(tree, i % 2, &random, &body);
        tree_free(tree);
        for (size_t len = 0; len < body.len; len++) {
            assert_int_equal(cm_document_check_body((struct cm_bytes){body.data, len}), CM_E_BADVALUE);
            struct cm_bytes cut = copy_of((struct cm_bytes){body.data, len});
            try_all(cut, &random);
            drop(cut);
            uint8_t was = body.data[len];
            body.data[len] = (uint8_t)random_next(&random);
            struct cm_bytes other = copy_of(cm_buf_view(&body));
            try_all(other, &random);
            drop(other);
            body.data[len] = was;
        }
        cm_buf_deinit(&body);
    }
}

/* --- without memory --- */

static int operate(void *data) {
    struct world *world = data;
    struct cm_buf out = {0};
    struct cm_bytes body = cm_buf_view(&world->body), steps = cm_buf_view(&world->steps);
    int err = cm_document_set(body, steps, BYTES("\x01"), 1000, world->now_ms, &out);
    size_t len = out.len;
    if (!err)
        err = cm_document_delete(body, BYTES("\x02"), world->now_ms, &out);
    if (err)
        assert_int_equal(out.len, len);
    len = out.len;
    if (!err)
        err = cm_document_purge(body, world->now_ms, &out);
    if (err)
        assert_int_equal(out.len, len);
    cm_buf_deinit(&out);
    return err;
}

static void without_memory_nothing_is_appended(void **state) {
    (void)state;
    struct world world = {.now_ms = NOW_MS};
    assert_int_equal(cm_item_write_table(&world.body, CM_ITEM_ARRAY, 200), 0);
    for (int i = 0; i < 200; i++) {
        struct cm_bytes entry = i % 3 ? BYTES("\x92\x01\x02") : BYTES("\x92" LIVE GONE);
        assert_int_equal(cm_buf_append(&world.body, entry.data, entry.len), 0);
    }
    steps_of("[201].a[1].b", &world.steps);
    cm_buf_consume(&world.steps, 2); /* the name */
    alloc_failure_each(operate, &world);
    world.steps.len = 0;
    assert_int_equal(cm_path_add_integer(&world.steps, 1000), 0);
    alloc_failure_each(operate, &world);
    cm_buf_deinit(&world.body);
    cm_buf_deinit(&world.steps);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_checked_and_its_depth_told),
        cmocka_unit_test(malformed_values_are_refused),
        cmocka_unit_test(marks_stand_before_values_of_a_body_alone),
        cmocka_unit_test(nesting_has_a_bound),
        cmocka_unit_test(what_is_there_is_found),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(number_keys_are_compared_by_value),
        cmocka_unit_test(a_search_ends_at_what_is_no_key),
        cmocka_unit_test(the_expired_is_absent_with_all_under_it),
        cmocka_unit_test(a_value_replaces_value_and_mark),
        cmocka_unit_test(tables_are_made_on_the_way),
        cmocka_unit_test(scalars_on_the_way_become_tables),
        cmocka_unit_test(a_living_scalars_mark_stays_and_an_expired_one_goes),
        cmocka_unit_test(a_living_tables_mark_stays_and_an_expired_table_is_made_anew),
        cmocka_unit_test(arrays_get_their_next_element_or_become_maps),
        cmocka_unit_test(maps_get_pairs),
        cmocka_unit_test(tables_without_entries_take_the_form_of_their_first),
        cmocka_unit_test(heads_grow_and_shrink_with_the_counts),
        cmocka_unit_test(results_nest_no_deeper_than_values),
        cmocka_unit_test(only_values_without_marks_are_set),
        cmocka_unit_test(what_is_deleted_leaves_its_table),
        cmocka_unit_test(arrays_get_shorter_or_become_maps),
        cmocka_unit_test(what_is_expired_is_purged_as_if_deleted),
        cmocka_unit_test(purging_shortens_heads),
        cmocka_unit_test(the_earliest_expiry_is_that_of_any_mark),
        cmocka_unit_test(marks_move_and_stop_at_the_ends),
        cmocka_unit_test(random_operations_match_a_tree),
        cmocka_unit_test(random_bodies_are_purged_at_any_time),
        cmocka_unit_test(cut_and_corrupted_bodies_are_refused_or_passed_over),
        cmocka_unit_test(without_memory_nothing_is_appended),
    };
    return cmocka_run_group_tests_name("document", tests, NULL, NULL);
}
