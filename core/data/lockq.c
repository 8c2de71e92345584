#include "data/lockq.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "data/deadlock.h"
#include "data/lockname.h"
#include "data/revocation.h"

enum {
    MARKS_MOST = 4096, /* of abandoned locks; in a small table a quarter of it */
    LOOK_MS = 10,      /* at least so often, for a bell may be lost with who was to ring it */
};

/* --- waiters --- */

static struct cm_lock_waiter *head_of(const struct cm_lock_entry *entry) {
    return CM_LIST_ITEM(entry->waiters.next, struct cm_lock_waiter, link);
}

/* With what it may be the only one to need. */
static size_t bytes_for(const struct cm_lock_entry *entry) {
    return sizeof(struct cm_lock_waiter) + sizeof *entry + entry->key.len;
}

static void unlink_waiter(struct cm_lockq *queue, struct cm_lock_waiter *waiter) {
    struct cm_lock_entry *entry = waiter->entry;
    if (waiter == head_of(entry))
        entry->head_since_ms = queue->clock_ms();
    cm_list_remove(&waiter->link);
    cm_list_remove(&waiter->seat_link);
    queue->seats[waiter->asker.seat].bytes -= bytes_for(entry);
    cm_heap_remove(&queue->timeouts, &waiter->timeout);
    if (waiter->task)
        cm_index_remove(&queue->tasks, &waiter->by_task);
    entry->waiting--;
    entry->fair -= waiter->fair;
}

static void remove_waiter(struct cm_lockq *queue, struct cm_lock_waiter *waiter) {
    unlink_waiter(queue, waiter);
    free(waiter);
}

static int add_waiter(struct cm_lockq *queue, struct cm_lock_entry *entry,
                      const struct cm_lock_request *request) {
    struct cm_lock_seat *seat = &queue->seats[request->asker.seat];
    size_t bytes = bytes_for(entry);
    if (bytes > CM_LOCK_WAITS_MOST_BYTES - seat->bytes)
        return CM_E_NOMEMORY;
    struct cm_lock_waiter *waiter = calloc(1, sizeof *waiter);
    if (!waiter)
        return CM_E_NOMEMORY;
    uint64_t now_ms = queue->clock_ms();
    *waiter = (struct cm_lock_waiter){.entry = entry,
                                      .asker = request->asker,
                                      .task = request->task,
                                      .lease_ms = request->lease_ms,
                                      .fair = request->fair};
    waiter->timeout.key = now_ms + request->timeout_ms;
    if (request->timeout_ms != CM_LOCK_NO_TIMEOUT && cm_heap_add(&queue->timeouts, &waiter->timeout)) {
        free(waiter);
        return CM_E_NOMEMORY;
    }
    if (waiter->task)
        cm_index_add(&queue->tasks, &waiter->by_task, cm_deadlock_hash(request->asker.seat, request->task));
    if (!entry->waiting)
        entry->head_since_ms = now_ms;
    cm_list_append(&entry->waiters, &waiter->link);
    cm_list_append(&seat->waiters, &waiter->seat_link);
    seat->bytes += bytes;
    entry->waiting++;
    entry->fair += waiter->fair;
    return 0;
}

/* The flags that a lock with this queue has. */
static uint64_t flags_for(const struct cm_lockq *queue, const struct cm_lock_entry *entry) {
    if (!entry->waiting)
        return 0;
    bool impatient = queue->clock_ms() > entry->head_since_ms + CM_LOCK_PATIENCE_MS;
    return CM_LOCK_WAITED | (entry->fair || impatient ? CM_LOCK_HANDED : 0);
}

static uint64_t deadline_in(const struct cm_lockq *queue, uint64_t lease_ms) {
    return lease_ms ? queue->clock_ms() + lease_ms : 0;
}

/* --- looking --- */

