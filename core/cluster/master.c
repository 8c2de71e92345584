#include "cluster/master.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "cluster/cgroup.h"
#include "cluster/changes.h"
#include "cluster/descriptor.h"
#include "cluster/handlers.h"
#include "cluster/hub.h"
#include "cluster/locks.h"
#include "cluster/memory.h"
#include "cluster/notify.h"
#include "cluster/sockets.h"
#include "cluster/storages.h"
#include "cluster/supervisor.h"
#include "cluster/watchdog.h"
#include "data/store.h"
#include "wire/ops.h"

enum {
    SIGNALS = 3,
    SPARE_SEATS =
        48, /* for process 0, forked workers, and successors: two for each worker of the command line */
};

struct master {
    uv_loop_t loop;
    const struct cm_options *options;
    struct cm_memory memory;
    struct cm_locks locks;
    struct cm_changes changes;
    struct cm_storages storages;
    struct cm_sockets sockets;
    struct cm_hub hub;
    struct cm_supervisor supervisor;
    struct cm_watchdog watchdog;
    struct cm_notify notify;
    struct cm_buf reply; /* of the store */
    uv_signal_t signals[SIGNALS];
    bool interrupted; /* SIGINT has come once */
    int exit_code;
};

/* --- replies --- */

/* The reply is begun only when the operation is done: that may answer others who wait, on this channel too.
 */
static int reply_from_store(struct master *master, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_handlers handlers = {&master->memory.lru, &master->locks.queue,
                                   master->options->max_value_bytes};
    cm_buf_reset(&master->reply, CM_CHANNEL_MARK_BYTES);
    int err = cm_handlers_do(&handlers, frame->op, frame->payload, &master->reply);
    if (err == CM_E_BADFRAME)
        return err;
    if (!err) {
        err = cm_process_reply(process, frame->op, frame->id, cm_buf_view(&master->reply));
        if (err != CM_E_NOMEMORY)
            return err;
    }
    return cm_process_refuse(process, frame->op, frame->id, err, NULL);
}

/* --- processes --- */

static int fork_worker(struct master *master, const struct cm_frame *frame, struct cm_process **worker) {
    struct cm_script script;
    struct cm_reader reader;
    cm_reader_init(&reader, frame->payload);
    int err = cm_script_init(&script);
    if (!err)
        err = cm_script_read(&reader, &script);
    if (!err)
        err = cm_reader_end(&reader);
    if (!err)
        err = cm_supervisor_fork(&master->supervisor, &script, worker);
    cm_script_deinit(&script);
    return err;
}

static int do_fork(struct master *master, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_process *worker;
    /* Before the reply is begun: starting a worker sends a notice to this process too. */
    int err = fork_worker(master, frame, &worker);
    if (err == CM_E_BADFRAME)
        return err;
    if (err)
        return cm_process_refuse(process, frame->op, frame->id, err, NULL);
    struct cm_writer writer;
    cm_buf_reset(&master->reply, CM_CHANNEL_MARK_BYTES);
    cm_writer_init(&writer, &master->reply);
    cm_write_u32(&writer, worker->id);
    cm_write_u32(&writer, worker->slot);
    cm_write_u32(&writer, (uint32_t)worker->child.pid);
    return writer.error ? writer.error
                        : cm_process_reply(process, frame->op, frame->id, cm_buf_view(&master->reply));
}

static int do_shutdown(struct master *master, struct cm_process *process, const struct cm_frame *frame) {
    if (frame->payload.len)
        return CM_E_BADFRAME;
    int err = cm_process_reply(process, frame->op, frame->id, (struct cm_bytes){0});
    cm_supervisor_stop(&master->supervisor);
    return err;
}

