#include "memory/table.h"

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "memory/chains.h"
#include "memory/chunk.h"

enum {
    LINES = 3,         /* of an entry, that are prefetched */
    RING_INSERTS = 64, /* at least, between two hints to the master that the table may have to grow */
};

struct cm_key cm_table_key_in(const struct cm_segment *segment, uint64_t space, struct cm_bytes bytes) {
    return (struct cm_key){bytes, (cm_hash(bytes, segment->layout.hash_seed) & ~CM_SPACES) | space};
}

/* --- looking along a chain --- */

/* Links are loaded with acquire: who links a record (release) has written it before. A reader may be led
 * astray by a chunk that is being used anew; then it comes to an offset that is none, or goes too far, and
 * the sequence tells. */
enum look cm_chain_look(const struct cm_segment *segment, struct cm_group *group, const struct cm_key *key,
                        unsigned steps, struct cm_place *place) {
    place->link = chain_of(group, key->hash);
    for (; steps; steps--) {
        uint64_t offset = atomic_load_explicit(place->link, memory_order_acquire);
        place->record = NULL;
        if (!offset)
            return LOOK_ABSENT;
        struct cm_record *record = cm_record_at(segment, offset);
        if (!record)
            return LOOK_LOST;
        if (load(&record->hash) == key->hash) {
            place->shape = cm_record_shape(record);
            if (cm_record_has_key(segment, offset, place->shape, key->bytes)) {
                place->record = record;
                place->offset = offset;
                return LOOK_FOUND;
            }
        }
        place->link = &record->next;
    }
    return LOOK_LOST;
}

/* It becomes its chain's first. */
void cm_table_place_new(struct cm_participant *participant, const struct cm_section *section, uint64_t hash,
                        struct cm_place *place) {
    *place = (struct cm_place){.link = chain_of(group_in(participant->segment, section), hash)};
}

bool cm_table_find(struct cm_participant *participant, const struct cm_section *section,
                   const struct cm_key *key, struct cm_place *place) {
    struct cm_group *group = group_in(participant->segment, section);
    if (cm_chain_look(participant->segment, group, key, UINT32_MAX, place) == LOOK_FOUND)
        return true;
    cm_table_place_new(participant, section, key->hash, place);
    return false;
}

void cm_table_prefetch(const struct cm_segment *segment, uint64_t hash, enum cm_prefetch what) {
    struct cm_group *group = &segment->groups[index_of(segment, hash)];
    if (what == CM_PREFETCH_GROUP) {
        __builtin_prefetch(group);
        return;
    }
    /* It may be just anything by now: nothing comes of it but the look of the processor. */
    const struct cm_record *record = cm_record_at(segment, load(chain_of(group, hash)));
    if (record && what == CM_PREFETCH_SECOND && load(&record->hash) != hash)
        record = cm_record_at(segment, load(&record->next));
    if (!record)
        return;
    __builtin_prefetch(record);
    /* An entry of a hundred bytes or so, which is to be written over. */
    for (uint64_t line = 1; what == CM_PREFETCH_SECOND && line < LINES; line++)
        __builtin_prefetch((const uint8_t *)record + line * CM_CACHE_LINE, 1);
}

bool cm_table_find_tag(struct cm_participant *participant, const struct cm_section *section, uint64_t hash,
                       uint64_t tag, uint64_t mask, struct cm_place *place) {
    place->link = chain_of(group_in(participant->segment, section), hash);
    while ((place->offset = load(place->link)) &&
           (place->record = cm_record_at(participant->segment, place->offset))) {
        if (load(&place->record->hash) == hash && (cm_record_version(place->record) & mask) == (tag & mask)) {
            place->shape = cm_record_shape(place->record);
            return true;
        }
        place->link = &place->record->next;
    }
    return false;
}

static int64_t load_count(const _Atomic int64_t *count) {
    return atomic_load_explicit((_Atomic int64_t *)count, memory_order_relaxed);
}

uint64_t cm_table_entries(const struct cm_segment *segment) {
    int64_t entries = 0;
    for (uint32_t id = CM_MASTER_SEAT; id <= segment->layout.seats; id++)
        entries += load_count(&cm_segment_seat(segment, id)->entries) >> CM_COUNTS_SHIFT;
    return entries > 0 ? (uint64_t)entries : 0;
}

