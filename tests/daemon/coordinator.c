#include "daemon/coordinator.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "daemon/stall.h"
#include "tests/daemon/stage.h"

/* ---- lives, line by line ---- */

struct line {
    const char *act;
    const char *state; /* of the run after it */
    enum status answer;
};

#define LIFE(name, ...)                                                                \
    Test(life, name)                                                                   \
    {                                                                                  \
        static const struct line lines[] = {{"submit", "QUEUED", ST_OK}, __VA_ARGS__}; \
        live(lines, sizeof lines / sizeof lines[0]);                                   \
    }

static void live(const struct line *lines, size_t count)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    for (size_t i = 0; i < count; i++) {
        const struct answer *answer = stage_act(&stage, lines[i].act);
        cr_assert_eq(answer->status, lines[i].answer, "line %zu, %s: answered %s", i, lines[i].act,
                     answer->status == ST_OK ? "ok" : answer->text);
        const char *state = run_state_name(stage_run(&stage)->state);
        cr_assert_str_eq(state, lines[i].state, "line %zu, %s: is %s, not %s", i, lines[i].act,
                         state, lines[i].state);
        if (answer->status != ST_OK) cr_assert_gt(strlen(answer->text), 10);
    }
    stage_fini(&stage);
}

#define UNTIL_RUNNING                                             \
    {"tick", "STARTING", ST_OK}, {"launched", "STARTING", ST_OK}, \
    {                                                             \
        "report", "RUNNING", ST_OK                                \
    }
#define AGAIN_AFTER(wait)                                               \
    {"wait " wait, "STARTING", ST_OK}, {"launched", "STARTING", ST_OK}, \
    {                                                                   \
        "report", "RUNNING", ST_OK                                      \
    }

LIFE(finishes, UNTIL_RUNNING, {"end FINISHED", "SUCCEEDED", ST_OK})
LIFE(bad_data_is_not_tried_again, UNTIL_RUNNING, {"end BAD_DATA", "FAILED", ST_OK})
LIFE(a_bad_job_is_not_tried_again, UNTIL_RUNNING, {"end BAD_JOB", "FAILED", ST_OK})
LIFE(divergence_is_not_tried_again, UNTIL_RUNNING, {"end DIVERGED", "FAILED", ST_OK})
LIFE(fails_before_any_report, {"tick", "STARTING", ST_OK}, {"launched", "STARTING", ST_OK},
     {"end BAD_JOB", "FAILED", ST_OK})

LIFE(crashes_within_budget, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"wait 999", "RESTARTING", ST_OK}, AGAIN_AFTER("1"), {"saves 10", "RUNNING", ST_OK},
     {"end HANG", "RESTARTING", ST_OK}, {"wait 999", "RESTARTING", ST_OK}, AGAIN_AFTER("1"),
     {"saves 20", "RUNNING", ST_OK}, {"end OUT_OF_MEMORY", "RESTARTING", ST_OK},
     AGAIN_AFTER("1000"), {"saves 30", "RUNNING", ST_OK}, {"end CRASH", "FAILED", ST_OK})
