#include "tests/daemon/workshop.h"

#include <signal.h>

#include "daemon/clock.h"

const struct caller workshop_caller = {.user = "tester"};

static struct workshop *workshop_of(struct attempt_launcher *launcher)
{
    return (struct workshop *)((char *)launcher - offsetof(struct workshop, launcher));
}

static enum status play_start(struct attempt_launcher *launcher, const struct launch_order *order,
                              struct fault *fault)
{
    struct workshop *workshop = workshop_of(launcher);
    workshop->starts++;
    workshop->order = *order;
    if (workshop->start_status != ST_OK)
        return fault_set(fault, workshop->start_status, "as the test wants it");
    return ST_OK;
}

/* Where RUN/attempt-A is the attempt that its run is at. */
static bool is_newest(const struct workshop *workshop, const char *directory)
{
    const uint64_t run = strtoull(strstr(directory, "/runs/r") + 7, NULL, 10);
    const unsigned long attempt = strtoul(strrchr(directory, '-') + 1, NULL, 10);
    return coordinator_run(&workshop->coordinator, run)->attempt.number == attempt;
}

static enum launcher_state play_probe(struct attempt_launcher *launcher, const char *directory,
                                      struct sighting *sighting)
{
    const struct workshop *workshop = workshop_of(launcher);
    *sighting = (struct sighting){.id = 4711, .start_ticks = 17};
    if (is_newest(workshop, directory)) return workshop->state;
    return workshop->lingering && strstr(directory, workshop->lingering) ? LAUNCHER_ALIVE
                                                                         : LAUNCHER_ENDED;
}

static void play_signal(struct attempt_launcher *launcher, const char *directory, int signal)
{
    struct workshop *workshop = workshop_of(launcher);
    (void)directory;
    workshop->signals++;
    workshop->last_signal = signal;
}

static void play_rescue(struct attempt_launcher *launcher, const char *directory, uint32_t rank)
{
    (void)rank;
    play_signal(launcher, directory, SIGTERM);
}

static void begin(struct workshop *workshop)
{
    struct fault fault;
    cr_assert_eq(state_directory_open(scratch_path(&workshop->scratch, "state"), NULL,
                                      &workshop->directory, &fault),
                 ST_OK, "%s", fault.text);
    cr_assert_eq(store_open(scratch_path(&workshop->scratch, "state/performerd.db"),
                            &workshop->store, &fault),
                 ST_OK, "%s", fault.text);
    coordinator_init(&workshop->coordinator, 4);
    cr_assert_eq(store_load(workshop->store, &workshop->coordinator, clock_now_ms(), &fault), ST_OK,
                 "%s", fault.text);
    workshop->driver = (struct driver){.coordinator = &workshop->coordinator,
                                       .store = workshop->store,
                                       .directory = &workshop->directory,
                                       .launchers = {&workshop->launcher, &workshop->launcher},
                                       .local = {.url = "ipc:///nowhere"}};
    driver_start(&workshop->driver);
}

static void end(struct workshop *workshop)
{
    driver_stop(&workshop->driver);
    coordinator_fini(&workshop->coordinator);
    store_close(workshop->store);
    state_directory_close(&workshop->directory);
}

void workshop_open(struct workshop *workshop)
{
    workshop_open_in(workshop, scratch_new());
}

void workshop_open_in(struct workshop *workshop, struct scratch scratch)
{
    log_set_level(LOG_ERROR);
    *workshop = (struct workshop){
        .scratch = scratch,
        .launcher = {.start = play_start,
                     .probe = play_probe,
                     .signal = play_signal,
                     .rescue = play_rescue},
        .state = LAUNCHER_ALIVE,
    };
    begin(workshop);
}

void workshop_close(struct workshop *workshop)
{
    cr_assert_null(coordinator_check(&workshop->coordinator));
    end(workshop);
    scratch_remove(&workshop->scratch);
}

void workshop_restart(struct workshop *workshop)
{
    end(workshop);
    begin(workshop);
}

const char *workshop_job(const char *name, int ranks, const char *more)
{
    static char text[2048];
    snprintf(text, sizeof text,
             "[job]\nname = \"%s\"\n[resources]\nranks = %d\n[data]\nformat = \"text\"\n"
             "train = \"/etc/hostname\"\nlength = 16\n[model]\nlayers = 1\nheads = 1\nwidth = 8\n"
             "mlp = 8\n[train]\nsteps = 100\nbatch = 8\nmicro_batch = 1\n[redraw]\nevery = 7\n"
             "[checkpoint]\nevery = 10\n%s",
             name, ranks, more);
    return text;
}

Performer__Response *workshop_ask(struct workshop *workshop, const struct caller *caller,
                                  const Performer__Request *request)
{
    struct asked asked = {.caller = caller, .request = request};
    driver_answer(&workshop->driver, &asked, 1);
    return asked.response;
}

