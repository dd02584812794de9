/* What ranks tell: that they live, what they measured, and what has happened. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/scene.h"

/* A step, sequence number or size beyond this is no number that a worker of ours can have reached. */
static const uint64_t COUNT_MAX = UINT64_C(1) << 47;

enum { PATH_BYTES_MAX = 4096, REASON_BYTES_MAX = 120 };

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
    scene_answer_run(scene, run);
    reply->fenced = run->attempt.ended; /* what it told is welcome, but it should live no more */
    if (reply->fenced) return;
    struct order *orders = decision_memory(scene->decision, run->order_count * sizeof *orders);
    for (size_t i = 0; i < run->order_count; i++)
        if (run->orders[i].state == ORDER_PENDING && !order_is_decided(scene, run->orders[i].id))
            orders[reply->order_count++] = run->orders[i];
    reply->orders = orders;
    if (run->attempt.rendezvous[0] != '\0') reply->rendezvous = run->attempt.rendezvous;
}

/* The first word holds: the others may have it already. */
static void hear_rendezvous(const struct scene *scene, const Performer__Report *report,
                            const Performer__Notice *told)
{
    if (report->rank != 0 || scene->run->attempt.rendezvous[0] != '\0') return;
    const char *text =
        decision_clean(scene->decision, told->rendezvous->text, RENDEZVOUS_TEXT_SIZE - 1, false);
    scene_record(scene, RECORD_RENDEZVOUS)->rendezvous.text = text;
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
    scene_record(scene, RECORD_RANK_STARTED)->rank_started = content;
    char from[64] = "the beginning";
    if (resumed > 0) snprintf(from, sizeof from, "the checkpoint of step %" PRIu64, resumed);
    scene_note(scene, NOTE_RANK_STARTED, resumed, "rank %" PRIu32 " starts from %s: %s, %s",
               report->rank, from, content.backend, content.libraries);
}

static const struct draw *run_draw(const struct run *run, uint64_t number)
{
    for (size_t i = run->draw_count; i-- > 0;)
        if (run->draws[i].draw == number) return &run->draws[i];
    return NULL;
}

static const char *redraw_reason(struct decision *decision, const Performer__Redrawn *redrawn)
{
    if (redrawn->order != 0) return decision_format(decision, "order %" PRIu64, redrawn->order);
    if (redrawn->why[0] == '\0') return "planned";
    return decision_clean(decision, redrawn->why, REASON_BYTES_MAX, false);
}

/* Features are a function of (seed, layer, draw): ranks and attempts that differ are not training one model. */
static void hear_redrawn(const struct scene *scene, const Performer__Report *report,
                         const Performer__Notice *told)
{
    const Performer__Redrawn *redrawn = told->redrawn;
    if (redrawn->draw > COUNT_MAX || redrawn->order > COUNT_MAX) return;
    const char *hash = decision_clean(scene->decision, redrawn->hash, HASH_SIZE - 1, false);
    const char *why = redraw_reason(scene->decision, redrawn);
    scene_record(scene, RECORD_REDRAWN)->redrawn = (struct record_redrawn){.rank = report->rank,
                                                                           .draw = redrawn->draw,
                                                                           .step = told->step,
                                                                           .order = redrawn->order,
                                                                           .why = why,
                                                                           .hash = hash};
    const struct draw *known = run_draw(scene->run, redrawn->draw);
    bool again = known && known->attempt == report->attempt;
    if (!known || (!again && strcmp(known->hash, hash) == 0 && known->step != told->step))
        scene_note(scene, NOTE_REDRAWN, told->step,
                   "draw %" PRIu64 " after step %" PRIu64 ", %s, hash %s", redrawn->draw,
                   told->step, why, hash);
    else if (strcmp(known->hash, hash) != 0 || (again && known->step != told->step))
        scene_note(scene, NOTE_REDRAW_DISAGREED, told->step,
                   "rank %" PRIu32 " has draw %" PRIu64 " with hash %s after step %" PRIu64
                   ", first told was %s after step %" PRIu64,
                   report->rank, redrawn->draw, hash, told->step, known->hash, known->step);
}

