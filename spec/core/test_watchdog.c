/* Who is asked for a traceback, and who is killed, by a clock of the test's own; the processes are real ones.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "cluster/watchdog.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { LIMIT_MS = 2000, SEATS = 4, SEAT = 2, OTHER_SEAT = 3, ASKED_CODE = 7 };

struct world {
    struct cm_memory memory;
    struct cm_supervisor supervisor;
    struct cm_process *seats[SEATS + 1];
    struct cm_process processes[SEATS + 1];
    struct cm_watchdog watchdog;
    uint64_t now_ms;
};

static void start(struct world *world) {
    *world = (struct world){.now_ms = 1000};
    world->supervisor = (struct cm_supervisor){.memory = &world->memory, .seats = world->seats};
    assert_int_equal(cm_segment_create(CM_SEGMENT_LEAST_BYTES, SEATS, &world->memory.segment), 0);
    assert_int_equal(cm_watchdog_init(&world->watchdog, &world->supervisor, LIMIT_MS), 0);
    world->watchdog.looked_ms = world->now_ms;
}

static void end(struct world *world) {
    for (int i = 0; i <= SEATS; i++) {
        if (world->seats[i]) {
            kill(world->seats[i]->child.pid, SIGKILL);
            waitpid(world->seats[i]->child.pid, NULL, 0);
        }
        free(world->processes[i].last_error);
    }
    cm_watchdog_deinit(&world->watchdog);
    cm_segment_close(&world->memory.segment);
}

static void on_ask(int number) {
    (void)number;
    _exit(ASKED_CODE);
}

/* A process that does nothing until it is asked, or not even then. */
static struct cm_process *sit(struct world *world, uint32_t seat, bool answers) {
    sigset_t asking, before;
    sigemptyset(&asking);
    sigaddset(&asking, CM_WATCHDOG_SIGNAL);
    sigprocmask(SIG_BLOCK, &asking, &before);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(CM_WATCHDOG_SIGNAL, answers ? on_ask : SIG_IGN);
        sigprocmask(SIG_SETMASK, &before, NULL);
        for (;;)
            pause();
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    struct cm_process *process = &world->processes[seat];
    free(process->last_error);
    *process = (struct cm_process){.id = seat, .slot = seat, .seat = seat};
    process->child.pid = pid;
    world->seats[seat] = process;
    atomic_store(&cm_segment_seat(&world->memory.segment, seat)->beat, 0);
    return process;
}

static void beat(struct world *world, uint32_t seat) {
    atomic_fetch_add(&cm_segment_seat(&world->memory.segment, seat)->beat, 1);
}

static void look_after(struct world *world, uint64_t passed_ms) {
    world->now_ms += passed_ms;
    cm_watchdog_look(&world->watchdog, world->now_ms);
}

/* Looks on time until that much has passed. */
static void pass(struct world *world, uint64_t ms) {
    for (; ms > world->watchdog.look_ms; ms -= world->watchdog.look_ms)
        look_after(world, world->watchdog.look_ms);
    look_after(world, ms);
}

static void who_does_not_move_is_asked_when_the_time_is_over(void **state) {
    (void)state;
    struct world world;
    start(&world);
    struct cm_process *process = sit(&world, SEAT, true), *other = sit(&world, OTHER_SEAT, true);
    beat(&world, SEAT);
    pass(&world, world.watchdog.look_ms);
    uint64_t limit_ms = LIMIT_MS + cm_watchdog_beat_ms(LIMIT_MS);
    for (uint64_t passed_ms = 0; passed_ms + 100 < limit_ms; passed_ms += 100) {
        beat(&world, OTHER_SEAT);
        look_after(&world, 100);
        assert_false(process->hung);
    }
    beat(&world, OTHER_SEAT);
    look_after(&world, 100);
    assert_true(process->hung);
    assert_string_equal(process->last_error, "has not answered for 2000 ms (--watchdog)");
    assert_false(other->hung);
    int status;
    assert_int_equal(waitpid(process->child.pid, &status, 0), process->child.pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == ASKED_CODE);
    world.seats[SEAT] = NULL;
    pass(&world, 100);
    end(&world);
}

