#include <stdlib.h>
#include <time.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/pairs.h"

enum {
    M = 252, /* whole blocks of either product */
    N = 512,
    K = 512,
    PIECES = 4, /* for each thread */
    ROUNDS = 8, /* of which the fastest counts: the others were disturbed */
};

struct operands {
    float *a, *b, *c; /* (M, stride of K) (K, stride of N) (threads, M, stride of N) */
    int64_t k_stride, n_stride;
};

static void piece_multiply(void *context, int64_t piece, int thread)
{
    const struct operands *o = context;
    (void)piece;
    gemm_nn(M, N, K, 1, o->a, o->k_stride, o->b, o->n_stride, 0, o->c + thread * M * o->n_stride,
            o->n_stride);
}

/* The same memory, read as pairs: half of it. */
static void piece_multiply_bf16(void *context, int64_t piece, int thread)
{
    const struct operands *o = context;
    const struct left a = {(const uint32_t *)o->a, K / 2, 1};
    (void)piece;
    CPU(pairs_multiply)
    (M, N, K / 2, a, (const uint32_t *)o->b, K / 2 * PANEL, false, o->c + thread * M * o->n_stride,
     o->n_stride);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double CPU(peak)(struct team *team, enum precision precision)
{
    team_body *body = precision == PRECISION_BF16 ? piece_multiply_bf16 : piece_multiply;
    const int threads = team_threads(team);
    const int64_t k_stride = gemm_stride(K), n_stride = gemm_stride(N);
    const int64_t count = M * k_stride + K * n_stride + threads * M * n_stride;
    float *memory = aligned_alloc(64, (size_t)count * sizeof *memory);
    if (!memory) return 0;
    for (int64_t i = 0; i < count; i++) memory[i] = 1.0f / (float)(1 + i % 7);
    struct operands operands = {memory, memory + M * k_stride, memory + M * k_stride + K * n_stride,
                                k_stride, n_stride};
    double least = 0;

    for (int round = 0; round < ROUNDS; round++) {
        const double start = seconds_now();
        team_run(team, PIECES * threads, body, &operands);
        const double taken = seconds_now() - start;
        if (round == 0 || taken < least) least = taken;
    }
    free(memory);
    if (gemm_outcome() != ST_OK) return 0;
    return 2.0 * M * N * K * PIECES * threads / least * 1e-9;
}
