/*
 * Linformer (Wang et al. 2020, equation 7): K = E k and V = F v of each head, then exact attention of its queries over these
 * r keys, by softmax.c. K and V are kept for the backward pass, and behind them what that keeps.
 */

#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scores.h"

enum {
    ROWS = 128, /* of E and F of a piece, forward */
    KEYS = 256, /* of a block, forward */
    BACK = 256, /* keys of a piece, backward */
};

struct plan {
    const struct attention *call;
    const struct attention_backward *backward;
    int64_t heads;
    int64_t keys, values; /* strides of (r, d) and (r, e): whole registers */
    int64_t head_floats;  /* K and V of a head */
    float *compressed;    /* (B H, head_floats) */
    float *gradients;     /* (B H, head_floats): dK and dV, backward */
    float *threads;
    int64_t thread_floats;
    struct stream inner; /* that of the exact attention */
};

/* Of a thread. */
struct forward {
    struct tile keys;      /* (KEYS, the larger stride) */
    uint32_t *matrix_room; /* (ROWS, KEYS) */
};

static size_t forward_take(const struct plan *plan, float *base, struct forward *own)
{
    const enum precision precision = plan->call->precision;
    struct scratch scratch = {base, 0};
    own->keys = tile_take_columns(&scratch, precision, KEYS, larger(plan->keys, plan->values));
    own->matrix_room = operand_room(&scratch, precision, operand_rows_words(ROWS, KEYS));
    return scratch.used;
}

/* Of a thread. */
struct backward {
    struct tile matrix;       /* (r, matrix_stride) */
    uint32_t *gradients_room; /* (r, the larger stride) */
};

/* Columns of E and F side by side, which are walked down. */
static int64_t matrix_stride(void)
{
    return gemm_stride(BACK);
}

static size_t backward_take(const struct plan *plan, float *base, struct backward *own)
{
    const enum precision precision = plan->call->precision;
    const int64_t rank = plan->call->rank, widest = larger(plan->keys, plan->values);
    struct scratch scratch = {base, 0};
    own->matrix = tile_take_columns(&scratch, precision, rank, matrix_stride());
    own->gradients_room = operand_room(&scratch, precision, operand_columns_words(rank, widest));
    return scratch.used;
}

static void plan_shape(struct plan *plan, const struct attention *call)
{
    *plan = (struct plan){
        .call = call,
        .heads = call->batch * call->heads,
        .keys = registers_of(call->head_dim),
        .values = registers_of(call->value_dim),
    };
    plan->head_floats = call->rank * (plan->keys + plan->values);
}

/* K and V lie in what is kept, where a backward pass will come; else in the scratch. */
static size_t forward_plan(struct plan *plan, const struct attention *call, int threads,
                           float *base)
{
    struct scratch scratch = {base, 0};
    struct forward own;
    plan_shape(plan, call);
    plan->compressed = scratch_take(&scratch, plan->heads * plan->head_floats);
    if (call->saved) plan->compressed = call->saved;
    plan->thread_floats = (int64_t)forward_take(plan, NULL, &own);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    plan->inner.scratch_bytes = CPU(softmax_scratch)(call, threads);
    plan->inner.scratch = scratch_take(&scratch, (int64_t)(plan->inner.scratch_bytes / 4));
    return scratch.used;
}

static size_t backward_plan(struct plan *plan, const struct attention *call, int threads,
                            float *base)
{
    struct scratch scratch = {base, 0};
    struct backward own;
    plan_shape(plan, call);
    plan->compressed = call->saved;
    plan->gradients = scratch_take(&scratch, plan->heads * plan->head_floats);
    plan->thread_floats = (int64_t)backward_take(plan, NULL, &own);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    plan->inner.scratch_bytes = CPU(softmax_backward_scratch)(call, threads);
    plan->inner.scratch = scratch_take(&scratch, (int64_t)(plan->inner.scratch_bytes / 4));
    return scratch.used;
}

size_t CPU(linformer_saved_floats)(const struct attention *call)
{
    struct plan plan;
    plan_shape(&plan, call);
    return (size_t)(plan.heads * plan.head_floats) + CPU(softmax_saved_floats)(call);
}

size_t CPU(linformer_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return forward_plan(&plan, call, threads, NULL) * sizeof(float);
}

size_t CPU(linformer_backward_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return backward_plan(&plan, call, threads, NULL) * sizeof(float);
}

/* Rows of K and of V, or of what comes back to them, as those of a sequence of r. */
static struct heads_view keys_view(const struct plan *plan, float *data)
{
    return (struct heads_view){data, plan->call->heads * plan->head_floats, plan->head_floats,
                               plan->keys};
}

static struct heads_view values_view(const struct plan *plan, float *data)
{
    return (struct heads_view){data + plan->call->rank * plan->keys,
                               plan->call->heads * plan->head_floats, plan->head_floats,
                               plan->values};
}

