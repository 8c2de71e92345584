#include "cluster/storages.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cluster/durable.h"
#include "cluster/stored.h"
#include "data/document.h"
#include "data/path.h"
#include "wire/message.h"
#include "wire/ops.h"

enum {
    NAME_MAX_BYTES = 128,
    WAITING_MOST = 65536, /* requests of one process that wait for the disk */
    SLICE_STEPS = 2000,   /* of a walk, between two turns of the loop */
    SLICE_MS = 1,
    TEXT_BYTES = PATH_MAX + 512,
};

/* OPENING -> OPEN -> FLUSHING -> CLEARING -> gone, or, if somebody waits for it by then, opened anew. */
enum state { OPENING, OPEN, FLUSHING, CLEARING };

struct storage {
    struct cm_list link;
    struct cm_storages *owner;
    uint32_t id;
    enum state state;
    char *name;
    char *folder;
    uint64_t gc_ms;
    struct cm_durable *durable;
    struct cm_list handles;    /* struct handle */
    struct cm_list waiting;    /* struct waiter: to have it open */
    struct cm_list unanswered; /* struct waiter: for its end */
    struct cm_list syncing;    /* struct waiter: for the disk, in the order of their tickets */
    uint64_t last_ticket;
    bool destroyed;
    bool due;        /* something in it has expired */
    uint64_t cursor; /* of the walk under way */
    uv_timer_t walk; /* until the next slice of it, or the next one */
};

/* How often a process has it open. */
struct handle {
    struct cm_list link;
    uint32_t seat;
    uint32_t count;
};

/* A request that is answered later. */
struct waiter {
    struct cm_list link;
    struct storage *storage;
    uint32_t seat;
    uint32_t process_id; /* the seat may be another one's by then */
    uint32_t request;
    uint8_t op;
    uint64_t ticket; /* of a sync; 0: none */
};

/* --- answers --- */

/* NULL: it is not there any more. */
static struct cm_process *process_of(const struct cm_storages *storages, const struct waiter *waiter) {
    struct cm_process *process =
        storages->stopping ? NULL : cm_supervisor_at_seat(storages->supervisor, waiter->seat);
    bool here = process && process->id == waiter->process_id && !process->dead && !process->channel.ended;
    return here ? process : NULL;
}

static void forget(struct cm_storages *storages, struct waiter *waiter) {
    cm_list_remove(&waiter->link);
    storages->waiting[waiter->seat]--;
    free(waiter);
}

