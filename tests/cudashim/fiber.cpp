#include "tests/cudashim/fiber.h"

#include <cstdlib>
#include <sys/mman.h>

/* This file is not instrumented for races itself, so the build says whether the rest is. */
#ifdef CUDASHIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef CUDASHIM_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace cudashim
{
enum { STACK_BYTES = 128 << 10, PAGE_BYTES = 4096, SAVED_REGISTERS = 6 };

extern "C" void cudashim_jump(void **save_stack_pointer, void *stack_pointer);

/* Registers that a called function must leave as they were, and nothing else. */
asm(R"(
.text
.globl cudashim_jump
.type cudashim_jump, @function
cudashim_jump:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cudashim_jump, .-cudashim_jump
)");

static char *stack_new()
{
    void *memory = mmap(nullptr, STACK_BYTES + PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, PAGE_BYTES, PROT_NONE) != 0) abort();
    return static_cast<char *>(memory) + PAGE_BYTES;
}

#ifdef CUDASHIM_TSAN
/* All that it did comes before what the host does next: these switches order memory. */
static void race_context_end(void *context)
{
    void *host = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(context, 0);
    __tsan_switch_to_fiber(host, 0);
    __tsan_destroy_fiber(context);
}
#endif

void fiber_arm(Fiber *fiber, void (*entry)())
{
    if (!fiber->stack) fiber->stack = stack_new();
#ifdef CUDASHIM_ASAN
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
#ifdef CUDASHIM_TSAN
    if (fiber->race_context) race_context_end(fiber->race_context);
    fiber->race_context = __tsan_create_fiber(0);
#endif
    fiber->fake_stack = nullptr;
    void **top = reinterpret_cast<void **>(fiber->stack + STACK_BYTES);
    *--top = nullptr; /* where entry would return to, and so that it finds its stack aligned */
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < SAVED_REGISTERS; i++) *--top = nullptr;
    fiber->stack_pointer = top;
}

void fiber_adopt_host(Fiber *fiber)
{
#ifdef CUDASHIM_TSAN
    fiber->race_context = __tsan_get_current_fiber();
#endif
    (void)fiber;
}

void fiber_jump(Fiber *from, Fiber *to)
{
#ifdef CUDASHIM_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack ? STACK_BYTES : 0);
#endif
#ifdef CUDASHIM_TSAN
    __tsan_switch_to_fiber(to->race_context, __tsan_switch_to_fiber_no_sync);
#endif
    cudashim_jump(&from->stack_pointer, to->stack_pointer);
#ifdef CUDASHIM_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void fiber_begin()
{
#ifdef CUDASHIM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void memory_release(void *tag)
{
#ifdef CUDASHIM_TSAN
    __tsan_release(tag);
#endif
    (void)tag;
}

void memory_acquire(void *tag)
{
#ifdef CUDASHIM_TSAN
    __tsan_acquire(tag);
#endif
    (void)tag;
}
} // namespace cudashim
