#include "daemon/played_runs.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/coordinator.h"
#include "daemon/memory.h"
#include "daemon/process.h"
#include "daemon/state_directory.h"
#include "daemon/store.h"
#include "proto/durable.h"
#include "proto/jobspec.h"

enum { STEPS_A_COMMIT = 2000 };

static const uint64_t BEGIN_MS = UINT64_C(1700000000000), STEP_MS = 25, NOW_MS = 1;

static const char *const metric_names[] = {
#define PLAYED_METRIC_NAME(name) name,
    PLAYED_METRICS(PLAYED_METRIC_NAME)
#undef PLAYED_METRIC_NAME
};

/* What makes the past of the runs. */
struct past {
    struct state_directory directory;
    struct store *store;
    struct coordinator coordinator;
    uint64_t past_ms; /* since BEGIN_MS; the coordinator's clock stands: it misses no rank */
};

/* ---- rows ---- */

double played_value(uint64_t run, uint64_t step, int metric)
{
    return (double)(run * 1000 + (uint64_t)metric) + (double)step / 1024;
}

int played_metric(const char *name)
{
    for (int i = 0; i < PLAYED_METRIC_COUNT; i++)
        if (strcmp(metric_names[i], name) == 0) return i;
    return -1;
}

struct played_report *played_report_new(uint64_t steps)
{
    const size_t rows = steps * PLAYED_METRIC_COUNT;
    struct played_report *made = memory_zeroed(1, sizeof *made);
    made->rows = memory_zeroed(rows, sizeof *made->rows);
    made->places = memory_zeroed(rows, sizeof *made->places);
    for (size_t i = 0; i < rows; i++) made->places[i] = &made->rows[i];
    return made;
}

void played_report_free(struct played_report *report)
{
    if (!report) return;
    free(report->places);
    free(report->rows);
    free(report);
}

void played_report_fill(struct played_report *played, const struct played_run *run, uint64_t steps,
                        uint64_t wall_ms)
{
    Performer__Report *report = &played->report;
    performer__report__init(report);
    performer__heartbeat__init(&played->heartbeat);
    played->heartbeat.step = run->step + steps;
    played->heartbeat.phase = "forward";
    played->heartbeat.host = "played";
    played->heartbeat.pid = (uint64_t)getpid();
    report->run = (char *)run->id;
    report->attempt = 1;
    report->nonce = (char *)run->nonce;
    report->sequence = run->sequence + 1;
    report->heartbeat = &played->heartbeat;
    report->metrics = played->places;
    report->n_metrics = steps * PLAYED_METRIC_COUNT;
    for (size_t i = 0; i < report->n_metrics; i++) {
        Performer__MetricRow *row = &played->rows[i];
        const int metric = (int)(i % PLAYED_METRIC_COUNT);
        performer__metric_row__init(row);
        row->step = run->step + 1 + i / PLAYED_METRIC_COUNT;
        row->name = (char *)metric_names[metric];
        row->value = played_value(run->number, row->step, metric);
        row->time_ms = wall_ms;
    }
}

void played_run_advance(struct played_run *run, uint64_t steps)
{
    run->sequence++;
    run->step += steps;
}

/* ---- the past ---- */

const char *played_job(void)
{
    return "[job]\nname = \"played\"\n"
           "[resources]\nranks = 1\nthreads = 1\n"
           "[data]\nformat = \"tokens\"\ntrain = \"/nowhere\"\nvocab = 11\nlength = 6\n"
           "[model]\nlayers = 1\nheads = 2\nwidth = 8\nmlp = 12\n"
           "[train]\nsteps = 1000000000\nbatch = 4\nmicro_batch = 2\n";
}

static enum status happen(struct past *past, struct event event, uint64_t *run, struct fault *fault)
{
    struct decision decision;
    event.now_ms = NOW_MS;
    event.wall_ms = BEGIN_MS + past->past_ms;
    coordinator_decide(&past->coordinator, &event, &decision);
    enum status status =
        store_commit(past->store, decision.name, decision.records, decision.record_count, fault);
    if (status == ST_OK && decision.answer.status != ST_OK)
        status = fault_set(fault, decision.answer.status, "%s", decision.answer.text);
    if (status == ST_OK)
        coordinator_apply(&past->coordinator, decision.records, decision.record_count, NOW_MS);
    if (run) *run = decision.answer.run;
    decision_fini(&decision);
    return status;
}

static enum status submit(struct past *past, const struct jobspec *spec, const char *resolved,
                          uint64_t *run, struct fault *fault)
{
    struct run_facts facts;
    enum status status = run_facts_of(spec, &facts, fault);
    if (status != ST_OK) return status;
    const struct event event = {
        .kind = EVENT_SUBMIT,
        .submit = {
            .facts = &facts, .text = played_job(), .resolved = resolved, .caller.admin = true}};
    return happen(past, event, run, fault);
}

