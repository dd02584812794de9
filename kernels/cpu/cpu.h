#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

/* The fast backend: the operations of backend.h on vectors of this machine, with oneDNN's products. */

#include "kernels/backend.h"

/* The instruction sets it is built for, the best one last. Bits of fp32 are the same with the last two. ISA(name, text) */
#define CPU_ISAS(ISA)      \
    ISA(generic, "x86-64") \
    ISA(v3, "x86-64-v3")   \
    ISA(v4, "x86-64-v4")   \
    ISA(v4_bf16, "x86-64-v4 with bf16")

/* Puts the operations for the best instruction set of this machine in the place of what the table holds. */
void cpu_backend_override(struct backend *backend);

/* The same for an instruction set by its text, to compare them; ST_UNSUPPORTED where the machine lacks it,
 * and ST_NOT_FOUND where there is none of that text. */
enum status cpu_backend_override_isa(struct backend *backend, const char *isa);

/* "oneDNN 2.6.3" */
const char *cpu_libraries(void);

#endif
