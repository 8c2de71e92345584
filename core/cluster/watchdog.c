#include "cluster/watchdog.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

enum {
    LOOK_MS = 250,  /* less for a short limit */
    TRACE_MS = 500, /* that a process has for its traceback, and to end */
};

/* Who was seen in a seat, and for how long it has been still. */
struct cm_watched {
    uint32_t pid;
    uint32_t beat;
    uint64_t still_ms;
    bool killed;
};

int cm_watchdog_init(struct cm_watchdog *watchdog, struct cm_supervisor *supervisor, uint32_t limit_ms) {
    *watchdog = (struct cm_watchdog){.supervisor = supervisor,
                                     .segment = &supervisor->memory->segment,
                                     .limit_ms = limit_ms,
                                     .look_ms = limit_ms < 4 * LOOK_MS ? limit_ms / 4 + 1 : LOOK_MS};
    if (!limit_ms)
        return 0;
    watchdog->watched = calloc(watchdog->segment->layout.seats + 1, sizeof *watchdog->watched);
    return watchdog->watched ? 0 : CM_E_NOMEMORY;
}

void cm_watchdog_deinit(struct cm_watchdog *watchdog) {
    free(watchdog->watched);
    watchdog->watched = NULL;
}

/* To its main thread, whose the Lua state is. */
static void ask(const struct cm_watchdog *watchdog, struct cm_process *process) {
    char text[64];
    snprintf(text, sizeof text, "has not answered for %u ms (--watchdog)", watchdog->limit_ms);
    cm_log(CM_LOG_ERROR, "%s %s and is ended", cm_process_name(process), text);
    cm_process_note_error(process, cm_bytes_of(text));
    process->hung = true;
    tgkill(process->child.pid, process->child.pid, CM_WATCHDOG_SIGNAL);
}

static void look_at(const struct cm_watchdog *watchdog, uint32_t seat, uint64_t passed_ms) {
    struct cm_watched *watched = &watchdog->watched[seat];
    struct cm_process *process = cm_supervisor_at_seat(watchdog->supervisor, seat);
    uint32_t pid = process && !process->dead ? (uint32_t)process->child.pid : 0;
    /* Relaxed: see core/bind/heart. */
    uint32_t beat =
        atomic_load_explicit(&cm_segment_seat(watchdog->segment, seat)->beat, memory_order_relaxed);
    /* At 0 it has not come to its script yet. */
    bool answers = beat != watched->beat || beat == 0;
    if (!pid || pid != watched->pid || (answers && !process->hung)) {
        *watched = (struct cm_watched){.pid = pid, .beat = beat};
        return;
    }
    uint64_t limit_ms = watchdog->limit_ms + cm_watchdog_beat_ms(watchdog->limit_ms);
    watched->still_ms += passed_ms;
    if (!process->hung && watched->still_ms >= limit_ms) {
        ask(watchdog, process);
        watched->still_ms = limit_ms;
    } else if (!watched->killed && watched->still_ms >= limit_ms + TRACE_MS) {
        cm_log(CM_LOG_ERROR,
               "%s gives no traceback (it is in C code, in a finalizer, or stands still) and is killed",
               cm_process_name(process));
        cm_process_kill(process);
        watched->killed = true;
    }
}

void cm_watchdog_look(struct cm_watchdog *watchdog, uint64_t now_ms) {
    uint64_t most_ms = UINT64_C(2) * watchdog->look_ms;
    uint64_t passed_ms = now_ms - watchdog->looked_ms;
    if (passed_ms > most_ms)
        passed_ms = most_ms;
    watchdog->looked_ms = now_ms;
    for (uint32_t seat = CM_MASTER_SEAT + 1; seat <= watchdog->segment->layout.seats; seat++)
        look_at(watchdog, seat, passed_ms);
}

static void on_timer(uv_timer_t *timer) {
    cm_watchdog_look(timer->data, cm_clock_ms());
}

void cm_watchdog_start(struct cm_watchdog *watchdog, uv_loop_t *loop) {
    uv_timer_init(loop, &watchdog->timer);
    watchdog->timer.data = watchdog;
    watchdog->looked_ms = cm_clock_ms();
    if (watchdog->limit_ms)
        uv_timer_start(&watchdog->timer, on_timer, watchdog->look_ms, watchdog->look_ms);
}

void cm_watchdog_stop(struct cm_watchdog *watchdog) {
    uv_close((uv_handle_t *)&watchdog->timer, NULL);
}
