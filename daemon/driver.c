#include "daemon/driver.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/fork.h"
#include "daemon/fork_source.h"
#include "daemon/memory.h"
#include "daemon/response.h"
#include "daemon/spool.h"
#include "proto/durable.h"
#include "proto/jobspec.h"

enum {
    FILE_PATH_MAX = LAUNCHER_PATH_MAX + 64,
    TOGETHER_MAX = 64, /* reports of one transaction */
};

/* An attempt that is alive, as far as is known, and what is to be done about it. */
struct tended {
    struct tended *next;
    uint64_t run;
    char run_id[RUN_ID_SIZE];
    uint32_t attempt, ranks;
    struct attempt_launcher *launcher;
    enum tended_phase {
        TENDED_UNPREPARED, /* its files could not be written; `fault` says why */
        TENDED_TO_START,   /* as soon as nothing of the attempts before lives */
        TENDED_STARTED,    /* by this daemon, not seen yet */
        TENDED_FOUND,      /* of an earlier daemon, not seen yet */
        TENDED_SEEN,       /* its launcher runs, and that is recorded */
    } phase;
    uint64_t since_ms; /* in this phase, or last seen alive */
    bool waits;        /* in a queue, as was told */
    uint64_t waits_told_ms;
    struct launch_order order; /* TENDED_TO_START */
    struct fault fault;        /* TENDED_UNPREPARED */
};

static struct event event_new(enum event_kind kind)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (struct event){
        .kind = kind,
        .now_ms = clock_now_ms(),
        .wall_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
    };
}

static struct attempt_launcher *launcher_of(const struct driver *driver, uint64_t run)
{
    return driver->launchers[coordinator_run(driver->coordinator, run)->facts.launcher];
}

/* ---- the files of a run and of an attempt ---- */

static enum status write_text(const char *directory, const char *name, const char *text,
                              struct fault *fault)
{
    char path[FILE_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return durable_write(path, text, strlen(text), fault);
}

/* resolved.toml comes last: where it is, all is. */
static enum status write_job(const struct driver *driver, const char *run_id, const char *text,
                             const char *resolved, struct fault *fault)
{
    char directory[PATH_MAX];
    run_directory(driver->directory, run_id, directory, sizeof directory);
    enum status status = make_directories(directory, fault);
    if (status == ST_OK) status = write_text(directory, "job.toml", text, fault);
    if (status == ST_OK) status = write_text(directory, "resolved.toml", resolved, fault);
    return status;
}

/* The daemon may have died, or the disk been full, between the commit of a submit and its files. */
static enum status ensure_fork(const struct driver *driver, const struct effect *effect,
                               struct fault *fault)
{
    char path[PATH_MAX];
    if (effect->fork_step == 0) return ST_OK;
    run_directory(driver->directory, effect->run_id, path, sizeof path);
    return fork_settle(path, effect->fork_step, fault);
}

static enum status ensure_job(const struct driver *driver, uint64_t run, const char *run_id,
                              struct fault *fault)
{
    char path[PATH_MAX], *text, *resolved;
    run_directory(driver->directory, run_id, path, sizeof path);
    strncat(path, "/resolved.toml", sizeof path - strlen(path) - 1);
    if (access(path, F_OK) == 0) return ST_OK;
    enum status status = store_job(driver->store, run, &text, &resolved, fault);
    if (status != ST_OK) return status;
    status = write_job(driver, run_id, text, resolved, fault);
    free(text);
    free(resolved);
    return status;
}

static void plan_rewinds(const struct effect *effect, Performer__Rewind *rewinds,
                         Performer__Rewind **list)
{
    for (size_t i = 0; i < effect->rewind_count; i++) {
        performer__rewind__init(&rewinds[i]);
        rewinds[i].number = effect->rewinds[i].number;
        rewinds[i].step = effect->rewinds[i].step;
        rewinds[i].draw = effect->rewinds[i].draw;
        list[i] = &rewinds[i];
    }
}

static enum status write_plan(const struct effect *effect, const struct launch_order *order,
                              struct fault *fault)
{
    Performer__AppliedOrder *applied = memory_zeroed(effect->applied_count, sizeof *applied);
    Performer__AppliedOrder **applied_list =
        memory_zeroed(effect->applied_count, sizeof *applied_list);
    for (size_t i = 0; i < effect->applied_count; i++) {
        performer__applied_order__init(&applied[i]);
        applied[i].id = effect->applied[i].id;
        applied[i].kind = effect->applied[i].kind;
        applied[i].step = effect->applied[i].step;
        applied_list[i] = &applied[i];
    }
    Performer__Plan plan = PERFORMER__PLAN__INIT;
    plan.run = (char *)effect->run_id;
    plan.attempt = effect->attempt;
    plan.nonce = (char *)effect->nonce;
    plan.ranks = effect->ranks;
    plan.directory = (char *)order->run_directory;
    plan.n_applied = effect->applied_count;
    plan.applied = applied_list;
    plan.first_step = effect->fork_step;
    plan.n_set_aside = effect->set_aside_count;
    plan.set_aside = (uint64_t *)effect->set_aside;
    Performer__Rewind *rewinds = memory_zeroed(effect->rewind_count, sizeof *rewinds);
    Performer__Rewind **rewind_list = memory_zeroed(effect->rewind_count, sizeof *rewind_list);
    plan_rewinds(effect, rewinds, rewind_list);
    plan.n_rewinds = effect->rewind_count;
    plan.rewinds = rewind_list;

