#ifndef TESTS_DAEMON_STAGE_H
#define TESTS_DAEMON_STAGE_H

/* A coordinator with a clock of its own and a store behind it: what the driver does, without the world. */

#include "daemon/coordinator.h"
#include "daemon/store.h"

struct stage {
    struct coordinator coordinator;
    struct store *store; /* NULL: nothing is stored */
    uint64_t now_ms, wall_ms;
    uint64_t random;
    struct decision decision; /* the newest, until the next */
    uint64_t run;             /* the one that stage_act is about */
    uint64_t sequence[8];     /* of the ranks of its newest attempt */
    uint64_t stall_ms;        /* of runs to be submitted; 0 at first */
    bool goes_back;           /* the same: where they diverge */
};

/* `path` NULL: no store. */
void stage_init(struct stage *stage, uint32_t ranks_max, const char *path);
void stage_fini(struct stage *stage);

/* Decides, commits, applies and holds the invariants; fails the test where one does not hold. */
const struct answer *stage_send(struct stage *stage, struct event event);

/* As if the daemon had been killed and started again: the coordinator that the store gives back. */
void stage_restart(struct stage *stage);

/* A job of so many ranks that begins sooner or later: `after` as a person names runs, NULL: none. */
uint64_t stage_submit_queued(struct stage *stage, uint32_t ranks, int64_t priority,
                             const char *after);
uint64_t stage_submit(struct stage *stage, uint32_t ranks, uint32_t restart_max, const char *key);
/* The same under Slurm, with 3 restarts. */
uint64_t stage_submit_slurm(struct stage *stage, uint32_t ranks);
const struct answer *stage_report(struct stage *stage, const Performer__Report *report);
const struct run *stage_run(const struct stage *stage);

/* A report of rank `rank` of the newest attempt of the run with the next sequence number, and no content. */
Performer__Report stage_next_report(struct stage *stage, uint32_t rank);

/*
 * One thing that happens to the run, in words: "submit", "tick", "wait MS" (and tick), "launched",
 * "launch_failed", "report", "resumes STEP", "saves STEP" (a rank tells of it), "end CAUSE", "diverges STEP" (with features number 7), "adopted", "unlaunched",
 * "restart", "waits" (in a queue), "begins" (waits no more), or what a person wants:
 * "cancel", "kill", "pause", "resume", "requeue", "drill", "checkpoint", "redraw", "evaluate".
 */
const struct answer *stage_act(struct stage *stage, const char *act);

/* Effects of the newest decision of that kind. */
size_t stage_effects(const struct stage *stage, enum effect_kind kind);
/* True where the newest decision has that note. */
bool stage_noted(const struct stage *stage, enum note note);

#endif
