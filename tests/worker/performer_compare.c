/*
 * The program performer-compare: errors of every layer and losses of both models against the whole model in double, written
 * out naively; what must hold of any such error; and clear words for what cannot be compared.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <jansson.h>

#include "kernels/philox.h"
#include "kernels/projection.h"
#include "proto/vocabulary.h"
#include "tests/kernels/naive.h"
#include "worker/checkpoint.h"
#include "worker/params.h"

enum { ROWS = 5, L = 12, LAYERS = 3, HEADS = 2, D = 8, M = 12, HEAD_DIM = 4, FEATURES = 16 };
enum { DRAWS = 3, LARGEST_FEATURES = 1024 };

/* Records of one row each: shorter than a row, as long as one, and cut. */
static const char *const lines[ROWS] = {"Performers", "scale", "linearly with length", "so do we",
                                        "of softmax"};

static char directory[64],
    words[8192]; /* what the program said on standard output, then on standard error */
static struct jobspec spec;
static struct params *params;
static float *weights;

static const char *path_in(const char *name)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(path_in(name), "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void write_job(void)
{
    char text[512] = "";
    for (int row = 0; row < ROWS; row++) strcat(strcat(text, lines[row]), "\n");
    write_text("text", text);
    write_text("job.toml", "[job]\nname = \"compare\"\nseed = 9\n[resources]\nthreads = 2\n"
                           "[data]\nformat = \"text\"\ntrain = \"text\"\nlength = 12\n"
                           "packing = \"pad\"\n"
                           "[model]\nlayers = 3\nheads = 2\nwidth = 8\nmlp = 12\n"
                           "objective = \"next-token\"\n"
                           "[attention]\nfeatures = 16\nrank = 4\nbuckets = 4\nchunk = 4\n"
                           "[train]\nbatch = 2\nmicro_batch = 2\n");
}

static void write_weights(void)
{
    struct fault fault;
    struct tensor_entry *entries = calloc(params->count, sizeof *entries);
    params_entries(params, "", weights, entries);
    cr_assert(safetensors_write(path_in("weights"), entries, params->count, NULL, 0, &fault) ==
              ST_OK);
    free(entries);
}

/* Larger than at the start of a run, so that attention is no mere mean; not so large that the denominators of trig come near
 * 0, where a float has no digits. */
static void make_weights(void)
{
    weights = calloc((size_t)params->floats, sizeof *weights);
    params_initialize(params, 3, weights);
    for (size_t i = 0; i < params->count; i++) {
        const struct parameter *parameter = &params->list[i];
        float *noise = calloc((size_t)parameter->count, sizeof *noise);
        gaussian_fill(11, PURPOSE_WEIGHTS, (uint32_t)i, parameter->count, 0.2, noise);
        for (int64_t j = 0; j < parameter->count; j++) weights[parameter->offset + j] += noise[j];
        free(noise);
    }
}

static void setup(void)
{
    struct diagnostics diagnostics = {0};
    struct fault fault;
    snprintf(directory, sizeof directory, "/tmp/compare-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    write_job();
    cr_assert(jobspec_load(path_in("job.toml"), NULL, 0, &diagnostics, &spec, &fault) == ST_OK);
    diagnostics_free(&diagnostics);
    cr_assert(params_new(&spec, &params) == ST_OK);
    make_weights();
    write_weights();
}

static void teardown(void)
{
    char command[128];
    free(weights);
    params_free(params);
    jobspec_free(&spec);
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    cr_assert(system(command) == 0);
}

TestSuite(performer_compare, .init = setup, .fini = teardown);

static void words_take(const char *name, size_t *length)
{
    FILE *said = fopen(path_in(name), "r");
    cr_assert_not_null(said);
    *length += fread(words + *length, 1, sizeof words - 1 - *length, said);
    words[*length] = '\0';
    fclose(said);
}

/* Runs the program on the job with further options; its exit status. */
static int compare(const char *options)
{
    char command[1024];
    size_t length = 0;
    snprintf(command, sizeof command, "'%s' --job '%s' %s >'%s' 2>'%s'", PERFORMER_COMPARE,
             path_in("job.toml"), options, path_in("out"), path_in("errors"));
    const int status = system(command);
    words_take("out", &length);
    words_take("errors", &length);
    cr_assert(WIFEXITED(status), "%s: did not exit: %s", options, words);
    return WEXITSTATUS(status);
}

/* What the program says with the weights of the test. The caller's. */
static json_t *compared(const char *options)
{
    char all[512];
    snprintf(all, sizeof all, "--json --weights '%s' %s", path_in("weights"), options);
    cr_assert(compare(all) == 0, "%s: %s", options, words);
    json_t *object = json_loads(words, JSON_DISABLE_EOF_CHECK, NULL);
    cr_assert(object, "%s: no object: %s", options, words);
    return object;
}

static double error_mean(const json_t *object, size_t layer)
{
    const json_t *errors = json_array_get(json_object_get(object, "errors"), layer);
    return json_number_value(json_object_get(errors, "mean"));
}

/* ---- the same, naively ---- */

/* A sequence and what the model makes of it. */
struct naive_row {
    int32_t ids[L], targets[L];
    uint8_t key_mask[L];
    double outputs[LAYERS][L * D];
    double loss; /* sum over the predicted tokens */
    int64_t predicted;
};

static void row_tokens(const char *line, struct naive_row *row)
{
    int32_t record[L + 1];
    const int64_t bytes = (int64_t)strlen(line);
    const int64_t count = bytes + 1 < L + 1 ? bytes + 1 : L + 1;
    for (int64_t i = 0; i < count; i++) record[i] = i < bytes ? (uint8_t)line[i] : TEXT_EOS;
    for (int64_t l = 0; l < L; l++) {
        row->ids[l] = l < count ? record[l] : TEXT_PAD;
        row->targets[l] = l + 1 < count ? record[l + 1] : -1;
        row->key_mask[l] = l < count;
    }
}

/* The weight of a tensor in double; a static buffer for each of the few that are needed at once. */
static const double *tensor(int64_t offset, int64_t count)
{
    static double buffers[4][TEXT_VOCAB * D];
    static int next;
    double *buffer = buffers[next++ % 4];
    cr_assert(offset >= 0 && count <= TEXT_VOCAB * D);
    for (int64_t i = 0; i < count; i++) buffer[i] = weights[offset + i];
    return buffer;
}

static void naive_heads(const struct naive_attention *like, const double *q, const double *k,
                        const double *v, double *out)
{
    for (int64_t head = 0; head < HEADS; head++) {
        double part[4][L * HEAD_DIM];
        const double *from[3] = {q, k, v};
        for (int i = 0; i < 3; i++)
            for (int64_t l = 0; l < L; l++)
                memcpy(part[i] + l * HEAD_DIM, from[i] + l * D + head * HEAD_DIM,
                       HEAD_DIM * sizeof(double));
        struct naive_attention one = *like;
        one.q = part[0], one.k = part[1], one.v = part[2];
        naive_attention(&one, part[3]);
        for (int64_t l = 0; l < L; l++)
            memcpy(out + l * D + head * HEAD_DIM, part[3] + l * HEAD_DIM,
                   HEAD_DIM * sizeof(double));
    }
}

static void naive_block(const struct naive_attention *like, int64_t layer, double *h)
{
    const struct layer_offsets *at = &params->layer[layer];
    double norm[L * D], q[L * D], k[L * D], v[L * D], attended[L * D], inner[L * M], added[L * D];

    naive_layernorm(L, D, h, tensor(at->norm1_weight, D), tensor(at->norm1_bias, D), norm);
    naive_linear(L, D, D, norm, tensor(at->q_weight, D * D), tensor(at->q_bias, D), q);
    naive_linear(L, D, D, norm, tensor(at->k_weight, D * D), tensor(at->k_bias, D), k);
    naive_linear(L, D, D, norm, tensor(at->v_weight, D * D), tensor(at->v_bias, D), v);
    naive_heads(like, q, k, v, attended);
    naive_linear(L, D, D, attended, tensor(at->out_weight, D * D), tensor(at->out_bias, D), added);
    for (int i = 0; i < L * D; i++) h[i] += added[i];

    naive_layernorm(L, D, h, tensor(at->norm2_weight, D), tensor(at->norm2_bias, D), norm);
    naive_linear(L, D, M, norm, tensor(at->fc1_weight, M * D), tensor(at->fc1_bias, M), inner);
    for (int i = 0; i < L * M; i++) inner[i] = naive_gelu(inner[i]);
    naive_linear(L, M, D, inner, tensor(at->fc2_weight, D * M), tensor(at->fc2_bias, D), added);
    for (int i = 0; i < L * D; i++) h[i] += added[i];
}

static void naive_loss(const double *h, struct naive_row *row)
{
    static double logits[L * TEXT_VOCAB];
    double norm[L * D];
    naive_layernorm(L, D, h, tensor(params->head.norm_f_weight, D),
                    tensor(params->head.norm_f_bias, D), norm);
    naive_linear(L, D, TEXT_VOCAB, norm, tensor(params->head.lm_head, TEXT_VOCAB * D), NULL,
                 logits);
    for (int64_t l = 0; l < L; l++) {
        if (row->targets[l] < 0) continue;
        row->loss += naive_cross_entropy(TEXT_VOCAB, logits + l * TEXT_VOCAB, row->targets[l]);
        row->predicted++;
    }
}

/* Row r of the data under one attention; draw < 0: exact. */
static void naive_model(enum attention_kernel kernel, bool causal, int draw, int r,
                        struct naive_row *row)
{
    double h[L * D];
    memset(row, 0, sizeof *row);
    row_tokens(lines[r], row);
    for (int64_t l = 0; l < L; l++)
        for (int64_t j = 0; j < D; j++)
            h[l * D + j] = (double)weights[params->embedding.tok_embed + row->ids[l] * D + j] +
                           weights[params->embedding.pos_embed + l * D + j];
    for (int64_t layer = 0; layer < LAYERS; layer++) {
        const struct projection_draw features = {.seed = 9,
                                                 .layer = (uint32_t)layer,
                                                 .draw = (uint32_t)draw,
                                                 .features = FEATURES,
                                                 .dim = HEAD_DIM,
                                                 .orthogonal = true};
        float drawn[FEATURES * HEAD_DIM];
        double projection[FEATURES * HEAD_DIM];
        projection_fill(&features, projection, drawn);
        for (int i = 0; i < FEATURES * HEAD_DIM; i++) projection[i] = drawn[i];
        const struct naive_attention like = {.kind = draw < 0 ? ATTENTION_SOFTMAX : ATTENTION_FAVOR,
                                             .kernel = kernel,
                                             .causal = causal,
                                             .epsilon = spec.attention.epsilon,
                                             .length = L,
                                             .dim = HEAD_DIM,
                                             .width = HEAD_DIM,
                                             .features = FEATURES,
                                             .projection = projection,
                                             .key_mask = row->key_mask};
        naive_block(&like, layer, h);
        memcpy(row->outputs[layer], h, sizeof h);
    }
    naive_loss(h, row);
}

/* Of one draw: the error of each layer's output, and the losses. */
struct naive_result {
    double errors[LAYERS], loss, exact_loss;
};

static struct naive_result naive_compare(enum attention_kernel kernel, bool causal, int draw,
                                         int rows)
{
    static struct naive_row job, exact;
    double difference[LAYERS] = {0}, norm[LAYERS] = {0}, predicted = 0;
    struct naive_result result = {0};
    for (int r = 0; r < rows; r++) {
        naive_model(kernel, causal, draw, r, &job);
        naive_model(kernel, causal, -1, r, &exact);
        for (int layer = 0; layer < LAYERS; layer++)
            for (int i = 0; i < L * D; i++) {
                if (!job.key_mask[i / D]) continue;
                difference[layer] += pow(job.outputs[layer][i] - exact.outputs[layer][i], 2);
                norm[layer] += pow(exact.outputs[layer][i], 2);
            }
        result.loss += job.loss;
        result.exact_loss += exact.loss;
        predicted += (double)job.predicted;
    }
    for (int i = 0; i < LAYERS; i++) result.errors[i] = sqrt(difference[i] / norm[i]);
    result.loss /= predicted;
    result.exact_loss /= predicted;
    return result;
}

static void expect_near(const char *what, double ours, double theirs, double tolerance)
{
    cr_expect(fabs(ours - theirs) <= tolerance * fabs(theirs), "%s: %.9g, not %.9g", what, ours,
              theirs);
}

/* The spread of an entry of the object over its draws, by the textbook. */
static void expect_spread(const char *what, const json_t *spread, const double *draws)
{
    double mean = 0, variance = 0;
    for (int i = 0; i < DRAWS; i++) mean += draws[i] / DRAWS;
    for (int i = 0; i < DRAWS; i++) variance += pow(draws[i] - mean, 2) / (DRAWS - 1);
    const json_t *list = json_object_get(spread, "draws");
    cr_assert(json_array_size(list) == DRAWS, "%s", what);
    for (int i = 0; i < DRAWS; i++)
        expect_near(what, json_number_value(json_array_get(list, (size_t)i)), draws[i], 1e-4);
    expect_near(what, json_number_value(json_object_get(spread, "mean")), mean, 1e-4);
    expect_near(what, json_number_value(json_object_get(spread, "deviation")), sqrt(variance),
                1e-3);
}

static void hold(enum attention_kernel kernel, bool causal, const char *backend)
{
    char options[300], what[400];
    snprintf(options, sizeof options,
             "--backend %s --draws %d --sequences %d --set attention.kernel=%s "
             "--set model.causal=%s --set attention.epsilon=%.17g",
             backend, DRAWS, ROWS, attention_kernel_text(kernel), causal ? "true" : "false",
             spec.attention.epsilon);
    json_t *object = compared(options);
    struct naive_result results[DRAWS];
    double draws[DRAWS];

    for (int draw = 0; draw < DRAWS; draw++)
        results[draw] = naive_compare(kernel, causal, draw, ROWS);
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int draw = 0; draw < DRAWS; draw++) draws[draw] = results[draw].errors[layer];
        snprintf(what, sizeof what, "%s: layer %d", options, layer + 1);
        expect_spread(what, json_array_get(json_object_get(object, "errors"), (size_t)layer),
                      draws);
        cr_expect(draws[0] > 1e-4, "%s: nothing to measure", what);
    }
    for (int draw = 0; draw < DRAWS; draw++) draws[draw] = results[draw].loss;
    snprintf(what, sizeof what, "%s: loss", options);
    expect_spread(what, json_object_get(object, "loss"), draws);
    expect_near(what, json_number_value(json_object_get(object, "exact_loss")),
                results[0].exact_loss, 1e-5);
    json_decref(object);
}

