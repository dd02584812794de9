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
#include "tests/sim/world.h"

enum { AWAY_MS_MAX = 20000, SLOW_MS_MAX = 4000 };

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
    host.driver = (struct driver){.coordinator = &host.coordinator,
                                  .store = host.store,
                                  .directory = &host.directory,
                                  .launchers = {&gang_launcher, &gang_launcher},
                                  .local = {.url = "simulated"}};
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

static Performer__Response *ask_driver(const struct request *request, Performer__Report *report)
{
    Performer__Request message = PERFORMER__REQUEST__INIT;
    Performer__Submit submit = PERFORMER__SUBMIT__INIT;
    Performer__Act act = PERFORMER__ACT__INIT;
    switch (request->kind) {
    case REQUEST_SUBMIT:
        submit.text = submit.resolved = request->job->resolved;
        submit.key = (char *)request->key;
        if (request->fork_of) submit.fork_of = (char *)request->fork_of;
        message.body_case = PERFORMER__REQUEST__BODY_SUBMIT;
        message.submit = &submit;
        break;
    case REQUEST_ACT:
        act.run = (char *)request->run;
        act.action = request->action;
        if (request->key) act.key = (char *)request->key;
        message.body_case = PERFORMER__REQUEST__BODY_ACT;
        message.act = &act;
        break;
    case REQUEST_REPORT:
        if (!coordinator_admits(&host.coordinator, report->run, report->attempt, request->token))
            world_violation("%s: a report of attempt %" PRIu32 " is not admitted", report->run,
                            report->attempt);
        message.body_case = PERFORMER__REQUEST__BODY_REPORT;
        message.report = report;
        break;
    }
    return driver_answer(&host.driver, &(struct caller){.user = "somebody"}, &message);
}

static void deliver(void *what, uint64_t stamp)
{
    (void)stamp;
    const struct request *request = what;
    if (!host.up) return;
    Performer__Report *report = NULL;
    if (request->kind == REQUEST_REPORT)
        report = performer__report__unpack(NULL, request->report_length, request->report);
    enter();
    Performer__Response *response = ask_driver(request, report);
    struct reply reply = reply_of(response);
    if (world_reach_out()) {
        ledger_answered(request, report, &reply);
        send_back(request, &reply);
    }
    leave();
    performer__response__free_unpacked(response, NULL);
    if (report) performer__report__free_unpacked(report, NULL);
    if (request->kind != REQUEST_REPORT) world_in(0, tick, NULL, host.life);
}

void network_send(const struct request *request)
{
    struct request *sent = world_copy(request, sizeof *request);
    if (!world_strikes(world.weather.message_lost)) world_in(travel_ms(), deliver, sent, 0);
    if (world_strikes(world.weather.message_doubled)) world_in(travel_ms(), deliver, sent, 0);
}
