/* The end of a loop's turn: what is posted leaves in its order, before the loop waits, whoever posts it; and
 * the loop looks, without sleeping, for what has come soon again and again. */
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cluster/outbox.h"
#include "spec/core/test.h"

enum {
    ITEMS = 4,
    SOURCES = 8,
    RECENT_MOST = 4,
    TAKEN_MOST = 16,
    LOOKS = 8,
    LOOK_NS = 50000000,
    ENOUGH = 10000,
    GUARD_MS = 20000
};

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
static _Atomic uint32_t core;

static int yields;
static uint64_t yield_ns; /* what each of them takes by the test's own clock */
static uint64_t clock_ns; /* that clock; 0: it is the real one */

/* Instead of the libraries'. */
int sched_yield(void) {
    yields++;
    clock_ns += clock_ns ? yield_ns : 0;
    return 0;
}

uint64_t uv_hrtime(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return clock_ns ? clock_ns : (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

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
    core = 0;
    cm_outbox_open(&outbox, &loop, look_ns, &core);
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

struct source {
    struct cm_source source;
    int has;   /* what can be taken */
    int asked; /* how often it was looked at */
    int taken;
    void (*on_taken)(struct source *source);
};

static struct source sources[SOURCES];

static bool take_one(struct cm_source *cm_source) {
    struct source *source = CM_LIST_ITEM(cm_source, struct source, source);
    source->asked++;
    if (source->has == 0)
        return false;
    source->has--;
    source->taken++;
    cm_outbox_hear(&outbox, cm_source);
    if (source->on_taken)
        source->on_taken(source);
    return true;
}

static int ends[2];
static uv_poll_t reader;

static int piped;

static void on_pipe(uv_poll_t *poll, int status, int events) {
    (void)poll;
    (void)status;
    (void)events;
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    piped++;
    cm_outbox_hear(&outbox, &sources[0].source);
}

static void start_look(void) {
    uv_loop_init(&loop);
    start(LOOK_NS);
    for (int i = 0; i < SOURCES; i++) {
        sources[i] = (struct source){.source.take = take_one};
        cm_list_init(&sources[i].source.link);
    }
    assert_int_equal(pipe(ends), 0);
    uv_poll_init(&loop, &reader, ends[0]);
    uv_poll_start(&reader, UV_READABLE, on_pipe);
}

/* What comes soon each time makes it patient, for so many looks. */
static void become_patient(int looks) {
    int waits = 0;
    for (; waits < ENOUGH && outbox.patience.saved_ns < (int64_t)looks * LOOK_NS; waits++) {
        assert_int_equal(write(ends[1], "", 1), 1);
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_true(waits > 1 && waits < ENOUGH);
}

static void turn(void) {
    uv_run(&loop, UV_RUN_NOWAIT);
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
    become_patient(1);
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
    become_patient(1);
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

/* What comes from where something came of late is taken without a turn of the loop, and what that makes it
 * post has left before the next look. */
static void answer(struct source *source) {
    assert_int_equal(count, source->taken - 1);
    post(0);
}

static void test_takes_while_it_looks(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    sources[0].has = 3;
    sources[0].on_taken = answer;
    turn();
    assert_int_equal(sources[0].taken, 3);
    assert_int_equal(count, 3);
    end_look();
}

static void go_on(struct source *source) {
    source->has = 1;
}

/* Whoever sends without end does not keep the loop from going round; nor does that sleep meanwhile. */
static void test_goes_round(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    sources[0].has = 1;
    sources[0].on_taken = go_on;
    turn();
    assert_int_equal(sources[0].taken, TAKEN_MOST);
    for (int i = 2; i < 10; i++) {
        uv_run(&loop, UV_RUN_ONCE);
        assert_int_equal(sources[0].taken, i * TAKEN_MOST);
    }
    sources[0].on_taken = NULL;
    end_look();
}

static void call_loop(struct source *source) {
    source->has = 1;
    assert_int_equal(write(ends[1], "", 1), 1);
}

/* What else has come does not wait for more than one. */
static void test_leaves_what_has_come_to_the_loop(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    sources[0].has = 1;
    sources[0].on_taken = call_loop;
    for (int i = 1; i < 10; i++) {
        int read_before = piped;
        uv_run(&loop, UV_RUN_ONCE);
        assert_int_equal(sources[0].taken, i);
        assert_int_equal(piped, read_before + 1);
    }
    sources[0].on_taken = NULL;
    end_look();
}

static void on_due(uv_timer_t *timer) {
    (void)timer;
    count++;
}

static void start_due(struct source *source) {
    source->has = 1;
    uint64_t since_ns = uv_hrtime();
    uv_timer_start(&guard, on_due, 1, 0);
    while (uv_hrtime() - since_ns < 5000000) {
    }
}

static void test_leaves_when_a_timer_is_due(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    sources[0].has = 1;
    sources[0].on_taken = start_due;
    turn();
    assert_int_equal(sources[0].taken, 1);
    turn();
    assert_int_equal(count, 1);
    end_look();
}

static uint64_t seen_ms;

static void see_time(struct source *source) {
    (void)source;
    seen_ms = uv_now(&loop);
}

static void compute(struct cm_posted *posted) {
    (void)posted;
    uint64_t since_ns = uv_hrtime();
    while (uv_hrtime() - since_ns < 20000000) {
    }
}

/* Who starts a timer when something is taken counts from then, not from the beginning of the turn. */
static void test_knows_the_time(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    items[0].posted.send = compute;
    post(0);
    sources[0].has = 1;
    sources[0].on_taken = see_time;
    uv_update_time(&loop);
    uint64_t before_ms = uv_now(&loop);
    turn();
    assert_int_equal(sources[0].taken, 1);
    assert_true(seen_ms >= before_ms + 19);
    end_look();
}

static void close_it(struct source *source) {
    source->has = 1;
    cm_outbox_close(&outbox);
}

static void test_is_closed_while_it_looks(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    sources[0].has = 1;
    sources[0].on_taken = close_it;
    turn();
    assert_int_equal(sources[0].taken, 1);
    uv_close((uv_handle_t *)&reader, NULL);
    uv_close((uv_handle_t *)&guard, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    close(ends[0]);
    close(ends[1]);
}

static int first_taken;

static void note_first(struct source *source) {
    if (!first_taken)
        first_taken = (int)(source - sources);
}

static void test_takes_first_from_the_longest_silent(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    first_taken = 0;
    for (int i = 1; i <= 3; i++) {
        sources[i].has = 1;
        sources[i].on_taken = note_first;
        cm_outbox_hear(&outbox, &sources[i].source);
    }
    cm_outbox_hear(&outbox, &sources[1].source);
    turn();
    assert_int_equal(sources[1].taken + sources[2].taken + sources[3].taken, 3);
    assert_int_equal(first_taken, 2);
    for (int i = 1; i <= 3; i++)
        cm_outbox_forget(&outbox, &sources[i].source);
    end_look();
}

/* It remembers the last few; each of them is looked at, and one that is forgotten is not. */
static void test_remembers_a_few_sources(void **state) {
    (void)state;
    start_look();
    become_patient(1);
    sources[0].asked = 0;
    for (int i = 0; i < SOURCES; i++)
        cm_outbox_hear(&outbox, &sources[i].source);
    cm_outbox_hear(&outbox, &sources[SOURCES - 1].source);
    cm_outbox_forget(&outbox, &sources[SOURCES - 2].source);
    cm_outbox_forget(&outbox, &sources[SOURCES - 2].source);
    turn();
    for (int i = 0; i < SOURCES; i++) {
        bool remembered = i >= SOURCES - RECENT_MOST && i != SOURCES - 2;
        assert_int_equal(sources[i].asked > 0, remembered);
        cm_outbox_forget(&outbox, &sources[i].source);
    }
    assert_true(cm_list_empty(&outbox.recent));
    end_look();
}

/* --- cores --- */

static cpu_set_t all_cores;
static uint32_t here;

static void stay_here(void) {
    cpu_set_t one;
    assert_int_equal(sched_getaffinity(0, sizeof all_cores, &all_cores), 0);
    int cpu = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    here = (uint32_t)cpu + 1;
}

static void leave_here(void) {
    assert_int_equal(sched_setaffinity(0, sizeof all_cores, &all_cores), 0);
}

static void post_to(int number, const struct source *to) {
    items[number].posted.to = &to->source;
    post(number);
}

static bool looks(void) {
    turn();
    return outbox.looked_ns > 0;
}

/* Who was asked, and ran last on this core, is not waited for awake. */
static void test_leaves_its_core_to_who_was_asked(void **state) {
    (void)state;
    _Atomic uint32_t theirs = 0;
    stay_here();
    start_look();
    become_patient(LOOKS);
    assert_int_equal(core & ~CM_CORE_SLEEPS, here);
    sources[1].source.core = &theirs;
    post_to(0, &sources[1]);
    theirs = here | CM_CORE_SLEEPS;
    assert_false(looks());
    theirs = 0;
    assert_true(looks());
    theirs = here + 1;
    assert_true(looks());
    theirs = here;
    assert_false(looks());
    /* Nor is who has not been asked of any interest. */
    cm_outbox_forget(&outbox, &sources[1].source);
    assert_true(looks());
    end_look();
    leave_here();
}

static void see_core(struct cm_posted *posted) {
    (void)posted;
    sent[count++] = (int)(core & CM_CORE_SLEEPS ? -(core & ~CM_CORE_SLEEPS) : core);
}

/* It says where it is, and before it sends, whether it is about to sleep. */
static void test_says_where_it_is(void **state) {
    (void)state;
    stay_here();
    start_look();
    items[0].posted.send = see_core;
    turn();
    turn();
    assert_int_equal(core, here | CM_CORE_SLEEPS);
    post(0);
    turn();
    become_patient(2);
    post(0);
    turn();
    /* It has looked in vain. */
    assert_int_equal(core, here | CM_CORE_SLEEPS);
    const int expected[] = {-(int)here, (int)here};
    assert_int_equal(count, 2);
    assert_memory_equal(sent, expected, sizeof expected);
    cm_outbox_hear(&outbox, &sources[0].source);
    assert_int_equal(core, here);
    end_look();
    leave_here();
}

enum { EARNING = 8 };

/* Heard `heard`, it sends to the others that are named, in a turn. How often it has conceded. */
static int concessions(struct source *heard, const struct source *first, const struct source *second) {
    int before = yields;
    count = 0;
    if (heard)
        cm_outbox_hear(&outbox, &heard->source);
    post_to(0, first);
    if (second)
        post_to(1, second);
    turn();
    return yields - before;
}

static void test_concedes(void **state) {
    (void)state;
    _Atomic uint32_t cores[3];
    struct source *heard = &sources[0], *first = &sources[1], *second = &sources[2];
    stay_here();
    start_look();
    outbox.patience.most_ns = 0; /* to look yields, too */
    clock_ns = 1;
    for (int i = 0; i < 3; i++) {
        cores[i] = here | CM_CORE_SLEEPS;
        sources[i].source.core = &cores[i];
    }
    for (int i = 0; i < EARNING; i++)
        assert_int_equal(concessions(heard, first, NULL), 0);
    /* To who was heard, stopped in the midst of sending. */
    assert_int_equal(concessions(heard, first, NULL), 1);
    assert_int_equal(concessions(NULL, first, NULL), 0);
    /* To who was woken last. */
    assert_int_equal(concessions(heard, first, second), 2);
    assert_int_equal(concessions(NULL, first, second), 1);
    assert_int_equal(concessions(heard, first, heard), 2);
    /* Not one for each of many. */
    post_to(2, first);
    post_to(3, second);
    assert_int_equal(concessions(heard, first, second), 2);
    /* Nor to who was heard in another turn, or is gone. */
    cm_outbox_hear(&outbox, &heard->source);
    turn();
    assert_int_equal(concessions(NULL, first, NULL), 0);
    cm_outbox_hear(&outbox, &heard->source);
    cm_outbox_forget(&outbox, &heard->source);
    assert_int_equal(concessions(NULL, first, NULL), 0);
    /* Who was heard gets its answer soonest if it does not sleep before. */
    assert_int_equal(concessions(heard, heard, NULL), 0);
    /* Not where it would be of no use: elsewhere; awake still; who is woken is not asleep; nobody knows. */
    cores[0] = (here + 1) | CM_CORE_SLEEPS;
    assert_int_equal(concessions(heard, first, NULL), 0);
    cores[0] = here;
    assert_int_equal(concessions(heard, first, NULL), 0);
    cores[0] = here | CM_CORE_SLEEPS;
    cores[1] = here + 1;
    assert_int_equal(concessions(heard, first, NULL), 0);
    cores[1] = 0;
    assert_int_equal(concessions(heard, first, NULL), 0);
    first->source.core = NULL;
    assert_int_equal(concessions(heard, first, NULL), 0);
    clock_ns = 0;
    end_look();
    leave_here();
}

/* In a child of the process there is neither its own word nor that of others. */
static void test_touches_nothing_when_it_has_stopped(void **state) {
    (void)state;
    void *page = mmap(NULL, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(page, MAP_FAILED);
    start_look();
    become_patient(1);
    sources[0].source.core = sources[1].source.core = outbox.core = page;
    cm_outbox_stop_looking(&outbox);
    assert_int_equal(concessions(&sources[0], &sources[1], &sources[0]), 0);
    assert_int_equal(count, 2);
    end_look();
    munmap(page, 1);
}

/* Where a concession takes long, for there are others that want the core, it is not made again soon. */
static void test_concedes_little_where_it_takes_long(void **state) {
    (void)state;
    _Atomic uint32_t sleeping;
    stay_here();
    start_look();
    outbox.patience.most_ns = 0;
    sleeping = here | CM_CORE_SLEEPS;
    sources[0].source.core = sources[1].source.core = &sleeping;
    clock_ns = 1;
    yield_ns = 1000000;
    int conceded = 0;
    enum { TURNS = 1000 };
    for (int i = 0; i < TURNS; i++)
        conceded += concessions(&sources[0], &sources[1], NULL);
    assert_in_range(conceded, 2, TURNS / 100);
    yield_ns = clock_ns = 0;
    end_look();
    leave_here();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_posted_by_others_of_its_phase),
        cmocka_unit_test(test_look),
        cmocka_unit_test(test_look_takes_nothing_away),
        cmocka_unit_test(test_takes_while_it_looks),
        cmocka_unit_test(test_goes_round),
        cmocka_unit_test(test_leaves_what_has_come_to_the_loop),
        cmocka_unit_test(test_leaves_when_a_timer_is_due),
        cmocka_unit_test(test_knows_the_time),
        cmocka_unit_test(test_is_closed_while_it_looks),
        cmocka_unit_test(test_takes_first_from_the_longest_silent),
        cmocka_unit_test(test_remembers_a_few_sources),
        cmocka_unit_test(test_leaves_its_core_to_who_was_asked),
        cmocka_unit_test(test_says_where_it_is),
        cmocka_unit_test(test_concedes),
        cmocka_unit_test(test_touches_nothing_when_it_has_stopped),
        cmocka_unit_test(test_concedes_little_where_it_takes_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
