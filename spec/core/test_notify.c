/* What a service manager is told, by a socket that stands for its own. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cluster/notify.h"
#include "spec/core/test.h"

enum { LIMIT_MS = 10000 };

struct world {
    char name[64]; /* as NOTIFY_SOCKET has it */
    int manager;
    uv_loop_t loop;
    uv_async_t alive; /* keeps the loop running, which the thing itself does not */
    struct cm_notify notify;
};

static int listen_at(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, strlen(name));
    if (name[0] == '@')
        address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))),
                     0);
    return fd;
}

static void start(struct world *world, const char *prefix) {
    static int count;
    snprintf(world->name, sizeof world->name, "%sclustermem-notify-%d-%d", prefix, (int)getpid(), ++count);
    world->manager = listen_at(world->name);
    setenv("NOTIFY_SOCKET", world->name, 1);
    cm_notify_init(&world->notify);
    assert_int_equal(uv_loop_init(&world->loop), 0);
    assert_int_equal(uv_async_init(&world->loop, &world->alive, NULL), 0);
    cm_notify_start(&world->notify, &world->loop);
}

static void end(struct world *world) {
    cm_notify_stop(&world->notify);
    uv_close((uv_handle_t *)&world->alive, NULL);
    uv_run(&world->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&world->loop), 0);
    close(world->manager);
    if (world->name[0] == '/')
        unlink(world->name);
}

/* The next thing that it has been told, while the loop runs; "" if there is none at the moment. */
static const char *told(const struct world *world) {
    static char text[256];
    ssize_t got = recv(world->manager, text, sizeof text - 1, 0);
    if (got < 0)
        assert_int_equal(errno, EAGAIN);
    text[got < 0 ? 0 : got] = 0;
    return text;
}

static const char *wait_told(struct world *world) {
    uint64_t deadline_ms = cm_clock_ms() + LIMIT_MS;
    for (;;) {
        const char *text = told(world);
        if (*text)
            return text;
        assert_true(cm_clock_ms() < deadline_ms);
        uv_run(&world->loop, UV_RUN_NOWAIT);
    }
}

static void states_are_told_at_once(void **state) {
    (void)state;
    static const char *const prefixes[] = {"/tmp/", "@"};
    for (size_t i = 0; i < 2; i++) {
        struct world world = {0};
        start(&world, prefixes[i]);
        assert_string_equal(told(&world), "");
        cm_notify_ready(&world.notify, 4);
        assert_string_equal(told(&world), "READY=1\nSTATUS=Running, workers: 4");
        static const char reloading[] = "RELOADING=1\nMONOTONIC_USEC=";
        unsigned long long before_us = cm_clock_ns() / 1000;
        cm_notify_reloading(&world.notify);
        const char *text = told(&world);
        assert_memory_equal(text, reloading, sizeof reloading - 1);
        char *rest;
        unsigned long long at_us = strtoull(text + sizeof reloading - 1, &rest, 10);
        assert_true(at_us >= before_us && at_us <= cm_clock_ns() / 1000);
        assert_string_equal(rest, "\nSTATUS=Reloading");
        cm_notify_stopping(&world.notify);
        assert_string_equal(told(&world), "STOPPING=1\nSTATUS=Stopping");
        assert_string_equal(told(&world), "");
        end(&world);
    }
}

static void the_variables_are_taken_out_of_the_environment(void **state) {
    (void)state;
    struct world world = {0};
    setenv("WATCHDOG_USEC", "1000000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    start(&world, "@");
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_null(getenv("WATCHDOG_USEC"));
    assert_null(getenv("WATCHDOG_PID"));
    end(&world);
}

static void without_a_good_socket_nobody_is_told(void **state) {
    (void)state;
    char path[256];
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = 0;
    const char *const names[] = {NULL, "", "/", "@", "relative", "vsock:2:1", path};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct cm_notify notify;
        uv_loop_t loop;
        if (names[i])
            setenv("NOTIFY_SOCKET", names[i], 1);
        cm_notify_init(&notify);
        assert_int_equal(notify.fd, -1);
        assert_int_equal(uv_loop_init(&loop), 0);
        cm_notify_start(&notify, &loop);
        cm_notify_ready(&notify, 1);
        cm_notify_stopping(&notify);
        cm_notify_stop(&notify);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(&loop), 0);
    }
}

static void the_longest_path_is_taken(void **state) {
    (void)state;
    struct cm_notify notify;
    char path[sizeof notify.address.sun_path + 1];
    memset(path, 'x', sizeof path);
    path[0] = '/';
    for (size_t len = sizeof path - 1; len >= sizeof path - 2; len--) {
        path[len] = 0;
        setenv("NOTIFY_SOCKET", path, 1);
        cm_notify_init(&notify);
        assert_int_equal(notify.fd >= 0, len < sizeof notify.address.sun_path);
        if (notify.fd >= 0)
            close(notify.fd);
    }
}

static void signs_of_life_come_twice_in_each_interval(void **state) {
    (void)state;
    char own[16], other[16];
    snprintf(own, sizeof own, "%d", (int)getpid());
    snprintf(other, sizeof other, "%d", (int)getpid() + 1);
    const struct {
        const char *limit_us, *pid;
        uint64_t alive_ms;
    } cases[] = {
        {"30000000", NULL, 15000},
        {"30000000", own, 15000},
        {"30000000", other, 0},
        {"30000000", "x", 0},
        {"1", NULL, 1},
        {"0", NULL, 0},
        {"", NULL, 0},
        {"-5", NULL, 0},
        {"5s", NULL, 0},
        {NULL, own, 0},
        {"99999999999999999999999", NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world world = {0};
        if (cases[i].limit_us)
            setenv("WATCHDOG_USEC", cases[i].limit_us, 1);
        if (cases[i].pid)
            setenv("WATCHDOG_PID", cases[i].pid, 1);
        start(&world, "@");
        assert_int_equal(world.notify.alive_ms, cases[i].alive_ms);
        end(&world);
    }

    struct world world = {0};
    setenv("WATCHDOG_USEC", "60000", 1);
    start(&world, "@");
    uint64_t begun_ms = cm_clock_ms();
    for (int i = 0; i < 3; i++)
        assert_string_equal(wait_told(&world), "WATCHDOG=1");
    assert_true(cm_clock_ms() - begun_ms >= 85);
    end(&world);
}

/* A manager that takes nothing for a while, as while it starts anew. */
static void a_state_that_is_not_taken_is_told_later(void **state) {
    (void)state;
    struct world world = {0};
    start(&world, "@");
    int told_before = 0;
    while (world.notify.agains == 0) {
        cm_notify_ready(&world.notify, 1);
        told_before++;
        assert_true(told_before < 100000);
    }
    cm_notify_reloading(&world.notify);
    cm_notify_stopping(&world.notify);
    for (int i = 1; i < told_before; i++)
        assert_string_equal(told(&world), "READY=1\nSTATUS=Running, workers: 1");
    assert_string_equal(told(&world), "");
    assert_string_equal(wait_told(&world), "STOPPING=1\nSTATUS=Stopping");
    end(&world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_are_told_at_once),
        cmocka_unit_test(the_variables_are_taken_out_of_the_environment),
        cmocka_unit_test(without_a_good_socket_nobody_is_told),
        cmocka_unit_test(the_longest_path_is_taken),
        cmocka_unit_test(signs_of_life_come_twice_in_each_interval),
        cmocka_unit_test(a_state_that_is_not_taken_is_told_later),
    };
    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
