#ifndef CUDASHIM_FIBER_H
#define CUDASHIM_FIBER_H

/* Stacks to run on, and the jumps between them; x86-64. */

#include <cstddef>

namespace cudashim
{
struct Fiber {
    void *stack_pointer = nullptr; /* while it does not run */
    char *stack = nullptr;         /* its lowest byte; null: the host thread's own */
    void *fake_stack = nullptr;    /* AddressSanitizer's */
    void *race_context = nullptr;  /* ThreadSanitizer's */
};

/* Makes a stack for it. The next jump to it calls `entry`, which must not return. */
void fiber_arm(Fiber *fiber, void (*entry)());

/* The host thread's own, from now on. */
void fiber_adopt_host(Fiber *fiber);

/* Leaves `from`, which runs, and goes on where `to` was left. */
void fiber_jump(Fiber *from, Fiber *to);

/* To be called first of all by `entry`, once for each time it was armed. */
void fiber_begin();

/* What the caller did before `release` comes before what others do after they `acquire` the same tag. */
void memory_release(void *tag);
void memory_acquire(void *tag);
} // namespace cudashim

#endif
