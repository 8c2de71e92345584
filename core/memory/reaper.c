#include "memory/reaper.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/error.h"
#include "memory/append.h"
#include "memory/table.h"

enum {
    STILL_MS = 1000,
    IN_TIME_MS = 700, /* between two looks: beyond, it may have been the master that stood still */
    LOOK_MS = 100,
    FRAGMENTS_MOST = 1 << 24, /* of a value: a bound for a list that may lead in a circle */
};

/* Where a seat was seen, and since when. */
struct cm_stand {
    uint64_t section;
    uint64_t word;
    uint64_t since_ms;
};

int cm_reaper_init(struct cm_reaper *reaper, struct cm_segment *segment, struct cm_cleaner *cleaner) {
    *reaper = (struct cm_reaper){.segment = segment, .cleaner = cleaner};
    reaper->stands = calloc(segment->layout.seats + 1, sizeof *reaper->stands);
    return reaper->stands ? 0 : CM_E_NOMEMORY;
}

void cm_reaper_deinit(struct cm_reaper *reaper) {
    free(reaper->stands);
    *reaper = (struct cm_reaper){0};
}

/* The line that the seat's section names, if the seat owns it. */
static _Atomic uint64_t *owned_line(const struct cm_segment *segment, uint32_t id, uint64_t section,
                                    uint64_t *word) {
    _Atomic uint64_t *line = cm_segment_word(segment, (uint32_t)section);
    if (!line)
        return NULL;
    *word = atomic_load_explicit(line, memory_order_acquire);
    return cm_word_owner(*word) == id ? line : NULL;
}

static void free_line(struct cm_reaper *reaper, uint32_t id) {
    struct cm_seat *seat = cm_segment_seat(reaper->segment, id);
    uint64_t word;
    _Atomic uint64_t *line = owned_line(reaper->segment, id, atomic_load(&seat->section), &word);
    if (!line)
        return;
    cm_table_settle_count(reaper->segment, id, (uint32_t)atomic_load(&seat->section));
    /* To the next even number, in any case on: readers that saw what it was in the midst of look again, and a
     * number that it published has its version. Release: what it stored counts from here on. */
    uint64_t next = cm_word((cm_word_sequence(word) | 1) + 1, 0);
    atomic_compare_exchange_strong_explicit(line, &word, next, memory_order_acq_rel, memory_order_relaxed);
}

/* The chunks that it had opened, found by the chunks' own words: it may have died before it took note. */
static void close_chunks(struct cm_reaper *reaper, uint32_t id) {
    struct cm_segment *segment = reaper->segment;
    uint32_t reached = cm_chunk_reached(segment);
    for (uint32_t i = 0; i < reached; i++) {
        struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, i));
        if (word.state != CM_CHUNK_OPEN || word.owner != id)
            continue;
        uint64_t used = atomic_load(&segment->chunks[i].used);
        if (word.hole) {
            /* It had not come to using it. */
            word = (struct cm_chunk_word){.hole = true, .generation = word.generation};
            cm_chunk_swap(segment, i, cm_chunk_load(segment, i), word, false);
            continue;
        }
        if (used > segment->layout.chunk_bytes)
            used = 0;
        cm_chunk_close(segment, i, (uint32_t)used);
        cm_cleaner_mark(reaper->cleaner, i);
    }
}

static void mark_chunk_of(struct cm_reaper *reaper, uint64_t offset) {
    uint64_t chunk = cm_segment_chunk_of(reaper->segment, offset);
    if (offset && chunk < reaper->segment->layout.chunks)
        cm_cleaner_mark(reaper->cleaner, (uint32_t)chunk);
}

/* What it was giving up counts as live still, wherever it had not come to yet. */
static void mark_retiring(struct cm_reaper *reaper, struct cm_seat *seat) {
    uint64_t retiring = atomic_exchange(&seat->retiring, 0);
    if (!retiring)
        return;
    mark_chunk_of(reaper, retiring);
    uint64_t offset = atomic_load(&seat->retiring_rest);
    if (offset == retiring)
        return; /* it was linking a new entry at the place that had been vacated: there are no fragments */
    for (int i = 0; offset && i < FRAGMENTS_MOST; i++) {
        struct cm_record *fragment = cm_record_at(reaper->segment, offset);
        if (!fragment)
            return;
        mark_chunk_of(reaper, offset);
        offset = atomic_load_explicit(&fragment->next, memory_order_relaxed);
    }
}

