/* What ranks agree on at the edge of a step, from records that say different things. */

#include <math.h>
#include <string.h>

#include <criterion/criterion.h>

#include "worker/orders.h"

static const Performer__Order__Kind REDRAW = PERFORMER__ORDER__KIND__REDRAW;
static const Performer__Order__Kind CHECKPOINT = PERFORMER__ORDER__KIND__CHECKPOINT;
static const Performer__Order__Kind EVALUATE = PERFORMER__ORDER__KIND__EVALUATE;
static const Performer__Order__Kind STOP = PERFORMER__ORDER__KIND__STOP;

static struct jobspec spec;
static struct orders orders;
static struct checkpoint_state state;
static struct control records[4];
static struct edge edge;

static void setup(void)
{
    memset(&spec, 0, sizeof spec);
    memset(&state, 0, sizeof state);
    memset(records, 0, sizeof records);
    spec.attention.kind = ATTENTION_FAVOR;
    spec.redraw.policy = POLICY_FIXED;
    spec.redraw.every = 7;
    spec.checkpoint.every = 10;
    spec.train.steps = 42;
    orders_init(&orders, &spec, NULL, 0);
}

static void hear(int rank, uint64_t id, Performer__Order__Kind kind)
{
    struct control *record = &records[rank];
    record->heard[record->heard_count++] = (struct wanted_order){id, kind};
}

static void decide(uint64_t step)
{
    orders_decide(&orders, step, records, 4, &state, &edge);
}

TestSuite(orders, .init = setup);

Test(orders, rules_of_the_job)
{
    int redraws = 0, checkpoints = 0;
    for (uint64_t step = 1; step <= 42; step++) {
        decide(step);
        cr_expect(edge.redraw == (step % 7 == 0 && step != 42), "step %d", (int)step);
        cr_expect(edge.checkpoint == (step % 10 == 0 || step == 42), "step %d", (int)step);
        cr_expect(!edge.stop && !edge.fenced && edge.applied_count == 0);
        redraws += edge.redraw;
        checkpoints += edge.checkpoint;
    }
    cr_expect(redraws == 5 && checkpoints == 5);
    cr_expect(state.draw == 5 && state.applied_count == 0);
}

Test(orders, never_means_never)
{
    spec.redraw.policy = POLICY_NEVER;
    decide(7);
    cr_expect(!edge.redraw && state.draw == 0);
}

Test(orders, exact_attention_has_nothing_to_redraw)
{
    spec.attention.kind = ATTENTION_SOFTMAX;
    decide(7);
    cr_expect(!edge.redraw);
    hear(0, 1, REDRAW);
    decide(8);
    cr_expect(!edge.redraw && state.draw == 0);
    cr_expect(edge.applied_count == 1, "the order is answered all the same");
}

Test(orders, all_that_is_drawn_is_redrawn)
{
    static const enum attention_kind kinds[] = {ATTENTION_FAVOR, ATTENTION_LINFORMER,
                                                ATTENTION_REFORMER};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        spec.attention.kind = kinds[i];
        decide(7);
        cr_expect(edge.redraw);
    }
}

Test(orders, one_rank_hears_and_all_apply)
{
    hear(2, 5, REDRAW);
    decide(3);
    cr_expect(edge.redraw && edge.redraw_order == 5 && state.draw == 1);
    cr_expect(edge.applied_count == 1 && edge.applied[0].id == 5);
    cr_expect(state.applied_count == 1 && state.applied[0].id == 5 && state.applied[0].step == 3);
}

Test(orders, an_order_is_applied_once_however_late_others_hear_of_it)
{
    hear(2, 5, REDRAW);
    decide(3);
    records[2].heard_count = 0;
    hear(0, 5, REDRAW);
    hear(1, 5, REDRAW);
    decide(4);
    cr_expect(!edge.redraw && edge.applied_count == 0 && state.draw == 1);
}

Test(orders, several_at_one_edge_by_id)
{
    hear(0, 9, CHECKPOINT);
    hear(1, 4, REDRAW);
    hear(1, 9, CHECKPOINT);
    hear(3, 6, REDRAW);
    decide(3);
    cr_expect(edge.applied_count == 3);
    cr_expect(edge.applied[0].id == 4 && edge.applied[1].id == 6 && edge.applied[2].id == 9);
    cr_expect(edge.redraw && edge.redraw_order == 4 && edge.checkpoint && !edge.stop);
    cr_expect(state.draw == 1 && state.applied_count == 2, "one redraw, two orders behind it");
}

Test(orders, planned_and_ordered_at_one_edge_are_one_redraw)
{
    hear(0, 4, REDRAW);
    decide(7);
    cr_expect(edge.redraw && edge.redraw_order == 4 && state.draw == 1);
}

Test(orders, stop_saves_first)
{
    hear(1, 3, STOP);
    decide(4);
    cr_expect(edge.stop && edge.checkpoint && edge.applied_count == 1 && state.applied_count == 0);
}

Test(orders, a_signal_to_one_rank_stops_all)
{
    records[3].stop_asked = 1;
    decide(4);
    cr_expect(edge.stop && edge.checkpoint && edge.applied_count == 0);
}

Test(orders, a_fenced_rank_ends_all_and_nothing_is_done)
{
    records[1].fenced = 1;
    hear(0, 4, REDRAW);
    decide(10);
    cr_expect(edge.fenced && !edge.redraw && !edge.checkpoint && edge.applied_count == 0);
    cr_expect(state.draw == 0);
}

