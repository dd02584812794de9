#include "daemon/launch_slurm.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <uv.h>

#include "daemon/memory.h"
#include "daemon/slurm_queue.h"
#include "daemon/slurm_script.h"
#include "daemon/subprocess.h"
#include "proto/durable.h"
#include "proto/logline.h"
#include "proto/performer.pb-c.h"

enum {
    ASK_MS = 10000,      /* between two squeues, give or take a fifth */
    ASK_SOON_MS = 1000,  /* where somebody waits for the answer */
    ASK_MS_MAX = 60000,  /* after squeue has failed again and again */
    SILENT_FAILURES = 5, /* in a row: half a minute, and one that is started anew is back by then */
    COMMAND_MS = 60000,  /* Slurm's programs give up by themselves after 10 s or so */
    SUBMIT_AGAIN_MS_MAX = 60000,
    FORGET_MS = 60000, /* after the driver has looked for the last time */
    PLAN_BYTES_MAX = 1 << 20,
    PATH_SIZE = LAUNCHER_PATH_MAX + 64,
};

/* The job of one attempt, as far as it is known. */
struct job {
    struct job *next;
    struct slurm *slurm;
    char directory[LAUNCHER_PATH_MAX]; /* of the attempt */
    char name[SLURM_NAME_SIZE];
    enum job_phase {
        JOB_SUBMITTING, /* sbatch runs */
        JOB_UNCLEAR, /* Slurm has it or not: the answer to a squeue that begins from now on tells */
        JOB_LISTED,  /* squeue, or sbatch, has told its number */
        JOB_ABSENT,  /* squeue has told that there is none */
    } phase;
    uint64_t since_ms;    /* in this phase */
    uint64_t looked_ms;   /* when the driver last asked for it */
    uint64_t again_ms;    /* JOB_UNCLEAR: not to be submitted again before */
    unsigned submits;     /* of this daemon */
    bool reached;         /* JOB_UNCLEAR: Slurm has answered the last of them, with these words */
    char words[160];      /* of sbatch */
    struct slurm_row row; /* JOB_LISTED */
    bool kill;            /* scancel until it is over */
    struct subprocess *command; /* sbatch or scancel */
};

struct slurm {
    struct attempt_launcher base;
    uv_loop_t *loop;
    uv_timer_t timer; /* the next squeue */
    const struct launcher_programs *programs;
    launcher_news *news;
    void *context;
    struct job *jobs;
    struct subprocess *asking; /* squeue */
    uint64_t asked_ms;
    unsigned failures; /* squeues without an answer, one after the other */
    char user[16];
};

static struct slurm *slurm_of(struct attempt_launcher *launcher)
{
    return (struct slurm *)launcher;
}

/* The first line, without its end. */
static void first_line(char *to, size_t size, const char *text)
{
    text_copy(to, size, text);
    to[strcspn(to, "\n")] = '\0';
}

/* ---- jobs ---- */

static struct job *job_in(const struct slurm *slurm, const char *directory)
{
    for (struct job *job = slurm->jobs; job; job = job->next)
        if (strcmp(job->directory, directory) == 0) return job;
    return NULL;
}

static struct job *job_named(const struct slurm *slurm, const char *name)
{
    for (struct job *job = slurm->jobs; job; job = job->next)
        if (strcmp(job->name, name) == 0) return job;
    return NULL;
}

static void job_enter(struct job *job, enum job_phase phase)
{
    job->phase = phase;
    job->since_ms = uv_now(job->slurm->loop);
}

static struct job *job_new(struct slurm *slurm, const char *directory, const char *name)
{
    struct job *job = memory_zeroed(1, sizeof *job);
    job->slurm = slurm;
    text_copy(job->directory, sizeof job->directory, directory);
    text_copy(job->name, sizeof job->name, name);
    job->kill = launcher_left(directory, "scancel");
    job_enter(job, JOB_UNCLEAR);
    job->looked_ms = job->since_ms;
    job->next = slurm->jobs;
    slurm->jobs = job;
    return job;
}

static void job_forget(struct job *job)
{
    struct job **link = &job->slurm->jobs;
    while (*link != job) link = &(*link)->next;
    *link = job->next;
    subprocess_forget(job->command);
    free(job);
}

