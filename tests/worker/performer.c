/*
 * The whole model: its logits against a float64 implementation, its gradient against differences of its own
 * loss, and when buckets are complete. With the reference and with the cpu backend.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "kernels/projection.h"
#include "proto/cost.h"
#include "proto/durable.h"
#include "tests/worker/small_job.h"
#include "worker/performer.h"

enum { BUCKETS_MAX = 8, TENSOR_MAX = 2048 };

/* A model with all that a pass needs. */
struct bench {
    struct jobspec spec;
    const struct backend *backend;
    struct params *params;
    struct performer *model;
    struct stream stream;
    struct batch batch;
    float *weights, *gradient;
    struct performer_pass pass;
};

static void bench_open(struct bench *bench, const char *backend)
{
    struct fault fault;
    bench->backend = backend_find(backend);
    cr_assert(team_new(1, &bench->stream.team) == ST_OK);
    cr_assert(params_new(&bench->spec, &bench->params) == ST_OK);
    cr_assert(performer_new(&bench->spec, bench->params, bench->backend, 1, &bench->model,
                            &fault) == ST_OK,
              "%s", fault.text);
    bench->stream.scratch_bytes = (performer_scratch_bytes(bench->model) + 64) / 64 * 64;
    bench->stream.scratch = aligned_alloc(64, bench->stream.scratch_bytes);
    bench->weights = calloc((size_t)bench->params->floats, sizeof(float));
    bench->gradient = calloc((size_t)bench->params->floats, sizeof(float));

    int64_t sequences = bench->spec.train.micro_batch, length = bench->spec.data.length;
    size_t tokens = (size_t)(sequences * length);
    bench->batch = (struct batch){.sequences = sequences, .length = length};
    bench->batch.ids = calloc(tokens, sizeof(int32_t));
    bench->batch.targets = calloc(tokens, sizeof(int32_t));
    bench->batch.key_mask = calloc(tokens, 1);
    memset(bench->batch.key_mask, 1, tokens);
    bench->pass = (struct performer_pass){.training = true, .step = 5, .first_sequence = 8};
}

static void bench_close(struct bench *bench)
{
    free(bench->batch.key_mask);
    free(bench->batch.targets);
    free(bench->batch.ids);
    free(bench->gradient);
    free(bench->weights);
    free(bench->stream.scratch);
    performer_free(bench->model);
    params_free(bench->params);
    team_free(bench->stream.team);
    jobspec_free(&bench->spec);
}

static double loss_of(struct bench *bench, bool backward)
{
    struct loss loss;
    cr_assert(performer_forward(bench->model, &bench->stream, bench->weights, &bench->batch,
                                &bench->pass) == ST_OK);
    cr_assert(performer_loss(bench->model, &bench->stream, &bench->batch, backward, &loss) ==
              ST_OK);
    return loss.sum;
}

/* Weights large enough that every tensor matters, tokens and a mask of all kinds. */
static void fill(struct bench *bench)
{
    struct params *params = bench->params;
    params_initialize(params, 3, bench->weights);
    for (size_t i = 0; i < params->count; i++) {
        const struct parameter *parameter = &params->list[i];
        float noise[TENSOR_MAX];
        cr_assert(parameter->count <= TENSOR_MAX);
        gaussian_fill(11, PURPOSE_WEIGHTS, (uint32_t)i, parameter->count, 0.3, noise);
        for (int64_t j = 0; j < parameter->count; j++)
            bench->weights[parameter->offset + j] += noise[j];
    }
    performer_redraw(bench->model, 2);
    for (int64_t i = 0; i < bench->batch.sequences * bench->batch.length; i++) {
        bench->batch.ids[i] = (int32_t)(i * 7 % 11);
        bench->batch.targets[i] = i % 5 == 4 ? -1 : (int32_t)(i * 3 % 11);
    }
}

/* The derivative of the loss along `direction`, of fourth order in the step. */
static double difference(struct bench *bench, const struct parameter *at, const double *direction)
{
    static const double weights[4] = {1.0 / 12, -8.0 / 12, 8.0 / 12, -1.0 / 12};
    static const int places[4] = {-2, -1, 1, 2};
    const double h = 1e-2;
    float *w = bench->weights + at->offset;
    float kept[512];
    double sum = 0.0;

    memcpy(kept, w, (size_t)at->count * sizeof *w);
    for (int point = 0; point < 4; point++) {
        for (int64_t i = 0; i < at->count; i++)
            w[i] = (float)((double)kept[i] + places[point] * h * direction[i]);
        sum += weights[point] * loss_of(bench, false);
    }
    memcpy(w, kept, (size_t)at->count * sizeof *w);
    return sum / h;
}

