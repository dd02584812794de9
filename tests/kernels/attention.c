/*
 * Attention of every kind against the L x L matrix written out in doubles:
 * lengths around block edges, odd sizes, masks, views into one buffer as the
 * model has them; and what must hold whatever the numbers: no leak of later
 * tokens or of padding, weights that sum to 1, large norms that stay finite.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/naive.h"
#include "tests/kernels/trial.h"

/* Design section 6: ‖ours - ref‖ / max(‖ref‖, 0.05 ‖dv‖) of out, dq, dk, dv. */
static const double TOLERANCES[][4] = {
    [PRECISION_FP32] = {2e-5, 2e-5, 2e-5, 2e-5},
    [PRECISION_BF16] = {2e-2, 4e-2, 4e-2, 2e-2},
};

enum mask { MASK_NONE, MASK_PADDING, MASK_SCATTERED, MASK_LATE, MASK_ALL };

struct shape {
    enum attention_kind kind;
    enum attention_kernel kernel;
    bool causal;
    int64_t batch, heads, length, dim, width, features;
    enum mask mask;
    double scale; /* of q and k */
    bool rising;  /* so do the norms of q, k and v along the row */
    enum precision precision;
};

/*
 * q, k and v lie side by side in one buffer (B, L, H * (2 d + e)), as after one
 * projection; out and dout in (B, L, H * e); the gradients in a buffer like the first.
 */
struct heads {
    const struct shape *shape;
    float *projection, *qkv, *out, *dout, *dqkv, *saved;
    uint8_t *key_mask; /* NULL: none */
};

static int64_t row_width(const struct shape *shape)
{
    return shape->heads * (2 * shape->dim + shape->width);
}

static int64_t qkv_count(const struct shape *shape)
{
    return shape->batch * shape->length * row_width(shape);
}

static int64_t out_count(const struct shape *shape)
{
    return shape->batch * shape->length * shape->heads * shape->width;
}

static bool masked(enum mask mask, int64_t sequence, int64_t position, int64_t length)
{
    switch (mask) {
    case MASK_PADDING:
        return position >= length - length / 3 - sequence;
    case MASK_SCATTERED:
        return (position * 7 + sequence) % 3 == 0;
    case MASK_LATE: /* the first queries of a causal row see no key */
        return position <= length / 2;
    case MASK_ALL:
        return sequence == 0;
    default:
        return false;
    }
}

static struct heads heads_new(const struct shape *shape)
{
    struct heads heads = {.shape = shape,
                          .projection = trial_floats(1, shape->features * shape->dim, 1),
                          .qkv = trial_floats(2, qkv_count(shape), 1),
                          .out = trial_unwritten(out_count(shape)),
                          .dout = trial_floats(3, out_count(shape), 1),
                          .dqkv = trial_unwritten(qkv_count(shape))};
    const int64_t rows = shape->batch * shape->length, both = shape->heads * 2 * shape->dim;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < both; i++)
            heads.qkv[r * row_width(shape) + i] *= (float)shape->scale;
    for (int64_t i = 0; shape->rising && i < qkv_count(shape); i++)
        heads.qkv[i] *= (float)(i / row_width(shape)) / (float)shape->length;
    if (shape->mask == MASK_NONE) return heads;
    heads.key_mask = calloc((size_t)rows, sizeof *heads.key_mask);
    cr_assert(heads.key_mask);
    for (int64_t r = 0; r < rows; r++)
        heads.key_mask[r] =
            !masked(shape->mask, r / shape->length, r % shape->length, shape->length);
    return heads;
}

static void heads_free(struct heads *heads)
{
    free(heads->projection), free(heads->qkv), free(heads->out), free(heads->dout);
    free(heads->dqkv), free(heads->saved), free(heads->key_mask);
}

static struct heads_view view_of(float *data, int64_t length, int64_t row_stride, int64_t width)
{
    return (struct heads_view){data, length * row_stride, width, row_stride};
}

/* q, k and v: 0, 1, 2. */
static struct heads_view part_view(const struct shape *shape, float *qkv, int part)
{
    return view_of(qkv + part * shape->heads * shape->dim, shape->length, row_width(shape),
                   part == 2 ? shape->width : shape->dim);
}

