#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

/*
 * Products of small row-major matrices that lie in the caches of the calling thread: nothing is packed, nothing is
 * allocated. Of large ones oneDNN is better (gemm.h).
 *
 * An element of c is one chain of lanes_fma over k from first to last, from beta c on. So its bits are its own: they
 * do not depend on where a product is cut along m or n, nor, where the second part has beta 1, along k.
 */

#include <stdint.h>

#include "kernels/cpu/isa.h"

/* c (m, n) = a b + beta c; a (m, k), b (k, n); beta 0: what c held does not matter. Rows of b are best whole registers,
 * at a stride that falls into all cache sets (gemm_stride). */
void CPU(product_nn)(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                     int64_t ldb, float beta, float *c, int64_t ldc);

/* the same with a stored as (k, m) */
void CPU(product_tn)(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                     int64_t ldb, float beta, float *c, int64_t ldc);

/* to (n, m) = the transpose of from (m, n) */
void CPU(transpose)(int64_t m, int64_t n, const float *from, int64_t from_stride, float *to,
                    int64_t to_stride);

#endif
