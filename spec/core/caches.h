/* What the tests of the cache share: keys, and an audit of the cache against the table, while nobody uses it.
 */
#ifndef CM_SPEC_CORE_CACHES_H
#define CM_SPEC_CORE_CACHES_H

#include <stdio.h>
#include <string.h>

#include "data/lru.h"
#include "memory/append.h"
#include "spec/core/test.h"

struct cache_audit {
    uint64_t entries;
    uint64_t bytes;
};

/* Walks all chains: each cached entry has a slot of its own, in its generation, under its hash, and the
 * counts say how many there are. NULL, or what is wrong. */
static inline const char *cache_check(const struct cm_segment *segment, struct cache_audit *audit) {
    const struct cm_cache *cache = &segment->header->cache;
    static uint8_t seen[1 << 16]; /* no allocation: some tests let these fail */
    memset(seen, 0, sizeof seen);
    assert_true(cm_recency_capacity(segment) <= sizeof seen);
    const char *wrong = NULL;
    *audit = (struct cache_audit){0};
    uint32_t groups = atomic_load(&segment->header->groups);
    for (uint32_t i = 0; i < groups * CM_GROUP_CHAINS; i++) {
        uint64_t offset = atomic_load(&segment->groups[i / CM_GROUP_CHAINS].chains[i % CM_GROUP_CHAINS]);
        for (struct cm_record *record; offset; offset = atomic_load(&record->next)) {
            record = cm_record_at(segment, offset);
            uint64_t hash = atomic_load(&record->hash);
            if (!(hash & CM_SPACE_CACHE))
                continue;
            struct cm_shape shape = cm_record_shape(record);
            uint64_t tag = cm_record_version(record);
            uint32_t slot = (uint32_t)tag & 0xffffff;
            if (slot >= cache->slots_used || seen[slot]++)
                wrong = "two entries have the same slot, or one has none";
            else if (cm_recency_generation(cm_recency_word(segment, slot)) != (uint8_t)(tag >> 24))
                wrong = "an entry has left and is linked still";
            else if (cm_recency_hash(segment, slot) != hash)
                wrong = "a slot does not know its entry";
            audit->entries++;
            audit->bytes += cm_append_bytes(segment, shape.key_len, shape.value_len);
        }
    }
    if (!wrong && cm_word_owner(atomic_load(&cache->lock)))
        wrong = "somebody holds the lock";
    if (!wrong && (audit->entries != atomic_load(&cache->entries) ||
                   audit->entries != (uint64_t)cache->heaped + cache->queued))
        wrong = "the entries are not as many as are counted, or in queue and heap";
    if (!wrong && audit->bytes != atomic_load(&cache->bytes))
        wrong = "the bytes are not as many as are counted";
    if (!wrong && (audit->entries > atomic_load(&cache->most_entries) ||
                   audit->bytes > atomic_load(&cache->most_bytes)))
        wrong = "the cache is larger than it may be";
    return wrong;
}

#endif
