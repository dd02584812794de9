/*
 * NCCL between processes of one machine. Every two ranks have a socket, found by the id; in a collective each sends what it
 * has to every other, and each puts together what it gets, all in the same order. No thread is needed: a communicator moves when
 * it is asked how it is, a collective when its stream moves.
 *
 * It is stricter than NCCL where that would hang or compute nonsense: ranks that do different things are told so.
 */

#include <nccl.h>

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <vector>

#include "tests/cudashim/fault.h"
#include "tests/cudashim/runtime.h"

using namespace cudashim;

namespace
{
enum { NAME_SIZE = 48, HOST_SIZE = 64 };

/* What an ncclUniqueId holds. */
struct Id {
    char name[NAME_SIZE];
    uint32_t ring_turns; /* three bits for each part of the values, by how far its ring is turned */
};
static_assert(sizeof(Id) <= sizeof(ncclUniqueId), "an id must fit");

/* The first words on a socket. */
struct Hello {
    int rank, ranks, device;
    char host[HOST_SIZE]; /* two nodes of a test's cluster are one machine */
};

/* What a collective is, told before its bytes. */
struct Head {
    int gathers, type;
    uint64_t count;
};

struct Collective {
    Head head;
    const char *from;
    char *to;

    size_t bytes() const
    {
        return head.count * (head.type == ncclFloat32 ? sizeof(float) : 1);
    }
};

struct Peer {
    int socket = -1;
    size_t sent = 0, received = 0; /* of the collective under way, its head included */
    Head head;
    std::vector<char> bytes;
};
} // namespace

struct ncclComm {
    std::shared_ptr<ncclComm> self; /* until it is given back; what is enqueued holds it too */
    int rank, ranks;
    uint32_t ring_turns;
    char name[NAME_SIZE];
    int door = -1;              /* higher ranks come in here */
    int called = 0;             /* lower ranks that have let us in */
    std::vector<int> strangers; /* sockets of who has not said yet who it is */
    std::vector<Peer> peers;    /* (ranks), our own place unused */
    bool joined = false, aborted = false;
    ncclResult_t error = ncclSuccess;

    std::function<void()> late_call; /* one that will have ended when it is asked for */
    uint64_t calls = 0;
    uint64_t unfinished = 0; /* collectives that are enqueued */
    bool begun = false;      /* the oldest of them */
    Head told;               /* of it */
};

static char last_error[400];
static uint64_t under_way; /* collectives of all communicators */

/* On a device they would go on, and CUDA would wait for them before it lets the process go. */
static void check_end()
{
    if (under_way == 0) return;
    fprintf(stderr,
            "cudashim: the process ends, and a collective is under way that was not aborted\n");
    abort();
}

__attribute__((format(printf, 3, 4))) static ncclResult_t fail(ncclComm_t comm, ncclResult_t error,
                                                               const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    if (comm && comm->error == ncclSuccess) comm->error = error;
    return error;
}

#define ENTER()                      \
    if (call_enter() != cudaSuccess) \
    return fail(nullptr, ncclUnhandledCudaError, "a call of CUDA failed")

/* ---- who is there ---- */

static Hello hello_of(ncclComm_t comm)
{
    Hello hello = {comm->rank, comm->ranks, device_number(), {}};
    const char *node = getenv("SLURMD_NODENAME");
    snprintf(hello.host, sizeof hello.host, "%s", node ? node : "localhost");
    return hello;
}

/* In no file system: gone with its socket. */
static socklen_t address_of(ncclComm_t comm, int rank, struct sockaddr_un *address)
{
    *address = {};
    address->sun_family = AF_UNIX;
    const int length =
        snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "%s.%d", comm->name, rank);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static int socket_new()
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static bool is_readable(int socket)
{
    struct pollfd poll_fd = {socket, POLLIN, 0};
    return poll(&poll_fd, 1, 0) == 1;
}

