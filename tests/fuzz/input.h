#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

/* What libFuzzer calls, and corpus.c where there is no libFuzzer. 0 in any case; what must not be ends the process. */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* The path of a file that holds these bytes until the next call. */
const char *input_file(const uint8_t *bytes, size_t length);

#endif
