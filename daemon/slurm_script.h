#ifndef DAEMON_SLURM_SCRIPT_H
#define DAEMON_SLURM_SCRIPT_H

/* The batch script of an attempt, and the name of its Slurm job. */

#include <stddef.h>

#include "daemon/launcher.h"
#include "proto/jobspec.h"

enum { SLURM_NAME_SIZE = 64 };

/*
 * "r12-a3-0f3a9c51d2e47b80": of run, attempt and nonce, so that no other attempt of any daemon has it, and a job whose
 * sbatch answer was lost is found by it.
 */
void slurm_job_name(const char *run_id, uint32_t attempt, const char *nonce,
                    char name[SLURM_NAME_SIZE]);

struct slurm_script {
    const char *name; /* of the job */
    const struct jobspec *spec;
    const struct launch_order *order;
    const struct launcher_programs *programs;
};

/* The script as a text, the caller's to be freed. ST_NO_MEMORY is the only failure. */
enum status slurm_script_make(const struct slurm_script *script, char **text);

#endif
