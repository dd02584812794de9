#include "daemon/state_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "proto/durable.h"

/* Numbers of statfs(2) that some headers lack. FUSE is mostly sshfs and the like; nothing tells which. */
static const struct {
    long type;
    const char *name;
} network_file_systems[] = {
    {0x6969, "NFS"},      {0xff534d42, "CIFS"},   {0xfe534d42, "SMB"},      {0x517b, "SMB"},
    {0x65735546, "FUSE"}, {0x0bd00bd0, "Lustre"}, {0x47504653, "GPFS"},     {0x19830326, "BeeGFS"},
    {0x00c36400, "Ceph"}, {0x5346414f, "AFS"},    {0x01021997, "9P"},       {0x7461636f, "OCFS2"},
    {0x01161970, "GFS2"}, {0xaad7aaea, "PanFS"},  {0x20030528, "OrangeFS"},
};

const char *network_file_system(long type)
{
    for (size_t i = 0; i < sizeof network_file_systems / sizeof network_file_systems[0]; i++)
        if (network_file_systems[i].type == (type & 0xffffffffL))
            return network_file_systems[i].name;
    return NULL;
}

static enum status check_local(const char *path, struct fault *fault)
{
    struct statfs statfs_;
    if (statfs(path, &statfs_) != 0) return fault_errno(fault, errno, "could not look at %s", path);
    const char *name = network_file_system((long)statfs_.f_type);
    if (!name) return ST_OK;
    return fault_set(
        fault, ST_UNSUPPORTED,
        "%s is on a network file system (%s), where the database would not be safe: its "
        "users must share memory; name a local directory with --state, and a shared one "
        "for logs and checkpoints with --runs",
        path, name);
}

/* Makes the directory and gives its real, absolute path. */
static enum status settle(const char *path, char *real, size_t size, struct fault *fault)
{
    enum status status = make_directories(path, fault);
    if (status != ST_OK) return status;
    char *resolved = realpath(path, NULL);
    if (!resolved) return fault_errno(fault, errno, "could not resolve %s", path);
    int length = snprintf(real, size, "%s", resolved);
    free(resolved);
    if (length >= (int)size)
        return fault_set(fault, ST_TOO_LARGE, "%s is too long a path; %zu bytes are the limit",
                         path, size - 1);
    if (access(real, R_OK | W_OK | X_OK) != 0)
        return fault_errno(fault, errno, "could not write in %s", real);
    return ST_OK;
}

static enum status say_who_holds(int lock, const char *path, struct fault *fault)
{
    char holder[200];
    ssize_t length = pread(lock, holder, sizeof holder - 1, 0);
    holder[length > 0 ? length : 0] = '\0';
    holder[strcspn(holder, "\n")] = '\0';
    return fault_set(fault, ST_BUSY, "%s is in use by another performerd (%s)", path,
                     holder[0] ? holder : "which has not named itself yet");
}

/* The lock is the open file, not its content: it ends with the process, however that ends. */
static enum status take_lock(struct state_directory *directory, struct fault *fault)
{
    char path[PATH_MAX], host[256] = "", holder[400];
    snprintf(path, sizeof path, "%s/lock", directory->path);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0) return fault_errno(fault, errno, "could not open %s", path);
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        enum status status = errno == EWOULDBLOCK
                                 ? say_who_holds(lock, directory->path, fault)
                                 : fault_errno(fault, errno, "could not lock %s", path);
        close(lock);
        return status;
    }
    gethostname(host, sizeof host - 1);
    int length = snprintf(holder, sizeof holder, "process %d on %s\n", (int)getpid(), host);
    if (ftruncate(lock, 0) != 0 || pwrite(lock, holder, (size_t)length, 0) != length) {
        enum status status = fault_errno(fault, errno, "could not write %s", path);
        close(lock);
        return status;
    }
    directory->lock = lock;
    return ST_OK;
}

enum status state_directory_open(const char *path, const char *runs,
                                 struct state_directory *directory, struct fault *fault)
{
    struct state_directory opened = {.lock = -1};
    char runs_default[STATE_PATH_MAX + 8];
    enum status status = settle(path, opened.path, sizeof opened.path, fault);
    if (status == ST_OK) status = check_local(opened.path, fault);
    if (status != ST_OK) return status;
    status = take_lock(&opened, fault);
    if (status != ST_OK) return status;

    snprintf(runs_default, sizeof runs_default, "%s/runs", opened.path);
    status = settle(runs ? runs : runs_default, opened.runs, sizeof opened.runs, fault);
    if (status != ST_OK) {
        state_directory_close(&opened);
        return status;
    }
    *directory = opened;
    return ST_OK;
}

void state_directory_close(struct state_directory *directory)
{
    if (directory->lock >= 0) close(directory->lock);
    directory->lock = -1;
}

void run_directory(const struct state_directory *directory, const char *run_id, char *out,
                   size_t size)
{
    snprintf(out, size, "%s/%s", directory->runs, run_id);
}

void attempt_directory(const struct state_directory *directory, const char *run_id,
                       uint32_t attempt, char *out, size_t size)
{
    snprintf(out, size, "%s/%s/attempt-%u", directory->runs, run_id, attempt);
}
