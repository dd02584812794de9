#ifndef TESTS_SIM_LEDGER_H
#define TESTS_SIM_LEDGER_H

/*
 * What was promised and what was done, written down beside the daemon, and held against it. Decisions are seen where
 * the driver decides, commits and applies them; answers where they leave; launches, signals and checkpoints where they
 * happen. What must hold:
 *
 *   1. nothing is applied that was not committed as it stands, and no effect comes before
 *   2. what was answered is there: runs, wishes for an end, orders, metrics; the same key, the same run
 *   3. a daemon that starts knows what the one before knew
 *   4. a run's state moves as lifecycle.def allows, one that is paused has no attempt, and out of a final one it comes
 *      by a requeue alone, of which each counts once
 *   5. an attempt is launched once, and no two of a run train at a time
 *   6. an attempt that is said to have ended has; ends are counted once, spared ones not at all; no attempt begins beyond a
 *      budget, before its back-off, after two that came no further, or from a checkpoint that two have died of
 *   7. an order is applied at one step; every answered report carries all that are pending; the weights of a run that
 *      succeeded have met each redraw that was told, once, at the step that was told
 *   8. an attempt that is not in force is fenced, and saves nothing once a newer one was launched
 *   9. no attempt is told to end that moves and is heard
 *  10. once nothing goes wrong any more, every run ends
 *  11. no run begins before all that it comes after have succeeded, nor before its turn: of those that may begin, the
 *      one of the highest priority, then the earliest; and never do attempts hold more ranks than there are here. Jobs for
 *      Slurm hold none, and go first
 *  12. a fork has the checkpoint that it begins from, whatever becomes of the run that this was of
 *  13. a run goes back at most three times, each time to a step of its rule before it diverged and to features that nobody
 *      has told of before; weights that have not met the newest are of it up to that step alone
 *
 * besides what coordinator_check says after every decision.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/lifecycle.h"
#include "tests/sim/network.h"

struct checkpoint_state;
struct coordinator;
struct store;

void ledger_begin(void);
void ledger_end(void);

/* An answer leaves the daemon; `report` where the request was one. */
void ledger_answered(const struct request *request, const Performer__Report *report,
                     const struct reply *reply);

/* A daemon is gone, and takes no more out of its memory, which the ledger takes over; another has loaded. */
void ledger_buried(struct coordinator *coordinator);
void ledger_restarted(const struct coordinator *coordinator, struct store *store);

void ledger_launched(uint64_t run, uint32_t attempt, const char *nonce);
/* From that state on. */
void ledger_trains(uint64_t run, uint32_t attempt, const struct checkpoint_state *state);
void ledger_saved(uint64_t run, uint32_t attempt);
/* It was asked to end since that rank stands still; in truth it moves, or does not. */
void ledger_rescued(uint64_t run, uint32_t attempt, uint32_t rank, bool moves);
/* An attempt begins; whether its run has, or had, a checkpoint. */
void ledger_forks(uint64_t run, uint64_t first_step, bool has_checkpoint);
void ledger_signalled(const char *attempt_directory, int signal);

/* Every run that there is has ended. */
bool ledger_all_final(void);
enum run_state ledger_state(uint64_t run);
/* What must hold at the end of all. */
void ledger_close(struct store *store);

/* What the run trains. */
const struct job *ledger_job(uint64_t run);

/* Runs that there are, and one of them, rather one that has not ended. */
size_t ledger_run_count(void);
uint64_t ledger_any_run(void);

#endif
