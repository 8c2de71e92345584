/* The end of a loop's turn: what is posted leaves in its order, before the loop waits, whoever posts it; and
 * the loop looks, without sleeping, for what has come soon again and again. */
#include <sys/epoll.h>
#include <unistd.h>

#include "cluster/outbox.h"
#include "spec/core/test.h"

enum { ITEMS = 4, LOOK_NS = 50000000, ENOUGH = 10000, GUARD_MS = 20000 };

struct item {
    struct cm_posted posted;
    int number;
    struct item *next; /* posted by its sending */
};

static uv_loop_t loop;
static uv_timer_t guard; /* keeps the loop alive, and ends a wait that should not have been */
static bool overdue;
static struct cm_outbox outbox;
static struct item items[ITEMS];
static int sent[2 * ITEMS];
static int count;

static void on_guard(uv_timer_t *timer) {
    (void)timer;
    overdue = true;
}

static void send_item(struct cm_posted *posted) {
    struct item *item = CM_LIST_ITEM(posted, struct item, posted);
    sent[count++] = item->number;
    if (item->next)
        cm_outbox_post(&outbox, &item->next->posted);
}

static void start(uint64_t look_ns) {
    cm_outbox_open(&outbox, &loop, look_ns);
    uv_timer_init(&loop, &guard);
    uv_timer_start(&guard, on_guard, GUARD_MS, 0);
    overdue = false;
    count = 0;
    for (int i = 0; i < ITEMS; i++) {
        items[i] = (struct item){.posted.send = send_item, .number = i};
        cm_list_init(&items[i].posted.link);
    }
}

static void end(void) {
    assert_false(overdue);
    uv_close((uv_handle_t *)&guard, NULL);
    cm_outbox_close(&outbox);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void post(int number) {
    cm_outbox_post(&outbox, &items[number].posted);
}

static void test_order(void **state) {
    (void)state;
    uv_loop_init(&loop);
    start(0);
    post(2);
    post(0);
    post(3);
    post(2); /* is posted already */
    cm_outbox_withdraw(&items[3].posted);
    items[2].next = &items[1];
    assert_int_equal(count, 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    static const int expected[] = {2, 0, 1};
    assert_int_equal(count, 3);
    assert_memory_equal(sent, expected, sizeof expected);
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(count, 3);
    end();
}

static void on_prepare(uv_prepare_t *prepare) {
    uv_prepare_stop(prepare);
    post(prepare->data ? 1 : 2);
}

/* Whichever of the prepare handles are called first: what is posted behind the sending is sent before the
 * loop waits. */
static void test_posted_by_others_of_its_phase(void **state) {
    (void)state;
    uv_prepare_t first, last;
    uv_loop_init(&loop);
    uv_prepare_init(&loop, &first);
    uv_prepare_start(&first, on_prepare);
    start(0);
    uv_prepare_init(&loop, &last);
    uv_prepare_start(&last, on_prepare);
    first.data = &first;
    last.data = NULL;
    while (count < 2 && !overdue)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(count, 2);
    uv_close((uv_handle_t *)&first, NULL);
    uv_close((uv_handle_t *)&last, NULL);
    end();
}

static void on_pipe(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    char byte;
    assert_int_equal(read(*(int *)poll->data, &byte, 1), 1);
    cm_outbox_hear(&outbox);
}

static int ends[2];
static uv_poll_t reader;

static void start_look(void) {
    uv_loop_init(&loop);
    start(LOOK_NS);
    assert_int_equal(pipe(ends), 0);
    uv_poll_init(&loop, &reader, ends[0]);
    reader.data = &ends[0];
    uv_poll_start(&reader, UV_READABLE, on_pipe);
}

static void become_patient(void) {
    /* What comes soon each time makes it patient. */
    int waits = 0;
    for (; waits < ENOUGH && !cm_patience_has(&outbox.patience); waits++) {
        assert_int_equal(write(ends[1], "", 1), 1);
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_true(waits > 1 && waits < ENOUGH);
}

static void end_look(void) {
    uv_close((uv_handle_t *)&reader, NULL);
    end();
    close(ends[0]);
    close(ends[1]);
}

static void test_look(void **state) {
    (void)state;
    start_look();
    become_patient();
    /* Nothing comes: it looks as long as it may, and is no longer patient. */
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_true(outbox.looked_ns >= LOOK_NS);
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(outbox.looked_ns, 0);
    assert_false(cm_patience_has(&outbox.patience));
    end_look();
}

static uv_async_t job;

static void send_job(struct cm_posted *posted) {
    (void)posted;
    uv_async_send(&job);
}

static void on_job(uv_async_t *async) {
    (void)async;
    count++;
}

/* libuv 1.49.0 is told of other threads' jobs by an edge (EPOLLET): who takes that away while it looks has
 * the loop wait for ever. */
static void test_look_takes_nothing_away(void **state) {
    (void)state;
    start_look();
    uv_async_init(&loop, &job, on_job);
    become_patient();
    struct epoll_event edge = {.events = EPOLLIN | EPOLLET, .data.fd = loop.async_io_watcher.fd};
    assert_int_equal(epoll_ctl(uv_backend_fd(&loop), EPOLL_CTL_MOD, edge.data.fd, &edge), 0);
    uv_timer_start(&guard, on_guard, 1000, 0);
    count = 0;
    items[0].posted.send = send_job;
    post(0);
    while (count == 0 && !overdue)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(count, 1);
    uv_close((uv_handle_t *)&job, NULL);
    end_look();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_posted_by_others_of_its_phase),
        cmocka_unit_test(test_look),
        cmocka_unit_test(test_look_takes_nothing_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
