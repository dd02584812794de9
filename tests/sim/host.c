#include "tests/sim/host.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/clock.h"
#include "daemon/memory.h"
#include "tests/sim/disk.h"
#include "tests/sim/gang.h"
#include "tests/sim/ledger.h"
#include "tests/sim/product.h"
#include "tests/sim/slurm.h"
#include "tests/sim/world.h"

enum { AWAY_MS_MAX = 20000, SLOW_MS_MAX = 4000, BUSY_MS_MAX = 10 };

struct host host;

static void wake(void *what, uint64_t life);
static void wake_later(void);

/* ---- one life after the other ---- */

static void enter(void)
{
    world.reaching_out = true;
}

/* What a dead process leaves is what reached the disk. */
static void bury(void)
{
    driver_stop(&host.driver);
    ledger_buried(&host.coordinator);
    coordinator_fini(&host.coordinator);
    store_close(host.store);
    host.store = NULL;
    host.up = false;
    host.inbox_count = 0;
    world.reaching_out = world.dead = false;
    world.deeds_left = 0;
    world.sync_failed = false;
}

static void leave(void)
{
    if (!world.dead) {
        world.reaching_out = false;
        return;
    }
    bury();
    wake_later();
}

static void tick(void *what, uint64_t life)
{
    if (!host.up || host.life != life) return;
    enter();
    driver_tick(&host.driver);
    leave();
    if (what == &host.driver) world_in(TICK_MS, tick, what, life); /* the one that goes on */
}

static enum status load(struct fault *fault)
{
    enum status status = store_open("performerd.db", &host.store, fault);
    if (status != ST_OK) return status;
    coordinator_init(&host.coordinator, HOST_RANKS_MAX);
    status = store_load(host.store, &host.coordinator, clock_now_ms(), fault);
    if (status == ST_OK) return ST_OK;
    store_close(host.store);
    host.store = NULL;
    return status;
}

/* As performerd.c begins. */
static enum status start(struct fault *fault)
{
    enum status status = load(fault);
    if (status != ST_OK) return status;
    host.up = true;
    host.life++;
    ledger_restarted(&host.coordinator, host.store);
    host.driver = (struct driver){
        .coordinator = &host.coordinator,
        .store = host.store,
        .directory = &host.directory,
        .launchers = {[LAUNCHER_LOCAL] = &gang_launcher, [LAUNCHER_SLURM] = &slurm_launcher},
        .local = {.url = "simulated"},
        .remote = {.url = "simulated"}};
    world_trace("the daemon starts");
    product_start(&host.driver);
    return ST_OK;
}

static void wake_later(void)
{
    world_in(chance_between(&world.chance, 50, AWAY_MS_MAX), wake, NULL, host.life);
}

static void wake(void *what, uint64_t life)
{
    (void)what;
    struct fault fault;
    if (host.up || host.life != life) return;
    enter();
    if (start(&fault) == ST_OK) {
        leave();
        world_in(0, tick, &host.driver, host.life);
        return;
    }
    if (!world.dead && !world.disk_full && !world.sync_failed)
        world_violation("the daemon does not start: %s", fault.text);
    world.reaching_out = world.dead = world.sync_failed = false;
    wake_later();
}

void host_begin(void)
{
    host = (struct host){0};
    snprintf(host.directory.path, sizeof host.directory.path, ".");
    snprintf(host.directory.runs, sizeof host.directory.runs, "runs");
    wake(NULL, 0);
}

void host_end(void)
{
    if (!host.up) return;
    enter();
    bury();
}

void host_kill(uint64_t away_ms)
{
    if (!host.up) return;
    world_trace("the daemon is killed");
    enter();
    world.dead = true;
    bury();
    world_in(away_ms, wake, NULL, host.life);
}

/* Its store is closed as it should be: the log goes into the database. */
void host_stop(uint64_t away_ms)
{
    if (!host.up) return;
    world_trace("the daemon is asked to end");
    enter();
    bury();
    world_in(away_ms, wake, NULL, host.life);
}

void host_lose_power(uint64_t away_ms)
{
    world_trace("the power fails");
    host_kill(away_ms);
    gang_lose_power();
    disk_lose_power(&world.chance);
    world.boot_ms = world.now_ms;
}

void host_recover(void)
{
    world.disk_full = world.sync_fails = false;
    world.deeds_left = 0;
    if (host.up && world.sync_failed) host_kill(0); /* "start performerd anew" */
}

/* ---- the network ---- */

struct delivery {
    const struct request *request;
    struct reply reply;
};

static uint64_t travel_ms(void)
{
    if (world_strikes(world.weather.message_slow))
        return chance_between(&world.chance, 100, SLOW_MS_MAX);
    return chance_between(&world.chance, 1, 20);
}

static void arrive(void *what, uint64_t stamp)
{
    (void)stamp;
    const struct delivery *delivery = what;
    const struct request *request = delivery->request;
    request->answered(request->who, request->number, &delivery->reply);
}

