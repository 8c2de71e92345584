/* The register of listeners, told by stores of the same segment: who is answered when, and who is told what.
 */
#include <stdio.h>

#include "data/listeners.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/stores.h"

enum { BYTES = 4 << 20, SEATS = 8, MOST_EVENTS = 4000, MOST_KEY_BYTES = 64 };

/* What the listeners have called back. */
struct event {
    uint32_t seat;
    bool answer;
    uint64_t request; /* of an answer */
    char key[MOST_KEY_BYTES];
    uint64_t version;
    enum cm_cause cause;
    bool has_value;
    struct cm_value value; /* without bytes */
    size_t value_len;
};

static struct stores stores;
static struct cm_listeners listeners;
static struct event events[MOST_EVENTS];
static int event_count;
static int events_taken;

/* The participants, by the index of their stores. */
enum { MASTER, WORKER, OTHER, COUNT };

static struct cm_participant *participant(int index) {
    return &stores.seats[index].participant;
}

static struct cm_store *store(int index) {
    return &stores.seats[index].store;
}

static uint32_t seat(int index) {
    return participant(index)->id;
}

static struct event *new_event(uint32_t id) {
    assert_true(event_count < MOST_EVENTS);
    struct event *event = &events[event_count++];
    *event = (struct event){.seat = id};
    return event;
}

static void on_tell(void *data, uint32_t id, const struct cm_changed *change) {
    assert_ptr_equal(data, &events);
    struct event *event = new_event(id);
    assert_true(change->key.len < MOST_KEY_BYTES);
    memcpy(event->key, change->key.data, change->key.len);
    event->version = change->version;
    event->cause = change->cause;
    event->has_value = change->value != NULL;
    if (change->value) {
        event->value = *change->value;
        event->value_len = change->value->is_number ? 0 : change->value->bytes.len;
    }
}

static void on_answer(void *data, uint32_t id, uint64_t request) {
    assert_ptr_equal(data, &events);
    struct event *event = new_event(id);
    event->answer = true;
    event->request = request;
}

static void on_change(void *data, const struct cm_changed *change) {
    cm_listeners_changed(data, change);
}

static int open_all(void) {
    event_count = events_taken = 0;
    int err = stores_open(&stores, BYTES, SEATS, COUNT);
    if (err)
        return err;
    /* The same hashes in each run: who holds one key's group must not hold another one's. */
    stores.segment.header->layout.hash_seed = stores.segment.layout.hash_seed = 1;
    err = cm_listeners_init(&listeners, &stores.segment);
    if (err) {
        stores_close(&stores);
        return err;
    }
    listeners.tell = on_tell;
    listeners.answer = on_answer;
    listeners.data = &events;
    store(MASTER)->on_change = on_change;
    store(MASTER)->change_data = &listeners;
    stores.sweep.store = store(MASTER);
    return 0;
}

static void close_all(void) {
    cm_listeners_deinit(&listeners);
    stores_close(&stores);
}

static size_t alive_before;

static int set_up(void **state) {
    (void)state;
    alive_before = alloc_failure_alive();
    return open_all();
}

static int tear_down(void **state) {
    (void)state;
    close_all();
    return alloc_failure_alive() != alive_before;
}

static void add(int index, uint64_t request, const char *name, bool prefix) {
    assert_int_equal(cm_listeners_add(&listeners, seat(index), request, cm_bytes_of(name), prefix), 0);
}

static void take_out(int index, const char *name, bool prefix) {
    cm_listeners_remove(&listeners, seat(index), cm_bytes_of(name), prefix);
}

static void assert_no_event(void) {
    assert_int_equal(event_count, events_taken);
}

static const struct event *next_event(int index) {
    assert_true(events_taken < event_count);
    const struct event *event = &events[events_taken++];
    assert_int_equal(event->seat, seat(index));
    return event;
}

static void assert_answered(int index, uint64_t request) {
    const struct event *event = next_event(index);
    assert_true(event->answer);
    assert_int_equal(event->request, request);
}

static const struct event *assert_told(int index, const char *key, uint64_t version, enum cm_cause cause) {
    const struct event *event = next_event(index);
    assert_false(event->answer);
    assert_string_equal(event->key, key);
    assert_int_equal(event->version, version);
    assert_int_equal(event->cause, cause);
    return event;
}

