#include "memory/cleaner.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "memory/append.h"

enum {
    SLICE_RECORDS = 500, /* less than a millisecond's work */
    TARGET_PART = 64,    /* of the chunks are to be free */
    LEAST_TARGET = 3,
    WORTH_PER_MILLE = 120, /* to be won in a chunk that is cleaned ahead of need */
    NEED_PER_MILLE = 10,   /* when there is no room otherwise */
    LOST_PER_MILLE = 20,   /* of the chunks' bytes may be lost in their rests, beside what is reachable */
    STOCK_CHUNKS = 16,     /* backed ahead of need */
    STOCK_SLICE = 4,
    KEPT_PART = 32, /* of the chunks may stay backed while they are free */
};

int cm_cleaner_init(struct cm_cleaner *cleaner, struct cm_segment *segment) {
    *cleaner = (struct cm_cleaner){.segment = segment, .victim = CM_NO_CHUNK};
    cm_participant_init(&cleaner->mover, segment, CM_MASTER_SEAT);
    cleaner->marks = calloc((segment->layout.chunks + 63) / 64, sizeof *cleaner->marks);
    if (!cleaner->marks)
        return CM_E_NOMEMORY;
    for (; cleaner->reserve_count < CM_CHUNK_RESERVE; cleaner->reserve_count++) {
        if (cm_chunk_claim(&cleaner->mover, &cleaner->reserve[cleaner->reserve_count])) {
            cm_cleaner_deinit(cleaner);
            return CM_E_NOMEMORY;
        }
    }
    return 0;
}

void cm_cleaner_deinit(struct cm_cleaner *cleaner) {
    cm_participant_deinit(&cleaner->mover);
    free(cleaner->marks);
    free(cleaner->parked);
    *cleaner = (struct cm_cleaner){.victim = CM_NO_CHUNK};
}

void cm_cleaner_mark(struct cm_cleaner *cleaner, uint32_t chunk) {
    if (chunk >= cm_chunk_reached(cleaner->segment))
        return;
    uint64_t bit = UINT64_C(1) << chunk % 64;
    cleaner->marked += !(cleaner->marks[chunk / 64] & bit);
    cleaner->marks[chunk / 64] |= bit;
}

static void unmark(struct cm_cleaner *cleaner, uint32_t chunk) {
    uint64_t bit = UINT64_C(1) << chunk % 64;
    cleaner->marked -= (cleaner->marks[chunk / 64] & bit) != 0;
    cleaner->marks[chunk / 64] &= ~bit;
}

/* --- choosing --- */

/* Makes the chunk the victim, if it is closed with something in it. */
static bool seize(struct cm_cleaner *cleaner, uint32_t chunk) {
    uint64_t from;
    struct cm_chunk_word word;
    do { /* its count may change meanwhile */
        from = cm_chunk_load(cleaner->segment, chunk);
        word = cm_chunk_unpack(from);
        if (word.state != CM_CHUNK_CLOSED || word.live_bytes == 0)
            return false;
        word.state = CM_CHUNK_CLEANING;
    } while (!cm_chunk_swap(cleaner->segment, chunk, from, word, false));
    /* Before the looks at its records: see core/memory/vacancy. */
    atomic_thread_fence(memory_order_seq_cst);
    cleaner->victim = chunk;
    cleaner->at = 0;
    return true;
}

static bool seize_marked(struct cm_cleaner *cleaner) {
    uint32_t reached = cm_chunk_reached(cleaner->segment);
    for (uint32_t i = 0; cleaner->marked && i < reached; i++) {
        if (!(cleaner->marks[i / 64] >> i % 64 & 1))
            continue;
        if (seize(cleaner, i))
            return true;
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(cleaner->segment, i));
        if (cm_chunk_is_free(&word))
            unmark(cleaner, i); /* all that was in doubt has gone by itself */
    }
    return false;
}

/* What cleaning the chunk would win: its dead bytes, and what it leaves unused beyond what may be lost again,
 * since a record that does not fit in the rest of a chunk goes to the next. So each cleaning lessens the sum
 * of this over all chunks, and there is an end to it. */
