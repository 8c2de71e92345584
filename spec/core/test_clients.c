/* Connections and their time-outs against an array of them. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "cluster/clients.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { CLIENTS = 24, OPERATIONS = 20000, HEADER_MS = 50, REST_MS = 120 };

struct peer {
    struct cm_client *client;
    int ends[2]; /* the client's, and what would be its peer */
    bool closed; /* the peer's half */
    enum cm_client_phase phase;
    uint64_t since_ms;
};

struct world {
    struct cm_clients clients;
    struct peer peers[CLIENTS];
    uint64_t now_ms;
};

static int open_peer(struct world *world, struct peer *peer) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, peer->ends), 0);
    int err = cm_client_new(&world->clients, peer->ends[0], world->now_ms, &peer->client);
    if (err) {
        close(peer->ends[0]);
        close(peer->ends[1]);
        peer->client = NULL;
        return err;
    }
    peer->phase = CM_CLIENT_HEADING;
    peer->since_ms = world->now_ms;
    peer->closed = false;
    return 0;
}

static void close_peer(struct world *world, struct peer *peer) {
    cm_client_free(&world->clients, peer->client);
    close(peer->ends[0]);
    close(peer->ends[1]);
    peer->client = NULL;
}

static void close_all(struct world *world) {
    for (size_t i = 0; i < CLIENTS; i++)
        if (world->peers[i].client)
            close_peer(world, &world->peers[i]);
    assert_int_equal(world->clients.count, 0);
}

static void close_half(struct peer *peer) {
    shutdown(peer->ends[1], SHUT_WR);
    peer->closed = true;
}

/* Whether the peer sees the end. */
static bool is_ended(const struct peer *peer) {
    char byte;
    ssize_t got = recv(peer->ends[1], &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    assert_true(got == 0 || (got < 0 && errno == EAGAIN));
    return got == 0;
}

static uint64_t limit_ms(const struct peer *peer) {
    static const uint64_t limits_ms[CM_CLIENT_PHASES] = {[CM_CLIENT_HEADING] = HEADER_MS,
                                                         [CM_CLIENT_RESTING] = CM_CLIENTS_CHECK_MS,
                                                         [CM_CLIENT_IDLE] = REST_MS};
    return limits_ms[peer->phase];
}

static void check(const struct world *world) {
    uint64_t due_ms = UINT64_MAX;
    size_t count = 0;
    for (size_t i = 0; i < CLIENTS; i++) {
        const struct peer *peer = &world->peers[i];
        if (!peer->client)
            continue;
        count++;
        assert_int_equal(peer->client->phase, peer->phase);
        assert_int_equal(is_ended(peer), peer->phase == CM_CLIENT_ENDING);
        if (limit_ms(peer) && peer->since_ms + limit_ms(peer) < due_ms)
            due_ms = peer->since_ms + limit_ms(peer);
    }
    assert_int_equal(world->clients.count, count);
    assert_true(cm_clients_due_ms(&world->clients) == due_ms);
}

static void enter(struct world *world, struct peer *peer, enum cm_client_phase phase) {
    cm_client_enter(&world->clients, peer->client, phase, world->now_ms);
    if (peer->phase == CM_CLIENT_ENDING)
        return;
    peer->phase = phase;
    peer->since_ms = world->now_ms;
}

static void expire(struct world *world) {
    cm_clients_expire(&world->clients, world->now_ms);
    for (size_t i = 0; i < CLIENTS; i++) {
        struct peer *peer = &world->peers[i];
        if (!peer->client || !limit_ms(peer) || world->now_ms < peer->since_ms + limit_ms(peer))
            continue;
        bool lives = peer->phase == CM_CLIENT_RESTING && !peer->closed;
        peer->phase = lives ? CM_CLIENT_IDLE : CM_CLIENT_ENDING;
        peer->since_ms = world->now_ms;
    }
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    static const enum cm_client_phase phases[] = {CM_CLIENT_HEADING, CM_CLIENT_RESTING, CM_CLIENT_BUSY};
    uint64_t random = 3;
    struct world world = {.now_ms = 1000};
    cm_clients_init(&world.clients, HEADER_MS, REST_MS);
    for (int i = 0; i < OPERATIONS; i++) {
        struct peer *peer = &world.peers[random_below(&random, CLIENTS)];
        size_t way = random_below(&random, 12);
        world.now_ms += random_below(&random, 5);
        if (!peer->client)
            assert_int_equal(open_peer(&world, peer), 0);
        else if (way == 0)
            close_peer(&world, peer);
        else if (way == 1)
            expire(&world);
        else if (way == 2)
            close_half(peer);
        else
            enter(&world, peer, phases[random_below(&random, 3)]);
        check(&world);
    }
    close_all(&world);
}

static void without_limits_nothing_is_ever_due(void **state) {
    (void)state;
    struct world world = {.now_ms = 1};
    cm_clients_init(&world.clients, 0, 0);
    assert_int_equal(open_peer(&world, &world.peers[0]), 0);
    assert_true(cm_clients_due_ms(&world.clients) == UINT64_MAX);
    cm_clients_expire(&world.clients, UINT64_MAX);
    enter(&world, &world.peers[0], CM_CLIENT_RESTING);
    cm_clients_expire(&world.clients, 1 + CM_CLIENTS_CHECK_MS);
    assert_int_equal(world.peers[0].client->phase, CM_CLIENT_IDLE);
    cm_clients_expire(&world.clients, UINT64_MAX);
    assert_true(cm_clients_due_ms(&world.clients) == UINT64_MAX);
    assert_false(is_ended(&world.peers[0]));
    close_all(&world);
}

static void those_without_a_request_are_dismissed(void **state) {
    (void)state;
    struct world world = {.now_ms = 1000};
    cm_clients_init(&world.clients, 0, 0);
    enum { FRESH, RESTING, BUSY, ASKING, WRITING, NEW, COUNT };
    for (int i = 0; i < COUNT; i++) {
        world.now_ms = i == NEW ? 1050 : 1000;
        assert_int_equal(open_peer(&world, &world.peers[i]), 0);
    }
    world.now_ms = 1000;
    enter(&world, &world.peers[RESTING], CM_CLIENT_RESTING);
    enter(&world, &world.peers[BUSY], CM_CLIENT_BUSY);
    world.peers[ASKING].client->owner = &world; /* its request's line has come */
    assert_int_equal(send(world.peers[WRITING].ends[1], "GET", 3, 0), 3);
    cm_clients_dismiss(&world.clients, 100, 1099);
    for (int i = 0; i < COUNT; i++)
        assert_false(is_ended(&world.peers[i]));
    cm_clients_dismiss(&world.clients, 100, 1100);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(is_ended(&world.peers[i]), i == FRESH || i == RESTING);
    close_all(&world);
}

static int without_memory(void *data) {
    (void)data;
    struct world world = {.now_ms = 1000};
    cm_clients_init(&world.clients, HEADER_MS, REST_MS);
    int err = 0;
    for (size_t i = 0; !err && i < 3; i++)
        err = open_peer(&world, &world.peers[i]);
    check(&world);
    close_all(&world);
    return err;
}

static void failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    alloc_failure_each(without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(without_limits_nothing_is_ever_due),
        cmocka_unit_test(those_without_a_request_are_dismissed),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
