#ifndef KERNELS_TEAM_H
#define KERNELS_TEAM_H

/*
 * A fork-join team of pthreads, the one way in which a kernel runs in parallel. Work is cut into pieces
 * whose number and bounds never depend on how many threads there are, so that the bits do not either. oneDNN
 * and its OpenMP runtime are held to one thread inside each of ours.
 */

#include <stdint.h>

#include "proto/status.h"

struct team;

/* `threads` >= 1 counts the caller, who works along. Blocks until all have started. */
enum status team_new(int threads, struct team **team);
void team_free(struct team *team);

int team_threads(const struct team *team);

/* thread: 0 ... threads-1, who runs the piece: for scratch memory, never for a decision. */
typedef void team_body(void *context, int64_t piece, int thread);

/* Runs body for every piece 0 ... pieces-1, in no order; returns when all are done. Not to be nested, and
 * from the thread only that made the team. */
void team_run(struct team *team, int64_t pieces, team_body *body, void *context);

#endif
