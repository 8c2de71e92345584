/* Records: what is written is read back, keys are told apart, and what lies is never followed out of the
 * segment. */
#include <stdlib.h>

#include "memory/record.h"
#include "spec/core/segments.h"

enum { BYTES = 1 << 20, PAGE = 4096 };

static struct cm_segment segment;

static int open_one(void **state) {
    (void)state;
    open_segment(&segment, BYTES, 3);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    cm_segment_close(&segment);
    return 0;
}

static uint64_t chunks_end(void) {
    return cm_segment_chunk_at(&segment, segment.layout.chunks);
}

static struct cm_record *raw(uint64_t offset) {
    return (struct cm_record *)(void *)(segment.base + offset);
}

/* Copies, each of just that many words, so that a sanitizer sees what is too much. */
static uint8_t *new_room(uint64_t len) {
    uint8_t *room = malloc(cm_words(len) ? cm_words(len) : 1);
    assert_non_null(room);
    return room;
}

static void check_key(uint64_t offset, struct cm_shape shape, struct cm_bytes key) {
    assert_int_equal(shape.key_len, key.len);
    assert_true(cm_record_has_key(&segment, offset, shape, key));
    uint8_t *room = new_room(key.len);
    assert_true(cm_record_read_key(&segment, offset, shape, room));
    assert_memory_equal(room, key.data, key.len);
    free(room);
}

static void check_value(uint64_t offset, struct cm_shape shape, struct cm_bytes value) {
    assert_int_equal(shape.value_len, value.len);
    uint8_t *room = new_room(value.len);
    assert_true(cm_record_read_value(&segment, offset, shape, room));
    if (value.len)
        assert_memory_equal(room, value.data, value.len);
    free(room);
}

/* --- round trips */

static void shapes_are_packed_and_unpacked(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int i = 0; i < 10000; i++) {
        struct cm_shape shape = {(enum cm_kind)random_below(&random, 6),
                                 (uint32_t)random_below(&random, 65536), (uint32_t)random_next(&random)};
        struct cm_shape again = cm_shape_unpack(cm_shape_pack(shape));
        assert_int_equal(again.kind, shape.kind);
        assert_int_equal(again.key_len, shape.key_len);
        assert_int_equal(again.value_len, shape.value_len);
    }
    assert_int_equal(cm_shape_bytes((struct cm_shape){CM_KIND_NONE, 1, 1}), 0);
    assert_int_equal(cm_shape_bytes(cm_shape_unpack(0)), 0);
    assert_int_equal(cm_shape_bytes(cm_shape_unpack(UINT64_MAX)), 0);
    assert_int_equal(cm_shape_bytes((struct cm_shape){CM_KIND_BYTES, 3, 9}), CM_ENTRY_BYTES + 8 + 16);
    assert_int_equal(cm_shape_bytes((struct cm_shape){CM_KIND_INTEGER, 9, 0}), CM_ENTRY_BYTES + 8 + 16);
    assert_int_equal(cm_shape_bytes((struct cm_shape){CM_KIND_LONG, 9, 5000}), CM_ENTRY_BYTES + 8);
    assert_int_equal(cm_shape_bytes((struct cm_shape){CM_KIND_FRAGMENT, 0, 9}), CM_FRAGMENT_BYTES + 16);
    /* The largest there is does not come round to a small one. */
    assert_true(cm_shape_bytes((struct cm_shape){CM_KIND_BYTES, 65535, UINT32_MAX}) > UINT32_MAX);
    assert_true(cm_shape_bytes((struct cm_shape){CM_KIND_FRAGMENT, 0, UINT32_MAX}) > UINT32_MAX);
}

