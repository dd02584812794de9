/*
 * Linformer (Wang et al. 2020, equation 7) as products of blocks: K = E k and V = F v of a head, then its queries
 * block by block with all r scores of a query at once. K and V are kept for the backward pass; scores are not.
 *
 * What comes back to K and V is summed over queries in a fixed number of stretches, added in their order.
 */

#include "kernels/cpu/attention.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

enum {
    ROWS = 64,     /* queries of a block, and rows of E and F of a piece */
    KEYS = 256,    /* keys of a block */
    STRETCHES = 8, /* wanted of all heads together, backward */
};

struct plan {
    const struct attention *call;
    const struct attention_backward *backward;
    float scale, scale2;          /* 1 / √d, and that times log2 e */
    int64_t heads, rank, blocks;  /* B H; r; blocks of queries of a head */
    int64_t keys, values, stride; /* strides of (r, d), (r, e) and (ROWS, r) */
    int64_t head_floats;          /* K and V of a head */
    int64_t stretch, stretches;   /* blocks of queries; of a head */
    float *compressed;            /* (B H, head_floats) */
    float *gradients;             /* (B H, stretches, head_floats), backward */
    float *threads;
    int64_t thread_floats;
};

/* Of a thread. */
struct tiles {
    float *scores, *dscores; /* (ROWS, stride) */
    float *inverse;          /* (ROWS): 1 / Σ of a row */
    float *q, *dout;         /* (ROWS, keys) (ROWS, values) */
    float *keys;             /* (KEYS, the larger of the two) */
};

static size_t tiles_take(const struct plan *plan, float *base, struct tiles *tiles)
{
    struct scratch scratch = {base, 0};
    tiles->scores = scratch_take(&scratch, ROWS * plan->stride);
    tiles->dscores = scratch_take(&scratch, ROWS * plan->stride);
    tiles->inverse = scratch_take(&scratch, ROWS);
    tiles->q = scratch_take(&scratch, ROWS * plan->keys);
    tiles->dout = scratch_take(&scratch, ROWS * plan->values);
    tiles->keys = scratch_take(&scratch, KEYS * larger(plan->keys, plan->values));
    return scratch.used;
}

static void plan_shape(struct plan *plan, const struct attention *call)
{
    const float scale = 1 / sqrtf((float)call->head_dim);
    *plan = (struct plan){
        .call = call,
        .scale = scale,
        .scale2 = scale * LOG2_E,
        .heads = call->batch * call->heads,
        .rank = call->rank,
        .blocks = pieces_of(call->length, ROWS),
        .keys = gemm_stride(call->head_dim),
        .values = gemm_stride(call->value_dim),
        .stride = gemm_stride(call->rank),
    };
    plan->head_floats = (int64_t)(scratch_floats(plan->rank * plan->keys) +
                                  scratch_floats(plan->rank * plan->values));
}

