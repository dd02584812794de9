/* The launcher of Slurm jobs, with an sbatch, an squeue and an scancel that play what the test wants. */

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <uv.h>

#include "daemon/launch_slurm.h"
#include "proto/logline.h"
#include "proto/performer.pb-c.h"
#include "tests/daemon/scratch.h"

static const char nonce[] = "00112233445566778899aabbccddeeff";
static const char name[] = "r1-a1-0011223344556677";
static const struct launcher_programs programs = {.launch = "/bin/launch", .worker = "/bin/worker"};

static struct scratch run;
static uv_loop_t loop;
static struct attempt_launcher *launcher;
static struct launch_order order;

static void program(const char *program_name, const char *script)
{
    char file[64], text[1024];
    snprintf(file, sizeof file, "bin/%s", program_name);
    snprintf(text, sizeof text, "#!/bin/sh\necho \"$*\" >>$PLAY/%s.calls\n%s\n", program_name,
             script);
    scratch_write(&run, file, text);
    cr_assert_eq(chmod(scratch_path(&run, file), 0700), 0);
}

/* What squeue tells from now on of the attempt's job; NULL: that there is none. */
static void queue_says(const char *state, int restarts)
{
    char text[256] = "";
    if (state) snprintf(text, sizeof text, "7|%s|%d|n1|None|%s|\n", state, restarts, name);
    scratch_write(&run, "queue", text);
}

static void no_news(void *context)
{
    (void)context;
}

static void open_launcher(void)
{
    struct fault fault;
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(launch_slurm_open(&loop, &programs, no_news, NULL, &launcher, &fault), ST_OK);
}

