#include "kernels/reference/reference.h"

#include <math.h>

REFERENCE_WITHOUT_SCRATCH(adamw)

/* Loshchilov & Hutter 2019, algorithm 2, lines 6 to 12, with lr
 * as both the schedule's η and α: the decay is lr * weight_decay. */
enum status reference_adamw(struct stream *stream, const struct adamw *arguments)
{
    (void)stream;
    const double beta1 = arguments->beta1, beta2 = arguments->beta2, lr = arguments->lr;

    for (int64_t i = 0; i < arguments->count; i++) {
        const double gradient = (double)arguments->scale * arguments->gradient[i];
        const double moment1 = beta1 * arguments->moment1[i] + (1 - beta1) * gradient;
        const double moment2 = beta2 * arguments->moment2[i] + (1 - beta2) * gradient * gradient;
        const double mean = moment1 / arguments->correction1;
        const double root = sqrt(moment2 / arguments->correction2);
        const double weight = arguments->weight[i];
        arguments->moment1[i] = (float)moment1;
        arguments->moment2[i] = (float)moment2;
        arguments->weight[i] = (float)(weight - lr * (mean / (root + arguments->epsilon) +
                                                      arguments->weight_decay * weight));
    }
    return ST_OK;
}
