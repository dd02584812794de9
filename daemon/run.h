#ifndef DAEMON_RUN_H
#define DAEMON_RUN_H

/*
 * One training run as the coordinator knows it: what was asked for, where it stands, its newest
 * attempt and its orders. Plain data: changed by coordinator_apply alone, read by whoever answers
 * questions. Fields marked live say how things are now; they are not stored and start anew with the
 * daemon.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/access.h"
#include "proto/jobspec.h"
#include "proto/lifecycle.h"
#include "proto/performer.pb-c.h"

enum {
    METRIC_NAME_MAX = 64,
    RUN_ID_SIZE = 24,
    RUN_NAME_MAX = 128,
    RUN_KEY_MAX = 64,
    RUN_REASON_SIZE = 240,
    RUN_ORDERS_MAX = 1024, /* of all kinds, in the life of a run */
    RUN_DRAWS_MAX = 64,    /* newest draws whose hashes are compared */
    NONCE_SIZE = 33,       /* 128 bits in hex */
    TOKEN_SIZE = 33,       /* the same */
    HOST_SIZE = 65,
    PHASE_SIZE = 24,
    HASH_SIZE = 33,
    RUN_ASIDE_MAX = 8,          /* checkpoints that are set aside at a time */
    FRUITLESS_ATTEMPTS_MAX = 2, /* in a row, without a new checkpoint */
    STILLBORN_ATTEMPTS_MAX = 2, /* in a row, of one checkpoint, without a step */
    WAITS_SIZE = 160,
    RENDEZVOUS_TEXT_SIZE = 512, /* more than a worker has to tell */
};

/* What the coordinator needs to know of a job file. */
struct run_facts {
    char name[RUN_NAME_MAX + 1];
    uint32_t ranks;
    uint64_t steps;
    uint32_t restart_max;
    uint64_t redraw_every;     /* 0: no planned redraws */
    uint64_t checkpoint_every; /* 0: none planned */
    uint64_t stall_ms;         /* a rank that stands for less does not hang; 0: none ever does */
    double redraw_threshold;   /* error of a layer that redraws when it is passed, 0: none does */
    int64_t priority;          /* in the queue; higher begins first */
    bool features;             /* its attention has features that can be redrawn */
    bool validates;            /* it has validation data */
    bool goes_back;            /* where it diverges, to draw other features */
    uint64_t grace_ms;         /* to save and stop in; 0: as long as a rank that stood still has */
    enum launcher launcher;
};

/* ST_INVALID: a value that no run can have (a name that is too long, no ranks, ...). */
enum status run_facts_of(const struct jobspec *spec, struct run_facts *facts, struct fault *fault);

/* What a person wants of an attempt's end: that the run is over, waits to be resumed, queues again, or goes on. The numbers lie in
 * the database. */
enum stop { STOP_NONE, STOP_CANCEL, STOP_KILL, STOP_PAUSE, STOP_REQUEUE, STOP_DRILL };

/* The texts are seen by people and lie in the database. */
#define ORDER_STATES(S)         \
    S(ORDER_PENDING, "pending") \
    S(ORDER_APPLIED, "applied") \
    S(ORDER_DROPPED, "dropped")

#define ORDER_STATE_ENUM(enumerator, name) enumerator,
enum order_state { ORDER_STATES(ORDER_STATE_ENUM) };
#undef ORDER_STATE_ENUM

const char *order_state_name(enum order_state state);
bool order_state_from_name(const char *name, enum order_state *state);

/* "redraw", "checkpoint", "evaluate", "stop" */
const char *order_kind_name(Performer__Order__Kind kind);
bool order_kind_from_name(const char *name, Performer__Order__Kind *kind);

struct order {
    uint64_t id; /* from 1, of all runs together */
    Performer__Order__Kind kind;
    enum order_state state;
    uint64_t step; /* applied: after it */
    uint64_t requested_ms;
};

/* Features number `draw`, in use from the step after `step` on, as first heard of. */
struct draw {
    uint64_t draw, step;
    uint64_t order;   /* 0: by a rule of the job */
    uint32_t attempt; /* the newest that told it; `step` and `order` are from there */
    char hash[HASH_SIZE];
    bool agreed; /* nobody has told another hash, and nobody of an attempt another step */
};

/* The run diverged and goes back: weights that have not met this are of it up to `step` alone, from where features number
 * `draw` are used. */
struct rewind {
    uint64_t number; /* from 1 */
    uint64_t step, draw;
};

/* A stop as before a preemption, rehearsed: what passed between the request and ... */
struct drill {
    uint32_t attempt; /* that was stopped; 0: there was none */
    uint64_t step;    /* of the checkpoint */
    uint64_t save_ms; /* until that was durable */
    uint64_t exit_ms; /* until the last rank had ended */
};

struct rank {
    uint64_t sequence; /* newest report whose content is stored */
    bool started;
    /* live */
    bool heard;              /* since the daemon started */
    uint64_t sequence_heard; /* newest report, one with a heartbeat alone included */
    uint64_t heard_ms;       /* monotonic */
    uint64_t step;
    char phase[PHASE_SIZE];
    double step_ms;
    uint64_t stood_ms, usual_ms;      /* in that phase, and the longest that it took before */
    uint64_t own_steps, window_steps; /* done in the attempt, and by the beginning of the window */
    double own_ms, window_own_ms;     /* of its own time, that they took (straggler.h) */
    double score;                     /* of the last window, 0: there was none */
    uint32_t slow_windows;            /* in a row */
    char host[HOST_SIZE];
    uint64_t pid;
};

