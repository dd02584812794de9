/*
 * The runtime: streams that work when they are waited for, memory that the host may not touch at the wrong time.
 *
 * An allocation lies at the end of its pages, with a page behind it that nobody may touch. The host may never touch memory of
 * cudaMalloc, and that of cudaMallocManaged only while no stream has work left, as if the device could not share
 * it. Both hold NaNs at first.
 */

#include "tests/cudashim/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <pthread.h>
#include <string>
#include <sys/mman.h>

#include "tests/cudashim/block.h"
#include "tests/cudashim/cudashim.h"

struct CUstream_st {
    std::deque<std::function<void()>> work;
};

struct CUevent_st {
    cudaStream_t stream = nullptr; /* where it was last recorded */
    long recorded = 0, passed = 0;
};

namespace cudashim
{
enum {
    PAGE_BYTES = 4096,
    ALIGN_BYTES = 64, /* less than the device's 256, so that the end is close to the guard page */
    SHARED_BYTES_DEFAULT = 48 << 10,
    SHARED_BYTES_MAX = 227 << 10, /* of a block, compute capability 9.0 and 10.0 */
    BLOCK_THREADS_MAX = 1024,
    BLOCK_DEPTH_MAX = 64,
    GRID_YZ_MAX = 65535
};

struct Allocation {
    char *pages;
    size_t page_bytes, bytes;
    bool managed;
};

static struct {
    enum cudashim_streams when = CUDASHIM_LAZY;
    int devices = 1;
    size_t memory_bytes = (size_t)2 << 30, used_bytes = 0;
    long calls = 0, live = 0;
    long failing_call = 0;
    cudaError_t failure = cudaSuccess, sticky = cudaSuccess, last = cudaSuccess;
    bool failure_sticks = false;
    long pending = 0; /* pieces of work, on all streams */
    int running = 0;  /* nesting of work that runs */
    std::map<void *, Allocation> allocations;
    std::map<const void *, int> shared_bytes; /* by kernel, what it asked for */
} &device = *new std::remove_reference_t<decltype(device)>;

static cudaError_t fail(cudaError_t error)
{
    if (error != cudaSuccess) device.last = error;
    return error;
}

/* Fibers and memory belong to the thread that came first. */
static void check_thread()
{
    static const pthread_t owner = pthread_self();
    if (pthread_equal(owner, pthread_self())) return;
    fprintf(stderr, "cudashim: CUDA is used by a second thread\n");
    abort();
}

cudaError_t call_enter()
{
    check_thread();
    device.calls++;
    if (device.calls == device.failing_call) {
        if (device.failure_sticks) device.sticky = device.failure;
        return fail(device.failure);
    }
    return fail(device.sticky);
}

void live_add(long count)
{
    device.live += count;
}

/* ---- memory ---- */

static void allocation_protect(const Allocation &a)
{
    const bool open = device.running > 0 || (a.managed && device.pending == 0);
    mprotect(a.pages, a.page_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void memory_protect()
{
    for (const auto &entry : device.allocations) allocation_protect(entry.second);
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static cudaError_t memory_new(void **memory, size_t bytes, bool managed)
{
    if (cudaError_t error = call_enter()) return error;
    if (!memory || bytes == 0) return fail(cudaErrorInvalidValue);
    if (bytes > device.memory_bytes - device.used_bytes) return fail(cudaErrorMemoryAllocation);

    Allocation a = {nullptr, round_up(bytes, PAGE_BYTES), bytes, managed};
    void *pages = mmap(nullptr, a.page_bytes + PAGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
    a.pages = static_cast<char *>(pages);
    mprotect(a.pages + a.page_bytes, PAGE_BYTES, PROT_NONE);
    memset(a.pages, 0xff, a.page_bytes);
    *memory = a.pages + a.page_bytes - round_up(bytes, ALIGN_BYTES);
    device.allocations[*memory] = a;
    device.used_bytes += bytes;
    live_add(1);
    allocation_protect(a);
    return cudaSuccess;
}

/* ---- streams ---- */

static void work_run(cudaStream_t stream)
{
    std::function<void()> work = std::move(stream->work.front());
    stream->work.pop_front();
    work();
    device.pending--;
}

/* Runs what `stream` has until `done` says so, with the memory open. */
static void stream_run(cudaStream_t stream, const std::function<bool()> &done)
{
    if (stream->work.empty()) return;
    if (device.running++ == 0) memory_protect();
    while (!stream->work.empty() && !done()) work_run(stream);
    if (--device.running == 0) memory_protect();
}

static void stream_drain(cudaStream_t stream)
{
    stream_run(stream, [] { return false; });
}

void stream_enqueue(cudaStream_t stream, std::function<void()> work)
{
    stream->work.push_back([work = std::move(work)] {
        if (device.sticky == cudaSuccess) work();
    });
    if (device.pending++ == 0 && device.running == 0) memory_protect();
    if (device.when == CUDASHIM_EAGER) stream_drain(stream);
}

static void event_wait(cudaEvent_t event, long recorded)
{
    if (event->passed < recorded)
        stream_run(event->stream, [=] { return event->passed >= recorded; });
}

/* ---- launches ---- */

static bool launch_allowed(const cudaLaunchConfig_t &config, int shared_bytes_max)
{
    const dim3 grid = config.gridDim, block = config.blockDim;
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    return grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y <= GRID_YZ_MAX &&
           grid.z <= GRID_YZ_MAX && threads > 0 && threads <= BLOCK_THREADS_MAX &&
           block.z <= BLOCK_DEPTH_MAX && config.dynamicSmemBytes <= (size_t)shared_bytes_max;
}

cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel,
                   std::function<void()> thread)
{
    if (cudaError_t error = call_enter()) return error;
    const auto asked = device.shared_bytes.find(kernel);
    const int shared_bytes =
        asked == device.shared_bytes.end() ? SHARED_BYTES_DEFAULT : asked->second;
    if (config.numAttrs > 0 || !launch_allowed(config, shared_bytes))
        return fail(cudaErrorInvalidConfiguration);

    const Launch launch = {config.gridDim, config.blockDim, config.dynamicSmemBytes,
                           std::move(thread)};
    stream_enqueue(config.stream, [launch] {
        std::string why;
        if (launch_run(launch, &why)) return;
        fprintf(stderr, "cudashim: a kernel failed: %s\n", why.c_str());
        device.sticky = device.last = cudaErrorLaunchFailure;
    });
    return cudaSuccess;
}

cudaError_t function_shared_bytes(const void *kernel, int bytes)
{
    if (cudaError_t error = call_enter()) return error;
    if (bytes < 0 || bytes > SHARED_BYTES_MAX) return fail(cudaErrorInvalidValue);
    device.shared_bytes[kernel] = bytes > SHARED_BYTES_DEFAULT ? bytes : SHARED_BYTES_DEFAULT;
    return cudaSuccess;
}
} // namespace cudashim

using namespace cudashim;

/* ---- what tests ask ---- */

void cudashim_order(enum cudashim_order order, uint64_t seed)
{
    static const Order orders[] = {Order::Forward, Order::Reverse, Order::Seeded};
    order_set(orders[order], seed);
}

void cudashim_streams(enum cudashim_streams when)
{
    device.when = when;
}

void cudashim_devices(int count)
{
    device.devices = count;
}

void cudashim_memory(size_t bytes)
{
    device.memory_bytes = bytes;
}

void cudashim_fail(long nth, cudaError_t error, bool sticky)
{
    device.failing_call = device.calls + nth;
    device.failure = error;
    device.failure_sticks = sticky;
}

long cudashim_calls(void)
{
    return device.calls;
}

long cudashim_live(void)
{
    return device.live;
}

/* ---- CUDA's calls ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    if (cudaError_t error = call_enter()) return error;
    *count = device.devices;
    return device.devices > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int number)
{
    if (cudaError_t error = call_enter()) return error;
    return number >= 0 && number < device.devices ? cudaSuccess : fail(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int number)
{
    if (cudaError_t error = call_enter()) return error;
    if (number < 0 || number >= device.devices) return fail(cudaErrorInvalidDevice);
    *properties = cudaDeviceProp();
    snprintf(properties->name, sizeof properties->name, "cudashim");
    properties->major = 9;
    properties->multiProcessorCount = 2;
    properties->totalGlobalMem = device.memory_bytes;
    properties->sharedMemPerBlockOptin = SHARED_BYTES_MAX;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    return memory_new(memory, bytes, false);
}

cudaError_t cudaMallocManaged(void **memory, size_t bytes, unsigned flags)
{
    return flags == cudaMemAttachGlobal ? memory_new(memory, bytes, true)
                                        : fail(cudaErrorInvalidValue);
}

cudaError_t cudaMemAdvise(const void *memory, size_t bytes, enum cudaMemoryAdvise advice,
                          struct cudaMemLocation location)
{
    if (cudaError_t error = call_enter()) return error;
    const auto found = device.allocations.find(const_cast<void *>(memory));
    const bool known =
        found != device.allocations.end() && found->second.managed && bytes <= found->second.bytes;
    return known && advice == cudaMemAdviseSetPreferredLocation &&
                   location.type == cudaMemLocationTypeDevice
               ? cudaSuccess
               : fail(cudaErrorInvalidValue);
}

cudaError_t cudaFree(void *memory)
{
    if (cudaError_t error = call_enter()) return error;
    if (!memory) return cudaSuccess;
    const auto found = device.allocations.find(memory);
    if (found == device.allocations.end()) return fail(cudaErrorInvalidValue);
    munmap(found->second.pages, found->second.page_bytes + PAGE_BYTES);
    device.used_bytes -= found->second.bytes;
    device.allocations.erase(found);
    live_add(-1);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    stream_enqueue(stream, [=] { memcpy(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    stream_enqueue(stream, [=] { memset(memory, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    if (cudaError_t error = call_enter()) return error;
    *stream = new CUstream_st;
    live_add(1);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    stream_drain(stream);
    delete stream;
    live_add(-1);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    stream_drain(stream);
    return fail(device.sticky);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    return stream->work.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (cudaError_t error = call_enter()) return error;
    const long recorded = event->recorded;
    stream_enqueue(stream, [=] { event_wait(event, recorded); });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    if (cudaError_t error = call_enter()) return error;
    *event = new CUevent_st;
    live_add(1);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (cudaError_t error = call_enter()) return error;
    event_wait(event, event->recorded);
    delete event;
    live_add(-1);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    const long recorded = ++event->recorded;
    event->stream = stream;
    stream_enqueue(stream, [=] { event->passed = recorded; });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (cudaError_t error = call_enter()) return error;
    event_wait(event, event->recorded);
    return fail(device.sticky);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    if (cudaError_t error = call_enter()) return error;
    return event->passed == event->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = device.last;
    device.last = device.sticky;
    return error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    default:
        return "another error";
    }
}
