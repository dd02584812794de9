#include "proto/secret.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/durable.h"

bool secret_equal(const char *secret, const char *told)
{
    size_t secret_length = strlen(secret), told_length = strlen(told);
    volatile unsigned char difference = secret_length != told_length || secret_length == 0;
    for (size_t i = 0; i < told_length; i++)
        difference |= (unsigned char)(told[i] ^ secret[secret_length > 0 ? i % secret_length : 0]);
    return difference == 0;
}

enum status secret_read(const char *path, size_t limit, char **text, struct fault *fault)
{
    struct stat about;
    size_t length;
    if (stat(path, &about) != 0) return fault_errno(fault, errno, "could not read %s", path);
    if (about.st_uid != geteuid() && about.st_uid != 0)
        return fault_set(fault, ST_NOT_PERMITTED,
                         "%s belongs to another user (uid %u): a secret must be your own file",
                         path, (unsigned)about.st_uid);
    if ((about.st_mode & 077) != 0)
        return fault_set(fault, ST_NOT_PERMITTED,
                         "%s can be read by others (mode %03o): chmod 600 %s", path,
                         (unsigned)about.st_mode & 0777, path);
    return file_read(path, limit, text, &length, fault);
}
