/* SIGKILLs at random moments under full load, against an oracle: in a page that outlives it each worker notes
 * what it is about to do and what was acknowledged. */
#include "spec/core/hunt.h"

enum {
    WORKERS = 4,
    KEYS = 48, /* of each worker */
    COUNTERS = 16,
    LATE_MOST = 3, /* dead who are not buried yet */
};

static struct hunt hunt;

/* What a key has: len 0 is nothing. */
struct content {
    size_t len;
    uint32_t seed;
};

struct oracle {
    struct {
        struct content acknowledged;
        struct content intended;
        uint64_t version; /* the last that was acknowledged */
    } keys[KEYS];
    uint64_t added[COUNTERS];
    _Atomic uint32_t writing; /* the key's number + 1 */
    _Atomic uint32_t adding;  /* the counter's number + 1 */
    _Atomic uint64_t done;
};
static struct oracle *oracles;
static uint64_t perhaps_added[COUNTERS]; /* when somebody died */
static uint64_t in_midst;                /* deaths in an operation */

static struct cm_bytes key_of(struct hunt_key *key, unsigned worker, size_t number) {
    return hunt_key(key, "worker %u key %zu", worker, number);
}
static uint64_t number_of(unsigned worker, size_t number) {
    return worker * UINT64_C(1000) + number;
}

static size_t random_len(uint64_t *random) {
    switch (random_below(random, 24)) {
    case 0:
        return 20000 + random_below(random, 60000);
    case 1:
    case 2:
        return 1000 + random_below(random, 6000);
    default:
        return 8 + random_below(random, 300);
    }
}

static void check_key(struct cm_store *store, struct cm_buf *buf, unsigned worker, size_t number,
                      struct content *content, uint64_t *version) {
    struct hunt_key key;
    struct cm_value value;
    int err = cm_store_get(store, key_of(&key, worker, number), buf, &value, version, NULL);
    HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
    *content = (struct content){0};
    const char *wrong = err ? NULL : hunt_check_value(value.bytes, number_of(worker, number), &content->seed);
    HUNT_CHECK(!wrong, "%s: %s, of %zu bytes", key.text, wrong, value.bytes.len);
    content->len = err ? 0 : value.bytes.len;
}

static bool same(struct content a, struct content b) {
    return a.len == b.len && a.seed == b.seed;
}

static void write_key(struct hunt_self *self, struct oracle *oracle) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct hunt_key key;
    uint64_t version = 0;
    size_t number = random_below(&self->random, KEYS);
    key_of(&key, self->number, number);
    struct content content = {0};
    if (random_below(&self->random, 5))
        content = (struct content){random_len(&self->random), (uint32_t)random_next(&self->random)};
    oracle->keys[number].intended = content;
    /* The fences keep the compiler's order: who reads this sees the process ended before. */
    atomic_store(&oracle->writing, (uint32_t)number + 1);
    int err;
    if (content.len) {
        hunt_fill(bytes, content.len, number_of(self->number, number), content.seed);
        struct cm_value value = {.bytes = {bytes, content.len}};
        err = hunt_set(self, key.bytes, &value, &(struct cm_change){0}, &version);
    } else {
        err = cm_store_remove(&self->store, key.bytes, &(struct cm_change){0}, &version);
    }
    HUNT_CHECK(err == 0, "write: %s", cm_error_name(err));
    uint64_t last = oracle->keys[number].version;
    HUNT_CHECK(version > last || (version == 0 && oracle->keys[number].acknowledged.len == 0),
               "%s: version %lu after %lu", key.text, (unsigned long)version, (unsigned long)last);
    if (version)
        oracle->keys[number].version = version;
    oracle->keys[number].acknowledged = content;
    atomic_store(&oracle->writing, 0);
}

static void add(struct hunt_self *self, struct oracle *oracle) {
    struct hunt_key key;
    uint64_t version;
    size_t number = random_below(&self->random, COUNTERS);
    atomic_store(&oracle->adding, (uint32_t)number + 1);
    int err = hunt_increment(self, hunt_key(&key, "counter %zu", number), (struct cm_number){.integer = 1},
                             &version);
    HUNT_CHECK(err == 0, "increment: %s", cm_error_name(err));
    /* Together as seen from outside: a death between the two counts it once, and perhaps once more. */
    oracle->added[number]++;
    atomic_store(&oracle->adding, 0);
}

