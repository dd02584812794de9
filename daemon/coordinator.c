#include "daemon/coordinator.h"

#include <inttypes.h>
#include <stdio.h>

#include "daemon/memory.h"
#include "daemon/queue.h"
#include "daemon/scene.h"
#include "proto/secret.h"

/* ---- finding ---- */

const struct run *coordinator_run(const struct coordinator *coordinator, uint64_t number)
{
    if (number == 0 || number > coordinator->run_count) return NULL;
    return coordinator->runs[number - 1];
}

const struct run *coordinator_run_by_id(const struct coordinator *coordinator, const char *id)
{
    if (id[0] != 'r' || id[1] < '1' || id[1] > '9' || strlen(id) >= RUN_ID_SIZE) return NULL;
    char *end = NULL;
    uint64_t number = strtoull(id + 1, &end, 10);
    return *end == '\0' ? coordinator_run(coordinator, number) : NULL;
}

const struct run *coordinator_run_by_key(const struct coordinator *coordinator, const char *key)
{
    if (key[0] == '\0') return NULL;
    for (size_t i = coordinator->run_count; i-- > 0;)
        if (strcmp(coordinator->runs[i]->key, key) == 0) return coordinator->runs[i];
    return NULL;
}

static bool run_has_name(const struct run *run, const char *text)
{
    return strcmp(run->facts.name, text) == 0;
}

static bool run_id_begins(const struct run *run, const char *text)
{
    return text[0] != '\0' && strncmp(run->id, text, strlen(text)) == 0;
}

/* How many fit, and one of them; `names` tells the newest, as many as there is room for. */
static size_t find_fitting(const struct coordinator *coordinator, const char *text,
                           bool (*fits)(const struct run *, const char *), const struct run **run,
                           char *names, size_t size)
{
    size_t length = 0, count = 0, named = 0;
    for (size_t i = coordinator->run_count; i-- > 0;) {
        const struct run *candidate = coordinator->runs[i];
        if (!fits(candidate, text)) continue;
        *run = candidate;
        count++;
        if (length + RUN_ID_SIZE + sizeof ", , ..." >= size) continue;
        length += (size_t)snprintf(names + length, size - length, "%s%s", named > 0 ? ", " : "",
                                   candidate->id);
        named++;
    }
    if (named < count) snprintf(names + length, size - length, ", ...");
    return count;
}

bool coordinator_admits(const struct coordinator *coordinator, const char *run_id, uint32_t attempt,
                        const char *token)
{
    const struct run *run = coordinator_run_by_id(coordinator, run_id);
    return run && attempt > 0 && attempt <= run->attempt.number &&
           secret_equal(run->tokens[attempt - 1], token);
}

enum status coordinator_find(const struct coordinator *coordinator, const char *text,
                             const struct run **run, struct fault *fault)
{
    const struct run *found = coordinator_run_by_id(coordinator, text);
    char names[160];
    size_t count = found ? 1 : 0;
    if (count == 0)
        count = find_fitting(coordinator, text, run_has_name, &found, names, sizeof names);
    if (count == 0)
        count = find_fitting(coordinator, text, run_id_begins, &found, names, sizeof names);
    if (count == 0) return fault_set(fault, ST_NOT_FOUND, "there is no run `%.80s`", text);
    if (count > 1)
        return fault_set(fault, ST_NOT_FOUND, "`%.80s` can mean %zu runs (%s): give the whole id",
                         text, count, names);
    *run = found;
    return ST_OK;
}

uint32_t coordinator_ranks_in_use(const struct coordinator *coordinator)
{
    uint32_t ranks = 0;
    for (size_t i = 0; i < coordinator->run_count; i++)
        if (run_attempt_lives(coordinator->runs[i]))
            ranks += run_ranks_here(&coordinator->runs[i]->facts);
    return ranks;
}

uint32_t coordinator_ranks_free(const struct coordinator *coordinator)
{
    uint32_t in_use = coordinator_ranks_in_use(coordinator);
    return in_use < coordinator->ranks_max ? coordinator->ranks_max - in_use : 0;
}

/* ---- tick ---- */

static uint64_t lease_ms(const struct run *run)
{
    if (run->state == RUN_RUNNING) return LEASE_MS;
    return run->state == RUN_STARTING ? STARTING_LEASE_MS : UINT64_MAX;
}

static bool lapse_lease(const struct scene *scene)
{
    uint64_t now_ms = scene->event->now_ms;
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        known.run = scene->coordinator->runs[i];
        uint64_t silence_ms = now_ms > known.run->heard_ms ? now_ms - known.run->heard_ms : 0;
        if (silence_ms <= lease_ms(known.run)) continue;
        scene_move(&known, RUN_UNKNOWN,
                   decision_format(scene->decision,
                                   "no rank was heard for %" PRIu64 " s; it may well run on",
                                   silence_ms / 1000));
        return true;
    }
    return false;
}

