/* The table against an oracle, and with threads: one splits, others read and write. */
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/error.h"
#include "memory/table.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"

enum { SEATS = 8 };
#define PAGE ((size_t)4096)
static const uint64_t small_bytes = 1 << 20, large_bytes = 16 << 20;

static struct cm_segment segment;
static struct cm_participant master, one, other;

static void open_table(uint64_t bytes) {
    open_segment(&segment, bytes, SEATS);
    cm_participant_init(&master, &segment, CM_MASTER_SEAT);
    join(&one, &segment);
    join(&other, &segment);
}

/* With chunks of 4 KiB: values above 208 bytes are long ones, and chunks come round soon. */
static int open_small(void **state) {
    (void)state;
    open_table(small_bytes);
    return 0;
}

static int open_large(void **state) {
    (void)state;
    open_table(large_bytes);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    part(&one);
    part(&other);
    cm_append_close(&master);
    cm_participant_deinit(&master);
    cm_segment_close(&segment);
    return 0;
}

static int nothing_is_left(void **state) {
    (void)state;
    return alloc_failure_alive() != 0;
}

/* --- operations, as core/data makes them of the table's */

/* Key n: some are the beginning of others, some have zero bytes. */
struct key_room {
    uint8_t bytes[40];
};
static struct cm_key key_of(uint64_t n, struct key_room *room) {
    memset(room->bytes, (int)(n % 5), sizeof room->bytes);
    uint64_t number = n / 5;
    memcpy(room->bytes, &number, 3);
    return cm_table_key(&segment, (struct cm_bytes){room->bytes, 3 + n % 5 * 7 + n % 3});
}

/* What a change leaves; 0 for no memory. */
static uint64_t put(struct cm_participant *participant, struct cm_key key, enum cm_kind kind,
                    struct cm_bytes value, uint64_t bits, uint64_t expires_ms) {
    struct cm_section section;
    struct cm_place place;
    uint64_t offset;
    cm_append_begin(participant);
    if (cm_append_entry(participant, kind, key.hash, key.bytes, value, expires_ms, &offset)) {
        cm_append_rewind(participant);
        return 0;
    }
    cm_table_enter(participant, key.hash, &section);
    cm_table_find(participant, &section, &key, &place);
    if (cm_kind_is_number(kind))
        cm_record_set_number(cm_record_at(participant->segment, offset), kind, bits);
    uint64_t version = cm_table_link(participant, &section, &place, offset);
    cm_append_commit(participant);
    return version;
}

static uint64_t put_bytes(struct cm_participant *participant, struct cm_key key, struct cm_bytes value) {
    return put(participant, key, CM_KIND_BYTES, value, 0, 0);
}

/* In place where it can; 0 for no memory. */
static uint64_t put_number(struct cm_participant *participant, struct cm_key key, uint64_t bits, bool add) {
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, key.hash, &section);
    if (cm_table_find(participant, &section, &key, &place) && place.shape.kind == CM_KIND_INTEGER)
        return cm_table_store_number(participant, &section, &place,
                                     add ? cm_record_number(place.record) + bits : bits,
                                     cm_record_expiry(place.record));
    cm_section_leave(&section);
    if (!add)
        return put(participant, key, CM_KIND_INTEGER, (struct cm_bytes){0}, bits, 0);
    /* Somebody else may have created it meanwhile: then the new entry is taken back. */
    uint64_t offset, version;
    cm_append_begin(participant);
    if (cm_append_entry(participant, CM_KIND_INTEGER, key.hash, key.bytes, (struct cm_bytes){0}, 0,
                        &offset)) {
        cm_append_rewind(participant);
        return 0;
    }
    cm_table_enter(participant, key.hash, &section);
    if (cm_table_find(participant, &section, &key, &place) && place.shape.kind == CM_KIND_INTEGER) {
        version =
            cm_table_store_number(participant, &section, &place, cm_record_number(place.record) + bits, 0);
        cm_append_rewind(participant);
        return version;
    }
    cm_record_set_number(cm_record_at(participant->segment, offset), CM_KIND_INTEGER, bits);
    version = cm_table_link(participant, &section, &place, offset);
    cm_append_commit(participant);
    return version;
}

/* 0: there was none. */
static uint64_t drop(struct cm_participant *participant, struct cm_key key) {
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(participant, key.hash, &section);
    if (cm_table_find(participant, &section, &key, &place))
        return cm_table_unlink(participant, &section, &place);
    cm_section_leave(&section);
    return 0;
}

static uint32_t groups(void) {
    return atomic_load(&segment.header->groups);
}

/* A buffer that no thread needs to grow: what counts allocations is for one thread. */
static struct cm_buf wide_buf(void) {
    struct cm_buf buf = {0};
    assert_int_equal(cm_buf_reserve(&buf, 1 << 17), 0);
    return buf;
}

/* Reads once, so that what a participant keeps for long values is there before the threads are. */
static void warm_up(struct cm_participant *participant, struct cm_key key, struct cm_buf *buf) {
    struct cm_found found;
    assert_int_equal(cm_table_get(participant, &key, buf, &found), 0);
}

/* Counts each listed key's number in `met`; returns how many were listed. */
static size_t note_listed(const struct cm_buf *out, uint8_t *met, size_t most) {
    size_t count = 0;
    for (size_t at = 0; at < out->len; count++) {
        const struct cm_listed *listed = (const struct cm_listed *)(const void *)(out->data + at);
        uint64_t n = 0;
        memcpy(&n, listed->key, 3);
        n = n * 5 + listed->key[3];
        struct key_room room;
        struct cm_key key = key_of(n, &room);
        assert_true(n < most);
        assert_int_equal(key.bytes.len, listed->key_len);
        assert_memory_equal(key.bytes.data, listed->key, key.bytes.len);
        met[n]++;
        at += sizeof *listed + cm_words(listed->key_len);
    }
    return count;
}

/* --- what must hold when nobody is inside */

/* A closed chunk counts what can be reached in it, and an open one no less. */
static void check_live_counts(void) {
    uint64_t *reachable = calloc(segment.layout.chunks, sizeof *reachable);
    assert_non_null(reachable);
    uint64_t entries = 0;
    for (uint32_t g = 0; g < groups(); g++) {
        struct cm_group *group = &segment.groups[g];
        assert_int_equal(cm_word_owner(atomic_load(&group->word)), 0);
        assert_int_equal(cm_word_sequence(atomic_load(&group->word)) & 1, 0);
        for (int c = 0; c < CM_GROUP_CHAINS; c++) {
            for (uint64_t offset = group->chains[c]; offset; entries++) {
                struct cm_record *record = cm_record_at(&segment, offset);
                assert_non_null(record);
                struct cm_shape shape = cm_record_shape(record);
                reachable[cm_segment_chunk_of(&segment, offset)] += cm_shape_bytes(shape);
                assert_true(record->version <= cm_word_sequence(atomic_load(&group->word)));
                uint64_t piece = shape.kind == CM_KIND_LONG ? record->payload[0] : 0;
                while (piece) {
                    struct cm_record *fragment = cm_record_at(&segment, piece);
                    assert_non_null(fragment);
                    reachable[cm_segment_chunk_of(&segment, piece)] +=
                        cm_shape_bytes(cm_record_shape(fragment));
                    piece = fragment->next;
                }
                offset = record->next;
            }
        }
    }
    assert_int_equal(cm_table_entries(&segment), entries);
    for (uint32_t i = 0; i < segment.layout.chunks; i++) {
        struct cm_chunk_word word = chunk_word(&segment, i);
        assert_true(word.live_bytes >= reachable[i]);
        if (word.state == CM_CHUNK_CLOSED)
            assert_int_equal(word.live_bytes, reachable[i]);
    }
    for (uint32_t id = 1; id <= SEATS; id++)
        assert_int_equal(atomic_load(&cm_segment_seat(&segment, id)->retiring), 0);
    free(reachable);
}

/* --- the oracle */

enum { KEYS = 1500 };
struct known {
    enum cm_kind kind; /* CM_KIND_NONE: there is none */
    uint64_t bits;
    uint64_t seed; /* of the value */
    size_t len;
    uint64_t expires_ms;
    uint64_t version;
    uint64_t last_version; /* also of the removal */
};

static void check_known(const struct known *known, uint64_t n, struct cm_buf *buf) {
    static uint8_t expected[1 << 16];
    struct key_room room;
    struct cm_found found;
    int err = cm_table_get(&other, (struct cm_key[]){key_of(n, &room)}, buf, &found);
    assert_int_equal(err, known->kind ? 0 : CM_E_NOTFOUND);
    assert_int_equal(other.tries, 1);
    if (err)
        return;
    assert_int_equal(found.kind, known->kind);
    assert_int_equal(found.version, known->version);
    assert_int_equal(found.expires_ms, known->expires_ms);
    if (known->kind == CM_KIND_BYTES) {
        assert_int_equal(found.value_len, known->len);
        assert_int_equal(buf->len, known->len);
        fill_bytes(expected, known->len, known->seed);
        if (known->len)
            assert_memory_equal(buf->data, expected, known->len);
    } else {
        assert_int_equal(found.number, known->bits);
        assert_int_equal(buf->len, 0);
    }
    struct cm_found without;
    assert_int_equal(cm_table_get(&other, (struct cm_key[]){key_of(n, &room)}, NULL, &without), 0);
    assert_memory_equal(&without, &found, sizeof found);
}

static void changed(struct known *known, uint64_t version) {
    assert_true(version > known->last_version);
    assert_int_equal(version & 1, 0);
    known->version = known->last_version = version;
}

