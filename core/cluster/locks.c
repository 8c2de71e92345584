#include "cluster/locks.h"

#include "base/error.h"
#include "data/store.h"
#include "wire/message.h"
#include "wire/ops.h"

/* --- answers --- */

static void write_id(struct cm_writer *writer, struct cm_lock_id id) {
    cm_write_u64(writer, id.token);
    cm_write_u32(writer, id.slot);
}

static int send_reply(struct cm_process *process, uint64_t number, struct cm_bytes payload) {
    return cm_process_reply(process, cm_frame_number_op(number), cm_frame_number_id(number), payload);
}

static void answer(void *data, struct cm_lock_asker asker, int code, const struct cm_grant *grant,
                   const char *text) {
    struct cm_locks *locks = data;
    struct cm_process *process = cm_supervisor_at_seat(locks->supervisor, asker.seat);
    if (!process || process->dead || process->channel.ended)
        return; /* what it got is released with all else that it has */
    cm_buf_reset(&locks->reply, CM_CHANNEL_MARK_BYTES);
    struct cm_writer writer;
    cm_writer_init(&writer, &locks->reply);
    if (grant && !code) {
        write_id(&writer, grant->id);
        cm_write_u8(&writer, grant->abandoned);
    }
    int err = writer.error;
    if (!err)
        err = code ? cm_process_refuse(process, cm_frame_number_op(asker.request),
                                       cm_frame_number_id(asker.request), code, text)
                   : send_reply(process, asker.request, cm_buf_view(&locks->reply));
    if (err)
        cm_process_kill(process); /* it would wait for ever */
}

static uint32_t worker_of(void *data, uint32_t seat) {
    struct cm_locks *locks = data;
    const struct cm_process *process = cm_supervisor_at_seat(locks->supervisor, seat);
    return process ? process->id : 0;
}

/* --- looking again --- */

static void on_look(uv_timer_t *look) {
    cm_locks_look(look->data);
}

static void look_later(struct cm_locks *locks) {
    uint64_t next_ms = cm_lockq_next_ms(&locks->queue);
    bool active = uv_is_active((uv_handle_t *)&locks->look);
    if (next_ms == UINT64_MAX)
        uv_timer_stop(&locks->look);
    else if (!active || uv_timer_get_due_in(&locks->look) > next_ms)
        uv_timer_start(&locks->look, on_look, next_ms, 0);
}

void cm_locks_look(struct cm_locks *locks) {
    cm_lockq_look(&locks->queue);
    look_later(locks);
}

void cm_locks_round(struct cm_locks *locks) {
    cm_lockq_end_leases(&locks->queue);
    look_later(locks);
}

/* --- requests: a payload is taken for hostile --- */

struct request {
    struct cm_locks *locks;
    struct cm_process *process;
    struct cm_reader in;
    struct cm_bytes key;
    struct cm_lock_asker asker;
};

static struct cm_lock_id read_id(struct cm_reader *reader) {
    struct cm_lock_id id = {.token = cm_read_u64(reader)};
    id.slot = cm_read_u32(reader);
    if (id.token > UINT64_MAX >> 4 || id.slot >> CM_LOCK_SLOT_BITS)
        reader->error = CM_E_BADFRAME;
    return id;
}

static uint64_t read_lease(struct cm_reader *reader) {
    uint64_t lease_ms = cm_read_u64(reader);
    if (lease_ms > CM_TTL_MAX_MS)
        reader->error = CM_E_BADFRAME;
    return lease_ms;
}

static int do_lock(struct request *request) {
    struct cm_lock_request wanted = {.asker = request->asker, .key = request->key};
    wanted.task = cm_read_u64(&request->in);
    uint8_t flags = cm_read_u8(&request->in);
    wanted.timeout_ms = cm_read_u64(&request->in);
    wanted.lease_ms = read_lease(&request->in);
    wanted.fair = flags & CM_LOCK_FAIR;
    if (cm_reader_end(&request->in) || flags & ~CM_LOCK_FAIR ||
        (wanted.timeout_ms > CM_TTL_MAX_MS && wanted.timeout_ms != CM_LOCK_NO_TIMEOUT))
        return CM_E_BADFRAME;
    if (request->process->dead)
        return 0;
    int err = cm_lockq_request(&request->locks->queue, &wanted);
    if (err)
        answer(request->locks, request->asker, err, NULL, NULL);
    return 0;
}

