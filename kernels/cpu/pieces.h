#ifndef KERNELS_CPU_PIECES_H
#define KERNELS_CPU_PIECES_H

/* Cutting work into pieces of a fixed size, and scratch memory into parts. */

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/operations.h"

struct range {
    int64_t from, count;
};

static inline int64_t pieces_of(int64_t total, int64_t size)
{
    return (total + size - 1) / size;
}

static inline struct range piece_range(int64_t piece, int64_t size, int64_t total)
{
    const int64_t from = piece * size;
    return (struct range){from, total - from < size ? total - from : size};
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Floats of scratch, in whole cache lines. */
static inline size_t scratch_floats(int64_t count)
{
    return (size_t)((count + 15) / 16 * 16);
}

/* Scratch memory, taken apart in one order whether it is there already or only counted (base NULL). */
struct scratch {
    float *base;
    size_t used; /* floats */
};

static inline float *scratch_take(struct scratch *scratch, int64_t count)
{
    float *taken = scratch->base ? scratch->base + scratch->used : NULL;
    scratch->used += scratch_floats(count);
    return taken;
}

static inline uint32_t *scratch_take_words(struct scratch *scratch, int64_t count)
{
    return (uint32_t *)scratch_take(scratch, count);
}

/* Defines the scratch query of an operation that needs none. */
#define CPU_WITHOUT_SCRATCH(op)                                       \
    size_t CPU(op##_scratch)(const struct op *arguments, int threads) \
    {                                                                 \
        (void)arguments;                                              \
        (void)threads;                                                \
        return 0;                                                     \
    }

#endif
