/*
 * performer-compare: how far a model with approximate attention is from the same weights with exact attention, by number of
 * layers (paper, figure 14).
 *
 * For n = 1 ... layers, h(n) is the residual stream that block n leaves in the job's model, h*(n) that of a model with the same
 * weights and exact softmax attention in all of its blocks, in fp32. The error is ‖h(n) - h*(n)‖ / ‖h*(n)‖, Frobenius norms over
 * all sequences and all positions that are no padding: what layer n adds to the errors that the layers before it have passed on
 * is in it. Draw k is redraw k of the job, a function of (seed, layer, k).
 */

#include <assert.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "proto/jobspec.h"
#include "proto/utf8.h"
#include "proto/whole_number.h"
#include "worker/dataset.h"
#include "worker/manifest.h"
#include "worker/params.h"
#include "worker/performer.h"

enum {
    EXIT_BAD_INPUT = 2,
    OVERRIDES_MAX = 64,
    DRAWS_DEFAULT = 5,
    DRAWS_MAX = 10000,
    SEQUENCES_DEFAULT = 8,
    SEQUENCES_MAX = 1000000,
    PATH_BYTES_MAX = 4096,
    ALIGN_BYTES = 64,
};

static const char USAGE[] =
    "usage: performer-compare --job FILE [--weights PATH] [--set SECTION.KEY=VALUE]... [options]\n";

static const char HELP[] =
    "\n"
    "Compares a job's model with the same weights under exact softmax attention: the relative error of the\n"
    "output of the first n layers, for each n, and the loss of both; mean and deviation over redraws.\n"
    "\n"
    "  --job FILE       a job file, or the resolved.toml of a run\n"
    "  --weights PATH   model.safetensors, or the directory of a checkpoint; without it what the job begins\n"
    "                   with: model.init, or weights drawn from its seed\n"
    "  --set A.B=V      another value for a key of the job file; may be given again. Weights of an exact model\n"
    "                   are tried with --set attention.kind=favor --set attention.features=256\n"
    "  --draws N        redraws 0 ... N-1 of the job [5]; one where the attention draws nothing\n"
    "  --sequences N    the first rows of its validation data, or of the training data where it has none [8]\n"
    "  --backend NAME   cpu (default) or reference: plain, slow, for comparisons\n"
    "  --json           one object instead of a table\n"
    "  --help, --version\n"
    "\n"
    "Exit: 0 done, 1 failed, 2 wrong usage, or a job, weights or data that cannot be compared.\n";

struct request {
    const char *job, *weights; /* weights: NULL: as the job begins */
    const struct backend *backend;
    long draws, sequences;
    bool json;
    struct jobspec_override overrides[OVERRIDES_MAX];
    size_t override_count;
};

struct contender {
    const struct jobspec *spec;
    struct params *params;
    struct performer *model;
};

struct comparison {
    const struct request *request;
    struct jobspec spec;       /* the job's */
    struct jobspec exact_spec; /* the same with exact attention; owns nothing */
    struct contender job, exact;
    char weights_path[PATH_BYTES_MAX]; /* empty: drawn from the seed */
    float *weights;                    /* (floats): of both */
    struct dataset *data;
    const char *data_name;
    struct stream stream;
    struct batch batch;
    int64_t layers, draws, sequences;

    float *exact_outputs; /* (layers, R, D): of the shard under way */
    int64_t draw;         /* under way */

    double *norms;       /* (layers): ‖h*‖², summed over the shards so far */
    double *differences; /* (draws, layers): ‖h - h*‖² */
    double exact_loss;   /* sum of nats */
    double *losses;      /* (draws) */
    int64_t predicted;   /* tokens */
};

/* ---- command line ---- */

enum option_code { JOB = 256, WEIGHTS, SET, DRAWS, SEQUENCES, BACKEND, JSON, HELP_TEXT, VERSION };

