/* The runtime and its checks: each is shown to find what it is there for. */

#include <criterion/criterion.h>
#include <csetjmp>
#include <csignal>
#include <cstring>

#include "tests/cudashim/cudashim.h"

enum { COUNT = 256, DEVICE_NUMBER = 0 };

static cudaStream_t stream_new()
{
    cudaStream_t stream;
    cr_assert_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

template <typename... Parameters, typename... Arguments>
static cudaError_t enqueue(cudaStream_t stream, dim3 block, size_t shared_bytes,
                           void (*kernel)(Parameters...), Arguments... arguments)
{
    cudaLaunchConfig_t config = {1, block, shared_bytes, stream, nullptr, 0};
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename T> static T *managed_new(size_t count)
{
    void *memory;
    cr_assert_eq(cudaMallocManaged(&memory, count * sizeof(T), cudaMemAttachGlobal), cudaSuccess);
    return static_cast<T *>(memory);
}

static __global__ void fill_kernel(int *x, int value)
{
    x[threadIdx.x] = value;
}

/* ---- memory that may not be touched ---- */

static sigjmp_buf touched;

static void on_fault(int)
{
    siglongjmp(touched, 1);
}

/* Whether reading a byte there ends in a fault. */
static bool faults(const void *address)
{
    struct sigaction action = {}, before;
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, &before);
    const bool faulted = sigsetjmp(touched, 1) != 0;
    if (!faulted) (void)*static_cast<const volatile char *>(address);
    sigaction(SIGSEGV, &before, nullptr);
    return faulted;
}

Test(checkers, the_host_may_not_touch_device_memory)
{
    void *memory;
    cr_assert_eq(cudaMalloc(&memory, COUNT), cudaSuccess);
    cr_expect(faults(memory));
    cr_expect_eq(cudaFree(memory), cudaSuccess);
}

Test(checkers, the_host_may_touch_managed_memory_while_nothing_is_under_way)
{
    cudaStream_t stream = stream_new();
    int *x = managed_new<int>(COUNT);
    cr_expect(!faults(x));
    cr_assert_eq(enqueue(stream, COUNT, 0, fill_kernel, x, 7), cudaSuccess);
    cr_expect(faults(x), "a missing cudaStreamSynchronize must show");
    cr_assert_eq(cudaStreamSynchronize(stream), cudaSuccess);
    for (int i = 0; i < COUNT; i++) cr_expect_eq(x[i], 7);
    cudaFree(x), cudaStreamDestroy(stream);
}

static __global__ void overrun_kernel(const char *end, bool *faulted)
{
    *faulted = faults(end);
}

Test(checkers, behind_the_end_of_an_allocation_is_nothing)
{
    cudaStream_t stream = stream_new();
    int *x = managed_new<int>(COUNT);
    bool faulted = false;
    const char *end = reinterpret_cast<const char *>(x + COUNT);
    cr_assert_eq(enqueue(stream, 1, 0, overrun_kernel, end, &faulted), cudaSuccess);
    cr_assert_eq(cudaStreamSynchronize(stream), cudaSuccess);
    cr_expect(faulted);
    cudaFree(x), cudaStreamDestroy(stream);
}

Test(checkers, memory_holds_no_numbers_at_first)
{
    float *x = managed_new<float>(COUNT);
    for (int i = 0; i < COUNT; i++) cr_expect(std::isnan(x[i]));
    cudaFree(x);
}

/* ---- streams and events ---- */

Test(checkers, a_stream_works_when_it_is_waited_for)
{
    cudaStream_t stream = stream_new();
    int x = 1, y = 2;
    cr_assert_eq(cudaMemcpyAsync(&y, &x, sizeof x, cudaMemcpyDefault, stream), cudaSuccess);
    cr_expect_eq(y, 2, "whoever reads too early must see it");
    cr_expect_eq(cudaStreamQuery(stream), cudaErrorNotReady);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaSuccess);
    cr_expect_eq(y, 1);
    cr_expect_eq(cudaStreamQuery(stream), cudaSuccess);

    cudashim_streams(CUDASHIM_EAGER);
    cr_assert_eq(cudaMemsetAsync(&y, 0, sizeof y, stream), cudaSuccess);
    cr_expect_eq(y, 0);
    cudaStreamDestroy(stream);
}

