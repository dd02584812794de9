/*
 * y = x wᵀ in tiles of rows and columns, each one product; what comes after it is done while its
 * tile is in the cache. wᵀ is laid out first: a product reads it a tenth faster than w. In bf16
 * both x and wᵀ are laid out as pairs.
 */

#include "kernels/cpu/dropout_lanes.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pairs.h"
#include "kernels/cpu/product.h"

enum { TILE_ROWS = 120, TILE_COLUMNS = 512, TRANSPOSE_ROWS = 32, ROUND_ROWS = 32 };

struct task {
    const struct linear *linear;
    float *weight; /* (in, stride): wᵀ */
    int64_t stride;
    int64_t pairs;                          /* bf16: of a row of x */
    uint32_t *x;                            /* bf16: (R, pairs) */
    uint32_t *panels;                       /* bf16: wᵀ */
    float *u;                               /* linear_gelu */
    const struct linear_residual *residual; /* linear_residual */
    float *tiles;                           /* (threads, TILE_ROWS, tile_stride) */
    int64_t tile_stride;
};

/* Lays the scratch out, tiles for so many threads; returns how many floats it takes. */
static size_t task_plan(struct task *task, const struct linear *linear, int threads, float *base)
{
    struct scratch scratch = {base, 0};
    *task = (struct task){
        .linear = linear,
        .stride = gemm_stride(linear->out),
        .tile_stride = gemm_stride(smaller(linear->out, TILE_COLUMNS)),
    };
    if (linear->precision == PRECISION_BF16) {
        task->pairs = pairs_of(linear->in);
        task->x = scratch_take_words(&scratch, linear->rows * task->pairs);
        task->panels = scratch_take_words(&scratch, panels_words(linear->in, linear->out));
    } else {
        task->weight = scratch_take(&scratch, linear->in * task->stride);
    }
    task->tiles = scratch_take(&scratch, threads * TILE_ROWS * task->tile_stride);
    return scratch.used;
}

static size_t scratch_bytes(const struct linear *linear, int threads)
{
    struct task task;
    return task_plan(&task, linear, threads, NULL) * sizeof(float);
}

size_t CPU(linear_scratch)(const struct linear *arguments, int threads)
{
    (void)threads;
    return scratch_bytes(arguments, 0);
}

size_t CPU(linear_gelu_scratch)(const struct linear_gelu *arguments, int threads)
{
    (void)threads;
    return scratch_bytes(&arguments->linear, 0);
}

/* y may be the residual, so the product goes to a tile of the thread's own. */
size_t CPU(linear_residual_scratch)(const struct linear_residual *arguments, int threads)
{
    return scratch_bytes(&arguments->linear, threads);
}

static void weight_transpose(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear *linear = task->linear;
    const struct range rows = piece_range(piece, TRANSPOSE_ROWS, linear->out);
    (void)thread;
    CPU(transpose)
    (rows.count, linear->in, linear->weight + rows.from * linear->in, linear->in,
     task->weight + rows.from, task->stride);
}

static void x_round(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear *linear = task->linear;
    const struct range rows = piece_range(piece, ROUND_ROWS, linear->rows);
    (void)thread;
    CPU(pairs_of_rows)
    (rows.count, linear->in, linear->x + rows.from * linear->in, linear->in,
     task->x + rows.from * task->pairs);
}

static void weight_round(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear *linear = task->linear;
    (void)thread;
    CPU(panels_of_transposed)
    (piece_range(piece, PANEL, linear->out), linear->in, linear->weight, linear->in, task->panels);
}

static void operands_lay_out(struct stream *stream, struct task *task)
{
    const struct linear *linear = task->linear;
    if (linear->precision == PRECISION_BF16) {
        team_run(stream->team, pieces_of(linear->rows, ROUND_ROWS), x_round, task);
        team_run(stream->team, pieces_of(linear->out, PANEL), weight_round, task);
    } else {
        team_run(stream->team, pieces_of(linear->out, TRANSPOSE_ROWS), weight_transpose, task);
    }
}

static void tiles_run(struct stream *stream, struct task *task, team_body *body)
{
    const struct linear *linear = task->linear;
    operands_lay_out(stream, task);
    team_run(stream->team,
             pieces_of(linear->rows, TILE_ROWS) * pieces_of(linear->out, TILE_COLUMNS), body, task);
}

struct tile {
    struct range rows, columns;
};

static struct tile tile_at(int64_t piece, int64_t rows, int64_t columns)
{
    const int64_t across = pieces_of(columns, TILE_COLUMNS);
    return (struct tile){piece_range(piece / across, TILE_ROWS, rows),
                         piece_range(piece % across, TILE_COLUMNS, columns)};
}

