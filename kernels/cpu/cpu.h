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

#define CPU_ISA_CODE(isa, text) CPU_ISA_##isa,
enum cpu_isa { CPU_ISAS(CPU_ISA_CODE) CPU_ISA_COUNT };
#undef CPU_ISA_CODE

/* Whether this machine has it. The first one every machine has. */
bool cpu_isa_runs(enum cpu_isa isa);

/* Puts the operations for it in the place of what the table holds. */
void cpu_backend_override(enum cpu_isa isa, struct backend *backend);

/* "oneDNN 2.6.3" */
const char *cpu_libraries(void);

#endif