static struct attention op_of(const struct heads *heads)
{
    const struct shape *shape = heads->shape;
    return (struct attention){
        .kind = shape->kind,
        .kernel = shape->kernel,
        .precision = shape->precision,
        .causal = shape->causal,
        .epsilon = trial_kernel(shape->kernel).epsilon,
        .batch = shape->batch,
        .heads = shape->heads,
        .length = shape->length,
        .head_dim = shape->dim,
        .value_dim = shape->width,
        .features = shape->features,
        .projection = heads->projection,
        .key_mask = heads->key_mask,
        .q = part_view(shape, heads->qkv, 0),
        .k = part_view(shape, heads->qkv, 1),
        .v = part_view(shape, heads->qkv, 2),
        .out = view_of(heads->out, shape->length, shape->heads * shape->width, shape->width),
        .saved = heads->saved,
    };
}

/* Forward and backward. */
static void heads_run(struct heads *heads, const struct backend *backend, int threads)
{
    const struct shape *shape = heads->shape;
    struct attention op = op_of(heads);
    free(heads->saved);
    heads->saved = trial_unwritten((int64_t)backend->attention_saved_floats(&op));
    op.saved = heads->saved;
    cr_assert_eq(TRIAL_RUN(backend, threads, attention, &op), ST_OK);
    const struct attention_backward back = {
        .forward = op,
        .dout = view_of(heads->dout, shape->length, shape->heads * shape->width, shape->width),
        .dq = part_view(shape, heads->dqkv, 0),
        .dk = part_view(shape, heads->dqkv, 1),
        .dv = part_view(shape, heads->dqkv, 2),
    };
    cr_assert_eq(TRIAL_RUN(backend, threads, attention_backward, &back), ST_OK);
}

