/*
 * Every operation of the list, by every backend: what it writes against plain
 * doubles, and the same bits for 1, 2 and 3 threads. The table at the end is
 * made from kernels/ops.def, so an operation without a trial does not compile.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "kernels/positions.h"
#include "tests/kernels/naive.h"
#include "tests/kernels/trial.h"

/* Sizes mean what each trial makes of them. `aliased`:
 * outputs over inputs where that is allowed. */
struct shape {
    int64_t rows, in, out, length;
    bool bare; /* without what may be NULL */
    bool aliased;
    float rate; /* dropout */
    enum precision precision;
};

typedef enum status trial(const struct backend *backend, int threads, const struct shape *shape,
                          struct outcome *outcome);

/* ---- products ---- */

static enum status linear_trial(const struct backend *backend, int threads,
                                const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, in = shape->in, out = shape->out;
    float *x = trial_floats(1, r * in, 1), *weight = trial_floats(2, out * in, 0.3);
    float *bias = shape->bare ? NULL : trial_floats(3, out, 1);
    float *y = trial_unwritten(r * out);
    const struct linear op = {r, in, out, x, weight, bias, y, shape->precision};
    enum status status = TRIAL_RUN(backend, threads, linear, &op);

    double *xd = trial_inputs(x, r * in, shape->precision);
    double *wd = trial_inputs(weight, out * in, shape->precision);
    double *bd = trial_doubles(bias, out), *expected = trial_zeros(r * out);
    naive_linear(r, in, out, xd, wd, bd, expected);
    outcome_add(outcome, "y", r * out, y, expected);
    free(x), free(weight), free(bias), free(xd), free(wd), free(bd);
    return status;
}

static enum status linear_backward_trial(const struct backend *backend, int threads,
                                         const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, in = shape->in, out = shape->out;
    float *x = trial_floats(1, r * in, 1), *weight = trial_floats(2, out * in, 0.3);
    float *dy = trial_floats(3, r * out, 1), *dweight = trial_unwritten(out * in);
    float *dx = shape->bare ? NULL : trial_unwritten(r * in);
    float *dbias = shape->bare ? NULL : trial_unwritten(out);
    const struct linear_backward op = {r,  in, out,     x,     weight,
                                       dy, dx, dweight, dbias, shape->precision};
    enum status status = TRIAL_RUN(backend, threads, linear_backward, &op);

    double *xd = trial_inputs(x, r * in, shape->precision);
    double *wd = trial_inputs(weight, out * in, shape->precision);
    double *dyd = trial_inputs(dy, r * out, shape->precision);
    double *dx_expected = trial_zeros(r * in), *dw_expected = trial_zeros(out * in),
           *db_expected = trial_zeros(out);
    for (int64_t i = 0; i < r; i++) {
        for (int64_t o = 0; o < out; o++) {
            const double g = dyd[i * out + o];
            db_expected[o] += dy[i * out + o];
            for (int64_t j = 0; j < in; j++) {
                dx_expected[i * in + j] += g * wd[o * in + j];
                dw_expected[o * in + j] += g * xd[i * in + j];
            }
        }
    }
    outcome_add(outcome, "dweight", out * in, dweight, dw_expected);
    outcome_add(outcome, "dx", dx ? r * in : 0, dx, dx_expected);
    outcome_add(outcome, "dbias", dbias ? out : 0, dbias, db_expected);
    free(x), free(weight), free(dy), free(xd), free(wd), free(dyd);
    return status;
}

static enum status linear_gelu_trial(const struct backend *backend, int threads,
                                     const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, in = shape->in, out = shape->out;
    float *x = trial_floats(1, r * in, 1), *weight = trial_floats(2, out * in, 0.3);
    float *bias = shape->bare ? NULL : trial_floats(3, out, 1);
    float *y = trial_unwritten(r * out), *u = trial_unwritten(r * out);
    const struct linear_gelu op = {.linear = {r, in, out, x, weight, bias, y, shape->precision},
                                   .u = u};
    enum status status = TRIAL_RUN(backend, threads, linear_gelu, &op);

    double *xd = trial_inputs(x, r * in, shape->precision);
    double *wd = trial_inputs(weight, out * in, shape->precision);
    double *bd = trial_doubles(bias, out);
    double *u_expected = trial_zeros(r * out), *y_expected = trial_zeros(r * out);
    naive_linear(r, in, out, xd, wd, bd, u_expected);
    for (int64_t i = 0; i < r * out; i++) y_expected[i] = naive_gelu(u_expected[i]);
    outcome_add(outcome, "u", r * out, u, u_expected);
    outcome_add(outcome, "y", r * out, y, y_expected);
    free(x), free(weight), free(bias), free(xd), free(wd), free(bd);
    return status;
}