Performer__Response *workshop_submit_text(struct workshop *workshop, const char *resolved,
                                          const char *key)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Submit submit = PERFORMER__SUBMIT__INIT;
    submit.text = "# as written\n";
    submit.resolved = (char *)resolved;
    submit.key = (char *)key;
    request.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    return workshop_ask(workshop, &workshop_caller, &request);
}

uint64_t workshop_submit(struct workshop *workshop, const char *name, int ranks)
{
    Performer__Response *response =
        workshop_submit_text(workshop, workshop_job(name, ranks, ""), "");
    cr_assert_eq(response->status, ST_OK, "%s", response->text);
    uint64_t run = strtoull(response->submitted->run + 1, NULL, 10);
    performer__response__free_unpacked(response, NULL);
    return run;
}

Performer__Response *workshop_act(struct workshop *workshop, const char *run,
                                  Performer__Action action)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Act act = PERFORMER__ACT__INIT;
    act.run = (char *)run;
    act.action = action;
    request.body_case = PERFORMER__REQUEST__BODY_ACT;
    request.act = &act;
    return workshop_ask(workshop, &workshop_caller, &request);
}

enum { STEPS_MAX = 64 };

/* A report under construction, with the memory that it needs. */
struct draft {
    Performer__Report report;
    Performer__Heartbeat heartbeat;
    Performer__MetricRow rows[STEPS_MAX];
    Performer__MetricRow *row_list[STEPS_MAX];
    char run[RUN_ID_SIZE];
};

static void make_draft(const struct workshop *workshop, uint32_t rank, uint64_t sequence,
                       uint64_t step, struct draft *draft)
{
    cr_assert_leq(step, STEPS_MAX);
    performer__report__init(&draft->report);
    performer__heartbeat__init(&draft->heartbeat);
    snprintf(draft->run, sizeof draft->run, "%s", strrchr(workshop->order.run_directory, '/') + 1);
    draft->report.run = draft->run;
    draft->report.attempt = (uint32_t)atoi(strrchr(workshop->order.attempt_directory, '-') + 1);
    draft->report.nonce = (char *)workshop->order.nonce;
    draft->report.rank = rank;
    draft->report.sequence = sequence;
    draft->heartbeat.step = step;
    draft->heartbeat.phase = "backward";
    draft->heartbeat.host = "here";
    draft->heartbeat.pid = 100 + rank;
    draft->report.heartbeat = &draft->heartbeat;
    for (uint64_t i = 0; i < step; i++) {
        performer__metric_row__init(&draft->rows[i]);
        draft->rows[i].step = i + 1;
        draft->rows[i].name = "loss";
        draft->rows[i].value = 4.0 - 0.01 * (double)i;
        draft->rows[i].time_ms = 1000 + i;
        draft->row_list[i] = &draft->rows[i];
    }
    draft->report.n_metrics = rank == 0 ? step : 0;
    draft->report.metrics = draft->row_list;
}

Performer__Response *workshop_send_report(struct workshop *workshop, uint32_t rank,
                                          uint64_t sequence, uint64_t step)
{
    struct draft draft;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    make_draft(workshop, rank, sequence, step, &draft);
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = &draft.report;
    return workshop_ask(workshop, &workshop_caller, &request);
}

void workshop_report(struct workshop *workshop, uint32_t rank, uint64_t sequence, uint64_t step)
{
    Performer__Response *response = workshop_send_report(workshop, rank, sequence, step);
    cr_assert_eq(response->status, ST_OK, "%s", response->text);
    performer__response__free_unpacked(response, NULL);
}

void workshop_spool(struct workshop *workshop, uint32_t rank, uint64_t sequence, uint64_t step)
{
    struct draft draft;
    char path[PATH_MAX + 64];
    uint8_t bytes[8192];
    make_draft(workshop, rank, sequence, step, &draft);
    size_t size = performer__report__pack(&draft.report, bytes + 4);
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(size >> 8 * i);
    snprintf(path, sizeof path, "%s/rank-%u.spool", workshop->order.attempt_directory, rank);
    FILE *file = fopen(path, "ab");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, size + 4, file), size + 4);
    fclose(file);
}

void workshop_ranks_end(struct workshop *workshop, int ranks, int status)
{
    for (int rank = 0; rank < ranks; rank++) {
        char path[PATH_MAX + 64];
        snprintf(path, sizeof path, "%s/rank-%d.end.json", workshop->order.attempt_directory, rank);
        FILE *file = fopen(path, "w");
        cr_assert_not_null(file);
        fprintf(file, "{\"status_code\":%d,\"text\":\"\",\"step\":5,\"time_ms\":1}", status);
        fclose(file);
    }
    workshop->state = LAUNCHER_ENDED;
}

enum run_state workshop_state(const struct workshop *workshop, uint64_t run)
{
    return coordinator_run(&workshop->coordinator, run)->state;
}
