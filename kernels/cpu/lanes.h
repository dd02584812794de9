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

static inline ints lanes_numbers(void)
{
    return (ints){LANE_NUMBERS};
}

static inline floats lanes_select(ints mask, floats yes, floats no)
{
    return (floats)((mask & (ints)yes) | (~mask & (ints)no));
}

/* The first `count` lanes from memory, the others `fill`; 0 <= count <= LANES. */
static inline floats lanes_load_part(const float *from, int64_t count, float fill)
{
#if defined(__AVX512F__)
    const __mmask16 mask = (__mmask16)((1u << count) - 1);
    return (floats)_mm512_mask_loadu_ps((__m512)lanes_of(fill), mask, from);
#elif defined(__AVX2__)
    const ints mask = lanes_numbers() < (int32_t)count;
    return lanes_select(mask, (floats)_mm256_maskload_ps(from, (__m256i)mask), lanes_of(fill));
#else
    floats x = lanes_of(fill);
    for (int64_t i = 0; i < count; i++) x[i] = from[i];
    return x;
#endif
}

static inline void lanes_store_part(float *to, floats x, int64_t count)
{
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)x);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(to, (__m256i)(lanes_numbers() < (int32_t)count), (__m256)x);
#else
    for (int64_t i = 0; i < count; i++) to[i] = x[i];
#endif
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
    const floats scale = (floats)(((words)shifted << 23) + (127u << 23));
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

static inline floats lanes_absolute(floats x)
{
    return (floats)((ints)x & 0x7fffffff);
}

/* |x| with the sign of `sign` */
static inline floats lanes_signed(floats x, floats sign)
{
    return (floats)(((ints)x & 0x7fffffff) | ((ints)sign & (ints)lanes_of(-0.0f)));
}

struct circle {
    floats sine, cosine;
};

/*
 * x = n π/2 + r with |r| <= π/4, n as in lanes_exp2 and π/2 in three parts, the first two of so few bits that their
 * products with n are exact; polynomials in r² through Chebyshev's points (relative errors 2e-8 and 1e-9). To 1
 * unit in the last place of 1 for |x| < 1e5; beyond, digits are lost as they are in x, and results stay within 1.
 */
static inline struct circle lanes_circle(floats x)
{
    const floats shifted = lanes_fma(x, lanes_of(0.636619772368f), lanes_of(0x1.8p23f));
    const floats n = shifted - 0x1.8p23f;
    floats r = lanes_fma(n, lanes_of(-0x1.92p0f), x);
    r = lanes_fma(n, lanes_of(-0x1.fb4p-12f), r);
    r = lanes_fma(n, lanes_of(-0x1.4442d2p-24f), r);
    r = lanes_larger(lanes_of(-0.8f), r);
    r = -lanes_larger(lanes_of(-0.8f), -r);
    const floats s = r * r;
    floats sine = lanes_fma(lanes_of(-1.958537321e-4f), s, lanes_of(8.332736559e-3f));
    sine = lanes_fma(sine, s, lanes_of(-1.66666646e-1f));
    sine = lanes_fma(sine * s, r, r);
    floats cosine = lanes_fma(lanes_of(2.454541908e-5f), s, lanes_of(-1.38882913e-3f));
    cosine = lanes_fma(cosine, s, lanes_of(4.16666646e-2f));
    cosine = lanes_fma(cosine, s, lanes_of(-0.5f));
    cosine = lanes_fma(cosine, s, lanes_of(1.0f));
    const ints quadrant = (ints)shifted, odd = (quadrant & 1) != 0;
    const ints sine_sign = (quadrant & 2) << 30, cosine_sign = ((quadrant + 1) & 2) << 30;
    return (struct circle){
        .sine = (floats)((ints)lanes_select(odd, cosine, sine) ^ sine_sign),
        .cosine = (floats)((ints)lanes_select(odd, sine, cosine) ^ cosine_sign),
    };
}

/* (1 - e^-2|x|) / (1 + e^-2|x|), and for small |x|, where that loses digits, x P(x²) through Chebyshev's points
 * (relative error 2e-8). */
static inline floats lanes_tanh(floats x)
{
    const floats s = x * x, e = lanes_exp2(lanes_absolute(x) * (-2 * LOG2_E));
    floats p = lanes_fma(lanes_of(-6.045165097e-3f), s, lanes_of(2.096132911e-2f));
    p = lanes_fma(p, s, lanes_of(-5.384326318e-2f));
    p = lanes_fma(p, s, lanes_of(1.333271885e-1f));
    p = lanes_fma(p, s, lanes_of(-3.333332843e-1f));
    return lanes_select(s < 0.4f, lanes_fma(p * s, x, x), lanes_signed((1.0f - e) / (1.0f + e), x));
}

/* 1 / (1 + e^-x) */
static inline floats lanes_sigmoid(floats x)
{
    const floats e = lanes_exp2(lanes_absolute(x) * -LOG2_E), larger = 1.0f / (1.0f + e);
    return lanes_select(x < 0, e * larger, larger);
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
