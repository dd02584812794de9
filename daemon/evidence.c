#include "daemon/evidence.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "daemon/slurm_queue.h"
#include "proto/durable.h"
#include "proto/status.h"
#include "proto/utf8.h"

enum {
    RECORD_BYTES_MAX = 1 << 16,
    NOTICE_BYTES_MAX =
        1 << 16,           /* of launcher.log, from its end: where mpirun says why it gave up */
    EXIT_CANNOT_RUN = 126, /* performer-launch could not run mpirun */
    EXIT_NOT_FOUND = 127,
};

/* rank-R.end.json: a rank's own word. */
struct rank_end {
    uint32_t rank;
    int status;
    bool stopped;
    uint64_t step;
    int64_t time_ms;
    bool goes_back;
    uint64_t rewind_step, draw;
    char text[300];
    char host[256];
};

/* exit.json. */
struct launcher_exit {
    bool known;
    int exit_code, signal;
    int64_t oom_kills; /* by the kernel while it ran */
    int passed;        /* a signal that performer-launch got and passed on, 0: none */
};

/* slurm.json: how the job ended, where there was one. */
struct job_end {
    enum attempt_cause cause; /* CAUSE_NONE: Slurm says nothing that the others do not say better */
    char text[300];
};

/* What mpirun or srun says about the first rank that failed. */
struct notice {
    bool not_started; /* the program could not be run at all */
    int rank;         /* -1: it says nothing */
    int signal, exit_code;
    char host[256];
};

struct findings {
    uint32_t ranks, ends, ends_ok;
    bool stopped;
    uint64_t step, ended_ms;
    bool failed; /* `first` is the earliest end that is not ok */
    struct rank_end first;
    struct launcher_exit exit;
    struct job_end job;
    struct notice notice;
};

/* ---- files ---- */

static json_t *read_json(const char *directory, const char *name)
{
    char path[4096], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (file_read(path, RECORD_BYTES_MAX, &text, &length, NULL) != ST_OK) return NULL;
    json_t *object = json_loadb(text, length, 0, NULL);
    free(text);
    return object;
}

static bool read_end(const char *directory, uint32_t rank, struct rank_end *end)
{
    char name[64];
    snprintf(name, sizeof name, "rank-%u.end.json", rank);
    json_t *object = read_json(directory, name);
    int stopped = 0, goes_back = 0;
    json_int_t step = 0, time_ms = 0, rewind_step = 0, draw = 0;
    const char *text = "", *host = "";
    *end = (struct rank_end){.rank = rank};
    int bad = json_unpack(object, "{s:i, s?b, s?I, s?I, s?s, s?s, s?b, s?I, s?I}", "status_code",
                          &end->status, "stopped", &stopped, "step", &step, "time_ms", &time_ms,
                          "text", &text, "host", &host, "goes_back", &goes_back, "rewind_step",
                          &rewind_step, "draw", &draw);
    end->stopped = stopped;
    end->step = step > 0 ? (uint64_t)step : 0;
    end->goes_back = goes_back && rewind_step >= 0 && draw >= 0;
    end->rewind_step = (uint64_t)rewind_step;
    end->draw = (uint64_t)draw;
    end->time_ms = time_ms;
    snprintf(end->text, sizeof end->text, "%s", text);
    snprintf(end->host, sizeof end->host, "%s", host);
    json_decref(object);
    return object && bad == 0;
}

static struct launcher_exit read_exit(const char *directory)
{
    struct launcher_exit found = {.exit_code = -1};
    json_t *object = read_json(directory, "exit.json");
    json_int_t oom_kills = 0;
    found.known = object && json_unpack(object, "{s:i, s:i, s?I, s?i}", "exit_code",
                                        &found.exit_code, "signal", &found.signal, "oom_kills",
                                        &oom_kills, "passed", &found.passed) == 0;
    found.oom_kills = oom_kills;
    json_decref(object);
    return found;
}

