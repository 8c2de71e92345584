#include "cluster/supervisor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

enum {
    LEAST_EXIT_MS = 1000, /* for a process's last frames to be taken, however short --grace is */
    ONLINE_MS = 30000,    /* a reload gives up on a new worker that is not online by then */
};

static const struct cm_process_events process_events;
static void on_timer(uv_timer_t *timer);

/* Whether a worker runs somewhere or is going to. */
static bool any_active(const struct cm_supervisor *supervisor) {
    CM_LIST_EACH(link, &supervisor->slots) {
        if (cm_slot_at(link)->waiting)
            return true;
    }
    return !cm_list_empty(&supervisor->processes) ||
           (!supervisor->started && !supervisor->stopping && supervisor->options->workers > 0);
}

static void emit(struct cm_supervisor *supervisor, enum cm_process_change change,
                 const struct cm_process *process) {
    struct cm_process_event event = {.change = (uint8_t)change,
                                     .id = process->id,
                                     .slot = process->slot,
                                     .pid = (uint32_t)process->child.pid,
                                     .code = process->exit_code,
                                     .signal = process->signal,
                                     .more = any_active(supervisor)};
    supervisor->events->on_change(supervisor->owner, &event);
}

/* No worker is started any more. */
static void note_stop(struct cm_supervisor *supervisor) {
    if (supervisor->stopping)
        return;
    supervisor->stopping = true;
    cm_reload_close(&supervisor->reload);
    supervisor->events->on_stage(supervisor->owner, CM_STAGE_STOPPING);
}

static void check_ready(struct cm_supervisor *supervisor) {
    if (supervisor->ready || supervisor->stopping || !supervisor->started)
        return;
    CM_LIST_EACH(link, &supervisor->slots) {
        if (cm_slot_at(link)->number <= supervisor->options->workers && !cm_slot_at(link)->came)
            return;
    }
    supervisor->ready = true;
    supervisor->events->on_stage(supervisor->owner, CM_STAGE_READY);
}

/* The run is over when nothing is left of it; process 0 is asked to stop when it alone is left. */
static void check_over(struct cm_supervisor *supervisor) {
    if (supervisor->over || any_active(supervisor))
        return;
    /* Without workers of its own the cluster lives for process 0, and for what that forks. */
    if (supervisor->zero && !supervisor->stopping && supervisor->options->workers == 0)
        return;
    if (!supervisor->stopping) {
        note_stop(supervisor);
        supervisor->exit_code = supervisor->slot_failed ? 1 : 0;
    }
    if (supervisor->zero) {
        cm_process_stop(supervisor->zero);
        return;
    }
    supervisor->over = true;
    supervisor->events->on_over(supervisor->owner, supervisor->exit_code);
}

/* Begins the graceful stop. Its end is found by check_over, which whoever was called from outside calls last:
 * it may free the slots. */
static void begin_stop(struct cm_supervisor *supervisor) {
    note_stop(supervisor);
    CM_LIST_EACH(slot, &supervisor->slots) {
        uv_timer_stop(&cm_slot_at(slot)->timer);
        cm_slot_at(slot)->waiting = false;
    }
    CM_LIST_EACH(link, &supervisor->processes) {
        cm_process_stop(CM_LIST_ITEM(link, struct cm_process, link));
    }
}

/* Ends the cluster because of a failure that has been logged. */
static void give_up(struct cm_supervisor *supervisor) {
    supervisor->exit_code = 1;
    begin_stop(supervisor);
}

