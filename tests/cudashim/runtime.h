#ifndef CUDASHIM_RUNTIME_H
#define CUDASHIM_RUNTIME_H

/* What the stand-ins of cuBLASLt and NCCL need of the runtime's. */

#include <functional>

#include "cuda_runtime.h"

namespace cudashim
{
/* To be called first by every call that can fail: what it is to fail with, or cudaSuccess. */
cudaError_t call_enter();

void stream_enqueue(cudaStream_t stream, std::function<void()> work);

/* Work that other processes have a part in: done a bit at each call, until it answers that it is over. */
void stream_enqueue_shared(cudaStream_t stream, std::function<bool()> work);

/* The device that was set, as all processes of the machine know it. */
int device_number();

/* Counts what is not given back. */
void live_add(long count);
} // namespace cudashim

#endif
