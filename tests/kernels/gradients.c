/*
 * Each backward pass, of every instruction set, against finite differences, in double, of the
 * naive forward pass: the loss is Σ dy . y with a given dy. The shift
 * of FAVOR+'s stabiliser is held fixed, as it is not differentiated.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/positions.h"
#include "tests/kernels/naive.h"
#include "tests/kernels/trial.h"

/* Differences are right to about 1e-9; what is left is the backends' float. */
static const double STEP = 1e-5, TOLERANCE = 2e-5;

typedef double loss_function(const void *context);

/* d loss / d x by central differences; x is what the loss reads. */
static double *differences_new(loss_function *loss, const void *context, double *x, int64_t count)
{
    double *gradient = trial_zeros(count);
    for (int64_t i = 0; i < count; i++) {
        const double kept = x[i];
        x[i] = kept + STEP;
        const double above = loss(context);
        x[i] = kept - STEP;
        gradient[i] = (above - loss(context)) / (2 * STEP);
        x[i] = kept;
    }
    return gradient;
}

static double dot(const double *a, const double *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

static void outcome_hold(const struct outcome *outcome, const char *name)
{
    for (int i = 0; i < outcome->parts; i++) {
        const double error = part_error(&outcome->part[i]);
        cr_expect(error <= TOLERANCE, "%s: %s is off by %.3g", name, outcome->part[i].name, error);
    }
}

/* ---- attention ---- */

struct attention_case {
    struct naive_attention head;
    double *query_shift, *key_shift, *dout, *out;
};

static double attention_loss(const void *context)
{
    const struct attention_case *c = context;
    if (c->head.kind == ATTENTION_FAVOR)
        naive_attention_with(&c->head, c->query_shift, c->key_shift, c->out);
    else
        naive_attention(&c->head, c->out);
    return dot(c->dout, c->out, c->head.length * c->head.width);
}

static struct heads_view one_head(float *data, int64_t width)
{
    return (struct heads_view){data, 0, 0, width};
}

enum { L = 7, D = 3, E = 2, M = 5 };

static void attention_gradients(const struct backend *backend, const struct attention *base,
                                double scale)
{
    float *q = trial_floats(1, L * D, scale), *k = trial_floats(2, L * D, scale);
    float *v = trial_floats(3, L * E, 1), *dout = trial_floats(4, L * E, 1);
    float *projection = trial_floats(5, M * D, 1), *out = trial_unwritten(L * E);
    float *dq = trial_unwritten(L * D), *dk = trial_unwritten(L * D), *dv = trial_unwritten(L * E);
    struct attention op = *base;
    op.projection = projection;
    op.q = one_head(q, D);
    op.k = one_head(k, D);
    op.v = one_head(v, E);
    op.out = one_head(out, E);
    float *saved = trial_unwritten((int64_t)backend->attention_saved_floats(&op));
    op.saved = saved;
    cr_assert_eq(TRIAL_RUN(backend, 2, attention, &op), ST_OK);
    const struct attention_backward back = {op, one_head(dout, E), one_head(dq, D), one_head(dk, D),
                                            one_head(dv, E)};
    cr_assert_eq(TRIAL_RUN(backend, 2, attention_backward, &back), ST_OK);

    double *x[3] = {trial_doubles(q, L * D), trial_doubles(k, L * D), trial_doubles(v, L * E)};
    double *projection_d = trial_doubles(projection, M * D);
    struct attention_case c = {
        .head = {op.kind, op.kernel, op.causal, op.epsilon, L, D, E, M, projection_d, x[0], x[1],
                 x[2], op.key_mask},
        .query_shift = trial_zeros(L),
        .key_shift = trial_zeros(L),
        .dout = trial_doubles(dout, L * E),
        .out = trial_zeros(L * E),
    };
    naive_shifts(&c.head, c.query_shift, c.key_shift);
    struct outcome outcome = {0};
    outcome_add(&outcome, "dv", L * E, dv, differences_new(attention_loss, &c, x[2], L * E));
    outcome_add(&outcome, "dq", L * D, dq, differences_new(attention_loss, &c, x[0], L * D));
    outcome_add(&outcome, "dk", L * D, dk, differences_new(attention_loss, &c, x[1], L * D));
    for (int i = 1; i < 3; i++)
        outcome.part[i].least_norm = 0.05 * trial_norm(outcome.part[0].expected, L * E);
    char name[120];
    snprintf(name, sizeof name, "%s %s %s %s mask %d x %g", backend->description,
             attention_kind_text(op.kind), attention_kernel_text(op.kernel),
             op.causal ? "causal" : "bidirectional", op.key_mask != NULL, scale);
    outcome_hold(&outcome, name);
    outcome_free(&outcome);
    free(q), free(k), free(v), free(dout), free(projection), free(out), free(saved);
    free(x[0]), free(x[1]), free(x[2]), free(projection_d);
    free(c.query_shift), free(c.key_shift), free(c.dout), free(c.out);
}

/* Both directions, without a mask and with two, at two norms. */
static void attention_each(const struct backend *backend, struct attention base, double scale)
{
    static const uint8_t masks[2][L] = {{0, 0, 1, 0, 1, 1, 0}, {1, 1, 1, 1, 0, 0, 0}};
    static const double scales[] = {0.5, 1.5};
    for (int i = 0; i < 2 * 3 * 2; i++) {
        base.causal = i % 2;
        base.key_mask = i / 2 % 3 == 0 ? NULL : masks[i / 2 % 3 - 1];
        attention_gradients(backend, &base, scale * scales[i / 6]);
    }
}

Test(gradients, attention)
{
    struct attention base = {
        .batch = 1, .heads = 1, .length = L, .head_dim = D, .value_dim = E, .features = M};
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        base.kind = ATTENTION_SOFTMAX;
        attention_each(backend, base, 1);
        base.kind = ATTENTION_IDENTITY;
        attention_each(backend, base, 1);
        base.kind = ATTENTION_FAVOR;
        for (int i = 0; i < TRIAL_KERNELS; i++) {
            const struct trial_kernel trial = trial_kernel(trial_kernels[i]);
            base.kernel = trial.kernel;
            base.epsilon = fmaxf(trial.epsilon, 1e-2f); /* large: its part in the gradient shows */
            attention_each(backend, base, trial.scale);
        }
    }
}

