#ifndef TESTS_SIM_SLURM_H
#define TESTS_SIM_SLURM_H

/*
 * A Slurm of a simulated world, as daemon/launch_slurm.c sees it: jobs that are slow to come, refused, cancelled by others,
 * preempted, out of time, on nodes that go down; and times in which it answers nothing. Its gangs run on other hosts, so
 * that they live on when the daemon's loses its power.
 */

#include "daemon/launcher.h"

/* The launcher that the driver is given for jobs of launcher = "slurm". */
extern struct attempt_launcher slurm_launcher;

void slurm_begin(void);

/* What the weather does. */
void slurm_strike_silence(void);
void slurm_strike_job_ends(void);

/* In the calm: it answers. */
void slurm_recover(void);

#endif
