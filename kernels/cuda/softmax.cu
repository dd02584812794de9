/*
 * Exact attention, out = softmax(q kᵀ / √d) v, in tiles with a running maximum and sum (Milakov & Gimelshein 2018; Dao et
 * al. 2022, Algorithm 1): no row of it is ever stored. A block has C queries and goes over the keys, or in the backward
 * pass for dk and dv C keys and goes over the queries. Kept for the backward pass: log Σ exp of each row.
 */

#include "kernels/cuda/rows.cuh"

struct softmax {
    struct attention call;
    struct heads_view dout, dq, dk, dv;
    int rows;       /* C */
    int dim, width; /* of tiles: d and e, rounded up */
    float scale;    /* 1 / √d */
    float *log_sum; /* (B H, L), -infinity where a query sees no key */
};

static __device__ struct chunk chunk_at(const struct softmax &s, int64_t index)
{
    return {index * s.rows, s.call.length, s.rows};
}

static __device__ int64_t chunks_of(const struct softmax &s)
{
    return (s.call.length + s.rows - 1) / s.rows;
}

/* scores (C, C), query t of one chunk and key s of another: -infinity where t does not see s */
static __device__ void scores_mask(const struct softmax &s, const struct chunk &queries,
                                   const struct chunk &keys, const float *present,
                                   struct tile scores)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < s.rows * s.rows; i += BLOCK_THREADS) {
        const int row = i / s.rows, column = i % s.rows;
        const bool later = s.call.causal && keys.first + column > queries.first + row;
        if (present[column] == 0 || later) scores(row, column) = -INFINITY;
    }
    __syncthreads();
}

template <enum precision PRECISION>
static __device__ void scores_make(const struct softmax &s, const struct chunk &queries,
                                   const struct chunk &keys, struct tile q, struct tile k,
                                   const float *present, struct tile scores)
{
    tile_zero(scores, s.rows, s.rows);
    __syncthreads();
    tile_product<PRECISION>(s.rows, s.rows, s.dim, q, k.transposed(), scores);
    scores_mask(s, queries, keys, present, scores);
}

/* ---- forward ---- */

struct forward_tiles {
    struct tile q, k, v, scores, out;
    float *present, *maximum, *sum;

    __host__ __device__ void place(const struct softmax &s, struct shared_arena *arena)
    {
        q = arena->tile(s.rows, s.dim);
        k = arena->tile(s.rows, s.dim);
        v = arena->tile(s.rows, s.width);
        scores = arena->tile(s.rows, s.rows);
        out = arena->tile(s.rows, s.width);
        present = arena->row(s.rows);
        maximum = arena->row(s.rows);
        sum = arena->row(s.rows);
    }
};

/* Scores become exp(score - maximum so far); sums and outputs before are carried on to that maximum. A warp has a row. */
static __device__ void scores_exponentials(const struct softmax &s, const struct forward_tiles &t)
{
    const int lane = (int)threadIdx.x % WARP;
    for (int row = (int)threadIdx.x / WARP; row < s.rows; row += BLOCK_WARPS) {
        float largest = -INFINITY, sum = 0;
        for (int j = lane; j < s.rows; j += WARP) largest = fmaxf(largest, t.scores(row, j));
        const float before = t.maximum[row], maximum = fmaxf(before, warp_max(largest));
        const bool none = maximum == -INFINITY;
        for (int j = lane; j < s.rows; j += WARP) {
            const float p = none ? 0 : expf(t.scores(row, j) - maximum);
            t.scores(row, j) = p;
            sum += p;
        }
        sum = warp_sum(sum);
        const float carried = none ? 1 : expf(before - maximum);
        for (int j = lane; j < s.width; j += WARP) t.out(row, j) *= carried;
        __syncwarp(); /* every lane has read the maximum before */
        if (lane == 0) {
            t.maximum[row] = maximum;
            t.sum[row] = t.sum[row] * carried + sum;
        }
    }
    __syncthreads();
}

static __device__ void out_store(const struct softmax &s, const struct chunk &chunk,
                                 const struct forward_tiles &t)
{
    const struct head_rows to = rows_of_head(s.call.out, s.call.heads);
    const int e = (int)s.call.value_dim;
    for (int i = (int)threadIdx.x; i < s.rows * e; i += BLOCK_THREADS) {
        const int row = i / e, j = i % e;
        if (chunk.holds(row))
            to.data[(chunk.first + row) * to.stride + j] =
                t.sum[row] == 0 ? 0 : t.out(row, j) / t.sum[row];
    }
    for (int row = (int)threadIdx.x; row < s.rows; row += BLOCK_THREADS)
        if (chunk.holds(row))
            s.log_sum[blockIdx.y * s.call.length + chunk.first + row] =
                t.sum[row] == 0 ? -INFINITY : t.maximum[row] + logf(t.sum[row]);
}

