/*
 * Linformer's attention against softmax(q (E k)ᵀ / √d) (F v) written out in doubles, its gradients against
 * differences of that; padding, many sizes and large norms. The float64 vectors are in performer_attend.c.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/trial.h"

/* Design section 6: ‖ours - ref‖ / max(‖ref‖, 0.05 ‖dv‖) of out, dq, dk, dv. */
static const double TOLERANCES[][4] = {
    [PRECISION_FP32] = {2e-5, 2e-5, 2e-5, 2e-5},
    [PRECISION_BF16] = {2e-2, 4e-2, 4e-2, 2e-2},
};

struct shape {
    int64_t batch, heads, length, dim, width, rank;
    int mask; /* 0: none; 1: padding; 2: every third; 3: all */
    double scale;
    int64_t columns; /* of E and F; 0: length */
    enum precision precision;
};

/* q, k and v side by side, as after one projection; the gradients alike. */
struct trial {
    struct shape shape;
    float *qkv, *dqkv, *out, *dout, *key_projection, *value_projection, *saved;
    uint8_t *key_mask;
};

static int64_t row_width(const struct shape *s)
{
    return s->heads * (2 * s->dim + s->width);
}

static int64_t qkv_count(const struct shape *s)
{
    return s->batch * s->length * row_width(s);
}

static int64_t out_count(const struct shape *s)
{
    return s->batch * s->length * s->heads * s->width;
}

static bool is_masked(const struct shape *s, int64_t sequence, int64_t position)
{
    switch (s->mask) {
    case 1:
        return position >= s->length - s->length / 3 - sequence;
    case 2:
        return (position + sequence) % 3 == 0;
    case 3:
        return sequence == 0;
    default:
        return false;
    }
}

static int64_t columns_of(const struct shape *s)
{
    return s->columns ? s->columns : s->length;
}

static struct trial trial_new(struct shape s)
{
    struct trial trial = {
        .shape = s,
        .qkv = trial_floats(1, qkv_count(&s), s.scale),
        .dqkv = trial_unwritten(qkv_count(&s)),
        .out = trial_unwritten(out_count(&s)),
        .dout = trial_floats(2, out_count(&s), 1),
        .key_projection = trial_floats(3, s.rank * columns_of(&s), 1 / sqrt((double)s.rank)),
        .value_projection = trial_floats(4, s.rank * columns_of(&s), 1 / sqrt((double)s.rank)),
    };
    if (!s.mask) return trial;
    trial.key_mask = calloc((size_t)(s.batch * s.length), 1);
    cr_assert(trial.key_mask);
    for (int64_t r = 0; r < s.batch * s.length; r++)
        trial.key_mask[r] = !is_masked(&s, r / s.length, r % s.length);
    return trial;
}

static void trial_free(struct trial *trial)
{
    free(trial->qkv), free(trial->dqkv), free(trial->out), free(trial->dout), free(trial->saved);
    free(trial->key_projection), free(trial->value_projection), free(trial->key_mask);
}

static struct heads_view view_of(const struct shape *s, float *data, int64_t stride, int64_t width)
{
    return (struct heads_view){data, s->length * stride, width, stride};
}

/* q, k and v: 0, 1, 2. */
static struct heads_view part_view(const struct shape *s, float *qkv, int part)
{
    return view_of(s, qkv + part * s->heads * s->dim, row_width(s), part == 2 ? s->width : s->dim);
}