    size_t size = performer__plan__get_packed_size(&plan);
    uint8_t *bytes = memory_grow(NULL, size);
    performer__plan__pack(&plan, bytes);
    char path[FILE_PATH_MAX];
    snprintf(path, sizeof path, "%s/plan", order->attempt_directory);
    enum status status = durable_write(path, bytes, size, fault);
    free(bytes);
    free(rewind_list);
    free(rewinds);
    free(applied_list);
    free(applied);
    return status;
}

/* Where ranks on other hosts could not find the daemon, or the run's files, they are not to begin. */
static enum status check_reach(const struct driver *driver, enum launcher launcher,
                               struct fault *fault)
{
    const struct state_directory *directory = driver->directory;
    const size_t length = strlen(directory->path);
    if (!driver->launchers[launcher]->remote) return ST_OK;
    if (!driver->remote.url)
        return fault_set(fault, ST_REFUSED,
                         "launcher = \"%s\": its ranks run on other hosts, and this daemon listens "
                         "on no network: start it with --listen tls+tcp://HOST:PORT",
                         launcher_text(launcher));
    if (strncmp(directory->runs, directory->path, length) == 0 && directory->runs[length] == '/')
        return fault_set(fault, ST_REFUSED,
                         "launcher = \"%s\": its ranks run on other hosts, and %s is on a disk of "
                         "this one: start performerd with --runs on a path that all of them share",
                         launcher_text(launcher), directory->runs);
    return ST_OK;
}

/* The certificate lies beside it: ranks on other hosts share this directory, and not the daemon's. */
static enum status write_environment(const struct driver *driver, const struct effect *effect,
                                     const struct launch_order *order, struct fault *fault)
{
    const enum launcher launcher =
        coordinator_run(driver->coordinator, effect->run)->facts.launcher;
    const struct way_in *way =
        driver->launchers[launcher]->remote ? &driver->remote : &driver->local;
    struct environment environment = {.url = way->url, .token = effect->token};
    char path[FILE_PATH_MAX];
    enum status status = check_reach(driver, launcher, fault);
    if (status == ST_OK && way->certificate) {
        snprintf(path, sizeof path, "%s/ca.pem", order->attempt_directory);
        status = write_text(order->attempt_directory, "ca.pem", way->certificate, fault);
        environment.tls_ca = path;
    }
    if (status != ST_OK) return status;
    return environment_write(order->attempt_directory, &environment, fault);
}

/* Plan before fence: an attempt that may write has been told what to do. */
static enum status prepare_attempt(const struct driver *driver, const struct effect *effect,
                                   struct launch_order *order, struct fault *fault)
{
    const struct state_directory *directory = driver->directory;
    run_directory(directory, effect->run_id, order->run_directory, sizeof order->run_directory);
    attempt_directory(directory, effect->run_id, effect->attempt, order->attempt_directory,
                      sizeof order->attempt_directory);
    text_copy(order->nonce, sizeof order->nonce, effect->nonce);
    order->ranks = effect->ranks;

