#ifndef WORKER_COLLECTIVE_H
#define WORKER_COLLECTIVE_H

/*
 * What ranks do together. Sums are one binary tree over ranks: partners at distance 1, 2, 4, ...
 * exchange halves, then the whole is put together again (recursive halving and doubling): the same bits on
 * every rank, the same as if one rank had summed the halves. Numbers of ranks that are no power of two
 * fold the surplus first: right sums, bits of their own.
 */

#include <stddef.h>
#include <stdint.h>

#include "proto/status.h"

struct collective;

/* One rank, no MPI. */
enum status collective_single(struct collective **collective);

/* Joins MPI_COMM_WORLD (MPI_Init is called here). Blocks until all ranks are there. */
enum status collective_mpi(int *argc, char ***argv, struct collective **collective,
                           struct fault *fault);

/* This rank's number as mpirun or srun tells it before anybody has joined; NULL where neither has started it. */
const char *collective_launched_rank(void);

/* collective_mpi where a launcher has started this rank, else collective_single. */
enum status collective_join(int *argc, char ***argv, struct collective **collective,
                            struct fault *fault);

int collective_rank(const struct collective *collective);
int collective_ranks(const struct collective *collective);

/* "Open MPI 4.1.4", or "" where there is one rank alone. */
const char *collective_library(const struct collective *collective);

/*
 * Makes room for at most `sums` sums between two calls of `collective_finish`, before the first sum, so that none allocates;
 * again for more, while none is under way. ST_NO_MEMORY is the only failure.
 */
enum status collective_reserve(struct collective *collective, int sums);

/* Floats that `collective_reserve` takes in each of so many ranks, however large the sums are. */
int64_t collective_room_floats(int ranks);

/*
 * Starts summing values[0 ... count-1] over the ranks, in place; every rank starts the same buckets in the
 * same order. `progress` moves what is under way and does not block: called between operations, it is what
 * lets buckets travel while backward still runs. `finish` blocks until all that was started is done.
 */
enum status collective_sum_start(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault);
enum status collective_progress(struct collective *collective, struct fault *fault);
enum status collective_finish(struct collective *collective, struct fault *fault);

/* Every rank's record to every rank, in order of rank: how ranks agree, each deciding alike from the
 * same records. Blocks. all: ranks * bytes. */
enum status collective_gather(struct collective *collective, const void *record, size_t bytes,
                              void *all, struct fault *fault);

/* For measurements: sums over the ranks in whatever order this MPI prefers, so that the bits depend on it and on the number of
 * ranks. In place; blocks. */
enum status collective_allreduce(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault);

/* Returns when all ranks have come here. Who waits sleeps, and leaves the cores to those that still work. */
enum status collective_rest(struct collective *collective, struct fault *fault);

/* Leaves MPI; with a fault elsewhere, `abandon` ends the process without waiting for the others. */
void collective_close(struct collective *collective);
void collective_abandon(struct collective *collective, int exit_code);

#endif
