#include "worker/step.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "proto/logline.h"
#include "worker/notices.h"
#include "worker/schedule.h"

/* A shard whose gradient is being folded into those of the shards before it. */
struct folding {
    struct training *training;
    float *gradient; /* of this shard */
    int folds;
    bool last;   /* of this rank: what is folded goes to the other ranks */
    bool moving; /* some of it is under way */
    enum status status;
    struct fault *fault;
};

struct step_sums {
    double loss;             /* mean over the predicted tokens of the global batch */
    double norm;             /* of the mean loss's gradient, before clipping */
    int64_t counted, tokens; /* predicted; all but padding */
    double waited_ms;        /* of this rank, for the others */
};

struct shard_place shard_place(int64_t index, int64_t count)
{
    struct shard_place place = {0, 0};
    while (count > 1) {
        int64_t left = count / 2;
        if (index < left) {
            count = left;
            place.folds = 0;
        } else {
            index -= left;
            count -= left;
            place.buffer++;
            place.folds++;
        }
    }
    return place;
}

int gradient_buffers(int64_t count)
{
    int most = 0;
    for (int64_t i = 0; i < count; i++) {
        int buffer = shard_place(i, count).buffer;
        if (buffer > most) most = buffer;
    }
    return most + 1;
}

/* An operation of the backend has failed. */
static enum status operation_failed(const struct training *t, enum status status,
                                    struct fault *fault)
{
    backend_fault(t->setup.backend, status, fault);
    return fault_wrap(fault, "step %llu", (unsigned long long)t->state.step + 1);
}

/* Where the host sums, it is about to read what operations write. */
static enum status sync_for_host(struct folding *folding)
{
    struct training *t = folding->training;
    if (!collective_on_host(t->setup.collective)) return ST_OK;
    const enum status status = t->setup.backend->sync(&t->stream);
    return status == ST_OK ? ST_OK : operation_failed(t, status, folding->fault);
}

static void fold_bucket(void *context, int bucket)
{
    struct folding *folding = context;
    struct training *t = folding->training;
    const struct bucket *at = &t->params->bucket[bucket];
    float *gradient = folding->gradient + at->offset;

    for (int fold = 0; fold < folding->folds && folding->status == ST_OK; fold++) {
        float *before = gradient - t->params->floats;
        const struct add add = {.count = at->count, .x = gradient, .y = before};
        folding->status = t->setup.backend->add(&t->stream, &add);
        if (folding->status != ST_OK) operation_failed(t, folding->status, folding->fault);
        gradient = before;
    }
    if (!folding->last || folding->status != ST_OK) return;
    folding->status = sync_for_host(folding);
    if (folding->status != ST_OK) return;
    folding->moving = true;
    folding->status =
        collective_sum_start(t->setup.collective, gradient, at->count, folding->fault);
}

static void move_buckets(void *context)
{
    struct folding *folding = context;
    struct training *t = folding->training;
    if (!folding->moving || folding->status != ST_OK) return;
    folding->status = sync_for_host(folding);
    if (folding->status == ST_OK)
        folding->status = collective_progress(t->setup.collective, folding->fault);
}

/* Batch, forward, loss and backward of one shard of this rank. */
static enum status run_shard(struct training *t, uint64_t step, int64_t index, struct loss *loss,
                             struct fault *fault)
{
    const int rank = collective_rank(t->setup.collective);
    const int64_t first = (rank * t->shards + index) * t->setup.spec->train.micro_batch;
    const struct shard_place place = shard_place(index, t->shards);
    const struct performer_pass pass = {.training = true, .step = step, .first_sequence = first};
    struct folding folding = {
        .training = t,
        .gradient = t->gradients + place.buffer * t->params->floats,
        .folds = place.folds,
        .last = index == t->shards - 1 && collective_ranks(t->setup.collective) > 1,
        .fault = fault,
    };
    const struct performer_hooks hooks = {&folding, move_buckets, fold_bucket};

    training_phase(t, step, PHASE_BATCH);
    dataset_batch(t->train, step, first, &t->batch);
    training_phase(t, step, PHASE_FORWARD);
    enum status status = performer_forward(t->model, &t->stream, t->weights, &t->batch, &pass);
    if (status == ST_OK) status = performer_loss(t->model, &t->stream, &t->batch, true, loss);
    if (status != ST_OK) return operation_failed(t, status, fault);
    training_phase(t, step, PHASE_BACKWARD);
    status =
        performer_backward(t->model, &t->stream, t->weights, &t->batch, folding.gradient, &hooks);
    if (status == ST_OK && folding.status != ST_OK) return folding.status;
    if (status == ST_OK)
        status = t->setup.backend->sync(&t->stream); /* the batch is filled anew next */
    return status == ST_OK ? ST_OK : operation_failed(t, status, fault);
}