/* Far into both tails besides. */
static enum status gelu_backward_trial(const struct backend *backend, int threads,
                                       const struct shape *shape, struct outcome *outcome)
{
    const int64_t count = shape->rows * shape->out;
    float *u = trial_floats(1, count, 3), *dy = trial_floats(2, count, 1);
    for (int64_t i = 0; i < count; i += 7) u[i] *= 10;
    double *expected = trial_zeros(count);
    for (int64_t i = 0; i < count; i++) {
        const double density = exp(-0.5 * u[i] * u[i]) / sqrt(2 * M_PI);
        expected[i] = dy[i] * (0.5 * erfc(-u[i] / sqrt(2.0)) + u[i] * density);
    }
    float *du = shape->aliased ? dy : trial_unwritten(count);
    const struct gelu_backward op = {count, u, dy, du};
    enum status status = TRIAL_RUN(backend, threads, gelu_backward, &op);
    outcome_add(outcome, "du", count, du, expected);
    free(u);
    if (!shape->aliased) free(dy);
    return status;
}

/* ---- dropout ---- */

/* The definition of kernels/dropout.h, with Philox' words asked for one by one. */
static double kept(const struct dropout_key *key, int64_t row, int64_t width, int64_t column)
{
    const uint32_t sequence = key->first_sequence + (uint32_t)(row / key->length);
    const int64_t position = row % key->length, place = position * ((width + 3) / 4) + column / 4;
    const uint32_t index[3] = {key->step, sequence, (uint32_t)place};
    const uint32_t layer = key->site + 4096 * (uint32_t)(place >> 32);
    const struct philox_words words = philox_draw(key->seed, PURPOSE_DROPOUT, layer, index);
    return words.word[column % 4] / 256 < key->rate * 16777216.0 ? 0 : 1 / (1 - (double)key->rate);
}

static struct dropout_key key_of(const struct shape *shape)
{
    return (struct dropout_key){.rate = shape->rate,
                                .seed = 0x123456789abcdefu,
                                .step = 41,
                                .site = 5,
                                .first_sequence = 12,
                                .length = shape->length};
}

static enum status linear_residual_trial(const struct backend *backend, int threads,
                                         const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, in = shape->in, out = shape->out;
    float *x = trial_floats(1, r * in, 1), *weight = trial_floats(2, out * in, 0.3);
    float *bias = shape->bare ? NULL : trial_floats(3, out, 1);
    float *residual = trial_floats(4, r * out, 1);
    const struct dropout_key key = key_of(shape);

    double *xd = trial_inputs(x, r * in, shape->precision);
    double *wd = trial_inputs(weight, out * in, shape->precision);
    double *bd = trial_doubles(bias, out), *expected = trial_zeros(r * out);
    naive_linear(r, in, out, xd, wd, bd, expected);
    for (int64_t i = 0; i < r * out; i++)
        expected[i] = residual[i] + expected[i] * kept(&key, i / out, out, i % out);

    float *y = shape->aliased ? residual : trial_unwritten(r * out);
    const struct linear_residual op = {.linear = {r, in, out, x, weight, bias, y, shape->precision},
                                       .residual = residual,
                                       .dropout = key};
    enum status status = TRIAL_RUN(backend, threads, linear_residual, &op);
    outcome_add(outcome, "y", r * out, y, expected);
    outcome->part[0].least_norm = sqrt((double)(r * out)); /* residual and product may cancel */
    free(x), free(weight), free(bias), free(xd), free(wd), free(bd);
    if (!shape->aliased) free(residual);
    return status;
}

static enum status dropout_trial(const struct backend *backend, int threads,
                                 const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, width = shape->out;
    const struct dropout_key key = key_of(shape);
    float *x = trial_floats(1, r * width, 1);
    double *expected = trial_zeros(r * width);
    for (int64_t i = 0; i < r * width; i++)
        expected[i] = x[i] * kept(&key, i / width, width, i % width);

    float *y = shape->aliased ? x : trial_unwritten(r * width);
    const struct dropout op = {r, width, key, x, y};
    enum status status = TRIAL_RUN(backend, threads, dropout, &op);
    outcome_add(outcome, "y", r * width, y, expected);
    if (!shape->aliased) free(x);
    return status;
}

