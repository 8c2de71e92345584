/* Chunks that are used anew while somebody copies from them: content, and that no generation changes under a
 * hazard. At random, and at the worst moments exactly: a reader traps on a page in the midst of a value. */
#include <sys/mman.h>

#include <time.h>

#include <unistd.h>

#include "spec/core/hunt.h"

enum { PAGE = 4096 };

static struct hunt hunt;

/* --- a reader that stands in the midst of its copy --- */

struct trap {
    uint64_t page; /* offset of the page in the segment */
    size_t len;    /* of the value */
    uint32_t old_seed;
    uint32_t new_seed;
    _Atomic uint32_t is_in; /* the reader has come to the page */
    _Atomic uint32_t go;
};
static struct trap *trap;
static struct hunt_key big;

/* Async-signal-safe: system calls and shared words. */
static void on_trap(int signal) {
    (void)signal;
    if (mprotect(hunt.segment.base + trap->page, PAGE, PROT_READ | PROT_WRITE) < 0)
        _exit(8);
    atomic_store(&trap->is_in, 1);
    while (!atomic_load(&trap->go))
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void read_into_trap(struct hunt_self *self) {
    sigaction(SIGSEGV, &(struct sigaction){.sa_handler = on_trap}, NULL);
    HUNT_CHECK(mprotect(hunt.segment.base + trap->page, PAGE, PROT_NONE) == 0, "mprotect");
    struct cm_value value;
    uint64_t version;
    uint32_t seed;
    int err = cm_store_get(&self->store, big.bytes, &self->buf, &value, &version, NULL);
    HUNT_CHECK(err == 0, "get: %s", cm_error_name(err));
    const char *wrong = hunt_check_value(value.bytes, 1, &seed);
    HUNT_CHECK(!wrong, "torn: %s, of %zu bytes", wrong, value.bytes.len);
    HUNT_CHECK(seed == trap->old_seed || seed == trap->new_seed, "a value of seed %u that nobody set", seed);
}

/* Offsets of the pieces that the value lies in. */
static size_t pieces_of(struct cm_bytes key, uint64_t *offsets, size_t most) {
    struct cm_key hashed = cm_table_key(&hunt.segment, key);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(&hunt.participant, hashed.hash, &section);
    assert_true(cm_table_find(&hunt.participant, &section, &hashed, &place));
    size_t count = 0;
    offsets[count++] = place.offset;
    if (place.shape.kind == CM_KIND_LONG) {
        count = 0;
        for (uint64_t at = atomic_load(place.record->payload); at && count < most;
             at = atomic_load(&cm_record_at(&hunt.segment, at)->next))
            offsets[count++] = at;
    }
    cm_section_leave(&section);
    return count;
}

/* Fills nearly all of the segment and empties it, some times over: chunks are claimed from the lowest on, so
 * nothing less has all of them used anew. With long values, so that fragments take the place of fragments: a
 * reader that is led there finds nothing wrong with their form. */
static void churn(void) {
    size_t len = HUNT_VALUE_MOST_BYTES - 8;
    struct hunt_key key;
    uint64_t keys = cm_chunk_limit_bytes(&hunt.segment) * 9 / 10 / (len + 64), version;
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < keys; i++) {
            hunt_put(&hunt, hunt_key(&key, "churn %lu", (unsigned long)i), 2, len, (uint32_t)i);
            if (i % 64 == 0)
                hunt_turn(&hunt);
        }
        for (uint64_t i = 0; i < keys; i++)
            cm_store_remove(&hunt.store, hunt_key(&key, "churn %lu", (unsigned long)i),
                            &(struct cm_change){0}, &version);
    }
}

static uint32_t generation(uint32_t chunk) {
    return cm_chunk_unpack(cm_chunk_load(&hunt.segment, chunk)).generation;
}

static void mark_chunk_of(uint64_t offset) {
    cm_cleaner_mark(&hunt.cleaner, (uint32_t)cm_segment_chunk_of(&hunt.segment, offset));
}

