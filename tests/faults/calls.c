#include "tests/faults/calls.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    unsigned kinds; /* 0: nothing is counted */
    enum calls_fault fault;
    uint64_t left; /* calls until it is met */
    bool met;
} plan;

void calls_arm(enum calls_kind kinds, enum calls_fault fault, uint64_t n)
{
    plan.kinds = kinds;
    plan.fault = fault;
    plan.left = n;
    plan.met = false;
}

bool calls_disarm(void)
{
    plan.kinds = 0;
    return plan.met;
}

/* True where this call is to fail. */
static bool call_fails(enum calls_kind kind)
{
    if (!(plan.kinds & kind)) return false;
    if (plan.met) return plan.fault == CALLS_FAIL_ON;
    if (--plan.left > 0) return false;
    plan.met = true;
    return true;
}

#define CALL(name, kind, result, parameters, arguments, failed, error, begun) \
    result __real_##name parameters;                                          \
    result __wrap_##name parameters;
#include "tests/faults/calls.def"
#undef CALL

#define CALL(name, kind, result, parameters, arguments, failed, error, begun) \
    result __wrap_##name parameters                                           \
    {                                                                         \
        if (!call_fails(CALLS_##kind)) return __real_##name arguments;        \
        if (plan.fault == CALLS_KILL) {                                       \
            begun;                                                            \
            raise(SIGKILL);                                                   \
        }                                                                     \
        errno = error;                                                        \
        return failed;                                                        \
    }
#include "tests/faults/calls.def"
#undef CALL

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_close(int file);
int __wrap_close(int file);

int __wrap_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!call_fails(CALLS_SYSTEM)) return __real_open(path, flags, mode);
    if (plan.fault == CALLS_KILL) raise(SIGKILL);
    errno = EMFILE;
    return -1;
}

/* As Linux does it: closed, and what had not been written is lost. */
int __wrap_close(int file)
{
    if (!call_fails(CALLS_SYSTEM)) return __real_close(file);
    if (plan.fault == CALLS_KILL) raise(SIGKILL);
    __real_close(file);
    errno = EIO;
    return -1;
}
