#include "daemon/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What we need of /proc/PID/stat. */
struct stat_line {
    char state;
    pid_t parent, session;
    uint64_t start_ticks;
};

/* Reads a file of /proc, cut at `size` - 1 bytes and ended by a NUL. Its length, or -1. */
static ssize_t read_proc(const char *path, char *bytes, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    size_t length = 0;
    ssize_t got;
    while (length < size - 1 && (got = read(file, bytes + length, size - 1 - length)) > 0)
        length += (size_t)got;
    close(file);
    bytes[length] = '\0';
    return (ssize_t)length;
}

static bool read_stat(pid_t pid, struct stat_line *line)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_proc(path, text, sizeof text) <= 0) return false;

    /* The second field is the program's name in parentheses and may hold anything. */
    const char *rest = strrchr(text, ')');
    if (!rest) return false;
    int parent, session;
    int found = sscanf(rest + 1,
                       " %c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d"
                       " %" SCNu64,
                       &line->state, &parent, &session, &line->start_ticks);
    line->parent = parent;
    line->session = session;
    return found == 4;
}

static bool is_dead(const struct stat_line *line)
{
    return line->state == 'Z' || line->state == 'X';
}

static bool read_boot_id(char *boot_id, size_t size)
{
    if (read_proc("/proc/sys/kernel/random/boot_id", boot_id, size) <= 0) return false;
    boot_id[strcspn(boot_id, "\n")] = '\0';
    return true;
}

enum status process_identify(pid_t pid, struct process *process, struct fault *fault)
{
    struct process found = {.pid = pid};
    struct stat_line line;
    if (!read_stat(pid, &line) || is_dead(&line))
        return fault_set(fault, ST_NOT_FOUND, "there is no process %d", (int)pid);
    if (!read_boot_id(found.boot_id, sizeof found.boot_id))
        return fault_set(fault, ST_SYSTEM, "could not read the boot id: is /proc mounted?");
    found.start_ticks = line.start_ticks;
    *process = found;
    return ST_OK;
}

bool process_is_alive(const struct process *process)
{
    struct process now;
    return process_identify(process->pid, &now, NULL) == ST_OK &&
           now.start_ticks == process->start_ticks && strcmp(now.boot_id, process->boot_id) == 0;
}

bool process_of_another_boot(const struct process *process)
{
    char boot_id[sizeof process->boot_id];
    return read_boot_id(boot_id, sizeof boot_id) && strcmp(boot_id, process->boot_id) != 0;
}

/* Of a file of lines NAME NUMBER; 0: it has no such line. */
static uint64_t read_count(const char *path, const char *name)
{
    char text[1024];
    if (read_proc(path, text, sizeof text) <= 0) return 0;
    const size_t length = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            return strtoull(line + length, NULL, 10);
    }
    return 0;
}

/* A line of /proc/self/cgroup is ID:CONTROLLERS:PATH; that of version 2 names no controllers. */
static uint64_t oom_kills_of(char *line)
{
    char path[4096 + 64], *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return 0;
    *group++ = '\0';
    const bool first = strcmp(controllers + 1, "memory") == 0;
    if (!first && controllers[1] != '\0') return 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s%s/%s", first ? "/memory" : "", group,
             first ? "memory.oom_control" : "memory.events");
    return read_count(path, "oom_kill");
}

uint64_t process_oom_kills(void)
{
    char text[4096], *rest = NULL;
    uint64_t kills = 0;
    if (read_proc("/proc/self/cgroup", text, sizeof text) <= 0) return 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        kills += oom_kills_of(line);
    return kills;
}

/* Told of every process there is; true counts it. */
typedef bool process_visitor(void *context, pid_t pid, const struct stat_line *line);

static int visit_all(process_visitor *visitor, void *context)
{
    DIR *proc = opendir("/proc");
    if (!proc) return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(proc));) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        struct stat_line line;
        if (pid <= 0 || *end != '\0' || !read_stat((pid_t)pid, &line) || is_dead(&line)) continue;
        if (visitor(context, (pid_t)pid, &line)) count++;
    }
    closedir(proc);
    return count;
}

struct children {
    pid_t parent;
    int signal;
};

static bool signal_child(void *context, pid_t pid, const struct stat_line *line)
{
    const struct children *children = context;
    if (line->parent != children->parent) return false;
    kill(pid, children->signal);
    return true;
}

int process_signal_children(pid_t parent, int signal)
{
    return visit_all(signal_child, &(struct children){parent, signal});
}

/* The value of the variable in the process's environment as it was when it started, cut to `size`; false: there is none. */
static bool read_variable(pid_t pid, const char *name, char *value, size_t size)
{
    enum { ENVIRONMENT_MAX = 1 << 20 };
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    char *text = malloc(ENVIRONMENT_MAX);
    if (!text) return false;
    ssize_t length = read_proc(path, text, ENVIRONMENT_MAX);
    size_t name_length = strlen(name);
    bool found = false;
    for (ssize_t i = 0; i < length && !found; i += (ssize_t)strlen(text + i) + 1) {
        found = strncmp(text + i, name, name_length) == 0 && text[i + (ssize_t)name_length] == '=';
        if (found) snprintf(value, size, "%s", text + i + name_length + 1);
    }
    free(text);
    return found;
}

struct session {
    const struct process *leader;
    const char *nonce;
    int signal;
    process_rank_visitor *visitor;
    void *context;
};

static bool is_member(const struct session *session, pid_t pid, const struct stat_line *line)
{
    char nonce[256];
    if (line->session != session->leader->pid || pid == session->leader->pid) return false;
    return read_variable(pid, PROCESS_NONCE_VARIABLE, nonce, sizeof nonce) &&
           strcmp(nonce, session->nonce) == 0;
}

static bool signal_member(void *context, pid_t pid, const struct stat_line *line)
{
    const struct session *session = context;
    if (!is_member(session, pid, line)) return false;
    if (session->signal != 0) kill(pid, session->signal);
    return true;
}

static bool show_rank(void *context, pid_t pid, const struct stat_line *line)
{
    const struct session *session = context;
    char rank[16];
    if (!is_member(session, pid, line)) return false;
    if (!read_variable(pid, PROCESS_RANK_VARIABLE, rank, sizeof rank)) return false;
    session->visitor(session->context, (uint32_t)strtoul(rank, NULL, 10), pid);
    return true;
}

int process_signal_session(const struct process *leader, const char *nonce, int signal)
{
    if (process_of_another_boot(leader)) return 0;
    struct session session = {.leader = leader, .nonce = nonce, .signal = signal};
    return visit_all(signal_member, &session);
}

void process_visit_ranks(const struct process *leader, const char *nonce,
                         process_rank_visitor *visitor, void *context)
{
    struct session session = {
        .leader = leader, .nonce = nonce, .visitor = visitor, .context = context};
    if (!process_of_another_boot(leader)) visit_all(show_rank, &session);
}
