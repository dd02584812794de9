#include "daemon/schema.h"

#include <stddef.h>

const char *const schema_vital_tables[] = {"runs",  "jobs",        "attempts", "ranks",   "orders",
                                           "draws", "checkpoints", "awaited",  "rewinds", NULL};

/*
 * Times are milliseconds since 1970, 0: not yet. States, causes, kinds and verdicts are the names that people
 * see. Reals may be NULL, which is how SQLite keeps a NaN. Metrics have no foreign key: they are the one
 * table whose speed counts, and come in the same transaction as a row that has one.
 */
static const char first[] =
    "CREATE TABLE runs ("
    "  number INTEGER PRIMARY KEY,"
    "  key TEXT UNIQUE," /* NULL: submitted without one */
    "  name TEXT NOT NULL,"
    "  ranks INTEGER NOT NULL,"
    "  steps INTEGER NOT NULL,"
    "  restart_max INTEGER NOT NULL,"
    "  redraw_every INTEGER NOT NULL,"
    "  checkpoint_every INTEGER NOT NULL,"
    "  features INTEGER NOT NULL,"
    "  state TEXT NOT NULL,"
    "  reason TEXT NOT NULL,"
    "  stop INTEGER NOT NULL,"
    "  step INTEGER NOT NULL,"
    "  crashes INTEGER NOT NULL,"
    "  submitted_ms INTEGER NOT NULL,"
    "  started_ms INTEGER NOT NULL,"
    "  ended_ms INTEGER NOT NULL"
    ") STRICT;"

    "CREATE TABLE jobs (" /* apart from runs, so that those stay short */
    "  run INTEGER PRIMARY KEY REFERENCES runs (number),"
    "  text TEXT NOT NULL,"
    "  resolved TEXT NOT NULL"
    ") STRICT;"

    "CREATE TABLE attempts ("
    "  run INTEGER NOT NULL REFERENCES runs (number),"
    "  number INTEGER NOT NULL,"
    "  nonce TEXT NOT NULL,"
    "  planned_ms INTEGER NOT NULL,"
    "  pid INTEGER NOT NULL DEFAULT 0,"
    "  pid_start_time INTEGER NOT NULL DEFAULT 0,"
    "  started INTEGER NOT NULL DEFAULT 0,"
    "  resumed_step INTEGER NOT NULL DEFAULT 0,"
    "  ended_ms INTEGER NOT NULL DEFAULT 0,"
    "  ended INTEGER NOT NULL DEFAULT 0,"
    "  cause TEXT NOT NULL DEFAULT '',"
    "  crash INTEGER NOT NULL DEFAULT 0,"
    "  text TEXT NOT NULL DEFAULT '',"
    "  first_rank INTEGER NOT NULL DEFAULT -1,"
    "  host TEXT NOT NULL DEFAULT '',"
    "  signal INTEGER NOT NULL DEFAULT 0,"
    "  exit_code INTEGER NOT NULL DEFAULT 0,"
    "  last_lines TEXT NOT NULL DEFAULT '',"
    "  PRIMARY KEY (run, number)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE ranks ("
    "  run INTEGER NOT NULL,"
    "  attempt INTEGER NOT NULL,"
    "  rank INTEGER NOT NULL,"
    "  sequence INTEGER NOT NULL DEFAULT 0,"
    "  started INTEGER NOT NULL DEFAULT 0,"
    "  host TEXT NOT NULL DEFAULT '',"
    "  backend TEXT NOT NULL DEFAULT '',"
    "  libraries TEXT NOT NULL DEFAULT '',"
    "  parameters INTEGER NOT NULL DEFAULT 0,"
    "  PRIMARY KEY (run, attempt, rank),"
    "  FOREIGN KEY (run, attempt) REFERENCES attempts (run, number)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE orders ("
    "  id INTEGER PRIMARY KEY,"
    "  run INTEGER NOT NULL REFERENCES runs (number),"
    "  kind TEXT NOT NULL,"
    "  state TEXT NOT NULL,"
    "  step INTEGER NOT NULL DEFAULT 0,"
    "  requested_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX orders_of_run ON orders (run);"

    "CREATE TABLE draws (" /* as first told */
    "  run INTEGER NOT NULL REFERENCES runs (number),"
    "  draw INTEGER NOT NULL,"
    "  step INTEGER NOT NULL,"
    "  order_id INTEGER NOT NULL," /* 0: planned */
    "  hash TEXT NOT NULL,"
    "  agreed INTEGER NOT NULL,"
    "  PRIMARY KEY (run, draw)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE draw_hashes (" /* as last told by each rank */
    "  run INTEGER NOT NULL,"
    "  draw INTEGER NOT NULL,"
    "  rank INTEGER NOT NULL,"
    "  hash TEXT NOT NULL,"
    "  PRIMARY KEY (run, draw, rank),"
    "  FOREIGN KEY (run, draw) REFERENCES draws (run, draw)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE checkpoints ("
    "  run INTEGER NOT NULL REFERENCES runs (number),"
    "  step INTEGER NOT NULL,"
    "  path TEXT NOT NULL,"
    "  verdict TEXT NOT NULL,"
    "  attempt INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL,"
    "  saved_ms INTEGER NOT NULL,"
    "  best INTEGER NOT NULL,"
    "  valid_loss REAL,"
    "  seconds REAL,"
    "  PRIMARY KEY (run, step)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE events ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  run INTEGER NOT NULL REFERENCES runs (number),"
    "  time_ms INTEGER NOT NULL,"
    "  attempt INTEGER NOT NULL,"
    "  step INTEGER NOT NULL,"
    "  kind TEXT NOT NULL,"
    "  text TEXT NOT NULL"
    ") STRICT;"
    "CREATE INDEX events_of_run ON events (run, id);"

    "CREATE TABLE metric_names ("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL UNIQUE"
    ") STRICT;"

    "CREATE TABLE metrics (" /* a later attempt's row of a step replaces that of an earlier one */
    "  run INTEGER NOT NULL,"
    "  name INTEGER NOT NULL,"
    "  step INTEGER NOT NULL,"
    "  attempt INTEGER NOT NULL,"
    "  value REAL,"
    "  time_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (run, name, step)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX metrics_by_step ON metrics (run, step, name);";

