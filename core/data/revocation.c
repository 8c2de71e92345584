#include "data/revocation.h"

#include "base/fault.h"
#include "data/lockname.h"

/* --- revocation --- */

/* The barrier is core/memory/participant's. */
bool cm_revocation_begin(struct cm_lockq *queue, struct cm_lock_entry *entry, uint64_t token, uint64_t mark) {
    struct cm_section section;
    struct cm_lock *lock = cm_lockname_enter(queue, entry, false, &section);
    uint64_t state = lock ? cm_word_load(&lock->state) : 0;
    bool revoked = cm_lock_token(state) != 0;
    if (revoked && token) {
        revoked = cm_lock_token(state) == token;
    } else if (revoked) {
        /* Read here: until now it may have been renewed. */
        uint64_t deadline_ms = cm_word_load(&lock->deadline_ms);
        revoked = deadline_ms && deadline_ms <= queue->clock_ms();
    }
    /* From here on its owner neither releases nor renews it, and later sections refuse its fence. */
    uint64_t flags = state & (CM_LOCK_WAITED | CM_LOCK_HANDED);
    revoked = revoked && cm_word_swap(&lock->state, state, flags | CM_LOCK_REVOKED | mark);
    if (revoked)
        cm_lockname_disown(queue, lock, entry->kept);
    cm_section_leave(&section);
    CM_FAULT("lock-revoked");
    entry->revoking |= revoked;
    return revoked;
}

bool cm_revocation_end(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    if (!entry->barrier.sections && cm_barrier_begin(&entry->barrier, queue->master->segment))
        return false; /* no memory: the next look tries again */
    if (!cm_barrier_passed(&entry->barrier, queue->master->segment))
        return false;
    entry->revoking = false;
    struct cm_section section;
    struct cm_lock *lock = cm_lockname_enter(queue, entry, false, &section);
    /* Who waits comes next: until its turn the lock is nobody else's. */
    uint64_t handed = entry->waiting ? CM_LOCK_WAITED | CM_LOCK_HANDED : 0;
    cm_word_store(&lock->state, (cm_word_load(&lock->state) & ~CM_LOCK_REVOKED) | handed);
    cm_section_leave(&section);
    if (entry->releaser.seat)
        queue->answer(queue->data, entry->releaser, 0, NULL, NULL);
    entry->releaser = (struct cm_lock_asker){0};
    return true;
}

/* --- leases --- */

bool cm_revocation_end_lease(struct cm_lockq *queue, struct cm_hash128 name) {
    struct cm_lock_entry *entry = cm_lockname_take(queue, name);
    if (!entry)
        return false;
    if (!entry->revoking && cm_revocation_begin(queue, entry, 0, CM_LOCK_ABANDONED))
        cm_lockq_settle(queue, entry);
    cm_lockname_drop(queue, entry);
    return true;
}

/* Looks at a lock, as it is at some moment; what has changed meanwhile is noted by who changed it. */
static void check_lease(struct cm_lockq *queue, const struct cm_lock *lock, uint64_t now_ms) {
    uint64_t deadline_ms = cm_word_load(&lock->deadline_ms);
    if (!cm_lock_token(cm_word_load(&lock->state)) || !deadline_ms)
        return;
    struct cm_hash128 name = {cm_word_load(&lock->name[0]), cm_word_load(&lock->name[1])};
    if (deadline_ms > now_ms || !cm_revocation_end_lease(queue, name))
        cm_lock_note_lease(queue->master->segment, deadline_ms);
}

void cm_lockq_end_leases(struct cm_lockq *queue) {
    cm_lockname_sift_marks(queue); /* which may be made here alone, for a long time */
    const struct cm_segment *segment = queue->master->segment;
    uint64_t now_ms = queue->clock_ms();
    if (cm_word_load(&segment->header->earliest_lease_ms) > now_ms)
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
    cm_lockname_sift_marks(queue);
}

/* --- the dead --- */

/* The dead one is in the midst of nothing: no barrier is needed. */
static void release_of_dead(struct cm_lockq *queue, struct cm_lock *lock, bool kept, uint32_t bucket,
                            uint32_t seat) {
    if (!cm_lock_token(cm_word_load(&lock->state)) || cm_word_load(&lock->owner) != seat)
        return;
    struct cm_section section;
    cm_lock_enter(queue->master, bucket, &section);
    uint64_t state = cm_word_load(&lock->state);
    bool its = cm_lock_token(state) && cm_word_load(&lock->owner) == seat;
    struct cm_hash128 name = {cm_word_load(&lock->name[0]), cm_word_load(&lock->name[1])};
    if (its) {
        cm_lockname_disown(queue, lock, kept);
        cm_word_store(&lock->state, (state & (CM_LOCK_WAITED | CM_LOCK_HANDED)) | CM_LOCK_ABANDONED);
    }
    cm_section_leave(&section);
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = cm_lockname_take_or(queue, name, &space);
    if (its)
        cm_lockq_settle(queue, entry);
    if (its && entry != &space)
        cm_lockname_drop(queue, entry);
}

void cm_lockq_drop_owner(struct cm_lockq *queue, uint32_t seat) {
    const struct cm_segment *segment = queue->master->segment;
    for (uint32_t i = 0; i < segment->layout.lock_buckets; i++) {
        for (int j = 0; j < CM_LOCKS_IN_BUCKET; j++)
            release_of_dead(queue, &cm_lock_bucket(segment, i)->locks[j], false, i, seat);
    }
    CM_LIST_EACH(link, &queue->kept) {
        struct cm_lock_entry *entry = CM_LIST_ITEM(link, struct cm_lock_entry, kept_link);
        release_of_dead(queue, &entry->own, true, entry->bucket, seat);
    }
    /* Now, for nobody may look again until the next death. */
    cm_lockname_sift_marks(queue);
}