static void change(struct cm_participant *writer, struct known *known, uint64_t n, uint64_t *random) {
    static uint8_t value[1 << 16];
    struct key_room room;
    struct cm_key key = key_of(n, &room);
    struct cm_section section;
    struct cm_place place;
    uint64_t version;
    size_t dice = random_below(random, 100);
    if (dice < 45) {
        size_t most = random_below(random, 10) ? 300 : random_below(random, 5) ? 4000 : 30000;
        size_t len = random_below(random, most);
        uint64_t seed = random_next(random),
                 expires_ms = random_below(random, 3) ? 0 : 1 + random_below(random, 1000);
        fill_bytes(value, len, seed);
        version = put(writer, key, CM_KIND_BYTES, (struct cm_bytes){value, len}, 0, expires_ms);
        if (!version)
            return; /* nothing cleans here */
        *known = (struct known){.kind = CM_KIND_BYTES,
                                .seed = seed,
                                .len = len,
                                .expires_ms = expires_ms,
                                .last_version = known->last_version};
        changed(known, version);
    } else if (dice < 70) {
        bool same = known->kind == CM_KIND_INTEGER;
        uint64_t bits = random_next(random);
        version = put_number(writer, key, bits, false);
        if (!version)
            return;
        known->bits = bits;
        known->kind = CM_KIND_INTEGER;
        known->expires_ms = same ? known->expires_ms : 0;
        changed(known, version);
    } else if (dice < 90) {
        version = drop(writer, key);
        assert_int_equal(version != 0, known->kind != CM_KIND_NONE);
        if (version)
            changed(known, version);
        known->kind = CM_KIND_NONE;
    } else {
        cm_table_enter(writer, key.hash, &section);
        bool there = cm_table_find(writer, &section, &key, &place);
        assert_int_equal(there, known->kind != CM_KIND_NONE);
        if (!there) {
            assert_null(place.record);
            cm_section_leave(&section);
            return;
        }
        known->expires_ms = random_below(random, 2) ? random_below(random, 1000) : 0;
        cm_table_store_expiry(writer, &section, &place, known->expires_ms);
    }
}

static void random_operations_match_an_oracle(void **state) {
    (void)state;
    static struct known known[KEYS];
    memset(known, 0, sizeof known);
    struct cm_buf buf = {0};
    uint64_t random = 1;
    for (int i = 0; i < 30000; i++) {
        uint64_t n = random_below(&random, KEYS);
        change(random_below(&random, 2) ? &one : &master, &known[n], n, &random);
        check_known(&known[n], n, &buf);
        if (random_below(&random, 100) == 0)
            cm_table_grow(&master, 1 + (unsigned)random_below(&random, 4));
        if (i % 3000 == 0) {
            for (n = 0; n < KEYS; n++)
                check_known(&known[n], n, &buf);
            check_live_counts();
        }
    }
    assert_true(groups() > 100);
    uint64_t entries = 0;
    for (uint64_t n = 0; n < KEYS; n++)
        entries += known[n].kind != CM_KIND_NONE;
    assert_int_equal(cm_table_entries(&segment), entries);
    cm_buf_deinit(&buf);
}

/* --- invariant 1 */

static void every_key_is_readable_after_each_split(void **state) {
    (void)state;
    enum { MANY = 1000 };
    struct key_room room;
    for (uint64_t n = 0; n < MANY; n++)
        assert_true(put_number(&one, key_of(n, &room), n * 3, false) != 0);
    uint32_t before = groups();
    while (cm_table_grow(&master, 1)) {
        assert_int_equal(groups(), ++before);
        for (uint64_t n = 0; n < MANY; n++) {
            struct cm_found found;
            assert_int_equal(cm_table_get(&other, (struct cm_key[]){key_of(n, &room)}, NULL, &found), 0);
            assert_int_equal(found.number, n * 3);
        }
    }
    assert_true(cm_table_is_roomy(groups(), MANY));
    assert_false(cm_table_is_roomy(groups() - 1, MANY));
    check_live_counts();
}

/* Keys 0 .. acknowledged - 1 are there, each with its number, or one that has been incremented. */
struct crowd {
    _Atomic uint64_t acknowledged;
    _Atomic uint64_t over;
    _Atomic uint64_t splits;
};
enum { CROWD = 9000, CROWD_FIRST = 1000, SPREAD = 1 << 20 };

struct member {
    struct cm_participant participant;
    struct crowd *crowd;
    struct cm_buf buf;
    uint64_t seed;
    uint64_t most_tries;
};

static const char *read_the_crowd(void *data) {
    struct member *member = data;
    while (!atomic_load_explicit(&member->crowd->over, memory_order_relaxed)) {
        uint64_t known = atomic_load_explicit(&member->crowd->acknowledged, memory_order_acquire);
        struct key_room room;
        struct cm_found found;
        /* The youngest as often as the others. */
        uint64_t n = random_below(&member->seed, 4) ? random_below(&member->seed, known) : known - 1;
        int err =
            cm_table_get(&member->participant, (struct cm_key[]){key_of(n, &room)}, &member->buf, &found);
        if (err)
            return "an acknowledged key was not there";
        if (found.number / SPREAD != n)
            return "a key with another's number";
        if (member->participant.tries > member->most_tries)
            member->most_tries = member->participant.tries;
    }
    return NULL;
}

static const char *join_the_crowd(void *data) {
    struct member *member = data;
    struct crowd *crowd = member->crowd;
    for (uint64_t n = CROWD_FIRST; n < CROWD; n++) {
        struct key_room room;
        if (!put_number(&member->participant, key_of(n, &room), n * SPREAD, false))
            return "no memory";
        atomic_store_explicit(&crowd->acknowledged, n + 1, memory_order_release);
        if (!put_number(&member->participant, key_of(random_below(&member->seed, n), &room), 1, true))
            return "no memory";
        if (n % 128 == 0)
            sched_yield();
    }
    return NULL;
}

static void every_acknowledged_key_is_readable_at_every_step_of_a_split(void **state) {
    (void)state;
    static struct crowd crowd;
    crowd = (struct crowd){.acknowledged = CROWD_FIRST};
    struct key_room room;
    for (uint64_t n = 0; n < CROWD_FIRST; n++)
        assert_true(put_number(&one, key_of(n, &room), n * SPREAD, false) != 0);
    struct member members[3];
    struct running running[3];
    for (uint64_t i = 0; i < 3; i++) {
        members[i] = (struct member){.crowd = &crowd, .seed = i, .buf = wide_buf()};
        join(&members[i].participant, &segment);
    }
    for (int i = 0; i < 3; i++)
        start_thread(&running[i], i ? read_the_crowd : join_the_crowd, &members[i]);
    uint64_t deadline_ms = cm_clock_ms() + DEADLINE_MS;
    while ((atomic_load(&crowd.acknowledged) < CROWD || !cm_table_is_roomy(groups(), CROWD)) &&
           cm_clock_ms() < deadline_ms) {
        if (!cm_table_grow(&master, 1))
            sched_yield();
    }
    atomic_store(&crowd.over, 1);
    for (int i = 0; i < 3; i++) {
        end_thread(&running[i]);
        assert_in_range(members[i].most_tries, 0, 9);
        part(&members[i].participant);
        cm_buf_deinit(&members[i].buf);
    }
    assert_true(cm_table_is_roomy(groups(), CROWD));
    check_live_counts();
}

/* --- growth */

static void a_group_in_use_is_not_split(void **state) {
    (void)state;
    struct key_room room;
    for (uint64_t n = 0; n < 1000; n++)
        put_number(&one, key_of(n, &room), n, false);
    struct cm_section section;
    uint32_t before = groups();
    cm_section_enter(&one, 0, &section);
    assert_false(cm_table_grow(&master, 10));
    assert_int_equal(groups(), before);
    cm_section_leave(&section);
    assert_true(cm_table_grow(&master, 10));
    assert_int_equal(groups(), before + 10);
}

static void a_child_begins_with_its_parents_sequence(void **state) {
    (void)state;
    struct key_room room;
    for (uint64_t n = 0; n < 1000; n++)
        put_number(&one, key_of(n, &room), n, false);
    for (int i = 0; i < 50; i++) {
        uint32_t child = groups();
        uint32_t parent = child & (UINT32_MAX >> (__builtin_clz(child) + 1));
        uint64_t before = cm_word_sequence(segment.groups[parent].word);
        assert_true(cm_table_grow(&master, 1));
        assert_true(cm_word_sequence(segment.groups[parent].word) > before);
        assert_int_equal(segment.groups[child].word, segment.groups[parent].word);
        assert_int_equal(cm_word_owner(segment.groups[child].word), 0);
    }
}

static void the_table_grows_as_far_as_there_are_pages_and_groups(void **state) {
    (void)state;
    struct key_room room;
    enum { MANY = 9000 };
    for (uint64_t n = 0; n < MANY; n++)
        assert_true(put_number(&one, key_of(n, &room), n, false) != 0);
    int fd = segment.fd;
    segment.fd = -1;
    assert_false(cm_table_grow(&master, UINT32_MAX));
    assert_int_equal(groups(), segment.layout.groups_most < CM_GROUPS_BACKED ? segment.layout.groups_most
                                                                             : CM_GROUPS_BACKED);
    segment.fd = fd;
    assert_false(cm_table_grow(&master, UINT32_MAX));
    assert_true(groups() == segment.layout.groups_most || cm_table_is_roomy(groups(), MANY));
    for (uint64_t n = 0; n < MANY; n++) {
        struct cm_found found;
        assert_int_equal(cm_table_get(&other, (struct cm_key[]){key_of(n, &room)}, NULL, &found), 0);
        assert_int_equal(found.number, n);
    }
    check_live_counts();
}

static void the_master_is_rung_for_when_entries_come(void **state) {
    (void)state;
    struct key_room room;
    for (uint32_t n = 0; n < 10; n++)
        put_number(&one, key_of(n, &room), n, false);
    one.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_store(&segment.header->rung, 0);
    uint64_t n = 10;
    for (; !atomic_load(&segment.header->rung) && n < 2000; n++)
        put_number(&one, key_of(n, &room), n, false);
    assert_in_range(n, 11, 1000);
    close(one.bell);
    one.bell = -1;
}

/* --- invariant 2, as far as nobody dies */

struct counter_thread {
    struct cm_participant participant;
    uint64_t seed;
    uint64_t counts[50];
};

static const char *increment_counters(void *data) {
    struct counter_thread *thread = data;
    for (int i = 0; i < 15000; i++) {
        struct key_room room;
        uint64_t n = random_below(&thread->seed, 50), by = 1 + random_below(&thread->seed, 9);
        if (!put_number(&thread->participant, key_of(n, &room), by, true))
            return "no memory";
        thread->counts[n] += by;
    }
    return NULL;
}

static void a_counter_equals_its_increments_while_the_table_grows(void **state) {
    (void)state;
    static struct counter_thread threads[3];
    struct running running[3];
    struct key_room room;
    for (uint64_t i = 0; i < 3; i++) {
        threads[i] = (struct counter_thread){.seed = i};
        join(&threads[i].participant, &segment);
    }
    for (int i = 0; i < 3; i++)
        start_thread(&running[i], increment_counters, &threads[i]);
    for (uint64_t n = 1000; n < 5000; n++) {
        assert_true(put_number(&master, key_of(n, &room), n, false) != 0);
        cm_table_grow(&master, 1);
    }
    for (int i = 0; i < 3; i++) {
        end_thread(&running[i]);
        part(&threads[i].participant);
    }
    for (uint64_t n = 0; n < 50; n++) {
        struct cm_found found;
        assert_int_equal(cm_table_get(&other, (struct cm_key[]){key_of(n, &room)}, NULL, &found), 0);
        assert_int_equal(found.number, threads[0].counts[n] + threads[1].counts[n] + threads[2].counts[n]);
    }
    check_live_counts();
}

