#include "worker/collective.h"

#include <stdlib.h>
#include <string.h>

#include "worker/collective_kind.h"

/* ---- one rank alone: its sums are what they are ---- */

static enum status single_reserve(struct collective *collective, int sums)
{
    (void)collective, (void)sums;
    return ST_OK;
}

static enum status single_sum_start(struct collective *collective, float *values, int64_t count,
                                    struct fault *fault)
{
    (void)collective, (void)values, (void)count, (void)fault;
    return ST_OK;
}

static enum status single_progress(struct collective *collective, struct fault *fault)
{
    (void)collective, (void)fault;
    return ST_OK;
}

static enum status single_gather(struct collective *collective, const void *record, size_t bytes,
                                 void *all, struct fault *fault)
{
    (void)collective, (void)fault;
    memcpy(all, record, bytes);
    return ST_OK;
}

static void single_close(struct collective *collective)
{
    free(collective);
}

static void single_abandon(struct collective *collective, int exit_code)
{
    (void)collective, (void)exit_code;
}

static const struct collective_kind single = {
    .on_host = true,
    .reserve = single_reserve,
    .sum_start = single_sum_start,
    .progress = single_progress,
    .finish = single_progress,
    .gather = single_gather,
    .close = single_close,
    .abandon = single_abandon,
};

enum status collective_single(struct collective **collective)
{
    struct collective *alone = calloc(1, sizeof *alone);
    if (!alone) return ST_NO_MEMORY;
    alone->kind = &single;
    alone->ranks = 1;
    *collective = alone;
    return ST_OK;
}

/* ---- joining ---- */

/* By mpirun, or by a srun --mpi=pmix, which leaves it to MPI_Init to set Open MPI's own. */
const char *collective_launched_rank(void)
{
    const char *text = getenv("OMPI_COMM_WORLD_RANK");
    return text ? text : getenv("PMIX_RANK");
}

enum status collective_join(int *argc, char ***argv, struct collective **collective,
                            struct fault *fault)
{
    if (collective_launched_rank()) return collective_mpi(argc, argv, collective, fault);
    enum status status = collective_single(collective);
    return status == ST_OK ? ST_OK : fault_set(fault, status, "no memory to begin");
}

/* ---- of any kind ---- */

int collective_rank(const struct collective *collective)
{
    return collective->rank;
}

int collective_ranks(const struct collective *collective)
{
    return collective->ranks;
}

const char *collective_library(const struct collective *collective)
{
    return collective->version;
}

bool collective_on_host(const struct collective *collective)
{
    return collective->kind->on_host;
}

enum status collective_reserve(struct collective *collective, int sums)
{
    return collective->kind->reserve(collective, sums);
}

enum status collective_sum_start(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault)
{
    return collective->kind->sum_start(collective, values, count, fault);
}

enum status collective_progress(struct collective *collective, struct fault *fault)
{
    return collective->kind->progress(collective, fault);
}

enum status collective_finish(struct collective *collective, struct fault *fault)
{
    return collective->kind->finish(collective, fault);
}

enum status collective_gather(struct collective *collective, const void *record, size_t bytes,
                              void *all, struct fault *fault)
{
    return collective->kind->gather(collective, record, bytes, all, fault);
}

void collective_close(struct collective *collective)
{
    if (collective) collective->kind->close(collective);
}

void collective_abandon(struct collective *collective, int exit_code)
{
    if (collective) collective->kind->abandon(collective, exit_code);
    exit(exit_code);
}
