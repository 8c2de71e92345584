/* Seats, sections, hazards, the barrier and the bell; with threads, each a participant of its own. */
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"

enum { BYTES = 1 << 20, SEATS = 6, THREADS = 4 };

static struct cm_segment segment;

static int open_one(void **state) {
    (void)state;
    open_segment(&segment, BYTES, SEATS);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    cm_segment_close(&segment);
    return 0;
}

static int nothing_is_left(void **state) {
    (void)state;
    return alloc_failure_alive() != 0;
}

static uint64_t section_of(const struct cm_participant *participant) {
    return atomic_load(&participant->seat->section);
}

static uint64_t word_of(uint32_t group) {
    return atomic_load(&segment.groups[group].word);
}

/* --- seats */

static void seats_are_taken_and_given_back(void **state) {
    (void)state;
    uint32_t id;
    for (uint32_t i = 2; i <= SEATS; i++) {
        assert_int_equal(cm_seat_take(&segment, &id), 0);
        assert_int_equal(id, i); /* 1 is the master's */
    }
    assert_int_equal(cm_seat_take(&segment, &id), CM_E_NOMEMORY);
    cm_seat_assign(&segment, 4, 1234);
    assert_int_equal(atomic_load(&cm_segment_seat(&segment, 4)->pid), 1234);
    assert_int_equal(cm_seat_take(&segment, &id), CM_E_NOMEMORY);
    cm_seat_give_back(&segment, 4);
    assert_int_equal(cm_seat_take(&segment, &id), 0);
    assert_int_equal(id, 4);
    assert_int_equal(cm_seat_take(&segment, &id), CM_E_NOMEMORY);
}

static void a_seat_keeps_its_count_from_life_to_life(void **state) {
    (void)state;
    struct cm_participant participant;
    struct cm_section section;
    for (uint64_t life = 0; life < 3; life++) {
        join(&participant, &segment);
        assert_int_equal(participant.id, 2);
        for (uint64_t i = 1; i <= 10; i++) {
            cm_section_enter(&participant, 7, &section);
            assert_int_equal(section_of(&participant), (life * 10 + i) << 32 | 7);
            cm_section_leave(&section);
        }
        part(&participant);
    }
}

/* --- sections */

static void a_section_moves_the_sequence_by_what_it_publishes(void **state) {
    (void)state;
    struct cm_participant participant;
    struct cm_section section;
    join(&participant, &segment);
    cm_section_enter(&participant, 5, &section);
    assert_int_equal(section.line, 5);
    assert_int_equal(section.sequence, 0);
    assert_int_equal(word_of(5), cm_word(0, participant.id));
    cm_section_shut(&participant, &section);
    assert_int_equal(word_of(5), cm_word(1, participant.id));
    cm_section_publish(&participant, &section);
    assert_int_equal(word_of(5), cm_word(2, participant.id));
    cm_section_publish(&participant, &section);
    cm_section_leave(&section);
    assert_int_equal(word_of(5), cm_word(4, 0));
    cm_section_enter(&participant, 5, &section);
    assert_int_equal(section.sequence, 4);
    cm_section_leave(&section);
    assert_int_equal(word_of(5), cm_word(4, 0)); /* nothing published */
    part(&participant);
}

struct counting {
    struct cm_participant participant;
    uint64_t *count; /* plain: the section alone keeps the threads apart */
};

enum { COUNTS = 20000 };

static const char *count_up(void *data) {
    struct counting *counting = data;
    for (int i = 0; i < COUNTS; i++) {
        struct cm_section section;
        cm_section_enter(&counting->participant, 9, &section);
        ++*counting->count;
        bool owned = cm_word_owner(word_of(9)) == counting->participant.id;
        cm_section_publish(&counting->participant, &section);
        cm_section_leave(&section);
        if (!owned)
            return "in a section that another owns";
    }
    return NULL;
}

