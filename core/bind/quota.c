#include "bind/quota.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { SPARE_PART = 16 }; /* of the bound */

static struct cm_quota *quota_of(lua_State *L) {
    void *quota;
    lua_getallocf(L, &quota);
    return quota;
}

/* Half-way from what is alive to the bound. */
static void set_alert(struct cm_quota *quota) {
    size_t left = quota->most_bytes > quota->used_bytes ? quota->most_bytes - quota->used_bytes : 0;
    /* Not at every step where nearly all of it is alive. */
    quota->alert_bytes = quota->used_bytes + (left / 2 > quota->spare_bytes ? left / 2 : quota->spare_bytes);
}

static void on_hook(lua_State *L, lua_Debug *about) {
    (void)about;
    struct cm_quota *quota = quota_of(L);
    lua_sethook(L, NULL, 0, 0);
    if (quota->alert_bytes != SIZE_MAX)
        return; /* set on several stacks, and done on another */
    lua_gc(L, LUA_GCCOLLECT, 0);
    set_alert(quota);
}

/* Lua asks twice, and raises an error the second time: on its way up there is something to spare, so that it
 * is not refused in its turn. C code that builds a string asks once. */
static void note_refusal(struct cm_quota *quota, size_t from, size_t to) {
    quota->reached |= quota->pending && quota->refused_from == from && quota->refused_to == to;
    quota->pending = quota->refused = true;
    quota->refused_from = from;
    quota->refused_to = to;
    /* Reading the stacks allocates nothing, and they are whole: Lua is about to collect its garbage. */
    cm_stacks_trace(quota->stacks, quota->trace);
}

static bool refuses(struct cm_quota *quota, size_t from, size_t to) {
    size_t most_bytes = quota->most_bytes + (quota->reached ? quota->spare_bytes : 0);
    bool fits = quota->used_bytes <= most_bytes && to - from <= most_bytes - quota->used_bytes;
    quota->pending &= !fits;
    if (!fits)
        note_refusal(quota, from, to);
    return !fits;
}

static void *allocate(void *data, void *memory, size_t from, size_t to) {
    struct cm_quota *quota = data;
    if (!memory)
        from = 0; /* it says then what it is for */
    if (to == 0) {
        free(memory);
    } else {
        if (to > from && refuses(quota, from, to))
            return NULL;
        memory = realloc(memory, to);
        if (!memory)
            return NULL;
    }
    quota->used_bytes += to - from;
    if (quota->used_bytes > quota->alert_bytes) {
        if (cm_stacks_hook(quota->stacks, on_hook, true))
            quota->alert_bytes = SIZE_MAX;
    } else if (quota->reached && quota->used_bytes < quota->most_bytes - quota->spare_bytes) {
        quota->reached = false;
    }
    return to ? memory : NULL;
}

void cm_quota_init(struct cm_quota *quota, lua_State *L, const struct cm_stacks *stacks, size_t most_bytes) {
    *quota = (struct cm_quota){.stacks = stacks,
                               .most_bytes = most_bytes,
                               .spare_bytes = most_bytes / SPARE_PART,
                               .used_bytes = (size_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 +
                                             (size_t)lua_gc(L, LUA_GCCOUNTB, 0)};
    set_alert(quota);
    lua_setallocf(L, allocate, quota);
}

bool cm_quota_explain(const struct cm_quota *quota, char why[CM_QUOTA_WHY_BYTES]) {
    static const char units[] = "KMGT";
    if (!quota->refused)
        return false;
    size_t most = quota->most_bytes;
    char unit[2] = "";
    for (size_t i = 0; most % 1024 == 0 && units[i]; i++) {
        most /= 1024;
        unit[0] = units[i];
    }
    snprintf(why, CM_QUOTA_WHY_BYTES, "not enough memory: the Lua heap has reached --worker-memory (%zu%s)",
             most, unit);
    return true;
}
