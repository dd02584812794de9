#ifndef PROTO_SECRET_H
#define PROTO_SECRET_H

/* Secrets: files that hold them, and how two are compared. They are never logged and never on a command line. */

#include <stdbool.h>
#include <stddef.h>

#include "proto/status.h"

/* Takes a time that depends on the length of `told` alone, so that nothing is learnt of `secret` by guessing it piece by
 * piece. An empty secret equals nothing. */
bool secret_equal(const char *secret, const char *told);

/* Reads a file of at most `limit` bytes; `*text` is the caller's, with a NUL behind its end. ST_NOT_PERMITTED: others than
 * its owner may read it, or that is neither we nor root; ST_NOT_FOUND, ST_TOO_LARGE, ST_IO. */
enum status secret_read(const char *path, size_t limit, char **text, struct fault *fault);

#endif
