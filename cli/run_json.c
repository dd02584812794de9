#include "cli/run_json.h"

#include <math.h>
#include <stdint.h>

#include "cli/approximation.h"

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* 0 stands for "none" in the messages. */
static json_t *integer_or_null(uint64_t value)
{
    return value ? integer(value) : json_null();
}

/* Foreign text that is not UTF-8 becomes null rather than an error. */
static json_t *text(const char *value)
{
    json_t *string = json_string(value);
    return string ? string : json_null();
}

/* null: nothing was measured. */
static json_t *approximation_json(const Performer__RunSummary *summary)
{
    struct approximation worst;

    if (!approximation_newest(summary, &worst)) return json_null();
    return json_pack("{s:o,s:o,s:o,s:o,s:o}",                                       //
                     "step", integer(worst.step),                                   //
                     "error", worst.has_error ? real(worst.error) : json_null(),    //
                     "layer", worst.has_error ? integer(worst.layer) : json_null(), //
                     "denominator_min", real(worst.denominator_min),                //
                     "saturated", real(worst.saturated));
}

json_t *run_summary_json(const Performer__RunSummary *summary)
{
    json_t *latest = json_object();

    for (size_t i = 0; i < summary->n_latest; i++)
        json_object_set_new(latest, summary->latest[i]->name, real(summary->latest[i]->value));
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", //
                     "id", text(summary->id),                                         //
                     "name", text(summary->name),                                     //
                     "user", text(summary->user),                                     //
                     "state", text(summary->state),                                   //
                     "reason", text(summary->reason),                                 //
                     "directory", text(summary->directory),                           //
                     "step", integer(summary->step),                                  //
                     "steps", integer(summary->steps),                                //
                     "attempt", integer(summary->attempt),                            //
                     "ranks", integer(summary->ranks),                                //
                     "submitted_ms", integer_or_null(summary->submitted_ms),          //
                     "started_ms", integer_or_null(summary->started_ms),              //
                     "ended_ms", integer_or_null(summary->ended_ms),                  //
                     "latest", latest, "approximation", approximation_json(summary));
}

static json_t *attempt_json(const Performer__AttemptInfo *attempt)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}",                           //
                     "number", integer(attempt->number),                                        //
                     "started_ms", integer_or_null(attempt->started_ms),                        //
                     "ended_ms", integer_or_null(attempt->ended_ms),                            //
                     "cause", text(attempt->cause),                                             //
                     "text", text(attempt->text),                                               //
                     "first_rank",                                                              //
                     attempt->first_rank < 0 ? json_null() : json_integer(attempt->first_rank), //
                     "host", text(attempt->host),                                               //
                     "signal", json_integer(attempt->signal),                                   //
                     "exit_code", json_integer(attempt->exit_code),                             //
                     "last_lines", text(attempt->last_lines),                                   //
                     "resumed_step", integer(attempt->resumed_step));
}

static json_t *rank_json(const Performer__RankInfo *rank)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", //
                     "rank", integer(rank->rank),             //
                     "host", text(rank->host),                //
                     "pid", integer(rank->pid),               //
                     "step", integer(rank->step),             //
                     "phase", text(rank->phase),              //
                     "step_ms", real(rank->step_ms),          //
                     "heard_ms", integer(rank->heard_ms),     //
                     "score", real(rank->score),              //
                     "slow", json_boolean(rank->slow));
}

static json_t *redraw_json(const Performer__RedrawInfo *redraw)
{
    json_t *hashes = json_array();

    for (size_t i = 0; i < redraw->n_hashes; i++)
        json_array_append_new(hashes, redraw->hashes[i][0] ? text(redraw->hashes[i]) : json_null());
    return json_pack("{s:o,s:o,s:o,s:o,s:b}",       //
                     "draw", integer(redraw->draw), //
                     "step", integer(redraw->step), //
                     "why", text(redraw->why),      //
                     "hashes", hashes,              //
                     "agreed", redraw->agreed);
}

