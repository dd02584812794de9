/* What a committed record does to the coordinator: the only place where it changes. */

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "daemon/coordinator.h"
#include "daemon/memory.h"
#include "daemon/straggler.h"

void coordinator_init(struct coordinator *coordinator, uint32_t ranks_max)
{
    *coordinator = (struct coordinator){.ranks_max = ranks_max, .order_next = 1};
}

void coordinator_fini(struct coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->run_count; i++) run_free(coordinator->runs[i]);
    free(coordinator->runs);
    coordinator_init(coordinator, coordinator->ranks_max);
}

/* A requeue ends it, and spares the attempt that lived then. */
static uint64_t back_off_ms(const struct run *run)
{
    if (run->attempt.number <= run->requeued_attempt) return 0;
    bool spared = run->attempt.cause == CAUSE_LAUNCH_FAILED && !run->attempt.counted;
    if (spared) return BACK_OFF_MS_MAX; /* there is no limit to how often */
    if (!run->attempt.counted) return 0;
    uint64_t wait_ms = BACK_OFF_MS;
    for (uint32_t i = 1; i < run->fruitless && wait_ms < BACK_OFF_MS_MAX; i++) wait_ms *= 2;
    return wait_ms < BACK_OFF_MS_MAX ? wait_ms : BACK_OFF_MS_MAX;
}

static void append_run(struct coordinator *coordinator, struct run *run)
{
    assert(run->number == coordinator->run_count + 1);
    if (coordinator->run_count == coordinator->run_capacity) {
        size_t capacity = coordinator->run_capacity > 0 ? 2 * coordinator->run_capacity : 16;
        coordinator->runs = memory_grow(coordinator->runs, capacity * sizeof(struct run *));
        coordinator->run_capacity = capacity;
    }
    coordinator->runs[coordinator->run_count++] = run;
}

void coordinator_restore(struct coordinator *coordinator, struct run *run, uint64_t now_ms)
{
    append_run(coordinator, run);
    run->heard_ms = now_ms; /* it has a whole lease to be heard in */
    run->due_ms = now_ms + back_off_ms(run);
    run->attempt.pressed_ms = run->attempt.window_ms = now_ms;
    for (uint32_t r = 0; run->attempt.ranks && r < run->facts.ranks; r++) {
        run->attempt.ranks[r].sequence_heard = run->attempt.ranks[r].sequence;
        run->attempt.ranks[r].heard_ms = now_ms;
    }
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].id >= coordinator->order_next)
            coordinator->order_next = run->orders[i].id + 1;
}

static void apply_run_submitted(struct coordinator *coordinator, struct run *run,
                                const struct record *record, uint64_t now_ms)
{
    (void)run;
    const struct record_run_submitted *submitted = &record->run_submitted;
    struct run *made = memory_zeroed(1, sizeof *made);
    made->number = record->run;
    snprintf(made->id, sizeof made->id, "r%" PRIu64, record->run);
    text_copy(made->key, sizeof made->key, submitted->key);
    text_copy(made->user, sizeof made->user, submitted->user);
    made->facts = *submitted->facts;
    made->after_count = submitted->after_count;
    made->after = memory_zeroed(submitted->after_count, sizeof *made->after);
    for (size_t i = 0; i < submitted->after_count; i++) made->after[i] = submitted->after[i];
    made->forked_from = submitted->forked_from;
    made->forked_step = submitted->forked_step;
    made->state = RUN_QUEUED;
    made->submitted_ms = record->time_ms;
    made->heard_ms = now_ms;
    append_run(coordinator, made);
}

static void apply_run_moved(struct coordinator *coordinator, struct run *run,
                            const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    const struct record_run_moved *moved = &record->run_moved;
    assert(run->state == moved->from);
    assert(run_move_allowed(moved->from, moved->to));
    run->state = moved->to;
    text_copy(run->reason, sizeof run->reason, moved->reason);
    run->heard_ms = now_ms;
    run->waits[0] = '\0';
    if (moved->to == RUN_STARTING && run->started_ms == 0) run->started_ms = record->time_ms;
    run->ended_ms = run_state_is_final(moved->to) ? record->time_ms : 0;
    if (moved->to != RUN_SUCCEEDED) return;
    free(run->draws); /* nothing will be compared with them any more */
    run->draws = NULL;
    run->draw_count = 0;
}

