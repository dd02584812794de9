#include "worker/record.h"

#include <stdlib.h>

enum { CAPACITY_FIRST = 4096 };

enum status token_buffer_reserve(struct token_buffer *buffer, size_t more)
{
    if (more <= buffer->capacity - buffer->count) return ST_OK;
    size_t capacity = buffer->capacity + buffer->capacity / 2;
    if (capacity < CAPACITY_FIRST) capacity = CAPACITY_FIRST;
    if (capacity < buffer->count + more) capacity = buffer->count + more;
    uint16_t *tokens = realloc(buffer->tokens, capacity * sizeof *tokens);
    if (!tokens) return ST_NO_MEMORY;
    buffer->tokens = tokens;
    buffer->capacity = capacity;
    return ST_OK;
}

void token_buffer_fini(struct token_buffer *buffer)
{
    free(buffer->tokens);
    *buffer = (struct token_buffer){0};
}
