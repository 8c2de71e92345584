/* A channel against a bare socket: whole frames out of any pieces, one write for each turn, and bounds on
 * what a peer can make it hold. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "cluster/channel.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"
#include "wire/ops.h"

enum { MAX_PAYLOAD = 1 << 20, MARK_BYTES = 1 << 16, DEADLINE_MS = 20000 };

struct world {
    uv_loop_t loop;
    struct cm_outbox outbox;
    struct cm_channel channel;
    int peer;
    int frames;
    int ends;
    int end_code;
    size_t reply_bytes; /* each frame is answered with that many bytes, if any */
    size_t most_unsent;
    uint32_t last_id;
    size_t last_len;
    bool closed;
};

static int reply(struct world *world, uint32_t id) {
    static uint8_t payload[MAX_PAYLOAD];
    struct cm_buf *out = cm_channel_begin(&world->channel, CM_OP_EXPIRE, CM_FRAME_REPLY, id);
    if (!out)
        return CM_E_NOMEMORY;
    if (cm_buf_append(out, payload, world->reply_bytes)) {
        cm_channel_cancel(&world->channel);
        return CM_E_NOMEMORY;
    }
    return cm_channel_commit(&world->channel);
}

static int on_frame(struct cm_channel *channel, const struct cm_frame *frame) {
    struct world *world = channel->owner;
    world->frames++;
    world->last_id = frame->id;
    world->last_len = frame->payload.len;
    int err = world->reply_bytes ? reply(world, frame->id) : 0;
    if (cm_channel_unsent(channel) > world->most_unsent)
        world->most_unsent = cm_channel_unsent(channel);
    return err;
}

static void on_end(struct cm_channel *channel, int code) {
    struct world *world = channel->owner;
    world->ends++;
    world->end_code = code;
}

static const struct cm_channel_events events = {.on_frame = on_frame, .on_end = on_end};

static void start(struct world *world, int type, size_t mark_bytes) {
    int ends[2];
    *world = (struct world){0};
    assert_int_equal(socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    assert_int_equal(uv_loop_init(&world->loop), 0);
    world->peer = ends[1];
    cm_outbox_open(&world->outbox, &world->loop, 0, NULL);
    assert_int_equal(
        cm_channel_open(&world->channel, &world->outbox, ends[0], MAX_PAYLOAD, mark_bytes, &events, world),
        0);
}

static void on_closed(struct cm_channel *channel) {
    struct world *world = channel->owner;
    world->closed = true;
}

static void end(struct world *world) {
    cm_channel_close(&world->channel, on_closed);
    cm_outbox_close(&world->outbox);
    uv_run(&world->loop, UV_RUN_DEFAULT);
    assert_true(world->closed);
    assert_int_equal(uv_loop_close(&world->loop), 0);
    close(world->peer);
}

static void turn(struct world *world) {
    uv_run(&world->loop, UV_RUN_NOWAIT);
}

static void send_bytes(struct world *world, struct cm_bytes bytes) {
    assert_int_equal(send(world->peer, bytes.data, bytes.len, MSG_NOSIGNAL), bytes.len);
}

static void append_frame(struct cm_buf *buf, uint32_t id, size_t len) {
    static const uint8_t zeros[MAX_PAYLOAD];
    size_t begun;
    assert_int_equal(cm_frame_begin(buf, CM_OP_EXPIRE, 0, id, &begun), 0);
    assert_int_equal(cm_buf_append(buf, zeros, len), 0);
    assert_int_equal(cm_frame_end(buf, begun), 0);
}

static void test_pieces(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, 0);
    struct cm_buf bytes = {0};
    append_frame(&bytes, 7, 5);
    append_frame(&bytes, 8, 0);
    for (size_t i = 0; i < bytes.len; i++) {
        send_bytes(&world, (struct cm_bytes){bytes.data + i, 1});
        turn(&world);
        assert_int_equal(world.frames, i + 1 == bytes.len ? 2 : i + 1 >= CM_FRAME_HEADER_BYTES + 5);
    }
    assert_int_equal(world.last_id, 8);
    assert_int_equal(world.last_len, 0);
    cm_buf_deinit(&bytes);
    end(&world);
}

