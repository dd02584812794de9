/* Ba et al. 2016, a row at a time while it is in the first cache. */

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(layernorm)

enum { ROWS = 64, SUM_COLUMNS = 64 };

#define EPSILON 1e-5f

/* The variance is taken around the mean in a second pass: E[x²] - mean² would lose digits. */
static void row_normalize(const struct layernorm *a, int64_t r)
{
    const int64_t width = a->width;
    const float *x = a->x + r * width;
    floats sum = {0}, squares = {0};

    for (int64_t i = 0; i < width; i += LANES) sum += lanes_load_row(x, i, width, 0);
    const float mean = lanes_sum(sum) / (float)width;
    for (int64_t i = 0; i < width; i += LANES) {
        const floats off = lanes_load_row(x, i, width, mean) - mean;
        squares = lanes_fma(off, off, squares);
    }
    const float rstd = 1 / lanes_sqrt(lanes_of(lanes_sum(squares) / (float)width + EPSILON))[0];
    for (int64_t i = 0; i < width; i += LANES) {
        const floats normal = (lanes_load_row(x, i, width, 0) - mean) * rstd;
        lanes_store_row(a->y + r * width, i, width,
                        lanes_fma(normal, lanes_load_row(a->weight, i, width, 0),
                                  lanes_load_row(a->bias, i, width, 0)));
    }
    a->mean[r] = mean;
    a->rstd[r] = rstd;
}

static void rows_normalize(void *context, int64_t piece, int thread)
{
    const struct layernorm *a = context;
    const struct range rows = piece_range(piece, ROWS, a->rows);
    (void)thread;
    for (int64_t r = rows.from; r < rows.from + rows.count; r++) row_normalize(a, r);
}

enum status CPU(layernorm)(struct stream *stream, const struct layernorm *arguments)
{
    team_run(stream->team, pieces_of(arguments->rows, ROWS), rows_normalize, (void *)arguments);
    return ST_OK;
}

/* For each piece of rows its terms of dweight and dbias. */
size_t CPU(layernorm_backward_scratch)(const struct layernorm_backward *arguments, int threads)
{
    (void)threads;
    return (size_t)(pieces_of(arguments->rows, ROWS) * 2 * arguments->width) * sizeof(float);
}

struct backward_task {
    const struct layernorm_backward *arguments;
    float *terms; /* (pieces, 2, width) */
};

/* With x̂ = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - x̂ mean(g x̂)). */
static void row_backward(const struct layernorm_backward *a, int64_t r, float *dweight,
                         float *dbias)
{
    const int64_t width = a->width;
    const float *x = a->x + r * width, *dy = a->dy + r * width;
    const float mean = a->mean[r], rstd = a->rstd[r];
    floats sum_g = {0}, sum_gx = {0};

    for (int64_t i = 0; i < width; i += LANES) {
        const floats normal = (lanes_load_row(x, i, width, mean) - mean) * rstd;
        const floats d = lanes_load_row(dy, i, width, 0),
                     g = d * lanes_load_row(a->weight, i, width, 0);
        sum_g += g;
        sum_gx = lanes_fma(g, normal, sum_gx);
        lanes_store_row(dweight, i, width,
                        lanes_fma(d, normal, lanes_load_row(dweight, i, width, 0)));
        lanes_store_row(dbias, i, width, lanes_load_row(dbias, i, width, 0) + d);
    }
    const float mean_g = lanes_sum(sum_g) / (float)width;
    const float mean_gx = lanes_sum(sum_gx) / (float)width;
    for (int64_t i = 0; i < width; i += LANES) {
        const floats normal = (lanes_load_row(x, i, width, mean) - mean) * rstd;
        const floats g = lanes_load_row(dy, i, width, 0) * lanes_load_row(a->weight, i, width, 0);
        floats dx = rstd * (g - mean_g - normal * mean_gx);
        if (a->dresidual) dx += lanes_load_row(a->dresidual + r * width, i, width, 0);
        lanes_store_row(a->dx + r * width, i, width, dx);
    }
}

static void rows_backward(void *context, int64_t piece, int thread)
{
    const struct backward_task *task = context;
    const struct layernorm_backward *a = task->arguments;
    const struct range rows = piece_range(piece, ROWS, a->rows);
    float *dweight = task->terms + piece * 2 * a->width, *dbias = dweight + a->width;
    (void)thread;

    memset(dweight, 0, 2 * (size_t)a->width * sizeof *dweight);
    for (int64_t r = rows.from; r < rows.from + rows.count; r++) row_backward(a, r, dweight, dbias);
}

static void columns_sum(void *context, int64_t piece, int thread)
{
    const struct backward_task *task = context;
    const struct layernorm_backward *a = task->arguments;
    const struct range columns = piece_range(piece, SUM_COLUMNS, a->width);
    const size_t bytes = (size_t)columns.count * sizeof(float);
    (void)thread;

    memset(a->dweight + columns.from, 0, bytes);
    memset(a->dbias + columns.from, 0, bytes);
    for (int64_t term = 0; term < pieces_of(a->rows, ROWS); term++) {
        const float *dweight = task->terms + term * 2 * a->width, *dbias = dweight + a->width;
        for (int64_t i = columns.from; i < columns.from + columns.count; i++) {
            a->dweight[i] += dweight[i];
            a->dbias[i] += dbias[i];
        }
    }
}

enum status CPU(layernorm_backward)(struct stream *stream,
                                    const struct layernorm_backward *arguments)
{
    struct backward_task task = {arguments, stream->scratch};
    team_run(stream->team, pieces_of(arguments->rows, ROWS), rows_backward, &task);
    team_run(stream->team, pieces_of(arguments->width, SUM_COLUMNS), columns_sum, &task);
    return ST_OK;
}
