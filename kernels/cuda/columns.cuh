#ifndef KERNELS_CUDA_COLUMNS_CUH
#define KERNELS_CUDA_COLUMNS_CUH

/* Sums of columns over many rows: slices of rows first, then the slices, both in order. */

#include "kernels/cuda/launch.cuh"

enum { SLICE_ROWS = 256 };

static inline int64_t slices_of(int64_t rows)
{
    return ceiling(rows, SLICE_ROWS);
}

/* A warp's lanes are neighbouring columns; its block's warps share the rows of a slice. partial (slices, width). */
template <typename Value>
static __device__ void slice_columns(int64_t rows, int64_t width, float *partial, Value value)
{
    __shared__ float sums[BLOCK_WARPS][WARP];
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int64_t column = (int64_t)blockIdx.x * WARP + lane;
    const int64_t first = (int64_t)blockIdx.y * SLICE_ROWS;
    const int64_t end = first + SLICE_ROWS < rows ? first + SLICE_ROWS : rows;

    float sum = 0;
    for (int64_t row = first + warp; row < end && column < width; row += BLOCK_WARPS)
        sum += value(row, column);
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        for (int i = 1; i < BLOCK_WARPS; i++) sum += sums[i][lane];
        partial[(int64_t)blockIdx.y * width + column] = sum;
    }
    __syncthreads(); /* before the next sums of the same kernel are written */
}

static inline dim3 slice_grid(int64_t rows, int64_t width)
{
    return dim3((unsigned)ceiling(width, WARP), (unsigned)slices_of(rows));
}

static __global__ void REGISTERS(48)
    slices_sum_kernel(int64_t slices, int64_t width, const float *partial, float *sums)
{
    FOR_ELEMENTS(column, width)
    {
        float sum = 0;
        for (int64_t i = 0; i < slices; i++) sum += partial[i * width + column];
        sums[column] = sum;
    }
}

static inline enum status slices_sum(int64_t slices, int64_t width, const float *partial,
                                     float *sums)
{
    return launch(slices_sum_kernel, blocks_for(width), BLOCK_THREADS, 0, slices, width, partial,
                  sums);
}

#endif
