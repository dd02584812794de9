#include "daemon/query.h"

#include "daemon/clock.h"
#include "proto/wire.h"
#include "tests/daemon/workshop.h"

static struct workshop workshop;
static Performer__Response *response; /* of the newest question, freed with the next */

static void setup(void)
{
    workshop_open(&workshop);
}

/* Who asks: whose the runs are, unless a test says otherwise. */
static const struct caller *caller = &workshop_caller;

static void ask(Performer__Request *request)
{
    struct query_view view = {.coordinator = &workshop.coordinator,
                              .store = workshop.store,
                              .directory = &workshop.directory,
                              .caller = caller,
                              .now_ms = clock_now_ms(),
                              .uptime_ms = 5,
                              .frames_rejected = 3};
    if (response) performer__response__free_unpacked(response, NULL);
    response = query_answer(&view, request);
    cr_assert_lt(performer__response__get_packed_size(response), WIRE_BYTES_MAX);
}

static void teardown(void)
{
    if (response) performer__response__free_unpacked(response, NULL);
    workshop_close(&workshop);
}

TestSuite(query, .init = setup, .fini = teardown);

static void refused(enum status status, const char *word)
{
    cr_assert_eq(response->status, status, "%d: %s", response->status, response->text);
    cr_assert_not_null(strstr(response->text, word), "%s", response->text);
    cr_assert_eq(response->body_case, PERFORMER__RESPONSE__BODY__NOT_SET);
}

static Performer__RunList *list(bool all)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__ListRuns body = PERFORMER__LIST_RUNS__INIT;
    body.all = all;
    request.body_case = PERFORMER__REQUEST__BODY_LIST_RUNS;
    request.list_runs = &body;
    ask(&request);
    cr_assert_eq(response->status, ST_OK, "%s", response->text);
    return response->run_list;
}

static Performer__RunDetail *describe(const char *run)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__DescribeRun body = PERFORMER__DESCRIBE_RUN__INIT;
    body.run = (char *)run;
    request.body_case = PERFORMER__REQUEST__BODY_DESCRIBE_RUN;
    request.describe_run = &body;
    ask(&request);
    return response->run_detail;
}

static Performer__MetricPage *metrics(const char *name, uint64_t cursor, uint32_t limit,
                                      uint32_t points)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__QueryMetrics body = PERFORMER__QUERY_METRICS__INIT;
    body.run = "r1";
    body.name = (char *)name;
    body.cursor = cursor;
    body.limit = limit;
    body.points = points;
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_METRICS;
    request.query_metrics = &body;
    ask(&request);
    return response->metric_page;
}

static Performer__LogChunk *read_log(uint32_t attempt, int32_t rank, uint64_t offset,
                                     uint32_t tail_lines)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__ReadLog body = PERFORMER__READ_LOG__INIT;
    body.run = "r1";
    body.attempt = attempt;
    body.rank = rank;
    body.offset = offset;
    body.tail_lines = tail_lines;
    request.body_case = PERFORMER__REQUEST__BODY_READ_LOG;
    request.read_log = &body;
    ask(&request);
    return response->log_chunk;
}

static void chunk_is(const Performer__LogChunk *chunk, const char *text)
{
    cr_assert_not_null(chunk, "%s", response->text);
    cr_assert_eq(chunk->data.len, strlen(text), "%.*s", (int)chunk->data.len, chunk->data.data);
    if (chunk->data.len > 0) cr_assert_eq(memcmp(chunk->data.data, text, chunk->data.len), 0);
}

static void end_run(void)
{
    workshop_ranks_end(&workshop, 2, ST_OK);
    driver_tick(&workshop.driver);
    workshop.state = LAUNCHER_ALIVE;
}

/* r1, running, with two ranks heard and losses of five steps. */
static void make_running(void)
{
    workshop_submit(&workshop, "one", 2);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 5);
    workshop_report(&workshop, 1, 1, 4);
}

Test(query, ping)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Ping body = PERFORMER__PING__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_PING;
    request.ping = &body;
    make_running();
    ask(&request);
    cr_assert_eq(response->pong->pid, (uint64_t)getpid());
    cr_assert_eq(response->pong->ranks_max, 4);
    cr_assert_eq(response->pong->ranks_running, 2);
    cr_assert_eq(response->pong->frames_rejected, 3);
    cr_assert_str_eq(response->pong->state_directory, scratch_path(&workshop.scratch, "state"));
}

