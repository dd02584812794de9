#include "daemon/query.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/memory.h"
#include "daemon/response.h"
#include "daemon/straggler.h"
#include "proto/wire.h"

enum {
    PAGE_BYTES_MAX = WIRE_BYTES_MAX - 64 * 1024, /* the rest is for what surrounds the rows */
    SHARE_BYTES_MAX = WIRE_BYTES_MAX / 8,        /* of each list in a run's description */
    FINAL_RUNS_SHOWN = 10,
    RUNS_MAX = 1000,
    REDRAWS_SHOWN = 64,
    EVENTS_MAX = 4096,
    METRICS_MAX = 32768,
};

/* A body is built while its response waits; a fault on the way makes it a refusal. */
static Performer__Response *settle(Performer__Response *response, enum status status,
                                   const struct fault *fault)
{
    if (status == ST_OK) return response;
    performer__response__free_unpacked(response, NULL);
    return response_refuse(status, fault->text);
}

/* ---- ping ---- */

static Performer__Response *answer_ping(const struct query_view *view)
{
    Performer__Response *response = response_new();
    Performer__Pong *pong = memory_zeroed(1, sizeof *pong);
    performer__pong__init(pong);
    pong->version = message_text(PERFORMERD_VERSION);
    pong->pid = (uint64_t)getpid();
    pong->state_directory = message_text(view->directory->path);
    pong->runs_directory = message_text(view->directory->runs);
    pong->ranks_max = view->coordinator->ranks_max;
    pong->ranks_running = coordinator_ranks_in_use(view->coordinator);
    pong->uptime_ms = view->uptime_ms;
    pong->frames_rejected = view->frames_rejected;
    response->body_case = PERFORMER__RESPONSE__BODY_PONG;
    response->pong = pong;
    return response;
}

/* ---- list ---- */

static void add_latest(const struct run *run, Performer__RunSummary *summary)
{
    for (size_t i = 0; i < run->latest_count; i++) {
        const struct latest *row = &run->latest[i];
        Performer__NamedValue *latest = memory_zeroed(1, sizeof *latest);
        performer__named_value__init(latest);
        latest->name = message_text(row->name);
        latest->value = row->value;
        latest->step = row->step;
        message_append(&summary->latest, &summary->n_latest, latest);
    }
}

static Performer__RunSummary *summarize(const struct query_view *view, const struct run *run)
{
    char reason[RUN_REASON_SIZE], directory[PATH_MAX];
    coordinator_reason(view->coordinator, run, view->now_ms, reason, sizeof reason);
    run_directory(view->directory, run->id, directory, sizeof directory);

    Performer__RunSummary *made = memory_zeroed(1, sizeof *made);
    performer__run_summary__init(made);
    made->id = message_text(run->id);
    made->name = message_text(run->facts.name);
    made->state = message_text(run_state_name(run->state));
    made->user = message_text(run->user);
    made->step = run_step_now(run);
    made->steps = run->facts.steps;
    made->attempt = run->attempt.number;
    made->ranks = run->facts.ranks;
    made->submitted_ms = run->submitted_ms;
    made->started_ms = run->started_ms;
    made->ended_ms = run->ended_ms;
    if (!run_obeys(run, view->caller)) return made;
    made->reason = message_text(reason);
    made->directory = message_text(directory);
    add_latest(run, made);
    return made;
}

/* A short list shows so many final runs, and all that are not. */
static bool is_shown(const struct run *run, size_t *final_left)
{
    if (!run_state_is_final(run->state)) return true;
    if (*final_left == 0) return false;
    (*final_left)--;
    return true;
}

/* Newest first, which is how the list is cut where it is too long; the answer is in order of number. */
static size_t choose_runs(const struct coordinator *coordinator, bool all, const struct run **runs)
{
    size_t count = 0, final_left = all ? RUNS_MAX : FINAL_RUNS_SHOWN;
    for (size_t i = coordinator->run_count; i-- > 0 && count < RUNS_MAX;)
        if (is_shown(coordinator->runs[i], &final_left)) runs[count++] = coordinator->runs[i];
    return count;
}

