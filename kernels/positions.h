#ifndef KERNELS_POSITIONS_H
#define KERNELS_POSITIONS_H

/*
 * Tables of fixed positions. Pair i of n columns is a hand that turns by 10000^(-2i/n) with each position:
 * slower from pair to pair. Angles are whole numbers of 2^-53 of a turn, so that position l stands at exactly l times the
 * first step, and sine and cosine are those of kernels/projection.h: the same bits on every machine.
 */

#include <stdint.h>

/* Vaswani et al. 2017, section 3.5: table (L, width), [l, 2i] the sine and [l, 2i + 1] the cosine of
 * pair i, times `scale`. An odd width ends with a sine. */
void positions_sinusoidal(int64_t length, int64_t width, double scale, float *table);

/* Su et al. 2021 (RoFormer), equation 15: table (L, dim), [l, 2i] the cosine and [l, 2i + 1] the sine of
 * pair i: what `rotary` reads. An odd dim ends with a 1: its last column is not turned. */
void positions_rotary(int64_t length, int64_t dim, float *table);

#endif
