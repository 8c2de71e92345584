/* Descriptors on their way to a process. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/descriptor.h"
#include "spec/core/test.h"

static void each_arrives_as_one_of_its_own_in_order(void **state) {
    (void)state;
    int pipe_ends[2], ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    assert_int_equal(cm_descriptor_pipe(ends), 0);
    assert_int_equal(cm_descriptor_take(ends[1]), -EAGAIN);
    for (int i = 0; i < 2; i++)
        assert_int_equal(cm_descriptor_send(ends[0], pipe_ends[i]), 0);
    for (int i = 0; i < 2; i++) {
        struct stat sent, taken;
        int fd = cm_descriptor_take(ends[1]);
        assert_true(fd >= 0 && fd != pipe_ends[i]);
        assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        assert_int_equal(fstat(fd, &taken), 0);
        assert_int_equal(fstat(pipe_ends[i], &sent), 0);
        assert_int_equal(taken.st_ino, sent.st_ino);
        /* Both ends have one number there; what may be done with them tells them apart. */
        assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, i == 0 ? O_RDONLY : O_WRONLY);
        close(fd);
        close(pipe_ends[i]);
    }
    assert_int_equal(cm_descriptor_take(ends[1]), -EAGAIN);
    close(ends[0]);
    close(ends[1]);
}

static void what_nobody_takes_is_refused_in_time(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(cm_descriptor_pipe(ends), 0);
    int err = 0, sent = 0;
    for (; !err && sent < 1000000; sent++)
        err = cm_descriptor_send(ends[0], STDIN_FILENO);
    assert_true(err == -EAGAIN || err == -ETOOMANYREFS);
    int fd = cm_descriptor_take(ends[1]);
    assert_true(fd >= 0);
    close(fd);
    close(ends[1]);
    err = cm_descriptor_send(ends[0], STDIN_FILENO);
    assert_true(err == -EPIPE || err == -ECONNRESET);
    close(ends[0]);
}

static void a_packet_without_one_is_an_error(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(cm_descriptor_pipe(ends), 0);
    assert_int_equal(send(ends[0], "x", 1, 0), 1);
    assert_int_equal(cm_descriptor_take(ends[1]), -EPROTO);
    close(ends[0]);
    assert_int_equal(cm_descriptor_take(ends[1]), -EPROTO);
    close(ends[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_arrives_as_one_of_its_own_in_order),
        cmocka_unit_test(what_nobody_takes_is_refused_in_time),
        cmocka_unit_test(a_packet_without_one_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
