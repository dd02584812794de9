/*
 * Exact attention in tiles of queries and keys with a running maximum: no (L, L) is ever stored (Dao et al. 2022,
 * algorithms 1 and 4). Scores stand transposed, a row a key: what is taken over keys, maximum and sum, then goes down
 * columns, register by register, and of the operands of all products only the queries' are transposed.
 *
 * Kept for the backward pass, of each query: the largest score m, to base 2, and 1 / Σ exp(. - m); log Σ exp, one
 * number for both, would round where scores are large.
 *
 * The backward pass visits each pair of tiles once. It goes through keys in the outer loop, so dk and dv of a tile
 * are summed where they are and dq is added to from tile to tile; where there are few heads, a head's keys are
 * cut into stretches, each with a dq of its own, added in their order.
 */

#include "kernels/cpu/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"
#include "kernels/cpu/product.h"

enum {
    KEYS = 64,     /* of a tile */
    QUERIES = 128, /* of a tile, forward; whole tiles of keys */
    STRETCHES = 8, /* wanted of all heads together, backward */
};

struct plan {
    const struct attention *call;
    const struct attention_backward *backward;
    float scale, scale2; /* 1 / √d, and that times log2 e */
    int64_t heads;       /* B H */
    int64_t tiles;       /* of a head's keys */
    int64_t dim, value;  /* strides of rows of d and of e: whole registers, 0 behind d and e */
    int64_t stretches, stretch, dq_head; /* of a head's keys, in tiles; floats of (L, dim) */
    float *dq;                           /* (heads, stretches, L, dim) */
    float *threads;
    int64_t thread_floats;
};

/* Rows in whole registers of any instruction set. */
static int64_t registers_of(int64_t width)
{
    return (int64_t)scratch_floats(width);
}

static void plan_shape(struct plan *plan, const struct attention *call)
{
    const float scale = 1 / sqrtf((float)call->head_dim);
    *plan = (struct plan){
        .call = call,
        .scale = scale,
        .scale2 = scale * LOG2_E,
        .heads = call->batch * call->heads,
        .tiles = pieces_of(call->length, KEYS),
        .dim = registers_of(call->head_dim),
        .value = registers_of(call->value_dim),
    };
}

size_t CPU(softmax_saved_floats)(const struct attention *call)
{
    return (size_t)(call->batch * call->heads * call->length * 2);
}

/* The numbers kept of a head: the largest scores (L), then the inverse sums (L). */
static float *head_saved(const struct attention *call, int64_t head)
{
    return call->saved + head * call->length * 2;
}

static struct rows rows_from(const struct plan *plan, struct heads_view view, int64_t head,
                             int64_t row)
{
    struct rows rows = head_rows(view, head / plan->call->heads, head % plan->call->heads);
    rows.data = row_of(rows, row);
    return rows;
}

/* Rows of `width` to whole registers. */
static void rows_pack(struct rows from, int64_t count, int64_t width, float *to)
{
    const int64_t stride = registers_of(width);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < stride; i += LANES)
            lanes_store(to + r * stride + i,
                        i < width ? lanes_load_row(row_of(from, r), i, width, 0) : (floats){0});
}

/* to (width, columns) = rows transposed, 0 behind the last of them */
static void rows_transpose(struct rows from, int64_t count, int64_t width, int64_t columns,
                           float *to)
{
    if (count < columns) memset(to, 0, (size_t)(width * columns) * sizeof *to);
    CPU(transpose)(count, width, from.data, from.stride, to, columns);
}

/* -inf where no key of a tile may be seen: keys that are masked, and when causal those behind the query. Column 0 of
 * scores (keys, columns) is the query at `query`. */
static void scores_mask(const struct plan *plan, int64_t head, struct range keys, int64_t query,
                        int64_t columns, float *scores, int64_t stride)
{
    const uint8_t *mask = sequence_mask(plan->call, head / plan->call->heads);
    for (int64_t s = 0; s < keys.count; s++) {
        const int64_t behind = plan->call->causal ? keys.from + s - query : 0;
        const int64_t unseen =
            mask && !mask[keys.from + s] ? columns : smaller(larger(behind, 0), columns);
        for (int64_t t = 0; t < unseen; t++) scores[s * stride + t] = -INFINITY;
    }
}

