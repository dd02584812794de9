#include "kernels/backend.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"

static enum status host_memory_new(size_t bytes, void **memory)
{
    enum { ALIGN_BYTES = 64 };
    void *made = aligned_alloc(ALIGN_BYTES, (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES);
    if (!made) return ST_NO_MEMORY;
    *memory = made;
    return ST_OK;
}

static const char *nothing_more(void)
{
    return "";
}

static const struct backend reference = {
    .name = "reference",
    .description = "reference (plain C, sums in double)",
#define REFERENCE_SLOT(op) .op = reference_##op, .op##_scratch = reference_##op##_scratch,
    BACKEND_OPS(REFERENCE_SLOT)
#undef REFERENCE_SLOT
        .attention_saved_floats = reference_attention_saved_floats,
    .attention_supported = reference_attention_supported,
    .memory_new = host_memory_new,
    .memory_free = free,
    .sync = reference_sync,
    .failure = nothing_more,
};

static struct backend cpu[CPU_ISA_COUNT];
static pthread_once_t cpu_once = PTHREAD_ONCE_INIT;

static void cpu_fill(void)
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        cpu[isa] = reference;
        cpu[isa].name = "cpu";
        cpu_backend_override((enum cpu_isa)isa, &cpu[isa]);
    }
}

/* "cpu": the best that runs here; "cpu (x86-64-v3)": that one. */
static const struct backend *find_cpu(const char *name, const char **why_not)
{
    pthread_once(&cpu_once, cpu_fill);
    *why_not = "there is no such backend; there are reference, cpu and cuda";
    for (int isa = CPU_ISA_COUNT - 1; isa >= 0; isa--) {
        if (strcmp(name, "cpu") != 0 && strcmp(name, cpu[isa].description) != 0) continue;
        if (cpu_isa_runs((enum cpu_isa)isa)) return &cpu[isa];
        *why_not = "this machine lacks instructions of it";
    }
    return NULL;
}

static const struct backend *find(const char *name, const char **why_not)
{
    if (strcmp(name, "reference") == 0) return &reference;
    if (strcmp(name, "cuda") == 0) return cuda_backend(why_not);
    return find_cpu(name, why_not);
}

const struct backend *backend_find(const char *name)
{
    const char *why_not;
    return find(name, &why_not);
}

const char *backend_why_not(const char *name)
{
    const char *why_not = NULL;
    find(name, &why_not);
    return why_not;
}

enum status backend_fault(const struct backend *backend, enum status status, struct fault *fault)
{
    const char *more = backend->failure();
    return fault_set(fault, status, "%s%s%s", status_text(status), *more ? ": " : "", more);
}

const char *backend_libraries(void)
{
    return cpu_libraries();
}
