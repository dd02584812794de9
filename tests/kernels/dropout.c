/* Dropout: how much is dropped, that what is dropped has
 * no pattern, and that the backward pass drops the same. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dropout.h"
#include "kernels/philox.h"
#include "tests/kernels/trial.h"

#define CPU_ISA baseline
#include "kernels/cpu/dropout_lanes.h"

enum { SEQUENCES = 6, LENGTH = 50, ROWS = SEQUENCES * LENGTH, WIDTH = 71 };

static const struct dropout_key KEY = {
    .rate = 0.3f, .seed = 77, .step = 9, .site = 4, .first_sequence = 100, .length = LENGTH};

/* factors (R, width) of what a backend does to ones. */
static float *factors_new(const struct backend *backend, const struct dropout_key *key,
                          int64_t rows, int64_t width)
{
    float *y = trial_unwritten(rows * width);
    for (int64_t i = 0; i < rows * width; i++) y[i] = 1;
    const struct dropout op = {rows, width, *key, y, y};
    cr_assert_eq(TRIAL_RUN(backend, 2, dropout, &op), ST_OK);
    return y;
}

static double share_dropped(const float *factors, int64_t count)
{
    int64_t dropped = 0;
    for (int64_t i = 0; i < count; i++) dropped += factors[i] == 0;
    return (double)dropped / (double)count;
}

Test(dropout, the_share_is_the_rate)
{
    static const float rates[] = {0, 0.1f, 0.5f, 0.9f};
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
            struct dropout_key key = KEY;
            key.rate = rates[i];
            float *factors = factors_new(*backend, &key, ROWS, WIDTH);
            const double share = share_dropped(factors, ROWS * WIDTH);
            const double error = sqrt(rates[i] * (1 - rates[i]) / (ROWS * WIDTH));
            cr_expect(fabs(share - rates[i]) <= 5 * error, "%s: %g of %g", (*backend)->name, share,
                      rates[i]);
            for (int64_t j = 0; j < ROWS * WIDTH; j++)
                cr_expect(factors[j] == 0 ||
                          fabsf(factors[j] - 1 / (1 - rates[i])) < 1e-6f * factors[j]);
            free(factors);
        }
    }
}

/* How often two masks agree: 1 - 2 rate (1 - rate)
 * where they have nothing to do with each other. */
static void unrelated(const float *a, const float *b, int64_t count, const char *what)
{
    const double rate = KEY.rate, expected = 1 - 2 * rate * (1 - rate);
    int64_t agree = 0;
    for (int64_t i = 0; i < count; i++) agree += (a[i] == 0) == (b[i] == 0);
    const double error = sqrt(expected * (1 - expected) / (double)count);
    cr_expect(fabs((double)agree / (double)count - expected) < 5 * error, "%s: %g, not %g", what,
              (double)agree / (double)count, expected);
}

Test(dropout, every_part_of_the_key_gives_another_mask)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        struct dropout_key keys[5] = {KEY, KEY, KEY, KEY, KEY};
        keys[1].seed += 1ull << 40;
        keys[2].step += 1;
        keys[3].site += 1;
        keys[4].first_sequence += SEQUENCES;
        float *first = factors_new(*backend, &KEY, ROWS, WIDTH);
        for (int i = 1; i < 5; i++) {
            float *other = factors_new(*backend, &keys[i], ROWS, WIDTH);
            unrelated(first, other, ROWS * WIDTH, "key");
            free(other);
        }
        unrelated(first, first + WIDTH, (ROWS - 1) * WIDTH, "next row");
        unrelated(first, first + LENGTH * WIDTH, (ROWS - LENGTH) * WIDTH, "next sequence");
        unrelated(first, first + 1, ROWS * WIDTH - 1, "next column");
        unrelated(first, first + 4, ROWS * WIDTH - 4, "next words");
        free(first);
    }
}

