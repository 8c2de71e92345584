/* The seeded hash. */
#include <string.h>

#include "base/hash.h"
#include "spec/core/test.h"

static void equal_bytes_hash_equally(void **state) {
    (void)state;
    uint8_t one[300], other[301]; /* of different alignment */
    uint64_t random = 3;
    for (size_t i = 0; i < sizeof one; i++)
        one[i] = (uint8_t)random_next(&random);
    memcpy(other + 1, one, sizeof one);
    for (size_t len = 0; len <= sizeof one; len++)
        assert_int_equal(cm_hash((struct cm_bytes){one, len}, 7),
                         cm_hash((struct cm_bytes){other + 1, len}, 7));
}

static void every_byte_and_the_length_count(void **state) {
    (void)state;
    uint8_t bytes[300] = {0};
    uint64_t plain = cm_hash((struct cm_bytes){bytes, sizeof bytes}, 7);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = 1;
        assert_int_not_equal(cm_hash((struct cm_bytes){bytes, sizeof bytes}, 7), plain);
        bytes[i] = 0;
        assert_int_not_equal(cm_hash((struct cm_bytes){bytes, i}, 7), plain);
    }
}

static void the_seed_counts(void **state) {
    (void)state;
    const char *keys[] = {"", "a", "key", "a key of more than sixteen bytes"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        assert_int_not_equal(cm_hash(cm_bytes_of(keys[i]), 1), cm_hash(cm_bytes_of(keys[i]), 2));
    assert_int_equal(cm_hash((struct cm_bytes){NULL, 0}, 1), cm_hash(cm_bytes_of(""), 1));
}

static void seeds_differ(void **state) {
    (void)state;
    uint64_t seeds[16];
    for (size_t i = 0; i < 16; i++) {
        seeds[i] = cm_hash_seed();
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(seeds[i], seeds[j]);
    }
}

/* A table takes the low bits. */
static void low_bits_are_spread(void **state) {
    (void)state;
    enum { CHAINS = 1024, KEYS = 16 * CHAINS };
    size_t chains[CHAINS] = {0};
    for (uint32_t i = 0; i < KEYS; i++)
        chains[cm_hash((struct cm_bytes){(const uint8_t *)&i, sizeof i}, 5) % CHAINS]++;
    for (size_t i = 0; i < CHAINS; i++)
        assert_in_range(chains[i], 1, 64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_bytes_hash_equally), cmocka_unit_test(every_byte_and_the_length_count),
        cmocka_unit_test(the_seed_counts),          cmocka_unit_test(seeds_differ),
        cmocka_unit_test(low_bits_are_spread),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
