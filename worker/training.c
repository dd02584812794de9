#include "worker/training.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

#include "proto/cost.h"
#include "proto/logline.h"
#include "worker/evaluate.h"
#include "worker/notices.h"
#include "worker/saver.h"
#include "worker/step.h"

double steady_clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

double tree_sum(const double *values, int64_t count)
{
    if (count == 0) return 0.0;
    if (count == 1) return values[0];
    int64_t left = count / 2;
    return tree_sum(values, left) + tree_sum(values + left, count - left);
}

void training_phase(struct training *t, uint64_t step, enum phase phase)
{
    uplink_phase(t->setup.uplink, step, phase, t->step_ms);
}

void training_tell_orders(struct training *t, const struct edge *edge, bool change_weights)
{
    for (int i = 0; i < edge->applied_count; i++) {
        const struct wanted_order *order = &edge->applied[i];
        if ((order->kind == PERFORMER__ORDER__KIND__REDRAW) != change_weights) continue;
        notice_order_applied(t->setup.uplink, t->state.step, order);
        uplink_applied(t->setup.uplink, order->id);
    }
}

uint64_t training_good_step(const struct training *t)
{
    return t->state.step - t->state.losses.skipped_in_row;
}

static bool is_first_rank(const struct training *t)
{
    return collective_rank(t->setup.collective) == 0;
}

/* ---- memory ---- */

/* Memory that operations reach, zeroed; `advice` is for who asked for too much. */
static enum status memory_new(const struct training *t, size_t bytes, const char *what,
                              const char *advice, void **memory, struct fault *fault)
{
    void *made;
    enum status status = t->setup.backend->memory_new(bytes, &made);
    if (status != ST_OK) {
        struct fault why;
        backend_fault(t->setup.backend, status, &why);
        return fault_set(fault, status, "%zu bytes for %s: %s; %s", bytes, what, why.text, advice);
    }
    memset(made, 0, bytes);
    *memory = made;
    return ST_OK;
}

static enum status floats_new(const struct training *t, int64_t count, const char *what,
                              float **floats, struct fault *fault)
{
    void *memory = NULL;
    enum status status = memory_new(t, (size_t)count * sizeof **floats, what,
                                    "a smaller [model] takes less", &memory, fault);
    if (status == ST_OK) *floats = memory;
    return status;
}

static enum status allocate_weights(struct training *t, struct fault *fault)
{
    const int64_t floats = t->params->floats;
    t->gradient_buffers = gradient_buffers(t->shards);
    enum status status = floats_new(t, floats, "weights", &t->weights, fault);
    if (status == ST_OK) status = floats_new(t, floats, "moments", &t->moment1, fault);
    if (status == ST_OK) status = floats_new(t, floats, "moments", &t->moment2, fault);
    if (status == ST_OK)
        status = floats_new(t, floats * t->gradient_buffers, "gradients", &t->gradients, fault);
    return status;
}

static enum status allocate_batch(struct training *t, struct fault *fault)
{
    const size_t tokens = (size_t)(t->setup.spec->train.micro_batch * t->setup.spec->data.length);
    struct batch *batch = &t->batch;
    void *memory[] = {NULL, NULL, NULL};
    const size_t bytes[] = {tokens * sizeof *batch->ids, tokens * sizeof *batch->targets,
                            tokens * sizeof *batch->key_mask};
    enum status status = ST_OK;
    for (int i = 0; i < 3 && status == ST_OK; i++)
        status = memory_new(t, bytes[i], "a batch", "lower train.micro_batch", &memory[i], fault);
    batch->sequences = t->setup.spec->train.micro_batch;
    batch->length = t->setup.spec->data.length;
    batch->ids = memory[0];
    batch->targets = memory[1];
    batch->key_mask = memory[2];
    return status;
}

