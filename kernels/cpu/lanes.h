#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

/*
 * Arithmetic on registers of floats: loads, sums, and the functions that the operations need, our own so that
 * the bits do not depend on a version of libm.
 */

#include <math.h>
#include <string.h>

#include "kernels/cpu/isa.h"

typedef float floats_unaligned __attribute__((vector_size(REGISTER_BYTES), aligned(4), may_alias));

static inline floats lanes_load(const float *from)
{
    return *(const floats_unaligned *)from;
}

static inline void lanes_store(float *to, floats x)
{
    *(floats_unaligned *)to = x;
}

static inline floats lanes_of(float x)
{
    return x - (floats){0};
}

/* The first `count` lanes from memory, the others `fill`. */
static inline floats lanes_load_part(const float *from, int64_t count, float fill)
{
    floats x;
    for (int i = 0; i < LANES; i++) x[i] = fill;
    memcpy(&x, from, (size_t)count * sizeof(float));
    return x;
}

static inline void lanes_store_part(float *to, floats x, int64_t count)
{
    memcpy(to, &x, (size_t)count * sizeof(float));
}

/* The part of a row from i on, `fill` behind its end. */
static inline floats lanes_load_row(const float *row, int64_t i, int64_t width, float fill)
{
    return i + LANES <= width ? lanes_load(row + i) : lanes_load_part(row + i, width - i, fill);
}

static inline void lanes_store_row(float *row, int64_t i, int64_t width, floats x)
{
    if (i + LANES <= width)
        lanes_store(row + i, x);
    else
        lanes_store_part(row + i, x, width - i);
}

static inline ints lanes_numbers(void)
{
    return (ints){LANE_NUMBERS};
}

static inline floats lanes_select(ints mask, floats yes, floats no)
{
    return (floats)((mask & (ints)yes) | (~mask & (ints)no));
}

static inline floats lanes_rotate(floats x, int by)
{
    return __builtin_shuffle(x, (lanes_numbers() + by) & (LANES - 1));
}

static inline float lanes_sum(floats x)
{
    for (int by = LANES / 2; by >= 1; by /= 2) x += lanes_rotate(x, by);
    return x[0];
}

static inline float lanes_largest(floats x)
{
    for (int by = LANES / 2; by >= 1; by /= 2) x = lanes_larger(lanes_rotate(x, by), x);
    return x[0];
}

/*
 * 2^x for x < 128, to 1 unit in the last place; 0 below 2^-126, NaN for NaN. 2^x = 2^n 2^r with n the nearest
 * integer, left in the low bits of x + 1.5 * 2^23, and r in [-1/2, 1/2]; 2^r - 1 over r is a polynomial
 * through Chebyshev's points there (relative error 5e-9).
 */
static inline floats lanes_exp2(floats x)
{
    const floats bounded = lanes_larger(lanes_of(-127.0f), x);
    const floats shifted = bounded + 0x1.8p23f;
    const floats r = bounded - (shifted - 0x1.8p23f);
    const floats scale = (floats)(((ints)shifted << 23) + (127 << 23));
    floats p = lanes_fma(lanes_of(1.545316294e-4f), r, lanes_of(1.339086336e-3f));
    p = lanes_fma(p, r, lanes_of(9.618082557e-3f));
    p = lanes_fma(p, r, lanes_of(5.550357114e-2f));
    p = lanes_fma(p, r, lanes_of(2.402265076e-1f));
    p = lanes_fma(p, r, lanes_of(6.931471880e-1f));
    p = lanes_fma(p, r, lanes_of(1.0f));
    return p * scale;
}

#define LOG2_E 1.44269504088896341f

/* Φ(u), the distribution function of N(0, 1), and its density at u. */
struct normal {
    floats below, density;
};

/*
 * With z = |u| / √2: erfc(z) = exp(-z²) t P(t), t = 1 / (1 + z / 2) (the form of Abramowitz & Stegun 7.1.26),
 * P through Chebyshev's points for z in [0, 10] (relative error 5e-8).
 */
static inline struct normal lanes_normal(floats u)
{
    const floats size = lanes_larger(u, -u);
    const floats t = 1.0f / (size * 0.353553390593f + 1.0f);
    const floats bell = lanes_exp2(u * u * (-0.5f * LOG2_E));
    floats p = lanes_fma(lanes_of(-5.971491899e-2f), t, lanes_of(2.877683096e-1f));
    p = lanes_fma(p, t, lanes_of(-4.938636490e-1f));
    p = lanes_fma(p, t, lanes_of(2.856977106e-1f));
    p = lanes_fma(p, t, lanes_of(-3.184175762e-2f));
    p = lanes_fma(p, t, lanes_of(2.048536552e-1f));
    p = lanes_fma(p, t, lanes_of(2.425728929e-1f));
    p = lanes_fma(p, t, lanes_of(2.824450420e-1f));
    p = lanes_fma(p, t, lanes_of(2.820826737e-1f));
    const floats tail = 0.5f * (bell * (t * p));
    return (struct normal){
        .below = lanes_select(u < 0, tail, 1.0f - tail),
        .density = bell * 0.398942280401f,
    };
}

/* Two halves of a register of floats, as doubles. */
struct double_pair {
    doubles low, high;
};

static inline struct double_pair lanes_widen(floats x)
{
    typedef float half __attribute__((vector_size(REGISTER_BYTES / 2)));
    half halves[2];
    memcpy(halves, &x, sizeof halves);
    return (struct double_pair){__builtin_convertvector(halves[0], doubles),
                                __builtin_convertvector(halves[1], doubles)};
}

static inline double lanes_sum_double(doubles x)
{
    double sum = 0;
    for (int i = 0; i < LANES / 2; i++) sum += x[i];
    return sum;
}

#endif
