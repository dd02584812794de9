#include "daemon/store.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/daemon/stage.h"

static char directory[64], path[96];

static void make_directory(void)
{
    strcpy(directory, "/tmp/store-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/performerd.db", directory);
}

static void remove_directory(void)
{
    char other[128];
    static const char *const tails[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        snprintf(other, sizeof other, "%s%s", path, tails[i]);
        unlink(other);
    }
    cr_expect_eq(rmdir(directory), 0);
}

static void begin(struct stage *stage, const char *where)
{
    stage_init(stage, 4, where);
    stage_act(stage, "submit");
    stage_act(stage, "tick");
    stage_act(stage, "launched");
}

enum { ROWS_A_STEP = 7 };

static const char *const row_names[ROWS_A_STEP] = {
    "grad_norm", "kernel_error.0", "kernel_error.1", "loss", "lr", "step_ms", "tokens_per_second"};

/* One report with all metrics of `steps` steps. */
static const struct answer *report_steps(struct stage *stage, uint64_t first, uint64_t steps,
                                         double value)
{
    size_t count = steps * ROWS_A_STEP;
    Performer__MetricRow *rows = calloc(count, sizeof *rows);
    Performer__MetricRow **places = calloc(count, sizeof *places);
    for (size_t i = 0; i < count; i++) {
        rows[i] = (Performer__MetricRow)PERFORMER__METRIC_ROW__INIT;
        rows[i].step = first + i / ROWS_A_STEP;
        rows[i].name = (char *)row_names[(i + 3) % ROWS_A_STEP]; /* not in order of name */
        rows[i].value = value;
        rows[i].time_ms = 1000 + rows[i].step;
        places[i] = &rows[i];
    }
    Performer__Report report = stage_next_report(stage, 0);
    report.metrics = places;
    report.n_metrics = count;
    const struct answer *answer = stage_report(stage, &report);
    free(places);
    free(rows);
    return answer;
}

/* ---- metrics ---- */

struct told {
    size_t count;
    size_t stop_at; /* 0: never */
    struct metric_row rows[400];
    char names[400][METRIC_NAME_MAX + 1];
};

static bool tell_metric(void *context, const struct metric_row *row)
{
    struct told *told = context;
    if (told->stop_at > 0 && told->count == told->stop_at) return false;
    cr_assert_lt(told->count, 400);
    told->rows[told->count] = *row;
    strcpy(told->names[told->count], row->name);
    told->count++;
    return true;
}

static uint64_t ask(struct stage *stage, struct metric_query query, struct told *told)
{
    uint64_t next = 99;
    struct fault fault;
    query.run = 1;
    cr_assert_eq(store_metrics(stage->store, &query, tell_metric, told, &next, &fault), ST_OK, "%s",
                 fault.text);
    return next;
}

static void expect_order(const struct told *told, size_t count)
{
    cr_assert_eq(told->count, count);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(told->rows[i].step, 1 + i / ROWS_A_STEP, "row %zu", i);
        cr_assert_str_eq(told->names[i], row_names[i % ROWS_A_STEP], "row %zu", i);
    }
}

Test(metrics, come_in_pages_by_step_then_name)
{
    struct stage stage;
    begin(&stage, ":memory:");
    report_steps(&stage, 1, 20, 0.5);
    for (uint32_t limit = 1; limit <= 150; limit += limit < 9 ? 1 : 35) {
        struct told told = {0};
        struct metric_query query = {.limit = limit};
        uint32_t pages = 0;
        do query.cursor = ask(&stage, query, &told), pages++;
        while (query.cursor != 0);
        expect_order(&told, 20 * ROWS_A_STEP);
        cr_assert_eq(pages, (20 * ROWS_A_STEP + limit - 1) / limit);
    }
    stage_fini(&stage);
}

Test(metrics, a_row_that_was_refused_comes_again)
{
    struct stage stage;
    begin(&stage, ":memory:");
    report_steps(&stage, 1, 20, 0.5);
    struct told told = {0};
    struct metric_query query = {.limit = 1000};
    do {
        told.stop_at = told.count + 11;
        query.cursor = ask(&stage, query, &told);
    } while (query.cursor != 0);
    expect_order(&told, 20 * ROWS_A_STEP);
    stage_fini(&stage);
}

Test(metrics, by_name_and_range)
{
    struct stage stage;
    begin(&stage, ":memory:");
    report_steps(&stage, 1, 20, 0.5);
    struct told told = {0};
    struct metric_query query = {.limit = 5, .name = "loss", .from_step = 4, .before_step = 13};
    do query.cursor = ask(&stage, query, &told);
    while (query.cursor != 0);
    cr_assert_eq(told.count, 9);
    for (size_t i = 0; i < told.count; i++) cr_assert_eq(told.rows[i].step, 4 + i);
    told.count = 0;
    cr_assert_eq(ask(&stage, (struct metric_query){.limit = 5, .name = "no such"}, &told), 0);
    cr_assert_eq(told.count, 0);
    told.count = 0;
    cr_assert_eq(ask(&stage, (struct metric_query){.limit = 50, .from_step = 20}, &told), 0);
    cr_assert_eq(told.count, ROWS_A_STEP);
    report_steps(&stage, 0, 1, 0.5); /* of weights that came from elsewhere */
    told.count = 0;
    cr_assert_eq(ask(&stage, (struct metric_query){.limit = 50, .before_step = 1}, &told), 0);
    cr_assert_eq(told.count, ROWS_A_STEP);
    cr_assert_eq(told.rows[0].step, 0);
    stage_fini(&stage);
}

