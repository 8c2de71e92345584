/* The cache: entries of a name space of their own in the same table, least recently used out first, in exact
 * order across all processes. Every process runs these functions on the same segment.
 *
 * A hit copies the value as any reader does and stamps the entry's slot (core/data/recency): no lock, no
 * message. What puts entries in or takes them out holds the cache's lock, which lies in the segment; it is
 * held for a microsecond or so, and comes before a group, never inside one. A holder that dies leaves a cache
 * that the master rebuilds.
 *
 * A stamp is the time at which the operation began, of the clock that expiry goes by: it is read anyway, the
 * same for all processes, and an operation that began when another had ended has the later one. A process's
 * own grow with each use.
 *
 * As in core/data/store: only the master can decide that the memory is full, and CM_E_NOMEMORY means to
 * anybody else: ask the master. Bytes of an entry are what cm_append_bytes says of its key and value. */
#ifndef CM_DATA_LRU_H
#define CM_DATA_LRU_H

#include "data/recency.h"
#include "data/store.h"
#include "memory/vacancy.h"

struct cm_lru {
    struct cm_store *store;     /* whose participant, and way of making room, it uses */
    uint64_t (*clock_ns)(void); /* cm_clock_ns but in tests */
    uint64_t stamp;             /* the last one */
    uint64_t last_bytes;        /* of what was put in last */
    /* The master's: whether the process in the seat has ended, so that its groups are repaired. NULL for all
     * others, which wait for the master to repair the cache. */
    bool (*is_dead)(void *data, uint32_t seat);
    void *data;
};

/* Zeroed: no bounds, no expiry, none of the ways. */
struct cm_lru_options {
    uint64_t most_entries; /* 0: as many as there are slots */
    uint64_t most_bytes;   /* 0: no bound */
    uint32_t max_age_ms;   /* of entries that come without one; 0: for ever */
    bool update_age;       /* a hit begins the age anew */
    bool stale;            /* an expired entry is given out once, then it is gone */
};

#define CM_LRU_DEFAULT_AGE UINT64_MAX
#define CM_LRU_AGE_MOST_MS UINT32_MAX

/* Needs no deinit. The store stays the caller's. */
void cm_lru_init(struct cm_lru *lru, struct cm_store *store);

/* Starts a new, empty cache with these options, its counts at 0. CM_E_BADVALUE: so many entries are more than
 * there are slots. Holds the others up while it removes what was there. */
int cm_lru_start(struct cm_lru *lru, const struct cm_lru_options *options);

/* Caches a copy of the value, as the most recently used entry, in the place of the least recently used ones.
 * 0; CM_E_BADVALUE for a bad key; CM_E_TOOLARGE for what is larger than the cache may be; CM_E_NOMEMORY. What
 * was under the key stays then. */
int cm_lru_set(struct cm_lru *lru, struct cm_bytes key, struct cm_bytes value, uint64_t max_age_ms);

/* The same in two steps, for a value that has to be fetched from far: what the first does, where an entry has
 * to go for each that comes, takes about as long. Between the two the cache's lock may be held: the caller
 * does nothing but get hold of the value. The key's bytes stay where they are. What is cancelled, or fails
 * for want of memory, may have cost the oldest entry. */
struct cm_lru_arrival {
    struct cm_key key;
    uint64_t max_age_ms;
    uint64_t now_ns;
    struct cm_vacancy vacancy; /* where it will be; if there is one, the lock is held */
};
/* 0 or CM_E_BADVALUE; then it is over. */
int cm_lru_begin(struct cm_lru *lru, struct cm_bytes key, uint64_t max_age_ms,
                 struct cm_lru_arrival *arrival);
int cm_lru_finish(struct cm_lru *lru, struct cm_lru_arrival *arrival, struct cm_bytes value);
/* Instead of finishing: nothing is put in. */
void cm_lru_cancel(struct cm_lru *lru, struct cm_lru_arrival *arrival);

/* Copies the value to the buffer; `value` is a view of it. 0; CM_E_NOTFOUND; CM_E_NOMEMORY where the buffer
 * cannot grow. */
int cm_lru_get(struct cm_lru *lru, struct cm_bytes key, struct cm_buf *buf, struct cm_bytes *value);

void cm_lru_remove(struct cm_lru *lru, struct cm_bytes key);

/* Removes all entries; the counts go on. Holds the others up meanwhile. */
void cm_lru_clear(struct cm_lru *lru);

/* Each by itself is as it is at some moment. Together they are, while nobody uses the cache. */
struct cm_lru_stats {
    uint64_t entries; /* expired ones that were not swept yet included */
    uint64_t bytes;
    uint64_t hits; /* since the cache was started, like what follows */
    uint64_t misses;
    uint64_t evictions;   /* to make room, in the cache or in the memory */
    uint64_t expirations; /* of what was removed for its age */
};
void cm_lru_stats(const struct cm_segment *segment, struct cm_lru_stats *stats);

/* --- the master's --- */

/* Gives up the oldest entries, that many bytes of them or all there are. False: there were none. */
bool cm_lru_shrink(struct cm_lru *lru, uint64_t bytes);

/* Removes the entry of that hash and tag if it is past its time. False: somebody is in the way now. */
bool cm_lru_sweep(struct cm_lru *lru, uint64_t hash, uint64_t tag, uint64_t now_ms);

/* If the process in the seat, which is dead, held the lock: rebuilds the cache from the table, and frees it.
 * What it owned in the table has been repaired. Not in a section. */
void cm_lru_repair(struct cm_lru *lru, uint32_t seat);

#endif
