#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/peak.h"

/* What each instruction set's objects define: every operation, so a forgotten one does not link. */
#define ISA_OP(isa, op)                                                              \
    enum status cpu_##isa##_##op(struct stream *stream, const struct op *arguments); \
    size_t cpu_##isa##_##op##_scratch(const struct op *arguments, int threads);
#define OP_GENERIC(op) ISA_OP(generic, op)
#define OP_V3(op)      ISA_OP(v3, op)
#define OP_V4(op)      ISA_OP(v4, op)
#define OP_V4_BF16(op) ISA_OP(v4_bf16, op)
BACKEND_OPS(OP_GENERIC)
BACKEND_OPS(OP_V3)
BACKEND_OPS(OP_V4)
BACKEND_OPS(OP_V4_BF16)
#undef OP_GENERIC
#undef OP_V3
#undef OP_V4
#undef OP_V4_BF16
#undef ISA_OP

#define ISA_SAVED(isa, text) size_t cpu_##isa##_attention_saved_floats(const struct attention *);
CPU_ISAS(ISA_SAVED)
#undef ISA_SAVED

#define ISA_PEAK(isa, text) double cpu_##isa##_peak(struct team *team, enum precision precision);
CPU_ISAS(ISA_PEAK)
#undef ISA_PEAK

#define ISA_SLOT(isa, op)           \
    backend->op = cpu_##isa##_##op; \
    backend->op##_scratch = cpu_##isa##_##op##_scratch;

static void fill_generic(struct backend *backend)
{
#define SLOT(op) ISA_SLOT(generic, op)
    BACKEND_OPS(SLOT)
#undef SLOT
    backend->attention_saved_floats = cpu_generic_attention_saved_floats;
}

static void fill_v3(struct backend *backend)
{
#define SLOT(op) ISA_SLOT(v3, op)
    BACKEND_OPS(SLOT)
#undef SLOT
    backend->attention_saved_floats = cpu_v3_attention_saved_floats;
}

static void fill_v4(struct backend *backend)
{
#define SLOT(op) ISA_SLOT(v4, op)
    BACKEND_OPS(SLOT)
#undef SLOT
    backend->attention_saved_floats = cpu_v4_attention_saved_floats;
}

static void fill_v4_bf16(struct backend *backend)
{
#define SLOT(op) ISA_SLOT(v4_bf16, op)
    BACKEND_OPS(SLOT)
#undef SLOT
    backend->attention_saved_floats = cpu_v4_bf16_attention_saved_floats;
}

static bool runs_generic(void)
{
    return true;
}

static bool runs_v3(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static bool runs_v4(void)
{
    return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static bool runs_v4_bf16(void)
{
    return runs_v4() && __builtin_cpu_supports("avx512bf16");
}

static const struct {
    const char *description;
    bool (*runs)(void);
    void (*fill)(struct backend *backend);
    double (*peak)(struct team *team, enum precision precision);
} isas[CPU_ISA_COUNT] = {
#define ISA_ROW(isa, text) {"cpu (" text ")", runs_##isa, fill_##isa, cpu_##isa##_peak},
    CPU_ISAS(ISA_ROW)
#undef ISA_ROW
};

bool cpu_isa_runs(enum cpu_isa isa)
{
    return isas[isa].runs();
}

void cpu_backend_override(enum cpu_isa isa, struct backend *backend)
{
    isas[isa].fill(backend);
    backend->has_bf16 = isa == CPU_ISA_v4_bf16;
    backend->description = isas[isa].description;
}

double peak_measure(struct team *team, enum precision precision)
{
    int best = CPU_ISA_COUNT - 1;
    while (!isas[best].runs()) best--;
    return isas[best].peak(team, precision);
}

const char *cpu_libraries(void)
{
    return gemm_library();
}
