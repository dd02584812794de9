#ifndef DAEMON_STATE_DIRECTORY_H
#define DAEMON_STATE_DIRECTORY_H

/*
 * Where a daemon keeps what it must not lose: STATE, held by one daemon at a time, with the database; RUNS with a
 * directory for each run. Paths below them are made here and from ids alone.
 *
 *   STATE/lock  performerd.db  performerd.log (of a daemon in the background)
 *   RUNS/ID/job.toml  resolved.toml  fence  checkpoints/
 *   RUNS/ID/attempt-A/plan  environment  launcher.json  launcher.log  exit.json  rank-R.log  rank-R.end.json  rank-R.spool
 */

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

enum {
    STATE_PATH_MAX = 3072
}; /* of STATE and RUNS: leaves room for what lies below, within PATH_MAX */

struct state_directory {
    char path[STATE_PATH_MAX]; /* absolute, without symbolic links */
    char runs[STATE_PATH_MAX];
    int lock; /* open, held */
};

/*
 * Makes what is missing (mode 0700), checks and locks; `runs` NULL: STATE/runs. ST_BUSY: another daemon holds
 * it, named in the fault. ST_UNSUPPORTED: STATE is on a network file system. ST_NOT_PERMITTED, ST_NO_SPACE, ...:
 * it cannot be written. The directory is the caller's, to be closed.
 */
enum status state_directory_open(const char *path, const char *runs,
                                 struct state_directory *directory, struct fault *fault);
void state_directory_close(struct state_directory *directory);

/* Each writes a path into `out`; `size` PATH_MAX is always enough. */
void run_directory(const struct state_directory *directory, const char *run_id, char *out,
                   size_t size);
void attempt_directory(const struct state_directory *directory, const char *run_id,
                       uint32_t attempt, char *out, size_t size);

/* The name of a network file system by its statfs type, NULL for a local one. */
const char *network_file_system(long type);

#endif