/* --- writing --- */

void cm_table_enter(struct cm_participant *participant, uint64_t hash, struct cm_section *section) {
    uint32_t groups = load_groups(participant->segment), now;
    for (;; groups = now) {
        cm_section_enter(participant, index_in(groups, hash), section);
        /* Loaded again now that no split can touch this group: the swap acquired what the last one left. */
        now = load_groups(participant->segment);
        if (now == groups || index_in(now, hash) == section->line)
            return;
        cm_section_leave(section);
    }
}

bool cm_table_reenter(struct cm_participant *participant, const struct cm_spot *spot,
                      struct cm_section *section, struct cm_place *place) {
    struct cm_record *record = cm_record_at(participant->segment, spot->offset);
    if (!record || !cm_section_retake(participant, spot->line, spot->word, section))
        return false;
    *place = (struct cm_place){.record = record, .offset = spot->offset, .shape = cm_record_shape(record)};
    return true;
}

bool cm_table_try(struct cm_participant *participant, uint64_t hash, struct cm_section *section) {
    for (;;) {
        uint32_t index = index_of(participant->segment, hash);
        if (!cm_section_try(participant, index, section))
            return false;
        if (index_of(participant->segment, hash) == index)
            return true;
        cm_section_leave(section);
    }
}

/* An entry is counted after it is linked or unlinked. From before, the count's lowest bits say which of the
 * two goes on, and the seat names the record, so that the reaper can count what this process has come to:
 * `retiring` when it is unlinked, `retiring_rest` when it is linked. Only this participant writes them.
 * Release: in this order, for whoever looks after the process has ended. */
static void begin_counting(struct cm_participant *participant, int64_t how) {
    struct cm_seat *seat = participant->seat;
    atomic_store_explicit(&seat->entries, load_count(&seat->entries) + how, memory_order_release);
}

/* Of a count with its lowest bits: what it is when that has been done. */
static int64_t counted(int64_t count) {
    int64_t how = count & CM_COUNTS_HOW;
    return count - how +
           (how == CM_COUNTS_LINKING     ? CM_COUNTS_ONE
            : how == CM_COUNTS_UNLINKING ? -CM_COUNTS_ONE
                                         : 0);
}

static void count_entry(struct cm_participant *participant) {
    struct cm_seat *seat = participant->seat;
    atomic_store_explicit(&seat->entries, counted(load_count(&seat->entries)), memory_order_release);
    CM_FAULT("counted");
}

/* Whether the chain leads to the record there. */
static bool leads_to(const struct cm_segment *segment, const _Atomic uint64_t *link, uint64_t offset) {
    for (uint64_t at = load(link); at != offset; at = load(link)) {
        const struct cm_record *record = cm_record_at(segment, at);
        if (!record)
            return false;
        link = &record->next;
    }
    return true;
}

void cm_table_settle_count(const struct cm_segment *segment, uint32_t id, uint32_t line) {
    struct cm_seat *seat = cm_segment_seat(segment, id);
    int64_t count = load_count(&seat->entries), how = count & CM_COUNTS_HOW;
    uint64_t offset = load(how == CM_COUNTS_LINKING ? &seat->retiring_rest : &seat->retiring);
    const struct cm_record *record = how ? cm_record_at(segment, offset) : NULL;
    if (!record || line >= segment->layout.groups_most)
        return;
    bool linked = leads_to(segment, chain_of(&segment->groups[line], load(&record->hash)), offset);
    count = linked == (how == CM_COUNTS_LINKING) ? counted(count) : count - how;
    atomic_store_explicit(&seat->entries, count, memory_order_relaxed);
}

/* `retiring` names a record from before it is unlinked until its bytes have left their chunk's count: if this
 * process dies meanwhile, that chunk is cleaned, and so are those of the fragments from `retiring_rest` on,
 * which have not been given up, so their links still hold. Release: in this order, for whoever looks after
 * the process has ended. */
