/*
 * The kernels of FAVOR+ as maps of columns, a register of positions at once: from projections to features, and from
 * what comes back to features to what comes back to projections. A map that is a function of its projection alone is
 * one line here; those that are shifted, or have two features for a projection, have functions of their own.
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

/* What a register of positions has in common. */
struct column {
    floats half, unit, floor;
    ints present;
};

static struct column column_at(const struct favor_tile *tile, int64_t at)
{
    return (struct column){
        .half = lanes_load(tile->half + at),
        .unit = lanes_load(tile->unit + at),
        .floor = lanes_load(tile->floor + at),
        .present = lanes_load(tile->present + at) != 0,
    };
}

/* f + floor, and 0 where there is no position: even where f is no number. */
static inline floats feature(const struct column *column, floats f)
{
    return (floats)(column->present & (ints)(f + column->floor));
}

/* x, a column of a tile, becomes f(x) + floor. */
static inline __attribute__((always_inline)) void column_map(lanes_function *f,
                                                             const struct column *column, float *x,
                                                             int64_t rows)
{
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE)
        lanes_store(x, feature(column, f(lanes_load(x))));
}

static void column_function(const struct favor *favor, const struct column *column, float *x)
{
    const int64_t rows = favor->projections;
    for (int64_t i = 0; i < rows && favor->kept; i++)
        lanes_store(x + (rows + i) * FAVOR_STRIDE, lanes_load(x + i * FAVOR_STRIDE));
    switch (favor->kernel) {
#define COLUMN_CASE(enumerator, f, slope, from) \
    case enumerator:                            \
        column_map(f, column, x, rows);         \
        return;
        FUNCTIONS(COLUMN_CASE)
#undef COLUMN_CASE
    default:
        assert(!"shifted");
    }
}

/* ---- shifted kernels ---- */

static floats column_largest(const float *x, int64_t rows)
{
    floats even = lanes_of(-INFINITY), odd = even;
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) {
        even = lanes_larger(lanes_load(x + i * FAVOR_STRIDE), even);
        odd = lanes_larger(lanes_load(x + (i + 1) * FAVOR_STRIDE), odd);
    }
    if (i < rows) even = lanes_larger(lanes_load(x + i * FAVOR_STRIDE), even);
    return lanes_larger(even, odd);
}

static floats column_largest_size(const float *x, int64_t rows)
{
    floats largest = {0};
    for (int64_t i = 0; i < rows; i++)
        largest = lanes_larger(lanes_absolute(lanes_load(x + i * FAVOR_STRIDE)), largest);
    return largest;
}

static floats column_square(const float *x, int64_t rows)
{
    floats sum = {0};
    for (int64_t i = 0; i < rows; i++) {
        const floats at = lanes_load(x + i * FAVOR_STRIDE);
        sum = lanes_fma(at, at, sum);
    }
    return sum;
}

/* x = 2^(x - half - unit) + floor */
static void column_exp2(const struct column *column, float *x, int64_t rows)
{
    const floats shift = column->half + column->unit;
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE)
        lanes_store(x, feature(column, lanes_exp2(lanes_load(x) - shift)));
}

/* x[i], x[rows + i] = 2^(±x[i] - half - unit) + floor */
static void column_hyperbolic(const struct column *column, float *x, int64_t rows)
{
    const floats shift = column->half + column->unit;
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE) {
        const floats a = lanes_load(x);
        lanes_store(x, feature(column, lanes_exp2(a - shift)));
        lanes_store(x + rows * FAVOR_STRIDE, feature(column, lanes_exp2(-a - shift)));
    }
}

/* x[i], x[rows + i] = 2^(half - unit) (sin, cos)(x[i]) + floor */
static void column_trig(const struct column *column, float *x, int64_t rows)
{
    const floats scale = lanes_select(column->half == column->unit, lanes_of(1),
                                      lanes_exp2(column->half - column->unit));
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE) {
        const struct circle at = lanes_circle(lanes_load(x));
        lanes_store(x, feature(column, at.sine * scale));
        lanes_store(x + rows * FAVOR_STRIDE, feature(column, at.cosine * scale));
    }
}

/* The shift that projections ask for, without their ‖x̃‖² / 2. */
static floats column_shift(const struct favor *favor, const float *x)
{
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        return column_largest(x, favor->projections);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return column_largest_size(x, favor->projections);
    case KERNEL_EXP:
        return lanes_larger(column_largest(x, favor->projections), lanes_of(favor->least));
    default:
        return (floats){0};
    }
}

