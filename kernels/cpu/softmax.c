/*
 * Exact attention in tiles of queries and keys with a running maximum: no (L, L) is ever stored (Dao et al. 2022,
 * algorithms 1 and 4). Linformer's queries come here too, once linformer.c has made their keys and values.
 *
 * Kept for the backward pass, of each query: the largest score m, to base 2, and 1 / Σ exp(. - m); log Σ exp, one
 * number for both, would round where scores are large.
 *
 * The backward pass visits each pair of tiles once, with as many queries at a time as the second cache holds: dk and dv of
 * a tile of keys are summed over these, dq is added to from tile to tile. Where there are few heads, a head's keys are cut
 * into stretches, each with a dq of its own, added in their order.
 */

#include <math.h>
#include <string.h>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/operand.h"
#include "kernels/cpu/scores.h"

enum {
    KEYS = 64,     /* of a tile */
    QUERIES = 128, /* of a tile, forward; whole tiles of keys */
    BLOCK = 8,     /* tiles of KEYS queries that are met together, backward */
    STRETCHES = 8, /* wanted of all heads together, backward */
};

struct plan {
    const struct attention *call;
    const struct attention_backward *backward;
    float scale, scale2;  /* 1 / √d, and that times log2 e */
    int64_t heads;        /* B H */
    int64_t keys, tiles;  /* of a head; the tiles of keys */
    int64_t dim, value;   /* strides of rows of d and of e: whole registers, 0 behind d and e */
    int64_t query_tiles;  /* of KEYS queries, backward */
    int64_t query_floats; /* of the memory of one */
    int64_t stretches, stretch, dq_head; /* of a head's keys, in tiles; floats of (L, dim) */
    float *dq;                           /* (heads, stretches, L, dim) */
    float *threads;
    int64_t thread_floats;
};

static void plan_shape(struct plan *plan, const struct attention *call)
{
    const float scale = 1 / sqrtf((float)call->head_dim);
    const int64_t keys = call->kind == ATTENTION_LINFORMER ? call->rank : call->length;
    *plan = (struct plan){
        .call = call,
        .scale = scale,
        .scale2 = scale * LOG2_E,
        .heads = call->batch * call->heads,
        .keys = keys,
        .tiles = pieces_of(keys, KEYS),
        .dim = registers_of(call->head_dim),
        .value = registers_of(call->value_dim),
        .query_tiles = pieces_of(call->length, KEYS),
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
    struct tile queries;  /* (d, QUERIES) */
    struct tile scores;   /* (KEYS, QUERIES) */
    struct tile values;   /* (KEYS, value) */
    uint32_t *keys_room;  /* (KEYS, d) */
    float *out;           /* (QUERIES, value) */
    float *largest, *sum; /* (QUERIES) */
    float *factor;        /* (QUERIES): of what was summed before a tile of keys */
};

static size_t forward_take(const struct plan *plan, float *base, struct forward *own)
{
    const enum precision precision = plan->call->precision;
    const int64_t d = plan->call->head_dim;
    struct scratch scratch = {base, 0};
    own->queries = tile_take_columns(&scratch, precision, d, QUERIES);
    own->scores = tile_take_columns(&scratch, precision, KEYS, QUERIES);
    own->values = tile_take_columns(&scratch, precision, KEYS, plan->value);
    own->keys_room = operand_room(&scratch, precision, operand_rows_words(KEYS, d));
    own->out = scratch_take(&scratch, QUERIES * plan->value);
    own->largest = scratch_take(&scratch, QUERIES);
    own->sum = scratch_take(&scratch, QUERIES);
    own->factor = scratch_take(&scratch, QUERIES);
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

/* What a tile of keys adds to the queries of a tile from column `first` on. */
static void tile_add(const struct plan *plan, const struct forward *own, int64_t head,
                     struct range queries, struct operand query_columns, struct range keys,
                     int64_t first)
{
    const struct attention *call = plan->call;
    const int64_t columns = registers_of(queries.count) - first;
    const struct rows k = rows_from(call, call->k, head, keys.from);
    const struct rows v = rows_from(call, call->v, head, keys.from);
    float *scores = own->scores.floats + first;

    const struct operand key_rows =
        CPU(operand_rows)(keys.count, call->head_dim, k.data, k.stride, own->keys_room);
    CPU(operand_multiply)
    (keys.count, columns, call->head_dim, key_rows,
     CPU(operand_columns_from)(query_columns, 0, first), false, scores, QUERIES);
    scores_mask(plan, head, keys, queries.from + first, columns, scores, QUERIES);
    CPU(scores_weigh)
    (keys.count, columns, scores, QUERIES, plan->scale2, own->largest + first, own->sum + first,
     own->factor + first);
    for (int64_t t = first; t < queries.count; t++) {
        float *row = own->out + t * plan->value;
        const float factor = own->factor[t];
        for (int64_t i = 0; i < plan->value && factor != 1; i++) row[i] *= factor;
    }
    const struct operand weights =
        CPU(operand_columns)(keys.count, columns, scores, QUERIES, own->scores.room);
    const struct operand values = CPU(tile_pack)(v, keys.count, call->value_dim, own->values);
    CPU(operand_multiply_tn)
    (queries.count - first, plan->value, keys.count, weights, values, true,
     own->out + first * plan->value, plan->value);
}

static void queries_begin(const struct plan *plan, const struct forward *own, struct range queries)
{
    memset(own->out, 0, (size_t)(queries.count * plan->value) * sizeof(float));
    for (int64_t t = 0; t < QUERIES; t++) {
        own->largest[t] = -INFINITY;
        own->sum[t] = 0;
    }
}

static void queries_end(const struct plan *plan, const struct forward *own, int64_t head,
                        struct range queries)
{
    const struct attention *call = plan->call;
    const struct rows out = rows_from(call, call->out, head, queries.from);
    for (int64_t t = 0; t < queries.count; t++) {
        const float sum = own->sum[t], factor = sum > 0 || sum != sum ? 1 / sum : 0;
        const float *from = own->out + t * plan->value;
        float *to = row_of(out, t);
        for (int64_t i = 0; i < call->value_dim; i++) to[i] = from[i] * factor;
        if (!call->saved) continue;
        float *saved = head_saved(call, head) + queries.from + t;
        saved[0] = factor == 0 ? 0 : own->largest[t];
        saved[call->length] = factor;
    }
}

static void queries_forward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t tiles_of_head = pieces_of(call->length, QUERIES), head = piece / tiles_of_head;
    const struct range queries = piece_range(piece % tiles_of_head, QUERIES, call->length);
    struct forward own;
    forward_take(plan, plan->threads + thread * plan->thread_floats, &own);

    const struct operand query_columns =
        CPU(tile_transpose)(rows_from(call, call->q, head, queries.from), queries.count,
                            call->head_dim, QUERIES, own.queries);
    queries_begin(plan, &own, queries);
    for (int64_t j = 0; j < plan->tiles; j++) {
        const struct range keys = piece_range(j, KEYS, plan->keys);
        const int64_t first = call->causal ? larger(keys.from - queries.from, 0) : 0;
        if (first >= queries.count) break;
        if (tile_has_keys(plan, head, keys))
            tile_add(plan, &own, head, queries, query_columns, keys, first);
    }
    queries_end(plan, &own, head, queries);
}

enum status CPU(softmax)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    forward_plan(&plan, call, team_threads(stream->team), stream->scratch);
    team_run(stream->team, plan.heads * pieces_of(call->length, QUERIES), queries_forward, &plan);
    return ST_OK;
}