static double *doubles_copy(const double *values, int64_t count)
{
    double *copy = trial_zeros(count);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

/* One head's rows, without their strides. */
static float *rows_of(struct heads_view view, int64_t b, int64_t h, int64_t length, int64_t width)
{
    float *rows = trial_unwritten(length * width);
    for (int64_t l = 0; l < length; l++)
        memcpy(rows + l * width,
               view.data + b * view.batch_stride + h * view.head_stride + l * view.row_stride,
               (size_t)width * sizeof *rows);
    return rows;
}

static double *doubles_of(struct heads_view view, int64_t b, int64_t h, int64_t length,
                          int64_t width)
{
    float *rows = rows_of(view, b, h, length, width);
    double *doubles = trial_doubles(rows, length * width);
    free(rows);
    return doubles;
}

/* out, dq, dk and dv of one head, by naive.h; (L, e) (L, d) (L, d) (L, e). */
static void naive_parts(const struct heads *heads, int64_t b, int64_t h, double *parts[4])
{
    const struct shape *shape = heads->shape;
    const struct attention op = op_of(heads);
    const int64_t l = shape->length, d = shape->dim, e = shape->width;
    const struct heads_view dout = {heads->dout, op.out.batch_stride, op.out.head_stride,
                                    op.out.row_stride};
    double *q = doubles_of(op.q, b, h, l, d), *k = doubles_of(op.k, b, h, l, d);
    double *v = doubles_of(op.v, b, h, l, e), *g = doubles_of(dout, b, h, l, e);
    double *projection = trial_doubles(heads->projection, shape->features * d);
    const struct naive_attention head = {
        .kind = shape->kind,
        .kernel = shape->kernel,
        .causal = shape->causal,
        .epsilon = op.epsilon,
        .length = l,
        .dim = d,
        .width = e,
        .features = shape->features,
        .projection = projection,
        .q = q,
        .k = k,
        .v = v,
        .key_mask = heads->key_mask ? heads->key_mask + b * l : NULL,
    };
    for (int i = 0; i < 4; i++) parts[i] = trial_zeros(l * (i == 1 || i == 2 ? d : e));
    naive_attention(&head, parts[0]);
    naive_attention_backward(&head, g, parts[1], parts[2], parts[3]);
    free(q), free(k), free(v), free(g), free(projection);
}

enum { SHAPE_TEXT_MAX = 160 };

static void shape_text(const struct shape *shape, char *text, size_t size)
{
    snprintf(text, size, "%s %s %s %s B %d H %d L %d d %d e %d m %d mask %d x %g%s",
             precision_text(shape->precision), attention_kind_text(shape->kind),
             attention_kernel_text(shape->kernel), shape->causal ? "causal" : "bidirectional",
             (int)shape->batch, (int)shape->heads, (int)shape->length, (int)shape->dim,
             (int)shape->width, (int)shape->features, shape->mask, shape->scale,
             shape->rising ? " rising" : "");
}

/* naive_parts of the first head, or of the last. Every backend is held against them, one after the other, so those of the
 * shape at hand are kept. */
static double *const *expected_parts(const struct heads *heads, int end)
{
    static struct kept {
        char text[SHAPE_TEXT_MAX];
        double *parts[4];
    } ends[2];
    const struct shape *shape = heads->shape;
    struct kept *kept = &ends[end];
    char text[SHAPE_TEXT_MAX];
    shape_text(shape, text, sizeof text);
    if (strcmp(text, kept->text) == 0) return kept->parts;
    for (int i = 0; i < 4; i++) free(kept->parts[i]);
    naive_parts(heads, end * (shape->batch - 1), end * (shape->heads - 1), kept->parts);
    memcpy(kept->text, text, sizeof text);
    return kept->parts;
}

/* out, dq, dk, dv of the first head, or of the last, beside the naive ones. */
static void head_outcome(const struct heads *heads, int end, struct outcome *outcome)
{
    const struct shape *shape = heads->shape;
    const int64_t b = end * (shape->batch - 1), h = end * (shape->heads - 1);
    const int64_t l = shape->length, d = shape->dim, e = shape->width;
    double *const *expected = expected_parts(heads, end);
    outcome_add(outcome, "out", l * e, rows_of(op_of(heads).out, b, h, l, e),
                doubles_copy(expected[0], l * e));
    for (int part = 0; part < 3; part++) {
        static const char *const names[] = {"dq", "dk", "dv"};
        const int64_t width = part == 2 ? e : d;
        outcome_add(outcome, names[part], l * width,
                    rows_of(part_view(shape, heads->dqkv, part), b, h, l, width),
                    doubles_copy(expected[part + 1], l * width));
        outcome->part[part + 1].least_norm = 0.05 * trial_norm(expected[3], l * e);
    }
}

/* Of a key alone what comes back to q and k is 0, a difference of equal terms of which bf16 leaves no digits. */
static bool has_digits(const struct shape *shape, const char *part)
{
    return shape->precision == PRECISION_FP32 || shape->length > 1 || part[0] != 'd' ||
           part[1] == 'v';
}

/* The first and the last head: between them every stride counts. */
static void heads_hold(const struct heads *heads, const char *backend)
{
    const struct shape *shape = heads->shape;
    char text[SHAPE_TEXT_MAX];
    shape_text(shape, text, sizeof text);
    for (int end = 0; end < 2; end++) {
        struct outcome outcome = {0};
        head_outcome(heads, end, &outcome);
        for (int i = 0; i < outcome.parts; i++) {
            const double error = part_error(&outcome.part[i]);
            if (!has_digits(shape, outcome.part[i].name)) continue;
            cr_expect(error <= TOLERANCES[shape->precision][i], "%s %s: %s is off by %.3g", backend,
                      text, outcome.part[i].name, error);
        }
        outcome_free(&outcome);
    }
}

static void shape_hold(const struct backend *backend, const struct shape *shape)
{
    struct heads single = heads_new(shape);
    heads_run(&single, backend, 1);
    heads_hold(&single, backend->name);
    for (int threads = 2; threads <= trial_threads(backend); threads++) {
        struct heads other = heads_new(shape);
        heads_run(&other, backend, threads);
        const bool same =
            memcmp(single.out, other.out, (size_t)out_count(shape) * sizeof(float)) == 0 &&
            memcmp(single.dqkv, other.dqkv, (size_t)qkv_count(shape) * sizeof(float)) == 0;
        char text[SHAPE_TEXT_MAX];
        shape_text(shape, text, sizeof text);
        cr_expect(same, "%s %s: other bits with %d threads", backend->name, text, threads);
        heads_free(&other);
    }
    heads_free(&single);
}

typedef void shape_check(const struct backend *backend, const struct shape *shape);

static void both_directions(struct shape shape, shape_check *check)
{
    for (int causal = 0; causal < 2; causal++) {
        shape.causal = causal;
        for (const struct backend *const *backend = trial_backends(); *backend; backend++)
            check(*backend, &shape);
    }
}

/* favor with each kernel, at the shape's norms. */
static void every_kernel(struct shape shape, shape_check *check)
{
    shape.kind = ATTENTION_FAVOR;
    for (int i = 0; i < TRIAL_KERNELS; i++) {
        shape.kernel = trial_kernels[i];
        both_directions(shape, check);
    }
}

static void every_other_kind(struct shape shape, shape_check *check)
{
    static const enum attention_kind kinds[] = {ATTENTION_SOFTMAX, ATTENTION_IDENTITY};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        shape.kind = kinds[i];
        both_directions(shape, check);
    }
}

