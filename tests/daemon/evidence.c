#include "daemon/evidence.h"

#include "proto/status.h"
#include "tests/daemon/scratch.h"

/* Every way an attempt can end, from the files that it leaves. mpirun's words are those of Open MPI 4.1.4. */

static struct scratch attempt;
static struct evidence found;

static void setup(void)
{
    attempt = scratch_new();
}

static void teardown(void)
{
    scratch_remove(&attempt);
}

TestSuite(evidence, .init = setup, .fini = teardown);

static void rank_ended(int rank, int status, int stopped, int step, int time_ms, const char *text)
{
    char name[64], json[512];
    snprintf(name, sizeof name, "rank-%d.end.json", rank);
    snprintf(json, sizeof json,
             "{\"status\":\"x\",\"status_code\":%d,\"stopped\":%s,\"step\":%d,\"text\":\"%s\","
             "\"host\":\"node%d\",\"pid\":%d,\"time_ms\":%d}",
             status, stopped ? "true" : "false", step, text, rank, 100 + rank, time_ms);
    scratch_write(&attempt, name, json);
}

static void launcher_ended(int exit_code, int signal)
{
    char json[128];
    snprintf(json, sizeof json, "{\"exit_code\":%d,\"signal\":%d,\"time_ms\":9,\"nonce\":\"n\"}",
             exit_code, signal);
    scratch_write(&attempt, "exit.json", json);
}

static void judge(uint32_t ranks)
{
    evidence_read(attempt.path, ranks, -1, &found);
}

static void cause_is(enum attempt_cause cause)
{
    cr_assert_eq(found.cause, cause, "%s: %s", attempt_cause_name(found.cause), found.text);
}

Test(evidence, all_steps_done)
{
    rank_ended(0, ST_OK, 0, 40, 5, "");
    rank_ended(1, ST_OK, 0, 40, 6, "");
    launcher_ended(0, 0);
    judge(2);
    cause_is(CAUSE_FINISHED);
    cr_assert_eq(found.step, 40);
    cr_assert_eq(found.first_rank, -1);
    cr_assert_eq(found.exit_code, 0);
    cr_assert_str_empty(found.last_lines);
}

Test(evidence, stopped_as_ordered)
{
    rank_ended(0, ST_OK, 1, 12, 5, "");
    rank_ended(1, ST_OK, 1, 12, 6, "");
    launcher_ended(0, 0);
    judge(2);
    cause_is(CAUSE_CANCELLED);
    cr_assert_eq(found.step, 12);
}

Test(evidence, done_although_the_launcher_left_no_word)
{
    rank_ended(0, ST_OK, 0, 40, 5, "");
    judge(1);
    cause_is(CAUSE_FINISHED);
    cr_assert_eq(found.exit_code, -1);
}

Test(evidence, a_rank_killed)
{
    launcher_ended(137, 0);
    scratch_write(&attempt, "launcher.log",
                  "-----\nPrimary job  terminated normally, but 1 process returned\n"
                  "a non-zero exit code. Per user-direction, the job has been aborted.\n-----\n"
                  "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 "
                  "(Killed).\n-----\n");
    scratch_write(&attempt, "rank-1.log", "step 13\nstep 14\n");
    judge(2);
    cause_is(CAUSE_CRASH);
    cr_assert_eq(found.first_rank, 1);
    cr_assert_eq(found.signal, 9);
    cr_assert_eq(found.exit_code, 137);
    cr_assert_str_eq(found.host, "vm");
    cr_assert_str_eq(found.last_lines, "step 13\nstep 14\n");
    cr_assert_str_eq(found.text, "rank 1 was ended by signal 9 (Killed) on vm");
}

Test(evidence, the_killed_rank_comes_before_those_that_missed_it)
{
    rank_ended(0, ST_COLLECTIVE, 0, 7, 5, "all-reduce failed");
    launcher_ended(137, 0);
    scratch_write(&attempt, "launcher.log",
                  "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 11 "
                  "(Segmentation fault).\n");
    judge(2);
    cause_is(CAUSE_CRASH);
    cr_assert_eq(found.first_rank, 1);
    cr_assert_eq(found.signal, 11);
    cr_assert_eq(found.step, 7);
}

Test(evidence, the_earliest_fault_of_a_rank_is_the_cause)
{
    rank_ended(0, ST_COLLECTIVE, 0, 7, 1, "all-reduce failed");
    rank_ended(1, ST_IO, 0, 7, 30, "could not read");
    rank_ended(2, ST_DIVERGED, 0, 8, 20, "step 8: loss is nan");
    launcher_ended(41, 0);
    judge(3);
    cause_is(CAUSE_DIVERGED);
    cr_assert_eq(found.first_rank, 2);
    cr_assert_str_eq(found.host, "node2");
    cr_assert_str_eq(found.text, "rank 2: step 8: loss is nan");
    cr_assert_eq(found.step, 8);
}

