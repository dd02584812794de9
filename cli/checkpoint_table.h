#ifndef CLI_CHECKPOINT_TABLE_H
#define CLI_CHECKPOINT_TABLE_H

/* Checkpoints, a row each, on stdout; of the verbs checkpoints and describe. */

#include <stddef.h>

#include "cli/terminal.h"
#include "proto/performer.pb-c.h"

void checkpoints_print(Performer__CheckpointInfo *const *checkpoints, size_t count);

/* The style in which a verdict is shown. */
enum style style_of_verdict(const char *verdict);

#endif