/* Writes it between two canaries, and looks at all of it. */
static void check_round_trip(uint64_t at, enum cm_kind kind, struct cm_bytes key, struct cm_bytes value) {
    struct cm_shape shape = {kind, (uint32_t)key.len, (uint32_t)value.len};
    uint64_t len = cm_shape_bytes(shape), canary = UINT64_C(0x0123456789abcdef), word;
    memset(segment.base + at - 8, 0xff, len + 16);
    memcpy(segment.base + at - 8, &canary, 8);
    memcpy(segment.base + at + len, &canary, 8);
    struct cm_record *record = cm_record_at(&segment, at);
    assert_ptr_equal(record, raw(at));
    cm_record_write(record, shape, 77, 88, key, value);
    memcpy(&word, segment.base + at - 8, 8);
    assert_int_equal(word, canary);
    memcpy(&word, segment.base + at + len, 8);
    assert_int_equal(word, canary);
    struct cm_shape read = cm_record_shape(record);
    assert_memory_equal(&read, &shape, sizeof shape);
    assert_int_equal(record->next, 0);
    assert_int_equal(record->hash, 77);
    assert_int_equal(cm_record_version(record), 0);
    assert_int_equal(cm_record_expiry(record), 88);
    check_key(at, read, key);
    if (kind == CM_KIND_BYTES) {
        check_value(at, read, value);
        return;
    }
    assert_int_equal(cm_record_number(record), 0);
    cm_record_set_number(record, kind == CM_KIND_FLOAT ? CM_KIND_INTEGER : CM_KIND_FLOAT,
                         UINT64_MAX - key.len);
    cm_record_set_expiry(record, 99);
    assert_int_equal(cm_record_number(record), UINT64_MAX - key.len);
    assert_int_equal(cm_record_expiry(record), 99);
    read = cm_record_shape(record);
    assert_int_equal(read.kind, kind == CM_KIND_FLOAT ? CM_KIND_INTEGER : CM_KIND_FLOAT);
    check_key(at, read, key);
}

static void what_is_written_is_read_back(void **state) {
    (void)state;
    uint8_t key[40], value[104];
    uint64_t at = cm_segment_chunk_at(&segment, 3) + 64;
    for (size_t key_len = 1; key_len <= sizeof key; key_len++) {
        fill_bytes(key, key_len, key_len);
        for (size_t value_len = 0; value_len <= 100; value_len++) {
            fill_bytes(value, value_len, value_len + 5);
            check_round_trip(at, CM_KIND_BYTES, (struct cm_bytes){key, key_len},
                             (struct cm_bytes){value, value_len});
        }
        check_round_trip(at, CM_KIND_INTEGER, (struct cm_bytes){key, key_len}, (struct cm_bytes){0});
        check_round_trip(at, CM_KIND_FLOAT, (struct cm_bytes){key, key_len}, (struct cm_bytes){0});
    }
}

static void a_copy_is_the_same_record(void **state) {
    (void)state;
    uint64_t from = cm_segment_chunk_at(&segment, 1), to = cm_segment_chunk_at(&segment, 9) + 40;
    struct cm_bytes key = cm_bytes_of("a key"), value = cm_bytes_of("and what is under it");
    struct cm_shape shape = {CM_KIND_BYTES, (uint32_t)key.len, (uint32_t)value.len};
    cm_record_write(raw(from), shape, 1, 2, key, value);
    raw(from)->next = 3;
    raw(from)->version = 4;
    cm_record_copy(raw(to), raw(from), cm_shape_bytes(shape));
    assert_memory_equal(raw(to), raw(from), cm_shape_bytes(shape));
    check_key(to, shape, key);
    check_value(to, shape, value);
}

