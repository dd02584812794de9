#ifndef KERNELS_REFERENCE_PRODUCT_H
#define KERNELS_REFERENCE_PRODUCT_H

#include <math.h>

#include "kernels/bf16.h"
#include "proto/choice.h"

/* x as a matrix product of this precision reads it. The range stays that of doubles: 2^127 and more is not rounded. */
static inline double product_input(enum precision precision, double x)
{
    if (precision == PRECISION_FP32 || fabs(x) >= 0x1p127) return x;
    return bf16_float(bf16_of((float)x));
}

#endif
