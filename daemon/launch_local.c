#include "daemon/launch_local.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <uv.h>

#include "daemon/process.h"
#include "proto/durable.h"

enum { ARGUMENTS_MAX = 40, RECORD_BYTES_MAX = 1 << 16 };

/* A performer-launch that this daemon started. */
struct child {
    uv_process_t handle;
    struct local *local;
    struct child *next;
};

struct local {
    struct attempt_launcher base;
    uv_loop_t *loop;
    launcher_news *news;
    void *context;
    const struct launcher_programs *programs;
    struct child *children;
};

/* launcher.json. */
struct launched {
    struct process process;
    char nonce[64];
};

/*
 * Everything is on this machine: ranks exchange through shared memory (vader), mpirun listens on loopback
 * alone and starts no remote shells, also inside a Slurm allocation. Without "pml ob1" each start spends 0.2 s on
 * looking for fabrics.
 */
static const char *const mpirun_options[] = {
    "--bind-to",  "none",   "--oversubscribe",    "--mca", "pml",   "ob1", "--mca",    "btl",
    "self,vader", "--mca",  "oob_tcp_if_include", "lo",    "--mca", "plm", "isolated", "--mca",
    "ras",        "^slurm",
};

static struct local *local_of(struct attempt_launcher *launcher)
{
    return (struct local *)launcher;
}

static bool read_launched(const char *directory, struct launched *launched)
{
    char path[LAUNCHER_PATH_MAX + 64], *text;
    size_t length;
    snprintf(path, sizeof path, "%s/launcher.json", directory);
    if (file_read(path, RECORD_BYTES_MAX, &text, &length, NULL) != ST_OK) return false;
    json_t *object = json_loadb(text, length, 0, NULL);
    free(text);

    json_int_t pid, start_ticks;
    const char *boot_id, *nonce;
    bool good = object && json_unpack(object, "{s:I, s:I, s:s, s:s}", "pid", &pid, "start_ticks",
                                      &start_ticks, "boot_id", &boot_id, "nonce", &nonce) == 0;
    if (good) {
        launched->process.pid = (pid_t)pid;
        launched->process.start_ticks = (uint64_t)start_ticks;
        snprintf(launched->process.boot_id, sizeof launched->process.boot_id, "%s", boot_id);
        snprintf(launched->nonce, sizeof launched->nonce, "%s", nonce);
    }
    json_decref(object);
    return good && launched->process.pid > 1;
}

static enum launcher_state local_probe(struct attempt_launcher *launcher,
                                       const char *attempt_directory, struct sighting *sighting)
{
    (void)launcher;
    struct launched launched;
    if (launcher_left(attempt_directory, "exit.json")) return LAUNCHER_ENDED;
    if (!read_launched(attempt_directory, &launched)) return LAUNCHER_UNSEEN;
    bool alive = process_is_alive(&launched.process);
    /* It may have written its last word and ended since we looked. */
    if (!alive && launcher_left(attempt_directory, "exit.json")) return LAUNCHER_ENDED;
    if (!alive && process_of_another_boot(&launched.process)) return LAUNCHER_DOWN;
    if (!alive && process_signal_session(&launched.process, launched.nonce, SIGKILL) == 0)
        return LAUNCHER_GONE;
    *sighting =
        (struct sighting){.id = launched.process.pid, .start_ticks = launched.process.start_ticks};
    return LAUNCHER_ALIVE;
}

static void local_signal(struct attempt_launcher *launcher, const char *attempt_directory,
                         int signal)
{
    (void)launcher;
    struct launched launched;
    if (!read_launched(attempt_directory, &launched)) return;
    if (signal == SIGKILL) {
        process_signal_session(&launched.process, launched.nonce, SIGKILL);
        /* Where mpirun was not there yet, performer-launch passes this on as soon as it is. */
        signal = SIGTERM;
    }
    if (process_is_alive(&launched.process)) kill(launched.process.pid, signal);
}

