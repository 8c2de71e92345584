#include "cluster/changes.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/index.h"
#include "wire/message.h"
#include "wire/ops.h"

enum {
    MISSED_BYTES_MOST =
        1 << 20, /* of keys that a process is to be told of as gaps, with what belongs to them */
    POLL_MS = 1,
};

/* A key that has been changed while its listener did not read. */
struct missed_key {
    struct cm_index_node named;
    struct cm_list link;
    size_t len;
    uint8_t bytes[];
};

/* What a process has missed. */
struct cm_missed {
    struct cm_index names;
    struct cm_list keys;
    size_t bytes;
    bool all; /* the keys were too many */
};

/* --- what has been missed --- */

static uint64_t hash_of(const struct cm_changes *changes, struct cm_bytes key) {
    return cm_watch_hash(changes->listeners.set.segment, key, false);
}

static bool is_noted(const struct cm_missed *missed, uint64_t hash, struct cm_bytes key) {
    for (struct cm_index_node *node = cm_index_first(&missed->names, hash); node;
         node = cm_index_next(node)) {
        const struct missed_key *noted = CM_LIST_ITEM(node, struct missed_key, named);
        if (noted->len == key.len && memcmp(noted->bytes, key.data, key.len) == 0)
            return true;
    }
    return false;
}

static void forget(struct cm_missed *missed, struct missed_key *key) {
    cm_index_remove(&missed->names, &key->named);
    cm_list_remove(&key->link);
    missed->bytes -= sizeof *key + key->len;
    free(key);
}

static void forget_all(struct cm_missed *missed) {
    CM_LIST_EACH(link, &missed->keys) {
        forget(missed, CM_LIST_ITEM(link, struct missed_key, link));
    }
}

static void note(struct cm_changes *changes, struct cm_missed *missed, struct cm_bytes key) {
    uint64_t hash = hash_of(changes, key);
    if (missed->all || is_noted(missed, hash, key))
        return;
    size_t bytes = sizeof(struct missed_key) + key.len;
    struct missed_key *noted = missed->bytes + bytes > MISSED_BYTES_MOST ? NULL : malloc(bytes);
    if (!noted) {
        forget_all(missed);
        missed->all = true;
        return;
    }
    noted->len = key.len;
    memcpy(noted->bytes, key.data, key.len);
    cm_list_append(&missed->keys, &noted->link);
    cm_index_add(&missed->names, &noted->named, hash);
    missed->bytes += bytes;
}

static bool has_missed(const struct cm_missed *missed) {
    return missed->all || !cm_list_empty(&missed->keys);
}

/* --- telling --- */

static bool is_full(const struct cm_process *process) {
    return cm_channel_unsent(&process->channel) > CM_CHANNEL_MARK_BYTES;
}

static void write_value(struct cm_writer *writer, const struct cm_value *value) {
    uint8_t space[CM_NUMBER_BYTES];
    cm_write_bytes(writer, value->is_number ? cm_number_encode(value->number, space) : value->bytes);
}

/* False: there is no memory to write it. */
static bool send_change(struct cm_process *process, const struct cm_changed *change) {
    struct cm_buf *out = cm_channel_begin(&process->channel, CM_OP_CHANGED, 0, 0);
    struct cm_writer writer;
    if (out) {
        cm_writer_init(&writer, out);
        cm_write_u8(&writer, (uint8_t)change->cause);
        cm_write_u64(&writer, change->version);
        cm_write_bytes(&writer, change->key);
        cm_write_u8(&writer, change->value != NULL);
        if (change->value)
            write_value(&writer, change->value);
    }
    if (out && !writer.error)
        return cm_channel_commit(&process->channel) == 0;
    if (out)
        cm_channel_cancel(&process->channel);
    return false;
}

static struct cm_process *listener_at(const struct cm_changes *changes, uint32_t seat) {
    struct cm_process *process = cm_supervisor_at_seat(changes->supervisor, seat);
    return !process || process->dead || process->channel.ended ? NULL : process;
}

static void tell(void *data, uint32_t seat, const struct cm_changed *change) {
    struct cm_changes *changes = data;
    struct cm_process *process = listener_at(changes, seat);
    struct cm_missed *missed = &changes->missed[seat];
    if (!process)
        return;
    /* A change must not come past an older one of its key. */
    if (has_missed(missed) || is_full(process) || !send_change(process, change))
        note(changes, missed, change->key);
}

