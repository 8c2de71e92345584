/* Strings that this process has read, so that one that has not changed is not copied again: Lua's strings
 * never change, and the one that is there is handed out. What it was read from is known by the hash of its
 * key and the version of its entry: keys of one hash are in one group, where no version comes twice
 * (core/memory/table). A string is kept from its second reading on, for what is read once and never again is
 * most of what there is. One Lua state's. */
#ifndef CM_BIND_KNOWN_H
#define CM_BIND_KNOWN_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CM_KNOWN_MOST_SLOTS = 1 << 14, CM_KNOWN_MOST_BYTES = 4 << 20 };

struct cm_known_slot {
    uint64_t hash;
    uint64_t version; /* 0: nothing; its lowest bit, which no version has: the string is kept */
};

struct cm_known {
    struct cm_known_slot *slots; /* NULL: none yet */
    uint32_t count;              /* of slots, a power of 2 */
    uint32_t crowded;            /* how often there was no room */
    int strings;                 /* registry reference: a slot's number + 1 -> its string */
    size_t bytes;                /* of strings that are kept */
    size_t most_bytes;
};

void cm_known_init(struct cm_known *known, size_t most_bytes);
void cm_known_deinit(struct cm_known *known);

/* The version of the string that is kept for the hash, which is what `slot` is then the place of; 0: none is.
 */
uint64_t cm_known_find(const struct cm_known *known, uint64_t hash, uint32_t *slot);
/* Pushes the string at that place, and below it the table that has it: who returns the string needs not drop
 * that. */
void cm_known_push(lua_State *L, const struct cm_known *known, uint32_t slot);

/* The string on top of the stack has been read from the entry of that hash and version. May raise a Lua
 * memory error. May run finalizers. */
void cm_known_note(lua_State *L, struct cm_known *known, uint64_t hash, uint64_t version);

#endif