/* ---- linear ---- */

enum { ROWS = 5, IN = 4, OUT = 6 };

struct dense_case {
    double *x, *weight, *bias, *dy, *y;
};

static double linear_loss(const void *context)
{
    const struct dense_case *c = context;
    naive_linear(ROWS, IN, OUT, c->x, c->weight, c->bias, c->y);
    return dot(c->dy, c->y, ROWS * OUT);
}

static void dense_free(struct dense_case *c)
{
    free(c->x), free(c->weight), free(c->bias), free(c->dy), free(c->y);
}

Test(gradients, linear)
{
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        float *x = trial_floats(1, ROWS * IN, 1), *weight = trial_floats(2, OUT * IN, 1);
        float *dy = trial_floats(3, ROWS * OUT, 1), *dx = trial_unwritten(ROWS * IN);
        float *dweight = trial_unwritten(OUT * IN), *dbias = trial_unwritten(OUT);
        const struct linear_backward op = {.rows = ROWS,
                                           .in = IN,
                                           .out = OUT,
                                           .x = x,
                                           .weight = weight,
                                           .dy = dy,
                                           .dx = dx,
                                           .dweight = dweight,
                                           .dbias = dbias};
        cr_assert_eq(TRIAL_RUN(backend, 2, linear_backward, &op), ST_OK);
        struct dense_case c = {trial_doubles(x, ROWS * IN), trial_doubles(weight, OUT * IN),
                               trial_zeros(OUT), trial_doubles(dy, ROWS * OUT),
                               trial_zeros(ROWS * OUT)};
        struct outcome outcome = {0};
        outcome_add(&outcome, "dx", ROWS * IN, dx,
                    differences_new(linear_loss, &c, c.x, ROWS * IN));
        outcome_add(&outcome, "dweight", OUT * IN, dweight,
                    differences_new(linear_loss, &c, c.weight, OUT * IN));
        outcome_add(&outcome, "dbias", OUT, dbias, differences_new(linear_loss, &c, c.bias, OUT));
        outcome_hold(&outcome, backend->description);
        outcome_free(&outcome);
        dense_free(&c);
        free(x), free(weight), free(dy);
    }
}

