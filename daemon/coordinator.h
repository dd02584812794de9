#ifndef DAEMON_COORDINATOR_H
#define DAEMON_COORDINATOR_H

/*
 * Every decision about a run. The coordinator knows no clock, no socket and no database: time and
 * chance come inside the event, what it decides leaves in a decision. The driver then does, in this
 * order:
 *
 *   coordinator_decide(coordinator, &event, &decision);
 *   store_commit(...)        where it fails nothing has happened, and the asker is told the fault
 *   coordinator_apply(...)
 *   effects, answer; decision_fini(&decision)
 *
 * What always holds (coordinator_check):
 *   1. a run's number is its place: runs[i]->number == i + 1; ids and orders are never used twice
 *   2. ranks of attempts that live are at most ranks_max (unless that was lowered between starts)
 *   3. a run has at most one attempt that lives; in STARTING, RUNNING, STOPPING and UNKNOWN one
 *   4. no more attempts than its restarts and one have ended by the causes of a budget since the newest requeue
 *   5. an order is applied at one step; a final run has none pending, and one to stop only a run that is STOPPING
 *   6. sequence numbers of a rank grow
 *   7. rewinds that hold are in order of number, step and draw
 *   8. a run comes after, and is forked from, earlier ones alone, and has begun only where all of them have succeeded
 *
 * All runs that ever were are held in memory, about 1 KiB each.
 */

#include "daemon/decision.h"
#include "daemon/run.h"
#include "proto/performer.pb-c.h"

enum {
    LEASE_MS = 30 * 1000,           /* RUNNING and silent for longer: UNKNOWN */
    STARTING_LEASE_MS = 180 * 1000, /* the same for STARTING: data are read before the first step */
    BACK_OFF_MS = 1000,             /* before the next attempt; doubles while none progresses */
    BACK_OFF_MS_MAX = 60 * 1000,
};

/*
 * E(enumerator, tag)
 *   submit         a client hands in a job
 *   act            a client wants something of a run
 *   report         a rank tells what has happened; also one that was found in a spool file
 *   launched       the launcher of an attempt runs
 *   launch_failed  it could not be started; where a disk was full that costs no budget
 *   attempt_ended  it has ended, and how; spooled reports of the attempt are handed in before
 *   adopted        after a restart of the daemon the launcher was found alive
 *   unlaunched     after a restart nothing says that the launcher ever ran; costs no budget
 *   waits          its attempt is in a queue, where no rank can be heard, or has just left it
 *   tick           time has passed; decides one thing: tick again while there are records
 */
#define EVENTS(E)                         \
    E(EVENT_SUBMIT, submit)               \
    E(EVENT_ACT, act)                     \
    E(EVENT_REPORT, report)               \
    E(EVENT_LAUNCHED, launched)           \
    E(EVENT_LAUNCH_FAILED, launch_failed) \
    E(EVENT_ATTEMPT_ENDED, attempt_ended) \
    E(EVENT_ADOPTED, adopted)             \
    E(EVENT_UNLAUNCHED, unlaunched)       \
    E(EVENT_WAITS, waits)                 \
    E(EVENT_TICK, tick)

#define EVENT_ENUM(enumerator, tag) enumerator,
enum event_kind { EVENTS(EVENT_ENUM) };
#undef EVENT_ENUM

/* A good checkpoint of a run, for another to begin from. */
struct fork_source {
    uint64_t run, step, bytes;
    char *path;
    const char *runs_directory; /* in which the fork gets its own */
};

struct event_submit {
    const struct run_facts *facts;  /* of the resolved text */
    const struct text_list *after;  /* runs as a person names them; NULL: none */
    const struct fork_source *fork; /* NULL: it begins anew */
    const char *text, *resolved;
    const char *key; /* NULL or "": none */
    struct caller caller;
};

struct event_act {
    const char *run; /* as a person names it */
    Performer__Action action;
    const char *key; /* of a requeue; NULL or "": none */
    struct caller caller;
};

struct event_report {
    const Performer__Report *report;
};

struct event_launched {
    uint64_t run;
    uint32_t attempt;
    int64_t pid;
    uint64_t pid_start_time;
};