static void test_large_frame(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, 0);
    struct cm_buf bytes = {0};
    append_frame(&bytes, 1, MAX_PAYLOAD);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    for (size_t sent = 0; !world.frames; turn(&world)) {
        ssize_t now =
            sent < bytes.len ? send(world.peer, bytes.data + sent, bytes.len - sent, MSG_NOSIGNAL) : 0;
        sent += now > 0 ? (size_t)now : 0;
        assert_true(cm_clock_ms() < deadline_ms);
    }
    assert_int_equal(world.last_len, MAX_PAYLOAD);
    cm_buf_deinit(&bytes);
    end(&world);
}

/* A packet socket shows where writes begin and end. */
static void test_one_write_a_turn(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_SEQPACKET, 0);
    world.reply_bytes = 10;
    assert_int_equal(reply(&world, 1), 0);
    assert_int_equal(reply(&world, 2), 0);
    uint8_t packet[256];
    assert_int_equal(recv(world.peer, packet, sizeof packet, 0), -1);
    turn(&world);
    assert_int_equal(recv(world.peer, packet, sizeof packet, 0), 2 * (CM_FRAME_HEADER_BYTES + 10));
    /* Requests that come in one piece are answered in one piece. */
    struct cm_buf bytes = {0};
    append_frame(&bytes, 3, 0);
    append_frame(&bytes, 4, 0);
    send_bytes(&world, cm_buf_view(&bytes));
    turn(&world);
    turn(&world);
    assert_int_equal(recv(world.peer, packet, sizeof packet, 0), 2 * (CM_FRAME_HEADER_BYTES + 10));
    cm_buf_deinit(&bytes);
    end(&world);
}

static void expect_end(struct world *world, int code) {
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (!world->ends && cm_clock_ms() < deadline_ms)
        turn(world);
    turn(world);
    assert_int_equal(world->ends, 1);
    assert_int_equal(world->end_code, code);
}

static void test_malformed(void **state) {
    (void)state;
    static const uint8_t headers[][CM_FRAME_HEADER_BYTES] = {
        {0, 0, 0, 0, 255},                          /* no such operation */
        {0, 0, 0, 0, CM_OP_EXPIRE, 128},            /* no such flag */
        {0, 0, 0, 0, CM_OP_EXPIRE, CM_FRAME_ERROR}, /* an error that is no reply */
        {0, 0, 0, 0, CM_OP_EXPIRE, 0, 1},           /* a zero that is none */
        {255, 255, 255, 255, CM_OP_EXPIRE},         /* longer than anything */
        {1, 0, 16, 0, CM_OP_EXPIRE},                /* one byte longer than allowed */
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        struct world world;
        start(&world, SOCK_STREAM, 0);
        struct cm_buf bytes = {0};
        append_frame(&bytes, 1, 0);
        assert_int_equal(cm_buf_append(&bytes, headers[i], sizeof headers[i]), 0);
        append_frame(&bytes, 2, 0);
        send_bytes(&world, cm_buf_view(&bytes));
        expect_end(&world, CM_E_BADFRAME);
        assert_int_equal(world.frames, 1);
        assert_null(cm_channel_begin(&world.channel, CM_OP_EXPIRE, 0, 1));
        cm_buf_deinit(&bytes);
        end(&world);
    }
}

