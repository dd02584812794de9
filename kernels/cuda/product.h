#ifndef KERNELS_CUDA_PRODUCT_H
#define KERNELS_CUDA_PRODUCT_H

/* Matrix products by cuBLASLt, in row-major terms, with what it can fuse. */

#include "kernels/cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* c = op(a) op(b) + bias + addend */
struct product {
    int64_t rows, columns, depth; /* of c, and what is summed over */
    bool transpose_a, transpose_b;
    const float *a;      /* (rows, depth); transposed: (depth, rows) */
    const float *b;      /* (depth, columns); transposed: (columns, depth) */
    const float *bias;   /* (columns) or NULL */
    const float *addend; /* (rows, columns), may be c; or NULL */
    float *c;            /* (rows, columns) */
    enum precision precision;
};

/* The same answer with arena->base NULL, where it only counts. */
enum status product_run(const struct product *product, struct arena *arena);

/* to (rows, stride) = from (rows, columns) in bf16, 0 in the columns behind; stride is even. In elementwise.cu. */
enum status round_to_bf16(int64_t rows, int64_t columns, int64_t stride, const float *from,
                          void *to);

#ifdef __cplusplus
}
#endif
#endif
