/* What the master knows by a lock's name: entries with their waiters, locks that it keeps itself, and the
 * marks of the abandoned. What the files of core/data/lockq share; theirs alone. */
#ifndef CM_DATA_LOCKNAME_H
#define CM_DATA_LOCKNAME_H

#include "data/lockq.h"

/* --- a lock's words; see core/data/lock for what they order --- */

static inline uint64_t cm_word_load(const _Atomic uint64_t *word) {
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_acquire);
}
static inline void cm_word_store(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}
static inline bool cm_word_swap(_Atomic uint64_t *word, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong(word, &from, to);
}

/* --- entries --- */

/* The entry of that name, a new one if need be; NULL without memory. It is to be dropped again. */
struct cm_lock_entry *cm_lockname_take(struct cm_lockq *queue, struct cm_hash128 name);
/* The entry of that name, or the caller's space as one that stands for it while nothing is to be kept. */
struct cm_lock_entry *cm_lockname_take_or(const struct cm_lockq *queue, struct cm_hash128 name,
                                          struct cm_lock_entry *space);
/* Frees the entry if there is nothing any more that it must remember. */
void cm_lockname_drop(struct cm_lockq *queue, struct cm_lock_entry *entry);

/* In the section of its bucket from here on: the entry's lock, if it has one or, with `anew`, may have one.
 */
struct cm_lock *cm_lockname_enter(struct cm_lockq *queue, struct cm_lock_entry *entry, bool anew,
                                  struct cm_section *section);
/* In that section: the lock's id under that token. */
struct cm_lock_id cm_lockname_id(const struct cm_lockq *queue, const struct cm_lock_entry *entry,
                                 const struct cm_lock *lock, uint64_t token);

/* --- whose memory a lock that the master keeps is --- */

/* In the section of the entry's lock, which is free: whether the seat may have it. */
bool cm_lockname_may_hold(const struct cm_lockq *queue, const struct cm_lock_entry *entry, uint32_t seat);
/* And that it gets it. */
void cm_lockname_own(struct cm_lockq *queue, const struct cm_lock_entry *entry, uint32_t seat);
/* In the section of a lock that has been held until now: it has no owner any more. `kept`: the master keeps
 * it. */
void cm_lockname_disown(struct cm_lockq *queue, struct cm_lock *lock, bool kept);

/* --- marks of the abandoned, in the order of their age --- */

/* In the section of a lock that is free and waited for by nobody: numbers its mark, if it has a new one.
 * True: it is to be noted, behind the section. */
bool cm_lockname_number_mark(struct cm_lockq *queue, struct cm_lock *lock);
void cm_lockname_note_mark(struct cm_lockq *queue, struct cm_hash128 name);
/* Now and then: forgets the marks that have been told, and clears the oldest beyond what may be kept. It may
 * free entries. */
void cm_lockname_sift_marks(struct cm_lockq *queue);

#endif
