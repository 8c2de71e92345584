#include "data/expiry.h"

#include "data/lru.h"
#include "data/watch.h"
#include "memory/chunk.h"

/* Removes the entry if it is one, reachable, and past its time; of a document somebody is told instead. False
 * where its group is not to be had now. */
static bool remove_expired(struct cm_sweep *sweep, struct cm_participant *master, uint64_t offset,
                           uint64_t now_ms) {
    struct cm_record *record = cm_record_at(master->segment, offset);
    uint64_t hash = atomic_load_explicit(&record->hash, memory_order_relaxed);
    if (hash & CM_SPACE_CACHE)
        return !sweep->lru || cm_lru_sweep(sweep->lru, hash, cm_record_version(record), now_ms);
    struct cm_section section;
    if (!cm_table_try(master, hash, &section))
        return false;
    struct cm_place place = {.link = cm_table_link_to(master, &section, hash, offset),
                             .record = record,
                             .offset = offset,
                             .shape = cm_record_shape(record)};
    uint64_t expires_ms = atomic_load_explicit(&record->expires_ms, memory_order_relaxed);
    /* Looked at again: what was there may have been rewound, and be something else now. */
    if (!place.link || !expires_ms || expires_ms > now_ms) {
        cm_section_leave(&section);
        return true;
    }
    bool is_document = hash & CM_SPACE_DOCUMENTS;
    bool told = (is_document ? sweep->on_document != NULL : sweep->store && cm_watch_any(master->segment)) &&
                cm_record_read_key(master->segment, offset, place.shape, sweep->key);
    struct cm_bytes key = {sweep->key, place.shape.key_len};
    if (is_document) {
        cm_section_leave(&section);
        if (told)
            sweep->on_document(sweep->data, key);
        return true;
    }
    uint64_t version = cm_table_unlink(master, &section, &place);
    if (told)
        cm_store_tell(sweep->store, key, version, CM_CAUSE_EXPIRE, NULL);
    return true;
}

/* Begins the chunk if something in it is due. Its earliest time is found anew on the way: whoever stores an
 * expiry notes it afterwards, and either that note comes after this exchange and stays, or it comes before,
 * and then the record has the expiry already, and `used` covers it (see cm_chunk_note_expiry). */
static bool begin(struct cm_sweep *sweep, struct cm_segment *segment, uint64_t now_ms) {
    struct cm_chunk *chunk = &segment->chunks[sweep->chunk];
    struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, sweep->chunk));
    bool used = word.state == CM_CHUNK_OPEN || (word.state == CM_CHUNK_CLOSED && word.live_bytes);
    if (!used || atomic_load_explicit(&chunk->earliest_ms, memory_order_relaxed) > now_ms)
        return false;
    atomic_exchange_explicit(&chunk->earliest_ms, CM_NEVER, memory_order_acq_rel);
    atomic_thread_fence(memory_order_seq_cst);
    sweep->within = true;
    sweep->at = 0;
    sweep->generation = word.generation;
    return true;
}

/* Looks at the records from where the sweep stands; takes the number it looked at off `records`. */
static void go_on(struct cm_sweep *sweep, struct cm_participant *master, uint64_t now_ms, unsigned *records) {
    struct cm_segment *segment = master->segment;
    uint64_t start = cm_segment_chunk_at(segment, sweep->chunk);
    uint64_t used = atomic_load_explicit(&segment->chunks[sweep->chunk].used, memory_order_acquire);
    /* Another life of the chunk has its own earliest time, and free ones are holes perhaps. */
    struct cm_chunk_word word = cm_chunk_unpack(cm_chunk_load(segment, sweep->chunk));
    bool same = word.generation == sweep->generation && word.state != CM_CHUNK_PUNCHING &&
                !cm_chunk_is_free(&word) && used <= segment->layout.chunk_bytes;
    for (; same && *records && sweep->at < used; --*records) {
        struct cm_record *record = cm_record_at(segment, start + sweep->at);
        struct cm_shape shape = record ? cm_record_shape(record) : (struct cm_shape){0};
        uint64_t len_bytes = cm_shape_bytes(shape);
        if (len_bytes == 0 || len_bytes > used - sweep->at)
            break; /* rewound under our eyes: what is written there now notes its own expiry */
        uint64_t expires_ms = shape.kind == CM_KIND_FRAGMENT
                                  ? 0
                                  : atomic_load_explicit(&record->expires_ms, memory_order_relaxed);
        bool due = expires_ms && expires_ms <= now_ms;
        if (expires_ms && (!due || !remove_expired(sweep, master, start + sweep->at, now_ms)))
            cm_chunk_note_expiry(segment, start + sweep->at, expires_ms);
        sweep->at += (uint32_t)len_bytes;
    }
    if (same && !*records && sweep->at < used)
        return;
    sweep->within = false;
    sweep->chunk++;
}

bool cm_expiry_sweep(struct cm_sweep *sweep, struct cm_participant *master, uint64_t now_ms,
                     unsigned records) {
    while (records) {
        if (sweep->chunk >= cm_chunk_reached(master->segment)) {
            sweep->chunk = 0;
            return false;
        }
        if (!sweep->within && !begin(sweep, master->segment, now_ms))
            sweep->chunk++;
        else
            go_on(sweep, master, now_ms, &records);
    }
    return true;
}
