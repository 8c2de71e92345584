/* A small cluster's memory in one process: a segment with its cleaner and its sweep, and a store for the
 * master and for each of some seats, on a clock that the test turns. And what the counts of chunks are
 * compared with: a walk over all that is reachable. */
#ifndef CM_SPEC_CORE_STORES_H
#define CM_SPEC_CORE_STORES_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "data/expiry.h"
#include "data/store.h"
#include "memory/append.h"
#include "memory/chunk.h"
#include "memory/cleaner.h"
#include "spec/core/test.h"

enum { STORES_MOST = 64, STORES_CHUNKS_MOST = 1 << 14 };

struct stores_seat {
    struct cm_participant participant;
    struct cm_store store;
};

struct stores {
    struct cm_segment segment;
    struct cm_cleaner cleaner;
    struct cm_sweep sweep;
    uint32_t count;
    struct stores_seat seats[STORES_MOST]; /* the first is the master's */
};

static _Atomic uint64_t stores_now_ms;

static inline uint64_t stores_clock(void) {
    return atomic_load(&stores_now_ms);
}

static inline void stores_turn(uint64_t now_ms) {
    atomic_store(&stores_now_ms, now_ms);
}

static inline double stores_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* --- what does not come back must not take the other tests with it: if (sigsetjmp(stores_stuck, 1)) fail ---
 */

static sigjmp_buf stores_stuck;

static inline void stores_on_alarm(int signal) {
    (void)signal;
    siglongjmp(stores_stuck, 1);
}

/* 0: it has come back. */
static inline void stores_watch(unsigned seconds) {
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = stores_on_alarm}, NULL);
    alarm(seconds);
}

/* --- setting up --- */

/* A segment of so many seats, of which the master and count - 1 others are there. 0 or CM_E_NOMEMORY. */
static inline int stores_open_memory(struct stores *stores, uint64_t bytes, uint32_t seats, uint32_t count) {
    *stores = (struct stores){.count = count};
    stores_turn(1000);
    assert_true(count <= STORES_MOST && count <= seats);
    assert_int_equal(cm_segment_create(bytes, seats, &stores->segment), 0);
    assert_true(stores->segment.layout.chunks <= STORES_CHUNKS_MOST);
    int err = cm_cleaner_init(&stores->cleaner, &stores->segment);
    if (err) {
        cm_segment_close(&stores->segment);
        return err;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = CM_MASTER_SEAT;
        if (i)
            assert_int_equal(cm_seat_take(&stores->segment, &id), 0);
        cm_participant_init(&stores->seats[i].participant, &stores->segment, id);
    }
    return 0;
}

static inline void stores_close_memory(struct stores *stores) {
    for (uint32_t i = 0; i < stores->count; i++)
        cm_participant_deinit(&stores->seats[i].participant);
    cm_cleaner_deinit(&stores->cleaner);
    cm_segment_close(&stores->segment);
}

static inline int stores_make_room(void *data, uint64_t bytes, uint64_t freed_bytes) {
    struct stores *stores = data;
    return cm_cleaner_make_room(&stores->cleaner, bytes, freed_bytes);
}

static inline int stores_open(struct stores *stores, uint64_t bytes, uint32_t seats, uint32_t count) {
    int err = stores_open_memory(stores, bytes, seats, count);
    if (err)
        return err;
    for (uint32_t i = 0; i < count; i++) {
        cm_store_init(&stores->seats[i].store, &stores->seats[i].participant);
        stores->seats[i].store.clock_ms = stores_clock;
    }
    stores->seats[0].store.make_room = stores_make_room;
    stores->seats[0].store.data = stores;
    return 0;
}

static inline void stores_close(struct stores *stores) {
    for (uint32_t i = 0; i < stores->count; i++)
        cm_store_deinit(&stores->seats[i].store);
    stores_close_memory(stores);
}

static inline struct cm_store *stores_master(struct stores *stores) {
    return &stores->seats[0].store;
}

