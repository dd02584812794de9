#ifndef DAEMON_STACK_DUMP_H
#define DAEMON_STACK_DUMP_H

/*
 * What the threads of a process are doing, for a person to read: state, kernel function and system call of each from /proc, and
 * their stacks where a debugger is installed (gdb, else eu-stack of elfutils). The process need not answer: one that is
 * stopped or waits in the kernel is seen as well.
 */

#include <sys/types.h>

/* Appends to the file `log`. Blocks, for 20 s at most. What cannot be found out is left out, or said there. */
void stack_dump(pid_t pid, const char *log);

#endif
