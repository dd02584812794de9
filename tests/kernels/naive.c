#include "tests/kernels/naive.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *doubles_new(int64_t count)
{
    double *doubles = calloc((size_t)count, sizeof *doubles);
    if (!doubles) abort();
    return doubles;
}

static bool sees(const struct naive_attention *head, int64_t query, int64_t key)
{
    if (head->key_mask && !head->key_mask[key]) return false;
    return !head->causal || key <= query;
}

static bool is_positive(const struct naive_attention *head)
{
    return head->kernel == KERNEL_SOFTMAX_POSITIVE;
}

/* x̃ = x d^(-1/4) */
static double scale_of(const struct naive_attention *head)
{
    return pow((double)head->dim, -0.25);
}

/* a (L, m) of rows x (L, d). The caller's. */
static double *arguments_new(const struct naive_attention *head, const double *x)
{
    double *a = doubles_new(head->length * (head->features + 1));
    const double scale = scale_of(head);
    for (int64_t l = 0; l < head->length; l++) {
        double square = 0;
        for (int64_t j = 0; j < head->dim; j++) square += pow(x[l * head->dim + j] * scale, 2);
        for (int64_t i = 0; i < head->features; i++) {
            double dot = 0;
            for (int64_t j = 0; j < head->dim; j++)
                dot += head->projection[i * head->dim + j] * x[l * head->dim + j] * scale;
            a[l * head->features + i] = is_positive(head) ? dot - square / 2 : dot;
        }
    }
    return a;
}

static double maximum_of(const double *values, int64_t count)
{
    double maximum = -INFINITY;
    for (int64_t i = 0; i < count; i++) maximum = fmax(maximum, values[i]);
    return maximum;
}

void naive_shifts(const struct naive_attention *head, double *query, double *key)
{
    memset(query, 0, (size_t)head->length * sizeof *query);
    memset(key, 0, (size_t)head->length * sizeof *key);
    if (head->kind != ATTENTION_FAVOR || !is_positive(head)) return;
    double *a_q = arguments_new(head, head->q), *a_k = arguments_new(head, head->k);
    double *maxima = doubles_new(head->length);
    for (int64_t s = 0; s < head->length; s++)
        maxima[s] = maximum_of(a_k + s * head->features, head->features);
    for (int64_t t = 0; t < head->length; t++) {
        query[t] = maximum_of(a_q + t * head->features, head->features);
        key[t] = -INFINITY;
        for (int64_t s = 0; s < head->length; s++)
            if (sees(head, t, s)) key[t] = fmax(key[t], maxima[s]);
    }
    free(a_q);
    free(a_k);
    free(maxima);
}

/* φ (L, m) and its derivative by a. */
static void features(const struct naive_attention *head, const double *x, const double *shift,
                     double *phi, double *slope)
{
    double *a = arguments_new(head, x);
    for (int64_t at = 0; at < head->length * head->features; at++) {
        if (is_positive(head)) {
            slope[at] = exp(a[at] - shift[at / head->features]) / sqrt((double)head->features);
            phi[at] = slope[at] + head->epsilon / sqrt((double)head->features);
        } else {
            slope[at] = a[at] > 0 ? 1 : 0;
            phi[at] = (a[at] > 0 ? a[at] : 0) + head->epsilon;
        }
    }
    free(a);
}

/* What a head is, row by row: unnormalised weights (L, L) and their sums (L). */
struct matrix {
    double *phi_q, *slope_q, *phi_k, *slope_k; /* (L, m) */
    double *weight, *sum;                      /* (L, L) (L) */
    const double *key_shift;
};

/* exp(c_s - C) with C the shift of the query's row: what key s counts in the row of query t. */
static double carried(const struct matrix *matrix, int64_t t, int64_t s)
{
    return exp(matrix->key_shift[s] - matrix->key_shift[t]);
}

static double favor_weight(const struct naive_attention *head, const struct matrix *matrix,
                           int64_t t, int64_t s)
{
    double dot = 0;
    for (int64_t i = 0; i < head->features; i++)
        dot += matrix->phi_q[t * head->features + i] * matrix->phi_k[s * head->features + i];
    return dot * carried(matrix, t, s);
}

