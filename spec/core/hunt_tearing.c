/* Readers beside writers on few hot keys and some colder ones, while the cleaner moves everything all the
 * time: each value that is read is whole, and a key's versions never go back, also from what one reader sees
 * to what another one sees then; and what stands (cm_table_stands) is what was read. Three kinds of keys:
 * bytes of changing length, from one byte to many fragments, which are sometimes removed; numbers, which
 * change in place; and both in turn. Of some values only a part is read, after a search that looks here and
 * there. */
#include "spec/core/hunt.h"

enum {
    READERS = 2,
    WRITERS = 2,
    KEYS = 72, /* a third of each kind */
    HOT = 12,  /* of them; the others are written rarely, so that the cleaner finds them and moves them */
    LONG_BYTES = 200000,
    BATCH = 64,
};
#define LONG_READS UINT64_C(50000000) /* in each of two segments */

static struct hunt hunt;

struct counts {
    _Atomic uint64_t reads;
    _Atomic uint64_t longs; /* of these, in fragments or copied under hazards */
    _Atomic uint64_t numbers;
    _Atomic uint64_t absent;
    _Atomic uint64_t as_owner;
    _Atomic uint64_t parts;
    _Atomic uint64_t versions; /* how often a reader saw another one than before */
    _Atomic uint64_t stood;    /* of the reads: nothing had changed */
};
static struct counts *counts;
static _Atomic uint64_t *latest; /* of each key, the last version that any reader has seen */

static void add(_Atomic uint64_t *count) {
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
}

static size_t random_len(uint64_t *random) {
    size_t kind = random_below(random, 128);
    if (kind == 0)
        return LONG_BYTES / 2 + random_below(random, LONG_BYTES / 2);
    if (kind < 4)
        return 4097 + random_below(random, 16000);
    if (kind < 12)
        return 300 + random_below(random, 4000);
    return 1 + random_below(random, 200);
}

static size_t random_key(uint64_t *random, size_t cold_part) {
    return random_below(random, random_below(random, cold_part) ? HOT : KEYS);
}

static void write_values(struct hunt_self *self) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct hunt_key key;
    uint64_t version;
    while (!hunt_told_to_stop(self)) {
        size_t number = random_key(&self->random, 16);
        hunt_key(&key, "key %zu", number);
        size_t what = random_below(&self->random, 16);
        struct cm_value value = {0};
        int err;
        if (what == 0) {
            err = cm_store_remove(&self->store, key.bytes, &(struct cm_change){0}, &version);
        } else {
            value.is_number = number % 3 == 1 || (number % 3 == 2 && what % 2);
            if (value.is_number) {
                int64_t n = (int64_t)(random_next(&self->random) % 1000000000 * KEYS + number);
                value.number = what < 4 ? (struct cm_number){.is_float = true, .real = (double)n}
                                        : (struct cm_number){.integer = n};
            } else {
                value.bytes = (struct cm_bytes){bytes, random_len(&self->random)};
                hunt_fill(bytes, value.bytes.len, number, (uint32_t)random_next(&self->random));
            }
            err = hunt_set(self, key.bytes, &value, &(struct cm_change){0}, &version);
        }
        HUNT_CHECK(err == 0, "write: %s", cm_error_name(err));
    }
}

/* What a reader saw of a key last. */
struct seen {
    uint64_t version;
    uint64_t content; /* the number, or seed and length: of one version there is one */
};

static void look_at(size_t number, const struct cm_value *value, uint64_t version, struct seen *seen,
                    struct counts *count) {
    uint64_t content;
    if (value->is_number) {
        int64_t n = value->number.is_float ? (int64_t)value->number.real : value->number.integer;
        HUNT_CHECK(n % KEYS == (int64_t)number, "key %zu has the number %ld", number, (long)n);
        content = (uint64_t)n;
        add(&count->numbers);
    } else {
        uint32_t seed;
        const char *wrong = hunt_check_value(value->bytes, number, &seed);
        HUNT_CHECK(!wrong, "torn: %s, of %zu bytes", wrong, value->bytes.len);
        content = (uint64_t)seed << 32 | value->bytes.len;
        if (value->bytes.len > 4096)
            add(&count->longs);
    }
    HUNT_CHECK(version >= seen->version, "key %zu goes back from version %lu to %lu", number,
               (unsigned long)seen->version, (unsigned long)version);
    HUNT_CHECK(version != seen->version || content == seen->content, "key %zu has two values of version %lu",
               number, (unsigned long)version);
    if (version != seen->version)
        add(&count->versions);
    *seen = (struct seen){version, content};
}

