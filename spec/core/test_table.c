/* The hash table of entries against an array of what is in it, and walks over it while it changes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/table.h"
#include "spec/core/alloc_failure.h"
#include "spec/core/test.h"

enum { KEYS = 400 };

/* Key n, of a length that depends on n; some have a zero byte inside, some are the start of others. */
static struct cm_bytes key_of(size_t n, uint8_t space[32]) {
    memset(space, (int)(n % 5), 32);
    memcpy(space, &(uint16_t){(uint16_t)(n / 5)}, 2);
    return (struct cm_bytes){space, 2 + n % 25};
}

static struct cm_entry *new_entry(struct cm_bytes key, uint64_t hash, uint64_t version) {
    struct cm_entry *entry = malloc(sizeof *entry + key.len);
    if (!entry)
        return NULL;
    *entry = (struct cm_entry){.hash = hash, .version = version, .key_len = (uint32_t)key.len};
    memcpy(entry->bytes, key.data, key.len);
    return entry;
}

/* versions[n]: of the entry with key n, 0: there is none. */
static void check(struct cm_table *table, const uint64_t *versions, size_t keys) {
    size_t entries = 0;
    for (size_t n = 0; n < keys; n++) {
        uint8_t space[32];
        uint64_t hash;
        struct cm_entry **link = cm_table_find(table, key_of(n, space), &hash);
        assert_int_equal(link != NULL, versions[n] != 0);
        if (link) {
            assert_int_equal((*link)->version, versions[n]);
            assert_int_equal((*link)->hash, hash);
            entries++;
        }
    }
    assert_int_equal(table->entries, entries);
}

static int change(struct cm_table *table, uint64_t *versions, size_t n, uint64_t version) {
    uint8_t space[32];
    uint64_t hash;
    struct cm_bytes key = key_of(n, space);
    struct cm_entry **link = cm_table_find(table, key, &hash);
    if (link) {
        struct cm_entry *entry = cm_table_unlink(table, link);
        assert_int_equal(entry->version, versions[n]);
        free(entry);
        versions[n] = 0;
        return 0;
    }
    struct cm_entry *entry = new_entry(key, hash, version);
    if (!entry)
        return CM_E_NOMEMORY;
    cm_table_insert(table, entry);
    versions[n] = version;
    return 0;
}

static void random_operations_match_an_array(void **state) {
    (void)state;
    uint64_t versions[KEYS] = {0};
    struct cm_table table;
    assert_int_equal(cm_table_init(&table), 0);
    uint64_t random = 6;
    for (uint64_t i = 1; i <= 20000; i++) {
        assert_int_equal(change(&table, versions, random_below(&random, KEYS), i), 0);
        if (i % 100 == 0)
            check(&table, versions, KEYS);
    }
    cm_table_deinit(&table); /* frees what is still linked */
    assert_int_equal(alloc_failure_alive(), 0);
}

static void the_table_grows_with_its_entries(void **state) {
    (void)state;
    enum { MANY = 20000 };
    struct cm_table table;
    assert_int_equal(cm_table_init(&table), 0);
    for (uint32_t i = 0; i < MANY; i++) {
        struct cm_bytes key = {(const uint8_t *)&i, sizeof i};
        uint64_t hash;
        assert_null(cm_table_find(&table, key, &hash));
        struct cm_entry *entry = new_entry(key, hash, i + 1);
        assert_non_null(entry);
        cm_table_insert(&table, entry);
    }
    /* One chain more for each entry, whatever power of two is near. */
    assert_int_equal(table.chain_count, MANY);
    size_t longest = 0;
    for (size_t i = 0; i < table.chain_count; i++) {
        size_t length = 0;
        for (struct cm_entry *entry = table.chains[i]; entry; entry = entry->next)
            length++;
        longest = length > longest ? length : longest;
    }
    assert_in_range(longest, 1, 16);
    for (uint32_t i = 0; i < MANY; i++) {
        uint64_t hash;
        struct cm_entry **link =
            cm_table_find(&table, (struct cm_bytes){(const uint8_t *)&i, sizeof i}, &hash);
        assert_non_null(link);
        assert_int_equal((*link)->version, i + 1);
    }
    cm_table_deinit(&table);
}