/* ---- layernorm ---- */

static enum status layernorm_trial(const struct backend *backend, int threads,
                                   const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, width = shape->in;
    float *x = trial_floats(1, r * width, 1), *weight = trial_floats(2, width, 1),
          *bias = trial_floats(3, width, 1);
    for (int64_t i = 0; i < r * width; i++) x[i] += 5;
    float *y = trial_unwritten(r * width), *mean = trial_unwritten(r), *rstd = trial_unwritten(r);
    const struct layernorm op = {r, width, x, weight, bias, y, mean, rstd};
    enum status status = TRIAL_RUN(backend, threads, layernorm, &op);

    double *xd = trial_doubles(x, r * width), *wd = trial_doubles(weight, width);
    double *bd = trial_doubles(bias, width), *y_expected = trial_zeros(r * width);
    double *mean_expected = trial_zeros(r), *rstd_expected = trial_zeros(r);
    naive_layernorm(r, width, xd, wd, bd, y_expected);
    for (int64_t i = 0; i < r; i++) {
        double squares = 0;
        for (int64_t j = 0; j < width; j++) mean_expected[i] += x[i * width + j] / (double)width;
        for (int64_t j = 0; j < width; j++)
            squares += pow(x[i * width + j] - mean_expected[i], 2) / (double)width;
        rstd_expected[i] = 1 / sqrt(squares + 1e-5);
    }
    outcome_add(outcome, "y", r * width, y, y_expected);
    outcome_add(outcome, "mean", r, mean, mean_expected);
    outcome_add(outcome, "rstd", r, rstd, rstd_expected);
    free(x), free(weight), free(bias), free(xd), free(wd), free(bd);
    return status;
}

/* dx by the Jacobian of the row written out: dy_j/dx_i = w_j rstd (δ_ij - (1 + x̂_i x̂_j) / n). */
static void layernorm_jacobian(int64_t width, const float *x, const float *weight, double mean,
                               double rstd, const float *dy, double *dx)
{
    for (int64_t i = 0; i < width; i++) {
        for (int64_t j = 0; j < width; j++) {
            const double both = (x[i] - mean) * (x[j] - mean) * rstd * rstd;
            dx[i] += dy[j] * (double)weight[j] * rstd * ((i == j) - (1 + both) / (double)width);
        }
    }
}

static enum status layernorm_backward_trial(const struct backend *backend, int threads,
                                            const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, width = shape->in;
    float *x = trial_floats(1, r * width, 1), *weight = trial_floats(2, width, 1);
    float *dy = trial_floats(3, r * width, 1), *mean = trial_unwritten(r),
          *rstd = trial_unwritten(r);
    float *dresidual = shape->bare ? NULL : trial_floats(4, r * width, 1);
    double *dx_expected = trial_zeros(r * width), *dw_expected = trial_zeros(width),
           *db_expected = trial_zeros(width), least = 0;

    for (int64_t i = 0; i < r; i++) {
        const float *row = x + i * width;
        double sum = 0, squares = 0;
        for (int64_t j = 0; j < width; j++) sum += row[j] / (double)width;
        for (int64_t j = 0; j < width; j++) squares += pow(row[j] - sum, 2) / (double)width;
        mean[i] = (float)sum;
        rstd[i] = (float)(1 / sqrt(squares + 1e-5));
        layernorm_jacobian(width, row, weight, mean[i], rstd[i], dy + i * width,
                           dx_expected + i * width);
        for (int64_t j = 0; j < width; j++) {
            dw_expected[j] += dy[i * width + j] * (row[j] - (double)mean[i]) * rstd[i];
            db_expected[j] += dy[i * width + j];
            least = hypot(least, (double)rstd[i] * dy[i * width + j] * weight[j]);
            if (dresidual) dx_expected[i * width + j] += dresidual[i * width + j];
        }
    }
    float *dx = dresidual && shape->aliased ? dresidual : trial_unwritten(r * width);
    float *dweight = trial_unwritten(width), *dbias = trial_unwritten(width);
    const struct layernorm_backward op = {r,  width,     x,  weight,  mean, rstd,
                                          dy, dresidual, dx, dweight, dbias};
    enum status status = TRIAL_RUN(backend, threads, layernorm_backward, &op);
    outcome_add(outcome, "dx", r * width, dx, dx_expected);
    outcome->part[0].least_norm = least; /* dx is a difference of terms of this size */
    outcome_add(outcome, "dweight", width, dweight, dw_expected);
    outcome_add(outcome, "dbias", width, dbias, db_expected);
    free(x), free(weight), free(dy), free(mean), free(rstd);
    if (dx != dresidual) free(dresidual);
    return status;
}