static void apply_stop_requested(struct coordinator *coordinator, struct run *run,
                                 const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    run->stop = record->stop_requested.stop;
}

static void apply_drilled(struct coordinator *coordinator, struct run *run,
                          const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    run->drill = record->drilled.drill;
}

static void apply_requeued(struct coordinator *coordinator, struct run *run,
                           const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    memset(run->spent, 0, sizeof run->spent);
    run->fruitless = run->stillborn = 0;
    run->requeued_attempt = run->attempt.number;
    run->due_ms = now_ms;
    text_copy(run->requeue_key, sizeof run->requeue_key, record->requeued.key);
}

static void apply_attempt_planned(struct coordinator *coordinator, struct run *run,
                                  const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    assert(!run_attempt_lives(run));
    assert(record->attempt == run->attempt.number + 1);
    free(run->attempt.ranks);
    run->attempt = (struct attempt){.number = record->attempt,
                                    .planned_ms = record->time_ms,
                                    .stalled_rank = -1,
                                    .ranks = memory_zeroed(run->facts.ranks, sizeof(struct rank))};
    for (uint32_t r = 0; r < run->facts.ranks; r++) run->attempt.ranks[r].heard_ms = now_ms;
    run->attempt.window_ms = now_ms;
    text_copy(run->attempt.nonce, sizeof run->attempt.nonce, record->attempt_planned.nonce);
    run->tokens = memory_grow(run->tokens, record->attempt * sizeof run->tokens[0]);
    text_copy(run->tokens[record->attempt - 1], sizeof run->tokens[0],
              record->attempt_planned.token);
}

static void apply_attempt_launched(struct coordinator *coordinator, struct run *run,
                                   const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    run->attempt.pid = record->attempt_launched.pid;
    run->attempt.pid_start_time = record->attempt_launched.pid_start_time;
    run->heard_ms = now_ms;
}

static void apply_attempt_stalled(struct coordinator *coordinator, struct run *run,
                                  const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    struct attempt *attempt = &run->attempt;
    attempt->stalled_rank = (int)record->attempt_stalled.rank;
    text_copy(attempt->stalled_text, sizeof attempt->stalled_text, record->attempt_stalled.text);
    attempt->pressed_ms = now_ms;
}

static void apply_attempt_pressed(struct coordinator *coordinator, struct run *run,
                                  const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)record;
    run->attempt.pressed_ms = now_ms;
}

static void apply_attempt_waits(struct coordinator *coordinator, struct run *run,
                                const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    text_copy(run->waits, sizeof run->waits, record->attempt_waits.words);
    run->heard_ms = now_ms;
}

static void apply_attempt_ended(struct coordinator *coordinator, struct run *run,
                                const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    assert(run_attempt_lives(run) && record->attempt == run->attempt.number);
    run->attempt.ended = true;
    run->attempt.cause = record->attempt_ended.cause;
    run->attempt.counted = record->attempt_ended.counted;
    run->fruitless = record->attempt_ended.fruitless;
    run->stillborn = record->attempt_ended.stillborn;
    run->stillborn_step = record->attempt_ended.stillborn_step;
    if (run->attempt.counted) run->spent[attempt_cause_budget(run->attempt.cause)]++;
    run->due_ms = now_ms + back_off_ms(run);
}

static void apply_rendezvous(struct coordinator *coordinator, struct run *run,
                             const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    text_copy(run->attempt.rendezvous, sizeof run->attempt.rendezvous, record->rendezvous.text);
}

static struct rank *rank_of(struct run *run, const struct record *record, uint32_t rank)
{
    assert(record->attempt == run->attempt.number && rank < run->facts.ranks);
    return &run->attempt.ranks[rank];
}

static void apply_rank_started(struct coordinator *coordinator, struct run *run,
                               const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    const struct record_rank_started *started = &record->rank_started;
    rank_of(run, record, started->rank)->started = true;
    if (run->attempt.started) return;
    run->attempt.started = true;
    run->attempt.resumed_step = started->resumed_step;
    run->step = started->resumed_step;
}