    enum status status = ensure_job(driver, effect->run, effect->run_id, fault);
    if (status == ST_OK) status = ensure_fork(driver, effect, fault);
    if (status == ST_OK) status = make_directories(order->attempt_directory, fault);
    if (status == ST_OK) status = write_plan(effect, order, fault);
    if (status == ST_OK) status = write_environment(driver, effect, order, fault);
    if (status == ST_OK) status = write_text(order->run_directory, "fence", effect->nonce, fault);
    return status;
}

/* ---- effects ---- */

static struct tended *tend(struct driver *driver, uint64_t number, uint32_t attempt,
                           enum tended_phase phase)
{
    const struct run *run = coordinator_run(driver->coordinator, number);
    struct tended *tended = memory_zeroed(1, sizeof *tended);
    tended->run = number;
    text_copy(tended->run_id, sizeof tended->run_id, run->id);
    tended->attempt = attempt;
    tended->ranks = run->facts.ranks;
    tended->launcher = launcher_of(driver, number);
    tended->phase = phase;
    tended->since_ms = clock_now_ms();
    tended->next = driver->tended;
    driver->tended = tended;
    return tended;
}

static void do_launch(struct driver *driver, const struct effect *effect)
{
    struct tended *tended = tend(driver, effect->run, effect->attempt, TENDED_TO_START);
    if (prepare_attempt(driver, effect, &tended->order, &tended->fault) != ST_OK)
        tended->phase = TENDED_UNPREPARED;
}

static void do_signal(struct driver *driver, const struct effect *effect)
{
    char directory[LAUNCHER_PATH_MAX];
    attempt_directory(driver->directory, effect->run_id, effect->attempt, directory,
                      sizeof directory);
    struct attempt_launcher *launcher = launcher_of(driver, effect->run);
    launcher->signal(launcher, directory, effect->signal);
}

static void do_rescue(struct driver *driver, const struct effect *effect)
{
    char directory[LAUNCHER_PATH_MAX];
    attempt_directory(driver->directory, effect->run_id, effect->attempt, directory,
                      sizeof directory);
    struct attempt_launcher *launcher = launcher_of(driver, effect->run);
    launcher->rescue(launcher, directory, effect->rank);
}

/* A failure is not the run's end: all is written again before its first attempt. */
static void do_write_job(struct driver *driver, const struct effect *effect)
{
    struct fault fault;
    enum status status = write_job(driver, effect->run_id, effect->text, effect->resolved, &fault);
    if (status == ST_OK) status = ensure_fork(driver, effect, &fault);
    if (status != ST_OK) log_warn("job-not-written", "%s: %s", effect->run_id, fault.text);
}

static void do_effect(struct driver *driver, const struct effect *effect)
{
    switch (effect->kind) {
    case EFFECT_WRITE_JOB:
        do_write_job(driver, effect);
        return;
    case EFFECT_LAUNCH:
        do_launch(driver, effect);
        return;
    case EFFECT_SIGNAL:
        do_signal(driver, effect);
        return;
    case EFFECT_RESCUE:
        do_rescue(driver, effect);
        return;
    }
}

/* ---- one event ---- */

/* A run directory of another database would be taken for the new run's, checkpoints and all. */
static enum status check_unclaimed(const struct driver *driver, const struct decision *decision,
                                   struct fault *fault)
{
    for (size_t i = 0; i < decision->effect_count; i++) {
        char path[PATH_MAX];
        if (decision->effects[i].kind != EFFECT_WRITE_JOB) continue;
        run_directory(driver->directory, decision->effects[i].run_id, path, sizeof path);
        if (access(path, F_OK) == 0)
            return fault_set(fault, ST_REFUSED,
                             "%s is there already, from another database: move it away, or start "
                             "performerd with another --runs",
                             path);
    }
    return ST_OK;
}

/* Before the commit: the source's retention may remove the checkpoint at any time. What another submit left aside is removed, but
 * where the store is not writable: that one may turn out to be committed. */
static enum status stage_fork(const struct driver *driver, const struct decision *decision,
                              struct fault *fault)
{
    for (size_t i = 0; i < decision->effect_count; i++) {
        char path[PATH_MAX];
        const struct effect *effect = &decision->effects[i];
        if (effect->kind != EFFECT_WRITE_JOB) continue;
        enum status status = store_writable(driver->store, fault);
        if (status != ST_OK) return status;
        run_directory(driver->directory, effect->run_id, path, sizeof path);
        if (effect->fork) return fork_stage(effect->fork, path, fault);
        fork_discard(path);
    }
    return ST_OK;
}

static void log_notes(const struct driver *driver, const struct decision *decision)
{
    for (size_t i = 0; i < decision->record_count; i++) {
        const struct record *record = &decision->records[i];
        if (record->kind != RECORD_NOTED) continue;
        const struct run *run = coordinator_run(driver->coordinator, record->run);
        log_line(note_level(record->noted.note), note_name(record->noted.note), "%s: %s", run->id,
                 record->noted.text);
    }
}

static void say_store_state(struct driver *driver, enum status status, const struct fault *fault)
{
    if (status != ST_OK && !driver->store_failing) log_error("store-failed", "%s", fault->text);
    if (status == ST_OK && driver->store_failing) log_info("store-works", "the store works again");
    driver->store_failing = status != ST_OK;
}

static bool any_durable(const struct record *records, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (record_is_durable(records[i].kind)) return true;
    return false;
}

static enum status commit(struct driver *driver, const char *name, const struct record *records,
                          size_t count, struct fault *fault)
{
    if (!any_durable(records, count)) return ST_OK;
    enum status status = store_commit(driver->store, name, records, count, fault);
    say_store_state(driver, status, fault);
    return status;
}

/* What has been committed takes effect. */
static void carry_out(struct driver *driver, const struct decision *decision, uint64_t now_ms)
{
    if (driver->reading) pthread_mutex_lock(driver->reading);
    coordinator_apply(driver->coordinator, decision->records, decision->record_count, now_ms);
    if (driver->reading) pthread_mutex_unlock(driver->reading);
    log_notes(driver, decision);
    for (size_t i = 0; i < decision->effect_count; i++) do_effect(driver, &decision->effects[i]);
}

/*
 * Decides, commits, applies, carries out, in this order. Where it fails nothing has happened, and the event
 * may come again. The decision, with its answer, is the caller's to be finished in either case.
 */
static enum status drive(struct driver *driver, const struct event *event,
                         struct decision *decision, struct fault *fault)
{
    coordinator_decide(driver->coordinator, event, decision);
    enum status status = check_unclaimed(driver, decision, fault);
    if (status == ST_OK) status = stage_fork(driver, decision, fault);
    if (status == ST_OK)
        status = commit(driver, decision->name, decision->records, decision->record_count, fault);
    if (status == ST_OK) carry_out(driver, decision, event->now_ms);
    return status;
}

/* An event that nobody waits for. False: the store failed, come again. */
static bool drive_quietly(struct driver *driver, const struct event *event)
{
    struct decision decision;
    struct fault fault;
    enum status status = drive(driver, event, &decision, &fault);
    decision_fini(&decision);
    return status == ST_OK;
}

/* ---- attempts that live ---- */

static bool say_launch_failed(struct driver *driver, const struct tended *tended,
                              enum status status, const char *text)
{
    struct event event = event_new(EVENT_LAUNCH_FAILED);
    event.launch_failed = (struct event_launch_failed){tended->run, tended->attempt, status, text};
    return drive_quietly(driver, &event);
}

struct spool_taking {
    struct driver *driver;
    bool store_failed;
    bool refused; /* a report that is not in the database, and never will be */
};

static enum status take_spooled(void *context, const Performer__Report *report)
{
    struct spool_taking *taking = context;
    struct event event = event_new(EVENT_REPORT);
    struct decision decision;
    struct fault fault;
    event.report.report = report;
    enum status status = drive(taking->driver, &event, &decision, &fault);
    if (status != ST_OK) {
        taking->store_failed = true;
    } else if (decision.answer.status != ST_OK) {
        log_warn("spool-refused", "%s", decision.answer.text);
        taking->refused = true;
    }
    decision_fini(&decision);
    return status;
}

/* What the ranks could not deliver. False: the store failed, come again; the spools are still there. */
static bool take_spools(struct driver *driver, const struct tended *tended, const char *directory)
{
    for (uint32_t rank = 0; rank < tended->ranks; rank++) {
        char path[FILE_PATH_MAX];
        struct fault fault;
        snprintf(path, sizeof path, "%s/rank-%" PRIu32 ".spool", directory, rank);
        if (access(path, F_OK) != 0) continue;
        struct spool_taking taking = {.driver = driver};
        enum status status = spool_read(path, take_spooled, &taking, &fault);
        if (taking.store_failed) return false;
        if (status != ST_OK) log_warn("spool-unreadable", "%s: %s", tended->run_id, fault.text);
        if (status != ST_OK || taking.refused) continue; /* left there, for a person to look at */
        if (unlink(path) != 0)
            log_warn("spool-left", "could not remove %s: %s", path, strerror(errno));
    }
    return true;
}

/* The rank that stood still, whose log tells more than that of one which was killed for it; -1: none did. */
static int suspect_of(const struct driver *driver, const struct tended *tended)
{
    const struct run *run = coordinator_run(driver->coordinator, tended->run);
    return run->attempt.number == tended->attempt ? run->attempt.stalled_rank : -1;
}

static bool settle_attempt(struct driver *driver, const struct tended *tended,
                           const char *directory, enum launcher_state state)
{
    if (!take_spools(driver, tended, directory)) return false;
    struct evidence evidence;
    evidence_read(directory, tended->ranks, suspect_of(driver, tended), &evidence);
    if (state == LAUNCHER_DOWN) evidence_of_lost_node(&evidence);
    struct event event = event_new(EVENT_ATTEMPT_ENDED);
    event.attempt_ended = (struct event_attempt_ended){tended->run, tended->attempt, &evidence};
    return drive_quietly(driver, &event);
}

/* Each of these returns true once there is nothing more to do about the attempt. */

/* All attempts before this one: the last may never have begun, and one before it have come late. What lives is told to
 * die. LAUNCHER_GONE: nothing of them lives. */
static enum launcher_state probe_earlier(const struct driver *driver, const struct tended *tended,
                                         struct sighting *sighting)
{
    struct attempt_launcher *launcher = tended->launcher;
    enum launcher_state all = LAUNCHER_GONE;
    for (uint32_t attempt = tended->attempt - 1; attempt > 0; attempt--) {
        char directory[LAUNCHER_PATH_MAX];
        attempt_directory(driver->directory, tended->run_id, attempt, directory, sizeof directory);
        enum launcher_state state = launcher->probe(launcher, directory, sighting);
        if (state == LAUNCHER_ALIVE) launcher->signal(launcher, directory, SIGKILL);
        if (state == LAUNCHER_ALIVE || (state == LAUNCHER_UNKNOWN && all == LAUNCHER_GONE))
            all = state;
    }
    return all;
}

static bool tend_to_start(struct driver *driver, struct tended *tended, uint64_t now_ms)
{
    struct fault fault;
    struct sighting earlier;
    enum status status;
    switch (probe_earlier(driver, tended, &earlier)) {
    case LAUNCHER_UNKNOWN: /* nobody can say whether it is safe, however long that lasts */
        tended->since_ms = now_ms;
        return false;
    case LAUNCHER_ALIVE:
        if (now_ms - tended->since_ms < EARLIER_GRACE_MS) return false;
        status =
            fault_set(&fault, ST_BUSY, "an attempt before still lives, as %" PRId64, earlier.id);
        break;
    default:
        status = tended->launcher->start(tended->launcher, &tended->order, &fault);
    }
    if (status != ST_OK) return say_launch_failed(driver, tended, status, fault.text);

    tended->phase = TENDED_STARTED;
    tended->since_ms = now_ms;
    return false;
}

static bool tend_unseen(struct driver *driver, struct tended *tended, uint64_t now_ms)
{
    if (now_ms - tended->since_ms < UNSEEN_GRACE_MS) return false;
    if (tended->phase != TENDED_FOUND)
        return say_launch_failed(driver, tended, ST_SYSTEM,
                                 "performer-launch could not begin: see its log");
    struct event event = event_new(EVENT_UNLAUNCHED);
    event.unlaunched = (struct event_unlaunched){tended->run, tended->attempt};
    return drive_quietly(driver, &event);
}

static void tell_waits(struct driver *driver, struct tended *tended,
                       const struct sighting *sighting, uint64_t now_ms)
{
    if (sighting->waits == tended->waits &&
        (!tended->waits || now_ms - tended->waits_told_ms < WAITS_MS))
        return;
    struct event event = event_new(EVENT_WAITS);
    event.waits =
        (struct event_waits){tended->run, tended->attempt, sighting->waits ? sighting->words : ""};
    if (!drive_quietly(driver, &event)) return;
    tended->waits = sighting->waits;
    tended->waits_told_ms = now_ms;
}

/* A launcher is told of once it has written launcher.json: a signal that follows from it finds somebody. */
static bool tend_alive(struct driver *driver, struct tended *tended,
                       const struct sighting *sighting, uint64_t now_ms)
{
    struct event event;
    tended->since_ms = now_ms;
    if (tended->phase == TENDED_SEEN) {
        tell_waits(driver, tended, sighting, now_ms);
        return false;
    }
    if (tended->phase == TENDED_FOUND) {
        event = event_new(EVENT_ADOPTED);
        event.adopted = (struct event_adopted){tended->run, tended->attempt, sighting->id,
                                               sighting->start_ticks};
    } else {
        event = event_new(EVENT_LAUNCHED);
        event.launched = (struct event_launched){tended->run, tended->attempt, sighting->id,
                                                 sighting->start_ticks};
    }
    if (drive_quietly(driver, &event)) tended->phase = TENDED_SEEN;
    return false;
}

static bool tend_launched(struct driver *driver, struct tended *tended, uint64_t now_ms)
{
    char directory[LAUNCHER_PATH_MAX];
    struct sighting sighting;
    attempt_directory(driver->directory, tended->run_id, tended->attempt, directory,
                      sizeof directory);
    enum launcher_state state = tended->launcher->probe(tended->launcher, directory, &sighting);
    switch (state) {
    case LAUNCHER_ENDED:
    case LAUNCHER_GONE:
    case LAUNCHER_DOWN:
        return settle_attempt(driver, tended, directory, state);
    case LAUNCHER_ALIVE:
        return tend_alive(driver, tended, &sighting, now_ms);
    case LAUNCHER_UNSEEN:
        return tend_unseen(driver, tended, now_ms);
    case LAUNCHER_UNKNOWN:
        return false;
    }
    return false;
}

static bool tend_one(struct driver *driver, struct tended *tended, uint64_t now_ms)
{
    switch (tended->phase) {
    case TENDED_UNPREPARED:
        return say_launch_failed(driver, tended, tended->fault.status, tended->fault.text);
    case TENDED_TO_START:
        return tend_to_start(driver, tended, now_ms);
    case TENDED_STARTED:
    case TENDED_FOUND:
    case TENDED_SEEN:
        return tend_launched(driver, tended, now_ms);
    }
    return false;
}

static void tend_all(struct driver *driver)
{
    uint64_t now_ms = clock_now_ms();
    for (struct tended **link = &driver->tended; *link;) {
        struct tended *tended = *link;
        bool done = tend_one(driver, tended, now_ms);
        /* Events plan no attempts, so nothing was put in front while we looked. */
        assert(*link == tended);
        if (!done) {
            link = &tended->next;
            continue;
        }
        *link = tended->next;
        free(tended);
    }
}

/* ---- time ---- */

/* A tick decides one thing at most. */
static void decide_all(struct driver *driver)
{
    for (bool more = true; more;) {
        struct event event = event_new(EVENT_TICK);
        event.tick.awake_ms = driver->awake_ms;
        struct decision decision;
        struct fault fault;
        if (getrandom(event.tick.random, sizeof event.tick.random, 0) !=
            (ssize_t)sizeof event.tick.random)
            return; /* no chance, no nonce: next time */
        enum status status = drive(driver, &event, &decision, &fault);
        more = status == ST_OK && decision.record_count > 0;
        decision_fini(&decision);
    }
}

/* A daemon that was stopped, or starved, knows nothing of that time. */
static void note_awake(struct driver *driver)
{
    uint64_t now_ms = clock_now_ms();
    if (driver->tick_ms == 0 || now_ms - driver->tick_ms > PAUSE_MS) driver->awake_ms = now_ms;
    driver->tick_ms = now_ms;
}

void driver_tick(struct driver *driver)
{
    note_awake(driver);
    tend_all(driver); /* what has ended makes room */
    decide_all(driver);
    tend_all(driver); /* what has been planned is started */
}

void driver_start(struct driver *driver)
{
    const struct coordinator *coordinator = driver->coordinator;
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        if (run_attempt_lives(run)) tend(driver, run->number, run->attempt.number, TENDED_FOUND);
    }
    tend_all(driver);
}

