#ifndef WORKER_COLLECTIVE_H
#define WORKER_COLLECTIVE_H

/*
 * What ranks do together, over MPI where the host holds what is summed, over NCCL where GPUs do.
 *
 * Over MPI a sum is one binary tree over ranks: partners at distance 1, 2, 4, ... exchange halves, then the whole is put
 * together again (recursive halving and doubling): the same bits on every rank, the same as if one rank had summed the
 * halves. Numbers of ranks that are no power of two fold the surplus first: right sums, bits of their own.
 *
 * Over NCCL it is one ring: the same bits on every rank and in every run of as many ranks on such machines, but not those of
 * other numbers of ranks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct collective;

/* One rank alone. */
enum status collective_single(struct collective **collective);

/* Joins MPI_COMM_WORLD (MPI_Init is called here). Blocks until all ranks are there. */
enum status collective_mpi(int *argc, char ***argv, struct collective **collective,
                           struct fault *fault);

/* This rank's number as mpirun or srun tells it before anybody has joined; NULL where neither has started it. */
const char *collective_launched_rank(void);

/* collective_mpi where a launcher has started this rank, else collective_single. */
enum status collective_join(int *argc, char ***argv, struct collective **collective,
                            struct fault *fault);

/*
 * What NCCL reads of the environment, unless it is set: one algorithm and one protocol for all sizes, so that the order of a
 * sum is fixed. Before the process has a second thread.
 */
void collective_nccl_settings(void);

/* How ranks come by the text by which they find each other. It is rank 0 that knows it. */
enum { RENDEZVOUS_SIZE = 320 };
struct rendezvous {
    int rank, ranks;
    void *context;
    /* Brings rank 0's text to all others; blocks until it is there. */
    enum status (*meet)(void *context, char text[RENDEZVOUS_SIZE], struct fault *fault);
};

/*
 * Joins the ranks of the rendezvous, each with the device that its backend "cuda" has opened, which must outlive the
 * collective; the thread that opened it is the only one to use this. Blocks until all ranks are there. ST_INVALID: two ranks
 * have one device; ST_UNSUPPORTED: this build has no NCCL; ST_DEVICE, ST_COLLECTIVE, or what `meet` answers.
 */
enum status collective_nccl(const struct rendezvous *rendezvous, struct collective **collective,
                            struct fault *fault);

int collective_rank(const struct collective *collective);
int collective_ranks(const struct collective *collective);

/* "Open MPI 4.1.4", "NCCL 2.28.9", or "" where there is one rank alone. */
const char *collective_library(const struct collective *collective);

/*
 * Whether the host sums: then operations that write what is to be summed must be over (`sync` of the backend) before a sum
 * is started. Over NCCL it is enough that they have been enqueued.
 */
bool collective_on_host(const struct collective *collective);

/*
 * Makes room for at most `sums` sums between two calls of `collective_finish`, before the first sum, so that none allocates;
 * again for more, while none is under way. ST_NO_MEMORY is the only failure.
 */
enum status collective_reserve(struct collective *collective, int sums);

/* Floats that `collective_reserve` takes in each of so many ranks, at most, however large the sums are. */
int64_t collective_room_floats(int ranks);

/*
 * Starts summing values[0 ... count-1] over the ranks, in place; every rank starts the same buckets in the
 * same order. `progress` moves what is under way and does not block: called between operations, it is what
 * lets buckets travel while backward still runs, and tells early that a rank is lost. `finish` blocks until all that was
 * started is done.
 */
enum status collective_sum_start(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault);
enum status collective_progress(struct collective *collective, struct fault *fault);
enum status collective_finish(struct collective *collective, struct fault *fault);

/* Finishes, and brings every rank's record to every rank with it, in order of rank: how ranks agree, each deciding alike
 * from the same records. Blocks. all: ranks * bytes. */
enum status collective_gather(struct collective *collective, const void *record, size_t bytes,
                              void *all, struct fault *fault);

/* For measurements, not over NCCL: sums over the ranks in whatever order this MPI prefers, so that the bits depend on it and
 * on the number of ranks. In place; blocks. */
enum status collective_allreduce(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault);

/* The same: returns when all ranks have come here. Who waits sleeps, and leaves the cores to those that still work. */
enum status collective_rest(struct collective *collective, struct fault *fault);

/* Leaves the others, who must do the same; NULL is taken. With a fault elsewhere, `abandon` ends the process without waiting
 * for them: they see that it is gone. */
void collective_close(struct collective *collective);
_Noreturn void collective_abandon(struct collective *collective, int exit_code);

#endif