/* A fork's weights have met the orders of the run that it began from, and its ranks tell so. */
static bool order_is_inherited(const struct scene *scene, uint64_t id)
{
    const struct coordinator *coordinator = scene->coordinator;
    const struct run *run = coordinator_run(coordinator, scene->run->forked_from);
    while (run && !run_order(run, id)) run = coordinator_run(coordinator, run->forked_from);
    return run != NULL;
}

/* One that was dropped as well: the attempt that applied it had died before it could tell, and a checkpoint has met it. */
static void hear_order_applied(const struct scene *scene, const Performer__Report *report,
                               const Performer__Notice *told)
{
    uint64_t id = told->order_applied->order;
    const struct order *order = run_order(scene->run, id);
    if (order && order->state != ORDER_APPLIED && !order_is_decided(scene, id)) {
        scene_record(scene, RECORD_ORDER_APPLIED)->order_applied =
            (struct record_order_applied){.order = id, .step = told->step};
        scene_note(scene, NOTE_ORDER_APPLIED, told->step,
                   "%s, order %" PRIu64 ", after step %" PRIu64, order_kind_name(order->kind), id,
                   told->step);
    } else if (!order && order_is_inherited(scene, id)) {
        return;
    } else if (!order || (order->state == ORDER_APPLIED && order->step != told->step)) {
        scene_note(scene, NOTE_ORDER_DISAGREED, told->step,
                   "rank %" PRIu32 " applied order %" PRIu64 " after step %" PRIu64 ", %s",
                   report->rank, id, told->step,
                   order ? "another step than was told first" : "which was never given");
    }
}

/* Once, when it comes to be so. */
static void tell_slow_stop(const struct scene *scene, uint64_t step, uint64_t save_ms)
{
    const struct run *run = scene->run;
    struct run then = *run;
    then.save_ms = save_ms;
    const bool was_slow = run_stop_ms(run) > run_grace_ms(run);
    if (was_slow || run_stop_ms(&then) <= run_grace_ms(&then)) return;
    scene_note(scene, NOTE_STOP_TOO_SLOW, step, STOP_TOO_SLOW_WORDS,
               (double)run_stop_ms(&then) / 1e3, (double)run_grace_ms(&then) / 1e3);
}

static void hear_checkpoint_saved(const struct scene *scene, const Performer__Notice *told)
{
    const Performer__CheckpointSaved *saved = told->checkpoint_saved;
    const char *path = decision_clean(scene->decision, saved->path, PATH_BYTES_MAX, false);
    scene_record(scene, RECORD_CHECKPOINT_SAVED)->checkpoint_saved =
        (struct record_checkpoint_saved){.step = told->step,
                                         .path = path,
                                         .bytes = saved->bytes,
                                         .seconds = saved->seconds,
                                         .best = saved->best,
                                         .valid_loss = saved->valid_loss};
    tell_slow_stop(scene, told->step, run_save_ms(saved->seconds));
    scene_note(scene, NOTE_CHECKPOINT_SAVED, told->step, "%" PRIu64 " bytes in %.2f s: %s",
               saved->bytes, saved->seconds, path);
}

static void hear_checkpoint_judged(const struct scene *scene, const Performer__Notice *told,
                                   enum verdict verdict, const char *path, const char *text)
{
    const char *clean = decision_clean(scene->decision, path, PATH_BYTES_MAX, false);
    scene_record(scene, RECORD_CHECKPOINT_JUDGED)->checkpoint_judged =
        (struct record_checkpoint_judged){.step = told->step, .path = clean, .verdict = verdict};
    if (verdict == VERDICT_PRUNED)
        scene_note(scene, NOTE_CHECKPOINT_REMOVED, told->step, "%s", clean);
    else
        scene_note(scene, NOTE_CHECKPOINT_REJECTED, told->step, "%s: %s", text, clean);
}