void driver_stop(struct driver *driver)
{
    while (driver->tended) {
        struct tended *tended = driver->tended;
        driver->tended = tended->next;
        free(tended);
    }
}

/* ---- answers ---- */

static Performer__Response *answer_submitted(const struct answer *answer)
{
    Performer__Response *response = response_new();
    response->body_case = PERFORMER__RESPONSE__BODY_SUBMITTED;
    response->submitted = memory_zeroed(1, sizeof *response->submitted);
    performer__submitted__init(response->submitted);
    response->submitted->run = message_text(answer->run_id);
    response->submitted->forked_step = answer->forked_step;
    return response;
}

static Performer__Response *answer_acted(const struct answer *answer)
{
    Performer__Response *response = response_new();
    response->body_case = PERFORMER__RESPONSE__BODY_ACTED;
    response->acted = memory_zeroed(1, sizeof *response->acted);
    performer__acted__init(response->acted);
    response->acted->run = message_text(answer->run_id);
    response->acted->order = answer->order;
    return response;
}

static Performer__Response *answer_reported(const struct answer *answer)
{
    Performer__Response *response = response_new();
    Performer__ReportReply *reply = memory_zeroed(1, sizeof *reply);
    performer__report_reply__init(reply);
    reply->fenced = answer->fenced;
    if (answer->rendezvous) reply->rendezvous = message_text(answer->rendezvous);
    for (size_t i = 0; i < answer->order_count; i++) {
        Performer__Order *order = memory_zeroed(1, sizeof *order);
        performer__order__init(order);
        order->id = answer->orders[i].id;
        order->kind = answer->orders[i].kind;
        message_append(&reply->orders, &reply->n_orders, order);
    }
    response->body_case = PERFORMER__RESPONSE__BODY_REPORT_REPLY;
    response->report_reply = reply;
    return response;
}

