/* The scores of windows, from what ranks have told of their own time. */

#include <criterion/criterion.h>

#include "daemon/straggler.h"

enum { RANKS = 4, BEGIN_MS = 100000 };

static struct rank ranks[RANKS];
static struct run run;
static double scores[RANKS];

/* Ten steps in this window, of so many milliseconds each. */
static void take(uint32_t rank, double ms)
{
    ranks[rank] = (struct rank){
        .own_steps = 60, .window_steps = 50, .own_ms = 1000 + 10 * ms, .window_own_ms = 1000};
}

static void setup(void)
{
    run = (struct run){.facts = {.ranks = RANKS},
                       .attempt = {.number = 1, .window_ms = BEGIN_MS, .ranks = ranks}};
    for (uint32_t r = 0; r < RANKS; r++) take(r, 10);
}

TestSuite(straggler, .init = setup);

static bool is_over(uint64_t after_ms)
{
    return straggler_scores(&run, BEGIN_MS + after_ms, scores);
}

Test(straggler, a_window_takes_time_and_steps_of_every_rank)
{
    cr_assert_not(is_over(STRAGGLER_WINDOW_MS - 1));
    cr_assert(is_over(STRAGGLER_WINDOW_MS));
    ranks[2].own_steps = ranks[2].window_steps + STRAGGLER_STEPS - 1;
    cr_assert_not(is_over(100 * STRAGGLER_WINDOW_MS));
    run.facts.ranks = 1;
    cr_assert_not(is_over(STRAGGLER_WINDOW_MS), "nobody to compare it with");
}

Test(straggler, a_score_is_the_median_over_the_ranks_own_time)
{
    take(1, 5);
    take(2, 30);
    take(3, 12);
    cr_assert(is_over(STRAGGLER_WINDOW_MS)); /* of 5 10 12 30 the median is 11 */
    cr_assert_float_eq(scores[0], 1.1, 1e-12);
    cr_assert_float_eq(scores[1], 2.2, 1e-12);
    cr_assert_float_eq(scores[2], 11.0 / 30, 1e-12);
    run.facts.ranks = 3;
    cr_assert(is_over(STRAGGLER_WINDOW_MS));
    cr_assert_float_eq(scores[2], 10.0 / 30, 1e-12);
}

Test(straggler, time_that_nobody_told_makes_nobody_slow)
{
    for (uint32_t r = 0; r < RANKS; r++) take(r, 0);
    cr_assert(is_over(STRAGGLER_WINDOW_MS));
    for (uint32_t r = 0; r < RANKS; r++) cr_assert_eq(scores[r], 1);
}

Test(straggler, windows_count_in_a_row)
{
    struct rank rank = {0};
    rank.slow_windows = straggler_windows(&rank, 0.69);
    rank.slow_windows = straggler_windows(&rank, 0.1);
    cr_assert_eq(rank.slow_windows, 2);
    cr_assert_eq(straggler_windows(&rank, 0.2), STRAGGLER_WINDOWS);
    cr_assert_eq(straggler_windows(&rank, 0.7), 0);
}