/* Answers whoever waits, and forgets it. */
static void answer(struct cm_storages *storages, struct waiter *waiter, int code, const char *text,
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

static void answer_all(struct cm_storages *storages, struct cm_list *waiters, int code, const char *text) {
    CM_LIST_EACH(link, waiters) {
        answer(storages, CM_LIST_ITEM(link, struct waiter, link), code, text, (struct cm_bytes){0});
    }
}

/* NULL: there is no memory, or this process has too much to wait for. */
static struct waiter *new_waiter(struct cm_storages *storages, struct storage *storage,
                                 const struct cm_process *process, const struct cm_frame *frame) {
    uint32_t *count = &storages->waiting[process->seat];
    struct waiter *waiter = *count < WAITING_MOST ? calloc(1, sizeof *waiter) : NULL;
    if (!waiter)
        return NULL;
    ++*count;
    *waiter = (struct waiter){.storage = storage,
                              .seat = process->seat,
                              .process_id = process->id,
                              .request = frame->id,
                              .op = frame->op};
    cm_list_init(&waiter->link);
    return waiter;
}

/* --- handles --- */

static struct handle *handle_of(const struct storage *storage, uint32_t seat) {
    CM_LIST_EACH(link, &storage->handles) {
        struct handle *handle = CM_LIST_ITEM(link, struct handle, link);
        if (handle->seat == seat)
            return handle;
    }
    return NULL;
}

static int add_handle(struct storage *storage, uint32_t seat) {
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

static void drop_handles(struct storage *storage) {
    CM_LIST_EACH(link, &storage->handles) {
        remove_handle(CM_LIST_ITEM(link, struct handle, link));
    }
}

/* Whether nobody but this one handle has it. */
static bool is_last(const struct storage *storage, const struct handle *handle) {
    return handle->count == 1 && storage->handles.next == &handle->link &&
           handle->link.next == &storage->handles;
}

/* The open storage of that number that the process has a handle of; NULL: there is none. */
static struct storage *find(const struct cm_storages *storages, uint32_t id, uint32_t seat) {
    CM_LIST_EACH(link, &storages->open) {
        struct storage *storage = CM_LIST_ITEM(link, struct storage, link);
        if (storage->id == id)
            return storage->state == OPEN && handle_of(storage, seat) ? storage : NULL;
    }
    return NULL;
}

/* --- opening --- */

static void clear_slice(uv_timer_t *walk);
static int open_file(struct storage *storage);

/* In a static buffer, valid until the next call. */
static const char *tell(const struct storage *storage, const char *text) {
    static char line[TEXT_BYTES];
    snprintf(line, sizeof line, "storage '%s': %s", storage->name, text);
    return line;
}

static void answer_opened(struct cm_storages *storages, struct storage *storage, struct waiter *waiter) {
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

/* Takes it out of the memory, in slices, and then closes the file. */
static void begin_clearing(struct storage *storage) {
    if (storage->state == OPEN || storage->state == FLUSHING)
        cm_documents_end(&storage->owner->documents, storage->id);
    storage->state = CLEARING;
    storage->cursor = 0;
    drop_handles(storage);
    if (storage->owner->stopping)
        cm_durable_close(storage->durable, storage->destroyed);
    else
        uv_timer_start(&storage->walk, clear_slice, 0, 0);
}

static void clear_slice(uv_timer_t *walk) {
    struct storage *storage = walk->data;
    /* Without memory to list them they stay, under a number that nobody uses any more. */
    int err = cm_documents_clear(&storage->owner->documents, storage->id, &storage->cursor, SLICE_STEPS);
    if (!err && storage->cursor)
        uv_timer_start(walk, clear_slice, SLICE_MS, 0);
    else
        cm_durable_close(storage->durable, storage->destroyed);
}

/* What has expired is removed every gc_ms, where there is such a thing. */

static int purge(void *data, struct cm_bytes name) {
    struct storage *storage = data;
    struct cm_documents *documents = &storage->owner->documents;
    struct cm_document_change change;
    /* One that cannot be changed for want of memory is met again. */
    if (cm_documents_is_due(documents, storage->id, name) &&
        cm_documents_purge(documents, storage->id, name, &change))
        storage->due = true;
    return 0;
}

static void collect(uv_timer_t *walk) {
    struct storage *storage = walk->data;
    if (storage->due || storage->cursor) {
        if (!storage->cursor)
            storage->due = false;
        if (cm_documents_walk(&storage->owner->documents, storage->id, &storage->cursor, SLICE_STEPS, purge,
                              storage))
            storage->due = true;
    }
    uv_timer_start(walk, collect, storage->cursor ? SLICE_MS : storage->gc_ms, 0);
}

void cm_storages_on_due(struct cm_storages *storages, struct cm_bytes key) {
    struct cm_bytes name;
    uint32_t id = cm_documents_storage_of(key, &name);
    CM_LIST_EACH(link, &storages->open) {
        struct storage *storage = CM_LIST_ITEM(link, struct storage, link);
        if (storage->id == id)
            storage->due = true;
    }
}

/* --- the file --- */

static int on_load(void *data, uint64_t number, struct cm_bytes name, struct cm_bytes bytes) {
    struct storage *storage = data;
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
    struct storage *storage = data;
    struct cm_storages *storages = storage->owner;
    struct cm_bytes body;
    int err = cm_documents_take(&storages->documents, storage->id, name, number, &body);
    return err ? err : cm_stored_write(body, storages->documents.store.clock_ms(), cm_clock_wall_ms(), out);
}

static int before_change(void *data, uint32_t id, const struct cm_document_change *change) {
    const struct cm_storages *storages = data;
    CM_LIST_EACH(link, &storages->open) {
        struct storage *storage = CM_LIST_ITEM(link, struct storage, link);
        if (storage->id == id)
            return cm_durable_mark(storage->durable, change->number, change->name, change->fresh,
                                   change->gone);
    }
    return CM_E_CLOSED;
}

/* The opening has ended. */
static void on_open(void *data, int code, const char *text) {
    struct storage *storage = data;
    struct cm_storages *storages = storage->owner;
    if (!code && !storages->stopping) {
        code = cm_documents_begin(&storages->documents, storage->id);
        text = cm_error_text(code);
    }
    if (code || storages->stopping) {
        answer_all(storages, &storage->waiting, code ? code : CM_E_CLOSED, tell(storage, text ? text : ""));
        begin_clearing(storage);
        return;
    }
    storage->state = OPEN;
    CM_LIST_EACH(link, &storage->waiting) {
        answer_opened(storages, storage, CM_LIST_ITEM(link, struct waiter, link));
    }
    if (storage->gc_ms)
        uv_timer_start(&storage->walk, collect, storage->gc_ms, 0);
}

static void on_walk_closed(uv_handle_t *walk) {
    struct storage *storage = walk->data;
    free(storage->name);
    free(storage->folder);
    free(storage);
}

static void on_closed(void *data) {
    struct storage *storage = data;
    struct cm_storages *storages = storage->owner;
    answer_all(storages, &storage->unanswered, 0, NULL);
    storage->destroyed = false;
    bool again = !cm_list_empty(&storage->waiting) && !storages->stopping;
    int err = again ? open_file(storage) : CM_E_CLOSED;
    if (!err)
        return;
    answer_all(storages, &storage->waiting, err, NULL);
    cm_list_remove(&storage->link);
    uv_close((uv_handle_t *)&storage->walk, on_walk_closed);
}

static void flush(struct storage *storage);

/* Everybody who had it open is to see it closed; but what is not written cannot be given up. */
static void keep_open(struct storage *storage, int code, const char *text) {
    struct cm_storages *storages = storage->owner;
    answer_all(storages, &storage->unanswered, code, tell(storage, text));
    if (storages->stopping) {
        cm_log(CM_LOG_ERROR, "storage '%s': documents are lost, for they could not be written: %s",
               storage->name, text);
        storages->lost = true;
        begin_clearing(storage);
        return;
    }
    storage->state = OPEN;
    CM_LIST_EACH(link, &storage->waiting) {
        answer_opened(storages, storage, CM_LIST_ITEM(link, struct waiter, link));
    }
}

/* Who waits for the sync of that ticket. They are answered in their order, so it is among the first. */
static struct waiter *syncing(const struct storage *storage, uint64_t ticket) {
    CM_LIST_EACH(link, &storage->syncing) {
        struct waiter *waiter = CM_LIST_ITEM(link, struct waiter, link);
        if (waiter->ticket == ticket)
            return waiter;
    }
    return NULL;
}

/* Without a ticket the storage is on its way to be closed. */
static void on_synced(void *data, uint64_t ticket, int code, const char *text) {
    struct storage *storage = data;
    struct cm_storages *storages = storage->owner;
    struct waiter *waiter = syncing(storage, ticket);
    if (!waiter && storage->state == FLUSHING && code)
        keep_open(storage, code, text);
    else if (!waiter && storage->state == FLUSHING)
        begin_clearing(storage);
    if (!waiter)
        return;
    bool closes = waiter->op == CM_OP_STORAGE_CLOSE && !code;
    struct handle *handle = closes && process_of(storages, waiter) ? handle_of(storage, waiter->seat) : NULL;
    /* Of several that close at the same time none was the last one when it asked. */
    if (handle && storage->state == OPEN && is_last(storage, handle)) {
        cm_list_remove(&waiter->link);
        cm_list_append(&storage->unanswered, &waiter->link);
        flush(storage);
        return;
    }
    answer(storages, waiter, code, code ? tell(storage, text) : NULL, (struct cm_bytes){0});
    if (handle && --handle->count == 0)
        remove_handle(handle);
}

static void flush(struct storage *storage) {
    storage->state = FLUSHING;
    int err = cm_durable_sync(storage->durable, 0);
    if (err)
        keep_open(storage, err, cm_error_text(err));
}

static const struct cm_durable_events file_events = {on_load, on_open, on_write, on_synced, on_closed};

/* Under a new number: nobody who had the old one has this. */
static int open_file(struct storage *storage) {
    struct cm_storages *storages = storage->owner;
    char filename[PATH_MAX];
    int len = snprintf(filename, sizeof filename, "%s/%s.db", storage->folder, storage->name);
    if (len < 0 || (size_t)len >= sizeof filename)
        return -ENAMETOOLONG;
    storage->id = ++storages->last_id;
    storage->state = OPENING;
    storage->due = false;
    storage->cursor = 0;
    return cm_durable_open(storages->loop, filename, &file_events, storage, &storage->durable);
}

/* --- operations: a payload is taken for hostile --- */

struct request {
    struct cm_storages *storages;
    struct cm_process *process;
    const struct cm_frame *frame;
    struct cm_reader in;
};

static int refuse(const struct request *request, int err, const char *text) {
    return cm_process_refuse(request->process, request->frame->op, request->frame->id, err, text);
}

static int reply_version(struct request *request, int err, uint64_t version) {
    if (err)
        return refuse(request, err, NULL);
    struct cm_buf *reply = &request->storages->reply;
    cm_buf_reset(reply, CM_CHANNEL_MARK_BYTES);
    struct cm_writer writer;
    cm_writer_init(&writer, reply);
    cm_write_u64(&writer, version);
    return writer.error ? writer.error
                        : cm_process_reply(request->process, request->frame->op, request->frame->id,
                                           cm_buf_view(reply));
}

static bool is_name(struct cm_bytes name) {
    static const char letters[] = "._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    bool good = name.len && name.len <= NAME_MAX_BYTES && name.data[0] != '.';
    for (size_t i = 0; good && i < name.len; i++)
        good = name.data[i] && strchr(letters, name.data[i]);
    return good;
}

static bool is_folder(struct cm_bytes folder) {
    return folder.len == 0 ||
           (folder.len < PATH_MAX && folder.data[0] == '/' && !memchr(folder.data, 0, folder.len));
}

static bool same(const char *text, struct cm_bytes bytes) {
    return strlen(text) == bytes.len && memcmp(text, bytes.data, bytes.len) == 0;
}

static struct storage *find_name(const struct cm_storages *storages, struct cm_bytes name) {
    CM_LIST_EACH(link, &storages->open) {
        struct storage *storage = CM_LIST_ITEM(link, struct storage, link);
        if (same(storage->name, name))
            return storage;
    }
    return NULL;
}

/* On its way to be opened. NULL with *err. */
static struct storage *new_storage(struct cm_storages *storages, struct cm_bytes name, struct cm_bytes folder,
                                   uint64_t gc_ms, int *err) {
    struct storage *storage = calloc(1, sizeof *storage);
    *err = CM_E_NOMEMORY;
    if (!storage)
        return NULL;
    *storage = (struct storage){.owner = storages,
                                .gc_ms = gc_ms,
                                .name = strndup((const char *)name.data, name.len),
                                .folder = strndup((const char *)folder.data, folder.len)};
    cm_list_init(&storage->handles);
    cm_list_init(&storage->waiting);
    cm_list_init(&storage->unanswered);
    cm_list_init(&storage->syncing);
    if (storage->name && storage->folder)
        *err = open_file(storage);
    if (*err) {
        free(storage->name);
        free(storage->folder);
        free(storage);
        return NULL;
    }
    cm_list_append(&storages->open, &storage->link);
    uv_timer_init(storages->loop, &storage->walk);
    storage->walk.data = storage;
    return storage;
}

static int do_open(struct request *request) {
    struct cm_storages *storages = request->storages;
    struct cm_bytes name = cm_read_bytes(&request->in);
    struct cm_bytes folder = cm_read_bytes(&request->in);
    uint64_t gc_ms = cm_read_u64(&request->in);
    if (cm_reader_end(&request->in) || !is_name(name) || !is_folder(folder) || gc_ms > CM_TTL_MAX_MS)
        return CM_E_BADFRAME;
    if (folder.len == 0)
        folder = cm_bytes_of(storages->folder);
    if (storages->stopping)
        return refuse(request, CM_E_CLOSED, NULL);
    struct storage *storage = find_name(storages, name);
    if (storage && !same(storage->folder, folder)) {
        char text[TEXT_BYTES];
        snprintf(text, sizeof text, "storage '%s' is open with the path '%s' already, not '%.*s'",
                 storage->name, storage->folder, (int)folder.len, (const char *)folder.data);
        return refuse(request, CM_E_EXISTS, text);
    }
    int err;
    if (!storage && !(storage = new_storage(storages, name, folder, gc_ms, &err)))
        return refuse(request, err, NULL);
    struct waiter *waiter = new_waiter(storages, storage, request->process, request->frame);
    if (!waiter)
        return refuse(request, CM_E_NOMEMORY, "this process waits for too much");
    cm_list_append(&storage->waiting, &waiter->link);
    if (storage->state == OPEN)
        answer_opened(storages, storage, waiter);
    return 0;
}

/* The storage that the request is about, or NULL: the request has been refused then, with *result. */
static struct storage *read_storage(struct request *request, uint32_t id, int *result) {
    struct storage *storage = find(request->storages, id, request->process->seat);
    if (!storage)
        *result = refuse(request, CM_E_CLOSED, "this storage is closed");
    return storage;
}

static uint8_t read_flags(struct request *request, uint8_t allowed) {
    uint8_t flags = cm_read_u8(&request->in);
    if (flags & ~allowed)
        request->in.error = CM_E_BADFRAME;
    return flags;
}

static int do_set(struct request *request) {
    struct cm_storages *storages = request->storages;
    uint32_t id = cm_read_u32(&request->in);
    struct cm_document_put put = {.path = cm_read_bytes(&request->in)};
    put.value = cm_read_bytes(&request->in);
    uint64_t ttl_ms = cm_read_u64(&request->in);
    uint8_t flags = read_flags(request, CM_CHANGE_IF_VERSION | CM_CHANGE_KEEP_TTL);
    uint64_t version = cm_read_u64(&request->in);
    if (cm_reader_end(&request->in) || ttl_ms > CM_TTL_MAX_MS)
        return CM_E_BADFRAME;
    int result;
    struct storage *storage = read_storage(request, id, &result);
    if (!storage)
        return result;
    put.expires_ms = ttl_ms ? storages->documents.store.clock_ms() + ttl_ms : 0;
    put.keep_expiry = flags & CM_CHANGE_KEEP_TTL;
    put.version = flags & CM_CHANGE_IF_VERSION ? &version : NULL;
    put.number = cm_durable_new_number(storage->durable);
    put.max_bytes = storages->max_value_bytes;
    struct cm_document_change change;
    int err = cm_documents_set(&storages->documents, id, &put, &change);
    return err == CM_E_BADVALUE ? CM_E_BADFRAME : reply_version(request, err, change.version);
}

static int do_delete(struct request *request) {
    struct cm_storages *storages = request->storages;
    uint32_t id = cm_read_u32(&request->in);
    struct cm_bytes path = cm_read_bytes(&request->in);
    uint8_t flags = read_flags(request, CM_CHANGE_IF_VERSION);
    uint64_t version = cm_read_u64(&request->in);
    if (cm_reader_end(&request->in))
        return CM_E_BADFRAME;
    int result;
    if (!read_storage(request, id, &result))
        return result;
    struct cm_document_change change;
    int err = cm_documents_delete(&storages->documents, id, path,
                                  flags & CM_CHANGE_IF_VERSION ? &version : NULL, &change);
    return err == CM_E_BADVALUE ? CM_E_BADFRAME : reply_version(request, err, change.version);
}

/* Of the three that wait for the disk: the storage, and who waits. */
static int begin_waiting(struct request *request, struct storage **storage, struct waiter **waiter) {
    uint32_t id = cm_read_u32(&request->in);
    *waiter = NULL;
    if (cm_reader_end(&request->in))
        return CM_E_BADFRAME;
    int result;
    *storage = read_storage(request, id, &result);
    if (!*storage)
        return result;
    *waiter = new_waiter(request->storages, *storage, request->process, request->frame);
    return *waiter ? 0 : refuse(request, CM_E_NOMEMORY, "this process waits for too much");
}

static int sync_for(struct storage *storage, struct waiter *waiter) {
    waiter->ticket = ++storage->last_ticket;
    cm_list_append(&storage->syncing, &waiter->link);
    int err = cm_durable_sync(storage->durable, waiter->ticket);
    if (err)
        answer(storage->owner, waiter, err, NULL, (struct cm_bytes){0});
    return 0;
}

static int do_sync(struct request *request) {
    struct storage *storage;
    struct waiter *waiter;
    int err = begin_waiting(request, &storage, &waiter);
    return waiter ? sync_for(storage, waiter) : err;
}

static int do_close(struct request *request) {
    struct storage *storage;
    struct waiter *waiter;
    int err = begin_waiting(request, &storage, &waiter);
    if (!waiter)
        return err;
    if (is_last(storage, handle_of(storage, request->process->seat))) {
        cm_list_append(&storage->unanswered, &waiter->link);
        flush(storage);
        return 0;
    }
    return sync_for(storage, waiter);
}

static int do_destroy(struct request *request) {
    struct storage *storage;
    struct waiter *waiter;
    int err = begin_waiting(request, &storage, &waiter);
    if (!waiter)
        return err;
    cm_list_append(&storage->unanswered, &waiter->link);
    storage->destroyed = true;
    begin_clearing(storage);
    return 0;
}

static int (*const operations[])(struct request *) = {
    [CM_OP_STORAGE_OPEN] = do_open, [CM_OP_STORAGE_SET] = do_set,     [CM_OP_STORAGE_DELETE] = do_delete,
    [CM_OP_STORAGE_SYNC] = do_sync, [CM_OP_STORAGE_CLOSE] = do_close, [CM_OP_STORAGE_DESTROY] = do_destroy,
};

bool cm_storages_does(uint8_t op) {
    return op < sizeof operations / sizeof *operations && operations[op];
}

int cm_storages_do(struct cm_storages *storages, struct cm_process *process, const struct cm_frame *frame) {
    struct request request = {.storages = storages, .process = process, .frame = frame};
    cm_reader_init(&request.in, frame->payload);
    return operations[frame->op](&request);
}

/* --- the gone --- */

void cm_storages_on_gone(struct cm_storages *storages, uint32_t seat) {
    CM_LIST_EACH(link, &storages->open) {
        struct handle *handle = handle_of(CM_LIST_ITEM(link, struct storage, link), seat);
        if (handle)
            remove_handle(handle);
    }
}

/* --- beginning and end --- */

int cm_storages_init(struct cm_storages *storages, struct cm_store *store, struct cm_supervisor *supervisor,
                     const char *folder, size_t max_value_bytes) {
    *storages =
        (struct cm_storages){.supervisor = supervisor, .folder = folder, .max_value_bytes = max_value_bytes};
    cm_list_init(&storages->open);
    cm_documents_init(&storages->documents, store->participant, store->make_room, store->data);
    storages->documents.before_change = before_change;
    storages->documents.data = storages;
    storages->waiting = calloc(store->participant->segment->layout.seats + 1, sizeof *storages->waiting);
    return storages->waiting ? 0 : CM_E_NOMEMORY;
}

void cm_storages_deinit(struct cm_storages *storages) {
    cm_documents_deinit(&storages->documents);
    cm_buf_deinit(&storages->body);
    cm_buf_deinit(&storages->reply);
    free(storages->waiting);
}

void cm_storages_start(struct cm_storages *storages, uv_loop_t *loop) {
    storages->loop = loop;
}

void cm_storages_stop(struct cm_storages *storages) {
    storages->stopping = true;
    CM_LIST_EACH(link, &storages->open) {
        struct storage *storage = CM_LIST_ITEM(link, struct storage, link);
        uv_timer_stop(&storage->walk);
        if (storage->state == OPEN)
            flush(storage);
        else if (storage->state == CLEARING)
            cm_durable_close(storage->durable, storage->destroyed);
    }
}
