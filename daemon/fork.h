#ifndef DAEMON_FORK_H
#define DAEMON_FORK_H

/*
 * The checkpoint that a fork begins from, in the fork's own directory: hard links to the source's files, which are never written to
 * again, so that it stays when the source's retention removes them. It is put aside as RUNS/ID.fork before the fork is committed, and
 * at its place, RUNS/ID/checkpoints/step-S, after that. `run_directory` is RUNS/ID. All of these block.
 */

#include <stdint.h>

#include "proto/status.h"

/* What was left aside before is gone then. Durable. ST_REFUSED: the checkpoint is not there any more. */
enum status fork_stage(const char *checkpoint, const char *run_directory, struct fault *fault);

/* Any number of times. Where nothing was put aside nothing is done: a rank says what is missing. */
enum status fork_settle(const char *run_directory, uint64_t step, struct fault *fault);

/* Removes what was put aside, if anything. */
void fork_discard(const char *run_directory);

#endif
