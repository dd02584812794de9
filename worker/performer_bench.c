/*
 * performer-bench: how fast a training step is. Whole steps, as a worker with one rank takes them (batch, forward, loss,
 * backward, norm, clipping, AdamW) on random tokens, for each attention that is built: tokens/s, the share of this machine's
 * measured product peak, and the ratio to the identity attention, which is the step without any attention. Of attention
 * alone kernels-bench tells; it may not know what a step is.
 *
 * The peak and one step of each attention are measured in turn, round after round, so that whatever else the machine does
 * hits all alike. Times are medians of the rounds; shares and ratios are taken inside a round first. With --paced another
 * program says when each round runs, and so can put its own steps between ours.
 */

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/peak.h"
#include "proto/cost.h"
#include "proto/durable.h"
#include "proto/logline.h"
#include "proto/whole_number.h"
#include "worker/step.h"

enum {
    EXIT_USAGE = 2,
    JOB_BYTES_MAX = 2048,
    ROWS_A_SEQUENCE = 4, /* of the token file, for each sequence of a batch */
    ROUNDS_MIN = 3,
    ROUNDS_MAX = 10000,
};

/* O(name, default, least, most, meaning) */
#define SIZES(O)                                                           \
    O(layers, 6, 1, 1000, "blocks")                                        \
    O(heads, 8, 1, 1000, "attention heads; divides width")                 \
    O(width, 512, 1, 1000000, "size of a token's vector")                  \
    O(mlp, 1024, 1, 1000000, "inner size of the feed-forward layer")       \
    O(features, 256, 1, 1000000, "favor: rows of the projection")          \
    O(vocab, 256, 3, 65536, "token ids, MASK among them if bidirectional") \
    O(length, 1024, 1, 10000000, "tokens a sequence")                      \
    O(batch, 4, 1, 100000, "sequences a step, in one forward pass")        \
    O(threads, 0, 1, 1024, "CPU threads [all cores]")                      \
    O(seconds, 20, 1, 86400, "how long to measure; three rounds at least")

struct options {
#define SIZE_FIELD(name, default_, least, most, meaning) long name;
    SIZES(SIZE_FIELD)
#undef SIZE_FIELD
    bool bidirectional, json, paced;
    enum precision precision;
    unsigned chosen; /* contenders, a bit each; none: all */
};

/* The one that the others are compared with comes first. */
static const struct contender_kind {
    const char *name, *kind, *kernel;
} kinds[] = {
    {"identity", "identity", "softmax-positive"},
    {"favor softmax-positive", "favor", "softmax-positive"},
    {"favor relu", "favor", "relu"},
    {"exact softmax", "softmax", "softmax-positive"},
};
enum { IDENTITY, CONTENDERS = sizeof kinds / sizeof kinds[0] };

struct contender {
    struct jobspec spec;
    struct collective *collective;
    struct training *training;
    struct cost cost;
};

struct round {
    double peak;           /* GFLOP/s */
    double ms[CONTENDERS]; /* of a step; 0: not chosen */
};

struct bench {
    const struct options *options;
    const struct backend *backend;
    char directory[4096]; /* of the token file; gone once all have it open */
    struct team *team;    /* the peak's */
    struct uplink *uplink;
    struct contender contender[CONTENDERS];
    struct round *rounds; /* (ROUNDS_MAX) */
    int round_count;
};

/* What the rounds come to for one contender. */
struct verdict {
    double tokens_per_second, step_ms, gflops, peak_share, time_ratio, flops_ratio;
};

/* ---- options ---- */

static void usage(FILE *file)
{
    fputs(
        "usage: performer-bench [--causal | --bidirectional] [--attention NAME]... [--precision NAME]\n"
        "                       [--json | --paced] [--SIZE N]...\n",
        file);
}

