#include "daemon/driver.h"

#include <inttypes.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>

#include "proto/durable.h"
#include "tests/daemon/workshop.h"

static struct workshop workshop;

static void setup(void)
{
    workshop_open(&workshop);
}

static void teardown(void)
{
    workshop_close(&workshop);
}

TestSuite(driver, .init = setup, .fini = teardown);

static const char *state_file(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "state/runs/%s", name);
    return scratch_read(&workshop.scratch, path);
}

static void state_is(uint64_t run, enum run_state state)
{
    cr_assert_eq(workshop_state(&workshop, run), state, "%s",
                 run_state_name(workshop_state(&workshop, run)));
}

static void refused(Performer__Response *response, enum status status, const char *word)
{
    cr_expect_eq(response->status, status, "%d: %s", response->status, response->text);
    cr_expect_not_null(strstr(response->text, word), "%s", response->text);
    performer__response__free_unpacked(response, NULL);
}

Test(driver, a_run_from_submit_to_success)
{
    uint64_t run = workshop_submit(&workshop, "one", 2);
    cr_assert_eq(run, 1);
    cr_assert_str_eq(state_file("r1/job.toml"), "# as written\n");
    cr_assert_str_eq(state_file("r1/resolved.toml"), workshop_job("one", 2, ""));
    state_is(run, RUN_QUEUED);

    driver_tick(&workshop.driver);
    state_is(run, RUN_STARTING);
    cr_assert_eq(workshop.starts, 1);
    cr_assert_eq(workshop.order.ranks, 2);
    cr_assert_str_eq(state_file("r1/fence"), workshop.order.nonce);
    cr_assert_eq(strlen(workshop.order.nonce), 32);

    char *bytes;
    size_t length;
    cr_assert_eq(file_read(scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/plan"), 65536,
                           &bytes, &length, NULL),
                 ST_OK);
    Performer__Plan *plan = performer__plan__unpack(NULL, length, (uint8_t *)bytes);
    cr_assert_not_null(plan);
    cr_assert_str_eq(plan->run, "r1");
    cr_assert_str_eq(plan->nonce, workshop.order.nonce);
    cr_assert_str_eq(plan->directory, workshop.order.run_directory);
    cr_assert_eq(plan->ranks, 2);
    performer__plan__free_unpacked(plan, NULL);
    free(bytes);

    char expected[256];
    struct stat about;
    const char *token = coordinator_run(&workshop.coordinator, run)->tokens[0];
    snprintf(expected, sizeof expected, "PERFORMERD_URL=ipc:///nowhere\nPERFORMERD_TOKEN=%s\n",
             token);
    cr_assert_str_eq(state_file("r1/attempt-1/environment"), expected);
    cr_assert_eq(
        stat(scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/environment"), &about), 0);
    cr_assert_eq(about.st_mode & 0777, 0600);

    workshop_report(&workshop, 0, 1, 5);
    state_is(run, RUN_RUNNING);
    driver_tick(&workshop.driver);
    state_is(run, RUN_RUNNING);

    workshop_ranks_end(&workshop, 2, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.starts, 1);
}

Test(driver, a_job_that_is_wrong_gets_its_diagnostics)
{
    refused(workshop_submit_text(&workshop, workshop_job("x", 3, ""), ""), ST_INVALID, "ranks");
    refused(workshop_submit_text(&workshop, "[job", ""), ST_INVALID, "error");
    refused(workshop_submit_text(&workshop, workshop_job("x", 8, ""), ""), ST_REFUSED,
            "--max-ranks");
    char *large = malloc(JOBSPEC_BYTES_MAX + 2);
    memset(large, '#', JOBSPEC_BYTES_MAX + 1);
    large[JOBSPEC_BYTES_MAX + 1] = '\0';
    refused(workshop_submit_text(&workshop, large, ""), ST_TOO_LARGE, "256 KiB");
    free(large);
    cr_assert_eq(workshop.coordinator.run_count, 0);
}

Test(driver, a_submit_with_the_same_key_is_the_same_run)
{
    for (int i = 0; i < 2; i++) {
        Performer__Response *response =
            workshop_submit_text(&workshop, workshop_job("one", 1, ""), "key-1");
        cr_assert_eq(response->status, ST_OK);
        cr_assert_str_eq(response->submitted->run, "r1");
        performer__response__free_unpacked(response, NULL);
    }
    cr_assert_eq(workshop.coordinator.run_count, 1);
}

Test(driver, a_directory_of_another_database_is_not_taken_over)
{
    scratch_mkdir(&workshop.scratch, "state/runs/r1");
    refused(workshop_submit_text(&workshop, workshop_job("one", 1, ""), ""), ST_REFUSED,
            "another database");
    cr_assert_eq(workshop.coordinator.run_count, 0);
    rmdir(scratch_path(&workshop.scratch, "state/runs/r1"));
    cr_assert_eq(workshop_submit(&workshop, "one", 1), 1);
}

Test(driver, ranks_of_other_hosts_need_a_way_to_the_daemon_and_to_its_runs)
{
    workshop.launcher.remote = true;
    refused(workshop_submit_text(&workshop, workshop_job("far", 1, ""), ""), ST_REFUSED,
            "--listen tls+tcp://");
    workshop.driver.remote.url = "tls+tcp://here:1";
    refused(workshop_submit_text(&workshop, workshop_job("far", 1, ""), ""), ST_REFUSED, "--runs");
    snprintf(workshop.directory.runs, sizeof workshop.directory.runs, "%s",
             scratch_path(&workshop.scratch, "shared/runs"));
    workshop_submit(&workshop, "far", 1);
}

Test(driver, job_files_that_are_missing_are_written_before_the_first_attempt)
{
    workshop_submit(&workshop, "one", 1);
    unlink(scratch_path(&workshop.scratch, "state/runs/r1/job.toml"));
    unlink(scratch_path(&workshop.scratch, "state/runs/r1/resolved.toml"));
    driver_tick(&workshop.driver);
    cr_assert_str_eq(state_file("r1/job.toml"), "# as written\n");
    cr_assert_str_eq(state_file("r1/resolved.toml"), workshop_job("one", 1, ""));
    cr_assert_eq(workshop.starts, 1);
}

/* ---- forks ---- */

/* r1 trains, and has told of a checkpoint of that step. */
static void save_checkpoint(uint64_t step)
{
    char name[128];
    Performer__Report report = PERFORMER__REPORT__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
    Performer__Request request = PERFORMER__REQUEST__INIT;
    snprintf(name, sizeof name, "state/runs/r1/checkpoints/step-%010d", (int)step);
    cr_assert_eq(make_directories(scratch_path(&workshop.scratch, name), NULL), ST_OK);
    saved.path = (char *)scratch_path(&workshop.scratch, name);
    saved.bytes = 5;
    notice.step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED;
    notice.checkpoint_saved = &saved;
    report.run = "r1";
    report.attempt = 1;
    report.nonce = workshop.order.nonce;
    report.sequence = step / 10;
    report.n_notices = 1;
    report.notices = notices;
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = &report;
    Performer__Response *response = workshop_ask(&workshop, &workshop_caller, &request);
    cr_assert_eq(response->status, ST_OK, "%s", response->text);
    performer__response__free_unpacked(response, NULL);
    strcat(name, "/MANIFEST");
    scratch_write(&workshop.scratch, name, "whole");
}

static Performer__Response *submit_fork_as(const struct caller *caller, const char *of,
                                           uint64_t step, const char *more, const char *key)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Submit submit = PERFORMER__SUBMIT__INIT;
    submit.text = submit.resolved = (char *)workshop_job("fork", 1, more);
    submit.key = (char *)key;
    submit.fork_of = (char *)of;
    submit.fork_step = step;
    request.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
    request.submit = &submit;
    return workshop_ask(&workshop, caller, &request);
}

static Performer__Response *submit_fork(const char *of, uint64_t step, const char *more,
                                        const char *key)
{
    return submit_fork_as(&workshop_caller, of, step, more, key);
}

static void remove_checkpoint(int step)
{
    char name[128];
    snprintf(name, sizeof name, "state/runs/r1/checkpoints/step-%010d/MANIFEST", step);
    cr_assert_eq(unlink(scratch_path(&workshop.scratch, name)), 0);
    *strrchr(name, '/') = '\0';
    cr_assert_eq(rmdir(scratch_path(&workshop.scratch, name)), 0);
}

Test(driver, a_fork_has_its_checkpoint_whatever_becomes_of_the_source)
{
    workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    save_checkpoint(10);
    save_checkpoint(20);
    for (int i = 0; i < 2; i++) {
        Performer__Response *response = submit_fork("one", 0, "", "key");
        cr_assert_eq(response->status, ST_OK, "%s", response->text);
        cr_assert_str_eq(response->submitted->run, "r2");
        cr_assert_eq(response->submitted->forked_step, 20, "the newest");
        performer__response__free_unpacked(response, NULL);
        if (i == 0) remove_checkpoint(20);
    }
    cr_assert_str_eq(state_file("r2/checkpoints/step-0000000020/MANIFEST"), "whole");
    cr_assert_neq(access(scratch_path(&workshop.scratch, "state/runs/r2.fork"), F_OK), 0);

    Performer__Response *response = submit_fork("r1", 10, "", "");
    cr_assert_eq(response->submitted->forked_step, 10);
    performer__response__free_unpacked(response, NULL);
    response = submit_fork("r2", 20, "", "");
    cr_assert_eq(response->status, ST_OK, "a fork can be forked at once: %s", response->text);
    performer__response__free_unpacked(response, NULL);
}

Test(driver, a_fork_that_cannot_be_is_refused_and_leaves_nothing)
{
    workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    refused(submit_fork("r1", 0, "", ""), ST_REFUSED, "no good checkpoint to begin from");
    save_checkpoint(10);
    refused(submit_fork_as(&(struct caller){.user = "other"}, "r1", 0, "", ""), ST_NOT_PERMITTED,
            "r1");
    refused(submit_fork("r7", 0, "", ""), ST_NOT_FOUND, "no run `r7`");
    refused(submit_fork("r1", 20, "", ""), ST_REFUSED, "no good checkpoint of step 20");
    refused(submit_fork("r1", 0, "[attention]\nfeatures = 7\n", ""), ST_INVALID, "`features`");
    refused(submit_fork("r1", 0, "[queue]\nafter = [\"r9\"]\n", ""), ST_NOT_FOUND, "r9");
    scratch_mkdir(&workshop.scratch, "state/runs/r1/checkpoints/step-0000000010/in-the-way");
    refused(submit_fork("r1", 10, "", ""), ST_NOT_PERMITTED, "hard link to its in-the-way");
    cr_assert_neq(access(scratch_path(&workshop.scratch, "state/runs/r2.fork"), F_OK), 0);
    rmdir(scratch_path(&workshop.scratch, "state/runs/r1/checkpoints/step-0000000010/in-the-way"));
    remove_checkpoint(10);
    refused(submit_fork("r1", 10, "", ""), ST_REFUSED, "not there any more");
    cr_assert_eq(workshop.coordinator.run_count, 1);
    cr_assert_neq(access(scratch_path(&workshop.scratch, "state/runs/r2.fork"), F_OK), 0);
}

/* The daemon died between the commit and its files, or before the commit. */
Test(driver, what_a_fork_put_aside_is_taken_by_it_alone)
{
    workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    save_checkpoint(10);
    performer__response__free_unpacked(submit_fork("r1", 0, "", ""), NULL);
    cr_assert_eq(
        rename(scratch_path(&workshop.scratch, "state/runs/r2/checkpoints/step-0000000010"),
               scratch_path(&workshop.scratch, "state/runs/r2.fork")),
        0);
    scratch_mkdir(&workshop.scratch, "state/runs/r3.fork");
    scratch_write(&workshop.scratch, "state/runs/r3.fork/MANIFEST", "of nobody");
    workshop_restart(&workshop);
    driver_tick(&workshop.driver);
    cr_assert_str_eq(state_file("r2/checkpoints/step-0000000010/MANIFEST"), "whole");
    cr_assert_eq(workshop_submit(&workshop, "three", 1), 3);
    cr_assert_neq(access(scratch_path(&workshop.scratch, "state/runs/r3.fork"), F_OK), 0);
}

Test(driver, a_crash_leads_to_a_new_attempt_behind_a_new_fence)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    char first[64];
    snprintf(first, sizeof first, "%s", workshop.order.nonce);
    workshop_ranks_end(&workshop, 1, ST_IO);
    driver_tick(&workshop.driver);
    state_is(run, RUN_RESTARTING);
    workshop.state = LAUNCHER_ALIVE;
    for (int tries = 0; tries < 500 && workshop.starts < 2; tries++) {
        usleep(10000);
        driver_tick(&workshop.driver);
    }
    state_is(run, RUN_STARTING);
    cr_assert_str_neq(workshop.order.nonce, first);
    cr_assert_str_eq(state_file("r1/fence"), workshop.order.nonce);
    cr_assert_not_null(strstr(workshop.order.attempt_directory, "/r1/attempt-2"));
}

