/*
 * A query sees the keys up to its own: a head is walked in chunks. Within a chunk the products of features are
 * masked, before it there is the state S = Σ_s φ(k_s) (v_s, 1)ᵀ (Choromanski et al. 2021, appendix B.1, in chunks).
 *
 * 1. Features of keys are relative to the running maximum c at the end of their chunk, the chunk's unit:
 *    φ_s = (exp(a_s - c_s) + ε) exp(c_s - unit). What is carried on is scaled by exp(unit before - unit) <= 1; a
 *    query's own factor cancels in the quotient. No prefix is recovered by subtraction. In bf16 units are rounded up
 *    to whole powers of two, by which features and S are scaled exactly: so what is rounded of them, and with it what
 *    a query sees, does not depend on keys behind it.
 * 2. A chunk ends early where c has grown by GROWTH within it, so that its first query does not lose its keys.
 *    Chunks depend on the keys alone.
 * 3. S is kept for the backward pass at the start of every segment. That pass goes through segments from the last
 *    to the first: forward through the chunks of a segment for dq, with S; back through them for dk and dv, with
 *    U = Σ_t φ(q_t) g_tᵀ over later queries (paper.md 1.8).
 * 4. Where there are few heads, a head is cut into stretches. What the keys (or queries) of each add to the state is
 *    summed first, for all stretches at once; then states are carried from stretch to stretch; then all stretches
 *    are walked at once. That is a third more work, and feeds as many threads as there are stretches.
 */

#include "kernels/cpu/favor.h"

enum {
    SEGMENT = FAVOR_POSITIONS,
    CHUNK = 32,
    TRIANGLE_STRIDE = CHUNK + 16,
    DIAGONAL = 16, /* rows and columns of the blocks that a triangle is made of */
    FEW_HEADS = 4,
    STRETCHES = 8,     /* wanted of all heads together, where there are fewer heads than that */
    STRETCH_MIN = 1024 /* rows of a stretch at least */
};

/* A block of a triangle reads on to the end of its chunk. */
_Static_assert((int)CHUNK <= (int)PANEL || DIAGONAL % PANEL == 0, "a block may cross panels");

/* To base 2; about exp(40). */
#define GROWTH 58.0f

struct plan {
    struct favor favor;
    const struct attention_backward *backward; /* NULL in the forward pass */
    int64_t segments;                          /* of a head */
    int64_t stretch, stretches;                /* segments of a stretch, stretches of a head */
    int64_t rows;                              /* floats of a number for each position of a head */
    /* Floats of a head's: (segments, state): S; (rows): inverse denominators; (rows): running maxima. */
    int64_t saved;
    /* (heads, stretches, state) and (heads, stretches): what stretches add and its unit; then S at their
     * start, relative to the running maximum, or U at their end. (heads, rows): maxima of keys on their own. */
    float *states, *units, *maxima;
    float *threads;
    int64_t thread_floats;
};

/* In a thread's own memory. */
struct tiles {
    struct favor_tile query, key;  /* of a segment */
    struct favor_rooms rooms;      /* of a chunk */
    uint32_t *triangle_room;       /* (CHUNK, CHUNK) */
    float *state, *later;          /* S, U */
    float *quotient, *denominator; /* (CHUNK, values_stride) (CHUNK) */
    float *weights;                /* (CHUNK, TRIANGLE_STRIDE): φ(k_s) . φ(q_t) */
    float *dweights;               /* (SEGMENT, TRIANGLE_STRIDE): (v_s, 1) . g_t, of all chunks */
    float *dweights_back;          /* (CHUNK, TRIANGLE_STRIDE): of a chunk, transposed */
    float *gradients;              /* (SEGMENT, values_stride): g_t */
    float *gradient_columns, *value_columns; /* (e + 1, FAVOR_STRIDE): gᵀ, (v, 1)ᵀ */
    float *dfeatures;                        /* (features, FAVOR_STRIDE) */
};