static int spawn(struct cm_supervisor *supervisor, uint32_t slot, const struct cm_script *script,
                 struct cm_process **process) {
    const struct cm_options *options = supervisor->options;
    size_t count = 0;
    CM_LIST_EACH(link, &supervisor->processes) {
        count++;
    }
    struct cm_init init = {.id = slot ? ++supervisor->last_id : 0,
                           .slot = slot,
                           .test = options->test && slot == 0,
                           .has_workers = options->workers > 0,
                           .says_ready = options->wait_ready_ms > 0,
                           .max_value_bytes = options->max_value_bytes,
                           .watchdog_ms = options->watchdog_ms,
                           .heap_bytes = options->worker_memory_bytes,
                           .exit_ms = options->grace_ms > LEAST_EXIT_MS ? options->grace_ms : LEAST_EXIT_MS,
                           .log_level = (uint8_t)options->log_level,
                           .script = *script,
                           .rows = calloc(count ? count : 1, sizeof *init.rows)};
    if (!init.rows)
        return CM_E_NOMEMORY;
    struct cm_segment *segment = &supervisor->memory->segment;
    if (cm_seat_take(segment, &init.seat)) {
        free(init.rows);
        return -EAGAIN; /* as the system says when there are too many processes */
    }
    CM_LIST_EACH(link, &supervisor->processes) {
        const struct cm_process *living = CM_LIST_ITEM(link, struct cm_process, link);
        init.rows[init.row_count++] =
            (struct cm_worker_row){living->id, living->slot, (uint32_t)living->child.pid, living->online};
    }
    struct cm_seat *seat = cm_segment_seat(segment, init.seat);
    atomic_store(&seat->beat, 0);
    atomic_store(&seat->core, 0);
    struct cm_inherited inherited = {segment->fd, supervisor->memory->bell};
    int err = cm_process_spawn(&supervisor->outbox, &init, &inherited, options->grace_ms, &process_events,
                               supervisor, process);
    free(init.rows);
    if (err) {
        cm_seat_give_back(segment, init.seat);
        return err;
    }
    cm_seat_assign(segment, init.seat, (int32_t)(*process)->child.pid);
    supervisor->seats[init.seat] = *process;
    cm_channel_know_core(&(*process)->channel, &seat->core);
    cm_log(CM_LOG_DEBUG, "%s starts %s", cm_process_name(*process), script->args.items[0]);
    if (slot) {
        if (options->wait_ready_ms)
            cm_process_await_online(*process, options->wait_ready_ms, "called cluster.ready()");
        cm_list_append(&supervisor->processes, &(*process)->link);
        emit(supervisor, CM_PROCESS_FORK, *process);
    }
    return 0;
}

/* Waits before the next start here. */
static void schedule(struct cm_slot *slot) {
    uint64_t delay_ms = cm_slot_take_delay(slot);
    cm_log(CM_LOG_WARN, "slot %u starts again in %llu ms", slot->number, (unsigned long long)delay_ms);
    slot->waiting = true;
    uv_timer_start(&slot->timer, on_timer, delay_ms, 0);
}

/* A worker has failed: tries again later. A crash loop ends the cluster, or, in a slot that was forked, gives
 * the slot up; where a worker has once had a life it is tried for ever, so that a fault that comes later
 * cannot take the healthy workers with it. */
static void retry(struct cm_supervisor *supervisor, struct cm_slot *slot, uint64_t lived_ms,
                  const char *error) {
    slot->failed = true;
    if (!cm_slot_note_failure(slot, lived_ms)) {
        schedule(slot);
        return;
    }
    bool forked = slot->number > supervisor->options->workers;
    cm_log(CM_LOG_ERROR, "slot %u failed %u times in a row without a second of life, so %s; last error: %s",
           slot->number, slot->failures, forked ? "it is given up" : "the cluster ends", error);
    if (!forked)
        give_up(supervisor);
}

/* Removes a slot in which nothing runs any more or is going to. */
static void retire(struct cm_supervisor *supervisor, struct cm_slot *slot) {
    if (cm_slot_used(slot))
        return;
    supervisor->slot_failed |= slot->failed;
    cm_slot_remove(slot);
}

static void start_worker(struct cm_supervisor *supervisor, struct cm_slot *slot) {
    int err = spawn(supervisor, slot->number, &slot->script, &slot->current);
    if (!err)
        return;
    cm_log(CM_LOG_ERROR, "slot %u cannot start a worker: %s", slot->number, cm_error_text(err));
    retry(supervisor, slot, 0, cm_error_text(err));
    retire(supervisor, slot);
}

static void start_workers(struct cm_supervisor *supervisor) {
    supervisor->started = true;
    int err = 0;
    for (uint32_t number = 1; !err && number <= supervisor->options->workers; number++) {
        struct cm_slot *slot;
        err = cm_slot_add(&supervisor->slots, supervisor->loop, number, &supervisor->options->worker,
                          supervisor, &slot);
        if (!err)
            start_worker(supervisor, slot);
    }
    if (err) {
        cm_log(CM_LOG_ERROR, "cannot start the workers: %s", cm_error_text(err));
        give_up(supervisor);
    }
    check_ready(supervisor);
    check_over(supervisor);
}

