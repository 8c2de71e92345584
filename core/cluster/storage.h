/* One storage, from its opening to its end: its file, who has it open, who waits, and the walk that gives
 * back what has expired. The master's; core/cluster/storages has them all, and alone uses this. */
#ifndef CM_CLUSTER_STORAGE_H
#define CM_CLUSTER_STORAGE_H

#include "cluster/durable.h"
#include "cluster/storages.h"

/* One after the other; in the end it is gone, or, if somebody waits for it by then, opened anew. */
enum cm_storage_state {
    CM_STORAGE_OPENING,
    CM_STORAGE_OPEN,
    CM_STORAGE_FLUSHING, /* what is not written is written */
    CM_STORAGE_CLEARING, /* its documents leave the memory, then the file is closed */
};

struct cm_storage {
    struct cm_list link;
    struct cm_storages *owner;
    uint32_t id; /* a new one for each opening */
    enum cm_storage_state state;
    char *name;
    char *folder;
    uint64_t gc_ms;
    struct cm_durable *durable;
    struct cm_list handles; /* who has it open */
    /* struct cm_storage_waiter */
    struct cm_list waiting;    /* to have it open */
    struct cm_list unanswered; /* for its end */
    struct cm_list syncing;    /* for the disk, in the order of their tickets */
    uint64_t last_ticket;
    bool destroyed;
    bool due;        /* something in it has expired */
    uint64_t cursor; /* of the walk under way */
    uv_timer_t walk; /* until the next slice of it, or the next one */
};

/* A request that is answered later. */
struct cm_storage_waiter {
    struct cm_list link;
    uint32_t seat;
    uint32_t process_id; /* the seat may be another one's by then */
    uint32_t request;
    uint8_t op;
    uint64_t ticket; /* of a sync; 0: none */
};

/* Begins to open one, under no name that there is already. 0, CM_E_NOMEMORY, or an errno. */
int cm_storage_new(struct cm_storages *storages, struct cm_bytes name, struct cm_bytes folder, uint64_t gc_ms,
                   struct cm_storage **result);

/* Keeps the request, to be given to one of the next. NULL: there is no memory, or this process waits for too
 * much. */
struct cm_storage_waiter *cm_storage_wait(struct cm_storage *storage, const struct cm_process *process,
                                          const struct cm_frame *frame);

/* Each answers now or later, and frees the waiter then. */
void cm_storage_join(struct cm_storage *storage, struct cm_storage_waiter *waiter);
/* The other three are of a process that has it open. */
void cm_storage_sync(struct cm_storage *storage, struct cm_storage_waiter *waiter);
void cm_storage_close(struct cm_storage *storage, struct cm_storage_waiter *waiter);
void cm_storage_destroy(struct cm_storage *storage, struct cm_storage_waiter *waiter);

/* Begins to close it if no process has it open. Whether it has begun. */
bool cm_storage_leave(struct cm_storage *storage);

/* Whether the process may use it. */
bool cm_storage_is_open_for(const struct cm_storage *storage, uint32_t seat);
/* The process is gone. */
void cm_storage_drop(struct cm_storage *storage, uint32_t seat);
/* The cluster ends, and it with it: see cm_storages_stop. */
void cm_storage_stop(struct cm_storage *storage);

#endif