/* ---- embedding ---- */

static int32_t *ids_new(int64_t count, int64_t vocab)
{
    int32_t *ids = calloc((size_t)count, sizeof *ids);
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)(i * i * 31 % vocab);
    return ids;
}

static enum status embed_trial(const struct backend *backend, int threads,
                               const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, width = shape->in, vocab = shape->out;
    const struct dropout_key key = key_of(shape);
    int32_t *ids = ids_new(r, vocab);
    float *tokens = trial_floats(1, vocab * width, 1);
    float *positions = shape->bare ? NULL : trial_floats(2, shape->length * width, 1);
    float *y = trial_unwritten(r * width);
    const struct embed op = {r, width, vocab, ids, tokens, positions, key, y};
    enum status status = TRIAL_RUN(backend, threads, embed, &op);

    double *expected = trial_zeros(r * width);
    for (int64_t i = 0; i < r; i++) {
        for (int64_t j = 0; j < width; j++) {
            const double position = positions ? positions[i % shape->length * width + j] : 0;
            expected[i * width + j] =
                (tokens[ids[i] * width + j] + position) * kept(&key, i, width, j);
        }
    }
    outcome_add(outcome, "y", r * width, y, expected);
    free(ids), free(tokens), free(positions);
    return status;
}

static enum status embed_backward_trial(const struct backend *backend, int threads,
                                        const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, width = shape->in, vocab = shape->out, length = shape->length;
    const int64_t positions = length + 2; /* of a table for longer sequences */
    const struct dropout_key key = key_of(shape);
    int32_t *ids = ids_new(r, vocab);
    float *dy = trial_floats(1, r * width, 1), *dtokens = trial_unwritten(vocab * width);
    float *dpositions = shape->bare ? NULL : trial_unwritten(positions * width);
    const struct embed_backward op = {r,  width,   vocab,      ids,      key,
                                      dy, dtokens, dpositions, positions};
    enum status status = TRIAL_RUN(backend, threads, embed_backward, &op);

    double *dt_expected = trial_zeros(vocab * width), *dp_expected = trial_zeros(positions * width);
    for (int64_t i = 0; i < r; i++) {
        for (int64_t j = 0; j < width; j++) {
            const double back = dy[i * width + j] * kept(&key, i, width, j);
            dt_expected[ids[i] * width + j] += back;
            dp_expected[i % length * width + j] += back;
        }
    }
    outcome_add(outcome, "dtokens", vocab * width, dtokens, dt_expected);
    outcome_add(outcome, "dpositions", dpositions ? positions * width : 0, dpositions, dp_expected);
    free(ids), free(dy);
    return status;
}

/* ---- rotary positions ---- */

/* `in` is d, two heads side by side in a row and 3 columns behind them that nobody may touch; bare: back. */
static enum status rotary_trial(const struct backend *backend, int threads,
                                const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, d = shape->in, length = shape->length, row = 2 * d + 3;
    float *x = trial_floats(1, r * row, 1), *table = trial_unwritten(length * d);
    double *expected = trial_doubles(x, r * row);
    positions_rotary(length, d, table);
    for (int64_t i = 0; i < r; i++)
        for (int64_t h = 0; h < 2; h++)
            naive_rotary(d, (double)(shape->bare ? -(i % length) : i % length),
                         expected + i * row + h * d);

    const struct rotary op = {.batch = r / length,
                              .heads = 2,
                              .length = length,
                              .head_dim = d,
                              .back = shape->bare,
                              .table = table,
                              .x = {x, length * row, d, row}};
    enum status status = TRIAL_RUN(backend, threads, rotary, &op);
    outcome_add(outcome, "x", r * row, x, expected);
    free(table);
    return status;
}

/* ---- attention: favor here; all kinds in attention.c ---- */

enum { HEADS = 2 };

static struct heads_view heads_in(float *data, int64_t rows, int64_t width)
{
    return (struct heads_view){data, HEADS * rows * width, rows * width, width};
}

