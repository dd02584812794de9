#ifndef KERNELS_CUDA_FAVOR_FEATURES_CUH
#define KERNELS_CUDA_FAVOR_FEATURES_CUH

/*
 * Features of FAVOR+ in shared memory, FAVOR_COLUMNS at a time: x̃ ωᵀ in fp32, then the kernel's function, in one place.
 * They are never stored: what needs them makes them again. The definition is kernels/reference/favor.c.
 *
 * Barriers: functions that fill a tile begin with one, so that earlier readers are done, and end with one.
 */

#include "kernels/cuda/rows.cuh"

static_assert((int)FAVOR_COLUMNS == (int)WARP, "a warp has a row of them");

/* One call, as its kernels get it. */
struct favor {
    struct attention call;
    struct heads_view dout, dq, dk, dv; /* backward */
    int rows;                           /* C: positions of a chunk */
    int64_t chunks;
    int projections, columns; /* r, n: column j belongs to projection j mod r */
    int dim, width;           /* of tiles: d, and e + 1, for v has a column of ones, rounded up */
    float scale, norm;        /* x̃ = scale x; norm of a column */
    float *query_shift, *key_shift, *inverse; /* (B H, L); inverse: 1 / denominator */
    float *states; /* (B H, chunks, n rounded up, width): of keys, or in backward of queries */

    __host__ __device__ int64_t state_floats(void) const
    {
        return (int64_t)(columns + FAVOR_COLUMNS - 1) / FAVOR_COLUMNS * FAVOR_COLUMNS * width;
    }
};

/* Queries or keys of a chunk. */
struct favor_side {
    struct tile x;  /* (C, dim): x̃ */
    float *half;    /* (C): ‖x̃‖² / 2 */
    float *shift;   /* (C): c */
    float *present; /* (C): 1, or 0 for what is no key or not there */

    __host__ __device__ void place(const struct favor &f, struct shared_arena *arena)
    {
        x = arena->tile(f.rows, f.dim);
        half = arena->row(f.rows);
        shift = arena->row(f.rows);
        present = arena->row(f.rows);
    }
};

static __device__ inline struct chunk favor_chunk(const struct favor &f)
{
    return {(int64_t)blockIdx.x * f.rows, f.call.length, f.rows, NULL};
}

/* A head's part of an array (B H, L). */
static __device__ inline float *of_head(const struct favor &f, float *rows)
{
    return rows + blockIdx.y * f.call.length;
}

static __device__ inline void side_load(const struct favor &f, bool keys,
                                        const struct favor_side &side)
{
    const struct chunk chunk = favor_chunk(f);
    const struct head_rows x = rows_of_head(keys ? f.call.k : f.call.q, f.call.heads, blockIdx.y);
    const float *shift = of_head(f, keys ? f.key_shift : f.query_shift);

    __syncthreads();
    rows_load(chunk, x, (int)f.call.head_dim, f.dim, f.scale, side.x);
    keys_load(chunk, keys ? mask_of_head(f.call, blockIdx.y) : NULL, side.present);
    for (int row = (int)threadIdx.x; row < f.rows; row += BLOCK_THREADS)
        side.shift[row] = chunk.holds(row) ? shift[chunk.first + row] : 0;
    __syncthreads();
    for (int row = (int)threadIdx.x / WARP; row < f.rows; row += BLOCK_WARPS) {
        float squares = 0;
        for (int i = (int)threadIdx.x % WARP; i < f.dim; i += WARP)
            squares += side.x(row, i) * side.x(row, i);
        squares = warp_sum(squares);
        if (threadIdx.x % WARP == 0) side.half[row] = squares / 2;
    }
    __syncthreads();
}

/* w (FAVOR_COLUMNS, dim): the projections of columns first ..., 0 behind the last. elu1 takes x itself. */
static __device__ inline void projection_load(const struct favor &f, int first, struct tile w)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < FAVOR_COLUMNS * f.dim; i += BLOCK_THREADS) {
        const int row = i / f.dim, j = i % f.dim, column = first + row;
        const int projection = column % f.projections;
        float value = 0;
        if (column < f.columns && j < f.call.head_dim)
            value = f.call.kernel == KERNEL_ELU1
                        ? (float)(projection == j)
                        : f.call.projection[projection * f.call.head_dim + j];
        w(row, j) = value;
    }
    __syncthreads();
}

/* p (C, FAVOR_COLUMNS) = x̃ wᵀ, in fp32 whatever the precision: an exponential would blow its rounding up. */
static __device__ inline void project(const struct favor &f, const struct favor_side &side,
                                      struct tile w, struct tile p)
{
    __syncthreads();
    tile_zero(p, f.rows, FAVOR_COLUMNS);
    __syncthreads();
    tile_product_fp32(f.rows, FAVOR_COLUMNS, f.dim, side.x, w.transposed(), p);
    __syncthreads();
}

/* A column without its ε: f, ∂f/∂p and ∂f/∂(‖x̃‖²/2). */
struct favor_column {
    float value, slope, growth;
};

