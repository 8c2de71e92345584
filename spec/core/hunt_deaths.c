/* Deaths at named points: each operation at each point that it passes; and repairs and burials that lie
 * apart. */
#include "spec/core/hunt.h"

static struct hunt hunt;
static struct hunt_key big;
enum { BIG_BYTES = 900000 };

static void die_retiring(struct hunt_self *self) {
    uint64_t version;
    struct cm_value value = {.bytes = {(const uint8_t *)"short", 5}};
    cm_fault_arm("retiring-fragment", 1, CM_FAULT_KILL);
    cm_store_set(&self->store, big.bytes, &value, &(struct cm_change){0}, &version);
}

/* Between the freeing of the groups and the burial the master applies what the dead had sent, and may clean:
 * the chunks that `retiring_rest` leads through may be used anew by then. */
static bool check_late_burial(bool cleans) {
    hunt_key(&big, "big");
    hunt_put(&hunt, big.bytes, 1, BIG_BYTES, 1);
    cm_append_close(&hunt.participant);
    hunt_start(&hunt, 0, die_retiring, NULL);
    hunt_until(&hunt, 0, WEXITED);
    assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    uint32_t seat = hunt.workers[0].seat;
    uint64_t rest = atomic_load(&cm_segment_seat(&hunt.segment, seat)->retiring_rest);
    assert_true(rest != 0);
    cm_reaper_repair(&hunt.reaper, seat);
    if (cleans) {
        /* As the cleaner would by itself if that chunk were the emptiest. */
        cm_cleaner_mark(&hunt.cleaner, (uint32_t)cm_segment_chunk_of(&hunt.segment, rest));
        hunt_clean(&hunt);
        uint32_t first = CM_NO_CHUNK, last = CM_NO_CHUNK; /* that the new values have filled */
        struct hunt_key key;
        for (unsigned i = 0; i < 2000; i++) {
            hunt_put(&hunt, hunt_key(&key, "other %u", i), i, 1000, 1);
            last = hunt.participant.appender.chunk;
            first = first == CM_NO_CHUNK ? last : first;
        }
        for (uint32_t i = first; i < last; i++)
            cm_cleaner_mark(&hunt.cleaner, i);
        hunt_clean(&hunt);
    }
    cm_reaper_bury(&hunt.reaper, seat);
    bool done = hunt_clean(&hunt);
    struct hunt_audit audit;
    hunt_audit(&hunt, true, &audit);
    return done;
}

static void test_burial_at_once(void **state) {
    (void)state;
    assert_true(check_late_burial(false));
}

static void test_burial_after_cleaning(void **state) {
    (void)state;
    check_late_burial(true);
}

/* The chunk that `retiring` names may be the cleaner's reserve by then. */
static void test_cleaning_ends_after_late_burial(void **state) {
    (void)state;
    hunt_key(&big, "big");
    hunt_put(&hunt, big.bytes, 1, BIG_BYTES, 1);
    cm_append_close(&hunt.participant);
    hunt_start(&hunt, 0, die_retiring, NULL);
    hunt_until(&hunt, 0, WEXITED);
    assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    uint32_t seat = hunt.workers[0].seat;
    uint64_t rest = atomic_load(&cm_segment_seat(&hunt.segment, seat)->retiring_rest);
    cm_reaper_repair(&hunt.reaper, seat);
    cm_cleaner_mark(&hunt.cleaner, (uint32_t)cm_segment_chunk_of(&hunt.segment, rest));
    hunt_clean(&hunt);
    cm_reaper_bury(&hunt.reaper, seat);
    HUNT_CHECK(hunt_clean(&hunt), "%u chunks of the cleaner's reserve stay marked", hunt.cleaner.marked);
}

static int open_hunt(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(64) << 20, 3);
    return 0;
}

static int close_hunt(void **state) {
    (void)state;
    hunt_close(&hunt);
    return 0;
}

/* --- the matrix: each operation, dead at each point that it passes, at the 1st, 2nd and 3rd passing --- */

enum {
    MATRIX_SEATS = 8,
    VICTIMS_MOST = 48,
    OTHERS = 200,
    SHORT_BYTES = 300,
    MIDDLE_BYTES = 700,
    LONG_KEY_BYTES = 1010, /* with what an entry needs, more than a record may have */
    FRAGMENTED_BYTES = 45000,
    NTHS = 3,
};

