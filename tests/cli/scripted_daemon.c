#include "tests/cli/scripted_daemon.h"

#include <math.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/wire.h"
#include "tests/cli/canned_run.h"

struct scripted_daemon {
    struct script script;
    char url[128];
    nng_socket socket;
    pthread_t thread;
    atomic_uint looks, submits;
    char key[64]; /* of the first submit */
    atomic_bool same_key;
};

enum { POINTS = 100 };

/* The parts of one answer; the pointers of a message go into it. */
struct answer {
    Performer__Response response;
    Performer__Pong pong;
    Performer__Submitted submitted;
    Performer__RunList list;
    Performer__RunSummary *run;
    Performer__MetricPage metrics;
    Performer__MetricRow row_items[POINTS];
    Performer__MetricRow *rows[POINTS];
    Performer__LogChunk log;
    Performer__EventPage events;
    Performer__EventInfo event_item;
    Performer__EventInfo *event;
    Performer__CheckpointList checkpoints;
    Performer__Acted acted;
    struct canned_run canned;
};

static void answer_pong(struct answer *answer)
{
    performer__pong__init(&answer->pong);
    answer->pong.version = PERFORMERD_VERSION;
    answer->pong.pid = 4711;
    answer->pong.state_directory = "/";
    answer->pong.runs_directory = "/proc"; /* which has no room at all */
    answer->pong.ranks_max = 8;
    answer->response.body_case = PERFORMER__RESPONSE__BODY_PONG;
    answer->response.pong = &answer->pong;
}

/* A falling loss. */
static void answer_points(struct answer *answer, const Performer__QueryMetrics *query)
{
    size_t count = strcmp(query->name, "loss") == 0 ? POINTS : POINTS / 10;

    performer__metric_page__init(&answer->metrics);
    for (size_t i = 0; i < count; i++) {
        Performer__MetricRow *row = &answer->row_items[i];
        performer__metric_row__init(row);
        row->attempt = 2;
        row->step = 1240 * (i + 1) / count;
        row->name = query->name;
        row->value = 2.8 + 1.4 / (1 + 0.05 * (double)(row->step)) + 0.02 * sin((double)(i * i));
        row->time_ms = 1790000000000 + 400 * row->step;
        answer->rows[i] = row;
    }
    answer->metrics.rows = answer->rows;
    answer->metrics.n_rows = count;
    answer->response.body_case = PERFORMER__RESPONSE__BODY_METRIC_PAGE;
    answer->response.metric_page = &answer->metrics;
}

/* Two pages of two and one row; the second holds a value that is no number. */
static void answer_metrics(struct answer *answer, const Performer__QueryMetrics *query)
{
    static const double values[] = {4.22, 0.001, NAN};
    static const char *const names[] = {"loss", "lr", "loss"};
    size_t first = query->cursor ? 2 : 0, last = query->cursor ? 3 : 2;

    performer__metric_page__init(&answer->metrics);
    for (size_t i = first; i < last; i++) {
        Performer__MetricRow *row = &answer->row_items[i];
        performer__metric_row__init(row);
        row->attempt = 1;
        row->step = i < 2 ? 1 : 2;
        row->name = (char *)names[i];
        row->value = values[i];
        row->time_ms = 1790000000000 + i;
        answer->rows[i - first] = row;
    }
    answer->metrics.rows = answer->rows;
    answer->metrics.n_rows = last - first;
    answer->metrics.next = query->cursor ? 0 : 77;
    answer->response.body_case = PERFORMER__RESPONSE__BODY_METRIC_PAGE;
    answer->response.metric_page = &answer->metrics;
}

/* "one\ntwo\n" of attempt 1, then "three\n" of attempt 2, the newest. */
static void answer_log(struct answer *answer, const Performer__ReadLog *read)
{
    uint32_t attempt = read->attempt ? read->attempt : 2;
    const char *text = attempt == 1 ? "one\ntwo\n" : "three\n";
    uint64_t offset = read->offset < strlen(text) ? read->offset : strlen(text);

    performer__log_chunk__init(&answer->log);
    answer->log.data.data = (uint8_t *)text + offset;
    answer->log.data.len = strlen(text + offset);
    answer->log.next_offset = strlen(text);
    answer->log.attempt = attempt;
    answer->log.final = offset == strlen(text);
    answer->response.body_case = PERFORMER__RESPONSE__BODY_LOG_CHUNK;
    answer->response.log_chunk = &answer->log;
}

static void answer_events(struct answer *answer, const Performer__QueryEvents *query)
{
    performer__event_page__init(&answer->events);
    performer__event_info__init(&answer->event_item);
    answer->event = &answer->event_item;
    answer->event_item.id = query->after + 1;
    answer->event_item.time_ms = 1790000000000;
    answer->event_item.attempt = 1;
    answer->event_item.kind = query->after ? "run-started" : "run-submitted";
    answer->event_item.text = "as told";
    answer->events.events = &answer->event;
    answer->events.n_events = query->after < 2;
    answer->events.more = query->after < 1;
    answer->response.body_case = PERFORMER__RESPONSE__BODY_EVENT_PAGE;
    answer->response.event_page = &answer->events;
}

static void answer_submit(struct answer *answer)
{
    performer__submitted__init(&answer->submitted);
    answer->submitted.run = "r1";
    answer->response.body_case = PERFORMER__RESPONSE__BODY_SUBMITTED;
    answer->response.submitted = &answer->submitted;
}

