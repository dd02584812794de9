#ifndef WORKER_TOKEN_ROWS_H
#define WORKER_TOKEN_ROWS_H

/* A file of rows of token ids, uint16 little-endian, mapped; one that ends in .gz is read into
 * memory. */

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct token_rows {
    const uint16_t *tokens; /* (rows, row_tokens) */
    int64_t rows, row_tokens;
    void *mapping; /* NULL: `tokens` is on the heap */
    size_t mapping_bytes;
};

/* Every id is checked. Blocks. ST_BAD_DATA: the size is not that of whole rows, an id is not below
 * `vocab`; ST_NOT_FOUND, ST_IO, ST_NO_MEMORY. `*rows` is the caller's, to be closed. */
enum status token_rows_open(const char *path, int64_t row_tokens, int64_t vocab,
                            struct token_rows *rows, struct fault *fault);
void token_rows_close(struct token_rows *rows);

#endif
