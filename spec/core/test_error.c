/* The error codes: each has one name and one text for ever, and none is an errno. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/error.h"
#include "spec/core/test.h"

static const struct {
    int code;
    const char *name;
} named[] = {
    {CM_E_TIMEOUT, "timeout"},     {CM_E_DEADLOCK, "deadlock"}, {CM_E_BUSY, "busy"},
    {CM_E_NOTOWNER, "notowner"},   {CM_E_CLOSED, "closed"},     {CM_E_CONFLICT, "conflict"},
    {CM_E_EXISTS, "exists"},       {CM_E_NOTFOUND, "notfound"}, {CM_E_NOMEMORY, "nomemory"},
    {CM_E_TOOLARGE, "toolarge"},   {CM_E_BADVALUE, "badvalue"}, {CM_E_REMOTE, "remote"},
    {CM_E_NOHANDLER, "nohandler"}, {CM_E_NOPEER, "nopeer"},     {CM_E_BADFRAME, "badframe"},
};
enum { NAMED = sizeof named / sizeof named[0] };

static void names_are_the_promised_words(void **state) {
    (void)state;
    for (size_t i = 0; i < NAMED; i++)
        assert_string_equal(cm_error_name(named[i].code), named[i].name);
}

static void codes_names_and_texts_are_distinct(void **state) {
    (void)state;
    for (size_t i = 0; i < NAMED; i++) {
        assert_true(named[i].code < -4095); /* no errno reaches there */
        assert_true(strlen(cm_error_text(named[i].code)) > 5);
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(named[i].code, named[j].code);
            assert_string_not_equal(cm_error_name(named[i].code), cm_error_name(named[j].code));
            assert_string_not_equal(cm_error_text(named[i].code), cm_error_text(named[j].code));
        }
    }
}

static void every_listed_code_is_tested(void **state) {
    (void)state;
    size_t listed = 0;
#define XX(name, word, text) listed++;
    CM_ERRORS(XX)
#undef XX
    assert_int_equal(listed, NAMED);
}

static void errno_has_its_own_name(void **state) {
    (void)state;
    assert_string_equal(cm_error_name(-EADDRINUSE), "EADDRINUSE");
    assert_string_equal(cm_error_text(-EADDRINUSE), "Address already in use");
    assert_string_equal(cm_error_name(-EPERM), "EPERM");
}

static void other_numbers_are_unknown(void **state) {
    (void)state;
    const int others[] = {0, 1, EPERM, INT_MAX, INT_MIN, -9999, CM_ERROR_BASE - NAMED};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (others[i] != 0) /* "Success" would be a text, too */
            assert_string_equal(cm_error_text(others[i]), "unknown error");
        assert_string_equal(cm_error_name(others[i]), "UNKNOWN");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_the_promised_words), cmocka_unit_test(codes_names_and_texts_are_distinct),
        cmocka_unit_test(every_listed_code_is_tested),  cmocka_unit_test(errno_has_its_own_name),
        cmocka_unit_test(other_numbers_are_unknown),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
