/* The bound of a Lua heap (--worker-memory): an allocator that counts. What is beyond the bound it refuses;
 * Lua then collects its garbage, asks once more, and raises "not enough memory". Strings that C builds get no
 * second try, so a hook collects half-way between what was alive last and the bound. One Lua state's, and its
 * thread's. */
#ifndef CM_BIND_QUOTA_H
#define CM_BIND_QUOTA_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#include "bind/stacks.h"

struct cm_quota {
    const struct cm_stacks *stacks;
    size_t most_bytes;
    size_t used_bytes;
    size_t alert_bytes;  /* beyond, garbage is collected soon; SIZE_MAX: that is on its way */
    size_t spare_bytes;  /* beyond the bound: for the error's way up, once it has been raised */
    size_t refused_from; /* the last refusal: from and to which size */
    size_t refused_to;
    bool pending;               /* it was, and nothing has been granted since */
    bool refused;               /* something was, some time */
    bool reached;               /* an error has been raised for it, and little was given back since */
    char trace[CM_TRACE_BYTES]; /* of where it was reached */
};

/* Bounds the state's heap, for the rest of its life. The quota outlives the state; the stacks are those that
 * are at work for it. */
void cm_quota_init(struct cm_quota *quota, lua_State *L, const struct cm_stacks *stacks, size_t most_bytes);

/* Writes why an error "not enough memory" was raised, which may have been some time ago: "not enough memory:
 * the Lua heap has reached --worker-memory (64M)". False: never for this bound. */
enum { CM_QUOTA_WHY_BYTES = 128 };
bool cm_quota_explain(const struct cm_quota *quota, char why[CM_QUOTA_WHY_BYTES]);

#endif
