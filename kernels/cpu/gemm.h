#ifndef KERNELS_CPU_GEMM_H
#define KERNELS_CPU_GEMM_H

/*
 * Products of row-major matrices by oneDNN, each on the calling thread alone. Bits of a product depend on its
 * sizes, strides and transposes, not on where its operands lie.
 *
 * Operands that are walked along a stride of a multiple of 128 floats lose a third of the speed (their rows
 * fall into the same cache sets): copy them to rows of gemm_stride() first.
 */

#include <stdint.h>

#include "proto/status.h"

/* c (m, n) = alpha a b + beta c; a (m, k), b (k, n); beta 0: what c held does not matter */
void gemm_nn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
             const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* the same with b stored as (n, k) */
void gemm_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
             const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* the same with a stored as (k, m) */
void gemm_tn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
             const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* ST_OK, or ST_NO_MEMORY where a product since the last call of this found none for its own work. Products run
 * on any thread of a team and cannot return it themselves. */
enum status gemm_outcome(void);

/* The smallest stride for rows of `width` floats that is whole cache lines and falls into all cache sets. */
static inline int64_t gemm_stride(int64_t width)
{
    const int64_t stride = (width + 15) / 16 * 16;
    return stride % 64 == 0 ? stride + 16 : stride;
}

/* "oneDNN 2.6.3" */
const char *gemm_library(void);

#endif
