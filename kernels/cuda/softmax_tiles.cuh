#ifndef KERNELS_CUDA_SOFTMAX_TILES_CUH
#define KERNELS_CUDA_SOFTMAX_TILES_CUH

/*
 * softmax(q kᵀ / √d) v over the pairs that see each other, in tiles with a running maximum and sum (Milakov & Gimelshein
 * 2018; Dao et al. 2022, Algorithm 1): no row of it is ever stored. A block has C queries and goes over the keys that they may
 * see, or in the backward pass for dk and dv C keys and goes over the queries. Kept for the backward pass: log Σ exp of each
 * row.
 *
 * Who may see whom is a parameter of the kernels, an `Order`, which also says what blockIdx counts:
 *
 *   head(s)                  of (B, H), whose q, k, v and dout a block reads
 *   queries(s), keys(s)      the C places of this block
 *   keys_of(s, queries)      the places that one of these queries may see
 *   queries_of(s, keys)      the places that may see one of these keys
 *   sees(s, query, key)      of a pair of positions among those
 *   keys_make(s, keys, k)    k (C, dim), what scores are made of
 */

#include "kernels/cuda/rows.cuh"

struct softmax {
    struct attention call;
    struct heads_view out;        /* forward */
    struct heads_view dout;       /* backward: as call.q */
    struct heads_view dq, dk, dv; /* backward */
    int64_t heads;  /* of out, dq, dk and dv: a block writes to head blockIdx.y of (B, heads) */
    int64_t keys;   /* of a head */
    int rows;       /* C */
    int dim, width; /* of tiles: d and e, rounded up */
    float scale;    /* 1 / √d */
    float *log_sum; /* (B heads, L), backward (B H, L): -infinity where a query sees no key */
};

/* Places first ... end - 1, of which `order`, unless NULL, says which positions they are. */
struct span {
    int64_t first, end;
    const int32_t *order;
};

/* C places of a span from `first` on. */
static __device__ inline struct chunk chunk_of(const struct softmax &s, const struct span &span,
                                               int64_t first)
{
    return {first, span.end, s.rows, span.order};
}

/* scores (C, C), query t of one chunk and key s of another: q . k / √d, -infinity where t does not see s */
template <enum precision PRECISION, typename Order>
static __device__ void scores_make(const struct softmax &s, const Order &order,
                                   const struct chunk &queries, const struct chunk &keys,
                                   struct tile q, struct tile k, const float *present,
                                   struct tile scores)
{
    tile_zero(scores, s.rows, s.rows);
    __syncthreads();
    tile_product<PRECISION>(s.rows, s.rows, s.dim, q, k.transposed(), scores);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < s.rows * s.rows; i += BLOCK_THREADS) {
        const int row = i / s.rows, column = i % s.rows;
        const bool there = queries.holds(row) && present[column] != 0;
        if (!there || !order.sees(s, queries.position(row), keys.position(column)))
            scores(row, column) = -INFINITY;
    }
    __syncthreads();
}

/* ---- forward ---- */

/* 86 KiB, where heads are 64 wide. */
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
static __device__ inline void scores_exponentials(const struct softmax &s,
                                                  const struct forward_tiles &t)
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

static __device__ inline void out_store(const struct softmax &s, const struct chunk &chunk,
                                        const struct forward_tiles &t)
{
    const struct head_rows to = rows_of_head(s.out, s.heads, blockIdx.y);
    const int e = (int)s.call.value_dim;
    for (int i = (int)threadIdx.x; i < s.rows * e; i += BLOCK_THREADS) {
        const int row = i / e, j = i % e;
        if (chunk.holds(row))
            to.data[chunk.position(row) * to.stride + j] =
                t.sum[row] == 0 ? 0 : t.out(row, j) / t.sum[row];
    }
    for (int row = (int)threadIdx.x; row < s.rows; row += BLOCK_THREADS)
        if (chunk.holds(row))
            s.log_sum[blockIdx.y * s.call.length + chunk.position(row)] =
                t.sum[row] == 0 ? -INFINITY : t.maximum[row] + logf(t.sum[row]);
}

