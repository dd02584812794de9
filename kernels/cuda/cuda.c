#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/attention.h"
#include "kernels/reference/reference.h"

enum { OLDEST_MAJOR = 8 };

static struct gpu gpu;
static char description[320];

const struct gpu *gpu_current(void)
{
    return &gpu;
}

/* ---- what failed ---- */

static const char *operation = "gpu_open"; /* what was begun last */
static char failure[200];

static void operation_begin(const char *name)
{
    operation = name;
    failure[0] = '\0';
}

static void failure_note(const char *call, const char *why)
{
    snprintf(failure, sizeof failure, "%.*s in %s: %s", (int)strcspn(call, "("), call, operation,
             why);
}

static const char *failure_text(void)
{
    return failure;
}

enum status gpu_status(cudaError_t error, const char *call)
{
    if (error == cudaSuccess) return ST_OK;
    failure_note(call, cudaGetErrorString(error));
    return error == cudaErrorMemoryAllocation ? ST_NO_MEMORY : ST_DEVICE;
}

enum status gpu_product_status(cublasStatus_t error, const char *call)
{
    if (error == CUBLAS_STATUS_SUCCESS) return ST_OK;
    failure_note(call, cublasLtGetStatusString(error));
    return error == CUBLAS_STATUS_ALLOC_FAILED ? ST_NO_MEMORY : ST_DEVICE;
}

/* ---- memory and waiting ---- */

/* Pages are to lie on the device, where its operations reach them at its own speed. */
static enum status memory_new(size_t bytes, void **memory)
{
    const struct cudaMemLocation here = {cudaMemLocationTypeDevice, gpu.device};
    void *made;
    operation_begin("memory_new");
    enum status status = GPU(cudaMallocManaged(&made, bytes, cudaMemAttachGlobal));
    if (status != ST_OK) return status;
    status = GPU(cudaMemAdvise(made, bytes, cudaMemAdviseSetPreferredLocation, here));
    if (status == ST_OK)
        *memory = made;
    else
        cudaFree(made);
    return status;
}

/* Waits for what is under way, as cudaFree does by itself. */
static void memory_free(void *memory)
{
    cudaFree(memory);
}

/* Where what went wrong on the device comes to light. */
static enum status cuda_sync(struct stream *stream)
{
    (void)stream;
    operation_begin("sync");
    return GPU(cudaStreamSynchronize(gpu.stream));
}

/* ---- the table ---- */

static bool attention_fits(const struct attention *arguments)
{
    switch (arguments->kind) {
    case ATTENTION_FAVOR:
        return favor_fits(arguments);
    case ATTENTION_IDENTITY:
        return true;
    default:
        return softmax_fits(arguments);
    }
}

bool cuda_attention_supported(const struct attention *arguments, const char **why_not)
{
    if (!reference_attention_supported(arguments, why_not)) return false;
    if (attention_fits(arguments)) return true;
    *why_not = "heads as wide as these do not fit into the shared memory of the device";
    return false;
}

/* Each operation under its name. */
#define CUDA_RUN(op)                                                               \
    static enum status run_##op(struct stream *stream, const struct op *arguments) \
    {                                                                              \
        operation_begin(#op);                                                      \
        return cuda_##op(stream, arguments);                                       \
    }
BACKEND_OPS(CUDA_RUN)
#undef CUDA_RUN

static const struct backend backend = {
    .name = "cuda",
    .description = description,
    .has_bf16 = true,
#define CUDA_SLOT(op) .op = run_##op, .op##_scratch = cuda_##op##_scratch,
    BACKEND_OPS(CUDA_SLOT)
#undef CUDA_SLOT
        .attention_saved_floats = cuda_attention_saved_floats,
    .attention_supported = cuda_attention_supported,
    .memory_new = memory_new,
    .memory_free = memory_free,
    .sync = cuda_sync,
    .failure = failure_text,
};

/* Ranks of one machine share out its devices; where Slurm shows each its own alone, that is the one. */
static int device_of_rank(int count)
{
    const char *rank = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    if (!rank) rank = getenv("SLURM_LOCALID");
    return rank && count > 0 ? (int)(strtoul(rank, NULL, 10) % (unsigned long)count) : 0;
}

/* NULL, or why it could not be opened; then nothing of it is left open. */
static const char *gpu_open(void)
{
    struct cudaDeviceProp properties;
    int count;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) gpu.device = device_of_rank(count);
    if (error == cudaSuccess) error = cudaSetDevice(gpu.device);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, gpu.device);
    if (error == cudaSuccess && properties.major < OLDEST_MAJOR)
        return "its compute capability is below 8.0, and bf16 needs that";
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    if (cublasLtCreate(&gpu.products) != CUBLAS_STATUS_SUCCESS) {
        cudaStreamDestroy(gpu.stream);
        return "cuBLASLt could not be started";
    }
    gpu.shared_bytes = properties.sharedMemPerBlockOptin;
    snprintf(description, sizeof description, "cuda (%s, sm_%d%d, cuBLASLt %zu)", properties.name,
             properties.major, properties.minor, cublasLtGetVersion());
    return NULL;
}

const struct backend *cuda_backend(const char **why_not)
{
    static bool tried; /* a device that could not be opened is not tried again */
    static const char *failed;
    if (!tried) failed = gpu_open();
    tried = true;
    if (!failed) return &backend;
    *why_not = failed;
    return NULL;
}
