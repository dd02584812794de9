/*
 * FAVOR+ (Choromanski et al. 2021, Algorithm 1) with prefix sums, for one head. With C = [v 1] the
 * state S and z of the paper's G are kept apart. What is added to the paper is the stabiliser:
 *
 *   query:  φ = f(a - c), c its own maximum
 *   key:    φ_s = f(a_s - c_s) exp(c_s - C), c_s the maximum of a over the head's keys (<= s when
 * causal)
 *
 * C cancels between numerator and denominator. Here it is always the c of the row at hand, so
 * that the state is carried on from row s to s' by exp(c_s - c_s') <= 1 and nothing overflows;
 * and no state is ever recovered by subtraction. Kernels without a stabiliser have c = 0.
 */

#include "kernels/reference/attention.h"

#include <math.h>
#include <string.h>

/* Features of all rows on one side, and what their derivative needs. */
struct features {
    double *value; /* (L, m): f(a - c) */
    double *slope; /* (L, m): its derivative by a */
    double *shift; /* (L): c */
};

struct favor {
    const struct head *head;
    int64_t length, dim, width, count; /* L, d, e, m */
    double scale;                      /* x̃ = x d^(-1/4) */
    struct features query, key;
    double *sums;    /* (m, e): S, or U in the reverse scan */
    double *weights; /* (m): z, or w */
    double *dy;      /* (L, e): ȳ = dout / denominator */
    double *drho;    /* (L): ρ̄ = -(dout . out) / denominator */
    double *row;     /* (max(m, e)) */
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t reference_favor_doubles(const struct attention *call)
{
    const int64_t l = call->length, m = call->features, e = call->value_dim;
    return 2 * (2 * l * m + l) + m * e + m + l * e + l + larger(m, e);
}

static double *take(double **scratch, int64_t count)
{
    double *taken = *scratch;
    *scratch += count;
    return taken;
}

static struct features features_take(double **scratch, int64_t length, int64_t count)
{
    return (struct features){.value = take(scratch, length * count),
                             .slope = take(scratch, length * count),
                             .shift = take(scratch, length)};
}

static bool is_softmax_positive(const struct favor *favor)
{
    return favor->head->call->kernel == KERNEL_SOFTMAX_POSITIVE;
}

/* a_i = ω_i . x̃ - ‖x̃‖² / 2 (softmax-positive), a_i = ω_i . x̃ (relu), into `value`. */
static void features_project(const struct favor *favor, struct rows x, struct features *features)
{
    const float *projection = favor->head->call->projection;

    for (int64_t l = 0; l < favor->length; l++) {
        const float *row = row_at(x, l);
        double half_square = 0;
        for (int64_t j = 0; j < favor->dim; j++) {
            const double scaled = row[j] * favor->scale;
            half_square += scaled * scaled / 2;
        }
        for (int64_t i = 0; i < favor->count; i++) {
            double dot = 0;
            for (int64_t j = 0; j < favor->dim; j++)
                dot += (double)projection[i * favor->dim + j] * (row[j] * favor->scale);
            features->value[l * favor->count + i] =
                is_softmax_positive(favor) ? dot - half_square : dot;
        }
    }
}

static double row_maximum(const struct favor *favor, const struct features *features, int64_t row)
{
    double maximum = -INFINITY;
    for (int64_t i = 0; i < favor->count; i++)
        maximum = fmax(maximum, features->value[row * favor->count + i]);
    return maximum;
}

static void query_shift(const struct favor *favor, struct features *query)
{
    for (int64_t l = 0; l < favor->length; l++) query->shift[l] = row_maximum(favor, query, l);
}

/* Running maximum over keys; its last value for all rows where every query sees every key. */
static void key_shift(const struct favor *favor, struct features *key)
{
    double maximum = -INFINITY;
    for (int64_t l = 0; l < favor->length; l++) {
        if (is_key(favor->head, l)) maximum = fmax(maximum, row_maximum(favor, key, l));
        key->shift[l] = maximum;
    }
    if (favor->head->call->causal) return;
    for (int64_t l = 0; l < favor->length; l++) key->shift[l] = maximum;
}

/* From a and c to f and f', in place. Rows that are no keys
 * and come before any key have no c: they are never used. */
static void features_map(const struct favor *favor, struct features *features)
{
    const double epsilon = favor->head->call->epsilon;
    const double norm = 1 / sqrt((double)favor->count);

    for (int64_t l = 0; l < favor->length; l++) {
        for (int64_t i = 0; i < favor->count; i++) {
            double *value = &features->value[l * favor->count + i];
            double *slope = &features->slope[l * favor->count + i];
            if (is_softmax_positive(favor)) {
                *slope = exp(*value - features->shift[l]) * norm;
                *value = *slope + epsilon * norm;
            } else {
                *slope = *value > 0;
                *value = fmax(*value, 0) + epsilon;
            }
        }
    }
}

static struct favor favor_prepare(const struct head *head, double *scratch)
{
    const struct attention *call = head->call;
    struct favor favor = {
        .head = head,
        .length = call->length,
        .dim = call->head_dim,
        .width = call->value_dim,
        .count = call->features,
        .scale = pow((double)call->head_dim, -0.25),
        .query = features_take(&scratch, call->length, call->features),
        .key = features_take(&scratch, call->length, call->features),
        .sums = take(&scratch, call->features * call->value_dim),
        .weights = take(&scratch, call->features),
        .dy = take(&scratch, call->length * call->value_dim),
        .drho = take(&scratch, call->length),
        .row = take(&scratch, larger(call->features, call->value_dim)),
    };
    features_project(&favor, head->q, &favor.query);
    features_project(&favor, head->k, &favor.key);
    memset(favor.query.shift, 0, (size_t)favor.length * sizeof(double));
    memset(favor.key.shift, 0, (size_t)favor.length * sizeof(double));
    if (is_softmax_positive(&favor)) {
        query_shift(&favor, &favor.query);
        key_shift(&favor, &favor.key);
    }
    features_map(&favor, &favor.query);
    features_map(&favor, &favor.key);
    return favor;
}

static void state_clear(const struct favor *favor)
{
    memset(favor->sums, 0, (size_t)(favor->count * favor->width) * sizeof(double));
    memset(favor->weights, 0, (size_t)favor->count * sizeof(double));
}

/* exp(from - to), where both may be the maximum of no keys. */
static double decay(double from, double to)
{
    return from == to ? 1 : exp(from - to);
}

static void state_scale(const struct favor *favor, double factor)
{
    if (factor == 1) return;
    for (int64_t i = 0; i < favor->count * favor->width; i++) favor->sums[i] *= factor;
    for (int64_t i = 0; i < favor->count; i++) favor->weights[i] *= factor;
}

/* S += φ_s v_sᵀ, z += φ_s, after both have been carried on from the row before. */
static void state_add_key(const struct favor *favor, int64_t s)
{
    if (s > 0) state_scale(favor, decay(favor->key.shift[s - 1], favor->key.shift[s]));
    if (!is_key(favor->head, s)) return;
    const float *v = row_at(favor->head->v, s);
    const double *phi = favor->key.value + s * favor->count;
    for (int64_t i = 0; i < favor->count; i++) {
        for (int64_t j = 0; j < favor->width; j++)
            favor->sums[i * favor->width + j] += phi[i] * v[j];
        favor->weights[i] += phi[i];
    }
}

/* φ(q)ᵀ S into `row`; returns φ(q)ᵀ z, 0 where there was no key. */
static double state_query(const struct favor *favor, int64_t t)
{
    const double *phi = favor->query.value + t * favor->count;
    double denominator = 0;
    for (int64_t j = 0; j < favor->width; j++) favor->row[j] = 0;
    for (int64_t i = 0; i < favor->count; i++) {
        for (int64_t j = 0; j < favor->width; j++)
            favor->row[j] += phi[i] * favor->sums[i * favor->width + j];
        denominator += phi[i] * favor->weights[i];
    }
    return denominator;
}

typedef void favor_row(const struct favor *favor, int64_t row);

/* Calls `visit` for each query with the state of the keys it sees. */
static void scan_keys(const struct favor *favor, favor_row *visit)
{
    const bool causal = favor->head->call->causal;
    state_clear(favor);
    for (int64_t s = 0; s < favor->length; s++) {
        state_add_key(favor, s);
        if (causal) visit(favor, s);
    }
    if (causal) return;
    for (int64_t t = 0; t < favor->length; t++) visit(favor, t);
}

static void visit_out(const struct favor *favor, int64_t t)
{
    float *out = row_at(favor->head->out, t);
    const double denominator = state_query(favor, t);
    for (int64_t j = 0; j < favor->width; j++)
        out[j] = denominator == 0 ? 0 : (float)(favor->row[j] / denominator);
}

void reference_favor(const struct head *head, double *scratch)
{
    const struct favor favor = favor_prepare(head, scratch);
    scan_keys(&favor, visit_out);
}

/* dx from dφ in `row`: da = dφ f', dx̃ = Σ da_i ω_i, less
 * (Σ da_i) x̃ for the -‖x̃‖² / 2 of softmax-positive. */
static void features_backward(const struct favor *favor, const struct features *features,
                              struct rows x, struct rows dx, int64_t l)
{
    const float *projection = favor->head->call->projection, *row = row_at(x, l);
    const double *slope = features->slope + l * favor->count;
    double total = 0;

