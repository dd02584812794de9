/* What becomes of an attempt: it runs, is found again, or has ended. */

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#include "daemon/memory.h"
#include "daemon/scene.h"
#include "daemon/stall.h"
#include "daemon/straggler.h"

/* NULL: the event is about an attempt that is over or another than the newest. */
static const struct run *living_run(const struct coordinator *coordinator, uint64_t number,
                                    uint32_t attempt)
{
    const struct run *run = coordinator_run(coordinator, number);
    return run && run->attempt.number == attempt && run_attempt_lives(run) ? run : NULL;
}

static void record_launched(const struct scene *scene, int64_t pid, uint64_t pid_start_time)
{
    scene_record(scene, RECORD_ATTEMPT_LAUNCHED)->attempt_launched =
        (struct record_attempt_launched){.pid = pid, .pid_start_time = pid_start_time};
    if (scene->run->stop == STOP_KILL) scene_effect(scene, EFFECT_SIGNAL)->signal = SIGKILL;
}

void decide_launched(const struct scene *scene)
{
    const struct event_launched *launched = &scene->event->launched;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, launched->run, launched->attempt);
    if (known.run) record_launched(&known, launched->pid, launched->pid_start_time);
}

void decide_adopted(const struct scene *scene)
{
    const struct event_adopted *adopted = &scene->event->adopted;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, adopted->run, adopted->attempt);
    if (!known.run) return;
    record_launched(&known, adopted->pid, adopted->pid_start_time);
    scene_note(&known, NOTE_ATTEMPT_ADOPTED, run_step_now(known.run),
               "attempt %" PRIu32 ", launcher %" PRId64 ", runs on after a restart of the daemon",
               adopted->attempt, adopted->pid);
}

/* A queue may keep it for days: that is no silence. One that was asked to stop before it was known to wait has nothing to
 * save either, and would keep its place until it could hear of it. */
void decide_waits(const struct scene *scene)
{
    const struct event_waits *waits = &scene->event->waits;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, waits->run, waits->attempt);
    if (!known.run) return;
    scene_record(&known, RECORD_ATTEMPT_WAITS)->attempt_waits.words =
        decision_clean(scene->decision, waits->words, WAITS_SIZE - 1, false);
    if (waits->words[0] != '\0' && known.run->stop != STOP_NONE)
        scene_effect(&known, EFFECT_SIGNAL)->signal = SIGKILL;
    if (known.run->state == RUN_UNKNOWN && waits->words[0] != '\0')
        scene_move(&known, RUN_STARTING, "its place in the queue is known again");
}

/* Its ranks have saved, or it was taken out of a queue before there were any. */
static bool has_nothing_unsaved(const struct run *run, const struct evidence *evidence)
{
    return evidence->cause == CAUSE_CANCELLED || evidence->stopped ||
           (evidence->cause == CAUSE_KILLED && !run->attempt.started);
}

/* What a cause means in the light of what was asked for. */
static enum attempt_cause cause_in_context(const struct run *run, const struct evidence *evidence)
{
    enum attempt_cause cause = evidence->cause;
    assert(cause != CAUSE_NONE);
    if (run->stop == STOP_KILL) {
        bool other = run_restarts_after(run, cause) || cause == CAUSE_JOB_CANCELLED;
        return other ? CAUSE_KILLED : cause;
    }
    bool unasked = run->stop == STOP_NONE && (cause == CAUSE_CANCELLED || cause == CAUSE_KILLED);
    if (run->attempt.stalled_rank >= 0 && (unasked || run_restarts_after(run, cause)))
        return CAUSE_HANG; /* it was told to end for that */
    if (run->stop == STOP_NONE && cause == CAUSE_CANCELLED) return CAUSE_PREEMPTED;
    if (run->stop != STOP_NONE && has_nothing_unsaved(run, evidence))
        return run->stop == STOP_CANCEL ? CAUSE_CANCELLED : CAUSE_PAUSED;
    return cause == CAUSE_KILLED ? CAUSE_CRASH : cause;
}