Test(performer_compare, errors_and_losses_against_doubles)
{
    static const enum attention_kernel kernels[] = {KERNEL_SOFTMAX_POSITIVE,
                                                    KERNEL_SOFTMAX_HYPERBOLIC, KERNEL_SOFTMAX_TRIG};
    for (int i = 0; i < 3; i++) {
        hold(kernels[i], true, "cpu");
        hold(kernels[i], false, "cpu");
    }
    hold(KERNEL_SOFTMAX_POSITIVE, true, "reference");
}

/* ---- what must hold of any error ---- */

Test(performer_compare, exact_attention_has_no_error)
{
    json_t *object = compared("--set attention.kind=softmax");
    cr_expect(json_integer_value(json_object_get(object, "draws")) == 1);
    for (size_t layer = 0; layer < LAYERS; layer++) cr_expect(error_mean(object, layer) == 0);
    const json_t *loss = json_object_get(object, "loss");
    cr_expect(json_number_value(json_object_get(loss, "mean")) ==
              json_number_value(json_object_get(object, "exact_loss")));
    cr_expect(json_is_null(json_object_get(loss, "deviation")), "of one draw");
    json_decref(object);
}

/* A mean over m features errs by 1 / √m: four times as many, half the error. Small norms keep its tail short. */
Test(performer_compare, the_error_falls_with_the_root_of_the_features)
{
    double before[LAYERS] = {0};
    for (int64_t i = 0; i < params->floats; i++) weights[i] *= 0.5F;
    write_weights();
    for (int m = 64; m <= LARGEST_FEATURES; m *= 4) {
        char options[100];
        snprintf(options, sizeof options, "--draws 40 --sequences 5 --set attention.features=%d",
                 m);
        json_t *object = compared(options);
        for (size_t layer = 0; layer < LAYERS; layer++) {
            const double error = error_mean(object, layer);
            cr_expect(before[layer] == 0 || fabs(error / before[layer] - 0.5) < 0.1,
                      "m %d, layer %zu: from %g to %g", m, layer + 1, before[layer], error);
            before[layer] = error;
        }
        json_decref(object);
    }
}