/* One key is the other's beginning, and what follows it in the entry are the other's bytes. */
static void equal_hashes_do_not_make_keys_equal(void **state) {
    (void)state;
    struct cm_table table;
    assert_int_equal(cm_table_init(&table), 0);
    struct cm_bytes whole = cm_bytes_of("a key"), start = {whole.data, 3}, other = cm_bytes_of("b key");
    uint64_t hash;
    assert_null(cm_table_find(&table, whole, &hash));
    struct cm_entry *short_one = new_entry(whole, hash, 1), *other_one = new_entry(other, hash, 2);
    assert_non_null(short_one);
    assert_non_null(other_one);
    short_one->key_len = (uint32_t)start.len;
    short_one->value_len = (uint32_t)(whole.len - start.len);
    cm_table_insert(&table, short_one);
    cm_table_insert(&table, other_one);
    assert_null(cm_table_find(&table, whole, &hash));
    cm_table_deinit(&table);
}

static void a_table_that_could_not_start_is_deinitialised(void **state) {
    (void)state;
    struct cm_table table;
    alloc_failure_arm(1, 1);
    int err = cm_table_init(&table);
    alloc_failure_arm(0, 0);
    assert_int_equal(err, CM_E_NOMEMORY);
    cm_table_deinit(&table);
}

/* --- walks */

/* The entries 0 .. count - 1, by number: which are there, and how often a walk has met each. */
struct crowd {
    struct cm_table table;
    size_t count;
    bool *there;
    bool *stays; /* is not to be removed in a visit */
    uint8_t *met;
    size_t remove_one_in; /* of those visited that do not stay; 0: none */
    uint64_t random;
};

static int crowd_init(struct crowd *crowd, size_t count, uint64_t seed) {
    *crowd = (struct crowd){.count = count, .random = seed};
    int err = cm_table_init(&crowd->table);
    crowd->table.seed = seed; /* each run has the same chains */
    crowd->there = calloc(count, 1);
    crowd->stays = calloc(count, 1);
    crowd->met = calloc(count, 1);
    return err || !crowd->there || !crowd->stays || !crowd->met ? CM_E_NOMEMORY : 0;
}

static void crowd_deinit(struct crowd *crowd) {
    cm_table_deinit(&crowd->table);
    free(crowd->there);
    free(crowd->stays);
    free(crowd->met);
}

static struct cm_entry **find_number(struct crowd *crowd, uint32_t n, uint64_t *hash) {
    return cm_table_find(&crowd->table, (struct cm_bytes){(const uint8_t *)&n, sizeof n}, hash);
}

static int join(struct crowd *crowd, uint32_t n) {
    uint64_t hash;
    assert_null(find_number(crowd, n, &hash));
    struct cm_entry *entry = new_entry((struct cm_bytes){(const uint8_t *)&n, sizeof n}, hash, 1);
    if (!entry)
        return CM_E_NOMEMORY;
    cm_table_insert(&crowd->table, entry);
    crowd->there[n] = true;
    return 0;
}

static void leave(struct crowd *crowd, uint32_t n) {
    uint64_t hash;
    struct cm_entry **link = find_number(crowd, n, &hash);
    assert_non_null(link);
    free(cm_table_unlink(&crowd->table, link));
    crowd->there[n] = false;
}

static enum cm_visit meet(void *data, struct cm_entry *entry) {
    struct crowd *crowd = data;
    uint32_t n;
    assert_int_equal(entry->key_len, sizeof n);
    memcpy(&n, entry->bytes, sizeof n);
    assert_true(n < crowd->count && crowd->there[n]);
    crowd->met[n]++;
    if (crowd->stays[n] || !crowd->remove_one_in || random_below(&crowd->random, crowd->remove_one_in) > 0)
        return CM_VISIT_KEEP;
    crowd->there[n] = false;
    free(entry);
    return CM_VISIT_REMOVE;
}

