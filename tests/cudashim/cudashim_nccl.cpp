/*
 * NCCL's stand-in, with real processes: sums and gathers that are right, and all that can go wrong between ranks.
 * Every rank is a child of the test; what it finds it says by its exit code.
 */

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <nccl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <criterion/criterion.h>

#include "tests/cudashim/cudashim.h"

namespace
{
enum { RANKS_MAX = 4, COUNT = 1001, LARGE = 300000 }; /* more than a socket holds */

/* What ranks tell the test. */
struct Shared {
    float values[RANKS_MAX][COUNT];
} * shared;

struct Rank {
    ncclComm_t comm = nullptr;
    cudaStream_t stream;
    int number;
};
} // namespace

static ncclUniqueId id_new()
{
    ncclUniqueId id;
    cr_assert_eq(ncclGetUniqueId(&id), ncclSuccess);
    return id;
}

static void begin()
{
    setenv("NCCL_ALGO", "Ring", 1);
    setenv("NCCL_PROTO", "Simple", 1);
    unsetenv("SLURMD_NODENAME");
    shared = static_cast<Shared *>(
        mmap(nullptr, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    cr_assert_neq(shared, MAP_FAILED);
}

TestSuite(nccl, .init = begin);

/* Asks until nothing is under way. */
static ncclResult_t settle(ncclComm_t comm, ncclResult_t result)
{
    while (result == ncclInProgress) {
        usleep(100);
        if (ncclCommGetAsyncError(comm, &result) != ncclSuccess) return ncclInternalError;
    }
    return result;
}

static ncclResult_t join(Rank *rank, int ranks, const ncclUniqueId &id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    cudaStreamCreateWithFlags(&rank->stream, cudaStreamNonBlocking);
    return settle(rank->comm,
                  ncclCommInitRankConfig(&rank->comm, ranks, id, rank->number, &config));
}

/* Asks until the stream is empty, or the communicator has failed. */
static ncclResult_t finish(const Rank *rank)
{
    ncclResult_t state = ncclSuccess;
    while (state == ncclSuccess && cudaStreamQuery(rank->stream) == cudaErrorNotReady) {
        usleep(100);
        ncclCommGetAsyncError(rank->comm, &state);
    }
    return state;
}

static ncclResult_t sum(const Rank *rank, float *values, size_t count)
{
    const ncclResult_t result =
        settle(rank->comm, ncclAllReduce(values, values, count, ncclFloat32, ncclSum, rank->comm,
                                         rank->stream));
    return result == ncclSuccess ? finish(rank) : result;
}

/* `work` in so many processes, each with a device of its own; how each ended, as waitpid tells it. */
static std::vector<int> run(int ranks, const std::function<int(Rank *rank)> &work)
{
    std::vector<pid_t> pids;
    std::vector<int> ends;
    cudashim_devices(RANKS_MAX);
    for (int number = 0; number < ranks; number++) {
        const pid_t pid = fork();
        if (pid == 0) {
            Rank rank;
            rank.number = number;
            cudaSetDevice(number);
            alarm(60);
            _exit(work(&rank));
        }
        pids.push_back(pid);
    }
    for (const pid_t pid : pids) {
        int status = -1;
        waitpid(pid, &status, 0);
        ends.push_back(status);
    }
    return ends;
}

static void run_well(int ranks, const std::function<int(Rank *rank)> &work)
{
    const std::vector<int> ends = run(ranks, work);
    for (size_t i = 0; i < ends.size(); i++) cr_assert_eq(ends[i], 0, "rank %zu: %x", i, ends[i]);
}

#define MUST(condition)                                                                    \
    do {                                                                                   \
        if (condition) break;                                                              \
        fprintf(stderr, "rank %d, line %d: %s (%s)\n", rank->number, __LINE__, #condition, \
                ncclGetLastError(nullptr));                                                \
        return 1;                                                                          \
    } while (0)

static int leave(Rank *rank)
{
    MUST(settle(rank->comm, ncclCommFinalize(rank->comm)) == ncclSuccess);
    MUST(ncclCommDestroy(rank->comm) == ncclSuccess);
    MUST(cudaStreamDestroy(rank->stream) == cudaSuccess);
    MUST(cudashim_live() == 0);
    return 0;
}

Test(nccl, sums_are_right)
{
    for (int ranks : {1, 2, 3, 4}) {
        const ncclUniqueId id = id_new();
        run_well(ranks, [=](Rank *rank) {
            std::vector<float> values(LARGE);
            MUST(join(rank, ranks, id) == ncclSuccess);
            for (const size_t count : {(size_t)1, (size_t)3, (size_t)COUNT, (size_t)LARGE}) {
                for (size_t i = 0; i < count; i++)
                    values[i] = (float)((rank->number + 1) * (int)(i % 1000));
                MUST(sum(rank, values.data(), count) == ncclSuccess);
                for (size_t i = 0; i < count; i++)
                    MUST(values[i] == (float)(ranks * (ranks + 1) / 2 * (int)(i % 1000)));
            }
            return leave(rank);
        });
    }
}

Test(nccl, what_is_gathered_is_in_order_of_rank)
{
    const ncclUniqueId id = id_new();
    run_well(3, [=](Rank *rank) {
        char mine[5], all[3 * sizeof mine];
        MUST(join(rank, 3, id) == ncclSuccess);
        for (int round = 0; round < 3; round++) {
            memset(mine, 'a' + rank->number + round, sizeof mine);
            MUST(settle(rank->comm, ncclAllGather(mine, all, sizeof mine, ncclUint8, rank->comm,
                                                  rank->stream)) == ncclSuccess);
            MUST(finish(rank) == ncclSuccess);
            for (int i = 0; i < (int)sizeof all; i++)
                MUST(all[i] == 'a' + i / (int)sizeof mine + round);
        }
        return leave(rank);
    });
}

/* ---- the order of a sum ---- */

/* Sums whose order shows, over four ranks that have all got the same. */
static void sum_fractions(float *sums)
{
    const ncclUniqueId id = id_new();
    run_well(RANKS_MAX, [=](Rank *rank) {
        float *values = shared->values[rank->number];
        MUST(join(rank, RANKS_MAX, id) == ncclSuccess);
        for (int i = 0; i < COUNT; i++)
            values[i] = 1.0F / (float)(1 + (i * 131 + rank->number * 7919) % 100003);
        MUST(sum(rank, values, COUNT) == ncclSuccess);
        return leave(rank);
    });
    for (int rank = 1; rank < RANKS_MAX; rank++)
        cr_assert_arr_eq(shared->values[rank], shared->values[0], sizeof shared->values[0]);
    memcpy(sums, shared->values[0], sizeof shared->values[0]);
}

/* How many of some repetitions have other bits than the first. */
static int different_bits()
{
    static float first[COUNT], again[COUNT];
    int different = 0;
    sum_fractions(first);
    for (int i = 0; i < 8; i++) {
        sum_fractions(again);
        different += memcmp(first, again, sizeof first) != 0;
    }
    return different;
}

Test(nccl, with_one_algorithm_the_bits_are_the_same_each_time)
{
    cr_expect_eq(different_bits(), 0);
}

Test(nccl, with_any_algorithm_they_need_not_be)
{
    unsetenv("NCCL_PROTO");
    cr_expect_gt(different_bits(), 0);
}

/* ---- ranks that do not agree ---- */

static void must_be_told(int ranks, const char *words,
                         const std::function<ncclResult_t(Rank *rank)> &work)
{
    run_well(ranks, [=](Rank *rank) {
        MUST(work(rank) == ncclInvalidUsage);
        MUST(strstr(ncclGetLastError(rank->comm), words));
        return 0;
    });
}

Test(nccl, ranks_that_sum_different_counts_are_told)
{
    const ncclUniqueId id = id_new();
    must_be_told(2, "where rank", [=](Rank *rank) {
        static float values[COUNT];
        const ncclResult_t joined = join(rank, 2, id);
        return joined == ncclSuccess ? sum(rank, values, (size_t)(COUNT - rank->number)) : joined;
    });
}

static ncclResult_t gather(Rank *rank, ncclDataType_t type)
{
    static float mine[8], all[16];
    const ncclResult_t result =
        settle(rank->comm, ncclAllGather(mine, all, 8, type, rank->comm, rank->stream));
    return result == ncclSuccess ? finish(rank) : result;
}

Test(nccl, ranks_that_gather_different_types_are_told)
{
    const ncclUniqueId id = id_new();
    must_be_told(2, "of type", [=](Rank *rank) {
        const ncclResult_t joined = join(rank, 2, id);
        const ncclDataType_t type = rank->number == 0 ? ncclUint8 : ncclFloat32;
        return joined == ncclSuccess ? gather(rank, type) : joined;
    });
}

Test(nccl, a_rank_that_gathers_where_the_other_sums_is_told)
{
    const ncclUniqueId id = id_new();
    must_be_told(2, "gathers", [=](Rank *rank) {
        static float values[8];
        const ncclResult_t joined = join(rank, 2, id);
        if (joined != ncclSuccess) return joined;
        return rank->number == 0 ? sum(rank, values, 8) : gather(rank, ncclFloat32);
    });
}

Test(nccl, ranks_that_count_themselves_differently_are_told)
{
    const ncclUniqueId id = id_new();
    must_be_told(2, "one of", [=](Rank *rank) { return join(rank, 2 + rank->number, id); });
}

Test(nccl, two_ranks_on_one_device_are_told)
{
    const ncclUniqueId id = id_new();
    must_be_told(2, "Duplicate GPU", [=](Rank *rank) {
        cudaSetDevice(0);
        return join(rank, 2, id);
    });
}

Test(nccl, a_number_serves_one_rank)
{
    const ncclUniqueId id = id_new();
    Rank first, second;
    first.number = second.number = 0;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    cr_assert_eq(ncclCommInitRankConfig(&first.comm, 2, id, 0, &config), ncclInProgress);
    cr_assert_eq(ncclCommInitRankConfig(&second.comm, 2, id, 0, &config), ncclInvalidUsage);
    cr_assert_eq(ncclCommInitRankConfig(&second.comm, 2, id, 2, &config), ncclInvalidArgument);
}

/* ---- ranks that are lost ---- */

static int sum_without_the_other(Rank *rank, ncclResult_t end)
{
    static float values[LARGE];
    MUST(sum(rank, values, LARGE) == end);
    MUST(cudaStreamQuery(rank->stream) == cudaErrorNotReady);
    MUST(ncclCommAbort(rank->comm) == ncclSuccess);
    MUST(cudaStreamSynchronize(rank->stream) == cudaSuccess);
    MUST(cudaStreamDestroy(rank->stream) == cudaSuccess);
    MUST(cudashim_live() == 0);
    return 0;
}

/* The mark is where no directory is needed: in the shared memory that /dev/shm shows. */
static void fault_ask(const char *kind, int rank, int nth, char *mark, size_t size)
{
    char text[200];
    snprintf(mark, size, "/dev/shm/cudashim-%d-%s", getpid(), kind);
    snprintf(text, sizeof text, "%s %d %d %s", kind, rank, nth, mark);
    setenv("CUDASHIM_FAULT", text, 1);
}

static void name_rank(const Rank *rank)
{
    char number[12];
    snprintf(number, sizeof number, "%d", rank->number);
    setenv("OMPI_COMM_WORLD_RANK", number, 1);
}

Test(nccl, a_rank_that_dies_in_a_sum_is_told_to_the_others)
{
    char mark[100];
    fault_ask("kill", 1, 2, mark, sizeof mark);
    for (int attempt = 1; attempt <= 2; attempt++) {
        const ncclUniqueId id = id_new();
        const std::vector<int> ends = run(3, [=](Rank *rank) {
            static float values[LARGE];
            name_rank(rank);
            MUST(join(rank, 3, id) == ncclSuccess);
            MUST(sum(rank, values, LARGE) == ncclSuccess);
            if (attempt == 1) return sum_without_the_other(rank, ncclRemoteError);
            MUST(sum(rank, values, LARGE) == ncclSuccess);
            return leave(rank);
        });
        const bool dies = attempt == 1;
        cr_expect(ends[0] == 0 && ends[2] == 0);
        cr_expect_eq(WIFSIGNALED(ends[1]) && WTERMSIG(ends[1]) == SIGKILL, dies);
        cr_expect_eq(access(mark, F_OK), 0);
    }
    unlink(mark);
}

Test(nccl, a_collective_of_another_size_can_be_ordered)
{
    char mark[100];
    fault_ask("mismatch", 0, 1, mark, sizeof mark);
    const ncclUniqueId id = id_new();
    must_be_told(2, "sums 1000 of type 7", [=](Rank *rank) {
        static float values[COUNT];
        name_rank(rank);
        const ncclResult_t joined = join(rank, 2, id);
        return joined == ncclSuccess ? sum(rank, values, COUNT) : joined;
    });
    unlink(mark);
}

Test(nccl, for_a_rank_that_hangs_the_others_wait_until_they_abort)
{
    const ncclUniqueId id = id_new();
    run_well(2, [=](Rank *rank) {
        static float values[COUNT];
        ncclResult_t state;
        MUST(join(rank, 2, id) == ncclSuccess);
        if (rank->number == 1) {
            char nothing; /* until the other is gone */
            usleep(400000);
            (void)nothing;
            return 0;
        }
        MUST(settle(rank->comm, ncclAllReduce(values, values, COUNT, ncclFloat32, ncclSum,
                                              rank->comm, rank->stream)) == ncclSuccess);
        for (int i = 0; i < 100; i++) {
            MUST(cudaStreamQuery(rank->stream) == cudaErrorNotReady);
            MUST(ncclCommGetAsyncError(rank->comm, &state) == ncclSuccess && state == ncclSuccess);
            usleep(1000);
        }
        MUST(ncclCommAbort(rank->comm) == ncclSuccess);
        MUST(cudaStreamSynchronize(rank->stream) == cudaSuccess);
        return 0;
    });
}

/* ---- calls ---- */

Test(nccl, a_call_may_end_later_and_none_may_come_before)
{
    static float values[COUNT];
    Rank rank;
    rank.number = 0;
    cr_assert_eq(join(&rank, 1, id_new()), ncclSuccess);
    const auto call = [&] {
        return ncclAllReduce(values, values, COUNT, ncclFloat32, ncclSum, rank.comm, rank.stream);
    };
    ncclResult_t state;
    cr_assert_eq(call(), ncclSuccess);
    cr_assert_eq(cudaStreamSynchronize(rank.stream), cudaSuccess);
    cr_assert_eq(call(), ncclInProgress);
    cr_expect_eq(cudaStreamQuery(rank.stream), cudaSuccess, "it is not on the stream yet");
    cr_assert_eq(ncclCommGetAsyncError(rank.comm, &state), ncclSuccess);
    cr_expect_eq(state, ncclInProgress);
    cr_expect_eq(cudaStreamQuery(rank.stream), cudaErrorNotReady, "now it is");
    cr_assert_eq(cudaStreamSynchronize(rank.stream), cudaSuccess);
    cr_assert_eq(call(), ncclSuccess);
    cr_assert_eq(call(), ncclInProgress);
    cr_expect_eq(call(), ncclInvalidUsage);
    cr_expect_eq(ncclCommAbort(rank.comm), ncclSuccess);
}

Test(nccl, a_process_does_not_end_while_a_collective_is_under_way)
{
    const ncclUniqueId id = id_new();
    const std::vector<int> ends = run(2, [=](Rank *rank) {
        static float values[COUNT];
        MUST(join(rank, 2, id) == ncclSuccess);
        if (rank->number == 0)
            MUST(settle(rank->comm, ncclAllReduce(values, values, COUNT, ncclFloat32, ncclSum,
                                                  rank->comm, rank->stream)) == ncclSuccess);
        exit(0);
    });
    cr_expect(WIFSIGNALED(ends[0]) && WTERMSIG(ends[0]) == SIGABRT);
    cr_expect_eq(ends[1], 0);
}

Test(nccl, the_nth_call_fails)
{
    Rank rank;
    rank.number = 0;
    cr_assert_eq(join(&rank, 1, id_new()), ncclSuccess);
    static float values[COUNT];
    cudashim_fail(1, cudaErrorIllegalAddress, false);
    cr_expect_eq(ncclAllReduce(values, values, COUNT, ncclFloat32, ncclSum, rank.comm, rank.stream),
                 ncclUnhandledCudaError);
    ncclUniqueId id;
    cudashim_fail(1, cudaErrorIllegalAddress, false);
    cr_expect_eq(ncclGetUniqueId(&id), ncclUnhandledCudaError);
}
