#ifndef KERNELS_REFERENCE_ATTENTION_H
#define KERNELS_REFERENCE_ATTENTION_H

/* Attention cut into heads: what reference/attention.c hands to the file of each kind. */

#include "kernels/backend.h"

/* Rows of one head of one sequence. */
struct rows {
    float *data;
    int64_t stride;
};

/* Gradients are there in the backward pass only. */
struct head {
    const struct attention *call;
    const uint8_t *key_mask;  /* (L) or NULL */
    struct rows q, k, v, out; /* (L, d) (L, d) (L, e) (L, e) */
    struct rows dq, dk, dv, dout;
};

static inline float *row_at(struct rows rows, int64_t row)
{
    return rows.data + row * rows.stride;
}

static inline bool is_key(const struct head *head, int64_t row)
{
    return !head->key_mask || head->key_mask[row];
}

/* Doubles of scratch for one head; forward and backward of a kind need no more than this. */
int64_t reference_favor_doubles(const struct attention *call);
int64_t reference_softmax_doubles(const struct attention *call);
int64_t reference_linformer_doubles(const struct attention *call);
int64_t reference_reformer_doubles(const struct attention *call);

void reference_favor(const struct head *head, double *scratch);
void reference_favor_backward(const struct head *head, double *scratch);
void reference_softmax(const struct head *head, double *scratch);
void reference_softmax_backward(const struct head *head, double *scratch);
void reference_linformer(const struct head *head, double *scratch);
void reference_linformer_backward(const struct head *head, double *scratch);
void reference_reformer(const struct head *head, double *scratch);
void reference_reformer_backward(const struct head *head, double *scratch);

#endif
