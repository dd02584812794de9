#include "daemon/process.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char nonce[] = "0123456789abcdef";

/* A session leader with `members` children of its own, which carry the nonce; all wait for a signal. */
static pid_t make_session(int members)
{
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t leader = fork();
    if (leader == 0) {
        setsid();
        setenv(PROCESS_NONCE_VARIABLE, nonce, 1);
        for (int i = 0; i < members; i++) {
            if (fork() != 0) continue;
            /* what mpirun does to its ranks, and an exec, so that the environment is theirs */
            setpgid(0, 0);
            execlp("sleep", "sleep", "1000", NULL);
            _exit(1);
        }
        write(ready[1], "x", 1);
        for (;;) pause();
    }
    char byte;
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return leader;
}

/* The count, once it is what it should be or a while has passed: fork and exec take a moment. */
static int count_members(const struct process *leader, int expected)
{
    int count = -1;
    for (int tries = 0; tries < 500 && count != expected; tries++) {
        count = process_signal_session(leader, nonce, 0);
        usleep(10000);
    }
    return count;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

Test(process, is_itself)
{
    struct process self;
    struct fault fault;
    cr_assert_eq(process_identify(getpid(), &self, &fault), ST_OK);
    cr_assert(process_is_alive(&self));
    cr_assert_gt(self.start_ticks, 0);
    cr_assert_eq(strlen(self.boot_id), 36);
}

Test(process, another_start_or_boot_is_another_process)
{
    struct process self, other;
    cr_assert_eq(process_identify(getpid(), &self, NULL), ST_OK);
    other = self;
    other.start_ticks++;
    cr_assert_not(process_is_alive(&other));
    other = self;
    other.boot_id[0] = other.boot_id[0] == 'x' ? 'y' : 'x';
    cr_assert_not(process_is_alive(&other));
}

Test(process, a_zombie_is_dead)
{
    struct process child;
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) pause();
    }
    cr_assert_eq(process_identify(pid, &child, NULL), ST_OK);
    kill(pid, SIGKILL);
    siginfo_t info;
    cr_assert_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    cr_assert_not(process_is_alive(&child));
    cr_assert_eq(process_identify(pid, &child, NULL), ST_NOT_FOUND);
    waitpid(pid, NULL, 0);
    struct fault fault;
    cr_assert_eq(process_identify(pid, &child, &fault), ST_NOT_FOUND);
}

Test(process, a_session_is_found_and_ended_without_its_leader)
{
    struct process leader;
    pid_t pid = make_session(3);
    cr_assert_eq(process_identify(pid, &leader, NULL), ST_OK);
    cr_assert_eq(count_members(&leader, 3), 3);
    cr_assert_eq(process_signal_session(&leader, nonce, SIGKILL), 3);
    cr_assert_eq(count_members(&leader, 0), 0);
    cr_assert(process_is_alive(&leader));
    end(pid);
}

Test(process, a_session_outlives_its_leader)
{
    struct process leader;
    pid_t pid = make_session(2);
    cr_assert_eq(process_identify(pid, &leader, NULL), ST_OK);
    cr_assert_eq(count_members(&leader, 2), 2);
    end(pid);
    cr_assert_not(process_is_alive(&leader));
    cr_assert_eq(process_signal_session(&leader, nonce, SIGKILL), 2);
    cr_assert_eq(count_members(&leader, 0), 0);
}

Test(process, those_with_another_nonce_or_boot_are_left_alone)
{
    struct process leader, other;
    pid_t pid = make_session(1);
    cr_assert_eq(process_identify(pid, &leader, NULL), ST_OK);
    cr_assert_eq(count_members(&leader, 1), 1);
    cr_assert_eq(process_signal_session(&leader, "another", SIGKILL), 0);
    cr_assert_eq(process_signal_session(&leader, "0123", SIGKILL), 0);
    other = leader;
    other.boot_id[0] = 'x';
    cr_assert_eq(process_signal_session(&other, nonce, SIGKILL), 0);
    cr_assert_eq(process_signal_session(&leader, nonce, SIGKILL), 1);
    end(pid);
}

Test(process, children_are_signalled)
{
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) pause();
    }
    cr_assert_eq(process_signal_children(getpid(), SIGKILL), 1);
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(WTERMSIG(status), SIGKILL);
    cr_assert_eq(process_signal_children(getpid(), SIGKILL), 0);
}