static void close_launcher(void)
{
    launch_slurm_close(launcher);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

static void write_plan(void)
{
    Performer__Plan plan = PERFORMER__PLAN__INIT;
    uint8_t bytes[256];
    plan.run = "r1";
    plan.attempt = 1;
    plan.nonce = (char *)nonce;
    size_t size = performer__plan__pack(&plan, bytes);
    FILE *file = fopen(scratch_path(&run, "attempt-1/plan"), "wb");
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void setup(void)
{
    log_set_level(LOG_ERROR);
    run = scratch_new();
    scratch_mkdir(&run, "bin");
    scratch_mkdir(&run, "attempt-1");
    scratch_write(&run, "resolved.toml",
                  "[job]\nname = \"a\"\n[resources]\nlauncher = \"slurm\"\n[data]\n"
                  "format = \"text\"\ntrain = \"/etc/hostname\"\nlength = 16\n[model]\n"
                  "layers = 1\nheads = 1\nwidth = 8\nmlp = 8\n");
    write_plan();
    program("sbatch", "echo 7");
    program("squeue", "cat $PLAY/queue");
    program("scancel", "");
    queue_says("PENDING", 0);
    char path[8192];
    snprintf(path, sizeof path, "%s:%s", scratch_path(&run, "bin"), getenv("PATH"));
    setenv("PATH", path, 1);
    setenv("PLAY", scratch_path(&run, ""), 1);
    order = (struct launch_order){.ranks = 1};
    snprintf(order.nonce, sizeof order.nonce, "%s", nonce);
    snprintf(order.run_directory, sizeof order.run_directory, "%s", scratch_path(&run, ""));
    snprintf(order.attempt_directory, sizeof order.attempt_directory, "%s",
             scratch_path(&run, "attempt-1"));
    open_launcher();
}

static void teardown(void)
{
    close_launcher();
    scratch_remove(&run);
}

TestSuite(launch_slurm, .init = setup, .fini = teardown, .timeout = 60);

static struct sighting sighting;

static enum launcher_state probe(void)
{
    return launcher->probe(launcher, order.attempt_directory, &sighting);
}

static void start(void)
{
    struct fault fault;
    cr_assert_eq(launcher->start(launcher, &order, &fault), ST_OK, "%s", fault.text);
}

/* Lets the loop run until the launcher has seen so much. */
static void await(enum launcher_state state)
{
    while (probe() != state) uv_run(&loop, UV_RUN_ONCE);
}

static int calls(const char *program_name)
{
    char file[64];
    int count = 0;
    snprintf(file, sizeof file, "%s.calls", program_name);
    if (access(scratch_path(&run, file), F_OK) != 0) return 0;
    for (const char *c = scratch_read(&run, file); *c; c++) count += *c == '\n';
    return count;
}

static void await_calls(const char *program_name, int count)
{
    while (calls(program_name) < count) {
        probe();
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static bool end_says(const char *state)
{
    char words[64];
    snprintf(words, sizeof words, "\"state\":\"%s\"", state);
    return strstr(scratch_read(&run, "attempt-1/slurm.json"), words) != NULL;
}

Test(launch_slurm, a_job_is_submitted_and_waits_until_performer_launch_is_there)
{
    start();
    cr_assert_eq(probe(), LAUNCHER_UNKNOWN, "sbatch has not answered");
    await(LAUNCHER_ALIVE);
    cr_assert_eq(sighting.id, 7);
    cr_assert(sighting.waits);
    cr_assert_not_null(strstr(sighting.words, "Slurm job 7 is PENDING"));
    scratch_write(&run, "attempt-1/launcher.json", "{}");
    cr_assert_eq(probe(), LAUNCHER_ALIVE);
    cr_assert(!sighting.waits);
    cr_assert_eq(calls("sbatch"), 1);
}

Test(launch_slurm, an_end_is_told_once_it_is_written)
{
    start();
    queue_says("COMPLETED", 0);
    scratch_write(&run, "attempt-1/exit.json", "{}");
    await(LAUNCHER_ENDED);
    cr_assert(end_says("COMPLETED"));
}

Test(launch_slurm, a_job_that_died_with_its_node_left_no_word)
{
    start();
    queue_says("NODE_FAIL", 0);
    await(LAUNCHER_GONE);
    cr_assert(end_says("NODE_FAIL"));
}

Test(launch_slurm, a_job_that_slurm_has_forgotten_is_over)
{
    start();
    queue_says(NULL, 0);
    await(LAUNCHER_GONE);
    cr_assert(end_says("FORGOTTEN"));
}

Test(launch_slurm, a_refusal_is_told_in_the_words_of_sbatch)
{
    program("sbatch", "echo 'sbatch: error: invalid partition: x' >&2\nexit 1");
    queue_says(NULL, 0);
    start();
    await(LAUNCHER_GONE);
    cr_assert(end_says("REFUSED"));
    cr_assert_not_null(strstr(scratch_read(&run, "attempt-1/slurm.json"), "invalid partition: x"));
    cr_assert_eq(calls("sbatch"), 1);
}

Test(launch_slurm, an_answer_that_was_lost_submits_nothing_again)
{
    program("sbatch", "echo 'sbatch: error: Socket timed out on send/recv operation' >&2\nexit 1");
    queue_says("RUNNING", 0);
    start();
    await(LAUNCHER_ALIVE);
    cr_assert_eq(sighting.id, 7);
    cr_assert_eq(calls("sbatch"), 1);
}

Test(launch_slurm, a_slurm_that_was_not_reached_is_asked_again)
{
    program("sbatch", "[ -e $PLAY/there ] && echo 7 && exit\n"
                      "echo 'sbatch: error: Unable to contact slurm controller' >&2\nexit 1");
    queue_says(NULL, 0);
    start();
    await_calls("sbatch", 2);
    cr_assert_eq(probe(), LAUNCHER_UNKNOWN);
    scratch_write(&run, "there", "");
    await(LAUNCHER_ALIVE);
}

Test(launch_slurm, nothing_is_submitted_again_while_nobody_can_say_what_there_is)
{
    program("sbatch", "echo 'sbatch: error: Unable to contact slurm controller' >&2\nexit 1");
    program("squeue", "[ -e $PLAY/there ] && cat $PLAY/queue && exit\nexit 1");
    start();
    await_calls("squeue", 2);
    cr_assert_eq(calls("sbatch"), 1);
    cr_assert_eq(probe(), LAUNCHER_UNKNOWN);
    scratch_write(&run, "there", "");
    await(LAUNCHER_ALIVE);
    cr_assert_eq(calls("sbatch"), 1);
}

Test(launch_slurm, half_an_answer_is_none)
{
    program("squeue", "printf '1|RUNN'");
    start();
    await_calls("squeue", 2);
    cr_assert_eq(probe(), LAUNCHER_ALIVE, "it is there by the word of sbatch");
}

Test(launch_slurm, a_rank_s_end_counts_where_slurm_is_silent)
{
    start();
    await(LAUNCHER_ALIVE);
    program("squeue", "exit 1");
    scratch_write(&run, "attempt-1/exit.json", "{}");
    await(LAUNCHER_ENDED);
}

Test(launch_slurm, a_kill_is_repeated_until_the_job_is_over)
{
    start();
    await(LAUNCHER_ALIVE);
    launcher->signal(launcher, order.attempt_directory, SIGKILL);
    cr_assert_eq(access(scratch_path(&run, "attempt-1/scancel"), F_OK), 0, "first the wish");
    await_calls("scancel", 2);
    cr_assert_not_null(strstr(scratch_read(&run, "scancel.calls"), name));
    queue_says("CANCELLED", 0);
    await(LAUNCHER_GONE);
    cr_assert(end_says("KILLED"));
}

Test(launch_slurm, a_cancel_by_somebody_else_is_told_as_such)
{
    start();
    queue_says("CANCELLED", 0);
    await(LAUNCHER_GONE);
    cr_assert(end_says("CANCELLED"));
}

Test(launch_slurm, a_job_that_was_put_into_the_queue_again_is_ended)
{
    start();
    queue_says("PENDING", 1);
    await_calls("scancel", 1);
    cr_assert_neq(access(scratch_path(&run, "attempt-1/scancel"), F_OK), 0,
                  "not the daemon's wish");
    queue_says("CANCELLED", 1);
    await(LAUNCHER_GONE);
    cr_assert(end_says("TAKEN_BACK"));
}

Test(launch_slurm, a_later_daemon_finds_the_job_by_its_name)
{
    start();
    close_launcher(); /* before sbatch has answered */
    open_launcher();
    cr_assert_eq(probe(), LAUNCHER_UNKNOWN);
    await(LAUNCHER_ALIVE);
    cr_assert_eq(sighting.id, 7);
}

Test(launch_slurm, a_later_daemon_goes_on_with_a_kill)
{
    start();
    await(LAUNCHER_ALIVE);
    launcher->signal(launcher, order.attempt_directory, SIGKILL);
    close_launcher();
    open_launcher();
    await_calls("scancel", 2);
    queue_says("CANCELLED", 0);
    await(LAUNCHER_GONE);
    cr_assert(end_says("KILLED"));
}

Test(launch_slurm, what_was_never_submitted_is_unseen_to_a_later_daemon)
{
    queue_says(NULL, 0);
    scratch_write(&run, "attempt-1/slurm.sh", "");
    await(LAUNCHER_UNSEEN);
    cr_assert_eq(calls("sbatch"), 0);
}

Test(launch_slurm, an_attempt_without_a_script_has_no_job)
{
    cr_assert_eq(probe(), LAUNCHER_UNSEEN);
    launcher->signal(launcher, order.attempt_directory, SIGKILL);
    cr_assert_eq(calls("scancel"), 0);
}

Test(launch_slurm, where_slurm_is_not_installed_the_cure_is_named)
{
    struct fault fault;
    setenv("PATH", "/nowhere", 1);
    cr_assert_eq(launcher->start(launcher, &order, &fault), ST_NOT_FOUND);
    cr_assert_not_null(strstr(fault.text, "launcher = \"slurm\""));
}

Test(launch_slurm, a_path_that_sbatch_cannot_take_is_refused)
{
    struct fault fault;
    scratch_mkdir(&run, "back\\slash");
    snprintf(order.attempt_directory, sizeof order.attempt_directory, "%s",
             scratch_path(&run, "back\\slash"));
    cr_assert_eq(
        rename(scratch_path(&run, "attempt-1/plan"), scratch_path(&run, "back\\slash/plan")), 0);
    cr_assert_eq(launcher->start(launcher, &order, &fault), ST_UNSUPPORTED);
    cr_assert_not_null(strstr(fault.text, "--runs"));
}