static void one_is_inside_at_a_time(void **state) {
    (void)state;
    uint64_t count = 0;
    struct counting counting[THREADS];
    struct running running[THREADS];
    for (int i = 0; i < THREADS; i++) {
        counting[i].count = &count;
        join(&counting[i].participant, &segment);
    }
    for (int i = 0; i < THREADS; i++)
        start_thread(&running[i], count_up, &counting[i]);
    for (int i = 0; i < THREADS; i++)
        end_thread(&running[i]);
    assert_int_equal(count, THREADS * COUNTS);
    assert_int_equal(word_of(9), cm_word(UINT64_C(2) * THREADS * COUNTS, 0));
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(atomic_load(&counting[i].participant.seat->waiting_on), 0);
        part(&counting[i].participant);
    }
}

/* Enters and stays inside until it is told to leave. */
struct visitor {
    struct cm_participant participant;
    uint32_t group;
    _Atomic uint64_t inside;
    _Atomic uint64_t may_leave;
    uint32_t waited_for; /* whom on_wait named */
};

static void note_owner(void *data, uint32_t owner) {
    struct visitor *visitor = data;
    if (owner)
        visitor->waited_for = owner;
}

static const char *visit(void *data) {
    struct visitor *visitor = data;
    struct cm_section section;
    cm_section_enter(&visitor->participant, visitor->group, &section);
    atomic_store(&visitor->inside, 1);
    bool told = becomes(&visitor->may_leave, 1);
    cm_section_leave(&section);
    return told ? NULL : "nobody told it to leave";
}

static void who_waits_shows_what_it_waits_for(void **state) {
    (void)state;
    struct cm_participant holder;
    struct cm_section section;
    static struct visitor visitor;
    visitor = (struct visitor){.group = 3, .may_leave = 1};
    join(&holder, &segment);
    join(&visitor.participant, &segment);
    visitor.participant.on_wait = note_owner;
    visitor.participant.on_wait_data = &visitor;
    cm_section_enter(&holder, 3, &section);
    struct running running;
    start_thread(&running, visit, &visitor);
    assert_true(waits_for_line(visitor.participant.seat, 3));
    assert_int_equal(section_of(&visitor.participant), UINT64_C(1) << 32 | 3);
    assert_int_equal(atomic_load(&visitor.inside), 0);
    cm_section_leave(&section);
    end_thread(&running);
    assert_int_equal(atomic_load(&visitor.participant.seat->waiting_on), 0);
    assert_int_equal(visitor.waited_for, holder.id);
    part(&holder);
    part(&visitor.participant);
}

static void a_try_gives_up(void **state) {
    (void)state;
    struct cm_participant holder, other;
    struct cm_section section, tried;
    join(&holder, &segment);
    join(&other, &segment);
    cm_section_enter(&holder, 3, &section);
    assert_false(cm_section_try(&other, 3, &tried));
    assert_int_equal(atomic_load(&other.seat->waiting_on), 0);
    assert_int_equal(cm_word_owner(word_of(3)), holder.id);
    assert_true(cm_section_try(&other, 4, &tried));
    cm_section_leave(&tried);
    cm_section_publish(&holder, &section);
    cm_section_leave(&section);
    assert_true(cm_section_try(&other, 3, &tried));
    assert_int_equal(tried.sequence, 2);
    assert_int_equal(cm_word_owner(word_of(3)), other.id);
    cm_section_leave(&tried);
    part(&holder);
    part(&other);
}

/* --- the barrier */

static bool passes_at_once(void) {
    struct cm_barrier barrier;
    assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
    bool passed = cm_barrier_passed(&barrier, &segment);
    if (!passed)
        cm_barrier_deinit(&barrier);
    return passed;
}

static void a_barrier_passes_at_once_when_nobody_is_inside(void **state) {
    (void)state;
    assert_true(passes_at_once());
    struct cm_participant participant, other;
    struct cm_section section, tried;
    join(&participant, &segment);
    join(&other, &segment);
    cm_section_enter(&participant, 3, &section);
    assert_false(passes_at_once());
    cm_section_leave(&section);
    assert_true(passes_at_once()); /* its seat names the group still */
    cm_section_enter(&participant, 3, &section);
    assert_false(cm_section_try(&other, 3, &tried));
    cm_section_leave(&section);
    assert_true(passes_at_once());
    /* A seat that names what is no group. */
    atomic_store(&other.seat->section, UINT64_MAX);
    assert_true(passes_at_once());
    part(&participant);
    part(&other);
}