Test(driver, what_ranks_could_not_deliver_is_taken_before_the_end)
{
    uint64_t run = workshop_submit(&workshop, "one", 2);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 3);
    workshop_spool(&workshop, 0, 1, 3); /* sent, but its answer was lost */
    workshop_spool(&workshop, 0, 2, 6);
    workshop_ranks_end(&workshop, 2, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->step, 6);
    cr_assert_neq(
        access(scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.spool"), F_OK), 0);
}

Test(driver, a_spool_that_cannot_be_read_is_left_for_a_person)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    scratch_write(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.spool", "nonsense");
    workshop_ranks_end(&workshop, 1, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
    cr_assert_eq(
        access(scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.spool"), F_OK), 0);
}

Test(driver, an_attempt_that_outlived_the_daemon_is_adopted)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 3);
    workshop_restart(&workshop);
    state_is(run, RUN_RUNNING);
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.starts, 1);
    workshop_report(&workshop, 0, 2, 5);
    workshop_ranks_end(&workshop, 1, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
}

Test(driver, an_attempt_that_ended_while_the_daemon_was_away)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop_spool(&workshop, 0, 1, 9);
    workshop_ranks_end(&workshop, 1, ST_OK);
    workshop_restart(&workshop);
    state_is(run, RUN_SUCCEEDED);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->step, 9);
}

