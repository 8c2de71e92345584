#include "cluster/memory.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "memory/append.h"

enum {
    ROUND_MS = 250,
    LATER_MS = 5, /* until somebody who is in the way has gone */
    SPLITS = 2000,
    SWEPT_RECORDS = 2000,
    ROOM_SWEPT_RECORDS = 100000,
};

/* Whether that much would fit if there were no cache. */
static bool fits_without_cache(const struct cm_memory *memory, uint64_t bytes, uint64_t freed_bytes) {
    struct cm_lru_stats cached;
    struct cm_chunk_census census;
    cm_lru_stats(&memory->segment, &cached);
    cm_chunk_count((struct cm_segment *)&memory->segment, &census);
    uint64_t freed = cached.bytes + freed_bytes;
    uint64_t kept = census.live_bytes > freed ? census.live_bytes - freed : 0;
    uint64_t limit = cm_chunk_limit_bytes(&memory->segment);
    return bytes <= limit && kept <= limit - bytes;
}

static int make_room(void *data, uint64_t bytes, uint64_t freed_bytes) {
    struct cm_memory *memory = data;
    int err = cm_cleaner_make_room(&memory->cleaner, bytes, freed_bytes);
    if (!err)
        return 0;
    /* What has expired and is still there gives way first; as much as can be done without holding others up.
     */
    cm_expiry_sweep(&memory->sweep, &memory->master, cm_clock_ms(), ROOM_SWEPT_RECORDS);
    err = cm_cleaner_make_room(&memory->cleaner, bytes, freed_bytes);
    /* Then the cache gives up its oldest; not for what would not fit in the place of all of them. */
    while (err && fits_without_cache(memory, bytes, freed_bytes) && cm_lru_shrink(&memory->lru, bytes))
        err = cm_cleaner_make_room(&memory->cleaner, bytes, freed_bytes);
    return err;
}

static void on_stand_still(void *data, int32_t pid) {
    (void)data;
    cm_log(CM_LOG_ERROR,
           "pid %d has stood still for a second in the midst of a write and is killed, for others wait",
           (int)pid);
}

int cm_memory_init(struct cm_memory *memory, uint64_t bytes, uint32_t processes) {
    *memory = (struct cm_memory){.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    if (memory->bell < 0)
        return CM_E_NOMEMORY;
    int err = cm_segment_create(bytes, processes + CM_MASTER_SEAT, &memory->segment);
    if (err) {
        close(memory->bell);
        return err;
    }
    cm_seat_assign(&memory->segment, CM_MASTER_SEAT, (int32_t)getpid());
    cm_participant_init(&memory->master, &memory->segment, CM_MASTER_SEAT);
    memory->master.bell = memory->bell; /* it inserts too */
    cm_store_init(&memory->store, &memory->master);
    memory->store.make_room = make_room;
    memory->store.data = memory;
    cm_lru_init(&memory->lru, &memory->store);
    memory->sweep.lru = &memory->lru;
    memory->sweep.store = &memory->store;
    err = cm_cleaner_init(&memory->cleaner, &memory->segment);
    if (!err)
        err = cm_reaper_init(&memory->reaper, &memory->segment, &memory->cleaner);
    if (err) {
        cm_memory_deinit(memory);
        return err;
    }
    memory->reaper.on_stand_still = on_stand_still;
    /* Growing, cleaning ahead and sweeping only try; who does another's write waits for its group, but not
     * for the dead. */
    memory->master.on_wait = memory->cleaner.mover.on_wait = cm_reaper_on_wait;
    memory->master.on_wait_data = memory->cleaner.mover.on_wait_data = &memory->reaper;
    memory->lru.is_dead = cm_reaper_is_dead;
    memory->lru.data = &memory->reaper;
    return 0;
}

void cm_memory_deinit(struct cm_memory *memory) {
    cm_reaper_deinit(&memory->reaper);
    cm_cleaner_deinit(&memory->cleaner);
    cm_store_deinit(&memory->store);
    cm_participant_deinit(&memory->master);
    cm_segment_close(&memory->segment);
    close(memory->bell);
}

void cm_memory_repair(struct cm_memory *memory, uint32_t seat) {
    cm_reaper_repair(&memory->reaper, seat);
    cm_lru_repair(&memory->lru, seat);
}

static void on_next(uv_idle_t *next);
static void on_later(uv_timer_t *later);

/* A slice of everything that there is to do; comes again at once, or soon, if that is not all. */
static void work(struct cm_memory *memory) {
    uint64_t now_ms = cm_clock_ms();
    bool more = cm_table_grow(&memory->master, SPLITS);
    enum cm_cleaned cleaned = cm_cleaner_run(&memory->cleaner);
    if (memory->sweeping)
        memory->sweeping = cm_expiry_sweep(&memory->sweep, &memory->master, now_ms, SWEPT_RECORDS);
    more |= memory->sweeping || cleaned == CM_CLEANED_MORE;
    /* That counts all chunks, which are many in a large memory: not for each of thousands of rings a second.
     */
    bool later = now_ms == memory->stocked_ms;
    if (!later)
        more |= cm_cleaner_stock(&memory->segment, memory->growing);
    memory->stocked_ms = now_ms;
    if (more)
        uv_idle_start(&memory->next, on_next);
    else
        uv_idle_stop(&memory->next);
    if (!more && (later || cleaned == CM_CLEANED_LATER))
        uv_timer_start(&memory->later, on_later, LATER_MS, 0);
}

static void on_next(uv_idle_t *next) {
    work(next->data);
}

static void on_later(uv_timer_t *later) {
    work(later->data);
}

/* Before the work: what is rung for during it is heard again. */
static void hear(struct cm_memory *memory) {
    uint32_t rung = atomic_exchange(&memory->segment.header->rung, 0);
    if (rung & CM_RING_LOCKS)
        memory->on_locks(memory->data);
    if (rung & CM_RING_MEMORY) {
        memory->growing = true;
        work(memory);
    }
}

static void on_bell(uv_poll_t *heard, int status, int events) {
    (void)status;
    (void)events;
    struct cm_memory *memory = heard->data;
    uint64_t rung;
    if (read(memory->bell, &rung, sizeof rung) < 0)
        return;
    hear(memory);
}

static void on_round(uv_timer_t *round) {
    struct cm_memory *memory = round->data;
    hear(memory); /* a ringer may have died between its flag and its bell */
    memory->on_round(memory->data);
    cm_reaper_look(&memory->reaper, cm_clock_ms());
    memory->sweeping = true;
    work(memory);
    memory->growing = false;
    if (cm_cleaner_is_short(&memory->cleaner)) {
        cm_append_close(&memory->master);
        if (memory->on_short)
            memory->on_short(memory->data);
    }
}

void cm_memory_start(struct cm_memory *memory, uv_loop_t *loop) {
    uv_poll_init(loop, &memory->heard, memory->bell);
    uv_timer_init(loop, &memory->round);
    uv_timer_init(loop, &memory->later);
    uv_idle_init(loop, &memory->next);
    memory->heard.data = memory->round.data = memory->later.data = memory->next.data = memory;
    uv_poll_start(&memory->heard, UV_READABLE, on_bell);
    uv_timer_start(&memory->round, on_round, ROUND_MS, ROUND_MS);
}

void cm_memory_stop(struct cm_memory *memory) {
    uv_close((uv_handle_t *)&memory->heard, NULL);
    uv_close((uv_handle_t *)&memory->round, NULL);
    uv_close((uv_handle_t *)&memory->later, NULL);
    uv_close((uv_handle_t *)&memory->next, NULL);
}