struct attempt {
    uint32_t number; /* from 1; 0: the run has had none */
    char nonce[NONCE_SIZE];
    bool ended;
    enum attempt_cause cause; /* of its end */
    bool counted;             /* its end took from a restart budget */
    bool progressed;          /* it saved a checkpoint further on than any before */
    bool started;             /* a rank has told where it resumed */
    uint64_t resumed_step;
    int64_t pid; /* of the launcher, under Slurm the job's number; 0: not known to live yet */
    uint64_t pid_start_time;
    uint64_t planned_ms;
    int stalled_rank; /* a rank that stood still: the attempt was told to end; -1: none */
    char stalled_text[RUN_REASON_SIZE]; /* and where */
    uint64_t pressed_ms;                /* live, monotonic: when it was last told */
    uint64_t window_ms; /* live, monotonic: when the window of the ranks' scores began */
    char rendezvous[RENDEZVOUS_TEXT_SIZE]; /* as rank 0 told it; "": not yet */
    struct rank *ranks;                    /* (run->facts.ranks) */
};

/* Of a metric, the row of the highest step. */
struct latest {
    char name[METRIC_NAME_MAX + 1];
    uint64_t step;
    double value;
};

struct run {
    uint64_t number;
    char id[RUN_ID_SIZE]; /* "r" and the number */
    char key[RUN_KEY_MAX + 1];
    char user[USER_SIZE]; /* whose it is */
    struct run_facts facts;
    uint64_t
        *after; /* (after_count), numbers of runs that must have succeeded; smaller than its own */
    size_t after_count;
    uint64_t forked_from,
        forked_step; /* the run and step of the checkpoint that it began from, 0: none */
    enum run_state state;
    char reason[RUN_REASON_SIZE]; /* why it is in that state */
    enum stop stop;
    uint64_t step; /* newest that is stored, of the newest attempt */
    uint64_t submitted_ms, started_ms, ended_ms;
    uint32_t
        spent[BUDGET_COUNT]; /* attempts whose end took from the budget, since the newest requeue */
    uint32_t fruitless;      /* of those, the last ones in a row that did not progress */
    uint32_t stillborn; /* of those, the last ones that resumed at stillborn_step and did no step */
    uint64_t stillborn_step;
    uint64_t save_ms;              /* how long the newest checkpoint took */
    uint64_t saved_ms;             /* since 1970: when it was there */
    struct drill drill;            /* the newest */
    uint64_t saved_step;           /* of the furthest checkpoint there ever was */
    uint64_t aside[RUN_ASIDE_MAX]; /* (aside_count) steps of checkpoints that attempts pass over */
    size_t aside_count;
    char requeue_key[RUN_KEY_MAX + 1]; /* of the newest requeue */
    uint32_t requeued_attempt;         /* the newest attempt there was by then; it counts no more */
    struct attempt attempt;            /* the newest */
    char (*tokens)[TOKEN_SIZE];        /* (attempt.number): of the reports of attempt 1, 2, ... */
    struct order *orders;              /* (order_count), by id */
    size_t order_count;
    struct draw *draws; /* (draw_count), by draw; none once the run has succeeded */
    size_t draw_count;
    struct rewind *rewinds; /* (rewind_count), those that hold, by number and by step */
    size_t rewind_count;
    struct latest *latest; /* (latest_count), by name: the newest row of each metric */
    size_t latest_count;
    /* live */
    uint64_t heard_ms;      /* monotonic: when it was last heard of or looked after */
    uint64_t due_ms;        /* monotonic: the next attempt begins no earlier */
    char waits[WAITS_SIZE]; /* STARTING: where its attempt waits, and why; "": it does not */
};

/* An attempt that has begun and not ended: it holds ranks. */
bool run_attempt_lives(const struct run *run);

/* Ranks that it takes of those that the daemon runs at once: jobs of Slurm have a place of their own. */
uint32_t run_ranks_here(const struct run_facts *facts);

/* The highest step that is known, the live view of its ranks included. */
uint64_t run_step_now(const struct run *run);

/* The next step after `run_step_now` at which a rule with this period holds; 0: none before the run
 * ends. */
uint64_t run_next_multiple(const struct run *run, uint64_t every);

/* Milliseconds of a save as a rank has told them in seconds; 0 where that is no time that a save takes. */
uint64_t run_save_ms(double seconds);

/* What a stop with a checkpoint takes: a step and a save, or the newest drill where that took longer. 0: not known. */
uint64_t run_stop_ms(const struct run *run);

/* What it is given. */
uint64_t run_grace_ms(const struct run *run);

/* Whether another attempt may follow: after a divergence, where the job goes back to draw other features. */
bool run_restarts_after(const struct run *run, enum attempt_cause cause);

/* Attempts that may follow by that budget. */
uint32_t run_restarts_max(const struct run *run, enum restart_budget budget);

/* The words for one whom a run does not obey: its id, and whose it is. */
#define RUN_OF_ANOTHER \
    "%s belongs to %s: only they, the daemon's user and its admins may look into it or command it"

/* Whether the caller may look into the run and command it: whose it is, and admins. */
bool run_obeys(const struct run *run, const struct caller *caller);

/* NULL: the run has no order of that id. */
const struct order *run_order(const struct run *run, uint64_t id);

/* A row of a metric is stored: takes the place of the latest, unless that is of a later step. */
void run_note_metric(struct run *run, const char *name, uint64_t step, double value);

/* A zeroed run may be freed. */
void run_free(struct run *run);

#endif
