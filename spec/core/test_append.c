/* Appending: what is committed lies whole in its chunks, what is rewound leaves nothing, and the chunks count
 * what an oracle counts. */
#include <stdlib.h>

#include "base/error.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/segments.h"

enum { BYTES = 1 << 20, MOST_CHUNKS = 256, MOST_ENTRIES = 4000 };

static struct cm_segment segment;
static struct cm_participant participant;

static int open_one(void **state) {
    (void)state;
    open_segment(&segment, BYTES, 3);
    join(&participant, &segment);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    part(&participant);
    cm_segment_close(&segment);
    return 0;
}

static int nothing_is_left(void **state) {
    (void)state;
    return alloc_failure_alive() != 0;
}

/* --- the oracle: what each chunk should hold, and each entry */

struct oracle {
    uint32_t generation[MOST_CHUNKS];
    uint32_t used[MOST_CHUNKS];     /* in that generation */
    uint32_t released[MOST_CHUNKS]; /* of that */
    struct expected {
        uint64_t offset;
        struct cm_shape shape;
        uint64_t seed; /* of key and value */
    } entries[MOST_ENTRIES];
    size_t count;
};

static struct cm_record *raw(uint64_t offset) {
    return (struct cm_record *)(void *)(segment.base + offset);
}

static uint32_t chunk_of(uint64_t offset) {
    return (uint32_t)cm_segment_chunk_of(&segment, offset);
}

/* Calls it for the record and for each of its fragments. */
static void each_piece(uint64_t offset, void (*visit)(struct oracle *, uint64_t, uint32_t),
                       struct oracle *oracle) {
    struct cm_shape shape = cm_record_shape(raw(offset));
    uint64_t next = shape.kind == CM_KIND_LONG ? raw(offset)->payload[0] : 0;
    uint64_t before = offset;
    visit(oracle, offset, (uint32_t)cm_shape_bytes(shape));
    while (next) {
        uint64_t at = next;
        assert_int_equal(raw(at)->before, before);
        before = at;
        next = raw(at)->next;
        shape = cm_record_shape(raw(at));
        assert_int_equal(shape.kind, CM_KIND_FRAGMENT);
        assert_int_equal(raw(at)->hash, raw(offset)->hash);
        visit(oracle, at, (uint32_t)cm_shape_bytes(shape));
    }
}

/* A chunk in another life begins afresh. */
static void look_at_generation(struct oracle *oracle, uint32_t chunk) {
    struct cm_chunk_word word = chunk_word(&segment, chunk);
    if (oracle->generation[chunk] == word.generation)
        return;
    assert_int_equal(oracle->used[chunk], oracle->released[chunk]);
    oracle->used[chunk] = oracle->released[chunk] = 0;
    oracle->generation[chunk] = word.generation;
}

static void count_used(struct oracle *oracle, uint64_t offset, uint32_t len) {
    look_at_generation(oracle, chunk_of(offset));
    oracle->used[chunk_of(offset)] += len;
    assert_true(len <= segment.record_most_bytes);
    assert_int_equal(chunk_of(offset), chunk_of(offset + len - 1));
}

static void count_released(struct oracle *oracle, uint64_t offset, uint32_t len) {
    cm_chunk_release(&segment, offset, len);
    oracle->released[chunk_of(offset)] += len;
}

/* Between two operations: one chunk is open at most, the appender's. */
static void check_chunks(struct oracle *oracle) {
    for (uint32_t i = 0; i < segment.layout.chunks; i++) {
        look_at_generation(oracle, i);
        struct cm_chunk_word word = chunk_word(&segment, i);
        uint32_t left = oracle->used[i] - oracle->released[i];
        if (i == participant.appender.chunk) {
            assert_int_equal(word.state, CM_CHUNK_OPEN);
            assert_int_equal(word.owner, participant.id);
            assert_int_equal(word.live_bytes, segment.layout.chunk_bytes - oracle->released[i]);
            assert_int_equal(segment.chunks[i].used, oracle->used[i]);
            assert_int_equal(participant.appender.at, oracle->used[i]);
            continue;
        }
        assert_int_equal(word.state, CM_CHUNK_CLOSED);
        assert_int_equal(word.live_bytes, left);
        if (left)
            assert_int_equal(segment.chunks[i].used, oracle->used[i]);
    }
}