typedef Performer__Response *answer_maker(const struct answer *answer);

static Performer__Response *answer_decided(const struct answer *answer, answer_maker *make)
{
    return answer->status == ST_OK ? make(answer) : response_refuse(answer->status, answer->text);
}

static Performer__Response *drive_and_answer(struct driver *driver, const struct event *event,
                                             answer_maker *make)
{
    struct decision decision;
    struct fault fault;
    Performer__Response *response;
    enum status status = drive(driver, event, &decision, &fault);
    response = status == ST_OK ? answer_decided(&decision.answer, make)
                               : response_refuse(status, fault.text);
    decision_fini(&decision);
    return response;
}

/* All mistakes of the job file, as the command line shows them. */
static Performer__Response *refuse_job(const struct diagnostics *diagnostics, enum status status)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) return response_refuse(status, status_text(status));
    diagnostics_print(diagnostics, out, false);
    bool written = fclose(out) == 0 && size > 0;
    Performer__Response *response = response_refuse(status, written ? text : status_text(status));
    free(text);
    return response;
}

static Performer__Response *submit_parsed(struct driver *driver, const struct caller *caller,
                                          const struct jobspec *spec,
                                          const Performer__Submit *submit)
{
    struct run_facts facts;
    struct fault fault;
    struct fork_source fork = {0};
    enum status status = run_facts_of(spec, &facts, &fault);
    if (status == ST_OK) status = check_reach(driver, facts.launcher, &fault);
    /* One that comes again is answered, whatever has become of its source. */
    bool forks =
        submit->fork_of[0] != '\0' && !coordinator_run_by_key(driver->coordinator, submit->key);
    if (status == ST_OK && forks)
        status = fork_source_find(driver->coordinator, driver->store, caller, submit, spec, &fork,
                                  &fault);
    if (status != ST_OK) return response_refuse(status, fault.text);
    fork.runs_directory = driver->directory->runs;
    struct event event = event_new(EVENT_SUBMIT);
    event.submit = (struct event_submit){.facts = &facts,
                                         .fork = forks ? &fork : NULL,
                                         .after = &spec->queue.after,
                                         .text = submit->text,
                                         .resolved = submit->resolved,
                                         .key = submit->key,
                                         .caller = *caller};
    Performer__Response *response = drive_and_answer(driver, &event, answer_submitted);
    fork_source_fini(&fork);
    return response;
}