static size_t tiles_take(const struct plan *plan, float *base, struct tiles *tiles)
{
    const struct favor *favor = &plan->favor;
    const enum precision precision = favor->call->precision;
    const int64_t columns = (favor->call->value_dim + 1) * FAVOR_STRIDE;
    /* Stretches are summed by segments. */
    const int64_t positions = plan->stretches > 1 ? SEGMENT : CHUNK;
    struct scratch scratch = {base, 0};
    tiles->query = CPU(favor_tile_take)(favor, &scratch);
    tiles->key = CPU(favor_tile_take)(favor, &scratch);
    tiles->rooms = CPU(favor_rooms_take)(favor, positions, plan->backward != NULL, &scratch);
    tiles->triangle_room = operand_room(&scratch, precision, operand_columns_words(CHUNK, CHUNK));
    tiles->state = scratch_take(&scratch, favor->state);
    tiles->quotient = scratch_take(&scratch, CHUNK * favor->values_stride);
    tiles->denominator = scratch_take(&scratch, CHUNK);
    tiles->weights = scratch_take(&scratch, CHUNK * TRIANGLE_STRIDE);
    if (!plan->backward) return scratch.used;
    tiles->later = scratch_take(&scratch, favor->state);
    tiles->dweights = scratch_take(&scratch, SEGMENT * TRIANGLE_STRIDE);
    tiles->dweights_back = scratch_take(&scratch, CHUNK * TRIANGLE_STRIDE);
    tiles->gradients = scratch_take(&scratch, SEGMENT * favor->values_stride);
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
    *plan =
        (struct plan){.favor = CPU(favor_geometry)(call, backward != NULL), .backward = backward};
    struct favor *favor = &plan->favor;

    const int64_t heads = call->batch * call->heads;
    const int64_t wanted = heads < FEW_HEADS ? pieces_of(STRETCHES, heads) : 1;
    plan->segments = pieces_of(call->length, SEGMENT);
    plan->stretch = larger(STRETCH_MIN / SEGMENT, pieces_of(plan->segments, wanted));
    if (wanted == 1) plan->stretch = plan->segments;
    plan->stretches = pieces_of(plan->segments, plan->stretch);
    plan->rows = (int64_t)scratch_floats(call->length);
    plan->saved = plan->segments * plan->favor.state + 2 * plan->rows;

    CPU(favor_projection_take)(favor, backward != NULL, &scratch);
    if (plan->stretches > 1) {
        plan->states = scratch_take(&scratch, heads * plan->stretches * plan->favor.state);
        plan->units = scratch_take(&scratch, heads * plan->stretches);
        plan->maxima = scratch_take(&scratch, heads * plan->rows);
    }
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

/* A head, and what it keeps: NULLs where nothing is kept. */
struct head {
    int64_t index, sequence, head;
    const uint8_t *mask;
    float *states, *inverse, *maxima;
};

static struct head head_at(const struct plan *plan, int64_t index)
{
    const struct attention *call = plan->favor.call;
    struct head head = {
        .index = index,
        .sequence = index / call->heads,
        .head = index % call->heads,
        .mask = sequence_mask(call, index / call->heads),
    };
    if (!call->saved) return head;
    head.states = call->saved + index * plan->saved;
    head.inverse = head.states + plan->segments * plan->favor.state;
    head.maxima = head.inverse + plan->rows;
    return head;
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

static bool is_bf16(const struct plan *plan)
{
    return plan->favor.call->precision == PRECISION_BF16;
}

static float unit_of(const struct plan *plan, float maximum)
{
    return is_bf16(plan) ? ceilf(maximum) : maximum;
}

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

/* Cuts a segment by the running maxima of its keys. */
static void segment_cut(const struct plan *plan, const float *maximum, struct segment *segment)
{
    segment->chunks = 0;
    for (int64_t from = 0; from < segment->count;) {
        const int64_t rows = chunk_count(maximum, from, segment->count);
        segment->chunk[segment->chunks++] =
            (struct chunk){from, rows, unit_of(plan, maximum[from + rows - 1])};
        from += rows;
    }
}

static void segment_queries(const struct plan *plan, const struct head *head,
                            const struct tiles *tiles, const struct segment *segment)
{
    const struct favor *favor = &plan->favor;
    CPU(favor_queries)
    (favor, rows_from(favor->call->q, head, segment->from), segment->count, &tiles->query);
}

/* Features relative to the units of their own positions become relative to those of their chunks. */
static void features_scale(const struct favor *favor, const struct favor_tile *key,
                           const struct segment *segment)
{
    float factor[SEGMENT];
    for (int64_t c = 0; c < segment->chunks; c++) {
        const struct chunk *chunk = &segment->chunk[c];
        for (int64_t s = chunk->from; s < chunk->from + chunk->count; s++) {
            factor[s] = CPU(favor_decay)(key->unit[s], chunk->unit);
            key->floor[s] *= factor[s];
        }
    }
    for (int64_t i = 0; i < favor->features; i++)
        for (int64_t s = 0; s < segment->count; s++)
            key->features[i * FAVOR_STRIDE + s] *= factor[s];
}

/* Features of the segment's keys, and its chunks; `maximum` is the running one before it. Returns that behind it. */
static float segment_keys(const struct plan *plan, const struct head *head,
                          const struct tiles *tiles, float maximum, struct segment *segment)
{
    const struct favor *favor = &plan->favor;
    const struct favor_tile *key = &tiles->key;

    CPU(favor_key_sizes)
    (favor, rows_from(favor->call->k, head, segment->from), segment->mask, segment->count, key);
    for (int64_t s = 0; s < segment->count; s++) {
        if (key->maximum[s] > maximum) maximum = key->maximum[s];
        key->maximum[s] = maximum;
    }
    segment_cut(plan, key->maximum, segment);
    for (int64_t c = 0; c < segment->chunks; c++) {
        const struct chunk *chunk = &segment->chunk[c];
        for (int64_t s = chunk->from; s < chunk->from + chunk->count; s++) {
            key->unit[s] = is_bf16(plan) ? unit_of(plan, key->maximum[s]) : chunk->unit;
            key->floor[s] = CPU(favor_floor)(favor, key->maximum[s], key->unit[s]);
        }
    }
    CPU(favor_keys)(favor, segment->count, key);
    if (is_bf16(plan)) features_scale(favor, key, segment);
    return maximum;
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

/* ---- triangles: T (s, t) for s <= t, in blocks; what is wholly before the diagonal is 0, and not read ---- */

/* T = aᵀ b; a, b columns (k, count) */
static void triangle_make(int64_t count, int64_t k, struct operand a, struct operand b,
                          float *triangle)
{
    for (int64_t s = 0; s < count; s += DIAGONAL) {
        const int64_t rows = smaller(DIAGONAL, count - s);
        CPU(operand_multiply_tn)
        (rows, count - s, k, CPU(operand_columns_from)(a, 0, s), CPU(operand_columns_from)(b, 0, s),
         false, triangle + s * TRIANGLE_STRIDE + s, TRIANGLE_STRIDE);
        for (int64_t i = s; i < s + rows; i++)
            memset(triangle + i * TRIANGLE_STRIDE, 0, (size_t)i * sizeof *triangle);
    }
}

/* c (count, n) += Tᵀ b: row t takes in rows s <= t of b; T and b columns */
static void triangle_sum_before(int64_t count, int64_t n, struct operand triangle, struct operand b,
                                float *c, int64_t stride)
{
    for (int64_t t = 0; t < count; t += DIAGONAL) {
        const int64_t rows = smaller(DIAGONAL, count - t);
        CPU(operand_multiply_tn)
        (rows, n, t + rows, CPU(operand_columns_from)(triangle, 0, t), b, true, c + t * stride,
         stride);
    }
}

/* c (count, n) += T b: row s takes in rows t >= s of b; T rows, b columns */
static void triangle_sum_after(int64_t count, int64_t n, struct operand triangle, struct operand b,
                               struct rows c)
{
    for (int64_t s = 0; s < count; s += DIAGONAL) {
        CPU(operand_multiply)
        (smaller(DIAGONAL, count - s), n, count - s, CPU(operand_rows_from)(triangle, s, s),
         CPU(operand_columns_from)(b, s, 0), true, row_of(c, s), c.stride);
    }
}

/* c (m, count) += a T: column t takes in columns s <= t of a; a rows, T columns */
static void triangle_spread(int64_t m, int64_t count, struct operand a, struct operand triangle,
                            float *c)
{
    for (int64_t t = 0; t < count; t += DIAGONAL) {
        const int64_t columns = smaller(DIAGONAL, count - t);
        CPU(operand_multiply)
        (m, columns, t + columns, a, CPU(operand_columns_from)(triangle, 0, t), true, c + t,
         FAVOR_STRIDE);
    }
}

/* c (m, count) += a Tᵀ, by Tᵀ (t, s): column s takes in columns t >= s of a; a rows, Tᵀ columns */
static void triangle_spread_back(int64_t m, int64_t count, struct operand a,
                                 struct operand transposed, float *c)
{
    for (int64_t s = 0; s < count; s += DIAGONAL) {
        CPU(operand_multiply)
        (m, smaller(DIAGONAL, count - s), count - s, CPU(operand_rows_from)(a, 0, s),
         CPU(operand_columns_from)(transposed, s, s), true, c + s, FAVOR_STRIDE);
    }
}

/* sum (count) += Σ_s T (s, t) */
static void triangle_add_rows(int64_t count, const float *triangle, float *sum)
{
    for (int64_t s = 0; s < count; s++) {
        for (int64_t t = s / DIAGONAL * DIAGONAL; t < count; t += LANES)
            lanes_store_row(sum, t, count,
                            lanes_load_row(sum, t, count, 0) +
                                lanes_load_row(triangle + s * TRIANGLE_STRIDE, t, count, 0));
    }
}

/* ---- forward ---- */

/* The values of a chunk, summed along its positions. */
static struct operand chunk_values(const struct plan *plan, const struct head *head,
                                   const struct tiles *tiles, const struct segment *segment,
                                   const struct chunk *chunk)
{
    const struct attention *call = plan->favor.call;
    const struct rows v = rows_from(call->v, head, segment->from + chunk->from);
    return CPU(operand_columns)(chunk->count, call->value_dim, v.data, v.stride,
                                tiles->rooms.values);
}

/* Features of a chunk's keys or queries, summed along its positions. */
static struct operand chunk_rows(const struct plan *plan, const struct tiles *tiles,
                                 const struct favor_tile *tile, const struct chunk *chunk)
{
    return tile_rows(plan->favor.features, chunk->count, tile->features + chunk->from,
                     tiles->rooms.rows);
}

static struct operand chunk_columns(const struct plan *plan, const struct favor_tile *tile,
                                    const struct chunk *chunk, uint32_t *room)
{
    return tile_columns(plan->favor.features, chunk->count, tile->features + chunk->from, room);
}

/* A chunk's triangle, summed along s. */
static struct operand triangle_columns(const struct tiles *tiles, const struct chunk *chunk,
                                       const float *triangle)
{
    return CPU(operand_columns)(chunk->count, chunk->count, triangle, TRIANGLE_STRIDE,
                                tiles->triangle_room);
}

/* Quotients of a chunk: what S holds of the keys before, and the chunk's own up to each query. Then S moves on by
 * φ(k_s) (v_s, 1)ᵀ. */
static void chunk_forward(const struct plan *plan, const struct head *head,
                          const struct tiles *tiles, const struct segment *segment,
                          const struct chunk *chunk)
{
    const struct favor *favor = &plan->favor;
    const struct attention *call = favor->call;
    const int64_t count = chunk->count, from = segment->from + chunk->from;
    const struct operand query = chunk_columns(plan, &tiles->query, chunk, tiles->rooms.columns);
    const struct operand key = chunk_columns(plan, &tiles->key, chunk, tiles->rooms.other_columns);
    const struct operand values = chunk_values(plan, head, tiles, segment, chunk);

    triangle_make(count, favor->features, key, query, tiles->weights);
    CPU(favor_query_state)
    (favor, count, query, state_columns(favor, tiles->state, &tiles->rooms), tiles->quotient,
     tiles->denominator);
    triangle_sum_before(count, call->value_dim, triangle_columns(tiles, chunk, tiles->weights),
                        values, tiles->quotient, favor->values_stride);
    triangle_add_rows(count, tiles->weights, tiles->denominator);
    CPU(favor_divide)
    (favor, tiles->quotient, tiles->denominator, count, rows_from(call->out, head, from),
     head->inverse ? head->inverse + from : NULL);
    CPU(favor_state_add)
    (favor, count, chunk_rows(plan, tiles, &tiles->key, chunk), values,
     tiles->key.present + chunk->from, true, tiles->state);
}

static void rows_fill(float *x, int64_t count, float value)
{
    for (int64_t i = 0; i < count; i++) x[i] = value;
}

/* Segments of one stretch of a head. */
struct walk {
    struct head head;
    int64_t stretch; /* of all heads */
    struct range segments;
};

static struct walk walk_at(const struct plan *plan, int64_t piece)
{
    return (struct walk){
        .head = head_at(plan, piece / plan->stretches),
        .stretch = piece,
        .segments = piece_range(piece % plan->stretches, plan->stretch, plan->segments),
    };
}

/* S at the start of a stretch into tiles->state; returns the running maximum there, of which its unit is. */
static float walk_start(const struct plan *plan, const struct walk *walk, const struct tiles *tiles)
{
    if (walk->segments.from == 0) {
        rows_fill(tiles->state, plan->favor.state, 0);
        return -INFINITY;
    }
    memcpy(tiles->state, plan->states + walk->stretch * plan->favor.state,
           (size_t)plan->favor.state * sizeof(float));
    const float maximum = plan->units[walk->stretch];
    CPU(favor_scale)
    (tiles->state, plan->favor.state, CPU(favor_decay)(maximum, unit_of(plan, maximum)));
    return maximum;
}

static void stretch_forward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct walk walk = walk_at(plan, piece);
    const struct head *head = &walk.head;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    float maximum = walk_start(plan, &walk, &tiles), unit = unit_of(plan, maximum);

    for (int64_t i = walk.segments.from; i < walk.segments.from + walk.segments.count; i++) {
        struct segment segment = segment_at(plan, head, i);
        segment_queries(plan, head, &tiles, &segment);
        maximum = segment_keys(plan, head, &tiles, maximum, &segment);
        if (head->states) {
            memcpy(head->states + i * plan->favor.state, tiles.state,
                   (size_t)plan->favor.state * sizeof(float));
            memcpy(head->maxima + segment.from, tiles.key.maximum,
                   (size_t)segment.count * sizeof(float));
        }
        for (int64_t c = 0; c < segment.chunks; c++) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)(tiles.state, plan->favor.state, CPU(favor_decay)(unit, chunk->unit));
            unit = chunk->unit;
            chunk_forward(plan, head, &tiles, &segment, chunk);
        }
    }
}

