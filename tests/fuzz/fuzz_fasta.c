/* Sequences, plain or gzip: what is taken are tokens of the vocabulary. */

#include <assert.h>
#include <string.h>

#include "proto/vocabulary.h"
#include "tests/fuzz/input.h"
#include "worker/fasta.h"

static enum status put(void *context, const uint16_t *tokens, size_t count)
{
    size_t *records = context;
    assert(count > 0);
    for (size_t i = 0; i < count; i++) assert(tokens[i] < strlen(FASTA_LETTERS));
    ++*records;
    return ST_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    size_t records = 0;
    const struct record_sink sink = {&records, put};
    struct fault fault = {0};
    if (fasta_read(input_file(bytes, length), &sink, &fault) != ST_OK)
        assert(fault.text[0] != '\0');
    return 0;
}
