#include "tests/sim/slurm.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "daemon/memory.h"
#include "tests/sim/gang.h"
#include "tests/sim/host.h"
#include "tests/sim/ledger.h"
#include "tests/sim/world.h"

enum {
    SBATCH_MS_MAX = 8000,
    QUEUE_MS_MAX = 60000,
    ASK_SOON_MS = 1000, /* between two squeues */
    ASK_MS = 10000,
    SILENCE_MS_MAX = 120000,
    KILL_WAIT_MS_MAX = 30000, /* between a job's SIGTERM and its SIGKILL */
};

struct slurm_job {
    struct slurm_job *next;
    char directory[LAUNCHER_PATH_MAX]; /* of the attempt */
    enum {
        JOB_ON_ITS_WAY, /* sbatch has not been answered */
        JOB_WAITS,
        JOB_RUNS,
        JOB_OVER
    } phase;
    const char *state; /* how it ends, in Slurm's words; NULL: by itself */
    bool kill;         /* scancel until it is over */

    /* what the daemon knows of it */
    uint64_t life;   /* of that daemon */
    bool adopted;    /* an earlier one has submitted it */
    bool answered;   /* squeue has told of it since */
    uint64_t ask_ms; /* when it is asked next */
};

static struct slurm_job *jobs;
static uint64_t silent_until_ms;

static bool is_silent(void)
{
    return world.now_ms < silent_until_ms;
}

static struct slurm_job *job_in(const char *directory)
{
    for (struct slurm_job *job = jobs; job; job = job->next)
        if (strcmp(job->directory, directory) == 0) return job;
    return NULL;
}

/* ---- the life of a job ---- */

static void job_begins(void *what, uint64_t stamp)
{
    struct slurm_job *job = what;
    (void)stamp;
    if (job->phase != JOB_WAITS) return;
    job->phase = JOB_RUNS;
    gang_launch(job->directory);
}

static void job_is_taken(void *what, uint64_t stamp)
{
    struct slurm_job *job = what;
    (void)stamp;
    if (job->phase != JOB_ON_ITS_WAY) return;
    if (world_strikes(world.weather.sbatch_refuses)) {
        job->state = "REFUSED";
        job->phase = JOB_OVER;
        gang_tear(job->directory);
        return;
    }
    job->phase = JOB_WAITS;
    world_in(chance_between(&world.chance, 100, QUEUE_MS_MAX), job_begins, job, 0);
}

static void job_is_torn(void *what, uint64_t stamp)
{
    struct slurm_job *job = what;
    (void)stamp;
    if (job->phase == JOB_OVER) return;
    job->phase = JOB_OVER;
    gang_tear(job->directory);
}

/* One that runs is asked first, and has some time; one that waits is gone at once. */
static void job_ends(struct slurm_job *job, const char *state)
{
    const bool runs = job->phase == JOB_RUNS;
    if (!job->state) job->state = state;
    if (runs) gang_ask_to_end(job->directory);
    world_in(runs ? chance_between(&world.chance, 1, KILL_WAIT_MS_MAX) : 0, job_is_torn, job, 0);
}

/* ---- squeue ---- */

/* What follows from an answer. How a job has ended is written down, for the daemon's own code to read. */
static void take_answer(struct slurm_job *job)
{
    char text[120];
    job->answered = true;
    if (job->phase == JOB_RUNS && !gang_lives(job->directory)) job->phase = JOB_OVER;
    if (job->kill && (job->phase == JOB_WAITS || job->phase == JOB_RUNS)) job_ends(job, "KILLED");
    if (job->phase != JOB_OVER || !world_reach_out()) return;
    snprintf(text, sizeof text, "{\"state\":\"%s\",\"job\":1,\"reason\":\"None\"}",
             job->state ? job->state : "COMPLETED");
    gang_leave(job->directory, "slurm.json", text);
}

/* A daemon that was started anew knows of no job, and asks. */
static void adopt(struct slurm_job *job)
{
    if (job->life == host.life) return;
    job->life = host.life;
    job->adopted = true;
    job->answered = false;
    job->ask_ms = world.now_ms + ASK_SOON_MS;
}

static void ask(struct slurm_job *job, bool soon)
{
    if (is_silent() || world.now_ms < job->ask_ms) return;
    take_answer(job);
    job->ask_ms = world.now_ms + (soon ? ASK_SOON_MS : ASK_MS);
}

