/*
 * A query sees the keys up to its own: a head is walked in chunks. Within a chunk the products of features are
 * masked, before it there is the state S = Σ_s φ(k_s) (v_s, 1)ᵀ (Choromanski et al. 2021, appendix B.1, in chunks).
 *
 * 1. Features of keys are relative to the running maximum c at the end of their chunk, the chunk's unit:
 *    φ_s = (exp(a_s - c_s) + ε) exp(c_s - unit). What is carried on is scaled by exp(unit before - unit) <= 1; a
 *    query's own factor cancels in the quotient. No prefix is recovered by subtraction.
 * 2. A chunk ends early where c has grown by GROWTH within it, so that its first query does not lose its keys.
 *    Chunks depend on the keys alone.
 * 3. S is kept for the backward pass at the start of every segment. That pass goes through segments from the last
 *    to the first: forward through the chunks of a segment for dq, with S; back through them for dk and dv, with
 *    U = Σ_t φ(q_t) g_tᵀ over later queries (paper.md 1.8).
 */

#include "kernels/cpu/favor.h"

enum {
    SEGMENT = 128,
    CHUNK = 64,
};

/* To base 2; about exp(40). */
#define GROWTH 58.0f

struct plan {
    struct favor favor;
    const struct attention_backward *backward; /* NULL in the forward pass */
    int64_t segments;
    int64_t state; /* floats of S or U */
    int64_t
        query_stride; /* forward: features of a query, then its products with the chunk's keys */
    int64_t chunk_stride; /* of products of a chunk with itself */
    int64_t
        saved; /* floats of a head's: (segments, state + 16): S and unit; inverse denominators */
    float *threads;
    int64_t thread_floats;
};

/* In a thread's own memory. */
struct tiles {
    float *query;           /* (SEGMENT, query_stride) */
    float *key, *dfeatures; /* (SEGMENT, stride) (CHUNK, stride) */
    float *state, *later;   /* S, followed by (CHUNK, values_stride): values of the chunk; U */
    float *quotient;        /* (SEGMENT, values_stride): forward quotients, backward gradients */
    float *weights,
        *dweights; /* (CHUNK, chunk_stride) (SEGMENT, chunk_stride): φ(q) . φ(k), g . (v, 1) */
    float *half, *maximum, *floor, *epsilon; /* (SEGMENT) */
};

static size_t tiles_take(const struct plan *plan, float *base, struct tiles *tiles)
{
    const struct favor *favor = &plan->favor;
    struct scratch scratch = {base, 0};
    tiles->query = scratch_take(&scratch, SEGMENT * plan->query_stride);
    tiles->key = scratch_take(&scratch, SEGMENT * favor->stride);
    tiles->state = scratch_take(&scratch, plan->state + CHUNK * favor->values_stride);
    tiles->quotient = scratch_take(&scratch, SEGMENT * favor->values_stride);
    tiles->half = scratch_take(&scratch, SEGMENT);
    tiles->maximum = scratch_take(&scratch, SEGMENT);
    tiles->floor = scratch_take(&scratch, SEGMENT);
    if (!plan->backward) return scratch.used;
    tiles->dfeatures = scratch_take(&scratch, CHUNK * favor->stride);
    tiles->later = scratch_take(&scratch, plan->state);
    tiles->weights = scratch_take(&scratch, CHUNK * plan->chunk_stride);
    tiles->dweights = scratch_take(&scratch, SEGMENT * plan->chunk_stride);
    tiles->epsilon = scratch_take(&scratch, SEGMENT);
    return scratch.used;
}