LIFE(comes_no_further_in_two_attempts, UNTIL_RUNNING, {"saves 10", "RUNNING", ST_OK},
     {"end CRASH", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"saves 10", "RUNNING", ST_OK},
     {"end LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"end CRASH", "FAILED", ST_OK})
LIFE(launch_failures_use_the_same_budget, {"tick", "STARTING", ST_OK},
     {"launch_failed", "RESTARTING", ST_OK}, {"wait 1000", "STARTING", ST_OK},
     {"end LOST", "FAILED", ST_OK})
LIFE(losses_of_the_machine_have_a_budget_of_their_own_and_back_off, UNTIL_RUNNING,
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, {"wait 1999", "RESTARTING", ST_OK}, AGAIN_AFTER("1"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, {"wait 3999", "RESTARTING", ST_OK}, AGAIN_AFTER("1"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("8000"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("16000"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("32000"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, {"wait 59999", "RESTARTING", ST_OK}, AGAIN_AFTER("1"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("60000"), {"restart", "RUNNING", ST_OK},
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("60000"),
     {"end NODE_LOST", "RESTARTING", ST_OK}, AGAIN_AFTER("60000"),
     {"end NODE_LOST", "FAILED", ST_OK})
LIFE(a_time_limit_is_no_end_while_it_progresses, UNTIL_RUNNING, {"saves 10", "RUNNING", ST_OK},
     {"end TIME_LIMIT", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"saves 20", "RUNNING", ST_OK},
     {"end TIME_LIMIT", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"saves 30", "RUNNING", ST_OK},
     {"end TIME_LIMIT", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"saves 40", "RUNNING", ST_OK},
     {"end TIME_LIMIT", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"),
     {"end TIME_LIMIT", "RESTARTING", ST_OK}, {"restart", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"),
     {"end TIME_LIMIT", "FAILED", ST_OK})
LIFE(a_preemption_is_nobodys_fault, UNTIL_RUNNING, {"end PREEMPTED", "RESTARTING", ST_OK},
     AGAIN_AFTER("1000"), {"end PREEMPTED", "RESTARTING", ST_OK}, AGAIN_AFTER("2000"),
     {"end PREEMPTED", "RESTARTING", ST_OK}, AGAIN_AFTER("4000"),
     {"end PREEMPTED", "RESTARTING", ST_OK}, AGAIN_AFTER("8000"),
     {"end PREEMPTED", "RESTARTING", ST_OK})
LIFE(a_daemon_that_died_before_launching_costs_nothing, {"tick", "STARTING", ST_OK},
     {"restart", "STARTING", ST_OK}, {"unlaunched", "RESTARTING", ST_OK},
     {"tick", "STARTING", ST_OK}, {"restart", "STARTING", ST_OK},
     {"unlaunched", "RESTARTING", ST_OK}, {"tick", "STARTING", ST_OK},
     {"restart", "STARTING", ST_OK}, {"unlaunched", "RESTARTING", ST_OK},
     {"tick", "STARTING", ST_OK}, {"restart", "STARTING", ST_OK},
     {"unlaunched", "RESTARTING", ST_OK}, UNTIL_RUNNING, {"end FINISHED", "SUCCEEDED", ST_OK})
LIFE(the_daemon_dies_and_adopts, UNTIL_RUNNING, {"restart", "RUNNING", ST_OK},
     {"adopted", "RUNNING", ST_OK}, {"report", "RUNNING", ST_OK},
     {"end FINISHED", "SUCCEEDED", ST_OK})
LIFE(the_daemon_dies_and_it_ends_meanwhile, UNTIL_RUNNING, {"restart", "RUNNING", ST_OK},
     {"end FINISHED", "SUCCEEDED", ST_OK})
LIFE(a_back_off_outlives_a_pause, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"pause", "PAUSED", ST_OK}, {"resume", "QUEUED", ST_OK}, {"wait 999", "QUEUED", ST_OK},
     {"restart", "QUEUED", ST_OK}, {"wait 999", "QUEUED", ST_OK}, AGAIN_AFTER("1"))
LIFE(a_requeue_ends_a_back_off, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"pause", "PAUSED", ST_OK}, {"requeue", "QUEUED", ST_OK}, {"restart", "QUEUED", ST_OK},
     {"tick", "STARTING", ST_OK})
LIFE(backs_off_anew_after_a_restart, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"restart", "RESTARTING", ST_OK}, {"wait 999", "RESTARTING", ST_OK}, AGAIN_AFTER("1"))

LIFE(silence_is_no_failure, UNTIL_RUNNING, {"wait 30000", "RUNNING", ST_OK},
     {"wait 1", "UNKNOWN", ST_OK}, {"wait 100000000", "UNKNOWN", ST_OK},
     {"report", "RUNNING", ST_OK}, {"wait 30001", "UNKNOWN", ST_OK},
     {"end CRASH", "RESTARTING", ST_OK})
LIFE(a_slow_start_has_longer, {"tick", "STARTING", ST_OK}, {"launched", "STARTING", ST_OK},
     {"wait 180000", "STARTING", ST_OK}, {"wait 1", "UNKNOWN", ST_OK}, {"report", "RUNNING", ST_OK})
LIFE(a_restarted_daemon_gives_a_new_lease, UNTIL_RUNNING, {"wait 29000", "RUNNING", ST_OK},
     {"restart", "RUNNING", ST_OK}, {"wait 30000", "RUNNING", ST_OK}, {"wait 1", "UNKNOWN", ST_OK},
     {"end LOST", "RESTARTING", ST_OK})

LIFE(cancel_queued, {"cancel", "CANCELLED", ST_OK}, {"cancel", "CANCELLED", ST_OK},
     {"kill", "CANCELLED", ST_OK}, {"tick", "CANCELLED", ST_OK})
LIFE(cancel_starting, {"tick", "STARTING", ST_OK}, {"cancel", "STOPPING", ST_OK},
     {"launched", "STOPPING", ST_OK}, {"report", "STOPPING", ST_OK},
     {"end CANCELLED", "CANCELLED", ST_OK})
LIFE(cancel_running, UNTIL_RUNNING, {"cancel", "STOPPING", ST_OK}, {"cancel", "STOPPING", ST_OK},
     {"wait 1000000", "STOPPING", ST_OK}, {"report", "STOPPING", ST_OK},
     {"end CANCELLED", "CANCELLED", ST_OK})
LIFE(cancel_unknown, UNTIL_RUNNING, {"wait 30001", "UNKNOWN", ST_OK}, {"cancel", "STOPPING", ST_OK},
     {"end CANCELLED", "CANCELLED", ST_OK})
LIFE(cancel_restarting, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"cancel", "CANCELLED", ST_OK}, {"wait 100000", "CANCELLED", ST_OK})
LIFE(cancel_comes_as_the_last_step_is_done, UNTIL_RUNNING, {"cancel", "STOPPING", ST_OK},
     {"end FINISHED", "SUCCEEDED", ST_OK}, {"cancel", "SUCCEEDED", ST_REFUSED})
LIFE(a_crash_while_stopping_is_a_failure, UNTIL_RUNNING, {"cancel", "STOPPING", ST_OK},
     {"end CRASH", "FAILED", ST_OK}, {"cancel", "FAILED", ST_REFUSED},
     {"kill", "FAILED", ST_REFUSED})
LIFE(cancel_before_a_launch_that_never_was, {"tick", "STARTING", ST_OK},
     {"cancel", "STOPPING", ST_OK}, {"restart", "STOPPING", ST_OK},
     {"unlaunched", "CANCELLED", ST_OK})

LIFE(kill_queued, {"kill", "CANCELLED", ST_OK})
LIFE(kill_running, UNTIL_RUNNING, {"kill", "STOPPING", ST_OK}, {"kill", "STOPPING", ST_OK},
     {"end CRASH", "CANCELLED", ST_OK})
LIFE(kill_after_cancel, UNTIL_RUNNING, {"cancel", "STOPPING", ST_OK}, {"kill", "STOPPING", ST_OK},
     {"end LOST", "CANCELLED", ST_OK})
LIFE(kill_restarting, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"kill", "CANCELLED", ST_OK})
LIFE(kill_comes_too_late, UNTIL_RUNNING, {"kill", "STOPPING", ST_OK},
     {"end FINISHED", "SUCCEEDED", ST_OK})

LIFE(pause_and_resume, UNTIL_RUNNING, {"pause", "STOPPING", ST_OK}, {"pause", "STOPPING", ST_OK},
     {"redraw", "STOPPING", ST_REFUSED}, {"report", "STOPPING", ST_OK},
     {"end CANCELLED", "PAUSED", ST_OK}, {"pause", "PAUSED", ST_OK}, {"restart", "PAUSED", ST_OK},
     {"wait 100000000", "PAUSED", ST_OK}, {"resume", "QUEUED", ST_OK}, {"resume", "QUEUED", ST_OK},
     UNTIL_RUNNING, {"resume", "RUNNING", ST_OK}, {"end FINISHED", "SUCCEEDED", ST_OK},
     {"pause", "SUCCEEDED", ST_REFUSED}, {"resume", "SUCCEEDED", ST_REFUSED},
     {"requeue", "SUCCEEDED", ST_REFUSED})
LIFE(pause_holds_what_waits, {"pause", "PAUSED", ST_OK}, {"tick", "PAUSED", ST_OK},
     {"resume", "QUEUED", ST_OK}, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"pause", "PAUSED", ST_OK}, {"wait 100000", "PAUSED", ST_OK}, {"cancel", "CANCELLED", ST_OK})
LIFE(pause_before_a_launch_that_never_was, {"tick", "STARTING", ST_OK},
     {"pause", "STOPPING", ST_OK}, {"restart", "STOPPING", ST_OK}, {"unlaunched", "PAUSED", ST_OK},
     {"kill", "CANCELLED", ST_OK})
LIFE(pause_and_the_last_step_is_done, UNTIL_RUNNING, {"pause", "STOPPING", ST_OK},
     {"end FINISHED", "SUCCEEDED", ST_OK})
LIFE(pause_and_a_rank_dies, UNTIL_RUNNING, {"pause", "STOPPING", ST_OK},
     {"end CRASH", "PAUSED", ST_OK}, {"resume", "QUEUED", ST_OK}, AGAIN_AFTER("1000"),
     {"pause", "STOPPING", ST_OK}, {"end DIVERGED", "FAILED", ST_OK})
LIFE(pausing_may_turn_into_an_end, UNTIL_RUNNING, {"pause", "STOPPING", ST_OK},
     {"cancel", "STOPPING", ST_OK}, {"pause", "STOPPING", ST_REFUSED},
     {"resume", "STOPPING", ST_REFUSED}, {"requeue", "STOPPING", ST_REFUSED},
     {"end CANCELLED", "CANCELLED", ST_OK}, {"pause", "CANCELLED", ST_REFUSED},
     {"resume", "CANCELLED", ST_REFUSED})
LIFE(resume_while_it_stops_queues_it_again, UNTIL_RUNNING, {"pause", "STOPPING", ST_OK},
     {"resume", "STOPPING", ST_OK}, {"end CANCELLED", "QUEUED", ST_OK}, UNTIL_RUNNING)
LIFE(a_kill_while_it_pauses, UNTIL_RUNNING, {"pause", "STOPPING", ST_OK},
     {"kill", "STOPPING", ST_OK}, {"end CANCELLED", "CANCELLED", ST_OK})

LIFE(requeue_of_what_is_over, {"cancel", "CANCELLED", ST_OK}, {"requeue", "QUEUED", ST_OK},
     {"requeue", "QUEUED", ST_OK}, UNTIL_RUNNING, {"end BAD_DATA", "FAILED", ST_OK},
     {"requeue", "QUEUED", ST_OK}, {"restart", "QUEUED", ST_OK}, UNTIL_RUNNING,
     {"kill", "STOPPING", ST_OK}, {"end KILLED", "CANCELLED", ST_OK}, {"requeue", "QUEUED", ST_OK},
     UNTIL_RUNNING, {"end FINISHED", "SUCCEEDED", ST_OK})
LIFE(requeue_of_what_runs_saves_first, UNTIL_RUNNING, {"requeue", "STOPPING", ST_OK},
     {"report", "STOPPING", ST_OK}, {"end CANCELLED", "QUEUED", ST_OK}, UNTIL_RUNNING)
LIFE(requeue_gives_a_whole_budget, {"tick", "STARTING", ST_OK},
     {"launch_failed", "RESTARTING", ST_OK}, {"wait 1000", "STARTING", ST_OK},
     {"launch_failed", "FAILED", ST_OK}, {"requeue", "QUEUED", ST_OK}, {"tick", "STARTING", ST_OK},
     {"launch_failed", "RESTARTING", ST_OK}, {"restart", "RESTARTING", ST_OK},
     {"requeue", "QUEUED", ST_OK}, {"tick", "STARTING", ST_OK},
     {"launch_failed", "RESTARTING", ST_OK})
LIFE(what_was_told_to_queue_again_costs_nothing_by_its_end, UNTIL_RUNNING,
     {"end CRASH", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"requeue", "STOPPING", ST_OK},
     {"end CRASH", "QUEUED", ST_OK}, {"restart", "QUEUED", ST_OK}, UNTIL_RUNNING,
     {"end CRASH", "RESTARTING", ST_OK})

LIFE(nobody_ordered_that_stop, UNTIL_RUNNING, {"end CANCELLED", "RESTARTING", ST_OK},
     AGAIN_AFTER("1000"), {"saves 10", "RUNNING", ST_OK}, {"end KILLED", "RESTARTING", ST_OK})

LIFE(orders_need_a_run_that_trains, {"redraw", "QUEUED", ST_REFUSED},
     {"checkpoint", "QUEUED", ST_REFUSED}, {"evaluate", "QUEUED", ST_REFUSED},
     {"tick", "STARTING", ST_OK}, {"evaluate", "STARTING", ST_OK},
     {"checkpoint", "STARTING", ST_OK}, {"launched", "STARTING", ST_OK},
     {"report", "RUNNING", ST_OK}, {"redraw", "RUNNING", ST_OK}, {"wait 30001", "UNKNOWN", ST_OK},
     {"redraw", "UNKNOWN", ST_OK}, {"end CRASH", "RESTARTING", ST_OK},
     {"redraw", "RESTARTING", ST_OK}, AGAIN_AFTER("1000"), {"cancel", "STOPPING", ST_OK},
     {"redraw", "STOPPING", ST_REFUSED}, {"checkpoint", "STOPPING", ST_REFUSED},
     {"evaluate", "STOPPING", ST_REFUSED}, {"end CANCELLED", "CANCELLED", ST_OK},
     {"redraw", "CANCELLED", ST_REFUSED}, {"checkpoint", "CANCELLED", ST_REFUSED},
     {"evaluate", "CANCELLED", ST_REFUSED})

LIFE(a_stranger_event_changes_nothing, UNTIL_RUNNING, {"end CRASH", "RESTARTING", ST_OK},
     {"end CRASH", "RESTARTING", ST_OK}, {"end LOST", "RESTARTING", ST_OK},
     {"launched", "RESTARTING", ST_OK}, {"adopted", "RESTARTING", ST_OK},
     {"unlaunched", "RESTARTING", ST_OK})

static void begin(struct stage *stage, const char *path)
{
    stage_init(stage, 4, path);
    stage_act(stage, "submit");
    stage_act(stage, "tick");
    stage_act(stage, "launched");
}

static Performer__MetricRow metric(uint64_t step, const char *name, double value)
{
    Performer__MetricRow row = PERFORMER__METRIC_ROW__INIT;
    row.step = step;
    row.name = (char *)name;
    row.value = value;
    row.time_ms = 1700000000000 + step;
    return row;
}

/* ---- submit and admission ---- */

Test(submit, is_idempotent_by_key)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    cr_assert_eq(stage_submit(&stage, 1, 0, "abc"), 1);
    cr_assert_eq(stage_submit(&stage, 1, 0, "abc"), 1);
    cr_assert_eq(stage.decision.record_count, 0);
    cr_assert_eq(stage_submit(&stage, 1, 0, "abd"), 2);
    stage_restart(&stage);
    cr_assert_eq(stage_submit(&stage, 1, 0, "abc"), 1);
    cr_assert_eq(stage_submit(&stage, 1, 0, ""), 3);
    cr_assert_eq(stage_submit(&stage, 1, 0, NULL), 4, "no key is no key");
    char longer[RUN_KEY_MAX + 2];
    memset(longer, 'k', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    stage_submit(&stage, 1, 0, longer);
    cr_assert_eq(stage.decision.answer.status, ST_INVALID);
    cr_assert_eq(stage.coordinator.run_count, 4);
    stage_fini(&stage);
}

Test(submit, refuses_what_can_never_run)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_submit(&stage, 5, 0, NULL);
    cr_assert_eq(stage.decision.answer.status, ST_REFUSED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "--max-ranks 5"));
    cr_assert_eq(stage.decision.record_count, 0);
    cr_assert_eq(stage_submit(&stage, 4, 0, NULL), 1);
    cr_assert_eq(stage_effects(&stage, EFFECT_WRITE_JOB), 1);
    stage_fini(&stage);
}

static enum run_state state_of(const struct stage *stage, uint64_t run)
{
    return coordinator_run(&stage->coordinator, run)->state;
}

static void reason_of(const struct stage *stage, uint64_t run, char *text, size_t size)
{
    coordinator_reason(&stage->coordinator, coordinator_run(&stage->coordinator, run),
                       stage->now_ms, text, size);
}

Test(admission, is_in_order_of_submit_while_ranks_are_free)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    for (int i = 0; i < 4; i++) stage_submit(&stage, (uint32_t[]){2, 3, 1, 1}[i], 1, NULL);
    for (int i = 0; i < 4; i++) stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 1), RUN_STARTING);
    cr_assert_eq(state_of(&stage, 2), RUN_QUEUED);
    cr_assert_eq(state_of(&stage, 3), RUN_QUEUED, "it would fit, but the one before it waits");
    char text[200];
    reason_of(&stage, 2, text, sizeof text);
    cr_assert_str_eq(text, "waits for 3 ranks: 2 of 4 are in use");
    reason_of(&stage, 3, text, sizeof text);
    cr_assert_str_eq(text, "waits behind r2");

    stage.run = 1;
    stage_act(&stage, "launched");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_QUEUED, "ranks are kept for the one that restarts");
    reason_of(&stage, 1, text, sizeof text);
    cr_assert_not_null(strstr(text, "attempt 2 begins in 1 s"), "%s", text);
    stage_act(&stage, "cancel");
    for (int i = 0; i < 4; i++) stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_STARTING);
    cr_assert_eq(state_of(&stage, 3), RUN_STARTING);
    cr_assert_eq(state_of(&stage, 4), RUN_QUEUED);
    cr_assert_eq(coordinator_ranks_in_use(&stage.coordinator), 4);
    stage_fini(&stage);
}

Test(admission, steps_over_what_no_longer_fits)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_submit(&stage, 4, 1, NULL);
    stage_submit(&stage, 1, 1, NULL);
    stage.coordinator.ranks_max = 2; /* the daemon was started anew with less */
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 1), RUN_QUEUED);
    cr_assert_eq(state_of(&stage, 2), RUN_STARTING);
    char text[200];
    reason_of(&stage, 1, text, sizeof text);
    cr_assert_str_eq(text, "needs 4 ranks, and this daemon runs at most 2");
    stage_fini(&stage);
}

