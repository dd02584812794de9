#include "kernels/cuda/chance.cuh"

static __global__ void REGISTERS(48) embed_kernel(struct embed a)
{
    for_dropout(a.dropout, a.rows, a.width, [&](int64_t row, int64_t column, float factor) {
        float x = a.tokens[(int64_t)a.ids[row] * a.width + column];
        if (a.positions) x += a.positions[row % a.dropout.length * a.width + column];
        a.y[row * a.width + column] = x * factor;
    });
}

CUDA_WITHOUT_SCRATCH(embed)

enum status cuda_embed(struct stream *, const struct embed *a)
{
    return launch(embed_kernel, blocks_for(quads_of(a->rows, a->width)), BLOCK_THREADS, 0, *a);
}

/*
 * The gradient of a token is a sum over the rows that hold it, in their order: a block has a token and a piece of the
 * columns, and goes through all ids. That reads the ids once for each token, which caches bear while a
 * vocabulary is of bytes or amino acids; a large one would first sort its rows by token.
 */
static __global__ void REGISTERS(48) tokens_kernel(struct embed_backward a)
{
    __shared__ int32_t ids[BLOCK_THREADS];
    const int32_t token = (int32_t)blockIdx.x;
    const int64_t quad = (int64_t)blockIdx.y * BLOCK_THREADS + threadIdx.x, column = quad * 4;
    float sum[4] = {0, 0, 0, 0};

    for (int64_t first = 0; first < a.rows; first += BLOCK_THREADS) {
        const int64_t mine = first + threadIdx.x;
        ids[threadIdx.x] = mine < a.rows ? a.ids[mine] : -1;
        __syncthreads();
        for (int i = 0; i < BLOCK_THREADS && column < a.width; i++) {
            if (ids[i] != token) continue;
            const float4 factor = dropout_quad(a.dropout, first + i, a.width, quad);
            const float factors[4] = {factor.x, factor.y, factor.z, factor.w};
            for (int j = 0; j < 4 && column + j < a.width; j++)
                sum[j] += a.dy[(first + i) * a.width + column + j] * factors[j];
        }
        __syncthreads();
    }
    for (int j = 0; j < 4 && column + j < a.width; j++)
        a.dtokens[(int64_t)token * a.width + column + j] = sum[j];
}

/* Over the sequences; 0 at positions that none of them reaches. */
static __global__ void REGISTERS(48) positions_kernel(struct embed_backward a)
{
    const int64_t quads = (a.width + 3) / 4, length = a.dropout.length;
    FOR_ELEMENTS(i, a.positions * quads)
    {
        const int64_t position = i / quads, column = i % quads * 4;
        float sum[4] = {0, 0, 0, 0};
        for (int64_t row = position; row < a.rows && position < length; row += length) {
            const float4 factor = dropout_quad(a.dropout, row, a.width, i % quads);
            const float factors[4] = {factor.x, factor.y, factor.z, factor.w};
            for (int j = 0; j < 4 && column + j < a.width; j++)
                sum[j] += a.dy[row * a.width + column + j] * factors[j];
        }
        for (int j = 0; j < 4 && column + j < a.width; j++)
            a.dpositions[position * a.width + column + j] = sum[j];
    }
}

CUDA_WITHOUT_SCRATCH(embed_backward)

enum status cuda_embed_backward(struct stream *, const struct embed_backward *a)
{
    const int64_t quads = quads_of(1, a->width);
    const dim3 grid((unsigned)a->vocab, (unsigned)ceiling(quads, BLOCK_THREADS));
    const enum status status = launch(tokens_kernel, grid, BLOCK_THREADS, 0, *a);
    if (status != ST_OK || !a->dpositions) return status;
    return launch(positions_kernel, blocks_for(quads_of(a->positions, a->width)), BLOCK_THREADS, 0,
                  *a);
}
