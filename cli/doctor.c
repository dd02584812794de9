#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/quantity.h"
#include "cli/remote.h"
#include "cli/report.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

enum {
    MPIRUN_MS = 30000,
    WORKER_MS = 10000,
    SQUEUE_MS = 20000,
    FREE_BYTES_MIN = 1000000000,  /* a few checkpoints of a small model */
    MEMORY_BYTES_MIN = 500000000, /* of one small rank */
};

struct check {
    const char *name;
    bool ok;
    bool needed; /* without it no run can be trained */
    char found[COMMAND_OUTPUT_MAX];
    char cure[300];
};

static void found(struct check *check, bool ok, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void found(struct check *check, bool ok, const char *format, ...)
{
    va_list args;

    check->ok = ok;
    va_start(args, format);
    vsnprintf(check->found, sizeof check->found, format, args);
    va_end(args);
}

static void cure(struct check *check, const char *text)
{
    snprintf(check->cure, sizeof check->cure, "%s", text);
}

/* ---- the daemon ---- */

struct site {
    char state_directory[512]; /* the daemon's, or the default where it does not answer */
    char runs_directory[512];  /* the daemon's; empty where it does not answer */
};

static enum status ping(const struct invocation *invocation, char url[512],
                        Performer__Response **response, struct fault *fault)
{
    Performer__Ping body = PERFORMER__PING__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    struct remote remote;

    enum status status = remote_open(invocation, REMOTE_POLL_MS, &remote, fault);
    if (status != ST_OK) return status;
    snprintf(url, 512, "%s", remote.url);
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    status = remote_call(&remote, &request, PERFORMER__RESPONSE__BODY_PONG, response, fault);
    remote_close(&remote);
    return status;
}

static void check_daemon(const struct invocation *invocation, struct check *check,
                         struct site *site)
{
    Performer__Response *response;
    struct fault fault;
    char url[512] = "";

    site->runs_directory[0] = '\0';
    if (ping(invocation, url, &response, &fault) != ST_OK) {
        default_state_directory(site->state_directory, sizeof site->state_directory);
        found(check, false, "%s", fault.text); /* a client's words name the cure */
        return;
    }
    const Performer__Pong *pong = response->pong;
    snprintf(site->state_directory, sizeof site->state_directory, "%s", pong->state_directory);
    snprintf(site->runs_directory, sizeof site->runs_directory, "%s", pong->runs_directory);
    bool same = strcmp(pong->version, PERFORMERD_VERSION) == 0;
    found(check, same, "performerd %s at %s, pid %llu, up %s, %u of %u ranks in use", pong->version,
          url, (unsigned long long)pong->pid, duration_text((int64_t)pong->uptime_ms).text,
          pong->ranks_running, pong->ranks_max);
    if (!same)
        cure(check, "performerctl is " PERFORMERD_VERSION
                    ": install both from one build, then restart the daemon");
    response_free(response);
}

/* ---- the programs ---- */

/* The path of a program that is installed beside this one. */
static void sibling_path(const char *name, char path[4096])
{
    char own[4000];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);

    if (length < 0) length = 0;
    own[length] = '\0';
    char *slash = strrchr(own, '/');
    snprintf(path, 4096, "%.*s/%s", slash ? (int)(slash - own) : 0, own, name);
}

static bool check_sibling(struct check *check, const char *name, char path[4096])
{
    sibling_path(name, path);
    if (access(path, X_OK) == 0) return true;
    found(check, false, "%s: %s", path, strerror(errno));
    cure(check, "install all programs of one build into one directory");
    return false;
}

static void check_launcher(struct check *check)
{
    char path[4096];

    if (check_sibling(check, "performer-launch", path)) found(check, true, "%s", path);
}

