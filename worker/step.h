#ifndef WORKER_STEP_H
#define WORKER_STEP_H

#include "proto/status.h"
#include "worker/orders.h"
#include "worker/training.h"

/*
 * One step of the optimizer: state.step + 1. Batch, forward, loss, backward, reduce, clip, update, orders.
 *
 * A rank owns `shards` micro-shards. Their gradients are summed by a binary tree that halves the range of shards,
 * inside the rank and then across ranks, so the sum has the same bits for any number of ranks that is a
 * power of two. On the rank's last shard each bucket is folded up the tree and sent off as soon as the
 * backward pass has finished it.
 *
 * On ST_OK the weights are those of the next step, `edge` is what all ranks have agreed to do now, and the step's
 * metrics are on their way, behind the notices of the orders that change weights; tokens_per_second counts no padding.
 * ST_DIVERGED: loss or gradient is no number; the weights are as they were, and all ranks return the same.
 */
enum status step_run(struct training *training, struct edge *edge, struct fault *fault);

/* Which gradient buffer shard `index` of `count` is written to, and into how many of the ones before, one after
 * the other, it is then added: its place in the binary tree. */
struct shard_place {
    int buffer, folds;
};
struct shard_place shard_place(int64_t index, int64_t count);

/* Buffers that the tree over `count` shards needs. */
int gradient_buffers(int64_t count);

#endif
