/* The bare limit of the waits in scripts/bench/locks: how long a process that could run does not. Usage:
 * locks_bare spin|woken WORKERS SECONDS. Prints the lines that locks_harness.lua prints: how often each
 * worker has looked at the clock, which is all that it does, and as its wait the longest time between two
 * looks.
 *
 * "woken": beside the workers there is one more process, which sleeps, is woken by each of them now and then,
 * and has short slices, as our master has them. */
#include "crew.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static const uint64_t RING_NS = 200000;         /* as in core/data/lock.c */
static const uint64_t OVER = UINT64_C(1) << 32; /* what a worker that is done adds to the bell */

struct run {
    int workers;
    int bell; /* -1: nobody is to be woken */
    uint64_t length_ns;
    struct figures {
        long looks;
        uint64_t start_ns, end_ns, gap_ns;
    } figures[CREW_MOST];
};

/* As core/cluster/master.c does it; where it cannot be had, neither has the master. */
static void ask_for_short_slices(void) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attributes = {.size = sizeof attributes, .policy = SCHED_OTHER, .runtime_ns = 100000};
    syscall(SYS_sched_setattr, 0, &attributes, 0);
}

static void ring(const struct run *run, uint64_t number) {
    if (run->bell >= 0 && write(run->bell, &number, sizeof number) != sizeof number)
        fail("ring", NULL);
}

static void be_woken(const struct run *run) {
    uint64_t rung;
    int left = run->workers;
    ask_for_short_slices();
    while (left > 0 && read(run->bell, &rung, sizeof rung) == sizeof rung)
        left -= (int)(rung / OVER);
}

static void look(const struct run *run, struct figures *figures) {
    uint64_t rung_ns = now_ns();
    figures->start_ns = figures->end_ns = rung_ns;
    do {
        uint64_t look_ns = now_ns();
        if (look_ns - figures->end_ns > figures->gap_ns)
            figures->gap_ns = look_ns - figures->end_ns;
        figures->end_ns = look_ns;
        figures->looks++;
        if (look_ns - rung_ns > RING_NS) {
            ring(run, 1);
            rung_ns = look_ns;
        }
    } while (figures->end_ns - figures->start_ns < run->length_ns);
    ring(run, OVER);
}

static void work(int index, void *shared) {
    struct run *run = shared;
    crew_meet();
    if (index < run->workers)
        look(run, &run->figures[index]);
    else
        be_woken(run);
}

int main(int argc, char **argv) {
    bool woken = argc == 4 && strcmp(argv[1], "woken") == 0;
    bool spin = argc == 4 && strcmp(argv[1], "spin") == 0;
    long workers = argc == 4 ? strtol(argv[2], NULL, 10) : 0;
    double seconds = argc == 4 ? strtod(argv[3], NULL) : 0;
    if ((!woken && !spin) || workers < 1 || workers >= CREW_MOST || !(seconds > 0)) {
        fprintf(stderr, "usage: locks_bare spin|woken WORKERS SECONDS\n");
        return 2;
    }
    struct run *run = crew_memory(sizeof *run);
    run->workers = (int)workers;
    run->bell = woken ? eventfd(0, EFD_CLOEXEC) : -1;
    run->length_ns = (uint64_t)(seconds * 1e9);
    if (woken && run->bell < 0)
        fail("bell", NULL);
    crew_run(run->workers + woken, work, run);
    for (long i = 0; i < workers; i++) {
        const struct figures *figures = &run->figures[i];
        printf("ops=%ld start_ns=%llu end_ns=%llu wait_ms=%.3f\n", figures->looks,
               (unsigned long long)figures->start_ns, (unsigned long long)figures->end_ns,
               (double)figures->gap_ns / 1e6);
    }
    return 0;
}