Test(driver, a_launcher_that_left_no_trace_is_lost)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop.state = LAUNCHER_GONE;
    driver_tick(&workshop.driver);
    state_is(run, RUN_RESTARTING);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->attempt.cause, CAUSE_LOST);
}

Test(driver, an_attempt_not_seen_yet_has_time_to_begin)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    workshop.state = LAUNCHER_UNSEEN;
    driver_tick(&workshop.driver);
    driver_tick(&workshop.driver);
    state_is(run, RUN_STARTING);
    workshop_restart(&workshop);
    driver_tick(&workshop.driver);
    state_is(run, RUN_STARTING);
}

Test(driver, a_launcher_that_cannot_be_run)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    workshop.start_status = ST_NOT_FOUND;
    driver_tick(&workshop.driver);
    state_is(run, RUN_RESTARTING);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->attempt.cause, CAUSE_LAUNCH_FAILED);
}

static void next_attempt_is_due(uint32_t attempt)
{
    for (int tries = 0; tries < 500; tries++) {
        driver_tick(&workshop.driver);
        if (coordinator_run(&workshop.coordinator, 1)->attempt.number == attempt) return;
        usleep(10000);
    }
    cr_assert_fail("attempt %u is not due", attempt);
}

/* The attempt before it is gone with its machine; the one before that came late, when it had been given up. */
Test(driver, no_attempt_starts_while_any_earlier_one_lives)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop_ranks_end(&workshop, 1, ST_IO);
    driver_tick(&workshop.driver);
    workshop.state = LAUNCHER_DOWN;
    next_attempt_is_due(2);
    driver_tick(&workshop.driver);
    state_is(run, RUN_RESTARTING);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->attempt.cause, CAUSE_NODE_LOST);

    workshop.state = LAUNCHER_ALIVE;
    workshop.lingering = "/attempt-1";
    const int starts = workshop.starts;
    next_attempt_is_due(3);
    driver_tick(&workshop.driver);
    state_is(run, RUN_STARTING);
    cr_assert_eq(workshop.starts, starts);
    cr_assert_eq(workshop.last_signal, SIGKILL);

    workshop.lingering = NULL;
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.starts, starts + 1);
}

