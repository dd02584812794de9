#ifndef DAEMON_STORE_H
#define DAEMON_STORE_H

/*
 * The database of a state directory: runs, attempts, events, metrics, checkpoints, redraws, orders.
 * The one file that knows SQLite. A store is one connection, for one thread; every call blocks for as long as the
 * disk takes.
 *
 * The caller sees to it that no second daemon uses the directory (state_directory.h).
 */

#include "daemon/coordinator.h"
#include "proto/status.h"

struct store;

/*
 * Opens or makes the database and brings its schema up to date. ":memory:" is one for tests. The tables that
 * decisions stand on are checked whole. ST_UNSUPPORTED: written by a newer performerd, or by another program;
 * ST_CORRUPT, ST_NOT_PERMITTED, ST_NO_SPACE, ST_IO, ST_BUSY. The store is the caller's.
 */
enum status store_open(const char *path, struct store **store, struct fault *fault);

/* Another connection to what store_open has opened, for questions from another thread; it sees what has been committed. Nothing
 * can be committed through it. To be closed before the other. */
enum status store_open_reader(const char *path, struct store **reader, struct fault *fault);
void store_close(struct store *store);

/* ST_IO: a sync has failed, so that nothing can be written any more, and of the commit that failed nobody knows what became. */
enum status store_writable(const struct store *store, struct fault *fault);

/*
 * Writes all records in one transaction, named `decision` in faults, and returns when they are
 * durable; on any failure none of them is. Records that are not durable are passed over; without
 * any other nothing is written.
 */
enum status store_commit(struct store *store, const char *decision, const struct record *records,
                         size_t count, struct fault *fault);

/* Gives an empty coordinator what has been committed. ST_CORRUPT: rows that no daemon of ours left so. On failure it
 * is left empty. */
enum status store_load(struct store *store, struct coordinator *coordinator, uint64_t now_ms,
                       struct fault *fault);

/* ---- questions ----
 * Rows are told one by one; their texts are valid during the call. A callback that returns false
 * ends the telling early, which is no error. It must not use the store. */

/* The job file as written and as resolved. The strings are the caller's, to be freed. ST_NOT_FOUND.
 */
enum status store_job(struct store *store, uint64_t run, char **text, char **resolved,
                      struct fault *fault);

struct attempt_row {
    uint32_t number;
    uint64_t planned_ms, ended_ms; /* ended_ms 0: it runs */
    enum attempt_cause cause;
    const char *text;
    int32_t first_rank; /* -1: not known */
    const char *host;
    int32_t signal, exit_code;
    const char *last_lines;
    uint64_t resumed_step;
};
typedef bool store_attempt_told(void *context, const struct attempt_row *row);
/* In order of number. */
enum status store_attempts(struct store *store, uint64_t run, store_attempt_told *told,
                           void *context, struct fault *fault);

struct redraw_row {
    uint64_t draw, step;
    const char *why; /* "planned", "order 12", "adaptive: ..." */
    bool agreed;
    const char *const *hashes; /* (rank_count), in order of rank; "": not heard */
    size_t rank_count;
};
typedef bool store_redraw_told(void *context, const struct redraw_row *row);
/* The newest `limit`, in order of draw. */
enum status store_redraws(struct store *store, uint64_t run, uint32_t limit,
                          store_redraw_told *told, void *context, struct fault *fault);

struct checkpoint_row {
    uint64_t step;
    const char *path;
    enum verdict verdict;
    uint32_t attempt;
    uint64_t bytes, saved_ms;
    bool best;
    double valid_loss; /* NaN: not evaluated */
    double seconds;
};
typedef bool store_checkpoint_told(void *context, const struct checkpoint_row *row);
/* In order of step; those that were pruned only where `all`. */
enum status store_checkpoints(struct store *store, uint64_t run, bool all,
                              store_checkpoint_told *told, void *context, struct fault *fault);

struct event_row {
    uint64_t id, time_ms;
    uint32_t attempt;
    uint64_t step;
    const char *kind, *text;
};
typedef bool store_event_told(void *context, const struct event_row *row);
/* Those with a larger id than `after`, in order of id, at most `limit`. */
enum status store_events(struct store *store, uint64_t run, uint64_t after, uint32_t limit,
                         store_event_told *told, void *context, struct fault *fault);

struct metric_row {
    uint32_t attempt;
    uint64_t step;
    const char *name;
    double value;
    uint64_t time_ms;
};
typedef bool store_metric_told(void *context, const struct metric_row *row);

struct metric_query {
    uint64_t run;
    const char *name;                /* NULL or "": all */
    uint64_t from_step, before_step; /* before_step 0: to the newest */
    uint64_t cursor;                 /* 0 at first, then `*next` */
    uint32_t limit;                  /* rows at most; not 0 */
};
/* By step, then name. `*next` is 0 where that was all. Rows that a callback refused come again
 * behind `*next`. */
enum status store_metrics(struct store *store, const struct metric_query *query,
                          store_metric_told *told, void *context, uint64_t *next,
                          struct fault *fault);

/* At most `points` rows of one metric, evenly over its steps, the newest among them, by step.
 * cursor and limit of the query are not looked at; its name must be given. */
enum status store_metrics_thinned(struct store *store, const struct metric_query *query,
                                  uint32_t points, store_metric_told *told, void *context,
                                  struct fault *fault);

#endif
