/*
 * Reformer's attention (Kitaev et al. 2020), as defined at struct attention. In each round a position has a bucket and, among
 * the unmasked positions of that bucket, a rank: its number in their order.
 *
 *   hash      1 / ‖q‖ and the bucket of each position, in double, as the definition has them: a choice, which rounding would
 *             make another
 *   count     how many positions a bucket has
 *   order     the positions of each bucket, and which ranks a block is to take
 *   softmax   of each round by itself, by softmax_tiles.cuh; a pair that several rounds see counts in the first of them
 *   combine   the rounds by their log Σ exp, which gives what the paper's sum of divided weights gives
 *
 * What a block takes depends on ranks alone, and so do the sums: nothing of a later token shows in a causal row, not
 * even in its rounding. Buckets and order are made again in the backward pass.
 */

#include <float.h>

#include "kernels/cuda/softmax_tiles.cuh"

/* A run of ranks of a bucket, for one block. */
struct stretch {
    int32_t start; /* where the bucket begins in its round's order */
    int32_t count; /* ranks of the bucket */
    int32_t first; /* rank of the run; `count` or more: there is no run */
};

struct reformer {
    struct attention call;
    int64_t ranks;   /* of a stretch: whole chunks, or C of a longer chunk */
    int64_t slots;   /* for stretches of a round */
    int32_t *bucket; /* (B H, rounds, L): of a position, -1 where it is masked */
    int32_t *counts; /* (B H, rounds, buckets) */
    int32_t *order;  /* (B H, rounds, L): positions, bucket by bucket */
    int32_t *chunk;  /* (B H, rounds, L): of a position; those of two buckets are no neighbours */
    struct stretch *stretches; /* (B H, rounds, slots) */
    float *inverse_norm;       /* (B H, L): 1 / ‖q‖, 0 where that is no number */
    float *log_sum;            /* (B H, L): -infinity where a query sees nothing but itself */
    float *round_log_sum;      /* forward: (B H, rounds, L) */
    float *outs;               /* forward: (B H, rounds, L, e) */
    float *dq, *dk, *dv;       /* backward: (B H, rounds, L, d or e), by round */
};

/* ---- buckets and order ---- */

static __device__ bool is_masked(const struct attention &call, int64_t head, int64_t position)
{
    const uint8_t *mask = mask_of_head(call, head);
    return mask && !mask[position];
}

/* argmax [q R; -q R] of a warp's position, the first of equals. A product of floats is exact in double. */
static __device__ int32_t bucket_of(const struct reformer &r, int64_t round, const float *q)
{
    const int64_t half = r.call.buckets / 2, dim = r.call.head_dim;
    const float *rotation = r.call.rotations + round * dim * half;
    struct largest<double> above, below;
    for (int64_t c = threadIdx.x % WARP; c < half; c += WARP) {
        double dot = 0;
        for (int64_t j = 0; j < dim; j++) dot += (double)q[j] * rotation[j * half + c];
        above.meet(dot, c);
        below.meet(-dot, c);
    }
    above = warp_largest(above);
    below = warp_largest(below);
    return (int32_t)(below.value > above.value ? half + below.place : above.place);
}

/* A warp has a position of a head. */
static __global__ void REGISTERS(64) hash_kernel(struct reformer r)
{
    const int64_t row = warp_row(), lane = threadIdx.x % WARP, length = r.call.length;
    if (row >= r.call.batch * r.call.heads * length) return;
    const int64_t head = row / length, position = row % length;
    const struct head_rows rows = rows_of_head(r.call.q, r.call.heads, head);
    const float *q = rows.data + position * rows.stride;

    double squares = 0;
    for (int64_t j = lane; j < r.call.head_dim; j += WARP) squares += (double)q[j] * q[j];
    const double norm = sqrt(warp_sum(squares));
    if (lane == 0) r.inverse_norm[row] = norm < FLT_MIN ? 0 : (float)(1 / norm);
    const bool masked = is_masked(r.call, head, position);
    for (int64_t round = 0; round < r.call.rounds; round++) {
        const int32_t bucket = masked ? -1 : bucket_of(r, round, q);
        if (lane == 0) r.bucket[(head * r.call.rounds + round) * length + position] = bucket;
    }
}

/* A warp has a bucket, blockIdx.y counts the rounds of all heads. */
static __global__ void REGISTERS(32) count_kernel(struct reformer r)
{
    const int64_t bucket = warp_row(), lane = threadIdx.x % WARP, length = r.call.length;
    if (bucket >= r.call.buckets) return;
    const int32_t *buckets = r.bucket + blockIdx.y * length;
    int count = 0;
    for (int64_t s = lane; s < length; s += WARP) count += buckets[s] == bucket;
    count = warp_sum(count);
    if (lane == 0) r.counts[blockIdx.y * r.call.buckets + bucket] = count;
}