static void column_features(const struct favor *favor, const struct favor_tile *tile, int64_t at)
{
    const struct column column = column_at(tile, at);
    float *x = tile->features + at;
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_EXP:
        column_exp2(&column, x, favor->projections);
        return;
    case KERNEL_SOFTMAX_HYPERBOLIC:
        column_hyperbolic(&column, x, favor->projections);
        return;
    case KERNEL_SOFTMAX_TRIG:
        column_trig(&column, x, favor->projections);
        return;
    default:
        column_function(favor, &column, x);
    }
}

/* features (projections, count) = ω x̃ᵀ, of zeros behind the last position */
static void project(const struct favor *favor, struct rows x, int64_t count,
                    const struct favor_tile *tile)
{
    const int64_t d = favor->call->head_dim;
    if (favor->kernel == KERNEL_ELU1) {
        CPU(favor_transpose)(x, count, d, tile->features);
        return;
    }
    CPU(favor_transpose)(x, count, d, tile->input);
    CPU(product_nn)
    (favor->projections, pieces_of(count, LANES) * LANES, d, favor->projection, d, tile->input,
     FAVOR_STRIDE, 0, tile->features, FAVOR_STRIDE);
}

static void present_fill(const struct favor_tile *tile, const uint8_t *mask, int64_t count)
{
    for (int64_t s = 0; s < pieces_of(count, LANES) * LANES; s++)
        tile->present[s] = s < count && (!mask || mask[s]);
}

/* The ‖x̃‖² / 2 of a query cancels in softmax-positive and -hyperbolic, where it is in its shift too. */
void CPU(favor_queries)(const struct favor *favor, struct rows x, int64_t count,
                        const struct favor_tile *tile)
{
    const floats none = {0}, epsilon = lanes_of(favor->call->epsilon);
    const bool scaled = favor->floor_cancels && favor->call->epsilon > 0;

    project(favor, x, count, tile);
    present_fill(tile, NULL, count);
    for (int64_t t = 0; t < count; t += LANES) {
        floats shift = column_shift(favor, tile->features + t), half = none;
        if (favor->kernel == KERNEL_SOFTMAX_TRIG)
            half = shift =
                column_square(tile->input + t, favor->call->head_dim) * favor->half_square;
        lanes_store(tile->half + t, half);
        lanes_store(tile->unit + t, shift);
        lanes_store(tile->floor + t, scaled ? epsilon * lanes_exp2(-shift) : epsilon);
        column_features(favor, tile, t);
    }
}

void CPU(favor_key_sizes)(const struct favor *favor, struct rows x, const uint8_t *mask,
                          int64_t count, const struct favor_tile *tile)
{
    project(favor, x, count, tile);
    present_fill(tile, mask, count);
    for (int64_t s = 0; s < count; s += LANES) {
        floats half = {0}, maximum = column_shift(favor, tile->features + s);
        if (favor->half_square > 0)
            half = column_square(tile->input + s, favor->call->head_dim) * favor->half_square;
        maximum = favor->kernel == KERNEL_SOFTMAX_TRIG ? half : maximum - half;
        lanes_store(tile->half + s, half);
        lanes_store(tile->maximum + s,
                    lanes_select(lanes_load(tile->present + s) != 0, maximum, lanes_of(-INFINITY)));
    }
}

void CPU(favor_keys)(const struct favor *favor, int64_t count, const struct favor_tile *tile)
{
    for (int64_t s = 0; s < count; s += LANES) column_features(favor, tile, s);
}

/* ---- the way back ---- */

#define LN_2 0.693147180559945309f

/* dφ and the feature without its floor, at x and d. */
struct pair {
    floats d, f;
};

static inline struct pair pair_at(const struct column *column, const float *x, const float *d)
{
    return (struct pair){lanes_load(d), lanes_load(x) - column->floor};
}

static inline floats kept(const struct column *column, floats x)
{
    return (floats)(column->present & (ints)x);
}

/* d *= slope(x - floor) */
static inline __attribute__((always_inline)) void column_map_backward(lanes_function *slope,
                                                                      const struct column *column,
                                                                      floats floor, const float *x,
                                                                      float *d, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE, d += FAVOR_STRIDE)
        lanes_store(d, kept(column, lanes_load(d) * slope(lanes_load(x) - floor)));
}