Test(metrics, a_later_attempt_replaces_and_nan_stays_nan)
{
    struct stage stage;
    begin(&stage, ":memory:");
    report_steps(&stage, 1, 5, 0.5);
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    report_steps(&stage, 4, 1, NAN);
    report_steps(&stage, 5, 1, 7.0);
    report_steps(&stage, 5, 1, INFINITY); /* the last word of an attempt counts too */
    struct told told = {0};
    ask(&stage, (struct metric_query){.limit = 100, .name = "loss"}, &told);
    cr_assert_eq(told.count, 5);
    cr_assert_eq(told.rows[2].value, 0.5);
    cr_assert_eq(told.rows[2].attempt, 1);
    cr_assert(isnan(told.rows[3].value));
    cr_assert_eq(told.rows[3].attempt, 2);
    cr_assert(isinf(told.rows[4].value));
    cr_assert_eq(told.rows[4].time_ms, 1005);
    stage_fini(&stage);
}

Test(metrics, thinned_evenly_with_the_newest)
{
    struct stage stage;
    begin(&stage, ":memory:");
    report_steps(&stage, 11, 100, 0.5);
    static const struct {
        uint32_t points;
        size_t rows;
    } cases[] = {{1, 1}, {7, 7}, {100, 100}, {300, 100}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct told told = {0};
        struct metric_query query = {.run = 1, .name = "loss"};
        struct fault fault;
        cr_assert_eq(
            store_metrics_thinned(stage.store, &query, cases[c].points, tell_metric, &told, &fault),
            ST_OK);
        cr_assert_eq(told.count, cases[c].rows);
        cr_assert_eq(told.rows[told.count - 1].step, 110);
        for (size_t i = 1; i < told.count; i++) {
            uint64_t gap = told.rows[i].step - told.rows[i - 1].step;
            cr_assert(gap == 100 / told.count || gap == 100 / told.count + 1, "gap %" PRIu64, gap);
        }
    }
    struct told told = {0};
    struct metric_query query = {.run = 2, .name = "loss"};
    cr_assert_eq(store_metrics_thinned(stage.store, &query, 5, tell_metric, &told, NULL), ST_OK);
    cr_assert_eq(told.count, 0);
    stage_fini(&stage);
}

Test(metrics, latest_of_each_name)
{
    struct stage stage;
    begin(&stage, ":memory:");
    report_steps(&stage, 1, 9, 0.5);
    Performer__MetricRow row = PERFORMER__METRIC_ROW__INIT, *rows[] = {&row};
    row.name = (char *)"valid_loss";
    row.step = 6;
    row.value = 2.5;
    Performer__Report report = stage_next_report(&stage, 0);
    report.metrics = rows;
    report.n_metrics = 1;
    stage_report(&stage, &report);
    for (int restarted = 0; restarted < 2; restarted++) {
        const struct run *run = stage_run(&stage);
        cr_assert_eq(run->latest_count, ROWS_A_STEP + 1);
        for (size_t i = 0; i < ROWS_A_STEP; i++) cr_assert_eq(run->latest[i].step, 9);
        cr_assert_str_eq(run->latest[ROWS_A_STEP].name, "valid_loss");
        cr_assert_eq(run->latest[ROWS_A_STEP].step, 6);
        cr_assert_eq(run->latest[ROWS_A_STEP].value, 2.5);
        stage_restart(&stage);
    }
    stage_fini(&stage);
}

/* ---- the other questions ---- */

static bool tell_attempt(void *context, const struct attempt_row *row)
{
    int *count = context;
    ++*count;
    cr_assert_eq(row->number, (uint32_t)*count);
    if (row->number > 1) {
        cr_assert_eq(row->cause, CAUSE_NONE);
        cr_assert_eq(row->ended_ms, 0);
        return true;
    }
    cr_assert_eq(row->cause, CAUSE_CRASH);
    cr_assert_eq(row->first_rank, 1);
    cr_assert_eq(row->signal, 9);
    cr_assert_eq(row->exit_code, 137);
    cr_assert_str_eq(row->host, "node1");
    cr_assert_str_eq(row->last_lines, "last\nlines?\n", "lines stay, what is no text goes");
    cr_assert_gt(row->ended_ms, 0);
    return true;
}