/* The name of an attempt's job, from its plan. */
static bool read_name(const char *directory, char name[SLURM_NAME_SIZE])
{
    char path[PATH_SIZE], *bytes;
    size_t length;
    snprintf(path, sizeof path, "%s/plan", directory);
    if (file_read(path, PLAN_BYTES_MAX, &bytes, &length, NULL) != ST_OK) return false;
    Performer__Plan *plan = performer__plan__unpack(NULL, length, (const uint8_t *)bytes);
    free(bytes);
    if (!plan) return false;
    slurm_job_name(plan->run, plan->attempt, plan->nonce, name);
    performer__plan__free_unpacked(plan, NULL);
    return true;
}

/* ---- ends ---- */

/* How the job ended, for whoever reads the attempt's directory. */
static enum status write_end(const struct job *job, const char *state, struct fault *fault)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/slurm.json", job->directory);
    json_t *object = json_pack("{s:s, s:I, s:s, s:s, s:s, s:s}", "name", job->name, "job",
                               (json_int_t)job->row.id, "state", state, "reason", job->row.reason,
                               "nodes", job->row.nodes, "sbatch", job->words);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) return fault_set(fault, ST_NO_MEMORY, "no memory for %s", path);
    enum status status = durable_write(path, text, strlen(text), fault);
    free(text);
    return status;
}

/* The job is over, and forgotten once that is written; where the disk is full it comes here again. */
static void conclude(struct job *job, const char *state)
{
    struct slurm *slurm = job->slurm;
    struct fault fault;
    if (write_end(job, state, &fault) != ST_OK) {
        log_warn("slurm-end-not-written", "%s: %s", job->name, fault.text);
        return;
    }
    log_info("slurm-job-over", "%s, job %" PRId64 ": %s", job->name, job->row.id, state);
    job_forget(job);
    slurm->news(slurm->context);
}

static const char *state_at_end(const struct job *job)
{
    if (job->row.restarts > 0) return "TAKEN_BACK";
    return job->kill && strcmp(job->row.state, "CANCELLED") == 0 ? "KILLED" : job->row.state;
}

/* ---- scancel ---- */

static void ask_soon(struct slurm *slurm);

static void scancel_ended(void *context, const struct subprocess_end *end)
{
    struct job *job = context;
    char words[160];
    job->command = NULL;
    ask_soon(job->slurm);
    if (end->exit_code == 0) return;
    first_line(words, sizeof words, end->errors);
    log_warn("scancel-failed", "%s: %s", job->name, words);
}

/* By name: whatever its number is, and whether it waits or runs. `signal` NULL: it is to end. */
static void scancel(struct job *job, const char *signal)
{
    char name[SLURM_NAME_SIZE + 8], user[24], option[40];
    if (job->command) return; /* and once more after the next squeue, where it is to end */
    snprintf(name, sizeof name, "--name=%s", job->name);
    snprintf(user, sizeof user, "--user=%s", job->slurm->user);
    snprintf(option, sizeof option, "--signal=%s", signal ? signal : "");
    const char *const argv[] = {"scancel", user, name, signal ? option : NULL, NULL};
    struct fault fault;
    if (subprocess_start(job->slurm->loop, argv, COMMAND_MS, scancel_ended, job, &job->command,
                         &fault) != ST_OK)
        log_warn("scancel-failed", "%s: %s", job->name, fault.text);
}

/* The wish is written down first: who finds the job cancelled knows by whom. */
static void kill_job(struct job *job)
{
    struct fault fault;
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/scancel", job->directory);
    if (!job->kill && durable_write(path, "", 0, &fault) != ST_OK) {
        log_warn("scancel-failed", "%s: %s", job->name, fault.text);
        return;
    }
    job->kill = true;
    scancel(job, NULL);
}

/* ---- sbatch ---- */

/* What Slurm's programs say where they could not reach it, or it takes no job now and may take one later. */
static bool may_be_taken_later(const char *errors)
{
    static const char *const phrases[] = {"Unable to contact", "timed out",   "Zero Bytes",
                                          "onnection",         "standby",     "temporar",
                                          "SubmitJob",         "submit limit"};
    for (size_t i = 0; i < sizeof phrases / sizeof phrases[0]; i++)
        if (strstr(errors, phrases[i])) return true;
    return false;
}