/* --- invariant 7 */

static void a_keys_versions_grow_across_all_that_happens_to_it(void **state) {
    (void)state;
    struct key_room room, fill_room;
    uint64_t random = 2, fill = 10000;
    uint64_t last[20] = {0};
    for (int i = 0; i < 8000; i++) {
        uint64_t n = random_below(&random, 20), version;
        struct cm_key key = key_of(n, &room);
        switch (random_below(&random, 4)) {
        case 0:
            version = put_number(&one, key, 1, true);
            break;
        case 1:
            version = put_bytes(&other, key, cm_bytes_of("bytes"));
            break;
        case 2:
            version = drop(&one, key);
            if (!version)
                continue;
            break;
        default:
            put_number(&one, key_of(fill++, &fill_room), 0, false);
            cm_table_grow(&master, 1);
            struct cm_found found;
            if (cm_table_get(&other, &key, NULL, &found) == 0)
                assert_int_equal(found.version, last[n]); /* a split takes none */
            continue;
        }
        assert_true(version > last[n]);
        last[n] = version;
    }
    assert_true(groups() > 200);
}

/* Writers that share keys: each sees its own versions grow, and a reader sees them all grow. */
struct version_thread {
    struct cm_participant participant;
    struct cm_buf buf;
    uint64_t seed;
    bool reads;
    _Atomic uint64_t *over;
};

static const char *watch_versions(void *data) {
    struct version_thread *thread = data;
    uint64_t last[8] = {0};
    for (int i = 0; thread->reads ? !atomic_load(thread->over) : i < 8000; i++) {
        struct key_room room;
        uint64_t n = random_below(&thread->seed, 8), version = 0;
        struct cm_key key = key_of(n, &room);
        if (thread->reads) {
            struct cm_found found;
            if (cm_table_get(&thread->participant, &key, &thread->buf, &found) == 0) {
                if (found.version < last[n])
                    return "a reader saw a version fall";
                last[n] = found.version;
            }
            continue;
        }
        switch (random_below(&thread->seed, 3)) {
        case 0:
            version = put_number(&thread->participant, key, 1, true);
            break;
        case 1:
            version = put_bytes(&thread->participant, key, cm_bytes_of("bytes"));
            break;
        default:
            version = drop(&thread->participant, key);
            break;
        }
        if (version && version <= last[n])
            return "a version did not grow";
        if (version)
            last[n] = version;
    }
    return NULL;
}

static void versions_grow_for_writers_and_readers_at_once(void **state) {
    (void)state;
    struct version_thread threads[3];
    struct running running[3];
    _Atomic uint64_t over = 0;
    for (uint64_t i = 0; i < 3; i++) {
        threads[i] = (struct version_thread){.seed = i, .reads = i == 2, .over = &over, .buf = wide_buf()};
        join(&threads[i].participant, &segment);
    }
    for (int i = 0; i < 3; i++)
        start_thread(&running[i], watch_versions, &threads[i]);
    struct key_room room;
    for (uint64_t n = 1000; n < 3000; n++) {
        put_number(&master, key_of(n, &room), n, false);
        cm_table_grow(&master, 1);
    }
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            atomic_store(&over, 1);
        end_thread(&running[i]);
        part(&threads[i].participant);
        cm_buf_deinit(&threads[i].buf);
    }
    check_live_counts();
}

/* --- invariant 8 */

/* Numbers that follow their versions, in groups where nothing else changes. */
enum { HOT = 4, HOT_SETS = 100000, HOT_READS = 100 };
struct hot {
    struct cm_participant participant;
    uint64_t first;
    _Atomic uint64_t *over;
    struct cm_buf buf;
    uint64_t most_tries, reads;
};

static const char *write_hot(void *data) {
    struct hot *hot = data;
    struct key_room room;
    struct cm_key key = key_of(hot->first, &room);
    for (uint64_t i = 0; i < HOT_SETS; i++) {
        struct cm_section section;
        struct cm_place place;
        cm_table_enter(&hot->participant, key.hash, &section);
        if (!cm_table_find(&hot->participant, &section, &key, &place))
            return "a hot key is gone";
        uint64_t next = section.sequence + 2;
        if (cm_table_store_number(&hot->participant, &section, &place, next * 3, next * 5) != next)
            return "not the version that it must have";
    }
    return NULL;
}

static const char *read_hot(void *data) {
    struct hot *hot = data;
    struct key_room room;
    struct cm_key key = key_of(hot->first, &room);
    for (; hot->reads < HOT_READS || !atomic_load_explicit(hot->over, memory_order_relaxed); hot->reads++) {
        struct cm_found found;
        if (cm_table_get(&hot->participant, &key, &hot->buf, &found))
            return "a hot key is gone";
        if (found.version != 2 &&
            (found.number != found.version * 3 || found.expires_ms != found.version * 5))
            return "number, version and expiry of different moments";
        if (hot->participant.tries > hot->most_tries)
            hot->most_tries = hot->participant.tries;
    }
    return NULL;
}

static void a_reader_finishes_in_nine_tries_beside_hot_writers(void **state) {
    (void)state;
    struct hot hots[HOT];
    struct running running[HOT];
    _Atomic uint64_t over = 0;
    struct key_room room;
    assert_int_equal(put_number(&one, key_of(5, &room), 0, false), 2);
    for (uint64_t i = 0; i < HOT; i++) {
        hots[i] = (struct hot){.first = 5, .over = &over, .buf = wide_buf()};
        join(&hots[i].participant, &segment);
    }
    for (int i = HOT - 1; i >= 0; i--)
        start_thread(&running[i], i < 2 ? write_hot : read_hot, &hots[i]);
    for (int i = 0; i < HOT; i++) {
        if (i == 2)
            atomic_store(&over, 1);
        end_thread(&running[i]);
        assert_in_range(hots[i].most_tries, 0, 9);
        part(&hots[i].participant);
        cm_buf_deinit(&hots[i].buf);
    }
}

struct waiter {
    struct cm_participant participant;
    struct cm_key key;
    struct cm_found found;
    int err;
};

static const char *get_and_wait(void *data) {
    struct waiter *waiter = data;
    waiter->err = cm_table_get(&waiter->participant, &waiter->key, NULL, &waiter->found);
    return NULL;
}

/* Who is in the midst of a change delays a reader by so much, and who only owns the group not at all. */
static void a_reader_waits_for_a_shut_group_and_not_for_an_owned_one(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(5, &room);
    put_number(&one, key, 7, false);
    struct cm_section section;
    struct cm_found found;
    cm_table_enter(&one, key.hash, &section);
    assert_int_equal(cm_table_get(&other, &key, NULL, &found), 0);
    assert_int_equal(other.tries, 1);
    cm_section_shut(&one, &section);
    static struct waiter waiter;
    waiter = (struct waiter){.key = key};
    join(&waiter.participant, &segment);
    struct running running;
    start_thread(&running, get_and_wait, &waiter);
    assert_true(waits_for_line(waiter.participant.seat, section.line));
    cm_section_publish(&one, &section);
    cm_section_leave(&section);
    end_thread(&running);
    assert_int_equal(waiter.err, 0);
    assert_int_equal(waiter.found.number, 7);
    assert_int_equal(waiter.participant.tries, 9);
    part(&waiter.participant);
}

/* --- values that are replaced while they are read */

/* The first 8 bytes say what the others are, and how many. */
static size_t self_describing(uint8_t *bytes, uint64_t seed, size_t least, size_t most) {
    size_t len = least + seed % (most - least);
    fill_bytes(bytes + 8, len - 8, seed);
    memcpy(bytes, &seed, 8);
    return len;
}

struct replacing {
    struct cm_participant participant;
    struct cm_buf buf;
    uint64_t seed;
    size_t least, most;
    bool writes;
    _Atomic uint64_t *over;
    uint64_t done;
};
enum { REPLACED = 3, REPLACEMENTS = 8000, LEAST_READS = 100, LONGEST = 10000 };

static const char *replace_or_read(void *data) {
    struct replacing *thread = data;
    static _Thread_local uint8_t bytes[LONGEST];
    for (uint64_t i = 0; thread->writes ? i < REPLACEMENTS : i < LEAST_READS || !atomic_load(thread->over);
         i++) {
        struct key_room room;
        struct cm_key key = key_of(random_below(&thread->seed, REPLACED), &room);
        if (thread->writes) {
            size_t len = self_describing(bytes, random_next(&thread->seed), thread->least, thread->most);
            thread->done += put_bytes(&thread->participant, key, (struct cm_bytes){bytes, len}) != 0;
            continue;
        }
        struct cm_found found;
        if (cm_table_get(&thread->participant, &key, &thread->buf, &found))
            return "a key is gone";
        uint64_t seed;
        memcpy(&seed, thread->buf.data, 8);
        size_t len = self_describing(bytes, seed, thread->least, thread->most);
        if (found.value_len != len || thread->buf.len != len || memcmp(bytes, thread->buf.data, len) != 0)
            return "a value of two";
        thread->done++;
    }
    return NULL;
}

static void read_what_is_replaced(size_t least, size_t most) {
    struct replacing threads[4];
    struct running running[4];
    _Atomic uint64_t over = 0;
    static uint8_t bytes[LONGEST];
    struct key_room room;
    for (uint64_t n = 0; n < REPLACED; n++) {
        size_t len = self_describing(bytes, n, least, most);
        assert_true(put_bytes(&one, key_of(n, &room), (struct cm_bytes){bytes, len}) != 0);
    }
    cm_append_close(&one);
    for (uint64_t i = 0; i < 4; i++) {
        threads[i] = (struct replacing){
            .seed = i, .least = least, .most = most, .writes = i < 2, .over = &over, .buf = wide_buf()};
        join(&threads[i].participant, &segment);
        /* The lists of held chunks and of pieces grow here, for the longest value: what counts allocations is
         * for one thread. */
        if (threads[i].writes)
            assert_true(put_bytes(&threads[i].participant, key_of(0, &room),
                                  (struct cm_bytes){
                                      bytes, self_describing(bytes, most - 1 - least, least, most)}) != 0);
        warm_up(&threads[i].participant, key_of(0, &room), &threads[i].buf);
    }
    for (int i = 0; i < 4; i++)
        start_thread(&running[i], replace_or_read, &threads[i]);
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            atomic_store(&over, 1);
        end_thread(&running[i]);
        assert_true(threads[i].done >= (threads[i].writes ? REPLACEMENTS / 2 : LEAST_READS));
        part(&threads[i].participant);
        cm_buf_deinit(&threads[i].buf);
    }
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        assert_false(cm_hazard_any(&segment, i));
    check_live_counts();
}

