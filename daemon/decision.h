#ifndef DAEMON_DECISION_H
#define DAEMON_DECISION_H

/*
 * What the coordinator makes of an event: records to be committed and applied, effects to be done
 * after that, and the answer. It owns its memory and borrows texts from the event, which must
 * outlive it.
 */

#include "daemon/record.h"
#include "proto/status.h"

/*
 * Effects may be done twice, or found undone after a crash of the daemon; the world is looked at
 * again then.
 *   EFFECT_WRITE_JOB  make the run's directory, write job.toml and resolved.toml into it
 *   EFFECT_LAUNCH     write the plan, then the fence, spawn the launcher; then EVENT_LAUNCHED or
 *                     EVENT_LAUNCH_FAILED
 *   EFFECT_SIGNAL     send `signal` to what there is of the attempt
 *   EFFECT_RESCUE     write down what rank `rank` is doing, then ask all to save and end
 */
#define EFFECTS(E)      \
    E(EFFECT_WRITE_JOB) \
    E(EFFECT_LAUNCH)    \
    E(EFFECT_SIGNAL)    \
    E(EFFECT_RESCUE)

#define EFFECT_ENUM(enumerator) enumerator,
enum effect_kind { EFFECTS(EFFECT_ENUM) };
#undef EFFECT_ENUM

struct effect {
    enum effect_kind kind;
    uint64_t run;
    char run_id[RUN_ID_SIZE];
    uint32_t attempt;
    /* EFFECT_WRITE_JOB; the store gives the same texts */
    const char *text, *resolved;
    const char *fork; /* path of the checkpoint that the run begins from; NULL: none */
    /* EFFECT_WRITE_JOB, EFFECT_LAUNCH */
    uint64_t fork_step; /* of that checkpoint, 0: none */
    /* EFFECT_LAUNCH */
    char nonce[NONCE_SIZE];
    char token[TOKEN_SIZE];
    uint32_t ranks;
    const struct order
        *applied; /* (applied_count), orders that changed the weights, by step, then id */
    size_t applied_count;
    const uint64_t *set_aside; /* (set_aside_count), steps of checkpoints that are passed over */
    size_t set_aside_count;
    const struct rewind *rewinds; /* (rewind_count), those that hold */
    size_t rewind_count;
    /* EFFECT_SIGNAL */
    int signal;
    /* EFFECT_RESCUE */
    uint32_t rank;
};

struct answer {
    enum status status;
    char text[400]; /* words where status is not ST_OK */
    uint64_t run;   /* 0: none */
    char run_id[RUN_ID_SIZE];
    uint64_t order; /* 0: nothing for the workers to do */
    uint64_t forked_step;
    /* a rank's report */
    bool fenced;
    const struct order *orders; /* (order_count), pending, by id */
    size_t order_count;
    const char *rendezvous; /* NULL: none is known */
};

struct decision {
    const char *name; /* "submit": of the transaction; static */
    struct record *records;
    size_t record_count, record_capacity;
    struct effect *effects;
    size_t effect_count, effect_capacity;
    struct answer answer;
    struct decision_block *blocks; /* texts */
};

void decision_init(struct decision *decision, const char *name);
/* A zeroed decision may be finished; finishing twice is harmless. */
void decision_fini(struct decision *decision);

/* For the coordinator. The returned slot is zeroed and valid until the next call. Memory that is
 * not there ends the process: all that was promised is in the store. */
struct record *decision_record(struct decision *decision, enum record_kind kind);
struct effect *decision_effect(struct decision *decision, enum effect_kind kind);
void *decision_memory(struct decision *decision, size_t bytes);
char *decision_format(struct decision *decision, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A copy of at most `limit` bytes that is UTF-8 and has no control characters but, with `lines`,
 * newlines and tabs; what is neither becomes '?'. NULL gives "". */
char *decision_clean(struct decision *decision, const char *text, size_t limit, bool lines);

#endif