/* No answer is no refusal: the job may be there all the same, and the next squeue tells. */
static void sbatch_ended(void *context, const struct subprocess_end *end)
{
    struct job *job = context;
    struct slurm *slurm = job->slurm;
    char *rest;
    job->command = NULL;
    job->row = (struct slurm_row){.id = strtoll(end->output, &rest, 10)};
    if (end->exit_code == 0 && rest != end->output) {
        text_copy(job->row.state, sizeof job->row.state, "PENDING");
        job_enter(job, JOB_LISTED);
        log_info("slurm-submitted", "%s is job %" PRId64, job->name, job->row.id);
        slurm->news(slurm->context);
    } else {
        uint64_t pause_ms = ASK_SOON_MS << (job->submits < 6 ? job->submits : 6);
        first_line(job->words, sizeof job->words, end->errors);
        job->reached = end->exit_code > 0 && !may_be_taken_later(end->errors);
        job_enter(job, JOB_UNCLEAR);
        job->again_ms =
            job->since_ms + (pause_ms < SUBMIT_AGAIN_MS_MAX ? pause_ms : SUBMIT_AGAIN_MS_MAX);
        log_warn("sbatch-failed", "%s: %s", job->name, job->words);
    }
    ask_soon(slurm);
}

static enum status submit(struct job *job, struct fault *fault)
{
    char script[PATH_SIZE];
    snprintf(script, sizeof script, "%s/slurm.sh", job->directory);
    const char *const argv[] = {"sbatch", "--parsable", script, NULL};
    enum status status = subprocess_start(job->slurm->loop, argv, COMMAND_MS, sbatch_ended, job,
                                          &job->command, fault);
    if (status != ST_OK) return status;
    job->submits++;
    job_enter(job, JOB_SUBMITTING);
    return ST_OK;
}

static enum status write_script(const struct slurm *slurm, const char *name,
                                const struct launch_order *order, struct fault *fault)
{
    if (strpbrk(order->attempt_directory, "\\\n"))
        return fault_set(fault, ST_UNSUPPORTED,
                         "Slurm takes no path with a backslash or a line break: start performerd "
                         "with another --runs than %s",
                         order->run_directory);
    char path[PATH_SIZE], *text;
    struct diagnostics diagnostics = {0};
    struct jobspec spec = {0};
    snprintf(path, sizeof path, "%s/resolved.toml", order->run_directory);
    enum status status = jobspec_load(path, NULL, 0, &diagnostics, &spec, fault);
    diagnostics_free(&diagnostics);
    if (status != ST_OK) return status;

    const struct slurm_script script = {
        .name = name, .spec = &spec, .order = order, .programs = slurm->programs};
    status = slurm_script_make(&script, &text);
    jobspec_free(&spec);
    if (status != ST_OK) return fault_set(fault, status, "no memory for a batch script");
    snprintf(path, sizeof path, "%s/slurm.sh", order->attempt_directory);
    status = durable_write(path, text, strlen(text), fault);
    free(text);
    return status;
}

static enum status slurm_start(struct attempt_launcher *launcher, const struct launch_order *order,
                               struct fault *fault)
{
    struct slurm *slurm = slurm_of(launcher);
    char name[SLURM_NAME_SIZE];
    if (!read_name(order->attempt_directory, name))
        return fault_set(fault, ST_CORRUPT, "%s/plan is no plan", order->attempt_directory);
    enum status status = write_script(slurm, name, order, fault);
    if (status != ST_OK) return status;
    struct job *job = job_new(slurm, order->attempt_directory, name);
    status = submit(job, fault);
    if (status != ST_OK) {
        fault_wrap(fault, "resources.launcher = \"slurm\" needs Slurm on the daemon's machine");
        job_forget(job);
    }
    return status;
}

/* ---- squeue ---- */

struct answer {
    struct slurm *slurm;
    uint64_t asked_ms;
};

/* Of two jobs of one name, which sbatch can make where its answer was lost, the one that is not over counts. */
static void take_row(void *context, const struct slurm_row *row)
{
    const struct answer *answer = context;
    struct job *job = job_named(answer->slurm, row->name);
    if (!job || job->phase == JOB_SUBMITTING) return;
    bool listed_before = job->phase == JOB_LISTED && job->row.id != row->id;
    if (listed_before && slurm_state_is_over(row->state)) return;
    job->row = *row;
    job_enter(job, JOB_LISTED);
}

static void take_absence(struct job *job)
{
    struct fault fault;
    if (job->phase == JOB_LISTED) {
        conclude(job, "FORGOTTEN");
    } else if (job->submits == 0) {
        job_enter(job, JOB_ABSENT);
    } else if (job->kill) {
        conclude(job, "KILLED");
    } else if (job->reached) {
        conclude(job, "REFUSED");
    } else if (uv_now(job->slurm->loop) >= job->again_ms && submit(job, &fault) != ST_OK) {
        log_warn("sbatch-failed", "%s: %s", job->name, fault.text);
    }
}