Test(checkers, a_stream_works_too_when_it_is_asked_again_and_again)
{
    cudaStream_t stream = stream_new();
    cudaEvent_t event;
    cr_assert_eq(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    for (int round = 0; round < 2; round++) {
        int y = 2;
        cr_assert_eq(cudaMemsetAsync(&y, 0, sizeof y, stream), cudaSuccess);
        cr_assert_eq(cudaEventRecord(event, stream), cudaSuccess);
        const auto ask = [&] { return round ? cudaEventQuery(event) : cudaStreamQuery(stream); };
        cr_expect_eq(ask(), cudaErrorNotReady);
        cr_expect_eq(y, 2);
        cr_expect_eq(ask(), cudaSuccess);
        cr_expect_eq(y, 0);
    }
    cudaEventDestroy(event), cudaStreamDestroy(stream);
}

Test(checkers, an_event_orders_two_streams_and_nothing_else_does)
{
    for (int ordered = 0; ordered <= 1; ordered++) {
        cudaStream_t first = stream_new(), second = stream_new();
        cudaEvent_t event;
        cr_assert_eq(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
        int x = 1, middle = 2, y = 3;
        cudaMemcpyAsync(&middle, &x, sizeof x, cudaMemcpyDefault, first);
        cudaEventRecord(event, first);
        cr_expect_eq(cudaEventQuery(event), cudaErrorNotReady);
        if (ordered) cudaStreamWaitEvent(second, event, 0);
        cudaMemcpyAsync(&y, &middle, sizeof x, cudaMemcpyDefault, second);
        cr_expect_eq(cudaStreamSynchronize(second), cudaSuccess);
        cr_expect_eq(y, ordered ? 1 : 2);
        cr_expect_eq(cudaEventSynchronize(event), cudaSuccess);
        cr_expect_eq(cudaEventQuery(event), cudaSuccess);
        cudaEventDestroy(event), cudaStreamDestroy(first), cudaStreamDestroy(second);
    }
}

/* ---- kernels that are wrong ---- */

/* A barrier is missing between the write and the read of a neighbour's. */
static __global__ void race_kernel(int *out)
{
    int *kept = static_cast<int *>(cudashim::dynamic_shared());
    kept[threadIdx.x] = (int)threadIdx.x;
    out[threadIdx.x] = kept[(threadIdx.x + 1) % COUNT];
}

static void race_run(enum cudashim_order order, int *out)
{
    cudaStream_t stream = stream_new();
    cudashim_order(order, 0);
    cr_assert_eq(enqueue(stream, COUNT, COUNT * sizeof *out, race_kernel, out), cudaSuccess);
    cr_assert_eq(cudaStreamSynchronize(stream), cudaSuccess);
    cudaStreamDestroy(stream);
}

#ifdef CUDASHIM_TSAN
enum { RACE_FOUND = 66 }; /* how ThreadSanitizer ends a process */
Test(checkers, a_missing_barrier_is_a_race, .exit_code = RACE_FOUND)
{
    int out[COUNT];
    race_run(CUDASHIM_FORWARD, out);
}
#else
Test(checkers, a_missing_barrier_shows_in_another_order)
{
    int forward[COUNT], reverse[COUNT];
    race_run(CUDASHIM_FORWARD, forward);
    race_run(CUDASHIM_REVERSE, reverse);
    cr_expect_neq(memcmp(forward, reverse, sizeof forward), 0);
}
#endif

/* Half of the threads come to one barrier, half to another. */
static __global__ void divergent_kernel(void)
{
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncwarp();
}

static __global__ void foreign_mask_kernel(void)
{
    __syncwarp(threadIdx.x == 0 ? 2u : 1u);
}

static __global__ void two_collectives_kernel(void)
{
    if (threadIdx.x % 2)
        __shfl_sync(0xffffffffu, 1, 0);
    else
        __ballot_sync(0xffffffffu, 1);
}

static __global__ void two_barriers_kernel(void)
{
    if (threadIdx.x % 2)
        __syncthreads_or(1);
    else
        __syncthreads();
}

/* In a process of its own, as a device that failed stays so. */
static void must_fail(void (*kernel)())
{
    cudaStream_t stream = stream_new();
    cr_assert_eq(enqueue(stream, 64, 0, kernel), cudaSuccess);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
    cr_expect_eq(cudaGetLastError(), cudaErrorLaunchFailure);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaErrorLaunchFailure, "it sticks");
}

Test(checkers, threads_that_never_meet_ruin_the_device)
{
    must_fail(divergent_kernel);
}

Test(checkers, a_lane_that_its_own_mask_leaves_out_ruins_the_device)
{
    must_fail(foreign_mask_kernel);
}

Test(checkers, lanes_in_different_collectives_ruin_the_device)
{
    must_fail(two_collectives_kernel);
}

Test(checkers, threads_in_different_barriers_ruin_the_device)
{
    must_fail(two_barriers_kernel);
}

/* ---- limits and failures ---- */

static __global__ void nothing_kernel(void)
{
}

Test(checkers, a_launch_beyond_the_device_is_refused)
{
    enum { MUCH = 100 << 10, TOO_MUCH = 228 << 10 };
    cudaStream_t stream = stream_new();
    cr_expect_eq(enqueue(stream, 2048, 0, nothing_kernel), cudaErrorInvalidConfiguration);
    cr_expect_eq(enqueue(stream, 0, 0, nothing_kernel), cudaErrorInvalidConfiguration);
    cr_expect_eq(enqueue(stream, 1, MUCH, nothing_kernel), cudaErrorInvalidConfiguration,
                 "more than 48 KiB must be asked for");
    cr_expect_eq(
        cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, TOO_MUCH),
        cudaErrorInvalidValue);
    cr_expect_eq(
        cudaFuncSetAttribute(nothing_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, MUCH),
        cudaSuccess);
    cr_expect_eq(enqueue(stream, 1, MUCH, nothing_kernel), cudaSuccess);
    cudaStreamDestroy(stream);
}

