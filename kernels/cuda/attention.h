#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

/* The kinds of attention that have kernels of their own, each in its file. All with an arena: with base NULL it only counts. */

#include "kernels/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the tiles of heads as wide as these find room in the shared memory of a block. */
bool favor_fits(const struct attention *call);
bool softmax_fits(const struct attention *call);

size_t favor_saved_floats(const struct attention *call);
enum status favor_forward(const struct attention *call, struct arena *arena);
enum status favor_backward(const struct attention_backward *call, struct arena *arena);

size_t softmax_saved_floats(const struct attention *call);
enum status softmax_forward(const struct attention *call, struct arena *arena);
enum status softmax_backward(const struct attention_backward *call, struct arena *arena);

#ifdef __cplusplus
}
#endif
#endif
