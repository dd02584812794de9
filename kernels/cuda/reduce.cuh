#ifndef KERNELS_CUDA_REDUCE_CUH
#define KERNELS_CUDA_REDUCE_CUH

/* Sums and maxima over the lanes of a warp, in a fixed order; every lane gets the result. */

#include "kernels/cuda/launch.cuh"

enum { WHOLE_WARP = -1 };

template <typename T> static __device__ T warp_sum(T x)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync((unsigned)WHOLE_WARP, x, lanes);
    return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync((unsigned)WHOLE_WARP, x, lanes));
    return x;
}

/* The largest of what was met and, of equals, the first. */
template <typename T> struct largest {
    T value = -INFINITY;
    int64_t place = INT64_MAX; /* nothing was met */

    __device__ __forceinline__ void meet(T other, int64_t there)
    {
        if (place == INT64_MAX || other > value || (other == value && there < place))
            value = other, place = there;
    }
};

template <typename T> static __device__ largest<T> warp_largest(largest<T> best)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const T value = __shfl_xor_sync((unsigned)WHOLE_WARP, best.value, lanes);
        const int64_t place = __shfl_xor_sync((unsigned)WHOLE_WARP, best.place, lanes);
        if (place != INT64_MAX) best.meet(value, place);
    }
    return best;
}

/* Where a warp has a row: how many blocks that takes, and the row of this warp, `rows` or more where none is left. */
static inline unsigned row_blocks(int64_t rows)
{
    return (unsigned)ceiling(rows, BLOCK_WARPS);
}

static __device__ inline int64_t warp_row(void)
{
    return (int64_t)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
}

/* Of the BLOCK_THREADS threads of a block; the first thread alone gets it. */
template <typename T> static __device__ T block_sum(T x)
{
    __shared__ T sums[BLOCK_WARPS];
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < BLOCK_WARPS && threadIdx.x == 0; i++) sum += sums[i];
    __syncthreads(); /* before the next of these writes */
    return sum;
}

#endif