/* What the keys of a stretch add to the state, without ε and relative to their own maximum; the maximum of each. */
static void stretch_sum_keys(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    const struct walk walk = walk_at(plan, piece);
    float *maxima = plan->maxima + walk.head.index * plan->rows;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    plan->units[piece] = -INFINITY;
    for (int64_t i = walk.segments.from; i < walk.segments.from + walk.segments.count; i++) {
        const struct segment segment = segment_at(plan, &walk.head, i);
        CPU(favor_sum_keys)
        (favor, rows_from(favor->call->k, &walk.head, segment.from),
         rows_from(favor->call->v, &walk.head, segment.from), segment.mask, segment.count,
         &tiles.key, &tiles.rooms, i == walk.segments.from, plan->states + piece * favor->state,
         &plan->units[piece]);
        memcpy(maxima + segment.from, tiles.key.maximum, (size_t)segment.count * sizeof *maxima);
    }
}

/* ε Σ_s exp(c_s - unit) (v_s, 1) over the keys of a stretch, c starting from `before` and ending with `unit`. */
static void stretch_epsilon(const struct plan *plan, const struct walk *walk, float before,
                            float unit, float *sum)
{
    const struct attention *call = plan->favor.call;
    const float *maxima = plan->maxima + walk->head.index * plan->rows;
    const int64_t from = walk->segments.from * SEGMENT, e = call->value_dim;
    const int64_t end = smaller(from + walk->segments.count * SEGMENT, call->length);

    rows_fill(sum, e + 1, 0);
    for (int64_t s = from; s < end; s++) {
        if (walk->head.mask && !walk->head.mask[s]) continue;
        before = maxima[s] > before ? maxima[s] : before;
        const float weight = CPU(favor_floor)(&plan->favor, before, unit);
        const float *v = row_of(head_rows(call->v, walk->head.sequence, walk->head.head), s);
        for (int64_t i = 0; i < e; i++) sum[i] += weight * v[i];
        sum[e] += weight;
    }
}

