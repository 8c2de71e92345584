/* A server on the test's own loop, asked through bare sockets: what its owner can do with an exchange, and
 * what becomes of it without memory. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/server.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { DEADLINE_MS = 20000, ANSWER_BYTES = 64 << 10 };

struct world {
    uv_loop_t loop;
    struct cm_server *server;
    struct sockaddr_in address;
    struct cm_exchange *exchange; /* the last one that was asked */
    int asked;
    int progress;
    bool answers; /* at once */
    bool closed;
    int err; /* the first one of the owner's */
    char answer[ANSWER_BYTES];
    size_t answer_len;
};

static void note(struct world *world, int err) {
    if (!world->err)
        world->err = err;
}

static void answer(struct world *world) {
    struct cm_exchange *exchange = world->exchange;
    int err = cm_exchange_field(exchange, cm_bytes_of("X-Mine"), cm_bytes_of("yes"));
    note(world, err ? err : cm_exchange_write(exchange, cm_exchange_unread(exchange)));
    if (world->err)
        cm_exchange_break(exchange);
    else
        cm_exchange_finish(exchange);
    cm_exchange_drop(exchange);
    world->exchange = NULL;
}

static void on_request(struct cm_exchange *exchange) {
    struct world *world = cm_server_of(exchange)->owner;
    world->exchange = exchange;
    world->asked++;
    if (world->answers)
        answer(world);
}

static void on_progress(struct cm_exchange *exchange) {
    struct world *world = cm_server_of(exchange)->owner;
    world->progress++;
}

static void on_closed(struct cm_server *server) {
    struct world *world = server->owner;
    world->closed = true;
}

static const struct cm_server_events events = {{on_request, on_progress}, on_closed};

static int start(struct world *world, bool answers, bool streamed) {
    *world = (struct world){.answers = answers};
    assert_int_equal(uv_loop_init(&world->loop), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    world->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof world->address;
    assert_int_equal(bind(fd, (struct sockaddr *)&world->address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&world->address, &len), 0);
    struct cm_server_options options = {
        .max_header_bytes = 4096, .max_body_bytes = 1 << 20, .max_connections = 10, .streamed = streamed};
    char reason[CM_SERVER_REASON_BYTES];
    int err = cm_server_new(&world->loop, fd, &options, &events, world, reason, &world->server);
    if (err)
        assert_int_equal(uv_loop_close(&world->loop), 0);
    else
        uv_ref((uv_handle_t *)&world->server->poll); /* a loop with nothing that keeps it does not turn */
    return err;
}

static void turn(struct world *world) {
    uv_run(&world->loop, UV_RUN_NOWAIT);
    usleep(100);
}

static void end(struct world *world) {
    if (!world->closed)
        cm_server_stop(world->server);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (!world->closed && cm_clock_ms() < deadline_ms)
        turn(world);
    assert_true(world->closed);
    assert_int_equal(uv_loop_close(&world->loop), 0);
}

static int connect_to(struct world *world, const char *text) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&world->address, sizeof world->address), 0);
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    return fd;
}

/* Turns the loop until the text has come, or the end. @return whether it has come */
static bool receives(struct world *world, int fd, const char *text) {
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (cm_clock_ms() < deadline_ms) {
        turn(world);
        ssize_t got =
            recv(fd, world->answer + world->answer_len, ANSWER_BYTES - world->answer_len - 1, MSG_DONTWAIT);
        if (got > 0)
            world->answer_len += (size_t)got;
        world->answer[world->answer_len] = 0;
        if (strstr(world->answer, text))
            return true;
        if (got == 0 || (got < 0 && errno != EAGAIN))
            return false;
    }
    fail_msg("too late: %s; there is: %s", text, world->answer);
    return false;
}

static void wait_asked(struct world *world, int asked) {
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (world->asked < asked && cm_clock_ms() < deadline_ms)
        turn(world);
    assert_int_equal(world->asked, asked);
}

