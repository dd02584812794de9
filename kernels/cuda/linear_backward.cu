#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/product.h"

static __global__ void REGISTERS(48)
    bias_slice_kernel(int64_t rows, int64_t width, const float *dy, float *partial)
{
    slice_columns(rows, width, partial,
                  [=](int64_t row, int64_t column) { return dy[row * width + column]; });
}

static enum status bias_gradient(const struct linear_backward *a, struct arena *arena)
{
    const int64_t slices = slices_of(a->rows);
    float *partial = (float *)arena_take(arena, (size_t)(slices * a->out) * sizeof(float));
    if (!arena->base) return ST_OK;
    const enum status status = launch(bias_slice_kernel, slice_grid(a->rows, a->out), BLOCK_THREADS,
                                      0, a->rows, a->out, a->dy, partial);
    return status == ST_OK ? slices_sum(slices, a->out, partial, a->dbias) : status;
}

/* The products and sums take turns in one region of scratch, which the stream's order keeps apart. */
static enum status run(const struct linear_backward *a, char *base, size_t *bytes)
{
    struct product into_weight = {}, into_x = {};
    into_weight.rows = a->out;
    into_weight.columns = a->in;
    into_weight.depth = a->rows;
    into_weight.transpose_a = true;
    into_weight.a = a->dy;
    into_weight.b = a->x;
    into_weight.c = a->dweight;
    into_weight.precision = a->precision;
    into_x.rows = a->rows;
    into_x.columns = a->in;
    into_x.depth = a->out;
    into_x.a = a->dy;
    into_x.b = a->weight;
    into_x.c = a->dx;
    into_x.precision = a->precision;

    struct arena arenas[] = {{base, 0}, {base, 0}, {base, 0}};
    enum status status = product_run(&into_weight, &arenas[0]);
    if (status == ST_OK && (a->dx || !base)) status = product_run(&into_x, &arenas[1]);
    if (status == ST_OK && (a->dbias || !base)) status = bias_gradient(a, &arenas[2]);
    *bytes = 0;
    for (const struct arena &arena : arenas)
        if (arena.bytes > *bytes) *bytes = arena.bytes;
    return status;
}

size_t cuda_linear_backward_scratch(const struct linear_backward *arguments, int)
{
    size_t bytes;
    run(arguments, NULL, &bytes);
    return bytes;
}

enum status cuda_linear_backward(struct stream *stream, const struct linear_backward *arguments)
{
    size_t bytes;
    return run(arguments, (char *)stream->scratch, &bytes);
}