/* favor with each kernel, at norms at which its numbers can be compared. */
static void every_favor(struct shape shape, shape_check *check)
{
    shape.kind = ATTENTION_FAVOR;
    const double scale = shape.scale;
    for (int i = 0; i < TRIAL_KERNELS; i++) {
        shape.kernel = trial_kernels[i];
        shape.scale = scale * trial_kernel(shape.kernel).scale;
        both_directions(shape, check);
    }
}

static void every_kind(struct shape shape, shape_check *check)
{
    every_other_kind(shape, check);
    every_favor(shape, check);
}

Test(attention, lengths_around_block_edges)
{
    static const int64_t lengths[] = {1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 257};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        every_kind((struct shape){.batch = 1,
                                  .heads = 2,
                                  .length = lengths[i],
                                  .dim = 16,
                                  .width = 16,
                                  .features = 37,
                                  .scale = 1},
                   shape_hold);
}

/* m = 1 is not among them: its dq is 0, computed as a difference of two equal
 * terms over a φ as small as ε, so a float has no digits to show there. */
Test(attention, head_widths_and_features_of_any_size)
{
    static const struct {
        int64_t dim, width, features;
    } sizes[] = {{1, 1, 7},    {8, 12, 32},   {9, 5, 3},      {24, 24, 41},
                 {40, 33, 64}, {64, 64, 256}, {100, 99, 101}, {128, 128, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        every_kind((struct shape){.batch = 2,
                                  .heads = 2,
                                  .length = 70,
                                  .dim = sizes[i].dim,
                                  .width = sizes[i].width,
                                  .features = sizes[i].features,
                                  .scale = 0.7},
                   shape_hold);
}

Test(attention, masks)
{
    static const int64_t lengths[] = {1, 5, 64, 130};
    for (enum mask mask = MASK_PADDING; mask <= MASK_ALL; mask++)
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
            every_kind((struct shape){.batch = 2,
                                      .heads = 2,
                                      .length = lengths[i],
                                      .dim = 16,
                                      .width = 12,
                                      .features = 37,
                                      .mask = mask,
                                      .scale = 1},
                       shape_hold);
}

/* Around the edges of chunks. With enough dimensions what comes back to q and k is no mere difference of equal terms. */
Test(attention, favor_in_bf16)
{
    static const struct {
        int64_t length, dim, width, features;
        enum mask mask;
    } sizes[] = {
        {1, 24, 20, 41, MASK_NONE},       {2, 40, 12, 37, MASK_NONE},
        {31, 40, 33, 41, MASK_NONE},      {32, 16, 16, 37, MASK_NONE},
        {33, 8, 12, 32, MASK_LATE},       {63, 100, 9, 99, MASK_NONE},
        {64, 24, 128, 33, MASK_NONE},     {65, 9, 5, 13, MASK_ALL},
        {97, 16, 12, 37, MASK_SCATTERED}, {129, 24, 24, 21, MASK_PADDING},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        every_favor((struct shape){.batch = 2,
                                   .heads = 2,
                                   .length = sizes[i].length,
                                   .dim = sizes[i].dim,
                                   .width = sizes[i].width,
                                   .features = sizes[i].features,
                                   .mask = sizes[i].mask,
                                   .scale = 0.7,
                                   .precision = PRECISION_BF16},
                    shape_hold);
}

/* Around the edges of its tiles and of blocks of these, in both precisions. */
Test(attention, softmax_by_tiles_and_blocks)
{
    static const struct {
        int64_t length, dim, width;
        enum mask mask;
    } sizes[] = {
        {1, 24, 20, MASK_NONE},   {2, 12, 40, MASK_NONE},        {31, 100, 99, MASK_NONE},
        {63, 16, 16, MASK_NONE},  {64, 8, 12, MASK_LATE},        {65, 9, 5, MASK_NONE},
        {70, 40, 33, MASK_ALL},   {129, 128, 24, MASK_PADDING},  {513, 7, 3, MASK_NONE},
        {577, 16, 12, MASK_LATE}, {577, 12, 16, MASK_SCATTERED},
    };
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++)
        both_directions((struct shape){.kind = ATTENTION_SOFTMAX,
                                       .batch = 2,
                                       .heads = 2,
                                       .length = sizes[i / 2].length,
                                       .dim = sizes[i / 2].dim,
                                       .width = sizes[i / 2].width,
                                       .mask = sizes[i / 2].mask,
                                       .scale = 0.7,
                                       .precision = i % 2 ? PRECISION_BF16 : PRECISION_FP32},
                        shape_hold);
}

/* Of few heads, long ones: their states are summed by stretches first. */
Test(attention, a_head_alone_is_cut_into_stretches)
{
    struct shape shape = {.kernel = KERNEL_SOFTMAX_POSITIVE,
                          .kind = ATTENTION_FAVOR,
                          .batch = 1,
                          .heads = 1,
                          .length = 1100,
                          .dim = 8,
                          .width = 8,
                          .features = 16,
                          .scale = 1};
    both_directions(shape, shape_hold);
    shape.precision = PRECISION_BF16;
    both_directions(shape, shape_hold);
}

/* ---- what must hold whatever the numbers ---- */

static struct shape plain(double scale)
{
    return (struct shape){.batch = 1,
                          .heads = 2,
                          .length = 150,
                          .dim = 16,
                          .width = 16,
                          .features = 37,
                          .scale = scale};
}

static bool all_finite(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

static void stays_finite(const struct backend *backend, const struct shape *shape)
{
    char text[SHAPE_TEXT_MAX];
    struct heads heads = heads_new(shape);
    shape_text(shape, text, sizeof text);
    heads_run(&heads, backend, 2);
    cr_expect(all_finite(heads.out, out_count(shape)), "%s %s: out", backend->name, text);
    cr_expect(all_finite(heads.dqkv, qkv_count(shape)), "%s %s: gradients", backend->name, text);
    heads_free(&heads);
}

Test(attention, large_norms_stay_finite)
{
    static const double scales[] = {3, 10, 30, 100};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        struct shape shape = plain(scales[i]);
        every_kernel(shape, stays_finite);
        every_other_kind(shape, stays_finite);
        shape.precision = PRECISION_BF16;
        every_kernel(shape, stays_finite);
        every_other_kind(shape, stays_finite);
    }
}

static void single_thread_holds(const struct backend *backend, const struct shape *shape)
{
    struct heads heads = heads_new(shape);
    heads_run(&heads, backend, 1);
    heads_hold(&heads, backend->name);
    heads_free(&heads);
}

/* Norms that rise along the row: the running shift
 * must be carried many times, and by large factors. */
Test(attention, running_shift_is_carried)
{
    struct shape shape = plain(2);
    shape.rising = true;
    every_kind(shape, single_thread_holds);
    shape.precision = PRECISION_BF16;
    every_kind(shape, single_thread_holds);
}

/* In bf16 what is divided has been through three roundings of up to 2^-8 each, and what it is divided by through none. */
static void sums_to_one(const struct backend *backend, const struct shape *shape)
{
    const double tolerance = shape->precision == PRECISION_BF16 ? 3 * 0x1p-8 : 1e-5;
    struct heads heads = heads_new(shape);
    for (int64_t r = 0; r < shape->length; r++)
        for (int64_t i = 0; i < shape->heads * shape->width; i++)
            heads.qkv[r * row_width(shape) + 2 * shape->heads * shape->dim + i] = 1;
    heads_run(&heads, backend, 1);
    for (int64_t i = 0; i < out_count(shape); i++)
        cr_expect(fabsf(heads.out[i] - 1) < tolerance, "%s %s %s %d: %g", backend->name,
                  precision_text(shape->precision), attention_kernel_text(shape->kernel),
                  shape->causal, heads.out[i]);
    heads_free(&heads);
}

Test(attention, weights_of_a_query_sum_to_one)
{
    struct shape shape = plain(1);
    every_kind(shape, sums_to_one);
    shape.precision = PRECISION_BF16;
    every_kind(shape, sums_to_one);
}

/* Rows 0 ... t-1 of `a` and `b`, relative to the norm of `a`. */
static double rows_difference(const struct shape *shape, const float *a, const float *b,
                              int64_t rows)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < rows * shape->heads * shape->width; i++) {
        difference = hypot(difference, (double)a[i] - b[i]);
        norm = hypot(norm, a[i]);
    }
    return difference / norm;
}

