/* The key-value store: bytes and numbers in, bytes and numbers out, a version for each change. Every process
 * runs these functions on the same segment, each with a store of its own around its participant.
 *
 * What needs a referee is said by the functions that do: only the master can decide that the memory is full,
 * and only it tells who listens. For anybody else CM_E_NOMEMORY and CM_STORE_ASK mean: ask the master to do
 * it. An expired entry is absent for every function, at once. A key's versions grow for ever, across removal
 * and re-creation; versions of different keys do not compare. What would store under a key of no or too many
 * bytes fails with CM_E_BADVALUE; such a key is absent. Nothing here waits, but for another process in the
 * same group: a few hundred instructions, or up to a second where that process has been stopped in the midst
 * of them. */
#ifndef CM_DATA_STORE_H
#define CM_DATA_STORE_H

#include <stdbool.h>

#include "base/buf.h"
#include "data/lock.h"
#include "data/number.h"
#include "memory/table.h"

enum { CM_KEY_MAX_BYTES = 65535 };

/* A number, or bytes. */
struct cm_value {
    bool is_number;
    struct cm_number number;
    struct cm_bytes bytes;
};

enum cm_cause { CM_CAUSE_SET, CM_CAUSE_REMOVE, CM_CAUSE_EXPIRE, CM_CAUSE_CLEAR, CM_CAUSE_GAP };

/* What listeners are told. */
struct cm_changed {
    struct cm_bytes key;
    uint64_t version;
    enum cm_cause cause;
    const struct cm_value *value; /* NULL: it is gone */
};

/* Somebody listens for the key: the change is the master's to do, as it is when memory is short. */
enum { CM_STORE_ASK = 1 };

struct cm_store {
    struct cm_participant *participant;
    uint64_t space; /* of names: CM_SPACE_KEYS, or CM_SPACE_DOCUMENTS, where an expiry makes nothing absent */
    uint64_t (*clock_ms)(void); /* cm_clock_ms but in tests; read when an expiry is met */
    /* The master's: cleans until there is room for so many bytes, in the place of so many; 0 or
     * CM_E_NOMEMORY. NULL for all others. */
    int (*make_room)(void *data, uint64_t bytes, uint64_t freed_bytes);
    /* The master's: a key has been changed, whether anybody listens or not. NULL: nobody is told. */
    void (*on_change)(void *change_data, const struct cm_changed *change);
    void *data;
    void *change_data;
    struct cm_buf listing; /* of a walk */
};

void cm_store_init(struct cm_store *store, struct cm_participant *participant);
void cm_store_deinit(struct cm_store *store);

/* The conditions of a change, and what becomes of the expiry. Zeroed: none, and never. */
struct cm_change {
    bool if_absent;          /* else CM_E_EXISTS */
    bool if_present;         /* else CM_E_NOTFOUND */
    bool if_version;         /* else CM_E_CONFLICT */
    uint64_t version;        /* that it must have; 0: it must be absent */
    struct cm_lock_id fence; /* that its lock must be held under, else CM_E_NOTOWNER; token 0: none */
    bool cleared;            /* removed with many others: listeners are told so */
    bool keep_expiry;        /* an entry that is there keeps its own */
    uint64_t expires_ms;     /* of the clock; 0: never */
};

/* Stores a copy of the value under a copy of the key, and gives the new version. 0; a failed condition's
 * code; CM_E_TOOLARGE for a value of 4 GiB or more; CM_E_NOMEMORY. The old value is kept then. */
int cm_store_set(struct cm_store *store, struct cm_bytes key, const struct cm_value *value,
                 const struct cm_change *change, uint64_t *version);

/* Stores all of the pairs, or none; readers may see part of it meanwhile. A key that comes twice has its last
 * value. 0, or as cm_store_set. The master only. */
struct cm_pair {
    struct cm_bytes key;
    struct cm_value value;
};
int cm_store_set_many(struct cm_store *store, const struct cm_pair *pairs, size_t count);

/* Gives the value, its version and its expiry; each out-parameter may be NULL. Bytes are copied to the
 * buffer, which is not needed without a value. 0; CM_E_NOTFOUND with version 0; CM_E_NOMEMORY where the
 * buffer cannot grow. */
int cm_store_get(struct cm_store *store, struct cm_bytes key, struct cm_buf *buf, struct cm_value *value,
                 uint64_t *version, uint64_t *expires_ms);

