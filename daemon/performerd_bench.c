/*
 * performerd-bench: what a performerd bears. It prepares a state directory with many runs and rows, starts a real daemon
 * on it, plays the ranks of those runs that go on, and measures, over the daemon's socket:
 *
 *   1. rows of metrics a second that are stored and acknowledged, every rank reporting again as soon as it is answered
 *   2. how long `list` (all runs) and `describe` (one run) take while rows arrive at a given rate
 *   3. submits a second, one after the other
 *   4. a new client, while many connections that have said nothing are open, and then many that have asked once
 *   5. the daemon's memory on the way
 *   6. after SIGKILL and a new start: that every acknowledged row is there, and holds what was sent
 *
 * The sixth is checked, never timed; the others are figures of this machine, which the bench shares with the daemon.
 */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/memory.h"
#include "daemon/played_runs.h"
#include "proto/client.h"
#include "proto/jobspec.h"
#include "proto/whole_number.h"
#include "proto/wire.h"

enum {
    EXIT_USAGE = 2,
    CALL_MS = 30000,
    READY_MS = 60000,
    ASK_EVERY_MS = 10,
    NEW_CLIENTS = 50, /* that ask while connections are open */
    AT_A_TIME = 64,   /* connections that are made */
    PING_BYTES_MAX = 64,
    DESCRIPTORS_OWN = 512,
};

/* O(name, default, least, most, meaning) */
#define SIZES(O)                                                                         \
    O(runs, 1000, 1, 1000, "runs in the database, all over but those of --ranks")        \
    O(rows, 10000000, 1, 1000000000, "rows in the database before anything is measured") \
    O(ranks, 64, 1, 1000, "ranks that report, each of a run of its own")                 \
    O(steps, 20, 1, 1000, "steps of a report; a step has five rows")                     \
    O(rate, 50000, 1, 10000000, "rows a second that arrive while the daemon is asked")   \
    O(seconds, 20, 1, 3600, "how long each measurement takes")                           \
    O(connections, 10000, 1, 100000, "connections that are open and idle")

struct options {
#define SIZE_FIELD(name, default_, least, most, meaning) long name;
    SIZES(SIZE_FIELD)
#undef SIZE_FIELD
    const char *state; /* NULL: a directory of its own, removed at the end */
    bool json;
};

/* R(name, unit, words) */
#define RESULTS(R)                                                         \
    R(prepared_s, "s", "to prepare runs and rows")                         \
    R(rows_per_s, "/s", "rows stored and acknowledged")                    \
    R(report_p50_ms, "ms", "until a report is acknowledged, median")       \
    R(report_p99_ms, "ms", "the same, 99 of 100")                          \
    R(row_cpu_us, "us", "time of a core that the daemon spends on a row")  \
    R(arriving_per_s, "/s", "rows that arrive while the daemon is asked")  \
    R(list_p50_ms, "ms", "list of all runs meanwhile, median")             \
    R(list_p99_ms, "ms", "the same, 99 of 100")                            \
    R(describe_p50_ms, "ms", "status of one run meanwhile, median")        \
    R(describe_p99_ms, "ms", "the same, 99 of 100")                        \
    R(submits_per_s, "/s", "submits, one after the other")                 \
    R(silent_open, "", "connections left of those that have said nothing") \
    R(silent_new_ms, "ms", "a new client meanwhile, longest")              \
    R(asked_open, "", "connections left of those that have asked once")    \
    R(asked_new_ms, "ms", "a new client meanwhile, longest")               \
    R(memory_begin_mib, "MiB", "the daemon's memory at first")             \
    R(memory_half_mib, "MiB", "in the midst of the rows")                  \
    R(memory_rows_mib, "MiB", "behind the rows")                           \
    R(memory_end_mib, "MiB", "at the end")                                 \
    R(restart_ms, "ms", "from a start after SIGKILL until it can be used") \
    R(rows_checked, "", "rows found again as they were sent")

struct results {
#define RESULT_FIELD(name, unit, words) double name;
    RESULTS(RESULT_FIELD)
#undef RESULT_FIELD
};

struct bench {
    struct options options;
    char state[PATH_MAX], url[PATH_MAX + 32], daemon[PATH_MAX];
    pid_t pid;
    struct played_run *played; /* (ranks) */
    struct results results;
};

