/* The hash table of entries against an array of what is in it. */
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
    assert_true(table.chain_count >= MANY / 2);
    assert_int_equal(table.chain_count & (table.chain_count - 1), 0);
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
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_an_array),
        cmocka_unit_test(the_table_grows_with_its_entries),
        cmocka_unit_test(equal_hashes_do_not_make_keys_equal),
        cmocka_unit_test(a_table_that_could_not_start_is_deinitialised),
        cmocka_unit_test(failed_allocations_lose_nothing),
    };
    return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