/* Everything up to the gradients of this rank's shards, summed and on their way to the other ranks. */
static enum status run_shards(struct training *t, uint64_t step, struct control *control,
                              struct fault *fault)
{
    t->batch.sequences = t->setup.spec->train.micro_batch;
    for (int64_t i = 0; i < t->shards; i++) {
        struct loss loss;
        enum status status = run_shard(t, step, i, &loss, fault);
        if (status != ST_OK) return status;
        t->shard_losses[i] = loss.sum;
        control->counted += loss.counted;
        control->tokens += t->batch.tokens;
    }
    control->loss_sum = tree_sum(t->shard_losses, t->shards);
    return ST_OK;
}

/* The gradients of all ranks, and what each rank has lost and heard. */
static enum status reduce(struct training *t, uint64_t step, struct control *control,
                          struct step_sums *sums, struct fault *fault)
{
    const double begin_ms = steady_clock_ms();
    training_phase(t, step, PHASE_REDUCE);
    control->stop_asked = t->setup.stop_asked && t->setup.stop_asked();
    control->fenced = uplink_fenced(t->setup.uplink);
    control->heard_count =
        (uint32_t)uplink_wanted(t->setup.uplink, control->heard, ORDERS_HEARD_MAX);

    enum status status =
        collective_gather(t->setup.collective, control, sizeof *control, t->records, fault);
    if (status != ST_OK) return status;

    const int ranks = collective_ranks(t->setup.collective);
    for (int rank = 0; rank < ranks; rank++) {
        t->rank_losses[rank] = t->records[rank].loss_sum;
        sums->counted += t->records[rank].counted;
        sums->tokens += t->records[rank].tokens;
    }
    sums->loss = tree_sum(t->rank_losses, ranks) / (double)sums->counted;
    sums->waited_ms = steady_clock_ms() - begin_ms;
    return ST_OK;
}

/* The norm of the gradient of the mean loss, and what the gradient of the summed loss is to be multiplied by. */
static enum status clip(struct training *t, struct step_sums *sums, float *scale,
                        struct fault *fault)
{
    const double limit = t->setup.spec->optimizer.clip;
    const struct sum_squares sum_squares = {
        .count = t->params->floats, .x = t->gradients, .sum = &t->gradient_squares};
    enum status status = t->setup.backend->sum_squares(&t->stream, &sum_squares);
    if (status == ST_OK) status = t->setup.backend->sync(&t->stream);
    if (status != ST_OK) return operation_failed(t, status, fault);

    sums->norm = sqrt(t->gradient_squares) / (double)sums->counted;
    double factor = limit > 0.0 && sums->norm > limit ? limit / sums->norm : 1.0;
    *scale = (float)(factor / (double)sums->counted);
    return ST_OK;
}

static void tell_skipped(struct training *t, uint64_t step, const char *why)
{
    if (collective_rank(t->setup.collective) != 0) return;
    const struct loss_record *losses = &t->state.losses;
    log_warn("update-skipped", "step %llu: %s; %llu in a row", (unsigned long long)step, why,
             (unsigned long long)losses->skipped_in_row);
    notice_update_skipped(t->setup.uplink, step, why, losses->skipped_in_row);
    uplink_metric(t->setup.uplink, step, "skipped", (double)losses->skipped);
}

/* Every rank comes to the same verdict: the sums are the same bits on all. */
static enum status check_sums(struct training *t, uint64_t step, const struct step_sums *sums,
                              bool *taken, struct fault *fault)
{
    char why[100];
    t->agreed = true;
    if (sums->counted == 0)
        return fault_set(fault, ST_BAD_DATA, "the batch of step %llu has no token to predict",
                         (unsigned long long)step);
    switch (divergence_judge(t->setup.spec, &t->state.losses, sums->loss, sums->norm, why,
                             sizeof why)) {
    case UPDATE_TAKEN:
        *taken = true;
        break;
    case UPDATE_SKIPPED:
        *taken = false;
        tell_skipped(t, step, why);
        break;
    case UPDATE_DIVERGED:
        return fault_set(
            fault, ST_DIVERGED,
            "training diverged at step %llu: %s; the step was not taken. A lower optimizer.lr, more "
            "warmup, or a kernel whose features are positive may help",
            (unsigned long long)step, why);
    }
    t->agreed = false;
    return ST_OK;
}

