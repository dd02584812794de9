#ifndef TESTS_KERNELS_TRIAL_H
#define TESTS_KERNELS_TRIAL_H

/* Running one operation of one backend, and holding what it wrote against doubles. */

#include <stdint.h>

#include "kernels/backend.h"

/* The backends that are there, NULL behind the last; and the same with every instruction set of `cpu` that the machine has. */
const struct backend *const *trial_backends(void);
const struct backend *const *trial_instruction_sets(void);

/* With up to how many threads its bits are compared: the reference knows nothing of threads. */
int trial_threads(const struct backend *backend);

/* Every kernel of favor, and with what ε and with norms how large its numbers can be compared: where
 * features change sign, ε or small norms keep the denominator from 0, near which a float has no digits. */
struct trial_kernel {
    enum attention_kernel kernel;
    float epsilon;
    double scale; /* of q and k */
};
struct trial_kernel trial_kernel(enum attention_kernel kernel);

#define TRIAL_KERNEL(enumerator, text, support) enumerator,
static const enum attention_kernel trial_kernels[] = {JOBSPEC_KERNEL(TRIAL_KERNEL)};
#undef TRIAL_KERNEL
enum { TRIAL_KERNELS = sizeof trial_kernels / sizeof trial_kernels[0] };

/* A stream with exactly the scratch asked for, filled with NaNs. */
struct stream trial_stream(int threads, size_t scratch_bytes);
void trial_stream_free(struct stream *stream);

/* Runs `op` once and gives its status. */
#define TRIAL_RUN(backend, threads, op, arguments)                                    \
    __extension__({                                                                   \
        struct stream trial_ =                                                        \
            trial_stream((threads), (backend)->op##_scratch((arguments), (threads))); \
        enum status status_ = (backend)->op(&trial_, (arguments));                    \
        if (status_ == ST_OK) status_ = (backend)->sync(&trial_);                     \
        trial_stream_free(&trial_);                                                   \
        status_;                                                                      \
    })

/* Normal numbers times `scale`, the same for the same
 * (seed, count). The caller's, as all here; never NULL. */
float *trial_floats(uint32_t seed, int64_t count, double scale);

/* NaNs, so that what is not written shows. */
float *trial_unwritten(int64_t count);
float *trial_copy(const float *values, int64_t count);
double *trial_doubles(const float *values, int64_t count); /* NULL of NULL */
double *trial_zeros(int64_t count);

/* As a product of this precision is to read them. */
double *trial_inputs(const float *values, int64_t count, enum precision precision);

/* What one operation wrote, in parts, beside what it should have written. */
enum { PARTS_MAX = 4 };
struct outcome {
    int parts;
    struct part {
        const char *name;
        int64_t count;
        float *ours;
        double *expected;
        double least_norm; /* errors are relative to ‖expected‖, but to no less than this */
    } part[PARTS_MAX];
};

/* Takes over both arrays. */
void outcome_add(struct outcome *outcome, const char *name, int64_t count, float *ours,
                 double *expected);
void outcome_free(struct outcome *outcome);

/* ‖ours - expected‖ / max(‖expected‖, least_norm); infinite where ours is not finite. */
double part_error(const struct part *part);

double trial_norm(const double *values, int64_t count);

#endif
