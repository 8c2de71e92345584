#include "data/listeners.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* A name that somebody listens for. */
struct cm_listened {
    struct cm_index_node named;
    struct cm_buf name;
    bool prefix;
    bool all;                  /* as cm_watch_add said */
    bool ready;                /* its barrier has passed */
    struct cm_list everything; /* if so */
    struct cm_list stage;      /* in `fresh` or `passing` until it is ready */
    struct cm_list subscriptions;
};

/* What a participant listens for. */
struct cm_listening {
    struct cm_list subscriptions;
    uint64_t told; /* the number of the last change that it was told of */
    size_t bytes;  /* that it takes */
};

struct subscription {
    struct cm_listened *listened;
    struct cm_list link;
    struct cm_list seat_link;
    uint32_t seat;
    uint64_t request; /* to be answered when the name is ready */
};

static struct cm_listened *find(const struct cm_listeners *listeners, struct cm_bytes name, bool prefix) {
    uint64_t hash = cm_watch_hash(listeners->set.segment, name, prefix);
    for (struct cm_index_node *node = cm_index_first(&listeners->names, hash); node;
         node = cm_index_next(node)) {
        struct cm_listened *listened = CM_LIST_ITEM(node, struct cm_listened, named);
        if (listened->prefix == prefix && listened->name.len == name.len &&
            (name.len == 0 || memcmp(listened->name.data, name.data, name.len) == 0))
            return listened;
    }
    return NULL;
}

static struct cm_listened *add_name(struct cm_listeners *listeners, struct cm_bytes name, bool prefix) {
    struct cm_listened *listened = calloc(1, sizeof *listened);
    if (!listened)
        return NULL;
    if (name.len && cm_buf_append(&listened->name, name.data, name.len)) {
        free(listened);
        return NULL;
    }
    listened->prefix = prefix;
    cm_list_init(&listened->subscriptions);
    cm_list_init(&listened->everything);
    cm_list_append(&listeners->fresh, &listened->stage);
    cm_index_add(&listeners->names, &listened->named, cm_watch_hash(listeners->set.segment, name, prefix));
    listened->all = cm_watch_add(&listeners->set, name, prefix);
    if (listened->all)
        cm_list_append(&listeners->everything, &listened->everything);
    return listened;
}

/* Forgets the name if nobody listens for it any more. */
static void drop_name(struct cm_listeners *listeners, struct cm_listened *listened) {
    if (!cm_list_empty(&listened->subscriptions))
        return;
    cm_watch_remove(&listeners->set, cm_buf_view(&listened->name), listened->prefix, listened->all);
    cm_index_remove(&listeners->names, &listened->named);
    cm_list_remove(&listened->everything);
    cm_list_remove(&listened->stage);
    cm_buf_deinit(&listened->name);
    free(listened);
}

static struct subscription *find_subscription(const struct cm_listened *listened, uint32_t seat) {
    CM_LIST_EACH(link, &listened->subscriptions) {
        struct subscription *subscription = CM_LIST_ITEM(link, struct subscription, link);
        if (subscription->seat == seat)
            return subscription;
    }
    return NULL;
}

static size_t bytes_for(const struct cm_listened *listened) {
    return sizeof *listened + sizeof(struct subscription) + listened->name.len;
}

static struct subscription *subscribe(struct cm_listeners *listeners, struct cm_listened *listened,
                                      uint32_t seat) {
    struct cm_listening *listening = &listeners->seats[seat];
    size_t bytes = bytes_for(listened);
    if (bytes > CM_LISTENED_BYTES_MOST - listening->bytes)
        return NULL;
    struct subscription *subscription = calloc(1, sizeof *subscription);
    if (!subscription)
        return NULL;
    listening->bytes += bytes;
    subscription->listened = listened;
    subscription->seat = seat;
    cm_list_append(&listened->subscriptions, &subscription->link);
    cm_list_append(&listening->subscriptions, &subscription->seat_link);
    return subscription;
}

static void unsubscribe(struct cm_listeners *listeners, struct subscription *subscription) {
    struct cm_listened *listened = subscription->listened;
    listeners->seats[subscription->seat].bytes -= bytes_for(listened);
    cm_list_remove(&subscription->link);
    cm_list_remove(&subscription->seat_link);
    free(subscription);
    drop_name(listeners, listened);
}

int cm_listeners_add(struct cm_listeners *listeners, uint32_t seat, uint64_t request, struct cm_bytes name,
                     bool prefix) {
    struct cm_listened *listened = find(listeners, name, prefix);
    if (!listened)
        listened = add_name(listeners, name, prefix);
    if (!listened)
        return CM_E_NOMEMORY;
    struct subscription *subscription = find_subscription(listened, seat);
    if (!subscription)
        subscription = subscribe(listeners, listened, seat);
    if (!subscription) {
        drop_name(listeners, listened);
        return CM_E_NOMEMORY;
    }
    if (listened->ready)
        listeners->answer(listeners->data, seat, request);
    else
        subscription->request = request;
    cm_listeners_poll(listeners);
    return 0;
}

