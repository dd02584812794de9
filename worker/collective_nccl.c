/*
 * Sums over NCCL, on a stream of its own, beside what the backend's stream still computes.
 *
 * Nothing here waits inside CUDA for what other ranks have a part in: where one of them is lost, that would never end. What
 * is under way is asked after instead, and so is the communicator, which does not block, whether it has failed.
 */

#include <assert.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/gpu.h"
#include "worker/collective_kind.h"

enum { PAUSE_NS = 20 * 1000 }; /* between two questions; a step takes thousands of times as long */

struct nccl {
    struct collective base;
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t computed; /* on the backend's stream: what is to be summed is there */
    cudaEvent_t done;     /* on ours */
    /* (1 + ranks, record_bytes): this rank's record, then all; pinned, so that copies do not wait */
    char *host, *device;
    size_t record_bytes; /* room of each */
};

static struct nccl *nccl_of(struct collective *collective)
{
    return (struct nccl *)collective;
}

static void pause_shortly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
}

/* ---- codes ---- */

static enum status translate_cuda(cudaError_t error, const char *what, struct fault *fault)
{
    if (error == cudaSuccess) return ST_OK;
    return fault_set(fault, gpu_status(error, what), "%s: %s", what, cudaGetErrorString(error));
}

/* A device that failed is this rank's own misfortune, a wrong call our mistake, and all else shared with the others. */
static enum status status_of(ncclResult_t result)
{
    switch (result) {
    case ncclSuccess:
        return ST_OK;
    case ncclUnhandledCudaError:
        return ST_DEVICE;
    case ncclInvalidArgument:
    case ncclInvalidUsage:
        return ST_INTERNAL;
    default:
        return ST_COLLECTIVE;
    }
}

static enum status translate(const struct nccl *nccl, ncclResult_t result, const char *what,
                             struct fault *fault)
{
    if (result == ncclSuccess) return ST_OK;
    const char *more = ncclGetLastError(nccl->comm);
    return fault_set(fault, status_of(result), "%s: NCCL: %s%s%s", what, ncclGetErrorString(result),
                     more && *more ? ": " : "", more ? more : "");
}

/* How the communicator is, a call that is yet to end included. */
static ncclResult_t state_of(const struct nccl *nccl)
{
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(nccl->comm, &state);
    return asked == ncclSuccess ? state : asked;
}

/* A call has ended, and what it enqueues is on the stream, once the communicator is at rest. */
static ncclResult_t settle(const struct nccl *nccl, ncclResult_t result)
{
    while (result == ncclInProgress) {
        pause_shortly();
        result = state_of(nccl);
    }
    return result;
}

/* Whether another rank, or the way to it, is lost. Does not block. */
static enum status check_peers(const struct nccl *nccl, const char *what, struct fault *fault)
{
    const ncclResult_t state = state_of(nccl);
    return translate(nccl, state == ncclInProgress ? ncclSuccess : state, what, fault);
}

/* Blocks until all that is on our stream is over, or never will be. */
static enum status wait_done(const struct nccl *nccl, const char *what, struct fault *fault)
{
    cudaError_t error = cudaEventRecord(nccl->done, nccl->stream);
    if (error == cudaSuccess) error = cudaEventQuery(nccl->done);
    while (error == cudaErrorNotReady) {
        const enum status status = check_peers(nccl, what, fault);
        if (status != ST_OK) return status;
        pause_shortly();
        error = cudaEventQuery(nccl->done);
    }
    return translate_cuda(error, what, fault);
}

/* ---- sums ---- */

static enum status reserve(struct collective *collective, int sums)
{
    (void)collective, (void)sums; /* NCCL has room of its own */
    return ST_OK;
}

