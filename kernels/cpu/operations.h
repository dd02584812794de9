#ifndef KERNELS_CPU_OPERATIONS_H
#define KERNELS_CPU_OPERATIONS_H

/* What one instruction set defines for its table. */

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

#define CPU_OPERATION(op)                                                    \
    enum status CPU(op)(struct stream * stream, const struct op *arguments); \
    size_t CPU(op##_scratch)(const struct op *arguments, int threads);
BACKEND_OPS(CPU_OPERATION)
#undef CPU_OPERATION

size_t CPU(attention_saved_floats)(const struct attention *arguments);
double CPU(peak)(struct team *team, enum precision precision);

#endif
