#include "worker/divergence.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static const double SPIKE_DEVIATIONS = 5.0, SPIKE_RATIO = 1.5;

static bool is_spike(const struct loss_record *record, double loss)
{
    if (record->taken < LOSSES_MIN) return false;
    return loss > record->mean + SPIKE_DEVIATIONS * sqrt(record->variance) &&
           loss > SPIKE_RATIO * record->mean;
}

/* Plain means at first, so that the beginning weighs no more than what follows. */
static void take(struct loss_record *record, double loss)
{
    const uint64_t count = record->taken < LOSSES_HORIZON ? record->taken + 1 : LOSSES_HORIZON;
    const double share = 1.0 / (double)count, step = record->taken > 0 ? loss - record->newest : 0;
    record->mean += share * (loss - record->mean);
    record->variance += share * (step * step / 2.0 - record->variance);
    record->newest = loss;
    record->taken++;
    record->skipped_in_row = 0;
}

void losses_forget(struct loss_record *record)
{
    record->taken = 0;
}

static enum divergence_verdict leave_out(struct loss_record *record)
{
    if (record->skipped_in_row == SKIPS_IN_ROW_MAX) return UPDATE_DIVERGED;
    record->skipped++;
    record->skipped_in_row++;
    return UPDATE_SKIPPED;
}

enum divergence_verdict divergence_judge(const struct jobspec *spec, struct loss_record *record,
                                         double loss, double norm, char *why, size_t size)
{
    const bool skips = spec->train.on_divergence != DIVERGENCE_STOP;
    const bool finite = isfinite(loss) && isfinite(norm);
    if (finite && !(skips && is_spike(record, loss))) {
        take(record, loss);
        return UPDATE_TAKEN;
    }
    if (finite)
        snprintf(why, size, "loss %.4g after a mean of %.4g", loss, record->mean);
    else
        snprintf(why, size, "loss %g, gradient norm %g", loss, norm);
    return skips ? leave_out(record) : UPDATE_DIVERGED;
}