/* `in` is d, `out` is e, the rows are L; bare: bidirectional. */
struct case_of_attention {
    float *q, *k, *v, *projection, *out, *saved;
    struct attention op;
};

static struct case_of_attention attention_new(const struct backend *backend,
                                              const struct shape *shape)
{
    const int64_t l = shape->rows, d = shape->in, e = shape->out;
    struct case_of_attention made = {.q = trial_floats(1, HEADS * l * d, 1),
                                     .k = trial_floats(2, HEADS * l * d, 1),
                                     .v = trial_floats(3, HEADS * l * e, 1),
                                     .projection = trial_floats(4, 37 * d, 1),
                                     .out = trial_unwritten(HEADS * l * e)};
    made.op = (struct attention){.kind = ATTENTION_FAVOR,
                                 .kernel = KERNEL_SOFTMAX_POSITIVE,
                                 .precision = shape->precision,
                                 .causal = !shape->bare,
                                 .epsilon = 1e-6f,
                                 .batch = 1,
                                 .heads = HEADS,
                                 .length = l,
                                 .head_dim = d,
                                 .value_dim = e,
                                 .features = 37,
                                 .projection = made.projection,
                                 .q = heads_in(made.q, l, d),
                                 .k = heads_in(made.k, l, d),
                                 .v = heads_in(made.v, l, e),
                                 .out = heads_in(made.out, l, e)};
    made.saved = trial_unwritten((int64_t)backend->attention_saved_floats(&made.op));
    made.op.saved = made.saved;
    return made;
}

static void attention_free(struct case_of_attention *made)
{
    free(made->q), free(made->k), free(made->v), free(made->projection), free(made->saved);
}

/* Calls the naive attention for each head; dout NULL: forward, into out. */
static void naive_heads(const struct case_of_attention *made, const float *dout, double *out,
                        double *dq, double *dk, double *dv)
{
    const int64_t l = made->op.length, d = made->op.head_dim, e = made->op.value_dim;
    double *q = trial_doubles(made->q, HEADS * l * d), *k = trial_doubles(made->k, HEADS * l * d);
    double *v = trial_doubles(made->v, HEADS * l * e), *dd = trial_doubles(dout, HEADS * l * e);
    double *projection = trial_doubles(made->projection, 37 * d);
    for (int64_t h = 0; h < HEADS; h++) {
        const struct naive_attention head = {
            .kind = made->op.kind,
            .kernel = made->op.kernel,
            .causal = made->op.causal,
            .epsilon = made->op.epsilon,
            .length = l,
            .dim = d,
            .width = e,
            .features = 37,
            .projection = projection,
            .q = q + h * l * d,
            .k = k + h * l * d,
            .v = v + h * l * e,
        };
        if (out) naive_attention(&head, out + h * l * e);
        if (dd)
            naive_attention_backward(&head, dd + h * l * e, dq + h * l * d, dk + h * l * d,
                                     dv + h * l * e);
    }
    free(q), free(k), free(v), free(dd), free(projection);
}

static enum status attention_trial(const struct backend *backend, int threads,
                                   const struct shape *shape, struct outcome *outcome)
{
    struct case_of_attention made = attention_new(backend, shape);
    const int64_t count = HEADS * shape->rows * shape->out;
    enum status status = TRIAL_RUN(backend, threads, attention, &made.op);
    double *expected = trial_zeros(count);
    naive_heads(&made, NULL, expected, NULL, NULL, NULL);
    outcome_add(outcome, "out", count, made.out, expected);
    attention_free(&made);
    return status;
}