static Performer__Response *answer_list(const struct query_view *view,
                                        const Performer__ListRuns *query)
{
    Performer__Response *response = response_new();
    Performer__RunList *list = memory_zeroed(1, sizeof *list);
    performer__run_list__init(list);
    response->body_case = PERFORMER__RESPONSE__BODY_RUN_LIST;
    response->run_list = list;

    const struct run *runs[RUNS_MAX];
    for (size_t i = choose_runs(view->coordinator, query->all, runs); i-- > 0;)
        message_append(&list->runs, &list->n_runs, summarize(view, runs[i]));
    messages_keep_last(list->runs, &list->n_runs, PAGE_BYTES_MAX);
    return response;
}

/* ---- describe ---- */

static bool add_attempt(void *context, const struct attempt_row *row)
{
    Performer__RunDetail *detail = context;
    Performer__AttemptInfo *info = memory_zeroed(1, sizeof *info);
    performer__attempt_info__init(info);
    info->number = row->number;
    info->started_ms = row->planned_ms;
    info->ended_ms = row->ended_ms;
    info->cause = message_text(attempt_cause_name(row->cause));
    info->text = message_text(row->text);
    info->first_rank = row->first_rank;
    info->host = message_text(row->host);
    info->signal = row->signal;
    info->exit_code = row->exit_code;
    info->last_lines = message_text(row->last_lines);
    info->resumed_step = row->resumed_step;
    message_append(&detail->attempts, &detail->n_attempts, info);
    return true;
}

static bool add_redraw(void *context, const struct redraw_row *row)
{
    Performer__RunDetail *detail = context;
    Performer__RedrawInfo *info = memory_zeroed(1, sizeof *info);
    performer__redraw_info__init(info);
    info->draw = row->draw;
    info->step = row->step;
    info->why = message_text(row->why);
    info->agreed = row->agreed;
    for (size_t rank = 0; rank < row->rank_count; rank++)
        message_append(&info->hashes, &info->n_hashes, message_text(row->hashes[rank]));
    message_append(&detail->redraws, &detail->n_redraws, info);
    return true;
}

static Performer__CheckpointInfo *checkpoint_info(const struct checkpoint_row *row)
{
    Performer__CheckpointInfo *info = memory_zeroed(1, sizeof *info);
    performer__checkpoint_info__init(info);
    info->step = row->step;
    info->path = message_text(row->path);
    /* Somebody else may have removed it: what is not there is not good, whatever was told. */
    bool missing = row->verdict == VERDICT_GOOD && access(row->path, F_OK) != 0 && errno == ENOENT;
    info->verdict = message_text(verdict_name(missing ? VERDICT_MISSING : row->verdict));
    info->attempt = row->attempt;
    info->bytes = row->bytes;
    info->saved_ms = row->saved_ms;
    info->best = row->best;
    info->valid_loss = row->valid_loss;
    info->seconds = row->seconds;
    return info;
}

static bool add_detail_checkpoint(void *context, const struct checkpoint_row *row)
{
    Performer__RunDetail *detail = context;
    message_append(&detail->checkpoints, &detail->n_checkpoints, checkpoint_info(row));
    return true;
}

static void add_ranks(const struct query_view *view, const struct run *run,
                      Performer__RunDetail *detail)
{
    if (!run->attempt.ranks) return;
    for (uint32_t number = 0; number < run->facts.ranks; number++) {
        const struct rank *rank = &run->attempt.ranks[number];
        uint64_t heard_ms = rank->heard ? rank->heard_ms : run->heard_ms;
        Performer__RankInfo *info = memory_zeroed(1, sizeof *info);
        performer__rank_info__init(info);
        info->rank = number;
        info->host = message_text(rank->host);
        info->pid = rank->pid;
        info->step = rank->step;
        info->phase = message_text(rank->phase);
        info->step_ms = rank->step_ms;
        info->score = rank->score;
        info->slow = rank->slow_windows >= STRAGGLER_WINDOWS;
        info->heard_ms = view->now_ms > heard_ms ? view->now_ms - heard_ms : 0;
        message_append(&detail->ranks, &detail->n_ranks, info);
    }
}