/* Who stood still is to blame, not who was killed first for it. */
static void blame_stalled(const struct run *run, struct evidence *evidence)
{
    const struct attempt *attempt = &run->attempt;
    text_copy(evidence->text, sizeof evidence->text, attempt->stalled_text);
    evidence->first_rank = attempt->stalled_rank;
    text_copy(evidence->host, sizeof evidence->host, attempt->ranks[attempt->stalled_rank].host);
    evidence->signal = 0;
}

/* How the run fares with this end, which takes from a budget, or does not. */
static struct record_attempt_ended end_counted(const struct run *run, enum attempt_cause cause,
                                               bool counted)
{
    const struct attempt *attempt = &run->attempt;
    struct record_attempt_ended ended = {.cause = cause,
                                         .counted = counted,
                                         .fruitless = run->fruitless,
                                         .stillborn = run->stillborn,
                                         .stillborn_step = run->stillborn_step};
    if (!counted) return ended;
    ended.fruitless = attempt->progressed ? 0 : run->fruitless + 1;
    bool loops = restart_budget_loops(attempt_cause_budget(cause));
    /* A heartbeat tells of the step that is under way, a metric of one that was done. */
    bool moved = attempt->progressed || run->step > attempt->resumed_step;
    if (!loops || !attempt->started || moved) {
        ended.stillborn = 0;
        return ended;
    }
    ended.stillborn = attempt->resumed_step == run->stillborn_step ? run->stillborn + 1 : 1;
    ended.stillborn_step = attempt->resumed_step;
    return ended;
}

/* What is tried next is another thing then, and gets its own chances. */
static bool sets_aside(const struct run *run, struct record_attempt_ended *ended)
{
    if (ended->stillborn < STILLBORN_ATTEMPTS_MAX || ended->stillborn_step == 0 ||
        run->aside_count == RUN_ASIDE_MAX)
        return false;
    ended->fruitless = ended->stillborn = 0;
    return true;
}

enum { DRAW_MAX = INT32_MAX }; /* a worker of ours comes nowhere near */

/* The same. */
static bool goes_back(const struct run *run, const struct evidence *evidence,
                      struct record_attempt_ended *ended)
{
    if (ended->cause != CAUSE_DIVERGED || !run->facts.goes_back || !evidence->goes_back)
        return false;
    if (evidence->rewind_step < run->forked_step || evidence->rewind_step > run->facts.steps ||
        evidence->draw >= DRAW_MAX)
        return false; /* no worker of ours says so */
    ended->fruitless = ended->stillborn = 0;
    return true;
}

static bool spent_all(const struct run *run, enum restart_budget budget)
{
    return run->spent[budget] >= run_restarts_max(run, budget);
}

static bool comes_no_further(const struct record_attempt_ended *ended)
{
    return restart_budget_loops(attempt_cause_budget(ended->cause)) &&
           ended->fruitless >= FRUITLESS_ATTEMPTS_MAX;
}

static enum run_state state_after(const struct run *run, const struct record_attempt_ended *ended)
{
    enum attempt_cause cause = ended->cause;
    if (cause == CAUSE_FINISHED) return RUN_SUCCEEDED;
    if (run->stop == STOP_KILL || cause == CAUSE_CANCELLED || cause == CAUSE_JOB_CANCELLED)
        return RUN_CANCELLED;
    if (run->stop == STOP_CANCEL)
        return RUN_FAILED; /* the checkpoint that cancel promises is not there */
    if (cause != CAUSE_PAUSED && !run_restarts_after(run, cause)) return RUN_FAILED;
    if (ended->counted && spent_all(run, attempt_cause_budget(cause))) return RUN_FAILED;
    if (ended->counted && comes_no_further(ended)) return RUN_FAILED;
    if (run->stop == STOP_NONE || run->stop == STOP_DRILL) return RUN_RESTARTING;
    return run->stop == STOP_PAUSE ? RUN_PAUSED : RUN_QUEUED;
}

static const char *used_up_words(const struct scene *scene, enum restart_budget budget,
                                 const char *text)
{
    uint32_t restarts = run_restarts_max(scene->run, budget);
    if (restarts == 0) return text;
    if (budget == BUDGET_CRASH)
        return decision_format(scene->decision, "%s, and all %" PRIu32 " restarts are used up",
                               text, restarts);
    return decision_format(scene->decision,
                           "%s, and all %" PRIu32 " restarts after a %s are used up", text,
                           restarts, restart_budget_name(budget));
}