/* In the section of a free lock: gives it to who asks, who is told behind the section. */
static void give(struct cm_lockq *queue, struct cm_lock_entry *entry, struct cm_lock *lock,
                 struct cm_lock_asker asker, uint64_t task, uint64_t lease_ms, struct cm_section *section) {
    struct cm_grant grant = {.abandoned = cm_word_load(&lock->state) & CM_LOCK_ABANDONED};
    uint64_t token;
    cm_lockname_own(queue, entry, asker.seat);
    cm_lock_hold(queue->master->segment, lock, asker.seat, task, deadline_in(queue, lease_ms),
                 flags_for(queue, entry), &token);
    grant.id = cm_lockname_id(queue, entry, lock, token);
    cm_section_leave(section);
    queue->answer(queue->data, asker, 0, &grant, NULL);
}

/* Likewise, to the first in the queue. */
static void hand_over(struct cm_lockq *queue, struct cm_lock_entry *entry, struct cm_lock *lock,
                      struct cm_section *section) {
    struct cm_lock_waiter *head = head_of(entry);
    unlink_waiter(queue, head);
    if (entry->waiting)
        cm_word_store(&lock->head_since_ms, entry->head_since_ms);
    give(queue, entry, lock, head->asker, head->task, head->lease_ms, section);
    free(head);
}

static void refuse(struct cm_lockq *queue, struct cm_lock_waiter *waiter, int code) {
    struct cm_lock_asker asker = waiter->asker;
    remove_waiter(queue, waiter);
    queue->answer(queue->data, asker, code, NULL, NULL);
}

void cm_lockq_settle(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    for (bool again = true; again;) {
        again = false;
        if (entry->revoking && !cm_revocation_end(queue, entry))
            break;
        struct cm_section section;
        struct cm_lock *lock = cm_lockname_enter(queue, entry, entry->waiting > 0, &section);
        uint64_t state = lock ? cm_word_load(&lock->state) : 0;
        if (!lock) {
            cm_section_leave(&section);
        } else if (!cm_lock_token(state) && entry->waiting) {
            again = !cm_lockname_may_hold(queue, entry, head_of(entry)->asker.seat);
            if (again) {
                cm_section_leave(&section);
                refuse(queue, head_of(entry), CM_E_NOMEMORY);
            } else {
                hand_over(queue, entry, lock, &section);
            }
        } else if (!cm_lock_token(state)) {
            cm_word_store(&lock->state, state & CM_LOCK_ABANDONED);
            bool marked = cm_lockname_number_mark(queue, lock);
            cm_section_leave(&section);
            if (marked)
                cm_lockname_note_mark(queue, entry->name);
        } else {
            uint64_t deadline_ms = cm_word_load(&lock->deadline_ms);
            bool over = entry->waiting && deadline_ms && deadline_ms <= queue->clock_ms();
            if (entry->waiting)
                cm_word_store(&lock->head_since_ms, entry->head_since_ms);
            /* Its owner may release it meanwhile. */
            again = !cm_word_swap(&lock->state, state, cm_lock_token(state) << 4 | flags_for(queue, entry));
            cm_section_leave(&section);
            again |= over && cm_revocation_begin(queue, entry, 0, CM_LOCK_ABANDONED);
        }
    }
}

/* Whether a look at this one would find nothing to do. */
static bool is_settled(const struct cm_lockq *queue, const struct cm_lock_entry *entry) {
    const struct cm_lock_bucket *bucket = cm_lock_bucket(queue->master->segment, entry->bucket);
    if (entry->revoking || entry->kept || !entry->waiting)
        return false;
    for (int i = 0; i < CM_LOCKS_IN_BUCKET; i++) {
        const struct cm_lock *lock = &bucket->locks[i];
        uint64_t state = cm_word_load(&lock->state);
        if (!state || cm_word_load(&lock->name[0]) != entry->name.low ||
            cm_word_load(&lock->name[1]) != entry->name.high)
            continue;
        uint64_t deadline_ms = cm_word_load(&lock->deadline_ms);
        return cm_lock_token(state) && (state & CM_LOCK_FLAGS) == flags_for(queue, entry) &&
               !(deadline_ms && deadline_ms <= queue->clock_ms());
    }
    return false;
}