/* A SIGKILL alone says nothing of memory; the kernel's count of such ends does. */
Test(evidence, a_rank_killed_for_want_of_memory)
{
    scratch_write(&attempt, "exit.json", "{\"exit_code\":137,\"signal\":0,\"oom_kills\":1}");
    scratch_write(&attempt, "launcher.log",
                  "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 "
                  "(Killed).\n");
    judge(2);
    cause_is(CAUSE_OUT_OF_MEMORY);
    cr_assert_eq(found.first_rank, 1);
    cr_assert_eq(found.signal, 9);
    cr_assert_str_eq(found.text, "rank 1 was killed on vm, where the kernel had no memory left");
}

Test(evidence, causes_of_statuses)
{
    static const struct {
        enum status status;
        enum attempt_cause cause;
    } rows[] = {
        {ST_BAD_DATA, CAUSE_BAD_DATA}, {ST_DIVERGED, CAUSE_DIVERGED},
        {ST_INVALID, CAUSE_BAD_JOB},   {ST_UNSUPPORTED, CAUSE_BAD_JOB},
        {ST_NOT_FOUND, CAUSE_BAD_JOB}, {ST_IO, CAUSE_CRASH},
        {ST_NO_SPACE, CAUSE_CRASH},    {ST_NO_MEMORY, CAUSE_OUT_OF_MEMORY},
        {ST_COLLECTIVE, CAUSE_CRASH},  {ST_FENCED, CAUSE_CRASH},
        {ST_DEVICE, CAUSE_CRASH},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rank_ended(0, rows[i].status, 0, 0, 1, "");
        launcher_ended(rows[i].status, 0);
        judge(1);
        cr_expect_eq(found.cause, rows[i].cause, "%s", status_text(rows[i].status));
        cr_expect_not_null(strstr(found.text, status_text(rows[i].status)));
    }
}

Test(evidence, a_rank_that_ended_without_a_word)
{
    rank_ended(0, ST_OK, 0, 3, 5, "");
    launcher_ended(40, 0);
    scratch_write(&attempt, "launcher.log",
                  "mpirun detected that one or more processes exited with non-zero status, thus "
                  "causing\nthe job to be terminated. The first process to do so was:\n\n"
                  "  Process name: [[19774,1],1]\n  Exit code:    40\n");
    judge(2);
    cause_is(CAUSE_CRASH);
    cr_assert_eq(found.first_rank, 1);
    cr_assert_eq(found.signal, 0);
    cr_assert_eq(found.exit_code, 40);
}

Test(evidence, mpirun_is_missing)
{
    launcher_ended(127, 0);
    scratch_write(&attempt, "launcher.log", "could not run mpirun: No such file or directory\n");
    judge(2);
    cause_is(CAUSE_LAUNCH_FAILED);
    cr_assert_eq(found.exit_code, 127);
    cr_assert_str_eq(found.last_lines, "could not run mpirun: No such file or directory\n");
}

Test(evidence, the_worker_cannot_be_executed)
{
    launcher_ended(132, 0);
    scratch_write(&attempt, "launcher.log",
                  "mpirun was unable to launch the specified application as it could not access\n"
                  "or execute an executable:\n\nExecutable: /x/performer-worker\n");
    judge(2);
    cause_is(CAUSE_LAUNCH_FAILED);
}

Test(evidence, mpirun_was_killed)
{
    launcher_ended(137, 9);
    judge(2);
    cause_is(CAUSE_CRASH);
    cr_assert_eq(found.signal, 9);
    cr_assert_eq(found.first_rank, -1);
}

Test(evidence, mpirun_ended_well_but_a_rank_left_no_word)
{
    rank_ended(0, ST_OK, 0, 40, 5, "");
    launcher_ended(0, 0);
    judge(2);
    cause_is(CAUSE_CRASH);
    cr_assert_not_null(strstr(found.text, "1 of 2"));
}

Test(evidence, nothing_is_known)
{
    judge(2);
    cause_is(CAUSE_LOST);
    cr_assert_eq(found.exit_code, -1);
    cr_assert_eq(found.first_rank, -1);
}

Test(evidence, a_directory_that_is_not_there)
{
    evidence_read("/nowhere/attempt-1", 2, -1, &found);
    cause_is(CAUSE_LOST);
}

Test(evidence, files_that_hold_something_else)
{
    scratch_write(&attempt, "exit.json", "{\"exit_code\":");
    scratch_write(&attempt, "rank-0.end.json", "[1,2]");
    scratch_write(&attempt, "rank-1.end.json", "{\"status_code\":\"no number\"}");
    judge(2);
    cause_is(CAUSE_LOST);
}

