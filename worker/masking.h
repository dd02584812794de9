#ifndef WORKER_MASKING_H
#define WORKER_MASKING_H

/*
 * The masked objective (Devlin et al., "BERT", 2019, section 3.1): 15 % of the positions are to be
 * predicted; of these 80 % become MASK, 10 % a random token and 10 % stay. Chosen by Philox from
 * (seed, step, sequence, position) alone.
 */

#include <stdint.h>

struct masking {
    uint64_t seed;
    uint32_t step; /* 0: evaluation, where `sequence` is the row */
    int32_t mask;  /* id of MASK */
    int32_t vocab; /* ids 0 ... vocab-1 can be predicted, and drawn; those above only mark */
};

/* In place: ids (length) become the inputs, targets (length) the tokens to predict, -1 elsewhere.
 */
void masking_apply(const struct masking *masking, uint32_t sequence, int64_t length, int32_t *ids,
                   int32_t *targets);

#endif
