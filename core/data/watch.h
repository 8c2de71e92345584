/* The watch set: which keys somebody listens for, so that a writer can leave those to the master, which tells
 * the listeners (core/data/listeners). It holds hashes of keys, and of prefixes with their lengths. A look is
 * a load where nobody listens for anything, and else one cache line, and one for each length of a prefix. It
 * may say yes where nobody listens, if two hashes are the same or a bucket is full; never no where somebody
 * does. */
#ifndef CM_DATA_WATCH_H
#define CM_DATA_WATCH_H

#include "memory/table.h"

/* Whether anybody listens for anything. */
static inline bool cm_watch_any(const struct cm_segment *segment) {
    return atomic_load_explicit(&segment->header->watches, memory_order_relaxed) != 0;
}

bool cm_watch_looks(const struct cm_segment *segment, const struct cm_key *key);

/* In a section of the key's group, whose swap comes first: a writer that finds nothing publishes before the
 * barrier passes that the master begins behind the watch. */
static inline bool cm_watch_sees(const struct cm_segment *segment, const struct cm_key *key) {
    return cm_watch_any(segment) && cm_watch_looks(segment, key);
}

/* The master's: a watch for each name that is listened for. The barrier is the caller's. */
struct cm_watch_set {
    const struct cm_segment *segment;
    uint32_t lengths[CM_WATCHED_LENGTHS]; /* prefixes of each of the lengths in the header */
};
void cm_watch_init(struct cm_watch_set *set, const struct cm_segment *segment);
/* True: there was no room for it, and every key is taken for watched. */
bool cm_watch_add(struct cm_watch_set *set, struct cm_bytes name, bool prefix);
/* Of a name that has been added; `all` is what that gave. */
void cm_watch_remove(struct cm_watch_set *set, struct cm_bytes name, bool prefix, bool all);

/* The length of prefixes at that place; 0: none. */
uint16_t cm_watch_length(const struct cm_watch_set *set, int place);

/* What the set holds, and what the master may know names by. */
uint64_t cm_watch_hash(const struct cm_segment *segment, struct cm_bytes name, bool prefix);

#endif
