#ifndef PROTO_COST_H
#define PROTO_COST_H

/*
 * What a job takes: bytes of a rank and floating-point operations of a step, as plain arithmetic over the
 * job file. performerctl prints it before anything runs; a worker reports its share of the machine's peak with it.
 * A multiply and an add are two operations; recomputation is not counted. Rows count as of full length, padding and all.
 * Bytes are those of weights, gradients, moments, activations and the snapshot, exact; what kernels keep and use for themselves, and the data, come on top.
 */

#include <stdint.h>

#include "proto/jobspec.h"

struct cost {
    uint64_t parameters;
    /* bytes of rank 0, which has the most: it alone holds a snapshot, the copy of weights and moments that is being saved */
    uint64_t bytes_weights, bytes_gradients, bytes_moments, bytes_activations, bytes_snapshot;
    uint64_t bytes_total;
    /* operations of one optimizer step of the whole job: matrix products, forward and backward */
    double flops_step, flops_attention;
    /* the same step with exact softmax attention in place of the job's */
    double flops_step_exact;
    uint64_t tokens_step;
};

void cost_of(const struct jobspec *spec, struct cost *cost);

#endif