static bool tile_has_keys(const struct plan *plan, int64_t head, struct range keys)
{
    const uint8_t *mask = sequence_mask(plan->call, head / plan->call->heads);
    bool any = !mask;
    for (int64_t s = 0; s < keys.count && !any; s++) any = mask[keys.from + s];
    return any;
}

/* ---- forward ---- */

/* Of a thread. */
struct forward {
    float *queries;       /* (d, QUERIES) */
    float *scores;        /* (KEYS, QUERIES) */
    float *values;        /* (KEYS, value) */
    float *out;           /* (QUERIES, value) */
    float *largest, *sum; /* (QUERIES) */
    float *factor;        /* (QUERIES): of what was summed before a tile of keys */
};

static size_t forward_take(const struct plan *plan, float *base, struct forward *tiles)
{
    struct scratch scratch = {base, 0};
    tiles->queries = scratch_take(&scratch, plan->call->head_dim * QUERIES);
    tiles->scores = scratch_take(&scratch, KEYS * QUERIES);
    tiles->values = scratch_take(&scratch, KEYS * plan->value);
    tiles->out = scratch_take(&scratch, QUERIES * plan->value);
    tiles->largest = scratch_take(&scratch, QUERIES);
    tiles->sum = scratch_take(&scratch, QUERIES);
    tiles->factor = scratch_take(&scratch, QUERIES);
    return scratch.used;
}

static size_t forward_plan(struct plan *plan, const struct attention *call, int threads,
                           float *base)
{
    struct scratch scratch = {base, 0};
    struct forward tiles;
    plan_shape(plan, call);
    plan->thread_floats = (int64_t)forward_take(plan, NULL, &tiles);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(softmax_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return forward_plan(&plan, call, threads, NULL) * sizeof(float);
}

/* One register of queries: scores to weights relative to the running maximum. */
static void column_weigh(float *scores, int64_t keys, float scale2, float *largest, float *sum,
                         float *factor)
{
    const floats before = lanes_load(largest);
    floats best = lanes_of(-INFINITY), total = {0};
    for (int64_t s = 0; s < keys; s++) best = lanes_larger(lanes_load(scores + s * QUERIES), best);
    best = lanes_larger(best * scale2, before);
    const floats shift = lanes_select(best == -INFINITY, (floats){0}, best); /* no key yet */
    for (int64_t s = 0; s < keys; s++) {
        const floats score = lanes_load(scores + s * QUERIES);
        const floats weight = lanes_exp2(lanes_fma(score, lanes_of(scale2), -shift));
        lanes_store(scores + s * QUERIES, weight);
        total += weight;
    }
    const floats kept = lanes_exp2(before - shift);
    lanes_store(largest, best);
    lanes_store(sum, lanes_fma(lanes_load(sum), kept, total));
    lanes_store(factor, kept);
}

/* What a tile of keys adds to the queries of a tile from column `first` on. */
static void tile_add(const struct plan *plan, const struct forward *tiles, int64_t head,
                     struct range queries, struct range keys, int64_t first)
{
    const struct attention *call = plan->call;
    const struct rows k = rows_from(plan, call->k, head, keys.from);
    const int64_t columns = registers_of(queries.count) - first;
    float *scores = tiles->scores + first, *out = tiles->out + first * plan->value;

    rows_pack(rows_from(plan, call->v, head, keys.from), keys.count, call->value_dim,
              tiles->values);
    CPU(product_nn)
    (keys.count, columns, call->head_dim, k.data, k.stride, tiles->queries + first, QUERIES, 0,
     scores, QUERIES);
    scores_mask(plan, head, keys, queries.from + first, columns, scores, QUERIES);
    for (int64_t t = first; t < first + columns; t += LANES)
        column_weigh(tiles->scores + t, keys.count, plan->scale2, tiles->largest + t,
                     tiles->sum + t, tiles->factor + t);
    for (int64_t t = first; t < queries.count; t++) {
        float *row = tiles->out + t * plan->value;
        const float factor = tiles->factor[t];
        for (int64_t i = 0; i < plan->value && factor != 1; i++) row[i] *= factor;
    }
    CPU(product_tn)
    (queries.count - first, plan->value, keys.count, scores, QUERIES, tiles->values, plan->value, 1,
     out, plan->value);
}

static void queries_begin(const struct plan *plan, const struct forward *tiles, int64_t head,
                          struct range queries)
{
    rows_transpose(rows_from(plan, plan->call->q, head, queries.from), queries.count,
                   plan->call->head_dim, QUERIES, tiles->queries);
    memset(tiles->out, 0, (size_t)(queries.count * plan->value) * sizeof(float));
    for (int64_t t = 0; t < QUERIES; t++) {
        tiles->largest[t] = -INFINITY;
        tiles->sum[t] = 0;
    }
}

static void queries_end(const struct plan *plan, const struct forward *tiles, int64_t head,
                        struct range queries)
{
    const struct attention *call = plan->call;
    const struct rows out = rows_from(plan, call->out, head, queries.from);
    for (int64_t t = 0; t < queries.count; t++) {
        const float sum = tiles->sum[t], factor = sum > 0 || sum != sum ? 1 / sum : 0;
        const float *from = tiles->out + t * plan->value;
        float *to = row_of(out, t);
        for (int64_t i = 0; i < call->value_dim; i++) to[i] = from[i] * factor;
        if (!call->saved) continue;
        float *saved = head_saved(call, head) + queries.from + t;
        saved[0] = factor == 0 ? 0 : tiles->largest[t];
        saved[call->length] = factor;
    }
}

static void queries_forward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t tiles_of_head = pieces_of(call->length, QUERIES), head = piece / tiles_of_head;
    const struct range queries = piece_range(piece % tiles_of_head, QUERIES, call->length);
    struct forward tiles;
    forward_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    queries_begin(plan, &tiles, head, queries);
    for (int64_t j = 0; j < plan->tiles; j++) {
        const struct range keys = piece_range(j, KEYS, call->length);
        const int64_t first = call->causal ? larger(keys.from - queries.from, 0) : 0;
        if (first >= queries.count) break;
        if (tile_has_keys(plan, head, keys)) tile_add(plan, &tiles, head, queries, keys, first);
    }
    queries_end(plan, &tiles, head, queries);
}

