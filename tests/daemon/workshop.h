#ifndef TESTS_DAEMON_WORKSHOP_H
#define TESTS_DAEMON_WORKSHOP_H

/* A driver with a real store and a real directory; the launcher is played by the test. */

#include "daemon/driver.h"
#include "daemon/query.h"
#include "tests/daemon/scratch.h"

/* Who asks: none of the tests, but those about users, care. */
extern const struct caller workshop_caller;

struct workshop {
    struct scratch scratch;
    struct state_directory directory;
    struct coordinator coordinator;
    struct store *store;
    struct driver driver;
    struct attempt_launcher launcher;
    /* what the launcher shall answer */
    enum status start_status;
    enum launcher_state state; /* of the attempt that a run is at */
    const char *lingering;     /* "/attempt-1": an earlier attempt that lives; or NULL */
    /* and what it was told */
    int starts, signals, last_signal;
    struct launch_order order;
};

void workshop_open(struct workshop *workshop);
/* The same in a directory that is there, with what an earlier daemon left in it. */
void workshop_open_in(struct workshop *workshop, struct scratch scratch);
void workshop_close(struct workshop *workshop);

/* As if the daemon had been killed and started again. */
void workshop_restart(struct workshop *workshop);

/* A resolved job file with that name, and what else stands in `more`. */
const char *workshop_job(const char *name, int ranks, const char *more);

/* Submits and gives the run's number; fails the test where it is refused. */
uint64_t workshop_submit(struct workshop *workshop, const char *name, int ranks);

/* The response is the caller's. */
Performer__Response *workshop_ask(struct workshop *workshop, const struct caller *caller,
                                  const Performer__Request *request);
Performer__Response *workshop_submit_text(struct workshop *workshop, const char *resolved,
                                          const char *key);
Performer__Response *workshop_act(struct workshop *workshop, const char *run,
                                  Performer__Action action);

/* A report of the attempt that was launched last, with a loss of each step from 1 to `step`. */
void workshop_report(struct workshop *workshop, uint32_t rank, uint64_t sequence, uint64_t step);
/* The same where it may be refused. The response is the caller's. */
Performer__Response *workshop_send_report(struct workshop *workshop, uint32_t rank,
                                          uint64_t sequence, uint64_t step);

/* The same as it lies in a spool file: appended to attempt-A/rank-R.spool. */
void workshop_spool(struct workshop *workshop, uint32_t rank, uint64_t sequence, uint64_t step);

/* How all ranks ended, as their files say it. */
void workshop_ranks_end(struct workshop *workshop, int ranks, int status);

enum run_state workshop_state(const struct workshop *workshop, uint64_t run);

#endif
