/*
 * Five steps of five models, trained by performer-worker and compared with a float64 implementation: losses,
 * gradient norms, and the weights in the end.
 *
 * usage: models WORKER VECTORS RANKS MICRO_BATCH THREADS BACKEND PRECISION [MODEL]...; RANKS 0: without mpirun; no MODEL: all
 *
 * In bf16 an input of a product is off by up to u = 2^-9 of itself. Errors of many inputs are of either sign, and a loss is a
 * mean over hundreds of tokens: it is held to u / 8, of which the reference, whose sums are doubles, takes a third. A
 * gradient's norm adds up what is left of each of its sums: it is held to u, of which the reference takes a half. Weights
 * are not compared: AdamW's first steps are as long for a gradient of mere rounding as for any other.
 */

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "proto/safetensors.h"

static const struct tolerance {
    double loss, norm;
    double weight; /* of lr * steps */
} FP32 = {1e-5, 1e-4, 2e-2}, BF16 = {0x1p-9 / 8, 0x1p-9, INFINITY};

static const char *const models[] = {"identity", "softmax-causal", "favor-relu-causal",
                                     "favor-softmax-causal", "favor-softmax-bidirectional"};

static int failures;

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    failures++;
}

static void write_job(const char *path, const char *vectors, const json_t *config, int micro_batch,
                      int threads, const char *precision)
{
    FILE *file = fopen(path, "w");
    if (!file) exit(1);
#define NUMBER(key) json_number_value(json_object_get(config, key))
#define TEXT(key)   json_string_value(json_object_get(config, key))
    fprintf(file, "[job]\nname = \"vectors\"\n[resources]\nthreads = %d\n", threads);
    fprintf(file, "[data]\nformat = \"tokens\"\ntrain = \"%s/tokens.bin\"\n", vectors);
    fprintf(file, "vocab = %g\nlength = %g\n", NUMBER("vocab"), NUMBER("length"));
    fprintf(file, "[model]\nlayers = %g\nheads = %g\n", NUMBER("layers"), NUMBER("heads"));
    fprintf(file, "width = %g\nmlp = %g\n", NUMBER("width"), NUMBER("mlp"));
    fprintf(file, "causal = %s\n",
            json_is_true(json_object_get(config, "causal")) ? "true" : "false");
    fprintf(file, "objective = \"next-token\"\ninit = \"%s/init.safetensors\"\n", vectors);
    fprintf(file, "[attention]\nkind = \"%s\"\nkernel = \"%s\"\n", TEXT("attention"),
            TEXT("kernel"));
    fprintf(file, "features = %g\nepsilon = %.17g\n", NUMBER("features"), NUMBER("epsilon"));
    fprintf(file, "[redraw]\npolicy = \"never\"\n[optimizer]\nlr = %.17g\n", NUMBER("lr"));
    fprintf(file, "beta1 = %.17g\nbeta2 = %.17g\n", NUMBER("beta1"), NUMBER("beta2"));
    fprintf(file, "epsilon = %.17g\nweight_decay = %.17g\n", NUMBER("adam_eps"),
            NUMBER("weight_decay"));
    fprintf(file, "clip = %.17g\n[train]\nsteps = %g\n", NUMBER("clip"), NUMBER("steps"));
    fprintf(file, "batch = %g\nmicro_batch = %d\n", NUMBER("batch"), micro_batch);
    fprintf(file, "precision = \"%s\"\n", precision);
#undef TEXT
#undef NUMBER
    fclose(file);
}

/* The value of a metric at a step in metrics.jsonl; NaN: it is not there. */
static double metric(const char *directory, const char *name, int step)
{
    char path[1024], line[512];
    double value = NAN;
    snprintf(path, sizeof path, "%s/metrics.jsonl", directory);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        json_t *row = json_loads(line, 0, NULL);
        if (json_integer_value(json_object_get(row, "step")) == step &&
            strcmp(json_string_value(json_object_get(row, "name")), name) == 0)
            value = json_number_value(json_object_get(row, "value"));
        json_decref(row);
    }
    if (file) fclose(file);
    return value;
}

