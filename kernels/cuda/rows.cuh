#ifndef KERNELS_CUDA_ROWS_CUH
#define KERNELS_CUDA_ROWS_CUH

/* How kernels of attention see their inputs: chunks of positions of one head, as tiles. */

#include "kernels/cuda/attention.h"
#include "kernels/cuda/tile.cuh"

/* A head of a sequence: blockIdx.y counts them. */
struct head_rows {
    float *data;
    int64_t stride;
};

static __device__ inline struct head_rows rows_of_head(const struct heads_view &view, int64_t heads)
{
    const int64_t sequence = blockIdx.y / heads, head = blockIdx.y % heads;
    return {view.data + sequence * view.batch_stride + head * view.head_stride, view.row_stride};
}

/* Positions first ... first + count - 1 of a head, of which those before `length` are there. */
struct chunk {
    int64_t first, length;
    int count;

    __device__ __forceinline__ bool holds(int row) const
    {
        return row < count && first + row < length;
    }
};

/* tile (count, padded) = scale * x (count, width), 0 where nothing is */
static __device__ inline void rows_load(const struct chunk &chunk, struct head_rows x, int width,
                                        int padded, float scale, struct tile tile)
{
    for (int i = (int)threadIdx.x; i < chunk.count * padded; i += BLOCK_THREADS) {
        const int row = i / padded, column = i % padded;
        const bool there = chunk.holds(row) && column < width;
        tile(row, column) = there ? scale * x.data[(chunk.first + row) * x.stride + column] : 0;
    }
}

/* Whether a position is a key: 1 or 0 for each row. */
static __device__ inline void keys_load(const struct chunk &chunk, const uint8_t *key_mask,
                                        int64_t heads, float *present)
{
    const uint8_t *mask = key_mask ? key_mask + blockIdx.y / heads * chunk.length : NULL;
    for (int row = (int)threadIdx.x; row < chunk.count; row += BLOCK_THREADS)
        present[row] = chunk.holds(row) && (!mask || mask[chunk.first + row]) ? 1.0f : 0.0f;
}

/* Positions of a chunk: as many as the tiles of a kernel leave room for in the shared memory of a block. 0: too few. */
template <typename Tiles, typename Shape> static int chunk_rows(Shape shape)
{
    enum { ROWS_MOST = 64, ROWS_LEAST = 32 };
    for (shape.rows = ROWS_MOST; shape.rows >= ROWS_LEAST; shape.rows /= 2)
        if (shared_bytes_of<Tiles>(shape) <= gpu_current()->shared_bytes) return shape.rows;
    return 0;
}

#endif
