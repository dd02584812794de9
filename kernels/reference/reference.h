#ifndef KERNELS_REFERENCE_H
#define KERNELS_REFERENCE_H

/*
 * What is right: every operation in plain C, single-threaded, with its sums in double and one
 * rounding at the end. Meant to be read beside the formula it implements, and compared with.
 */

#include "kernels/backend.h"

#define REFERENCE_OP(op)                                                           \
    enum status reference_##op(struct stream *stream, const struct op *arguments); \
    size_t reference_##op##_scratch(const struct op *arguments, int threads);
BACKEND_OPS(REFERENCE_OP)
#undef REFERENCE_OP

/* Defines the scratch query of an operation that needs none. */
#define REFERENCE_WITHOUT_SCRATCH(op)                                        \
    size_t reference_##op##_scratch(const struct op *arguments, int threads) \
    {                                                                        \
        (void)arguments;                                                     \
        (void)threads;                                                       \
        return 0;                                                            \
    }

size_t reference_attention_saved_floats(const struct attention *arguments);
bool reference_attention_supported(const struct attention *arguments, const char **why_not);
enum status reference_sync(struct stream *stream);

#endif
