#ifndef WORKER_RECORD_H
#define WORKER_RECORD_H

/* Records of tokens on their way from a file's reader to whoever packs them into rows. */

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

/* Told of each record, in file order. The tokens are valid during the call alone. ST_NO_MEMORY is
 * the only failure. */
struct record_sink {
    void *context;
    enum status (*put)(void *context, const uint16_t *tokens, size_t count);
};

/* Tokens that grow; a zeroed one is empty. */
struct token_buffer {
    uint16_t *tokens;
    size_t count, capacity;
};

/* Makes room for `more` tokens behind those that are there. ST_NO_MEMORY: nothing has changed. */
enum status token_buffer_reserve(struct token_buffer *buffer, size_t more);
void token_buffer_fini(struct token_buffer *buffer);

#endif
