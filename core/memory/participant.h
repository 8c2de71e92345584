/* A process's part in the segment: its seat, its sections, what it is copying from, and where it appends.
 *
 * A section is the time in which a participant owns one line: a group of the table, or a bucket of the lock
 * table (cm_segment_word). Its seat names the line before it is taken, so who finds the owner dead knows what
 * to free. Nothing in a section may call out, wait or allocate. One participant for each process, one thread.
 */
#ifndef CM_MEMORY_PARTICIPANT_H
#define CM_MEMORY_PARTICIPANT_H

#include "memory/segment.h"

enum { CM_MASTER_SEAT = 1 };

/* Where the next record goes; core/memory/append. */
struct cm_appender {
    uint32_t chunk;
    uint32_t at;         /* in the chunk */
    uint32_t mark_chunk; /* where the operation in progress began */
    uint32_t mark_at;
    uint32_t *held; /* chunks that it has filled; they stay open until its entry is linked */
    size_t held_count;
    size_t held_room;
};
#define CM_NO_CHUNK UINT32_MAX

/* Of the value being read: core/memory/pieces. */
struct cm_piece {
    uint64_t offset;
    uint64_t begins; /* behind so many bytes of key and value */
};

struct cm_participant {
    struct cm_segment *segment;
    struct cm_seat *seat;
    uint32_t id;
    uint32_t count; /* of its sections */
    struct cm_appender appender;
    struct cm_piece *pieces;
    size_t pieces_room;
    uint32_t inserts;                  /* less what it removed, since it last rang for growth */
    uint32_t claims;                   /* of chunks */
    uint32_t waits;                    /* of the section being entered */
    uint32_t tries;                    /* of the last read; for the tests */
    uint32_t hazards_from, hazards_to; /* words of the seat's hazards: what may be set lies between */
    /* Called now and then, with the owner's seat, while a line is waited for: the master's way of not
     * waiting for the dead. NULL: none. */
    void (*on_wait)(void *data, uint32_t owner);
    void *on_wait_data;
    int bell; /* an eventfd that wakes the master; -1: none */
};

/* Takes a free seat for a process that is about to start; the master's work. 0 or CM_E_NOMEMORY. */
int cm_seat_take(struct cm_segment *segment, uint32_t *id);
/* Says which process sits there. */
void cm_seat_assign(struct cm_segment *segment, uint32_t id, int32_t pid);
/* Frees the seat of a process that never started. */
void cm_seat_give_back(struct cm_segment *segment, uint32_t id);

void cm_participant_init(struct cm_participant *participant, struct cm_segment *segment, uint32_t id);
void cm_participant_deinit(struct cm_participant *participant);

/* --- words: {sequence 48, owner 16} --- */

static inline uint64_t cm_word(uint64_t sequence, uint32_t owner) {
    return sequence << 16 | owner;
}
static inline uint64_t cm_word_sequence(uint64_t word) {
    return word >> 16;
}
static inline uint32_t cm_word_owner(uint64_t word) {
    return (uint32_t)(word & 0xffff);
}

/* Tells the processor that this is a spin. */
static inline void cm_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

struct cm_section {
    _Atomic uint64_t *word;
    uint32_t line;
    uint64_t
        sequence; /* even: what it was when the section began, and what readers see until it is moved on */
};

/* Owns the line, which there is, from its return on. Waits for the present owner: briefly by spinning, then
 * by yielding. */
void cm_section_enter(struct cm_participant *participant, uint32_t line, struct cm_section *section);
/* As above, but gives up after a short spin. */
bool cm_section_try(struct cm_participant *participant, uint32_t line, struct cm_section *section);
/* Owns the line, shut, if its word is that one, with no owner: in one swap. False: nothing has been done. */
bool cm_section_retake(struct cm_participant *participant, uint32_t line, uint64_t word,
                       struct cm_section *section);
/* Makes the change that has been stored visible: readers that began before it will look again. */
void cm_section_publish(struct cm_participant *participant, struct cm_section *section);
/* Makes readers wait until the next publish: for what takes more than one store. */
void cm_section_shut(struct cm_participant *participant, const struct cm_section *section);
void cm_section_leave(const struct cm_section *section);
/* Publishes and leaves, in one store. */
void cm_section_finish(struct cm_section *section);

/* --- hazards: chunks that must not be used again while somebody copies from them --- */

void cm_hazard_set(struct cm_participant *participant, uint32_t chunk);
void cm_hazard_clear(struct cm_participant *participant); /* all of them */
/* Whether anybody names the chunk. Who asks has loaded the chunk's word before, and fenced. */
bool cm_hazard_any(const struct cm_segment *segment, uint32_t chunk);

/* --- the barrier --- */

/* A moment behind which everything published before it is seen by every section: what each seat was at when
 * the barrier was begun, until it has been seen outside. */
struct cm_barrier {
    uint64_t *sections; /* for each seat: where it was, or that it has passed */
    uint32_t left;
};

/* What is to be seen has been stored already. 0 or CM_E_NOMEMORY. */
int cm_barrier_begin(struct cm_barrier *barrier, const struct cm_segment *segment);
/* Looks again, without waiting. Once it is passed the barrier is over and needs no deinit. */
bool cm_barrier_passed(struct cm_barrier *barrier, const struct cm_segment *segment);
void cm_barrier_deinit(struct cm_barrier *barrier);

/* Wakes the master for CM_RING_.... Once is enough until it has heard. */
void cm_participant_ring(struct cm_participant *participant, uint32_t what);

#endif
