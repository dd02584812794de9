/* What people want: a new run, an end, a pause, another turn, a checkpoint, a redraw, an evaluation. */

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "daemon/queue.h"
#include "daemon/scene.h"

static bool key_is_too_long(const struct scene *scene, const char *key)
{
    if (strlen(key) <= RUN_KEY_MAX) return false;
    scene_answer(scene, ST_INVALID, "the key of a request has at most %d bytes", RUN_KEY_MAX);
    return true;
}

/* ---- submit ---- */

/* It would wait for ever. */
static bool job_is_too_large(const struct scene *scene, const struct run_facts *facts)
{
    uint32_t ranks_max = scene->coordinator->ranks_max;
    if (run_ranks_here(facts) <= ranks_max) return false;
    scene_answer(scene, ST_REFUSED,
                 "the job wants %" PRIu32 " ranks and this daemon runs at most %" PRIu32
                 " at once: lower resources.ranks, or start performerd with --max-ranks %" PRIu32,
                 facts->ranks, ranks_max, facts->ranks);
    return true;
}

/* In order, none twice. */
static void insert_number(uint64_t *numbers, size_t *count, uint64_t number)
{
    size_t place = *count;
    while (place > 0 && numbers[place - 1] > number) place--;
    if (place > 0 && numbers[place - 1] == number) return;
    memmove(numbers + place + 1, numbers + place, (*count - place) * sizeof *numbers);
    numbers[place] = number;
    ++*count;
}

/* Runs that are there already, so that none can come after itself. False: the answer says why not. */
static bool find_awaited(const struct scene *scene, struct record_run_submitted *submitted)
{
    const struct text_list *after = scene->event->submit.after;
    size_t wanted = after ? after->count : 0;
    uint64_t *numbers = decision_memory(scene->decision, wanted * sizeof *numbers);
    submitted->after = numbers;
    for (size_t i = 0; i < wanted; i++) {
        const struct run *run;
        struct fault fault;
        enum status status = coordinator_find(scene->coordinator, after->items[i], &run, &fault);
        if (status != ST_OK) {
            scene_answer(scene, status, "`after` in [queue]: %s", fault.text);
            return false;
        }
        if (run_state_is_final(run->state) && run->state != RUN_SUCCEEDED) {
            scene_answer(scene, ST_REFUSED,
                         "`after` in [queue]: %s has %s, and the job would never begin", run->id,
                         run_state_name(run->state));
            return false;
        }
        insert_number(numbers, &submitted->after_count, run->number);
    }
    return true;
}

/* The source's checkpoint becomes the run's own: its first. */
static void begin_from(const struct scene *scene, const struct fork_source *fork,
                       struct effect *effect)
{
    effect->fork = fork->path;
    effect->fork_step = fork->step;
    scene->decision->answer.forked_step = fork->step;
    scene_record(scene, RECORD_CHECKPOINT_SAVED)->checkpoint_saved =
        (struct record_checkpoint_saved){
            .step = fork->step,
            .path = decision_format(scene->decision, "%s/%s/checkpoints/step-%010" PRIu64,
                                    fork->runs_directory, scene->run->id, fork->step),
            .bytes = fork->bytes,
            .valid_loss = NAN};
    scene_note(scene, NOTE_FORKED, fork->step, "begins from %s", fork->path);
}

