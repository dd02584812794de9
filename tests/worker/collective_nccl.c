/*
 * Sums over NCCL that go wrong, on devices that tests/cudashim makes of a CPU: a call that fails, a rank that is lost. Where
 * there are several ranks each is a child of the test.
 */

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "kernels/cuda/gpu.h"
#include "tests/cudashim/cudashim.h"
#include "worker/collective.h"

enum { RANKS = 3, COUNT = 100000, EXIT_ABANDONED = 7 };

static struct fault fault;

/* How the children of a test meet. */
static struct place {
    atomic_bool told;
    char text[RENDEZVOUS_SIZE];
} * place;

static void begin(void)
{
    collective_nccl_settings();
    place = mmap(NULL, sizeof *place, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(place, MAP_FAILED);
}

TestSuite(collective_nccl, .init = begin);

static enum status meet(void *context, char text[RENDEZVOUS_SIZE], struct fault *words)
{
    (void)words;
    if (*(const int *)context == 0) {
        memcpy(place->text, text, sizeof place->text);
        atomic_store(&place->told, true);
    }
    while (!atomic_load(&place->told)) usleep(1000);
    memcpy(text, place->text, sizeof place->text);
    return ST_OK;
}

static enum status join(int rank, int ranks, struct collective **collective)
{
    const struct rendezvous rendezvous = {rank, ranks, &rank, meet};
    return collective_nccl(&rendezvous, collective, &fault);
}

static const struct backend *device_open(int rank)
{
    char number[12];
    snprintf(number, sizeof number, "%d", rank);
    /* mpirun tells it, or srun */
    setenv(rank % 2 == 0 ? "OMPI_COMM_WORLD_LOCAL_RANK" : "SLURM_LOCALID", number, 1);
    setenv("OMPI_COMM_WORLD_RANK", number, 1);
    return backend_find("cuda");
}

static float *floats_new(const struct backend *backend, int64_t count)
{
    void *memory;
    if (backend->memory_new((size_t)count * sizeof(float), &memory) != ST_OK) abort();
    memset(memory, 0, (size_t)count * sizeof(float));
    return memory;
}

/* `work` in so many processes; how each ended, as waitpid tells it. */
static void run(int ranks, int (*work)(int rank), int *ends)
{
    pid_t pids[RANKS];
    for (int rank = 0; rank < ranks; rank++) {
        pids[rank] = fork();
        if (pids[rank] == 0) {
            alarm(60);
            _exit(work(rank));
        }
    }
    for (int rank = 0; rank < ranks; rank++) waitpid(pids[rank], &ends[rank], 0);
}

static void run_well(int ranks, int (*work)(int rank))
{
    int ends[RANKS];
    run(ranks, work, ends);
    for (int rank = 0; rank < ranks; rank++)
        cr_expect_eq(ends[rank], 0, "rank %d: %x", rank, ends[rank]);
}

#define MUST(condition)                                                          \
    do {                                                                         \
        if (condition) break;                                                    \
        fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, fault.text); \
        return 1;                                                                \
    } while (0)

/* ---- what is right ---- */

/* What the device still computes is in the sum, although nobody has waited for it. */
static int sum_behind_an_operation(int rank)
{
    cudashim_devices(RANKS);
    const struct backend *backend = device_open(rank);
    struct stream stream = {0};
    struct collective *collective;
    float *x = floats_new(backend, COUNT), *y = floats_new(backend, COUNT);
    for (int i = 0; i < COUNT; i++) x[i] = (float)(rank + 1);
    MUST(join(rank, RANKS, &collective) == ST_OK);
    MUST(!collective_on_host(collective));
    for (int bucket = 0; bucket < 4; bucket++) {
        const int64_t count = COUNT / 4;
        const struct add add = {.count = count, .x = x + bucket * count, .y = y + bucket * count};
        MUST(backend->add(&stream, &add) == ST_OK);
        MUST(collective_sum_start(collective, add.y, count, &fault) == ST_OK);
        MUST(collective_progress(collective, &fault) == ST_OK);
    }
    MUST(collective_finish(collective, &fault) == ST_OK);
    for (int i = 0; i < COUNT; i++) MUST(y[i] == (float)(RANKS * (RANKS + 1) / 2));
    backend->memory_free(x), backend->memory_free(y);
    collective_close(collective);
    return 0;
}

