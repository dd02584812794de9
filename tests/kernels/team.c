/* Every piece runs once, whatever the sizes; threads
 * keep to their numbers; a team can be left at once. */

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/team.h"

enum { PIECES_MAX = 4096, THREADS_MAX = 8 };

struct tally {
    atomic_int runs[PIECES_MAX];
    atomic_int busy[THREADS_MAX]; /* 1 while a piece runs as this thread */
    atomic_int strangers;         /* threads beyond the team's, or used twice at a time */
    int threads;
};

static void count_piece(void *context, int64_t piece, int thread)
{
    struct tally *tally = context;
    if (thread < 0 || thread >= tally->threads || atomic_fetch_add(&tally->busy[thread], 1) != 0)
        atomic_fetch_add(&tally->strangers, 1);
    atomic_fetch_add(&tally->runs[piece], 1);
    if (thread >= 0 && thread < tally->threads) atomic_fetch_sub(&tally->busy[thread], 1);
}

static void tally_hold(struct team *team, int64_t pieces)
{
    static struct tally tally;
    tally.threads = team_threads(team);
    for (int i = 0; i < PIECES_MAX; i++) atomic_store(&tally.runs[i], 0);
    team_run(team, pieces, count_piece, &tally);
    for (int64_t i = 0; i < PIECES_MAX; i++)
        cr_assert_eq(atomic_load(&tally.runs[i]), i < pieces, "piece %d of %d ran %d times", (int)i,
                     (int)pieces, atomic_load(&tally.runs[i]));
    cr_assert_eq(atomic_load(&tally.strangers), 0);
}

Test(team, every_piece_runs_once)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 64, 1000, PIECES_MAX};
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        struct team *team;
        cr_assert_eq(team_new(threads, &team), ST_OK);
        cr_assert_eq(team_threads(team), threads);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) tally_hold(team, sizes[i]);
        team_free(team);
    }
}

/* Jobs that follow each other at once, and jobs after everyone has gone to sleep. */
Test(team, jobs_in_a_row)
{
    struct team *team;
    cr_assert_eq(team_new(3, &team), ST_OK);
    for (int i = 0; i < 300; i++) {
        tally_hold(team, i % 5);
        if (i % 100 == 99) usleep(20000);
    }
    team_free(team);
}

/* What one job wrote, the next one reads, on any thread: without a race, which TSan would name. */
static void shift_piece(void *context, int64_t piece, int thread)
{
    (void)thread;
    int64_t *values = context;
    values[piece] += 1;
}

static void reverse_piece(void *context, int64_t piece, int thread)
{
    (void)thread;
    int64_t *values = context, other = PIECES_MAX - 1 - piece;
    const int64_t kept = values[piece];
    values[piece] = values[other] * 2;
    values[other] = kept * 2;
}

Test(team, jobs_see_what_went_before)
{
    struct team *team;
    int64_t *values = calloc(PIECES_MAX, sizeof *values), expected = 0;
    cr_assert_eq(team_new(4, &team), ST_OK);
    for (int i = 0; i < 30; i++) {
        team_run(team, PIECES_MAX, shift_piece, values);
        team_run(team, PIECES_MAX / 2, reverse_piece, values);
        expected = (expected + 1) * 2;
    }
    for (int i = 0; i < PIECES_MAX; i++) cr_assert_eq(values[i], expected);
    team_free(team);
    free(values);
}

Test(team, is_made_and_left_at_once)
{
    for (int i = 0; i < 100; i++) {
        struct team *team;
        cr_assert_eq(team_new(1 + i % 4, &team), ST_OK);
        team_free(team);
    }
    team_free(NULL);
}
