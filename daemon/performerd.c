/*
 * performerd: takes its state directory, opens the store, gives the coordinator back what it had decided, and
 * then lets the loop call: the endpoint with requests, a timer with time, the launcher with ends.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uv.h>

#include "daemon/clock.h"
#include "daemon/doors.h"
#include "daemon/driver.h"
#include "daemon/endpoint.h"
#include "daemon/launch_local.h"
#include "daemon/launch_slurm.h"
#include "daemon/options.h"
#include "daemon/query.h"
#include "proto/durable.h"
#include "proto/logline.h"

enum { EXIT_USAGE = 2 };

struct daemon {
    const struct options *options;
    struct state_directory directory;
    struct store *store;
    struct store *reader;    /* the same, for questions */
    pthread_mutex_t reading; /* of the coordinator, by questions; held while it changes */
    struct coordinator coordinator;
    struct driver driver;
    struct launcher_programs programs;
    struct attempt_launcher *launchers[LAUNCHERS];
    struct endpoint *endpoint;
    struct doors doors;
    uint64_t started_ms;
    uv_loop_t loop;
    uv_timer_t timer;
    uv_signal_t terminate, interrupt;
};

/* ---- what the loop calls ---- */

static void tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    driver_tick(&daemon->driver);
}

/* Soon, but not inside of what is being done now. */
static void tick_soon(struct daemon *daemon)
{
    uv_timer_start(&daemon->timer, tick, 0, TICK_MS);
}

static void launcher_news_came(void *context)
{
    tick_soon(context);
}

/* Reports are a rank's, by the token of its attempt, which is good for nothing else. */
static enum status identify(void *context, const struct peer *peer,
                            const Performer__Request *request, struct caller *caller)
{
    const struct daemon *daemon = context;
    if (request->body_case != PERFORMER__REQUEST__BODY_REPORT)
        return access_identify(daemon->doors.access, peer, request->token, caller);
    const Performer__Report *report = request->report;
    *caller = (struct caller){0};
    return coordinator_admits(&daemon->coordinator, report->run, report->attempt, request->token)
               ? ST_OK
               : ST_NOT_PERMITTED;
}

static bool is_question(const Performer__Request *request)
{
    switch (request->body_case) {
    case PERFORMER__REQUEST__BODY_SUBMIT:
    case PERFORMER__REQUEST__BODY_ACT:
    case PERFORMER__REQUEST__BODY_REPORT:
        return false;
    default:
        return true;
    }
}

static size_t answer(void *context, struct asked *asked, size_t count)
{
    struct daemon *daemon = context;
    if (asked->request->body_case != PERFORMER__REQUEST__BODY_REPORT)
        tick_soon(daemon); /* there may be something to begin */
    return driver_answer(&daemon->driver, asked, count);
}

/* On the endpoint's thread: it sees the coordinator between two decisions, and through a connection of its own the store. */
static Performer__Response *answer_question(void *context, const struct caller *caller,
                                            const Performer__Request *request)
{
    struct daemon *daemon = context;
    uint64_t now_ms = clock_now_ms();
    struct query_view view = {
        .coordinator = &daemon->coordinator,
        .store = daemon->reader,
        .directory = &daemon->directory,
        .caller = caller,
        .now_ms = now_ms,
        .uptime_ms = now_ms - daemon->started_ms,
        .frames_rejected = request->body_case == PERFORMER__REQUEST__BODY_PING
                               ? endpoint_frames_rejected(daemon->endpoint)
                               : 0,
    };
    pthread_mutex_lock(&daemon->reading);
    Performer__Response *response = query_answer(&view, request);
    pthread_mutex_unlock(&daemon->reading);
    return response;
}

