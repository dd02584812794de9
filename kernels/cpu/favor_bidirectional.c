/*
 * Every query sees every key: S = Σ_s φ(k_s) (v_s, 1)ᵀ once a head, then φ(q_t)ᵀ S (Algorithm 1). A head is cut into
 * stretches whose sums are added in their order, so that few heads still feed many threads.
 *
 * The maximum over all keys is not known before the last: a stretch sums exp(a - own maximum so far) and is
 * scaled when the maximum grows; ε, which is relative to the maximum of all, is added as ε Σ (v_s, 1) at the end.
 */

#include "kernels/cpu/favor.h"

enum {
    BLOCK = FAVOR_POSITIONS,
    STRETCHES = 32,   /* wanted of all heads together */
    STRETCH_MIN = 512 /* rows of a stretch at least */
};

struct plan {
    struct favor favor;
    const struct attention_backward *backward; /* NULL in the forward pass */
    int64_t stretches, stretch;                /* of a head, and rows of one */
    int64_t saved; /* floats of a head's: S, unit, inverse denominators */
    float *kept;   /* (heads, saved): call->saved, or scratch */
    float *sums;   /* (heads, stretches, state) */
    float *extras; /* (heads, stretches, values_stride + 16): Σ (v, 1), unit */
    float *threads;
    int64_t thread_floats;
};

/* In a thread's own memory. */
struct tiles {
    struct favor_tile own; /* queries or keys */
    struct favor_rooms rooms;
    float *quotient, *denominator; /* (BLOCK, values_stride) (BLOCK) */
    float *gradients,
        *gradient_columns; /* (BLOCK, values_stride): g_t; (e + 1, FAVOR_STRIDE): gᵀ */
    float *value_columns;  /* (e + 1, FAVOR_STRIDE): (v, 1)ᵀ */
    float *dfeatures;      /* (features, FAVOR_STRIDE) */
};

static size_t tiles_take(const struct plan *plan, float *base, struct tiles *tiles)
{
    const struct favor *favor = &plan->favor;
    const int64_t columns = (favor->call->value_dim + 1) * FAVOR_STRIDE;
    struct scratch scratch = {base, 0};
    tiles->own = CPU(favor_tile_take)(favor, &scratch);
    tiles->rooms = CPU(favor_rooms_take)(favor, BLOCK, plan->backward != NULL, &scratch);
    tiles->quotient = scratch_take(&scratch, BLOCK * favor->values_stride);
    tiles->denominator = scratch_take(&scratch, BLOCK);
    if (!plan->backward) return scratch.used;
    tiles->gradients = scratch_take(&scratch, BLOCK * favor->values_stride);
    tiles->gradient_columns = scratch_take(&scratch, columns);
    tiles->value_columns = scratch_take(&scratch, columns);
    tiles->dfeatures = scratch_take(&scratch, favor->features * FAVOR_STRIDE);
    return scratch.used;
}