/* performer-launch does it, which is where the ranks are. */
static void local_rescue(struct attempt_launcher *launcher, const char *attempt_directory,
                         uint32_t rank)
{
    (void)launcher;
    struct launched launched;
    if (!read_launched(attempt_directory, &launched)) return;
    const union sigval which = {.sival_int = (int)rank};
    if (process_is_alive(&launched.process)) sigqueue(launched.process.pid, SIGUSR1, which);
}

static void child_free(uv_handle_t *handle)
{
    free(handle->data);
}

static void child_forget(struct child *child)
{
    struct child **link = &child->local->children;
    while (*link != child) link = &(*link)->next;
    *link = child->next;
    uv_close((uv_handle_t *)&child->handle, child_free);
}

static void child_ended(uv_process_t *handle, int64_t exit_status, int signal)
{
    (void)exit_status, (void)signal; /* its files say it, to us as to a later daemon */
    struct child *child = handle->data;
    struct local *local = child->local;
    child_forget(child);
    local->news(local->context);
}

/* The whole command line, NULL behind it; texts are borrowed. */
static void make_arguments(const struct local *local, const struct launch_order *order,
                           const char *ranks, const char *plan, const char **arguments)
{
    int count = 0;
    arguments[count++] = local->programs->launch;
    arguments[count++] = order->attempt_directory;
    arguments[count++] = order->nonce;
    arguments[count++] = "--";
    arguments[count++] = "mpirun";
    if (geteuid() == 0) arguments[count++] = "--allow-run-as-root";
    for (size_t i = 0; i < sizeof mpirun_options / sizeof mpirun_options[0]; i++)
        arguments[count++] = mpirun_options[i];
    arguments[count++] = "-np";
    arguments[count++] = ranks;
    arguments[count++] = local->programs->worker;
    arguments[count++] = "--plan";
    arguments[count++] = plan;
    arguments[count] = NULL;
}

static enum status spawn(struct local *local, const struct launch_order *order, struct fault *fault)
{
    char ranks[16], plan[LAUNCHER_PATH_MAX + 16];
    const char *arguments[ARGUMENTS_MAX];
    snprintf(ranks, sizeof ranks, "%u", order->ranks);
    snprintf(plan, sizeof plan, "%s/plan", order->attempt_directory);
    make_arguments(local, order, ranks, plan, arguments);

    struct child *child = calloc(1, sizeof *child);
    if (!child) return fault_set(fault, ST_NO_MEMORY, "no memory for a launcher");
    child->local = local;
    child->handle.data = child;
    uv_process_options_t options = {
        .file = local->programs->launch,
        .args = (char **)arguments,
        .cwd = order->run_directory,
        .flags = UV_PROCESS_DETACHED,
        .exit_cb = child_ended,
    };
    int error = uv_spawn(local->loop, &child->handle, &options);
    child->next = local->children;
    local->children = child;
    if (error != 0) {
        child_forget(child);
        return fault_errno(fault, -error, "could not run %s", local->programs->launch);
    }
    return ST_OK;
}

static enum status local_start(struct attempt_launcher *launcher, const struct launch_order *order,
                               struct fault *fault)
{
    return spawn(local_of(launcher), order, fault);
}

enum status launch_local_open(struct uv_loop_s *loop, const struct launcher_programs *programs,
                              launcher_news *news, void *context,
                              struct attempt_launcher **launcher, struct fault *fault)
{
    struct local *local = calloc(1, sizeof *local);
    if (!local) return fault_set(fault, ST_NO_MEMORY, "no memory for a launcher");
    local->base = (struct attempt_launcher){
        .start = local_start, .probe = local_probe, .signal = local_signal, .rescue = local_rescue};
    local->loop = loop;
    local->programs = programs;
    local->news = news;
    local->context = context;
    *launcher = &local->base;
    return ST_OK;
}

void launch_local_close(struct attempt_launcher *launcher)
{
    if (!launcher) return;
    struct local *local = local_of(launcher);
    while (local->children) child_forget(local->children);
    free(local);
}
