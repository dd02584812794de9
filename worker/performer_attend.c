/*
 * performer-attend: one attention, from a file to a file, so that anyone
 * can check the kernels against another implementation. Reads q, k, v,
 * what the kind of attention needs, and dout; writes out, dq, dk, dv.
 */

#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "kernels/backend.h"
#include "proto/safetensors.h"
#include "proto/whole_number.h"

enum { EXIT_BAD_INPUT = 2, THREADS_MAX = 1024, BENCH_MAX = 1000000 };
enum { CHUNK_DEFAULT = 64, CHUNK_MAX = 16384 }; /* as in a job file */

static const char USAGE[] =
    "usage: performer-attend CASE.safetensors --out OUT.safetensors [options]\n"
    "\n"
    "Computes one attention. CASE holds q, k [heads, length, d], v [heads, length, e] and, where the kind needs\n"
    "them, projection [m, d] (favor), key_projection and value_projection [rank, length] (linformer), rotations\n"
    "[rounds, d, buckets / 2] (reformer, whose keys are its q: no k is read, dk is 0), and key_mask [length]; with\n"
    "dout [heads, length, e] the gradients dq, dk, dv are computed too. Its __metadata__ says attention (favor,\n"
    "softmax, linformer, reformer, identity), causal (true, false), for favor kernel (as in a job file) and\n"
    "epsilon, and for reformer chunk [64].\n"
    "\n"
    "  --out FILE            where out (and dq, dk, dv) go\n"
    "  --backend NAME        reference, cpu or cuda [cpu]; \"cpu (x86-64-v3)\": of cpu that instruction set\n"
    "  --precision NAME      fp32 or bf16 [fp32]\n"
    "  --threads N           threads [as many as there are cores]\n"
    "  --bench N             time N more runs of each pass and print the medians\n"
    "  --help                this text\n"
    "  --version             the version\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage or a case that cannot be computed.\n";

struct request {
    const char *case_path, *out_path;
    const struct backend *backend;
    enum precision precision;
    int threads;
    int bench; /* runs to time, 0: none */
};

/* A case, in memory of its backend. With nothing else set, it may be freed. */
struct attend {
    const struct backend *backend;
    struct attention call;
    bool backward;
    float *q, *k, *v, *dout; /* as in the file; NULL where it has none */
    float *matrices[2];      /* projection; key_projection and value_projection; rotations */
    uint8_t *key_mask;
    float *out, *dq, *dk, *dv, *saved;
    struct stream stream;
};

/* ---- command line ---- */

static int cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return CPU_COUNT(&set);
}

static enum status count_parse(const char *option, const char *text, int max, int *count,
                               struct fault *fault)
{
    long value;
    enum status status = whole_number_parse(option, text, 1, max, &value, fault);
    if (status == ST_OK) *count = (int)value;
    return status;
}

static enum status backend_parse(const char *name, const struct backend **backend,
                                 struct fault *fault)
{
    const struct backend *found = backend_find(name);
    if (!found)
        return fault_set(fault, ST_INVALID, "--backend %s: %s", name, backend_why_not(name));
    *backend = found;
    return ST_OK;
}

static enum status precision_parse(const char *name, enum precision *precision, struct fault *fault)
{
    if (precision_from_text(name, precision)) return ST_OK;
    return fault_set(fault, ST_INVALID, "--precision is fp32 or bf16, not '%s'", name);
}

enum option_code {
    OPTION_OUT = 1,
    OPTION_BACKEND,
    OPTION_PRECISION,
    OPTION_THREADS,
    OPTION_BENCH,
    OPTION_HELP,
    OPTION_VERSION
};

static enum status option_take(int code, const char *value, struct request *request,
                               struct fault *fault)
{
    switch (code) {
    case OPTION_OUT:
        request->out_path = value;
        return ST_OK;
    case OPTION_BACKEND:
        return backend_parse(value, &request->backend, fault);
    case OPTION_PRECISION:
        return precision_parse(value, &request->precision, fault);
    case OPTION_THREADS:
        return count_parse("--threads", value, THREADS_MAX, &request->threads, fault);
    case OPTION_BENCH:
        return count_parse("--bench", value, BENCH_MAX, &request->bench, fault);
    default: /* getopt_long has said what is wrong */
        return fault_set(fault, ST_INVALID, "see performer-attend --help");
    }
}

