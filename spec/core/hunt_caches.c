/* The cache between processes: exact order however they take turns, bounds that hold at every moment, holders
 * of its lock that die or stand still at each step. */
#include <sched.h>
#include <unistd.h>

#include "spec/core/caches.h"
#include "spec/core/hunt.h"

static struct hunt hunt;
static struct cm_lru master;

static void check_cache(void) {
    struct cache_audit audit;
    const char *wrong = cache_check(&hunt.segment, &audit);
    HUNT_CHECK(!wrong, "%s: %lu entries of %lu bytes, counted %lu of %lu", wrong,
               (unsigned long)audit.entries, (unsigned long)audit.bytes,
               (unsigned long)atomic_load(&hunt.segment.header->cache.entries),
               (unsigned long)atomic_load(&hunt.segment.header->cache.bytes));
}

/* Which of the values the key has, or 0 for none. */
static uint32_t get(struct cm_lru *lru, unsigned n) {
    static struct cm_buf buf;
    struct hunt_key key;
    struct cm_bytes value;
    uint32_t seed;
    int err = cm_lru_get(lru, hunt_key(&key, "key %u", n), &buf, &value);
    HUNT_CHECK(!err || err == CM_E_NOTFOUND, "get: %s", cm_error_name(err));
    if (err)
        return 0;
    const char *wrong = hunt_check_value(value, n, &seed);
    HUNT_CHECK(!wrong, "key %u: %s", n, wrong);
    return seed;
}

static void set(struct cm_lru *lru, unsigned n, size_t len, uint32_t seed, uint64_t max_age_ms) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct hunt_key key;
    hunt_fill(bytes, len, n, seed);
    int err = CM_E_NOMEMORY;
    /* The master, who would do it, is cleaning. */
    for (int i = 0; err == CM_E_NOMEMORY && i < 10000; i++) {
        err = cm_lru_set(lru, hunt_key(&key, "key %u", n), (struct cm_bytes){bytes, len}, max_age_ms);
        if (err == CM_E_NOMEMORY)
            hunt_pause();
    }
    HUNT_CHECK(!err, "set: %s", cm_error_name(err));
}

/* As the last one put in was as long as the oldest is, this one is expected to be. */
static void set_in_steps(struct cm_lru *lru, unsigned n, size_t len, uint32_t seed) {
    static uint8_t bytes[HUNT_VALUE_MOST_BYTES];
    struct hunt_key key;
    struct cm_bytes name = hunt_key(&key, "key %u", n);
    struct cm_lru_arrival arrival;
    lru->last_bytes = cm_append_bytes(&hunt.segment, name.len, 100);
    HUNT_CHECK(!cm_lru_begin(lru, name, 0, &arrival), "it does not begin");
    HUNT_CHECK(arrival.vacancy.offset, "the oldest has not made room");
    hunt_fill(bytes, len, n, seed);
    int err = cm_lru_finish(lru, &arrival, (struct cm_bytes){bytes, len});
    HUNT_CHECK(!err, "set in steps: %s", cm_error_name(err));
}

static bool is_cached(unsigned n) {
    struct hunt_key key;
    struct cm_found found;
    struct cm_key cached = cm_table_key_in(&hunt.segment, CM_SPACE_CACHE, hunt_key(&key, "key %u", n));
    return cm_table_get(&hunt.participant, &cached, NULL, &found) == 0;
}

static int open_hunt(void **state) {
    (void)state;
    hunt_open(&hunt, UINT64_C(32) << 20, 10);
    cm_lru_init(&master, &hunt.store);
    master.is_dead = cm_reaper_is_dead;
    master.data = &hunt.reaper;
    hunt.sweep.lru = &master;
    return 0;
}

static int close_hunt(void **state) {
    (void)state;
    hunt_close(&hunt);
    return 0;
}

static void start(const struct cm_lru_options *options) {
    assert_int_equal(cm_lru_start(&master, options), 0);
}

/* --- order: every process follows the list of all operations, and does those that are its own --- */

enum { CREW = 4, ORDER_KEYS = 300, ORDER_MOST = 60 };

struct shared {
    _Atomic uint64_t at; /* the operation, or phase, that is due */
    _Atomic uint64_t arrived;
    _Atomic uint64_t gets;
    _Atomic uint64_t hits;
    unsigned operations;
};
static struct shared *shared;

struct list {
    uint64_t used[ORDER_KEYS]; /* 0: it is not there */
    unsigned count;
};

