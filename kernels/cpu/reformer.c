/*
 * Reformer's attention (Kitaev et al. 2020), as defined at struct attention, chunk by chunk. In the order of a round, by
 * bucket and position, a chunk and the one before it in its bucket are neighbours. A pair that several rounds see
 * counts in the first of them: the same sum as the paper's, which takes it in each, divided by their number.
 *
 * Kept for the backward pass, of each query: the largest score, to base 2, and 1 / Σ over all rounds; the latter is
 * 0 where the query sees nothing else, and so itself. Buckets and order are made again.
 */

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/scores.h"

enum {
    ROWS = 64,     /* positions of a block */
    STRETCH = 512, /* positions, about, of the chunks that one piece takes */
};

/* Of each position, and of each place in a round's order: (B H, rounds, L). A masked position has the bucket
 * `buckets`, and so its place behind all others. */
struct order {
    int32_t *bucket, *place; /* of a position */
    int32_t *chunk;          /* of a position: its number, one left out before each bucket */
    int32_t *position;       /* at a place */
    int32_t *start;          /* (B H, rounds, buckets + 2): first place of each bucket */
    /* (B H, rounds, chunks + 1): first place of each chunk; behind the last chunk that of what is in none */
    int32_t *first;
};

struct plan {
    const struct attention *call;
    const struct attention_backward *backward;
    float scale, scale2; /* 1 / √d, and that times log2 e */
    int64_t heads, rounds, half;
    int64_t chunk, chunks;      /* positions; of a round, at most */
    int64_t stretch, stretches; /* chunks; of a round */
    int64_t context;            /* the most keys of a chunk: its own and those before */
    int64_t dim, value, hashed; /* strides of rows of d, of e and of q R: whole registers */
    float rotation_bound;       /* no column of R is longer */
    struct order order;
    float *inverse_norms; /* (B H, L): 1 / ‖q‖, 0 where that is no number */
    float *outs, *sums;   /* forward: (B H, rounds, L, value) (B H, rounds, L, 2), by place */
    float *dq;            /* backward: (B H, rounds, L, dim), by place */
    /* (B H, rounds, 2 L, dim or value): what the chunk that begins at place f adds to the key at place p is row f + p */
    float *dkeys, *dvalues;
    float *threads;
    int64_t thread_floats;
};

/* Of a thread: a block of a chunk's queries, and the keys that the chunk sees. */
struct tiles {
    struct tile q, dout;                       /* (ROWS, dim) (ROWS, value) */
    struct tile q_transposed, dout_transposed; /* (d, ROWS) (e, ROWS) */
    struct tile keys, values;                  /* (context, dim) (context, value) */
    uint32_t *key_rows_room, *value_rows_room;
    struct tile scores, dscores; /* (context, ROWS), a row a key */
    uint32_t *weight_rows_room, *dscore_rows_room;
    float *largest, *sum, *factor, *slopes; /* (ROWS) */
    float *hashed;                          /* (ROWS, hashed) */
    /* Of queries and of keys, in the rounds before: (rounds, ROWS) (rounds, context) */
    int32_t *query_chunks, *key_chunks;
};

static int32_t *scratch_take_ints(struct scratch *scratch, int64_t count)
{
    _Static_assert(sizeof(int32_t) == sizeof(float), "both lie in one scratch");
    return (int32_t *)(void *)scratch_take(scratch, count);
}

