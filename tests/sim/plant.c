#include "tests/sim/plant.h"

#include <signal.h>
#include <string.h>

#include "daemon/memory.h"
#include "tests/sim/host.h"
#include "tests/sim/product.h"

enum plant planted;

static const struct {
    const char *name, *words;
} plants[] = {[PLANT_NONE] = {"none", "none"},
#define PLANT_ROW(enumerator, name, words) [enumerator] = {name, words},
              PLANTS(PLANT_ROW)
#undef PLANT_ROW
};

const char *plant_name(enum plant plant)
{
    return plants[plant].name;
}

const char *plant_words(enum plant plant)
{
    return plants[plant].words;
}

bool plant_from_name(const char *name, enum plant *plant)
{
    for (int i = PLANT_NONE; i < PLANT_COUNT; i++) {
        if (strcmp(plants[i].name, name) != 0) continue;
        *plant = (enum plant)i;
        return true;
    }
    return false;
}

/* ---- decisions ---- */

static const struct run *run_of_report(const struct coordinator *coordinator,
                                       const struct event *event)
{
    if (event->kind != EVENT_REPORT) return NULL;
    const struct run *run = coordinator_run_by_id(coordinator, event->report.report->run);
    return run && run->attempt.number > 0 ? run : NULL;
}

static void decide_unfenced(const struct coordinator *coordinator, const struct event *event,
                            struct decision *decision)
{
    const struct run *run = run_of_report(coordinator, event);
    if (!run) {
        __real_coordinator_decide(coordinator, event, decision);
        return;
    }
    Performer__Report report = *event->report.report;
    struct event changed = *event;
    report.attempt = run->attempt.number;
    report.nonce = (char *)run->attempt.nonce;
    changed.report.report = &report;
    __real_coordinator_decide(coordinator, &changed, decision);
}

static void decide_impatiently(const struct coordinator *coordinator, const struct event *event,
                               struct decision *decision)
{
    struct event changed = *event;
    Performer__Report report;
    Performer__Heartbeat heartbeat;
    if (event->kind == EVENT_REPORT && event->report.report->heartbeat) {
        report = *event->report.report;
        heartbeat = *report.heartbeat;
        heartbeat.stood_ms += 60000;
        report.heartbeat = &heartbeat;
        changed.report.report = &report;
    }
    __real_coordinator_decide(coordinator, &changed, decision);
}

static void forget_orders(const struct coordinator *coordinator, const struct event *event,
                          struct decision *decision)
{
    const struct run *run = run_of_report(coordinator, event);
    if (!run || event->report.report->rank >= run->facts.ranks) return;
    const struct rank *rank = &run->attempt.ranks[event->report.report->rank];
    if (event->report.report->sequence <= rank->sequence_heard) decision->answer.order_count = 0;
}

static void cancel_succeeded(const struct coordinator *coordinator, const struct event *event,
                             struct decision *decision)
{
    if (event->kind != EVENT_ACT || event->act.action != PERFORMER__ACTION__ACTION_CANCEL) return;
    const struct run *run = coordinator_run_by_id(coordinator, event->act.run);
    if (!run || run->state != RUN_SUCCEEDED) return;
    struct record *moved = decision_record(decision, RECORD_RUN_MOVED);
    moved->run = run->number;
    moved->attempt = run->attempt.number;
    moved->time_ms = event->wall_ms;
    moved->run_moved = (struct record_run_moved){RUN_SUCCEEDED, RUN_CANCELLED, "cancelled"};
}

static void double_replay(struct decision *decision)
{
    for (size_t i = 0; i < decision->effect_count; i++) {
        struct effect *effect = &decision->effects[i];
        if (effect->kind != EFFECT_LAUNCH || effect->applied_count == 0) continue;
        size_t bytes = effect->applied_count * sizeof *effect->applied;
        struct order *twice = decision_memory(decision, 2 * bytes);
        memcpy(twice, effect->applied, bytes);
        memcpy(twice + effect->applied_count, effect->applied, bytes);
        effect->applied = twice;
        effect->applied_count *= 2;
    }
}

static void forget_aside(struct decision *decision)
{
    for (size_t i = 0; i < decision->effect_count; i++) decision->effects[i].set_aside_count = 0;
}

static void forget_rewinds(struct decision *decision)
{
    for (size_t i = 0; i < decision->effect_count; i++) decision->effects[i].rewind_count = 0;
}

static void decide_keyless(const struct coordinator *coordinator, const struct event *event,
                           struct decision *decision)
{
    struct event changed = *event;
    for (size_t i = 0; event->kind == EVENT_SUBMIT && i < coordinator->run_count; i++)
        if (strcmp(coordinator->runs[i]->key, event->submit.key) == 0) changed.submit.key = NULL;
    __real_coordinator_decide(coordinator, &changed, decision);
}

/* Borrowed by the decision until the next one. */
static struct run_facts common;

static void decide_in_line(const struct coordinator *coordinator, const struct event *event,
                           struct decision *decision)
{
    struct event changed = *event;
    if (event->kind == EVENT_SUBMIT && planted == PLANT_AFTER) changed.submit.after = NULL;
    if (event->kind == EVENT_SUBMIT && planted == PLANT_PRIORITY) {
        common = *event->submit.facts;
        common.priority = 0;
        changed.submit.facts = &common;
    }
    __real_coordinator_decide(coordinator, &changed, decision);
}

static void leave_checkpoint(struct decision *decision)
{
    for (size_t i = 0; i < decision->effect_count; i++) decision->effects[i].fork = NULL;
}