/* What older runs were asked for stands in their job files. They knew no redraws by the error. */
static const char second[] =
    "ALTER TABLE runs ADD COLUMN redraw_threshold REAL NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN validates INTEGER NOT NULL DEFAULT 0;"
    "UPDATE runs SET validates = 1 WHERE EXISTS (SELECT 1 FROM jobs WHERE run = number AND"
    "  (resolved GLOB '*' || char(10) || 'valid = \"[^\"]*'"
    "   OR resolved NOT GLOB '*' || char(10) || 'valid_fraction = 0.0 *'));"
    "ALTER TABLE draws ADD COLUMN why TEXT NOT NULL DEFAULT '';"
    "UPDATE draws SET why = iif(order_id = 0, 'planned', 'order ' || order_id);";

static const char third[] = "ALTER TABLE draws ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0;";

static const char fourth[] =
    "ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE awaited (" /* runs that must have succeeded before a run begins */
    "  run INTEGER NOT NULL REFERENCES runs (number),"
    "  after INTEGER NOT NULL REFERENCES runs (number),"
    "  PRIMARY KEY (run, after)"
    ") STRICT, WITHOUT ROWID;";

/* How much of each budget is spent follows from the attempts' causes. */
static const char fifth[] =
    "ALTER TABLE runs DROP COLUMN crashes;"
    "ALTER TABLE runs ADD COLUMN fruitless INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN stillborn INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN stillborn_step INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE attempts RENAME COLUMN crash TO counted;"
    "ALTER TABLE attempts ADD COLUMN progressed INTEGER NOT NULL DEFAULT 0;";

static const char sixth[] = "ALTER TABLE attempts ADD COLUMN token TEXT NOT NULL DEFAULT '';";

static const char seventh[] =
    "ALTER TABLE runs ADD COLUMN requeue_key TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE runs ADD COLUMN requeued_attempt INTEGER NOT NULL DEFAULT 0;";

static const char eighth[] =
    "ALTER TABLE runs ADD COLUMN stall_ms INTEGER NOT NULL DEFAULT 30000;"
    "ALTER TABLE attempts ADD COLUMN stalled_rank INTEGER NOT NULL DEFAULT -1;"
    "ALTER TABLE attempts ADD COLUMN stalled_text TEXT NOT NULL DEFAULT '';";

/* Runs of before are commanded by admins. */
static const char ninth[] = "ALTER TABLE runs ADD COLUMN user TEXT NOT NULL DEFAULT '';";

static const char tenth[] =
    "ALTER TABLE runs ADD COLUMN forked_from INTEGER NOT NULL DEFAULT 0;" /* 0: it began anew */
    "ALTER TABLE runs ADD COLUMN forked_step INTEGER NOT NULL DEFAULT 0;";

static const char eleventh[] =
    "ALTER TABLE runs ADD COLUMN launcher TEXT NOT NULL DEFAULT 'local';";

static const char twelfth[] =
    "ALTER TABLE attempts ADD COLUMN rendezvous TEXT NOT NULL DEFAULT '';";

static const char thirteenth[] = "ALTER TABLE runs ADD COLUMN goes_back INTEGER NOT NULL DEFAULT 0;"
                                 "CREATE TABLE rewinds (" /* those that hold */
                                 "  run INTEGER NOT NULL REFERENCES runs (number),"
                                 "  number INTEGER NOT NULL,"
                                 "  step INTEGER NOT NULL,"
                                 "  draw INTEGER NOT NULL,"
                                 "  PRIMARY KEY (run, number)"
                                 ") STRICT, WITHOUT ROWID;";

static const char fourteenth[] =
    "ALTER TABLE runs ADD COLUMN grace_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN drill_attempt INTEGER NOT NULL DEFAULT 0;" /* 0: there was none */
    "ALTER TABLE runs ADD COLUMN drill_step INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN drill_save_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE runs ADD COLUMN drill_exit_ms INTEGER NOT NULL DEFAULT 0;";

const char *const schema_migrations[] = {first,    second,  third,      fourth,     fifth,
                                         sixth,    seventh, eighth,     ninth,      tenth,
                                         eleventh, twelfth, thirteenth, fourteenth, NULL};