/* softmax(q Kᵀ / √d) V. A key that is masked is a row of zeros in k and v, and none of K and V. */
static struct attention inner_of(const struct plan *plan)
{
    struct attention inner = *plan->call;
    inner.key_mask = NULL;
    inner.k = keys_view(plan, plan->compressed);
    inner.v = values_view(plan, plan->compressed);
    if (inner.saved) inner.saved += plan->heads * plan->head_floats;
    return inner;
}

/* One of the two products that are alike: of E with k or of F with v; backward, with what comes back to these. */
struct side {
    const float *matrix;             /* (r, columns) */
    int64_t width, stride;           /* of a row of k; of K */
    struct heads_view x, compressed; /* (B, H, L, width) (B, H, r, width) */
};

static struct side side_of(const struct plan *plan, bool is_value)
{
    const struct attention *call = plan->call;
    const struct attention_backward *backward = plan->backward;
    float *compressed = backward ? plan->gradients : plan->compressed;
    return is_value
               ? (struct side){call->value_projection, call->value_dim, plan->values,
                               backward ? backward->dv : call->v, values_view(plan, compressed)}
               : (struct side){call->key_projection, call->head_dim, plan->keys,
                               backward ? backward->dk : call->k, keys_view(plan, compressed)};
}

static void rows_zero_masked(const uint8_t *mask, struct rows rows, int64_t count, int64_t width)
{
    for (int64_t s = 0; s < count && mask; s++)
        if (!mask[s]) memset(row_of(rows, s), 0, (size_t)width * sizeof(float));
}

/* ROWS rows of K or of V: head by head, first K, then V. */
static void compress(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(call->rank, ROWS), head = piece / (2 * blocks);
    const struct side side = side_of(plan, piece / blocks % 2);
    const struct range rows = piece_range(piece % blocks, ROWS, call->rank);
    const struct rows to = rows_from(call, side.compressed, head, rows.from);
    const uint8_t *mask = sequence_mask(call, head / call->heads);
    struct forward own;
    forward_take(plan, plan->threads + thread * plan->thread_floats, &own);

    for (int64_t from = 0; from < call->length; from += KEYS) {
        const int64_t count = smaller(KEYS, call->length - from);
        const struct rows keys = {own.keys.floats, side.stride};
        CPU(rows_pack)(rows_from(call, side.x, head, from), count, side.width, keys.data);
        rows_zero_masked(mask ? mask + from : NULL, keys, count, side.width);
        CPU(operand_multiply)
        (rows.count, side.stride, count,
         CPU(operand_rows)(rows.count, count, side.matrix + rows.from * call->columns + from,
                           call->columns, own.matrix_room),
         CPU(operand_columns)(count, side.stride, keys.data, side.stride, own.keys.room), from > 0,
         to.data, to.stride);
    }
}

enum status CPU(linformer)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    forward_plan(&plan, call, team_threads(stream->team), stream->scratch);
    const struct attention inner = inner_of(&plan);
    plan.inner.team = stream->team;
    team_run(stream->team, plan.heads * 2 * pieces_of(call->rank, ROWS), compress, &plan);
    return CPU(softmax)(&plan.inner, &inner);
}

/* BACK rows of dk = Eᵀ dK or of dv = Fᵀ dV, of all heads of a sequence: first dk, then dv. */
static void compress_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(call->length, BACK), sequence = piece / (2 * blocks);
    const struct side side = side_of(plan, piece / blocks % 2);
    const struct range keys = piece_range(piece % blocks, BACK, call->length);
    const uint8_t *mask = sequence_mask(call, sequence);
    struct backward own;
    backward_take(plan, plan->threads + thread * plan->thread_floats, &own);

    for (int64_t i = 0; i < call->rank; i++)
        memcpy(own.matrix.floats + i * matrix_stride(), side.matrix + i * call->columns + keys.from,
               (size_t)keys.count * sizeof(float));
    const struct operand matrix = CPU(operand_columns)(call->rank, keys.count, own.matrix.floats,
                                                       matrix_stride(), own.matrix.room);
    for (int64_t h = 0; h < call->heads; h++) {
        const int64_t head = sequence * call->heads + h;
        const struct rows from = rows_from(call, side.compressed, head, 0);
        const struct rows to = rows_from(call, side.x, head, keys.from);
        CPU(operand_multiply_tn)
        (keys.count, side.width, call->rank, matrix,
         CPU(operand_columns)(call->rank, side.width, from.data, from.stride, own.gradients_room),
         false, to.data, to.stride);
        rows_zero_masked(mask ? mask + keys.from : NULL, to, keys.count, side.width);
    }
}

enum status CPU(linformer_backward)(struct stream *stream,
                                    const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    struct plan plan;
    assert(call->saved);
    backward_plan(&plan, call, team_threads(stream->team), stream->scratch);
    plan.backward = backward;
    plan.inner.team = stream->team;
    struct attention_backward inner = *backward;
    inner.forward = inner_of(&plan);
    inner.dk = keys_view(&plan, plan.gradients);
    inner.dv = values_view(&plan, plan.gradients);
    const enum status status = CPU(softmax_backward)(&plan.inner, &inner);
    team_run(stream->team, call->batch * 2 * pieces_of(call->length, BACK), compress_backward,
             &plan);
    return status;
}
