/* Recency: a slot for each entry of the cache, and a queue and a heap that find the least recently used one.
 *
 * A slot's word is {stamp 56, generation 8}. Who uses the entry stamps the word with one compare-and-swap and
 * tells nobody: queue and heap are ordered by the stamps that were last seen, and catch up when a slot is the
 * first of both. What is put in comes with the latest stamp, so it goes to the end of the queue; most of it
 * is never used again, and leaves at the head. What has been used when it comes there is moved to the heap.
 * The generation grows when the entry leaves its slot, so no late hit stamps the next one. Any process may
 * stamp; all else is for who holds the cache's lock (core/data/lru).
 *
 * Slots, and the heap's items, get their memory when they are first used. */
#ifndef CM_DATA_RECENCY_H
#define CM_DATA_RECENCY_H

#include "memory/segment.h"

enum { CM_RECENCY_MOST_SLOTS = 1 << 24 }; /* a tag has 24 bits for them */

/* Slots in all; no entry is cached without one. */
uint32_t cm_recency_capacity(const struct cm_segment *segment);
/* A memory that is enough for so many slots, in whole MiB. */
uint64_t cm_recency_memory_for(uint64_t slots);

static inline uint64_t cm_recency_stamp(uint64_t word) {
    return word >> 8;
}
static inline uint8_t cm_recency_generation(uint64_t word) {
    return (uint8_t)word;
}

uint64_t cm_recency_word(const struct cm_segment *segment, uint32_t slot);

/* Stamps the slot, unless it has a later stamp. False: the generation is another, the entry has left. */
bool cm_recency_touch(const struct cm_segment *segment, uint32_t slot, uint8_t generation, uint64_t stamp);

/* --- under the cache's lock --- */

/* Makes sure that there is a free slot, given that not all of them are in use. 0 or CM_E_NOMEMORY. A system
 * call now and then: not in a section. */
int cm_recency_reserve(struct cm_segment *segment);
/* Takes it, for an entry of that hash. */
uint32_t cm_recency_take(struct cm_segment *segment, uint64_t hash, uint64_t stamp);
/* Its entry is linked. */
void cm_recency_push(struct cm_segment *segment, uint32_t slot);
uint64_t cm_recency_hash(const struct cm_segment *segment, uint32_t slot);

/* The slot that nobody has used for the longest, and the stamp that says so. CM_E_NOTFOUND: there is none.
 * CM_E_BUSY: *tries, of which each slot that turns out to have been used takes one, has come to 0. */
int cm_recency_oldest(struct cm_segment *segment, unsigned *tries, uint32_t *slot, uint64_t *stamp);
/* Tells the processor which slots, groups and entries are looked at when the next ones go: nobody has touched
 * them for long. After each that goes. */
void cm_recency_prefetch(const struct cm_segment *segment);
/* Any slot that holds an entry, the one that is the cheapest to take out. */
bool cm_recency_last(const struct cm_segment *segment, uint32_t *slot);

/* The entry leaves: no hit stamps the slot from here on. In its group's section, before it is unlinked. The
 * first one fails if the stamp is not the slot's any more. */
bool cm_recency_retire_if(const struct cm_segment *segment, uint32_t slot, uint64_t stamp);
void cm_recency_retire(const struct cm_segment *segment, uint32_t slot);
/* It has been unlinked: takes the slot out of queue or heap, and frees it. */
void cm_recency_free(struct cm_segment *segment, uint32_t slot);

/* Forgets queue, heap and free slots; stamps, generations and hashes stay. What follows is a push, or a
 * give-back, for each of the slots_used. */
void cm_recency_forget(struct cm_segment *segment);
void cm_recency_give_back(struct cm_segment *segment, uint32_t slot);

#endif
