/*
 * The program performer-attend: the float64 case files in tests/vectors/attention
 * within the tolerance, by each backend with the same bits for 1 and 2 threads;
 * and a clear word for every case that it cannot compute.
 */

#include <criterion/criterion.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "proto/safetensors.h"

/* Design section 6: what out, dq, dk and dv may be off by. */
static const struct tolerance {
    const char *precision;
    double values[4];
} FP32 = {"fp32", {2e-5, 2e-5, 2e-5, 2e-5}}, BF16 = {"bf16", {2e-2, 4e-2, 4e-2, 2e-2}};

static char directory[64], words[4096]; /* what the program said, on either stream */

static void directory_make(void)
{
    snprintf(directory, sizeof directory, "/tmp/attend-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void directory_remove(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(performer_attend, .init = directory_make, .fini = directory_remove);

static const char *path_in(const char *name)
{
    static char paths[4][128];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* Runs the program; its exit status. */
static int attend(const char *arguments)
{
    char command[1024];
    snprintf(command, sizeof command, "'%s' %s >'%s' 2>&1", PERFORMER_ATTEND, arguments,
             path_in("words"));
    const int status = system(command);
    FILE *said = fopen(path_in("words"), "r");
    cr_assert_not_null(said);
    words[fread(words, 1, sizeof words - 1, said)] = '\0';
    fclose(said);
    cr_assert(WIFEXITED(status), "%s: did not exit: %s", arguments, words);
    return WEXITSTATUS(status);
}

/* ---- the vectors ---- */

static float *floats_new(const struct safetensors *file, const char *name, size_t *count)
{
    const struct tensor_entry *entry = safetensors_find(file, name);
    cr_assert(entry && entry->type == TENSOR_F32, "no floats %s", name);
    float *floats = malloc(entry->bytes);
    memcpy(floats, entry->data, entry->bytes);
    *count = entry->bytes / sizeof *floats;
    return floats;
}

static double norm(const float *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)values[i] * values[i];
    return sqrt(sum);
}

/* ‖ours - ref‖ / max(‖ref‖, 0.05 ‖dv‖) */
static double tensor_error(const struct safetensors *ours, const struct safetensors *reference,
                           const char *name)
{
    size_t count, reference_count, dv_count;
    float *a = floats_new(ours, name, &count), *b = floats_new(reference, name, &reference_count);
    float *dv = floats_new(reference, "dv", &dv_count);
    cr_assert_eq(count, reference_count, "%s has another size", name);
    const double least = fmax(norm(b, count), 0.05 * norm(dv, dv_count));
    for (size_t i = 0; i < count; i++) a[i] -= b[i];
    const double error = norm(a, count) / least;
    free(a), free(b), free(dv);
    return isfinite(error) ? error : INFINITY;
}

static void case_hold(const char *path, const char *out, const char *run,
                      const struct tolerance *tolerance)
{
    static const char *const names[] = {"out", "dq", "dk", "dv"};
    struct safetensors *ours, *reference;
    struct fault fault;
    cr_assert_eq(safetensors_open(out, &ours, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(safetensors_open(path, &reference, &fault), ST_OK, "%s", fault.text);
    for (int i = 0; i < 4; i++) {
        const double error = tensor_error(ours, reference, names[i]);
        cr_expect(error <= tolerance->values[i], "%s %s: %s is off by %.3g", run, path, names[i],
                  error);
    }
    cr_expect_str_eq(safetensors_metadata(ours, "precision"), tolerance->precision);
    safetensors_close(ours);
    safetensors_close(reference);
}

/* Every tensor has the same bits; the metadata say what ran. */
static void bits_hold(const char *first, const char *second)
{
    struct safetensors *a, *b;
    struct fault fault;
    cr_assert_eq(safetensors_open(first, &a, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(safetensors_open(second, &b, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(safetensors_count(a), safetensors_count(b));
    for (size_t i = 0; i < safetensors_count(a); i++) {
        const struct tensor_entry *x = safetensors_at(a, i), *y = safetensors_at(b, i);
        cr_expect(x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0,
                  "%s: two threads give other bits", x->name);
    }
    cr_expect_str_eq(safetensors_metadata(a, "threads"), "1");
    cr_expect_str_eq(safetensors_metadata(b, "threads"), "2");
    safetensors_close(a);
    safetensors_close(b);
}

/* Exit status, with the output in out1 or out2. */
static int vector_attend(const char *path, const char *backend, const struct tolerance *tolerance,
                         int threads)
{
    char arguments[512], out[16];
    snprintf(out, sizeof out, "out%d", threads);
    snprintf(arguments, sizeof arguments,
             "'%s' --out '%s' --backend '%s' --precision %s --threads %d", path, path_in(out),
             backend, tolerance->precision, threads);
    return attend(arguments);
}

typedef void vector_hold(const char *path, const char *backend, const struct tolerance *tolerance);

static void vector_hold_alone(const char *path, const char *backend,
                              const struct tolerance *tolerance)
{
    cr_assert_eq(vector_attend(path, backend, tolerance, 1), 0, "%s: %s", path, words);
    case_hold(path, path_in("out1"), backend, tolerance);
}

static void vector_hold_both(const char *path, const char *backend,
                             const struct tolerance *tolerance)
{
    vector_hold_alone(path, backend, tolerance);
    cr_assert_eq(vector_attend(path, backend, tolerance, 2), 0, "%s: %s", path, words);
    bits_hold(path_in("out1"), path_in("out2"));
}

/* All vectors whose name begins so, at least `least`. */
static void vectors_run(const char *begin, size_t least, const char *backend, vector_hold *hold,
                        const struct tolerance *tolerance)
{
    char pattern[512];
    glob_t found;
    snprintf(pattern, sizeof pattern, VECTORS "/%s*.safetensors", begin);
    cr_assert_eq(glob(pattern, 0, NULL, &found), 0);
    cr_assert_geq(found.gl_pathc, least, "%zu vectors %s", found.gl_pathc, pattern);
    for (size_t i = 0; i < found.gl_pathc; i++) hold(found.gl_pathv[i], backend, tolerance);
    globfree(&found);
}

Test(performer_attend, vectors_by_the_reference)
{
    vectors_run("", 62, "reference", vector_hold_both, &FP32);
}

Test(performer_attend, vectors_by_the_cpu_backend)
{
    vectors_run("", 62, "cpu", vector_hold_both, &FP32);
}

Test(performer_attend, vectors_in_bf16_by_the_cpu_backend)
{
    vectors_run("", 62, "cpu", vector_hold_both, &BF16);
}

Test(performer_attend, vectors_in_bf16_by_the_reference)
{
    vectors_run("", 62, "reference", vector_hold_both, &BF16);
}

/* Each instruction set that this machine has; that bits do not depend on threads is its best one's to show. */
static void instruction_sets_run(const struct tolerance *tolerance)
{
#define ISA_NAME(isa, text) "cpu (" text ")",
    static const char *const names[] = {CPU_ISAS(ISA_NAME)};
#undef ISA_NAME
    size_t run = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        vector_attend("no such case", names[i], tolerance, 1);
        if (strstr(words, "lacks instructions")) continue;
        vectors_run("", 62, names[i], vector_hold_alone, tolerance);
        run++;
    }
    cr_expect(run > 0);
}

Test(performer_attend, vectors_by_every_instruction_set)
{
    instruction_sets_run(&FP32);
}

Test(performer_attend, vectors_in_bf16_by_every_instruction_set)
{
    instruction_sets_run(&BF16);
}

#ifdef ON_CUDASHIM /* the program was linked with it */
Test(performer_attend, cuda_vectors)
{
    vectors_run("", 62, "cuda", vector_hold_both, &FP32);
}

Test(performer_attend, cuda_vectors_in_bf16)
{
    vectors_run("", 62, "cuda", vector_hold_both, &BF16);
}
#endif

/* ---- cases of our own ---- */

enum { HEADS = 2, LENGTH = 3, D = 2, E = 4, M = 5 };

struct made {
    struct tensor_entry tensors[8];
    size_t tensor_count;
    struct metadata_entry metadata[8];
    size_t metadata_count;
};

static const float NUMBERS[64] = {0.5f, -1, 0.25f, 2, 1, -0.75f, 0, 1};

static void tensor_put(struct made *made, const char *name, enum tensor_type type, int dimensions,
                       int64_t a, int64_t b, int64_t c)
{
    static const size_t sizes[] = {[TENSOR_F32] = 4, [TENSOR_F64] = 8, [TENSOR_U8] = 1};
    struct tensor_entry *entry = &made->tensors[made->tensor_count++];
    *entry = (struct tensor_entry){
        .type = type,
        .dimensions = dimensions,
        .shape = {a, b, c},
        .bytes = sizes[type] * (size_t)(a * (dimensions > 1 ? b : 1) * (dimensions > 2 ? c : 1)),
        .data = NUMBERS};
    snprintf(entry->name, sizeof entry->name, "%s", name);
}

static struct made made_right(void)
{
    struct made made = {.metadata = {{"attention", "favor"},
                                     {"kernel", "softmax-positive"},
                                     {"epsilon", "1e-6"},
                                     {"causal", "true"}},
                        .metadata_count = 4};
    tensor_put(&made, "q", TENSOR_F32, 3, HEADS, LENGTH, D);
    tensor_put(&made, "k", TENSOR_F32, 3, HEADS, LENGTH, D);
    tensor_put(&made, "v", TENSOR_F32, 3, HEADS, LENGTH, E);
    tensor_put(&made, "projection", TENSOR_F32, 2, M, D, 0);
    tensor_put(&made, "dout", TENSOR_F32, 3, HEADS, LENGTH, E);
    return made;
}

static void made_write(const struct made *made)
{
    struct fault fault;
    cr_assert_eq(safetensors_write(path_in("case"), made->tensors, made->tensor_count,
                                   made->metadata, made->metadata_count, &fault),
                 ST_OK, "%s", fault.text);
}

/* The program on the case, with further options; its exit status. */
static int made_attend(const struct made *made, const char *options)
{
    char arguments[400];
    made_write(made);
    unlink(path_in("out"));
    snprintf(arguments, sizeof arguments, "'%s' --out '%s' %s", path_in("case"), path_in("out"),
             options);
    return attend(arguments);
}

/* Exit 2, the words, and no output file. */
static void made_refused(const struct made *made, const char *said)
{
    cr_expect_eq(made_attend(made, "--threads 1"), 2, "not refused: %s", said);
    cr_expect(strstr(words, said), "'%s' is not in: %s", said, words);
    cr_expect_neq(access(path_in("out"), F_OK), 0, "%s: wrote a file", said);
}

static struct tensor_entry *tensor_of(struct made *made, const char *name)
{
    for (size_t i = 0; i < made->tensor_count; i++)
        if (strcmp(made->tensors[i].name, name) == 0) return &made->tensors[i];
    return NULL;
}

static void tensor_drop(struct made *made, const char *name)
{
    struct tensor_entry *entry = tensor_of(made, name);
    *entry = made->tensors[--made->tensor_count];
}

static const char **option_of(struct made *made, const char *key)
{
    for (size_t i = 0; i < made->metadata_count; i++)
        if (strcmp(made->metadata[i].key, key) == 0) return &made->metadata[i].value;
    return NULL;
}

Test(performer_attend, gradients_only_with_dout)
{
    struct safetensors *file;
    struct fault fault;
    struct made made = made_right();
    cr_assert_eq(made_attend(&made, "--threads 3"), 0, "%s", words);
    cr_assert_eq(safetensors_open(path_in("out"), &file, &fault), ST_OK);
    cr_expect_eq(safetensors_count(file), 4);
    cr_expect_str_eq(safetensors_metadata(file, "backend"), "cpu");
    cr_expect_str_eq(safetensors_metadata(file, "precision"), "fp32");
    cr_expect_str_eq(safetensors_metadata(file, "threads"), "3");
    safetensors_close(file);

    tensor_drop(&made, "dout");
    cr_assert_eq(made_attend(&made, "--backend reference"), 0, "%s", words);
    cr_assert_eq(safetensors_open(path_in("out"), &file, &fault), ST_OK);
    cr_expect_eq(safetensors_count(file), 1);
    cr_expect_str_eq(safetensors_metadata(file, "backend"), "reference");
    safetensors_close(file);
}

Test(performer_attend, bench_prints_both_medians)
{
    struct made made = made_right();
    double forward = -1, backward = -1;
    cr_assert_eq(made_attend(&made, "--bench 3 --threads 1"), 0, "%s", words);
    cr_assert_eq(
        sscanf(words, "forward %lf ms (median of 3%*[^\n]\nbackward %lf ms", &forward, &backward),
        2, "%s", words);
    cr_expect(forward >= 0 && backward >= 0);
}

Test(performer_attend, a_wrong_tensor_is_named)
{
    static const char *const needed[] = {"q", "k", "v", "projection"};
    for (size_t i = 0; i < 4; i++) {
        struct made made = made_right();
        char said[64];
        tensor_drop(&made, needed[i]);
        snprintf(said, sizeof said, "tensor %s is missing", needed[i]);
        made_refused(&made, said);
    }
    struct made made = made_right();
    tensor_of(&made, "k")->shape[0] = 4;
    tensor_of(&made, "k")->shape[2] = 1;
    made_refused(&made, "tensor k: dimension 0 is 4");

    made = made_right();
    tensor_of(&made, "projection")->shape[0] = 2;
    tensor_of(&made, "projection")->shape[1] = 5;
    made_refused(&made, "tensor projection: dimension 1 is 5, with the other tensors it must be 2");

    made = made_right();
    tensor_of(&made, "dout")->dimensions = 2;
    tensor_of(&made, "dout")->shape[0] = 6;
    tensor_of(&made, "dout")->shape[1] = 4;
    made_refused(&made, "tensor dout has 2 dimensions, 3 are wanted");

    made = made_right();
    tensor_drop(&made, "v");
    tensor_put(&made, "v", TENSOR_F64, 3, HEADS, LENGTH, 2);
    tensor_drop(&made, "dout");
    struct tensor_entry v = *tensor_of(&made, "v"); /* wider types come first */
    *tensor_of(&made, "v") = made.tensors[0];
    made.tensors[0] = v;
    made_refused(&made, "tensor v is not of type F32");

    made = made_right();
    tensor_put(&made, "key_mask", TENSOR_U8, 1, LENGTH + 1, 0, 0);
    made_refused(&made, "tensor key_mask: dimension 0 is 4");

    made = made_right();
    tensor_put(&made, "key_mask", TENSOR_F32, 1, LENGTH, 0, 0);
    made_refused(&made, "tensor key_mask is not of type U8 or BOOL");
}

Test(performer_attend, a_wrong_option_is_named)
{
    static const char *const needed[] = {"attention", "kernel", "epsilon", "causal"};
    for (size_t i = 0; i < 4; i++) {
        struct made made = made_right();
        char said[64];
        made.metadata[i] = made.metadata[--made.metadata_count];
        snprintf(said, sizeof said, "__metadata__ has no \"%s\"", needed[i]);
        made_refused(&made, said);
    }
    static const struct {
        const char *key, *value, *said;
    } wrong[] = {
        {"attention", "performer", "there is no attention \"performer\""},
        {"attention", "linformer", "attention linformer cannot be causal"},
        {"attention", "reformer", "tensor rotations is missing"},
        {"kernel", "softmax", "there is no kernel \"softmax\""},
        {"epsilon", "tiny", "epsilon is a number"},
        {"epsilon", "1e-6x", "epsilon is a number"},
        {"epsilon", "-1", "epsilon is a number"},
        {"epsilon", "nan", "epsilon is a number"},
        {"causal", "yes", "causal is \"true\" or \"false\", not \"yes\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct made made = made_right();
        *option_of(&made, wrong[i].key) = wrong[i].value;
        made_refused(&made, wrong[i].said);
    }
}

/* Keys are the queries: a reformer case needs no k. Its chunk may be left out. */
Test(performer_attend, reformer_takes_rotations_and_a_chunk)
{
    struct made made = made_right();
    *option_of(&made, "attention") = "reformer";
    tensor_drop(&made, "k");
    tensor_drop(&made, "projection");
    tensor_put(&made, "rotations", TENSOR_F32, 3, 2, D, 3);
    cr_expect_eq(made_attend(&made, ""), 0, "%s", words);
    made.metadata[made.metadata_count++] = (struct metadata_entry){"chunk", "2"};
    cr_expect_eq(made_attend(&made, ""), 0, "%s", words);
    *option_of(&made, "chunk") = "0";
    made_refused(&made, "chunk takes a number from 1 to 16384");
    tensor_of(&made, "rotations")->shape[1] = 3;
    tensor_of(&made, "rotations")->shape[2] = D;
    *option_of(&made, "chunk") = "2";
    made_refused(&made, "tensor rotations: dimension 1 is 3, with the other tensors it must be 2");
}

Test(performer_attend, linformer_takes_two_projections_of_a_rank)
{
    struct made made = made_right();
    *option_of(&made, "attention") = "linformer";
    *option_of(&made, "causal") = "false";
    made_refused(&made, "tensor key_projection is missing");
    tensor_put(&made, "key_projection", TENSOR_F32, 2, 2, LENGTH, 0);
    made_refused(&made, "tensor value_projection is missing");
    tensor_put(&made, "value_projection", TENSOR_F32, 2, 1, LENGTH, 0);
    made_refused(&made, "tensor value_projection: dimension 0 is 1");
    tensor_drop(&made, "value_projection");
    tensor_put(&made, "value_projection", TENSOR_F32, 2, 2, LENGTH, 0);
    cr_expect_eq(made_attend(&made, ""), 0, "%s", words);
}

Test(performer_attend, a_wrong_command_line_is_named)
{
    struct made made = made_right();
    static const struct {
        const char *options, *said;
    } wrong[] = {
        {"--precision fp16", "--precision is fp32 or bf16, not 'fp16'"},
        {"--backend cuda", "--backend cuda: this build is CPU-only"},
        {"--backend gpu", "--backend gpu: there is no such backend; there are reference, cpu and"},
        {"--backend 'cpu (x86-64-v5)'", "--backend cpu (x86-64-v5): there is no such backend"},
        {"--threads 0", "--threads takes a number from 1 to"},
        {"--threads 2x", "--threads takes a number from 1 to"},
        {"--bench -1", "--bench takes a number from 1 to"},
        {"--fast", "unrecognized option"},
        {"second", "one case file is needed, 2 given"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect_eq(made_attend(&made, wrong[i].options), 2, "%s", wrong[i].options);
        cr_expect(strstr(words, wrong[i].said), "'%s' is not in: %s", wrong[i].said, words);
    }
    char arguments[200];
    cr_expect_eq(attend("--out x"), 2);
    cr_expect(strstr(words, "one case file is needed, 0 given"), "%s", words);
    snprintf(arguments, sizeof arguments, "'%s'", path_in("case"));
    cr_expect_eq(attend(arguments), 2);
    cr_expect(strstr(words, "--out FILE is missing"), "%s", words);
}

Test(performer_attend, a_file_that_is_none_is_named)
{
    char arguments[300];
    snprintf(arguments, sizeof arguments, "'%s' --out '%s'", path_in("nothing"), path_in("out"));
    cr_expect_eq(attend(arguments), 2);
    cr_expect(strstr(words, "nothing") && strstr(words, "No such file"), "%s", words);

    FILE *file = fopen(path_in("case"), "w");
    cr_assert_not_null(file);
    fputs("this is no safetensors file, and long enough to have a length", file);
    fclose(file);
    snprintf(arguments, sizeof arguments, "'%s' --out '%s'", path_in("case"), path_in("out"));
    cr_expect_eq(attend(arguments), 2);
    cr_expect(strstr(words, path_in("case")), "%s", words);

    struct made made = made_right();
    made_write(&made);
    snprintf(arguments, sizeof arguments, "'%s' --out '%s/no/such/out'", path_in("case"),
             directory);
    cr_expect_eq(attend(arguments), 2);
    cr_expect(strstr(words, "no/such/out"), "%s", words);

    snprintf(arguments, sizeof arguments, "'%s' --out '%s'", path_in("case"), directory);
    cr_expect_eq(attend(arguments), 2);
    cr_expect(strstr(words, "no regular file"), "%s", words);
    snprintf(arguments, sizeof arguments, "'%s' --out '%s'", path_in("case"), path_in("case"));
    cr_expect_eq(attend(arguments), 2);
    cr_expect(strstr(words, "is the case itself"), "%s", words);
}

Test(performer_attend, help_and_version)
{
    cr_expect_eq(attend("--help"), 0);
    cr_expect(strstr(words, "usage: performer-attend CASE"), "%s", words);
    cr_expect_eq(attend("--version"), 0);
    cr_expect(strstr(words, "performer-attend " PERFORMERD_VERSION), "%s", words);
}