Test(driver, files_that_cannot_be_written_fail_the_launch)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    scratch_write(&workshop.scratch, "state/runs/r1/attempt-1", "in the way");
    driver_tick(&workshop.driver);
    state_is(run, RUN_RESTARTING);
    cr_assert_eq(workshop.starts, 0);
}

Test(driver, a_launch_that_a_full_disk_prevents_costs_no_budget)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    workshop.start_status = ST_NO_SPACE;
    driver_tick(&workshop.driver);
    state_is(run, RUN_RESTARTING);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->spent[BUDGET_CRASH], 0);
}

Test(driver, a_kill_is_a_signal_and_a_cancel_is_an_order)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 1);
    Performer__Response *response =
        workshop_act(&workshop, "one", PERFORMER__ACTION__ACTION_CANCEL);
    cr_assert_eq(response->status, ST_OK);
    cr_assert_str_eq(response->acted->run, "r1");
    cr_assert_neq(response->acted->order, 0);
    performer__response__free_unpacked(response, NULL);
    cr_assert_eq(workshop.signals, 0);
    state_is(run, RUN_STOPPING);

    performer__response__free_unpacked(
        workshop_act(&workshop, "r1", PERFORMER__ACTION__ACTION_KILL), NULL);
    cr_assert_eq(workshop.signals, 1);
    cr_assert_eq(workshop.last_signal, SIGKILL);
    workshop.state = LAUNCHER_GONE;
    driver_tick(&workshop.driver);
    state_is(run, RUN_CANCELLED);
    refused(workshop_act(&workshop, "r9", PERFORMER__ACTION__ACTION_KILL), ST_NOT_FOUND, "r9");
}

