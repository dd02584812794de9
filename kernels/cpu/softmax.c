/*
 * Exact attention in tiles of queries and keys with a running maximum: no (L, L) is ever stored (Dao et al. 2022,
 * algorithms 1 and 4). Kept for the backward pass, of each query: the largest score m, to base 2, and 1 / Σ exp(. - m);
 * log Σ exp, one number for both, would round where scores are large.
 *
 * The backward pass visits each pair of tiles once. It goes through keys in the outer loop, so dk and dv of a tile
 * are summed where they are and dq is added to from tile to tile; where there are few heads, a head's keys are
 * cut into stretches, each with a dq of its own, added in their order.
 */

#include "kernels/cpu/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

enum {
    TILE = 128,
    STRETCHES = 8, /* wanted of all heads together, backward */
};

struct plan {
    const struct attention *call;
    const struct attention_backward *backward;
    float scale, scale2;                 /* 1 / √d, and that times log2 e */
    int64_t tiles;                       /* of a head */
    int64_t score_stride, dim, value;    /* strides of (TILE, TILE), (TILE, d), (TILE, e) */
    int64_t stretches, stretch, dq_head; /* of a head's keys, in tiles; floats of (L, d) */
    float *dq; /* (heads, stretches, L, d), where there is more than one */
    float *threads;
    int64_t thread_floats;
};

struct tiles {
    float *scores, *dscores;     /* (TILE, score_stride) */
    float *q, *k;                /* (TILE, dim) */
    float *v, *dout, *out;       /* (TILE, value) */
    float *largest, *sum, *dots; /* (TILE) */
    float *bias;                 /* (TILE): 0 or -inf, of keys */
};

static size_t tiles_take(const struct plan *plan, float *base, struct tiles *tiles)
{
    struct scratch scratch = {base, 0};
    tiles->scores = scratch_take(&scratch, TILE * plan->score_stride);
    tiles->dscores = scratch_take(&scratch, TILE * plan->score_stride);
    tiles->q = scratch_take(&scratch, TILE * plan->dim);
    tiles->k = scratch_take(&scratch, TILE * plan->dim);
    tiles->v = scratch_take(&scratch, TILE * plan->value);
    tiles->dout = scratch_take(&scratch, TILE * plan->value);
    tiles->out = scratch_take(&scratch, TILE * plan->value);
    tiles->largest = scratch_take(&scratch, TILE);
    tiles->sum = scratch_take(&scratch, TILE);
    tiles->dots = scratch_take(&scratch, TILE);
    tiles->bias = scratch_take(&scratch, TILE);
    return scratch.used;
}

