#ifndef TESTS_SIM_JOBS_H
#define TESTS_SIM_JOBS_H

/* The jobs that people of a simulated world submit: small, and different in all that the coordinator looks at. */

#include <stddef.h>

#include "proto/jobspec.h"

struct job {
    char *resolved;
    struct jobspec spec;
};

/* Parses all of them, once. */
void jobs_make(void);
void jobs_free(void);

enum { JOBS_RANKS_MAX = 4, JOBS_STEPS_MAX = 24 };

size_t jobs_count(void);
const struct job *jobs_get(size_t index);
/* By the name in the job file. */
const struct job *jobs_find(const char *name);

#endif
