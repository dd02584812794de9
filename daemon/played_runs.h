#ifndef DAEMON_PLAYED_RUNS_H
#define DAEMON_PLAYED_RUNS_H

/*
 * For performerd-bench: a state directory as a daemon leaves it, made with the coordinator and the store themselves, and
 * runs in it whose ranks this process plays. A daemon that is started there adopts those: it finds this process where it
 * looks for their launchers.
 */

#include "daemon/run.h"
#include "proto/performer.pb-c.h"
#include "proto/status.h"

/* As rank 0 of a real run tells them at each step. */
#define PLAYED_METRICS(M)  \
    M("loss")              \
    M("grad_norm")         \
    M("lr")                \
    M("tokens_per_second") \
    M("step_ms")

#define PLAYED_METRIC_ONE(name) +1
enum { PLAYED_METRIC_COUNT = PLAYED_METRICS(PLAYED_METRIC_ONE) };
#undef PLAYED_METRIC_ONE

/* One that goes on, of one rank. */
struct played_run {
    uint64_t number;
    char id[RUN_ID_SIZE];
    char nonce[NONCE_SIZE], token[TOKEN_SIZE];
    uint64_t sequence, step; /* of the newest report that was taken, and of the rows in it */
};

/*
 * `runs` runs with `steps` steps of rows each, all over but the newest `count`, which are given back in `played`. Blocks:
 * every decision is committed. ST_BUSY, ST_NO_SPACE, ...: as state_directory_open and store_commit say.
 */
enum status played_runs_make(const char *state, uint64_t runs, uint64_t steps,
                             struct played_run *played, size_t count, struct fault *fault);

/* A job that performerd takes. The text is static. */
const char *played_job(void);

/* What the row of that metric (0 ... PLAYED_METRIC_COUNT - 1) holds. */
double played_value(uint64_t run, uint64_t step, int metric);

/* -1: it is none of these. */
int played_metric(const char *name);

/* A report under construction; `report` borrows from the rest. */
struct played_report {
    Performer__Report report;
    Performer__Heartbeat heartbeat;
    Performer__MetricRow *rows, **places;
};

/* With room for the rows of so many steps. The report is the caller's, to be freed. */
struct played_report *played_report_new(uint64_t steps);
void played_report_free(struct played_report *report);

/* The next one of the run, with the rows of the next `steps` steps. */
void played_report_fill(struct played_report *report, const struct played_run *run, uint64_t steps,
                        uint64_t wall_ms);

/* It was taken. */
void played_run_advance(struct played_run *run, uint64_t steps);

#endif
