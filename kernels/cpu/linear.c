/* y = x wᵀ in tiles of rows and columns, each one product; what comes after it is done while its tile is in the
 * cache. */

#include "kernels/cpu/dropout_lanes.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(linear)
CPU_WITHOUT_SCRATCH(linear_gelu)

enum { TILE_ROWS = 128, TILE_COLUMNS = 512 };

struct tile {
    struct range rows, columns;
};

static int64_t tiles_of(int64_t rows, int64_t columns)
{
    return pieces_of(rows, TILE_ROWS) * pieces_of(columns, TILE_COLUMNS);
}

static struct tile tile_at(int64_t piece, int64_t rows, int64_t columns)
{
    const int64_t across = pieces_of(columns, TILE_COLUMNS);
    return (struct tile){piece_range(piece / across, TILE_ROWS, rows),
                         piece_range(piece % across, TILE_COLUMNS, columns)};
}

static void tile_multiply(const struct linear *linear, struct tile tile, float *y, int64_t stride)
{
    gemm_nt(tile.rows.count, tile.columns.count, linear->in, 1,
            linear->x + tile.rows.from * linear->in, linear->in,
            linear->weight + tile.columns.from * linear->in, linear->in, 0, y, stride);
}

/* The product of a tile where it belongs in y (R, out). */
static struct tile tile_multiply_into(const struct linear *linear, int64_t piece, float *y)
{
    const struct tile tile = tile_at(piece, linear->rows, linear->out);
    tile_multiply(linear, tile, y + tile.rows.from * linear->out + tile.columns.from, linear->out);
    return tile;
}

/* sum = x + y; sum may be either */
static void row_add(const float *x, const float *y, float *sum, int64_t count)
{
    for (int64_t i = 0; i < count; i++) sum[i] = x[i] + y[i];
}

static void tile_linear(void *context, int64_t piece, int thread)
{
    const struct linear *linear = context;
    const struct tile tile = tile_multiply_into(linear, piece, linear->y);
    (void)thread;
    for (int64_t r = 0; r < tile.rows.count && linear->bias; r++) {
        float *y = linear->y + (tile.rows.from + r) * linear->out + tile.columns.from;
        row_add(y, linear->bias + tile.columns.from, y, tile.columns.count);
    }
}

enum status CPU(linear)(struct stream *stream, const struct linear *arguments)
{
    team_run(stream->team, tiles_of(arguments->rows, arguments->out), tile_linear,
             (void *)arguments);
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
    const struct linear_gelu *a = context;
    const struct linear *linear = &a->linear;
    const struct tile tile = tile_multiply_into(linear, piece, a->u);
    (void)thread;
    for (int64_t r = 0; r < tile.rows.count; r++) {
        const int64_t at = (tile.rows.from + r) * linear->out + tile.columns.from;
        row_gelu(linear->bias ? linear->bias + tile.columns.from : NULL, a->u + at, linear->y + at,
                 tile.columns.count);
    }
}

enum status CPU(linear_gelu)(struct stream *stream, const struct linear_gelu *arguments)
{
    team_run(stream->team, tiles_of(arguments->linear.rows, arguments->linear.out),
             tile_linear_gelu, (void *)arguments);
    return gemm_outcome();
}

/* y may be the residual, so the product goes to a tile of the thread's own. */
size_t CPU(linear_residual_scratch)(const struct linear_residual *arguments, int threads)
{
    const int64_t columns = smaller(arguments->linear.out, TILE_COLUMNS);
    return (size_t)threads * scratch_floats(TILE_ROWS * gemm_stride(columns)) * sizeof(float);
}

struct residual_task {
    const struct linear_residual *arguments;
    float *tiles;
};

static void tile_linear_residual(void *context, int64_t piece, int thread)
{
    const struct residual_task *task = context;
    const struct linear_residual *a = task->arguments;
    const struct linear *linear = &a->linear;
    const struct tile tile = tile_at(piece, linear->rows, linear->out);
    const int64_t stride = gemm_stride(smaller(linear->out, TILE_COLUMNS));
    float *product = task->tiles + (size_t)thread * scratch_floats(TILE_ROWS * stride);

    tile_multiply(linear, tile, product, stride);
    for (int64_t r = 0; r < tile.rows.count; r++) {
        const int64_t at = (tile.rows.from + r) * linear->out + tile.columns.from;
        float *row = product + r * stride;
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
    struct residual_task task = {arguments, stream->scratch};
    team_run(stream->team, tiles_of(arguments->linear.rows, arguments->linear.out),
             tile_linear_residual, &task);
    return gemm_outcome();
}
