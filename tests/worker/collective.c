/*
 * Sums over ranks, to be run under mpirun, as RANKS or RANKS nccl: exact where every value is a small whole number, the same
 * bits on all ranks, and over MPI those of the tree where ranks are a power of two, whatever the counts and however many
 * sums are under way.
 */

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "worker/collective.h"

enum { RANKS_MAX = 16 };

/* Fewer than ranks, odd, large enough that messages are not sent at once. */
static const int64_t counts[] = {1, 2, 3, 5, 7, 16, 1000, 1001, 65537, 1, 300007, 4};
enum { SUMS = sizeof counts / sizeof counts[0] };

static int failures;

#define EXPECT(condition, ...)                          \
    do {                                                \
        if (condition) break;                           \
        failures++;                                     \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__);                   \
        fprintf(stderr, "\n");                          \
    } while (0)

static void must(enum status status, const struct fault *fault)
{
    if (status == ST_OK) return;
    fprintf(stderr, "%s\n", fault->text);
    exit(1);
}

static float whole(int rank, int sum, int64_t i)
{
    return (float)((rank + 1) * ((i * 31 + sum * 7) % 1009));
}

/* Values whose sum depends on the order of adding. */
static float fraction(int rank, int sum, int64_t i)
{
    return 1.0F / (float)(1 + (i * 131 + sum * 17 + rank * 7919) % 100003);
}

static float tree(int first, int ranks, int sum, int64_t i)
{
    if (ranks == 1) return fraction(first, sum, i);
    return tree(first, ranks / 2, sum, i) + tree(first + ranks / 2, ranks / 2, sum, i);
}

typedef float value_of(int rank, int sum, int64_t i);

static void run_sums(struct collective *collective, float *values[SUMS], value_of *value)
{
    const int rank = collective_rank(collective);
    struct fault fault;
    for (int sum = 0; sum < SUMS; sum++)
        for (int64_t i = 0; i < counts[sum]; i++) values[sum][i] = value(rank, sum, i);
    for (int sum = 0; sum < SUMS; sum++) {
        must(collective_sum_start(collective, values[sum], counts[sum], &fault), &fault);
        for (int turn = 0; turn < (rank + sum) % 3; turn++)
            must(collective_progress(collective, &fault), &fault);
    }
    must(collective_finish(collective, &fault), &fault);
}

static void check_whole(int ranks, float *values[SUMS])
{
    const int rank_sum = ranks * (ranks + 1) / 2;
    for (int sum = 0; sum < SUMS; sum++)
        for (int64_t i = 0; i < counts[sum]; i++) {
            float expected = (float)(rank_sum * ((i * 31 + sum * 7) % 1009));
            EXPECT(values[sum][i] == expected, "sum %d of %d ranks, element %d: %g, not %g", sum,
                   ranks, (int)i, (double)values[sum][i], (double)expected);
        }
}

static void check_bits(int ranks, float *values[SUMS])
{
    int differs_from_a_line = 0;
    for (int sum = 0; sum < SUMS; sum++)
        for (int64_t i = 0; i < counts[sum]; i++) {
            float expected = tree(0, ranks, sum, i), line = 0.0F;
            for (int rank = 0; rank < ranks; rank++) line += fraction(rank, sum, i);
            differs_from_a_line += line != expected;
            EXPECT(values[sum][i] == expected, "sum %d, element %d: other bits than the tree's",
                   sum, (int)i);
        }
    EXPECT(ranks < 4 || differs_from_a_line > 0, "these values cannot tell a tree from a line");
}

/* One sum after the other, in double; and whether all ranks have the same. */
static void check_close(struct collective *collective, float *values[SUMS])
{
    enum { SHOWN = 7 }; /* a sum that is told to all ranks */
    const int ranks = collective_ranks(collective);
    for (int sum = 0; sum < SUMS; sum++)
        for (int64_t i = 0; i < counts[sum]; i++) {
            double expected = 0.0;
            for (int rank = 0; rank < ranks; rank++) expected += (double)fraction(rank, sum, i);
            EXPECT(fabs((double)values[sum][i] - expected) <= 1e-6 * expected,
                   "sum %d, element %d: %.9g, not %.9g", sum, (int)i, (double)values[sum][i],
                   expected);
        }
    const size_t bytes = (size_t)counts[SHOWN] * sizeof(float);
    char *all = malloc((size_t)ranks * bytes);
    struct fault fault;
    must(collective_gather(collective, values[SHOWN], bytes, all, &fault), &fault);
    for (int rank = 1; rank < ranks; rank++)
        EXPECT(memcmp(all, all + (size_t)rank * bytes, bytes) == 0,
               "rank %d has other bits than rank 0", rank);
    free(all);
}