/* Our stream goes on when the backend's has come to where it is now; the host waits for neither. */
static enum status sum_start(struct collective *collective, float *values, int64_t count,
                             struct fault *fault)
{
    static const char what[] = "could not start to sum gradients";
    const size_t floats = (size_t)count;
    const struct nccl *nccl = nccl_of(collective);
    cudaError_t error = cudaEventRecord(nccl->computed, gpu_current()->stream);
    if (error == cudaSuccess) error = cudaStreamWaitEvent(nccl->stream, nccl->computed, 0);
    if (error != cudaSuccess) return translate_cuda(error, what, fault);
    const ncclResult_t result =
        ncclAllReduce(values, values, floats, ncclFloat32, ncclSum, nccl->comm, nccl->stream);
    return translate(nccl, settle(nccl, result), what, fault);
}

static enum status progress(struct collective *collective, struct fault *fault)
{
    return check_peers(nccl_of(collective), "a sum of gradients failed during backward", fault);
}

static enum status finish(struct collective *collective, struct fault *fault)
{
    return wait_done(nccl_of(collective), "a sum of gradients failed", fault);
}

/* ---- records ---- */

static void records_free(struct nccl *nccl)
{
    cudaFree(nccl->device);
    cudaFreeHost(nccl->host);
    nccl->device = nccl->host = NULL;
    nccl->record_bytes = 0;
}

/* A few sizes are met in a run, the first time each. To free memory waits inside CUDA for sums that are under way, as those of
 * the first step are: so they are waited for here. */
static enum status records_reserve(struct nccl *nccl, size_t bytes, struct fault *fault)
{
    const size_t all = (1 + (size_t)nccl->base.ranks) * bytes;
    void *host = NULL, *device = NULL;
    if (bytes <= nccl->record_bytes) return ST_OK;
    const enum status status = finish(&nccl->base, fault);
    if (status != ST_OK) return status;
    records_free(nccl);
    cudaError_t error = cudaMallocHost(&host, all);
    if (error == cudaSuccess) error = cudaMalloc(&device, all);
    nccl->host = host;
    nccl->device = device;
    if (error == cudaSuccess) nccl->record_bytes = bytes;
    return translate_cuda(error, "no memory for the records of all ranks", fault);
}

/* On the stream behind the sums, so that one wait does for both. */
static enum status gather(struct collective *collective, const void *record, size_t bytes,
                          void *all, struct fault *fault)
{
    static const char what[] = "the ranks could not agree";
    struct nccl *nccl = nccl_of(collective);
    const size_t all_bytes = (size_t)nccl->base.ranks * bytes;
    enum status status = records_reserve(nccl, bytes, fault);
    if (status != ST_OK) return status;

    memcpy(nccl->host, record, bytes);
    cudaError_t error =
        cudaMemcpyAsync(nccl->device, nccl->host, bytes, cudaMemcpyHostToDevice, nccl->stream);
    if (error != cudaSuccess) return translate_cuda(error, what, fault);
    const ncclResult_t result = ncclAllGather(nccl->device, nccl->device + bytes, bytes, ncclUint8,
                                              nccl->comm, nccl->stream);
    status = translate(nccl, settle(nccl, result), what, fault);
    if (status != ST_OK) return status;
    error = cudaMemcpyAsync(nccl->host + bytes, nccl->device + bytes, all_bytes,
                            cudaMemcpyDeviceToHost, nccl->stream);
    if (error != cudaSuccess) return translate_cuda(error, what, fault);
    status = wait_done(nccl, what, fault);
    if (status == ST_OK) memcpy(all, nccl->host + bytes, all_bytes);
    return status;
}

/* ---- joining and leaving ---- */

/* The stream first: what is on it may still reach the rest. */
static void nccl_free(struct nccl *nccl)
{
    if (nccl->stream) cudaStreamDestroy(nccl->stream);
    if (nccl->done) cudaEventDestroy(nccl->done);
    if (nccl->computed) cudaEventDestroy(nccl->computed);
    records_free(nccl);
    free(nccl);
}

static void leave(struct collective *collective)
{
    struct nccl *nccl = nccl_of(collective);
    if (settle(nccl, ncclCommFinalize(nccl->comm)) == ncclSuccess)
        ncclCommDestroy(nccl->comm);
    else
        ncclCommAbort(nccl->comm);
    nccl_free(nccl);
}

