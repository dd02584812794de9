/*
 * Reformer's attention against the paper's own form in doubles: a softmax in each round, its pairs divided by
 * the number of rounds that see them, itself at -1e5, the rounds combined by log sum exp. And what must hold
 * whatever the numbers: one bucket is exact attention, later positions have no weight, padding is nothing.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/trial.h"

/* Design section 6: ‖ours - ref‖ / max(‖ref‖, 0.05 ‖dv‖) of out, dq, dv. */
static const double TOLERANCES[][3] = {
    [PRECISION_FP32] = {2e-5, 2e-5, 2e-5},
    [PRECISION_BF16] = {2e-2, 4e-2, 2e-2},
};

struct shape {
    int64_t batch, heads, length, dim, width, rounds, buckets, chunk;
    bool causal;
    int mask; /* 0: none; 1: padding; 2: every third; 3: all */
    double scale;
    enum precision precision;
};

/* q and v side by side, as after one projection; the gradients alike. */
struct trial {
    struct shape shape;
    float *qv, *dqv, *out, *dout, *rotations, *saved;
    uint8_t *key_mask;
};

static int64_t row_width(const struct shape *s)
{
    return s->heads * (s->dim + s->width);
}

static int64_t qv_count(const struct shape *s)
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

static struct trial trial_new(struct shape s)
{
    struct trial trial = {
        .shape = s,
        .qv = trial_floats(1, qv_count(&s), 1),
        .dqv = trial_unwritten(qv_count(&s)),
        .out = trial_unwritten(out_count(&s)),
        .dout = trial_floats(2, out_count(&s), 1),
        .rotations = trial_floats(3, s.rounds * s.dim * s.buckets / 2, 1),
    };
    for (int64_t r = 0; r < s.batch * s.length; r++)
        for (int64_t i = 0; i < s.heads * s.dim; i++)
            trial.qv[r * row_width(&s) + i] *= (float)s.scale;
    if (!s.mask) return trial;
    trial.key_mask = calloc((size_t)(s.batch * s.length), 1);
    cr_assert(trial.key_mask);
    for (int64_t r = 0; r < s.batch * s.length; r++)
        trial.key_mask[r] = !is_masked(&s, r / s.length, r % s.length);
    return trial;
}

static void trial_free(struct trial *trial)
{
    free(trial->qv), free(trial->dqv), free(trial->out), free(trial->dout);
    free(trial->rotations), free(trial->saved), free(trial->key_mask);
}

static struct heads_view view_of(const struct shape *s, float *data, int64_t stride, int64_t width)
{
    return (struct heads_view){data, s->length * stride, width, stride};
}

static struct heads_view q_view(const struct shape *s, float *qv)
{
    return view_of(s, qv, row_width(s), s->dim);
}

static struct heads_view v_view(const struct shape *s, float *qv)
{
    return view_of(s, qv + s->heads * s->dim, row_width(s), s->width);
}

/* Forward and backward; no k and no dk, which the kernels must not touch. */
static void trial_run(struct trial *trial, const struct backend *backend, int threads)
{
    const struct shape *s = &trial->shape;
    struct attention op = {
        .kind = ATTENTION_REFORMER,
        .precision = s->precision,
        .causal = s->causal,
        .batch = s->batch,
        .heads = s->heads,
        .length = s->length,
        .head_dim = s->dim,
        .value_dim = s->width,
        .key_mask = trial->key_mask,
        .q = q_view(s, trial->qv),
        .v = v_view(s, trial->qv),
        .out = view_of(s, trial->out, s->heads * s->width, s->width),
        .rounds = s->rounds,
        .buckets = s->buckets,
        .chunk = s->chunk,
        .rotations = trial->rotations,
    };
    free(trial->saved);
    trial->saved = trial_unwritten((int64_t)backend->attention_saved_floats(&op));
    op.saved = trial->saved;
    cr_assert_eq(TRIAL_RUN(backend, threads, attention, &op), ST_OK);
    const struct attention_backward back = {
        .forward = op,
        .dout = view_of(s, trial->dout, s->heads * s->width, s->width),
        .dq = q_view(s, trial->dqv),
        .dv = v_view(s, trial->dqv),
    };
    cr_assert_eq(TRIAL_RUN(backend, threads, attention_backward, &back), ST_OK);
}

/* ---- the paper, one head, in doubles ---- */

