/* What the fuzz targets share. */
#ifndef CM_SPEC_FUZZ_FUZZ_H
#define CM_SPEC_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the run with a core, which is how a fuzzer is told; not switched off by NDEBUG. */
#define MUST(condition) ((condition) ? (void)0 : abort())

/* A copy of exactly these bytes, so that a sanitizer sees each read beyond them; to be freed. */
static inline uint8_t *exact_copy(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    MUST(copy);
    if (size)
        memcpy(copy, data, size);
    return copy;
}

#endif