static size_t plan_make(struct plan *plan, const struct attention *call,
                        const struct attention_backward *backward, int threads, float *base)
{
    struct scratch scratch = {base, 0};
    struct tiles tiles;
    const int64_t heads = call->batch * call->heads;
    const float scale = 1 / sqrtf((float)call->head_dim);
    *plan = (struct plan){
        .call = call,
        .backward = backward,
        .scale = scale,
        .scale2 = scale * LOG2_E,
        .tiles = pieces_of(call->length, TILE),
        .score_stride = gemm_stride(TILE),
        .dim = gemm_stride(call->head_dim),
        .value = gemm_stride(call->value_dim),
        .dq_head = call->length * call->head_dim,
    };
    plan->stretch = pieces_of(plan->tiles, pieces_of(STRETCHES, heads));
    plan->stretches = pieces_of(plan->tiles, plan->stretch);
    const int64_t own = backward && plan->stretches > 1 ? plan->stretches : 0;
    plan->dq = scratch_take(&scratch, heads * own * plan->dq_head);
    plan->thread_floats = (int64_t)tiles_take(plan, NULL, &tiles);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(softmax_saved_floats)(const struct attention *call)
{
    return (size_t)(call->batch * call->heads * call->length * 2);
}

size_t CPU(softmax_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return plan_make(&plan, call, NULL, threads, NULL) * sizeof(float);
}

size_t CPU(softmax_backward_scratch)(const struct attention *call, int threads)
{
    const struct attention_backward backward = {.forward = *call};
    struct plan plan;
    return plan_make(&plan, call, &backward, threads, NULL) * sizeof(float);
}

static struct rows rows_from(const struct plan *plan, struct heads_view view, int64_t head,
                             int64_t row)
{
    struct rows rows = head_rows(view, head / plan->call->heads, head % plan->call->heads);
    rows.data = row_of(rows, row);
    return rows;
}

static void rows_copy(float *to, int64_t stride, struct rows from, int64_t count, int64_t width)
{
    for (int64_t r = 0; r < count; r++)
        memcpy(to + r * stride, row_of(from, r), (size_t)width * sizeof *to);
}

/* What is added to the scores of a tile of keys; false where it has no key at all. */
static bool bias_fill(const struct plan *plan, int64_t head, struct range keys, float *bias)
{
    const uint8_t *mask = sequence_mask(plan->call, head / plan->call->heads);
    bool any = false;
    for (int64_t s = 0; s < keys.count; s++) {
        const bool key = !mask || mask[keys.from + s];
        bias[s] = key ? 0 : -INFINITY;
        any |= key;
    }
    return any;
}

/* Keys of a tile that the query sees, were none masked. */
static int64_t keys_seen(const struct plan *plan, int64_t query, struct range keys)
{
    if (!plan->call->causal || query >= keys.from + keys.count) return keys.count;
    return larger(query - keys.from + 1, 0);
}

/* -inf for what a query does not see; bias NULL where no key is masked. */
static void row_mask(float *row, const float *bias, int64_t seen, int64_t count)
{
    for (int64_t s = 0; s < seen && bias; s++) row[s] += bias[s];
    for (int64_t s = seen; s < count; s++) row[s] = -INFINITY;
}

/* The largest of a row and `largest`. */
static float row_largest(const float *row, int64_t count, float largest)
{
    floats best = lanes_of(largest);
    for (int64_t s = 0; s < count; s += LANES)
        best = lanes_larger(lanes_load_row(row, s, count, -INFINITY), best);
    return lanes_largest(best);
}

/* row = 2^(row - shift); returns its sum */
static float row_exp2(float *row, int64_t count, float shift)
{
    floats sum = {0};
    for (int64_t s = 0; s < count; s += LANES) {
        const floats power = lanes_exp2(lanes_load_row(row, s, count, -INFINITY) - shift);
        sum += power;
        lanes_store_row(row, s, count, power);
    }
    return lanes_sum(sum);
}

/* Scores of a tile to weights relative to the running maximum; what was summed before is scaled to it. */
static void tile_weigh(const struct plan *plan, const struct tiles *tiles, struct range queries,
                       struct range keys)
{
    const float *bias = plan->call->key_mask ? tiles->bias : NULL;
    for (int64_t t = 0; t < queries.count; t++) {
        float *row = tiles->scores + t * plan->score_stride;
        float *out = tiles->out + t * plan->value;
        const int64_t seen = keys_seen(plan, queries.from + t, keys);
        const float before = tiles->largest[t];
        row_mask(row, bias, seen, keys.count);
        const float largest = row_largest(row, keys.count, before);
        if (largest == -INFINITY) { /* no key yet */
            memset(row, 0, (size_t)keys.count * sizeof *row);
            continue;
        }
        const float sum = row_exp2(row, keys.count, largest);
        const float factor = lanes_exp2(lanes_of(before - largest))[0];
        tiles->largest[t] = largest;
        tiles->sum[t] = tiles->sum[t] * factor + sum;
        if (factor == 1) continue;
        for (int64_t i = 0; i < plan->call->value_dim; i++) out[i] *= factor;
    }
}

static void queries_forward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t head = piece / plan->tiles;
    const struct range queries = piece_range(piece % plan->tiles, TILE, call->length);
    const struct rows out = rows_from(plan, call->out, head, queries.from);
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    rows_copy(tiles.q, plan->dim, rows_from(plan, call->q, head, queries.from), queries.count,
              call->head_dim);
    memset(tiles.out, 0, (size_t)(queries.count * plan->value) * sizeof(float));
    for (int64_t t = 0; t < queries.count; t++) {
        tiles.largest[t] = -INFINITY;
        tiles.sum[t] = 0;
    }
    for (int64_t j = 0; j < plan->tiles; j++) {
        const struct range keys = piece_range(j, TILE, call->length);
        if (call->causal && keys.from >= queries.from + queries.count) break;
        if (!bias_fill(plan, head, keys, tiles.bias)) continue;
        const struct rows k = rows_from(plan, call->k, head, keys.from);
        rows_copy(tiles.v, plan->value, rows_from(plan, call->v, head, keys.from), keys.count,
                  call->value_dim);
        gemm_nt(queries.count, keys.count, call->head_dim, plan->scale2, tiles.q, plan->dim, k.data,
                k.stride, 0, tiles.scores, plan->score_stride);
        tile_weigh(plan, &tiles, queries, keys);
        gemm_nn(queries.count, call->value_dim, keys.count, 1, tiles.scores, plan->score_stride,
                tiles.v, plan->value, 1, tiles.out, plan->value);
    }
    for (int64_t t = 0; t < queries.count; t++) {
        const float factor =
            tiles.sum[t] > 0 || tiles.sum[t] != tiles.sum[t] ? 1 / tiles.sum[t] : 0;
        const float *from = tiles.out + t * plan->value;
        float *to = row_of(out, t);
        for (int64_t i = 0; i < call->value_dim; i++) to[i] = from[i] * factor;
        if (!call->saved) continue;
        float *kept = call->saved + (head * call->length + queries.from + t) * 2;
        kept[0] = factor == 0 ? 0 : tiles.largest[t];
        kept[1] = factor;
    }
}

