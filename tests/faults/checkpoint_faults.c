/* Every call of a save, a prune and a load fails once, fails from then on, or is the last of its process. */

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <dirent.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/daemon/scratch.h"
#include "tests/faults/calls.h"
#include "tests/faults/small_checkpoint.h"
#include "worker/checkpoint.h"

static struct scratch scratch;
static const char *directory;
static struct fault fault;

static void setup(void)
{
    scratch = (struct scratch){"/dev/shm/performerd-test.XXXXXX"}; /* syncs cost nothing there */
    cr_assert_not_null(mkdtemp(scratch.path));
    directory = scratch_path(&scratch, "checkpoints");
}

static void teardown(void)
{
    scratch_remove(&scratch);
}

TestSuite(every_call, .init = setup, .fini = teardown, .timeout = 120);

static int entries_in(const char *where)
{
    DIR *listing = opendir(where);
    int count = 0;
    cr_assert_not_null(listing);
    while (readdir(listing)) count++;
    closedir(listing);
    return count - 2;
}

static int open_files(void)
{
    return entries_in("/proc/self/fd");
}

static uint64_t newest(void)
{
    uint64_t step = 0;
    int rejected;
    enum status status = small_checkpoint_newest(directory, &step, &rejected, &fault);
    cr_assert(status == ST_OK || status == ST_NOT_FOUND, "%s", fault.text);
    cr_assert_eq(rejected, 0, "%s", fault.text);
    return step;
}

static void prune(uint64_t step)
{
    checkpoint_prune(directory, step, 1, (struct spared_steps){0}, NULL, NULL);
}

static void start_anew(void)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(small_checkpoint_save(directory, 10, &fault), ST_OK, "%s", fault.text);
}

/* Whatever happened: the newest is whole, what comes after works and leaves nothing behind. */
static void expect_usable(uint64_t least)
{
    cr_assert_geq(newest(), least);
    cr_assert_eq(small_checkpoint_save(directory, 20, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(newest(), 20);
    prune(20);
    cr_assert_eq(newest(), 20);
    cr_assert_eq(entries_in(directory), 1, "leftovers");
}

/* Step 20 beside step 10, or in place of an earlier 20. */
static void fail_saves(enum calls_fault how, bool replaces)
{
    json_set_alloc_funcs(malloc, free); /* of a shared library, whose own calls are not seen */
    bool met = true;
    uint64_t n = 0;
    while (met) {
        start_anew();
        if (replaces) cr_assert_eq(small_checkpoint_save(directory, 20, &fault), ST_OK);
        int files = open_files();
        calls_arm(CALLS_ALL, how, ++n);
        enum status status = small_checkpoint_save(directory, 20, &fault);
        met = calls_disarm();
        cr_assert_eq(open_files(), files, "call %d: a file stays open", (int)n);
        cr_assert(met || status == ST_OK, "%s", fault.text);
        if (status == ST_OK)
            cr_assert_eq(newest(), 20);
        else
            cr_assert(strstr(fault.text, directory), "call %d: %s", (int)n, fault.text);
        if (status != ST_OK && how == CALLS_FAIL_ONCE)
            cr_assert_eq(entries_in(directory), newest() == 20 ? 2 : 1, "call %d", (int)n);
        expect_usable(replaces ? 20 : 10);
    }
    cr_assert_gt(n, 60);
    cr_log_info("%d calls\n", (int)n - 1);
}

Test(every_call, of_a_save_fails_once)
{
    fail_saves(CALLS_FAIL_ONCE, false);
}

Test(every_call, of_a_save_fails_and_all_that_follow)
{
    fail_saves(CALLS_FAIL_ON, false);
}

Test(every_call, of_a_replacing_save_fails_once)
{
    fail_saves(CALLS_FAIL_ONCE, true);
}

Test(every_call, of_a_prune_fails)
{
    bool met = true;
    for (uint64_t n = 1; met; n++) {
        start_anew();
        cr_assert_eq(small_checkpoint_save(directory, 15, &fault), ST_OK);
        int files = open_files();
        calls_arm(CALLS_ALL, n % 2 ? CALLS_FAIL_ONCE : CALLS_FAIL_ON, (n + 1) / 2);
        prune(15);
        met = calls_disarm();
        cr_assert_eq(open_files(), files);
        expect_usable(15);
    }
}

/* jansson's own memory stays out of it: jansson 2.14 asserts where a text that it reads cannot grow. */

/* A checkpoint that cannot be read just now is passed over in words, or the load fails in words: that there is none is never said. */
static void fail_loads(enum calls_fault how)
{
    start_anew();
    cr_assert_eq(small_checkpoint_save(directory, 20, &fault), ST_OK);
    bool met = true;
    uint64_t n = 0;
    while (met) {
        uint64_t step = 0;
        int rejected, files = open_files();
        calls_arm(CALLS_ALL, how, ++n);
        enum status status = small_checkpoint_newest(directory, &step, &rejected, &fault);
        met = calls_disarm();
        cr_assert_eq(open_files(), files);
        cr_assert_neq(status, ST_NOT_FOUND, "call %d: %s", (int)n, fault.text);
        if (status == ST_OK)
            cr_assert_eq(step, rejected > 0 ? 10 : 20, "call %d", (int)n);
        else
            cr_assert(met && strlen(fault.text) > 0);
        cr_assert_eq(newest(), 20);
    }
    cr_assert_gt(n, 30);
    cr_log_info("%d calls\n", (int)n - 1);
}

Test(every_call, of_a_load_fails_once)
{
    fail_loads(CALLS_FAIL_ONCE);
}

Test(every_call, of_a_load_fails_and_all_that_follow)
{
    fail_loads(CALLS_FAIL_ON);
}

/* True: it was killed at its n-th call. What it says it had done is in `*done`. */
static bool killed_at(uint64_t n, bool replaces)
{
    pid_t writer = fork();
    if (writer == 0) {
        calls_arm(CALLS_SYSTEM, CALLS_KILL, n);
        enum status status = small_checkpoint_save(directory, replaces ? 10 : 20, &fault);
        if (status == ST_OK && !replaces) prune(20);
        _exit(status == ST_OK ? 0 : 1);
    }
    int ended;
    cr_assert_eq(waitpid(writer, &ended, 0), writer);
    if (WIFSIGNALED(ended)) {
        cr_assert_eq(WTERMSIG(ended), SIGKILL);
        return true;
    }
    cr_assert_eq(WEXITSTATUS(ended), 0);
    return false;
}

static void kill_savers(bool replaces)
{
    bool killed = true;
    uint64_t n = 0;
    while (killed) {
        start_anew();
        killed = killed_at(++n, replaces);
        expect_usable(10);
    }
    cr_assert_gt(n, 40);
    cr_log_info("%d calls\n", (int)n - 1);
}

Test(every_call, of_a_save_and_a_prune_is_the_last)
{
    kill_savers(false);
}

Test(every_call, of_a_replacing_save_is_the_last)
{
    kill_savers(true);
}
