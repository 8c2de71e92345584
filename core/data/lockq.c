#include "data/lockq.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "data/deadlock.h"

enum {
    MARKS_MOST = 4096, /* of abandoned locks; in a small table a quarter of it */
    LOOK_MS = 10,      /* at least so often, for a bell may be lost with who was to ring it */
};

/* --- words; see core/data/lock for what they order --- */

static uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit((_Atomic uint64_t *)word, memory_order_acquire);
}

static void store(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}

static bool swap(_Atomic uint64_t *word, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong(word, &from, to);
}

/* --- entries --- */

static bool has_name(const struct cm_lock_entry *entry, struct cm_hash128 name) {
    return entry->name.low == name.low && entry->name.high == name.high;
}

static struct cm_lock_entry *find_entry(const struct cm_lockq *queue, struct cm_hash128 name) {
    for (struct cm_index_node *node = cm_index_first(&queue->names, name.low); node;
         node = cm_index_next(node)) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(node, struct cm_lock_entry, named);
        if (has_name(entry, name))
            return entry;
    }
    return NULL;
}

/* The entry of that name, a new one if need be; NULL without memory. It is to be dropped again. */
static struct cm_lock_entry *take_entry(struct cm_lockq *queue, struct cm_hash128 name) {
    struct cm_lock_entry *entry = find_entry(queue, name);
    if (entry)
        return entry;
    entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    entry->name = name;
    entry->bucket = cm_lock_bucket_number(queue->master->segment, name);
    cm_list_init(&entry->waiters);
    cm_list_init(&entry->active);
    cm_list_init(&entry->kept_link);
    cm_index_add(&queue->names, &entry->named, name.low);
    return entry;
}

/* The entry of that name, or the caller's space as one that stands for it while nothing is to be kept. */
static struct cm_lock_entry *entry_or(const struct cm_lockq *queue, struct cm_hash128 name,
                                      struct cm_lock_entry *space) {
    struct cm_lock_entry *entry = find_entry(queue, name);
    if (entry)
        return entry;
    *space =
        (struct cm_lock_entry){.name = name, .bucket = cm_lock_bucket_number(queue->master->segment, name)};
    return space;
}

/* Takes the lock of the entry out of the master's memory, if it is there. */
static void give_up_own(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    if (!entry->kept)
        return;
    struct cm_section section;
    struct cm_lock_bucket *bucket = cm_lock_bucket(queue->master->segment, entry->bucket);
    cm_lock_enter(queue->master, entry->bucket, &section);
    store(&bucket->overflow, load(&bucket->overflow) - 1);
    cm_section_leave(&section);
    cm_list_remove(&entry->kept_link);
    entry->kept = false;
}

/* Frees the entry if there is nothing any more that it must remember. */
static void drop_entry(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    bool active = entry->waiting || entry->revoking;
    if (!active)
        cm_list_remove(&entry->active);
    else if (cm_list_empty(&entry->active))
        cm_list_append(&queue->active, &entry->active);
    if (active || (entry->kept && load(&entry->own.state)))
        return;
    give_up_own(queue, entry);
    cm_index_remove(&queue->names, &entry->named);
    cm_buf_deinit(&entry->key);
    free(entry);
}

struct cm_lock *cm_lockq_enter(struct cm_lockq *queue, struct cm_lock_entry *entry, bool anew,
                               struct cm_section *section) {
    struct cm_lock_bucket *bucket = cm_lock_bucket(queue->master->segment, entry->bucket);
    cm_lock_enter(queue->master, entry->bucket, section);
    struct cm_lock *lock = entry->kept ? &entry->own : cm_lock_find(bucket, entry->name, anew);
    if (lock || !anew)
        return lock;
    /* Before anybody can miss the lock in the bucket: the mark that says where else it may be. */
    store(&bucket->overflow, load(&bucket->overflow) + 1);
    cm_list_append(&queue->kept, &entry->kept_link);
    entry->kept = true;
    return &entry->own;
}

static struct cm_lock_id id_of(const struct cm_lockq *queue, const struct cm_lock_entry *entry,
                               const struct cm_lock *lock, uint64_t token) {
    const struct cm_lock_bucket *bucket = cm_lock_bucket(queue->master->segment, entry->bucket);
    return (struct cm_lock_id){token, cm_lock_slot(entry->bucket, bucket, entry->kept ? NULL : lock)};
}