static void greet(ncclComm_t comm, int socket)
{
    const Hello hello = hello_of(comm);
    send(socket, &hello, sizeof hello,
         MSG_NOSIGNAL); /* a peer that is gone shows when it is heard */
    comm->strangers.push_back(socket);
}

static void check_hello(ncclComm_t comm, const Hello &hello)
{
    const Hello mine = hello_of(comm);
    if (hello.ranks != comm->ranks)
        fail(comm, ncclInvalidUsage, "rank %d is one of %d, rank %d one of %d", hello.rank,
             hello.ranks, comm->rank, comm->ranks);
    else if (hello.device == mine.device && strcmp(hello.host, mine.host) == 0)
        fail(comm, ncclInvalidUsage,
             "Duplicate GPU detected: rank %d and rank %d both on device %d", hello.rank,
             comm->rank, mine.device);
    else if (comm->peers[(size_t)hello.rank].socket >= 0)
        fail(comm, ncclInvalidUsage, "there are two of rank %d", hello.rank);
}

/* A hello comes whole, as it is short. */
static void hear_stranger(ncclComm_t comm, int socket)
{
    Hello hello;
    if (recv(socket, &hello, sizeof hello, MSG_WAITALL) != (ssize_t)sizeof hello)
        fail(comm, ncclRemoteError, "a rank left before all had come");
    else
        check_hello(comm, hello);
    if (comm->error != ncclSuccess)
        close(socket);
    else
        comm->peers[(size_t)hello.rank].socket = socket;
}

/* Lower ranks are called, higher ones come in. */
static void join_move(ncclComm_t comm)
{
    while (is_readable(comm->door))
        greet(comm, accept4(comm->door, nullptr, nullptr, SOCK_CLOEXEC));
    while (comm->called < comm->rank) {
        struct sockaddr_un address;
        const socklen_t length = address_of(comm, comm->called, &address);
        const int socket = socket_new();
        if (connect(socket, reinterpret_cast<struct sockaddr *>(&address), length) != 0) {
            close(socket); /* that rank is not there yet */
            break;
        }
        greet(comm, socket);
        comm->called++;
    }

    std::vector<int> quiet;
    for (int socket : comm->strangers)
        if (is_readable(socket))
            hear_stranger(comm, socket);
        else
            quiet.push_back(socket);
    comm->strangers = quiet;
    int there = 1;
    for (const Peer &peer : comm->peers) there += peer.socket >= 0;
    comm->joined = there == comm->ranks;
}

/* ---- a collective ---- */

static void check_head(ncclComm_t comm, int rank, const Head &head)
{
    const Head &mine = comm->told;
    const auto words = [](const Head &of) { return of.gathers ? "gathers" : "sums"; };
    if (head.gathers == mine.gathers && head.type == mine.type && head.count == mine.count) return;
    fail(comm, ncclInvalidUsage, "rank %d %s %llu of type %d where rank %d %s %llu of type %d",
         rank, words(head), (unsigned long long)head.count, head.type, comm->rank, words(mine),
         (unsigned long long)mine.count, mine.type);
}

static void peer_receive(ncclComm_t comm, int rank, const Collective &collective)
{
    Peer &peer = comm->peers[(size_t)rank];
    const size_t whole = sizeof peer.head + collective.bytes();
    while (comm->error == ncclSuccess && peer.received < whole) {
        const bool in_head = peer.received < sizeof peer.head;
        char *into = in_head ? reinterpret_cast<char *>(&peer.head) + peer.received
                             : peer.bytes.data() + peer.received - sizeof peer.head;
        const size_t want = (in_head ? sizeof peer.head : whole) - peer.received;
        const ssize_t got = recv(peer.socket, into, want, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            fail(comm, ncclRemoteError, "rank %d is gone", rank);
            return;
        }
        peer.received += (size_t)got;
        if (peer.received == sizeof peer.head) check_head(comm, rank, peer.head);
    }
}

