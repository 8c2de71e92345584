#include "base/hash.h"

#include <stdlib.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t cm_hash_seed(void) {
    uint64_t seed;
    /* Up to 256 bytes come whole and without EINTR once the kernel's pool is ready (getrandom(2)). */
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        abort();
    return seed;
}

uint64_t cm_hash(struct cm_bytes bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes.data, bytes.len, seed);
}

struct cm_hash128 cm_hash128(struct cm_bytes bytes, uint64_t seed) {
    XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data, bytes.len, seed);
    return (struct cm_hash128){hash.low64, hash.high64};
}