Test(orders, a_redraw_after_the_last_step_stays_unapplied)
{
    hear(0, 4, REDRAW);
    hear(0, 5, CHECKPOINT);
    decide(42);
    cr_expect(!edge.redraw && edge.checkpoint && state.draw == 0);
    cr_expect(edge.applied_count == 1 && edge.applied[0].id == 5);
}

Test(orders, orders_of_earlier_attempts_are_met_again)
{
    const struct applied_order replay[] = {
        {.id = 4, .kind = REDRAW, .step = 3},
        {.id = 6, .kind = REDRAW, .step = 7},
        {.id = 8, .kind = CHECKPOINT, .step = 5},
    };
    orders_init(&orders, &spec, replay, 3);
    hear(0, 4, REDRAW); /* the daemon may still repeat it */
    decide(2);
    cr_expect(!edge.redraw && edge.applied_count == 0);
    decide(3);
    cr_expect(edge.redraw && edge.redraw_order == 4 && state.draw == 1 && edge.applied_count == 0);
    decide(5);
    cr_expect(!edge.checkpoint, "it saved where it was given; a checkpoint changes no weight");
    decide(7);
    cr_expect(edge.redraw && edge.redraw_order == 6 && state.draw == 2);
    cr_expect(state.applied_count == 2 && state.applied[1].step == 7);
}

Test(orders, a_resumed_run_draws_as_the_first_attempt_did)
{
    hear(0, 4, REDRAW);
    decide(3);
    records[0].heard_count = 0;
    for (uint64_t step = 4; step <= 20; step++) decide(step);
    const struct checkpoint_state first = state;

    memset(&state, 0, sizeof state);
    orders_init(&orders, &spec, first.applied, first.applied_count);
    for (uint64_t step = 1; step <= 20; step++) decide(step);
    cr_expect(memcmp(&state, &first, sizeof state) == 0);
}

/* The attempt before may have saved, and been killed before it could tell. */
Test(orders, an_order_of_the_checkpoint_is_not_applied_again)
{
    state.draw = 1;
    state.applied[state.applied_count++] =
        (struct applied_order){.id = 5, .kind = REDRAW, .step = 10};
    hear(0, 5, REDRAW);
    decide(11);
    cr_expect(!edge.redraw && edge.applied_count == 0);
    cr_expect(state.draw == 1 && state.applied_count == 1);
}

Test(orders, an_order_of_a_kind_unknown_is_left_alone)
{
    hear(0, 4, (Performer__Order__Kind)99);
    decide(3);
    cr_expect(edge.applied_count == 0 && !edge.redraw && !edge.checkpoint && !edge.stop);
}

/* ---- evaluations, and redraws by what they find ---- */

static void validate_every(int64_t every)
{
    spec.data.valid_fraction = 0.1;
    spec.evaluate.every = every;
}

Test(orders, evaluations_of_the_job_and_one_after_the_last_step)
{
    decide(10);
    cr_expect(!edge.evaluate, "there are no validation data");
    validate_every(10);
    for (uint64_t step = 1; step <= 42; step++) {
        decide(step);
        cr_expect(edge.evaluate == (step % 10 == 0 || step == 42), "step %d", (int)step);
    }
}

Test(orders, to_evaluate_changes_no_weights_and_is_met_once)
{
    validate_every(10);
    const struct checkpoint_state before = state;
    hear(2, 5, EVALUATE);
    decide(3);
    cr_expect(edge.evaluate && !edge.redraw && !edge.checkpoint);
    cr_expect(edge.applied_count == 1 && edge.applied[0].id == 5);
    decide(4); /* the daemon may still repeat it */
    cr_expect(!edge.evaluate && edge.applied_count == 0);
    cr_expect(memcmp(&state, &before, sizeof state) == 0);
}

Test(orders, to_evaluate_without_validation_data_stays_unapplied)
{
    hear(0, 5, EVALUATE);
    decide(3);
    cr_expect(!edge.evaluate && edge.applied_count == 0);
}

/* The draw after an evaluation of this step with this error. */
static uint64_t draw_after(uint64_t step, double error)
{
    state.draw = 0;
    const bool redrawn = orders_redraw_by_error(&orders, step, error, &state);
    cr_expect_eq(state.draw, redrawn);
    return state.draw;
}

Test(orders, an_error_beyond_the_threshold_redraws)
{
    validate_every(10);
    spec.redraw.policy = POLICY_ADAPTIVE;
    spec.redraw.threshold = 0.5;
    decide(7);
    cr_expect(!edge.redraw, "`every` is for the fixed policy");
    cr_expect_eq(draw_after(10, 0.61), 1);
    cr_expect_eq(draw_after(20, 0.61), 1, "and again while it stays there");
    cr_expect_eq(draw_after(10, NAN), 1);
    cr_expect_eq(draw_after(10, 0.5), 0);
    cr_expect_eq(draw_after(10, 0.1), 0);
    cr_expect_eq(draw_after(13, 0.61), 0, "an evaluation that a person asked for");
    cr_expect_eq(draw_after(42, 0.61), 0, "nothing would use it");
    spec.redraw.policy = POLICY_FIXED;
    cr_expect_eq(draw_after(10, 0.61), 0);
}