Test(admission, higher_priority_first_and_none_overtakes_who_waits_for_room)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage_submit_queued(&stage, 3, 0, NULL);
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 1), RUN_STARTING);
    stage_submit_queued(&stage, 1, -1, NULL);
    stage_submit_queued(&stage, 1, 0, NULL);
    stage_submit_queued(&stage, 2, 7, NULL);
    stage_restart(&stage);
    for (int i = 0; i < 4; i++) stage_act(&stage, "tick");
    for (uint64_t run = 2; run <= 4; run++)
        cr_assert_eq(state_of(&stage, run), RUN_QUEUED, "r%d would fit, but comes later", (int)run);
    char text[200];
    reason_of(&stage, 4, text, sizeof text);
    cr_assert_str_eq(text, "waits for 2 ranks: 3 of 4 are in use");
    reason_of(&stage, 3, text, sizeof text);
    cr_assert_str_eq(text, "waits behind r4");

    stage_act(&stage, "end BAD_JOB");
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 4), RUN_STARTING);
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 3), RUN_STARTING);
    cr_assert_eq(state_of(&stage, 2), RUN_QUEUED);
    stage_fini(&stage);
}

Test(after, begins_once_the_others_have_succeeded_and_keeps_nobody_waiting)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage_submit_queued(&stage, 2, 0, NULL);
    stage_submit_queued(&stage, 4, 9, "r1");
    stage_submit_queued(&stage, 2, 0, NULL);
    stage_restart(&stage);
    cr_assert_eq(coordinator_run(&stage.coordinator, 2)->after_count, 1);
    for (int i = 0; i < 3; i++) stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 1), RUN_STARTING);
    cr_assert_eq(state_of(&stage, 2), RUN_QUEUED);
    cr_assert_eq(state_of(&stage, 3), RUN_STARTING);
    char text[200];
    reason_of(&stage, 2, text, sizeof text);
    cr_assert_str_eq(text, "after r1, which is STARTING");
    stage_act(&stage, "end FINISHED");
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_QUEUED);
    reason_of(&stage, 2, text, sizeof text);
    cr_assert_str_eq(text, "waits for 4 ranks: 2 of 4 are in use");
    stage.run = 3;
    stage_act(&stage, "end FINISHED");
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_STARTING);
    stage_fini(&stage);
}

Test(after, is_cancelled_with_those_behind_it_where_one_ends_otherwise)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage_submit_queued(&stage, 1, 0, NULL);
    stage_submit_queued(&stage, 1, 0, "r1");
    stage_submit_queued(&stage, 1, 0, "r2");
    stage_act(&stage, "tick");
    stage_act(&stage, "end BAD_DATA");
    cr_assert_eq(state_of(&stage, 1), RUN_FAILED);
    for (int i = 0; i < 2; i++) stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_CANCELLED);
    cr_assert_eq(state_of(&stage, 3), RUN_CANCELLED);
    char text[200];
    reason_of(&stage, 2, text, sizeof text);
    cr_assert_str_eq(text, "it was to come after r1, which has FAILED");
    reason_of(&stage, 3, text, sizeof text);
    cr_assert_str_eq(text, "it was to come after r2, which has CANCELLED");
    stage_fini(&stage);
}

Test(after, what_can_never_begin_is_refused)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    cr_assert_eq(stage_submit_queued(&stage, 1, 0, "r1"), 0, "nothing comes after itself");
    cr_assert_eq(stage.decision.answer.status, ST_NOT_FOUND);
    cr_assert_not_null(strstr(stage.decision.answer.text, "`after` in [queue]"));
    cr_assert_eq(stage_submit_queued(&stage, 1, 0, NULL), 1);
    cr_assert_eq(stage_submit_queued(&stage, 1, 0, "job"), 2, "a name will do");
    stage_act(&stage, "cancel");
    cr_assert_eq(stage_submit_queued(&stage, 1, 0, "r1"), 0);
    cr_assert_eq(stage.decision.answer.status, ST_REFUSED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "r1 has CANCELLED"));
    cr_assert_eq(stage.decision.record_count, 0);
    stage_fini(&stage);
}

Test(after, counts_a_run_once)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    for (int i = 0; i < 3; i++) stage_submit_queued(&stage, 1, 0, NULL);
    struct run_facts facts = stage_run(&stage)->facts;
    char *names[] = {"r3", "r1", "r3", "r1"};
    const struct text_list after = {.count = 4, .items = names};
    stage_send(
        &stage,
        (struct event){.kind = EVENT_SUBMIT,
                       .submit = {.facts = &facts, .after = &after, .text = "t", .resolved = "t"}});
    const struct run *run = coordinator_run(&stage.coordinator, 4);
    cr_assert_eq(run->after_count, 2);
    cr_assert_eq(run->after[0], 1);
    cr_assert_eq(run->after[1], 3);
    stage_fini(&stage);
}

static void save_in(struct stage *stage, uint64_t step, double seconds)
{
    Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    Performer__Report report = stage_next_report(stage, 0);
    saved.path = (char *)"checkpoints/somewhere";
    saved.seconds = seconds;
    notice.step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED;
    notice.checkpoint_saved = &saved;
    report.n_notices = 1;
    report.notices = notices;
    stage_report(stage, &report);
}

static const struct answer *requeue(struct stage *stage, const char *key)
{
    struct event event = {.kind = EVENT_ACT};
    event.act =
        (struct event_act){.run = "r1", .action = PERFORMER__ACTION__ACTION_REQUEUE, .key = key};
    return stage_send(stage, event);
}

Test(requeue, that_comes_again_changes_nothing)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage_submit(&stage, 1, 3, NULL);
    stage_act(&stage, "cancel");
    cr_assert_eq(requeue(&stage, "a")->status, ST_OK);
    stage_act(&stage, "tick");
    stage_restart(&stage);
    cr_assert_eq(requeue(&stage, "a")->status, ST_OK);
    cr_assert_eq(stage.decision.record_count, 0);
    cr_assert_eq(state_of(&stage, 1), RUN_STARTING);
    cr_assert_eq(requeue(&stage, "b")->status, ST_OK);
    cr_assert_eq(state_of(&stage, 1), RUN_STOPPING);
    char longer[RUN_KEY_MAX + 2] = {0};
    memset(longer, 'k', sizeof longer - 1);
    cr_assert_eq(requeue(&stage, longer)->status, ST_INVALID);
    stage_fini(&stage);
}

Test(requeue, of_what_could_never_begin_is_refused)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage_submit(&stage, 3, 0, NULL);
    stage_act(&stage, "tick");
    stage_submit_queued(&stage, 1, 0, "r1");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "tick");
    stage.run = 2;
    cr_assert_eq(state_of(&stage, 2), RUN_CANCELLED);
    cr_assert_eq(stage_act(&stage, "requeue")->status, ST_REFUSED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "requeue that one first"));
    stage.coordinator.ranks_max = 2; /* the daemon was started anew with less */
    cr_assert_eq(requeue(&stage, "")->status, ST_REFUSED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "--max-ranks 3"));
    stage.coordinator.ranks_max = 3;
    cr_assert_eq(requeue(&stage, "")->status, ST_OK);
    cr_assert_eq(stage_run(&stage)->ended_ms > 0, true);
    cr_assert_eq(stage_act(&stage, "requeue")->status, ST_OK);
    cr_assert_eq(stage_run(&stage)->ended_ms, 0);
    for (int i = 0; i < 3; i++) stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 1), RUN_STARTING);
    cr_assert_eq(state_of(&stage, 2), RUN_QUEUED);
    stage_fini(&stage);
}

/* It costs nothing, keeps its ranks, and goes on at once. */
Test(drill, rehearses_a_stop_and_goes_on)
{
    struct stage stage;
    stage_init(&stage, 2, ":memory:");
    stage_submit(&stage, 2, 3, NULL);
    cr_assert_eq(stage_act(&stage, "drill")->status, ST_REFUSED);
    stage_act(&stage, "tick");
    stage_act(&stage, "launched");
    stage_act(&stage, "report");
    stage_submit_queued(&stage, 2, 9, NULL);
    const uint64_t stop = stage_act(&stage, "drill")->order;
    cr_assert_gt(stop, 0);
    cr_assert_eq(stage_run(&stage)->state, RUN_STOPPING);
    cr_assert_eq(stage_act(&stage, "drill")->status, ST_REFUSED, "one at a time");
    stage.wall_ms += 1500;
    stage_act(&stage, "saves 17");
    stage.wall_ms += 500;
    stage_act(&stage, "restart");
    stage_act(&stage, "end CANCELLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
    cr_assert(stage_noted(&stage, NOTE_DRILLED));
    cr_assert_not(stage_noted(&stage, NOTE_STOP_TOO_SLOW));
    cr_assert_eq(run_order(stage_run(&stage), stop)->state, ORDER_DROPPED);
    stage_act(&stage, "restart");
    const struct drill *drill = &stage_run(&stage)->drill;
    cr_assert_eq(drill->attempt, 1);
    cr_assert_eq(drill->save_ms, 1500);
    cr_assert_eq(drill->exit_ms, 2000);
    for (int budget = 0; budget < BUDGET_COUNT; budget++)
        cr_assert_eq(stage_run(&stage)->spent[budget], 0);
    stage_act(&stage, "tick");
    cr_assert_eq(stage_run(&stage)->state, RUN_STARTING, "before one of higher priority");
    stage_fini(&stage);
}

Test(drill, tells_where_the_stop_took_too_long)
{
    struct stage stage;
    begin(&stage, ":memory:");
    stage_act(&stage, "report");
    stage_act(&stage, "drill");
    stage_act(&stage, "saves 17");
    stage.wall_ms += 10001;
    stage_act(&stage, "end CANCELLED");
    cr_assert(stage_noted(&stage, NOTE_STOP_TOO_SLOW));
    cr_assert_eq(run_stop_ms(stage_run(&stage)), 0, "no save has told its time");
    stage_fini(&stage);
}

Test(drill, that_comes_to_nothing)
{
    struct stage stage;
    begin(&stage, ":memory:");
    stage_act(&stage, "report");
    stage_act(&stage, "drill");
    stage_act(&stage, "end CRASH");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING, "as without it");
    cr_assert_eq(stage_run(&stage)->spent[BUDGET_CRASH], 1);
    cr_assert_eq(stage_run(&stage)->drill.attempt, 0);
    stage_act(&stage, "wait 1000");
    stage_act(&stage, "report");
    stage_act(&stage, "drill");
    stage_act(&stage, "cancel"); /* meanwhile */
    stage_act(&stage, "end CANCELLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_CANCELLED);
    cr_assert_eq(stage_run(&stage)->drill.attempt, 0);
    stage_fini(&stage);
}

/* A save that takes longer than Slurm gives is told of when it comes to be so. */
Test(grace, that_is_too_short_is_told_once)
{
    struct stage stage;
    begin(&stage, ":memory:");
    static const double seconds[] = {4, 6, 7, 4, 11};
    for (int i = 0; i < 5; i++) {
        stage.coordinator.runs[0]->facts.grace_ms = 5000;
        save_in(&stage, 10 * (uint64_t)(i + 1), seconds[i]);
        cr_assert_eq(stage_noted(&stage, NOTE_STOP_TOO_SLOW), i == 1 || i == 4, "save %d", i);
    }
    cr_assert_eq(run_stop_ms(stage_run(&stage)), 11000);
    stage.coordinator.runs[0]->facts.grace_ms = 0;
    cr_assert_eq(run_grace_ms(stage_run(&stage)), STALL_GRACE_SAVES * UINT64_C(11000));
    stage_fini(&stage);
}

/* It stands aside: who comes behind it in the line begins first. */
Test(pause, one_that_backs_off_holds_nobody_up)
{
    struct stage stage;
    stage_init(&stage, 2, ":memory:");
    stage_submit(&stage, 2, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "pause");
    stage_act(&stage, "resume");
    stage_submit(&stage, 2, 3, NULL);
    char text[200];
    reason_of(&stage, 1, text, sizeof text);
    cr_assert_str_eq(text, "resumed; attempt 2 begins in 1 s");
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 1), RUN_QUEUED);
    cr_assert_eq(state_of(&stage, 2), RUN_STARTING);
    stage_fini(&stage);
}

