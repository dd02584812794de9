/* Every call of a daemon's day fails once, fails from then on, or is the last of its process: a submit, a launch, reports, an
 * order, an end. What was acknowledged is there afterwards, and the next daemon goes on. */

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/daemon/workshop.h"
#include "tests/faults/calls.h"

/* How a daemon's process ended. */
enum ending { DONE, UNHARMED, KILLED, ABORTED };

/* What it acknowledged before that; written by it, read by whoever comes after it. */
struct acknowledged {
    bool submitted, ordered;
    uint64_t step; /* of metrics */
};

static struct acknowledged *acknowledged;
static struct scratch scratch;

/* ---- one day ---- */

static bool taken(Performer__Response *response)
{
    bool ok = response->status == ST_OK;
    cr_assert(ok || response->text[0] != '\0', "a refusal without words");
    performer__response__free_unpacked(response, NULL);
    return ok;
}

static void day(struct workshop *workshop)
{
    if (taken(workshop_submit_text(workshop, workshop_job("job", 2, ""), "key")))
        acknowledged->submitted = true;
    driver_tick(&workshop->driver);
    driver_tick(&workshop->driver);
    if (workshop->starts == 0) return;
    for (uint64_t sequence = 1; sequence <= 2; sequence++)
        if (taken(workshop_send_report(workshop, 0, sequence, 3 * sequence)))
            acknowledged->step = 3 * sequence;
    if (taken(workshop_act(workshop, "r1", PERFORMER__ACTION__ACTION_REDRAW)))
        acknowledged->ordered = true;
    workshop->state = LAUNCHER_ENDED;
    driver_tick(&workshop->driver);
}

/* A daemon that opens what there is and lives a day in which the n-th call meets the fault. */
static void live(enum calls_kind kinds, enum calls_fault fault, uint64_t n)
{
    struct workshop workshop;
    freopen("/dev/null", "w", stderr); /* it says much */
    workshop_open_in(&workshop, scratch);
    calls_arm(kinds, fault, n);
    day(&workshop);
    bool met = calls_disarm();
    cr_assert_null(coordinator_check(&workshop.coordinator));
    _exit(met ? DONE : UNHARMED);
}

static enum ending child_ends(pid_t child)
{
    int ended;
    cr_assert_eq(waitpid(child, &ended, 0), child);
    if (WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL) return KILLED;
    if (WIFSIGNALED(ended) && WTERMSIG(ended) == SIGABRT) return ABORTED;
    cr_assert(WIFEXITED(ended) && WEXITSTATUS(ended) <= UNHARMED, "status %x", ended);
    return WEXITSTATUS(ended);
}

/* The same of nothing but the opening. A failure has words, and no want of memory is taken for a flaw of the database; a read that
 * fails with EIO is one to SQLite itself. */
static void open_only(enum calls_kind kinds, enum calls_fault how, uint64_t n)
{
    const char *path = scratch_path(&scratch, "state/performerd.db");
    struct store *store = NULL;
    struct coordinator coordinator;
    struct fault fault = {0};
    coordinator_init(&coordinator, 4);
    calls_arm(kinds, how, n);
    enum status status = store_open(path, &store, &fault);
    if (status == ST_OK) status = store_load(store, &coordinator, 0, &fault);
    bool met = calls_disarm();
    bool mistaken = status == ST_UNSUPPORTED || (status == ST_CORRUPT && kinds == CALLS_MEMORY);
    if (status != ST_OK && (mistaken || fault.text[0] == '\0')) {
        fprintf(stderr, "call %d: %d %s\n", (int)n, status, fault.text);
        _exit(100);
    }
    coordinator_fini(&coordinator);
    store_close(store);
    _exit(met ? DONE : UNHARMED);
}

/* ---- the next daemon ---- */

static bool count_metrics(void *context, const struct metric_row *row)
{
    uint64_t *step = context;
    cr_assert_eq(row->step, *step + 1, "a report is there whole or not at all");
    *step = row->step;
    return true;
}

static void expect_acknowledged(struct workshop *workshop)
{
    const struct run *run = coordinator_run(&workshop->coordinator, 1);
    cr_assert(run || !acknowledged->submitted);
    if (!run) return;
    cr_assert(run->order_count > 0 || !acknowledged->ordered);
    uint64_t step = 0, next;
    const struct metric_query query = {.run = 1, .name = "loss", .limit = 100};
    cr_assert_eq(store_metrics(workshop->store, &query, count_metrics, &step, &next, NULL), ST_OK);
    cr_assert(step == 0 || step == 3 || step == 6);
    cr_assert_geq(step, acknowledged->step);
}