/* Rows of a shard of its own, and of one that is not full, count alike. */
Test(performer_compare, shards_and_threads_change_nothing)
{
    json_t *object = compared("--sequences 5");
    json_t *other = compared("--sequences 5 --set train.micro_batch=1 --set resources.threads=1");
    for (size_t layer = 0; layer < LAYERS; layer++)
        expect_near("shards of one row", error_mean(other, layer), error_mean(object, layer), 1e-6);
    json_decref(other);
    json_decref(object);
}

Test(performer_compare, more_sequences_than_there_are_are_all_of_them)
{
    json_t *object = compared("--sequences 1000 --set attention.kind=linformer "
                              "--set model.causal=false");
    cr_expect(json_integer_value(json_object_get(object, "sequences")) == ROWS);
    cr_expect_str_eq(json_string_value(json_object_get(object, "data")), "training");
    cr_expect_str_eq(json_string_value(json_object_get(object, "attention")), "linformer, rank 4");
    cr_expect(error_mean(object, 0) > 1e-3, "%s", words);
    json_decref(object);
}

Test(performer_compare, prints_a_table)
{
    char options[200];
    double error[LAYERS], loss;
    cr_assert(compare("--draws 2") == 0, "%s", words);
    cr_expect(strstr(words, "weights of the seed"), "%s", words);
    snprintf(options, sizeof options, "--weights '%s'", path_in("weights"));
    cr_assert(compare(options) == 0, "%s", words);
    cr_expect(strstr(words, "favor, softmax-positive, features 16; draws 5, seed 9\n"), "%s",
              words);
    cr_expect(strstr(words, "5 training sequences of 12 tokens\n"), "%s", words);
    const char *rows = strstr(words, "deviation\n1 ");
    cr_assert(rows, "%s", words);
    cr_expect(sscanf(rows, "deviation 1 %lf %*f 2 %lf %*f 3 %lf %*f loss deviation job %lf",
                     &error[0], &error[1], &error[2], &loss) == 4,
              "%s", words);
    json_t *object = compared("");
    for (size_t layer = 0; layer < LAYERS; layer++)
        expect_near("table", error[layer], error_mean(object, layer), 1e-5);
    json_decref(object);
}