/* The job is parsed again: what a client says of it is not believed. Its paths are absolute by now. */
static Performer__Response *answer_submit(struct driver *driver, const struct caller *caller,
                                          const Performer__Submit *submit)
{
    size_t length = strlen(submit->resolved);
    if (length > JOBSPEC_BYTES_MAX || strlen(submit->text) > JOBSPEC_BYTES_MAX)
        return response_refuse(ST_TOO_LARGE, "a job file has at most 256 KiB");
    struct diagnostics diagnostics = {0};
    struct jobspec spec = {0};
    Performer__Response *response;
    enum status status =
        jobspec_parse(submit->resolved, length, "/resolved.toml", NULL, 0, &diagnostics, &spec);
    if (status == ST_OK)
        response = submit_parsed(driver, caller, &spec, submit);
    else
        response = refuse_job(&diagnostics, status);
    jobspec_free(&spec);
    diagnostics_free(&diagnostics);
    return response;
}

static Performer__Response *answer_alone(struct driver *driver, const struct caller *caller,
                                         const Performer__Request *request)
{
    struct event event;
    switch (request->body_case) {
    case PERFORMER__REQUEST__BODY_SUBMIT:
        return answer_submit(driver, caller, request->submit);
    case PERFORMER__REQUEST__BODY_ACT:
        event = event_new(EVENT_ACT);
        event.act = (struct event_act){.run = request->act->run,
                                       .action = request->act->action,
                                       .key = request->act->key,
                                       .caller = *caller};
        return drive_and_answer(driver, &event, answer_acted);
    case PERFORMER__REQUEST__BODY_REPORT:
        event = event_new(EVENT_REPORT);
        event.report.report = request->report;
        return drive_and_answer(driver, &event, answer_reported);
    default:
        return response_refuse(ST_UNSUPPORTED, "a request that changes nothing");
    }
}