/* What it did before this daemon first heard of it is of no window. */
static void hear_own_time(struct rank *rank, const Performer__Heartbeat *heartbeat)
{
    const bool first = rank->own_steps == 0 || heartbeat->own_steps < rank->own_steps;
    rank->own_steps = heartbeat->own_steps;
    rank->own_ms = heartbeat->own_ms;
    if (!first) return;
    rank->window_steps = rank->own_steps;
    rank->window_own_ms = rank->own_ms;
}

static void apply_rank_heard(struct coordinator *coordinator, struct run *run,
                             const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    const struct record_rank_heard *heard = &record->rank_heard;
    struct rank *rank = rank_of(run, record, heard->rank);
    assert(heard->sequence > rank->sequence_heard);
    rank->heard = true;
    rank->sequence_heard = heard->sequence;
    rank->heard_ms = now_ms;
    run->heard_ms = now_ms;
    if (!heard->heartbeat) return;
    rank->step = heard->heartbeat->step;
    rank->step_ms = heard->heartbeat->step_ms;
    hear_own_time(rank, heard->heartbeat);
    rank->stood_ms = heard->heartbeat->stood_ms;
    rank->usual_ms = heard->heartbeat->usual_ms;
    rank->pid = heard->heartbeat->pid;
    text_copy(rank->phase, sizeof rank->phase, heard->heartbeat->phase);
    text_copy(rank->host, sizeof rank->host, heard->heartbeat->host);
}

static void apply_ranks_scored(struct coordinator *coordinator, struct run *run,
                               const struct record *record, uint64_t now_ms)
{
    (void)coordinator;
    run->attempt.window_ms = now_ms;
    for (uint32_t r = 0; r < run->facts.ranks; r++) {
        struct rank *rank = rank_of(run, record, r);
        rank->score = record->ranks_scored.scores[r];
        rank->slow_windows = straggler_windows(rank, rank->score);
        rank->window_steps = rank->own_steps;
        rank->window_own_ms = rank->own_ms;
    }
}

static void apply_report_taken(struct coordinator *coordinator, struct run *run,
                               const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    const struct record_report_taken *taken = &record->report_taken;
    struct rank *rank = rank_of(run, record, taken->rank);
    assert(taken->sequence > rank->sequence);
    rank->sequence = taken->sequence;
    if (taken->step > run->step) run->step = taken->step;
    for (size_t i = 0; i < taken->metric_count; i++) {
        const Performer__MetricRow *row = taken->metrics[i];
        run_note_metric(run, row->name, row->step, row->value);
    }
}

static void apply_order_requested(struct coordinator *coordinator, struct run *run,
                                  const struct record *record, uint64_t now_ms)
{
    (void)now_ms;
    assert(record->order_requested.order == coordinator->order_next);
    coordinator->order_next++;
    size_t count = run->order_count + 1;
    run->orders = memory_grow(run->orders, count * sizeof *run->orders);
    run->orders[run->order_count++] = (struct order){.id = record->order_requested.order,
                                                     .kind = record->order_requested.kind,
                                                     .state = ORDER_PENDING,
                                                     .requested_ms = record->time_ms};
}

static void apply_order_applied(struct coordinator *coordinator, struct run *run,
                                const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    struct order *order = (struct order *)run_order(run, record->order_applied.order);
    assert(order && order->state != ORDER_APPLIED);
    order->state = ORDER_APPLIED;
    order->step = record->order_applied.step;
}

static void apply_order_dropped(struct coordinator *coordinator, struct run *run,
                                const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    struct order *order = (struct order *)run_order(run, record->order_dropped.order);
    assert(order && order->state == ORDER_PENDING);
    order->state = ORDER_DROPPED;
}

static void insert_draw(struct run *run, const struct draw *draw)
{
    size_t place = run->draw_count;
    while (place > 0 && run->draws[place - 1].draw > draw->draw) place--;
    if (run->draw_count == RUN_DRAWS_MAX) {
        if (place == 0) return;
        memmove(run->draws, run->draws + 1, (place - 1) * sizeof *draw);
        run->draws[place - 1] = *draw;
        return;
    }
    run->draws = memory_grow(run->draws, (run->draw_count + 1) * sizeof *draw);
    memmove(run->draws + place + 1, run->draws + place, (run->draw_count - place) * sizeof *draw);
    run->draws[place] = *draw;
    run->draw_count++;
}