Test(checkers, what_is_not_given_back_is_counted)
{
    const long before = cudashim_live();
    cudaStream_t stream = stream_new();
    int *x = managed_new<int>(COUNT);
    cr_expect_eq(cudashim_live(), before + 2);
    cudaFree(x), cudaStreamDestroy(stream);
    cr_expect_eq(cudashim_live(), before);
    cr_expect_eq(cudaFree(x), cudaErrorInvalidValue, "twice");
}

Test(checkers, memory_ends)
{
    void *memory;
    cudashim_memory(COUNT);
    cr_expect_eq(cudaMalloc(&memory, COUNT + 1), cudaErrorMemoryAllocation);
    cr_expect_eq(cudaMalloc(&memory, COUNT), cudaSuccess);
    cudaFree(memory);
    cr_expect_eq(cudaMalloc(&memory, COUNT), cudaSuccess);
    cudaFree(memory);
}

Test(checkers, a_machine_may_have_no_device)
{
    int count = -1;
    cudashim_devices(0);
    cr_expect_eq(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    cr_expect_eq(cudaSetDevice(DEVICE_NUMBER), cudaErrorInvalidDevice);
}

Test(checkers, the_nth_call_fails)
{
    cudaStream_t stream = stream_new();
    cudashim_fail(2, cudaErrorIllegalAddress, false);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaSuccess);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
    cr_expect_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    cr_expect_eq(cudaGetLastError(), cudaSuccess);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaSuccess);

    const long calls = cudashim_calls();
    cudashim_fail(1, cudaErrorECCUncorrectable, true);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaErrorECCUncorrectable);
    cr_expect_eq(enqueue(stream, 1, 0, nothing_kernel), cudaErrorECCUncorrectable);
    cr_expect_eq(cudashim_calls(), calls + 2);
}
