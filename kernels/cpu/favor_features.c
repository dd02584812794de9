/*
 * The kernels of FAVOR+ as maps of a row: from projections to features, and from what comes back to features to what
 * comes back to projections. A map that is a function of its projection alone is one line here; those that are shifted, or
 * have two columns for a projection, have rows of their own.
 */

#include "kernels/cpu/favor.h"

/* ---- functions of a projection: f, and ∂f/∂a from f or, where that does not tell it, from a ---- */

static inline floats relu(floats a)
{
    return lanes_larger((floats){0}, a);
}

static inline floats relu_slope(floats f)
{
    return (floats)((f > 0) & (ints)lanes_of(1));
}

static inline floats sigmoid_slope(floats f)
{
    return f * (1.0f - f);
}

static inline floats absolute_slope(floats a)
{
    return lanes_select(a == 0, a, lanes_signed(lanes_of(1), a));
}

static inline floats gelu(floats a)
{
    return a * lanes_normal(a).below;
}

static inline floats gelu_slope(floats a)
{
    const struct normal normal = lanes_normal(a);
    return lanes_fma(a, normal.density, normal.below);
}

static inline floats cosine(floats a)
{
    return lanes_circle(a).cosine;
}

static inline floats cosine_slope(floats a)
{
    return -lanes_circle(a).sine;
}

static inline floats tanh_slope(floats f)
{
    return lanes_fma(-f, f, lanes_of(1));
}

static inline floats same(floats a)
{
    return a;
}

static inline floats same_slope(floats f)
{
    (void)f;
    return lanes_of(1);
}

static inline floats elu1(floats a)
{
    const floats negative = -lanes_larger((floats){0}, -a);
    return lanes_select(a > 0, a + 1.0f, lanes_exp2(negative * LOG2_E));
}

static inline floats elu1_slope(floats f)
{
    return -lanes_larger(lanes_of(-1), -f);
}

/* X(kernel, f, slope, from): of all kernels that are not shifted; the slope is taken from f, or from the kept a. */
#define FUNCTIONS(X)                                         \
    X(KERNEL_RELU, relu, relu_slope, feature)                \
    X(KERNEL_SIGMOID, lanes_sigmoid, sigmoid_slope, feature) \
    X(KERNEL_ABS, lanes_absolute, absolute_slope, kept)      \
    X(KERNEL_GELU, gelu, gelu_slope, kept)                   \
    X(KERNEL_COS, cosine, cosine_slope, kept)                \
    X(KERNEL_TANH, lanes_tanh, tanh_slope, feature)          \
    X(KERNEL_IDENTITY, same, same_slope, feature)            \
    X(KERNEL_ELU1, elu1, elu1_slope, feature)

typedef floats lanes_function(floats x);

/* row = f(row) + floor */
static inline __attribute__((always_inline)) void row_map(lanes_function *f, float *row,
                                                          int64_t count, float floor)
{
    for (int64_t i = 0; i < count; i += LANES)
        lanes_store_row(row, i, count, f(lanes_load_row(row, i, count, 0)) + floor);
}

static void row_function(enum attention_kernel kernel, float *row, int64_t count, float floor)
{
    switch (kernel) {
#define ROW_CASE(enumerator, f, slope, from) \
    case enumerator:                         \
        row_map(f, row, count, floor);       \
        return;
        FUNCTIONS(ROW_CASE)
#undef ROW_CASE
    default:
        assert(!"shifted");
    }
}

/* d *= slope(x - floor) */
static inline __attribute__((always_inline)) void row_map_backward(lanes_function *slope,
                                                                   const float *x, float floor,
                                                                   float *d, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES)
        lanes_store_row(d, i, count,
                        lanes_load_row(d, i, count, 0) *
                            slope(lanes_load_row(x, i, count, floor) - floor));
}

static void row_function_backward(const struct favor *favor, const float *row, float floor,
                                  float *d)
{
    const struct {
        const float *x;
        float floor;
    } feature = {row, floor}, kept = {row + favor->features, 0};

    switch (favor->kernel) {
#define ROW_CASE(enumerator, f, slope, from)                                \
    case enumerator:                                                        \
        row_map_backward(slope, from.x, from.floor, d, favor->projections); \
        return;
        FUNCTIONS(ROW_CASE)
#undef ROW_CASE
    default:
        assert(!"shifted");
    }
}

