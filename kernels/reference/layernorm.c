#include "kernels/reference/reference.h"

#include <math.h>
#include <string.h>

/* Ba et al. 2016, with the biased variance. */
static const double EPSILON = 1e-5;

REFERENCE_WITHOUT_SCRATCH(layernorm)

enum status reference_layernorm(struct stream *stream, const struct layernorm *arguments)
{
    (void)stream;
    const int64_t width = arguments->width;

    for (int64_t r = 0; r < arguments->rows; r++) {
        const float *x = arguments->x + r * width;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < width; i++) mean += x[i];
        mean /= (double)width;
        for (int64_t i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
        const double rstd = 1 / sqrt(variance / (double)width + EPSILON);
        for (int64_t i = 0; i < width; i++)
            arguments->y[r * width + i] =
                (float)((x[i] - mean) * rstd * arguments->weight[i] + arguments->bias[i]);
        arguments->mean[r] = (float)mean;
        arguments->rstd[r] = (float)rstd;
    }
    return ST_OK;
}

/* Sums of dweight and dbias over the rows. */
size_t reference_layernorm_backward_scratch(const struct layernorm_backward *arguments, int threads)
{
    (void)threads;
    return 2 * (size_t)arguments->width * sizeof(double);
}

/* With x̂ = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - x̂ mean(g x̂)). */
static void row_backward(const struct layernorm_backward *a, int64_t row, double *dweight,
                         double *dbias)
{
    const int64_t width = a->width;
    const float *x = a->x + row * width, *dy = a->dy + row * width;
    const double mean = a->mean[row], rstd = a->rstd[row];
    double mean_g = 0, mean_gx = 0;

    for (int64_t i = 0; i < width; i++) {
        const double normal = (x[i] - mean) * rstd, g = (double)dy[i] * a->weight[i];
        mean_g += g / (double)width;
        mean_gx += g * normal / (double)width;
        dweight[i] += dy[i] * normal;
        dbias[i] += dy[i];
    }
    for (int64_t i = 0; i < width; i++) {
        const double normal = (x[i] - mean) * rstd, g = (double)dy[i] * a->weight[i];
        const double residual = a->dresidual ? a->dresidual[row * width + i] : 0;
        a->dx[row * width + i] = (float)(residual + rstd * (g - mean_g - normal * mean_gx));
    }
}

enum status reference_layernorm_backward(struct stream *stream,
                                         const struct layernorm_backward *arguments)
{
    const int64_t width = arguments->width;
    double *dweight = stream->scratch, *dbias = dweight + width;

    memset(dweight, 0, 2 * (size_t)width * sizeof *dweight);
    for (int64_t r = 0; r < arguments->rows; r++) row_backward(arguments, r, dweight, dbias);
    for (int64_t i = 0; i < width; i++) {
        arguments->dweight[i] = (float)dweight[i];
        arguments->dbias[i] = (float)dbias[i];
    }
    return ST_OK;
}