/* The order to stop was for the attempt; what was asked for besides waits for the next one. */
Test(pause, keeps_orders_and_frees_the_ranks)
{
    struct stage stage;
    stage_init(&stage, 2, ":memory:");
    stage_submit(&stage, 2, 3, NULL);
    stage_submit(&stage, 2, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "launched");
    stage_act(&stage, "report");
    uint64_t redraw = stage_act(&stage, "redraw")->order;
    uint64_t stop = stage_act(&stage, "pause")->order;
    cr_assert_gt(stop, redraw);
    cr_assert_eq(stage_act(&stage, "pause")->order, stop);
    cr_assert_eq(stage_act(&stage, "report")->order_count, 2);
    stage_act(&stage, "end CANCELLED");
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_PAUSED);
    cr_assert_eq(run_order(stage_run(&stage), redraw)->state, ORDER_PENDING);
    cr_assert_eq(run_order(stage_run(&stage), stop)->state, ORDER_DROPPED);
    cr_assert_eq(coordinator_ranks_in_use(&stage.coordinator), 0);
    char text[200];
    reason_of(&stage, 1, text, sizeof text);
    cr_assert_not_null(strstr(text, "performerctl resume r1"), "%s", text);
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_STARTING);
    stage_act(&stage, "resume");
    reason_of(&stage, 1, text, sizeof text);
    cr_assert_str_eq(text, "waits for 2 ranks: 2 of 2 are in use");
    stage_fini(&stage);
}

/* Until there is room again: the budget is for the run's own crashes. */
Test(restart, a_full_disk_costs_no_budget)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_submit(&stage, 1, 0, NULL);
    for (uint32_t attempt = 1; attempt <= 5; attempt++) {
        stage_act(&stage, "tick");
        struct event event = {.kind = EVENT_LAUNCH_FAILED};
        event.launch_failed =
            (struct event_launch_failed){1, attempt, ST_NO_SPACE, "no space left for the plan"};
        stage_send(&stage, event);
        cr_assert_eq(state_of(&stage, 1), RUN_RESTARTING);
        cr_assert_eq(stage_run(&stage)->spent[BUDGET_CRASH], 0);
        stage_act(&stage, "wait 59999");
        cr_assert_eq(state_of(&stage, 1), RUN_RESTARTING, "not at once, there is no limit to it");
        stage_act(&stage, "wait 1");
        cr_assert_eq(state_of(&stage, 1), RUN_STARTING);
    }
    stage_act(&stage, "launch_failed");
    cr_assert_eq(state_of(&stage, 1), RUN_FAILED);
    stage_fini(&stage);
}

/* Two attempts resume from it and die before they have done a step: the third is told to pass over it, until it is saved
 * anew. */
Test(restart, a_deadly_checkpoint_is_set_aside)
{
    struct stage stage;
    begin(&stage, ":memory:");
    stage_act(&stage, "saves 10");
    stage_act(&stage, "saves 20");
    for (int i = 0; i < 2; i++) {
        stage_act(&stage, "end CRASH");
        cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
        cr_assert_not(stage_noted(&stage, NOTE_CHECKPOINT_SET_ASIDE));
        stage_act(&stage, "wait 60000");
        cr_assert_eq(stage.decision.effects[0].set_aside_count, 0);
        stage_act(&stage, "resumes 20");
        Performer__Heartbeat beat = PERFORMER__HEARTBEAT__INIT;
        Performer__Report report = stage_next_report(&stage, 0);
        beat.step = 21; /* under way */
        report.heartbeat = &beat;
        stage_report(&stage, &report);
    }
    stage_act(&stage, "end CRASH");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING, "it gets another chance");
    cr_assert(stage_noted(&stage, NOTE_CHECKPOINT_SET_ASIDE));
    stage_act(&stage, "restart");
    stage_act(&stage, "wait 60000");
    cr_assert_eq(stage.decision.effects[0].kind, EFFECT_LAUNCH);
    cr_assert_eq(stage.decision.effects[0].set_aside_count, 1);
    cr_assert_eq(stage.decision.effects[0].set_aside[0], 20);
    stage_act(&stage, "resumes 10");
    stage_act(&stage, "saves 20");
    cr_assert_eq(stage_run(&stage)->aside_count, 0, "it is another now");
    stage_act(&stage, "restart");
    cr_assert_eq(stage_run(&stage)->aside_count, 0);
    stage_fini(&stage);
}

/* Those that did a step died of something else. */
Test(restart, a_checkpoint_that_attempts_outlive_stays)
{
    struct stage stage;
    begin(&stage, NULL);
    stage_act(&stage, "saves 10");
    for (int i = 0; i < 2; i++) {
        stage_act(&stage, "end CRASH");
        stage_act(&stage, "wait 60000");
        stage_act(&stage, "resumes 10");
        Performer__MetricRow row = metric(11, "loss", 1.0), *rows[] = {&row};
        Performer__Report report = stage_next_report(&stage, 0);
        report.n_metrics = 1;
        report.metrics = rows;
        stage_report(&stage, &report);
    }
    stage_act(&stage, "end CRASH");
    cr_assert_not(stage_noted(&stage, NOTE_CHECKPOINT_SET_ASIDE));
    cr_assert_eq(stage_run(&stage)->state, RUN_FAILED);
    stage_fini(&stage);
}

static const struct effect *next_attempt(struct stage *stage)
{
    stage_act(stage, "restart");
    stage_act(stage, "wait 1000");
    cr_assert_eq(stage_effects(stage, EFFECT_LAUNCH), 1);
    return &stage->decision.effects[0];
}

static bool is_rewind(const struct rewind *rewind, uint64_t number, uint64_t step, uint64_t draw)
{
    return rewind->number == number && rewind->step == step && rewind->draw == draw;
}

/* Three times at most, each time to features that nobody has used; what it went back to before and is behind it is undone. */
Test(rewind, goes_back_three_times_and_is_in_each_plan)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage.goes_back = true;
    stage_submit(&stage, 2, 0, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "saves 10");
    stage_act(&stage, "saves 20");
    stage_act(&stage, "diverges 25");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
    cr_assert(stage_noted(&stage, NOTE_REWOUND));
    const struct effect *launch = next_attempt(&stage);
    cr_assert_eq(launch->rewind_count, 1);
    cr_assert(is_rewind(&launch->rewinds[0], 1, 20, 8));

    stage_act(&stage, "saves 30");
    stage_act(&stage, "diverges 35");
    launch = next_attempt(&stage);
    cr_assert_eq(launch->rewind_count, 2);
    cr_assert(is_rewind(&launch->rewinds[1], 2, 30, 9), "its own features count as used");
    stage_act(&stage, "diverges 29"); /* in the way of both */
    launch = next_attempt(&stage);
    cr_assert_eq(launch->rewind_count, 1);
    cr_assert(is_rewind(&launch->rewinds[0], 3, 20, 10));

    stage_act(&stage, "diverges 35");
    cr_assert_eq(stage_run(&stage)->state, RUN_FAILED);
    cr_assert_not_null(strstr(stage_run(&stage)->reason, "all 3 restarts after a divergence"));
    stage_act(&stage, "requeue");
    stage_act(&stage, "tick");
    stage_act(&stage, "diverges 35");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING, "a requeue gives the budget anew");
    stage_fini(&stage);
}

/* What was saved behind it is no progress, and what it saves anew is. */
Test(rewind, counts_progress_from_there)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage.goes_back = true;
    stage_submit(&stage, 2, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "saves 20");
    stage_act(&stage, "saves 27"); /* as somebody ordered */
    stage_act(&stage, "diverges 29");
    cr_assert_eq(stage_run(&stage)->saved_step, 20);
    next_attempt(&stage);
    cr_assert_eq(stage_run(&stage)->saved_step, 20, "and a new daemon knows it");
    stage_act(&stage, "saves 22");
    cr_assert(stage_run(&stage)->attempt.progressed);
    stage_act(&stage, "restart");
    cr_assert(stage_run(&stage)->attempt.progressed);
    cr_assert_eq(stage_run(&stage)->saved_step, 22);
    stage_fini(&stage);
}

/* A run that is to stop goes back when it goes on; one that is over has nowhere to go. */
Test(rewind, of_a_run_that_stops)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage.goes_back = true;
    stage_submit(&stage, 2, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "pause");
    stage_act(&stage, "diverges 25");
    cr_assert_eq(stage_run(&stage)->state, RUN_PAUSED);
    stage_act(&stage, "resume");
    cr_assert_eq(next_attempt(&stage)->rewind_count, 1);
    stage_act(&stage, "cancel");
    stage_act(&stage, "diverges 29");
    cr_assert_eq(stage_run(&stage)->state, RUN_FAILED);
    cr_assert_not(stage_noted(&stage, NOTE_REWOUND));
    stage_fini(&stage);
}

/* Words that no worker of ours leaves: the attempt is tried again as it was. */
Test(rewind, to_a_step_beyond_the_run_is_none)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage.goes_back = true;
    stage_submit(&stage, 2, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "diverges 110");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
    cr_assert_eq(stage_run(&stage)->rewind_count, 0);
    stage_act(&stage, "wait 60000");
    stage_act(&stage, "end DIVERGED");
    cr_assert_eq(stage_run(&stage)->rewind_count, 0);
    stage_fini(&stage);
}

Test(admission, keeps_no_ranks_for_a_restart_that_no_longer_fits)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_submit(&stage, 4, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "launched");
    stage_act(&stage, "end CRASH");
    cr_assert_eq(state_of(&stage, 1), RUN_RESTARTING);
    stage.coordinator.ranks_max = 2; /* the daemon was started anew with less */
    stage_submit(&stage, 1, 1, NULL);
    stage_act(&stage, "tick");
    cr_assert_eq(state_of(&stage, 2), RUN_STARTING);
    stage_fini(&stage);
}

static struct jobspec sound_spec(void)
{
    static char name[] = "proteins";
    struct jobspec spec = {0};
    spec.job.name = name;
    spec.resources.ranks = 2;
    spec.train.steps = 100;
    spec.restart.max = 3;
    spec.checkpoint.every = 10;
    spec.attention.kind = ATTENTION_FAVOR;
    spec.redraw.policy = POLICY_FIXED;
    spec.redraw.every = 7;
    spec.redraw.threshold = 0.5;
    return spec;
}

