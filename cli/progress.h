#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

/* How far a run has come, from what the daemon says of it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"

/* The newest value of a metric; NaN where there is none. */
double latest_metric(const Performer__RunSummary *summary, const char *name);

/* 0 ... 1; 0 where the number of steps is not known. */
double progress_share(const Performer__RunSummary *summary);

/* Milliseconds until the last step at the pace of the newest one, -1: not known, or the run does not move. */
int64_t progress_left_ms(const Performer__RunSummary *summary);

/*
 * The same at the pace of the newer half of these rows of one metric, by step: evaluations and saves between
 * the steps count too. -1 where the newest attempt has fewer than two rows.
 */
int64_t progress_left_by_rows_ms(const Performer__RunSummary *summary,
                                 Performer__MetricRow *const *rows, size_t count);

/* Milliseconds that the run has taken, until now or its end; -1: not started. */
int64_t progress_elapsed_ms(const Performer__RunSummary *summary, uint64_t now_ms);

enum { BAR_COLUMNS_MAX = 400, BAR_BYTES_MAX = BAR_COLUMNS_MAX * 3 + 1 };

/* The filled part of a bar of `columns`, and how many columns it takes. `filled` has BAR_BYTES_MAX bytes. */
size_t progress_bar(double share, size_t columns, bool utf8, char *filled);

#endif
