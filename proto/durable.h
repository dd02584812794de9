#ifndef PROTO_DURABLE_H
#define PROTO_DURABLE_H

/*
 * Files that are there whole or not at all, and survive a power cut once the call returned: written
 * aside, synced, renamed, and the directory synced. A failed sync is final: the data are not retried and
 * not called saved.
 */

#include <stddef.h>

#include "proto/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Replaces `path` by `length` bytes, mode 0600. ST_NO_SPACE, ST_IO, ...: what was at `path` before is
 * untouched and nothing is left beside it; only when the last step, syncing the directory, fails, is the new file
 * there and may not survive a power cut. */
enum status durable_write(const char *path, const void *bytes, size_t length, struct fault *fault);

/* Renames a finished, synced directory or file into place and syncs the directory that holds it. */
enum status durable_rename(const char *from, const char *to, struct fault *fault);

/* fsync of a directory. */
enum status durable_sync_directory(const char *path, struct fault *fault);

/* mkdir -p, mode 0700 for what it makes. */
enum status make_directories(const char *path, struct fault *fault);

/* All of `bytes` to a file descriptor, however many writes that takes; `path` is for the words. */
enum status write_fully(int fd, const void *bytes, size_t length, const char *path,
                        struct fault *fault);

/* Reads a file of at most `limit` bytes; `*bytes` is the caller's, has a NUL behind its `*length` bytes.
 * ST_NOT_FOUND, ST_TOO_LARGE, ST_IO. */
enum status file_read(const char *path, size_t limit, char **bytes, size_t *length,
                      struct fault *fault);

#ifdef __cplusplus
}
#endif

#endif
