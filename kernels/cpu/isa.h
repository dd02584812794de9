#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

/*
 * The instruction set that this object is compiled for: its prefix of names, its register, and the few
 * instructions that the compiler's vectors have no operator for. CPU_ISA comes from CMakeLists.txt.
 */

#include <immintrin.h>
#include <stdint.h>

#define CPU_NAME(isa, name)   cpu_##isa##_##name
#define CPU_EXPAND(isa, name) CPU_NAME(isa, name)
/* CPU(linear) is cpu_v3_linear. */
#define CPU(name) CPU_EXPAND(CPU_ISA, name)

#if defined(__AVX512F__)
#define REGISTER_BYTES  64
#define INTRINSIC(name) _mm512_##name
#define REGISTER_FLOATS __m512
#define REGISTER_INTS   __m512i
#define LANE_NUMBERS    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#elif defined(__AVX2__)
#define REGISTER_BYTES  32
#define INTRINSIC(name) _mm256_##name
#define REGISTER_FLOATS __m256
#define REGISTER_INTS   __m256i
#define LANE_NUMBERS    0, 1, 2, 3, 4, 5, 6, 7
#else
#define REGISTER_BYTES  16
#define INTRINSIC(name) _mm_##name
#define REGISTER_FLOATS __m128
#define REGISTER_INTS   __m128i
#define LANE_NUMBERS    0, 1, 2, 3
#endif

/* Floats in a register. */
#define LANES (REGISTER_BYTES / 4)

typedef float floats __attribute__((vector_size(REGISTER_BYTES)));
typedef double doubles __attribute__((vector_size(REGISTER_BYTES)));
typedef int32_t ints __attribute__((vector_size(REGISTER_BYTES)));
typedef uint32_t words __attribute__((vector_size(REGISTER_BYTES)));
typedef uint64_t long_words __attribute__((vector_size(REGISTER_BYTES)));

/* a > b ? a : b, and so b where either is NaN */
static inline floats lanes_larger(floats a, floats b)
{
    return (floats)INTRINSIC(max_ps)((REGISTER_FLOATS)a, (REGISTER_FLOATS)b);
}

/* a * b + c, rounded once where the machine can */
static inline floats lanes_fma(floats a, floats b, floats c)
{
#if defined(__FMA__)
    return (floats)INTRINSIC(fmadd_ps)((REGISTER_FLOATS)a, (REGISTER_FLOATS)b, (REGISTER_FLOATS)c);
#else
    return a * b + c;
#endif
}

static inline floats lanes_sqrt(floats x)
{
    return (floats)INTRINSIC(sqrt_ps)((REGISTER_FLOATS)x);
}

/*
 * A lane of words may hold a pair: two bf16, in memory one behind the other. Of a machine that knows them the instructions
 * take subnormals as 0; others compute the same with floats.
 */
#if defined(__AVX512BF16__)

/* sum + both products of each lane */
static inline floats lanes_pair_fma(words a, words b, floats sum)
{
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

/* Of each lane the pair (first, second). */
static inline words lanes_pair(floats first, floats second)
{
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    const words order = (words)(ints){LANE_NUMBERS} * 0x10001u + 0x100000u;
    return (words)_mm512_permutexvar_epi16((__m512i)order, halves);
}

/* The pairs of 2 LANES neighbours, of which these are the first and the second half. */
static inline words lanes_pair_row(floats first, floats second)
{
    return (words)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

#else

static inline floats lanes_pair_fma(words a, words b, floats sum)
{
    sum = lanes_fma((floats)(a << 16), (floats)(b << 16), sum);
    return lanes_fma((floats)(a & 0xffff0000u), (floats)(b & 0xffff0000u), sum);
}

/* The bf16 in the upper half, as bf16_of() in kernels/bf16.h; what is below does not count. */
static inline words lanes_round_bf16(floats x)
{
    const words bits = (words)x, is_number = (words)(x == x);
    const words rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return (rounded & is_number) | ((bits | 0x400000u) & ~is_number);
}

static inline words lanes_pair(floats first, floats second)
{
    return lanes_round_bf16(first) >> 16 | (lanes_round_bf16(second) & 0xffff0000u);
}

static inline words lanes_pair_row(floats first, floats second)
{
    const ints even = 2 * (ints){LANE_NUMBERS};
    return lanes_pair(__builtin_shuffle(first, second, even),
                      __builtin_shuffle(first, second, even + 1));
}

#endif

/* Products of the even lanes, 64 bits each. */
static inline long_words lanes_multiply_even(words a, words b)
{
    return (long_words)INTRINSIC(mul_epu32)((REGISTER_INTS)a, (REGISTER_INTS)b);
}

/* Four floats a 128-bit lane: lane l from from + l * stride. */
static inline words lanes_load_quarters(const float *from, int64_t stride)
{
#if defined(__AVX512F__)
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(from));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(from + stride), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(from + 2 * stride), 2);
    return (words)_mm512_insertf32x4(x, _mm_loadu_ps(from + 3 * stride), 3);
#elif defined(__AVX2__)
    const __m256 x = _mm256_castps128_ps256(_mm_loadu_ps(from));
    return (words)_mm256_insertf128_ps(x, _mm_loadu_ps(from + stride), 1);
#else
    (void)stride;
    return (words)_mm_loadu_ps(from);
#endif
}

/* Four registers as columns of 4 x 4 blocks, one a 128-bit lane; transposed in place. */
static inline void lanes_transpose(words x[4])
{
    const REGISTER_INTS low01 = INTRINSIC(unpacklo_epi32)((REGISTER_INTS)x[0], (REGISTER_INTS)x[1]);
    const REGISTER_INTS low23 = INTRINSIC(unpacklo_epi32)((REGISTER_INTS)x[2], (REGISTER_INTS)x[3]);
    const REGISTER_INTS high01 =
        INTRINSIC(unpackhi_epi32)((REGISTER_INTS)x[0], (REGISTER_INTS)x[1]);
    const REGISTER_INTS high23 =
        INTRINSIC(unpackhi_epi32)((REGISTER_INTS)x[2], (REGISTER_INTS)x[3]);
    x[0] = (words)INTRINSIC(unpacklo_epi64)(low01, low23);
    x[1] = (words)INTRINSIC(unpackhi_epi64)(low01, low23);
    x[2] = (words)INTRINSIC(unpacklo_epi64)(high01, high23);
    x[3] = (words)INTRINSIC(unpackhi_epi64)(high01, high23);
}

#endif