static void kill_run(const char *run)
{
    Performer__Response *response = workshop_act(&workshop, run, PERFORMER__ACTION__ACTION_KILL);
    cr_assert_eq(response->status, ST_OK, "%s", response->text);
    performer__response__free_unpacked(response, NULL);
}

/* performer-launch needs a moment until launcher.json says whom to signal. */
Test(driver, a_kill_that_comes_before_the_launcher_waits_for_it)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    workshop.state = LAUNCHER_UNSEEN;
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.starts, 1);
    kill_run("r1");
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.signals, 0);
    workshop.state = LAUNCHER_ALIVE;
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.signals, 1);
    cr_assert_eq(workshop.last_signal, SIGKILL);
    workshop.state = LAUNCHER_GONE;
    driver_tick(&workshop.driver);
    state_is(run, RUN_CANCELLED);
}

/* No file may grow: what a full disk is like, for the database and for everything beside it. */
static void fill_disk(bool full)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = full ? 0 : limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(driver, a_full_disk_refuses_and_loses_nothing)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    fill_disk(true);
    Performer__Response *response =
        workshop_submit_text(&workshop, workshop_job("two", 1, ""), "key");
    workshop_ranks_end(&workshop, 0, ST_OK);
    driver_tick(&workshop.driver);
    enum run_state meanwhile = workshop_state(&workshop, run);
    size_t count = workshop.coordinator.run_count;
    fill_disk(false);

    cr_assert_neq(response->status, ST_OK, "acknowledged, but not durable");
    cr_assert_neq(response->text[0], '\0');
    performer__response__free_unpacked(response, NULL);
    cr_assert_eq(count, 1);
    cr_assert_eq(meanwhile, RUN_STARTING, "its end is not durable, so it has not ended");

    workshop_ranks_end(&workshop, 1, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
    cr_assert_eq(workshop_submit(&workshop, "two", 1), 2);
    workshop_restart(&workshop);
    state_is(run, RUN_SUCCEEDED);
    cr_assert_eq(workshop.coordinator.run_count, 2);
}

