#include "daemon/straggler.h"

#include <stdlib.h>

static const double SLOW_SCORE = 0.7;

double straggler_own_ms(const struct rank *rank)
{
    const uint64_t steps = rank->own_steps - rank->window_steps;
    return steps > 0 ? (rank->own_ms - rank->window_own_ms) / (double)steps : 0;
}

static bool window_is_over(const struct run *run, uint64_t now_ms)
{
    if (run->facts.ranks < 2 || now_ms < run->attempt.window_ms + STRAGGLER_WINDOW_MS) return false;
    for (uint32_t r = 0; r < run->facts.ranks; r++) {
        const struct rank *rank = &run->attempt.ranks[r];
        if (rank->own_steps - rank->window_steps < STRAGGLER_STEPS) return false;
    }
    return true;
}

static int compare_times(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static double median(double *times, uint32_t count)
{
    qsort(times, count, sizeof *times, compare_times);
    return count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
}

bool straggler_scores(const struct run *run, uint64_t now_ms, double *scores)
{
    const uint32_t ranks = run->facts.ranks;
    if (!window_is_over(run, now_ms)) return false;
    for (uint32_t r = 0; r < ranks; r++) scores[r] = straggler_own_ms(&run->attempt.ranks[r]);
    const double middle_ms = median(scores, ranks);
    for (uint32_t r = 0; r < ranks; r++) {
        const double own_ms = straggler_own_ms(&run->attempt.ranks[r]);
        scores[r] = own_ms > 0 ? middle_ms / own_ms : 1;
    }
    return true;
}

uint32_t straggler_windows(const struct rank *rank, double score)
{
    return score < SLOW_SCORE ? rank->slow_windows + 1 : 0;
}