/* Large numbers after row t: whoever lets them through
 * shows it, by a shift, a block or a mask too wide. */
static void no_leak(const struct backend *backend, const struct shape *shape)
{
    static const int64_t firsts[] = {1, 63, 64, 100, 149, 1023, 1024, 1025};
    if (!shape->causal) return;
    struct heads before = heads_new(shape);
    heads_run(&before, backend, 1);
    for (size_t i = 0; i < sizeof firsts / sizeof firsts[0] && firsts[i] < shape->length; i++) {
        struct heads after = heads_new(shape);
        for (int64_t at = firsts[i] * row_width(shape); at < qkv_count(shape); at++)
            after.qkv[at] = 5 * after.qkv[at] + 1;
        heads_run(&after, backend, 1);
        const double leak = rows_difference(shape, before.out, after.out, firsts[i]);
        cr_expect(leak < 1e-6, "%s %s kind %d kernel %d: row %d leaks %.3g", backend->name,
                  precision_text(shape->precision), shape->kind, shape->kernel, (int)firsts[i],
                  leak);
        cr_expect(rows_difference(shape, before.out, after.out, shape->length) > 1e-3);
        heads_free(&after);
    }
    heads_free(&before);
}

Test(attention, later_tokens_do_not_leak)
{
    struct shape shape = plain(1);
    every_kind(shape, no_leak);
    shape.precision = PRECISION_BF16;
    every_kind(shape, no_leak);
}