static size_t plan_make(struct plan *plan, const struct attention *call,
                        const struct attention_backward *backward, int threads, float *base)
{
    struct scratch scratch = {base, 0};
    struct tiles tiles;
    *plan = (struct plan){.favor = CPU(favor_geometry)(call), .backward = backward};
    struct favor *favor = &plan->favor;

    plan->segments = pieces_of(call->length, SEGMENT);
    plan->state = favor->features * favor->values_stride;
    plan->query_stride = backward ? favor->stride : gemm_stride(favor->features + CHUNK);
    plan->chunk_stride = gemm_stride(CHUNK);
    plan->saved = plan->segments * (plan->state + 16) + (int64_t)scratch_floats(call->length);

    favor->projection = scratch_take(&scratch, CPU(favor_projection_floats)(favor));
    plan->thread_floats = (int64_t)tiles_take(plan, NULL, &tiles);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(favor_causal_saved_floats)(const struct attention *call)
{
    struct plan plan;
    plan_make(&plan, call, NULL, 1, NULL);
    return (size_t)(call->batch * call->heads * plan.saved);
}

size_t CPU(favor_causal_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return plan_make(&plan, call, NULL, threads, NULL) * sizeof(float);
}

size_t CPU(favor_causal_backward_scratch)(const struct attention *call, int threads)
{
    const struct attention_backward backward = {.forward = *call};
    struct plan plan;
    return plan_make(&plan, call, &backward, threads, NULL) * sizeof(float);
}

struct head {
    int64_t sequence, head;
    const uint8_t *mask;
    float *saved, *inverse; /* NULL where nothing is kept */
};

static struct head head_at(const struct plan *plan, int64_t index)
{
    const struct attention *call = plan->favor.call;
    float *saved = call->saved ? call->saved + index * plan->saved : NULL;
    return (struct head){
        .sequence = index / call->heads,
        .head = index % call->heads,
        .mask = sequence_mask(call, index / call->heads),
        .saved = saved,
        .inverse = saved ? saved + plan->segments * (plan->state + 16) : NULL,
    };
}

static struct rows rows_from(struct heads_view view, const struct head *head, int64_t row)
{
    struct rows rows = head_rows(view, head->sequence, head->head);
    rows.data = row_of(rows, row);
    return rows;
}

/* A stretch of positions that share a unit. */
struct chunk {
    int64_t from, count; /* from: within its segment */
    float unit;
};

/* Where the segment stands in the head, and how it is cut. */
struct segment {
    int64_t from, count;
    const uint8_t *mask;
    int64_t chunks;
    struct chunk chunk[SEGMENT];
};

static int64_t chunk_count(const float *maximum, int64_t from, int64_t end)
{
    int64_t at = from + 1;
    while (at < end && at < from + CHUNK && !(maximum[at] - maximum[from] > GROWTH)) at++;
    return at - from;
}

/* Features of the segment's queries and keys, and its chunks; `unit` is the running maximum before it. */
static void segment_features(const struct plan *plan, const struct head *head,
                             const struct tiles *tiles, float unit, struct segment *segment)
{
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const struct rows k = rows_from(call->k, head, segment->from);
    const int64_t count = segment->count;

    CPU(favor_project)
    (favor, rows_from(call->q, head, segment->from), count, tiles->query, plan->query_stride);
    CPU(favor_queries)(favor, count, tiles->query, plan->query_stride);
    CPU(favor_project)(favor, k, count, tiles->key, favor->stride);
    CPU(favor_key_sizes)(favor, k, segment->mask, count, tiles->key, tiles->half, tiles->maximum);
    for (int64_t s = 0; s < count; s++) {
        if (tiles->maximum[s] > unit) unit = tiles->maximum[s];
        tiles->maximum[s] = unit;
    }

    segment->chunks = 0;
    for (int64_t from = 0; from < count;) {
        const int64_t rows = chunk_count(tiles->maximum, from, count);
        const float end = tiles->maximum[from + rows - 1];
        for (int64_t s = from; s < from + rows; s++)
            tiles->floor[s] = segment->mask && !segment->mask[s]
                                  ? 0
                                  : call->epsilon * CPU(favor_decay)(tiles->maximum[s], end);
        CPU(favor_keys)
        (favor, segment->mask ? segment->mask + from : NULL, rows, end, tiles->half + from,
         tiles->floor + from, tiles->key + from * favor->stride);
        segment->chunk[segment->chunks++] = (struct chunk){from, rows, end};
        from += rows;
    }
}

static struct segment segment_at(const struct plan *plan, const struct head *head, int64_t index)
{
    const struct range range = piece_range(index, SEGMENT, plan->favor.call->length);
    return (struct segment){
        .from = range.from,
        .count = range.count,
        .mask = head->mask ? head->mask + range.from : NULL,
    };
}

/* 0 above the diagonal: what a query must not see. */
static void mask_future(float *square, int64_t stride, int64_t count)
{
    for (int64_t t = 0; t < count; t++)
        memset(square + t * stride + t + 1, 0, (size_t)(count - t - 1) * sizeof *square);
}

/* S += φ(k_s) (v_s, 1)ᵀ */
static void state_add(const struct favor *favor, const struct tiles *tiles,
                      const struct chunk *chunk, const float *values)
{
    gemm_tn(favor->features, favor->values, chunk->count, 1,
            tiles->key + chunk->from * favor->stride, favor->stride, values, favor->values_stride,
            1, tiles->state, favor->values_stride);
}

/* Quotients of a chunk: (φ(q), masked φ(q) φ(k)ᵀ) times (S; (v, 1)), one product. Then S moves on. */
static void chunk_forward(const struct plan *plan, const struct head *head,
                          const struct tiles *tiles, const struct segment *segment,
                          const struct chunk *chunk)
{
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const int64_t m = favor->features, count = chunk->count, from = segment->from + chunk->from;
    float *query = tiles->query + chunk->from * plan->query_stride;
    float *values = tiles->state + m * favor->values_stride;

    CPU(favor_values)(favor, rows_from(call->v, head, from), count, values);
    gemm_nt(count, count, m, 1, query, plan->query_stride, tiles->key + chunk->from * favor->stride,
            favor->stride, 0, query + m, plan->query_stride);
    mask_future(query + m, plan->query_stride, count);
    gemm_nn(count, favor->values, m + count, 1, query, plan->query_stride, tiles->state,
            favor->values_stride, 0, tiles->quotient, favor->values_stride);
    CPU(favor_divide)
    (favor, tiles->quotient, count, rows_from(call->out, head, from),
     head->inverse ? head->inverse + from : NULL);
    state_add(favor, tiles, chunk, values);
}

static void head_forward(void *context, int64_t index, int thread)
{
    const struct plan *plan = context;
    const struct head head = head_at(plan, index);
    float unit = -INFINITY;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    memset(tiles.state, 0, (size_t)plan->state * sizeof *tiles.state);
    for (int64_t i = 0; i < plan->segments; i++) {
        struct segment segment = segment_at(plan, &head, i);
        if (head.saved) {
            float *saved = head.saved + i * (plan->state + 16);
            memcpy(saved, tiles.state, (size_t)plan->state * sizeof *saved);
            saved[plan->state] = unit;
        }
        segment_features(plan, &head, &tiles, unit, &segment);
        for (int64_t c = 0; c < segment.chunks; c++) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)(tiles.state, plan->state, CPU(favor_decay)(unit, chunk->unit));
            unit = chunk->unit;
            chunk_forward(plan, &head, &tiles, &segment, chunk);
        }
    }
}

