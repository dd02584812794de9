/* The products of small matrices, of either precision, and the transpose, on every instruction set that the machine has. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a header says of one instruction set is here said of the plainest; those of each are declared below. */
#define CPU_ISA generic
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/operand.h"
#include "tests/kernels/trial.h"

typedef void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                     int64_t ldb, float beta, float *c, int64_t ldc);
typedef void transposition(int64_t m, int64_t n, const float *from, int64_t from_stride, float *to,
                           int64_t to_stride);
typedef struct operand laying(int64_t rows, int64_t columns, const float *x, int64_t stride,
                              uint32_t *room);
typedef struct operand parting(struct operand whole, int64_t row, int64_t column);
typedef void operand_product(int64_t m, int64_t n, int64_t k, struct operand a, struct operand b,
                             bool add, float *c, int64_t ldc);

#define DECLARE(isa, text)                                                   \
    product cpu_##isa##_product_nn, cpu_##isa##_product_tn;                  \
    transposition cpu_##isa##_transpose;                                     \
    laying cpu_##isa##_operand_rows, cpu_##isa##_operand_columns;            \
    parting cpu_##isa##_operand_rows_from, cpu_##isa##_operand_columns_from; \
    operand_product cpu_##isa##_operand_multiply, cpu_##isa##_operand_multiply_tn;
CPU_ISAS(DECLARE)
#undef DECLARE

