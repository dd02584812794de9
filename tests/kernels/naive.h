#ifndef TESTS_KERNELS_NAIVE_H
#define TESTS_KERNELS_NAIVE_H

/*
 * What the kernels are held against: the textbook forms in double, with the L x L attention
 * matrix written out and no scan, no blocks, no fusion. Nothing here is shared with kernels/.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/choice.h"

/* One head of one sequence. */
struct naive_attention {
    enum attention_kind kind;
    enum attention_kernel kernel;
    bool causal;
    double epsilon;
    int64_t length, dim, width, features; /* L, d, e, m */
    const double *projection;             /* (m, d) */
    const double *q, *k, *v;              /* (L, d) (L, d) (L, e) */
    const uint8_t *key_mask;              /* (L) or NULL */
};

/* The shifts c of the stabiliser, (L) each, 0 where there is none or it cancels: apart
 * from the rest because they are not differentiated. */
void naive_shifts(const struct naive_attention *head, double *query, double *key);

/* Output with the given shifts, (L, e). */
void naive_attention_with(const struct naive_attention *head, const double *query_shift,
                          const double *key_shift, double *out);

void naive_attention(const struct naive_attention *head, double *out);
void naive_attention_backward(const struct naive_attention *head, const double *dout, double *dq,
                              double *dk, double *dv);

/* Turns each pair of x (d) by position * 10000^(-2 i / d). */
void naive_rotary(int64_t dim, double position, double *x);

/* y (R, out) = x wᵀ + bias; bias may be NULL */
void naive_linear(int64_t rows, int64_t in, int64_t out, const double *x, const double *weight,
                  const double *bias, double *y);

double naive_gelu(double u);

/* y (R, width) */
void naive_layernorm(int64_t rows, int64_t width, const double *x, const double *weight,
                     const double *bias, double *y);

/* -log softmax(logits)[target], one row */
double naive_cross_entropy(int64_t vocab, const double *logits, int64_t target);

#endif