Test(collective_nccl, a_sum_waits_for_the_device_alone)
{
    run_well(RANKS, sum_behind_an_operation);
}

/* ---- ranks that are lost, or differ ---- */

static char mark[100];

static void fault_ask(const char *kind, int rank, int nth)
{
    char text[200];
    snprintf(mark, sizeof mark, "/dev/shm/collective-nccl-%d", getpid());
    snprintf(text, sizeof text, "%s %d %d %s", kind, rank, nth, mark);
    setenv("CUDASHIM_FAULT", text, 1);
}

/* Three sums, of which all ranks see one fail, in these words; then they end as a worker does. */
static int sum_in_vain(int rank, int ranks, enum status end, const char *words)
{
    cudashim_devices(RANKS);
    float *values = floats_new(device_open(rank), COUNT);
    struct collective *collective;
    enum status status = join(rank, ranks, &collective);
    for (int sum = 0; sum < 3 && status == ST_OK; sum++) {
        status = collective_sum_start(collective, values, COUNT, &fault);
        if (status == ST_OK) status = collective_finish(collective, &fault);
    }
    MUST(status == end);
    MUST(strstr(fault.text, words));
    collective_abandon(collective, EXIT_ABANDONED);
}

static int sum_where_one_dies(int rank)
{
    return sum_in_vain(rank, RANKS, ST_COLLECTIVE,
                       "a sum of gradients failed: NCCL: remote process exited");
}

/* Rank 1 dies in its second collective. */
static void others_end(int (*work)(int rank))
{
    int ends[RANKS];
    fault_ask("kill", 1, 2);
    run(RANKS, work, ends);
    unlink(mark);
    cr_expect(WIFSIGNALED(ends[1]) && WTERMSIG(ends[1]) == SIGKILL);
    cr_expect(WIFEXITED(ends[0]) && WEXITSTATUS(ends[0]) == EXIT_ABANDONED);
    cr_expect(WIFEXITED(ends[2]) && WEXITSTATUS(ends[2]) == EXIT_ABANDONED);
}

Test(collective_nccl, a_rank_that_dies_in_a_sum_ends_the_others)
{
    others_end(sum_where_one_dies);
}

/* Larger records than before, behind a sum, as in a first step. */
static int gather_more_where_one_dies(int rank)
{
    enum { BYTES = 100 };
    static char record[BYTES], all[RANKS * BYTES];
    cudashim_devices(RANKS);
    float *values = floats_new(device_open(rank), COUNT);
    struct collective *collective;
    MUST(join(rank, RANKS, &collective) == ST_OK);
    MUST(collective_gather(collective, record, 1, all, &fault) == ST_OK);
    MUST(collective_sum_start(collective, values, COUNT, &fault) == ST_OK);
    MUST(collective_gather(collective, record, BYTES, all, &fault) == ST_COLLECTIVE);
    MUST(strstr(fault.text, "a sum of gradients failed: NCCL: remote process exited"));
    collective_abandon(collective, EXIT_ABANDONED);
}

Test(collective_nccl, a_rank_that_dies_before_larger_records_ends_the_others)
{
    others_end(gather_more_where_one_dies);
}

static int sum_where_one_differs(int rank)
{
    return sum_in_vain(rank, 2, ST_INTERNAL, "where rank");
}

