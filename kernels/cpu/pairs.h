#ifndef KERNELS_CPU_PAIRS_H
#define KERNELS_CPU_PAIRS_H

/*
 * Products of matrices in bf16, summed in fp32, at twice the speed of floats where the machine has them. A pair is two
 * neighbours along the sum, in one word; behind an odd end stands 0. The right matrix lies in panels: PANEL columns of it
 * side by side, pair by pair. Bits of a product depend on its sizes alone.
 */

#include "kernels/cpu/pieces.h"

/* Rows and registers of a tile that is summed in registers: of 32 it takes 24, of 16, where pairs are taken apart, 8. */
enum {
    PANEL_REGISTERS = REGISTER_BYTES == 64 ? 4 : 2,
    PANEL = PANEL_REGISTERS * LANES,
    PAIR_ROWS = REGISTER_BYTES == 64 ? 6 : 4,
};

static inline int64_t pairs_of(int64_t count)
{
    return (count + 1) / 2;
}

/* Words of the panels of a matrix (depth, columns). */
static inline int64_t panels_words(int64_t depth, int64_t columns)
{
    return pieces_of(columns, PANEL) * pairs_of(depth) * PANEL;
}

/* pairs (rows, pairs_of(width)) from x: along rows */
void CPU(pairs_of_rows)(int64_t rows, int64_t width, const float *x, int64_t stride,
                        uint32_t *pairs);

/* Pairs of some rows, from an even one on, of x (depth, columns), in the panels of the whole of it. */
void CPU(panels_of_rows)(struct range rows, int64_t depth, int64_t columns, const float *x,
                         int64_t stride, uint32_t *panels);

/* Of xᵀ (depth, columns), with x stored as (columns, depth): the panels of some columns, from a whole panel on. */
void CPU(panels_of_transposed)(struct range columns, int64_t depth, const float *x, int64_t stride,
                               uint32_t *panels);

/* The left matrix: pair p of row i is data[i * row + p * pair]. */
struct left {
    const uint32_t *data;
    int64_t row, pair;
};

/* c (m, n) = a b, or added to it; panel_stride: words from a panel to the next */
void CPU(pairs_multiply)(int64_t m, int64_t n, int64_t pairs, struct left a, const uint32_t *panels,
                         int64_t panel_stride, bool add, float *c, int64_t ldc);

#endif