static void end_timeouts(struct cm_lockq *queue) {
    struct cm_heap_node *first;
    while ((first = cm_heap_first(&queue->timeouts)) && first->key <= queue->clock_ms()) {
        struct cm_lock_waiter *waiter = CM_LIST_ITEM(first, struct cm_lock_waiter, timeout);
        struct cm_lock_entry *entry = waiter->entry;
        /* A lock that has become free is the first one's, also at the last moment. */
        if (waiter == head_of(entry)) {
            uint32_t waiting = entry->waiting;
            cm_lockq_settle(queue, entry);
            if (entry->waiting < waiting) {
                cm_lockname_drop(queue, entry);
                continue;
            }
        }
        refuse(queue, waiter, CM_E_TIMEOUT);
        cm_lockq_settle(queue, entry);
        cm_lockname_drop(queue, entry);
    }
}

void cm_lockq_look(struct cm_lockq *queue) {
    cm_lockname_sift_marks(queue);
    end_timeouts(queue);
    CM_LIST_EACH(link, &queue->active) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, active);
        if (is_settled(queue, entry))
            continue;
        cm_lockq_settle(queue, entry);
        cm_lockname_drop(queue, entry);
    }
}

uint64_t cm_lockq_next_ms(const struct cm_lockq *queue) {
    if (cm_list_empty(&queue->active))
        return UINT64_MAX;
    const struct cm_heap_node *first = cm_heap_first(&queue->timeouts);
    uint64_t now_ms = queue->clock_ms();
    if (!first || first->key >= now_ms + LOOK_MS)
        return LOOK_MS;
    return first->key > now_ms ? first->key - now_ms : 0;
}

/* --- requests --- */

/* 0: the request has been granted. CM_E_BUSY: not now, for whoever waits already comes first. CM_E_NOMEMORY.
 */
static int grant_now(struct cm_lockq *queue, struct cm_lock_entry *entry,
                     const struct cm_lock_request *request) {
    for (;;) {
        if (entry->waiting || (entry->revoking && !cm_revocation_end(queue, entry)))
            return CM_E_BUSY;
        struct cm_section section;
        struct cm_lock *lock = cm_lockname_enter(queue, entry, true, &section);
        bool held = cm_lock_token(cm_word_load(&lock->state)) != 0;
        uint64_t deadline_ms = cm_word_load(&lock->deadline_ms);
        if (!held && cm_lockname_may_hold(queue, entry, request->asker.seat)) {
            give(queue, entry, lock, request->asker, request->task, request->lease_ms, &section);
            return 0;
        }
        cm_section_leave(&section);
        if (!held)
            return CM_E_NOMEMORY;
        if (!deadline_ms || deadline_ms > queue->clock_ms())
            return CM_E_BUSY;
        cm_revocation_begin(queue, entry, 0, CM_LOCK_ABANDONED);
    }
}

static int settle(struct cm_lockq *queue, struct cm_lock_entry *entry,
                  const struct cm_lock_request *request) {
    if (entry->key.len == 0 && cm_buf_append(&entry->key, request->key.data, request->key.len))
        return CM_E_NOMEMORY;
    int err = grant_now(queue, entry, request);
    if (err != CM_E_BUSY)
        return err;
    if (request->timeout_ms == 0) {
        queue->answer(queue->data, request->asker, CM_E_BUSY, NULL, NULL);
        return 0;
    }
    char text[CM_DEADLOCK_TEXT_BYTES];
    if (cm_deadlock_closes(queue, entry, request, text)) {
        queue->answer(queue->data, request->asker, CM_E_DEADLOCK, NULL, text);
        return 0;
    }
    err = add_waiter(queue, entry, request);
    if (!err)
        cm_lockq_settle(queue, entry);
    return err;
}

int cm_lockq_request(struct cm_lockq *queue, const struct cm_lock_request *request) {
    struct cm_lock_entry *entry = cm_lockname_take(queue, cm_lock_name(queue->master->segment, request->key));
    if (!entry)
        return CM_E_NOMEMORY;
    int err = settle(queue, entry, request);
    cm_lockname_drop(queue, entry);
    return err;
}