/* ---- where weights come from ---- */

static void save_checkpoint(char *path, size_t size)
{
    static struct checkpoint_state state = {.step = 3};
    struct tensor_entry *entries = calloc(params->count, sizeof *entries);
    params_entries(params, "", weights, entries);
    const struct checkpoint_content content = {.model = entries,
                                               .model_count = params->count,
                                               .optimizer = entries,
                                               .optimizer_count = 1,
                                               .state = &state};
    uint64_t bytes;
    struct fault fault;
    cr_assert(checkpoint_save(path_in("checkpoints"), &content, NULL, NULL, path, size, &bytes,
                              &fault) == ST_OK,
              "%s", fault.text);
    free(entries);
}

Test(performer_compare, takes_a_checkpoint_and_what_the_job_begins_with)
{
    char checkpoint[200], options[400], command[300];
    json_t *object = compared("");
    const double expected = error_mean(object, 2);
    json_decref(object);

    save_checkpoint(checkpoint, sizeof checkpoint);
    for (int i = 0; i < 2; i++) {
        snprintf(options, sizeof options,
                 i ? "--json --set model.init='%s%s'" : "--json --weights '%s%s'", checkpoint,
                 i ? "/model.safetensors" : "");
        cr_assert(compare(options) == 0, "%s: %s", options, words);
        object = json_loads(words, JSON_DISABLE_EOF_CHECK, NULL);
        cr_expect(error_mean(object, 2) == expected, "%s", options);
        json_decref(object);
    }

    snprintf(command, sizeof command, "printf x >>'%s/model.safetensors'", checkpoint);
    cr_assert(system(command) == 0);
    snprintf(options, sizeof options, "--weights '%s'", checkpoint);
    cr_expect(compare(options) == 2);
    cr_expect(strstr(words, "model.safetensors"), "%s", words);
}

