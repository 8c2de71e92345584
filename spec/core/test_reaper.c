/* The reaper, on seats of children that have ended: what it frees, what it marks, what it leaves alone. What
 * a death can leave behind at each step is hunt_deaths.c's; who stands still, hunt_stops.c's. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/append.h"
#include "memory/reaper.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"

static struct cm_segment segment;
static struct cm_cleaner cleaner;
static struct cm_reaper reaper;
static struct cm_participant dead; /* acts through this process, and ends as a child */
static pid_t child;

/* A child that has ended and has not been waited for. */
static pid_t ended_child(void) {
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    return pid;
}

static int set_up(void **state) {
    (void)state;
    open_segment(&segment, 16 << 20, 4);
    assert_int_equal(cm_cleaner_init(&cleaner, &segment), 0);
    assert_int_equal(cm_reaper_init(&reaper, &segment, &cleaner), 0);
    join(&dead, &segment);
    child = ended_child();
    cm_seat_assign(&segment, dead.id, child);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    waitpid(child, NULL, 0);
    cm_participant_deinit(&dead);
    cm_reaper_deinit(&reaper);
    cm_cleaner_deinit(&cleaner);
    cm_segment_close(&segment);
    return 0;
}

static uint64_t word_of(uint32_t group) {
    return atomic_load(&segment.groups[group].word);
}

static bool is_marked(uint32_t chunk) {
    return cleaner.marks[chunk / 64] >> chunk % 64 & 1;
}

static void its_group_is_free_at_the_next_even_number(void **state) {
    (void)state;
    struct cm_section section;
    cm_section_enter(&dead, 5, &section);
    cm_reaper_repair(&reaper, dead.id);
    assert_int_equal(word_of(5), cm_word(2, 0));
    cm_section_enter(&dead, 5, &section);
    cm_section_shut(&dead, &section);
    assert_int_equal(word_of(5), cm_word(3, dead.id));
    cm_reaper_repair(&reaper, dead.id);
    assert_int_equal(word_of(5), cm_word(4, 0));
}

static void a_group_of_somebody_else_is_left_alone(void **state) {
    (void)state;
    struct cm_participant other;
    join(&other, &segment);
    struct cm_section section;
    cm_section_enter(&dead, 5, &section);
    cm_section_leave(&section);
    cm_section_enter(&other, 5, &section); /* the group that the dead one's section still names */
    cm_reaper_repair(&reaper, dead.id);
    assert_int_equal(word_of(5), cm_word(0, other.id));
    cm_section_leave(&section);
    part(&other);
}

static void append_something(size_t len) {
    static uint8_t bytes[2 << 20];
    uint64_t offset;
    cm_append_begin(&dead);
    struct cm_bytes key = cm_bytes_of("key");
    assert_int_equal(cm_append_entry(&dead, CM_KIND_BYTES, 1, key, (struct cm_bytes){bytes, len}, 0, &offset),
                     0);
}

/* Also of an operation in progress, which keeps several open. */
static void its_chunks_are_closed_and_evacuated(void **state) {
    (void)state;
    append_something(1000000);
    struct cm_chunk_census before, after;
    cm_chunk_count(&segment, &before);
    assert_true(dead.appender.held_count > 10);
    cm_reaper_repair(&reaper, dead.id);
    uint32_t marked = cleaner.marked;
    assert_true(marked > 10);
    for (uint32_t i = 0; i < segment.layout.chunks; i++) {
        struct cm_chunk_word word = chunk_word(&segment, i);
        assert_false(word.owner == dead.id);
        assert_true(!is_marked(i) || word.state == CM_CHUNK_CLOSED);
    }
    cm_reaper_repair(&reaper, dead.id); /* again: nothing is left to do */
    assert_int_equal(cleaner.marked, marked);
    while (cm_cleaner_run(&cleaner) != CM_CLEANED_ENOUGH) {
    }
    cm_chunk_count(&segment, &after);
    assert_int_equal(after.live_bytes, 0);
    assert_int_equal(cleaner.marked, 0);
    assert_true(after.free > before.free);
}

static void a_hole_that_it_had_claimed_is_one_still(void **state) {
    (void)state;
    uint32_t index = segment.layout.chunks - 1;
    uint64_t from = cm_chunk_load(&segment, index);
    struct cm_chunk_word word = {.live_bytes = segment.layout.chunk_bytes,
                                 .state = CM_CHUNK_OPEN,
                                 .hole = true,
                                 .owner = dead.id,
                                 .generation = 7};
    atomic_store(&segment.header->reached, index + 1);
    assert_true(cm_chunk_swap(&segment, index, from, word, true));
    atomic_store(&segment.chunks[index].used, 4711); /* of the chunk's last life */
    cm_reaper_repair(&reaper, dead.id);
    word = chunk_word(&segment, index);
    assert_true(cm_chunk_is_free(&word) && word.hole);
    assert_int_equal(word.generation, 7);
    assert_false(is_marked(index));
}

