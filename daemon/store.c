#include "daemon/store.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>

#include "daemon/memory.h"
#include "daemon/schema.h"

/* Q(enumerator, SQL): all that is ever asked of the database, prepared once. */
#define STATEMENTS(Q)                                                                              \
    Q(BEGIN, "BEGIN IMMEDIATE")                                                                    \
    Q(COMMIT, "COMMIT")                                                                            \
    Q(ROLLBACK, "ROLLBACK")                                                                        \
    Q(INSERT_RUN,                                                                                  \
      "INSERT INTO runs (number, key, name, ranks, steps, restart_max, redraw_every,"              \
      " checkpoint_every, features, state, reason, stop, step, submitted_ms,"                      \
      " started_ms, ended_ms, redraw_threshold, validates, priority, stall_ms,"                    \
      " launcher, user, forked_from, forked_step, goes_back, grace_ms) VALUES (?1, ?2, ?3,"        \
      " ?4, ?5, ?6, ?7, ?8, ?9, ?10, '', 0, 0, ?11, 0, 0, ?12, ?13, ?14, ?15, ?16, ?17, ?18,"      \
      " ?19, ?20, ?21)")                                                                           \
    Q(INSERT_AWAITED, "INSERT INTO awaited VALUES (?1, ?2)")                                       \
    Q(INSERT_JOB, "INSERT INTO jobs VALUES (?1, ?2, ?3)")                                          \
    Q(MOVE_RUN, "UPDATE runs SET state = ?2, reason = ?3,"                                         \
                " started_ms = iif(started_ms = 0, ?4, started_ms), ended_ms = ?5"                 \
                " WHERE number = ?1 AND state = ?6")                                               \
    Q(STOP_RUN, "UPDATE runs SET stop = ?2 WHERE number = ?1")                                     \
    Q(REQUEUE_RUN, "UPDATE runs SET fruitless = 0, stillborn = 0, requeue_key = ?2,"               \
                   " requeued_attempt = ?3 WHERE number = ?1")                                     \
    Q(DRILL_RUN, "UPDATE runs SET drill_attempt = ?2, drill_step = ?3, drill_save_ms = ?4,"        \
                 " drill_exit_ms = ?5 WHERE number = ?1")                                          \
    Q(INSERT_ATTEMPT,                                                                              \
      "INSERT INTO attempts (run, number, nonce, planned_ms, token) VALUES (?1, ?2, ?3, ?4, ?5)")  \
    Q(LAUNCH_ATTEMPT,                                                                              \
      "UPDATE attempts SET pid = ?3, pid_start_time = ?4 WHERE run = ?1 AND number = ?2")          \
    Q(STALL_ATTEMPT, "UPDATE attempts SET stalled_rank = ?3, stalled_text = ?4"                    \
                     " WHERE run = ?1 AND number = ?2")                                            \
    Q(MEET, "UPDATE attempts SET rendezvous = ?3 WHERE run = ?1 AND number = ?2")                  \
    Q(END_ATTEMPT, "UPDATE attempts SET ended = 1, ended_ms = ?3, cause = ?4, counted = ?5,"       \
                   " text = ?6, first_rank = ?7, host = ?8, signal = ?9, exit_code = ?10,"         \
                   " last_lines = ?11 WHERE run = ?1 AND number = ?2 AND ended = 0")               \
    Q(COUNT_END, "UPDATE runs SET fruitless = ?2, stillborn = ?3, stillborn_step = ?4"             \
                 " WHERE number = ?1")                                                             \
    Q(PROGRESS, "UPDATE attempts SET progressed = 1 WHERE run = ?1 AND number = ?2"                \
                " AND ?3 > max((SELECT coalesce(max(step), 0) FROM checkpoints WHERE run = ?1),"   \
                " (SELECT coalesce(max(step), 0) FROM rewinds WHERE run = ?1))")                   \
    Q(SET_ASIDE, "INSERT INTO checkpoints VALUES (?1, ?2, '', ?3, ?4, 0, ?5, 0, NULL, NULL)"       \
                 " ON CONFLICT (run, step) DO UPDATE SET verdict = ?3")                            \
    Q(START_RANK,                                                                                  \
      "INSERT INTO ranks (run, attempt, rank, started, host, backend, libraries, parameters)"      \
      " VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7)"                                                    \
      " ON CONFLICT (run, attempt, rank) DO UPDATE SET started = 1, host = ?4, backend = ?5,"      \
      " libraries = ?6, parameters = ?7")                                                          \
    Q(START_ATTEMPT, "UPDATE attempts SET started = 1, resumed_step = ?3"                          \
                     " WHERE run = ?1 AND number = ?2 AND started = 0")                            \
    Q(RESUME_RUN, "UPDATE runs SET step = ?2 WHERE number = ?1")                                   \
    Q(TAKE_REPORT, "INSERT INTO ranks (run, attempt, rank, sequence) VALUES (?1, ?2, ?3, ?4)"      \
                   " ON CONFLICT (run, attempt, rank) DO UPDATE SET sequence = ?4"                 \
                   " WHERE sequence < ?4")                                                         \
    Q(ADVANCE_RUN, "UPDATE runs SET step = max(step, ?2) WHERE number = ?1")                       \
    Q(INSERT_NAME, "INSERT INTO metric_names (name) VALUES (?1) ON CONFLICT DO NOTHING")           \
    Q(NAME_ID, "SELECT id FROM metric_names WHERE name = ?1")                                      \
    Q(PUT_METRIC, "INSERT INTO metrics VALUES (?1, ?2, ?3, ?4, ?5, ?6)"                            \
                  " ON CONFLICT (run, name, step) DO UPDATE SET attempt = ?4, value = ?5,"         \
                  " time_ms = ?6")                                                                 \
    Q(INSERT_ORDER, "INSERT INTO orders (id, run, kind, state, requested_ms)"                      \
                    " VALUES (?1, ?2, ?3, ?4, ?5)")                                                \
    Q(APPLY_ORDER, "UPDATE orders SET state = ?2, step = ?3 WHERE id = ?1 AND state != ?2")        \
    Q(DROP_ORDER, "UPDATE orders SET state = ?2 WHERE id = ?1 AND state = ?3")                     \
    Q(PUT_DRAW, "INSERT INTO draws VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7)"                         \
                " ON CONFLICT (run, draw) DO UPDATE SET agreed = agreed AND hash = excluded.hash"  \
                " AND (step = excluded.step OR attempt != excluded.attempt),"                      \
                " step = iif(attempt = excluded.attempt, step, excluded.step),"                    \
                " order_id = iif(attempt = excluded.attempt, order_id, excluded.order_id),"        \
                " why = iif(attempt = excluded.attempt, why, excluded.why),"                       \
                " attempt = excluded.attempt")                                                     \
    Q(PUT_HASH, "INSERT INTO draw_hashes VALUES (?1, ?2, ?3, ?4)"                                  \
                " ON CONFLICT (run, draw, rank) DO UPDATE SET hash = ?4")                          \
    Q(UNDO_REWINDS, "DELETE FROM rewinds WHERE run = ?1 AND step >= ?2")                           \
    Q(INSERT_REWIND, "INSERT INTO rewinds VALUES (?1, ?2, ?3, ?4)")                                \
    Q(FORGET_BEHIND, "DELETE FROM checkpoints WHERE run = ?1 AND step > ?2")                       \
    Q(CLEAR_BEST, "UPDATE checkpoints SET best = 0 WHERE run = ?1 AND best != 0")                  \
    Q(PUT_CHECKPOINT, "INSERT OR REPLACE INTO checkpoints"                                         \
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")                         \
    Q(JUDGE_CHECKPOINT, "UPDATE checkpoints SET verdict = ?3 WHERE run = ?1 AND path = ?2")        \
    Q(INSERT_EVENT, "INSERT INTO events (run, time_ms, attempt, step, kind, text)"                 \
                    " VALUES (?1, ?2, ?3, ?4, ?5, ?6)")                                            \
    Q(RUNS, "SELECT number, key, name, ranks, steps, restart_max, redraw_every,"                   \
            " checkpoint_every, features, state, reason, stop, step, submitted_ms, started_ms,"    \
            " ended_ms, redraw_threshold, validates, priority, fruitless, stillborn,"              \
            " stillborn_step, requeue_key, requeued_attempt,"                                      \
            " max((SELECT coalesce(max(step), 0) FROM checkpoints WHERE run = runs.number),"       \
            " (SELECT coalesce(max(step), 0) FROM rewinds WHERE run = runs.number)),"              \
            " stall_ms, launcher, (SELECT seconds FROM checkpoints WHERE run = runs.number"        \
            " AND seconds IS NOT NULL ORDER BY saved_ms DESC LIMIT 1), user, forked_from,"         \
            " forked_step, goes_back, grace_ms, drill_attempt, drill_step, drill_save_ms,"         \
            " drill_exit_ms, (SELECT coalesce(max(saved_ms), 0) FROM checkpoints"                  \
            " WHERE run = runs.number AND seconds IS NOT NULL) FROM runs"                          \
            " ORDER BY number")                                                                    \
    Q(AWAITED, "SELECT after FROM awaited WHERE run = ?1 ORDER BY after")                          \
    Q(NEWEST_ATTEMPT, "SELECT number, nonce, planned_ms, pid, pid_start_time, started,"            \
                      " resumed_step, ended, cause, counted, progressed, stalled_rank,"            \
                      " stalled_text, rendezvous FROM attempts WHERE run = ?1"                     \
                      " ORDER BY number DESC LIMIT 1")                                             \
    Q(SPENT, "SELECT cause, count(*) FROM attempts WHERE run = ?1 AND counted = 1"                 \
             " AND number > ?2 GROUP BY cause")                                                    \
    Q(ASIDE, "SELECT step FROM checkpoints WHERE run = ?1 AND verdict = ?2 ORDER BY step")         \
    Q(TOKENS, "SELECT token FROM attempts WHERE run = ?1 ORDER BY number")                         \
    Q(RANKS, "SELECT rank, sequence, started, host FROM ranks WHERE run = ?1 AND attempt = ?2")    \
    Q(ORDERS, "SELECT id, kind, state, step, requested_ms FROM orders WHERE run = ?1 ORDER BY id") \
    Q(DRAWS, "SELECT * FROM (SELECT draw, step, order_id, hash, agreed, why, attempt FROM"         \
             " draws WHERE run = ?1 ORDER BY draw DESC LIMIT ?2) ORDER BY draw")                   \
    Q(REWINDS, "SELECT number, step, draw FROM rewinds WHERE run = ?1 ORDER BY number")            \
    Q(JOB, "SELECT text, resolved FROM jobs WHERE run = ?1")                                       \
    Q(ATTEMPTS, "SELECT number, planned_ms, ended_ms, cause, text, first_rank, host, signal,"      \
                " exit_code, last_lines, resumed_step FROM attempts WHERE run = ?1"                \
                " ORDER BY number")                                                                \
    Q(RANK_COUNT, "SELECT ranks FROM runs WHERE number = ?1")                                      \
    Q(HASHES, "SELECT rank, hash FROM draw_hashes WHERE run = ?1 AND draw = ?2")                   \
    Q(CHECKPOINTS, "SELECT step, path, verdict, attempt, bytes, saved_ms, best, valid_loss,"       \
                   " seconds FROM checkpoints WHERE run = ?1 AND (?2 OR verdict != 'pruned')"      \
                   " ORDER BY step")                                                               \
    Q(EVENTS, "SELECT id, time_ms, attempt, step, kind, text FROM events"                          \
              " WHERE run = ?1 AND id > ?2 ORDER BY id LIMIT ?3")                                  \
    Q(METRICS, "SELECT m.attempt, m.step, n.name, m.value, m.time_ms"                              \
               " FROM metrics m INDEXED BY metrics_by_step CROSS JOIN metric_names n"              \
               " ON n.id = m.name WHERE m.run = ?1 AND m.step BETWEEN ?2 AND ?3"                   \
               " ORDER BY m.step, n.name LIMIT ?4 OFFSET ?5")                                      \
    Q(METRICS_NAMED, "SELECT attempt, step, ?6, value, time_ms FROM metrics"                       \
                     " WHERE run = ?1 AND name = ?7 AND step BETWEEN ?2 AND ?3"                    \
                     " ORDER BY step LIMIT ?4 OFFSET ?5")                                          \
    Q(METRIC_SPAN, "SELECT (SELECT min(step) FROM metrics WHERE run = ?1 AND name = ?2"            \
                   " AND step >= ?3), (SELECT max(step) FROM metrics WHERE run = ?1"               \
                   " AND name = ?2 AND step <= ?4)")                                               \
    Q(METRIC_LAST_IN, "SELECT attempt, step, ?5, value, time_ms FROM metrics"                      \
                      " WHERE run = ?1 AND name = ?2 AND step BETWEEN ?3 AND ?4"                   \
                      " ORDER BY step DESC LIMIT 1")                                               \
    Q(METRICS_LATEST, "SELECT n.name, m.step, m.value"                                             \
                      " FROM metric_names n CROSS JOIN metrics m ON m.run = ?1"                    \
                      " AND m.name = n.id AND m.step = (SELECT max(step) FROM metrics"             \
                      " WHERE run = ?1 AND name = n.id) ORDER BY n.name")

#define STATEMENT_ENUM(enumerator, sql) SQL_##enumerator,
enum statement { STATEMENTS(STATEMENT_ENUM) STATEMENT_COUNT };
#undef STATEMENT_ENUM

static const char *const statement_texts[] = {
#define STATEMENT_TEXT(enumerator, sql) [SQL_##enumerator] = sql,
    STATEMENTS(STATEMENT_TEXT)
#undef STATEMENT_TEXT
};

struct metric_name {
    char name[METRIC_NAME_MAX + 1];
    int64_t id;
};

struct store {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    int error; /* errno of the newest failure */
    bool sync_failed;
    struct metric_name *names; /* (name_count), those that are committed or about to be */
    size_t name_count;
};

/* ---- SQLite's codes into ours ---- */

/* What errno was when SQLite failed: it keeps the number itself, but not that of a failed COMMIT. */
static int system_error(const struct store *store)
{
    return store->error != 0 ? store->error : sqlite3_system_errno(store->db);
}

/* A full disk is SQLITE_FULL, but a quota or a limit on file size comes as an I/O error. */
static enum status status_of_io(const struct store *store)
{
    enum status status = status_from_errno(system_error(store));
    return status == ST_SYSTEM || status == ST_NOT_FOUND ? ST_IO : status;
}

static enum status status_of(const struct store *store)
{
    switch (sqlite3_errcode(store->db) & 0xFF) {
    case SQLITE_FULL:
        return ST_NO_SPACE;
    case SQLITE_IOERR:
        return status_of_io(store);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ST_CORRUPT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ST_BUSY;
    case SQLITE_NOMEM:
        return ST_NO_MEMORY;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return ST_NOT_PERMITTED;
    case SQLITE_CANTOPEN:
        return status_of_io(store);
    case SQLITE_TOOBIG:
        return ST_TOO_LARGE;
    default:
        return ST_INTERNAL;
    }
}

static enum status fault_of(const struct store *store, struct fault *fault)
{
    enum status status = status_of(store);
    int code = sqlite3_errcode(store->db) & 0xFF, error = system_error(store);
    if ((code == SQLITE_IOERR || code == SQLITE_CANTOPEN) && error != 0)
        return fault_set(fault, status, "%s: %s", sqlite3_errmsg(store->db), strerror(error));
    return fault_set(fault, status, "%s", sqlite3_errmsg(store->db));
}

static int step(struct store *store, sqlite3_stmt *statement)
{
    errno = 0;
    int code = sqlite3_step(statement);
    store->error = code == SQLITE_ROW || code == SQLITE_DONE ? 0 : errno;
    return code;
}

/* ---- values in and out ---- */

struct value {
    enum { VALUE_INTEGER, VALUE_REAL, VALUE_TEXT } type;
    int64_t integer;
    double real;
    const char *text; /* NULL: NULL */
};

static struct value integer(int64_t number)
{
    return (struct value){.type = VALUE_INTEGER, .integer = number};
}

/* SQLite has no larger integers; what we count never comes near, what a stranger claims may. */
static struct value count(uint64_t number)
{
    return integer(number < INT64_MAX ? (int64_t)number : INT64_MAX);
}

static struct value real(double number)
{
    return (struct value){.type = VALUE_REAL, .real = number};
}

static struct value text(const char *words)
{
    return (struct value){.type = VALUE_TEXT, .text = words};
}

static int bind_value(sqlite3_stmt *statement, int place, const struct value *value)
{
    switch (value->type) {
    case VALUE_INTEGER:
        return sqlite3_bind_int64(statement, place, value->integer);
    case VALUE_REAL:
        return sqlite3_bind_double(statement, place, value->real);
    case VALUE_TEXT:
        return sqlite3_bind_text(statement, place, value->text, -1, SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

static uint64_t column_count(sqlite3_stmt *row, int column)
{
    int64_t number = sqlite3_column_int64(row, column);
    return number > 0 ? (uint64_t)number : 0;
}

static uint32_t column_u32(sqlite3_stmt *row, int column)
{
    uint64_t number = column_count(row, column);
    return number < UINT32_MAX ? (uint32_t)number : UINT32_MAX;
}

static double column_real(sqlite3_stmt *row, int column)
{
    if (sqlite3_column_type(row, column) == SQLITE_NULL) return NAN;
    return sqlite3_column_double(row, column);
}

/* Valid until the statement moves on. Never NULL. */
static const char *column_text(sqlite3_stmt *row, int column)
{
    const char *words = (const char *)sqlite3_column_text(row, column);
    return words ? words : "";
}

/* ST_NO_MEMORY: one of the row's texts was "" for want of memory. To be asked before anything is believed of it. */
static enum status texts_read(const struct store *store, struct fault *fault)
{
    return sqlite3_errcode(store->db) == SQLITE_NOMEM ? fault_of(store, fault) : ST_OK;
}

/* ---- statements ---- */

static enum status begin_values(struct store *store, enum statement which,
                                const struct value *values, size_t value_count,
                                sqlite3_stmt **statement, struct fault *fault)
{
    sqlite3_stmt *prepared = store->statements[which];
    assert((size_t)sqlite3_bind_parameter_count(prepared) == value_count);
    sqlite3_reset(prepared);
    for (size_t i = 0; i < value_count; i++)
        if (bind_value(prepared, (int)i + 1, &values[i]) != SQLITE_OK)
            return fault_of(store, fault);
    *statement = prepared;
    return ST_OK;
}

/* Ends a statement; texts that were bound may go away after it. */
static void finish(sqlite3_stmt *statement)
{
    if (!statement) return;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

/* True while there is a row; at the end, or on a failure, `*status` says which, and the statement is finished. */
static bool next_row(struct store *store, sqlite3_stmt *statement, enum status *status,
                     struct fault *fault)
{
    int code = step(store, statement);
    if (code == SQLITE_ROW) return true;
    *status = code == SQLITE_DONE ? ST_OK : fault_of(store, fault);
    finish(statement);
    return false;
}

static enum status execute_values(struct store *store, enum statement which,
                                  const struct value *values, size_t value_count,
                                  struct fault *fault)
{
    sqlite3_stmt *statement = NULL;
    enum status status = begin_values(store, which, values, value_count, &statement, fault);
    if (status != ST_OK) return status;
    while (next_row(store, statement, &status, fault)) continue;
    return status;
}

/* The same for an UPDATE of the one row that must be there. */
static enum status execute_one_values(struct store *store, enum statement which,
                                      const struct value *values, size_t value_count,
                                      struct fault *fault)
{
    enum status status = execute_values(store, which, values, value_count, fault);
    if (status == ST_OK && sqlite3_changes(store->db) != 1)
        return fault_set(fault, ST_INTERNAL, "the row to change is not there: %s",
                         statement_texts[which]);
    return status;
}

#define VALUES(...)                      \
    (const struct value[]){__VA_ARGS__}, \
        sizeof((const struct value[]){__VA_ARGS__}) / sizeof(struct value)
#define begin_query(store, which, statement, fault, ...) \
    begin_values(store, which, VALUES(__VA_ARGS__), statement, fault)
#define execute(store, which, fault, ...) execute_values(store, which, VALUES(__VA_ARGS__), fault)
#define execute_one(store, which, fault, ...) \
    execute_one_values(store, which, VALUES(__VA_ARGS__), fault)

static enum status execute_plain(struct store *store, enum statement which, struct fault *fault)
{
    return execute_values(store, which, NULL, 0, fault);
}

/* ---- opening ---- */

static enum status run_sql(struct store *store, const char *sql, struct fault *fault)
{
    return sqlite3_exec(store->db, sql, NULL, NULL, NULL) == SQLITE_OK ? ST_OK
                                                                       : fault_of(store, fault);
}

/* The first column of the first row, cut to `size`; "" without a row. */
static enum status ask_sql(struct store *store, const char *sql, char *result, size_t size,
                           struct fault *fault)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return fault_of(store, fault);
    int code = sqlite3_step(statement);
    enum status status = code == SQLITE_ROW || code == SQLITE_DONE ? ST_OK : fault_of(store, fault);
    const char *words = code == SQLITE_ROW ? column_text(statement, 0) : "";
    if (status == ST_OK) status = texts_read(store, fault);
    if (status == ST_OK) text_copy(result, size, words);
    sqlite3_finalize(statement);
    return status;
}

static enum status ask_number(struct store *store, const char *sql, int64_t *number,
                              struct fault *fault)
{
    char result[32];
    enum status status = ask_sql(store, sql, result, sizeof result, fault);
    if (status == ST_OK) *number = strtoll(result, NULL, 10);
    return status;
}

/* Of every connection. */
static enum status configure_any(struct store *store, struct fault *fault)
{
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, 5000);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    return run_sql(store, "PRAGMA cell_size_check = ON", fault);
}

static enum status configure(struct store *store, struct fault *fault)
{
    char mode[16];
    enum status status = configure_any(store, fault);
    if (status == ST_OK)
        status = ask_sql(store, "PRAGMA journal_mode = WAL", mode, sizeof mode, fault);
    if (status != ST_OK) return status;
    if (strcmp(mode, "wal") != 0 && strcmp(mode, "memory") != 0)
        return fault_set(fault, ST_UNSUPPORTED,
                         "the file system does not take a write-ahead log (journal mode `%s`)",
                         mode);
    /* Pages have 4 KiB; each of many runs that report at a time writes to several of its own. */
    return run_sql(store,
                   "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                   "PRAGMA journal_size_limit = 16777216; PRAGMA wal_autocheckpoint = 4096;"
                   "PRAGMA cache_size = -32768;",
                   fault);
}

static enum status migrate_once(struct store *store, int64_t version, struct fault *fault)
{
    char mark[96];
    snprintf(mark, sizeof mark, "PRAGMA application_id = %d; PRAGMA user_version = %" PRId64,
             SCHEMA_APPLICATION_ID, version + 1);
    enum status status = run_sql(store, "BEGIN IMMEDIATE", fault);
    if (status == ST_OK) status = run_sql(store, schema_migrations[version], fault);
    if (status == ST_OK) status = run_sql(store, mark, fault);
    if (status == ST_OK) status = run_sql(store, "COMMIT", fault);
    if (status != ST_OK && !sqlite3_get_autocommit(store->db)) run_sql(store, "ROLLBACK", NULL);
    return status;
}

static enum status migrate(struct store *store, struct fault *fault)
{
    int64_t version, application, tables, known = 0;
    while (schema_migrations[known]) known++;
    enum status status = ask_number(store, "PRAGMA user_version", &version, fault);
    if (status == ST_OK) status = ask_number(store, "PRAGMA application_id", &application, fault);
    if (status == ST_OK)
        status = ask_number(store, "SELECT count(*) FROM sqlite_schema", &tables, fault);
    if (status != ST_OK) return status;
    if (tables > 0 && application != SCHEMA_APPLICATION_ID)
        return fault_set(fault, ST_UNSUPPORTED, "it is a database of another program");
    if (version > known)
        return fault_set(fault, ST_UNSUPPORTED,
                         "it was written by a newer performerd (schema %" PRId64
                         ", this one knows %" PRId64 "): use that version",
                         version, known);
    for (; version < known && status == ST_OK; version++)
        status = migrate_once(store, version, fault);
    return status;
}

static enum status check_table(struct store *store, const char *table, struct fault *fault)
{
    char sql[64], result[200];
    snprintf(sql, sizeof sql, "PRAGMA quick_check('%s')", table);
    enum status status = ask_sql(store, sql, result, sizeof result, fault);
    if (status == ST_OK && strcmp(result, "ok") != 0)
        return fault_set(fault, ST_CORRUPT, "table %s: %s", table, result);
    return status;
}

/*
 * What a process wrote to the log and did not live to sync is read as committed, and must be on the disk before anything
 * stands on it. A checkpoint syncs the log before it copies; that there is no room for the copy does no harm.
 */
static enum status secure_log(struct store *store, struct fault *fault)
{
    int code = sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (code == SQLITE_OK) return ST_OK;
    enum status status = fault_of(store, fault);
    return status == ST_NO_SPACE && code != SQLITE_IOERR_FSYNC ? ST_OK : status;
}

static enum status prepare_all(struct store *store, struct fault *fault)
{
    for (int i = 0; i < STATEMENT_COUNT; i++)
        if (sqlite3_prepare_v3(store->db, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &store->statements[i], NULL) != SQLITE_OK)
            return fault_of(store, fault);
    return ST_OK;
}

/* For whoever writes: makes what is missing, and looks at what is there. */
static enum status open_to_write(struct store *store, struct fault *fault)
{
    enum status status = configure(store, fault);
    if (status == ST_OK) status = migrate(store, fault);
    for (int i = 0; status == ST_OK && schema_vital_tables[i]; i++)
        status = check_table(store, schema_vital_tables[i], fault);
    return status == ST_OK ? secure_log(store, fault) : status;
}

static enum status connection_open(const char *path, int flags,
                                   enum status (*settle)(struct store *store, struct fault *fault),
                                   struct store **connected, struct fault *fault)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store) return fault_set(fault, ST_NO_MEMORY, "open %s: out of memory", path);
    enum status status = ST_OK;
    if (sqlite3_open_v2(path, &store->db, flags | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        status =
            store->db ? fault_of(store, fault) : fault_set(fault, ST_NO_MEMORY, "out of memory");
    if (status == ST_OK) status = settle(store, fault);
    if (status == ST_OK) status = prepare_all(store, fault);
    if (status != ST_OK) {
        store_close(store);
        fault_wrap(fault, "open %s", path);
        return status;
    }
    *connected = store;
    return ST_OK;
}

enum status store_open(const char *path, struct store **store, struct fault *fault)
{
    return connection_open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, open_to_write, store,
                           fault);
}

enum status store_open_reader(const char *path, struct store **reader, struct fault *fault)
{
    return connection_open(path, SQLITE_OPEN_READONLY, configure_any, reader, fault);
}

void store_close(struct store *store)
{
    if (!store) return;
    for (int i = 0; i < STATEMENT_COUNT; i++) sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->db);
    free(store->names);
    free(store);
}

/* ---- records ---- */

static enum status store_run_submitted(struct store *store, const struct record *record,
                                       struct fault *fault)
{
    const struct record_run_submitted *submitted = &record->run_submitted;
    const struct run_facts *facts = submitted->facts;
    enum status status = execute(
        store, SQL_INSERT_RUN, fault, count(record->run),
        text(submitted->key[0] != '\0' ? submitted->key : NULL), text(facts->name),
        count(facts->ranks), count(facts->steps), count(facts->restart_max),
        count(facts->redraw_every), count(facts->checkpoint_every), integer(facts->features),
        text(run_state_name(RUN_QUEUED)), count(record->time_ms), real(facts->redraw_threshold),
        integer(facts->validates), integer(facts->priority), count(facts->stall_ms),
        text(launcher_text(facts->launcher)), text(submitted->user), count(submitted->forked_from),
        count(submitted->forked_step), integer(facts->goes_back), count(facts->grace_ms));
    for (size_t i = 0; status == ST_OK && i < submitted->after_count; i++)
        status = execute(store, SQL_INSERT_AWAITED, fault, count(record->run),
                         count(submitted->after[i]));
    if (status != ST_OK) return status;
    return execute(store, SQL_INSERT_JOB, fault, count(record->run), text(submitted->text),
                   text(submitted->resolved));
}

static enum status store_run_moved(struct store *store, const struct record *record,
                                   struct fault *fault)
{
    const struct record_run_moved *moved = &record->run_moved;
    uint64_t started_ms = moved->to == RUN_STARTING ? record->time_ms : 0;
    uint64_t ended_ms = run_state_is_final(moved->to) ? record->time_ms : 0;
    return execute_one(store, SQL_MOVE_RUN, fault, count(record->run),
                       text(run_state_name(moved->to)), text(moved->reason), count(started_ms),
                       count(ended_ms), text(run_state_name(moved->from)));
}

static enum status store_stop_requested(struct store *store, const struct record *record,
                                        struct fault *fault)
{
    return execute_one(store, SQL_STOP_RUN, fault, count(record->run),
                       integer(record->stop_requested.stop));
}

static enum status store_drilled(struct store *store, const struct record *record,
                                 struct fault *fault)
{
    const struct drill *drill = &record->drilled.drill;
    return execute_one(store, SQL_DRILL_RUN, fault, count(record->run), count(drill->attempt),
                       count(drill->step), count(drill->save_ms), count(drill->exit_ms));
}

static enum status store_requeued(struct store *store, const struct record *record,
                                  struct fault *fault)
{
    return execute_one(store, SQL_REQUEUE_RUN, fault, count(record->run),
                       text(record->requeued.key), count(record->attempt));
}

static enum status store_attempt_planned(struct store *store, const struct record *record,
                                         struct fault *fault)
{
    return execute(store, SQL_INSERT_ATTEMPT, fault, count(record->run), count(record->attempt),
                   text(record->attempt_planned.nonce), count(record->time_ms),
                   text(record->attempt_planned.token));
}

static enum status store_attempt_launched(struct store *store, const struct record *record,
                                          struct fault *fault)
{
    const struct record_attempt_launched *launched = &record->attempt_launched;
    return execute_one(store, SQL_LAUNCH_ATTEMPT, fault, count(record->run), count(record->attempt),
                       integer(launched->pid), count(launched->pid_start_time));
}

static enum status store_attempt_stalled(struct store *store, const struct record *record,
                                         struct fault *fault)
{
    const struct record_attempt_stalled *stalled = &record->attempt_stalled;
    return execute_one(store, SQL_STALL_ATTEMPT, fault, count(record->run), count(record->attempt),
                       count(stalled->rank), text(stalled->text));
}

static enum status store_rendezvous(struct store *store, const struct record *record,
                                    struct fault *fault)
{
    return execute_one(store, SQL_MEET, fault, count(record->run), count(record->attempt),
                       text(record->rendezvous.text));
}

static enum status store_attempt_ended(struct store *store, const struct record *record,
                                       struct fault *fault)
{
    const struct record_attempt_ended *ended = &record->attempt_ended;
    const struct evidence *evidence = ended->evidence;
    enum status status = execute_one(
        store, SQL_END_ATTEMPT, fault, count(record->run), count(record->attempt),
        count(record->time_ms), text(attempt_cause_name(ended->cause)), integer(ended->counted),
        text(evidence->text), integer(evidence->first_rank), text(evidence->host),
        integer(evidence->signal), integer(evidence->exit_code), text(evidence->last_lines));
    if (status != ST_OK) return status;
    return execute_one(store, SQL_COUNT_END, fault, count(record->run), count(ended->fruitless),
                       count(ended->stillborn), count(ended->stillborn_step));
}

static enum status store_rank_started(struct store *store, const struct record *record,
                                      struct fault *fault)
{
    const struct record_rank_started *started = &record->rank_started;
    enum status status =
        execute(store, SQL_START_RANK, fault, count(record->run), count(record->attempt),
                count(started->rank), text(started->host), text(started->backend),
                text(started->libraries), count(started->parameters));
    if (status == ST_OK)
        status = execute(store, SQL_START_ATTEMPT, fault, count(record->run),
                         count(record->attempt), count(started->resumed_step));
    if (status != ST_OK || sqlite3_changes(store->db) == 0) return status; /* not the first rank */
    return execute_one(store, SQL_RESUME_RUN, fault, count(record->run),
                       count(started->resumed_step));
}

static enum status find_name(struct store *store, const char *name, int64_t *id, bool *found,
                             struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_NAME_ID, &row, fault, text(name));
    if (status != ST_OK) return status;
    *found = false;
    while (next_row(store, row, &status, fault)) {
        *id = sqlite3_column_int64(row, 0);
        *found = true;
    }
    return status;
}