/* Client and rank send again what was not acknowledged; then there is one run, as if nothing had been. */
static void expect_next_daemon(void)
{
    struct workshop workshop;
    workshop_open_in(&workshop, scratch);
    expect_acknowledged(&workshop);
    cr_assert(taken(workshop_submit_text(&workshop, workshop_job("job", 2, ""), "key")));
    cr_assert_eq(workshop.coordinator.run_count, 1, "a key is a run");
    cr_assert(taken(workshop_act(&workshop, "r1", PERFORMER__ACTION__ACTION_CANCEL)));
    driver_tick(&workshop.driver);
    cr_assert_null(coordinator_check(&workshop.coordinator));
    workshop_close(&workshop); /* removes the directory */
}

static bool every_one(void)
{
    return getenv("EVERY_CALL") != NULL;
}

static enum ending meet_opening(enum calls_kind kinds, enum calls_fault fault, uint64_t n)
{
    pid_t daemon = fork();
    if (daemon == 0) open_only(kinds, fault, n);
    return child_ends(daemon);
}

static enum ending meet(enum calls_kind kinds, enum calls_fault fault, uint64_t n)
{
    scratch = (struct scratch){"/dev/shm/performerd-test.XXXXXX"}; /* syncs cost nothing there */
    cr_assert_not_null(mkdtemp(scratch.path));
    *acknowledged = (struct acknowledged){0};
    pid_t daemon = fork();
    if (daemon == 0) live(kinds, fault, n);
    enum ending ending = child_ends(daemon);
    if (ending == UNHARMED) cr_assert(acknowledged->ordered && acknowledged->step == 6);
    expect_next_daemon();
    return ending;
}

static void setup(void)
{
    acknowledged =
        mmap(NULL, sizeof *acknowledged, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(acknowledged, MAP_FAILED);
}

TestSuite(every_call, .init = setup, .timeout = 250);

Test(every_call, to_the_system_fails_once)
{
    uint64_t n = 0;
    enum ending ending;
    while ((ending = meet(CALLS_SYSTEM, CALLS_FAIL_ONCE, ++n)) != UNHARMED)
        cr_assert_eq(ending, DONE, "call %d", (int)n);
    cr_assert_gt(n, 50);
    cr_log_info("%d calls\n", (int)n - 1);
}

Test(every_call, to_the_system_fails_and_all_that_follow)
{
    uint64_t n = 0;
    enum ending ending;
    while ((ending = meet(CALLS_SYSTEM, CALLS_FAIL_ON, ++n)) != UNHARMED)
        cr_assert_eq(ending, DONE, "call %d", (int)n);
    cr_assert_gt(n, 50);
    cr_log_info("%d calls\n", (int)n - 1);
}

Test(every_call, to_the_system_is_the_last)
{
    uint64_t n = 0;
    enum ending ending;
    while ((ending = meet(CALLS_SYSTEM, CALLS_KILL, ++n)) != UNHARMED)
        cr_assert_eq(ending, KILLED, "call %d", (int)n);
    cr_assert_gt(n, 50);
    cr_log_info("%d calls\n", (int)n - 1);
}

/* Where a decision needs memory and there is none the daemon ends by itself (daemon/memory.h); what SQLite lacks is an error. */
Test(every_call, for_memory_fails_once)
{
    uint64_t n = 0;
    enum ending ending;
    while ((ending = meet(CALLS_MEMORY, CALLS_FAIL_ONCE, ++n)) != UNHARMED)
        cr_assert(ending == DONE || ending == ABORTED, "call %d", (int)n);
    cr_assert_gt(n, 100);
    cr_log_info("%d calls\n", (int)n - 1);
}

static void fail_openings(enum calls_kind kinds, enum calls_fault how, uint64_t stride)
{
    scratch = (struct scratch){"/dev/shm/performerd-test.XXXXXX"};
    cr_assert_not_null(mkdtemp(scratch.path));
    pid_t daemon = fork();
    if (daemon == 0) live(CALLS_SYSTEM, CALLS_FAIL_ONCE, UINT64_MAX);
    cr_assert_eq(child_ends(daemon), UNHARMED);
    uint64_t n = 1;
    while (meet_opening(kinds, how, n) != UNHARMED) n += stride;
    cr_assert_gt(n, 20);
    cr_log_info("%d calls\n", (int)n - 1);
    expect_next_daemon();
}

Test(every_call, of_an_opening_to_the_system_fails)
{
    fail_openings(CALLS_SYSTEM, CALLS_FAIL_ONCE, 1);
    fail_openings(CALLS_SYSTEM, CALLS_FAIL_ON, 1);
}

Test(every_call, of_an_opening_for_memory_fails)
{
    fail_openings(CALLS_MEMORY, CALLS_FAIL_ONCE, every_one() ? 1 : 19);
}
