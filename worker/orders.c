#include "worker/orders.h"

#include <assert.h>
#include <string.h>

void orders_init(struct orders *orders, const struct jobspec *spec,
                 const struct applied_order *replay, size_t replay_count)
{
    memset(orders, 0, sizeof *orders);
    orders->spec = spec;
    orders->replay = replay;
    orders->replay_count = replay_count;
}

bool orders_replays(const struct orders *orders, uint64_t id)
{
    for (size_t i = 0; i < orders->replay_count; i++)
        if (orders->replay[i].id == id) return true;
    return false;
}

static bool is_last(const struct jobspec *spec, uint64_t step)
{
    return step >= (uint64_t)spec->train.steps;
}

static bool redraw_planned(const struct jobspec *spec, uint64_t step)
{
    return jobspec_has_projection(spec) && spec->redraw.policy == POLICY_FIXED &&
           spec->redraw.every > 0 && step % (uint64_t)spec->redraw.every == 0;
}

static bool evaluation_planned(const struct jobspec *spec, uint64_t step)
{
    if (!jobspec_validates(spec)) return false;
    return is_last(spec, step) ||
           (spec->evaluate.every > 0 && step % (uint64_t)spec->evaluate.every == 0);
}

static bool checkpoint_planned(const struct jobspec *spec, uint64_t step)
{
    return spec->checkpoint.every > 0 && step % (uint64_t)spec->checkpoint.every == 0;
}

/* A rank may hear of an order only after it was applied: the daemon repeats it until it knows. */
static bool is_handled(const struct orders *orders, const struct checkpoint_state *state,
                       uint64_t id)
{
    size_t kept = orders->handled_count < ORDERS_HANDLED_MAX ? orders->handled_count
                                                             : (size_t)ORDERS_HANDLED_MAX;
    for (size_t i = 0; i < kept; i++)
        if (orders->handled[i] == id) return true;
    for (size_t i = 0; i < state->applied_count; i++)
        if (state->applied[i].id == id) return true;
    return orders_replays(orders, id);
}

static void set_handled(struct orders *orders, uint64_t id)
{
    orders->handled[orders->handled_count++ % ORDERS_HANDLED_MAX] = id;
}

static void note_redraw(struct checkpoint_state *state, uint64_t id, uint64_t step)
{
    assert(state->applied_count < APPLIED_ORDERS_MAX);
    state->applied[state->applied_count++] =
        (struct applied_order){.id = id, .kind = PERFORMER__ORDER__KIND__REDRAW, .step = step};
}

static void redraw_by(struct edge *edge, const struct jobspec *spec, uint64_t id)
{
    edge->redraw = jobspec_has_projection(spec);
    if (edge->redraw_order == 0) edge->redraw_order = id;
}

/* The smallest order id above `after` that any rank has heard of; false: there is none. */
static bool next_heard(const struct control *records, int ranks, uint64_t after,
                       struct wanted_order *next)
{
    bool found = false;
    for (int rank = 0; rank < ranks; rank++) {
        const struct control *record = &records[rank];
        assert(record->heard_count <= ORDERS_HEARD_MAX);
        for (uint32_t i = 0; i < record->heard_count; i++) {
            if (record->heard[i].id <= after || (found && record->heard[i].id >= next->id))
                continue;
            *next = record->heard[i];
            found = true;
        }
    }
    return found;
}

/* False: it cannot take effect here and stays as it is. */
static bool apply(const struct orders *orders, const struct wanted_order *order, uint64_t step,
                  struct checkpoint_state *state, struct edge *edge)
{
    switch (order->kind) {
    case PERFORMER__ORDER__KIND__REDRAW:
        if (is_last(orders->spec, step) || state->applied_count == APPLIED_ORDERS_MAX) return false;
        redraw_by(edge, orders->spec, order->id);
        note_redraw(state, order->id, step);
        return true;
    case PERFORMER__ORDER__KIND__CHECKPOINT:
        edge->checkpoint = true;
        return true;
    case PERFORMER__ORDER__KIND__EVALUATE:
        edge->evaluate = jobspec_validates(orders->spec);
        return edge->evaluate;
    case PERFORMER__ORDER__KIND__STOP:
        edge->stop = true;
        return true;
    default: /* of a newer daemon; it says itself that it is not applied */
        return false;
    }
}

static void apply_heard(struct orders *orders, uint64_t step, const struct control *records,
                        int ranks, struct checkpoint_state *state, struct edge *edge)
{
    struct wanted_order order = {0};
    while (next_heard(records, ranks, order.id, &order) && edge->applied_count < ORDERS_HEARD_MAX) {
        if (is_handled(orders, state, order.id)) continue;
        if (!apply(orders, &order, step, state, edge)) continue;
        set_handled(orders, order.id);
        edge->applied[edge->applied_count++] = order;
    }
}

static void replay(const struct orders *orders, uint64_t step, struct checkpoint_state *state,
                   struct edge *edge)
{
    for (size_t i = 0; i < orders->replay_count; i++) {
        const struct applied_order *order = &orders->replay[i];
        if (order->step != step || order->kind != PERFORMER__ORDER__KIND__REDRAW) continue;
        if (state->applied_count == APPLIED_ORDERS_MAX) return;
        redraw_by(edge, orders->spec, order->id);
        note_redraw(state, order->id, step);
    }
}

void orders_decide(struct orders *orders, uint64_t step, const struct control *records, int ranks,
                   struct checkpoint_state *state, struct edge *edge)
{
    memset(edge, 0, sizeof *edge);
    for (int rank = 0; rank < ranks; rank++) {
        edge->fenced = edge->fenced || records[rank].fenced;
        edge->stop = edge->stop || records[rank].stop_asked;
    }
    if (edge->fenced) return;

    if (redraw_planned(orders->spec, step) && !is_last(orders->spec, step)) edge->redraw = true;
    replay(orders, step, state, edge);
    apply_heard(orders, step, records, ranks, state, edge);
    /* One redraw at an edge, however many asked for it, or a replay would count them otherwise. */
    if (edge->redraw) state->draw++;

    if (evaluation_planned(orders->spec, step)) edge->evaluate = true;
    if (checkpoint_planned(orders->spec, step) || is_last(orders->spec, step) || edge->stop)
        edge->checkpoint = true;
}

bool orders_redraw_by_error(const struct orders *orders, uint64_t step, double error,
                            struct checkpoint_state *state)
{
    const struct jobspec *spec = orders->spec;
    if (spec->redraw.policy != POLICY_ADAPTIVE || !evaluation_planned(spec, step)) return false;
    if (is_last(spec, step) || error <= spec->redraw.threshold) return false;
    state->draw++;
    return true;
}
