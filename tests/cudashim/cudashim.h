#ifndef CUDASHIM_H
#define CUDASHIM_H

/*
 * What tests may ask of the shim, beside CUDA's own calls. All of it holds for the process and from the next call on.
 * One host thread alone may use CUDA.
 */

#include <stdbool.h>
#include <stdint.h>

#include "cuda_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In which order blocks, and threads of a block, take turns: from the first, from the last, by chance. */
enum cudashim_order { CUDASHIM_FORWARD, CUDASHIM_REVERSE, CUDASHIM_SEEDED };
void cudashim_order(enum cudashim_order order, uint64_t seed);

/* When a stream's work is done: when somebody waits for it, or asks a second time whether it is done, the default, or at
 * once. */
enum cudashim_streams { CUDASHIM_LAZY, CUDASHIM_EAGER };
void cudashim_streams(enum cudashim_streams when);

/* How many devices there are [those of CUDA_VISIBLE_DEVICES, else 1], and how much memory they have [2 GiB]. */
void cudashim_devices(int count);
void cudashim_memory(size_t bytes);

/* The n-th call of the runtime, cuBLASLt or NCCL from now on, 1 for the next, fails with `error`; a sticky one
 * ruins the device, and all that come behind it fail as well. */
void cudashim_fail(long nth, cudaError_t error, bool sticky);

/* The most dynamic shared memory of a launch since this was last asked. */
size_t cudashim_shared_bytes(void);

/* Calls so far that could have failed. */
long cudashim_calls(void);

/* Allocations, streams, events, communicators and handles of cuBLASLt that were not given back. */
long cudashim_live(void);

#ifdef __cplusplus
}
#endif
#endif