/* A write that fails removes its file, so it must be one that can be removed and made again. */
static enum status out_check(const struct request *request, struct fault *fault)
{
    struct stat out, input;
    if (stat(request->out_path, &out) != 0) return ST_OK; /* writing will say what is wrong */
    if (!S_ISREG(out.st_mode))
        return fault_set(fault, ST_INVALID, "--out %s is there and no regular file",
                         request->out_path);
    if (stat(request->case_path, &input) == 0 && out.st_dev == input.st_dev &&
        out.st_ino == input.st_ino)
        return fault_set(fault, ST_INVALID, "--out %s is the case itself", request->out_path);
    return ST_OK;
}

/* ST_OK with `*done`: all that was asked for has been printed. */
static enum status request_parse(int argc, char **argv, struct request *request, bool *done,
                                 struct fault *fault)
{
    static const struct option options[] = {
        {"out", required_argument, NULL, OPTION_OUT},
        {"backend", required_argument, NULL, OPTION_BACKEND},
        {"precision", required_argument, NULL, OPTION_PRECISION},
        {"threads", required_argument, NULL, OPTION_THREADS},
        {"bench", required_argument, NULL, OPTION_BENCH},
        {"help", no_argument, NULL, OPTION_HELP},
        {"version", no_argument, NULL, OPTION_VERSION},
        {NULL, 0, NULL, 0},
    };
    *request = (struct request){.backend = backend_find("cpu"), .threads = cores()};
    *done = false;

    for (int code; (code = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (code == OPTION_HELP || code == OPTION_VERSION) {
            fputs(code == OPTION_HELP ? USAGE : "performer-attend " PERFORMERD_VERSION "\n",
                  stdout);
            *done = true;
            return ST_OK;
        }
        enum status status = option_take(code, optarg, request, fault);
        if (status != ST_OK) return status;
    }
    if (optind + 1 != argc)
        return fault_set(fault, ST_INVALID, "one case file is needed, %d given", argc - optind);
    if (!request->out_path) return fault_set(fault, ST_INVALID, "--out FILE is missing");
    request->case_path = argv[optind];
    return out_check(request, fault);
}

/* ---- the case ---- */

static enum status shape_check(const struct tensor_entry *entry, int dimensions,
                               const int64_t *shape, struct fault *fault)
{
    if (entry->dimensions != dimensions)
        return fault_set(fault, ST_INVALID, "tensor %s has %d dimensions, %d are wanted",
                         entry->name, entry->dimensions, dimensions);
    for (int i = 0; i < dimensions; i++) {
        if (entry->shape[i] < 1)
            return fault_set(fault, ST_INVALID, "tensor %s is empty", entry->name);
        if (shape[i] && entry->shape[i] != shape[i])
            return fault_set(
                fault, ST_INVALID,
                "tensor %s: dimension %d is %lld, with the other tensors it must be %lld",
                entry->name, i, (long long)entry->shape[i], (long long)shape[i]);
    }
    return ST_OK;
}

/*
 * Copies a float tensor, since data in the file need not be aligned. A 0 in `shape`
 * takes any size and is filled in. ST_NOT_FOUND: there is none of that name.
 */
static enum status floats_read(const struct safetensors *file, const struct backend *backend,
                               const char *name, int dimensions, int64_t *shape, float **values,
                               struct fault *fault)
{
    const struct tensor_entry *entry = safetensors_find(file, name);
    if (!entry) return fault_set(fault, ST_NOT_FOUND, "tensor %s is missing", name);
    enum status status = shape_check(entry, dimensions, shape, fault);
    if (status != ST_OK) return status;
    if (entry->type != TENSOR_F32)
        return fault_set(fault, ST_INVALID, "tensor %s is not of type F32", name);
    void *copy;
    status = backend->memory_new(entry->bytes, &copy);
    if (status != ST_OK) return fault_set(fault, status, "no memory for tensor %s", name);
    memcpy(copy, entry->data, entry->bytes);
    for (int i = 0; i < dimensions; i++) shape[i] = entry->shape[i];
    *values = copy;
    return ST_OK;
}

static enum status key_mask_read(const struct safetensors *file, struct attend *attend,
                                 struct fault *fault)
{
    const struct tensor_entry *entry = safetensors_find(file, "key_mask");
    if (!entry) return ST_OK;
    enum status status = shape_check(entry, 1, &attend->call.length, fault);
    if (status != ST_OK) return status;
    if (entry->type != TENSOR_U8 && entry->type != TENSOR_BOOL)
        return fault_set(fault, ST_INVALID, "tensor key_mask is not of type U8 or BOOL");
    void *copy;
    status = attend->backend->memory_new(entry->bytes, &copy);
    if (status != ST_OK) return fault_set(fault, status, "no memory for tensor key_mask");
    memcpy(copy, entry->data, entry->bytes);
    attend->key_mask = copy;
    attend->call.key_mask = attend->key_mask;
    return ST_OK;
}

static enum status option_read(const struct safetensors *file, const char *key, const char *example,
                               const char **value, struct fault *fault)
{
    const char *found = safetensors_metadata(file, key);
    if (!found)
        return fault_set(fault, ST_INVALID, "__metadata__ has no \"%s\", for example \"%s\"", key,
                         example);
    *value = found;
    return ST_OK;
}

static enum status epsilon_parse(const char *text, float *epsilon, struct fault *fault)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0) || !isfinite(value))
        return fault_set(fault, ST_INVALID,
                         "__metadata__: epsilon is a number of 0 or more, not \"%s\"", text);
    *epsilon = (float)value;
    return ST_OK;
}

