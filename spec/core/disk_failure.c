#include "spec/core/disk_failure.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static enum disk_failure armed;
static size_t countdown, failures;
static bool persistent;

size_t disk_failure_arm(enum disk_failure kind, size_t nth, bool all) {
    size_t happened = failures;
    armed = kind;
    countdown = nth;
    persistent = all;
    failures = 0;
    return happened;
}

static bool happens(void) {
    if (!countdown || --countdown)
        return false;
    if (persistent)
        countdown = 1;
    failures++;
    if (armed == DISK_KILLS)
        kill(getpid(), SIGKILL);
    return true;
}

/* The call has been made, wholly or to its half. */
static long turn_out(long result, bool half_is_success) {
    if (armed == DISK_KILLS_HALF)
        kill(getpid(), SIGKILL);
    if (armed == DISK_WRITES_HALF && half_is_success)
        return result;
    errno = EIO;
    return -1;
}

static bool writes_half(void) {
    return armed == DISK_WRITES_HALF || armed == DISK_KILLS_HALF;
}

/* A disk that goes on failing has done only the first late. */
static bool is_done(void) {
    return (armed == DISK_FAILS_LATE && failures == 1) || writes_half();
}

/* What is no writing. */
static int change(long number, long first, long second) {
    bool fails = happens();
    long result = 0;
    if (!fails || (is_done() && armed != DISK_WRITES_HALF))
        result = syscall(number, first, second);
    return (int)(fails ? turn_out(result, false) : result);
}

/* The names of parameters are libc's own business.
 * NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
 */
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) {
    if (!happens())
        return syscall(SYS_pwrite64, fd, bytes, len, at);
    if (!is_done())
        return turn_out(0, false);
    return turn_out(syscall(SYS_pwrite64, fd, bytes, writes_half() ? len / 2 : len, at), true);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!happens())
        return syscall(SYS_writev, fd, parts, count);
    if (!is_done())
        return turn_out(0, false);
    return turn_out(syscall(SYS_writev, fd, parts, writes_half() && count > 1 ? count / 2 : count),
                    count > 1);
}

int ftruncate(int fd, off_t len) {
    return change(SYS_ftruncate, fd, len);
}

int fsync(int fd) {
    return change(SYS_fsync, fd, 0);
}

int fdatasync(int fd) {
    return change(SYS_fdatasync, fd, 0);
}

int rename(const char *from, const char *to) {
    return change(SYS_rename, (long)from, (long)to);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
