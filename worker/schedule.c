#include "worker/schedule.h"

#include <assert.h>
#include <math.h>

static const double PI = 3.14159265358979323846;

enum { WSD_DECAY_PARTS = 10 }; /* the last of so many parts of the run decays */

/* Share of the way from `begin` to `end` that `step` has gone, 0 ... 1. */
static double progress(double step, double begin, double end)
{
    if (step <= begin) return 0.0;
    return step >= end ? 1.0 : (step - begin) / (end - begin);
}

double learning_rate(const struct jobspec *spec, uint64_t step)
{
    const double t = (double)step, steps = (double)spec->train.steps;
    const double warmup = (double)spec->optimizer.warmup;
    const double lr = spec->optimizer.lr, last = spec->optimizer.final;

    assert(step >= 1);
    if (t <= warmup) return lr * t / warmup;
    switch (spec->optimizer.schedule) {
    case SCHEDULE_CONSTANT:
        return lr;
    case SCHEDULE_COSINE:
        return lr * (last + (1.0 - last) * (1.0 + cos(PI * progress(t, warmup, steps))) / 2.0);
    case SCHEDULE_LINEAR:
        return lr * (1.0 - (1.0 - last) * progress(t, warmup, steps));
    case SCHEDULE_RSQRT:
        return lr * fmax(last, sqrt(fmax(warmup, 1.0) / t));
    case SCHEDULE_WSD: {
        double begin = fmax(warmup, steps - ceil(steps / WSD_DECAY_PARTS));
        return lr * (1.0 - (1.0 - last) * progress(t, begin, steps));
    }
    }
    assert(!"a schedule that is none");
    return lr;
}
