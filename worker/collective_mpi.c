#include <assert.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/collective_kind.h"

/*
 * Sums over MPI. A sum goes in pieces, each of which is a sum of its own: the tree is over ranks, so where a sum is cut changes no
 * bit. A piece on its way, among a power of two of ranks (the core; the ranks beyond it are the surplus):
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

struct mpi {
    struct collective base;
    int core, levels; /* core == 1 << levels */

    struct sum *sums;                   /* (sums_max): those started since the last finish */
    int sums_max, sums_count, sum_next; /* the one whose pieces are yet to begin */
    int64_t sum_begun;                  /* floats of it whose pieces have begun */

    float *room; /* (UNDER_WAY_MAX, PIECE_FLOATS): `received` of the pieces */
    struct piece pieces[UNDER_WAY_MAX]; /* piece i has place i % UNDER_WAY_MAX */
    uint64_t pieces_begun, pieces_done; /* all before pieces_done are done */
};

static struct mpi *mpi_of(struct collective *collective)
{
    return (struct mpi *)collective;
}

static enum status translate(int code, const char *what, struct fault *fault)
{
    if (code == MPI_SUCCESS) return ST_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return fault_set(fault, ST_COLLECTIVE, "%s: %s", what, text);
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

int64_t collective_room_floats(int ranks)
{
    return ranks == 1 ? 0 : (int64_t)UNDER_WAY_MAX * PIECE_FLOATS;
}

static enum status reserve(struct collective *collective, int sums)
{
    struct mpi *mpi = mpi_of(collective);
    assert(mpi->sums_count == 0);
    if (!mpi->room)
        mpi->room = calloc((size_t)collective_room_floats(mpi->base.ranks) + 1, sizeof *mpi->room);
    if (!mpi->room) return ST_NO_MEMORY;
    if (sums <= mpi->sums_max) return ST_OK;
    struct sum *longer = realloc(mpi->sums, (size_t)sums * sizeof *longer);
    if (!longer) return ST_NO_MEMORY;
    mpi->sums = longer;
    mpi->sums_max = sums;
    return ST_OK;
}

static bool is_surplus(const struct mpi *mpi)
{
    return mpi->base.rank >= mpi->core;
}

static bool has_surplus(const struct mpi *mpi)
{
    return !is_surplus(mpi) && mpi->base.rank + mpi->core < mpi->base.ranks;
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
static void split(const struct mpi *mpi, const struct piece *piece, int level, struct range *mine,
                  struct range *theirs)
{
    bool upper = (mpi->base.rank >> level) & 1;
    struct range whole = piece->kept[level];
    *mine = upper ? upper_half(whole) : lower_half(whole);
    *theirs = upper ? lower_half(whole) : upper_half(whole);
}

/* Posts the messages of the stage that the piece stands at. */
static enum status begin_stage(const struct mpi *mpi, struct piece *piece, struct fault *fault)
{
    const struct range all = {0, piece->count}, nothing = {0, 0};
    const int partner = mpi->base.rank ^ (1 << piece->level);
    struct range mine, theirs;

    switch (piece->stage) {
    case STAGE_FOLD:
        if (is_surplus(mpi))
            return exchange(piece, mpi->base.rank - mpi->core, nothing, NULL, all, fault);
        return exchange(piece, mpi->base.rank + mpi->core, all, piece->received, nothing, fault);
    case STAGE_HALVE:
        split(mpi, piece, piece->level, &mine, &theirs);
        return exchange(piece, partner, mine, piece->received, theirs, fault);
    case STAGE_DOUBLE:
        split(mpi, piece, piece->level, &mine, &theirs);
        return exchange(piece, partner, theirs, piece->values + theirs.begin, mine, fault);
    case STAGE_UNFOLD:
        if (is_surplus(mpi))
            return exchange(piece, mpi->base.rank - mpi->core, all, piece->values, nothing, fault);
        return exchange(piece, mpi->base.rank + mpi->core, nothing, NULL, all, fault);
    case STAGE_DONE:
        break;
    }
    return ST_OK;
}

/* Takes in what the finished stage brought and moves to the next. */
static void end_stage(const struct mpi *mpi, struct piece *piece)
{
    const struct range all = {0, piece->count};
    struct range mine, theirs;

    switch (piece->stage) {
    case STAGE_FOLD:
        if (is_surplus(mpi)) {
            piece->stage = STAGE_UNFOLD;
            break;
        }
        add_received(piece, all);
        piece->stage = STAGE_HALVE;
        break;
    case STAGE_HALVE:
        split(mpi, piece, piece->level, &mine, &theirs);
        add_received(piece, mine);
        piece->kept[++piece->level] = mine;
        if (piece->level < mpi->levels) break;
        piece->level--;
        piece->stage = STAGE_DOUBLE;
        break;
    case STAGE_DOUBLE:
        if (piece->level-- > 0) break;
        piece->level = 0;
        piece->stage = has_surplus(mpi) ? STAGE_UNFOLD : STAGE_DONE;
        break;
    case STAGE_UNFOLD:
        piece->stage = STAGE_DONE;
        break;
    case STAGE_DONE:
        break;
    }
}

/* There is a piece that is yet to begin, and a place for it. */
static enum status begin_piece(struct mpi *mpi, struct fault *fault)
{
    const struct sum *sum = &mpi->sums[mpi->sum_next];
    const int64_t left = sum->count - mpi->sum_begun;
    const uint64_t place = mpi->pieces_begun % UNDER_WAY_MAX;
    const bool folds = has_surplus(mpi) || is_surplus(mpi);
    struct piece *piece = &mpi->pieces[place];

    *piece = (struct piece){
        .values = sum->values + mpi->sum_begun,
        .count = left < PIECE_FLOATS ? left : PIECE_FLOATS,
        .received = mpi->room + place * PIECE_FLOATS,
        .tag = (int)(mpi->pieces_begun % TAGS),
        .stage = folds ? STAGE_FOLD : STAGE_HALVE,
    };
    piece->kept[0] = (struct range){0, piece->count};
    mpi->pieces_begun++;
    mpi->sum_begun += piece->count;
    if (mpi->sum_begun == sum->count) {
        mpi->sum_next++;
        mpi->sum_begun = 0;
    }
    return begin_stage(mpi, piece, fault);
}

/* Every rank begins its pieces in the same order, so the oldest can always get on. */
static enum status begin_pieces(struct mpi *mpi, struct fault *fault)
{
    enum status status = ST_OK;
    while (status == ST_OK && mpi->sum_next < mpi->sums_count &&
           mpi->pieces_begun < mpi->pieces_done + UNDER_WAY_MAX)
        status = begin_piece(mpi, fault);
    return status;
}

static enum status sum_start(struct collective *collective, float *values, int64_t count,
                             struct fault *fault)
{
    struct mpi *mpi = mpi_of(collective);
    if (mpi->base.ranks == 1) return ST_OK;
    assert(mpi->sums_count < mpi->sums_max);
    mpi->sums[mpi->sums_count++] = (struct sum){values, count};
    return begin_pieces(mpi, fault);
}

/* Moves one piece as far as it goes without waiting; with `wait`, over one stage at least. */
static enum status advance(struct mpi *mpi, struct piece *piece, bool wait, struct fault *fault)
{
    while (piece->stage != STAGE_DONE) {
        int arrived = 1;
        int code = wait ? MPI_Waitall(2, piece->requests, MPI_STATUSES_IGNORE)
                        : MPI_Testall(2, piece->requests, &arrived, MPI_STATUSES_IGNORE);
        enum status status = translate(code, "lost another rank while summing gradients", fault);
        if (status != ST_OK || !arrived) return status;
        end_stage(mpi, piece);
        status = begin_stage(mpi, piece, fault);
        if (status != ST_OK) return status;
        wait = false;
    }
    return ST_OK;
}

static enum status progress(struct collective *collective, struct fault *fault)
{
    struct mpi *mpi = mpi_of(collective);
    for (uint64_t i = mpi->pieces_done; i < mpi->pieces_begun; i++) {
        struct piece *piece = &mpi->pieces[i % UNDER_WAY_MAX];
        enum status status = advance(mpi, piece, false, fault);
        if (status != ST_OK) return status;
        if (i > mpi->pieces_done || piece->stage != STAGE_DONE) continue;
        mpi->pieces_done++;
        status = begin_pieces(mpi, fault);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static enum status finish(struct collective *collective, struct fault *fault)
{
    struct mpi *mpi = mpi_of(collective);
    while (mpi->pieces_done < mpi->pieces_begun) {
        struct piece *oldest = &mpi->pieces[mpi->pieces_done % UNDER_WAY_MAX];
        enum status status = advance(mpi, oldest, true, fault);
        if (status != ST_OK) return status;
        status = progress(collective, fault);
        if (status != ST_OK) return status;
    }
    mpi->sums_count = mpi->sum_next = 0;
    return ST_OK;
}

static enum status gather(struct collective *collective, const void *record, size_t bytes,
                          void *all, struct fault *fault)
{
    enum status status = finish(collective, fault);
    if (status != ST_OK) return status;
    assert(bytes <= INT32_MAX);
    return translate(
        MPI_Allgather(record, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD),
        "lost another rank at the edge of a step", fault);
}

static void leave(struct collective *collective)
{
    struct mpi *mpi = mpi_of(collective);
    MPI_Finalize();
    free(mpi->room);
    free(mpi->sums);
    free(mpi);
}

static void abandon(struct collective *collective, int exit_code)
{
    (void)collective;
    MPI_Abort(MPI_COMM_WORLD, exit_code);
}

static const struct collective_kind kind = {
    .on_host = true,
    .reserve = reserve,
    .sum_start = sum_start,
    .progress = progress,
    .finish = finish,
    .gather = gather,
    .close = leave,
    .abandon = abandon,
};

enum status collective_mpi(int *argc, char ***argv, struct collective **collective,
                           struct fault *fault)
{
    struct mpi *joined = calloc(1, sizeof *joined);
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
    joined->base.kind = &kind;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &joined->base.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &joined->base.ranks);
    joined->core = 1;
    while (joined->core * 2 <= joined->base.ranks) {
        joined->core *= 2;
        joined->levels++;
    }
    name_library(joined->base.version, sizeof joined->base.version);
    *collective = &joined->base;
    return ST_OK;
}

/* ---- for measurements ---- */

/* Of one rank alone there is nothing to do. */
static bool has_others(const struct collective *collective)
{
    assert(collective->kind == &kind || collective->ranks == 1);
    return collective->kind == &kind;
}

enum status collective_allreduce(struct collective *collective, float *values, int64_t count,
                                 struct fault *fault)
{
    if (!has_others(collective)) return ST_OK;
    assert(count <= INT32_MAX);
    return translate(
        MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD),
        "lost another rank in a sum", fault);
}

enum status collective_rest(struct collective *collective, struct fault *fault)
{
    static const struct timespec nap = {.tv_nsec = 500000}; /* a look takes microseconds */
    const char *lost = "lost another rank while waiting for it";
    MPI_Request request;
    if (!has_others(collective)) return ST_OK;
    enum status status = translate(MPI_Ibarrier(MPI_COMM_WORLD, &request), lost, fault);
    for (int all_here = 0; status == ST_OK && !all_here;) {
        status = translate(MPI_Test(&request, &all_here, MPI_STATUS_IGNORE), lost, fault);
        if (status == ST_OK && !all_here) nanosleep(&nap, NULL);
    }
    return status;
}