static void a_short_value_is_whole_though_it_is_replaced(void **state) {
    (void)state;
    read_what_is_replaced(16, 200);
}

static void a_value_in_fragments_is_whole_though_it_is_replaced(void **state) {
    (void)state;
    read_what_is_replaced(300, 4000);
}

static void a_long_value_is_whole_though_it_is_replaced(void **state) {
    (void)state;
    read_what_is_replaced(5000, LONGEST);
}

/* --- the same at chosen moments: a page that cannot be touched stops whoever comes to it, and what happens
 * meanwhile happens in the handler --- */

static struct trap {
    uint8_t *page;
    void (*then)(void *data);
    void *data;
    unsigned hits;
} trap;

static void on_trap(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    const uint8_t *at = info->si_addr;
    if (at < trap.page || at >= trap.page + PAGE) {
        signal(signal_number, SIG_DFL);
        return;
    }
    mprotect(trap.page, PAGE, PROT_READ | PROT_WRITE);
    trap.hits++;
    trap.then(trap.data);
}

/* With PROT_READ for who stores there, with PROT_NONE for whoever comes. */
static void set_trap(void *at, int protection, void (*then)(void *data), void *data) {
    trap = (struct trap){.page = (uint8_t *)at - (uintptr_t)at % PAGE, .then = then, .data = data};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
    assert_int_equal(sigaction(SIGSEGV, &action, NULL), 0);
    assert_int_equal(mprotect(trap.page, PAGE, protection), 0);
}

static void untrap(void) {
    signal(SIGSEGV, SIG_DFL);
    mprotect(trap.page, PAGE, PROT_READ | PROT_WRITE);
    assert_int_equal(trap.hits, 1);
}

/* A buffer of which the page that begins with byte `at` is a trap. */
enum { TRAP_PAGES = 8 };
static struct cm_buf trapped_buf(size_t at, void (*then)(void *data), void *data) {
    uint8_t *pages =
        mmap(NULL, TRAP_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pages, MAP_FAILED);
    uint8_t *page = pages + at / PAGE * PAGE + PAGE;
    set_trap(page, PROT_NONE, then, data);
    return (struct cm_buf){.data = page - at, .cap = (size_t)(pages + TRAP_PAGES * PAGE - (page - at))};
}

static void untrap_buf(const struct cm_buf *buf) {
    untrap();
    uint8_t *end = buf->data + buf->cap;
    munmap(end - TRAP_PAGES * PAGE, TRAP_PAGES * PAGE);
}

/* A participant that sees the segment through a mapping of its own, where pages can be made traps. */
struct viewer {
    struct cm_segment segment;
    struct cm_participant participant;
};

static void open_viewer(struct viewer *viewer) {
    assert_int_equal(cm_segment_attach(dup(segment.fd), false, &viewer->segment), 0);
    join(&viewer->participant, &viewer->segment);
}

static void close_viewer(struct viewer *viewer) {
    part(&viewer->participant);
    cm_segment_close(&viewer->segment);
}

/* Replaces the value so often that every chunk has come round that may. */
struct replacement {
    struct cm_key key;
    size_t len;
    uint64_t seed;
};

static void replace_again_and_again(void *data) {
    struct replacement *replacement = data;
    static uint8_t bytes[32768];
    for (int i = 0; i < 300; i++) {
        fill_bytes(bytes, replacement->len, ++replacement->seed);
        put_bytes(&one, replacement->key, (struct cm_bytes){bytes, replacement->len});
    }
}

static void check_bytes(const struct cm_buf *buf, size_t len, uint64_t seed) {
    static uint8_t expected[32768];
    fill_bytes(expected, len, seed);
    assert_int_equal(buf->len, len);
    assert_memory_equal(buf->data, expected, len);
}

static uint64_t put_filled(struct cm_participant *participant, struct cm_key key, size_t len, uint64_t seed) {
    static uint8_t bytes[32768];
    fill_bytes(bytes, len, seed);
    return put_bytes(participant, key, (struct cm_bytes){bytes, len});
}

static void what_changed_while_it_was_copied_is_read_again(void **state) {
    (void)state;
    struct key_room room;
    const size_t lens[] = {40, 200, 3000}; /* in one piece, and in fragments */
    for (size_t i = 0; i < 3; i++) {
        struct replacement replacement = {key_of(i, &room), lens[i], 1000};
        put_filled(&one, replacement.key, lens[i], 1);
        struct cm_buf buf = trapped_buf(lens[i] / 2, replace_again_and_again, &replacement);
        struct cm_found found;
        assert_int_equal(cm_table_get(&other, &replacement.key, &buf, &found), 0);
        assert_int_equal(other.tries, 2);
        check_bytes(&buf, lens[i], replacement.seed);
        assert_int_equal(found.value_len, lens[i]);
        untrap_buf(&buf);
    }
}

static void drop_it(void *data) {
    drop(&one, *(struct cm_key *)data);
}

static void make_it_a_number(void *data) {
    put_number(&one, *(struct cm_key *)data, 5, false);
}

/* What was copied of it counts for nothing. */
static void what_is_gone_when_it_is_read_again_leaves_no_bytes(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    for (int number = 0; number <= 1; number++) {
        put_filled(&one, key, 3000, 1);
        struct cm_buf buf = trapped_buf(1500, number ? make_it_a_number : drop_it, &key);
        struct cm_found found;
        assert_int_equal(cm_table_get(&other, &key, &buf, &found), number ? 0 : CM_E_NOTFOUND);
        assert_int_equal(buf.len, 0);
        untrap_buf(&buf);
    }
}

static void a_long_value_is_copied_as_it_was_while_chunks_come_round(void **state) {
    (void)state;
    struct key_room room;
    struct replacement replacement = {key_of(1, &room), 12000, 1000};
    uint64_t version = put_filled(&one, replacement.key, 12000, 1);
    struct cm_buf buf = trapped_buf(5000, replace_again_and_again, &replacement);
    struct cm_found found;
    assert_int_equal(cm_table_get(&other, &replacement.key, &buf, &found), 0);
    assert_int_equal(other.tries, 1);
    assert_int_equal(found.version, version);
    check_bytes(&buf, 12000, 1);
    untrap_buf(&buf);
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        assert_false(cm_hazard_any(&segment, i));
    assert_int_equal(cm_table_get(&other, &replacement.key, NULL, &found), 0);
    assert_true(found.version >= version + UINT64_C(2) * 300);
    check_live_counts();
}

/* As above, by a reader that had to take the group: its chain is longer than readers follow. */
static void nor_does_it_change_for_who_read_it_as_the_owner(void **state) {
    (void)state;
    struct key_room room;
    struct replacement replacement = {key_of(1, &room), 12000, 1000};
    uint64_t version = put_filled(&one, replacement.key, 12000, 1);
    for (uint64_t n = 0; n < 300; n++) {
        struct key_room other_room;
        struct cm_key key = key_of(100 + n, &other_room);
        key.hash = replacement.key.hash;
        assert_true(put_number(&one, key, n, false) != 0);
    }
    struct cm_buf buf = trapped_buf(5000, replace_again_and_again, &replacement);
    struct cm_found found;
    assert_int_equal(cm_table_get(&other, &replacement.key, &buf, &found), 0);
    assert_int_equal(other.tries, 9);
    assert_int_equal(found.version, version);
    check_bytes(&buf, 12000, 1);
    untrap_buf(&buf);
}

/* A search for a part during which the value is replaced, the first time or the first two times; with a look
 * at the bytes on the way to it. */
struct part_search {
    struct replacement replacement;
    unsigned replaced, calls;
    uint8_t first[8], looked[100];
    struct cm_found found;
    struct cm_bytes part;
};
enum { PART_LOOKED_AT = 8003, PART_AT = 9005, PART_LEN = 2000, PART_OF = 12000 };

static int find_part(void *data, struct cm_stream *value, uint64_t *at, uint64_t *len) {
    struct part_search *search = data;
    int err = cm_stream_look(value, sizeof search->first);
    if (err)
        return err;
    memcpy(search->first, value->ready.data, sizeof search->first);
    if (search->calls++ < search->replaced)
        replace_again_and_again(&search->replacement);
    err = cm_stream_skip(value, PART_LOOKED_AT);
    if (!err)
        err = cm_stream_look(value, sizeof search->looked);
    if (err)
        return err;
    memcpy(search->looked, value->ready.data, sizeof search->looked);
    *at = PART_AT;
    *len = PART_LEN;
    return cm_stream_skip(value, PART_AT + PART_LEN - PART_LOOKED_AT);
}

/* All that the search has met is of that one value. */
static void finds_part_of(struct part_search *search, uint64_t seed) {
    static uint8_t expected[PART_OF];
    struct cm_buf buf = {0};
    fill_bytes(expected, PART_OF, seed);
    int err = cm_table_get_part(&other, &search->replacement.key, find_part, search, &buf, &search->part,
                                &search->found);
    assert_int_equal(err, 0);
    assert_memory_equal(search->first, expected, sizeof search->first);
    assert_memory_equal(search->looked, expected + PART_LOOKED_AT, sizeof search->looked);
    assert_int_equal(search->part.len, PART_LEN);
    assert_memory_equal(search->part.data, expected + PART_AT, PART_LEN);
    assert_int_equal(search->found.value_len, PART_OF);
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        assert_false(cm_hazard_any(&segment, i));
    cm_buf_deinit(&buf);
}

/* The first try names pieces on the way and finds that they have been replaced; the second one has named all
 * of them before. */
static void a_part_is_of_one_value_though_it_is_replaced_while_it_is_looked_for(void **state) {
    (void)state;
    struct key_room room;
    for (unsigned replaced = 0; replaced <= 2; replaced++) {
        struct part_search search = {.replacement = {key_of(1, &room), PART_OF, 1000}, .replaced = replaced};
        put_filled(&one, search.replacement.key, PART_OF, 1);
        finds_part_of(&search, replaced ? 1300 : 1);
        assert_int_equal(other.tries, replaced ? 2 : 1);
        assert_int_equal(search.calls, other.tries);
    }
}

