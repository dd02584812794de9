#include "kernels/reference/reference.h"

#include <assert.h>
#include <string.h>

#include "kernels/dropout.h"

/* A row of factors. */
size_t reference_embed_scratch(const struct embed *arguments, int threads)
{
    (void)threads;
    return (size_t)arguments->width * sizeof(float);
}

enum status reference_embed(struct stream *stream, const struct embed *arguments)
{
    const int64_t width = arguments->width, length = arguments->dropout.length;
    float *factors = stream->scratch;

    for (int64_t r = 0; r < arguments->rows; r++) {
        const int32_t id = arguments->ids[r];
        assert(id >= 0 && id < arguments->vocab);
        const float *token = arguments->tokens + id * width;
        const float *position =
            arguments->positions ? arguments->positions + r % length * width : NULL;
        dropout_factors(&arguments->dropout, r, width, factors);
        for (int64_t i = 0; i < width; i++)
            arguments->y[r * width + i] =
                (float)(factors[i] * ((double)token[i] + (position ? position[i] : 0)));
    }
    return ST_OK;
}

static int64_t longer_table(const struct embed_backward *a)
{
    return a->vocab > a->positions ? a->vocab : a->positions;
}

/* A row of factors behind the sums of a table. */
size_t reference_embed_backward_scratch(const struct embed_backward *arguments, int threads)
{
    (void)threads;
    return (size_t)(longer_table(arguments) * arguments->width) * sizeof(double) +
           (size_t)arguments->width * sizeof(float);
}

/* table[place(row)] = sum of what comes back to the rows of that place */
static void table_gradient(const struct embed_backward *a, bool by_token, int64_t entries,
                           double *sums, float *factors, float *table)
{
    const int64_t width = a->width;
    memset(sums, 0, (size_t)(entries * width) * sizeof *sums);
    for (int64_t r = 0; r < a->rows; r++) {
        const int64_t place = by_token ? a->ids[r] : r % a->dropout.length;
        assert(place >= 0 && place < entries);
        dropout_factors(&a->dropout, r, width, factors);
        for (int64_t i = 0; i < width; i++)
            sums[place * width + i] += (double)factors[i] * a->dy[r * width + i];
    }
    for (int64_t i = 0; i < entries * width; i++) table[i] = (float)sums[i];
}

enum status reference_embed_backward(struct stream *stream, const struct embed_backward *arguments)
{
    double *sums = stream->scratch;
    float *factors = (float *)(sums + longer_table(arguments) * arguments->width);

    table_gradient(arguments, true, arguments->vocab, sums, factors, arguments->dtokens);
    if (arguments->dpositions)
        table_gradient(arguments, false, arguments->positions, sums, factors,
                       arguments->dpositions);
    return ST_OK;
}