static size_t tiles_take(const struct plan *plan, float *base, struct tiles *tiles)
{
    const enum precision precision = plan->call->precision;
    const int64_t d = plan->call->head_dim, e = plan->call->value_dim, context = plan->context;
    struct scratch scratch = {base, 0};
    tiles->q = tile_take_columns(&scratch, precision, ROWS, plan->dim);
    tiles->dout = tile_take_columns(&scratch, precision, ROWS, plan->value);
    tiles->q_transposed = tile_take_columns(&scratch, precision, d, ROWS);
    tiles->dout_transposed = tile_take_columns(&scratch, precision, e, ROWS);
    tiles->keys = tile_take_columns(&scratch, precision, context, plan->dim);
    tiles->values = tile_take_columns(&scratch, precision, context, plan->value);
    tiles->key_rows_room = operand_room(&scratch, precision, operand_rows_words(context, d));
    tiles->value_rows_room = operand_room(&scratch, precision, operand_rows_words(context, e));
    tiles->scores = tile_take_columns(&scratch, precision, context, ROWS);
    tiles->dscores = tile_take_columns(&scratch, precision, context, ROWS);
    tiles->weight_rows_room = operand_room(&scratch, precision, operand_rows_words(context, ROWS));
    tiles->dscore_rows_room = operand_room(&scratch, precision, operand_rows_words(context, ROWS));
    tiles->largest = scratch_take(&scratch, ROWS);
    tiles->sum = scratch_take(&scratch, ROWS);
    tiles->factor = scratch_take(&scratch, ROWS);
    tiles->slopes = scratch_take(&scratch, ROWS);
    tiles->hashed = scratch_take(&scratch, ROWS * plan->hashed);
    tiles->query_chunks = scratch_take_ints(&scratch, plan->rounds * ROWS);
    tiles->key_chunks = scratch_take_ints(&scratch, plan->rounds * context);
    return scratch.used;
}

static void order_take(const struct plan *plan, struct scratch *scratch, struct order *order)
{
    const int64_t rounds = plan->heads * plan->rounds, count = rounds * plan->call->length;
    order->bucket = scratch_take_ints(scratch, count);
    order->place = scratch_take_ints(scratch, count);
    order->chunk = scratch_take_ints(scratch, count);
    order->position = scratch_take_ints(scratch, count);
    order->start = scratch_take_ints(scratch, rounds * (plan->call->buckets + 2));
    order->first = scratch_take_ints(scratch, rounds * (plan->chunks + 1));
}

static void plan_shape(struct plan *plan, const struct attention *call)
{
    const float scale = 1 / sqrtf((float)call->head_dim);
    const int64_t chunk = smaller(call->chunk, call->length);
    *plan = (struct plan){
        .call = call,
        .scale = scale,
        .scale2 = scale * LOG2_E,
        .heads = call->batch * call->heads,
        .rounds = call->rounds,
        .half = call->buckets / 2,
        .chunk = chunk,
        .chunks = smaller(call->length, call->buckets + call->length / chunk),
        .stretch = pieces_of(STRETCH, chunk),
        .context = smaller(2 * chunk, call->length),
        .dim = registers_of(call->head_dim),
        .value = registers_of(call->value_dim),
        .hashed = registers_of(call->buckets / 2),
    };
    plan->stretches = pieces_of(plan->chunks, plan->stretch);
}

static size_t plan_make(struct plan *plan, const struct attention *call, bool backward, int threads,
                        float *base)
{
    struct scratch scratch = {base, 0};
    struct tiles tiles;
    plan_shape(plan, call);
    const int64_t rounds = plan->heads * plan->rounds, places = rounds * call->length;
    order_take(plan, &scratch, &plan->order);
    plan->inverse_norms = scratch_take(&scratch, plan->heads * call->length);
    if (backward) {
        plan->dq = scratch_take(&scratch, places * plan->dim);
        plan->dkeys = scratch_take(&scratch, 2 * places * plan->dim);
        plan->dvalues = scratch_take(&scratch, 2 * places * plan->value);
    } else {
        plan->outs = scratch_take(&scratch, places * plan->value);
        plan->sums = scratch_take(&scratch, places * 2);
    }
    plan->thread_floats = (int64_t)tiles_take(plan, NULL, &tiles);
    plan->threads = scratch_take(&scratch, threads * plan->thread_floats);
    return scratch.used;
}

size_t CPU(reformer_saved_floats)(const struct attention *call)
{
    return (size_t)(call->batch * call->heads * call->length * 2);
}

size_t CPU(reformer_scratch)(const struct attention *call, int threads)
{
    struct plan plan;
    return plan_make(&plan, call, false, threads, NULL) * sizeof(float);
}

size_t CPU(reformer_backward_scratch)(const struct attention *call, int threads)
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

static struct rows head_of(const struct plan *plan, struct heads_view view, int64_t head)
{
    return head_rows(view, head / plan->call->heads, head % plan->call->heads);
}

/* ---- buckets and order ---- */

/* No column of R is longer than √d times the largest of its elements. */
static float rotation_bound(const struct attention *call)
{
    const int64_t count = call->rounds * call->head_dim * (call->buckets / 2);
    floats largest = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats at = lanes_load_row(call->rotations, i, count, 0);
        largest = lanes_larger(lanes_larger(at, -at), largest);
    }
    return sqrtf((float)call->head_dim) * lanes_largest(largest);
}