static enum status option_take(int code, const char *value, struct request *request,
                               struct fault *fault)
{
    switch (code) {
    case JOB:
        request->job = value;
        return ST_OK;
    case WEIGHTS:
        request->weights = value;
        return ST_OK;
    case SET:
        if (request->override_count == OVERRIDES_MAX)
            return fault_set(fault, ST_INVALID, "too many --set: %s", value);
        request->overrides[request->override_count++].text = value;
        return ST_OK;
    case DRAWS:
        return whole_number_parse("--draws", value, 1, DRAWS_MAX, &request->draws, fault);
    case SEQUENCES:
        return whole_number_parse("--sequences", value, 1, SEQUENCES_MAX, &request->sequences,
                                  fault);
    case BACKEND:
        request->backend = backend_find(value);
        if (request->backend) return ST_OK;
        return fault_set(fault, ST_INVALID, "--backend %s: %s", value, backend_why_not(value));
    case JSON:
        request->json = true;
        return ST_OK;
    default: /* getopt_long has said what is wrong */
        return fault_set(fault, ST_INVALID, "see performer-compare --help");
    }
}

/* ST_OK with `*done`: all that was asked for has been printed. */
static enum status request_parse(int argc, char **argv, struct request *request, bool *done,
                                 struct fault *fault)
{
    static const struct option options[] = {
        {"job", required_argument, NULL, JOB},
        {"weights", required_argument, NULL, WEIGHTS},
        {"set", required_argument, NULL, SET},
        {"draws", required_argument, NULL, DRAWS},
        {"sequences", required_argument, NULL, SEQUENCES},
        {"backend", required_argument, NULL, BACKEND},
        {"json", no_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP_TEXT},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    *request = (struct request){
        .backend = backend_find("cpu"), .draws = DRAWS_DEFAULT, .sequences = SEQUENCES_DEFAULT};
    *done = false;

    for (int code; (code = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (code == HELP_TEXT || code == VERSION) {
            if (code == HELP_TEXT) printf("%s%s", USAGE, HELP);
            if (code == VERSION) puts("performer-compare " PERFORMERD_VERSION);
            *done = true;
            return ST_OK;
        }
        enum status status = option_take(code, optarg, request, fault);
        if (status != ST_OK) return status;
    }
    if (optind < argc) return fault_set(fault, ST_INVALID, "unexpected argument: %s", argv[optind]);
    if (!request->job)
        return fault_set(fault, ST_INVALID, "--job FILE is missing; see performer-compare --help");
    return ST_OK;
}

/* ---- the job and its exact counterpart ---- */

static enum status job_load(struct comparison *c, struct fault *fault)
{
    const struct request *request = c->request;
    struct diagnostics diagnostics = {0};
    enum status status = jobspec_load(request->job, request->overrides, request->override_count,
                                      &diagnostics, &c->spec, fault);
    if (diagnostics.count > 0)
        diagnostics_print(&diagnostics, stderr, isatty(STDERR_FILENO) && !getenv("NO_COLOR"));
    if (status != ST_OK && diagnostics.errors > 0)
        fault_set(fault, status, "%s has %zu mistake%s", request->job, diagnostics.errors,
                  diagnostics.errors == 1 ? "" : "s");
    diagnostics_free(&diagnostics);
    return status;
}

/* Exact softmax attention is what the job's must estimate, from the same weights. */
static enum status counterpart_check(const struct jobspec *spec, struct fault *fault)
{
    switch (spec->attention.kind) {
    case ATTENTION_SOFTMAX:
    case ATTENTION_LINFORMER:
        return ST_OK;
    case ATTENTION_FAVOR:
        if (attention_estimates_softmax(spec->attention.kind, spec->attention.kernel)) return ST_OK;
        return fault_set(
            fault, ST_UNSUPPORTED,
            "attention.kernel = \"%s\" estimates no softmax, so there is no exact model to "
            "compare with; one that does: --set attention.kernel=softmax-positive",
            attention_kernel_text(spec->attention.kernel));
    case ATTENTION_REFORMER:
        return fault_set(
            fault, ST_UNSUPPORTED,
            "attention.kind = \"reformer\" has its queries as keys, so exact attention "
            "cannot have the same weights; take favor or linformer");
    case ATTENTION_IDENTITY:
        return fault_set(fault, ST_UNSUPPORTED,
                         "attention.kind = \"identity\" estimates no softmax, so there is no exact "
                         "model to compare with; take favor or linformer");
    }
    assert(false);
    return ST_INTERNAL;
}

static enum status contender_open(struct contender *contender, const struct comparison *c,
                                  const struct jobspec *spec, struct fault *fault)
{
    contender->spec = spec;
    enum status status = params_new(spec, &contender->params);
    if (status != ST_OK) return fault_set(fault, status, "no memory for the names of tensors");
    return performer_new(spec, contender->params, c->request->backend, team_threads(c->stream.team),
                         &contender->model, fault);
}

static enum status models_open(struct comparison *c, struct fault *fault)
{
    const int threads = (int)c->spec.resources.threads;
    c->spec.train.recompute = RECOMPUTE_LAYER; /* no backward pass comes: no layer keeps anything */
    c->exact_spec = c->spec;
    c->exact_spec.attention.kind = ATTENTION_SOFTMAX;
    c->exact_spec.train.precision = PRECISION_FP32;

    enum status status = team_new(threads, &c->stream.team);
    if (status != ST_OK) return fault_set(fault, status, "could not start %d threads", threads);
    status = contender_open(&c->job, c, &c->spec, fault);
    if (status == ST_OK) status = contender_open(&c->exact, c, &c->exact_spec, fault);
    if (status != ST_OK) return status;
    assert(c->job.params->floats == c->exact.params->floats);
    c->layers = c->job.params->layers;
    c->draws = c->job.params->projections > 0 ? c->request->draws : 1;
    return ST_OK;
}

/* ---- data, weights, memory ---- */

static enum status data_open(struct comparison *c, struct fault *fault)
{
    c->data_name = "validation";
    enum status status = dataset_open(&c->spec, SPLIT_VALID, &c->data, fault);
    if (status == ST_OK && !c->data) {
        c->data_name = "training";
        status = dataset_open(&c->spec, SPLIT_TRAIN, &c->data, fault);
    }
    if (status != ST_OK) return status;
    const int64_t rows = dataset_rows(c->data);
    c->sequences = c->request->sequences < rows ? c->request->sequences : rows;
    return ST_OK;
}

/* NULL where there is none. */
static void *memory_new(const struct comparison *c, size_t bytes)
{
    void *memory = NULL;
    c->request->backend->memory_new(bytes + 1, &memory);
    return memory;
}

static enum status memory_open(struct comparison *c, struct fault *fault)
{
    const int64_t rows = c->spec.train.micro_batch * c->spec.data.length;
    const size_t tokens = (size_t)rows, layers = (size_t)c->layers, draws = (size_t)c->draws;
    const size_t scratch[] = {performer_scratch_bytes(c->job.model),
                              performer_scratch_bytes(c->exact.model)};

    c->weights = memory_new(c, (size_t)c->job.params->floats * sizeof *c->weights);
    c->stream.scratch_bytes = scratch[0] > scratch[1] ? scratch[0] : scratch[1];
    c->stream.scratch = memory_new(c, c->stream.scratch_bytes);
    c->batch = (struct batch){
        .length = c->spec.data.length,
        .ids = memory_new(c, tokens * sizeof *c->batch.ids),
        .targets = memory_new(c, tokens * sizeof *c->batch.targets),
        .key_mask = memory_new(c, tokens * sizeof *c->batch.key_mask),
    };
    c->exact_outputs =
        calloc(layers * tokens * (size_t)c->spec.model.width, sizeof *c->exact_outputs);
    c->norms = calloc(layers, sizeof *c->norms);
    c->differences = calloc(draws * layers, sizeof *c->differences);
    c->losses = calloc(draws, sizeof *c->losses);
    if (c->weights && c->stream.scratch && c->batch.ids && c->batch.targets && c->batch.key_mask &&
        c->exact_outputs && c->norms && c->differences && c->losses)
        return ST_OK;
    return fault_set(fault, ST_NO_MEMORY,
                     "no memory for the outputs of all layers: lower train.micro_batch");
}

/* Where the weights are; a checkpoint's files must be as they were written. */
static enum status weights_find(struct comparison *c, struct fault *fault)
{
    const char *path = c->request->weights ? c->request->weights : c->spec.model.init;
    struct stat about;
    const bool checkpoint = *path && stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    const int length = snprintf(c->weights_path, sizeof c->weights_path,
                                checkpoint ? "%s/" MODEL_FILE : "%s", path);

    if ((size_t)length >= sizeof c->weights_path)
        return fault_set(fault, ST_TOO_LARGE, "the path %.80s... is too long", path);
    return checkpoint ? manifest_verify(path, fault) : ST_OK;
}

/* Projections in the file are passed over: what is measured is the job's own draws. */
static enum status weights_load(struct comparison *c, struct fault *fault)
{
    struct safetensors *file;
    enum status status = weights_find(c, fault);
    if (status != ST_OK) return fault_wrap(fault, "weights");
    if (c->weights_path[0] == '\0') {
        params_initialize(c->job.params, (uint64_t)c->spec.job.seed, c->weights);
        return ST_OK;
    }
    status = safetensors_open(c->weights_path, &file, fault);
    if (status != ST_OK) return fault_wrap(fault, "weights");
    status = params_reject_unknown(c->job.params, file, fault);
    if (status == ST_OK) status = params_read(c->job.params, file, "", c->weights, fault);
    if (status != ST_OK) fault_wrap(fault, "weights %s", c->weights_path);
    safetensors_close(file);
    return status;
}

static enum status comparison_open(struct comparison *c, struct fault *fault)
{
    enum status status = job_load(c, fault);
    if (status == ST_OK) status = counterpart_check(&c->spec, fault);
    if (status == ST_OK) status = data_open(c, fault);
    if (status == ST_OK) status = models_open(c, fault);
    if (status == ST_OK) status = memory_open(c, fault);
    if (status == ST_OK) status = weights_load(c, fault);
    return status;
}

static void comparison_close(struct comparison *c)
{
    free(c->losses);
    free(c->differences);
    free(c->norms);
    free(c->exact_outputs);
    void *memory[] = {c->batch.key_mask, c->batch.targets, c->batch.ids, c->stream.scratch,
                      c->weights};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        c->request->backend->memory_free(memory[i]);
    dataset_close(c->data);
    performer_free(c->exact.model);
    params_free(c->exact.params);
    performer_free(c->job.model);
    params_free(c->job.params);
    team_free(c->stream.team);
    jobspec_free(&c->spec);
}

/* ---- the comparison ---- */

/* Of the exact model, on the shard under way: (R, D). */
static float *exact_output(const struct comparison *c, int64_t layer)
{
    return c->exact_outputs +
           layer * c->spec.train.micro_batch * c->spec.data.length * c->spec.model.width;
}

static void keep_exact(void *context, int64_t layer, const float *output)
{
    struct comparison *c = context;
    const int64_t rows = c->batch.sequences * c->batch.length, width = c->spec.model.width;
    double squares = 0;

    memcpy(exact_output(c, layer), output, (size_t)(rows * width) * sizeof *output);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t j = row * width; c->batch.key_mask[row] && j < (row + 1) * width; j++)
            squares += (double)output[j] * output[j];
    c->norms[layer] += squares;
}

static void compare_output(void *context, int64_t layer, const float *output)
{
    struct comparison *c = context;
    const int64_t rows = c->batch.sequences * c->batch.length, width = c->spec.model.width;
    const float *exact = exact_output(c, layer);
    double squares = 0;

    for (int64_t row = 0; row < rows; row++)
        for (int64_t j = row * width; c->batch.key_mask[row] && j < (row + 1) * width; j++) {
            const double difference = (double)output[j] - exact[j];
            squares += difference * difference;
        }
    c->differences[c->draw * c->layers + layer] += squares;
}

/* Forward and loss of one model on the batch, with someone looking at its layers. */
static enum status run_model(struct comparison *c, struct performer *model,
                             void (*block_done)(void *, int64_t, const float *), struct loss *loss,
                             struct fault *fault)
{
    const struct performer_pass pass = {.block_done = block_done, .context = c};
    enum status status = performer_forward(model, &c->stream, c->weights, &c->batch, &pass);
    if (status == ST_OK) status = performer_loss(model, &c->stream, &c->batch, false, loss);
    return status == ST_OK ? ST_OK : backend_fault(c->request->backend, status, fault);
}

static enum status run_shard(struct comparison *c, int64_t first, struct fault *fault)
{
    const int64_t rest = c->sequences - first, most = c->spec.train.micro_batch;
    struct loss loss;