/* ---- reports together ---- */

struct together {
    struct event events[TOGETHER_MAX]; /* which decisions borrow from */
    struct decision decisions[TOGETHER_MAX];
    size_t count;
};

static const char *run_reported(const struct asked *asked)
{
    const Performer__Request *request = asked->request;
    return request->body_case == PERFORMER__REQUEST__BODY_REPORT ? request->report->run : NULL;
}

/* How many of the first are reports, each of another run. */
static size_t count_apart(const struct asked *asked, size_t count)
{
    for (size_t i = 0; i < count && i < TOGETHER_MAX; i++) {
        const char *run = run_reported(&asked[i]);
        if (!run) return i;
        for (size_t j = 0; j < i; j++)
            if (strcmp(run_reported(&asked[j]), run) == 0) return i;
    }
    return count < TOGETHER_MAX ? count : TOGETHER_MAX;
}

static enum status commit_together(struct driver *driver, const struct together *together,
                                   struct fault *fault)
{
    size_t count = 0, place = 0;
    for (size_t i = 0; i < together->count; i++) count += together->decisions[i].record_count;
    struct record *records = memory_zeroed(count, sizeof *records);
    for (size_t i = 0; i < together->count; i++) {
        const struct decision *decision = &together->decisions[i];
        if (decision->record_count == 0) continue;
        memcpy(&records[place], decision->records, decision->record_count * sizeof *records);
        place += decision->record_count;
    }
    enum status status = commit(driver, "reports", records, count, fault);
    free(records);
    return status;
}