static double norm_of(const float *x, int64_t count)
{
    double squares = 0.0;
    for (int64_t i = 0; i < count; i++) squares += (double)x[i] * x[i];
    return sqrt(squares);
}

/* Along the gradient itself, which finds a wrong length or direction, and along a random one. */
static void compare_tensor(struct bench *bench, const struct parameter *at, double tolerance)
{
    const float *gradient = bench->gradient + at->offset;
    const double norm = norm_of(gradient, at->count);
    float random[512];
    double direction[512], along = 0.0;

    if (norm > 0.0) {
        for (int64_t i = 0; i < at->count; i++) direction[i] = gradient[i] / norm;
        double difference_along = difference(bench, at, direction);
        cr_expect(fabs(difference_along - norm) <= tolerance * norm + 1e-3,
                  "%s: |gradient| %g, difference %g", at->name, norm, difference_along);
    }
    gaussian_fill(23, PURPOSE_WEIGHTS, 0, at->count, 1.0, random);
    double length = norm_of(random, at->count);
    for (int64_t i = 0; i < at->count; i++) {
        direction[i] = random[i] / length;
        along += direction[i] * gradient[i];
    }
    double difference_random = difference(bench, at, direction);
    cr_expect(fabs(difference_random - along) <= tolerance * norm + 1e-3,
              "%s: gradient %g, difference %g", at->name, along, difference_random);
}

struct difference_case {
    char backend[16];
    enum attention_kind attention;
    bool causal, masked;
    double dropout;
    enum positions positions;
};

ParameterizedTestParameters(performer, gradient_is_the_difference_of_the_loss)
{
    static struct difference_case cases[] = {
        {"reference", ATTENTION_FAVOR, true, false, 0.0, POSITIONS_LEARNED},
        {"reference", ATTENTION_FAVOR, false, true, 0.2, POSITIONS_LEARNED},
        {"reference", ATTENTION_SOFTMAX, true, false, 0.2, POSITIONS_LEARNED},
        {"reference", ATTENTION_SOFTMAX, false, true, 0.0, POSITIONS_LEARNED},
        {"reference", ATTENTION_IDENTITY, true, false, 0.2, POSITIONS_LEARNED},
        {"cpu", ATTENTION_FAVOR, true, false, 0.2, POSITIONS_LEARNED},
        {"cpu", ATTENTION_FAVOR, false, true, 0.0, POSITIONS_LEARNED},
        {"cpu", ATTENTION_SOFTMAX, true, false, 0.2, POSITIONS_LEARNED},
        {"reference", ATTENTION_LINFORMER, false, true, 0.0, POSITIONS_LEARNED},
        {"cpu", ATTENTION_LINFORMER, false, false, 0.2, POSITIONS_LEARNED},
        {"cpu", ATTENTION_LINFORMER, false, true, 0.0, POSITIONS_LEARNED},
        {"reference", ATTENTION_REFORMER, true, false, 0.2, POSITIONS_LEARNED},
        {"cpu", ATTENTION_REFORMER, true, false, 0.0, POSITIONS_LEARNED},
        {"cpu", ATTENTION_REFORMER, false, true, 0.2, POSITIONS_LEARNED},
        {"reference", ATTENTION_FAVOR, true, false, 0.2, POSITIONS_SINUSOIDAL},
        {"cpu", ATTENTION_SOFTMAX, false, true, 0.0, POSITIONS_SINUSOIDAL},
        {"reference", ATTENTION_SOFTMAX, true, false, 0.2, POSITIONS_ROTARY},
        {"cpu", ATTENTION_FAVOR, true, false, 0.2, POSITIONS_ROTARY},
        {"cpu", ATTENTION_SOFTMAX, false, true, 0.0, POSITIONS_ROTARY},
        {"cpu", ATTENTION_LINFORMER, false, false, 0.0, POSITIONS_ROTARY},
        {"cpu", ATTENTION_REFORMER, true, false, 0.0, POSITIONS_ROTARY},
    };
    return cr_make_param_array(struct difference_case, cases, sizeof cases / sizeof cases[0]);
}

ParameterizedTest(struct difference_case *test, performer, gradient_is_the_difference_of_the_loss)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench.spec.attention.kind = test->attention;
    bench.spec.model.causal = test->causal;
    bench.spec.model.dropout = test->dropout;
    bench.spec.model.positions = test->positions;
    bench.spec.data.packing = test->masked ? PACKING_PAD : PACKING_CONCAT;
    bench_open(&bench, test->backend);
    fill(&bench);
    if (test->masked) bench.batch.key_mask[4] = bench.batch.key_mask[5] = 0;
    /* One bucket for all: a position that changed its bucket would make the loss jump. */
    if (test->attention == ATTENTION_REFORMER)
        memset(performer_projections(bench.model), 0,
               (size_t)(bench.params->layers * bench.params->projection_floats) * sizeof(float));

    loss_of(&bench, true);
    cr_assert(performer_backward(bench.model, &bench.stream, bench.weights, &bench.batch,
                                 bench.gradient, NULL) == ST_OK);
    for (size_t i = 0; i < bench.params->count; i++)
        compare_tensor(&bench, &bench.params->list[i], 2e-3);
    bench_close(&bench);
}