/* A walk of a chunk finds whole records up to its end. */
static void check_walk(uint32_t chunk) {
    uint64_t at = 0, used = segment.chunks[chunk].used;
    while (at < used) {
        uint64_t len = cm_shape_bytes(cm_record_shape(raw(cm_segment_chunk_at(&segment, chunk) + at)));
        assert_true(len > 0 && len <= used - at);
        assert_true(segment.layout.chunk_bytes - at >= CM_HEAD_BYTES);
        at += len;
    }
    assert_int_equal(at, used);
}

static void check_entry(const struct expected *expected) {
    struct cm_shape shape = cm_record_shape(raw(expected->offset));
    bool is_long = cm_shape_bytes(expected->shape) > segment.record_most_bytes;
    assert_int_equal(shape.kind, is_long ? CM_KIND_LONG : expected->shape.kind);
    assert_int_equal(shape.key_len, expected->shape.key_len);
    assert_int_equal(shape.value_len, expected->shape.value_len);
    assert_int_equal(raw(expected->offset)->hash, expected->seed);
    assert_int_equal(raw(expected->offset)->next, 0);
    assert_int_equal(cm_record_expiry(raw(expected->offset)), expected->seed / 2);
    uint8_t *wanted = malloc(65536 + 8), *got = malloc(65536 + 8);
    assert_true(wanted && got);
    fill_bytes(wanted, shape.key_len, expected->seed);
    assert_true(
        cm_record_has_key(&segment, expected->offset, shape, (struct cm_bytes){wanted, shape.key_len}));
    if (!cm_kind_is_number(shape.kind)) {
        fill_bytes(wanted, shape.value_len, expected->seed + 1);
        assert_true(cm_record_read_value(&segment, expected->offset, shape, got));
        assert_memory_equal(got, wanted, shape.value_len);
    }
    free(wanted);
    free(got);
}

static struct cm_chunk_census census(void) {
    struct cm_chunk_census result;
    cm_chunk_count(&segment, &result);
    return result;
}

static int append(struct cm_shape shape, uint64_t seed, uint64_t *offset) {
    static uint8_t key[65536], value[65536];
    fill_bytes(key, shape.key_len, seed);
    fill_bytes(value, shape.value_len, seed + 1);
    return cm_append_entry(&participant, shape.kind, seed, (struct cm_bytes){key, shape.key_len},
                           (struct cm_bytes){value, shape.value_len}, seed / 2, offset);
}

static struct cm_shape random_shape(uint64_t *random) {
    struct cm_shape shape = {CM_KIND_BYTES, 1 + (uint32_t)random_below(random, 40),
                             (uint32_t)random_below(random, 100)};
    switch (random_below(random, 20)) {
    case 0:
        shape.value_len = (uint32_t)random_below(random, 60000);
        break;
    case 1:
        shape.value_len = (uint32_t)random_below(random, 5000);
        break;
    case 2:
        shape.key_len = 1 + (uint32_t)random_below(random, random_below(random, 8) ? 400 : 65535);
        break;
    case 3:
    case 4:
        shape.kind = CM_KIND_INTEGER;
        shape.value_len = 0;
        break;
    default:
        break;
    }
    return shape;
}

/* --- operations */

static void release_one(struct oracle *oracle, size_t which) {
    each_piece(oracle->entries[which].offset, count_released, oracle);
    oracle->entries[which] = oracle->entries[--oracle->count];
}

