/* Exact attention, out = softmax(q kᵀ / √d) v (Choromanski
 * et al. 2021, equations 1 and 2), one query at a time. */

#include "kernels/reference/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/reference/product.h"

int64_t reference_softmax_doubles(const struct attention *call)
{
    return call->length * (2 + call->head_dim + call->value_dim) + call->head_dim;
}

static bool is_seen(const struct head *head, int64_t query, int64_t key)
{
    return is_key(head, key) && !(head->call->causal && key > query);
}

static double input(const struct head *head, double x)
{
    return product_input(head->call->precision, x);
}

static double dot(const struct head *head, const float *a, const float *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += input(head, a[i]) * input(head, b[i]);
    return sum;
}

/* One row of softmax(q kᵀ / √d); all 0 where the query sees no key. */
static void weights_fill(const struct head *head, int64_t query, double *weights)
{
    const struct attention *call = head->call;
    const double scale = 1 / sqrt((double)call->head_dim);
    double maximum = -INFINITY, sum = 0;

    for (int64_t s = 0; s < call->length; s++) {
        weights[s] = is_seen(head, query, s) ? scale * dot(head, row_at(head->q, query),
                                                           row_at(head->k, s), call->head_dim)
                                             : -INFINITY;
        maximum = fmax(maximum, weights[s]);
    }
    for (int64_t s = 0; s < call->length; s++) {
        weights[s] = is_seen(head, query, s) ? exp(weights[s] - maximum) : 0;
        sum += weights[s];
    }
    for (int64_t s = 0; s < call->length && sum > 0; s++) weights[s] /= sum;
}

void reference_softmax(const struct head *head, double *scratch)
{
    const struct attention *call = head->call;

    for (int64_t t = 0; t < call->length; t++) {
        weights_fill(head, t, scratch);
        for (int64_t j = 0; j < call->value_dim; j++) {
            double sum = 0;
            for (int64_t s = 0; s < call->length; s++)
                if (is_seen(head, t, s))
                    sum += input(head, scratch[s]) * input(head, row_at(head->v, s)[j]);
            row_at(head->out, t)[j] = (float)sum;
        }
    }
}

/* What query t adds: dv_s += p_s dout; ds = p (dp - Σ p dp)
 * with dp_s = dout . v_s; dq = Σ ds k / √d, dk += ds q / √d. */
static void query_backward(const struct head *head, int64_t t, double *weights, double *slopes,
                           double *dq, double *dk, double *dv)
{
    const struct attention *call = head->call;
    const int64_t d = call->head_dim, e = call->value_dim;
    const double scale = 1 / sqrt((double)d);
    const float *dout = row_at(head->dout, t);
    double mean = 0;

    weights_fill(head, t, weights);
    for (int64_t s = 0; s < call->length; s++) {
        slopes[s] = is_seen(head, t, s) ? dot(head, dout, row_at(head->v, s), e) : 0;
        mean += weights[s] * slopes[s];
    }
    memset(dq, 0, (size_t)d * sizeof *dq);
    for (int64_t s = 0; s < call->length; s++) {
        if (!is_seen(head, t, s)) continue;
        const double p = input(head, weights[s]);
        const double ds = input(head, weights[s] * (slopes[s] - mean)) * scale;
        for (int64_t j = 0; j < e; j++) dv[s * e + j] += p * input(head, dout[j]);
        for (int64_t j = 0; j < d; j++) {
            dq[j] += ds * input(head, row_at(head->k, s)[j]);
            dk[s * d + j] += ds * input(head, row_at(head->q, t)[j]);
        }
    }
    for (int64_t j = 0; j < d; j++) row_at(head->dq, t)[j] = (float)dq[j];
}

void reference_softmax_backward(const struct head *head, double *scratch)
{
    const struct attention *call = head->call;
    const int64_t l = call->length, d = call->head_dim, e = call->value_dim;
    double *weights = scratch, *slopes = weights + l, *dk = slopes + l, *dv = dk + l * d;
    double *dq = dv + l * e;

    memset(dk, 0, (size_t)(l * (d + e)) * sizeof *dk);
    for (int64_t t = 0; t < l; t++) query_backward(head, t, weights, slopes, dq, dk, dv);
    for (int64_t s = 0; s < l; s++) {
        for (int64_t j = 0; j < d; j++) row_at(head->dk, s)[j] = (float)dk[s * d + j];
        for (int64_t j = 0; j < e; j++) row_at(head->dv, s)[j] = (float)dv[s * e + j];
    }
}