struct recompute_case {
    char backend[16];
    enum attention_kind attention;
    bool causal;
    double dropout;
    enum positions positions;
};

ParameterizedTestParameters(performer, recomputed_layers_give_the_same_bits)
{
    static struct recompute_case cases[] = {
        {"reference", ATTENTION_FAVOR, true, 0.2, POSITIONS_LEARNED},
        {"cpu", ATTENTION_FAVOR, true, 0.2, POSITIONS_ROTARY},
        {"cpu", ATTENTION_FAVOR, false, 0.0, POSITIONS_LEARNED},
        {"cpu", ATTENTION_SOFTMAX, true, 0.2, POSITIONS_SINUSOIDAL},
        {"cpu", ATTENTION_LINFORMER, false, 0.2, POSITIONS_LEARNED},
        {"cpu", ATTENTION_REFORMER, true, 0.2, POSITIONS_ROTARY},
        {"cpu", ATTENTION_IDENTITY, true, 0.2, POSITIONS_LEARNED},
    };
    return cr_make_param_array(struct recompute_case, cases, sizeof cases / sizeof cases[0]);
}

/* The gradient of three layers, the caller's; the activations of the model that made it. */
static float *gradient_of(const struct recompute_case *test, enum recompute recompute,
                          size_t *floats, size_t *activation_bytes)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench.spec.model.layers = 3;
    bench.spec.model.causal = test->causal;
    bench.spec.model.dropout = test->dropout;
    bench.spec.model.positions = test->positions;
    bench.spec.attention.kind = test->attention;
    bench.spec.train.recompute = recompute;
    bench_open(&bench, test->backend);
    fill(&bench);
    loss_of(&bench, true);
    cr_assert(performer_backward(bench.model, &bench.stream, bench.weights, &bench.batch,
                                 bench.gradient, NULL) == ST_OK);
    float *gradient = bench.gradient;
    *floats = (size_t)bench.params->floats;
    *activation_bytes =
        performer_activation_bytes(bench.model) + performer_saved_bytes(bench.model);
    bench.gradient = NULL;
    bench_close(&bench);
    return gradient;
}

ParameterizedTest(struct recompute_case *test, performer, recomputed_layers_give_the_same_bits)
{
    size_t floats, kept_bytes, recomputed_bytes;
    float *kept = gradient_of(test, RECOMPUTE_NONE, &floats, &kept_bytes);
    float *recomputed = gradient_of(test, RECOMPUTE_LAYER, &floats, &recomputed_bytes);
    cr_expect(memcmp(kept, recomputed, floats * sizeof *kept) == 0);
    cr_expect(recomputed_bytes < kept_bytes);
    free(recomputed);
    free(kept);
}

/* What the hook saw when it was told that a bucket is complete. */
struct watch {
    struct bench *bench;
    int buckets[BUCKETS_MAX];
    int count, operations;
    float *seen;
};

static void bucket_done(void *context, int bucket)
{
    struct watch *watch = context;
    const struct bucket *at = &watch->bench->params->bucket[bucket];
    watch->buckets[watch->count++] = bucket;
    memcpy(watch->seen + at->offset, watch->bench->gradient + at->offset,
           (size_t)at->count * sizeof(float));
}

static void between(void *context)
{
    struct watch *watch = context;
    watch->operations++;
}

Test(performer, buckets_are_complete_when_they_are_called_so)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench_open(&bench, "reference");
    fill(&bench);
    struct watch watch = {.bench = &bench};
    watch.seen = calloc((size_t)bench.params->floats, sizeof(float));
    struct performer_hooks hooks = {&watch, between, bucket_done};

    loss_of(&bench, true);
    cr_assert(performer_backward(bench.model, &bench.stream, bench.weights, &bench.batch,
                                 bench.gradient, &hooks) == ST_OK);
    cr_expect(watch.count == 4);
    for (int i = 0; i < 4; i++) cr_expect(watch.buckets[i] == 3 - i);
    cr_expect(memcmp(watch.seen, bench.gradient, (size_t)bench.params->floats * sizeof(float)) ==
              0);
    cr_expect(watch.operations > 2 * 7);
    free(watch.seen);
    bench_close(&bench);
}

