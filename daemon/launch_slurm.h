#ifndef DAEMON_LAUNCH_SLURM_H
#define DAEMON_LAUNCH_SLURM_H

/*
 * Attempts as jobs of Slurm: sbatch takes the batch script of an attempt (daemon/slurm_script.h), which runs
 * performer-launch on the first node; one squeue asks for all of them; scancel ends them.
 *
 * A job is known by its name, which no other attempt has. Whatever becomes of sbatch's answer, the name is looked up before
 * anything follows from it, so that nothing is submitted twice. How a job ended is written to attempt-A/slurm.json before
 * it is told of; that the daemon wanted its end, to attempt-A/scancel before scancel runs.
 */

#include "daemon/launcher.h"

struct uv_loop_s;

/*
 * `programs` are borrowed: the nodes find them by the same paths. Works where Slurm is not there; a start then fails with
 * ST_NOT_FOUND. The launcher is the caller's, to be closed before the loop; jobs live on. ST_NO_MEMORY is the only failure.
 */
enum status launch_slurm_open(struct uv_loop_s *loop, const struct launcher_programs *programs,
                              launcher_news *news, void *context,
                              struct attempt_launcher **launcher, struct fault *fault);
void launch_slurm_close(struct attempt_launcher *launcher);

#endif
