#include "tests/daemon/stage.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void stage_init(struct stage *stage, uint32_t ranks_max, const char *path)
{
    *stage = (struct stage){.now_ms = 5000, .wall_ms = 1700000000000, .random = 1, .run = 1};
    coordinator_init(&stage->coordinator, ranks_max);
    if (!path) return;
    struct fault fault;
    cr_assert_eq(store_open(path, &stage->store, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(store_load(stage->store, &stage->coordinator, stage->now_ms, &fault), ST_OK, "%s",
                 fault.text);
}

void stage_fini(struct stage *stage)
{
    decision_fini(&stage->decision);
    coordinator_fini(&stage->coordinator);
    store_close(stage->store);
}

const struct answer *stage_send(struct stage *stage, struct event event)
{
    decision_fini(&stage->decision);
    event.now_ms = stage->now_ms;
    event.wall_ms = stage->wall_ms;
    struct decision *decision = &stage->decision;
    coordinator_decide(&stage->coordinator, &event, decision);
    struct fault fault;
    if (stage->store)
        cr_assert_eq(store_commit(stage->store, decision->name, decision->records,
                                  decision->record_count, &fault),
                     ST_OK, "%s", fault.text);
    coordinator_apply(&stage->coordinator, decision->records, decision->record_count,
                      stage->now_ms);
    const char *flaw = coordinator_check(&stage->coordinator);
    cr_assert_null(flaw, "%s", flaw);
    return &decision->answer;
}

void stage_restart(struct stage *stage)
{
    uint32_t ranks_max = stage->coordinator.ranks_max;
    decision_fini(&stage->decision);
    coordinator_fini(&stage->coordinator);
    coordinator_init(&stage->coordinator, ranks_max);
    stage->now_ms = 1000;
    struct fault fault;
    cr_assert_eq(store_load(stage->store, &stage->coordinator, stage->now_ms, &fault), ST_OK, "%s",
                 fault.text);
}

const struct run *stage_run(const struct stage *stage)
{
    return coordinator_run(&stage->coordinator, stage->run);
}

static const struct run_facts facts_of_stage = {.name = "job",
                                                .steps = 100,
                                                .redraw_every = 7,
                                                .checkpoint_every = 10,
                                                .redraw_threshold = 0.25,
                                                .features = true,
                                                .validates = true};

static uint64_t submit(struct stage *stage, const struct run_facts *facts,
                       const struct text_list *after, const char *key)
{
    struct event event = {.kind = EVENT_SUBMIT,
                          .submit = {.facts = facts,
                                     .after = after,
                                     .text = "[job]\n",
                                     .resolved = "[job]\nname = \"job\"\n",
                                     .key = key}};
    return stage_send(stage, event)->run;
}

uint64_t stage_submit(struct stage *stage, uint32_t ranks, uint32_t restart_max, const char *key)
{
    struct run_facts facts = facts_of_stage;
    facts.ranks = ranks;
    facts.restart_max = restart_max;
    facts.stall_ms = stage->stall_ms;
    facts.goes_back = stage->goes_back;
    return submit(stage, &facts, NULL, key);
}

uint64_t stage_submit_slurm(struct stage *stage, uint32_t ranks)
{
    struct run_facts facts = facts_of_stage;
    facts.ranks = ranks;
    facts.restart_max = 3;
    facts.launcher = LAUNCHER_SLURM;
    return submit(stage, &facts, NULL, NULL);
}

uint64_t stage_submit_queued(struct stage *stage, uint32_t ranks, int64_t priority,
                             const char *after)
{
    struct run_facts facts = facts_of_stage;
    facts.ranks = ranks;
    facts.priority = priority;
    const struct text_list list = {.count = after ? 1 : 0, .items = (char *[]){(char *)after}};
    return submit(stage, &facts, &list, NULL);
}

Performer__Report stage_next_report(struct stage *stage, uint32_t rank)
{
    const struct run *run = stage_run(stage);
    Performer__Report report = PERFORMER__REPORT__INIT;
    report.run = (char *)run->id;
    report.attempt = run->attempt.number;
    report.nonce = (char *)run->attempt.nonce;
    report.rank = rank;
    report.sequence = ++stage->sequence[rank];
    return report;
}

const struct answer *stage_report(struct stage *stage, const Performer__Report *report)
{
    return stage_send(stage, (struct event){.kind = EVENT_REPORT, .report = {.report = report}});
}

static const struct answer *tick(struct stage *stage)
{
    uint32_t attempt = stage_run(stage) ? stage_run(stage)->attempt.number : 0;
    uint64_t chance = stage->random++;
    struct event event = {.kind = EVENT_TICK, .tick = {.random = {chance, 42, chance, 43}}};
    const struct answer *answer = stage_send(stage, event);
    if (stage_run(stage) && stage_run(stage)->attempt.number != attempt)
        memset(stage->sequence, 0, sizeof stage->sequence);
    return answer;
}

/* One notice of rank 0. */
static const struct answer *tell(struct stage *stage, Performer__Notice *notice)
{
    Performer__Report report = stage_next_report(stage, 0);
    report.n_notices = 1;
    report.notices = &notice;
    return stage_report(stage, &report);
}

static const struct answer *saves(struct stage *stage, uint64_t step)
{
    Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    char path[64];
    snprintf(path, sizeof path, "checkpoints/step-%010" PRIu64, step);
    saved.path = path;
    notice.step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED;
    notice.checkpoint_saved = &saved;
    return tell(stage, &notice);
}

static const struct answer *resumes(struct stage *stage, uint64_t step)
{
    Performer__Started started = PERFORMER__STARTED__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    started.resumed_step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_STARTED;
    notice.started = &started;
    return tell(stage, &notice);
}

static const struct answer *end_with(struct stage *stage, const struct evidence *evidence)
{
    struct event event = {.kind = EVENT_ATTEMPT_ENDED,
                          .attempt_ended = {.run = stage->run,
                                            .attempt = stage_run(stage)->attempt.number,
                                            .evidence = evidence}};
    return stage_send(stage, event);
}

static const struct answer *end(struct stage *stage, const char *cause)
{
    struct evidence evidence = {.first_rank = 1, .signal = 9, .exit_code = 137};
    cr_assert(attempt_cause_from_name(cause, &evidence.cause), "no cause %s", cause);
    strcpy(evidence.host, "node1");
    strcpy(evidence.last_lines, "last\nlines\xff\n");
    return end_with(stage, &evidence);
}

static const struct answer *diverges(struct stage *stage, uint64_t step)
{
    const struct evidence evidence = {.cause = CAUSE_DIVERGED,
                                      .step = step,
                                      .goes_back = true,
                                      .rewind_step = step / 10 * 10,
                                      .draw = 7};
    return end_with(stage, &evidence);
}

static const struct answer *person(struct stage *stage, Performer__Action action)
{
    char id[RUN_ID_SIZE];
    snprintf(id, sizeof id, "r%" PRIu64, stage->run);
    return stage_send(stage,
                      (struct event){.kind = EVENT_ACT, .act = {.run = id, .action = action}});
}

static const struct answer *world(struct stage *stage, enum event_kind kind)
{
    uint32_t attempt = stage_run(stage)->attempt.number;
    struct event event = {.kind = kind};
    switch (kind) {
    case EVENT_LAUNCHED:
        event.launched = (struct event_launched){stage->run, attempt, 1234, 99};
        break;
    case EVENT_ADOPTED:
        event.adopted = (struct event_adopted){stage->run, attempt, 1234, 99};
        break;
    case EVENT_LAUNCH_FAILED:
        event.launch_failed =
            (struct event_launch_failed){stage->run, attempt, ST_NOT_FOUND, "no mpirun"};
        break;
    case EVENT_UNLAUNCHED:
        event.unlaunched = (struct event_unlaunched){stage->run, attempt};
        break;
    default:
        cr_assert_fail("no such event");
    }
    return stage_send(stage, event);
}

static const struct answer *waits(struct stage *stage, const char *words)
{
    const uint32_t attempt = stage_run(stage)->attempt.number;
    return stage_send(stage,
                      (struct event){.kind = EVENT_WAITS, .waits = {stage->run, attempt, words}});
}

static const struct {
    const char *act;
    enum event_kind kind;
} world_acts[] = {
    {"launched", EVENT_LAUNCHED},
    {"launch_failed", EVENT_LAUNCH_FAILED},
    {"adopted", EVENT_ADOPTED},
    {"unlaunched", EVENT_UNLAUNCHED},
};

static const struct {
    const char *act;
    Performer__Action action;
} person_acts[] = {
    {"cancel", PERFORMER__ACTION__ACTION_CANCEL},
    {"kill", PERFORMER__ACTION__ACTION_KILL},
    {"checkpoint", PERFORMER__ACTION__ACTION_CHECKPOINT},
    {"pause", PERFORMER__ACTION__ACTION_PAUSE},
    {"resume", PERFORMER__ACTION__ACTION_RESUME},
    {"requeue", PERFORMER__ACTION__ACTION_REQUEUE},
    {"drill", PERFORMER__ACTION__ACTION_DRILL},
    {"redraw", PERFORMER__ACTION__ACTION_REDRAW},
    {"evaluate", PERFORMER__ACTION__ACTION_EVALUATE},
};

const struct answer *stage_act(struct stage *stage, const char *act)
{
    for (size_t i = 0; i < sizeof world_acts / sizeof world_acts[0]; i++)
        if (strcmp(act, world_acts[i].act) == 0) return world(stage, world_acts[i].kind);
    for (size_t i = 0; i < sizeof person_acts / sizeof person_acts[0]; i++)
        if (strcmp(act, person_acts[i].act) == 0) return person(stage, person_acts[i].action);
    if (strncmp(act, "wait ", 5) == 0) {
        uint64_t wait_ms = strtoull(act + 5, NULL, 10);
        stage->now_ms += wait_ms;
        stage->wall_ms += wait_ms;
        return tick(stage);
    }
    if (strncmp(act, "end ", 4) == 0) return end(stage, act + 4);
    if (strncmp(act, "diverges ", 9) == 0) return diverges(stage, strtoull(act + 9, NULL, 10));
    if (strncmp(act, "saves ", 6) == 0) return saves(stage, strtoull(act + 6, NULL, 10));
    if (strncmp(act, "resumes ", 8) == 0) return resumes(stage, strtoull(act + 8, NULL, 10));
    if (strcmp(act, "tick") == 0) return tick(stage);
    if (strcmp(act, "waits") == 0) return waits(stage, "Slurm job 7 is PENDING");
    if (strcmp(act, "begins") == 0) return waits(stage, "");
    if (strcmp(act, "submit") == 0) {
        stage->run = stage_submit(stage, 2, 3, NULL);
        return &stage->decision.answer;
    }
    if (strcmp(act, "report") == 0) {
        Performer__Report report = stage_next_report(stage, 0);
        return stage_report(stage, &report);
    }
    cr_assert_str_eq(act, "restart");
    stage_restart(stage);
    return &stage->decision.answer;
}

size_t stage_effects(const struct stage *stage, enum effect_kind kind)
{
    size_t count = 0;
    for (size_t i = 0; i < stage->decision.effect_count; i++)
        if (stage->decision.effects[i].kind == kind) count++;
    return count;
}

bool stage_noted(const struct stage *stage, enum note note)
{
    for (size_t i = 0; i < stage->decision.record_count; i++)
        if (stage->decision.records[i].kind == RECORD_NOTED &&
            stage->decision.records[i].noted.note == note)
            return true;
    return false;
}