struct naive {
    const struct shape *shape;
    const uint8_t *key_mask;
    double *q, *v, *rotations;
    bool *sees;      /* (rounds, L, L): by bucket and chunk, itself included */
    double *weights; /* (L, L) */
};

static int64_t naive_bucket(const struct naive *n, int64_t round, int64_t position)
{
    const int64_t d = n->shape->dim, half = n->shape->buckets / 2;
    double largest = -INFINITY;
    int64_t bucket = 0;
    for (int64_t c = 0; c < 2 * half; c++) {
        double dot = 0;
        for (int64_t j = 0; j < d; j++)
            dot += n->q[position * d + j] * n->rotations[(round * d + j) * half + c % half];
        if (c >= half) dot = -dot;
        if (dot > largest) largest = dot, bucket = c;
    }
    return bucket;
}

/* Positions of each bucket, from the first on, in chunks. */
static void naive_hash(struct naive *n)
{
    const int64_t l = n->shape->length, chunk = n->shape->chunk;
    int64_t *bucket = calloc((size_t)l, sizeof *bucket),
            *number = calloc((size_t)l, sizeof *number);
    for (int64_t round = 0; round < n->shape->rounds; round++) {
        for (int64_t t = 0; t < l; t++) {
            int64_t before = 0;
            bucket[t] = n->key_mask && !n->key_mask[t] ? -1 : naive_bucket(n, round, t);
            for (int64_t s = 0; s < t; s++) before += bucket[s] == bucket[t];
            number[t] = before / chunk;
        }
        for (int64_t t = 0; t < l; t++)
            for (int64_t s = 0; s < l; s++)
                n->sees[(round * l + t) * l + s] =
                    bucket[t] >= 0 && bucket[s] == bucket[t] &&
                    (number[s] == number[t] || number[s] + 1 == number[t]) &&
                    (!n->shape->causal || s <= t);
    }
    free(bucket), free(number);
}

static double naive_norm(const struct naive *n, int64_t s)
{
    double square = 0;
    for (int64_t j = 0; j < n->shape->dim; j++) square += pow(n->q[s * n->shape->dim + j], 2);
    return sqrt(square);
}

/* q_t . k_s / √d - m: what stands in the exponent of a round, -inf where the round does not see it */
static double naive_exponent(const struct naive *n, int64_t round, int64_t t, int64_t s)
{
    const int64_t l = n->shape->length, d = n->shape->dim;
    double dot = 0, seen = 0;
    if (!n->sees[(round * l + t) * l + s]) return -INFINITY;
    for (int64_t r = 0; r < n->shape->rounds; r++) seen += n->sees[(r * l + t) * l + s];
    for (int64_t j = 0; j < d; j++) dot += n->q[t * d + j] * n->q[s * d + j];
    return dot / naive_norm(n, s) / sqrt((double)d) - (t == s ? 1e5 : log(seen));
}

static double log_sum_exp(const double *x, int64_t count)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, x[i]);
    if (largest == -INFINITY) return largest;
    for (int64_t i = 0; i < count; i++) sum += exp(x[i] - largest);
    return largest + log(sum);
}

static void naive_weights(const struct naive *n)
{
    const int64_t l = n->shape->length, rounds = n->shape->rounds;
    double *exponents = trial_zeros(rounds * l), *z = trial_zeros(rounds);
    memset(n->weights, 0, (size_t)(l * l) * sizeof(double));
    for (int64_t t = 0; t < l; t++) {
        for (int64_t r = 0; r < rounds; r++) {
            for (int64_t s = 0; s < l; s++) exponents[r * l + s] = naive_exponent(n, r, t, s);
            z[r] = log_sum_exp(exponents + r * l, l);
        }
        const double all = log_sum_exp(z, rounds);
        for (int64_t r = 0; r < rounds; r++)
            for (int64_t s = 0; s < l && z[r] != -INFINITY; s++)
                n->weights[t * l + s] += exp(z[r] - all) * exp(exponents[r * l + s] - z[r]);
    }
    free(exponents), free(z);
}

static void naive_out(const struct naive *n, double *out)
{
    const int64_t l = n->shape->length, e = n->shape->width;
    memset(out, 0, (size_t)(l * e) * sizeof *out);
    naive_weights(n);
    for (int64_t t = 0; t < l; t++)
        for (int64_t s = 0; s < l; s++)
            for (int64_t j = 0; j < e; j++)
                out[t * e + j] += n->weights[t * l + s] * n->v[s * e + j];
}

