/* Log lines, read back from a pipe in the place of standard error. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <regex.h>

#include "base/log.h"
#include "spec/core/test.h"

static char heard[8192];

/* What the statement writes to standard error is in `heard`, and its length in `len`. */
static int saved, ends[2];

static void listen_in(void) {
    assert_int_equal(pipe(ends), 0);
    saved = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
}

static size_t heard_len(void) {
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t len = read(ends[0], heard, sizeof heard - 1);
    close(ends[0]);
    assert_true(len >= 0);
    heard[len] = 0;
    return (size_t)len;
}

static void a_line_has_time_level_and_text(void **state) {
    (void)state;
    regex_t pattern;
    assert_int_equal(
        regcomp(&pattern,
                "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z warn  worker 7: "
                "gone\n$",
                REG_EXTENDED | REG_NOSUB),
        0);
    listen_in();
    errno = ENOENT;
    cm_log(CM_LOG_WARN, "worker %d: %s", 7, "gone");
    int kept = errno;
    heard_len();
    int matches = regexec(&pattern, heard, 0, NULL, 0);
    regfree(&pattern);
    if (matches != 0)
        fail_msg("the line is: %s", heard);
    assert_int_equal(kept, ENOENT);
}

static void errno_stays_also_when_nobody_listens(void **state) {
    (void)state;
    int terminal = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    errno = ENOENT;
    cm_log(CM_LOG_ERROR, "unheard");
    int kept = errno;
    dup2(terminal, STDERR_FILENO);
    close(terminal);
    assert_int_equal(kept, ENOENT);
}

static void what_is_above_the_level_is_not_written(void **state) {
    (void)state;
    for (int highest = CM_LOG_ERROR; highest <= CM_LOG_DEBUG; highest++) {
        cm_log_set_level((enum cm_log_level)highest);
        for (int level = CM_LOG_ERROR; level <= CM_LOG_DEBUG; level++) {
            listen_in();
            cm_log((enum cm_log_level)level, "x");
            assert_int_equal(heard_len() > 0, level <= highest);
        }
    }
    cm_log_set_level(CM_LOG_INFO);
}

static void one_event_is_one_line(void **state) {
    (void)state;
    listen_in();
    cm_log(CM_LOG_INFO, "a\nb\x1b[31mc\td\x7f\xc3\xa4");
    size_t len = heard_len();
    assert_ptr_equal(strchr(heard, '\n'), heard + len - 1);
    assert_non_null(strstr(heard, "a?b?[31mc?d?\xc3\xa4\n"));
}

static void a_long_line_is_cut(void **state) {
    (void)state;
    static char text[6000];
    for (size_t len = 1900; len < sizeof text; len += len < 2100 ? 1 : 500) {
        memset(text, 'x', len);
        text[len] = 0;
        listen_in();
        cm_log(CM_LOG_ERROR, "%s", text);
        size_t wrote = heard_len();
        assert_true(wrote <= 2048);
        assert_ptr_equal(strchr(heard, '\n'), heard + wrote - 1);
        assert_int_equal(strlen(heard), wrote);
        assert_int_equal(heard[wrote - 2], 'x');
    }
}

static void levels_have_words(void **state) {
    (void)state;
    assert_int_equal(cm_log_level_of("error"), CM_LOG_ERROR);
    assert_int_equal(cm_log_level_of("warn"), CM_LOG_WARN);
    assert_int_equal(cm_log_level_of("info"), CM_LOG_INFO);
    assert_int_equal(cm_log_level_of("debug"), CM_LOG_DEBUG);
    assert_int_equal(cm_log_level_of(""), -1);
    assert_int_equal(cm_log_level_of("infos"), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_time_level_and_text),
        cmocka_unit_test(errno_stays_also_when_nobody_listens),
        cmocka_unit_test(what_is_above_the_level_is_not_written),
        cmocka_unit_test(one_event_is_one_line),
        cmocka_unit_test(a_long_line_is_cut),
        cmocka_unit_test(levels_have_words),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