static enum status name_id(struct store *store, const char *name, int64_t *id, struct fault *fault)
{
    for (size_t i = 0; i < store->name_count; i++) {
        if (strcmp(store->names[i].name, name) != 0) continue;
        *id = store->names[i].id;
        return ST_OK;
    }
    bool found = false;
    enum status status = execute(store, SQL_INSERT_NAME, fault, text(name));
    if (status == ST_OK) status = find_name(store, name, id, &found, fault);
    if (status != ST_OK) return status;
    assert(found && strlen(name) <= METRIC_NAME_MAX);
    store->names = memory_grow(store->names, (store->name_count + 1) * sizeof *store->names);
    struct metric_name *known = &store->names[store->name_count++];
    text_copy(known->name, sizeof known->name, name);
    known->id = *id;
    return ST_OK;
}

static enum status put_metric(struct store *store, const struct record *record,
                              const Performer__MetricRow *row, struct fault *fault)
{
    int64_t id;
    enum status status = name_id(store, row->name, &id, fault);
    if (status != ST_OK) return status;
    return execute(store, SQL_PUT_METRIC, fault, count(record->run), integer(id), count(row->step),
                   count(record->attempt), real(row->value), count(row->time_ms));
}

static enum status store_report_taken(struct store *store, const struct record *record,
                                      struct fault *fault)
{
    const struct record_report_taken *taken = &record->report_taken;
    enum status status =
        execute_one(store, SQL_TAKE_REPORT, fault, count(record->run), count(record->attempt),
                    count(taken->rank), count(taken->sequence));
    for (size_t i = 0; status == ST_OK && i < taken->metric_count; i++)
        status = put_metric(store, record, taken->metrics[i], fault);
    if (status != ST_OK) return status;
    return execute_one(store, SQL_ADVANCE_RUN, fault, count(record->run), count(taken->step));
}

