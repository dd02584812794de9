#ifndef CLI_RUNS_TABLE_H
#define CLI_RUNS_TABLE_H

/* All runs, a row each: what list and `status` without a run show. */

#include "cli/invocation.h"
#include "proto/performer.pb-c.h"

void runs_print_table(const Performer__RunList *runs);
void runs_print_progress(const Performer__RunList *runs);

/* Asks the daemon for the runs and prints them by `print`, or as JSON. */
enum exit_code runs_show(const struct invocation *invocation, bool all,
                         void (*print)(const Performer__RunList *runs));

#endif
