/*
 * performer-bench: how fast a training step is. Whole steps, as workers take them (batch, forward, loss, backward, sum over
 * ranks, norm, clipping, AdamW) on random tokens, for each attention that is built: tokens/s, the share of this machine's
 * measured product peak, and the ratio to the identity attention, which is the step without any attention. Of attention
 * alone kernels-bench tells; it may not know what a step is.
 *
 * The peak and one step of each attention are measured in turn, round after round, so that whatever else the machine does
 * hits all alike. Times are medians of the rounds; shares and ratios are taken inside a round first. With --paced another
 * program says when each round runs, and so can put its own steps between ours.
 *
 * What it costs that a job has the same bits on any number of ranks is told by taking the same step in other ways too, of
 * which each leaves out one thing that it takes: `enum way`, below. Started by mpirun, all ranks take the step together.
 */

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <sched.h>
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
    O(rank, 256, 1, 16384, "linformer: the same, of no more than length")  \
    O(vocab, 256, 3, 65536, "token ids, MASK among them if bidirectional") \
    O(length, 1024, 1, 10000000, "tokens a sequence")                      \
    O(batch, 4, 1, 100000, "sequences a step, all ranks together")         \
    O(shards, 0, 1, 100000, "micro-shards a step is cut into [ranks]")     \
    O(threads, 0, 1, 1024, "CPU threads of a rank [cores / ranks]")        \
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
    bool causal; /* it can be */
} kinds[] = {
    {"identity", "identity", "softmax-positive", true},
    {"favor softmax-positive", "favor", "softmax-positive", true},
    {"favor relu", "favor", "relu", true},
    {"exact softmax", "softmax", "softmax-positive", true},
    {"linformer", "linformer", "softmax-positive", false},
    {"reformer", "reformer", "softmax-positive", true},
};
enum { IDENTITY, CONTENDERS = sizeof kinds / sizeof kinds[0] };

/* Ways to take a step of the same sequences. The first is what a worker does, the others are there to be compared with. */
enum way {
    WAY_JOB,      /* all ranks; micro-shards, whose gradients are summed in the fixed tree */
    WAY_ONE_RANK, /* the same job, and the same bits, on one rank that has the threads of all */
    WAY_ALLREDUCE, /* all ranks, each its sequences in one pass; all gradients in one MPI_Allreduce */
    WAY_ONE_SHARD, /* one rank that has the threads of all; all sequences in one pass */
    WAYS
};

struct contender {
    struct way_of {
        struct jobspec spec;
        struct collective *alone;  /* NULL: all ranks' */
        struct training *training; /* NULL: this rank has no part in it */
    } way[WAYS];
    struct cost cost;
};

struct round {
    double peak;                 /* GFLOP/s */
    double ms[CONTENDERS][WAYS]; /* of a step, by its slowest rank; 0: there is none */
};

struct bench {
    struct options *options;
    const struct backend *backend;
    struct collective *collective;
    char directory[4096]; /* of this rank's token file; gone once all have it open */
    struct team *team;    /* the peak's: the first rank's, with the threads of all */
    struct uplink *uplink;
    struct contender contender[CONTENDERS];
    struct round *rounds; /* (ROUNDS_MAX) */
    int round_count;
    double *of_ranks; /* (ranks) */
};

/* What the rounds come to for one contender. Of the last three NaN what was not measured. */
struct verdict {
    double tokens_per_second, step_ms, gflops, peak_share, time_ratio, flops_ratio;
    double one_rank, allreduce, one_shard;
};

/* ---- options ---- */

static void usage(FILE *file)
{
    fputs(
        "usage: [mpirun --bind-to none -np N] performer-bench [--causal | --bidirectional] [--attention NAME]...\n"
        "                       [--precision NAME] [--json | --paced] [--SIZE N]...\n",
        file);
}