static enum status store_order_requested(struct store *store, const struct record *record,
                                         struct fault *fault)
{
    return execute(store, SQL_INSERT_ORDER, fault, count(record->order_requested.order),
                   count(record->run), text(order_kind_name(record->order_requested.kind)),
                   text(order_state_name(ORDER_PENDING)), count(record->time_ms));
}

static enum status store_order_applied(struct store *store, const struct record *record,
                                       struct fault *fault)
{
    return execute_one(store, SQL_APPLY_ORDER, fault, count(record->order_applied.order),
                       text(order_state_name(ORDER_APPLIED)), count(record->order_applied.step));
}

static enum status store_order_dropped(struct store *store, const struct record *record,
                                       struct fault *fault)
{
    return execute_one(store, SQL_DROP_ORDER, fault, count(record->order_dropped.order),
                       text(order_state_name(ORDER_DROPPED)),
                       text(order_state_name(ORDER_PENDING)));
}

static enum status store_redrawn(struct store *store, const struct record *record,
                                 struct fault *fault)
{
    const struct record_redrawn *redrawn = &record->redrawn;
    enum status status = execute(store, SQL_PUT_DRAW, fault, count(record->run),
                                 count(redrawn->draw), count(redrawn->step), count(redrawn->order),
                                 text(redrawn->hash), text(redrawn->why), count(record->attempt));
    if (status != ST_OK) return status;
    return execute(store, SQL_PUT_HASH, fault, count(record->run), count(redrawn->draw),
                   count(redrawn->rank), text(redrawn->hash));
}

