#include "cluster/channel.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

enum {
    READ_BYTES = 64 << 10,       /* room for one read */
    KEEP_BYTES = 2 * READ_BYTES, /* an empty buffer larger than this is given back */
    FINISH_READS = 256,          /* more than any socket's buffer holds */
};

size_t cm_channel_unsent(const struct cm_channel *channel) {
    return channel->out.len - channel->sent;
}

static bool over_mark(const struct cm_channel *channel) {
    return channel->mark_bytes && cm_channel_unsent(channel) > channel->mark_bytes;
}

static void on_poll(uv_poll_t *poll, int status, int events);

/* What is posted will be tried first: mostly the kernel takes it all, and each change of interest takes
 * system calls. */
static int interest_in(const struct cm_channel *channel) {
    if (over_mark(channel))
        return UV_WRITABLE;
    bool tried = cm_list_empty(&channel->posted.link) || channel->interest & UV_WRITABLE;
    return UV_READABLE | (cm_channel_unsent(channel) && tried ? UV_WRITABLE : 0);
}

static void watch(struct cm_channel *channel) {
    int interest = interest_in(channel);
    if (channel->ended || interest == channel->interest)
        return;
    channel->interest = interest;
    uv_poll_start(&channel->poll, interest, on_poll);
}

static void stop(struct cm_channel *channel) {
    channel->ended = true;
    channel->interest = 0;
    uv_poll_stop(&channel->poll);
    cm_outbox_withdraw(&channel->posted);
    cm_outbox_forget(channel->outbox, &channel->source);
}

static void end(struct cm_channel *channel, int code) {
    if (channel->ended)
        return;
    stop(channel);
    channel->events->on_end(channel, code);
}

static void drop_output(struct cm_channel *channel) {
    channel->sent = 0;
    cm_buf_reset(&channel->out, KEEP_BYTES);
}

/* What is sent makes room when it is the larger part: a stream that never quite ends must not grow the
 * buffer, and each byte is moved at most once for one that has left. Between two frames. */
static void forget_sent(struct cm_channel *channel) {
    if (channel->sent < KEEP_BYTES || channel->sent < cm_channel_unsent(channel))
        return;
    cm_buf_consume(&channel->out, channel->sent);
    channel->sent = 0;
}

/* Gives the kernel what it takes now. 0, or a negative errno. */
static int write_some(struct cm_channel *channel) {
    while (cm_channel_unsent(channel)) {
        ssize_t sent = send(channel->fd, channel->out.data + channel->sent, cm_channel_unsent(channel),
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0)
            channel->sent += (size_t)sent;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            return -errno;
    }
    if (cm_channel_unsent(channel)) {
        forget_sent(channel);
        return 0;
    }
    drop_output(channel);
    return 0;
}

/* Reads once. The bytes read; 0 when there are none now; CM_E_CLOSED at the end; or a negative code. */
static int64_t read_some(struct cm_channel *channel) {
    int err = cm_buf_reserve(&channel->in, READ_BYTES);
    if (err)
        return err;
    for (;;) {
        ssize_t got = recv(channel->fd, channel->in.data + channel->in.len, channel->in.cap - channel->in.len,
                           MSG_DONTWAIT);
        if (got > 0) {
            channel->in.len += (size_t)got;
            return got;
        }
        if (got == 0)
            return CM_E_CLOSED;
        if (errno == EAGAIN)
            return 0;
        /* A peer that died with unread input resets the connection: it is gone all the same. */
        if (errno == ECONNRESET)
            return CM_E_CLOSED;
        if (errno != EINTR)
            return -errno;
    }
}

/* Handles the complete frames of the input while `bounded` allows. 0 or the code to end with. */
static int handle_frames(struct cm_channel *channel, bool bounded) {
    size_t done = 0;
    int err = 0;
    while (!err && !channel->ended && !(bounded && over_mark(channel))) {
        struct cm_frame frame;
        size_t need;
        struct cm_bytes rest = {channel->in.data + done, channel->in.len - done};
        int64_t len = rest.len ? cm_frame_decode(rest, channel->max_payload, &frame, &need) : 0;
        if (len == 0)
            break;
        if (len < 0) {
            err = (int)len;
            break;
        }
        done += (size_t)len;
        err = channel->events->on_frame(channel, &frame);
        if (!bounded)
            drop_output(channel); /* the peer is dead: a reply for each of its requests could be any amount */
    }
    cm_buf_consume(&channel->in, done);
    if (channel->in.len == 0)
        cm_buf_reset(&channel->in, KEEP_BYTES);
    return err;
}

static void handle_input(struct cm_channel *channel) {
    int err = channel->in.len ? handle_frames(channel, true) : 0;
    if (err)
        end(channel, err);
}

/* Writes what the kernel takes. A peer that is gone is no error here: what it had sent before still counts,
 * and behind that, reading finds its end. */
static void flush_output(struct cm_channel *channel) {
    int err = write_some(channel);
    if (err == -EPIPE || err == -ECONNRESET)
        drop_output(channel);
    else if (err)
        end(channel, err);
    if (channel->events->on_drained && !channel->ended && !over_mark(channel))
        channel->events->on_drained(channel);
}