static void apply_redrawn(struct coordinator *coordinator, struct run *run,
                          const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    if (run->state == RUN_SUCCEEDED) return;
    const struct record_redrawn *redrawn = &record->redrawn;
    for (size_t i = 0; i < run->draw_count; i++) {
        struct draw *known = &run->draws[i];
        if (known->draw != redrawn->draw) continue;
        bool again = known->attempt == record->attempt;
        if ((again && known->step != redrawn->step) || strcmp(known->hash, redrawn->hash) != 0)
            known->agreed = false;
        if (again) return;
        known->step = redrawn->step;
        known->order = redrawn->order;
        known->attempt = record->attempt;
        return;
    }
    struct draw made = {.draw = redrawn->draw,
                        .step = redrawn->step,
                        .order = redrawn->order,
                        .attempt = record->attempt,
                        .agreed = true};
    text_copy(made.hash, sizeof made.hash, redrawn->hash);
    insert_draw(run, &made);
}

static void forget_aside(struct run *run, uint64_t step)
{
    size_t kept = 0;
    for (size_t i = 0; i < run->aside_count; i++)
        if (run->aside[i] != step) run->aside[kept++] = run->aside[i];
    run->aside_count = kept;
}

/* One that went back to an earlier step, or to the same, undoes those before it. */
static void apply_rewound(struct coordinator *coordinator, struct run *run,
                          const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    const struct rewind *rewind = &record->rewound.rewind;
    while (run->rewind_count > 0 && run->rewinds[run->rewind_count - 1].step >= rewind->step)
        run->rewind_count--;
    run->rewinds = memory_grow(run->rewinds, (run->rewind_count + 1) * sizeof *rewind);
    run->rewinds[run->rewind_count++] = *rewind;
    run->saved_step = rewind->step;
    while (run->aside_count > 0 && run->aside[run->aside_count - 1] > rewind->step)
        run->aside_count--;
}

static void apply_checkpoint_saved(struct coordinator *coordinator, struct run *run,
                                   const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    uint64_t step = record->checkpoint_saved.step;
    forget_aside(run, step);
    run->save_ms = run_save_ms(record->checkpoint_saved.seconds);
    run->saved_ms = record->time_ms;
    if (step <= run->saved_step) return;
    run->saved_step = step;
    if (run->attempt.number > 0) run->attempt.progressed = true;
}

/* One that is removed is passed over no more, should there be another of its step. */
static void apply_checkpoint_judged(struct coordinator *coordinator, struct run *run,
                                    const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    forget_aside(run, record->checkpoint_judged.step);
}

/* In order of step. */
static void apply_checkpoint_set_aside(struct coordinator *coordinator, struct run *run,
                                       const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)now_ms;
    uint64_t step = record->checkpoint_set_aside.step;
    size_t place = run->aside_count++;
    assert(place < RUN_ASIDE_MAX);
    for (; place > 0 && run->aside[place - 1] > step; place--)
        run->aside[place] = run->aside[place - 1];
    run->aside[place] = step;
    if (step > run->saved_step) run->saved_step = step; /* nobody had lived to tell of it */
}

/* The history is for people: nothing is decided by it, and the store alone holds it. */
static void apply_noted(struct coordinator *coordinator, struct run *run,
                        const struct record *record, uint64_t now_ms)
{
    (void)coordinator, (void)run, (void)record, (void)now_ms;
}

static void (*const appliers[])(struct coordinator *coordinator, struct run *run,
                                const struct record *record, uint64_t now_ms) = {
#define RECORD_ROW(enumerator, tag, durable) [enumerator] = apply_##tag,
    RECORDS(RECORD_ROW)
#undef RECORD_ROW
};

void coordinator_apply(struct coordinator *coordinator, const struct record *records, size_t count,
                       uint64_t now_ms)
{
    for (size_t i = 0; i < count; i++) {
        const struct record *record = &records[i];
        struct run *run = (struct run *)coordinator_run(coordinator, record->run);
        assert(run || record->kind == RECORD_RUN_SUBMITTED);
        appliers[record->kind](coordinator, run, record, now_ms);
    }
}

/* ---- invariants ---- */

static bool state_holds_attempt(enum run_state state)
{
    return state == RUN_STARTING || state == RUN_RUNNING || state == RUN_STOPPING ||
           state == RUN_UNKNOWN;
}