static int on_request(struct master *master, struct cm_process *process, const struct cm_frame *frame) {
    bool is_zero = process->id == 0;
    switch (frame->op) {
    case CM_OP_FORK:
        return is_zero ? do_fork(master, process, frame) : CM_E_BADFRAME;
    case CM_OP_SHUTDOWN:
        return is_zero ? do_shutdown(master, process, frame) : CM_E_BADFRAME;
    case CM_OP_BIND:
        return cm_sockets_bind(&master->sockets, process, frame);
    case CM_OP_LISTEN:
        return cm_changes_listen(&master->changes, process, frame);
    case CM_OP_HUB_SEND:
    case CM_OP_HUB_ASK:
        return cm_hub_post(&master->hub, process, frame);
    case CM_OP_HUB_WORKERS:
        return cm_hub_workers(&master->hub, process, frame);
    case CM_OP_LRU_OPTIONS:
        return is_zero ? reply_from_store(master, process, frame) : CM_E_BADFRAME;
    default:
        return cm_locks_does(frame->op)      ? cm_locks_do(&master->locks, process, frame)
               : cm_storages_does(frame->op) ? cm_storages_do(&master->storages, process, frame)
                                             : reply_from_store(master, process, frame);
    }
}

static int on_notice(struct master *master, struct cm_process *process, const struct cm_frame *frame) {
    switch (frame->op) {
    case CM_OP_ONLINE:
        cm_supervisor_online(&master->supervisor, process);
        return 0;
    case CM_OP_UNLISTEN:
        return cm_changes_unlisten(&master->changes, process, frame);
    case CM_OP_UNBIND:
        return cm_sockets_unbind(&master->sockets, process, frame);
    case CM_OP_HUB_ANSWER:
        return cm_hub_answer(&master->hub, process, frame);
    case CM_OP_HUB_DONE:
        return cm_hub_done(&master->hub, process, frame);
    case CM_OP_FAILED:
        cm_process_note_error(process, frame->payload);
        return 0;
    default:
        return CM_E_BADFRAME;
    }
}

static int on_frame(struct cm_process *process, const struct cm_frame *frame) {
    struct cm_supervisor *supervisor = process->owner;
    struct master *master = supervisor->owner;
    if (frame->flags)
        return CM_E_BADFRAME; /* nobody asks a process anything */
    return frame->id ? on_request(master, process, frame) : on_notice(master, process, frame);
}

static void on_drained(struct cm_process *process) {
    struct cm_supervisor *supervisor = process->owner;
    struct master *master = supervisor->owner;
    cm_changes_on_drained(&master->changes, process);
}

static void on_death(struct cm_process *process) {
    struct cm_supervisor *supervisor = process->owner;
    struct master *master = supervisor->owner;
    cm_memory_repair(&master->memory, process->seat);
    cm_locks_on_death(&master->locks, process->seat);
}

static void on_gone(struct cm_process *process) {
    struct cm_supervisor *supervisor = process->owner;
    struct master *master = supervisor->owner;
    cm_locks_on_exit(&master->locks, process->seat);
    cm_changes_on_gone(&master->changes, process->seat);
    cm_storages_on_gone(&master->storages, process->seat);
    cm_sockets_on_gone(&master->sockets, process->seat);
    cm_hub_on_gone(&master->hub, process->seat);
    cm_reaper_bury(&master->memory.reaper, process->seat);
}

static void on_change(void *owner, const struct cm_process_event *event) {
    struct master *master = owner;
    struct cm_buf payload = {0};
    struct cm_writer writer;
    cm_writer_init(&writer, &payload);
    cm_process_event_write(&writer, event);
    if (writer.error) {
        cm_log(CM_LOG_ERROR, "the cluster ends, its processes cannot be told about each other: %s",
               cm_error_text(writer.error));
        cm_supervisor_kill(&master->supervisor);
        return;
    }
    CM_LIST_EACH(link, &master->supervisor.processes) {
        cm_process_notify(CM_LIST_ITEM(link, struct cm_process, link), CM_OP_PROCESS, cm_buf_view(&payload));
    }
    if (master->supervisor.zero)
        cm_process_notify(master->supervisor.zero, CM_OP_PROCESS, cm_buf_view(&payload));
    cm_buf_deinit(&payload);
}

static void on_stage(void *owner, enum cm_stage stage) {
    struct master *master = owner;
    if (stage == CM_STAGE_STOPPING)
        cm_notify_stopping(&master->notify);
    else if (stage == CM_STAGE_RELOADING)
        cm_notify_reloading(&master->notify);
    else
        cm_notify_ready(&master->notify, master->options->workers);
}

