#ifndef TESTS_FAULTS_SMALL_CHECKPOINT_H
#define TESTS_FAULTS_SMALL_CHECKPOINT_H

/* Checkpoints of a few hundred bytes, whose content follows from their step. */

#include <stdint.h>

#include "proto/status.h"

/* As checkpoint_save; fails the test where outputs do not fit the status. */
enum status small_checkpoint_save(const char *directory, uint64_t step, struct fault *fault);

/* Opens the newest that is good and checks all that is in it. Outputs as checkpoint_open_newest; `rejected` counts
 * those that were passed over; where one is good all the same, `fault` says why. */
enum status small_checkpoint_newest(const char *directory, uint64_t *step, int *rejected,
                                    struct fault *fault);

#endif