static const char *const points[] = {
    "entry-appended",  "group-taken",       "before-release", "before-publish", "after-publish",
    "before-retiring", "retiring-fragment", "retired",        "before-unlink",  "after-unlink",
    "number-shut",     "number-versioned",  "number-stored",  "expiry-noted",   "chunk-claimed",
    "chunk-emptied",   "chunk-backed",      "chunk-closing",  "chunk-closed",   "counted",
};
enum { POINTS = sizeof points / sizeof *points };

/* What a key has. */
enum what { NOTHING, BYTES, NUMBER };
struct content {
    enum what what;
    size_t len;    /* of bytes */
    uint32_t seed; /* of bytes */
    bool is_float; /* of a number */
    int number;    /* in halves for a float */
    uint64_t expires_ms;
};

struct operation {
    const char *name;
    /* SET_ABSENT: fails where something is there. INCREMENT_AT: where it is known to be */
    enum { SET, SET_ABSENT, INCREMENT, INCREMENT_AT, REMOVE, EXPIRE } how;
    bool long_key;
    unsigned keys; /* so many, one after the other */
    struct content before;
    struct content after;
};
#define BYTES_OF(len, seed) \
    { BYTES, len, seed, false, 0, 0 }
#define INTEGER(n) \
    { NUMBER, 0, 0, false, n, 0 }
#define HALVES(n) \
    { NUMBER, 0, 0, true, n, 0 }
#define NONE \
    { NOTHING, 0, 0, false, 0, 0 }
#define FAR_MS (UINT64_C(1) << 50)

static const struct operation operations[] = {
    {"set new", SET, false, 48, NONE, BYTES_OF(MIDDLE_BYTES, 2)},
    {"set replace", SET, false, 48, BYTES_OF(SHORT_BYTES, 1), BYTES_OF(MIDDLE_BYTES, 2)},
    {"set new, long", SET, false, 8, NONE, BYTES_OF(FRAGMENTED_BYTES, 2)},
    {"set long for long", SET, false, 8, BYTES_OF(FRAGMENTED_BYTES + 9, 1), BYTES_OF(FRAGMENTED_BYTES, 2)},
    {"set short for long", SET, false, 8, BYTES_OF(FRAGMENTED_BYTES, 1), BYTES_OF(SHORT_BYTES, 2)},
    {"set long for short", SET, false, 8, BYTES_OF(SHORT_BYTES, 1), BYTES_OF(FRAGMENTED_BYTES, 2)},
    {"set under a long key", SET, true, 8, BYTES_OF(SHORT_BYTES, 1), BYTES_OF(MIDDLE_BYTES, 2)},
    {"set short where one is", SET_ABSENT, false, 8, BYTES_OF(SHORT_BYTES, 1), BYTES_OF(SHORT_BYTES, 1)},
    {"set long where one is", SET_ABSENT, false, 8, BYTES_OF(SHORT_BYTES, 1), BYTES_OF(SHORT_BYTES, 1)},
    {"set new number", SET, false, 48, NONE, INTEGER(7)},
    {"set number in place", SET, false, 8, INTEGER(5), INTEGER(7)},
    {"set float for integer", SET, false, 48, INTEGER(5), HALVES(7)},
    {"set number for bytes", SET, false, 48, BYTES_OF(SHORT_BYTES, 1), INTEGER(7)},
    {"set bytes for number", SET, false, 48, INTEGER(5), BYTES_OF(MIDDLE_BYTES, 2)},
    {"increment, new", INCREMENT, false, 48, NONE, INTEGER(2)},
    {"increment in place", INCREMENT, false, 8, INTEGER(5), INTEGER(7)},
    {"increment where it stands", INCREMENT_AT, false, 8, INTEGER(5), INTEGER(7)},
    {"increment to a float", INCREMENT, false, 48, INTEGER(5), HALVES(13)},
    {"increment under a long key, new", INCREMENT, true, 8, NONE, INTEGER(2)},
    {"increment under a long key", INCREMENT, true, 8, INTEGER(5), INTEGER(7)},
    {"remove short", REMOVE, false, 8, BYTES_OF(SHORT_BYTES, 1), NONE},
    {"remove long", REMOVE, false, 8, BYTES_OF(FRAGMENTED_BYTES, 1), NONE},
    {"remove number", REMOVE, false, 8, INTEGER(5), NONE},
    {"expire", EXPIRE, false, 8, BYTES_OF(SHORT_BYTES, 1), {BYTES, SHORT_BYTES, 1, false, 0, FAR_MS}},
    {"expire long",
     EXPIRE,
     false,
     8,
     BYTES_OF(FRAGMENTED_BYTES, 1),
     {BYTES, FRAGMENTED_BYTES, 1, false, 0, FAR_MS}},
    {"expire number", EXPIRE, false, 8, INTEGER(5), {NUMBER, 0, 0, false, 5, FAR_MS}},
    {"persist", EXPIRE, false, 8, {BYTES, SHORT_BYTES, 1, false, 0, FAR_MS}, BYTES_OF(SHORT_BYTES, 1)},
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

struct matrix {
    /* The case: the victim process's orders, and what it leaves. */
    const struct operation *operation;
    const char *point;
    unsigned nth;
    _Atomic uint32_t at;             /* the key that it is at */
    uint64_t versions[VICTIMS_MOST]; /* acknowledged to it; 0: none */
    /* The neighbour's orders: a key in the same group. */
    struct hunt_key neighbour;
    _Atomic uint32_t ordered;
    _Atomic uint32_t done;
    _Atomic uint64_t done_us;
};
static struct matrix *matrix;
static uint64_t last_versions[2][VICTIMS_MOST]; /* of the keys, by whether they are long */
static struct current {
    const char *operation;
    const char *point;
    unsigned variant; /* bit 0: claims find holes; bit 1: the master goes on between repair and burial */
    unsigned nth;
} current;
static uint32_t neighbour_seed;
static uint64_t worst_us;

static struct cm_bytes victim_key(struct hunt_key *key, bool is_long, unsigned i) {
    return hunt_key(key, "%s %0*u", is_long ? "long" : "victim", is_long ? LONG_KEY_BYTES : 2, i);
}

static struct cm_number number_of(const struct content *content) {
    if (content->is_float)
        return (struct cm_number){.is_float = true, .real = content->number / 2.0};
    return (struct cm_number){.integer = content->number};
}

static int set_content(struct cm_store *store, struct cm_bytes key, unsigned i, const struct content *content,
                       const struct cm_change *change, uint64_t *version) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct cm_value value = {.is_number = content->what == NUMBER};
    if (value.is_number) {
        value.number = number_of(content);
    } else {
        hunt_fill(bytes, content->len, i, content->seed);
        value.bytes = (struct cm_bytes){bytes, content->len};
    }
    return cm_store_set(store, key, &value, change, version);
}