/* What follows for a job from an answer that was asked for when it had been in its phase already, or has just set it. */
static void follow(struct job *job, uint64_t asked_ms)
{
    if (job->phase == JOB_SUBMITTING || job->command) return; /* the command's end asks again */
    if (job->since_ms < asked_ms) {
        take_absence(job);
    } else if (job->phase == JOB_LISTED && slurm_state_is_over(job->row.state)) {
        conclude(job, state_at_end(job));
    } else if (job->phase == JOB_LISTED && (job->kill || job->row.restarts > 0)) {
        scancel(job,
                NULL); /* what Slurm has taken back would begin with the nonce of its first start */
    }
}

static void drop_unwatched(struct slurm *slurm)
{
    struct job *next;
    for (struct job *job = slurm->jobs; job; job = next) {
        next = job->next;
        if (!job->command && uv_now(slurm->loop) - job->looked_ms > FORGET_MS) job_forget(job);
    }
}

static void say_reached(struct slurm *slurm, enum status status, const char *words)
{
    if (status != ST_OK && slurm->failures++ == 0) log_warn("slurm-silent", "%s", words);
    if (status == ST_OK && slurm->failures > 0) log_info("slurm-answers", "Slurm answers again");
    if (status == ST_OK) slurm->failures = 0;
}

static void ask_in(struct slurm *slurm, uint64_t ms);

static bool somebody_waits(const struct slurm *slurm)
{
    for (const struct job *job = slurm->jobs; job; job = job->next)
        if (job->phase != JOB_LISTED || job->kill || launcher_left(job->directory, "exit.json"))
            return true;
    return false;
}

/* A fifth more or less, so that daemons do not ask in step. */
static uint64_t jittered(uint64_t ms)
{
    return ms - ms / 5 + uv_hrtime() % (2 * (ms / 5) + 1);
}

static void ask_later(struct slurm *slurm)
{
    if (!slurm->jobs) return;
    unsigned doublings = slurm->failures < 6 ? slurm->failures : 6;
    uint64_t ms = (somebody_waits(slurm) ? ASK_SOON_MS : ASK_MS) << doublings;
    ask_in(slurm, jittered(ms < ASK_MS_MAX ? ms : ASK_MS_MAX));
}

static void squeue_ended(void *context, const struct subprocess_end *end)
{
    struct slurm *slurm = context;
    struct answer answer = {slurm, slurm->asked_ms};
    struct fault fault;
    enum status status = ST_OK;
    slurm->asking = NULL;
    if (end->exit_code != 0)
        status = fault_set(&fault, ST_UNREACHABLE, "squeue: %.200s", end->errors);
    if (status == ST_OK) status = slurm_queue_read(end->output, take_row, &answer, &fault);
    say_reached(slurm, status, fault.text);
    struct job *next;
    for (struct job *job = slurm->jobs; job && status == ST_OK; job = next) {
        next = job->next;
        follow(job, answer.asked_ms);
    }
    drop_unwatched(slurm);
    ask_later(slurm);
}

static void ask(uv_timer_t *timer)
{
    struct slurm *slurm = timer->data;
    struct fault fault;
    char user[24];
    if (slurm->asking) return; /* its end sets the next */
    snprintf(user, sizeof user, "--user=%s", slurm->user);
    const char *const argv[] = {
        "squeue", user, "--states=all", "--noheader", "-O", SLURM_QUEUE_COLUMNS, NULL};
    uv_update_time(slurm->loop);
    slurm->asked_ms = uv_now(slurm->loop);
    if (subprocess_start(slurm->loop, argv, COMMAND_MS, squeue_ended, slurm, &slurm->asking,
                         &fault) == ST_OK)
        return;
    say_reached(slurm, fault.status, fault.text);
    ask_later(slurm);
}

static void ask_in(struct slurm *slurm, uint64_t ms)
{
    uv_timer_start(&slurm->timer, ask, ms, 0);
}

/* Sooner than planned, but for a Slurm that does not answer. */
static void ask_soon(struct slurm *slurm)
{
    if (slurm->failures > 0 && uv_is_active((uv_handle_t *)&slurm->timer)) return;
    if (uv_is_active((uv_handle_t *)&slurm->timer) &&
        uv_timer_get_due_in(&slurm->timer) <= ASK_SOON_MS)
        return;
    ask_in(slurm, ASK_SOON_MS);
}