Test(questions, attempts_and_job)
{
    struct stage stage;
    begin(&stage, ":memory:");
    stage_act(&stage, "end CRASH");
    stage_act(&stage, "wait 1000");
    int count = 0;
    cr_assert_eq(store_attempts(stage.store, 1, tell_attempt, &count, NULL), ST_OK);
    cr_assert_eq(count, 2);
    char *text, *resolved;
    cr_assert_eq(store_job(stage.store, 1, &text, &resolved, NULL), ST_OK);
    cr_assert_str_eq(text, "[job]\n");
    cr_assert_str_eq(resolved, "[job]\nname = \"job\"\n");
    free(text);
    free(resolved);
    struct fault fault;
    cr_assert_eq(store_job(stage.store, 2, &text, &resolved, &fault), ST_NOT_FOUND);
    stage_fini(&stage);
}

struct history {
    uint64_t newest, time_ms;
    int count;
    char kinds[1000];
};

static bool tell_event(void *context, const struct event_row *row)
{
    struct history *history = context;
    cr_assert_gt(row->id, history->newest);
    history->newest = row->id;
    history->time_ms = row->time_ms;
    history->count++;
    strcat(strcat(history->kinds, row->kind), " ");
    return true;
}

Test(questions, the_history_in_order_and_on_from_an_event)
{
    struct stage stage;
    begin(&stage, ":memory:");
    stage_act(&stage, "report");
    stage_act(&stage, "redraw");
    stage_act(&stage, "end FINISHED");
    struct history history = {0};
    cr_assert_eq(store_events(stage.store, 1, 0, 3, tell_event, &history, NULL), ST_OK);
    cr_assert_eq(history.count, 3);
    cr_assert_eq(store_events(stage.store, 1, history.newest, 100, tell_event, &history, NULL),
                 ST_OK);
    cr_assert_str_eq(history.kinds, "run-submitted run-starting run-running order-requested "
                                    "attempt-ended run-succeeded order-dropped ");
    stage_fini(&stage);
}

static const struct answer *tell_notice(struct stage *stage, uint32_t rank, uint64_t step,
                                        Performer__Notice__WhatCase what, void *body)
{
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    notice.step = step;
    notice.what_case = what;
    notice.started = body; /* a union of pointers */
    Performer__Report report = stage_next_report(stage, rank);
    report.notices = notices;
    report.n_notices = 1;
    return stage_report(stage, &report);
}

Test(questions, what_waited_for_the_daemon_keeps_its_time)
{
    struct stage stage;
    begin(&stage, ":memory:");
    stage_act(&stage, "report");
    static const int64_t ages_ms[] = {5000, 0, -5000}; /* of a clock that is ahead, too */
    for (size_t i = 0; i < sizeof ages_ms / sizeof ages_ms[0]; i++) {
        Performer__CheckpointFailed failed = PERFORMER__CHECKPOINT_FAILED__INIT;
        Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
        notice.time_ms = stage.wall_ms - (uint64_t)ages_ms[i];
        notice.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_FAILED;
        notice.checkpoint_failed = &failed;
        Performer__Report report = stage_next_report(&stage, 0);
        report.notices = notices;
        report.n_notices = 1;
        stage_report(&stage, &report);
        struct history history = {0};
        cr_assert_eq(store_events(stage.store, 1, 0, 100, tell_event, &history, NULL), ST_OK);
        cr_assert_eq(history.time_ms, stage.wall_ms - (i == 0 ? 5000 : 0));
    }
    stage_fini(&stage);
}

static bool tell_redraw(void *context, const struct redraw_row *row)
{
    int *count = context;
    cr_assert_eq(row->rank_count, 2);
    cr_assert_eq(row->step, 7 * row->draw);
    cr_assert_str_eq(row->hashes[0], "aaaa");
    cr_assert_str_eq(row->hashes[1], row->draw == 1 ? "aaaa" : row->draw == 2 ? "bbbb" : "");
    cr_assert_eq(row->agreed, row->draw != 2);
    cr_assert_str_eq(row->why, row->draw == 1   ? "planned"
                               : row->draw == 2 ? "adaptive: kernel_error.2 0.61 > 0.5"
                                                : "order 12");
    *count += (int)row->draw;
    return true;
}

Test(questions, redraws_with_the_hash_of_each_rank)
{
    struct stage stage;
    begin(&stage, ":memory:");
    Performer__Redrawn redrawn = PERFORMER__REDRAWN__INIT;
    for (redrawn.draw = 1; redrawn.draw <= 3; redrawn.draw++)
        for (uint32_t rank = 0; rank < 2; rank++) {
            redrawn.hash = (char *)(redrawn.draw == 2 && rank == 1 ? "bbbb" : "aaaa");
            redrawn.order = redrawn.draw == 3 ? 12 : 0;
            redrawn.why = (char *)(redrawn.draw == 2 ? "adaptive: kernel_error.2 0.61 > 0.5" : "");
            if (redrawn.draw < 3 || rank == 0)
                tell_notice(&stage, rank, 7 * redrawn.draw, PERFORMER__NOTICE__WHAT_REDRAWN,
                            &redrawn);
        }
    int sum = 0;
    cr_assert_eq(store_redraws(stage.store, 1, 10, tell_redraw, &sum, NULL), ST_OK);
    cr_assert_eq(sum, 6);
    sum = 0;
    cr_assert_eq(store_redraws(stage.store, 1, 2, tell_redraw, &sum, NULL), ST_OK);
    cr_assert_eq(sum, 5, "the newest two");
    stage_fini(&stage);
}

