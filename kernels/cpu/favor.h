#ifndef KERNELS_CPU_FAVOR_H
#define KERNELS_CPU_FAVOR_H

/*
 * Features of FAVOR+ (Choromanski et al. 2021, Lemma 1 and section 2.3; design: numbers), tile by tile.
 *
 * A kernel is a map from projections ω_i . x̃ to features, and the way back. Logarithms are to base 2: where the map
 * is an exponential, a tile holds a_i = ω_i . x̃ log2 e, so that it is one of base 2. Factors that all features share
 * (1 / √m) cancel in the quotient, forward and backward, and are left out.
 *
 * In a tile a feature is a row and a position a column. So maxima and sums over features go down registers and never
 * across them, and every product is one of operand.h on matrices as they lie. In bf16 the projection's product and the
 * denominators stay fp32 (backend.h).
 *
 * S and U have a row for each feature: the sums of features times values, and behind them, in column e, the sum of
 * features times ones: numerator and denominator.
 */

#include <math.h>
#include <string.h>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/operand.h"
#include "kernels/cpu/pieces.h"
#include "kernels/cpu/product.h"

enum {
    FAVOR_POSITIONS = 128,              /* of a tile at most */
    FAVOR_STRIDE = FAVOR_POSITIONS + 16 /* of its rows: gemm.h says why */
};

struct favor {
    const struct attention *call;
    enum attention_kernel kernel;
    bool base_two; /* softmax-positive and -hyperbolic, exp: projections are to base 2 */
    bool
        floor_cancels; /* softmax-trig, exp: ε is scaled with the shift, which cancels as a whole */
    bool changes_sign;     /* so that a denominator can be anything */
    bool kept;             /* projections follow the features, for their derivative */
    int64_t projections;   /* of a position: m; elu1: d, x itself */
    int64_t features;      /* rows: m; softmax-hyperbolic and -trig: 2 m; elu1: d */
    int64_t values_stride; /* of a row of S, U, or e + 1 values */
    int64_t state;         /* floats of S or U */
    float half_square; /* of ‖x‖², to base 2: log2 e / (2 √d); 0 where the norm has no part */
    float least; /* exp: the shift is no less than log2 ε, so that ε stays finite; else -inf */
    float *projection;                 /* (m, d): ω d^-1/4, times log2 e where to base 2 */
    uint32_t *projection_room;         /* backward */
    struct operand projection_columns; /* backward: the same */
};

/* Features of up to FAVOR_POSITIONS positions, and a number of each for every position. */
struct favor_tile {
    float *features; /* (features, FAVOR_STRIDE), and the kept projections behind them */
    float *input;    /* (d, FAVOR_STRIDE): xᵀ */
    float *present;  /* 1: is a query, or a key that is not masked; else 0 */
    float *half;     /* ‖x̃‖² / 2 to base 2, or 0 */
    float *
        maximum; /* of a key: the shift that it asks for, to base 2; the causal walk: of all up to it */
    float *unit;  /* what the features are relative to, to base 2 */
    float *floor; /* what was added to the features, ε or what the shift made of it */
};

/* Room for what products read in bf16, for so many positions as favor_rooms_take was told; NULLs in fp32. */
struct favor_rooms {
    uint32_t *rows;                             /* features (features, positions) */
    uint32_t *columns, *other_columns;          /* features (features, positions), of two sides */
    uint32_t *state_rows;                       /* (features, e + 1) */
    uint32_t *state_columns;                    /* (features, e) */
    uint32_t *values;                           /* columns (positions, e): v, g */
    uint32_t *gradient_columns, *value_columns; /* (e + 1, positions): gᵀ, (v, 1)ᵀ */
};

/* Everything but the projection, of which favor_projection_take takes the memory. */
struct favor CPU(favor_geometry)(const struct attention *call, bool backward);
void CPU(favor_projection_take)(struct favor *favor, bool backward, struct scratch *scratch);
void CPU(favor_projection_fill)(struct favor *favor);

struct favor_rooms CPU(favor_rooms_take)(const struct favor *favor, int64_t positions,
                                         bool backward, struct scratch *scratch);

struct favor_tile CPU(favor_tile_take)(const struct favor *favor, struct scratch *scratch);

/* A matrix of a tile (rows, FAVOR_STRIDE), summed along `count` positions; or along its rows. */
static inline struct operand tile_rows(int64_t rows, int64_t count, const float *x, uint32_t *room)
{
    return CPU(operand_rows)(rows, count, x, FAVOR_STRIDE, room);
}

