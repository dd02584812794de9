#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

/*
 * Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): four random
 * words as a pure function of a counter and a key. The one source of chance here: a number is keyed by what it
 * is for, so nothing has to be saved, sent or kept in step between ranks.
 */

#include <stdint.h>

/* What a number is for; values lie in the definition of a run's bits: append, never renumber. */
enum purpose {
    PURPOSE_WEIGHTS = 1, /* layer: tensor's place in the list of parameters; index: element / 2 */
    PURPOSE_PROJECTION = 2,       /* layer; index: (draw, element / 2) */
    PURPOSE_ORDER = 3,            /* index: (round, half, epoch) of the permutation of rows */
    PURPOSE_DROPOUT = 4,          /* layer and index: kernels/dropout.h */
    PURPOSE_MASKING = 5,          /* index: (step, sequence, position) */
    PURPOSE_KEY_PROJECTION = 7,   /* linformer, E; layer; index: (element / 2, draw) */
    PURPOSE_VALUE_PROJECTION = 8, /* linformer, F; the same */
    PURPOSE_ROTATIONS = 9,        /* reformer; the same */
    PURPOSE_ROW_SAMPLE = 10, /* layer; index: (sequence, head, count); worker/approximation.h */
};

struct philox_words {
    uint32_t word[4];
};

struct philox_words philox4x32_10(const uint32_t counter[4], const uint32_t key[2]);

/* The words for (seed, purpose, layer < 2^24, index of 96 bits). */
struct philox_words philox_draw(uint64_t seed, enum purpose purpose, uint32_t layer,
                                const uint32_t index[3]);

/* 32 bits to [0, 1), 24 of them used, exact in float. */
float philox_uniform(uint32_t word);

#endif
