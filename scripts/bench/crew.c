#include "crew.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_barrier_t *barrier;

void fail(const char *what, const char *reason) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, reason ? reason : strerror(errno));
    exit(1);
}

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int ascending(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

void say_times(uint64_t *times_ns, size_t count) {
    qsort(times_ns, count, sizeof *times_ns, ascending);
    size_t middle = count / 2;
    size_t slow = count * 99 / 100;
    printf("p50_us=%.2f p99_us=%.2f", (double)times_ns[middle] / 1e3, (double)times_ns[slow] / 1e3);
}

void *crew_memory(size_t len) {
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("memory", NULL);
    return memory;
}

void crew_meet(void) {
    pthread_barrier_wait(barrier);
}

void crew_run(int workers, void (*work)(int index, void *shared), void *shared) {
    pthread_barrierattr_t attributes;
    barrier = crew_memory(sizeof *barrier);
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(barrier, &attributes, (unsigned)workers);

    pid_t parent = getpid();
    for (int i = 0; i < workers; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork", NULL);
        if (child == 0) {
            /* The others would wait at the barrier for ever. */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            work(i, shared);
            _exit(0);
        }
    }
    for (int i = 0; i < workers; i++) {
        int status;
        if (wait(&status) < 0 || status != 0)
            fail("a worker", "failed");
    }
}
