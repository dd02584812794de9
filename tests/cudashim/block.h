#ifndef CUDASHIM_BLOCK_H
#define CUDASHIM_BLOCK_H

/*
 * Runs the blocks of a launch, one after another. A thread of a block is a fiber with a stack of its own, on the one host
 * thread that first came here. It runs until it has to wait for others (a barrier, a warp's collective) or ends; then
 * another takes its turn. Who is next is the order that tests choose: what depends on it shows as other results.
 *
 * ThreadSanitizer is told of each fiber as of a thread, and of barriers as what orders their memory. Collectives that do
 * not order memory on the device (shuffles, votes, mma) do not here. Blocks of a launch are ordered for it, so two that
 * race show by their results alone, in different orders.
 */

#include <functional>
#include <string>

#include "cuda_runtime.h"

namespace cudashim
{
enum class Order { Forward, Reverse, Seeded };

/* Of threads and of blocks, from the next launch on. */
void order_set(Order order, uint64_t seed);

struct Launch {
    dim3 grid, block;
    size_t shared_bytes;
    std::function<void()> thread;
};

/* False where threads wait for each other for ever or meet in different calls, with which and where in *why. */
bool launch_run(const Launch &launch, std::string *why);
} // namespace cudashim

#endif