static enum status attention_backward_trial(const struct backend *backend, int threads,
                                            const struct shape *shape, struct outcome *outcome)
{
    const int64_t l = shape->rows, d = shape->in, e = shape->out;
    struct case_of_attention made = attention_new(backend, shape);
    float *dout = trial_floats(5, HEADS * l * e, 1), *dv = trial_unwritten(HEADS * l * e);
    float *dq = trial_unwritten(HEADS * l * d), *dk = trial_unwritten(HEADS * l * d);
    enum status status = TRIAL_RUN(backend, threads, attention, &made.op);
    const struct attention_backward op = {.forward = made.op,
                                          .dout = heads_in(dout, l, e),
                                          .dq = heads_in(dq, l, d),
                                          .dk = heads_in(dk, l, d),
                                          .dv = heads_in(dv, l, e)};
    if (status == ST_OK) status = TRIAL_RUN(backend, threads, attention_backward, &op);

    double *dq_expected = trial_zeros(HEADS * l * d), *dk_expected = trial_zeros(HEADS * l * d),
           *dv_expected = trial_zeros(HEADS * l * e);
    naive_heads(&made, dout, NULL, dq_expected, dk_expected, dv_expected);
    outcome_add(outcome, "dq", HEADS * l * d, dq, dq_expected);
    outcome_add(outcome, "dk", HEADS * l * d, dk, dk_expected);
    outcome_add(outcome, "dv", HEADS * l * e, dv, dv_expected);
    for (int i = 0; i < 2; i++)
        outcome->part[i].least_norm = 0.05 * trial_norm(dv_expected, HEADS * l * e);
    attention_free(&made);
    free(made.out), free(dout);
    return status;
}

/* ---- loss and sums ---- */

/* Every fifth row has no target, every third has two largest logits, of which the
 * first is the answer. Counts must be right exactly. bare: without the gradient. */
static enum status cross_entropy_trial(const struct backend *backend, int threads,
                                       const struct shape *shape, struct outcome *outcome)
{
    const int64_t r = shape->rows, vocab = shape->out;
    float *logits = trial_floats(1, r * vocab, 4);
    int32_t *targets = ids_new(r, vocab);
    for (int64_t i = 0; i < r; i += 3) {
        logits[i * vocab + vocab / 2] = logits[i * vocab + vocab - 1] = 20;
        targets[i] = (int32_t)(i % 2 ? vocab / 2 : vocab - 1);
    }
    double *expected = trial_doubles(logits, r * vocab), loss_expected = 0, loss_sum = NAN;
    int64_t counted = -1, correct = -1, counted_expected = 0, correct_expected = 0;
    for (int64_t i = 0; i < r; i++) {
        double *row = expected + i * vocab, losses[2] = {0};
        if (i % 5 == 0) targets[i] = -1;
        int64_t largest = vocab - 1;
        for (int64_t j = vocab - 1; j >= 0; j--)
            if (row[j] >= row[largest]) largest = j;
        if (targets[i] >= 0) {
            losses[0] = naive_cross_entropy(vocab, row, targets[i]);
            losses[1] = row[targets[i]] + losses[0]; /* log Σ exp */
            loss_expected += losses[0];
            counted_expected++;
            correct_expected += largest == targets[i];
        }
        for (int64_t j = 0; j < vocab && !shape->bare; j++)
            row[j] = targets[i] < 0 ? 0 : exp(row[j] - losses[1]) - (j == targets[i]);
    }
    const struct cross_entropy op = {r,         vocab,    logits,  targets, !shape->bare,
                                     &loss_sum, &counted, &correct};
    enum status status = TRIAL_RUN(backend, threads, cross_entropy, &op);
    cr_expect_eq(counted, counted_expected);
    cr_expect_eq(correct, correct_expected);

    /* The sum is a double: beside the float of it, what the float leaves over. */
    float *loss = trial_unwritten(1);
    double *loss_double = trial_zeros(1);
    *loss = (float)loss_sum;
    *loss_double = loss_expected;
    cr_expect(fabs(loss_sum - loss_expected) <= 1e-6 * loss_expected + 1e-12,
              "%s: loss %.17g, not %.17g", backend->name, loss_sum, loss_expected);
    outcome_add(outcome, "logits", r * vocab, logits, expected);
    outcome_add(outcome, "loss_sum", 1, loss, loss_double);
    free(targets);
    return status;
}

static enum status add_trial(const struct backend *backend, int threads, const struct shape *shape,
                             struct outcome *outcome)
{
    const int64_t count = shape->rows * shape->in;
    float *x = trial_floats(1, count, 1), *y = trial_floats(2, count, 1);
    double *expected = trial_doubles(y, count);
    for (int64_t i = 0; i < count; i++) expected[i] += x[i];
    const struct add op = {count, x, y};
    enum status status = TRIAL_RUN(backend, threads, add, &op);
    outcome_add(outcome, "y", count, y, expected);
    free(x);
    return status;
}