static void a_barrier_waits_until_who_was_inside_leaves(void **state) {
    (void)state;
    struct cm_participant participants[3];
    struct cm_section sections[3];
    for (uint32_t i = 0; i < 3; i++) {
        join(&participants[i], &segment);
        cm_section_enter(&participants[i], 10 + i, &sections[i]);
    }
    struct cm_barrier barrier;
    assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_false(cm_barrier_passed(&barrier, &segment));
        cm_section_publish(&participants[i], &sections[i]); /* inside still */
        assert_false(cm_barrier_passed(&barrier, &segment));
        cm_section_leave(&sections[i]);
    }
    assert_true(cm_barrier_passed(&barrier, &segment));
    assert_true(cm_barrier_passed(&barrier, &segment)); /* over, and needs no deinit */
    for (uint32_t i = 0; i < 3; i++)
        part(&participants[i]);
}

static void a_barrier_passes_who_has_entered_another_section(void **state) {
    (void)state;
    struct cm_participant participant;
    struct cm_section section;
    join(&participant, &segment);
    const uint32_t next[] = {3, 4}; /* the same group, and another */
    for (size_t i = 0; i < 2; i++) {
        struct cm_barrier barrier;
        cm_section_enter(&participant, 3, &section);
        assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
        assert_false(cm_barrier_passed(&barrier, &segment));
        cm_section_leave(&section);
        cm_section_enter(&participant, next[i], &section);
        assert_true(cm_barrier_passed(&barrier, &segment));
        cm_section_leave(&section);
    }
    part(&participant);
}

/* Also where it is the seat's next life that is inside, in the same group. */
static void a_barrier_passes_a_seat_in_its_next_life(void **state) {
    (void)state;
    struct cm_participant participant;
    struct cm_section section;
    join(&participant, &segment);
    cm_section_enter(&participant, 3, &section);
    struct cm_barrier barrier;
    assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
    cm_section_leave(&section);
    part(&participant);
    join(&participant, &segment);
    cm_section_enter(&participant, 3, &section);
    assert_true(cm_barrier_passed(&barrier, &segment));
    cm_section_leave(&section);
    part(&participant);
}

static void a_barrier_is_not_held_by_who_begins_later(void **state) {
    (void)state;
    struct cm_participant early, late;
    struct cm_section section, later;
    join(&early, &segment);
    join(&late, &segment);
    cm_section_enter(&early, 3, &section);
    struct cm_barrier barrier;
    assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
    cm_section_enter(&late, 4, &later);
    assert_false(cm_barrier_passed(&barrier, &segment));
    cm_section_leave(&section);
    assert_true(cm_barrier_passed(&barrier, &segment));
    cm_section_leave(&later);
    part(&early);
    part(&late);
}

static void a_barrier_is_not_held_by_who_only_waits(void **state) {
    (void)state;
    struct cm_participant holder;
    struct cm_section section;
    static struct visitor visitor;
    visitor = (struct visitor){.group = 3};
    join(&holder, &segment);
    join(&visitor.participant, &segment);
    cm_section_enter(&holder, 3, &section);
    struct running running;
    start_thread(&running, visit, &visitor);
    assert_true(waits_for_line(visitor.participant.seat, 3));
    struct cm_barrier barrier;
    assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
    assert_int_equal(barrier.left, 1);
    assert_false(cm_barrier_passed(&barrier, &segment));
    cm_section_leave(&section);
    assert_true(becomes(&visitor.inside, 1));
    assert_true(cm_barrier_passed(&barrier, &segment)); /* it stays inside until told */
    atomic_store(&visitor.may_leave, 1);
    end_thread(&running);
    part(&holder);
    part(&visitor.participant);
}