/* Of a head alone, whose second stretch begins at 1024. */
Test(attention, later_stretches_do_not_leak)
{
    struct shape shape = {
        .batch = 1, .heads = 1, .length = 1100, .dim = 8, .width = 8, .features = 16, .scale = 1};
    every_favor(shape, no_leak);
    shape.precision = PRECISION_BF16;
    every_favor(shape, no_leak);
}

/* A padded row gives what the short row gives, whatever stands in the padding. */
static void padding_is_nothing(const struct backend *backend, const struct shape *shape)
{
    if (shape->kind == ATTENTION_IDENTITY) return;
    struct shape longer = *shape, shorter = *shape;
    longer.mask = MASK_PADDING;
    shorter.length = shape->length - shape->length / 3;
    struct heads padded = heads_new(&longer), exact = heads_new(&shorter);
    memcpy(exact.qkv, padded.qkv, (size_t)qkv_count(&shorter) * sizeof(float));
    memcpy(exact.dout, padded.dout, (size_t)out_count(&shorter) * sizeof(float));
    memset(padded.dout + out_count(&shorter), 0,
           (size_t)(out_count(&longer) - out_count(&shorter)) * sizeof(float));
    for (int64_t i = qkv_count(&shorter); i < qkv_count(&longer); i++) padded.qkv[i] *= 4;
    heads_run(&padded, backend, 1);
    heads_run(&exact, backend, 1);
    const double difference = rows_difference(shape, exact.out, padded.out, shorter.length);
    cr_expect(difference < 1e-6, "%s kind %d: %.3g", backend->name, shape->kind, difference);

    double gradients = 0, norm = 0;
    for (int64_t i = 0; i < qkv_count(&shorter); i++) {
        gradients = hypot(gradients, (double)exact.dqkv[i] - padded.dqkv[i]);
        norm = hypot(norm, exact.dqkv[i]);
    }
    cr_expect(gradients < 2e-6 * norm, "%s kind %d: gradients %.3g", backend->name, shape->kind,
              gradients / norm);
    heads_free(&padded);
    heads_free(&exact);
}

Test(attention, padding_is_nothing)
{
    struct shape shape = plain(1);
    every_kind(shape, padding_is_nothing);
    shape.precision = PRECISION_BF16;
    every_kind(shape, padding_is_nothing);
}

/* ---- what is refused ---- */

Test(attention, what_there_is_not_is_refused_in_words)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        const char *why = NULL;
        struct attention op = {.kind = (enum attention_kind)99};
        cr_expect_not((*backend)->attention_supported(&op, &why));
        cr_expect_str_eq(why, "no such attention");
        op = (struct attention){.kind = ATTENTION_FAVOR, .kernel = (enum attention_kernel)99};
        cr_expect_not((*backend)->attention_supported(&op, &why));
        cr_expect_str_eq(why, "no such kernel");

        why = NULL;
        op = (struct attention){.kind = ATTENTION_SOFTMAX, .kernel = KERNEL_COS};
        cr_expect((*backend)->attention_supported(&op, &why));
        cr_expect_null(why);
    }
}