Test(driver, a_launcher_that_was_seen_on_a_full_disk_is_recorded_later)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    workshop.state = LAUNCHER_UNSEEN;
    driver_tick(&workshop.driver);
    workshop.state = LAUNCHER_ALIVE;
    fill_disk(true);
    driver_tick(&workshop.driver);
    int64_t meanwhile = coordinator_run(&workshop.coordinator, run)->attempt.pid;
    fill_disk(false);
    cr_assert_eq(meanwhile, 0);
    driver_tick(&workshop.driver);
    cr_assert_eq(coordinator_run(&workshop.coordinator, run)->attempt.pid, 4711);
    kill_run("r1");
    cr_assert_eq(workshop.signals, 1);
}

/* Nothing of the spool is new, so taking it says nothing about the store. */
Test(driver, a_store_that_failed_before_holds_no_end_up)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 3);
    fill_disk(true);
    Performer__Response *response =
        workshop_submit_text(&workshop, workshop_job("two", 1, ""), "key");
    fill_disk(false);
    cr_assert_neq(response->status, ST_OK);
    performer__response__free_unpacked(response, NULL);
    workshop_spool(&workshop, 0, 1, 3);
    workshop_ranks_end(&workshop, 1, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
}

Test(driver, a_spool_with_a_report_that_is_refused_is_left_for_a_person)
{
    uint64_t run = workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 3);
    workshop_spool(&workshop, 0, 5, 6); /* where are 2 to 4? */
    workshop_ranks_end(&workshop, 1, ST_OK);
    driver_tick(&workshop.driver);
    state_is(run, RUN_SUCCEEDED);
    cr_assert_eq(
        access(scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.spool"), F_OK), 0);
}

Test(driver, an_unknown_run_s_report_is_refused)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Report report = PERFORMER__REPORT__INIT;
    report.run = "r5";
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = &report;
    refused(workshop_ask(&workshop, &workshop_caller, &request), ST_NOT_FOUND, "r5");
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = NULL;
    refused(workshop_ask(&workshop, &workshop_caller, &request), ST_UNSUPPORTED, "changes nothing");
}

/* ---- reports that come together ---- */

enum { RUNS = 3 };

/* The report `sequence` of the only rank of a run, with one row. */
struct word {
    char run[RUN_ID_SIZE];
    Performer__Report report;
    Performer__MetricRow row, *rows[1];
    Performer__Request request;
};

static void word_make(uint64_t run, uint64_t sequence, struct word *word)
{
    const struct run *about = coordinator_run(&workshop.coordinator, run);
    performer__report__init(&word->report);
    performer__metric_row__init(&word->row);
    performer__request__init(&word->request);
    snprintf(word->run, sizeof word->run, "r%" PRIu64, run);
    word->row.name = "loss";
    word->row.step = sequence;
    word->row.value = (double)(10 * run + sequence);
    word->rows[0] = &word->row;
    word->report.run = word->run;
    word->report.attempt = 1;
    word->report.nonce = (char *)about->attempt.nonce;
    word->report.sequence = sequence;
    word->report.n_metrics = 1;
    word->report.metrics = word->rows;
    word->request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    word->request.report = &word->report;
}