static int begin_and_pass(void *data) {
    (void)data;
    struct cm_barrier barrier;
    int err = cm_barrier_begin(&barrier, &segment);
    if (!err)
        assert_true(cm_barrier_passed(&barrier, &segment));
    return err;
}

static void a_barrier_without_memory_does_not_begin(void **state) {
    (void)state;
    alloc_failure_each(begin_and_pass, NULL);
}

/* What is published, replaced, and spoilt once a barrier has been passed, as the prefix lists are that are
 * freed then. */
enum { LISTS = 2000 };
struct lists {
    uint64_t bytes[LISTS]; /* plain: 1, and 0 once it is nobody's */
    _Atomic uint64_t current;
    _Atomic uint64_t over;
};
struct list_reader {
    struct cm_participant participant;
    struct lists *lists;
    uint32_t first_group;
};

static const char *read_lists(void *data) {
    struct list_reader *reader = data;
    struct lists *lists = reader->lists;
    for (uint32_t i = 0; !atomic_load_explicit(&lists->over, memory_order_relaxed); i++) {
        struct cm_section section;
        cm_section_enter(&reader->participant, reader->first_group + i % 2, &section);
        uint64_t current = atomic_load_explicit(&lists->current, memory_order_acquire);
        bool good = true;
        for (int again = 0; again < 10; again++)
            good = good && *(volatile uint64_t *)&lists->bytes[current] == 1;
        cm_section_leave(&section);
        if (!good)
            return "a barrier passed while somebody was using what it had replaced";
    }
    return NULL;
}

static void what_was_replaced_before_a_barrier_is_nobodys_after_it(void **state) {
    (void)state;
    static struct lists lists;
    lists = (struct lists){.bytes[0] = 1};
    struct list_reader readers[3];
    struct running running[3];
    for (uint32_t i = 0; i < 3; i++) {
        join(&readers[i].participant, &segment);
        readers[i].lists = &lists;
        readers[i].first_group = 20 + i; /* they get in each other's way */
    }
    for (int i = 0; i < 3; i++)
        start_thread(&running[i], read_lists, &readers[i]);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    bool in_time = true;
    for (uint64_t i = 1; in_time && i < LISTS; i++) {
        lists.bytes[i] = 1;
        atomic_store_explicit(&lists.current, i, memory_order_release);
        struct cm_barrier barrier;
        assert_int_equal(cm_barrier_begin(&barrier, &segment), 0);
        while (in_time && !cm_barrier_passed(&barrier, &segment)) {
            in_time = cm_clock_ms() < deadline_ms;
            sched_yield();
        }
        lists.bytes[i - 1] = 0;
        if (!in_time)
            cm_barrier_deinit(&barrier);
    }
    atomic_store(&lists.over, 1);
    for (int i = 0; i < 3; i++) {
        end_thread(&running[i]);
        part(&readers[i].participant);
    }
    assert_true(in_time);
}

/* --- hazards */

static void a_hazard_stands_until_all_are_cleared(void **state) {
    (void)state;
    struct cm_participant one, other;
    join(&one, &segment);
    join(&other, &segment);
    uint32_t last = segment.layout.chunks - 1;
    const uint32_t chunks[] = {0, 1, 63, 64, 65, last};
    enum { CHUNKS = sizeof chunks / sizeof chunks[0] };
    for (size_t i = 0; i < CHUNKS; i++) {
        cm_hazard_set(&one, chunks[i]);
        cm_hazard_set(&one, chunks[i]);
        for (uint32_t chunk = 0; chunk <= last; chunk++) {
            bool named = false;
            for (size_t j = 0; j <= i; j++)
                named = named || chunks[j] == chunk;
            assert_int_equal(cm_hazard_any(&segment, chunk), named);
        }
    }
    cm_hazard_set(&other, 64);
    cm_hazard_set(&other, 2);
    cm_hazard_clear(&one);
    for (uint32_t chunk = 0; chunk <= last; chunk++)
        assert_int_equal(cm_hazard_any(&segment, chunk), chunk == 64 || chunk == 2);
    cm_hazard_clear(&other);
    for (uint32_t chunk = 0; chunk <= last; chunk++)
        assert_false(cm_hazard_any(&segment, chunk));
    part(&one);
    part(&other);
}

