#include "daemon/coordinator.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "daemon/memory.h"

/* A step, sequence number or size beyond this is no number that a worker of ours can have reached. */
static const uint64_t COUNT_MAX = UINT64_C(1) << 47;

enum { TEXT_BYTES_MAX = 400, LINES_BYTES_MAX = 4096, PATH_BYTES_MAX = 4096 };

/* One decision in the making: what is being decided about, when, and where it is written down. */
struct scene {
    const struct coordinator *coordinator;
    const struct event *event;
    struct decision *decision;
    const struct run *run; /* NULL: not known yet */
};

/* ---- writing down ---- */

static struct record *add(const struct scene *scene, enum record_kind kind)
{
    struct record *record = decision_record(scene->decision, kind);
    record->run = scene->run->number;
    record->attempt = scene->run->attempt.number;
    record->time_ms = scene->event->wall_ms;
    return record;
}

static void note(const struct scene *scene, enum note kind, uint64_t step, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void note(const struct scene *scene, enum note kind, uint64_t step, const char *format, ...)
{
    char text[RUN_REASON_SIZE + TEXT_BYTES_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add(scene, RECORD_NOTED)->noted = (struct record_noted){
        .note = kind,
        .step = step,
        .text = decision_clean(scene->decision, text, sizeof text, false),
    };
}

static void answer(const struct scene *scene, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void answer(const struct scene *scene, enum status status, const char *format, ...)
{
    struct answer *reply = &scene->decision->answer;
    reply->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(reply->text, sizeof reply->text, format, args);
    va_end(args);
}

static void answer_run(const struct scene *scene, const struct run *run)
{
    scene->decision->answer.run = run->number;
    memcpy(scene->decision->answer.run_id, run->id, sizeof run->id);
}

static enum note note_of_state(enum run_state state)
{
    switch (state) {
    case RUN_STARTING:
        return NOTE_STARTING;
    case RUN_RUNNING:
        return NOTE_RUNNING;
    case RUN_STOPPING:
        return NOTE_STOPPING;
    case RUN_RESTARTING:
        return NOTE_RESTARTING;
    case RUN_UNKNOWN:
        return NOTE_UNKNOWN;
    case RUN_SUCCEEDED:
        return NOTE_SUCCEEDED;
    case RUN_FAILED:
        return NOTE_FAILED;
    case RUN_CANCELLED:
        return NOTE_CANCELLED;
    case RUN_QUEUED:
    case RUN_PAUSED:
        break;
    }
    assert(!"no run moves there");
    return NOTE_FAILED;
}

/* Nobody will carry out what is still asked for once a run is over. */
static void drop_orders(const struct scene *scene)
{
    for (size_t i = 0; i < scene->run->order_count; i++) {
        const struct order *order = &scene->run->orders[i];
        if (order->state != ORDER_PENDING) continue;
        add(scene, RECORD_ORDER_DROPPED)->order_dropped.order = order->id;
        note(scene, NOTE_ORDER_DROPPED, 0, "%s, order %" PRIu64 ": the run ended before it",
             order_kind_name(order->kind), order->id);
    }
}

static void move(const struct scene *scene, enum run_state to, const char *reason)
{
    assert(run_move_allowed(scene->run->state, to));
    add(scene, RECORD_RUN_MOVED)->run_moved = (struct record_run_moved){
        .from = scene->run->state,
        .to = to,
        .reason = decision_clean(scene->decision, reason, RUN_REASON_SIZE - 1, false),
    };
    note(scene, note_of_state(to), run_step_now(scene->run), "%s", reason);
    if (run_state_is_final(to)) drop_orders(scene);
}

static struct effect *add_effect(const struct scene *scene, enum effect_kind kind)
{
    struct effect *effect = decision_effect(scene->decision, kind);
    effect->run = scene->run->number;
    memcpy(effect->run_id, scene->run->id, sizeof effect->run_id);
    effect->attempt = scene->run->attempt.number;
    return effect;
}

static void kill_attempt(const struct scene *scene)
{
    const struct attempt *attempt = &scene->run->attempt;
    if (attempt->pid == 0) return; /* not launched yet: EVENT_LAUNCHED comes back to it */
    struct effect *effect = add_effect(scene, EFFECT_SIGNAL);
    effect->signal = SIGKILL;
    effect->pid = attempt->pid;
    effect->pid_start_time = attempt->pid_start_time;
}

/* ---- finding ---- */

const struct run *coordinator_run(const struct coordinator *coordinator, uint64_t number)
{
    if (number == 0 || number > coordinator->run_count) return NULL;
    return coordinator->runs[number - 1];
}

static const struct run *run_by_id(const struct coordinator *coordinator, const char *id)
{
    if (id[0] != 'r' || id[1] < '1' || id[1] > '9' || strlen(id) >= RUN_ID_SIZE) return NULL;
    char *end = NULL;
    uint64_t number = strtoull(id + 1, &end, 10);
    return *end == '\0' ? coordinator_run(coordinator, number) : NULL;
}

static bool run_has_name(const struct run *run, const char *text)
{
    return strcmp(run->facts.name, text) == 0;
}

static bool run_id_begins(const struct run *run, const char *text)
{
    return text[0] != '\0' && strncmp(run->id, text, strlen(text)) == 0;
}

/* ST_NOT_FOUND: none fits; ST_INVALID: several do, and the fault names the newest of them. */
static enum status find_only(const struct coordinator *coordinator, const char *text,
                             bool (*fits)(const struct run *, const char *), const struct run **run,
                             struct fault *fault)
{
    const struct run *found = NULL;
    char names[160];
    size_t length = 0, count = 0;
    for (size_t i = coordinator->run_count; i-- > 0;) {
        const struct run *candidate = coordinator->runs[i];
        if (!fits(candidate, text)) continue;
        found = candidate;
        count++;
        if (length + RUN_ID_SIZE + 4 < sizeof names)
            length += (size_t)snprintf(names + length, sizeof names - length, "%s%s",
                                       length > 0 ? ", " : "", candidate->id);
    }
    if (count == 0) return ST_NOT_FOUND;
    if (count > 1)
        return fault_set(fault, ST_INVALID, "`%.80s` can mean %zu runs (%s%s): give the whole id",
                         text, count, names, count > 8 ? ", ..." : "");
    *run = found;
    return ST_OK;
}

enum status coordinator_find(const struct coordinator *coordinator, const char *text,
                             const struct run **run, struct fault *fault)
{
    const struct run *exact = run_by_id(coordinator, text);
    if (exact) {
        *run = exact;
        return ST_OK;
    }
    enum status status = find_only(coordinator, text, run_has_name, run, fault);
    if (status == ST_NOT_FOUND) status = find_only(coordinator, text, run_id_begins, run, fault);
    if (status == ST_NOT_FOUND)
        return fault_set(fault, ST_NOT_FOUND, "there is no run `%.80s`", text);
    return status;
}

uint32_t coordinator_ranks_in_use(const struct coordinator *coordinator)
{
    uint32_t ranks = 0;
    for (size_t i = 0; i < coordinator->run_count; i++)
        if (run_attempt_lives(coordinator->runs[i])) ranks += coordinator->runs[i]->facts.ranks;
    return ranks;
}

/* ---- submit ---- */

static const struct run *run_by_key(const struct coordinator *coordinator, const char *key)
{
    if (key[0] == '\0') return NULL;
    for (size_t i = coordinator->run_count; i-- > 0;)
        if (strcmp(coordinator->runs[i]->key, key) == 0) return coordinator->runs[i];
    return NULL;
}

static void decide_submit(const struct scene *scene)
{
    const struct event_submit *submit = &scene->event->submit;
    const struct run_facts *facts = submit->facts;
    const char *key = submit->key ? submit->key : "";
    if (strlen(key) > RUN_KEY_MAX) {
        answer(scene, ST_INVALID, "the key of a submit has at most %d bytes", RUN_KEY_MAX);
        return;
    }
    const struct run *earlier = run_by_key(scene->coordinator, key);
    if (earlier) {
        answer_run(scene, earlier);
        return;
    }
    if (facts->ranks > scene->coordinator->ranks_max) {
        answer(scene, ST_REFUSED,
               "the job wants %" PRIu32 " ranks and this daemon runs at most %" PRIu32
               " at once: lower resources.ranks, or start performerd with --max-ranks %" PRIu32,
               facts->ranks, scene->coordinator->ranks_max, facts->ranks);
        return;
    }
    struct run run = {.number = scene->coordinator->run_count + 1};
    snprintf(run.id, sizeof run.id, "r%" PRIu64, run.number);
    struct scene made = *scene;
    made.run = &run;
    add(&made, RECORD_RUN_SUBMITTED)->run_submitted = (struct record_run_submitted){
        .facts = facts, .key = key, .text = submit->text, .resolved = submit->resolved};
    note(&made, NOTE_SUBMITTED, 0, "%s, %" PRIu32 " rank%s, %" PRIu64 " steps", facts->name,
         facts->ranks, facts->ranks == 1 ? "" : "s", facts->steps);
    struct effect *effect = add_effect(&made, EFFECT_WRITE_JOB);
    effect->text = submit->text;
    effect->resolved = submit->resolved;
    answer_run(scene, &run);
}

/* ---- act ---- */

static const struct order *pending_order(const struct run *run, Performer__Order__Kind kind)
{
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].kind == kind && run->orders[i].state == ORDER_PENDING)
            return &run->orders[i];
    return NULL;
}

static void request_order(const struct scene *scene, Performer__Order__Kind kind)
{
    uint64_t id = scene->coordinator->order_next;
    add(scene, RECORD_ORDER_REQUESTED)->order_requested =
        (struct record_order_requested){.order = id, .kind = kind};
    note(scene, NOTE_ORDER_REQUESTED, run_step_now(scene->run), "%s, order %" PRIu64,
         order_kind_name(kind), id);
    scene->decision->answer.order = id;
}

static void request_stop(const struct scene *scene, enum stop stop)
{
    add(scene, RECORD_STOP_REQUESTED)->stop_requested.stop = stop;
}

/* True where the run is over, and the answer says whether that is what was wanted. */
static bool stop_comes_late(const struct scene *scene)
{
    enum run_state state = scene->run->state;
    if (!run_state_is_final(state)) return false;
    if (state != RUN_CANCELLED)
        answer(scene, ST_REFUSED, "%s has %s already", scene->run->id, run_state_name(state));
    return true;
}

static bool run_waits(const struct run *run)
{
    return run->state == RUN_QUEUED || run->state == RUN_RESTARTING || run->state == RUN_PAUSED;
}

static void decide_cancel(const struct scene *scene)
{
    if (stop_comes_late(scene)) return;
    if (run_waits(scene->run)) {
        request_stop(scene, STOP_CANCEL);
        move(scene, RUN_CANCELLED,
             scene->run->attempt.number == 0 ? "cancelled before it began"
                                             : "cancelled while it waited for its next attempt");
    } else if (scene->run->state == RUN_STOPPING) {
        const struct order *stop = pending_order(scene->run, PERFORMER__ORDER__KIND__STOP);
        scene->decision->answer.order = stop ? stop->id : 0;
    } else {
        request_stop(scene, STOP_CANCEL);
        request_order(scene, PERFORMER__ORDER__KIND__STOP);
        move(scene, RUN_STOPPING, "cancelled: it saves a checkpoint, then ends");
    }
}

static void decide_kill(const struct scene *scene)
{
    if (stop_comes_late(scene)) return;
    if (scene->run->stop != STOP_KILL) request_stop(scene, STOP_KILL);
    if (run_waits(scene->run)) {
        move(scene, RUN_CANCELLED,
             scene->run->attempt.number == 0 ? "killed before it began"
                                             : "killed while it waited for its next attempt");
        return;
    }
    if (scene->run->state != RUN_STOPPING) move(scene, RUN_STOPPING, "killed");
    kill_attempt(scene); /* once more at each kill: the first signal may have come too early */
}

/* Orders that need a training run: it must have begun, and not be ending. */
static bool order_makes_sense(const struct scene *scene, Performer__Order__Kind kind)
{
    const struct run *run = scene->run;
    const char *verb = order_kind_name(kind);
    if (run_state_is_final(run->state))
        answer(scene, ST_REFUSED, "%s has %s already: nothing to %s", run->id,
               run_state_name(run->state), verb);
    else if (run->state == RUN_STOPPING)
        answer(scene, ST_REFUSED, "%s is stopping: no %s any more", run->id, verb);
    else if (run->attempt.number == 0)
        answer(scene, ST_REFUSED, "%s has not begun: no %s yet", run->id, verb);
    else if (kind == PERFORMER__ORDER__KIND__REDRAW && !run->facts.features)
        answer(scene, ST_REFUSED, "the attention of %s has no random features to redraw", run->id);
    else if (run->order_count >= RUN_ORDERS_MAX)
        answer(scene, ST_REFUSED, "%s has had %d orders, and a run takes no more", run->id,
               RUN_ORDERS_MAX);
    else
        return true;
    return false;
}

static void decide_order(const struct scene *scene, Performer__Order__Kind kind)
{
    if (!order_makes_sense(scene, kind)) return;
    const struct order *pending = pending_order(scene->run, kind);
    if (pending && kind == PERFORMER__ORDER__KIND__CHECKPOINT)
        scene->decision->answer.order = pending->id; /* one save serves both */
    else
        request_order(scene, kind);
}

static void decide_act(const struct scene *scene)
{
    const struct event_act *act = &scene->event->act;
    struct scene known = *scene;
    struct fault fault;
    enum status status = coordinator_find(scene->coordinator, act->run, &known.run, &fault);
    if (status != ST_OK) {
        answer(scene, status, "%s", fault.text);
        return;
    }
    answer_run(scene, known.run);
    switch (act->action) {
    case PERFORMER__ACTION__ACTION_CANCEL:
        decide_cancel(&known);
        return;
    case PERFORMER__ACTION__ACTION_KILL:
        decide_kill(&known);
        return;
    case PERFORMER__ACTION__ACTION_CHECKPOINT:
        decide_order(&known, PERFORMER__ORDER__KIND__CHECKPOINT);
        return;
    case PERFORMER__ACTION__ACTION_REDRAW:
        decide_order(&known, PERFORMER__ORDER__KIND__REDRAW);
        return;
    default:
        answer(scene, ST_UNSUPPORTED, "no action has number %d", (int)act->action);
    }
}

/* ---- reports ---- */

static bool metric_is_sound(const Performer__MetricRow *row)
{
    size_t length = strnlen(row->name, METRIC_NAME_MAX + 1);
    if (length == 0 || length > METRIC_NAME_MAX || row->step > COUNT_MAX) return false;
    for (size_t i = 0; i < length; i++)
        if (row->name[i] <= ' ' || row->name[i] > '~') return false;
    return true;
}

/* NULL, or why no worker of ours sends such a report. */
static const char *report_flaw(const Performer__Report *report, const struct run *run)
{
    if (report->rank >= run->facts.ranks) return "there is no such rank";
    if (report->sequence == 0 || report->sequence > COUNT_MAX)
        return "the sequence number is out of bounds";
    if (report->heartbeat && report->heartbeat->step > COUNT_MAX) return "a step is out of bounds";
    for (size_t i = 0; i < report->n_metrics; i++)
        if (!metric_is_sound(report->metrics[i])) return "a metric has a bad name or step";
    for (size_t i = 0; i < report->n_notices; i++)
        if (report->notices[i]->step > COUNT_MAX) return "a notice has a bad step";
    return NULL;
}

/* A gap can be told only while the daemon has heard every report: those with a heartbeat alone leave no
 * trace in the store. */
static bool report_leaves_gap(const struct rank *rank, uint64_t sequence)
{
    return rank->heard && sequence > rank->sequence_heard + 1;
}

static bool order_is_decided(const struct scene *scene, uint64_t id)
{
    for (size_t i = 0; i < scene->decision->record_count; i++) {
        const struct record *record = &scene->decision->records[i];
        if (record->kind == RECORD_ORDER_APPLIED && record->order_applied.order == id) return true;
    }
    return false;
}

static void answer_orders(const struct scene *scene)
{
    const struct run *run = scene->run;
    struct answer *reply = &scene->decision->answer;
    answer_run(scene, run);
    reply->fenced = run->attempt.ended; /* what it told is welcome, but it should live no more */
    if (reply->fenced) return;
    struct order *orders = decision_memory(scene->decision, run->order_count * sizeof *orders);
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].state == ORDER_PENDING && !order_is_decided(scene, run->orders[i].id))
            orders[reply->order_count++] = run->orders[i];
    reply->orders = orders;
}