static bool tell_checkpoint(void *context, const struct checkpoint_row *row)
{
    char *words = context;
    sprintf(words + strlen(words), "%u:%s%s ", (unsigned)row->step, verdict_name(row->verdict),
            row->best ? "*" : "");
    cr_assert_eq(row->bytes, 1000);
    cr_assert_eq(isnan(row->valid_loss), row->step == 10);
    return true;
}

Test(questions, checkpoints_with_verdict_and_the_one_best)
{
    struct stage stage;
    begin(&stage, ":memory:");
    for (uint64_t step = 10; step <= 40; step += 10) {
        char where[32];
        snprintf(where, sizeof where, "/runs/step-%u", (unsigned)step);
        Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
        saved.path = where;
        saved.bytes = 1000;
        saved.best = step == 20 || step == 30;
        saved.valid_loss = step == 10 ? NAN : 2.0;
        tell_notice(&stage, 0, step, PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED, &saved);
    }
    Performer__CheckpointRemoved removed = PERFORMER__CHECKPOINT_REMOVED__INIT;
    removed.path = (char *)"/runs/step-10";
    tell_notice(&stage, 0, 10, PERFORMER__NOTICE__WHAT_CHECKPOINT_REMOVED, &removed);
    Performer__CheckpointRejected rejected = PERFORMER__CHECKPOINT_REJECTED__INIT;
    rejected.path = (char *)"/runs/step-40";
    tell_notice(&stage, 0, 0, PERFORMER__NOTICE__WHAT_CHECKPOINT_REJECTED, &rejected);
    cr_assert(stage_noted(&stage, NOTE_CHECKPOINT_REJECTED));
    char words[200] = "";
    cr_assert_eq(store_checkpoints(stage.store, 1, true, tell_checkpoint, words, NULL), ST_OK);
    cr_assert_str_eq(words, "10:pruned 20:good 30:good* 40:corrupt ");
    words[0] = '\0';
    cr_assert_eq(store_checkpoints(stage.store, 1, false, tell_checkpoint, words, NULL), ST_OK);
    cr_assert_str_eq(words, "20:good 30:good* 40:corrupt ");
    stage_fini(&stage);
}

/* ---- all or nothing ---- */

static int events_of(struct store *store)
{
    struct history history = {0};
    cr_assert_eq(store_events(store, 1, 0, 1000, tell_event, &history, NULL), ST_OK);
    return history.count;
}

Test(commit, is_all_or_nothing)
{
    struct stage stage;
    begin(&stage, ":memory:");
    int before = events_of(stage.store);
    struct record records[2] = {
        {.kind = RECORD_NOTED,
         .run = 1,
         .noted = {.note = NOTE_RUNNING, .text = "the first of two"}},
        {.kind = RECORD_ATTEMPT_PLANNED,
         .run = 1,
         .attempt = 1,
         .attempt_planned = {"nonce", "token"}},
    };
    struct fault fault;
    cr_assert_eq(store_commit(stage.store, "test", records, 2, &fault), ST_INTERNAL,
                 "attempt 1 is there already");
    cr_assert_not_null(strstr(fault.text, "record test: "));
    cr_assert_eq(events_of(stage.store), before);
    records[1].run = 5;
    cr_assert_eq(store_commit(stage.store, "test", records, 2, &fault), ST_INTERNAL,
                 "there is no run 5");
    cr_assert_eq(events_of(stage.store), before);
    cr_assert_eq(store_commit(stage.store, "test", records, 1, &fault), ST_OK);
    cr_assert_eq(events_of(stage.store), before + 1);
    stage_fini(&stage);
}

Test(commit, a_metric_name_that_was_rolled_back_is_made_again)
{
    struct stage stage;
    begin(&stage, ":memory:");
    Performer__MetricRow row = PERFORMER__METRIC_ROW__INIT, *rows[] = {&row};
    row.name = (char *)"loss";
    row.step = 1;
    struct record records[2] = {
        {.kind = RECORD_REPORT_TAKEN,
         .run = 1,
         .attempt = 1,
         .report_taken = {.sequence = 1, .metric_count = 1, .metrics = rows}},
        {.kind = RECORD_ATTEMPT_PLANNED,
         .run = 1,
         .attempt = 1,
         .attempt_planned = {"nonce", "token"}},
    };
    cr_assert_eq(store_commit(stage.store, "test", records, 2, NULL), ST_INTERNAL);
    cr_assert_eq(store_commit(stage.store, "test", records, 1, NULL), ST_OK);
    struct told told = {0};
    uint64_t next;
    const struct metric_query query = {.run = 1, .limit = 10};
    cr_assert_eq(store_metrics(stage.store, &query, tell_metric, &told, &next, NULL), ST_OK);
    cr_assert_eq(told.count, 1);
    stage_fini(&stage);
}

