#include "kernels/cpu/favor.h"

#include "kernels/cpu/gemm.h"

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
    const int64_t projections = kernel == KERNEL_ELU1 ? call->head_dim : call->features;
    const int64_t features = (has_two_columns(kernel) ? 2 : 1) * projections;
    const int64_t values_stride = gemm_stride(call->value_dim + 1);
    return (struct favor){
        .call = call,
        .kernel = kernel,
        .base_two = is_exponential(kernel),
        .floor_cancels = kernel == KERNEL_SOFTMAX_TRIG || kernel == KERNEL_EXP,
        .changes_sign = changes_sign(kernel),
        .kept = backward && needs_projections(kernel),
        .projections = projections,
        .features = features,
        .values_stride = values_stride,
        .state = features * values_stride,
        .half_square = has_norm(kernel) ? 0.5f * LOG2_E / sqrtf((float)call->head_dim) : 0,
        .least = kernel == KERNEL_EXP ? exponent_of(call->epsilon) : -INFINITY,
    };
}

void CPU(favor_projection_take)(struct favor *favor, bool backward, struct scratch *scratch)
{
    const int64_t m = favor->projections, d = favor->call->head_dim;
    if (favor->kernel == KERNEL_ELU1) return;
    favor->projection = scratch_take(scratch, m * d);
    if (backward)
        favor->projection_room =
            operand_room(scratch, favor->call->precision, operand_columns_words(m, d));
}

void CPU(favor_projection_fill)(struct favor *favor)
{
    const int64_t m = favor->projections, d = favor->call->head_dim;
    const float scale = (favor->base_two ? LOG2_E : 1) / sqrtf(sqrtf((float)d));
    if (favor->kernel == KERNEL_ELU1) return;
    for (int64_t i = 0; i < m * d; i++) favor->projection[i] = favor->call->projection[i] * scale;
    favor->projection_columns =
        CPU(operand_columns)(m, d, favor->projection, d, favor->projection_room);
}

struct favor_rooms CPU(favor_rooms_take)(const struct favor *favor, int64_t positions,
                                         bool backward, struct scratch *scratch)
{
    const enum precision precision = favor->call->precision;
    const int64_t n = favor->features, e = favor->call->value_dim;
    struct favor_rooms rooms = {0};
    rooms.rows = operand_room(scratch, precision, operand_rows_words(n, positions));
    rooms.columns = operand_room(scratch, precision, operand_columns_words(n, positions));
    rooms.other_columns = operand_room(scratch, precision, operand_columns_words(n, positions));
    rooms.state_columns = operand_room(scratch, precision, operand_columns_words(n, e));
    rooms.values = operand_room(scratch, precision, operand_columns_words(positions, e));
    if (!backward) return rooms;
    rooms.state_rows = operand_room(scratch, precision, operand_rows_words(n, e + 1));
    rooms.gradient_columns =
        operand_room(scratch, precision, operand_columns_words(e + 1, positions));
    rooms.value_columns = operand_room(scratch, precision, operand_columns_words(e + 1, positions));
    return rooms;
}

struct favor_tile CPU(favor_tile_take)(const struct favor *favor, struct scratch *scratch)
{
    const int64_t rows = favor->features + (favor->kept ? favor->projections : 0);
    struct favor_tile tile;
    tile.features = scratch_take(scratch, rows * FAVOR_STRIDE);
    tile.input = scratch_take(scratch, favor->call->head_dim * FAVOR_STRIDE);
    tile.present = scratch_take(scratch, FAVOR_STRIDE);
    tile.half = scratch_take(scratch, FAVOR_STRIDE);
    tile.maximum = scratch_take(scratch, FAVOR_STRIDE);
    tile.unit = scratch_take(scratch, FAVOR_STRIDE);
    tile.floor = scratch_take(scratch, FAVOR_STRIDE);
    return tile;
}

void CPU(favor_transpose)(struct rows x, int64_t count, int64_t width, float *to)
{
    CPU(transpose)(count, width, x.data, x.stride, to, FAVOR_STRIDE);
    for (int64_t i = 0; i < width && count % LANES; i++)
        for (int64_t s = count; s % LANES; s++) to[i * FAVOR_STRIDE + s] = 0;
}

/* column[i * stride] = Σ_s φ_is weight_s, or added to it */
static void column_add(const struct favor *favor, int64_t count, const float *features,
                       const float *weight, bool add, float *column)
{
    for (int64_t i = 0; i < favor->features; i++) {
        const float *row = features + i * FAVOR_STRIDE;
        float *to = column + i * favor->values_stride;
        floats sum = {0};
        for (int64_t s = 0; s < count; s += LANES)
            sum = lanes_fma(lanes_load_row(row, s, count, 0), lanes_load_row(weight, s, count, 0),
                            sum);
        *to = (add ? *to : 0) + lanes_sum(sum);
    }
}

void CPU(favor_state_add)(const struct favor *favor, int64_t count, struct operand features,
                          struct operand b, const float *weight, bool add, float *state)
{
    const int64_t e = favor->call->value_dim;
    CPU(operand_multiply)
    (favor->features, e, count, features, b, add, state, favor->values_stride);
    column_add(favor, count, features.floats, weight, add, state + e);
}

void CPU(favor_sum_keys)(const struct favor *favor, struct rows k, struct rows v,
                         const uint8_t *mask, int64_t count, const struct favor_tile *tile,
                         const struct favor_rooms *rooms, bool first, float *sums, float *unit)
{
    const int64_t e = favor->call->value_dim;
    float grown = *unit;
    CPU(favor_key_sizes)(favor, k, mask, count, tile);
    for (int64_t s = 0; s < count; s++) grown = tile->maximum[s] > grown ? tile->maximum[s] : grown;
    if (!first) CPU(favor_scale)(sums, favor->state, CPU(favor_decay)(*unit, grown));
    *unit = grown;
    for (int64_t s = 0; s < count; s++) {
        tile->unit[s] = grown;
        tile->floor[s] = 0;
    }
    CPU(favor_keys)(favor, count, tile);
    const struct operand features = tile_rows(favor->features, count, tile->features, rooms->rows);
    const struct operand values = CPU(operand_columns)(count, e, v.data, v.stride, rooms->values);
    CPU(favor_state_add)(favor, count, features, values, tile->present, !first, sums);
}

void CPU(favor_query_state)(const struct favor *favor, int64_t count, struct operand features,
                            struct operand state, float *quotient, float *denominator)
{
    const int64_t e = favor->call->value_dim;
    CPU(operand_multiply_tn)
    (count, e, favor->features, features, state, false, quotient, favor->values_stride);
    CPU(product_tn)
    (1, count, favor->features, state.floats + e, state.stride, features.floats, features.stride, 0,
     denominator, count);
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

void CPU(favor_divide)(const struct favor *favor, const float *quotient, const float *denominator,
                       int64_t count, struct rows out, float *inverse)
{
    const int64_t e = favor->call->value_dim;
    for (int64_t t = 0; t < count; t++) {
        const float *row = quotient + t * favor->values_stride;
        const float factor = inverse_of(favor, denominator[t]);
        float *to = row_of(out, t);
        for (int64_t i = 0; i < e; i += LANES)
            lanes_store_row(to, i, e, lanes_load_row(row, i, e, 0) * factor);
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
    }
}

float CPU(favor_floor)(const struct favor *favor, float maximum, float unit)
{
    if (unit == -INFINITY || favor->call->epsilon == 0) return 0;
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