/* Everything that keeps the loop running is closed; what was started lives on. */
static void stop_loop(struct daemon *daemon)
{
    endpoint_close(daemon->endpoint);
    daemon->endpoint = NULL;
    launch_local_close(daemon->launchers[LAUNCHER_LOCAL]);
    daemon->launchers[LAUNCHER_LOCAL] = NULL;
    launch_slurm_close(daemon->launchers[LAUNCHER_SLURM]);
    daemon->launchers[LAUNCHER_SLURM] = NULL;
    uv_close((uv_handle_t *)&daemon->timer, NULL);
    uv_close((uv_handle_t *)&daemon->terminate, NULL);
    uv_close((uv_handle_t *)&daemon->interrupt, NULL);
}

static void stop_asked(uv_signal_t *handle, int signal)
{
    log_info("daemon-stopping", "asked to by signal %d (%s); runs go on", signal,
             strsignal(signal));
    stop_loop(handle->data);
}

/* ---- start ---- */

static enum status open_loop(struct daemon *daemon, struct fault *fault)
{
    int error = uv_loop_init(&daemon->loop);
    if (error != 0) return fault_errno(fault, -error, "could not make an event loop");
    uv_timer_init(&daemon->loop, &daemon->timer);
    uv_signal_init(&daemon->loop, &daemon->terminate);
    uv_signal_init(&daemon->loop, &daemon->interrupt);
    daemon->timer.data = daemon->terminate.data = daemon->interrupt.data = daemon;
    uv_signal_start(&daemon->terminate, stop_asked, SIGTERM);
    uv_signal_start(&daemon->interrupt, stop_asked, SIGINT);
    return ST_OK;
}

static enum status open_store(struct daemon *daemon, struct fault *fault)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/performerd.db", daemon->directory.path);
    enum status status = store_open(path, &daemon->store, fault);
    if (status != ST_OK) return status;
    coordinator_init(&daemon->coordinator, daemon->options->ranks_max);
    status = store_load(daemon->store, &daemon->coordinator, clock_now_ms(), fault);
    if (status == ST_OK) status = store_open_reader(path, &daemon->reader, fault);
    if (status == ST_OK) return ST_OK;
    coordinator_fini(&daemon->coordinator);
    store_close(daemon->store);
    return status;
}

/* The endpoint comes last: a request is never answered before everything is there. */
static enum status open_edges(struct daemon *daemon, struct fault *fault)
{
    const struct endpoint_service service = {.context = daemon,
                                             .limits = &endpoint_limits,
                                             .is_question = is_question,
                                             .identify = identify,
                                             .answer = answer,
                                             .question = answer_question};
    enum status status = launch_local_open(&daemon->loop, &daemon->programs, launcher_news_came,
                                           daemon, &daemon->launchers[LAUNCHER_LOCAL], fault);
    if (status == ST_OK)
        status = launch_slurm_open(&daemon->loop, &daemon->programs, launcher_news_came, daemon,
                                   &daemon->launchers[LAUNCHER_SLURM], fault);
    if (status == ST_OK) status = endpoint_open(&daemon->loop, &service, &daemon->endpoint, fault);
    if (status == ST_OK) status = doors_listen(&daemon->doors, daemon->endpoint, fault);
    return status;
}

/* From here on a daemon in the background has no terminal, and its log lines go to STATE/performerd.log. */
static void leave_terminal(const struct daemon *daemon)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/performerd.log", daemon->directory.path);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) {
        log_warn("no-log-file", "could not open %s: %s; log lines are dropped", path,
                 strerror(errno));
        log = open("/dev/null", O_WRONLY | O_CLOEXEC);
    }
    if (log < 0) return;
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close(log);
}

static void say_ready(const struct daemon *daemon, int ready)
{
    log_info("daemon-ready", "%s, state in %s, at most %u ranks at once", daemon->doors.urls[0],
             daemon->directory.path, daemon->coordinator.ranks_max);
    dprintf(ready, "performerd ready %s\n", daemon->doors.urls[0]);
    if (!daemon->options->foreground) close(ready);
}