static void trial_run(struct trial *trial, const struct backend *backend, int threads)
{
    const struct shape *s = &trial->shape;
    struct attention op = {
        .kind = ATTENTION_LINFORMER,
        .precision = s->precision,
        .batch = s->batch,
        .heads = s->heads,
        .length = s->length,
        .head_dim = s->dim,
        .value_dim = s->width,
        .key_mask = trial->key_mask,
        .q = part_view(s, trial->qkv, 0),
        .k = part_view(s, trial->qkv, 1),
        .v = part_view(s, trial->qkv, 2),
        .out = view_of(s, trial->out, s->heads * s->width, s->width),
        .rank = s->rank,
        .columns = columns_of(s),
        .key_projection = trial->key_projection,
        .value_projection = trial->value_projection,
    };
    float *without = trial_copy(trial->out, out_count(s));
    struct attention alone = op; /* as in an evaluation: nothing is kept */
    alone.out.data = without;
    cr_assert_eq(TRIAL_RUN(backend, threads, attention, &alone), ST_OK);

    free(trial->saved);
    trial->saved = trial_unwritten((int64_t)backend->attention_saved_floats(&op));
    op.saved = trial->saved;
    cr_assert_eq(TRIAL_RUN(backend, threads, attention, &op), ST_OK);
    cr_expect(!memcmp(without, trial->out, (size_t)out_count(s) * sizeof(float)));
    free(without);
    const struct attention_backward back = {
        .forward = op,
        .dout = view_of(s, trial->dout, s->heads * s->width, s->width),
        .dq = part_view(s, trial->dqkv, 0),
        .dk = part_view(s, trial->dqkv, 1),
        .dv = part_view(s, trial->dqkv, 2),
    };
    cr_assert_eq(TRIAL_RUN(backend, threads, attention_backward, &back), ST_OK);
}

/* ---- one head in doubles ---- */

struct naive {
    const struct shape *shape;
    const uint8_t *key_mask;
    double *x[3];      /* q, k, v */
    double *matrix[3]; /* none, E, F: (r, L) */
};

/* Row i of E k or F v. */
static double compressed(const struct naive *n, int which, int64_t row, int64_t column)
{
    const int64_t width = which == 2 ? n->shape->width : n->shape->dim, l = n->shape->length;
    double sum = 0;
    for (int64_t s = 0; s < l; s++)
        if (!n->key_mask || n->key_mask[s])
            sum += n->matrix[which][row * l + s] * n->x[which][s * width + column];
    return sum;
}

/* K (r, d) or V (r, e). */
static double *compressed_new(const struct naive *n, int which)
{
    const int64_t width = which == 2 ? n->shape->width : n->shape->dim;
    double *rows = trial_zeros(n->shape->rank * width);
    for (int64_t i = 0; i < n->shape->rank * width; i++)
        rows[i] = compressed(n, which, i / width, i % width);
    return rows;
}

/* (L, r) */
static double *weights_new(const struct naive *n, const double *keys)
{
    const int64_t d = n->shape->dim, r = n->shape->rank;
    double *weights = trial_zeros(n->shape->length * r);
    for (int64_t t = 0; t < n->shape->length; t++) {
        double largest = -INFINITY, sum = 0, *row = weights + t * r;
        for (int64_t i = 0; i < r; i++) {
            for (int64_t j = 0; j < d; j++)
                row[i] += n->x[0][t * d + j] * keys[i * d + j] / sqrt((double)d);
            largest = fmax(largest, row[i]);
        }
        for (int64_t i = 0; i < r; i++) sum += exp(row[i] - largest);
        for (int64_t i = 0; i < r; i++) row[i] = exp(row[i] - largest) / sum;
    }
    return weights;
}

static void naive_out(const struct naive *n, double *out)
{
    const int64_t e = n->shape->width, r = n->shape->rank;
    double *keys = compressed_new(n, 1), *values = compressed_new(n, 2);
    double *weights = weights_new(n, keys);
    memset(out, 0, (size_t)(n->shape->length * e) * sizeof *out);
    for (int64_t t = 0; t < n->shape->length; t++)
        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < e; j++)
                out[t * e + j] += weights[t * r + i] * values[i * e + j];
    free(keys), free(values), free(weights);
}

static void compressed_backward(const struct naive *n, int which, const double *from, double *to)
{
    const int64_t width = which == 2 ? n->shape->width : n->shape->dim, l = n->shape->length;
    for (int64_t s = 0; s < l; s++)
        for (int64_t i = 0; i < n->shape->rank && (!n->key_mask || n->key_mask[s]); i++)
            for (int64_t j = 0; j < width; j++)
                to[s * width + j] += n->matrix[which][i * l + s] * from[i * width + j];
}