static enum status allocate_records(struct training *t, struct fault *fault)
{
    const size_t ranks = (size_t)collective_ranks(t->setup.collective);
    t->shard_losses = calloc((size_t)t->shards, sizeof *t->shard_losses);
    t->records = calloc(ranks, sizeof *t->records);
    t->rank_losses = calloc(ranks, sizeof *t->rank_losses);
    if (t->shard_losses && t->records && t->rank_losses) return ST_OK;
    return fault_set(fault, ST_NO_MEMORY, "no memory for the records of %zu ranks", ranks);
}

/* What step.c runs beside the model's passes needs scratch too. */
static size_t update_scratch_bytes(const struct training *t)
{
    const struct backend *backend = t->setup.backend;
    const int threads = team_threads(t->stream.team);
    const struct add add = {.count = t->params->floats};
    const struct sum_squares sum_squares = {.count = t->params->floats};
    const struct adamw adamw = {.count = t->params->floats};
    const size_t needs[] = {backend->add_scratch(&add, threads),
                            backend->sum_squares_scratch(&sum_squares, threads),
                            backend->adamw_scratch(&adamw, threads)};
    size_t most = 0;
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
        if (needs[i] > most) most = needs[i];
    return most;
}

static enum status allocate_scratch(struct training *t, struct fault *fault)
{
    size_t bytes = performer_scratch_bytes(t->model);
    if (update_scratch_bytes(t) > bytes) bytes = update_scratch_bytes(t);
    if (bytes == 0) return ST_OK;
    t->stream.scratch_bytes = bytes;
    return memory_new(t, bytes, "scratch", "lower train.micro_batch", &t->stream.scratch, fault);
}

static enum status describe_tensors(struct training *t, struct fault *fault)
{
    const struct params *params = t->params;
    const size_t projections = (size_t)(params->layers * params->projections);
    t->model_entry_count = params->count + projections;
    t->optimizer_entry_count = 2 * params->count;
    t->model_entries = calloc(t->model_entry_count, sizeof *t->model_entries);
    t->optimizer_entries = calloc(t->optimizer_entry_count, sizeof *t->optimizer_entries);
    if (!t->model_entries || !t->optimizer_entries)
        return fault_set(fault, ST_NO_MEMORY, "no memory for the names of tensors");

    params_entries(params, "", t->weights, t->model_entries);
    if (projections > 0)
        params_projection_entries(params, performer_projections(t->model),
                                  t->model_entries + params->count);
    params_entries(params, "moment1.", t->moment1, t->optimizer_entries);
    params_entries(params, "moment2.", t->moment2, t->optimizer_entries + params->count);
    return ST_OK;
}

/* The figures that performerctl prints before a run are those of the run. */
static void check_cost(const struct training *t)
{
    const struct jobspec *spec = t->setup.spec;
    if (spec->resources.ranks != collective_ranks(t->setup.collective)) return;
    const uint64_t bytes = (uint64_t)t->params->floats * sizeof(float);
    const uint64_t projections =
        (uint64_t)(t->params->layers * t->params->projection_floats) * sizeof(float);
    const int64_t room = collective_room_floats(collective_ranks(t->setup.collective));
    struct cost cost;
    cost_of(spec, &cost);
    assert(cost.parameters == (uint64_t)t->params->floats);
    assert(cost.bytes_weights == bytes + projections + performer_positions_bytes(t->model));
    assert(cost.bytes_moments == 2 * bytes);
    assert(cost.bytes_gradients ==
           bytes * (uint64_t)t->gradient_buffers + (uint64_t)room * sizeof(float));
    assert(cost.bytes_activations == performer_activation_bytes(t->model));
    assert(!t->saver || cost.bytes_snapshot == saver_bytes(t->saver));
}

/* ---- beginning ---- */

static enum status check_ranks(struct training *t, struct fault *fault)
{
    const struct jobspec *spec = t->setup.spec;
    const int ranks = collective_ranks(t->setup.collective);
    const int64_t shards = spec->train.batch / spec->train.micro_batch;

    if (t->setup.plan && t->setup.plan->ranks != (uint32_t)ranks)
        return fault_set(fault, ST_INVALID, "the plan is for %u ranks, but %d were started",
                         t->setup.plan->ranks, ranks);
    if (shards % ranks != 0)
        return fault_set(fault, ST_INVALID,
                         "%d ranks do not divide train.batch / train.micro_batch = %" PRId64, ranks,
                         shards);
    t->shards = shards / ranks;
    return ST_OK;
}