/* One that asks, and how long it took. */
struct latencies {
    double *ms;
    size_t count, capacity;
};

struct reporter {
    const struct bench *bench;
    struct played_run *run;
    struct client *client;
    struct played_report *report;
    double first_ms, every_ms; /* every_ms 0: as soon as it is answered */
    const atomic_bool *over;
    struct latencies latencies;
    uint64_t rows; /* acknowledged */
    enum status status;
    struct fault fault;
    pthread_t thread;
};

/* ---- options ---- */

static void usage(FILE *file)
{
    fputs("usage: performerd-bench [--SIZE N]... [--state DIR] [--json]\n", file);
}

static void help(void)
{
    usage(stdout);
    puts("\nMeasures what a performerd bears, and checks that it loses nothing.\n");
#define SIZE_HELP(name, default_, least, most, meaning) \
    printf("  --%-11s N    %s [%d]\n", #name, meaning, (default_));
    SIZES(SIZE_HELP)
#undef SIZE_HELP
    puts(
        "  --state       DIR  where the daemon is to keep its state, which must not be there yet [a new\n"
        "                     directory in $TMPDIR, removed at the end]\n"
        "  --json\n"
        "  --help");
}

static bool read_size(const char *option, const char *text, long least, long most, long *size)
{
    struct fault fault;
    if (whole_number_parse(option, text, least, most, size, &fault) == ST_OK) return true;
    fprintf(stderr, "performerd-bench: %s\n", fault.text);
    return false;
}

/* -1: go on; else the exit code. */
static int parse_arguments(int argc, char **argv, struct options *options)
{
#define SIZE_CODE(name, default_, least, most, meaning) SIZE_##name,
    enum { BEFORE = 255, SIZES(SIZE_CODE) STATE, JSON, HELP };
#undef SIZE_CODE
#define SIZE_OPTION(name, default_, least, most, meaning) \
    {#name, required_argument, NULL, SIZE_##name},
    static const struct option known[] = {
        SIZES(SIZE_OPTION){"state", required_argument, NULL, STATE},
        {"json", no_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
#undef SIZE_OPTION

    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
#define SIZE_CASE(name, default_, least, most, meaning)                                         \
    case SIZE_##name:                                                                           \
        if (!read_size("--" #name, optarg, (least), (most), &options->name)) return EXIT_USAGE; \
        break;
            SIZES(SIZE_CASE)
#undef SIZE_CASE
        case STATE:
            options->state = optarg;
            break;
        case JSON:
            options->json = true;
            break;
        case HELP:
            help();
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind == argc && options->ranks <= options->runs) return -1;
    if (optind < argc)
        fprintf(stderr, "performerd-bench: unexpected argument: %s\n", argv[optind]);
    else
        fputs("performerd-bench: each of --ranks needs a run of its own: raise --runs\n", stderr);
    usage(stderr);
    return EXIT_USAGE;
}

/* ---- time ---- */

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static uint64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void sleep_until(double ms)
{
    const double left = ms - now_ms();
    if (left > 0) usleep((useconds_t)(left * 1e3));
}

static void latencies_add(struct latencies *latencies, double ms)
{
    if (latencies->count == latencies->capacity) {
        latencies->capacity = 2 * latencies->capacity + 1024;
        latencies->ms = memory_grow(latencies->ms, latencies->capacity * sizeof *latencies->ms);
    }
    latencies->ms[latencies->count++] = ms;
}

static int compare_ms(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* 0: there is none. `part` of them, 0 ... 1, took no longer. */
static double latencies_at(struct latencies *latencies, double part)
{
    if (latencies->count == 0) return 0;
    qsort(latencies->ms, latencies->count, sizeof *latencies->ms, compare_ms);
    return latencies->ms[(size_t)(part * (double)(latencies->count - 1) + 0.5)];
}

/* ---- the daemon ---- */

/* MiB that are in memory; 0: it is gone. */
static double daemon_memory(const struct bench *bench)
{
    char path[64];
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)bench->pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%*u %lu", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

/* Seconds of a core that it has used. */
static double daemon_cpu(const struct bench *bench)
{
    char path[64];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)bench->pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%*d (performerd) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
               &system) != 2)
        user = system = 0;
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void daemon_run(const struct bench *bench, int ready)
{
    char ranks[16], log[PATH_MAX + 32];
    snprintf(ranks, sizeof ranks, "%ld", bench->options.ranks);
    snprintf(log, sizeof log, "%s/log", bench->state);
    const int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(ready, STDOUT_FILENO);
    if (file >= 0) dup2(file, STDERR_FILENO);
    execl(bench->daemon, bench->daemon, "--foreground", "--state", bench->state, "--listen",
          bench->url, "--max-ranks", ranks, (char *)NULL);
    _exit(127);
}

/* Its word that it can be used. */
static bool is_ready(int pipe)
{
    char word[64];
    struct pollfd there = {.fd = pipe, .events = POLLIN};
    return poll(&there, 1, READY_MS) == 1 && read(pipe, word, sizeof word) > 0;
}

static void daemon_end(struct bench *bench, int signal)
{
    if (bench->pid <= 0) return;
    kill(bench->pid, signal);
    waitpid(bench->pid, NULL, 0);
    bench->pid = 0;
}

/* No more ranks may run than those that do: what is submitted waits. */
static enum status daemon_start(struct bench *bench, struct fault *fault)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0) return fault_errno(fault, errno, "could not make a pipe");
    bench->pid = fork();
    if (bench->pid == 0) daemon_run(bench, ready[1]);
    close(ready[1]);
    const bool started = bench->pid > 0 && is_ready(ready[0]);
    close(ready[0]);
    if (started) return ST_OK;
    daemon_end(bench, SIGKILL);
    return fault_set(fault, ST_SYSTEM, "%s did not start: see %s/log", bench->daemon, bench->state);
}

/* What a client shows comes from its environment; NULL: nothing. */
static enum status client_of(const struct bench *bench, const char *token, struct client **client,
                             struct fault *fault)
{
    if (token)
        setenv("PERFORMERD_TOKEN", token, 1);
    else
        unsetenv("PERFORMERD_TOKEN");
    enum status status = client_open(bench->url, client, fault);
    unsetenv("PERFORMERD_TOKEN");
    return status;
}

/* ---- ranks that report ---- */

static enum status reporter_report(struct reporter *reporter)
{
    const uint64_t steps = (uint64_t)reporter->bench->options.steps;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = &reporter->report->report;
    played_report_fill(reporter->report, reporter->run, steps, wall_ms());
    const double begin_ms = now_ms();
    enum status status =
        client_call(reporter->client, &request, CALL_MS, &response, &reporter->fault);
    if (status != ST_OK) return status;
    latencies_add(&reporter->latencies, now_ms() - begin_ms);
    const bool fenced = response->report_reply->fenced;
    performer__response__free_unpacked(response, NULL);
    if (fenced)
        return fault_set(&reporter->fault, ST_FENCED, "%s is another's by now", reporter->run->id);
    played_run_advance(reporter->run, steps);
    reporter->rows += steps * PLAYED_METRIC_COUNT;
    return ST_OK;
}

/* One that is late does not hurry to make up for it. */
static void *reporter_run(void *context)
{
    struct reporter *reporter = context;
    for (double next_ms = reporter->first_ms;
         !atomic_load(reporter->over) && reporter->status == ST_OK;) {
        sleep_until(next_ms);
        reporter->status = reporter_report(reporter);
        next_ms += reporter->every_ms;
        if (next_ms < now_ms()) next_ms = now_ms();
    }
    return NULL;
}

static enum status reporter_start(const struct bench *bench, struct reporter *reporter,
                                  struct fault *fault)
{
    enum status status = client_of(bench, reporter->run->token, &reporter->client, fault);
    if (status != ST_OK) return status;
    reporter->report = played_report_new((uint64_t)bench->options.steps);
    const int error = pthread_create(&reporter->thread, NULL, reporter_run, reporter);
    if (error != 0) return fault_errno(fault, error, "could not start a thread");
    return ST_OK;
}

struct ranks {
    struct reporter *reporter; /* (count) */
    long count, started;
    atomic_bool over;
    double begin_ms, took_ms;
};

/* `rate` rows a second together, 0: as fast as they are answered. */
static enum status ranks_start(const struct bench *bench, double rate, struct ranks *ranks,
                               struct fault *fault)
{
    const double rows = (double)(bench->options.steps * PLAYED_METRIC_COUNT);
    const double every_ms = rate > 0 ? 1e3 * rows * (double)bench->options.ranks / rate : 0;
    enum status status = ST_OK;
    *ranks = (struct ranks){.count = bench->options.ranks, .begin_ms = now_ms()};
    ranks->reporter = memory_zeroed((size_t)ranks->count, sizeof *ranks->reporter);
    for (long i = 0; i < ranks->count && status == ST_OK; i++) {
        struct reporter *reporter = &ranks->reporter[i];
        reporter->bench = bench;
        reporter->run = &bench->played[i];
        reporter->over = &ranks->over;
        reporter->every_ms = every_ms;
        reporter->first_ms = ranks->begin_ms + every_ms * (double)i / (double)ranks->count;
        status = reporter_start(bench, reporter, fault);
        ranks->started += status == ST_OK;
    }
    return status;
}

/* Adds what all have told; the first that failed says why. */
static enum status ranks_stop(struct ranks *ranks, double *rows_per_s, struct latencies *latencies,
                              struct fault *fault)
{
    enum status status = ST_OK;
    uint64_t rows = 0;
    atomic_store(&ranks->over, true);
    for (long i = 0; i < ranks->started; i++) pthread_join(ranks->reporter[i].thread, NULL);
    ranks->took_ms = now_ms() - ranks->begin_ms;
    for (long i = 0; i < ranks->count; i++) {
        struct reporter *reporter = &ranks->reporter[i];
        rows += reporter->rows;
        for (size_t j = 0; j < reporter->latencies.count; j++)
            latencies_add(latencies, reporter->latencies.ms[j]);
        if (status == ST_OK && reporter->status != ST_OK)
            status = fault_set(fault, reporter->status, "%s reports: %s", reporter->run->id,
                               reporter->fault.text);
        client_close(reporter->client);
        played_report_free(reporter->report);
        free(reporter->latencies.ms);
    }
    *rows_per_s = 1e3 * (double)rows / ranks->took_ms;
    free(ranks->reporter);
    return status;
}

static enum status measure_rows(struct bench *bench, struct fault *fault)
{
    struct results *results = &bench->results;
    struct latencies latencies = {0};
    struct ranks ranks;
    const double begin_cpu = daemon_cpu(bench);
    results->memory_begin_mib = daemon_memory(bench);
    enum status status = ranks_start(bench, 0, &ranks, fault), stopped;
    if (status == ST_OK) sleep_until(ranks.begin_ms + 5e2 * (double)bench->options.seconds);
    results->memory_half_mib = daemon_memory(bench);
    if (status == ST_OK) sleep_until(ranks.begin_ms + 1e3 * (double)bench->options.seconds);
    stopped = ranks_stop(&ranks, &results->rows_per_s, &latencies, status == ST_OK ? fault : NULL);
    results->memory_rows_mib = daemon_memory(bench);
    results->row_cpu_us =
        1e9 * (daemon_cpu(bench) - begin_cpu) / (results->rows_per_s * ranks.took_ms);
    results->report_p50_ms = latencies_at(&latencies, 0.5);
    results->report_p99_ms = latencies_at(&latencies, 0.99);
    free(latencies.ms);
    return status == ST_OK ? stopped : status;
}

/* ---- questions ---- */

static enum status ask(struct client *client, Performer__Request *request,
                       struct latencies *latencies, Performer__Response **response,
                       struct fault *fault)
{
    const double begin_ms = now_ms();
    enum status status = client_call(client, request, CALL_MS, response, fault);
    if (status == ST_OK) latencies_add(latencies, now_ms() - begin_ms);
    return status;
}

static enum status ask_list(const struct bench *bench, struct client *client,
                            struct latencies *latencies, struct fault *fault)
{
    Performer__ListRuns list = PERFORMER__LIST_RUNS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    list.all = true;
    request.body_case = PERFORMER__REQUEST__BODY_LIST_RUNS;
    request.list_runs = &list;
    enum status status = ask(client, &request, latencies, &response, fault);
    if (status != ST_OK) return status;
    const Performer__RunList *runs = response->run_list;
    for (size_t i = 0; i < runs->n_runs && status == ST_OK; i++)
        if (runs->runs[i]->n_latest != PLAYED_METRIC_COUNT)
            status = fault_set(fault, ST_CORRUPT, "%s is told without its newest metrics",
                               runs->runs[i]->id);
    if (status == ST_OK && runs->n_runs != (size_t)bench->options.runs)
        status = fault_set(fault, ST_CORRUPT, "%zu runs are told instead of %ld", runs->n_runs,
                           bench->options.runs);
    performer__response__free_unpacked(response, NULL);
    return status;
}

static enum status ask_describe(uint64_t run, struct client *client, struct latencies *latencies,
                                struct fault *fault)
{
    char id[RUN_ID_SIZE];
    Performer__DescribeRun describe = PERFORMER__DESCRIBE_RUN__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    snprintf(id, sizeof id, "r%" PRIu64, run);
    describe.run = id;
    request.body_case = PERFORMER__REQUEST__BODY_DESCRIBE_RUN;
    request.describe_run = &describe;
    enum status status = ask(client, &request, latencies, &response, fault);
    if (status != ST_OK) return status;
    const Performer__RunSummary *summary = response->run_detail->summary;
    for (size_t i = 0; i < summary->n_latest && status == ST_OK; i++) {
        const Performer__NamedValue *latest = summary->latest[i];
        const int metric = played_metric(latest->name);
        if (metric < 0 || latest->value != played_value(run, latest->step, metric))
            status = fault_set(fault, ST_CORRUPT, "%s: its newest %s is not what was sent", id,
                               latest->name);
    }
    performer__response__free_unpacked(response, NULL);
    return status;
}

/* All runs in turn, a stride apart. */
static enum status ask_for(const struct bench *bench, struct latencies *list,
                           struct latencies *describe, struct fault *fault)
{
    const double until_ms = now_ms() + 1e3 * (double)bench->options.seconds;
    struct client *client;
    enum status status = client_of(bench, NULL, &client, fault);
    if (status != ST_OK) return status;
    for (uint64_t i = 0; now_ms() < until_ms && status == ST_OK; i++) {
        const uint64_t run = 1 + i * 7919 % (uint64_t)bench->options.runs;
        const double next_ms = now_ms() + ASK_EVERY_MS;
        status = ask_list(bench, client, list, fault);
        if (status == ST_OK) status = ask_describe(run, client, describe, fault);
        sleep_until(next_ms);
    }
    client_close(client);
    return status;
}

static enum status measure_questions(struct bench *bench, struct fault *fault)
{
    struct results *results = &bench->results;
    struct latencies list = {0}, describe = {0}, reports = {0};
    struct ranks ranks;
    enum status status = ranks_start(bench, (double)bench->options.rate, &ranks, fault), stopped;
    if (status == ST_OK) status = ask_for(bench, &list, &describe, fault);
    stopped =
        ranks_stop(&ranks, &results->arriving_per_s, &reports, status == ST_OK ? fault : NULL);
    results->list_p50_ms = latencies_at(&list, 0.5);
    results->list_p99_ms = latencies_at(&list, 0.99);
    results->describe_p50_ms = latencies_at(&describe, 0.5);
    results->describe_p99_ms = latencies_at(&describe, 0.99);
    free(reports.ms);
    free(describe.ms);
    free(list.ms);
    return status == ST_OK ? stopped : status;
}

/* ---- submits ---- */

static enum status submit(struct client *client, const char *resolved, uint64_t expected,
                          struct fault *fault)
{
    char key[32], id[RUN_ID_SIZE];
    Performer__Submit body = PERFORMER__SUBMIT__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    snprintf(key, sizeof key, "bench-%" PRIu64, expected);
    snprintf(id, sizeof id, "r%" PRIu64, expected);
    body.text = (char *)played_job();
    body.resolved = (char *)resolved;
    body.key = key;
    request.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
    request.submit = &body;
    enum status status = client_call(client, &request, CALL_MS, &response, fault);
    if (status != ST_OK) return status;
    if (strcmp(response->submitted->run, id) != 0)
        status = fault_set(fault, ST_CORRUPT, "a submit became %s instead of %s",
                           response->submitted->run, id);
    performer__response__free_unpacked(response, NULL);
    return status;
}

static enum status measure_submits(struct bench *bench, struct fault *fault)
{
    struct diagnostics diagnostics = {0};
    struct jobspec spec = {0};
    struct client *client = NULL;
    char *resolved = NULL;
    uint64_t count = 0;
    enum status status = jobspec_parse(played_job(), strlen(played_job()), "/played.toml", NULL, 0,
                                       &diagnostics, &spec);
    if (status == ST_OK) status = jobspec_print(&spec, &resolved);
    if (status != ST_OK)
        fault_set(fault, status, "the job that is submitted: %s", status_text(status));
    if (status == ST_OK) status = client_of(bench, NULL, &client, fault);
    const double begin_ms = now_ms(), until_ms = begin_ms + 1e3 * (double)bench->options.seconds;
    while (status == ST_OK && now_ms() < until_ms)
        status = submit(client, resolved, (uint64_t)bench->options.runs + ++count, fault);
    bench->results.submits_per_s = 1e3 * (double)count / (now_ms() - begin_ms);
    client_close(client);
    free(resolved);
    jobspec_free(&spec);
    diagnostics_free(&diagnostics);
    return status;
}

/* ---- connections ---- */

/* nng's greeting of a REQ socket, and behind it a ping: a frame's kind, its length, the number of the request, the request. */
static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};

static size_t ping_frame(uint8_t frame[PING_BYTES_MAX])
{
    uint8_t *bytes;
    size_t length;
    Performer__Ping ping = PERFORMER__PING__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &ping;
    if (wire_pack_request(&request, &bytes, &length) != ST_OK) abort();
    memcpy(frame, (const uint8_t[]){1, 0, 0, 0, 0, 0, 0, 0, (uint8_t)(4 + length), 0x80, 0, 0, 1},
           13);
    memcpy(frame + 13, bytes, length);
    free(bytes);
    return 13 + length;
}

/* -1: it was refused. What it has to say it says at once. */
static int connect_idle(const struct sockaddr_un *address, bool asks)
{
    uint8_t words[sizeof greeting + PING_BYTES_MAX];
    memcpy(words, greeting, sizeof greeting);
    const size_t length = sizeof greeting + (asks ? ping_frame(words + sizeof greeting) : 0);
    const int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0) return -1;
    if (connect(connection, (const struct sockaddr *)address, sizeof *address) == 0 &&
        send(connection, words, length, MSG_NOSIGNAL) == (ssize_t)length)
        return connection;
    close(connection);
    return -1;
}