/* Which sequences share a micro-shard must not matter: ranks cut the batch differently. */
Test(dropout, a_sequence_has_its_mask_wherever_it_stands)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        float *whole = factors_new(*backend, &KEY, ROWS, WIDTH);
        for (int sequence = 0; sequence < SEQUENCES; sequence++) {
            struct dropout_key key = KEY;
            key.first_sequence += (uint32_t)sequence;
            float *alone = factors_new(*backend, &key, LENGTH, WIDTH);
            cr_expect_eq(
                memcmp(alone, whole + sequence * LENGTH * WIDTH, LENGTH * WIDTH * sizeof *alone),
                0);
            free(alone);
        }
        free(whole);
    }
}

/* One mask for all that drops by one key: the three
 * forwards, both backwards, and kernels/dropout.h. */
Test(dropout, forward_and_backward_drop_the_same)
{
    for (const struct backend *const *backend = trial_backends(); *backend; backend++) {
        float *factors = factors_new(*backend, &KEY, ROWS, WIDTH), row[WIDTH];
        for (int64_t r = 0; r < ROWS; r++) {
            dropout_factors(&KEY, r, WIDTH, row);
            cr_expect_eq(memcmp(row, factors + r * WIDTH, sizeof row), 0, "%s row %d",
                         (*backend)->name, (int)r);
        }
        float *ones = factors_new(*backend, &(struct dropout_key){.length = LENGTH}, ROWS, WIDTH);
        float *zeros = trial_floats(1, ROWS * WIDTH, 0), *y = trial_unwritten(ROWS * WIDTH);
        const struct linear_residual residual = {
            .linear = {ROWS, 1, WIDTH, zeros, zeros, ones, y}, .residual = zeros, .dropout = KEY};
        cr_assert_eq(TRIAL_RUN(*backend, 2, linear_residual, &residual), ST_OK);
        cr_expect_eq(memcmp(y, factors, ROWS * WIDTH * sizeof *y), 0, "linear_residual");

        int32_t ids[ROWS];
        for (int32_t r = 0; r < ROWS; r++) ids[r] = r;
        const struct embed embed = {ROWS, WIDTH, ROWS, ids, ones, NULL, KEY, y};
        cr_assert_eq(TRIAL_RUN(*backend, 2, embed, &embed), ST_OK);
        cr_expect_eq(memcmp(y, factors, ROWS * WIDTH * sizeof *y), 0, "embed");

        const struct embed_backward back = {ROWS, WIDTH, ROWS, ids, KEY, ones, y, NULL, 0};
        cr_assert_eq(TRIAL_RUN(*backend, 2, embed_backward, &back), ST_OK);
        cr_expect_eq(memcmp(y, factors, ROWS * WIDTH * sizeof *y), 0, "embed_backward");
        free(factors), free(ones), free(zeros), free(y);
    }
}

/* Behind 2^32 places of a sequence there are others, in the middle of a row and of a register too. No operation can be
 * given a row so far on without those before it: so the factors themselves. */
Test(dropout, places_have_more_than_32_bits)
{
    enum { PLACES = 999, COLUMNS = 4 * PLACES };
    static float ones[COLUMNS], factors[COLUMNS], lanes[COLUMNS];
    const int64_t row = (1LL << 32) / PLACES;
    struct dropout_key key = KEY;
    key.length = row + 1;
    dropout_factors(&key, row, COLUMNS, factors);
    for (int64_t j = 0; j < COLUMNS; j++) {
        const uint64_t place = (uint64_t)row * PLACES + (uint64_t)j / 4;
        const uint32_t index[3] = {key.step, key.first_sequence, (uint32_t)place};
        const uint32_t layer = key.site | (place < 1ULL << 32 ? 0 : 1U << 12);
        const struct philox_words drawn = philox_draw(key.seed, PURPOSE_DROPOUT, layer, index);
        cr_expect_eq(factors[j] == 0, philox_uniform(drawn.word[j % 4]) < key.rate, "column %d",
                     (int)j);
        ones[j] = 1;
    }
    const struct dropout_row in_lanes = dropout_row(&key, row, COLUMNS);
    dropout_apply(&in_lanes, 0, COLUMNS, ones, NULL, lanes);
    cr_expect_eq(memcmp(lanes, factors, sizeof lanes), 0);
}