/* K and V lie in what is kept, where a backward pass will come; else in the scratch. */
static size_t plan_make(struct plan *plan, const struct attention *call, bool backward, int threads,
                        float *base)
{
    struct scratch scratch = {base, 0};
    struct tiles tiles;
    plan_shape(plan, call);
    plan->stretch = pieces_of(plan->blocks, pieces_of(STRETCHES, plan->heads));
    plan->stretches = pieces_of(plan->blocks, plan->stretch);
    plan->gradients =
        scratch_take(&scratch, backward ? plan->heads * plan->stretches * plan->head_floats : 0);
    plan->compressed = scratch_take(&scratch, backward ? 0 : plan->heads * plan->head_floats);
    if (call->saved) plan->compressed = call->saved;
    plan->thread_floats = (int64_t)tiles_take(plan, NULL, &tiles);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(linformer_saved_floats)(const struct attention *call)
{
    struct plan plan;
    plan_shape(&plan, call);
    return (size_t)(plan.heads * plan.head_floats);
}

size_t CPU(linformer_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return plan_make(&plan, call, false, threads, NULL) * sizeof(float);
}

size_t CPU(linformer_backward_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return plan_make(&plan, call, true, threads, NULL) * sizeof(float);
}

static struct tiles tiles_of(const struct plan *plan, int thread)
{
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    return tiles;
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

/* A head's K or V, or what comes back to it. */
struct part {
    float *data;
    int64_t stride, width;
};

static struct part keys_of(const struct plan *plan, float *head)
{
    return (struct part){head, plan->keys, plan->call->head_dim};
}

static struct part values_of(const struct plan *plan, float *head)
{
    return (struct part){head + scratch_floats(plan->rank * plan->keys), plan->values,
                         plan->call->value_dim};
}

static void rows_zero_masked(const uint8_t *mask, struct rows rows, int64_t count, int64_t width)
{
    for (int64_t s = 0; s < count && mask; s++)
        if (!mask[s]) memset(row_of(rows, s), 0, (size_t)width * sizeof(float));
}

/* ROWS rows of K = E k or of V = F v: head by head, first K, then V. */
static void compress(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(plan->rank, ROWS), head = piece / (2 * blocks);
    const bool is_value = piece / blocks % 2;
    const struct range own = piece_range(piece % blocks, ROWS, plan->rank);
    float *compressed = plan->compressed + head * plan->head_floats;
    const struct part to = is_value ? values_of(plan, compressed) : keys_of(plan, compressed);
    const float *matrix = is_value ? call->value_projection : call->key_projection;
    const uint8_t *mask = sequence_mask(call, head / call->heads);
    const struct tiles tiles = tiles_of(plan, thread);

    for (int64_t from = 0; from < call->length; from += KEYS) {
        const int64_t count = smaller(KEYS, call->length - from);
        const struct rows block = {tiles.keys, to.stride};
        rows_copy(block.data, block.stride,
                  rows_from(plan, is_value ? call->v : call->k, head, from), count, to.width);
        rows_zero_masked(mask ? mask + from : NULL, block, count, to.width);
        gemm_nn(own.count, to.width, count, 1, matrix + own.from * call->columns + from,
                call->columns, block.data, block.stride, from == 0 ? 0 : 1,
                to.data + own.from * to.stride, to.stride);
    }
}

/* row = 2^(row - its maximum); returns its sum */
static float row_weigh(float *row, int64_t count)
{
    floats best = lanes_of(-INFINITY), sum = {0};
    for (int64_t i = 0; i < count; i += LANES)
        best = lanes_larger(lanes_load_row(row, i, count, -INFINITY), best);
    const float largest = lanes_largest(best);
    for (int64_t i = 0; i < count; i += LANES) {
        const floats power = lanes_exp2(lanes_load_row(row, i, count, -INFINITY) - largest);
        sum += power;
        lanes_store_row(row, i, count, power);
    }
    return lanes_sum(sum);
}

/* Weights of a block of queries before they are divided by their sums. */
static void block_weigh(const struct plan *plan, const struct tiles *tiles, int64_t head,
                        struct range queries)
{
    const struct attention *call = plan->call;
    const struct part keys = keys_of(plan, plan->compressed + head * plan->head_floats);
    rows_copy(tiles->q, plan->keys, rows_from(plan, call->q, head, queries.from), queries.count,
              call->head_dim);
    gemm_nt(queries.count, plan->rank, call->head_dim, plan->scale2, tiles->q, plan->keys,
            keys.data, keys.stride, 0, tiles->scores, plan->stride);
    for (int64_t t = 0; t < queries.count; t++)
        tiles->inverse[t] = 1 / row_weigh(tiles->scores + t * plan->stride, plan->rank);
}

static void queries_forward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t head = piece / plan->blocks;
    const struct range queries = piece_range(piece % plan->blocks, ROWS, call->length);
    const struct part values = values_of(plan, plan->compressed + head * plan->head_floats);
    const struct rows out = rows_from(plan, call->out, head, queries.from);
    const struct tiles tiles = tiles_of(plan, thread);

    block_weigh(plan, &tiles, head, queries);
    gemm_nn(queries.count, call->value_dim, plan->rank, 1, tiles.scores, plan->stride, values.data,
            values.stride, 0, out.data, out.stride);
    for (int64_t t = 0; t < queries.count; t++) {
        float *row = row_of(out, t);
        for (int64_t i = 0; i < call->value_dim; i++) row[i] *= tiles.inverse[t];
    }
}

enum status CPU(linformer)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    plan_make(&plan, call, false, team_threads(stream->team), stream->scratch);
    team_run(stream->team, plan.heads * 2 * pieces_of(plan.rank, ROWS), compress, &plan);
    team_run(stream->team, plan.heads * plan.blocks, queries_forward, &plan);
    return gemm_outcome();
}

/* weights p, and dscores = p (dweights - Σ p dweights) in the place of dweights */
static void block_weigh_backward(const struct plan *plan, const struct tiles *tiles, int64_t count)
{
    for (int64_t t = 0; t < count; t++) {
        float *row = tiles->scores + t * plan->stride, *drow = tiles->dscores + t * plan->stride;
        floats dot = {0};
        for (int64_t i = 0; i < plan->rank; i += LANES) {
            const floats weight = lanes_load_row(row, i, plan->rank, 0) * tiles->inverse[t];
            dot = lanes_fma(weight, lanes_load_row(drow, i, plan->rank, 0), dot);
            lanes_store_row(row, i, plan->rank, weight);
        }
        const float mean = lanes_sum(dot);
        for (int64_t i = 0; i < plan->rank; i++) drow[i] = row[i] * (drow[i] - mean);
    }
}

