#include "memory/participant.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fault.h"

enum {
    SPINS = 200,      /* before the first yield: longer than a section, shorter than a time slice */
    YIELDS = 2000,    /* before the first sleep */
    SLEEP_NS = 50000, /* an owner that has kept a group this long does not run */
};

/* --- seats --- */

int cm_seat_take(struct cm_segment *segment, uint32_t *id) {
    for (uint32_t i = CM_MASTER_SEAT + 1; i <= segment->layout.seats; i++) {
        struct cm_seat *seat = cm_segment_seat(segment, i);
        if (atomic_load(&seat->pid))
            continue;
        atomic_store(&seat->pid, -1); /* taken, and nobody there yet */
        *id = i;
        return 0;
    }
    return CM_E_NOMEMORY;
}

void cm_seat_assign(struct cm_segment *segment, uint32_t id, int32_t pid) {
    atomic_store(&cm_segment_seat(segment, id)->pid, pid);
}

void cm_seat_give_back(struct cm_segment *segment, uint32_t id) {
    atomic_store(&cm_segment_seat(segment, id)->pid, 0);
}

void cm_participant_init(struct cm_participant *participant, struct cm_segment *segment, uint32_t id) {
    *participant = (struct cm_participant){.segment = segment,
                                           .seat = cm_segment_seat(segment, id),
                                           .id = id,
                                           .appender.chunk = CM_NO_CHUNK,
                                           .bell = -1};
    /* The seat keeps its count from one participant to the next: a barrier that saw the last one must not
     * take the new one's section for the same. */
    participant->count = (uint32_t)(atomic_load(&participant->seat->section) >> 32);
}

void cm_participant_deinit(struct cm_participant *participant) {
    free(participant->appender.held);
    free(participant->pieces);
    participant->appender.held = NULL;
    participant->pieces = NULL;
}

/* --- sections --- */

/* The section is named before the group is taken; the swap that takes the group releases it, so whoever sees
 * the group owned by this seat (acquire) sees the section that names it. Release itself: who sees this
 * section (acquire), and so takes the last one to be over, sees all that was done in that. */
static void name_section(struct cm_participant *participant, uint32_t line) {
    participant->count++;
    atomic_store_explicit(&participant->seat->section, (uint64_t)participant->count << 32 | line,
                          memory_order_release);
}

/* Takes the line from that word, which has no owner. The swap acquires what the last owner released when it
 * cleared its name: all it stored is seen here. */
