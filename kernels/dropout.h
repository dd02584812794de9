#ifndef KERNELS_DROPOUT_H
#define KERNELS_DROPOUT_H

/*
 * Which activations are dropped: part of the definition of a run's bits, the same
 * for every backend. Column j of row r is dropped where philox_uniform(word j % 4 of
 * philox_draw(seed, PURPOSE_DROPOUT, site + 2^12 (place / 2^32), {step, sequence, place % 2^32})) < rate, with
 * place = position * ceil(width / 4) + j / 4, below 2^44; sequence and position of a row: struct dropout_key.
 */

#include "kernels/backend.h"

/* Bits of the counter's last word that tell sites apart; what is left of it beside the purpose counts places. */
enum { DROPOUT_SITE_BITS = 12 };

/* What row `row` of so many columns is multiplied by: factors[j] is 0 or 1 / (1 - rate). */
void dropout_factors(const struct dropout_key *key, int64_t row, int64_t width, float *factors);

#endif
