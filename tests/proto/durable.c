#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/durable.h"

static char directory[64];
static struct fault fault;

static void make_directory(void)
{
    snprintf(directory, sizeof directory, "/tmp/durable.XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void remove_directory(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(durable, .init = make_directory, .fini = remove_directory);

static const char *in_directory(const char *name)
{
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static int entries(void)
{
    DIR *open_directory = opendir(directory);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(open_directory));)
        if (entry->d_name[0] != '.') count++;
    closedir(open_directory);
    return count;
}

static void assert_content(const char *path, const char *content)
{
    char *bytes;
    size_t length;
    cr_assert_eq(file_read(path, 1000, &bytes, &length, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(length, strlen(content));
    cr_assert_str_eq(bytes, content);
    free(bytes);
}

Test(durable, a_file_is_made_and_replaced)
{
    const char *path = in_directory("plan");
    cr_assert_eq(durable_write(path, "one", 3, &fault), ST_OK);
    assert_content(path, "one");
    cr_assert_eq(durable_write(path, "second", 6, &fault), ST_OK);
    assert_content(path, "second");
    cr_assert_eq(durable_write(path, "", 0, &fault), ST_OK);
    assert_content(path, "");
    cr_assert_eq(entries(), 1);
}

Test(durable, a_path_without_a_directory_is_in_the_current_one)
{
    cr_assert_eq(chdir(directory), 0);
    cr_assert_eq(durable_write("plain", "x", 1, &fault), ST_OK, "%s", fault.text);
    assert_content(in_directory("plain"), "x");
}

/* Too large for the limit on file sizes: the write fails in the middle. */
Test(durable, a_failed_write_leaves_the_old_file_and_nothing_else)
{
    const char *path = in_directory("plan");
    cr_assert_eq(durable_write(path, "old", 3, &fault), ST_OK);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    static char large[10000];
    cr_assert_eq(durable_write(path, large, sizeof large, &fault), ST_NO_SPACE);
    cr_assert(strstr(fault.text, path), "%s", fault.text);
    assert_content(path, "old");
    cr_assert_eq(entries(), 1);
}

Test(durable, a_full_disk_leaves_the_old_file_and_nothing_else)
{
    if (mount("none", directory, "tmpfs", 0, "size=64k") != 0)
        cr_skip_test("mounting a small disk needs root");
    const char *path = in_directory("plan");
    enum status first = durable_write(path, "old", 3, &fault);
    static char large[1 << 20];
    enum status second = durable_write(path, large, sizeof large, &fault);
    int left = entries();
    char *bytes = NULL;
    size_t length = 0;
    enum status third = file_read(path, 100, &bytes, &length, &fault);
    umount2(directory, MNT_DETACH);
    cr_assert_eq(first, ST_OK);
    cr_assert_eq(second, ST_NO_SPACE);
    cr_assert_eq(third, ST_OK);
    cr_assert_str_eq(bytes, "old");
    cr_assert_eq(left, 1);
    free(bytes);
}

Test(durable, a_missing_directory_is_named)
{
    const char *path = in_directory("none/plan");
    cr_assert_eq(durable_write(path, "x", 1, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, path), "%s", fault.text);
}

Test(durable, a_directory_is_not_replaced_by_a_file)
{
    const char *path = in_directory("taken");
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_neq(durable_write(path, "x", 1, &fault), ST_OK);
    cr_assert(strstr(fault.text, "replace"), "%s", fault.text);
    cr_assert_eq(entries(), 1);
}

Test(durable, a_path_too_long_is_an_error)
{
    char path[5000];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    cr_assert_neq(durable_write(path, "x", 1, &fault), ST_OK);
    cr_assert_neq(durable_rename("a", path, &fault), ST_OK);
    cr_assert_neq(make_directories(path, &fault), ST_OK);
}

/* What cannot be synced is not called saved. */
Test(durable, a_failed_sync_is_an_error)
{
    cr_assert_neq(durable_sync_directory(in_directory("none"), &fault), ST_OK);
    cr_assert_neq(durable_sync_directory("/dev/null", &fault), ST_OK);
}

Test(durable, a_directory_is_renamed_into_place)
{
    const char *from = in_directory("aside"), *to = in_directory("step-1");
    cr_assert_eq(mkdir(from, 0700), 0);
    cr_assert_eq(durable_rename(from, to, &fault), ST_OK);
    cr_assert_eq(access(to, F_OK), 0);
    cr_assert_neq(access(from, F_OK), 0);
    cr_assert_eq(durable_rename(from, to, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, "aside") && strstr(fault.text, "step-1"), "%s", fault.text);
}

Test(durable, directories_are_made_for_the_owner_alone)
{
    umask(0);
    const char *path = in_directory("a//b/c/");
    cr_assert_eq(make_directories(path, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(make_directories(path, &fault), ST_OK, "again: %s", fault.text);
    struct stat info;
    cr_assert_eq(stat(in_directory("a/b"), &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0700);
}

Test(durable, a_file_in_the_way_of_a_directory_is_named)
{
    const char *path = in_directory("file");
    cr_assert_eq(durable_write(path, "x", 1, &fault), ST_OK);
    cr_assert_neq(make_directories(in_directory("file/below"), &fault), ST_OK);
    cr_assert(strstr(fault.text, path), "%s", fault.text);
    cr_assert_neq(make_directories("", &fault), ST_OK);
}

Test(durable, a_file_is_read_up_to_its_limit)
{
    const char *path = in_directory("file");
    static char large[100000];
    memset(large, 'x', sizeof large);
    char *bytes = NULL;
    size_t length = 0;
    cr_assert_eq(durable_write(path, large, sizeof large, &fault), ST_OK);
    cr_assert_eq(file_read(path, sizeof large - 1, &bytes, &length, &fault), ST_TOO_LARGE);
    cr_assert_null(bytes);
    cr_assert_eq(file_read(path, sizeof large, &bytes, &length, &fault), ST_OK);
    cr_assert_eq(length, sizeof large);
    cr_assert_eq(memcmp(bytes, large, length), 0);
    cr_assert_eq(bytes[length], '\0');
    free(bytes);
}

Test(durable, reading_what_is_no_file_says_so)
{
    char *bytes;
    size_t length;
    cr_assert_eq(file_read(in_directory("none"), 10, &bytes, &length, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, "No such file"), "%s", fault.text);
    cr_assert_eq(file_read(directory, 10, &bytes, &length, &fault), ST_SYSTEM);
    cr_assert(strstr(fault.text, "directory"), "%s", fault.text);
    cr_assert_eq(file_read("/dev/zero", 10, &bytes, &length, &fault), ST_TOO_LARGE);
}

Test(durable, writing_to_a_full_device_is_no_space)
{
    int fd = open("/dev/full", O_WRONLY);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write_fully(fd, "x", 1, "/dev/full", &fault), ST_NO_SPACE);
    close(fd);
}