static int increment_at(struct cm_store *store, struct cm_bytes key_bytes, struct cm_number delta,
                        uint64_t *version) {
    struct cm_key key = cm_store_key(store, key_bytes);
    struct cm_number sum;
    struct cm_spot spot;
    for (;;) {
        struct cm_value value;
        int err = cm_store_get_unless(store, &key, 0, NULL, &value, version, &spot);
        if (err || cm_store_add_at(store, &spot, delta, &sum)) {
            *version = cm_word_sequence(spot.word);
            return err;
        }
    }
}

static int operate(struct cm_store *store, const struct operation *operation, unsigned i, uint64_t *version) {
    struct hunt_key key;
    victim_key(&key, operation->long_key, i);
    const struct content *after = &operation->after;
    struct cm_number delta = {.integer = 2}, zero = {0}, sum;
    *version = 0;
    switch (operation->how) {
    case SET:
        return set_content(store, key.bytes, i, after, &(struct cm_change){0}, version);
    case SET_ABSENT: {
        struct content other = {
            BYTES, strstr(operation->name, "long") ? FRAGMENTED_BYTES : SHORT_BYTES, 3, false, 0, 0};
        int err = set_content(store, key.bytes, i, &other, &(struct cm_change){.if_absent = true}, version);
        return err == CM_E_EXISTS ? 0 : CM_E_CONFLICT;
    }
    case INCREMENT:
        if (after->is_float)
            delta = (struct cm_number){.is_float = true, .real = 1.5};
        return cm_store_increment(store, key.bytes, delta, zero, 0, &sum, version);
    case INCREMENT_AT:
        return increment_at(store, key.bytes, delta, version);
    case REMOVE:
        return cm_store_remove(store, key.bytes, &(struct cm_change){0}, version);
    case EXPIRE:
        return cm_store_expire(store, key.bytes, after->expires_ms);
    }
    return CM_E_BADVALUE;
}

