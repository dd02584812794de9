#include "daemon/launcher.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* `name` in the directory of this executable. */
static enum status find_beside(const char *name, char path[LAUNCHER_PATH_MAX], struct fault *fault)
{
    char self[LAUNCHER_PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) return fault_errno(fault, errno, "could not read /proc/self/exe");
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    if (snprintf(path, LAUNCHER_PATH_MAX, "%s/%s", self, name) >= LAUNCHER_PATH_MAX)
        return fault_set(fault, ST_TOO_LARGE, "%s is too deep a directory", self);
    if (access(path, X_OK) != 0)
        return fault_errno(fault, errno,
                           "%s must stand beside performerd and be executable: could not use %s",
                           name, path);
    return ST_OK;
}

enum status launcher_programs_find(struct launcher_programs *programs, struct fault *fault)
{
    struct launcher_programs found;
    enum status status = find_beside("performer-launch", found.launch, fault);
    if (status == ST_OK) status = find_beside("performer-worker", found.worker, fault);
    if (status == ST_OK) *programs = found;
    return status;
}

bool launcher_left(const char *attempt_directory, const char *name)
{
    char path[LAUNCHER_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", attempt_directory, name);
    return access(path, F_OK) == 0;
}