static void naive_backward(const struct naive *n, const double *dout, double *dq, double *dv)
{
    const int64_t l = n->shape->length, d = n->shape->dim, e = n->shape->width;
    double *out = trial_zeros(l * e), *dk = trial_zeros(l * d);
    naive_out(n, out);
    for (int64_t t = 0; t < l; t++) {
        for (int64_t s = 0; s < l; s++) {
            const double weight = n->weights[t * l + s];
            double ds = 0;
            if (weight == 0) continue;
            for (int64_t j = 0; j < e; j++) {
                ds += weight * dout[t * e + j] * (n->v[s * e + j] - out[t * e + j]);
                dv[s * e + j] += weight * dout[t * e + j];
            }
            for (int64_t j = 0; j < d; j++) {
                dq[t * d + j] += ds / sqrt((double)d) * n->q[s * d + j] / naive_norm(n, s);
                dk[s * d + j] += ds / sqrt((double)d) * n->q[t * d + j];
            }
        }
    }
    for (int64_t s = 0; s < l; s++) {
        const double norm = naive_norm(n, s);
        double along = 0;
        for (int64_t j = 0; j < d; j++) along += n->q[s * d + j] * dk[s * d + j];
        for (int64_t j = 0; j < d; j++)
            dq[s * d + j] += dk[s * d + j] / norm - n->q[s * d + j] * along / pow(norm, 3);
    }
    free(out), free(dk);
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
    struct naive n = {
        .shape = s,
        .key_mask = trial->key_mask ? trial->key_mask + b * s->length : NULL,
        .q = head_doubles(q_view(s, trial->qv), b, h, s->length, s->dim),
        .v = head_doubles(v_view(s, trial->qv), b, h, s->length, s->width),
        .rotations = trial_doubles(trial->rotations, s->rounds * s->dim * s->buckets / 2),
        .sees = calloc((size_t)(s->rounds * s->length * s->length), sizeof(bool)),
        .weights = trial_zeros(s->length * s->length),
    };
    cr_assert(n.sees);
    naive_hash(&n);
    return n;
}

static void naive_free(struct naive *n)
{
    free(n->q), free(n->v), free(n->rotations), free(n->sees), free(n->weights);
}

/* ---- held against it ---- */

static void head_holds(const struct trial *trial, int64_t b, int64_t h, const char *backend)
{
    const struct shape *s = &trial->shape;
    const int64_t l = s->length, d = s->dim, e = s->width, stride = s->heads * e;
    struct naive n = naive_new(trial, b, h);
    double *dout = head_doubles(view_of(s, trial->dout, stride, e), b, h, l, e);
    double *out = trial_zeros(l * e), *dq = trial_zeros(l * d), *dv = trial_zeros(l * e);
    naive_out(&n, out);
    naive_backward(&n, dout, dq, dv);

    struct outcome outcome = {0};
    outcome_add(&outcome, "out", l * e, head_rows(view_of(s, trial->out, stride, e), b, h, l, e),
                out);
    outcome_add(&outcome, "dq", l * d, head_rows(q_view(s, trial->dqv), b, h, l, d), dq);
    outcome_add(&outcome, "dv", l * e, head_rows(v_view(s, trial->dqv), b, h, l, e), dv);
    outcome.part[1].least_norm = 0.05 * trial_norm(dv, l * e);
    for (int i = 0; i < outcome.parts; i++) {
        const double error = part_error(&outcome.part[i]);
        cr_expect(error <= TOLERANCES[s->precision][i],
                  "%s %s L %d d %d e %d rounds %d buckets %d chunk %d %s mask %d: %s %.3g", backend,
                  precision_text(s->precision), (int)l, (int)d, (int)e, (int)s->rounds,
                  (int)s->buckets, (int)s->chunk, s->causal ? "causal" : "bidirectional", s->mask,
                  outcome.part[i].name, error);
    }
    outcome_free(&outcome);
    free(dout);
    naive_free(&n);
}

static void both_ends_hold(const struct trial *trial, const char *backend)
{
    head_holds(trial, 0, 0, backend);
    head_holds(trial, trial->shape.batch - 1, trial->shape.heads - 1, backend);
}