static bool step(struct crowd *crowd, uint64_t *cursor) {
    uint64_t before = *cursor;
    bool more = cm_table_walk(&crowd->table, cursor, meet, crowd);
    assert_int_equal(more, *cursor != 0);
    assert_true(!more || *cursor > before);
    return more;
}

/* The table holds what it should. */
static void check_crowd(struct crowd *crowd) {
    size_t there = 0;
    for (uint32_t n = 0; n < crowd->count; n++) {
        uint64_t hash;
        assert_int_equal(find_number(crowd, n, &hash) != NULL, crowd->there[n]);
        there += crowd->there[n];
    }
    assert_int_equal(crowd->table.entries, there);
}

/* Some of `changes` come, some leave; more come in a table that grows. */
static void churn(struct crowd *crowd, size_t changes, bool growing) {
    for (size_t i = 0; i < changes; i++) {
        uint32_t n = (uint32_t)random_below(&crowd->random, crowd->count);
        if (!crowd->there[n])
            assert_int_equal(join(crowd, n), 0);
        else if (!crowd->stays[n] && (!growing || i % 8 == 0))
            leave(crowd, n);
    }
}

/* A walk over a table of `first` entries, of which half stay, through steps between which others come and go
 * and the table grows: all at once in the middle of the walk, or by the way. */
static void walk_a_changing_table(size_t count, size_t first, bool at_once, uint64_t seed) {
    struct crowd crowd;
    assert_int_equal(crowd_init(&crowd, count, seed), 0);
    for (uint32_t n = 0; n < first; n++) {
        assert_int_equal(join(&crowd, n), 0);
        crowd.stays[n] = n % 2;
    }
    crowd.remove_one_in = 3;
    size_t chains = crowd.table.chain_count;
    size_t growth_at = random_below(&crowd.random, chains);
    uint64_t cursor = 0;
    bool more = true;
    for (size_t steps = 0; more; steps++) {
        more = step(&crowd, &cursor);
        assert_true(steps < crowd.table.chain_count);
        if (at_once && steps == growth_at)
            churn(&crowd, 2 * count, true);
        else
            churn(&crowd, random_below(&crowd.random, 4), !at_once);
    }
    for (size_t n = 0; n < count; n++) {
        if (crowd.stays[n])
            assert_int_equal(crowd.met[n], 1);
        else /* also who left and came again */
            assert_in_range(crowd.met[n], 0, 1);
    }
    if (at_once)
        assert_true(crowd.table.chain_count > chains + count / 3);
    check_crowd(&crowd);
    crowd_deinit(&crowd);
}

static void a_walk_meets_once_whoever_stays(void **state) {
    (void)state;
    const size_t firsts[] = {0, 1, 50, 64, 65, 90, 127, 128, 129, 200, 255, 256, 300, 512, 700};
    for (size_t i = 0; i < sizeof firsts / sizeof firsts[0]; i++)
        for (uint64_t seed = 1; seed <= 20; seed++) {
            walk_a_changing_table(5000, firsts[i], true, seed);
            walk_a_changing_table(2000, firsts[i], false, seed);
        }
    assert_int_equal(alloc_failure_alive(), 0);
}

static void a_table_may_grow_a_thousandfold_meanwhile(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        walk_a_changing_table(400000, 64, true, seed);
        walk_a_changing_table(400000, 60, true, seed);
    }
    walk_a_changing_table(400000, 150000, false, 1);
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
    const uint64_t numbers[] = {1,
                                2,
                                UINT64_MAX,
                                UINT64_MAX - 1,
                                UINT64_C(1) << 63,
                                (UINT64_C(1) << 63) - 1,
                                (UINT64_C(1) << 63) + 1,
                                UINT64_C(1) << 58,
                                (UINT64_C(1) << 58) - 1};
    const size_t special = sizeof numbers / sizeof numbers[0];
    const size_t counts[] = {0, 10, 64, 65, 100, 128, 1000};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        struct crowd crowd;
        assert_int_equal(crowd_init(&crowd, counts[c] ? counts[c] : 1, c + 1), 0);
        for (uint32_t n = 0; n < counts[c]; n++)
            assert_int_equal(join(&crowd, n), 0);
        for (size_t i = 0; i < special + 200; i++) {
            uint64_t cursor = i < special ? numbers[i] : random_next(&crowd.random) >> i % 60;
            uint64_t from = cursor;
            memset(crowd.met, 0, crowd.count);
            size_t steps = 1;
            while (step(&crowd, &cursor))
                steps++;
            assert_in_range(steps, 1, crowd.table.chain_count);
            for (uint32_t n = 0; n < counts[c]; n++) {
                uint64_t hash;
                assert_non_null(find_number(&crowd, n, &hash));
                assert_in_range(crowd.met[n], reversed(hash) >= from, 1);
            }
        }
        crowd_deinit(&crowd);
    }
}