template <enum precision PRECISION>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1) forward_kernel(struct softmax s)
{
    DYNAMIC_SHARED(float, memory);
    struct shared_arena arena = {memory, 0};
    struct forward_tiles t;
    t.place(s, &arena);
    const struct chunk queries = chunk_at(s, blockIdx.x);
    const int64_t end = s.call.causal ? blockIdx.x + 1 : chunks_of(s);

    rows_load(queries, rows_of_head(s.call.q, s.call.heads), (int)s.call.head_dim, s.dim, s.scale,
              t.q);
    tile_zero(t.out, s.rows, s.width);
    for (int row = (int)threadIdx.x; row < s.rows; row += BLOCK_THREADS)
        t.maximum[row] = -INFINITY, t.sum[row] = 0;
    for (int64_t i = 0; i < end; i++) {
        const struct chunk keys = chunk_at(s, i);
        __syncthreads();
        rows_load(keys, rows_of_head(s.call.k, s.call.heads), (int)s.call.head_dim, s.dim, 1, t.k);
        rows_load(keys, rows_of_head(s.call.v, s.call.heads), (int)s.call.value_dim, s.width, 1,
                  t.v);
        keys_load(keys, s.call.key_mask, s.call.heads, t.present);
        scores_make<PRECISION>(s, queries, keys, t.q, t.k, t.present, t.scores);
        scores_exponentials(s, t);
        tile_product<PRECISION>(s.rows, s.width, s.rows, t.scores, t.v, t.out);
    }
    __syncthreads();
    out_store(s, queries, t);
}

/* ---- backward ---- */

/*
 * With p = softmax and D = dout . out of a query: dv = pᵀ dout, ds = p (dout vᵀ - D), dq = ds k / √d, dk = dsᵀ q / √d. Here
 * q is q / √d already.
 */
struct backward_tiles {
    struct tile q, k, v, dout, p, ds, sum, dv; /* sum: of dq or dk */
    float *present, *log_sum, *mean;

    __host__ __device__ void place(const struct softmax &s, struct shared_arena *arena)
    {
        q = arena->tile(s.rows, s.dim);
        k = arena->tile(s.rows, s.dim);
        v = arena->tile(s.rows, s.width);
        dout = arena->tile(s.rows, s.width);
        p = arena->tile(s.rows, s.rows);
        ds = arena->tile(s.rows, s.rows);
        sum = arena->tile(s.rows, s.dim);
        dv = arena->tile(s.rows, s.width);
        present = arena->row(s.rows);
        log_sum = arena->row(s.rows);
        mean = arena->row(s.rows);
    }
};

static __device__ void queries_load(const struct softmax &s, const struct chunk &chunk,
                                    const struct backward_tiles &t)
{
    const struct head_rows out = rows_of_head(s.call.out, s.call.heads);
    const float *log_sum = s.log_sum + blockIdx.y * s.call.length;
    const int e = (int)s.call.value_dim;
    __syncthreads();
    rows_load(chunk, rows_of_head(s.call.q, s.call.heads), (int)s.call.head_dim, s.dim, s.scale,
              t.q);
    rows_load(chunk, rows_of_head(s.dout, s.call.heads), e, s.width, 1, t.dout);
    __syncthreads();
    for (int row = (int)threadIdx.x / WARP; row < s.rows; row += BLOCK_WARPS) {
        float sum = 0;
        for (int j = (int)threadIdx.x % WARP; j < e && chunk.holds(row); j += WARP)
            sum += t.dout(row, j) * out.data[(chunk.first + row) * out.stride + j];
        sum = warp_sum(sum);
        if (threadIdx.x % WARP != 0) continue;
        t.mean[row] = sum;
        t.log_sum[row] = chunk.holds(row) ? log_sum[chunk.first + row] : -INFINITY;
    }
    __syncthreads();
}

static __device__ void keys_and_values_load(const struct softmax &s, const struct chunk &chunk,
                                            const struct backward_tiles &t)
{
    __syncthreads();
    rows_load(chunk, rows_of_head(s.call.k, s.call.heads), (int)s.call.head_dim, s.dim, 1, t.k);
    rows_load(chunk, rows_of_head(s.call.v, s.call.heads), (int)s.call.value_dim, s.width, 1, t.v);
    keys_load(chunk, s.call.key_mask, s.call.heads, t.present);
    __syncthreads();
}

/* p and ds of a chunk of queries with one of keys; rows that are not there are 0 in both. */
template <enum precision PRECISION>
static __device__ void slopes_make(const struct softmax &s, const struct chunk &queries,
                                   const struct chunk &keys, const struct backward_tiles &t)
{
    scores_make<PRECISION>(s, queries, keys, t.q, t.k, t.present, t.p);
    tile_zero(t.ds, s.rows, s.rows);
    __syncthreads();
    tile_product<PRECISION>(s.rows, s.rows, s.width, t.dout, t.v.transposed(), t.ds);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < s.rows * s.rows; i += BLOCK_THREADS) {
        const int row = i / s.rows, column = i % s.rows;
        const bool none = t.log_sum[row] == -INFINITY;
        const float p = none ? 0 : expf(t.p(row, column) - t.log_sum[row]);
        t.p(row, column) = p;
        t.ds(row, column) = p * (t.ds(row, column) - t.mean[row]);
    }
    __syncthreads();
}