static inline struct operand tile_columns(int64_t rows, int64_t count, const float *x,
                                          uint32_t *room)
{
    return CPU(operand_columns)(rows, count, x, FAVOR_STRIDE, room);
}

/* S or U, summed along numerator and denominator; the numerator's, summed along features. */
static inline struct operand state_rows(const struct favor *favor, const float *state,
                                        const struct favor_rooms *rooms)
{
    return CPU(operand_rows)(favor->features, favor->call->value_dim + 1, state,
                             favor->values_stride, rooms->state_rows);
}

static inline struct operand state_columns(const struct favor *favor, const float *state,
                                           const struct favor_rooms *rooms)
{
    return CPU(operand_columns)(favor->features, favor->call->value_dim, state,
                                favor->values_stride, rooms->state_columns);
}

/* to (width, FAVOR_STRIDE) = xᵀ, zeros behind it up to whole registers */
void CPU(favor_transpose)(struct rows x, int64_t count, int64_t width, float *to);

/* Features of queries, each position by its own shift. */
void CPU(favor_queries)(const struct favor *favor, struct rows x, int64_t count,
                        const struct favor_tile *tile);

/* Projections of keys, and of each: present, half and maximum, which is -inf where it is masked. Maximum is 0 where the
 * kernel is not shifted. */
void CPU(favor_key_sizes)(const struct favor *favor, struct rows x, const uint8_t *mask,
                          int64_t count, const struct favor_tile *tile);

/* From projections to features of keys, in place: f(a - unit) + floor; 0 where not present. */
void CPU(favor_keys)(const struct favor *favor, int64_t count, const struct favor_tile *tile);

/* ε of a key whose running maximum is `maximum`, relative to unit. */
float CPU(favor_floor)(const struct favor *favor, float maximum, float unit);

/* What comes back through features to x: dfeatures (features, FAVOR_STRIDE) becomes da = dφ ∂φ/∂a, and
 * dx = Σ da_i ∂a_i/∂x ± (Σ dφ_i f_i) ∂(‖x̃‖² / 2)/∂x, the second term where the norm has a part: - of softmax-positive and
 * -hyperbolic, + of softmax-trig. The tile's positions are those from `from` on, x's and dfeatures' start at 0. `room`:
 * of columns, for dfeatures. */
void CPU(favor_features_backward)(const struct favor *favor, struct rows x, int64_t from,
                                  int64_t count, const struct favor_tile *tile, float *dfeatures,
                                  uint32_t *room, struct rows dx);

/* state = Σ_s φ_s (b_s, weight_s)ᵀ, or added to it; features rows (features, count), b columns (count, e) */
void CPU(favor_state_add)(const struct favor *favor, int64_t count, struct operand features,
                          struct operand b, const float *weight, bool add, float *state);

/* sums, relative to *unit, takes in Σ_s f(a_s - unit) (v_s, 1)ᵀ of a block of keys, without their ε; *unit grows to their
 * maximum. `first`: sums is written, *unit is -inf. */
void CPU(favor_sum_keys)(const struct favor *favor, struct rows k, struct rows v,
                         const uint8_t *mask, int64_t count, const struct favor_tile *tile,
                         const struct favor_rooms *rooms, bool first, float *sums, float *unit);

/* quotient (count, values_stride) = φ_tᵀ S, denominator (count) its last column; features columns (features, count),
 * state columns (features, e) */
void CPU(favor_query_state)(const struct favor *favor, int64_t count, struct operand features,
                            struct operand state, float *quotient, float *denominator);

/* out = quotient / denominator, 0 where there is no denominator; 1 / denominator to inverse, if not NULL. */
void CPU(favor_divide)(const struct favor *favor, const float *quotient, const float *denominator,
                       int64_t count, struct rows out, float *inverse);

/* gradients[t] = (dout_t / denominator, -(dout_t . out_t) / denominator): what comes back to numerator and
 * denominator */
void CPU(favor_divide_backward)(const struct favor *favor, struct rows dout, struct rows out,
                                const float *inverse, int64_t count, float *gradients);

/* 2^(from - to) of running maxima, -inf before the first key. */
float CPU(favor_decay)(float from, float to);
void CPU(favor_scale)(float *x, int64_t count, float factor);

#endif