/* argmax [q R; -q R] in double, the first of equals */
static int32_t bucket_precise(const struct plan *plan, const float *rotation, const float *q)
{
    double largest = -INFINITY, least = INFINITY;
    int64_t at_largest = 0, at_least = 0;
    for (int64_t c = 0; c < plan->half; c++) {
        double dot = 0;
        for (int64_t j = 0; j < plan->call->head_dim; j++)
            dot += (double)q[j] * rotation[j * plan->half + c];
        if (dot > largest) largest = dot, at_largest = c;
        if (dot < least) least = dot, at_least = c;
    }
    return (int32_t)(-least > largest ? plan->half + at_least : at_largest);
}

static float largest_size(const float *row, int64_t from, int64_t to)
{
    floats largest = lanes_of(-INFINITY);
    for (int64_t c = from; c < to; c += LANES) {
        const floats at = lanes_load_row(row, c, to, 0);
        largest = lanes_larger(lanes_larger(at, -at), largest);
    }
    return lanes_largest(largest);
}

/* The bucket by the float products q R, or -1 where their rounding, at most `doubt`, may have decided it. */
static int32_t bucket_quick(const struct plan *plan, const float *products, float doubt)
{
    const float largest = largest_size(products, 0, plan->half);
    int64_t at = 0;
    while (at < plan->half - 1 && fabsf(products[at]) != largest) at++;
    const float second =
        fmaxf(largest_size(products, 0, at), largest_size(products, at + 1, plan->half));
    if (!(largest - second > doubt && largest > doubt)) return -1;
    return (int32_t)(products[at] > 0 ? at : plan->half + at);
}

static double norm_of(const float *x, int64_t count)
{
    double square = 0;
    for (int64_t i = 0; i < count; i++) square += (double)x[i] * x[i];
    return sqrt(square);
}

/* Norms and buckets of a block of positions. A float sum of d products is off by at most d units of 2^-24 of the
 * product of the norms, whatever its order: what floats cannot tell apart is decided in double, so that the
 * buckets are those of the definition. */
static void block_hash(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(call->length, ROWS), head = piece / blocks;
    const struct range own = piece_range(piece % blocks, ROWS, call->length);
    const uint8_t *mask = sequence_mask(call, head / call->heads);
    const struct rows q = head_of(plan, call->q, head);
    const struct tiles tiles = tiles_of(plan, thread);
    float doubts[ROWS];

    for (int64_t s = 0; s < own.count; s++) {
        const double norm = norm_of(row_of(q, own.from + s), call->head_dim);
        plan->inverse_norms[head * call->length + own.from + s] =
            norm < FLT_MIN ? 0 : (float)(1 / norm);
        doubts[s] = (float)norm * plan->rotation_bound * (float)(call->head_dim + 2) * 0x1p-23f;
    }
    CPU(rows_pack)
    (rows_from(call, call->q, head, own.from), own.count, call->head_dim, tiles.q.floats);
    for (int64_t round = 0; round < plan->rounds; round++) {
        const float *rotation = call->rotations + round * call->head_dim * plan->half;
        int32_t *bucket =
            plan->order.bucket + (head * plan->rounds + round) * call->length + own.from;
        CPU(product_nn)
        (own.count, plan->half, call->head_dim, tiles.q.floats, plan->dim, rotation, plan->half, 0,
         tiles.hashed, plan->hashed);
        for (int64_t s = 0; s < own.count; s++) {
            if (mask && !mask[own.from + s]) {
                bucket[s] = (int32_t)call->buckets;
                continue;
            }
            bucket[s] = bucket_quick(plan, tiles.hashed + s * plan->hashed, doubts[s]);
            if (bucket[s] < 0) bucket[s] = bucket_precise(plan, rotation, row_of(q, own.from + s));
        }
    }
}