/* Reads once, and handles that. False: there was nothing to read. */
static bool take_input(struct cm_channel *channel) {
    int64_t got = read_some(channel);
    if (got == 0)
        return false;
    cm_outbox_hear(channel->outbox, &channel->source);
    if (got == CM_E_CLOSED)
        cm_channel_finish(channel);
    if (got < 0)
        end(channel, (int)got);
    else
        handle_input(channel);
    return true;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct cm_channel *channel = CM_LIST_ITEM(poll, struct cm_channel, poll);
    if (channel->ended)
        return; /* a child that a script has forked */
    /* The socket has an error: the peer is gone, with input of ours unread. libuv has stopped the handle. */
    if (status < 0) {
        cm_channel_finish(channel);
        end(channel, CM_E_CLOSED);
        return;
    }
    if (events & UV_WRITABLE) {
        flush_output(channel);
        handle_input(channel);
    }
    if (events & UV_READABLE && !channel->ended)
        take_input(channel);
    watch(channel);
}

static void send_posted(struct cm_posted *posted) {
    struct cm_channel *channel = CM_LIST_ITEM(posted, struct cm_channel, posted);
    if (channel->ended)
        return; /* a child that a script has forked */
    flush_output(channel);
    /* Input that waited for the output to drain, or came while draining, has no event of its own. */
    handle_input(channel);
    watch(channel);
}

static bool take(struct cm_source *source) {
    struct cm_channel *channel = CM_LIST_ITEM(source, struct cm_channel, source);
    /* Without memory for what may not come, nothing has ended yet. */
    if (channel->ended || !(channel->interest & UV_READABLE) || cm_buf_reserve(&channel->in, READ_BYTES) ||
        !take_input(channel))
        return false;
    watch(channel);
    return true;
}

int cm_channel_open(struct cm_channel *channel, struct cm_outbox *outbox, int fd, size_t max_payload,
                    size_t mark_bytes, const struct cm_channel_events *events, void *owner) {
    *channel = (struct cm_channel){.outbox = outbox,
                                   .events = events,
                                   .owner = owner,
                                   .fd = fd,
                                   .max_payload = max_payload,
                                   .mark_bytes = mark_bytes};
    channel->posted.send = send_posted;
    channel->posted.to = &channel->source;
    cm_list_init(&channel->posted.link);
    channel->source.take = take;
    cm_list_init(&channel->source.link);
    int err = uv_poll_init(outbox->loop, &channel->poll, fd);
    if (err) {
        close(fd);
        return err;
    }
    channel->poll.data = NULL; /* it is not luv's */
    watch(channel);
    return 0;
}

void cm_channel_know_core(struct cm_channel *channel, const _Atomic uint32_t *core) {
    channel->source.core = core;
}

static void on_poll_closed(uv_handle_t *poll) {
    struct cm_channel *channel = CM_LIST_ITEM(poll, struct cm_channel, poll);
    cm_buf_deinit(&channel->in);
    cm_buf_deinit(&channel->out);
    if (channel->on_closed)
        channel->on_closed(channel);
}

void cm_channel_close(struct cm_channel *channel, void (*on_closed)(struct cm_channel *channel)) {
    channel->on_closed = on_closed;
    stop(channel);
    uv_close((uv_handle_t *)&channel->poll, on_poll_closed);
    close(channel->fd);
    channel->fd = -1;
}

struct cm_buf *cm_channel_begin(struct cm_channel *channel, uint8_t op, uint8_t flags, uint32_t id) {
    if (channel->ended || cm_frame_begin(&channel->out, op, flags, id, &channel->begun))
        return NULL;
    return &channel->out;
}

size_t cm_channel_begun(const struct cm_channel *channel) {
    return channel->out.len - channel->begun - CM_FRAME_HEADER_BYTES;
}

int cm_channel_commit(struct cm_channel *channel) {
    int err = cm_frame_end(&channel->out, channel->begun);
    if (!err)
        cm_outbox_post(channel->outbox, &channel->posted);
    return err;
}

void cm_channel_cancel(struct cm_channel *channel) {
    channel->out.len = channel->begun;
}

int cm_channel_drain(struct cm_channel *channel, size_t left_bytes, uint64_t timeout_ms) {
    uint64_t deadline_ms = cm_clock_ms() + timeout_ms;
    while (!channel->ended && cm_channel_unsent(channel) > left_bytes) {
        int err = write_some(channel);
        if (err)
            return err;
        if (cm_channel_unsent(channel) <= left_bytes)
            break;
        uint64_t now_ms = cm_clock_ms();
        if (now_ms >= deadline_ms)
            return CM_E_TIMEOUT;
        struct pollfd ready = {.fd = channel->fd, .events = POLLIN | POLLOUT};
        int count = poll(&ready, 1, (int)(deadline_ms - now_ms));
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0 && ready.revents & (POLLIN | POLLHUP | POLLERR)) {
            int64_t got = read_some(channel);
            if (got < 0)
                return (int)got;
            cm_outbox_post(channel->outbox, &channel->posted);
        }
    }
    return channel->ended ? CM_E_CLOSED : 0;
}

void cm_channel_finish(struct cm_channel *channel) {
    /* Somebody whom the dead handed the socket could go on writing. */
    for (int reads = 0; reads < FINISH_READS; reads++)
        if (channel->ended || handle_frames(channel, false) || read_some(channel) <= 0)
            return;
}
