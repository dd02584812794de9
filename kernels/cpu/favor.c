#include "kernels/cpu/favor.h"

#include <float.h>

struct favor CPU(favor_geometry)(const struct attention *call)
{
    const bool positive = call->kernel == KERNEL_SOFTMAX_POSITIVE;
    const float root = sqrtf((float)call->head_dim);
    const int64_t values = (call->value_dim + 1 + 7) / 8 * 8;
    return (struct favor){
        .call = call,
        .positive = positive,
        .features = call->features,
        .stride = gemm_stride(call->features + 1), /* room for a number of the row */
        .values = values,
        .values_stride = gemm_stride(values),
        .input_scale = 1 / sqrtf(root),
        .half_square = positive ? 0.5f * LOG2_E / root : 0,
    };
}

int64_t CPU(favor_projection_floats)(const struct favor *favor)
{
    return favor->call->head_dim * favor->stride;
}

void CPU(favor_projection_fill)(const struct favor *favor)
{
    const int64_t d = favor->call->head_dim;
    const float scale = favor->input_scale * (favor->positive ? LOG2_E : 1);
    for (int64_t i = 0; i < favor->features; i++)
        for (int64_t j = 0; j < d; j++)
            favor->projection[j * favor->stride + i] = favor->call->projection[i * d + j] * scale;
}

void CPU(favor_project)(const struct favor *favor, struct rows x, int64_t count, float *tile,
                        int64_t stride)
{
    gemm_nn(count, favor->features, favor->call->head_dim, 1, x.data, x.stride, favor->projection,
            favor->stride, 0, tile, stride);
}

static float row_largest(const float *row, int64_t count)
{
    floats even = lanes_of(-INFINITY), odd = even;
    int64_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        even = lanes_larger(lanes_load(row + i), even);
        odd = lanes_larger(lanes_load(row + i + LANES), odd);
    }
    for (; i < count; i += LANES)
        even = lanes_larger(lanes_load_row(row, i, count, -INFINITY), even);
    return lanes_largest(lanes_larger(even, odd));
}

/* row = 2^(row - shift) + floor */
static void row_exp2(float *row, int64_t count, float shift, float floor)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        lanes_store(row + i, lanes_exp2(lanes_load(row + i) - shift) + floor);
    if (i < count)
        lanes_store_part(
            row + i, lanes_exp2(lanes_load_part(row + i, count - i, 0) - shift) + floor, count - i);
}

static void row_relu(float *row, int64_t count, float floor)
{
    for (int64_t i = 0; i < count; i += LANES) {
        const floats x = lanes_load_row(row, i, count, 0);
        lanes_store_row(row, i, count, lanes_larger((floats){0}, x) + floor);
    }
}

void CPU(favor_queries)(const struct favor *favor, int64_t count, float *tile, int64_t stride)
{
    const float floor = favor->call->epsilon;
    for (int64_t t = 0; t < count; t++) {
        float *row = tile + t * stride;
        if (favor->positive)
            row_exp2(row, favor->features, row_largest(row, favor->features), floor);
        else
            row_relu(row, favor->features, floor);
    }
}

static float square_norm(const float *x, int64_t count)
{
    floats sum = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats at = lanes_load_row(x, i, count, 0);
        sum = lanes_fma(at, at, sum);
    }
    return lanes_sum(sum);
}

void CPU(favor_key_sizes)(const struct favor *favor, struct rows x, const uint8_t *mask,
                          int64_t count, const float *tile, float *half, float *largest)
{
    for (int64_t s = 0; s < count; s++) {
        half[s] = 0;
        largest[s] = 0;
        if (mask && !mask[s]) {
            largest[s] = -INFINITY;
        } else if (favor->positive) {
            half[s] = square_norm(row_of(x, s), favor->call->head_dim) * favor->half_square;
            largest[s] = row_largest(tile + s * favor->stride, favor->features) - half[s];
        }
    }
}

void CPU(favor_keys)(const struct favor *favor, const uint8_t *mask, int64_t count, float unit,
                     const float *half, const float *floor, float *tile)
{
    for (int64_t s = 0; s < count; s++) {
        float *row = tile + s * favor->stride;
        if (mask && !mask[s])
            memset(row, 0, (size_t)favor->features * sizeof *row);
        else if (favor->positive)
            row_exp2(row, favor->features, half[s] + unit, floor[s]);
        else
            row_relu(row, favor->features, floor[s]);
    }
}

/* da = dφ exp(a - c), the exponential being the feature less its floor; returns Σ da. */
static float row_backward_positive(const float *features, float floor, float *d, int64_t count)
{
    floats sum = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats slope = lanes_load_row(features, i, count, floor) - floor;
        const floats da = lanes_load_row(d, i, count, 0) * slope;
        sum += da;
        lanes_store_row(d, i, count, da);
    }
    return lanes_sum(sum);
}

