#ifndef KERNELS_CPU_FAVOR_H
#define KERNELS_CPU_FAVOR_H

/*
 * Features of FAVOR+ (Choromanski et al. 2021, Lemma 1 and section 2.3; design: numbers), tile by tile.
 *
 * A kernel is a map from projections ω_i . x̃ to features, and the way back. Logarithms are to base 2: where the map
 * is an exponential, a tile holds ω_i . x̃ log2 e, so that it is one of base 2. Factors that all features share (1 / √m)
 * cancel in the quotient, forward and backward, and are left out.
 * A row of values is followed by a one, so that numerator and denominator are one product.
 */

#include <math.h>
#include <string.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/pieces.h"

struct favor {
    const struct attention *call;
    enum attention_kernel kernel;
    bool base_two; /* softmax-positive and -hyperbolic, exp: projections are to base 2 */
    bool
        floor_cancels; /* softmax-trig, exp: ε is scaled with the shift, which cancels as a whole */
    bool changes_sign;     /* so that a denominator can be anything */
    bool kept;             /* projections follow a row's features, for their derivative */
    int64_t projections;   /* of a row: m; elu1: d, x itself */
    int64_t features;      /* columns: m; softmax-hyperbolic and -trig: 2 m; elu1: d */
    int64_t stride;        /* of a row of features and what follows it */
    int64_t values;        /* e + 1, rounded up for the products' sake; 0 behind the one */
    int64_t values_stride; /* of a row of values */
    float input_scale;     /* d^-1/4; elu1: 1 */
    float half_square;     /* of ‖x‖²: log2 e / (2 √d); 0 where the norm has no part */
    float least; /* exp: the shift is no less than log2 ε, so that ε stays finite; else -inf */
    float *projection; /* (d, stride): ωᵀ input_scale, times log2 e where to base 2 */
};

/* Everything but the projection's memory, of favor_projection_floats, which the caller sets. */
struct favor CPU(favor_geometry)(const struct attention *call, bool backward);
int64_t CPU(favor_projection_floats)(const struct favor *favor);
void CPU(favor_projection_fill)(const struct favor *favor);

/* tile (count, stride): ω_i . x̃ of rows x */
void CPU(favor_project)(const struct favor *favor, struct rows x, int64_t count, float *tile,
                        int64_t stride);

/* From projections of rows x to features of queries, in place: each row by its own shift. floor[t]: what was
 * added to the features of row t, ε or what the shift made of it. */
void CPU(favor_queries)(const struct favor *favor, struct rows x, int64_t count, float *tile,
                        int64_t stride, float *floor);

/* Of each projected key: half[s] = ‖x̃_s‖² / 2; largest[s], the shift that it asks for: max_i a_i, or what stands for
 * it; -inf where it is masked. Both to base 2; 0 and 0 where the kernel is not shifted. */
void CPU(favor_key_sizes)(const struct favor *favor, struct rows x, const uint8_t *mask,
                          int64_t count, const float *tile, float *half, float *largest);

/* From projections to features of keys, in place: f(a - unit) + floor[s]; 0 where masked. */
void CPU(favor_keys)(const struct favor *favor, const uint8_t *mask, int64_t count, float unit,
                     const float *half, const float *floor, float *tile);

/* ε of a key whose running maximum is `maximum`, relative to unit. */
float CPU(favor_floor)(const struct favor *favor, float maximum, float unit);

/* Room for a block of keys. */
struct favor_block {
    float *features, *values;      /* (count, stride) (count, values_stride) */
    float *half, *largest, *floor; /* (count); floor: zeros */
};

/* sums (m, values_stride), relative to *unit, takes in Σ_s f(a_s - unit) (v_s, 1)ᵀ of a block of keys, without
 * their ε; *unit grows to their maximum. `first`: sums is written, *unit is -inf. The block is left filled. */
void CPU(favor_sum_keys)(const struct favor *favor, struct rows k, struct rows v,
                         const uint8_t *mask, int64_t count, const struct favor_block *block,
                         bool first, float *sums, float *unit);

/* What comes back through features to x: dfeatures (count, stride) becomes da = dφ ∂φ/∂a, and
 * dx = d^-1/4 (Σ da_i ω_i ± (Σ dφ_i f_i) x̃), the second term where the norm has a part: - of softmax-positive and
 * -hyperbolic, + of softmax-trig. floor[s] is what was added to the features of row s; mask NULL: all rows count. */
void CPU(favor_features_backward)(const struct favor *favor, struct rows x, const uint8_t *mask,
                                  int64_t count, const float *features, int64_t features_stride,
                                  const float *floor, float *dfeatures, struct rows dx);

/* values[s] = (v_s, 1, 0 ...) */
void CPU(favor_values)(const struct favor *favor, struct rows v, int64_t count, float *values);

/* out = numerator / denominator, 0 where there is no denominator; 1 / denominator to inverse, if not NULL. */
void CPU(favor_divide)(const struct favor *favor, const float *quotient, int64_t count,
                       struct rows out, float *inverse);

/* gradients[t] = (dout_t / denominator, -(dout_t . out_t) / denominator, 0 ...): what comes back to numerator and
 * denominator */
void CPU(favor_divide_backward)(const struct favor *favor, struct rows dout, struct rows out,
                                const float *inverse, int64_t count, float *gradients);

/* 2^(from - to) of running maxima, -inf before the first key. */
float CPU(favor_decay)(float from, float to);
void CPU(favor_scale)(float *x, int64_t count, float factor);

#endif