static void add_orders(const struct run *run, Performer__RunDetail *detail)
{
    for (size_t i = 0; i < run->order_count; i++) {
        const struct order *order = &run->orders[i];
        Performer__OrderInfo *info = memory_zeroed(1, sizeof *info);
        performer__order_info__init(info);
        info->id = order->id;
        info->kind = message_text(order_kind_name(order->kind));
        info->state = message_text(order_state_name(order->state));
        info->step = order->step;
        info->requested_ms = order->requested_ms;
        message_append(&detail->orders, &detail->n_orders, info);
    }
}

/* A job that does not go back has no budget of divergences. */
static void add_budgets(const struct query_view *view, const struct run *run,
                        Performer__RunDetail *detail)
{
    for (int budget = BUDGET_NONE + 1; budget < BUDGET_COUNT; budget++) {
        if (budget == BUDGET_DIVERGENCE && !run->facts.goes_back) continue;
        const uint32_t attempts = run_restarts_max(run, budget);
        Performer__BudgetInfo *info = memory_zeroed(1, sizeof *info);
        performer__budget_info__init(info);
        info->name = message_text(restart_budget_name(budget));
        info->spent = run->spent[budget];
        info->unlimited = attempts == RESTARTS_UNLIMITED;
        info->attempts = info->unlimited ? 0 : attempts;
        message_append(&detail->budgets, &detail->n_budgets, info);
    }
    const bool waits =
        run->state == RUN_QUEUED || run->state == RUN_RESTARTING || run->state == RUN_PAUSED;
    if (waits && run->due_ms > view->now_ms) detail->back_off_ms = run->due_ms - view->now_ms;
}

static void add_drill(const struct run *run, Performer__RunDetail *detail)
{
    detail->stop_ms = run_stop_ms(run);
    detail->grace_ms = run_grace_ms(run);
    if (run->drill.attempt == 0) return;
    Performer__Drill *drill = memory_zeroed(1, sizeof *drill);
    performer__drill__init(drill);
    drill->attempt = run->drill.attempt;
    drill->step = run->drill.step;
    drill->save_ms = run->drill.save_ms;
    drill->exit_ms = run->drill.exit_ms;
    detail->drill = drill;
}

static void add_origin(const struct query_view *view, const struct run *run,
                       Performer__RunDetail *detail)
{
    const struct run *source = coordinator_run(view->coordinator, run->forked_from);
    if (source) detail->forked_from = message_text(source->id);
    detail->forked_step = run->forked_step;
    detail->priority = run->facts.priority;
    for (size_t i = 0; i < run->after_count; i++)
        message_append(&detail->after, &detail->n_after,
                       message_text(coordinator_run(view->coordinator, run->after[i])->id));
}

/* What the store knows of a run. */
static enum status add_history(const struct query_view *view, const struct run *run,
                               Performer__RunDetail *detail, struct fault *fault)
{
    char *text, *resolved;
    enum status status = store_job(view->store, run->number, &text, &resolved, fault);
    if (status != ST_OK) return status;
    free(text);
    detail->config = resolved;
    status = store_attempts(view->store, run->number, add_attempt, detail, fault);
    if (status == ST_OK)
        status = store_redraws(view->store, run->number, REDRAWS_SHOWN, add_redraw, detail, fault);
    if (status == ST_OK)
        status = store_checkpoints(view->store, run->number, false, add_detail_checkpoint, detail,
                                   fault);
    return status;
}