/* The history tells of the checkpoints that are of the run no more. */
static enum status store_rewound(struct store *store, const struct record *record,
                                 struct fault *fault)
{
    const struct rewind *rewind = &record->rewound.rewind;
    enum status status =
        execute(store, SQL_UNDO_REWINDS, fault, count(record->run), count(rewind->step));
    if (status == ST_OK)
        status = execute(store, SQL_INSERT_REWIND, fault, count(record->run), count(rewind->number),
                         count(rewind->step), count(rewind->draw));
    if (status != ST_OK) return status;
    return execute(store, SQL_FORGET_BEHIND, fault, count(record->run), count(rewind->step));
}

static enum status store_checkpoint_saved(struct store *store, const struct record *record,
                                          struct fault *fault)
{
    const struct record_checkpoint_saved *saved = &record->checkpoint_saved;
    enum status status =
        saved->best ? execute(store, SQL_CLEAR_BEST, fault, count(record->run)) : ST_OK;
    if (status == ST_OK)
        status = execute(store, SQL_PROGRESS, fault, count(record->run), count(record->attempt),
                         count(saved->step));
    if (status != ST_OK) return status;
    return execute(store, SQL_PUT_CHECKPOINT, fault, count(record->run), count(saved->step),
                   text(saved->path), text(verdict_name(VERDICT_GOOD)), count(record->attempt),
                   count(saved->bytes), count(record->time_ms), integer(saved->best),
                   real(saved->valid_loss), real(saved->seconds));
}

