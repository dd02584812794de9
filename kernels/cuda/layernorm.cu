/* A warp has a row: its sums are shuffles, and no memory is shared. */

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/reduce.cuh"

/* Ba et al. 2016, with the biased variance. */
static const float EPSILON = 1e-5f;

/* The mean is taken away before squares are summed: a large mean costs no digits. */
static __global__ void REGISTERS(48) layernorm_kernel(struct layernorm a)
{
    const int64_t row = warp_row(), lane = threadIdx.x % WARP;
    if (row >= a.rows) return;
    const float *x = a.x + row * a.width;
    const float share = 1.0f / (float)a.width;

    float sum = 0, squares = 0;
    for (int64_t i = lane; i < a.width; i += WARP) sum += x[i];
    const float mean = warp_sum(sum) * share;
    for (int64_t i = lane; i < a.width; i += WARP) squares += (x[i] - mean) * (x[i] - mean);
    const float rstd = 1.0f / sqrtf(warp_sum(squares) * share + EPSILON);
    for (int64_t i = lane; i < a.width; i += WARP)
        a.y[row * a.width + i] = (x[i] - mean) * rstd * a.weight[i] + a.bias[i];
    if (lane == 0) a.mean[row] = mean, a.rstd[row] = rstd;
}

CUDA_WITHOUT_SCRATCH(layernorm)

enum status cuda_layernorm(struct stream *, const struct layernorm *a)
{
    return launch(layernorm_kernel, row_blocks(a->rows), BLOCK_THREADS, 0, *a);
}

/* With x̂ = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - x̂ mean(g x̂)). */
static __global__ void REGISTERS(48) input_kernel(struct layernorm_backward a)
{
    const int64_t row = warp_row(), lane = threadIdx.x % WARP;
    if (row >= a.rows) return;
    const float *x = a.x + row * a.width, *dy = a.dy + row * a.width;
    const float mean = a.mean[row], rstd = a.rstd[row], share = 1.0f / (float)a.width;

    float g = 0, gx = 0;
    for (int64_t i = lane; i < a.width; i += WARP) {
        g += dy[i] * a.weight[i];
        gx += dy[i] * a.weight[i] * ((x[i] - mean) * rstd);
    }
    g = warp_sum(g) * share;
    gx = warp_sum(gx) * share;
    for (int64_t i = lane; i < a.width; i += WARP) {
        const float residual = a.dresidual ? a.dresidual[row * a.width + i] : 0;
        const float normal = (x[i] - mean) * rstd;
        a.dx[row * a.width + i] = residual + rstd * (dy[i] * a.weight[i] - g - normal * gx);
    }
}

static __global__ void REGISTERS(48)
    parameters_kernel(struct layernorm_backward a, float *dweight, float *dbias)
{
    slice_columns(a.rows, a.width, dweight, [&](int64_t row, int64_t column) {
        const int64_t i = row * a.width + column;
        return a.dy[i] * ((a.x[i] - a.mean[row]) * a.rstd[row]);
    });
    slice_columns(a.rows, a.width, dbias,
                  [&](int64_t row, int64_t column) { return a.dy[row * a.width + column]; });
}

size_t cuda_layernorm_backward_scratch(const struct layernorm_backward *a, int)
{
    return 2 * (size_t)(slices_of(a->rows) * a->width) * sizeof(float);
}

enum status cuda_layernorm_backward(struct stream *stream, const struct layernorm_backward *a)
{
    const int64_t slices = slices_of(a->rows);
    float *dweight = (float *)stream->scratch, *dbias = dweight + slices * a->width;

    enum status status = launch(parameters_kernel, slice_grid(a->rows, a->width), BLOCK_THREADS, 0,
                                *a, dweight, dbias);
    if (status == ST_OK) status = slices_sum(slices, a->width, dweight, a->dweight);
    if (status == ST_OK) status = slices_sum(slices, a->width, dbias, a->dbias);
    if (status != ST_OK) return status;
    return launch(input_kernel, row_blocks(a->rows), BLOCK_THREADS, 0, *a);
}