static const char *check_orders(const struct coordinator *coordinator, const struct run *run)
{
    for (size_t i = 0; i < run->order_count; i++) {
        const struct order *order = &run->orders[i];
        if (order->id == 0 || order->id >= coordinator->order_next)
            return "an order has an id that was never given";
        if (i > 0 && run->orders[i - 1].id >= order->id) return "orders are not in order of id";
        if (order->state == ORDER_PENDING && run_state_is_final(run->state))
            return "a final run has a pending order";
        if (order->state == ORDER_PENDING && order->kind == PERFORMER__ORDER__KIND__STOP &&
            run->state != RUN_STOPPING)
            return "an order to stop is pending, and the run goes on";
        if (order->state != ORDER_APPLIED && order->step != 0)
            return "an order that was not applied has a step";
    }
    return NULL;
}

static const char *check_fork(const struct run *run)
{
    if ((run->forked_from == 0) != (run->forked_step == 0)) return "half of a fork";
    return run->forked_from >= run->number ? "a run was forked from a later one" : NULL;
}

static const char *check_rewinds(const struct run *run)
{
    for (size_t i = 0; i < run->rewind_count; i++) {
        const struct rewind *rewind = &run->rewinds[i];
        if (i > 0 && (rewind[-1].number >= rewind->number || rewind[-1].step >= rewind->step ||
                      rewind[-1].draw >= rewind->draw))
            return "rewinds are not in order";
        if (rewind->step < run->forked_step) return "a fork goes back to before its beginning";
    }
    return NULL;
}

static const char *check_after(const struct coordinator *coordinator, const struct run *run)
{
    for (size_t i = 0; i < run->after_count; i++) {
        const struct run *earlier = coordinator_run(coordinator, run->after[i]);
        if (!earlier || earlier->number >= run->number) return "a run comes after a later one";
        if (run->attempt.number > 0 && earlier->state != RUN_SUCCEEDED)
            return "a run has begun before one that it comes after has succeeded";
    }
    return NULL;
}

static const char *check_attempt(const struct run *run)
{
    const struct attempt *attempt = &run->attempt;
    if (run_attempt_lives(run) != state_holds_attempt(run->state))
        return "a run has a living attempt if and only if its state says so";
    uint64_t spent = 0;
    for (int budget = BUDGET_NONE; budget < BUDGET_COUNT; budget++) {
        if (run->spent[budget] > run_restarts_max(run, budget) + UINT64_C(1))
            return "more attempts have ended than their budget allows";
        spent += run->spent[budget];
    }
    if (run->spent[BUDGET_NONE] > 0 || spent > attempt->number)
        return "more ends are counted than there were";
    if (run->fruitless > spent || run->stillborn > run->fruitless)
        return "more ends without progress are counted than ends";
    if ((attempt->number > 0) != (attempt->ranks != NULL)) return "an attempt without ranks";
    for (uint32_t r = 0; attempt->ranks && r < run->facts.ranks; r++)
        if (attempt->ranks[r].sequence > attempt->ranks[r].sequence_heard)
            return "a rank's stored sequence number is ahead of what was heard";
    return NULL;
}

const char *coordinator_check_run(const struct coordinator *coordinator, const struct run *run)
{
    if (run->state == RUN_STOPPING && run->stop == STOP_NONE) return "nobody asked it to stop";
    if (run->state != RUN_STOPPING && !run_state_is_final(run->state) && run->stop != STOP_NONE)
        return "it is to stop, and goes on";
    if (run_state_is_final(run->state) != (run->ended_ms != 0))
        return "a run has an end if and only if it is final";
    for (size_t i = 1; i < run->draw_count; i++)
        if (run->draws[i - 1].draw >= run->draws[i].draw) return "draws are not in order";
    const char *flaw = check_after(coordinator, run);
    if (!flaw) flaw = check_fork(run);
    if (!flaw) flaw = check_attempt(run);
    if (!flaw) flaw = check_rewinds(run);
    return flaw ? flaw : check_orders(coordinator, run);
}

const char *coordinator_check(const struct coordinator *coordinator)
{
    if (coordinator_ranks_in_use(coordinator) > coordinator->ranks_max)
        return "more ranks are in use than there are";
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        if (run->number != i + 1) return "a run is not in its place";
        const char *flaw = coordinator_check_run(coordinator, run);
        if (flaw) return flaw;
    }
    return NULL;
}