/* A checkpoint that was never told of has no row; the history says what happened to it. */
static enum status store_checkpoint_judged(struct store *store, const struct record *record,
                                           struct fault *fault)
{
    const struct record_checkpoint_judged *judged = &record->checkpoint_judged;
    return execute(store, SQL_JUDGE_CHECKPOINT, fault, count(record->run), text(judged->path),
                   text(verdict_name(judged->verdict)));
}

static enum status store_checkpoint_set_aside(struct store *store, const struct record *record,
                                              struct fault *fault)
{
    return execute(store, SQL_SET_ASIDE, fault, count(record->run),
                   count(record->checkpoint_set_aside.step), text(verdict_name(VERDICT_ASIDE)),
                   count(record->attempt), count(record->time_ms));
}

static enum status store_noted(struct store *store, const struct record *record,
                               struct fault *fault)
{
    const struct record_noted *noted = &record->noted;
    return execute(store, SQL_INSERT_EVENT, fault, count(record->run), count(record->time_ms),
                   count(record->attempt), count(noted->step), text(note_name(noted->note)),
                   text(noted->text));
}

/* How things are now is nobody's history. */
#define store_rank_heard      NULL
#define store_ranks_scored    NULL
#define store_attempt_pressed NULL
#define store_attempt_waits   NULL

