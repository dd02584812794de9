#include "worker/uplink.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/client.h"
#include "proto/durable.h"
#include "proto/logline.h"
#include "worker/metrics_file.h"
#include "worker/notices.h"
#include "worker/outbox.h"
#include "worker/report_items.h"

/*
 * Two sides and two locks. The training thread puts rows and notices into `queued`; the uplink's own
 * thread takes all of them at each tick, makes Reports of them, puts those into the outbox (and with it
 * into the spool file), and sends the oldest until it is answered. It holds `lock` only to swap what is
 * queued and to note what a reply says, `outbox_lock` while it changes the outbox, neither while it waits. The
 * training thread touches the outbox once: when it settles its last words.
 */

enum {
    TICK_MS = 200,
    HEARTBEAT_MS = 1000,
    CALL_MS = 5000,
    BACKOFF_MIN_MS = 200,
    BACKOFF_MAX_MS = 5000,
    MEETING_MS = 20,
    RENDEZVOUS_MAX = 512,
    ROWS_MAX = 65536,   /* queued, and again in the outbox */
    REPORTS_MAX = 256,  /* of the outbox, before they are joined to larger ones */
    WANTED_MAX = 64,    /* orders beyond it are told again */
    APPLIED_MAX = 4096, /* an order this many back is not told again */
};

struct uplink {
    struct metrics_file *file; /* instead of a daemon; NULL on ranks that write none */
    struct client *client;     /* NULL: no daemon, no thread */

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;

    /* under the lock */
    struct report_items queued;
    uint64_t step;
    double step_ms;
    enum phase phase;
    int64_t phase_began_ms;
    int64_t longest_ms[PHASE_COUNT];        /* that one took */
    struct wanted_order wanted[WANTED_MAX]; /* as the newest reply has them */
    int wanted_count;
    uint64_t applied[APPLIED_MAX]; /* a ring */
    size_t applied_count;          /* so far */
    bool fenced;
    enum status refused; /* with what the daemon refuses this rank for good */
    bool meeting;        /* the text is being waited for: heartbeats come with each tick */
    char rendezvous[RENDEZVOUS_MAX];
    uint64_t own_steps; /* done */
    double own_ms;      /* that they took, without waiting for others */
    bool closing;
    int64_t deadline_ms; /* of the close */

    /* under outbox_lock, which is taken before the other */
    pthread_mutex_t outbox_lock;
    struct report_items taken;
    struct outbox outbox;
    struct report_origin origin;
    Performer__Heartbeat heartbeat;
    char host[256];
    int64_t reported_ms;

    /* the thread's own */
    bool silenced; /* nothing more is sent: fenced, or the daemon does not know us */
    int64_t retry_ms;
    int backoff_ms;
    unsigned jitter;
    enum status complained; /* what the last failure was that has been logged */
};

static int64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- the thread ---- */

/* Blocks for a tick, or until the close begins. True: it has begun. */
static bool tick_wait(struct uplink *uplink)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    int waited = 0;
    while (!uplink->closing && waited == 0)
        waited = pthread_cond_timedwait(&uplink->wake, &uplink->lock, &until);
    return uplink->closing;
}

static void heartbeat_take(struct uplink *uplink)
{
    uplink->heartbeat.phase = (char *)phase_name(uplink->phase);
    uplink->heartbeat.step = uplink->step;
    uplink->heartbeat.step_ms = uplink->step_ms;
    uplink->heartbeat.stood_ms = (uint64_t)(monotonic_ms() - uplink->phase_began_ms);
    uplink->heartbeat.usual_ms = (uint64_t)uplink->longest_ms[uplink->phase];
    uplink->heartbeat.own_steps = uplink->own_steps;
    uplink->heartbeat.own_ms = uplink->own_ms;
}

/* All that is queued; what is left in its place is empty and keeps its memory. */
static void items_take(struct uplink *uplink)
{
    struct report_items queued = uplink->queued;
    uplink->queued = uplink->taken;
    uplink->taken = queued;
}

static enum status put_report(void *context, uint8_t *packed, size_t length, uint64_t sequence,
                              size_t rows)
{
    return outbox_put(context, packed, length, sequence, rows);
}