static enum status open_data(struct training *t, struct fault *fault)
{
    enum status status = dataset_open(t->setup.spec, SPLIT_TRAIN, &t->train, fault);
    if (status == ST_OK) status = dataset_open(t->setup.spec, SPLIT_VALID, &t->valid, fault);
    return status;
}

/* What a save writes is copied first; rank 0 alone saves. */
static enum status open_saver(struct training *t, struct fault *fault)
{
    const Performer__Plan *plan = t->setup.plan;
    const struct saver_setup setup = {
        .directory = t->checkpoints,
        .fence = plan ? t->fence : NULL,
        .nonce = plan ? plan->nonce : "alone",
        .keep = t->setup.spec->checkpoint.keep,
        .tensors = {.model = t->model_entries,
                    .model_count = t->model_entry_count,
                    .optimizer = t->optimizer_entries,
                    .optimizer_count = t->optimizer_entry_count},
        .uplink = t->setup.uplink,
    };
    return is_first_rank(t) ? saver_open(&setup, &t->saver, fault) : ST_OK;
}

static enum status build(struct training *t, struct fault *fault)
{
    const struct jobspec *spec = t->setup.spec;
    const int threads = (int)spec->resources.threads;

    enum status status = team_new(threads, &t->stream.team);
    if (status != ST_OK) return fault_set(fault, status, "could not start %d threads", threads);
    status = params_new(spec, &t->params);
    if (status != ST_OK) return fault_set(fault, status, "no memory for the names of tensors");
    status = performer_new(spec, t->params, t->setup.backend, threads, &t->model, fault);
    if (status == ST_OK) status = allocate_weights(t, fault);
    if (status == ST_OK) status = allocate_batch(t, fault);
    if (status == ST_OK) status = allocate_records(t, fault);
    if (status == ST_OK) status = allocate_scratch(t, fault);
    if (status == ST_OK) status = describe_tensors(t, fault);
    if (status == ST_OK) status = open_saver(t, fault);
    if (status == ST_OK) status = evaluate_prepare(t, fault);
    if (status != ST_OK) return status;
    status = collective_reserve(t->setup.collective, t->params->buckets);
    if (status != ST_OK) return fault_set(fault, status, "no memory to sum gradients across ranks");
    check_cost(t);
    return ST_OK;
}

static enum status take_replay(struct training *t, struct fault *fault)
{
    const Performer__Plan *plan = t->setup.plan;
    const size_t count = plan ? plan->n_applied : 0;

    t->replay = calloc(count + 1, sizeof *t->replay);
    if (!t->replay) return fault_set(fault, ST_NO_MEMORY, "no memory for the orders of the plan");
    for (size_t i = 0; i < count; i++)
        t->replay[i] = (struct applied_order){
            .id = plan->applied[i]->id,
            .kind = plan->applied[i]->kind,
            .step = plan->applied[i]->step,
        };
    orders_init(&t->orders, t->setup.spec, t->replay, count);
    return ST_OK;
}

static enum status load_initial_file(struct training *t, struct fault *fault)
{
    const char *path = t->setup.spec->model.init;
    struct safetensors *file;
    bool has_projections;

    enum status status = safetensors_open(path, &file, fault);
    if (status != ST_OK) {
        fault_wrap(fault, "model.init wants a model.safetensors that every rank can read");
        return status;
    }
    status = params_reject_unknown(t->params, file, fault);
    if (status == ST_OK) status = params_read(t->params, file, "", t->weights, fault);
    if (status == ST_OK)
        status = params_read_projections(t->params, file, performer_projections(t->model),
                                         &has_projections, fault);
    safetensors_close(file);
    if (status != ST_OK) fault_wrap(fault, "model.init = \"%s\"", path);
    return status;
}