static struct job_end read_job_end(const char *directory)
{
    struct job_end end = {.cause = CAUSE_NONE};
    json_t *object = read_json(directory, "slurm.json");
    json_int_t job = 0;
    const char *state, *reason = "", *nodes = "", *sbatch = "";
    if (object && json_unpack(object, "{s:s, s?I, s?s, s?s, s?s}", "state", &state, "job", &job,
                              "reason", &reason, "nodes", &nodes, "sbatch", &sbatch) == 0) {
        end.cause = slurm_state_cause(state);
        if (end.cause == CAUSE_LAUNCH_FAILED)
            snprintf(end.text, sizeof end.text, "%s", sbatch);
        else
            snprintf(end.text, sizeof end.text, "Slurm job %lld%s%s is %s%s%s", (long long)job,
                     nodes[0] != '\0' ? " on " : "", nodes, state,
                     strcmp(reason, "None") != 0 ? ", " : "",
                     strcmp(reason, "None") != 0 ? reason : "");
    }
    json_decref(object);
    return end;
}

/* The last `size` - 1 bytes of a file, ended by a NUL; whether that is all of it. An absent file is empty. */
static bool read_tail(const char *directory, const char *name, char *bytes, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    bytes[0] = '\0';
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return true;
    struct stat stat;
    off_t start = 0;
    if (fstat(file, &stat) == 0 && stat.st_size > (off_t)size - 1)
        start = stat.st_size - ((off_t)size - 1);
    ssize_t length = pread(file, bytes, size - 1, start);
    bytes[length > 0 ? length : 0] = '\0';
    close(file);
    return start == 0;
}

/* ---- mpirun's words ---- */

/* mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed). */
static bool find_signal(const char *log, struct notice *notice)
{
    const char *at = strstr(log, "noticed that process rank ");
    return at && sscanf(at,
                        "noticed that process rank %d with PID %*d on node %255s exited on"
                        " signal %d",
                        &notice->rank, notice->host, &notice->signal) == 3;
}

/* The first process to do so was: / Process name: [[19774,1],1] / Exit code:    40 */
static bool find_exit_code(const char *log, struct notice *notice)
{
    const char *at = strstr(log, "Process name: [[");
    return at && sscanf(at, "Process name: [[%*d,%*d],%d] Exit code: %d", &notice->rank,
                        &notice->exit_code) == 2;
}

static int signal_by_words(const char *words)
{
    for (int signal = 1; signal < NSIG; signal++) {
        const char *known = strsignal(signal);
        if (strncmp(words, known, strlen(known)) == 0) return signal;
    }
    return 0;
}

/* srun: error: n2: task 1: Killed / srun: error: n1: tasks 0,2: Exited with exit code 40 */
static bool find_task(const char *log, struct notice *notice)
{
    static const char begin[] = "srun: error: ";
    for (const char *at = log; (at = strstr(at, begin)); at += sizeof begin - 1) {
        int words = 0;
        struct notice found = {.rank = -1};
        if (sscanf(at, "srun: error: %255[^: \n]: task%*1[s ]%d", found.host, &found.rank) != 2 &&
            sscanf(at, "srun: error: %255[^: \n]: tasks %d", found.host, &found.rank) != 2)
            continue;
        sscanf(at, "srun: error: %*[^: \n]: task%*[^:\n]: %n", &words);
        if (words == 0) continue;
        found.signal = signal_by_words(at + words);
        sscanf(at + words, "Exited with exit code %d", &found.exit_code);
        if (found.signal == 0 && found.exit_code == 0) continue;
        found.not_started = notice->not_started;
        *notice = found;
        return true;
    }
    return false;
}

static struct notice read_notice(const char *directory)
{
    struct notice notice = {.rank = -1};
    char *log = malloc(NOTICE_BYTES_MAX);
    if (!log) return notice;
    read_tail(directory, "launcher.log", log, NOTICE_BYTES_MAX);
    notice.not_started = strstr(log, "unable to launch the specified application") ||
                         strstr(log, "unable to find the specified executable");
    if (!find_signal(log, &notice) && !find_exit_code(log, &notice) && !find_task(log, &notice))
        notice = (struct notice){.not_started = notice.not_started, .rank = -1};
    free(log);
    return notice;
}

/* ---- the verdict ---- */

/* Whether the rank failed because another did, as far as its own word tells. */
static bool is_echo(const struct rank_end *end)
{
    return end->status == ST_COLLECTIVE;
}

