#include "daemon/state_directory.h"

#include <sys/wait.h>

#include "tests/daemon/scratch.h"

static struct scratch scratch;
static struct state_directory directory;
static struct fault fault;

static void setup(void)
{
    scratch = scratch_new();
}

static void teardown(void)
{
    scratch_remove(&scratch);
}

TestSuite(state_directory, .init = setup, .fini = teardown);

Test(state_directory, is_made_for_its_owner_alone)
{
    struct stat stat_;
    cr_assert_eq(state_directory_open(scratch_path(&scratch, "a/b"), NULL, &directory, &fault),
                 ST_OK, "%s", fault.text);
    cr_assert_eq(stat(scratch_path(&scratch, "a/b"), &stat_), 0);
    cr_assert_eq(stat_.st_mode & 0777, 0700);
    cr_assert_str_eq(directory.path, scratch_path(&scratch, "a/b"));
    cr_assert_str_eq(directory.runs, scratch_path(&scratch, "a/b/runs"));

    char path[PATH_MAX];
    attempt_directory(&directory, "r12", 3, path, sizeof path);
    cr_assert_str_eq(path, scratch_path(&scratch, "a/b/runs/r12/attempt-3"));
    state_directory_close(&directory);
}

Test(state_directory, runs_may_lie_elsewhere)
{
    cr_assert_eq(state_directory_open(scratch_path(&scratch, "s"), scratch_path(&scratch, "r"),
                                      &directory, &fault),
                 ST_OK);
    cr_assert_str_eq(directory.runs, scratch_path(&scratch, "r"));
    cr_assert_neq(access(scratch_path(&scratch, "s/runs"), F_OK), 0);
    state_directory_close(&directory);
}

Test(state_directory, a_second_holder_is_told_who_the_first_is)
{
    struct state_directory second;
    cr_assert_eq(state_directory_open(scratch.path, NULL, &directory, &fault), ST_OK);
    cr_assert_eq(state_directory_open(scratch.path, NULL, &second, &fault), ST_BUSY);
    char process[32];
    snprintf(process, sizeof process, "process %d on ", (int)getpid());
    cr_assert_not_null(strstr(fault.text, process), "%s", fault.text);
    cr_assert_not_null(strstr(fault.text, scratch.path));
    state_directory_close(&directory);
    cr_assert_eq(state_directory_open(scratch.path, NULL, &second, &fault), ST_OK);
    state_directory_close(&second);
}

Test(state_directory, the_lock_ends_with_its_process)
{
    pid_t pid = fork();
    if (pid == 0) _exit(state_directory_open(scratch.path, NULL, &directory, &fault) == ST_OK);
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(WEXITSTATUS(status), 1);
    cr_assert_eq(state_directory_open(scratch.path, NULL, &directory, &fault), ST_OK);
    state_directory_close(&directory);
}

Test(state_directory, a_file_in_its_place)
{
    scratch_write(&scratch, "file", "");
    cr_assert_neq(state_directory_open(scratch_path(&scratch, "file"), NULL, &directory, &fault),
                  ST_OK);
    cr_assert_not_null(strstr(fault.text, "file"));
    cr_assert_neq(
        state_directory_open(scratch_path(&scratch, "file/below"), NULL, &directory, &fault),
        ST_OK);
}

Test(state_directory, runs_that_cannot_be_made_give_the_lock_back)
{
    scratch_write(&scratch, "file", "");
    cr_assert_neq(state_directory_open(scratch_path(&scratch, "s"), scratch_path(&scratch, "file"),
                                       &directory, &fault),
                  ST_OK);
    cr_assert_eq(state_directory_open(scratch_path(&scratch, "s"), NULL, &directory, &fault),
                 ST_OK);
    state_directory_close(&directory);
}

Test(state_directory, network_file_systems_by_their_numbers)
{
    cr_assert_str_eq(network_file_system(0x6969), "NFS");
    cr_assert_str_eq(network_file_system(0xff534d42), "CIFS");
    cr_assert_str_eq(network_file_system((int)0xff534d42), "CIFS"); /* as a signed word gives it */
    cr_assert_null(network_file_system(0xef53));                    /* ext4 */
    cr_assert_null(network_file_system(0x01021994));                /* tmpfs */
    cr_assert_null(network_file_system(0x58465342));                /* xfs */
    cr_assert_null(network_file_system(0x9123683e));                /* btrfs */
}