    c->batch.sequences = rest < most ? rest : most;
    dataset_rows_at(c->data, first, &c->batch);
    enum status status = run_model(c, c->exact.model, keep_exact, &loss, fault);
    if (status != ST_OK) return status;
    c->exact_loss += loss.sum;
    c->predicted += loss.counted;
    for (c->draw = 0; c->draw < c->draws; c->draw++) {
        performer_redraw(c->job.model, (uint32_t)c->draw);
        status = run_model(c, c->job.model, compare_output, &loss, fault);
        if (status != ST_OK) return status;
        c->losses[c->draw] += loss.sum;
    }
    return ST_OK;
}

static enum status comparison_run(struct comparison *c, struct fault *fault)
{
    for (int64_t first = 0; first < c->sequences; first += c->spec.train.micro_batch) {
        enum status status = run_shard(c, first, fault);
        if (status != ST_OK) return status;
    }
    if (c->predicted > 0) return ST_OK;
    return fault_set(fault, ST_BAD_DATA, "the first %lld %s rows hold no token to predict",
                     (long long)c->sequences, c->data_name);
}

/* ---- results ---- */

/* Over the draws; the deviation is that of a sample, NaN where there is one draw only. */
struct spread {
    double mean, deviation;
};

static struct spread spread_of(const double *values, int64_t count)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i];
    const double mean = sum / (double)count;
    for (int64_t i = 0; i < count; i++) squares += (values[i] - mean) * (values[i] - mean);
    return (struct spread){mean, count > 1 ? sqrt(squares / (double)(count - 1)) : NAN};
}

