#include "memory/append.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/fault.h"
#include "memory/chunk.h"

enum { LEAST_FRAGMENT_BYTES = 128 }; /* a shorter rest of a chunk is left unused */

uint64_t cm_append_bytes(const struct cm_segment *segment, uint64_t key_len, uint64_t value_len) {
    uint64_t payload = cm_words(key_len) + cm_words(value_len);
    if (CM_ENTRY_BYTES + payload <= segment->record_most_bytes)
        return CM_ENTRY_BYTES + payload;
    /* As many fragments as must be; a short one at the end of each chunk; and the ends of key and value. */
    uint64_t most = segment->record_most_bytes - CM_FRAGMENT_BYTES;
    uint64_t fragments = payload / most + 2 * payload / segment->layout.chunk_bytes + 4;
    return CM_HEAD_BYTES + payload + fragments * CM_FRAGMENT_BYTES;
}

static void set_used(struct cm_participant *participant) {
    struct cm_appender *appender = &participant->appender;
    /* Release: who walks up to here (acquire) sees whole records. */
    atomic_store_explicit(&participant->segment->chunks[appender->chunk].used, appender->at,
                          memory_order_release);
}

void cm_append_begin(struct cm_participant *participant) {
    struct cm_appender *appender = &participant->appender;
    appender->mark_chunk = appender->chunk;
    appender->mark_at = appender->at;
}

/* Leaves the chunk, which is full: closed at once where nothing of this operation lies in it, else held. */
static int leave_chunk(struct cm_participant *participant) {
    struct cm_appender *appender = &participant->appender;
    if (appender->chunk == CM_NO_CHUNK)
        return 0;
    if (appender->chunk == appender->mark_chunk && appender->at == appender->mark_at) {
        cm_chunk_close(participant->segment, appender->chunk, appender->at);
        appender->mark_chunk = appender->chunk = CM_NO_CHUNK;
        return 0;
    }
    if (appender->held_count == appender->held_room) {
        size_t room = appender->held_room ? appender->held_room * 2 : 16;
        uint32_t *held = realloc(appender->held, room * sizeof *held);
        if (!held)
            return CM_E_NOMEMORY;
        appender->held = held;
        appender->held_room = room;
    }
    appender->held[appender->held_count++] = appender->chunk;
    appender->chunk = CM_NO_CHUNK;
    return 0;
}

/* A chunk with room for at least that many bytes. */
static int make_room(struct cm_participant *participant, uint64_t len_bytes) {
    struct cm_appender *appender = &participant->appender;
    if (appender->chunk != CM_NO_CHUNK &&
        participant->segment->layout.chunk_bytes - appender->at >= len_bytes)
        return 0;
    int err = leave_chunk(participant);
    if (err)
        return err;
    uint32_t chunk;
    err = cm_chunk_claim(participant, &chunk);
    if (err)
        return err;
    appender->chunk = chunk;
    appender->at = 0;
    if (appender->mark_chunk == CM_NO_CHUNK && appender->held_count == 0) {
        appender->mark_chunk = chunk;
        appender->mark_at = 0;
    }
    return 0;
}

int cm_append_room(struct cm_participant *participant, uint64_t len_bytes, uint64_t *offset) {
    int err = make_room(participant, len_bytes);
    if (!err)
        *offset =
            cm_segment_chunk_at(participant->segment, participant->appender.chunk) + participant->appender.at;
    return err;
}

void cm_append_written(struct cm_participant *participant, uint64_t len_bytes) {
    participant->appender.at += (uint32_t)len_bytes;
    set_used(participant);
}

/* A list of fragments being written. */
struct list {
    uint64_t hash;
    uint64_t number;
    uint64_t last; /* the record that the next fragment is linked to: at first the entry */
};

/* Appends the bytes as fragments. Each takes what its chunk has left, to the most a record may be. Key and
 * value are given as they will lie: the key's words, then the value. */
static int append_fragments(struct cm_participant *participant, struct list *list, struct cm_bytes bytes) {
    struct cm_segment *segment = participant->segment;
    while (bytes.len) {
        uint64_t offset;
        int err = cm_append_room(participant, CM_FRAGMENT_BYTES + LEAST_FRAGMENT_BYTES, &offset);
        if (err)
            return err;
        uint64_t most = segment->layout.chunk_bytes - participant->appender.at;
        if (most > segment->record_most_bytes)
            most = segment->record_most_bytes;
        most -= CM_FRAGMENT_BYTES;
        uint32_t len = (uint32_t)(bytes.len < most ? bytes.len : most);
        struct cm_record *fragment = cm_record_at(segment, offset);
        cm_record_write_fragment(fragment, list->hash, list->number, list->last, bytes.data, len);
        cm_append_written(participant, CM_FRAGMENT_BYTES + cm_words(len));
        atomic_store_explicit(cm_record_rest(cm_record_at(segment, list->last)), offset,
                              memory_order_relaxed);
        list->last = offset;
        bytes.data += len;
        bytes.len -= len;
    }
    return 0;
}

