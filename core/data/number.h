/* A number as a value: what `increment` adds to. Integers and floats stay what they are. */
#ifndef CM_DATA_NUMBER_H
#define CM_DATA_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct cm_number {
    bool is_float;
    union {
        int64_t integer;
        double real;
    };
};

enum { CM_NUMBER_BYTES = 9 };

/* Reads a value that is a number, as core/bind/value writes one (MessagePack). 0, or CM_E_BADVALUE. */
int cm_number_decode(struct cm_bytes value, struct cm_number *number);

/* Writes it as such a value, and gives the view of the bytes used. */
struct cm_bytes cm_number_encode(struct cm_number number, uint8_t space[CM_NUMBER_BYTES]);

/* As Lua adds: integers to an integer, else to a float. 0, or CM_E_BADVALUE when the integer would overflow.
 */
int cm_number_add(struct cm_number a, struct cm_number b, struct cm_number *sum);

#endif
