#ifndef TESTS_SIM_GANG_H
#define TESTS_SIM_GANG_H

/*
 * Launchers and ranks of a simulated world. A gang is one attempt: performer-launch, mpirun and the ranks under it. It
 * leaves the files that they leave, which the daemon's own code reads; ranks pack reports, keep spools and agree on
 * orders with the worker's own code (outbox.c, report_items.c, orders.c). What is played: the steps, the uplink's
 * thread, the gathering of records, the checkpoints.
 */

#include "daemon/launcher.h"
#include "worker/orders.h"

/* The launcher that the driver is given. */
extern struct attempt_launcher gang_launcher;

void gangs_begin(void);
void gangs_end(void);

/* For a Slurm (slurm.h), which says itself when an attempt begins, and ends it. Its gangs are not on the daemon's machine.
 * `directory` is the attempt's. */
void gang_submit(const struct launch_order *order); /* nothing of it runs yet */
void gang_launch(const char *directory);
void gang_ask_to_end(const char *directory); /* by SIGTERM */
void gang_tear(const char *directory);       /* it dies, or never begins, and leaves no trace */
enum launcher_state gang_state(const char *directory);
bool gang_lives(const char *directory);
void gang_leave(const char *directory, const char *name,
                const char *text); /* a file, unless the disk is full */

/* What the weather does to a gang that chance picks: each does nothing where there is none to do it to. */
void gang_strike_rank_dies(void);
void gang_strike_rank_hangs(void);
void gang_strike_rank_fails(void);
void gang_strike_launcher_dies(void);

/* All that are on the daemon's machine are gone at once, and what they had not synced may be too. */
void gang_lose_power(void);

/* In the calm: whoever hangs goes on. */
void gangs_wake(void);

/* An attempt of the run other than that one trains. */
bool gang_trains_now(uint64_t run, uint32_t but_attempt);

/* Something of that attempt lives, or may yet begin as a job of Slurm's. */
bool gang_attempt_lives(uint64_t run, uint32_t attempt);

/* Something of some attempt lives. */
bool gangs_live(void);

/* The state of the weights that the run's newest checkpoint holds; NULL: it has none. */
const struct checkpoint_state *gang_newest_state(uint64_t run);

/* What a rank measured: the same whenever a step is done again in an attempt. */
double gang_loss(uint64_t run, uint32_t attempt, uint64_t step);

#endif