static void hear_started(const struct scene *scene, const Performer__Report *report,
                         const Performer__Notice *told)
{
    struct decision *decision = scene->decision;
    const Performer__Started *started = told->started;
    const char *host = report->heartbeat ? report->heartbeat->host : "";
    uint64_t resumed = started->resumed_step < COUNT_MAX ? started->resumed_step : COUNT_MAX;
    struct record_rank_started content = {
        .rank = report->rank,
        .resumed_step = resumed,
        .host = decision_clean(decision, host, HOST_SIZE - 1, false),
        .backend = decision_clean(decision, started->backend, TEXT_BYTES_MAX, false),
        .libraries = decision_clean(decision, started->libraries, TEXT_BYTES_MAX, false),
        .parameters = started->parameters,
    };
    add(scene, RECORD_RANK_STARTED)->rank_started = content;
    char from[64] = "the beginning";
    if (resumed > 0) snprintf(from, sizeof from, "the checkpoint of step %" PRIu64, resumed);
    note(scene, NOTE_RANK_STARTED, resumed, "rank %" PRIu32 " starts from %s: %s, %s", report->rank,
         from, content.backend, content.libraries);
}

static const struct draw *run_draw(const struct run *run, uint64_t number)
{
    for (size_t i = run->draw_count; i-- > 0;)
        if (run->draws[i].draw == number) return &run->draws[i];
    return NULL;
}