/* f(p) of the kernels that are not shifted (Choromanski et al. 2021, appendix D.2), and its derivative. */
static __device__ inline struct favor_column column_of_function(enum attention_kernel kernel,
                                                                float p)
{
    switch (kernel) {
    case KERNEL_RELU:
        return {fmaxf(p, 0), p > 0 ? 1.0f : 0.0f, 0};
    case KERNEL_SIGMOID: {
        const float f = 1 / (1 + expf(-p));
        return {f, f * (1 - f), 0};
    }
    case KERNEL_ABS:
        return {fabsf(p), (p > 0 ? 1.0f : 0.0f) - (p < 0 ? 1.0f : 0.0f), 0};
    case KERNEL_GELU: {
        const float below = 0.5f * erfcf(-p * 0.70710678f);
        return {p * below, below + p * 0.39894228f * expf(-0.5f * p * p), 0};
    }
    case KERNEL_COS:
        return {cosf(p), -sinf(p), 0};
    case KERNEL_TANH: {
        const float f = tanhf(p);
        return {f, 1 - f * f, 0};
    }
    case KERNEL_ELU1:
        return p > 0 ? favor_column{p + 1, 1, 0} : favor_column{expf(p), expf(p), 0};
    default: /* identity */
        return {p, 1, 0};
    }
}

static __device__ inline struct favor_column column_of(const struct favor &f, int column, float p,
                                                       float half, float shift)
{
    const bool second = column >= f.projections;
    float e;
    switch (f.call.kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
        e = expf(p - half - shift);
        return {e, e, -e};
    case KERNEL_SOFTMAX_HYPERBOLIC:
        e = expf((second ? -p : p) - half - shift);
        return {e, second ? -e : e, -e};
    case KERNEL_SOFTMAX_TRIG:
        e = expf(half - shift);
        return second ? favor_column{e * cosf(p), -e * sinf(p), e * cosf(p)}
                      : favor_column{e * sinf(p), e * cosf(p), e * sinf(p)};
    case KERNEL_EXP:
        e = expf(p - shift);
        return {e, e, 0};
    default:
        return column_of_function(f.call.kernel, p);
    }
}

/* Whether a denominator can be anything. */
static __device__ inline bool changes_sign(enum attention_kernel kernel)
{
    switch (kernel) {
    case KERNEL_SOFTMAX_TRIG:
    case KERNEL_GELU:
    case KERNEL_COS:
    case KERNEL_TANH:
    case KERNEL_IDENTITY:
        return true;
    default:
        return false;
    }
}

/* 0 where there is no denominator, or, of features that are never negative, one that has underflowed. Where features change
 * sign, a lost denominator shows as what it is. */
static __device__ inline float inverse_of(enum attention_kernel kernel, float denominator)
{
    const float least = 0x1p-110f;
    if (changes_sign(kernel)) return denominator == 0 ? 0 : 1 / denominator;
    return denominator < least ? 0 : 1 / denominator;
}

/* ε of a row: added to what is shifted already, or scaled with the shift where that is to cancel as a whole. */
static __device__ inline float row_epsilon(const struct favor &f, float shift)
{
    const bool scaled = f.call.kernel == KERNEL_SOFTMAX_TRIG || f.call.kernel == KERNEL_EXP;
    return scaled && f.call.epsilon > 0 ? f.call.epsilon * expf(-shift) : f.call.epsilon;
}

/* phi (C, FAVOR_COLUMNS) from p, which it may be; 0 in rows that are not there. */
static __device__ inline void features_map(const struct favor &f, const struct favor_side &side,
                                           int first, struct tile p, struct tile phi)
{
    __syncthreads();
    const int lane = (int)threadIdx.x % WARP, column = first + lane;
    for (int row = (int)threadIdx.x / WARP; row < f.rows; row += BLOCK_WARPS) {
        float value = 0;
        if (side.present[row] != 0 && column < f.columns)
            value = f.norm *
                    (row_epsilon(f, side.shift[row]) +
                     column_of(f, column, p(row, lane), side.half[row], side.shift[row]).value);
        phi(row, lane) = value;
    }
    __syncthreads();
}

/* From dφ: p becomes what comes back to the projections, and growth (C) collects what comes back to ‖x̃‖²/2. */
static __device__ inline void features_backward(const struct favor &f,
                                                const struct favor_side &side, int first,
                                                struct tile dphi, struct tile p, float *growth)
{
    __syncthreads();
    const int lane = (int)threadIdx.x % WARP, column = first + lane;
    for (int row = (int)threadIdx.x / WARP; row < f.rows; row += BLOCK_WARPS) {
        float back = 0, grown = 0;
        if (side.present[row] != 0 && column < f.columns) {
            const struct favor_column c =
                column_of(f, column, p(row, lane), side.half[row], side.shift[row]);
            back = f.norm * dphi(row, lane) * c.slope;
            grown = f.norm * dphi(row, lane) * c.growth;
        }
        p(row, lane) = back;
        grown = warp_sum(grown);
        if (lane == 0) growth[row] += grown;
    }
    __syncthreads();
}

/* exp(from - to), where both may be the maximum of no keys. */
static __device__ inline float decay(float from, float to)
{
    return from == to ? 1 : expf(from - to);
}

/* The shift that the state before a chunk, and after it, is relative to. Bidirectional: always the same. */
static __device__ inline float shift_before(const struct favor &f, int64_t chunk)
{
    const float *shift = of_head(f, f.key_shift);
    if (!f.call.causal) return shift[0];
    return chunk == 0 ? -INFINITY : shift[chunk * f.rows - 1];
}

static __device__ inline float shift_after(const struct favor &f, int64_t chunk)
{
    const int64_t end = (chunk + 1) * f.rows;
    return of_head(f, f.key_shift)[(end < f.call.length ? end : f.call.length) - 1];
}

#endif
