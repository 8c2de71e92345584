#include "data/expiry.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/error.h"

void cm_expiry_deinit(struct cm_expiry *expiry) {
    free(expiry->heap);
    *expiry = (struct cm_expiry){0};
}

int cm_expiry_reserve(struct cm_expiry *expiry, size_t more) {
    if (more <= expiry->room - expiry->count)
        return 0;
    size_t room = expiry->room ? expiry->room * 2 : 64;
    if (room < expiry->count + more)
        room = expiry->count + more;
    if (room > SIZE_MAX / sizeof *expiry->heap)
        return CM_E_NOMEMORY;
    struct cm_entry **heap = realloc(expiry->heap, room * sizeof *heap);
    if (!heap)
        return CM_E_NOMEMORY;
    expiry->heap = heap;
    expiry->room = room;
    return 0;
}

static void put(struct cm_expiry *expiry, size_t place, struct cm_entry *entry) {
    expiry->heap[place] = entry;
    entry->expiry_place = place;
}

static void sift_up(struct cm_expiry *expiry, size_t place, struct cm_entry *entry) {
    while (place > 0) {
        size_t parent = (place - 1) / 2;
        if (expiry->heap[parent]->expires_ms <= entry->expires_ms)
            break;
        put(expiry, place, expiry->heap[parent]);
        place = parent;
    }
    put(expiry, place, entry);
}

static void sift_down(struct cm_expiry *expiry, size_t place, struct cm_entry *entry) {
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= expiry->count)
            break;
        if (child + 1 < expiry->count &&
            expiry->heap[child + 1]->expires_ms < expiry->heap[child]->expires_ms)
            child++;
        if (entry->expires_ms <= expiry->heap[child]->expires_ms)
            break;
        put(expiry, place, expiry->heap[child]);
        place = child;
    }
    put(expiry, place, entry);
}

void cm_expiry_add(struct cm_expiry *expiry, struct cm_entry *entry) {
    sift_up(expiry, expiry->count++, entry);
}

void cm_expiry_remove(struct cm_expiry *expiry, struct cm_entry *entry) {
    size_t place = entry->expiry_place;
    struct cm_entry *last = expiry->heap[--expiry->count];
    if (last == entry)
        return;
    if (last->expires_ms < entry->expires_ms)
        sift_up(expiry, place, last);
    else
        sift_down(expiry, place, last);
}

struct cm_entry *cm_expiry_first(const struct cm_expiry *expiry) {
    return expiry->count ? expiry->heap[0] : NULL;
}