static bool is_watched(const char *key) {
    return cm_watch_sees(&stores.segment, (struct cm_key[]){cm_table_key(&stores.segment, cm_bytes_of(key))});
}

static struct cm_value number(int64_t integer) {
    return (struct cm_value){.is_number = true, .number = {.integer = integer}};
}

static uint64_t set_by(int index, const char *key, const struct cm_value *value) {
    uint64_t version;
    assert_int_equal(cm_store_set(store(index), cm_bytes_of(key), value, &(struct cm_change){0}, &version),
                     0);
    return version;
}

static uint64_t put(const char *key) {
    return set_by(MASTER, key, &(struct cm_value){.bytes = cm_bytes_of("value")});
}

static struct cm_section enter(int index, const char *key) {
    struct cm_section section;
    cm_table_enter(participant(index), cm_table_key(&stores.segment, cm_bytes_of(key)).hash, &section);
    return section;
}

/* --- answers */

static void a_listener_is_answered_at_once_while_nobody_writes(void **state) {
    (void)state;
    add(WORKER, 7, "key", false);
    assert_answered(WORKER, 7);
    add(OTHER, 8, "key", false);
    assert_answered(OTHER, 8);
    assert_false(cm_listeners_poll(&listeners));
    assert_no_event();
}

static void a_listener_is_answered_behind_who_was_in_the_midst_of_a_change(void **state) {
    (void)state;
    struct cm_section section = enter(OTHER, "key");
    assert_false(is_watched("key")); /* as its owner has seen */
    add(WORKER, 7, "key", false);
    assert_true(is_watched("key"));
    for (int i = 0; i < 3; i++)
        assert_true(cm_listeners_poll(&listeners));
    assert_no_event();
    cm_section_leave(&section);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(WORKER, 7);
    assert_no_event();
}

static void who_is_not_answered_is_told_nothing(void **state) {
    (void)state;
    struct cm_section section = enter(OTHER, "other");
    add(WORKER, 7, "key", false);
    put("key");
    assert_no_event();
    cm_section_leave(&section);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(WORKER, 7);
    uint64_t version = put("key");
    assert_told(WORKER, "key", version, CM_CAUSE_SET);
    assert_no_event();
}

static void later_listeners_of_a_name_wait_for_its_barrier_too(void **state) {
    (void)state;
    struct cm_section section = enter(OTHER, "key");
    add(WORKER, 7, "key", false);
    add(MASTER, 8, "key", false);
    assert_true(cm_listeners_poll(&listeners));
    assert_no_event();
    cm_section_leave(&section);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(WORKER, 7);
    assert_answered(MASTER, 8);
    assert_no_event();
}

static void a_name_that_is_new_during_a_barrier_gets_one_of_its_own(void **state) {
    (void)state;
    struct cm_section first = enter(OTHER, "one");
    add(MASTER, 1, "one", false);
    struct cm_section second = enter(WORKER, "another");
    add(MASTER, 2, "another", false);
    cm_section_leave(&first);
    assert_true(cm_listeners_poll(&listeners));
    assert_answered(MASTER, 1);
    assert_no_event();
    cm_section_leave(&second);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(MASTER, 2);
    assert_no_event();
}

static void who_listens_already_is_only_answered(void **state) {
    (void)state;
    add(WORKER, 1, "key", false);
    assert_answered(WORKER, 1);
    add(WORKER, 2, "key", false);
    assert_answered(WORKER, 2);
    uint64_t version = put("key");
    assert_told(WORKER, "key", version, CM_CAUSE_SET);
    take_out(WORKER, "key", false);
    put("key");
    assert_no_event();
}

static void who_ends_listening_before_the_answer_gets_none(void **state) {
    (void)state;
    struct cm_section section = enter(OTHER, "key");
    add(WORKER, 7, "key", false);
    take_out(WORKER, "key", false);
    assert_false(is_watched("key"));
    assert_false(cm_listeners_poll(&listeners)); /* there is nothing to wait for */
    /* The next one waits for who is inside still: that one may have looked in between. */
    add(WORKER, 8, "key", false);
    assert_true(cm_listeners_poll(&listeners));
    cm_section_leave(&section);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(WORKER, 8);
    assert_no_event();
}