/* ---- shifted kernels ---- */

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

static float row_largest_size(const float *row, int64_t count)
{
    floats largest = {0};
    for (int64_t i = 0; i < count; i += LANES)
        largest = lanes_larger(lanes_absolute(lanes_load_row(row, i, count, 0)), largest);
    return lanes_largest(largest);
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

/* row[i], row[count + i] = 2^(±row[i] - shift) + floor */
static void row_hyperbolic(float *row, int64_t count, float shift, float floor)
{
    for (int64_t i = 0; i < count; i += LANES) {
        const floats a = lanes_load_row(row, i, count, 0);
        lanes_store_row(row, i, count, lanes_exp2(a - shift) + floor);
        lanes_store_row(row + count, i, count, lanes_exp2(-a - shift) + floor);
    }
}

/* row[i], row[count + i] = scale (sin, cos)(row[i]) + floor */
static void row_trig(float *row, int64_t count, float scale, float floor)
{
    for (int64_t i = 0; i < count; i += LANES) {
        const struct circle at = lanes_circle(lanes_load_row(row, i, count, 0));
        lanes_store_row(row, i, count, at.sine * scale + floor);
        lanes_store_row(row + count, i, count, at.cosine * scale + floor);
    }
}

/* The shift that a row asks for, without its ‖x̃‖² / 2. */
static float row_shift(const struct favor *favor, const float *row)
{
    float largest;
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return row_largest(row, favor->projections);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return row_largest_size(row, favor->projections);
    case KERNEL_EXP:
        largest = row_largest(row, favor->projections);
        return largest > favor->least ? largest : favor->least;
    default:
        return 0;
    }
}

/* Features of a row relative to `shift`, with `half` = ‖x̃‖² / 2 where the norm has a part. */
static void row_features(const struct favor *favor, float *row, float half, float shift,
                         float floor)
{
    const int64_t count = favor->projections;
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_EXP:
        row_exp2(row, count, half + shift, floor);
        return;
    case KERNEL_SOFTMAX_HYPERBOLIC:
        row_hyperbolic(row, count, half + shift, floor);
        return;
    case KERNEL_SOFTMAX_TRIG:
        row_trig(row, count, CPU(favor_decay)(half, shift), floor);
        return;
    default:
        if (favor->kept) memcpy(row + count, row, (size_t)count * sizeof *row);
        row_function(favor->kernel, row, count, floor);
    }
}

/* The ‖x̃‖² / 2 of a query cancels in softmax-positive and -hyperbolic, where it is in its shift too. */
void CPU(favor_queries)(const struct favor *favor, struct rows x, int64_t count, float *tile,
                        int64_t stride, float *floor)
{
    for (int64_t t = 0; t < count; t++) {
        float *row = tile + t * stride, half = 0;
        float shift = row_shift(favor, row);
        if (favor->kernel == KERNEL_SOFTMAX_TRIG)
            half = shift = square_norm(row_of(x, t), favor->call->head_dim) * favor->half_square;
        floor[t] = CPU(favor_floor)(favor, shift, shift);
        row_features(favor, row, half, shift, floor[t]);
    }
}

void CPU(favor_key_sizes)(const struct favor *favor, struct rows x, const uint8_t *mask,
                          int64_t count, const float *tile, float *half, float *largest)
{
    const bool trig = favor->kernel == KERNEL_SOFTMAX_TRIG;
    for (int64_t s = 0; s < count; s++) {
        half[s] = 0;
        largest[s] = -INFINITY;
        if (mask && !mask[s]) continue;
        if (favor->half_square > 0)
            half[s] = square_norm(row_of(x, s), favor->call->head_dim) * favor->half_square;
        largest[s] = trig ? half[s] : row_shift(favor, tile + s * favor->stride) - half[s];
    }
}

