/*
 * performer-worker: one rank of a run. It reads what it is to do, joins the other ranks, trains, and
 * says how it ended: in its log, in attempt-A/rank-R.end.json, and to the daemon where there is one.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "proto/durable.h"
#include "proto/jobspec.h"
#include "proto/logline.h"
#include "proto/utf8.h"
#include "worker/notices.h"
#include "worker/training.h"

enum {
    EXIT_USAGE = 2,
    EXIT_STATUS = 64, /* plus the status that ended the rank */
    OVERRIDES_MAX = 64,
    PLAN_BYTES_MAX = 1 << 20,
    LAST_WORDS_MS = 3000 /* how long the end waits for the daemon to take the last reports */
};

struct invocation {
    const char *job, *output; /* without a daemon */
    const char *plan;         /* with one */
    const char *backend;      /* NULL: as the job says */
    struct jobspec_override overrides[OVERRIDES_MAX];
    size_t override_count;
};

struct rank {
    const struct invocation *invocation;
    uint32_t number;
    char attempt_directory[3072]; /* with a daemon */
    Performer__Plan *plan;
    struct jobspec spec;
    const struct backend *backend;
    struct uplink *uplink;
    struct collective *launched; /* over MPI, by which ranks meet that sum over NCCL; else NULL */
    struct collective *collective;
    struct training *training;
};

static const char usage_text[] =
    "usage: performer-worker --job FILE --output DIR [--set SECTION.KEY=VALUE]... [--backend NAME]\n"
    "       performer-worker --plan FILE [--backend NAME]\n";

static const char help_text[] =
    "\n"
    "One rank of a training run; start it under mpirun for several.\n"
    "\n"
    "  --job FILE      train the job of FILE without a daemon; goes on from the newest good\n"
    "                  checkpoint in DIR/checkpoints, if there is one\n"
    "  --output DIR    where metrics.jsonl and checkpoints/ go\n"
    "  --set A.B=V     another value for a key of the job file; may be given again\n"
    "  --plan FILE     train as the daemon planned; this is how performer-launch calls it\n"
    "  --backend NAME  what computes, whatever resources.device says: cpu, cuda, or reference, which is\n"
    "                  plain and slow, for comparisons\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM: saves a checkpoint after the step under way and ends. Exit: 0 all steps done, or stopped as\n"
    "asked; 2 usage; 64 + N failed, N a status of proto/status.h (105: training diverged).\n";

static int usage_error(const char *what, const char *argument)
{
    fprintf(stderr, "performer-worker: %s%s%s\n%s", what, *argument ? ": " : "", argument,
            usage_text);
    return EXIT_USAGE;
}

/* -1: go on; else the exit code. */
static int parse_arguments(int argc, char **argv, struct invocation *invocation)
{
    enum { JOB = 256, OUTPUT, SET, PLAN, BACKEND, HELP, VERSION };
    static const struct option options[] = {
        {"job", required_argument, NULL, JOB},   {"output", required_argument, NULL, OUTPUT},
        {"set", required_argument, NULL, SET},   {"plan", required_argument, NULL, PLAN},
        {"help", no_argument, NULL, HELP},       {"backend", required_argument, NULL, BACKEND},
        {"version", no_argument, NULL, VERSION}, {NULL, 0, NULL, 0},
    };

    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case JOB:
            invocation->job = optarg;
            break;
        case OUTPUT:
            invocation->output = optarg;
            break;
        case SET:
            if (invocation->override_count == OVERRIDES_MAX)
                return usage_error("too many --set", optarg);
            invocation->overrides[invocation->override_count++].text = optarg;
            break;
        case PLAN:
            invocation->plan = optarg;
            break;
        case BACKEND:
            invocation->backend = optarg;
            break;
        case HELP:
            printf("%s%s", usage_text, help_text);
            return EXIT_SUCCESS;
        case VERSION:
            printf("performer-worker %s\ncuda: %s\n", PERFORMERD_VERSION,
                   backend_find("cuda") ? "there is a device" : backend_why_not("cuda"));
            return EXIT_SUCCESS;
        default:
            fputs(usage_text, stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) return usage_error("unexpected argument", argv[optind]);
    if (invocation->plan && (invocation->job || invocation->output || invocation->override_count))
        return usage_error("--plan says it all: no --job, --output or --set beside it", "");
    if (!invocation->plan && (!invocation->job || !invocation->output))
        return usage_error("--job and --output are needed, or --plan", "");
    if (invocation->backend && !backend_find(invocation->backend)) {
        fprintf(stderr, "performer-worker: --backend %s: %s\n", invocation->backend,
                backend_why_not(invocation->backend));
        return EXIT_USAGE;
    }
    return -1;
}

