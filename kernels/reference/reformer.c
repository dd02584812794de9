/*
 * Reformer's attention (Kitaev et al. 2020, section 2 and the appendix on several rounds) for one head, as defined at
 * struct attention: keys k = q / ‖q‖, and each query's softmax is over the union of what the rounds let it see.
 * The paper takes a softmax in each round, divides the weight of a pair by the number N of rounds that see it
 * and combines the rounds by their log Σ exp: the same sum, term by term.
 */

#include "kernels/reference/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/reference/product.h"

struct reformer {
    const struct head *head;
    int64_t length, dim, width, rounds;
    double scale;         /* 1 / √d */
    double *keys, *norms; /* (L, d) (L): k and ‖q‖ */
    int64_t *bucket,
        *rank; /* (rounds, L): of a position; those of its bucket before it, -1 if masked */
    double *weights, *slopes; /* (L) */
    double *dq, *dkeys, *dv;  /* (L, d) (L, d) (L, e) */
};

int64_t reference_reformer_doubles(const struct attention *call)
{
    return call->length * (3 * call->head_dim + call->value_dim + 2 * call->rounds + 3);
}

static double input(const struct reformer *f, double x)
{
    return product_input(f->head->call->precision, x);
}

static void keys_fill(const struct reformer *f)
{
    for (int64_t s = 0; s < f->length; s++) {
        const float *q = row_at(f->head->q, s);
        double square = 0;
        for (int64_t j = 0; j < f->dim; j++) square += (double)q[j] * q[j];
        f->norms[s] = sqrt(square);
        for (int64_t j = 0; j < f->dim; j++)
            f->keys[s * f->dim + j] = square > 0 ? q[j] / f->norms[s] : 0;
    }
}

/* argmax [q R; -q R], the first of equals */
static int64_t bucket_of(const struct reformer *f, int64_t round, int64_t position)
{
    const int64_t half = f->head->call->buckets / 2;
    const float *rotation = f->head->call->rotations + round * f->dim * half;
    const float *q = row_at(f->head->q, position);
    double largest = -INFINITY, least = INFINITY;
    int64_t at_largest = 0, at_least = 0;

    for (int64_t c = 0; c < half; c++) {
        double dot = 0;
        for (int64_t j = 0; j < f->dim; j++) dot += (double)q[j] * rotation[j * half + c];
        if (dot > largest) largest = dot, at_largest = c;
        if (dot < least) least = dot, at_least = c;
    }
    return -least > largest ? half + at_least : at_largest;
}

static void round_rank(const struct reformer *f, int64_t round)
{
    int64_t *bucket = f->bucket + round * f->length, *rank = f->rank + round * f->length;

    for (int64_t s = 0; s < f->length; s++) bucket[s] = bucket_of(f, round, s);
    for (int64_t b = 0; b < f->head->call->buckets; b++) {
        int64_t before = 0;
        for (int64_t s = 0; s < f->length; s++)
            if (bucket[s] == b) rank[s] = is_key(f->head, s) ? before++ : -1;
    }
}

static struct reformer reformer_prepare(const struct head *head, double *scratch)
{
    const struct attention *call = head->call;
    const int64_t l = call->length, d = call->head_dim;
    struct reformer f = {
        .head = head,
        .length = l,
        .dim = d,
        .width = call->value_dim,
        .rounds = call->rounds,
        .scale = 1 / sqrt((double)d),
        .keys = scratch,
        .norms = scratch + l * d,
        .weights = scratch + l * (d + 1),
        .slopes = scratch + l * (d + 2),
        .dq = scratch + l * (d + 3),
        .dkeys = scratch + l * (2 * d + 3),
        .dv = scratch + l * (3 * d + 3),
        .bucket = (int64_t *)(scratch + l * (3 * d + call->value_dim + 3)),
    };
    _Static_assert(sizeof(int64_t) == sizeof(double), "both lie in one scratch");
    f.rank = f.bucket + l * f.rounds;
    keys_fill(&f);
    for (int64_t round = 0; round < f.rounds; round++) round_rank(&f, round);
    return f;
}

static bool round_sees(const struct reformer *f, int64_t round, int64_t query, int64_t key)
{
    const int64_t *bucket = f->bucket + round * f->length, *rank = f->rank + round * f->length;
    const int64_t chunk = f->head->call->chunk;
    if (rank[query] < 0 || rank[key] < 0 || bucket[query] != bucket[key]) return false;
    const int64_t behind = rank[query] / chunk - rank[key] / chunk;
    return behind == 0 || behind == 1;
}

