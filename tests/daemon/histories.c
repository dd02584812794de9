/*
 * Random histories: whatever happens, in whatever order, the invariants hold, and the coordinator that the
 * store gives back is the one that was.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/daemon/difference.h"
#include "tests/daemon/stage.h"

/* xorshift64*: the same histories everywhere */
static uint64_t chance(uint64_t *state, uint64_t below)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * UINT64_C(2685821657736338717) >> 33) % below;
}

static void tell(struct stage *stage, uint64_t *dice)
{
    static const char *const names[] = {"loss", "lr", "grad_norm", "valid_loss"};
    static const char *const hashes[] = {"aaaa", "aaaa", "aaaa", "bbbb"};
    const struct run *run = stage_run(stage);
    if (run->attempt.number == 0) return;
    Performer__Report report = PERFORMER__REPORT__INIT;
    report.run = (char *)run->id;
    report.attempt = run->attempt.number - (chance(dice, 10) == 0 ? 1 : 0);
    report.nonce = chance(dice, 10) == 0 ? (char *)"other" : (char *)run->attempt.nonce;
    report.rank = (uint32_t)chance(dice, run->facts.ranks);
    uint64_t heard = run->attempt.ranks[report.rank].sequence_heard;
    report.sequence = heard + chance(dice, 4); /* old, the next, or behind a gap */

    Performer__Heartbeat heartbeat = PERFORMER__HEARTBEAT__INIT;
    heartbeat.step = chance(dice, 100);
    if (chance(dice, 2)) report.heartbeat = &heartbeat;
    Performer__MetricRow rows[4], *row_places[4];
    for (report.n_metrics = 0; report.n_metrics < chance(dice, 5); report.n_metrics++) {
        rows[report.n_metrics] = (Performer__MetricRow)PERFORMER__METRIC_ROW__INIT;
        rows[report.n_metrics].name = (char *)names[chance(dice, 4)];
        rows[report.n_metrics].step = chance(dice, 100);
        rows[report.n_metrics].value = chance(dice, 5) == 0 ? NAN : (double)chance(dice, 1000);
        row_places[report.n_metrics] = &rows[report.n_metrics];
    }
    report.metrics = row_places;

    Performer__Started started = PERFORMER__STARTED__INIT;
    started.resumed_step = chance(dice, 50);
    Performer__Redrawn redrawn = PERFORMER__REDRAWN__INIT;
    redrawn.draw = 1 + chance(dice, 2 * RUN_DRAWS_MAX);
    redrawn.hash = (char *)hashes[chance(dice, 4)];
    if (chance(dice, 2)) redrawn.why = (char *)"adaptive: kernel_error.0 0.6 > 0.5";
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    applied.order = 1 + chance(dice, stage->coordinator.order_next);
    Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
    saved.best = chance(dice, 2) != 0;
    Performer__CheckpointRemoved removed = PERFORMER__CHECKPOINT_REMOVED__INIT;
    Performer__CheckpointFailed failed = PERFORMER__CHECKPOINT_FAILED__INIT;
    Performer__Ended ended = PERFORMER__ENDED__INIT;
    Performer__Notice notices[3], *notice_places[3];
    for (report.n_notices = 0; report.n_notices < chance(dice, 4); report.n_notices++) {
        Performer__Notice *notice = &notices[report.n_notices];
        *notice = (Performer__Notice)PERFORMER__NOTICE__INIT;
        notice->step = redrawn.draw * 7 + (chance(dice, 10) == 0);
        notice->what_case =
            (Performer__Notice__WhatCase)(PERFORMER__NOTICE__WHAT_STARTED + (int)chance(dice, 8));
        switch (notice->what_case) {
        case PERFORMER__NOTICE__WHAT_STARTED:
            notice->started = &started;
            break;
        case PERFORMER__NOTICE__WHAT_REDRAWN:
            notice->redrawn = &redrawn;
            break;
        case PERFORMER__NOTICE__WHAT_ORDER_APPLIED:
            notice->order_applied = &applied;
            break;
        case PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED:
            notice->checkpoint_saved = &saved;
            break;
        case PERFORMER__NOTICE__WHAT_CHECKPOINT_REMOVED:
            notice->checkpoint_removed = &removed;
            break;
        case PERFORMER__NOTICE__WHAT_CHECKPOINT_FAILED:
            notice->checkpoint_failed = &failed;
            break;
        case PERFORMER__NOTICE__WHAT_ENDED:
            notice->ended = &ended;
            break;
        default:
            notice->what_case = PERFORMER__NOTICE__WHAT__NOT_SET;
        }
        notice_places[report.n_notices] = notice;
    }
    report.notices = notice_places;
    report.metrics_thinned = chance(dice, 20) == 0 ? 3 : 0;
    stage_report(stage, &report);
}