/* A tick plans the attempt of the run that waits; this process is its launcher. */
static enum status launch(struct past *past, uint64_t number, const struct process *self,
                          struct fault *fault)
{
    const struct event tick = {.kind = EVENT_TICK,
                               .tick.random = {number, UINT64_C(0x706c61796564), number, 1}};
    enum status status = happen(past, tick, NULL, fault);
    const struct event launched = {
        .kind = EVENT_LAUNCHED,
        .launched = {
            .run = number, .attempt = 1, .pid = self->pid, .pid_start_time = self->start_ticks}};
    return status == ST_OK ? happen(past, launched, NULL, fault) : status;
}

static void play(const struct past *past, uint64_t number, struct played_run *played)
{
    const struct run *run = coordinator_run(&past->coordinator, number);
    *played = (struct played_run){.number = number};
    text_copy(played->id, sizeof played->id, run->id);
    text_copy(played->nonce, sizeof played->nonce, run->attempt.nonce);
    text_copy(played->token, sizeof played->token, run->tokens[0]);
}

static enum status report_steps(struct past *past, struct played_run *run, uint64_t steps,
                                struct played_report *report, struct fault *fault)
{
    enum status status = ST_OK;
    while (run->step < steps && status == ST_OK) {
        const uint64_t left = steps - run->step;
        const uint64_t now = left < STEPS_A_COMMIT ? left : STEPS_A_COMMIT;
        past->past_ms += now * STEP_MS;
        played_report_fill(report, run, now, BEGIN_MS + past->past_ms);
        const struct event event = {.kind = EVENT_REPORT, .report.report = &report->report};
        status = happen(past, event, NULL, fault);
        played_run_advance(run, now);
    }
    return status;
}

static enum status end(struct past *past, uint64_t number, struct fault *fault)
{
    const struct evidence evidence = {.cause = CAUSE_FINISHED, .first_rank = -1};
    const struct event event = {.kind = EVENT_ATTEMPT_ENDED,
                                .attempt_ended = {number, 1, &evidence}};
    return happen(past, event, NULL, fault);
}

/* Where the daemon looks for the launcher of the run's attempt. */
static enum status leave_launcher(const struct past *past, const struct played_run *run,
                                  const struct process *self, struct fault *fault)
{
    char directory[PATH_MAX], path[PATH_MAX + 32];
    attempt_directory(&past->directory, run->id, 1, directory, sizeof directory);
    enum status status = make_directories(directory, fault);
    if (status != ST_OK) return status;
    snprintf(path, sizeof path, "%s/launcher.json", directory);
    json_t *object =
        json_pack("{s:I, s:I, s:s, s:s}", "pid", (json_int_t)self->pid, "start_ticks",
                  (json_int_t)self->start_ticks, "boot_id", self->boot_id, "nonce", run->nonce);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    status = text ? durable_write(path, text, strlen(text), fault)
                  : fault_set(fault, ST_NO_MEMORY, "no memory for %s", path);
    free(text);
    json_decref(object);
    return status;
}

static enum status make_run(struct past *past, const struct jobspec *spec, const char *resolved,
                            uint64_t steps, struct played_report *report, struct played_run *run,
                            bool goes_on, struct fault *fault)
{
    struct process self;
    uint64_t number = 0;
    enum status status = process_identify(getpid(), &self, fault);
    if (status == ST_OK) status = submit(past, spec, resolved, &number, fault);
    if (status == ST_OK) status = launch(past, number, &self, fault);
    if (status != ST_OK) return status;
    play(past, number, run);
    status = report_steps(past, run, steps, report, fault);
    if (status != ST_OK) return status;
    return goes_on ? leave_launcher(past, run, &self, fault) : end(past, number, fault);
}

static enum status make_runs(struct past *past, uint64_t runs, uint64_t steps,
                             struct played_run *played, size_t count, struct fault *fault)
{
    struct diagnostics diagnostics = {0};
    struct jobspec spec = {0};
    char *resolved = NULL;
    enum status status = jobspec_parse(played_job(), strlen(played_job()), "/played.toml", NULL, 0,
                                       &diagnostics, &spec);
    if (status == ST_OK) status = jobspec_print(&spec, &resolved);
    if (status != ST_OK)
        fault_set(fault, status, "the job that is played: %s", status_text(status));

    struct played_report *report = played_report_new(STEPS_A_COMMIT);
    for (uint64_t i = 0; i < runs && status == ST_OK; i++) {
        const bool goes_on = i + count >= runs;
        struct played_run over;
        status = make_run(past, &spec, resolved, steps, report,
                          goes_on ? &played[i + count - runs] : &over, goes_on, fault);
    }
    played_report_free(report);
    free(resolved);
    jobspec_free(&spec);
    diagnostics_free(&diagnostics);
    return status;
}

enum status played_runs_make(const char *state, uint64_t runs, uint64_t steps,
                             struct played_run *played, size_t count, struct fault *fault)
{
    struct past past = {0};
    char path[PATH_MAX];
    enum status status = state_directory_open(state, NULL, &past.directory, fault);
    if (status != ST_OK) return status;
    snprintf(path, sizeof path, "%s/performerd.db", past.directory.path);
    coordinator_init(&past.coordinator, (uint32_t)count + 1);
    status = store_open(path, &past.store, fault);
    if (status == ST_OK) status = make_runs(&past, runs, steps, played, count, fault);
    store_close(past.store);
    coordinator_fini(&past.coordinator);
    state_directory_close(&past.directory);
    return status;
}
