/* What the tests of core/memory share: a segment with the same hashes in each run, participants in it, and
 * threads that say what they found wrong. */
#ifndef CM_SPEC_CORE_SEGMENTS_H
#define CM_SPEC_CORE_SEGMENTS_H

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/append.h"
#include "memory/chunk.h"
#include "memory/participant.h"
#include "memory/segment.h"
#include "spec/core/test.h"

/* What nobody may take this long for, however busy the machine is. */
enum { DEADLINE_MS = 20000 };

static inline void open_segment(struct cm_segment *segment, uint64_t bytes, uint32_t seats) {
    assert_int_equal(cm_segment_create(bytes, seats, segment), 0);
    segment->header->layout.hash_seed = segment->layout.hash_seed = 1;
}

/* The caller's in a seat of its own. */
static inline void join(struct cm_participant *participant, struct cm_segment *segment) {
    uint32_t id = 0;
    assert_int_equal(cm_seat_take(segment, &id), 0);
    cm_seat_assign(segment, id, getpid());
    cm_participant_init(participant, segment, id);
}

static inline void part(struct cm_participant *participant) {
    cm_append_close(participant);
    cm_participant_deinit(participant);
    cm_seat_give_back(participant->segment, participant->id);
}

static inline struct cm_chunk_word chunk_word(const struct cm_segment *segment, uint32_t index) {
    return cm_chunk_unpack(cm_chunk_load(segment, index));
}

/* Bytes that tell by themselves whose they are, and where. */
static inline void fill_bytes(uint8_t *bytes, size_t len, uint64_t seed) {
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(seed * 31 + i * (seed % 7 + 1) + i / 251);
}

/* --- threads: cmocka's asserts are the main thread's alone, so a body returns what is wrong, or NULL --- */

typedef const char *(*thread_fn)(void *data);

struct running {
    pthread_t thread;
    thread_fn body;
    void *data;
    const char *wrong;
};

static inline void *run_body(void *data) {
    struct running *running = data;
    running->wrong = running->body(running->data);
    return NULL;
}

static inline void start_thread(struct running *running, thread_fn body, void *data) {
    *running = (struct running){.body = body, .data = data};
    assert_int_equal(pthread_create(&running->thread, NULL, run_body, running), 0);
}

static inline void end_thread(struct running *running) {
    assert_int_equal(pthread_join(running->thread, NULL), 0);
    if (running->wrong)
        fail_msg("%s", running->wrong);
}

/* Waits for the word to have the value; false when the deadline is past. */
static inline bool becomes(const _Atomic uint64_t *word, uint64_t value) {
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (atomic_load((_Atomic uint64_t *)word) != value) {
        if (cm_clock_ms() > deadline_ms)
            return false;
        sched_yield();
    }
    return true;
}

/* As above: for who sits there to wait for that line. */
static inline bool waits_for_line(const struct cm_seat *seat, uint32_t line) {
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while (atomic_load((_Atomic uint32_t *)&seat->waiting_on) != line + 1) {
        if (cm_clock_ms() > deadline_ms)
            return false;
        sched_yield();
    }
    return true;
}

#endif
