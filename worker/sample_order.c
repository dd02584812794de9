#include "worker/dataset.h"

#include <assert.h>

#include "kernels/philox.h"

/*
 * A Feistel network over the smallest power of four (at least 64) that holds all rows, keyed by Philox, and
 * walked until it lands inside 0 ... rows-1 (Black & Rogaway, "Ciphers with Arbitrary Finite
 * Domains", CT-RSA 2002, method 2): a permutation that needs no memory and can be asked at any
 * place.
 */
/* Over halves of 2 bits the orders of a handful of rows are not equally likely, however many the rounds. */
enum { ROUNDS = 8, HALF_BITS_MIN = 3 };

static uint64_t feistel(uint64_t seed, uint64_t epoch, int half_bits, uint64_t x)
{
    uint32_t mask = (uint32_t)((UINT64_C(1) << half_bits) - 1);
    uint32_t left = (uint32_t)(x >> half_bits), right = (uint32_t)x & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t index[3] = {round, right, (uint32_t)epoch};
        uint32_t mixed = philox_draw(seed, PURPOSE_ORDER, 0, index).word[0] & mask;
        uint32_t next = left ^ mixed;
        left = right;
        right = next;
    }
    return (uint64_t)left << half_bits | right;
}

int64_t sample_order(uint64_t seed, uint64_t epoch, int64_t rows, int64_t p)
{
    assert(p >= 0 && p < rows);
    assert(epoch <= UINT32_MAX);
    int half_bits = HALF_BITS_MIN;
    while ((UINT64_C(1) << (2 * half_bits)) < (uint64_t)rows) half_bits++;
    uint64_t x = (uint64_t)p;
    do x = feistel(seed, epoch, half_bits, x);
    while (x >= (uint64_t)rows);
    return (int64_t)x;
}
