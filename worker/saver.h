#ifndef WORKER_SAVER_H
#define WORKER_SAVER_H

/*
 * Saves while training goes on. At the edge of a step the tensors are copied; a thread of the saver's own then makes room,
 * writes, syncs, renames, tells the daemon and prunes, while the next steps run:
 *
 *   idle --saver_start--> under way --the thread--> ended --saver_finish--> idle
 *
 * What is saved is what was there at the start, whatever becomes of the tensors meanwhile. Memory for the copy is made, and
 * touched, when it is opened. All functions are for one thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "worker/checkpoint.h"
#include "worker/uplink.h"

/* All of it is borrowed, and must outlive the saver. */
struct saver_setup {
    const char *directory;             /* holds, or will hold, the checkpoints */
    const char *fence, *nonce;         /* as checkpoint_save takes them */
    int64_t keep;                      /* as checkpoint_prune takes it */
    struct checkpoint_content tensors; /* `state` is not looked at */
    struct uplink *uplink;
};

struct saver;

/* ST_NO_MEMORY, ST_SYSTEM: there is no room for the copy, or no thread. */
enum status saver_open(const struct saver_setup *setup, struct saver **saver, struct fault *fault);

/* Of the copy. */
uint64_t saver_bytes(const struct saver *saver);

/* What a rewind means to the older checkpoints. Those behind `rewound` go, but the new one; where the save fails, with the next
 * that is good. */
struct save_marks {
    uint64_t rewind_step; /* of one that stays, for the run may go back to it; 0: none */
    const Performer__Rewind *rewound; /* NULL: none go */
};

/*
 * Copies, and returns: the save is under way. The one before must have been finished. `valid_loss` is of this step, NaN
 * where it was not evaluated: the best checkpoint is the best of those that were evaluated at their own step.
 */
void saver_start(struct saver *saver, const struct checkpoint_state *state, double valid_loss,
                 const struct save_marks *marks);

/*
 * What became of the save, once: ST_OK where none is under way, or it is and `wait` is false; else as checkpoint_save and
 * checkpoint_make_room say, after which nothing has changed. A good one that is the best is noted in `state`. Blocks with
 * `wait` alone.
 */
enum status saver_finish(struct saver *saver, bool wait, struct checkpoint_state *state,
                         struct fault *fault);

/* Of the newest save. */
uint64_t saver_step(const struct saver *saver);

/* Waits for a save that is under way. NULL is allowed. */
void saver_close(struct saver *saver);

#endif