/* `errors` (draws) of the layer's output. */
static void errors_of(const struct comparison *c, int64_t layer, double *errors)
{
    for (int64_t draw = 0; draw < c->draws; draw++) {
        const double difference = c->differences[draw * c->layers + layer];
        errors[draw] = difference == 0 ? 0 : sqrt(difference / c->norms[layer]);
    }
}

/* `losses` (draws) in nats a predicted token. */
static void losses_of(const struct comparison *c, double *losses)
{
    for (int64_t draw = 0; draw < c->draws; draw++)
        losses[draw] = c->losses[draw] / (double)c->predicted;
}

static void describe_attention(const struct jobspec *spec, char *text, size_t size)
{
    const char *kind = attention_kind_text(spec->attention.kind);
    if (spec->attention.kind == ATTENTION_FAVOR)
        snprintf(text, size, "%s, %s, features %lld", kind,
                 attention_kernel_text(spec->attention.kernel),
                 (long long)spec->attention.features);
    else if (spec->attention.kind == ATTENTION_LINFORMER)
        snprintf(text, size, "%s, rank %lld", kind, (long long)spec->attention.rank);
    else
        snprintf(text, size, "%s", kind);
}

static void print_row(const char *name, struct spread spread)
{
    printf("%-8s %12.6g", name, spread.mean);
    if (isnan(spread.deviation))
        printf(" %12s\n", "-");
    else
        printf(" %12.3g\n", spread.deviation);
}