static void send_back(const struct request *request, const struct reply *reply)
{
    struct delivery *delivery = world_memory(sizeof *delivery);
    *delivery = (struct delivery){request, *reply};
    if (!world_strikes(world.weather.message_lost)) world_in(travel_ms(), arrive, delivery, 0);
    if (world_strikes(world.weather.message_doubled)) world_in(travel_ms(), arrive, delivery, 0);
}

static struct reply reply_of(const Performer__Response *response)
{
    struct reply reply = {.status = (enum status)response->status};
    switch (response->body_case) {
    case PERFORMER__RESPONSE__BODY_SUBMITTED:
        text_copy(reply.run, sizeof reply.run, response->submitted->run);
        break;
    case PERFORMER__RESPONSE__BODY_ACTED:
        text_copy(reply.run, sizeof reply.run, response->acted->run);
        reply.order = response->acted->order;
        break;
    case PERFORMER__RESPONSE__BODY_REPORT_REPLY:
        reply.fenced = response->report_reply->fenced;
        for (size_t i = 0; i < response->report_reply->n_orders && i < REPLY_ORDERS_MAX; i++)
            reply.orders[reply.order_count++] = (struct wanted_order){
                response->report_reply->orders[i]->id, response->report_reply->orders[i]->kind};
        break;
    default:
        break;
    }
    return reply;
}

/* A request as it was unpacked. */
struct parcel {
    const struct request *request;
    Performer__Report *report; /* NULL: it is none */
    Performer__Request message;
    Performer__Submit submit;
    Performer__Act act;
};

static void parcel_open(const struct request *request, struct parcel *parcel)
{
    *parcel = (struct parcel){.request = request};
    performer__request__init(&parcel->message);
    performer__submit__init(&parcel->submit);
    performer__act__init(&parcel->act);
    switch (request->kind) {
    case REQUEST_SUBMIT:
        parcel->submit.text = parcel->submit.resolved = request->job->resolved;
        parcel->submit.key = (char *)request->key;
        if (request->fork_of) parcel->submit.fork_of = (char *)request->fork_of;
        parcel->message.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
        parcel->message.submit = &parcel->submit;
        break;
    case REQUEST_ACT:
        parcel->act.run = (char *)request->run;
        parcel->act.action = request->action;
        if (request->key) parcel->act.key = (char *)request->key;
        parcel->message.body_case = PERFORMER__REQUEST__BODY_ACT;
        parcel->message.act = &parcel->act;
        break;
    case REQUEST_REPORT:
        parcel->report = performer__report__unpack(NULL, request->report_length, request->report);
        if (!coordinator_admits(&host.coordinator, parcel->report->run, parcel->report->attempt,
                                request->token))
            world_violation("%s: a report of attempt %" PRIu32 " is not admitted",
                            parcel->report->run, parcel->report->attempt);
        parcel->message.body_case = PERFORMER__REQUEST__BODY_REPORT;
        parcel->message.report = parcel->report;
        break;
    }
}

static void answer_parcel(const struct parcel *parcel, Performer__Response *response)
{
    struct reply reply = reply_of(response);
    if (world_reach_out()) {
        ledger_answered(parcel->request, parcel->report, &reply);
        send_back(parcel->request, &reply);
    }
    performer__response__free_unpacked(response, NULL);
    if (parcel->report) performer__report__free_unpacked(parcel->report, NULL);
}

/* All that has come while it was busy. */
static void take_inbox(void *what, uint64_t life)
{
    (void)what;
    static const struct caller somebody = {.user = "somebody"};
    struct parcel parcels[HOST_INBOX_MAX];
    struct asked asked[HOST_INBOX_MAX];
    const size_t count = host.inbox_count;
    bool changed = false;
    if (!host.up || host.life != life) return;
    host.inbox_count = 0;
    enter();
    for (size_t i = 0; i < count; i++) {
        parcel_open(host.inbox[i], &parcels[i]);
        asked[i] = (struct asked){.caller = &somebody, .request = &parcels[i].message};
        changed = changed || parcels[i].request->kind != REQUEST_REPORT;
    }
    for (size_t answered = 0; answered < count;) {
        const size_t end =
            answered + driver_answer(&host.driver, asked + answered, count - answered);
        for (; answered < end; answered++)
            answer_parcel(&parcels[answered], asked[answered].response);
    }
    leave();
    if (changed) world_in(0, tick, NULL, host.life);
}

static void deliver(void *what, uint64_t stamp)
{
    (void)stamp;
    if (!host.up) return;
    host.inbox[host.inbox_count++] = what;
    if (host.inbox_count == 1)
        world_in(chance_between(&world.chance, 0, BUSY_MS_MAX), take_inbox, NULL, host.life);
    if (host.inbox_count == HOST_INBOX_MAX) take_inbox(NULL, host.life);
}

void network_send(const struct request *request)
{
    struct request *sent = world_copy(request, sizeof *request);
    if (!world_strikes(world.weather.message_lost)) world_in(travel_ms(), deliver, sent, 0);
    if (world_strikes(world.weather.message_doubled)) world_in(travel_ms(), deliver, sent, 0);
}