/* present (C), k (C, dim) and v (C, width) of a chunk of keys. */
template <typename Order, typename Tiles>
static __device__ void keys_and_values_load(const struct softmax &s, const Order &order,
                                            const struct chunk &chunk, const Tiles &t)
{
    __syncthreads();
    rows_load(chunk, rows_of_head(s.call.v, s.call.heads, order.head(s)), (int)s.call.value_dim,
              s.width, 1, t.v);
    keys_load(chunk, mask_of_head(s.call, order.head(s)), t.present);
    order.keys_make(s, chunk, t.k);
    __syncthreads();
}

template <enum precision PRECISION, typename Order>
static __global__ void REGISTERS(128) softmax_forward_kernel(struct softmax s, Order order)
{
    const struct chunk queries = order.queries(s);
    if (!queries.holds(0)) return;
    const struct forward_tiles t = tiles_place<struct forward_tiles>(s);
    const struct span seen = order.keys_of(s, queries);

    rows_load(queries, rows_of_head(s.call.q, s.call.heads, order.head(s)), (int)s.call.head_dim,
              s.dim, s.scale, t.q);
    tile_zero(t.out, s.rows, s.width);
    for (int row = (int)threadIdx.x; row < s.rows; row += BLOCK_THREADS)
        t.maximum[row] = -INFINITY, t.sum[row] = 0;
    for (int64_t first = seen.first; first < seen.end; first += s.rows) {
        const struct chunk keys = chunk_of(s, seen, first);
        keys_and_values_load(s, order, keys, t);
        scores_make<PRECISION>(s, order, queries, keys, t.q, t.k, t.present, t.scores);
        scores_exponentials(s, t);
        tile_product<PRECISION>(s.rows, s.width, s.rows, t.scores, t.v, t.out);
    }
    __syncthreads();
    out_store(s, queries, t);
}

/* ---- backward ---- */

