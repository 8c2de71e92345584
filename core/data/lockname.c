#include "data/lockname.h"

#include <stdlib.h>
#include <string.h>

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

struct cm_lock_entry *cm_lockname_take(struct cm_lockq *queue, struct cm_hash128 name) {
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

struct cm_lock_entry *cm_lockname_take_or(const struct cm_lockq *queue, struct cm_hash128 name,
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
    cm_word_store(&bucket->overflow, cm_word_load(&bucket->overflow) - 1);
    cm_section_leave(&section);
    cm_list_remove(&entry->kept_link);
    entry->kept = false;
}

void cm_lockname_drop(struct cm_lockq *queue, struct cm_lock_entry *entry) {
    bool active = entry->waiting || entry->revoking;
    if (!active)
        cm_list_remove(&entry->active);
    else if (cm_list_empty(&entry->active))
        cm_list_append(&queue->active, &entry->active);
    if (!entry->waiting)
        cm_buf_deinit(&entry->key);
    if (active || (entry->kept && cm_word_load(&entry->own.state)))
        return;
    give_up_own(queue, entry);
    cm_index_remove(&queue->names, &entry->named);
    free(entry);
}

struct cm_lock *cm_lockname_enter(struct cm_lockq *queue, struct cm_lock_entry *entry, bool anew,
                                  struct cm_section *section) {
    struct cm_lock_bucket *bucket = cm_lock_bucket(queue->master->segment, entry->bucket);
    cm_lock_enter(queue->master, entry->bucket, section);
    struct cm_lock *lock = entry->kept ? &entry->own : cm_lock_find(bucket, entry->name, anew);
    if (lock || !anew)
        return lock;
    /* Before anybody can miss the lock in the bucket: the mark that says where else it may be. */
    cm_word_store(&bucket->overflow, cm_word_load(&bucket->overflow) + 1);
    cm_list_append(&queue->kept, &entry->kept_link);
    entry->kept = true;
    cm_word_store(&entry->own.name[0], entry->name.low);
    cm_word_store(&entry->own.name[1], entry->name.high);
    return &entry->own;
}

struct cm_lock_id cm_lockname_id(const struct cm_lockq *queue, const struct cm_lock_entry *entry,
                                 const struct cm_lock *lock, uint64_t token) {
    const struct cm_lock_bucket *bucket = cm_lock_bucket(queue->master->segment, entry->bucket);
    return (struct cm_lock_id){token, cm_lock_slot(entry->bucket, bucket, entry->kept ? NULL : lock)};
}

bool cm_lockname_may_hold(const struct cm_lockq *queue, const struct cm_lock_entry *entry, uint32_t seat) {
    return !entry->kept || queue->seats[seat].kept_bytes + sizeof *entry <= queue->kept_most_bytes;
}

void cm_lockname_own(struct cm_lockq *queue, const struct cm_lock_entry *entry, uint32_t seat) {
    if (entry->kept)
        queue->seats[seat].kept_bytes += sizeof *entry;
}

void cm_lockname_disown(struct cm_lockq *queue, struct cm_lock *lock, bool kept) {
    if (kept)
        queue->seats[cm_word_load(&lock->owner)].kept_bytes -= sizeof(struct cm_lock_entry);
    cm_word_store(&lock->deadline_ms, 0);
    cm_word_store(&lock->owner, 0);
}

/* --- marks of the abandoned --- */

struct cm_lock_mark {
    struct cm_hash128 name;
    uint64_t number;
};

/* Whether the mark still is what the lock says; takes it away if `clear`. */
static bool check_mark(struct cm_lockq *queue, const struct cm_lock_mark *mark, bool clear) {
    struct cm_lock_entry space;
    struct cm_lock_entry *entry = cm_lockname_take_or(queue, mark->name, &space);
    struct cm_section section;
    struct cm_lock *lock = cm_lockname_enter(queue, entry, false, &section);
    bool stands = lock && cm_word_load(&lock->state) == CM_LOCK_ABANDONED &&
                  cm_word_load(&lock->deadline_ms) == mark->number;
    if (stands && clear)
        cm_word_store(&lock->state, 0);
    cm_section_leave(&section);
    if (stands && clear && entry != &space)
        cm_lockname_drop(queue, entry);
    return stands;
}

void cm_lockname_sift_marks(struct cm_lockq *queue) {
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
    /* A death may have brought many at once. */
    if (queue->marks_room > 4 * queue->marks_most) {
        uint32_t room = 2 * queue->marks_most + 1;
        struct cm_lock_mark *marks = realloc(queue->marks, room * sizeof *marks);
        if (marks) {
            queue->marks = marks;
            queue->marks_room = room;
        }
    }
}

bool cm_lockname_number_mark(struct cm_lockq *queue, struct cm_lock *lock) {
    if (cm_word_load(&lock->state) != CM_LOCK_ABANDONED || cm_word_load(&lock->deadline_ms))
        return false;
    cm_word_store(&lock->deadline_ms, ++queue->marks_last);
    return true;
}

/* The ring grows here and is sifted elsewhere, for that may free entries. */
void cm_lockname_note_mark(struct cm_lockq *queue, struct cm_hash128 name) {
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