/* From what each stretch of a head adds to S at the start of each. */
static void head_carry_keys(void *context, int64_t index, int thread)
{
    const struct plan *plan = context;
    const struct favor *favor = &plan->favor;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    float *carried = tiles.state, *floor = tiles.quotient, unit = -INFINITY;

    rows_fill(carried, plan->favor.state, 0);
    for (int64_t i = 0; i < plan->stretches; i++) {
        const struct walk walk = walk_at(plan, index * plan->stretches + i);
        float *state = plan->states + walk.stretch * plan->favor.state;
        const float own = plan->units[walk.stretch], before = unit;
        unit = own > unit ? own : unit;
        const float factor = CPU(favor_decay)(own, unit), decay = CPU(favor_decay)(before, unit);
        stretch_epsilon(plan, &walk, before, unit, floor);
        for (int64_t row = 0; row < favor->features; row++) {
            for (int64_t j = 0; j <= favor->call->value_dim; j++) {
                const int64_t at = row * favor->values_stride + j;
                const float start = carried[at];
                carried[at] = start * decay + (state[at] * factor + floor[j]);
                state[at] = start;
            }
        }
        plan->units[walk.stretch] = before;
    }
}

enum status CPU(favor_causal)(struct stream *stream, const struct attention *call)
{
    const int64_t heads = call->batch * call->heads;
    struct plan plan;
    plan_make(&plan, call, NULL, team_threads(stream->team), stream->scratch);
    CPU(favor_projection_fill)(&plan.favor);
    if (plan.stretches > 1) {
        team_run(stream->team, heads * plan.stretches, stretch_sum_keys, &plan);
        team_run(stream->team, heads, head_carry_keys, &plan);
    }
    team_run(stream->team, heads * plan.stretches, stretch_forward, &plan);
    return ST_OK;
}

