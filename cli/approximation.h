#ifndef CLI_APPROXIMATION_H
#define CLI_APPROXIMATION_H

/* How good a run's features were at its newest evaluation, from the newest value of each metric. */

#include <stdbool.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"

/* The worst of all layers, of each figure for itself. */
struct approximation {
    uint64_t step;          /* of the evaluation */
    bool has_error;         /* else the kernel estimates no softmax, and there is none */
    double error;           /* the largest; a NaN is above all */
    uint64_t layer;         /* whose error it is */
    double denominator_min; /* NaN: not measured */
    double saturated;       /* the largest share, 0 ... 1; NaN: not measured */
};

/* False: nothing was measured. */
bool approximation_newest(const Performer__RunSummary *summary,
                          struct approximation *approximation);

#endif
