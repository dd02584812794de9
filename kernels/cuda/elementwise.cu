/* What is done element by element. All of it is bound by memory: each value is read once and written once. */

#include "kernels/cuda/chance.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/ptx.cuh"

/* ---- GELU, with the exact erf, which the one that cuBLASLt could fuse has not ---- */

/* Φ(u), accurate in both tails */
static __device__ __forceinline__ float normal_below(float u)
{
    return 0.5f * erfcf(-u * 0.70710678f);
}

static __global__ void REGISTERS(48) gelu_kernel(int64_t count, const float *u, float *y)
{
    FOR_ELEMENTS(i, count) y[i] = u[i] * normal_below(u[i]);
}

static __global__ void REGISTERS(48)
    gelu_backward_kernel(int64_t count, const float *u, const float *dy, float *du)
{
    FOR_ELEMENTS(i, count)
    {
        const float x = u[i], density = 0.39894228f * expf(-0.5f * x * x);
        du[i] = dy[i] * (normal_below(x) + x * density);
    }
}

static struct product forward_product(const struct linear *a)
{
    struct product product = {};
    product.rows = a->rows;
    product.columns = a->out;
    product.depth = a->in;
    product.transpose_b = true;
    product.a = a->x;
    product.b = a->weight;
    product.bias = a->bias;
    product.c = a->y;
    product.precision = a->precision;
    return product;
}

static size_t scratch_of(const struct product &product)
{
    struct arena arena = {};
    product_run(&product, &arena);
    return arena.bytes;
}

size_t cuda_linear_scratch(const struct linear *arguments, int)
{
    return scratch_of(forward_product(arguments));
}

enum status cuda_linear(struct stream *stream, const struct linear *arguments)
{
    const struct product product = forward_product(arguments);
    struct arena arena = {(char *)stream->scratch, 0};
    return product_run(&product, &arena);
}

size_t cuda_linear_gelu_scratch(const struct linear_gelu *arguments, int)
{
    return scratch_of(forward_product(&arguments->linear));
}

enum status cuda_linear_gelu(struct stream *stream, const struct linear_gelu *arguments)
{
    const struct linear *a = &arguments->linear;
    struct product product = forward_product(a);
    struct arena arena = {(char *)stream->scratch, 0};
    product.c = arguments->u;
    const enum status status = product_run(&product, &arena);
    if (status != ST_OK) return status;
    const int64_t count = a->rows * a->out;
    return launch(gelu_kernel, blocks_for(count), BLOCK_THREADS, 0, count,
                  (const float *)arguments->u, a->y);
}

CUDA_WITHOUT_SCRATCH(gelu_backward)

enum status cuda_gelu_backward(struct stream *, const struct gelu_backward *a)
{
    return launch(gelu_backward_kernel, blocks_for(a->count), BLOCK_THREADS, 0, a->count, a->u,
                  a->dy, a->du);
}

/* ---- dropout ---- */

static __global__ void REGISTERS(48) dropout_kernel(struct dropout a)
{
    for_dropout(a.key, a.rows, a.width, [&](int64_t row, int64_t column, float factor) {
        a.y[row * a.width + column] = a.x[row * a.width + column] * factor;
    });
}

CUDA_WITHOUT_SCRATCH(dropout)

enum status cuda_dropout(struct stream *, const struct dropout *a)
{
    return launch(dropout_kernel, blocks_for(quads_of(a->rows, a->width)), BLOCK_THREADS, 0, *a);
}

/* y = residual + dropout(product) */
static __global__ void REGISTERS(48) residual_kernel(struct linear_residual a, const float *product)
{
    const int64_t width = a.linear.out;
    for_dropout(a.dropout, a.linear.rows, width, [&](int64_t row, int64_t column, float factor) {
        const int64_t i = row * width + column;
        a.linear.y[i] = a.residual[i] + product[i] * factor;
    });
}

/* Without dropout cuBLASLt adds the residual itself; else the product waits in scratch memory. */
static enum status linear_residual_run(const struct linear_residual *a, struct arena *arena)
{
    struct product product = forward_product(&a->linear);
    const bool dropped = a->dropout.rate > 0;
    if (dropped)
        product.c =
            (float *)arena_take(arena, (size_t)(a->linear.rows * a->linear.out) * sizeof(float));
    else
        product.addend = a->residual;
    const enum status status = product_run(&product, arena);
    if (status != ST_OK || !dropped || !arena->base) return status;
    return launch(residual_kernel, blocks_for(quads_of(a->linear.rows, a->linear.out)),
                  BLOCK_THREADS, 0, *a, (const float *)product.c);
}

size_t cuda_linear_residual_scratch(const struct linear_residual *arguments, int)
{
    struct arena arena = {};
    linear_residual_run(arguments, &arena);
    return arena.bytes;
}

enum status cuda_linear_residual(struct stream *stream, const struct linear_residual *arguments)
{
    struct arena arena = {(char *)stream->scratch, 0};
    return linear_residual_run(arguments, &arena);
}

/* ---- y += x ---- */

static __global__ void REGISTERS(48) add_kernel(int64_t count, const float *x, float *y)
{
    FOR_ELEMENTS(i, count) y[i] += x[i];
}

CUDA_WITHOUT_SCRATCH(add)

enum status cuda_add(struct stream *, const struct add *a)
{
    return launch(add_kernel, blocks_for(a->count), BLOCK_THREADS, 0, a->count, a->x, a->y);
}

/* ---- rotary positions ---- */

static __global__ void REGISTERS(48) rotary_kernel(struct rotary a)
{
    const int64_t pairs = a.head_dim / 2, count = a.batch * a.heads * a.length * pairs;
    FOR_ELEMENTS(i, count)
    {
        const int64_t column = i % pairs * 2, head = i / pairs % a.heads;
        const int64_t position = i / pairs / a.heads % a.length;
        const int64_t sequence = i / pairs / a.heads / a.length;
        const float *angle = a.table + position * a.head_dim + column;
        float *x = a.x.data + sequence * a.x.batch_stride + head * a.x.head_stride +
                   position * a.x.row_stride + column;
        const float cosine = angle[0], sine = a.back ? -angle[1] : angle[1];
        const float first = x[0], second = x[1];
        x[0] = first * cosine - second * sine;
        x[1] = first * sine + second * cosine;
    }
}

CUDA_WITHOUT_SCRATCH(rotary)

enum status cuda_rotary(struct stream *, const struct rotary *a)
{
    const int64_t pairs = a->batch * a->heads * a->length * (a->head_dim / 2);
    if (pairs == 0) return ST_OK;
    return launch(rotary_kernel, blocks_for(pairs), BLOCK_THREADS, 0, *a);
}

/* ---- rounding for products in bf16 ---- */

static __global__ void REGISTERS(48)
    round_kernel(int64_t rows, int64_t columns, int64_t stride, const float *from, uint32_t *to)
{
    const int64_t pairs = stride / 2;
    FOR_ELEMENTS(i, rows * pairs)
    {
        const int64_t column = i % pairs * 2;
        const float *x = from + i / pairs * columns + column;
        to[i] = bf16_pair(column < columns ? x[0] : 0, column + 1 < columns ? x[1] : 0);
    }
}

enum status round_to_bf16(int64_t rows, int64_t columns, int64_t stride, const float *from,
                          void *to)
{
    return launch(round_kernel, blocks_for(rows * stride / 2), BLOCK_THREADS, 0, rows, columns,
                  stride, from, (uint32_t *)to);
}