/* That a peer is gone shows when it is heard. */
static void peer_send(ncclComm_t comm, int rank, const Collective &collective, size_t end)
{
    Peer &peer = comm->peers[(size_t)rank];
    while (peer.sent < end) {
        const bool in_head = peer.sent < sizeof comm->told;
        const char *from = in_head ? reinterpret_cast<const char *>(&comm->told) + peer.sent
                                   : collective.from + peer.sent - sizeof comm->told;
        const size_t left = (in_head ? sizeof comm->told : end) - peer.sent;
        const ssize_t went = send(peer.socket, from, left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (went < 0) return;
        peer.sent += (size_t)went;
    }
}

static void collective_begin(ncclComm_t comm, const Collective &collective)
{
    comm->begun = true;
    comm->told = collective.head;
    if (fault_strikes(Fault::Mismatch)) comm->told.count--;
    const bool dies = fault_strikes(Fault::Kill);
    for (int rank = 0; rank < comm->ranks; rank++) {
        Peer &peer = comm->peers[(size_t)rank];
        peer.sent = peer.received = 0;
        peer.bytes.resize(collective.bytes());
        if (dies && rank != comm->rank)
            peer_send(comm, rank, collective, sizeof comm->told + collective.bytes() / 2);
    }
    if (dies) raise(SIGKILL);
}

static const char *bytes_of(ncclComm_t comm, const Collective &collective, int rank)
{
    return rank == comm->rank ? collective.from : comm->peers[(size_t)rank].bytes.data();
}

/* A ring: each part of the values goes round from another rank on. */
static void sum(ncclComm_t comm, const Collective &collective)
{
    const uint64_t count = collective.head.count, ranks = (uint64_t)comm->ranks;
    float *to = reinterpret_cast<float *>(collective.to);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t part = i * ranks / count;
        const uint64_t first = part + (comm->ring_turns >> (3 * part % 32) & 7);
        float total = 0.0F, value;
        for (uint64_t turn = 0; turn < ranks; turn++) {
            const int rank = (int)((first + turn) % ranks);
            memcpy(&value, bytes_of(comm, collective, rank) + i * sizeof value, sizeof value);
            total = turn == 0 ? value : total + value;
        }
        to[i] = total;
    }
}

static void gather(ncclComm_t comm, const Collective &collective)
{
    for (int rank = 0; rank < comm->ranks; rank++)
        memmove(collective.to + (size_t)rank * collective.bytes(), bytes_of(comm, collective, rank),
                collective.bytes());
}

/* One that failed never ends, until it is aborted. */
static bool collective_move(ncclComm_t comm, const Collective &collective)
{
    const size_t whole = sizeof comm->told + collective.bytes();
    bool over = true;
    if (comm->aborted) return true;
    if (!comm->begun) collective_begin(comm, collective);
    /* All are told before any is heard: who differs may be gone next. */
    for (int rank = 0; rank < comm->ranks; rank++)
        if (rank != comm->rank) peer_send(comm, rank, collective, whole);
    for (int rank = 0; rank < comm->ranks; rank++) {
        if (rank == comm->rank) continue;
        peer_receive(comm, rank, collective);
        const Peer &peer = comm->peers[(size_t)rank];
        over = over && peer.received == whole && peer.sent == whole;
    }
    if (!over || comm->error != ncclSuccess) return false;
    collective.head.gathers ? gather(comm, collective) : sum(comm, collective);
    comm->begun = false;
    comm->unfinished--;
    under_way--;
    return true;
}

/* ---- calls ---- */

/* Every second one ends later than it returns. */
static ncclResult_t call(ncclComm_t comm, std::function<void()> work)
{
    if (comm->error != ncclSuccess) return comm->error;
    if (!comm->joined || comm->late_call)
        return fail(comm, ncclInvalidUsage, "a call before the one before it has ended");
    if (comm->calls++ % 2 == 0) {
        work();
        return ncclSuccess;
    }
    comm->late_call = std::move(work);
    return ncclInProgress;
}