/* Steps from one to the next, 0: there are none. */
static uint64_t planned_redraws(const struct jobspec *spec)
{
    return spec->redraw.policy == POLICY_FIXED ? (uint64_t)spec->redraw.every : 0;
}

static enum status begin_anew(struct training *t, struct fault *fault)
{
    const struct jobspec *spec = t->setup.spec;

    t->state.seed = (uint64_t)spec->job.seed;
    t->state.best_valid_loss = NAN;
    t->state.redraw_every = planned_redraws(spec);
    params_initialize(t->params, t->state.seed, t->weights);
    performer_redraw(t->model, 0);
    return spec->model.init[0] != '\0' ? load_initial_file(t, fault) : ST_OK;
}

/* What it was restored from is another run's. */
static bool begins_fork(const struct training *t)
{
    return t->setup.plan && t->setup.plan->first_step == t->state.step;
}

/* What was best so far is another run's, and so are its rewinds: a fork may be evaluated on other data, and counts its own. */
static void forget_source(struct training *t)
{
    t->state.best_valid_loss = NAN;
    t->state.best_step = 0;
    t->state.rewind = 0;
}

static enum status restore(struct training *t, const struct checkpoint *checkpoint,
                           struct fault *fault)
{
    bool has_projections = false;

    if (checkpoint->state.seed != (uint64_t)t->setup.spec->job.seed)
        return fault_set(fault, ST_INVALID,
                         "it is of a run with job.seed = %" PRIu64 ", this job has %" PRId64
                         ": use another directory",
                         checkpoint->state.seed, t->setup.spec->job.seed);
    enum status status = params_reject_unknown(t->params, checkpoint->model, fault);
    if (status == ST_OK) status = params_read(t->params, checkpoint->model, "", t->weights, fault);
    if (status == ST_OK)
        status = params_read(t->params, checkpoint->optimizer, "moment1.", t->moment1, fault);
    if (status == ST_OK)
        status = params_read(t->params, checkpoint->optimizer, "moment2.", t->moment2, fault);
    if (status == ST_OK)
        status = params_read_projections(t->params, checkpoint->model,
                                         performer_projections(t->model), &has_projections, fault);
    if (status == ST_OK && t->params->projections > 0 && !has_projections)
        status =
            fault_set(fault, ST_INVALID,
                      "it has no projections of this attention.kind, which the job's model has");
    if (status != ST_OK) return status;
    t->state = checkpoint->state;
    t->state.redraw_every = planned_redraws(t->setup.spec);
    if (begins_fork(t)) forget_source(t);
    return ST_OK;
}

static void tell_rejected(void *context, const char *path, const char *why)
{
    struct training *t = context;
    log_warn("checkpoint-rejected", "passed over %s: %s", path, why);
    notice_checkpoint_rejected(t->setup.uplink, path, why);
}

/* One that attempts have died of is set aside. */
static bool is_to_be_taken(void *context, uint64_t step)
{
    const struct training *t = context;
    const Performer__Plan *plan = t->setup.plan;
    for (size_t i = 0; plan && i < plan->n_set_aside; i++)
        if (plan->set_aside[i] == step) return false;
    return true;
}

/* One of weights that the run has gone back from is passed over. */
static bool is_kept(void *context, const struct checkpoint_state *state)
{
    const struct training *t = context;
    return rewind_keeps(t->setup.plan, state);
}

/* Rank 0 looks for the newest good checkpoint; the others open that one. `*checkpoint` is NULL where there is none. */
static enum status open_agreed_checkpoint(struct training *t, struct checkpoint **checkpoint,
                                          struct fault *fault)
{
    uint64_t choice[2] = {0, 0}; /* whether there is one, and of which step */
    struct checkpoint *mine = NULL;
    enum status status = ST_OK;

