#ifndef KERNELS_CPU_DROPOUT_LANES_H
#define KERNELS_CPU_DROPOUT_LANES_H

/* The factors of kernels/dropout.h, a register of Philox counters at a time. */

#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cpu/lanes.h"
#include "kernels/dropout.h"
#include "kernels/philox.h"

/* One row's place in the counters. */
struct dropout_row {
    float rate, kept;
    uint32_t key[2];
    uint32_t step, sequence;
    uint32_t purpose_site;
    int64_t first; /* place of the row's first 4 columns */
};

static inline struct dropout_row dropout_row(const struct dropout_key *key, int64_t row,
                                             int64_t width)
{
    return (struct dropout_row){
        .rate = key->rate,
        .kept = 1.0f / (1.0f - key->rate),
        .key = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)},
        .step = key->step,
        .sequence = key->first_sequence + (uint32_t)(row / key->length),
        .purpose_site = (uint32_t)PURPOSE_DROPOUT << 24 | key->site,
        .first = row % key->length * ((width + 3) / 4),
    };
}

static inline void philox_multiply(words x, uint32_t multiplier, words *high, words *low)
{
    const words by = (words){0} + multiplier;
    const long_words even = lanes_multiply_even(x, by);
    const long_words odd = lanes_multiply_even((words)((long_words)x >> 32), by);
    *high = (words)((even >> 32) | (odd & 0xffffffff00000000u));
    *low = (words)((even & 0xffffffffu) | (odd << 32));
}

/*
 * Factors of columns column ... column + 4 * LANES - 1, column a multiple of 4. Counters are dealt to the lanes
 * so that after the transposition of 4 x 4 blocks the words lie in the order of the columns.
 */
static inline void dropout_lanes(const struct dropout_row *row, int64_t column, floats factors[4])
{
    const words number = (words)lanes_numbers();
    const words counter = (number & 3) * (LANES / 4) + (number >> 2);
    const int64_t first = row->first + column / 4;
    const words place = counter + (uint32_t)first;
    const words carry = (words)(place < (uint32_t)first) & (1U << DROPOUT_SITE_BITS);
    words x[4] = {
        (words){0} + row->step,
        (words){0} + row->sequence,
        place,
        carry + (row->purpose_site + (uint32_t)(first >> 32 << DROPOUT_SITE_BITS)),
    };
    uint32_t key0 = row->key[0], key1 = row->key[1];

    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9, key1 += 0xBB67AE85) {
        words high0, low0, high1, low1;
        philox_multiply(x[0], 0xD2511F53, &high0, &low0);
        philox_multiply(x[2], 0xCD9E8D57, &high1, &low1);
        x[0] = high1 ^ x[1] ^ key0;
        x[1] = low1;
        x[2] = high0 ^ x[3] ^ key1;
        x[3] = low0;
    }
    lanes_transpose(x);
    for (int i = 0; i < 4; i++) {
        const floats uniform = __builtin_convertvector((ints)(x[i] >> 8), floats) * 0x1p-24f;
        factors[i] = lanes_select(uniform < row->rate, (floats){0}, lanes_of(row->kept));
    }
}

/* y[j] = addend[j] + factor of column `column` + j * x[j], j < count; addend may be NULL; y may be either. */
static inline void dropout_apply(const struct dropout_row *row, int64_t column, int64_t count,
                                 const float *x, const float *addend, float *y)
{
    for (int64_t at = 0; at < count; at += 4 * LANES) {
        floats factors[4];
        dropout_lanes(row, column + at, factors);
        for (int64_t i = 0, j = at; i < 4 && j < count; i++, j += LANES) {
            const int64_t left = count - j;
            if (left >= LANES) {
                const floats dropped = factors[i] * lanes_load(x + j);
                lanes_store(y + j, addend ? dropped + lanes_load(addend + j) : dropped);
            } else {
                const floats dropped = factors[i] * lanes_load_part(x + j, left, 0);
                lanes_store_part(
                    y + j, addend ? dropped + lanes_load_part(addend + j, left, 0) : dropped, left);
            }
        }
    }
}

#endif