/* Faults of a rank's own come before echoes of another's, earlier ones before later ones. */
static bool comes_first(const struct rank_end *a, const struct rank_end *b)
{
    if (is_echo(a) != is_echo(b)) return is_echo(b);
    return a->time_ms < b->time_ms;
}

static void collect(const char *directory, uint32_t ranks, struct findings *findings)
{
    *findings = (struct findings){.ranks = ranks};
    for (uint32_t rank = 0; rank < ranks; rank++) {
        struct rank_end end;
        if (!read_end(directory, rank, &end)) continue;
        findings->ends++;
        if (end.step > findings->step) findings->step = end.step;
        if (end.time_ms > (int64_t)findings->ended_ms) findings->ended_ms = (uint64_t)end.time_ms;
        if (end.status == ST_OK) {
            findings->ends_ok++;
            findings->stopped |= end.stopped;
        } else if (!findings->failed || comes_first(&end, &findings->first)) {
            findings->failed = true;
            findings->first = end;
        }
    }
    findings->exit = read_exit(directory);
    findings->job = read_job_end(directory);
    findings->notice = read_notice(directory);
}

static enum attempt_cause cause_of_status(int status)
{
    switch (status) {
    case ST_BAD_DATA:
        return CAUSE_BAD_DATA;
    case ST_DIVERGED:
        return CAUSE_DIVERGED;
    case ST_NO_MEMORY:
        return CAUSE_OUT_OF_MEMORY;
    case ST_INVALID:
    case ST_UNSUPPORTED:
    case ST_NOT_FOUND:
        return CAUSE_BAD_JOB;
    default:
        return CAUSE_CRASH;
    }
}

__attribute__((format(printf, 3, 4))) static void conclude(struct evidence *evidence,
                                                           enum attempt_cause cause,
                                                           const char *format, ...)
{
    evidence->cause = cause;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(evidence->text, sizeof evidence->text, format, arguments);
    va_end(arguments);
}

static void conclude_from_rank(const struct rank_end *end, struct evidence *evidence)
{
    evidence->first_rank = (int)end->rank;
    snprintf(evidence->host, sizeof evidence->host, "%s", end->host);
    evidence->goes_back = end->goes_back;
    evidence->rewind_step = end->rewind_step;
    evidence->draw = end->draw;
    conclude(evidence, cause_of_status(end->status), "rank %u: %s", end->rank,
             end->text[0] ? end->text : status_text((enum status)end->status));
}

static void conclude_from_notice(const struct findings *findings, struct evidence *evidence)
{
    const struct notice *notice = &findings->notice;
    evidence->first_rank = notice->rank;
    evidence->signal = notice->signal;
    snprintf(evidence->host, sizeof evidence->host, "%s", notice->host);
    if (notice->signal == SIGKILL && findings->exit.oom_kills > 0)
        conclude(evidence, CAUSE_OUT_OF_MEMORY,
                 "rank %d was killed on %s, where the kernel had no memory left", notice->rank,
                 notice->host);
    else if (notice->signal != 0)
        conclude(evidence, CAUSE_CRASH, "rank %d was ended by signal %d (%s) on %s", notice->rank,
                 notice->signal, strsignal(notice->signal), notice->host);
    else
        conclude(evidence, CAUSE_CRASH, "rank %d ended with exit code %d and left no word",
                 notice->rank, notice->exit_code);
}

static void conclude_from_exit(const struct findings *findings, struct evidence *evidence)
{
    const struct launcher_exit *exit = &findings->exit;
    evidence->signal = exit->signal;
    if (!exit->known && findings->job.text[0] != '\0')
        conclude(evidence, CAUSE_LOST, "%s, and performer-launch left no trace of its end",
                 findings->job.text);
    else if (!exit->known)
        conclude(evidence, CAUSE_LOST, "%s", attempt_cause_words(CAUSE_LOST));
    else if (exit->signal != 0)
        conclude(evidence, CAUSE_CRASH, "mpirun was ended by signal %d (%s)", exit->signal,
                 strsignal(exit->signal));
    else if (exit->exit_code == 0)
        conclude(evidence, CAUSE_CRASH, "mpirun ended well, but only %u of %u ranks left word",
                 findings->ends, findings->ranks);
    else
        conclude(evidence, CAUSE_CRASH, "mpirun ended with exit code %d", exit->exit_code);
}