static double softmax_logit(const struct naive_attention *head, int64_t t, int64_t s)
{
    double dot = 0;
    for (int64_t j = 0; j < head->dim; j++)
        dot += head->q[t * head->dim + j] * head->k[s * head->dim + j];
    return dot / sqrt((double)head->dim);
}

static void row_weights(const struct naive_attention *head, struct matrix *matrix, int64_t t)
{
    double *weight = matrix->weight + t * head->length, maximum = -INFINITY;
    for (int64_t s = 0; s < head->length; s++) {
        if (!sees(head, t, s)) continue;
        weight[s] = head->kind == ATTENTION_FAVOR ? favor_weight(head, matrix, t, s)
                                                  : softmax_logit(head, t, s);
        maximum = fmax(maximum, weight[s]);
    }
    for (int64_t s = 0; s < head->length; s++) {
        if (!sees(head, t, s)) continue;
        if (head->kind == ATTENTION_SOFTMAX) weight[s] = exp(weight[s] - maximum);
        matrix->sum[t] += weight[s];
    }
}

static struct matrix matrix_new(const struct naive_attention *head, const double *query_shift,
                                const double *key_shift)
{
    const int64_t l = head->length, count = l * (head->features + 1);
    struct matrix matrix = {doubles_new(count), doubles_new(count), doubles_new(count),
                            doubles_new(count), doubles_new(l * l), doubles_new(l),
                            key_shift};
    if (head->kind == ATTENTION_FAVOR) {
        features(head, head->q, query_shift, matrix.phi_q, matrix.slope_q);
        features(head, head->k, key_shift, matrix.phi_k, matrix.slope_k);
    }
    for (int64_t t = 0; t < l; t++) row_weights(head, &matrix, t);
    return matrix;
}

static void matrix_free(struct matrix *matrix)
{
    free(matrix->phi_q);
    free(matrix->slope_q);
    free(matrix->phi_k);
    free(matrix->slope_k);
    free(matrix->weight);
    free(matrix->sum);
}

static void matrix_out(const struct naive_attention *head, const struct matrix *matrix, double *out)
{
    memset(out, 0, (size_t)(head->length * head->width) * sizeof *out);
    for (int64_t t = 0; t < head->length; t++)
        for (int64_t s = 0; s < head->length; s++)
            for (int64_t j = 0; j < head->width && matrix->weight[t * head->length + s] != 0; j++)
                out[t * head->width + j] += matrix->weight[t * head->length + s] / matrix->sum[t] *
                                            head->v[s * head->width + j];
}

void naive_attention_with(const struct naive_attention *head, const double *query_shift,
                          const double *key_shift, double *out)
{
    if (head->kind == ATTENTION_IDENTITY) {
        memcpy(out, head->v, (size_t)(head->length * head->width) * sizeof *out);
        return;
    }
    struct matrix matrix = matrix_new(head, query_shift, key_shift);
    matrix_out(head, &matrix, out);
    matrix_free(&matrix);
}

void naive_attention(const struct naive_attention *head, double *out)
{
    double *query = doubles_new(head->length), *key = doubles_new(head->length);
    naive_shifts(head, query, key);
    naive_attention_with(head, query, key, out);
    free(query);
    free(key);
}

/* dx += what dphi_i of one row brings: da = dφ slope, da/dx̃ = ω - x̃ (softmax-positive) or ω. */
static void feature_backward(const struct naive_attention *head, const double *x, int64_t feature,
                             double da, double *dx)
{
    const double scale = scale_of(head);
    for (int64_t j = 0; j < head->dim; j++) {
        const double own = is_positive(head) ? x[j] * scale : 0;
        dx[j] += da * (head->projection[feature * head->dim + j] - own) * scale;
    }
}

/* What the unnormalised weight of (t, s) brings back
 * to q_t and k_s, where its own derivative is dw. */