static void begin_retiring(struct cm_participant *participant, const struct cm_place *place) {
    uint64_t rest = place->shape.kind == CM_KIND_LONG ? load(place->record->payload) : 0;
    atomic_store_explicit(&participant->seat->retiring_rest, rest, memory_order_release);
    atomic_store_explicit(&participant->seat->retiring, place->offset, memory_order_release);
}

static void retire(struct cm_participant *participant, const struct cm_place *place) {
    struct cm_segment *segment = participant->segment;
    struct cm_seat *seat = participant->seat;
    uint64_t rest = place->shape.kind == CM_KIND_LONG ? load(place->record->payload) : 0;
    CM_FAULT("before-retiring");
    cm_chunk_release(segment, place->offset, (uint32_t)cm_shape_bytes(place->shape));
    while (rest) {
        uint64_t offset = rest;
        struct cm_record *fragment = cm_record_at(segment, offset);
        if (!fragment)
            break;
        atomic_store_explicit(&seat->retiring, offset, memory_order_release);
        rest = load(&fragment->next);
        uint32_t len_bytes = (uint32_t)cm_shape_bytes(cm_record_shape(fragment));
        atomic_store_explicit(&seat->retiring_rest, rest, memory_order_release);
        CM_FAULT("retiring-fragment");
        cm_chunk_release(segment, offset, len_bytes);
    }
    CM_FAULT("retired");
    atomic_store_explicit(&seat->retiring, 0, memory_order_release);
}

/* After an expiry has been stored: the sweep may have looked at the record before, and found nothing. And
 * before it, where the record was linked already, in case this process dies in between; a new one's chunk is
 * cleaned then, which notes it. */
static void note_expiry(struct cm_participant *participant, uint64_t offset, uint64_t expires_ms) {
    if (expires_ms)
        cm_chunk_note_expiry(participant->segment, offset, expires_ms);
}

uint64_t cm_table_link(struct cm_participant *participant, struct cm_section *section,
                       const struct cm_place *place, uint64_t offset) {
    struct cm_record *record = cm_record_at(participant->segment, offset);
    if (!(load(&record->hash) & CM_SPACE_CACHE))
        store(&record->version, section->sequence + 2);
    store(&record->next, load(place->record ? &place->record->next : place->link));
    if (place->record) {
        begin_retiring(participant, place);
    } else {
        atomic_store_explicit(&participant->seat->retiring_rest, offset, memory_order_release);
        begin_counting(participant, CM_COUNTS_LINKING);
    }
    CM_FAULT("before-publish");
    /* Release: who follows the link (acquire) sees the record whole. */
    atomic_store_explicit(place->link, offset, memory_order_release);
    CM_FAULT("after-publish");
    note_expiry(participant, offset, load(&record->expires_ms));
    cm_section_publish(participant, section);
    if (place->record) {
        retire(participant, place);
    } else {
        count_entry(participant);
        participant->inserts++;
    }
    cm_section_leave(section);
    /* In proportion to the table: waking the master costs as much as dozens of inserts. */
    if (participant->inserts >= RING_INSERTS &&
        participant->inserts >= load_groups(participant->segment) / 2) {
        participant->inserts = 0;
        cm_participant_ring(participant, CM_RING_MEMORY);
    }
    return section->sequence;
}

static void take_out(struct cm_participant *participant, struct cm_section *section,
                     const struct cm_place *place) {
    begin_retiring(participant, place);
    begin_counting(participant, CM_COUNTS_UNLINKING);
    CM_FAULT("before-unlink");
    atomic_store_explicit(place->link, load(&place->record->next), memory_order_release);
    CM_FAULT("after-unlink");
    cm_section_publish(participant, section);
    count_entry(participant);
    if (participant->inserts)
        participant->inserts--; /* who replaces what it removes makes nothing grow */
}

uint64_t cm_table_unlink(struct cm_participant *participant, struct cm_section *section,
                         const struct cm_place *place) {
    take_out(participant, section, place);
    retire(participant, place);
    cm_section_leave(section);
    return section->sequence;
}

void cm_table_vacate(struct cm_participant *participant, struct cm_section *section,
                     const struct cm_place *place) {
    take_out(participant, section, place);
    cm_section_leave(section);
}

