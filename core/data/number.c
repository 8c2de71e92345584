#include "data/number.h"

#include <string.h>

#include "base/error.h"

/* The first bytes of numbers, from the MessagePack specification. */
enum {
    POSITIVE_FIXINT_MOST = 0x7f,
    FLOAT64 = 0xcb,
    UINT8 = 0xcc,
    UINT64 = 0xcf,
    INT8 = 0xd0,
    INT64 = 0xd3,
    NEGATIVE_FIXINT_LEAST = 0xe0,
};

static uint64_t read_big_endian(const uint8_t *bytes, size_t len) {
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        value = value << 8 | bytes[i];
    return value;
}

int cm_number_decode(struct cm_bytes value, struct cm_number *number) {
    if (value.len == 0)
        return CM_E_BADVALUE;
    uint8_t head = value.data[0];
    const uint8_t *body = value.data + 1;
    size_t len = value.len - 1;
    *number = (struct cm_number){0};
    if (head <= POSITIVE_FIXINT_MOST || head >= NEGATIVE_FIXINT_LEAST) {
        number->integer = head <= POSITIVE_FIXINT_MOST ? head : head - 256;
        return len == 0 ? 0 : CM_E_BADVALUE;
    }
    if (head == FLOAT64 && len == 8) {
        uint64_t bits = read_big_endian(body, 8);
        number->is_float = true;
        memcpy(&number->real, &bits, 8);
        return 0;
    }
    if (head >= UINT8 && head <= UINT64 && len == (size_t)1 << (head - UINT8)) {
        uint64_t bits = read_big_endian(body, len);
        number->integer = (int64_t)bits;
        return bits <= INT64_MAX ? 0 : CM_E_BADVALUE;
    }
    if (head >= INT8 && head <= INT64 && len == (size_t)1 << (head - INT8)) {
        /* The sign is that of the shorter integer. */
        uint64_t sign = UINT64_C(0x80) << 8 * (len - 1);
        number->integer = (int64_t)((read_big_endian(body, len) ^ sign) - sign);
        return 0;
    }
    return CM_E_BADVALUE;
}

struct cm_bytes cm_number_encode(struct cm_number number, uint8_t space[CM_NUMBER_BYTES]) {
    uint64_t bits = (uint64_t)number.integer;
    if (number.is_float)
        memcpy(&bits, &number.real, 8);
    space[0] = number.is_float ? FLOAT64 : INT64;
    for (int i = 0; i < 8; i++)
        space[1 + i] = (uint8_t)(bits >> (56 - 8 * i));
    return (struct cm_bytes){space, CM_NUMBER_BYTES};
}

int cm_number_add(struct cm_number a, struct cm_number b, struct cm_number *sum) {
    sum->is_float = a.is_float || b.is_float;
    if (!sum->is_float)
        return __builtin_add_overflow(a.integer, b.integer, &sum->integer) ? CM_E_BADVALUE : 0;
    sum->real = (a.is_float ? a.real : (double)a.integer) + (b.is_float ? b.real : (double)b.integer);
    return 0;
}
