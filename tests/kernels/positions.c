/*
 * The tables of positions against their formula in long double, and what they are for: a rotated query and a
 * rotated key see how far apart they are, and nothing else.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/positions.h"
#include "tests/kernels/trial.h"

/* Half a unit of a float below 1, and l times half a unit of an angle. */
static double allowed(int64_t position)
{
    return 0x1p-25 + 1e-12 + (double)position * (2 * M_PI * 0x1p-54 + 1e-15);
}

/* A step from a position to the next is of relative error 1e-15 at most: no more at any of a million positions. */
static long double angle_of(int64_t position, int64_t pair, int64_t columns)
{
    return (long double)position * powl(10000, -2.0L * (long double)pair / (long double)columns);
}

static const struct table_shape {
    int64_t length, columns;
} shapes[] = {{1, 1}, {2, 3}, {300, 64}, {70, 33}, {1 << 20, 4}, {5000, 128}};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

Test(positions, sinusoidal_is_its_formula)
{
    for (int i = 0; i < SHAPES; i++) {
        const int64_t length = shapes[i].length, width = shapes[i].columns;
        float *table = trial_unwritten(length * width);
        positions_sinusoidal(length, width, 1, table);
        for (int64_t l = 0; l < length; l++) {
            for (int64_t j = 0; j < width; j++) {
                const long double angle = angle_of(l, j / 2, width);
                const double off =
                    (double)fabsl(table[l * width + j] - (j % 2 ? cosl(angle) : sinl(angle)));
                cr_assert(off <= allowed(l), "%d of %d columns at %d: off by %g", (int)j,
                          (int)width, (int)l, off);
            }
        }
        free(table);
    }
}

Test(positions, sinusoidal_can_be_scaled)
{
    float plain[12], scaled[12];
    positions_sinusoidal(4, 3, 1, plain);
    positions_sinusoidal(4, 3, 0.25, scaled);
    for (int i = 0; i < 12; i++) cr_expect_eq(scaled[i], 0.25F * plain[i]);
}

Test(positions, rotary_is_its_formula)
{
    for (int i = 0; i < SHAPES; i++) {
        const int64_t length = shapes[i].length, dim = shapes[i].columns;
        float *table = trial_unwritten(length * dim);
        positions_rotary(length, dim, table);
        for (int64_t l = 0; l < length; l++) {
            for (int64_t j = 0; j < dim; j++) {
                const long double angle = angle_of(l, j / 2, dim);
                const bool unpaired = dim % 2 == 1 && j == dim - 1;
                const long double exact = unpaired ? 1 : j % 2 ? sinl(angle) : cosl(angle);
                const double off = (double)fabsl(table[l * dim + j] - exact);
                cr_assert(off <= allowed(l), "%d of %d columns at %d: off by %g", (int)j, (int)dim,
                          (int)l, off);
            }
        }
        free(table);
    }
}

/* q at l, k at l - 3, for all l: one product; and other products at other distances. */
Test(positions, a_product_depends_on_the_distance_alone)
{
    enum { LENGTH = 40, DIM = 9 };
    float table[LENGTH * DIM];
    positions_rotary(LENGTH, DIM, table);
    for (int each = 0; trial_backends()[each]; each++) {
        const struct backend *backend = trial_backends()[each];
        float *one = trial_floats(1, 2 * DIM, 1), rows[2][LENGTH * DIM];
        for (int i = 0; i < 2 * LENGTH * DIM; i++)
            rows[i / (LENGTH * DIM)][i % (LENGTH * DIM)] = one[i / (LENGTH * DIM) * DIM + i % DIM];
        const struct rotary op = {1, 2, LENGTH, DIM, false, table, {rows[0], 0, LENGTH * DIM, DIM}};
        cr_assert_eq(TRIAL_RUN(backend, 1, rotary, &op), ST_OK);

        double product[2][LENGTH] = {0};
        for (int l = 5; l < LENGTH; l++)
            for (int apart = 0; apart < 2; apart++)
                for (int j = 0; j < DIM; j++)
                    product[apart][l] +=
                        (double)rows[0][l * DIM + j] * rows[1][(l - 3 - apart) * DIM + j];
        for (int l = 6; l < LENGTH; l++)
            for (int apart = 0; apart < 2; apart++)
                cr_expect_float_eq(product[apart][l], product[apart][5], 2e-6, "%s at %d",
                                   backend->name, l);
        cr_expect(fabs(product[0][5] - product[1][5]) > 1e-2, "distances are all the same");
        free(one);
    }
}