static void stop_reader_in(size_t len) {
    trap->len = len;
    trap->old_seed = 11;
    trap->new_seed = 22;
    atomic_store(&trap->is_in, 0);
    atomic_store(&trap->go, 0);
    hunt_key(&big, "big");
    hunt_put(&hunt, big.bytes, 1, len, trap->old_seed);
    uint64_t offsets[64];
    pieces_of(big.bytes, offsets, 64);
    /* Behind the first piece's head, and before the next one's. */
    trap->page = (offsets[0] + 2 * (uint64_t)PAGE) / PAGE * PAGE;
    hunt_start(&hunt, 0, read_into_trap, NULL);
    uint64_t deadline_ms = cm_clock_ms() + 5000;
    while (!atomic_load(&trap->is_in)) {
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "the reader does not come to its trap");
        hunt_pause();
    }
}

static void let_reader_go(void) {
    atomic_store(&trap->go, 1);
    hunt_finish(&hunt);
}

static int open_middle(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(64) << 20, 3); /* chunks of 256 kB, fragments of 16 kB at most */
    trap = hunt_share(sizeof *trap);
    return 0;
}

static int close_hunt(void **state) {
    (void)state;
    hunt_close(&hunt);
    return 0;
}

/* The value is replaced, and everything that can be written anew is, while its reader stands in it. */
static void check_named(size_t len) {
    stop_reader_in(len);
    uint64_t offsets[64];
    size_t count = pieces_of(big.bytes, offsets, 64);
    uint32_t generations[64];
    for (size_t i = 0; i < count; i++)
        generations[i] = generation((uint32_t)cm_segment_chunk_of(&hunt.segment, offsets[i]));
    /* The new value lies elsewhere, or it would keep the chunk from being free. */
    cm_append_close(&hunt.participant);
    hunt_put(&hunt, big.bytes, 1, 100, trap->new_seed);
    churn();
    for (size_t i = 0; i < count; i++) {
        uint32_t chunk = (uint32_t)cm_segment_chunk_of(&hunt.segment, offsets[i]);
        HUNT_CHECK(generation(chunk) == generations[i],
                   "chunk %u of piece %zu was used anew under a hazard, %u times", chunk, i,
                   generation(chunk) - generations[i]);
    }
    let_reader_go();
}

static void test_named_whole(void **state) {
    (void)state;
    check_named(15000);
}

static void test_named_fragments(void **state) {
    (void)state;
    check_named(800000);
}

/* All pieces are moved by the cleaner first; then the value is replaced and its new places are written anew.
 * The reader holds hazards for the old places only. */
static void check_moved(size_t len, size_t first_moved) {
    stop_reader_in(len);
    uint64_t before[64], after[64];
    size_t count = pieces_of(big.bytes, before, 64);
    cm_append_close(&hunt.participant);
    uint32_t first = (uint32_t)cm_segment_chunk_of(&hunt.segment, before[0]);
    for (size_t i = first_moved; i < count; i++) {
        if (first_moved == 0 || cm_segment_chunk_of(&hunt.segment, before[i]) != first)
            mark_chunk_of(before[i]);
    }
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; cm_clock_ms() < deadline_ms;) {
        if (cm_cleaner_run(&hunt.cleaner) != CM_CLEANED_MORE)
            break;
    }
    pieces_of(big.bytes, after, 64);
    assert_true(before[count - 1] != after[count - 1]);
    hunt_put(&hunt, big.bytes, 1, 100, trap->new_seed);
    cm_append_close(&hunt.participant);
    cm_append_close(&hunt.cleaner.mover);
    churn();
    let_reader_go();
}

static void test_moved_whole(void **state) {
    (void)state;
    check_moved(15000, 0);
}

static void test_moved_fragments(void **state) {
    (void)state;
    check_moved(400000, 1);
}