static int compare_applied(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The orders that are part of the run's identity: a resumed attempt meets them again at their steps. */
static void collect_applied(const struct scene *scene, struct effect *effect)
{
    const struct run *run = scene->run;
    struct order *applied = decision_memory(scene->decision, run->order_count * sizeof *applied);
    size_t count = 0;
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].state == ORDER_APPLIED &&
            run->orders[i].kind == PERFORMER__ORDER__KIND__REDRAW)
            applied[count++] = run->orders[i];
    if (count > 0) qsort(applied, count, sizeof *applied, compare_applied);
    effect->applied = applied;
    effect->applied_count = count;
}

static void plan_attempt(const struct scene *scene)
{
    const struct run *run = scene->run;
    const uint64_t *random = scene->event->tick.random;
    uint32_t number = run->attempt.number + 1;
    char *nonce =
        decision_format(scene->decision, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    char *token =
        decision_format(scene->decision, "%016" PRIx64 "%016" PRIx64, random[2], random[3]);

    struct record *planned = scene_record(scene, RECORD_ATTEMPT_PLANNED);
    planned->attempt = number;
    planned->attempt_planned.nonce = nonce;
    planned->attempt_planned.token = token;
    size_t moved = scene->decision->record_count;
    scene_move(scene, RUN_STARTING,
               decision_format(scene->decision, "attempt %" PRIu32 " begins", number));
    for (size_t i = moved; i < scene->decision->record_count; i++)
        scene->decision->records[i].attempt = number;

    struct effect *effect = scene_effect(scene, EFFECT_LAUNCH);
    effect->attempt = number;
    text_copy(effect->nonce, sizeof effect->nonce, nonce);
    text_copy(effect->token, sizeof effect->token, token);
    effect->ranks = run->facts.ranks;
    effect->fork_step = run->forked_step;
    collect_applied(scene, effect);
    effect->set_aside = run->aside;
    effect->set_aside_count = run->aside_count;
    effect->rewinds = run->rewinds;
    effect->rewind_count = run->rewind_count;
}

static bool restart_due(const struct scene *scene)
{
    uint32_t ranks = coordinator_ranks_free(scene->coordinator);
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        known.run = scene->coordinator->runs[i];
        if (known.run->state != RUN_RESTARTING || known.run->due_ms > scene->event->now_ms)
            continue;
        if (run_ranks_here(&known.run->facts) > ranks) continue;
        plan_attempt(&known);
        return true;
    }
    return false;
}

static bool admit_next(const struct scene *scene)
{
    struct scene known = *scene;
    known.run = queue_next(scene->coordinator, scene->event->now_ms);
    if (!known.run) return false;
    plan_attempt(&known);
    return true;
}

/* One that was to come after a run which has ended otherwise will never begin: nothing of it has failed. */
static bool cancel_hopeless(const struct scene *scene)
{
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        known.run = scene->coordinator->runs[i];
        if (known.run->state != RUN_QUEUED) continue;
        const struct run *awaited = queue_awaits(scene->coordinator, known.run);
        if (!awaited || !run_state_is_final(awaited->state)) continue;
        scene_move(&known, RUN_CANCELLED,
                   decision_format(scene->decision, "it was to come after %s, which has %s",
                                   awaited->id, run_state_name(awaited->state)));
        return true;
    }
    return false;
}

void decide_tick(const struct scene *scene)
{
    if (decide_stall(scene)) return;
    if (decide_stragglers(scene)) return;
    if (lapse_lease(scene)) return;
    if (cancel_hopeless(scene)) return;
    if (restart_due(scene)) return;
    admit_next(scene);
}

void coordinator_reason(const struct coordinator *coordinator, const struct run *run,
                        uint64_t now_ms, char *text, size_t size)
{
    const bool waits = run->state == RUN_QUEUED || run->state == RUN_RESTARTING;
    if (waits && run->due_ms > now_ms)
        snprintf(text, size, "%s; attempt %" PRIu32 " begins in %" PRIu64 " s", run->reason,
                 run->attempt.number + 1, (run->due_ms - now_ms + 999) / 1000);
    else if (waits)
        queue_reason(coordinator, run, now_ms, text, size);
    else if (run->state == RUN_STARTING && run->waits[0] != '\0')
        snprintf(text, size, "attempt %" PRIu32 ", %s", run->attempt.number, run->waits);
    else
        text_copy(text, size, run->reason);
}

/* ---- the door ---- */

static const struct {
    const char *name;
    void (*decide)(const struct scene *scene);
} deciders[] = {
#define EVENT_ROW(enumerator, tag) [enumerator] = {#tag, decide_##tag},
    EVENTS(EVENT_ROW)
#undef EVENT_ROW
};

void coordinator_decide(const struct coordinator *coordinator, const struct event *event,
                        struct decision *decision)
{
    decision_init(decision, deciders[event->kind].name);
    struct scene scene = {.coordinator = coordinator,
                          .event = event,
                          .decision = decision,
                          .time_ms = event->wall_ms};
    deciders[event->kind].decide(&scene);
}