/* ---- backward ---- */

/* dφ(q_t) = S g_t + Σ_{s <= t} (g_t . (v_s, 1)) φ(k_s); the products g . (v, 1) stay for the keys. Then S moves on. */
static void chunk_queries_backward(const struct plan *plan, const struct head *head,
                                   const struct tiles *tiles, const struct segment *segment,
                                   const struct chunk *chunk)
{
    const struct favor *favor = &plan->favor;
    const struct favor_rooms *rooms = &tiles->rooms;
    const int64_t count = chunk->count, at = chunk->from, from = segment->from + at;
    const int64_t wide = favor->call->value_dim + 1;
    const struct operand keys = chunk_rows(plan, tiles, &tiles->key, chunk);
    const struct operand values =
        tile_columns(wide, count, tiles->value_columns + at, rooms->value_columns);
    const struct operand gradients =
        tile_columns(wide, count, tiles->gradient_columns + at, rooms->gradient_columns);
    float *dweights = tiles->dweights + at * TRIANGLE_STRIDE;

    triangle_make(count, wide, values, gradients, dweights);
    CPU(operand_multiply)
    (favor->features, count, wide, state_rows(favor, tiles->state, rooms), gradients, false,
     tiles->dfeatures, FAVOR_STRIDE);
    triangle_spread(favor->features, count, keys, triangle_columns(tiles, chunk, dweights),
                    tiles->dfeatures);
    CPU(favor_features_backward)
    (favor, rows_from(favor->call->q, head, from), at, count, &tiles->query, tiles->dfeatures,
     rooms->columns, rows_from(plan->backward->dq, head, from));
    if (at + count == segment->count) return;
    CPU(favor_state_add)
    (favor, count, keys, chunk_values(plan, head, tiles, segment, chunk), tiles->key.present + at,
     true, tiles->state);
}