/* ---- looking ---- */

/* A job that an earlier daemon submitted, or was about to. */
static struct job *find_or_adopt(struct slurm *slurm, const char *directory)
{
    char name[SLURM_NAME_SIZE];
    struct job *job = job_in(slurm, directory);
    if (job) return job;
    if (!launcher_left(directory, "slurm.sh") || !read_name(directory, name)) return NULL;
    job = job_new(slurm, directory, name);
    ask_soon(slurm);
    return job;
}

static void describe(const struct job *job, struct sighting *sighting)
{
    const struct slurm_row *row = &job->row;
    *sighting = (struct sighting){.id = row->id};
    sighting->waits = !launcher_left(job->directory, "launcher.json");
    snprintf(sighting->words, sizeof sighting->words, "Slurm job %" PRId64 " is %s%s%.100s",
             row->id, row->state, row->reason[0] != '\0' ? ", " : "", row->reason);
}

static enum launcher_state slurm_probe(struct attempt_launcher *launcher,
                                       const char *attempt_directory, struct sighting *sighting)
{
    struct slurm *slurm = slurm_of(launcher);
    bool exit_known = launcher_left(attempt_directory, "exit.json");
    enum launcher_state over = exit_known ? LAUNCHER_ENDED : LAUNCHER_GONE;
    if (launcher_left(attempt_directory, "slurm.json")) return over;
    struct job *job = find_or_adopt(slurm, attempt_directory);
    if (!job) return exit_known ? LAUNCHER_ENDED : LAUNCHER_UNSEEN;
    job->looked_ms = uv_now(slurm->loop);
    bool silent = slurm->failures >= SILENT_FAILURES;
    if (exit_known && silent) return LAUNCHER_ENDED; /* its own files must do */
    if (exit_known) ask_soon(slurm);
    switch (job->phase) {
    case JOB_SUBMITTING:
    case JOB_UNCLEAR:
        return LAUNCHER_UNKNOWN;
    case JOB_LISTED:
        describe(job, sighting);
        return sighting->waits && silent ? LAUNCHER_UNKNOWN : LAUNCHER_ALIVE;
    case JOB_ABSENT:
        break;
    }
    return exit_known || launcher_left(attempt_directory, "launcher.json") ? over : LAUNCHER_UNSEEN;
}

static void slurm_signal(struct attempt_launcher *launcher, const char *attempt_directory,
                         int signal)
{
    if (launcher_left(attempt_directory, "slurm.json")) return;
    struct job *job = find_or_adopt(slurm_of(launcher), attempt_directory);
    if (!job) return;
    if (signal == SIGKILL)
        kill_job(job);
    else
        scancel(job, "TERM");
}

static void slurm_rescue(struct attempt_launcher *launcher, const char *attempt_directory,
                         uint32_t rank)
{
    (void)rank;
    slurm_signal(launcher, attempt_directory, SIGTERM);
}

/* ---- life ---- */

enum status launch_slurm_open(struct uv_loop_s *loop, const struct launcher_programs *programs,
                              launcher_news *news, void *context,
                              struct attempt_launcher **launcher, struct fault *fault)
{
    struct slurm *slurm = calloc(1, sizeof *slurm);
    if (!slurm) return fault_set(fault, ST_NO_MEMORY, "no memory for a launcher");
    slurm->base = (struct attempt_launcher){.remote = true,
                                            .start = slurm_start,
                                            .probe = slurm_probe,
                                            .signal = slurm_signal,
                                            .rescue = slurm_rescue};
    slurm->loop = loop;
    slurm->programs = programs;
    slurm->news = news;
    slurm->context = context;
    snprintf(slurm->user, sizeof slurm->user, "%u", (unsigned)geteuid());
    uv_timer_init(loop, &slurm->timer);
    slurm->timer.data = slurm;
    *launcher = &slurm->base;
    return ST_OK;
}

static void timer_closed(uv_handle_t *timer)
{
    free(timer->data);
}

void launch_slurm_close(struct attempt_launcher *launcher)
{
    if (!launcher) return;
    struct slurm *slurm = slurm_of(launcher);
    while (slurm->jobs) job_forget(slurm->jobs);
    subprocess_forget(slurm->asking);
    uv_close((uv_handle_t *)&slurm->timer, timer_closed);
}