/*
 * A warp has a bucket again, and goes over all positions for those in it. What numbers its chunks and its stretches is
 * where it begins in the order and how many buckets are before it: enough that no two buckets meet.
 */
static __global__ void REGISTERS(48) order_kernel(struct reformer r)
{
    const int64_t bucket = warp_row(), lane = threadIdx.x % WARP, length = r.call.length;
    if (bucket >= r.call.buckets) return;
    const int32_t *buckets = r.bucket + blockIdx.y * length;
    const int32_t *counts = r.counts + blockIdx.y * r.call.buckets;
    int start = 0;
    for (int64_t before = lane; before < bucket; before += WARP) start += counts[before];
    start = warp_sum(start);

    int64_t placed = 0;
    for (int64_t first = 0; first < length; first += WARP) {
        const int64_t s = first + lane;
        const bool mine = s < length && buckets[s] == bucket;
        const unsigned all = __ballot_sync((unsigned)WHOLE_WARP, mine);
        const int64_t rank = placed + __popc(all & ((1u << lane) - 1));
        if (mine) {
            r.order[blockIdx.y * length + start + rank] = (int32_t)s;
            r.chunk[blockIdx.y * length + s] = (int32_t)(start + bucket + rank / r.call.chunk);
        }
        placed += __popc(all);
    }

    const int64_t first_slot = start / r.ranks + bucket;
    const int64_t behind =
        bucket + 1 < r.call.buckets ? (start + placed) / r.ranks + bucket + 1 : r.slots;
    for (int64_t slot = first_slot + lane; slot < behind; slot += WARP)
        r.stretches[blockIdx.y * r.slots + slot] = {start, (int32_t)placed,
                                                    (int32_t)((slot - first_slot) * r.ranks)};
}

/* ---- who sees whom ---- */

/* An Order of softmax_tiles.cuh: places are ranks, blockIdx.x counts stretches and blockIdx.y the rounds of all heads. */
struct same_bucket {
    struct reformer r;

    __device__ int64_t head(const struct softmax &) const
    {
        return blockIdx.y / r.call.rounds;
    }
    __device__ struct stretch stretch(void) const
    {
        return r.stretches[blockIdx.y * r.slots + blockIdx.x];
    }
    __device__ const int32_t *order(const struct stretch &at) const
    {
        return r.order + blockIdx.y * r.call.length + at.start;
    }
    __device__ struct chunk queries(const struct softmax &s) const
    {
        const struct stretch at = stretch();
        const int64_t behind = at.first + r.ranks;
        return {at.first, behind < at.count ? behind : at.count, s.rows, order(at)};
    }
    __device__ struct chunk keys(const struct softmax &s) const
    {
        return queries(s);
    }
    /* Their own chunks and the one before. */
    __device__ struct span keys_of(const struct softmax &, const struct chunk &queries) const
    {
        const struct stretch at = stretch();
        const int64_t before = queries.first / r.call.chunk - 1;
        const int64_t behind = ((queries.length - 1) / r.call.chunk + 1) * r.call.chunk;
        const int64_t last = r.call.causal ? queries.length : at.count;
        return {before > 0 ? before * r.call.chunk : 0, behind < last ? behind : last, order(at)};
    }
    /* Their own chunks and the one behind. */
    __device__ struct span queries_of(const struct softmax &, const struct chunk &keys) const
    {
        const struct stretch at = stretch();
        const int64_t own = keys.first / r.call.chunk * r.call.chunk;
        const int64_t behind = ((keys.length - 1) / r.call.chunk + 2) * r.call.chunk;
        return {r.call.causal ? keys.first : own, behind < at.count ? behind : at.count, order(at)};
    }
    /* In that round, itself included and whatever is causal. */
    __device__ __forceinline__ bool near(int64_t round, int64_t query, int64_t key) const
    {
        const int64_t first = blockIdx.y / r.call.rounds * r.call.rounds;
        const int32_t *chunk = r.chunk + (first + round) * r.call.length;
        return (uint32_t)(chunk[query] - chunk[key]) <= 1;
    }
    __device__ __forceinline__ bool sees(const struct softmax &, int64_t query, int64_t key) const
    {
        const int64_t round = blockIdx.y % r.call.rounds;
        bool seen = (r.call.causal ? key < query : key != query) && near(round, query, key);
        for (int64_t before = 0; before < round; before++) seen = seen && !near(before, query, key);
        return seen;
    }
    /* k = q / ‖q‖ */
    __device__ void keys_make(const struct softmax &s, const struct chunk &chunk,
                              struct tile k) const
    {
        const struct head_rows q = rows_of_head(r.call.q, r.call.heads, head(s));
        const float *inverse = r.inverse_norm + head(s) * r.call.length;
        rows_load(chunk, q, (int)r.call.head_dim, s.dim, 1, k);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < s.rows * s.dim; i += BLOCK_THREADS)
            if (chunk.holds(i / s.dim))
                k(i / s.dim, i % s.dim) *= inverse[chunk.position(i / s.dim)];
    }
};