static void nor_does_a_part_change_for_who_read_it_as_the_owner(void **state) {
    (void)state;
    struct key_room room;
    struct part_search search = {.replacement = {key_of(1, &room), PART_OF, 1000}, .replaced = 1};
    uint64_t version = put_filled(&one, search.replacement.key, PART_OF, 1);
    for (uint64_t n = 0; n < 300; n++) {
        struct key_room other_room;
        struct cm_key key = key_of(100 + n, &other_room);
        key.hash = search.replacement.key.hash;
        assert_true(put_number(&one, key, n, false) != 0);
    }
    finds_part_of(&search, 1);
    assert_int_equal(other.tries, 9);
    assert_int_equal(search.calls, 1);
    assert_int_equal(search.found.version, version);
}

/* Moves every record of the chunk as the cleaner does. */
static void move_chunk(struct cm_participant *mover, uint32_t chunk) {
    uint64_t start = cm_segment_chunk_at(&segment, chunk), used = segment.chunks[chunk].used;
    cm_append_begin(mover);
    for (uint64_t at = 0, len; at < used; at += len) {
        struct cm_record *record = cm_record_at(&segment, start + at);
        len = cm_shape_bytes(cm_record_shape(record));
        uint64_t to;
        struct cm_section section;
        if (cm_append_room(mover, len, &to))
            return;
        cm_table_enter(mover, record->hash, &section);
        bool is_fragment = cm_record_shape(record).kind == CM_KIND_FRAGMENT;
        _Atomic uint64_t *link = is_fragment
                                     ? cm_table_link_to_fragment(mover, &section, record->hash, start + at)
                                     : cm_table_link_to(mover, &section, record->hash, start + at);
        if (!link) {
            cm_section_leave(&section);
            continue;
        }
        cm_record_copy(cm_record_at(&segment, to), record, len);
        cm_append_written(mover, len);
        cm_table_relink(mover, &section, link, start + at, to, (uint32_t)len);
    }
    cm_append_commit(mover);
}

struct moving {
    struct replacement replacement;
    struct cm_key junk;
    uint32_t chunk;
};

/* The cleaner empties the chunk of the value's end; then the value is replaced, and what the cleaner has
 * written is used anew, by fragments in the same places. */
static void move_replace_and_reuse(void *data) {
    struct moving *moving = data;
    move_chunk(&master, moving->chunk);
    cm_append_close(&master);
    put_filled(&one, moving->replacement.key, 10, 1000);
    for (uint64_t i = 0; i < 3; i++)
        put_filled(&one, moving->junk, 30000, 2000 + i);
}

static void a_long_value_is_whole_though_its_fragments_move_while_it_is_copied(void **state) {
    (void)state;
    struct key_room room, junk_room;
    struct moving moving = {.replacement = {key_of(1, &room), 12000, 1}, .junk = key_of(2, &junk_room)};
    put_filled(&one, moving.replacement.key, 12000, 1);
    /* The last chunk but one of the value: it is full, and was closed with the commit. */
    moving.chunk = one.appender.chunk - 1;
    assert_int_equal(chunk_word(&segment, moving.chunk).state, CM_CHUNK_CLOSED);
    cm_append_close(&one);
    struct cm_buf buf = trapped_buf(100, move_replace_and_reuse, &moving);
    struct cm_found found;
    int err = cm_table_get(&other, &moving.replacement.key, &buf, &found);
    assert_int_equal(err, 0);
    if (found.value_len == 10)
        check_bytes(&buf, 10, 1000);
    else
        check_bytes(&buf, 12000, 1);
    untrap_buf(&buf);
}

/* The cleaner moves it, and where it was is used anew. */
static void move_and_reuse(void *data) {
    struct moving *moving = data;
    for (uint32_t i = 0; i < segment.layout.chunks; i++) {
        struct cm_chunk_word word = chunk_word(&segment, i);
        if (word.state == CM_CHUNK_CLOSED && word.live_bytes)
            move_chunk(&master, i);
    }
    for (uint64_t i = 0; i < 300; i++)
        put_filled(&one, moving->junk, 3000, 2000 + i);
}

static void a_value_is_whole_though_it_moves_while_it_is_copied(void **state) {
    (void)state;
    struct key_room room, junk_room;
    struct moving moving = {.junk = key_of(2, &junk_room)};
    /* Both hold chunks before, so that they need no memory in the handler. */
    put_filled(&one, moving.junk, 9000, 1);
    put_filled(&master, moving.junk, 9000, 1);
    cm_append_close(&master);
    const size_t lens[] = {40, 200, 3000};
    for (size_t i = 0; i < 3; i++) {
        struct cm_key key = key_of(10 + i, &room);
        uint64_t version = put_filled(&one, key, lens[i], 1);
        cm_append_close(&one);
        struct cm_buf buf = trapped_buf(lens[i] / 2, move_and_reuse, &moving);
        struct cm_found found;
        assert_int_equal(cm_table_get(&other, &key, &buf, &found), 0);
        assert_int_equal(other.tries, 2);
        assert_int_equal(found.version, version);
        check_bytes(&buf, lens[i], 1);
        untrap_buf(&buf);
        cm_append_close(&master);
    }
}

/* Between the look at the entry and the hazards: the end of the list is another value's by then. */
static void a_long_value_replaced_before_its_chunks_are_named_is_read_again(void **state) {
    (void)state;
    static struct viewer viewer;
    struct key_room room;
    struct replacement replacement = {key_of(1, &room), 12000, 1000};
    put_filled(&one, replacement.key, 12000, 1);
    open_viewer(&viewer);
    set_trap(viewer.segment.base + cm_segment_chunk_at(&segment, one.appender.chunk), PROT_NONE,
             replace_again_and_again, &replacement);
    struct cm_buf buf = {0};
    struct cm_found found;
    assert_int_equal(cm_table_get(&viewer.participant, &replacement.key, &buf, &found), 0);
    untrap();
    assert_in_range(viewer.participant.tries, 2, 9);
    check_bytes(&buf, 12000, replacement.seed);
    cm_buf_deinit(&buf);
    close_viewer(&viewer);
}

static void grow_to_the_end(void *data) {
    (void)data;
    cm_table_grow(&master, UINT32_MAX);
}

/* A key that moves when its group is split, among others. */
static struct cm_key moving_key(struct key_room *room) {
    for (uint64_t n = 0; n < 1000; n++)
        assert_true(put_number(&one, key_of(n, room), n, false) != 0);
    uint64_t n = 0;
    while ((key_of(n, room).hash & groups()) == 0)
        n++;
    assert_true(put_number(&one, key_of(n, room), 500, false) != 0);
    return key_of(n, room);
}

static void a_split_between_choosing_the_group_and_reading_it_hides_no_key(void **state) {
    (void)state;
    static struct viewer viewer;
    struct key_room room;
    struct cm_key key = moving_key(&room);
    open_viewer(&viewer);
    set_trap(viewer.segment.groups, PROT_NONE, grow_to_the_end, NULL);
    struct cm_found found;
    assert_int_equal(cm_table_get(&viewer.participant, &key, NULL, &found), 0);
    untrap();
    assert_int_equal(found.number, 500);
    assert_int_equal(viewer.participant.tries, 2);
    assert_true(groups() > 128);
    close_viewer(&viewer);
}

static void a_split_between_choosing_the_group_and_entering_it_misleads_no_writer(void **state) {
    (void)state;
    for (int tries = 0; tries <= 1; tries++) {
        static struct viewer viewer;
        struct key_room room;
        struct cm_key key = moving_key(&room);
        open_viewer(&viewer);
        uint32_t before = groups();
        set_trap(viewer.segment.groups, PROT_NONE, grow_to_the_end, NULL);
        struct cm_section section;
        struct cm_place place;
        if (tries)
            assert_true(cm_table_try(&viewer.participant, key.hash, &section));
        else
            cm_table_enter(&viewer.participant, key.hash, &section);
        untrap();
        assert_true(groups() > before);
        assert_true(cm_table_find(&viewer.participant, &section, &key, &place));
        cm_section_leave(&section);
        close_viewer(&viewer);
        check_live_counts();
        close_one(NULL);
        open_large(NULL);
    }
}

static void a_split_between_choosing_the_group_and_listing_it_hides_no_key(void **state) {
    (void)state;
    static struct viewer viewer;
    struct key_room room;
    moving_key(&room);
    open_viewer(&viewer);
    set_trap(viewer.segment.groups, PROT_NONE, grow_to_the_end, NULL);
    static uint8_t met[1000];
    struct cm_buf out = {0};
    uint64_t cursor = 0;
    do
        assert_int_equal(
            cm_table_walk(&viewer.participant, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor, &out), 0);
    while (cursor);
    untrap();
    memset(met, 0, sizeof met);
    assert_int_equal(note_listed(&out, met, 1000), 1000);
    for (size_t n = 0; n < 1000; n++)
        assert_int_equal(met[n], 1);
    cm_buf_deinit(&out);
    close_viewer(&viewer);
}

/* What readers see of two groups while something is under way in a third mapping. */
struct glance {
    uint32_t groups[2];
    uint64_t words[2];
    uint32_t count;
};

static void glance_at_groups(void *data) {
    struct glance *glance = data;
    for (int i = 0; i < 2; i++)
        glance->words[i] = segment.groups[glance->groups[i]].word;
    glance->count = groups();
}

static void parent_and_child_are_shut_while_entries_are_dealt_out(void **state) {
    (void)state;
    static struct viewer viewer;
    struct key_room room;
    moving_key(&room);
    assert_int_equal(cm_segment_attach(dup(segment.fd), false, &viewer.segment), 0);
    cm_participant_init(&viewer.participant, &viewer.segment, CM_MASTER_SEAT);
    struct glance glance = {.groups = {0, groups()}};
    /* The records lie in the first chunks; the first one touched stops the split in its midst. */
    uint64_t first = 0;
    for (int c = 0; c < CM_GROUP_CHAINS && !first; c++)
        first = segment.groups[0].chains[c];
    set_trap(viewer.segment.base + first, PROT_NONE, glance_at_groups, &glance);
    assert_true(cm_table_grow(&viewer.participant, 1));
    untrap();
    for (int i = 0; i < 2; i++) {
        assert_true(cm_word_sequence(glance.words[i]) & 1);
        assert_int_equal(cm_word_owner(glance.words[i]), CM_MASTER_SEAT);
    }
    assert_int_equal(glance.count, glance.groups[1]); /* the number tells of the child when it is there */
    cm_segment_close(&viewer.segment);
}