/* Features are a function of (seed, layer, draw): ranks and attempts that differ are not training one model. */
static void hear_redrawn(const struct scene *scene, const Performer__Report *report,
                         const Performer__Notice *told)
{
    const Performer__Redrawn *redrawn = told->redrawn;
    if (redrawn->draw > COUNT_MAX || redrawn->order > COUNT_MAX) return;
    const char *hash = decision_clean(scene->decision, redrawn->hash, HASH_SIZE - 1, false);
    add(scene, RECORD_REDRAWN)->redrawn = (struct record_redrawn){.rank = report->rank,
                                                                  .draw = redrawn->draw,
                                                                  .step = told->step,
                                                                  .order = redrawn->order,
                                                                  .hash = hash};
    const struct draw *known = run_draw(scene->run, redrawn->draw);
    char why[48] = "planned";
    if (redrawn->order != 0) snprintf(why, sizeof why, "order %" PRIu64, redrawn->order);
    if (!known)
        note(scene, NOTE_REDRAWN, told->step,
             "draw %" PRIu64 " after step %" PRIu64 ", %s, hash %s", redrawn->draw, told->step, why,
             hash);
    else if (strcmp(known->hash, hash) != 0 || known->step != told->step)
        note(scene, NOTE_REDRAW_DISAGREED, told->step,
             "rank %" PRIu32 " has draw %" PRIu64 " with hash %s after step %" PRIu64
             ", first told was %s after step %" PRIu64,
             report->rank, redrawn->draw, hash, told->step, known->hash, known->step);
}