/* ---- the rounds, put together: a warp has a position of a head ---- */

/* An array (B H, rounds, L, width) at one position of a head; rounds are `stride` apart. */
struct rounds_row {
    const float *data;
    int64_t stride;

    __device__ float sum(int64_t rounds, int64_t column) const
    {
        float sum = 0;
        for (int64_t round = 0; round < rounds; round++) sum += data[round * stride + column];
        return sum;
    }
};

static __device__ struct rounds_row rounds_of(const struct attention &call, const float *array,
                                              int64_t row, int64_t width)
{
    const int64_t head = row / call.length, position = row % call.length;
    return {array + (head * call.rounds * call.length + position) * width, call.length * width};
}

static __device__ float *row_at(const struct attention &call, const struct heads_view &view,
                                int64_t row)
{
    const struct head_rows rows = rows_of_head(view, call.heads, row / call.length);
    return rows.data + row % call.length * rows.stride;
}

static __global__ void REGISTERS(48) combine_kernel(struct reformer r)
{
    const struct attention &call = r.call;
    const int64_t row = warp_row(), lane = threadIdx.x % WARP;
    if (row >= call.batch * call.heads * call.length) return;
    const bool masked = is_masked(call, row / call.length, row % call.length);
    const struct rounds_row log_sums = rounds_of(call, r.round_log_sum, row, 1);
    const struct rounds_row outs = rounds_of(call, r.outs, row, call.value_dim);
    const float *v = row_at(call, call.v, row);
    float *out = row_at(call, call.out, row);

    float largest = -INFINITY, sum = 0;
    for (int64_t round = 0; round < call.rounds && !masked; round++)
        largest = fmaxf(largest, log_sums.data[round * log_sums.stride]);
    const bool alone = largest == -INFINITY;
    for (int64_t round = 0; round < call.rounds && !alone; round++)
        sum += expf(log_sums.data[round * log_sums.stride] - largest);
    for (int64_t j = lane; j < call.value_dim; j += WARP) {
        float x = alone && !masked ? v[j] : 0;
        for (int64_t round = 0; round < call.rounds && !alone; round++)
            x += expf(log_sums.data[round * log_sums.stride] - largest) / sum *
                 outs.data[round * outs.stride + j];
        out[j] = x;
    }
    if (lane == 0) r.log_sum[row] = alone ? -INFINITY : largest + logf(sum);
}

/* k . (dk - taken k), of a warp's position. */
static __device__ float along_of(const struct attention &call, const float *q,
                                 const struct rounds_row &dk, float inverse, float taken)
{
    float along = 0;
    for (int64_t j = threadIdx.x % WARP; j < call.head_dim; j += WARP)
        along += q[j] * inverse * (dk.sum(call.rounds, j) - q[j] * inverse * taken);
    return warp_sum(along);
}

/* dq += (dk - k (k . dk)) / ‖q‖, through the length that k = q / ‖q‖ takes away. What is along k is taken away twice: rounding
 * leaves some of it the first time, and a small ‖q‖ would enlarge that. */
static __global__ void REGISTERS(128)
    combine_backward_kernel(struct reformer r, struct attention_backward a)
{
    const struct attention &call = r.call;
    const int64_t row = warp_row(), lane = threadIdx.x % WARP;
    if (row >= call.batch * call.heads * call.length) return;
    const bool masked = is_masked(call, row / call.length, row % call.length);
    const bool alone = r.log_sum[row] == -INFINITY;
    const struct rounds_row dqs = rounds_of(call, r.dq, row, call.head_dim);
    const struct rounds_row dks = rounds_of(call, r.dk, row, call.head_dim);
    const struct rounds_row dvs = rounds_of(call, r.dv, row, call.value_dim);
    const float *q = row_at(call, call.q, row), *dout = row_at(call, a.dout, row);
    float *dq = row_at(call, a.dq, row), *dv = row_at(call, a.dv, row);

    const float inverse = r.inverse_norm[row];
    const float first = masked ? 0 : along_of(call, q, dks, inverse, 0);
    const float second = masked ? 0 : along_of(call, q, dks, inverse, first);
    for (int64_t j = lane; j < call.head_dim; j += WARP) {
        const float key = q[j] * inverse;
        dq[j] = masked ? 0
                       : dqs.sum(call.rounds, j) +
                             (dks.sum(call.rounds, j) - key * first - key * second) * inverse;
    }
    for (int64_t j = lane; j < call.value_dim; j += WARP)
        dv[j] = masked ? 0 : dvs.sum(call.rounds, j) + (alone ? dout[j] : 0);
}