Test(commit, of_what_is_live_writes_nothing)
{
    struct stage stage;
    begin(&stage, ":memory:");
    struct record heard = {.kind = RECORD_RANK_HEARD, .run = 77};
    cr_assert_eq(store_commit(stage.store, "test", &heard, 1, NULL), ST_OK);
    stage_fini(&stage);
}

/* ---- another connection ---- */

Test(reader, sees_what_is_committed_and_commits_nothing, .init = make_directory,
     .fini = remove_directory)
{
    struct stage stage;
    struct store *reader;
    struct fault fault;
    uint64_t next;
    const struct metric_query query = {.run = 1, .limit = 100};
    begin(&stage, path);
    cr_assert_eq(store_open_reader(path, &reader, &fault), ST_OK, "%s", fault.text);
    for (uint64_t step = 1; step <= 3; step++) {
        struct told told = {0};
        report_steps(&stage, step, 1, 0.5);
        cr_assert_eq(store_metrics(reader, &query, tell_metric, &told, &next, &fault), ST_OK);
        cr_expect_eq(told.count, step * ROWS_A_STEP);
    }
    const struct record record = {.kind = RECORD_STOP_REQUESTED, .run = 1};
    cr_expect_eq(store_commit(reader, "test", &record, 1, &fault), ST_NOT_PERMITTED, "%s",
                 fault.text);
    store_close(reader);
    stage_fini(&stage);
    cr_expect_neq(store_open_reader("/nowhere/performerd.db", &reader, &fault), ST_OK);
}