/* ---- gelu ---- */

enum { COUNT = 41 };

static double gelu_loss(const void *context)
{
    const struct dense_case *c = context;
    double sum = 0;
    for (int i = 0; i < COUNT; i++) sum += c->dy[i] * naive_gelu(c->x[i]);
    return sum;
}

Test(gradients, gelu)
{
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        float *u = trial_floats(1, COUNT, 2), *dy = trial_floats(2, COUNT, 1),
              *du = trial_unwritten(COUNT);
        const struct gelu_backward op = {COUNT, u, dy, du};
        cr_assert_eq(TRIAL_RUN(backend, 2, gelu_backward, &op), ST_OK);
        struct dense_case c = {.x = trial_doubles(u, COUNT), .dy = trial_doubles(dy, COUNT)};
        struct outcome outcome = {0};
        outcome_add(&outcome, "du", COUNT, du, differences_new(gelu_loss, &c, c.x, COUNT));
        outcome_hold(&outcome, backend->description);
        outcome_free(&outcome);
        dense_free(&c);
        free(u), free(dy);
    }
}

/* ---- layernorm ---- */

static double layernorm_loss(const void *context)
{
    const struct dense_case *c = context;
    naive_layernorm(ROWS, OUT, c->x, c->weight, c->bias, c->y);
    return dot(c->dy, c->y, ROWS * OUT);
}

/* Mean and rstd come from the backend's own forward pass. */
Test(gradients, layernorm)
{
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        float *x = trial_floats(1, ROWS * OUT, 2), *weight = trial_floats(2, OUT, 1);
        float *bias = trial_floats(3, OUT, 1), *dy = trial_floats(4, ROWS * OUT, 1);
        float *y = trial_unwritten(ROWS * OUT), *mean = trial_unwritten(ROWS);
        float *rstd = trial_unwritten(ROWS), *dx = trial_unwritten(ROWS * OUT);
        float *dweight = trial_unwritten(OUT), *dbias = trial_unwritten(OUT);
        const struct layernorm op = {ROWS, OUT, x, weight, bias, y, mean, rstd};
        cr_assert_eq(TRIAL_RUN(backend, 2, layernorm, &op), ST_OK);
        const struct layernorm_backward back = {ROWS, OUT,  x,  weight,  mean, rstd,
                                                dy,   NULL, dx, dweight, dbias};
        cr_assert_eq(TRIAL_RUN(backend, 2, layernorm_backward, &back), ST_OK);
        struct dense_case c = {trial_doubles(x, ROWS * OUT), trial_doubles(weight, OUT),
                               trial_doubles(bias, OUT), trial_doubles(dy, ROWS * OUT),
                               trial_zeros(ROWS * OUT)};
        struct outcome outcome = {0};
        outcome_add(&outcome, "dx", ROWS * OUT, dx,
                    differences_new(layernorm_loss, &c, c.x, ROWS * OUT));
        outcome_add(&outcome, "dweight", OUT, dweight,
                    differences_new(layernorm_loss, &c, c.weight, OUT));
        outcome_add(&outcome, "dbias", OUT, dbias,
                    differences_new(layernorm_loss, &c, c.bias, OUT));
        outcome_hold(&outcome, backend->description);
        outcome_free(&outcome);
        dense_free(&c);
        free(x), free(weight), free(bias), free(dy), free(y), free(mean), free(rstd);
    }
}

/* ---- cross-entropy ---- */

static const int32_t TARGETS[ROWS] = {3, -1, 0, 5, 3};

static double cross_entropy_loss(const void *context)
{
    const struct dense_case *c = context;
    double sum = 0;
    for (int r = 0; r < ROWS; r++)
        if (TARGETS[r] >= 0) sum += naive_cross_entropy(OUT, c->x + r * OUT, TARGETS[r]);
    return sum;
}