/* beta^step by squaring: the same bits everywhere, which pow() does not promise. */
static double power(double base, uint64_t exponent)
{
    double result = 1.0;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

/* Neighbours with the same decay are updated in one go. */
static enum status update(struct training *t, uint64_t step, float scale, double lr,
                          struct fault *fault)
{
    const struct params *params = t->params;
    const struct jobspec *spec = t->setup.spec;
    /* The corrections are of the betas as the moments are made with, rounded: 1 - 0.9999f is not 1 - 0.9999. */
    const float beta1 = (float)spec->optimizer.beta1, beta2 = (float)spec->optimizer.beta2;
    struct adamw adamw = {
        .scale = scale,
        .lr = (float)lr,
        .beta1 = beta1,
        .beta2 = beta2,
        .epsilon = (float)spec->optimizer.epsilon,
        .correction1 = (float)(1.0 - power(beta1, step - t->state.losses.skipped)),
        .correction2 = (float)(1.0 - power(beta2, step - t->state.losses.skipped)),
    };

    training_phase(t, step, PHASE_UPDATE);
    for (size_t begin = 0, end; begin < params->count; begin = end) {
        const struct parameter *first = &params->list[begin];
        for (end = begin + 1; end < params->count; end++)
            if (params->list[end].decay != first->decay) break;
        const struct parameter *last = &params->list[end - 1];

        adamw.count = last->offset + last->count - first->offset;
        adamw.gradient = t->gradients + first->offset;
        adamw.weight = t->weights + first->offset;
        adamw.moment1 = t->moment1 + first->offset;
        adamw.moment2 = t->moment2 + first->offset;
        adamw.weight_decay = first->decay ? (float)spec->optimizer.weight_decay : 0.0F;
        enum status status = t->setup.backend->adamw(&t->stream, &adamw);
        if (status != ST_OK) return operation_failed(t, status, fault);
    }
    enum status status = t->setup.backend->sync(&t->stream);
    return status == ST_OK ? ST_OK : operation_failed(t, status, fault);
}

static void advance_state(struct training *t, uint64_t step, const struct step_sums *sums)
{
    const struct {
        uint64_t chain;
        double loss, norm;
    } link = {t->state.chain, isnan(sums->loss) ? NAN : sums->loss,
              isnan(sums->norm) ? NAN : sums->norm};
    const uint64_t sequences = step * (uint64_t)t->setup.spec->train.batch;
    const uint64_t rows = (uint64_t)dataset_rows(t->train);

    t->state.step = step;
    t->state.chain = XXH3_64bits(&link, sizeof link);
    t->state.epoch = sequences / rows;
    t->state.epoch_row = sequences % rows;
}

static void tell_metrics(struct training *t, uint64_t step, const struct step_sums *sums, double lr)
{
    if (collective_rank(t->setup.collective) != 0) return;
    struct uplink *uplink = t->setup.uplink;

    if (isfinite(sums->loss)) uplink_metric(uplink, step, "loss", sums->loss);
    if (isfinite(sums->norm)) uplink_metric(uplink, step, "grad_norm", sums->norm);
    uplink_metric(uplink, step, "lr", lr);
    uplink_metric(uplink, step, "tokens_per_second", (double)sums->tokens * 1e3 / t->step_ms);
    uplink_metric(uplink, step, "step_ms", t->step_ms);
}

enum status step_run(struct training *t, struct edge *edge, struct fault *fault)
{
    const uint64_t step = t->state.step + 1;
    const double begin_ms = steady_clock_ms();
    const double lr = learning_rate(t->setup.spec, step);
    struct control control;
    memset(&control, 0, sizeof control); /* it is gathered as bytes, padding and all */
    struct step_sums sums = {0};
    float scale = 0.0F;
    bool taken = false;

    enum status status = run_shards(t, step, &control, fault);
    if (status == ST_OK) status = reduce(t, step, &control, &sums, fault);
    if (status == ST_OK) status = clip(t, &sums, &scale, fault);
    if (status == ST_OK) status = check_sums(t, step, &sums, &taken, fault);
    if (status == ST_OK && taken) status = update(t, step, scale, lr, fault);
    if (status != ST_OK) return status;

    advance_state(t, step, &sums);
    orders_decide(&t->orders, step, t->records, collective_ranks(t->setup.collective), &t->state,
                  edge);
    t->step_ms = steady_clock_ms() - begin_ms;
    uplink_step_done(t->setup.uplink, t->step_ms - sums.waited_ms);
    training_tell_orders(t, edge, true);
    if (!edge->fenced) tell_metrics(t, step, &sums, lr);
    return ST_OK;
}
