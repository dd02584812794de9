#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/attention.h"
#include "kernels/reference/reference.h"

enum { OLDEST_MAJOR = 8 };

static struct gpu gpu;
static struct backend backend;
static char description[320];

const struct gpu *gpu_current(void)
{
    return &gpu;
}

enum status gpu_status(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return ST_OK;
    case cudaErrorMemoryAllocation:
        return ST_NO_MEMORY;
    default:
        return ST_DEVICE;
    }
}

enum status gpu_product_status(cublasStatus_t error)
{
    switch (error) {
    case CUBLAS_STATUS_SUCCESS:
        return ST_OK;
    case CUBLAS_STATUS_ALLOC_FAILED:
        return ST_NO_MEMORY;
    default:
        return ST_DEVICE;
    }
}

/* Pages are to lie on the device, where its operations reach them at its own speed. */
static enum status memory_new(size_t bytes, void **memory)
{
    const struct cudaMemLocation here = {cudaMemLocationTypeDevice, gpu.device};
    void *made;
    cudaError_t error = cudaMallocManaged(&made, bytes, cudaMemAttachGlobal);
    if (error != cudaSuccess) return gpu_status(error);
    error = cudaMemAdvise(made, bytes, cudaMemAdviseSetPreferredLocation, here);
    if (error != cudaSuccess) {
        cudaFree(made);
        return gpu_status(error);
    }
    *memory = made;
    return ST_OK;
}

static void memory_free(void *memory)
{
    cudaFree(memory);
}

/* Where what went wrong on the device comes to light. */
static enum status cuda_sync(struct stream *stream)
{
    (void)stream;
    return gpu_status(cudaStreamSynchronize(gpu.stream));
}

static const char *attention_why_not(const struct attention *arguments)
{
    const char *too_wide = "heads as wide as these do not fit into the shared memory of the device";
    switch (arguments->kind) {
    case ATTENTION_FAVOR:
        return favor_fits(arguments) ? NULL : too_wide;
    case ATTENTION_SOFTMAX:
        return softmax_fits(arguments) ? NULL : too_wide;
    case ATTENTION_IDENTITY:
        return NULL;
    default:
        return "there are kernels for favor, softmax and identity alone; device = \"cpu\" has all";
    }
}

bool cuda_attention_supported(const struct attention *arguments, const char **why_not)
{
    if (!reference_attention_supported(arguments, why_not)) return false;
    const char *why = attention_why_not(arguments);
    if (why) *why_not = why;
    return !why;
}

static const struct backend table = {
    .name = "cuda",
    .description = description,
    .has_bf16 = true,
#define CUDA_SLOT(op) .op = cuda_##op, .op##_scratch = cuda_##op##_scratch,
    BACKEND_OPS(CUDA_SLOT)
#undef CUDA_SLOT
        .attention_saved_floats = cuda_attention_saved_floats,
    .attention_supported = cuda_attention_supported,
    .memory_new = memory_new,
    .memory_free = memory_free,
    .sync = cuda_sync,
};

/* Ranks of one machine share out its devices; where Slurm shows each its own alone, that is the one. */
static int device_of_rank(int count)
{
    const char *rank = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    if (!rank) rank = getenv("SLURM_LOCALID");
    return rank && count > 0 ? (int)(strtoul(rank, NULL, 10) % (unsigned long)count) : 0;
}

/* Half open where it fails: the process then goes without. */
static cudaError_t gpu_open(struct cudaDeviceProp *properties)
{
    int count;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) gpu.device = device_of_rank(count);
    if (error == cudaSuccess) error = cudaSetDevice(gpu.device);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(properties, gpu.device);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking);
    return error;
}

/* NULL, or why it could not be opened. */
static const char *backend_open(void)
{
    struct cudaDeviceProp properties;
    const cudaError_t error = gpu_open(&properties);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    if (properties.major < OLDEST_MAJOR)
        return "its compute capability is below 8.0, and bf16 needs that";
    if (cublasLtCreate(&gpu.products) != CUBLAS_STATUS_SUCCESS)
        return "cuBLASLt could not be started";
    gpu.shared_bytes = properties.sharedMemPerBlockOptin;
    snprintf(description, sizeof description, "cuda (%s, sm_%d%d, cuBLASLt %zu)", properties.name,
             properties.major, properties.minor, cublasLtGetVersion());
    backend = table;
    return NULL;
}

const struct backend *cuda_backend(const char **why_not)
{
    static const char *failed; /* a device that could not be opened is not tried again */
    if (!backend.name && !failed) failed = backend_open();
    if (!failed) return &backend;
    *why_not = failed;
    return NULL;
}
