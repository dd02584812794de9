#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

/* The kinds of attention that attention.c chooses from. */

#include "kernels/cpu/operations.h"

#define CPU_ATTENTION(kind)                                                         \
    enum status CPU(kind)(struct stream * stream, const struct attention *call);    \
    enum status CPU(kind##_backward)(struct stream * stream,                        \
                                     const struct attention_backward *call);        \
    size_t CPU(kind##_scratch)(const struct attention *call, int threads);          \
    size_t CPU(kind##_backward_scratch)(const struct attention *call, int threads); \
    size_t CPU(kind##_saved_floats)(const struct attention *call);
CPU_ATTENTION(favor_bidirectional)
CPU_ATTENTION(favor_causal)
CPU_ATTENTION(softmax)
CPU_ATTENTION(linformer)
CPU_ATTENTION(reformer)
#undef CPU_ATTENTION

/* Rows of one head of one sequence. */
struct rows {
    float *data;
    int64_t stride;
};

static inline struct rows head_rows(struct heads_view view, int64_t sequence, int64_t head)
{
    return (struct rows){view.data + sequence * view.batch_stride + head * view.head_stride,
                         view.row_stride};
}

static inline float *row_of(struct rows rows, int64_t row)
{
    return rows.data + row * rows.stride;
}

/* The mask of a sequence's keys, NULL where all are keys. */
static inline const uint8_t *sequence_mask(const struct attention *call, int64_t sequence)
{
    return call->key_mask ? call->key_mask + sequence * call->length : NULL;
}

#endif