/* --- waiters --- */

static struct cm_lock_waiter *head_of(const struct cm_lock_entry *entry) {
    return CM_LIST_ITEM(entry->waiters.next, struct cm_lock_waiter, link);
}

static void remove_waiter(struct cm_lockq *queue, struct cm_lock_waiter *waiter) {
    struct cm_lock_entry *entry = waiter->entry;
    cm_list_remove(&waiter->link);
    cm_list_remove(&waiter->seat_link);
    cm_heap_remove(&queue->timeouts, &waiter->timeout);
    if (waiter->task)
        cm_index_remove(&queue->tasks, &waiter->by_task);
    entry->waiting--;
    entry->fair -= waiter->fair;
    free(waiter);
}

static int add_waiter(struct cm_lockq *queue, struct cm_lock_entry *entry,
                      const struct cm_lock_request *request) {
    struct cm_lock_waiter *waiter = calloc(1, sizeof *waiter);
    if (!waiter)
        return CM_E_NOMEMORY;
    uint64_t now_ms = queue->clock_ms();
    *waiter = (struct cm_lock_waiter){.entry = entry,
                                      .asker = request->asker,
                                      .task = request->task,
                                      .lease_ms = request->lease_ms,
                                      .since_ms = now_ms,
                                      .fair = request->fair};
    waiter->timeout.key = now_ms + request->timeout_ms;
    if (request->timeout_ms != CM_LOCK_NO_TIMEOUT && cm_heap_add(&queue->timeouts, &waiter->timeout)) {
        free(waiter);
        return CM_E_NOMEMORY;
    }
    if (waiter->task)
        cm_index_add(&queue->tasks, &waiter->by_task, cm_deadlock_hash(request->asker.seat, request->task));
    cm_list_append(&entry->waiters, &waiter->link);
    cm_list_append(&queue->seats[request->asker.seat], &waiter->seat_link);
    entry->waiting++;
    entry->fair += waiter->fair;
    return 0;
}

/* The flags that a lock with this queue has. */
static uint64_t flags_for(const struct cm_lockq *queue, const struct cm_lock_entry *entry) {
    if (!entry->waiting)
        return 0;
    bool impatient = queue->clock_ms() > head_of(entry)->since_ms + CM_LOCK_PATIENCE_MS;
    return CM_LOCK_WAITED | (entry->fair || impatient ? CM_LOCK_HANDED : 0);
}

static uint64_t deadline_in(const struct cm_lockq *queue, uint64_t lease_ms) {
    return lease_ms ? queue->clock_ms() + lease_ms : 0;
}

/* --- marks of the abandoned --- */

struct cm_lock_mark {
    struct cm_hash128 name;
    uint64_t number;
};

/* Whether the mark still is what the lock says; takes it away if `clear`. */
static bool check_mark(struct cm_lockq *queue, const struct cm_lock_mark *mark, bool clear) {
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = entry_or(queue, mark->name, &space);
    struct cm_section section;
    struct cm_lock *lock = cm_lockq_enter(queue, entry, false, &section);
    bool stands = lock && load(&lock->state) == CM_LOCK_ABANDONED && load(&lock->deadline_ms) == mark->number;
    if (stands && clear)
        store(&lock->state, 0);
    cm_section_leave(&section);
    if (stands && clear && entry != &space)
        drop_entry(queue, entry);
    return stands;
}

/* Now and then: forgets the marks that have been told, and beyond what may be kept the oldest. */
static void sift_marks(struct cm_lockq *queue) {
    if (queue->marks_count < 2 * queue->marks_most)
        return;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < queue->marks_count; i++) {
        if (check_mark(queue, &queue->marks[i], false))
            queue->marks[kept++] = queue->marks[i];
    }
    uint32_t over = kept > queue->marks_most ? kept - queue->marks_most : 0;
    for (uint32_t i = 0; i < over; i++)
        check_mark(queue, &queue->marks[i], true);
    memmove(queue->marks, queue->marks + over, (kept - over) * sizeof *queue->marks);
    queue->marks_count = kept - over;
}

