#ifndef TESTS_FAULTS_CALLS_H
#define TESTS_FAULTS_CALLS_H

/*
 * The n-th call of a program to the system or the heap fails, or is its last. The linker puts these in place of the real ones
 * (--wrap, CMakeLists.txt) in all that is linked in; what shared libraries call among themselves is not seen. One thread.
 */

#include <stdbool.h>
#include <stdint.h>

enum calls_kind { CALLS_SYSTEM = 1, CALLS_MEMORY = 2, CALLS_ALL = 3 };

enum calls_fault {
    CALLS_FAIL_ONCE, /* the n-th alone */
    CALLS_FAIL_ON,   /* it and all that follow */
    CALLS_KILL,      /* SIGKILL before it; of a write, half has been done */
};

/* From now on calls of these kinds are counted, and the n-th, from 1, meets the fault. */
void calls_arm(enum calls_kind kinds, enum calls_fault fault, uint64_t n);

/* Ends it. True: the fault was met. */
bool calls_disarm(void);

#endif
