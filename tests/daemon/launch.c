/* performer-launch as the daemon uses it: a program, its files, and deaths around it. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <jansson.h>

#include "daemon/environment.h"
#include "daemon/process.h"
#include "tests/daemon/scratch.h"

static const char nonce[] = "00112233445566778899aabbccddeeff";
static struct scratch run;

static void setup(void)
{
    run = scratch_new();
    const struct environment environment = {.url = "ipc:///a b/c=d", .token = "secret"};
    scratch_mkdir(&run, "attempt-1");
    cr_assert_eq(environment_write(scratch_path(&run, "attempt-1"), &environment, NULL), ST_OK);
    scratch_write(&run, "fence", nonce);
}

static void teardown(void)
{
    scratch_remove(&run);
}

TestSuite(launch, .init = setup, .fini = teardown);

/* Starts performer-launch with a shell's script as its command. */
static pid_t launch(const char *script)
{
    const char *attempt = scratch_path(&run, "attempt-1");
    pid_t pid = fork();
    if (pid == 0) {
        execl(PERFORMER_LAUNCH, "performer-launch", attempt, nonce, "--", "sh", "-c", script, NULL);
        _exit(99);
    }
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* A number of attempt-1/`name`; -999 where there is none. */
static int number_of(const char *name, const char *key)
{
    json_t *object = json_loads(scratch_read(&run, name), 0, NULL);
    json_t *value = json_object_get(object, key);
    int number = json_is_integer(value) ? (int)json_integer_value(value) : -999;
    json_decref(object);
    return number;
}

static bool nonce_is_in(const char *name)
{
    json_t *object = json_loads(scratch_read(&run, name), 0, NULL);
    const char *found = json_string_value(json_object_get(object, "nonce"));
    bool same = found && strcmp(found, nonce) == 0;
    json_decref(object);
    return same;
}

/* Waits until the file has text, and returns it. */
static const char *wait_for(const char *name)
{
    for (int tries = 0; tries < 1000; tries++) {
        if (scratch_read(&run, name)[0] != '\0') return scratch_read(&run, name);
        usleep(10000);
    }
    cr_assert_fail("%s was not written", name);
    return NULL;
}

static bool is_gone(pid_t pid)
{
    struct process process;
    return process_identify(pid, &process, NULL) != ST_OK;
}

static void becomes_gone(pid_t pid)
{
    for (int tries = 0; tries < 1000 && !is_gone(pid); tries++) usleep(10000);
    cr_assert(is_gone(pid), "process %d lives", (int)pid);
}

Test(launch, a_normal_end)
{
    pid_t pid = launch("echo out; echo err >&2; echo $" PROCESS_NONCE_VARIABLE "; exit 3");
    cr_assert_eq(end_of(pid), 3);
    cr_assert_eq(number_of("attempt-1/exit.json", "exit_code"), 3);
    cr_assert_eq(number_of("attempt-1/exit.json", "signal"), 0);
    cr_assert_eq(number_of("attempt-1/launcher.json", "pid"), pid);
    cr_assert(nonce_is_in("attempt-1/exit.json"));
    cr_assert(nonce_is_in("attempt-1/launcher.json"));
    char expected[100];
    snprintf(expected, sizeof expected, "out\nerr\n%s\n", nonce);
    cr_assert_str_eq(scratch_read(&run, "attempt-1/launcher.log"), expected);
}

Test(launch, the_command_finds_the_attempts_environment)
{
    setenv("PERFORMERD_URL", "ipc:///of/the/daemon's", 1);
    cr_assert_eq(end_of(launch("echo \"$PERFORMERD_URL $PERFORMERD_TOKEN\"")), 0);
    cr_assert_str_eq(scratch_read(&run, "attempt-1/launcher.log"), "ipc:///a b/c=d secret\n");
}

Test(launch, no_command_runs_without_an_environment_that_can_be_read)
{
    scratch_write(&run, "attempt-1/environment", "PERFORMERD_URL=x\nwhat\n");
    cr_assert_eq(end_of(launch("touch ran")), 126);
    cr_assert_eq(number_of("attempt-1/exit.json", "exit_code"), 126);
    cr_assert(strstr(scratch_read(&run, "attempt-1/launcher.log"), "KEY=VALUE"));
    cr_assert_neq(access("ran", F_OK), 0);
}

Test(launch, an_environment_holds_no_newlines)
{
    const struct environment environment = {.url = "ipc:///a\nPATH=b"};
    struct fault fault;
    cr_assert_eq(environment_write(scratch_path(&run, "attempt-1"), &environment, &fault),
                 ST_INVALID);
}

Test(launch, a_killed_command)
{
    cr_assert_eq(end_of(launch("kill -9 $$")), 128 + 9);
    cr_assert_eq(number_of("attempt-1/exit.json", "signal"), 9);
    cr_assert_eq(number_of("attempt-1/exit.json", "exit_code"), 128 + 9);
}

Test(launch, term_is_passed_on)
{
    pid_t pid = launch("trap 'echo asked; exit 7' TERM; echo $$ > attempt; "
                       "while :; do sleep 0.05; done");
    wait_for("attempt-1/launcher.json");
    usleep(300000); /* the trap is set */
    kill(pid, SIGTERM);
    cr_assert_eq(end_of(pid), 7);
    cr_assert_str_eq(scratch_read(&run, "attempt-1/launcher.log"), "asked\n");
    unlink("attempt");
}

Test(launch, the_signal_before_a_time_limit_is_passed_on_and_told)
{
    pid_t pid = launch("trap 'exit 0' USR2; echo ready; while :; do sleep 0.05; done");
    wait_for("attempt-1/launcher.log");
    kill(pid, SIGUSR2);
    cr_assert_eq(end_of(pid), 0);
    cr_assert_eq(number_of("attempt-1/exit.json", "passed"), SIGUSR2);
}

Test(launch, a_command_that_is_not_there)
{
    const char *attempt = scratch_path(&run, "attempt-1");
    pid_t pid = fork();
    if (pid == 0) {
        execl(PERFORMER_LAUNCH, "performer-launch", attempt, nonce, "--", "no-such-mpirun", NULL);
        _exit(99);
    }
    cr_assert_eq(end_of(pid), 127);
    cr_assert_eq(number_of("attempt-1/exit.json", "exit_code"), 127);
    cr_assert_not_null(strstr(scratch_read(&run, "attempt-1/launcher.log"), "no-such-mpirun"));
}

Test(launch, a_newer_attempt_has_taken_over)
{
    scratch_write(&run, "fence", "another");
    cr_assert_eq(end_of(launch("echo ran")), 126);
    cr_assert_null(strstr(scratch_read(&run, "attempt-1/launcher.log"), "ran"));
    cr_assert_not_null(strstr(scratch_read(&run, "attempt-1/launcher.log"), "newer attempt"));
    cr_assert_eq(number_of("attempt-1/exit.json", "exit_code"), 126);
}

Test(launch, without_a_fence_nothing_runs)
{
    unlink(scratch_path(&run, "fence"));
    cr_assert_eq(end_of(launch("echo ran")), 126);
    cr_assert_null(strstr(scratch_read(&run, "attempt-1/launcher.log"), "ran\n"));
}

Test(launch, an_attempt_is_launched_once)
{
    cr_assert_eq(end_of(launch("echo first")), 0);
    char *before = strdup(scratch_read(&run, "attempt-1/exit.json"));
    cr_assert_eq(end_of(launch("echo second; exit 5")), 126);
    cr_assert_str_eq(scratch_read(&run, "attempt-1/exit.json"), before);
    free(before);
    cr_assert_null(strstr(scratch_read(&run, "attempt-1/launcher.log"), "second\n"));
}

Test(launch, what_the_command_leaves_behind_is_ended_before_the_last_word)
{
    pid_t pid = launch("sleep 1000 & echo $!; kill -9 $$");
    cr_assert_eq(end_of(pid), 128 + 9);
    pid_t orphan = atoi(scratch_read(&run, "attempt-1/launcher.log"));
    cr_assert_gt(orphan, 1);
    cr_assert(is_gone(orphan));
}

Test(launch, it_goes_on_when_its_parent_is_killed)
{
    pid_t parent = fork();
    if (parent == 0) {
        launch("echo $$; while [ ! -e go ]; do sleep 0.05; done; echo went on; exit 4");
        for (;;) pause();
    }
    wait_for("attempt-1/launcher.log");
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    usleep(200000);
    cr_assert_str_empty(scratch_read(&run, "attempt-1/exit.json"));
    int go = open("go", O_CREAT | O_WRONLY, 0600);
    close(go);
    wait_for("attempt-1/exit.json");
    unlink("go");
    cr_assert_eq(number_of("attempt-1/exit.json", "exit_code"), 4);
    cr_assert_not_null(strstr(scratch_read(&run, "attempt-1/launcher.log"), "went on"));
}

Test(launch, the_command_does_not_outlive_it)
{
    pid_t pid = launch("echo $$; exec sleep 1000");
    pid_t command = atoi(wait_for("attempt-1/launcher.log"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    becomes_gone(command);
    cr_assert_str_empty(scratch_read(&run, "attempt-1/exit.json"));
}

Test(launch, it_is_a_session_leader_and_named_rightly)
{
    pid_t pid = launch("echo $$; exec sleep 1000");
    pid_t command = atoi(wait_for("attempt-1/launcher.log"));
    struct process self;
    cr_assert_eq(process_identify(pid, &self, NULL), ST_OK);
    cr_assert_eq(number_of("attempt-1/launcher.json", "start_ticks"), (int)self.start_ticks);
    cr_assert_eq(getsid(command), pid);
    cr_assert_eq(process_signal_session(&self, nonce, SIGKILL), 1);
    cr_assert_eq(end_of(pid), 128 + 9);
}

/* Its stacks come into its log, then it is asked to end; other ranks are asked alone. */
Test(launch, a_rank_that_stands_still_is_looked_at_and_asked_to_end)
{
    pid_t pid = launch("OMPI_COMM_WORLD_RANK=3 sleep 1000 & OMPI_COMM_WORLD_RANK=4 sleep 1000 & "
                       "trap '' TERM; echo $$; wait; exit 7");
    wait_for("attempt-1/launcher.log");
    usleep(200000); /* both are there */
    cr_assert_eq(sigqueue(pid, SIGUSR1, (union sigval){.sival_int = 3}), 0);
    cr_assert_eq(end_of(pid), 7);
    const char *log = scratch_read(&run, "attempt-1/rank-3.log");
    cr_assert_not_null(strstr(log, "(sleep): state "), "%s", log);
    cr_assert(strstr(log, "#0 ") || strstr(log, "neither gdb nor eu-stack"), "%s", log);
    cr_assert_str_empty(scratch_read(&run, "attempt-1/rank-4.log"));
}

/* In a memory cgroup, where one can be made, that holds the launcher under a sanitizer too: the kernel kills the command,
 * and exit.json says that it did. */
Test(launch, a_command_that_the_kernel_kills_for_want_of_memory_is_counted)
{
    static const char make[] =
        "group=/sys/fs/cgroup/memory/performer-launch-test-$$ && mkdir $group && "
        "echo 134217728 >$group/memory.limit_in_bytes && "
        "echo $PPID >$group/cgroup.procs && echo $group";
    char group[128] = "";
    pid_t pid = fork();
    if (pid == 0) {
        FILE *made = popen(make, "r");
        FILE *name = fopen("group", "w");
        bool there = made && name && fgets(group, sizeof group, made) && fputs(group, name) >= 0;
        if (name) fclose(name);
        if (!there || pclose(made) != 0) _exit(77);
        execl(PERFORMER_LAUNCH, "performer-launch", scratch_path(&run, "attempt-1"), nonce, "--",
              "sh", "-c", "head -c 1000000000 /dev/zero | tail -c 1000000000", NULL);
        _exit(99);
    }
    int code = end_of(pid);
    FILE *name = fopen("group", "r");
    if (name && fgets(group, sizeof group, name)) rmdir(strtok(group, "\n"));
    if (name) fclose(name);
    unlink("group");
    if (code == 77) return; /* no such cgroups here, or not ours to make */
    cr_assert_eq(code, 128 + 9);
    cr_assert_geq(number_of("attempt-1/exit.json", "oom_kills"), 1);
}

Test(launch, a_directory_that_is_not_there)
{
    pid_t pid = fork();
    if (pid == 0) {
        execl(PERFORMER_LAUNCH, "performer-launch", "/nowhere/attempt-1", nonce, "--", "true",
              NULL);
        _exit(99);
    }
    cr_assert_eq(end_of(pid), 126);
}

Test(launch, usage)
{
    pid_t pid = fork();
    if (pid == 0) {
        close(STDERR_FILENO);
        execl(PERFORMER_LAUNCH, "performer-launch", "a", "b", "true", NULL);
        _exit(99);
    }
    cr_assert_eq(end_of(pid), 2);
}