static void a_number_changes_while_its_group_is_shut(void **state) {
    (void)state;
    static struct viewer viewer;
    struct key_room room;
    struct cm_key key = key_of(3, &room);
    put_number(&one, key, 7, false);
    open_viewer(&viewer);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(&viewer.participant, key.hash, &section);
    assert_true(cm_table_find(&viewer.participant, &section, &key, &place));
    struct glance glance = {.groups = {section.line, section.line}};
    set_trap(place.record, PROT_READ, glance_at_groups, &glance);
    uint64_t version = cm_table_store_number(&viewer.participant, &section, &place, 8, 0);
    untrap();
    assert_int_equal(glance.words[0], cm_word(version - 1, viewer.participant.id));
    assert_int_equal(*section.word, cm_word(version, 0));
    close_viewer(&viewer);
}

/* --- invariant 6 */

struct spectator {
    struct cm_segment segment;
    struct cm_participant participant;
    struct cm_buf buf, listing;
    _Atomic uint64_t *over;
};
enum { STABLE = 300 };

static const char *spectate(void *data) {
    struct spectator *spectator = data;
    static uint8_t expected[32768];
    do {
        for (uint64_t n = 0; n < STABLE; n++) {
            struct key_room room;
            struct cm_found found;
            if (cm_table_get(&spectator->participant, (struct cm_key[]){key_of(n, &room)}, &spectator->buf,
                             &found))
                return "a key is gone";
            size_t len = n % 7 == 0 ? 9000 : n;
            fill_bytes(expected, len, n);
            if (n % 2 ? found.number != n
                      : spectator->buf.len != len || memcmp(expected, spectator->buf.data, len) != 0)
                return "another value";
        }
        uint64_t cursor = 0;
        spectator->listing.len = 0;
        do {
            if (cm_table_walk(&spectator->participant, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor,
                              &spectator->listing))
                return "no walk";
        } while (cursor);
    } while (!atomic_load(spectator->over));
    return NULL;
}

/* Chunks and groups are mapped so that a store would be a signal. Beside it all else goes on, in other
 * groups. */
static void readers_write_nothing(void **state) {
    (void)state;
    struct key_room room;
    for (uint64_t n = 0; n < STABLE; n++)
        assert_true(n % 2 ? put_number(&one, key_of(n, &room), n, false)
                          : put_filled(&one, key_of(n, &room), n % 7 == 0 ? 9000 : n, n));
    cm_append_close(&one);
    static struct spectator spectator;
    _Atomic uint64_t over = 0;
    spectator = (struct spectator){.buf = wide_buf(), .listing = wide_buf(), .over = &over};
    assert_int_equal(cm_segment_attach(dup(segment.fd), true, &spectator.segment), 0);
    join(&spectator.participant, &spectator.segment);
    warm_up(&spectator.participant, key_of(0, &room), &spectator.buf);
    struct running running;
    start_thread(&running, spectate, &spectator);
    /* Changes that no reader's group notices: new chunks, and what is rewound. */
    for (int i = 0; i < 2000; i++) {
        uint64_t offset;
        cm_append_begin(&one);
        if (cm_append_entry(&one, CM_KIND_BYTES, 1, cm_bytes_of("k"), (struct cm_bytes){room.bytes, 40}, 0,
                            &offset) == 0)
            cm_append_rewind(&one);
    }
    atomic_store(&over, 1);
    end_thread(&running);
    part(&spectator.participant);
    cm_buf_deinit(&spectator.buf);
    cm_buf_deinit(&spectator.listing);
    cm_segment_close(&spectator.segment);
}

/* --- chains */

static void keys_of_one_hash_are_told_apart(void **state) {
    (void)state;
    struct cm_key keys[] = {{cm_bytes_of("a"), 99},
                            {cm_bytes_of("ab"), 99},
                            {cm_bytes_of("b"), 99},
                            {{(const uint8_t *)"a\0", 2}, 99},
                            {{(const uint8_t *)"a\0b", 3}, 99},
                            {cm_bytes_of("abcdefghij"), 99}};
    enum { COUNT = sizeof keys / sizeof keys[0] };
    for (uint64_t there = 0; there < 1 << COUNT; there++) {
        for (uint64_t i = 0; i < COUNT; i++)
            if (there >> i & 1)
                put(&one, keys[i], CM_KIND_INTEGER, (struct cm_bytes){0}, i + there, 0);
            else
                drop(&one, keys[i]);
        for (uint64_t i = 0; i < COUNT; i++) {
            struct cm_found found;
            int err = cm_table_get(&other, &keys[i], NULL, &found);
            assert_int_equal(err, there >> i & 1 ? 0 : CM_E_NOTFOUND);
            if (!err)
                assert_int_equal(found.number, i + there);
        }
        assert_int_equal(cm_table_entries(&segment), __builtin_popcountll(there));
    }
    check_live_counts();
}