/* Of all that is queued; with nothing queued, of a heartbeat that is due. */
static void reports_make(struct uplink *uplink, bool with_heartbeat)
{
    pthread_mutex_lock(&uplink->lock);
    items_take(uplink);
    heartbeat_take(uplink);
    const int heartbeat_ms = uplink->meeting ? TICK_MS : HEARTBEAT_MS;
    pthread_mutex_unlock(&uplink->lock);

    struct report_items *items = &uplink->taken;
    int64_t now = monotonic_ms();
    bool something = items->row_count > 0 || items->notice_count > 0 || items->thinned > 0;
    bool heartbeat =
        with_heartbeat && uplink->outbox.count == 0 && now - uplink->reported_ms >= heartbeat_ms;
    if (!something && !heartbeat) return;
    uplink->reported_ms = now;

    const struct report_sink sink = {&uplink->outbox, put_report};
    enum status status = report_items_send(items, &uplink->origin, &sink);
    if (status == ST_OK && (uplink->outbox.rows > ROWS_MAX || uplink->outbox.count > REPORTS_MAX))
        status = outbox_remake(&uplink->outbox, ROWS_MAX, &uplink->origin);
    if (status != ST_OK) log_error("reports-lost", "%s", status_text(status));
    report_items_clear(items);
}

static bool applied_before(const struct uplink *uplink, uint64_t id)
{
    size_t count = uplink->applied_count < APPLIED_MAX ? uplink->applied_count : APPLIED_MAX;
    for (size_t i = 0; i < count; i++)
        if (uplink->applied[i] == id) return true;
    return false;
}

static int wanted_compare(const void *a, const void *b)
{
    uint64_t left = ((const struct wanted_order *)a)->id;
    uint64_t right = ((const struct wanted_order *)b)->id;
    return (left > right) - (left < right);
}

/* The newest reply is the truth: an order that it does not name is wanted no more. */
static void reply_take(struct uplink *uplink, const Performer__ReportReply *reply)
{
    pthread_mutex_lock(&uplink->lock);
    uplink->fenced = uplink->fenced || reply->fenced;
    snprintf(uplink->rendezvous, sizeof uplink->rendezvous, "%s", reply->rendezvous);
    uplink->wanted_count = 0;
    for (size_t i = 0; i < reply->n_orders && uplink->wanted_count < WANTED_MAX; i++) {
        const Performer__Order *order = reply->orders[i];
        if (applied_before(uplink, order->id)) continue;
        uplink->wanted[uplink->wanted_count++] = (struct wanted_order){order->id, order->kind};
    }
    qsort(uplink->wanted, (size_t)uplink->wanted_count, sizeof uplink->wanted[0], wanted_compare);
    pthread_mutex_unlock(&uplink->lock);
    uplink->silenced = uplink->silenced || reply->fenced;
}

/* How long a call may take: less, when the close has a deadline. */
static int call_ms(struct uplink *uplink)
{
    pthread_mutex_lock(&uplink->lock);
    int64_t left = uplink->closing ? uplink->deadline_ms - monotonic_ms() : CALL_MS;
    pthread_mutex_unlock(&uplink->lock);
    if (left < 0) return 0;
    return left < CALL_MS ? (int)left : CALL_MS;
}

static enum status report_call(struct uplink *uplink, Performer__Report *report, int timeout_ms,
                               struct fault *fault)
{
    Performer__Request request = PERFORMER__REQUEST__INIT;
    request.body_case = PERFORMER__REQUEST__BODY_REPORT;
    request.report = report;
    Performer__Response *response;
    enum status status = client_call(uplink->client, &request, timeout_ms, &response, fault);
    if (status != ST_OK) return status;
    if (response->body_case == PERFORMER__RESPONSE__BODY_REPORT_REPLY)
        reply_take(uplink, response->report_reply);
    else
        status = fault_set(fault, ST_CORRUPT, "the answer to a report is none");
    performer__response__free_unpacked(response, NULL);
    return status;
}

/* That the daemon is away is daily life, and shows in its own log; another failure is told once in a row. */
static void complain(struct uplink *uplink, enum status status, const struct fault *fault)
{
    if (status == uplink->complained) return;
    uplink->complained = status;
    if (status != ST_OK && status != ST_UNREACHABLE)
        log_warn("report-not-taken", "%s", fault->text);
}