/* ---- what cannot be compared ---- */

static void refused(const char *options, const char *said)
{
    cr_expect(compare(options) == 2, "not refused: %s: %s", options, words);
    cr_expect(strstr(words, said), "'%s' is not in: %s", said, words);
}

Test(performer_compare, attention_without_an_exact_counterpart)
{
    refused("--set attention.kernel=relu", "\"relu\" estimates no softmax");
    refused("--set attention.kernel=relu", "--set attention.kernel=softmax-positive");
    refused("--set attention.kind=reformer", "queries as keys");
    refused("--set attention.kind=identity", "no exact model");
}

Test(performer_compare, weights_that_do_not_fit)
{
    char options[300];
    snprintf(options, sizeof options, "--weights '%s' --set model.mlp=16", path_in("weights"));
    refused(options, "layers.0.mlp.fc1.weight");
    refused(options, "[12, 8]");
    refused(options, path_in("weights"));
    snprintf(options, sizeof options, "--weights '%s' --set model.layers=4", path_in("weights"));
    refused(options, "there is no tensor `layers.3.");
    snprintf(options, sizeof options, "--weights '%s' --set model.layers=2", path_in("weights"));
    refused(options, "`layers.2.norm1.weight` has no place");
    snprintf(options, sizeof options, "--weights '%s'", path_in("text"));
    refused(options, path_in("text"));
    refused("--weights /nowhere/model.safetensors", "/nowhere/model.safetensors");
    snprintf(options, sizeof options, "--weights '%s'", directory);
    refused(options, "model.safetensors is missing");
}

Test(performer_compare, a_wrong_invocation)
{
    refused("--draws 0", "--draws takes a number from 1");
    refused("--sequences many", "--sequences takes a number from 1 to 1000000, not `many`");
    refused("--backend abacus", "--backend abacus: there is no such backend");
    refused("--colour", "--help");
    refused("more", "unexpected argument: more");
    refused("--set model.layres=3", "layres");
    refused("--job /nowhere.toml", "/nowhere.toml");
    refused("--set data.train=/nowhere.txt", "/nowhere.txt");
    cr_expect(compare("--help") == 0 && strstr(words, "--draws N"));
    cr_expect(compare("--version") == 0 && strstr(words, "performer-compare "));
}