static void weight_backward(const struct naive_attention *head, const struct matrix *matrix,
                            int64_t t, int64_t s, double dw, double *da_q, double *da_k, double *dq,
                            double *dk)
{
    const int64_t d = head->dim, m = head->features;
    if (head->kind == ATTENTION_SOFTMAX) {
        const double ds = dw * matrix->weight[t * head->length + s] / sqrt((double)d);
        for (int64_t j = 0; j < d; j++) {
            dq[t * d + j] += ds * head->k[s * d + j];
            dk[s * d + j] += ds * head->q[t * d + j];
        }
        return;
    }
    const double factor = dw * carried(matrix, t, s);
    for (int64_t i = 0; i < m; i++) {
        da_q[t * m + i] += factor * matrix->phi_k[s * m + i] * matrix->slope_q[t * m + i];
        da_k[s * m + i] += factor * matrix->phi_q[t * m + i] * matrix->slope_k[s * m + i];
    }
}

static void matrix_backward(const struct naive_attention *head, const struct matrix *matrix,
                            const double *dout, double *dq, double *dk, double *dv)
{
    const int64_t l = head->length, d = head->dim, e = head->width, m = head->features;
    double *out = doubles_new(l * e), *da_q = doubles_new(l * (m + 1)),
           *da_k = doubles_new(l * (m + 1));

    matrix_out(head, matrix, out);
    for (int64_t t = 0; t < l; t++) {
        for (int64_t s = 0; s < l; s++) {
            if (!sees(head, t, s)) continue;
            double dw = 0;
            for (int64_t j = 0; j < e; j++) {
                dw += dout[t * e + j] * (head->v[s * e + j] - out[t * e + j]) / matrix->sum[t];
                dv[s * e + j] += matrix->weight[t * l + s] / matrix->sum[t] * dout[t * e + j];
            }
            weight_backward(head, matrix, t, s, dw, da_q, da_k, dq, dk);
        }
    }
    for (int64_t t = 0; t < l && head->kind == ATTENTION_FAVOR; t++) {
        for (int64_t i = 0; i < m; i++) {
            feature_backward(head, head->q + t * d, i, da_q[t * m + i], dq + t * d);
            feature_backward(head, head->k + t * d, i, da_k[t * m + i], dk + t * d);
        }
    }
    free(out);
    free(da_q);
    free(da_k);
}

void naive_attention_backward(const struct naive_attention *head, const double *dout, double *dq,
                              double *dk, double *dv)
{
    const int64_t l = head->length;
    memset(dq, 0, (size_t)(l * head->dim) * sizeof *dq);
    memset(dk, 0, (size_t)(l * head->dim) * sizeof *dk);
    memset(dv, 0, (size_t)(l * head->width) * sizeof *dv);
    if (head->kind == ATTENTION_IDENTITY) {
        memcpy(dv, dout, (size_t)(l * head->width) * sizeof *dv);
        return;
    }
    double *query = doubles_new(l), *key = doubles_new(l);
    naive_shifts(head, query, key);
    struct matrix matrix = matrix_new(head, query, key);
    matrix_backward(head, &matrix, dout, dq, dk, dv);
    matrix_free(&matrix);
    free(query);
    free(key);
}

void naive_linear(int64_t rows, int64_t in, int64_t out, const double *x, const double *weight,
                  const double *bias, double *y)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t o = 0; o < out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < in; i++) sum += x[r * in + i] * weight[o * in + i];
            y[r * out + o] = sum + (bias ? bias[o] : 0);
        }
    }
}

double naive_gelu(double u)
{
    return u * 0.5 * erfc(-u / sqrt(2.0));
}

void naive_layernorm(int64_t rows, int64_t width, const double *x, const double *weight,
                     const double *bias, double *y)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < width; i++) sum += x[r * width + i] / (double)width;
        for (int64_t i = 0; i < width; i++)
            squares += pow(x[r * width + i] - sum, 2) / (double)width;
        for (int64_t i = 0; i < width; i++)
            y[r * width + i] =
                (x[r * width + i] - sum) / sqrt(squares + 1e-5) * weight[i] + bias[i];
    }
}

double naive_cross_entropy(int64_t vocab, const double *logits, int64_t target)
{
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++) sum += exp(logits[i] - logits[target]);
    return log(sum);
}
