#include "proto/cost.h"

#include <stdbool.h>

enum { FLOAT_BYTES = 4, REGION_FLOATS = 16 }; /* regions of activations begin at 64 bytes */

/* D, M, V, L, m, d and so on, as in the comments of worker/performer.c. */
struct shape {
    uint64_t layers, heads, width, mlp, vocab, length, features, head_dim;
    uint64_t columns;     /* of a row of features */
    uint64_t parts;       /* of the common product: q, k and v; q and v where keys are queries */
    uint64_t projections; /* floats of a layer's random matrices */
    uint64_t positions;   /* floats of the table of fixed positions */
    uint64_t rows;        /* of a micro-shard */
};

/* Columns for a row of the projection; elu1, without one, has a column for each entry of a query or key. */
static uint64_t columns_of(const struct jobspec *spec)
{
    switch (spec->attention.kernel) {
    case KERNEL_SOFTMAX_HYPERBOLIC:
    case KERNEL_SOFTMAX_TRIG:
        return 2 * (uint64_t)spec->attention.features;
    case KERNEL_ELU1:
        return (uint64_t)jobspec_head_dim(spec);
    default:
        return (uint64_t)spec->attention.features;
    }
}

static uint64_t projection_floats(const struct jobspec *spec)
{
    const uint64_t d = (uint64_t)jobspec_head_dim(spec), L = (uint64_t)spec->data.length;
    if (!jobspec_has_projection(spec)) return 0;
    switch (spec->attention.kind) {
    case ATTENTION_FAVOR:
        return (uint64_t)spec->attention.features * d;
    case ATTENTION_LINFORMER:
        return 2 * (uint64_t)spec->attention.rank * L;
    default: /* reformer */
        return (uint64_t)(spec->attention.rounds * (spec->attention.buckets / 2)) * d;
    }
}

static uint64_t position_floats(const struct jobspec *spec)
{
    switch (spec->model.positions) {
    case POSITIONS_SINUSOIDAL:
        return (uint64_t)(spec->data.length * spec->model.width);
    case POSITIONS_ROTARY:
        return (uint64_t)(spec->data.length * jobspec_head_dim(spec));
    default: /* learned ones are parameters */
        return 0;
    }
}

static struct shape shape_of(const struct jobspec *spec)
{
    return (struct shape){
        .layers = (uint64_t)spec->model.layers,
        .heads = (uint64_t)spec->model.heads,
        .width = (uint64_t)spec->model.width,
        .mlp = (uint64_t)spec->model.mlp,
        .vocab = (uint64_t)jobspec_vocab(spec),
        .length = (uint64_t)spec->data.length,
        .features = jobspec_has_projection(spec) ? (uint64_t)spec->attention.features : 0,
        .head_dim = (uint64_t)jobspec_head_dim(spec),
        .columns = columns_of(spec),
        .parts = spec->attention.kind == ATTENTION_REFORMER ? 2 : 3,
        .projections = projection_floats(spec),
        .positions = position_floats(spec),
        .rows = (uint64_t)(spec->train.micro_batch * spec->data.length),
    };
}

static uint64_t parameters_of(const struct jobspec *spec, const struct shape *s)
{
    const uint64_t D = s->width, M = s->mlp;
    const uint64_t positions = spec->model.positions == POSITIONS_LEARNED ? s->length * D : 0;
    const uint64_t norms = 2 * 2 * D, attention = (s->parts + 1) * (D * D + D),
                   mlp = M * D + M + D * M + D;
    return s->vocab * D + positions + s->layers * (norms + attention + mlp) + 2 * D + s->vocab * D;
}

/* Floats of an allocation's region, its padding included. */
static uint64_t region(uint64_t floats)
{
    return (floats + REGION_FLOATS - 1) / REGION_FLOATS * REGION_FLOATS;
}

static uint64_t activation_floats(const struct jobspec *spec, const struct shape *s)
{
    const uint64_t R = s->rows, D = s->width, M = s->mlp;
    const uint64_t narrow = region(R * D), column = region(R);
    /* norm1, attended, middle, norm2; the parts; before and after the GELU; two means and deviations. Beside these its
     * input, which every layer keeps. */
    const uint64_t layer = 4 * narrow + region(s->parts * R * D) + 2 * region(R * M) + 4 * column;
    const uint64_t kept = spec->train.recompute == RECOMPUTE_LAYER ? 1 : s->layers;
    /* output, norm_f and its statistics, logits; gradients: stream, narrow, wide, behind a dropout */
    const uint64_t ends = 2 * narrow + 2 * column + region(R * s->vocab);
    const uint64_t wide = region(R * (s->parts * D > M ? s->parts * D : M));
    const uint64_t gradients = (spec->model.dropout > 0.0 ? 3 : 2) * narrow + wide;
    return s->layers * narrow + kept * layer + ends + gradients;
}