static void random_operations_match_an_oracle(void **state) {
    (void)state;
    static struct oracle oracle;
    oracle = (struct oracle){.count = 0};
    uint64_t random = 3, seed = 1;
    size_t commits = 0, rewinds = 0, failures = 0;
    for (int i = 0; i < 6000; i++) {
        size_t before = oracle.count;
        int err = 0;
        cm_append_begin(&participant);
        for (size_t n = random_below(&random, 8) ? 1 : 1 + random_below(&random, 20); n && !err; n--) {
            struct expected *entry = &oracle.entries[oracle.count];
            *entry = (struct expected){.shape = random_shape(&random), .seed = seed};
            err = append(entry->shape, seed++, &entry->offset);
            oracle.count += !err;
        }
        if (err || random_below(&random, 4) == 0) {
            if (err)
                assert_int_equal(err, CM_E_NOMEMORY);
            failures += err != 0;
            rewinds++;
            cm_append_rewind(&participant);
            oracle.count = before;
        } else {
            commits++;
            cm_append_commit(&participant);
            for (size_t n = before; n < oracle.count; n++)
                each_piece(oracle.entries[n].offset, count_used, &oracle);
        }
        check_chunks(&oracle);
        if (random_below(&random, 50) == 0) {
            cm_append_close(&participant);
            assert_int_equal(participant.appender.chunk, CM_NO_CHUNK);
            cm_append_close(&participant);
            check_chunks(&oracle);
        }
        while (oracle.count > MOST_ENTRIES - 20 || (err && oracle.count > 50) ||
               (oracle.count > 20 && random_below(&random, 3) == 0)) {
            release_one(&oracle, random_below(&random, oracle.count));
            check_chunks(&oracle);
        }
        if (i % 100 == 0) {
            for (size_t n = 0; n < oracle.count; n++)
                check_entry(&oracle.entries[n]);
            for (uint32_t c = 0; c < segment.layout.chunks; c++)
                if (oracle.used[c])
                    check_walk(c);
        }
    }
    assert_true(commits > 1000 && rewinds > 1000 && failures > 10);
    while (oracle.count)
        release_one(&oracle, 0);
    cm_append_close(&participant);
    assert_int_equal(census().free, segment.layout.chunks);
    assert_int_equal(atomic_load(&segment.header->free_chunks), segment.layout.chunks);
}

static uint32_t open_chunks(void) {
    uint32_t open = 0;
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        open += chunk_word(&segment, i).state == CM_CHUNK_OPEN;
    return open;
}

static void a_rewind_takes_all_back(void **state) {
    (void)state;
    uint64_t offset, again;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 5, 100}, 1, &offset), 0);
    cm_append_commit(&participant);
    struct cm_chunk_census before = census();
    struct cm_appender appender = participant.appender;
    const uint32_t lens[] = {10, 300, 3000, 30000, 60000};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        cm_append_begin(&participant);
        assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 5, lens[i]}, 2, &again), 0);
        assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 6, lens[i] / 2}, 3, &again), 0);
        cm_append_rewind(&participant);
        struct cm_chunk_census after = census();
        assert_int_equal(after.free, before.free);
        assert_int_equal(after.open, 1);
        assert_int_equal(after.live_bytes, before.live_bytes);
        assert_int_equal(participant.appender.chunk, appender.chunk);
        assert_int_equal(participant.appender.at, appender.at);
        assert_int_equal(segment.chunks[appender.chunk].used, appender.at);
        assert_int_equal(participant.appender.held_count, 0);
    }
    check_entry(&(struct expected){offset, {CM_KIND_BYTES, 5, 100}, 1});
    cm_append_begin(&participant); /* nothing is nothing */
    cm_append_rewind(&participant);
    cm_append_begin(&participant);
    cm_append_commit(&participant);
    assert_int_equal(participant.appender.at, appender.at);
}

static void a_rewind_without_a_chunk_before_leaves_an_empty_one(void **state) {
    (void)state;
    uint64_t offset;
    cm_append_begin(&participant);
    cm_append_rewind(&participant);
    assert_int_equal(participant.appender.chunk, CM_NO_CHUNK);
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 5, 30000}, 2, &offset), 0);
    cm_append_rewind(&participant);
    assert_int_equal(open_chunks(), 1);
    assert_int_equal(census().live_bytes, 0);
    cm_append_close(&participant);
    assert_int_equal(census().free, segment.layout.chunks);
}

/* A closed chunk might be cleaned, and what is not linked yet would be taken for garbage. */
static void chunks_stay_open_until_the_commit(void **state) {
    (void)state;
    uint64_t offset;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 5, 50000}, 2, &offset), 0);
    uint32_t needed = 50000 / segment.layout.chunk_bytes + 1;
    assert_true(needed > 3);
    assert_true(open_chunks() >= needed);
    for (uint32_t i = 0; i < segment.layout.chunks; i++)
        assert_true(chunk_word(&segment, i).state == CM_CHUNK_OPEN || segment.chunks[i].used == 0);
    cm_append_commit(&participant);
    assert_int_equal(open_chunks(), 1);
    assert_int_equal(participant.appender.held_count, 0);
    check_entry(&(struct expected){offset, {CM_KIND_BYTES, 5, 50000}, 2});
}