/* Counting sort of the positions of a round by bucket; it keeps the order of equals. */
static void round_sort(void *context, int64_t round, int thread)
{
    const struct plan *plan = context;
    const int64_t length = plan->call->length, buckets = plan->call->buckets;
    const int32_t *bucket = plan->order.bucket + round * length;
    int32_t *place = plan->order.place + round * length;
    int32_t *position = plan->order.position + round * length;
    int32_t *start = plan->order.start + round * (buckets + 2);
    (void)thread;

    memset(start, 0, (size_t)(buckets + 2) * sizeof *start);
    for (int64_t s = 0; s < length; s++) start[bucket[s] + 1]++;
    for (int64_t b = 0; b <= buckets; b++) start[b + 1] += start[b];
    for (int64_t s = 0; s < length; s++) {
        place[s] = start[bucket[s]]++;
        position[place[s]] = (int32_t)s;
    }
    for (int64_t b = buckets + 1; b > 0; b--) start[b] = start[b - 1];
    start[0] = 0;
}

/* Chunks of a round, each from where its bucket begins or the chunk before it ends. */
static void round_cut(void *context, int64_t round, int thread)
{
    const struct plan *plan = context;
    const int64_t length = plan->call->length, buckets = plan->call->buckets;
    const int32_t *start = plan->order.start + round * (buckets + 2);
    const int32_t *position = plan->order.position + round * length;
    int32_t *chunk = plan->order.chunk + round * length;
    int32_t *first = plan->order.first + round * (plan->chunks + 1);
    int64_t count = 0;
    (void)thread;

    for (int64_t b = 0; b < buckets; b++) {
        for (int64_t from = start[b]; from < start[b + 1]; from += plan->chunk) {
            const int64_t behind = smaller(from + plan->chunk, start[b + 1]);
            for (int64_t place = from; place < behind; place++)
                chunk[position[place]] = (int32_t)(count + b);
            first[count++] = (int32_t)from;
        }
    }
    for (; count <= plan->chunks; count++) first[count] = start[buckets];
}

static void order_make(struct plan *plan, struct team *team)
{
    plan->rotation_bound = rotation_bound(plan->call);
    team_run(team, plan->heads * pieces_of(plan->call->length, ROWS), block_hash, plan);
    team_run(team, plan->heads * plan->rounds, round_sort, plan);
    team_run(team, plan->heads * plan->rounds, round_cut, plan);
}

/* ---- what a chunk is made of ---- */

/* A chunk of a round: its queries and its keys are neighbours in the order. */
struct chunk {
    int64_t head, round;        /* of the head */
    const int32_t *position;    /* (L): at a place */
    struct range queries, keys; /* places; no queries: there is no such chunk */
};

static struct chunk chunk_of(const struct plan *plan, int64_t head, int64_t round, int64_t chunk)
{
    const int64_t at = head * plan->rounds + round, buckets = plan->call->buckets;
    const int32_t *position = plan->order.position + at * plan->call->length;
    const int32_t *first = plan->order.first + at * (plan->chunks + 1) + chunk;
    struct range keys = {first[0], first[1] - first[0]};
    const struct range queries = keys;
    if (queries.count > 0) {
        const int32_t bucket = plan->order.bucket[at * plan->call->length + position[first[0]]];
        keys.from = larger(first[0] - plan->chunk, plan->order.start[at * (buckets + 2) + bucket]);
        keys.count = first[1] - keys.from;
    }
    return (struct chunk){head, round, position, queries, keys};
}

/* to (count, whole registers) = rows at positions */
static void rows_gather(float *to, struct rows from, const int32_t *positions, int64_t count,
                        int64_t width)
{
    for (int64_t r = 0; r < count; r++) {
        const struct rows row = {row_of(from, positions[r]), from.stride};
        CPU(rows_pack)(row, 1, width, to + r * registers_of(width));
    }
}

/* Keys and values of a chunk, and where its keys are in the rounds before. */
static void keys_gather(const struct plan *plan, const struct chunk *chunk,
                        const struct tiles *tiles)
{
    const struct attention *call = plan->call;
    const int32_t *positions = chunk->position + chunk->keys.from;
    const int64_t count = chunk->keys.count, first = chunk->head * plan->rounds;
    const float *inverse = plan->inverse_norms + chunk->head * call->length;
    float *keys = tiles->keys.floats;

    rows_gather(keys, head_of(plan, call->q, chunk->head), positions, count, call->head_dim);
    for (int64_t s = 0; s < count; s++)
        for (int64_t j = 0; j < call->head_dim; j++)
            keys[s * plan->dim + j] *= inverse[positions[s]];
    rows_gather(tiles->values.floats, head_of(plan, call->v, chunk->head), positions, count,
                call->value_dim);
    for (int64_t round = 0; round < chunk->round; round++) {
        const int32_t *chunks = plan->order.chunk + (first + round) * call->length;
        for (int64_t s = 0; s < count; s++)
            tiles->key_chunks[round * plan->context + s] = chunks[positions[s]];
    }
}

