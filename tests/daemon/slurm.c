/* What is written for Slurm, and what is read of it. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/slurm_queue.h"
#include "daemon/slurm_script.h"

/* ---- the batch script ---- */

static char *script_of(const char *run_directory, struct text_list extra)
{
    static struct jobspec spec;
    static struct launch_order order;
    static const struct launcher_programs programs = {.launch = "/opt/it's/performer-launch",
                                                      .worker = "/opt/performer-worker"};
    spec = (struct jobspec){.resources = {.launcher = LAUNCHER_SLURM, .ranks = 4, .threads = 3},
                            .slurm = {.partition = "long",
                                      .account = "",
                                      .time = "1-00:00",
                                      .grace = 90,
                                      .nodes = 2,
                                      .gpus_per_rank = 1,
                                      .extra = extra}};
    order = (struct launch_order){.nonce = "00112233445566778899aabbccddeeff", .ranks = 4};
    snprintf(order.run_directory, sizeof order.run_directory, "%s", run_directory);
    snprintf(order.attempt_directory, sizeof order.attempt_directory, "%s/attempt-3",
             run_directory);
    char name[SLURM_NAME_SIZE], *text;
    slurm_job_name("r12", 3, order.nonce, name);
    const struct slurm_script script = {
        .name = name, .spec = &spec, .order = &order, .programs = &programs};
    cr_assert_eq(slurm_script_make(&script, &text), ST_OK);
    return text;
}

Test(slurm_script, says_all_that_the_job_asks_for)
{
    char *text = script_of("/runs/r12", (struct text_list){0});
    cr_assert_str_eq(
        text, "#!/bin/bash\n"
              "# Made by performerd: sbatch took it as it is here.\n"
              "#SBATCH \"--job-name=r12-a3-0011223344556677\"\n"
              "#SBATCH \"--nodes=2\"\n"
              "#SBATCH \"--ntasks=4\"\n"
              "#SBATCH \"--cpus-per-task=3\"\n"
              "#SBATCH \"--gpus-per-task=1\"\n"
              "#SBATCH \"--partition=long\"\n"
              "#SBATCH \"--time=1-00:00\"\n"
              "#SBATCH \"--signal=B:USR2@90\"\n"
              "#SBATCH \"--no-requeue\"\n"
              "#SBATCH \"--open-mode=append\"\n"
              "#SBATCH \"--chdir=/runs/r12\"\n"
              "#SBATCH \"--output=/runs/r12/attempt-3/slurm.log\"\n"
              "\n"
              "if srun --mpi=list 2>&1 | grep -qw pmix; then\n"
              "    set -- srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=none --cpus-per-task=3\n"
              "else\n"
              "    set -- mpirun --bind-to none\n"
              "fi\n"
              "exec '/opt/it'\\''s/performer-launch' '/runs/r12/attempt-3'"
              " 00112233445566778899aabbccddeeff -- \"$@\" '/opt/performer-worker' --plan"
              " '/runs/r12/attempt-3/plan'\n");
    free(text);
}

Test(slurm_script, further_options_come_before_ours_and_mean_nothing_to_a_shell)
{
    char *items[] = {"--comment=a \"b\" $(c)", "--no-requeue=x"};
    char *text = script_of("/runs/r12", (struct text_list){2, items});
    const char *given = strstr(text, "#SBATCH \"--comment=a \\\"b\\\" $(c)\"\n");
    cr_assert_not_null(given);
    cr_assert_lt(given, strstr(text, "--job-name"));
    cr_assert_lt(strstr(text, "--no-requeue=x"), strstr(text, "--no-requeue\""));
    free(text);
}

Test(slurm_script, a_percent_sign_is_no_pattern_of_a_file_name)
{
    char *text = script_of("/100%j/r12", (struct text_list){0});
    cr_assert_not_null(strstr(text, "--output=/100%%j/r12/attempt-3/slurm.log\""));
    cr_assert_not_null(strstr(text, "--chdir=/100%j/r12\""));
    free(text);
}