static size_t plan_make(struct plan *plan, const struct attention *call,
                        const struct attention_backward *backward, int threads, float *base)
{
    struct scratch scratch = {base, 0};
    struct tiles tiles;
    const int64_t heads = call->batch * call->heads;
    *plan =
        (struct plan){.favor = CPU(favor_geometry)(call, backward != NULL), .backward = backward};
    struct favor *favor = &plan->favor;

    const int64_t wanted = pieces_of(STRETCHES, heads);
    plan->stretch = larger(STRETCH_MIN, pieces_of(pieces_of(call->length, wanted), BLOCK) * BLOCK);
    plan->stretches = pieces_of(call->length, plan->stretch);
    plan->saved = plan->favor.state + 16 + (int64_t)scratch_floats(call->length);

    CPU(favor_projection_take)(favor, backward != NULL, &scratch);
    plan->kept = scratch_take(&scratch, heads * plan->saved);
    if (call->saved) plan->kept = call->saved;
    plan->sums = scratch_take(&scratch, heads * plan->stretches * plan->favor.state);
    plan->extras = scratch_take(&scratch, heads * plan->stretches * (favor->values_stride + 16));
    plan->thread_floats = (int64_t)tiles_take(plan, NULL, &tiles);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(favor_bidirectional_saved_floats)(const struct attention *call)
{
    struct plan plan;
    plan_make(&plan, call, NULL, 1, NULL);
    return (size_t)(call->batch * call->heads * plan.saved);
}

size_t CPU(favor_bidirectional_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return plan_make(&plan, call, NULL, threads, NULL) * sizeof(float);
}

size_t CPU(favor_bidirectional_backward_scratch)(const struct attention *call, int threads)
{
    const struct attention_backward backward = {.forward = *call};
    struct plan plan;
    return plan_make(&plan, call, &backward, threads, NULL) * sizeof(float);
}

/* A head, and what it keeps. */
struct head {
    int64_t sequence, head;
    const uint8_t *mask;
    float *state, *unit, *inverse;
};

static struct head head_at(const struct plan *plan, int64_t index)
{
    const struct attention *call = plan->favor.call;
    float *kept = plan->kept + index * plan->saved;
    return (struct head){
        .sequence = index / call->heads,
        .head = index % call->heads,
        .mask = sequence_mask(call, index / call->heads),
        .state = kept,
        .unit = kept + plan->favor.state,
        .inverse = kept + plan->favor.state + 16,
    };
}

static struct rows rows_from(struct heads_view view, const struct head *head, int64_t row)
{
    struct rows rows = head_rows(view, head->sequence, head->head);
    rows.data = row_of(rows, row);
    return rows;
}

static const uint8_t *mask_from(const struct head *head, int64_t row)
{
    return head->mask ? head->mask + row : NULL;
}

static float largest_of(const float *x, int64_t count, float largest)
{
    for (int64_t i = 0; i < count; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* sum += (v, 1) of keys */
static void values_sum(const struct favor *favor, struct rows v, const float *present,
                       int64_t count, float *sum)
{
    const int64_t e = favor->call->value_dim;
    for (int64_t s = 0; s < count; s++) {
        if (present[s] == 0) continue;
        for (int64_t i = 0; i < e; i++) sum[i] += row_of(v, s)[i];
        sum[e]++;
    }
}

static void stretch_keys(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const struct head head = head_at(plan, piece / plan->stretches);
    const struct range range = piece_range(piece % plan->stretches, plan->stretch, call->length);
    float *sums = plan->sums + piece * plan->favor.state;
    float *extra = plan->extras + piece * (favor->values_stride + 16);
    float unit = -INFINITY;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    memset(extra, 0, (size_t)favor->values_stride * sizeof *extra);
    for (int64_t from = range.from; from < range.from + range.count; from += BLOCK) {
        const int64_t count = smaller(BLOCK, range.from + range.count - from);
        const struct rows v = rows_from(call->v, &head, from);
        CPU(favor_sum_keys)
        (favor, rows_from(call->k, &head, from), v, mask_from(&head, from), count, &tiles.own,
         &tiles.rooms, from == range.from, sums, &unit);
        values_sum(favor, v, tiles.own.present, count, extra);
    }
    extra[favor->values_stride] = unit;
}

/* S of a head from its stretches. */
static void head_state(void *context, int64_t index, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct head head = head_at(plan, index);
    const int64_t first = index * plan->stretches, step = favor->values_stride + 16;
    const float *extras = plan->extras + first * step;
    float unit = -INFINITY;
    (void)thread;

    for (int64_t i = 0; i < plan->stretches; i++)
        unit = largest_of(extras + i * step + favor->values_stride, 1, unit);
    *head.unit = unit;
    memset(head.state, 0, (size_t)plan->favor.state * sizeof *head.state);
    for (int64_t i = 0; i < plan->stretches; i++) {
        const float *sums = plan->sums + (first + i) * plan->favor.state,
                    *extra = extras + i * step;
        const float factor = CPU(favor_decay)(extra[favor->values_stride], unit);
        const float floor = CPU(favor_floor)(favor, unit, unit);
        for (int64_t row = 0; row < favor->features; row++)
            for (int64_t j = 0; j <= favor->call->value_dim; j++)
                head.state[row * favor->values_stride + j] +=
                    factor * sums[row * favor->values_stride + j] + floor * extra[j];
    }
}

static void stretch_queries(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const struct head head = head_at(plan, piece / plan->stretches);
    const struct range range = piece_range(piece % plan->stretches, plan->stretch, call->length);
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    const struct operand state = state_columns(favor, head.state, &tiles.rooms);

    for (int64_t from = range.from; from < range.from + range.count; from += BLOCK) {
        const int64_t count = smaller(BLOCK, range.from + range.count - from);
        CPU(favor_queries)(favor, rows_from(call->q, &head, from), count, &tiles.own);
        const struct operand features =
            tile_columns(favor->features, count, tiles.own.features, tiles.rooms.columns);
        CPU(favor_query_state)
        (favor, count, features, state, tiles.quotient, tiles.denominator);
        CPU(favor_divide)
        (favor, tiles.quotient, tiles.denominator, count, rows_from(call->out, &head, from),
         head.inverse + from);
    }
}

enum status CPU(favor_bidirectional)(struct stream *stream, const struct attention *call)
{
    const int64_t heads = call->batch * call->heads;
    struct plan plan;
    plan_make(&plan, call, NULL, team_threads(stream->team), stream->scratch);

    CPU(favor_projection_fill)(&plan.favor);
    team_run(stream->team, heads * plan.stretches, stretch_keys, &plan);
    team_run(stream->team, heads, head_state, &plan);
    team_run(stream->team, heads * plan.stretches, stretch_queries, &plan);
    return ST_OK;
}

/* dφ(q_t) = S g_t, and the stretch's part of U = Σ_t φ(q_t) g_tᵀ (paper.md 1.8, with full sums). */
static void stretch_queries_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const struct attention_backward *backward = plan->backward;
    const struct head head = head_at(plan, piece / plan->stretches);
    const struct range range = piece_range(piece % plan->stretches, plan->stretch, call->length);
    const int64_t e = call->value_dim;
    float *sums = plan->sums + piece * plan->favor.state;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    const struct operand state = state_rows(favor, head.state, &tiles.rooms);

    for (int64_t from = range.from; from < range.from + range.count; from += BLOCK) {
        const int64_t count = smaller(BLOCK, range.from + range.count - from);
        const struct rows q = rows_from(call->q, &head, from);

        const struct rows gradients = {tiles.gradients, favor->values_stride};
        CPU(favor_queries)(favor, q, count, &tiles.own);
        CPU(favor_divide_backward)
        (favor, rows_from(backward->dout, &head, from), rows_from(call->out, &head, from),
         head.inverse + from, count, tiles.gradients);
        CPU(favor_transpose)(gradients, count, e + 1, tiles.gradient_columns);
        const struct operand columns =
            tile_columns(e + 1, count, tiles.gradient_columns, tiles.rooms.gradient_columns);
        const struct operand features =
            tile_rows(favor->features, count, tiles.own.features, tiles.rooms.rows);
        CPU(operand_multiply)
        (favor->features, count, e + 1, state, columns, false, tiles.dfeatures, FAVOR_STRIDE);
        CPU(favor_state_add)
        (favor, count, features,
         CPU(operand_columns)(count, e, gradients.data, gradients.stride, tiles.rooms.values),
         tiles.gradient_columns + e * FAVOR_STRIDE, from > range.from, sums);
        CPU(favor_features_backward)
        (favor, q, 0, count, &tiles.own, tiles.dfeatures, tiles.rooms.columns,
         rows_from(backward->dq, &head, from));
    }
}

/* U of a head, in the place of its first stretch. */
static void head_state_backward(void *context, int64_t index, int thread)
{
    const struct plan *plan = context;
    float *first = plan->sums + index * plan->stretches * plan->favor.state;
    (void)thread;
    for (int64_t i = 1; i < plan->stretches; i++)
        for (int64_t j = 0; j < plan->favor.state; j++)
            first[j] += first[i * plan->favor.state + j];
}

/* dφ(k_s) = U (v_s, 1), dv_s = Uᵀ φ(k_s) */
static void stretch_keys_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const struct attention_backward *backward = plan->backward;
    const int64_t index = piece / plan->stretches;
    const struct head head = head_at(plan, index);
    const struct range range = piece_range(piece % plan->stretches, plan->stretch, call->length);
    const float *sums = plan->sums + index * plan->stretches * plan->favor.state;
    const float floor = CPU(favor_floor)(favor, *head.unit, *head.unit);
    const int64_t e = call->value_dim;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    const struct operand by_features = state_columns(favor, sums, &tiles.rooms);
    const struct operand by_values = state_rows(favor, sums, &tiles.rooms);

    for (int64_t from = range.from; from < range.from + range.count; from += BLOCK) {
        const int64_t count = smaller(BLOCK, range.from + range.count - from);
        const struct rows k = rows_from(call->k, &head, from);
        const struct rows dv = rows_from(backward->dv, &head, from);

        CPU(favor_key_sizes)(favor, k, mask_from(&head, from), count, &tiles.own);
        for (int64_t s = 0; s < count; s++) {
            tiles.own.unit[s] = *head.unit;
            tiles.own.floor[s] = floor;
        }
        CPU(favor_keys)(favor, count, &tiles.own);
        CPU(favor_transpose)(rows_from(call->v, &head, from), count, e, tiles.value_columns);
        for (int64_t s = 0; s < count; s++) tiles.value_columns[e * FAVOR_STRIDE + s] = 1;
        const struct operand values =
            tile_columns(e + 1, count, tiles.value_columns, tiles.rooms.value_columns);
        const struct operand features =
            tile_columns(favor->features, count, tiles.own.features, tiles.rooms.columns);
        CPU(operand_multiply)
        (favor->features, count, e + 1, by_values, values, false, tiles.dfeatures, FAVOR_STRIDE);
        CPU(operand_multiply_tn)
        (count, e, favor->features, features, by_features, false, dv.data, dv.stride);
        CPU(favor_features_backward)
        (favor, k, 0, count, &tiles.own, tiles.dfeatures, tiles.rooms.columns,
         rows_from(backward->dk, &head, from));
    }
}

enum status CPU(favor_bidirectional_backward)(struct stream *stream,
                                              const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    const int64_t heads = call->batch * call->heads;
    struct plan plan;
    plan_make(&plan, call, backward, team_threads(stream->team), stream->scratch);
    assert(call->saved);

    CPU(favor_projection_fill)(&plan.favor);
    team_run(stream->team, heads * plan.stretches, stretch_queries_backward, &plan);
    team_run(stream->team, heads, head_state_backward, &plan);
    team_run(stream->team, heads * plan.stretches, stretch_keys_backward, &plan);
    return ST_OK;
}
