#include "cluster/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/descriptor.h"
#include "wire/message.h"
#include "wire/ops.h"

enum { ERROR_TEXT_BYTES = 1024 };

const char *cm_process_name(const struct cm_process *process) {
    static char name[48];
    if (process->id)
        snprintf(name, sizeof name, "worker %u (slot %u, pid %d)", process->id, process->slot,
                 process->child.pid);
    else
        snprintf(name, sizeof name, "process 0 (pid %d)", process->child.pid);
    return name;
}

const char *cm_process_ending(const struct cm_process *process) {
    static char text[48];
    const char *name = sigabbrev_np(process->signal);
    if (process->signal == 0)
        snprintf(text, sizeof text, "exited with code %d", process->exit_code);
    else if (name)
        snprintf(text, sizeof text, "was killed by SIG%s", name);
    else
        snprintf(text, sizeof text, "was killed by signal %d", process->signal);
    return text;
}

bool cm_process_failed(const struct cm_process *process) {
    return process->exit_code != 0;
}

const char *cm_process_reason(const struct cm_process *process) {
    return process->last_error ? process->last_error : cm_process_ending(process);
}

static void part_closed(struct cm_process *process) {
    if (--process->open_parts)
        return;
    close(process->descriptors);
    free(process->last_error);
    free(process);
}

static void on_handle_closed(uv_handle_t *handle) {
    part_closed(handle->data);
}

static void on_channel_closed(struct cm_channel *channel) {
    part_closed(channel->owner);
}

/* Frees the process once each of its parts is closed. */
static void close_parts(struct cm_process *process) {
    process->open_parts = 2;
    if (process->child.type == UV_PROCESS) { /* else it never came to uv_spawn */
        process->open_parts++;
        uv_close((uv_handle_t *)&process->child, on_handle_closed);
    }
    uv_close((uv_handle_t *)&process->limit, on_handle_closed);
    cm_channel_close(&process->channel, on_channel_closed);
}

static void on_child_exit(uv_process_t *child, int64_t status, int signal) {
    struct cm_process *process = CM_LIST_ITEM(child, struct cm_process, child);
    process->exit_code = signal ? -1 : (int)status;
    process->signal = signal;
    process->dead = true;
    process->events->on_death(process);
    /* What it had sent while it lived counts. */
    cm_channel_finish(&process->channel);
    process->events->on_exit(process);
    close_parts(process);
}

static int on_frame(struct cm_channel *channel, const struct cm_frame *frame) {
    struct cm_process *process = channel->owner;
    return process->events->on_frame(process, frame);
}

static void on_channel_end(struct cm_channel *channel, int code) {
    struct cm_process *process = channel->owner;
    /* A process that exits closes its end on the way; to its exit code the signal makes no difference. */
    if (code != CM_E_CLOSED)
        cm_log(CM_LOG_ERROR, "%s is killed: %s", cm_process_name(process),
               code == CM_E_BADFRAME ? "it sent a malformed frame" : cm_error_text(code));
    cm_process_kill(process);
}

static void on_drained(struct cm_channel *channel) {
    struct cm_process *process = channel->owner;
    process->events->on_drained(process);
}

static const struct cm_channel_events channel_events = {on_frame, on_channel_end, on_drained};

static bool same_name(const char *line, const char *other) {
    size_t len = strcspn(line, "=") + 1;
    return strncmp(line, other, len) == 0;
}

/* The master's environment with the lines in it, each in the place of one that has its name; to be freed,
 * unlike the lines. NULL without memory. */
static char **merge_environment(const struct cm_strings *lines) {
    size_t count = 0;
    while (environ[count])
        count++;
    char **env = calloc(count + lines->count + 1, sizeof *env);
    if (!env)
        return NULL;
    memcpy(env, environ, count * sizeof *env);
    for (size_t i = 0; i < lines->count; i++) {
        size_t at = 0;
        while (at < count && !same_name(lines->items[i], env[at]))
            at++;
        env[at] = lines->items[i];
        count += at == count;
    }
    return env;
}

static int spawn_child(struct cm_process *process, uv_loop_t *loop, const struct cm_init *init,
                       const struct cm_inherited *inherited, int fd, int descriptors) {
    char **env = merge_environment(&init->script.env);
    if (!env)
        return CM_E_NOMEMORY;
    char program[] = "clustermem";
    char role[] = "process";
    char name[32];
    char parent[32];
    snprintf(name, sizeof name, init->id ? "worker-%u" : "process-%u", init->id);
    snprintf(parent, sizeof parent, "%d", (int)getpid());
    /* What `ps` shows; the script and its arguments come through the channel and are repeated for people
     * only. */
    char *args[] = {program, role, name, parent, init->script.args.items[0], NULL};
    uv_stdio_container_t stdio[] = {
        {.flags = init->id ? UV_IGNORE : UV_INHERIT_FD, .data.fd = STDIN_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = fd},
        {.flags = UV_INHERIT_FD, .data.fd = inherited->segment_fd},
        {.flags = UV_INHERIT_FD, .data.fd = inherited->bell_fd},
        {.flags = UV_INHERIT_FD, .data.fd = descriptors},
    };
    uv_process_options_t options = {
        /* The same binary, also when the file has been replaced since. */
        .file = "/proc/self/exe",
        .args = args,
        .env = env,
        .stdio = stdio,
        .stdio_count = sizeof stdio / sizeof *stdio,
        .exit_cb = on_child_exit,
    };
    int err = uv_spawn(loop, &process->child, &options);
    free(env);
    return err;
}

