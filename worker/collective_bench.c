/*
 * collective-bench: what summing gradients in a fixed tree costs, under mpirun. Buckets as those of a model, summed by
 * ours (worker/collective.h) and by MPI_Allreduce, in turn, round after round: bucket by bucket, and all in one call. A
 * round takes as long as its slowest rank; of the rounds the fastest counts, the others were disturbed.
 *
 * The ratio of ours to the better MPI_Allreduce is what it costs that the bits do not depend on the number of ranks.
 */

#include <getopt.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/whole_number.h"
#include "worker/collective.h"

enum { EXIT_USAGE = 2, RANKS_MAX = 1024 };

/* O(name, default, least, most, meaning) */
#define SIZES(O)                                                        \
    O(megabytes, 50, 1, 8000, "gradients to sum, in millions of bytes") \
    O(buckets, 8, 1, 1000, "how many sums they are cut into")           \
    O(rounds, 20, 1, 100000, "how often each is measured")

struct options {
#define SIZE_FIELD(name, default_, least, most, meaning) long name;
    SIZES(SIZE_FIELD)
#undef SIZE_FIELD
};

struct bench {
    const struct options *options;
    struct collective *collective;
    int64_t floats;
    float *values; /* (floats) */
};

/* O(name, words) */
#define CONTENDERS(O)                                \
    O(OURS, "ours, the fixed tree")                  \
    O(ALLREDUCE_BUCKETS, "MPI_Allreduce, by bucket") \
    O(ALLREDUCE_WHOLE, "MPI_Allreduce, in one call")

#define CONTENDER_CODE(name, words) name,
enum contender { CONTENDERS(CONTENDER_CODE) CONTENDER_COUNT };
#undef CONTENDER_CODE

static const char *const contender_words[] = {
#define CONTENDER_WORDS(name, words) [name] = (words),
    CONTENDERS(CONTENDER_WORDS)
#undef CONTENDER_WORDS
};

/* ---- options ---- */

static void usage(FILE *file)
{
    fputs("usage: mpirun -np N collective-bench [--SIZE N]...\n", file);
}