static void naive_backward(const struct naive *n, const double *dout, double *dx[3])
{
    const int64_t l = n->shape->length, d = n->shape->dim, e = n->shape->width, r = n->shape->rank;
    double *keys = compressed_new(n, 1), *values = compressed_new(n, 2);
    double *weights = weights_new(n, keys), *slopes = trial_zeros(r);
    double *dkeys = trial_zeros(r * d), *dvalues = trial_zeros(r * e);
    for (int64_t t = 0; t < l; t++) {
        double mean = 0;
        for (int64_t i = 0; i < r; i++) {
            slopes[i] = 0;
            for (int64_t j = 0; j < e; j++) {
                slopes[i] += dout[t * e + j] * values[i * e + j];
                dvalues[i * e + j] += weights[t * r + i] * dout[t * e + j];
            }
            mean += weights[t * r + i] * slopes[i];
        }
        for (int64_t i = 0; i < r; i++) {
            const double ds = weights[t * r + i] * (slopes[i] - mean) / sqrt((double)d);
            for (int64_t j = 0; j < d; j++) {
                dx[0][t * d + j] += ds * keys[i * d + j];
                dkeys[i * d + j] += ds * n->x[0][t * d + j];
            }
        }
    }
    compressed_backward(n, 1, dkeys, dx[1]);
    compressed_backward(n, 2, dvalues, dx[2]);
    free(keys), free(values), free(weights), free(slopes), free(dkeys), free(dvalues);
}

static float *head_rows(struct heads_view view, int64_t b, int64_t h, int64_t length, int64_t width)
{
    float *rows = trial_unwritten(length * width);
    for (int64_t l = 0; l < length; l++)
        memcpy(rows + l * width,
               view.data + b * view.batch_stride + h * view.head_stride + l * view.row_stride,
               (size_t)width * sizeof *rows);
    return rows;
}

static double *head_doubles(struct heads_view view, int64_t b, int64_t h, int64_t length,
                            int64_t width)
{
    float *rows = head_rows(view, b, h, length, width);
    double *doubles = trial_doubles(rows, length * width);
    free(rows);
    return doubles;
}

static struct naive naive_new(const struct trial *trial, int64_t b, int64_t h)
{
    const struct shape *s = &trial->shape;
    struct naive n = {.shape = s,
                      .key_mask = trial->key_mask ? trial->key_mask + b * s->length : NULL,
                      .matrix = {NULL, trial_doubles(trial->key_projection, s->rank * s->length),
                                 trial_doubles(trial->value_projection, s->rank * s->length)}};
    for (int part = 0; part < 3; part++)
        n.x[part] = head_doubles(part_view(s, trial->qkv, part), b, h, s->length,
                                 part == 2 ? s->width : s->dim);
    return n;
}

static void naive_free(struct naive *n)
{
    for (int part = 0; part < 3; part++) free(n->x[part]), free(n->matrix[part]);
}

/* ---- held against it ---- */

static void head_holds(const struct trial *trial, int64_t b, int64_t h, const char *backend)
{
    static const char *const names[] = {"dq", "dk", "dv"};
    const struct shape *s = &trial->shape;
    const int64_t l = s->length, d = s->dim, e = s->width, stride = s->heads * e;
    struct naive n = naive_new(trial, b, h);
    double *dout = head_doubles(view_of(s, trial->dout, stride, e), b, h, l, e);
    double *out = trial_zeros(l * e);
    double *dx[3] = {trial_zeros(l * d), trial_zeros(l * d), trial_zeros(l * e)};
    naive_out(&n, out);
    naive_backward(&n, dout, dx);

    struct outcome outcome = {0};
    outcome_add(&outcome, "out", l * e, head_rows(view_of(s, trial->out, stride, e), b, h, l, e),
                out);
    for (int part = 0; part < 3; part++) {
        const int64_t width = part == 2 ? e : d;
        outcome_add(&outcome, names[part], l * width,
                    head_rows(part_view(s, trial->dqkv, part), b, h, l, width), dx[part]);
        outcome.part[part + 1].least_norm = 0.05 * trial_norm(dx[2], l * e);
    }
    for (int i = 0; i < outcome.parts; i++) {
        const double error = part_error(&outcome.part[i]);
        cr_expect(error <= TOLERANCES[s->precision][i],
                  "%s %s L %d d %d e %d rank %d mask %d: %s is off by %.3g", backend,
                  precision_text(s->precision), (int)l, (int)d, (int)e, (int)s->rank, s->mask,
                  outcome.part[i].name, error);
    }
    outcome_free(&outcome);
    free(dout);
    naive_free(&n);
}

