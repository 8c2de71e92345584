/* The shared segment: one memfd that every process of a cluster maps, and where its parts are.
 *
 *     header | seats | chunk words | lock table | watch set | recency slots | groups | chunks
 *
 * References are offsets from the start; 0 is none. The master creates it and each process attaches it. The
 * layout is fixed at creation; every process keeps its own copy of it, so that nothing written into the
 * segment later can move a bound. */
#ifndef CM_MEMORY_SEGMENT_H
#define CM_MEMORY_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* On arm64 an acquiring swap lets later loads pass the swap's own store; where a section must see what was
 * published before somebody looked at its owner word (Dekker's pattern), the swap needs a full fence behind
 * it. On x86 the swap is one. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define CM_FENCE_AFTER_SWAP() atomic_signal_fence(memory_order_seq_cst)
#else
#define CM_FENCE_AFTER_SWAP() atomic_thread_fence(memory_order_seq_cst)
#endif

#define CM_CACHE_LINE 64

enum {
    CM_GROUP_CHAINS = 7,
    CM_CHUNK_MOST_BYTES = 1 << 20,
    CM_CHUNK_LEAST_BYTES = 4096,
    CM_FRAGMENTS_IN_CHUNK = 16, /* a record is at most this part of a chunk */
    CM_SEATS_MOST = 4096,
    CM_GROUPS_BACKED = 1024, /* get their pages together */
    CM_LOCK_BUCKET_BYTES = 8 * CM_CACHE_LINE,
    CM_WATCHED_LENGTHS = 16, /* of prefixes */
    CM_RECENCY_PART = 170,   /* of the whole are the cache's slots */
};
#define CM_SEGMENT_LEAST_BYTES (UINT64_C(1) << 20)

/* One cache line of the table: {sequence 48, owner 16} and the heads of its chains. The owner's seat alone
 * writes the line while the word names it. */
struct cm_group {
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t word;
    _Atomic uint64_t chains[CM_GROUP_CHAINS];
};

/* What is known about a chunk, beside it: core/memory/chunk. */
struct cm_chunk {
    _Atomic uint64_t word;        /* {generation 27, owner 16, state 3, live 18 in units of 8 bytes} */
    _Atomic uint64_t used;        /* bytes that a walk may look at */
    _Atomic uint64_t earliest_ms; /* when the first of its entries expires, or before; CM_NEVER */
    uint64_t spare;
};
#define CM_NEVER UINT64_MAX

/* Of a seat's `entries`: {count 62, how it is about to change 2}; see core/memory/table. */
enum { CM_COUNTS_SHIFT = 2, CM_COUNTS_ONE = 1 << CM_COUNTS_SHIFT, CM_COUNTS_HOW = CM_COUNTS_ONE - 1 };
enum { CM_COUNTS_LINKING = 1, CM_COUNTS_UNLINKING };

/* A participant's place in the segment: core/memory/participant. */
struct cm_seat {
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t section; /* {count 32, line 32} */
    _Atomic uint32_t waiting_on;                      /* the line it waits for, + 1; 0: none */
    _Atomic uint32_t core;     /* that its loop ran on last, and whether it sleeps: core/cluster/outbox */
    _Atomic uint64_t retiring; /* the record whose bytes are leaving their chunk's count */
    _Atomic uint64_t retiring_rest; /* the fragments to follow; or the record being linked in a new place */
    _Atomic int64_t entries;        /* linked by it, less those it unlinked: CM_COUNTS_... */
    _Atomic int32_t pid;            /* 0: the seat is free */
    _Atomic uint32_t beat;          /* of its loop: core/cluster/watchdog */
    _Atomic uint64_t cache_hits;    /* of all who have sat here */
    _Atomic uint64_t cache_misses;
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t hazards[]; /* a bit for each chunk it is copying from */
};

/* The cache's state: core/data/lru. Its slots, queue and heap lie behind layout.recency_at. */
struct cm_cache {
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t lock; /* {count 48, owner 16}; the owner alone writes the rest */
    /* What each read looks at. */
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t most_entries;
    _Atomic uint64_t most_bytes;
    _Atomic uint32_t max_age_ms;
    _Atomic uint32_t flags;
    /* What changes all the time. */
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t entries;
    _Atomic uint64_t bytes;
    _Atomic uint64_t evictions;
    _Atomic uint64_t expirations;
    _Atomic uint64_t hits_before; /* the counts in the seats when this cache was started */
    _Atomic uint64_t misses_before;
    uint32_t slots_used;   /* at some time: no slot from here on was */
    uint32_t slots_backed; /* have pages behind them */
    _Alignas(
        CM_CACHE_LINE) uint32_t free_slot; /* the first of the free ones below slots_used, + 1; 0: none */
    uint32_t heaped;                       /* slots in the heap */
    uint32_t queued;                       /* slots in the queue, from the oldest to the newest */
    uint32_t oldest;
    uint32_t newest;
};

/* The layout; every number in it is bounded by the segment's size. */
struct cm_layout {
    uint64_t total_bytes;
    uint32_t seats; /* numbered from 1; 1 is the master's */
    uint32_t chunks;
    uint32_t chunk_bytes; /* a power of 2 */
    uint32_t groups_most;
    uint32_t lock_buckets;  /* a power of 2 */
    uint32_t watch_buckets; /* likewise */
    uint64_t seats_at;
    uint64_t seat_bytes;
    uint64_t chunk_words_at;
    uint64_t locks_at;   /* core/data/lock */
    uint64_t watches_at; /* core/data/watch */
    uint64_t recency_at; /* the recency slots' place */
    uint64_t groups_at;
    uint64_t chunks_at;
    uint64_t hash_seed;
};

struct cm_header {
    /* Linear hashing's level and split, in one number; on a line of its own, read by everyone all the time.
     */
    _Alignas(CM_CACHE_LINE) _Atomic uint32_t groups;
    _Atomic uint32_t watches;     /* how many; see core/data/watch for these three */
    _Atomic uint32_t watched_all; /* watches that every key is taken for */
    _Atomic uint16_t watched_lengths[CM_WATCHED_LENGTHS];
    uint8_t rest_of_line[CM_CACHE_LINE - 3 * sizeof(uint32_t) - CM_WATCHED_LENGTHS * sizeof(uint16_t)];
    /* The last fencing token given; on a line of its own, written by everyone who takes a lock. */
    _Alignas(CM_CACHE_LINE) _Atomic uint64_t lock_token;
    _Atomic uint64_t earliest_lease_ms; /* no lease ends before; CM_NEVER */
    uint8_t rest_of_token_line[CM_CACHE_LINE - 2 * sizeof(uint64_t)];
    uint64_t magic;
    struct cm_layout layout; /* to be copied; nobody reads it afterwards */
    /* Hints: see core/memory/chunk. */
    _Atomic uint32_t lowest_free; /* no chunk below is free */
    _Atomic int32_t free_chunks;  /* the master counts afresh */
    _Atomic uint32_t reached;     /* from here on no chunk has ever been used: they are free holes */
    _Atomic uint64_t lists;       /* of fragments, begun so far: each has a number of its own */
    _Atomic uint32_t rung;        /* the bell has been rung for these and not been heard yet: CM_RING_... */
    /* Of core/data/documents; the master alone writes them. */
    _Atomic uint64_t documents;       /* entries in their name space */
    _Atomic uint64_t storages_closed; /* so far */
    struct cm_cache cache;
};

/* A process's mapping. */
struct cm_segment {
    uint8_t *base;
    int fd;
    struct cm_layout layout;
    struct cm_header *header;
    struct cm_group *groups;
    struct cm_chunk *chunks;
    uint64_t chunks_bytes; /* of all of them */
    uint32_t chunk_shift;
    uint32_t record_most_bytes;
};

/* What the bell is rung for. */
enum { CM_RING_MEMORY = 1, CM_RING_LOCKS = 2 };

/* Creates and maps a segment of that many bytes for `seats` participants, the master among them. Pages come
 * when they are used, except for the bookkeeping's, which are there from the start. 0; CM_E_NOMEMORY, also
 * where the bookkeeping would take more than half of the machine's memory; an errno. */
int cm_segment_create(uint64_t bytes, uint32_t seats, struct cm_segment *segment);

/* Maps the segment behind the descriptor, which is the segment's from then on. 0; CM_E_BADFRAME for one that
 * is none; an errno, after which the descriptor is the caller's still. `read_only` maps groups and chunks so,
 * for tests. */
int cm_segment_attach(int fd, bool read_only, struct cm_segment *segment);
void cm_segment_close(struct cm_segment *segment);

/* Makes sure that pages stand behind the bytes, so that touching them cannot fail. 0 or CM_E_NOMEMORY. */
int cm_segment_back(const struct cm_segment *segment, uint64_t at, uint64_t len);
/* The same for a hole, writing zeroes: so the first touch finds the page whole and only maps it, while it has
 * to clear one that is merely backed, and a virtual machine's host may have to find it then. */
int cm_segment_fill(const struct cm_segment *segment, uint64_t at, uint64_t len);
/* Gives the pages behind the bytes back. */
void cm_segment_punch(const struct cm_segment *segment, uint64_t at, uint64_t len);

static inline struct cm_seat *cm_segment_seat(const struct cm_segment *segment, uint32_t id) {
    return (struct cm_seat *)(void *)(segment->base + segment->layout.seats_at +
                                      (id - 1) * segment->layout.seat_bytes);
}

/* What can be owned, by number: the groups, and behind them the buckets of the lock table. Each begins with a
 * word {sequence 48, owner 16}. NULL for a number that is none's. */
static inline _Atomic uint64_t *cm_segment_word(const struct cm_segment *segment, uint32_t line) {
    const struct cm_layout *layout = &segment->layout;
    if (line < layout->groups_most)
        return &segment->groups[line].word;
    line -= layout->groups_most;
    if (line >= layout->lock_buckets)
        return NULL;
    uint64_t at = layout->locks_at + (uint64_t)line * CM_LOCK_BUCKET_BYTES;
    return (_Atomic uint64_t *)(void *)(segment->base + at);
}

static inline uint64_t cm_segment_chunk_at(const struct cm_segment *segment, uint32_t index) {
    return segment->layout.chunks_at + ((uint64_t)index << segment->chunk_shift);
}

/* The chunk that an offset lies in; what lies in none gives a number that is not below layout.chunks. */
static inline uint64_t cm_segment_chunk_of(const struct cm_segment *segment, uint64_t offset) {
    return (offset - segment->layout.chunks_at) >> segment->chunk_shift;
}

#endif
