#include "proto/durable.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES_MAX = 4096 };

/* The directory that holds `path`, "." where it names none. False: the path is too long. */
static bool directory_of(const char *path, char directory[PATH_BYTES_MAX])
{
    size_t length = strlen(path);
    if (length >= PATH_BYTES_MAX) return false;
    memcpy(directory, path, length + 1);
    while (length > 1 && directory[length - 1] == '/') directory[--length] = '\0';
    char *slash = strrchr(directory, '/');
    if (!slash)
        memcpy(directory, ".", sizeof ".");
    else if (slash == directory)
        directory[1] = '\0';
    else
        *slash = '\0';
    return true;
}

enum status write_fully(int fd, const void *bytes, size_t length, const char *path,
                        struct fault *fault)
{
    const char *next = bytes;
    while (length > 0) {
        ssize_t written = write(fd, next, length);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return fault_errno(fault, errno, "could not write %s", path);
        next += written;
        length -= (size_t)written;
    }
    return ST_OK;
}

/* Closes in any case. A network file system may report a lost write only here. */
static enum status sync_and_close(int fd, const char *path, struct fault *fault)
{
    if (fsync(fd) != 0) {
        int error = errno;
        close(fd);
        return fault_errno(fault, error, "could not sync %s", path);
    }
    if (close(fd) != 0 && errno != EINTR)
        return fault_errno(fault, errno, "could not close %s", path);
    return ST_OK;
}

enum status durable_write(const char *path, const void *bytes, size_t length, struct fault *fault)
{
    char aside[PATH_BYTES_MAX];
    if ((size_t)snprintf(aside, sizeof aside, "%s.XXXXXX", path) >= sizeof aside)
        return fault_errno(fault, ENAMETOOLONG, "could not write %.60s...", path);
    int fd = mkostemp(aside, O_CLOEXEC);
    if (fd < 0) return fault_errno(fault, errno, "could not create a file beside %s", path);

    enum status status = write_fully(fd, bytes, length, path, fault);
    if (status != ST_OK) {
        close(fd);
        goto remove_aside;
    }
    status = sync_and_close(fd, path, fault);
    if (status != ST_OK) goto remove_aside;
    if (rename(aside, path) != 0) {
        status = fault_errno(fault, errno, "could not replace %s", path);
        goto remove_aside;
    }
    char directory[PATH_BYTES_MAX];
    directory_of(path, directory);
    return durable_sync_directory(directory, fault);

remove_aside:
    unlink(aside);
    return status;
}

enum status durable_rename(const char *from, const char *to, struct fault *fault)
{
    char directory[PATH_BYTES_MAX];
    if (!directory_of(to, directory))
        return fault_errno(fault, ENAMETOOLONG, "could not rename to %.60s...", to);
    if (rename(from, to) != 0)
        return fault_errno(fault, errno, "could not rename %s to %s", from, to);
    return durable_sync_directory(directory, fault);
}

enum status durable_sync_directory(const char *path, struct fault *fault)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fault_errno(fault, errno, "could not open the directory %s", path);
    return sync_and_close(fd, path, fault);
}

/* One directory; that it is there already is fine. A new one is made durable in its parent. */
static enum status make_directory(const char *path, struct fault *fault)
{
    if (mkdir(path, 0700) == 0) {
        char parent[PATH_BYTES_MAX];
        directory_of(path, parent);
        return durable_sync_directory(parent, fault);
    }
    int error = errno;
    struct stat existing;
    if (stat(path, &existing) != 0)
        return fault_errno(fault, error, "could not make the directory %s", path);
    if (!S_ISDIR(existing.st_mode))
        return fault_errno(fault, ENOTDIR, "could not make the directory %s", path);
    return ST_OK;
}

enum status make_directories(const char *path, struct fault *fault)
{
    char part[PATH_BYTES_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part)
        return fault_errno(fault, length == 0 ? ENOENT : ENAMETOOLONG,
                           "could not make the directory \"%.60s\"", path);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0') continue;
        if (part[i - 1] == '/') continue;
        char kept = part[i];
        part[i] = '\0';
        enum status status = make_directory(part, fault);
        if (status != ST_OK) return status;
        part[i] = kept;
    }
    return ST_OK;
}

/* Reads to the end of `fd`; one byte more than `limit` is asked for, to see that there is one. */
static enum status read_fully(int fd, size_t limit, const char *path, char **bytes, size_t *length,
                              struct fault *fault)
{
    char *buffer = NULL;
    size_t used = 0, capacity = 0;
    enum status status;
    for (;;) {
        if (used == capacity) {
            capacity = capacity ? 2 * capacity : 4096;
            if (capacity > limit + 1) capacity = limit + 1;
            char *grown = realloc(buffer, capacity + 1);
            if (!grown) {
                status = fault_errno(fault, ENOMEM, "could not read %s", path);
                goto free_buffer;
            }
            buffer = grown;
        }
        ssize_t got = read(fd, buffer + used, capacity - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = fault_errno(fault, errno, "could not read %s", path);
            goto free_buffer;
        }
        if (got == 0) break;
        used += (size_t)got;
        if (used > limit) {
            status = fault_set(fault, ST_TOO_LARGE, "%s is larger than %zu bytes", path, limit);
            goto free_buffer;
        }
    }
    buffer[used] = '\0';
    *bytes = buffer;
    *length = used;
    return ST_OK;

free_buffer:
    free(buffer);
    return status;
}

enum status file_read(const char *path, size_t limit, char **bytes, size_t *length,
                      struct fault *fault)
{
    assert(limit < SIZE_MAX / 2);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fault_errno(fault, errno, "could not open %s", path);
    enum status status = read_fully(fd, limit, path, bytes, length, fault);
    close(fd);
    return status;
}