static void check_gather(struct collective *collective)
{
    struct record {
        int rank;
        char text[100];
    } mine = {.rank = collective_rank(collective)}, all[RANKS_MAX];
    struct fault fault;
    snprintf(mine.text, sizeof mine.text, "from %d", mine.rank);
    must(collective_gather(collective, &mine, sizeof mine, all, &fault), &fault);
    for (int rank = 0; rank < collective_ranks(collective); rank++) {
        snprintf(mine.text, sizeof mine.text, "from %d", rank);
        EXPECT(all[rank].rank == rank && strcmp(all[rank].text, mine.text) == 0,
               "record of rank %d", rank);
    }
}

/* In no order that is ours to tell; of whole numbers the sum is the same in any. */
static void check_allreduce(struct collective *collective, float *values[SUMS])
{
    const int rank = collective_rank(collective);
    struct fault fault;
    for (int sum = 0; sum < SUMS; sum++) {
        for (int64_t i = 0; i < counts[sum]; i++) values[sum][i] = whole(rank, sum, i);
        must(collective_allreduce(collective, values[sum], counts[sum], &fault), &fault);
    }
    check_whole(collective_ranks(collective), values);
}

/* Nobody comes back before the last has come, which then has left a file; and whoever waits gives its core away. */
static void check_rest(struct collective *collective)
{
    const bool is_last = collective_rank(collective) == collective_ranks(collective) - 1;
    const struct timespec pause = {.tv_nsec = 100000000};
    struct rusage before, after;
    struct fault fault;
    char path[64];
    snprintf(path, sizeof path, "/tmp/collective-rest-%ld", (long)getppid()); /* mpirun's */
    must(collective_rest(collective, &fault), &fault);
    getrusage(RUSAGE_SELF, &before);
    if (is_last) {
        nanosleep(&pause, NULL);
        fclose(fopen(path, "w"));
    }
    must(collective_rest(collective, &fault), &fault);
    getrusage(RUSAGE_SELF, &after);
    EXPECT(access(path, F_OK) == 0, "back before the last rank had come");
    EXPECT(is_last || after.ru_nvcsw > before.ru_nvcsw, "does not sleep");
    must(collective_rest(collective, &fault), &fault);
    if (is_last) unlink(path);
}

static enum status meet(void *context, char text[RENDEZVOUS_SIZE], struct fault *fault)
{
    char texts[RANKS_MAX][RENDEZVOUS_SIZE];
    enum status status = collective_gather(context, text, sizeof texts[0], texts, fault);
    if (status == ST_OK) memcpy(text, texts[0], sizeof texts[0]);
    return status;
}

/* launched: the ranks over MPI, where they sum over NCCL; else NULL */
static void join(int *argc, char ***argv, bool nccl, struct collective **launched,
                 struct collective **collective)
{
    struct fault fault;
    *launched = NULL;
    must(collective_join(argc, argv, nccl ? launched : collective, &fault), &fault);
    if (!nccl) return;
    const struct rendezvous rendezvous = {collective_rank(*launched), collective_ranks(*launched),
                                          *launched, meet};
    must(collective_nccl(&rendezvous, collective, &fault), &fault);
}

int main(int argc, char **argv)
{
    const int expected_ranks = argc > 1 ? atoi(argv[1]) : 1;
    const bool nccl = argc > 2;
    const char *library = expected_ranks == 1 && !nccl ? "" : nccl ? "NCCL " : "Open MPI ";
    const struct backend *backend = backend_find(nccl ? "cuda" : "cpu");
    struct collective *launched, *collective;
    struct fault fault = {.text = "no memory"};
    join(&argc, &argv, nccl, &launched, &collective);
    const int ranks = collective_ranks(collective);
    EXPECT(ranks == expected_ranks, "%d ranks, not %d", ranks, expected_ranks);

    float *values[SUMS];
    for (int sum = 0; sum < SUMS; sum++) {
        void *memory;
        must(backend->memory_new((size_t)counts[sum] * sizeof(float), &memory), &fault);
        values[sum] = memory;
    }
    must(collective_reserve(collective, 1), &fault);
    must(collective_reserve(collective, SUMS), &fault);
    must(collective_reserve(collective, 2), &fault);
    for (int round = 0; round < 3; round++) {
        run_sums(collective, values, whole);
        check_whole(ranks, values);
    }
    run_sums(collective, values, fraction);
    if (!nccl && (ranks & (ranks - 1)) == 0) check_bits(ranks, values);
    check_close(collective, values);
    check_gather(collective);
    if (!nccl) {
        check_allreduce(collective, values);
        check_rest(collective);
    }
    EXPECT(strncmp(collective_library(collective), library, strlen(library)) == 0, "library \"%s\"",
           collective_library(collective));

    for (int sum = 0; sum < SUMS; sum++) backend->memory_free(values[sum]);
    collective_close(collective);
    collective_close(launched);
    return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
