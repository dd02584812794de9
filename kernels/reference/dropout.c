#include "kernels/dropout.h"

#include "kernels/reference/reference.h"

/* A row of factors. */
size_t reference_dropout_scratch(const struct dropout *arguments, int threads)
{
    (void)threads;
    return (size_t)arguments->width * sizeof(float);
}

enum status reference_dropout(struct stream *stream, const struct dropout *arguments)
{
    float *factors = stream->scratch;
    for (int64_t r = 0; r < arguments->rows; r++) {
        dropout_factors(&arguments->key, r, arguments->width, factors);
        for (int64_t i = 0; i < arguments->width; i++) {
            const int64_t at = r * arguments->width + i;
            arguments->y[at] = arguments->x[at] * factors[i];
        }
    }
    return ST_OK;
}