static void answer_body(struct scripted_daemon *daemon, const Performer__Request *request,
                        struct answer *answer)
{
    bool ended =
        daemon->looks >= daemon->script.looks && strcmp(daemon->script.end_state, "RUNNING") != 0;
    const char *state = ended ? daemon->script.end_state : "RUNNING";

    canned_run_init(&answer->canned, state, ended ? CANNED_STEPS : 1240 + daemon->looks);
    switch (request->body_case) {
    case PERFORMER__REQUEST__BODY_SUBMIT:
        answer_submit(answer);
        break;
    case PERFORMER__REQUEST__BODY_LIST_RUNS:
        performer__run_list__init(&answer->list);
        answer->run = &answer->canned.summary;
        answer->list.runs = &answer->run;
        answer->list.n_runs = 1;
        answer->response.body_case = PERFORMER__RESPONSE__BODY_RUN_LIST;
        answer->response.run_list = &answer->list;
        break;
    case PERFORMER__REQUEST__BODY_DESCRIBE_RUN:
        daemon->looks++;
        answer->response.body_case = PERFORMER__RESPONSE__BODY_RUN_DETAIL;
        answer->response.run_detail = &answer->canned.detail;
        break;
    case PERFORMER__REQUEST__BODY_QUERY_METRICS:
        if (request->query_metrics->points > 0)
            answer_points(answer, request->query_metrics);
        else
            answer_metrics(answer, request->query_metrics);
        break;
    case PERFORMER__REQUEST__BODY_READ_LOG:
        answer_log(answer, request->read_log);
        break;
    case PERFORMER__REQUEST__BODY_QUERY_EVENTS:
        answer_events(answer, request->query_events);
        break;
    case PERFORMER__REQUEST__BODY_QUERY_CHECKPOINTS:
        performer__checkpoint_list__init(&answer->checkpoints);
        answer->checkpoints.checkpoints = answer->canned.checkpoints;
        answer->checkpoints.n_checkpoints = 3;
        answer->response.body_case = PERFORMER__RESPONSE__BODY_CHECKPOINT_LIST;
        answer->response.checkpoint_list = &answer->checkpoints;
        break;
    case PERFORMER__REQUEST__BODY_ACT:
        performer__acted__init(&answer->acted);
        answer->acted.run = "r1";
        answer->acted.order = 12;
        answer->response.body_case = PERFORMER__RESPONSE__BODY_ACTED;
        answer->response.acted = &answer->acted;
        break;
    default:
        answer_pong(answer);
    }
}

static void note(struct scripted_daemon *daemon, const Performer__Request *request)
{
    if (request->body_case != PERFORMER__REQUEST__BODY_SUBMIT) return;
    if (daemon->submits++ == 0)
        snprintf(daemon->key, sizeof daemon->key, "%s", request->submit->key);
    if (strcmp(daemon->key, request->submit->key) != 0) daemon->same_key = false;
}

static void respond(struct scripted_daemon *daemon, const Performer__Request *request)
{
    struct answer *answer = calloc(1, sizeof *answer);
    uint8_t *bytes;
    size_t length;

    performer__response__init(&answer->response);
    answer->response.status = (int)daemon->script.status;
    if (daemon->script.status != ST_OK)
        answer->response.text = "said the script";
    else if (daemon->script.other_body)
        answer_pong(answer);
    else
        answer_body(daemon, request, answer);
    if (wire_pack_response(&answer->response, &bytes, &length) != ST_OK) abort();
    nng_send(daemon->socket, bytes, length, 0);
    free(bytes);
    free(answer);
}

static void *serve(void *context)
{
    struct scripted_daemon *daemon = context;

    for (;;) {
        Performer__Request *request;
        struct fault fault;
        void *bytes;
        size_t length;
        if (nng_recv(daemon->socket, &bytes, &length, NNG_FLAG_ALLOC) != 0) return NULL;
        if (wire_unpack_request(bytes, length, &request, &fault) != ST_OK) abort();
        nng_free(bytes, length);
        note(daemon, request);
        /* A request that is left alone is forgotten as soon as the next one is received. */
        if (daemon->script.silent > 0)
            daemon->script.silent--;
        else
            respond(daemon, request);
        performer__request__free_unpacked(request, NULL);
    }
}

struct scripted_daemon *scripted_daemon_start_at(struct script script, const char *url)
{
    struct scripted_daemon *daemon = calloc(1, sizeof *daemon);

    daemon->script = script;
    daemon->same_key = true;
    snprintf(daemon->url, sizeof daemon->url, "%s", url);
    if (nng_rep0_open(&daemon->socket) != 0) abort();
    if (nng_listen(daemon->socket, daemon->url, NULL, 0) != 0) abort();
    if (pthread_create(&daemon->thread, NULL, serve, daemon) != 0) abort();
    return daemon;
}

struct scripted_daemon *scripted_daemon_start(struct script script)
{
    static int serial;
    char url[128];

    snprintf(url, sizeof url, "ipc:///tmp/test-performerctl-%d-%d.sock", (int)getpid(), serial++);
    return scripted_daemon_start_at(script, url);
}

void scripted_daemon_stop(struct scripted_daemon *daemon)
{
    nng_close(daemon->socket);
    pthread_join(daemon->thread, NULL);
    free(daemon);
}

const char *scripted_daemon_url(const struct scripted_daemon *daemon)
{
    return daemon->url;
}

unsigned scripted_daemon_submits(const struct scripted_daemon *daemon)
{
    return daemon->submits;
}

bool scripted_daemon_same_key(const struct scripted_daemon *daemon)
{
    return daemon->same_key;
}

unsigned scripted_daemon_looks(const struct scripted_daemon *daemon)
{
    return atomic_load(&daemon->looks);
}