static enum status (*const writers[])(struct store *store, const struct record *record,
                                      struct fault *fault) = {
#define RECORD_ROW(enumerator, tag, durable) [enumerator] = store_##tag,
    RECORDS(RECORD_ROW)
#undef RECORD_ROW
};

/* ---- committing ---- */

static bool any_durable(const struct record *records, size_t record_count)
{
    for (size_t i = 0; i < record_count; i++)
        if (record_is_durable(records[i].kind)) return true;
    return false;
}

static enum status write_records(struct store *store, const struct record *records,
                                 size_t record_count, struct fault *fault)
{
    enum status status = execute_plain(store, SQL_BEGIN, fault);
    for (size_t i = 0; status == ST_OK && i < record_count; i++)
        if (record_is_durable(records[i].kind))
            status = writers[records[i].kind](store, &records[i], fault);
    return status == ST_OK ? execute_plain(store, SQL_COMMIT, fault) : status;
}

static void roll_back(struct store *store)
{
    int code = sqlite3_extended_errcode(store->db);
    if (code == SQLITE_IOERR_FSYNC || code == SQLITE_IOERR_DIR_FSYNC) store->sync_failed = true;
    if (!sqlite3_get_autocommit(store->db)) execute_plain(store, SQL_ROLLBACK, NULL);
    store->name_count = 0; /* new names went with the transaction */
}

enum status store_writable(const struct store *store, struct fault *fault)
{
    if (!store->sync_failed) return ST_OK;
    return fault_set(fault, ST_IO,
                     "the disk failed to sync the database before: start performerd anew");
}

enum status store_commit(struct store *store, const char *decision, const struct record *records,
                         size_t record_count, struct fault *fault)
{
    if (!any_durable(records, record_count)) return ST_OK;
    enum status status = store_writable(store, fault);
    if (status == ST_OK) {
        status = write_records(store, records, record_count, fault);
        if (status == ST_OK) return ST_OK;
        roll_back(store);
    }
    fault_wrap(fault, "record %s", decision);
    return status;
}

/* ---- loading ---- */

static enum status bad_row(const struct run *run, const char *what, struct fault *fault)
{
    return fault_set(fault, ST_CORRUPT, "%s: %s", run->id, what);
}

static enum status read_run(sqlite3_stmt *row, struct run *run, struct fault *fault)
{
    run->number = column_count(row, 0);
    snprintf(run->id, sizeof run->id, "r%" PRIu64, run->number);
    text_copy(run->key, sizeof run->key, column_text(row, 1));
    text_copy(run->facts.name, sizeof run->facts.name, column_text(row, 2));
    run->facts.ranks = column_u32(row, 3);
    run->facts.steps = column_count(row, 4);
    run->facts.restart_max = column_u32(row, 5);
    run->facts.redraw_every = column_count(row, 6);
    run->facts.checkpoint_every = column_count(row, 7);
    run->facts.features = sqlite3_column_int(row, 8) != 0;
    text_copy(run->reason, sizeof run->reason, column_text(row, 10));
    run->stop = (enum stop)sqlite3_column_int(row, 11);
    run->step = column_count(row, 12);
    run->submitted_ms = column_count(row, 13);
    run->started_ms = column_count(row, 14);
    run->ended_ms = column_count(row, 15);
    run->facts.redraw_threshold = sqlite3_column_double(row, 16);
    run->facts.validates = sqlite3_column_int(row, 17) != 0;
    run->facts.priority = sqlite3_column_int64(row, 18);
    run->fruitless = column_u32(row, 19);
    run->stillborn = column_u32(row, 20);
    run->stillborn_step = column_count(row, 21);
    text_copy(run->requeue_key, sizeof run->requeue_key, column_text(row, 22));
    run->requeued_attempt = column_u32(row, 23);
    run->saved_step = column_count(row, 24);
    run->facts.stall_ms = column_count(row, 25);
    run->save_ms = run_save_ms(column_real(row, 27));
    text_copy(run->user, sizeof run->user, column_text(row, 28));
    run->forked_from = column_count(row, 29);
    run->forked_step = column_count(row, 30);
    run->facts.goes_back = sqlite3_column_int(row, 31) != 0;
    run->facts.grace_ms = column_count(row, 32);
    run->drill = (struct drill){.attempt = column_u32(row, 33),
                                .step = column_count(row, 34),
                                .save_ms = column_count(row, 35),
                                .exit_ms = column_count(row, 36)};
    run->saved_ms = column_count(row, 37);
    if (!launcher_from_text(column_text(row, 26), &run->facts.launcher))
        return bad_row(run, "its launcher is none", fault);
    if (!run_state_from_name(column_text(row, 9), &run->state))
        return bad_row(run, "its state is none", fault);
    if (run->stop > STOP_DRILL) return bad_row(run, "its stop is none", fault);
    return ST_OK;
}

static enum status load_awaited(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_AWAITED, &row, fault, count(run->number));
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        run->after = memory_grow(run->after, (run->after_count + 1) * sizeof *run->after);
        run->after[run->after_count++] = column_count(row, 0);
    }
    return status;
}

static enum status load_ranks(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status =
        begin_query(store, SQL_RANKS, &row, fault, count(run->number), count(run->attempt.number));
    if (status != ST_OK) return status;
    while (next_row(store, row, &status, fault)) {
        uint32_t number = column_u32(row, 0);
        if (number >= run->facts.ranks) {
            finish(row);
            return bad_row(run, "it has a rank too many", fault);
        }
        struct rank *rank = &run->attempt.ranks[number];
        rank->sequence = column_count(row, 1);
        rank->started = sqlite3_column_int(row, 2) != 0;
        text_copy(rank->host, sizeof rank->host, column_text(row, 3));
    }
    return status;
}

static enum status load_tokens(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    uint32_t number = 0;
    enum status status = begin_query(store, SQL_TOKENS, &row, fault, count(run->number));
    if (status != ST_OK) return status;
    run->tokens = memory_zeroed(run->attempt.number, sizeof run->tokens[0]);
    while (next_row(store, row, &status, fault)) {
        if (number == run->attempt.number) {
            finish(row);
            return bad_row(run, "it has an attempt too many", fault);
        }
        text_copy(run->tokens[number++], sizeof run->tokens[0], column_text(row, 0));
    }
    return status;
}

static enum status load_attempt(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_NEWEST_ATTEMPT, &row, fault, count(run->number));
    if (status != ST_OK) return status;
    struct attempt *attempt = &run->attempt;
    bool known_cause = true;
    while (next_row(store, row, &status, fault)) {
        attempt->number = column_u32(row, 0);
        text_copy(attempt->nonce, sizeof attempt->nonce, column_text(row, 1));
        attempt->planned_ms = column_count(row, 2);
        attempt->pid = sqlite3_column_int64(row, 3);
        attempt->pid_start_time = column_count(row, 4);
        attempt->started = sqlite3_column_int(row, 5) != 0;
        attempt->resumed_step = column_count(row, 6);
        attempt->ended = sqlite3_column_int(row, 7) != 0;
        attempt->counted = sqlite3_column_int(row, 9) != 0;
        attempt->progressed = sqlite3_column_int(row, 10) != 0;
        attempt->stalled_rank = sqlite3_column_int(row, 11);
        text_copy(attempt->stalled_text, sizeof attempt->stalled_text, column_text(row, 12));
        text_copy(attempt->rendezvous, sizeof attempt->rendezvous, column_text(row, 13));
        known_cause = attempt_cause_from_name(column_text(row, 8), &attempt->cause);
    }
    if (status != ST_OK || attempt->number == 0) return status;
    if (!known_cause) return bad_row(run, "the cause of its attempt's end is none", fault);
    if (attempt->stalled_rank < -1 || attempt->stalled_rank >= (int64_t)run->facts.ranks)
        return bad_row(run, "a rank too many stood still", fault);
    attempt->ranks = memory_zeroed(run->facts.ranks, sizeof *attempt->ranks);
    status = load_tokens(store, run, fault);
    return status == ST_OK ? load_ranks(store, run, fault) : status;
}