static void call_failed(struct uplink *uplink, enum status status, const struct fault *fault)
{
    complain(uplink, status, fault);
    if (status == ST_NOT_PERMITTED || status == ST_NOT_FOUND || status == ST_FENCED) {
        uplink->silenced = true;
        pthread_mutex_lock(&uplink->lock);
        uplink->refused = status;
        uplink->fenced = uplink->fenced || status == ST_FENCED;
        pthread_mutex_unlock(&uplink->lock);
    }
    /* Half of it fixed, half of it chance, so that a thousand ranks do not come back at once. */
    int half = uplink->backoff_ms / 2;
    uplink->retry_ms = monotonic_ms() + half + rand_r(&uplink->jitter) % (half + 1);
    uplink->backoff_ms =
        uplink->backoff_ms < BACKOFF_MAX_MS / 2 ? 2 * uplink->backoff_ms : BACKOFF_MAX_MS;
}

/* The oldest, to be freed by the caller. NULL: none waits, or there is no memory for it. */
static Performer__Report *oldest_report(struct uplink *uplink)
{
    Performer__Report *report = NULL;
    pthread_mutex_lock(&uplink->outbox_lock);
    const struct outbox_entry *entry = outbox_next(&uplink->outbox);
    if (entry) report = performer__report__unpack(NULL, entry->length, entry->packed);
    pthread_mutex_unlock(&uplink->outbox_lock);
    return report;
}

static void oldest_answered(struct uplink *uplink)
{
    pthread_mutex_lock(&uplink->outbox_lock);
    outbox_answered(&uplink->outbox);
    pthread_mutex_unlock(&uplink->outbox_lock);
    complain(uplink, ST_OK, NULL);
    uplink->backoff_ms = BACKOFF_MIN_MS;
}

/* Sends what waits, oldest first, until one is not answered. */
static void reports_deliver(struct uplink *uplink)
{
    Performer__Report *report;
    enum status status = ST_OK;
    while (status == ST_OK && !uplink->silenced && monotonic_ms() >= uplink->retry_ms &&
           (report = oldest_report(uplink))) {
        struct fault fault = {0};
        int timeout_ms = call_ms(uplink);
        status = timeout_ms > 0 ? report_call(uplink, report, timeout_ms, &fault) : ST_UNREACHABLE;
        performer__report__free_unpacked(report, NULL);
        if (status == ST_OK)
            oldest_answered(uplink);
        else if (timeout_ms > 0)
            call_failed(uplink, status, &fault);
    }
}

/* Sends what is left while the close has time. */
static void reports_drain(struct uplink *uplink)
{
    uplink->backoff_ms = BACKOFF_MIN_MS;
    uplink->retry_ms = 0;
    for (;;) {
        reports_deliver(uplink);
        if (uplink->outbox.count == 0 || uplink->silenced || call_ms(uplink) == 0) return;
        if (uplink->backoff_ms > BACKOFF_MIN_MS) uplink->backoff_ms = BACKOFF_MIN_MS;
        int64_t pause_ms = uplink->retry_ms - monotonic_ms();
        if (pause_ms > call_ms(uplink)) pause_ms = call_ms(uplink);
        if (pause_ms > 0) usleep((useconds_t)pause_ms * 1000);
    }
}

static void *uplink_run(void *context)
{
    struct uplink *uplink = context;
    bool closing = false;
    while (!closing) {
        pthread_mutex_lock(&uplink->lock);
        closing = tick_wait(uplink);
        pthread_mutex_unlock(&uplink->lock);
        pthread_mutex_lock(&uplink->outbox_lock);
        reports_make(uplink, !uplink->silenced);
        pthread_mutex_unlock(&uplink->outbox_lock);
        if (!closing) reports_deliver(uplink);
    }
    reports_drain(uplink);
    return NULL;
}

/* ---- the training thread ---- */

static void lock_init(struct uplink *uplink)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&uplink->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&uplink->lock, NULL);
    pthread_mutex_init(&uplink->outbox_lock, NULL);
}

