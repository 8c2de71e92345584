/* The master's part in the shared memory: it creates the segment, gives out its seats, grows the table,
 * cleans and sweeps, and repairs after the dead. In slices on the master's loop, woken by a bell that every
 * process can ring. */
#ifndef CM_CLUSTER_MEMORY_H
#define CM_CLUSTER_MEMORY_H

#include <uv.h>

#include "data/expiry.h"
#include "data/lru.h"
#include "data/store.h"
#include "memory/reaper.h"

struct cm_memory {
    struct cm_segment segment;
    struct cm_participant master;
    struct cm_store store;
    struct cm_lru lru;
    struct cm_cleaner cleaner;
    struct cm_reaper reaper;
    struct cm_sweep sweep;
    int bell; /* an eventfd */
    uv_poll_t heard;
    uv_timer_t round; /* expiry, the standing still, what the hints have missed */
    uv_idle_t next; /* goes on at once with what is left to do; a timer of 0 ms would not let the loop turn */
    uv_timer_t later;    /* goes on soon, when somebody is in the way */
    bool sweeping;       /* a round of the sweep is under way */
    bool growing;        /* the bell has been rung since the last round */
    uint64_t stocked_ms; /* when the free chunks were last counted */
    /* Tells every process to close its open chunk if it is idle: memory is short. */
    void (*on_short)(void *data);
    /* The bell has been rung for locks; every quarter of a second. */
    void (*on_locks)(void *data);
    void (*on_round)(void *data);
    void *data;
};

/* Creates the segment, for so many processes at a time, with a cache that is to be started. 0;
 * CM_E_NOMEMORY; an errno. */
int cm_memory_init(struct cm_memory *memory, uint64_t bytes, uint32_t processes);
void cm_memory_deinit(struct cm_memory *memory);

/* The process in the seat is dead: see cm_reaper_repair and cm_lru_repair. */
void cm_memory_repair(struct cm_memory *memory, uint32_t seat);

/* Works on the loop until stop, which closes the handles. */
void cm_memory_start(struct cm_memory *memory, uv_loop_t *loop);
void cm_memory_stop(struct cm_memory *memory);

#endif