void decide_submit(const struct scene *scene)
{
    const struct event_submit *submit = &scene->event->submit;
    const struct run_facts *facts = submit->facts;
    const char *key = submit->key ? submit->key : "";
    if (key_is_too_long(scene, key)) return;
    const struct run *earlier = coordinator_run_by_key(scene->coordinator, key);
    if (earlier && strcmp(earlier->user, submit->caller.user) != 0) {
        scene_answer(scene, ST_NOT_PERMITTED, "the key is that of another user's submit");
        return;
    }
    if (earlier) {
        scene_answer_run(scene, earlier);
        scene->decision->answer.forked_step = earlier->forked_step;
        return;
    }
    if (job_is_too_large(scene, facts)) return;
    struct record_run_submitted submitted = {.facts = facts,
                                             .key = key,
                                             .user = submit->caller.user,
                                             .text = submit->text,
                                             .resolved = submit->resolved};
    if (submit->fork) submitted.forked_from = submit->fork->run;
    if (submit->fork) submitted.forked_step = submit->fork->step;
    if (!find_awaited(scene, &submitted)) return;
    struct run run = {.number = scene->coordinator->run_count + 1};
    snprintf(run.id, sizeof run.id, "r%" PRIu64, run.number);
    struct scene made = *scene;
    made.run = &run;
    scene_record(&made, RECORD_RUN_SUBMITTED)->run_submitted = submitted;
    scene_note(&made, NOTE_SUBMITTED, 0, "%s, %" PRIu32 " rank%s, %" PRIu64 " steps", facts->name,
               facts->ranks, facts->ranks == 1 ? "" : "s", facts->steps);
    struct effect *effect = scene_effect(&made, EFFECT_WRITE_JOB);
    if (submit->fork) begin_from(&made, submit->fork, effect);
    effect->text = submit->text;
    effect->resolved = submit->resolved;
    scene_answer_run(scene, &run);
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
    scene_record(scene, RECORD_ORDER_REQUESTED)->order_requested =
        (struct record_order_requested){.order = id, .kind = kind};
    scene_note(scene, NOTE_ORDER_REQUESTED, run_step_now(scene->run), "%s, order %" PRIu64,
               order_kind_name(kind), id);
    scene->decision->answer.order = id;
}

static void request_stop(const struct scene *scene, enum stop stop)
{
    scene_record(scene, RECORD_STOP_REQUESTED)->stop_requested.stop = stop;
}

/* True where the run is over, and the answer says whether that is what was wanted. */
static bool stop_comes_late(const struct scene *scene)
{
    enum run_state state = scene->run->state;
    if (!run_state_is_final(state)) return false;
    if (state != RUN_CANCELLED)
        scene_answer(scene, ST_REFUSED, "%s has %s already", scene->run->id, run_state_name(state));
    return true;
}

static void kill_attempt(const struct scene *scene)
{
    if (scene->run->attempt.pid == 0) return; /* not seen yet: EVENT_LAUNCHED comes back to it */
    scene_effect(scene, EFFECT_SIGNAL)->signal = SIGKILL;
}

static bool run_waits(const struct run *run)
{
    return run->state == RUN_QUEUED || run->state == RUN_RESTARTING || run->state == RUN_PAUSED;
}

/* It saves a checkpoint and ends, or ends in a queue, where it has nothing to save; what becomes of the run then may still
 * be changed. */
static void stop_attempt(const struct scene *scene, enum stop stop, const char *then)
{
    const struct run *run = scene->run;
    if (run->stop != stop) request_stop(scene, stop);
    if (run->waits[0] != '\0') kill_attempt(scene);
    if (run->state != RUN_STOPPING) {
        request_order(scene, PERFORMER__ORDER__KIND__STOP);
        scene_move(scene, RUN_STOPPING,
                   decision_format(scene->decision, "it saves a checkpoint, then %s", then));
        return;
    }
    const struct order *order = pending_order(run, PERFORMER__ORDER__KIND__STOP);
    scene->decision->answer.order = order ? order->id : 0;
    if (run->stop != stop)
        scene_note(scene, NOTE_STOPPING, run_step_now(run), "as it was asked meanwhile, it then %s",
                   then);
}

static void decide_cancel(const struct scene *scene)
{
    if (stop_comes_late(scene)) return;
    if (run_waits(scene->run)) {
        request_stop(scene, STOP_CANCEL);
        scene_move(scene, RUN_CANCELLED,
                   scene->run->attempt.number == 0
                       ? "cancelled before it began"
                       : "cancelled while it waited for its next attempt");
    } else if (scene->run->stop != STOP_KILL) {
        stop_attempt(scene, STOP_CANCEL, "ends");
    }
}