/* In the section of a lock that is free, abandoned, and waited for by nobody: numbers the mark. */
static bool number_mark(struct cm_lockq *queue, struct cm_lock *lock) {
    if (load(&lock->state) != CM_LOCK_ABANDONED || load(&lock->deadline_ms))
        return false;
    store(&lock->deadline_ms, ++queue->marks_last);
    return true;
}

/* The ring grows here and is sifted elsewhere, for that may free entries. */
static void note_mark(struct cm_lockq *queue, struct cm_hash128 name) {
    if (queue->marks_count == queue->marks_room) {
        uint32_t room = queue->marks_room ? 2 * queue->marks_room : 64;
        struct cm_lock_mark *marks = realloc(queue->marks, room * sizeof *marks);
        if (!marks)
            return; /* it stays until it has been told */
        queue->marks = marks;
        queue->marks_room = room;
    }
    queue->marks[queue->marks_count++] = (struct cm_lock_mark){name, queue->marks_last};
}

/* --- revocation --- */

/* Takes the lock away from who has it under that token (0: whoever has it with a lease that is over). False:
 * it is not so any more. What the owner publishes under a fence in the section in which it is right now comes
 * before the end of this: see core/memory/participant for the barrier. */
static bool revoke(struct cm_lockq *queue, struct cm_lock_entry *entry, uint64_t token, uint64_t mark) {
    struct cm_section section;
    struct cm_lock *lock = cm_lockq_enter(queue, entry, false, &section);
    uint64_t state = lock ? load(&lock->state) : 0;
    bool revoked = cm_lock_token(state) != 0;
    if (revoked && token) {
        revoked = cm_lock_token(state) == token;
    } else if (revoked) {
        /* Read here: until now it may have been renewed. */
        uint64_t deadline_ms = load(&lock->deadline_ms);
        revoked = deadline_ms && deadline_ms <= queue->clock_ms();
    }
    /* From here on its owner neither releases nor renews it, and later sections refuse its fence. */
    uint64_t flags = state & (CM_LOCK_WAITED | CM_LOCK_HANDED);
    revoked = revoked && swap(&lock->state, state, flags | CM_LOCK_REVOKED | mark);
    if (revoked) {
        store(&lock->deadline_ms, 0);
        store(&lock->owner, 0);
    }
    cm_section_leave(&section);
    CM_FAULT("lock-revoked");
    entry->revoking |= revoked;
    return revoked;
}

/* False: somebody may still be in the midst of what the lock allowed. */
static bool end_revocation(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    if (!entry->barrier.sections && cm_barrier_begin(&entry->barrier, queue->master->segment))
        return false; /* no memory: the next look tries again */
    if (!cm_barrier_passed(&entry->barrier, queue->master->segment))
        return false;
    entry->revoking = false;
    struct cm_section section;
    struct cm_lock *lock = cm_lockq_enter(queue, entry, false, &section);
    store(&lock->state, load(&lock->state) & ~CM_LOCK_REVOKED);
    cm_section_leave(&section);
    if (entry->releaser.seat)
        queue->answer(queue->data, entry->releaser, 0, NULL, NULL);
    entry->releaser = (struct cm_lock_asker){0};
    return true;
}

/* --- looking --- */

/* In the section of a free lock: gives it to the first in the queue, who is told behind the section. */
static void hand_over(struct cm_lockq *queue, struct cm_lock_entry *entry, struct cm_lock *lock,
                      struct cm_section *section) {
    struct cm_lock_waiter *head = head_of(entry);
    struct cm_lock_asker asker = head->asker;
    uint64_t task = head->task;
    uint64_t deadline_ms = deadline_in(queue, head->lease_ms);
    remove_waiter(queue, head);
    if (entry->waiting)
        store(&lock->head_since_ms, head_of(entry)->since_ms);
    struct cm_grant grant = {.abandoned = load(&lock->state) & CM_LOCK_ABANDONED};
    uint64_t token;
    cm_lock_hold(queue->master->segment, lock, asker.seat, task, deadline_ms, flags_for(queue, entry),
                 &token);
    grant.id = id_of(queue, entry, lock, token);
    cm_section_leave(section);
    queue->answer(queue->data, asker, 0, &grant, NULL);
}