static void keys_are_told_apart_by_every_byte_and_the_length(void **state) {
    (void)state;
    /* Each is the beginning of the next ones, and the bytes behind a shorter one are those of a longer. */
    static const uint8_t letters[64] = "abcdefghijklmnopqrstuvwxyz";
    static const uint8_t zeroes[64] = {0};
    struct cm_bytes keys[130];
    size_t count = 0;
    for (size_t len = 1; len <= 40; len++) {
        keys[count++] = (struct cm_bytes){letters, len};
        keys[count++] = (struct cm_bytes){zeroes, len};
        keys[count++] = (struct cm_bytes){letters + 20, len}; /* zeroes from the sixth on */
    }
    const enum cm_kind kinds[] = {CM_KIND_BYTES, CM_KIND_INTEGER};
    uint64_t at = cm_segment_chunk_at(&segment, 3);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < 2; k++) {
            struct cm_shape shape = {kinds[k], (uint32_t)keys[i].len, 0};
            cm_record_write(raw(at), shape, 0, 0, keys[i], (struct cm_bytes){0});
            for (size_t j = 0; j < count; j++)
                assert_int_equal(cm_record_has_key(&segment, at, shape, keys[j]), i == j);
            for (size_t byte = 0; byte < keys[i].len; byte++) {
                uint8_t changed[40];
                memcpy(changed, keys[i].data, keys[i].len);
                changed[byte] ^= 1;
                assert_false(cm_record_has_key(&segment, at, shape, (struct cm_bytes){changed, keys[i].len}));
            }
        }
    }
}

/* --- places */

static void an_offset_that_is_none_gives_no_record(void **state) {
    (void)state;
    uint64_t first = segment.layout.chunks_at, end = chunks_end();
    const uint64_t none[] = {
        0,       8,       first - 8, first - 1, first + 1,         first + 4,
        end,     end + 8, end - 8,   end - 16,  UINT64_MAX,        UINT64_MAX - 7,
        end - 4, end * 2, 1 << 12,   end - 47,  UINT64_C(1) << 63, first + (UINT64_C(1) << 63)};
    struct cm_shape shape = {CM_KIND_BYTES, 1, 1};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        assert_null(cm_record_at(&segment, none[i]));
        uint8_t room[8];
        struct cm_payload payload;
        assert_false(cm_payload_open(&payload, &segment, none[i]));
        assert_false(cm_record_has_key(&segment, none[i], shape, cm_bytes_of("k")));
        assert_false(cm_record_read_key(&segment, none[i], shape, room));
        assert_false(cm_record_read_value(&segment, none[i], shape, room));
    }
    assert_non_null(cm_record_at(&segment, first));
    assert_non_null(cm_record_at(&segment, end - 48));
}

static void an_entry_may_end_where_the_chunks_end(void **state) {
    (void)state;
    struct cm_bytes key = cm_bytes_of("key"), value = cm_bytes_of("value");
    struct cm_shape shape = {CM_KIND_BYTES, 3, 5}, number = {CM_KIND_INTEGER, 3, 0};
    uint64_t at = chunks_end() - cm_shape_bytes(shape);
    cm_record_write(cm_record_at(&segment, at), shape, 0, 0, key, value);
    check_key(at, shape, key);
    check_value(at, shape, value);
    at = chunks_end() - cm_shape_bytes(number);
    cm_record_write(cm_record_at(&segment, at), number, 0, 0, key, (struct cm_bytes){0});
    check_key(at, number, key);
    /* One word more than there is. */
    at += 8;
    raw(at)->shape = cm_shape_pack(number);
    assert_false(cm_record_has_key(&segment, at, number, key));
}

/* An entry's head is read before it is known what it is. */
static void no_record_begins_where_an_entrys_head_would_not_fit(void **state) {
    (void)state;
    struct cm_bytes value = cm_bytes_of("a tail");
    struct cm_shape shape = {CM_KIND_LONG, 0, (uint32_t)value.len};
    uint64_t head = cm_segment_chunk_at(&segment, 0);
    uint8_t room[8];
    cm_record_write(raw(head), shape, 0, 0, (struct cm_bytes){0}, (struct cm_bytes){0});
    for (uint64_t rest = 8; rest <= CM_HEAD_BYTES + 8; rest += 8) {
        uint64_t at = chunks_end() - rest;
        bool fits = rest >= CM_HEAD_BYTES;
        if (fits)
            cm_record_write_fragment(raw(at), 0, 0, head, value.data, (uint32_t)value.len);
        raw(head)->payload[0] = at;
        assert_int_equal(cm_record_at(&segment, at) != NULL, fits);
        assert_int_equal(cm_record_read_value(&segment, head, shape, room), fits);
    }
}