static void help(void)
{
    usage(stdout);
    puts(
        "\nTimes whole training steps with each attention, in turn, beside this machine's product peak. With several\n"
        "ranks, or --shards, also what it costs that a job has the same bits on any number of ranks:\n\n"
        "  speed/one rank   of the ranks, over that of one rank with the threads of all, for the same job\n"
        "  time/Allreduce   of the fixed tree of sums, over that of one MPI_Allreduce of all gradients\n"
        "  time/one shard   on one rank with the threads of all, over that of all sequences in one pass\n\n"
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

static bool check_direction(const struct options *options)
{
    for (int i = 0; i < CONTENDERS; i++) {
        if (kinds[i].causal || options->bidirectional || !(options->chosen >> i & 1)) continue;
        fprintf(stderr, "performer-bench: %s cannot be causal: --bidirectional\n", kinds[i].name);
        return false;
    }
    return true;
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
    if (optind == argc) return check_direction(options) ? -1 : EXIT_USAGE;
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
    const struct options *o = bench->options;
    if (o->chosen == 0) return kinds[index].causal || o->bidirectional;
    return (o->chosen >> index & 1) != 0;
}

static long ranks_of(const struct bench *bench)
{
    return collective_ranks(bench->collective);
}

static bool is_first_rank(const struct bench *bench)
{
    return collective_rank(bench->collective) == 0;
}

/* Where a way would be no other than one before it, there is none. */
static bool way_exists(const struct bench *bench, enum way way)
{
    return way == WAY_JOB || (way == WAY_ONE_SHARD ? bench->options->shards : ranks_of(bench)) > 1;
}

static bool takes_part(const struct bench *bench, enum way way)
{
    return way == WAY_JOB || way == WAY_ALLREDUCE || is_first_rank(bench);
}

struct division {
    long ranks, threads, batch, micro_batch;
};

static struct division division_of(const struct bench *bench, enum way way)
{
    const struct options *o = bench->options;
    const long ranks = ranks_of(bench), shard = o->batch / o->shards, part = o->batch / ranks;
    switch (way) {
    case WAY_ONE_RANK:
        return (struct division){1, ranks * o->threads, o->batch, shard};
    case WAY_ALLREDUCE:
        return (struct division){1, o->threads, part, part};
    case WAY_ONE_SHARD:
        return (struct division){1, ranks * o->threads, o->batch, o->batch};
    default:
        return (struct division){ranks, o->threads, o->batch, shard};
    }
}

/* Steps end at no edge: nothing is evaluated, redrawn or saved. */
static enum status write_job(const struct bench *bench, const struct contender_kind *kind,
                             enum way way, struct jobspec *spec, struct fault *fault)
{
    const struct options *o = bench->options;
    const struct division division = division_of(bench, way);
    char text[JOB_BYTES_MAX], path[sizeof bench->directory + 16];
    const int length =
        snprintf(text, sizeof text,
                 "[job]\nname = \"bench\"\n"
                 "[resources]\nranks = %ld\nthreads = %ld\n"
                 "[data]\nformat = \"tokens\"\ntrain = \"tokens\"\nvocab = %ld\nlength = %ld\n"
                 "[model]\nlayers = %ld\nheads = %ld\nwidth = %ld\nmlp = %ld\ncausal = %s\n"
                 "[attention]\nkind = \"%s\"\nkernel = \"%s\"\nfeatures = %ld\nrank = %ld\n"
                 "[redraw]\npolicy = \"never\"\n"
                 "[train]\nsteps = 1000000\nbatch = %ld\nmicro_batch = %ld\n"
                 "precision = \"%s\"\n",
                 division.ranks, division.threads, file_vocab(o), o->length, o->layers, o->heads,
                 o->width, o->mlp, o->bidirectional ? "false" : "true", kind->kind, kind->kernel,
                 o->features, o->rank < o->length ? o->rank : o->length, division.batch,
                 division.micro_batch, precision_text(o->precision));
    snprintf(path, sizeof path, "%s/job.toml", bench->directory);

    struct diagnostics diagnostics = {0};
    enum status status = jobspec_parse(text, (size_t)length, path, NULL, 0, &diagnostics, spec);
    if (status != ST_OK) {
        if (is_first_rank(bench)) diagnostics_print(&diagnostics, stderr, false);
        fault_set(fault, status, "these sizes make no job");
    }
    diagnostics_free(&diagnostics);
    return status;
}

static enum status way_open(struct bench *bench, int index, enum way way, struct fault *fault)
{
    struct way_of *w = &bench->contender[index].way[way];
    if (way != WAY_JOB && collective_single(&w->alone) != ST_OK)
        return fault_set(fault, ST_NO_MEMORY, "no memory to begin");

    const struct training_setup setup = {
        .spec = &w->spec,
        .directory = bench->directory,
        .backend = bench->backend,
        .collective = way == WAY_JOB ? bench->collective : w->alone,
        .uplink = bench->uplink,
    };
    return training_open(&setup, &w->training, fault);
}

/* Ranks write the jobs of all ways, also of those that they have no part in: so all find the same mistakes, and end alike. */
static enum status contender_open(struct bench *bench, int index, struct fault *fault)
{
    struct contender *c = &bench->contender[index];
    enum status status = ST_OK;
    for (int i = 0; i < WAYS && status == ST_OK; i++) {
        const enum way way = (enum way)i;
        if (!way_exists(bench, way)) continue;
        status = write_job(bench, &kinds[index], way, &c->way[way].spec, fault);
        if (status == ST_OK && takes_part(bench, way)) status = way_open(bench, index, way, fault);
    }
    if (status == ST_OK) cost_of(&c->way[WAY_JOB].spec, &c->cost);
    return status;
}

static void contender_close(struct contender *c)
{
    for (int way = 0; way < WAYS; way++) {
        training_close(c->way[way].training);
        collective_close(c->way[way].alone);
        jobspec_free(&c->way[way].spec);
    }
}

/* Every rank's number to every rank. Whoever is there first sleeps. */
static enum status gather(struct bench *bench, double mine, struct fault *fault)
{
    enum status status = collective_rest(bench->collective, fault);
    if (status != ST_OK) return status;
    return collective_gather(bench->collective, &mine, sizeof mine, bench->of_ranks, fault);
}

/* What depends on how many ranks there are. */
static enum status check_division(const struct bench *bench, struct fault *fault)
{
    const struct options *o = bench->options;
    const long ranks = ranks_of(bench);
    if (o->paced && ranks > 1)
        return fault_set(fault, ST_INVALID, "--paced is for one rank, not %ld", ranks);
    if (o->batch % o->shards != 0)
        return fault_set(fault, ST_INVALID, "%ld shards do not divide --batch %ld", o->shards,
                         o->batch);
    if (o->shards % ranks != 0)
        return fault_set(fault, ST_INVALID, "%ld ranks do not divide --shards %ld", ranks,
                         o->shards);
    return ST_OK;
}

/* mpirun binds each rank to cores of its own, unless it is told not to. */
static enum status check_cores(struct bench *bench, long cores, struct fault *fault)
{
    const long threads = ranks_of(bench) * bench->options->threads;
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    sched_getaffinity(0, sizeof allowed, &allowed);
    enum status status = gather(bench, CPU_COUNT(&allowed), fault);
    if (status != ST_OK) return status;
    const long least = threads < cores ? threads : cores, given = (long)bench->of_ranks[0];
    if (ranks_of(bench) == 1 || given >= least) return ST_OK;
    return fault_set(fault, ST_INVALID,
                     "the first rank may use %ld cores, and takes steps with %ld threads: mpirun "
                     "--bind-to none ...",
                     given, threads);
}

/* ST_INVALID: all ranks find the same. */
static enum status bench_join(struct bench *bench, int *argc, char ***argv, struct fault *fault)
{
    struct options *o = bench->options;
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    enum status status = collective_join(argc, argv, &bench->collective, fault);
    if (status != ST_OK) return status;
    const long ranks = ranks_of(bench);
    if (o->threads == 0) o->threads = cores > ranks ? cores / ranks : 1;
    if (o->shards == 0) o->shards = ranks;
    bench->rounds = calloc(ROUNDS_MAX, sizeof *bench->rounds);
    bench->of_ranks = calloc((size_t)ranks, sizeof *bench->of_ranks);
    if (!bench->rounds || !bench->of_ranks)
        return fault_set(fault, ST_NO_MEMORY, "no memory for the rounds");
    status = check_division(bench, fault);
    return status == ST_OK ? check_cores(bench, cores, fault) : status;
}

static enum status bench_open(struct bench *bench, struct fault *fault)
{
    const long threads = ranks_of(bench) * bench->options->threads;
    enum status status = is_first_rank(bench) ? team_new((int)threads, &bench->team) : ST_OK;
    if (status != ST_OK) return fault_set(fault, status, "could not start %ld threads", threads);
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
    free(bench->of_ranks);
    collective_close(bench->collective);
}

/* ---- rounds ---- */

static double largest(const double *values, long count)
{
    double most = values[0];
    for (long i = 1; i < count; i++) most = fmax(most, values[i]);
    return most;
}

static enum status way_run(struct bench *bench, struct training *training, enum way way,
                           struct fault *fault)
{
    struct edge edge;
    enum status status = step_run(training, &edge, fault);
    if (status != ST_OK || way != WAY_ALLREDUCE) return status;
    return collective_allreduce(bench->collective, training->gradients, training->params->floats,
                                fault);
}

/* All ranks begin together; the time is that of the slowest. */
static enum status way_time(struct bench *bench, int index, enum way way, double *ms,
                            struct fault *fault)
{
    struct training *training = bench->contender[index].way[way].training;
    enum status status = collective_rest(bench->collective, fault);
    const double begin_ms = steady_clock_ms();
    if (status == ST_OK && training) status = way_run(bench, training, way, fault);
    const double mine_ms = training ? steady_clock_ms() - begin_ms : 0;
    if (status != ST_OK) return fault_wrap(fault, "%s", kinds[index].name);
    status = gather(bench, mine_ms, fault);
    if (status == ST_OK) *ms = largest(bench->of_ranks, ranks_of(bench));
    return status;
}

/* The first rank's, with the threads of all. */
static enum status peak_time(struct bench *bench, double *peak, struct fault *fault)
{
    const bool first = is_first_rank(bench);
    double mine = first ? peak_measure(bench->team, bench->options->precision) : 0;
    if (first && !(mine > 0))
        return fault_set(fault, ST_NO_MEMORY, "no memory to measure the peak");
    enum status status = gather(bench, mine, fault);
    if (status == ST_OK) *peak = bench->of_ranks[0];
    return status;
}

static enum status round_run(struct bench *bench, struct round *round, struct fault *fault)
{
    enum status status = peak_time(bench, &round->peak, fault);
    for (int i = 0; i < CONTENDERS; i++)
        for (int way = 0; is_chosen(bench, i) && way < WAYS && status == ST_OK; way++)
            if (way_exists(bench, (enum way)way))
                status = way_time(bench, i, (enum way)way, &round->ms[i][way], fault);
    return status;
}

/* The first round touches memory for the first time and does not count. When it is over the first rank's clock says. */
static enum status bench_run(struct bench *bench, struct fault *fault)
{
    enum status status = round_run(bench, &bench->rounds[0], fault);
    const double end_ms = steady_clock_ms() + 1e3 * (double)bench->options->seconds;
    bool more = true;

    while (status == ST_OK && more) {
        status = round_run(bench, &bench->rounds[bench->round_count], fault);
        if (status == ST_OK) status = gather(bench, steady_clock_ms() < end_ms, fault);
        if (status != ST_OK) break;
        bench->round_count++;
        more = bench->round_count < ROUNDS_MIN ||
               (bench->of_ranks[0] != 0 && bench->round_count < ROUNDS_MAX);
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

/* Of the time of one way, over that of another; NaN where there is not both. */
static double median_ratio(const struct bench *bench, int index, enum way way, enum way over)
{
    static double ratios[ROUNDS_MAX];
    if (!way_exists(bench, way) || !way_exists(bench, over)) return NAN;
    for (int r = 0; r < bench->round_count; r++)
        ratios[r] = bench->rounds[r].ms[index][way] / bench->rounds[r].ms[index][over];
    return median(ratios, bench->round_count);
}

static struct verdict verdict_of(const struct bench *bench, int index)
{
    static double ms[ROUNDS_MAX], shares[ROUNDS_MAX], ratios[ROUNDS_MAX];
    const struct cost *cost = &bench->contender[index].cost;
    const enum way alone = ranks_of(bench) > 1 ? WAY_ONE_RANK : WAY_JOB;
    for (int r = 0; r < bench->round_count; r++) {
        const struct round *round = &bench->rounds[r];
        ms[r] = round->ms[index][WAY_JOB];
        shares[r] = 1e-6 * cost->flops_step / ms[r] / round->peak;
        ratios[r] = ms[r] / round->ms[IDENTITY][WAY_JOB];
    }
    const double step_ms = median(ms, bench->round_count);
    return (struct verdict){
        .tokens_per_second = 1e3 * (double)cost->tokens_step / step_ms,
        .step_ms = step_ms,
        .gflops = 1e-6 * cost->flops_step / step_ms,
        .peak_share = median(shares, bench->round_count),
        .time_ratio = median(ratios, bench->round_count),
        .flops_ratio = cost->flops_step / bench->contender[IDENTITY].cost.flops_step,
        .one_rank = median_ratio(bench, index, WAY_ONE_RANK, WAY_JOB),
        .allreduce = median_ratio(bench, index, WAY_JOB, WAY_ALLREDUCE),
        .one_shard = median_ratio(bench, index, alone, WAY_ONE_SHARD),
    };
}

/* ---- output ---- */

static void print_table(const struct bench *bench)
{
    const struct options *o = bench->options;
    printf(
        "%s, %s, ranks %ld, threads %ld\n%s, layers %ld, heads %ld, width %ld, mlp %ld, features %ld, vocab %ld, "
        "length %ld, batch %ld, shards %ld, %s\nproduct peak %.1f GFLOP/s, rounds %d\n\n",
        bench->backend->description, backend_libraries(), ranks_of(bench), o->threads,
        o->bidirectional ? "bidirectional" : "causal", o->layers, o->heads, o->width, o->mlp,
        o->features, o->vocab, o->length, o->batch, o->shards, precision_text(o->precision),
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

/* A number of a table, or that there is none. */
static void print_ratio(double ratio)
{
    if (isnan(ratio))
        printf(" %14s", "-");
    else
        printf(" %14.3f", ratio);
}

static void print_sameness(const struct bench *bench)
{
    printf("\n%-24s %14s %14s %14s\n", "attention", "speed/one rank", "time/Allreduce",
           "time/one shard");
    for (int i = 0; i < CONTENDERS; i++) {
        if (!is_chosen(bench, i)) continue;
        const struct verdict v = verdict_of(bench, i);
        printf("%-24s", kinds[i].name);
        print_ratio(v.one_rank);
        print_ratio(v.allreduce);
        print_ratio(v.one_shard);
        putchar('\n');
    }
}

static void put_ratio(json_t *row, const char *name, double ratio)
{
    if (!isnan(ratio)) json_object_set_new(row, name, json_real(ratio));
}

static json_t *json_of(const struct bench *bench)
{
    const struct options *o = bench->options;
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:b, s:s, s:f, s:i}", "backend", bench->backend->description,
                  "libraries", backend_libraries(), "ranks", (json_int_t)ranks_of(bench), "causal",
                  !o->bidirectional, "precision", precision_text(o->precision), "peak_gflops",
                  median_peak(bench), "rounds", bench->round_count);
#define SIZE_JSON(name, default_, least, most, meaning) \
    json_object_set_new(object, #name, json_integer(o->name));
    SIZES(SIZE_JSON)
#undef SIZE_JSON
    json_t *rows = json_array();
    for (int i = 0; i < CONTENDERS; i++) {
        if (!is_chosen(bench, i)) continue;
        const struct verdict v = verdict_of(bench, i);
        json_t *row = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "attention", kinds[i].name,
                                "tokens_per_second", v.tokens_per_second, "step_ms", v.step_ms,
                                "gflops", v.gflops, "peak_share", v.peak_share, "time_ratio",
                                v.time_ratio, "flops_ratio", v.flops_ratio);
        put_ratio(row, "speed_one_rank", v.one_rank);
        put_ratio(row, "time_allreduce", v.allreduce);
        put_ratio(row, "time_one_shard", v.one_shard);
        json_array_append_new(rows, row);
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
    return bench->rounds[0].ms[index][WAY_JOB];
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

/* What the rounds came to, of which the first rank tells. */
static enum status print_rounds(const struct bench *bench, struct fault *fault)
{
    if (!is_first_rank(bench)) return ST_OK;
    if (bench->options->json) return print_json(bench, fault);
    print_table(bench);
    if (way_exists(bench, WAY_ONE_SHARD)) print_sameness(bench);
    return ST_OK;
}

int main(int argc, char **argv)
{
#define SIZE_DEFAULT(name, default_, least, most, meaning) .name = (default_),
    struct options options = {SIZES(SIZE_DEFAULT)};
#undef SIZE_DEFAULT
    int exit_code = parse_arguments(argc, argv, &options);
    if (exit_code >= 0) return exit_code;
    if (options.chosen && !options.paced) options.chosen |= 1U << IDENTITY; /* ratios are to it */

    struct bench bench = {.options = &options, .backend = backend_find("cpu")};
    struct fault fault = {0};
    log_set_level(LOG_WARN);
    enum status status = bench_join(&bench, &argc, &argv, &fault);
    if (status == ST_OK) status = bench_open(&bench, &fault);
    if (status == ST_OK && options.paced) status = bench_paced(&bench, &fault);
    if (status == ST_OK && !options.paced) status = bench_run(&bench, &fault);
    if (status == ST_OK && !options.paced) status = print_rounds(&bench, &fault);
    exit_code = status == ST_OK ? EXIT_SUCCESS : status == ST_INVALID ? EXIT_USAGE : EXIT_FAILURE;
    if (exit_code == EXIT_FAILURE || (status != ST_OK && is_first_rank(&bench)))
        fprintf(stderr, "performer-bench: %s\n", fault.text);
    if (exit_code == EXIT_FAILURE) collective_abandon(bench.collective, exit_code);
    bench_close(&bench);
    return exit_code;
}
