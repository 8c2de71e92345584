#include "cluster/storage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/stored.h"
#include "data/document.h"
#include "wire/message.h"
#include "wire/ops.h"

enum {
    WAITING_MOST = 65536, /* requests of one process that wait for the disk */
    SLICE_STEPS = 2000,   /* of a walk, between two turns of the loop */
    SLICE_MS = 1,
    TEXT_BYTES = PATH_MAX + 512,
};

/* How often a process has it open. */
struct handle {
    struct cm_list link;
    uint32_t seat;
    uint32_t count;
};

/* --- answers --- */

/* NULL: it is not there any more. */
static struct cm_process *process_of(const struct cm_storages *storages,
                                     const struct cm_storage_waiter *waiter) {
    struct cm_process *process =
        storages->stopping ? NULL : cm_supervisor_at_seat(storages->supervisor, waiter->seat);
    bool here = process && process->id == waiter->process_id && !process->dead && !process->channel.ended;
    return here ? process : NULL;
}

static void forget(struct cm_storages *storages, struct cm_storage_waiter *waiter) {
    cm_list_remove(&waiter->link);
    storages->waiting[waiter->seat]--;
    free(waiter);
}

/* Answers whoever waits, and forgets it. */
static void answer(struct cm_storages *storages, struct cm_storage_waiter *waiter, int code, const char *text,
                   struct cm_bytes payload) {
    struct cm_process *process = process_of(storages, waiter);
    int err = 0;
    if (process)
        err = code ? cm_process_refuse(process, waiter->op, waiter->request, code, text)
                   : cm_process_reply(process, waiter->op, waiter->request, payload);
    if (err)
        cm_process_kill(process); /* it would wait for ever */
    forget(storages, waiter);
}

/* Whether somebody waits there who lives; forgets the others. */
static bool is_wanted(struct cm_storages *storages, struct cm_list *waiters) {
    CM_LIST_EACH(link, waiters) {
        struct cm_storage_waiter *waiter = CM_LIST_ITEM(link, struct cm_storage_waiter, link);
        if (!process_of(storages, waiter))
            forget(storages, waiter);
    }
    return !cm_list_empty(waiters);
}

static void answer_all(struct cm_storages *storages, struct cm_list *waiters, int code, const char *text) {
    CM_LIST_EACH(link, waiters) {
        answer(storages, CM_LIST_ITEM(link, struct cm_storage_waiter, link), code, text,
               (struct cm_bytes){0});
    }
}

struct cm_storage_waiter *cm_storage_wait(struct cm_storage *storage, const struct cm_process *process,
                                          const struct cm_frame *frame) {
    struct cm_storages *storages = storage->owner;
    uint32_t *count = &storages->waiting[process->seat];
    struct cm_storage_waiter *waiter = *count < WAITING_MOST ? calloc(1, sizeof *waiter) : NULL;
    if (!waiter)
        return NULL;
    ++*count;
    *waiter = (struct cm_storage_waiter){
        .seat = process->seat, .process_id = process->id, .request = frame->id, .op = frame->op};
    cm_list_init(&waiter->link);
    return waiter;
}

/* --- handles --- */

static struct handle *handle_of(const struct cm_storage *storage, uint32_t seat) {
    CM_LIST_EACH(link, &storage->handles) {
        struct handle *handle = CM_LIST_ITEM(link, struct handle, link);
        if (handle->seat == seat)
            return handle;
    }
    return NULL;
}

static int add_handle(struct cm_storage *storage, uint32_t seat) {
    struct handle *handle = handle_of(storage, seat);
    if (!handle) {
        handle = calloc(1, sizeof *handle);
        if (!handle)
            return CM_E_NOMEMORY;
        handle->seat = seat;
        cm_list_append(&storage->handles, &handle->link);
    }
    handle->count++;
    return 0;
}

static void remove_handle(struct handle *handle) {
    cm_list_remove(&handle->link);
    free(handle);
}

static void drop_handles(struct cm_storage *storage) {
    CM_LIST_EACH(link, &storage->handles) {
        remove_handle(CM_LIST_ITEM(link, struct handle, link));
    }
}

/* Whether nobody but this one handle has it. */
static bool is_last(const struct cm_storage *storage, const struct handle *handle) {
    return handle->count == 1 && storage->handles.next == &handle->link &&
           handle->link.next == &storage->handles;
}

/* --- opening --- */