    if (is_first_rank(t)) {
        const struct checkpoint_choice ours = {t, is_to_be_taken, is_kept, tell_rejected};
        status = checkpoint_open_newest(t->checkpoints, &ours, &mine, fault);
        if (status != ST_OK && status != ST_NOT_FOUND) return status;
        if (mine) choice[0] = 1, choice[1] = mine->state.step;
    }
    /* The records are not in use yet and have more room than this. */
    uint64_t(*choices)[2] = (void *)t->records;
    status = collective_gather(t->setup.collective, choice, sizeof choice, choices, fault);
    if (status == ST_OK && !is_first_rank(t) && choices[0][0])
        status = checkpoint_open(t->checkpoints, choices[0][1], &mine, fault);
    if (status != ST_OK) {
        checkpoint_close(mine);
        return fault_wrap(fault, "open the checkpoint that rank 0 resumes from");
    }
    *checkpoint = mine;
    return ST_OK;
}

static enum status resume_or_begin(struct training *t, struct fault *fault)
{
    struct checkpoint *checkpoint = NULL;
    enum status status = open_agreed_checkpoint(t, &checkpoint, fault);
    if (status != ST_OK) return status;
    const uint64_t first_step = t->setup.plan ? t->setup.plan->first_step : 0;
    if (!checkpoint && first_step > 0) {
        t->agreed = true;
        return fault_set(
            fault, ST_INVALID,
            "there is no good checkpoint in %s, and a fork that began from one of step "
            "%" PRIu64 " does not begin anew",
            t->checkpoints, first_step);
    }
    if (!checkpoint) return begin_anew(t, fault);

    status = restore(t, checkpoint, fault);
    if (status != ST_OK) fault_wrap(fault, "resume from %s", checkpoint->path);
    checkpoint_close(checkpoint);
    t->resumed_step = t->state.step;
    return status;
}

/* What all ranks must have in common before the first step. */
struct beginning {
    uint64_t step, chain, draw;
    uint64_t weights; /* hash over weights, moments and projections */
    uint64_t train, valid;
};

static struct beginning beginning_of(const struct training *t)
{
    const struct params *params = t->params;
    const size_t bytes = (size_t)params->floats * sizeof(float);
    const size_t drawn = (size_t)(params->layers * params->projection_floats) * sizeof(float);

    uint64_t weights = XXH3_64bits(t->weights, bytes);
    weights = XXH3_64bits_withSeed(t->moment1, bytes, weights);
    weights = XXH3_64bits_withSeed(t->moment2, bytes, weights);
    if (drawn > 0) weights = XXH3_64bits_withSeed(performer_projections(t->model), drawn, weights);
    return (struct beginning){
        .step = t->state.step,
        .chain = t->state.chain,
        .draw = t->state.draw,
        .weights = weights,
        .train = dataset_hash(t->train),
        .valid = t->valid ? dataset_hash(t->valid) : 0,
    };
}

/* Replicas that differ would train on, unnoticed: hosts with other files, or an older checkpoint, under one name. */
static enum status check_alike(struct training *t, struct fault *fault)
{
    const int ranks = collective_ranks(t->setup.collective);
    const struct beginning mine = beginning_of(t);
    struct beginning *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return fault_set(fault, ST_NO_MEMORY, "no memory to begin together");

    enum status status = collective_gather(t->setup.collective, &mine, sizeof mine, all, fault);
    for (int rank = 1; rank < ranks && status == ST_OK; rank++) {
        const bool same_data = all[rank].train == all[0].train && all[rank].valid == all[0].valid;
        if (memcmp(&all[rank], &all[0], sizeof *all) == 0) continue;
        t->agreed = true;
        status = fault_set(fault, ST_INVALID,
                           "rank %d has other %s than rank 0: all hosts must see the same files",
                           rank, same_data ? "weights to begin with" : "data");
    }
    free(all);
    return status;
}

/*
 * Whether the training data are still those of the checkpoint: all ranks have the same of both here, so they agree. A fork may begin
 * with data of its own, and is held to them from its first checkpoint on.
 */
static enum status check_data(struct training *t, struct fault *fault)
{
    const struct data_mark before = t->state.data;
    const struct data_mark now = {(uint64_t)dataset_rows(t->train), dataset_hash(t->train)};

