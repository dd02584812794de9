#ifndef WORKER_EVALUATE_H
#define WORKER_EVALUATE_H

#include "proto/status.h"
#include "worker/training.h"

/* Makes room for evaluations of evaluate.batches * train.batch validation rows, or as many as there are.
 * ST_NO_MEMORY; ST_BAD_DATA: they hold no token to predict. Without validation data it does nothing. */
enum status evaluate_prepare(struct training *training, struct fault *fault);

/*
 * The loss over the first validation rows in file order, with the features in use and nothing dropped. The sums of
 * every shard go to every rank and are added by one tree: the same bits for any number of ranks. Tells the metrics
 * valid_loss and valid_accuracy, and unigram_entropy once. All ranks must call it.
 *
 * Where the attention is favor, rank 0 measures it on the first train.micro_batch rows (worker/approximation.h), every
 * rank gets the figures, and for each layer the metrics kernel_error.LAYER, denominator_min.LAYER, saturated.LAYER and
 * orthogonality.LAYER are told, those of them that the kernel has. This takes about as long as the attention of one more
 * forward pass of these rows.
 */
enum status evaluate_run(struct training *training, double *valid_loss, struct fault *fault);

/* The largest kernel_error of the last evaluation and its layer, the same on all ranks; a NaN is above all. For kernels that have
 * one. */
double evaluate_largest_error(const struct training *training, int64_t *layer);

#endif
