/* The products and the transpose of small matrices, on every instruction set that the machine has. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/trial.h"

typedef void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                     int64_t ldb, float beta, float *c, int64_t ldc);
typedef void transposition(int64_t m, int64_t n, const float *from, int64_t from_stride, float *to,
                           int64_t to_stride);

#define DECLARE(isa, text)                                  \
    product cpu_##isa##_product_nn, cpu_##isa##_product_tn; \
    transposition cpu_##isa##_transpose;
CPU_ISAS(DECLARE)
#undef DECLARE

static const struct set {
    const char *text;
    product *nn, *tn;
    transposition *transpose;
} sets[] = {
#define SET(isa, text) \
    {text, cpu_##isa##_product_nn, cpu_##isa##_product_tn, cpu_##isa##_transpose},
    CPU_ISAS(SET)
#undef SET
};
enum { SETS = sizeof sets / sizeof sets[0] };

static bool set_runs(const struct set *set)
{
    struct backend table;
    return cpu_backend_override_isa(&table, set->text) == ST_OK;
}

/* Whole blocks, parts of a register, less than a block, nothing to add up. */
static const struct size {
    int64_t m, n, k;
} sizes[] = {{1, 1, 1},    {6, 64, 64}, {13, 17, 5},   {64, 65, 256}, {5, 128, 31},
             {48, 47, 48}, {7, 3, 129}, {256, 64, 64}, {11, 80, 0}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* Behind each row, floats that must stay as they are. */
enum { MARGIN = 3 };

/* Largest |ours - a b - beta c| in units of k eps Σ |a b|; infinite where the margin was written. */
static double product_error(const struct size *size, const float *a, int64_t row, int64_t column,
                            const float *b, float beta, const float *before, const float *ours)
{
    const int64_t stride = size->n + MARGIN;
    double worst = 0;
    for (int64_t i = 0; i < size->m; i++) {
        for (int64_t j = 0; j < stride; j++) {
            const double old = before[i * stride + j], at = ours[i * stride + j];
            if (j >= size->n && at != old) return INFINITY;
            if (j >= size->n) continue;
            double sum = beta == 0 ? 0 : beta * old, sizes_sum = fabs(sum) + 1e-30;
            for (int64_t l = 0; l < size->k; l++) {
                const double term = (double)a[i * row + l * column] * b[l * stride + j];
                sum += term;
                sizes_sum += fabs(term);
            }
            const double error = fabs(at - sum) / (sizes_sum * 0x1p-23 * (double)(size->k + 1));
            worst = error <= worst ? worst : error;
        }
    }
    return worst;
}

static void product_hold(const struct set *set, const struct size *size, bool transposed,
                         float beta)
{
    const int64_t stride = size->n + MARGIN;
    const int64_t lda = (transposed ? size->m : size->k) + MARGIN;
    float *a = trial_floats(1, lda * (transposed ? size->k : size->m), 1);
    float *b = trial_floats(2, size->k * stride, 1);
    float *before = trial_floats(3, size->m * stride, 1);
    for (int64_t i = 0; beta == 0 && i < size->m; i++)
        for (int64_t j = 0; j < size->n; j++) before[i * stride + j] = NAN;
    float *c = trial_copy(before, size->m * stride);

    (transposed ? set->tn : set->nn)(size->m, size->n, size->k, a, lda, b, stride, beta, c, stride);
    const double error =
        product_error(size, a, transposed ? 1 : lda, transposed ? lda : 1, b, beta, before, c);
    cr_expect(error <= 1, "%s %s (%ld, %ld, %ld) beta %g: off by %g", set->text,
              transposed ? "tn" : "nn", (long)size->m, (long)size->n, (long)size->k, beta, error);
    free(a);
    free(b);
    free(before);
    free(c);
}

Test(product, it_is_that_of_doubles)
{
    static const float betas[] = {0, 1, -0.75f};
    for (int s = 0; s < SETS; s++) {
        for (int i = 0; i < SIZES * 6 && set_runs(&sets[s]); i++)
            product_hold(&sets[s], &sizes[i / 6], i % 2, betas[i / 2 % 3]);
    }
}

/* What the same-bits promise of attention rests on: cut anywhere, and with a stored either way. */
Test(product, an_element_has_bits_of_its_own)
{
    enum { M = 29, N = 70, K = 53, CUT_M = 9, CUT_N = 37, CUT_K = 20 };
    float *a = trial_floats(1, M * K, 1), *b = trial_floats(2, K * N, 1);
    for (int s = 0; s < SETS; s++) {
        if (!set_runs(&sets[s])) continue;
        float *whole = trial_unwritten(M * N), *cut = trial_unwritten(M * N);
        float *turned = trial_unwritten(M * K);
        sets[s].nn(M, N, K, a, K, b, N, 0, whole, N);
        sets[s].transpose(M, K, a, K, turned, M);
        for (int i = 0; i < 4; i++) {
            const int row = i / 2 * CUT_M, column = i % 2 * CUT_N;
            const int rows = i / 2 ? M - CUT_M : CUT_M, columns = i % 2 ? N - CUT_N : CUT_N;
            float *c = cut + row * N + column;
            sets[s].nn(rows, columns, CUT_K, a + row * K, K, b + column, N, 0, c, N);
            sets[s].tn(rows, columns, K - CUT_K, turned + CUT_K * M + row, M,
                       b + CUT_K * N + column, N, 1, c, N);
        }
        cr_expect_eq(memcmp(whole, cut, M * N * sizeof *cut), 0, "%s", sets[s].text);
        free(whole);
        free(cut);
        free(turned);
    }
    free(a);
    free(b);
}

Test(product, a_transpose_is_exact_and_stays_in_its_place)
{
    for (int s = 0; s < SETS; s++) {
        for (int i = 0; i < SIZES && set_runs(&sets[s]); i++) {
            const int64_t m = sizes[i].m, n = sizes[i].n;
            float *from = trial_floats(1, m * (n + MARGIN), 1);
            float *to = trial_unwritten(n * (m + MARGIN));
            sets[s].transpose(m, n, from, n + MARGIN, to, m + MARGIN);
            for (int64_t j = 0; j < n; j++) {
                for (int64_t l = 0; l < m + MARGIN; l++) {
                    const float at = to[j * (m + MARGIN) + l];
                    cr_expect(l < m ? at == from[l * (n + MARGIN) + j] : isnan(at),
                              "%s (%ld, %ld) at %ld, %ld", sets[s].text, (long)m, (long)n, (long)j,
                              (long)l);
                }
            }
            free(from);
            free(to);
        }
    }
}