/* Every backend, and the same bits with 1, 2 and 3 threads. */
static void shape_holds(struct shape s)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        struct trial single = trial_new(s);
        trial_run(&single, *backend, 1);
        head_holds(&single, 0, 0, (*backend)->name);
        head_holds(&single, s.batch - 1, s.heads - 1, (*backend)->name);
        for (int threads = 2; threads <= trial_threads(*backend); threads++) {
            struct trial other = trial_new(s);
            trial_run(&other, *backend, threads);
            cr_expect(!memcmp(single.out, other.out, (size_t)out_count(&s) * sizeof(float)));
            cr_expect(!memcmp(single.dqkv, other.dqkv, (size_t)qkv_count(&s) * sizeof(float)));
            trial_free(&other);
        }
        trial_free(&single);
    }
}

static struct shape plain(void)
{
    return (struct shape){
        .batch = 2, .heads = 2, .length = 150, .dim = 16, .width = 12, .rank = 37, .scale = 1};
}

Test(linformer, lengths_around_block_edges)
{
    static const int64_t lengths[] = {1, 2, 63, 64, 65, 128, 255, 256, 257, 700};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct shape s = plain();
        s.batch = lengths[i] == 700 ? 1 : 2;
        s.length = lengths[i];
        if (s.rank > s.length) s.rank = s.length;
        shape_holds(s);
    }
}

/* More than one slice of them, where sums are cut. */
Test(linformer, many_positions)
{
    struct shape s = plain();
    s.batch = 1;
    s.length = 1100;
    s.mask = 2;
    s.dim = 4;
    s.width = 5;
    s.rank = 6;
    shape_holds(s);
}

Test(linformer, sizes_of_any_kind)
{
    static const int64_t sizes[][3] = {/* d, e, rank */
                                       {1, 1, 1},    {8, 12, 63},  {9, 5, 64},
                                       {33, 40, 65}, {100, 99, 7}, {128, 128, 70}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct shape s = plain();
        s.length = 70;
        s.dim = sizes[i][0];
        s.width = sizes[i][1];
        s.rank = sizes[i][2];
        shape_holds(s);
    }
}

Test(linformer, masks)
{
    for (int mask = 1; mask <= 3; mask++) {
        struct shape s = plain();
        s.mask = mask;
        shape_holds(s);
        s.length = s.rank = 5;
        shape_holds(s);
    }
}

