#include "tests/kernels/trial.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/projection.h"
#ifdef TRIAL_CUDA
#include "tests/cudashim/cudashim.h"
#endif

enum { BF16_DIGITS = 8 };

#define CPU_NAME(isa, text) "cpu (" text ")",
#ifdef TRIAL_CUDA
static const char *const BACKENDS[] = {"cuda", NULL};
static const char *const INSTRUCTION_SETS[] = {"cuda", NULL};
#else
static const char *const BACKENDS[] = {"reference", "cpu", NULL};
static const char *const INSTRUCTION_SETS[] = {"reference", CPU_ISAS(CPU_NAME) NULL};
#endif

/* Those of the names that are there. */
static const struct backend *const *backends_find(const char *const *names,
                                                  const struct backend **backends)
{
    int count = 0;
    for (; *names; names++)
        if ((backends[count] = backend_find(*names))) count++;
    assert(count > 0);
    return backends;
}

const struct backend *const *trial_backends(void)
{
    enum { NAMES = sizeof BACKENDS / sizeof BACKENDS[0] - 1 };
    static const struct backend *backends[NAMES + 1];
    backends_find(BACKENDS, backends);
    assert(backends[NAMES - 1]); /* every one, or trials would be of fewer and pass */
    return backends;
}

const struct backend *const *trial_instruction_sets(void)
{
    static const struct backend *backends[sizeof INSTRUCTION_SETS / sizeof INSTRUCTION_SETS[0]];
    return backends_find(INSTRUCTION_SETS, backends);
}

int trial_threads(const struct backend *backend)
{
    return strcmp(backend->name, "reference") == 0 ? 1 : 3;
}

struct trial_kernel trial_kernel(enum attention_kernel kernel)
{
    switch (kernel) {
    case KERNEL_SOFTMAX_POSITIVE:
    case KERNEL_SOFTMAX_HYPERBOLIC:
        return (struct trial_kernel){kernel, 1e-6f, 1};
    case KERNEL_SOFTMAX_TRIG:
        return (struct trial_kernel){kernel, 0, 0.25};
    case KERNEL_COS:
    case KERNEL_TANH:
    case KERNEL_GELU:
        return (struct trial_kernel){kernel, 2, 1};
    case KERNEL_IDENTITY:
        return (struct trial_kernel){kernel, 3, 0.25};
    case KERNEL_ABS: /* in one dimension ε alone tells queries apart */
        return (struct trial_kernel){kernel, 0.1f, 1};
    case KERNEL_ELU1:
        return (struct trial_kernel){kernel, 0, 1};
    default:
        return (struct trial_kernel){kernel, 1e-3f, 1};
    }
}

struct stream trial_stream(int threads, size_t scratch_bytes)
{
    struct stream stream = {.scratch_bytes = scratch_bytes};
    void *scratch = NULL;
    enum status status = team_new(threads, &stream.team);
    int error = posix_memalign(&scratch, 64, scratch_bytes + (scratch_bytes == 0));
    assert(status == ST_OK && error == 0);
    memset(scratch, 0xff, scratch_bytes);
    stream.scratch = scratch;
#ifdef TRIAL_CUDA
    /* It has no threads of the host's. What must not change its bits is the order of its own. */
    static const enum cudashim_order orders[] = {CUDASHIM_FORWARD, CUDASHIM_REVERSE,
                                                 CUDASHIM_SEEDED};
    cudashim_order(orders[(threads - 1) % 3], (uint64_t)threads);
#endif
    return stream;
}

void trial_stream_free(struct stream *stream)
{
    team_free(stream->team);
    free(stream->scratch);
}

static void *memory_new(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count + (count == 0), size);
    assert(memory);
    return memory;
}

float *trial_floats(uint32_t seed, int64_t count, double scale)
{
    float *values = memory_new(count, sizeof *values);
    gaussian_fill(seed, PURPOSE_WEIGHTS, 0, count, scale, values);
    return values;
}

float *trial_unwritten(int64_t count)
{
    float *values = memory_new(count, sizeof *values);
    memset(values, 0xff, (size_t)count * sizeof *values);
    return values;
}

float *trial_copy(const float *values, int64_t count)
{
    float *copy = memory_new(count, sizeof *copy);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

double *trial_zeros(int64_t count)
{
    return memory_new(count, sizeof(double));
}

double *trial_doubles(const float *values, int64_t count)
{
    if (!values) return NULL;
    double *doubles = trial_zeros(count);
    for (int64_t i = 0; i < count; i++) doubles[i] = values[i];
    return doubles;
}

double *trial_inputs(const float *values, int64_t count, enum precision precision)
{
    double *inputs = trial_doubles(values, count);
    for (int64_t i = 0; i < count && precision == PRECISION_BF16; i++) {
        int exponent;
        const double fraction = frexp(inputs[i], &exponent);
        inputs[i] = ldexp(nearbyint(ldexp(fraction, BF16_DIGITS)), exponent - BF16_DIGITS);
    }
    return inputs;
}

void outcome_add(struct outcome *outcome, const char *name, int64_t count, float *ours,
                 double *expected)
{
    assert(outcome->parts < PARTS_MAX);
    outcome->part[outcome->parts++] =
        (struct part){.name = name, .count = count, .ours = ours, .expected = expected};
}

void outcome_free(struct outcome *outcome)
{
    for (int i = 0; i < outcome->parts; i++) {
        free(outcome->part[i].ours);
        free(outcome->part[i].expected);
    }
}

double trial_norm(const double *values, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i] * values[i];
    return sqrt(sum);
}

double part_error(const struct part *part)
{
    double sum = 0;
    for (int64_t i = 0; i < part->count; i++) {
        if (!isfinite(part->ours[i])) return INFINITY;
        sum += pow(part->ours[i] - part->expected[i], 2);
    }
    const double norm = fmax(trial_norm(part->expected, part->count), part->least_norm);
    return norm > 0 ? sqrt(sum) / norm : sqrt(sum);
}