/* g of a chunk's queries, summed along its positions. */
static struct operand chunk_gradients(const struct plan *plan, const struct tiles *tiles,
                                      const struct chunk *chunk)
{
    const int64_t stride = plan->favor.values_stride;
    return CPU(operand_columns)(chunk->count, plan->favor.call->value_dim,
                                tiles->gradients + chunk->from * stride, stride,
                                tiles->rooms.values);
}

/* U += φ(q_t) g_tᵀ of a chunk. */
static void later_add(const struct plan *plan, const struct tiles *tiles, const struct chunk *chunk,
                      struct operand queries, struct operand gradients)
{
    const struct favor *favor = &plan->favor;
    CPU(favor_state_add)
    (favor, chunk->count, queries, gradients,
     tiles->gradient_columns + favor->call->value_dim * FAVOR_STRIDE + chunk->from, true,
     tiles->later);
}

/* dφ(k_s) = U (v_s, 1) + Σ_{t >= s} (g_t . (v_s, 1)) φ(q_t), dv_s = Uᵀ φ(k_s) + Σ_{t >= s} (φ(q_t) . φ(k_s)) g_t, with
 * the U of later chunks. Then U moves on. */
static void chunk_keys_backward(const struct plan *plan, const struct head *head,
                                const struct tiles *tiles, const struct segment *segment,
                                const struct chunk *chunk)
{
    const struct favor *favor = &plan->favor;
    const struct favor_rooms *rooms = &tiles->rooms;
    const int64_t count = chunk->count, at = chunk->from, from = segment->from + at;
    const int64_t e = favor->call->value_dim;
    const struct operand keys = chunk_columns(plan, &tiles->key, chunk, rooms->columns);
    const struct operand queries = chunk_rows(plan, tiles, &tiles->query, chunk);
    const struct operand gradients = chunk_gradients(plan, tiles, chunk);
    const struct operand values =
        tile_columns(e + 1, count, tiles->value_columns + at, rooms->value_columns);
    const struct rows dv = rows_from(plan->backward->dv, head, from);

    triangle_make(count, favor->features, keys,
                  chunk_columns(plan, &tiles->query, chunk, rooms->other_columns), tiles->weights);
    CPU(operand_multiply_tn)
    (count, e, favor->features, keys, state_columns(favor, tiles->later, rooms), false, dv.data,
     dv.stride);
    triangle_sum_after(
        count, e,
        CPU(operand_rows)(count, count, tiles->weights, TRIANGLE_STRIDE, tiles->triangle_room),
        gradients, dv);

    CPU(transpose)
    (count, count, tiles->dweights + at * TRIANGLE_STRIDE, TRIANGLE_STRIDE, tiles->dweights_back,
     TRIANGLE_STRIDE);
    CPU(operand_multiply)
    (favor->features, count, e + 1, state_rows(favor, tiles->later, rooms), values, false,
     tiles->dfeatures, FAVOR_STRIDE);
    triangle_spread_back(favor->features, count, queries,
                         triangle_columns(tiles, chunk, tiles->dweights_back), tiles->dfeatures);
    CPU(favor_features_backward)
    (favor, rows_from(favor->call->k, head, from), at, count, &tiles->key, tiles->dfeatures,
     rooms->columns, rows_from(plan->backward->dk, head, from));
    later_add(plan, tiles, chunk, queries, gradients);
}