static enum status favor_options_read(const struct safetensors *file, struct attention *call,
                                      struct fault *fault)
{
    const char *kernel, *epsilon;
    enum status status = option_read(file, "kernel", "softmax-positive", &kernel, fault);
    if (status != ST_OK) return status;
    if (!attention_kernel_from_text(kernel, &call->kernel))
        return fault_set(fault, ST_INVALID, "__metadata__: there is no kernel \"%s\"", kernel);
    status = option_read(file, "epsilon", "1e-6", &epsilon, fault);
    if (status != ST_OK) return status;
    return epsilon_parse(epsilon, &call->epsilon, fault);
}

static enum status chunk_read(const struct safetensors *file, struct attention *call,
                              struct fault *fault)
{
    const char *text = safetensors_metadata(file, "chunk");
    int chunk = CHUNK_DEFAULT;
    enum status status =
        text ? count_parse("__metadata__: chunk", text, CHUNK_MAX, &chunk, fault) : ST_OK;
    call->chunk = chunk;
    return status;
}

static enum status support_check(const struct attend *attend, struct fault *fault)
{
    const char *why_not;
    if (attend->backend->attention_supported(&attend->call, &why_not)) return ST_OK;
    return fault_set(fault, ST_UNSUPPORTED, "%s", why_not);
}

static enum status options_read(const struct safetensors *file, struct attention *call,
                                struct fault *fault)
{
    const char *kind, *causal;
    enum status status = option_read(file, "attention", "favor", &kind, fault);
    if (status != ST_OK) return status;
    if (!attention_kind_from_text(kind, &call->kind))
        return fault_set(fault, ST_INVALID, "__metadata__: there is no attention \"%s\"", kind);
    if (call->kind == ATTENTION_FAVOR) {
        status = favor_options_read(file, call, fault);
        if (status != ST_OK) return status;
    }
    if (call->kind == ATTENTION_REFORMER) {
        status = chunk_read(file, call, fault);
        if (status != ST_OK) return status;
    }
    status = option_read(file, "causal", "true", &causal, fault);
    if (status != ST_OK) return status;
    call->causal = strcmp(causal, "true") == 0;
    if (!call->causal && strcmp(causal, "false") != 0)
        return fault_set(fault, ST_INVALID,
                         "__metadata__: causal is \"true\" or \"false\", not \"%s\"", causal);
    return ST_OK;
}