static void hear_order_applied(const struct scene *scene, const Performer__Report *report,
                               const Performer__Notice *told)
{
    uint64_t id = told->order_applied->order;
    const struct order *order = run_order(scene->run, id);
    if (order && order->state == ORDER_PENDING && !order_is_decided(scene, id)) {
        add(scene, RECORD_ORDER_APPLIED)->order_applied =
            (struct record_order_applied){.order = id, .step = told->step};
        note(scene, NOTE_ORDER_APPLIED, told->step, "%s, order %" PRIu64 ", after step %" PRIu64,
             order_kind_name(order->kind), id, told->step);
    } else if (!order || (order->state == ORDER_APPLIED && order->step != told->step)) {
        note(scene, NOTE_ORDER_DISAGREED, told->step,
             "rank %" PRIu32 " applied order %" PRIu64 " after step %" PRIu64 ", %s", report->rank,
             id, told->step, order ? "another step than was told first" : "which was never given");
    }
}

static void hear_checkpoint_saved(const struct scene *scene, const Performer__Notice *told)
{
    const Performer__CheckpointSaved *saved = told->checkpoint_saved;
    const char *path = decision_clean(scene->decision, saved->path, PATH_BYTES_MAX, false);
    add(scene, RECORD_CHECKPOINT_SAVED)->checkpoint_saved =
        (struct record_checkpoint_saved){.step = told->step,
                                         .path = path,
                                         .bytes = saved->bytes,
                                         .seconds = saved->seconds,
                                         .best = saved->best,
                                         .valid_loss = saved->valid_loss};
    note(scene, NOTE_CHECKPOINT_SAVED, told->step, "%" PRIu64 " bytes in %.2f s: %s", saved->bytes,
         saved->seconds, path);
}