/* ---- backward ---- */

/* A tile of KEYS queries as the products take it. */
struct query_tile {
    struct operand q, dout;                       /* (KEYS, dim) (KEYS, value) */
    struct operand q_transposed, dout_transposed; /* (d, KEYS) (e, KEYS) */
};

struct query_memory {
    struct tile q, dout, q_transposed, dout_transposed;
};

static size_t query_memory_take(const struct plan *plan, float *base, struct query_memory *memory)
{
    const struct attention *call = plan->call;
    struct scratch scratch = {base, 0};
    memory->q = tile_take_columns(&scratch, call->precision, KEYS, plan->dim);
    memory->dout = tile_take_columns(&scratch, call->precision, KEYS, plan->value);
    memory->q_transposed = tile_take_columns(&scratch, call->precision, call->head_dim, KEYS);
    memory->dout_transposed = tile_take_columns(&scratch, call->precision, call->value_dim, KEYS);
    return scratch.used;
}

/* Of a thread: a block of queries, and a tile of keys. */
struct backward {
    struct query_tile queries[BLOCK];
    float *query_memory;               /* (BLOCK, query_floats) */
    float *largest, *inverse, *slopes; /* (BLOCK, KEYS): m, 1 / Σ and dout . out */
    struct tile keys, values;          /* (KEYS, dim) (KEYS, value) */
    float *dkeys, *dvalues;            /* alike */
    struct tile weights, dscores;      /* (KEYS, KEYS), a row a key */
    uint32_t *key_rows_room, *dscore_rows_room;
};

