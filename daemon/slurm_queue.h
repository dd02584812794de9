#ifndef DAEMON_SLURM_QUEUE_H
#define DAEMON_SLURM_QUEUE_H

/* What squeue says of jobs, and what their states mean for an attempt. */

#include <stdbool.h>
#include <stdint.h>

#include "proto/lifecycle.h"
#include "proto/status.h"

/* The columns that slurm_queue_read expects of `squeue --noheader`. Names come last: those of other people's jobs hold
 * anything. */
#define SLURM_QUEUE_COLUMNS "JobID:|,State:|,RestartCnt:|,NodeList:|,Reason:|,Name:|"

struct slurm_row {
    int64_t id;
    char state[32];
    uint32_t restarts; /* times that Slurm put it into its queue again */
    char nodes[256];   /* as squeue abbreviates them; cut where they are many */
    char reason[128];
    char name[256];
};

typedef void slurm_row_visitor(void *context, const struct slurm_row *row);

/* Gives all rows of an answer to `visit`. ST_CORRUPT: a line is not as asked for, and those after it are not visited. */
enum status slurm_queue_read(const char *answer, slurm_row_visitor *visit, void *context,
                             struct fault *fault);

/* Nothing of a job in this state runs, and nothing will. */
bool slurm_state_is_over(const char *state);

/* CAUSE_NONE: the state says nothing that the files of the ranks do not say better. */
enum attempt_cause slurm_state_cause(const char *state);

#endif