/* -inf where a query sees no key: itself, when causal what is behind it, and what a round before sees. */
static void scores_exclude(const struct plan *plan, const struct chunk *chunk,
                           const struct tiles *tiles, struct range queries)
{
    const int64_t columns = registers_of(queries.count);
    for (int64_t s = 0; s < chunk->keys.count; s++) {
        const int64_t itself = chunk->keys.from + s - queries.from;
        const int64_t behind = smaller(itself + 1, columns);
        float *row = tiles->scores.floats + s * ROWS;
        for (int64_t t = plan->call->causal ? 0 : larger(itself, 0); t < behind; t++)
            row[t] = -INFINITY;
        for (int64_t round = 0; round < chunk->round; round++) {
            const int32_t key_chunk = tiles->key_chunks[round * plan->context + s];
            const int32_t *query_chunks = tiles->query_chunks + round * ROWS;
            for (int64_t t = 0; t < columns; t++)
                row[t] = (uint32_t)(query_chunks[t] - key_chunk) <= 1 ? -INFINITY : row[t];
        }
    }
}

/* Scores of a block of the chunk's queries with its keys. */
static void block_score(const struct plan *plan, const struct chunk *chunk,
                        const struct tiles *tiles, struct operand keys, struct range queries)
{
    const struct attention *call = plan->call;
    const int32_t *positions = chunk->position + queries.from;
    const int64_t columns = registers_of(queries.count), first = chunk->head * plan->rounds;

    rows_gather(tiles->q.floats, head_of(plan, call->q, chunk->head), positions, queries.count,
                call->head_dim);
    for (int64_t round = 0; round < chunk->round; round++) {
        const int32_t *chunks = plan->order.chunk + (first + round) * call->length;
        for (int64_t t = 0; t < columns; t++)
            tiles->query_chunks[round * ROWS + t] = t < queries.count ? chunks[positions[t]] : 0;
    }
    const struct operand q =
        CPU(tile_transpose)((struct rows){tiles->q.floats, plan->dim}, queries.count,
                            call->head_dim, columns, tiles->q_transposed);
    CPU(operand_multiply)
    (chunk->keys.count, columns, call->head_dim, keys, q, false, tiles->scores.floats, ROWS);
    scores_exclude(plan, chunk, tiles, queries);
}

/* Keys as rows, what scores are made of. */
static struct operand chunk_keys(const struct plan *plan, const struct chunk *chunk,
                                 const struct tiles *tiles)
{
    return CPU(operand_rows)(chunk->keys.count, plan->call->head_dim, tiles->keys.floats, plan->dim,
                             tiles->key_rows_room);
}

/* Of a round's queries, in blocks. */
static struct range block_of(const struct chunk *chunk, int64_t block)
{
    const struct range part = piece_range(block, ROWS, chunk->queries.count);
    return (struct range){chunk->queries.from + part.from, part.count};
}

/* ---- forward ---- */

static void block_forward(const struct plan *plan, const struct chunk *chunk,
                          const struct tiles *tiles, struct operand keys, struct operand values,
                          struct range queries)
{
    const int64_t count = chunk->keys.count, columns = registers_of(queries.count);
    const int64_t first =
        (chunk->head * plan->rounds + chunk->round) * plan->call->length + queries.from;
    block_score(plan, chunk, tiles, keys, queries);
    for (int64_t t = 0; t < columns; t++) {
        tiles->largest[t] = -INFINITY;
        tiles->sum[t] = 0;
    }
    CPU(scores_weigh)
    (count, columns, tiles->scores.floats, ROWS, plan->scale2, tiles->largest, tiles->sum,
     tiles->factor);
    for (int64_t t = 0; t < queries.count; t++) {
        plan->sums[2 * (first + t)] = tiles->largest[t];
        plan->sums[2 * (first + t) + 1] = tiles->sum[t];
    }
    const struct operand weights =
        CPU(operand_columns)(count, columns, tiles->scores.floats, ROWS, tiles->scores.room);
    CPU(operand_multiply_tn)
    (queries.count, plan->value, count, weights, values, false, plan->outs + first * plan->value,
     plan->value);
}

