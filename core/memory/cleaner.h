/* The cleaner: the master's way of making free chunks out of half-empty ones. It copies what is still
 * reachable out of a chunk, group by group, into a reserve that it took before anybody else could, and the
 * emptied chunk fills the reserve up again. So cleaning never depends on there being memory.
 *
 * It also evacuates chunks in which a death has left things unknown: those are marked. Runs in slices; the
 * master's thread. After M. Rosenblum and J. Ousterhout, "The design and implementation of a log-structured
 * file system", 1992. */
#ifndef CM_MEMORY_CLEANER_H
#define CM_MEMORY_CLEANER_H

#include "memory/chunk.h"
#include "memory/table.h"

enum { CM_CLEANER_CANDIDATES = 32 };

struct cm_cleaner {
    struct cm_segment *segment;
    struct cm_participant mover; /* copies, in the master's name */
    uint32_t reserve[CM_CHUNK_RESERVE];
    uint32_t reserve_count;
    uint64_t *marks; /* a bit for each chunk that is to be evacuated */
    uint32_t marked;
    uint32_t victim; /* being cleaned, or CM_NO_CHUNK */
    uint32_t at;     /* in it */
    /* The chunks worth most when all were last looked at, the best last. */
    struct cm_candidate {
        uint32_t chunk;
        uint32_t gain_bytes;
    } candidates[CM_CLEANER_CANDIDATES];
    uint32_t candidate_count;
    uint32_t *parked; /* cleaned, and still named by a hazard */
    uint32_t parked_count;
    uint32_t parked_room;
    uint64_t copied_bytes; /* since the start: for the write amplification */
    uint64_t cleaned_chunks;
};

/* Takes the reserve; to be called before any process starts. 0 or CM_E_NOMEMORY. */
int cm_cleaner_init(struct cm_cleaner *cleaner, struct cm_segment *segment);
void cm_cleaner_deinit(struct cm_cleaner *cleaner);

/* The chunk is to be evacuated, whoever it is open to: that process is dead. */
void cm_cleaner_mark(struct cm_cleaner *cleaner, uint32_t chunk);

enum cm_cleaned {
    CM_CLEANED_ENOUGH, /* nothing to do */
    CM_CLEANED_MORE,   /* call again soon */
    CM_CLEANED_LATER,  /* somebody is in the way; call again in some milliseconds */
};

/* A slice of work, while chunks are marked (those that are open still wait until they are not), or fewer than
 * the cleaner's target are free and some are worth cleaning. */
enum cm_cleaned cm_cleaner_run(struct cm_cleaner *cleaner);

/* Whether fewer chunks are free than the cleaner aims at, though it has nothing left to clean. */
bool cm_cleaner_is_short(const struct cm_cleaner *cleaner);

/* Cleans until that many bytes can be appended, in the place of entries of about `freed_bytes`, and waits for
 * groups that it needs for that (mover.on_wait). 0, or CM_E_NOMEMORY where what is reachable would leave no
 * room for them: this is the one place that decides that the memory is full. */
int cm_cleaner_make_room(struct cm_cleaner *cleaner, uint64_t bytes, uint64_t freed_bytes);

/* Keeps a stock of free chunks with pages behind them, and gives the pages of others back; at most a few at a
 * time. True when there is more to do. `growing`: somebody is taking chunks now. */
bool cm_cleaner_stock(struct cm_segment *segment, bool growing);

#endif