enum status CPU(favor_causal)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    plan_make(&plan, call, NULL, team_threads(stream->team), stream->scratch);
    CPU(favor_projection_fill)(&plan.favor);
    team_run(stream->team, call->batch * call->heads, head_forward, &plan);
    return gemm_outcome();
}

/* dφ(q_t) = S g_t + Σ_{s <= t} (g_t . (v_s, 1)) φ(k_s); the products g . (v, 1) stay for the keys. */
static void chunk_queries_backward(const struct plan *plan, const struct head *head,
                                   const struct tiles *tiles, const struct segment *segment,
                                   const struct chunk *chunk)
{
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const int64_t m = favor->features, count = chunk->count, from = segment->from + chunk->from;
    const float *gradients = tiles->quotient + chunk->from * favor->values_stride;
    float *values = tiles->state + m * favor->values_stride;
    float *dweights = tiles->dweights + chunk->from * plan->chunk_stride;

    CPU(favor_values)(favor, rows_from(call->v, head, from), count, values);
    gemm_nt(count, count, favor->values, 1, gradients, favor->values_stride, values,
            favor->values_stride, 0, dweights, plan->chunk_stride);
    mask_future(dweights, plan->chunk_stride, count);
    gemm_nt(count, m, favor->values, 1, gradients, favor->values_stride, tiles->state,
            favor->values_stride, 0, tiles->dfeatures, favor->stride);
    gemm_nn(count, m, count, 1, dweights, plan->chunk_stride,
            tiles->key + chunk->from * favor->stride, favor->stride, 1, tiles->dfeatures,
            favor->stride);
    CPU(favor_features_backward)
    (favor, rows_from(call->q, head, from), count, tiles->query + chunk->from * plan->query_stride,
     plan->query_stride, tiles->epsilon, tiles->dfeatures,
     rows_from(plan->backward->dq, head, from));
    if (chunk->from + count < segment->count) state_add(favor, tiles, chunk, values);
}

