#ifndef DAEMON_EVIDENCE_H
#define DAEMON_EVIDENCE_H

/*
 * How an attempt ended, read from what it left in its directory: exit.json, rank-R.end.json,
 * rank-R.log and launcher.log. Nothing here asks the world, so that a daemon that was not there
 * when it happened finds the same.
 *
 * The first cause is what counts: a rank that fails takes the others down, and those fail for other
 * reasons.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/lifecycle.h"

enum { LAST_LINES_BYTES_MAX = 4096 };

struct evidence {
    enum attempt_cause cause;
    bool stopped;      /* all ranks stopped as they were told to, after a checkpoint */
    char text[400];    /* words for a person */
    int first_rank;    /* the first that failed; -1: not known, or none did */
    char host[256];    /* of that rank; may be empty */
    int signal;        /* that ended it, or the launcher; 0: none */
    int exit_code;     /* of the launcher; -1: not known */
    uint64_t step;     /* the last that a rank had finished, as far as is known */
    uint64_t ended_ms; /* since 1970: when the last rank that left word had ended; 0: none did */
    bool goes_back;    /* it diverged, and the job goes back to an earlier checkpoint: */
    uint64_t rewind_step, draw; /* its step, and the number of the features in use until then */
    char last_lines[LAST_LINES_BYTES_MAX +
                    1]; /* of that rank's log, else of the launcher's; whole lines */
};

/*
 * `directory` is attempt-A; `suspect` is a rank whose log is to be quoted, whoever failed first, or -1. Blocks for a few small reads. Never fails: what is missing or not
 * readable is no evidence, and an attempt without any is CAUSE_LOST.
 */
void evidence_read(const char *directory, uint32_t ranks, int suspect, struct evidence *evidence);

/* Where the attempt left no trace of its end: the machine went down, and that is why. */
void evidence_of_lost_node(struct evidence *evidence);

#endif
