#ifndef CUDASHIM_CUDA_RUNTIME_H
#define CUDASHIM_CUDA_RUNTIME_H

/*
 * What our sources use of CUDA's runtime and of its device language, for a host compiler. Names, numbers and meanings
 * are those of CUDA 13; events, votes and the other shuffles are here for kernels to come. Where the toolkit is installed, kernels/cuda is compiled with its
 * own header, so the two cannot drift apart.
 *
 * A kernel is an ordinary function here. Its built-in variables are set by whoever runs it: tests/cudashim/block.cpp.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the runtime ---- */

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorECCUncorrectable = 214,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719
} cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};
enum cudaMemoryAdvise { cudaMemAdviseSetPreferredLocation = 3 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
struct cudaMemLocation {
    enum cudaMemLocationType type;
    int id;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

#define cudaStreamNonBlocking  0x01
#define cudaEventDisableTiming 0x02
#define cudaMemAttachGlobal    0x01

struct cudaDeviceProp {
    char name[256];
    int major, minor;
    int multiProcessorCount;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMallocManaged(void **memory, size_t bytes, unsigned flags);
cudaError_t cudaMemAdvise(const void *memory, size_t bytes, enum cudaMemoryAdvise advice,
                          struct cudaMemLocation location);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);

#ifdef __cplusplus
}

#include <functional>
#include <math.h>
#include <string.h>
#include <tuple>
#include <type_traits>

/* ---- vectors and launches ---- */

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

struct cudaLaunchAttribute {
    int id;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

namespace cudashim
{
/* `kernel` tells launches apart, `thread` is what each thread runs. */
cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel,
                   std::function<void()> thread);
cudaError_t function_shared_bytes(const void *kernel, int bytes);
} // namespace cudashim

/* Arguments are copied at the launch, as the device gets them. */
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments)
{
    static_assert((std::is_trivially_copyable<std::decay_t<Parameters>>::value && ...),
                  "arguments of a kernel are copied as bytes");
    std::tuple<std::decay_t<Parameters>...> copies(static_cast<Parameters>(arguments)...);
    return cudashim::launch(*config, reinterpret_cast<const void *>(kernel),
                            [kernel, copies] { std::apply(kernel, copies); });
}

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value)
{
    return cudashim::function_shared_bytes(reinterpret_cast<const void *>(kernel), value);
}

/* ---- the device language ---- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static /* one block runs at a time */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cudashim
{
/* Every thread of a block, or every lane of `mask`, must come to the same call; none leaves before all have come. */
enum class Vote { None, Count, And, Or, Ballot };
int block_barrier(Vote vote, int predicate);
void warp_barrier(unsigned mask);
unsigned warp_vote(unsigned mask, Vote vote, int predicate);

enum class Shuffle { Index, Up, Down, Xor };
/* A lane that reads from one that is not there gets a NaN. */
uint64_t warp_shuffle(unsigned mask, Shuffle kind, uint64_t bits, int argument, int width);

/* The memory of the launch's dynamicSmemBytes, of NaNs as a block begins. */
void *dynamic_shared();

template <typename T> T shuffle(unsigned mask, Shuffle kind, T value, int argument, int width)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = warp_shuffle(mask, kind, bits, argument, width);
    memcpy(&value, &bits, sizeof value);
    return value;
}
} // namespace cudashim

inline void __syncthreads()
{
    cudashim::block_barrier(cudashim::Vote::None, 0);
}
inline int __syncthreads_count(int predicate)
{
    return cudashim::block_barrier(cudashim::Vote::Count, predicate);
}
inline int __syncthreads_and(int predicate)
{
    return cudashim::block_barrier(cudashim::Vote::And, predicate);
}
inline int __syncthreads_or(int predicate)
{
    return cudashim::block_barrier(cudashim::Vote::Or, predicate);
}
inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    cudashim::warp_barrier(mask);
}
inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return cudashim::warp_vote(mask, cudashim::Vote::Ballot, predicate);
}
inline int __any_sync(unsigned mask, int predicate)
{
    return (int)cudashim::warp_vote(mask, cudashim::Vote::Or, predicate);
}
inline int __all_sync(unsigned mask, int predicate)
{
    return (int)cudashim::warp_vote(mask, cudashim::Vote::And, predicate);
}
template <typename T> T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize)
{
    return cudashim::shuffle(mask, cudashim::Shuffle::Index, value, lane, width);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize)
{
    return cudashim::shuffle(mask, cudashim::Shuffle::Up, value, (int)delta, width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize)
{
    return cudashim::shuffle(mask, cudashim::Shuffle::Down, value, (int)delta, width);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize)
{
    return cudashim::shuffle(mask, cudashim::Shuffle::Xor, value, lanes, width);
}

/* Not of C's library. The approximations that the device has for others of it are not used. */
inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}
inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

#endif /* __cplusplus */
#endif
