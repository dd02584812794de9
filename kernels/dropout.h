#ifndef KERNELS_DROPOUT_H
#define KERNELS_DROPOUT_H

/*
 * Which activations are dropped: part of the definition of a run's bits, the same
 * for every backend. Column j of row r is dropped where philox_uniform(word j % 4 of
 * philox_draw(seed, PURPOSE_DROPOUT, site, {step, sequence, position * ceil(width /
 * 4) + j / 4})) < rate; sequence and position of a row: struct dropout_key.
 */

#include "kernels/backend.h"

/* What row `row` of so many columns is multiplied by: factors[j] is 0 or 1 / (1 - rate). */
void dropout_factors(const struct dropout_key *key, int64_t row, int64_t width, float *factors);

#endif
