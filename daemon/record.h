#ifndef DAEMON_RECORD_H
#define DAEMON_RECORD_H

/*
 * Records: what a decision has decided, one fact each. The store writes them down, the coordinator
 * applies them; both take them in order. Texts and rows are borrowed: from the event, or from the
 * decision's memory.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/evidence.h"
#include "daemon/record.def"
#include "daemon/run.h"
#include "proto/logline.h"

#define RECORD_ENUM(enumerator, tag, durable) enumerator,
enum record_kind { RECORDS(RECORD_ENUM) };
#undef RECORD_ENUM

#define NOTE_ENUM(enumerator, name, level) enumerator,
enum note { NOTES(NOTE_ENUM) };
#undef NOTE_ENUM

#define VERDICT_ENUM(enumerator, name) enumerator,
enum verdict { VERDICTS(VERDICT_ENUM) };
#undef VERDICT_ENUM

const char *record_kind_name(enum record_kind kind);
bool record_is_durable(enum record_kind kind);
const char *note_name(enum note note);
enum log_level note_level(enum note note);
const char *verdict_name(enum verdict verdict);
bool verdict_from_name(const char *name, enum verdict *verdict);

struct record_run_submitted {
    const struct run_facts *facts;
    const uint64_t *after; /* (after_count), numbers of earlier runs, none twice */
    size_t after_count;
    uint64_t forked_from, forked_step; /* 0: it begins anew */
    const char *key;
    const char *user;
    const char *text, *resolved; /* the job file as written, and in full */
};

struct record_run_moved {
    enum run_state from, to;
    const char *reason;
};

struct record_stop_requested {
    enum stop stop;
};

/* The restart budget begins anew. */
struct record_requeued {
    const char *key; /* "": none */
};

struct record_drilled {
    struct drill drill;
};

struct record_attempt_planned {
    const char *nonce;
    const char *token; /* of its reports */
};

struct record_attempt_launched {
    int64_t pid;
    uint64_t pid_start_time;
};

/* It stands still, and was asked to save and end. */
struct record_attempt_stalled {
    uint32_t rank;
    const char *text;
};

/* It was told to end once more. */
struct record_attempt_pressed {
    int signal;
};

struct record_attempt_waits {
    const char *words; /* "": not any more */
};

struct record_attempt_ended {
    enum attempt_cause cause; /* in the light of what was asked for */
    const struct evidence *evidence;
    bool counted;                  /* takes from the cause's restart budget */
    uint32_t fruitless, stillborn; /* of the run, this end included */
    uint64_t stillborn_step;
};

/* How the ranks of the attempt find each other. */
struct record_rendezvous {
    const char *text;
};

struct record_rank_started {
    uint32_t rank;
    uint64_t resumed_step;
    const char *host, *backend, *libraries;
    uint64_t parameters;
};

struct record_rank_heard {
    uint32_t rank;
    uint64_t sequence;
    const Performer__Heartbeat *heartbeat; /* NULL: the report had none */
};

/* A window is over, and another begins. */
struct record_ranks_scored {
    const double *scores; /* (ranks) */
};

struct record_report_taken {
    uint32_t rank;
    uint64_t sequence;
    uint64_t step; /* the newest in it, 0: none */
    size_t metric_count;
    Performer__MetricRow *const *metrics; /* (metric_count) */
};

struct record_order_requested {
    uint64_t order;
    Performer__Order__Kind kind;
};

struct record_order_applied {
    uint64_t order;
    uint64_t step;
};

struct record_order_dropped {
    uint64_t order;
};

/* It agrees where the first word of this draw had the same hash and, in the same attempt, the same step: one that
 * resumes may be told of an order before it comes to where the draw was. */
struct record_redrawn {
    uint32_t rank;
    uint64_t draw, step, order;
    const char *why; /* "planned", "order 12", "adaptive: ..." */
    const char *hash;
};

/* Checkpoints of later steps are of the run no more. */
struct record_rewound {
    struct rewind rewind;
};

struct record_checkpoint_saved {
    uint64_t step;
    const char *path;
    uint64_t bytes;
    double seconds;
    bool best;
    double valid_loss; /* NaN: not evaluated */
};

struct record_checkpoint_judged {
    uint64_t step;
    const char *path;
    enum verdict verdict;
};

/* Attempts died of it: no attempt resumes from it until it is saved again. */
struct record_checkpoint_set_aside {
    uint64_t step;
};

struct record_noted {
    enum note note;
    uint64_t step;
    const char *text;
};

struct record {
    enum record_kind kind;
    uint64_t run;     /* its number */
    uint32_t attempt; /* 0: none yet */
    uint64_t time_ms; /* since 1970 */
    union {
#define RECORD_MEMBER(enumerator, tag, durable) struct record_##tag tag;
        RECORDS(RECORD_MEMBER)
#undef RECORD_MEMBER
    };
};

#endif
