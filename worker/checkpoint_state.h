#ifndef WORKER_CHECKPOINT_STATE_H
#define WORKER_CHECKPOINT_STATE_H

/* state.json of a checkpoint, as text and back. No I/O. */

#include "worker/checkpoint.h"

/* `*text` is the caller's, to be freed. ST_NO_MEMORY is the only failure. */
enum status checkpoint_state_print(const struct checkpoint_state *state, char **text);

/* ST_CORRUPT: not JSON, a key is missing, a value is out of its range. */
enum status checkpoint_state_parse(const char *text, size_t length, struct checkpoint_state *state,
                                   struct fault *fault);

#endif