static void hear_checkpoint_judged(const struct scene *scene, const Performer__Notice *told,
                                   enum verdict verdict, const char *path, const char *text)
{
    const char *clean = decision_clean(scene->decision, path, PATH_BYTES_MAX, false);
    add(scene, RECORD_CHECKPOINT_JUDGED)->checkpoint_judged =
        (struct record_checkpoint_judged){.step = told->step, .path = clean, .verdict = verdict};
    if (verdict == VERDICT_PRUNED)
        note(scene, NOTE_CHECKPOINT_REMOVED, told->step, "%s", clean);
    else
        note(scene, NOTE_CHECKPOINT_REJECTED, told->step, "%s: %s", text, clean);
}

static void hear_notice(const struct scene *scene, const Performer__Report *report,
                        const Performer__Notice *told)
{
    switch (told->what_case) {
    case PERFORMER__NOTICE__WHAT_STARTED:
        hear_started(scene, report, told);
        return;
    case PERFORMER__NOTICE__WHAT_REDRAWN:
        hear_redrawn(scene, report, told);
        return;
    case PERFORMER__NOTICE__WHAT_ORDER_APPLIED:
        hear_order_applied(scene, report, told);
        return;
    case PERFORMER__NOTICE__WHAT_CHECKPOINT_SAVED:
        hear_checkpoint_saved(scene, told);
        return;
    case PERFORMER__NOTICE__WHAT_CHECKPOINT_REMOVED:
        hear_checkpoint_judged(scene, told, VERDICT_PRUNED, told->checkpoint_removed->path, "");
        return;
    case PERFORMER__NOTICE__WHAT_CHECKPOINT_REJECTED:
        hear_checkpoint_judged(scene, told, VERDICT_CORRUPT, told->checkpoint_rejected->path,
                               told->checkpoint_rejected->text);
        return;
    case PERFORMER__NOTICE__WHAT_CHECKPOINT_FAILED:
        note(scene, NOTE_CHECKPOINT_FAILED, told->step, "%s", told->checkpoint_failed->text);
        return;
    case PERFORMER__NOTICE__WHAT_ENDED:
        note(scene, NOTE_RANK_ENDED, told->step, "rank %" PRIu32 ": %s", report->rank,
             told->ended->text[0] != '\0' ? told->ended->text
                                          : status_text((enum status)told->ended->status));
        return;
    default: /* of a newer worker; the rest of its report is worth having */
        return;
    }
}

static uint64_t report_newest_step(const Performer__Report *report)
{
    uint64_t step = 0;
    for (size_t i = 0; i < report->n_metrics; i++)
        if (report->metrics[i]->step > step) step = report->metrics[i]->step;
    return step;
}

static const Performer__Heartbeat *heartbeat_clean(struct decision *decision,
                                                   const Performer__Heartbeat *heartbeat)
{
    if (!heartbeat) return NULL;
    Performer__Heartbeat *clean = decision_memory(decision, sizeof *clean);
    *clean = *heartbeat;
    clean->phase = decision_clean(decision, heartbeat->phase, PHASE_SIZE - 1, false);
    clean->host = decision_clean(decision, heartbeat->host, HOST_SIZE - 1, false);
    return clean;
}

