#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

/* The kinds of attention that have kernels of their own, each in its file. All with an arena: with base NULL it only counts. */

#include "kernels/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the tiles of heads as wide as these find room in the shared memory of a block; softmax: of linformer and reformer too. */
bool favor_fits(const struct attention *call);
bool softmax_fits(const struct attention *call);

size_t favor_saved_floats(const struct attention *call);
enum status favor_forward(const struct attention *call, struct arena *arena);
enum status favor_backward(const struct attention_backward *call, struct arena *arena);

/* `keys` of a head: `length`, or as many as linformer makes of those. dk and dv are sums over the queries, written for each
 * `slice` of them by itself: (slices B, H, keys, d or e), which for one slice is all there is. */
size_t softmax_saved_floats(const struct attention *call);
enum status softmax_forward(const struct attention *call, int64_t keys, struct arena *arena);
enum status softmax_backward(const struct attention_backward *call, int64_t keys, int64_t slice,
                             struct arena *arena);

size_t linformer_saved_floats(const struct attention *call);
enum status linformer_forward(const struct attention *call, struct arena *arena);
enum status linformer_backward(const struct attention_backward *call, struct arena *arena);

size_t reformer_saved_floats(const struct attention *call);
enum status reformer_forward(const struct attention *call, struct arena *arena);
enum status reformer_backward(const struct attention_backward *call, struct arena *arena);

#ifdef __cplusplus
}
#endif
#endif
