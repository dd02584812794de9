#include "tests/daemon/difference.h"

#include <math.h>
#include <string.h>

#define DIFFER(condition, words)     \
    do {                             \
        if (condition) return words; \
    } while (0)

static const char *attempts_differ(const struct run *a, const struct run *b)
{
    const struct attempt *x = &a->attempt, *y = &b->attempt;
    DIFFER(x->number != y->number, "attempt number");
    DIFFER(strcmp(x->nonce, y->nonce) != 0, "nonce");
    DIFFER(x->ended != y->ended || x->cause != y->cause, "end of attempt");
    DIFFER(x->started != y->started || x->resumed_step != y->resumed_step, "start of attempt");
    DIFFER(x->counted != y->counted || x->progressed != y->progressed, "count of attempt");
    DIFFER(x->pid != y->pid || x->pid_start_time != y->pid_start_time, "pid");
    DIFFER(x->planned_ms != y->planned_ms, "time of plan");
    for (uint32_t i = 0; i < x->number; i++)
        DIFFER(strcmp(a->tokens[i], b->tokens[i]) != 0, "token");
    DIFFER(x->stalled_rank != y->stalled_rank, "stalled rank");
    DIFFER(strcmp(x->stalled_text, y->stalled_text) != 0, "words of stalled rank");
    DIFFER(strcmp(x->rendezvous, y->rendezvous) != 0, "rendezvous");
    DIFFER(!x->ranks != !y->ranks, "ranks");
    for (uint32_t r = 0; x->ranks && r < a->facts.ranks; r++) {
        DIFFER(x->ranks[r].sequence != y->ranks[r].sequence, "sequence");
        DIFFER(x->ranks[r].started != y->ranks[r].started, "start of rank");
    }
    return NULL;
}

static const char *orders_differ(const struct run *a, const struct run *b)
{
    DIFFER(a->order_count != b->order_count, "number of orders");
    for (size_t i = 0; i < a->order_count; i++) {
        const struct order *x = &a->orders[i], *y = &b->orders[i];
        DIFFER(x->id != y->id || x->kind != y->kind, "order");
        DIFFER(x->state != y->state || x->step != y->step, "state of order");
        DIFFER(x->requested_ms != y->requested_ms, "time of order");
    }
    DIFFER(a->draw_count != b->draw_count, "number of draws");
    for (size_t i = 0; i < a->draw_count; i++) {
        const struct draw *x = &a->draws[i], *y = &b->draws[i];
        DIFFER(x->attempt != y->attempt, "attempt of draw");
        DIFFER(x->draw != y->draw || x->step != y->step || x->order != y->order, "draw");
        DIFFER(strcmp(x->hash, y->hash) != 0 || x->agreed != y->agreed, "hash of draw");
    }
    return NULL;
}

static const char *metrics_differ(const struct run *a, const struct run *b)
{
    DIFFER(a->latest_count != b->latest_count, "number of metrics");
    for (size_t i = 0; i < a->latest_count; i++) {
        const struct latest *x = &a->latest[i], *y = &b->latest[i];
        const bool no_number = isnan(x->value) && isnan(y->value);
        DIFFER(strcmp(x->name, y->name) != 0 || x->step != y->step, "metric");
        DIFFER(x->value != y->value && !no_number, "value of metric");
    }
    return NULL;
}

static const char *runs_differ(const struct run *a, const struct run *b)
{
    DIFFER(a->number != b->number || strcmp(a->id, b->id) != 0, "id");
    DIFFER(strcmp(a->key, b->key) != 0, "key");
    DIFFER(strcmp(a->user, b->user) != 0, "user");
    DIFFER(strcmp(a->facts.name, b->facts.name) != 0, "name");
    DIFFER(a->facts.ranks != b->facts.ranks || a->facts.steps != b->facts.steps, "size");
    DIFFER(a->facts.restart_max != b->facts.restart_max, "budget");
    DIFFER(a->facts.redraw_every != b->facts.redraw_every, "redraw");
    DIFFER(a->facts.checkpoint_every != b->facts.checkpoint_every, "checkpoint");
    DIFFER(a->facts.redraw_threshold != b->facts.redraw_threshold, "threshold");
    DIFFER(a->facts.features != b->facts.features, "features");
    DIFFER(a->facts.priority != b->facts.priority, "priority");
    DIFFER(a->forked_from != b->forked_from || a->forked_step != b->forked_step, "fork");
    DIFFER(a->after_count != b->after_count, "number of runs that it comes after");
    for (size_t i = 0; i < a->after_count; i++) DIFFER(a->after[i] != b->after[i], "order of runs");
    DIFFER(a->facts.validates != b->facts.validates, "validation");
    DIFFER(a->facts.grace_ms != b->facts.grace_ms, "grace");
    DIFFER(a->drill.attempt != b->drill.attempt || a->drill.step != b->drill.step, "drill");
    DIFFER(a->drill.save_ms != b->drill.save_ms || a->drill.exit_ms != b->drill.exit_ms, "drill");
    DIFFER(a->facts.goes_back != b->facts.goes_back, "way back");
    DIFFER(a->facts.stall_ms != b->facts.stall_ms, "stall");
    DIFFER(a->facts.launcher != b->facts.launcher, "launcher");
    DIFFER(a->state != b->state, "state");
    DIFFER(strcmp(a->reason, b->reason) != 0, "reason");
    DIFFER(a->stop != b->stop, "stop");
    DIFFER(a->step != b->step, "step");
    DIFFER(a->submitted_ms != b->submitted_ms, "time of submit");
    DIFFER(a->started_ms != b->started_ms, "time of start");
    DIFFER(a->ended_ms != b->ended_ms, "time of end");
    DIFFER(memcmp(a->spent, b->spent, sizeof a->spent) != 0, "budgets");
    DIFFER(a->fruitless != b->fruitless || a->saved_step != b->saved_step, "progress");
    DIFFER(a->stillborn != b->stillborn || a->stillborn_step != b->stillborn_step, "stillborn");
    DIFFER(a->aside_count != b->aside_count, "number set aside");
    DIFFER(memcmp(a->aside, b->aside, a->aside_count * sizeof a->aside[0]) != 0, "set aside");
    DIFFER(a->rewind_count != b->rewind_count, "number of rewinds");
    for (size_t i = 0; i < a->rewind_count; i++) {
        const struct rewind *x = &a->rewinds[i], *y = &b->rewinds[i];
        DIFFER(x->number != y->number || x->step != y->step || x->draw != y->draw, "rewind");
    }
    DIFFER(strcmp(a->requeue_key, b->requeue_key) != 0, "key of requeue");
    DIFFER(a->requeued_attempt != b->requeued_attempt, "attempt of requeue");
    const char *words = attempts_differ(a, b);
    if (!words) words = orders_differ(a, b);
    return words ? words : metrics_differ(a, b);
}

const char *coordinators_differ(const struct coordinator *a, const struct coordinator *b)
{
    DIFFER(a->run_count != b->run_count, "number of runs");
    DIFFER(a->order_next != b->order_next, "next order");
    for (size_t i = 0; i < a->run_count; i++) {
        const char *words = runs_differ(a->runs[i], b->runs[i]);
        DIFFER(words, words);
    }
    return NULL;
}