/* A worker that says its version has found its libraries. Its second line tells of the CUDA backend. */
static void check_worker(struct check *check, struct check *cuda)
{
    struct command_result result;
    struct fault fault;
    char path[4096];

    found(cuda, false, "only a worker that starts can tell");
    if (!check_sibling(check, "performer-worker", path)) return;
    const char *argv[] = {path, "--version", NULL};
    if (command_run(argv, WORKER_MS, &result, &fault) != ST_OK) {
        found(check, false, "%s", fault.text);
        cure(check, "run it by hand: performer-worker --version");
        return;
    }
    char *second = result.output + strcspn(result.output, "\n");
    if (*second) *second++ = '\0';
    found(check, result.exit_code == 0, "%s", result.output[0] ? result.output : path);
    if (result.exit_code != 0) {
        cure(check, "a library that it needs is missing: `deploy/install-deps` installs them");
        return;
    }
    second[strcspn(second, "\n")] = '\0';
    const char *told = strncmp(second, "cuda: ", 6) == 0 ? second + 6 : second;
    found(cuda, strcmp(told, "there is a device") == 0, "%s", told);
}

/* The way the daemon's launcher starts ranks, with a program that does nothing. */
static void check_mpirun(struct check *check)
{
    const char *argv[] = {"mpirun", "--bind-to", "none", "--oversubscribe", "-n", "2",
                          "true",   NULL,        NULL};
    struct command_result result;
    struct fault fault;

    if (geteuid() == 0) {
        argv[6] = "--allow-run-as-root";
        argv[7] = "true";
    }
    enum status status = command_run(argv, MPIRUN_MS, &result, &fault);
    if (status != ST_OK) {
        found(check, false, "%s", fault.text);
        cure(check, status == ST_NOT_FOUND ? "install Open MPI: `deploy/install-deps` does it"
                                           : "run it by hand: mpirun -n 2 true");
        return;
    }
    result.output[strcspn(result.output, "\n")] = '\0';
    if (result.exit_code == 0) {
        found(check, true, "starts 2 ranks");
        return;
    }
    found(check, false, "mpirun -n 2 true ended with exit code %d: %s", result.exit_code,
          result.output);
    cure(check, "run it by hand and mend what it says: mpirun -n 2 true");
}

/* ---- the machine ---- */

static void check_cores(struct check *check)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    found(check, cores > 0, "%ld", cores);
}

static void check_memory(struct check *check)
{
    struct sysinfo info;

    if (sysinfo(&info) != 0) {
        found(check, false, "%s", strerror(errno));
        return;
    }
    double total = (double)info.totalram * info.mem_unit;
    found(check, total >= MEMORY_BYTES_MIN, "%s", bytes_text(total).text);
    cure(check, "`performerctl validate FILE` says what a job needs");
}

/* Free bytes of its file system. The directory itself may not be there yet: then the nearest one above it that is. */
static bool free_bytes(const char *directory, double *bytes)
{
    struct statvfs info;
    char path[512];

    snprintf(path, sizeof path, "%s", directory);
    while (statvfs(path, &info) != 0) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) return false;
        *slash = '\0';
    }
    *bytes = (double)info.f_bavail * (double)info.f_frsize;
    return true;
}

/* The fuller one of the two is told of. */
static void check_disk(struct check *check, const struct site *site)
{
    const char *const directories[] = {site->state_directory, site->runs_directory};
    const char *fullest = NULL;
    double least = 0, bytes;

    for (int i = 0; i < 2; i++) {
        if (directories[i][0] == '\0') continue;
        if (!free_bytes(directories[i], &bytes)) {
            found(check, false, "%s: %s", directories[i], strerror(errno));
            cure(check, "name another directory: performerd --state DIR --runs DIR");
            return;
        }
        if (fullest && bytes >= least) continue;
        fullest = directories[i];
        least = bytes;
    }
    found(check, least >= FREE_BYTES_MIN, "%s free for %s", bytes_text(least).text, fullest);
    cure(check, "make room, or name another directory: performerd --state DIR --runs DIR");
}

