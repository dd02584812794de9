#ifndef WORKER_BYTE_SOURCE_H
#define WORKER_BYTE_SOURCE_H

/* A file's bytes from front to back, plain or gzip: its first bytes tell which, not its name. */

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct byte_source;

/* ST_NOT_FOUND, ST_NOT_PERMITTED, ST_NO_MEMORY. The source is the caller's. */
enum status byte_source_open(const char *path, struct byte_source **source, struct fault *fault);

/* The next piece, valid until the next call; `*length` is 0 at the end of the file. Blocks.
 * ST_BAD_DATA: the gzip stream is damaged or cut short; ST_IO. */
enum status byte_source_read(struct byte_source *source, const uint8_t **bytes, size_t *length,
                             struct fault *fault);

void byte_source_close(struct byte_source *source);

#endif