/* Until its ping is answered, or it is closed. */
static void await_answer(int connection)
{
    uint8_t bytes[512];
    ssize_t got, total = 0;
    while (total <= (ssize_t)sizeof greeting &&
           (got = recv(connection, bytes, sizeof bytes, 0)) > 0)
        total += got;
}

/* A few at a time, since those that have asked nothing yet are few at any time. */
static void connect_all(const struct sockaddr_un *address, bool asks, int *connections, long count)
{
    for (long first = 0; first < count; first += AT_A_TIME) {
        const long end = first + AT_A_TIME < count ? first + AT_A_TIME : count;
        for (long i = first; i < end; i++) connections[i] = connect_idle(address, asks);
        for (long i = first; i < end && asks; i++)
            if (connections[i] >= 0) await_answer(connections[i]);
    }
}

/* Of those that the daemon has not closed. */
static long count_open(const int *connections, long count)
{
    long open = 0;
    for (long i = 0; i < count; i++) {
        struct pollfd one = {.fd = connections[i], .events = POLLRDHUP};
        open += connections[i] >= 0 && poll(&one, 1, 0) == 0;
    }
    return open;
}

/* A client that was not there before. */
static enum status ask_anew(const struct bench *bench, struct latencies *latencies,
                            struct fault *fault)
{
    Performer__Ping ping = PERFORMER__PING__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Response *response;
    struct client *client;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &ping;
    const double begin_ms = now_ms();
    enum status status = client_of(bench, NULL, &client, fault);
    if (status != ST_OK) return status;
    status = client_call(client, &request, CALL_MS, &response, fault);
    client_close(client);
    if (status != ST_OK) return status;
    latencies_add(latencies, now_ms() - begin_ms);
    performer__response__free_unpacked(response, NULL);
    return ST_OK;
}