static void decide_kill(const struct scene *scene)
{
    if (stop_comes_late(scene)) return;
    if (scene->run->stop != STOP_KILL) request_stop(scene, STOP_KILL);
    if (run_waits(scene->run)) {
        scene_move(scene, RUN_CANCELLED,
                   scene->run->attempt.number == 0 ? "killed before it began"
                                                   : "killed while it waited for its next attempt");
        return;
    }
    if (scene->run->state != RUN_STOPPING) scene_move(scene, RUN_STOPPING, "killed");
    kill_attempt(scene); /* once more at each kill: the first signal may have come too early */
}

/* ---- pause, resume, requeue ---- */

/* Where the run ends for good, or has had as many orders as a run takes. */
static bool cannot_stop_and_go_on(const struct scene *scene, const char *verb)
{
    const struct run *run = scene->run;
    if (run->stop == STOP_CANCEL || run->stop == STOP_KILL)
        scene_answer(scene, ST_REFUSED, "%s is being %s: too late to %s", run->id,
                     run->stop == STOP_KILL ? "killed" : "cancelled", verb);
    else if (run->order_count >= RUN_ORDERS_MAX)
        scene_answer(scene, ST_REFUSED, "%s has had %d orders, and a run takes no more", run->id,
                     RUN_ORDERS_MAX);
    else
        return false;
    return true;
}

static void decide_pause(const struct scene *scene)
{
    const struct run *run = scene->run;
    if (run_state_is_final(run->state))
        scene_answer(scene, ST_REFUSED, "%s has %s already: nothing to pause", run->id,
                     run_state_name(run->state));
    else if (run->state == RUN_PAUSED || cannot_stop_and_go_on(scene, "pause"))
        return;
    else if (run_waits(run))
        scene_move(scene, RUN_PAUSED,
                   decision_format(scene->decision,
                                   "held before it began%s: `performerctl resume %s` queues it",
                                   run->attempt.number > 0 ? " another attempt" : "", run->id));
    else
        stop_attempt(scene, STOP_PAUSE, "frees its ranks and waits to be resumed");
}

static void decide_resume(const struct scene *scene)
{
    const struct run *run = scene->run;
    if (run_state_is_final(run->state))
        scene_answer(scene, ST_REFUSED, "%s has %s already%s", run->id, run_state_name(run->state),
                     run->state == RUN_SUCCEEDED ? "" : ": `performerctl requeue` begins it again");
    else if (run->state == RUN_PAUSED)
        scene_move(scene, RUN_QUEUED, "resumed");
    else if (run->state == RUN_STOPPING && !cannot_stop_and_go_on(scene, "resume"))
        stop_attempt(scene, STOP_REQUEUE, "queues again");
}

/* False: it has been answered why not. */
static bool may_requeue(const struct scene *scene)
{
    const struct run *run = scene->run;
    const struct run *awaited = queue_awaits(scene->coordinator, run);
    if (run->state == RUN_SUCCEEDED)
        scene_answer(scene, ST_REFUSED, "%s has SUCCEEDED already", run->id);
    else if (awaited && run_state_is_final(awaited->state))
        scene_answer(scene, ST_REFUSED, "%s comes after %s, which has %s: requeue that one first",
                     run->id, awaited->id, run_state_name(awaited->state));
    else
        return !job_is_too_large(scene, &run->facts) &&
               (run_state_is_final(run->state) || !cannot_stop_and_go_on(scene, "requeue"));
    return false;
}

static void decide_requeue(const struct scene *scene)
{
    const struct run *run = scene->run;
    const char *key = scene->event->act.key ? scene->event->act.key : "";
    if (key_is_too_long(scene, key)) return;
    if (key[0] != '\0' && strcmp(key, run->requeue_key) == 0) return;
    if (!may_requeue(scene)) return;
    scene_record(scene, RECORD_REQUEUED)->requeued.key = key;
    if (run->state == RUN_QUEUED) return;
    if (!run_state_is_final(run->state) && !run_waits(run)) {
        stop_attempt(scene, STOP_REQUEUE, "queues again");
        return;
    }
    if (run->stop != STOP_NONE) request_stop(scene, STOP_NONE);
    scene_move(scene, RUN_QUEUED, "requeued, with a whole budget of restarts");
}

/* ---- drill ---- */