/* Cut out in place. */
static const char *last_line(char *text)
{
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == '\n') text[--length] = '\0';
    const char *before = strrchr(text, '\n');
    return before ? before + 1 : text;
}

/* For launcher = "slurm", which a daemon on this host would call as this does. */
static void check_slurm(struct check *check)
{
    const char *argv[] = {"squeue", "--me", "--noheader", "--format=%i", NULL};
    struct command_result result;
    struct fault fault;

    enum status status = command_run(argv, SQUEUE_MS, &result, &fault);
    if (status == ST_NOT_FOUND) {
        found(check, false, "not installed");
        return;
    }
    if (status != ST_OK) {
        found(check, false, "%s", fault.text);
        return;
    }
    if (result.exit_code == 0) {
        int jobs = 0;
        for (const char *c = result.output; *c; c++) jobs += *c == '\n';
        found(check, true, "answers; jobs of yours: %d", jobs);
        return;
    }
    found(check, false, "%s", last_line(result.output));
    cure(check, "run it by hand and mend what it says: squeue --me");
}

/* ---- the verdict ---- */

static void print_text(const struct check *checks, size_t count)
{
    struct terminal terminal;

    terminal_probe(STDOUT_FILENO, &terminal);
    for (size_t i = 0; i < count; i++) {
        const struct check *check = &checks[i];
        const char *word = check->ok ? "ok" : check->needed ? "FAILS" : "-";
        enum style style = check->ok ? STYLE_GOOD : check->needed ? STYLE_BAD : STYLE_DIM;
        printf("%s%-6s%s%-8s  %s\n", style_begin(style, terminal.colour), word,
               terminal.colour && style ? STYLE_END : "", check->name, check->found);
        if (!check->ok && check->cure[0]) printf("                %s\n", check->cure);
    }
}

static void print_json(const struct check *checks, size_t count, bool healthy)
{
    json_t *list = json_array();

    for (size_t i = 0; i < count; i++) {
        const struct check *check = &checks[i];
        bool cured = !check->ok && check->cure[0];
        json_array_append_new(list,
                              json_pack("{s:s,s:b,s:b,s:s,s:o}", "name", check->name, "ok",
                                        check->ok, "needed", check->needed, "found", check->found,
                                        "cure", cured ? json_string(check->cure) : json_null()));
    }
    report_json(json_pack("{s:b,s:o}", "ok", healthy, "checks", list));
}

enum exit_code verb_doctor(const struct invocation *invocation)
{
    enum { DAEMON, LAUNCHER, WORKER, MPIRUN, CORES, MEMORY, DISK, CUDA, SLURM, CHECKS };
    static struct check checks[CHECKS] = {
        [DAEMON] = {.name = "daemon", .needed = true},
        [LAUNCHER] = {.name = "launcher", .needed = true},
        [WORKER] = {.name = "worker", .needed = true},
        [MPIRUN] = {.name = "mpirun", .needed = true},
        [CORES] = {.name = "cores", .needed = true},
        [MEMORY] = {.name = "memory", .needed = true},
        [DISK] = {.name = "disk", .needed = true},
        [CUDA] = {.name = "cuda"},
        [SLURM] = {.name = "slurm"},
    };
    struct site site;
    bool healthy = true;

    check_daemon(invocation, &checks[DAEMON], &site);
    check_launcher(&checks[LAUNCHER]);
    check_worker(&checks[WORKER], &checks[CUDA]);
    check_mpirun(&checks[MPIRUN]);
    check_cores(&checks[CORES]);
    check_memory(&checks[MEMORY]);
    check_disk(&checks[DISK], &site);
    check_slurm(&checks[SLURM]);
    for (size_t i = 0; i < CHECKS; i++) healthy = healthy && (checks[i].ok || !checks[i].needed);
    if (invocation_json(invocation))
        print_json(checks, CHECKS, healthy);
    else
        print_text(checks, CHECKS);
    return healthy ? EXIT_CODE_OK : EXIT_CODE_FAILED;
}