static __device__ void rows_store(const struct softmax &s, const struct chunk &chunk,
                                  struct tile from, float scale, int width,
                                  const struct heads_view &view)
{
    const struct head_rows to = rows_of_head(view, s.call.heads);
    for (int i = (int)threadIdx.x; i < s.rows * width; i += BLOCK_THREADS)
        if (chunk.holds(i / width))
            to.data[(chunk.first + i / width) * to.stride + i % width] =
                scale * from(i / width, i % width);
}

template <enum precision PRECISION>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1) query_gradient_kernel(struct softmax s)
{
    DYNAMIC_SHARED(float, memory);
    struct shared_arena arena = {memory, 0};
    struct backward_tiles t;
    t.place(s, &arena);
    const struct chunk queries = chunk_at(s, blockIdx.x);
    const int64_t end = s.call.causal ? blockIdx.x + 1 : chunks_of(s);

    queries_load(s, queries, t);
    tile_zero(t.sum, s.rows, s.dim);
    for (int64_t i = 0; i < end; i++) {
        const struct chunk keys = chunk_at(s, i);
        keys_and_values_load(s, keys, t);
        slopes_make<PRECISION>(s, queries, keys, t);
        tile_product<PRECISION>(s.rows, s.dim, s.rows, t.ds, t.k, t.sum);
    }
    __syncthreads();
    rows_store(s, queries, t.sum, s.scale, (int)s.call.head_dim, s.dq);
}

template <enum precision PRECISION>
static __global__ void __launch_bounds__(BLOCK_THREADS, 1) key_gradient_kernel(struct softmax s)
{
    DYNAMIC_SHARED(float, memory);
    struct shared_arena arena = {memory, 0};
    struct backward_tiles t;
    t.place(s, &arena);
    const struct chunk keys = chunk_at(s, blockIdx.x);

    keys_and_values_load(s, keys, t);
    tile_zero(t.sum, s.rows, s.dim);
    tile_zero(t.dv, s.rows, s.width);
    for (int64_t i = s.call.causal ? blockIdx.x : 0; i < chunks_of(s); i++) {
        const struct chunk queries = chunk_at(s, i);
        queries_load(s, queries, t);
        slopes_make<PRECISION>(s, queries, keys, t);
        tile_product<PRECISION>(s.rows, s.width, s.rows, t.p.transposed(), t.dout, t.dv);
        tile_product<PRECISION>(s.rows, s.dim, s.rows, t.ds.transposed(), t.q, t.sum);
    }
    __syncthreads();
    rows_store(s, keys, t.sum, 1, (int)s.call.head_dim, s.dk);
    rows_store(s, keys, t.dv, 1, (int)s.call.value_dim, s.dv);
}

/* ---- calls ---- */

size_t softmax_saved_floats(const struct attention *call)
{
    return (size_t)(call->batch * call->heads * call->length);
}

static struct softmax softmax_of(const struct attention *call)
{
    struct softmax s = {};
    s.call = *call;
    s.dim = tile_round_up(call->head_dim);
    s.width = tile_round_up(call->value_dim);
    s.scale = 1.0f / sqrtf((float)call->head_dim);
    return s;
}

bool softmax_fits(const struct attention *call)
{
    return chunk_rows<struct backward_tiles>(softmax_of(call)) > 0;
}

static struct softmax softmax_place(const struct attention *call, struct arena *arena)
{
    struct softmax s = softmax_of(call);
    s.rows = chunk_rows<struct backward_tiles>(s);
    float *own = (float *)arena_take(arena, softmax_saved_floats(call) * sizeof(float));
    s.log_sum = call->saved ? call->saved : own;
    return s;
}

template <typename Tiles>
static enum status launch_chunks(void (*kernel)(struct softmax), const struct softmax &s)
{
    const dim3 grid((unsigned)ceiling(s.call.length, s.rows),
                    (unsigned)(s.call.batch * s.call.heads));
    return launch(kernel, grid, BLOCK_THREADS, shared_bytes_of<Tiles>(s), s);
}

enum status softmax_forward(const struct attention *call, struct arena *arena)
{
    const struct softmax s = softmax_place(call, arena);
    if (!arena->base) return ST_OK;
    return launch_chunks<struct forward_tiles>(call->precision == PRECISION_BF16
                                                   ? forward_kernel<PRECISION_BF16>
                                                   : forward_kernel<PRECISION_FP32>,
                                               s);
}

enum status softmax_backward(const struct attention_backward *call, struct arena *arena)
{
    struct softmax s = softmax_place(&call->forward, arena);
    if (!arena->base) return ST_OK;
    s.dout = call->dout;
    s.dq = call->dq;
    s.dk = call->dk;
    s.dv = call->dv;
    const bool bf16 = call->forward.precision == PRECISION_BF16;
    const enum status status = launch_chunks<struct backward_tiles>(
        bf16 ? query_gradient_kernel<PRECISION_BF16> : query_gradient_kernel<PRECISION_FP32>, s);
    if (status != ST_OK) return status;
    return launch_chunks<struct backward_tiles>(
        bf16 ? key_gradient_kernel<PRECISION_BF16> : key_gradient_kernel<PRECISION_FP32>, s);
}