Test(query, a_list_of_runs)
{
    cr_assert_eq(list(false)->n_runs, 0);
    make_running();
    workshop_submit(&workshop, "two", 4);
    driver_tick(&workshop.driver);
    Performer__RunList *runs = list(false);
    cr_assert_eq(runs->n_runs, 2);
    cr_assert_str_eq(runs->runs[0]->id, "r1");
    cr_assert_str_eq(runs->runs[0]->state, "RUNNING");
    cr_assert_eq(runs->runs[0]->step, 5);
    cr_assert_eq(runs->runs[0]->steps, 100);
    cr_assert_eq(runs->runs[0]->n_latest, 1);
    cr_assert_float_eq(runs->runs[0]->latest[0]->value, 3.96, 1e-12);
    cr_assert_eq(runs->runs[0]->latest[0]->step, 5);
    cr_assert_str_eq(runs->runs[1]->state, "QUEUED");
    cr_assert_not_null(strstr(runs->runs[1]->reason, "waits for 4 ranks"));
}

Test(query, another_user_sees_that_a_run_is_there_and_not_what_is_in_it)
{
    static const struct caller other = {.user = "bob"}, admin = {.user = "carol", .admin = true};
    workshop_submit(&workshop, "one", 1);
    driver_tick(&workshop.driver);
    workshop_report(&workshop, 0, 1, 5);
    caller = &other;
    const Performer__RunSummary *run = list(true)->runs[0];
    cr_assert_str_eq(run->user, "tester");
    cr_assert_str_eq(run->state, "RUNNING");
    cr_assert_eq(run->ranks, 1);
    cr_assert_str_eq(run->directory, "");
    cr_assert_str_eq(run->reason, "");
    cr_assert_eq(run->n_latest, 0);
    describe("r1");
    refused(ST_NOT_PERMITTED, "r1 belongs to tester");
    metrics("", 0, 0, 0);
    refused(ST_NOT_PERMITTED, "r1 belongs to tester");
    caller = &admin;
    cr_assert_neq(list(true)->runs[0]->n_latest, 0);
    cr_assert_not_null(describe("r1"));
    cr_assert_eq(response->status, ST_OK);
}

Test(query, a_short_list_leaves_old_final_runs_out)
{
    for (int i = 0; i < 13; i++) {
        workshop_submit(&workshop, "many", 1);
        char id[16];
        snprintf(id, sizeof id, "r%d", i + 1);
        if (i != 0)
            performer__response__free_unpacked(
                workshop_act(&workshop, id, PERFORMER__ACTION__ACTION_KILL), NULL);
    }
    Performer__RunList *runs = list(false);
    cr_assert_eq(runs->n_runs, 11);
    cr_assert_str_eq(runs->runs[0]->id, "r1", "not final, so always shown");
    cr_assert_str_eq(runs->runs[1]->id, "r4");
    cr_assert_str_eq(runs->runs[10]->id, "r13");
    cr_assert_eq(list(true)->n_runs, 13);
}

Test(query, a_description)
{
    make_running();
    Performer__RunDetail *detail = describe("one");
    cr_assert_eq(response->status, ST_OK);
    cr_assert_str_eq(detail->summary->id, "r1");
    cr_assert_str_eq(detail->config, workshop_job("one", 2, ""));
    cr_assert_eq(detail->n_attempts, 1);
    cr_assert_eq(detail->attempts[0]->number, 1);
    cr_assert_str_empty(detail->attempts[0]->cause);
    cr_assert_eq(detail->n_ranks, 2);
    cr_assert_eq(detail->ranks[1]->step, 4);
    cr_assert_eq(detail->ranks[1]->pid, 101);
    cr_assert_str_eq(detail->ranks[0]->phase, "backward");
    cr_assert_eq(detail->next_redraw_step, 7);
    cr_assert_eq(detail->next_checkpoint_step, 10);
    cr_assert_eq(detail->n_budgets, 4, "it does not go back");
    cr_assert_str_eq(detail->budgets[0]->name, "crash");
    cr_assert_eq(detail->budgets[0]->spent, 0);
    cr_assert_eq(detail->budgets[0]->attempts, 3);
    cr_assert(detail->budgets[2]->unlimited);
    cr_assert_eq(detail->back_off_ms, 0);

    end_run();
    detail = describe("r1");
    cr_assert_str_eq(detail->summary->state, "SUCCEEDED");
    cr_assert_str_eq(detail->attempts[0]->cause, "FINISHED");
    cr_assert_eq(detail->next_redraw_step, 0);
    describe("r7");
    refused(ST_NOT_FOUND, "r7");
}

