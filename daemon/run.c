#include "daemon/run.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/memory.h"
#include "daemon/stall.h"

enum status run_facts_of(const struct jobspec *spec, struct run_facts *facts, struct fault *fault)
{
    const char *name = spec->job.name;
    if (!name || name[0] == '\0' || strlen(name) > RUN_NAME_MAX)
        return fault_set(fault, ST_INVALID, "job.name must have 1 to %d characters", RUN_NAME_MAX);
    if (spec->resources.ranks < 1 || spec->resources.ranks > UINT32_MAX)
        return fault_set(fault, ST_INVALID, "resources.ranks must be 1 or more");
    if (spec->train.steps < 1) return fault_set(fault, ST_INVALID, "train.steps must be 1 or more");
    if (spec->restart.max < 0 || spec->restart.max >= UINT32_MAX)
        return fault_set(fault, ST_INVALID, "restart.max must be 0 or more");

    bool features = jobspec_has_projection(spec);
    bool planned = features && spec->redraw.policy == POLICY_FIXED && spec->redraw.every > 0;
    *facts = (struct run_facts){
        .ranks = (uint32_t)spec->resources.ranks,
        .steps = (uint64_t)spec->train.steps,
        .restart_max = (uint32_t)spec->restart.max,
        .stall_ms = (uint64_t)(spec->restart.stall_seconds * 1e3),
        .redraw_every = planned ? (uint64_t)spec->redraw.every : 0,
        .checkpoint_every = spec->checkpoint.every > 0 ? (uint64_t)spec->checkpoint.every : 0,
        .redraw_threshold = spec->redraw.policy == POLICY_ADAPTIVE ? spec->redraw.threshold : 0,
        .priority = spec->queue.priority,
        .features = features,
        .validates = jobspec_validates(spec),
        .grace_ms =
            spec->resources.launcher == LAUNCHER_SLURM ? (uint64_t)spec->slurm.grace * 1000 : 0,
        .goes_back = spec->train.on_divergence == DIVERGENCE_BACK,
        .launcher = spec->resources.launcher,
    };
    strcpy(facts->name, name);
    return ST_OK;
}

static const char *const order_state_names[] = {
#define ORDER_STATE_ROW(enumerator, name) [enumerator] = name,
    ORDER_STATES(ORDER_STATE_ROW)
#undef ORDER_STATE_ROW
};

const char *order_state_name(enum order_state state)
{
    return order_state_names[state];
}

bool order_state_from_name(const char *name, enum order_state *state)
{
    for (size_t i = 0; i < sizeof order_state_names / sizeof order_state_names[0]; i++) {
        if (strcmp(order_state_names[i], name) != 0) continue;
        *state = (enum order_state)i;
        return true;
    }
    return false;
}

static const struct {
    Performer__Order__Kind kind;
    const char *name;
} order_kinds[] = {
    {PERFORMER__ORDER__KIND__REDRAW, "redraw"},
    {PERFORMER__ORDER__KIND__CHECKPOINT, "checkpoint"},
    {PERFORMER__ORDER__KIND__EVALUATE, "evaluate"},
    {PERFORMER__ORDER__KIND__STOP, "stop"},
};

enum { ORDER_KIND_COUNT = sizeof order_kinds / sizeof order_kinds[0] };

const char *order_kind_name(Performer__Order__Kind kind)
{
    for (int i = 0; i < ORDER_KIND_COUNT; i++)
        if (order_kinds[i].kind == kind) return order_kinds[i].name;
    return "unknown";
}

bool order_kind_from_name(const char *name, Performer__Order__Kind *kind)
{
    for (int i = 0; i < ORDER_KIND_COUNT; i++) {
        if (strcmp(order_kinds[i].name, name) != 0) continue;
        *kind = order_kinds[i].kind;
        return true;
    }
    return false;
}

bool run_attempt_lives(const struct run *run)
{
    return run->attempt.number > 0 && !run->attempt.ended;
}

bool run_obeys(const struct run *run, const struct caller *caller)
{
    return caller->admin || strcmp(caller->user, run->user) == 0;
}

uint32_t run_ranks_here(const struct run_facts *facts)
{
    return facts->launcher == LAUNCHER_LOCAL ? facts->ranks : 0;
}

uint64_t run_step_now(const struct run *run)
{
    uint64_t step = run->step;
    for (uint32_t r = 0; run->attempt.ranks && r < run->facts.ranks; r++)
        if (run->attempt.ranks[r].step > step) step = run->attempt.ranks[r].step;
    return step;
}

uint64_t run_next_multiple(const struct run *run, uint64_t every)
{
    if (every == 0 || run_state_is_final(run->state)) return 0;
    uint64_t next = (run_step_now(run) / every + 1) * every;
    return next <= run->facts.steps ? next : 0;
}

enum { SAVE_S_MAX = 24 * 3600, STEP_MS_MAX = SAVE_S_MAX * 1000 };

uint64_t run_save_ms(double seconds)
{
    return seconds > 0 && seconds < SAVE_S_MAX ? (uint64_t)(1e3 * seconds) : 0;
}

uint64_t run_stop_ms(const struct run *run)
{
    if (run->save_ms == 0) return 0;
    double step_ms = 0;
    for (uint32_t r = 0; run->attempt.ranks && r < run->facts.ranks; r++)
        if (run->attempt.ranks[r].step_ms > step_ms) step_ms = run->attempt.ranks[r].step_ms;
    const uint64_t stop_ms = run->save_ms + (step_ms < STEP_MS_MAX ? (uint64_t)step_ms : 0);
    return stop_ms > run->drill.exit_ms ? stop_ms : run->drill.exit_ms;
}

uint64_t run_grace_ms(const struct run *run)
{
    return run->facts.grace_ms > 0 ? run->facts.grace_ms : stall_grace_ms(run);
}

bool run_restarts_after(const struct run *run, enum attempt_cause cause)
{
    if (cause == CAUSE_DIVERGED && !run->facts.goes_back) return false;
    return attempt_cause_restarts(cause);
}

uint32_t run_restarts_max(const struct run *run, enum restart_budget budget)
{
    uint32_t attempts = restart_budget_attempts(budget);
    return attempts == RESTARTS_BY_JOB ? run->facts.restart_max : attempts;
}

const struct order *run_order(const struct run *run, uint64_t id)
{
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].id == id) return &run->orders[i];
    return NULL;
}

/* Where the metric is, or belongs. */
static size_t latest_place(const struct run *run, const char *name)
{
    size_t low = 0, high = run->latest_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(run->latest[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void run_note_metric(struct run *run, const char *name, uint64_t step, double value)
{
    size_t place = latest_place(run, name);
    struct latest *latest = run->latest + place;
    if (place == run->latest_count || strcmp(latest->name, name) != 0) {
        run->latest = memory_grow(run->latest, (run->latest_count + 1) * sizeof *latest);
        latest = run->latest + place;
        memmove(latest + 1, latest, (run->latest_count++ - place) * sizeof *latest);
        *latest = (struct latest){0};
        text_copy(latest->name, sizeof latest->name, name);
    }
    if (step < latest->step) return;
    latest->step = step;
    latest->value = value;
}

void run_free(struct run *run)
{
    if (!run) return;
    free(run->after);
    free(run->attempt.ranks);
    free(run->tokens);
    free(run->orders);
    free(run->latest);
    free(run->draws);
    free(run->rewinds);
    free(run);
}
