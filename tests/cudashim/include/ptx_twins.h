#ifndef CUDASHIM_PTX_TWINS_H
#define CUDASHIM_PTX_TWINS_H

/* What the instructions of kernels/cuda/ptx.cuh do, in C++. Layouts of fragments: PTX ISA, "Matrix Fragments for
 * mma.m16n8k16 with floating point type". */

#include <stdint.h>

namespace cudashim
{
/* d = a b + c for the whole warp; products and sums in float, over k in order. */
void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4]);

/* Two floats to the nearest bf16, ties to even, `low` in the lower half. */
uint32_t bf16_pair(float low, float high);
} // namespace cudashim

#endif
