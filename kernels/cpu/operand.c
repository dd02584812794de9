#include "kernels/cpu/operand.h"

#include "kernels/cpu/product.h"

struct operand CPU(operand_rows)(int64_t m, int64_t k, const float *x, int64_t stride,
                                 uint32_t *room)
{
    if (room) CPU(pairs_of_rows)(m, k, x, stride, room);
    return (struct operand){x, stride, room, pairs_of(k)};
}

struct operand CPU(operand_columns)(int64_t k, int64_t n, const float *x, int64_t stride,
                                    uint32_t *room)
{
    if (room) CPU(panels_of_rows)((struct range){0, k}, k, n, x, stride, room);
    return (struct operand){x, stride, room, pairs_of(k) * PANEL};
}

struct operand CPU(operand_rows_from)(struct operand rows, int64_t i, int64_t k)
{
    assert(k % 2 == 0);
    rows.floats += i * rows.stride + k;
    if (rows.pairs) rows.pairs += i * rows.pairs_stride + k / 2;
    return rows;
}

struct operand CPU(operand_columns_from)(struct operand columns, int64_t k, int64_t j)
{
    assert(k % 2 == 0);
    columns.floats += k * columns.stride + j;
    if (columns.pairs)
        columns.pairs += j / PANEL * columns.pairs_stride + k / 2 * PANEL + j % PANEL;
    return columns;
}

void CPU(operand_multiply)(int64_t m, int64_t n, int64_t k, struct operand a, struct operand b,
                           bool add, float *c, int64_t ldc)
{
    const struct left left = {a.pairs, a.pairs_stride, 1};
    assert(!a.pairs == !b.pairs);
    if (!a.pairs) {
        CPU(product_nn)(m, n, k, a.floats, a.stride, b.floats, b.stride, add, c, ldc);
        return;
    }
    CPU(pairs_multiply)(m, n, pairs_of(k), left, b.pairs, b.pairs_stride, add, c, ldc);
}

void CPU(operand_multiply_tn)(int64_t m, int64_t n, int64_t k, struct operand a, struct operand b,
                              bool add, float *c, int64_t ldc)
{
    assert(!a.pairs == !b.pairs);
    if (!a.pairs) {
        CPU(product_tn)(m, n, k, a.floats, a.stride, b.floats, b.stride, add, c, ldc);
        return;
    }
    for (int64_t i = 0; i < m; i += PANEL) {
        const struct left left = {a.pairs + i / PANEL * a.pairs_stride, 1, PANEL};
        CPU(pairs_multiply)
        (smaller(PANEL, m - i), n, pairs_of(k), left, b.pairs, b.pairs_stride, add, c + i * ldc,
         ldc);
    }
}
