#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

/* All inline PTX of this folder. Each function has a twin in C++, for tests on a CPU: tests/cudashim/include/ptx_twins.h. */

#include <stdint.h>

#ifdef __CUDACC__

/* d = a b + c for a warp: a (16, 16) row by row, b (16, 8) column by column, in bf16; c and d (16, 8). Which lane holds what: PTX
 * ISA, "Matrix Fragments for mma.m16n8k16 with floating point type". */
__device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], const uint32_t a[4],
                                                  const uint32_t b[2], const float c[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}

/* Two floats to the nearest bf16, ties to even, `low` in the lower half. */
__device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

#else

#include <ptx_twins.h>
using cudashim::bf16_pair;
using cudashim::mma_m16n8k16_bf16;

#endif
#endif
