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
