#ifndef KERNELS_CUDA_CHANCE_CUH
#define KERNELS_CUDA_CHANCE_CUH

/* kernels/philox.h and kernels/dropout.h once more, for the device: the same bits. */

#include "kernels/backend.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/dropout.h"
#include "kernels/philox.h"

static __device__ __forceinline__ void philox_round(uint32_t x[4], uint32_t k0, uint32_t k1)
{
    const uint32_t high0 = __umulhi(0xD2511F53u, x[0]), low0 = 0xD2511F53u * x[0];
    const uint32_t high1 = __umulhi(0xCD9E8D57u, x[2]), low1 = 0xCD9E8D57u * x[2];
    x[0] = high1 ^ x[1] ^ k0;
    x[1] = low1;
    x[2] = high0 ^ x[3] ^ k1;
    x[3] = low0;
}

/* Four neighbours of a row are dropped out together: how many such groups there are. */
static __host__ __device__ inline int64_t quads_of(int64_t rows, int64_t width)
{
    return rows * ((width + 3) / 4);
}

/* What columns 4 quad ... 4 quad + 3 of a row are multiplied by. */
static __device__ __forceinline__ float4 dropout_quad(const struct dropout_key &key, int64_t row,
                                                      int64_t width, int64_t quad)
{
    enum { ROUNDS = 10 };
    if (key.rate == 0) return make_float4(1, 1, 1, 1);
    const int64_t place = row % key.length * ((width + 3) / 4) + quad;
    const uint32_t layer = key.site + (uint32_t)(place >> 32 << DROPOUT_SITE_BITS);
    uint32_t x[4] = {key.step, key.first_sequence + (uint32_t)(row / key.length), (uint32_t)place,
                     (uint32_t)PURPOSE_DROPOUT << 24 | layer};
    uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
    for (int round = 0; round < ROUNDS; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        philox_round(x, k0, k1);
    float factor[4];
    for (int i = 0; i < 4; i++)
        factor[i] = (float)(x[i] >> 8) * 0x1p-24f < key.rate ? 0.0f : 1.0f / (1.0f - key.rate);
    return make_float4(factor[0], factor[1], factor[2], factor[3]);
}

/* Calls visit(row, column, factor) for each element of (rows, width), a thread taking four neighbours of a row. */
template <typename Visit>
static __device__ void for_dropout(const struct dropout_key &key, int64_t rows, int64_t width,
                                   Visit visit)
{
    const int64_t quads = (width + 3) / 4;
    FOR_ELEMENTS(i, rows * quads)
    {
        const int64_t row = i / quads, column = i % quads * 4;
        const float4 factor = dropout_quad(key, row, width, i % quads);
        visit(row, column, factor.x);
        if (column + 1 < width) visit(row, column + 1, factor.y);
        if (column + 2 < width) visit(row, column + 2, factor.z);
        if (column + 3 < width) visit(row, column + 3, factor.w);
    }
}

#endif