/* What a worker does: itself, and where that finds no memory, by the master. */
static inline int stores_set(struct stores *stores, uint32_t seat, struct cm_bytes key,
                             const struct cm_value *value, const struct cm_change *change,
                             uint64_t *version) {
    int err = cm_store_set(&stores->seats[seat].store, key, value, change, version);
    if (err == CM_E_NOMEMORY && seat)
        err = cm_store_set(stores_master(stores), key, value, change, version);
    return err;
}

/* The master's turn between two events: what it does when it is rung. */
static inline void stores_tend(struct stores *stores, bool growing) {
    cm_table_grow(&stores->seats[0].participant, 1000);
    for (int i = 0; i < 100000 && cm_cleaner_run(&stores->cleaner) == CM_CLEANED_MORE; i++) {
    }
    cm_cleaner_stock(&stores->segment, growing);
}

#ifdef __SANITIZE_THREAD__
/* Its counters are for one thread; those that are compared are compared while there is one. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "race:alloc_failure.c\n";
}
/* The handlers here are for signals that the test itself brings about, at places that it knows. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "report_signal_unsafe=0";
}
#endif

/* --- what is reachable --- */

static uint64_t stores_reachable[STORES_CHUNKS_MOST]; /* bytes in each chunk, as of the last walk */

static inline void stores_reach(const struct cm_segment *segment, uint64_t offset) {
    const struct cm_record *record = cm_record_at(segment, offset);
    assert_non_null(record);
    uint64_t len_bytes = cm_shape_bytes(cm_record_shape(record));
    assert_true(len_bytes != 0);
    uint64_t chunk = cm_segment_chunk_of(segment, offset);
    assert_true(offset + len_bytes <= cm_segment_chunk_at(segment, (uint32_t)chunk + 1));
    stores_reachable[chunk] += len_bytes;
}

/* Walks all chains, nobody writing; gives the number of entries. */
static inline uint64_t stores_walk(const struct cm_segment *segment) {
    uint64_t entries = 0;
    memset(stores_reachable, 0, segment->layout.chunks * sizeof stores_reachable[0]);
    uint32_t groups = atomic_load(&segment->header->groups);
    for (uint32_t i = 0; i < groups * CM_GROUP_CHAINS; i++) {
        uint64_t offset = atomic_load(&segment->groups[i / CM_GROUP_CHAINS].chains[i % CM_GROUP_CHAINS]);
        while (offset) {
            stores_reach(segment, offset);
            struct cm_record *record = cm_record_at(segment, offset);
            bool is_long = cm_record_shape(record).kind == CM_KIND_LONG;
            uint64_t piece = is_long ? atomic_load(record->payload) : 0;
            for (uint64_t before = offset; piece;) {
                stores_reach(segment, piece);
                struct cm_record *fragment = cm_record_at(segment, piece);
                assert_int_equal(cm_record_shape(fragment).kind, CM_KIND_FRAGMENT);
                assert_int_equal(atomic_load(&fragment->before), before);
                before = piece;
                piece = atomic_load(&fragment->next);
            }
            entries++;
            offset = atomic_load(&record->next);
        }
    }
    return entries;
}

/* No chunk counts less than what is reachable in it, no free one has any of it; `exact`: and none counts
 * more, which must hold as long as nobody is in the midst of anything and nobody has died. */
static inline void stores_check_counts(const struct cm_segment *segment, bool exact) {
    uint64_t entries = stores_walk(segment);
    assert_int_equal(cm_table_entries(segment), entries);
    for (uint32_t i = 0; i < segment->layout.chunks; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, i));
        uint64_t live = word.live_bytes;
        if (cm_chunk_is_free(&word))
            assert_int_equal(stores_reachable[i], 0);
        if (word.state == CM_CHUNK_OPEN)
            live -= segment->layout.chunk_bytes - atomic_load(&segment->chunks[i].used);
        if (live < stores_reachable[i] || (exact && live != stores_reachable[i]))
            fail_msg("chunk %u, state %d: %lu live, %lu reachable", i, word.state, (unsigned long)live,
                     (unsigned long)stores_reachable[i]);
    }
}

#endif