/* A reader that stands in a value of many chunks must not keep the cleaner from making room. */
static void test_room_beside_a_reader(void **state) {
    (void)state;
    stop_reader_in(HUNT_VALUE_MOST_BYTES - 8);
    uint64_t offsets[128];
    size_t count = pieces_of(big.bytes, offsets, 128);
    cm_append_close(&hunt.participant);
    for (size_t i = 0; i < count; i++)
        mark_chunk_of(offsets[i]);
    hunt_run(&hunt, 20000);
    unsigned parked = hunt.cleaner.parked_count, reserve = hunt.cleaner.reserve_count;
    /* Half of it is to be rubbish, spread over all chunks: each second of the keys is set again and again. */
    struct hunt_key key;
    uint8_t bytes[1000];
    uint64_t total = (uint64_t)hunt.segment.layout.chunks * hunt.segment.layout.chunk_bytes;
    uint64_t keys = total * 5 / 10 / (sizeof bytes + 64), version;
    struct cm_store_stats stats;
    for (uint64_t i = 0; i < keys * 4; i++) {
        hunt_fill(bytes, sizeof bytes, i % keys, 1);
        struct cm_value value = {.bytes = {bytes, sizeof bytes}};
        int err = cm_store_set(&hunt.store, hunt_key(&key, "room %lu", (unsigned long)(i * 7919 % keys)),
                               &value, &(struct cm_change){0}, &version);
        if (err) {
            cm_store_stats(&hunt.store, &stats);
            HUNT_CHECK(0,
                       "%s at %lu of %lu bytes, beside a reader that stands (%u chunks parked, reserve %u)",
                       cm_error_name(err), (unsigned long)stats.used_bytes, (unsigned long)stats.limit_bytes,
                       parked, reserve);
        }
    }
    let_reader_go();
}

/* --- at random --- */

enum { KEYS = 12, READERS = 2, WRITERS = 2 };

static size_t random_len(uint64_t *random) {
    switch (random_below(random, 8)) {
    case 0:
        return 1 + random_below(random, 200);
    case 1:
        return 400000 + random_below(random, 400000);
    case 2:
    case 3:
        return 20000 + random_below(random, 100000);
    default:
        return 4097 + random_below(random, 4000);
    }
}

static void write_values(struct hunt_self *self) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct hunt_key key;
    uint64_t version;
    while (!hunt_told_to_stop(self)) {
        uint64_t number = random_below(&self->random, KEYS);
        size_t len = random_len(&self->random);
        hunt_fill(bytes, len, number, (uint32_t)random_next(&self->random));
        struct cm_value value = {.bytes = {bytes, len}};
        int err = hunt_set(self, hunt_key(&key, "key %lu", (unsigned long)number), &value,
                           &(struct cm_change){0}, &version);
        HUNT_CHECK(err == 0, "set: %s", cm_error_name(err));
    }
}

static void read_values(struct hunt_self *self) {
    struct hunt_key key;
    while (!hunt_told_to_stop(self)) {
        uint64_t number = random_below(&self->random, KEYS), version;
        struct cm_value value;
        uint32_t seed;
        int err = cm_store_get(&self->store, hunt_key(&key, "key %lu", (unsigned long)number), &self->buf,
                               &value, &version, NULL);
        HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
        const char *wrong = err ? NULL : hunt_check_value(value.bytes, number, &seed);
        HUNT_CHECK(!wrong, "torn: %s, of %zu bytes", wrong, value.bytes.len);
    }
}

static uint64_t operations(unsigned number) {
    return atomic_load(&hunt.shared->workers[number].operations);
}

/* Until each writer has come further: what it was about to claim without a look at later hazards, it has. */
static void wait_for_writers(void) {
    uint64_t before[WRITERS], deadline_ms = cm_clock_ms() + 10000;
    for (unsigned i = 0; i < WRITERS; i++)
        before[i] = operations(READERS + i);
    for (unsigned i = 0; i < WRITERS;) {
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "writer %u does not go on", i);
        hunt_turn(&hunt);
        i += operations(READERS + i) >= before[i] + 2;
    }
}

