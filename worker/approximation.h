#ifndef WORKER_APPROXIMATION_H
#define WORKER_APPROXIMATION_H

/*
 * How good favor's approximation is, measured on what a layer's attention has just computed.
 *
 * Rows are sampled, so that the cost is O(rows * L * d) for exact attention and O(L * m * d) for the sums of features, never
 * L²: about one more forward pass of the layer's attention. In each (sequence, head), APPROXIMATION_ROWS rows are drawn with
 * replacement, each of the rows that are keys with the same chance; all of them once where there are no more. The draws are the words
 * of philox_draw(seed, PURPOSE_ROW_SAMPLE, layer, {sequence, head, 0, 1, ...}) in order: with n rows, a word w below
 * 2^32 - 2^32 mod n is row w mod n, another is passed over. They do not depend on the step, so that values of different
 * steps compare.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

enum { APPROXIMATION_ROWS = 32 };

struct approximation {
    /* ‖out - exact‖ / ‖exact‖ over the sampled rows of all sequences and heads, exact = softmax(q kᵀ / √d) v of the
     * same q, k and v. NaN where attention has no exact counterpart. */
    double error;
    /* The smallest cosine between φ(q) and the sum of the φ(k) that it sees, whose product is the denominator. No shift
     * and no scale of features changes it; its inverse is by how much rounding of the product is magnified, and it is
     * below 0 where a denominator is. */
    double denominator_min;
    /* The share of features that are 0 or smaller than the ε added to them, of the sampled rows as queries and as keys. */
    double saturated;
    /* projection_defect of kernels/projection.h; NaN where there is no projection. */
    double orthogonality;
};

/* Favor of any kernel can be measured; the kernels that estimate softmax have an error (proto/jobspec.h). */
bool approximation_measurable(enum attention_kind kind);

/* Bytes of work memory for attention of this kernel and shape, or of fewer sequences. */
size_t approximation_work_bytes(const struct attention *attention, int threads);

/*
 * Measures `attention`, whose out is filled. Sums are in double and taken in a fixed order: the same bits for any
 * number of threads. `work` is aligned for doubles.
 */
void approximation_measure(const struct attention *attention, uint64_t seed, uint32_t layer,
                           struct team *team, void *work, struct approximation *approximation);

#endif
