#include "worker/evaluate.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/report_items.h"

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_divide(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Rows of validation shard `shard` come into the batch. */
static void take_rows(struct training *t, int64_t shard)
{
    const int64_t micro_batch = t->setup.spec->train.micro_batch;
    const int64_t first = shard * micro_batch;
    t->batch.sequences = smaller(micro_batch, t->valid_sequences - first);
    dataset_rows_at(t->valid, first, &t->batch);
}

/* Masked positions are the same at every evaluation: where there are none, it is better known now than after hours. */
static bool predicts(struct training *t)
{
    for (int64_t shard = 0; shard < t->valid_shards; shard++) {
        take_rows(t, shard);
        for (int64_t i = 0; i < t->batch.sequences * t->batch.length; i++)
            if (t->batch.targets[i] >= 0) return true;
    }
    return false;
}

/* The shape of a layer's attention, on a whole micro-shard. */
static struct attention measured_attention(const struct jobspec *spec)
{
    const int64_t head_dim = jobspec_head_dim(spec);
    return (struct attention){
        .kind = spec->attention.kind,
        .kernel = spec->attention.kernel,
        .batch = spec->train.micro_batch,
        .heads = spec->model.heads,
        .length = spec->data.length,
        .head_dim = head_dim,
        .value_dim = head_dim,
        .features = spec->attention.features,
    };
}

static enum status prepare_measurement(struct training *t, struct fault *fault)
{
    if (!approximation_measurable(t->setup.spec->attention.kind)) return ST_OK;
    const struct attention attention = measured_attention(t->setup.spec);
    const size_t layers = (size_t)t->params->layers;
    const size_t ranks = (size_t)collective_ranks(t->setup.collective);

    t->approximations = calloc(layers, sizeof *t->approximations);
    t->approximations_all = calloc(ranks * layers, sizeof *t->approximations_all);
    t->approximation_work =
        calloc(1, approximation_work_bytes(&attention, team_threads(t->stream.team)));
    if (t->approximations && t->approximations_all && t->approximation_work) return ST_OK;
    return fault_set(fault, ST_NO_MEMORY,
                     "no memory to measure features: a smaller [attention] takes less");
}

enum status evaluate_prepare(struct training *t, struct fault *fault)
{
    if (!t->valid) return ST_OK;
    const struct jobspec *spec = t->setup.spec;
    const int ranks = collective_ranks(t->setup.collective);

    t->valid_sequences =
        smaller(spec->evaluate.batches * spec->train.batch, dataset_rows(t->valid));
    t->valid_shards = ceil_divide(t->valid_sequences, spec->train.micro_batch);
    t->valid_shards_rank = ceil_divide(t->valid_shards, ranks);
    t->valid_mine = calloc((size_t)t->valid_shards_rank, sizeof *t->valid_mine);
    t->valid_all = calloc((size_t)(t->valid_shards_rank * ranks), sizeof *t->valid_all);
    t->valid_losses = calloc((size_t)t->valid_shards, sizeof *t->valid_losses);
    if (!t->valid_mine || !t->valid_all || !t->valid_losses)
        return fault_set(fault, ST_NO_MEMORY, "no memory for evaluations: lower evaluate.batches");
    if (predicts(t)) return prepare_measurement(t, fault);
    return fault_set(fault, ST_BAD_DATA,
                     "the validation rows hold no token to predict; they are too few or too short");
}

static void measure_layer(void *context, int64_t layer, const struct attention *attention)
{
    struct training *t = context;
    approximation_measure(attention, (uint64_t)t->setup.spec->job.seed, (uint32_t)layer,
                          t->stream.team, t->approximation_work, &t->approximations[layer]);
}

/* Features are measured on the first shard, which is rank 0's. */
static enum status run_shard(struct training *t, int64_t shard, struct shard_sums *sums)
{
    const bool measured = t->approximations && shard == 0;
    const struct performer_pass pass = {
        .training = false, .attended = measured ? measure_layer : NULL, .context = t};
    struct loss loss;

    take_rows(t, shard);
    enum status status = performer_forward(t->model, &t->stream, t->weights, &t->batch, &pass);
    if (status == ST_OK) status = performer_loss(t->model, &t->stream, &t->batch, false, &loss);
    if (status != ST_OK) return status;
    *sums = (struct shard_sums){loss.sum, loss.counted, loss.correct};
    return ST_OK;
}

static void tell(struct training *t, double loss, double accuracy)
{
    if (collective_rank(t->setup.collective) != 0) return;
    struct uplink *uplink = t->setup.uplink;
    uplink_metric(uplink, t->state.step, "valid_loss", loss);
    uplink_metric(uplink, t->state.step, "valid_accuracy", accuracy);
    if (!t->entropy_told)
        uplink_metric(uplink, t->state.step, "unigram_entropy", dataset_entropy(t->valid));
    t->entropy_told = true;
}

static void tell_layer(struct training *t, const char *name, int64_t layer, double value)
{
    char full[METRIC_NAME_MAX];
    snprintf(full, sizeof full, "%s.%" PRId64, name, layer);
    uplink_metric(t->setup.uplink, t->state.step, full, value);
}

static void tell_approximations(struct training *t)
{
    if (!t->approximations || collective_rank(t->setup.collective) != 0) return;
    const struct jobspec *spec = t->setup.spec;
    const bool has_exact =
        attention_estimates_softmax(spec->attention.kind, spec->attention.kernel);

    for (int64_t layer = 0; layer < t->params->layers; layer++) {
        const struct approximation *of = &t->approximations[layer];
        if (has_exact) tell_layer(t, "kernel_error", layer, of->error);
        tell_layer(t, "denominator_min", layer, of->denominator_min);
        tell_layer(t, "saturated", layer, of->saturated);
        if (jobspec_has_projection(spec)) tell_layer(t, "orthogonality", layer, of->orthogonality);
    }
}

/* What rank 0 has measured, to all: they decide by it alike. */
static enum status share_approximations(struct training *t, struct fault *fault)
{
    if (!t->approximations) return ST_OK;
    const size_t bytes = (size_t)t->params->layers * sizeof *t->approximations;
    enum status status = collective_gather(t->setup.collective, t->approximations, bytes,
                                           t->approximations_all, fault);
    if (status == ST_OK) memcpy(t->approximations, t->approximations_all, bytes);
    return status;
}

double evaluate_largest_error(const struct training *t, int64_t *layer)
{
    int64_t worst = 0;
    for (int64_t i = 1; i < t->params->layers && !isnan(t->approximations[worst].error); i++)
        if (!(t->approximations[i].error <= t->approximations[worst].error)) worst = i;
    *layer = worst;
    return t->approximations[worst].error;
}

enum status evaluate_run(struct training *t, double *valid_loss, struct fault *fault)
{
    const int64_t begin = collective_rank(t->setup.collective) * t->valid_shards_rank;
    const int64_t end = smaller(begin + t->valid_shards_rank, t->valid_shards);

    for (int64_t shard = begin; shard < end; shard++) {
        training_phase(t, t->state.step, PHASE_EVALUATE);
        enum status status = run_shard(t, shard, &t->valid_mine[shard - begin]);
        if (status != ST_OK) {
            backend_fault(t->setup.backend, status, fault);
            return fault_wrap(fault, "the evaluation after step %" PRIu64, t->state.step);
        }
    }
    training_phase(t, t->state.step, PHASE_REDUCE);
    enum status status = collective_gather(t->setup.collective, t->valid_mine,
                                           (size_t)t->valid_shards_rank * sizeof *t->valid_mine,
                                           t->valid_all, fault);
    if (status == ST_OK) status = share_approximations(t, fault);
    if (status != ST_OK) return status;

    int64_t counted = 0, correct = 0;
    for (int64_t shard = 0; shard < t->valid_shards; shard++) {
        t->valid_losses[shard] = t->valid_all[shard].loss;
        counted += t->valid_all[shard].counted;
        correct += t->valid_all[shard].correct;
    }
    assert(counted > 0);
    double loss = tree_sum(t->valid_losses, t->valid_shards) / (double)counted;
    tell(t, loss, (double)correct / (double)counted);
    tell_approximations(t);
    *valid_loss = loss;
    return ST_OK;
}