Test(performer, a_smaller_shard_gives_what_it_gives_in_a_whole_one)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench_open(&bench, "cpu");
    fill(&bench);
    bench.pass.training = false;
    loss_of(&bench, false);
    float whole[6 * 11];
    memcpy(whole, performer_logits(bench.model), sizeof whole);
    bench.batch.sequences = 1;
    loss_of(&bench, false);
    const float *alone = performer_logits(bench.model);
    for (int i = 0; i < 6 * 11; i++) cr_expect(fabsf(alone[i] - whole[i]) < 1e-5F);
    bench_close(&bench);
}

Test(performer, padding_is_no_key)
{
    for (int padded = 0; padded <= 1; padded++) {
        struct bench bench = {0};
        small_job(&bench.spec);
        bench.spec.model.causal = false;
        bench.spec.data.packing = padded ? PACKING_PAD : PACKING_CONCAT;
        bench_open(&bench, "cpu");
        fill(&bench);
        bench.batch.key_mask[5] = 0;
        loss_of(&bench, false);
        float before = performer_logits(bench.model)[0];
        bench.batch.ids[5] = (bench.batch.ids[5] + 1) % 11;
        loss_of(&bench, false);
        cr_expect((performer_logits(bench.model)[0] == before) == padded, "packing %d", padded);
        bench_close(&bench);
    }
}

/* Largest difference of the logits of rows `from` ... `from + rows` - 1, relative to the largest of all of them. */
static double logits_moved(const float *before, const float *after, int64_t from, int64_t rows)
{
    double moved = 0.0, largest = 0.0;
    for (int64_t i = from * 11; i < (from + rows) * 11; i++) {
        moved = fmax(moved, fabs((double)before[i] - after[i]));
        largest = fmax(largest, fabs((double)before[i]));
    }
    return moved / largest;
}

/* Of what the first of two sequences predicts, only from the changed token on. */
static void later_tokens_are_not_seen(struct bench *bench, const char *name)
{
    static const int64_t changed[] = {1, 32, 63, 64, 127, 128, 149};
    const int64_t length = bench->spec.data.length;
    static float before[2 * 150 * 11];
    loss_of(bench, false);
    memcpy(before, performer_logits(bench->model), sizeof before);
    for (size_t i = 0; i < sizeof changed / sizeof changed[0]; i++) {
        int32_t *id = &bench->batch.ids[changed[i]];
        const int32_t kept = *id;
        *id = (kept + 1) % 11;
        loss_of(bench, false);
        const float *after = performer_logits(bench->model);
        const double earlier = logits_moved(before, after, 0, changed[i]);
        cr_expect(earlier < 1e-6, "%s: token %d moves earlier logits by %g", name, (int)changed[i],
                  earlier);
        cr_expect(logits_moved(before, after, length, length) == 0, "%s: the other sequence", name);
        cr_expect(logits_moved(before, after, changed[i], 1) > 1e-3, "%s: the token itself", name);
        *id = kept;
    }
}

static void causal_model_holds(const char *backend, enum attention_kind kind,
                               enum attention_kernel kernel)
{
    for (int bf16 = 0; bf16 <= 1; bf16++) {
        struct bench bench = {0};
        char name[100];
        small_job(&bench.spec);
        bench.spec.data.length = 150;
        bench.spec.attention.kind = kind;
        bench.spec.attention.kernel = kernel;
        bench.spec.train.precision = bf16 ? PRECISION_BF16 : PRECISION_FP32;
        snprintf(name, sizeof name, "%s %s %s %s", backend, attention_kind_text(kind),
                 attention_kernel_text(kernel), precision_text(bench.spec.train.precision));
        bench_open(&bench, backend);
        fill(&bench);
        /* Smaller weights: with those trig divides by next to nothing, which shows any rounding. */
        params_initialize(bench.params, 3, bench.weights);
        later_tokens_are_not_seen(&bench, name);
        bench_close(&bench);
    }
}

Test(performer, later_tokens_do_not_change_earlier_predictions)
{
#define KERNEL_CODE(enumerator, text, support) enumerator,
    static const enum attention_kernel kernels[] = {JOBSPEC_KERNEL(KERNEL_CODE)};
#undef KERNEL_CODE
    static const enum attention_kind kinds[] = {ATTENTION_SOFTMAX, ATTENTION_REFORMER,
                                                ATTENTION_IDENTITY};
    static const char *const backends[] = {"reference", "cpu"};
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < sizeof kernels / sizeof kernels[0]; k++)
            causal_model_holds(backends[i], ATTENTION_FAVOR, kernels[k]);
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
            causal_model_holds(backends[i], kinds[k], KERNEL_SOFTMAX_POSITIVE);
    }
}

