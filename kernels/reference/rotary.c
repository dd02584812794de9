#include "kernels/reference/reference.h"

REFERENCE_WITHOUT_SCRATCH(rotary)

static void row_turn(int64_t dim, const float *table, double direction, float *x)
{
    for (int64_t i = 0; i + 1 < dim; i += 2) {
        const double cosine = table[i], sine = direction * table[i + 1];
        const double first = x[i], second = x[i + 1];
        x[i] = (float)(first * cosine - second * sine);
        x[i + 1] = (float)(first * sine + second * cosine);
    }
}

enum status reference_rotary(struct stream *stream, const struct rotary *arguments)
{
    const struct heads_view *x = &arguments->x;
    const int64_t dim = arguments->head_dim;
    (void)stream;

    for (int64_t b = 0; b < arguments->batch; b++)
        for (int64_t h = 0; h < arguments->heads; h++)
            for (int64_t l = 0; l < arguments->length; l++)
                row_turn(dim, arguments->table + l * dim, arguments->back ? -1 : 1,
                         x->data + b * x->batch_stride + h * x->head_stride + l * x->row_stride);
    return ST_OK;
}