static enum status crowd(const struct bench *bench, bool asks, double *open, double *new_ms,
                         struct fault *fault)
{
    const long count = bench->options.connections;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct latencies latencies = {0};
    enum status status = ST_OK;
    int *connections = memory_zeroed((size_t)count, sizeof *connections);
    text_copy(address.sun_path, sizeof address.sun_path, bench->url + strlen("ipc://"));
    connect_all(&address, asks, connections, count);
    for (int i = 0; i < NEW_CLIENTS && status == ST_OK; i++)
        status = ask_anew(bench, &latencies, fault);
    *open = (double)count_open(connections, count);
    *new_ms = latencies_at(&latencies, 1.0);
    for (long i = 0; i < count; i++)
        if (connections[i] >= 0) close(connections[i]);
    free(connections);
    free(latencies.ms);
    return status;
}

static enum status raise_descriptors(long connections, struct fault *fault)
{
    struct rlimit limit;
    const rlim_t wanted = (rlim_t)connections + DESCRIPTORS_OWN;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= wanted) return ST_OK;
    return fault_set(
        fault, ST_INVALID,
        "%ld connections need more files than this process may open: raise `ulimit -n` "
        "or lower --connections",
        connections);
}

static enum status measure_connections(struct bench *bench, struct fault *fault)
{
    struct results *results = &bench->results;
    enum status status = crowd(bench, false, &results->silent_open, &results->silent_new_ms, fault);
    if (status == ST_OK)
        status = crowd(bench, true, &results->asked_open, &results->asked_new_ms, fault);
    return status;
}