static void on_timer(uv_timer_t *timer) {
    struct cm_slot *slot = timer->data;
    struct cm_supervisor *supervisor = slot->owner;
    slot->waiting = false;
    start_worker(supervisor, slot);
    check_over(supervisor);
}

/* The worker that its slot counted on has ended: is there to be another? */
static void replace(struct cm_supervisor *supervisor, struct cm_slot *slot, const struct cm_process *process,
                    uint64_t lived_ms) {
    enum cm_restart restart = supervisor->options->restart;
    slot->failed = cm_process_failed(process);
    if (supervisor->stopping || restart == CM_RESTART_NEVER)
        return;
    if (slot->failed)
        retry(supervisor, slot, lived_ms, cm_process_reason(process));
    else if (restart == CM_RESTART_ALWAYS)
        schedule(slot);
}

static void worker_exited(struct cm_supervisor *supervisor, struct cm_process *process) {
    struct cm_slot *slot = cm_slot_find(&supervisor->slots, process->slot);
    /* Who was to say when it is ready and has not has had no life, however long it took. */
    bool unready = supervisor->options->wait_ready_ms && !process->online;
    uint64_t lived_ms = unready ? 0 : cm_clock_ms() - process->started_ms;
    cm_slot_note_life(slot, lived_ms);
    cm_list_remove(&process->link);
    if (cm_reload_note_exit(&supervisor->reload, slot, process))
        replace(supervisor, slot, process, lived_ms);
    retire(supervisor, slot);
    emit(supervisor, CM_PROCESS_EXIT, process);
    if (any_active(supervisor))
        check_ready(supervisor); /* it may have been the last that was waited for */
    cm_reload_step(&supervisor->reload);
}

static void zero_exited(struct cm_supervisor *supervisor, const struct cm_process *process) {
    supervisor->zero = NULL;
    if (supervisor->options->test) {
        /* Asked to leave before it was done, busted has not said how the tests went. */
        supervisor->exit_code = process->signal || supervisor->stopping ? 1 : process->exit_code;
        begin_stop(supervisor);
    } else if (cm_process_failed(process)) {
        if (!supervisor->stopping)
            cm_log(CM_LOG_ERROR, "the master script failed, so the cluster ends");
        give_up(supervisor);
    } else if (!supervisor->started && !supervisor->stopping) {
        start_workers(supervisor);
    }
}

static void on_death_of(struct cm_process *process) {
    struct cm_supervisor *supervisor = process->owner;
    supervisor->events->on_death(process);
}

static void on_exit_of(struct cm_process *process) {
    struct cm_supervisor *supervisor = process->owner;
    supervisor->events->on_gone(process);
    supervisor->seats[process->seat] = NULL;
    bool expected = !cm_process_failed(process) || (process->stopping && process->overdue);
    if (process == supervisor->zero && supervisor->options->test && process->signal == 0)
        expected = true; /* busted has said what there is to say */
    cm_log(expected ? CM_LOG_INFO : CM_LOG_ERROR, "%s %s", cm_process_name(process),
           cm_process_ending(process));
    if ((process->overdue || process->hung) && supervisor->stopping && !supervisor->options->test)
        supervisor->exit_code = 1;
    if (process == supervisor->zero)
        zero_exited(supervisor, process);
    else
        worker_exited(supervisor, process);
    check_over(supervisor);
}

static int on_frame(struct cm_process *process, const struct cm_frame *frame) {
    struct cm_supervisor *supervisor = process->owner;
    return supervisor->events->on_frame(process, frame);
}

static void on_drained(struct cm_process *process) {
    struct cm_supervisor *supervisor = process->owner;
    supervisor->events->on_drained(process);
}

static const struct cm_process_events process_events = {on_frame, on_drained, on_death_of, on_exit_of};

static int on_start(void *owner, struct cm_slot *slot) {
    const struct cm_supervisor *supervisor = owner;
    int err = spawn(owner, slot->number, &slot->script, &slot->next);
    if (!err && !supervisor->options->wait_ready_ms)
        cm_process_await_online(slot->next, ONLINE_MS, "come online");
    return err;
}

static void on_empty(void *owner, struct cm_slot *slot) {
    (void)owner;
    schedule(slot);
}

