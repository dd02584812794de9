#ifndef KERNELS_CPU_OPERAND_H
#define KERNELS_CPU_OPERAND_H

/*
 * Products of small matrices, of either precision by the same calls. An operand is a matrix as a product reads it: in fp32
 * where it lies (product.h), in bf16 rounded and laid out as pairs (pairs.h) in room of the caller's. Room is what tells
 * the two apart: where it is NULL, nothing is laid out. Of fp32 the bits are those of product.h.
 *
 * An operand lives as long as both the matrix and its room do, and is laid out anew when the matrix has changed. All here
 * is of the calling thread alone.
 */

#include "kernels/cpu/pairs.h"
#include "kernels/cpu/pieces.h"

struct operand {
    const float *floats;
    int64_t stride;
    const uint32_t *pairs; /* NULL: fp32 */
    int64_t pairs_stride;  /* from row to row, or from panel to panel */
};

/* Words of room for rows (m, k), and for columns (k, n). */
static inline int64_t operand_rows_words(int64_t m, int64_t k)
{
    return m * pairs_of(k);
}

static inline int64_t operand_columns_words(int64_t k, int64_t n)
{
    return panels_words(k, n);
}

/* Room for so many words, where the precision is bf16. */
static inline uint32_t *operand_room(struct scratch *scratch, enum precision precision,
                                     int64_t count)
{
    return precision == PRECISION_BF16 ? scratch_take_words(scratch, count) : NULL;
}

/* x (m, k), summed along its rows: what stands left in operand_multiply. */
struct operand CPU(operand_rows)(int64_t m, int64_t k, const float *x, int64_t stride,
                                 uint32_t *room);

/* x (k, n), summed along its columns: what stands right, or left in operand_multiply_tn. */
struct operand CPU(operand_columns)(int64_t k, int64_t n, const float *x, int64_t stride,
                                    uint32_t *room);

/* The part from row i and column k on; k is even. */
struct operand CPU(operand_rows_from)(struct operand rows, int64_t i, int64_t k);

/* The part from row k, which is even, and column j on. Where j does not begin a panel, a product may read no further than
 * to the end of that one. */
struct operand CPU(operand_columns_from)(struct operand columns, int64_t k, int64_t j);

/* c (m, n) = a b, or added to it; a rows (m, k), b columns (k, n), of one precision. An operand may hold more than the
 * product sums: behind an odd k stands 0 in one of them at least. */
void CPU(operand_multiply)(int64_t m, int64_t n, int64_t k, struct operand a, struct operand b,
                           bool add, float *c, int64_t ldc);

/* the same with a of columns (k, m) */
void CPU(operand_multiply_tn)(int64_t m, int64_t n, int64_t k, struct operand a, struct operand b,
                              bool add, float *c, int64_t ldc);

#endif