/* --- fragments */

/* A value in fragments of those lengths, from chunk to chunk, backwards. Returns the entry's offset. */
static uint64_t write_long(struct cm_bytes bytes, const size_t *lens, size_t count) {
    uint64_t head = cm_segment_chunk_at(&segment, 100);
    cm_record_write(raw(head), (struct cm_shape){CM_KIND_LONG, 0, (uint32_t)bytes.len}, 0, 0,
                    (struct cm_bytes){0}, (struct cm_bytes){0});
    uint64_t last = head;
    for (size_t i = 0; i < count; i++) {
        uint64_t at = cm_segment_chunk_at(&segment, 90 - (uint32_t)i) + 8 * i;
        cm_record_write_fragment(raw(at), 0, 0, last, bytes.data, (uint32_t)lens[i]);
        bytes.data += lens[i];
        *cm_record_rest(raw(last)) = at;
        last = at;
    }
    return head;
}

static void a_payload_is_read_in_any_pieces(void **state) {
    (void)state;
    static const size_t lens[] = {8, 800, 16, 1024, 8, 8, 104, 301};
    enum { FRAGMENTS = sizeof lens / sizeof lens[0] };
    uint8_t bytes[2272];
    size_t len = 0;
    for (size_t i = 0; i < FRAGMENTS; i++)
        len += lens[i];
    assert_true(len <= sizeof bytes);
    fill_bytes(bytes, len, 9);
    uint64_t head = write_long((struct cm_bytes){bytes, len}, lens, FRAGMENTS), random = 3;
    for (int i = 0; i < 2000; i++) {
        struct cm_payload payload;
        assert_true(cm_payload_open(&payload, &segment, head));
        size_t at = 0;
        while (at < len) {
            assert_true(cm_payload_more(&payload));
            size_t piece = 8 * (1 + random_below(&random, random_below(&random, 4) ? 8 : 200));
            if (piece > len - at)
                piece = len - at;
            bool skip = random_below(&random, 4) == 0;
            uint8_t *room = new_room(piece);
            assert_true(cm_payload_read(&payload, skip ? NULL : room, piece));
            if (!skip)
                assert_memory_equal(room, bytes + at, piece);
            free(room);
            at += piece;
        }
        assert_false(cm_payload_more(&payload));
        assert_false(cm_payload_read(&payload, NULL, 1));
        assert_true(cm_payload_read(&payload, NULL, 0));
    }
    uint8_t *room = new_room(len + 8);
    struct cm_payload payload;
    assert_true(cm_payload_open(&payload, &segment, head));
    assert_false(cm_payload_read(&payload, room, len + 8)); /* more than there is */
    free(room);
}

static void a_long_entrys_key_and_value_lie_in_fragments(void **state) {
    (void)state;
    uint8_t run[1200], key[600];
    for (size_t key_len = 1; key_len < 600; key_len += key_len < 20 ? 1 : 37) {
        /* The key's words, filled up with zeroes, then the value. */
        size_t value_len = 1 + key_len * 7 % 500, words = cm_words(key_len);
        memset(run, 0, sizeof run);
        fill_bytes(key, key_len, key_len);
        memcpy(run, key, key_len);
        fill_bytes(run + words, value_len, 3);
        size_t first = words / 16 * 8;
        size_t lens[4], count = 0;
        if (first)
            lens[count++] = first;
        lens[count++] = words - first;
        if (value_len > 64)
            lens[count++] = 64;
        lens[count++] = value_len > 64 ? value_len - 64 : value_len;
        uint64_t head = write_long((struct cm_bytes){run, words + value_len}, lens, count);
        struct cm_shape shape = {CM_KIND_LONG, (uint32_t)key_len, (uint32_t)value_len};
        raw(head)->shape = cm_shape_pack(shape);
        check_key(head, shape, (struct cm_bytes){key, key_len});
        check_value(head, shape, (struct cm_bytes){run + words, value_len});
        for (size_t at = 0; at < key_len; at++) {
            key[at] ^= 4;
            assert_false(cm_record_has_key(&segment, head, shape, (struct cm_bytes){key, key_len}));
            key[at] ^= 4;
        }
        assert_false(cm_record_has_key(&segment, head, shape, (struct cm_bytes){key, key_len - 1}));
    }
}