/* Logits of four tokens, in the order given, that stand at `first` and behind it; the other two places are padding. */
static void logits_of_four(struct bench *bench, int first, const int32_t ids[4], float out[4 * 11])
{
    for (int i = 0; i < 6; i++) {
        bench->batch.key_mask[i] = i >= first && i < first + 4;
        if (bench->batch.key_mask[i]) bench->batch.ids[i] = ids[i - first];
    }
    loss_of(bench, false);
    memcpy(out, performer_logits(bench->model) + first * 11, 4 * 11 * sizeof *out);
}

static double apart(const float *a, const float *b, int count)
{
    double largest = 0.0;
    for (int i = 0; i < count; i++) largest = fmax(largest, fabs((double)a[i] - b[i]));
    return largest;
}

/*
 * What a model knows of places, by the logits of its last token. Without positions: nothing, not even the order. Rotary:
 * distances, so a sequence may stand anywhere. Sinusoidal and learned: where each token stands.
 */
Test(performer, positions_tell_what_they_should)
{
    static const struct {
        enum positions positions;
        bool order, place;
    } cases[] = {{POSITIONS_NONE, false, false},
                 {POSITIONS_ROTARY, true, false},
                 {POSITIONS_SINUSOIDAL, true, true},
                 {POSITIONS_LEARNED, true, true}};
    for (int i = 0; i < 8; i++) {
        struct bench bench = {0};
        float begin[4 * 11], moved[4 * 11], swapped[4 * 11];
        small_job(&bench.spec);
        bench.spec.model.positions = cases[i / 2].positions;
        bench.spec.model.causal = false;
        bench.spec.data.packing = PACKING_PAD;
        bench.spec.attention.kind = i % 2 ? ATTENTION_FAVOR : ATTENTION_SOFTMAX;
        bench_open(&bench, "cpu");
        fill(&bench);
        logits_of_four(&bench, 0, (const int32_t[]){3, 9, 1, 7}, begin);
        logits_of_four(&bench, 2, (const int32_t[]){3, 9, 1, 7}, moved);
        logits_of_four(&bench, 0, (const int32_t[]){9, 3, 1, 7}, swapped);
        const double order = apart(begin + 33, swapped + 33, 11), place = apart(begin, moved, 44);
        cr_expect(cases[i / 2].order == (order > 1e-4), "positions %d, order: %g", i / 2, order);
        cr_expect(cases[i / 2].place || i % 2 || place < 2e-5, "positions %d: %g", i / 2, place);
        cr_expect(!cases[i / 2].place || place > 1e-4, "positions %d, place: %g", i / 2, place);
        bench_close(&bench);
    }
}

struct padding_case {
    char backend[16];
    enum attention_kind attention;
    enum attention_kernel kernel;
    bool causal;
    enum positions positions;
};

ParameterizedTestParameters(performer, padding_that_is_cut_off_changes_nothing)
{
    static struct padding_case cases[] = {
        {"reference", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, true, POSITIONS_LEARNED},
        {"reference", ATTENTION_LINFORMER, 0, false, POSITIONS_LEARNED},
        {"cpu", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, true, POSITIONS_LEARNED},
        {"cpu", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, false, POSITIONS_ROTARY},
        {"cpu", ATTENTION_FAVOR, KERNEL_RELU, true, POSITIONS_SINUSOIDAL},
        {"cpu", ATTENTION_FAVOR, KERNEL_SOFTMAX_TRIG, false, POSITIONS_LEARNED},
        {"cpu", ATTENTION_SOFTMAX, 0, true, POSITIONS_LEARNED},
        {"cpu", ATTENTION_SOFTMAX, 0, false, POSITIONS_ROTARY},
        {"cpu", ATTENTION_LINFORMER, 0, false, POSITIONS_LEARNED},
        {"cpu", ATTENTION_REFORMER, 0, true, POSITIONS_LEARNED},
        {"cpu", ATTENTION_REFORMER, 0, false, POSITIONS_ROTARY},
        {"cpu", ATTENTION_IDENTITY, 0, true, POSITIONS_LEARNED},
    };
    return cr_make_param_array(struct padding_case, cases, sizeof cases / sizeof cases[0]);
}

/* Two rows, of 40 and 64 tokens, in places for `length`. */
static void fill_padded(struct bench *bench, int64_t length)
{
    bench->batch.length = length;
    for (int64_t i = 0; i < 2 * length; i++) {
        const int64_t row = i / length, l = i % length;
        const bool padding = l >= (row ? 64 : 40);
        bench->batch.ids[i] = padding ? 10 : (int32_t)((row * 5 + l * 7) % 11);
        bench->batch.targets[i] = padding ? -1 : (int32_t)((row + l * 3) % 11);
        bench->batch.key_mask[i] = !padding;
    }
}