/*
 * What is decided of one run changes nothing of what a report of another is decided on, so reports of different runs are
 * decided side by side and share a transaction. False: nothing has happened, and nobody is answered.
 */
static bool report_together(struct driver *driver, struct asked *asked, size_t count)
{
    struct together *together = memory_zeroed(1, sizeof *together);
    struct fault fault;
    together->count = count;
    for (size_t i = 0; i < count; i++) {
        together->events[i] = event_new(EVENT_REPORT);
        together->events[i].report.report = asked[i].request->report;
        coordinator_decide(driver->coordinator, &together->events[i], &together->decisions[i]);
    }
    const bool committed = commit_together(driver, together, &fault) == ST_OK;
    for (size_t i = 0; i < count; i++) {
        struct decision *decision = &together->decisions[i];
        if (committed) carry_out(driver, decision, together->events[i].now_ms);
        if (committed) asked[i].response = answer_decided(&decision->answer, answer_reported);
        decision_fini(decision);
    }
    free(together);
    return committed;
}

/* Where they could not be committed together, one that cannot be takes no other along. */
size_t driver_answer(struct driver *driver, struct asked *asked, size_t count)
{
    const size_t apart = count_apart(asked, count), first = apart > 1 ? apart : 1;
    if (apart > 1 && report_together(driver, asked, apart)) return apart;
    for (size_t i = 0; i < first; i++)
        asked[i].response = answer_alone(driver, asked[i].caller, asked[i].request);
    return first;
}