static void work(struct hunt_self *self) {
    struct oracle *oracle = &oracles[self->number];
    while (!hunt_told_to_stop(self)) {
        struct content content;
        uint64_t version;
        size_t number = random_below(&self->random, KEYS);
        switch (random_below(&self->random, 8)) {
        case 0:
            check_key(&self->store, &self->buf, self->number, number, &content, &version);
            HUNT_CHECK(same(content, oracle->keys[number].acknowledged),
                       "worker %u key %zu: %zu bytes, not the %zu acknowledged", self->number, number,
                       content.len, oracle->keys[number].acknowledged.len);
            break;
        case 1: /* somebody else's */
            check_key(&self->store, &self->buf, (self->number + 1) % WORKERS, number, &content, &version);
            break;
        case 2:
        case 3:
        case 4:
            add(self, oracle);
            break;
        default:
            write_key(self, oracle);
        }
        atomic_fetch_add_explicit(&oracle->done, 1, memory_order_relaxed);
    }
}

/* After the worker's death: what it had noted is true, and is put right for its successor. */
static void check_oracle(unsigned worker) {
    static struct cm_buf buf;
    struct oracle *oracle = &oracles[worker];
    size_t writing = atomic_exchange(&oracle->writing, 0);
    size_t adding = atomic_exchange(&oracle->adding, 0);
    in_midst += writing || adding;
    if (adding)
        perhaps_added[adding - 1]++;
    for (size_t i = 0; i < KEYS; i++) {
        struct content content;
        uint64_t version;
        check_key(&hunt.store, &buf, worker, i, &content, &version);
        bool was = same(content, oracle->keys[i].acknowledged);
        bool is = i + 1 == writing && same(content, oracle->keys[i].intended);
        HUNT_CHECK(was || is, "worker %u key %zu: %zu bytes of seed %u; acknowledged %zu of %u%s %zu of %u",
                   worker, i, content.len, content.seed, oracle->keys[i].acknowledged.len,
                   oracle->keys[i].acknowledged.seed, i + 1 == writing ? ", intended" : ", then",
                   oracle->keys[i].intended.len, oracle->keys[i].intended.seed);
        HUNT_CHECK(!content.len || version >= oracle->keys[i].version,
                   "worker %u key %zu: version %lu after %lu", worker, i, (unsigned long)version,
                   (unsigned long)oracle->keys[i].version);
        oracle->keys[i].acknowledged = content;
        if (content.len)
            oracle->keys[i].version = version;
    }
    buf.len = 0;
    cm_buf_deinit(&buf);
    buf = (struct cm_buf){0};
}

static void check_counters(void) {
    for (size_t i = 0; i < COUNTERS; i++) {
        struct hunt_key key;
        struct cm_value value = {0};
        uint64_t expected = 0;
        for (unsigned j = 0; j < WORKERS; j++)
            expected += oracles[j].added[i];
        int err = cm_store_get(&hunt.store, hunt_key(&key, "counter %zu", i), NULL, NULL, NULL, NULL);
        struct cm_buf buf = {0};
        if (!err)
            err = cm_store_get(&hunt.store, key.bytes, &buf, &value, NULL, NULL);
        HUNT_CHECK(err == 0 && value.is_number, "counter %zu is not there", i);
        uint64_t sum = (uint64_t)value.number.integer;
        HUNT_CHECK(sum >= expected && sum <= expected + perhaps_added[i],
                   "counter %zu is %lu, acknowledged %lu, and perhaps %lu", i, (unsigned long)sum,
                   (unsigned long)expected, (unsigned long)perhaps_added[i]);
        cm_buf_deinit(&buf);
    }
}

/* Seats of the dead that have been repaired and wait for their burial, as they do while the master has frames
 * of theirs to handle. */
static uint32_t late[LATE_MOST];
static unsigned late_count;

static void bury_all(void) {
    for (; late_count; late_count--) {
        cm_reaper_bury(&hunt.reaper, late[late_count - 1]);
        hunt_check_unnamed(&hunt, late[late_count - 1]);
    }
}