/* The process ends next: what is under way must let go of the device, all else goes with it. */
static void abandon(struct collective *collective, int exit_code)
{
    (void)exit_code;
    ncclCommAbort(nccl_of(collective)->comm);
}

static const struct collective_kind kind = {
    .on_host = false,
    .reserve = reserve,
    .sum_start = sum_start,
    .progress = progress,
    .finish = finish,
    .gather = gather,
    .close = leave,
    .abandon = abandon,
};

void collective_nccl_settings(void)
{
    setenv("NCCL_ALGO", "Ring", false);
    setenv("NCCL_PROTO", "Simple", false);
}

static void id_print(const ncclUniqueId *id, char text[RENDEZVOUS_SIZE])
{
    static_assert(2 * sizeof id->internal < RENDEZVOUS_SIZE, "two digits for each byte");
    for (size_t i = 0; i < sizeof id->internal; i++)
        snprintf(text + 2 * i, 3, "%02x", (unsigned char)id->internal[i]);
}

static enum status id_read(const char *text, ncclUniqueId *id, struct fault *fault)
{
    unsigned byte;
    size_t i = 0;
    for (; i < sizeof id->internal && sscanf(text + 2 * i, "%2x", &byte) == 1; i++)
        id->internal[i] = (char)byte;
    if (i == sizeof id->internal) return ST_OK;
    return fault_set(fault, ST_CORRUPT, "what rank 0 told of how to find it is no id of NCCL");
}

/* Rank 0 makes it, and listens for the others from then on. */
static enum status id_agree(const struct nccl *nccl, const struct rendezvous *rendezvous,
                            ncclUniqueId *id, struct fault *fault)
{
    char text[RENDEZVOUS_SIZE] = "";
    if (rendezvous->rank == 0) {
        const enum status status =
            translate(nccl, ncclGetUniqueId(id), "could not begin to join the ranks", fault);
        if (status != ST_OK) return status;
        id_print(id, text);
    }
    const enum status status = rendezvous->meet(rendezvous->context, text, fault);
    return status == ST_OK ? id_read(text, id, fault) : status;
}

static enum status streams_new(struct nccl *nccl, struct fault *fault)
{
    cudaError_t error = cudaStreamCreateWithFlags(&nccl->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&nccl->computed, cudaEventDisableTiming);
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&nccl->done, cudaEventDisableTiming);
    return translate_cuda(error, "could not make a stream for sums", fault);
}

static enum status join(struct nccl *nccl, ncclUniqueId id, struct fault *fault)
{
    static const char what[] = "could not join the other ranks";
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t result = settle(
        nccl, ncclCommInitRankConfig(&nccl->comm, nccl->base.ranks, id, nccl->base.rank, &config));
    if (result != ncclInvalidUsage) return translate(nccl, result, what, fault);
    return fault_set(fault, ST_INVALID, "%s: %s; each rank needs a GPU of its own", what,
                     ncclGetLastError(nccl->comm));
}

static void name_library(struct nccl *nccl)
{
    int version = 0;
    ncclGetVersion(&version); /* 22809: 2.28.9 */
    snprintf(nccl->base.version, sizeof nccl->base.version, "NCCL %d.%d.%d", version / 10000,
             version / 100 % 100, version % 100);
}

enum status collective_nccl(const struct rendezvous *rendezvous, struct collective **collective,
                            struct fault *fault)
{
    ncclUniqueId id;
    struct nccl *nccl = calloc(1, sizeof *nccl);
    if (!nccl) return fault_set(fault, ST_NO_MEMORY, "no memory to join the other ranks");
    nccl->base.kind = &kind;
    nccl->base.rank = rendezvous->rank;
    nccl->base.ranks = rendezvous->ranks;
    name_library(nccl);

    enum status status = streams_new(nccl, fault);
    if (status == ST_OK) status = id_agree(nccl, rendezvous, &id, fault);
    if (status == ST_OK) status = join(nccl, id, fault);
    if (status != ST_OK) {
        if (nccl->comm) ncclCommAbort(nccl->comm);
        nccl_free(nccl);
        return status;
    }
    *collective = &nccl->base;
    return ST_OK;
}