static void clear_slice(uv_timer_t *walk);
static void flush(struct cm_storage *storage);
static int open_file(struct cm_storage *storage);

/* In a static buffer, valid until the next call. */
static const char *tell(const struct cm_storage *storage, const char *text) {
    static char line[TEXT_BYTES];
    snprintf(line, sizeof line, "storage '%s': %s", storage->name, text);
    return line;
}

static void answer_opened(struct cm_storages *storages, struct cm_storage *storage,
                          struct cm_storage_waiter *waiter) {
    if (!process_of(storages, waiter)) {
        forget(storages, waiter);
        return;
    }
    cm_buf_reset(&storages->reply, CM_CHANNEL_MARK_BYTES);
    struct cm_writer writer;
    cm_writer_init(&writer, &storages->reply);
    cm_write_u32(&writer, storage->id);
    cm_write_bytes(&writer, cm_bytes_of(cm_durable_filename(storage->durable)));
    cm_write_bytes(&writer, cm_bytes_of(storage->folder));
    cm_write_u64(&writer, storage->gc_ms);
    int err = writer.error ? writer.error : add_handle(storage, waiter->seat);
    answer(storages, waiter, err, NULL, cm_buf_view(&storages->reply));
}

void cm_storage_join(struct cm_storage *storage, struct cm_storage_waiter *waiter) {
    cm_list_append(&storage->waiting, &waiter->link);
    if (storage->state == CM_STORAGE_OPEN)
        answer_opened(storage->owner, storage, waiter);
}

/* Takes it out of the memory, in slices, and then closes the file. */
static void begin_clearing(struct cm_storage *storage) {
    if (storage->state == CM_STORAGE_OPEN || storage->state == CM_STORAGE_FLUSHING)
        cm_documents_end(&storage->owner->documents, storage->id);
    storage->state = CM_STORAGE_CLEARING;
    storage->cursor = 0;
    drop_handles(storage);
    if (storage->owner->stopping)
        cm_durable_close(storage->durable, storage->destroyed);
    else
        uv_timer_start(&storage->walk, clear_slice, 0, 0);
}

static void clear_slice(uv_timer_t *walk) {
    struct cm_storage *storage = walk->data;
    /* Without memory to list them they stay, under a number that nobody uses any more. */
    int err = cm_documents_clear(&storage->owner->documents, storage->id, &storage->cursor, SLICE_STEPS);
    if (!err && storage->cursor)
        uv_timer_start(walk, clear_slice, SLICE_MS, 0);
    else
        cm_durable_close(storage->durable, storage->destroyed);
}

/* What has expired is removed every gc_ms, where there is such a thing. */

static int purge(void *data, struct cm_bytes name) {
    struct cm_storage *storage = data;
    struct cm_documents *documents = &storage->owner->documents;
    struct cm_document_change change;
    /* One that cannot be changed for want of memory is met again. */
    if (cm_documents_is_due(documents, storage->id, name) &&
        cm_documents_purge(documents, storage->id, name, &change))
        storage->due = true;
    return 0;
}

static void collect(uv_timer_t *walk) {
    struct cm_storage *storage = walk->data;
    if (storage->due || storage->cursor) {
        if (!storage->cursor)
            storage->due = false;
        if (cm_documents_walk(&storage->owner->documents, storage->id, &storage->cursor, SLICE_STEPS, purge,
                              storage))
            storage->due = true;
    }
    uv_timer_start(walk, collect, storage->cursor ? SLICE_MS : storage->gc_ms, 0);
}

/* --- the file --- */

static int on_load(void *data, uint64_t number, struct cm_bytes name, struct cm_bytes bytes) {
    struct cm_storage *storage = data;
    struct cm_storages *storages = storage->owner;
    struct cm_bytes body;
    uint64_t now_ms, replaced = 0;
    int err = cm_stored_read(bytes, cm_clock_wall_ms(), &now_ms, &body);
    if (!err)
        err = cm_document_check_body(body);
    cm_buf_reset(&storages->body, CM_CHANNEL_MARK_BYTES);
    if (!err)
        err = cm_buf_append(&storages->body, body.data, body.len);
    if (!err)
        err = cm_document_shift(storages->body.data, storages->body.len,
                                (int64_t)(storages->documents.store.clock_ms() - now_ms));
    if (!err)
        err = cm_documents_put(&storages->documents, storage->id, name, number, cm_buf_view(&storages->body),
                               &replaced);
    /* One that was removed and made again: the later one counts. */
    return err || !replaced ? err : cm_durable_mark(storage->durable, replaced, name, false, true);
}

