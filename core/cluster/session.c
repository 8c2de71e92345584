#include "cluster/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "wire/ops.h"

enum {
    GREET_MS = 10000,
    GREET_MAX_BYTES =
        64 << 20, /* of a first frame: it is the master's, but lengths are checked all the same */
    THROTTLE_MS = 60000,
};

/* Reads exactly that many bytes more. */
static int read_more(int fd, struct cm_buf *buf, size_t len, uint64_t deadline_ms) {
    int err = cm_buf_reserve(buf, len);
    if (err)
        return err;
    for (size_t end = buf->len + len; buf->len < end;) {
        uint64_t now_ms = cm_clock_ms();
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (now_ms >= deadline_ms || poll(&ready, 1, (int)(deadline_ms - now_ms)) == 0)
            return CM_E_TIMEOUT;
        ssize_t got = recv(fd, buf->data + buf->len, end - buf->len, MSG_DONTWAIT);
        if (got == 0)
            return CM_E_CLOSED;
        if (got > 0)
            buf->len += (size_t)got;
        else if (errno != EINTR && errno != EAGAIN)
            return -errno;
    }
    return 0;
}

static int greet(struct cm_session *session, int fd, struct cm_buf *buf) {
    uint64_t deadline_ms = cm_clock_ms() + GREET_MS;
    struct cm_frame frame;
    for (;;) {
        size_t need;
        int64_t len = cm_frame_decode(cm_buf_view(buf), GREET_MAX_BYTES, &frame, &need);
        if (len < 0)
            return (int)len;
        if (len > 0)
            break;
        int err = read_more(fd, buf, need - buf->len, deadline_ms);
        if (err)
            return err;
    }
    if (frame.op != CM_OP_INIT || frame.flags || frame.id)
        return CM_E_BADFRAME;
    int err = cm_init_read(frame.payload, &session->init);
    if (err)
        cm_init_deinit(&session->init);
    return err;
}

int cm_session_greet(struct cm_session *session, int fd) {
    *session = (struct cm_session){0};
    struct cm_buf buf = {0};
    int err = greet(session, fd, &buf);
    cm_buf_deinit(&buf);
    return err;
}

static int on_frame(struct cm_channel *channel, const struct cm_frame *frame) {
    struct cm_session *session = channel->owner;
    if (frame->flags & CM_FRAME_REPLY)
        return session->events->on_reply(session, frame);
    return frame->id ? CM_E_BADFRAME : session->events->on_notice(session, frame);
}

static void on_end(struct cm_channel *channel, int code) {
    struct cm_session *session = channel->owner;
    session->events->on_end(session, code);
}

static const struct cm_channel_events channel_events = {.on_frame = on_frame, .on_end = on_end};

int cm_session_open(struct cm_session *session, uv_loop_t *loop, int fd, struct cm_segment *segment,
                    const struct cm_session_events *events) {
    session->events = events;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    cm_outbox_open(&session->outbox, loop, CM_OUTBOX_LOOK_NS,
                   &cm_segment_seat(segment, session->init.seat)->core);
    int err =
        cm_channel_open(&session->channel, &session->outbox, fd,
                        cm_reply_most_bytes(session->init.max_value_bytes), 0, &channel_events, session);
    if (err)
        return err;
    cm_channel_know_core(&session->channel, &cm_segment_seat(segment, CM_MASTER_SEAT)->core);
    cm_session_hold(session, false);
    return 0;
}

void cm_session_detach(struct cm_session *session) {
    session->channel.ended = true;
    cm_outbox_stop_looking(&session->outbox);
}

void cm_session_hold(struct cm_session *session, bool hold) {
    if (hold)
        uv_ref((uv_handle_t *)&session->channel.poll);
    else
        uv_unref((uv_handle_t *)&session->channel.poll);
}

static void take_id(struct cm_session *session) {
    CM_FAULT_NUMBER("CLUSTERMEM_LAST_ID", &session->last_id);
    do {
        if (++session->last_id == 0) { /* which is a notice's */
            session->came_round = true;
            session->last_id = 1;
        }
    } while (session->came_round && session->events->is_pending(session, session->last_id));
}

struct cm_writer *cm_session_begin(struct cm_session *session, uint8_t op) {
    take_id(session);
    struct cm_buf *out = cm_channel_begin(&session->channel, op, 0, session->last_id);
    if (!out)
        return NULL;
    cm_writer_init(&session->writer, out);
    return &session->writer;
}

int cm_session_commit(struct cm_session *session, uint32_t *id) {
    int err = session->writer.error;
    if (!err && cm_channel_begun(&session->channel) > cm_request_most_bytes(session->init.max_value_bytes))
        err = CM_E_TOOLARGE; /* the master would kill who sends that */
    if (err) {
        cm_channel_cancel(&session->channel);
        return err;
    }
    *id = session->last_id;
    return cm_channel_commit(&session->channel);
}

void cm_session_notify(struct cm_session *session, uint8_t op, struct cm_bytes payload) {
    struct cm_buf *out = cm_channel_begin(&session->channel, op, 0, 0);
    if (!out)
        return;
    if (cm_buf_append(out, payload.data, payload.len))
        cm_channel_cancel(&session->channel);
    else
        cm_channel_commit(&session->channel);
}

void cm_session_throttle(struct cm_session *session) {
    if (cm_channel_unsent(&session->channel) > CM_CHANNEL_MARK_BYTES)
        cm_channel_drain(&session->channel, CM_CHANNEL_MARK_BYTES / 2, THROTTLE_MS);
}

void cm_session_flush(struct cm_session *session) {
    cm_channel_drain(&session->channel, 0, session->init.exit_ms);
}
