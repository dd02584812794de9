#ifndef CLI_JOB_FILE_H
#define CLI_JOB_FILE_H

/* A job file as submit and validate take it: read, overridden, checked, and reckoned. */

#include "cli/invocation.h"
#include "proto/diagnostic.h"
#include "proto/jobspec.h"

struct job_file {
    const char *path; /* as typed */
    char *text;       /* as the user wrote it */
    size_t length;
    struct jobspec spec;
    struct diagnostics diagnostics; /* warnings too */
};

/*
 * Reads the FILE of the invocation. Whatever is wrong with it has been said on stderr when this returns; for
 * anything but EXIT_CODE_OK `job` holds the diagnostics alone. Freed by job_file_fini either way.
 */
enum exit_code job_file_read(const struct invocation *invocation, struct job_file *job);
void job_file_fini(struct job_file *job);

/* Prints on stdout what a valid job takes. */
void job_file_print_cost(const struct invocation *invocation, const struct job_file *job);

#endif
