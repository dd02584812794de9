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

/* Those whose ε is relative to a shift. The shift of trig and exp
 * cancels: here they have none, and overflow where norms are large. */
static bool is_shifted(const struct naive_attention *head)
{
    return head->kernel == KERNEL_SOFTMAX_POSITIVE || head->kernel == KERNEL_SOFTMAX_HYPERBOLIC;
}

/* x̃ = x d^(-1/4); elu1 takes x itself */
static double scale_of(const struct naive_attention *head)
{
    return head->kernel == KERNEL_ELU1 ? 1 : pow((double)head->dim, -0.25);
}

/* Columns of φ: for each projection one or two, of opposite sign or sine and cosine. */
static int64_t columns_of(const struct naive_attention *head)
{
    if (head->kernel == KERNEL_ELU1) return head->dim;
    const bool two =
        head->kernel == KERNEL_SOFTMAX_HYPERBOLIC || head->kernel == KERNEL_SOFTMAX_TRIG;
    return two ? 2 * head->features : head->features;
}

/* Entry j of the vector that column i is projected on; a unit vector for elu1. */
static double direction(const struct naive_attention *head, int64_t i, int64_t j)
{
    if (head->kernel == KERNEL_ELU1) return i == j;
    const double entry = head->projection[i % head->features * head->dim + j];
    return head->kernel == KERNEL_SOFTMAX_HYPERBOLIC && i >= head->features ? -entry : entry;
}

/* d (‖x̃‖² / 2) counts in the exponent as often as this. */
static double norm_sign(const struct naive_attention *head)
{
    return is_shifted(head) ? -1 : head->kernel == KERNEL_SOFTMAX_TRIG ? 1 : 0;
}

static double half_square(const struct naive_attention *head, const double *x)
{
    double sum = 0;
    for (int64_t j = 0; j < head->dim; j++) sum += pow(x[j] * scale_of(head), 2) / 2;
    return sum;
}