Test(collective_nccl, ranks_whose_sums_differ_end_in_words)
{
    int ends[RANKS];
    fault_ask("mismatch", 1, 3);
    run(2, sum_where_one_differs, ends);
    unlink(mark);
    for (int rank = 0; rank < 2; rank++)
        cr_expect(WIFEXITED(ends[rank]) && WEXITSTATUS(ends[rank]) == EXIT_ABANDONED, "rank %d: %x",
                  rank, ends[rank]);
}

static int join_on_one_device(int rank)
{
    struct collective *collective;
    device_open(rank);
    MUST(join(rank, RANKS, &collective) == ST_INVALID);
    MUST(strstr(fault.text, "a GPU of its own"));
    return 0;
}

Test(collective_nccl, two_ranks_of_one_device_are_refused)
{
    run_well(2, join_on_one_device);
}

/* ---- meeting ---- */

static enum status meet_nobody(void *context, char text[RENDEZVOUS_SIZE], struct fault *words)
{
    (void)text;
    return fault_set(words, *(enum status *)context, "nobody");
}

static enum status meet_in_a_wrong_place(void *context, char text[RENDEZVOUS_SIZE],
                                         struct fault *words)
{
    (void)context, (void)words;
    strcpy(text, "0123456789 no such digits");
    return ST_OK;
}

Test(collective_nccl, a_meeting_that_fails_leaves_nothing)
{
    device_open(0);
    const long before = cudashim_live();
    struct collective *collective;
    enum status fenced = ST_FENCED;
    struct rendezvous rendezvous = {0, 1, &fenced, meet_nobody};
    cr_expect_eq(collective_nccl(&rendezvous, &collective, &fault), ST_FENCED);
    rendezvous.meet = meet_in_a_wrong_place;
    cr_expect_eq(collective_nccl(&rendezvous, &collective, &fault), ST_CORRUPT);
    cr_expect_eq(cudashim_live(), before);
}

/* ---- calls that fail ---- */

/* All that a rank does, in which the n-th call fails; ST_OK: there are fewer. */
static enum status live_with_failure(long nth, cudaError_t error, float *values, long before)
{
    struct collective *collective;
    char record[] = "of this rank", all[sizeof record];
    cudashim_fail(nth, error, false);
    enum status status = join(0, 1, &collective);
    if (status != ST_OK) {
        cr_expect_eq(cudashim_live(), before, "call %ld leaves something", nth);
        return status;
    }
    status = collective_sum_start(collective, values, COUNT, &fault);
    if (status == ST_OK) status = collective_progress(collective, &fault);
    if (status == ST_OK) status = collective_gather(collective, record, sizeof record, all, &fault);
    if (status == ST_OK) cr_expect_str_eq(all, record, "call %ld", nth);
    collective_close(collective);
    cr_expect_eq(cudashim_live(), before, "call %ld leaves something", nth);
    return status;
}

Test(collective_nccl, every_call_may_fail)
{
    static const cudaError_t errors[] = {cudaErrorIllegalAddress, cudaErrorMemoryAllocation};
    const struct backend *backend = device_open(0);
    float *values = floats_new(backend, COUNT);
    const long before = cudashim_live();
    for (int e = 0; e < 2; e++) {
        int failed = 0;
        const long calls = cudashim_calls();
        cr_assert_eq(live_with_failure(LONG_MAX / 2, errors[e], values, before), ST_OK);
        const long most = cudashim_calls() - calls;
        for (long nth = 1; nth <= most; nth++) {
            fault.text[0] = '\0';
            const enum status status = live_with_failure(nth, errors[e], values, before);
            failed += status != ST_OK;
            if (status == ST_OK) continue; /* it was one that gives something back */
            cr_expect(status == ST_DEVICE || (e == 1 && status == ST_NO_MEMORY), "call %ld: %s",
                      nth, status_text(status));
            cr_expect_str_neq(fault.text, "", "call %ld", nth);
        }
        cr_expect_gt(failed, most / 2, "%d of %ld calls", failed, most);
    }
    backend->memory_free(values);
}
