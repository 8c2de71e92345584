/* Chunks: the pieces of the segment that records are appended to, and the one word that says what each is.
 *
 * A chunk is open to one participant, which appends; or closed; or being cleaned or punched by the master.
 * Every transition is one compare-and-swap of the word. `live` counts the bytes that are reachable, or might
 * be: while a chunk is open it stands for the whole chunk, closing takes off what was not used, and each
 * record that is replaced or removed takes off its own. Closed with live 0 is free: nothing needs to be done
 * to free a chunk. */
#ifndef CM_MEMORY_CHUNK_H
#define CM_MEMORY_CHUNK_H

#include "memory/participant.h"

enum cm_chunk_state { CM_CHUNK_CLOSED, CM_CHUNK_OPEN, CM_CHUNK_CLEANING, CM_CHUNK_PUNCHING };

struct cm_chunk_word {
    uint32_t live_bytes;
    enum cm_chunk_state state;
    bool hole; /* no pages stand behind it: it is free, or about to get some */
    uint32_t owner;
    uint32_t generation; /* grows with each claim and punch */
};

struct cm_chunk_word cm_chunk_unpack(uint64_t word);
uint64_t cm_chunk_pack(struct cm_chunk_word word);

/* The word as it is now, packed: acquire, so that what made it so is seen. */
static inline uint64_t cm_chunk_load(const struct cm_segment *segment, uint32_t index) {
    return atomic_load_explicit(&segment->chunks[index].word, memory_order_acquire);
}

/* Chunks from this index on have never been used, and need no look: what a search costs goes by the memory
 * that is used. Acquire: who sees a chunk in use, or waitpid return its owner, sees a number above it. */
static inline uint32_t cm_chunk_reached(const struct cm_segment *segment) {
    uint32_t reached = atomic_load_explicit(&segment->header->reached, memory_order_acquire);
    return reached < segment->layout.chunks ? reached : segment->layout.chunks;
}

static inline bool cm_chunk_is_free(const struct cm_chunk_word *word) {
    return word->state == CM_CHUNK_CLOSED && word->live_bytes == 0;
}

enum { CM_CHUNK_RESERVE = 4 }; /* of the cleaner's */

/* So many free chunks are the master's alone to give out, so that reachable bytes cannot fill all of them:
 * cleaning would find nothing to win. */
uint32_t cm_chunk_floor(const struct cm_segment *segment);

/* How many bytes of records can be reachable at the most. */
uint64_t cm_chunk_limit_bytes(const struct cm_segment *segment);

/* Opens the lowest free chunk for the participant, with pages behind it. 0, or CM_E_NOMEMORY: for all but the
 * master also when few are left. */
int cm_chunk_claim(struct cm_participant *participant, uint32_t *index);

/* How many free chunks are not the master's alone, as the hint says; and whether there are none. */
uint32_t cm_chunk_spare(const struct cm_segment *segment);
bool cm_chunk_few_free(const struct cm_segment *segment);

/* Closes a chunk of the participant's, of which the first `used` bytes count. */
void cm_chunk_close(struct cm_segment *segment, uint32_t index, uint32_t used);

/* A record of that many bytes at the offset has become unreachable. Whoever made it so calls this, once. */
void cm_chunk_release(struct cm_segment *segment, uint64_t offset, uint32_t len_bytes);

/* Says that an entry in the chunk of that offset will expire: in the section, before and after it is linked
 * or its new expiry stored. */
void cm_chunk_note_expiry(struct cm_segment *segment, uint64_t offset, uint64_t expires_ms);

/* --- the master's transitions --- */

/* Changes the word, which must be exactly `from`; with `exclusive` only while nobody copies from the chunk,
 * which can be used anew then. */
bool cm_chunk_swap(struct cm_segment *segment, uint32_t index, uint64_t from, struct cm_chunk_word to,
                   bool exclusive);

/* Puts written pages behind a free chunk that has none. 0; CM_E_NOMEMORY; CM_E_BUSY for a chunk that is not
 * such. */
int cm_chunk_back(struct cm_segment *segment, uint32_t index);
/* Gives the pages of a free chunk back; false for one that is not free, or that somebody copies from. */
bool cm_chunk_punch(struct cm_segment *segment, uint32_t index);

/* Sets the hints afresh, which a death may have left wrong. What there is of each kind: */
struct cm_chunk_census {
    uint32_t free; /* holes included */
    uint32_t free_backed;
    uint32_t open;
    uint64_t live_bytes; /* of all that are not free; an open one's unused rest is not counted */
    uint64_t
        lost_bytes; /* rests of closed ones, that another packing would leave too: less than a record each */
};
void cm_chunk_count(struct cm_segment *segment, struct cm_chunk_census *census);

#endif
