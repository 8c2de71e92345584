/* Lets what changes files fail on purpose: pwrite, writev, ftruncate, fsync, fdatasync and rename of the
 * whole program, shared libraries included. One thread at a time. */
#ifndef CM_SPEC_CORE_DISK_FAILURE_H
#define CM_SPEC_CORE_DISK_FAILURE_H

#include <stdbool.h>
#include <stddef.h>

enum disk_failure {
    DISK_FAILS,       /* EIO, and nothing is done */
    DISK_FAILS_LATE,  /* EIO, and the first is done all the same */
    DISK_WRITES_HALF, /* and says so; what is no writing fails */
    DISK_KILLS,       /* SIGKILL, before it is done */
    DISK_KILLS_HALF,  /* SIGKILL, when half of it is written, or all else done */
    DISK_FAILURES
};

/* It happens to the nth call from now on (1: the next one; 0: to none), and with `all` to those after it.
 * Gives how often it has happened since the last call. */
size_t disk_failure_arm(enum disk_failure kind, size_t nth, bool all);

#endif