static int compare_numbers(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void a_chain_longer_than_readers_follow_is_read_all_the_same(void **state) {
    (void)state;
    enum { LONG_CHAIN = 600 };
    const uint64_t hash = UINT64_C(0x123446789abcdef);
    for (uint64_t n = 0; n < LONG_CHAIN; n++) {
        struct cm_key key = {{(const uint8_t *)&n, sizeof n}, hash};
        assert_true(put_number(&one, key, n, false) != 0);
    }
    uint64_t doubted = 0;
    for (uint64_t n = 0; n < LONG_CHAIN; n++) {
        struct cm_key key = {{(const uint8_t *)&n, sizeof n}, hash};
        struct cm_found found;
        assert_int_equal(cm_table_get(&other, &key, NULL, &found), 0);
        assert_int_equal(found.number, n);
        doubted += other.tries == 9;
    }
    assert_in_range(doubted, LONG_CHAIN / 2, LONG_CHAIN - 200);
    uint64_t absent = LONG_CHAIN;
    struct cm_found found;
    assert_int_equal(cm_table_get(&other,
                                  (struct cm_key[]){(struct cm_key){{(const uint8_t *)&absent, 8}, hash}},
                                  NULL, &found),
                     CM_E_NOTFOUND);
    /* And listed. */
    struct cm_buf out = {0};
    uint64_t cursor = 0, met[LONG_CHAIN], count = 0;
    do
        assert_int_equal(cm_table_walk(&other, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor, &out), 0);
    while (cursor);
    for (size_t at = 0; at < out.len;) {
        const struct cm_listed *listed = (const struct cm_listed *)(const void *)(out.data + at);
        assert_int_equal(listed->key_len, 8);
        assert_true(count < LONG_CHAIN);
        memcpy(&met[count++], listed->key, 8);
        at += sizeof *listed + cm_words(listed->key_len);
    }
    assert_int_equal(count, LONG_CHAIN);
    qsort(met, count, sizeof met[0], compare_numbers);
    for (uint64_t n = 0; n < LONG_CHAIN; n++)
        assert_int_equal(met[n], n);
    cm_buf_deinit(&out);
    /* From the middle, the end and the beginning of the chain. */
    const uint64_t gone[] = {300, 0, LONG_CHAIN - 1};
    for (size_t i = 0; i < 3; i++) {
        struct cm_key key = {{(const uint8_t *)&gone[i], 8}, hash};
        assert_true(drop(&one, key) != 0);
        assert_int_equal(cm_table_get(&other, &key, NULL, &found), CM_E_NOTFOUND);
    }
    assert_int_equal(cm_table_entries(&segment), LONG_CHAIN - 3);
    check_live_counts();
}

/* --- walks */

/* Half of the first keys stay; between the steps others come and go, and the table grows. */
static void walk_a_changing_table(uint64_t first, uint64_t seed, bool at_once) {
    enum { MOST = 4000 };
    static uint8_t met[MOST];
    static bool there[MOST];
    memset(met, 0, sizeof met);
    memset(there, 0, sizeof there);
    struct key_room room;
    struct cm_buf out = {0};
    uint64_t random = seed, cursor = 0, steps = 0, listed = 0;
    open_table(1 << 22);
    for (uint64_t n = 0; n < first; n++)
        there[n] = put(&one, key_of(n, &room), CM_KIND_INTEGER, (struct cm_bytes){0}, n, n) != 0;
    cm_table_grow(&master, (unsigned)random_below(&random, 100));
    uint64_t growth_at = random_below(&random, groups());
    do {
        uint64_t before = cursor;
        out.len = 0;
        assert_int_equal(cm_table_walk(&other, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor, &out), 0);
        assert_true(cursor == 0 || cursor > before);
        listed += note_listed(&out, met, MOST);
        size_t changes = steps == growth_at && at_once ? (size_t)3 * MOST : random_below(&random, 20);
        for (size_t i = 0; i < changes; i++) {
            uint64_t n = random_below(&random, MOST);
            if (!there[n])
                there[n] = put(&one, key_of(n, &room), CM_KIND_INTEGER, (struct cm_bytes){0}, n, n) != 0;
            else if ((n >= first || n % 2) && i % 4 == 0)
                there[n] = drop(&one, key_of(n, &room)) == 0;
        }
        cm_table_grow(&master,
                      steps == growth_at && at_once ? UINT32_MAX : (unsigned)random_below(&random, 3));
        assert_true(steps++ < MOST);
    } while (cursor);
    for (uint64_t n = 0; n < MOST; n++)
        assert_in_range(met[n], n < first && n % 2 == 0, 1);
    assert_true(listed >= first / 2);
    cm_buf_deinit(&out);
    check_live_counts();
    close_one(NULL);
}

static void a_walk_meets_once_whoever_stays(void **state) {
    (void)state;
    const uint64_t firsts[] = {0, 1, 64, 300, 448, 449, 900, 1500};
    for (size_t i = 0; i < sizeof firsts / sizeof firsts[0]; i++)
        for (uint64_t seed = 1; seed <= 6; seed++)
            walk_a_changing_table(firsts[i], seed, seed % 2);
}

static uint64_t reversed(uint64_t value) {
    uint64_t result = 0;
    for (int i = 0; i < 64; i++)
        result |= (value >> i & 1) << (63 - i);
    return result;
}

/* From any number on a walk comes to its end, and meets at least what lies behind that number. */
static void any_number_is_a_cursor(void **state) {
    (void)state;
    enum { MOST = 700 };
    static uint8_t met[MOST];
    struct key_room room;
    struct cm_buf out = {0};
    uint64_t random = 4;
    for (uint64_t n = 0; n < MOST; n++)
        put_number(&one, key_of(n, &room), n, false);
    for (int i = 0; i < 300; i++) {
        if (i % 10 == 0)
            cm_table_grow(&master, 1);
        uint64_t cursor = i == 0   ? UINT64_MAX
                          : i == 1 ? UINT64_C(1) << 63
                          : i == 2 ? (UINT64_C(1) << 63) - 1
                                   : random_next(&random) >> i % 60;
        uint64_t from = cursor;
        memset(met, 0, sizeof met);
        out.len = 0;
        uint32_t steps = 0;
        do {
            assert_int_equal(cm_table_walk(&other, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor, &out), 0);
            assert_true(steps++ < groups());
        } while (cursor);
        note_listed(&out, met, MOST);
        for (uint64_t n = 0; n < MOST; n++)
            assert_in_range(met[n], reversed(key_of(n, &room).hash) >= from, 1);
    }
    cm_buf_deinit(&out);
}

static void a_walk_lists_what_starts_with_the_prefix(void **state) {
    (void)state;
    const char *keys[] = {"a", "ab", "abc", "b", "ba", "abcdefghijklmnop", "a\x7f", "c"};
    enum { COUNT = sizeof keys / sizeof keys[0] };
    static uint8_t value[5000] = {0};
    for (uint64_t i = 0; i < COUNT; i++) /* numbers, short values and long ones */
        put(&one, cm_table_key(&segment, cm_bytes_of(keys[i])), i % 3 ? CM_KIND_BYTES : CM_KIND_INTEGER,
            (struct cm_bytes){value, i % 3 * 2000}, i, i);
    const char *prefixes[] = {"", "a", "ab", "abc", "abcd", "abcdefghijklmnopq", "b", "d", "a\x7f"};
    for (size_t p = 0; p < sizeof prefixes / sizeof prefixes[0]; p++) {
        struct cm_buf out = {0};
        uint64_t cursor = 0;
        unsigned seen = 0, wanted = 0;
        do
            assert_int_equal(cm_table_walk(&other, CM_SPACE_KEYS, cm_bytes_of(prefixes[p]), &cursor, &out),
                             0);
        while (cursor);
        for (size_t at = 0; at < out.len;) {
            const struct cm_listed *listed = (const struct cm_listed *)(const void *)(out.data + at);
            bool found = false;
            for (unsigned i = 0; i < COUNT; i++)
                if (strlen(keys[i]) == listed->key_len &&
                    memcmp(keys[i], listed->key, listed->key_len) == 0) {
                    assert_false(seen >> i & 1);
                    seen |= 1U << i;
                    assert_int_equal(listed->expires_ms, i);
                    found = true;
                }
            assert_true(found);
            at += sizeof *listed + cm_words(listed->key_len);
        }
        for (unsigned i = 0; i < COUNT; i++)
            if (strncmp(keys[i], prefixes[p], strlen(prefixes[p])) == 0)
                wanted |= 1U << i;
        assert_int_equal(seen, wanted);
        cm_buf_deinit(&out);
    }
}

/* Threads come and go, and the table grows, while a walk is on. */
struct churning {
    struct cm_participant participant;
    _Atomic uint64_t *over;
    uint64_t seed;
};
enum { STAYING = 1500, PASSING = 1000 };

static const char *come_and_go(void *data) {
    struct churning *churning = data;
    while (!atomic_load(churning->over)) {
        struct key_room room;
        uint64_t n = random_below(&churning->seed, STAYING + PASSING);
        struct cm_key key = key_of(n, &room);
        if (n < STAYING) /* it stays, and is another entry */
            put(&churning->participant, key, CM_KIND_INTEGER, (struct cm_bytes){0}, n, 0);
        else if (!drop(&churning->participant, key))
            put_number(&churning->participant, key, n, false);
    }
    return NULL;
}

static void a_walk_meets_once_whoever_stays_while_threads_come_and_go(void **state) {
    (void)state;
    static uint8_t met[STAYING + PASSING + 60000];
    struct key_room room;
    struct churning churning[2];
    struct running running[2];
    _Atomic uint64_t over = 0;
    for (uint64_t n = 0; n < STAYING; n++)
        put_number(&one, key_of(n, &room), n, false);
    for (uint64_t i = 0; i < 2; i++) {
        churning[i] = (struct churning){.over = &over, .seed = i};
        join(&churning[i].participant, &segment);
    }
    struct cm_buf out = wide_buf();
    for (int i = 0; i < 2; i++)
        start_thread(&running[i], come_and_go, &churning[i]);
    uint64_t fill = STAYING + PASSING;
    int err = 0;
    uint64_t wrong = 0;
    for (int walk = 0; walk < 15; walk++) {
        uint64_t cursor = 0;
        out.len = 0;
        memset(met, 0, sizeof met);
        do {
            err = err ? err : cm_table_walk(&other, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor, &out);
            put_number(&master, key_of(fill++, &room), 0, false);
            cm_table_grow(&master, 2);
        } while (cursor && !err && fill < sizeof met);
        note_listed(&out, met, sizeof met);
        for (uint64_t n = 0; n < STAYING + PASSING; n++)
            wrong += n < STAYING ? met[n] != 1 : met[n] > 1;
    }
    atomic_store(&over, 1);
    for (int i = 0; i < 2; i++) {
        end_thread(&running[i]);
        part(&churning[i].participant);
    }
    cm_buf_deinit(&out);
    assert_int_equal(err, 0);
    assert_int_equal(wrong, 0);
    assert_true(groups() > 200);
    check_live_counts();
}

/* --- expiry, and records that move */

static struct cm_spot spot_of(struct cm_key key) {
    struct cm_found found;
    assert_int_equal(cm_table_get(&other, &key, NULL, &found), 0);
    struct cm_spot spot = cm_table_spot(&segment, &found);
    assert_true(cm_table_stands(&segment, &spot));
    return spot;
}

/* What others may have read by now is not to be denied: so nothing stands from where its group is taken,
 * before any change can be seen, and again only if there was none. */
static void an_entry_stands_until_its_group_is_taken_for_a_change(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    struct cm_section section;
    struct cm_place place;
    put_bytes(&one, key, cm_bytes_of("value"));
    struct cm_spot spot = spot_of(key);
    cm_table_enter(&one, key.hash, &section);
    assert_false(cm_table_stands(&segment, &spot));
    cm_section_leave(&section);
    assert_true(cm_table_stands(&segment, &spot));

    cm_table_enter(&one, key.hash, &section);
    assert_true(cm_table_find(&one, &section, &key, &place));
    cm_table_store_expiry(&one, &section, &place, 0);
    assert_false(cm_table_stands(&segment, &spot));

    spot = spot_of(key);
    uint64_t version = put_bytes(&one, key, cm_bytes_of("another"));
    assert_false(cm_table_stands(&segment, &spot));

    spot = spot_of(key);
    assert_int_equal(spot.version, version);
    cm_append_close(&one);
    struct cm_found found;
    assert_int_equal(cm_table_get(&other, &key, NULL, &found), 0);
    move_chunk(&master, (uint32_t)cm_segment_chunk_of(&segment, found.offset));
    assert_false(cm_table_stands(&segment, &spot));

    spot = spot_of(key);
    struct key_room other_room;
    for (uint64_t n = 2; n < 1000; n++)
        put_number(&one, key_of(n, &other_room), n, false);
    while (cm_table_grow(&master, 1)) {
    }
    assert_false(cm_table_stands(&segment, &spot));

    spot = spot_of(key);
    assert_int_equal(spot.version, version);
    drop(&one, key);
    assert_false(cm_table_stands(&segment, &spot));
}

static void a_number_that_stands_is_read_and_entered_without_a_search(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    struct cm_section section;
    struct cm_place place;
    struct cm_found found;
    uint64_t version = put_number(&one, key, 7, false);
    struct cm_spot first = spot_of(key), spot = first;
    assert_true(cm_table_number_at(&segment, &spot, &found));
    assert_int_equal(found.kind, CM_KIND_INTEGER);
    assert_int_equal(found.number, 7);
    assert_int_equal(found.version, version);

    assert_true(cm_table_reenter(&one, &spot, &section, &place));
    assert_int_equal(place.shape.kind, CM_KIND_INTEGER);
    assert_false(cm_table_reenter(&other, &spot, &section, &place));
    assert_false(cm_table_number_at(&segment, &spot, &found));
    cm_section_leave(&section); /* nothing has been changed */
    assert_true(cm_table_number_at(&segment, &spot, &found));
    assert_true(cm_table_reenter(&one, &spot, &section, &place));
    version = cm_table_change_number(&section, &place, 8);
    assert_false(cm_table_reenter(&other, &spot, &section, &place));
    assert_false(cm_table_number_at(&segment, &spot, &found));

    spot.word = cm_word(version, 0);
    assert_true(cm_table_number_at(&segment, &spot, &found));
    assert_int_equal(found.number, 8);
    assert_int_equal(found.version, version);
    /* No group's word, no place in the segment: nothing is there. */
    struct cm_spot wrong[] = {spot, spot, spot};
    wrong[0].word = CM_SPOT_NEVER;
    wrong[1].offset = segment.layout.total_bytes;
    wrong[2].word = first.word;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(cm_table_number_at(&segment, &wrong[i], &found));
        assert_false(cm_table_reenter(&one, &wrong[i], &section, &place));
    }
}

static void an_expiry_takes_no_version_and_is_noted_at_the_chunk(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    struct cm_found found;
    uint64_t version = put(&one, key, CM_KIND_BYTES, cm_bytes_of("value"), 0, 5000);
    struct cm_chunk *chunk = &segment.chunks[one.appender.chunk];
    assert_int_equal(chunk->earliest_ms, 5000);
    const uint64_t expiries[] = {6000, 4000, 0};
    for (size_t i = 0; i < 3; i++) {
        struct cm_section section;
        struct cm_place place;
        cm_table_enter(&one, key.hash, &section);
        assert_true(cm_table_find(&one, &section, &key, &place));
        cm_table_store_expiry(&one, &section, &place, expiries[i]);
        assert_int_equal(cm_table_get(&other, &key, NULL, &found), 0);
        assert_int_equal(found.expires_ms, expiries[i]);
        assert_int_equal(found.version, version);
        assert_int_equal(chunk->earliest_ms, i ? 4000 : 5000);
    }
    struct cm_key number = key_of(2, &room);
    put_number(&one, number, 1, false);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(&one, number.hash, &section);
    assert_true(cm_table_find(&one, &section, &number, &place));
    cm_table_store_number(&one, &section, &place, 2, 3000);
    assert_int_equal(chunk->earliest_ms, 3000);
}

