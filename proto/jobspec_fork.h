#ifndef PROTO_JOBSPEC_FORK_H
#define PROTO_JOBSPEC_FORK_H

/* Which keys of a job may differ between a run and one that begins from a checkpoint of it. */

#include "proto/jobspec.h"

/*
 * Whether a run of `job` can begin from a checkpoint of step `step` of a run of `source`. ST_INVALID, with the key and both values in
 * `fault`: one differs that says what the tensors are, what chance derives from, or how the position in the data is
 * counted; or the job has no step left to train.
 */
enum status jobspec_check_fork(const struct jobspec *source, const struct jobspec *job,
                               uint64_t step, struct fault *fault);

#endif