static double loss_and_gradient(struct bench *bench)
{
    const double loss = loss_of(bench, true);
    memset(bench->gradient, 0xff, (size_t)bench->params->floats * sizeof(float));
    cr_assert(performer_backward(bench->model, &bench->stream, bench->weights, &bench->batch,
                                 bench->gradient, NULL) == ST_OK);
    return loss;
}

/* Rows of 64 in a model for 200: computed at 64 and at 200. */
ParameterizedTest(struct padding_case *test, performer, padding_that_is_cut_off_changes_nothing)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench.spec.data.length = 200;
    bench.spec.data.packing = PACKING_PAD;
    bench.spec.model.dropout = 0.1;
    bench.spec.model.causal = test->causal;
    bench.spec.model.positions = test->positions;
    bench.spec.attention.kind = test->attention;
    bench.spec.attention.kernel = test->kernel;
    bench_open(&bench, test->backend);
    fill(&bench);
    const size_t floats = (size_t)bench.params->floats;

    fill_padded(&bench, 200);
    const double whole_loss = loss_and_gradient(&bench);
    float *whole = bench.gradient;
    bench.gradient = calloc(floats, sizeof(float));
    fill_padded(&bench, 64);
    const double cut_loss = loss_and_gradient(&bench);

    double difference = 0.0;
    for (size_t i = 0; i < floats; i++) difference += pow((double)bench.gradient[i] - whole[i], 2);
    const double apart_by = sqrt(difference) / norm_of(whole, (int64_t)floats);
    cr_expect(fabs(cut_loss - whole_loss) <= 1e-6 * whole_loss, "%.9g, %.9g", cut_loss, whole_loss);
    cr_expect(apart_by <= 1e-6, "gradients: %g", apart_by);
    free(whole);
    bench_close(&bench);
}

struct precision_case {
    char backend[16];
    enum attention_kind attention;
    double scale; /* of the weights */
};

ParameterizedTestParameters(performer, gradients_in_bf16_are_near_those_in_fp32)
{
    static struct precision_case cases[] = {
        {"reference", ATTENTION_FAVOR, 1},  {"reference", ATTENTION_SOFTMAX, 1},
        {"cpu", ATTENTION_IDENTITY, 1},     {"reference", ATTENTION_FAVOR, 3},
        {"reference", ATTENTION_FAVOR, 10}, {"cpu", ATTENTION_IDENTITY, 10},
        {"cpu", ATTENTION_FAVOR, 1},        {"cpu", ATTENTION_FAVOR, 10},
        {"cpu", ATTENTION_SOFTMAX, 1},      {"cpu", ATTENTION_SOFTMAX, 10},
        {"cpu", ATTENTION_LINFORMER, 1},    {"cpu", ATTENTION_LINFORMER, 10},
        {"cpu", ATTENTION_REFORMER, 3},     {"cpu", ATTENTION_REFORMER, 10},
    };
    return cr_make_param_array(struct precision_case, cases, sizeof cases / sizeof cases[0]);
}

/* The caller's, and its size. */
static float *gradient_in(const struct precision_case *test, enum precision precision,
                          int64_t *floats)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench.spec.attention.kind = test->attention;
    bench.spec.model.causal = test->attention != ATTENTION_LINFORMER;
    bench.spec.train.precision = precision;
    bench_open(&bench, test->backend);
    fill(&bench);
    for (int64_t i = 0; i < bench.params->floats; i++) bench.weights[i] *= (float)test->scale;
    cr_expect(isfinite(loss_and_gradient(&bench)));
    float *gradient = bench.gradient;
    *floats = bench.params->floats;
    bench.gradient = NULL;
    bench_close(&bench);
    return gradient;
}

/* Each of a dozen products in a row is off by up to 2^-8 of its terms. Where weights are large, softmax and stabiliser
 * stand on edges and rounding takes them over: there it is enough that all is finite. */
ParameterizedTest(struct precision_case *test, performer, gradients_in_bf16_are_near_those_in_fp32)
{
    int64_t floats;
    float *exact = gradient_in(test, PRECISION_FP32, &floats);
    float *ours = gradient_in(test, PRECISION_BF16, &floats);
    const double norm = norm_of(exact, floats);

    for (int64_t i = 0; i < floats; i++) {
        cr_assert(isfinite(ours[i]));
        ours[i] -= exact[i];
    }
    const double error = norm_of(ours, floats) / norm;
    cr_expect(error > 1e-5, "bf16 is fp32: %g", error);
    if (test->scale == 1) cr_expect(error <= 12 * 0x1p-8, "off by %g", error);
    free(ours);
    free(exact);
}