static bool take_from(_Atomic uint64_t *at, uint64_t word, uint64_t taken) {
    if (!atomic_compare_exchange_strong_explicit(at, &word, taken, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    CM_FENCE_AFTER_SWAP();
    CM_FAULT("group-taken");
    return true;
}

static bool take(const struct cm_participant *participant, _Atomic uint64_t *at, uint64_t *word) {
    *word = atomic_load_explicit(at, memory_order_relaxed);
    return !cm_word_owner(*word) && take_from(at, *word, *word | participant->id);
}

/* One step of waiting for the line. */
static void wait_for(struct cm_participant *participant, uint32_t line, uint32_t owner) {
    uint32_t waits = ++participant->waits;
    if (waits < SPINS) {
        cm_pause();
        return;
    }
    if (waits == SPINS)
        atomic_store_explicit(&participant->seat->waiting_on, line + 1, memory_order_relaxed);
    if (participant->on_wait)
        participant->on_wait(participant->on_wait_data, owner);
    if (waits < YIELDS)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
}

static __attribute__((cold, noinline)) void wait_to_take(struct cm_participant *participant, uint32_t line,
                                                         _Atomic uint64_t *at, uint64_t *word) {
    participant->waits = 0;
    do
        wait_for(participant, line, cm_word_owner(*word));
    while (!take(participant, at, word));
    if (participant->waits >= SPINS)
        atomic_store_explicit(&participant->seat->waiting_on, 0, memory_order_relaxed);
}

void cm_section_enter(struct cm_participant *participant, uint32_t line, struct cm_section *section) {
    _Atomic uint64_t *at = cm_segment_word(participant->segment, line);
    uint64_t word;
    name_section(participant, line);
    if (!take(participant, at, &word))
        wait_to_take(participant, line, at, &word);
    *section = (struct cm_section){at, line, cm_word_sequence(word)};
}

bool cm_section_try(struct cm_participant *participant, uint32_t line, struct cm_section *section) {
    _Atomic uint64_t *at = cm_segment_word(participant->segment, line);
    uint64_t word;
    name_section(participant, line);
    for (int i = 0; i < SPINS; i++) {
        if (take(participant, at, &word)) {
            *section = (struct cm_section){at, line, cm_word_sequence(word)};
            return true;
        }
        cm_pause();
    }
    return false;
}

bool cm_section_retake(struct cm_participant *participant, uint32_t line, uint64_t word,
                       struct cm_section *section) {
    _Atomic uint64_t *at = cm_segment_word(participant->segment, line);
    if (!at || atomic_load_explicit(at, memory_order_relaxed) != word)
        return false;
    name_section(participant, line);
    /* The fence behind the swap keeps what follows behind the odd sequence: see cm_section_shut. */
    uint64_t sequence = cm_word_sequence(word);
    if (!take_from(at, word, cm_word(sequence + 1, participant->id)))
        return false;
    *section = (struct cm_section){at, line, sequence};
    return true;
}

/* Release: a reader that loads the new sequence (acquire) sees the stores before it, and one that copied
 * bytes which were overwritten after it must see that it has changed. */
void cm_section_publish(struct cm_participant *participant, struct cm_section *section) {
    section->sequence += 2;
    atomic_store_explicit(section->word, cm_word(section->sequence, participant->id), memory_order_release);
}

/* The odd sequence must be seen before anything that is stored behind it (a release fence: store before
 * store), or a reader could take half of it under the even one. */
void cm_section_shut(struct cm_participant *participant, const struct cm_section *section) {
    atomic_store_explicit(section->word, cm_word(section->sequence + 1, participant->id),
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

/* Release: the next owner's swap acquires it, and with it all that this one stored. */
void cm_section_leave(const struct cm_section *section) {
    CM_FAULT("before-release");
    atomic_store_explicit(section->word, cm_word(section->sequence, 0), memory_order_release);
}

/* Release, for the readers and for the next owner, as above. */
void cm_section_finish(struct cm_section *section) {
    section->sequence += 2;
    cm_section_leave(section);
}

/* --- hazards --- */

/* Relaxed: the caller fences once behind all that it names. Only this seat writes its words. */
void cm_hazard_set(struct cm_participant *participant, uint32_t chunk) {
    if (participant->hazards_to == 0 || participant->hazards_from > chunk / 64)
        participant->hazards_from = chunk / 64;
    if (participant->hazards_to <= chunk / 64)
        participant->hazards_to = chunk / 64 + 1;
    _Atomic uint64_t *word = &participant->seat->hazards[chunk / 64];
    uint64_t bits = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, bits | UINT64_C(1) << chunk % 64, memory_order_relaxed);
}

/* Release: the copying is over before a chunk may be taken (its taker's look acquires). */
void cm_hazard_clear(struct cm_participant *participant) {
    for (uint32_t i = participant->hazards_from; i < participant->hazards_to; i++)
        atomic_store_explicit(&participant->seat->hazards[i], 0, memory_order_release);
    participant->hazards_from = participant->hazards_to = 0;
}

bool cm_hazard_any(const struct cm_segment *segment, uint32_t chunk) {
    for (uint32_t id = CM_MASTER_SEAT; id <= segment->layout.seats; id++) {
        struct cm_seat *seat = cm_segment_seat(segment, id);
        if (atomic_load_explicit(&seat->hazards[chunk / 64], memory_order_acquire) >> chunk % 64 & 1)
            return true;
    }
    return false;
}

/* --- the barrier --- */

#define PASSED UINT64_MAX /* no line has that number */

/* Whether the seat is in a section: it owns the line that it names. */
static bool inside(const struct cm_segment *segment, uint32_t id, uint64_t section) {
    const _Atomic uint64_t *word = cm_segment_word(segment, (uint32_t)section);
    return word && cm_word_owner(atomic_load_explicit(word, memory_order_acquire)) == id;
}

int cm_barrier_begin(struct cm_barrier *barrier, const struct cm_segment *segment) {
    *barrier = (struct cm_barrier){.left = segment->layout.seats};
    barrier->sections = calloc(segment->layout.seats, sizeof *barrier->sections);
    if (!barrier->sections)
        return CM_E_NOMEMORY;
    /* What was published comes before the looks at who is inside; a section's swap comes before its look at
     * what was published (CM_FENCE_AFTER_SWAP). One of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint32_t id = 1; id <= segment->layout.seats; id++) {
        uint64_t section = atomic_load_explicit(&cm_segment_seat(segment, id)->section, memory_order_acquire);
        bool waits = inside(segment, id, section);
        barrier->sections[id - 1] = waits ? section : PASSED;
        barrier->left -= !waits;
    }
    return 0;
}

bool cm_barrier_passed(struct cm_barrier *barrier, const struct cm_segment *segment) {
    for (uint32_t id = 1; barrier->left && id <= segment->layout.seats; id++) {
        uint64_t section = barrier->sections[id - 1];
        if (section == PASSED)
            continue;
        uint64_t now = atomic_load_explicit(&cm_segment_seat(segment, id)->section, memory_order_acquire);
        if (now == section && inside(segment, id, section))
            continue;
        barrier->sections[id - 1] = PASSED;
        barrier->left--;
    }
    if (barrier->left)
        return false;
    cm_barrier_deinit(barrier);
    return true;
}

void cm_barrier_deinit(struct cm_barrier *barrier) {
    free(barrier->sections);
    *barrier = (struct cm_barrier){0};
}

/* --- the bell --- */

void cm_participant_ring(struct cm_participant *participant, uint32_t what) {
    _Atomic uint32_t *rung = &participant->segment->header->rung;
    /* The flags' order decides: either the master's exchange takes this one, and sees what was stored before
     * it, or this finds none and rings. */
    if (participant->bell < 0 || atomic_fetch_or(rung, what))
        return;
    uint64_t one = 1;
    /* It can fail only when it has been rung 2^64 - 1 times. */
    if (write(participant->bell, &one, sizeof one) < 0)
        atomic_store(rung, 0);
}
