/* Seeded hashes of byte strings (XXH3). The seed is random for each cluster, so that nobody outside can pick
 * keys that collide. */
#ifndef CM_BASE_HASH_H
#define CM_BASE_HASH_H

#include <stdint.h>

#include "base/buf.h"

/* A random seed from the kernel. */
uint64_t cm_hash_seed(void);

uint64_t cm_hash(struct cm_bytes bytes, uint64_t seed);

/* So wide that two byte strings with the same one are not met: it stands for the bytes. */
struct cm_hash128 {
    uint64_t low;
    uint64_t high;
};
struct cm_hash128 cm_hash128(struct cm_bytes bytes, uint64_t seed);

#endif