static int on_write(void *data, uint64_t number, struct cm_bytes name, struct cm_buf *out) {
    struct cm_storage *storage = data;
    struct cm_storages *storages = storage->owner;
    struct cm_bytes body;
    int err = cm_documents_take(&storages->documents, storage->id, name, number, &body);
    if (!err)
        err = cm_stored_write(body, storages->documents.store.clock_ms(), cm_clock_wall_ms(), out);
    cm_documents_rest(&storages->documents);
    return err;
}

/* The opening has ended. */
static void on_open(void *data, int code, const char *text) {
    struct cm_storage *storage = data;
    struct cm_storages *storages = storage->owner;
    cm_documents_rest(&storages->documents);
    cm_buf_reset(&storages->body, CM_CHANNEL_MARK_BYTES);
    if (!code && !storages->stopping) {
        code = cm_documents_begin(&storages->documents, storage->id);
        text = cm_error_text(code);
    }
    if (code || storages->stopping) {
        answer_all(storages, &storage->waiting, code ? code : CM_E_CLOSED, tell(storage, text ? text : ""));
        begin_clearing(storage);
        return;
    }
    storage->state = CM_STORAGE_OPEN;
    CM_LIST_EACH(link, &storage->waiting) {
        answer_opened(storages, storage, CM_LIST_ITEM(link, struct cm_storage_waiter, link));
    }
    if (cm_list_empty(&storage->handles))
        flush(storage); /* who wanted it has died meanwhile */
    else if (storage->gc_ms)
        uv_timer_start(&storage->walk, collect, storage->gc_ms, 0);
}

static void on_walk_closed(uv_handle_t *walk) {
    struct cm_storage *storage = walk->data;
    free(storage->name);
    free(storage->folder);
    free(storage);
}

static void on_closed(void *data) {
    struct cm_storage *storage = data;
    struct cm_storages *storages = storage->owner;
    answer_all(storages, &storage->unanswered, 0, NULL);
    storage->destroyed = false;
    int err = is_wanted(storages, &storage->waiting) ? open_file(storage) : CM_E_CLOSED;
    if (!err)
        return;
    answer_all(storages, &storage->waiting, err, NULL);
    cm_list_remove(&storage->link);
    storages->count--;
    uv_close((uv_handle_t *)&storage->walk, on_walk_closed);
}

/* Everybody who had it open is to see it closed; but what is not written cannot be given up. */
static void keep_open(struct cm_storage *storage, int code, const char *text) {
    struct cm_storages *storages = storage->owner;
    answer_all(storages, &storage->unanswered, code, tell(storage, text));
    if (storages->stopping) {
        cm_log(CM_LOG_ERROR, "storage '%s': documents are lost, for they could not be written: %s",
               storage->name, text);
        storages->lost = true;
        begin_clearing(storage);
        return;
    }
    storage->state = CM_STORAGE_OPEN;
    CM_LIST_EACH(link, &storage->waiting) {
        answer_opened(storages, storage, CM_LIST_ITEM(link, struct cm_storage_waiter, link));
    }
}

/* Who waits for the sync of that ticket. They are answered in their order, so it is among the first. */
static struct cm_storage_waiter *syncing(const struct cm_storage *storage, uint64_t ticket) {
    CM_LIST_EACH(link, &storage->syncing) {
        struct cm_storage_waiter *waiter = CM_LIST_ITEM(link, struct cm_storage_waiter, link);
        if (waiter->ticket == ticket)
            return waiter;
    }
    return NULL;
}

/* Without a ticket the storage is on its way to be closed. */
static void on_synced(void *data, uint64_t ticket, int code, const char *text) {
    struct cm_storage *storage = data;
    struct cm_storages *storages = storage->owner;
    struct cm_storage_waiter *waiter = syncing(storage, ticket);
    if (!waiter && storage->state == CM_STORAGE_FLUSHING && code)
        keep_open(storage, code, text);
    else if (!waiter && storage->state == CM_STORAGE_FLUSHING)
        begin_clearing(storage);
    if (!waiter)
        return;
    bool closes = waiter->op == CM_OP_STORAGE_CLOSE && !code;
    struct handle *handle = closes && process_of(storages, waiter) ? handle_of(storage, waiter->seat) : NULL;
    /* Of several that close at the same time none was the last one when it asked. */
    if (handle && storage->state == CM_STORAGE_OPEN && is_last(storage, handle)) {
        cm_list_remove(&waiter->link);
        cm_list_append(&storage->unanswered, &waiter->link);
        flush(storage);
        return;
    }
    answer(storages, waiter, code, code ? tell(storage, text) : NULL, (struct cm_bytes){0});
    if (handle && --handle->count == 0)
        remove_handle(handle);
}