/* One buffer for each depth of the binary tree over a rank's micro-shards. */
static uint64_t gradient_buffers(uint64_t shards)
{
    uint64_t buffers = 1;
    for (; shards > 1; shards -= shards / 2) buffers++;
    return buffers;
}

/* What a rank of several keeps of its partners' gradients until they are added: worker/collective.c. */
static uint64_t exchange_floats(uint64_t ranks)
{
    return ranks == 1 ? 0 : 4 << 17;
}

/* Each product has two of its size in the backward pass. */
static const double PASSES = 3.0;

/* Queries and keys whose scores a round of reformer takes: a chunk with itself and with the one of its bucket before it.
 * What falls into which bucket is known to the run alone: exact where all are of one size, which a chunk holds or
 * chunks divide. */
static double reformer_pairs(const struct jobspec *spec, const struct shape *s)
{
    const double buckets = (double)spec->attention.buckets, chunk = (double)spec->attention.chunk;
    const double size = (double)s->length / buckets;
    return buckets * (size <= chunk ? size * size : chunk * (2.0 * size - chunk));
}

/*
 * Operations of attention on one sequence, both passes, all layers and heads.
 *   favor      projections of queries and keys, with one product each in the backward pass, since the projection has no
 *              gradient; the sum of phi(k) [v 1], and phi(q) with it (paper, Algorithm 1)
 *   softmax    q k and the weighted sum of v, over the keys that a query sees
 *   linformer  E k and F v, each with one product in the backward pass; scores of r keys and the weighted sum
 *   reformer   q R, with none in the backward pass; scores and weighted sums by chunk
 */
static double attention_flops(const struct jobspec *spec, const struct shape *s,
                              enum attention_kind kind)
{
    const double L = (double)s->length, d = (double)s->head_dim, m = (double)s->features;
    const double n = (double)s->columns, r = (double)spec->attention.rank;
    const double rounds = (double)spec->attention.rounds, b = (double)spec->attention.buckets;
    const double keys = spec->model.causal ? (L + 1.0) / 2.0 : L;
    const double heads = (double)(s->layers * s->heads);
    switch (kind) {
    case ATTENTION_FAVOR:
        return heads * L * (2.0 * 2.0 * 2.0 * m * d + PASSES * 2.0 * 2.0 * n * (d + 1.0));
    case ATTENTION_SOFTMAX:
        return PASSES * heads * L * keys * (2.0 * d + 2.0 * d);
    case ATTENTION_LINFORMER:
        return heads * L * r * (2.0 * d + 2.0 * d) * (2.0 + PASSES);
    case ATTENTION_REFORMER:
        return heads * rounds *
               (L * d * b + PASSES * reformer_pairs(spec, s) * (2.0 * d + 2.0 * d));
    default: /* identity */
        return 0.0;
    }
}

/* Forward operations of all other products on one sequence. */
static double dense_flops(const struct shape *s)
{
    const double D = (double)s->width, M = (double)s->mlp, V = (double)s->vocab;
    const double parts = (double)s->parts;
    const double layer = 2.0 * D * parts * D + 2.0 * D * D + 2.0 * 2.0 * D * M;
    return (double)s->length * ((double)s->layers * layer + 2.0 * D * V);
}

void cost_of(const struct jobspec *spec, struct cost *cost)
{
    const struct shape s = shape_of(spec);
    const uint64_t parameters = parameters_of(spec, &s);
    const uint64_t ranks = (uint64_t)spec->resources.ranks;
    const uint64_t shards = (uint64_t)(spec->train.batch / spec->train.micro_batch) / ranks;
    const double batch = (double)spec->train.batch;
    const double dense = PASSES * batch * dense_flops(&s);

    cost->parameters = parameters;
    cost->bytes_weights = FLOAT_BYTES * (parameters + s.layers * s.projections + s.positions);
    cost->bytes_gradients =
        FLOAT_BYTES * (parameters * gradient_buffers(shards) + exchange_floats(ranks));
    cost->bytes_moments = FLOAT_BYTES * 2 * parameters;
    cost->bytes_activations = FLOAT_BYTES * activation_floats(spec, &s);
    cost->bytes_snapshot = FLOAT_BYTES * (3 * parameters + s.layers * s.projections);
    cost->bytes_total = cost->bytes_weights + cost->bytes_gradients + cost->bytes_moments +
                        cost->bytes_activations + cost->bytes_snapshot;
    cost->flops_attention = batch * attention_flops(spec, &s, spec->attention.kind);
    cost->flops_step = dense + cost->flops_attention;
    cost->flops_step_exact = dense + batch * attention_flops(spec, &s, ATTENTION_SOFTMAX);
    cost->tokens_step = (uint64_t)(spec->train.batch * spec->data.length);
}