/* A chunk that is left by an operation that put nothing into it is closed at once. */
static void a_chunk_too_full_for_anything_is_closed(void **state) {
    (void)state;
    uint64_t offset;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 8, 100}, 1, &offset), 0);
    cm_append_commit(&participant);
    uint32_t first = participant.appender.chunk;
    while (participant.appender.chunk == first) {
        cm_append_begin(&participant);
        assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 8, 100}, 1, &offset), 0);
        if (participant.appender.chunk == first)
            cm_append_commit(&participant);
    }
    assert_int_equal(chunk_word(&segment, first).state, CM_CHUNK_CLOSED);
    assert_int_equal(participant.appender.held_count, 0);
    cm_append_rewind(&participant);
    assert_int_equal(participant.appender.at, 0);
    assert_int_equal(open_chunks(), 1);
    check_walk(first);
}

static void what_does_not_fit_gives_all_back(void **state) {
    (void)state;
    uint64_t offset, first;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 8, 1000}, 1, &first), 0);
    cm_append_commit(&participant);
    struct cm_chunk_census before = census();
    struct cm_appender appender = participant.appender;
    size_t big = (size_t)segment.layout.total_bytes;
    uint8_t *value = calloc(1, big);
    assert_non_null(value);
    for (int i = 0; i < 3; i++) {
        cm_append_begin(&participant);
        assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 9, 2000}, 2, &offset), 0);
        assert_int_equal(cm_append_entry(&participant, CM_KIND_BYTES, 5, cm_bytes_of("big"),
                                         (struct cm_bytes){value, big}, 0, &offset),
                         CM_E_NOMEMORY);
        assert_true(open_chunks() > segment.layout.chunks / 2);
        cm_append_rewind(&participant);
        struct cm_chunk_census after = census();
        assert_int_equal(after.free, before.free);
        assert_int_equal(after.live_bytes, before.live_bytes);
        assert_int_equal(after.open, 1);
        assert_int_equal(participant.appender.at, appender.at);
        assert_int_equal(participant.appender.chunk, appender.chunk);
        assert_int_equal(atomic_load(&segment.header->free_chunks), after.free);
    }
    free(value);
    check_entry(&(struct expected){first, {CM_KIND_BYTES, 8, 1000}, 1});
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 9, 60000}, 2, &offset), 0);
    cm_append_commit(&participant);
    check_entry(&(struct expected){offset, {CM_KIND_BYTES, 9, 60000}, 2});
}

/* Where the pages end, not the chunks. */
static void without_pages_nothing_is_appended(void **state) {
    (void)state;
    uint64_t offset;
    int fd = segment.fd;
    segment.fd = -1;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 8, 100}, 1, &offset), CM_E_NOMEMORY);
    cm_append_rewind(&participant);
    assert_int_equal(participant.appender.chunk, CM_NO_CHUNK);
    assert_int_equal(open_chunks(), 0);
    segment.fd = fd;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_BYTES, 8, 100}, 1, &offset), 0);
    cm_append_commit(&participant);
}

static void every_length_of_a_long_entry_is_readable(void **state) {
    (void)state;
    static struct oracle oracle;
    oracle = (struct oracle){.count = 0};
    uint32_t most = segment.record_most_bytes;
    for (uint32_t len = most - 120; len < 3 * most; len++) {
        struct expected expected = {.shape = {CM_KIND_BYTES, 1 + len % 90, len}, .seed = len};
        if (len % 5 == 0)
            expected.shape = (struct cm_shape){CM_KIND_BYTES, len, len % 30};
        cm_append_begin(&participant);
        assert_int_equal(append(expected.shape, len, &expected.offset), 0);
        cm_append_commit(&participant);
        each_piece(expected.offset, count_used, &oracle);
        check_entry(&expected);
        check_chunks(&oracle);
        each_piece(expected.offset, count_released, &oracle);
    }
}