static void take_report(const struct scene *scene, const Performer__Report *report)
{
    const struct run *run = scene->run;
    add(scene, RECORD_RANK_HEARD)->rank_heard = (struct record_rank_heard){
        .rank = report->rank,
        .sequence = report->sequence,
        .heartbeat = heartbeat_clean(scene->decision, report->heartbeat)};
    if (!run->attempt.ended && (run->state == RUN_STARTING || run->state == RUN_UNKNOWN))
        move(scene, RUN_RUNNING,
             run->state == RUN_UNKNOWN ? "heard again" : "the first rank is heard");

    for (size_t i = 0; i < report->n_notices; i++) hear_notice(scene, report, report->notices[i]);
    if (report->metrics_thinned > 0)
        note(scene, NOTE_METRICS_THINNED, report_newest_step(report),
             "rank %" PRIu32 " gave up %" PRIu64 " rows while the daemon was away", report->rank,
             report->metrics_thinned);

    if (report->n_notices == 0 && report->n_metrics == 0 && report->metrics_thinned == 0) return;
    add(scene, RECORD_REPORT_TAKEN)->report_taken =
        (struct record_report_taken){.rank = report->rank,
                                     .sequence = report->sequence,
                                     .step = report_newest_step(report),
                                     .metric_count = report->n_metrics,
                                     .metrics = report->metrics};
}

static void decide_report(const struct scene *scene)
{
    const Performer__Report *report = scene->event->report.report;
    struct scene known = *scene;
    known.run = run_by_id(scene->coordinator, report->run);
    const struct run *run = known.run;
    if (!run) {
        answer(scene, ST_NOT_FOUND, "there is no run `%.80s`", report->run);
        return;
    }
    if (report->attempt != run->attempt.number || strcmp(report->nonce, run->attempt.nonce) != 0) {
        answer_run(scene, run);
        scene->decision->answer.fenced = true;
        return;
    }
    const char *flaw = report_flaw(report, run);
    if (flaw) {
        answer(scene, ST_INVALID, "report %" PRIu64 " of rank %" PRIu32 " of %s: %s",
               report->sequence, report->rank, run->id, flaw);
        return;
    }
    const struct rank *rank = &run->attempt.ranks[report->rank];
    if (report_leaves_gap(rank, report->sequence)) {
        answer(scene, ST_INVALID,
               "rank %" PRIu32 " of %s sent report %" PRIu64 " after report %" PRIu64, report->rank,
               run->id, report->sequence, rank->sequence_heard);
        return;
    }
    if (report->sequence > rank->sequence_heard) take_report(&known, report);
    answer_orders(&known);
}

/* ---- attempts ---- */

/* NULL: the event is about an attempt that is over or another than the newest. */
static const struct run *living_run(const struct coordinator *coordinator, uint64_t number,
                                    uint32_t attempt)
{
    const struct run *run = coordinator_run(coordinator, number);
    return run && run->attempt.number == attempt && run_attempt_lives(run) ? run : NULL;
}

static void record_launched(const struct scene *scene, int64_t pid, uint64_t pid_start_time)
{
    add(scene, RECORD_ATTEMPT_LAUNCHED)->attempt_launched =
        (struct record_attempt_launched){.pid = pid, .pid_start_time = pid_start_time};
    if (scene->run->stop != STOP_KILL) return;
    struct effect *effect = add_effect(scene, EFFECT_SIGNAL);
    effect->signal = SIGKILL;
    effect->pid = pid;
    effect->pid_start_time = pid_start_time;
}

static void decide_launched(const struct scene *scene)
{
    const struct event_launched *launched = &scene->event->launched;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, launched->run, launched->attempt);
    if (known.run) record_launched(&known, launched->pid, launched->pid_start_time);
}

static void decide_adopted(const struct scene *scene)
{
    const struct event_adopted *adopted = &scene->event->adopted;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, adopted->run, adopted->attempt);
    if (!known.run) return;
    record_launched(&known, adopted->pid, adopted->pid_start_time);
    note(&known, NOTE_ATTEMPT_ADOPTED, run_step_now(known.run),
         "attempt %" PRIu32 ", launcher %" PRId64 ", runs on after a restart of the daemon",
         adopted->attempt, adopted->pid);
}

/* What a cause means in the light of what was asked for. */
static enum attempt_cause cause_in_context(const struct run *run, enum attempt_cause cause)
{
    assert(cause != CAUSE_NONE);
    if (run->stop == STOP_KILL && attempt_cause_restarts(cause)) return CAUSE_KILLED;
    if (run->stop != STOP_KILL && cause == CAUSE_KILLED) return CAUSE_CRASH;
    if (run->state != RUN_STOPPING && cause == CAUSE_CANCELLED) return CAUSE_CRASH;
    return cause;
}

static enum run_state state_after(const struct run *run, enum attempt_cause cause, bool crash)
{
    if (cause == CAUSE_FINISHED) return RUN_SUCCEEDED;
    if (run->stop == STOP_KILL || cause == CAUSE_CANCELLED) return RUN_CANCELLED;
    if (run->state == RUN_STOPPING)
        return RUN_FAILED; /* the checkpoint that cancel promises is not there */
    if (!attempt_cause_restarts(cause)) return RUN_FAILED;
    return crash && run->crashes >= run->facts.restart_max ? RUN_FAILED : RUN_RESTARTING;
}