static Performer__Response *answer_describe(const struct query_view *view, const struct run *run)
{
    Performer__Response *response = response_new();
    Performer__RunDetail *detail = memory_zeroed(1, sizeof *detail);
    performer__run_detail__init(detail);
    response->body_case = PERFORMER__RESPONSE__BODY_RUN_DETAIL;
    response->run_detail = detail;

    struct fault fault;
    detail->summary = summarize(view, run);
    enum status status = add_history(view, run, detail, &fault);
    add_ranks(view, run, detail);
    add_orders(run, detail);
    add_origin(view, run, detail);
    add_budgets(view, run, detail);
    add_drill(run, detail);
    if (!run_state_is_final(run->state)) {
        detail->next_redraw_step = run_next_multiple(run, run->facts.redraw_every);
        detail->next_checkpoint_step = run_next_multiple(run, run->facts.checkpoint_every);
    }
    detail->redraw_threshold = run->facts.redraw_threshold;
    messages_keep_last(detail->attempts, &detail->n_attempts, SHARE_BYTES_MAX);
    messages_keep_last(detail->redraws, &detail->n_redraws, SHARE_BYTES_MAX);
    messages_keep_last(detail->orders, &detail->n_orders, SHARE_BYTES_MAX);
    messages_keep_last(detail->checkpoints, &detail->n_checkpoints, SHARE_BYTES_MAX);
    return settle(response, status, &fault);
}

/* ---- metrics, events, checkpoints ---- */

struct metric_page {
    Performer__MetricPage *page;
    size_t bytes_left;
};

static bool add_metric(void *context, const struct metric_row *row)
{
    struct metric_page *metrics = context;
    Performer__MetricRow *added = memory_zeroed(1, sizeof *added);
    performer__metric_row__init(added);
    added->attempt = row->attempt;
    added->step = row->step;
    added->name = message_text(row->name);
    added->value = row->value;
    added->time_ms = row->time_ms;
    size_t bytes = message_bytes(&added->base);
    if (bytes > metrics->bytes_left) {
        performer__metric_row__free_unpacked(added, NULL);
        return false;
    }
    metrics->bytes_left -= bytes;
    message_append(&metrics->page->rows, &metrics->page->n_rows, added);
    return true;
}

static Performer__Response *answer_metrics(const struct query_view *view, const struct run *run,
                                           const Performer__QueryMetrics *asked)
{
    if (asked->points != 0 && asked->name[0] == '\0')
        return response_refuse(ST_INVALID, "a number of points goes with the name of a metric");
    Performer__Response *response = response_new();
    Performer__MetricPage *page = memory_zeroed(1, sizeof *page);
    performer__metric_page__init(page);
    response->body_case = PERFORMER__RESPONSE__BODY_METRIC_PAGE;
    response->metric_page = page;

    struct metric_page metrics = {.page = page, .bytes_left = PAGE_BYTES_MAX};
    struct metric_query query = {
        .run = run->number,
        .name = asked->name,
        .from_step = asked->from_step,
        .before_step = asked->before_step,
        .cursor = asked->cursor,
        .limit = asked->limit > 0 && asked->limit < METRICS_MAX ? asked->limit : METRICS_MAX,
    };
    uint32_t points = asked->points < METRICS_MAX ? asked->points : METRICS_MAX;
    struct fault fault;
    enum status status =
        points > 0
            ? store_metrics_thinned(view->store, &query, points, add_metric, &metrics, &fault)
            : store_metrics(view->store, &query, add_metric, &metrics, &page->next, &fault);
    return settle(response, status, &fault);
}

struct event_page {
    Performer__EventPage *page;
    size_t bytes_left;
};

static bool add_event(void *context, const struct event_row *row)
{
    struct event_page *events = context;
    Performer__EventInfo *info = memory_zeroed(1, sizeof *info);
    performer__event_info__init(info);
    info->id = row->id;
    info->time_ms = row->time_ms;
    info->attempt = row->attempt;
    info->step = row->step;
    info->kind = message_text(row->kind);
    info->text = message_text(row->text);
    size_t bytes = message_bytes(&info->base);
    if (bytes > events->bytes_left || events->page->n_events == EVENTS_MAX) {
        performer__event_info__free_unpacked(info, NULL);
        events->page->more = true;
        return false;
    }
    events->bytes_left -= bytes;
    message_append(&events->page->events, &events->page->n_events, info);
    return true;
}