static bool launcher_failed(const struct findings *findings)
{
    const struct launcher_exit *exit = &findings->exit;
    return findings->notice.not_started ||
           (exit->known && findings->ends == 0 && findings->notice.rank < 0 &&
            (exit->exit_code == EXIT_CANNOT_RUN || exit->exit_code == EXIT_NOT_FOUND));
}

/* Ranks that stopped as they were told to say it all, but for who told them. */
static void conclude_from_stop(const struct findings *findings, struct evidence *evidence)
{
    const struct job_end *job = &findings->job;
    evidence->stopped = true;
    if (job->cause != CAUSE_NONE)
        conclude(evidence, job->cause, "%s; stopped after a checkpoint", job->text);
    else if (findings->exit.passed == SIGUSR2)
        conclude(evidence, CAUSE_TIME_LIMIT, "stopped before its time was up, after a checkpoint");
    else
        conclude(evidence, CAUSE_CANCELLED, "%s", attempt_cause_words(CAUSE_CANCELLED));
}

/* In order of what is known best: the ranks' own words, Slurm's, mpirun's, the exit code, nothing. */
static void judge(const struct findings *findings, struct evidence *evidence)
{
    if (findings->ends_ok == findings->ranks && findings->stopped) {
        conclude_from_stop(findings, evidence);
    } else if (findings->ends_ok == findings->ranks) {
        conclude(evidence, CAUSE_FINISHED, "%s", attempt_cause_words(CAUSE_FINISHED));
    } else if (findings->failed && !is_echo(&findings->first)) {
        conclude_from_rank(&findings->first, evidence);
    } else if (findings->job.cause != CAUSE_NONE) {
        conclude(evidence, findings->job.cause, "%s", findings->job.text);
    } else if (launcher_failed(findings)) {
        conclude(evidence, CAUSE_LAUNCH_FAILED, "%s: see launcher.log",
                 attempt_cause_words(CAUSE_LAUNCH_FAILED));
    } else if (findings->notice.rank >= 0) {
        conclude_from_notice(findings, evidence);
    } else if (findings->failed) {
        conclude_from_rank(&findings->first, evidence);
    } else {
        conclude_from_exit(findings, evidence);
    }
}

/* People's terminals, JSON and the database get no control bytes and nothing but UTF-8. */
static void make_printable(char *text)
{
    utf8_repair(text);
    for (unsigned char *c = (unsigned char *)text; *c != '\0'; c++)
        if ((*c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f) *c = '?';
}

static void quote_log(const char *directory, int rank, struct evidence *evidence)
{
    char name[64], *lines = evidence->last_lines;
    bool whole = true;
    if (rank >= 0) {
        snprintf(name, sizeof name, "rank-%d.log", rank);
        whole = read_tail(directory, name, lines, sizeof evidence->last_lines);
    }
    if (lines[0] == '\0')
        whole = read_tail(directory, "launcher.log", lines, sizeof evidence->last_lines);
    const char *line_end = strchr(lines, '\n');
    if (!whole && line_end) memmove(lines, line_end + 1, strlen(line_end + 1) + 1);
    make_printable(lines);
}

void evidence_read(const char *directory, uint32_t ranks, int suspect, struct evidence *evidence)
{
    struct findings findings;
    collect(directory, ranks, &findings);
    memset(evidence, 0, sizeof *evidence);
    evidence->first_rank = -1;
    evidence->exit_code = findings.exit.exit_code;
    evidence->step = findings.step;
    evidence->ended_ms = findings.ended_ms;
    judge(&findings, evidence);
    make_printable(evidence->text);
    if (suspect >= 0 || (evidence->cause != CAUSE_FINISHED && evidence->cause != CAUSE_CANCELLED))
        quote_log(directory, suspect >= 0 ? suspect : evidence->first_rank, evidence);
}

void evidence_of_lost_node(struct evidence *evidence)
{
    if (evidence->cause != CAUSE_LOST) return;
    conclude(evidence, CAUSE_NODE_LOST, "the machine went down, or was started anew, meanwhile");
}
