/* What the table's files share: where a hash is, and how a chain is followed. Theirs alone. */
#ifndef CM_MEMORY_CHAINS_H
#define CM_MEMORY_CHAINS_H

#include "memory/table.h"

/* The smallest 2^n - 1 that is not below groups - 1. */
static inline uint32_t mask_of(uint32_t groups) {
    return UINT32_MAX >> __builtin_clz(groups - 1);
}

static inline uint32_t index_in(uint32_t groups, uint64_t hash) {
    uint32_t mask = mask_of(groups);
    uint32_t index = (uint32_t)hash & mask;
    return index < groups ? index : index & mask >> 1;
}

/* Acquire: who sees the number sees the groups below it as the split left them. Bounded, because it comes
 * from the segment. */
static inline uint32_t load_groups(const struct cm_segment *segment) {
    uint32_t groups = atomic_load_explicit(&segment->header->groups, memory_order_acquire);
    return groups <= segment->layout.groups_most && groups > 1 ? groups : 2;
}

static inline uint32_t index_of(const struct cm_segment *segment, uint64_t hash) {
    return index_in(load_groups(segment), hash);
}

static inline _Atomic uint64_t *chain_of(struct cm_group *group, uint64_t hash) {
    return &group->chains[(hash >> 48) * CM_GROUP_CHAINS >> 16];
}

/* The group that is owned in the section. */
static inline struct cm_group *group_in(const struct cm_segment *segment, const struct cm_section *section) {
    return &segment->groups[section->line];
}

static inline uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_relaxed);
}

static inline void store(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Whether the sequence is what it was. The fence: what has been copied (relaxed) was loaded before this load;
 * and if any of it came from a writer behind a later sequence, that sequence is seen here. */
static inline bool is_unchanged(const struct cm_group *group, uint64_t sequence) {
    atomic_thread_fence(memory_order_acquire);
    return cm_word_sequence(load(&group->word)) == sequence;
}

enum look { LOOK_FOUND, LOOK_ABSENT, LOOK_LOST };

/* Follows the key's chain, at most so many steps. LOOK_LOST: it led nowhere, or had no end. */
enum look cm_chain_look(const struct cm_segment *segment, struct cm_group *group, const struct cm_key *key,
                        unsigned steps, struct cm_place *place);

#endif