/* Of a very large memory the words are millions: those that name nothing are not touched. */
static void clearing_hazards_costs_what_was_named(void **state) {
    (void)state;
    struct cm_participant one;
    join(&one, &segment);
    uint32_t words = (segment.layout.chunks + 63) / 64;
    assert_true(words > 2);
    for (uint32_t named = 0; named < words; named++) {
        for (uint32_t i = 0; i < words; i++)
            atomic_store(&one.seat->hazards[i], 1);
        cm_hazard_set(&one, named * 64 + 1);
        cm_hazard_clear(&one);
        for (uint32_t i = 0; i < words; i++)
            assert_int_equal(atomic_load(&one.seat->hazards[i]), i != named);
    }
    for (uint32_t i = 0; i < words; i++)
        atomic_store(&one.seat->hazards[i], 0);
    part(&one);
}

static void every_seats_hazard_is_seen(void **state) {
    (void)state;
    for (uint32_t id = CM_MASTER_SEAT; id <= SEATS; id++) {
        struct cm_participant participant;
        cm_participant_init(&participant, &segment, id);
        cm_hazard_set(&participant, 70);
        assert_true(cm_hazard_any(&segment, 70));
        cm_hazard_clear(&participant);
        assert_false(cm_hazard_any(&segment, 70));
        cm_participant_deinit(&participant);
    }
}

/* --- the bell */

static void a_bell_is_rung_once_until_it_is_heard(void **state) {
    (void)state;
    struct cm_participant one, other;
    join(&one, &segment);
    join(&other, &segment);
    cm_participant_ring(&one, CM_RING_MEMORY); /* it has none */
    assert_int_equal(atomic_load(&segment.header->rung), 0);
    one.bell = other.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(one.bell >= 0);
    for (int i = 0; i < 3; i++) {
        cm_participant_ring(&one, CM_RING_MEMORY);
        cm_participant_ring(&other, CM_RING_MEMORY);
        cm_participant_ring(&one, CM_RING_MEMORY);
        uint64_t rings = 0;
        assert_int_equal(read(one.bell, &rings, sizeof rings), sizeof rings);
        assert_int_equal(rings, 1);
        cm_participant_ring(&other, CM_RING_MEMORY); /* it has been read, but not been heard */
        assert_int_equal(read(one.bell, &rings, sizeof rings), -1);
        atomic_store(&segment.header->rung, 0);
    }
    close(one.bell);
    /* A ring that failed does not keep the next one from ringing. */
    cm_participant_ring(&one, CM_RING_MEMORY);
    assert_int_equal(atomic_load(&segment.header->rung), 0);
    part(&one);
    part(&other);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_one, close_one)
    const struct CMUnitTest tests[] = {
        TEST(seats_are_taken_and_given_back),
        TEST(a_seat_keeps_its_count_from_life_to_life),
        TEST(a_section_moves_the_sequence_by_what_it_publishes),
        TEST(one_is_inside_at_a_time),
        TEST(who_waits_shows_what_it_waits_for),
        TEST(a_try_gives_up),
        TEST(a_barrier_passes_at_once_when_nobody_is_inside),
        TEST(a_barrier_waits_until_who_was_inside_leaves),
        TEST(a_barrier_passes_who_has_entered_another_section),
        TEST(a_barrier_passes_a_seat_in_its_next_life),
        TEST(a_barrier_is_not_held_by_who_begins_later),
        TEST(a_barrier_is_not_held_by_who_only_waits),
        TEST(a_barrier_without_memory_does_not_begin),
        TEST(what_was_replaced_before_a_barrier_is_nobodys_after_it),
        TEST(a_hazard_stands_until_all_are_cleared),
        TEST(clearing_hazards_costs_what_was_named),
        TEST(every_seats_hazard_is_seen),
        TEST(a_bell_is_rung_once_until_it_is_heard),
    };
#undef TEST
    return cmocka_run_group_tests_name("participant", tests, NULL, nothing_is_left);
}