enum status CPU(softmax)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    plan_make(&plan, call, NULL, team_threads(stream->team), stream->scratch);
    team_run(stream->team, call->batch * call->heads * plan.tiles, queries_forward, &plan);
    return gemm_outcome();
}

/* dscores = weights (dweights - dout . out), both of a tile, in the place of dweights */
static void tile_weigh_backward(const struct plan *plan, const struct tiles *tiles,
                                const float *kept, struct range queries, struct range keys)
{
    const float *bias = plan->call->key_mask ? tiles->bias : NULL;
    for (int64_t t = 0; t < queries.count; t++) {
        float *row = tiles->scores + t * plan->score_stride;
        float *drow = tiles->dscores + t * plan->score_stride;
        const int64_t seen = keys_seen(plan, queries.from + t, keys);
        row_mask(row, bias, seen, keys.count);
        row_exp2(row, keys.count, kept[2 * t]);
        for (int64_t s = 0; s < keys.count; s++) {
            row[s] *= kept[2 * t + 1];
            drow[s] = row[s] * (drow[s] - tiles->dots[t]);
        }
    }
}

static void pair_backward(const struct plan *plan, const struct tiles *tiles, int64_t head,
                          struct range queries, struct range keys, bool first, struct rows dq)
{
    const struct attention *call = plan->call;
    const int64_t d = call->head_dim, e = call->value_dim, ld = plan->score_stride;
    const struct rows dk = rows_from(plan, plan->backward->dk, head, keys.from);
    const struct rows dv = rows_from(plan, plan->backward->dv, head, keys.from);
    const struct rows out = rows_from(plan, call->out, head, queries.from);
    const float beta = first ? 0 : 1; /* of keys: the first tile of queries writes */