/* As above, of a key that the caller has hashed; and bytes whose entry has the version `known` (not 0) are
 * not copied: *value has none then, and *version is that one. *spot is where the entry is: as long as it
 * stands, the key has this value. CM_SPOT_NEVER in it where the value has an expiry. */
int cm_store_get_unless(struct cm_store *store, const struct cm_key *key, uint64_t known, struct cm_buf *buf,
                        struct cm_value *value, uint64_t *version, struct cm_spot *spot);
struct cm_key cm_store_key(const struct cm_store *store, struct cm_bytes key);
/* The number there, and its version, if it stands. */
bool cm_store_number_at(const struct cm_store *store, const struct cm_spot *spot, struct cm_number *number,
                        uint64_t *version);

/* As cm_store_get, of what `search` finds in the bytes (cm_table_get_part). */
int cm_store_get_part(struct cm_store *store, struct cm_bytes key, cm_table_find_fn search, void *data,
                      struct cm_buf *buf, struct cm_bytes *part, uint64_t *version);

/* Removes the entry and gives the version of that change, or 0 where there was none. 0, or CM_E_CONFLICT; of
 * the conditions only the version and the fence count. Needs no memory. */
int cm_store_remove(struct cm_store *store, struct cm_bytes key, const struct cm_change *change,
                    uint64_t *version);

/* Adds to a number and gives the sum. Where there is nothing, `initial` is what is added to, and the expiry
 * is expires_ms; an entry that is there keeps its own. 0; CM_E_BADVALUE for a value that is no number, or a
 * sum of integers that is none; CM_E_NOMEMORY; CM_E_CONFLICT under a long key (thousands of bytes), where
 * others got in between a thousand times. */
int cm_store_increment(struct cm_store *store, struct cm_bytes key, struct cm_number delta,
                       struct cm_number initial, uint64_t expires_ms, struct cm_number *sum,
                       uint64_t *version);

/* As above; a nothing is a 0 that never expires; and *spot says afterwards where the number is, as in
 * cm_store_get_unless. */
int cm_store_add(struct cm_store *store, struct cm_bytes key, struct cm_number delta, struct cm_spot *spot,
                 struct cm_number *sum);
/* Adds to the number there, and has *spot stand again. False: it does not stand, or somebody listens for
 * something, or the sum is of another kind, or none; nothing has been done. Not the master's. */
bool cm_store_add_at(struct cm_store *store, struct cm_spot *spot, struct cm_number delta,
                     struct cm_number *sum);

/* Changes the expiry, which takes no version. 0 or CM_E_NOTFOUND. Needs no memory. */
int cm_store_expire(struct cm_store *store, struct cm_bytes key, uint64_t expires_ms);

/* Tells who listens of a change that was not made by these functions. The master's. */
void cm_store_tell(const struct cm_store *store, struct cm_bytes key, uint64_t version, enum cm_cause cause,
                   const struct cm_value *value);

/* Whether that expiry is past: an entry that has it is absent. The clock is read only where there is one. */
bool cm_store_is_over(const struct cm_store *store, uint64_t expires_ms);

/* A walk over all entries whose keys start with the prefix, in slices: `steps` of it, a few entries each. The
 * cursor is 0 at the beginning and again at the end; an entry that is there from the beginning to the end is
 * met exactly once. 0, or CM_E_NOMEMORY with the cursor at what was not walked. */
typedef int (*cm_store_key_fn)(void *data, struct cm_bytes key); /* 0: go on after this step */
int cm_store_keys(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, unsigned steps,
                  cm_store_key_fn visit, void *data);
/* Removes them, but those that are to stay; how many is added to *removed. */
struct cm_store_clearing {
    bool (*spare)(void *data, struct cm_bytes key); /* whether it is to stay; NULL: none is */
    cm_store_key_fn ask; /* somebody listens for it: the master is to remove it. Not the master's */
    void *data;
};
int cm_store_clear(struct cm_store *store, struct cm_bytes prefix, uint64_t *cursor, unsigned steps,
                   const struct cm_store_clearing *how, uint64_t *removed);

struct cm_store_stats {
    uint64_t entries; /* expired ones that were not swept yet included; without the cache's and documents */
    uint64_t used_bytes; /* of entries, with what belongs to them; and the cache's */
    uint64_t limit_bytes;
};
void cm_store_stats(const struct cm_store *store, struct cm_store_stats *stats);

#endif
