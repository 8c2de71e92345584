/* The clock everything is measured with: CLOCK_MONOTONIC, the same in every process of the machine. */
#ifndef CM_BASE_CLOCK_H
#define CM_BASE_CLOCK_H

#include <stdint.h>

uint64_t cm_clock_ms(void);
uint64_t cm_clock_ns(void);

/* The time of day, for what outlives the machine's being up: ms since 1970, which may jump. */
uint64_t cm_clock_wall_ms(void);

#endif