Test(submit, takes_from_the_job_what_it_must_know)
{
    struct jobspec spec = sound_spec();
    struct run_facts facts;
    struct fault fault;
    cr_assert_eq(run_facts_of(&spec, &facts, &fault), ST_OK);
    cr_assert_str_eq(facts.name, "proteins");
    cr_assert_eq(facts.ranks, 2);
    cr_assert_eq(facts.steps, 100);
    cr_assert_eq(facts.restart_max, 3);
    cr_assert_eq(facts.checkpoint_every, 10);
    cr_assert_eq(facts.redraw_every, 7);
    cr_assert_eq(facts.redraw_threshold, 0, "it redraws by the number of steps alone");
    cr_assert(facts.features);
    cr_assert_not(facts.validates);

    spec.redraw.policy = POLICY_NEVER;
    cr_assert_eq(run_facts_of(&spec, &facts, &fault), ST_OK);
    cr_assert_eq(facts.redraw_every, 0);
    cr_assert(facts.features, "a person may still redraw");

    spec.redraw.policy = POLICY_ADAPTIVE;
    spec.data.valid_fraction = 0.01;
    cr_assert_eq(run_facts_of(&spec, &facts, &fault), ST_OK);
    cr_assert_eq(facts.redraw_every, 0);
    cr_assert_eq(facts.redraw_threshold, 0.5);
    cr_assert(facts.validates);
    spec = sound_spec();
    spec.attention.kind = ATTENTION_SOFTMAX;
    cr_assert_eq(run_facts_of(&spec, &facts, &fault), ST_OK);
    cr_assert_eq(facts.redraw_every, 0);
    cr_assert_not(facts.features);
}

Test(submit, takes_no_job_that_no_run_can_be)
{
    char longer[RUN_NAME_MAX + 2];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    struct jobspec specs[5];
    for (int i = 0; i < 5; i++) specs[i] = sound_spec();
    specs[0].job.name = longer;
    specs[1].job.name = NULL;
    specs[2].resources.ranks = 0;
    specs[3].train.steps = 0;
    specs[4].restart.max = -1;
    for (int i = 0; i < 5; i++) {
        struct run_facts facts;
        struct fault fault;
        cr_assert_eq(run_facts_of(&specs[i], &facts, &fault), ST_INVALID, "spec %d", i);
    }
}

/* ---- which run is meant ---- */

static enum status find(const struct stage *stage, const char *text, uint64_t *run)
{
    const struct run *found = NULL;
    struct fault fault;
    enum status status = coordinator_find(&stage->coordinator, text, &found, &fault);
    *run = found ? found->number : 0;
    return status;
}

/* It is no run's own, whatever command asks, so it is told as one that there is not. */
static void many_fit(const struct stage *stage, const char *text, const char *words)
{
    const struct run *run = NULL;
    struct fault fault;
    cr_assert_eq(coordinator_find(&stage->coordinator, text, &run, &fault), ST_NOT_FOUND);
    cr_assert_null(run);
    cr_assert_not_null(strstr(fault.text, words), "%s", fault.text);
}

Test(find, by_id_prefix_or_name)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    uint64_t run;
    cr_assert_eq(find(&stage, "r1", &run), ST_NOT_FOUND);
    stage_submit(&stage, 1, 0, NULL);
    cr_assert_eq(find(&stage, "r", &run), ST_OK);
    cr_assert_eq(find(&stage, "job", &run), ST_OK);
    cr_assert_eq(run, 1);
    for (int i = 0; i < 11; i++) stage_submit(&stage, 1, 0, NULL);
    cr_assert_eq(find(&stage, "r1", &run), ST_OK, "an id is that run, whatever else begins so");
    cr_assert_eq(run, 1);
    cr_assert_eq(find(&stage, "r12", &run), ST_OK);
    cr_assert_eq(run, 12);
    many_fit(&stage, "job", "12 runs (r12, r11, r10, r9, r8, r7, r6, r5, r4, r3, r2, r1): give");
    many_fit(&stage, "r", "12 runs");
    for (int i = 0; i < 50; i++) stage_submit(&stage, 1, 0, NULL);
    many_fit(&stage, "job", "62 runs (r62, ");
    many_fit(&stage, "job", ", ...): give the whole id");
    static const char *const nobody[] = {"",   "r63", "r0", "r01", "r1x",
                                         "jo", "R1",  "-1", "r-1", "r99999999999999999999999999"};
    for (size_t i = 0; i < sizeof nobody / sizeof nobody[0]; i++)
        cr_assert_eq(find(&stage, nobody[i], &run), ST_NOT_FOUND, "%s", nobody[i]);
    stage_fini(&stage);
}

/* ---- reports ---- */

Test(report, of_another_attempt_is_fenced)
{
    struct stage stage;
    begin(&stage, NULL);
    Performer__Report report = stage_next_report(&stage, 0);
    char first_nonce[NONCE_SIZE];
    strcpy(first_nonce, report.nonce);
    stage_act(&stage, "end CRASH");
    cr_assert(stage_report(&stage, &report)->fenced, "over, but what it told was taken");
    cr_assert_gt(stage.decision.record_count, 0);
    stage_act(&stage, "wait 1000");

    report.nonce = first_nonce;
    report.sequence++;
    cr_assert(stage_report(&stage, &report)->fenced);
    cr_assert_eq(stage.decision.record_count, 0);
    report.attempt = 2; /* claims the new attempt, and does not know its nonce */
    cr_assert(stage_report(&stage, &report)->fenced);
    cr_assert_eq(stage.decision.record_count, 0);
    cr_assert_eq(stage_run(&stage)->state, RUN_STARTING);
    report = stage_next_report(&stage, 0);
    cr_assert_not(stage_report(&stage, &report)->fenced);
    cr_assert_eq(stage_run(&stage)->state, RUN_RUNNING);
    cr_assert_str_eq(stage_run(&stage)->reason, "");
    stage_fini(&stage);
}

static const struct answer *meets(struct stage *stage, uint32_t rank, const char *text)
{
    Performer__Rendezvous rendezvous = PERFORMER__RENDEZVOUS__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    Performer__Report report = stage_next_report(stage, rank);
    rendezvous.text = (char *)text;
    notice.what_case = PERFORMER__NOTICE__WHAT_RENDEZVOUS;
    notice.rendezvous = &rendezvous;
    report.n_notices = 1;
    report.notices = notices;
    stage_report(stage, &report);
    report =
        stage_next_report(stage, rank); /* a heartbeat: what is told is known from the next on */
    return stage_report(stage, &report);
}

Test(report, what_rank_0_tells_of_a_rendezvous_is_told_to_the_ranks_of_its_attempt)
{
    struct stage stage;
    begin(&stage, ":memory:");
    cr_assert_null(meets(&stage, 1, "elsewhere")->rendezvous, "it is rank 0 that knows");
    cr_assert_str_eq(meets(&stage, 0, "here\n")->rendezvous, "here?");
    cr_assert_str_eq(meets(&stage, 0, "there")->rendezvous, "here?", "others may have it already");
    stage_act(&stage, "restart");
    Performer__Report report = stage_next_report(&stage, 1);
    cr_assert_str_eq(stage_report(&stage, &report)->rendezvous, "here?");

    stage_act(&stage, "end CRASH");
    report = stage_next_report(&stage, 1);
    cr_assert_null(stage_report(&stage, &report)->rendezvous, "it is over");
    stage_act(&stage, "wait 1000");
    report = stage_next_report(&stage, 1);
    cr_assert_null(stage_report(&stage, &report)->rendezvous, "of the attempt before");
    stage_fini(&stage);
}

/* An attempt that is over too: its ranks must be told that they are fenced. */
Test(report, is_admitted_by_the_token_of_its_own_attempt)
{
    struct stage stage;
    begin(&stage, NULL);
    char first[TOKEN_SIZE], second[TOKEN_SIZE];
    strcpy(first, stage_run(&stage)->tokens[0]);
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    strcpy(second, stage_run(&stage)->tokens[1]);
    cr_assert_eq(strlen(first), 32);
    cr_assert_str_neq(first, second);
    cr_assert_str_neq(second, stage_run(&stage)->attempt.nonce);
    const struct coordinator *coordinator = &stage.coordinator;
    cr_assert(coordinator_admits(coordinator, "r1", 1, first));
    cr_assert(coordinator_admits(coordinator, "r1", 2, second));
    cr_assert_not(coordinator_admits(coordinator, "r1", 2, first));
    cr_assert_not(coordinator_admits(coordinator, "r1", 0, first));
    cr_assert_not(coordinator_admits(coordinator, "r1", 3, second));
    cr_assert_not(coordinator_admits(coordinator, "r2", 1, first));
    cr_assert_not(coordinator_admits(coordinator, "r1", 1, ""));
    first[31] ^= 1;
    cr_assert_not(coordinator_admits(coordinator, "r1", 1, first));
    stage_fini(&stage);
}

Test(report, is_taken_once)
{
    struct stage stage;
    begin(&stage, NULL);
    Performer__MetricRow row = metric(5, "loss", 1.0);
    Performer__MetricRow *rows[] = {&row};
    Performer__Report report = stage_next_report(&stage, 1);
    report.metrics = rows;
    report.n_metrics = 1;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_OK);
    cr_assert_gt(stage.decision.record_count, 0);
    cr_assert_eq(stage_run(&stage)->step, 5);
    cr_assert_eq(stage_report(&stage, &report)->status, ST_OK, "sent again: answered again");
    cr_assert_eq(stage.decision.record_count, 0);

    report.sequence += 2;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_INVALID, "one is missing");
    report.sequence--;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_OK);
    report.rank = 0;
    report.sequence = 1;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_OK, "each rank counts for itself");
    cr_assert_gt(stage.decision.record_count, 0);
    stage_fini(&stage);
}

Test(report, goes_on_after_heartbeats_that_a_restart_forgot)
{
    struct stage stage;
    begin(&stage, ":memory:");
    for (int i = 0; i < 5; i++) stage_act(&stage, "report");
    cr_assert_eq(stage_run(&stage)->attempt.ranks[0].sequence, 0, "heartbeats are not stored");
    stage_act(&stage, "restart");
    cr_assert_eq(stage_act(&stage, "report")->status, ST_OK);
    stage.sequence[0]++;
    cr_assert_eq(stage_act(&stage, "report")->status, ST_INVALID, "from then on a gap is one");
    stage_fini(&stage);
}

Test(report, of_a_run_that_has_not_begun_is_fenced)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_submit(&stage, 1, 0, NULL);
    Performer__Report report = stage_next_report(&stage, 0); /* attempt 0, without a nonce */
    cr_assert_eq(stage_report(&stage, &report)->status, ST_OK);
    cr_assert(stage.decision.answer.fenced);
    cr_assert_eq(stage.decision.record_count, 0);
    stage_fini(&stage);
}

Test(report, that_no_worker_sends_is_refused)
{
    struct stage stage;
    begin(&stage, NULL);
    char longer[METRIC_NAME_MAX + 2];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    Performer__MetricRow bad[] = {metric(1, "", 0), metric(1, "a b", 0), metric(1, longer, 0),
                                  metric(1, "\xff", 0), metric(UINT64_MAX, "loss", 0)};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Performer__MetricRow *rows[] = {&bad[i]};
        Performer__Report report = stage_next_report(&stage, 0);
        report.metrics = rows;
        report.n_metrics = 1;
        cr_assert_eq(stage_report(&stage, &report)->status, ST_INVALID, "row %zu", i);
        cr_assert_eq(stage.decision.record_count, 0);
        stage.sequence[0]--;
    }
    Performer__Report report = stage_next_report(&stage, 0);
    report.rank = 2;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_INVALID);
    report.rank = 0;
    report.sequence = 0;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_INVALID);
    report.sequence = UINT64_MAX;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_INVALID);
    report.run = (char *)"r77";
    cr_assert_eq(stage_report(&stage, &report)->status, ST_NOT_FOUND);
    stage_fini(&stage);
}

