/* Which runs stand still, and who is to blame, from what ranks have told. */

#include <criterion/criterion.h>
#include <string.h>

#include "daemon/stall.h"

enum { NOW_MS = 10000000, RANKS = 3 };

static struct rank ranks[RANKS];
static struct run run;
static struct stall found;

static void setup(void)
{
    run = (struct run){.facts = {.ranks = RANKS, .stall_ms = 30000},
                       .attempt = {.number = 1, .pid = 4711, .ranks = ranks}};
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = (struct rank){.heard = true, .heard_ms = NOW_MS - 200, .step = 14};
        strcpy(ranks[r].phase, "reduce");
        ranks[r].stood_ms = 40000;
        ranks[r].usual_ms = 100;
    }
}

TestSuite(stall, .init = setup);

static bool stalls(void)
{
    return stall_find(&run, NOW_MS, 0, &found);
}

static void stands(uint32_t rank, const char *phase, uint64_t stood_ms, uint64_t usual_ms)
{
    memset(ranks[rank].phase, 0, sizeof ranks[rank].phase);
    strncpy(ranks[rank].phase, phase, sizeof ranks[rank].phase - 1);
    ranks[rank].stood_ms = stood_ms;
    ranks[rank].usual_ms = usual_ms;
}

Test(stall, the_one_that_the_others_wait_for)
{
    stands(1, "backward", 45000, 300);
    cr_assert(stalls());
    cr_assert_eq(found.rank, 1);
    cr_assert_eq(found.stood_ms, 45200);
    cr_assert_eq(found.usual_ms, 300);
    cr_assert_not(found.silent);
}

Test(stall, no_run_in_which_a_rank_moves)
{
    stands(1, "backward", 45000, 300);
    ranks[2].stood_ms = 1000;
    cr_assert_not(stalls());
}

Test(stall, the_one_with_the_fewest_steps)
{
    stands(0, "checkpoint", 31000, 50);
    ranks[0].step = 13;
    stands(1, "forward", 30500, 50);
    cr_assert(stalls());
    cr_assert_eq(found.rank, 0);
}

Test(stall, not_before_five_times_the_longest)
{
    stands(1, "backward", 45000, 10000);
    cr_assert_not(stalls());
    stands(1, "backward", 50000, 10000);
    cr_assert_not(stalls(), "the others have waited for 40 s");
    ranks[0].stood_ms = ranks[2].stood_ms = 50000;
    cr_assert(stalls());
}

Test(stall, what_was_never_done_may_take_long)
{
    ranks[0].stood_ms = ranks[2].stood_ms = 700000;
    stands(1, "forward", 599000, 0);
    cr_assert_not(stalls());
    stands(1, "forward", 600000, 0);
    cr_assert(stalls());
    stands(1, "load", 700000, 0);
    cr_assert_not(stalls());
    stands(1, "of-a-newer-worker", 700000, 0);
    cr_assert_not(stalls());
}

Test(stall, the_silent_one_among_those_that_are_heard)
{
    ranks[2].heard_ms = NOW_MS - 29000;
    cr_assert_not(stalls());
    ranks[2].heard_ms = NOW_MS - 31000;
    cr_assert(stalls());
    cr_assert_eq(found.rank, 2);
    cr_assert(found.silent);
    cr_assert_eq(found.stood_ms, 31000);
}

/* They may be on the other side of a cable that is cut. */
Test(stall, silence_of_all_tells_nothing_but_on_this_machine)
{
    for (int r = 0; r < RANKS; r++) ranks[r].heard_ms = NOW_MS - 100000;
    run.facts.launcher = LAUNCHER_SLURM;
    cr_assert_not(stalls());
    run.facts.launcher = LAUNCHER_LOCAL;
    cr_assert(stalls());
}

/* A daemon that was stopped, or has just been started, has not listened. */
Test(stall, silence_counts_while_the_daemon_listens)
{
    for (int r = 0; r < RANKS; r++) ranks[r].heard_ms = NOW_MS - 100000;
    cr_assert_not(stall_find(&run, NOW_MS, NOW_MS - 20000, &found));
    cr_assert(stall_find(&run, NOW_MS, NOW_MS - 40000, &found));
}

Test(stall, never_where_the_job_says_so_or_before_the_launch)
{
    stands(1, "backward", 45000, 300);
    run.facts.stall_ms = 0;
    cr_assert_not(stalls());
    run.facts.stall_ms = 30000;
    run.attempt.pid = 0;
    cr_assert_not(stalls());
}

Test(stall, the_grace_grows_with_the_save)
{
    cr_assert_eq(stall_grace_ms(&run), 10000);
    run.save_ms = 60000;
    cr_assert_eq(stall_grace_ms(&run), 180000);
}