static enum launcher_state slurm_probe(struct attempt_launcher *launcher, const char *directory,
                                       struct sighting *sighting)
{
    (void)launcher;
    struct slurm_job *job = job_in(directory);
    const bool exit_known = launcher_left(directory, "exit.json");
    const enum launcher_state over = exit_known ? LAUNCHER_ENDED : LAUNCHER_GONE;
    if (!job) return LAUNCHER_UNSEEN;
    adopt(job);
    if (!launcher_left(directory, "slurm.json")) ask(job, exit_known || job->kill);
    if (launcher_left(directory, "slurm.json")) return over;
    if (exit_known && is_silent()) return LAUNCHER_ENDED;
    if (!job->answered) return LAUNCHER_UNKNOWN;
    if (job->phase == JOB_ON_ITS_WAY) return job->adopted ? LAUNCHER_UNSEEN : LAUNCHER_UNKNOWN;
    *sighting = (struct sighting){.id = 1, .waits = gang_state(directory) == LAUNCHER_UNSEEN};
    snprintf(sighting->words, sizeof sighting->words, "its job waits");
    return sighting->waits && is_silent() ? LAUNCHER_UNKNOWN : LAUNCHER_ALIVE;
}

/* ---- the launcher's other functions ---- */

static enum status slurm_start(struct attempt_launcher *launcher, const struct launch_order *order,
                               struct fault *fault)
{
    (void)launcher;
    if (!world_reach_out()) return fault_set(fault, ST_SYSTEM, "nobody is there to launch");
    if (world_strikes(world.weather.start_fails))
        return fault_set(fault, ST_NOT_FOUND, "there is no sbatch");
    struct slurm_job *job = world_memory(sizeof *job);
    text_copy(job->directory, sizeof job->directory, order->attempt_directory);
    job->life = host.life;
    job->answered = true;
    job->next = jobs;
    jobs = job;
    gang_submit(order);
    world_in(chance_between(&world.chance, 20, SBATCH_MS_MAX), job_is_taken, job, 0);
    return ST_OK;
}

/* The wish is written down first; with scancel Slurm may be as silent as with squeue, which then is followed by another. */
static void slurm_signal(struct attempt_launcher *launcher, const char *directory, int signal)
{
    (void)launcher;
    struct slurm_job *job = job_in(directory);
    if (!world_reach_out()) return;
    ledger_signalled(directory, signal);
    if (!job || launcher_left(directory, "slurm.json") || world.disk_full) return;
    job->kill = true;
    job->ask_ms = world.now_ms + ASK_SOON_MS;
}

static void slurm_rescue(struct attempt_launcher *launcher, const char *directory, uint32_t rank)
{
    gang_launcher.rescue(launcher, directory, rank);
}

struct attempt_launcher slurm_launcher = {.remote = true,
                                          .start = slurm_start,
                                          .probe = slurm_probe,
                                          .signal = slurm_signal,
                                          .rescue = slurm_rescue};

/* ---- weather ---- */

void slurm_begin(void)
{
    jobs = NULL;
    silent_until_ms = 0;
}

void slurm_strike_silence(void)
{
    silent_until_ms = world.now_ms + chance_between(&world.chance, 1000, SILENCE_MS_MAX);
    world_trace("Slurm is silent for %" PRIu64 " ms", silent_until_ms - world.now_ms);
}

void slurm_strike_job_ends(void)
{
    static const char *const states[] = {"CANCELLED", "PREEMPTED", "TIMEOUT", "NODE_FAIL"};
    struct slurm_job *found = NULL;
    uint64_t count = 0;
    for (struct slurm_job *job = jobs; job; job = job->next)
        if ((job->phase == JOB_WAITS || job->phase == JOB_RUNS) && !job->state &&
            chance_below(&world.chance, ++count) == 0)
            found = job;
    if (!found) return;
    const char *state = states[chance_below(&world.chance, found->phase == JOB_RUNS ? 4 : 1)];
    world_trace("%s: the job is %s", found->directory, state);
    if (strcmp(state, "NODE_FAIL") == 0) {
        found->state = state;
        job_is_torn(found, 0);
    } else {
        job_ends(found, state);
    }
}

void slurm_recover(void)
{
    silent_until_ms = 0;
}