    rows_copy(tiles->q, plan->dim, rows_from(plan, call->q, head, queries.from), queries.count, d);
    rows_copy(tiles->dout, plan->value, rows_from(plan, plan->backward->dout, head, queries.from),
              queries.count, e);
    for (int64_t t = 0; t < queries.count; t++) {
        floats dot = {0};
        for (int64_t i = 0; i < e; i += LANES)
            dot = lanes_fma(lanes_load_row(tiles->dout + t * plan->value, i, e, 0),
                            lanes_load_row(row_of(out, t), i, e, 0), dot);
        tiles->dots[t] = lanes_sum(dot);
    }
    gemm_nt(queries.count, keys.count, d, plan->scale2, tiles->q, plan->dim, tiles->k, plan->dim, 0,
            tiles->scores, ld);
    gemm_nt(queries.count, keys.count, e, 1, tiles->dout, plan->value, tiles->v, plan->value, 0,
            tiles->dscores, ld);
    tile_weigh_backward(plan, tiles, call->saved + (head * call->length + queries.from) * 2,
                        queries, keys);
    gemm_tn(keys.count, e, queries.count, 1, tiles->scores, ld, tiles->dout, plan->value, beta,
            dv.data, dv.stride);
    gemm_tn(keys.count, d, queries.count, plan->scale, tiles->dscores, ld, tiles->q, plan->dim,
            beta, dk.data, dk.stride);
    gemm_nn(queries.count, d, keys.count, plan->scale, tiles->dscores, ld, tiles->k, plan->dim, 1,
            dq.data, dq.stride);
}

static void rows_clear(struct rows rows, int64_t count, int64_t width)
{
    for (int64_t r = 0; r < count; r++) memset(row_of(rows, r), 0, (size_t)width * sizeof(float));
}

/* Where a stretch adds up its dq. */
static struct rows stretch_dq(const struct plan *plan, int64_t head, int64_t stretch)
{
    if (plan->stretches == 1) return rows_from(plan, plan->backward->dq, head, 0);
    return (struct rows){plan->dq + (head * plan->stretches + stretch) * plan->dq_head,
                         plan->call->head_dim};
}

static void stretch_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t head = piece / plan->stretches, stretch = piece % plan->stretches;
    const struct range own = piece_range(stretch, plan->stretch, plan->tiles);
    const struct rows dq = stretch_dq(plan, head, stretch);
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    rows_clear(dq, call->length, call->head_dim);
    for (int64_t j = own.from; j < own.from + own.count; j++) {
        const struct range keys = piece_range(j, TILE, call->length);
        const int64_t first = call->causal ? j : 0;
        if (!bias_fill(plan, head, keys, tiles.bias)) {
            rows_clear(rows_from(plan, plan->backward->dk, head, keys.from), keys.count,
                       call->head_dim);
            rows_clear(rows_from(plan, plan->backward->dv, head, keys.from), keys.count,
                       call->value_dim);
            continue;
        }
        rows_copy(tiles.k, plan->dim, rows_from(plan, call->k, head, keys.from), keys.count,
                  call->head_dim);
        rows_copy(tiles.v, plan->value, rows_from(plan, call->v, head, keys.from), keys.count,
                  call->value_dim);
        for (int64_t i = first; i < plan->tiles; i++) {
            const struct range queries = piece_range(i, TILE, call->length);
            const struct rows dq_rows = {row_of(dq, queries.from), dq.stride};
            pair_backward(plan, &tiles, head, queries, keys, i == first, dq_rows);
        }
    }
}

/* dq of a tile of queries from the stretches of its keys. */
static void dq_sum(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const int64_t head = piece / plan->tiles, d = plan->call->head_dim;
    const struct range queries = piece_range(piece % plan->tiles, TILE, plan->call->length);
    const struct rows dq = rows_from(plan, plan->backward->dq, head, 0);
    (void)thread;

    for (int64_t t = queries.from; t < queries.from + queries.count; t++) {
        float *to = row_of(dq, t);
        memset(to, 0, (size_t)d * sizeof *to);
        for (int64_t stretch = 0; stretch < plan->stretches; stretch++) {
            const float *from = row_of(stretch_dq(plan, head, stretch), t);
            for (int64_t i = 0; i < d; i++) to[i] += from[i];
        }
    }
}

enum status CPU(softmax_backward)(struct stream *stream, const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    const int64_t heads = call->batch * call->heads;
    struct plan plan;
    assert(call->saved);
    plan_make(&plan, call, backward, team_threads(stream->team), stream->scratch);
    team_run(stream->team, heads * plan.stretches, stretch_backward, &plan);
    if (plan.stretches > 1) team_run(stream->team, heads * plan.tiles, dq_sum, &plan);
    return gemm_outcome();
}
