#ifndef WORKER_TEXT_H
#define WORKER_TEXT_H

/* Text as bytes: token b is byte b. */

#include <stdbool.h>

#include "worker/record.h"

/* Gives the whole file as one record to the sink or, with `by_line`, each line that is not empty,
 * without its line end (LF or CRLF). Blocks. Fails with what byte_source and the sink fail with. */
enum status text_read(const char *path, bool by_line, const struct record_sink *sink,
                      struct fault *fault);

#endif