static void help(void)
{
    usage(stdout);
    puts("\nTimes the sum of gradients over ranks beside MPI_Allreduce.\n");
#define SIZE_HELP(name, default_, least, most, meaning) \
    printf("  --%-9s N     %s [%d]\n", #name, meaning, (default_));
    SIZES(SIZE_HELP)
#undef SIZE_HELP
    puts("  --help");
}

static bool read_size(const char *option, const char *text, long least, long most, long *size)
{
    struct fault fault;
    if (whole_number_parse(option, text, least, most, size, &fault) == ST_OK) return true;
    fprintf(stderr, "collective-bench: %s\n", fault.text);
    return false;
}

/* -1: go on; else the exit code. */
static int parse_arguments(int argc, char **argv, struct options *options)
{
#define SIZE_CODE(name, default_, least, most, meaning) SIZE_##name,
    enum { BEFORE = 255, SIZES(SIZE_CODE) HELP };
#undef SIZE_CODE
#define SIZE_OPTION(name, default_, least, most, meaning) \
    {#name, required_argument, NULL, SIZE_##name},
    static const struct option known[] = {
        SIZES(SIZE_OPTION){"help", no_argument, NULL, HELP},
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
        case HELP:
            help();
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind == argc) return -1;
    fprintf(stderr, "collective-bench: unexpected argument: %s\n", argv[optind]);
    usage(stderr);
    return EXIT_USAGE;
}

/* ---- rounds ---- */

/* Where bucket i begins; at `buckets`, where the last ends. */
static int64_t bucket_begin(const struct bench *bench, long i)
{
    return bench->floats * i / bench->options->buckets;
}

static enum status sum_ours(const struct bench *bench, struct fault *fault)
{
    for (long i = 0; i < bench->options->buckets; i++) {
        const int64_t begin = bucket_begin(bench, i);
        enum status status = collective_sum_start(bench->collective, bench->values + begin,
                                                  bucket_begin(bench, i + 1) - begin, fault);
        if (status != ST_OK) return status;
    }
    return collective_finish(bench->collective, fault);
}

static enum status sum_mpi(const struct bench *bench, long calls, struct fault *fault)
{
    for (long i = 0; i < calls; i++) {
        const int64_t begin = bench->floats * i / calls, end = bench->floats * (i + 1) / calls;
        enum status status =
            collective_allreduce(bench->collective, bench->values + begin, end - begin, fault);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static enum status contender_run(const struct bench *bench, enum contender contender,
                                 struct fault *fault)
{
    switch (contender) {
    case OURS:
        return sum_ours(bench, fault);
    case ALLREDUCE_BUCKETS:
        return sum_mpi(bench, bench->options->buckets, fault);
    case ALLREDUCE_WHOLE:
        return sum_mpi(bench, 1, fault);
    case CONTENDER_COUNT:
        break;
    }
    return ST_OK;
}

/* Every rank begins with its number + 1; afterwards all hold the same, and it is what it should be. */
static enum status contender_check(const struct bench *bench, enum contender contender,
                                   struct fault *fault)
{
    const int ranks = collective_ranks(bench->collective);
    const float expected = (float)(ranks * (ranks + 1) / 2);
    for (int64_t i = 0; i < bench->floats; i++)
        bench->values[i] = (float)(collective_rank(bench->collective) + 1);
    enum status status = contender_run(bench, contender, fault);
    for (int64_t i = 0; i < bench->floats && status == ST_OK; i++)
        if (bench->values[i] != expected)
            status =
                fault_set(fault, ST_COLLECTIVE, "%s: a sum is %g, not %g",
                          contender_words[contender], (double)bench->values[i], (double)expected);
    return status;
}

/* Milliseconds of the slowest rank, from when all were there. */
static enum status contender_time(const struct bench *bench, enum contender contender, double *ms,
                                  struct fault *fault)
{
    double of_rank[RANKS_MAX], slowest = 0;
    memset(bench->values, 0, (size_t)bench->floats * sizeof *bench->values);
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    enum status status = contender_run(bench, contender, fault);
    const double mine = 1e3 * (MPI_Wtime() - begin);
    if (status == ST_OK)
        status = collective_gather(bench->collective, &mine, sizeof mine, of_rank, fault);
    for (int rank = 0; rank < collective_ranks(bench->collective) && status == ST_OK; rank++)
        if (of_rank[rank] > slowest) slowest = of_rank[rank];
    if (status == ST_OK) *ms = slowest;
    return status;
}

static enum status bench_run(const struct bench *bench, double least_ms[CONTENDER_COUNT],
                             struct fault *fault)
{
    enum status status = ST_OK;
    for (int c = 0; c < CONTENDER_COUNT && status == ST_OK; c++)
        status = contender_check(bench, (enum contender)c, fault);
    for (long round = 0; round < bench->options->rounds; round++)
        for (int c = 0; c < CONTENDER_COUNT && status == ST_OK; c++) {
            double ms = 0;
            status = contender_time(bench, (enum contender)c, &ms, fault);
            if (round == 0 || ms < least_ms[c]) least_ms[c] = ms;
        }
    return status;
}

static void print_table(const struct bench *bench, const double least_ms[CONTENDER_COUNT])
{
    const double better = least_ms[ALLREDUCE_BUCKETS] < least_ms[ALLREDUCE_WHOLE]
                              ? least_ms[ALLREDUCE_BUCKETS]
                              : least_ms[ALLREDUCE_WHOLE];
    printf("%s, ranks %d, %ld MB in %ld buckets, fastest of %ld rounds\n\n",
           collective_library(bench->collective), collective_ranks(bench->collective),
           bench->options->megabytes, bench->options->buckets, bench->options->rounds);
    for (int c = 0; c < CONTENDER_COUNT; c++)
        printf("%-28s %9.2f ms\n", contender_words[c], least_ms[c]);
    printf("%-28s %9.2f\n", "ours / the better of MPI", least_ms[OURS] / better);
}

static enum status bench_open(struct bench *bench, int *argc, char ***argv, struct fault *fault)
{
    enum status status = collective_mpi(argc, argv, &bench->collective, fault);
    if (status != ST_OK) return status;
    const int ranks = collective_ranks(bench->collective);
    if (ranks < 2 || ranks > RANKS_MAX)
        return fault_set(fault, ST_INVALID, "needs 2 to %d ranks, not %d: mpirun -np 2 ...",
                         RANKS_MAX, ranks);
    bench->floats = bench->options->megabytes * 1000000 / (int64_t)sizeof *bench->values;
    bench->values = calloc((size_t)bench->floats, sizeof *bench->values);
    if (!bench->values) return fault_set(fault, ST_NO_MEMORY, "no memory for the gradients");
    status = collective_reserve(bench->collective, (int)bench->options->buckets);
    return status == ST_OK ? ST_OK : fault_set(fault, status, "no memory for sums under way");
}

int main(int argc, char **argv)
{
#define SIZE_DEFAULT(name, default_, least, most, meaning) .name = (default_),
    struct options options = {SIZES(SIZE_DEFAULT)};
#undef SIZE_DEFAULT
    const int exit_code = parse_arguments(argc, argv, &options);
    if (exit_code >= 0) return exit_code;

    struct bench bench = {.options = &options};
    struct fault fault = {0};
    double least_ms[CONTENDER_COUNT] = {0};
    enum status status = bench_open(&bench, &argc, &argv, &fault);
    if (status == ST_OK) status = bench_run(&bench, least_ms, &fault);
    if (status == ST_OK && collective_rank(bench.collective) == 0) print_table(&bench, least_ms);
    free(bench.values);
    if (status == ST_OK) {
        collective_close(bench.collective);
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "collective-bench: %s\n", fault.text);
    collective_abandon(bench.collective, status == ST_INVALID ? EXIT_USAGE : EXIT_FAILURE);
}
