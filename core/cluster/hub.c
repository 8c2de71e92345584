#include "cluster/hub.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/hash.h"
#include "wire/mail.h"
#include "wire/message.h"
#include "wire/ops.h"

/* An answer is refused to an asker who does not read and has more than this to read already. */
enum { UNREAD_MOST_BYTES = 32 << 20 };

/* --- what processes are told --- */

static bool is_there(const struct cm_process *process) {
    return process && !process->dead && !process->killed && !process->channel.ended;
}

static struct cm_process *process_at(const struct cm_hub *hub, uint32_t seat) {
    struct cm_process *process = cm_supervisor_at_seat(hub->supervisor, seat);
    return is_there(process) ? process : NULL;
}

static struct cm_buf *begin_notice(struct cm_process *process, uint8_t op, struct cm_writer *writer) {
    struct cm_buf *out = cm_channel_begin(&process->channel, op, 0, 0);
    cm_writer_init(writer, out);
    if (!out)
        writer->error = CM_E_NOMEMORY;
    return out;
}

/* A process that cannot be told does not go on as if there had been nothing to tell. */
static void end_notice(struct cm_process *process, const struct cm_buf *out, int err) {
    if (!err)
        err = cm_channel_commit(&process->channel);
    else if (out)
        cm_channel_cancel(&process->channel);
    if (err)
        cm_process_kill(process);
}

static void deliver(void *data, uint32_t seat, uint64_t ticket, uint32_t sender, struct cm_bytes body) {
    struct cm_process *process = process_at(data, seat);
    if (!process)
        return;
    struct cm_writer writer;
    struct cm_buf *out = begin_notice(process, CM_OP_HUB_MESSAGE, &writer);
    cm_write_u64(&writer, ticket);
    cm_write_u32(&writer, sender);
    end_notice(process, out, writer.error ? writer.error : cm_buf_append(out, body.data, body.len));
}

static void over(void *data, uint32_t seat, uint64_t ticket) {
    struct cm_process *process = process_at(data, seat);
    if (!process)
        return;
    struct cm_writer writer;
    struct cm_buf *out = begin_notice(process, CM_OP_HUB_OVER, &writer);
    cm_write_u64(&writer, ticket);
    end_notice(process, out, writer.error);
}

static void answer(void *data, uint32_t seat, uint64_t request, int code, struct cm_bytes bytes) {
    struct cm_process *process = process_at(data, seat);
    if (!process)
        return;
    uint8_t op = cm_frame_number_op(request);
    uint32_t id = cm_frame_number_id(request);
    const char *text = NULL;
    if (!code && bytes.len && cm_channel_unsent(&process->channel) > UNREAD_MOST_BYTES) {
        code = CM_E_NOMEMORY;
        text = "this process has not read the answers that it has got already";
    }
    int err = code ? code : cm_process_reply(process, op, id, bytes);
    if (err && cm_process_refuse(process, op, id, err, text))
        cm_process_kill(process); /* it would wait for ever */
}

/* --- time --- */

static void look_later(struct cm_hub *hub);

static void on_look(uv_timer_t *look) {
    struct cm_hub *hub = look->data;
    cm_mailboxes_look(&hub->mailboxes);
    look_later(hub);
}

static void look_later(struct cm_hub *hub) {
    uint64_t next_ms = cm_mailboxes_next_ms(&hub->mailboxes);
    bool active = uv_is_active((uv_handle_t *)&hub->look);
    if (next_ms == UINT64_MAX)
        uv_timer_stop(&hub->look);
    else if (!active || uv_timer_get_due_in(&hub->look) > next_ms)
        uv_timer_start(&hub->look, on_look, next_ms, 0);
}

/* --- who gets it --- */

static size_t find_process(struct cm_hub *hub, uint32_t id) {
    struct cm_process *found = id ? NULL : hub->supervisor->zero;
    CM_LIST_EACH(link, &hub->supervisor->processes) {
        struct cm_process *process = CM_LIST_ITEM(link, struct cm_process, link);
        if (process->id == id)
            found = process;
    }
    if (!is_there(found))
        return 0;
    hub->receivers[0] = found->seat;
    return 1;
}

static size_t find_all(struct cm_hub *hub, uint32_t but_seat) {
    size_t count = 0;
    CM_LIST_EACH(link, &hub->supervisor->processes) {
        const struct cm_process *process = CM_LIST_ITEM(link, struct cm_process, link);
        if (process->seat != but_seat && is_there(process))
            hub->receivers[count++] = process->seat;
    }
    return count;
}