enum status CPU(softmax)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    forward_plan(&plan, call, team_threads(stream->team), stream->scratch);
    team_run(stream->team, plan.heads * pieces_of(call->length, QUERIES), queries_forward, &plan);
    return ST_OK;
}

/* ---- backward ---- */

/* Of a thread: the queries of a head in tiles of KEYS, as the products take them, and one tile of keys. */
struct backward {
    float *queries, *transposed;       /* (tiles, KEYS, dim) (tiles, d, KEYS) */
    float *dout, *dout_transposed;     /* (tiles, KEYS, value) (tiles, e, KEYS) */
    float *largest, *inverse, *slopes; /* (tiles, KEYS): m, 1 / Σ and dout . out */
    float *keys, *values;              /* (KEYS, dim) (KEYS, value) */
    float *dkeys, *dvalues;            /* alike */
    float *weights, *dscores;          /* (KEYS, KEYS), a row a key */
};

static size_t backward_take(const struct plan *plan, float *base, struct backward *own)
{
    struct scratch scratch = {base, 0};
    const int64_t rows = plan->tiles * KEYS;
    own->queries = scratch_take(&scratch, rows * plan->dim);
    own->transposed = scratch_take(&scratch, rows * plan->call->head_dim);
    own->dout = scratch_take(&scratch, rows * plan->value);
    own->dout_transposed = scratch_take(&scratch, rows * plan->call->value_dim);
    own->largest = scratch_take(&scratch, rows);
    own->inverse = scratch_take(&scratch, rows);
    own->slopes = scratch_take(&scratch, rows);
    own->keys = scratch_take(&scratch, KEYS * plan->dim);
    own->values = scratch_take(&scratch, KEYS * plan->value);
    own->dkeys = scratch_take(&scratch, KEYS * plan->dim);
    own->dvalues = scratch_take(&scratch, KEYS * plan->value);
    own->weights = scratch_take(&scratch, KEYS * KEYS);
    own->dscores = scratch_take(&scratch, KEYS * KEYS);
    return scratch.used;
}