static const char *end_words(const struct scene *scene, enum run_state next,
                             const struct record_attempt_ended *ended, const char *text)
{
    enum restart_budget budget = attempt_cause_budget(ended->cause);
    const struct run *run = scene->run;
    struct decision *decision = scene->decision;
    if (next == RUN_SUCCEEDED)
        return decision_format(decision, "all %" PRIu64 " steps done", run->facts.steps);
    if (next == RUN_CANCELLED) return run->stop == STOP_KILL ? "killed" : text;
    if (next == RUN_PAUSED && ended->cause == CAUSE_PAUSED)
        return decision_format(decision, "it goes on with `performerctl resume %s`", run->id);
    if (run->state == RUN_STOPPING && ended->cause != CAUSE_PAUSED)
        return decision_format(decision, "it was to stop, but ended first: %s", text);
    if (next != RUN_FAILED || !ended->counted) return text;
    if (spent_all(run, budget)) return used_up_words(scene, budget, text);
    return decision_format(decision,
                           "%s, and %" PRIu32 " attempts in a row have saved no new checkpoint",
                           text, ended->fruitless);
}

static struct evidence *evidence_clean(struct decision *decision, const struct evidence *evidence)
{
    struct evidence *clean = decision_memory(decision, sizeof *clean);
    *clean = *evidence;
    text_copy(clean->text, sizeof clean->text,
              decision_clean(decision, evidence->text, sizeof clean->text - 1, false));
    text_copy(clean->host, sizeof clean->host,
              decision_clean(decision, evidence->host, sizeof clean->host - 1, false));
    text_copy(clean->last_lines, sizeof clean->last_lines,
              decision_clean(decision, evidence->last_lines, sizeof clean->last_lines - 1, true));
    return clean;
}

static void set_aside(const struct scene *scene, uint64_t step)
{
    scene_record(scene, RECORD_CHECKPOINT_SET_ASIDE)->checkpoint_set_aside.step = step;
    scene_note(scene, NOTE_CHECKPOINT_SET_ASIDE, step,
               "%d attempts that resumed from the checkpoint of step %" PRIu64
               " died before they had done a step: the next takes the one before",
               STILLBORN_ATTEMPTS_MAX, step);
}

/* 0: none was told. */
static uint64_t highest_draw(const struct run *run)
{
    uint64_t highest = run->draw_count > 0 ? run->draws[run->draw_count - 1].draw : 0;
    const struct rewind *newest =
        run->rewind_count > 0 ? &run->rewinds[run->rewind_count - 1] : NULL;
    return newest && newest->draw > highest ? newest->draw : highest;
}

/* Features that the run has never used: what it met on its way to the divergence comes again with others. */
static void go_back(const struct scene *scene, const struct evidence *evidence)
{
    const struct run *run = scene->run;
    uint64_t draw = highest_draw(run), before = 0;
    if (evidence->draw > draw) draw = evidence->draw;
    if (run->rewind_count > 0) before = run->rewinds[run->rewind_count - 1].number;
    const struct rewind rewind = {
        .number = before + 1, .step = evidence->rewind_step, .draw = draw + 1};
    scene_record(scene, RECORD_REWOUND)->rewound.rewind = rewind;
    scene_note(scene, NOTE_REWOUND, rewind.step,
               "diverged after step %" PRIu64 ": goes back to step %" PRIu64
               " and draws features number %" PRIu64,
               evidence->step, rewind.step, rewind.draw);
}

/* Clocks of hosts differ, and are set. */
static uint64_t passed_ms(uint64_t from_ms, uint64_t to_ms)
{
    return to_ms > from_ms ? to_ms - from_ms : 0;
}