static size_t choose(struct cm_hub *hub, uint32_t but_seat) {
    size_t count = find_all(hub, but_seat);
    if (count == 0)
        return 0;
    /* Marsaglia's xorshift64. */
    hub->random ^= hub->random << 13;
    hub->random ^= hub->random >> 7;
    hub->random ^= hub->random << 17;
    hub->receivers[0] = hub->receivers[hub->random % count];
    return 1;
}

static size_t find_receivers(struct cm_hub *hub, uint8_t to, uint32_t id, uint32_t sender_seat) {
    switch (to) {
    case CM_HUB_TO_ALL:
        return find_all(hub, sender_seat);
    case CM_HUB_TO_RANDOM:
        return choose(hub, sender_seat);
    default:
        return find_process(hub, id);
    }
}

/* --- what processes send: a payload is taken for hostile --- */

int cm_hub_post(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_mail mail = {.seat = process->dead ? 0 : process->seat,
                           .request = cm_frame_number(frame),
                           .sender = process->id,
                           .asks = frame->op == CM_OP_HUB_ASK};
    struct cm_post post;
    if (cm_post_read(frame->payload, mail.asks, &post))
        return CM_E_BADFRAME;
    if (mail.asks && process->dead)
        return 0;
    mail.timeout_ms = post.timeout_ms;
    mail.body = post.mail; /* receivers get all of it */
    size_t count = find_receivers(hub, post.to, post.process, process->seat);
    int err = count || post.to == CM_HUB_TO_ALL
                  ? cm_mailboxes_post(&hub->mailboxes, &mail, hub->receivers, count)
                  : CM_E_NOPEER;
    look_later(hub);
    if (!err || process->dead)
        return 0;
    const char *text =
        err == CM_E_NOMEMORY ? "this process has sent more than is kept for those who do not read" : NULL;
    return cm_process_refuse(process, frame->op, frame->id, err, text);
}

int cm_hub_workers(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame) {
    if (frame->payload.len)
        return CM_E_BADFRAME;
    struct cm_writer writer;
    cm_buf_reset(&hub->reply, CM_CHANNEL_MARK_BYTES);
    cm_writer_init(&writer, &hub->reply);
    size_t count = find_all(hub, process->seat);
    cm_write_u32(&writer, (uint32_t)count);
    for (size_t i = 0; i < count; i++)
        cm_write_u32(&writer, cm_supervisor_at_seat(hub->supervisor, hub->receivers[i])->id);
    return writer.error ? writer.error
                        : cm_process_reply(process, frame->op, frame->id, cm_buf_view(&hub->reply));
}

int cm_hub_answer(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame) {
    uint64_t ticket;
    struct cm_bytes outcome;
    int err = cm_outcome_read(frame->payload, &ticket, &outcome);
    if (!err)
        cm_mailboxes_answer(&hub->mailboxes, process->seat, ticket, outcome);
    return err;
}

int cm_hub_done(struct cm_hub *hub, struct cm_process *process, const struct cm_frame *frame) {
    uint64_t bytes;
    int err = cm_done_read(frame->payload, &bytes);
    return err ? err : cm_mailboxes_done(&hub->mailboxes, process->seat, bytes);
}

void cm_hub_on_gone(struct cm_hub *hub, uint32_t seat) {
    cm_mailboxes_drop(&hub->mailboxes, seat);
    look_later(hub);
}

/* --- beginning and end --- */

int cm_hub_init(struct cm_hub *hub, struct cm_supervisor *supervisor) {
    *hub = (struct cm_hub){.supervisor = supervisor, .random = cm_hash_seed() | 1};
    uint32_t seats = supervisor->memory->segment.layout.seats;
    hub->receivers = calloc(seats, sizeof *hub->receivers);
    int err = hub->receivers ? cm_mailboxes_init(&hub->mailboxes, seats) : CM_E_NOMEMORY;
    hub->mailboxes.deliver = deliver;
    hub->mailboxes.answer = answer;
    hub->mailboxes.over = over;
    hub->mailboxes.data = hub;
    return err;
}

void cm_hub_deinit(struct cm_hub *hub) {
    cm_mailboxes_deinit(&hub->mailboxes);
    cm_buf_deinit(&hub->reply);
    free(hub->receivers);
}

void cm_hub_start(struct cm_hub *hub, uv_loop_t *loop) {
    uv_timer_init(loop, &hub->look);
    hub->look.data = hub;
}

void cm_hub_stop(struct cm_hub *hub) {
    uv_close((uv_handle_t *)&hub->look, NULL);
}