static enum status sum_squares_trial(const struct backend *backend, int threads,
                                     const struct shape *shape, struct outcome *outcome)
{
    const int64_t count = shape->rows * shape->in * shape->out;
    float *x = trial_floats(1, count, 1), *sum = trial_unwritten(2);
    double *expected = trial_zeros(2), ours = NAN;
    long double exact = 0;
    const struct sum_squares op = {count, x, &ours};
    enum status status = TRIAL_RUN(backend, threads, sum_squares, &op);
    for (int64_t i = 0; i < count; i++) exact += (long double)x[i] * x[i];
    expected[0] = (double)exact;
    sum[0] = (float)
        ours; /* and the bits of a double that a float leaves over, for the comparison of threads */
    sum[1] = (float)(ours - sum[0]);
    expected[1] = expected[0] - sum[0];
    cr_expect(fabs(ours - expected[0]) <= (double)count * 0x1p-53 * expected[0],
              "%s: %.17g, not %.17g", backend->name, ours, expected[0]);
    outcome_add(outcome, "sum", 2, sum, expected);
    free(x);
    return status;
}

/* ---- update ---- */

/* Three steps in double from the same start; bare: no decay. */
static enum status adamw_trial(const struct backend *backend, int threads,
                               const struct shape *shape, struct outcome *outcome)
{
    const int64_t count = shape->rows * shape->in;
    float *gradient = trial_floats(1, count, 100), *weight = trial_floats(2, count, 1);
    float *moment1 = trial_floats(3, count, 0), *moment2 = trial_floats(3, count, 0);
    double *w = trial_doubles(weight, count), *m = trial_zeros(count), *v = trial_zeros(count);
    const double lr = 1e-2f, beta1 = 0.9f, beta2 = 0.98f, epsilon = 1e-9f, scale = 0.01f;
    const double decay = shape->bare ? 0 : 0.1f;
    enum status status = ST_OK;

    for (int step = 1; step <= 3 && status == ST_OK; step++) {
        const struct adamw op = {.count = count,
                                 .gradient = gradient,
                                 .weight = weight,
                                 .moment1 = moment1,
                                 .moment2 = moment2,
                                 .scale = (float)scale,
                                 .lr = (float)lr,
                                 .beta1 = (float)beta1,
                                 .beta2 = (float)beta2,
                                 .epsilon = (float)epsilon,
                                 .weight_decay = (float)decay,
                                 .correction1 = (float)(1 - pow(beta1, step)),
                                 .correction2 = (float)(1 - pow(beta2, step))};
        status = TRIAL_RUN(backend, threads, adamw, &op);
        for (int64_t i = 0; i < count; i++) {
            const double g = gradient[i] * scale;
            m[i] = beta1 * m[i] + (1 - beta1) * g;
            v[i] = beta2 * v[i] + (1 - beta2) * g * g;
            const double mean = m[i] / (1 - pow(beta1, step));
            const double root = sqrt(v[i] / (1 - pow(beta2, step)));
            w[i] = w[i] - lr * mean / (root + epsilon) - lr * decay * w[i];
            gradient[i] *= -0.7f;
        }
    }
    outcome_add(outcome, "weight", count, weight, w);
    outcome_add(outcome, "moment1", count, moment1, m);
    outcome_add(outcome, "moment2", count, moment2, v);
    free(gradient);
    return status;
}

/* ---- the table ---- */

/* Error allowed by design: a plain float implementation with sums of a few hundred terms. */
#define TOLERANCE_linear             1e-6
#define TOLERANCE_linear_backward    1e-6
#define TOLERANCE_linear_gelu        1e-6
#define TOLERANCE_gelu_backward      1e-6
#define TOLERANCE_linear_residual    1e-6
#define TOLERANCE_dropout            2e-7
#define TOLERANCE_layernorm          2e-6 /* a mean of 5 is taken away: some digits go */
#define TOLERANCE_layernorm_backward 2e-6
#define TOLERANCE_embed              2e-7
#define TOLERANCE_embed_backward     1e-6
#define TOLERANCE_rotary             2e-7
#define TOLERANCE_attention          2e-5 /* design section 6 */
#define TOLERANCE_attention_backward 2e-5
#define TOLERANCE_cross_entropy      1e-6
#define TOLERANCE_add                1e-7
#define TOLERANCE_sum_squares        1e-7 /* the double besides, within the bound for any order */
#define TOLERANCE_adamw              1e-6