static void hear_notice(const struct scene *scene, const Performer__Report *report,
                        const Performer__Notice *told)
{
    switch (told->what_case) {
    case PERFORMER__NOTICE__WHAT_RENDEZVOUS:
        hear_rendezvous(scene, report, told);
        return;
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
        scene_note(scene, NOTE_CHECKPOINT_FAILED, told->step, "%s", told->checkpoint_failed->text);
        return;
    case PERFORMER__NOTICE__WHAT_UPDATE_SKIPPED:
        scene_note(
            scene, NOTE_UPDATE_SKIPPED, told->step,
            "%s: the update is left out, %" PRIu64 " in a row",
            decision_clean(scene->decision, told->update_skipped->why, REASON_BYTES_MAX, false),
            told->update_skipped->in_row);
        return;
    case PERFORMER__NOTICE__WHAT_ENDED:
        scene_note(scene, NOTE_RANK_ENDED, told->step, "rank %" PRIu32 ": %s", report->rank,
                   told->ended->text[0] != '\0' ? told->ended->text
                                                : status_text((enum status)told->ended->status));
        return;
    default: /* of a newer worker; the rest of its report is worth having */
        return;
    }
}

/* A notice may have waited for the daemon: what it tells happened when the rank says, but never later than now. */
static void hear_notices(const struct scene *scene, const Performer__Report *report)
{
    for (size_t i = 0; i < report->n_notices; i++) {
        const Performer__Notice *told = report->notices[i];
        struct scene then = *scene;
        if (told->time_ms > 0 && told->time_ms < scene->time_ms) then.time_ms = told->time_ms;
        hear_notice(&then, report, told);
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
    scene_record(scene, RECORD_RANK_HEARD)->rank_heard = (struct record_rank_heard){
        .rank = report->rank,
        .sequence = report->sequence,
        .heartbeat = heartbeat_clean(scene->decision, report->heartbeat)};
    if (!run->attempt.ended && (run->state == RUN_STARTING || run->state == RUN_UNKNOWN))
        scene_move(scene, RUN_RUNNING,
                   run->state == RUN_UNKNOWN ? "heard again" : "the first rank is heard");

    hear_notices(scene, report);
    if (report->metrics_thinned > 0)
        scene_note(scene, NOTE_METRICS_THINNED, report_newest_step(report),
                   "rank %" PRIu32 " gave up %" PRIu64 " rows while the daemon was away",
                   report->rank, report->metrics_thinned);

    if (report->n_notices == 0 && report->n_metrics == 0 && report->metrics_thinned == 0) return;
    scene_record(scene, RECORD_REPORT_TAKEN)->report_taken =
        (struct record_report_taken){.rank = report->rank,
                                     .sequence = report->sequence,
                                     .step = report_newest_step(report),
                                     .metric_count = report->n_metrics,
                                     .metrics = report->metrics};
}

/* A run that has had no attempt yet has number 0 and no nonce, which anybody can send. */
static bool is_from_newest(const Performer__Report *report, const struct attempt *attempt)
{
    return attempt->number > 0 && report->attempt == attempt->number &&
           strcmp(report->nonce, attempt->nonce) == 0;
}

void decide_report(const struct scene *scene)
{
    const Performer__Report *report = scene->event->report.report;
    struct scene known = *scene;
    known.run = coordinator_run_by_id(scene->coordinator, report->run);
    const struct run *run = known.run;
    if (!run) {
        scene_answer(scene, ST_NOT_FOUND, "there is no run `%.80s`", report->run);
        return;
    }
    if (!is_from_newest(report, &run->attempt)) {
        scene_answer_run(scene, run);
        scene->decision->answer.fenced = true;
        return;
    }
    const char *flaw = report_flaw(report, run);
    if (flaw) {
        scene_answer(scene, ST_INVALID, "report %" PRIu64 " of rank %" PRIu32 " of %s: %s",
                     report->sequence, report->rank, run->id, flaw);
        return;
    }
    const struct rank *rank = &run->attempt.ranks[report->rank];
    if (report_leaves_gap(rank, report->sequence)) {
        scene_answer(scene, ST_INVALID,
                     "rank %" PRIu32 " of %s sent report %" PRIu64 " after report %" PRIu64,
                     report->rank, run->id, report->sequence, rank->sequence_heard);
        return;
    }
    if (report->sequence > rank->sequence_heard) take_report(&known, report);
    answer_orders(&known);
}
