/*
 * performer-launch ATTEMPT_DIR NONCE -- COMMAND...
 *
 * Runs the launcher of one attempt (mpirun) so that the attempt outlives the daemon and its end leaves
 * evidence. In this order:
 *
 *  1. a session of its own, no input, output appended to launcher.log;
 *  2. launcher.json, durable: from here on a daemon can find and end this process;
 *  3. the fence is read. A daemon raises a new fence first and looks for launcher.json afterwards, so of two
 *     attempts that cross, at least one sees the other;
 *  4. the command, with attempt-A/environment in its own. It gets SIGKILL when this process dies; TERM, INT and USR2, by which
 *     Slurm tells that the time limit is near, are passed on to it. USR1, sent with the number of a rank that stands still,
 *     has its stacks written into its log and asks all ranks to save and end;
 *  5. orphans: what the command left behind becomes our child. It has a moment to end, then SIGKILL;
 *  6. exit.json, durable: nothing of this attempt runs on this machine any more.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "daemon/environment.h"
#include "daemon/process.h"
#include "daemon/stack_dump.h"
#include "proto/durable.h"
#include "proto/logline.h"

enum {
    ORPHAN_GRACE_MS = 3000, /* ranks whose mpirun was killed need 1.2 s to notice */
    ORPHAN_LOOK_MS = 50,
    EXIT_USAGE = 2,
    EXIT_CANNOT_RUN = 126, /* as a shell says it */
    EXIT_NOT_FOUND = 127,
};

struct launch {
    const char *directory; /* of the attempt */
    const char *nonce;
    char **command;
};

/* How the command ended, as exit.json tells it. */
struct ending {
    int exit_code;      /* 128 + signal where a signal ended it */
    int signal;         /* 0: none */
    uint64_t oom_kills; /* by the kernel, meanwhile, in this memory cgroup */
    int passed;         /* the first signal that we passed on, 0: none */
};

static bool launch_parse(int argc, char **argv, struct launch *launch)
{
    if (argc < 5 || strcmp(argv[3], "--") != 0) return false;
    *launch = (struct launch){.directory = argv[1], .nonce = argv[2], .command = argv + 4};
    return true;
}

static int64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Input from nowhere, output to launcher.log. No descriptor of the daemon stays open. */
static enum status redirect(const struct launch *launch, struct fault *fault)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/launcher.log", launch->directory);
    int output = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (output < 0) return fault_errno(fault, errno, "could not open %s", path);
    int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input < 0) {
        int error = errno;
        close(output);
        return fault_errno(fault, error, "could not open /dev/null");
    }
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, 0);
    return ST_OK;
}

/* Takes the reference of `object`, writes it as attempt-A/`name`. */
static enum status write_json(const struct launch *launch, const char *name, json_t *object,
                              struct fault *fault)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) return fault_set(fault, ST_NO_MEMORY, "no memory for %s", name);

    char path[4096];
    snprintf(path, sizeof path, "%s/%s", launch->directory, name);
    enum status status = durable_write(path, text, strlen(text), fault);
    free(text);
    return status;
}

/* An attempt is launched once: its files are evidence, and two would spoil each other's. */
static enum status check_unused(const struct launch *launch, struct fault *fault)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/launcher.json", launch->directory);
    if (access(path, F_OK) != 0) return ST_OK;
    return fault_set(fault, ST_REFUSED, "this attempt has been launched before: %s", path);
}

static enum status write_launcher(const struct launch *launch, struct fault *fault)
{
    struct process self;
    enum status status = process_identify(getpid(), &self, fault);
    if (status != ST_OK) return status;
    return write_json(launch, "launcher.json",
                      json_pack("{s:I, s:I, s:s, s:s, s:I}", "pid", (json_int_t)self.pid,
                                "start_ticks", (json_int_t)self.start_ticks, "boot_id",
                                self.boot_id, "nonce", launch->nonce, "time_ms",
                                (json_int_t)wall_ms()),
                      fault);
}

static enum status write_exit(const struct launch *launch, const struct ending *ending,
                              struct fault *fault)
{
    return write_json(launch, "exit.json",
                      json_pack("{s:i, s:i, s:i, s:I, s:I, s:s}", "exit_code", ending->exit_code,
                                "signal", ending->signal, "passed", ending->passed, "oom_kills",
                                (json_int_t)ending->oom_kills, "time_ms", (json_int_t)wall_ms(),
                                "nonce", launch->nonce),
                      fault);
}

/* ST_FENCED where RUN/fence holds another nonce than ours. */
static enum status check_fence(const struct launch *launch, struct fault *fault)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/../fence", launch->directory);
    char *nonce;
    size_t length;
    enum status status = file_read(path, 256, &nonce, &length, fault);
    if (status != ST_OK) return status;
    nonce[strcspn(nonce, "\n")] = '\0';
    if (strcmp(nonce, launch->nonce) != 0)
        status = fault_set(fault, ST_FENCED, "a newer attempt has taken over, this one is not run");
    free(nonce);
    return status;
}

