#ifndef WORKER_CHECKPOINT_H
#define WORKER_CHECKPOINT_H

/*
 * Checkpoints: DIR/step-0000000500/ with model.safetensors, optimizer.safetensors, state.json and MANIFEST
 * (name, size and XXH3 checksum of each file), which is written last. A checkpoint is written aside as
 * DIR/.step-0000000500.NONCE, synced, renamed, and DIR synced; a reader takes none whose manifest does not match.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/performer.pb-c.h"
#include "proto/safetensors.h"
#include "proto/status.h"
#include "worker/divergence.h"

enum { APPLIED_ORDERS_MAX = 1024 };

struct applied_order {
    uint64_t id;
    Performer__Order__Kind kind;
    uint64_t step; /* took effect after it */
};

/* What training data are known by: the same for all runs of a job, and for any number of ranks. */
struct data_mark {
    uint64_t rows; /* 0: not known, an older worker's checkpoint */
    uint64_t hash; /* dataset_hash */
};

/* state.json: all of a run that is not a tensor. */
struct checkpoint_state {
    uint64_t step; /* updates done */
    uint64_t seed;
    uint64_t epoch, epoch_row; /* position in the data: follows from step, kept for people */
    uint64_t draw;             /* number of the features in use */
    uint64_t redraw_every;     /* 0: never */
    struct data_mark data;     /* what it was trained on */
    uint64_t rewind;           /* number of the newest that was met (worker/rewind.h), 0: none */
    struct loss_record losses;
    uint64_t chain;         /* hash over every step's loss and gradient norm so far */
    double best_valid_loss; /* NaN: none yet */
    uint64_t best_step;
    size_t applied_count; /* orders that changed the weights, by step */
    struct applied_order applied[APPLIED_ORDERS_MAX];
};

struct checkpoint_content {
    const struct tensor_entry *model, *optimizer;
    size_t model_count, optimizer_count;
    const struct checkpoint_state *state;
};

/*
 * Saves under `directory` and writes the path into `path`. Blocks until it is durable. `fence` (or NULL)
 * is the file that holds the nonce of the attempt in force: where that is not `nonce`, nothing appears and
 * ST_FENCED comes back. On any failure what was written aside is removed and older checkpoints are untouched.
 * A checkpoint of that step already there is replaced.
 */
enum status checkpoint_save(const char *directory, const struct checkpoint_content *content,
                            const char *fence, const char *nonce, char *path, size_t path_size,
                            uint64_t *bytes, struct fault *fault);

/* What a checkpoint takes on the disk, within a few KiB. */
uint64_t checkpoint_bytes(const struct checkpoint_content *content);

/* An open, verified checkpoint. */
struct checkpoint {
    char path[4096];
    struct checkpoint_state state;
    struct safetensors *model, *optimizer;
};

/* That of `step`. ST_NOT_FOUND, ST_CORRUPT, ...: it is not there, or not good. The checkpoint is the caller's. */
enum status checkpoint_open(const char *directory, uint64_t step, struct checkpoint **checkpoint,
                            struct fault *fault);

/* Which checkpoints may be taken, and who is told of each of those that is not good, and why. */
struct checkpoint_choice {
    void *context;
    bool (*wanted)(void *context, uint64_t step);                      /* NULL: all are */
    bool (*kept)(void *context, const struct checkpoint_state *state); /* the same, of a good one */
    void (*rejected)(void *context, const char *path, const char *why); /* NULL: nobody */
};

/* The newest good one of those that are wanted. ST_NOT_FOUND: there is none (an empty or missing directory included);
 * ST_IO, ...: none is good, and one could not be read, so that nobody knows.
 * Leftovers of interrupted saves are not looked at. The checkpoint is the caller's. */
enum status checkpoint_open_newest(const char *directory, const struct checkpoint_choice *choice,
                                   struct checkpoint **checkpoint, struct fault *fault);
void checkpoint_close(struct checkpoint *checkpoint);

typedef void checkpoint_removed(void *context, uint64_t step, const char *path);

/* Of checkpoints that stay besides the newest; 0: none. */
struct spared_steps {
    uint64_t best;   /* by validation loss */
    uint64_t rewind; /* where the run would go back to */
};

/*
 * Keeps `step`, which has just been saved, as the newest of `keep`, and those that are spared; removes the others
 * before it and leftovers of interrupted saves. Those behind it are not counted and not touched: whoever comes to
 * save an earlier step has passed over them.
 */
void checkpoint_prune(const char *directory, uint64_t step, int64_t keep,
                      struct spared_steps spared, checkpoint_removed *removed, void *context);

/* Removes those of later steps than `step`, but `saved`: of weights that the run has gone back from. */
void checkpoint_remove_behind(const char *directory, uint64_t step, uint64_t saved,
                              checkpoint_removed *removed, void *context);

/*
 * Before a save of `step` that takes `bytes`: where fewer are free, leftovers go, and what `checkpoint_prune` would remove
 * after it, but never the newest before it. ST_NO_SPACE: that is not enough. Quotas are not looked at: the save fails by itself
 * then.
 */
enum status checkpoint_make_room(const char *directory, uint64_t step, uint64_t bytes, int64_t keep,
                                 struct spared_steps spared, checkpoint_removed *removed,
                                 void *context, struct fault *fault);

#endif
