/* Who listens for what: the master's register of keys and prefixes, and of the participants that want to be
 * told of each change to them. No input or output; it waits for nobody.
 *
 * A name is in the watch set (core/data/watch) while somebody listens for it, so that whoever writes such a
 * key leaves it to the master. A listener is answered when a barrier begun behind the name's entry in the set
 * has passed: from then on nobody can be in the midst of a change that went past the master. */
#ifndef CM_DATA_LISTENERS_H
#define CM_DATA_LISTENERS_H

#include "base/index.h"
#include "base/list.h"
#include "data/store.h"
#include "data/watch.h"

/* What the names that one participant listens for may take of the master's memory. */
enum { CM_LISTENED_BYTES_MOST = 32 << 20 };

struct cm_listeners {
    struct cm_watch_set set;
    struct cm_index names;     /* struct cm_listened by hash */
    struct cm_list everything; /* those of them that every key is taken for watched by */
    struct cm_listening *seats;
    uint64_t changes;
    struct cm_barrier barrier; /* for the names that were new when it was begun */
    struct cm_list fresh;      /* names that are to have a barrier */
    struct cm_list passing;    /* names that wait for this one */
    /* The participant is to be told of a change. Once for each change. */
    void (*tell)(void *data, uint32_t seat, const struct cm_changed *change);
    /* From now on it misses nothing. */
    void (*answer)(void *data, uint32_t seat, uint64_t request);
    void *data;
};

/* 0 or CM_E_NOMEMORY. */
int cm_listeners_init(struct cm_listeners *listeners, const struct cm_segment *segment);
void cm_listeners_deinit(struct cm_listeners *listeners);

/* Subscribes the participant; answers at once or, if not, in a poll. Whoever is subscribed already is only
 * answered. 0, or CM_E_NOMEMORY without an answer: also where the participant listens for too much. */
int cm_listeners_add(struct cm_listeners *listeners, uint32_t seat, uint64_t request, struct cm_bytes name,
                     bool prefix);
/* Does nothing for one that is not subscribed. */
void cm_listeners_remove(struct cm_listeners *listeners, uint32_t seat, struct cm_bytes name, bool prefix);
/* All of a participant that is gone. */
void cm_listeners_drop(struct cm_listeners *listeners, uint32_t seat);

/* Looks whether the barrier has passed. True: it is to be called again soon. */
bool cm_listeners_poll(struct cm_listeners *listeners);

/* A key has been changed. */
void cm_listeners_changed(struct cm_listeners *listeners, const struct cm_changed *change);

#endif