/* The stop that all ranks agree on, as before a preemption; no signal, so that a daemon that dies meanwhile loses nothing. */
static void decide_drill(const struct scene *scene)
{
    const struct run *run = scene->run;
    if (run->state != RUN_RUNNING)
        scene_answer(scene, ST_REFUSED, "%s is %s: a drill needs ranks that train", run->id,
                     run_state_name(run->state));
    else if (!cannot_stop_and_go_on(scene, "drill"))
        stop_attempt(scene, STOP_DRILL, "goes on in another attempt at once, for this is a drill");
}

/* ---- orders ---- */

/* Orders that need a training run: it must have begun, and not be ending. */
static bool order_makes_sense(const struct scene *scene, Performer__Order__Kind kind)
{
    const struct run *run = scene->run;
    const char *verb = order_kind_name(kind);
    if (run_state_is_final(run->state))
        scene_answer(scene, ST_REFUSED, "%s has %s already: nothing to %s", run->id,
                     run_state_name(run->state), verb);
    else if (run->state == RUN_STOPPING)
        scene_answer(scene, ST_REFUSED, "%s is stopping: too late to %s", run->id, verb);
    else if (run->attempt.number == 0)
        scene_answer(scene, ST_REFUSED, "%s has not begun: too early to %s", run->id, verb);
    else if (kind == PERFORMER__ORDER__KIND__REDRAW && !run->facts.features)
        scene_answer(scene, ST_REFUSED, "the attention of %s has no random features to redraw",
                     run->id);
    else if (kind == PERFORMER__ORDER__KIND__EVALUATE && !run->facts.validates)
        scene_answer(scene, ST_REFUSED,
                     "%s has no validation data to evaluate: its job gives neither `valid` nor "
                     "`valid_fraction` in [data]",
                     run->id);
    else if (run->order_count >= RUN_ORDERS_MAX)
        scene_answer(scene, ST_REFUSED, "%s has had %d orders, and a run takes no more", run->id,
                     RUN_ORDERS_MAX);
    else
        return true;
    return false;
}

static void decide_order(const struct scene *scene, Performer__Order__Kind kind)
{
    if (!order_makes_sense(scene, kind)) return;
    const struct order *pending = pending_order(scene->run, kind);
    if (pending && kind != PERFORMER__ORDER__KIND__REDRAW)
        scene->decision->answer.order = pending->id; /* one save, or one evaluation, serves both */
    else
        request_order(scene, kind);
}

void decide_act(const struct scene *scene)
{
    const struct event_act *act = &scene->event->act;
    struct scene known = *scene;
    struct fault fault;
    enum status status = coordinator_find(scene->coordinator, act->run, &known.run, &fault);
    if (status != ST_OK) {
        scene_answer(scene, status, "%s", fault.text);
        return;
    }
    if (!run_obeys(known.run, &act->caller)) {
        scene_answer(scene, ST_NOT_PERMITTED, RUN_OF_ANOTHER, known.run->id, known.run->user);
        return;
    }
    scene_answer_run(scene, known.run);
    switch (act->action) {
    case PERFORMER__ACTION__ACTION_CANCEL:
        decide_cancel(&known);
        return;
    case PERFORMER__ACTION__ACTION_KILL:
        decide_kill(&known);
        return;
    case PERFORMER__ACTION__ACTION_PAUSE:
        decide_pause(&known);
        return;
    case PERFORMER__ACTION__ACTION_RESUME:
        decide_resume(&known);
        return;
    case PERFORMER__ACTION__ACTION_REQUEUE:
        decide_requeue(&known);
        return;
    case PERFORMER__ACTION__ACTION_DRILL:
        decide_drill(&known);
        return;
    case PERFORMER__ACTION__ACTION_CHECKPOINT:
        decide_order(&known, PERFORMER__ORDER__KIND__CHECKPOINT);
        return;
    case PERFORMER__ACTION__ACTION_REDRAW:
        decide_order(&known, PERFORMER__ORDER__KIND__REDRAW);
        return;
    case PERFORMER__ACTION__ACTION_EVALUATE:
        decide_order(&known, PERFORMER__ORDER__KIND__EVALUATE);
        return;
    default:
        scene_answer(scene, ST_UNSUPPORTED, "no action has number %d", (int)act->action);
    }
}