static void stretch_forward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const int64_t at = piece / plan->stretches;
    const struct range own = piece_range(piece % plan->stretches, plan->stretch, plan->chunks);
    const struct tiles tiles = tiles_of(plan, thread);

    for (int64_t c = own.from; c < own.from + own.count; c++) {
        const struct chunk chunk = chunk_of(plan, at / plan->rounds, at % plan->rounds, c);
        if (chunk.queries.count == 0) return;
        keys_gather(plan, &chunk, &tiles);
        const struct operand keys = chunk_keys(plan, &chunk, &tiles);
        const struct operand values = CPU(operand_columns)(
            chunk.keys.count, plan->value, tiles.values.floats, plan->value, tiles.values.room);
        for (int64_t block = 0; block * ROWS < chunk.queries.count; block++)
            block_forward(plan, &chunk, &tiles, keys, values, block_of(&chunk, block));
    }
}

static int64_t place_of(const struct plan *plan, int64_t head, int64_t round, int64_t position)
{
    const int64_t first = (head * plan->rounds + round) * plan->call->length;
    return first + plan->order.place[first + position];
}

/* out of one query from its rounds. */
static void query_combine(const struct plan *plan, int64_t head, int64_t position, float *out,
                          float kept[2])
{
    const int64_t width = plan->call->value_dim;
    kept[0] = -INFINITY;
    kept[1] = 0;
    for (int64_t round = 0; round < plan->rounds; round++) {
        const float *sums = plan->sums + 2 * place_of(plan, head, round, position);
        kept[0] = sums[0] > kept[0] ? sums[0] : kept[0];
    }
    memset(out, 0, (size_t)width * sizeof *out);
    if (kept[0] == -INFINITY) {
        kept[0] = 0;
        return;
    }
    for (int64_t round = 0; round < plan->rounds; round++) {
        const int64_t place = place_of(plan, head, round, position);
        const float *from = plan->outs + place * plan->value, *sums = plan->sums + 2 * place;
        const float factor = lanes_exp2(lanes_of(sums[0] - kept[0]))[0];
        kept[1] += factor * sums[1];
        for (int64_t i = 0; i < width && factor != 0; i++) out[i] += factor * from[i];
    }
    kept[1] = 1 / kept[1];
    for (int64_t i = 0; i < width; i++) out[i] *= kept[1];
}

static void block_combine(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(call->length, ROWS), head = piece / blocks;
    const struct range own = piece_range(piece % blocks, ROWS, call->length);
    const uint8_t *mask = sequence_mask(call, head / call->heads);
    const struct rows out = head_of(plan, call->out, head), v = head_of(plan, call->v, head);
    (void)thread;

    for (int64_t s = own.from; s < own.from + own.count; s++) {
        float kept[2] = {0, 0};
        if (mask && !mask[s]) {
            memset(row_of(out, s), 0, (size_t)call->value_dim * sizeof(float));
        } else {
            query_combine(plan, head, s, row_of(out, s), kept);
            if (kept[1] == 0)
                memcpy(row_of(out, s), row_of(v, s), (size_t)call->value_dim * sizeof(float));
        }
        if (call->saved) memcpy(call->saved + 2 * (head * call->length + s), kept, sizeof kept);
    }
}

enum status CPU(reformer)(struct stream *stream, const struct attention *call)
{
    struct plan plan;
    plan_make(&plan, call, false, team_threads(stream->team), stream->scratch);
    order_make(&plan, stream->team);
    team_run(stream->team, plan.heads * plan.rounds * plan.stretches, stretch_forward, &plan);
    team_run(stream->team, plan.heads * pieces_of(call->length, ROWS), block_combine, &plan);
    return ST_OK;
}

/* ---- backward ---- */

/* The keys of a chunk as the products take them. */
struct key_tile {
    struct operand k, v;      /* rows (keys, d) (keys, e) */
    struct operand k_columns; /* (keys, dim) */
};

