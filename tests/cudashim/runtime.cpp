/*
 * The runtime: streams that work when they are waited for, or asked for more than once; memory that the host may not touch at
 * the wrong time.
 *
 * An allocation lies at the end of its pages, with a page behind it that nobody may touch. The host may never touch memory of
 * cudaMalloc, and that of cudaMallocManaged only while no stream has work left, as if the device could not share
 * it. Both hold NaNs at first.
 */

#include "tests/cudashim/runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <utility>
#include <unistd.h>
#include <vector>

#include "tests/cudashim/block.h"
#include "tests/cudashim/cudashim.h"
#include "tests/cudashim/fault.h"

struct CUstream_st {
    std::deque<std::function<bool()>> work; /* each until it answers that it is over */
    bool asked = false;                     /* since the last was enqueued */
};

struct CUevent_st {
    cudaStream_t stream = nullptr; /* where it was last recorded */
    long recorded = 0, passed = 0;
    bool asked = false; /* since it was recorded */
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
    GRID_YZ_MAX = 65535,
    SHARED_PAUSE_US = 50 /* between two looks at what other processes have done */
};

struct Allocation {
    char *pages;
    size_t page_bytes, bytes;
    bool managed;
};

/* "0,2" are two; where nothing is said there is one. */
static std::vector<int> devices_visible()
{
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    if (!text) return {0};
    std::vector<int> numbers;
    for (char *end; *text; text = *end == ',' ? end + 1 : "") {
        const int number = (int)strtol(text, &end, 10);
        if (end == text) break;
        numbers.push_back(number);
    }
    return numbers;
}

static struct {
    enum cudashim_streams when = CUDASHIM_LAZY;
    std::vector<int> visible = devices_visible();
    size_t current = 0; /* of those that are visible */
    size_t memory_bytes = (size_t)2 << 30, used_bytes = 0;
    long calls = 0, live = 0;
    long failing_call = 0;
    cudaError_t failure = cudaSuccess, sticky = cudaSuccess, last = cudaSuccess;
    bool failure_sticks = false;
    long pending = 0; /* pieces of work, on all streams */
    int running = 0;  /* nesting of work that runs */
    size_t shared_bytes_most = 0;
    std::set<cudaStream_t> streams;
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

int device_number()
{
    return device.visible[device.current];
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

/* False: it waits for others. */
static bool work_run(cudaStream_t stream)
{
    if (!stream->work.front()()) return false;
    stream->work.pop_front();
    device.pending--;
    return true;
}

/* Runs what `stream` has until `done` says so, or it waits for others, with the memory open. */
static void stream_run(cudaStream_t stream, const std::function<bool()> &done)
{
    if (stream->work.empty()) return;
    if (device.running++ == 0) memory_protect();
    while (!stream->work.empty() && !done() && work_run(stream)) continue;
    if (--device.running == 0) memory_protect();
}

static void stream_move(cudaStream_t stream)
{
    stream_run(stream, [] { return false; });
}

static void stream_drain(cudaStream_t stream)
{
    while (stream_move(stream), !stream->work.empty()) usleep(SHARED_PAUSE_US);
}

void stream_enqueue_shared(cudaStream_t stream, std::function<bool()> work)
{
    stream->work.push_back(
        [work = std::move(work)] { return device.sticky != cudaSuccess || work(); });
    stream->asked = false;
    if (device.pending++ == 0 && device.running == 0) memory_protect();
    if (device.when == CUDASHIM_EAGER) stream_drain(stream);
}

void stream_enqueue(cudaStream_t stream, std::function<void()> work)
{
    stream_enqueue_shared(stream, [work = std::move(work)] {
        work();
        return true;
    });
}

/* Whether the event has passed, once its stream has moved. */
static bool event_move(cudaEvent_t event, long recorded)
{
    const auto passed = [=] { return event->passed >= recorded; };
    if (!passed()) stream_run(event->stream, passed);
    return passed() || device.sticky != cudaSuccess;
}

static void event_wait(cudaEvent_t event)
{
    while (!event_move(event, event->recorded)) usleep(SHARED_PAUSE_US);
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
    if (fault_strikes(Fault::Device)) device.sticky = cudaErrorECCUncorrectable;
    if (cudaError_t error = call_enter()) return error;
    const auto asked = device.shared_bytes.find(kernel);
    const int shared_bytes =
        asked == device.shared_bytes.end() ? SHARED_BYTES_DEFAULT : asked->second;
    if (config.numAttrs > 0 || !launch_allowed(config, shared_bytes))
        return fail(cudaErrorInvalidConfiguration);
    device.shared_bytes_most = std::max(device.shared_bytes_most, config.dynamicSmemBytes);

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
    device.visible.clear();
    for (int number = 0; number < count; number++) device.visible.push_back(number);
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

size_t cudashim_shared_bytes(void)
{
    return std::exchange(device.shared_bytes_most, 0);
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
    *count = (int)device.visible.size();
    return *count > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}

static bool is_visible(int number)
{
    return number >= 0 && (size_t)number < device.visible.size();
}

cudaError_t cudaSetDevice(int number)
{
    if (cudaError_t error = call_enter()) return error;
    if (!is_visible(number)) return fail(cudaErrorInvalidDevice);
    device.current = (size_t)number;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int number)
{
    if (cudaError_t error = call_enter()) return error;
    if (!is_visible(number)) return fail(cudaErrorInvalidDevice);
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

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    if (cudaError_t error = call_enter()) return error;
    void *made = malloc(bytes);
    if (!made) return fail(cudaErrorMemoryAllocation);
    memset(made, 0xff, bytes);
    *memory = made;
    live_add(1);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    const cudaError_t error = call_enter();
    free(memory);
    if (memory) live_add(-1);
    return error;
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

/* This and all else that gives back does so although it fails, as a caller can do nothing about it. */
cudaError_t cudaFree(void *memory)
{
    const cudaError_t error = call_enter();
    if (!memory) return error;
    const auto found = device.allocations.find(memory);
    if (found == device.allocations.end()) return fail(cudaErrorInvalidValue);
    for (cudaStream_t stream : device.streams)
        stream_drain(stream); /* what is under way may use it */
    munmap(found->second.pages, found->second.page_bytes + PAGE_BYTES);
    device.used_bytes -= found->second.bytes;
    device.allocations.erase(found);
    live_add(-1);
    return error;
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
    device.streams.insert(*stream);
    live_add(1);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    const cudaError_t error = call_enter();
    stream_drain(stream);
    device.streams.erase(stream);
    delete stream;
    live_add(-1);
    return error;
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
    if (stream->asked) stream_move(stream);
    stream->asked = true;
    if (device.sticky != cudaSuccess) return fail(device.sticky);
    return stream->work.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (cudaError_t error = call_enter()) return error;
    const long recorded = event->recorded;
    stream_enqueue_shared(stream, [=] { return event_move(event, recorded); });
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
    const cudaError_t error = call_enter();
    event_wait(event);
    delete event;
    live_add(-1);
    return error;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (cudaError_t error = call_enter()) return error;
    const long recorded = ++event->recorded;
    event->stream = stream;
    event->asked = false;
    stream_enqueue(stream, [=] { event->passed = recorded; });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (cudaError_t error = call_enter()) return error;
    event_wait(event);
    return fail(device.sticky);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    if (cudaError_t error = call_enter()) return error;
    if (event->asked) event_move(event, event->recorded);
    event->asked = true;
    if (device.sticky != cudaSuccess) return fail(device.sticky);
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
    case cudaErrorECCUncorrectable:
        return "uncorrectable ECC error encountered";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    default:
        return "another error";
    }
}