/*
 * With p = softmax and D = dout . out of a query: dv = pᵀ dout, ds = p (dout vᵀ - D), dq = ds k / √d, dk = dsᵀ q / √d. Here
 * q is q / √d already. 137 KiB, where heads are 64 wide.
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

static __device__ inline void queries_load(const struct softmax &s, int64_t head,
                                           const struct chunk &chunk,
                                           const struct backward_tiles &t)
{
    const struct head_rows out = rows_of_head(s.call.out, s.call.heads, head);
    const float *log_sum = s.log_sum + head * s.call.length;
    const int e = (int)s.call.value_dim;
    __syncthreads();
    rows_load(chunk, rows_of_head(s.call.q, s.call.heads, head), (int)s.call.head_dim, s.dim,
              s.scale, t.q);
    rows_load(chunk, rows_of_head(s.dout, s.call.heads, head), e, s.width, 1, t.dout);
    __syncthreads();
    for (int row = (int)threadIdx.x / WARP; row < s.rows; row += BLOCK_WARPS) {
        const bool there = chunk.holds(row);
        float sum = 0;
        for (int j = (int)threadIdx.x % WARP; j < e && there; j += WARP)
            sum += t.dout(row, j) * out.data[chunk.position(row) * out.stride + j];
        sum = warp_sum(sum);
        if (threadIdx.x % WARP != 0) continue;
        t.mean[row] = sum;
        t.log_sum[row] = there ? log_sum[chunk.position(row)] : -INFINITY;
    }
    __syncthreads();
}

/* p and ds of a chunk of queries with one of keys; rows that are not there are 0 in both. */
template <enum precision PRECISION, typename Order>
static __device__ void slopes_make(const struct softmax &s, const Order &order,
                                   const struct chunk &queries, const struct chunk &keys,
                                   const struct backward_tiles &t)
{
    scores_make<PRECISION>(s, order, queries, keys, t.q, t.k, t.present, t.p);
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

template <enum precision PRECISION, typename Order>
static __global__ void REGISTERS(128) softmax_query_gradient_kernel(struct softmax s, Order order)
{
    const struct chunk queries = order.queries(s);
    if (!queries.holds(0)) return;
    const struct backward_tiles t = tiles_place<struct backward_tiles>(s);
    const struct span seen = order.keys_of(s, queries);

    queries_load(s, order.head(s), queries, t);
    tile_zero(t.sum, s.rows, s.dim);
    for (int64_t first = seen.first; first < seen.end; first += s.rows) {
        const struct chunk keys = chunk_of(s, seen, first);
        keys_and_values_load(s, order, keys, t);
        slopes_make<PRECISION>(s, order, queries, keys, t);
        tile_product<PRECISION>(s.rows, s.dim, s.rows, t.ds, t.k, t.sum);
    }
    __syncthreads();
    rows_store(queries, t.sum, s.scale, (int)s.call.head_dim,
               rows_of_head(s.dq, s.heads, blockIdx.y));
}

template <enum precision PRECISION, typename Order>
static __global__ void REGISTERS(128) softmax_key_gradient_kernel(struct softmax s, Order order)
{
    const struct chunk keys = order.keys(s);
    if (!keys.holds(0)) return;
    const struct backward_tiles t = tiles_place<struct backward_tiles>(s);
    const struct span seeing = order.queries_of(s, keys);

    keys_and_values_load(s, order, keys, t);
    tile_zero(t.sum, s.rows, s.dim);
    tile_zero(t.dv, s.rows, s.width);
    for (int64_t first = seeing.first; first < seeing.end; first += s.rows) {
        const struct chunk queries = chunk_of(s, seeing, first);
        queries_load(s, order.head(s), queries, t);
        slopes_make<PRECISION>(s, order, queries, keys, t);
        tile_product<PRECISION>(s.rows, s.width, s.rows, t.p.transposed(), t.dout, t.dv);
        tile_product<PRECISION>(s.rows, s.dim, s.rows, t.ds.transposed(), t.q, t.sum);
    }
    __syncthreads();
    rows_store(keys, t.sum, 1, (int)s.call.head_dim, rows_of_head(s.dk, s.heads, blockIdx.y));
    rows_store(keys, t.dv, 1, (int)s.call.value_dim, rows_of_head(s.dv, s.heads, blockIdx.y));
}

/* ---- calls ---- */

/* All but the views, the arrays and how many heads are written. */
static inline struct softmax softmax_of(const struct attention *call, int64_t keys)
{
    struct softmax s = {};
    s.call = *call;
    s.keys = keys;
    s.dim = tile_round_up(call->head_dim);
    s.width = tile_round_up(call->value_dim);
    s.scale = 1.0f / sqrtf((float)call->head_dim);
    s.rows = chunk_rows<struct backward_tiles>(s);
    return s;
}

static inline int64_t heads_written(const struct softmax &s)
{
    return s.call.batch * s.heads;
}

/* So many blocks for each head that is written; dk and dv for each of `slices` of the queries, slice after slice. */
template <typename Order>
static enum status softmax_launch_forward(const struct softmax &s, int64_t chunks,
                                          const Order &order)
{
    return launch_chunks<struct forward_tiles>(s.call.precision == PRECISION_BF16
                                                   ? softmax_forward_kernel<PRECISION_BF16, Order>
                                                   : softmax_forward_kernel<PRECISION_FP32, Order>,
                                               chunks, heads_written(s), s, order);
}

template <typename Order>
static enum status softmax_launch_backward(const struct softmax &s, int64_t query_chunks,
                                           int64_t key_chunks, int64_t slices, const Order &order)
{
    const bool bf16 = s.call.precision == PRECISION_BF16;
    const enum status status = launch_chunks<struct backward_tiles>(
        bf16 ? softmax_query_gradient_kernel<PRECISION_BF16, Order>
             : softmax_query_gradient_kernel<PRECISION_FP32, Order>,
        query_chunks, heads_written(s), s, order);
    if (status != ST_OK) return status;
    return launch_chunks<struct backward_tiles>(
        bf16 ? softmax_key_gradient_kernel<PRECISION_BF16, Order>
             : softmax_key_gradient_kernel<PRECISION_FP32, Order>,
        key_chunks, slices * heads_written(s), s, order);
}

#endif