static void what_it_was_giving_up_is_evacuated(void **state) {
    (void)state;
    append_something(170000);
    assert_int_equal(dead.appender.held_count, 2);
    struct cm_record *entry = cm_record_at(&segment, cm_segment_chunk_at(&segment, dead.appender.held[0]));
    uint64_t first = atomic_load(entry->payload);
    uint32_t chunks[3] = {dead.appender.held[0], dead.appender.held[1], dead.appender.chunk};
    cm_append_commit(&dead);
    cm_append_close(&dead);
    atomic_store(&dead.seat->retiring, cm_segment_chunk_at(&segment, chunks[0]));
    atomic_store(&dead.seat->retiring_rest, first);
    cm_reaper_repair(&reaper, dead.id);
    for (int i = 0; i < 3; i++)
        assert_true(is_marked(chunks[i]));
    assert_int_equal(atomic_load(&dead.seat->retiring), 0);
}

static void a_list_that_leads_nowhere_ends(void **state) {
    (void)state;
    append_something(100000);
    cm_append_commit(&dead);
    cm_append_close(&dead);
    uint64_t at = cm_segment_chunk_at(&segment, 30);
    atomic_store(&segment.header->reached, 31);
    assert_int_equal(cm_segment_back(&segment, at, segment.layout.chunk_bytes), 0);
    atomic_store(&cm_record_at(&segment, at)->next, at); /* in a circle */
    atomic_store(&dead.seat->retiring, at);
    atomic_store(&dead.seat->retiring_rest, at);
    cm_reaper_repair(&reaper, dead.id);
    atomic_store(&dead.seat->retiring, UINT64_MAX);
    atomic_store(&dead.seat->retiring_rest, UINT64_MAX - 7);
    cm_reaper_repair(&reaper, dead.id);
    assert_int_equal(cleaner.marked, 1);
}

static void a_buried_seat_is_free_and_keeps_its_count(void **state) {
    (void)state;
    struct cm_section section;
    cm_section_enter(&dead, 5, &section);
    cm_hazard_set(&dead, 3);
    atomic_store(&dead.seat->waiting_on, 6);
    atomic_store(&dead.seat->entries, INT64_C(12) * CM_COUNTS_ONE);
    uint64_t count = atomic_load(&dead.seat->section) >> 32;
    cm_reaper_bury(&reaper, dead.id);
    assert_int_equal(atomic_load(&dead.seat->pid), 0);
    assert_int_equal(atomic_load(&dead.seat->section) >> 32, count);
    assert_int_equal(atomic_load(&dead.seat->waiting_on), 0);
    assert_false(cm_hazard_any(&segment, 3));
    assert_int_equal(cm_table_entries(&segment), 12);
    struct cm_participant next;
    join(&next, &segment);
    assert_int_equal(next.id, dead.id);
    assert_int_equal(next.count, count);
    part(&next);
}

/* Its number may be somebody else's by now. */
static void who_has_ended_is_repaired_and_not_killed(void **state) {
    (void)state;
    for (int taken = 0; taken < 2; taken++) {
        struct cm_section section;
        cm_section_enter(&dead, 5, &section);
        if (taken)
            waitpid(child, NULL, 0);
        for (uint64_t now_ms = 1000; now_ms <= 3000; now_ms += 250)
            cm_reaper_look(&reaper, now_ms);
        assert_int_equal(cm_word_owner(word_of(5)), 0);
    }
}

static int init_and_deinit(void *data) {
    (void)data;
    struct cm_reaper made;
    int err = cm_reaper_init(&made, &segment, &cleaner);
    if (!err)
        cm_reaper_deinit(&made);
    return err;
}

static void failed_allocations_leave_nothing(void **state) {
    (void)state;
    alloc_failure_each(init_and_deinit, NULL);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(its_group_is_free_at_the_next_even_number), TEST(a_group_of_somebody_else_is_left_alone),
        TEST(its_chunks_are_closed_and_evacuated),       TEST(a_hole_that_it_had_claimed_is_one_still),
        TEST(what_it_was_giving_up_is_evacuated),        TEST(a_list_that_leads_nowhere_ends),
        TEST(a_buried_seat_is_free_and_keeps_its_count), TEST(who_has_ended_is_repaired_and_not_killed),
        TEST(failed_allocations_leave_nothing),
    };
    return cmocka_run_group_tests_name("reaper", tests, NULL, NULL);
}
