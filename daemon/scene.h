#ifndef DAEMON_SCENE_H
#define DAEMON_SCENE_H

/*
 * One decision in the making, for the files that decide (coordinator.c, decide_*.c): what it is about, and how it
 * is written down. Nothing here changes the coordinator.
 */

#include "daemon/coordinator.h"

struct scene {
    const struct coordinator *coordinator;
    const struct event *event;
    struct decision *decision;
    const struct run *run; /* NULL: not known yet */
    uint64_t time_ms;      /* since 1970: when it happened */
};

enum { TEXT_BYTES_MAX = 400 };

/* Of NOTE_STOP_TOO_SLOW, with both in seconds. */
#define STOP_TOO_SLOW_WORDS                                                                      \
    "to save and stop takes %.1f s, and %.0f s are given before the ranks are killed: what was " \
    "done since the last checkpoint would be lost"

/* A record about the run and its newest attempt. The slot is valid until the next record. */
struct record *scene_record(const struct scene *scene, enum record_kind kind);

/* A line in the run's history. */
void scene_note(const struct scene *scene, enum note kind, uint64_t step, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* An effect on the run and its newest attempt. The slot is valid until the next effect. */
struct effect *scene_effect(const struct scene *scene, enum effect_kind kind);

/* Moves the run, which must be allowed, and notes it. What is pending when a run becomes final is
 * dropped, and an order to stop where it waits. */
void scene_move(const struct scene *scene, enum run_state to, const char *reason);

/* What the asker is told: a refusal in words, or the run. */
void scene_answer(const struct scene *scene, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void scene_answer_run(const struct scene *scene, const struct run *run);

/* Part of a tick: an attempt that stands still is told to end, and after a grace killed. True: something was decided. */
bool decide_stall(const struct scene *scene);

/* The same: a window of the ranks' scores is over. */
bool decide_stragglers(const struct scene *scene);

/* One for each kind of event: decide_submit, decide_act, decide_report, ... */
#define DECIDE_PROTOTYPE(enumerator, tag) void decide_##tag(const struct scene *scene);
EVENTS(DECIDE_PROTOTYPE)
#undef DECIDE_PROTOTYPE

#endif