static void one_of_two_may_end_listening_before_the_answer(void **state) {
    (void)state;
    struct cm_section section = enter(OTHER, "key");
    add(WORKER, 7, "key", false);
    add(MASTER, 8, "key", false);
    take_out(WORKER, "key", false);
    assert_true(is_watched("key"));
    assert_true(cm_listeners_poll(&listeners));
    cm_section_leave(&section);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(MASTER, 8);
    put("key");
    assert_int_equal(next_event(MASTER)->cause, CM_CAUSE_SET);
    assert_no_event();
}

static void who_is_gone_before_the_answer_gets_none(void **state) {
    (void)state;
    struct cm_section section = enter(OTHER, "key");
    add(WORKER, 1, "key", false);
    add(WORKER, 2, "", true);
    add(WORKER, 3, "k", true);
    add(MASTER, 4, "key", false);
    cm_listeners_drop(&listeners, seat(WORKER));
    cm_listeners_drop(&listeners, seat(WORKER));
    assert_true(cm_listeners_poll(&listeners));
    cm_section_leave(&section);
    assert_false(cm_listeners_poll(&listeners));
    assert_answered(MASTER, 4);
    assert_false(is_watched("kex"));
    cm_listeners_drop(&listeners, seat(MASTER));
    assert_false(cm_watch_any(&stores.segment));
    put("key");
    assert_no_event();
}

/* --- tellings */

static void a_change_is_told_once_however_often_its_listener_listens(void **state) {
    (void)state;
    const char *const prefixes[] = {"", "k", "ke", "key"};
    add(WORKER, 1, "key", false);
    assert_answered(WORKER, 1);
    for (int i = 0; i < 4; i++) {
        add(WORKER, 1, prefixes[i], true);
        assert_answered(WORKER, 1);
    }
    add(OTHER, 2, "ke", true);
    assert_answered(OTHER, 2);
    uint64_t version = put("key");
    assert_told(WORKER, "key", version, CM_CAUSE_SET);
    assert_told(OTHER, "key", version, CM_CAUSE_SET);
    assert_no_event();
    version = put("kez");
    assert_told(WORKER, "kez", version, CM_CAUSE_SET);
    assert_told(OTHER, "kez", version, CM_CAUSE_SET);
    version = put("x");
    assert_told(WORKER, "x", version, CM_CAUSE_SET);
    assert_no_event();
    /* One after the other is taken away, and it stays one telling as long as there is any. */
    take_out(WORKER, "", true);
    put("x");
    assert_no_event();
    take_out(OTHER, "ke", true);
    for (int i = 3; i > 0; i--) {
        take_out(WORKER, prefixes[i], true);
        version = put("key");
        assert_told(WORKER, "key", version, CM_CAUSE_SET);
        assert_no_event();
    }
    take_out(WORKER, "key", false);
    put("key");
    assert_no_event();
}