static void launch_runs(void)
{
    for (int i = 0; i < RUNS; i++) workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    cr_assert_eq(workshop.starts, RUNS);
}

static bool count_row(void *context, const struct metric_row *row)
{
    (void)row;
    ++*(int *)context;
    return true;
}

static int rows_stored(uint64_t run)
{
    int count = 0;
    uint64_t next;
    const struct metric_query query = {.run = run, .limit = 100};
    cr_assert_eq(store_metrics(workshop.store, &query, count_row, &count, &next, NULL), ST_OK);
    return count;
}

Test(driver, requests_that_come_together_are_answered_each)
{
    struct word words[RUNS + 2];
    struct asked asked[RUNS + 3];
    launch_runs();
    for (uint64_t i = 0; i < RUNS; i++) word_make(i + 1, 1, &words[i]);
    word_make(1, 2, &words[RUNS]);     /* its run has just spoken */
    word_make(2, 3, &words[RUNS + 1]); /* and this one leaves a gap */
    for (int i = 0; i < RUNS + 2; i++) asked[i] = (struct asked){.request = &words[i].request};
    Performer__Request ping = PERFORMER__REQUEST__INIT;
    ping.body_case = PERFORMER__REQUEST__BODY_PING;
    asked[RUNS + 2] = (struct asked){.request = &ping};
    for (int i = 0; i < RUNS + 3; i++) asked[i].caller = &workshop_caller;
    cr_assert_eq(driver_answer(&workshop.driver, asked, RUNS + 3), RUNS);
    cr_assert_eq(driver_answer(&workshop.driver, asked + RUNS, 3), 2);
    cr_assert_eq(driver_answer(&workshop.driver, asked + RUNS + 2, 1), 1);
    for (int i = 0; i <= RUNS; i++) {
        cr_expect_eq(asked[i].response->status, ST_OK, "%s", asked[i].response->text);
        performer__response__free_unpacked(asked[i].response, NULL);
    }
    refused(asked[RUNS + 1].response, ST_INVALID, "report 3 after report 1");
    refused(asked[RUNS + 2].response, ST_UNSUPPORTED, "changes nothing");

    workshop_restart(&workshop);
    for (uint64_t run = 1; run <= RUNS; run++) {
        const int told = run == 1 ? 2 : 1;
        cr_expect_eq(rows_stored(run), told);
        cr_expect_eq(coordinator_run(&workshop.coordinator, run)->step, told);
    }
}

Test(driver, a_report_that_cannot_be_stored_takes_no_other_along)
{
    struct word words[RUNS];
    struct asked asked[RUNS];
    sqlite3 *db;
    launch_runs();
    cr_assert_eq(sqlite3_open(scratch_path(&workshop.scratch, "state/performerd.db"), &db),
                 SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, "DELETE FROM runs WHERE number = 2", NULL, NULL, NULL),
                 SQLITE_OK);
    sqlite3_close(db);
    for (uint64_t i = 0; i < RUNS; i++) {
        word_make(i + 1, 1, &words[i]);
        asked[i] = (struct asked){&workshop_caller, &words[i].request, NULL};
    }
    cr_assert_eq(driver_answer(&workshop.driver, asked, RUNS), RUNS);
    refused(asked[1].response, ST_INTERNAL, "the row to change is not there");
    for (int i = 0; i < RUNS; i += 2) {
        cr_expect_eq(asked[i].response->status, ST_OK, "%s", asked[i].response->text);
        performer__response__free_unpacked(asked[i].response, NULL);
        cr_expect_eq(rows_stored((uint64_t)i + 1), 1);
    }
    cr_expect_eq(rows_stored(2), 0);
    cr_expect_eq(coordinator_run(&workshop.coordinator, 2)->step, 0);
}