static void a_visit_removes_what_it_wants(void **state) {
    (void)state;
    enum { MANY = 3000 };
    struct crowd crowd;
    assert_int_equal(crowd_init(&crowd, MANY, 4), 0);
    for (uint32_t n = 0; n < MANY; n++) {
        assert_int_equal(join(&crowd, n), 0);
        crowd.stays[n] = n % 3 == 0;
    }
    crowd.remove_one_in = 1;
    uint64_t cursor = 0;
    while (step(&crowd, &cursor))
        continue;
    assert_int_equal(crowd.table.entries, MANY / 3);
    check_crowd(&crowd);
    memset(crowd.stays, 0, MANY);
    while (step(&crowd, &cursor))
        continue;
    assert_int_equal(crowd.table.entries, 0);
    for (size_t n = 0; n < MANY; n++)
        assert_int_equal(crowd.met[n], n % 3 == 0 ? 2 : 1);
    check_crowd(&crowd);
    assert_int_equal(join(&crowd, 1), 0);
    check_crowd(&crowd);
    crowd_deinit(&crowd);
}

/* A walk that begins before the table grows, or fails to. */
static int walk_without_memory(void *data) {
    (void)data;
    struct crowd crowd;
    int err = crowd_init(&crowd, KEYS, 3);
    for (uint32_t n = 0; !err && n < 50; n++) {
        err = join(&crowd, n);
        crowd.stays[n] = !err;
    }
    bool begun = !err;
    bool more = begun;
    uint64_t cursor = 0;
    for (uint32_t n = 50; more; n++) {
        more = step(&crowd, &cursor);
        if (n < KEYS && join(&crowd, n))
            err = CM_E_NOMEMORY;
    }
    for (uint32_t n = 0; begun && n < KEYS; n++)
        assert_in_range(crowd.met[n], crowd.stays[n], 1);
    if (begun)
        check_crowd(&crowd);
    crowd_deinit(&crowd);
    return err;
}

/* --- no memory */

static int fill_and_empty(void *data) {
    (void)data;
    uint64_t versions[KEYS] = {0};
    struct cm_table table;
    int err = cm_table_init(&table);
    for (size_t n = 0; !err && n < KEYS; n++)
        err = change(&table, versions, n, n + 1);
    if (table.chains)
        check(&table, versions, KEYS);
    for (size_t n = 0; !err && n < KEYS; n += 2)
        err = change(&table, versions, n, n + 1);
    if (table.chains)
        check(&table, versions, KEYS);
    cm_table_deinit(&table);
    return err;
}

static void failed_allocations_lose_nothing(void **state) {
    (void)state;
    alloc_failure_each(fill_and_empty, NULL);
    alloc_failure_each(walk_without_memory, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(the_table_grows_with_its_entries),
        cmocka_unit_test(equal_hashes_do_not_make_keys_equal),
        cmocka_unit_test(a_table_that_could_not_start_is_deinitialised),
        cmocka_unit_test(a_walk_meets_once_whoever_stays),
        cmocka_unit_test(a_table_may_grow_a_thousandfold_meanwhile),
        cmocka_unit_test(any_number_is_a_cursor),
        cmocka_unit_test(a_visit_removes_what_it_wants),
        cmocka_unit_test(failed_allocations_lose_nothing),
    };
    return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