/* Does what the lock's state and its queue call for. */
static void look(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    for (bool again = true; again;) {
        again = false;
        if (entry->revoking && !end_revocation(queue, entry))
            break;
        struct cm_section section;
        struct cm_lock *lock = cm_lockq_enter(queue, entry, entry->waiting > 0, &section);
        uint64_t state = lock ? load(&lock->state) : 0;
        if (!lock) {
            cm_section_leave(&section);
        } else if (!cm_lock_token(state) && entry->waiting) {
            hand_over(queue, entry, lock, &section);
        } else if (!cm_lock_token(state)) {
            store(&lock->state, state & CM_LOCK_ABANDONED);
            bool marked = number_mark(queue, lock);
            cm_section_leave(&section);
            if (marked)
                note_mark(queue, entry->name);
        } else {
            uint64_t deadline_ms = load(&lock->deadline_ms);
            bool over = entry->waiting && deadline_ms && deadline_ms <= queue->clock_ms();
            if (entry->waiting)
                store(&lock->head_since_ms, head_of(entry)->since_ms);
            /* Its owner may release it meanwhile. */
            again = !swap(&lock->state, state, cm_lock_token(state) << 4 | flags_for(queue, entry));
            cm_section_leave(&section);
            again |= over && revoke(queue, entry, 0, CM_LOCK_ABANDONED);
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
        uint64_t state = load(&lock->state);
        if (!state || load(&lock->name[0]) != entry->name.low || load(&lock->name[1]) != entry->name.high)
            continue;
        uint64_t deadline_ms = load(&lock->deadline_ms);
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
        struct cm_lock_asker asker = waiter->asker;
        /* A lock that has become free is the first one's, also at the last moment. */
        if (waiter == head_of(entry)) {
            uint32_t waiting = entry->waiting;
            look(queue, entry);
            if (entry->waiting < waiting) {
                drop_entry(queue, entry);
                continue;
            }
        }
        remove_waiter(queue, waiter);
        queue->answer(queue->data, asker, CM_E_TIMEOUT, NULL, NULL);
        look(queue, entry);
        drop_entry(queue, entry);
    }
}

void cm_lockq_look(struct cm_lockq *queue) {
    sift_marks(queue);
    end_timeouts(queue);
    CM_LIST_EACH(link, &queue->active) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, active);
        if (is_settled(queue, entry))
            continue;
        look(queue, entry);
        drop_entry(queue, entry);
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

/* True: the request has been granted. Whoever waits already comes first. */
static bool grant_now(struct cm_lockq *queue, struct cm_lock_entry *entry,
                      const struct cm_lock_request *request) {
    for (;;) {
        if (entry->waiting || (entry->revoking && !end_revocation(queue, entry)))
            return false;
        struct cm_section section;
        struct cm_lock *lock = cm_lockq_enter(queue, entry, true, &section);
        uint64_t state = load(&lock->state);
        if (!cm_lock_token(state)) {
            struct cm_grant grant = {.abandoned = state & CM_LOCK_ABANDONED};
            uint64_t token;
            cm_lock_hold(queue->master->segment, lock, request->asker.seat, request->task,
                         deadline_in(queue, request->lease_ms), 0, &token);
            grant.id = id_of(queue, entry, lock, token);
            cm_section_leave(&section);
            queue->answer(queue->data, request->asker, 0, &grant, NULL);
            return true;
        }
        uint64_t deadline_ms = load(&lock->deadline_ms);
        cm_section_leave(&section);
        if (!deadline_ms || deadline_ms > queue->clock_ms())
            return false;
        revoke(queue, entry, 0, CM_LOCK_ABANDONED);
    }
}

static int settle(struct cm_lockq *queue, struct cm_lock_entry *entry,
                  const struct cm_lock_request *request) {
    if (entry->key.len == 0 && cm_buf_append(&entry->key, request->key.data, request->key.len))
        return CM_E_NOMEMORY;
    if (grant_now(queue, entry, request))
        return 0;
    if (request->timeout_ms == 0) {
        queue->answer(queue->data, request->asker, CM_E_BUSY, NULL, NULL);
        return 0;
    }
    char text[CM_DEADLOCK_TEXT_BYTES];
    if (cm_deadlock_closes(queue, entry, request, text)) {
        queue->answer(queue->data, request->asker, CM_E_DEADLOCK, NULL, text);
        return 0;
    }
    int err = add_waiter(queue, entry, request);
    if (!err)
        look(queue, entry);
    return err;
}

int cm_lockq_request(struct cm_lockq *queue, const struct cm_lock_request *request) {
    struct cm_lock_entry *entry = take_entry(queue, cm_lock_name(queue->master->segment, request->key));
    if (!entry)
        return CM_E_NOMEMORY;
    int err = settle(queue, entry, request);
    drop_entry(queue, entry);
    return err;
}

int cm_lockq_release(struct cm_lockq *queue, struct cm_lock_asker asker, struct cm_bytes key,
                     struct cm_lock_id id) {
    struct cm_lock_entry *entry = take_entry(queue, cm_lock_name(queue->master->segment, key));
    if (!entry)
        return CM_E_NOMEMORY;
    if (id.token && !entry->revoking && revoke(queue, entry, id.token, 0)) {
        entry->releaser = asker;
        look(queue, entry);
    } else {
        queue->answer(queue->data, asker, CM_E_NOTOWNER, NULL, NULL);
    }
    drop_entry(queue, entry);
    return 0;
}

int cm_lockq_renew(struct cm_lockq *queue, uint32_t seat, struct cm_bytes key, struct cm_lock_id id,
                   uint64_t lease_ms) {
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = entry_or(queue, cm_lock_name(queue->master->segment, key), &space);
    struct cm_section section;
    struct cm_lock *lock = cm_lockq_enter(queue, entry, false, &section);
    bool holds =
        lock && id.token && cm_lock_token(load(&lock->state)) == id.token && load(&lock->owner) == seat;
    uint64_t deadline_ms = deadline_in(queue, lease_ms);
    if (holds)
        store(&lock->deadline_ms, deadline_ms);
    cm_section_leave(&section);
    if (holds && deadline_ms)
        cm_lock_note_lease(queue->master->segment, deadline_ms);
    return holds ? 0 : CM_E_NOTOWNER;
}

int cm_lockq_info(struct cm_lockq *queue, struct cm_bytes key, struct cm_lock_info *info) {
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = entry_or(queue, cm_lock_name(queue->master->segment, key), &space);
    struct cm_section section;
    struct cm_lock *lock = cm_lockq_enter(queue, entry, false, &section);
    uint64_t now_ms = queue->clock_ms();
    uint64_t deadline_ms = lock ? load(&lock->deadline_ms) : 0;
    bool held = lock && cm_lock_token(load(&lock->state)) && (!deadline_ms || deadline_ms > now_ms);
    if (held)
        *info = (struct cm_lock_info){.seat = (uint32_t)load(&lock->owner),
                                      .task = load(&lock->task),
                                      .lease_ms = deadline_ms ? deadline_ms - now_ms : 0,
                                      .waiting = entry->waiting};
    cm_section_leave(&section);
    return held ? 0 : CM_E_NOTFOUND;
}

/* --- fences of others --- */

/* The entry that is the lock of that id, in the master's memory; NULL: there is none. */
static struct cm_lock_entry *find_kept(const struct cm_lockq *queue, struct cm_lock_id id) {
    CM_LIST_EACH(link, &queue->kept) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, kept_link);
        if (cm_lock_token(load(&entry->own.state)) == id.token)
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
        state = load(&lock->state);
    while (cm_lock_token(state) == id.token &&
           !swap(&lock->state, state, state | CM_LOCK_WAITED | CM_LOCK_HANDED));
    cm_section_leave(&section);
    return cm_lock_token(state) == id.token;
}