    t->state.data = now;
    if (before.rows == 0 || (before.rows == now.rows && before.hash == now.hash)) return ST_OK;
    char change[192];
    snprintf(change, sizeof change,
             "%" PRIu64 " rows (%016" PRIx64 "), where the checkpoint of step %" PRIu64
             " has seen %" PRIu64 " (%016" PRIx64 ")",
             now.rows, now.hash, t->state.step, before.rows, before.hash);
    const char *path = t->setup.spec->data.train;
    if (begins_fork(t)) {
        if (is_first_rank(t)) log_warn("data-changed", "of %s: %s", path, change);
        return ST_OK;
    }
    t->agreed = true;
    return fault_set(fault, ST_BAD_DATA,
                     "training data have changed: %s; bring back %s and [data] as they were, or "
                     "fork the run",
                     change, path);
}

static void tell_started(struct training *t)
{
    const char *library = collective_library(t->setup.collective);
    char libraries[200];
    snprintf(libraries, sizeof libraries, "%s%s%s", backend_libraries(), *library ? ", " : "",
             library);
    notice_started(t->setup.uplink, t->resumed_step, t->setup.backend->description, libraries,
                   (uint64_t)t->params->floats);
    if (!is_first_rank(t)) return;
    log_info("training-started",
             "%s, %s; %s, ranks %d, threads %d, parameters %" PRId64 ", %" PRId64
             " training rows; %s step %" PRIu64 " of %" PRId64,
             t->setup.backend->description, libraries,
             precision_text(t->setup.spec->train.precision), collective_ranks(t->setup.collective),
             team_threads(t->stream.team), t->params->floats, dataset_rows(t->train),
             t->resumed_step > 0 ? "resumes at" : "begins at", t->resumed_step,
             t->setup.spec->train.steps);
    if (t->setup.spec->train.precision == PRECISION_BF16 && !t->setup.backend->has_bf16)
        log_warn(
            "bf16-emulated",
            "this machine has no instructions for train.precision = \"bf16\": its products are "
            "computed with floats, and slower than those of \"fp32\"");
}

/* An attempt may have been killed after it saved what an order did and before it told of it. */
static void tell_applied_before(struct training *t)
{
    for (size_t i = 0; i < t->state.applied_count; i++) {
        const struct applied_order *order = &t->state.applied[i];
        const struct wanted_order applied = {order->id, order->kind};
        if (orders_replays(&t->orders, order->id)) continue;
        notice_order_applied(t->setup.uplink, order->step, &applied);
        uplink_applied(t->setup.uplink, order->id);
    }
}

enum status training_open(const struct training_setup *setup, struct training **training,
                          struct fault *fault)
{
    struct training *t = calloc(1, sizeof *t);
    if (!t) return fault_set(fault, ST_NO_MEMORY, "no memory to begin");
    t->setup = *setup;
    *training = t;
    snprintf(t->checkpoints, sizeof t->checkpoints, "%s/checkpoints", setup->directory);
    if (setup->plan) snprintf(t->fence, sizeof t->fence, "%s/fence", setup->directory);

    training_phase(t, 0, PHASE_LOAD);
    enum status status = check_ranks(t, fault);
    if (status == ST_OK) status = open_data(t, fault);
    if (status == ST_OK) status = build(t, fault);
    if (status == ST_OK) status = take_replay(t, fault);
    if (status == ST_OK) status = resume_or_begin(t, fault);
    if (status == ST_OK) status = check_alike(t, fault);
    if (status == ST_OK) status = check_data(t, fault);
    if (status != ST_OK) return status;
    tell_started(t);
    tell_applied_before(t);
    return ST_OK;
}

void training_close(struct training *t)
{
    if (!t) return;
    saver_close(t->saver);
    free(t->replay);
    free(t->optimizer_entries);
    free(t->model_entries);
    free(t->approximation_work);
    free(t->approximations_all);
    free(t->approximations);
    free(t->valid_losses);
    free(t->valid_all);
    free(t->valid_mine);
    free(t->rank_losses);
    free(t->records);
    free(t->shard_losses);
    void *memory[] = {t->batch.key_mask, t->batch.targets, t->batch.ids, t->gradients,
                      t->moment2,        t->moment1,       t->weights,   t->stream.scratch};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        t->setup.backend->memory_free(memory[i]);
    performer_free(t->model);
    params_free(t->params);
    dataset_close(t->valid);
    dataset_close(t->train);
    team_free(t->stream.team);
    free(t);
}