static const char *end_words(const struct scene *scene, enum run_state next, bool crash,
                             const char *text)
{
    const struct run *run = scene->run;
    struct decision *decision = scene->decision;
    if (next == RUN_SUCCEEDED)
        return decision_format(decision, "all %" PRIu64 " steps done", run->facts.steps);
    if (next == RUN_CANCELLED) return run->stop == STOP_KILL ? "killed" : text;
    if (run->state == RUN_STOPPING)
        return decision_format(decision, "it was to stop, but ended first: %s", text);
    if (next == RUN_FAILED && crash && run->facts.restart_max > 0)
        return decision_format(decision, "%s, and all %" PRIu32 " restarts are used up", text,
                               run->facts.restart_max);
    return text;
}

static struct evidence *evidence_clean(struct decision *decision, const struct evidence *evidence)
{
    struct evidence *clean = decision_memory(decision, sizeof *clean);
    *clean = *evidence;
    text_copy(clean->text, sizeof clean->text,
              decision_clean(decision, evidence->text, sizeof clean->text - 1, false));
    text_copy(clean->host, sizeof clean->host,
              decision_clean(decision, evidence->host, sizeof clean->host - 1, false));
    text_copy(clean->last_lines, sizeof clean->last_lines,
              decision_clean(decision, evidence->last_lines, sizeof clean->last_lines - 1, true));
    return clean;
}

/* `counts`: an end by a cause that restarts takes from the budget. */
static void end_attempt(const struct scene *scene, const struct evidence *evidence, bool counts)
{
    const struct run *run = scene->run;
    const struct evidence *clean = evidence_clean(scene->decision, evidence);
    enum attempt_cause cause = cause_in_context(run, evidence->cause);
    bool crash = counts && attempt_cause_restarts(cause);
    const char *text = clean->text[0] != '\0' ? clean->text : attempt_cause_words(cause);
    enum run_state next = state_after(run, cause, crash);

    add(scene, RECORD_ATTEMPT_ENDED)->attempt_ended =
        (struct record_attempt_ended){.cause = cause, .evidence = clean, .crash = crash};
    bool good = cause == CAUSE_FINISHED || cause == CAUSE_CANCELLED || cause == CAUSE_KILLED;
    note(scene, good ? NOTE_ATTEMPT_ENDED : NOTE_ATTEMPT_FAILED, run_step_now(run),
         "attempt %" PRIu32 ", %s: %s", run->attempt.number, attempt_cause_name(cause), text);
    move(scene, next, end_words(scene, next, crash, text));
}

static void decide_attempt_ended(const struct scene *scene)
{
    const struct event_attempt_ended *ended = &scene->event->attempt_ended;
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, ended->run, ended->attempt);
    if (known.run) end_attempt(&known, ended->evidence, true);
}

static void end_without_evidence(const struct scene *scene, uint64_t number, uint32_t attempt,
                                 enum attempt_cause cause, const char *text, bool counts)
{
    struct scene known = *scene;
    known.run = living_run(scene->coordinator, number, attempt);
    if (!known.run) return;
    struct evidence evidence = {.cause = cause, .first_rank = -1, .exit_code = -1};
    text_copy(evidence.text, sizeof evidence.text, text);
    end_attempt(&known, &evidence, counts);
}

static void decide_launch_failed(const struct scene *scene)
{
    const struct event_launch_failed *failed = &scene->event->launch_failed;
    end_without_evidence(scene, failed->run, failed->attempt, CAUSE_LAUNCH_FAILED, failed->text,
                         true);
}

static void decide_lost(const struct scene *scene)
{
    const struct event_lost *lost = &scene->event->lost;
    end_without_evidence(scene, lost->run, lost->attempt, CAUSE_LOST, lost->text, true);
}

/* The daemon died between planning and launching: its fault, not the run's. */
static void decide_unlaunched(const struct scene *scene)
{
    const struct event_unlaunched *unlaunched = &scene->event->unlaunched;
    const struct run *run = coordinator_run(scene->coordinator, unlaunched->run);
    bool stopping = run && run->state == RUN_STOPPING;
    end_without_evidence(scene, unlaunched->run, unlaunched->attempt,
                         stopping ? CAUSE_CANCELLED : CAUSE_LOST,
                         "the daemon ended before it had started this attempt", false);
}

/* ---- tick ---- */

static uint64_t lease_ms(const struct run *run)
{
    if (run->state == RUN_RUNNING) return LEASE_MS;
    return run->state == RUN_STARTING ? STARTING_LEASE_MS : UINT64_MAX;
}

static bool lapse_lease(const struct scene *scene)
{
    uint64_t now_ms = scene->event->now_ms;
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        known.run = scene->coordinator->runs[i];
        uint64_t silence_ms = now_ms > known.run->heard_ms ? now_ms - known.run->heard_ms : 0;
        if (silence_ms <= lease_ms(known.run)) continue;
        move(&known, RUN_UNKNOWN,
             decision_format(scene->decision,
                             "no rank was heard for %" PRIu64 " s; it may well run on",
                             silence_ms / 1000));
        return true;
    }
    return false;
}

static int compare_applied(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The orders that are part of the run's identity: a resumed attempt meets them again at their steps. */
static void collect_applied(const struct scene *scene, struct effect *effect)
{
    const struct run *run = scene->run;
    struct order *applied = decision_memory(scene->decision, run->order_count * sizeof *applied);
    size_t count = 0;
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].state == ORDER_APPLIED &&
            run->orders[i].kind == PERFORMER__ORDER__KIND__REDRAW)
            applied[count++] = run->orders[i];
    if (count > 0) qsort(applied, count, sizeof *applied, compare_applied);
    effect->applied = applied;
    effect->applied_count = count;
}