/* What one sees everybody sees from then on. */
static void note_latest(size_t number, uint64_t floor, uint64_t version) {
    HUNT_CHECK(version >= floor, "key %zu has version %lu after somebody saw %lu", number,
               (unsigned long)version, (unsigned long)floor);
    while (floor < version && !atomic_compare_exchange_weak(&latest[number], &floor, version)) {
    }
}

/* 0 where it does not stand. */
static uint64_t read_standing(struct hunt_self *self, size_t number, const struct cm_spot *spot,
                              struct seen *seen, struct counts *count) {
    struct cm_value value = {.is_number = true};
    uint64_t version;
    if (spot->is_number && cm_store_number_at(&self->store, spot, &value.number, &version)) {
        look_at(number, &value, version, seen, count);
        return version;
    }
    return !spot->is_number && cm_table_stands(self->participant.segment, spot) ? spot->version : 0;
}

/* What a search for a part has met. */
struct search {
    uint64_t random;
    size_t number; /* of the key */
    size_t at, len, value_len;
    uint32_t seed;
    const char *wrong;
};

/* Looks into a long value at some places from the front to the end, and wants what comes next. */
static int find_part(void *data, struct cm_stream *value, uint64_t *at, uint64_t *len) {
    struct search *search = data;
    size_t total = search->value_len = value->left;
    uint64_t random = search->random, first;
    search->wrong = NULL;
    *at = *len = search->at = search->len = 0;
    if (total <= 16)
        return 0;
    int err = cm_stream_look(value, 8);
    if (err)
        return err;
    memcpy(&first, value->ready.data, 8);
    search->seed = (uint32_t)(first >> 32);
    if ((uint32_t)first != total)
        search->wrong = "the length in it is another";
    for (uint64_t skip = 8;; skip = 8 * random_below(&random, total / 16)) {
        if (value->left <= skip + CM_STREAM_LOOK_BYTES)
            break;
        err = cm_stream_skip(value, skip);
        if (!err)
            err = cm_stream_look(value, CM_STREAM_LOOK_BYTES);
        if (err)
            return err;
        struct cm_bytes look = {value->ready.data, CM_STREAM_LOOK_BYTES};
        const char *wrong = hunt_check_part(look, total - value->left, total, search->number, search->seed);
        search->wrong = search->wrong ? search->wrong : wrong;
    }
    *at = search->at = value->left == total ? 8 : total - value->left;
    *len = search->len = 1 + random_below(&random, total - search->at);
    return cm_stream_skip(value, search->at + search->len - (total - value->left));
}

static void read_part(struct hunt_self *self, size_t number, struct cm_bytes key, struct seen *seen,
                      struct counts *count) {
    struct search search = {.random = random_next(&self->random), .number = number};
    struct cm_bytes part;
    uint64_t version;
    int err = cm_store_get_part(&self->store, key, find_part, &search, &self->buf, &part, &version);
    HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get_part: %s", cm_error_name(err));
    HUNT_CHECK(self->participant.tries <= 9, "%u tries", self->participant.tries);
    if (self->participant.tries > 8)
        add(&count->as_owner);
    if (err)
        return;
    HUNT_CHECK(version >= seen->version, "key %zu goes back in a part", number);
    if (!search.value_len)
        return; /* a number */
    add(&count->parts);
    const char *wrong = search.wrong;
    if (!wrong && search.len)
        wrong = hunt_check_part(part, search.at, search.value_len, number, search.seed);
    HUNT_CHECK(!wrong, "torn: %s, in a part of %zu of %zu bytes", wrong, search.len, search.value_len);
    HUNT_CHECK(part.len == search.len, "a part of %zu bytes instead of %zu", part.len, search.len);
    bool same = search.value_len <= 16 || seen->content == ((uint64_t)search.seed << 32 | search.value_len);
    HUNT_CHECK(version != seen->version || same, "key %zu has two values of version %lu", number,
               (unsigned long)version);
}