static void flush(struct cm_storage *storage) {
    storage->state = CM_STORAGE_FLUSHING;
    int err = cm_durable_sync(storage->durable, 0);
    if (err)
        keep_open(storage, err, cm_error_text(err));
}

static const struct cm_durable_events file_events = {on_load, on_open, on_write, on_synced, on_closed};

/* Under a new number: nobody who had the old one has this. */
static int open_file(struct cm_storage *storage) {
    struct cm_storages *storages = storage->owner;
    char filename[PATH_MAX];
    int len = snprintf(filename, sizeof filename, "%s/%s.db", storage->folder, storage->name);
    if (len < 0 || (size_t)len >= sizeof filename)
        return -ENAMETOOLONG;
    storage->id = ++storages->last_id;
    storage->state = CM_STORAGE_OPENING;
    storage->due = false;
    storage->cursor = 0;
    return cm_durable_open(storages->loop, filename, &file_events, storage, &storage->durable);
}

/* --- what is asked of it --- */

int cm_storage_new(struct cm_storages *storages, struct cm_bytes name, struct cm_bytes folder, uint64_t gc_ms,
                   struct cm_storage **result) {
    struct cm_storage *storage = calloc(1, sizeof *storage);
    int err = CM_E_NOMEMORY;
    if (!storage)
        return err;
    *storage = (struct cm_storage){.owner = storages,
                                   .gc_ms = gc_ms,
                                   .name = strndup((const char *)name.data, name.len),
                                   .folder = strndup((const char *)folder.data, folder.len)};
    cm_list_init(&storage->handles);
    cm_list_init(&storage->waiting);
    cm_list_init(&storage->unanswered);
    cm_list_init(&storage->syncing);
    if (storage->name && storage->folder)
        err = open_file(storage);
    if (err) {
        free(storage->name);
        free(storage->folder);
        free(storage);
        return err;
    }
    cm_list_append(&storages->open, &storage->link);
    storages->count++;
    uv_timer_init(storages->loop, &storage->walk);
    storage->walk.data = storage;
    *result = storage;
    return 0;
}

void cm_storage_sync(struct cm_storage *storage, struct cm_storage_waiter *waiter) {
    waiter->ticket = ++storage->last_ticket;
    cm_list_append(&storage->syncing, &waiter->link);
    int err = cm_durable_sync(storage->durable, waiter->ticket);
    if (err)
        answer(storage->owner, waiter, err, NULL, (struct cm_bytes){0});
}

void cm_storage_close(struct cm_storage *storage, struct cm_storage_waiter *waiter) {
    if (!is_last(storage, handle_of(storage, waiter->seat))) {
        cm_storage_sync(storage, waiter);
        return;
    }
    cm_list_append(&storage->unanswered, &waiter->link);
    flush(storage);
}

void cm_storage_destroy(struct cm_storage *storage, struct cm_storage_waiter *waiter) {
    cm_list_append(&storage->unanswered, &waiter->link);
    storage->destroyed = true;
    begin_clearing(storage);
}

void cm_storage_stop(struct cm_storage *storage) {
    uv_timer_stop(&storage->walk);
    if (storage->state == CM_STORAGE_OPEN) {
        flush(storage);
    } else if (storage->state != CM_STORAGE_FLUSHING) {
        storage->state = CM_STORAGE_CLEARING; /* what is half opened has nothing to write */
        cm_durable_close(storage->durable, storage->destroyed);
    }
}

bool cm_storage_leave(struct cm_storage *storage) {
    if (storage->state != CM_STORAGE_OPEN || !cm_list_empty(&storage->handles))
        return false;
    flush(storage);
    return storage->state == CM_STORAGE_FLUSHING;
}

bool cm_storage_is_open_for(const struct cm_storage *storage, uint32_t seat) {
    return storage->state == CM_STORAGE_OPEN && handle_of(storage, seat);
}

void cm_storage_drop(struct cm_storage *storage, uint32_t seat) {
    struct handle *handle = handle_of(storage, seat);
    if (handle)
        remove_handle(handle);
}
