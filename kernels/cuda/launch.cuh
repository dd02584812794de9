#ifndef KERNELS_CUDA_LAUNCH_CUH
#define KERNELS_CUDA_LAUNCH_CUH

/* How a kernel is started, and the shapes of grids. There is no other launch in this folder. */

#include "kernels/cuda/gpu.h"

enum { WARP = 32, BLOCK_THREADS = 256, BLOCK_WARPS = BLOCK_THREADS / WARP };

/*
 * How many registers a thread of a kernel may have. The compiler is told how many blocks are to find room on an SM, and
 * tests/kernels/cuda_gates.sh looks that it spills nothing for it.
 */
#define REGISTERS(most) __launch_bounds__(BLOCK_THREADS, 65536 / BLOCK_THREADS / (most))

/* The memory of a launch's `shared_bytes`, as so many T. */
#ifdef __CUDACC__
#define DYNAMIC_SHARED(T, name)              \
    extern __shared__ float4 name##_bytes[]; \
    T *name = reinterpret_cast<T *>(name##_bytes)
#else
#define DYNAMIC_SHARED(T, name) T *name = static_cast<T *>(cudashim::dynamic_shared())
#endif

/* Enqueues on the device's stream. */
template <typename... Parameters, typename... Arguments>
static enum status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                          Arguments... arguments)
{
    enum { SHARED_BYTES_UNASKED = 48 << 10 };
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = gpu_current()->stream;
    if (shared_bytes > SHARED_BYTES_UNASKED) {
        const enum status status = GPU(cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
        if (status != ST_OK) return status;
    }
    return GPU(cudaLaunchKernelEx(&config, kernel, arguments...));
}

static inline int64_t ceiling(int64_t count, int64_t unit)
{
    return (count + unit - 1) / unit;
}

/* Blocks for so many elements, each of which a thread takes in strides of the grid. */
static inline unsigned blocks_for(int64_t elements)
{
    const int64_t most = 4096; /* some waves of the largest device */
    const int64_t blocks = ceiling(elements, BLOCK_THREADS);
    return (unsigned)(blocks < most ? blocks : most);
}

/* for (int64_t i : ...) over the elements of this thread */
#define FOR_ELEMENTS(i, count)                                                    \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count); \
         i += (int64_t)gridDim.x * blockDim.x)

#endif