static uint32_t rank_from_environment(void)
{
    const char *text = collective_launched_rank();
    return text ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

/*
 * No signal is handled that a rank outlives: in oneDNN 2.6.3 the AVX-512 product of a transposed matrix keeps values below the
 * stack's red zone. A handler's frame goes there, and the product then writes over the heap. SIGTERM is blocked for all
 * threads that come, and whether it is pending is asked at the edge of a step; so is SIGUSR2, by which Slurm tells that the
 * time limit is near.
 */
static void settle_signals(void)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    const struct sigaction ignored = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignored, NULL);
    sigaction(SIGXFSZ, &ignored, NULL); /* a file grown too large is an error like a full disk */
}

/* Nothing that ran goes on behind this handler. Its line is the log's last: no backtrace of MPI's follows. */
static void tell_bus_error(int number)
{
    static const char words[] =
        "bus-error: a mapped file was cut short or cannot be read: see whether the files of [data] "
        "are whole, their disk is sound, and /dev/shm is not full\n";
    ssize_t written = write(STDERR_FILENO, words, sizeof words - 1);
    (void)written;
    signal(number, SIG_DFL);
    raise(number);
}

/* After MPI has set its own. */
static void settle_bus_errors(void)
{
    const struct sigaction told = {.sa_handler = tell_bus_error};
    sigaction(SIGBUS, &told, NULL);
}

static bool stop_asked(void)
{
    sigset_t pending;
    if (sigpending(&pending) != 0) return false;
    return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGUSR2) == 1;
}

/* Nobody may be left to read a pipe: what this rank says goes into a file of its own, before it says anything. */
static enum status open_log(struct rank *rank, struct fault *fault)
{
    char path[4096], copy[3072];
    snprintf(copy, sizeof copy, "%s", rank->invocation->plan);
    snprintf(rank->attempt_directory, sizeof rank->attempt_directory, "%s", dirname(copy));
    snprintf(path, sizeof path, "%s/rank-%u.log", rank->attempt_directory, rank->number);

    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) return fault_errno(fault, errno, "could not open the log %s", path);
    if (dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
        return fault_errno(fault, errno, "could not write to the log %s", path);
    close(log);
    setvbuf(stdout, NULL, _IOLBF, 0);
    return ST_OK;
}

static enum status read_plan(struct rank *rank, struct fault *fault)
{
    const char *path = rank->invocation->plan;
    char *bytes;
    size_t length;
    enum status status = file_read(path, PLAN_BYTES_MAX, &bytes, &length, fault);
    if (status != ST_OK) return fault_wrap(fault, "read the plan");
    rank->plan = performer__plan__unpack(NULL, length, (const uint8_t *)bytes);
    free(bytes);
    if (!rank->plan) return fault_set(fault, ST_CORRUPT, "%s is no plan of an attempt", path);
    return ST_OK;
}

/* Mistakes in the job file are the same for all ranks: one of them prints them. */
static enum status load_job(struct rank *rank, struct fault *fault)
{
    const struct invocation *invocation = rank->invocation;
    char path[4096];
    if (rank->plan)
        snprintf(path, sizeof path, "%s/resolved.toml", rank->plan->directory);
    else
        snprintf(path, sizeof path, "%s", invocation->job);

    struct diagnostics diagnostics = {0};
    fault->text[0] = '\0';
    enum status status = jobspec_load(path, invocation->overrides, invocation->override_count,
                                      &diagnostics, &rank->spec, fault);
    if (rank->number == 0 && diagnostics.count > 0)
        diagnostics_print(&diagnostics, stderr, isatty(STDERR_FILENO) && !getenv("NO_COLOR"));
    if (status != ST_OK && diagnostics.errors > 0)
        fault_set(fault, status, "%s has %zu mistake%s", path, diagnostics.errors,
                  diagnostics.errors == 1 ? "" : "s");
    diagnostics_free(&diagnostics);
    return status;
}

static enum status open_uplink(struct rank *rank, struct fault *fault)
{
    if (rank->plan) return uplink_open(rank->plan, rank->number, &rank->uplink, fault);
    enum status status = make_directories(rank->invocation->output, fault);
    if (status != ST_OK) return status;
    return uplink_open_file(rank->invocation->output, rank->number, &rank->uplink, fault);
}