static void submit(struct stage *stage, uint64_t *dice)
{
    if (stage->coordinator.run_count >= 20) return;
    char key[16];
    snprintf(key, sizeof key, "key%u", (unsigned)chance(dice, 30));
    stage_submit(stage, 1 + (uint32_t)chance(dice, 5), (uint32_t)chance(dice, 5),
                 chance(dice, 2) ? key : "");
}

static void happen(struct stage *stage, uint64_t *dice)
{
    static const char *const acts[] = {
        "tick",       "wait 500",  "wait 2000",     "wait 40000",    "launched",
        "launched",   "adopted",   "launch_failed", "end LOST",      "unlaunched",
        "end CRASH",  "end CRASH", "end FINISHED",  "end CANCELLED", "end BAD_DATA",
        "cancel",     "kill",      "checkpoint",    "redraw",        "redraw",
        "end KILLED", "evaluate",  "pause",         "resume",        "requeue",
    };
    stage->run =
        1 + chance(dice, stage->coordinator.run_count > 0 ? stage->coordinator.run_count : 1);
    uint64_t what = chance(dice, 10);
    if (what == 0 || stage->coordinator.run_count == 0)
        submit(stage, dice);
    else if (what < 6)
        tell(stage, dice);
    else if (what < 8)
        stage_act(stage, "wait 300");
    else
        stage_act(stage, acts[chance(dice, sizeof acts / sizeof acts[0])]);
}

static void compare_with_store(const struct stage *stage, uint64_t seed, int event)
{
    struct coordinator loaded;
    coordinator_init(&loaded, stage->coordinator.ranks_max);
    struct fault fault;
    cr_assert_eq(store_load(stage->store, &loaded, 0, &fault), ST_OK, "seed %u: %s", (unsigned)seed,
                 fault.text);
    const char *words = coordinators_differ(&stage->coordinator, &loaded);
    cr_assert_null(words, "seed %u, event %d: %s", (unsigned)seed, event, words);
    coordinator_fini(&loaded);
}

/* Counts by final state over all seeds, so that a history in which nothing happens cannot pass. */
static void tell_history(uint64_t seed, const char *path, int events, int *seen)
{
    uint64_t dice = seed * 77777 + 1;
    struct stage stage;
    stage_init(&stage, 6, path);
    for (int i = 0; i < events; i++) {
        happen(&stage, &dice);
        if (chance(&dice, 8) == 0) compare_with_store(&stage, seed, i);
        if (chance(&dice, 100) == 0) stage_restart(&stage);
    }
    compare_with_store(&stage, seed, events);
    for (size_t i = 0; i < stage.coordinator.run_count; i++) {
        const struct run *run = stage.coordinator.runs[i];
        seen[run->state]++;
        seen[RUN_CANCELLED + 1] += run->attempt.number > 1;
        seen[RUN_CANCELLED + 2] += run->draw_count > 1;
    }
    stage_fini(&stage);
}

enum { COUNTERS = RUN_CANCELLED + 3 };

static void expect_variety(const int *seen)
{
    for (int i = 0; i < COUNTERS; i++) cr_assert_gt(seen[i], 0, "no history led to %d", i);
}

Test(histories, come_back_from_memory, .timeout = 250)
{
    int seen[COUNTERS] = {0};
    for (uint64_t seed = 1; seed <= 150; seed++) tell_history(seed, ":memory:", 400, seen);
    expect_variety(seen);
}

Test(histories, come_back_from_a_file, .timeout = 250)
{
    int seen[COUNTERS] = {0};
    char directory[] = "/tmp/histories-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(directory));
    for (uint64_t seed = 1001; seed <= 1004; seed++) {
        snprintf(path, sizeof path, "%s/%u.db", directory, (unsigned)seed);
        tell_history(seed, path, 300, seen);

        /* and again, by a process that opens the file anew */
        struct stage stage;
        stage_init(&stage, 6, path);
        cr_assert_gt(stage.coordinator.run_count, 0);
        compare_with_store(&stage, seed, -1);
        stage_fini(&stage);
        unlink(path);
    }
    cr_assert_eq(rmdir(directory), 0, "the log is gone once the database is closed");
}