static json_t *order_json(const Performer__OrderInfo *order)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o}",              //
                     "id", integer(order->id),             //
                     "kind", text(order->kind),            //
                     "state", text(order->state),          //
                     "step", integer_or_null(order->step), //
                     "requested_ms", integer_or_null(order->requested_ms));
}

json_t *checkpoint_json(const Performer__CheckpointInfo *checkpoint)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:b,s:o,s:o}",           //
                     "step", integer(checkpoint->step),                 //
                     "path", text(checkpoint->path),                    //
                     "verdict", text(checkpoint->verdict),              //
                     "attempt", integer(checkpoint->attempt),           //
                     "bytes", integer(checkpoint->bytes),               //
                     "saved_ms", integer_or_null(checkpoint->saved_ms), //
                     "best", checkpoint->best,                          //
                     "valid_loss", real(checkpoint->valid_loss),        //
                     "seconds", real(checkpoint->seconds));
}

json_t *event_json(const Performer__EventInfo *event)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o}",        //
                     "id", integer(event->id),           //
                     "time_ms", integer(event->time_ms), //
                     "attempt", integer(event->attempt), //
                     "step", integer(event->step),       //
                     "kind", text(event->kind),          //
                     "text", text(event->text));
}

json_t *metric_row_json(const Performer__MetricRow *row)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:o}",          //
                     "attempt", integer(row->attempt), //
                     "step", integer(row->step),       //
                     "name", text(row->name),          //
                     "value", real(row->value),        //
                     "time_ms", integer(row->time_ms));
}

static json_t *budget_json(const Performer__BudgetInfo *budget)
{
    return json_pack("{s:o,s:o,s:o}",                 //
                     "name", text(budget->name),      //
                     "spent", integer(budget->spent), //
                     "attempts", budget->unlimited ? json_null() : json_integer(budget->attempts));
}

static json_t *drill_json(const Performer__Drill *drill)
{
    return json_pack("{s:o,s:o,s:o,s:o}",                //
                     "attempt", integer(drill->attempt), //
                     "step", integer(drill->step),       //
                     "save_ms", integer(drill->save_ms), //
                     "exit_ms", integer(drill->exit_ms));
}

/* The list `field` of the detail under `key`. */
#define SET_LIST(key, field, one)                               \
    do {                                                        \
        json_t *list = json_array();                            \
        for (size_t i = 0; i < detail->n_##field; i++)          \
            json_array_append_new(list, one(detail->field[i])); \
        json_object_set_new(document, key, list);               \
    } while (0)

json_t *run_detail_json(const Performer__RunDetail *detail)
{
    json_t *document = run_summary_json(detail->summary);

    SET_LIST("attempts", attempts, attempt_json);
    SET_LIST("workers", ranks, rank_json); /* "ranks" is their number */
    SET_LIST("orders", orders, order_json);
    SET_LIST("redraws", redraws, redraw_json);
    json_object_set_new(document, "next_redraw_step", integer_or_null(detail->next_redraw_step));
    json_object_set_new(document, "redraw_threshold",
                        detail->redraw_threshold > 0 ? real(detail->redraw_threshold)
                                                     : json_null());
    SET_LIST("checkpoints", checkpoints, checkpoint_json);
    json_object_set_new(document, "priority", json_integer(detail->priority));
    SET_LIST("after", after, text);
    SET_LIST("budgets", budgets, budget_json);
    json_object_set_new(document, "stop_ms", integer_or_null(detail->stop_ms));
    json_object_set_new(document, "grace_ms", integer_or_null(detail->grace_ms));
    json_object_set_new(document, "drill", detail->drill ? drill_json(detail->drill) : json_null());
    json_object_set_new(document, "back_off_ms", integer_or_null(detail->back_off_ms));
    json_object_set_new(document, "forked_from",
                        detail->forked_from[0] ? text(detail->forked_from) : json_null());
    json_object_set_new(document, "forked_step", integer_or_null(detail->forked_step));
    json_object_set_new(document, "next_checkpoint_step",
                        integer_or_null(detail->next_checkpoint_step));
    return document;
}