static Performer__Response *answer_events(const struct query_view *view, const struct run *run,
                                          const Performer__QueryEvents *query)
{
    Performer__Response *response = response_new();
    Performer__EventPage *page = memory_zeroed(1, sizeof *page);
    performer__event_page__init(page);
    response->body_case = PERFORMER__RESPONSE__BODY_EVENT_PAGE;
    response->event_page = page;
    struct event_page events = {.page = page, .bytes_left = PAGE_BYTES_MAX};
    struct fault fault;
    enum status status = store_events(view->store, run->number, query->after, EVENTS_MAX + 1,
                                      add_event, &events, &fault);
    return settle(response, status, &fault);
}

static bool add_checkpoint(void *context, const struct checkpoint_row *row)
{
    Performer__CheckpointList *list = context;
    message_append(&list->checkpoints, &list->n_checkpoints, checkpoint_info(row));
    return true;
}

static Performer__Response *answer_checkpoints(const struct query_view *view, const struct run *run)
{
    Performer__Response *response = response_new();
    Performer__CheckpointList *list = memory_zeroed(1, sizeof *list);
    performer__checkpoint_list__init(list);
    response->body_case = PERFORMER__RESPONSE__BODY_CHECKPOINT_LIST;
    response->checkpoint_list = list;
    struct fault fault;
    enum status status =
        store_checkpoints(view->store, run->number, true, add_checkpoint, list, &fault);
    messages_keep_last(list->checkpoints, &list->n_checkpoints, PAGE_BYTES_MAX);
    return settle(response, status, &fault);
}

/* ---- logs ---- */

/* The first byte of the last `lines` lines; a last line without an end counts too. */
static size_t tail_start(const uint8_t *bytes, size_t length, uint32_t lines)
{
    size_t start = length;
    if (start > 0 && bytes[start - 1] == '\n') start--;
    for (; start > 0; start--)
        if (bytes[start - 1] == '\n' && --lines == 0) break;
    return start;
}

/* Reads on from `offset`, or the end of the file where `tail_lines` is not 0. */
static enum status read_chunk(int file, uint64_t size, const Performer__ReadLog *query,
                              Performer__LogChunk *chunk)
{
    uint64_t offset = query->offset < size ? query->offset : size;
    if (query->tail_lines != 0)
        offset = size > LOG_CHUNK_BYTES_MAX ? size - LOG_CHUNK_BYTES_MAX : 0;
    uint64_t wanted = size - offset;
    if (wanted > LOG_CHUNK_BYTES_MAX) wanted = LOG_CHUNK_BYTES_MAX;

    uint8_t *bytes = memory_grow(NULL, wanted);
    ssize_t length = pread(file, bytes, wanted, (off_t)offset);
    if (length < 0) {
        free(bytes);
        return status_from_errno(errno);
    }
    size_t skipped =
        query->tail_lines != 0 ? tail_start(bytes, (size_t)length, query->tail_lines) : 0;
    memmove(bytes, bytes + skipped, (size_t)length - skipped);
    chunk->data = (ProtobufCBinaryData){.len = (size_t)length - skipped, .data = bytes};
    chunk->next_offset = offset + (uint64_t)length;
    return ST_OK;
}

/* A log that has not been begun is an empty one. `*size` is how much of it there was. */
static enum status read_log(const char *path, const Performer__ReadLog *query,
                            Performer__LogChunk *chunk, uint64_t *size, struct fault *fault)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0 && errno == ENOENT) return ST_OK;
    if (file < 0) return fault_errno(fault, errno, "could not open %s", path);
    struct stat stat;
    enum status status = ST_OK;
    if (fstat(file, &stat) != 0)
        status = fault_errno(fault, errno, "could not look at %s", path);
    else if (!S_ISREG(stat.st_mode))
        status = fault_set(fault, ST_REFUSED, "%s is no file", path);
    if (status == ST_OK) {
        *size = (uint64_t)stat.st_size;
        status = read_chunk(file, *size, query, chunk);
        if (status != ST_OK) fault_set(fault, status, "could not read %s", path);
    }
    close(file);
    return status;
}

