#ifndef WORKER_MANIFEST_H
#define WORKER_MANIFEST_H

/*
 * MANIFEST of a checkpoint: one line for each file in a fixed order, "CHECKSUM SIZE NAME", the checksum
 * being XXH3-64 in 16 hexadecimal digits. It must be, byte for byte, what the files give: so a flipped bit
 * of its own shows too.
 */

#include <stdint.h>

#include "proto/status.h"

#define MODEL_FILE     "model.safetensors"
#define OPTIMIZER_FILE "optimizer.safetensors"
#define STATE_FILE     "state.json"
#define MANIFEST_FILE  "MANIFEST"

/* Reads the files of `directory` and writes its MANIFEST, synced. `*bytes`: of all files together. */
enum status manifest_write(const char *directory, uint64_t *bytes, struct fault *fault);

/* ST_CORRUPT: a file is missing or not what the MANIFEST says, or `directory` or a file is a symbolic
 * link; ST_IO and the like. Reads every byte. */
enum status manifest_verify(const char *directory, struct fault *fault);

#endif