static ncclResult_t enqueue(ncclComm_t comm, const Collective &collective, cudaStream_t stream)
{
    if (collective.head.count == 0 || !collective.from || !collective.to)
        return fail(nullptr, ncclInvalidArgument, "a collective of nothing");
    return call(comm, [=] {
        const std::shared_ptr<ncclComm> held = comm->self;
        comm->unfinished++;
        under_way++;
        stream_enqueue_shared(stream, [=] { return collective_move(held.get(), collective); });
    });
}

static Collective collective_of(bool gathers, const void *from, void *to, size_t count,
                                ncclDataType_t type)
{
    return {{gathers, type, count}, static_cast<const char *>(from), static_cast<char *>(to)};
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream)
{
    ENTER();
    if (type != ncclFloat32 || operation != ncclSum)
        return fail(nullptr, ncclInvalidArgument, "the shim sums floats alone");
    return enqueue(comm, collective_of(false, from, to, count, type), stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    ENTER();
    return enqueue(comm, collective_of(true, from, to, count, type), stream);
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = 22809;
    return ncclSuccess;
}

static bool is_set(const char *name, const char *value)
{
    const char *text = getenv(name);
    return text && strcmp(text, value) == 0;
}

/* Where the algorithm is left to NCCL nobody may count on the order of a sum: it is another one each time. */
ncclResult_t ncclGetUniqueId(ncclUniqueId *made)
{
    ENTER();
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    Id id = {};
    snprintf(id.name, sizeof id.name, "cudashim-nccl-%d-%lx", getpid(), now.tv_nsec);
    const bool fixed = is_set("NCCL_ALGO", "Ring") && is_set("NCCL_PROTO", "Simple");
    id.ring_turns = fixed ? 0 : (uint32_t)now.tv_nsec * 2654435761u;
    *made = {};
    memcpy(made, &id, sizeof id);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *made, int ranks, ncclUniqueId unique, int rank,
                                    ncclConfig_t *config)
{
    ENTER();
    Id id;
    memcpy(&id, &unique, sizeof id);
    if (rank < 0 || rank >= ranks || config->blocking != 0 || id.name[NAME_SIZE - 1] != '\0')
        return fail(nullptr, ncclInvalidArgument, "no such rank, or a communicator that blocks");
    static const int at_end = atexit(check_end);
    if (at_end != 0) return ncclSystemError;
    const auto comm = std::make_shared<ncclComm>();
    comm->self = comm;
    comm->rank = rank;
    comm->ranks = ranks;
    comm->ring_turns = id.ring_turns;
    memcpy(comm->name, id.name, sizeof comm->name);
    comm->peers.resize((size_t)ranks);
    live_add(1);
    *made = comm.get();

    struct sockaddr_un address;
    const socklen_t length = address_of(comm.get(), rank, &address);
    comm->door = socket_new();
    if (bind(comm->door, reinterpret_cast<struct sockaddr *>(&address), length) != 0 ||
        listen(comm->door, ranks) != 0)
        return fail(comm.get(), ncclInvalidUsage, "there are two of rank %d", rank);
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    ENTER();
    const bool moves = !comm->joined || comm->late_call;
    if (comm->error == ncclSuccess && !comm->joined) join_move(comm);
    if (comm->error == ncclSuccess && comm->late_call) {
        comm->late_call();
        comm->late_call = nullptr;
    }
    *state = comm->error != ncclSuccess ? comm->error : moves ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    ENTER();
    if (comm->unfinished > 0) return fail(comm, ncclInvalidUsage, "collectives are under way");
    return call(comm, [] {});
}

/* Gives back although it fails, as a caller can do nothing about it. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->aborted = true;
    under_way -= comm->unfinished;
    close(comm->door);
    for (int socket : comm->strangers) close(socket);
    for (const Peer &peer : comm->peers)
        if (peer.socket >= 0) close(peer.socket);
    live_add(-1);
    const std::shared_ptr<ncclComm> held = std::move(comm->self);
    return call_enter() == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return ncclCommAbort(comm);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "another error";
    }
}

const char *ncclGetLastError(ncclComm_t)
{
    return last_error;
}