void cm_lockq_fence_end(struct cm_lockq *queue, struct cm_lock_id id) {
    struct cm_lock *lock = cm_lock_at(queue->master->segment, id.slot);
    if (!lock)
        return;
    /* It has its name still: its flags have kept it. */
    struct cm_hash128 name = {load(&lock->name[0]), load(&lock->name[1])};
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = entry_or(queue, name, &space);
    look(queue, entry);
    if (entry != &space)
        drop_entry(queue, entry);
}

/* --- leases --- */

/* Takes the lock of that name away if its lease is over. False: without memory. */
static bool end_lease(struct cm_lockq *queue, struct cm_hash128 name) {
    struct cm_lock_entry *entry = take_entry(queue, name);
    if (!entry)
        return false;
    if (!entry->revoking && revoke(queue, entry, 0, CM_LOCK_ABANDONED))
        look(queue, entry);
    drop_entry(queue, entry);
    return true;
}

/* Looks at a lock, as it is at some moment; what has changed meanwhile is noted by who changed it. */
static void check_lease(struct cm_lockq *queue, const struct cm_lock *lock, uint64_t now_ms) {
    uint64_t deadline_ms = load(&lock->deadline_ms);
    if (!cm_lock_token(load(&lock->state)) || !deadline_ms)
        return;
    struct cm_hash128 name = {load(&lock->name[0]), load(&lock->name[1])};
    if (deadline_ms > now_ms || !end_lease(queue, name))
        cm_lock_note_lease(queue->master->segment, deadline_ms);
}

