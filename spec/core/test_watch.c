/* The watch set against an array of the names that are in it. */
#include <stdio.h>
#include <stdlib.h>

#include "data/watch.h"
#include "spec/core/segments.h"

enum {
    BYTES = 1 << 20,
    SEATS = 3,
    BUCKET_HASHES = 7, /* what a bucket has room for */
    NAMES = 120,
    FEW = 12,
    MOST_LENGTHS = 30, /* of prefixes: more than the header has places for */
    STEPS = 20000,
};

static struct cm_segment segment;
static struct cm_watch_set set;

static int open_one(void **state) {
    (void)state;
    open_segment(&segment, BYTES, SEATS);
    cm_watch_init(&set, &segment);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    cm_segment_close(&segment);
    return 0;
}

struct name {
    uint8_t bytes[64];
    size_t len;
    bool prefix;
    bool there;
    bool all;
};

static struct cm_bytes bytes_of(const struct name *name) {
    return (struct cm_bytes){name->bytes, name->len};
}

static struct name name_of(const char *text, bool prefix) {
    struct name name = {.len = strlen(text), .prefix = prefix};
    assert_true(name.len <= sizeof name.bytes);
    memcpy(name.bytes, text, name.len);
    return name;
}

static void add(struct name *name) {
    name->all = cm_watch_add(&set, bytes_of(name), name->prefix);
    name->there = true;
}

static void take_out(struct name *name) {
    cm_watch_remove(&set, bytes_of(name), name->prefix, name->all);
    name->there = false;
}

static bool sees(const char *key) {
    return cm_watch_sees(&segment, (struct cm_key[]){cm_table_key(
                                       &segment, (struct cm_bytes){(const uint8_t *)key, strlen(key)})});
}

/* A byte of the set, the header's counters included, that is not 0; or NULL. */
static const char *left_over(void) {
    struct cm_header *header = segment.header;
    if (atomic_load(&header->watches) || atomic_load(&header->watched_all))
        return "a count";
    for (int i = 0; i < CM_WATCHED_LENGTHS; i++) {
        if (atomic_load(&header->watched_lengths[i]) || set.lengths[i])
            return "a length";
    }
    const uint8_t *bytes = segment.base + segment.layout.watches_at;
    for (size_t i = 0; i < (size_t)segment.layout.watch_buckets * CM_CACHE_LINE; i++) {
        if (bytes[i])
            return "a bucket";
    }
    return NULL;
}

static void nobody_listens_at_first(void **state) {
    (void)state;
    assert_false(cm_watch_any(&segment));
    assert_false(sees("a"));
    assert_null(left_over());
}

static void a_key_is_seen_while_it_is_watched(void **state) {
    (void)state;
    struct name name = name_of("key", false);
    add(&name);
    assert_false(name.all);
    assert_true(cm_watch_any(&segment));
    assert_true(sees("key"));
    assert_false(sees("ke"));
    assert_false(sees("keys"));
    take_out(&name);
    assert_false(sees("key"));
    assert_null(left_over());
}

static void a_prefix_is_seen_in_the_keys_that_begin_with_it(void **state) {
    (void)state;
    struct name name = name_of("pre", true);
    add(&name);
    assert_false(name.all);
    assert_true(sees("pre"));
    assert_true(sees("prefix"));
    assert_false(sees("pr"));
    assert_false(sees("Prefix"));
    assert_false(sees("xpre"));
    take_out(&name);
    assert_false(sees("prefix"));
    assert_null(left_over());
}

static void the_empty_prefix_is_all_keys(void **state) {
    (void)state;
    struct name name = name_of("", true);
    add(&name);
    assert_true(name.all);
    assert_true(sees("a"));
    assert_true(sees("anything"));
    take_out(&name);
    assert_false(sees("a"));
    assert_null(left_over());
}

static void a_name_may_be_a_key_and_a_prefix(void **state) {
    (void)state;
    struct name key = name_of("both", false), prefix = name_of("both", true);
    add(&key);
    add(&prefix);
    take_out(&key);
    assert_true(sees("both"));
    assert_true(sees("bothersome"));
    add(&key);
    take_out(&prefix);
    assert_true(sees("both"));
    assert_false(sees("bothersome"));
    take_out(&key);
    assert_null(left_over());
}