static void column_function_backward(const struct favor *favor, const struct column *column,
                                     const float *x, float *d)
{
    const struct {
        const float *x;
        floats floor;
    } feature = {x, column->floor}, kept = {x + favor->features * FAVOR_STRIDE, {0}};

    switch (favor->kernel) {
#define COLUMN_CASE(enumerator, f, slope, from)                                        \
    case enumerator:                                                                   \
        column_map_backward(slope, column, from.floor, from.x, d, favor->projections); \
        return;
        FUNCTIONS(COLUMN_CASE)
#undef COLUMN_CASE
    default:
        assert(!"shifted");
    }
}

/* da = ln 2 dφ 2^(a - shift), the power being the feature less its floor; returns Σ da. */
static floats column_exp2_backward(const struct column *column, const float *x, float *d,
                                   int64_t rows)
{
    floats sum = {0};
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE, d += FAVOR_STRIDE) {
        const struct pair at = pair_at(column, x, d);
        const floats da = kept(column, at.d * at.f * LN_2);
        sum += da;
        lanes_store(d, da);
    }
    return sum;
}

/* da_i = ln 2 (dφ+ f+ - dφ- f-); returns ln 2 Σ (dφ+ f+ + dφ- f-). */
static floats column_hyperbolic_backward(const struct column *column, const float *x, float *d,
                                         int64_t rows)
{
    const int64_t half = rows * FAVOR_STRIDE;
    floats sum = {0};
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE, d += FAVOR_STRIDE) {
        const struct pair plus = pair_at(column, x, d), minus = pair_at(column, x + half, d + half);
        const floats up = kept(column, plus.d * plus.f * LN_2);
        const floats down = kept(column, minus.d * minus.f * LN_2);
        sum += up + down;
        lanes_store(d, up - down);
    }
    return sum;
}

/* With f = h (sin, cos): da_i = dsin h cos - dcos h sin; returns ln 2 Σ dφ f. */
static floats column_trig_backward(const struct column *column, const float *x, float *d,
                                   int64_t rows)
{
    const int64_t half = rows * FAVOR_STRIDE;
    floats sum = {0};
    for (int64_t i = 0; i < rows; i++, x += FAVOR_STRIDE, d += FAVOR_STRIDE) {
        const struct pair sine = pair_at(column, x, d),
                          cosine = pair_at(column, x + half, d + half);
        sum += kept(column, sine.d * sine.f + cosine.d * cosine.f);
        lanes_store(d, kept(column, sine.d * cosine.f - cosine.d * sine.f));
    }
    return sum * LN_2;
}

/* d becomes da; returns what comes back to ‖x̃‖² / 2, to base 2, where the norm has a part. */
static floats column_backward(const struct favor *favor, const struct column *column,
                              const float *x, float *d)
{
    const int64_t rows = favor->projections;
    switch (favor->kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_EXP:
        return -column_exp2_backward(column, x, d, rows);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return -column_hyperbolic_backward(column, x, d, rows);
    case KERNEL_SOFTMAX_TRIG:
        return column_trig_backward(column, x, d, rows);
    default:
        column_function_backward(favor, column, x, d);
        return (floats){0};
    }
}

/* dx = dhalf ∂(‖x̃‖² / 2)/∂x */
static void norm_backward(const struct favor *favor, struct rows x, int64_t count,
                          const float *dhalf, struct rows dx)
{
    for (int64_t t = 0; t < count; t++) {
        const float factor = 2 * favor->half_square * dhalf[t];
        const float *from = row_of(x, t);
        float *to = row_of(dx, t);
        for (int64_t i = 0; i < favor->call->head_dim; i++) to[i] = factor * from[i];
    }
}

void CPU(favor_features_backward)(const struct favor *favor, struct rows x, int64_t from,
                                  int64_t count, const struct favor_tile *tile, float *dfeatures,
                                  uint32_t *room, struct rows dx)
{
    const int64_t d = favor->call->head_dim;
    const bool has_norm = favor->half_square > 0;
    float dhalf[FAVOR_POSITIONS];

    for (int64_t t = 0; t < count; t += LANES) {
        const struct column column = column_at(tile, from + t);
        const floats back =
            column_backward(favor, &column, tile->features + from + t, dfeatures + t);
        lanes_store(dhalf + t, back);
    }
    if (favor->kernel == KERNEL_ELU1) {
        CPU(transpose)(d, count, dfeatures, FAVOR_STRIDE, dx.data, dx.stride);
        return;
    }
    if (has_norm) norm_backward(favor, x, count, dhalf, dx);
    const struct operand back = tile_columns(favor->projections, count, dfeatures, room);
    CPU(operand_multiply_tn)
    (count, d, favor->projections, back, favor->projection_columns, has_norm, dx.data, dx.stride);
}
