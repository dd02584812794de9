#ifndef KERNELS_CPU_SCORES_H
#define KERNELS_CPU_SCORES_H

/*
 * Scores of a tile of keys and queries, and what softmax makes of them. They stand transposed, a row a key and a column
 * a query: what is taken over keys, maximum and sum, then goes down columns, register by register, and of the operands of all
 * products only the queries' are transposed. Columns are whole registers.
 *
 * Logarithms are to base 2: scale2 is log2 e / √d.
 */

#include "kernels/cpu/attention.h"
#include "kernels/cpu/operand.h"

/* Rows from `row` on of a head, counted through all sequences. */
static inline struct rows rows_from(const struct attention *call, struct heads_view view,
                                    int64_t head, int64_t row)
{
    struct rows rows = head_rows(view, head / call->heads, head % call->heads);
    rows.data = row_of(rows, row);
    return rows;
}

/* Rows in whole registers of any instruction set. */
static inline int64_t registers_of(int64_t width)
{
    return (int64_t)scratch_floats(width);
}

/* Memory of a tile, and room for it as an operand. */
struct tile {
    float *floats;
    uint32_t *room;
};

/* A tile (k, n) that is to be an operand of columns. */
static inline struct tile tile_take_columns(struct scratch *scratch, enum precision precision,
                                            int64_t k, int64_t n)
{
    return (struct tile){scratch_take(scratch, k * n),
                         operand_room(scratch, precision, operand_columns_words(k, n))};
}

/* A tile (m, k) that is to be an operand of rows. */
static inline struct tile tile_take_rows(struct scratch *scratch, enum precision precision,
                                         int64_t m, int64_t k)
{
    return (struct tile){scratch_take(scratch, m * k),
                         operand_room(scratch, precision, operand_rows_words(m, k))};
}

/* to (count, registers_of(width)) = x, 0 behind it */
void CPU(rows_pack)(struct rows x, int64_t count, int64_t width, float *to);

/* x (count, width) as columns, with 0 behind it to whole registers; to (count, registers_of(width)) */
struct operand CPU(tile_pack)(struct rows x, int64_t count, int64_t width, struct tile to);

/* xᵀ (width, columns) as columns, with 0 behind the last of x (count, width) */
struct operand CPU(tile_transpose)(struct rows x, int64_t count, int64_t width, int64_t columns,
                                   struct tile to);

float CPU(rows_dot)(const float *a, const float *b, int64_t count);

/* Scores to weights 2^(score scale2 - largest), with the maximum up to here; -inf where nothing is seen yet. `largest` and
 * `sum` of the columns are carried on; `factor`: of what was summed before. */
void CPU(scores_weigh)(int64_t keys, int64_t columns, float *scores, int64_t stride, float scale2,
                       float *largest, float *sum, float *factor);

/* Scores to weights, whose maximum and inverse sum are known, and in the place of dweights
 * dscores = weights (dweights - slope), with the slope dout . out of a query. */
void CPU(scores_weigh_backward)(int64_t keys, int64_t columns, float *scores, float *dweights,
                                int64_t stride, float scale2, const float *largest,
                                const float *inverse, const float *slopes);

#endif