static void fragments_that_lead_nowhere_are_not_followed(void **state) {
    (void)state;
    uint8_t bytes[64] = {0}, *room = new_room(64);
    static const size_t lens[] = {32, 32};
    uint64_t head = write_long((struct cm_bytes){bytes, 64}, lens, 2), first = raw(head)->payload[0];
    struct cm_shape shape = {CM_KIND_LONG, 0, 64};
    assert_true(cm_record_read_value(&segment, head, shape, room));
    const uint64_t links[] = {0, 8, first + 1, chunks_end(), UINT64_MAX, head};
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        raw(first)->next = links[i];
        assert_false(cm_record_read_value(&segment, head, shape, room));
        raw(head)->payload[0] = links[i];
        assert_false(cm_record_read_value(&segment, head, shape, room));
        raw(head)->payload[0] = first;
    }
    raw(first)->next = first; /* round and round, as long as is asked for */
    assert_true(cm_record_read_value(&segment, head, shape, room));
    const struct cm_shape lies[] = {{CM_KIND_FRAGMENT, 0, 0},
                                    {CM_KIND_FRAGMENT, 0, UINT32_MAX},
                                    {CM_KIND_FRAGMENT, 0, segment.layout.chunk_bytes},
                                    {CM_KIND_BYTES, 0, 32},
                                    {CM_KIND_NONE, 0, 32}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        raw(first)->shape = cm_shape_pack(lies[i]);
        assert_false(cm_record_read_value(&segment, head, shape, room));
    }
    free(room);
}

/* --- garbage */