Test(report, keeps_the_live_view)
{
    struct stage stage;
    begin(&stage, NULL);
    Performer__Heartbeat heartbeat = PERFORMER__HEARTBEAT__INIT;
    heartbeat.step = 9;
    heartbeat.phase = (char *)"back\x1bward";
    heartbeat.host = (char *)"node\xff";
    heartbeat.pid = 77;
    Performer__Report report = stage_next_report(&stage, 1);
    report.heartbeat = &heartbeat;
    stage_report(&stage, &report);
    const struct rank *rank = &stage_run(&stage)->attempt.ranks[1];
    cr_assert_eq(rank->step, 9);
    cr_assert_str_eq(rank->phase, "back?ward");
    cr_assert_str_eq(rank->host, "node?");
    cr_assert_eq(rank->pid, 77);
    cr_assert_eq(run_step_now(stage_run(&stage)), 9);
    cr_assert_eq(run_next_multiple(stage_run(&stage), 10), 10);
    cr_assert_eq(run_next_multiple(stage_run(&stage), 9), 18);
    cr_assert_eq(run_next_multiple(stage_run(&stage), 101), 0);
    cr_assert_eq(run_next_multiple(stage_run(&stage), 0), 0);
    stage_fini(&stage);
}

/* ---- orders ---- */

static const struct answer *tell(struct stage *stage, uint32_t rank, Performer__Notice *notice)
{
    Performer__Notice *notices[] = {notice};
    Performer__Report report = stage_next_report(stage, rank);
    report.notices = notices;
    report.n_notices = 1;
    return stage_report(stage, &report);
}

static const struct answer *tell_applied(struct stage *stage, uint32_t rank, uint64_t order,
                                         uint64_t step)
{
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    applied.order = order;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    notice.step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
    notice.order_applied = &applied;
    return tell(stage, rank, &notice);
}

static const struct answer *tell_redrawn(struct stage *stage, uint32_t rank, uint64_t draw,
                                         uint64_t step, const char *hash)
{
    Performer__Redrawn redrawn = PERFORMER__REDRAWN__INIT;
    redrawn.draw = draw;
    redrawn.hash = (char *)hash;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    notice.step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_REDRAWN;
    notice.redrawn = &redrawn;
    return tell(stage, rank, &notice);
}

Test(order, is_handed_out_until_one_rank_applied_it)
{
    struct stage stage;
    begin(&stage, ":memory:");
    uint64_t redraw = stage_act(&stage, "redraw")->order;
    uint64_t save = stage_act(&stage, "checkpoint")->order;
    cr_assert_eq(redraw, 1);
    cr_assert_eq(save, 2);
    cr_assert_eq(stage_act(&stage, "checkpoint")->order, save, "one save serves both");
    cr_assert_eq(stage_act(&stage, "redraw")->order, 3, "two redraws are two");
    for (int i = 0; i < 2; i++) {
        const struct answer *answer = stage_act(&stage, "report");
        cr_assert_eq(answer->order_count, 3);
        cr_assert_eq(answer->orders[0].id, redraw);
        cr_assert_eq(answer->orders[1].kind, PERFORMER__ORDER__KIND__CHECKPOINT);
        stage_act(&stage, "restart");
    }
    const struct answer *answer = tell_applied(&stage, 1, redraw, 20);
    cr_assert_eq(answer->order_count, 2);
    cr_assert(stage_noted(&stage, NOTE_ORDER_APPLIED));
    tell_applied(&stage, 0, redraw, 20);
    cr_assert_not(stage_noted(&stage, NOTE_ORDER_APPLIED), "the other rank says the same");
    tell_applied(&stage, 0, redraw, 21);
    cr_assert(stage_noted(&stage, NOTE_ORDER_DISAGREED));
    tell_applied(&stage, 0, 99, 21);
    cr_assert(stage_noted(&stage, NOTE_ORDER_DISAGREED));
    cr_assert_eq(run_order(stage_run(&stage), redraw)->step, 20, "the first word stands");
    stage_act(&stage, "end FINISHED");
    cr_assert_eq(run_order(stage_run(&stage), save)->state, ORDER_DROPPED);
    cr_assert_eq(run_order(stage_run(&stage), 3)->state, ORDER_DROPPED);
    stage_fini(&stage);
}

Test(order, told_twice_in_one_report_is_applied_once)
{
    struct stage stage;
    begin(&stage, ":memory:");
    uint64_t order = stage_act(&stage, "redraw")->order;
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    applied.order = order;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    notice.step = 4;
    notice.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
    notice.order_applied = &applied;
    Performer__Notice *notices[] = {&notice, &notice};
    Performer__Report report = stage_next_report(&stage, 0);
    report.notices = notices;
    report.n_notices = 2;
    cr_assert_eq(stage_report(&stage, &report)->status, ST_OK);
    cr_assert_eq(run_order(stage_run(&stage), order)->step, 4);
    stage_fini(&stage);
}

Test(order, that_changed_the_weights_is_in_the_plan_of_the_next_attempt)
{
    struct stage stage;
    begin(&stage, ":memory:");
    uint64_t first = stage_act(&stage, "redraw")->order;
    uint64_t save = stage_act(&stage, "checkpoint")->order;
    uint64_t second = stage_act(&stage, "redraw")->order;
    uint64_t third = stage_act(&stage, "redraw")->order;
    tell_applied(&stage, 0, second, 8);
    tell_applied(&stage, 0, save, 9);
    tell_applied(&stage, 0, first, 15);
    stage_act(&stage, "restart");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    cr_assert_eq(stage_effects(&stage, EFFECT_LAUNCH), 1);
    const struct effect *launch = &stage.decision.effects[0];
    cr_assert_eq(launch->attempt, 2);
    cr_assert_eq(launch->ranks, 2);
    cr_assert_str_eq(launch->nonce, stage_run(&stage)->attempt.nonce);
    cr_assert_eq(launch->applied_count, 2);
    cr_assert_eq(launch->applied[0].id, second, "by step");
    cr_assert_eq(launch->applied[0].step, 8);
    cr_assert_eq(launch->applied[1].id, first);
    const struct answer *answer = stage_act(&stage, "report");
    cr_assert_eq(answer->order_count, 1);
    cr_assert_eq(answer->orders[0].id, third, "what is pending is handed to the new attempt");
    stage_fini(&stage);
}

/* Its weights have met them; they are no orders of its own, and it tells of them at each start. */
Test(fork, inherits_the_orders_of_its_ancestors)
{
    struct stage stage;
    stage_init(&stage, 8, ":memory:");
    stage_submit(&stage, 1, 3, NULL);
    stage_act(&stage, "tick");
    stage_act(&stage, "report");
    uint64_t redraw = stage_act(&stage, "redraw")->order;
    struct run_facts facts = stage_run(&stage)->facts;
    for (uint64_t from = 1; from <= 2; from++) {
        const struct fork_source fork = {.run = from,
                                         .step = 30,
                                         .bytes = 99,
                                         .path = "/runs/r1/checkpoints/step-0000000030",
                                         .runs_directory = "/runs"};
        struct event event = {.kind = EVENT_SUBMIT};
        event.submit =
            (struct event_submit){.facts = &facts, .fork = &fork, .text = "t", .resolved = "t"};
        cr_assert_eq(stage_send(&stage, event)->forked_step, 30);
        cr_assert_eq(stage.decision.effects[0].fork_step, 30);
        cr_assert_str_eq(stage.decision.effects[0].fork, fork.path);
    }
    stage_restart(&stage);
    stage.run = 3;
    cr_assert_eq(stage_run(&stage)->forked_from, 2);
    cr_assert_eq(stage_run(&stage)->forked_step, 30);
    cr_assert_eq(stage_run(&stage)->saved_step, 30);
    for (int i = 0; i < 2; i++) stage_act(&stage, "tick");
    cr_assert_eq(stage.decision.effects[0].fork_step, 30,
                 "its attempts are told not to begin anew");

    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    notice.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
    notice.step = 7;
    notice.order_applied = &applied;
    for (applied.order = redraw; applied.order <= redraw + 1; applied.order++) {
        Performer__Report report = stage_next_report(&stage, 0);
        report.n_notices = 1;
        report.notices = notices;
        cr_assert_eq(stage_report(&stage, &report)->status, ST_OK);
        cr_assert_eq(stage_noted(&stage, NOTE_ORDER_DISAGREED), applied.order != redraw);
    }
    cr_assert_eq(stage_run(&stage)->order_count, 0);
    stage_fini(&stage);
}

/* It was applied and saved by an attempt that died before it told, and the run was cancelled meanwhile. */
Test(order, that_was_dropped_and_met_all_the_same_is_applied)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    stage_act(&stage, "submit");
    stage_act(&stage, "tick");
    stage_act(&stage, "report");
    uint64_t redraw = stage_act(&stage, "redraw")->order;
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "cancel");
    cr_assert_eq(run_order(stage_run(&stage), redraw)->state, ORDER_DROPPED);
    stage_act(&stage, "requeue");
    stage_act(&stage, "tick");
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    applied.order = redraw;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    notice.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
    notice.step = 7;
    notice.order_applied = &applied;
    Performer__Report report = stage_next_report(&stage, 0);
    report.n_notices = 1;
    report.notices = notices;
    stage_report(&stage, &report);
    stage_restart(&stage);
    cr_assert_eq(run_order(stage_run(&stage), redraw)->state, ORDER_APPLIED);
    cr_assert_eq(run_order(stage_run(&stage), redraw)->step, 7);
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    cr_assert_eq(stage.decision.effects[0].applied_count, 1, "the next attempt meets it again");
    stage_fini(&stage);
}

Test(order, redraw_needs_features)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    struct run_facts facts = {.name = "exact", .ranks = 1, .steps = 10};
    stage_send(&stage, (struct event){.kind = EVENT_SUBMIT,
                                      .submit = {.facts = &facts, .text = "", .resolved = ""}});
    stage_act(&stage, "tick");
    cr_assert_eq(stage_act(&stage, "redraw")->status, ST_REFUSED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "features"));
    cr_assert_eq(stage_act(&stage, "checkpoint")->status, ST_OK);
    stage_fini(&stage);
}

Test(order, evaluation_needs_validation_data)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    struct run_facts facts = {.name = "unseen", .ranks = 1, .steps = 10, .features = true};
    stage_send(&stage, (struct event){.kind = EVENT_SUBMIT,
                                      .submit = {.facts = &facts, .text = "", .resolved = ""}});
    stage_act(&stage, "tick");
    cr_assert_eq(stage_act(&stage, "evaluate")->status, ST_REFUSED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "`valid_fraction`"));
    cr_assert_eq(stage.decision.record_count, 0);
    stage_fini(&stage);
}

Test(order, to_evaluate_is_handed_out_once_and_never_met_again)
{
    struct stage stage;
    begin(&stage, ":memory:");
    uint64_t order = stage_act(&stage, "evaluate")->order;
    cr_assert(stage_noted(&stage, NOTE_ORDER_REQUESTED));
    cr_assert_eq(stage_act(&stage, "evaluate")->order, order, "one evaluation serves both");
    stage_act(&stage, "restart");
    const struct answer *answer = stage_act(&stage, "report");
    cr_assert_eq(answer->order_count, 1);
    cr_assert_eq(answer->orders[0].kind, PERFORMER__ORDER__KIND__EVALUATE);
    tell_applied(&stage, 0, order, 8);
    cr_assert(stage_noted(&stage, NOTE_ORDER_APPLIED));
    cr_assert_neq(stage_act(&stage, "evaluate")->order, order, "done: the next is another");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    cr_assert_eq(stage_effects(&stage, EFFECT_LAUNCH), 1);
    cr_assert_eq(stage.decision.effects[0].applied_count, 0, "it changed no weights");
    stage_fini(&stage);
}

