/* The learning rate against its formulas, worked out by hand. */

#include <math.h>

#include <criterion/criterion.h>

#include "worker/schedule.h"

static struct jobspec spec_of(enum lr_schedule schedule, int64_t warmup)
{
    struct jobspec spec = {0};
    spec.train.steps = 100;
    spec.optimizer.lr = 0.5;
    spec.optimizer.final = 0.1;
    spec.optimizer.warmup = warmup;
    spec.optimizer.schedule = schedule;
    return spec;
}

static void expect(const struct jobspec *spec, uint64_t step, double rate)
{
    double got = learning_rate(spec, step);
    cr_expect(fabs(got - rate) < 1e-12, "%s at step %llu: %.15g, not %.15g",
              lr_schedule_text(spec->optimizer.schedule), (unsigned long long)step, got, rate);
}

Test(schedule, every_schedule_warms_up_in_a_line)
{
    for (int schedule = SCHEDULE_CONSTANT; schedule <= SCHEDULE_WSD; schedule++) {
        struct jobspec spec = spec_of((enum lr_schedule)schedule, 20);
        expect(&spec, 1, 0.025);
        expect(&spec, 10, 0.25);
        expect(&spec, 20, 0.5);
    }
}

Test(schedule, constant)
{
    struct jobspec spec = spec_of(SCHEDULE_CONSTANT, 0);
    expect(&spec, 1, 0.5);
    expect(&spec, 100, 0.5);
}

Test(schedule, cosine)
{
    struct jobspec spec = spec_of(SCHEDULE_COSINE, 20);
    expect(&spec, 60, 0.5 * 0.55);                             /* half-way: cos is 0 */
    expect(&spec, 40, 0.5 * (0.1 + 0.45 * (1.0 + sqrt(0.5)))); /* a quarter: cos is sqrt(1/2) */
    expect(&spec, 100, 0.05);
}

Test(schedule, linear)
{
    struct jobspec spec = spec_of(SCHEDULE_LINEAR, 20);
    expect(&spec, 40, 0.5 * 0.775);
    expect(&spec, 60, 0.5 * 0.55);
    expect(&spec, 100, 0.05);
}

Test(schedule, rsqrt)
{
    struct jobspec spec = spec_of(SCHEDULE_RSQRT, 4);
    expect(&spec, 16, 0.25);
    expect(&spec, 64, 0.125);
    spec.optimizer.warmup = 0;
    expect(&spec, 1, 0.5);
    expect(&spec, 25, 0.1);
    spec.train.steps = 10000;
    expect(&spec, 2500, 0.05); /* never below the final share */
}

Test(schedule, wsd)
{
    struct jobspec spec = spec_of(SCHEDULE_WSD, 20);
    expect(&spec, 50, 0.5);
    expect(&spec, 90, 0.5);
    expect(&spec, 95, 0.5 * 0.55);
    expect(&spec, 100, 0.05);
}

Test(schedule, warmup_longer_than_the_run)
{
    for (int schedule = SCHEDULE_CONSTANT; schedule <= SCHEDULE_WSD; schedule++) {
        struct jobspec spec = spec_of((enum lr_schedule)schedule, 200);
        expect(&spec, 100, 0.25);
    }
}
