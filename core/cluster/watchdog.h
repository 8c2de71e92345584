/* The watchdog (--watchdog): ends a process whose loop does not come round. Each loop raises a number in its
 * seat of the shared memory, by a timer: that costs the process a few wake-ups in the given time and the
 * master a look at one word, and no message; and it says of all that a process can hang in, Lua code or not,
 * that it hangs. The master's loop thread only. */
#ifndef CM_CLUSTER_WATCHDOG_H
#define CM_CLUSTER_WATCHDOG_H

#include <signal.h>
#include <uv.h>

#include "cluster/supervisor.h"

/* Asks a process to end with a traceback. One that is ignored where nobody has a handler, and that scripts
 * have no use for. */
#define CM_WATCHDOG_SIGNAL SIGURG

struct cm_watched;

struct cm_watchdog {
    struct cm_supervisor *supervisor;
    const struct cm_segment *segment;
    uint32_t limit_ms;
    uint32_t look_ms; /* from one look to the next */
    uint64_t looked_ms;
    struct cm_watched *watched; /* for each seat */
    uv_timer_t timer;
};

/* How often a loop raises its number. */
static inline uint32_t cm_watchdog_beat_ms(uint32_t limit_ms) {
    return limit_ms < 8 ? 1 : limit_ms < 8000 ? limit_ms / 8 : 1000;
}

/* With a limit of 0 it never does anything. 0 or CM_E_NOMEMORY. */
int cm_watchdog_init(struct cm_watchdog *watchdog, struct cm_supervisor *supervisor, uint32_t limit_ms);
void cm_watchdog_deinit(struct cm_watchdog *watchdog);

/* Looks at everybody: to be called every look_ms. Time in which it was not does not count: then it was the
 * master that stood still, and perhaps everybody. */
void cm_watchdog_look(struct cm_watchdog *watchdog, uint64_t now_ms);

/* Works on the loop until stop. */
void cm_watchdog_start(struct cm_watchdog *watchdog, uv_loop_t *loop);
void cm_watchdog_stop(struct cm_watchdog *watchdog);

#endif