static struct key_tile keys_take(const struct plan *plan, const struct chunk *chunk,
                                 const struct tiles *tiles)
{
    keys_gather(plan, chunk, tiles);
    return (struct key_tile){
        .k = chunk_keys(plan, chunk, tiles),
        .v = CPU(operand_rows)(chunk->keys.count, plan->call->value_dim, tiles->values.floats,
                               plan->value, tiles->value_rows_room),
        .k_columns = CPU(operand_columns)(chunk->keys.count, plan->dim, tiles->keys.floats,
                                          plan->dim, tiles->keys.room),
    };
}

/* What is known of a block's queries: the largest score, 1 / Σ, and dout . out. */
static void queries_take(const struct plan *plan, const struct chunk *chunk,
                         const struct tiles *tiles, struct range queries)
{
    const struct attention *call = plan->call;
    const struct rows out = head_of(plan, call->out, chunk->head);
    for (int64_t t = 0; t < queries.count; t++) {
        const int64_t position = chunk->position[queries.from + t];
        const float *kept = call->saved + 2 * (chunk->head * call->length + position);
        tiles->largest[t] = kept[0];
        tiles->sum[t] = kept[1];
        tiles->slopes[t] = CPU(rows_dot)(tiles->dout.floats + t * plan->value,
                                         row_of(out, position), call->value_dim);
    }
    for (int64_t t = queries.count; t < registers_of(queries.count); t++)
        tiles->largest[t] = tiles->sum[t] = tiles->slopes[t] = 0;
}

/* dkeys and dvalues begin at the row of the chunk's first key; `add`: to what a block before wrote there. */
static void block_backward(const struct plan *plan, const struct chunk *chunk,
                           const struct tiles *tiles, const struct key_tile *key,
                           struct range queries, bool add, float *dkeys, float *dvalues)
{
    const struct attention *call = plan->call;
    const int64_t e = call->value_dim, count = chunk->keys.count;
    const int64_t columns = registers_of(queries.count);
    const int64_t first = (chunk->head * plan->rounds + chunk->round) * call->length + queries.from;
    float *scores = tiles->scores.floats, *dscores = tiles->dscores.floats;

    block_score(plan, chunk, tiles, key->k, queries);
    rows_gather(tiles->dout.floats, head_of(plan, plan->backward->dout, chunk->head),
                chunk->position + queries.from, queries.count, e);
    const struct operand dout_transposed =
        CPU(tile_transpose)((struct rows){tiles->dout.floats, plan->value}, queries.count, e,
                            columns, tiles->dout_transposed);
    CPU(operand_multiply)(count, columns, e, key->v, dout_transposed, false, dscores, ROWS);
    queries_take(plan, chunk, tiles, queries);
    CPU(scores_weigh_backward)
    (count, columns, scores, dscores, ROWS, plan->scale2, tiles->largest, tiles->sum,
     tiles->slopes);

    const struct operand weight_rows =
        CPU(operand_rows)(count, queries.count, scores, ROWS, tiles->weight_rows_room);
    const struct operand dscore_rows =
        CPU(operand_rows)(count, queries.count, dscores, ROWS, tiles->dscore_rows_room);
    const struct operand dscore_columns =
        CPU(operand_columns)(count, columns, dscores, ROWS, tiles->dscores.room);
    const struct operand q =
        CPU(operand_columns)(queries.count, plan->dim, tiles->q.floats, plan->dim, tiles->q.room);
    const struct operand dout = CPU(operand_columns)(queries.count, plan->value, tiles->dout.floats,
                                                     plan->value, tiles->dout.room);
    CPU(operand_multiply)
    (count, plan->value, queries.count, weight_rows, dout, add, dvalues, plan->value);
    CPU(operand_multiply)
    (count, plan->dim, queries.count, dscore_rows, q, add, dkeys, plan->dim);
    CPU(operand_multiply_tn)
    (queries.count, plan->dim, count, dscore_columns, key->k_columns, false,
     plan->dq + first * plan->dim, plan->dim);
}

static void stretch_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const int64_t at = piece / plan->stretches;
    const struct range own = piece_range(piece % plan->stretches, plan->stretch, plan->chunks);
    const struct tiles tiles = tiles_of(plan, thread);

    for (int64_t c = own.from; c < own.from + own.count; c++) {
        const struct chunk chunk = chunk_of(plan, at / plan->rounds, at % plan->rounds, c);
        const int64_t row = 2 * at * plan->call->length + chunk.queries.from + chunk.keys.from;
        float *dkeys = plan->dkeys + row * plan->dim, *dvalues = plan->dvalues + row * plan->value;
        if (chunk.queries.count == 0) return;
        const struct key_tile key = keys_take(plan, &chunk, &tiles);
        for (int64_t block = 0; block * ROWS < chunk.queries.count; block++)
            block_backward(plan, &chunk, &tiles, &key, block_of(&chunk, block), block > 0, dkeys,
                           dvalues);
    }
}