static void on_over(void *owner, int exit_code) {
    struct master *master = owner;
    master->exit_code = exit_code;
    for (int i = 0; i < SIGNALS; i++)
        uv_close((uv_handle_t *)&master->signals[i], NULL);
    cm_memory_stop(&master->memory);
    cm_locks_stop(&master->locks);
    cm_changes_stop(&master->changes);
    cm_storages_stop(&master->storages);
    cm_sockets_stop(&master->sockets);
    cm_hub_stop(&master->hub);
    cm_watchdog_stop(&master->watchdog);
    cm_notify_stop(&master->notify);
    cm_supervisor_deinit(&master->supervisor);
}

static const struct cm_supervisor_events supervisor_events = {on_frame,  on_drained, on_death, on_gone,
                                                              on_change, on_stage,   on_over};

/* --- signals --- */

static void on_signal(uv_signal_t *handle, int number) {
    struct master *master = handle->data;
    if (number == SIGHUP) {
        cm_supervisor_reload(&master->supervisor);
    } else if (number == SIGINT && master->interrupted) {
        cm_log(CM_LOG_WARN, "interrupted again: everything is killed");
        cm_supervisor_kill(&master->supervisor);
    } else {
        master->interrupted |= number == SIGINT;
        cm_log(CM_LOG_INFO, "SIG%s: the cluster stops", sigabbrev_np(number));
        cm_supervisor_stop(&master->supervisor);
    }
}

static void take_signals(struct master *master) {
    static const int numbers[SIGNALS] = {SIGINT, SIGTERM, SIGHUP};
    for (int i = 0; i < SIGNALS; i++) {
        uv_signal_init(&master->loop, &master->signals[i]);
        master->signals[i].data = master;
        uv_signal_start(&master->signals[i], on_signal, numbers[i]);
    }
    /* A log reader that has gone must not end the cluster. */
    signal(SIGPIPE, SIG_IGN);
}

static void on_short(void *data) {
    struct master *master = data;
    CM_LIST_EACH(link, &master->supervisor.processes) {
        cm_process_notify(CM_LIST_ITEM(link, struct cm_process, link), CM_OP_SHORT, (struct cm_bytes){0});
    }
    if (master->supervisor.zero)
        cm_process_notify(master->supervisor.zero, CM_OP_SHORT, (struct cm_bytes){0});
}

static void on_locks(void *data) {
    struct master *master = data;
    cm_locks_look(&master->locks);
}

static void on_round(void *data) {
    struct master *master = data;
    cm_locks_round(&master->locks);
}

static void on_due(void *data, struct cm_bytes key) {
    cm_storages_on_due(data, key);
}

static int start_cache(struct master *master) {
    unsigned long long capacity = cm_recency_capacity(&master->memory.segment);
    struct cm_lru_options options = {.most_entries = master->options->lru_max,
                                     .max_age_ms = master->options->lru_max_age_ms};
    if (options.most_entries == CM_LRU_MAX_UNSAID)
        options.most_entries = capacity < CM_LRU_MAX_DEFAULT ? capacity : CM_LRU_MAX_DEFAULT;
    int err = cm_lru_start(&master->memory.lru, &options);
    if (err)
        cm_log(CM_LOG_ERROR,
               "--lru-max is %llu, but a memory of this size has room for %llu: give a --memory of at least "
               "%lluM",
               (unsigned long long)options.most_entries, capacity,
               (unsigned long long)(cm_recency_memory_for(options.most_entries) >> 20));
    return err;
}

/* Says in one line why there is no such memory, if so. */
static int open_memory(struct master *master) {
    unsigned long long bytes = master->options->memory_bytes;
    unsigned long long limit = cm_cgroup_memory_bytes(NULL, NULL);
    if (bytes > limit) {
        cm_log(CM_LOG_ERROR,
               "--memory is %llu bytes, but this control group may have %llu: give a smaller --memory", bytes,
               limit);
        return CM_E_NOMEMORY;
    }
    signal(SIGXFSZ, SIG_IGN); /* a limit on files is an error like others */
    int err = cm_memory_init(&master->memory, master->options->memory_bytes,
                             2 * master->options->workers + SPARE_SEATS);
    if (err == CM_E_NOMEMORY)
        cm_log(CM_LOG_ERROR,
               "cannot have a shared memory of %llu bytes (--memory): its bookkeeping for %u workers (-w) "
               "does not fit",
               bytes, master->options->workers);
    else if (err)
        cm_log(CM_LOG_ERROR, "cannot have a shared memory of %llu bytes (--memory): %s", bytes,
               cm_error_text(err));
    if (err)
        return err;
    err = start_cache(master);
    if (err)
        cm_memory_deinit(&master->memory);
    return err;
}

