#ifndef KERNELS_BF16_H
#define KERNELS_BF16_H

/* bf16, the upper half of a float: its exponent, and 8 of its 24 bits of precision. */

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

/* The nearest, of two equally near the even one; no number stays none. */
static inline bf16 bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (bf16)(bits >> 16 | 0x40);
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float bf16_float(bf16 x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