static void put_number(const struct cm_section *section, const struct cm_place *place, uint64_t bits) {
    CM_FAULT("number-shut");
    store(&place->record->version, section->sequence + 2);
    CM_FAULT("number-versioned");
    store(place->record->payload, bits);
    CM_FAULT("number-stored");
}

uint64_t cm_table_store_number(struct cm_participant *participant, struct cm_section *section,
                               const struct cm_place *place, uint64_t bits, uint64_t expires_ms) {
    bool expires_anew = expires_ms != load(&place->record->expires_ms);
    if (expires_anew)
        note_expiry(participant, place->offset, expires_ms);
    cm_section_shut(participant, section);
    put_number(section, place, bits);
    if (expires_anew) {
        store(&place->record->expires_ms, expires_ms);
        note_expiry(participant, place->offset, expires_ms);
    }
    cm_section_finish(section);
    return section->sequence;
}

uint64_t cm_table_change_number(struct cm_section *section, const struct cm_place *place, uint64_t bits) {
    put_number(section, place, bits);
    cm_section_finish(section);
    return section->sequence;
}

void cm_table_store_expiry(struct cm_participant *participant, struct cm_section *section,
                           const struct cm_place *place, uint64_t expires_ms) {
    note_expiry(participant, place->offset, expires_ms);
    CM_FAULT("expiry-noted");
    store(&place->record->expires_ms, expires_ms);
    note_expiry(participant, place->offset, expires_ms);
    cm_section_finish(section);
}

/* --- records that move --- */

_Atomic uint64_t *cm_table_link_to(struct cm_participant *participant, const struct cm_section *section,
                                   uint64_t hash, uint64_t offset) {
    _Atomic uint64_t *link = chain_of(group_in(participant->segment, section), hash);
    while (load(link) && load(link) != offset) {
        struct cm_record *record = cm_record_at(participant->segment, load(link));
        if (!record)
            return NULL;
        link = &record->next;
    }
    return load(link) ? link : NULL;
}

/* Whether the list's entry is reachable, and so all of its fragments. */
static bool is_linked(const struct cm_segment *segment, const struct cm_section *section, uint64_t hash,
                      uint64_t list) {
    struct cm_record *record;
    for (const _Atomic uint64_t *link = chain_of(group_in(segment, section), hash);
         (record = cm_record_at(segment, load(link))); link = &record->next) {
        if (load(&record->hash) != hash || cm_record_shape(record).kind != CM_KIND_LONG)
            continue;
        const struct cm_record *first = cm_record_at(segment, load(record->payload));
        if (first && load(&first->list) == list)
            return true;
    }
    return false;
}

_Atomic uint64_t *cm_table_link_to_fragment(struct cm_participant *participant,
                                            const struct cm_section *section, uint64_t hash,
                                            uint64_t offset) {
    const struct cm_segment *segment = participant->segment;
    const struct cm_record *fragment = cm_record_at(segment, offset);
    if (!fragment || !is_linked(segment, section, hash, load(&fragment->list)))
        return NULL;
    struct cm_record *before = cm_record_at(segment, load(&fragment->before));
    _Atomic uint64_t *link = before ? cm_record_rest(before) : NULL;
    return link && load(link) == offset ? link : NULL;
}

void cm_table_relink(struct cm_participant *participant, struct cm_section *section, _Atomic uint64_t *link,
                     uint64_t from, uint64_t to, uint32_t len_bytes) {
    struct cm_segment *segment = participant->segment;
    struct cm_record *copy = cm_record_at(segment, to);
    enum cm_kind kind = cm_record_shape(copy).kind;
    struct cm_record *rest = kind == CM_KIND_LONG || kind == CM_KIND_FRAGMENT
                                 ? cm_record_at(segment, load(cm_record_rest(copy)))
                                 : NULL;
    if (rest)
        store(&rest->before, to);
    /* As in cm_table_link; the sequence moves on because readers of the old place must notice when it is used
     * anew. */
    atomic_store_explicit(link, to, memory_order_release);
    cm_section_publish(participant, section);
    cm_chunk_release(segment, from, len_bytes);
    cm_section_leave(section);
}
