#include "kernels/cpu/dropout_lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(dropout)

enum { ROWS = 64 };

static void rows_drop(void *context, int64_t piece, int thread)
{
    const struct dropout *a = context;
    const struct range rows = piece_range(piece, ROWS, a->rows);
    (void)thread;
    for (int64_t r = rows.from; r < rows.from + rows.count; r++) {
        const int64_t at = r * a->width;
        if (a->key.rate > 0) {
            const struct dropout_row row = dropout_row(&a->key, r, a->width);
            dropout_apply(&row, 0, a->width, a->x + at, NULL, a->y + at);
        } else if (a->x != a->y) {
            memcpy(a->y + at, a->x + at, (size_t)a->width * sizeof(float));
        }
    }
}

enum status CPU(dropout)(struct stream *stream, const struct dropout *arguments)
{
    if (arguments->key.rate == 0 && arguments->x == arguments->y) return ST_OK;
    team_run(stream->team, pieces_of(arguments->rows, ROWS), rows_drop, (void *)arguments);
    return ST_OK;
}
