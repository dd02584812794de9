/* Where a run goes back to, and which weights are of it from then on. */

#include <criterion/criterion.h>

#include "worker/rewind.h"

static Performer__Rewind first, second;
static Performer__Rewind *list[] = {&first, &second};
static Performer__Plan plan;

static void setup(void)
{
    performer__rewind__init(&first);
    performer__rewind__init(&second);
    first.number = 1, first.step = 20, first.draw = 5;
    second.number = 3, second.step = 40, second.draw = 9; /* number 2 is undone */
    performer__plan__init(&plan);
    plan.n_rewinds = 2;
    plan.rewinds = list;
}

TestSuite(rewind, .init = setup);

Test(rewind, goes_to_the_newest_checkpoint_of_the_rule_or_to_the_beginning)
{
    struct jobspec spec = {.checkpoint.every = 10};
    cr_assert_eq(rewind_step(&spec, NULL, 9), 0);
    cr_assert_eq(rewind_step(&spec, NULL, 10), 10);
    cr_assert_eq(rewind_step(&spec, &plan, 39), 30);
    plan.first_step = 35; /* a fork has nothing before it */
    cr_assert_eq(rewind_step(&spec, &plan, 39), 35);
    cr_assert_eq(rewind_step(&spec, &plan, 41), 40);
    spec.checkpoint.every = 0;
    cr_assert_eq(rewind_step(&spec, &plan, 41), 35);
    cr_assert_eq(rewind_step(&spec, NULL, 41), 0);
}

static bool keeps(uint64_t step, uint64_t rewind)
{
    const struct checkpoint_state state = {.step = step, .rewind = rewind};
    return rewind_keeps(&plan, &state);
}

Test(rewind, keeps_what_has_met_those_before_it_and_no_others)
{
    cr_assert(keeps(0, 0) && keeps(10, 0) && keeps(20, 0));
    cr_assert(keeps(21, 1) && keeps(40, 1));
    cr_assert(keeps(41, 3) && keeps(99, 3));
    cr_assert_not(keeps(30, 0));
    cr_assert_not(keeps(41, 1));
    cr_assert_not(keeps(41, 2));
    cr_assert_not(keeps(30, 2));
    plan.first_step = 30;
    cr_assert(keeps(30, 7), "what a fork begins from counts as another run did");
    const struct checkpoint_state met = {.step = 30, .rewind = 7};
    cr_assert(rewind_keeps(NULL, &met));
}

Test(rewind, is_met_once_at_its_step)
{
    struct checkpoint_state state = {.step = 19, .draw = 4, .losses = {.taken = 19}};
    cr_assert_null(rewind_due(NULL, &state));
    cr_assert_null(rewind_due(&plan, &state));
    state.step = 20;
    cr_assert_eq(rewind_due(&plan, &state), &first);
    rewind_meet(&first, &state);
    cr_assert_eq(state.draw, 5);
    cr_assert_eq(state.rewind, 1);
    cr_assert_eq(state.losses.taken, 0, "the loss may be at another level");
    cr_assert_null(rewind_due(&plan, &state));
    state.step = 40;
    cr_assert_eq(rewind_due(&plan, &state), &second);
    state.draw = 9; /* by an order that came since */
    rewind_meet(&second, &state);
    cr_assert_eq(state.draw, 10);
}
