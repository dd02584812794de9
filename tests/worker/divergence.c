/* Which losses are taken, one after the other. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "worker/divergence.h"

static struct jobspec skip, stop, back;
static struct loss_record record;
static char why[100];

static void setup(void)
{
    skip = (struct jobspec){.train.on_divergence = DIVERGENCE_SKIP};
    stop = (struct jobspec){.train.on_divergence = DIVERGENCE_STOP};
    back = (struct jobspec){.train.on_divergence = DIVERGENCE_BACK};
    memset(&record, 0, sizeof record);
}

TestSuite(divergence, .init = setup);

static enum divergence_verdict judge(const struct jobspec *spec, double loss)
{
    return divergence_judge(spec, &record, loss, 1.0, why, sizeof why);
}

/* Falls by 1 % a step, with a ripple of 2 %. */
static double falling(int step)
{
    return 5.0 * pow(0.99, step) * (1.0 + (step % 2 == 0 ? 0.02 : -0.02));
}

static void learn(int steps)
{
    for (int step = 0; step < steps; step++)
        cr_assert_eq(judge(&skip, falling(step)), UPDATE_TAKEN);
}

Test(divergence, what_is_no_number_is_never_taken)
{
    static const double none[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        setup();
        cr_assert_eq(judge(&stop, none[i]), UPDATE_DIVERGED);
        cr_assert_eq(judge(&skip, none[i]), UPDATE_SKIPPED);
        cr_assert_eq(divergence_judge(&skip, &record, 1.0, none[i], why, sizeof why),
                     UPDATE_SKIPPED);
        cr_assert_eq(record.skipped, 2);
        cr_assert_eq(record.taken, 0);
    }
}

Test(divergence, a_spike_is_skipped_and_leaves_the_mean)
{
    learn(60);
    const struct loss_record before = record;
    cr_assert_eq(judge(&skip, 2.5 * falling(60)), UPDATE_SKIPPED);
    cr_assert_not_null(strstr(why, "after a mean of"), "%s", why);
    cr_assert_eq(record.mean, before.mean);
    cr_assert_eq(record.variance, before.variance);
    cr_assert_eq(record.taken, before.taken);
    cr_assert_eq(record.skipped_in_row, 1);
    cr_assert_eq(judge(&skip, falling(61)), UPDATE_TAKEN);
    cr_assert_eq(record.skipped_in_row, 0);
    cr_assert_eq(record.skipped, 1);
}

Test(divergence, what_is_no_spike_is_taken)
{
    learn(60);
    cr_assert_eq(judge(&skip, 1.4 * falling(60)), UPDATE_TAKEN, "less than half above the mean");
    cr_assert_eq(judge(&skip, 0.01 * falling(61)), UPDATE_TAKEN, "low");
    setup();
    for (int step = 0; step < 60; step++)
        cr_assert_eq(judge(&skip, step % 2 == 0 ? 1.0 : 2.0), UPDATE_TAKEN);
    cr_assert_eq(judge(&skip, 3.5), UPDATE_TAKEN, "within what its noise makes likely");
    cr_assert_eq(judge(&skip, 9.0), UPDATE_SKIPPED);
}

Test(divergence, nothing_is_a_spike_at_first_nor_after_a_redraw_nor_where_it_stops)
{
    learn(LOSSES_MIN - 1);
    cr_assert_eq(judge(&skip, 50.0), UPDATE_TAKEN);
    setup();
    learn(60);
    losses_forget(&record);
    cr_assert_eq(judge(&skip, 50.0), UPDATE_TAKEN);
    setup();
    learn(60);
    cr_assert_eq(judge(&stop, 50.0), UPDATE_TAKEN, "that is for what is no number");
}

Test(divergence, ten_in_a_row_are_the_limit)
{
    learn(30);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < SKIPS_IN_ROW_MAX; i++) cr_assert_eq(judge(&skip, NAN), UPDATE_SKIPPED);
        if (round == 0) cr_assert_eq(judge(&skip, falling(30)), UPDATE_TAKEN);
    }
    cr_assert_eq(judge(&skip, NAN), UPDATE_DIVERGED);
    cr_assert_eq(record.skipped, 2 * SKIPS_IN_ROW_MAX);
}

Test(divergence, what_goes_back_leaves_out_first)
{
    learn(30);
    for (int i = 0; i < SKIPS_IN_ROW_MAX; i++)
        cr_assert_eq(judge(&back, 2.5 * falling(30)), UPDATE_SKIPPED);
    cr_assert_eq(judge(&back, NAN), UPDATE_DIVERGED);
    cr_assert_eq(record.skipped_in_row, SKIPS_IN_ROW_MAX, "it tells where the run was well");
}
