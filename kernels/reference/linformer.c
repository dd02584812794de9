/*
 * Linformer (Wang et al. 2020, equation 7) for one head: out = softmax(q (E k)ᵀ / √d) (F v), with K = E k and V = F v.
 * E and F are given, not learned; a masked key is a row of zeros in both products.
 */

#include "kernels/reference/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/reference/product.h"

struct linformer {
    const struct head *head;
    int64_t length, dim, width, rank; /* L, d, e, r */
    int64_t columns;                  /* of E and F, L or more */
    double scale;                     /* 1 / √d */
    double *keys, *values;            /* (r, d) (r, e) */
    double *dkeys, *dvalues;          /* (r, d) (r, e) */
    double *weights, *slopes;         /* (r) */
};

int64_t reference_linformer_doubles(const struct attention *call)
{
    return 2 * call->rank * (call->head_dim + call->value_dim + 1);
}

static double input(const struct linformer *f, double x)
{
    return product_input(f->head->call->precision, x);
}

/* to (r, width) = matrix (r, first L) x (L, width), without the rows of x that are no keys */
static void compress(const struct linformer *f, const float *matrix, struct rows x, int64_t width,
                     double *to)
{
    memset(to, 0, (size_t)(f->rank * width) * sizeof *to);
    for (int64_t s = 0; s < f->length; s++)
        for (int64_t i = 0; i < f->rank && is_key(f->head, s); i++)
            for (int64_t j = 0; j < width; j++)
                to[i * width + j] +=
                    input(f, matrix[i * f->columns + s]) * input(f, row_at(x, s)[j]);
}

/* dx (L, width) = matrixᵀ from, 0 where there is no key */
static void compress_backward(const struct linformer *f, const float *matrix, const double *from,
                              int64_t width, struct rows dx)
{
    for (int64_t s = 0; s < f->length; s++) {
        for (int64_t j = 0; j < width; j++) {
            double sum = 0;
            for (int64_t i = 0; i < f->rank && is_key(f->head, s); i++)
                sum += input(f, matrix[i * f->columns + s]) * input(f, from[i * width + j]);
            row_at(dx, s)[j] = (float)sum;
        }
    }
}

static struct linformer linformer_prepare(const struct head *head, double *scratch)
{
    const struct attention *call = head->call;
    const int64_t of_keys = call->rank * call->head_dim, of_values = call->rank * call->value_dim;
    struct linformer f = {
        .head = head,
        .length = call->length,
        .dim = call->head_dim,
        .width = call->value_dim,
        .rank = call->rank,
        .columns = call->columns,
        .scale = 1 / sqrt((double)call->head_dim),
        .keys = scratch,
        .values = scratch + of_keys,
        .dkeys = scratch + of_keys + of_values,
        .dvalues = scratch + 2 * of_keys + of_values,
        .weights = scratch + 2 * (of_keys + of_values),
        .slopes = scratch + 2 * (of_keys + of_values) + call->rank,
    };
    compress(&f, call->key_projection, head->k, f.dim, f.keys);
    compress(&f, call->value_projection, head->v, f.width, f.values);
    return f;
}

/* One row of softmax(q Kᵀ / √d). */
static void weights_fill(const struct linformer *f, int64_t query)
{
    const float *q = row_at(f->head->q, query);
    double maximum = -INFINITY, sum = 0;

    for (int64_t i = 0; i < f->rank; i++) {
        double dot = 0;
        for (int64_t j = 0; j < f->dim; j++)
            dot += input(f, q[j]) * input(f, f->keys[i * f->dim + j]);
        f->weights[i] = dot * f->scale;
        maximum = fmax(maximum, f->weights[i]);
    }
    for (int64_t i = 0; i < f->rank; i++) {
        f->weights[i] = exp(f->weights[i] - maximum);
        sum += f->weights[i];
    }
    for (int64_t i = 0; i < f->rank; i++) f->weights[i] /= sum;
}

void reference_linformer(const struct head *head, double *scratch)
{
    const struct linformer f = linformer_prepare(head, scratch);

    for (int64_t t = 0; t < f.length; t++) {
        weights_fill(&f, t);
        for (int64_t j = 0; j < f.width; j++) {
            double sum = 0;
            for (int64_t i = 0; i < f.rank; i++)
                sum += input(&f, f.weights[i]) * input(&f, f.values[i * f.width + j]);
            row_at(head->out, t)[j] = (float)sum;
        }
    }
}

/* What query t adds: dV_i += p_i dout; ds = p (dp - Σ p dp)
 * with dp_i = dout . V_i; dq = Σ ds K / √d, dK_i += ds q / √d. */
static void query_backward(const struct linformer *f, int64_t t)
{
    const float *q = row_at(f->head->q, t), *dout = row_at(f->head->dout, t);
    double mean = 0;

    weights_fill(f, t);
    for (int64_t i = 0; i < f->rank; i++) {
        f->slopes[i] = 0;
        for (int64_t j = 0; j < f->width; j++) {
            f->slopes[i] += input(f, dout[j]) * input(f, f->values[i * f->width + j]);
            f->dvalues[i * f->width + j] += input(f, f->weights[i]) * input(f, dout[j]);
        }
        mean += f->weights[i] * f->slopes[i];
    }
    for (int64_t i = 0; i < f->rank; i++) {
        f->slopes[i] = input(f, f->weights[i] * (f->slopes[i] - mean)) * f->scale;
        for (int64_t j = 0; j < f->dim; j++)
            f->dkeys[i * f->dim + j] += f->slopes[i] * input(f, q[j]);
    }
    for (int64_t j = 0; j < f->dim; j++) {
        double sum = 0;
        for (int64_t i = 0; i < f->rank; i++)
            sum += f->slopes[i] * input(f, f->keys[i * f->dim + j]);
        row_at(f->head->dq, t)[j] = (float)sum;
    }
}

void reference_linformer_backward(const struct head *head, double *scratch)
{
    const struct linformer f = linformer_prepare(head, scratch);

    memset(f.dkeys, 0, (size_t)(f.rank * f.dim) * sizeof *f.dkeys);
    memset(f.dvalues, 0, (size_t)(f.rank * f.width) * sizeof *f.dvalues);
    for (int64_t t = 0; t < f.length; t++) query_backward(&f, t);
    compress_backward(&f, head->call->key_projection, f.dkeys, f.dim, head->dk);
    compress_backward(&f, head->call->value_projection, f.dvalues, f.width, head->dv);
}