static enum status projection_read(const struct safetensors *file, struct attend *attend,
                                   struct fault *fault)
{
    int64_t shape[2] = {0, attend->call.head_dim};
    enum status status =
        floats_read(file, attend->backend, "projection", 2, shape, &attend->matrices[0], fault);
    if (status != ST_OK) return status;
    attend->call.features = shape[0];
    attend->call.projection = attend->matrices[0];
    return ST_OK;
}

static enum status linformer_read(const struct safetensors *file, struct attend *attend,
                                  struct fault *fault)
{
    int64_t shape[2] = {0, attend->call.length};
    enum status status =
        floats_read(file, attend->backend, "key_projection", 2, shape, &attend->matrices[0], fault);
    if (status != ST_OK) return status;
    status = floats_read(file, attend->backend, "value_projection", 2, shape, &attend->matrices[1],
                         fault);
    if (status != ST_OK) return status;
    attend->call.rank = shape[0];
    attend->call.columns = attend->call.length;
    attend->call.key_projection = attend->matrices[0];
    attend->call.value_projection = attend->matrices[1];
    return ST_OK;
}

static enum status rotations_read(const struct safetensors *file, struct attend *attend,
                                  struct fault *fault)
{
    int64_t shape[3] = {0, attend->call.head_dim, 0};
    enum status status =
        floats_read(file, attend->backend, "rotations", 3, shape, &attend->matrices[0], fault);
    if (status != ST_OK) return status;
    attend->call.rounds = shape[0];
    attend->call.buckets = 2 * shape[2];
    attend->call.rotations = attend->matrices[0];
    return ST_OK;
}

static enum status matrices_read(const struct safetensors *file, struct attend *attend,
                                 struct fault *fault)
{
    switch (attend->call.kind) {
    case ATTENTION_FAVOR:
        if (attend->call.kernel == KERNEL_ELU1) return ST_OK;
        return projection_read(file, attend, fault);
    case ATTENTION_LINFORMER:
        return linformer_read(file, attend, fault);
    case ATTENTION_REFORMER:
        return rotations_read(file, attend, fault);
    default:
        return ST_OK;
    }
}

static enum status tensors_read(const struct safetensors *file, struct attend *attend,
                                struct fault *fault)
{
    struct attention *call = &attend->call;
    int64_t q[3] = {0, 0, 0};
    enum status status = floats_read(file, attend->backend, "q", 3, q, &attend->q, fault);
    if (status != ST_OK) return status;
    if (call->kind != ATTENTION_REFORMER) {
        status = floats_read(file, attend->backend, "k", 3, q, &attend->k, fault);
        if (status != ST_OK) return status;
    }
    int64_t v[3] = {q[0], q[1], 0};
    status = floats_read(file, attend->backend, "v", 3, v, &attend->v, fault);
    if (status != ST_OK) return status;
    call->batch = 1;
    call->heads = q[0];
    call->length = q[1];
    call->head_dim = q[2];
    call->value_dim = v[2];
    attend->backward = safetensors_find(file, "dout") != NULL;
    if (attend->backward) {
        status = floats_read(file, attend->backend, "dout", 3, v, &attend->dout, fault);
        if (status != ST_OK) return status;
    }
    status = matrices_read(file, attend, fault);
    if (status != ST_OK) return status;
    return key_mask_read(file, attend, fault);
}

static enum status case_read(const struct request *request, struct attend *attend,
                             struct fault *fault)
{
    struct safetensors *file;
    enum status status = safetensors_open(request->case_path, &file, fault);
    if (status != ST_OK) return status;
    attend->call.precision = request->precision;
    status = options_read(file, &attend->call, fault);
    if (status == ST_OK) status = support_check(attend, fault);
    if (status == ST_OK) status = tensors_read(file, attend, fault);
    if (status == ST_OK) status = support_check(attend, fault); /* sizes count too */
    if (status != ST_OK) fault_wrap(fault, "%s", request->case_path);
    safetensors_close(file);
    return status;
}

/* ---- the computation ---- */

static struct heads_view heads_of(const struct attention *call, float *data, int64_t width)
{
    return (struct heads_view){.data = data,
                               .batch_stride = call->heads * call->length * width,
                               .head_stride = call->length * width,
                               .row_stride = width};
}