static void row_add(float *to, const float *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) to[i] += from[i];
}

/* What comes back to the key of a position from a round: from its own chunk, and from the next of its bucket. */
static void round_add(const struct plan *plan, int64_t round, int64_t position, float *dkey,
                      float *dv)
{
    const int64_t length = plan->call->length, place = plan->order.place[round * length + position];
    const int32_t bucket = plan->order.bucket[round * length + position];
    const int32_t *start = plan->order.start + round * (plan->call->buckets + 2) + bucket;
    const int64_t own = place - (place - start[0]) % plan->chunk;

    for (int64_t chunk = own; chunk <= own + plan->chunk && chunk < start[1];
         chunk += plan->chunk) {
        const int64_t row = 2 * round * length + chunk + place;
        row_add(dkey, plan->dkeys + row * plan->dim, plan->call->head_dim);
        row_add(dv, plan->dvalues + row * plan->value, plan->call->value_dim);
    }
}

/* dq = (dq + (dk - k (k . dk)) / ‖q‖) / √d with k = q / ‖q‖. What is along k is taken away twice: rounding leaves some of it
 * the first time, and a small ‖q‖ would enlarge that. */
static void key_backward(const struct plan *plan, const float *q, float inverse, float *dkey,
                         float *dq)
{
    const int64_t d = plan->call->head_dim;
    for (int time = 0; time < 2; time++) {
        const float along = CPU(rows_dot)(q, dkey, d) * inverse * inverse;
        for (int64_t i = 0; i < d; i++) dkey[i] -= q[i] * along;
    }
    for (int64_t i = 0; i < d; i++) dq[i] = (dq[i] + dkey[i] * inverse) * plan->scale;
}

static void block_combine_backward(void *context, int64_t piece, int thread)
{
    const struct plan *plan = context;
    const struct attention *call = plan->call;
    const int64_t blocks = pieces_of(call->length, ROWS), head = piece / blocks;
    const struct range own = piece_range(piece % blocks, ROWS, call->length);
    const uint8_t *mask = sequence_mask(call, head / call->heads);
    const struct rows q = head_of(plan, call->q, head);
    const struct rows dout = head_of(plan, plan->backward->dout, head);
    const struct rows dq_rows = head_of(plan, plan->backward->dq, head);
    const struct rows dv_rows = head_of(plan, plan->backward->dv, head);
    float *dkey = tiles_of(plan, thread).q.floats;

    for (int64_t s = own.from; s < own.from + own.count; s++) {
        float *dq = row_of(dq_rows, s), *dv = row_of(dv_rows, s);
        const int64_t at = head * call->length + s;
        memset(dq, 0, (size_t)call->head_dim * sizeof *dq);
        memset(dv, 0, (size_t)call->value_dim * sizeof *dv);
        if (mask && !mask[s]) continue;
        memset(dkey, 0, (size_t)call->head_dim * sizeof *dkey);
        for (int64_t round = 0; round < plan->rounds; round++) {
            row_add(dq, plan->dq + place_of(plan, head, round, s) * plan->dim, call->head_dim);
            round_add(plan, head * plan->rounds + round, s, dkey, dv);
        }
        if (call->saved[2 * at + 1] == 0) row_add(dv, row_of(dout, s), call->value_dim);
        key_backward(plan, row_of(q, s), plan->inverse_norms[at], dkey, dq);
    }
}

enum status CPU(reformer_backward)(struct stream *stream, const struct attention_backward *backward)
{
    const struct attention *call = &backward->forward;
    struct plan plan;
    assert(call->saved);
    plan_make(&plan, call, true, team_threads(stream->team), stream->scratch);
    plan.backward = backward;
    order_make(&plan, stream->team);
    team_run(stream->team, plan.heads * plan.rounds * plan.stretches, stretch_backward, &plan);
    team_run(stream->team, plan.heads * pieces_of(call->length, ROWS), block_combine_backward,
             &plan);
    return ST_OK;
}