/* ---- edges of steps ---- */

/* why: NULL where no measurement asked for it. */
static void redraw(struct training *t, uint64_t order, const char *why)
{
    performer_redraw(t->model, (uint32_t)t->state.draw);
    losses_forget(&t->state.losses);
    notice_redrawn(t->setup.uplink, t->state.step, t->state.draw,
                   performer_projections_hash(t->model), order, why);
}

/* All ranks hold the same figures and decide alike; an attempt that comes here again measures them again. */
static void redraw_by_error(struct training *t)
{
    const struct jobspec *spec = t->setup.spec;
    char why[100];
    int64_t layer;
    if (spec->redraw.policy != POLICY_ADAPTIVE) return;
    const double error = evaluate_largest_error(t, &layer);

    if (!orders_redraw_by_error(&t->orders, t->state.step, error, &t->state)) return;
    snprintf(why, sizeof why, "adaptive: kernel_error.%" PRId64 " %.4g %s %g", layer, error,
             isnan(error) ? "is not below" : ">", spec->redraw.threshold);
    redraw(t, 0, why);
    if (is_first_rank(t))
        log_info("redrawn", "draw %" PRIu64 " after step %" PRIu64 ", %s", t->state.draw,
                 t->state.step, why);
}

/* At the very place in the run whatever checkpoint the attempt began from: behind all that the edge of that step does. */
static void meet_rewind(struct training *t)
{
    const Performer__Rewind *due = rewind_due(t->setup.plan, &t->state);
    char why[40];
    if (!due) return;
    rewind_meet(due, &t->state);
    snprintf(why, sizeof why, "rewind %" PRIu64, due->number);
    redraw(t, 0, why);
    t->rewound = due;
    if (is_first_rank(t))
        log_info("rewound", "draw %" PRIu64 " after step %" PRIu64 ", %s", t->state.draw,
                 t->state.step, why);
}

/* How rank 0's last save went, so that all ranks end alike. */
struct save_outcome {
    int32_t status;
    char text[sizeof((struct fault *)0)->text];
};

static enum status agree_on_save(struct training *t, enum status status, struct fault *fault)
{
    struct save_outcome outcome = {.status = status};
    if (status != ST_OK) memcpy(outcome.text, fault->text, sizeof outcome.text);

    struct save_outcome *outcomes =
        calloc((size_t)collective_ranks(t->setup.collective), sizeof *outcomes);
    if (!outcomes) return fault_set(fault, ST_NO_MEMORY, "no memory to end together");
    training_phase(t, t->state.step, PHASE_REDUCE);
    enum status gathered =
        collective_gather(t->setup.collective, &outcome, sizeof outcome, outcomes, fault);
    if (gathered == ST_OK && outcomes[0].status != ST_OK) {
        t->agreed = true;
        gathered = fault_set(fault, (enum status)outcomes[0].status, "the last checkpoint: %s",
                             outcomes[0].text);
    }
    free(outcomes);
    return gathered;
}

/*
 * What became of the save that was under way, once that is known, or now with `wait`. One on the way may fail, as long as a
 * later one can be taken: training goes on.
 */
static enum status settle_save(struct training *t, bool wait, struct fault *fault)
{
    if (!t->saver) return ST_OK;
    enum status status = saver_finish(t->saver, wait, &t->state, fault);
    if (status == ST_OK || status == ST_FENCED) return status;
    log_warn("checkpoint-failed", "no checkpoint of step %" PRIu64 ": %s", saver_step(t->saver),
             fault->text);
    return ST_OK;
}