static size_t backward_take(const struct plan *plan, float *base, struct backward *own)
{
    const enum precision precision = plan->call->precision;
    const int64_t d = plan->call->head_dim;
    struct scratch scratch = {base, 0};
    own->query_memory = scratch_take(&scratch, BLOCK * plan->query_floats);
    own->largest = scratch_take(&scratch, BLOCK * KEYS);
    own->inverse = scratch_take(&scratch, BLOCK * KEYS);
    own->slopes = scratch_take(&scratch, BLOCK * KEYS);
    own->keys = tile_take_columns(&scratch, precision, KEYS, plan->dim);
    own->key_rows_room = operand_room(&scratch, precision, operand_rows_words(KEYS, d));
    own->values = tile_take_rows(&scratch, precision, KEYS, plan->value);
    own->dkeys = scratch_take(&scratch, KEYS * plan->dim);
    own->dvalues = scratch_take(&scratch, KEYS * plan->value);
    own->weights = tile_take_rows(&scratch, precision, KEYS, KEYS);
    own->dscores = tile_take_columns(&scratch, precision, KEYS, KEYS);
    own->dscore_rows_room = operand_room(&scratch, precision, operand_rows_words(KEYS, KEYS));
    return scratch.used;
}

static size_t backward_plan(struct plan *plan, const struct attention *call, int threads,
                            float *base)
{
    struct scratch scratch = {base, 0};
    struct query_memory memory;
    struct backward own;
    plan_shape(plan, call);
    plan->query_floats = (int64_t)query_memory_take(plan, NULL, &memory);
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

static void queries_take(const struct plan *plan, struct backward *own, int64_t head, int64_t tile)
{
    const struct attention *call = plan->call;
    const struct range queries = piece_range(tile, KEYS, call->length);
    const struct rows q = rows_from(call, call->q, head, queries.from);
    const struct rows dout = rows_from(call, plan->backward->dout, head, queries.from);
    const struct rows out = rows_from(call, call->out, head, queries.from);
    const float *saved = head_saved(call, head) + queries.from;
    const int64_t count = queries.count, slot = tile % BLOCK, at = slot * KEYS;
    struct query_memory to;
    query_memory_take(plan, own->query_memory + slot * plan->query_floats, &to);

    own->queries[slot] = (struct query_tile){
        .q = CPU(tile_pack)(q, count, call->head_dim, to.q),
        .dout = CPU(tile_pack)(dout, count, call->value_dim, to.dout),
        .q_transposed = CPU(tile_transpose)(q, count, call->head_dim, KEYS, to.q_transposed),
        .dout_transposed =
            CPU(tile_transpose)(dout, count, call->value_dim, KEYS, to.dout_transposed),
    };
    for (int64_t t = 0; t < count; t++) {
        own->largest[at + t] = saved[t];
        own->inverse[at + t] = saved[call->length + t];
        own->slopes[at + t] = CPU(rows_dot)(row_of(dout, t), row_of(out, t), call->value_dim);
    }
    for (int64_t t = count; t < KEYS; t++)
        own->largest[at + t] = own->inverse[at + t] = own->slopes[at + t] = 0;
}

/* A tile of keys as the products take it. */
struct key_tile {
    struct range keys;
    struct operand k, v;      /* rows (KEYS, d) (KEYS, e) */
    struct operand k_columns; /* (KEYS, dim) */
};

static struct key_tile keys_take(const struct plan *plan, const struct backward *own, int64_t head,
                                 struct range keys)
{
    const struct attention *call = plan->call;
    const int64_t d = call->head_dim, e = call->value_dim, count = keys.count;
    const float *k = own->keys.floats, *v = own->values.floats;

    CPU(rows_pack)(rows_from(call, call->k, head, keys.from), count, d, own->keys.floats);
    CPU(rows_pack)(rows_from(call, call->v, head, keys.from), count, e, own->values.floats);
    return (struct key_tile){
        .keys = keys,
        .k = CPU(operand_rows)(count, d, k, plan->dim, own->key_rows_room),
        .v = CPU(operand_rows)(count, e, v, plan->value, own->values.room),
        .k_columns = CPU(operand_columns)(count, plan->dim, k, plan->dim, own->keys.room),
    };
}

static void pair_backward(const struct plan *plan, const struct backward *own, int64_t head,
                          int64_t tile, const struct key_tile *key, float *dq)
{
    const struct attention *call = plan->call;
    const struct query_tile *query = own->queries + tile % BLOCK;
    const struct range queries = piece_range(tile, KEYS, call->length);
    const int64_t columns = registers_of(queries.count), count = key->keys.count;
    const int64_t at = tile % BLOCK * KEYS;
    float *scores = own->weights.floats, *dscores = own->dscores.floats;

    CPU(operand_multiply)
    (count, columns, call->head_dim, key->k, query->q_transposed, false, scores, KEYS);
    CPU(operand_multiply)
    (count, columns, call->value_dim, key->v, query->dout_transposed, false, dscores, KEYS);
    scores_mask(plan, head, key->keys, queries.from, columns, scores, KEYS);
    CPU(scores_weigh_backward)
    (count, columns, scores, dscores, KEYS, plan->scale2, own->largest + at, own->inverse + at,
     own->slopes + at);

    const struct operand weight_rows =
        CPU(operand_rows)(count, queries.count, scores, KEYS, own->weights.room);
    const struct operand dscore_rows =
        CPU(operand_rows)(count, queries.count, dscores, KEYS, own->dscore_rows_room);
    const struct operand dscore_columns =
        CPU(operand_columns)(count, columns, dscores, KEYS, own->dscores.room);
    CPU(operand_multiply)
    (count, plan->value, queries.count, weight_rows, query->dout, true, own->dvalues, plan->value);
    CPU(operand_multiply)
    (count, plan->dim, queries.count, dscore_rows, query->q, true, own->dkeys, plan->dim);
    CPU(operand_multiply_tn)
    (queries.count, plan->dim, count, dscore_columns, key->k_columns, true,
     dq + queries.from * plan->dim, plan->dim);
}

static void rows_scale(const float *from, int64_t stride, float scale, struct rows to,
                       int64_t count, int64_t width)
{
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < width; i++) row_of(to, r)[i] = from[r * stride + i] * scale;
}

