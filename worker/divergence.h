#ifndef WORKER_DIVERGENCE_H
#define WORKER_DIVERGENCE_H

/*
 * Whether the gradient of a step may be taken: decided from the reduced loss and gradient norm, which are the same bits on all
 * ranks, and from the losses that were taken before, which a checkpoint holds. So every rank, any number of them, and an
 * attempt that comes here again decide alike.
 *
 * A loss or norm that is no number is never taken. With train.on_divergence = "skip" neither is a spike: a loss that is more
 * than 5 standard deviations, and more than half, above the mean of those taken since the features were drawn, once 20 were.
 * The deviation is that of differences between neighbours, over the root of 2, so that a loss which falls fast does not widen
 * it; both means are exponential with a horizon of 20. The step is counted and its batch used up; weights and moments stay as
 * they are. After 10 in a row the run has diverged.
 *
 * "back" leaves out alike, since a batch that is at fault would come again; but a run that has diverged goes back to where it was
 * well before the first of those in a row (worker/rewind.h).
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/jobspec.h"

enum { LOSSES_MIN = 20, LOSSES_HORIZON = 20, SKIPS_IN_ROW_MAX = 10 };

/* Part of state.json. Zeroed: at the beginning. */
struct loss_record {
    uint64_t taken; /* losses of updates that were made with these features */
    double newest, mean;
    double variance;  /* of one loss around what it should be */
    uint64_t skipped; /* updates left out */
    uint64_t skipped_in_row;
};

enum divergence_verdict { UPDATE_TAKEN, UPDATE_SKIPPED, UPDATE_DIVERGED };

/* Features were redrawn: the loss may be at another level from now on. */
void losses_forget(struct loss_record *record);

/* Judges and notes. `why` gets words where it is not taken. Of UPDATE_DIVERGED, record->skipped_in_row tells how many
 * updates before it were left out. */
enum divergence_verdict divergence_judge(const struct jobspec *spec, struct loss_record *record,
                                         double loss, double norm, char *why, size_t size);

#endif