/* Every backend, both directions, and the same bits with 1, 2 and 3 threads. */
static void shape_holds(struct shape s)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        for (int causal = 0; causal <= 1; causal++) {
            s.causal = causal;
            struct trial single = trial_new(s);
            trial_run(&single, *backend, 1);
            both_ends_hold(&single, (*backend)->name);
            for (int threads = 2; threads <= trial_threads(*backend); threads++) {
                struct trial other = trial_new(s);
                trial_run(&other, *backend, threads);
                cr_expect(!memcmp(single.out, other.out, (size_t)out_count(&s) * sizeof(float)));
                cr_expect(!memcmp(single.dqv, other.dqv, (size_t)qv_count(&s) * sizeof(float)));
                trial_free(&other);
            }
            trial_free(&single);
        }
    }
}

static struct shape plain(void)
{
    return (struct shape){.batch = 2,
                          .heads = 2,
                          .length = 150,
                          .dim = 16,
                          .width = 12,
                          .rounds = 3,
                          .buckets = 6,
                          .chunk = 16,
                          .scale = 3};
}

Test(reformer, lengths_around_edges)
{
    static const int64_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 129};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct shape s = plain();
        s.length = lengths[i];
        shape_holds(s);
        s.chunk = 64;
        s.rounds = 1;
        shape_holds(s);
    }
}

/* Stretches of chunks, which are 512 positions long, meet at a chunk that two of them add to. */
Test(reformer, stretches_of_chunks)
{
    static const int64_t chunks[] = {1, 64, 100, 300, 512, 700};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        struct shape s = plain();
        s.batch = 1;
        s.length = 1200;
        s.rounds = 2;
        s.chunk = chunks[i];
        s.buckets = i % 2 ? 2 : 16;
        s.dim = s.width = 4;
        shape_holds(s);
    }
}