/* g of a segment's queries, as rows and as columns. */
static void segment_gradients(const struct plan *plan, const struct head *head,
                              const struct tiles *tiles, const struct segment *segment)
{
    const struct favor *favor = &plan->favor;
    const struct rows gradients = {tiles->gradients, favor->values_stride};
    CPU(favor_divide_backward)
    (favor, rows_from(plan->backward->dout, head, segment->from),
     rows_from(favor->call->out, head, segment->from), head->inverse + segment->from,
     segment->count, tiles->gradients);
    CPU(favor_transpose)
    (gradients, segment->count, favor->call->value_dim + 1, tiles->gradient_columns);
}

/* (v, 1)ᵀ of a segment's keys. */
static void segment_values(const struct plan *plan, const struct head *head,
                           const struct tiles *tiles, const struct segment *segment)
{
    const struct attention *call = plan->favor.call;
    CPU(favor_transpose)
    (rows_from(call->v, head, segment->from), segment->count, call->value_dim,
     tiles->value_columns);
    rows_fill(tiles->value_columns + call->value_dim * FAVOR_STRIDE, segment->count, 1);
}

/* U of the queries behind a stretch into tiles->later; returns its unit. */
static float walk_end(const struct plan *plan, const struct walk *walk, const struct tiles *tiles)
{
    if (walk->segments.from + walk->segments.count == plan->segments) {
        rows_fill(tiles->later, plan->favor.state, 0);
        return INFINITY; /* there is none */
    }
    memcpy(tiles->later, plan->states + walk->stretch * plan->favor.state,
           (size_t)plan->favor.state * sizeof(float));
    return plan->units[walk->stretch];
}