/* A stop that came to its end as it was asked: how long that took, against what a preemption or a time limit gives. */
static void tell_drill(const struct scene *scene, const struct evidence *evidence)
{
    const struct run *run = scene->run;
    uint64_t asked_ms = 0;
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].kind == PERFORMER__ORDER__KIND__STOP)
            asked_ms = run->orders[i].requested_ms;
    const uint64_t ended_ms = evidence->ended_ms > 0 ? evidence->ended_ms : scene->time_ms;
    const struct drill drill = {.attempt = run->attempt.number,
                                .step = evidence->step,
                                .save_ms = passed_ms(asked_ms, run->saved_ms),
                                .exit_ms = passed_ms(asked_ms, ended_ms)};
    const double grace_s = (double)run_grace_ms(run) / 1e3;
    scene_record(scene, RECORD_DRILLED)->drilled.drill = drill;
    scene_note(scene, NOTE_DRILLED, drill.step,
               "saved step %" PRIu64
               " %.1f s after it was asked, and ended after %.1f s, of %.0f s "
               "that it is given",
               drill.step, (double)drill.save_ms / 1e3, (double)drill.exit_ms / 1e3, grace_s);
    if (drill.exit_ms > run_grace_ms(run))
        scene_note(scene, NOTE_STOP_TOO_SLOW, drill.step, STOP_TOO_SLOW_WORDS,
                   (double)drill.exit_ms / 1e3, grace_s);
}

/* `counts`: an end by a cause that restarts takes from its budget. */
static void end_attempt(const struct scene *scene, const struct evidence *evidence, bool counts)
{
    const struct run *run = scene->run;
    struct evidence *clean = evidence_clean(scene->decision, evidence);
    enum attempt_cause cause = cause_in_context(run, evidence);
    if (run->attempt.stalled_rank >= 0 && cause == CAUSE_HANG) blame_stalled(run, clean);
    const char *text = clean->text[0] != '\0' ? clean->text : attempt_cause_words(cause);
    struct record_attempt_ended ended = end_counted(
        run, cause,
        counts && run_restarts_after(run, cause) && run->attempt.number > run->requeued_attempt);
    ended.evidence = clean;
    bool aside = sets_aside(run, &ended), back = goes_back(run, clean, &ended);
    enum run_state next = state_after(run, &ended);

    scene_record(scene, RECORD_ATTEMPT_ENDED)->attempt_ended = ended;
    bool good = cause == CAUSE_FINISHED || cause == CAUSE_CANCELLED || cause == CAUSE_PAUSED ||
                cause == CAUSE_KILLED;
    scene_note(scene, good ? NOTE_ATTEMPT_ENDED : NOTE_ATTEMPT_FAILED, run_step_now(run),
               "attempt %" PRIu32 ", %s: %s", run->attempt.number, attempt_cause_name(cause), text);
    if (aside && !run_state_is_final(next)) set_aside(scene, ended.stillborn_step);
    if (back && !run_state_is_final(next)) go_back(scene, clean);
    if (run->stop == STOP_DRILL && cause == CAUSE_PAUSED) tell_drill(scene, clean);
    if (run->stop != STOP_NONE && !run_state_is_final(next))
        scene_record(scene, RECORD_STOP_REQUESTED)->stop_requested.stop = STOP_NONE;
    scene_move(scene, next, end_words(scene, next, &ended, text));
}

static const char *stall_words(const struct scene *scene, const struct stall *stall)
{
    const struct rank *rank = &scene->run->attempt.ranks[stall->rank];
    char before[64] = "it had not done one before";
    if (stall->usual_ms > 0)
        snprintf(before, sizeof before, "it took %.1f s at most before",
                 (double)stall->usual_ms / 1e3);
    return decision_format(scene->decision,
                           "rank %" PRIu32 " %s%s%s in %s of step %" PRIu64 " for %.0f s; %s",
                           stall->rank, rank->host[0] != '\0' ? "on " : "", rank->host,
                           stall->silent ? " is silent" : " stands still",
                           rank->phase[0] != '\0' ? rank->phase : "its start", rank->step,
                           (double)stall->stood_ms / 1e3, before);
}

static void rescue_stalled(const struct scene *scene, const struct stall *stall)
{
    const char *text = stall_words(scene, stall);
    scene_record(scene, RECORD_ATTEMPT_STALLED)->attempt_stalled =
        (struct record_attempt_stalled){.rank = stall->rank, .text = text};
    scene_note(scene, NOTE_RANK_STALLED, scene->run->attempt.ranks[stall->rank].step, "%s", text);
    scene_effect(scene, EFFECT_RESCUE)->rank = stall->rank;
}

