#ifndef WORKER_METRICS_FILE_H
#define WORKER_METRICS_FILE_H

/*
 * Metrics of a run without a daemon: DIR/metrics.jsonl, one JSON object a line as `performerctl metrics
 * --json` prints them. A run that goes on in the same directory appends, as the next attempt: of two rows of
 * one step and name, that of the later attempt holds.
 */

#include <stdint.h>

#include "proto/status.h"

struct metrics_file;

/* What a killed run left of its last line is removed. The directory must be there. ST_BUSY: another
 * process has it open; ST_NOT_FOUND, ST_IO. */
enum status metrics_file_open(const char *directory, struct metrics_file **file,
                              struct fault *fault);

/* Reaches the file at once; a failure to write is logged, once. A value that is no number becomes null. */
void metrics_file_add(struct metrics_file *file, uint64_t step, const char *name, double value,
                      uint64_t time_ms);
void metrics_file_close(struct metrics_file *file);

#endif