Test(performer, dropout_depends_on_the_step_and_the_sequence)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench.spec.model.dropout = 0.2;
    bench_open(&bench, "cpu");
    fill(&bench);
    double here = loss_of(&bench, false);
    cr_expect(loss_of(&bench, false) == here);
    bench.pass.step++;
    cr_expect(loss_of(&bench, false) != here);
    bench.pass.step--;
    bench.pass.first_sequence++;
    cr_expect(loss_of(&bench, false) != here);
    bench.pass.training = false;
    double kept = loss_of(&bench, false);
    bench.pass.step++;
    cr_expect(loss_of(&bench, false) == kept, "an evaluation drops nothing");
    bench_close(&bench);
}

Test(performer, a_redraw_changes_every_layer_and_nothing_else_decides_it)
{
    struct bench bench = {0};
    small_job(&bench.spec);
    bench_open(&bench, "cpu");
    performer_redraw(bench.model, 0);
    uint64_t first = performer_projections_hash(bench.model);
    float kept[40];
    memcpy(kept, performer_projections(bench.model), sizeof kept);
    performer_redraw(bench.model, 1);
    cr_expect(performer_projections_hash(bench.model) != first);
    cr_expect(performer_projections(bench.model)[0] != kept[0]);
    cr_expect(performer_projections(bench.model)[20] != kept[20]);
    performer_redraw(bench.model, 0);
    cr_expect(performer_projections_hash(bench.model) == first);
    bench_close(&bench);
}

static double variance_of(const float *x, int64_t count)
{
    double squares = 0.0;
    for (int64_t i = 0; i < count; i++) squares += (double)x[i] * x[i];
    return squares / (double)count;
}

/* E and F of variance 1 / r, R of variance 1; each a function of (seed, layer, draw), all different. */
Test(performer, linformer_and_reformer_are_drawn_and_redrawn)
{
    static const enum attention_kind kinds[] = {ATTENTION_LINFORMER, ATTENTION_REFORMER};
    for (int i = 0; i < 2; i++) {
        struct bench bench = {0};
        small_job(&bench.spec);
        bench.spec.attention.kind = kinds[i];
        bench.spec.model.causal = false;
        bench.spec.data.length = 600;
        bench.spec.attention.buckets = 600;
        bench_open(&bench, "cpu");
        const int64_t floats = bench.params->projection_floats;
        const float *drawn = performer_projections(bench.model);
        cr_expect(floats == (i == 0 ? 2 * 4 * 600 : 2 * 4 * 300));
        performer_redraw(bench.model, 0);
        const uint64_t first = performer_projections_hash(bench.model);
        for (int64_t part = 0; part < 4; part++) { /* E, F or halves of R, of two layers */
            const float *at = drawn + part * (floats / 2);
            const double wanted = i == 0 ? 0.25 : 1.0;
            cr_expect(fabs(variance_of(at, floats / 2) / wanted - 1) < 0.2);
            cr_expect(part == 0 || at[0] != drawn[0]);
        }
        performer_redraw(bench.model, 1);
        cr_expect(performer_projections_hash(bench.model) != first);
        performer_redraw(bench.model, 0);
        cr_expect(performer_projections_hash(bench.model) == first);
        bench_close(&bench);
    }
}

Test(performer, linformer_is_refused_where_it_would_be_causal)
{
    struct jobspec spec;
    struct params *params;
    struct performer *model = NULL;
    struct fault fault;
    small_job(&spec);
    spec.attention.kind = ATTENTION_LINFORMER;
    cr_assert(params_new(&spec, &params) == ST_OK);
    cr_expect(performer_new(&spec, params, backend_find("cpu"), 1, &model, &fault) ==
              ST_UNSUPPORTED);
    cr_expect(strstr(fault.text, "cannot be causal"), "%s", fault.text);
    params_free(params);
    jobspec_free(&spec);
}

Test(performer, its_memory_is_what_the_cost_says)
{
    for (int variant = 0; variant < 64; variant++) {
        struct bench bench = {0};
        struct cost cost;
        small_job(&bench.spec);
        bench.spec.attention.kind = variant & 4 ? ATTENTION_REFORMER : ATTENTION_FAVOR;
        bench.spec.model.positions = (enum positions)(variant >> 3 & 3);
        bench.spec.train.recompute = (enum recompute)(variant >> 5);
        bench.spec.model.dropout = variant & 1 ? 0.1 : 0.0;
        bench.spec.model.mlp = variant & 2 ? 100 : 12;
        bench_open(&bench, "cpu");
        cost_of(&bench.spec, &cost);
        cr_expect(cost.parameters == (uint64_t)bench.params->floats);
        cr_expect(cost.bytes_activations == performer_activation_bytes(bench.model));
        cr_expect(cost.bytes_weights ==
                  4 * (uint64_t)(bench.params->floats +
                                 bench.params->layers * bench.params->projection_floats) +
                      performer_positions_bytes(bench.model));
        bench_close(&bench);
    }
}

