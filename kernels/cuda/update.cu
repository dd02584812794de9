/* The norm of the gradient, and the step that is taken along it. */

#include "kernels/cuda/reduce.cuh"

/* Sums of squares that are summed in the end: how many depends on the count alone, whatever the device. */
static int parts_of(int64_t count)
{
    const int64_t most = 1024;
    const int64_t parts = ceiling(count, 4 * BLOCK_THREADS);
    return (int)(parts < most ? parts : most);
}

static __global__ void REGISTERS(48) squares_kernel(int64_t count, const float *x, double *parts)
{
    double sum = 0;
    FOR_ELEMENTS(i, count) sum += (double)x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

static __global__ void REGISTERS(48) parts_kernel(int count, const double *parts, double *total)
{
    double sum = 0;
    for (int i = (int)threadIdx.x; i < count; i += BLOCK_THREADS) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}

size_t cuda_sum_squares_scratch(const struct sum_squares *a, int)
{
    return (size_t)(parts_of(a->count) + 1) * sizeof(double);
}

enum status cuda_sum_squares(struct stream *stream, const struct sum_squares *a)
{
    const int count = parts_of(a->count);
    double *parts = (double *)stream->scratch, *total = parts + count;
    enum status status =
        launch(squares_kernel, (unsigned)count, BLOCK_THREADS, 0, a->count, a->x, parts);
    if (status == ST_OK)
        status = launch(parts_kernel, 1, BLOCK_THREADS, 0, count, (const double *)parts, total);
    if (status != ST_OK) return status;
    return GPU(
        cudaMemcpyAsync(a->sum, total, sizeof *total, cudaMemcpyDefault, gpu_current()->stream));
}

/* Loshchilov & Hutter 2019, algorithm 2, lines 6 to 12, with lr as both the schedule's η and α. */
static __global__ void REGISTERS(48) adamw_kernel(struct adamw a)
{
    FOR_ELEMENTS(i, a.count)
    {
        const float gradient = a.scale * a.gradient[i], weight = a.weight[i];
        const float moment1 = a.beta1 * a.moment1[i] + (1 - a.beta1) * gradient;
        const float moment2 = a.beta2 * a.moment2[i] + (1 - a.beta2) * gradient * gradient;
        const float mean = moment1 / a.correction1, root = sqrtf(moment2 / a.correction2);
        a.moment1[i] = moment1;
        a.moment2[i] = moment2;
        a.weight[i] = weight - a.lr * (mean / (root + a.epsilon) + a.weight_decay * weight);
    }
}

CUDA_WITHOUT_SCRATCH(adamw)

enum status cuda_adamw(struct stream *, const struct adamw *a)
{
    return launch(adamw_kernel, blocks_for(a->count), BLOCK_THREADS, 0, *a);
}
