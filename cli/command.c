#include "cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/quantity.h"

extern char **environ;

/* In a process group of its own, so that all of it can be ended; stdin is empty. */
static int spawn(const char *const argv[], int out, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    int error = posix_spawnp(pid, argv[0], &actions, &attributes, (char *const *)argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* Until the end of its output. False: the time is over. What does not fit is read and dropped. */
static bool read_output(int fd, int timeout_ms, char output[COMMAND_OUTPUT_MAX])
{
    uint64_t end_ms = clock_monotonic_ms() + (uint64_t)timeout_ms;
    size_t used = 0;
    char bytes[512];

    output[0] = '\0';
    for (;;) {
        uint64_t now_ms = clock_monotonic_ms();
        struct pollfd end = {.fd = fd, .events = POLLIN};
        if (now_ms >= end_ms || poll(&end, 1, (int)(end_ms - now_ms)) == 0) return false;
        ssize_t count = read(fd, bytes, sizeof bytes);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return true;
        for (ssize_t i = 0; i < count && used + 1 < COMMAND_OUTPUT_MAX; i++)
            output[used++] = bytes[i];
        output[used] = '\0';
    }
}

enum status command_run(const char *const argv[], int timeout_ms, struct command_result *result,
                        struct fault *fault)
{
    struct command_result ran;
    int ends[2], ended;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0) return fault_errno(fault, errno, "could not make a pipe");
    int error = spawn(argv, ends[1], &pid);
    close(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return fault_errno(fault, error, "could not start %s", argv[0]);
    }
    bool in_time = read_output(ends[0], timeout_ms, ran.output);
    if (!in_time) kill(-pid, SIGKILL);
    close(ends[0]);
    while (waitpid(pid, &ended, 0) < 0 && errno == EINTR) continue;
    if (!in_time)
        return fault_set(fault, ST_TIMED_OUT, "%s did not end within %s", argv[0],
                         span_text(timeout_ms).text);
    ran.exit_code = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
    *result = ran;
    return ST_OK;
}