/* What a block of tiles of queries adds to dk and dv of a tile of keys, and that to dq. dk is scaled with the last. */
static void keys_backward(const struct plan *plan, const struct backward *own, int64_t head,
                          int64_t tile, struct range block, float *dq)
{
    const struct attention *call = plan->call;
    const struct range keys = piece_range(tile, KEYS, plan->keys);
    const struct rows dk = rows_from(call, plan->backward->dk, head, keys.from);
    const struct rows dv = rows_from(call, plan->backward->dv, head, keys.from);
    const int64_t first = call->causal ? tile : 0, behind = block.from + block.count;

    if (first >= block.from) {
        memset(own->dkeys, 0, (size_t)(KEYS * plan->dim) * sizeof(float));
        memset(own->dvalues, 0, (size_t)(KEYS * plan->value) * sizeof(float));
    } else {
        CPU(rows_pack)(dk, keys.count, call->head_dim, own->dkeys);
        CPU(rows_pack)(dv, keys.count, call->value_dim, own->dvalues);
    }
    if (tile_has_keys(plan, head, keys)) {
        const struct key_tile key = keys_take(plan, own, head, keys);
        for (int64_t i = larger(first, block.from); i < behind; i++)
            pair_backward(plan, own, head, i, &key, dq);
    }
    rows_scale(own->dkeys, plan->dim, behind == plan->query_tiles ? plan->scale : 1, dk, keys.count,
               call->head_dim);
    rows_scale(own->dvalues, plan->value, 1, dv, keys.count, call->value_dim);
}

static void stretch_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const int64_t head = piece / plan->stretches, stretch = piece % plan->stretches;
    const struct range keys = piece_range(stretch, plan->stretch, plan->tiles);
    float *dq = stretch_dq(plan, head, stretch);
    const bool causal = plan->call->causal;
    struct backward own;
    backward_take(plan, plan->threads + thread * plan->thread_floats, &own);

    memset(dq, 0, (size_t)plan->dq_head * sizeof *dq);
    for (int64_t b = causal ? keys.from / BLOCK : 0; b * BLOCK < plan->query_tiles; b++) {
        const struct range block = piece_range(b, BLOCK, plan->query_tiles);
        const int64_t behind = causal ? block.from + block.count : plan->tiles;
        for (int64_t i = block.from; i < block.from + block.count; i++)
            queries_take(plan, &own, head, i);
        for (int64_t j = keys.from; j < smaller(keys.from + keys.count, behind); j++)
            keys_backward(plan, &own, head, j, block, dq);
    }
}

/* dq of a tile of queries from the stretches of its keys. */
static void dq_sum(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t head = piece / plan->query_tiles;
    const struct range queries = piece_range(piece % plan->query_tiles, KEYS, call->length);
    float *sum = stretch_dq(plan, head, 0) + queries.from * plan->dim;
    (void)thread;

    for (int64_t stretch = 1; stretch < plan->stretches; stretch++) {
        const float *from = stretch_dq(plan, head, stretch) + queries.from * plan->dim;
        for (int64_t i = 0; i < queries.count * plan->dim; i++) sum[i] += from[i];
    }
    rows_scale(sum, plan->dim, plan->scale, rows_from(call, plan->backward->dq, head, queries.from),
               queries.count, call->head_dim);
}

enum status CPU(softmax_backward)(struct stream *stream, const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    struct plan plan;
    assert(call->saved);
    backward_plan(&plan, call, team_threads(stream->team), stream->scratch);
    plan.backward = backward;
    team_run(stream->team, plan.heads * plan.stretches, stretch_backward, &plan);
    team_run(stream->team, plan.heads * plan.query_tiles, dq_sum, &plan);
    return ST_OK;
}
