/* Tensor files: each byte of what is taken can be read. */

#include <assert.h>
#include <string.h>

#include "proto/safetensors.h"
#include "tests/fuzz/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static volatile uint8_t sum;
    struct safetensors *file;
    struct fault fault;
    if (safetensors_open(input_file(bytes, length), &file, &fault) != ST_OK) {
        assert(fault.text[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor_entry *entry = safetensors_at(file, i);
        const uint8_t *data = entry->data;
        assert(entry->bytes <= length);
        assert(entry->dimensions >= 0 && entry->dimensions <= TENSOR_DIMENSIONS_MAX);
        assert(memchr(entry->name, '\0', sizeof entry->name));
        for (size_t k = 0; k < entry->bytes; k++) sum = (uint8_t)(sum + data[k]);
    }
    safetensors_metadata(file, "kernel");
    safetensors_close(file);
    return 0;
}