Test(query, a_description_tells_from_which_error_on_features_are_redrawn)
{
    make_running();
    cr_assert_eq(describe("one")->redraw_threshold, 0);
    performer__response__free_unpacked(
        workshop_submit_text(
            &workshop,
            "[job]\nname = \"two\"\n[data]\nformat = \"text\"\ntrain = \"/etc/hostname\"\n"
            "valid_fraction = 0.1\nlength = 16\n[model]\nlayers = 1\nheads = 1\n"
            "width = 8\nmlp = 8\n[redraw]\npolicy = \"adaptive\"\nthreshold = 0.25\n",
            ""),
        NULL);
    Performer__RunDetail *detail = describe("two");
    cr_assert_eq(detail->redraw_threshold, 0.25);
    cr_assert_eq(detail->next_redraw_step, 0);
}

Test(query, metrics_in_pages_and_thinned)
{
    make_running();
    Performer__MetricPage *page = metrics("", 0, 0, 0);
    cr_assert_eq(page->n_rows, 5);
    cr_assert_eq(page->next, 0);
    cr_assert_eq(page->rows[4]->step, 5);

    uint64_t cursor = 0, step = 0;
    do {
        page = metrics("loss", cursor, 2, 0);
        for (size_t i = 0; i < page->n_rows; i++) cr_assert_eq(page->rows[i]->step, ++step);
        cursor = page->next;
    } while (cursor != 0);
    cr_assert_eq(step, 5);

    page = metrics("loss", 0, 0, 3);
    cr_assert_leq(page->n_rows, 3);
    cr_assert_eq(page->rows[page->n_rows - 1]->step, 5);
    cr_assert_eq(metrics("nothing", 0, 0, 0)->n_rows, 0);
    metrics("", 0, 0, 3);
    refused(ST_INVALID, "name of a metric");
}

Test(query, events)
{
    make_running();
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__QueryEvents body = PERFORMER__QUERY_EVENTS__INIT;
    body.run = "r1";
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_EVENTS;
    request.query_events = &body;
    ask(&request);
    cr_assert_geq(response->event_page->n_events, 3);
    cr_assert_str_eq(response->event_page->events[0]->kind, "run-submitted");
    cr_assert_not(response->event_page->more);
    size_t all = response->event_page->n_events;
    body.after = response->event_page->events[0]->id;
    ask(&request);
    cr_assert_eq(response->event_page->n_events, all - 1);
}

static void tell_saved(uint64_t sequence, uint64_t step, const char *path)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__Report report = PERFORMER__REPORT__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT, *notices[] = {&notice};
    Performer__CheckpointSaved saved = PERFORMER__CHECKPOINT_SAVED__INIT;
    saved.path = (char *)path;
    notice.step = step;
    notice.what_case = PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED;
    notice.checkpoint_saved = &saved;
    report.run = "r1";
    report.attempt = 1;
    report.nonce = workshop.order.nonce;
    report.sequence = sequence;
    report.n_notices = 1;
    report.notices = notices;
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = &report;
    Performer__Response *taken = workshop_ask(&workshop, &workshop_caller, &request);
    cr_assert_eq(taken->status, ST_OK, "%s", taken->text);
    performer__response__free_unpacked(taken, NULL);
}

Test(query, a_checkpoint_that_somebody_removed_is_missing)
{
    make_running();
    tell_saved(2, 3, scratch_path(&workshop.scratch, "state/runs/r1"));
    tell_saved(3, 5, scratch_path(&workshop.scratch, "state/runs/r1/checkpoints/step-5"));
    Performer__Request request = PERFORMER__REQUEST__INIT;
    Performer__QueryCheckpoints body = PERFORMER__QUERY_CHECKPOINTS__INIT;
    body.run = "r1";
    request.body_case = PERFORMER__REQUEST__BODY_QUERY_CHECKPOINTS;
    request.query_checkpoints = &body;
    ask(&request);
    cr_assert_eq(response->checkpoint_list->n_checkpoints, 2);
    cr_assert_str_eq(response->checkpoint_list->checkpoints[0]->verdict, "good");
    cr_assert_str_eq(response->checkpoint_list->checkpoints[1]->verdict, "missing");
}

