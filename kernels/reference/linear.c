#include "kernels/reference/reference.h"

#include <math.h>

#include "kernels/dropout.h"
#include "kernels/reference/product.h"

REFERENCE_WITHOUT_SCRATCH(linear)
REFERENCE_WITHOUT_SCRATCH(linear_backward)
REFERENCE_WITHOUT_SCRATCH(linear_gelu)
REFERENCE_WITHOUT_SCRATCH(gelu_backward)

/* Element (row, column) of x wᵀ + bias. */
static double product(const struct linear *linear, int64_t row, int64_t column)
{
    const float *x = linear->x + row * linear->in, *weight = linear->weight + column * linear->in;
    double sum = linear->bias ? linear->bias[column] : 0;
    for (int64_t i = 0; i < linear->in; i++)
        sum += product_input(linear->precision, x[i]) * product_input(linear->precision, weight[i]);
    return sum;
}

enum status reference_linear(struct stream *stream, const struct linear *arguments)
{
    (void)stream;
    for (int64_t r = 0; r < arguments->rows; r++)
        for (int64_t o = 0; o < arguments->out; o++)
            arguments->y[r * arguments->out + o] = (float)product(arguments, r, o);
    return ST_OK;
}

static void input_gradient(const struct linear_backward *a)
{
    for (int64_t r = 0; r < a->rows; r++) {
        for (int64_t i = 0; i < a->in; i++) {
            double sum = 0;
            for (int64_t o = 0; o < a->out; o++)
                sum += product_input(a->precision, a->dy[r * a->out + o]) *
                       product_input(a->precision, a->weight[o * a->in + i]);
            a->dx[r * a->in + i] = (float)sum;
        }
    }
}

static void weight_gradient(const struct linear_backward *a)
{
    for (int64_t o = 0; o < a->out; o++) {
        for (int64_t i = 0; i < a->in; i++) {
            double sum = 0;
            for (int64_t r = 0; r < a->rows; r++)
                sum += product_input(a->precision, a->dy[r * a->out + o]) *
                       product_input(a->precision, a->x[r * a->in + i]);
            a->dweight[o * a->in + i] = (float)sum;
        }
    }
}

static void bias_gradient(const struct linear_backward *a)
{
    for (int64_t o = 0; o < a->out; o++) {
        double sum = 0;
        for (int64_t r = 0; r < a->rows; r++) sum += a->dy[r * a->out + o];
        a->dbias[o] = (float)sum;
    }
}

enum status reference_linear_backward(struct stream *stream,
                                      const struct linear_backward *arguments)
{
    (void)stream;
    if (arguments->dx) input_gradient(arguments);
    weight_gradient(arguments);
    if (arguments->dbias) bias_gradient(arguments);
    return ST_OK;
}

/* gelu(u) = u Φ(u), Φ the distribution function of N(0, 1) (Hendrycks & Gimpel 2016). */
static double gelu(double u)
{
    return 0.5 * u * (1 + erf(u * M_SQRT1_2));
}

static double gelu_slope(double u)
{
    const double density = exp(-0.5 * u * u) * (M_2_SQRTPI * M_SQRT1_2 / 2);
    return 0.5 * (1 + erf(u * M_SQRT1_2)) + u * density;
}

enum status reference_linear_gelu(struct stream *stream, const struct linear_gelu *arguments)
{
    (void)stream;
    const struct linear *linear = &arguments->linear;
    for (int64_t r = 0; r < linear->rows; r++) {
        for (int64_t o = 0; o < linear->out; o++) {
            const double u = product(linear, r, o);
            arguments->u[r * linear->out + o] = (float)u;
            linear->y[r * linear->out + o] = (float)gelu(u);
        }
    }
    return ST_OK;
}

enum status reference_gelu_backward(struct stream *stream, const struct gelu_backward *arguments)
{
    (void)stream;
    for (int64_t i = 0; i < arguments->count; i++)
        arguments->du[i] = (float)(arguments->dy[i] * gelu_slope(arguments->u[i]));
    return ST_OK;
}

/* A row of factors. */
size_t reference_linear_residual_scratch(const struct linear_residual *arguments, int threads)
{
    (void)threads;
    return (size_t)arguments->linear.out * sizeof(float);
}

enum status reference_linear_residual(struct stream *stream,
                                      const struct linear_residual *arguments)
{
    const struct linear *linear = &arguments->linear;
    float *factors = stream->scratch;

    for (int64_t r = 0; r < linear->rows; r++) {
        dropout_factors(&arguments->dropout, r, linear->out, factors);
        for (int64_t o = 0; o < linear->out; o++) {
            const int64_t at = r * linear->out + o;
            linear->y[at] = (float)(arguments->residual[at] + factors[o] * product(linear, r, o));
        }
    }
    return ST_OK;
}
