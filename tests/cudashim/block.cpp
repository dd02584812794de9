#include "tests/cudashim/block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#include <memory>

#include "tests/cudashim/fiber.h"
#include "tests/cudashim/warp.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cudashim
{
enum { THREADS_MAX = 1024, SHARED_ALIGN_BYTES = 128 };
enum class Wait { Ready, Block, Warp, Ended };

struct Thread {
    uint3 index;
    int number; /* in its block */
    Wait wait;
    unsigned block_barriers, warp_barriers; /* that it has passed */
    Lane lane;
    Fiber fiber;
};

/* Lanes that meet in one collective of their warp. */
struct Meeting {
    unsigned mask, arrived;
    Collective collective;
};

struct Warp {
    unsigned live;
    Meeting meeting[WARP_LANES]; /* by the lowest lane of its mask */
};

/* What ThreadSanitizer orders memory by. Barriers take turns between two tags: who leaves one late must not be ordered
 * behind what another did on its way to the next. */
struct Tags {
    char begin, end, block[2], warp[THREADS_MAX / WARP_LANES][2];
};

/* Threads that can go on, in the order in which they could: a ring, as nothing is allocated where fibers run. */
struct Ready {
    int ring[THREADS_MAX];
    unsigned begin, end;
};

/* The block that runs. */
struct Block {
    Order order = Order::Forward;
    uint64_t chance = 1;

    const std::function<void()> *body;
    Thread thread[THREADS_MAX]; /* of which the first `threads` take part */
    Warp warp[THREADS_MAX / WARP_LANES];
    Ready ready;
    int threads, live;
    Thread *current;

    int arrived; /* at the block's barrier */
    Vote vote;
    int count, last_count, last_arrived;

    std::unique_ptr<char, decltype(&free)> shared{nullptr, free};
    Fiber scheduler;
    Tags tags;
    bool failed;
    std::string why;
};

static Block &block = *new Block; /* never freed: fibers may be left on its stacks */

void order_set(Order order, uint64_t seed)
{
    block.order = order;
    block.chance = seed * 0x9E3779B97F4A7C15u | 1;
}

/* xorshift64 (Marsaglia 2003) */
static uint64_t chance_next()
{
    block.chance ^= block.chance << 13;
    block.chance ^= block.chance >> 7;
    block.chance ^= block.chance << 17;
    return block.chance;
}

/* ---- turns ---- */

static void thread_wake(Thread *thread)
{
    thread->wait = Wait::Ready;
    block.ready.ring[block.ready.end++ % THREADS_MAX] = thread->number;
}

/* The next whose turn it is. */
static Thread *take_next(Ready &ready)
{
    int &front = ready.ring[ready.begin % THREADS_MAX];
    if (block.order == Order::Reverse) return &block.thread[ready.ring[--ready.end % THREADS_MAX]];
    if (block.order == Order::Seeded)
        std::swap(
            front,
            ready.ring[(ready.begin + chance_next() % (ready.end - ready.begin)) % THREADS_MAX]);
    ready.begin++;
    return &block.thread[front];
}

static void thread_wait(Wait wait)
{
    Thread *me = block.current;
    me->wait = wait;
    fiber_jump(&me->fiber, &block.scheduler);
}

static void block_fail(const char *what)
{
    if (block.failed) return;
    char place[160];
    snprintf(place, sizeof place, " (thread %u,%u,%u of block %u,%u,%u)", block.current->index.x,
             block.current->index.y, block.current->index.z, blockIdx.x, blockIdx.y, blockIdx.z);
    block.failed = true;
    block.why = std::string(what) + place;
}

/* Ends the block where it stands: its stacks are armed anew for the next. */
[[noreturn]] static void thread_abandon(const char *what)
{
    block_fail(what);
    thread_wait(Wait::Ended);
    abort();
}

/* ---- collectives ---- */

static void meeting_end(Warp &warp, Meeting &meeting)
{
    Thread *first = &block.thread[(&warp - block.warp) * WARP_LANES];
    Lane *lanes[WARP_LANES];
    for (unsigned i = 0; i < WARP_LANES; i++)
        lanes[i] = meeting.arrived >> i & 1 ? &first[i].lane : nullptr;
    if (meeting.collective) meeting.collective(lanes);
    for (unsigned i = 0; i < WARP_LANES; i++)
        if (lanes[i] && first[i].wait == Wait::Warp) thread_wake(&first[i]);
    meeting = Meeting();
}

Lane *lane_current()
{
    return &block.current->lane;
}

void lanes_meet(unsigned mask, Collective collective)
{
    Thread *me = block.current;
    const unsigned lane = (unsigned)me->number % WARP_LANES;
    Warp &warp = block.warp[me->number / WARP_LANES];
    if (!(mask >> lane & 1))
        thread_abandon("a lane calls a collective that its own mask leaves out");

    Meeting &meeting = warp.meeting[__builtin_ctz(mask)];
    if (meeting.arrived == 0)
        meeting.mask = mask, meeting.collective = collective;
    else if (meeting.mask != mask || meeting.collective != collective)
        thread_abandon("lanes of a warp meet in different collectives, or with different masks");
    meeting.arrived |= 1u << lane;
    if (meeting.arrived == (mask & warp.live))
        meeting_end(warp, meeting);
    else
        thread_wait(Wait::Warp);
}

void warp_barrier(unsigned mask)
{
    Thread *me = block.current;
    char *tag = &block.tags.warp[me->number / WARP_LANES][me->warp_barriers++ % 2];
    memory_release(tag);
    lanes_meet(mask, nullptr);
    memory_acquire(tag);
}

static void block_barrier_end()
{
    block.last_count = block.count;
    block.last_arrived = block.arrived;
    block.arrived = block.count = 0;
    for (int i = 0; i < block.threads; i++)
        if (block.thread[i].wait == Wait::Block) thread_wake(&block.thread[i]);
}

int block_barrier(Vote vote, int predicate)
{
    Thread *me = block.current;
    char *tag = &block.tags.block[me->block_barriers++ % 2];
    if (block.arrived == 0) block.vote = vote;
    if (block.vote != vote) thread_abandon("threads of a block meet in different barriers");
    block.arrived++;
    block.count += predicate != 0;
    memory_release(tag);
    if (block.arrived == block.live)
        block_barrier_end();
    else
        thread_wait(Wait::Block);
    memory_acquire(tag);
    if (vote == Vote::And) return block.last_count == block.last_arrived;
    return vote == Vote::Or ? block.last_count != 0 : block.last_count;
}

void *dynamic_shared()
{
    return block.shared.get();
}

/* ---- a block from its beginning to its end ---- */

/* Those who wait for it wait no longer. */
static void thread_end(Thread *me)
{
    Warp &warp = block.warp[me->number / WARP_LANES];
    block.live--;
    warp.live &= ~(1u << me->number % WARP_LANES);
    if (block.arrived > 0 && block.arrived == block.live) block_barrier_end();
    for (Meeting &meeting : warp.meeting)
        if (meeting.arrived && meeting.arrived == (meeting.mask & warp.live))
            meeting_end(warp, meeting);
}

/* Once round for each block. */
static void thread_main()
{
    fiber_begin();
    for (;;) {
        memory_acquire(&block.tags.begin);
        (*block.body)();
        memory_release(&block.tags.end);
        thread_end(block.current);
        thread_wait(Wait::Ended);
    }
}

static void threads_place(dim3 size)
{
    block.threads = (int)(size.x * size.y * size.z);
    for (unsigned i = 0; i < (unsigned)block.threads; i++) {
        Thread &thread = block.thread[i];
        thread.number = (int)i;
        thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        if (!thread.fiber.stack) fiber_arm(&thread.fiber, thread_main);
    }
}

static void block_begin(size_t shared_bytes)
{
    for (Warp &warp : block.warp) warp = Warp();
    block.ready.begin = block.ready.end = 0;
    for (int i = 0; i < block.threads; i++) {
        Thread &thread = block.thread[i];
        thread.block_barriers = thread.warp_barriers = 0;
        block.warp[i / WARP_LANES].live |= 1u << i % WARP_LANES;
        thread_wake(&thread);
    }
    block.live = block.threads;
    block.arrived = block.count = 0;
    block.failed = false;
    if (shared_bytes > 0) memset(block.shared.get(), 0xff, shared_bytes);
    memory_release(&block.tags.begin);
}

static void block_stuck()
{
    int at_block = 0, in_warp = 0;
    for (int i = 0; i < block.threads; i++) {
        at_block += block.thread[i].wait == Wait::Block;
        in_warp += block.thread[i].wait == Wait::Warp;
        if (block.thread[i].wait != Wait::Ended) block.current = &block.thread[i];
    }
    char what[128];
    snprintf(
        what, sizeof what,
        "%d threads wait at a barrier of the block and %d in a collective of their warp for others who "
        "never come",
        at_block, in_warp);
    block_fail(what);
}

static bool block_run(size_t shared_bytes)
{
    block_begin(shared_bytes);
    while (block.ready.begin != block.ready.end && !block.failed) {
        block.current = take_next(block.ready);
        threadIdx = block.current->index;
        fiber_jump(&block.scheduler, &block.current->fiber);
    }
    if (block.live > 0 && !block.failed) block_stuck();
    memory_acquire(&block.tags.end);
    for (int i = 0; i < block.threads && block.failed; i++)
        fiber_arm(&block.thread[i].fiber, thread_main);
    return !block.failed;
}

static std::vector<unsigned> blocks_in_order(unsigned count)
{
    std::vector<unsigned> blocks(count);
    for (unsigned i = 0; i < count; i++) {
        blocks[i] = block.order == Order::Reverse ? count - 1 - i : i;
        if (block.order == Order::Seeded) std::swap(blocks[i], blocks[chance_next() % (i + 1)]);
    }
    return blocks;
}

bool launch_run(const Launch &launch, std::string *why)
{
    fiber_adopt_host(&block.scheduler);
    threads_place(launch.block);
    const size_t room = (launch.shared_bytes + SHARED_ALIGN_BYTES) / SHARED_ALIGN_BYTES;
    block.shared.reset(
        static_cast<char *>(aligned_alloc(SHARED_ALIGN_BYTES, room * SHARED_ALIGN_BYTES)));
    block.body = &launch.thread;
    blockDim = launch.block;
    gridDim = launch.grid;

    for (unsigned number : blocks_in_order(gridDim.x * gridDim.y * gridDim.z)) {
        blockIdx = {number % gridDim.x, number / gridDim.x % gridDim.y,
                    number / (gridDim.x * gridDim.y)};
        if (!block_run(launch.shared_bytes)) {
            *why = block.why;
            return false;
        }
    }
    return true;
}
} // namespace cudashim