void cm_changes_on_drained(struct cm_changes *changes, struct cm_process *process) {
    struct cm_missed *missed = &changes->missed[process->seat];
    if (!has_missed(missed) || !listener_at(changes, process->seat))
        return;
    struct cm_changed gap = {.cause = CM_CAUSE_GAP};
    if (missed->all)
        missed->all = !send_change(process, &gap);
    CM_LIST_EACH(link, &missed->keys) {
        struct missed_key *key = CM_LIST_ITEM(link, struct missed_key, link);
        gap.key = (struct cm_bytes){key->bytes, key->len};
        if (is_full(process) || !send_change(process, &gap))
            return;
        forget(missed, key);
    }
}

static void answer(void *data, uint32_t seat, uint64_t request) {
    struct cm_changes *changes = data;
    struct cm_process *process = listener_at(changes, seat);
    if (!process)
        return;
    if (cm_process_reply(process, CM_OP_LISTEN, (uint32_t)request, (struct cm_bytes){0}))
        cm_process_kill(process); /* it would wait for ever */
}

/* --- requests --- */

static void on_poll(uv_timer_t *poll) {
    struct cm_changes *changes = poll->data;
    if (!cm_listeners_poll(&changes->listeners))
        uv_timer_stop(poll);
}

/* False: the payload makes no sense. */
static bool read_name(struct cm_bytes payload, struct cm_bytes *name, bool *prefix) {
    struct cm_reader reader;
    cm_reader_init(&reader, payload);
    uint8_t flags = cm_read_u8(&reader);
    *prefix = flags & CM_LISTEN_PREFIX;
    *name = cm_read_bytes(&reader);
    return cm_reader_end(&reader) == 0 && (flags & ~CM_LISTEN_PREFIX) == 0 && name->len <= CM_KEY_MAX_BYTES &&
           (name->len || *prefix);
}

int cm_changes_listen(struct cm_changes *changes, struct cm_process *process, const struct cm_frame *frame) {
    struct cm_bytes name;
    bool prefix;
    if (!read_name(frame->payload, &name, &prefix))
        return CM_E_BADFRAME;
    if (process->dead)
        return 0;
    int err = cm_listeners_add(&changes->listeners, process->seat, frame->id, name, prefix);
    if (err)
        return cm_process_refuse(process, frame->op, frame->id, err, "this process listens for too much");
    if (cm_listeners_poll(&changes->listeners))
        uv_timer_start(&changes->poll, on_poll, POLL_MS, POLL_MS);
    return 0;
}

int cm_changes_unlisten(struct cm_changes *changes, struct cm_process *process,
                        const struct cm_frame *frame) {
    struct cm_bytes name;
    bool prefix;
    if (!read_name(frame->payload, &name, &prefix))
        return CM_E_BADFRAME;
    cm_listeners_remove(&changes->listeners, process->seat, name, prefix);
    return 0;
}

void cm_changes_on_gone(struct cm_changes *changes, uint32_t seat) {
    cm_listeners_drop(&changes->listeners, seat);
    forget_all(&changes->missed[seat]);
    changes->missed[seat].all = false;
}

/* --- beginning and end --- */

static void on_change(void *data, const struct cm_changed *change) {
    struct cm_changes *changes = data;
    cm_listeners_changed(&changes->listeners, change);
}

int cm_changes_init(struct cm_changes *changes, struct cm_store *store, struct cm_supervisor *supervisor) {
    *changes = (struct cm_changes){.supervisor = supervisor};
    const struct cm_segment *segment = store->participant->segment;
    uint32_t seats = segment->layout.seats + 1;
    changes->missed = calloc(seats, sizeof *changes->missed);
    int err = changes->missed ? cm_listeners_init(&changes->listeners, segment) : CM_E_NOMEMORY;
    for (uint32_t i = 0; !err && i < seats; i++) {
        cm_list_init(&changes->missed[i].keys);
        err = cm_index_init(&changes->missed[i].names);
    }
    changes->listeners.tell = tell;
    changes->listeners.answer = answer;
    changes->listeners.data = changes;
    store->on_change = on_change;
    store->change_data = changes;
    return err;
}

void cm_changes_deinit(struct cm_changes *changes) {
    uint32_t seats = changes->listeners.set.segment->layout.seats + 1;
    for (uint32_t i = 0; i < seats; i++) {
        forget_all(&changes->missed[i]);
        cm_index_deinit(&changes->missed[i].names);
    }
    free(changes->missed);
    cm_listeners_deinit(&changes->listeners);
}

void cm_changes_start(struct cm_changes *changes, uv_loop_t *loop) {
    uv_timer_init(loop, &changes->poll);
    changes->poll.data = changes;
}

void cm_changes_stop(struct cm_changes *changes) {
    uv_close((uv_handle_t *)&changes->poll, NULL);
}
