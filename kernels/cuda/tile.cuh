#ifndef KERNELS_CUDA_TILE_CUH
#define KERNELS_CUDA_TILE_CUH

/*
 * Small matrices in shared memory, and their products by a whole block of BLOCK_THREADS threads.
 *
 * Sizes are known to be multiples of what a product needs, for tiles are made with zeros behind what is there: rows and
 * columns of 16, and 16 of what is summed over. All is kept as floats; where a product is of bf16, fragments are rounded
 * on their way to the tensor cores.
 */

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tiling.h"

static __host__ __device__ inline int tile_round_up(int64_t count)
{
    return (int)((count + TILE_UNIT - 1) / TILE_UNIT * TILE_UNIT);
}

/* Element (row, column) at data[row * row_stride + column * column_stride]. */
struct tile {
    float *data;
    int row_stride, column_stride;

    __device__ __forceinline__ float &operator()(int row, int column) const
    {
        return data[row * row_stride + column * column_stride];
    }
    __device__ __forceinline__ struct tile transposed(void) const
    {
        return {data, column_stride, row_stride};
    }
};

/* Hands out shared memory; with base NULL it only counts. Rows are 4 floats longer than they need to be: so neighbouring
 * rows begin in different banks. */
struct shared_arena {
    float *base;
    int floats;

    __host__ __device__ struct tile tile(int rows, int columns)
    {
        enum { PADDING = 4 };
        const struct tile made = {base + floats, columns + PADDING, 1};
        floats += rows * (columns + PADDING);
        return made;
    }
    __host__ __device__ float *row(int count)
    {
        float *made = base + floats;
        floats += count;
        return made;
    }
};

static __device__ inline void tile_zero(struct tile tile, int rows, int columns)
{
    for (int i = (int)threadIdx.x; i < rows * columns; i += BLOCK_THREADS)
        tile(i / columns, i % columns) = 0;
}

/* Four by four elements a thread, in registers. */
static __device__ inline void tile_product_fp32(int rows, int columns, int depth, struct tile a,
                                                struct tile b, struct tile c)
{
    const int across = columns / 4;
    for (int i = (int)threadIdx.x; i < rows / 4 * across; i += BLOCK_THREADS) {
        const int row = i / across * 4, column = i % across * 4;
        float sum[4][4] = {};
        for (int k = 0; k < depth; k++) {
            float left[4], right[4];
#pragma unroll
            for (int j = 0; j < 4; j++) left[j] = a(row + j, k), right[j] = b(k, column + j);
#pragma unroll
            for (int y = 0; y < 4; y++)
#pragma unroll
                for (int x = 0; x < 4; x++) sum[y][x] += left[y] * right[x];
        }
#pragma unroll
        for (int y = 0; y < 4; y++)
#pragma unroll
            for (int x = 0; x < 4; x++) c(row + y, column + x) += sum[y][x];
    }
}

/* A fragment of a serves so many neighbouring products of 16 x 8. */
enum { MMA_ROWS = 16, MMA_COLUMNS = 8, MMA_DEPTH = 16, MMA_ACROSS = 4 };

static __device__ inline void fragment_a(struct tile a, int row, int k, uint32_t fragment[4])
{
    const int lane = (int)threadIdx.x % WARP, r = row + lane / 4, j = k + lane % 4 * 2;
    fragment[0] = bf16_pair(a(r, j), a(r, j + 1));
    fragment[1] = bf16_pair(a(r + 8, j), a(r + 8, j + 1));
    fragment[2] = bf16_pair(a(r, j + 8), a(r, j + 9));
    fragment[3] = bf16_pair(a(r + 8, j + 8), a(r + 8, j + 9));
}

static __device__ inline void fragment_b(struct tile b, int k, int column, uint32_t fragment[2])
{
    const int lane = (int)threadIdx.x % WARP, c = column + lane / 4, j = k + lane % 4 * 2;
    fragment[0] = bf16_pair(b(j, c), b(j + 1, c));
    fragment[1] = bf16_pair(b(j + 8, c), b(j + 9, c));
}

/* Adds the 16 x 8 that a warp holds to its place in c. */
static __device__ inline void fragment_add(struct tile c, int row, int column, const float sum[4])
{
    const int lane = (int)threadIdx.x % WARP, r = row + lane / 4, j = column + lane % 4 * 2;
    c(r, j) += sum[0];
    c(r, j + 1) += sum[1];
    c(r + 8, j) += sum[2];
    c(r + 8, j + 1) += sum[3];
}

/* A warp has strips of 16 rows and 32 columns. */
static __device__ inline void tile_product_bf16(int rows, int columns, int depth, struct tile a,
                                                struct tile b, struct tile c)
{
    enum { STRIP_COLUMNS = MMA_COLUMNS * MMA_ACROSS };
    const int across = (columns + STRIP_COLUMNS - 1) / STRIP_COLUMNS;
    for (int i = (int)threadIdx.x / WARP; i < rows / MMA_ROWS * across; i += BLOCK_WARPS) {
        const int row = i / across * MMA_ROWS, first = i % across * STRIP_COLUMNS;
        float sum[MMA_ACROSS][4] = {};
        for (int k = 0; k < depth; k += MMA_DEPTH) {
            uint32_t left[4], right[2];
            fragment_a(a, row, k, left);
#pragma unroll
            for (int j = 0; j < MMA_ACROSS; j++) {
                const int column = first + j * MMA_COLUMNS;
                if (column >= columns) continue; /* all lanes alike */
                fragment_b(b, k, column, right);
                mma_m16n8k16_bf16(sum[j], left, right, sum[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < MMA_ACROSS; j++)
            if (first + j * MMA_COLUMNS < columns)
                fragment_add(c, row, first + j * MMA_COLUMNS, sum[j]);
    }
}

/* c (rows, columns) += a (rows, depth) b (depth, columns). All threads of the block, between barriers of theirs. */
template <enum precision PRECISION>
static __device__ inline void tile_product(int rows, int columns, int depth, struct tile a,
                                           struct tile b, struct tile c)
{
    if (PRECISION == PRECISION_BF16)
        tile_product_bf16(rows, columns, depth, a, b, c);
    else
        tile_product_fp32(rows, columns, depth, a, b, c);
}

/* The tiles of this block, in the shared memory of its launch. */
template <typename Tiles, typename Shape> static __device__ Tiles tiles_place(const Shape &shape)
{
    DYNAMIC_SHARED(float, memory);
    struct shared_arena arena = {memory, 0};
    Tiles tiles;
    tiles.place(shape, &arena);
    return tiles;
}

/* Shared memory of what `place` hands out, in bytes. */
template <typename Tiles, typename Shape> static size_t shared_bytes_of(const Shape &shape)
{
    struct shared_arena arena = {NULL, 0};
    Tiles tiles;
    tiles.place(shape, &arena);
    return (size_t)arena.floats * sizeof(float);
}

#endif
