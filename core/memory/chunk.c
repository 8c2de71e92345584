#include "memory/chunk.h"

#include "base/error.h"
#include "base/fault.h"

enum { CLAIMS_PER_RING = 8 };

enum { LIVE_BITS = 18, STATE_BITS = 2, OWNER_BITS = 16, UNIT = 8 };
#define LIVE_MASK ((UINT64_C(1) << LIVE_BITS) - 1)
/* Set where it is no hole, so that a new segment's zeroes are free holes. */
#define BACKED_SHIFT (LIVE_BITS + STATE_BITS)
#define OWNER_SHIFT (BACKED_SHIFT + 1)
#define GENERATION_SHIFT (OWNER_SHIFT + OWNER_BITS)
#define GENERATION_MASK ((UINT64_C(1) << (64 - GENERATION_SHIFT)) - 1)

struct cm_chunk_word cm_chunk_unpack(uint64_t word) {
    return (struct cm_chunk_word){.live_bytes = (uint32_t)(word & LIVE_MASK) * UNIT,
                                  .state = (enum cm_chunk_state)(word >> LIVE_BITS & 3),
                                  .hole = !(word >> BACKED_SHIFT & 1),
                                  .owner = (uint32_t)(word >> OWNER_SHIFT & 0xffff),
                                  .generation = (uint32_t)(word >> GENERATION_SHIFT)};
}

uint64_t cm_chunk_pack(struct cm_chunk_word word) {
    return word.live_bytes / UNIT | (uint64_t)word.state << LIVE_BITS | (uint64_t)!word.hole << BACKED_SHIFT |
           (uint64_t)word.owner << OWNER_SHIFT |
           ((uint64_t)word.generation & GENERATION_MASK) << GENERATION_SHIFT;
}

/* A few more than the part: a chunk is much where there are few. */
uint32_t cm_chunk_floor(const struct cm_segment *segment) {
    enum { PER_MILLE = 40, MORE = 4 };
    return (uint32_t)((uint64_t)segment->layout.chunks * PER_MILLE / 1000) + MORE;
}

uint64_t cm_chunk_limit_bytes(const struct cm_segment *segment) {
    uint32_t kept = cm_chunk_floor(segment) + CM_CHUNK_RESERVE;
    return (uint64_t)(segment->layout.chunks - kept) << segment->chunk_shift;
}

/* --- the hints: relaxed, since a wrong one costs a search and nothing else --- */

static void hint_freed(struct cm_segment *segment, uint32_t index) {
    _Atomic uint32_t *lowest = &segment->header->lowest_free;
    uint32_t was = atomic_load_explicit(lowest, memory_order_relaxed);
    while (index < was && !atomic_compare_exchange_weak_explicit(lowest, &was, index, memory_order_relaxed,
                                                                 memory_order_relaxed)) {
    }
    atomic_fetch_add_explicit(&segment->header->free_chunks, 1, memory_order_relaxed);
}

static void hint_claimed(struct cm_segment *segment, uint32_t index) {
    uint32_t was = index;
    atomic_compare_exchange_strong_explicit(&segment->header->lowest_free, &was, index + 1,
                                            memory_order_relaxed, memory_order_relaxed);
    atomic_fetch_sub_explicit(&segment->header->free_chunks, 1, memory_order_relaxed);
}

/* --- transitions --- */

/* Before the swap that makes it more than a free hole; that releases it. */
static void reach(struct cm_segment *segment, uint32_t index) {
    _Atomic uint32_t *reached = &segment->header->reached;
    uint32_t was = atomic_load_explicit(reached, memory_order_relaxed);
    while (index >= was && !atomic_compare_exchange_weak_explicit(
                               reached, &was, index + 1, memory_order_release, memory_order_relaxed)) {
    }
}

/* `from` has been loaded with acquire: whatever made the chunk what it is, unlinking included, has happened
 * before. Then a full fence, then the look at the hazards. A reader stores its hazard, fences fully, and
 * looks at its group's sequence again: either this look sees the hazard, or that look sees that the entry was
 * unlinked. The swap acquires the chunk, and releases nothing that matters; the release fence behind it is
 * for the records that will be written: a reader that copied one of their words (relaxed) and then fences
 * (acquire) must see the sequence that was moved on before the chunk became free. */