static struct attention_backward backward_of(const struct attend *attend)
{
    const struct attention *call = &attend->call;
    return (struct attention_backward){.forward = *call,
                                       .dout = heads_of(call, attend->dout, call->value_dim),
                                       .dq = heads_of(call, attend->dq, call->head_dim),
                                       .dk = heads_of(call, attend->dk, call->head_dim),
                                       .dv = heads_of(call, attend->dv, call->value_dim)};
}

static size_t scratch_bytes(const struct backend *backend, const struct attend *attend, int threads)
{
    size_t bytes = backend->attention_scratch(&attend->call, threads);
    if (attend->backward) {
        const struct attention_backward backward = backward_of(attend);
        const size_t more = backend->attention_backward_scratch(&backward, threads);
        if (more > bytes) bytes = more;
    }
    return (bytes + 63) / 64 * 64;
}

/* Zeros, for results that a backend leaves alone. */
static enum status floats_new(const struct backend *backend, int64_t count, float **floats,
                              struct fault *fault)
{
    void *memory;
    const size_t bytes = (size_t)count * sizeof **floats;
    enum status status = backend->memory_new(bytes, &memory);
    if (status != ST_OK)
        return fault_set(fault, status, "no memory for the results: %zu bytes", bytes);
    memset(memory, 0, bytes);
    *floats = memory;
    return ST_OK;
}

static enum status results_new(struct attend *attend, struct fault *fault)
{
    const struct attention *call = &attend->call;
    const int64_t rows = call->heads * call->length;
    const int64_t saved = (int64_t)attend->backend->attention_saved_floats(call) + 1;
    const struct {
        float **floats;
        int64_t count;
    } wanted[] = {
        {&attend->out, rows * call->value_dim},
        {&attend->dq, rows * call->head_dim},
        {&attend->dk, rows * call->head_dim},
        {&attend->dv, rows * call->value_dim},
        {&attend->saved, saved},
    };
    enum status status = ST_OK;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0] && status == ST_OK; i++)
        status = floats_new(attend->backend, wanted[i].count, wanted[i].floats, fault);
    return status;
}

/* Memory for the results and for the backend, and the threads. */
static enum status attend_prepare(const struct request *request, struct attend *attend,
                                  struct fault *fault)
{
    struct attention *call = &attend->call;
    struct stream *stream = &attend->stream;
    enum status status = results_new(attend, fault);
    if (status != ST_OK) return status;
    call->q = heads_of(call, attend->q, call->head_dim);
    call->k = heads_of(call, attend->k, call->head_dim);
    call->v = heads_of(call, attend->v, call->value_dim);
    call->out = heads_of(call, attend->out, call->value_dim);
    call->saved = attend->backward ? attend->saved : NULL;

    stream->scratch_bytes = scratch_bytes(attend->backend, attend, request->threads);
    status = attend->backend->memory_new(stream->scratch_bytes + 1, &stream->scratch);
    if (status != ST_OK)
        return fault_set(fault, status, "%zu bytes of scratch", stream->scratch_bytes);
    status = team_new(request->threads, &stream->team);
    if (status != ST_OK)
        return fault_set(fault, status, "could not start %d threads", request->threads);
    return ST_OK;
}

static void attend_free(struct attend *attend)
{
    void *memory[] = {attend->q,
                      attend->k,
                      attend->v,
                      attend->dout,
                      attend->out,
                      attend->dq,
                      attend->dk,
                      attend->dv,
                      attend->matrices[0],
                      attend->matrices[1],
                      attend->key_mask,
                      attend->saved,
                      attend->stream.scratch};
    team_free(attend->stream.team);
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        attend->backend->memory_free(memory[i]);
}

static enum status forward_run(const struct backend *backend, struct attend *attend)
{
    enum status status = backend->attention(&attend->stream, &attend->call);
    if (status != ST_OK) return status;
    return backend->sync(&attend->stream);
}

static enum status backward_run(const struct backend *backend, struct attend *attend)
{
    const struct attention_backward backward = backward_of(attend);
    enum status status = backend->attention_backward(&attend->stream, &backward);
    if (status != ST_OK) return status;
    return backend->sync(&attend->stream);
}