static uint32_t gain(const struct cm_segment *segment, const struct cm_chunk *chunk, uint32_t live_bytes) {
    uint64_t used = atomic_load_explicit(&chunk->used, memory_order_relaxed);
    uint32_t chunk_bytes = segment->layout.chunk_bytes;
    if (used > chunk_bytes || used < live_bytes)
        return 0;
    uint32_t rest = chunk_bytes - (uint32_t)used;
    uint32_t lost = segment->record_most_bytes;
    return (uint32_t)used - live_bytes + (rest > lost ? rest - lost : 0);
}

/* 0: it is not one to be cleaned. */
static uint32_t gain_of(const struct cm_segment *segment, uint32_t chunk) {
    struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, chunk));
    if (word.state != CM_CHUNK_CLOSED || word.live_bytes == 0)
        return 0;
    return gain(segment, &segment->chunks[chunk], word.live_bytes);
}

/* Keeps the candidates sorted, and of more than there is room for the better ones. */
static void note_candidate(struct cm_cleaner *cleaner, struct cm_candidate candidate) {
    struct cm_candidate *candidates = cleaner->candidates;
    uint32_t at;
    if (cleaner->candidate_count < CM_CLEANER_CANDIDATES) {
        at = cleaner->candidate_count++;
        for (; at && candidates[at - 1].gain_bytes > candidate.gain_bytes; at--)
            candidates[at] = candidates[at - 1];
    } else if (candidates[0].gain_bytes < candidate.gain_bytes) {
        for (at = 0; at + 1 < CM_CLEANER_CANDIDATES && candidates[at + 1].gain_bytes < candidate.gain_bytes;
             at++)
            candidates[at] = candidates[at + 1];
    } else {
        return;
    }
    candidates[at] = candidate;
}

/* The closed chunk in which the most is to be won, if that is at least so much. All are looked at only now
 * and then: there may be many, and cleaning one changes little for the others. */
static bool seize_emptiest(struct cm_cleaner *cleaner, unsigned least_per_mille) {
    struct cm_segment *segment = cleaner->segment;
    uint32_t least = (uint32_t)((uint64_t)segment->layout.chunk_bytes * least_per_mille / 1000);
    for (bool looked = false;; looked = true) {
        while (cleaner->candidate_count) {
            uint32_t chunk = cleaner->candidates[--cleaner->candidate_count].chunk;
            if (gain_of(segment, chunk) > least && seize(cleaner, chunk))
                return true;
        }
        if (looked)
            return false;
        uint32_t reached = cm_chunk_reached(segment);
        for (uint32_t i = 0; i < reached; i++) {
            uint32_t won = gain_of(segment, i);
            if (won > least)
                note_candidate(cleaner, (struct cm_candidate){i, won});
        }
    }
}

/* --- cleaning --- */

/* A place for a copy, out of the reserve, which holds what one victim can need, and more. It is used up only
 * where hazards keep several emptied victims; then the chunks that are the master's alone have to serve. */
static int make_room(struct cm_cleaner *cleaner, uint64_t len_bytes, uint64_t *offset) {
    struct cm_appender *appender = &cleaner->mover.appender;
    if (appender->chunk != CM_NO_CHUNK && cleaner->segment->layout.chunk_bytes - appender->at < len_bytes)
        cm_append_close(&cleaner->mover);
    if (appender->chunk == CM_NO_CHUNK) {
        uint32_t chunk;
        if (cleaner->reserve_count)
            chunk = cleaner->reserve[--cleaner->reserve_count];
        else if (cm_chunk_claim(&cleaner->mover, &chunk))
            return CM_E_NOMEMORY;
        appender->chunk = chunk;
        appender->at = 0;
    }
    return cm_append_room(&cleaner->mover, len_bytes, offset);
}

/* Moves the record, if anything leads to it. CM_E_BUSY: its group is not to be had; who needs the room waits
 * for it. */