/* As the command line says, or else the job: "auto" is the GPU where there is one. Which it was, training-started tells. */
static enum status pick_backend(struct rank *rank, struct fault *fault)
{
    const enum device device = rank->spec.resources.device;
    const char *name = rank->invocation->backend;
    if (!name) name = device == DEVICE_CPU ? "cpu" : "cuda";
    rank->backend = backend_find(name);
    if (!rank->backend && !rank->invocation->backend && device == DEVICE_AUTO)
        rank->backend = backend_find("cpu");
    if (rank->backend) return ST_OK;
    return fault_set(
        fault, ST_UNSUPPORTED,
        "resources.device = \"%s\" on this machine: %s; set \"cpu\" or \"auto\", or ask for "
        "machines with a GPU",
        device_text(device), backend_why_not(name));
}

static enum status meet_by_daemon(void *context, char text[RENDEZVOUS_SIZE], struct fault *fault)
{
    return uplink_meet(context, text, RENDEZVOUS_SIZE, fault);
}

static enum status meet_by_mpi(void *context, char text[RENDEZVOUS_SIZE], struct fault *fault)
{
    char(*texts)[RENDEZVOUS_SIZE] = calloc((size_t)collective_ranks(context), sizeof *texts);
    if (!texts) return fault_set(fault, ST_NO_MEMORY, "no memory to meet the other ranks");
    enum status status = collective_gather(context, text, sizeof *texts, texts, fault);
    if (status == ST_OK) memcpy(text, texts[0], sizeof *texts);
    free(texts);
    return status;
}

static enum status join_nobody(struct rank *rank, struct fault *fault)
{
    enum status status = collective_single(&rank->collective);
    if (status != ST_OK) fault_set(fault, status, "no memory to begin");
    return status;
}

/* The plan says how many ranks there are, so that they need no MPI where GPUs sum. */
static enum status join_by_plan(struct rank *rank, struct fault *fault)
{
    const struct rendezvous rendezvous = {(int)rank->number, (int)rank->plan->ranks, rank->uplink,
                                          meet_by_daemon};
    if (rank->number >= rank->plan->ranks)
        return fault_set(fault, ST_INVALID, "the plan is for %u ranks, but there is a rank %u",
                         rank->plan->ranks, rank->number);
    if (rank->plan->ranks == 1) return join_nobody(rank, fault);
    return collective_nccl(&rendezvous, &rank->collective, fault);
}

static enum status join_by_mpi(struct rank *rank, int *argc, char ***argv, struct fault *fault)
{
    enum status status = collective_mpi(argc, argv, &rank->launched, fault);
    if (status != ST_OK) return status;
    const struct rendezvous rendezvous = {collective_rank(rank->launched),
                                          collective_ranks(rank->launched), rank->launched,
                                          meet_by_mpi};
    return collective_nccl(&rendezvous, &rank->collective, fault);
}

/* GPUs sum what GPUs hold. */
static enum status join_ranks(struct rank *rank, int *argc, char ***argv, struct fault *fault)
{
    const bool on_gpus = strcmp(rank->backend->name, "cuda") == 0;
    if (!on_gpus || !collective_launched_rank())
        return collective_join(argc, argv, &rank->collective, fault);
    return rank->plan ? join_by_plan(rank, fault) : join_by_mpi(rank, argc, argv, fault);
}

static enum status train(struct rank *rank, int *argc, char ***argv, struct fault *fault)
{
    enum status status = ST_OK;
    if (rank->invocation->plan) status = read_plan(rank, fault);
    if (status == ST_OK) status = load_job(rank, fault);
    if (status == ST_OK) status = open_uplink(rank, fault);
    if (status == ST_OK) status = pick_backend(rank, fault);
    if (status == ST_OK) status = join_ranks(rank, argc, argv, fault);
    if (status != ST_OK) return status;
    settle_bus_errors();

    const struct training_setup setup = {
        .spec = &rank->spec,
        .plan = rank->plan,
        .directory = rank->plan ? rank->plan->directory : rank->invocation->output,
        .backend = rank->backend,
        .collective = rank->collective,
        .uplink = rank->uplink,
        .stop_asked = stop_asked,
    };
    status = training_open(&setup, &rank->training, fault);
    if (status != ST_OK) return status;
    return training_run(rank->training, fault);
}

