/*
 * Linformer (Wang et al. 2020, equation 7): K = E k and V = F v of each head, then exact attention of its queries over these r
 * keys, by softmax.cu. K and V are kept for the backward pass, and behind them what that keeps. A key that is masked is a row
 * of zeros in k and v.
 *
 *   compress  C rows of K or V, over a slice of the positions; then the slices are summed, in order
 *   expand    dk = Eᵀ dK or dv = Fᵀ dV, at C positions
 */

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/rows.cuh"

/* One of the two products that are alike, of E with k or of F with v. */
struct linformer {
    struct attention call;
    const float *matrix;   /* (r, columns) */
    struct heads_view x;   /* (B, H, L, width): k or v; backward: its gradient */
    float *compressed;     /* (B H, r, width): K or V; backward: its gradient */
    float *partial;        /* (slices, B H, r, width) */
    int width, padded;     /* d or e; of tiles: rounded up */
    int rows;              /* C */
    int64_t slice, slices; /* positions of one; how many */
};

/* 52 KiB, where heads are 64 wide. */
struct linformer_tiles {
    struct tile matrix, x, sum;
    float *present;

    __host__ __device__ void place(const struct linformer &f, struct shared_arena *arena)
    {
        matrix = arena->tile(f.rows, f.rows);
        x = arena->tile(f.rows, f.padded);
        sum = arena->tile(f.rows, f.padded);
        present = arena->row(f.rows);
    }
};

/* tile (C, C): rows of the matrix, at positions; 0 where either is not there */
static __device__ void matrix_load(const struct linformer &f, const struct chunk &rows,
                                   const struct chunk &positions, struct tile tile)
{
    for (int i = (int)threadIdx.x; i < f.rows * f.rows; i += BLOCK_THREADS) {
        const int row = i / f.rows, column = i % f.rows;
        tile(row, column) =
            rows.holds(row) && positions.holds(column)
                ? f.matrix[(rows.first + row) * f.call.columns + positions.first + column]
                : 0;
    }
}

/* Rows that are no keys become 0, whatever stands there. */
static __device__ void masked_zero(const struct linformer &f, const float *present,
                                   struct tile tile)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < f.rows * f.padded; i += BLOCK_THREADS)
        if (present[i / f.padded] == 0) tile(i / f.padded, i % f.padded) = 0;
    __syncthreads();
}

static __device__ struct head_rows compressed_rows(const struct linformer &f, float *compressed)
{
    return {compressed + blockIdx.y * f.call.rank * f.width, f.width};
}

/* blockIdx.x counts C rows of the matrix, for one slice of the positions after another. */
template <enum precision PRECISION>
static __global__ void REGISTERS(128) compress_kernel(struct linformer f)
{
    const struct linformer_tiles t = tiles_place<struct linformer_tiles>(f);
    const int64_t blocks = (f.call.rank + f.rows - 1) / f.rows, slice = blockIdx.x / blocks;
    const struct chunk rows = {blockIdx.x % blocks * f.rows, f.call.rank, f.rows, NULL};
    const int64_t from = slice * f.slice, behind = from + f.slice;
    const int64_t end = behind < f.call.length ? behind : f.call.length;
    const int64_t floats = f.call.batch * f.call.heads * f.call.rank * f.width;

    tile_zero(t.sum, f.rows, f.padded);
    for (int64_t first = from; first < end; first += f.rows) {
        const struct chunk positions = {first, end, f.rows, NULL};
        __syncthreads();
        matrix_load(f, rows, positions, t.matrix);
        rows_load(positions, rows_of_head(f.x, f.call.heads, blockIdx.y), f.width, f.padded, 1,
                  t.x);
        keys_load(positions, mask_of_head(f.call, blockIdx.y), t.present);
        masked_zero(f, t.present, t.x);
        tile_product<PRECISION>(f.rows, f.padded, f.rows, t.matrix, t.x, t.sum);
    }
    __syncthreads();
    rows_store(rows, t.sum, 1, f.width, compressed_rows(f, f.partial + slice * floats));
}

template <enum precision PRECISION>
static __global__ void REGISTERS(64) expand_kernel(struct linformer f)
{
    const struct linformer_tiles t = tiles_place<struct linformer_tiles>(f);
    const struct chunk positions = {(int64_t)blockIdx.x * f.rows, f.call.length, f.rows, NULL};

    keys_load(positions, mask_of_head(f.call, blockIdx.y), t.present);
    tile_zero(t.sum, f.rows, f.padded);
    for (int64_t first = 0; first < f.call.rank; first += f.rows) {
        const struct chunk rows = {first, f.call.rank, f.rows, NULL};
        __syncthreads();
        matrix_load(f, rows, positions, t.matrix);
        rows_load(rows, compressed_rows(f, f.compressed), f.width, f.padded, 1, t.x);
        __syncthreads();
        tile_product<PRECISION>(f.rows, f.padded, f.rows, t.matrix.transposed(), t.x, t.sum);
    }
    masked_zero(f, t.present, t.sum);
    rows_store(positions, t.sum, 1, f.width, rows_of_head(f.x, f.call.heads, blockIdx.y));
}