static uint64_t stop_a_reader(uint64_t *random, unsigned number) {
    pid_t pid = hunt.workers[number].pid;
    struct cm_seat *seat = cm_segment_seat(&hunt.segment, hunt.workers[number].seat);
    static uint32_t generations[1 << 16];
    uint64_t named = 0;
    kill(pid, SIGSTOP);
    hunt_until(&hunt, number, WSTOPPED | WEXITED);
    /* One that was stopped as a group's owner holds the writers up, and may be killed after a second. */
    uint64_t section = atomic_load(&seat->section);
    bool owns =
        cm_word_owner(atomic_load(&hunt.segment.groups[(uint32_t)section].word)) == hunt.workers[number].seat;
    bool any = false;
    for (uint32_t i = 0; i < hunt.segment.layout.chunks; i++)
        any |= atomic_load(&seat->hazards[i / 64]) >> i % 64 & 1;
    if (any && !owns && !hunt_is(&hunt, number, WEXITED)) {
        wait_for_writers();
        for (uint32_t i = 0; i < hunt.segment.layout.chunks; i++)
            generations[i] = generation(i);
        hunt_run(&hunt, 1000 + random_below(random, 10000));
        for (uint32_t i = 0; i < hunt.segment.layout.chunks; i++) {
            if (!(atomic_load(&seat->hazards[i / 64]) >> i % 64 & 1))
                continue;
            HUNT_CHECK(generation(i) == generations[i], "chunk %u was used anew under a hazard", i);
            named++;
        }
    }
    kill(pid, SIGCONT);
    return named;
}

static void test_random(void **state) {
    (void)state;
    for (unsigned i = 0; i < READERS + WRITERS; i++)
        hunt_start(&hunt, i, i < READERS ? read_values : write_values, NULL);
    hunt.always_cleaning = true;
    uint64_t random = 1, stops = 0, named = 0;
    uint64_t start_us = hunt_now_us(), for_us = hunt_is_long ? 120000000 : 1200000;
    while (hunt_now_us() - start_us < for_us) {
        hunt_run(&hunt, random_below(&random, 3000));
        unsigned number = (unsigned)random_below(&random, READERS);
        if (hunt_is(&hunt, number, WEXITED))
            break; /* hunt_finish says why */
        named += stop_a_reader(&random, number);
        stops++;
    }
    printf("recycling: %lu and %lu reads, %lu and %lu writes, %lu stops, %lu named chunks looked at, "
           "%lu generations of %u chunks, %lu cleaned, %lu served, %lu refused though there was room\n",
           (unsigned long)operations(0), (unsigned long)operations(1), (unsigned long)operations(2),
           (unsigned long)operations(3), (unsigned long)stops, (unsigned long)named,
           (unsigned long)hunt_generations(&hunt), hunt.segment.layout.chunks,
           (unsigned long)hunt.cleaner.cleaned_chunks, (unsigned long)hunt.served,
           (unsigned long)hunt.refused);
    hunt_finish(&hunt);
    struct hunt_audit audit;
    hunt_clean(&hunt);
    hunt_audit(&hunt, true, &audit);
}

static int open_random(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(32) << 20, 8); /* chunks of 64 kB */
    return 0;
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_named_whole, open_middle, close_hunt),
        cmocka_unit_test_setup_teardown(test_named_fragments, open_middle, close_hunt),
        cmocka_unit_test_setup_teardown(test_moved_whole, open_middle, close_hunt),
        cmocka_unit_test_setup_teardown(test_moved_fragments, open_middle, close_hunt),
        cmocka_unit_test_setup_teardown(test_room_beside_a_reader, open_middle, close_hunt),
        cmocka_unit_test_setup_teardown(test_random, open_random, close_hunt),
    };
    return cmocka_run_group_tests_name("recycling", tests, NULL, NULL);
}