/* Its retention keeps what the run would go back to, and removes what it has gone back from. */
static void start_save(struct training *t, double valid_loss)
{
    const struct jobspec *spec = t->setup.spec;
    struct save_marks marks = {.rewound = t->rewound};
    if (spec->train.on_divergence == DIVERGENCE_BACK)
        marks.rewind_step = rewind_step(spec, t->setup.plan, training_good_step(t));
    t->rewound = NULL;
    saver_start(t->saver, &t->state, valid_loss, &marks);
}

/* The run ends here: it is waited for, and may not fail. */
static enum status save_last(struct training *t, double valid_loss, struct fault *fault)
{
    enum status status = settle_save(t, true, fault);
    if (status == ST_OK && t->saver) {
        start_save(t, valid_loss);
        status = saver_finish(t->saver, true, &t->state, fault);
    }
    return agree_on_save(t, status, fault);
}

/* A person's is waited for: that the order is carried out is told next. */
static enum status save_on_the_way(struct training *t, double valid_loss, bool ordered,
                                   struct fault *fault)
{
    enum status status = settle_save(t, true, fault);
    if (status != ST_OK || !t->saver) return status;
    start_save(t, valid_loss);
    return settle_save(t, ordered, fault);
}

static bool checkpoint_ordered(const struct edge *edge)
{
    for (int i = 0; i < edge->applied_count; i++)
        if (edge->applied[i].kind == PERFORMER__ORDER__KIND__CHECKPOINT) return true;
    return false;
}

/* In this order, so that what is evaluated is what is saved and what goes on, but for features that are found wanting. */
static enum status do_edge(struct training *t, const struct edge *edge, struct fault *fault)
{
    const bool last = edge->stop || t->state.step >= (uint64_t)t->setup.spec->train.steps;
    double valid_loss = NAN;
    enum status status = ST_OK;

    if (edge->fenced) {
        t->agreed = true;
        return fault_set(fault, ST_FENCED, "a newer attempt of this run has taken over");
    }
    status = settle_save(t, false, fault);
    if (status != ST_OK) return status;
    if (edge->redraw) redraw(t, edge->redraw_order, NULL);
    if (edge->evaluate) status = evaluate_run(t, &valid_loss, fault);
    if (status == ST_OK && edge->evaluate) redraw_by_error(t);
    if (status == ST_OK && edge->checkpoint) {
        training_phase(t, t->state.step, PHASE_CHECKPOINT);
        status = last ? save_last(t, valid_loss, fault)
                      : save_on_the_way(t, valid_loss, checkpoint_ordered(edge), fault);
    }
    if (status == ST_OK) training_tell_orders(t, edge, false);
    t->stopped =
        status == ST_OK && edge->stop && t->state.step < (uint64_t)t->setup.spec->train.steps;
    return status;
}

/* What weights from elsewhere are worth before they are trained on; a run that goes on has told it before. */
static enum status evaluate_transferred(struct training *t, struct fault *fault)
{
    double valid_loss;
    if (t->state.step > 0 || t->setup.spec->model.init[0] == '\0' || !t->valid) return ST_OK;
    return evaluate_run(t, &valid_loss, fault);
}

enum status training_run(struct training *t, struct fault *fault)
{
    const uint64_t steps = (uint64_t)t->setup.spec->train.steps;
    const double begin_ms = steady_clock_ms();

    enum status status = evaluate_transferred(t, fault);
    if (status != ST_OK) return status;
    while (t->state.step < steps && !t->stopped) {
        struct edge edge;
        meet_rewind(t);
        status = step_run(t, &edge, fault);
        if (status == ST_OK) status = do_edge(t, &edge, fault);
        if (status != ST_OK) {
            settle_save(t, true, &(struct fault){0}); /* whatever has failed, it is worth having */
            return status;
        }
    }
    training_phase(t, t->state.step, PHASE_DONE);
    if (is_first_rank(t))
        log_info("training-ended",
                 "%s after step %" PRIu64 " of %" PRIu64 ", %.1f s in this attempt",
                 t->stopped ? "stopped and saved" : "done", t->state.step, steps,
                 (steady_clock_ms() - begin_ms) / 1e3);
    return ST_OK;
}