/* ---- what must be there ---- */

static enum status check_row(const struct played_run *run, uint64_t index,
                             const Performer__MetricRow *row, bool *seen, struct fault *fault)
{
    const uint64_t step = 1 + index / PLAYED_METRIC_COUNT;
    const int metric = played_metric(row->name);
    if (index % PLAYED_METRIC_COUNT == 0) memset(seen, 0, PLAYED_METRIC_COUNT * sizeof *seen);
    const bool right = metric >= 0 && !seen[metric] && row->step == step && row->attempt == 1 &&
                       row->value == played_value(run->number, step, metric);
    if (metric >= 0) seen[metric] = true;
    if (right) return ST_OK;
    return fault_set(fault, ST_CORRUPT, "%s: row %" PRIu64 " is %s of step %" PRIu64 ", %g",
                     run->id, index, row->name, row->step, row->value);
}

/* All rows of one run, page by page. */
static enum status check_run(struct client *client, const struct played_run *run, uint64_t *rows,
                             struct fault *fault)
{
    Performer__QueryMetrics query = PERFORMER__QUERY_METRICS__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    bool seen[PLAYED_METRIC_COUNT];
    uint64_t index = 0;
    enum status status = ST_OK;
    query.run = (char *)run->id;
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_METRICS;
    request.query_metrics = &query;
    do {
        Performer__Response *response;
        status = client_call(client, &request, CALL_MS, &response, fault);
        if (status != ST_OK) return status;
        const Performer__MetricPage *page = response->metric_page;
        for (size_t i = 0; i < page->n_rows && status == ST_OK; i++)
            status = check_row(run, index++, page->rows[i], seen, fault);
        query.cursor = page->next;
        performer__response__free_unpacked(response, NULL);
    } while (status == ST_OK && query.cursor != 0);
    if (status == ST_OK && index < run->step * PLAYED_METRIC_COUNT)
        status = fault_set(fault, ST_CORRUPT, "%s: %" PRIu64 " rows of %" PRIu64 " are there",
                           run->id, index, run->step * PLAYED_METRIC_COUNT);
    *rows += index;
    return status;
}