static void print_table(const struct comparison *c, double *values)
{
    char attention[100], name[24];
    describe_attention(&c->spec, attention, sizeof attention);
    printf("%s; draws %lld, seed %lld\n%lld %s sequences of %lld tokens\nweights %s\n\n", attention,
           (long long)c->draws, (long long)c->spec.job.seed, (long long)c->sequences, c->data_name,
           (long long)c->spec.data.length, c->weights_path[0] ? c->weights_path : "of the seed");
    printf("%-8s %12s %12s\n", "layers", "error", "deviation");
    for (int64_t layer = 0; layer < c->layers; layer++) {
        errors_of(c, layer, values);
        snprintf(name, sizeof name, "%lld", (long long)layer + 1);
        print_row(name, spread_of(values, c->draws));
    }
    losses_of(c, values);
    printf("\n%-8s %12s %12s\n", "", "loss", "deviation");
    print_row("job", spread_of(values, c->draws));
    print_row("exact", (struct spread){c->exact_loss / (double)c->predicted, NAN});
}

/* null: no number. */
static json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_spread(const double *values, int64_t count)
{
    const struct spread spread = spread_of(values, count);
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++) json_array_append_new(list, json_number(values[i]));
    return json_pack("{s:o, s:o, s:o}", "mean", json_number(spread.mean), "deviation",
                     json_number(spread.deviation), "draws", list);
}