static const char post[] = "POST /a HTTP/1.1\r\nHost: a\r\nX-Yours: b\r\nContent-Length: 5\r\n\r\nhello";

static void a_request_is_answered_at_once_or_later(void **state) {
    (void)state;
    struct world world;
    for (int later = 0; later < 2; later++) {
        assert_int_equal(start(&world, !later, false), 0);
        int fd = connect_to(&world, post);
        for (int i = 1; i <= 3; i++) {
            if (later) {
                wait_asked(&world, i);
                answer(&world);
            }
            assert_true(receives(&world, fd, "\r\nX-Mine: yes\r\nContent-Length: 5\r\n\r\nhello"));
            world.answer_len = 0;
            assert_int_equal(send(fd, post, sizeof post - 1, MSG_NOSIGNAL), sizeof post - 1);
        }
        wait_asked(&world, 4);
        if (later)
            answer(&world);
        end(&world);
        close(fd);
    }
}

static void find_field(void *context, struct cm_bytes name, struct cm_bytes value) {
    int *found = context;
    *found += name.len == 7 && memcmp(name.data, "X-Yours", 7) == 0 && value.len == 1 && *value.data == 'b';
}

static void check_request(struct cm_exchange *exchange) {
    int found = 0;
    char address[CM_EXCHANGE_ADDRESS_BYTES];
    cm_exchange_each(exchange, find_field, &found);
    assert_int_equal(found, 1);
    cm_exchange_remote(exchange, address);
    assert_string_equal(address, "127.0.0.1");
    assert_int_equal(cm_exchange_method(exchange).len, 4);
    assert_int_equal(cm_exchange_unread(exchange).len, 5);
}

static void a_request_can_be_read_when_its_connection_is_gone(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world, false, false), 0);
    int fd = connect_to(&world, post);
    wait_asked(&world, 1);
    check_request(world.exchange);
    assert_int_equal(cm_exchange_write(world.exchange, cm_bytes_of("part")), 0);
    assert_true(receives(&world, fd, "4\r\npart\r\n"));
    shutdown(fd, SHUT_RDWR);
    close(fd);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (world.exchange->connection && cm_clock_ms() < deadline_ms) {
        cm_exchange_write(world.exchange, cm_bytes_of("more"));
        turn(&world);
    }
    assert_null(world.exchange->connection);
    assert_int_equal(cm_exchange_write(world.exchange, cm_bytes_of("more")), CM_E_CLOSED);
    assert_false(cm_exchange_is_full(world.exchange));
    assert_int_equal(world.progress, 1);
    check_request(world.exchange);
    cm_exchange_finish(world.exchange);
    cm_exchange_drop(world.exchange);
    end(&world);
}

static void a_server_waits_for_what_its_owner_has(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world, false, false), 0);
    int fd = connect_to(&world, post);
    wait_asked(&world, 1);
    cm_server_stop(world.server);
    for (int i = 0; i < 50; i++)
        turn(&world);
    assert_false(world.closed);
    answer(&world);
    assert_true(receives(&world, fd, "\r\n\r\nhello"));
    assert_non_null(strstr(world.answer, "\r\nConnection: close\r\n"));
    end(&world);
    close(fd);
}

static void an_answers_fields_are_bounded(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world, false, false), 0);
    int fd = connect_to(&world, post);
    wait_asked(&world, 1);
    static char long_value[CM_EXCHANGE_HEAD_MAX_BYTES + 1];
    struct cm_bytes value = {(const uint8_t *)memset(long_value, 'x', sizeof long_value), sizeof long_value};
    assert_int_equal(cm_exchange_field(world.exchange, cm_bytes_of("X"), value), CM_E_TOOLARGE);
    value.len = SIZE_MAX;
    assert_int_equal(cm_exchange_field(world.exchange, cm_bytes_of("X"), value), CM_E_TOOLARGE);
    value.len = CM_EXCHANGE_HEAD_MAX_BYTES - 3;
    assert_int_equal(cm_exchange_field(world.exchange, cm_bytes_of("X"), value), 0);
    assert_int_equal(cm_exchange_field(world.exchange, cm_bytes_of("Y"), cm_bytes_of("")), CM_E_TOOLARGE);
    cm_exchange_reset(world.exchange);
    answer(&world);
    assert_true(receives(&world, fd, "\r\nX-Mine: yes\r\n"));
    assert_null(strstr(world.answer, "xxx"));
    close(fd);
    end(&world);
}