/* What came before the end counts, also with output that the peer never read. */
static void test_end_of_file(void **state) {
    (void)state;
    for (size_t reply_bytes = 0; reply_bytes <= 1000; reply_bytes += 1000) {
        struct world world;
        start(&world, SOCK_STREAM, MARK_BYTES);
        world.reply_bytes = reply_bytes;
        struct cm_buf bytes = {0};
        for (uint32_t id = 1; id <= 200; id++)
            append_frame(&bytes, id, 0);
        send_bytes(&world, cm_buf_view(&bytes));
        turn(&world);
        send_bytes(&world, cm_buf_view(&bytes));
        close(world.peer);
        expect_end(&world, CM_E_CLOSED);
        assert_int_equal(world.frames, 400);
        cm_buf_deinit(&bytes);
        world.peer = dup(STDIN_FILENO);
        end(&world);
    }
}

/* Reads what the peer's end has, and returns how much. */
static size_t swallow(struct world *world) {
    static uint8_t space[1 << 16];
    size_t all = 0;
    for (;;) {
        ssize_t got = recv(world->peer, space, sizeof space, 0);
        if (got <= 0)
            return all;
        all += (size_t)got;
    }
}

static void test_back_pressure(void **state) {
    (void)state;
    enum { REQUESTS = 2000, REPLY_BYTES = 1000 };
    struct world world;
    start(&world, SOCK_STREAM, MARK_BYTES);
    world.reply_bytes = REPLY_BYTES;
    struct cm_buf bytes = {0};
    for (uint32_t id = 1; id <= REQUESTS; id++)
        append_frame(&bytes, id, 0);
    send_bytes(&world, cm_buf_view(&bytes));
    for (int i = 0; i < 100; i++)
        turn(&world);
    /* The peer does not read: its requests wait. */
    assert_true(world.frames < REQUESTS);
    assert_true(world.most_unsent <= MARK_BYTES + REPLY_BYTES + CM_FRAME_HEADER_BYTES);
    int before = world.frames;
    for (int i = 0; i < 100; i++)
        turn(&world);
    assert_int_equal(world.frames, before);

    size_t got = 0;
    size_t whole = (size_t)REQUESTS * (REPLY_BYTES + CM_FRAME_HEADER_BYTES);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (got < whole && cm_clock_ms() < deadline_ms) {
        turn(&world);
        got += swallow(&world);
    }
    assert_int_equal(got, whole);
    assert_int_equal(world.frames, REQUESTS);
    assert_true(world.most_unsent <= MARK_BYTES + REPLY_BYTES + CM_FRAME_HEADER_BYTES);
    cm_buf_deinit(&bytes);
    end(&world);
}

static void send_frame(struct world *world, uint32_t id) {
    struct cm_buf bytes = {0};
    append_frame(&bytes, id, 0);
    send_bytes(world, cm_buf_view(&bytes));
    cm_buf_deinit(&bytes);
}

/* As an outbox does that looks. */
static bool take(struct world *world) {
    return world->channel.source.take(&world->channel.source);
}

static void test_take(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, MARK_BYTES);
    assert_false(take(&world));
    send_frame(&world, 7);
    assert_true(take(&world));
    assert_int_equal(world.last_id, 7);
    assert_false(take(&world));
    /* A part of one is something, too. */
    struct cm_buf bytes = {0};
    append_frame(&bytes, 8, 0);
    send_bytes(&world, (struct cm_bytes){bytes.data, 5});
    assert_true(take(&world));
    assert_int_equal(world.frames, 1);
    send_bytes(&world, (struct cm_bytes){bytes.data + 5, bytes.len - 5});
    turn(&world);
    assert_int_equal(world.last_id, 8);
    cm_buf_deinit(&bytes);
    end(&world);
}

static void test_take_the_end(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, MARK_BYTES);
    send_frame(&world, 7);
    close(world.peer);
    world.peer = dup(STDIN_FILENO);
    assert_true(take(&world));
    assert_true(take(&world));
    assert_int_equal(world.frames, 1);
    assert_int_equal(world.ends, 1);
    assert_int_equal(world.end_code, CM_E_CLOSED);
    assert_false(take(&world));
    assert_true(cm_list_empty(&world.outbox.recent));
    end(&world);
}

