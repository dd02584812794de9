#include "kernels/reference/reference.h"

#include <assert.h>
#include <math.h>
#include <string.h>

REFERENCE_WITHOUT_SCRATCH(cross_entropy)

static int64_t row_largest(const float *row, int64_t count)
{
    int64_t largest = 0;
    for (int64_t i = 1; i < count; i++)
        if (row[i] > row[largest]) largest = i;
    return largest;
}

/* log Σ exp(row), by its maximum. */
static double row_log_sum(const float *row, int64_t count, double maximum)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += exp(row[i] - maximum);
    return maximum + log(sum);
}

enum status reference_cross_entropy(struct stream *stream, const struct cross_entropy *arguments)
{
    (void)stream;
    const int64_t vocab = arguments->vocab;
    double loss = 0;
    int64_t counted = 0, correct = 0;

    for (int64_t r = 0; r < arguments->rows; r++) {
        float *row = arguments->logits + r * vocab;
        const int32_t target = arguments->targets[r];
        assert(target < vocab);
        if (target < 0) {
            if (arguments->backward) memset(row, 0, (size_t)vocab * sizeof *row);
            continue;
        }
        const int64_t largest = row_largest(row, vocab);
        const double log_sum = row_log_sum(row, vocab, row[largest]);
        loss += log_sum - row[target];
        counted++;
        correct += largest == target;
        for (int64_t i = 0; i < vocab && arguments->backward; i++)
            row[i] = (float)(exp(row[i] - log_sum) - (i == target));
    }
    *arguments->loss_sum = loss;
    *arguments->counted = counted;
    *arguments->correct = correct;
    return ST_OK;
}