static int move_record(struct cm_cleaner *cleaner, uint64_t offset, const struct cm_record *record,
                       uint32_t len_bytes, bool wait) {
    struct cm_participant *mover = &cleaner->mover;
    uint64_t hash = atomic_load_explicit((_Atomic uint64_t *)&record->hash, memory_order_relaxed);
    uint64_t to;
    int err = make_room(cleaner, len_bytes, &to);
    if (err)
        return err;
    struct cm_section section;
    if (wait)
        cm_table_enter(mover, hash, &section);
    else if (!cm_table_try(mover, hash, &section))
        return CM_E_BUSY;
    bool is_fragment = cm_record_shape(record).kind == CM_KIND_FRAGMENT;
    _Atomic uint64_t *link = is_fragment ? cm_table_link_to_fragment(mover, &section, hash, offset)
                                         : cm_table_link_to(mover, &section, hash, offset);
    if (!link) {
        cm_section_leave(&section);
        return 0;
    }
    struct cm_record *copy = cm_record_at(cleaner->segment, to);
    cm_record_copy(copy, record, len_bytes);
    cm_append_written(mover, len_bytes);
    uint64_t expires_ms = atomic_load_explicit(&copy->expires_ms, memory_order_relaxed);
    if (expires_ms && !is_fragment)
        cm_chunk_note_expiry(cleaner->segment, to, expires_ms);
    cm_table_relink(mover, &section, link, offset, to, len_bytes);
    cleaner->copied_bytes += len_bytes;
    return 0;
}

/* The victim has been emptied: it fills the reserve up, or becomes free. Not while somebody copies from it.
 */
static bool release_chunk(struct cm_cleaner *cleaner, uint32_t chunk) {
    struct cm_segment *segment = cleaner->segment;
    uint64_t from = cm_chunk_load(segment, chunk);
    struct cm_chunk_word word = {.live_bytes = segment->layout.chunk_bytes,
                                 .state = CM_CHUNK_OPEN,
                                 .owner = CM_MASTER_SEAT,
                                 .generation = cm_chunk_unpack(from).generation + 1};
    if (!cm_chunk_swap(segment, chunk, from, word, true))
        return false;
    atomic_store_explicit(&segment->chunks[chunk].used, 0, memory_order_release);
    atomic_store_explicit(&segment->chunks[chunk].earliest_ms, CM_NEVER, memory_order_relaxed);
    if (cleaner->reserve_count < CM_CHUNK_RESERVE)
        cleaner->reserve[cleaner->reserve_count++] = chunk;
    else
        cm_chunk_close(segment, chunk, 0);
    unmark(cleaner, chunk);
    cleaner->cleaned_chunks++;
    return true;
}

static void release_parked(struct cm_cleaner *cleaner) {
    for (uint32_t i = 0; i < cleaner->parked_count;) {
        if (release_chunk(cleaner, cleaner->parked[i]))
            cleaner->parked[i] = cleaner->parked[--cleaner->parked_count];
        else
            i++;
    }
}

static int park(struct cm_cleaner *cleaner, uint32_t chunk) {
    if (cleaner->parked_count == cleaner->parked_room) {
        uint32_t room = cleaner->parked_room ? cleaner->parked_room * 2 : 16;
        uint32_t *parked = realloc(cleaner->parked, room * sizeof *parked);
        if (!parked)
            return CM_E_NOMEMORY;
        cleaner->parked = parked;
        cleaner->parked_room = room;
    }
    cleaner->parked[cleaner->parked_count++] = chunk;
    return 0;
}

/* Goes on with the victim. CM_CLEANED_ENOUGH: it is done. */
static enum cm_cleaned clean(struct cm_cleaner *cleaner, unsigned records, bool wait) {
    struct cm_segment *segment = cleaner->segment;
    uint64_t start = cm_segment_chunk_at(segment, cleaner->victim);
    uint64_t used = atomic_load_explicit(&segment->chunks[cleaner->victim].used, memory_order_acquire);
    if (used > segment->layout.chunk_bytes)
        used = segment->layout.chunk_bytes;
    for (; cleaner->at < used; records--) {
        if (!records)
            return CM_CLEANED_MORE;
        struct cm_record *record = cm_record_at(segment, start + cleaner->at);
        uint64_t len_bytes = record ? cm_shape_bytes(cm_record_shape(record)) : 0;
        if (len_bytes == 0 || len_bytes > used - cleaner->at)
            break; /* left half-written by a death */
        if (move_record(cleaner, start + cleaner->at, record, (uint32_t)len_bytes, wait))
            return CM_CLEANED_LATER;
        cleaner->at += (uint32_t)len_bytes;
    }
    if (!release_chunk(cleaner, cleaner->victim) && park(cleaner, cleaner->victim))
        return CM_CLEANED_LATER;
    cleaner->victim = CM_NO_CHUNK;
    return CM_CLEANED_ENOUGH;
}

