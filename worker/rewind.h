#ifndef WORKER_REWIND_H
#define WORKER_REWIND_H

/*
 * Going back after a divergence, train.on_divergence = "back". The daemon decides it between two attempts and names it in the
 * plans of all later ones: rewind number n takes the weights back to `step`, where a checkpoint of the job's rule was, and
 * features number `draw` take the place of those that led to the divergence. What weights that have not met the rewind had
 * trained behind that step is no part of the run any more. Both steps and draws follow from the job alone, so an attempt
 * that has to begin at an earlier checkpoint comes to the same bits. No I/O; `plan` is NULL where there is no daemon.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/jobspec.h"
#include "proto/performer.pb-c.h"
#include "worker/checkpoint.h"

/* Where a run goes back to that has diverged, after step `good_step` was the last to be well: the newest step at which the
 * rule of [checkpoint] saves, or the run's beginning. */
uint64_t rewind_step(const struct jobspec *spec, const Performer__Plan *plan, uint64_t good_step);

/* Whether a checkpoint of that state is part of the run, as far as the plan knows it. */
bool rewind_keeps(const Performer__Plan *plan, const struct checkpoint_state *state);

/* The rewind that such weights have to meet before they are trained on; NULL: none. */
const Performer__Rewind *rewind_due(const Performer__Plan *plan,
                                    const struct checkpoint_state *state);

/*
 * Notes in `state` that it was met: the draw of the features is another, and the losses before count no more. An attempt that
 * began further back may have met orders on its way that are younger than the rewind: it takes the draw behind theirs.
 */
void rewind_meet(const Performer__Rewind *due, struct checkpoint_state *state);

#endif