/* How this rank ended, for whoever finds the attempt's directory later. */
struct rank_end {
    enum status status;
    bool stopped;
    uint64_t step;
    const char *text;
    bool goes_back;       /* it has diverged, and the job says that it goes back, */
    uint64_t rewind_step; /* to the checkpoint of this step */
    uint64_t draw;        /* of the features in use */
};

static void write_end(const struct rank *rank, const struct rank_end *end)
{
    char path[4096], host[256] = "", words[sizeof((struct fault *)0)->text];
    gethostname(host, sizeof host - 1);
    snprintf(words, sizeof words, "%s", end->text);
    utf8_repair(words); /* names of files are any bytes, and long words are cut anywhere */
    snprintf(path, sizeof path, "%s/rank-%u.end.json", rank->attempt_directory, rank->number);

    json_t *object = json_pack(
        "{s:s, s:i, s:b, s:I, s:s, s:s, s:I, s:I, s:b, s:I, s:I}", "status",
        status_name(end->status), "status_code", (int)end->status, "stopped", (int)end->stopped,
        "step", (json_int_t)end->step, "text", words, "host", host, "pid", (json_int_t)getpid(),
        "time_ms", (json_int_t)wall_clock_ms(), "goes_back", (int)end->goes_back, "rewind_step",
        (json_int_t)end->rewind_step, "draw", (json_int_t)end->draw);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    struct fault fault;
    if (!text)
        log_warn("end-not-written", "%s: no memory", path);
    else if (durable_write(path, text, strlen(text), &fault) != ST_OK)
        log_warn("end-not-written", "%s", fault.text);
    free(text);
}

/*
 * How it ended is written down once nothing can take what it had to tell before, and before the daemon is waited for. Where
 * the disk takes it not, the daemon may; where neither does, a rank that did all its steps has not ended well.
 */
static void say_last_words(struct rank *rank, struct rank_end *end)
{
    struct fault fault;
    enum status kept = ST_OK;
    bool settled = true;
    if (rank->uplink) {
        notice_ended(rank->uplink, end->step, end->status, end->stopped, end->text);
        settled = uplink_settle(rank->uplink, &fault) == ST_OK;
    }
    if (settled && rank->invocation->plan) write_end(rank, end);
    if (rank->uplink) kept = uplink_close(rank->uplink, LAST_WORDS_MS, &fault);
    if (settled) return;
    if (kept != ST_OK) log_error("last-words-lost", "%s", fault.text);
    if (kept != ST_OK && end->status == ST_OK) {
        end->text = "the daemon is away, and the disk does not take what is left to tell it";
        end->status = kept;
    }
    write_end(rank, end);
}

static int finish(struct rank *rank, enum status status, const struct fault *fault)
{
    struct training *training = rank->training;
    struct rank_end end = {
        .status = status,
        .stopped = training && training->stopped,
        .step = training ? training->state.step : 0,
        .text = status == ST_OK ? "" : fault->text,
    };
    end.goes_back = status == ST_DIVERGED && rank->spec.train.on_divergence == DIVERGENCE_BACK;
    if (end.goes_back) {
        end.rewind_step = rewind_step(&rank->spec, rank->plan, training_good_step(training));
        end.draw = training->state.draw;
    }
    const bool others_know = status == ST_OK || (training && training->agreed);

    if (status != ST_OK && (!others_know || rank->number == 0))
        log_error(status_name(status), "%s", fault->text);
    say_last_words(rank, &end);
    const int exit_code = end.status == ST_OK ? EXIT_SUCCESS : EXIT_STATUS + (int)end.status;
    /* Before anything is freed: messages to and from the gradients may be under way. */
    if (!others_know)
        collective_abandon(rank->collective ? rank->collective : rank->launched, exit_code);
    training_close(training);
    if (rank->plan) performer__plan__free_unpacked(rank->plan, NULL);
    jobspec_free(&rank->spec);
    collective_close(rank->collective);
    collective_close(rank->launched);
    return exit_code;
}

int main(int argc, char **argv)
{
    struct invocation invocation = {0};
    int exit_code = parse_arguments(argc, argv, &invocation);
    if (exit_code >= 0) return exit_code;

    static struct rank rank;
    rank.invocation = &invocation;
    rank.number = rank_from_environment();
    char context[32];
    snprintf(context, sizeof context, "rank %u", rank.number);
    log_context(context);
    settle_signals();
    collective_nccl_settings();

    struct fault fault = {0};
    enum status status = invocation.plan ? open_log(&rank, &fault) : ST_OK;
    if (status == ST_OK) status = train(&rank, &argc, &argv, &fault);
    return finish(&rank, status, &fault);
}