/* In the section of the entry's lock: whether this is it, and held so. */
static bool is_held_as(const struct cm_lockq *queue, const struct cm_lock_entry *entry,
                       const struct cm_lock *lock, struct cm_lock_id id) {
    return lock && id.token && cm_lock_token(cm_word_load(&lock->state)) == id.token &&
           cm_lockname_id(queue, entry, lock, id.token).slot == id.slot;
}

static bool revoke(struct cm_lockq *queue, struct cm_lock_entry *entry, struct cm_lock_id id) {
    struct cm_section section;
    bool held = is_held_as(queue, entry, cm_lockname_enter(queue, entry, false, &section), id);
    cm_section_leave(&section);
    return held && cm_revocation_begin(queue, entry, id.token, 0);
}

int cm_lockq_release(struct cm_lockq *queue, struct cm_lock_asker asker, struct cm_bytes key,
                     struct cm_lock_id id) {
    struct cm_lock_entry *entry = cm_lockname_take(queue, cm_lock_name(queue->master->segment, key));
    if (!entry)
        return CM_E_NOMEMORY;
    if (!entry->revoking && revoke(queue, entry, id)) {
        entry->releaser = asker;
        cm_lockq_settle(queue, entry);
    } else {
        queue->answer(queue->data, asker, CM_E_NOTOWNER, NULL, NULL);
    }
    cm_lockname_drop(queue, entry);
    return 0;
}

int cm_lockq_renew(struct cm_lockq *queue, uint32_t seat, struct cm_bytes key, struct cm_lock_id id,
                   uint64_t lease_ms) {
    struct cm_lock_entry space;
    struct cm_lock_entry *entry =
        cm_lockname_take_or(queue, cm_lock_name(queue->master->segment, key), &space);
    struct cm_section section;
    struct cm_lock *lock = cm_lockname_enter(queue, entry, false, &section);
    bool holds = is_held_as(queue, entry, lock, id) && cm_word_load(&lock->owner) == seat;
    uint64_t deadline_ms = deadline_in(queue, lease_ms);
    if (holds)
        cm_word_store(&lock->deadline_ms, deadline_ms);
    cm_section_leave(&section);
    if (holds && deadline_ms)
        cm_lock_note_lease(queue->master->segment, deadline_ms);
    return holds ? 0 : CM_E_NOTOWNER;
}

/* 0, CM_E_NOTFOUND, or CM_LOCK_ASK: it is held, but its lease is over. */
static int read_info(struct cm_lockq *queue, struct cm_hash128 name, struct cm_lock_info *info) {
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = cm_lockname_take_or(queue, name, &space);
    struct cm_section section;
    struct cm_lock *lock = cm_lockname_enter(queue, entry, false, &section);
    bool held = lock && cm_lock_token(cm_word_load(&lock->state));
    uint64_t now_ms = queue->clock_ms();
    uint64_t deadline_ms = held ? cm_word_load(&lock->deadline_ms) : 0;
    bool over = deadline_ms && deadline_ms <= now_ms;
    if (held)
        *info = (struct cm_lock_info){.seat = (uint32_t)cm_word_load(&lock->owner),
                                      .task = cm_word_load(&lock->task),
                                      .lease_ms = deadline_ms && !over ? deadline_ms - now_ms : 0,
                                      .waiting = entry->waiting};
    cm_section_leave(&section);
    return !held ? CM_E_NOTFOUND : over ? CM_LOCK_ASK : 0;
}

/* What is over ends here, or its owner could renew what has been called free. */
int cm_lockq_info(struct cm_lockq *queue, struct cm_bytes key, struct cm_lock_info *info) {
    struct cm_hash128 name = cm_lock_name(queue->master->segment, key);
    struct cm_lock_info found;
    int err = read_info(queue, name, &found);
    if (err == CM_LOCK_ASK && cm_revocation_end_lease(queue, name))
        err = read_info(queue, name, &found);
    if (err)
        return CM_E_NOTFOUND;
    *info = found;
    return 0;
}

/* --- fences of others --- */

/* The entry that is the lock of that id, in the master's memory; NULL: there is none. */
static struct cm_lock_entry *find_kept(const struct cm_lockq *queue, struct cm_lock_id id) {
    CM_LIST_EACH(link, &queue->kept) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, kept_link);
        if (is_held_as(queue, entry, &entry->own, id))
            return entry;
    }
    return NULL;
}