/* So many chunks are to be free: for the others, beyond what is the master's alone. */
static uint32_t target(const struct cm_segment *segment) {
    uint32_t part = segment->layout.chunks / TARGET_PART;
    return cm_chunk_floor(segment) + (part > LEAST_TARGET ? part : LEAST_TARGET);
}

static bool few_free(const struct cm_segment *segment) {
    return atomic_load_explicit(&segment->header->free_chunks, memory_order_relaxed) <
           (int64_t)target(segment);
}

enum cm_cleaned cm_cleaner_run(struct cm_cleaner *cleaner) {
    release_parked(cleaner);
    if (cleaner->victim == CM_NO_CHUNK && !seize_marked(cleaner) &&
        !(few_free(cleaner->segment) && seize_emptiest(cleaner, WORTH_PER_MILLE)))
        return cleaner->parked_count ? CM_CLEANED_LATER : CM_CLEANED_ENOUGH;
    enum cm_cleaned done = clean(cleaner, SLICE_RECORDS, false);
    return done == CM_CLEANED_ENOUGH ? CM_CLEANED_MORE : done;
}

bool cm_cleaner_is_short(const struct cm_cleaner *cleaner) {
    return few_free(cleaner->segment);
}

int cm_cleaner_make_room(struct cm_cleaner *cleaner, uint64_t bytes, uint64_t freed_bytes) {
    struct cm_segment *segment = cleaner->segment;
    uint64_t limit = cm_chunk_limit_bytes(segment);
    uint64_t allowed = ((uint64_t)segment->layout.chunks << segment->chunk_shift) / 1000 * LOST_PER_MILLE;
    struct cm_chunk_census census;
    for (;;) {
        cm_chunk_count(segment, &census);
        /* The floor has room for the usual rests; only where more is lost does it count. */
        uint64_t taken = census.live_bytes + (census.lost_bytes > allowed ? census.lost_bytes - allowed : 0);
        uint64_t kept = taken > freed_bytes ? taken - freed_bytes : 0;
        /* What grows by nothing is not refused. */
        if (bytes > limit || (bytes > freed_bytes && kept > limit - bytes))
            return CM_E_NOMEMORY;
        uint64_t needed = bytes / segment->layout.chunk_bytes * 17 / 16 + 2;
        if (census.free >= needed)
            return 0;
        /* Each victim frees one at the most, so there is no need to count before. */
        for (uint64_t i = census.free; i < needed; i++) {
            release_parked(cleaner);
            bool seized = cleaner->victim != CM_NO_CHUNK || seize_marked(cleaner) ||
                          seize_emptiest(cleaner, NEED_PER_MILLE);
            if (!seized && i == census.free)
                return CM_E_NOMEMORY;
            if (!seized)
                break;
            if (clean(cleaner, UINT32_MAX, true) != CM_CLEANED_ENOUGH)
                return CM_E_NOMEMORY;
        }
    }
}

/* At most so many holes get pages: a few, and no more when a millisecond is over. True when some are left. */
static bool back_some(struct cm_segment *segment, uint32_t most) {
    uint64_t began_ms = cm_clock_ms();
    uint32_t done = 0;
    for (uint32_t i = 0; i < segment->layout.chunks; i++) {
        int err = cm_chunk_back(segment, i);
        if (err == CM_E_NOMEMORY || (!err && ++done == most))
            return false;
        if (!err && (done == STOCK_SLICE || cm_clock_ms() > began_ms))
            return true;
    }
    return false;
}

static bool punch_some(struct cm_segment *segment, uint32_t most) {
    uint32_t done = 0;
    for (uint32_t i = cm_chunk_reached(segment); i-- > 0 && done < STOCK_SLICE && done < most;)
        done += cm_chunk_punch(segment, i);
    return done == STOCK_SLICE;
}

bool cm_cleaner_stock(struct cm_segment *segment, bool growing) {
    struct cm_chunk_census census;
    cm_chunk_count(segment, &census);
    atomic_store_explicit(&segment->header->free_chunks, (int32_t)census.free, memory_order_relaxed);
    if (growing)
        return census.free_backed < STOCK_CHUNKS && back_some(segment, STOCK_CHUNKS - census.free_backed);
    uint32_t part = segment->layout.chunks / KEPT_PART, kept = part > STOCK_CHUNKS ? part : STOCK_CHUNKS;
    return census.free_backed > kept && punch_some(segment, census.free_backed - kept);
}
