/*
 * dx by tiles of rows and columns. dweight by blocks of outputs and stretches of rows; a stretch is copied, some
 * rows at a time, to where a product reads it well; the stretches are added in their order.
 */

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/pieces.h"

#include <string.h>

enum {
    TILE_ROWS = 128,
    TILE_COLUMNS = 512,
    STRETCH = 1024,
    STRETCH_ROWS = 128, /* of a stretch, multiplied at a time */
    BLOCK_OUT = 512,
    COPY_ROWS = 64,
    SUM_ELEMENTS = 16384,
};

struct task {
    const struct linear_backward *a;
    int64_t stretches, blocks;
    int64_t in_stride, out_stride;
    float *weight;   /* (out, in_stride) */
    float *dweights; /* (stretches, out, in), where there is more than one */
    float *dbiases;  /* (stretches, out), the same */
    float *threads;  /* for each: x (STRETCH_ROWS, in_stride), dy (STRETCH_ROWS, out_stride) */
};

static int64_t thread_floats(const struct task *task)
{
    return STRETCH_ROWS * (task->in_stride + task->out_stride);
}

/* Lays the scratch out; returns how many floats it takes. */
static size_t task_plan(struct task *task, const struct linear_backward *a, int threads,
                        float *base)
{
    struct scratch scratch = {base, 0};
    *task = (struct task){
        .a = a,
        .stretches = larger(pieces_of(a->rows, STRETCH), 1),
        .blocks = pieces_of(a->out, BLOCK_OUT),
        .in_stride = gemm_stride(a->in),
        .out_stride = gemm_stride(smaller(a->out, BLOCK_OUT)),
    };
    const int64_t terms = task->stretches > 1 ? task->stretches : 0;
    task->weight = scratch_take(&scratch, a->out * task->in_stride);
    task->dweights = scratch_take(&scratch, terms * a->out * a->in);
    task->dbiases = scratch_take(&scratch, terms * a->out);
    task->threads = scratch_take(&scratch, threads * thread_floats(task));
    return scratch.used;
}

size_t CPU(linear_backward_scratch)(const struct linear_backward *arguments, int threads)
{
    struct task task;
    return task_plan(&task, arguments, threads, NULL) * sizeof(float);
}

static void rows_copy(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                      int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * to_stride, from + r * from_stride, (size_t)width * sizeof(float));
}

static void weight_copy(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct range rows = piece_range(piece, COPY_ROWS, task->a->out);
    (void)thread;
    rows_copy(task->weight + rows.from * task->in_stride, task->in_stride,
              task->a->weight + rows.from * task->a->in, task->a->in, rows.count, task->a->in);
}

static void tile_dx(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const int64_t across = pieces_of(a->in, TILE_COLUMNS);
    const struct range rows = piece_range(piece / across, TILE_ROWS, a->rows);
    const struct range columns = piece_range(piece % across, TILE_COLUMNS, a->in);
    (void)thread;
    gemm_nn(rows.count, columns.count, a->out, 1, a->dy + rows.from * a->out, a->out,
            task->weight + columns.from, task->in_stride, 0,
            a->dx + rows.from * a->in + columns.from, a->in);
}

static void rows_sum(float *restrict sum, const float *restrict x, int64_t stride, int64_t rows,
                     int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) sum[i] += x[r * stride + i];
}

/* dweight and dbias of a block of outputs, from one stretch of rows. */
static void block_dweight(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const int64_t stretch = piece / task->blocks;
    const struct range out = piece_range(piece % task->blocks, BLOCK_OUT, a->out);
    const struct range rows = piece_range(stretch, STRETCH, a->rows);
    float *x = task->threads + thread * thread_floats(task);
    float *dy = x + STRETCH_ROWS * task->in_stride;
    float *dweight = task->stretches > 1 ? task->dweights + stretch * a->out * a->in : a->dweight;
    float *dbias = task->stretches > 1 ? task->dbiases + stretch * a->out : a->dbias;

    if (a->dbias) memset(dbias + out.from, 0, (size_t)out.count * sizeof(float));
    for (int64_t r = rows.from; r < rows.from + rows.count; r += STRETCH_ROWS) {
        const int64_t count = smaller(STRETCH_ROWS, rows.from + rows.count - r);
        rows_copy(x, task->in_stride, a->x + r * a->in, a->in, count, a->in);
        rows_copy(dy, task->out_stride, a->dy + r * a->out + out.from, a->out, count, out.count);
        if (a->dbias) rows_sum(dbias + out.from, dy, task->out_stride, count, out.count);
        gemm_tn(out.count, a->in, count, 1, dy, task->out_stride, x, task->in_stride,
                r > rows.from ? 1 : 0, dweight + out.from * a->in, a->in);
    }
}

static void terms_sum(float *restrict sum, const float *restrict terms, int64_t count,
                      int64_t stride, struct range range)
{
    memcpy(sum + range.from, terms + range.from, (size_t)range.count * sizeof(float));
    for (int64_t term = 1; term < count; term++)
        for (int64_t i = range.from; i < range.from + range.count; i++)
            sum[i] += terms[term * stride + i];
}

static void dweight_sum(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const int64_t elements = a->out * a->in;
    (void)thread;
    if (piece == 0 && a->dbias)
        terms_sum(a->dbias, task->dbiases, task->stretches, a->out, (struct range){0, a->out});
    terms_sum(a->dweight, task->dweights, task->stretches, elements,
              piece_range(piece, SUM_ELEMENTS, elements));
}

enum status CPU(linear_backward)(struct stream *stream, const struct linear_backward *arguments)
{
    const struct linear_backward *a = arguments;
    struct task task;
    task_plan(&task, a, team_threads(stream->team), stream->scratch);

    team_run(stream->team, task.stretches * task.blocks, block_dweight, &task);
    if (task.stretches > 1)
        team_run(stream->team, pieces_of(a->out * a->in, SUM_ELEMENTS), dweight_sum, &task);
    if (a->dx) {
        team_run(stream->team, pieces_of(a->out, COPY_ROWS), weight_copy, &task);
        team_run(stream->team, pieces_of(a->rows, TILE_ROWS) * pieces_of(a->in, TILE_COLUMNS),
                 tile_dx, &task);
    }
    return gemm_outcome();
}
