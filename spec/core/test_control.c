/* What the master and its processes tell each other about processes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "wire/control.h"

/* A script of these arguments and environment lines; each list ends with NULL. */
static int make_script(struct cm_script *script, const char *const *args, const char *const *env) {
    int err = cm_script_init(script);
    for (; !err && *args; args++)
        err = cm_strings_append(&script->args, cm_bytes_of(*args));
    for (; !err && *env; env++)
        err = cm_strings_append(&script->env, cm_bytes_of(*env));
    return err;
}

static void same_strings(const struct cm_strings *one, const struct cm_strings *other) {
    assert_int_equal(one->count, other->count);
    for (size_t i = 0; i < one->count; i++)
        assert_string_equal(one->items[i], other->items[i]);
}

/* Writes and reads the script; what reading said. */
static int pass_on(const struct cm_script *script, struct cm_script *arrived) {
    struct cm_buf buf = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &buf);
    cm_script_write(&writer, script);
    assert_int_equal(writer.error, 0);
    struct cm_reader reader;
    cm_reader_init(&reader, cm_buf_view(&buf));
    assert_int_equal(cm_script_init(arrived), 0);
    int err = cm_script_read(&reader, arrived);
    if (!err)
        assert_int_equal(cm_reader_end(&reader), 0);
    cm_buf_deinit(&buf);
    return err;
}

static void scripts_are_read_back_if_they_can_be_run(void **state) {
    (void)state;
    static const struct {
        const char *args[4];
        const char *env[4];
        int err;
    } cases[] = {
        {{"app.lua"}, {NULL}, 0},
        {{"app.lua", "", "-v"}, {"A=1", "B=", "C=a=b"}, 0},
        {{NULL}, {NULL}, CM_E_BADFRAME},
        {{""}, {NULL}, CM_E_BADFRAME},
        {{"app.lua"}, {"A"}, CM_E_BADFRAME},
        {{"app.lua"}, {""}, CM_E_BADFRAME},
        {{"app.lua"}, {"=1"}, CM_E_BADFRAME},
        {{"app.lua"}, {"A=1", "=1"}, CM_E_BADFRAME},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cm_script script, arrived;
        assert_int_equal(make_script(&script, cases[i].args, cases[i].env), 0);
        assert_int_equal(pass_on(&script, &arrived), cases[i].err);
        if (!cases[i].err) {
            same_strings(&arrived.args, &script.args);
            same_strings(&arrived.env, &script.env);
        }
        cm_script_deinit(&script);
        cm_script_deinit(&arrived);
    }
    assert_int_equal(alloc_failure_alive(), 0);
}

static void too_many_arguments_are_refused(void **state) {
    (void)state;
    struct cm_script script, arrived;
    assert_int_equal(cm_script_init(&script), 0);
    struct cm_strings *strings[] = {&script.args, &script.env};
    static const size_t most[] = {CM_SCRIPT_MAX_ARGS, CM_SCRIPT_MAX_ENV};
    for (size_t i = 0; i < 2; i++)
        for (size_t more = 0; more <= 1; more++) {
            while (strings[i]->count < most[i] + more)
                assert_int_equal(cm_strings_append(strings[i], cm_bytes_of(i ? "A=1" : "x")), 0);
            assert_int_equal(pass_on(&script, &arrived), more ? CM_E_BADFRAME : 0);
            cm_script_deinit(&arrived);
            if (more)
                free(strings[i]->items[--strings[i]->count]);
            strings[i]->items[strings[i]->count] = NULL;
        }
    cm_script_deinit(&script);
}

static void a_nul_inside_a_string_is_refused(void **state) {
    (void)state;
    struct cm_script script;
    struct cm_reader reader;
    static const uint8_t bytes[] = {1, 0, 0, 0, 3, 0, 0, 0, 'a', 0, 'b', 0, 0, 0, 0};
    assert_int_equal(cm_script_init(&script), 0);
    cm_reader_init(&reader, (struct cm_bytes){bytes, sizeof bytes});
    assert_int_equal(cm_script_read(&reader, &script), CM_E_BADFRAME);
    cm_script_deinit(&script);
}

/* Writes what a process is told first. */
static void write_init(struct cm_buf *buf, struct cm_init *init) {
    static const char *const args[] = {"app.lua", "-x", NULL}, *const env[] = {"A=1", NULL};
    static const struct cm_worker_row rows[] = {{1, 1, 100, true}, {7, 2, 200, false}};
    *init = (struct cm_init){.id = 7,
                             .slot = 2,
                             .seat = 9,
                             .test = true,
                             .has_workers = true,
                             .says_ready = true,
                             .max_value_bytes = 1 << 26,
                             .exit_ms = 5000,
                             .watchdog_ms = 3000,
                             .heap_bytes = UINT64_C(5) << 32,
                             .log_level = 3,
                             .row_count = 2};
    assert_int_equal(make_script(&init->script, args, env), 0);
    init->rows = malloc(sizeof rows);
    assert_non_null(init->rows);
    memcpy(init->rows, rows, sizeof rows);
    struct cm_writer writer;
    cm_writer_init(&writer, buf);
    cm_init_write(&writer, init);
    assert_int_equal(writer.error, 0);
}

