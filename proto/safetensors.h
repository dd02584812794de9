#ifndef PROTO_SAFETENSORS_H
#define PROTO_SAFETENSORS_H

/*
 * The safetensors file format: an 8-byte little-endian header length, a JSON header, then the data.
 * Reading trusts nothing: lengths, offsets, overlaps, duplicate names, shapes and types are checked
 * before any byte of data is touched, and memory stays within the size of the file.
 */

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

enum { TENSOR_DIMENSIONS_MAX = 8, TENSOR_NAME_MAX = 128 };

enum tensor_type { TENSOR_F32, TENSOR_F64, TENSOR_I64, TENSOR_I32, TENSOR_U8, TENSOR_BOOL };

struct tensor_entry {
    char name[TENSOR_NAME_MAX];
    enum tensor_type type;
    int dimensions;
    int64_t shape[TENSOR_DIMENSIONS_MAX];
    size_t bytes;
    const void *data; /* reading: into the mapped file, read-only, not always aligned (other
                       * writers do not care): copy it; writing: the caller's */
};

struct safetensors; /* a file opened for reading */

/* ST_NOT_FOUND, ST_IO, ST_CORRUPT (with what and where). The file stays mapped until closed. */
enum status safetensors_open(const char *path, struct safetensors **file, struct fault *fault);
void safetensors_close(struct safetensors *file);

/* Entries in the order of the file. Valid until the file is closed. */
size_t safetensors_count(const struct safetensors *file);
const struct tensor_entry *safetensors_at(const struct safetensors *file, size_t index);

/* NULL where there is none of that name. */
const struct tensor_entry *safetensors_find(const struct safetensors *file, const char *name);

/* A value of __metadata__, NULL where it has none. */
const char *safetensors_metadata(const struct safetensors *file, const char *key);

struct metadata_entry {
    const char *key, *value;
};

/* Writes header and data in the given order, 8-byte aligned, and syncs the file; the same entries give
 * the same bytes. ST_NO_SPACE, ST_IO: the file is removed again. */
enum status safetensors_write(const char *path, const struct tensor_entry *entries, size_t count,
                              const struct metadata_entry *metadata, size_t metadata_count,
                              struct fault *fault);

#endif
