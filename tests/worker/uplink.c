/* The line to the daemon, against a real REP socket: what is told arrives, in order and once, whatever the
 * daemon does. */

#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>

#include "proto/durable.h"
#include "proto/wire.h"
#include "worker/outbox.h"
#include "worker/uplink.h"

static char directory[64], url[128], spool[128];
static Performer__Plan plan = PERFORMER__PLAN__INIT;
static struct fault fault;

static int entry_remove(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    return remove(path);
}

static void setup(void)
{
    strcpy(directory, "/tmp/uplink-XXXXXX");
    cr_assert(mkdtemp(directory));
    snprintf(url, sizeof url, "ipc://%s/socket", directory);
    snprintf(spool, sizeof spool, "%s/attempt-2/rank-1.spool", directory);
    plan.run = "r7";
    plan.attempt = 2;
    plan.nonce = "abc";
    setenv("PERFORMERD_URL", url, 1);
    plan.directory = directory;
}

static void teardown(void)
{
    nftw(directory, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(uplink, .init = setup, .fini = teardown, .timeout = 120);

static struct uplink *opened(void)
{
    struct uplink *uplink;
    cr_assert_eq(uplink_open(&plan, 1, &uplink, &fault), ST_OK, "%s", fault.text);
    return uplink;
}

/* ---- what was heard, of a socket or from a spool file ---- */

enum { HEARD_MAX = 4096 };

struct heard {
    Performer__Report *reports[HEARD_MAX]; /* each sequence number once, in order of arrival */
    size_t count;
    size_t requests; /* with those that came again */
};

static void heard_fini(struct heard *heard)
{
    for (size_t i = 0; i < heard->count; i++)
        performer__report__free_unpacked(heard->reports[i], NULL);
    free(heard);
}

/* As the daemon takes them: a number that is not above the last is one that came again. */
static void hear(struct heard *heard, Performer__Report *report)
{
    heard->requests++;
    uint64_t last = heard->count > 0 ? heard->reports[heard->count - 1]->sequence : 0;
    if (report->sequence > last) {
        cr_assert_eq(report->sequence, last + 1, "no gaps");
        cr_assert_lt(heard->count, HEARD_MAX);
        heard->reports[heard->count++] = report;
        return;
    }
    for (size_t i = 0; i < heard->count; i++) {
        const Performer__Report *before = heard->reports[i];
        if (before->sequence != report->sequence) continue;
        cr_assert_eq(before->n_metrics, report->n_metrics, "sent again as it was");
        cr_assert_eq(before->n_notices, report->n_notices);
        cr_assert_eq(before->heartbeat->step, report->heartbeat->step);
    }
    performer__report__free_unpacked(report, NULL);
}

/* Adds what the spool file holds; it may hold what was answered too. */
static void hear_spool(struct heard *heard)
{
    char *bytes;
    size_t length, at = 0;
    enum status status = file_read(spool, 64 << 20, &bytes, &length, &fault);
    if (status == ST_NOT_FOUND) return;
    cr_assert_eq(status, ST_OK, "%s", fault.text);
    while (at < length) {
        const uint8_t *next = (const uint8_t *)bytes + at;
        cr_assert_leq(at + 4, length);
        size_t size =
            next[0] | (size_t)next[1] << 8 | (size_t)next[2] << 16 | (size_t)next[3] << 24;
        cr_assert_leq(at + 4 + size, length, "a report is cut at %zu of %zu", at, length);
        Performer__Report *report = performer__report__unpack(NULL, size, next + 4);
        cr_assert(report);
        hear(heard, report);
        at += 4 + size;
    }
    free(bytes);
}

static size_t rows_heard(const struct heard *heard)
{
    size_t rows = 0;
    for (size_t i = 0; i < heard->count; i++) rows += heard->reports[i]->n_metrics;
    return rows;
}

static uint64_t thinned_heard(const struct heard *heard)
{
    uint64_t thinned = 0;
    for (size_t i = 0; i < heard->count; i++) thinned += heard->reports[i]->metrics_thinned;
    return thinned;
}

static void report_check(const Performer__Report *report)
{
    cr_assert_str_eq(report->run, "r7");
    cr_assert_str_eq(report->nonce, "abc");
    cr_assert_eq(report->attempt, 2);
    cr_assert_eq(report->rank, 1);
    cr_assert(report->heartbeat);
    cr_assert_eq(report->heartbeat->pid, (uint64_t)getpid());
    cr_assert_leq(performer__report__get_packed_size(report), 512 << 10);
}

/* ---- the training side: steps that tell as a rank does ---- */

static void tell_notice(struct uplink *uplink, uint64_t step)
{
    Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
    Performer__Notice notice = PERFORMER__NOTICE__INIT;
    applied.order = step;
    applied.kind = PERFORMER__ORDER__KIND__REDRAW;
    notice.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
    notice.order_applied = &applied;
    uplink_notice(uplink, step, &notice);
}

/* Two rows a step and a notice every tenth, before them. */
static void tell_steps(struct uplink *uplink, uint64_t from, uint64_t to)
{
    for (uint64_t step = from; step <= to; step++) {
        uplink_phase(uplink, step, PHASE_FORWARD, 12.5);
        if (step % 10 == 0) tell_notice(uplink, step);
        uplink_metric(uplink, step, "loss", (double)step / 3);
        uplink_metric(uplink, step, "lr", 1e-3);
    }
}

/* Steps 1 ... `steps` are all there, in order, each notice not behind the rows of its step. */
static void expect_steps(const struct heard *heard, uint64_t steps)
{
    uint64_t next_row = 0, next_notice = 10;
    for (size_t i = 0; i < heard->count; i++) {
        const Performer__Report *report = heard->reports[i];
        report_check(report);
        cr_assert_eq(report->metrics_thinned, 0);
        for (size_t n = 0; n < report->n_notices; n++, next_notice += 10) {
            cr_assert_eq(report->notices[n]->step, next_notice);
            cr_assert_eq(report->notices[n]->order_applied->order, next_notice);
            cr_assert_gt(report->notices[n]->time_ms, 0);
        }
        for (size_t m = 0; m < report->n_metrics; m++, next_row++) {
            const Performer__MetricRow *row = report->metrics[m];
            cr_assert_eq(row->step, 1 + next_row / 2);
            cr_assert_str_eq(row->name, next_row % 2 == 0 ? "loss" : "lr");
            if (next_row % 2 == 0) cr_assert_eq(row->value, (double)row->step / 3);
            cr_assert_eq(row->attempt, 2);
            cr_assert_gt(row->time_ms, 0);
            cr_assert_lt(row->step, next_notice, "a notice comes behind the rows of its step");
        }
    }
    cr_assert_eq(next_row, 2 * steps);
    cr_assert_eq(next_notice, steps - steps % 10 + 10);
}

/* ---- a daemon ---- */

struct server {
    nng_socket socket;
    pthread_t thread;
    pthread_mutex_t lock;
    struct heard *heard;
    atomic_bool ended;
    /* what it does with the next requests */
    atomic_bool stuck; /* receives nothing */
    atomic_int silent; /* so many are not answered */
    atomic_int refuse; /* so many are answered with `refusal` */
    enum status refusal;
    atomic_bool fence;
    atomic_int order_count;
    uint64_t orders[4];
    int meets_after; /* so many requests it knows of no rendezvous yet */
    char rendezvous[100];
};

static void server_reply(struct server *server)
{
    Performer__Response response = PERFORMER__RESPONSE__INIT;
    Performer__ReportReply reply = PERFORMER__REPORT_REPLY__INIT;
    Performer__Order orders[4], *pointers[4];
    int refused = atomic_load(&server->refuse);
    if (refused > 0) {
        atomic_store(&server->refuse, refused - 1);
        response.status = (int32_t)server->refusal;
        response.text = "refused by the test";
    } else {
        response.body_case = PERFORMER__RESPONSE__BODY_REPORT_REPLY;
        response.report_reply = &reply;
        reply.fenced = atomic_load(&server->fence);
        if (server->meets_after-- <= 0) reply.rendezvous = server->rendezvous;
        reply.orders = pointers;
        reply.n_orders = (size_t)atomic_load(&server->order_count);
        for (size_t i = 0; i < reply.n_orders; i++) {
            performer__order__init(&orders[i]);
            orders[i].id = server->orders[i];
            orders[i].kind = PERFORMER__ORDER__KIND__CHECKPOINT;
            pointers[i] = &orders[i];
        }
    }
    uint8_t *bytes;
    size_t length;
    cr_assert_eq(wire_pack_response(&response, &bytes, &length), ST_OK);
    nng_send(server->socket, bytes, length, 0);
    free(bytes);
}

static void server_take(struct server *server, const uint8_t *bytes, size_t length)
{
    Performer__Request *request;
    cr_assert_eq(wire_unpack_request(bytes, length, &request, &fault), ST_OK, "%s", fault.text);
    cr_assert_eq(request->body_case, PERFORMER__REQUEST__BODY_REPORT);
    Performer__Report *report = request->report;
    for (size_t i = 0; i < report->n_notices; i++)
        if (report->notices[i]->what_case == PERFORMER__NOTICE__WHAT_RENDEZVOUS)
            strcpy(server->rendezvous, report->notices[i]->rendezvous->text);
    request->report = NULL;
    request->body_case = PERFORMER__REQUEST__BODY__NOT_SET;
    performer__request__free_unpacked(request, NULL);
    pthread_mutex_lock(&server->lock);
    if (atomic_load(&server->refuse) > 0) {
        server->heard->requests++;
        performer__report__free_unpacked(report, NULL);
    } else {
        hear(server->heard, report);
    }
    pthread_mutex_unlock(&server->lock);
}

static void *server_run(void *context)
{
    struct server *server = context;
    while (!atomic_load(&server->ended)) {
        if (atomic_load(&server->stuck)) {
            usleep(1000);
            continue;
        }
        void *bytes;
        size_t length;
        if (nng_recv(server->socket, &bytes, &length, NNG_FLAG_ALLOC) != 0) continue;
        server_take(server, bytes, length);
        nng_free(bytes, length);
        int silent = atomic_load(&server->silent);
        if (silent > 0)
            atomic_store(&server->silent, silent - 1);
        else
            server_reply(server);
    }
    return NULL;
}

/* Begins to listen; the fields that say what it does may be set before. */
static void server_start(struct server *server)
{
    server->heard = calloc(1, sizeof *server->heard);
    pthread_mutex_init(&server->lock, NULL);
    cr_assert_eq(nng_rep0_open(&server->socket), 0);
    cr_assert_eq(nng_socket_set_ms(server->socket, NNG_OPT_RECVTIMEO, 20), 0);
    cr_assert_eq(nng_socket_set_size(server->socket, NNG_OPT_RECVMAXSZ, WIRE_BYTES_MAX), 0);
    cr_assert_eq(nng_listen(server->socket, url, NULL, 0), 0);
    cr_assert_eq(pthread_create(&server->thread, NULL, server_run, server), 0);
}

/* What it heard is the caller's. */
static struct heard *server_stop(struct server *server)
{
    atomic_store(&server->ended, true);
    pthread_join(server->thread, NULL);
    nng_close(server->socket);
    return server->heard;
}

static size_t server_requests(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    size_t requests = server->heard->requests;
    pthread_mutex_unlock(&server->lock);
    return requests;
}

/* ---- tests ---- */

Test(uplink, everything_arrives_in_order_and_once)
{
    struct server server = {0};
    server_start(&server);
    struct uplink *uplink = opened();
    for (uint64_t step = 1; step <= 300; step++) {
        tell_steps(uplink, step, step);
        if (step % 20 == 0) usleep(30000); /* several Reports */
    }
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_gt(heard->count, 2);
    expect_steps(heard, 300);
    cr_assert_eq(heard->requests, heard->count);
    cr_assert_eq(access(spool, F_OK), -1, "an empty spool goes");
    heard_fini(heard);
}

Test(uplink, much_at_once_is_cut_into_reports)
{
    struct server server = {0};
    server_start(&server);
    struct uplink *uplink = opened();
    tell_steps(uplink, 1, 25000); /* about 2 MB */
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_geq(heard->count, 3);
    expect_steps(heard, 25000);
    heard_fini(heard);
}

Test(uplink, a_report_without_answer_is_sent_again)
{
    struct server server = {.silent = 1};
    server_start(&server);
    struct uplink *uplink = opened();
    tell_steps(uplink, 1, 50);
    while (server_requests(&server) < 2) usleep(10000);
    tell_steps(uplink, 51, 60);
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_gt(heard->requests, heard->count);
    expect_steps(heard, 60);
    heard_fini(heard);
}

Test(uplink, a_daemon_that_is_away_gets_it_later)
{
    struct uplink *uplink = opened();
    for (uint64_t step = 1; step <= 60; step++) {
        tell_steps(uplink, step, step);
        usleep(15000);
    }
    struct server server = {0};
    server_start(&server);
    uplink_close(uplink, 30000, &fault);
    struct heard *heard = server_stop(&server);
    expect_steps(heard, 60);
    cr_assert_eq(access(spool, F_OK), -1);
    heard_fini(heard);
}

Test(uplink, a_daemon_that_refuses_gets_it_later)
{
    struct server server = {.refuse = 3, .refusal = ST_NO_SPACE};
    server_start(&server);
    struct uplink *uplink = opened();
    tell_steps(uplink, 1, 40);
    uplink_close(uplink, 30000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_geq(heard->requests, heard->count + 3);
    expect_steps(heard, 40);
    heard_fini(heard);
}

Test(uplink, without_a_daemon_all_is_in_the_spool)
{
    struct uplink *uplink = opened();
    for (uint64_t step = 1; step <= 60; step++) {
        tell_steps(uplink, step, step);
        usleep(10000);
    }
    uplink_close(uplink, 300, &fault);
    struct heard *heard = calloc(1, sizeof *heard);
    hear_spool(heard);
    cr_assert_gt(heard->count, 1);
    expect_steps(heard, 60);
    heard_fini(heard);
}

Test(uplink, a_killed_rank_leaves_what_it_told)
{
    pid_t rank;
    char *arguments[] = {UPLINK_RANK, directory, NULL};
    cr_assert_eq(posix_spawn(&rank, UPLINK_RANK, NULL, NULL, arguments, environ), 0);
    struct stat about = {0};
    off_t size = -1;
    while (about.st_size == 0 || size != about.st_size) { /* until it grows no more */
        size = about.st_size;
        usleep(400000);
        if (stat(spool, &about) != 0) about.st_size = 0;
    }
    kill(rank, SIGKILL);
    cr_assert_eq(waitpid(rank, NULL, 0), rank);
    struct heard *heard = calloc(1, sizeof *heard);
    hear_spool(heard);
    cr_assert_eq(rows_heard(heard), 1000);
    heard_fini(heard);
}

static enum status put_report(void *context, uint8_t *packed, size_t length, uint64_t sequence,
                              size_t rows)
{
    return outbox_put(context, packed, length, sequence, rows);
}

/* Hours of small reports become a few large ones; the one that has been sent stays as it is. */
Test(uplink, many_small_reports_are_joined)
{
    struct outbox outbox;
    Performer__Heartbeat heartbeat = PERFORMER__HEARTBEAT__INIT;
    heartbeat.pid = (uint64_t)getpid();
    struct report_origin origin = {&plan, 1, 1, &heartbeat};
    const struct report_sink sink = {&outbox, put_report};
    snprintf(spool, sizeof spool, "%s/rank-1.spool", directory);
    outbox_init(&outbox, spool);
    for (uint64_t step = 1; step <= 400; step++) {
        struct report_items items = {0};
        struct metric_item row = {.step = step, .time_ms = 1, .value = (double)step / 3};
        if (step % 10 == 0) {
            Performer__OrderApplied applied = PERFORMER__ORDER_APPLIED__INIT;
            Performer__Notice notice = PERFORMER__NOTICE__INIT;
            applied.order = notice.step = step;
            notice.time_ms = 1;
            notice.what_case = PERFORMER__NOTICE__WHAT_ORDER_APPLIED;
            notice.order_applied = &applied;
            cr_assert_eq(report_items_add_notice(&items, &notice), ST_OK);
        }
        strcpy(row.name, "loss");
        cr_assert_eq(report_items_add_row(&items, &row), ST_OK);
        strcpy(row.name, "lr");
        cr_assert_eq(report_items_add_row(&items, &row), ST_OK);
        cr_assert_eq(report_items_send(&items, &origin, &sink), ST_OK);
        report_items_fini(&items);
        if (step == 7) cr_assert_eq(outbox_next(&outbox)->sequence, 1);
    }
    cr_assert_eq(outbox.count, 400);
    cr_assert_eq(origin.sequence, 401);
    cr_assert_eq(outbox_remake(&outbox, 65536, &origin), ST_OK);
    cr_assert_eq(outbox.count, 2);
    cr_assert_eq(origin.sequence, 3);
    cr_assert_eq(outbox.rows, 800);
    struct heard *heard = calloc(1, sizeof *heard);
    hear_spool(heard);
    cr_assert_eq(heard->reports[0]->n_metrics, 2);
    expect_steps(heard, 400);
    heard_fini(heard);

    cr_assert_eq(outbox_remake(&outbox, 500, &origin), ST_OK);
    cr_assert_leq(outbox.rows, 500);
    heard = calloc(1, sizeof *heard);
    hear_spool(heard);
    cr_assert_eq(rows_heard(heard), outbox.rows);
    cr_assert_eq(thinned_heard(heard), 800 - outbox.rows);
    heard_fini(heard);

    outbox_answered(&outbox);
    outbox_answered(&outbox);
    cr_assert_null(outbox_next(&outbox));
    heard = calloc(1, sizeof *heard);
    hear_spool(heard);
    cr_assert_eq(heard->count, 0, "emptied with the last answer");
    heard_fini(heard);
    outbox_close(&outbox, &fault);
    cr_assert_eq(access(spool, F_OK), -1);
}

/* The newest are there, the notices all, and what is missing is counted. */
static void expect_thinned(const struct heard *heard, uint64_t steps, size_t rows_max)
{
    size_t rows = rows_heard(heard);
    uint64_t notices = 0, previous = 0;
    cr_assert_leq(rows, rows_max);
    cr_assert_gt(rows, 32768);
    cr_assert_eq(rows + thinned_heard(heard), 2 * steps);
    size_t row = 0;
    for (size_t i = 0; i < heard->count; i++) {
        const Performer__Report *report = heard->reports[i];
        report_check(report);
        notices += report->n_notices;
        for (size_t m = 0; m < report->n_metrics; m++, row++) {
            cr_assert_geq(report->metrics[m]->step, previous);
            previous = report->metrics[m]->step;
            uint64_t newest = rows - row; /* this one is the newest-th from the end */
            if (newest <= 24576) cr_assert_eq(previous, steps - (newest - 1) / 2);
        }
    }
    cr_assert_eq(notices, steps / 10);
}

Test(uplink, what_comes_too_fast_is_thinned_and_counted)
{
    struct uplink *uplink = opened();
    tell_steps(uplink, 1, 100000);
    uplink_close(uplink, 0, &fault);
    struct heard *heard = calloc(1, sizeof *heard);
    hear_spool(heard);
    expect_thinned(heard, 100000, 65536);
    heard_fini(heard);
}

Test(uplink, a_full_spool_is_thinned_and_counted)
{
    struct uplink *uplink = opened();
    for (uint64_t step = 0; step < 100000; step += 10000) {
        tell_steps(uplink, step + 1, step + 10000);
        usleep(250000);
    }
    struct server server = {0};
    server_start(&server);
    uplink_close(uplink, 30000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_gt(thinned_heard(heard), 0);
    expect_thinned(heard, 100000, 2 * 65536); /* of the outbox, and of the queue behind it */
    heard_fini(heard);
}

/* All calls return while nobody takes anything from the socket. */
Test(uplink, a_stuck_daemon_stops_nobody)
{
    struct server server = {.stuck = true};
    server_start(&server);
    struct uplink *uplink = opened();
    struct wanted_order wanted;
    for (uint64_t step = 0; step < 1000; step += 100) {
        tell_steps(uplink, step + 1, step + 100);
        usleep(50000);
        cr_assert_eq(uplink_wanted(uplink, &wanted, 1), 0);
        cr_assert_not(uplink_fenced(uplink));
        uplink_applied(uplink, step + 1);
    }
    cr_assert_eq(server_requests(&server), 0);
    atomic_store(&server.stuck, false);
    uplink_close(uplink, 30000, &fault);
    struct heard *heard = server_stop(&server);
    expect_steps(heard, 1000);
    heard_fini(heard);
}

/* A call is under way that nobody answers, and rows have just come: they are in the file when settle returns. */
Test(uplink, settled_words_are_in_the_spool)
{
    struct server server = {.stuck = true};
    server_start(&server);
    struct uplink *uplink = opened();
    tell_steps(uplink, 1, 10);
    usleep(500000);
    tell_steps(uplink, 11, 60);
    cr_assert_eq(uplink_settle(uplink, &fault), ST_OK, "%s", fault.text);
    struct heard *held = calloc(1, sizeof *held);
    hear_spool(held);
    expect_steps(held, 60);
    heard_fini(held);
    atomic_store(&server.stuck, false);
    cr_assert_eq(uplink_close(uplink, 30000, &fault), ST_OK);
    struct heard *heard = server_stop(&server);
    expect_steps(heard, 60);
    heard_fini(heard);
}

static int wait_wanted(struct uplink *uplink, struct wanted_order wanted[4], int count)
{
    int found = -1;
    while (found != count) {
        usleep(5000);
        found = uplink_wanted(uplink, wanted, 4);
    }
    return found;
}

Test(uplink, orders_are_wanted_until_applied)
{
    struct server server = {.orders = {9, 3}, .order_count = 2};
    server_start(&server);
    struct uplink *uplink = opened();
    struct wanted_order wanted[4];
    uplink_applied(uplink, 5); /* agreed upon before this rank heard of it */
    wait_wanted(uplink, wanted, 2);
    cr_assert_eq(wanted[0].id, 3);
    cr_assert_eq(wanted[1].id, 9);
    cr_assert_eq(wanted[0].kind, PERFORMER__ORDER__KIND__CHECKPOINT);
    cr_assert_eq(uplink_wanted(uplink, wanted, 1), 1);
    cr_assert_eq(wanted[0].id, 3);

    uplink_applied(uplink, 3);
    size_t before = server_requests(&server);
    server.orders[2] = 5;
    atomic_store(&server.order_count, 3); /* 3 and 5 are told again */
    while (server_requests(&server) < before + 3) {
        uplink_metric(uplink, 1, "loss", 1.0);
        usleep(20000);
        cr_assert_eq(uplink_wanted(uplink, wanted, 4), 1);
        cr_assert_eq(wanted[0].id, 9);
    }
    atomic_store(&server.order_count, 0); /* dropped by the daemon */
    wait_wanted(uplink, wanted, 0);
    uplink_close(uplink, 20000, &fault);
    heard_fini(server_stop(&server));
}

Test(uplink, heartbeats_come_by_themselves)
{
    struct server server = {0};
    server_start(&server);
    struct uplink *uplink = opened();
    uplink_phase(uplink, 41, PHASE_BACKWARD, 7.5);
    usleep(50000);
    uplink_phase(uplink, 41, PHASE_UPDATE, 7.5);
    uplink_phase(uplink, 41, PHASE_BACKWARD, 7.5);
    while (server_requests(&server) < 3) usleep(10000);
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    const Performer__Report *last = heard->reports[heard->count - 1];
    report_check(last);
    cr_assert_eq(last->n_metrics + last->n_notices, 0);
    cr_assert_eq(last->heartbeat->step, 41);
    cr_assert_str_eq(last->heartbeat->phase, "backward");
    cr_assert_eq(last->heartbeat->step_ms, 7.5);
    cr_assert_geq(last->heartbeat->usual_ms, 50, "as long as the first one took");
    cr_assert_gt(last->heartbeat->stood_ms, heard->reports[0]->heartbeat->stood_ms);
    cr_assert(last->heartbeat->host[0]);
    heard_fini(heard);
}

Test(uplink, fenced_it_sends_no_more)
{
    struct server server = {.fence = true};
    server_start(&server);
    struct uplink *uplink = opened();
    cr_assert_not(uplink_fenced(uplink));
    tell_steps(uplink, 1, 10);
    while (!uplink_fenced(uplink)) usleep(5000);
    size_t requests = server_requests(&server);
    tell_steps(uplink, 11, 20);
    usleep(1500000);
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_eq(heard->requests, requests);
    hear_spool(heard); /* the rest is kept all the same */
    expect_steps(heard, 20);
    heard_fini(heard);
}

static void expect_silenced(enum status refusal, bool fenced)
{
    struct server server = {.refuse = 1, .refusal = refusal};
    server_start(&server);
    struct uplink *uplink = opened();
    tell_steps(uplink, 1, 10);
    while (server_requests(&server) < 1) usleep(5000);
    tell_steps(uplink, 11, 20);
    usleep(1500000);
    cr_assert_eq(uplink_fenced(uplink), fenced);
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    cr_assert_eq(heard->requests, 1);
    hear_spool(heard);
    expect_steps(heard, 20);
    heard_fini(heard);
}

/* ---- a rendezvous ---- */

Test(uplink, rank_0_tells_how_to_find_it_and_hears_it_back)
{
    struct server server = {.meets_after = 2};
    struct uplink *uplink;
    char text[100] = "here";
    cr_assert_eq(uplink_open(&plan, 0, &uplink, &fault), ST_OK, "%s", fault.text);
    server_start(&server); /* the daemon comes later */
    cr_expect_eq(uplink_meet(uplink, text, sizeof text, &fault), ST_OK);
    cr_expect_str_eq(text, "here");
    uplink_close(uplink, 20000, &fault);
    heard_fini(server_stop(&server));
    cr_expect_str_eq(server.rendezvous, "here");
}

Test(uplink, another_rank_hears_it_once_it_is_known)
{
    struct server server = {.meets_after = 3, .rendezvous = "there"};
    server_start(&server);
    struct uplink *uplink = opened();
    char text[100] = "";
    cr_expect_eq(uplink_meet(uplink, text, sizeof text, &fault), ST_OK);
    cr_expect_str_eq(text, "there");
    uplink_close(uplink, 20000, &fault);
    struct heard *heard = server_stop(&server);
    cr_expect_geq(heard->requests, 4);
    heard_fini(heard);
}

static void expect_no_meeting(struct server server, enum status end)
{
    server_start(&server);
    struct uplink *uplink = opened();
    char text[100] = "";
    cr_expect_eq(uplink_meet(uplink, text, sizeof text, &fault), end);
    cr_expect_str_eq(text, "");
    cr_expect(strstr(fault.text, "meet"));
    uplink_close(uplink, 20000, &fault);
    heard_fini(server_stop(&server));
}

Test(uplink, who_is_refused_meets_nobody)
{
    expect_no_meeting((struct server){.refuse = 1, .refusal = ST_NOT_FOUND}, ST_NOT_FOUND);
}

Test(uplink, who_is_fenced_meets_nobody)
{
    expect_no_meeting((struct server){.fence = true, .rendezvous = "there"}, ST_FENCED);
}

Test(uplink, an_unknown_run_is_spooled)
{
    expect_silenced(ST_NOT_FOUND, false);
}

Test(uplink, a_fenced_status_is_a_fence)
{
    expect_silenced(ST_FENCED, true);
}

/* No spool, no daemon yet: the reports wait in memory. A spool that is full holds whole reports. */
Test(uplink, a_spool_that_cannot_grow_loses_nothing_in_memory)
{
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {1000, RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct uplink *uplink = opened();
    for (uint64_t step = 0; step < 60; step += 10) {
        tell_steps(uplink, step + 1, step + 10);
        usleep(250000);
    }
    struct heard *held = calloc(1, sizeof *held);
    hear_spool(held); /* what fits, and no half of a report behind it */
    cr_assert_lt(rows_heard(held), 120);
    heard_fini(held);
    cr_assert_eq(uplink_settle(uplink, &fault), ST_NO_SPACE);
    struct server server = {0};
    server_start(&server);
    cr_assert_eq(uplink_close(uplink, 30000, &fault), ST_OK, "the daemon has it all");
    struct heard *heard = server_stop(&server);
    expect_steps(heard, 60);
    heard_fini(heard);
}

Test(uplink, what_is_no_url_is_refused)
{
    struct uplink *uplink = (void *)&plan;
    setenv("PERFORMERD_URL", "nonsense", 1);
    cr_assert_neq(uplink_open(&plan, 1, &uplink, &fault), ST_OK);
    cr_assert(strstr(fault.text, "nonsense"), "%s", fault.text);
    cr_assert_eq(uplink, (void *)&plan);
}

/* ---- without a daemon ---- */

static char *metrics_text(void)
{
    static char path[96];
    char *text;
    size_t length;
    snprintf(path, sizeof path, "%s/metrics.jsonl", directory);
    cr_assert_eq(file_read(path, 1 << 20, &text, &length, &fault), ST_OK, "%s", fault.text);
    return text;
}

static void expect_lines(int count, const char *const *beginnings)
{
    char *text = metrics_text(), *line = text;
    for (int i = 0; i < count; i++) {
        cr_assert_eq(strncmp(line, beginnings[i], strlen(beginnings[i])), 0, "%s", line);
        const char *rest = line + strlen(beginnings[i]);
        unsigned long long time_ms;
        int end = 0;
        cr_assert_eq(sscanf(rest, ",\"time_ms\":%llu}%n", &time_ms, &end), 1, "%s", line);
        cr_assert(end > 0 && rest[end] == '\n');
        line = strchr(line, '\n') + 1;
    }
    cr_assert_eq(*line, '\0');
    free(text);
}

Test(uplink, without_a_daemon_metrics_go_to_a_file)
{
    static const char *const lines[] = {
        "{\"attempt\":1,\"step\":1,\"name\":\"loss\",\"value\":4.22",
        "{\"attempt\":1,\"step\":1,\"name\":\"grad_norm\",\"value\":0.1",
        "{\"attempt\":1,\"step\":2,\"name\":\"loss\",\"value\":0.3333333333333333",
        "{\"attempt\":1,\"step\":2,\"name\":\"valid_loss\",\"value\":null",
        "{\"attempt\":2,\"step\":2,\"name\":\"loss\",\"value\":1e-300",
        "{\"attempt\":3,\"step\":3,\"name\":\"loss\",\"value\":2"};
    struct uplink *uplink;
    cr_assert_eq(uplink_open_file(directory, 0, &uplink, &fault), ST_OK, "%s", fault.text);
    uplink_metric(uplink, 1, "loss", 4.22);
    uplink_metric(uplink, 1, "grad_norm", 0.1);
    expect_lines(2, lines); /* at once */
    uplink_metric(uplink, 2, "loss", 1.0 / 3.0);
    uplink_metric(uplink, 2, "valid_loss", NAN);
    tell_notice(uplink, 2);
    uplink_phase(uplink, 2, PHASE_DONE, 0.0);
    struct wanted_order wanted;
    cr_assert_eq(uplink_wanted(uplink, &wanted, 1), 0);
    uplink_applied(uplink, 1);
    cr_assert_not(uplink_fenced(uplink));
    uplink_close(uplink, 0, &fault);
    expect_lines(4, lines);

    cr_assert_eq(uplink_open_file(directory, 0, &uplink, &fault), ST_OK, "%s", fault.text);
    uplink_metric(uplink, 2, "loss", 1e-300);
    uplink_close(uplink, 0, &fault);

    char path[96]; /* a run that was killed in the middle of a line */
    snprintf(path, sizeof path, "%s/metrics.jsonl", directory);
    FILE *file = fopen(path, "a");
    fputs("{\"attempt\":2,\"step\":3,\"na", file);
    fclose(file);
    cr_assert_eq(uplink_open_file(directory, 0, &uplink, &fault), ST_OK, "%s", fault.text);
    uplink_metric(uplink, 3, "loss", 2.0);
    uplink_close(uplink, 0, &fault);
    expect_lines(6, lines);
}

Test(uplink, rank_0_alone_writes_the_file)
{
    struct uplink *uplink;
    cr_assert_eq(uplink_open_file(directory, 1, &uplink, &fault), ST_OK);
    uplink_metric(uplink, 1, "loss", 4.22);
    uplink_close(uplink, 0, &fault);
    char path[96];
    snprintf(path, sizeof path, "%s/metrics.jsonl", directory);
    cr_assert_eq(access(path, F_OK), -1);
    snprintf(path, sizeof path, "%s/absent", directory);
    cr_assert_eq(uplink_open_file(path, 0, &uplink, &fault), ST_NOT_FOUND);
    cr_assert(strstr(fault.text, path));
}