bool decide_stall(const struct scene *scene)
{
    uint64_t now_ms = scene->event->now_ms;
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        struct stall stall;
        known.run = scene->coordinator->runs[i];
        const struct attempt *attempt = &known.run->attempt;
        if (!run_attempt_lives(known.run)) continue;
        if (attempt->stalled_rank >= 0) {
            if (now_ms - attempt->pressed_ms < stall_grace_ms(known.run)) continue;
            scene_record(&known, RECORD_ATTEMPT_PRESSED)->attempt_pressed.signal = SIGKILL;
            scene_effect(&known, EFFECT_SIGNAL)->signal = SIGKILL;
            return true;
        }
        if (!stall_find(known.run, now_ms, scene->event->tick.awake_ms, &stall)) continue;
        rescue_stalled(&known, &stall);
        return true;
    }
    return false;
}

/* Once when it becomes slow, and once when it is slow no more. */
static void tell_straggler(const struct scene *scene, uint32_t number, double score)
{
    const struct rank *rank = &scene->run->attempt.ranks[number];
    const uint32_t windows = straggler_windows(rank, score);
    const char *on = rank->host[0] != '\0' ? " on " : "";
    if (windows == STRAGGLER_WINDOWS)
        scene_note(scene, NOTE_RANK_SLOW, rank->step,
                   "rank %" PRIu32 "%s%s is slow: a step takes %.1f ms of its own time, %.2f times "
                   "the median of all ranks",
                   number, on, rank->host, straggler_own_ms(rank), 1 / score);
    else if (windows == 0 && rank->slow_windows >= STRAGGLER_WINDOWS)
        scene_note(scene, NOTE_RANK_WELL, rank->step, "rank %" PRIu32 "%s%s is slow no more",
                   number, on, rank->host);
}

bool decide_stragglers(const struct scene *scene)
{
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        known.run = scene->coordinator->runs[i];
        if (known.run->state != RUN_RUNNING) continue;
        double *scores = decision_memory(scene->decision, known.run->facts.ranks * sizeof *scores);
        if (!straggler_scores(known.run, scene->event->now_ms, scores)) continue;
        for (uint32_t r = 0; r < known.run->facts.ranks; r++) tell_straggler(&known, r, scores[r]);
        scene_record(&known, RECORD_RANKS_SCORED)->ranks_scored.scores = scores;
        return true;
    }
    return false;
}

void decide_attempt_ended(const struct scene *scene)
{
    const struct event_attempt_ended *ended = &scene->event->attempt_ended;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, ended->run, ended->attempt);
    if (known.run) end_attempt(&known, ended->evidence, true);
}

static void end_without_evidence(const struct scene *scene, uint64_t number, uint32_t attempt,
                                 enum attempt_cause cause, const char *text, bool counts)
{
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, number, attempt);
    if (!known.run) return;
    struct evidence evidence = {.cause = cause, .first_rank = -1, .exit_code = -1};
    text_copy(evidence.text, sizeof evidence.text, text);
    end_attempt(&known, &evidence, counts);
}

/* A full disk is not the run's doing, and would use up the budgets of a whole queue in a minute. */
void decide_launch_failed(const struct scene *scene)
{
    const struct event_launch_failed *failed = &scene->event->launch_failed;
    end_without_evidence(scene, failed->run, failed->attempt, CAUSE_LAUNCH_FAILED, failed->text,
                         failed->status != ST_NO_SPACE);
}

/* The daemon died between planning and launching: its fault, not the run's. */
void decide_unlaunched(const struct scene *scene)
{
    const struct event_unlaunched *unlaunched = &scene->event->unlaunched;
    const struct run *run = coordinator_run(scene->coordinator, unlaunched->run);
    bool stopping = run && run->state == RUN_STOPPING;
    end_without_evidence(scene, unlaunched->run, unlaunched->attempt,
                         stopping ? CAUSE_CANCELLED : CAUSE_LOST,
                         "the daemon ended before it had started this attempt", false);
}