Test(order, numbers_are_bounded)
{
    struct stage stage;
    begin(&stage, NULL);
    for (int i = 0; i < RUN_ORDERS_MAX; i++)
        cr_assert_eq(stage_act(&stage, "redraw")->status, ST_OK);
    cr_assert_eq(stage_act(&stage, "redraw")->status, ST_REFUSED);
    cr_assert_eq(stage_act(&stage, "cancel")->status, ST_OK, "a stop is always taken");
    stage_fini(&stage);
}

Test(redraw, hashes_are_compared_over_ranks_attempts_and_restarts)
{
    struct stage stage;
    begin(&stage, ":memory:");
    tell_redrawn(&stage, 0, 1, 7, "aaaa");
    cr_assert(stage_noted(&stage, NOTE_REDRAWN));
    tell_redrawn(&stage, 1, 1, 7, "aaaa");
    cr_assert_not(stage_noted(&stage, NOTE_REDRAWN), "one redraw, one line in the history");
    cr_assert_not(stage_noted(&stage, NOTE_REDRAW_DISAGREED));
    cr_assert(stage_run(&stage)->draws[0].agreed);
    stage_act(&stage, "restart");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    tell_redrawn(&stage, 0, 1, 7, "aaaa");
    cr_assert_not(stage_noted(&stage, NOTE_REDRAW_DISAGREED));
    tell_redrawn(&stage, 1, 1, 7, "aaab");
    cr_assert(stage_noted(&stage, NOTE_REDRAW_DISAGREED));
    cr_assert_not(stage_run(&stage)->draws[0].agreed);
    tell_redrawn(&stage, 0, 2, 14, "bbbb");
    tell_redrawn(&stage, 1, 2, 15, "bbbb");
    cr_assert(stage_noted(&stage, NOTE_REDRAW_DISAGREED), "another step is another model");
    cr_assert_eq(stage_run(&stage)->state, RUN_RUNNING, "it is said, not acted upon");
    stage_fini(&stage);
}

/* NULL: the newest decision has no such note. */
static const char *noted_words(const struct stage *stage, enum note note)
{
    for (size_t i = 0; i < stage->decision.record_count; i++) {
        const struct record *record = &stage->decision.records[i];
        if (record->kind == RECORD_NOTED && record->noted.note == note) return record->noted.text;
    }
    return NULL;
}

Test(redraw, the_history_says_why)
{
    static const struct {
        uint64_t order;
        const char *why, *words;
    } cases[] = {
        {0, "", "draw 1 after step 7, planned, hash aaaa"},
        {12, "", "draw 2 after step 14, order 12, hash aaaa"},
        {0, "adaptive: kernel_error.2 0.61 > 0.5",
         "draw 3 after step 21, adaptive: kernel_error.2 0.61 > 0.5, hash aaaa"},
        {0, "a\nb\xff", "draw 4 after step 28, a?b?, hash aaaa"},
    };
    struct stage stage;
    begin(&stage, ":memory:");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Performer__Redrawn redrawn = PERFORMER__REDRAWN__INIT;
        redrawn.draw = i + 1;
        redrawn.hash = (char *)"aaaa";
        redrawn.order = cases[i].order;
        redrawn.why = (char *)cases[i].why;
        Performer__Notice notice = PERFORMER__NOTICE__INIT;
        notice.step = 7 * redrawn.draw;
        notice.what_case = PERFORMER__NOTICE__WHAT_REDRAWN;
        notice.redrawn = &redrawn;
        tell(&stage, 0, &notice);
        cr_assert_str_eq(noted_words(&stage, NOTE_REDRAWN), cases[i].words);
    }
    stage_fini(&stage);
}

/* An attempt that resumes before a planned draw may be given an order on the way: its draws have other steps. */
Test(redraw, an_attempt_that_resumes_may_come_to_a_draw_earlier)
{
    struct stage stage;
    begin(&stage, ":memory:");
    tell_redrawn(&stage, 0, 1, 7, "aaaa");
    tell_redrawn(&stage, 0, 2, 14, "bbbb");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    tell_redrawn(&stage, 0, 2, 9, "bbbb");
    cr_assert_not(stage_noted(&stage, NOTE_REDRAW_DISAGREED));
    cr_assert(stage_noted(&stage, NOTE_REDRAWN), "it came to be at another step");
    stage_act(&stage, "restart");
    cr_assert_eq(stage_run(&stage)->draws[1].step, 9);
    cr_assert(stage_run(&stage)->draws[1].agreed);
    tell_redrawn(&stage, 1, 2, 9, "bbbb");
    cr_assert_not(stage_noted(&stage, NOTE_REDRAWN));
    tell_redrawn(&stage, 1, 2, 14, "bbbb");
    cr_assert(stage_noted(&stage, NOTE_REDRAW_DISAGREED), "ranks of one attempt must agree");
    stage_act(&stage, "restart");
    cr_assert_not(stage_run(&stage)->draws[1].agreed);
    stage_fini(&stage);
}

Test(redraw, only_the_newest_are_held)
{
    struct stage stage;
    begin(&stage, ":memory:");
    for (uint64_t draw = 1; draw <= RUN_DRAWS_MAX + 10; draw++)
        tell_redrawn(&stage, 0, draw, 7 * draw, "aaaa");
    cr_assert_eq(stage_run(&stage)->draw_count, RUN_DRAWS_MAX);
    cr_assert_eq(stage_run(&stage)->draws[0].draw, 11);
    tell_redrawn(&stage, 1, 2, 14, "aaaa");
    cr_assert_eq(stage_run(&stage)->draws[0].draw, 11);
    stage_act(&stage, "restart");
    cr_assert_eq(stage_run(&stage)->draw_count, RUN_DRAWS_MAX);
    cr_assert_eq(stage_run(&stage)->draws[0].draw, 11);
    stage_act(&stage, "end FINISHED");
    cr_assert_eq(stage_run(&stage)->draw_count, 0);
    stage_fini(&stage);
}

Test(report, tells_of_an_update_that_was_left_out)
{
    struct stage stage;
    begin(&stage, NULL);
    Performer__UpdateSkipped skipped = PERFORMER__UPDATE_SKIPPED__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    skipped.why = (char *)"loss nan, gradient norm\x1b nan";
    skipped.in_row = 2;
    notice.step = 14;
    notice.what_case = PERFORMER__NOTICE__WHAT_UPDATE_SKIPPED;
    notice.update_skipped = &skipped;
    tell(&stage, 0, &notice);
    cr_assert_str_eq(noted_words(&stage, NOTE_UPDATE_SKIPPED),
                     "loss nan, gradient norm? nan: the update is left out, 2 in a row");
    stage_fini(&stage);
}

/* ---- a rank that stands still ---- */

static void heartbeat(struct stage *stage, uint32_t rank, const char *phase, uint64_t stood_ms)
{
    Performer__Heartbeat beat = PERFORMER__HEARTBEAT__INIT;
    beat.step = 14;
    beat.phase = (char *)phase;
    beat.host = (char *)"node7";
    beat.stood_ms = stood_ms;
    beat.usual_ms = 200;
    Performer__Report report = stage_next_report(stage, rank);
    report.heartbeat = &beat;
    stage_report(stage, &report);
}

/* Both ranks have done `steps` in all; rank 1 took so much longer of its own time. */
static void beat_own_time(struct stage *stage, uint64_t steps, double own_ms)
{
    for (uint32_t rank = 0; rank < 2; rank++) {
        Performer__Heartbeat beat = PERFORMER__HEARTBEAT__INIT;
        beat.host = (char *)"node7";
        beat.own_steps = steps;
        beat.own_ms = rank == 1 ? own_ms : (double)steps;
        Performer__Report report = stage_next_report(stage, rank);
        report.heartbeat = &beat;
        stage_report(stage, &report);
    }
    stage_act(stage, "wait 5000");
}

/* In the third window, once; and once when it is well again. A new daemon knows nothing of it and looks again. */
Test(straggler, is_told_of_and_left_alone)
{
    struct stage stage;
    begin(&stage, ":memory:");
    double own_ms = 100;
    uint64_t steps = 100;
    beat_own_time(&stage, steps, own_ms); /* from here on */
    for (int window = 1; window <= 5; window++) {
        beat_own_time(&stage, steps += 10, own_ms += 40);
        cr_assert_eq(stage_noted(&stage, NOTE_RANK_SLOW), window == 3, "window %d", window);
        cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 0);
    }
    cr_assert_float_eq(stage_run(&stage)->attempt.ranks[1].score, 0.625, 1e-12);
    cr_assert_eq(stage_run(&stage)->attempt.ranks[0].slow_windows, 0);
    beat_own_time(&stage, steps += 10, own_ms += 10);
    cr_assert(stage_noted(&stage, NOTE_RANK_WELL));
    cr_assert_eq(stage_run(&stage)->state, RUN_RUNNING);

    stage_restart(&stage);
    beat_own_time(&stage, steps += 10, own_ms += 4000);
    beat_own_time(&stage, steps += 10, own_ms += 10);
    cr_assert_float_eq(stage_run(&stage)->attempt.ranks[1].score, 1, 1e-12,
                       "what was before is of no window");
    stage_fini(&stage);
}

static void stand_still(struct stage *stage)
{
    stage_init(stage, 4, ":memory:");
    stage->stall_ms = 30000;
    stage_act(stage, "submit");
    stage_act(stage, "tick");
    stage_act(stage, "launched");
    heartbeat(stage, 0, "reduce", 31000);
    heartbeat(stage, 1, "backward", 31000);
    stage_act(stage, "tick");
}

static const char stall_text[] =
    "rank 1 on node7 stands still in backward of step 14 for 31 s; it took 0.2 s at most before";

Test(stall, is_rescued_then_killed_and_tried_again)
{
    struct stage stage;
    stand_still(&stage);
    cr_assert_str_eq(noted_words(&stage, NOTE_RANK_STALLED), stall_text);
    cr_assert_eq(stage_effects(&stage, EFFECT_RESCUE), 1);
    cr_assert_eq(stage.decision.effects[0].rank, 1);
    stage_act(&stage, "wait 9999");
    cr_assert_eq(stage.decision.effect_count, 0, "it has a grace");
    stage_act(&stage, "wait 1");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1);
    cr_assert_eq(stage.decision.effects[0].signal, SIGKILL);
    stage_act(&stage, "tick");
    cr_assert_eq(stage.decision.effect_count, 0);
    stage_act(&stage, "restart");
    stage_act(&stage, "adopted");
    stage_act(&stage, "wait 10000");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1, "the first may never have been sent");
    stage_act(&stage, "end CRASH");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_HANG);
    cr_assert_str_eq(stage_run(&stage)->reason, stall_text);
    cr_assert_eq(stage.decision.records[0].attempt_ended.evidence->first_rank, 1);
    stage_act(&stage, "wait 60000");
    cr_assert_eq(stage_run(&stage)->attempt.stalled_rank, -1);
    stage_fini(&stage);
}

