#include "daemon/fork.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/durable.h"

enum { ASIDE_MAX = PATH_MAX + 16 };

static void aside_of(const char *run_directory, char aside[ASIDE_MAX])
{
    snprintf(aside, ASIDE_MAX, "%s.fork", run_directory);
}

static enum status link_files(DIR *listing, int aside, struct fault *fault)
{
    const struct dirent *entry;
    while (errno = 0, (entry = readdir(listing))) {
        if (entry->d_name[0] == '.') continue;
        if (linkat(dirfd(listing), entry->d_name, aside, entry->d_name, 0) != 0)
            return fault_errno(fault, errno, "could not make a hard link to its %s", entry->d_name);
    }
    return errno == 0 ? ST_OK : fault_errno(fault, errno, "could not list its files");
}

/* Retention takes a checkpoint out of its place before it removes files: one that is still there was whole. */
static bool is_in_place(const char *checkpoint, DIR *listing)
{
    struct stat named, listed;
    return stat(checkpoint, &named) == 0 && fstat(dirfd(listing), &listed) == 0 &&
           named.st_dev == listed.st_dev && named.st_ino == listed.st_ino;
}

static enum status stage_in(DIR *listing, const char *aside, struct fault *fault)
{
    enum status status = make_directories(aside, fault);
    if (status != ST_OK) return status;
    int directory = open(aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return fault_errno(fault, errno, "could not open %s", aside);
    status = link_files(listing, directory, fault);
    close(directory);
    return status == ST_OK ? durable_sync_directory(aside, fault) : status;
}

enum status fork_stage(const char *checkpoint, const char *run_directory, struct fault *fault)
{
    char aside[ASIDE_MAX];
    aside_of(run_directory, aside);
    fork_discard(run_directory);
    DIR *listing = opendir(checkpoint);
    if (!listing && errno == ENOENT)
        return fault_set(fault, ST_REFUSED, "the checkpoint %s is not there any more", checkpoint);
    if (!listing) return fault_errno(fault, errno, "could not open the checkpoint %s", checkpoint);
    enum status status = stage_in(listing, aside, fault);
    if (status == ST_OK && !is_in_place(checkpoint, listing))
        status = fault_set(fault, ST_REFUSED, "it has just been removed");
    closedir(listing);
    if (status == ST_OK) return ST_OK;
    fork_discard(run_directory);
    return fault_wrap(fault, "take over the checkpoint %s", checkpoint);
}

enum status fork_settle(const char *run_directory, uint64_t step, struct fault *fault)
{
    char aside[ASIDE_MAX], place[ASIDE_MAX + 32];
    aside_of(run_directory, aside);
    if (access(aside, F_OK) != 0) return ST_OK;
    snprintf(place, sizeof place, "%s/checkpoints", run_directory);
    enum status status = make_directories(place, fault);
    if (status != ST_OK) return status;
    snprintf(place, sizeof place, "%s/checkpoints/step-%010" PRIu64, run_directory, step);
    return durable_rename(aside, place, fault);
}

void fork_discard(const char *run_directory)
{
    char aside[ASIDE_MAX];
    aside_of(run_directory, aside);
    DIR *listing = opendir(aside);
    const struct dirent *entry;
    while (listing && (entry = readdir(listing)))
        if (entry->d_name[0] != '.') unlinkat(dirfd(listing), entry->d_name, 0);
    if (listing) closedir(listing);
    rmdir(aside);
}
