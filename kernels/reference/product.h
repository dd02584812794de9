#ifndef KERNELS_REFERENCE_PRODUCT_H
#define KERNELS_REFERENCE_PRODUCT_H

#include "kernels/bf16.h"
#include "proto/choice.h"

/* x as a matrix product of this precision reads it. */
static inline double product_input(enum precision precision, double x)
{
    return precision == PRECISION_BF16 ? bf16_float(bf16_of((float)x)) : x;
}

#endif