/* Another position, in some round. */
static bool sees(const struct reformer *f, int64_t query, int64_t key)
{
    if (key == query || (f->head->call->causal && key > query)) return false;
    for (int64_t round = 0; round < f->rounds; round++)
        if (round_sees(f, round, query, key)) return true;
    return false;
}

/* One row of the attention matrix: where there is nothing else to see, itself. */
static void weights_fill(const struct reformer *f, int64_t query)
{
    const float *q = row_at(f->head->q, query);
    double maximum = -INFINITY, sum = 0;

    for (int64_t s = 0; s < f->length; s++) {
        f->weights[s] = -INFINITY;
        if (!sees(f, query, s)) continue;
        double dot = 0;
        for (int64_t j = 0; j < f->dim; j++)
            dot += input(f, q[j]) * input(f, f->keys[s * f->dim + j]);
        f->weights[s] = dot * f->scale;
        maximum = fmax(maximum, f->weights[s]);
    }
    for (int64_t s = 0; s < f->length; s++) {
        f->weights[s] = maximum == -INFINITY ? 0 : exp(f->weights[s] - maximum);
        sum += f->weights[s];
    }
    for (int64_t s = 0; s < f->length && sum > 0; s++) f->weights[s] /= sum;
    if (maximum == -INFINITY && is_key(f->head, query)) f->weights[query] = 1;
}

void reference_reformer(const struct head *head, double *scratch)
{
    const struct reformer f = reformer_prepare(head, scratch);

    for (int64_t t = 0; t < f.length; t++) {
        weights_fill(&f, t);
        for (int64_t j = 0; j < f.width; j++) {
            double sum = 0;
            for (int64_t s = 0; s < f.length; s++)
                if (f.weights[s] != 0)
                    sum += input(&f, f.weights[s]) * input(&f, row_at(head->v, s)[j]);
            row_at(head->out, t)[j] = (float)sum;
        }
    }
}

/* What query t adds, as in exact attention. A weight of 1 on itself has no slope: ds = p (dp - dp) = 0. */
static void query_backward(const struct reformer *f, int64_t t)
{
    const int64_t d = f->dim, e = f->width;
    const float *q = row_at(f->head->q, t), *dout = row_at(f->head->dout, t);
    double mean = 0;

    weights_fill(f, t);
    for (int64_t s = 0; s < f->length; s++) {
        f->slopes[s] = 0;
        for (int64_t j = 0; j < e && f->weights[s] != 0; j++) {
            f->slopes[s] += input(f, dout[j]) * input(f, row_at(f->head->v, s)[j]);
            f->dv[s * e + j] += input(f, f->weights[s]) * input(f, dout[j]);
        }
        mean += f->weights[s] * f->slopes[s];
    }
    for (int64_t s = 0; s < f->length; s++) {
        const double ds = input(f, f->weights[s] * (f->slopes[s] - mean)) * f->scale;
        for (int64_t j = 0; j < d && ds != 0; j++) {
            f->dq[t * d + j] += ds * input(f, f->keys[s * d + j]);
            f->dkeys[s * d + j] += ds * input(f, q[j]);
        }
    }
}

/* dq += (dk - k (k . dk)) / ‖q‖: through the length that k = q / ‖q‖ takes away */
static void key_backward(const struct reformer *f, int64_t s)
{
    const double *key = f->keys + s * f->dim, *dkey = f->dkeys + s * f->dim;
    double along = 0;
    for (int64_t j = 0; j < f->dim; j++) along += key[j] * dkey[j];
    for (int64_t j = 0; j < f->dim; j++) {
        const double through = f->norms[s] > 0 ? (dkey[j] - key[j] * along) / f->norms[s] : 0;
        row_at(f->head->dq, s)[j] = (float)(f->dq[s * f->dim + j] + through);
    }
}

void reference_reformer_backward(const struct head *head, double *scratch)
{
    const struct reformer f = reformer_prepare(head, scratch);

    memset(f.dq, 0, (size_t)(f.length * (2 * f.dim + f.width)) * sizeof *f.dq);
    for (int64_t t = 0; t < f.length; t++) query_backward(&f, t);
    for (int64_t s = 0; s < f.length; s++) {
        key_backward(&f, s);
        for (int64_t j = 0; j < f.width; j++) row_at(head->dv, s)[j] = (float)f.dv[s * f.width + j];
    }
}
