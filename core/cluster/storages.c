#include "cluster/storages.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cluster/descriptor.h"
#include "cluster/storage.h"
#include "wire/message.h"
#include "wire/ops.h"

enum {
    NAME_MAX_BYTES = 128,
    TEXT_BYTES = 2 * PATH_MAX + 256,
    MOST_LEAVING = 8, /* in whose place others are opened already */
};

static const char too_much[] = "this process waits for too much";

/* --- finding --- */

static struct cm_storage *find_id(const struct cm_storages *storages, uint32_t id) {
    CM_LIST_EACH(link, &storages->open) {
        struct cm_storage *storage = CM_LIST_ITEM(link, struct cm_storage, link);
        if (storage->id == id)
            return storage;
    }
    return NULL;
}

static int before_change(void *data, uint32_t id, const struct cm_document_change *change) {
    const struct cm_storage *storage = find_id(data, id);
    return storage
               ? cm_durable_mark(storage->durable, change->number, change->name, change->fresh, change->gone)
               : CM_E_CLOSED;
}

void cm_storages_on_due(struct cm_storages *storages, struct cm_bytes key) {
    struct cm_bytes name;
    struct cm_storage *storage = find_id(storages, cm_documents_storage_of(key, &name));
    if (storage)
        storage->due = true;
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

static struct cm_storage *find_name(const struct cm_storages *storages, struct cm_bytes name) {
    CM_LIST_EACH(link, &storages->open) {
        struct cm_storage *storage = CM_LIST_ITEM(link, struct cm_storage, link);
        if (same(storage->name, name))
            return storage;
    }
    return NULL;
}

/* Whether one more may be opened; perhaps because one that only dead processes had is closed for it. */
static bool has_room(struct cm_storages *storages) {
    if (storages->count < storages->most)
        return true;
    if (storages->count >= storages->most + MOST_LEAVING)
        return false;
    CM_LIST_EACH(link, &storages->open) {
        if (cm_storage_leave(CM_LIST_ITEM(link, struct cm_storage, link)))
            return true;
    }
    return false;
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
    struct cm_storage *storage = find_name(storages, name);
    if (storage && !same(storage->folder, folder)) {
        char text[TEXT_BYTES];
        snprintf(text, sizeof text, "storage '%s' is open with the path '%s' already, not '%.*s'",
                 storage->name, storage->folder, (int)folder.len, (const char *)folder.data);
        return refuse(request, CM_E_EXISTS, text);
    }
    if (!storage && !has_room(storages))
        return refuse(request, -EMFILE, cm_descriptor_refusal(storages->most, "storages"));
    int err = storage ? 0 : cm_storage_new(storages, name, folder, gc_ms, &storage);
    if (err)
        return refuse(request, err, NULL);
    struct cm_storage_waiter *waiter = cm_storage_wait(storage, request->process, request->frame);
    if (!waiter)
        return refuse(request, CM_E_NOMEMORY, too_much);
    cm_storage_join(storage, waiter);
    return 0;
}

/* The storage that the request is about, or NULL: the request has been refused then, with *result. */
static struct cm_storage *read_storage(struct request *request, uint32_t id, int *result) {
    struct cm_storage *storage = find_id(request->storages, id);
    if (storage && cm_storage_is_open_for(storage, request->process->seat))
        return storage;
    *result = refuse(request, CM_E_CLOSED, "this storage is closed");
    return NULL;
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
    struct cm_storage *storage = read_storage(request, id, &result);
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

/* One of the three that wait for the disk. */
static int do_waiting(struct request *request,
                      void (*begin)(struct cm_storage *, struct cm_storage_waiter *)) {
    uint32_t id = cm_read_u32(&request->in);
    if (cm_reader_end(&request->in))
        return CM_E_BADFRAME;
    int result;
    struct cm_storage *storage = read_storage(request, id, &result);
    if (!storage)
        return result;
    struct cm_storage_waiter *waiter = cm_storage_wait(storage, request->process, request->frame);
    if (!waiter)
        return refuse(request, CM_E_NOMEMORY, too_much);
    begin(storage, waiter);
    return 0;
}

static int do_sync(struct request *request) {
    return do_waiting(request, cm_storage_sync);
}
static int do_close(struct request *request) {
    return do_waiting(request, cm_storage_close);
}
static int do_destroy(struct request *request) {
    return do_waiting(request, cm_storage_destroy);
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
    int err = operations[frame->op](&request);
    cm_documents_rest(&storages->documents);
    return err;
}

/* --- the gone --- */

void cm_storages_on_gone(struct cm_storages *storages, uint32_t seat) {
    CM_LIST_EACH(link, &storages->open) {
        cm_storage_drop(CM_LIST_ITEM(link, struct cm_storage, link), seat);
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
    storages->most = cm_descriptor_share(store->participant->segment->layout.seats);
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
        cm_storage_stop(CM_LIST_ITEM(link, struct cm_storage, link));
    }
}