/* The first of them have a place each, the others are watched by watching everything. */
static void more_lengths_than_there_are_places_for_watch_every_key(void **state) {
    (void)state;
    struct name names[CM_WATCHED_LENGTHS + 2];
    char text[64];
    for (int i = 0; i < CM_WATCHED_LENGTHS + 2; i++) {
        snprintf(text, sizeof text, "%0*d", i + 1, 0);
        names[i] = name_of(text, true);
        assert_false(sees("unwatched"));
        if (i < CM_WATCHED_LENGTHS) {
            add(&names[i]);
            assert_false(names[i].all);
        }
    }
    add(&names[CM_WATCHED_LENGTHS]);
    add(&names[CM_WATCHED_LENGTHS + 1]);
    assert_true(names[CM_WATCHED_LENGTHS].all && names[CM_WATCHED_LENGTHS + 1].all);
    assert_true(sees("unwatched"));
    take_out(&names[CM_WATCHED_LENGTHS]);
    assert_true(sees("unwatched"));
    /* A place that is free again is not the place of one that had none. */
    take_out(&names[3]);
    struct name same_len = name_of("other text of length 18" + 5, true);
    assert_int_equal(same_len.len, names[CM_WATCHED_LENGTHS + 1].len);
    add(&same_len);
    assert_false(same_len.all);
    take_out(&names[CM_WATCHED_LENGTHS + 1]);
    assert_false(sees("unwatched"));
    assert_true(sees((const char *)same_len.bytes));
    take_out(&same_len);
    for (int i = 0; i < CM_WATCHED_LENGTHS; i++) {
        if (i != 3)
            take_out(&names[i]);
    }
    assert_null(left_over());
}

static void several_prefixes_of_one_length_share_its_place(void **state) {
    (void)state;
    struct name names[] = {name_of("aa", true), name_of("bb", true), name_of("cc", true)};
    for (int i = 0; i < 3; i++)
        add(&names[i]);
    take_out(&names[0]);
    take_out(&names[2]);
    assert_true(sees("bbb"));
    assert_false(sees("aaa"));
    take_out(&names[1]);
    assert_null(left_over());
}

static uint64_t bucket_of(uint64_t hash) {
    return hash >> 16 & (segment.layout.watch_buckets - 1);
}

static uint64_t hash_of(const char *key) {
    return cm_watch_hash(&segment, (struct cm_bytes){(const uint8_t *)key, strlen(key)}, false);
}

/* The nth key of the first one's bucket. */
static void key_of_bucket(int nth, char text[32]) {
    uint64_t bucket = bucket_of(hash_of("0"));
    for (int i = 0, found = -1; found < nth; i++) {
        snprintf(text, 32, "%d", i);
        found += bucket_of(hash_of(text)) == bucket;
    }
}

static void a_full_bucket_says_yes_until_it_has_room_again(void **state) {
    (void)state;
    struct name names[BUCKET_HASHES + 2];
    char text[32], other[32];
    key_of_bucket(BUCKET_HASHES + 2, other);
    for (int i = 0; i < BUCKET_HASHES + 2; i++) {
        assert_int_equal(sees(other), i > BUCKET_HASHES);
        key_of_bucket(i, text);
        names[i] = name_of(text, false);
        add(&names[i]);
    }
    assert_true(sees(other));
    /* Keys of other buckets are not concerned. */
    int elsewhere = 0;
    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof text, "elsewhere %d", i);
        bool same = bucket_of(hash_of(text)) == bucket_of(hash_of("0"));
        assert_int_equal(sees(text), same);
        elsewhere += !same;
    }
    assert_true(elsewhere > 0);
    /* First those that it has, then those for which there was no room; each is seen to its end. */
    for (int i = 0; i < BUCKET_HASHES + 2; i++) {
        for (int j = i; j < BUCKET_HASHES + 2; j++)
            assert_true(sees((const char *)names[j].bytes));
        take_out(&names[i]);
    }
    assert_false(sees(other));
    assert_null(left_over());
}

/* --- random adds and removes */

static struct name names[NAMES];
static uint32_t *peaks; /* of each bucket, the most it had since it was empty */
static uint32_t *loads;

static void fill_names(uint64_t *random) {
    for (int i = 0; i < NAMES; i++) {
        struct name *name = &names[i];
        *name = (struct name){.prefix = random_below(random, 2)};
        name->len = name->prefix ? random_below(random, MOST_LENGTHS) : 1 + random_below(random, 6);
        for (size_t j = 0; j < name->len; j++)
            name->bytes[j] = (uint8_t)('a' + random_below(random, 2));
        for (int j = 0; j < i; j++) {
            if (names[j].prefix == name->prefix && names[j].len == name->len &&
                memcmp(names[j].bytes, name->bytes, name->len) == 0) {
                i--; /* each once */
                break;
            }
        }
    }
}