static void who_is_asked_and_stays_is_killed_whether_it_moves_or_not(void **state) {
    (void)state;
    for (int moves = 0; moves <= 1; moves++) {
        struct world world;
        start(&world);
        struct cm_process *process = sit(&world, SEAT, false);
        beat(&world, SEAT);
        pass(&world, 2500);
        assert_true(process->hung);
        assert_int_equal(waitpid(process->child.pid, NULL, WNOHANG), 0);
        for (int i = 0; i < 10; i++) {
            if (moves)
                beat(&world, SEAT);
            pass(&world, 100);
        }
        int status;
        assert_int_equal(waitpid(process->child.pid, &status, 0), process->child.pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        world.seats[SEAT] = NULL;
        end(&world);
    }
}

static void nobody_is_asked_who_moves_or_has_not_begun_or_is_dead(void **state) {
    (void)state;
    struct world world;
    start(&world);
    struct cm_process *moves = sit(&world, SEAT, true), *unborn = sit(&world, OTHER_SEAT, true);
    for (int i = 0; i < 50; i++) {
        beat(&world, SEAT);
        pass(&world, LIMIT_MS);
    }
    assert_false(moves->hung);
    assert_false(unborn->hung);
    moves->dead = true;
    pass(&world, LIMIT_MS);
    pass(&world, LIMIT_MS);
    assert_false(moves->hung);
    end(&world);
}

static void who_comes_after_somebody_begins_anew(void **state) {
    (void)state;
    struct world world;
    start(&world);
    struct cm_process *first = sit(&world, SEAT, true);
    beat(&world, SEAT);
    pass(&world, LIMIT_MS);
    assert_false(first->hung);
    kill(first->child.pid, SIGKILL);
    waitpid(first->child.pid, NULL, 0);
    struct cm_process *second = sit(&world, SEAT, true);
    beat(&world, SEAT); /* to the same number */
    pass(&world, LIMIT_MS);
    assert_false(second->hung);
    pass(&world, LIMIT_MS);
    assert_true(second->hung);
    end(&world);
}

static void time_without_looks_does_not_count(void **state) {
    (void)state;
    struct world world;
    start(&world);
    struct cm_process *process = sit(&world, SEAT, true);
    beat(&world, SEAT);
    pass(&world, 1);
    for (int i = 0; i < 4; i++) {
        look_after(&world, 1000000);
        assert_false(process->hung);
    }
    pass(&world, LIMIT_MS);
    assert_true(process->hung);
    end(&world);
}

static void beats_come_several_times_in_any_limit(void **state) {
    (void)state;
    for (uint32_t limit_ms = 1; limit_ms < 1000000; limit_ms += limit_ms / 3 + 1) {
        uint32_t beat_ms = cm_watchdog_beat_ms(limit_ms);
        assert_true(beat_ms >= 1 && beat_ms <= 1000 && (beat_ms <= limit_ms / 8 || beat_ms == 1));
    }
}

static int without_memory(void *data) {
    struct world *world = data;
    struct cm_watchdog watchdog;
    int err = cm_watchdog_init(&watchdog, &world->supervisor, LIMIT_MS);
    cm_watchdog_deinit(&watchdog);
    return err;
}

static void failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    struct world world;
    start(&world);
    alloc_failure_each(without_memory, &world);
    struct cm_watchdog off;
    assert_int_equal(cm_watchdog_init(&off, &world.supervisor, 0), 0);
    assert_null(off.watched);
    end(&world);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_does_not_move_is_asked_when_the_time_is_over),
        cmocka_unit_test(who_is_asked_and_stays_is_killed_whether_it_moves_or_not),
        cmocka_unit_test(nobody_is_asked_who_moves_or_has_not_begun_or_is_dead),
        cmocka_unit_test(who_comes_after_somebody_begins_anew),
        cmocka_unit_test(time_without_looks_does_not_count),
        cmocka_unit_test(beats_come_several_times_in_any_limit),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests_name("watchdog", tests, NULL, NULL);
}