Test(reformer, sizes_of_any_kind)
{
    static const int64_t sizes[][5] = {/* d, e, rounds, buckets, chunk */
                                       {1, 1, 1, 2, 3},      {8, 12, 2, 4, 7},
                                       {9, 5, 4, 10, 5},     {33, 40, 2, 62, 9},
                                       {100, 99, 1, 32, 20}, {128, 128, 2, 8, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct shape s = plain();
        s.length = 70;
        s.dim = sizes[i][0];
        s.width = sizes[i][1];
        s.rounds = sizes[i][2];
        s.buckets = sizes[i][3];
        s.chunk = sizes[i][4];
        shape_holds(s);
    }
}

Test(reformer, masks)
{
    for (int mask = 1; mask <= 3; mask++) {
        struct shape s = plain();
        s.mask = mask;
        shape_holds(s);
        s.length = 5;
        shape_holds(s);
    }
}

/* Chunks that are and are not whole tiles, at odd sizes; buckets are those of fp32. */
Test(reformer, bf16)
{
    static const int64_t sizes[][7] = {/* L, d, e, rounds, buckets, chunk, mask */
                                       {1, 24, 20, 2, 4, 16, 0},   {2, 40, 12, 2, 2, 16, 0},
                                       {63, 100, 9, 2, 4, 16, 0},  {64, 12, 40, 1, 8, 64, 0},
                                       {65, 16, 12, 3, 6, 16, 1},  {129, 9, 5, 2, 4, 7, 0},
                                       {150, 40, 33, 2, 2, 65, 2}, {300, 24, 24, 1, 2, 200, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct shape s = plain();
        s.precision = PRECISION_BF16;
        s.scale = 1;
        s.length = sizes[i][0];
        s.dim = sizes[i][1];
        s.width = sizes[i][2];
        s.rounds = sizes[i][3];
        s.buckets = sizes[i][4];
        s.chunk = sizes[i][5];
        s.mask = (int)sizes[i][6];
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

/* The gradients that the kernels are held against are those of the paper's form, by differences. */
Test(reformer, gradients_are_differences)
{
    struct shape s = {1, 1, 24, 5, 4, 2, 4, 6, false, 0, 2, PRECISION_FP32};
    for (int causal = 0; causal <= 1; causal++) {
        s.causal = causal;
        struct trial trial = trial_new(s);
        struct naive n = naive_new(&trial, 0, 0);
        double *dout = trial_doubles(trial.dout, 24 * 4);
        double *dq = trial_zeros(24 * 5), *dv = trial_zeros(24 * 4);
        naive_backward(&n, dout, dq, dv);
        for (int i = 0; i < 24 * 9; i++) {
            double *at = i < 24 * 5 ? &n.q[i] : &n.v[i - 24 * 5], step = 1e-5, kept = *at;
            *at = kept + step;
            const double above = loss_of(&n, dout);
            *at = kept - step;
            const double slope = (above - loss_of(&n, dout)) / (2 * step);
            *at = kept;
            cr_expect_float_eq(i < 24 * 5 ? dq[i] : dv[i - 24 * 5], slope, 1e-7);
        }
        free(dout), free(dq), free(dv);
        naive_free(&n);
        trial_free(&trial);
    }
}

/* ---- what must hold whatever the numbers ---- */

/* softmax(q kᵀ / √d) v with k = q / ‖q‖ and nobody seeing himself, but for the first of a causal row. */
static void exact_out(const struct trial *trial, double *out)
{
    const struct shape *s = &trial->shape;
    const int64_t l = s->length, d = s->dim, e = s->width;
    double *q = head_doubles(q_view(s, trial->qv), 0, 0, l, d);
    double *v = head_doubles(v_view(s, trial->qv), 0, 0, l, e);
    for (int64_t t = 0; t < l; t++) {
        double sum = 0;
        for (int64_t other = 0; other < l; other++) {
            double dot = 0, square = 0;
            if (other == t ? !(s->causal && t == 0) : s->causal && other > t) continue;
            for (int64_t j = 0; j < d; j++) {
                dot += q[t * d + j] * q[other * d + j];
                square += q[other * d + j] * q[other * d + j];
            }
            const double weight = exp(dot / sqrt(square * (double)d));
            sum += weight;
            for (int64_t j = 0; j < e; j++) out[t * e + j] += weight * v[other * e + j];
        }
        for (int64_t j = 0; j < e; j++) out[t * e + j] /= sum;
    }
    free(q), free(v);
}

Test(reformer, one_bucket_that_holds_everything_is_exact_attention)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        for (int i = 0; i < 8; i++) {
            const int64_t rounds = 1 + i / 4, chunk = i & 2 ? 90 : 200;
            const struct shape s = {1, 1, 90, 8, 6, rounds, 4, chunk, i % 2, 0, 1, PRECISION_FP32};
            struct trial trial = trial_new(s);
            /* Column 0 is the first axis, along which all queries are positive; column 1 is 0. */
            memset(trial.rotations, 0, (size_t)(rounds * 8 * 2) * sizeof(float));
            for (int64_t r = 0; r < rounds; r++) trial.rotations[r * 8 * 2] = 1;
            for (int64_t l = 0; l < s.length; l++)
                trial.qv[l * row_width(&s)] = fabsf(trial.qv[l * row_width(&s)]) + 0.01f;
            trial_run(&trial, *backend, 2);
            struct part part = {"out", 90 * 6, trial.out, trial_zeros(90 * 6), 0};
            exact_out(&trial, part.expected);
            cr_expect(part_error(&part) < 2e-6, "%s: %.3g", (*backend)->name, part_error(&part));
            free(part.expected);
            trial_free(&trial);
        }
    }
}

/* Buckets between which a float product cannot decide are those of the definition: each column of R stands there
 * twice, the second time off by one unit in the last place of one element. */
Test(reformer, buckets_do_not_depend_on_rounding)
{
    struct shape s = plain();
    s.buckets = 16;
    s.chunk = 8;
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        struct trial trial = trial_new(s);
        for (int64_t i = 0; i < s.rounds * s.dim * s.buckets / 2; i += 2)
            trial.rotations[i + 1] = i / (s.buckets / 2) % s.dim
                                         ? trial.rotations[i]
                                         : nextafterf(trial.rotations[i], 9);
        trial_run(&trial, *backend, 1);
        both_ends_hold(&trial, (*backend)->name);
        trial_free(&trial);
    }
}

/* A zero query has no direction: as a key it is 0, and nothing comes back through its length. */
Test(reformer, zero_and_large_queries_stay_finite)
{
    static const double scales[] = {0, 1, 10, 100, 1e4};
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        for (size_t i = 0; i < 4 * sizeof scales / sizeof scales[0]; i++) {
            struct shape s = plain();
            s.scale = scales[i / 4];
            s.causal = i % 2;
            s.precision = i & 2 ? PRECISION_BF16 : PRECISION_FP32;
            struct trial trial = trial_new(s);
            for (int64_t j = 0; j < row_width(&s); j++) trial.qv[40 * row_width(&s) + j] = 0;
            trial_run(&trial, *backend, 2);
            for (int64_t j = 0; j < out_count(&s); j++) cr_assert(isfinite(trial.out[j]));
            for (int64_t j = 0; j < qv_count(&s); j++) cr_assert(isfinite(trial.dqv[j]));
            trial_free(&trial);
        }
    }
}

