/* A warp has a row of logits: its maximum, its sum of exponentials and its gradient in one go, then one block sums the rows. */

#include "kernels/cuda/reduce.cuh"

struct row_loss {
    double loss;
    int32_t counted, correct;
};

static __global__ void REGISTERS(48) rows_kernel(struct cross_entropy a, struct row_loss *losses)
{
    const int64_t r = warp_row(), lane = threadIdx.x % WARP;
    if (r >= a.rows) return;
    float *row = a.logits + r * a.vocab;
    const int32_t target = a.targets[r];
    if (target < 0) {
        for (int64_t i = lane; i < a.vocab && a.backward; i += WARP) row[i] = 0;
        if (lane == 0) losses[r] = {0, 0, 0};
        return;
    }

    struct largest<float> best;
    for (int64_t i = lane; i < a.vocab; i += WARP) best.meet(row[i], i);
    best = warp_largest(best);
    float sum = 0;
    for (int64_t i = lane; i < a.vocab; i += WARP) sum += expf(row[i] - best.value);
    sum = warp_sum(sum);
    if (lane == 0)
        losses[r] = {(double)best.value - row[target] + log((double)sum), 1, best.place == target};
    __syncwarp(); /* the target's logit is read before it is written over */
    const float share = 1.0f / sum;
    for (int64_t i = lane; i < a.vocab && a.backward; i += WARP)
        row[i] = expf(row[i] - best.value) * share - (i == target ? 1.0f : 0.0f);
}

struct totals {
    double loss;
    int64_t counted, correct;
};

static __global__ void REGISTERS(48)
    totals_kernel(int64_t rows, const struct row_loss *losses, struct totals *totals)
{
    double loss = 0;
    int64_t counted = 0, correct = 0;
    for (int64_t i = threadIdx.x; i < rows; i += BLOCK_THREADS) {
        loss += losses[i].loss;
        counted += losses[i].counted;
        correct += losses[i].correct;
    }
    loss = block_sum(loss);
    counted = block_sum(counted);
    correct = block_sum(correct);
    if (threadIdx.x == 0) *totals = {loss, counted, correct};
}

static struct row_loss *lay_out(const struct cross_entropy *a, struct arena *arena,
                                struct totals **totals)
{
    *totals = (struct totals *)arena_take(arena, sizeof **totals);
    return (struct row_loss *)arena_take(arena, (size_t)a->rows * sizeof(struct row_loss));
}

size_t cuda_cross_entropy_scratch(const struct cross_entropy *arguments, int)
{
    struct arena arena = {};
    struct totals *totals;
    lay_out(arguments, &arena, &totals);
    return arena.bytes;
}

static enum status fetch(void *to, const void *from, size_t bytes)
{
    return GPU(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, gpu_current()->stream));
}

enum status cuda_cross_entropy(struct stream *stream, const struct cross_entropy *a)
{
    struct arena arena = {(char *)stream->scratch, 0};
    struct totals *totals;
    struct row_loss *losses = lay_out(a, &arena, &totals);

    enum status status = launch(rows_kernel, row_blocks(a->rows), BLOCK_THREADS, 0, *a, losses);
    if (status == ST_OK)
        status = launch(totals_kernel, 1, BLOCK_THREADS, 0, a->rows,
                        (const struct row_loss *)losses, totals);
    if (status == ST_OK) status = fetch(a->loss_sum, &totals->loss, sizeof totals->loss);
    if (status == ST_OK) status = fetch(a->counted, &totals->counted, sizeof totals->counted);
    if (status == ST_OK) status = fetch(a->correct, &totals->correct, sizeof totals->correct);
    return status;
}
