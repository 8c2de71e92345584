/* Keys that this process reads or increments again and again: what they held, and where. A key is known by
 * its Lua string, which is kept, so no other one has its address. As long as an entry stands where it was
 * (cm_table_stands) the key need not be hashed or searched for, and a string that it holds is handed out
 * again: Lua's strings never change. A key is kept from its second use on, for what is read once and never
 * again is most of what there is. One Lua state's. */
#ifndef CM_BIND_KNOWN_H
#define CM_BIND_KNOWN_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/table.h"

enum { CM_KNOWN_MOST_SLOTS = 1 << 14, CM_KNOWN_MOST_BYTES = 4 << 20 };

struct cm_known_slot {
    uintptr_t key;       /* the string's address; 0: nothing; + 1: it is not kept */
    struct cm_spot spot; /* of a number, or of a string, which lies in `strings` */
};

struct cm_known {
    struct cm_known_slot *slots; /* NULL: none yet */
    uint32_t count;              /* of slots, a power of 2 */
    uint32_t crowded;            /* how often there was no room */
    int strings;                 /* registry reference: a slot's number + 1 -> its value; + count: its key */
    size_t bytes;                /* of strings that are kept */
    size_t most_bytes;
};

void cm_known_init(struct cm_known *known, size_t most_bytes);
void cm_known_deinit(struct cm_known *known);

/* The slot of the key at that index, if it is kept; else NULL. */
struct cm_known_slot *cm_known_find(lua_State *L, const struct cm_known *known, int index);
/* Pushes the string that the key has held, and below it the table that has it: who returns the string needs
 * not drop that. */
void cm_known_push(lua_State *L, const struct cm_known *known, const struct cm_known_slot *slot);

/* The key at that index holds what is on top of the stack, a string or a number, in the entry of that spot.
 * Raises nothing. May run finalizers. */
void cm_known_note(lua_State *L, struct cm_known *known, int index, const struct cm_spot *spot);

#endif