bool cm_chunk_swap(struct cm_segment *segment, uint32_t index, uint64_t from, struct cm_chunk_word to,
                   bool exclusive) {
    if (exclusive) {
        atomic_thread_fence(memory_order_seq_cst);
        if (cm_hazard_any(segment, index))
            return false;
    }
    bool done = atomic_compare_exchange_strong_explicit(
        &segment->chunks[index].word, &from, cm_chunk_pack(to), memory_order_acq_rel, memory_order_relaxed);
    if (done && exclusive)
        atomic_thread_fence(memory_order_release);
    return done;
}

/* Of a chunk that only this process can change. */
static void set_word(struct cm_segment *segment, uint32_t index, struct cm_chunk_word word) {
    atomic_store_explicit(&segment->chunks[index].word, cm_chunk_pack(word), memory_order_release);
}

/* Takes the chunk if it is free, and a hole only where `holes`. 0; CM_E_BUSY; CM_E_NOMEMORY where there are
 * no pages for it. */
static int try_claim(struct cm_participant *participant, uint32_t index, bool holes) {
    struct cm_segment *segment = participant->segment;
    struct cm_chunk *chunk = &segment->chunks[index];
    uint64_t from = cm_chunk_load(segment, index);
    struct cm_chunk_word was = cm_chunk_unpack(from);
    if (!cm_chunk_is_free(&was) || (was.hole && !holes))
        return CM_E_BUSY;
    struct cm_chunk_word word = {.live_bytes = segment->layout.chunk_bytes,
                                 .state = CM_CHUNK_OPEN,
                                 .hole = was.hole,
                                 .owner = participant->id,
                                 .generation = was.generation + 1};
    reach(segment, index);
    if (!cm_chunk_swap(segment, index, from, word, true))
        return CM_E_BUSY;
    CM_FAULT("chunk-claimed");
    /* Release, like each move of `used`: who walks the chunk (acquire) sees records up to there, whole. */
    atomic_store_explicit(&chunk->used, 0, memory_order_release);
    atomic_store_explicit(&chunk->earliest_ms, CM_NEVER, memory_order_relaxed);
    hint_claimed(segment, index);
    CM_FAULT("chunk-emptied");
    if (!was.hole)
        return 0;
    /* Until the word says that there are pages, nothing is written: if this process dies, the word tells. */
    bool backed = !cm_segment_back(segment, cm_segment_chunk_at(segment, index), segment->layout.chunk_bytes);
    CM_FAULT("chunk-backed");
    if (!backed) {
        word = (struct cm_chunk_word){.hole = true, .generation = word.generation};
        hint_freed(segment, index);
    }
    word.hole = !backed;
    set_word(segment, index, word);
    return backed ? 0 : CM_E_NOMEMORY;
}

static int claim_from(struct cm_participant *participant, uint32_t first, bool holes, uint32_t *index) {
    int err = CM_E_BUSY;
    const struct cm_segment *segment = participant->segment;
    uint32_t end = holes ? segment->layout.chunks : cm_chunk_reached(segment);
    for (uint32_t i = first; err == CM_E_BUSY && i < end; i++) {
        err = try_claim(participant, i, holes);
        *index = i;
    }
    return err;
}

uint32_t cm_chunk_spare(const struct cm_segment *segment) {
    int64_t free = atomic_load_explicit(&segment->header->free_chunks, memory_order_relaxed);
    int64_t floor = cm_chunk_floor(segment);
    return free > floor ? (uint32_t)(free - floor) : 0;
}

bool cm_chunk_few_free(const struct cm_segment *segment) {
    return cm_chunk_spare(segment) == 0;
}

int cm_chunk_claim(struct cm_participant *participant, uint32_t *index) {
    struct cm_segment *segment = participant->segment;
    if (participant->id != CM_MASTER_SEAT && cm_chunk_few_free(segment)) {
        cm_participant_ring(participant, CM_RING_MEMORY);
        return CM_E_NOMEMORY;
    }
    uint32_t lowest = atomic_load_explicit(&segment->header->lowest_free, memory_order_relaxed);
    int err = claim_from(participant, lowest, false, index);
    if (err == CM_E_BUSY)
        err = claim_from(participant, lowest, true, index);
    /* The hint was wrong, or there are no pages for that one. */
    if (err)
        err = claim_from(participant, 0, false, index);
    if (err == CM_E_BUSY)
        err = claim_from(participant, 0, true, index);
    /* The master keeps a stock of free chunks with pages behind them. Waking it costs more than the claim. */
    if (err || ++participant->claims % CLAIMS_PER_RING == 0)
        cm_participant_ring(participant, CM_RING_MEMORY);
    return err ? CM_E_NOMEMORY : 0;
}

