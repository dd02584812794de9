#ifndef KERNELS_CUDA_H
#define KERNELS_CUDA_H

/* The backend of kernels/cuda, or where it was not built, what stands in its place. */

#include "kernels/backend.h"

/*
 * Opens the device at the first call: one of a process, used by one thread. NULL where there is none that it can use, and then
 * in *why_not, in words.
 */
const struct backend *cuda_backend(const char **why_not);

#endif