static void a_moved_record_is_the_same_entry(void **state) {
    (void)state;
    enum { MOVED = 60 };
    struct cm_buf buf = {0};
    struct key_room room;
    uint64_t versions[MOVED];
    for (uint64_t n = 0; n < MOVED; n++)
        versions[n] = put_filled(&one, key_of(n, &room), n % 6 == 0 ? 7000 : n % 6 == 1 ? 900 : n, n);
    cm_append_close(&one);
    for (int round = 0; round < 3; round++) {
        uint32_t moved = 0;
        for (uint32_t i = 0; i < segment.layout.chunks && moved < 40; i++) {
            struct cm_chunk_word word = chunk_word(&segment, i);
            if (word.state != CM_CHUNK_CLOSED || word.live_bytes == 0 || i == master.appender.chunk)
                continue;
            move_chunk(&master, i);
            word = chunk_word(&segment, i);
            assert_true(cm_chunk_is_free(&word));
            moved++;
        }
        assert_true(moved > 5);
        for (uint64_t n = 0; n < MOVED; n++) {
            struct cm_found found;
            assert_int_equal(cm_table_get(&other, (struct cm_key[]){key_of(n, &room)}, &buf, &found), 0);
            assert_int_equal(found.version, versions[n]);
            check_bytes(&buf, n % 6 == 0 ? 7000 : n % 6 == 1 ? 900 : n, n);
        }
        check_live_counts();
    }
    cm_buf_deinit(&buf);
}

static void nothing_leads_to_what_is_not_linked(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room), absent = key_of(2, &room);
    put_filled(&one, key, 5000, 1);
    struct cm_section section;
    struct cm_place place;
    cm_table_enter(&one, key.hash, &section);
    assert_true(cm_table_find(&one, &section, &key, &place));
    assert_int_equal(place.shape.kind, CM_KIND_LONG);
    assert_ptr_equal(cm_table_link_to(&one, &section, key.hash, place.offset), place.link);
    uint64_t first = place.record->payload[0], second = cm_record_at(&segment, first)->next;
    assert_ptr_equal(cm_table_link_to_fragment(&one, &section, key.hash, first), place.record->payload);
    assert_ptr_equal(cm_table_link_to_fragment(&one, &section, key.hash, second),
                     &cm_record_at(&segment, first)->next);
    assert_null(cm_table_link_to(&one, &section, key.hash, first));
    assert_null(cm_table_link_to(&one, &section, key.hash, place.offset + 8));
    cm_section_leave(&section);
    cm_table_enter(&one, absent.hash, &section);
    assert_null(cm_table_link_to(&one, &section, absent.hash, place.offset));
    assert_null(cm_table_link_to_fragment(&one, &section, absent.hash, first));
    cm_section_leave(&section);
    assert_true(drop(&one, key) != 0);
    cm_table_enter(&one, key.hash, &section);
    assert_null(cm_table_link_to(&one, &section, key.hash, place.offset));
    assert_null(cm_table_link_to_fragment(&one, &section, key.hash, first));
    cm_section_leave(&section);
}

/* Neither the links to the fragments of a long value nor that nothing leads to those of its last one are
 * looked for along its list: that would be as many steps for each of them as there are. */
static void fragments_are_found_without_following_their_list(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    uint64_t pieces[2][64] = {{0}};
    size_t count[2] = {0};
    struct cm_section section;
    struct cm_place place;
    for (int i = 0; i < 2; i++) {
        put_filled(&one, key, 5000, (uint64_t)i);
        cm_table_enter(&one, key.hash, &section);
        assert_true(cm_table_find(&one, &section, &key, &place));
        for (uint64_t at = place.record->payload[0]; at; at = cm_record_at(&segment, at)->next) {
            assert_true(count[i] < 64);
            pieces[i][count[i]++] = at;
        }
        cm_section_leave(&section);
    }
    assert_true(count[1] > 10);
    cm_table_enter(&one, key.hash, &section);
    /* Whoever follows the list does not come past its third fragment. */
    struct cm_record *third = cm_record_at(&segment, pieces[1][2]);
    uint64_t next = third->next;
    third->next = pieces[1][2];
    for (size_t n = 0; n < count[1]; n++) {
        struct cm_record *before = n ? cm_record_at(&segment, pieces[1][n - 1]) : place.record;
        if (n != 3)
            assert_ptr_equal(cm_table_link_to_fragment(&one, &section, key.hash, pieces[1][n]),
                             cm_record_rest(before));
    }
    for (size_t n = 0; n < count[0]; n++)
        assert_null(cm_table_link_to_fragment(&one, &section, key.hash, pieces[0][n]));
    third->next = next;
    cm_section_leave(&section);
}

/* --- no memory */

static int read_with_a_new_buffer(void *data) {
    struct cm_key *key = data;
    struct cm_buf buf = {0};
    struct cm_found found;
    struct cm_participant reader;
    join(&reader, &segment);
    int err = cm_table_get(&reader, key, &buf, &found);
    if (!err)
        check_bytes(&buf, 9000, 3);
    cm_buf_deinit(&buf);
    part(&reader);
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        assert_false(cm_hazard_any(&segment, i));
    return err;
}

static int walk_with_a_new_buffer(void *data) {
    (void)data;
    struct cm_buf buf = {0};
    uint64_t cursor = 0;
    static uint8_t met[400];
    memset(met, 0, sizeof met);
    int err;
    do {
        uint64_t before = cursor;
        size_t len = buf.len;
        err = cm_table_walk(&other, CM_SPACE_KEYS, (struct cm_bytes){0}, &cursor, &buf);
        if (err) {
            assert_int_equal(cursor, before);
            assert_int_equal(buf.len, len);
        }
    } while (!err && cursor);
    if (!err)
        assert_int_equal(note_listed(&buf, met, sizeof met), 400);
    cm_buf_deinit(&buf);
    return err;
}

static void failed_allocations_change_nothing(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    put_filled(&one, key, 9000, 3);
    alloc_failure_each(read_with_a_new_buffer, &key);
    drop(&one, key);
    for (uint64_t n = 0; n < 400; n++)
        put_number(&one, key_of(n, &room), n, false);
    alloc_failure_each(walk_with_a_new_buffer, NULL);
}

/* The same where a reader has to take the group first: it must have its memory before that. */
static void failed_allocations_of_an_owner_change_nothing(void **state) {
    (void)state;
    struct key_room room;
    struct cm_key key = key_of(1, &room);
    put_filled(&one, key, 9000, 3);
    for (uint64_t n = 0; n < 300; n++) {
        struct key_room other_room;
        struct cm_key in_front = key_of(100 + n, &other_room);
        in_front.hash = key.hash;
        assert_true(put_number(&one, in_front, n, false) != 0);
    }
    struct cm_found found;
    assert_int_equal(cm_table_get(&other, &key, NULL, &found), 0);
    assert_int_equal(other.tries, 9);
    alloc_failure_each(read_with_a_new_buffer, &key);
    check_live_counts();
}

int main(void) {
#define SMALL(name) cmocka_unit_test_setup_teardown(name, open_small, close_one)
#define LARGE(name) cmocka_unit_test_setup_teardown(name, open_large, close_one)
    const struct CMUnitTest tests[] = {
        LARGE(random_operations_match_an_oracle),
        LARGE(every_key_is_readable_after_each_split),
        LARGE(every_acknowledged_key_is_readable_at_every_step_of_a_split),
        LARGE(a_group_in_use_is_not_split),
        LARGE(a_child_begins_with_its_parents_sequence),
        LARGE(the_table_grows_as_far_as_there_are_pages_and_groups),
        SMALL(the_table_grows_as_far_as_there_are_pages_and_groups),
        LARGE(the_master_is_rung_for_when_entries_come),
        LARGE(a_counter_equals_its_increments_while_the_table_grows),
        LARGE(a_keys_versions_grow_across_all_that_happens_to_it),
        LARGE(versions_grow_for_writers_and_readers_at_once),
        LARGE(a_reader_finishes_in_nine_tries_beside_hot_writers),
        LARGE(a_reader_waits_for_a_shut_group_and_not_for_an_owned_one),
        SMALL(a_short_value_is_whole_though_it_is_replaced),
        SMALL(a_value_in_fragments_is_whole_though_it_is_replaced),
        SMALL(a_long_value_is_whole_though_it_is_replaced),
        SMALL(what_changed_while_it_was_copied_is_read_again),
        SMALL(what_is_gone_when_it_is_read_again_leaves_no_bytes),
        SMALL(a_long_value_is_copied_as_it_was_while_chunks_come_round),
        SMALL(nor_does_it_change_for_who_read_it_as_the_owner),
        SMALL(a_part_is_of_one_value_though_it_is_replaced_while_it_is_looked_for),
        SMALL(nor_does_a_part_change_for_who_read_it_as_the_owner),
        SMALL(a_long_value_is_whole_though_its_fragments_move_while_it_is_copied),
        SMALL(a_value_is_whole_though_it_moves_while_it_is_copied),
        SMALL(a_long_value_replaced_before_its_chunks_are_named_is_read_again),
        LARGE(a_split_between_choosing_the_group_and_reading_it_hides_no_key),
        LARGE(a_split_between_choosing_the_group_and_entering_it_misleads_no_writer),
        LARGE(a_split_between_choosing_the_group_and_listing_it_hides_no_key),
        LARGE(parent_and_child_are_shut_while_entries_are_dealt_out),
        LARGE(a_number_changes_while_its_group_is_shut),
        LARGE(readers_write_nothing),
        LARGE(keys_of_one_hash_are_told_apart),
        LARGE(a_chain_longer_than_readers_follow_is_read_all_the_same),
        cmocka_unit_test(a_walk_meets_once_whoever_stays),
        LARGE(any_number_is_a_cursor),
        SMALL(a_walk_lists_what_starts_with_the_prefix),
        LARGE(a_walk_meets_once_whoever_stays_while_threads_come_and_go),
        SMALL(an_expiry_takes_no_version_and_is_noted_at_the_chunk),
        SMALL(an_entry_stands_until_its_group_is_taken_for_a_change),
        SMALL(a_number_that_stands_is_read_and_entered_without_a_search),
        SMALL(a_moved_record_is_the_same_entry),
        SMALL(nothing_leads_to_what_is_not_linked),
        SMALL(fragments_are_found_without_following_their_list),
        SMALL(failed_allocations_change_nothing),
        SMALL(failed_allocations_of_an_owner_change_nothing),
    };
#undef SMALL
#undef LARGE
    return cmocka_run_group_tests_name("table", tests, NULL, nothing_is_left);
}
