#include "kernels/cpu/favor.h"

/* What is added to ‖x̃‖² / 2, or 0 where the kernel takes no part in norms. */
static bool has_norm(enum attention_kernel kernel)
{
    return kernel == KERNEL_SOFTMAX_POSITIVE || kernel == KERNEL_SOFTMAX_HYPERBOLIC ||
           kernel == KERNEL_SOFTMAX_TRIG;
}

static bool is_exponential(enum attention_kernel kernel)
{
    return kernel == KERNEL_SOFTMAX_POSITIVE || kernel == KERNEL_SOFTMAX_HYPERBOLIC ||
           kernel == KERNEL_EXP;
}

static bool has_two_columns(enum attention_kernel kernel)
{
    return kernel == KERNEL_SOFTMAX_HYPERBOLIC || kernel == KERNEL_SOFTMAX_TRIG;
}

/* Those whose derivative cannot be told from the feature. */
static bool needs_projections(enum attention_kernel kernel)
{
    return kernel == KERNEL_ABS || kernel == KERNEL_GELU || kernel == KERNEL_COS;
}

static bool changes_sign(enum attention_kernel kernel)
{
    return kernel == KERNEL_SOFTMAX_TRIG || kernel == KERNEL_GELU || kernel == KERNEL_COS ||
           kernel == KERNEL_TANH || kernel == KERNEL_IDENTITY;
}

/* log2 ε rounded down, in plain arithmetic. */
static float exponent_of(float epsilon)
{
    if (epsilon == 0) return -INFINITY;
    float exponent = 0;
    for (; epsilon >= 2; epsilon /= 2) exponent++;
    for (; epsilon < 1; epsilon *= 2) exponent--;
    return exponent;
}

struct favor CPU(favor_geometry)(const struct attention *call, bool backward)
{
    const enum attention_kernel kernel = call->kernel;
    const float root = sqrtf((float)call->head_dim);
    const int64_t values = (call->value_dim + 1 + 7) / 8 * 8;
    const int64_t projections = kernel == KERNEL_ELU1 ? call->head_dim : call->features;
    const int64_t features = (has_two_columns(kernel) ? 2 : 1) * projections;
    const bool kept = backward && needs_projections(kernel);
    return (struct favor){
        .call = call,
        .kernel = kernel,
        .base_two = is_exponential(kernel),
        .floor_cancels = kernel == KERNEL_SOFTMAX_TRIG || kernel == KERNEL_EXP,
        .changes_sign = changes_sign(kernel),
        .kept = kept,
        .projections = projections,
        .features = features,
        /* room for a number of the row, or for what is kept */
        .stride = gemm_stride(features + (kept ? projections : 1)),
        .values = values,
        .values_stride = gemm_stride(values),
        .input_scale = kernel == KERNEL_ELU1 ? 1 : 1 / sqrtf(root),
        .half_square = has_norm(kernel) ? 0.5f * LOG2_E / root : 0,
        .least = kernel == KERNEL_EXP ? exponent_of(call->epsilon) : -INFINITY,
    };
}

int64_t CPU(favor_projection_floats)(const struct favor *favor)
{
    return favor->kernel == KERNEL_ELU1 ? 0 : favor->call->head_dim * favor->stride;
}

void CPU(favor_projection_fill)(const struct favor *favor)
{
    const int64_t d = favor->call->head_dim;
    const float scale = favor->input_scale * (favor->base_two ? LOG2_E : 1);
    if (favor->kernel == KERNEL_ELU1) return;
    for (int64_t i = 0; i < favor->projections; i++)
        for (int64_t j = 0; j < d; j++)
            favor->projection[j * favor->stride + i] = favor->call->projection[i * d + j] * scale;
}

void CPU(favor_project)(const struct favor *favor, struct rows x, int64_t count, float *tile,
                        int64_t stride)
{
    if (favor->kernel == KERNEL_ELU1) {
        for (int64_t r = 0; r < count; r++)
            memcpy(tile + r * stride, row_of(x, r), (size_t)favor->projections * sizeof *tile);
        return;
    }
    gemm_nn(count, favor->projections, favor->call->head_dim, 1, x.data, x.stride,
            favor->projection, favor->stride, 0, tile, stride);
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

/* Below this, what is divided in the backward pass could overflow. */
#define LEAST_DENOMINATOR 0x1p-110f

/* 0 where there is no denominator, or, of features that are never negative, one that has underflowed. Where features change
 * sign, a lost denominator shows as what it is. */
static float inverse_of(const struct favor *favor, float denominator)
{
    if (favor->changes_sign) return denominator == 0 ? 0 : 1 / denominator;
    return denominator < LEAST_DENOMINATOR ? 0 : 1 / denominator;
}

void CPU(favor_divide)(const struct favor *favor, const float *quotient, int64_t count,
                       struct rows out, float *inverse)
{
    const int64_t e = favor->call->value_dim;
    for (int64_t t = 0; t < count; t++) {
        const float *row = quotient + t * favor->values_stride;
        const float factor = inverse_of(favor, row[e]);
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

float CPU(favor_floor)(const struct favor *favor, float maximum, float unit)
{
    if (unit == -INFINITY) return 0;
    return favor->call->epsilon * CPU(favor_decay)(favor->floor_cancels ? 0 : maximum, unit);
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
