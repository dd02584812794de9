#include "worker/collective.h"

#include <assert.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/*
 * A sum goes in pieces, each of which is a sum of its own: the tree is over ranks, so where a sum is cut changes no bit.
 * A piece on its way, among a power of two of ranks (the core; the ranks beyond it are the surplus):
 *
 *   fold      surplus rank r sends all of it to core rank r - core, which adds it
 *   halve     at distance 1, 2, 4, ...: partners send each other the half that the other keeps, and add
 *   double    back, at distance ..., 4, 2, 1: partners send each other what they have finished
 *   unfold    core rank r sends the result to its surplus rank
 *
 * Each stage is one pair of messages. Both sides know the sizes, so empty ones are not sent.
 *
 * Few pieces are under way at once, in memory that is used again and again: what a partner has sent is still in the cache
 * when it is added.
 */
enum stage { STAGE_FOLD, STAGE_HALVE, STAGE_DOUBLE, STAGE_UNFOLD, STAGE_DONE };

enum { DISTANCES_MAX = 31, TAGS = 32768 };

/* Half a megabyte a piece: four fit into a core's cache beside what they are added to, and no more messages than need be. */
enum { PIECE_FLOATS = 1 << 17, UNDER_WAY_MAX = 4 };

struct range {
    int64_t begin, count;
};

struct sum {
    float *values;
    int64_t count;
};

struct piece {
    float *values;
    int64_t count;
    float *received; /* room for what a partner sends to be added */
    int tag;
    enum stage stage;
    int level; /* of halving and doubling: distance 1 << level */
    struct range
        kept[DISTANCES_MAX + 1]; /* kept[level]: what this rank holds before halving at it */
    MPI_Request requests[2];     /* receive, send */
};

struct collective {
    int rank, ranks;
    bool mpi;
    int core, levels; /* core == 1 << levels */
    char library[64];

    struct sum *sums;                   /* (sums_max): those started since the last finish */
    int sums_max, sums_count, sum_next; /* the one whose pieces are yet to begin */
    int64_t sum_begun;                  /* floats of it whose pieces have begun */

    float *room; /* (UNDER_WAY_MAX, PIECE_FLOATS): `received` of the pieces */
    struct piece pieces[UNDER_WAY_MAX]; /* piece i has place i % UNDER_WAY_MAX */
    uint64_t pieces_begun, pieces_done; /* all before pieces_done are done */
};

static enum status translate(int code, const char *what, struct fault *fault)
{
    if (code == MPI_SUCCESS) return ST_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return fault_set(fault, ST_COLLECTIVE, "%s: %s", what, text);
}

enum status collective_single(struct collective **collective)
{
    struct collective *single = calloc(1, sizeof *single);
    if (!single) return ST_NO_MEMORY;
    single->ranks = 1;
    single->core = 1;
    *collective = single;
    return ST_OK;
}

/* "Open MPI v4.1.4, package: ..." to "Open MPI 4.1.4" */
static void name_library(char *name, size_t size)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = '\0';
    char *v = strstr(version, " v");
    if (v) memmove(v + 1, v + 2, strlen(v + 2) + 1);
    snprintf(name, size, "%.*s", (int)size - 1, version);
}

enum status collective_mpi(int *argc, char ***argv, struct collective **collective,
                           struct fault *fault)
{
    struct collective *joined = calloc(1, sizeof *joined);
    if (!joined) return fault_set(fault, ST_NO_MEMORY, "no memory to join the other ranks");

    int provided = MPI_THREAD_SINGLE;
    enum status status = translate(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided),
                                   "could not join the other ranks", fault);
    if (status == ST_OK && provided < MPI_THREAD_FUNNELED)
        status = fault_set(fault, ST_COLLECTIVE, "this MPI was built without threads");
    if (status != ST_OK) {
        free(joined);
        return status;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &joined->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &joined->ranks);
    joined->mpi = true;
    joined->core = 1;
    while (joined->core * 2 <= joined->ranks) {
        joined->core *= 2;
        joined->levels++;
    }
    name_library(joined->library, sizeof joined->library);
    *collective = joined;
    return ST_OK;
}

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

int64_t collective_room_floats(int ranks)
{
    return ranks == 1 ? 0 : (int64_t)UNDER_WAY_MAX * PIECE_FLOATS;
}

enum status collective_reserve(struct collective *collective, int sums)
{
    assert(collective->sums_count == 0);
    if (!collective->room)
        collective->room =
            calloc((size_t)collective_room_floats(collective->ranks) + 1, sizeof *collective->room);
    if (!collective->room) return ST_NO_MEMORY;
    if (sums <= collective->sums_max) return ST_OK;
    struct sum *longer = realloc(collective->sums, (size_t)sums * sizeof *longer);
    if (!longer) return ST_NO_MEMORY;
    collective->sums = longer;
    collective->sums_max = sums;
    return ST_OK;
}

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
    return collective->library;
}