bool cm_lockq_fence_begin(struct cm_lockq *queue, struct cm_lock_id id) {
    const struct cm_segment *segment = queue->master->segment;
    struct cm_lock *lock = cm_lock_at(segment, id.slot);
    if (!id.token || !lock)
        return id.token && find_kept(queue, id);
    struct cm_section section;
    cm_lock_enter(queue->master, id.slot >> CM_LOCK_BUCKET_BITS, &section);
    uint64_t state;
    do
        state = cm_word_load(&lock->state);
    while (cm_lock_token(state) == id.token &&
           !cm_word_swap(&lock->state, state, state | CM_LOCK_WAITED | CM_LOCK_HANDED));
    cm_section_leave(&section);
    return cm_lock_token(state) == id.token;
}

void cm_lockq_fence_end(struct cm_lockq *queue, struct cm_lock_id id) {
    struct cm_lock *lock = cm_lock_at(queue->master->segment, id.slot);
    if (!lock)
        return;
    /* It has its name still: its flags have kept it. */
    struct cm_hash128 name = {cm_word_load(&lock->name[0]), cm_word_load(&lock->name[1])};
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = cm_lockname_take_or(queue, name, &space);
    cm_lockq_settle(queue, entry);
    if (entry != &space)
        cm_lockname_drop(queue, entry);
}

/* --- the dead --- */

void cm_lockq_drop_waits(struct cm_lockq *queue, uint32_t seat) {
    /* All of them, before anything is given to one that is left. */
    CM_LIST_EACH(link, &queue->seats[seat].waiters) {
        remove_waiter(queue, CM_LIST_ITEM(link, struct cm_lock_waiter, seat_link));
    }
    CM_LIST_EACH(entry, &queue->active) {
        struct cm_lock_asker *releaser = &CM_LIST_ITEM(entry, struct cm_lock_entry, active)->releaser;
        if (releaser->seat == seat)
            *releaser = (struct cm_lock_asker){0};
    }
    cm_lockq_look(queue);
}

/* --- beginning and end --- */

int cm_lockq_init(struct cm_lockq *queue, struct cm_participant *master) {
    *queue = (struct cm_lockq){
        .master = master, .clock_ms = cm_clock_ms, .kept_most_bytes = CM_LOCK_KEPT_MOST_BYTES};
    const struct cm_layout *layout = &master->segment->layout;
    cm_list_init(&queue->active);
    cm_list_init(&queue->kept);
    uint32_t part = layout->lock_buckets * CM_LOCKS_IN_BUCKET / 4;
    queue->marks_most = part < MARKS_MOST ? part : MARKS_MOST;
    queue->seats = calloc(layout->seats + 1, sizeof *queue->seats);
    int err = cm_index_init(&queue->names);
    if (!err)
        err = cm_index_init(&queue->tasks);
    if (err || !queue->seats) {
        cm_lockq_deinit(queue);
        return CM_E_NOMEMORY;
    }
    for (uint32_t i = 0; i <= layout->seats; i++)
        cm_list_init(&queue->seats[i].waiters);
    return 0;
}

static void free_entry(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    CM_LIST_EACH(link, &entry->waiters) {
        remove_waiter(queue, CM_LIST_ITEM(link, struct cm_lock_waiter, link));
    }
    cm_barrier_deinit(&entry->barrier);
    cm_buf_deinit(&entry->key);
    free(entry);
}

void cm_lockq_deinit(struct cm_lockq *queue) {
    for (size_t i = 0; queue->seats && queue->names.chains && i < queue->names.room; i++) {
        for (struct cm_index_node *node = queue->names.chains[i], *next; node; node = next) {
            next = node->next;
            free_entry(queue, CM_LIST_ITEM(node, struct cm_lock_entry, named));
        }
    }
    cm_index_deinit(&queue->names);
    cm_index_deinit(&queue->tasks);
    cm_heap_deinit(&queue->timeouts);
    free(queue->seats);
    free(queue->marks);
    *queue = (struct cm_lockq){0};
}