void cm_listeners_remove(struct cm_listeners *listeners, uint32_t seat, struct cm_bytes name, bool prefix) {
    struct cm_listened *listened = find(listeners, name, prefix);
    struct subscription *subscription = listened ? find_subscription(listened, seat) : NULL;
    if (subscription)
        unsubscribe(listeners, subscription);
}

void cm_listeners_drop(struct cm_listeners *listeners, uint32_t seat) {
    CM_LIST_EACH(link, &listeners->seats[seat].subscriptions) {
        unsubscribe(listeners, CM_LIST_ITEM(link, struct subscription, seat_link));
    }
}

/* --- barriers --- */

static void move_all(struct cm_list *from, struct cm_list *to) {
    CM_LIST_EACH(link, from) {
        cm_list_remove(link);
        cm_list_append(to, link);
    }
}

static void become_ready(struct cm_listeners *listeners, struct cm_listened *listened) {
    listened->ready = true;
    cm_list_remove(&listened->stage);
    CM_LIST_EACH(link, &listened->subscriptions) {
        struct subscription *subscription = CM_LIST_ITEM(link, struct subscription, link);
        listeners->answer(listeners->data, subscription->seat, subscription->request);
    }
}

bool cm_listeners_poll(struct cm_listeners *listeners) {
    for (;;) {
        if (cm_list_empty(&listeners->passing)) {
            cm_barrier_deinit(&listeners->barrier); /* those that waited for it may be gone */
            if (cm_list_empty(&listeners->fresh))
                return false;
            if (cm_barrier_begin(&listeners->barrier, listeners->set.segment))
                return true; /* no memory now */
            move_all(&listeners->fresh, &listeners->passing);
        }
        if (!cm_barrier_passed(&listeners->barrier, listeners->set.segment))
            return true;
        CM_LIST_EACH(link, &listeners->passing) {
            become_ready(listeners, CM_LIST_ITEM(link, struct cm_listened, stage));
        }
    }
}

/* --- changes --- */

/* Who is not answered yet is told nothing: it reads afterwards what is there. */
static void tell(struct cm_listeners *listeners, const struct cm_listened *listened,
                 const struct cm_changed *change) {
    if (!listened || !listened->ready)
        return;
    CM_LIST_EACH(link, &listened->subscriptions) {
        uint32_t seat = CM_LIST_ITEM(link, struct subscription, link)->seat;
        if (listeners->seats[seat].told == listeners->changes)
            continue;
        listeners->seats[seat].told = listeners->changes;
        listeners->tell(listeners->data, seat, change);
    }
}

void cm_listeners_changed(struct cm_listeners *listeners, const struct cm_changed *change) {
    if (listeners->names.count == 0)
        return;
    listeners->changes++;
    struct cm_bytes key = change->key;
    tell(listeners, find(listeners, key, false), change);
    for (int i = 0; i < CM_WATCHED_LENGTHS; i++) {
        uint16_t len = cm_watch_length(&listeners->set, i);
        if (len && len <= key.len)
            tell(listeners, find(listeners, (struct cm_bytes){key.data, len}, true), change);
    }
    CM_LIST_EACH(link, &listeners->everything) {
        const struct cm_listened *listened = CM_LIST_ITEM(link, struct cm_listened, everything);
        struct cm_bytes prefix = cm_buf_view(&listened->name);
        if (prefix.len == 0 || (prefix.len <= key.len && memcmp(prefix.data, key.data, prefix.len) == 0))
            tell(listeners, listened, change);
    }
}

/* --- beginning and end --- */

int cm_listeners_init(struct cm_listeners *listeners, const struct cm_segment *segment) {
    *listeners = (struct cm_listeners){0};
    cm_watch_init(&listeners->set, segment);
    cm_list_init(&listeners->everything);
    cm_list_init(&listeners->fresh);
    cm_list_init(&listeners->passing);
    uint32_t seats = segment->layout.seats + 1;
    listeners->seats = calloc(seats, sizeof *listeners->seats);
    if (cm_index_init(&listeners->names) || !listeners->seats) {
        cm_index_deinit(&listeners->names);
        free(listeners->seats);
        listeners->seats = NULL;
        return CM_E_NOMEMORY;
    }
    for (uint32_t i = 0; i < seats; i++)
        cm_list_init(&listeners->seats[i].subscriptions);
    return 0;
}

void cm_listeners_deinit(struct cm_listeners *listeners) {
    if (!listeners->seats)
        return;
    for (uint32_t seat = 0; seat <= listeners->set.segment->layout.seats; seat++)
        cm_listeners_drop(listeners, seat);
    cm_barrier_deinit(&listeners->barrier);
    cm_index_deinit(&listeners->names);
    free(listeners->seats);
    *listeners = (struct cm_listeners){0};
}
