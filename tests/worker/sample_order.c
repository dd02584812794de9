/* The order of samples: a permutation for every number of rows, and a fair one. */

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "worker/dataset.h"

static void expect_permutation(uint64_t seed, uint64_t epoch, int64_t rows)
{
    uint8_t *seen = calloc((size_t)rows, 1);
    for (int64_t p = 0; p < rows; p++) {
        int64_t r = sample_order(seed, epoch, rows, p);
        cr_assert(r >= 0 && r < rows, "rows %ld: place %ld gave %ld", rows, p, r);
        cr_assert_eq(seen[r], 0, "rows %ld: row %ld came twice", rows, r);
        seen[r] = 1;
    }
    free(seen);
}

Test(sample_order, every_row_comes_once_an_epoch)
{
    for (int64_t rows = 1; rows <= 300; rows++)
        for (uint64_t epoch = 0; epoch < 3; epoch++) expect_permutation(rows % 5, epoch, rows);
    const int64_t large[] = {1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 65537, 100003};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) expect_permutation(7, 1, large[i]);
}

/* Chi-square of counts that should be equal. */
static double chi_square(const int *counts, int cells, double expected)
{
    double sum = 0.0;
    for (int i = 0; i < cells; i++)
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    return sum;
}

/* rows! orders for 4 rows, each as likely: 23 degrees of freedom, 0.001 quantile 49.7. */
Test(sample_order, all_orders_of_four_rows_are_as_likely)
{
    enum { EPOCHS = 24000 };
    int counts[256] = {0}, dense[24], cells = 0;
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
        int code = 0;
        for (int64_t p = 0; p < 4; p++) code = 4 * code + (int)sample_order(3, epoch, 4, p);
        counts[code]++;
    }
    for (int i = 0; i < 256; i++)
        if (counts[i] > 0) dense[cells++] = counts[i];
    cr_assert_eq(cells, 24);
    double statistic = chi_square(dense, cells, EPOCHS / 24.0);
    cr_assert_lt(statistic, 49.7, "chi-square %g", statistic);
}

/* Where a row comes, for sizes that need walking and sizes that do not: 0.0001 quantiles. */
Test(sample_order, a_row_comes_anywhere)
{
    enum { ROWS_MAX = 64, EPOCHS = 6400 };
    const struct {
        int rows;
        double limit;
    } cases[] = {{16, 44.3}, {17, 45.9}, {50, 94.6}, {64, 113.0}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        int first[ROWS_MAX] = {0}, after[ROWS_MAX] = {0}, rows = cases[c].rows;
        for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
            int64_t a = sample_order(11, epoch, rows, 0), b = sample_order(11, epoch, rows, 1);
            first[a]++;
            after[(b - a + rows) % rows]++;
        }
        cr_assert_eq(after[0], 0);
        double statistic = chi_square(first, rows, (double)EPOCHS / rows);
        cr_assert_lt(statistic, cases[c].limit, "%d rows: chi-square %g", rows, statistic);
        statistic = chi_square(after + 1, rows - 1, (double)EPOCHS / (rows - 1));
        cr_assert_lt(statistic, cases[c].limit, "%d rows: chi-square of gaps %g", rows, statistic);
    }
}

Test(sample_order, epochs_and_seeds_differ)
{
    enum { ROWS = 1000 };
    int same_epoch = 0, same_seed = 0, same_place = 0;
    for (int64_t p = 0; p < ROWS; p++) {
        int64_t r = sample_order(1, 0, ROWS, p);
        same_epoch += r == sample_order(1, 1, ROWS, p);
        same_seed += r == sample_order(2, 0, ROWS, p);
        same_place += r == p;
    }
    /* Poisson of mean 1: more than 9 has probability 1e-7. */
    cr_assert_leq(same_epoch, 9);
    cr_assert_leq(same_seed, 9);
    cr_assert_leq(same_place, 9);
}
