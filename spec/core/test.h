/* What every test of core/ includes: cmocka with the headers it wants before it, and random numbers that are
 * the same in each run. */
#ifndef CM_SPEC_CORE_TEST_H
#define CM_SPEC_CORE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* splitmix64: the state is the seed. */
static inline uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* 0 .. below - 1. */
static inline size_t random_below(uint64_t *state, size_t below) {
    return below ? (size_t)(random_next(state) % below) : 0;
}

#endif