static void count(const struct name *name, int by) {
    if (name->all)
        return;
    uint64_t bucket = bucket_of(cm_watch_hash(&segment, bytes_of(name), name->prefix));
    loads[bucket] += (uint32_t)by;
    if (loads[bucket] > peaks[bucket] || loads[bucket] == 0)
        peaks[bucket] = loads[bucket];
}

static bool covers(const struct name *name, struct cm_bytes key) {
    return name->there && (name->prefix ? name->len <= key.len : name->len == key.len) &&
           (name->len == 0 || memcmp(name->bytes, key.data, name->len) == 0);
}

static bool overflowed(uint64_t hash) {
    return peaks[bucket_of(hash)] > BUCKET_HASHES;
}

/* Whether it may say yes though nobody listens for the key. */
static bool may_err(struct cm_bytes key) {
    bool may = overflowed(cm_watch_hash(&segment, key, false));
    for (int i = 0; i < NAMES; i++) {
        const struct name *name = &names[i];
        if (!name->there)
            continue;
        may |= name->all;
        if (name->prefix && name->len && name->len <= key.len)
            may |= overflowed(cm_watch_hash(&segment, (struct cm_bytes){key.data, name->len}, true));
    }
    return may;
}

static void check_key(struct cm_bytes key, unsigned *no, unsigned *erred) {
    bool watched = false;
    for (int i = 0; i < NAMES; i++)
        watched |= covers(&names[i], key);
    bool seen = cm_watch_sees(&segment, (struct cm_key[]){cm_table_key(&segment, key)});
    if (watched)
        assert_true(seen);
    else if (seen)
        assert_true(may_err(key));
    *no += !watched && !seen;
    *erred += !watched && seen;
}

static void change(struct name *name) {
    if (name->there) {
        take_out(name);
        count(name, -1);
    } else {
        add(name);
        count(name, 1);
    }
}

static void no_watched_key_is_ever_missed_and_others_only_where_room_ran_out(void **state) {
    (void)state;
    uint64_t random = 5;
    segment.layout.watch_buckets = 8; /* so that some have more than there is room for */
    peaks = calloc(segment.layout.watch_buckets, sizeof *peaks);
    loads = calloc(segment.layout.watch_buckets, sizeof *loads);
    assert_true(peaks && loads);
    unsigned no = 0, erred = 0;
    fill_names(&random);
    for (int step = 0; step < STEPS; step++) {
        /* Few of them at times, many at others. */
        bool few = step / 1000 % 2;
        for (int i = few && step % 1000 == 0 ? FEW : NAMES; i < NAMES; i++) {
            if (names[i].there)
                change(&names[i]);
        }
        change(&names[random_below(&random, few ? FEW : NAMES)]);
        for (int i = 0; i < 4; i++) {
            uint8_t bytes[MOST_LENGTHS];
            struct cm_bytes key = {bytes, 1 + random_below(&random, sizeof bytes)};
            for (size_t j = 0; j < key.len; j++)
                bytes[j] = (uint8_t)('a' + random_below(&random, 2 + (i == 3)));
            check_key(key, &no, &erred);
        }
        check_key(bytes_of(&names[random_below(&random, NAMES)]), &no, &erred);
    }
    assert_true(no > 1000 && erred > 1000);
    for (int i = 0; i < NAMES; i++) {
        if (names[i].there)
            take_out(&names[i]);
    }
    assert_null(left_over());
    free(peaks);
    free(loads);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_one, close_one)
    const struct CMUnitTest tests[] = {
        TEST(nobody_listens_at_first),
        TEST(a_key_is_seen_while_it_is_watched),
        TEST(a_prefix_is_seen_in_the_keys_that_begin_with_it),
        TEST(the_empty_prefix_is_all_keys),
        TEST(a_name_may_be_a_key_and_a_prefix),
        TEST(more_lengths_than_there_are_places_for_watch_every_key),
        TEST(several_prefixes_of_one_length_share_its_place),
        TEST(a_full_bucket_says_yes_until_it_has_room_again),
        TEST(no_watched_key_is_ever_missed_and_others_only_where_room_ran_out),
    };
    return cmocka_run_group_tests_name("watch", tests, NULL, NULL);
}