static void tile_multiply(const struct task *task, struct tile tile, float *y, int64_t stride)
{
    const struct linear *linear = task->linear;
    if (linear->precision == PRECISION_BF16) {
        const struct left x = {task->x + tile.rows.from * task->pairs, task->pairs, 1};
        CPU(pairs_multiply)
        (tile.rows.count, tile.columns.count, task->pairs, x,
         task->panels + tile.columns.from * task->pairs, task->pairs * PANEL, false, y, stride);
        return;
    }
    gemm_nn(tile.rows.count, tile.columns.count, linear->in, 1,
            linear->x + tile.rows.from * linear->in, linear->in, task->weight + tile.columns.from,
            task->stride, 0, y, stride);
}

/* The product of a tile where it belongs in y (R, out). */
static struct tile tile_multiply_into(const struct task *task, int64_t piece, float *y)
{
    const struct linear *linear = task->linear;
    const struct tile tile = tile_at(piece, linear->rows, linear->out);
    tile_multiply(task, tile, y + tile.rows.from * linear->out + tile.columns.from, linear->out);
    return tile;
}

/* sum = x + y; sum may be either */
static void row_add(const float *x, const float *y, float *sum, int64_t count)
{
    for (int64_t i = 0; i < count; i++) sum[i] = x[i] + y[i];
}

static void tile_linear(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear *linear = task->linear;
    const struct tile tile = tile_multiply_into(task, piece, linear->y);
    (void)thread;
    for (int64_t r = 0; r < tile.rows.count && linear->bias; r++) {
        float *y = linear->y + (tile.rows.from + r) * linear->out + tile.columns.from;
        row_add(y, linear->bias + tile.columns.from, y, tile.columns.count);
    }
}

enum status CPU(linear)(struct stream *stream, const struct linear *arguments)
{
    struct task task;
    task_plan(&task, arguments, 0, stream->scratch);
    tiles_run(stream, &task, tile_linear);
    return gemm_outcome();
}

static void row_gelu(const float *bias, float *u, float *y, int64_t count)
{
    for (int64_t i = 0; i < count; i += LANES) {
        const int64_t left = count - i;
        if (left >= LANES) {
            const floats at = lanes_load(u + i) + (bias ? lanes_load(bias + i) : (floats){0});
            lanes_store(u + i, at);
            lanes_store(y + i, at * lanes_normal(at).below);
        } else {
            const floats at = lanes_load_part(u + i, left, 0) +
                              (bias ? lanes_load_part(bias + i, left, 0) : (floats){0});
            lanes_store_part(u + i, at, left);
            lanes_store_part(y + i, at * lanes_normal(at).below, left);
        }
    }
}

static void tile_linear_gelu(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear *linear = task->linear;
    const struct tile tile = tile_multiply_into(task, piece, task->u);
    (void)thread;
    for (int64_t r = 0; r < tile.rows.count; r++) {
        const int64_t at = (tile.rows.from + r) * linear->out + tile.columns.from;
        row_gelu(linear->bias ? linear->bias + tile.columns.from : NULL, task->u + at,
                 linear->y + at, tile.columns.count);
    }
}

enum status CPU(linear_gelu)(struct stream *stream, const struct linear_gelu *arguments)
{
    struct task task;
    task_plan(&task, &arguments->linear, 0, stream->scratch);
    task.u = arguments->u;
    tiles_run(stream, &task, tile_linear_gelu);
    return gemm_outcome();
}

static void tile_linear_residual(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_residual *a = task->residual;
    const struct linear *linear = task->linear;
    const struct tile tile = tile_at(piece, linear->rows, linear->out);
    float *product = task->tiles + thread * TILE_ROWS * task->tile_stride;

    tile_multiply(task, tile, product, task->tile_stride);
    for (int64_t r = 0; r < tile.rows.count; r++) {
        const int64_t at = (tile.rows.from + r) * linear->out + tile.columns.from;
        float *row = product + r * task->tile_stride;
        if (linear->bias) row_add(row, linear->bias + tile.columns.from, row, tile.columns.count);
        if (a->dropout.rate > 0) {
            const struct dropout_row dropped =
                dropout_row(&a->dropout, tile.rows.from + r, linear->out);
            dropout_apply(&dropped, tile.columns.from, tile.columns.count, row, a->residual + at,
                          linear->y + at);
        } else {
            row_add(row, a->residual + at, linear->y + at, tile.columns.count);
        }
    }
}

enum status CPU(linear_residual)(struct stream *stream, const struct linear_residual *arguments)
{
    struct task task;
    task_plan(&task, &arguments->linear, team_threads(stream->team), stream->scratch);
    task.residual = arguments;
    tiles_run(stream, &task, tile_linear_residual);
    return gemm_outcome();
}