void cm_chunk_close(struct cm_segment *segment, uint32_t index, uint32_t used) {
    CM_FAULT("chunk-closing");
    struct cm_chunk *chunk = &segment->chunks[index];
    uint64_t from = atomic_load_explicit(&chunk->word, memory_order_relaxed);
    struct cm_chunk_word word;
    /* Release: who cleans it, or takes it, sees all its records. */
    do {
        word = cm_chunk_unpack(from);
        word.live_bytes -= segment->layout.chunk_bytes - used;
        word.state = CM_CHUNK_CLOSED;
        word.owner = 0;
    } while (!atomic_compare_exchange_weak_explicit(&chunk->word, &from, cm_chunk_pack(word),
                                                    memory_order_acq_rel, memory_order_relaxed));
    CM_FAULT("chunk-closed");
    if (word.live_bytes == 0)
        hint_freed(segment, index);
}

/* Release: who finds the chunk free (acquire) sees that the record is unlinked and its group's sequence moved
 * on. */
void cm_chunk_release(struct cm_segment *segment, uint64_t offset, uint32_t len_bytes) {
    uint32_t index = (uint32_t)cm_segment_chunk_of(segment, offset);
    uint64_t from =
        atomic_fetch_sub_explicit(&segment->chunks[index].word, len_bytes / UNIT, memory_order_acq_rel);
    struct cm_chunk_word word = cm_chunk_unpack(from - len_bytes / UNIT);
    if (cm_chunk_is_free(&word))
        hint_freed(segment, index);
}

/* The fence: what has been stored in the record is seen by a sweep whose exchange this load does not see.
 * (The sweep exchanges, fences, and looks at the records.) */
void cm_chunk_note_expiry(struct cm_segment *segment, uint64_t offset, uint64_t expires_ms) {
    _Atomic uint64_t *earliest = &segment->chunks[cm_segment_chunk_of(segment, offset)].earliest_ms;
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t was = atomic_load_explicit(earliest, memory_order_relaxed);
    while (expires_ms < was && !atomic_compare_exchange_weak_explicit(
                                   earliest, &was, expires_ms, memory_order_release, memory_order_relaxed)) {
    }
}

/* A free chunk becomes the master's for the time of a system call. */
static bool seize_free(struct cm_segment *segment, uint32_t index, bool hole, struct cm_chunk_word *word) {
    uint64_t from = cm_chunk_load(segment, index);
    *word = cm_chunk_unpack(from);
    if (!cm_chunk_is_free(word) || word->hole != hole)
        return false;
    word->state = CM_CHUNK_PUNCHING;
    word->owner = CM_MASTER_SEAT;
    word->generation++;
    reach(segment, index);
    return cm_chunk_swap(segment, index, from, *word, true);
}

int cm_chunk_back(struct cm_segment *segment, uint32_t index) {
    struct cm_chunk_word word;
    if (!seize_free(segment, index, true, &word))
        return CM_E_BUSY;
    int err = cm_segment_fill(segment, cm_segment_chunk_at(segment, index), segment->layout.chunk_bytes);
    set_word(segment, index, (struct cm_chunk_word){.hole = err != 0, .generation = word.generation});
    return err;
}

bool cm_chunk_punch(struct cm_segment *segment, uint32_t index) {
    struct cm_chunk_word word;
    if (!seize_free(segment, index, false, &word))
        return false;
    cm_segment_punch(segment, cm_segment_chunk_at(segment, index), segment->layout.chunk_bytes);
    set_word(segment, index, (struct cm_chunk_word){.hole = true, .generation = word.generation});
    return true;
}

void cm_chunk_count(struct cm_segment *segment, struct cm_chunk_census *census) {
    uint32_t reached = cm_chunk_reached(segment);
    *census = (struct cm_chunk_census){.free = segment->layout.chunks - reached};
    for (uint32_t i = 0; i < reached; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, i));
        census->live_bytes += word.live_bytes;
        if (cm_chunk_is_free(&word)) {
            census->free++;
            census->free_backed += !word.hole;
            continue;
        }
        uint64_t used = atomic_load_explicit(&segment->chunks[i].used, memory_order_relaxed);
        uint64_t rest = used <= segment->layout.chunk_bytes ? segment->layout.chunk_bytes - used : 0;
        if (word.state == CM_CHUNK_OPEN) {
            census->open++;
            census->live_bytes -= rest <= word.live_bytes ? rest : 0;
        } else {
            census->lost_bytes += rest < segment->record_most_bytes ? rest : segment->record_most_bytes;
        }
    }
}
