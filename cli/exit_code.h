#ifndef CLI_EXIT_CODE_H
#define CLI_EXIT_CODE_H

/* What performerctl exits with. Scripts rely on the numbers. */

#include "proto/lifecycle.h"
#include "proto/status.h"

#define EXIT_CODES(X)                                              \
    X(EXIT_CODE_OK, 0, "ok")                                       \
    X(EXIT_CODE_FAILED, 1, "the run failed, or performerctl did")  \
    X(EXIT_CODE_USAGE, 2, "not a command that performerctl knows") \
    X(EXIT_CODE_JOB_INVALID, 3, "the job file is invalid")         \
    X(EXIT_CODE_NO_SUCH_RUN, 4, "no such run")                     \
    X(EXIT_CODE_NO_DAEMON, 5, "the daemon is not reachable")       \
    X(EXIT_CODE_NOT_PERMITTED, 6, "not permitted")                 \
    X(EXIT_CODE_REFUSED, 7, "refused in this state")               \
    X(EXIT_CODE_WAIT_TIMED_OUT, 8, "the wait timed out")           \
    X(EXIT_CODE_CANCELLED, 9, "the run was cancelled")             \
    X(EXIT_CODE_INTERRUPTED, 130, "interrupted; the run goes on")

enum exit_code {
#define EXIT_CODE_ENUM(name, number, text) name = number,
    EXIT_CODES(EXIT_CODE_ENUM)
#undef EXIT_CODE_ENUM
};

/* For a failed request. ST_TIMED_OUT is a daemon that does not answer; a wait that timed out is the verb's
 * own affair. */
enum exit_code exit_code_of_status(enum status status);

/* For a final state. */
enum exit_code exit_code_of_state(enum run_state state);

#endif