/* Whatever its lengths, and wherever in a chunk it begins: what room is made for it is enough. */
static void an_entry_takes_no_more_than_is_said(void **state) {
    (void)state;
    uint64_t random = 7;
    for (int i = 0; i < 3000; i++) {
        static struct oracle oracle;
        oracle = (struct oracle){.count = 0};
        struct cm_shape shape = {CM_KIND_BYTES,
                                 1 + (uint32_t)random_below(&random, random_below(&random, 4) ? 40 : 2000),
                                 (uint32_t)random_below(&random, random_below(&random, 4) ? 2000 : 60000)};
        uint64_t offset, taken = 0;
        cm_append_begin(&participant);
        assert_int_equal(append(shape, 1 + (uint64_t)i, &offset), 0);
        cm_append_commit(&participant);
        each_piece(offset, count_used, &oracle);
        for (uint32_t c = 0; c < segment.layout.chunks; c++)
            taken += oracle.used[c];
        each_piece(offset, count_released, &oracle);
        if (taken > cm_append_bytes(&segment, shape.key_len, shape.value_len))
            fail_msg("key %u, value %u: %llu bytes, and not %llu", shape.key_len, shape.value_len,
                     (unsigned long long)taken,
                     (unsigned long long)cm_append_bytes(&segment, shape.key_len, shape.value_len));
    }
}

static void a_number_fits_or_must_come_as_bytes(void **state) {
    (void)state;
    uint32_t longest = segment.record_most_bytes - CM_ENTRY_BYTES - 8;
    assert_true(cm_append_fits(&segment, (struct cm_shape){CM_KIND_INTEGER, longest, 0}));
    assert_false(cm_append_fits(&segment, (struct cm_shape){CM_KIND_INTEGER, longest + 1, 0}));
    uint64_t offset;
    cm_append_begin(&participant);
    assert_int_equal(append((struct cm_shape){CM_KIND_FLOAT, longest, 0}, 4, &offset), 0);
    assert_int_equal(cm_record_shape(raw(offset)).kind, CM_KIND_FLOAT);
    cm_append_commit(&participant);
    check_entry(&(struct expected){offset, {CM_KIND_FLOAT, longest, 0}, 4});
}

/* The cleaner's way: room, and as much of it as was written. */
static void room_is_taken_when_it_has_been_written(void **state) {
    (void)state;
    uint64_t offset, next;
    cm_append_begin(&participant);
    assert_int_equal(cm_append_room(&participant, 96, &offset), 0);
    assert_int_equal(cm_append_room(&participant, 96, &next), 0);
    assert_int_equal(next, offset);
    assert_int_equal(segment.chunks[participant.appender.chunk].used, 0);
    cm_append_written(&participant, 96);
    assert_int_equal(segment.chunks[participant.appender.chunk].used, 96);
    assert_int_equal(cm_append_room(&participant, 96, &next), 0);
    assert_int_equal(next, offset + 96);
    cm_append_commit(&participant);
}

/* --- no memory */

static int append_many_chunks(void *data) {
    (void)data;
    struct cm_segment here;
    struct cm_participant writer;
    open_segment(&here, BYTES, 3);
    join(&writer, &here);
    static uint8_t value[300000];
    uint64_t offset = 0;
    cm_append_begin(&writer);
    int err = cm_append_entry(&writer, CM_KIND_BYTES, 1, cm_bytes_of("key"),
                              (struct cm_bytes){value, sizeof value}, 0, &offset);
    if (err)
        cm_append_rewind(&writer);
    else
        cm_append_commit(&writer);
    struct cm_chunk_census after;
    cm_chunk_count(&here, &after);
    assert_int_equal(after.open, 1);
    if (err)
        assert_int_equal(after.live_bytes, 0);
    else
        assert_true(after.live_bytes > sizeof value);
    part(&writer);
    cm_segment_close(&here);
    return err;
}

static void failed_allocations_keep_nothing(void **state) {
    (void)state;
    alloc_failure_each(append_many_chunks, NULL);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_one, close_one)
    const struct CMUnitTest tests[] = {
        TEST(random_operations_match_an_oracle),
        TEST(a_rewind_takes_all_back),
        TEST(a_rewind_without_a_chunk_before_leaves_an_empty_one),
        TEST(chunks_stay_open_until_the_commit),
        TEST(a_chunk_too_full_for_anything_is_closed),
        TEST(what_does_not_fit_gives_all_back),
        TEST(without_pages_nothing_is_appended),
        TEST(every_length_of_a_long_entry_is_readable),
        TEST(an_entry_takes_no_more_than_is_said),
        TEST(a_number_fits_or_must_come_as_bytes),
        TEST(room_is_taken_when_it_has_been_written),
        cmocka_unit_test(failed_allocations_keep_nothing),
    };
#undef TEST
    return cmocka_run_group_tests_name("append", tests, NULL, nothing_is_left);
}
