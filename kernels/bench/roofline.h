#ifndef KERNELS_BENCH_ROOFLINE_H
#define KERNELS_BENCH_ROOFLINE_H

/*
 * What the kernels of kernels/cuda compute and move for one attention, and the least time that an H100 SXM could take for it:
 * FLOPs over its peak, or bytes over its bandwidth, whichever is more. An array counts once for each kernel that reads or
 * writes it; what caches give again is free.
 */

#include "kernels/backend.h"

#define ROOFLINE_DEVICE "an H100 SXM of 3.35 TB/s, 67 TFLOP/s in fp32 and 989 TFLOP/s in bf16"

struct kernel_cost {
    const char *name;
    bool backward;
    double flops_fp32; /* in either precision; in double, which is half as fast, one counts twice */
    double flops;      /* products that are of the job's precision */
    double bytes;
};

enum { KERNEL_COSTS_MAX = 12 };

/* How many kernels, or neighbours that belong together, those are; pointers of the call are not looked at. */
int kernel_costs(const struct attention *call, struct kernel_cost costs[KERNEL_COSTS_MAX]);

double roofline_seconds(const struct kernel_cost *cost, enum precision precision);

#endif
