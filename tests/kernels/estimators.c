/*
 * The estimators of exp(x . y) against theory: mean squared errors of softmax-trig, -positive and -hyperbolic with
 * independent projections (Choromanski et al. 2021, Lemma 2), and what orthogonal ones gain (Theorem 2). The features are
 * those of the reference, the projections those of a run; seeds are fixed, so that the outcome is too.
 */

#include <criterion/criterion.h>

#include "kernels/projection.h"
#include "kernels/reference/favor.c" /* its features are within it */

enum { D = 8, M = 8, DRAWS = 20000, SCRATCH = 1024 };

/* Two vectors of one length and the angle between them. */
static const struct pair {
    double length, angle;
} pairs[] = {{0.5, 0.4}, {0.6, 1.5707963267948966}, {0.7, 2.3}};

/* x̃ = x d^(-1/4), so the inputs are larger than x by d^(1/4). */
static void pair_fill(const struct pair *pair, float *x, float *y)
{
    const double length = pair->length * pow(D, 0.25);
    for (int i = 0; i < D; i++) x[i] = y[i] = 0;
    x[0] = (float)length;
    y[0] = (float)(length * cos(pair->angle));
    y[1] = (float)(length * sin(pair->angle));
}

static double estimate(enum attention_kernel kernel, const float *projection, float *x, float *y)
{
    static double scratch[SCRATCH];
    const struct attention call = {.kind = ATTENTION_FAVOR,
                                   .kernel = kernel,
                                   .batch = 1,
                                   .heads = 1,
                                   .length = 1,
                                   .head_dim = D,
                                   .value_dim = 1,
                                   .features = M,
                                   .projection = projection};
    const struct head head = {.call = &call, .q = {x, D}, .k = {y, D}};
    cr_assert(reference_favor_doubles(&call) <= SCRATCH);
    const struct favor favor = favor_prepare(&head, scratch);
    double sum = 0;
    for (int64_t i = 0; i < favor.count; i++) sum += favor.query.value[i] * favor.key.value[i];
    return sum * exp(favor.query.shift[0] + favor.key.shift[0]);
}

/* Mean squared error over all draws, and its own standard error. */
struct measured {
    double error, uncertainty;
};

static struct measured measure(enum attention_kernel kernel, bool orthogonal,
                               const struct pair *pair)
{
    float x[D], y[D], projection[M * D];
    double work[M * D], sum = 0, squares = 0;
    pair_fill(pair, x, y);
    const double exact = exp(pair->length * pair->length * cos(pair->angle));
    for (uint32_t draw = 0; draw < DRAWS; draw++) {
        projection_fill(
            &(struct projection_draw){
                .seed = 5, .draw = draw, .features = M, .dim = D, .orthogonal = orthogonal},
            work, projection);
        const double square = pow(estimate(kernel, projection, x, y) - exact, 2);
        sum += square;
        squares += square * square;
    }
    const double mean = sum / DRAWS;
    return (struct measured){mean, sqrt((squares / DRAWS - mean * mean) / DRAWS)};
}

/* With Δ = x - y, z = x + y. */
static double theory(enum attention_kernel kernel, const struct pair *pair)
{
    const double square = pair->length * pair->length, cosine = cos(pair->angle);
    const double delta = 2 * square * (1 - cosine), z = 2 * square * (1 + cosine);
    const double exact = exp(square * cosine);
    const double positive = exp(z) * exact * exact * (1 - exp(-z)) / M;
    switch (kernel) {
    case KERNEL_SOFTMAX_TRIG:
        return exp(z) / (exact * exact) * pow(1 - exp(-delta), 2) / (2 * M);
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return positive * (1 - exp(-z)) / 2;
    default:
        return positive;
    }
}

Test(estimators, errors_are_those_of_the_lemma)
{
    static const enum attention_kernel kernels[] = {KERNEL_SOFTMAX_TRIG, KERNEL_SOFTMAX_POSITIVE,
                                                    KERNEL_SOFTMAX_HYPERBOLIC};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        for (size_t k = 0; k < sizeof kernels / sizeof kernels[0]; k++) {
            const struct measured measured = measure(kernels[k], false, &pairs[i]);
            const double expected = theory(kernels[k], &pairs[i]);
            cr_expect(fabs(measured.error - expected) < 4 * measured.uncertainty,
                      "%s, length %g, angle %g: %.5g ± %.2g, not %.5g",
                      attention_kernel_text(kernels[k]), pairs[i].length, pairs[i].angle,
                      measured.error, measured.uncertainty, expected);
            cr_expect(measured.uncertainty < 0.06 * expected, "%g of %g", measured.uncertainty,
                      expected);
        }
    }
}

/* At least 2 (m - 1) / (m (d + 2)) (SM - Λ)² less, Λ = exp(-(‖x‖² + ‖y‖²) / 2). */
Test(estimators, orthogonal_projections_gain_what_the_theorem_says)
{
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const struct measured measured = measure(KERNEL_SOFTMAX_POSITIVE, true, &pairs[i]);
        const double square = pairs[i].length * pairs[i].length;
        const double apart = exp(square * cos(pairs[i].angle)) - exp(-square);
        const double gain = 2.0 * (M - 1) / (M * (D + 2)) * apart * apart;
        const double independent = theory(KERNEL_SOFTMAX_POSITIVE, &pairs[i]);
        cr_expect(measured.error < independent - gain + 4 * measured.uncertainty,
                  "length %g, angle %g: %.5g ± %.2g, at most %.5g", pairs[i].length, pairs[i].angle,
                  measured.error, measured.uncertainty, independent - gain);
        cr_expect(measured.error + 4 * measured.uncertainty < independent,
                  "length %g, angle %g: %.5g ± %.2g, independent ones have %.5g", pairs[i].length,
                  pairs[i].angle, measured.error, measured.uncertainty, independent);
    }
}