/* dq of a block of queries, and what it adds to dK and dV of its stretch. */
static void block_backward(const struct plan *plan, const struct tiles *tiles, int64_t head,
                           struct range queries, bool first, float *gradients)
{
    const struct attention *call = plan->call;
    float *compressed = plan->compressed + head * plan->head_floats;
    const struct part keys = keys_of(plan, compressed), values = values_of(plan, compressed);
    const struct part dkeys = keys_of(plan, gradients), dvalues = values_of(plan, gradients);
    const struct rows dq = rows_from(plan, plan->backward->dq, head, queries.from);
    const float beta = first ? 0 : 1;

    block_weigh(plan, tiles, head, queries);
    rows_copy(tiles->dout, plan->values, rows_from(plan, plan->backward->dout, head, queries.from),
              queries.count, call->value_dim);
    gemm_nt(queries.count, plan->rank, call->value_dim, 1, tiles->dout, plan->values, values.data,
            values.stride, 0, tiles->dscores, plan->stride);
    block_weigh_backward(plan, tiles, queries.count);
    gemm_tn(plan->rank, call->value_dim, queries.count, 1, tiles->scores, plan->stride, tiles->dout,
            plan->values, beta, dvalues.data, dvalues.stride);
    gemm_tn(plan->rank, call->head_dim, queries.count, plan->scale, tiles->dscores, plan->stride,
            tiles->q, plan->keys, beta, dkeys.data, dkeys.stride);
    gemm_nn(queries.count, call->head_dim, plan->rank, plan->scale, tiles->dscores, plan->stride,
            keys.data, keys.stride, 0, dq.data, dq.stride);
}

static void stretch_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct range own = piece_range(piece % plan->stretches, plan->stretch, plan->blocks);
    const struct tiles tiles = tiles_of(plan, thread);

    for (int64_t block = own.from; block < own.from + own.count; block++)
        block_backward(plan, &tiles, piece / plan->stretches,
                       piece_range(block, ROWS, plan->call->length), block == own.from,
                       plan->gradients + piece * plan->head_floats);
}

/* dK and dV of a head: into those of its first stretch. What pads their rows is added too, and never read. */
static void stretches_sum(void *context, int64_t head, int thread)
{
    const struct plan *plan = context;
    float *sum = plan->gradients + head * plan->stretches * plan->head_floats;
    (void)thread;
    for (int64_t stretch = 1; stretch < plan->stretches; stretch++) {
        const float *from = sum + stretch * plan->head_floats;
        for (int64_t i = 0; i < plan->head_floats; i++) sum[i] += from[i];
    }
}

/* A block of dk = Eᵀ dK or of dv = Fᵀ dV: head by head, first dk, then dv. */
static void compress_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(call->length, KEYS), head = piece / (2 * blocks);
    const bool is_value = piece / blocks % 2;
    const struct range own = piece_range(piece % blocks, KEYS, call->length);
    float *gradients = plan->gradients + head * plan->stretches * plan->head_floats;
    const struct part from = is_value ? values_of(plan, gradients) : keys_of(plan, gradients);
    const float *matrix = is_value ? call->value_projection : call->key_projection;
    const uint8_t *mask = sequence_mask(call, head / call->heads);
    const struct rows to =
        rows_from(plan, is_value ? plan->backward->dv : plan->backward->dk, head, own.from);
    (void)thread;

    gemm_tn(own.count, from.width, plan->rank, 1, matrix + own.from, call->columns, from.data,
            from.stride, 0, to.data, to.stride);
    rows_zero_masked(mask ? mask + own.from : NULL, to, own.count, from.width);
}

enum status CPU(linformer_backward)(struct stream *stream,
                                    const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    struct plan plan;
    assert(call->saved);
    plan_make(&plan, call, true, team_threads(stream->team), stream->scratch);
    plan.backward = backward;
    team_run(stream->team, plan.heads * plan.stretches, stretch_backward, &plan);
    team_run(stream->team, plan.heads, stretches_sum, &plan);
    team_run(stream->team, plan.heads * 2 * pieces_of(call->length, KEYS), compress_backward,
             &plan);
    return gemm_outcome();
}