static size_t backward_plan(struct plan *plan, const struct attention *call, int threads,
                            float *base)
{
    struct scratch scratch = {base, 0};
    struct backward own;
    plan_shape(plan, call);
    plan->stretch = pieces_of(plan->tiles, pieces_of(STRETCHES, plan->heads));
    plan->stretches = pieces_of(plan->tiles, plan->stretch);
    plan->dq_head = call->length * plan->dim;
    plan->dq = scratch_take(&scratch, plan->heads * plan->stretches * plan->dq_head);
    plan->thread_floats = (int64_t)backward_take(plan, NULL, &own);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(softmax_backward_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return backward_plan(&plan, call, threads, NULL) * sizeof(float);
}

static float *stretch_dq(const struct plan *plan, int64_t head, int64_t stretch)
{
    return plan->dq + (head * plan->stretches + stretch) * plan->dq_head;
}

static float dot_of(const float *a, const float *b, int64_t count)
{
    floats sum = {0};
    for (int64_t i = 0; i < count; i += LANES)
        sum = lanes_fma(lanes_load_row(a, i, count, 0), lanes_load_row(b, i, count, 0), sum);
    return lanes_sum(sum);
}

static void queries_take(const struct plan *plan, const struct backward *own, int64_t head,
                         int64_t tile)
{
    const struct attention *call = plan->call;
    const struct range queries = piece_range(tile, KEYS, call->length);
    const struct rows q = rows_from(plan, call->q, head, queries.from);
    const struct rows dout = rows_from(plan, plan->backward->dout, head, queries.from);
    const struct rows out = rows_from(plan, call->out, head, queries.from);
    const float *saved = head_saved(call, head) + queries.from;
    const int64_t at = tile * KEYS;

    rows_pack(q, queries.count, call->head_dim, own->queries + at * plan->dim);
    rows_pack(dout, queries.count, call->value_dim, own->dout + at * plan->value);
    rows_transpose(q, queries.count, call->head_dim, KEYS, own->transposed + at * call->head_dim);
    rows_transpose(dout, queries.count, call->value_dim, KEYS,
                   own->dout_transposed + at * call->value_dim);
    for (int64_t t = 0; t < queries.count; t++) {
        own->largest[at + t] = saved[t];
        own->inverse[at + t] = saved[call->length + t];
        own->slopes[at + t] = dot_of(row_of(dout, t), row_of(out, t), call->value_dim);
    }
    for (int64_t t = queries.count; t < KEYS; t++)
        own->largest[at + t] = own->inverse[at + t] = own->slopes[at + t] = 0;
}

/* One register of queries: scores to weights, and dscores = weights (dweights - dout . out) in the place of dweights. */
static void column_weigh_backward(const struct backward *own, int64_t query, int64_t column,
                                  int64_t keys, float scale2)
{
    const floats largest = lanes_load(own->largest + query);
    const floats inverse = lanes_load(own->inverse + query);
    const floats slope = lanes_load(own->slopes + query);
    for (int64_t s = 0; s < keys; s++) {
        float *score = own->weights + s * KEYS + column, *dscore = own->dscores + s * KEYS + column;
        const floats power = lanes_exp2(lanes_fma(lanes_load(score), lanes_of(scale2), -largest));
        const floats weight = power * inverse;
        lanes_store(score, weight);
        lanes_store(dscore, weight * (lanes_load(dscore) - slope));
    }
}

static void pair_backward(const struct plan *plan, const struct backward *own, int64_t head,
                          int64_t tile, struct range keys, float *dq)
{
    const struct attention *call = plan->call;
    const struct range queries = piece_range(tile, KEYS, call->length);
    const int64_t d = call->head_dim, e = call->value_dim, at = tile * KEYS;
    const int64_t columns = registers_of(queries.count);

    CPU(product_nn)
    (keys.count, columns, d, own->keys, plan->dim, own->transposed + at * d, KEYS, 0, own->weights,
     KEYS);
    CPU(product_nn)
    (keys.count, columns, e, own->values, plan->value, own->dout_transposed + at * e, KEYS, 0,
     own->dscores, KEYS);
    scores_mask(plan, head, keys, queries.from, columns, own->weights, KEYS);
    for (int64_t t = 0; t < columns; t += LANES)
        column_weigh_backward(own, at + t, t, keys.count, plan->scale2);
    CPU(product_nn)
    (keys.count, plan->value, queries.count, own->weights, KEYS, own->dout + at * plan->value,
     plan->value, 1, own->dvalues, plan->value);
    CPU(product_nn)
    (keys.count, plan->dim, queries.count, own->dscores, KEYS, own->queries + at * plan->dim,
     plan->dim, 1, own->dkeys, plan->dim);
    CPU(product_tn)
    (queries.count, plan->dim, keys.count, own->dscores, KEYS, own->keys, plan->dim, 1,
     dq + queries.from * plan->dim, plan->dim);
}

static void rows_scale(const float *from, int64_t stride, float scale, struct rows to,
                       int64_t count, int64_t width)
{
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < width; i++) row_of(to, r)[i] = from[r * stride + i] * scale;
}

