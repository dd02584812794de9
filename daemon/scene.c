#include "daemon/scene.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct record *scene_record(const struct scene *scene, enum record_kind kind)
{
    struct record *record = decision_record(scene->decision, kind);
    record->run = scene->run->number;
    record->attempt = scene->run->attempt.number;
    record->time_ms = scene->time_ms;
    return record;
}

void scene_note(const struct scene *scene, enum note kind, uint64_t step, const char *format, ...)
{
    char text[RUN_REASON_SIZE + TEXT_BYTES_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    scene_record(scene, RECORD_NOTED)->noted = (struct record_noted){
        .note = kind,
        .step = step,
        .text = decision_clean(scene->decision, text, sizeof text, false),
    };
}

void scene_answer(const struct scene *scene, enum status status, const char *format, ...)
{
    struct answer *reply = &scene->decision->answer;
    reply->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(reply->text, sizeof reply->text, format, args);
    va_end(args);
}

void scene_answer_run(const struct scene *scene, const struct run *run)
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
        return NOTE_QUEUED;
    case RUN_PAUSED:
        return NOTE_PAUSED;
    }
    assert(!"no run moves there");
    return NOTE_FAILED;
}

/* Nobody will carry out what is still asked for once a run is over. One that goes on later keeps it, but for the order to
 * stop, which was for the attempt. */
static void drop_orders(const struct scene *scene, bool stops_alone)
{
    for (size_t i = 0; i < scene->run->order_count; i++) {
        const struct order *order = &scene->run->orders[i];
        if (order->state != ORDER_PENDING) continue;
        if (stops_alone && order->kind != PERFORMER__ORDER__KIND__STOP) continue;
        scene_record(scene, RECORD_ORDER_DROPPED)->order_dropped.order = order->id;
        scene_note(scene, NOTE_ORDER_DROPPED, 0, "%s, order %" PRIu64 ": the %s ended before it",
                   order_kind_name(order->kind), order->id, stops_alone ? "attempt" : "run");
    }
}

void scene_move(const struct scene *scene, enum run_state to, const char *reason)
{
    assert(run_move_allowed(scene->run->state, to));
    scene_record(scene, RECORD_RUN_MOVED)->run_moved = (struct record_run_moved){
        .from = scene->run->state,
        .to = to,
        /* that it runs needs no reason; how it came to run is history */
        .reason = decision_clean(scene->decision, to == RUN_RUNNING ? "" : reason,
                                 RUN_REASON_SIZE - 1, false),
    };
    scene_note(scene, note_of_state(to), run_step_now(scene->run), "%s", reason);
    if (run_state_is_final(to)) drop_orders(scene, false);
    if (to == RUN_PAUSED || to == RUN_QUEUED || to == RUN_RESTARTING) drop_orders(scene, true);
}

struct effect *scene_effect(const struct scene *scene, enum effect_kind kind)
{
    struct effect *effect = decision_effect(scene->decision, kind);
    effect->run = scene->run->number;
    memcpy(effect->run_id, scene->run->id, sizeof effect->run_id);
    effect->attempt = scene->run->attempt.number;
    return effect;
}