/* Signals are for the training thread. */
static int thread_start(struct uplink *uplink)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&uplink->thread, NULL, uplink_run, uplink);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static void uplink_free(struct uplink *uplink)
{
    report_items_fini(&uplink->queued);
    report_items_fini(&uplink->taken);
    pthread_mutex_destroy(&uplink->lock);
    pthread_mutex_destroy(&uplink->outbox_lock);
    pthread_cond_destroy(&uplink->wake);
    client_close(uplink->client);
    free(uplink);
}

static void identity_set(struct uplink *uplink, const Performer__Plan *plan, uint32_t rank)
{
    gethostname(uplink->host, sizeof uplink->host - 1);
    performer__heartbeat__init(&uplink->heartbeat);
    uplink->heartbeat.host = uplink->host;
    uplink->heartbeat.pid = (uint64_t)getpid();
    uplink->origin = (struct report_origin){plan, rank, 1, &uplink->heartbeat};
    uplink->backoff_ms = BACKOFF_MIN_MS;
    uplink->jitter = (unsigned)getpid() * 2654435761u + rank;
    uplink->reported_ms = monotonic_ms() - HEARTBEAT_MS;
    uplink->phase_began_ms = monotonic_ms();
}

enum status uplink_open(const Performer__Plan *plan, uint32_t rank, struct uplink **uplink,
                        struct fault *fault)
{
    char directory[4096], spool[4096 + 32], url[512];
    snprintf(directory, sizeof directory, "%s/attempt-%u", plan->directory, plan->attempt);
    snprintf(spool, sizeof spool, "%s/rank-%u.spool", directory, rank);
    enum status status = make_directories(directory, fault);
    if (status != ST_OK) return status;
    struct uplink *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "open the uplink: out of memory");
    client_default_url(url, sizeof url);
    lock_init(opened);
    identity_set(opened, plan, rank);
    status = client_open(url, &opened->client, fault);
    if (status != ST_OK) goto free_uplink;
    /* All that the training thread will need, now. */
    status = report_items_reserve(&opened->queued, ROWS_MAX);
    if (status == ST_OK) status = report_items_reserve(&opened->taken, ROWS_MAX);
    if (status != ST_OK) {
        fault_set(fault, status, "open the uplink: out of memory");
        goto free_uplink;
    }
    outbox_init(&opened->outbox, spool);
    int error = thread_start(opened);
    if (error != 0) {
        status = fault_errno(fault, error, "could not start the uplink's thread");
        goto free_uplink;
    }
    *uplink = opened;
    return ST_OK;

free_uplink:
    uplink_free(opened);
    return status;
}

enum status uplink_open_file(const char *directory, uint32_t rank, struct uplink **uplink,
                             struct fault *fault)
{
    struct uplink *opened = calloc(1, sizeof *opened);
    if (!opened) return fault_set(fault, ST_NO_MEMORY, "open metrics.jsonl: out of memory");
    enum status status = ST_OK;
    if (rank == 0) status = metrics_file_open(directory, &opened->file, fault);
    if (status != ST_OK) {
        free(opened);
        return status;
    }
    *uplink = opened;
    return ST_OK;
}

void uplink_metric(struct uplink *uplink, uint64_t step, const char *name, double value)
{
    assert(strlen(name) < METRIC_NAME_MAX);
    struct metric_item row = {.step = step, .time_ms = wall_clock_ms(), .value = value};
    if (uplink->file) metrics_file_add(uplink->file, step, name, value, row.time_ms);
    if (!uplink->client) return;
    memcpy(row.name, name, strlen(name) + 1);
    pthread_mutex_lock(&uplink->lock);
    if (uplink->queued.row_count == ROWS_MAX) report_items_thin(&uplink->queued);
    report_items_add_row(&uplink->queued, &row); /* has room */
    pthread_mutex_unlock(&uplink->lock);
}

void uplink_notice(struct uplink *uplink, uint64_t step, const Performer__Notice *notice)
{
    if (!uplink->client) return;
    Performer__Notice stamped = *notice;
    stamped.step = step;
    if (stamped.time_ms == 0) stamped.time_ms = wall_clock_ms();
    pthread_mutex_lock(&uplink->lock);
    enum status status = report_items_add_notice(&uplink->queued, &stamped);
    pthread_mutex_unlock(&uplink->lock);
    if (status != ST_OK) log_error("notice-lost", "%s", status_text(status));
}