static json_t *json_of(const struct comparison *c, double *values)
{
    char attention[100], weights[PATH_BYTES_MAX];
    describe_attention(&c->spec, attention, sizeof attention);
    memcpy(weights, c->weights_path, sizeof weights);
    utf8_repair(weights); /* names of files are any bytes */
    json_t *errors = json_array();
    for (int64_t layer = 0; layer < c->layers; layer++) {
        errors_of(c, layer, values);
        json_array_append_new(errors, json_spread(values, c->draws));
    }
    losses_of(c, values);
    return json_pack("{s:s, s:s*, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:f}", "attention",
                     attention, "weights", c->weights_path[0] ? c->weights_path : NULL, "data",
                     c->data_name, "sequences", (json_int_t)c->sequences, "length",
                     (json_int_t)c->spec.data.length, "seed", (json_int_t)c->spec.job.seed, "draws",
                     (json_int_t)c->draws, "predicted", (json_int_t)c->predicted, "errors", errors,
                     "loss", json_spread(values, c->draws), "exact_loss",
                     c->exact_loss / (double)c->predicted);
}

static enum status print_results(const struct comparison *c, struct fault *fault)
{
    double *values = calloc((size_t)c->draws, sizeof *values);
    if (!values) return fault_set(fault, ST_NO_MEMORY, "no memory for the results");
    if (!c->request->json) {
        print_table(c, values);
        free(values);
        return ST_OK;
    }
    json_t *object = json_of(c, values);
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    free(values);
    if (!text) return fault_set(fault, ST_NO_MEMORY, "no memory for the results");
    puts(text);
    free(text);
    return ST_OK;
}

static int exit_code(enum status status)
{
    switch (status) {
    case ST_OK:
        return EXIT_SUCCESS;
    case ST_NO_MEMORY:
    case ST_IO:
    case ST_NO_SPACE:
    case ST_BUSY:
    case ST_SYSTEM:
    case ST_INTERNAL:
        return EXIT_FAILURE;
    default:
        return EXIT_BAD_INPUT;
    }
}

int main(int argc, char **argv)
{
    static struct request request;
    struct comparison comparison = {.request = &request};
    struct fault fault = {0};
    bool done;

    enum status status = request_parse(argc, argv, &request, &done, &fault);
    if (status == ST_OK && !done) {
        status = comparison_open(&comparison, &fault);
        if (status == ST_OK) status = comparison_run(&comparison, &fault);
        if (status == ST_OK) status = print_results(&comparison, &fault);
        comparison_close(&comparison);
    }
    if (status != ST_OK) fprintf(stderr, "performer-compare: %s\n", fault.text);
    return exit_code(status);
}
