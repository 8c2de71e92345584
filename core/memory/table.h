/* The table: entries by key, in groups of chains, grown by linear hashing (W. Litwin, "Linear hashing: a new
 * tool for file and table addressing", VLDB 1980), one group at a time. Every process runs these functions on
 * the same segment.
 *
 * Readers take no lock and write nothing: a group's sequence tells them afterwards whether what they copied
 * was whole (a seqlock). After a few failures a reader takes the group as a writer does. Writers own one
 * group at a time, for a few dozen instructions, and publish with one store. An entry's version is its
 * group's sequence at publish; a split gives the child its parent's, so a key's versions grow for ever. */
#ifndef CM_MEMORY_TABLE_H
#define CM_MEMORY_TABLE_H

#include "base/stream.h"
#include "memory/participant.h"
#include "memory/record.h"

struct cm_key {
    struct cm_bytes bytes;
    uint64_t hash;
};

/* Name spaces: two bits of the hash, which neither groups nor chains go by, tell the entries of the cache and
 * those of documents from each other and from all others under the same key. In the place of a version an
 * entry of the cache has a tag, which is the cache's business (core/data/lru) and stays as it was written. An
 * expiry of a document's says when something in it is over, and not that it is absent. */
#define CM_SPACE_KEYS UINT64_C(0)
#define CM_SPACE_CACHE (UINT64_C(1) << 40)
#define CM_SPACE_DOCUMENTS (UINT64_C(1) << 41)
#define CM_SPACES (CM_SPACE_CACHE | CM_SPACE_DOCUMENTS)
struct cm_key cm_table_key_in(const struct cm_segment *segment, uint64_t space, struct cm_bytes bytes);

static inline struct cm_key cm_table_key(const struct cm_segment *segment, struct cm_bytes bytes) {
    return cm_table_key_in(segment, CM_SPACE_KEYS, bytes);
}

/* What to know an entry by that was found in a group: as long as the group has that word, in which nobody
 * owns it, nothing in it has changed. */
struct cm_spot {
    uint64_t word; /* CM_SPOT_NEVER: no group has it */
    union {
        uint64_t offset;  /* a number's */
        uint64_t version; /* of bytes */
    };
    uint32_t line;
    bool is_number;
};
#define CM_SPOT_NEVER UINT64_MAX

/* Whether that is so still. Not while somebody owns the group, who may have linked what others have read by
 * now. Acquire: what is read after it is no older. */
static inline bool cm_table_stands(const struct cm_segment *segment, const struct cm_spot *spot) {
    return atomic_load_explicit(&segment->groups[spot->line].word, memory_order_acquire) == spot->word;
}

/* Longer values are copied at leisure, under hazards; a shorter one at once. */
enum { CM_COPIED_MOST_BYTES = 4096 };

/* What a read found. */
struct cm_found {
    enum cm_kind kind;   /* CM_KIND_INTEGER, CM_KIND_FLOAT, else bytes */
    uint64_t number;     /* its bits */
    uint64_t version;    /* or tag */
    uint64_t expires_ms; /* 0: never. Whether that is past is the caller's to see */
    size_t value_len;
    const struct cm_group *group; /* for cm_table_unchanged */
    uint64_t sequence;
    uint64_t offset;
};
struct cm_spot cm_table_spot(const struct cm_segment *segment, const struct cm_found *found);

/* Reads the number there: its kind, bits and version, all of one moment. False: it does not stand any more.
 */
bool cm_table_number_at(const struct cm_segment *segment, const struct cm_spot *spot, struct cm_found *found);

/* Reads the entry of that key, expired or not, and copies a value that is no number to `value`, whose
 * contents it replaces (NULL: no copy; nor of an entry that has the version `known`, which 0 is none's). 0,
 * CM_E_NOTFOUND, or CM_E_NOMEMORY where the buffer cannot grow. Never waits, but for a group in the hands of
 * who is writing all the time. */
int cm_table_get_unless(struct cm_participant *participant, const struct cm_key *key, uint64_t known,
                        struct cm_buf *value, struct cm_found *found);

static inline int cm_table_get(struct cm_participant *participant, const struct cm_key *key,
                               struct cm_buf *value, struct cm_found *found) {
    return cm_table_get_unless(participant, key, 0, value, found);
}

/* As above, but copies only what `find` finds in the value: it says where that is, and how long; nothing is
 * copied of length 0. *part is a view into the buffer.
 *
 * What `find` reads is the value as it was at one moment. What it passes over without a look is not touched.
 * Hazards may stand meanwhile: it calls no Lua, raises nothing and does not wait. It returns 0, or at once
 * what the stream says; then it may be called anew, with another stream. A number's stream has no bytes. */
typedef int (*cm_table_find_fn)(void *data, struct cm_stream *value, uint64_t *at, uint64_t *len);
int cm_table_get_part(struct cm_participant *participant, const struct cm_key *key, cm_table_find_fn find,
                      void *data, struct cm_buf *buf, struct cm_bytes *part, struct cm_found *found);

/* Whether what was read is the present state still, as long as nothing has changed in its whole group. */
bool cm_table_unchanged(const struct cm_found *found);

