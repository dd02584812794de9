#include "worker/rewind.h"

#include <assert.h>

#include "worker/divergence.h"

uint64_t rewind_step(const struct jobspec *spec, const Performer__Plan *plan, uint64_t good_step)
{
    const uint64_t every = (uint64_t)spec->checkpoint.every;
    const uint64_t begin = plan ? plan->first_step : 0;
    const uint64_t step = every > 0 ? good_step / every * every : 0;
    return step > begin ? step : begin;
}

bool rewind_keeps(const Performer__Plan *plan, const struct checkpoint_state *state)
{
    if (!plan) return true;
    if (plan->first_step > 0 && state->step == plan->first_step) return true; /* of another run */
    uint64_t met = 0;
    for (size_t i = 0; i < plan->n_rewinds; i++)
        if (plan->rewinds[i]->step < state->step) met = plan->rewinds[i]->number;
    return state->rewind == met;
}

const Performer__Rewind *rewind_due(const Performer__Plan *plan,
                                    const struct checkpoint_state *state)
{
    for (size_t i = 0; plan && i < plan->n_rewinds; i++)
        if (plan->rewinds[i]->step == state->step && plan->rewinds[i]->number > state->rewind)
            return plan->rewinds[i];
    return NULL;
}

void rewind_meet(const Performer__Rewind *due, struct checkpoint_state *state)
{
    assert(due->step == state->step && due->number > state->rewind);
    state->rewind = due->number;
    state->draw = due->draw > state->draw ? due->draw : state->draw + 1;
    losses_forget(&state->losses);
}