struct event_launch_failed {
    uint64_t run;
    uint32_t attempt;
    enum status status;
    const char *text;
};

/* Where a kill was asked for, the cause CRASH becomes KILLED. */
struct event_attempt_ended {
    uint64_t run;
    uint32_t attempt;
    const struct evidence *evidence;
};

struct event_adopted {
    uint64_t run;
    uint32_t attempt;
    int64_t pid;
    uint64_t pid_start_time;
};

struct event_unlaunched {
    uint64_t run;
    uint32_t attempt;
};

struct event_waits {
    uint64_t run;
    uint32_t attempt;
    const char *words; /* where, and why; "": not any more */
};

struct event_tick {
    uint64_t random[4]; /* the nonce and the token of an attempt that this tick may plan */
    uint64_t awake_ms;  /* monotonic: since when the daemon has listened without a pause */
};

struct event {
    enum event_kind kind;
    uint64_t now_ms;  /* monotonic */
    uint64_t wall_ms; /* since 1970 */
    union {
#define EVENT_MEMBER(enumerator, tag) struct event_##tag tag;
        EVENTS(EVENT_MEMBER)
#undef EVENT_MEMBER
    };
};

/* Readable by all, changed by coordinator_apply (and coordinator_restore) alone. */
struct coordinator {
    uint32_t ranks_max;
    struct run **runs; /* (run_count), runs[i] has number i + 1 */
    size_t run_count, run_capacity;
    uint64_t order_next;
};

void coordinator_init(struct coordinator *coordinator, uint32_t ranks_max);
void coordinator_fini(struct coordinator *coordinator);

/*
 * Decides; changes nothing. `*decision` is the caller's, to be finished, and borrows from the
 * event. A decision without records needs no commit. An event about an attempt that is not the
 * newest, or has ended already, is no error: it comes back without records.
 *
 * Answers of reports: ST_OK with orders, or fenced; ST_NOT_FOUND: no such run; ST_INVALID: a report
 * that no worker of ours sends (a rank or name out of bounds, a gap in the sequence).
 */
void coordinator_decide(const struct coordinator *coordinator, const struct event *event,
                        struct decision *decision);

/* Applies what has been committed. Cannot fail: where memory is short the process ends, and the
 * store holds everything. */
void coordinator_apply(struct coordinator *coordinator, const struct record *records, size_t count,
                       uint64_t now_ms);

/* For store_load: takes over a run (heap memory with all it owns) as the store has it. In order of
 * numbers. */
void coordinator_restore(struct coordinator *coordinator, struct run *run, uint64_t now_ms);

/* Whether `token` is that of the attempt, an earlier one's too: who shows it may send that attempt's reports. */
bool coordinator_admits(const struct coordinator *coordinator, const char *run_id, uint32_t attempt,
                        const char *token);

/* NULL, or the words for the first invariant that does not hold. */
const char *coordinator_check(const struct coordinator *coordinator);

/* The same for one run. */
const char *coordinator_check_run(const struct coordinator *coordinator, const struct run *run);

/* By number, by the key of its submit, by id; NULL: none such. */
const struct run *coordinator_run(const struct coordinator *coordinator, uint64_t number);
const struct run *coordinator_run_by_key(const struct coordinator *coordinator, const char *key);
const struct run *coordinator_run_by_id(const struct coordinator *coordinator, const char *id);

/*
 * The run that a person means: an id, else a name that one run alone has, else the beginning of one
 * id alone. ST_NOT_FOUND: there is none, or there are several, and the fault names them.
 */
enum status coordinator_find(const struct coordinator *coordinator, const char *text,
                             const struct run **run, struct fault *fault);

uint32_t coordinator_ranks_in_use(const struct coordinator *coordinator);
uint32_t coordinator_ranks_free(const struct coordinator *coordinator);

/* Why the run is where it is, in words: its reason, or what a QUEUED or RESTARTING run waits for.
 */
void coordinator_reason(const struct coordinator *coordinator, const struct run *run,
                        uint64_t now_ms, char *text, size_t size);

#endif
