#ifndef CUDASHIM_RUNTIME_H
#define CUDASHIM_RUNTIME_H

/* What cuBLASLt's stand-in needs of the runtime's. */

#include <functional>

#include "cuda_runtime.h"

namespace cudashim
{
/* To be called first by every call that can fail: what it is to fail with, or cudaSuccess. */
cudaError_t call_enter();

void stream_enqueue(cudaStream_t stream, std::function<void()> work);

/* Counts what is not given back. */
void live_add(long count);
} // namespace cudashim

#endif