static void on_active(void *owner, bool active) {
    struct cm_supervisor *supervisor = owner;
    if (supervisor->ready)
        supervisor->events->on_stage(supervisor->owner, active ? CM_STAGE_RELOADING : CM_STAGE_RELOADED);
}

static const struct cm_reload_events reload_events = {on_active, on_start, on_empty};

int cm_supervisor_init(struct cm_supervisor *supervisor, uv_loop_t *loop, const struct cm_options *options,
                       struct cm_memory *memory, const struct cm_supervisor_events *events, void *owner) {
    *supervisor = (struct cm_supervisor){.loop = loop,
                                         .options = options,
                                         .memory = memory,
                                         .events = events,
                                         .owner = owner,
                                         .last_slot = options->workers};
    cm_list_init(&supervisor->slots);
    cm_list_init(&supervisor->processes);
    supervisor->reload = (struct cm_reload){.slots = &supervisor->slots,
                                            .check_script = options->check_script,
                                            .last_id = &supervisor->last_id,
                                            .events = &reload_events,
                                            .owner = supervisor};
    supervisor->seats = calloc(memory->segment.layout.seats + 1, sizeof *supervisor->seats);
    return supervisor->seats ? 0 : CM_E_NOMEMORY;
}

struct cm_process *cm_supervisor_at_seat(const struct cm_supervisor *supervisor, uint32_t seat) {
    return supervisor->seats[seat];
}

int cm_supervisor_start(struct cm_supervisor *supervisor) {
    cm_outbox_open(&supervisor->outbox, supervisor->loop, CM_OUTBOX_LOOK_NS,
                   &cm_segment_seat(&supervisor->memory->segment, CM_MASTER_SEAT)->core);
    if (supervisor->options->master.args.count == 0) {
        start_workers(supervisor);
        return 0;
    }
    int err = spawn(supervisor, 0, &supervisor->options->master, &supervisor->zero);
    if (err)
        cm_log(CM_LOG_ERROR, "cannot start process 0: %s", cm_error_text(err));
    return err;
}

void cm_supervisor_online(struct cm_supervisor *supervisor, struct cm_process *process) {
    if (process->online)
        return;
    cm_process_note_online(process);
    if (process == supervisor->zero) {
        if (!supervisor->started && !supervisor->stopping)
            start_workers(supervisor);
        return;
    }
    cm_log(CM_LOG_DEBUG, "%s is online", cm_process_name(process));
    emit(supervisor, CM_PROCESS_ONLINE, process);
    struct cm_slot *slot = cm_slot_find(&supervisor->slots, process->slot);
    slot->came = true;
    check_ready(supervisor);
    cm_reload_note_online(&supervisor->reload, slot, process);
}

int cm_supervisor_fork(struct cm_supervisor *supervisor, const struct cm_script *script,
                       struct cm_process **process) {
    if (supervisor->stopping)
        return CM_E_CLOSED;
    struct cm_slot *slot;
    int err =
        cm_slot_add(&supervisor->slots, supervisor->loop, ++supervisor->last_slot, script, supervisor, &slot);
    if (err)
        return err;
    err = spawn(supervisor, slot->number, &slot->script, &slot->current);
    if (err)
        cm_slot_remove(slot);
    else
        *process = slot->current;
    return err;
}

void cm_supervisor_reload(struct cm_supervisor *supervisor) {
    cm_reload_begin(&supervisor->reload);
}

void cm_supervisor_stop(struct cm_supervisor *supervisor) {
    begin_stop(supervisor);
    check_over(supervisor);
}

void cm_supervisor_kill(struct cm_supervisor *supervisor) {
    supervisor->exit_code = 1;
    CM_LIST_EACH(link, &supervisor->processes) {
        cm_process_kill(CM_LIST_ITEM(link, struct cm_process, link));
    }
    if (supervisor->zero)
        cm_process_kill(supervisor->zero);
    cm_supervisor_stop(supervisor);
}

void cm_supervisor_deinit(struct cm_supervisor *supervisor) {
    CM_LIST_EACH(link, &supervisor->slots) {
        cm_slot_remove(cm_slot_at(link));
    }
    cm_outbox_close(&supervisor->outbox);
    free(supervisor->seats);
    supervisor->seats = NULL;
}