/* Who wakes the master waits for it, and it has little to do each time: it asks for short slices, so that it
 * need not wait until a worker's is over where both are on one core (Linux 6.12 and later, "EEVDF"; others
 * ignore it). Its children have the usual ones. */
static void ask_for_short_slices(void) {
    struct { /* the system's struct sched_attr, as far as it goes without utilization clamps */
        uint32_t size;
        uint32_t policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns;
        uint64_t deadline_ns;
        uint64_t period_ns;
    } attributes = {.size = sizeof attributes,
                    .policy = SCHED_OTHER,
                    .flags = 1, /* SCHED_FLAG_RESET_ON_FORK */
                    .nice = getpriority(PRIO_PROCESS, 0),
                    .runtime_ns = 100000};
    /* Not where somebody has given it something else already; and that flag would take a better nice value
     * from the children. */
    if (sched_getscheduler(0) == SCHED_OTHER && attributes.nice >= 0)
        syscall(SYS_sched_setattr, 0, &attributes, 0);
}

int cm_master_run(const struct cm_options *options) {
    static struct master master; /* it lives as long as the process */
    master.options = options;
    cm_log_set_level(options->log_level);
    ask_for_short_slices();
    if (open_memory(&master))
        return 1;
    int err = cm_supervisor_init(&master.supervisor, &master.loop, options, &master.memory,
                                 &supervisor_events, &master);
    if (!err)
        err = cm_locks_init(&master.locks, &master.memory.master, &master.supervisor);
    if (!err)
        err = cm_changes_init(&master.changes, &master.memory.store, &master.supervisor);
    if (!err)
        err = cm_storages_init(&master.storages, &master.memory.store, &master.supervisor,
                               options->storage_dir, options->max_value_bytes);
    if (!err)
        err = cm_hub_init(&master.hub, &master.supervisor);
    if (!err)
        err = cm_watchdog_init(&master.watchdog, &master.supervisor, options->watchdog_ms);
    if (!err)
        err = uv_loop_init(&master.loop);
    if (err) {
        cm_log(CM_LOG_ERROR, "the master cannot start: %s", cm_error_text(err));
        cm_memory_deinit(&master.memory);
        return 1;
    }
    cm_sockets_init(&master.sockets, cm_descriptor_share(master.memory.segment.layout.seats));
    master.memory.on_short = on_short;
    master.memory.on_locks = on_locks;
    master.memory.on_round = on_round;
    master.memory.data = &master;
    master.memory.sweep.on_document = on_due;
    master.memory.sweep.data = &master.storages;
    take_signals(&master);
    cm_memory_start(&master.memory, &master.loop);
    cm_locks_start(&master.locks, &master.loop);
    cm_changes_start(&master.changes, &master.loop);
    cm_storages_start(&master.storages, &master.loop);
    cm_sockets_start(&master.sockets, &master.loop);
    cm_hub_start(&master.hub, &master.loop);
    cm_watchdog_start(&master.watchdog, &master.loop);
    cm_notify_init(&master.notify);
    cm_notify_start(&master.notify, &master.loop);
    if (cm_supervisor_start(&master.supervisor))
        on_over(&master, 1);
    uv_run(&master.loop, UV_RUN_DEFAULT);
    uv_loop_close(&master.loop);
    cm_locks_deinit(&master.locks);
    cm_changes_deinit(&master.changes);
    cm_storages_deinit(&master.storages);
    cm_hub_deinit(&master.hub);
    cm_watchdog_deinit(&master.watchdog);
    cm_buf_deinit(&master.reply);
    cm_memory_deinit(&master.memory);
    return master.storages.lost ? 1 : master.exit_code;
}
