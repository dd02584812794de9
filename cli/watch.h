#ifndef CLI_WATCH_H
#define CLI_WATCH_H

/* `status RUN --watch` */

#include "cli/invocation.h"
#include "cli/snapshot.h"

/*
 * Until the run is final: in a terminal a picture drawn anew in place; in a pipe a line a change, or a JSON
 * object with --json. A daemon that goes away is waited for. The exit code is that of `wait`; 0 after q.
 */
enum exit_code watch_run(const struct invocation *invocation);

/* The picture once, on stdout, as wide as the terminal. */
void status_print(const struct snapshot *snapshot);

#endif
