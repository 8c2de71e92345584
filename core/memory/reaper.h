/* The reaper: what the master repairs in the segment after a process has died, and its patience with one that
 * stands still. Repairs begin only when waitpid has returned the process, or could. */
#ifndef CM_MEMORY_REAPER_H
#define CM_MEMORY_REAPER_H

#include "memory/cleaner.h"

struct cm_reaper {
    struct cm_segment *segment;
    struct cm_cleaner *cleaner;
    struct cm_stand *stands; /* for each seat */
    uint64_t looked_ms;
    uint64_t waited_ms;
    /* Called before a participant that stands still is killed. */
    void (*on_stand_still)(void *data, int32_t pid);
    void *data;
};

/* 0 or CM_E_NOMEMORY. */
int cm_reaper_init(struct cm_reaper *reaper, struct cm_segment *segment, struct cm_cleaner *cleaner);
void cm_reaper_deinit(struct cm_reaper *reaper);

/* What a dead participant owned is free again: its group first, and what it had published there counts; its
 * chunks, of which those that it left in doubt are marked to be evacuated. For all the dead together, before
 * the frames that they had sent are handled. Doing it again does nothing. */
void cm_reaper_repair(struct cm_reaper *reaper, uint32_t id);

/* Frees its seat. Last of all. */
void cm_reaper_bury(struct cm_reaper *reaper, uint32_t id);

/* Looks who stands still, and kills who has for a second: who owns the group that its section names, or the
 * cache's lock, with neither changed since, while these looks came in time. To be called every quarter of a
 * second. */
void cm_reaper_look(struct cm_reaper *reaper, uint64_t now_ms);

/* For cm_participant.on_wait, with the reaper as its data: the master does not wait for the dead, nor longer
 * than that second for anybody. */
void cm_reaper_on_wait(void *data, uint32_t owner);

/* For who waits for the cache's lock: as above, and whether its owner is dead, in which case the cache is to
 * be repaired. */
bool cm_reaper_is_dead(void *data, uint32_t owner);

#endif