static enum status load_spent(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_SPENT, &row, fault, count(run->number),
                                     count(run->requeued_attempt));
    if (status != ST_OK) return status;
    while (next_row(store, row, &status, fault)) {
        enum attempt_cause cause;
        if (!attempt_cause_from_name(column_text(row, 0), &cause)) {
            finish(row);
            return bad_row(run, "the cause of an attempt's end is none", fault);
        }
        run->spent[attempt_cause_budget(cause)] += column_u32(row, 1);
    }
    return status;
}

static enum status load_aside(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_ASIDE, &row, fault, count(run->number),
                                     text(verdict_name(VERDICT_ASIDE)));
    if (status != ST_OK) return status;
    while (next_row(store, row, &status, fault)) {
        if (run->aside_count == RUN_ASIDE_MAX) {
            finish(row);
            return bad_row(run, "too many of its checkpoints are set aside", fault);
        }
        run->aside[run->aside_count++] = column_count(row, 0);
    }
    return status;
}

static enum status load_orders(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_ORDERS, &row, fault, count(run->number));
    if (status != ST_OK) return status;
    while (next_row(store, row, &status, fault)) {
        struct order order = {.id = column_count(row, 0),
                              .step = column_count(row, 3),
                              .requested_ms = column_count(row, 4)};
        if (!order_kind_from_name(column_text(row, 1), &order.kind) ||
            !order_state_from_name(column_text(row, 2), &order.state)) {
            finish(row);
            return bad_row(run, "it has an order of no kind or state", fault);
        }
        run->orders = memory_grow(run->orders, (run->order_count + 1) * sizeof order);
        run->orders[run->order_count++] = order;
    }
    return status;
}

static enum status load_draws(struct store *store, struct run *run, struct fault *fault)
{
    if (run->state == RUN_SUCCEEDED) return ST_OK;
    sqlite3_stmt *row = NULL;
    enum status status =
        begin_query(store, SQL_DRAWS, &row, fault, count(run->number), integer(RUN_DRAWS_MAX));
    if (status != ST_OK) return status;
    while (next_row(store, row, &status, fault)) {
        struct draw draw = {.draw = column_count(row, 0),
                            .step = column_count(row, 1),
                            .order = column_count(row, 2),
                            .agreed = sqlite3_column_int(row, 4) != 0,
                            .attempt = column_u32(row, 6)};
        text_copy(draw.hash, sizeof draw.hash, column_text(row, 3));
        run->draws = memory_grow(run->draws, (run->draw_count + 1) * sizeof draw);
        run->draws[run->draw_count++] = draw;
    }
    return status;
}

static enum status load_rewinds(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_REWINDS, &row, fault, count(run->number));
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        run->rewinds = memory_grow(run->rewinds, (run->rewind_count + 1) * sizeof *run->rewinds);
        run->rewinds[run->rewind_count++] = (struct rewind){.number = column_count(row, 0),
                                                            .step = column_count(row, 1),
                                                            .draw = column_count(row, 2)};
    }
    return status;
}

/* The newest row of each metric. */
static enum status load_latest(struct store *store, struct run *run, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_METRICS_LATEST, &row, fault, count(run->number));
    while (status == ST_OK && next_row(store, row, &status, fault))
        run_note_metric(run, column_text(row, 0), column_count(row, 1), column_real(row, 2));
    return status;
}

static enum status load_run(struct store *store, sqlite3_stmt *row, struct coordinator *coordinator,
                            uint64_t now_ms, struct fault *fault)
{
    struct run *run = memory_zeroed(1, sizeof *run);
    enum status status = read_run(row, run, fault);
    if (status == ST_OK) status = load_awaited(store, run, fault);
    if (status == ST_OK) status = load_attempt(store, run, fault);
    if (status == ST_OK) status = load_spent(store, run, fault);
    if (status == ST_OK) status = load_aside(store, run, fault);
    if (status == ST_OK) status = load_orders(store, run, fault);
    if (status == ST_OK) status = load_draws(store, run, fault);
    if (status == ST_OK) status = load_rewinds(store, run, fault);
    if (status == ST_OK) status = load_latest(store, run, fault);
    if (status == ST_OK && run->number != coordinator->run_count + 1)
        status = bad_row(run, "the run before it is missing", fault);
    if (status != ST_OK) {
        run_free(run);
        return status;
    }
    coordinator_restore(coordinator, run, now_ms);
    const char *flaw = coordinator_check_run(coordinator, run);
    return flaw ? bad_row(run, flaw, fault) : ST_OK;
}

enum status store_load(struct store *store, struct coordinator *coordinator, uint64_t now_ms,
                       struct fault *fault)
{
    assert(coordinator->run_count == 0);
    sqlite3_stmt *row = NULL;
    enum status status = begin_values(store, SQL_RUNS, NULL, 0, &row, fault);
    while (status == ST_OK && next_row(store, row, &status, fault))
        status = load_run(store, row, coordinator, now_ms, fault);
    finish(row);
    if (status == ST_OK) return ST_OK;
    coordinator_fini(coordinator);
    fault_wrap(fault, "read the database");
    return status;
}

/* ---- questions ---- */

static enum status asked(const char *what, enum status status, struct fault *fault)
{
    if (status != ST_OK) fault_wrap(fault, "read %s", what);
    return status;
}

enum status store_job(struct store *store, uint64_t run, char **job, char **resolved,
                      struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_JOB, &row, fault, count(run));
    char *texts[2] = {NULL, NULL};
    while (status == ST_OK && next_row(store, row, &status, fault))
        for (int i = 0; i < 2; i++) texts[i] = strdup(column_text(row, i));
    if (status == ST_OK && texts[0] && texts[1]) {
        *job = texts[0];
        *resolved = texts[1];
        return ST_OK;
    }
    free(texts[0]);
    free(texts[1]);
    if (status == ST_OK)
        return fault_set(fault, ST_NOT_FOUND, "there is no job of run %" PRIu64, run);
    return asked("a job", status, fault);
}

enum status store_attempts(struct store *store, uint64_t run, store_attempt_told *told,
                           void *context, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_ATTEMPTS, &row, fault, count(run));
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        struct attempt_row attempt = {.number = column_u32(row, 0),
                                      .planned_ms = column_count(row, 1),
                                      .ended_ms = column_count(row, 2),
                                      .text = column_text(row, 4),
                                      .first_rank = sqlite3_column_int(row, 5),
                                      .host = column_text(row, 6),
                                      .signal = sqlite3_column_int(row, 7),
                                      .exit_code = sqlite3_column_int(row, 8),
                                      .last_lines = column_text(row, 9),
                                      .resumed_step = column_count(row, 10)};
        if (!attempt_cause_from_name(column_text(row, 3), &attempt.cause))
            attempt.cause = CAUSE_NONE;
        if (told(context, &attempt)) continue;
        finish(row);
        return ST_OK;
    }
    return asked("attempts", status, fault);
}

/* Fills hashes[0 ... ranks-1]; ranks that told nothing keep "". */
static enum status read_hashes(struct store *store, uint64_t run, uint64_t draw, uint32_t ranks,
                               char (*hashes)[HASH_SIZE], struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_HASHES, &row, fault, count(run), count(draw));
    memset(hashes, 0, ranks * sizeof *hashes);
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        uint32_t rank = column_u32(row, 0);
        if (rank < ranks) text_copy(hashes[rank], sizeof hashes[rank], column_text(row, 1));
    }
    return status;
}

static enum status rank_count(struct store *store, uint64_t run, uint32_t *ranks,
                              struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    uint32_t found = 0;
    enum status status = begin_query(store, SQL_RANK_COUNT, &row, fault, count(run));
    while (status == ST_OK && next_row(store, row, &status, fault)) found = column_u32(row, 0);
    if (status == ST_OK) *ranks = found;
    return status;
}