/* a (L, n) of rows x (L, d): projections, less ‖x̃‖² / 2 where there is a shift. The caller's. */
static double *arguments_new(const struct naive_attention *head, const double *x)
{
    const int64_t n = columns_of(head);
    double *a = doubles_new(head->length * (n + 1));
    for (int64_t l = 0; l < head->length; l++) {
        const double *row = x + l * head->dim;
        const double less = is_shifted(head) ? half_square(head, row) : 0;
        for (int64_t i = 0; i < n; i++) {
            double dot = 0;
            for (int64_t j = 0; j < head->dim; j++) dot += direction(head, i, j) * row[j];
            a[l * n + i] = dot * scale_of(head) - less;
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
    if (head->kind != ATTENTION_FAVOR || !is_shifted(head)) return;
    const int64_t n = columns_of(head);
    double *a_q = arguments_new(head, head->q), *a_k = arguments_new(head, head->k);
    double *maxima = doubles_new(head->length);
    for (int64_t s = 0; s < head->length; s++) maxima[s] = maximum_of(a_k + s * n, n);
    for (int64_t t = 0; t < head->length; t++) {
        query[t] = maximum_of(a_q + t * n, n);
        key[t] = -INFINITY;
        for (int64_t s = 0; s < head->length; s++)
            if (sees(head, t, s)) key[t] = fmax(key[t], maxima[s]);
    }
    free(a_q);
    free(a_k);
    free(maxima);
}

/* f(a) of column i, and its derivative. */
static double column_value(const struct naive_attention *head, int64_t i, double a, double *slope)
{
    switch (head->kernel) {
    case KERNEL_RELU:
        *slope = a > 0;
        return a > 0 ? a : 0;
    case KERNEL_SIGMOID:
        *slope = pow(2 * cosh(a / 2), -2);
        return (1 + tanh(a / 2)) / 2;
    case KERNEL_ABS:
        *slope = (a > 0) - (a < 0);
        return fabs(a);
    case KERNEL_GELU:
        *slope = erfc(-a / sqrt(2)) / 2 + a * exp(-a * a / 2) / sqrt(2 * acos(-1));
        return naive_gelu(a);
    case KERNEL_COS:
        *slope = -sin(a);
        return cos(a);
    case KERNEL_TANH:
        *slope = pow(cosh(a), -2);
        return tanh(a);
    case KERNEL_IDENTITY:
        *slope = 1;
        return a;
    case KERNEL_ELU1:
        *slope = a > 0 ? 1 : exp(a);
        return a > 0 ? a + 1 : exp(a);
    case KERNEL_SOFTMAX_TRIG: /* cosine is sine a quarter turn on */
        *slope = i < head->features ? cos(a) : -sin(a);
        return i < head->features ? sin(a) : cos(a);
    default:
        *slope = exp(a);
        return exp(a);
    }
}

/* φ (L, n), its derivative by a, and by the exponent in which the norm is. */
static void features(const struct naive_attention *head, const double *x, const double *shift,
                     double *phi, double *slope, double *growth)
{
    const int64_t n = columns_of(head);
    double *a = arguments_new(head, x);
    for (int64_t l = 0; l < head->length; l++) {
        const bool grows = head->kernel == KERNEL_SOFTMAX_TRIG;
        const double h = grows ? exp(half_square(head, x + l * head->dim)) : 1;
        for (int64_t at = l * n; at < (l + 1) * n; at++) {
            growth[at] = h * column_value(head, at - l * n, a[at] - shift[l], &slope[at]);
            slope[at] *= h;
            phi[at] = growth[at] + head->epsilon;
        }
    }
    free(a);
}

/* What a head is, row by row: unnormalised weights (L, L) and their sums (L). */
struct matrix {
    double *phi_q, *slope_q, *growth_q; /* (L, n) */
    double *phi_k, *slope_k, *growth_k;
    double *weight, *sum; /* (L, L) (L) */
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
    const int64_t n = columns_of(head);
    double dot = 0;
    for (int64_t i = 0; i < n; i++) dot += matrix->phi_q[t * n + i] * matrix->phi_k[s * n + i];
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
    const int64_t l = head->length, count = l * (columns_of(head) + 1);
    struct matrix matrix = {doubles_new(count), doubles_new(count), doubles_new(count),
                            doubles_new(count), doubles_new(count), doubles_new(count),
                            doubles_new(l * l), doubles_new(l),     key_shift};
    if (head->kind == ATTENTION_FAVOR) {
        features(head, head->q, query_shift, matrix.phi_q, matrix.slope_q, matrix.growth_q);
        features(head, head->k, key_shift, matrix.phi_k, matrix.slope_k, matrix.growth_k);
    }
    for (int64_t t = 0; t < l; t++) row_weights(head, &matrix, t);
    return matrix;
}

static void matrix_free(struct matrix *matrix)
{
    free(matrix->phi_q);
    free(matrix->slope_q);
    free(matrix->growth_q);
    free(matrix->phi_k);
    free(matrix->slope_k);
    free(matrix->growth_k);
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

/* dx += what dφ_i of one row brings: by the projection, and by ± ‖x̃‖² / 2 in an exponent */
static void feature_backward(const struct naive_attention *head, const double *x, int64_t column,
                             double dphi, double slope, double growth, double *dx)
{
    if (dphi == 0) return; /* a row that is no key may have no shift, and so no slope */
    const double scale = scale_of(head), norm = norm_sign(head) * dphi * growth;
    for (int64_t j = 0; j < head->dim; j++)
        dx[j] += (dphi * slope * direction(head, column, j) + norm * x[j] * scale) * scale;
}

/* What the unnormalised weight of (t, s) brings back
 * to q_t and k_s, where its own derivative is dw. */
static void weight_backward(const struct naive_attention *head, const struct matrix *matrix,
                            int64_t t, int64_t s, double dw, double *dphi_q, double *dphi_k,
                            double *dq, double *dk)
{
    const int64_t d = head->dim, n = columns_of(head);
    if (head->kind == ATTENTION_SOFTMAX) {
        const double ds = dw * matrix->weight[t * head->length + s] / sqrt((double)d);
        for (int64_t j = 0; j < d; j++) {
            dq[t * d + j] += ds * head->k[s * d + j];
            dk[s * d + j] += ds * head->q[t * d + j];
        }
        return;
    }
    const double factor = dw * carried(matrix, t, s);
    for (int64_t i = 0; i < n; i++) {
        dphi_q[t * n + i] += factor * matrix->phi_k[s * n + i];
        dphi_k[s * n + i] += factor * matrix->phi_q[t * n + i];
    }
}

static void matrix_backward(const struct naive_attention *head, const struct matrix *matrix,
                            const double *dout, double *dq, double *dk, double *dv)
{
    const int64_t l = head->length, d = head->dim, e = head->width, n = columns_of(head);
    double *out = doubles_new(l * e), *dphi_q = doubles_new(l * (n + 1)),
           *dphi_k = doubles_new(l * (n + 1));

    matrix_out(head, matrix, out);
    for (int64_t t = 0; t < l; t++) {
        for (int64_t s = 0; s < l; s++) {
            if (!sees(head, t, s)) continue;
            double dw = 0;
            for (int64_t j = 0; j < e; j++) {
                dw += dout[t * e + j] * (head->v[s * e + j] - out[t * e + j]) / matrix->sum[t];
                dv[s * e + j] += matrix->weight[t * l + s] / matrix->sum[t] * dout[t * e + j];
            }
            weight_backward(head, matrix, t, s, dw, dphi_q, dphi_k, dq, dk);
        }
    }
    for (int64_t t = 0; t < l && head->kind == ATTENTION_FAVOR; t++) {
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = t * n + i;
            feature_backward(head, head->q + t * d, i, dphi_q[at], matrix->slope_q[at],
                             matrix->growth_q[at], dq + t * d);
            feature_backward(head, head->k + t * d, i, dphi_k[at], matrix->slope_k[at],
                             matrix->growth_k[at], dk + t * d);
        }
    }
    free(out);
    free(dphi_q);
    free(dphi_k);
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

void naive_rotary(int64_t dim, double position, double *x)
{
    for (int64_t i = 0; 2 * i + 1 < dim; i++) {
        const double angle = position * pow(10000, -2.0 * (double)i / (double)dim);
        const double first = x[2 * i], second = x[2 * i + 1];
        x[2 * i] = first * cos(angle) - second * sin(angle);
        x[2 * i + 1] = first * sin(angle) + second * cos(angle);
    }
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