static int append_long(struct cm_participant *participant, uint64_t hash, struct cm_bytes key,
                       struct cm_bytes value, uint64_t entry) {
    /* Relaxed: publishes nothing; all it must be is another number each time. */
    uint64_t number =
        atomic_fetch_add_explicit(&participant->segment->header->lists, 1, memory_order_relaxed);
    struct list list = {hash, number, entry};
    /* The key's last word is filled up with zeroes: a fragment of its own, since fragments are whole words
     * but for the last. */
    struct cm_bytes head = {key.data, key.len & ~(size_t)7};
    int err = append_fragments(participant, &list, head);
    if (!err && head.len < key.len) {
        uint8_t word[8] = {0};
        for (size_t i = head.len; i < key.len; i++)
            word[i - head.len] = key.data[i];
        err = append_fragments(participant, &list, (struct cm_bytes){word, sizeof word});
    }
    return err ? err : append_fragments(participant, &list, value);
}

int cm_append_entry(struct cm_participant *participant, enum cm_kind kind, uint64_t hash, struct cm_bytes key,
                    struct cm_bytes value, uint64_t expires_ms, uint64_t *offset) {
    struct cm_shape shape = {kind, (uint32_t)key.len, (uint32_t)value.len};
    uint64_t len_bytes = cm_shape_bytes(shape);
    if (len_bytes > participant->segment->record_most_bytes) {
        shape.kind = CM_KIND_LONG;
        len_bytes = cm_shape_bytes(shape);
    }
    int err = cm_append_room(participant, len_bytes, offset);
    if (err)
        return err;
    struct cm_record *record = cm_record_at(participant->segment, *offset);
    cm_record_write(record, shape, hash, expires_ms, key, value);
    cm_append_written(participant, len_bytes);
    CM_FAULT("entry-appended");
    return shape.kind == CM_KIND_LONG ? append_long(participant, hash, key, value, *offset) : 0;
}

static void close_held(struct cm_participant *participant, bool keep) {
    struct cm_appender *appender = &participant->appender;
    struct cm_segment *segment = participant->segment;
    for (size_t i = 0; i < appender->held_count; i++) {
        uint32_t chunk = appender->held[i];
        uint64_t used = atomic_load_explicit(&segment->chunks[chunk].used, memory_order_relaxed);
        if (!keep)
            atomic_store_explicit(&segment->chunks[chunk].used, 0, memory_order_release);
        cm_chunk_close(segment, chunk, keep ? (uint32_t)used : 0);
    }
    appender->held_count = 0;
}

void cm_append_prefetch(const struct cm_participant *participant, uint64_t len_bytes) {
    enum { MOST_LINES = 4 };
    const struct cm_appender *appender = &participant->appender;
    if (appender->chunk == CM_NO_CHUNK)
        return;
    const uint8_t *at = participant->segment->base +
                        cm_segment_chunk_at(participant->segment, appender->chunk) + appender->at;
    /* The line it begins in has the last record's end, and is at hand. */
    for (uint64_t line = CM_CACHE_LINE; line <= len_bytes && line < (uint64_t)MOST_LINES * CM_CACHE_LINE;
         line += CM_CACHE_LINE)
        __builtin_prefetch(at + line, 1);
}

void cm_append_commit(struct cm_participant *participant) {
    if (participant->appender.held_count)
        close_held(participant, true);
}

void cm_append_rewind(struct cm_participant *participant) {
    struct cm_appender *appender = &participant->appender;
    if (appender->held_count) {
        /* The first held is where the operation began: it becomes the open one again, the others are empty.
         */
        if (appender->chunk != CM_NO_CHUNK) {
            uint32_t last = appender->chunk;
            atomic_store_explicit(&participant->segment->chunks[last].used, 0, memory_order_release);
            cm_chunk_close(participant->segment, last, 0);
        }
        uint32_t first = appender->held[0];
        appender->held[0] = appender->held[--appender->held_count];
        close_held(participant, false);
        appender->chunk = first;
    }
    if (appender->chunk == CM_NO_CHUNK)
        return;
    appender->at = appender->chunk == appender->mark_chunk ? appender->mark_at : 0;
    set_used(participant);
}

void cm_append_close(struct cm_participant *participant) {
    struct cm_appender *appender = &participant->appender;
    if (appender->chunk == CM_NO_CHUNK)
        return;
    cm_chunk_close(participant->segment, appender->chunk, appender->at);
    appender->chunk = CM_NO_CHUNK;
}