/* ---- squeue ---- */

struct seen {
    int count;
    struct slurm_row rows[4];
};

static void see(void *context, const struct slurm_row *row)
{
    struct seen *seen = context;
    seen->rows[seen->count++] = *row;
}

Test(slurm_queue, rows_are_read)
{
    struct seen seen = {0};
    struct fault fault;
    cr_assert_eq(slurm_queue_read("7|RUNNING|0|n[1-2]|None|r1-a1-00|\n"
                                  "8|PENDING|2||(Resources)|somebody|else's|name|\n"
                                  "9_[1-4]|PENDING|0||Priority|an array|",
                                  see, &seen, &fault),
                 ST_OK);
    cr_assert_eq(seen.count, 3);
    cr_assert_eq(seen.rows[0].id, 7);
    cr_assert_str_eq(seen.rows[0].state, "RUNNING");
    cr_assert_str_eq(seen.rows[0].nodes, "n[1-2]");
    cr_assert_str_eq(seen.rows[0].name, "r1-a1-00");
    cr_assert_eq(seen.rows[1].restarts, 2);
    cr_assert_str_eq(seen.rows[1].reason, "(Resources)");
    cr_assert_str_eq(seen.rows[1].name, "somebody|else's|name");
    cr_assert_eq(seen.rows[2].id, 9);
}

Test(slurm_queue, no_jobs_are_an_answer)
{
    struct seen seen = {0};
    cr_assert_eq(slurm_queue_read("", see, &seen, NULL), ST_OK);
    cr_assert_eq(seen.count, 0);
}

Test(slurm_queue, what_is_no_answer_is_refused)
{
    static const char *const answers[] = {
        "slurm_load_jobs error: Unable to contact slurm controller",
        "7|RUNNING|0|n1|None|cut",
        "7|RUNNING|0|n1|",
        "x|RUNNING|0|n1|None|a|",
        "7|RUNNING|x|n1|None|a|",
        "\n"};
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct seen seen = {0};
        struct fault fault;
        cr_expect_eq(slurm_queue_read(answers[i], see, &seen, &fault), ST_CORRUPT, "%s",
                     answers[i]);
    }
    char *endless = malloc(10000);
    memset(endless, 'x', 9999);
    endless[9999] = '\0';
    struct fault fault;
    cr_assert_eq(slurm_queue_read(endless, see, NULL, &fault), ST_CORRUPT);
    free(endless);
}

/* Written down apart from the list under test. */
Test(slurm_queue, states_and_what_they_mean)
{
    static const struct {
        const char *state;
        bool over;
        enum attempt_cause cause;
    } rows[] = {
        {"PENDING", false, CAUSE_NONE},
        {"RUNNING", false, CAUSE_NONE},
        {"COMPLETING", false, CAUSE_NONE},
        {"A_STATE_OF_A_NEWER_SLURM", false, CAUSE_NONE},
        {"COMPLETED", true, CAUSE_NONE},
        {"FAILED", true, CAUSE_NONE},
        {"CANCELLED", true, CAUSE_JOB_CANCELLED},
        {"TIMEOUT", true, CAUSE_TIME_LIMIT},
        {"DEADLINE", true, CAUSE_TIME_LIMIT},
        {"PREEMPTED", true, CAUSE_PREEMPTED},
        {"NODE_FAIL", true, CAUSE_NODE_LOST},
        {"BOOT_FAIL", true, CAUSE_NODE_LOST},
        {"OUT_OF_MEMORY", true, CAUSE_OUT_OF_MEMORY},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_expect_eq(slurm_state_is_over(rows[i].state), rows[i].over, "%s", rows[i].state);
        cr_expect_eq(slurm_state_cause(rows[i].state), rows[i].cause, "%s", rows[i].state);
    }
}
