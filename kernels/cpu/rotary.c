/* Rotary positions: by rows of the batch, all heads of a row while its angles are in the first cache. */

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(rotary)

enum { ROWS = 64 };

static inline floats lanes_pick(floats x, ints lanes)
{
    return __builtin_shuffle(x, lanes);
}

/* x cos + (its neighbour in the pair) (± sin). Behind an odd last column the sine reads as 0. */
static void head_turn(int64_t dim, const float *table, floats signs, float *x)
{
    const ints lanes = lanes_numbers();
    for (int64_t i = 0; i < dim; i += LANES) {
        const floats at = lanes_load_row(x, i, dim, 0), angle = lanes_load_row(table, i, dim, 0);
        const floats cosine = lanes_pick(angle, lanes & ~1);
        const floats sine = lanes_pick(angle, lanes | 1) * signs;
        lanes_store_row(x, i, dim, lanes_fma(lanes_pick(at, lanes ^ 1), sine, at * cosine));
    }
}

/* - for the first of a pair, + for the second, or the other way round. */
static floats signs_of(bool back)
{
    const floats second = __builtin_convertvector(lanes_numbers() & 1, floats);
    const floats forward = second * 2 - 1;
    return back ? -forward : forward;
}

static void rows_turn(void *context, int64_t piece, int thread)
{
    const struct rotary *a = context;
    const struct range rows = piece_range(piece, ROWS, a->batch * a->length);
    const floats signs = signs_of(a->back);
    (void)thread;

    for (int64_t r = rows.from; r < rows.from + rows.count; r++) {
        const int64_t b = r / a->length, l = r % a->length;
        float *x = a->x.data + b * a->x.batch_stride + l * a->x.row_stride;
        for (int64_t h = 0; h < a->heads; h++)
            head_turn(a->head_dim, a->table + l * a->head_dim, signs, x + h * a->x.head_stride);
    }
}

enum status CPU(rotary)(struct stream *stream, const struct rotary *arguments)
{
    team_run(stream->team, pieces_of(arguments->batch * arguments->length, ROWS), rows_turn,
             (void *)arguments);
    return ST_OK;
}