static void plan_attempt(const struct scene *scene)
{
    const struct run *run = scene->run;
    const uint64_t *random = scene->event->tick.random;
    uint32_t number = run->attempt.number + 1;
    char *nonce =
        decision_format(scene->decision, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);

    struct record *planned = add(scene, RECORD_ATTEMPT_PLANNED);
    planned->attempt = number;
    planned->attempt_planned.nonce = nonce;
    size_t moved = scene->decision->record_count;
    move(scene, RUN_STARTING,
         decision_format(scene->decision, "attempt %" PRIu32 " begins", number));
    for (size_t i = moved; i < scene->decision->record_count; i++)
        scene->decision->records[i].attempt = number;

    struct effect *effect = add_effect(scene, EFFECT_LAUNCH);
    effect->attempt = number;
    text_copy(effect->nonce, sizeof effect->nonce, nonce);
    effect->ranks = run->facts.ranks;
    collect_applied(scene, effect);
}

static uint32_t ranks_free(const struct coordinator *coordinator)
{
    uint32_t in_use = coordinator_ranks_in_use(coordinator);
    return in_use < coordinator->ranks_max ? coordinator->ranks_max - in_use : 0;
}

/* Ranks that a QUEUED run may have: those of runs between two attempts are kept for them. */
static uint32_t ranks_for_queue(const struct coordinator *coordinator)
{
    uint32_t ranks = ranks_free(coordinator);
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        if (run->state != RUN_RESTARTING) continue;
        ranks = ranks > run->facts.ranks ? ranks - run->facts.ranks : 0;
    }
    return ranks;
}

static bool restart_due(const struct scene *scene)
{
    uint32_t ranks = ranks_free(scene->coordinator);
    for (size_t i = 0; i < scene->coordinator->run_count; i++) {
        struct scene known = *scene;
        known.run = scene->coordinator->runs[i];
        if (known.run->state != RUN_RESTARTING || known.run->due_ms > scene->event->now_ms)
            continue;
        if (known.run->facts.ranks > ranks) continue;
        plan_attempt(&known);
        return true;
    }
    return false;
}

/* In order of submit: a run that does not fit yet keeps those behind it waiting, so that it gets its turn. One that
 * can never fit, since ranks_max was lowered, stands aside. */
static const struct run *first_in_queue(const struct coordinator *coordinator)
{
    for (size_t i = 0; i < coordinator->run_count; i++) {
        const struct run *run = coordinator->runs[i];
        if (run->state == RUN_QUEUED && run->facts.ranks <= coordinator->ranks_max) return run;
    }
    return NULL;
}

static bool admit_next(const struct scene *scene)
{
    struct scene known = *scene;
    known.run = first_in_queue(scene->coordinator);
    if (!known.run || known.run->facts.ranks > ranks_for_queue(scene->coordinator)) return false;
    plan_attempt(&known);
    return true;
}

static void decide_tick(const struct scene *scene)
{
    if (lapse_lease(scene)) return;
    if (restart_due(scene)) return;
    admit_next(scene);
}

void coordinator_reason(const struct coordinator *coordinator, const struct run *run,
                        uint64_t now_ms, char *text, size_t size)
{
    if (run->state == RUN_RESTARTING && run->due_ms > now_ms)
        snprintf(text, size, "%s; attempt %" PRIu32 " begins in %" PRIu64 " s", run->reason,
                 run->attempt.number + 1, (run->due_ms - now_ms + 999) / 1000);
    else if (run->state != RUN_QUEUED && run->state != RUN_RESTARTING)
        text_copy(text, size, run->reason);
    else if (run->facts.ranks > coordinator->ranks_max)
        snprintf(text, size, "needs %" PRIu32 " ranks, and this daemon runs at most %" PRIu32,
                 run->facts.ranks, coordinator->ranks_max);
    else if (run->state == RUN_QUEUED && first_in_queue(coordinator) != run)
        snprintf(text, size, "waits behind %s", first_in_queue(coordinator)->id);
    else
        snprintf(text, size, "waits for %" PRIu32 " ranks: %" PRIu32 " of %" PRIu32 " are in use",
                 run->facts.ranks, coordinator_ranks_in_use(coordinator), coordinator->ranks_max);
}

/* ---- the door ---- */

static const struct {
    const char *name;
    void (*decide)(const struct scene *scene);
} deciders[] = {
#define EVENT_ROW(enumerator, tag) [enumerator] = {#tag, decide_##tag},
    EVENTS(EVENT_ROW)
#undef EVENT_ROW
};

void coordinator_decide(const struct coordinator *coordinator, const struct event *event,
                        struct decision *decision)
{
    decision_init(decision, deciders[event->kind].name);
    struct scene scene = {.coordinator = coordinator, .event = event, .decision = decision};
    deciders[event->kind].decide(&scene);
}