static void keep_stops(struct decision *decision)
{
    size_t kept = 0;
    bool ends = false;
    for (size_t i = 0; i < decision->record_count; i++)
        ends = ends || (decision->records[i].kind == RECORD_RUN_MOVED &&
                        run_state_is_final(decision->records[i].run_moved.to));
    for (size_t i = 0; i < decision->record_count && !ends; i++) {
        const struct record *record = &decision->records[i];
        const struct run *run = coordinator_run(&host.coordinator, record->run);
        if (record->kind == RECORD_ORDER_DROPPED &&
            run_order(run, record->order_dropped.order)->kind == PERFORMER__ORDER__KIND__STOP)
            continue;
        decision->records[kept++] = *record;
    }
    if (!ends) decision->record_count = kept;
}

static void decide_forgetful(const struct coordinator *coordinator, const struct event *event,
                             struct decision *decision)
{
    struct event changed = *event;
    const struct run *run =
        event->kind == EVENT_ACT ? coordinator_run_by_id(coordinator, event->act.run) : NULL;
    if (run && event->act.key && strcmp(event->act.key, run->requeue_key) == 0)
        changed.act.key = NULL;
    __real_coordinator_decide(coordinator, &changed, decision);
}

static void decide_unspared(const struct coordinator *coordinator, const struct event *event,
                            struct decision *decision)
{
    struct event changed = *event;
    if (event->kind == EVENT_LAUNCH_FAILED) changed.launch_failed.status = ST_SYSTEM;
    __real_coordinator_decide(coordinator, &changed, decision);
}

void product_decide(const struct coordinator *coordinator, const struct event *event,
                    struct decision *decision)
{
    switch (planted) {
    case PLANT_FENCE:
        decide_unfenced(coordinator, event, decision);
        return;
    case PLANT_STALL:
        decide_impatiently(coordinator, event, decision);
        return;
    case PLANT_KEY:
        decide_keyless(coordinator, event, decision);
        return;
    case PLANT_REQUEUE:
        decide_forgetful(coordinator, event, decision);
        return;
    case PLANT_AFTER:
    case PLANT_PRIORITY:
        decide_in_line(coordinator, event, decision);
        return;
    case PLANT_SPARED:
        decide_unspared(coordinator, event, decision);
        return;
    default:
        __real_coordinator_decide(coordinator, event, decision);
    }
    if (planted == PLANT_FORK) leave_checkpoint(decision);
    if (planted == PLANT_HOLD) keep_stops(decision);
    if (planted == PLANT_RETRY) forget_orders(coordinator, event, decision);
    if (planted == PLANT_FINAL) cancel_succeeded(coordinator, event, decision);
    if (planted == PLANT_REPLAY) double_replay(decision);
    if (planted == PLANT_ASIDE) forget_aside(decision);
    if (planted == PLANT_REWIND) forget_rewinds(decision);
}

/* ---- commits ---- */

static void kill_early(const struct record *records, size_t count)
{
    struct attempt_launcher *launcher = host.driver.launchers[LAUNCHER_LOCAL];
    for (size_t i = 0; i < count; i++) {
        const struct run *run = coordinator_run(&host.coordinator, records[i].run);
        if (records[i].kind != RECORD_STOP_REQUESTED || !run || run->attempt.pid == 0 ||
            records[i].stop_requested.stop != STOP_KILL)
            continue;
        char directory[LAUNCHER_PATH_MAX];
        attempt_directory(&host.directory, run->id, run->attempt.number, directory,
                          sizeof directory);
        launcher->signal(launcher, directory, SIGKILL);
    }
}

/* A copy of the records as the defect wants them written. */
static size_t spoil(struct record *spoilt, const struct record *records, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (planted == PLANT_STOP && records[i].kind == RECORD_STOP_REQUESTED) continue;
        spoilt[kept] = records[i];
        if (planted == PLANT_METRIC && records[i].kind == RECORD_REPORT_TAKEN &&
            records[i].report_taken.metric_count > 0)
            spoilt[kept].report_taken.metric_count--;
        kept++;
    }
    return kept;
}

enum status product_commit(struct store *store, const char *decision, const struct record *records,
                           size_t count, struct fault *fault)
{
    struct record *spoilt = memory_zeroed(count, sizeof *spoilt);
    size_t kept = spoil(spoilt, records, count);
    if (planted == PLANT_EFFECT) kill_early(records, count);
    enum status status = __real_store_commit(store, decision, spoilt, kept, fault);
    free(spoilt);
    return planted == PLANT_ACK ? ST_OK : status;
}

/* ---- what is applied ---- */

void product_apply(struct coordinator *coordinator, const struct record *records, size_t count,
                   uint64_t now_ms)
{
    __real_coordinator_apply(coordinator, records, count, now_ms);
    for (size_t i = 0; i < count; i++) {
        struct run *run = coordinator->runs[records[i].run - 1];
        if (planted == PLANT_BUDGET && records[i].kind == RECORD_ATTEMPT_ENDED &&
            records[i].attempt_ended.counted)
            run->spent[attempt_cause_budget(run->attempt.cause)]++;
        if (planted == PLANT_PROGRESS) run->attempt.progressed = true;
        if (planted == PLANT_BACK_OFF && run->state == RUN_RESTARTING) run->due_ms = now_ms;
    }
}

void product_start(struct driver *driver)
{
    if (planted != PLANT_ADOPT) driver_start(driver);
}