/* ---- against the float64 implementation ---- */

static void vector_path(char *path, size_t size, const char *model, const char *file)
{
    snprintf(path, size, "%s/%s/%s", MODEL_VECTORS, model, file);
}

struct logits_case {
    char model[40], backend[16];
    enum attention_kind attention;
    enum attention_kernel kernel;
    bool causal;
};

ParameterizedTestParameters(performer, logits)
{
    static struct logits_case cases[] = {
        {"identity", "reference", ATTENTION_IDENTITY, 0, true},
        {"identity", "cpu", ATTENTION_IDENTITY, 0, true},
        {"softmax-causal", "reference", ATTENTION_SOFTMAX, 0, true},
        {"softmax-causal", "cpu", ATTENTION_SOFTMAX, 0, true},
        {"favor-relu-causal", "reference", ATTENTION_FAVOR, KERNEL_RELU, true},
        {"favor-relu-causal", "cpu", ATTENTION_FAVOR, KERNEL_RELU, true},
        {"favor-softmax-causal", "reference", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, true},
        {"favor-softmax-causal", "cpu", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, true},
        {"favor-softmax-bidirectional", "reference", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE,
         false},
        {"favor-softmax-bidirectional", "cpu", ATTENTION_FAVOR, KERNEL_SOFTMAX_POSITIVE, false},
    };
    return cr_make_param_array(struct logits_case, cases, sizeof cases / sizeof cases[0]);
}

static void read_tokens(struct bench *bench, const char *model)
{
    char path[512], *bytes;
    size_t length;
    vector_path(path, sizeof path, model, "tokens.bin");
    cr_assert(file_read(path, 1 << 20, &bytes, &length, NULL) == ST_OK);
    const uint16_t *tokens = (const uint16_t *)bytes;
    for (int64_t row = 0; row < 4; row++)
        for (int64_t l = 0; l < 48; l++) bench->batch.ids[row * 48 + l] = tokens[row * 49 + l];
    free(bytes);
}

ParameterizedTest(struct logits_case *test, performer, logits)
{
    struct bench bench = {0};
    struct safetensors *initial, *expected;
    char path[512];
    bool found;
    struct fault fault;

    small_job(&bench.spec);
    bench.spec.data.vocab = 64;
    bench.spec.data.length = 48;
    bench.spec.model.width = 32;
    bench.spec.model.heads = 4;
    bench.spec.model.mlp = 64;
    bench.spec.model.causal = test->causal;
    bench.spec.attention.kind = test->attention;
    bench.spec.attention.kernel = test->kernel;
    bench.spec.attention.features = 32;
    bench.spec.attention.epsilon = test->kernel == KERNEL_RELU ? 1e-3 : 1e-6;
    bench.spec.train.micro_batch = 4;
    bench_open(&bench, test->backend);
    read_tokens(&bench, test->model);

    vector_path(path, sizeof path, test->model, "init.safetensors");
    cr_assert(safetensors_open(path, &initial, &fault) == ST_OK, "%s", fault.text);
    cr_assert(params_read(bench.params, initial, "", bench.weights, &fault) == ST_OK);
    cr_assert(params_read_projections(bench.params, initial, performer_projections(bench.model),
                                      &found, &fault) == ST_OK);
    cr_assert(found == (test->attention == ATTENTION_FAVOR));
    vector_path(path, sizeof path, test->model, "logits.safetensors");
    cr_assert(safetensors_open(path, &expected, &fault) == ST_OK);
    const struct tensor_entry *entry = safetensors_find(expected, "logits");
    cr_assert(entry && entry->bytes == 4 * 48 * 64 * sizeof(float));

    cr_assert(performer_forward(bench.model, &bench.stream, bench.weights, &bench.batch,
                                &bench.pass) == ST_OK);
    const float *ours = performer_logits(bench.model), *theirs = entry->data;
    double error = 0.0, size = 0.0;
    for (int i = 0; i < 4 * 48 * 64; i++) {
        error += pow((double)ours[i] - theirs[i], 2);
        size += pow(theirs[i], 2);
    }
    cr_expect(sqrt(error / size) < 2e-6, "relative error %g", sqrt(error / size));
    safetensors_close(expected);
    safetensors_close(initial);
    bench_close(&bench);
}