static bool is_surplus(const struct collective *collective)
{
    return collective->rank >= collective->core;
}

static bool has_surplus(const struct collective *collective)
{
    return !is_surplus(collective) && collective->rank + collective->core < collective->ranks;
}

static enum status exchange(struct piece *piece, int partner, struct range receive, float *into,
                            struct range send, struct fault *fault)
{
    int code = MPI_SUCCESS;
    piece->requests[0] = piece->requests[1] = MPI_REQUEST_NULL;
    if (receive.count > 0)
        code = MPI_Irecv(into, (int)receive.count, MPI_FLOAT, partner, piece->tag, MPI_COMM_WORLD,
                         &piece->requests[0]);
    if (code == MPI_SUCCESS && send.count > 0)
        code = MPI_Isend(piece->values + send.begin, (int)send.count, MPI_FLOAT, partner,
                         piece->tag, MPI_COMM_WORLD, &piece->requests[1]);
    return translate(code, "could not send gradients to another rank", fault);
}

static void add_received(struct piece *piece, struct range range)
{
    float *restrict mine = piece->values + range.begin;
    const float *restrict received = piece->received;
    for (int64_t i = 0; i < range.count; i++) mine[i] += received[i];
}

static struct range lower_half(struct range range)
{
    return (struct range){range.begin, range.count / 2};
}

static struct range upper_half(struct range range)
{
    return (struct range){range.begin + range.count / 2, range.count - range.count / 2};
}

/* Which half of kept[level] this rank keeps at that level, and which its partner. */
static void split(const struct collective *collective, const struct piece *piece, int level,
                  struct range *mine, struct range *theirs)
{
    bool upper = (collective->rank >> level) & 1;
    struct range whole = piece->kept[level];
    *mine = upper ? upper_half(whole) : lower_half(whole);
    *theirs = upper ? lower_half(whole) : upper_half(whole);
}

/* Posts the messages of the stage that `sum` stands at. */
static enum status begin_stage(const struct collective *collective, struct piece *piece,
                               struct fault *fault)
{
    const struct range all = {0, piece->count}, nothing = {0, 0};
    const int partner = collective->rank ^ (1 << piece->level);
    struct range mine, theirs;

    switch (piece->stage) {
    case STAGE_FOLD:
        if (is_surplus(collective))
            return exchange(piece, collective->rank - collective->core, nothing, NULL, all, fault);
        return exchange(piece, collective->rank + collective->core, all, piece->received, nothing,
                        fault);
    case STAGE_HALVE:
        split(collective, piece, piece->level, &mine, &theirs);
        return exchange(piece, partner, mine, piece->received, theirs, fault);
    case STAGE_DOUBLE:
        split(collective, piece, piece->level, &mine, &theirs);
        return exchange(piece, partner, theirs, piece->values + theirs.begin, mine, fault);
    case STAGE_UNFOLD:
        if (is_surplus(collective))
            return exchange(piece, collective->rank - collective->core, all, piece->values, nothing,
                            fault);
        return exchange(piece, collective->rank + collective->core, nothing, NULL, all, fault);
    case STAGE_DONE:
        break;
    }
    return ST_OK;
}

/* Takes in what the finished stage brought and moves to the next. */
static void end_stage(const struct collective *collective, struct piece *piece)
{
    const struct range all = {0, piece->count};
    struct range mine, theirs;

    switch (piece->stage) {
    case STAGE_FOLD:
        if (is_surplus(collective)) {
            piece->stage = STAGE_UNFOLD;
            break;
        }
        add_received(piece, all);
        piece->stage = STAGE_HALVE;
        break;
    case STAGE_HALVE:
        split(collective, piece, piece->level, &mine, &theirs);
        add_received(piece, mine);
        piece->kept[++piece->level] = mine;
        if (piece->level < collective->levels) break;
        piece->level--;
        piece->stage = STAGE_DOUBLE;
        break;
    case STAGE_DOUBLE:
        if (piece->level-- > 0) break;
        piece->level = 0;
        piece->stage = has_surplus(collective) ? STAGE_UNFOLD : STAGE_DONE;
        break;
    case STAGE_UNFOLD:
        piece->stage = STAGE_DONE;
        break;
    case STAGE_DONE:
        break;
    }
}

/* There is a piece that is yet to begin, and a place for it. */
static enum status begin_piece(struct collective *collective, struct fault *fault)
{
    const struct sum *sum = &collective->sums[collective->sum_next];
    const int64_t left = sum->count - collective->sum_begun;
    const uint64_t place = collective->pieces_begun % UNDER_WAY_MAX;
    const bool folds = has_surplus(collective) || is_surplus(collective);
    struct piece *piece = &collective->pieces[place];