static const struct shape SHAPES[] = {
    {.rows = 1, .in = 1, .out = 1, .length = 1},
    {.rows = 1, .in = 1, .out = 1, .length = 1, .bare = true},
    {.rows = 2, .in = 3, .out = 5, .length = 2, .rate = 0.5f, .aliased = true},
    {.rows = 7, .in = 64, .out = 29, .length = 7, .bare = true},
    {.rows = 33, .in = 17, .out = 64, .length = 11, .rate = 0.1f},
    {.rows = 64, .in = 65, .out = 63, .length = 32, .rate = 0.25f, .aliased = true},
    {.rows = 131, .in = 37, .out = 97, .length = 131, .rate = 0.1f, .bare = true, .aliased = true},
    {.rows = 514, .in = 128, .out = 67, .length = 257, .rate = 0.1f},
    {.rows = 521, .in = 31, .out = 8, .length = 521, .aliased = true},
};
enum { ALL_SHAPES = sizeof SHAPES / sizeof SHAPES[0], FIRST_OF_MANY_KEYS = 4, FIRST_LONG = 7 };

static void outcome_hold(const struct outcome *outcome, const struct outcome *single,
                         double tolerance, const char *name)
{
    for (int i = 0; i < outcome->parts; i++) {
        const struct part *part = &outcome->part[i];
        const double error = part_error(part);
        cr_expect(error <= tolerance, "%s: %s is off by %.3g, %.3g is allowed", name, part->name,
                  error, tolerance);
        cr_expect(part->count == 0 || memcmp(part->ours, single->part[i].ours,
                                             (size_t)part->count * sizeof *part->ours) == 0,
                  "%s: %s has other bits than with one thread", name, part->name);
    }
}

static void shape_hold(const struct backend *backend, const char *op, trial *run, double tolerance,
                       const struct shape *shape)
{
    struct outcome outcome[3] = {0};
    for (int threads = 1; threads <= trial_threads(backend); threads++) {
        char name[160];
        snprintf(name, sizeof name, "%s %s rows %d in %d out %d%s%s, %d threads",
                 backend->description, op, (int)shape->rows, (int)shape->in, (int)shape->out,
                 shape->bare ? " bare" : "", shape->aliased ? " aliased" : "", threads);
        enum status status = run(backend, threads, shape, &outcome[threads - 1]);
        cr_expect_eq(status, ST_OK, "%s: %s", name, status_text(status));
        outcome_hold(&outcome[threads - 1], &outcome[0], tolerance, name);
    }
    for (int i = 0; i < 3; i++) outcome_free(&outcome[i]);
}

static void backend_hold(const struct backend *backend, const char *op, trial *run,
                         enum precision precision, double tolerance, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        struct shape shape = SHAPES[i];
        shape.precision = precision;
        shape_hold(backend, op, run, tolerance, &shape);
    }
}

static void shapes_hold(const char *op, trial *run, enum precision precision, double tolerance,
                        size_t first, size_t end)
{
    for (const struct backend *const *each = trial_instruction_sets(); *each; each++)
        backend_hold(*each, op, run, precision, tolerance, first, end);
}

static void op_hold(const char *op, trial *run, enum precision precision, double tolerance)
{
    shapes_hold(op, run, precision, tolerance, 0, ALL_SHAPES);
}

/* bf16 rounds what a product reads and nothing else, so its tolerance is no other. */
Test(conformance, products_in_bf16)
{
    op_hold("linear", linear_trial, PRECISION_BF16, TOLERANCE_linear);
    op_hold("linear_backward", linear_backward_trial, PRECISION_BF16, TOLERANCE_linear_backward);
    op_hold("linear_gelu", linear_gelu_trial, PRECISION_BF16, TOLERANCE_linear_gelu);
    op_hold("linear_residual", linear_residual_trial, PRECISION_BF16, TOLERANCE_linear_residual);
}

/* Design section 6. Of few keys what comes back is a difference of equal terms, of which bf16 leaves no digits. */
Test(conformance, attention_in_bf16)
{
    shapes_hold("attention", attention_trial, PRECISION_BF16, 2e-2, FIRST_OF_MANY_KEYS, FIRST_LONG);
    shapes_hold("attention_backward", attention_backward_trial, PRECISION_BF16, 4e-2,
                FIRST_OF_MANY_KEYS, FIRST_LONG);
}

#define OP_TEST(op)                                               \
    Test(conformance, op)                                         \
    {                                                             \
        op_hold(#op, op##_trial, PRECISION_FP32, TOLERANCE_##op); \
    }
BACKEND_OPS(OP_TEST)