static void stretch_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct walk walk = walk_at(plan, piece);
    const struct head *head = &walk.head;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    float later_unit = walk_end(plan, &walk, &tiles);

    for (int64_t i = walk.segments.from + walk.segments.count - 1; i >= walk.segments.from; i--) {
        struct segment segment = segment_at(plan, head, i);
        const float maximum = segment.from > 0 ? head->maxima[segment.from - 1] : -INFINITY;
        float unit = unit_of(plan, maximum);

        memcpy(tiles.state, head->states + i * plan->favor.state,
               (size_t)plan->favor.state * sizeof(float));
        segment_queries(plan, head, &tiles, &segment);
        segment_keys(plan, head, &tiles, maximum, &segment);
        segment_gradients(plan, head, &tiles, &segment);
        segment_values(plan, head, &tiles, &segment);
        for (int64_t c = 0; c < segment.chunks; c++) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)(tiles.state, plan->favor.state, CPU(favor_decay)(unit, chunk->unit));
            unit = chunk->unit;
            chunk_queries_backward(plan, head, &tiles, &segment, chunk);
        }
        for (int64_t c = segment.chunks - 1; c >= 0; c--) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)
            (tiles.later, plan->favor.state, CPU(favor_decay)(chunk->unit, later_unit));
            later_unit = chunk->unit;
            chunk_keys_backward(plan, head, &tiles, &segment, chunk);
        }
    }
}

/* What the queries of a stretch add to U, relative to the unit of its first chunk. */
static void stretch_sum_queries(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct walk walk = walk_at(plan, piece);
    float unit = INFINITY;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);

    rows_fill(tiles.later, plan->favor.state, 0);
    for (int64_t i = walk.segments.from + walk.segments.count - 1; i >= walk.segments.from; i--) {
        struct segment segment = segment_at(plan, &walk.head, i);
        segment_cut(plan, walk.head.maxima + segment.from, &segment);
        segment_queries(plan, &walk.head, &tiles, &segment);
        segment_gradients(plan, &walk.head, &tiles, &segment);
        for (int64_t c = segment.chunks - 1; c >= 0; c--) {
            const struct chunk *chunk = &segment.chunk[c];
            CPU(favor_scale)(tiles.later, plan->favor.state, CPU(favor_decay)(chunk->unit, unit));
            unit = chunk->unit;
            later_add(plan, &tiles, chunk, chunk_rows(plan, &tiles, &tiles.query, chunk),
                      chunk_gradients(plan, &tiles, chunk));
        }
    }
    memcpy(plan->states + piece * plan->favor.state, tiles.later,
           (size_t)plan->favor.state * sizeof(float));
    plan->units[piece] = unit;
}

/* From what each stretch of a head adds to U behind the end of each. */
static void head_carry_queries(void *context, int64_t index, int thread)
{
    const struct plan *plan = context;
    struct tiles tiles;
    tiles_take(plan, plan->threads + thread * plan->thread_floats, &tiles);
    float *carried = tiles.later, unit = INFINITY;

    rows_fill(carried, plan->favor.state, 0);
    for (int64_t i = plan->stretches - 1; i >= 0; i--) {
        const int64_t stretch = index * plan->stretches + i;
        float *state = plan->states + stretch * plan->favor.state;
        const float own = plan->units[stretch], decay = CPU(favor_decay)(own, unit);
        for (int64_t at = 0; at < plan->favor.state; at++) {
            const float behind = carried[at];
            carried[at] = behind * decay + state[at];
            state[at] = behind;
        }
        plan->units[stretch] = unit;
        unit = own;
    }
}

enum status CPU(favor_causal_backward)(struct stream *stream,
                                       const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    const int64_t heads = call->batch * call->heads;
    struct plan plan;
    assert(call->saved);
    plan_make(&plan, call, backward, team_threads(stream->team), stream->scratch);
    CPU(favor_projection_fill)(&plan.favor);
    if (plan.stretches > 1) {
        team_run(stream->team, heads * plan.stretches, stretch_sum_queries, &plan);
        team_run(stream->team, heads, head_carry_queries, &plan);
    }
    team_run(stream->team, heads * plan.stretches, stretch_backward, &plan);
    return ST_OK;
}
