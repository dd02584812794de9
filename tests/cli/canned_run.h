#ifndef TESTS_CLI_CANNED_RUN_H
#define TESTS_CLI_CANNED_RUN_H

/* One run as a daemon would tell of it, with something in every list; made anew at each call. */

#include "proto/performer.pb-c.h"

enum { CANNED_STEPS = 2000, CANNED_METRICS = 15 };
#define CANNED_SUBMITTED_MS UINT64_C(1790000000000)

struct canned_run {
    Performer__RunSummary summary;
    Performer__NamedValue latest_items[CANNED_METRICS];
    Performer__NamedValue *latest[CANNED_METRICS];
    Performer__AttemptInfo attempt_items[2];
    Performer__AttemptInfo *attempts[2];
    Performer__RankInfo rank_items[20];
    Performer__RankInfo *ranks[20];
    Performer__RedrawInfo redraw_items[3];
    Performer__RedrawInfo *redraws[3];
    char *hashes[2], *hashes_differ[2], *hashes_half[2];
    Performer__OrderInfo order_item;
    Performer__OrderInfo *order;
    Performer__CheckpointInfo checkpoint_items[3];
    Performer__CheckpointInfo *checkpoints[3];
    Performer__Drill drill;
    Performer__RunDetail detail;
};

/* Points into itself: not to be copied. */
void canned_run_init(struct canned_run *run, const char *state, uint64_t step);

#endif