static void prefixes_without_a_place_of_their_own_are_told_too(void **state) {
    (void)state;
    char name[MOST_KEY_BYTES] = "";
    for (int i = 0; i < CM_WATCHED_LENGTHS + 3; i++) {
        name[i] = 'x';
        add(WORKER, 1, name, true);
        assert_answered(WORKER, 1);
    }
    for (int i = 0; i < CM_WATCHED_LENGTHS; i++) {
        name[i + 1] = 0;
        take_out(WORKER, name, true);
        name[i + 1] = 'x';
    }
    uint64_t version = put(name);
    assert_told(WORKER, name, version, CM_CAUSE_SET);
    name[CM_WATCHED_LENGTHS] = 0;
    put(name);
    put("yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
    assert_no_event();
}

static void changes_come_with_cause_version_and_value(void **state) {
    (void)state;
    add(WORKER, 1, "key", false);
    assert_answered(WORKER, 1);
    struct cm_bytes key = cm_bytes_of("key");
    uint64_t version;
    const struct event *event = assert_told(WORKER, "key", put("key"), CM_CAUSE_SET);
    assert_true(event->has_value && !event->value.is_number);
    assert_int_equal(event->value_len, 5);

    /* A number, then one in its place. */
    struct cm_value value = number(3);
    for (int i = 0; i < 2; i++) {
        event = assert_told(WORKER, "key", set_by(MASTER, "key", &value), CM_CAUSE_SET);
        assert_true(event->has_value && event->value.is_number && event->value.number.integer == 3);
    }
    struct cm_number sum;
    assert_int_equal(cm_store_increment(store(MASTER), key, (struct cm_number){.integer = 4},
                                        (struct cm_number){0}, 0, &sum, &version),
                     0);
    event = assert_told(WORKER, "key", version, CM_CAUSE_SET);
    assert_true(event->value.is_number && event->value.number.integer == 7);

    assert_int_equal(cm_store_remove(store(MASTER), key, &(struct cm_change){0}, &version), 0);
    assert_false(assert_told(WORKER, "key", version, CM_CAUSE_REMOVE)->has_value);
    assert_int_equal(cm_store_remove(store(MASTER), key, &(struct cm_change){0}, &version), 0);
    assert_no_event(); /* nothing was there */

    struct cm_number one = {.integer = 1}, ten = {.integer = 10};
    assert_int_equal(cm_store_increment(store(MASTER), key, one, ten, 0, &sum, &version), 0);
    assert_true(assert_told(WORKER, "key", version, CM_CAUSE_SET)->value.number.integer == 11);

    /* Many: of a key that comes twice each. */
    struct cm_pair pairs[] = {{cm_bytes_of("other"), number(0)}, {key, number(1)}, {key, number(2)}};
    assert_int_equal(cm_store_set_many(store(MASTER), pairs, 3), 0);
    assert_int_equal(next_event(WORKER)->value.number.integer, 1);
    assert_int_equal(next_event(WORKER)->value.number.integer, 2);
    assert_true(events[event_count - 1].version > events[event_count - 2].version);
    assert_int_equal(cm_store_get(store(WORKER), key, NULL, NULL, &version, NULL), 0);
    assert_int_equal(events[event_count - 1].version, version);

    uint64_t cursor = 0, removed = 0;
    do {
        assert_int_equal(cm_store_clear(store(MASTER), cm_bytes_of(""), &cursor, 1000,
                                        &(struct cm_store_clearing){0}, &removed),
                         0);
    } while (cursor);
    assert_int_equal(removed, 2);
    event = next_event(WORKER);
    assert_int_equal(event->cause, CM_CAUSE_CLEAR);
    assert_true(event->version > version && !event->has_value);
    assert_no_event();
}

static void what_changes_nothing_is_not_told(void **state) {
    (void)state;
    struct cm_bytes key = cm_bytes_of("key");
    uint64_t version = put("key");
    add(WORKER, 1, "key", false);
    assert_answered(WORKER, 1);
    struct cm_value value = {.bytes = cm_bytes_of("new")};
    uint64_t drawn;
    assert_int_equal(cm_store_set(store(MASTER), key, &value, &(struct cm_change){.if_absent = true}, &drawn),
                     CM_E_EXISTS);
    assert_int_equal(cm_store_set(store(MASTER), key, &value,
                                  &(struct cm_change){.if_version = true, .version = version + 2}, &drawn),
                     CM_E_CONFLICT);
    assert_int_equal(cm_store_remove(store(MASTER), key,
                                     &(struct cm_change){.if_version = true, .version = version + 2}, &drawn),
                     CM_E_CONFLICT);
    struct cm_number sum;
    assert_int_equal(cm_store_increment(store(MASTER), key, (struct cm_number){.integer = 1},
                                        (struct cm_number){0}, 0, &sum, &drawn),
                     CM_E_BADVALUE);
    assert_int_equal(cm_store_expire(store(MASTER), key, stores_clock() + 10), 0);
    assert_int_equal(cm_store_expire(store(WORKER), key, 0), 0); /* of a watched key, by anybody */
    assert_no_event();
}

static void sweep(void) {
    for (int round = 0; round < 2; round++) {
        while (cm_expiry_sweep(&stores.sweep, participant(MASTER), stores_clock(), 1000)) {
        }
    }
}

static void the_sweep_tells_what_has_expired(void **state) {
    (void)state;
    add(WORKER, 1, "watched", true);
    assert_answered(WORKER, 1);
    uint64_t versions[3];
    const char *const keys[] = {"watched early", "watched late", "another"};
    for (int i = 0; i < 3; i++) {
        struct cm_change change = {.expires_ms = stores_clock() + (i == 1 ? 20 : 10)};
        struct cm_value value = number(i);
        assert_int_equal(cm_store_set(store(MASTER), cm_bytes_of(keys[i]), &value, &change, &versions[i]), 0);
    }
    assert_told(WORKER, keys[0], versions[0], CM_CAUSE_SET);
    assert_told(WORKER, keys[1], versions[1], CM_CAUSE_SET);
    sweep();
    assert_no_event();
    stores_turn(stores_clock() + 10);
    sweep();
    const struct event *event = next_event(WORKER);
    assert_string_equal(event->key, keys[0]);
    assert_int_equal(event->cause, CM_CAUSE_EXPIRE);
    assert_true(event->version > versions[0] && !event->has_value);
    assert_no_event();
    /* What takes an expired one's place is told itself, and that one is not. */
    stores_turn(stores_clock() + 10);
    assert_told(WORKER, keys[1], put(keys[1]), CM_CAUSE_SET);
    sweep();
    assert_no_event();
    assert_true(put(keys[0]) > event->version);
}

/* --- writers */

static struct cm_store_stats stats(void) {
    struct cm_store_stats now;
    cm_store_stats(store(MASTER), &now);
    return now;
}

static void a_writer_leaves_watched_keys_to_the_master_and_changes_nothing(void **state) {
    (void)state;
    const char *const names[] = {"bytes", "integer"};
    set_by(WORKER, names[0], &(struct cm_value){.bytes = cm_bytes_of("old")});
    struct cm_value old = number(5), new_number = number(6), bytes = {.bytes = cm_bytes_of("new")};
    set_by(WORKER, names[1], &old);
    assert_no_event();
    add(OTHER, 1, "bytes", false);
    add(OTHER, 2, "int", true);
    add(OTHER, 3, "absent", false);
    events_taken += 3;
    uint64_t drawn = 0;
    struct cm_number sum;
    struct cm_store_stats before = stats();
    for (int i = 0; i < 2; i++) {
        struct cm_bytes key = cm_bytes_of(names[i]);
        uint64_t version, now;
        assert_int_equal(cm_store_get(store(WORKER), key, NULL, NULL, &version, NULL), 0);
        const struct cm_value *values[] = {&bytes, &new_number};
        for (int j = 0; j < 2; j++)
            assert_int_equal(cm_store_set(store(WORKER), key, values[j], &(struct cm_change){0}, &drawn),
                             CM_STORE_ASK);
        assert_int_equal(cm_store_remove(store(WORKER), key, &(struct cm_change){0}, &drawn), CM_STORE_ASK);
        assert_int_equal(cm_store_increment(store(WORKER), key, (struct cm_number){.integer = 1},
                                            (struct cm_number){0}, 0, &sum, &drawn),
                         CM_STORE_ASK);
        assert_int_equal(cm_store_get(store(WORKER), key, NULL, NULL, &now, NULL), 0);
        assert_int_equal(now, version);
    }
    struct cm_bytes absent = cm_bytes_of("absent");
    assert_int_equal(cm_store_set(store(WORKER), absent, &bytes, &(struct cm_change){0}, &drawn),
                     CM_STORE_ASK);
    assert_int_equal(cm_store_increment(store(WORKER), absent, (struct cm_number){.integer = 1},
                                        (struct cm_number){0}, 0, &sum, &drawn),
                     CM_STORE_ASK);
    assert_int_equal(cm_store_remove(store(WORKER), absent, &(struct cm_change){0}, &drawn), 0);
    struct cm_store_stats after = stats();
    assert_int_equal(before.entries, after.entries);
    stores_check_counts(&stores.segment, true);
    assert_no_event();
    cm_listeners_drop(&listeners, seat(OTHER));
    set_by(WORKER, names[0], &bytes);
    set_by(WORKER, names[1], &new_number);
    assert_no_event();
}

static void numbers_under_long_keys_are_left_to_the_master_too(void **state) {
    (void)state;
    static uint8_t text[60000];
    memset(text, 'k', sizeof text);
    struct cm_bytes key = {text, sizeof text};
    uint64_t version;
    struct cm_number sum, one = {.integer = 1};
    assert_int_equal(cm_store_increment(store(WORKER), key, one, one, 0, &sum, &version), 0);
    assert_int_equal(cm_listeners_add(&listeners, seat(OTHER), 1, key, true), 0);
    assert_answered(OTHER, 1);
    assert_int_equal(cm_store_increment(store(WORKER), key, one, one, 0, &sum, &version), CM_STORE_ASK);
    assert_int_equal(cm_store_get(store(WORKER), key, NULL, NULL, &version, NULL), 0);
}

struct asked {
    int count;
    char key[MOST_KEY_BYTES];
};

static int note_asked(void *data, struct cm_bytes key) {
    struct asked *asked = data;
    asked->count++;
    memset(asked->key, 0, sizeof asked->key);
    memcpy(asked->key, key.data, key.len);
    return 0;
}

static void a_clear_leaves_watched_keys_to_the_master(void **state) {
    (void)state;
    put("a");
    put("b");
    put("c");
    add(OTHER, 1, "b", false);
    assert_answered(OTHER, 1);
    struct asked asked = {0};
    struct cm_store_clearing how = {.ask = note_asked, .data = &asked};
    uint64_t cursor = 0, removed = 0;
    do {
        assert_int_equal(cm_store_clear(store(WORKER), cm_bytes_of(""), &cursor, 1000, &how, &removed), 0);
    } while (cursor);
    assert_int_equal(removed, 2);
    assert_int_equal(asked.count, 1);
    assert_string_equal(asked.key, "b");
    assert_int_equal(stats().entries, 1);
    assert_no_event();
    uint64_t version;
    assert_int_equal(
        cm_store_remove(store(MASTER), cm_bytes_of("b"), &(struct cm_change){.cleared = true}, &version), 0);
    assert_told(OTHER, "b", version, CM_CAUSE_CLEAR);
}

/* --- without memory */

static int listen_without_memory(void *data) {
    (void)data;
    int err = open_all();
    if (err)
        return err;
    static const char *const names[] = {"key", "k", "key", "other"};
    for (int i = 0; i < 4 && !err; i++) {
        int before = event_count;
        err = cm_listeners_add(&listeners, seat(i == 2 ? OTHER : WORKER), 1, cm_bytes_of(names[i]), i % 2);
        /* A barrier that could not be begun is begun again. */
        bool more = cm_listeners_poll(&listeners);
        if (!err)
            assert_int_equal(event_count, before + !more);
        assert_int_equal(is_watched(names[i]), !err || i == 2);
    }
    cm_listeners_drop(&listeners, seat(WORKER));
    cm_listeners_drop(&listeners, seat(OTHER));
    assert_false(cm_watch_any(&stores.segment));
    close_all();
    return err;
}

static void without_memory_nobody_is_half_a_listener(void **state) {
    (void)state;
    alloc_failure_each(listen_without_memory, NULL);
}

/* --- random operations */

enum { POOL = 24, STEPS = 30000 };

enum standing { NOT, WAITING, READY };

struct pool_name {
    char text[8];
    bool prefix;
    enum standing standing[SEATS + 1];
    uint64_t request[SEATS + 1];
    uint32_t inside[COUNT]; /* sections that were there when it became new; 0: none */
};

static struct pool_name pool[POOL];
static struct cm_section held[COUNT];
static uint32_t inside[COUNT]; /* which section each is in; 0: none */
static uint32_t sections;
static uint64_t requests;

static void fill_pool(uint64_t *random) {
    for (int i = 0; i < POOL; i++) {
        struct pool_name *name = &pool[i];
        *name = (struct pool_name){.prefix = i % 2};
        size_t len = random_below(random, 4) + (size_t)!name->prefix;
        for (size_t j = 0; j < len; j++)
            name->text[j] = (char)('a' + random_below(random, 2));
        for (int j = 0; j < i; j++) {
            if (pool[j].prefix == name->prefix && strcmp(pool[j].text, name->text) == 0) {
                i--;
                break;
            }
        }
        sections = 0;
    }
}

static bool anybody(const struct pool_name *name) {
    bool any = false;
    for (int i = 0; i < COUNT; i++)
        any |= name->standing[seat(i)] != NOT;
    return any;
}

/* Takes the answers: each is awaited, and nobody who was inside when its name was new is so still. */
static void take_answers(void) {
    for (; events_taken < event_count; events_taken++) {
        const struct event *event = &events[events_taken];
        assert_true(event->answer);
        int found = 0;
        for (int i = 0; i < POOL; i++) {
            struct pool_name *name = &pool[i];
            if (name->request[event->seat] != event->request || name->standing[event->seat] == NOT)
                continue;
            found++;
            name->standing[event->seat] = READY;
            for (int j = 0; j < COUNT; j++)
                assert_true(name->inside[j] == 0 || name->inside[j] != inside[j]);
        }
        assert_int_equal(found, 1);
    }
    event_count = events_taken = 0;
}

static void listen_somewhere(uint64_t *random) {
    struct pool_name *name = &pool[random_below(random, POOL)];
    int index = (int)random_below(random, COUNT);
    if (!anybody(name))
        memcpy(name->inside, inside, sizeof inside);
    if (name->standing[seat(index)] == NOT)
        name->standing[seat(index)] = WAITING;
    name->request[seat(index)] = ++requests;
    add(index, requests, name->text, name->prefix);
    take_answers();
}

static void unlisten_somewhere(uint64_t *random) {
    struct pool_name *name = &pool[random_below(random, POOL)];
    int index = (int)random_below(random, COUNT);
    take_out(index, name->text, name->prefix);
    name->standing[seat(index)] = NOT;
}

static void drop_somebody(uint64_t *random) {
    int index = (int)random_below(random, COUNT);
    cm_listeners_drop(&listeners, seat(index));
    for (int i = 0; i < POOL; i++)
        pool[i].standing[seat(index)] = NOT;
}

/* Not the master: it would wait for itself. */
static void enter_or_leave(uint64_t *random) {
    int index = 1 + (int)random_below(random, COUNT - 1);
    if (inside[index]) {
        cm_section_leave(&held[index]);
        inside[index] = 0;
        return;
    }
    uint64_t hash = random_next(random) & ~CM_SPACES;
    if (cm_table_try(participant(index), hash, &held[index]))
        inside[index] = ++sections;
}

static bool covers(const struct pool_name *name, const char *key) {
    return name->prefix ? strncmp(name->text, key, strlen(name->text)) == 0 : strcmp(name->text, key) == 0;
}

static void change_something(uint64_t *random) {
    char key[8] = "";
    for (size_t i = 0, len = 1 + random_below(random, 4); i < len; i++)
        key[i] = (char)('a' + random_below(random, 2));
    for (int i = 1; i < COUNT; i++) {
        if (inside[i]) { /* it may own the key's group */
            cm_section_leave(&held[i]);
            inside[i] = 0;
        }
    }
    uint64_t version = 0;
    bool removes = random_below(random, 3) == 0;
    if (removes)
        assert_int_equal(cm_store_remove(store(MASTER), cm_bytes_of(key), &(struct cm_change){0}, &version),
                         0);
    else
        version = put(key);
    for (int i = 0; i < COUNT; i++) {
        bool expected = false;
        for (int j = 0; j < POOL; j++)
            expected |= pool[j].standing[seat(i)] == READY && covers(&pool[j], key);
        int told = 0;
        for (int j = 0; j < event_count; j++) {
            const struct event *event = &events[j];
            assert_false(event->answer);
            assert_string_equal(event->key, key);
            assert_int_equal(event->version, version);
            assert_int_equal(event->cause, removes ? CM_CAUSE_REMOVE : CM_CAUSE_SET);
            told += event->seat == seat(i);
        }
        assert_int_equal(told, expected && version);
    }
    event_count = 0;
}

static void check_pool(bool answered) {
    for (int i = 0; i < POOL; i++) {
        if (anybody(&pool[i]) && pool[i].text[0])
            assert_true(is_watched(pool[i].text));
        for (int j = 0; answered && j < COUNT; j++)
            assert_int_not_equal(pool[i].standing[seat(j)], WAITING);
    }
}

static void random_listeners_are_answered_and_told_as_they_should(void **state) {
    (void)state;
    uint64_t random = 11;
    fill_pool(&random);
    for (int step = 0; step < STEPS; step++) {
        switch (random_below(&random, 10)) {
        case 0:
        case 1:
        case 2:
            listen_somewhere(&random);
            break;
        case 3:
        case 4:
            unlisten_somewhere(&random);
            break;
        case 5:
        case 6:
            enter_or_leave(&random);
            break;
        case 7:
            if (random_below(&random, 10) == 0)
                drop_somebody(&random);
            break;
        default:
            change_something(&random);
        }
        bool more = cm_listeners_poll(&listeners);
        take_answers();
        check_pool(!more);
        bool anyone_inside = inside[WORKER] || inside[OTHER];
        assert_false(more && !anyone_inside);
    }
    for (int i = 1; i < COUNT; i++) {
        if (inside[i])
            cm_section_leave(&held[i]);
    }
    for (int i = 0; i < COUNT; i++)
        cm_listeners_drop(&listeners, seat(i));
    assert_false(cm_watch_any(&stores.segment));
    assert_int_equal(listeners.names.count, 0);
}

/* The master's memory is not for one process to fill. */
static void who_listens_for_too_much_is_refused(void **state) {
    (void)state;
    enum { LEN = 60000 };
    static char name[LEN + 1];
    memset(name, 'n', LEN);
    int count = 0, err = 0;
    for (; !err; count += !err) {
        snprintf(name, sizeof name, "%08d", count);
        name[8] = 'n';
        events_taken = event_count = 0;
        err = cm_listeners_add(&listeners, seat(WORKER), (uint64_t)count,
                               (struct cm_bytes){(uint8_t *)name, LEN}, false);
    }
    assert_int_equal(err, CM_E_NOMEMORY);
    assert_in_range(count, CM_LISTENED_BYTES_MOST / LEN - 10, CM_LISTENED_BYTES_MOST / LEN);
    assert_int_equal(listeners.names.count, count);
    /* Another one may, and so may this one when it listens for less. */
    events_taken = event_count = 0;
    assert_int_equal(
        cm_listeners_add(&listeners, seat(OTHER), 1, (struct cm_bytes){(uint8_t *)name, LEN}, false), 0);
    assert_answered(OTHER, 1);
    cm_listeners_drop(&listeners, seat(WORKER));
    assert_int_equal(listeners.names.count, 1);
    add(WORKER, 2, "key", false);
    assert_answered(WORKER, 2);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_listener_is_answered_at_once_while_nobody_writes),
        TEST(a_listener_is_answered_behind_who_was_in_the_midst_of_a_change),
        TEST(who_is_not_answered_is_told_nothing),
        TEST(later_listeners_of_a_name_wait_for_its_barrier_too),
        TEST(a_name_that_is_new_during_a_barrier_gets_one_of_its_own),
        TEST(who_listens_already_is_only_answered),
        TEST(who_ends_listening_before_the_answer_gets_none),
        TEST(one_of_two_may_end_listening_before_the_answer),
        TEST(who_is_gone_before_the_answer_gets_none),
        TEST(a_change_is_told_once_however_often_its_listener_listens),
        TEST(prefixes_without_a_place_of_their_own_are_told_too),
        TEST(changes_come_with_cause_version_and_value),
        TEST(what_changes_nothing_is_not_told),
        TEST(the_sweep_tells_what_has_expired),
        TEST(a_writer_leaves_watched_keys_to_the_master_and_changes_nothing),
        TEST(numbers_under_long_keys_are_left_to_the_master_too),
        TEST(a_clear_leaves_watched_keys_to_the_master),
        cmocka_unit_test(without_memory_nobody_is_half_a_listener),
        TEST(who_listens_for_too_much_is_refused),
        TEST(random_listeners_are_answered_and_told_as_they_should),
    };
    return cmocka_run_group_tests_name("listeners", tests, NULL, NULL);
}
