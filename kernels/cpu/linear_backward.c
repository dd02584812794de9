/*
 * dx by tiles of rows and columns. dweight by blocks of outputs and stretches of rows; a stretch is copied, some
 * rows at a time, to where a product reads it well; the stretches are added in their order. In bf16 x, dy and the
 * weight are laid out as pairs, dy twice: along its rows for dx, and across them for dweight.
 */

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/pairs.h"

#include <string.h>

enum {
    TILE_ROWS = 120,
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

    /* bf16 */
    uint32_t *x_panels;      /* x (R, in) */
    uint32_t *weight_panels; /* weight (out, in) */
    uint32_t *dy;            /* (R, pairs_of(out)) */
    uint32_t *dy_panels;     /* for each thread, of a stretch */
};

enum { DY_PANEL_WORDS = STRETCH / 2 * PANEL };

static int64_t thread_floats(const struct task *task)
{
    return STRETCH_ROWS * (task->in_stride + task->out_stride);
}

static void operands_plan_bf16(struct task *task, int threads, struct scratch *scratch)
{
    const struct linear_backward *a = task->a;
    task->x_panels = scratch_take_words(scratch, panels_words(a->rows, a->in));
    task->dy_panels = scratch_take_words(scratch, threads * DY_PANEL_WORDS);
    if (!a->dx) return;
    task->weight_panels = scratch_take_words(scratch, panels_words(a->out, a->in));
    task->dy = scratch_take_words(scratch, a->rows * pairs_of(a->out));
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
    task->dweights = scratch_take(&scratch, terms * a->out * a->in);
    task->dbiases = scratch_take(&scratch, terms * a->out);
    if (a->precision == PRECISION_BF16) {
        operands_plan_bf16(task, threads, &scratch);
        return scratch.used;
    }
    task->weight = scratch_take(&scratch, a->out * task->in_stride);
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

/* Of dx. */
struct tile {
    struct range rows, columns;
};

static struct tile tile_at(const struct linear_backward *a, int64_t piece)
{
    const int64_t across = pieces_of(a->in, TILE_COLUMNS);
    return (struct tile){piece_range(piece / across, TILE_ROWS, a->rows),
                         piece_range(piece % across, TILE_COLUMNS, a->in)};
}

static void tile_dx(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const struct tile tile = tile_at(a, piece);
    (void)thread;
    gemm_nn(tile.rows.count, tile.columns.count, a->out, 1, a->dy + tile.rows.from * a->out, a->out,
            task->weight + tile.columns.from, task->in_stride, 0,
            a->dx + tile.rows.from * a->in + tile.columns.from, a->in);
}

/* Where what a stretch adds goes: where there is but one, it is the whole. */
struct terms {
    float *dweight, *dbias;
};

static struct terms terms_of(const struct task *task, int64_t stretch)
{
    const struct linear_backward *a = task->a;
    if (task->stretches == 1) return (struct terms){a->dweight, a->dbias};
    return (struct terms){task->dweights + stretch * a->out * a->in,
                          task->dbiases + stretch * a->out};
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
    const struct terms to = terms_of(task, stretch);

    if (a->dbias) memset(to.dbias + out.from, 0, (size_t)out.count * sizeof(float));
    for (int64_t r = rows.from; r < rows.from + rows.count; r += STRETCH_ROWS) {
        const int64_t count = smaller(STRETCH_ROWS, rows.from + rows.count - r);
        rows_copy(x, task->in_stride, a->x + r * a->in, a->in, count, a->in);
        rows_copy(dy, task->out_stride, a->dy + r * a->out + out.from, a->out, count, out.count);
        if (a->dbias) rows_sum(to.dbias + out.from, dy, task->out_stride, count, out.count);
        gemm_tn(out.count, a->in, count, 1, dy, task->out_stride, x, task->in_stride,
                r > rows.from ? 1 : 0, to.dweight + out.from * a->in, a->in);
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

/* ---- bf16 ---- */

static void x_round(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    (void)thread;
    CPU(panels_of_rows)
    (piece_range(piece, COPY_ROWS, a->rows), a->rows, a->in, a->x, a->in, task->x_panels);
}

static void weight_round(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    (void)thread;
    CPU(panels_of_rows)
    (piece_range(piece, COPY_ROWS, a->out), a->out, a->in, a->weight, a->in, task->weight_panels);
}

static void dy_round(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const struct range rows = piece_range(piece, COPY_ROWS, a->rows);
    (void)thread;
    CPU(pairs_of_rows)
    (rows.count, a->out, a->dy + rows.from * a->out, a->out,
     task->dy + rows.from * pairs_of(a->out));
}

/* The sums of dbias are no product: they read dy as it is. */
static void panel_dweight(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const int64_t across = pieces_of(a->out, PANEL), stretch = piece / across;
    const struct range out = piece_range(piece % across, PANEL, a->out);
    const struct range rows = piece_range(stretch, STRETCH, a->rows);
    const float *dy = a->dy + rows.from * a->out + out.from;
    const struct left left = {task->dy_panels + thread * DY_PANEL_WORDS, 1, PANEL};
    const struct terms to = terms_of(task, stretch);

    CPU(panels_of_rows)
    ((struct range){0, rows.count}, rows.count, out.count, dy, a->out,
     task->dy_panels + thread * DY_PANEL_WORDS);
    if (a->dbias) {
        memset(to.dbias + out.from, 0, (size_t)out.count * sizeof(float));
        rows_sum(to.dbias + out.from, dy, a->out, rows.count, out.count);
    }
    CPU(pairs_multiply)
    (out.count, a->in, pairs_of(rows.count), left, task->x_panels + rows.from / 2 * PANEL,
     pairs_of(a->rows) * PANEL, false, to.dweight + out.from * a->in, a->in);
}

static void tile_dx_bf16(void *context, int64_t piece, int thread)
{
    const struct task *task = context;
    const struct linear_backward *a = task->a;
    const struct tile tile = tile_at(a, piece);
    const int64_t pairs = pairs_of(a->out);
    const struct left dy = {task->dy + tile.rows.from * pairs, pairs, 1};
    (void)thread;
    CPU(pairs_multiply)
    (tile.rows.count, tile.columns.count, pairs, dy,
     task->weight_panels + tile.columns.from * pairs, pairs * PANEL, false,
     a->dx + tile.rows.from * a->in + tile.columns.from, a->in);
}

/* ---- both ---- */

static void dweight_run(struct stream *stream, struct task *task)
{
    const struct linear_backward *a = task->a;
    if (a->precision == PRECISION_BF16) {
        team_run(stream->team, pieces_of(a->rows, COPY_ROWS), x_round, task);
        team_run(stream->team, task->stretches * pieces_of(a->out, PANEL), panel_dweight, task);
    } else {
        team_run(stream->team, task->stretches * task->blocks, block_dweight, task);
    }
    if (task->stretches > 1)
        team_run(stream->team, pieces_of(a->out * a->in, SUM_ELEMENTS), dweight_sum, task);
}

static void dx_run(struct stream *stream, struct task *task)
{
    const struct linear_backward *a = task->a;
    const bool bf16 = a->precision == PRECISION_BF16;
    team_run(stream->team, pieces_of(a->out, COPY_ROWS), bf16 ? weight_round : weight_copy, task);
    if (bf16) team_run(stream->team, pieces_of(a->rows, COPY_ROWS), dy_round, task);
    team_run(stream->team, pieces_of(a->rows, TILE_ROWS) * pieces_of(a->in, TILE_COLUMNS),
             bf16 ? tile_dx_bf16 : tile_dx, task);
}

enum status CPU(linear_backward)(struct stream *stream, const struct linear_backward *arguments)
{
    struct task task;
    task_plan(&task, arguments, team_threads(stream->team), stream->scratch);
    dweight_run(stream, &task);
    if (arguments->dx) dx_run(stream, &task);
    return gemm_outcome();
}