static void be_victim(struct hunt_self *self) {
    cm_fault_arm(matrix->point, matrix->nth, CM_FAULT_KILL);
    for (unsigned i = 0; i < matrix->operation->keys; i++) {
        atomic_store(&matrix->at, i);
        uint64_t version;
        int err = operate(&self->store, matrix->operation, i, &version);
        HUNT_CHECK(err == 0, "%s: %s", matrix->operation->name, cm_error_name(err));
        matrix->versions[i] = version;
    }
    atomic_store(&matrix->at, matrix->operation->keys);
}

/* Gets and sets one key whenever it is told to, and says when it was done. */
static void be_neighbour(struct hunt_self *self) {
    uint8_t bytes[SHORT_BYTES];
    for (uint32_t seed = 1; !hunt_told_to_stop(self); hunt_pause()) {
        if (atomic_load(&matrix->ordered) < seed)
            continue;
        struct cm_value value;
        uint64_t version;
        int err = cm_store_get(&self->store, matrix->neighbour.bytes, &self->buf, &value, &version, NULL);
        HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
        HUNT_CHECK(err || !hunt_check_value(value.bytes, 5, &(uint32_t){0}), "the neighbour is torn");
        hunt_fill(bytes, sizeof bytes, 5, seed);
        value = (struct cm_value){.bytes = {bytes, sizeof bytes}};
        err = cm_store_set(&self->store, matrix->neighbour.bytes, &value, &(struct cm_change){0}, &version);
        HUNT_CHECK(err == 0, "set: %s", cm_error_name(err));
        atomic_store(&matrix->done_us, hunt_now_us());
        /* As the idle do; what has been the dead's and is marked could not be cleaned otherwise. */
        cm_append_close(&self->participant);
        atomic_store(&matrix->done, seed++);
    }
}

