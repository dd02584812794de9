#ifndef KERNELS_PROJECTION_H
#define KERNELS_PROJECTION_H

/*
 * Gaussians and the random projections of attention: one routine in double, with logarithm and cosine of our
 * own, no contraction and a single rounding at the end, so that draw k of a run has the same bits on every
 * rank, backend and machine.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kernels/philox.h"
#include "proto/status.h"

/* out[i] = scale * N(0, 1), i < count, element i a function of (seed, purpose, layer, i) alone. */
void gaussian_fill(uint64_t seed, enum purpose purpose, uint32_t layer, int64_t count, double scale,
                   float *out);

/* The same for draw number `draw`: with each redraw other numbers. Draw 0 is gaussian_fill. */
void gaussian_draw(uint64_t seed, enum purpose purpose, uint32_t layer, uint32_t draw,
                   int64_t count, double scale, float *out);

/* cos and sin of 2π turn / 2^53, turn < 2^53, by the same arithmetic. */
void unit_circle(uint64_t turn, double point[2]);

struct projection_draw {
    uint64_t seed;
    uint32_t layer;
    uint32_t draw;         /* 0 at the start of a run, then one more with each redraw */
    int64_t features, dim; /* m, d */
    bool orthogonal;  /* blocks of d rows from Gram-Schmidt of Gaussian rows: Haar (paper.md 1.5) */
    bool regularized; /* rows of length sqrt(d) (SMREG), else of a chi_d length of their own */
};

/* Writes `out` (m, d). `work` holds m * d doubles. Cannot fail; does not allocate. */
void projection_fill(const struct projection_draw *draw, double *work, float *out);

/* Largest |cosine| between two rows of one block of d rows: 0 up to rounding where orthogonal. */
double projection_defect(int64_t features, int64_t dim, const float *projection);

#endif
