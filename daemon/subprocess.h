#ifndef DAEMON_SUBPROCESS_H
#define DAEMON_SUBPROCESS_H

/*
 * A program that runs beside the loop: what it says is collected, and its end is told on the loop. None of these
 * functions blocks.
 */

#include <stdint.h>

#include "proto/status.h"

enum { SUBPROCESS_BYTES_MAX = 16 << 20 }; /* of either text: a program that says more is ended */

struct uv_loop_s;
struct subprocess;

struct subprocess_end {
    int exit_code;      /* -1: a signal ended it, its time was up, or it said too much */
    const char *output; /* ended by a NUL; good during the call */
    const char *errors;
};

typedef void subprocess_ended(void *context, const struct subprocess_end *end);

/*
 * Runs argv[0], found on PATH, with the daemon's environment; after `limit_ms` it gets SIGKILL. `*subprocess` is good until
 * `ended` returns. ST_NOT_FOUND: there is no such program.
 */
enum status subprocess_start(struct uv_loop_s *loop, const char *const argv[], uint64_t limit_ms,
                             subprocess_ended *ended, void *context, struct subprocess **subprocess,
                             struct fault *fault);

/* The program runs on, and nobody is told of its end. NULL: nothing. */
void subprocess_forget(struct subprocess *subprocess);

#endif
