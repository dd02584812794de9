#ifndef WORKER_TRAINING_H
#define WORKER_TRAINING_H

/*
 * A rank's part of a run from its start to its end: what it holds, where it resumes, and what it does at the
 * edges of steps. All memory is made by `training_open`; the steps allocate nothing.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "proto/jobspec.h"
#include "proto/performer.pb-c.h"
#include "proto/phase.h"
#include "proto/status.h"
#include "worker/approximation.h"
#include "worker/checkpoint.h"
#include "worker/collective.h"
#include "worker/dataset.h"
#include "worker/orders.h"
#include "worker/params.h"
#include "worker/performer.h"
#include "worker/rewind.h"
#include "worker/uplink.h"

/* What main has made; all of it must outlive the training. */
struct training_setup {
    const struct jobspec *spec;
    const Performer__Plan *plan; /* NULL: there is no daemon */
    const char *directory;       /* holds, or will hold, checkpoints/ */
    const struct backend *backend;
    struct collective *collective;
    struct uplink *uplink;
    bool (*stop_asked)(void); /* true: save and end at the next edge; NULL: nobody asks */
};

/* The sums of one shard of an evaluation, as ranks tell them to each other. */
struct shard_sums {
    double loss;
    int64_t counted, correct;
};

struct saver;

struct training {
    struct training_setup setup;
    char checkpoints[4096]; /* directory/checkpoints */
    char fence[4096];       /* directory/fence; empty without a daemon */

    struct stream stream;
    struct dataset *train, *valid; /* valid: NULL where the job has no validation data */
    struct params *params;
    struct performer *model;
    float *weights, *moment1, *moment2; /* (params->floats) */
    float *gradients; /* (gradient_buffers, params->floats): one for each depth of the tree */
    int gradient_buffers;
    double gradient_squares; /* their sum, written by the device until the next `sync` */
    struct batch batch;      /* room for train.micro_batch sequences */

    int64_t shards;          /* of a step, of this rank */
    double *shard_losses;    /* (shards) */
    struct control *records; /* (ranks) */
    double *rank_losses;     /* (ranks) */

    int64_t valid_sequences, valid_shards; /* of an evaluation, of all ranks */
    int64_t valid_shards_rank;             /* of one rank, the last one's may be fewer */
    struct shard_sums *valid_mine;         /* (valid_shards_rank) */
    struct shard_sums *valid_all;          /* (ranks, valid_shards_rank) */
    double *valid_losses;                  /* (valid_shards) */
    bool entropy_told;

    /* Of the last evaluation, the same on all ranks; NULL where the attention is not measured. */
    struct approximation *approximations; /* (layers) */
    struct approximation
        *approximations_all;  /* (ranks, layers): as gathered, only rank 0's filled */
    void *approximation_work; /* rank 0 */

    struct tensor_entry *model_entries, *optimizer_entries; /* for checkpoints; rank 0 */
    size_t model_entry_count, optimizer_entry_count;
    struct saver *saver; /* rank 0 */

    struct applied_order *replay; /* of the plan */
    struct orders orders;
    struct checkpoint_state state;
    uint64_t resumed_step;
    const Performer__Rewind *rewound; /* met since the last save began; NULL: none */
    double step_ms;                   /* of the last step */
    bool stopped;                     /* ended by an order or a signal, saved */
    bool agreed; /* the failure is known to all ranks: none has to be torn away */
};

/*
 * Reads the data, builds the model, and puts it where the newest good checkpoint left it, or at the beginning.
 * Blocks, and all ranks must call it. ST_BAD_DATA: as dataset_open says, or the training data are not what the
 * checkpoint was trained on. The training is the caller's, also to be closed where it failed.
 */
enum status training_open(const struct training_setup *setup, struct training **training,
                          struct fault *fault);

/*
 * Steps until the last one, an order or signal to stop (`stopped`), or a failure: ST_DIVERGED, ST_FENCED,
 * ST_COLLECTIVE, what a last save failed with. `agreed` says whether the others end with the same. Weights that came by
 * model.init are evaluated before the first step, so that their loss is a metric of step 0.
 */
enum status training_run(struct training *training, struct fault *fault);

void training_close(struct training *training);

/* The last step before those in a row whose updates were left out: weights that were well. */
uint64_t training_good_step(const struct training *training);

/* Tells the daemon what this rank is doing. */
void training_phase(struct training *training, uint64_t step, enum phase phase);

/*
 * Tells the daemon of the orders that took effect at this edge: those that change weights before anything of the step,
 * the others once they have been carried out, so that a rank which dies before leaves them to the next attempt.
 */
void training_tell_orders(struct training *training, const struct edge *edge, bool change_weights);

/* The sum of values[0 ... count-1] as a binary tree that halves the range. */
double tree_sum(const double *values, int64_t count);

/* Milliseconds since some moment, for durations. */
double steady_clock_ms(void);

#endif