static int do_unlock(struct request *request) {
    struct cm_lock_id id = read_id(&request->in);
    if (cm_reader_end(&request->in))
        return CM_E_BADFRAME;
    int err = cm_lockq_release(&request->locks->queue, request->asker, request->key, id);
    if (err)
        answer(request->locks, request->asker, err, NULL, NULL);
    return 0;
}

static int do_renew(struct request *request) {
    struct cm_lock_id id = read_id(&request->in);
    uint64_t lease_ms = read_lease(&request->in);
    if (cm_reader_end(&request->in))
        return CM_E_BADFRAME;
    int err = cm_lockq_renew(&request->locks->queue, request->asker.seat, request->key, id, lease_ms);
    answer(request->locks, request->asker, err, NULL, NULL);
    return 0;
}

static int do_info(struct request *request) {
    if (cm_reader_end(&request->in))
        return CM_E_BADFRAME;
    struct cm_lock_info info = {0};
    bool held = cm_lockq_info(&request->locks->queue, request->key, &info) == 0;
    cm_buf_reset(&request->locks->reply, CM_CHANNEL_MARK_BYTES);
    struct cm_writer writer;
    cm_writer_init(&writer, &request->locks->reply);
    cm_write_u8(&writer, held);
    cm_write_u32(&writer, held ? worker_of(request->locks, info.seat) : 0);
    cm_write_u64(&writer, info.task);
    cm_write_u64(&writer, info.lease_ms);
    cm_write_u32(&writer, info.waiting);
    return writer.error
               ? writer.error
               : send_reply(request->process, request->asker.request, cm_buf_view(&request->locks->reply));
}

static int (*const operations[])(struct request *) = {
    [CM_OP_LOCK] = do_lock,
    [CM_OP_UNLOCK] = do_unlock,
    [CM_OP_RENEW] = do_renew,
    [CM_OP_LOCK_INFO] = do_info,
};

bool cm_locks_does(uint8_t op) {
    return op < sizeof operations / sizeof *operations && operations[op];
}

int cm_locks_do(struct cm_locks *locks, struct cm_process *process, const struct cm_frame *frame) {
    struct request request = {
        .locks = locks, .process = process, .asker = {process->seat, cm_frame_number(frame)}};
    cm_reader_init(&request.in, frame->payload);
    request.key = cm_read_bytes(&request.in);
    if (request.key.len == 0 || request.key.len > CM_KEY_MAX_BYTES)
        return CM_E_BADFRAME;
    int err = operations[frame->op](&request);
    look_later(locks);
    return err;
}

/* --- the dead --- */

void cm_locks_on_death(struct cm_locks *locks, uint32_t seat) {
    cm_lockq_drop_waits(&locks->queue, seat);
    look_later(locks);
}

void cm_locks_on_exit(struct cm_locks *locks, uint32_t seat) {
    cm_lockq_drop_owner(&locks->queue, seat);
    look_later(locks);
}

/* --- beginning and end --- */

int cm_locks_init(struct cm_locks *locks, struct cm_participant *master, struct cm_supervisor *supervisor) {
    *locks = (struct cm_locks){.supervisor = supervisor};
    int err = cm_lockq_init(&locks->queue, master);
    locks->queue.answer = answer;
    locks->queue.worker_of = worker_of;
    locks->queue.data = locks;
    return err;
}

void cm_locks_deinit(struct cm_locks *locks) {
    cm_lockq_deinit(&locks->queue);
    cm_buf_deinit(&locks->reply);
}

void cm_locks_start(struct cm_locks *locks, uv_loop_t *loop) {
    uv_timer_init(loop, &locks->look);
    locks->look.data = locks;
}

void cm_locks_stop(struct cm_locks *locks) {
    uv_close((uv_handle_t *)&locks->look, NULL);
}