static void list_set(struct list *list, unsigned n, uint64_t at) {
    if (!list->used[n] && list->count == ORDER_MOST) {
        unsigned oldest = 0;
        for (unsigned i = 1; i < ORDER_KEYS; i++) {
            if (list->used[i] && (!list->used[oldest] || list->used[i] < list->used[oldest]))
                oldest = i;
        }
        list->used[oldest] = 0;
        list->count--;
    }
    list->count += !list->used[n];
    list->used[n] = at;
}

static void take_turns(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    struct list list = {.count = 0};
    uint64_t random = 7;
    for (uint64_t at = 1; at <= shared->operations; at++) {
        bool mine = random_below(&random, CREW) == self->number;
        bool gets = random_below(&random, 3);
        unsigned n = (unsigned)random_below(&random, random_below(&random, 2) ? ORDER_KEYS : ORDER_MOST);
        while (mine && atomic_load_explicit(&shared->at, memory_order_acquire) != at)
            sched_yield();
        if (gets) {
            bool there = list.used[n] != 0;
            if (mine)
                HUNT_CHECK((get(&lru, n) != 0) == there, "operation %lu: key %u is %s", (unsigned long)at, n,
                           there ? "not there" : "there");
            if (there)
                list.used[n] = at;
        } else {
            if (mine)
                set(&lru, n, 100, (uint32_t)at, 0);
            list_set(&list, n, at);
        }
        if (mine)
            atomic_store_explicit(&shared->at, at + 1, memory_order_release);
    }
}

static void test_turns(void **state) {
    (void)state;
    start(&(struct cm_lru_options){.most_entries = ORDER_MOST});
    shared->at = 1;
    shared->operations = hunt_is_long ? 2000000 : 20000;
    for (unsigned i = 0; i < CREW; i++)
        hunt_start(&hunt, i, take_turns, NULL);
    for (unsigned i = 0; i < CREW; i++) {
        hunt_until(&hunt, i, WEXITED);
        assert_int_equal(hunt_take(&hunt, i), 0);
        hunt_bury(&hunt, i);
    }
    check_cache();
}

/* --- phases: in each all use the same block of keys at the same time; what goes first was used in the first
 * ---
 */

enum { BLOCKS = 8, BLOCK_KEYS = 50 };

static void meet(uint64_t phase) {
    if (atomic_fetch_add(&shared->arrived, 1) + 1 == (uint64_t)CREW * phase)
        atomic_store(&shared->at, phase);
    while (atomic_load(&shared->at) < phase)
        sched_yield();
}