/* ---- calls ---- */

/* Of K, and behind it of V; gradients alike. */
static int64_t side_floats(const struct attention *call, int64_t width)
{
    return call->batch * call->heads * call->rank * width;
}

static int64_t compressed_floats(const struct attention *call)
{
    return side_floats(call, call->head_dim) + side_floats(call, call->value_dim);
}

size_t linformer_saved_floats(const struct attention *call)
{
    return (size_t)compressed_floats(call) + softmax_saved_floats(call);
}

static struct linformer side_of(const struct attention *call, bool is_value, struct heads_view x,
                                float *compressed)
{
    struct linformer f = {};
    f.call = *call;
    f.matrix = is_value ? call->value_projection : call->key_projection;
    f.x = x;
    f.width = (int)(is_value ? call->value_dim : call->head_dim);
    f.padded = tile_round_up(f.width);
    f.compressed =
        is_value && compressed ? compressed + side_floats(call, call->head_dim) : compressed;
    f.rows = chunk_rows<struct linformer_tiles>(f);
    f.slice = ceiling(call->length, SLICES_MOST);
    if (f.slice < SLICE_POSITIONS_LEAST) f.slice = SLICE_POSITIONS_LEAST;
    f.slices = ceiling(call->length, f.slice);
    return f;
}

static void partial_take(struct linformer *f, struct arena *arena)
{
    const int64_t floats = f->slices * side_floats(&f->call, f->width);
    f->partial = (float *)arena_take(arena, (size_t)floats * sizeof(float));
}

static enum status partial_sum(const struct linformer &f)
{
    return slices_sum(f.slices, side_floats(&f.call, f.width), f.partial, f.compressed);
}

static enum status compress(struct linformer f, struct arena *arena)
{
    partial_take(&f, arena);
    if (!arena->base) return ST_OK;
    const enum status status = launch_chunks<struct linformer_tiles>(
        f.call.precision == PRECISION_BF16 ? compress_kernel<PRECISION_BF16>
                                           : compress_kernel<PRECISION_FP32>,
        f.slices * ceiling(f.call.rank, f.rows), f.call.batch * f.call.heads, f);
    return status == ST_OK ? partial_sum(f) : status;
}

static enum status expand(const struct linformer &f)
{
    const enum status status = partial_sum(f);
    if (status != ST_OK) return status;
    return launch_chunks<struct linformer_tiles>(
        f.call.precision == PRECISION_BF16 ? expand_kernel<PRECISION_BF16>
                                           : expand_kernel<PRECISION_FP32>,
        ceiling(f.call.length, f.rows), f.call.batch * f.call.heads, f);
}

/* K or V, or their gradients of one slice after another, as the heads of a sequence of r. */
static struct heads_view compressed_view(const struct linformer &f, float *data)
{
    const int64_t floats = f.call.rank * f.width;
    return {data, f.call.heads * floats, floats, f.width};
}

/* softmax(q Kᵀ / √d) V */
static struct attention inner_of(const struct attention *call, const struct linformer &keys,
                                 const struct linformer &values)
{
    struct attention inner = *call;
    inner.key_mask = NULL;
    inner.k = compressed_view(keys, keys.compressed);
    inner.v = compressed_view(values, values.compressed);
    inner.saved = call->saved ? call->saved + compressed_floats(call) : NULL;
    return inner;
}

static float *compressed_take(const struct attention *call, struct arena *arena)
{
    return (float *)arena_take(arena, (size_t)compressed_floats(call) * sizeof(float));
}

enum status linformer_forward(const struct attention *call, struct arena *arena)
{
    float *own = compressed_take(call, arena), *compressed = call->saved ? call->saved : own;
    const struct linformer keys = side_of(call, false, call->k, compressed);
    const struct linformer values = side_of(call, true, call->v, compressed);
    const struct attention inner = inner_of(call, keys, values);
    enum status status = compress(keys, arena);
    if (status == ST_OK) status = compress(values, arena);
    return status == ST_OK ? softmax_forward(&inner, call->rank, arena) : status;
}

enum status linformer_backward(const struct attention_backward *backward, struct arena *arena)
{
    const struct attention *call = &backward->forward;
    const struct linformer keys = side_of(call, false, call->k, call->saved);
    const struct linformer values = side_of(call, true, call->v, call->saved);
    float *gradients = compressed_take(call, arena);
    struct linformer dkeys = side_of(call, false, backward->dk, gradients);
    struct linformer dvalues = side_of(call, true, backward->dv, gradients);
    partial_take(&dkeys, arena);
    partial_take(&dvalues, arena);
    struct attention_backward inner = *backward;
    inner.forward = inner_of(call, keys, values);
    inner.dk = compressed_view(dkeys, dkeys.partial);
    inner.dv = compressed_view(dvalues, dvalues.partial);
    enum status status = softmax_backward(&inner, call->rank, dkeys.slice, arena);
    if (status != ST_OK || !arena->base) return status;
    status = expand(dkeys);
    return status == ST_OK ? expand(dvalues) : status;
}