Test(reformer, weights_of_a_query_sum_to_one)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        for (int i = 0; i < 4; i++) {
            struct shape s = plain();
            s.causal = i % 2;
            s.precision = i < 2 ? PRECISION_FP32 : PRECISION_BF16;
            const double tolerance = i < 2 ? 1e-5 : 0x1p-8; /* weights are rounded */
            struct trial trial = trial_new(s);
            for (int64_t r = 0; r < s.batch * s.length; r++)
                for (int64_t j = s.heads * s.dim; j < row_width(&s); j++)
                    trial.qv[r * row_width(&s) + j] = 1;
            trial_run(&trial, *backend, 1);
            for (int64_t j = 0; j < out_count(&s); j++)
                cr_expect(fabsf(trial.out[j] - 1) < tolerance, "%s %s: %g", (*backend)->name,
                          precision_text(s.precision), trial.out[j]);
            trial_free(&trial);
        }
    }
}

/* Whatever stands at later positions, and whatever buckets that brings them to, earlier rows do not show it. */
static void no_leak(struct shape s)
{
    static const int64_t firsts[] = {1, 16, 63, 100, 149};
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        struct trial before = trial_new(s);
        trial_run(&before, *backend, 1);
        for (size_t i = 0; i < sizeof firsts / sizeof firsts[0]; i++) {
            struct trial after = trial_new(s);
            for (int64_t at = firsts[i] * row_width(&s); at < qv_count(&s); at++)
                after.qv[at] = 1 - 5 * after.qv[at];
            trial_run(&after, *backend, 1);
            double leak = 0;
            for (int64_t at = 0; at < firsts[i] * s.heads * s.width; at++)
                leak = fmax(leak, fabs((double)before.out[at] - after.out[at]));
            cr_expect(leak < 1e-6, "%s buckets %d chunk %d: row %d leaks %.3g", (*backend)->name,
                      (int)s.buckets, (int)s.chunk, (int)firsts[i], leak);
            cr_expect(memcmp(before.out, after.out, (size_t)out_count(&s) * sizeof(float)));
            trial_free(&after);
        }
        trial_free(&before);
    }
}

Test(reformer, later_tokens_do_not_leak)
{
    static const int64_t sizes[][3] = {/* rounds, buckets, chunk */
                                       {1, 2, 16},
                                       {1, 32, 4},
                                       {2, 16, 16},
                                       {3, 6, 5},
                                       {4, 64, 1}};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        struct shape s = plain();
        s.batch = 1;
        s.causal = true;
        s.precision = i % 2 ? PRECISION_BF16 : PRECISION_FP32;
        s.rounds = sizes[i / 2][0];
        s.buckets = sizes[i / 2][1];
        s.chunk = sizes[i / 2][2];
        no_leak(s);
    }
}

/* A padded row gives what the short row gives, whatever stands in the padding. */
Test(reformer, padding_is_nothing)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        struct shape longer = plain(), shorter = plain();
        longer.batch = shorter.batch = 1;
        longer.mask = 1;
        shorter.length = 100;
        struct trial padded = trial_new(longer), exact = trial_new(shorter);
        memcpy(exact.qv, padded.qv, (size_t)qv_count(&shorter) * sizeof(float));
        memcpy(exact.dout, padded.dout, (size_t)out_count(&shorter) * sizeof(float));
        for (int64_t i = qv_count(&shorter); i < qv_count(&longer); i++) padded.qv[i] *= 4;
        trial_run(&padded, *backend, 1);
        trial_run(&exact, *backend, 1);
        double difference = 0, gradients = 0;
        for (int64_t i = 0; i < out_count(&shorter); i++)
            difference = fmax(difference, fabs((double)padded.out[i] - exact.out[i]));
        for (int64_t i = 0; i < qv_count(&shorter); i++)
            gradients = fmax(gradients, fabs((double)padded.dqv[i] - exact.dqv[i]));
        cr_expect(difference < 2e-6, "%s: %g", (*backend)->name, difference);
        cr_expect(gradients < 1e-5, "%s: %g", (*backend)->name, gradients);
        for (int64_t i = out_count(&shorter); i < out_count(&longer); i++)
            cr_expect(padded.out[i] == 0);
        trial_free(&padded);
        trial_free(&exact);
    }
}