static void kill_one(uint64_t *random) {
    unsigned number = (unsigned)random_below(random, WORKERS);
    HUNT_CHECK(!hunt_is(&hunt, number, WEXITED) || hunt_take(&hunt, number) == 0,
               "a worker has ended by a signal");
    kill(hunt.workers[number].pid, SIGKILL);
    hunt_until(&hunt, number, WEXITED);
    assert_int_equal(hunt_take(&hunt, number), SIGKILL);
    if (random_below(random, 2))
        hunt_turn(&hunt); /* it is no child any more, and not repaired yet */
    cm_reaper_repair(&hunt.reaper, hunt.workers[number].seat);
    hunt_turn(&hunt); /* what it had asked for is done */
    if (late_count == LATE_MOST)
        bury_all();
    late[late_count++] = hunt.workers[number].seat;
    check_oracle(number);
    hunt_start(&hunt, number, work, NULL);
}

/* Fills so much of the memory with what stays as it is. How many keys that took. */
static uint64_t fill(unsigned per_mille) {
    struct cm_store_stats stats;
    struct hunt_key key;
    uint64_t count = 0;
    for (;; count++) {
        cm_store_stats(&hunt.store, &stats);
        if (stats.used_bytes >= stats.limit_bytes / 1000 * per_mille)
            return count;
        hunt_put(&hunt, hunt_key(&key, "filler %lu", (unsigned long)count), count, 100 + count % 500, 1);
        hunt_turn(&hunt);
    }
}

static void check_filler(uint64_t count) {
    struct cm_buf buf = {0};
    for (uint64_t i = 0; i < count; i++) {
        struct hunt_key key;
        struct cm_value value;
        uint32_t seed;
        int err = cm_store_get(&hunt.store, hunt_key(&key, "filler %lu", (unsigned long)i), &buf, &value,
                               NULL, NULL);
        HUNT_CHECK(err == 0, "%s: %s", key.text, cm_error_name(err));
        HUNT_CHECK(!hunt_check_value(value.bytes, i, &seed), "%s has another value", key.text);
    }
    cm_buf_deinit(&buf);
}

/* *state: how full the memory is before. */
static void test_kills(void **state) {
    unsigned kills = hunt_is_long ? 1000 : 60;
    uint64_t filler = fill(*(unsigned *)*state);
    for (unsigned i = 0; i < WORKERS; i++)
        hunt_start(&hunt, i, work, NULL);
    hunt.always_cleaning = true;
    uint64_t random = hunt_is_long ? hunt_now_us() : 1, start_us = hunt_now_us();
    printf("kills: seed %lu\n", (unsigned long)random);
    for (unsigned i = 0; i < kills; i++) {
        hunt_run(&hunt, random_below(&random, 20000));
        kill_one(&random);
    }
    hunt_run(&hunt, 100000);
    hunt_finish(&hunt);
    bury_all();
    for (unsigned i = 0; i < WORKERS; i++)
        check_oracle(i);
    check_counters();
    check_filler(filler);
    assert_true(hunt_clean(&hunt));
    struct hunt_audit audit;
    hunt_audit(&hunt, true, &audit);
    uint64_t done = 0;
    for (uint32_t i = CM_MASTER_SEAT + 1; i <= hunt.segment.layout.seats; i++)
        hunt_check_unnamed(&hunt, i);
    for (unsigned i = 0; i < WORKERS; i++)
        done += atomic_load(&oracles[i].done);
    printf("kills: %u in %.2f s, %lu of them in the midst of an operation, %lu operations, %lu cleaned, %lu "
           "served, "
           "%lu refused though there was room\n",
           kills, (double)(hunt_now_us() - start_us) / 1e6, (unsigned long)in_midst, (unsigned long)done,
           (unsigned long)hunt.cleaner.cleaned_chunks, (unsigned long)hunt.served,
           (unsigned long)hunt.refused);
}

static int open_hunt(void) {
    hunt_open(&hunt, UINT64_C(24) << 20, WORKERS + LATE_MOST + 2);
    oracles = hunt_share(WORKERS * sizeof *oracles);
    memset(perhaps_added, 0, sizeof perhaps_added);
    in_midst = 0;
    return 0;
}

static int open_empty(void **state) {
    static unsigned per_mille = 0;
    *state = &per_mille;
    return open_hunt();
}

static int open_full(void **state) {
    static unsigned per_mille = 950;
    *state = &per_mille;
    return open_hunt();
}

static int close_hunt(void **state) {
    (void)state;
    hunt_close(&hunt);
    return 0;
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kills, open_empty, close_hunt),
        cmocka_unit_test_setup_teardown(test_kills, open_full, close_hunt),
    };
    return cmocka_run_group_tests_name("kills", tests, NULL, NULL);
}
