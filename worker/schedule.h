#ifndef WORKER_SCHEDULE_H
#define WORKER_SCHEDULE_H

#include <stdint.h>

#include "proto/jobspec.h"

/*
 * The learning rate of step t = 1 ... T (train.steps), with W warm-up steps, peak lr and final share f:
 *
 *   t <= W     lr t / W
 *   constant   lr
 *   cosine     lr (f + (1 - f) (1 + cos(pi p)) / 2), p = (t - W) / (T - W)   (Loshchilov & Hutter 2017)
 *   linear     lr (1 - (1 - f) p)
 *   rsqrt      lr max(f, sqrt(max(W, 1) / t))                                (Vaswani et al. 2017)
 *   wsd        lr until the last tenth of the steps, then down to f lr in a line   (Hu et al. 2024)
 */
double learning_rate(const struct jobspec *spec, uint64_t step);

#endif