/* Which file is meant: the attempt and rank must be ones that the run has. */
static enum status log_path(const struct query_view *view, const struct run *run,
                            const Performer__ReadLog *query, uint32_t attempt, char *path,
                            size_t size, struct fault *fault)
{
    if (attempt > run->attempt.number)
        return fault_set(fault, ST_NOT_FOUND, "%s has had %u attempts, there is no attempt %u",
                         run->id, run->attempt.number, attempt);
    if (query->rank < -1 || query->rank >= (int64_t)run->facts.ranks)
        return fault_set(fault, ST_NOT_FOUND, "%s has ranks 0 to %u, there is no rank %d", run->id,
                         run->facts.ranks - 1, query->rank);
    attempt_directory(view->directory, run->id, attempt, path, size);
    size_t length = strlen(path);
    if (query->rank < 0)
        snprintf(path + length, size - length, "/launcher.log");
    else
        snprintf(path + length, size - length, "/rank-%d.log", query->rank);
    return ST_OK;
}

static Performer__Response *answer_log(const struct query_view *view, const struct run *run,
                                       const Performer__ReadLog *query)
{
    char path[PATH_MAX];
    struct fault fault;
    uint32_t attempt = query->attempt != 0 ? query->attempt : run->attempt.number;
    enum status status = log_path(view, run, query, attempt, path, sizeof path, &fault);
    if (status != ST_OK) return response_refuse(status, fault.text);

    Performer__Response *response = response_new();
    Performer__LogChunk *chunk = memory_zeroed(1, sizeof *chunk);
    performer__log_chunk__init(chunk);
    response->body_case = PERFORMER__RESPONSE__BODY_LOG_CHUNK;
    response->log_chunk = chunk;
    uint64_t size = 0;
    /* Before the file is read: what is written afterwards belongs to an attempt that still may. */
    bool closed = run_state_is_final(run->state) || attempt < run->attempt.number;
    status = read_log(path, query, chunk, &size, &fault);
    chunk->attempt = attempt;
    chunk->final = closed && chunk->next_offset >= size;
    return settle(response, status, &fault);
}

/* ---- which question ---- */

/* The run that the request names, NULL for a request that names none. */
static const char *run_named(const Performer__Request *request)
{
    switch (request->body_case) {
    case PERFORMER__REQUEST__BODY_DESCRIBE_RUN:
        return request->describe_run->run;
    case PERFORMER__REQUEST__BODY_QUERY_METRICS:
        return request->query_metrics->run;
    case PERFORMER__REQUEST__BODY_READ_LOG:
        return request->read_log->run;
    case PERFORMER__REQUEST__BODY_QUERY_EVENTS:
        return request->query_events->run;
    case PERFORMER__REQUEST__BODY_QUERY_CHECKPOINTS:
        return request->query_checkpoints->run;
    default:
        return NULL;
    }
}

Performer__Response *query_answer(const struct query_view *view, const Performer__Request *request)
{
    const struct run *run = NULL;
    const char *name = run_named(request);
    struct fault fault;
    enum status status = name ? coordinator_find(view->coordinator, name, &run, &fault) : ST_OK;
    if (status == ST_OK && run && !run_obeys(run, view->caller))
        status = fault_set(&fault, ST_NOT_PERMITTED, RUN_OF_ANOTHER, run->id, run->user);
    if (status != ST_OK) return response_refuse(status, fault.text);

    switch (request->body_case) {
    case PERFORMER__REQUEST__BODY_PING:
        return answer_ping(view);
    case PERFORMER__REQUEST__BODY_LIST_RUNS:
        return answer_list(view, request->list_runs);
    case PERFORMER__REQUEST__BODY_DESCRIBE_RUN:
        return answer_describe(view, run);
    case PERFORMER__REQUEST__BODY_QUERY_METRICS:
        return answer_metrics(view, run, request->query_metrics);
    case PERFORMER__REQUEST__BODY_READ_LOG:
        return answer_log(view, run, request->read_log);
    case PERFORMER__REQUEST__BODY_QUERY_EVENTS:
        return answer_events(view, run, request->query_events);
    case PERFORMER__REQUEST__BODY_QUERY_CHECKPOINTS:
        return answer_checkpoints(view, run);
    default:
        return response_refuse(ST_UNSUPPORTED, "a request that is no question");
    }
}