    for (int64_t i = 0; i < favor->count; i++) {
        favor->row[i] *= slope[i];
        total += favor->row[i];
    }
    for (int64_t j = 0; j < favor->dim; j++) {
        double sum = is_softmax_positive(favor) ? -total * (row[j] * favor->scale) : 0;
        for (int64_t i = 0; i < favor->count; i++)
            sum += favor->row[i] * projection[i * favor->dim + j];
        row_at(dx, l)[j] = (float)(sum * favor->scale);
    }
}

/* ȳ and ρ̄ of a query, kept for the reverse scan, then dφ_i = S_i ȳ + ρ̄ z_i and dq. */
static void visit_query_backward(const struct favor *favor, int64_t t)
{
    const float *dout = row_at(favor->head->dout, t);
    double *dy = favor->dy + t * favor->width, *drho = favor->drho + t;
    const double denominator = state_query(favor, t);

    *drho = 0;
    for (int64_t j = 0; j < favor->width; j++) {
        dy[j] = denominator == 0 ? 0 : dout[j] / denominator;
        *drho -= denominator == 0 ? 0 : dy[j] * (favor->row[j] / denominator);
    }
    for (int64_t i = 0; i < favor->count; i++) {
        favor->row[i] = *drho * favor->weights[i];
        for (int64_t j = 0; j < favor->width; j++)
            favor->row[i] += favor->sums[i * favor->width + j] * dy[j];
    }
    features_backward(favor, &favor->query, favor->head->q, favor->head->dq, t);
}

/* U += φ(q_t) ȳ_tᵀ, w += ρ̄_t φ(q_t), after both have been carried back from the row behind. */
static void state_add_query(const struct favor *favor, int64_t t)
{
    if (t + 1 < favor->length)
        state_scale(favor, decay(favor->key.shift[t], favor->key.shift[t + 1]));
    const double *phi = favor->query.value + t * favor->count;
    for (int64_t i = 0; i < favor->count; i++) {
        for (int64_t j = 0; j < favor->width; j++)
            favor->sums[i * favor->width + j] += phi[i] * favor->dy[t * favor->width + j];
        favor->weights[i] += phi[i] * favor->drho[t];
    }
}

/* dv = Uᵀ φ_s; dφ_i = U_i v + w_i, and dk. */
static void visit_key_backward(const struct favor *favor, int64_t s)
{
    const float *v = row_at(favor->head->v, s);
    float *dv = row_at(favor->head->dv, s);
    const double *phi = favor->key.value + s * favor->count;

    if (!is_key(favor->head, s)) {
        memset(dv, 0, (size_t)favor->width * sizeof *dv);
        memset(row_at(favor->head->dk, s), 0, (size_t)favor->dim * sizeof(float));
        return;
    }
    for (int64_t j = 0; j < favor->width; j++) {
        double sum = 0;
        for (int64_t i = 0; i < favor->count; i++)
            sum += favor->sums[i * favor->width + j] * phi[i];
        dv[j] = (float)sum;
    }
    for (int64_t i = 0; i < favor->count; i++) {
        favor->row[i] = favor->weights[i];
        for (int64_t j = 0; j < favor->width; j++)
            favor->row[i] += favor->sums[i * favor->width + j] * v[j];
    }
    features_backward(favor, &favor->key, favor->head->k, favor->head->dk, s);
}

void reference_favor_backward(const struct head *head, double *scratch)
{
    const struct favor favor = favor_prepare(head, scratch);
    scan_keys(&favor, visit_query_backward);

    state_clear(&favor);
    for (int64_t t = favor.length - 1; t >= 0; t--) {
        state_add_query(&favor, t);
        if (head->call->causal) visit_key_backward(&favor, t);
    }
    if (head->call->causal) return;
    for (int64_t s = 0; s < favor.length; s++) visit_key_backward(&favor, s);
}
