#ifndef KERNELS_CUDA_ROWS_CUH
#define KERNELS_CUDA_ROWS_CUH

/* How kernels of attention see their inputs: chunks of positions of one head, as tiles. */

#include "kernels/cuda/attention.h"
#include "kernels/cuda/tile.cuh"

/* A head of a sequence. */
struct head_rows {
    float *data;
    int64_t stride;
};

/* Head `index` of (B, H); blockIdx.y, as a rule. */
static __device__ inline struct head_rows rows_of_head(const struct heads_view &view, int64_t heads,
                                                       int64_t index)
{
    const int64_t sequence = index / heads, head = index % heads;
    return {view.data + sequence * view.batch_stride + head * view.head_stride, view.row_stride};
}

/*
 * Places first ... first + count - 1 of a head, of which those before `length` are there. A place is a position, unless
 * `order` (length) says which position it is.
 */
struct chunk {
    int64_t first, length;
    int count;
    const int32_t *order;

    __device__ __forceinline__ bool holds(int row) const
    {
        return row < count && first + row < length;
    }
    __device__ __forceinline__ int64_t position(int row) const
    {
        return order ? order[first + row] : first + row;
    }
};

/* tile (count, padded) = scale * x (count, width), 0 where nothing is */
static __device__ inline void rows_load(const struct chunk &chunk, struct head_rows x, int width,
                                        int padded, float scale, struct tile tile)
{
    for (int i = (int)threadIdx.x; i < chunk.count * padded; i += BLOCK_THREADS) {
        const int row = i / padded, column = i % padded;
        const bool there = chunk.holds(row) && column < width;
        tile(row, column) = there ? scale * x.data[chunk.position(row) * x.stride + column] : 0;
    }
}

/* x (count, width) = scale * tile */
static __device__ inline void rows_store(const struct chunk &chunk, struct tile tile, float scale,
                                         int width, struct head_rows x)
{
    for (int i = (int)threadIdx.x; i < chunk.count * width; i += BLOCK_THREADS) {
        const int row = i / width, column = i % width;
        if (chunk.holds(row))
            x.data[chunk.position(row) * x.stride + column] = scale * tile(row, column);
    }
}

/* Which positions of the sequence of head `index` are keys; NULL: all. */
static __device__ inline const uint8_t *mask_of_head(const struct attention &call, int64_t index)
{
    return call.key_mask ? call.key_mask + index / call.heads * call.length : NULL;
}

/* Whether a place is a key: 1 or 0 for each row. */
static __device__ inline void keys_load(const struct chunk &chunk, const uint8_t *mask,
                                        float *present)
{
    for (int row = (int)threadIdx.x; row < chunk.count; row += BLOCK_THREADS)
        present[row] = chunk.holds(row) && (!mask || mask[chunk.position(row)]) ? 1.0f : 0.0f;
}

/* Positions of a chunk: as many as the tiles of a kernel leave room for in the shared memory of a block. 0: too few. */
template <typename Tiles, typename Shape> static int chunk_rows(Shape shape)
{
    for (shape.rows = CHUNK_ROWS_MOST; shape.rows >= CHUNK_ROWS_LEAST; shape.rows /= 2)
        if (shared_bytes_of<Tiles>(shape) <= gpu_current()->shared_bytes) return shape.rows;
    return 0;
}

/* A block for each of `chunks` of each head, with the shared memory of its tiles. */
template <typename Tiles, typename Shape, typename Kernel, typename... Arguments>
static enum status launch_chunks(Kernel kernel, int64_t chunks, int64_t heads, const Shape &shape,
                                 Arguments... arguments)
{
    return launch(kernel, dim3((unsigned)chunks, (unsigned)heads), BLOCK_THREADS,
                  shared_bytes_of<Tiles>(shape), shape, arguments...);
}

#endif