void cm_lockq_end_leases(struct cm_lockq *queue) {
    const struct cm_segment *segment = queue->master->segment;
    uint64_t now_ms = queue->clock_ms();
    if (load(&segment->header->earliest_lease_ms) > now_ms)
        return;
    atomic_exchange(&segment->header->earliest_lease_ms, CM_NEVER);
    atomic_thread_fence(memory_order_seq_cst); /* before the looks: see cm_lock_note_lease */
    for (uint32_t i = 0; i < segment->layout.lock_buckets; i++) {
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++)
            check_lease(queue, &cm_lock_bucket(segment, i)->locks[j], now_ms);
    }
    CM_LIST_EACH(link, &queue->kept) {
        check_lease(queue, &CM_LIST_ITEM(link, struct cm_lock_entry, kept_link)->own, now_ms);
    }
}

/* --- the dead --- */

void cm_lockq_drop_waits(struct cm_lockq *queue, uint32_t seat) {
    /* All of them, before anything is given to one that is left. */
    CM_LIST_EACH(link, &queue->seats[seat]) {
        remove_waiter(queue, CM_LIST_ITEM(link, struct cm_lock_waiter, seat_link));
    }
    CM_LIST_EACH(entry, &queue->active) {
        struct cm_lock_asker *releaser = &CM_LIST_ITEM(entry, struct cm_lock_entry, active)->releaser;
        if (releaser->seat == seat)
            *releaser = (struct cm_lock_asker){0};
    }
    cm_lockq_look(queue);
}

/* The dead one is in the midst of nothing: no barrier is needed. */
static void release_of_dead(struct cm_lockq *queue, struct cm_lock *lock, uint32_t bucket, uint32_t seat) {
    if (!cm_lock_token(load(&lock->state)) || load(&lock->owner) != seat)
        return;
    struct cm_section section;
    cm_lock_enter(queue->master, bucket, &section);
    uint64_t state = load(&lock->state);
    bool its = cm_lock_token(state) && load(&lock->owner) == seat;
    struct cm_hash128 name = {load(&lock->name[0]), load(&lock->name[1])};
    if (its) {
        store(&lock->deadline_ms, 0);
        store(&lock->owner, 0);
        store(&lock->state, (state & (CM_LOCK_WAITED | CM_LOCK_HANDED)) | CM_LOCK_ABANDONED);
    }
    cm_section_leave(&section);
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = entry_or(queue, name, &space);
    if (its)
        look(queue, entry);
    if (its && entry != &space)
        drop_entry(queue, entry);
}

void cm_lockq_drop_owner(struct cm_lockq *queue, uint32_t seat) {
    sift_marks(queue);
    const struct cm_segment *segment = queue->master->segment;
    for (uint32_t i = 0; i < segment->layout.lock_buckets; i++) {
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++)
            release_of_dead(queue, &cm_lock_bucket(segment, i)->locks[j], i, seat);
    }
    CM_LIST_EACH(link, &queue->kept) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, kept_link);
        release_of_dead(queue, &entry->own, entry->bucket, seat);
    }
}

/* --- beginning and end --- */

int cm_lockq_init(struct cm_lockq *queue, struct cm_participant *master) {
    *queue = (struct cm_lockq){.master = master, .clock_ms = cm_clock_ms};
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
        cm_list_init(&queue->seats[i]);
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
