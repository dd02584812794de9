#include "kernels/cpu/gemm.h"

#include <assert.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

/* oneDNN 3 has its headers in oneapi/dnnl alone, releases before 2.0 beside them; dnnl_sgemm is the same in all. */
#if defined(DNNL_OLD_HEADER)
#include <dnnl.h>
#else
#include <oneapi/dnnl/dnnl.h>
#endif

static atomic_bool out_of_memory;

/* oneDNN asks OpenMP how many threads it may use, and OpenMP keeps that per thread. */
static void thread_claim(void)
{
    static _Thread_local bool claimed;
    if (claimed) return;
    omp_set_num_threads(1);
    claimed = true;
}

static void gemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                 int64_t ldc)
{
    thread_claim();
    dnnl_status_t status =
        dnnl_sgemm(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    assert(status == dnnl_success || status == dnnl_out_of_memory);
    if (status != dnnl_success) atomic_store(&out_of_memory, true);
}

void gemm_nn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
             const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    gemm('N', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void gemm_nt(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
             const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    gemm('N', 'T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void gemm_tn(int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
             const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    gemm('T', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

enum status gemm_outcome(void)
{
    return atomic_exchange(&out_of_memory, false) ? ST_NO_MEMORY : ST_OK;
}

static char library[32];

static void library_name(void)
{
    const dnnl_version_t *version = dnnl_version();
    snprintf(library, sizeof library, "oneDNN %d.%d.%d", version->major, version->minor,
             version->patch);
}

const char *gemm_library(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, library_name);
    return library;
}
