#include <criterion/criterion.h>

#include "proto/lifecycle.h"

enum { STATES = RUN_CANCELLED + 1, CAUSES = CAUSE_DIVERGED + 1 };

/* Row: from, column: to, in the order of the enum; written down apart from the list under test. */
static const char *const allowed[STATES] = {
    /*                QSRTEPUOFC */
    [RUN_QUEUED] = "-x---x---x",    [RUN_STARTING] = "--xxx-xxxx",   [RUN_RUNNING] = "---xx-xxxx",
    [RUN_STOPPING] = "x---xx-xxx",  [RUN_RESTARTING] = "xx---x---x", [RUN_PAUSED] = "x--------x",
    [RUN_UNKNOWN] = "-xxxx--xxx",   [RUN_SUCCEEDED] = "----------",  [RUN_FAILED] = "x---------",
    [RUN_CANCELLED] = "x---------",
};

Test(lifecycle, every_move_is_allowed_or_not)
{
    for (int from = 0; from < STATES; from++)
        for (int to = 0; to < STATES; to++)
            cr_expect_eq(run_move_allowed(from, to), allowed[from][to] == 'x', "%s to %s",
                         run_state_name(from), run_state_name(to));
}

Test(lifecycle, out_of_a_final_state_there_is_the_queue_alone)
{
    for (int from = 0; from < STATES; from++)
        for (int to = 0; to < STATES; to++)
            if (run_state_is_final(from) && to != RUN_QUEUED)
                cr_expect(!run_move_allowed(from, to));
    cr_assert(run_state_is_final(RUN_SUCCEEDED));
    cr_assert(run_state_is_final(RUN_FAILED));
    cr_assert(run_state_is_final(RUN_CANCELLED));
    cr_assert(!run_state_is_final(RUN_UNKNOWN));
}

Test(lifecycle, names_go_both_ways)
{
    for (int i = 0; i < STATES; i++) {
        enum run_state state = RUN_QUEUED;
        cr_assert(run_state_from_name(run_state_name(i), &state));
        cr_assert_eq((int)state, i);
    }
    for (int i = 0; i < CAUSES; i++) {
        enum attempt_cause cause = CAUSE_NONE;
        cr_assert(attempt_cause_from_name(attempt_cause_name(i), &cause));
        cr_assert_eq((int)cause, i);
        cr_assert_neq(attempt_cause_words(i)[0], '\0');
    }
    enum run_state state = RUN_PAUSED;
    cr_assert(!run_state_from_name("running", &state));
    cr_assert_eq(state, RUN_PAUSED);
    enum attempt_cause cause = CAUSE_LOST;
    cr_assert(!attempt_cause_from_name("CRASHED", &cause));
    cr_assert_eq(cause, CAUSE_LOST);
}

Test(lifecycle, what_a_new_attempt_cannot_cure_does_not_restart)
{
    cr_assert(attempt_cause_restarts(CAUSE_CRASH));
    cr_assert(attempt_cause_restarts(CAUSE_LOST));
    cr_assert_eq(attempt_cause_budget(CAUSE_HANG), BUDGET_CRASH);
    cr_assert_eq(restart_budget_attempts(BUDGET_CRASH), RESTARTS_BY_JOB);
    cr_assert_eq(attempt_cause_budget(CAUSE_NODE_LOST), BUDGET_NODE);
    cr_assert_eq(attempt_cause_budget(CAUSE_PREEMPTED), BUDGET_PREEMPTION);
    cr_assert_eq(restart_budget_attempts(BUDGET_PREEMPTION), RESTARTS_UNLIMITED);
    cr_assert_not(restart_budget_loops(BUDGET_PREEMPTION));
    cr_assert(restart_budget_loops(BUDGET_TIME_LIMIT));
    cr_assert(!attempt_cause_restarts(CAUSE_FINISHED));
    cr_assert(!attempt_cause_restarts(CAUSE_CANCELLED));
    cr_assert(!attempt_cause_restarts(CAUSE_PAUSED));
    cr_assert(!attempt_cause_restarts(CAUSE_KILLED));
    cr_assert(!attempt_cause_restarts(CAUSE_BAD_DATA));
    cr_assert_eq(restart_budget_attempts(attempt_cause_budget(CAUSE_DIVERGED)), 3);
    cr_assert_not(restart_budget_loops(BUDGET_DIVERGENCE));
}
