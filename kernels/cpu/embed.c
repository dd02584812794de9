/* Lookup by rows. Backward by blocks of columns, each of which sees all rows in their order: no two pieces add
 * to the same element. */

#include "kernels/cpu/dropout_lanes.h"
#include "kernels/cpu/pieces.h"

CPU_WITHOUT_SCRATCH(embed)

enum { ROWS = 64, COLUMNS = 64 };

static void rows_embed(void *context, int64_t piece, int thread)
{
    const struct embed *a = context;
    const struct range rows = piece_range(piece, ROWS, a->rows);
    const int64_t width = a->width;
    (void)thread;

    for (int64_t r = rows.from; r < rows.from + rows.count; r++) {
        assert(a->ids[r] >= 0 && a->ids[r] < a->vocab);
        const float *token = a->tokens + a->ids[r] * width;
        float *y = a->y + r * width;
        if (a->positions) {
            const float *position = a->positions + r % a->dropout.length * width;
            for (int64_t i = 0; i < width; i++) y[i] = token[i] + position[i];
        } else {
            memcpy(y, token, (size_t)width * sizeof *y);
        }
        if (a->dropout.rate > 0) {
            const struct dropout_row row = dropout_row(&a->dropout, r, width);
            dropout_apply(&row, 0, width, y, NULL, y);
        }
    }
}

enum status CPU(embed)(struct stream *stream, const struct embed *arguments)
{
    team_run(stream->team, pieces_of(arguments->rows, ROWS), rows_embed, (void *)arguments);
    return ST_OK;
}

/* A row of a block for each thread. */
size_t CPU(embed_backward_scratch)(const struct embed_backward *arguments, int threads)
{
    (void)arguments;
    return (size_t)threads * COLUMNS * sizeof(float);
}

struct backward_task {
    const struct embed_backward *arguments;
    float *rows;
};

static void columns_clear(float *table, int64_t entries, int64_t width, struct range columns)
{
    for (int64_t entry = 0; entry < entries; entry++)
        memset(table + entry * width + columns.from, 0, (size_t)columns.count * sizeof *table);
}

static void columns_add(float *restrict sum, const float *restrict x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) sum[i] += x[i];
}

static void columns_backward(void *context, int64_t piece, int thread)
{
    const struct backward_task *task = context;
    const struct embed_backward *a = task->arguments;
    const struct range columns = piece_range(piece, COLUMNS, a->width);
    const int64_t width = a->width, length = a->dropout.length;
    float *own = task->rows + thread * COLUMNS;

    columns_clear(a->dtokens, a->vocab, width, columns);
    if (a->dpositions) columns_clear(a->dpositions, a->positions, width, columns);
    for (int64_t r = 0; r < a->rows; r++) {
        assert(a->ids[r] >= 0 && a->ids[r] < a->vocab);
        const float *dy = a->dy + r * width + columns.from;
        if (a->dropout.rate > 0) {
            const struct dropout_row row = dropout_row(&a->dropout, r, width);
            dropout_apply(&row, columns.from, columns.count, dy, NULL, own);
            dy = own;
        }
        columns_add(a->dtokens + a->ids[r] * width + columns.from, dy, columns.count);
        if (a->dpositions)
            columns_add(a->dpositions + r % length * width + columns.from, dy, columns.count);
    }
}

enum status CPU(embed_backward)(struct stream *stream, const struct embed_backward *arguments)
{
    struct backward_task task = {arguments, stream->scratch};
    team_run(stream->team, pieces_of(arguments->width, COLUMNS), columns_backward, &task);
    return ST_OK;
}