static void use_in_phases(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    uint64_t phase = 0, random = 11; /* the same in all of them */
    for (unsigned round = 0; round < shared->operations; round++) {
        unsigned order[BLOCKS] = {0};
        for (unsigned i = 1; i < BLOCKS; i++) {
            size_t j = random_below(&random, i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        unsigned evicted = (unsigned)random_below(&random, BLOCKS - 1);
        for (unsigned i = 0; i < BLOCKS; i++) {
            for (unsigned k = 0; k < BLOCK_KEYS; k++) {
                unsigned n = (k * 7 + self->number * 13) % BLOCK_KEYS + order[i] * BLOCK_KEYS;
                if (n % CREW == self->number || n % 3 == 0)
                    set(&lru, n, 50, 1, 0); /* the first time, and again */
                else
                    get(&lru, n);
            }
            meet(++phase);
        }
        for (unsigned k = self->number; k < evicted * BLOCK_KEYS; k += CREW)
            set(&lru, 1000 + round * BLOCKS * BLOCK_KEYS + k, 50, 1, 0);
        meet(++phase);
        for (unsigned i = 0; i < BLOCKS; i++) {
            for (unsigned k = 0; k < BLOCK_KEYS; k++) {
                unsigned n = order[i] * BLOCK_KEYS + k;
                HUNT_CHECK(is_cached(n) == (i >= evicted), "round %u: key %u, used in phase %u of %u, is %s",
                           round, n, i, evicted, i >= evicted ? "not there" : "there");
            }
        }
        meet(++phase);
    }
}

static void test_phases(void **state) {
    (void)state;
    start(&(struct cm_lru_options){.most_entries = (uint64_t)BLOCKS * BLOCK_KEYS});
    *shared = (struct shared){.operations = hunt_is_long ? 10000 : 100};
    for (unsigned i = 0; i < CREW; i++)
        hunt_start(&hunt, i, use_in_phases, NULL);
    for (unsigned i = 0; i < CREW; i++) {
        hunt_until(&hunt, i, WEXITED);
        assert_int_equal(hunt_take(&hunt, i), 0);
        hunt_bury(&hunt, i);
    }
    check_cache();
}

/* --- everything at once, the cleaner moving all of it all the time --- */

enum { MESS_KEYS = 3000, MESS_MOST = 500, MESS_MOST_BYTES = 400000 };

static void make_mess(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    uint64_t gets = 0, hits = 0;
    while (!hunt_told_to_stop(self)) {
        unsigned n =
            (unsigned)random_below(&self->random, random_below(&self->random, 2) ? MESS_KEYS : MESS_MOST / 2);
        if (get(&lru, n)) {
            hits++;
        } else {
            /* Half of them are of one size: they take each other's places. */
            size_t len = random_below(&self->random, 2)    ? 100
                         : random_below(&self->random, 25) ? random_below(&self->random, 1000)
                                                           : random_below(&self->random, 50000);
            set(&lru, n, 16 + len, 1 + (uint32_t)random_below(&self->random, 1000),
                random_below(&self->random, 3) ? 0 : 1 + random_below(&self->random, 50));
        }
        gets++;
        struct hunt_key key;
        if (random_below(&self->random, 30) == 0)
            cm_lru_remove(&lru, hunt_key(&key, "key %u", n));
        if (random_below(&self->random, 20000) == 0)
            cm_lru_clear(&lru);
    }
    atomic_fetch_add(&shared->gets, gets);
    atomic_fetch_add(&shared->hits, hits);
}

/* Looks at the bounds as often as it can. */
static void watch_bounds(struct hunt_self *self) {
    while (!hunt_told_to_stop(self)) {
        struct cm_lru_stats stats;
        cm_lru_stats(&hunt.segment, &stats);
        HUNT_CHECK(stats.entries <= MESS_MOST, "%lu entries", (unsigned long)stats.entries);
        HUNT_CHECK(stats.bytes <= MESS_MOST_BYTES, "%lu bytes", (unsigned long)stats.bytes);
    }
}

static void check_mess(const struct cm_lru_options *options) {
    start(options);
    *shared = (struct shared){0};
    hunt.always_cleaning = true;
    for (unsigned i = 0; i < CREW; i++)
        hunt_start(&hunt, i, make_mess, NULL);
    hunt_start(&hunt, CREW, watch_bounds, NULL);
    hunt_run(&hunt, hunt_is_long ? 60000000 : 1000000);
    hunt_finish(&hunt);
    check_cache();
    struct cm_lru_stats stats;
    cm_lru_stats(&hunt.segment, &stats);
    assert_int_equal(stats.hits, shared->hits);
    assert_int_equal(stats.hits + stats.misses, shared->gets);
    assert_true(stats.hits > 1000 && stats.evictions > 1000);
    struct hunt_audit audit;
    hunt.always_cleaning = false;
    hunt_clean(&hunt);
    hunt_audit(&hunt, true, &audit);
    assert_int_equal(audit.entries, stats.entries);
}

static void test_mess(void **state) {
    (void)state;
    struct cm_lru_options options = {.most_entries = MESS_MOST, .most_bytes = MESS_MOST_BYTES};
    check_mess(&options);
    options.stale = true;
    check_mess(&options);
    options.stale = false;
    options.update_age = true;
    check_mess(&options);
}

/* --- deaths: each operation at each point that it passes, at the 1st, 2nd and 3rd passing --- */

enum { CACHED = 20, CHANGED = 7, NEW = 50, NEIGHBOUR = 60, NTHS = 3 };

static const char *const points[] = {
    "cache-locked",    "cache-pushed-again", "cache-slot-taken",
    "cache-retired",   "cache-unlinked",     "cache-item-removed",
    "cache-linking",   "cache-linked",       "cache-unlocking",
    "entry-appended",  "cache-left-queue",   "group-taken",
    "before-publish",  "after-publish",      "before-unlink",
    "after-unlink",    "before-retiring",    "retired",
    "counted",         "before-release",     "vacated",
    "vacancy-written", "vacancy-filled",     "vacancy-given-up",
};
enum { POINTS = sizeof points / sizeof *points };

struct operation {
    const char *name;
    enum { SET_NEW, SET_IN_STEPS, SET_AGAIN, REMOVE, GET_STALE, CLEAR, START } how;
    size_t len;
    struct cm_lru_options options;
};
static const struct operation operations[] = {
    {"set, with room", SET_NEW, 100, {.most_entries = CACHED + 5}},
    {"set in another's place", SET_NEW, 100, {.most_entries = CACHED}},
    {"set a larger one for another", SET_NEW, 200, {.most_entries = CACHED}},
    {"set in the place of many", SET_NEW, 1200, {.most_bytes = 4000}},
    {"set a long one in the place of many", SET_NEW, 3900, {.most_bytes = 5000}},
    {"set in steps, in another's place", SET_IN_STEPS, 100, {.most_entries = CACHED}},
    {"set in steps, larger than was foreseen", SET_IN_STEPS, 200, {.most_entries = CACHED}},
    {"set again", SET_AGAIN, 100, {.most_entries = CACHED}},
    {"set again, larger", SET_AGAIN, 1200, {.most_bytes = 4000}},
    {"remove", REMOVE, 0, {.most_entries = CACHED}},
    {"get what is stale", GET_STALE, 0, {.most_entries = CACHED, .stale = true}},
    {"clear", CLEAR, 0, {.most_entries = CACHED}},
    {"start", START, 0, {.most_entries = CACHED}},
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

struct death {
    const struct operation *operation;
    const char *point;
    unsigned nth;
};

static void be_victim(struct hunt_self *self) {
    const struct death *death = self->data;
    struct cm_lru lru;
    struct hunt_key key;
    cm_lru_init(&lru, &self->store);
    cm_fault_arm(death->point, death->nth, CM_FAULT_KILL);
    switch (death->operation->how) {
    case SET_NEW:
        set(&lru, NEW, death->operation->len, 2, 0);
        break;
    case SET_IN_STEPS:
        set_in_steps(&lru, NEW, death->operation->len, 2);
        break;
    case SET_AGAIN:
        set(&lru, CHANGED, death->operation->len, 2, 0);
        break;
    case REMOVE:
        cm_lru_remove(&lru, hunt_key(&key, "key %u", CHANGED));
        break;
    case GET_STALE:
        get(&lru, CHANGED);
        break;
    case CLEAR:
        cm_lru_clear(&lru);
        break;
    case START:
        cm_lru_start(&lru, &(struct cm_lru_options){.most_entries = CACHED});
        break;
    }
    cm_fault_arm(NULL, 0, CM_FAULT_KILL);
}

static void be_neighbour(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    set(&lru, NEIGHBOUR, 16, 3, 0);
}

/* Fills the cache, and gives the keys in the order in which they were used. */
static void prepare(const struct operation *operation, unsigned order[CACHED]) {
    start(&operation->options);
    for (unsigned n = 0; n < CACHED; n++)
        set(&master, n, 100, 1, operation->how == GET_STALE && n == CHANGED ? 1 : 0);
    /* What was put in first has been used since: it is pushed again. */
    unsigned used = operation->how == GET_STALE ? 5 : CHANGED + 1;
    for (unsigned n = 0; n < used; n++)
        HUNT_CHECK(get(&master, n) == 1, "key %u is not there", n);
    for (unsigned i = 0; i < CACHED; i++)
        order[i] = (i + used) % CACHED;
    if (operation->how == GET_STALE) {
        for (uint64_t end_ms = cm_clock_ms() + 2; cm_clock_ms() < end_ms;)
            hunt_pause();
    }
}

/* What is left has gone or stayed as the operation would have it, from its beginning to some step. */
static void check_left(const struct operation *operation, const unsigned order[CACHED]) {
    bool comes = operation->how == SET_NEW || operation->how == SET_IN_STEPS;
    bool sets = comes || operation->how == SET_AGAIN;
    bool empties = operation->how == CLEAR || operation->how == START;
    unsigned set = comes ? NEW : CHANGED;
    bool met = false;
    for (unsigned i = 0; i < CACHED; i++) {
        bool there = is_cached(order[i]);
        if (order[i] == set)
            HUNT_CHECK(there || !sets, "the key that was set has gone");
        else if (sets)
            HUNT_CHECK(there || !met, "key %u has gone before an older one", order[i]);
        else
            HUNT_CHECK(there || empties, "key %u has gone", order[i]);
        met |= there && order[i] != set;
    }
    /* And goes in its order. */
    for (unsigned i = 0; i < CACHED; i++) {
        if (order[i] == set || !is_cached(order[i]))
            continue;
        struct cm_lru_stats stats;
        cm_lru_stats(&hunt.segment, &stats);
        if (is_cached(set) && stats.entries > 1) {
            get(&master, set);
            if (!is_cached(set)) /* it was stale */
                continue;
        }
        cm_lru_shrink(&master, 1);
        HUNT_CHECK(!is_cached(order[i]), "key %u does not go when it is the oldest", order[i]);
    }
}

static bool check_death(struct death *death) {
    unsigned order[CACHED];
    prepare(death->operation, order);
    cm_append_close(&hunt.participant);
    hunt_start(&hunt, 0, be_victim, death);
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !hunt_is(&hunt, 0, WEXITED); hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "%s at %s: no end", death->operation->name, death->point);
    /* Each second time somebody waits already. */
    bool waits = death->nth % 2;
    uint32_t seat = hunt.workers[0].seat;
    bool died = hunt_take(&hunt, 0) == SIGKILL;
    if (waits)
        hunt_start(&hunt, 1, be_neighbour, NULL);
    cm_reaper_repair(&hunt.reaper, seat);
    cm_lru_repair(&master, seat);
    if (!waits) {
        check_cache();
        check_left(death->operation, order);
        check_cache();
        hunt_start(&hunt, 1, be_neighbour, NULL);
    }
    hunt_until(&hunt, 1, WEXITED);
    HUNT_CHECK(hunt_take(&hunt, 1) == 0, "the neighbour was killed");
    hunt_bury(&hunt, 1);
    cm_reaper_bury(&hunt.reaper, seat);
    hunt_check_unnamed(&hunt, seat);
    HUNT_CHECK(get(&master, NEIGHBOUR) == 3, "the neighbour's entry is not there");
    check_cache();
    struct hunt_audit audit;
    HUNT_CHECK(hunt_clean(&hunt), "%u chunks stay marked", hunt.cleaner.marked);
    hunt_audit(&hunt, true, &audit);
    check_cache();
    return died;
}

static struct death current;

static void test_deaths(void **state) {
    (void)state;
    unsigned deaths[POINTS] = {0}, all = 0;
    for (unsigned i = 0; i < OPERATIONS; i++) {
        for (unsigned j = 0; j < POINTS; j++) {
            for (unsigned nth = 1; nth <= NTHS; nth++) {
                current = (struct death){&operations[i], points[j], nth};
                if (!check_death(&current))
                    break;
                deaths[j]++;
                all++;
            }
        }
    }
    current = (struct death){0};
    for (unsigned j = 0; j < POINTS; j++)
        HUNT_CHECK(deaths[j] >= 1, "point %s was not reached", points[j]);
    printf("deaths: %u\n", all);
}

static int close_deaths(void **state) {
    if (current.operation)
        printf("the last: \"%s\" at %s, passing %u\n", current.operation->name, current.point, current.nth);
    return close_hunt(state);
}

/* The master does for others what they cannot, so it may be the one that comes upon a dead holder. */
static void test_master_meets_the_dead(void **state) {
    (void)state;
    unsigned order[CACHED];
    struct death death = {&operations[1], "cache-retired", 1};
    prepare(death.operation, order);
    hunt_start(&hunt, 0, be_victim, &death);
    for (uint64_t deadline_ms = cm_clock_ms() + 5000; !hunt_is(&hunt, 0, WEXITED); hunt_pause())
        HUNT_CHECK(cm_clock_ms() < deadline_ms, "no end");
    set(&master, NEIGHBOUR, 16, 3, 0);
    HUNT_CHECK(get(&master, NEIGHBOUR) == 3, "it is not there");
    check_cache();
    assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    hunt_bury(&hunt, 0);
    check_cache();
}

/* --- standing still --- */

static const char *stop_point;

static void stand(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    cm_fault_arm(stop_point, 1, CM_FAULT_STOP);
    set(&lru, NEW, 100, 2, 0);
}

static void check_stop(const char *point) {
    enum { LOOK_MS = 250, STILL_MS = 1000, LATE_MS = 4000 };
    start(&(struct cm_lru_options){.most_entries = CACHED});
    for (unsigned n = 0; n < CACHED; n++)
        set(&master, n, 100, 1, 0);
    get(&master, 0);
    stop_point = point;
    hunt_start(&hunt, 0, stand, NULL);
    while (!hunt_is(&hunt, 0, WSTOPPED))
        hunt_pause();
    hunt_start(&hunt, 1, be_neighbour, NULL);
    uint64_t start_ms = cm_clock_ms();
    /* Readers are not held up; what has been evicted is not there, though it is linked still. */
    HUNT_CHECK((get(&master, 1) == 0) == (strcmp(point, "cache-locked") != 0), "key 1");
    for (unsigned n = 0; n < 100; n++)
        get(&master, n % CACHED);
    HUNT_CHECK(cm_clock_ms() - start_ms < STILL_MS / 2, "readers are held up");
    while (!hunt_is(&hunt, 0, WEXITED)) {
        HUNT_CHECK(cm_clock_ms() - start_ms < LATE_MS, "nobody kills it");
        hunt_turn(&hunt);
        hunt_pause();
    }
    HUNT_CHECK(cm_clock_ms() - start_ms >= STILL_MS - LOOK_MS, "it was killed too soon");
    HUNT_CHECK(!hunt_is(&hunt, 1, WEXITED), "somebody else holds the lock beside it");
    assert_int_equal(hunt_take(&hunt, 0), SIGKILL);
    cm_reaper_repair(&hunt.reaper, hunt.workers[0].seat);
    cm_lru_repair(&master, hunt.workers[0].seat);
    cm_reaper_bury(&hunt.reaper, hunt.workers[0].seat);
    hunt_until(&hunt, 1, WEXITED);
    assert_int_equal(hunt_take(&hunt, 1), 0);
    hunt_bury(&hunt, 1);
    check_cache();
    HUNT_CHECK(get(&master, NEIGHBOUR) == 3, "who waited has not gone on");
}

static void test_stops(void **state) {
    (void)state;
    check_stop("cache-locked");
    check_stop("cache-retired");
    check_stop("cache-linked");
}

static void stop_evicting(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    cm_fault_arm("group-taken", 1, CM_FAULT_STOP); /* the group of what is the oldest */
    set(&lru, NEW, 100, 2, 0);
}

/* What is used while it is about to be evicted stays. */
static void test_hit_beside_an_evictor(void **state) {
    (void)state;
    start(&(struct cm_lru_options){.most_entries = CACHED});
    for (unsigned n = 0; n < CACHED; n++)
        set(&master, n, 100, 1, 0);
    hunt_start(&hunt, 0, stop_evicting, NULL);
    while (!hunt_is(&hunt, 0, WSTOPPED))
        hunt_pause();
    HUNT_CHECK(get(&master, 0) == 1, "an entry is not there, though it was not evicted yet");
    kill(hunt.workers[0].pid, SIGCONT);
    hunt_until(&hunt, 0, WEXITED);
    assert_int_equal(hunt_take(&hunt, 0), 0);
    hunt_bury(&hunt, 0);
    HUNT_CHECK(is_cached(0) && !is_cached(1) && is_cached(2), "not the oldest has gone");
    check_cache();
}

static void stop_waiting(struct hunt_self *self) {
    struct cm_lru lru;
    cm_lru_init(&lru, &self->store);
    set(&lru, NEW, 100, 2, 0);
}

/* Who holds the lock and waits for a group that another one stands in is not to blame. */
static void test_waiting_holder_lives(void **state) {
    (void)state;
    start(&(struct cm_lru_options){.most_entries = CACHED});
    struct hunt_key key;
    struct cm_key cached = cm_table_key_in(&hunt.segment, CM_SPACE_CACHE, hunt_key(&key, "key %u", NEW));
    struct cm_section section;
    cm_table_enter(&hunt.participant, cached.hash, &section); /* the master, whom nobody kills */
    hunt_start(&hunt, 0, stop_waiting, NULL);
    for (uint64_t end_ms = cm_clock_ms() + 2500; cm_clock_ms() < end_ms; hunt_pause()) {
        cm_reaper_look(&hunt.reaper, cm_clock_ms());
        HUNT_CHECK(!hunt_is(&hunt, 0, WEXITED), "it was killed");
    }
    cm_section_leave(&section);
    hunt_until(&hunt, 0, WEXITED);
    assert_int_equal(hunt_take(&hunt, 0), 0);
    hunt_bury(&hunt, 0);
    HUNT_CHECK(get(&master, NEW) == 2, "its entry is not there");
    check_cache();
}

int main(int argc, char **argv) {
    hunt_main(argc, argv);
    shared = hunt_share(sizeof *shared);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_turns, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_phases, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_mess, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_deaths, open_hunt, close_deaths),
        cmocka_unit_test_setup_teardown(test_master_meets_the_dead, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_stops, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_hit_beside_an_evictor, open_hunt, close_hunt),
        cmocka_unit_test_setup_teardown(test_waiting_holder_lives, open_hunt, close_hunt),
    };
    return cmocka_run_group_tests_name("caches", tests, NULL, NULL);
}