static enum status run_until_stopped(struct daemon *daemon, int ready, struct fault *fault)
{
    enum status status = open_loop(daemon, fault);
    if (status != ST_OK) return status;
    status = launcher_programs_find(&daemon->programs, fault);
    if (status == ST_OK) status = open_edges(daemon, fault);
    if (status == ST_OK) {
        daemon->driver = (struct driver){
            .coordinator = &daemon->coordinator,
            .store = daemon->store,
            .directory = &daemon->directory,
            .launchers = {[LAUNCHER_LOCAL] = daemon->launchers[LAUNCHER_LOCAL],
                          [LAUNCHER_SLURM] = daemon->launchers[LAUNCHER_SLURM]},
            .local = daemon->doors.local,
            .remote = daemon->doors.remote,
            .reading = &daemon->reading,
        };
        if (!daemon->options->foreground) leave_terminal(daemon);
        driver_start(&daemon->driver);
        tick_soon(daemon);
        say_ready(daemon, ready);
    } else {
        stop_loop(daemon);
    }
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    uv_loop_close(&daemon->loop);
    driver_stop(&daemon->driver);
    return status;
}

/* `ready` is where the line goes that says so. */
static enum status serve(const struct options *options, int ready, struct fault *fault)
{
    static struct daemon daemon;
    pthread_mutex_init(&daemon.reading, NULL);
    daemon.options = options;
    daemon.started_ms = clock_now_ms();
    enum status status =
        state_directory_open(options->state, options->runs, &daemon.directory, fault);
    if (status != ST_OK) return status;
    status = doors_open(options, daemon.directory.path, &daemon.doors, fault);
    if (status != ST_OK) goto close_directory;
    status = open_store(&daemon, fault);
    if (status != ST_OK) goto close_doors;
    status = run_until_stopped(&daemon, ready, fault);
    coordinator_fini(&daemon.coordinator);
    store_close(daemon.reader);
    store_close(daemon.store);
close_doors:
    doors_close(&daemon.doors);
close_directory:
    state_directory_close(&daemon.directory);
    return status;
}

static int serve_and_say(const struct options *options, int ready)
{
    struct fault fault;
    enum status status = serve(options, ready, &fault);
    if (status == ST_OK) return EXIT_SUCCESS;
    log_error("daemon-failed", "%s", fault.text);
    return EXIT_FAILURE;
}

/* The parent of a daemon in the background: says that it is ready, or ends as it ended. */
static int wait_until_ready(pid_t pid, int ready)
{
    char line[PATH_MAX];
    ssize_t length, total = 0;
    while (total < (ssize_t)sizeof line &&
           (length = read(ready, line + total, sizeof line - (size_t)total)) > 0)
        total += length;
    if (total > 0) {
        printf("%.*s", (int)total, line);
        return EXIT_SUCCESS;
    }
    int wait_status;
    bool known = waitpid(pid, &wait_status, 0) == pid && WIFEXITED(wait_status);
    return known && WEXITSTATUS(wait_status) != 0 ? WEXITSTATUS(wait_status) : EXIT_FAILURE;
}

/* Before anything that has threads or locks. */
static int serve_in_background(const struct options *options)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0) {
        log_error("daemon-failed", "could not make a pipe: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    pid_t pid = fork();
    if (pid < 0) {
        log_error("daemon-failed", "could not make a process: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    if (pid > 0) {
        close(ready[1]);
        return wait_until_ready(pid, ready[0]);
    }
    close(ready[0]);
    setsid();
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    return serve_and_say(options, ready[1]);
}

int main(int argc, char **argv)
{
    struct options options;
    struct fault fault;
    if (options_parse(argc, argv, &options, &fault) != ST_OK) {
        fprintf(stderr, "performerd: %s\n", fault.text);
        return EXIT_USAGE;
    }
    if (options.help) {
        options_help(stdout);
        return EXIT_SUCCESS;
    }
    if (options.version) {
        printf("performerd %s\n", PERFORMERD_VERSION);
        return EXIT_SUCCESS;
    }
    log_context("performerd");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    umask(077);
    unsetenv("PERFORMERD_TOKEN"); /* a person's: not for ranks, which inherit what is ours */
    unsetenv("PERFORMERD_TOKEN_FILE");
    return options.foreground ? serve_and_say(&options, STDOUT_FILENO)
                              : serve_in_background(&options);
}
