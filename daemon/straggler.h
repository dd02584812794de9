#ifndef DAEMON_STRAGGLER_H
#define DAEMON_STRAGGLER_H

/*
 * Which ranks are slow. All of them do a step in the same time, for they wait for each other: what tells is a rank's own time,
 * without that wait. Ranks tell how many steps they have done in the attempt and what these took of their own time. A window is
 * over once it has lasted 5 s and every rank has told of 5 steps more; a rank's score is the median of all ranks' times for
 * a step over its own. Below 0.7 in three windows running it is slow, until a window finds it well. It is told of, never
 * killed: the run goes on at its pace. How things are now is not stored, and a new daemon begins with a new window.
 */

#include "daemon/run.h"

enum { STRAGGLER_WINDOW_MS = 5000, STRAGGLER_STEPS = 5, STRAGGLER_WINDOWS = 3 };

/* Milliseconds of its own that a rank takes for a step of the window under way; 0: not known. */
double straggler_own_ms(const struct rank *rank);

/* Of the window that is over; the scores are `scores` (run->facts.ranks). False: it goes on, or the run has one rank. */
bool straggler_scores(const struct run *run, uint64_t now_ms, double *scores);

/* Windows in a row in which it was slow, with one more of that score. */
uint32_t straggler_windows(const struct rank *rank, double score);

#endif