/* ---- a disk that is full, or fails ---- */

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(disk, full_costs_nothing_and_goes_away, .init = make_directory, .fini = remove_directory)
{
    struct stage stage;
    begin(&stage, path);
    signal(SIGXFSZ, SIG_IGN);
    struct stat now;
    char log[128];
    snprintf(log, sizeof log, "%s-wal", path);
    cr_assert_eq(stat(log, &now), 0);
    limit_file_size((rlim_t)now.st_size + 64 * 1024);

    struct record noted = {.kind = RECORD_NOTED, .run = 1, .noted = {.text = "one line more"}};
    struct fault fault;
    int done = events_of(stage.store);
    enum status status = ST_OK;
    for (int i = 0; i < 1000 && status == ST_OK; i++) {
        status = store_commit(stage.store, "test", &noted, 1, &fault);
        if (status == ST_OK) done++;
    }
    cr_assert_eq(status, ST_NO_SPACE, "%s", fault.text);
    cr_assert_not_null(strstr(fault.text, "record test"), "%s", fault.text);
    cr_assert_eq(store_commit(stage.store, "test", &noted, 1, &fault), ST_NO_SPACE);
    cr_assert_eq(events_of(stage.store), done, "what was committed is there, and no more");

    limit_file_size(RLIM_INFINITY);
    cr_assert_eq(store_commit(stage.store, "test", &noted, 1, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(events_of(stage.store), done + 1);
    stage_fini(&stage);
}

/* A file system on which the log's sync fails when told to: SQLite's own, but for that. */
static bool sync_fails;
static sqlite3_io_methods failing_methods;
static int (*real_sync)(sqlite3_file *file, int flags);
static sqlite3_vfs failing_vfs;
static sqlite3_vfs *real_vfs;

static int failing_sync(sqlite3_file *file, int flags)
{
    return sync_fails ? SQLITE_IOERR_FSYNC : real_sync(file, flags);
}

static int failing_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                        int *out_flags)
{
    (void)vfs;
    int code = real_vfs->xOpen(real_vfs, name, file, flags, out_flags);
    if (code != SQLITE_OK || (flags & SQLITE_OPEN_WAL) == 0) return code;
    failing_methods = *file->pMethods;
    real_sync = file->pMethods->xSync;
    failing_methods.xSync = failing_sync;
    file->pMethods = &failing_methods;
    return code;
}

static void install_failing(void)
{
    real_vfs = sqlite3_vfs_find(NULL);
    failing_vfs = *real_vfs;
    failing_vfs.zName = "failing";
    failing_vfs.xOpen = failing_open;
    sqlite3_vfs_register(&failing_vfs, 1);
}

Test(disk, a_failed_sync_ends_all_writing, .init = make_directory, .fini = remove_directory)
{
    install_failing();
    struct stage stage;
    begin(&stage, path);
    struct record noted = {.kind = RECORD_NOTED, .run = 1, .noted = {.text = "one line more"}};
    struct fault fault;
    int before = events_of(stage.store);
    sync_fails = true;
    cr_assert_eq(store_commit(stage.store, "test", &noted, 1, &fault), ST_IO);
    sync_fails = false;
    cr_assert_eq(store_commit(stage.store, "test", &noted, 1, &fault), ST_IO, "nobody knows");
    cr_assert_eq(store_writable(stage.store, &fault), ST_IO);
    cr_assert_not_null(strstr(fault.text, "start performerd anew"));
    cr_assert_eq(events_of(stage.store), before, "reading goes on");
    stage_fini(&stage);
    sqlite3_vfs_unregister(&failing_vfs);
}

/* A process may die between writing a commit to the log and syncing it. */
Test(disk, a_log_that_was_left_is_synced_before_it_counts, .init = make_directory,
     .fini = remove_directory)
{
    pid_t child = fork();
    if (child == 0) {
        struct stage stage;
        begin(&stage, path);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    install_failing();
    sync_fails = true;
    struct store *store = NULL;
    struct fault fault;
    cr_assert_eq(store_open(path, &store, &fault), ST_IO);
    sync_fails = false;
    cr_assert_eq(store_open(path, &store, &fault), ST_OK, "%s", fault.text);
    cr_assert_gt(events_of(store), 0);
    store_close(store);
    sqlite3_vfs_unregister(&failing_vfs);
}

/* ---- databases that are not ours, or no more ---- */

static enum status open_again(struct fault *fault)
{
    struct store *store = NULL;
    enum status status = store_open(path, &store, fault);
    if (status != ST_OK) {
        cr_assert_null(store);
        cr_assert_not_null(strstr(fault->text, path), "%s", fault->text);
        return status;
    }
    struct coordinator coordinator;
    coordinator_init(&coordinator, 4);
    status = store_load(store, &coordinator, 0, fault);
    if (status != ST_OK) cr_assert_eq(coordinator.run_count, 0);
    coordinator_fini(&coordinator);
    store_close(store);
    return status;
}

static void run_sql(const char *sql)
{
    sqlite3 *db;
    cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK, "%s: %s", sql,
                 sqlite3_errmsg(db));
    sqlite3_close(db);
}

static void make_database(void)
{
    make_directory();
    struct stage stage;
    begin(&stage, path);
    for (int i = 0; i < 40; i++) stage_act(&stage, "redraw");
    for (int i = 0; i < 300; i++) stage_submit(&stage, 1, 1, NULL);
    stage_fini(&stage);
}

Test(foreign, a_newer_schema_is_refused, .init = make_database, .fini = remove_directory)
{
    struct fault fault;
    cr_assert_eq(open_again(&fault), ST_OK);
    run_sql("PRAGMA user_version = 1000");
    cr_assert_eq(open_again(&fault), ST_UNSUPPORTED);
    cr_assert_not_null(strstr(fault.text, "newer performerd"), "%s", fault.text);
}

static bool note_why(void *context, const struct redraw_row *row)
{
    char *words = context;
    sprintf(words + strlen(words), "%s; ", row->why);
    return true;
}

static char *resolved_job(const char *data)
{
    struct diagnostics diagnostics = {0};
    struct jobspec spec;
    char text[300], *resolved;
    snprintf(text, sizeof text,
             "[job]\nname = \"old\"\n[data]\nformat = \"text\"\ntrain = \"t\"\nlength = 8\n%s"
             "[model]\nlayers = 1\nheads = 1\nwidth = 8\nmlp = 8\n",
             data);
    cr_assert_eq(jobspec_parse(text, strlen(text), "/job.toml", NULL, 0, &diagnostics, &spec),
                 ST_OK);
    cr_assert_eq(jobspec_print(&spec, &resolved), ST_OK);
    jobspec_free(&spec);
    diagnostics_free(&diagnostics);
    return resolved;
}

/* As schema 1 left it: what came later is taken away again. */
Test(foreign, an_older_schema_is_brought_up_to_date, .init = make_database,
     .fini = remove_directory)
{
    run_sql("ALTER TABLE runs DROP COLUMN redraw_threshold; ALTER TABLE runs DROP COLUMN validates;"
            "ALTER TABLE runs DROP COLUMN launcher;"
            "ALTER TABLE draws DROP COLUMN why; ALTER TABLE draws DROP COLUMN attempt;"
            "ALTER TABLE runs DROP COLUMN priority; DROP TABLE awaited;"
            "ALTER TABLE runs DROP COLUMN user; ALTER TABLE runs DROP COLUMN goes_back;"
            "ALTER TABLE runs DROP COLUMN grace_ms; ALTER TABLE runs DROP COLUMN drill_attempt;"
            "ALTER TABLE runs DROP COLUMN drill_step; ALTER TABLE runs DROP COLUMN drill_save_ms;"
            "ALTER TABLE runs DROP COLUMN drill_exit_ms;"
            "DROP TABLE rewinds;"
            "ALTER TABLE runs DROP COLUMN stall_ms;"
            "ALTER TABLE attempts DROP COLUMN stalled_rank;"
            "ALTER TABLE attempts DROP COLUMN stalled_text;"
            "ALTER TABLE attempts DROP COLUMN rendezvous;"
            "ALTER TABLE runs DROP COLUMN fruitless; ALTER TABLE runs DROP COLUMN stillborn;"
            "ALTER TABLE runs DROP COLUMN stillborn_step;"
            "ALTER TABLE runs ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;"
            "ALTER TABLE attempts DROP COLUMN progressed; ALTER TABLE attempts DROP COLUMN token;"
            "ALTER TABLE runs DROP COLUMN requeue_key;"
            "ALTER TABLE runs DROP COLUMN requeued_attempt;"
            "ALTER TABLE runs DROP COLUMN forked_from; ALTER TABLE runs DROP COLUMN forked_step;"
            "ALTER TABLE attempts RENAME COLUMN counted TO crash;"
            "UPDATE attempts SET ended = 1, crash = 1, cause = 'LOST' WHERE run = 1 AND number = 1;"
            "UPDATE runs SET state = 'RESTARTING' WHERE number = 1; PRAGMA user_version = 1;"
            "INSERT INTO draws VALUES (1, 1, 7, 0, 'aaaa', 1), (1, 2, 9, 31, 'bbbb', 1)");
    static const char *const data[] = {"", "valid = \"v\"\n", "valid_fraction = 0.05\n"};
    for (int i = 0; i < 3; i++) {
        char *resolved = resolved_job(data[i]);
        char *sql =
            sqlite3_mprintf("UPDATE jobs SET resolved = %Q WHERE run = %d", resolved, i + 1);
        run_sql(sql);
        sqlite3_free(sql);
        free(resolved);
    }
    struct stage stage;
    stage_init(&stage, 4, path);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(stage.coordinator.runs[i]->facts.validates, i > 0, "%s", data[i]);
    cr_assert_eq(stage.coordinator.runs[0]->facts.redraw_threshold, 0);
    cr_assert_eq(stage.coordinator.runs[0]->spent[BUDGET_CRASH], 1);
    char words[100] = "";
    cr_assert_eq(store_redraws(stage.store, 1, 10, note_why, words, NULL), ST_OK);
    cr_assert_str_eq(words, "planned; order 31; ");
    stage_fini(&stage);
}

Test(foreign, another_program_s_database_is_refused, .init = make_directory,
     .fini = remove_directory)
{
    run_sql("CREATE TABLE songs (title TEXT)");
    struct fault fault;
    cr_assert_eq(open_again(&fault), ST_UNSUPPORTED);
    cr_assert_not_null(strstr(fault.text, "another program"), "%s", fault.text);
}

Test(foreign, no_directory_no_database)
{
    strcpy(path, "/tmp/there is no such directory/performerd.db");
    struct fault fault;
    cr_assert_eq(open_again(&fault), ST_IO);
}

static void overwrite(off_t offset, const void *bytes, size_t length)
{
    int fd = open(path, O_WRONLY);
    cr_assert_eq(pwrite(fd, bytes, length, offset), (ssize_t)length);
    close(fd);
}

Test(corrupt, a_file_that_is_no_database, .init = make_database, .fini = remove_directory)
{
    char junk[4096];
    memset(junk, 0xA5, sizeof junk);
    overwrite(0, junk, sizeof junk);
    struct fault fault;
    cr_assert_eq(open_again(&fault), ST_CORRUPT, "%s", fault.text);
}

/* Job files are not read at the start, and are looked at all the same. */
Test(corrupt, a_page_of_job_files, .init = make_database, .fini = remove_directory)
{
    char page[4096], junk[4096];
    memset(junk, 0xA5, sizeof junk);
    static const char mark[] = "[job]\nname = \"job\"";
    int fd = open(path, O_RDONLY), hit = 0;
    for (off_t offset = 4096; pread(fd, page, sizeof page, offset) == 4096; offset += 4096) {
        if (!memmem(page, sizeof page, mark, strlen(mark))) continue;
        hit++;
        overwrite(offset, junk, sizeof junk);
        struct fault fault;
        cr_assert_eq(open_again(&fault), ST_CORRUPT);
        cr_assert_not_null(strstr(fault.text, "table jobs"), "%s", fault.text);
        overwrite(offset, page, sizeof page);
    }
    close(fd);
    cr_assert_gt(hit, 1);
}

/* Whatever page is hit: the tables that decisions stand on are refused at the start, and nothing crashes. */
Test(corrupt, any_page, .init = make_database, .fini = remove_directory, .timeout = 250)
{
    struct stat whole;
    cr_assert_eq(stat(path, &whole), 0);
    cr_assert_gt(whole.st_size, 20 * 4096);
    char page[4096], junk[4096];
    memset(junk, 0xA5, sizeof junk);
    int fd = open(path, O_RDONLY), refused = 0, pages = (int)(whole.st_size / 4096);
    for (int i = 0; i < pages; i++) {
        cr_assert_eq(pread(fd, page, sizeof page, (off_t)i * 4096), 4096);
        overwrite((off_t)i * 4096, junk, sizeof junk);
        struct fault fault;
        enum status status = open_again(&fault);
        cr_assert(status == ST_OK || status == ST_CORRUPT, "page %d: %s", i, fault.text);
        refused += status == ST_CORRUPT;
        overwrite((off_t)i * 4096, page, sizeof page);
        cr_assert_eq(open_again(&fault), ST_OK, "page %d put back: %s", i, fault.text);
    }
    close(fd);
    cr_assert_gt(refused, pages / 3, "%d of %d", refused, pages);
}

Test(corrupt, rows_that_no_daemon_left_so, .init = make_database, .fini = remove_directory)
{
    static const char *const harms[] = {
        "UPDATE runs SET state = 'DANCING' WHERE number = 1",
        "UPDATE runs SET state = 'QUEUED' WHERE number = 1",
        "UPDATE runs SET state = 'SUCCEEDED', ended_ms = 5 WHERE number = 1",
        "UPDATE runs SET stop = 9 WHERE number = 1",
        "UPDATE runs SET fruitless = 99 WHERE number = 1",
        "UPDATE attempts SET counted = 1, cause = 'FINISHED' WHERE run = 1",
        "DELETE FROM jobs WHERE run = 2; DELETE FROM events WHERE run = 2;"
        "DELETE FROM runs WHERE number = 2",
        "UPDATE orders SET kind = 'waltz' WHERE id = 1",
        "UPDATE orders SET state = 'waltz' WHERE id = 1",
        "UPDATE attempts SET cause = 'waltz'",
        "INSERT INTO ranks (run, attempt, rank) VALUES (1, 1, 2)",
    };
    char copy[128];
    snprintf(copy, sizeof copy, "VACUUM INTO '%s/copy.db'", directory);
    run_sql(copy);
    snprintf(copy, sizeof copy, "%s/copy.db", directory);
    for (size_t i = 0; i < sizeof harms / sizeof harms[0]; i++) {
        run_sql(harms[i]);
        struct fault fault;
        cr_assert_eq(open_again(&fault), ST_CORRUPT, "%s", harms[i]);
        cr_assert_not_null(strstr(fault.text, "read the database: r"), "%s", fault.text);
        char command[512];
        snprintf(command, sizeof command, "cp %s %s && rm -f %s-wal %s-shm", copy, path, path,
                 path);
        cr_assert_eq(system(command), 0);
        cr_assert_eq(open_again(&fault), ST_OK, "%s", fault.text);
    }
    unlink(copy);
}

/* ---- kill -9 ---- */

/* Commits a report a step and says so, until it is killed. */
static void commit_for_ever(uint64_t first, int says)
{
    struct stage stage;
    stage_init(&stage, 4, path);
    stage.sequence[0] = stage_run(&stage)->attempt.ranks[0].sequence;
    for (uint64_t step = first;; step++) {
        if (report_steps(&stage, step, 1, (double)step)->status != ST_OK) _exit(1);
        if (write(says, &step, sizeof step) != sizeof step) _exit(2);
    }
}

/* Rows of all steps, each step's all there: returns the newest step. */
static uint64_t check_steps(uint64_t acknowledged)
{
    struct stage stage;
    stage_init(&stage, 4, path);
    uint64_t newest = stage_run(&stage)->step;
    cr_assert(newest == acknowledged || newest == acknowledged + 1,
              "%" PRIu64 " was acknowledged, %" PRIu64 " is there", acknowledged, newest);
    cr_assert_eq(stage_run(&stage)->attempt.ranks[0].sequence, newest);
    struct told told = {0};
    uint64_t from = newest > 50 ? newest - 50 : 1;
    ask(&stage, (struct metric_query){.limit = 390, .from_step = from}, &told);
    cr_assert_eq(told.count, (newest - from + 1) * ROWS_A_STEP);
    for (size_t i = 0; i < told.count; i++)
        cr_assert_eq(told.rows[i].value, (double)told.rows[i].step);
    stage_fini(&stage);
    return newest;
}

Test(killed, in_the_middle_of_commits, .init = make_database, .fini = remove_directory,
     .timeout = 250)
{
    uint64_t newest = 0;
    int in_flight = 0;
    srand(7);
    for (int round = 0; round < 40; round++) {
        int pipe_ends[2];
        cr_assert_eq(pipe(pipe_ends), 0);
        pid_t child = fork();
        if (child == 0) commit_for_ever(newest + 1, pipe_ends[1]);
        close(pipe_ends[1]);
        uint64_t acknowledged = newest, step;
        for (int i = rand() % 30; i >= 0; i--) {
            cr_assert_eq(read(pipe_ends[0], &step, sizeof step), (ssize_t)sizeof step);
            acknowledged = step;
        }
        usleep((useconds_t)(rand() % 3000));
        kill(child, SIGKILL);
        while (read(pipe_ends[0], &step, sizeof step) == (ssize_t)sizeof step) acknowledged = step;
        close(pipe_ends[0]);
        int status;
        waitpid(child, &status, 0);
        cr_assert(WIFSIGNALED(status), "the child ended by itself");
        newest = check_steps(acknowledged);
        in_flight += newest > acknowledged;
    }
    cr_assert_gt(newest, 40);
    cr_log_info("%d of 40 kills came between commit and word of it", in_flight);
}
