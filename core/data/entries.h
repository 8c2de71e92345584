/* What the store's files share: numbers as they lie in entries, looking in a section. Theirs alone. */
#ifndef CM_DATA_ENTRIES_H
#define CM_DATA_ENTRIES_H

#include <string.h>

#include "data/room.h"
#include "data/store.h"
#include "data/watch.h"
#include "memory/append.h"

static inline bool bad_key(struct cm_bytes key) {
    return key.len == 0 || key.len > CM_KEY_MAX_BYTES;
}

/* --- numbers, and what they are in an entry --- */

static inline enum cm_kind kind_of(struct cm_number number) {
    return number.is_float ? CM_KIND_FLOAT : CM_KIND_INTEGER;
}

static inline uint64_t bits_of(struct cm_number number) {
    uint64_t bits;
    memcpy(&bits, &number.integer, sizeof bits); /* the float has the same bytes */
    return bits;
}

static inline struct cm_number number_of(enum cm_kind kind, uint64_t bits) {
    struct cm_number number = {.is_float = kind == CM_KIND_FLOAT};
    memcpy(&number.integer, &bits, sizeof bits);
    return number;
}

/* Whether a number under this key is kept as one; under a very long key it is kept as bytes. */
static inline bool is_slot(const struct cm_store *store, struct cm_bytes key) {
    return cm_append_fits(store->participant->segment,
                          (struct cm_shape){CM_KIND_INTEGER, (uint32_t)key.len, 0});
}

/* --- in a section --- */

/* Of the key's group: whether the change must be the master's, for it has listeners to tell. */
static inline bool is_watched(const struct cm_store *store, const struct cm_key *key) {
    return !store->make_room && store->space == CM_SPACE_KEYS &&
           cm_watch_sees(store->participant->segment, key);
}

/* The key's place, and whether a living entry is there. */
static inline bool find(const struct cm_store *store, const struct cm_section *section,
                        const struct cm_key *key, struct cm_place *place) {
    return cm_table_find(store->participant, section, key, place) &&
           !cm_store_is_over(store, cm_record_expiry(place->record));
}

#endif
