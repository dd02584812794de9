/* Operations on flat arrays: add, sum of squares, GELU backward. */

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(add)
CPU_WITHOUT_SCRATCH(gelu_backward)

/* Elements of a piece. */
enum { ELEMENTS = 16384 };

static void elements_add(void *context, int64_t piece, int thread)
{
    const struct add *a = context;
    const struct range range = piece_range(piece, ELEMENTS, a->count);
    const float *restrict x = a->x + range.from;
    float *restrict y = a->y + range.from;
    (void)thread;
    for (int64_t i = 0; i < range.count; i++) y[i] += x[i];
}

enum status CPU(add)(struct stream *stream, const struct add *arguments)
{
    team_run(stream->team, pieces_of(arguments->count, ELEMENTS), elements_add, (void *)arguments);
    return ST_OK;
}

static void elements_gelu_backward(void *context, int64_t piece, int thread)
{
    const struct gelu_backward *a = context;
    const struct range range = piece_range(piece, ELEMENTS, a->count);
    const float *u = a->u + range.from, *dy = a->dy + range.from;
    float *du = a->du + range.from;
    int64_t i = 0;
    (void)thread;

    for (; i + LANES <= range.count; i += LANES) {
        const floats at = lanes_load(u + i);
        const struct normal normal = lanes_normal(at);
        lanes_store(du + i, lanes_load(dy + i) * lanes_fma(at, normal.density, normal.below));
    }
    const int64_t left = range.count - i;
    if (left == 0) return;
    const floats at = lanes_load_part(u + i, left, 0);
    const struct normal normal = lanes_normal(at);
    lanes_store_part(du + i,
                     lanes_load_part(dy + i, left, 0) * lanes_fma(at, normal.density, normal.below),
                     left);
}

enum status CPU(gelu_backward)(struct stream *stream, const struct gelu_backward *arguments)
{
    team_run(stream->team, pieces_of(arguments->count, ELEMENTS), elements_gelu_backward,
             (void *)arguments);
    return ST_OK;
}

/* A sum for each piece. */
size_t CPU(sum_squares_scratch)(const struct sum_squares *arguments, int threads)
{
    (void)threads;
    return (size_t)pieces_of(arguments->count, ELEMENTS) * sizeof(double);
}

struct square_sums {
    const struct sum_squares *arguments;
    double *sums;
};

static void elements_square(void *context, int64_t piece, int thread)
{
    const struct square_sums *task = context;
    const struct range range = piece_range(piece, ELEMENTS, task->arguments->count);
    const float *x = task->arguments->x + range.from;
    doubles low = {0}, high = {0};
    (void)thread;

    for (int64_t i = 0; i < range.count; i += LANES) {
        const int64_t left = range.count - i;
        const struct double_pair wide =
            lanes_widen(left >= LANES ? lanes_load(x + i) : lanes_load_part(x + i, left, 0));
        low += wide.low * wide.low;
        high += wide.high * wide.high;
    }
    task->sums[piece] = lanes_sum_double(low + high);
}

enum status CPU(sum_squares)(struct stream *stream, const struct sum_squares *arguments)
{
    const int64_t pieces = pieces_of(arguments->count, ELEMENTS);
    struct square_sums task = {arguments, stream->scratch};
    double sum = 0;

    team_run(stream->team, pieces, elements_square, &task);
    for (int64_t piece = 0; piece < pieces; piece++) sum += task.sums[piece];
    *arguments->sum = sum;
    return ST_OK;
}