/* A walk over all entries of a name space, one group for each step, in the order of the hashes' reversed
 * bits, in which a split only halves an interval: so an entry that is there from the beginning to the end is
 * met exactly once. The cursor is 0 at the beginning, and again at the end; any number is one. Each step
 * appends the entries whose keys start with the prefix to `out`. 0 or CM_E_NOMEMORY. */
struct cm_listed {
    uint64_t expires_ms;
    uint64_t key_len;
    uint8_t key[]; /* filled up to whole words; the next one follows */
};
int cm_table_walk(struct cm_participant *participant, uint64_t space, struct cm_bytes prefix,
                  uint64_t *cursor, struct cm_buf *out);

/* Entries in all: exact when nobody is writing. */
uint64_t cm_table_entries(const struct cm_segment *segment);

/* Counts what a process that has ended linked or unlinked last, if it had not come to that. The line is the
 * one that it owns still. The master. */
void cm_table_settle_count(const struct cm_segment *segment, uint32_t id, uint32_t line);

/* --- writing: all between enter and leave, by the owner --- */

/* Where a key is, or would be. */
struct cm_place {
    _Atomic uint64_t *link;
    struct cm_record *record; /* NULL: there is none */
    uint64_t offset;
    struct cm_shape shape;
};

/* Owns the hash's group. */
void cm_table_enter(struct cm_participant *participant, uint64_t hash, struct cm_section *section);
/* As above, or false after a short spin. */
bool cm_table_try(struct cm_participant *participant, uint64_t hash, struct cm_section *section);
bool cm_table_find(struct cm_participant *participant, const struct cm_section *section,
                   const struct cm_key *key, struct cm_place *place);
/* Where an entry goes of which the caller knows that there is none. */
void cm_table_place_new(struct cm_participant *participant, const struct cm_section *section, uint64_t hash,
                        struct cm_place *place);
/* Owns the group of a number that stands, which is where it was, and shuts it: what comes next is
 * cm_table_change_number, or leaving. False: it does not stand, or somebody else came first. */
bool cm_table_reenter(struct cm_participant *participant, const struct cm_spot *spot,
                      struct cm_section *section, struct cm_place *place);
/* Tells the processor that the entry of that hash will be looked at soon: first its group, a while later the
 * first entry of its chain, then the second if the first is another. Needs no section. */
enum cm_prefetch { CM_PREFETCH_GROUP = 1, CM_PREFETCH_FIRST, CM_PREFETCH_SECOND };
void cm_table_prefetch(const struct cm_segment *segment, uint64_t hash, enum cm_prefetch what);
/* The cached entry of that hash whose tag has these bits. */
bool cm_table_find_tag(struct cm_participant *participant, const struct cm_section *section, uint64_t hash,
                       uint64_t tag, uint64_t mask, struct cm_place *place);

/* Each of these makes one change visible, and leaves; they give the version of the change, also where a
 * cached entry does not keep it. */
uint64_t cm_table_link(struct cm_participant *participant, struct cm_section *section,
                       const struct cm_place *place, uint64_t offset);
uint64_t cm_table_unlink(struct cm_participant *participant, struct cm_section *section,
                         const struct cm_place *place);
/* As above, but the entry's bytes stay counted, and `retiring` names it: for core/memory/vacancy. */
void cm_table_vacate(struct cm_participant *participant, struct cm_section *section,
                     const struct cm_place *place);
/* Of a number of the same kind. */
uint64_t cm_table_store_number(struct cm_participant *participant, struct cm_section *section,
                               const struct cm_place *place, uint64_t bits, uint64_t expires_ms);
/* As above, where the group has been shut already; of a number that never expires. */
uint64_t cm_table_change_number(struct cm_section *section, const struct cm_place *place, uint64_t bits);
/* Takes no version, but the sequence moves on: what was kept of the entry knew of no expiry. */
void cm_table_store_expiry(struct cm_participant *participant, struct cm_section *section,
                           const struct cm_place *place, uint64_t expires_ms);

/* The link that leads to the entry at that offset, in the section of its hash's group; NULL where none does.
 */
_Atomic uint64_t *cm_table_link_to(struct cm_participant *participant, const struct cm_section *section,
                                   uint64_t hash, uint64_t offset);
/* As above, to a fragment, which must be whole: in a closed chunk. The same few steps, however long the value
 * is. */
_Atomic uint64_t *cm_table_link_to_fragment(struct cm_participant *participant,
                                            const struct cm_section *section, uint64_t hash, uint64_t offset);
/* Puts a copy in the record's place. The version stays. Leaves. */
void cm_table_relink(struct cm_participant *participant, struct cm_section *section, _Atomic uint64_t *link,
                     uint64_t from, uint64_t to, uint32_t len_bytes);

/* --- growth: the master's --- */

/* Whether so many groups are enough for the entries: two thirds of one in each chain on the average. Each
 * entry that a search has to pass is a wait for memory that nobody else uses. */
static inline bool cm_table_is_roomy(uint64_t groups, uint64_t entries) {
    return groups * CM_GROUP_CHAINS >= entries + entries / 2;
}

/* Splits groups while the table is not roomy, at most `most` of them. True when there is more to do at
 * once. A group that is held by somebody, or no memory, ends it for now. */
bool cm_table_grow(struct cm_participant *master, unsigned most);

#endif