static enum status check_all(struct bench *bench, struct fault *fault)
{
    struct client *client;
    uint64_t rows = 0;
    daemon_end(bench, SIGKILL);
    const double begin_ms = now_ms();
    enum status status = daemon_start(bench, fault);
    bench->results.restart_ms = now_ms() - begin_ms;
    if (status == ST_OK) status = client_of(bench, NULL, &client, fault);
    if (status != ST_OK) return status;
    for (long i = 0; i < bench->options.ranks && status == ST_OK; i++)
        status = check_run(client, &bench->played[i], &rows, fault);
    client_close(client);
    bench->results.rows_checked = (double)rows;
    return status;
}

/* ---- from the beginning to the end ---- */

static int entry_remove(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    return remove(path);
}

static enum status place_state(struct bench *bench, struct fault *fault)
{
    const char *temporary = getenv("TMPDIR");
    char program[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return fault_errno(fault, errno, "could not find this program");
    program[length] = '\0';
    *strrchr(program, '/') = '\0';
    snprintf(bench->daemon, sizeof bench->daemon, "%.*s/performerd", PATH_MAX - 16, program);
    if (bench->options.state) {
        if (mkdir(bench->options.state, 0700) != 0)
            return fault_errno(fault, errno, "could not make the directory %s",
                               bench->options.state);
        if (!realpath(bench->options.state, bench->state))
            return fault_errno(fault, errno, "could not find %s", bench->options.state);
    } else {
        snprintf(bench->state, sizeof bench->state, "%.1000s/performerd-bench-XXXXXX",
                 temporary ? temporary : "/tmp");
        if (!mkdtemp(bench->state))
            return fault_errno(fault, errno, "could not make the directory %s", bench->state);
    }
    snprintf(bench->url, sizeof bench->url, "ipc://%s/socket", bench->state);
    if (strlen(bench->url) - strlen("ipc://") >= sizeof((struct sockaddr_un *)0)->sun_path)
        return fault_set(fault, ST_INVALID,
                         "%s is too long a path for a socket: name a shorter one "
                         "with --state",
                         bench->state);
    return ST_OK;
}

static enum status prepare(struct bench *bench, struct fault *fault)
{
    const struct options *options = &bench->options;
    const uint64_t a_step = (uint64_t)options->runs * PLAYED_METRIC_COUNT;
    const double begin_ms = now_ms();
    bench->played = memory_zeroed((size_t)options->ranks, sizeof *bench->played);
    enum status status = played_runs_make(bench->state, (uint64_t)options->runs,
                                          ((uint64_t)options->rows + a_step - 1) / a_step,
                                          bench->played, (size_t)options->ranks, fault);
    bench->results.prepared_s = (now_ms() - begin_ms) / 1e3;
    return status;
}

static enum status measure(struct bench *bench, struct fault *fault)
{
    enum status status = raise_descriptors(bench->options.connections, fault);
    if (status == ST_OK) status = place_state(bench, fault);
    if (status == ST_OK) status = prepare(bench, fault);
    if (status == ST_OK) status = daemon_start(bench, fault);
    if (status == ST_OK) status = measure_rows(bench, fault);
    if (status == ST_OK) status = measure_questions(bench, fault);
    if (status == ST_OK) status = measure_submits(bench, fault);
    if (status == ST_OK) status = measure_connections(bench, fault);
    if (status == ST_OK) bench->results.memory_end_mib = daemon_memory(bench);
    if (status == ST_OK) status = check_all(bench, fault);
    return status;
}

static void print_table(const struct bench *bench)
{
    const struct options *options = &bench->options;
    const struct results *results = &bench->results;
    printf(
        "%ld runs, %ld rows, %ld ranks that report %ld rows at a time, %ld s each, %ld cores\n\n",
        options->runs, options->rows, options->ranks, options->steps * PLAYED_METRIC_COUNT,
        options->seconds, sysconf(_SC_NPROCESSORS_ONLN));
#define RESULT_ROW(name, unit, words) printf("%-52s %12.1f %s\n", words, results->name, unit);
    RESULTS(RESULT_ROW)
#undef RESULT_ROW
}

static void print_json(const struct bench *bench)
{
    json_t *object = json_object();
#define SIZE_JSON(name, default_, least, most, meaning) \
    json_object_set_new(object, #name, json_integer(bench->options.name));
    SIZES(SIZE_JSON)
#undef SIZE_JSON
#define RESULT_JSON(name, unit, words) \
    json_object_set_new(object, #name, json_real(bench->results.name));
    RESULTS(RESULT_JSON)
#undef RESULT_JSON
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
}

int main(int argc, char **argv)
{
#define SIZE_DEFAULT(name, default_, least, most, meaning) .name = (default_),
    struct bench bench = {.options = {SIZES(SIZE_DEFAULT)}};
#undef SIZE_DEFAULT
    const int exit_code = parse_arguments(argc, argv, &bench.options);
    if (exit_code >= 0) return exit_code;

    struct fault fault = {0};
    signal(SIGPIPE, SIG_IGN);
    enum status status = measure(&bench, &fault);
    daemon_end(&bench, SIGTERM);
    if (status == ST_OK && bench.options.json) print_json(&bench);
    if (status == ST_OK && !bench.options.json) print_table(&bench);
    if (status != ST_OK) fprintf(stderr, "performerd-bench: %s\n", fault.text);
    if (!bench.options.state && bench.state[0] != '\0')
        nftw(bench.state, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(bench.played);
    return status == ST_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