/* No more is asked of a peer that does not read than the loop does. */
static void test_take_over_the_mark(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, MARK_BYTES);
    world.reply_bytes = MAX_PAYLOAD;
    send_frame(&world, 7);
    turn(&world);
    turn(&world);
    assert_int_equal(world.frames, 1);
    assert_true(cm_channel_unsent(&world.channel) > MARK_BYTES);
    send_frame(&world, 8);
    assert_false(take(&world));
    assert_int_equal(world.channel.in.len, 0);
    world.reply_bytes = 0;
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    for (size_t got = 0; got < MAX_PAYLOAD + CM_FRAME_HEADER_BYTES && cm_clock_ms() < deadline_ms;
         turn(&world))
        got += swallow(&world);
    assert_int_equal(world.frames, 2);
    end(&world);
}

/* Waits for a peer that does not read until the time is up; reads meanwhile, and handles that in a later
 * turn. */
static void test_drain(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, 0);
    world.reply_bytes = MAX_PAYLOAD;
    assert_int_equal(reply(&world, 1), 0);
    assert_int_equal(cm_channel_drain(&world.channel, 0, 20), CM_E_TIMEOUT);
    struct cm_buf bytes = {0};
    append_frame(&bytes, 9, 0);
    send_bytes(&world, cm_buf_view(&bytes));
    world.reply_bytes = 0;
    assert_int_equal(cm_channel_drain(&world.channel, 0, 20), CM_E_TIMEOUT);
    assert_int_equal(world.frames, 0);
    turn(&world);
    assert_int_equal(world.last_id, 9);

    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    size_t got = 0;
    while (cm_channel_drain(&world.channel, 0, 1) == CM_E_TIMEOUT && cm_clock_ms() < deadline_ms)
        got += swallow(&world);
    got += swallow(&world);
    assert_int_equal(got, MAX_PAYLOAD + CM_FRAME_HEADER_BYTES);
    assert_int_equal(cm_channel_unsent(&world.channel), 0);
    cm_buf_deinit(&bytes);
    end(&world);
}

/* The requests of a dead peer are handled whatever its mark, and their replies are not kept. */
static void test_finish(void **state) {
    (void)state;
    struct world world;
    start(&world, SOCK_STREAM, MARK_BYTES);
    world.reply_bytes = MARK_BYTES;
    struct cm_buf bytes = {0};
    for (uint32_t id = 1; id <= 1000; id++)
        append_frame(&bytes, id, 0);
    send_bytes(&world, cm_buf_view(&bytes));
    cm_channel_finish(&world.channel);
    assert_int_equal(world.frames, 1000);
    assert_int_equal(world.ends, 0);
    assert_true(world.most_unsent <= MARK_BYTES + CM_FRAME_HEADER_BYTES);
    cm_buf_deinit(&bytes);
    end(&world);
}

/* Without memory a channel ends and says why; nothing is left over. */
static int without_memory(void *data) {
    (void)data;
    struct world world;
    start(&world, SOCK_STREAM, MARK_BYTES);
    world.reply_bytes = 200;
    static const uint8_t request[CM_FRAME_HEADER_BYTES] = {[4] = CM_OP_EXPIRE, [8] = 1};
    send_bytes(&world, (struct cm_bytes){request, sizeof request});
    world.channel.source.take(&world.channel.source);
    for (int i = 0; i < 3; i++)
        turn(&world);
    int err = world.ends ? world.end_code : 0;
    assert_true(err || swallow(&world) == CM_FRAME_HEADER_BYTES + 200);
    end(&world);
    return err;
}

static void test_without_memory(void **state) {
    (void)state;
    alloc_failure_each(without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),         cmocka_unit_test(test_large_frame),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_one_write_a_turn),
        cmocka_unit_test(test_end_of_file),    cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_drain),          cmocka_unit_test(test_finish),
        cmocka_unit_test(test_without_memory), cmocka_unit_test(test_take),
        cmocka_unit_test(test_take_the_end),   cmocka_unit_test(test_take_over_the_mark),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