static void read_values(struct hunt_self *self) {
    struct counts *count = &counts[self->number];
    struct seen seen[KEYS] = {0};
    struct hunt_key keys[KEYS];
    struct cm_spot spots[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        hunt_key(&keys[i], "key %zu", i);
        spots[i].word = CM_SPOT_NEVER;
    }
    while (!hunt_told_to_stop(self)) {
        for (int i = 0; i < BATCH; i++) {
            size_t number = random_key(&self->random, 2);
            if (random_below(&self->random, 4) == 0)
                read_part(self, number, keys[number].bytes, &seen[number], count);
            struct cm_value value;
            uint64_t floor = atomic_load(&latest[number]);
            uint64_t version = random_below(&self->random, 2)
                                   ? read_standing(self, number, &spots[number], &seen[number], count)
                                   : 0;
            add(&count->reads);
            if (version) {
                note_latest(number, floor, version);
                add(&count->stood);
                continue;
            }
            struct cm_key key = cm_store_key(&self->store, keys[number].bytes);
            int err =
                cm_store_get_unless(&self->store, &key, 0, &self->buf, &value, &version, &spots[number]);
            HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
            HUNT_CHECK(self->participant.tries <= 9, "%u tries", self->participant.tries);
            if (self->participant.tries > 8)
                add(&count->as_owner);
            if (err) {
                add(&count->absent);
            } else {
                look_at(number, &value, version, &seen[number], count);
                note_latest(number, floor, version);
            }
        }
    }
}

static uint64_t sum_of(size_t offset) {
    uint64_t sum = 0;
    for (int i = 0; i < READERS; i++)
        sum += *(uint64_t *)(void *)((uint8_t *)&counts[i] + offset);
    return sum;
}
#define SUM(what) ((unsigned long)sum_of(offsetof(struct counts, what)))

static void test_tearing(void **state) {
    const char *name = *state;
    for (unsigned i = 0; i < READERS + WRITERS; i++)
        hunt_start(&hunt, i, i < READERS ? read_values : write_values, NULL);
    hunt.always_cleaning = true;
    uint64_t start_us = hunt_now_us();
    while (hunt_is_long ? SUM(reads) - SUM(stood) < LONG_READS : hunt_now_us() - start_us < 1200000) {
        hunt_run(&hunt, 10000);
        for (unsigned i = 0; i < READERS + WRITERS; i++) {
            if (hunt_is(&hunt, i, WEXITED))
                hunt_finish(&hunt); /* fails, and says why */
        }
    }
    hunt_finish(&hunt);
    uint64_t writes = 0;
    for (unsigned i = READERS; i < READERS + WRITERS; i++)
        writes += atomic_load(&hunt.shared->workers[i].operations);
    printf(
        "tearing, %s: %lu reads (%lu without a look, %lu above 4 KiB, %lu numbers, %lu absent, %lu as owner, "
        "%lu changes seen), %lu of parts, %lu writes, each of %u chunks used %lu times, %lu cleaned, %lu "
        "served, %lu refused though there was room\n",
        name, SUM(reads), SUM(stood), SUM(longs), SUM(numbers), SUM(absent), SUM(as_owner), SUM(versions),
        SUM(parts), (unsigned long)writes, hunt.segment.layout.chunks,
        (unsigned long)(hunt_generations(&hunt) / hunt.segment.layout.chunks),
        (unsigned long)hunt.cleaner.cleaned_chunks, (unsigned long)hunt.served, (unsigned long)hunt.refused);
    assert_true(SUM(stood) > 1000 && SUM(longs) > 0 && SUM(parts) > 0 && SUM(numbers) > 0 &&
                SUM(versions) > 1000);
    struct hunt_audit audit;
    assert_true(hunt_clean(&hunt));
    hunt_audit(&hunt, true, &audit);
}

static int open_of(uint64_t bytes) {
    hunt_open(&hunt, bytes, READERS + WRITERS + 1);
    counts = hunt_share(READERS * sizeof *counts);
    latest = hunt_share(KEYS * sizeof *latest);
    return 0;
}

static int open_middle(void **state) {
    static char name[] = "chunks of 128 kB";
    *state = name;
    return open_of(UINT64_C(64) << 20);
}

/* Values of more than 500 bytes are fragments here, the longest of 400. */
static int open_small(void **state) {
    static char name[] = "chunks of 8 kB";
    *state = name;
    return open_of(UINT64_C(8) << 20);
}

static int close_hunt(void **state) {
    (void)state;
    hunt_close(&hunt);
    return 0;
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tearing, open_middle, close_hunt),
        cmocka_unit_test_setup_teardown(test_tearing, open_small, close_hunt),
    };
    return cmocka_run_group_tests_name("tearing", tests, NULL, NULL);
}