static void compare_series(const char *model, const char *directory, const char *name,
                           const json_t *expected, double tolerance)
{
    for (size_t i = 0; i < json_array_size(expected); i++) {
        double theirs = json_real_value(json_array_get(expected, i));
        double ours = metric(directory, name, (int)i + 1);
        if (!(fabs(ours / theirs - 1.0) <= tolerance))
            fail("%s: %s of step %zu is %.9g, not %.9g", model, name, i + 1, ours, theirs);
    }
}

static void compare_weights(const char *model, const char *directory, const char *vectors,
                            bool exact_softmax, double tolerance)
{
    char path[1024];
    struct safetensors *ours, *theirs;
    struct fault fault;
    snprintf(path, sizeof path, "%s/checkpoints/step-0000000005/model.safetensors", directory);
    if (safetensors_open(path, &ours, &fault) != ST_OK) {
        fail("%s: %s", model, fault.text);
        return;
    }
    snprintf(path, sizeof path, "%s/expected.safetensors", vectors);
    if (safetensors_open(path, &theirs, &fault) != ST_OK) exit(1);

    for (size_t i = 0; i < safetensors_count(theirs); i++) {
        const struct tensor_entry *b = safetensors_at(theirs, i);
        const struct tensor_entry *a = safetensors_find(ours, b->name);
        /* By symmetry its gradient is zero, so what moves it is rounding. */
        if (exact_softmax && strstr(b->name, "attn.k_proj.bias")) continue;
        if (!a || a->bytes != b->bytes) {
            fail("%s: no %s of that size", model, b->name);
            continue;
        }
        const float *x = a->data, *y = b->data;
        double worst = 0.0;
        for (size_t j = 0; j < b->bytes / sizeof(float); j++)
            worst = fmax(worst, isfinite(x[j]) ? fabs((double)x[j] - y[j]) : INFINITY);
        if (worst > tolerance)
            fail("%s: %s is off by %g, at most %g", model, b->name, worst, tolerance);
    }
    safetensors_close(theirs);
    safetensors_close(ours);
}

static void try_model(char **argv, const char *directory, const char *model)
{
    char vectors[400], path[512], output[512], command[2048], start[100] = "";
    json_error_t error;
    const int ranks = atoi(argv[3]);
    const struct tolerance *tolerance = strcmp(argv[7], "bf16") == 0 ? &BF16 : &FP32;

    snprintf(vectors, sizeof vectors, "%s/%s", argv[2], model);
    snprintf(path, sizeof path, "%s/expected.json", vectors);
    json_t *expected = json_load_file(path, 0, &error);
    if (!expected) exit(1);
    const json_t *config = json_object_get(expected, "config");
    snprintf(path, sizeof path, "%s/%s.toml", directory, model);
    write_job(path, vectors, config, atoi(argv[4]), atoi(argv[5]), argv[7]);

    snprintf(output, sizeof output, "%s/%s", directory, model);
    if (ranks > 0)
        snprintf(start, sizeof start,
                 "mpirun -np %d --oversubscribe --allow-run-as-root --bind-to none ", ranks);
    snprintf(command, sizeof command, "%s%s --job %s --output %s --backend %s </dev/null", start,
             argv[1], path, output, argv[6]);
    if (system(command) != 0) fail("%s: the worker failed", model);

    double moved = json_real_value(json_object_get(config, "lr")) *
                   (double)json_integer_value(json_object_get(config, "steps"));
    compare_series(model, output, "loss", json_object_get(expected, "loss"), tolerance->loss);
    compare_series(model, output, "grad_norm", json_object_get(expected, "grad_norm"),
                   tolerance->norm);
    compare_weights(model, output, vectors, strcmp(model, "softmax-causal") == 0,
                    tolerance->weight * moved);
    json_decref(expected);
}

int main(int argc, char **argv)
{
    if (argc < 8) return EXIT_FAILURE;
    char directory[] = "/tmp/models-XXXXXX", command[100];
    if (!mkdtemp(directory)) return EXIT_FAILURE;
    for (int i = 8; i < argc; i++) try_model(argv, directory, argv[i]);
    for (size_t i = 0; i < sizeof models / sizeof models[0] && argc == 8; i++)
        try_model(argv, directory, models[i]);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (failures == 0 && system(command) != 0) return EXIT_FAILURE;
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