/* A view of the chunks alone: the pages before and behind them cannot be touched. */
static struct cm_segment view_of_chunks(void) {
    struct cm_segment view = segment;
    uint64_t len = chunks_end();
    uint8_t *base = mmap(NULL, len + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(base, MAP_FAILED);
    uint64_t at = segment.layout.chunks_at;
    assert_ptr_equal(
        mmap(base + at, len - at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, segment.fd, (off_t)at),
        base + at);
    view.base = base;
    return view;
}

static uint64_t random_offset(uint64_t *random) {
    uint64_t first = segment.layout.chunks_at, end = chunks_end();
    switch (random_below(random, 8)) {
    case 0:
        return random_next(random) >> random_below(random, 64);
    case 1:
        return end - 8 * random_below(random, 40);
    case 2:
        return first + random_below(random, 64);
    default:
        return first + random_below(random, (end - first) / 8) * 8;
    }
}

static uint32_t random_len(uint64_t *random) {
    return (uint32_t)(random_next(random) >> 32 >> random_below(random, 32));
}

/* A word that means something, but not the truth. */
static uint64_t random_word(uint64_t *random) {
    switch (random_below(random, 4)) {
    case 0:
        return random_next(random);
    case 1:
        return random_offset(random);
    default:
        return cm_shape_pack((struct cm_shape){(enum cm_kind)random_below(random, 7),
                                               random_len(random) & (random_below(random, 2) ? 0xffff : 63),
                                               random_len(random)});
    }
}

static void spoil(const struct cm_segment *view, uint64_t *random, size_t words) {
    uint64_t first = segment.layout.chunks_at, end = chunks_end();
    for (size_t i = 0; i < words; i++) {
        /* Mostly where the chunks end, where there is something to fall off. */
        uint64_t back = random_below(random, 2) ? 8 * (1 + random_below(random, 64))
                                                : 8 * (1 + random_below(random, (end - first) / 8));
        atomic_store_explicit((_Atomic uint64_t *)(void *)(view->base + end - back), random_word(random),
                              memory_order_relaxed);
    }
}

static void read_what_is_there(const struct cm_segment *view, uint64_t *random) {
    enum { MOST = 70000 };
    uint64_t offset = random_offset(random);
    const struct cm_record *record = cm_record_at(view, offset);
    struct cm_shape shape = {(enum cm_kind)random_below(random, 7), random_len(random) & 0xffff,
                             random_len(random)};
    /* What was said a moment ago, as in a reader. */
    if (record && random_below(random, 4))
        shape = cm_record_shape(record);
    if (shape.value_len > MOST)
        shape.value_len %= MOST;
    uint8_t *room = new_room(shape.value_len);
    cm_record_read_value(view, offset, shape, room);
    free(room);
    room = new_room(shape.key_len);
    cm_record_read_key(view, offset, shape, room);
    cm_record_has_key(view, offset, shape, (struct cm_bytes){room, shape.key_len});
    free(room);
    struct cm_payload payload;
    if (!cm_payload_open(&payload, view, offset))
        return;
    for (int i = 0; i < 20 && cm_payload_more(&payload); i++) {
        assert_true(cm_segment_chunk_of(view, payload.at) < view->layout.chunks);
        if (!cm_payload_read(&payload, NULL, random_below(random, 2000)))
            return;
    }
}

static void garbage_is_never_followed_out_of_the_chunks(void **state) {
    (void)state;
    struct cm_segment view = view_of_chunks();
    uint64_t random = 11;
    spoil(&view, &random, 100000);
    for (int i = 0; i < 60000; i++) {
        spoil(&view, &random, 8);
        read_what_is_there(&view, &random);
    }
    munmap(view.base, chunks_end() + PAGE);
}

struct spoiling {
    struct cm_segment view;
    _Atomic uint64_t over;
};

static const char *spoil_on(void *data) {
    struct spoiling *spoiling = data;
    uint64_t random = 12;
    while (!atomic_load(&spoiling->over))
        spoil(&spoiling->view, &random, 1000);
    return NULL;
}

/* Each word may be another one at the second look. */
static void nor_is_garbage_that_changes_while_it_is_read(void **state) {
    (void)state;
    static struct spoiling spoiling;
    spoiling = (struct spoiling){.view = view_of_chunks()};
    struct running running;
    uint64_t random = 13;
    start_thread(&running, spoil_on, &spoiling);
    for (int i = 0; i < 60000; i++)
        read_what_is_there(&spoiling.view, &random);
    atomic_store(&spoiling.over, 1);
    end_thread(&running);
    munmap(spoiling.view.base, chunks_end() + PAGE);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_one, close_one)
    const struct CMUnitTest tests[] = {
        TEST(shapes_are_packed_and_unpacked),
        TEST(what_is_written_is_read_back),
        TEST(a_copy_is_the_same_record),
        TEST(keys_are_told_apart_by_every_byte_and_the_length),
        TEST(an_offset_that_is_none_gives_no_record),
        TEST(an_entry_may_end_where_the_chunks_end),
        TEST(no_record_begins_where_an_entrys_head_would_not_fit),
        TEST(a_payload_is_read_in_any_pieces),
        TEST(a_long_entrys_key_and_value_lie_in_fragments),
        TEST(fragments_that_lead_nowhere_are_not_followed),
        TEST(garbage_is_never_followed_out_of_the_chunks),
        TEST(nor_is_garbage_that_changes_while_it_is_read),
    };
#undef TEST
    return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