Test(gradients, cross_entropy)
{
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        float *logits = trial_floats(1, ROWS * OUT, 2);
        struct dense_case c = {.x = trial_doubles(logits, ROWS * OUT)};
        double loss;
        int64_t counted, correct;
        const struct cross_entropy op = {ROWS, OUT,   logits,   TARGETS,
                                         true, &loss, &counted, &correct};
        cr_assert_eq(TRIAL_RUN(backend, 2, cross_entropy, &op), ST_OK);
        struct outcome outcome = {0};
        outcome_add(&outcome, "logits", ROWS * OUT, logits,
                    differences_new(cross_entropy_loss, &c, c.x, ROWS * OUT));
        outcome_hold(&outcome, backend->description);
        outcome_free(&outcome);
        dense_free(&c);
    }
}

/* ---- embedding ---- */

static const int32_t IDS[ROWS] = {2, 0, 2, 3, 2};
enum { SEQUENCE = 3 };

/* x: tokens (IN, OUT), weight: positions (SEQUENCE, OUT); without dropout. */
static double embed_loss(const void *context)
{
    const struct dense_case *c = context;
    double sum = 0;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < OUT; i++)
            sum +=
                c->dy[r * OUT + i] * (c->x[IDS[r] * OUT + i] + c->weight[r % SEQUENCE * OUT + i]);
    return sum;
}

Test(gradients, embed)
{
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        float *dy = trial_floats(1, ROWS * OUT, 1), *dtokens = trial_unwritten(IN * OUT);
        float *dpositions = trial_unwritten(SEQUENCE * OUT);
        const struct embed_backward op = {ROWS, OUT,     IN,         IDS,     {.length = SEQUENCE},
                                          dy,   dtokens, dpositions, SEQUENCE};
        cr_assert_eq(TRIAL_RUN(backend, 2, embed_backward, &op), ST_OK);
        struct dense_case c = {.x = trial_zeros(IN * OUT),
                               .weight = trial_zeros(SEQUENCE * OUT),
                               .dy = trial_doubles(dy, ROWS * OUT)};
        struct outcome outcome = {0};
        outcome_add(&outcome, "dtokens", IN * OUT, dtokens,
                    differences_new(embed_loss, &c, c.x, IN * OUT));
        outcome_add(&outcome, "dpositions", SEQUENCE * OUT, dpositions,
                    differences_new(embed_loss, &c, c.weight, SEQUENCE * OUT));
        outcome_hold(&outcome, backend->description);
        outcome_free(&outcome);
        dense_free(&c);
        free(dy);
    }
}

/* ---- rotary positions ---- */

/* x (ROWS, 7): rows are positions; dy goes back in place. */
static double rotary_loss(const void *context)
{
    const struct dense_case *c = context;
    memcpy(c->y, c->x, ROWS * 7 * sizeof *c->y);
    for (int l = 0; l < ROWS; l++) naive_rotary(7, l, c->y + l * 7);
    return dot(c->dy, c->y, ROWS * 7);
}

Test(gradients, rotary)
{
    for (int each = 0; trial_instruction_sets()[each]; each++) {
        const struct backend *backend = trial_instruction_sets()[each];
        float *dy = trial_floats(1, ROWS * 7, 1), table[ROWS * 7];
        struct dense_case c = {.x = trial_zeros(ROWS * 7),
                               .dy = trial_doubles(dy, ROWS * 7),
                               .y = trial_zeros(ROWS * 7)};
        positions_rotary(ROWS, 7, table);
        const struct rotary op = {1, 1, ROWS, 7, true, table, one_head(dy, 7)};
        cr_assert_eq(TRIAL_RUN(backend, 2, rotary, &op), ST_OK);
        struct outcome outcome = {0};
        outcome_add(&outcome, "dx", ROWS * 7, dy, differences_new(rotary_loss, &c, c.x, ROWS * 7));
        outcome_hold(&outcome, backend->description);
        outcome_free(&outcome);
        dense_free(&c);
    }
}