void cm_reaper_repair(struct cm_reaper *reaper, uint32_t id) {
    free_line(reaper, id);
    close_chunks(reaper, id);
    /* Before anything is cleaned: the list of fragments leads through chunks that may be. */
    mark_retiring(reaper, cm_segment_seat(reaper->segment, id));
}

void cm_reaper_bury(struct cm_reaper *reaper, uint32_t id) {
    struct cm_seat *seat = cm_segment_seat(reaper->segment, id);
    cm_reaper_repair(reaper, id);
    /* Stores only where there is something: of a very large memory these are millions of words. */
    for (uint32_t i = 0; i < (reaper->segment->layout.chunks + 63) / 64; i++) {
        if (atomic_load_explicit(&seat->hazards[i], memory_order_relaxed))
            atomic_store(&seat->hazards[i], 0);
    }
    atomic_store(&seat->retiring_rest, 0);
    atomic_store(&seat->waiting_on, 0);
    /* The section keeps its count, and the entries stay counted. */
    reaper->stands[id] = (struct cm_stand){0};
    cm_seat_give_back(reaper->segment, id);
}

/* Whether waitpid would return it, which is left to whoever has started it, or has returned it already: then
 * it is no child any more, and its number may be somebody else's. */
static bool has_ended(int32_t pid) {
    siginfo_t info = {0};
    int result = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
    return result < 0 ? errno == ECHILD : info.si_pid == pid;
}

/* Whether it holds the cache's lock, and does not only wait for a group that another one has. */
static bool holds_cache(const struct cm_segment *segment, uint32_t id, uint64_t *word) {
    *word = atomic_load_explicit(&segment->header->cache.lock, memory_order_acquire);
    uint32_t waiting_on = atomic_load(&cm_segment_seat(segment, id)->waiting_on);
    return cm_word_owner(*word) == id && !(waiting_on && waiting_on <= segment->layout.groups_most &&
                                           cm_word_owner(atomic_load(&segment->groups[waiting_on - 1].word)));
}

void cm_reaper_look(struct cm_reaper *reaper, uint64_t now_ms) {
    bool in_time = now_ms - reaper->looked_ms <= IN_TIME_MS;
    reaper->looked_ms = now_ms;
    for (uint32_t id = CM_MASTER_SEAT + 1; id <= reaper->segment->layout.seats; id++) {
        struct cm_seat *seat = cm_segment_seat(reaper->segment, id);
        struct cm_stand *stand = &reaper->stands[id];
        int32_t pid = atomic_load(&seat->pid);
        uint64_t section = atomic_load(&seat->section);
        uint64_t word;
        bool inside = pid > 0 && (owned_line(reaper->segment, id, section, &word) ||
                                  holds_cache(reaper->segment, id, &word));
        if (!inside || !in_time || section != stand->section || word != stand->word) {
            *stand = (struct cm_stand){section, inside ? word : 0, now_ms};
        } else if (has_ended(pid)) {
            cm_reaper_repair(reaper, id);
        } else if (now_ms - stand->since_ms >= STILL_MS) {
            if (reaper->on_stand_still)
                reaper->on_stand_still(reaper->data, pid);
            kill(pid, SIGKILL);
            stand->since_ms = now_ms;
        }
    }
}

void cm_reaper_on_wait(void *data, uint32_t owner) {
    struct cm_reaper *reaper = data;
    uint64_t now_ms = cm_clock_ms();
    if (now_ms == reaper->waited_ms || owner <= CM_MASTER_SEAT || owner > reaper->segment->layout.seats)
        return;
    reaper->waited_ms = now_ms;
    int32_t pid = atomic_load(&cm_segment_seat(reaper->segment, owner)->pid);
    if (pid > 0 && has_ended(pid))
        cm_reaper_repair(reaper, owner);
    if (now_ms - reaper->looked_ms >= LOOK_MS)
        cm_reaper_look(reaper, now_ms);
}

bool cm_reaper_is_dead(void *data, uint32_t owner) {
    struct cm_reaper *reaper = data;
    cm_reaper_on_wait(reaper, owner);
    if (owner <= CM_MASTER_SEAT || owner > reaper->segment->layout.seats)
        return false;
    int32_t pid = atomic_load(&cm_segment_seat(reaper->segment, owner)->pid);
    if (pid <= 0 || !has_ended(pid))
        return false;
    cm_reaper_repair(reaper, owner);
    return true;
}