static bool is_content(unsigned i, bool is_long, const struct content *expected, uint64_t *version) {
    static struct cm_buf buf;
    struct hunt_key key;
    struct cm_value value;
    uint64_t expires_ms;
    int err = cm_store_get(&hunt.store, victim_key(&key, is_long, i), &buf, &value, version, &expires_ms);
    HUNT_CHECK(err == 0 || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
    if (err || expected->what == NOTHING)
        return err && expected->what == NOTHING;
    if (expires_ms != expected->expires_ms)
        return false;
    struct cm_number number = value.number;
    if (expected->what == NUMBER) {
        if (!value.is_number && cm_number_decode(value.bytes, &number))
            return false;
        struct cm_number wanted = number_of(expected);
        return number.is_float == wanted.is_float &&
               (number.is_float ? number.real == wanted.real : number.integer == wanted.integer);
    }
    if (value.is_number)
        return false;
    uint32_t seed;
    const char *wrong = hunt_check_value(value.bytes, i, &seed);
    HUNT_CHECK(!wrong, "%s: %s, of %zu bytes", key.text, wrong, value.bytes.len);
    return value.bytes.len == expected->len && seed == expected->seed;
}

static void prepare(const struct operation *operation) {
    struct hunt_key key;
    uint64_t version;
    for (unsigned i = 0; i < VICTIMS_MOST; i++) {
        for (int is_long = 0; is_long < 2; is_long++) {
            if (is_long != operation->long_key || i >= operation->keys || operation->before.what == NOTHING) {
                victim_key(&key, is_long, i);
                cm_store_remove(&hunt.store, key.bytes, &(struct cm_change){0}, &version);
            } else {
                victim_key(&key, is_long, i);
                struct cm_change change = {.expires_ms = operation->before.expires_ms};
                int err = set_content(&hunt.store, key.bytes, i, &operation->before, &change, &version);
                HUNT_CHECK(err == 0, "set: %s", cm_error_name(err));
            }
            HUNT_CHECK(!version || version > last_versions[is_long][i], "%.9s %u: version %lu after %lu",
                       key.text, i, (unsigned long)version, (unsigned long)last_versions[is_long][i]);
            if (version)
                last_versions[is_long][i] = version;
        }
    }
}

static void check_victims(const struct operation *operation, unsigned at) {
    for (unsigned i = 0; i < operation->keys; i++) {
        uint64_t version = 0, *last = &last_versions[operation->long_key][i];
        bool is_new = is_content(i, operation->long_key, &operation->after, &version);
        bool is_old = !is_new && is_content(i, operation->long_key, &operation->before, &version);
        HUNT_CHECK(i < at    ? is_new
                   : i == at ? is_old || is_new
                             : is_old || (is_new && operation->how == SET_ABSENT),
                   "key %u (dead at %u) has %s value", i, at,
                   is_old   ? "the old"
                   : is_new ? "the new"
                            : "no known");
        if (i < at && matrix->versions[i] > *last)
            *last = matrix->versions[i];
        HUNT_CHECK(!version || version >= *last, "key %u: version %lu after %lu", i, (unsigned long)version,
                   (unsigned long)*last);
        if (version)
            *last = version;
    }
}

static struct cm_bytes other_key(struct hunt_key *key, unsigned i) {
    return hunt_key(key, "other %u", i);
}

static void put_others(void) {
    struct hunt_key key;
    for (unsigned i = 0; i < OTHERS; i++)
        hunt_put(&hunt, other_key(&key, i), i, i % 20 ? 20 + i * 2 : 5000 + i * 20, i);
}

static int count_key(void *data, struct cm_bytes key) {
    (void)key;
    ++*(unsigned *)data;
    return 0;
}

/* All that nobody has written is as it was, and a walk meets it. */
static void check_others(void) {
    static struct cm_buf buf;
    struct hunt_key key;
    for (unsigned i = 0; i < OTHERS; i++) {
        struct cm_value value;
        uint32_t seed;
        int err = cm_store_get(&hunt.store, other_key(&key, i), &buf, &value, NULL, NULL);
        HUNT_CHECK(err == 0, "%s: %s", key.text, cm_error_name(err));
        const char *wrong = hunt_check_value(value.bytes, i, &seed);
        HUNT_CHECK(!wrong && seed == i, "%s: %s", key.text, wrong ? wrong : "another value");
    }
    unsigned met = 0;
    uint64_t cursor = 0;
    int err = cm_store_keys(&hunt.store, (struct cm_bytes){(const uint8_t *)"other ", 6}, &cursor, UINT32_MAX,
                            count_key, &met);
    HUNT_CHECK(err == 0 && met == OTHERS, "a walk meets %u of %u", met, OTHERS);
}

static void order_neighbour(uint32_t group) {
    hunt_key_in(&hunt, group, "neighbour", &matrix->neighbour);
    matrix->neighbour.bytes.data = (const uint8_t *)matrix->neighbour.text;
    atomic_store(&matrix->ordered, ++neighbour_seed);
}

/* From the repair on; it may have gone on before where the dead had no group. */
static void wait_for_neighbour(uint64_t from_us) {
    for (uint64_t deadline_us = from_us + 1000000; atomic_load(&matrix->done) < neighbour_seed;
         hunt_pause()) {
        if (hunt_is(&hunt, 1, WEXITED))
            hunt_take(&hunt, 1);
        HUNT_CHECK(hunt_now_us() < deadline_us, "the neighbour does not go on for a second");
    }
    uint64_t done_us = atomic_load(&matrix->done_us);
    if (done_us > from_us && done_us - from_us > worst_us)
        worst_us = done_us - from_us;
}

/* False where the operation ends without passing the point so often. */
static bool check_death(const struct operation *operation, const char *point, unsigned nth,
                        unsigned variant) {
    prepare(operation);
    cm_append_close(&hunt.participant);
    while (hunt_turn(&hunt)) {
    }
    /* A claim finds holes, or chunks with pages. */
    for (uint32_t i = 0; variant % 2 && i < hunt.segment.layout.chunks; i++)
        cm_chunk_punch(&hunt.segment, i);
    memset(matrix->versions, 0, sizeof matrix->versions);
    matrix->operation = operation;
    matrix->point = point;
    matrix->nth = nth;
    hunt_start(&hunt, 0, be_victim, NULL);
    uint32_t seat = hunt.workers[0].seat;
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !hunt_is(&hunt, 0, WEXITED); hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "%s at %s: no end", operation->name, point);
    unsigned at = atomic_load(&matrix->at);
    struct hunt_key key;
    uint32_t group = hunt_group(&hunt, victim_key(&key, operation->long_key, at < operation->keys ? at : 0));
    /* Each second time the neighbour waits already; else what the repair alone has made of the group is seen.
     */
    bool waits = (variant + nth) % 2;
    if (waits)
        order_neighbour(group);
    bool died = hunt_take(&hunt, 0) == SIGKILL;
    uint64_t from_us = hunt_now_us();
    cm_reaper_repair(&hunt.reaper, seat);
    struct hunt_audit audit;
    if (!waits) {
        check_victims(operation, at);
        hunt_audit(&hunt, false, &audit);
        from_us = hunt_now_us();
        order_neighbour(group);
    }
    wait_for_neighbour(from_us);
    check_victims(operation, at);
    check_others();
    if (variant / 2 % 2)
        hunt_run(&hunt, 500); /* as the master does, while the dead's frames are handled */
    cm_reaper_bury(&hunt.reaper, seat);
    hunt_check_unnamed(&hunt, seat);
    HUNT_CHECK(hunt_clean(&hunt), "%u chunks stay marked", hunt.cleaner.marked);
    check_victims(operation, at);
    check_others();
    hunt_audit(&hunt, true, &audit);
    return died;
}

