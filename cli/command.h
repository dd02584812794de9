#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

/* Another program, run to its end within a limit of time, with the beginning of what it wrote. */

#include "proto/status.h"

enum { COMMAND_OUTPUT_MAX = 2048 };

struct command_result {
    int exit_code;                   /* 128 + signal where one ended it */
    char output[COMMAND_OUTPUT_MAX]; /* stdout and stderr */
};

/* `argv` ends with NULL; argv[0] is looked up in PATH. Blocks. ST_NOT_FOUND: no such program; ST_TIMED_OUT: its
 * whole process group was killed. */
enum status command_run(const char *const argv[], int timeout_ms, struct command_result *result,
                        struct fault *fault);

#endif