Test(evidence, last_lines_are_whole_short_and_printable)
{
    char log[3 * LAST_LINES_BYTES_MAX];
    size_t length = 0;
    for (int line = 0; length + 40 < sizeof log; line++)
        length +=
            (size_t)snprintf(log + length, sizeof log - length, "line %d \x1b[1m\xff\n", line);
    scratch_write(&attempt, "rank-0.log", log);
    rank_ended(0, ST_IO, 0, 1, 1, "tab\\tand \\u0007");
    judge(1);
    size_t kept = strlen(found.last_lines);
    cr_assert_leq(kept, LAST_LINES_BYTES_MAX);
    cr_assert_geq(kept, LAST_LINES_BYTES_MAX - 40);
    cr_assert_eq(strncmp(found.last_lines, "line ", 5), 0);
    cr_assert_eq(found.last_lines[kept - 1], '\n');
    cr_assert_null(strpbrk(found.last_lines, "\x1b\xff"));
    cr_assert_null(strchr(found.text, '\a'));
}

/* ---- under Slurm ---- */

static void job_ended(const char *state)
{
    char json[256];
    snprintf(json, sizeof json,
             "{\"name\":\"r1-a1-00\",\"job\":7,\"state\":\"%s\",\"reason\":\"None\","
             "\"nodes\":\"n[1-2]\",\"sbatch\":\"\"}",
             state);
    scratch_write(&attempt, "slurm.json", json);
}

Test(evidence, a_lost_node_comes_before_the_ranks_that_missed_it)
{
    rank_ended(0, ST_COLLECTIVE, 0, 7, 5, "all-reduce failed");
    launcher_ended(137, 0);
    job_ended("NODE_FAIL");
    judge(2);
    cause_is(CAUSE_NODE_LOST);
    cr_assert_str_eq(found.text, "Slurm job 7 on n[1-2] is NODE_FAIL");
}

Test(evidence, a_rank_s_own_fault_comes_before_the_state_of_its_job)
{
    rank_ended(0, ST_BAD_DATA, 0, 7, 5, "no such file");
    launcher_ended(140, 0);
    job_ended("TIMEOUT");
    judge(2);
    cause_is(CAUSE_BAD_DATA);
}

Test(evidence, a_job_that_ended_by_itself_says_nothing_that_its_ranks_do_not)
{
    rank_ended(0, ST_OK, 0, 40, 5, "");
    launcher_ended(0, 0);
    job_ended("COMPLETED");
    judge(1);
    cause_is(CAUSE_FINISHED);
}

Test(evidence, ranks_that_were_done_when_the_node_failed_are_done)
{
    rank_ended(0, ST_OK, 0, 40, 5, "");
    job_ended("NODE_FAIL");
    judge(1);
    cause_is(CAUSE_FINISHED);
}

Test(evidence, who_told_the_ranks_to_stop)
{
    rank_ended(0, ST_OK, 1, 12, 5, "");
    job_ended("CANCELLED");
    judge(1);
    cause_is(CAUSE_JOB_CANCELLED);
    cr_assert(found.stopped);
    cr_assert_not_null(strstr(found.text, "stopped after a checkpoint"));

    job_ended("COMPLETED");
    scratch_write(&attempt, "exit.json", "{\"exit_code\":0,\"signal\":0,\"passed\":12}");
    judge(1);
    cause_is(CAUSE_TIME_LIMIT);
    cr_assert(found.stopped);
}

Test(evidence, a_refusal_of_sbatch_is_told_in_its_words)
{
    scratch_write(&attempt, "slurm.json",
                  "{\"state\":\"REFUSED\",\"sbatch\":\"invalid partition: x\"}");
    judge(2);
    cause_is(CAUSE_LAUNCH_FAILED);
    cr_assert_str_eq(found.text, "invalid partition: x");
}

Test(evidence, a_job_that_failed_before_performer_launch_began)
{
    job_ended("FAILED");
    judge(2);
    cause_is(CAUSE_LOST);
    cr_assert_not_null(strstr(found.text, "Slurm job 7 on n[1-2] is FAILED"));
}

Test(evidence, a_task_that_srun_saw_killed)
{
    launcher_ended(137, 0);
    scratch_write(&attempt, "launcher.log",
                  "srun: error: n1: task 3 and more words\nsrun: Terminating StepId=2.0\n"
                  "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Terminated\n");
    judge(2);
    cause_is(CAUSE_CRASH);
    cr_assert_eq(found.first_rank, 1);
    cr_assert_eq(found.signal, 9);
    cr_assert_str_eq(found.host, "n2");
}

Test(evidence, tasks_that_srun_saw_exit)
{
    launcher_ended(40, 0);
    scratch_write(&attempt, "launcher.log",
                  "srun: error: n1: tasks 2-3: Exited with exit code 40\n");
    judge(4);
    cause_is(CAUSE_CRASH);
    cr_assert_eq(found.first_rank, 2);
    cr_assert_eq(found.signal, 0);
    cr_assert_str_eq(found.text, "rank 2 ended with exit code 40 and left no word");
}