/* Around the edges of blocks, at odd sizes. */
Test(linformer, bf16)
{
    static const int64_t sizes[][5] = {
        /* L, d, e, rank, mask */
        {1, 24, 20, 1, 0}, {2, 40, 12, 2, 0},    {63, 16, 12, 37, 1},  {64, 100, 9, 64, 0},
        {65, 9, 5, 33, 0}, {129, 40, 33, 65, 2}, {257, 24, 24, 129, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct shape s = plain();
        s.precision = PRECISION_BF16;
        s.length = sizes[i][0];
        s.dim = sizes[i][1];
        s.width = sizes[i][2];
        s.rank = sizes[i][3];
        s.mask = (int)sizes[i][4];
        shape_holds(s);
    }
}

static double loss_of(const struct naive *n, const double *dout)
{
    const int64_t count = n->shape->length * n->shape->width;
    double *out = trial_zeros(count), loss = 0;
    naive_out(n, out);
    for (int64_t i = 0; i < count; i++) loss += dout[i] * out[i];
    free(out);
    return loss;
}

Test(linformer, gradients_are_differences)
{
    enum { LENGTH = 14, DIM = 5, WIDTH = 4 };
    struct trial trial =
        trial_new((struct shape){1, 1, LENGTH, DIM, WIDTH, 6, 2, 1, 0, PRECISION_FP32});
    struct naive n = naive_new(&trial, 0, 0);
    double *dout = trial_doubles(trial.dout, LENGTH * WIDTH);
    double *dx[3] = {trial_zeros(LENGTH * DIM), trial_zeros(LENGTH * DIM),
                     trial_zeros(LENGTH * WIDTH)};
    naive_backward(&n, dout, dx);
    for (int part = 0; part < 3; part++) {
        for (int i = 0; i < LENGTH * (part == 2 ? WIDTH : DIM); i++) {
            const double step = 1e-5, kept = n.x[part][i];
            n.x[part][i] = kept + step;
            const double above = loss_of(&n, dout);
            n.x[part][i] = kept - step;
            const double slope = (above - loss_of(&n, dout)) / (2 * step);
            n.x[part][i] = kept;
            cr_expect_float_eq(dx[part][i], slope, 1e-7);
        }
    }
    free(dout), free(dx[0]), free(dx[1]), free(dx[2]);
    naive_free(&n);
    trial_free(&trial);
}

/* A padded row gives what the short row gives, which meets the first columns of E and F, whatever stands in the padding. */
Test(linformer, padding_is_nothing)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        struct shape longer = plain(), shorter = plain();
        longer.batch = shorter.batch = 1;
        longer.mask = 1;
        shorter.length = 100;
        shorter.columns = longer.length; /* the same matrices */
        struct trial padded = trial_new(longer), exact = trial_new(shorter);
        memcpy(exact.qkv, padded.qkv, (size_t)qkv_count(&shorter) * sizeof(float));
        memcpy(exact.dout, padded.dout, (size_t)out_count(&shorter) * sizeof(float));
        memset(padded.dout + out_count(&shorter), 0,
               (size_t)(out_count(&longer) - out_count(&shorter)) * sizeof(float));
        for (int64_t i = qkv_count(&shorter); i < qkv_count(&longer); i++) padded.qkv[i] *= 4;
        trial_run(&padded, *backend, 1);
        trial_run(&exact, *backend, 1);
        double difference = 0, gradients = 0;
        for (int64_t i = 0; i < out_count(&shorter); i++)
            difference = fmax(difference, fabs((double)padded.out[i] - exact.out[i]));
        for (int64_t i = 0; i < qkv_count(&shorter); i++)
            gradients = fmax(gradients, fabs((double)padded.dqkv[i] - exact.dqkv[i]));
        cr_expect(difference < 1e-5, "%s: %g", (*backend)->name, difference);
        cr_expect(gradients < 1e-4, "%s: %g", (*backend)->name, gradients);
        trial_free(&padded);
        trial_free(&exact);
    }
}

Test(linformer, large_norms_stay_finite)
{
    static const double scales[] = {3, 10, 100};
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        for (size_t i = 0; i < 2 * sizeof scales / sizeof scales[0]; i++) {
            struct shape s = plain();
            s.scale = scales[i / 2];
            s.precision = i % 2 ? PRECISION_BF16 : PRECISION_FP32;
            struct trial trial = trial_new(s);
            trial_run(&trial, *backend, 2);
            for (int64_t j = 0; j < out_count(&s); j++) cr_assert(isfinite(trial.out[j]));
            for (int64_t j = 0; j < qkv_count(&s); j++) cr_assert(isfinite(trial.dqkv[j]));
            trial_free(&trial);
        }
    }
}

Test(linformer, causal_is_refused)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        const char *why = NULL;
        struct attention op = {.kind = ATTENTION_LINFORMER, .causal = true};
        cr_expect_not((*backend)->attention_supported(&op, &why));
        cr_expect(why && strstr(why, "cannot be causal"));
        op.causal = false;
        cr_expect((*backend)->attention_supported(&op, &why));
    }
}