/* One request on a server of its own; what runs out of memory closes the connection. */
static int without_memory(void *data) {
    (void)data;
    struct world world;
    int err = start(&world, true, false);
    if (err)
        return err;
    int fd = connect_to(&world, post);
    bool answered = receives(&world, fd, "\r\n\r\nhello");
    close(fd);
    end(&world);
    return answered ? 0 : CM_E_NOMEMORY;
}

static const char too_large[] = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\nbegin";

/* Without memory to linger the answer leaves all the same. */
static int refused_without_memory(void *data) {
    (void)data;
    struct world world;
    int err = start(&world, true, false);
    if (err)
        return err;
    int fd = connect_to(&world, too_large);
    bool answered = receives(&world, fd, "HTTP/1.1 413 ");
    for (int i = 0; i < 10; i++)
        turn(&world);
    end(&world);
    close(fd);
    assert_int_equal(world.asked, 0);
    return answered ? 0 : CM_E_NOMEMORY;
}

static void a_refused_client_can_send_on_for_a_while(void **state) {
    (void)state;
    struct world world;
    assert_int_equal(start(&world, true, false), 0);
    int fd = connect_to(&world, too_large);
    assert_true(receives(&world, fd, "\r\n\r\nthe body is too large\n"));
    static const char rest[10000];
    for (int i = 0; i < 50; i++) {
        assert_int_equal(send(fd, rest, sizeof rest, MSG_NOSIGNAL), sizeof rest);
        turn(&world);
    }
    assert_int_equal(world.server->lingers.count, 1);
    shutdown(fd, SHUT_WR);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (world.server->lingers.count && cm_clock_ms() < deadline_ms)
        turn(&world);
    assert_int_equal(world.server->lingers.count, 0);
    close(fd);
    end(&world);
}

/* Who closes what is closed may close what another thread has just opened. The linker gives the names.
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c) */
int __real_close(int fd);
int __wrap_close(int fd);
static int closed_twice;

int __wrap_close(int fd) {
    int result = __real_close(fd);
    closed_twice += result < 0 && errno == EBADF;
    return result;
}
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c) */

static void a_server_that_cannot_start_closes_its_socket_once(void **state) {
    (void)state;
    struct world world;
    struct cm_server *server;
    char reason[CM_SERVER_REASON_BYTES];
    struct cm_server_options options = {
        .max_header_bytes = 4096, .max_connections = 10, .cert = "no certificate", .key = "no key"};
    assert_int_equal(uv_loop_init(&world.loop), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    closed_twice = 0;
    assert_int_equal(cm_server_new(&world.loop, fd, &options, &events, &world, reason, &server),
                     CM_E_BADVALUE);
    assert_int_equal(closed_twice, 0);
    assert_true(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    assert_int_equal(uv_loop_close(&world.loop), 0);
}

static void failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    alloc_failure_each(without_memory, NULL);
    alloc_failure_each(refused_without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_answered_at_once_or_later),
        cmocka_unit_test(a_request_can_be_read_when_its_connection_is_gone),
        cmocka_unit_test(a_server_waits_for_what_its_owner_has),
        cmocka_unit_test(an_answers_fields_are_bounded),
        cmocka_unit_test(a_refused_client_can_send_on_for_a_while),
        cmocka_unit_test(a_server_that_cannot_start_closes_its_socket_once),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