static void row_backward_relu(const float *features, float floor, float *d, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES) {
        const ints positive = lanes_load_row(features, i, count, floor) > floor;
        lanes_store_row(d, i, count, (floats)(positive & (ints)lanes_load_row(d, i, count, 0)));
    }
}

void CPU(favor_features_backward)(const struct favor *favor, struct rows x, int64_t count,
                                  const float *features, int64_t features_stride,
                                  const float *floor, float *dfeatures, struct rows dx)
{
    const int64_t d = favor->call->head_dim;
    float *sums = dfeatures + favor->features; /* behind each row, where its stride leaves room */
    assert(favor->stride > favor->features);

    for (int64_t r = 0; r < count; r++) {
        float *row = dfeatures + r * favor->stride;
        if (favor->positive)
            sums[r * favor->stride] = row_backward_positive(features + r * features_stride,
                                                            floor[r], row, favor->features);
        else
            row_backward_relu(features + r * features_stride, floor[r], row, favor->features);
    }
    gemm_nn(count, d, favor->features, favor->input_scale, dfeatures, favor->stride,
            favor->call->projection, d, 0, dx.data, dx.stride);
    for (int64_t r = 0; r < count && favor->positive; r++) {
        const float factor = sums[r * favor->stride] * favor->input_scale * favor->input_scale;
        const float *from = row_of(x, r);
        float *to = row_of(dx, r);
        for (int64_t i = 0; i < d; i++) to[i] -= factor * from[i];
    }
}

void CPU(favor_values)(const struct favor *favor, struct rows v, int64_t count, float *values)
{
    const int64_t e = favor->call->value_dim;
    for (int64_t s = 0; s < count; s++) {
        float *row = values + s * favor->values_stride;
        memcpy(row, row_of(v, s), (size_t)e * sizeof *row);
        row[e] = 1;
        for (int64_t i = e + 1; i < favor->values; i++) row[i] = 0;
    }
}

void CPU(favor_sum_keys)(const struct favor *favor, struct rows k, struct rows v,
                         const uint8_t *mask, int64_t count, const struct favor_block *block,
                         bool first, float *sums, float *unit)
{
    float grown = *unit;
    CPU(favor_project)(favor, k, count, block->features, favor->stride);
    CPU(favor_key_sizes)(favor, k, mask, count, block->features, block->half, block->largest);
    for (int64_t s = 0; s < count; s++)
        grown = block->largest[s] > grown ? block->largest[s] : grown;
    const float decay = first ? 1 : CPU(favor_decay)(*unit, grown);
    CPU(favor_scale)(sums, favor->features * favor->values_stride, decay);
    *unit = grown;
    CPU(favor_keys)(favor, mask, count, grown, block->half, block->floor, block->features);
    CPU(favor_values)(favor, v, count, block->values);
    gemm_tn(favor->features, favor->values, count, 1, block->features, favor->stride, block->values,
            favor->values_stride, first ? 0 : 1, sums, favor->values_stride);
}

/* 0 where the denominator is none, or one whose inverse is no number. */
static float inverse_of(float denominator)
{
    return denominator < FLT_MIN ? 0 : 1 / denominator;
}

void CPU(favor_divide)(const struct favor *favor, const float *quotient, int64_t count,
                       struct rows out, float *inverse)
{
    const int64_t e = favor->call->value_dim;
    for (int64_t t = 0; t < count; t++) {
        const float *row = quotient + t * favor->values_stride;
        const float factor = inverse_of(row[e]);
        float *to = row_of(out, t);
        for (int64_t i = 0; i < e; i++) to[i] = row[i] * factor;
        if (inverse) inverse[t] = factor;
    }
}

void CPU(favor_divide_backward)(const struct favor *favor, struct rows dout, struct rows out,
                                const float *inverse, int64_t count, float *gradients)
{
    const int64_t e = favor->call->value_dim;
    for (int64_t t = 0; t < count; t++) {
        const float *from = row_of(dout, t), *quotient = row_of(out, t);
        float *row = gradients + t * favor->values_stride;
        floats dot = {0};
        for (int64_t i = 0; i < e; i += LANES) {
            const floats scaled = lanes_load_row(from, i, e, 0) * inverse[t];
            dot = lanes_fma(scaled, lanes_load_row(quotient, i, e, 0), dot);
            lanes_store_row(row, i, e, scaled);
        }
        row[e] = -lanes_sum(dot);
        for (int64_t i = e + 1; i < favor->values; i++) row[i] = 0;
    }
}

float CPU(favor_decay)(float from, float to)
{
    return from == to ? 1 : lanes_exp2(lanes_of(from - to))[0];
}

void CPU(favor_scale)(float *x, int64_t count, float factor)
{
    if (factor == 1) return;
    for (int64_t i = 0; i < count; i++) x[i] *= factor;
}