static int send_init(struct cm_process *process, const struct cm_init *init) {
    struct cm_buf *out = cm_channel_begin(&process->channel, CM_OP_INIT, 0, 0);
    if (!out)
        return CM_E_NOMEMORY;
    struct cm_writer writer;
    cm_writer_init(&writer, out);
    cm_init_write(&writer, init);
    if (writer.error) {
        cm_channel_cancel(&process->channel);
        return writer.error;
    }
    return cm_channel_commit(&process->channel);
}

int cm_process_spawn(struct cm_outbox *outbox, const struct cm_init *init,
                     const struct cm_inherited *inherited, uint64_t grace_ms,
                     const struct cm_process_events *events, void *owner, struct cm_process **result) {
    struct cm_process *process = calloc(1, sizeof *process);
    if (!process)
        return CM_E_NOMEMORY;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        int err = -errno;
        free(process);
        return err;
    }
    int descriptors[2];
    int failed = cm_descriptor_pipe(descriptors);
    if (failed) {
        close(ends[0]);
        close(ends[1]);
        free(process);
        return failed;
    }
    process->descriptors = descriptors[0];
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    process->owner = owner;
    process->events = events;
    process->id = init->id;
    process->slot = init->slot;
    process->seat = init->seat;
    process->grace_ms = grace_ms;
    cm_list_init(&process->link);

    int err =
        cm_channel_open(&process->channel, outbox, ends[0], cm_request_most_bytes(init->max_value_bytes),
                        CM_CHANNEL_MARK_BYTES, &channel_events, process);
    if (err) {
        close(ends[1]);
        close(descriptors[0]);
        close(descriptors[1]);
        free(process);
        return err;
    }
    uv_timer_init(outbox->loop, &process->limit);
    err = send_init(process, init);
    if (!err)
        err = spawn_child(process, outbox->loop, init, inherited, ends[1], descriptors[1]);
    close(ends[1]);
    close(descriptors[1]);
    process->child.data = process->limit.data = process;
    process->started_ms = cm_clock_ms();
    if (err)
        close_parts(process);
    else
        *result = process;
    return err;
}

void cm_process_kill(struct cm_process *process) {
    process->killed = true;
    uv_process_kill(&process->child, SIGKILL);
}

static void on_not_online(uv_timer_t *limit) {
    struct cm_process *process = limit->data;
    char text[128];
    snprintf(text, sizeof text, "has not %s within %llu ms", process->online_how,
             (unsigned long long)process->online_ms);
    cm_log(CM_LOG_WARN, "%s %s and is killed", cm_process_name(process), text);
    cm_process_note_error(process, cm_bytes_of(text));
    cm_process_kill(process);
}

void cm_process_await_online(struct cm_process *process, uint64_t limit_ms, const char *how) {
    process->online_ms = limit_ms;
    process->online_how = how;
    uv_timer_start(&process->limit, on_not_online, limit_ms, 0);
}

void cm_process_note_online(struct cm_process *process) {
    process->online = true;
    if (!process->stopping)
        uv_timer_stop(&process->limit);
}

static void on_grace_over(uv_timer_t *limit) {
    struct cm_process *process = limit->data;
    cm_log(CM_LOG_WARN, "%s did not stop within %llu ms and is killed", cm_process_name(process),
           (unsigned long long)process->grace_ms);
    process->overdue = true;
    cm_process_kill(process);
}

void cm_process_stop(struct cm_process *process) {
    if (process->stopping)
        return;
    process->stopping = true;
    cm_process_notify(process, CM_OP_STOP, (struct cm_bytes){0});
    uv_timer_start(&process->limit, on_grace_over, process->grace_ms, 0);
}

void cm_process_notify(struct cm_process *process, uint8_t op, struct cm_bytes payload) {
    if (process->channel.ended)
        return; /* it is being killed already */
    struct cm_buf *out = cm_channel_begin(&process->channel, op, 0, 0);
    int err = out ? cm_buf_append(out, payload.data, payload.len) : CM_E_NOMEMORY;
    if (!err)
        err = cm_channel_commit(&process->channel);
    else if (out)
        cm_channel_cancel(&process->channel);
    if (err) {
        cm_log(CM_LOG_ERROR, "%s is killed: %s", cm_process_name(process), cm_error_text(err));
        cm_process_kill(process);
    }
}

int cm_process_reply(struct cm_process *process, uint8_t op, uint32_t id, struct cm_bytes payload) {
    struct cm_buf *out = cm_channel_begin(&process->channel, op, CM_FRAME_REPLY, id);
    if (!out)
        return CM_E_NOMEMORY;
    int err = cm_buf_append(out, payload.data, payload.len);
    if (!err)
        return cm_channel_commit(&process->channel);
    cm_channel_cancel(&process->channel);
    return err;
}

int cm_process_refuse(struct cm_process *process, uint8_t op, uint32_t id, int err, const char *text) {
    struct cm_buf *out = cm_channel_begin(&process->channel, op, CM_FRAME_REPLY | CM_FRAME_ERROR, id);
    if (!out)
        return CM_E_NOMEMORY;
    struct cm_writer writer;
    cm_writer_init(&writer, out);
    cm_write_error(&writer, err, text);
    if (!writer.error)
        return cm_channel_commit(&process->channel);
    cm_channel_cancel(&process->channel);
    return writer.error;
}

void cm_process_note_error(struct cm_process *process, struct cm_bytes text) {
    free(process->last_error);
    process->last_error =
        strndup((const char *)text.data, text.len < ERROR_TEXT_BYTES ? text.len : ERROR_TEXT_BYTES);
}