enum status store_redraws(struct store *store, uint64_t run, uint32_t limit,
                          store_redraw_told *told, void *context, struct fault *fault)
{
    uint32_t ranks;
    enum status status = rank_count(store, run, &ranks, fault);
    if (status != ST_OK) return asked("redraws", status, fault);
    char(*hashes)[HASH_SIZE] = memory_zeroed(ranks, sizeof *hashes);
    const char **texts = memory_zeroed(ranks, sizeof *texts);
    for (uint32_t r = 0; r < ranks; r++) texts[r] = hashes[r];

    sqlite3_stmt *row = NULL;
    status = begin_query(store, SQL_DRAWS, &row, fault, count(run), count(limit));
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        struct redraw_row redraw = {.draw = column_count(row, 0),
                                    .step = column_count(row, 1),
                                    .why = column_text(row, 5),
                                    .agreed = sqlite3_column_int(row, 4) != 0,
                                    .hashes = texts,
                                    .rank_count = ranks};
        status = read_hashes(store, run, redraw.draw, ranks, hashes, fault);
        if (status != ST_OK || !told(context, &redraw)) {
            finish(row);
            break;
        }
    }
    free(texts);
    free(hashes);
    return asked("redraws", status, fault);
}

enum status store_checkpoints(struct store *store, uint64_t run, bool all,
                              store_checkpoint_told *told, void *context, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_CHECKPOINTS, &row, fault, count(run), integer(all));
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        struct checkpoint_row checkpoint = {.step = column_count(row, 0),
                                            .path = column_text(row, 1),
                                            .attempt = column_u32(row, 3),
                                            .bytes = column_count(row, 4),
                                            .saved_ms = column_count(row, 5),
                                            .best = sqlite3_column_int(row, 6) != 0,
                                            .valid_loss = column_real(row, 7),
                                            .seconds = column_real(row, 8)};
        if (!verdict_from_name(column_text(row, 2), &checkpoint.verdict))
            checkpoint.verdict = VERDICT_CORRUPT;
        if (told(context, &checkpoint)) continue;
        finish(row);
        return ST_OK;
    }
    return asked("checkpoints", status, fault);
}

enum status store_events(struct store *store, uint64_t run, uint64_t after, uint32_t limit,
                         store_event_told *told, void *context, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status =
        begin_query(store, SQL_EVENTS, &row, fault, count(run), count(after), count(limit));
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        struct event_row event = {.id = column_count(row, 0),
                                  .time_ms = column_count(row, 1),
                                  .attempt = column_u32(row, 2),
                                  .step = column_count(row, 3),
                                  .kind = column_text(row, 4),
                                  .text = column_text(row, 5)};
        if (told(context, &event)) continue;
        finish(row);
        return ST_OK;
    }
    return asked("events", status, fault);
}

/* ---- metrics ---- */

static struct metric_row read_metric(sqlite3_stmt *row)
{
    return (struct metric_row){.attempt = column_u32(row, 0),
                               .step = column_count(row, 1),
                               .name = column_text(row, 2),
                               .value = column_real(row, 3),
                               .time_ms = column_count(row, 4)};
}

/* A cursor is the place of the next row: its step, and how many rows of that step come before it. */
enum { CURSOR_PLACE_BITS = 16 };

struct place {
    uint64_t step, index;
};

static struct place place_of(const struct metric_query *query)
{
    if (query->cursor == 0) return (struct place){.step = query->from_step};
    return (struct place){.step = query->cursor >> CURSOR_PLACE_BITS,
                          .index = query->cursor & ((1U << CURSOR_PLACE_BITS) - 1)};
}

static uint64_t cursor_of(struct place place)
{
    return place.step << CURSOR_PLACE_BITS | place.index;
}

static uint64_t last_step(const struct metric_query *query)
{
    return query->before_step > 0 ? query->before_step - 1 : INT64_MAX;
}

static enum status begin_metrics(struct store *store, const struct metric_query *query,
                                 struct place place, sqlite3_stmt **row, bool *any,
                                 struct fault *fault)
{
    *any = true;
    /* one row more than asked for: it tells whether there is more, and where */
    struct value limit = count(query->limit + UINT64_C(1));
    if (!query->name || query->name[0] == '\0')
        return begin_query(store, SQL_METRICS, row, fault, count(query->run), count(place.step),
                           count(last_step(query)), limit, count(place.index));
    int64_t id = 0;
    enum status status = find_name(store, query->name, &id, any, fault);
    if (status != ST_OK || !*any) return status;
    return begin_query(store, SQL_METRICS_NAMED, row, fault, count(query->run), count(place.step),
                       count(last_step(query)), limit, count(place.index), text(query->name),
                       integer(id));
}

enum status store_metrics(struct store *store, const struct metric_query *query,
                          store_metric_told *told, void *context, uint64_t *next,
                          struct fault *fault)
{
    assert(query->limit > 0);
    struct place place = place_of(query);
    sqlite3_stmt *row = NULL;
    bool any;
    enum status status = begin_metrics(store, query, place, &row, &any, fault);
    if (status != ST_OK) return asked("metrics", status, fault);
    uint64_t more = 0;
    uint32_t told_count = 0;
    while (any && next_row(store, row, &status, fault)) {
        struct metric_row metric = read_metric(row);
        if (metric.step != place.step) place = (struct place){.step = metric.step};
        if (told_count < query->limit && told(context, &metric)) {
            told_count++;
            place.index++;
            continue;
        }
        more = cursor_of(place);
        finish(row);
        break;
    }
    if (status != ST_OK) return asked("metrics", status, fault);
    *next = more;
    return ST_OK;
}

static enum status metric_span(struct store *store, const struct metric_query *query, int64_t id,
                               uint64_t *low, uint64_t *high, bool *any, struct fault *fault)
{
    sqlite3_stmt *row = NULL;
    enum status status = begin_query(store, SQL_METRIC_SPAN, &row, fault, count(query->run),
                                     integer(id), count(query->from_step), count(last_step(query)));
    *any = false;
    while (status == ST_OK && next_row(store, row, &status, fault)) {
        *low = column_count(row, 0);
        *high = column_count(row, 1);
        *any = sqlite3_column_type(row, 0) != SQLITE_NULL &&
               sqlite3_column_type(row, 1) != SQLITE_NULL && *low <= *high;
    }
    return status;
}

/* The last row of each of `points` equal pieces of low ... high: a search each, whatever lies between. */
static enum status tell_last_of_pieces(struct store *store, const struct metric_query *query,
                                       int64_t id, uint64_t low, uint64_t high, uint32_t points,
                                       store_metric_told *told, void *context, struct fault *fault)
{
    uint64_t span = high - low + 1;
    uint64_t pieces = points < span ? points : span;
    for (uint64_t i = 0; i < pieces; i++) {
        uint64_t from = low + (uint64_t)((unsigned __int128)span * i / pieces);
        uint64_t to = low + (uint64_t)((unsigned __int128)span * (i + 1) / pieces) - 1;
        sqlite3_stmt *row = NULL;
        enum status status = begin_query(store, SQL_METRIC_LAST_IN, &row, fault, count(query->run),
                                         integer(id), count(from), count(to), text(query->name));
        bool go_on = true;
        while (status == ST_OK && next_row(store, row, &status, fault)) {
            struct metric_row metric = read_metric(row);
            go_on = told(context, &metric);
        }
        if (status != ST_OK || !go_on) return status;
    }
    return ST_OK;
}

enum status store_metrics_thinned(struct store *store, const struct metric_query *query,
                                  uint32_t points, store_metric_told *told, void *context,
                                  struct fault *fault)
{
    int64_t id = 0;
    uint64_t low = 0, high = 0;
    bool any = false;
    enum status status = find_name(store, query->name, &id, &any, fault);
    if (status == ST_OK && any) status = metric_span(store, query, id, &low, &high, &any, fault);
    if (status == ST_OK && any)
        status = tell_last_of_pieces(store, query, id, low, high, points, told, context, fault);
    return asked("metrics", status, fault);
}