/* The child's side: a death signal, the signals as they were, the command. */
static _Noreturn void run_command(const struct launch *launch, pid_t parent, const sigset_t *mask)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(EXIT_CANNOT_RUN); /* it died before we could ask */
    sigprocmask(SIG_SETMASK, mask, NULL);
    setenv(PROCESS_NONCE_VARIABLE, launch->nonce, 1);
    execvp(launch->command[0], launch->command);
    int error = errno;
    log_error("launch-failed", "could not run %s: %s", launch->command[0], strerror(error));
    _exit(error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static struct ending ending_from_wait(int wait_status)
{
    if (WIFSIGNALED(wait_status))
        return (struct ending){.exit_code = 128 + WTERMSIG(wait_status),
                               .signal = WTERMSIG(wait_status)};
    return (struct ending){.exit_code = WEXITSTATUS(wait_status)};
}

/* Reaps whoever is dead. True once `pid` was among them. */
static bool reap(pid_t pid, struct ending *ending)
{
    bool found = false;
    int wait_status;
    for (pid_t dead; (dead = waitpid(-1, &wait_status, WNOHANG)) > 0;) {
        if (dead != pid) continue;
        *ending = ending_from_wait(wait_status);
        found = true;
    }
    return found;
}

struct rescue {
    const struct launch *launch;
    uint32_t rank;
};

static void dump_rank(void *context, uint32_t rank, pid_t pid)
{
    const struct rescue *rescue = context;
    char log[4096];
    if (rank != rescue->rank) return;
    snprintf(log, sizeof log, "%s/rank-%u.log", rescue->launch->directory, rank);
    stack_dump(pid, log);
}

static void ask_rank(void *context, uint32_t rank, pid_t pid)
{
    (void)context, (void)rank;
    kill(pid, SIGTERM);
}

/* The stacks first, while nothing has moved. Ranks alone are asked: mpirun would kill them. */
static void rescue(const struct launch *launch, uint32_t rank)
{
    struct process self;
    struct rescue rescue = {launch, rank};
    if (process_identify(getpid(), &self, NULL) != ST_OK) return;
    process_visit_ranks(&self, launch->nonce, dump_rank, &rescue);
    process_visit_ranks(&self, launch->nonce, ask_rank, NULL);
}

/* Waits for the command and passes on what concerns it. */
static struct ending attend(const struct launch *launch, pid_t pid, const sigset_t *signals)
{
    struct ending ending = {0};
    int passed = 0;
    for (;;) {
        siginfo_t told;
        int signal = sigwaitinfo(signals, &told);
        if (signal == SIGTERM || signal == SIGINT || signal == SIGUSR2) {
            kill(pid, signal);
            if (passed == 0) passed = signal;
        }
        if (signal == SIGUSR1) rescue(launch, (uint32_t)told.si_value.sival_int);
        if (!reap(pid, &ending)) continue;
        ending.passed = passed;
        return ending;
    }
}

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

/* Ends the ranks that lost their mpirun: they came to us, since we are their subreaper. */
static void end_orphans(void)
{
    for (int waited_ms = 0;; waited_ms += ORPHAN_LOOK_MS) {
        pid_t dead = waitpid(-1, NULL, WNOHANG);
        if (dead < 0) return;
        if (dead > 0) continue;
        if (waited_ms >= ORPHAN_GRACE_MS) process_signal_children(getpid(), SIGKILL);
        sleep_ms(ORPHAN_LOOK_MS);
    }
}

static enum status run(const struct launch *launch, struct ending *ending, struct fault *fault)
{
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGUSR2);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, &before);

    const uint64_t oom_kills = process_oom_kills();
    pid_t self = getpid(), pid = fork();
    if (pid < 0) return fault_errno(fault, errno, "could not make a process");
    if (pid == 0) run_command(launch, self, &before);

    *ending = attend(launch, pid, &signals);
    end_orphans();
    ending->oom_kills = process_oom_kills() - oom_kills;
    return ST_OK;
}

/* All of it; a fault on the way becomes the ending that exit.json tells of. */
static enum status launch_attempt(const struct launch *launch, struct ending *ending,
                                  struct fault *fault)
{
    enum status status = check_unused(launch, fault);
    if (status == ST_OK) status = write_launcher(launch, fault);
    if (status != ST_OK) return status;

    struct fault reason;
    status = check_fence(launch, &reason);
    if (status == ST_OK) status = environment_load(launch->directory, &reason);
    if (status == ST_OK) status = run(launch, ending, &reason);
    if (status != ST_OK) {
        log_error("launch-failed", "%s", reason.text);
        *ending = (struct ending){.exit_code = EXIT_CANNOT_RUN};
    }
    return write_exit(launch, ending, fault);
}

int main(int argc, char **argv)
{
    struct launch launch;
    if (!launch_parse(argc, argv, &launch)) {
        fprintf(stderr, "usage: performer-launch ATTEMPT_DIR NONCE -- COMMAND...\n");
        return EXIT_USAGE;
    }
    log_context("performer-launch");
    setsid(); /* fails only where the daemon has made us a leader already */
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    struct fault fault;
    struct ending ending = {0};
    enum status status = redirect(&launch, &fault);
    if (status == ST_OK) status = launch_attempt(&launch, &ending, &fault);
    if (status != ST_OK) {
        log_error("launch-evidence", "%s", fault.text);
        return EXIT_CANNOT_RUN;
    }
    return ending.exit_code;
}
