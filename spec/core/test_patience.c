/* Patience: it comes with short waits and goes with long ones, and what is wasted is bounded. */
#include "base/patience.h"
#include "spec/core/test.h"

enum { MOST_NS = 1000, LONG_NS = 10 * MOST_NS, SHARE = 8, LOOKS = 8, ENOUGH = 1000 };

/* Waits of that length until it looks. The number of them, or ENOUGH. */
static int waits_until_it_looks(struct cm_patience *patience, uint64_t waited_ns) {
    int count = 0;
    for (; count < ENOUGH && !cm_patience_has(patience); count++)
        cm_patience_note(patience, waited_ns, 0);
    return count;
}

static void test_comes_with_short_waits(void **state) {
    (void)state;
    struct cm_patience patience = {.most_ns = MOST_NS};
    assert_int_equal(waits_until_it_looks(&patience, MOST_NS), SHARE);
    /* It stays while looking is of use. */
    for (int i = 0; i < ENOUGH; i++) {
        assert_true(cm_patience_has(&patience));
        cm_patience_note(&patience, MOST_NS, MOST_NS);
    }
}

static void test_goes_with_long_waits(void **state) {
    (void)state;
    struct cm_patience patience = {.most_ns = MOST_NS};
    assert_int_equal(waits_until_it_looks(&patience, LONG_NS), ENOUGH);
    assert_int_equal(waits_until_it_looks(&patience, UINT64_MAX), ENOUGH);
    waits_until_it_looks(&patience, 0);
    cm_patience_note(&patience, MOST_NS + 1, MOST_NS);
    assert_false(cm_patience_has(&patience));
    assert_int_equal(waits_until_it_looks(&patience, 0), SHARE);
    /* A look that was to be short and took long, because others needed the core, is paid for in full. */
    cm_patience_note(&patience, UINT64_MAX, LONG_NS);
    assert_int_equal(waits_until_it_looks(&patience, 0), 10 * SHARE);
    /* But not without end: it may have been stopped. */
    cm_patience_note(&patience, UINT64_MAX, UINT64_MAX);
    assert_int_equal(waits_until_it_looks(&patience, 0), 100 * SHARE);
}

/* A conversation outlasts a few waits that are long by chance, and no more. */
static void test_outlasts_a_few_long_waits(void **state) {
    (void)state;
    struct cm_patience patience = {.most_ns = MOST_NS};
    for (int i = 0; i < ENOUGH; i++)
        cm_patience_note(&patience, MOST_NS, MOST_NS);
    int looks = 0;
    for (; looks < ENOUGH && cm_patience_has(&patience); looks++)
        cm_patience_note(&patience, UINT64_MAX, MOST_NS);
    assert_int_equal(looks, LOOKS);
    assert_int_equal(waits_until_it_looks(&patience, 0), SHARE);
}

static void test_none(void **state) {
    (void)state;
    struct cm_patience patience = {.most_ns = 0};
    assert_int_equal(waits_until_it_looks(&patience, 0), ENOUGH);
}

/* Whatever comes: all that looking in vain has taken was earned by short waits, but for the last look. */
static void test_waste_is_bounded(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t random = seed, wasted_ns = 0, longest_ns = 0, earned_ns = 0;
        struct cm_patience patience = {.most_ns = MOST_NS};
        size_t short_of_ten = random_below(&random, 11);
        for (int i = 0; i < 1000; i++) {
            bool is_short = random_below(&random, 10) < short_of_ten;
            uint64_t waited_ns = is_short ? random_below(&random, MOST_NS + 1) : UINT64_MAX;
            uint64_t looked_ns = 0;
            if (cm_patience_has(&patience))
                looked_ns = is_short ? waited_ns : MOST_NS + random_below(&random, LONG_NS);
            cm_patience_note(&patience, waited_ns, looked_ns);
            earned_ns += is_short ? MOST_NS / SHARE : 0;
            wasted_ns += is_short ? 0 : looked_ns;
            longest_ns = !is_short && looked_ns > longest_ns ? looked_ns : longest_ns;
            assert_true(wasted_ns <= earned_ns + longest_ns);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_with_short_waits),    cmocka_unit_test(test_goes_with_long_waits),
        cmocka_unit_test(test_outlasts_a_few_long_waits), cmocka_unit_test(test_none),
        cmocka_unit_test(test_waste_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
