#include "kernels/reference/reference.h"

REFERENCE_WITHOUT_SCRATCH(sum_squares)

enum status reference_sum_squares(struct stream *stream, const struct sum_squares *arguments)
{
    (void)stream;
    double sum = 0;
    for (int64_t i = 0; i < arguments->count; i++) sum += (double)arguments->x[i] * arguments->x[i];
    *arguments->sum = sum;
    return ST_OK;
}