static void check_init(const struct cm_init *arrived, const struct cm_init *init) {
    assert_int_equal(arrived->id, init->id);
    assert_int_equal(arrived->slot, init->slot);
    assert_int_equal(arrived->seat, init->seat);
    assert_int_equal(arrived->test, init->test);
    assert_int_equal(arrived->has_workers, init->has_workers);
    assert_int_equal(arrived->says_ready, init->says_ready);
    assert_int_equal(arrived->max_value_bytes, init->max_value_bytes);
    assert_int_equal(arrived->exit_ms, init->exit_ms);
    assert_int_equal(arrived->watchdog_ms, init->watchdog_ms);
    assert_int_equal(arrived->heap_bytes, init->heap_bytes);
    assert_int_equal(arrived->log_level, init->log_level);
    same_strings(&arrived->script.args, &init->script.args);
    same_strings(&arrived->script.env, &init->script.env);
    assert_int_equal(arrived->row_count, init->row_count);
    for (size_t i = 0; i < init->row_count; i++) {
        assert_int_equal(arrived->rows[i].id, init->rows[i].id);
        assert_int_equal(arrived->rows[i].slot, init->rows[i].slot);
        assert_int_equal(arrived->rows[i].pid, init->rows[i].pid);
        assert_int_equal(arrived->rows[i].online, init->rows[i].online);
    }
}

static void init_is_read_back_whole_or_not(void **state) {
    (void)state;
    struct cm_buf buf = {0};
    struct cm_init init, arrived;
    write_init(&buf, &init);
    for (size_t len = 0; len <= buf.len; len++) {
        assert_int_equal(cm_init_read((struct cm_bytes){buf.data, len}, &arrived),
                         len < buf.len ? CM_E_BADFRAME : 0);
        if (len == buf.len)
            check_init(&arrived, &init);
        cm_init_deinit(&arrived);
    }
    assert_int_equal(cm_buf_append(&buf, "", 1), 0);
    assert_int_equal(cm_init_read(cm_buf_view(&buf), &arrived), CM_E_BADFRAME);
    cm_init_deinit(&arrived);
    cm_init_deinit(&init);
    cm_buf_deinit(&buf);
    assert_int_equal(alloc_failure_alive(), 0);
}

struct sent {
    struct cm_buf buf;
    struct cm_init init;
};

static int read_init(void *data) {
    struct sent *sent = data;
    struct cm_init arrived;
    int err = cm_init_read(cm_buf_view(&sent->buf), &arrived);
    if (!err)
        check_init(&arrived, &sent->init);
    cm_init_deinit(&arrived);
    return err;
}

static void failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    struct sent sent = {0};
    write_init(&sent.buf, &sent.init);
    alloc_failure_each(read_init, &sent);
    cm_init_deinit(&sent.init);
    cm_buf_deinit(&sent.buf);
}

static void events_are_read_back_whole_or_not(void **state) {
    (void)state;
    for (unsigned change = 0; change < 256; change++) {
        const struct cm_process_event event = {(uint8_t)change, 1, 2, 3, -1, 9, true};
        struct cm_process_event arrived;
        struct cm_buf buf = {0};
        struct cm_writer writer;
        cm_writer_init(&writer, &buf);
        cm_process_event_write(&writer, &event);
        assert_int_equal(writer.error, 0);
        for (size_t len = 0; len < buf.len; len++)
            assert_int_equal(cm_process_event_read((struct cm_bytes){buf.data, len}, &arrived),
                             CM_E_BADFRAME);
        bool known = change <= CM_PROCESS_EXIT;
        assert_int_equal(cm_process_event_read(cm_buf_view(&buf), &arrived), known ? 0 : CM_E_BADFRAME);
        if (known) {
            assert_int_equal(arrived.change, event.change);
            assert_int_equal(arrived.id, event.id);
            assert_int_equal(arrived.slot, event.slot);
            assert_int_equal(arrived.pid, event.pid);
            assert_int_equal(arrived.code, event.code);
            assert_int_equal(arrived.signal, event.signal);
            assert_int_equal(arrived.more, event.more);
        }
        cm_buf_deinit(&buf);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scripts_are_read_back_if_they_can_be_run),
        cmocka_unit_test(too_many_arguments_are_refused),
        cmocka_unit_test(a_nul_inside_a_string_is_refused),
        cmocka_unit_test(init_is_read_back_whole_or_not),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
        cmocka_unit_test(events_are_read_back_whole_or_not),
    };
    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