    *piece = (struct piece){
        .values = sum->values + collective->sum_begun,
        .count = left < PIECE_FLOATS ? left : PIECE_FLOATS,
        .received = collective->room + place * PIECE_FLOATS,
        .tag = (int)(collective->pieces_begun % TAGS),
        .stage = folds ? STAGE_FOLD : STAGE_HALVE,
    };
    piece->kept[0] = (struct range){0, piece->count};
    collective->pieces_begun++;
    collective->sum_begun += piece->count;
    if (collective->sum_begun == sum->count) {
        collective->sum_next++;
        collective->sum_begun = 0;
    }
    return begin_stage(collective, piece, fault);
}

/* Every rank begins its pieces in the same order, so the oldest can always get on. */
static enum status begin_pieces(struct collective *collective, struct fault *fault)
{
    enum status status = ST_OK;
    while (status == ST_OK && collective->sum_next < collective->sums_count &&
           collective->pieces_begun < collective->pieces_done + UNDER_WAY_MAX)
        status = begin_piece(collective, fault);
    return status;
}

enum status collective_sum_start(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault)
{
    if (collective->ranks == 1) return ST_OK;
    assert(collective->sums_count < collective->sums_max);
    collective->sums[collective->sums_count++] = (struct sum){values, count};
    return begin_pieces(collective, fault);
}

/* Moves one piece as far as it goes without waiting; with `wait`, over one stage at least. */
static enum status advance(struct collective *collective, struct piece *piece, bool wait,
                           struct fault *fault)
{
    while (piece->stage != STAGE_DONE) {
        int arrived = 1;
        int code = wait ? MPI_Waitall(2, piece->requests, MPI_STATUSES_IGNORE)
                        : MPI_Testall(2, piece->requests, &arrived, MPI_STATUSES_IGNORE);
        enum status status = translate(code, "lost another rank while summing gradients", fault);
        if (status != ST_OK || !arrived) return status;
        end_stage(collective, piece);
        status = begin_stage(collective, piece, fault);
        if (status != ST_OK) return status;
        wait = false;
    }
    return ST_OK;
}

enum status collective_progress(struct collective *collective, struct fault *fault)
{
    for (uint64_t i = collective->pieces_done; i < collective->pieces_begun; i++) {
        struct piece *piece = &collective->pieces[i % UNDER_WAY_MAX];
        enum status status = advance(collective, piece, false, fault);
        if (status != ST_OK) return status;
        if (i > collective->pieces_done || piece->stage != STAGE_DONE) continue;
        collective->pieces_done++;
        status = begin_pieces(collective, fault);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

enum status collective_finish(struct collective *collective, struct fault *fault)
{
    while (collective->pieces_done < collective->pieces_begun) {
        struct piece *oldest = &collective->pieces[collective->pieces_done % UNDER_WAY_MAX];
        enum status status = advance(collective, oldest, true, fault);
        if (status != ST_OK) return status;
        status = collective_progress(collective, fault);
        if (status != ST_OK) return status;
    }
    collective->sums_count = collective->sum_next = 0;
    return ST_OK;
}

enum status collective_gather(struct collective *collective, const void *record, size_t bytes,
                              void *all, struct fault *fault)
{
    if (!collective->mpi) {
        memcpy(all, record, bytes);
        return ST_OK;
    }
    assert(bytes <= INT32_MAX);
    return translate(
        MPI_Allgather(record, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD),
        "lost another rank at the edge of a step", fault);
}

enum status collective_allreduce(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault)
{
    if (!collective->mpi) return ST_OK;
    assert(count <= INT32_MAX);
    return translate(
        MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD),
        "lost another rank in a sum", fault);
}

enum status collective_rest(struct collective *collective, struct fault *fault)
{
    static const struct timespec nap = {.tv_nsec = 50000};
    const char *lost = "lost another rank while waiting for it";
    MPI_Request request;
    if (!collective->mpi) return ST_OK;
    enum status status = translate(MPI_Ibarrier(MPI_COMM_WORLD, &request), lost, fault);
    for (int all_here = 0; status == ST_OK && !all_here;) {
        status = translate(MPI_Test(&request, &all_here, MPI_STATUS_IGNORE), lost, fault);
        if (status == ST_OK && !all_here) nanosleep(&nap, NULL);
    }
    return status;
}

void collective_close(struct collective *collective)
{
    if (!collective) return;
    if (collective->mpi) MPI_Finalize();
    free(collective->room);
    free(collective->sums);
    free(collective);
}

void collective_abandon(struct collective *collective, int exit_code)
{
    if (collective && collective->mpi) MPI_Abort(MPI_COMM_WORLD, exit_code);
    exit(exit_code);
}