/* ---- calls ---- */

size_t reformer_saved_floats(const struct attention *call)
{
    return (size_t)(call->batch * call->heads * call->length);
}

static int64_t rounds_of_heads(const struct attention *call)
{
    return call->batch * call->heads * call->rounds;
}

/* What is alike in both passes. Masked positions are in no order, so that nothing else has to know of them. */
static struct softmax reformer_place(const struct attention *call, struct arena *arena,
                                     struct reformer *r)
{
    const int64_t rounds = rounds_of_heads(call), heads = call->batch * call->heads;
    struct softmax s = softmax_of(call, call->length);
    s.call.key_mask = NULL;
    s.heads = call->heads * call->rounds;
    *r = {};
    r->call = *call;
    r->ranks = call->chunk < s.rows ? s.rows / call->chunk * call->chunk : s.rows;
    r->slots = call->length / r->ranks + call->buckets;
    const size_t ints = (size_t)(rounds * call->length) * sizeof(int32_t);
    r->bucket = (int32_t *)arena_take(arena, ints);
    r->order = (int32_t *)arena_take(arena, ints);
    r->chunk = (int32_t *)arena_take(arena, ints);
    r->counts = (int32_t *)arena_take(arena, (size_t)(rounds * call->buckets) * sizeof(int32_t));
    r->stretches =
        (struct stretch *)arena_take(arena, (size_t)(rounds * r->slots) * sizeof(struct stretch));
    r->inverse_norm = (float *)arena_take(arena, (size_t)(heads * call->length) * sizeof(float));
    float *own = (float *)arena_take(arena, reformer_saved_floats(call) * sizeof(float));
    r->log_sum = call->saved ? call->saved : own;
    return s;
}

/* (B H, rounds, L, width) and how the kernels of softmax_tiles.cuh see it. */
static float *rounds_take(const struct attention *call, int64_t width, struct arena *arena)
{
    return (float *)arena_take(arena, (size_t)(rounds_of_heads(call) * call->length * width) *
                                          sizeof(float));
}

static struct heads_view rounds_view(const struct attention *call, float *data, int64_t width)
{
    return {data, call->heads * call->rounds * call->length * width, call->length * width, width};
}

static enum status order_make(const struct reformer &r)
{
    const int64_t rows = r.call.batch * r.call.heads * r.call.length;
    const dim3 buckets(row_blocks(r.call.buckets), (unsigned)rounds_of_heads(&r.call));
    enum status status = launch(hash_kernel, row_blocks(rows), BLOCK_THREADS, 0, r);
    if (status == ST_OK) status = launch(count_kernel, buckets, BLOCK_THREADS, 0, r);
    return status == ST_OK ? launch(order_kernel, buckets, BLOCK_THREADS, 0, r) : status;
}

enum status reformer_forward(const struct attention *call, struct arena *arena)
{
    struct reformer r;
    struct softmax s = reformer_place(call, arena, &r);
    r.round_log_sum = s.log_sum = rounds_take(call, 1, arena);
    r.outs = rounds_take(call, call->value_dim, arena);
    s.out = rounds_view(call, r.outs, call->value_dim);
    if (!arena->base) return ST_OK;
    enum status status = order_make(r);
    if (status == ST_OK) status = softmax_launch_forward(s, r.slots, same_bucket{r});
    if (status != ST_OK) return status;
    return launch(combine_kernel, row_blocks(call->batch * call->heads * call->length),
                  BLOCK_THREADS, 0, r);
}

enum status reformer_backward(const struct attention_backward *backward, struct arena *arena)
{
    const struct attention *call = &backward->forward;
    struct reformer r;
    struct softmax s = reformer_place(call, arena, &r);
    s.log_sum = r.log_sum;
    r.dq = rounds_take(call, call->head_dim, arena);
    r.dk = rounds_take(call, call->head_dim, arena);
    r.dv = rounds_take(call, call->value_dim, arena);
    s.dout = backward->dout;
    s.dq = rounds_view(call, r.dq, call->head_dim);
    s.dk = rounds_view(call, r.dk, call->head_dim);
    s.dv = rounds_view(call, r.dv, call->value_dim);
    if (!arena->base) return ST_OK;
    enum status status = order_make(r);
    if (status == ST_OK) status = softmax_launch_backward(s, r.slots, r.slots, 1, same_bucket{r});
    if (status != ST_OK) return status;
    return launch(combine_backward_kernel, row_blocks(call->batch * call->heads * call->length),
                  BLOCK_THREADS, 0, r, *backward);
}
