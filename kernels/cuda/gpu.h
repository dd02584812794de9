#ifndef KERNELS_CUDA_GPU_H
#define KERNELS_CUDA_GPU_H

/* The device of this process, its one stream, and how its operations take their scratch memory. That is managed: README.md. */

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpu {
    int device;
    cudaStream_t stream;
    cublasLtHandle_t products;
    size_t shared_bytes; /* of a block, at most */
};

/* Open once cuda_backend() has given a backend. */
const struct gpu *gpu_current(void);

/* Translates a code of the runtime, or of cuBLASLt, and notes for backend->failure() which call gave it. */
enum status gpu_status(cudaError_t error, const char *call);
enum status gpu_product_status(cublasStatus_t error, const char *call);
#define GPU(call)         gpu_status((call), #call)
#define GPU_PRODUCT(call) gpu_product_status((call), #call)

#define CUDA_OP(op)                                                           \
    enum status cuda_##op(struct stream *stream, const struct op *arguments); \
    size_t cuda_##op##_scratch(const struct op *arguments, int threads);
BACKEND_OPS(CUDA_OP)
#undef CUDA_OP
size_t cuda_attention_saved_floats(const struct attention *arguments);
bool cuda_attention_supported(const struct attention *arguments, const char **why_not);

/* Defines the scratch query of an operation that needs none. */
#define CUDA_WITHOUT_SCRATCH(op)                                        \
    size_t cuda_##op##_scratch(const struct op *arguments, int threads) \
    {                                                                   \
        (void)arguments;                                                \
        (void)threads;                                                  \
        return 0;                                                       \
    }

/* Hands out regions of a stream's scratch; with base NULL it only counts, so that one function says both how much an
 * operation needs and where it lies. */
struct arena {
    char *base;
    size_t bytes;
};

static inline void *arena_take(struct arena *arena, size_t bytes)
{
    enum { ALIGN_BYTES = 256 };
    void *region = arena->base ? arena->base + arena->bytes : NULL;
    arena->bytes += (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return region;
}

#ifdef __cplusplus
}
#endif
#endif