/* dφ(k_s) = U (v_s, 1) + Σ_{t >= s} (g_t . (v_s, 1)) φ(q_t), dv_s = Uᵀ φ(k_s) + Σ_{t >= s} (φ(q_t) . φ(k_s)) g_t; then
 * U takes in the queries of the chunk. */
static void chunk_keys_backward(const struct plan *plan, const struct head *head,
                                const struct tiles *tiles, const struct segment *segment,
                                const struct chunk *chunk)
{
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const int64_t m = favor->features, count = chunk->count, from = segment->from + chunk->from;
    const float *gradients = tiles->quotient + chunk->from * favor->values_stride;
    const float *query = tiles->query + chunk->from * plan->query_stride;
    const float *key = tiles->key + chunk->from * favor->stride;
    const float *dweights = tiles->dweights + chunk->from * plan->chunk_stride;
    const struct rows dv = rows_from(plan->backward->dv, head, from);
    float *values = tiles->state + m * favor->values_stride;

    CPU(favor_values)(favor, rows_from(call->v, head, from), count, values);
    gemm_nt(count, m, favor->values, 1, values, favor->values_stride, tiles->later,
            favor->values_stride, 0, tiles->dfeatures, favor->stride);
    gemm_tn(count, m, count, 1, dweights, plan->chunk_stride, query, plan->query_stride, 1,
            tiles->dfeatures, favor->stride);

    gemm_nt(count, count, m, 1, query, plan->query_stride, key, favor->stride, 0, tiles->weights,
            plan->chunk_stride);
    mask_future(tiles->weights, plan->chunk_stride, count);
    gemm_nn(count, call->value_dim, m, 1, key, favor->stride, tiles->later, favor->values_stride, 0,
            dv.data, dv.stride);
    gemm_tn(count, call->value_dim, count, 1, tiles->weights, plan->chunk_stride, gradients,
            favor->values_stride, 1, dv.data, dv.stride);

    CPU(favor_features_backward)
    (favor, rows_from(call->k, head, from), count, key, favor->stride, tiles->floor + chunk->from,
     tiles->dfeatures, rows_from(plan->backward->dk, head, from));
    gemm_tn(m, favor->values, count, 1, query, plan->query_stride, gradients, favor->values_stride,
            1, tiles->later, favor->values_stride);
}

static void head_backward(void *context, int64_t index, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct head head = head_at(plan, index);
    float later_unit = INFINITY; /* of the chunk behind; none yet */
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    for (int64_t t = 0; t < SEGMENT; t++) tiles.epsilon[t] = favor->call->epsilon;
    memset(tiles.later, 0, (size_t)plan->state * sizeof *tiles.later);
    for (int64_t i = plan->segments - 1; i >= 0; i--) {
        struct segment segment = segment_at(plan, &head, i);
        const float *saved = head.saved + i * (plan->state + 16);
        float unit = saved[plan->state];

        memcpy(tiles.state, saved, (size_t)plan->state * sizeof *saved);
        segment_features(plan, &head, &tiles, unit, &segment);
        CPU(favor_divide_backward)
        (favor, rows_from(plan->backward->dout, &head, segment.from),
         rows_from(favor->call->out, &head, segment.from), head.inverse + segment.from,
         segment.count, tiles.quotient);
        for (int64_t c = 0; c < segment.chunks; c++) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)(tiles.state, plan->state, CPU(favor_decay)(unit, chunk->unit));
            unit = chunk->unit;
            chunk_queries_backward(plan, &head, &tiles, &segment, chunk);
        }
        for (int64_t c = segment.chunks - 1; c >= 0; c--) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)(tiles.later, plan->state, CPU(favor_decay)(chunk->unit, later_unit));
            later_unit = chunk->unit;
            chunk_keys_backward(plan, &head, &tiles, &segment, chunk);
        }
    }
}

enum status CPU(favor_causal_backward)(struct stream *stream,
                                       const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    struct plan plan;
    assert(call->saved);
    plan_make(&plan, call, backward, team_threads(stream->team), stream->scratch);
    CPU(favor_projection_fill)(&plan.favor);
    team_run(stream->team, call->batch * call->heads, head_backward, &plan);
    return gemm_outcome();
}