static void help(void)
{
    usage(stdout);
    puts(
        "\nTimes whole training steps with each attention, in turn, beside this machine's product peak.\n\n"
        "  --causal         a token sees only itself and those before it (default)\n"
        "  --bidirectional  it sees all; masked tokens are predicted\n"
        "  --attention NAME this row of the table and identity's, as they are named there; may be repeated\n"
        "  --precision NAME fp32 or bf16, and the peak with it [fp32]\n"
        "  --json           one object instead of a table\n"
        "  --paced          one round of what was chosen for each line of the standard input, answered by a line");
#define SIZE_HELP(name, default_, least, most, meaning)                      \
    if ((default_) > 0)                                                      \
        printf("  --%-8s N     %s [%d]\n", #name, meaning, (int)(default_)); \
    else                                                                     \
        printf("  --%-8s N     %s\n", #name, meaning);
    SIZES(SIZE_HELP)
#undef SIZE_HELP
    puts("  --help, --version");
}

static bool read_size(const char *option, const char *text, long least, long most, long *size)
{
    struct fault fault;
    if (whole_number_parse(option, text, least, most, size, &fault) == ST_OK) return true;
    fprintf(stderr, "performer-bench: %s\n", fault.text);
    return false;
}

static bool choose(const char *name, unsigned *chosen)
{
    for (int i = 0; i < CONTENDERS; i++) {
        if (strcmp(kinds[i].name, name) != 0) continue;
        *chosen |= 1U << i;
        return true;
    }
    fprintf(stderr, "performer-bench: --attention: no `%s`; there is", name);
    for (int i = 0; i < CONTENDERS; i++)
        fprintf(stderr, "%s `%s`", i > 0 ? "," : "", kinds[i].name);
    fputs("\n", stderr);
    return false;
}

/* -1: go on; else the exit code. */
static int parse_arguments(int argc, char **argv, struct options *options)
{
#define SIZE_CODE(name, default_, least, most, meaning) SIZE_##name,
    enum {
        BEFORE = 255,
        SIZES(SIZE_CODE) CAUSAL,
        BIDIRECTIONAL,
        ATTENTION,
        PRECISION,
        JSON,
        PACED,
        HELP,
        VERSION
    };
#undef SIZE_CODE
#define SIZE_OPTION(name, default_, least, most, meaning) \
    {#name, required_argument, NULL, SIZE_##name},
    static const struct option known[] = {
        SIZES(SIZE_OPTION){"causal", no_argument, NULL, CAUSAL},
        {"bidirectional", no_argument, NULL, BIDIRECTIONAL},
        {"attention", required_argument, NULL, ATTENTION},
        {"precision", required_argument, NULL, PRECISION},
        {"json", no_argument, NULL, JSON},
        {"paced", no_argument, NULL, PACED},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
#undef SIZE_OPTION

    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
#define SIZE_CASE(name, default_, least, most, meaning)                                         \
    case SIZE_##name:                                                                           \
        if (!read_size("--" #name, optarg, (least), (most), &options->name)) return EXIT_USAGE; \
        break;
            SIZES(SIZE_CASE)
#undef SIZE_CASE
        case CAUSAL:
        case BIDIRECTIONAL:
            options->bidirectional = option == BIDIRECTIONAL;
            break;
        case ATTENTION:
            if (!choose(optarg, &options->chosen)) return EXIT_USAGE;
            break;
        case PRECISION:
            if (precision_from_text(optarg, &options->precision)) break;
            fprintf(stderr, "performer-bench: --precision is fp32 or bf16, not `%s`\n", optarg);
            return EXIT_USAGE;
        case JSON:
            options->json = true;
            break;
        case PACED:
            options->paced = true;
            break;
        case HELP:
            help();
            return EXIT_SUCCESS;
        case VERSION:
            printf("performer-bench %s\n", PERFORMERD_VERSION);
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind == argc) return -1;
    fprintf(stderr, "performer-bench: unexpected argument: %s\n", argv[optind]);
    usage(stderr);
    return EXIT_USAGE;
}

/* ---- data ---- */

/* The masked objective adds an id of its own to those of the file. */
static long file_vocab(const struct options *options)
{
    return options->bidirectional ? options->vocab - 1 : options->vocab;
}

/* Rows of random tokens, one longer than a sequence each, as a tokens file holds them. */
static enum status write_tokens(const struct bench *bench, struct fault *fault)
{
    const struct options *o = bench->options;
    const size_t count = (size_t)(ROWS_A_SEQUENCE * o->batch * (o->length + 1));
    char path[sizeof bench->directory + 16];
    snprintf(path, sizeof path, "%s/tokens", bench->directory);

    uint16_t *tokens = calloc(count, sizeof *tokens);
    if (!tokens) return fault_set(fault, ST_NO_MEMORY, "no memory for %zu tokens", count);
    uint32_t state = 1; /* xorshift (Marsaglia 2003): which tokens does not matter */
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        tokens[i] = (uint16_t)(state % (uint32_t)file_vocab(o));
    }
    enum status status = durable_write(path, tokens, count * sizeof *tokens, fault);
    free(tokens);
    return status;
}

static enum status make_directory(struct bench *bench, struct fault *fault)
{
    const char *parent = getenv("TMPDIR");
    char path[sizeof bench->directory];
    snprintf(path, sizeof path, "%s/performer-bench-XXXXXX", parent && *parent ? parent : "/tmp");
    if (!mkdtemp(path)) return fault_errno(fault, errno, "could not make %s", path);
    memcpy(bench->directory, path, sizeof path);
    return ST_OK;
}

/* What is open or mapped stays until it is closed. */
static void remove_directory(struct bench *bench)
{
    static const char *const names[] = {"tokens", "metrics.jsonl"};
    char path[sizeof bench->directory + 16];
    if (!*bench->directory) return;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", bench->directory, names[i]);
        unlink(path);
    }
    rmdir(bench->directory);
    bench->directory[0] = '\0';
}

/* ---- contenders ---- */

static bool is_chosen(const struct bench *bench, int index)
{
    return bench->options->chosen == 0 || (bench->options->chosen >> index & 1) != 0;
}

/* Steps end at no edge: nothing is evaluated, redrawn or saved. */
static enum status write_job(const struct bench *bench, const struct contender_kind *kind,
                             struct jobspec *spec, struct fault *fault)
{
    const struct options *o = bench->options;
    char text[JOB_BYTES_MAX], path[sizeof bench->directory + 16];
    const int length =
        snprintf(text, sizeof text,
                 "[job]\nname = \"bench\"\n"
                 "[resources]\nthreads = %ld\n"
                 "[data]\nformat = \"tokens\"\ntrain = \"tokens\"\nvocab = %ld\nlength = %ld\n"
                 "[model]\nlayers = %ld\nheads = %ld\nwidth = %ld\nmlp = %ld\ncausal = %s\n"
                 "[attention]\nkind = \"%s\"\nkernel = \"%s\"\nfeatures = %ld\n"
                 "[redraw]\npolicy = \"never\"\n"
                 "[train]\nsteps = 1000000\nbatch = %ld\nmicro_batch = %ld\n"
                 "precision = \"%s\"\n",
                 o->threads, file_vocab(o), o->length, o->layers, o->heads, o->width, o->mlp,
                 o->bidirectional ? "false" : "true", kind->kind, kind->kernel, o->features,
                 o->batch, o->batch, precision_text(o->precision));
    snprintf(path, sizeof path, "%s/job.toml", bench->directory);

    struct diagnostics diagnostics = {0};
    enum status status = jobspec_parse(text, (size_t)length, path, NULL, 0, &diagnostics, spec);
    if (status != ST_OK) {
        diagnostics_print(&diagnostics, stderr, false);
        fault_set(fault, status, "these sizes make no job");
    }
    diagnostics_free(&diagnostics);
    return status;
}

static enum status contender_open(struct bench *bench, int index, struct fault *fault)
{
    struct contender *c = &bench->contender[index];
    enum status status = write_job(bench, &kinds[index], &c->spec, fault);
    if (status != ST_OK) return status;
    status = collective_single(&c->collective);
    if (status != ST_OK) return fault_set(fault, status, "no memory to begin");
    cost_of(&c->spec, &c->cost);

    const struct training_setup setup = {
        .spec = &c->spec,
        .directory = bench->directory,
        .backend = bench->backend,
        .collective = c->collective,
        .uplink = bench->uplink,
    };
    return training_open(&setup, &c->training, fault);
}

static void contender_close(struct contender *c)
{
    training_close(c->training);
    if (c->collective) collective_close(c->collective);
    jobspec_free(&c->spec);
}

static enum status bench_open(struct bench *bench, struct fault *fault)
{
    bench->rounds = calloc(ROUNDS_MAX, sizeof *bench->rounds);
    if (!bench->rounds) return fault_set(fault, ST_NO_MEMORY, "no memory for the rounds");
    enum status status = team_new((int)bench->options->threads, &bench->team);
    if (status != ST_OK)
        return fault_set(fault, status, "could not start %ld threads", bench->options->threads);
    status = make_directory(bench, fault);
    if (status == ST_OK) status = write_tokens(bench, fault);
    if (status == ST_OK) status = uplink_open_file(bench->directory, 0, &bench->uplink, fault);
    for (int i = 0; i < CONTENDERS && status == ST_OK; i++)
        if (is_chosen(bench, i)) status = contender_open(bench, i, fault);
    remove_directory(bench);
    return status;
}

static void bench_close(struct bench *bench)
{
    for (int i = 0; i < CONTENDERS; i++) contender_close(&bench->contender[i]);
    if (bench->uplink) uplink_close(bench->uplink, 0, &(struct fault){0});
    team_free(bench->team);
    free(bench->rounds);
}

/* ---- rounds ---- */

static enum status round_run(struct bench *bench, struct round *round, struct fault *fault)
{
    round->peak = peak_measure(bench->team, bench->options->precision);
    if (!(round->peak > 0)) return fault_set(fault, ST_NO_MEMORY, "no memory to measure the peak");
    for (int i = 0; i < CONTENDERS; i++) {
        if (!is_chosen(bench, i)) continue;
        struct edge edge;
        const double begin_ms = steady_clock_ms();
        enum status status = step_run(bench->contender[i].training, &edge, fault);
        if (status != ST_OK) return fault_wrap(fault, "%s", kinds[i].name);
        round->ms[i] = steady_clock_ms() - begin_ms;
    }
    return ST_OK;
}

/* The first round touches memory for the first time and does not count. */
static enum status bench_run(struct bench *bench, struct fault *fault)
{
    enum status status = round_run(bench, &bench->rounds[0], fault);
    const double end_ms = steady_clock_ms() + 1e3 * (double)bench->options->seconds;

    while (status == ST_OK && bench->round_count < ROUNDS_MAX &&
           (bench->round_count < ROUNDS_MIN || steady_clock_ms() < end_ms)) {
        status = round_run(bench, &bench->rounds[bench->round_count], fault);
        if (status == ST_OK) bench->round_count++;
    }
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static double median_peak(const struct bench *bench)
{
    static double peaks[ROUNDS_MAX];
    for (int r = 0; r < bench->round_count; r++) peaks[r] = bench->rounds[r].peak;
    return median(peaks, bench->round_count);
}

static struct verdict verdict_of(const struct bench *bench, int index)
{
    static double ms[ROUNDS_MAX], shares[ROUNDS_MAX], ratios[ROUNDS_MAX];
    const struct cost *cost = &bench->contender[index].cost;
    for (int r = 0; r < bench->round_count; r++) {
        const struct round *round = &bench->rounds[r];
        ms[r] = round->ms[index];
        shares[r] = 1e-6 * cost->flops_step / round->ms[index] / round->peak;
        ratios[r] = round->ms[index] / round->ms[IDENTITY];
    }
    const double step_ms = median(ms, bench->round_count);
    return (struct verdict){
        .tokens_per_second = 1e3 * (double)cost->tokens_step / step_ms,
        .step_ms = step_ms,
        .gflops = 1e-6 * cost->flops_step / step_ms,
        .peak_share = median(shares, bench->round_count),
        .time_ratio = median(ratios, bench->round_count),
        .flops_ratio = cost->flops_step / bench->contender[IDENTITY].cost.flops_step,
    };
}

/* ---- output ---- */

static void print_table(const struct bench *bench)
{
    const struct options *o = bench->options;
    printf(
        "%s, %s, threads %ld\n%s, layers %ld, heads %ld, width %ld, mlp %ld, features %ld, vocab %ld, "
        "length %ld, batch %ld, %s\nproduct peak %.1f GFLOP/s, rounds %d\n\n",
        bench->backend->description, backend_libraries(), o->threads,
        o->bidirectional ? "bidirectional" : "causal", o->layers, o->heads, o->width, o->mlp,
        o->features, o->vocab, o->length, o->batch, precision_text(o->precision),
        median_peak(bench), bench->round_count);
    printf("%-24s %10s %10s %9s %8s %14s %15s\n", "attention", "tokens/s", "ms a step", "GFLOP/s",
           "of peak", "time/identity", "FLOPs/identity");
    for (int i = 0; i < CONTENDERS; i++) {
        if (!is_chosen(bench, i)) continue;
        const struct verdict v = verdict_of(bench, i);
        printf("%-24s %10.0f %10.2f %9.1f %7.1f%% %14.2f %15.2f\n", kinds[i].name,
               v.tokens_per_second, v.step_ms, v.gflops, 100 * v.peak_share, v.time_ratio,
               v.flops_ratio);
    }
}

static json_t *json_of(const struct bench *bench)
{
    const struct options *o = bench->options;
    json_t *object = json_pack(
        "{s:s, s:s, s:b, s:s, s:f, s:i}", "backend", bench->backend->description, "libraries",
        backend_libraries(), "causal", !o->bidirectional, "precision", precision_text(o->precision),
        "peak_gflops", median_peak(bench), "rounds", bench->round_count);
#define SIZE_JSON(name, default_, least, most, meaning) \
    json_object_set_new(object, #name, json_integer(o->name));
    SIZES(SIZE_JSON)
#undef SIZE_JSON
    json_t *rows = json_array();
    for (int i = 0; i < CONTENDERS; i++) {
        if (!is_chosen(bench, i)) continue;
        const struct verdict v = verdict_of(bench, i);
        json_array_append_new(rows, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "attention",
                                              kinds[i].name, "tokens_per_second",
                                              v.tokens_per_second, "step_ms", v.step_ms, "gflops",
                                              v.gflops, "peak_share", v.peak_share, "time_ratio",
                                              v.time_ratio, "flops_ratio", v.flops_ratio));
    }
    json_object_set_new(object, "steps", rows);
    return object;
}

static enum status print_json(const struct bench *bench, struct fault *fault)
{
    json_t *object = json_of(bench);
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text) return fault_set(fault, ST_NO_MEMORY, "no memory for the output");
    puts(text);
    free(text);
    return ST_OK;
}

static enum status print_line(json_t *object, struct fault *fault)
{
    const int failed =
        object ? json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) : -1;
    json_decref(object);
    if (failed || putchar('\n') == EOF || fflush(stdout) != 0)
        return fault_set(fault, ST_IO, "could not write a round");
    return ST_OK;
}

/* What one of the chosen contenders has, by its name. */
typedef double contender_figure(const struct bench *bench, int index);

static double flops_of(const struct bench *bench, int index)
{
    return bench->contender[index].cost.flops_step;
}

static double last_ms_of(const struct bench *bench, int index)
{
    return bench->rounds[0].ms[index];
}

static json_t *by_name(const struct bench *bench, contender_figure *figure)
{
    json_t *object = json_object();
    for (int i = 0; i < CONTENDERS; i++)
        if (is_chosen(bench, i))
            json_object_set_new(object, kinds[i].name, json_real(figure(bench, i)));
    return object;
}

/* Says what is there, then runs a round whenever it is told to, until the standard input ends. */
static enum status bench_paced(struct bench *bench, struct fault *fault)
{
    const long tokens = bench->options->batch * bench->options->length;
    char line[64];
    enum status status =
        print_line(json_pack("{s:s, s:s, s:I, s:o}", "backend", bench->backend->description,
                             "libraries", backend_libraries(), "tokens", (json_int_t)tokens,
                             "flops", by_name(bench, flops_of)),
                   fault);
    while (status == ST_OK && fgets(line, sizeof line, stdin)) {
        status = round_run(bench, &bench->rounds[0], fault);
        if (status != ST_OK) break;
        status = print_line(json_pack("{s:f, s:o}", "peak_gflops", bench->rounds[0].peak, "step_ms",
                                      by_name(bench, last_ms_of)),
                            fault);
    }
    return status;
}

int main(int argc, char **argv)
{
#define SIZE_DEFAULT(name, default_, least, most, meaning) .name = (default_),
    struct options options = {SIZES(SIZE_DEFAULT)};
#undef SIZE_DEFAULT
    options.threads = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
    const int exit_code = parse_arguments(argc, argv, &options);
    if (exit_code >= 0) return exit_code;
    if (options.chosen && !options.paced) options.chosen |= 1U << IDENTITY; /* ratios are to it */

    struct bench bench = {.options = &options, .backend = backend_find("cpu")};
    struct fault fault = {0};
    log_set_level(LOG_WARN);
    enum status status = bench_open(&bench, &fault);
    if (status == ST_OK)
        status = options.paced ? bench_paced(&bench, &fault) : bench_run(&bench, &fault);
    if (status == ST_OK && options.json && !options.paced)
        status = print_json(&bench, &fault);
    else if (status == ST_OK && !options.paced)
        print_table(&bench);
    bench_close(&bench);
    if (status == ST_OK) return EXIT_SUCCESS;
    fprintf(stderr, "performer-bench: %s\n", fault.text);
    return status == ST_INVALID ? EXIT_USAGE : EXIT_FAILURE;
}