static enum status attend_run(const struct backend *backend, struct attend *attend,
                              struct fault *fault)
{
    enum status status = forward_run(backend, attend);
    if (status == ST_OK && attend->backward) status = backward_run(backend, attend);
    if (status == ST_OK) return ST_OK;
    backend_fault(backend, status, fault);
    return fault_wrap(fault, "backend %s", backend->name);
}

/* ---- results ---- */

static struct tensor_entry entry_of(const char *name, const struct attention *call, int64_t width,
                                    const float *data)
{
    struct tensor_entry entry = {.type = TENSOR_F32,
                                 .dimensions = 3,
                                 .shape = {call->heads, call->length, width},
                                 .bytes =
                                     (size_t)(call->heads * call->length * width) * sizeof *data,
                                 .data = data};
    snprintf(entry.name, sizeof entry.name, "%s", name);
    return entry;
}

static enum status results_write(const struct request *request, const struct attend *attend,
                                 struct fault *fault)
{
    const struct attention *call = &attend->call;
    const struct tensor_entry entries[] = {
        entry_of("out", call, call->value_dim, attend->out),
        entry_of("dq", call, call->head_dim, attend->dq),
        entry_of("dk", call, call->head_dim, attend->dk),
        entry_of("dv", call, call->value_dim, attend->dv),
    };
    char threads[16];
    snprintf(threads, sizeof threads, "%d", request->threads);
    const struct metadata_entry metadata[] = {
        {"backend", request->backend->name},
        {"precision", precision_text(call->precision)},
        {"threads", threads},
    };
    return safetensors_write(request->out_path, entries, attend->backward ? 4 : 1, metadata, 3,
                             fault);
}

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef enum status attend_pass(const struct backend *backend, struct attend *attend);

static void pass_bench(const struct request *request, struct attend *attend, const char *name,
                       attend_pass *pass, double *ms)
{
    for (int i = 0; i < request->bench; i++) {
        const double start = now_ms();
        pass(request->backend, attend);
        ms[i] = now_ms() - start;
    }
    qsort(ms, (size_t)request->bench, sizeof *ms, by_value);
    const double median = (ms[(request->bench - 1) / 2] + ms[request->bench / 2]) / 2;
    printf("%s %.3f ms (median of %d, %s, %d threads)\n", name, median, request->bench,
           request->backend->description, request->threads);
}

/* The passes have run once without an error, and their input is the same. */
static enum status attend_bench(const struct request *request, struct attend *attend,
                                struct fault *fault)
{
    if (request->bench == 0) return ST_OK;
    double *ms = malloc((size_t)request->bench * sizeof *ms);
    if (!ms) return fault_set(fault, ST_NO_MEMORY, "no memory for %d times", request->bench);
    pass_bench(request, attend, "forward", forward_run, ms);
    if (attend->backward) pass_bench(request, attend, "backward", backward_run, ms);
    free(ms);
    return ST_OK;
}

static enum status request_serve(const struct request *request, struct fault *fault)
{
    struct attend attend = {.backend = request->backend};
    enum status status = case_read(request, &attend, fault);
    if (status == ST_OK) status = attend_prepare(request, &attend, fault);
    if (status == ST_OK) status = attend_run(request->backend, &attend, fault);
    if (status == ST_OK) status = results_write(request, &attend, fault);
    if (status == ST_OK) status = attend_bench(request, &attend, fault);
    attend_free(&attend);
    return status;
}

static int exit_code(enum status status)
{
    switch (status) {
    case ST_OK:
        return EXIT_SUCCESS;
    case ST_INVALID:
    case ST_NOT_FOUND:
    case ST_NOT_PERMITTED:
    case ST_UNSUPPORTED:
    case ST_TOO_LARGE:
    case ST_CORRUPT:
        return EXIT_BAD_INPUT;
    default:
        return EXIT_FAILURE;
    }
}

int main(int argc, char **argv)
{
    struct request request;
    struct fault fault = {0};
    bool done;

    enum status status = request_parse(argc, argv, &request, &done, &fault);
    if (status == ST_OK && !done) status = request_serve(&request, &fault);
    if (status != ST_OK) fprintf(stderr, "performer-attend: %s\n", fault.text);
    return exit_code(status);
}