void CPU(favor_keys)(const struct favor *favor, const uint8_t *mask, int64_t count, float unit,
                     const float *half, const float *floor, float *tile)
{
    for (int64_t s = 0; s < count; s++) {
        float *row = tile + s * favor->stride;
        if (mask && !mask[s])
            memset(row, 0, (size_t)favor->features * sizeof *row);
        else
            row_features(favor, row, half[s], unit, floor[s]);
    }
}

/* ---- the way back ---- */

/* da = dφ exp(a - c), the exponential being the feature less its floor; returns Σ da. */
static float row_exp2_backward(const float *features, float floor, float *d, int64_t count)
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

/* da_i = dφ+ f+ - dφ- f-; returns Σ (dφ+ f+ + dφ- f-). */
static float row_hyperbolic_backward(const float *features, float floor, float *d, int64_t count)
{
    floats sum = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats up =
            (lanes_load_row(features, i, count, floor) - floor) * lanes_load_row(d, i, count, 0);
        const floats down = (lanes_load_row(features + count, i, count, floor) - floor) *
                            lanes_load_row(d + count, i, count, 0);
        sum += up + down;
        lanes_store_row(d, i, count, up - down);
    }
    return lanes_sum(sum);
}

/* With f = h (sin, cos): da_i = dsin h cos - dcos h sin; returns Σ dφ f. */
static float row_trig_backward(const float *features, float floor, float *d, int64_t count)
{
    floats sum = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats sine = lanes_load_row(features, i, count, floor) - floor;
        const floats cosine = lanes_load_row(features + count, i, count, floor) - floor;
        const floats dsine = lanes_load_row(d, i, count, 0);
        const floats dcosine = lanes_load_row(d + count, i, count, 0);
        sum += dsine * sine + dcosine * cosine;
        lanes_store_row(d, i, count, dsine * cosine - dcosine * sine);
    }
    return lanes_sum(sum);
}

/* d becomes da; returns what comes back to ‖x̃‖² / 2, where the norm has a part. */
static float row_backward(const struct favor *favor, const float *features, float floor, float *d)
{
    const int64_t count = favor->projections;
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_EXP:
        return -row_exp2_backward(features, floor, d, count);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return -row_hyperbolic_backward(features, floor, d, count);
    case KERNEL_SOFTMAX_TRIG:
        return row_trig_backward(features, floor, d, count);
    default:
        row_function_backward(favor, features, floor, d);
        return 0;
    }
}

/* dx = what comes back through the projection */
static void project_backward(const struct favor *favor, int64_t count, const float *d,
                             struct rows dx)
{
    const int64_t width = favor->call->head_dim;
    if (favor->kernel == KERNEL_ELU1) {
        for (int64_t r = 0; r < count; r++)
            memcpy(row_of(dx, r), d + r * favor->stride, (size_t)width * sizeof *d);
        return;
    }
    gemm_nn(count, width, favor->projections, favor->input_scale, d, favor->stride,
            favor->call->projection, width, 0, dx.data, dx.stride);
}

void CPU(favor_features_backward)(const struct favor *favor, struct rows x, const uint8_t *mask,
                                  int64_t count, const float *features, int64_t features_stride,
                                  const float *floor, float *dfeatures, struct rows dx)
{
    float *sums = dfeatures + favor->features; /* behind each row, where its stride leaves room */
    assert(favor->stride > favor->features);

    for (int64_t r = 0; r < count; r++) {
        float *row = dfeatures + r * favor->stride;
        sums[r * favor->stride] =
            row_backward(favor, features + r * features_stride, floor[r], row);
        if (!mask || mask[r]) continue;
        memset(row, 0, (size_t)favor->projections * sizeof *row);
        sums[r * favor->stride] = 0;
    }
    project_backward(favor, count, dfeatures, dx);
    for (int64_t r = 0; r < count && favor->half_square > 0; r++) {
        const float factor = sums[r * favor->stride] * favor->input_scale * favor->input_scale;
        const float *from = row_of(x, r);
        float *to = row_of(dx, r);
        for (int64_t i = 0; i < favor->call->head_dim; i++) to[i] += factor * from[i];
    }
}
