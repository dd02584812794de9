#include "cli/exit_code.h"

#include <assert.h>

enum exit_code exit_code_of_status(enum status status)
{
    switch (status) {
    case ST_OK:
        return EXIT_CODE_OK;
    case ST_INVALID:
    case ST_TOO_LARGE:
        return EXIT_CODE_JOB_INVALID;
    case ST_NOT_FOUND:
        return EXIT_CODE_NO_SUCH_RUN;
    case ST_UNREACHABLE:
    case ST_TIMED_OUT:
        return EXIT_CODE_NO_DAEMON;
    case ST_NOT_PERMITTED:
        return EXIT_CODE_NOT_PERMITTED;
    case ST_REFUSED:
    case ST_UNSUPPORTED:
    case ST_FENCED:
    case ST_BUSY:
        return EXIT_CODE_REFUSED;
    case ST_NO_MEMORY:
    case ST_IO:
    case ST_NO_SPACE:
    case ST_CORRUPT:
    case ST_SYSTEM:
    case ST_INTERNAL:
    case ST_BAD_DATA:
    case ST_DIVERGED:
    case ST_COLLECTIVE:
    case ST_DEVICE:
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_FAILED; /* a status of a newer daemon */
}

enum exit_code exit_code_of_state(enum run_state state)
{
    assert(run_state_is_final(state));
    if (state == RUN_SUCCEEDED) return EXIT_CODE_OK;
    return state == RUN_CANCELLED ? EXIT_CODE_CANCELLED : EXIT_CODE_FAILED;
}