static const struct set {
    const char *text;
    product *nn, *tn;
    transposition *transpose;
    /* Of operands, with the left one as rows and as columns. */
    laying *lay[2], *lay_right;
    parting *part[2], *part_right;
    operand_product *multiply[2];
} sets[] = {
#define SET(isa, text)                                                  \
    {text,                                                              \
     cpu_##isa##_product_nn,                                            \
     cpu_##isa##_product_tn,                                            \
     cpu_##isa##_transpose,                                             \
     {cpu_##isa##_operand_rows, cpu_##isa##_operand_columns},           \
     cpu_##isa##_operand_columns,                                       \
     {cpu_##isa##_operand_rows_from, cpu_##isa##_operand_columns_from}, \
     cpu_##isa##_operand_columns_from,                                  \
     {cpu_##isa##_operand_multiply, cpu_##isa##_operand_multiply_tn}},
    CPU_ISAS(SET)
#undef SET
};
enum { SETS = sizeof sets / sizeof sets[0] };

static bool set_runs(const struct set *set)
{
    return cpu_isa_runs((enum cpu_isa)(set - sets));
}

/* Whole blocks, parts of a register, less than a block, nothing to add up. */
static const struct size {
    int64_t m, n, k;
} sizes[] = {{1, 1, 1},    {6, 64, 64}, {13, 17, 5},   {64, 65, 256}, {5, 128, 31},
             {48, 47, 48}, {7, 3, 129}, {256, 64, 64}, {11, 80, 0}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* Behind each row, floats that must stay as they are. */
enum { MARGIN = 3 };

/* Where a product reads doubles: a[i, l] is at i * a_row + l * a_column. */
struct doubles {
    const double *a, *b;
    int64_t a_row, a_column, b_row;
};

/* Largest |ours - a b - beta c| in units of k eps Σ |a b|; infinite where the margin was written. */
static double product_error(const struct size *size, struct doubles of, float beta,
                            const float *before, const float *ours)
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
                const double term = of.a[i * of.a_row + l * of.a_column] * of.b[l * of.b_row + j];
                sum += term;
                sizes_sum += fabs(term);
            }
            const double error = fabs(at - sum) / (sizes_sum * 0x1p-23 * (double)(size->k + 1));
            worst = error <= worst ? worst : error;
        }
    }
    return worst;
}

/* What c holds before: numbers, and NaNs where they do not matter. */
static float *product_before(const struct size *size, float beta)
{
    const int64_t stride = size->n + MARGIN;
    float *before = trial_floats(3, size->m * stride, 1);
    for (int64_t i = 0; beta == 0 && i < size->m; i++)
        for (int64_t j = 0; j < size->n; j++) before[i * stride + j] = NAN;
    return before;
}

static void product_hold(const struct set *set, const struct size *size, bool transposed,
                         float beta)
{
    const int64_t stride = size->n + MARGIN;
    const int64_t lda = (transposed ? size->m : size->k) + MARGIN;
    const int64_t a_count = lda * (transposed ? size->k : size->m), b_count = size->k * stride;
    float *a = trial_floats(1, a_count, 1), *b = trial_floats(2, b_count, 1);
    float *before = product_before(size, beta), *c = trial_copy(before, size->m * stride);
    double *a_read = trial_doubles(a, a_count), *b_read = trial_doubles(b, b_count);

    (transposed ? set->tn : set->nn)(size->m, size->n, size->k, a, lda, b, stride, beta, c, stride);
    const struct doubles of = {a_read, b_read, transposed ? 1 : lda, transposed ? lda : 1, stride};
    const double error = product_error(size, of, beta, before, c);
    cr_expect(error <= 1, "%s %s (%ld, %ld, %ld) beta %g: off by %g", set->text,
              transposed ? "tn" : "nn", (long)size->m, (long)size->n, (long)size->k, beta, error);
    free(a);
    free(b);
    free(before);
    free(c);
    free(a_read);
    free(b_read);
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

/* Whole tiles and panels, parts of them, odd sums. */
static const struct size operand_sizes[] = {{1, 1, 1},    {6, 64, 64},  {13, 17, 5}, {70, 65, 33},
                                            {5, 128, 31}, {129, 3, 66}, {48, 80, 16}};
enum { OPERAND_SIZES = sizeof operand_sizes / sizeof operand_sizes[0] };

/* What stands in the operands before the part that is multiplied: rows and columns, of a whole panel where they are in
 * panels, and of the sum. */
enum { BEFORE = 64, BEFORE_K = 6 };

/* Room for (rows, columns) in panels of any set. */
static uint32_t *room_new(enum precision precision, int64_t rows, int64_t columns)
{
    if (precision == PRECISION_FP32) return NULL;
    return (uint32_t *)trial_unwritten((rows + BEFORE) * (columns + BEFORE));
}

static void operand_hold(const struct set *set, const struct size *size, enum precision precision,
                         bool transposed, bool add)
{
    const int64_t m = BEFORE + size->m, n = BEFORE + size->n, k = BEFORE_K + size->k;
    const int64_t rows = transposed ? k : m, columns = transposed ? m : k;
    const int64_t row = transposed ? BEFORE_K : BEFORE, column = transposed ? BEFORE : BEFORE_K;
    const int64_t lda = columns + MARGIN, ldb = n + MARGIN, ldc = size->n + MARGIN;
    float *a = trial_floats(1, rows * lda, 1), *b = trial_floats(2, k * ldb, 1);
    float *before = product_before(size, add), *c = trial_copy(before, size->m * ldc);
    uint32_t *a_room = room_new(precision, rows, columns), *b_room = room_new(precision, k, n);
    double *a_read = trial_inputs(a, rows * lda, precision);
    double *b_read = trial_inputs(b, k * ldb, precision);

    const struct operand left = set->lay[transposed](rows, columns, a, lda, a_room);
    const struct operand right = set->lay_right(k, n, b, ldb, b_room);
    set->multiply[transposed](size->m, size->n, size->k, set->part[transposed](left, row, column),
                              set->part_right(right, BEFORE_K, BEFORE), add, c, ldc);
    const struct doubles of = {a_read + row * lda + column, b_read + BEFORE_K * ldb + BEFORE,
                               transposed ? 1 : lda, transposed ? lda : 1, ldb};
    const double error = product_error(size, of, add, before, c);
    cr_expect(error <= 1, "%s %s%s (%ld, %ld, %ld) %s: off by %g", set->text,
              transposed ? "tn" : "nn", add ? " added" : "", (long)size->m, (long)size->n,
              (long)size->k, precision == PRECISION_BF16 ? "bf16" : "fp32", error);
    free(a);
    free(b);
    free(before);
    free(c);
    free(a_room);
    free(b_room);
    free(a_read);
    free(b_read);
}

Test(product, one_of_operands_reads_what_the_precision_says)
{
    for (int s = 0; s < SETS; s++) {
        for (int i = 0; i < OPERAND_SIZES * 8 && set_runs(&sets[s]); i++)
            operand_hold(&sets[s], &operand_sizes[i / 8], i & 1 ? PRECISION_BF16 : PRECISION_FP32,
                         i & 2, i & 4);
    }
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
