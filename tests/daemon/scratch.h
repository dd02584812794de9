#ifndef TESTS_DAEMON_SCRATCH_H
#define TESTS_DAEMON_SCRATCH_H

/* A directory of a test's own. */

#include <criterion/criterion.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
    char path[64];
};

static inline struct scratch scratch_new(void)
{
    struct scratch scratch = {"/tmp/performerd-test.XXXXXX"};
    cr_assert_not_null(mkdtemp(scratch.path));
    return scratch;
}

static inline int scratch_remove_one(const char *path, const struct stat *stat, int kind,
                                     struct FTW *place)
{
    (void)stat, (void)kind, (void)place;
    return remove(path);
}

static inline void scratch_remove(const struct scratch *scratch)
{
    nftw(scratch->path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The whole path of `name`, in memory that the next calls but seven overwrite. */
static inline const char *scratch_path(const struct scratch *scratch, const char *name)
{
    static char paths[8][PATH_MAX];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", scratch->path, name);
    return path;
}

static inline void scratch_mkdir(const struct scratch *scratch, const char *name)
{
    cr_assert_eq(mkdir(scratch_path(scratch, name), 0700), 0);
}

static inline void scratch_write_bytes(const struct scratch *scratch, const char *name,
                                       const void *bytes, size_t length)
{
    FILE *file = fopen(scratch_path(scratch, name), "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, length, file), length);
    cr_assert_eq(fclose(file), 0);
}

static inline void scratch_write(const struct scratch *scratch, const char *name, const char *text)
{
    scratch_write_bytes(scratch, name, text, strlen(text));
}

/* The file's text; "" where there is none. The next call overwrites it. */
static inline const char *scratch_read(const struct scratch *scratch, const char *name)
{
    static char text[1 << 16];
    FILE *file = fopen(scratch_path(scratch, name), "rb");
    size_t length = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[length] = '\0';
    if (file) fclose(file);
    return text;
}

#endif