void uplink_phase(struct uplink *uplink, uint64_t step, enum phase phase, double step_ms)
{
    if (!uplink->client) return;
    int64_t now_ms = monotonic_ms();
    pthread_mutex_lock(&uplink->lock);
    /* 1 at least: 0 is a phase that was never finished */
    int64_t took_ms = now_ms - uplink->phase_began_ms + 1,
            *longest_ms = &uplink->longest_ms[uplink->phase];
    if (took_ms > *longest_ms) *longest_ms = took_ms;
    uplink->step = step;
    uplink->step_ms = step_ms;
    uplink->phase = phase;
    uplink->phase_began_ms = now_ms;
    pthread_mutex_unlock(&uplink->lock);
}

void uplink_step_done(struct uplink *uplink, double own_ms)
{
    if (!uplink->client) return;
    pthread_mutex_lock(&uplink->lock);
    uplink->own_steps++;
    uplink->own_ms += own_ms;
    pthread_mutex_unlock(&uplink->lock);
}

int uplink_wanted(struct uplink *uplink, struct wanted_order *wanted, int max)
{
    if (!uplink->client) return 0;
    pthread_mutex_lock(&uplink->lock);
    int count = uplink->wanted_count < max ? uplink->wanted_count : max;
    memcpy(wanted, uplink->wanted, (size_t)count * sizeof *wanted);
    pthread_mutex_unlock(&uplink->lock);
    return count;
}

void uplink_applied(struct uplink *uplink, uint64_t id)
{
    if (!uplink->client) return;
    pthread_mutex_lock(&uplink->lock);
    uplink->applied[uplink->applied_count++ % APPLIED_MAX] = id;
    int kept = 0;
    for (int i = 0; i < uplink->wanted_count; i++)
        if (uplink->wanted[i].id != id) uplink->wanted[kept++] = uplink->wanted[i];
    uplink->wanted_count = kept;
    pthread_mutex_unlock(&uplink->lock);
}

bool uplink_fenced(struct uplink *uplink)
{
    if (!uplink->client) return false;
    pthread_mutex_lock(&uplink->lock);
    bool fenced = uplink->fenced;
    pthread_mutex_unlock(&uplink->lock);
    return fenced;
}

/* What is known of the meeting by now; true: no more has to be waited for. */
static bool meeting_over(struct uplink *uplink, char *text, size_t size, enum status *status)
{
    pthread_mutex_lock(&uplink->lock);
    *status = uplink->fenced ? ST_FENCED : uplink->refused;
    const bool over = *status != ST_OK || uplink->rendezvous[0] != '\0';
    if (over && *status == ST_OK) snprintf(text, size, "%s", uplink->rendezvous);
    uplink->meeting = !over;
    pthread_mutex_unlock(&uplink->lock);
    return over;
}

enum status uplink_meet(struct uplink *uplink, char *text, size_t size, struct fault *fault)
{
    enum status status;
    assert(uplink->client);
    if (uplink->origin.rank == 0) notice_rendezvous(uplink, text);
    while (!meeting_over(uplink, text, size, &status)) usleep(MEETING_MS * 1000);
    if (status == ST_OK) return ST_OK;
    return fault_set(fault, status, "the daemon does not let this rank meet the others: %s",
                     status_text(status));
}

enum status uplink_settle(struct uplink *uplink, struct fault *fault)
{
    if (!uplink->client) return ST_OK;
    pthread_mutex_lock(&uplink->outbox_lock);
    reports_make(uplink, false);
    enum status status = outbox_settle(&uplink->outbox, fault);
    pthread_mutex_unlock(&uplink->outbox_lock);
    return status;
}

enum status uplink_close(struct uplink *uplink, int timeout_ms, struct fault *fault)
{
    metrics_file_close(uplink->file);
    if (!uplink->client) {
        free(uplink);
        return ST_OK;
    }
    pthread_mutex_lock(&uplink->lock);
    uplink->closing = true;
    uplink->deadline_ms = monotonic_ms() + timeout_ms;
    pthread_cond_signal(&uplink->wake);
    pthread_mutex_unlock(&uplink->lock);
    pthread_join(uplink->thread, NULL);
    enum status status = outbox_close(&uplink->outbox, fault);
    uplink_free(uplink);
    return status;
}