static void keys_backward(const struct plan *plan, const struct backward *own, int64_t head,
                          int64_t tile, float *dq)
{
    const struct attention *call = plan->call;
    const struct range keys = piece_range(tile, KEYS, call->length);

    rows_pack(rows_from(plan, call->k, head, keys.from), keys.count, call->head_dim, own->keys);
    rows_pack(rows_from(plan, call->v, head, keys.from), keys.count, call->value_dim, own->values);
    memset(own->dkeys, 0, (size_t)(KEYS * plan->dim) * sizeof(float));
    memset(own->dvalues, 0, (size_t)(KEYS * plan->value) * sizeof(float));
    if (tile_has_keys(plan, head, keys))
        for (int64_t i = call->causal ? tile : 0; i < plan->tiles; i++)
            pair_backward(plan, own, head, i, keys, dq);
    rows_scale(own->dkeys, plan->dim, plan->scale,
               rows_from(plan, plan->backward->dk, head, keys.from), keys.count, call->head_dim);
    rows_scale(own->dvalues, plan->value, 1, rows_from(plan, plan->backward->dv, head, keys.from),
               keys.count, call->value_dim);
}

static void stretch_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const int64_t head = piece / plan->stretches, stretch = piece % plan->stretches;
    const struct range own_tiles = piece_range(stretch, plan->stretch, plan->tiles);
    float *dq = stretch_dq(plan, head, stretch);
    struct backward own;
    backward_take(plan, plan->threads + thread * plan->thread_floats, &own);

    memset(dq, 0, (size_t)plan->dq_head * sizeof *dq);
    for (int64_t i = plan->call->causal ? own_tiles.from : 0; i < plan->tiles; i++)
        queries_take(plan, &own, head, i);
    for (int64_t j = own_tiles.from; j < own_tiles.from + own_tiles.count; j++)
        keys_backward(plan, &own, head, j, dq);
}

/* dq of a tile of queries from the stretches of its keys. */
static void dq_sum(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const int64_t head = piece / plan->tiles;
    const struct range queries = piece_range(piece % plan->tiles, KEYS, plan->call->length);
    float *sum = stretch_dq(plan, head, 0) + queries.from * plan->dim;
    (void)thread;

    for (int64_t stretch = 1; stretch < plan->stretches; stretch++) {
        const float *from = stretch_dq(plan, head, stretch) + queries.from * plan->dim;
        for (int64_t i = 0; i < queries.count * plan->dim; i++) sum[i] += from[i];
    }
    rows_scale(sum, plan->dim, plan->scale, rows_from(plan, plan->backward->dq, head, queries.from),
               queries.count, plan->call->head_dim);
}

enum status CPU(softmax_backward)(struct stream *stream, const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    struct plan plan;
    assert(call->saved);
    backward_plan(&plan, call, team_threads(stream->team), stream->scratch);
    plan.backward = backward;
    team_run(stream->team, plan.heads * plan.stretches, stretch_backward, &plan);
    team_run(stream->team, plan.heads * plan.tiles, dq_sum, &plan);
    return ST_OK;
}
