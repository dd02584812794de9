#include "kernels/cpu/scores.h"

#include <string.h>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/product.h"

void CPU(rows_pack)(struct rows x, int64_t count, int64_t width, float *to)
{
    const int64_t stride = registers_of(width);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < stride; i += LANES)
            lanes_store(to + r * stride + i,
                        i < width ? lanes_load_row(row_of(x, r), i, width, 0) : (floats){0});
}

struct operand CPU(tile_pack)(struct rows x, int64_t count, int64_t width, struct tile to)
{
    const int64_t stride = registers_of(width);
    CPU(rows_pack)(x, count, width, to.floats);
    return CPU(operand_columns)(count, stride, to.floats, stride, to.room);
}

struct operand CPU(tile_transpose)(struct rows x, int64_t count, int64_t width, int64_t columns,
                                   struct tile to)
{
    if (count < columns) memset(to.floats, 0, (size_t)(width * columns) * sizeof *to.floats);
    CPU(transpose)(count, width, x.data, x.stride, to.floats, columns);
    return CPU(operand_columns)(width, columns, to.floats, columns, to.room);
}

float CPU(rows_dot)(const float *a, const float *b, int64_t count)
{
    floats sum = {0};
    for (int64_t i = 0; i < count; i += LANES)
        sum = lanes_fma(lanes_load_row(a, i, count, 0), lanes_load_row(b, i, count, 0), sum);
    return lanes_sum(sum);
}

/* One register of queries. */
static void column_weigh(int64_t keys, float *scores, int64_t stride, float scale2, float *largest,
                         float *sum, float *factor)
{
    const floats before = lanes_load(largest);
    floats best = lanes_of(-INFINITY), total = {0};
    for (int64_t s = 0; s < keys; s++) best = lanes_larger(lanes_load(scores + s * stride), best);
    best = lanes_larger(best * scale2, before);
    const floats shift = lanes_select(best == -INFINITY, (floats){0}, best); /* no key yet */
    for (int64_t s = 0; s < keys; s++) {
        const floats score = lanes_load(scores + s * stride);
        const floats weight = lanes_exp2(lanes_fma(score, lanes_of(scale2), -shift));
        lanes_store(scores + s * stride, weight);
        total += weight;
    }
    const floats kept = lanes_exp2(before - shift);
    lanes_store(largest, best);
    lanes_store(sum, lanes_fma(lanes_load(sum), kept, total));
    lanes_store(factor, kept);
}

void CPU(scores_weigh)(int64_t keys, int64_t columns, float *scores, int64_t stride, float scale2,
                       float *largest, float *sum, float *factor)
{
    for (int64_t t = 0; t < columns; t += LANES)
        column_weigh(keys, scores + t, stride, scale2, largest + t, sum + t, factor + t);
}

void CPU(scores_weigh_backward)(int64_t keys, int64_t columns, float *scores, float *dweights,
                                int64_t stride, float scale2, const float *largest,
                                const float *inverse, const float *slopes)
{
    for (int64_t t = 0; t < columns; t += LANES) {
        const floats shift = lanes_load(largest + t), factor = lanes_load(inverse + t);
        const floats slope = lanes_load(slopes + t);
        for (int64_t at = t; at < t + keys * stride; at += stride) {
            const floats score = lanes_load(scores + at);
            const floats weight = lanes_exp2(lanes_fma(score, lanes_of(scale2), -shift)) * factor;
            lanes_store(scores + at, weight);
            lanes_store(dweights + at, weight * (lanes_load(dweights + at) - slope));
        }
    }
}