/* Whether it is worth a try; the long form tries all. */
static bool may_pass(const struct operation *operation, const char *point) {
    bool appends = operation->how == SET || operation->how == SET_ABSENT || operation->how == INCREMENT;
    if (strncmp(point, "chunk-", 6) == 0 || strcmp(point, "entry-appended") == 0)
        return appends;
    if (strstr(point, "-publish"))
        return appends && operation->how != SET_ABSENT;
    if (strcmp(point, "counted") == 0)
        return operation->how == REMOVE || (appends && operation->before.what == NOTHING);
    if (strstr(point, "number-"))
        return appends && operation->after.what == NUMBER;
    if (strstr(point, "-unlink"))
        return operation->how == REMOVE;
    if (strcmp(point, "retiring-fragment") == 0)
        return operation->before.len >= FRAGMENTED_BYTES || operation->long_key;
    if (strstr(point, "retir"))
        return operation->before.what != NOTHING;
    return strcmp(point, "expiry-noted") != 0 || operation->how == EXPIRE;
}

static void test_matrix(void **state) {
    (void)state;
    unsigned deaths[POINTS] = {0}, all = 0, cases = 0;
    uint64_t start_us = hunt_now_us();
    put_others();
    hunt_start(&hunt, 1, be_neighbour, NULL);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        for (unsigned j = 0; j < POINTS; j++) {
            if (!hunt_is_long && !may_pass(&operations[i], points[j]))
                continue;
            bool holes_matter = strncmp(points[j], "chunk-", 6) == 0;
            for (unsigned k = 0; k < (hunt_is_long ? 4 : holes_matter ? 2 : 1); k++) {
                unsigned variant = hunt_is_long ? k : holes_matter ? k + 2 * (i % 2) : i + j;
                current = (struct current){operations[i].name, points[j], variant, 1};
                for (unsigned nth = 1; nth <= NTHS; nth++) {
                    current.nth = nth;
                    cases++;
                    if (!check_death(&operations[i], points[j], nth, variant))
                        break;
                    deaths[j]++;
                    all++;
                }
            }
        }
    }
    for (unsigned j = 0; j < POINTS; j++)
        HUNT_CHECK(deaths[j] >= NTHS, "point %s was reached %u times", points[j], deaths[j]);
    printf("deaths: %u in %u cases, %u operations at %u points, in %.2f s; a neighbour went on after %lu us "
           "at the worst\n",
           all, cases, (unsigned)OPERATIONS, (unsigned)POINTS, (double)(hunt_now_us() - start_us) / 1e6,
           (unsigned long)worst_us);
    hunt_finish(&hunt);
    current = (struct current){0};
}

static int open_matrix(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(8) << 20, MATRIX_SEATS); /* chunks of 16 kB, records of 1 kB at most */
    matrix = hunt_share(sizeof *matrix);
    neighbour_seed = 0;
    memset(last_versions, 0, sizeof last_versions);
    current = (struct current){0};
    return 0;
}

/* Which case it was, if it failed. */
static int close_matrix(void **state) {
    if (current.operation)
        printf("the last: \"%s\" at %s, passing %u, variant %u\n", current.operation, current.point,
               current.nth, current.variant);
    return close_hunt(state);
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_burial_at_once, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_burial_after_cleaning, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_cleaning_ends_after_late_burial, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_matrix, open_matrix, close_matrix),
    };
    return cmocka_run_group_tests_name("deaths", tests, NULL, NULL);
}
