#include "data/deadlock.h"

#include <stdarg.h>
#include <stdio.h>

#include "data/lockname.h"

enum { SHOWN_KEY_BYTES = 40 };

uint64_t cm_deadlock_hash(uint32_t seat, uint64_t task) {
    /* Fibonacci hashing: Knuth, "The Art of Computer Programming" vol. 3, 6.4. */
    uint64_t hash = (task << 12 ^ seat) * UINT64_C(0x9e3779b97f4a7c15);
    return hash >> 32 | hash << 32;
}

static struct cm_lock_waiter *find_waiter(const struct cm_lockq *queue, uint32_t seat, uint64_t task) {
    for (struct cm_index_node *node = cm_index_first(&queue->tasks, cm_deadlock_hash(seat, task)); node;
         node = cm_index_next(node)) {
        struct cm_lock_waiter *waiter = CM_LIST_ITEM(node, struct cm_lock_waiter, by_task);
        if (waiter->asker.seat == seat && waiter->task == task)
            return waiter;
    }
    return NULL;
}

/* Who has the entry's lock: false if nobody, or no task. */
static bool find_owner(struct cm_lockq *queue, struct cm_lock_entry *entry, uint32_t *seat, uint64_t *task) {
    struct cm_section section;
    const struct cm_lock *lock = cm_lockname_enter(queue, entry, false, &section);
    uint64_t state = lock ? cm_word_load(&lock->state) : 0;
    *seat = lock ? (uint32_t)cm_word_load(&lock->owner) : 0;
    *task = lock ? cm_word_load(&lock->task) : 0;
    cm_section_leave(&section);
    return cm_lock_token(state) && *task;
}

/* Follows the waiting from the lock to its owner, to the lock that this one waits for, and so on, until it
 * comes to the asker. Every cycle is closed by a request, for a task that waits takes nothing; and none has
 * been closed before, so this ends, and at the latest after as many steps as there are waiters. */
static bool leads_back(struct cm_lockq *queue, struct cm_lock_entry *entry,
                       const struct cm_lock_request *request) {
    for (size_t i = 0; i <= queue->tasks.count; i++) {
        uint32_t seat;
        uint64_t task;
        if (!find_owner(queue, entry, &seat, &task))
            return false;
        if (seat == request->asker.seat && task == request->task)
            return true;
        const struct cm_lock_waiter *waiter = find_waiter(queue, seat, task);
        if (!waiter)
            return false;
        entry = waiter->entry;
    }
    return false;
}

/* --- words for it --- */

struct text {
    char *data;
    size_t len;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = CM_DEADLOCK_TEXT_BYTES - text->len;
    int len = vsnprintf(text->data + text->len, room, format, arguments);
    va_end(arguments);
    text->len += len < 0 ? 0 : (size_t)len < room ? (size_t)len : room - 1;
}

static void add_task(struct text *text, const struct cm_lockq *queue, uint32_t seat, uint64_t task) {
    uint32_t worker = queue->worker_of ? queue->worker_of(queue->data, seat) : seat;
    if (worker)
        add(text, "task %llu of worker %u", (unsigned long long)task, worker);
    else
        add(text, "task %llu of process 0", (unsigned long long)task);
}

/* Its bytes, those that can be shown. */
static void add_key(struct text *text, const struct cm_lock_entry *entry) {
    add(text, "'");
    for (size_t i = 0; i < entry->key.len && i < SHOWN_KEY_BYTES; i++) {
        uint8_t byte = entry->key.data[i];
        add(text, byte >= ' ' && byte < 127 ? "%c" : "\\x%02x", byte);
    }
    add(text, entry->key.len > SHOWN_KEY_BYTES ? "...'" : "'");
}

bool cm_deadlock_closes(struct cm_lockq *queue, struct cm_lock_entry *entry,
                        const struct cm_lock_request *request, char text[CM_DEADLOCK_TEXT_BYTES]) {
    text[0] = '\0';
    if (!request->task || !leads_back(queue, entry, request))
        return false;
    struct text words = {.data = text};
    add_task(&words, queue, request->asker.seat, request->task);
    add(&words, " would wait for ");
    for (;;) {
        uint32_t seat;
        uint64_t task;
        add_key(&words, entry);
        if (!find_owner(queue, entry, &seat, &task))
            break; /* given back by somebody else just now */
        add(&words, ", held by ");
        add_task(&words, queue, seat, task);
        const struct cm_lock_waiter *waiter = find_waiter(queue, seat, task);
        if ((seat == request->asker.seat && task == request->task) || !waiter ||
            words.len + 1 >= CM_DEADLOCK_TEXT_BYTES)
            break;
        add(&words, ", which waits for ");
        entry = waiter->entry;
    }
    return true;
}