/* It came back to life, saved and ended as it was asked: not as a person had asked. */
Test(stall, that_ends_by_itself_is_tried_again)
{
    struct stage stage;
    stand_still(&stage);
    stage_act(&stage, "end CANCELLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_HANG);
    stage_fini(&stage);
}

Test(stall, of_a_run_that_was_to_end_is_its_end)
{
    static const struct {
        const char *act, *end;
        enum run_state state;
        enum attempt_cause cause;
    } cases[] = {
        {"cancel", "end CRASH", RUN_FAILED, CAUSE_HANG},
        {"cancel", "end CANCELLED", RUN_CANCELLED, CAUSE_CANCELLED},
        {"kill", "end CRASH", RUN_CANCELLED, CAUSE_KILLED},
        {"tick", "end FINISHED", RUN_SUCCEEDED, CAUSE_FINISHED},
        {"tick", "end DIVERGED", RUN_FAILED, CAUSE_DIVERGED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct stage stage;
        stand_still(&stage);
        stage_act(&stage, cases[i].act);
        stage_act(&stage, cases[i].end);
        cr_assert_eq(stage_run(&stage)->state, cases[i].state, "case %zu", i);
        cr_assert_eq(stage_run(&stage)->attempt.cause, cases[i].cause, "case %zu", i);
        stage_fini(&stage);
    }
}

/* ---- kill ---- */

Test(kill, signals_the_launcher_as_often_as_asked)
{
    struct stage stage;
    begin(&stage, ":memory:");
    for (int i = 0; i < 2; i++) {
        stage_act(&stage, "kill");
        cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1);
        cr_assert_eq(stage.decision.effects[0].signal, SIGKILL);
        cr_assert_eq(stage.decision.effects[0].attempt, 1);
    }
    stage_act(&stage, "restart");
    stage_act(&stage, "adopted");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1, "the first may never have been sent");
    stage_act(&stage, "end CRASH");
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_KILLED);
    cr_assert_str_eq(stage_run(&stage)->reason, "killed");
    stage_fini(&stage);
}

Test(kill, waits_for_a_launcher_that_is_on_its_way)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_act(&stage, "submit");
    stage_act(&stage, "tick");
    stage_act(&stage, "kill");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 0);
    stage_act(&stage, "launched");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1);
    stage_fini(&stage);
}

/* ---- jobs of Slurm ---- */

/* One of two ranks that Slurm has taken. */
static void begin_slurm(struct stage *stage)
{
    stage_init(stage, 4, ":memory:");
    stage->run = stage_submit_slurm(stage, 2);
    stage_act(stage, "tick");
    stage_act(stage, "launched");
}

Test(slurm, a_job_takes_no_rank_of_this_machine)
{
    struct stage stage;
    stage_init(&stage, 4, NULL);
    stage_submit(&stage, 3, 0, NULL);
    stage_submit(&stage, 3, 0, NULL);
    cr_assert_eq(stage_submit_slurm(&stage, 64), 3);
    for (int i = 0; i < 3; i++) stage_act(&stage, "tick");
    cr_assert_eq(coordinator_run(&stage.coordinator, 1)->state, RUN_STARTING);
    cr_assert_eq(coordinator_run(&stage.coordinator, 2)->state, RUN_QUEUED);
    cr_assert_eq(coordinator_run(&stage.coordinator, 3)->state, RUN_STARTING, "behind nobody");
    cr_assert_eq(coordinator_ranks_in_use(&stage.coordinator), 3);
    stage_fini(&stage);
}

Test(slurm, a_wait_in_a_queue_is_no_silence)
{
    struct stage stage;
    char reason[RUN_REASON_SIZE];
    begin_slurm(&stage);
    for (int i = 0; i < 5; i++) {
        stage_act(&stage, "waits");
        stage_act(&stage, "wait 100000");
        cr_assert_eq(stage_run(&stage)->state, RUN_STARTING);
    }
    reason_of(&stage, stage.run, reason, sizeof reason);
    cr_assert_str_eq(reason, "attempt 1, Slurm job 7 is PENDING");
    stage_act(&stage, "begins");
    reason_of(&stage, stage.run, reason, sizeof reason);
    cr_assert_str_eq(reason, "attempt 1 begins");
    stage_act(&stage, "wait 181000");
    cr_assert_eq(stage_run(&stage)->state, RUN_UNKNOWN);
    stage_act(&stage, "waits");
    cr_assert_eq(stage_run(&stage)->state, RUN_STARTING);
    stage_fini(&stage);
}

Test(slurm, a_cancel_in_the_queue_saves_nothing_and_ends_the_job)
{
    struct stage stage;
    begin_slurm(&stage);
    stage_act(&stage, "waits");
    stage_act(&stage, "cancel");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1);
    cr_assert_eq(stage.decision.effects[0].signal, SIGKILL);
    stage_act(&stage, "end KILLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_CANCELLED);
    stage_fini(&stage);
}

Test(slurm, a_cancel_that_comes_before_the_queue_is_known_ends_the_job_too)
{
    struct stage stage;
    begin_slurm(&stage);
    stage_act(&stage, "cancel");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 0, "it may train");
    stage_act(&stage, "waits");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1);
    stage_act(&stage, "begins");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 0);
    stage_act(&stage, "end KILLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_CANCELLED);
    stage_fini(&stage);
}

Test(slurm, a_pause_in_the_queue_ends_the_job_and_costs_nothing)
{
    struct stage stage;
    begin_slurm(&stage);
    stage_act(&stage, "waits");
    stage_act(&stage, "pause");
    cr_assert_eq(stage_effects(&stage, EFFECT_SIGNAL), 1);
    stage_act(&stage, "end KILLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_PAUSED);
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_PAUSED);
    cr_assert_eq(stage_run(&stage)->spent[BUDGET_CRASH], 0);
    stage_fini(&stage);
}

Test(slurm, a_job_that_somebody_else_cancelled_is_not_begun_again)
{
    struct stage stage;
    begin_slurm(&stage);
    stage_act(&stage, "report");
    stage_act(&stage, "end JOB_CANCELLED");
    cr_assert_eq(stage_run(&stage)->state, RUN_CANCELLED);
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_JOB_CANCELLED);
    stage_fini(&stage);
}

static void end_stopped(struct stage *stage, enum attempt_cause cause)
{
    const struct evidence evidence = {.cause = cause, .stopped = true, .first_rank = -1};
    stage_send(stage, (struct event){.kind = EVENT_ATTEMPT_ENDED,
                                     .attempt_ended = {stage->run, 1, &evidence}});
}

Test(slurm, ranks_that_stop_though_nobody_here_told_them_to_begin_again)
{
    struct stage stage;
    begin_slurm(&stage);
    stage_act(&stage, "report");
    end_stopped(&stage, CAUSE_CANCELLED);
    cr_assert_eq(stage_run(&stage)->state, RUN_RESTARTING);
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_PREEMPTED);
    stage_fini(&stage);
}

Test(slurm, a_cancel_is_kept_where_the_time_limit_comes_first)
{
    struct stage stage;
    begin_slurm(&stage);
    stage_act(&stage, "report");
    stage_act(&stage, "cancel");
    end_stopped(&stage, CAUSE_TIME_LIMIT);
    cr_assert_eq(stage_run(&stage)->state, RUN_CANCELLED);
    cr_assert_eq(stage_run(&stage)->attempt.cause, CAUSE_CANCELLED);
    stage_fini(&stage);
}

/* ---- words ---- */

Test(words, name_the_cause_and_what_is_left)
{
    struct stage stage;
    begin(&stage, NULL);
    stage_act(&stage, "end CRASH");
    cr_assert_str_eq(stage_run(&stage)->reason, attempt_cause_words(CAUSE_CRASH));
    static const char *const saves[] = {"saves 10", "saves 20", "saves 30"};
    for (int i = 0; i < 3; i++) {
        stage_act(&stage, "wait 60000");
        stage_act(&stage, saves[i]);
        stage_act(&stage, "end CRASH");
    }
    cr_assert_eq(stage_run(&stage)->state, RUN_FAILED);
    cr_assert_str_eq(stage_run(&stage)->reason, "a rank died, and all 3 restarts are used up");
    stage_fini(&stage);
}

Test(words, say_that_it_comes_no_further)
{
    struct stage stage;
    begin(&stage, NULL);
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 60000");
    stage_act(&stage, "end HANG");
    cr_assert_str_eq(stage_run(&stage)->reason,
                     "a rank stood still, and 2 attempts in a row have saved no new checkpoint");
    stage_fini(&stage);
}

Test(words, of_others_come_out_clean)
{
    struct decision decision;
    decision_init(&decision, "test");
    cr_assert_str_eq(decision_clean(&decision, NULL, 10, false), "");
    cr_assert_str_eq(decision_clean(&decision, "a\nb\tc\x1b[0m\x7f", 100, false), "a?b?c?[0m?");
    cr_assert_str_eq(decision_clean(&decision, "a\nb\tc\x1b", 100, true), "a\nb\tc?");
    cr_assert_str_eq(decision_clean(&decision, "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 100, false),
                     "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    cr_assert_str_eq(decision_clean(&decision, "\xc3", 100, false), "?");
    cr_assert_str_eq(decision_clean(&decision, "\xc0\xaf\xed\xa0\x80", 100, false), "?????");
    cr_assert_str_eq(decision_clean(&decision, "ab\xc3\xa9", 3, false), "ab?");
    decision_fini(&decision);
    decision_fini(&decision);
}

/* ---- whose a run is ---- */

static const struct answer *submit_as(struct stage *stage, const char *user, const char *key)
{
    static const struct run_facts facts = {.name = "theirs", .ranks = 1, .steps = 10};
    struct event event = {.kind = EVENT_SUBMIT,
                          .submit = {.facts = &facts, .text = "", .resolved = "", .key = key}};
    snprintf(event.submit.caller.user, sizeof event.submit.caller.user, "%s", user);
    return stage_send(stage, event);
}

static const struct answer *cancel_as(struct stage *stage, const char *user, bool admin)
{
    struct event event = {.kind = EVENT_ACT,
                          .act = {.run = "r1",
                                  .action = PERFORMER__ACTION__ACTION_CANCEL,
                                  .caller = {.admin = admin}}};
    snprintf(event.act.caller.user, sizeof event.act.caller.user, "%s", user);
    return stage_send(stage, event);
}

Test(user, commands_own_runs_alone_and_admins_all)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    cr_assert_eq(submit_as(&stage, "alice", "")->status, ST_OK);
    stage_restart(&stage); /* whose it is lies in the database */
    cr_assert_eq(cancel_as(&stage, "bob", false)->status, ST_NOT_PERMITTED);
    cr_assert_not_null(strstr(stage.decision.answer.text, "r1 belongs to alice"));
    cr_assert_eq(stage.decision.record_count, 0);
    cr_assert_eq(cancel_as(&stage, "", false)->status, ST_NOT_PERMITTED);
    cr_assert_eq(cancel_as(&stage, "alice", false)->status, ST_OK);
    cr_assert_eq(coordinator_run(&stage.coordinator, 1)->state, RUN_CANCELLED);
    cr_assert_eq(cancel_as(&stage, "bob", true)->status, ST_OK);
    stage_fini(&stage);
}

Test(user, gets_no_run_by_the_key_of_another)
{
    struct stage stage;
    stage_init(&stage, 4, ":memory:");
    cr_assert_eq(submit_as(&stage, "alice", "k")->run, 1);
    cr_assert_eq(submit_as(&stage, "bob", "k")->status, ST_NOT_PERMITTED);
    cr_assert_eq(stage.decision.answer.run, 0);
    cr_assert_eq(submit_as(&stage, "alice", "k")->run, 1);
    stage_fini(&stage);
}