Test(query, a_log_is_read_on_and_ends)
{
    make_running();
    chunk_is(read_log(0, 0, 0, 0), "");
    cr_assert_not(response->log_chunk->final, "it may still be written");
    scratch_write(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.log", "a\nbb\nccc\n");
    scratch_write(&workshop.scratch, "state/runs/r1/attempt-1/launcher.log", "mpirun");
    chunk_is(read_log(0, 0, 0, 0), "a\nbb\nccc\n");
    cr_assert_eq(response->log_chunk->next_offset, 9);
    cr_assert_eq(response->log_chunk->attempt, 1);
    cr_assert_not(response->log_chunk->final);
    chunk_is(read_log(1, 0, 5, 0), "ccc\n");
    chunk_is(read_log(1, 0, 9, 0), "");
    chunk_is(read_log(1, 0, 1000, 0), "");
    chunk_is(read_log(1, -1, 0, 0), "mpirun");
    end_run();
    chunk_is(read_log(1, 0, 2, 0), "bb\nccc\n");
    cr_assert(response->log_chunk->final);
    chunk_is(read_log(1, 1, 0, 0), "");
    cr_assert(response->log_chunk->final);
}

Test(query, the_last_lines_of_a_log)
{
    static const struct {
        const char *log, *tail;
        uint32_t lines;
    } rows[] = {
        {"a\nbb\nccc\n", "ccc\n", 1},
        {"a\nbb\nccc\n", "bb\nccc\n", 2},
        {"a\nbb\nccc\n", "a\nbb\nccc\n", 3},
        {"a\nbb\nccc\n", "a\nbb\nccc\n", 99},
        {"a\nbb\nccc", "ccc", 1},
        {"a\n\n\n", "\n", 1},
        {"\n", "\n", 1},
        {"", "", 4},
        {"x", "x", 1},
    };
    make_running();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        scratch_write(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.log", rows[i].log);
        chunk_is(read_log(0, 0, 0, rows[i].lines), rows[i].tail);
        cr_assert_eq(response->log_chunk->next_offset, strlen(rows[i].log));
    }
}

Test(query, a_large_log_comes_in_chunks)
{
    make_running();
    size_t size = 3 * LOG_CHUNK_BYTES_MAX / 2;
    char *log = malloc(size);
    for (size_t i = 0; i < size; i++) log[i] = i % 100 == 99 ? '\n' : (char)('a' + i % 26);
    scratch_write_bytes(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.log", log, size);
    end_run();
    cr_assert_eq(read_log(1, 0, 0, 0)->data.len, LOG_CHUNK_BYTES_MAX);
    cr_assert_not(response->log_chunk->final, "there is more");
    cr_assert_eq(read_log(1, 0, response->log_chunk->next_offset, 0)->data.len,
                 size - LOG_CHUNK_BYTES_MAX);
    cr_assert(response->log_chunk->final);
    cr_assert_eq(memcmp(response->log_chunk->data.data, log + LOG_CHUNK_BYTES_MAX,
                        size - LOG_CHUNK_BYTES_MAX),
                 0);
    cr_assert_eq(read_log(1, 0, 0, 1)->data.len, size % 100);
    free(log);
}

Test(query, logs_that_no_run_has)
{
    workshop_submit(&workshop, "one", 2);
    chunk_is(read_log(0, 0, 0, 0), ""); /* no attempt yet */
    read_log(1, 0, 0, 0);
    refused(ST_NOT_FOUND, "attempt 1");
    driver_tick(&workshop.driver);
    read_log(0, 2, 0, 0);
    refused(ST_NOT_FOUND, "rank 2");
    read_log(0, -2, 0, 0);
    refused(ST_NOT_FOUND, "rank -2");
    cr_assert_eq(symlink("/etc/passwd",
                         scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/rank-0.log")),
                 0);
    read_log(0, 0, 0, 0);
    cr_assert_neq(response->status, ST_OK);
    cr_assert_eq(mkdir(scratch_path(&workshop.scratch, "state/runs/r1/attempt-1/rank-1.log"), 0700),
                 0);
    read_log(0, 1, 0, 0);
    refused(ST_REFUSED, "no file");
}

Test(query, a_request_that_is_no_question)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_ACT;
    ask(&request);
    refused(ST_UNSUPPORTED, "no question");
}
