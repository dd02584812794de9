#include "daemon/stack_dump.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/process.h"
#include "proto/logline.h"

enum {
    DEBUGGER_MS_MAX =
        5000, /* half of STALL_GRACE_MS (stall.h): ranks are asked to end afterwards */
    LOOK_MS = 20,
    FIELD_BYTES = 256,
};

/* The first line of a file of a thread; "?" where it cannot be read. */
static void read_field(pid_t pid, const char *thread, const char *name, char *field)
{
    char path[128];
    snprintf(path, sizeof path, "/proc/%d/task/%s/%s", (int)pid, thread, name);
    strcpy(field, "?");
    FILE *file = fopen(path, "re");
    if (!file) return;
    if (!fgets(field, FIELD_BYTES, file)) strcpy(field, "?");
    fclose(file);
    field[strcspn(field, "\n")] = '\0';
}

static void say_thread(pid_t pid, const char *thread)
{
    char stat[FIELD_BYTES], name[FIELD_BYTES], function[FIELD_BYTES], call[FIELD_BYTES];
    read_field(pid, thread, "stat", stat);
    read_field(pid, thread, "comm", name);
    read_field(pid, thread, "wchan", function);
    read_field(pid, thread, "syscall", call);
    const char *rest = strrchr(stat, ')'); /* the name before it may hold anything */
    call[strcspn(call, " ")] = '\0';
    log_warn("stack-dump", "thread %s (%s): state %c, in kernel function %s, system call %s",
             thread, name, rest && rest[1] == ' ' ? rest[2] : '?',
             strcmp(function, "0") == 0 ? "none" : function, call);
}

static void say_threads(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *threads = opendir(path);
    if (!threads) {
        log_warn("stack-dump", "process %d: %s", (int)pid, strerror(errno));
        return;
    }
    for (struct dirent *entry; (entry = readdir(threads));)
        if (entry->d_name[0] != '.') say_thread(pid, entry->d_name);
    closedir(threads);
}

/* The child's side: all that it says goes into the log. */
static _Noreturn void dump(pid_t pid, const char *log)
{
    char target[16];
    int file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) _exit(EXIT_FAILURE);
    dup2(file, STDOUT_FILENO);
    dup2(file, STDERR_FILENO);
    say_threads(pid);
    snprintf(target, sizeof target, "%d", (int)pid);
    setenv("DEBUGINFOD_URLS", "", 1); /* nothing is fetched */
    execlp("gdb", "gdb", "-p", target, "-batch", "-nx", "-ex", "thread apply all backtrace 40",
           (char *)NULL);
    execlp("eu-stack", "eu-stack", "-p", target, (char *)NULL);
    log_warn("stack-dump", "no stacks: neither gdb nor eu-stack is installed here");
    _exit(EXIT_FAILURE);
}

void stack_dump(pid_t pid, const char *log)
{
    pid_t child = fork();
    if (child == 0) dump(pid, log);
    if (child < 0) return;
    for (int waited_ms = 0; waitpid(child, NULL, WNOHANG) == 0; waited_ms += LOOK_MS) {
        if (waited_ms >= DEBUGGER_MS_MAX) kill(child, SIGKILL);
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}
